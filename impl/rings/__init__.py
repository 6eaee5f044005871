"""Shared rings: two domains exchange bytes through a page."""
