"""Fills the cache at set-up: the parser's tables and the syntax trees of the shipped rules.

`python -m bulkhead.model.set_up`. Optional: otherwise the first run fills the cache.
"""

from __future__ import annotations

from bulkhead.model import cache
from bulkhead.model.library import load_library
from bulkhead.model.parser import prepare


def set_up() -> None:
    """Generate the tables for this Python environment and the trees for this user."""
    cache.of_environment().mkdir(parents=True, exist_ok=True)
    prepare()
    load_library()


if __name__ == "__main__":
    set_up()
