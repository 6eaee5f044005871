"""DomB, its tools and its file proxy beside their rules."""
