"""PV memory management hypercalls: mmu_update, mmuext_op, update_va_mapping with foreign owners.

What lives here: who may name which owner, and what a request does to page tables and TLBs. What does not: the
check of a single entry (pagetables.py). Source: Xen arch/x86/mm.c do_mmu_update, do_mmuext_op,
do_update_va_mapping, get_pg_owner.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from bulkhead.impl.xen.abi import (
    DOMID_IO,
    DOMID_SELF,
    DOMID_XEN,
    EACCES,
    EINVAL,
    ENOENT,
    ENOSYS,
    EOPNOTSUPP,
    EPERM,
    ESRCH,
    MMU_MACHPHYS_UPDATE,
    MMU_NORMAL_PT_UPDATE,
    MMU_PT_UPDATE_NO_TRANSLATE,
    MMU_PT_UPDATE_PRESERVE_AD,
    MMUEXT_CLEAR_PAGE,
    MMUEXT_COPY_PAGE,
    MMUEXT_FLUSH_CACHE,
    MMUEXT_INVLPG_ALL,
    MMUEXT_INVLPG_LOCAL,
    MMUEXT_INVLPG_MULTI,
    MMUEXT_NEW_BASEPTR,
    MMUEXT_NEW_USER_BASEPTR,
    MMUEXT_PIN_L1_TABLE,
    MMUEXT_PIN_L4_TABLE,
    MMUEXT_SET_LDT,
    MMUEXT_TLB_FLUSH_ALL,
    MMUEXT_TLB_FLUSH_LOCAL,
    MMUEXT_TLB_FLUSH_MULTI,
    MMUEXT_UNPIN_TABLE,
    PAGE_SIZE,
)
from bulkhead.impl.xen.frames import PGT_L4, PGT_WRITABLE, Frame
from bulkhead.impl.xen.p2m import RAM_TYPES
from bulkhead.impl.xen.pagetables import (
    PTE_A,
    PTE_D,
    PTE_MFN,
    PTE_P,
    XEN_L4_SLOTS,
    entry_get,
    entry_put,
    find_l1,
    get_page_type,
    get_table,
    is_table,
    put_page_type,
    put_table,
    read_pte,
    write_pte,
)

if TYPE_CHECKING:
    from bulkhead.impl.xen.domains import Domain, VCpu
    from bulkhead.impl.xen.machine import Xen


def get_pg_owner(xen: Xen, vcpu: VCpu, domid: int) -> Domain | None:
    """The frame owner a caller names; its own numeric id is refused, as is an unknown one."""
    if domid == DOMID_SELF:
        return vcpu.domain
    if domid == vcpu.domain.domid:
        return None
    if domid == DOMID_IO:
        return xen.dom_io
    if domid == DOMID_XEN:
        return xen.dom_xen
    return xen.domains.get(domid)


def owners(xen: Xen, vcpu: VCpu, foreigndom: int) -> tuple[int, Domain, Domain]:
    """(0 or -errno, page-table owner, frame owner) of the foreigndom word of mmu_update."""
    caller = vcpu.domain
    pt_owner = caller
    high = (foreigndom >> 16) & 0xFFFF
    if high:
        found = xen.domains.get(high - 1) if high - 1 != caller.domid else caller
        if found is None:
            return -ESRCH, caller, caller
        if found.external or not found.vcpus:
            return -EINVAL, caller, caller
        pt_owner = found
    pg_owner = get_pg_owner(xen, vcpu, foreigndom & 0xFFFF)
    if pg_owner is None:
        return -ESRCH, caller, caller
    return 0, pt_owner, pg_owner


def check_owners(xen: Xen, caller: Domain, pt_owner: Domain, pg_owner: Domain) -> int:
    """The mmu_update hook: frame owner unless it is dom_io, then the page-table owner if foreign."""
    if pg_owner is not xen.dom_io:
        rc = xen.xsm.target("mmu_update", caller, pg_owner)
        if rc:
            return rc
    return xen.xsm.target("mmu_update", caller, pt_owner) if pt_owner is not caller else 0


def update_entry(
    xen: Xen, caller: Domain, pt_owner: Domain, pg_owner: Domain, table: Frame, index: int, pte: int,
    preserve_ad: bool = False,
) -> int:
    """Change one entry of a live table after checking it; 0 or -errno (mod_l1_entry to mod_l4_entry)."""
    level = table.ptype
    old = read_pte(table, index)
    if level == PGT_L4 and index in XEN_L4_SLOTS:
        return -EINVAL
    if level > 1 and pg_owner is not pt_owner and pte & PTE_P:
        return -EPERM
    if preserve_ad and old & PTE_P and old & PTE_MFN == pte & PTE_MFN:
        pte |= old & (PTE_A | PTE_D)
    rc = entry_get(xen, pte, pt_owner, pg_owner, level, caller)
    if rc:
        return rc
    write_pte(table, index, pte)
    entry_put(xen, old, pt_owner, level)
    return 0


def mmu_update_one(
    xen: Xen, caller: Domain, pt_owner: Domain, pg_owner: Domain, ptr: int, val: int
) -> int:
    """One request of a batch; 0 or -errno."""
    cmd = ptr & 3
    frame = xen.frames.get(ptr >> 12)
    if cmd == MMU_MACHPHYS_UPDATE:
        if pt_owner is not caller or frame is None or frame.owner is not pg_owner:
            return -EINVAL
        frame.m2p = val
        return 0
    if pt_owner.external:
        return -EOPNOTSUPP
    if frame is None or frame.owner is not pt_owner or frame.count == 0:
        return -EINVAL
    if cmd not in (MMU_NORMAL_PT_UPDATE, MMU_PT_UPDATE_PRESERVE_AD, MMU_PT_UPDATE_NO_TRANSLATE):
        return -ENOSYS
    index = (ptr & 0xFFF) >> 3
    if is_table(frame.ptype) and frame.tcount:
        if frame.ptype == 1 and pg_owner.p2m is not None and cmd != MMU_PT_UPDATE_NO_TRANSLATE and val & PTE_P:
            target, ptype = pg_owner.p2m.lookup((val & PTE_MFN) >> 12)
            if target is None or ptype not in RAM_TYPES:
                return -ENOENT if target is None else -EINVAL
            val = (val & ~PTE_MFN) | (target.mfn << 12)
        return update_entry(xen, caller, pt_owner, pg_owner, frame, index, val, cmd == MMU_PT_UPDATE_PRESERVE_AD)
    if get_page_type(xen, frame, PGT_WRITABLE):
        return -EINVAL
    write_pte(frame, index, val)
    put_page_type(xen, frame)
    return 0


def update_va_mapping(
    xen: Xen, vcpu: VCpu, addr: int, val: int, flags: int, domid: int | None = None
) -> Generator[str, None, int]:
    """Change the caller's L1 entry for a linear address, then flush as asked; 0 or -errno."""
    caller = vcpu.domain
    if caller.external:
        return -ENOSYS
    pg_owner: Domain | None = caller
    if domid is not None:
        pg_owner = get_pg_owner(xen, vcpu, domid)
        if pg_owner is None:
            return -ESRCH
    assert pg_owner is not None
    rc = xen.xsm.target("update_va_mapping", caller, pg_owner) if pg_owner is not xen.dom_io else 0
    if rc:
        return rc
    found = find_l1(xen, vcpu.cr3, addr)
    if found is None:
        return -EINVAL
    table, index = found
    if table.owner is not caller or table.ptype != 1 or not table.tcount:
        return -EINVAL
    rc = update_entry(xen, caller, caller, pg_owner, table, index, val)
    if flags & 3:
        yield "mmu.flush"
        if flags & 3 == 1 or flags & ~3 == 4:
            caller.flush_tlb()
        else:
            vcpu.tlb.invlpg(addr >> 12)
    return rc


