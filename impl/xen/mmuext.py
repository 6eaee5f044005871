"""mmuext_op: the extended operations on PV page tables, roots, TLBs and whole pages.

Contents: the effect of one operation on behalf of an owner's frames. Not here: which owner a caller may name and
updates of single entries (mmu.py), batches and argument bytes (hypercall_mmu.py). Source: Xen arch/x86/mm.c
do_mmuext_op.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.abi import EACCES, EINVAL, ENOSYS, EOPNOTSUPP, EPERM, PAGE_SIZE
from bulkhead.impl.xen.frames import PGT_L4, PGT_WRITABLE, Frame
from bulkhead.impl.xen.mmu import flush_vcpus, named_vcpus
from bulkhead.impl.xen.pagetables import addr_ok, get_page_type, get_table, put_page_type, put_table

if TYPE_CHECKING:
    from bulkhead.impl.xen.domains import Domain, VCpu
    from bulkhead.impl.xen.machine import Xen

MAX_LDT_ENTRIES = 8192
PINS = range(abi.MMUEXT_PIN_L1_TABLE, abi.MMUEXT_PIN_L4_TABLE + 1)
# Commands that concern the caller's own vCPUs, so that no other owner of frames may be named.
OF_THE_CALLER = frozenset(
    {
        abi.MMUEXT_TLB_FLUSH_LOCAL,
        abi.MMUEXT_INVLPG_LOCAL,
        abi.MMUEXT_TLB_FLUSH_MULTI,
        abi.MMUEXT_INVLPG_MULTI,
        abi.MMUEXT_TLB_FLUSH_ALL,
        abi.MMUEXT_INVLPG_ALL,
        abi.MMUEXT_FLUSH_CACHE,
        abi.MMUEXT_FLUSH_CACHE_GLOBAL,
        abi.MMUEXT_SET_LDT,
        abi.MMUEXT_NEW_BASEPTR,
        abi.MMUEXT_NEW_USER_BASEPTR,
    }
)


def mmuext_op_one(xen: Xen, vcpu: VCpu, pg_owner: Domain, cmd: int, arg1: int, arg2: int) -> Generator[str, None, int]:
    """One extended operation on behalf of `pg_owner`'s frames; 0 or -errno."""
    if vcpu.domain.external and not (cmd in PINS or cmd == abi.MMUEXT_UNPIN_TABLE):
        return -EOPNOTSUPP
    if cmd in OF_THE_CALLER:
        return (yield from _of_the_caller(xen, vcpu, cmd, arg1, arg2)) if pg_owner is vcpu.domain else -EPERM
    if cmd in PINS:
        return _pin(xen, pg_owner, arg1, cmd - abi.MMUEXT_PIN_L1_TABLE + 1)
    if cmd == abi.MMUEXT_UNPIN_TABLE:
        return _unpin(xen, pg_owner, arg1)
    if cmd in (abi.MMUEXT_CLEAR_PAGE, abi.MMUEXT_COPY_PAGE):
        return _clear_or_copy(xen, pg_owner, cmd, arg1, arg2)
    return -EOPNOTSUPP if cmd in (abi.MMUEXT_MARK_SUPER, abi.MMUEXT_UNMARK_SUPER) else -ENOSYS


def _pin(xen: Xen, pg_owner: Domain, mfn: int, level: int) -> int:
    """Hold a page table's type while nothing uses it; a table is pinned once."""
    frame = xen.frames.get(mfn)
    if frame is None:
        return -EINVAL
    rc = get_table(xen, frame, pg_owner, level)
    if rc:
        return rc
    if frame.pinned:
        put_table(xen, frame)
        return -EINVAL
    frame.pinned = True
    pg_owner.flush_tlb()
    return 0


def _unpin(xen: Xen, pg_owner: Domain, mfn: int) -> int:
    frame = xen.frames.get(mfn)
    if frame is None or frame.owner is not pg_owner or not frame.pinned:
        return -EINVAL
    frame.pinned = False
    pg_owner.flush_tlb()
    put_table(xen, frame)
    return 0


