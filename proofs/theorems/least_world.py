"""The smallest world of a search: grown until there is an initial state.

Initial formulas may ask for more elements than a search begins with, as three cells of a list. Growing one sort at a time
would waste the search on worlds without a single state. Not here: how worlds grow after that (`small_worlds.py`).
"""

from __future__ import annotations

from collections.abc import Container

from bulkhead.model.ir import System
from bulkhead.model.world import World
from bulkhead.proofs.theorems.grounding import Grounding

ENOUGH = (4, 8)  # elements of each sort that are tried before a world is made smaller again


def begins(system: System, sizes: dict[str, int]) -> bool:
    """Is there an initial state in a world of these sizes?"""
    grounding = Grounding(system, World(sizes, {}))
    grounding.require([c.body for c in (*system.inits, *system.axioms)])
    return grounding.possible() == "sat"


def grown(system: System, sizes: dict[str, int], fixed: Container[str] = ()) -> dict[str, int]:
    """The sizes, or, if no state is an initial one there, larger ones where one is: no sort could be smaller.

    Sorts that are `fixed` stay as they are. If nothing helps, the sizes come back as given.
    """
    if begins(system, sizes):
        return sizes
    for enough in ENOUGH:
        large = {s: n if s in fixed else max(n, enough) for s, n in sizes.items()}
        if begins(system, large):
            for sort, least in sizes.items():
                while large[sort] > least and begins(system, {**large, sort: large[sort] - 1}):
                    large[sort] -= 1
            return large
    return sizes


__all__ = ["begins", "grown"]
