"""memory_op (hypercall 12): reservations, exchange, physmap changes, resources.

What lives here: the XENMEM_ operations that building, ballooning and foreign mapping need. Batch operations answer
with the number of extents done, not an errno. What does not: PV page tables (mmu.py). Source: Xen
common/memory.c, arch/x86/mm/p2m.c (p2m_add_foreign).
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.abi import (
    DOMID_SELF,
    EACCES,
    EFAULT,
    EILSEQ,
    EINVAL,
    EIO,
    ENOENT,
    ENOMEM,
    ENOSYS,
    ENXIO,
    EOPNOTSUPP,
    EPERM,
    ESRCH,
    MEMOP_EXTENT_SHIFT,
    U64,
)
from bulkhead.impl.xen.continuation import Preempted
from bulkhead.impl.xen.frames import Frame
from bulkhead.impl.xen.grant_admin import grant_frame
from bulkhead.impl.xen.grant_transfer import steal_page
from bulkhead.impl.xen.guest_access import read, write
from bulkhead.impl.xen.p2m import FOREIGN, MMIO_DIRECT, RAM_RW, RAM_TYPES, SPECIAL_TYPES

if TYPE_CHECKING:
    from bulkhead.impl.xen.domains import Domain, VCpu
    from bulkhead.impl.xen.machine import Xen

MAX_ORDER_DOMU = 9
MAX_ORDER_CONTROL = 18
MAX_EXTENTS = 0xFFFFFFFF >> MEMOP_EXTENT_SHIFT  # progress through more could not be told
# Operations that are never continued: progress claimed of them is refused.
WHOLE = frozenset({
    abi.XENMEM_MAXIMUM_RAM_PAGE, abi.XENMEM_CURRENT_RESERVATION, abi.XENMEM_MAXIMUM_RESERVATION, abi.XENMEM_MAXIMUM_GPFN,
    abi.XENMEM_EXCHANGE, abi.XENMEM_ADD_TO_PHYSMAP, abi.XENMEM_REMOVE_FROM_PHYSMAP, abi.XENMEM_CLAIM_PAGES,
    abi.XENMEM_ACQUIRE_RESOURCE})
Steps = Generator[str, None, int]


def populate_page(xen: Xen, domain: Domain, gfn: int | None = None) -> Frame | None:
    """Give the domain one more page (at `gfn` if translated); None if over its limit, dying or out of memory."""
    if domain.is_dying or domain.tot_pages >= domain.max_pages:
        return None
    frame = xen.alloc_frame(domain)
    if frame is not None and domain.p2m is not None and gfn is not None:
        if not add_page(xen, domain, gfn, frame, RAM_RW):
            xen.frames.put_alloc_ref(frame)
            return None
    elif frame is not None and gfn is not None:
        frame.m2p = gfn
    return frame


def add_page(xen: Xen, domain: Domain, gfn: int, frame: Frame, ptype: int) -> bool:
    """Put a frame at a gfn. RAM that was there is given up; a special entry there crashes the domain."""
    if domain.p2m is None:
        return False
    old, old_type = domain.p2m.lookup(gfn)
    if old_type in SPECIAL_TYPES:
        domain.crash()
        return False
    if old is not None:
        domain.p2m.clear(gfn)
        domain.flush_tlb()
        if not old.xenheap:
            xen.frames.put_alloc_ref(old)
    domain.p2m.set(gfn, frame, ptype)
    return True


def remove_page(xen: Xen, domain: Domain, gfn: int) -> int:
    """Give up the page at a gfn (guest_remove_page); 0 or -errno. Others' references keep it alive."""
    if domain.p2m is None:
        frame = xen.frames.get(gfn)
        if frame is None or frame.owner is not domain or frame.xenheap or not frame.allocated:
            return -ENXIO
        frame.m2p = -1
        xen.frames.put_alloc_ref(frame)
        return 0
    found, ptype = domain.p2m.lookup(gfn)
    if found is None:
        return -ENOENT
    if ptype == MMIO_DIRECT:
        return -EPERM
    if ptype not in RAM_TYPES or found.owner is not domain or found.xenheap:
        return -ENXIO
    domain.p2m.clear(gfn)
    domain.flush_tlb()
    xen.frames.put_alloc_ref(found)
    return 0


