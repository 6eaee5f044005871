"""XENMEM_exchange: trade pages for fresh ones of another size or address range, never holding fewer pages meanwhile.

Contents: the checks of both lists and the loop over chunks. Not here: stealing a page (grant_transfer.py)
and the heap (frames.py). Source: Xen common/memory.c memory_exchange.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.abi import DOMID_SELF, EFAULT, EINVAL, ENOMEM, EPERM, ESRCH, U64
from bulkhead.impl.xen.continuation import Preempted
from bulkhead.impl.xen.frames import Frame
from bulkhead.impl.xen.grant_transfer import assign_page, steal_page
from bulkhead.impl.xen.guest_access import handle_okay, read, write
from bulkhead.impl.xen.reservation_flags import frames_below, max_order, may_name_node

if TYPE_CHECKING:
    from bulkhead.impl.xen.domains import Domain, VCpu
    from bulkhead.impl.xen.machine import Xen

Steps = Generator[str, None, int]
EXCHANGE_SIZE = 72
DONE_AT = 64
U64_MASK = (1 << 64) - 1


class _Side:
    """One of the two lists: its address, number of extents and order."""

    __slots__ = ("at", "domid", "flags", "nr", "order")

    def __init__(self, raw: bytes) -> None:
        self.at, self.nr, self.order, self.flags, self.domid, _, _ = abi.MEMORY_RESERVATION.unpack(raw)


def exchange(xen: Xen, vcpu: VCpu, arg: int) -> Steps:
    """0 or -errno; the number of exchanged input extents is written back in both cases."""
    raw = read(xen, vcpu, arg, EXCHANGE_SIZE)
    if raw is None:
        return -EFAULT
    given, wanted, done = _Side(raw[:32]), _Side(raw[32:64]), U64.unpack_from(raw, DONE_AT)[0]
    rc = _refused(vcpu, given, wanted, done)
    if rc is not None:
        return rc if rc == 0 or write(xen, vcpu, arg + DONE_AT, U64.pack(done)) else -EFAULT
    if not may_name_node(vcpu.domain, wanted.flags):
        return -EINVAL
    domain = vcpu.domain if given.domid == DOMID_SELF else xen.domains.get(given.domid)
    if domain is None:
        rc = -ESRCH
    else:
        rc = xen.xsm.target("memory_exchange", vcpu.domain, domain)
    if not rc and domain is not None:
        domain.refs += 1
        try:
            done, rc = yield from _chunks(xen, vcpu, domain, (given, wanted, done, frames_below(wanted.flags)), arg)
        finally:
            domain.put()
    return rc if write(xen, vcpu, arg + DONE_AT, U64.pack(done)) else -EFAULT


def _refused(vcpu: VCpu, given: _Side, wanted: _Side, done: int) -> int | None:
    """Checks of the numbers alone: 0 (nothing left to do), -errno, or None to continue."""
    if max(given.order, wanted.order) > max_order(vcpu.domain):
        return -EPERM
    if (
        done > given.nr
        or given.domid != wanted.domid
        or (U64_MASK >> given.order) < given.nr
        or (U64_MASK >> wanted.order) < wanted.nr
        or (given.nr << given.order) & U64_MASK != (wanted.nr << wanted.order) & U64_MASK
    ):
        return -EINVAL
    if done == given.nr:
        return 0
    smaller = max(wanted.order - given.order, 0)
    larger = max(given.order - wanted.order, 0)
    first = done << larger >> smaller
    if not handle_okay(vcpu, (given.at + done * 8) & U64_MASK, given.nr - done, 8) or not handle_okay(
        vcpu, (wanted.at + first * 8) & U64_MASK, max(wanted.nr - first, 0), 8
    ):
        return -EFAULT
    return None


def _chunks(
    xen: Xen, vcpu: VCpu, domain: Domain, what: tuple[_Side, _Side, int, int | None], arg: int
) -> Generator[str, None, tuple[int, int]]:
    """(input extents done, 0 or -errno)."""
    given, wanted, done, limit = what
    per = 1 << max(wanted.order - given.order, 0)  # input extents of a chunk
    for chunk in range(done // per, given.nr // per):
        if chunk > done // per:
            if xen.preemption.wanted():
                if not write(xen, vcpu, arg + DONE_AT, U64.pack(chunk * per)):
                    return chunk * per, -EFAULT
                raise Preempted(abi.XENMEM_EXCHANGE, arg)
            yield "memory.preempt"
        rc = _one_chunk(xen, vcpu, domain, (given, wanted, chunk, limit))
        if rc:
            return chunk * per, rc
    return given.nr, 0


def _one_chunk(xen: Xen, vcpu: VCpu, domain: Domain, what: tuple[_Side, _Side, int, int | None]) -> int:
    given, wanted, chunk, limit = what
    per_in = 1 << max(wanted.order - given.order, 0)
    per_out = 1 << max(given.order - wanted.order, 0)
    stolen: list[Frame] = []
    rc = _steal(xen, vcpu, domain, given, range(chunk * per_in, (chunk + 1) * per_in), stolen)
    fresh: list[list[Frame]] = []
    while not rc and len(fresh) < per_out:
        extent = xen.alloc_extent(None, wanted.order, limit)
        if extent is None:
            rc = -ENOMEM
        else:
            fresh.append(extent)
    if rc:
        for frame in stolen:
            assign_page(domain, frame)
        for extent in fresh:
            for frame in extent:
                xen.frames.put_alloc_ref(frame)
        return rc
    # The stolen pages are freed only here, so that the allocations above cannot return them.
    for frame in stolen:
        xen.frames.put_page(frame)
    for i, extent in enumerate(fresh):
        for frame in extent:
            assign_page(domain, frame)
        at = (wanted.at + (chunk * per_out + i) * 8) & U64_MASK
        raw = read(xen, vcpu, at, 8)
        if raw is None:
            rc = -EFAULT
            continue
        for j, frame in enumerate(extent):
            frame.m2p = U64.unpack(raw)[0] + j
        if not write(xen, vcpu, at, U64.pack(extent[0].mfn)):
            rc = -EFAULT
    return rc


def _steal(xen: Xen, vcpu: VCpu, domain: Domain, given: _Side, extents: range, stolen: list[Frame]) -> int:
    for number in extents:
        raw = read(xen, vcpu, (given.at + number * 8) & U64_MASK, 8)
        if raw is None:
            return -EFAULT
        first = U64.unpack(raw)[0]
        for mfn in range(first, first + (1 << given.order)):
            frame = xen.frames.get(mfn)
            if domain.p2m is not None:
                frame = domain.p2m.lookup(mfn)[0]
            if frame is None:
                return -EINVAL
            rc = steal_page(domain, frame)
            if rc:
                return rc
            stolen.append(frame)
    return 0
