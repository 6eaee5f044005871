"""The link between rules and implementation: both take every step, and their answers and states are compared."""
