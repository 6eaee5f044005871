"""Symbolic runs of DomB's handlers, along all their paths."""
