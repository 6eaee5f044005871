"""The flags and orders of memory reservations: which memory is requested, and how much at once.

Contents: decoding of XENMEMF_ bits and the limits of orders by the caller's class. Not here: the
operations (memory_op.py, exchange.py). Source: Xen common/memory.c construct_memop_from_reservation, propagate_node,
max_order; public/memory.h.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bulkhead.impl.xen.abi import PAGE_SHIFT

if TYPE_CHECKING:
    from bulkhead.impl.xen.domains import Domain
    from bulkhead.impl.xen.machine import Xen

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
    """A decoded request: `limit` is the frame number below which the memory must lie, None for anywhere."""

    limit: int | None
    on_demand: bool


def flags_of(xen: Xen, caller: Domain, flags: int) -> Flags | None:
    """Decode flags; None if they are invalid: memory below one page, or a node that the caller may not name.

    An address width that covers all memory is no restriction.
    """
    bits = flags & ADDRESS_BITS
    limit: int | None = None
    if bits and bits < (xen.frames.nframes - 1).bit_length() + PAGE_SHIFT:
        if bits <= PAGE_SHIFT:
            return None
        limit = 1 << (bits - PAGE_SHIFT)
    return Flags(limit, bool(flags & POPULATE_ON_DEMAND)) if flags & VNODE or may_name_node(caller, flags) else None


def may_name_node(caller: Domain, flags: int) -> bool:
    """May the caller name this node of memory (propagate_node)? A guest may not insist on one."""
    node = ((flags >> NODE_SHIFT) - 1) & 0xFF
    if node == NO_NODE:
        return True
    return node < MAX_NODES if caller.is_privileged else not flags & EXACT_NODE


def frames_below(flags: int) -> int | None:
    """The frame number below which an exchange wants its memory; 0 if the width has not even one page, None for anywhere."""
    bits = flags & ADDRESS_BITS
    return (1 << bits) >> PAGE_SHIFT if bits else None


def max_order(caller: Domain) -> int:
    """The largest extent that a caller may request at once."""
    return ORDER_CONTROL if caller.is_privileged else ORDER_DOMU
