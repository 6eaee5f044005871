"""Replay of calls recorded on real Xen."""