def _reservation(xen: Xen, vcpu: VCpu, cmd: int, start: int, arg: int) -> Steps:
    raw = read(xen, vcpu, arg, 32)
    if raw is None:
        return start
    extents, nr, order, _, _, domid = _res(raw)
    caller = vcpu.domain
    domain = caller if domid == DOMID_SELF else xen.domains.get(domid)
    if domain is None or start >= nr or nr > MAX_EXTENTS:
        return start
    if xen.xsm.target("memory_adjust_reservation", caller, domain):
        return start
    if order > (MAX_ORDER_CONTROL if caller.is_privileged else MAX_ORDER_DOMU):
        return start
    for i in range(start, nr):
        if i > start:
            if xen.preemption.wanted():
                raise Preempted(cmd | i << MEMOP_EXTENT_SHIFT, arg)
            yield "memory.preempt"
        at = extents + i * 8
        if cmd != abi.XENMEM_INCREASE_RESERVATION or extents:
            entry = read(xen, vcpu, at, 8)
            if entry is None:
                return i
            gfn = U64.unpack(entry)[0]
        else:
            gfn = 0
        if cmd == abi.XENMEM_DECREASE_RESERVATION:
            if any(remove_page(xen, domain, gfn + j) for j in range(1 << order)):
                return i
            continue
        if domain.p2m is not None and cmd == abi.XENMEM_INCREASE_RESERVATION:
            return i
        if domain.tot_pages + (1 << order) > domain.max_pages:
            return i
        first: Frame | None = None
        for j in range(1 << order):
            frame = populate_page(xen, domain, gfn + j if cmd == abi.XENMEM_POPULATE_PHYSMAP else None)
            if frame is None:
                return i
            first = first or frame
        report = domain.p2m is None and (extents or cmd == abi.XENMEM_POPULATE_PHYSMAP)
        if report and first is not None and not write(xen, vcpu, at, U64.pack(first.mfn)):
            return i
    return int(nr)


def _exchange(xen: Xen, vcpu: VCpu, arg: int) -> Steps:
    """Order-0 exchange of the caller's own pages for fresh ones."""
    raw = read(xen, vcpu, arg, 72)
    if raw is None:
        return -EFAULT
    in_at, in_nr, in_order, _, _, in_dom = _res(raw[:32])
    out_at, out_nr, out_order, _, _, out_dom = _res(raw[32:64])
    done = U64.unpack_from(raw, 64)[0]
    if in_dom != out_dom or in_order or out_order or in_nr != out_nr or done > in_nr:
        return -EINVAL
    domain = vcpu.domain if in_dom == DOMID_SELF else xen.domains.get(in_dom)
    if domain is None:
        return -ESRCH
    if xen.xsm.target("memory_exchange", vcpu.domain, domain):
        return -EPERM
    if domain.external:
        return -EOPNOTSUPP
    rc = 0
    while done < in_nr:
        entry = read(xen, vcpu, in_at + done * 8, 8)
        if entry is None:
            rc = -EFAULT
            break
        frame = xen.frames.get(U64.unpack(entry)[0])
        if frame is None or frame.owner is not domain:
            rc = -EINVAL
            break
        domain.refs += 1
        rc = steal_page(domain, frame)
        if rc == 0:
            # The replacement is taken first, so that the page given up cannot come straight back.
            fresh = xen.alloc_frame(domain)
            xen.frames.put_page(frame)
            if fresh is None or not write(xen, vcpu, out_at + done * 8, U64.pack(fresh.mfn)):
                rc = -ENOMEM if fresh is None else -EFAULT
        domain.put()
        if rc:
            break
        done += 1
        if done < in_nr and xen.preemption.wanted():
            if not write(xen, vcpu, arg + 64, U64.pack(done)):
                return -EFAULT
            raise Preempted(abi.XENMEM_EXCHANGE, arg)
        yield "memory.preempt"
    return rc if write(xen, vcpu, arg + 64, U64.pack(done)) else -EFAULT


def _res(raw: bytes) -> tuple[int, int, int, int, int, int]:
    extents, nr, order, flags, domid, _, _ = abi.MEMORY_RESERVATION.unpack(raw)
    return extents, nr, order, flags, 0, domid


