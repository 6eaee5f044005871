"""Proofs of claims, attacks, comparison with the implementation, reports, and the command line."""
