"""The rules, in Bulkhead's own language, and its grammar. Text to read; no Python but what finds it."""