def mmuext_op_one(
    xen: Xen, vcpu: VCpu, pg_owner: Domain, cmd: int, arg1: int, arg2: int
) -> Generator[str, None, int]:
    """One extended operation on behalf of `pg_owner`'s frames; 0 or -errno."""
    caller = vcpu.domain
    if caller.external and not (cmd <= MMUEXT_PIN_L4_TABLE or cmd == MMUEXT_UNPIN_TABLE):
        return -EOPNOTSUPP
    if MMUEXT_PIN_L1_TABLE <= cmd <= MMUEXT_PIN_L4_TABLE:
        frame = xen.frames.get(arg1)
        if frame is None:
            return -EINVAL
        rc = get_table(xen, frame, pg_owner, cmd + 1)
        if rc:
            return rc
        if frame.pinned:
            put_table(xen, frame)
            return -EINVAL
        frame.pinned = True
        pg_owner.flush_tlb()
        return 0
    if cmd == MMUEXT_UNPIN_TABLE:
        frame = xen.frames.get(arg1)
        if frame is None or frame.owner is not pg_owner or not frame.pinned:
            return -EINVAL
        frame.pinned = False
        pg_owner.flush_tlb()
        put_table(xen, frame)
        return 0
    if cmd in (MMUEXT_NEW_BASEPTR, MMUEXT_NEW_USER_BASEPTR):
        return (yield from _new_root(xen, vcpu, cmd, arg1)) if pg_owner is caller else -EPERM
    if cmd in (MMUEXT_CLEAR_PAGE, MMUEXT_COPY_PAGE):
        return _clear_or_copy(xen, pg_owner, cmd, arg1, arg2)
    if pg_owner is not caller:
        return -EPERM
    if cmd == MMUEXT_TLB_FLUSH_LOCAL:
        xen.frames.stamp += 1
        vcpu.tlb.flush(xen.frames.stamp)
        return 0
    if cmd in (MMUEXT_TLB_FLUSH_MULTI, MMUEXT_TLB_FLUSH_ALL):
        yield "mmu.flush"
        caller.flush_tlb()
        return 0
    if cmd == MMUEXT_INVLPG_LOCAL:
        vcpu.tlb.invlpg(arg1 >> 12)
        return 0
    if cmd in (MMUEXT_INVLPG_MULTI, MMUEXT_INVLPG_ALL):
        for each in caller.vcpus:
            each.tlb.invlpg(arg1 >> 12)
        return 0
    if cmd == MMUEXT_FLUSH_CACHE:
        return 0 if caller.iomem else -EACCES
    if cmd == MMUEXT_SET_LDT:
        return 0 if arg2 == 0 else -EINVAL
    return -ENOSYS


def _new_root(xen: Xen, vcpu: VCpu, cmd: int, mfn: int) -> Generator[str, None, int]:
    user = cmd == MMUEXT_NEW_USER_BASEPTR
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
    if cmd == MMUEXT_COPY_PAGE:
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
    return 0

