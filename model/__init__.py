"""Reads the rules in `spec/` and gives them one meaning in two forms: SMT-LIB formulas and an executable model."""
