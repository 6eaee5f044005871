"""DomB's own handlers along all their paths."""
