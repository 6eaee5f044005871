"""Mutation testing: random one-place faults of the hypervisor and of Dom0's drivers (`python -m tests.mutants`)."""