def add_to_physmap(xen: Xen, vcpu: VCpu, domain: Domain, space: int, idx: int, gfn: int) -> int:
    """One page of shared_info or the grant table, or an own page moved, at a gfn; 0 or -errno."""
    if domain.p2m is None:
        return -EACCES
    frame: Frame | None = None
    if space == abi.XENMAPSPACE_SHARED_INFO:
        frame = domain.shared_info if idx == 0 else None
    elif space == abi.XENMAPSPACE_GRANT_TABLE:
        status = bool(idx & abi.XENMAPIDX_GRANT_TABLE_STATUS)
        frame = grant_frame(domain, idx & 0x7FFFFFFF, status)
    elif space == abi.XENMAPSPACE_GMFN:
        found, ptype = domain.p2m.lookup(idx)
        frame = found if ptype in RAM_TYPES else None
        if frame is not None:
            domain.p2m.clear(idx)
    else:
        return -ENOSYS
    if frame is None:
        return -EINVAL
    if frame.xenheap and frame.m2p >= 0:
        domain.p2m.clear(frame.m2p)
    return 0 if add_page(xen, domain, gfn, frame, RAM_RW) else -EPERM


def add_foreign(xen: Xen, vcpu: VCpu, domain: Domain, foreign: int, fgfn: int, gfn: int) -> int:
    """Map another domain's page into a translated domain (p2m_add_foreign); 0 or -errno."""
    if domain.p2m is None:
        return -EACCES
    if foreign in (DOMID_SELF, vcpu.domain.domid):
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
    if not add_page(xen, domain, gfn, frame, FOREIGN):
        return -EPERM
    frame.count += 1
    return 0


def remove_from_physmap(xen: Xen, domain: Domain, gfn: int) -> int:
    """Make a gfn a hole: RAM stays allocated but unnamed, a foreign page's reference is dropped."""
    if domain.p2m is None:
        return -EACCES
    frame, ptype = domain.p2m.lookup(gfn)
    if frame is None or (ptype not in RAM_TYPES and ptype != FOREIGN):
        return -ENOENT
    domain.p2m.clear(gfn)
    domain.flush_tlb()
    if ptype == FOREIGN:
        xen.frames.put_page(frame)
    return 0


def _acquire(xen: Xen, vcpu: VCpu, arg: int) -> int:
    raw = read(xen, vcpu, arg, 32)
    if raw is None:
        return -EFAULT
    domid, kind, rid, nr, pad, first, list_at = abi.ACQUIRE_RESOURCE.unpack(raw)
    if pad or first + nr >= 1 << 32:
        return -EINVAL
    if domid in (DOMID_SELF, vcpu.domain.domid):
        return -EPERM
    owner = xen.domains.get(domid)
    if owner is None:
        return -ESRCH
    rc = xen.xsm.dm_priv("domain_resource_map", vcpu.domain, owner)
    if rc:
        return rc
    if kind != 1 or rid > 1:
        return -EINVAL
    table = owner.grant_table
    if rid == 1 and table.version != 2:
        return -EINVAL
    if not list_at:
        if nr:
            return -EINVAL
        return 0 if write(xen, vcpu, arg + 8, abi.U32.pack(table.max_frames)) else -EFAULT
    for i in range(min(nr, table.max_frames + 1)):
        frame = grant_frame(owner, first + i, rid == 1)
        if frame is None:
            return -EINVAL
        at = list_at + i * 8
        if vcpu.domain.p2m is None:
            if not write(xen, vcpu, at, U64.pack(frame.mfn)):
                return -EFAULT
            continue
        entry = read(xen, vcpu, at, 8)
        if entry is None:
            return -EFAULT
        if not add_page(xen, vcpu.domain, U64.unpack(entry)[0], frame, FOREIGN):
            return -EIO if i else -EPERM
        frame.count += 1
    return 0


