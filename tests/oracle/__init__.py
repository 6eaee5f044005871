"""An independent interpreter of the rules language, written from its reference, and the comparison with it."""
