"""An interpreter of the rules language, written from its reference, and the comparison of everything with it."""
