"""Changes of a translated guest's p2m by memory_op: pages put at guest frames, moved, removed; foreign pages.

Contents: XENMEM_add_to_physmap, its batch, XENMEM_remove_from_physmap, and putting a page at a guest frame. Not
here: giving pages to domains and taking them back (memory_op.py). Sources: Xen common/memory.c
(xenmem_add_to_physmap_batch), arch/x86/mm/p2m.c (guest_physmap_add_entry, xenmem_add_to_physmap_one, p2m_add_foreign).
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.abi import (
    DOMID_SELF,
    EACCES,
    EBUSY,
    EDOM,
    EFAULT,
    EILSEQ,
    EINVAL,
    ENOENT,
    ENOMEM,
    ENOSYS,
    ENXIO,
    EOPNOTSUPP,
    EPERM,
    ESRCH,
    EXDEV,
    MEMOP_EXTENT_SHIFT,
    U32,
    U64,
)
from bulkhead.impl.xen.continuation import Preempted
from bulkhead.impl.xen.frames import Frame
from bulkhead.impl.xen.grant_admin import grant_frame
from bulkhead.impl.xen.guest_access import handle_okay, read, write
from bulkhead.impl.xen.p2m import FOREIGN, GFN_LIMIT, LARGE, MMIO_DIRECT, RAM_RW, RAM_TYPES, SPECIAL_TYPES

if TYPE_CHECKING:
    from bulkhead.impl.xen.domains import Domain, VCpu
    from bulkhead.impl.xen.machine import Xen

Steps = Generator[str, None, int]
INVALID_GFN = (1 << 64) - 1
PROGRESS_BITS = 16  # as their sizes have


def unhook(xen: Xen, domain: Domain, gfn: int) -> None:
    """Make a gfn a hole (guest_physmap_remove_page): RAM stays allocated, a foreign page's reference is dropped."""
    assert domain.p2m is not None
    frame, ptype = domain.p2m.lookup(gfn)
    domain.p2m.clear(gfn)
    domain.flush_tlb()
    if frame is not None and ptype == FOREIGN:
        xen.frames.put_page(frame)


def add_page(xen: Xen, domain: Domain, gfn: int, frame: Frame, ptype: int = RAM_RW) -> int:
    """Put a frame that is at no gfn at one; 0 or -errno (guest_physmap_add_entry).

    RAM that was there loses its gfn and stays allocated; a grant or foreign entry there crashes the domain.
    """
    p2m = domain.p2m
    assert p2m is not None
    if p2m.lookup(gfn)[1] in SPECIAL_TYPES:
        domain.crash()
        return -EINVAL
    if gfn < GFN_LIMIT and not p2m.make_tables(gfn):
        return -ENOMEM
    return _put(xen, domain, gfn, frame, ptype)


def _put(xen: Xen, domain: Domain, gfn: int, frame: Frame, ptype: int = RAM_RW) -> int:
    """The same, where there are tables for it."""
    assert domain.p2m is not None
    if domain.p2m.lookup(gfn)[0] is not None:
        unhook(xen, domain, gfn)
    if gfn >= GFN_LIMIT:
        return -ENOENT
    domain.p2m.set(gfn, frame, ptype)
    return 0


def add_pages(xen: Xen, domain: Domain, gfn: int, frames: list[Frame]) -> int:
    """Put an extent there; a grant or foreign entry anywhere in its range crashes the domain before anything is changed."""
    p2m = domain.p2m
    assert p2m is not None
    if any(p2m.lookup(gfn + i)[1] in SPECIAL_TYPES for i in range(len(frames))):
        domain.crash()
        return -EINVAL
    extent = 1 << LARGE
    large = len(frames) == extent and not gfn % extent and not frames[0].mfn % extent
    if large and gfn < GFN_LIMIT:
        if not p2m.make_tables(gfn, LARGE):
            return -ENOMEM
    elif any(at < GFN_LIMIT and not p2m.make_tables(at) for at in (gfn, gfn + len(frames) - 1)):
        return -ENOMEM
    for i, frame in enumerate(frames):
        rc = _put(xen, domain, gfn + i, frame)
        if rc:
            return rc
    return 0


def remove_page(xen: Xen, domain: Domain, gfn: int) -> int:
    """Give up the page at a gfn (guest_remove_page); 0 or -errno. Others' references keep it; a repeated call does nothing.

    A page of Xen's that is shared with the guest can be given up too: that drops the guest's reference, not the type's.
    """
    if domain.p2m is None:
        frame = xen.frames.get(gfn)
        if frame is None or frame.owner is not domain or frame.count == 0:
            return -ENXIO
        frame.m2p = -1
    else:
        frame, ptype = domain.p2m.lookup(gfn)
        if frame is None:
            return -ENOENT
        if ptype == MMIO_DIRECT:
            return -EPERM
        if frame.owner is not domain or frame.count == 0:
            return -ENXIO
        unhook(xen, domain, gfn)
    if frame.xenheap and frame.allocated:
        frame.given_up = True
    xen.frames.put_alloc_ref(frame)
    return 0