def _of_the_caller(xen: Xen, vcpu: VCpu, cmd: int, arg1: int, arg2: int) -> Generator[str, None, int]:
    """A command that concerns the caller's own vCPUs: their roots, TLBs, caches or LDT."""
    caller = vcpu.domain
    if cmd in (abi.MMUEXT_NEW_BASEPTR, abi.MMUEXT_NEW_USER_BASEPTR):
        return (yield from _new_root(xen, vcpu, cmd, arg1))
    if cmd == abi.MMUEXT_SET_LDT:
        return _set_ldt(arg1, arg2 & 0xFFFFFFFF)
    if cmd in (abi.MMUEXT_FLUSH_CACHE, abi.MMUEXT_FLUSH_CACHE_GLOBAL):
        if caller.toolstack.has_devices():
            return 0
        return -EACCES if cmd == abi.MMUEXT_FLUSH_CACHE else -EINVAL
    if cmd == abi.MMUEXT_TLB_FLUSH_LOCAL:
        flush_vcpus(xen, caller, [vcpu], None)
        return 0
    if cmd == abi.MMUEXT_INVLPG_LOCAL:
        vcpu.tlb.invlpg(arg1 >> 12)
        return 0
    named = cmd in (abi.MMUEXT_TLB_FLUSH_MULTI, abi.MMUEXT_INVLPG_MULTI)
    chosen = named_vcpus(xen, vcpu, arg2) if named else caller.vcpus
    if chosen is None:
        return -EINVAL
    yield "mmu.flush"
    flush_vcpus(xen, caller, chosen, arg1 if cmd in (abi.MMUEXT_INVLPG_MULTI, abi.MMUEXT_INVLPG_ALL) else None)
    return 0


def _set_ldt(addr: int, entries: int) -> int:
    """Checks of an LDT: its place and its length in entries. No segment of it is ever used here."""
    if entries > MAX_LDT_ENTRIES or (entries and (addr & 0xFFF or not addr_ok(addr))):
        return -EINVAL
    return 0


def _new_root(xen: Xen, vcpu: VCpu, cmd: int, mfn: int) -> Generator[str, None, int]:
    user = cmd == abi.MMUEXT_NEW_USER_BASEPTR
    old = vcpu.user_cr3 if user else vcpu.cr3
    new: Frame | None = None
    if mfn or not user:
        new = xen.frames.get(mfn)
        if new is None:
            return -EINVAL
        if new is old:
            return 0
        rc = get_table(xen, new, vcpu.domain, PGT_L4)
        if rc:
            return rc
    if user:
        vcpu.user_cr3 = new
    else:
        vcpu.cr3 = new
    yield "mmu.flush"
    xen.frames.stamp += 1
    vcpu.tlb.flush(xen.frames.stamp)
    if old is not None:
        put_table(xen, old)
    return 0


def _clear_or_copy(xen: Xen, pg_owner: Domain, cmd: int, arg1: int, arg2: int) -> int:
    dst = xen.frames.get(arg1)
    if dst is None or dst.owner is not pg_owner or dst.count == 0:
        return -EINVAL
    source: Frame | None = None
    if cmd == abi.MMUEXT_COPY_PAGE:
        source = xen.frames.get(arg2)
        if source is None or source.owner is not pg_owner or source.count == 0:
            return -EINVAL
    if get_page_type(xen, dst, PGT_WRITABLE):
        return -EINVAL
    if source is None or source.data is None:
        dst.bytes()[:] = bytes(PAGE_SIZE)
    else:
        dst.bytes()[:] = source.data
    pg_owner.mark_dirty(dst.mfn)
    put_page_type(xen, dst)
    if source is not None and xen.trace is not None:
        xen.trace("copy_page", source.mfn, 0, dst.mfn, 0, PAGE_SIZE)
    return 0