def do_memory_op(xen: Xen, vcpu: VCpu, cmd: int, arg: int, a3: int, a4: int, a5: int) -> Steps:
    """Hypercall 12; progress of a continued batch stands in the bits above the command."""
    start = (cmd & 0xFFFFFFFF) >> MEMOP_EXTENT_SHIFT
    op = cmd & abi.MEMOP_CMD_MASK
    caller = vcpu.domain
    if start and op in WHOLE:
        return -EINVAL
    if op in (abi.XENMEM_INCREASE_RESERVATION, abi.XENMEM_DECREASE_RESERVATION, abi.XENMEM_POPULATE_PHYSMAP):
        return (yield from _reservation(xen, vcpu, op, start, arg))
    if op == abi.XENMEM_EXCHANGE:
        return (yield from _exchange(xen, vcpu, arg))
    if op == abi.XENMEM_MAXIMUM_RAM_PAGE:
        return xen.frames.nframes - 1
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
    if op in (abi.XENMEM_ADD_TO_PHYSMAP, abi.XENMEM_REMOVE_FROM_PHYSMAP, abi.XENMEM_ADD_TO_PHYSMAP_BATCH):
        return (yield from _physmap(xen, vcpu, op, start, arg))
    if op == abi.XENMEM_CLAIM_PAGES:
        return _claim(xen, vcpu, arg)
    if op == abi.XENMEM_ACQUIRE_RESOURCE:
        return _acquire(xen, vcpu, arg)
    return -ENOSYS


def _claim(xen: Xen, vcpu: VCpu, arg: int) -> int:
    raw = read(xen, vcpu, arg, 32)
    if raw is None:
        return -EFAULT
    _, nr, order, _, _, domid = _res(raw)
    rc = xen.xsm.priv("claim_pages", vcpu.domain)
    if rc:
        return rc
    if order:
        return -EINVAL
    domain = vcpu.domain if domid == DOMID_SELF else xen.domains.get(domid)
    if domain is None:
        return -ESRCH
    if nr and (nr < domain.tot_pages or nr > domain.max_pages):
        return -EINVAL
    if nr and nr - domain.tot_pages > xen.frames.free_count:
        return -ENOMEM
    domain.claim = nr
    return 0


def _physmap(xen: Xen, vcpu: VCpu, op: int, start: int, arg: int) -> Steps:
    size = 16 if op == abi.XENMEM_REMOVE_FROM_PHYSMAP else 24 if op == abi.XENMEM_ADD_TO_PHYSMAP else 32
    raw = read(xen, vcpu, arg, size)
    if raw is None:
        return -EFAULT
    domid = abi.U16.unpack_from(raw)[0]
    domain = vcpu.domain if domid == DOMID_SELF else xen.domains.get(domid)
    if domain is None:
        return -ESRCH
    rc = xen.xsm.target("physmap", vcpu.domain, domain)
    if rc:
        return rc
    if op == abi.XENMEM_REMOVE_FROM_PHYSMAP:
        return remove_from_physmap(xen, domain, abi.REMOVE_FROM_PHYSMAP.unpack(raw)[2])
    if op == abi.XENMEM_ADD_TO_PHYSMAP:
        _, _, space, idx, gfn = _addto(raw)
        return add_to_physmap(xen, vcpu, domain, space, idx, gfn)
    _, space, count, foreign, idxs, gfns, errs = abi.ADD_TO_PHYSMAP_BATCH.unpack(raw)
    if start > count or (start and start == count):
        return -EILSEQ  # no continuation of this call has come so far
    for i in range(start, count):
        if i > start and xen.preemption.wanted():
            raise Preempted(op | i << MEMOP_EXTENT_SHIFT, arg)
        one, two = read(xen, vcpu, idxs + i * 8, 8), read(xen, vcpu, gfns + i * 8, 8)
        if one is None or two is None:
            return -EFAULT
        idx, gfn = U64.unpack(one)[0], U64.unpack(two)[0]
        if space == abi.XENMAPSPACE_GMFN_FOREIGN:
            rc = add_foreign(xen, vcpu, domain, foreign, idx, gfn)
        else:
            rc = add_to_physmap(xen, vcpu, domain, space, idx, gfn)
        if not write(xen, vcpu, errs + i * 4, abi.U32.pack(rc & 0xFFFFFFFF)):
            return -EFAULT
        yield "memory.preempt"
    return 0


def _addto(raw: bytes) -> tuple[int, int, int, int, int]:
    domid, size, space, idx, gfn = abi.ADD_TO_PHYSMAP.unpack(raw)
    return domid, size, space, idx, gfn
