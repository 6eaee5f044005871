"""The log of a run: who asked whom for what."""

from __future__ import annotations

from collections.abc import Callable

Log = Callable[[str, str, str], None]


def quiet(who: str, whom: str, what: str) -> None:
    """Nobody listens."""
