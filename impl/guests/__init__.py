"""Guests that run on the system: a small kernel image and what stands for its execution."""
