"""Compares DomB, its tools and its file proxy with their rules."""
