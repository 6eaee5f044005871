"""DomB: the domain builder in a small domain of its own, and the builder itself."""
