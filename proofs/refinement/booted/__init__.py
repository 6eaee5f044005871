"""A machine that boots, seen through its rules: a snapshot after every step that is shown, and the claims on it."""
