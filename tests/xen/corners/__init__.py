"""Rare calls, each written down, for real Xen and the implementation (`python -m tests.xen.corners`)."""
