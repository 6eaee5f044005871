"""Attacks on the shipped systems with their faults, as the search found them, and how they are stored."""
