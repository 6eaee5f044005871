"""Guests that run on the system: a small kernel image and a stand-in for its execution."""
