"""Seeded random calls for real Xen, family by family."""
