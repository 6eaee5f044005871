"""The flags and orders of memory reservations: which memory is asked for, and how much at once.

What lives here: decoding of XENMEMF_ bits and the limits of orders by the caller's class. What does not: the
operations (memory_op.py, exchange.py). Source: Xen common/memory.c construct_memop_from_reservation, propagate_node,
max_order; public/memory.h.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from impl.xen.abi import PAGE_SHIFT

if TYPE_CHECKING:
    from impl.xen.domains import Domain
    from impl.xen.machine import Xen

ADDRESS_BITS = 0xFF
NODE_SHIFT = 8
POPULATE_ON_DEMAND = 1 << 16
EXACT_NODE = 1 << 17
VNODE = 1 << 18
NO_NODE = 0xFF
MAX_NODES = 64
ORDER_DOMU = 9
ORDER_CONTROL = 18


@dataclass(frozen=True, slots=True)
class Flags:
    """What was asked for: `limit` is the frame number below which the memory must lie, None for anywhere."""

    limit: int | None
    on_demand: bool


def flags_of(xen: Xen, caller: Domain, flags: int) -> Flags | None:
    """Decode flags; None if they ask for what cannot be: memory below one page, or a node that the caller may not name.

    An address width that covers all memory anyway is no wish.
    """
    bits = flags & ADDRESS_BITS
    limit: int | None = None
    if bits and bits < (xen.frames.nframes - 1).bit_length() + PAGE_SHIFT:
        if bits <= PAGE_SHIFT:
            return None
        limit = 1 << (bits - PAGE_SHIFT)
    node = ((flags >> NODE_SHIFT) - 1) & 0xFF
    if not flags & VNODE and node != NO_NODE:
        if caller.is_privileged:
            if node >= MAX_NODES:
                return None
        elif flags & EXACT_NODE:
            return None
    return Flags(limit, bool(flags & POPULATE_ON_DEMAND))


def max_order(caller: Domain) -> int:
    """The largest extent a caller may ask for at once."""
    return ORDER_CONTROL if caller.is_privileged else ORDER_DOMU
