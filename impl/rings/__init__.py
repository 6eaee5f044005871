"""Shared rings: bytes that two domains exchange through a page."""
