"""A second, independent encoding of the rules, which shares only the parsed tree with the first. See README.md."""
