"""Requests of guests to XenStore that aim at each other's nodes: a pure choice, from a seed and what the tree looks like.

Guests open nodes for each other, make and remove nodes below those of others, watch above and below them, name others as
owners, and come back with an id that somebody had before. `requests.py` makes single requests on any path; here a few
guests meet on a few paths, so that what one was given is what the other tries. Not here: rings and the daemon (guests.py).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Final

from bulkhead.impl.tools.store import Node
from bulkhead.proofs.refinement.domb.messages import home
from bulkhead.proofs.refinement.domb.workload.requests import KINDS
from bulkhead.proofs.refinement.domb.world import NOBODY

BELOW: Final = ("data", "data/a", "data/a/b", "data/ab", "data/d/e", "control")
ABSENT: Final = 50  # no domain has this id
SHARED: Final = ("/tool", "/tool/a", "/tool/a/b")
OPS: Final = (
    *("set_perms",) * 5,
    *("mkdir",) * 3,
    *("write",) * 3,
    *("rm",) * 3,
    *("watch",) * 4,
    *("read",) * 3,
    "directory",
    "get_perms",
    "unwatch",
)


def path(rng: random.Random, guests: Sequence[int], nodes: Mapping[str, Node]) -> str:
    """A node of one of these guests, or one that outlives them; most of the time one that is there."""
    pool = [*SHARED, *(f"{home(g)}/{name}" for g in guests for name in BELOW)]
    there = [each for each in pool if each in nodes]
    return rng.choice(there if there and rng.random() < 0.7 else pool)


def permissions(rng: random.Random, d: int, guests: Sequence[int], node: Node | None) -> bytes:
    """A list of permissions: the owner that the node has, or another one, and entries for the others."""
    x = rng.random()
    owner = d if node is None or x < 0.15 else rng.choice((*guests, 0, NOBODY, ABSENT)) if x < 0.3 else node.owner
    entries = [(rng.choice("nnrwb"), owner)]
    entries += [(rng.choice("rwbbn"), rng.choice(guests)) for _ in range(rng.choice((0, 1, 1, 2, 3)))]
    return b"".join(f"{letter}{who}\0".encode() for letter, who in entries)


def between_neighbours(rng: random.Random, d: int, guests: Sequence[int], nodes: Mapping[str, Node]) -> tuple[int, bytes]:
    """A request of a guest, of a kind that the connected `guests` can make to each other."""
    op, at = rng.choice(OPS), path(rng, guests, nodes)
    opened = nodes["/"].grants[0].letter in "wb"
    if op == "rm" and rng.random() < (0.5 if opened else 0.1):
        at = "/"  # which stays, even where a tool has opened it to all
    raw = at.encode() + b"\0"
    if op == "set_perms":
        return KINDS[op], raw + permissions(rng, d, guests, nodes.get(at))
    if op == "write":
        return KINDS[op], raw + rng.choice((b"", b"1", b"22"))
    if op in ("watch", "unwatch"):
        above = at.rpartition("/")[0]
        return KINDS[op], rng.choice((raw, raw, above.encode() + b"\0" if above else raw)) + b"q\0"
    return KINDS[op], raw


__all__ = ["between_neighbours"]
