"""The log of a run: requests from one part of the system to another."""

from __future__ import annotations

from collections.abc import Callable

Log = Callable[[str, str, str], None]


def quiet(who: str, whom: str, what: str) -> None:
    """Ignore the event: the default listener."""
