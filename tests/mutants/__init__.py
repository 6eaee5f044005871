"""Random one-place faults of the hypervisor and of Dom0's drivers: what of them is noticed (`python -m tests.mutants`)."""
