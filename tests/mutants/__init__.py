"""Mutation testing: random one-place faults of the implementation (`python -m tests.mutants --of xen`, `domb` or `libs`)."""
