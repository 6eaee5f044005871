"""What is claimed and how it is decided: engines, reports, the command line."""
