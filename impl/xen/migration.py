"""Domctls for saving a running domain: types of its pages, its written pages, and its vCPUs' state.

Contents: those domctls with decoded arguments. Not here: the migration stream, and restoring, which is
building. Sources: public/domctl.h; Xen arch/x86/domctl.c XEN_DOMCTL_getpageframeinfo3, arch/x86/mm/paging.c
(paging_domctl, paging_log_dirty_op).
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.abi import E2BIG, EFAULT, EINVAL, ENODATA, ENOMEM, EOPNOTSUPP, U64
from bulkhead.impl.xen.frames import PGT_L4
from bulkhead.impl.xen.guest_access import read, write
from bulkhead.impl.xen.p2m import RAM_TYPES

if TYPE_CHECKING:
    from bulkhead.impl.xen.domains import Domain, VCpu
    from bulkhead.impl.xen.frames import Frame
    from bulkhead.impl.xen.machine import Xen

MAX_FRAMES: Final = 1024  # of one getpageframeinfo3
PFINFO_SHIFT: Final = 28
PFINFO_PINNED: Final = 1 << 31
PFINFO_INVALID: Final = 0xF << 28
SHADOW_OFF: Final = 0
SHADOW_ENABLE_LOGDIRTY: Final = 2
SHADOW_CLEAN: Final = 11
SHADOW_PEEK: Final = 12
SHADOW_GET_ALLOCATION, SHADOW_SET_ALLOCATION = 30, 31
MB_SHIFT: Final = 8  # pages in a MiB
LOGDIRTY_FINAL: Final = 1
BITS_AT_ONCE: Final = abi.PAGE_SIZE * 8
U64_MASK: Final = (1 << 64) - 1
PAGEFRAMEINFO3: Final = Struct("<QQ")  # num array
SHADOW_OP: Final = Struct("<IIIIQQII")  # op mode mb pad dirty_bitmap pages stats.fault_count stats.dirty_count


def page_frame_info(xen: Xen, vcpu: VCpu, domain: Domain, num: int, array: int) -> int:
    """Replace each frame number in the caller's array by the type of that page of the domain; 0 or -errno."""
    if num > MAX_FRAMES:
        return -E2BIG
    for i in range(num):
        raw = read(xen, vcpu, array + i * 8, 8)
        if raw is None or not write(xen, vcpu, array + i * 8, U64.pack(_info(xen, domain, U64.unpack(raw)[0]))):
            return -EFAULT
    return 0


def _info(xen: Xen, domain: Domain, gfn: int) -> int:
    frame = _page(xen, domain, gfn)
    if frame is None or frame.xenheap:
        return PFINFO_INVALID
    level = frame.ptype if frame.tcount and frame.ptype <= PGT_L4 else 0
    return level << PFINFO_SHIFT | (PFINFO_PINNED if frame.pinned else 0)


def _page(xen: Xen, domain: Domain, gfn: int) -> Frame | None:
    if domain.p2m is None:
        frame = xen.frames.get(gfn)
        return frame if frame is not None and frame.owner is domain and frame.count else None
    found, ptype = domain.p2m.lookup(gfn)
    return found if ptype in RAM_TYPES else None


def shadow_op(xen: Xen, vcpu: VCpu, domain: Domain, arg: int, body: bytes) -> int:
    """Log-dirty mode: on, off, or read the written pages (CLEAN also clears the log, PEEK does not). 0 or -errno.

    Bit n of the bitmap stands for guest frame n; all of its `pages` bits are written.
    """
    op, mode, mb, pad, bitmap, pages, faults, dirtied = SHADOW_OP.unpack_from(body)
    if domain is vcpu.domain or not domain.vcpus:
        return -EINVAL
    if domain.is_dying:
        return 0
    if op == SHADOW_ENABLE_LOGDIRTY:
        if not domain.external and not xen.options.shadow_paging:
            return -EOPNOTSUPP
        if domain.dirty_log is not None:
            return -EINVAL
        domain.dirty_log = set()
        return 0
    if op == SHADOW_OFF:
        if domain.dirty_log is None:
            return 0 if domain.external else -EINVAL
        domain.dirty_log = None
        return 0
    if op in (SHADOW_GET_ALLOCATION, SHADOW_SET_ALLOCATION) and domain.p2m is not None:
        fits = op == SHADOW_GET_ALLOCATION or domain.p2m.resize_pool(mb << MB_SHIFT)
        mb = domain.p2m.pool + (1 << MB_SHIFT) - 1 >> MB_SHIFT
        told = SHADOW_OP.pack(op, mode, mb, pad, bitmap, pages, faults, dirtied)
        return -EFAULT if not write(xen, vcpu, arg + 16, told) else 0 if fits else -ENOMEM
    if op not in (SHADOW_CLEAN, SHADOW_PEEK) or mode & ~LOGDIRTY_FINAL:
        return -EINVAL
    names = [xen.frames.table[mfn].m2p for mfn in domain.dirty_log or () if mfn in xen.frames.table]
    dirty = {gfn for gfn in names if gfn >= 0}
    if bitmap and not _write_bits(xen, vcpu, bitmap, pages, dirty):
        return -EFAULT
    told = SHADOW_OP.pack(op, mode, mb, pad, bitmap, pages, faults, len(dirty))
    if not write(xen, vcpu, arg + 16, told):
        return -EFAULT
    if op == SHADOW_CLEAN and domain.dirty_log is not None:
        domain.dirty_log = set()
    return 0


def _write_bits(xen: Xen, vcpu: VCpu, bitmap: int, pages: int, dirty: set[int]) -> bool:
    """Write a bitmap of so many pages, piece by piece: too large a number faults early."""
    for first in range(0, pages, BITS_AT_ONCE):
        size = min(BITS_AT_ONCE, pages - first)
        bits = bytearray((size + 7) // 8)
        for gfn in dirty:
            if first <= gfn < first + size:
                bits[(gfn - first) >> 3] |= 1 << (gfn & 7)
        if not write(xen, vcpu, (bitmap + first // 8) & U64_MASK, bytes(bits)):
            return False
    return True


def get_vcpu_context(xen: Xen, caller: VCpu, domain: Domain, number: int, at: int) -> int:
    """XEN_DOMCTL_getvcpucontext: the state of a vCPU that has been set up, else -ENODATA. 0 or -errno."""
    if domain is caller.domain or number >= len(domain.vcpus):
        return -EINVAL
    context = domain.vcpus[number].context
    if context is None:
        return -ENODATA
    return 0 if write(xen, caller, at, context) else -EFAULT
