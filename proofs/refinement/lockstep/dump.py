"""The lines in which a report tells the places where rules and implementation differ.

A value may be a page or a stream of 64 KiB: then only the part where the two begin to differ is told. Not here: what
differs (abstraction.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

LONGEST: Final = 400  # characters of a value
BEFORE: Final = 100  # of them before the first difference


def dump(places: Mapping[str, tuple[object, object]]) -> Iterable[str]:
    """The lines of a report. Of long values (pages, streams), the part where they begin to differ."""
    return (f"  {place}: rules {a}, implementation {b}" for place, (a, b) in ((p, _brief(*ab)) for p, ab in places.items()))


def _brief(*values: object) -> tuple[str, ...]:
    texts = [str(v) for v in values]
    if all(len(t) <= LONGEST for t in texts):
        return tuple(texts)
    same = next((n for n, each in enumerate(zip(*texts, strict=False)) if len(set(each)) > 1), min(map(len, texts)))
    begin = max(same - BEFORE, 0)
    return tuple(
        ("" if begin == 0 else "...")
        + t[begin : begin + LONGEST]
        + ("" if begin + LONGEST >= len(t) else "...")
        + f" ({len(t):,} characters)"
        for t in texts
    )


__all__ = ["LONGEST", "dump"]
