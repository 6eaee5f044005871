"""The link between rules and implementation: after every step of the one, the other is asked for the same."""
