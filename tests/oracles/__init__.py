"""Real programs that answer the same questions as the implementation, where they are installed."""
