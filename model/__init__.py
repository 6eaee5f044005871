"""Reads the rules in `spec/` and translates them to two forms: SMT-LIB formulas and an executable model."""