def _previous_goes(xen: Xen, domain: Domain, gfn: int) -> int:
    """Clear a gfn before something else is put there: Xen's pages are unmapped, RAM is given up; 0 or -errno."""
    assert domain.p2m is not None
    previous, ptype = domain.p2m.lookup(gfn)
    if ptype == MMIO_DIRECT:
        return -EPERM
    if previous is None:
        return 0
    if previous.xenheap:
        unhook(xen, domain, gfn)
        return 0
    return remove_page(xen, domain, gfn)


def add_to_physmap(xen: Xen, vcpu: VCpu, domain: Domain, space: int, idx: int, gfn: int) -> int:
    """Put a page of shared_info or of the grant table, or an own page, at a gfn; 0 or -errno."""
    assert domain.p2m is not None
    frame: Frame | None = None
    if space == abi.XENMAPSPACE_SHARED_INFO:
        frame = domain.shared_info if idx == 0 else None
    elif space == abi.XENMAPSPACE_GRANT_TABLE:
        status = bool(idx & abi.XENMAPIDX_GRANT_TABLE_STATUS)
        frame = grant_frame(domain, idx & 0x7FFFFFFF, status)  # Xen reads 32 bits of the index
    elif space == abi.XENMAPSPACE_GMFN:
        frame = domain.p2m.own(idx, domain)
    if frame is None:
        return -EINVAL
    if space == abi.XENMAPSPACE_GMFN and idx == gfn:
        return 0
    if space == abi.XENMAPSPACE_GMFN and frame.m2p != idx:
        return -EXDEV
    if space == abi.XENMAPSPACE_GRANT_TABLE and frame.count == 0:
        return -EBUSY  # the guest has given it up
    rc = _previous_goes(xen, domain, gfn)
    if rc:
        return rc
    if frame.m2p >= 0:
        unhook(xen, domain, frame.m2p)
    return add_page(xen, domain, gfn, frame)


def add_foreign(xen: Xen, vcpu: VCpu, domain: Domain, foreign: int, fgfn: int, gfn: int) -> int:
    """Map another domain's page into the translated hardware domain (p2m_add_foreign); 0 or -errno.

    Other domains are refused: Xen 4.17 does not count references of such entries well enough.
    """
    if domain is not xen.hardware_domain or foreign in (DOMID_SELF, vcpu.domain.domid):
        return -EPERM
    owner = xen.domains.get(foreign)
    if owner is None:
        return -ESRCH
    if owner is domain:
        return -EINVAL
    rc = xen.xsm.target("map_gmfn_foreign", domain, owner)
    if rc:
        return rc
    frame = xen.frames.get(fgfn) if owner.p2m is None else None
    if owner.p2m is not None:
        found, ptype = owner.p2m.lookup(fgfn)
        frame = found if ptype in RAM_TYPES else None
    if frame is None or frame.owner is not owner or frame.count == 0:
        return -EINVAL
    return set_foreign(xen, domain, gfn, frame)


def set_foreign(xen: Xen, domain: Domain, gfn: int, frame: Frame) -> int:
    """Put a foreign entry, which takes a page reference, at a gfn of a translated domain; 0 or -errno."""
    assert domain.p2m is not None
    rc = _previous_goes(xen, domain, gfn)
    if rc:
        return rc
    if gfn >= GFN_LIMIT:
        return -ENOENT
    if not domain.p2m.make_tables(gfn):
        return -ENOMEM
    frame.count += 1
    domain.p2m.set(gfn, frame, FOREIGN)
    return 0


def remove_from_physmap(xen: Xen, domain: Domain, gfn: int) -> int:
    """Make a gfn a hole: an own page stays allocated without a gfn, a foreign page's reference is dropped."""
    assert domain.p2m is not None
    if domain.p2m.own(gfn, domain) is None and domain.p2m.lookup(gfn)[1] != FOREIGN:
        return -ENOENT
    unhook(xen, domain, gfn)
    return 0


def _permission(xen: Xen, vcpu: VCpu, domain: Domain, space: int) -> int:
    if domain.p2m is None:
        return -EACCES
    if space == abi.XENMAPSPACE_DEV_MMIO and (domain is not xen.hardware_domain or domain is not vcpu.domain):
        return -EACCES
    return xen.xsm.target("add_to_physmap", vcpu.domain, domain)


