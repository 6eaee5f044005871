"""The written calls of guests again, each behind a neighbour of itself: one number of it is one less, one more, or another.

What stands in a guest's way (limits, commands, the order of checks) differs by one number from what works. Contents: the
choice of the neighbours, from a fixed seed. Not here: calls of Dom0, which may stop the machine or itself; the control
interfaces, all of whose neighbours are made (neighbours.py).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from tests.xen.corners.grants import grants
from tests.xen.corners.left import of_guests
from tests.xen.corners.memory import exchanges, memory_maps, reservations
from tests.xen.corners.neighbours import ALIAS, beside
from tests.xen.corners.physmap import physmap
from tests.xen.corners.tables import flushes, page_types
from tests.xen.corners.vcpus import vcpus
from tests.xen.protocol import Call
from tests.xen.workload.script import MEMORY_OP, Script

GROUPS: Final[tuple[Callable[[Script], None], ...]] = (
    memory_maps, exchanges, reservations, physmap, page_types, flushes, grants, of_guests, vcpus,
)  # fmt: skip
REGISTERS: Final = ("a1", "a2", "a3", "a4", "a5")
AGAIN: Final = ("A", "B", "C")  # the guests that make these calls, new for each group


def _others(value: object) -> Iterator[int | str]:
    try:
        number = int(str(value), 0) & ((1 << 64) - 1)
    except ValueError:
        if str(value).startswith(("arg", "v.", "w.")):
            yield f"{value}+{ALIAS}"
        return
    yield from (each & ((1 << 64) - 1) for each in (number - 1, number + 1, number | 1 << 32))


def nearby(call: Call) -> list[Call]:
    """All neighbours of a hypercall: of each of its words, and of its registers."""
    args = dict(call.args)
    found = [{**args, "w": words} for words in beside(str(args.get("w", "")))]
    found += [{**args, name: other} for name in REGISTERS if name in args for other in _others(args[name])]
    return [Call(call.op, each, call.show, call.note) for each in found if not _several_pages(each)]


def _several_pages(args: Mapping[str, object]) -> bool:
    """Is memory given up in extents? Which pages lie together depends on the machine."""
    return args["nr"] == MEMORY_OP and str(args["a1"]).startswith("1") and ",16:4:0x1," in str(args.get("w", ""))


def bent(s: Script) -> None:
    """All groups again, with a neighbour before each call of a guest."""
    rng = random.Random(1)
    for group in GROUPS:
        for name in AGAIN:
            s.renew(name)
        first = len(s.calls)
        group(s)
        written, s.calls[first:] = s.calls[first:], []
        for call in written:
            if call.op == "x" and call.args.get("by") != "d0" and "nr" in call.args:
                s.calls += rng.sample(nearby(call), 1) if nearby(call) else []
            s.calls.append(call)
