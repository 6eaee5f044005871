"""A second road from rules to verdict, which shares the parsed tree with the first and nothing else. See README.md."""