def physmap_op(xen: Xen, vcpu: VCpu, op: int, start: int, arg: int) -> Steps:
    """The three operations of memory_op; `start` is the progress of a continued call."""
    if op != abi.XENMEM_REMOVE_FROM_PHYSMAP and start >> PROGRESS_BITS:
        return -EDOM
    raw = read(xen, vcpu, arg, PHYSMAP_SIZES[op])
    if raw is None:
        return -EFAULT
    domid = abi.U16.unpack_from(raw)[0]
    space = abi.U32.unpack_from(raw, 4)[0] if op == abi.XENMEM_ADD_TO_PHYSMAP else abi.U16.unpack_from(raw, 2)[0]
    if op == abi.XENMEM_ADD_TO_PHYSMAP and space == abi.XENMAPSPACE_GMFN_FOREIGN:
        return -ENOSYS
    if op == abi.XENMEM_ADD_TO_PHYSMAP_BATCH and space == abi.XENMAPSPACE_GMFN_RANGE:
        return -EOPNOTSUPP
    domain = vcpu.domain if domid == DOMID_SELF else xen.domains.get(domid)
    if domain is None:
        return -ESRCH
    if op == abi.XENMEM_REMOVE_FROM_PHYSMAP:
        if domain.p2m is None:
            return -EACCES
        rc = xen.xsm.target("remove_from_physmap", vcpu.domain, domain)
        return rc or remove_from_physmap(xen, domain, abi.REMOVE_FROM_PHYSMAP.unpack(raw)[1])
    rc = _permission(xen, vcpu, domain, space)
    if rc:
        return rc
    if op == abi.XENMEM_ADD_TO_PHYSMAP_BATCH:
        return (yield from _batch(xen, vcpu, domain, start, arg, raw))
    _, count, _, idx, gfn = abi.ADD_TO_PHYSMAP.unpack(raw)
    if gfn == INVALID_GFN:
        return -EINVAL
    if space != abi.XENMAPSPACE_GMFN_RANGE:
        return add_to_physmap(xen, vcpu, domain, space, idx, gfn)
    return (yield from _range(xen, vcpu, domain, start, arg, (count, idx, gfn)))


def _range(xen: Xen, vcpu: VCpu, domain: Domain, start: int, arg: int, area: tuple[int, int, int]) -> Steps:
    count, idx, gfn = area
    if count < start:
        return -EILSEQ
    for i in range(start, count):
        if i > start:
            if xen.preemption.wanted():
                raise Preempted(abi.XENMEM_ADD_TO_PHYSMAP | i << MEMOP_EXTENT_SHIFT, arg)
            yield "memory.preempt"
        rc = add_to_physmap(xen, vcpu, domain, abi.XENMAPSPACE_GMFN, idx + i, gfn + i)
        if rc:
            return rc
    return 0


def _batch(xen: Xen, vcpu: VCpu, domain: Domain, start: int, arg: int, raw: bytes) -> Steps:
    _, space, count, foreign, idxs, gfns, errs = abi.ADD_TO_PHYSMAP_BATCH.unpack(raw)
    if start > count or (start and start == count):
        return -EILSEQ  # larger than any continuation of this call
    if count == 0:
        return 0
    if not (handle_okay(vcpu, idxs, count, 8) and handle_okay(vcpu, gfns, count, 8) and handle_okay(vcpu, errs, count, 4)):
        return -EFAULT
    if space == abi.XENMAPSPACE_DEV_MMIO and foreign:
        return -EOPNOTSUPP
    for i in range(start, count):
        if i > start:
            if xen.preemption.wanted():
                raise Preempted(abi.XENMEM_ADD_TO_PHYSMAP_BATCH | i << MEMOP_EXTENT_SHIFT, arg)
            yield "memory.preempt"
        one, two = read(xen, vcpu, idxs + i * 8, 8), read(xen, vcpu, gfns + i * 8, 8)
        if one is None or two is None:
            return -EFAULT
        idx, gfn = U64.unpack(one)[0], U64.unpack(two)[0]
        if gfn == INVALID_GFN:
            return -EINVAL  # the rest of the list is not looked at
        if space == abi.XENMAPSPACE_GMFN_FOREIGN:
            rc = add_foreign(xen, vcpu, domain, foreign, idx, gfn)
        else:
            rc = add_to_physmap(xen, vcpu, domain, space, idx, gfn)
        if not write(xen, vcpu, errs + i * 4, U32.pack(rc & 0xFFFFFFFF)):
            return -EFAULT
    return 0


PHYSMAP_SIZES = {
    abi.XENMEM_REMOVE_FROM_PHYSMAP: abi.REMOVE_FROM_PHYSMAP.size,
    abi.XENMEM_ADD_TO_PHYSMAP: abi.ADD_TO_PHYSMAP.size,
    abi.XENMEM_ADD_TO_PHYSMAP_BATCH: abi.ADD_TO_PHYSMAP_BATCH.size,
}
