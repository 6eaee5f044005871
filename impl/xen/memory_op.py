"""memory_op (hypercall 12): reservations, claims and simple queries; dispatch to the other memory operations.

Contents: the XENMEM_ operations by which domains get and give up memory. Batch operations return the number
of extents done, not an errno. Not here: exchange (exchange.py), the p2m (physmap.py), resources (resources.py), what
is only told (memory_maps.py) and PV page tables (mmu.py). Source: Xen common/memory.c.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.abi import DOMID_SELF, EFAULT, EINVAL, ENOMEM, ENOSYS, ESRCH, MEMOP_EXTENT_SHIFT, U64
from bulkhead.impl.xen.continuation import Preempted
from bulkhead.impl.xen.exchange import exchange
from bulkhead.impl.xen.frames import Frame
from bulkhead.impl.xen.guest_access import handle_okay, read, write
from bulkhead.impl.xen.memory_maps import told_or_noted
from bulkhead.impl.xen.physmap import (
    PHYSMAP_SIZES,
    add_foreign,
    add_page,
    add_pages,
    physmap_op,
    remove_from_physmap,
    remove_page,
)
from bulkhead.impl.xen.reservation_flags import Flags, flags_of, max_order
from bulkhead.impl.xen.resources import acquire_resource

if TYPE_CHECKING:
    from bulkhead.impl.xen.domains import Domain, VCpu
    from bulkhead.impl.xen.machine import Xen

MAX_EXTENTS = 0xFFFFFFFF >> MEMOP_EXTENT_SHIFT  # the progress field holds no larger number
# Operations without continuations: they refuse claimed progress.
WHOLE = frozenset(
    {
        abi.XENMEM_MAXIMUM_RAM_PAGE,
        abi.XENMEM_CURRENT_RESERVATION,
        abi.XENMEM_MAXIMUM_RESERVATION,
        abi.XENMEM_MAXIMUM_GPFN,
        abi.XENMEM_EXCHANGE,
        abi.XENMEM_REMOVE_FROM_PHYSMAP,
        abi.XENMEM_CLAIM_PAGES,
    }
)
# What a translated guest is not told: the machine's memory.
NOT_OF_TRANSLATED = frozenset({abi.XENMEM_MACHINE_MEMORY_MAP, abi.XENMEM_MACHPHYS_MAPPING})
Steps = Generator[str, None, int]


def populate_page(
    xen: Xen, domain: Domain, gfn: int | None = None, order: int = 0, limit: int | None = None
) -> Frame | None:
    """Give the domain 2^order contiguous pages (at `gfn` if translated), below the frame number `limit`; returns the first.
    None if over its limit, dying, out of memory, or if they cannot be put at `gfn`: then they stay allocated."""
    if domain.is_dying or domain.tot_pages + (1 << order) > domain.max_pages:
        return None
    frames = xen.alloc_extent(domain, order, limit) if order else None
    if not order:
        single = xen.alloc_frame(domain, limit=limit)
        frames = None if single is None else [single]
    if frames is None:
        return None
    if gfn is not None and domain.p2m is None:
        for i, frame in enumerate(frames):
            frame.m2p = gfn + i
    elif gfn is not None and add_pages(xen, domain, gfn, frames):
        return None
    return frames[0]


def _reservation(xen: Xen, vcpu: VCpu, cmd: int, start: int, arg: int) -> Steps:
    raw = read(xen, vcpu, arg, 32)
    if raw is None:
        return start
    extents, nr, order, memflags, domid, _, _ = abi.MEMORY_RESERVATION.unpack(raw)
    caller = vcpu.domain
    if start >= nr or nr > MAX_EXTENTS:
        return start
    flags = flags_of(xen, caller, memflags)
    domain = caller if domid == DOMID_SELF else xen.domains.get(domid)
    if flags is None or domain is None or xen.xsm.target("memory_adjust_reservation", caller, domain):
        return start
    listed = cmd != abi.XENMEM_INCREASE_RESERVATION or extents != 0
    if order > max_order(caller) or (listed and not handle_okay(vcpu, extents + start * 8, nr - start, 8)):
        return start
    for i in range(start, nr):
        if i > start:
            if xen.preemption.wanted():
                raise Preempted(cmd | i << MEMOP_EXTENT_SHIFT, arg)
            yield "memory.preempt"
        at = extents + i * 8
        gfn = 0
        if cmd != abi.XENMEM_INCREASE_RESERVATION:
            entry = read(xen, vcpu, at, 8)
            if entry is None:
                return i
            gfn = U64.unpack(entry)[0]
        if cmd == abi.XENMEM_DECREASE_RESERVATION:
            if any(remove_page(xen, domain, gfn + j) for j in range(1 << order)):
                return i
        elif not _give(xen, vcpu, domain, cmd, (gfn, order, flags, at if listed else 0)):
            return i
    return int(nr)


def _give(xen: Xen, vcpu: VCpu, domain: Domain, cmd: int, what: tuple[int, int, Flags, int]) -> bool:
    """One more extent for a domain; the domain keeps it even if its number cannot be written back."""
    gfn, order, flags, at = what
    populate = cmd == abi.XENMEM_POPULATE_PHYSMAP
    if populate and flags.on_demand:
        # Nothing to record: only a translated guest could have such pages, and they are not supported.
        return domain is not vcpu.domain and not domain.external
    first = populate_page(xen, domain, gfn if populate else None, order, flags.limit)
    if first is None:
        return False
    return domain.p2m is not None or not at or write(xen, vcpu, at, U64.pack(first.mfn))


def do_memory_op(xen: Xen, vcpu: VCpu, cmd: int, arg: int, a3: int, a4: int, a5: int) -> Steps:
    """Hypercall 12; progress of a continued batch stands in the bits above the command."""
    start = cmd >> MEMOP_EXTENT_SHIFT
    op = cmd & abi.MEMOP_CMD_MASK
    caller = vcpu.domain
    if caller.external and op in NOT_OF_TRANSLATED:
        return -ENOSYS
    if start and op in WHOLE:
        return -EINVAL
    if op in (abi.XENMEM_INCREASE_RESERVATION, abi.XENMEM_DECREASE_RESERVATION, abi.XENMEM_POPULATE_PHYSMAP):
        return (yield from _reservation(xen, vcpu, op, start, arg))
    if op == abi.XENMEM_EXCHANGE:
        return (yield from exchange(xen, vcpu, arg))
    if op == abi.XENMEM_MAXIMUM_RAM_PAGE:
        return xen.frames.nframes  # one more than the last page, whatever its name says
    if op in (abi.XENMEM_CURRENT_RESERVATION, abi.XENMEM_MAXIMUM_RESERVATION, abi.XENMEM_MAXIMUM_GPFN):
        raw = read(xen, vcpu, arg, 2)
        if raw is None:
            return -EFAULT
        domid = abi.U16.unpack(raw)[0]
        domain = caller if domid == DOMID_SELF else xen.domains.get(domid)
        if domain is None:
            return -ESRCH
        rc = xen.xsm.target("memory_stat_reservation", caller, domain)
        if rc:
            return rc
        if op == abi.XENMEM_MAXIMUM_GPFN:
            return domain.p2m.max_gfn if domain.p2m is not None else domain.tot_pages
        return domain.tot_pages if op == abi.XENMEM_CURRENT_RESERVATION else domain.max_pages
    if op in PHYSMAP_SIZES:
        return (yield from physmap_op(xen, vcpu, op, start, arg))
    if op == abi.XENMEM_CLAIM_PAGES:
        return _claim(xen, vcpu, arg)
    if op == abi.XENMEM_ACQUIRE_RESOURCE:
        return (yield from acquire_resource(xen, vcpu, arg, start))
    return told_or_noted(xen, vcpu, op, start, arg)


def _claim(xen: Xen, vcpu: VCpu, arg: int) -> int:
    """Claim free memory for a domain before it is populated; 0 pages cancel the claim."""
    raw = read(xen, vcpu, arg, 32)
    if raw is None:
        return -EFAULT
    extents, nr, order, memflags, domid, _, _ = abi.MEMORY_RESERVATION.unpack(raw)
    domain = xen.domains.get(domid)
    if extents or order or memflags or domain is None:
        return -EINVAL
    rc = xen.xsm.priv("claim_pages", vcpu.domain)
    if rc:
        return rc
    if nr == 0:
        domain.set_claim(0)
        return 0
    if domain.claim or not domain.tot_pages < nr <= domain.max_pages:
        return -EINVAL
    wanted = nr - domain.tot_pages
    if wanted > xen.frames.free_count - xen.frames.claimed:
        return -ENOMEM
    domain.set_claim(wanted)
    return 0


__all__ = ["add_foreign", "add_page", "do_memory_op", "populate_page", "remove_from_physmap", "remove_page"]
