"""PV memory management hypercalls: mmu_update and update_va_mapping with foreign owners.

Contents: which owners a caller may name, and the effect of a request on page tables and TLBs. Not here: the
check of a single entry (pagetables.py) and extended operations (mmuext.py). Source: Xen arch/x86/mm.c do_mmu_update,
do_update_va_mapping, get_pg_owner.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from bulkhead.impl.xen.abi import (
    DOMID_IO,
    DOMID_SELF,
    DOMID_XEN,
    EFAULT,
    EINVAL,
    ENOSYS,
    EOPNOTSUPP,
    EPERM,
    ESRCH,
    MMU_MACHPHYS_UPDATE,
    MMU_NORMAL_PT_UPDATE,
    MMU_PT_UPDATE_NO_TRANSLATE,
    MMU_PT_UPDATE_PRESERVE_AD,
    U64,
    UVMF_ALL,
    UVMF_FLUSHTYPE_MASK,
    UVMF_INVLPG,
    UVMF_TLB_FLUSH,
)
from bulkhead.impl.xen.frames import PGT_L1, PGT_L4, PGT_WRITABLE, Frame
from bulkhead.impl.xen.guest_access import read
from bulkhead.impl.xen.p2m import FOREIGN
from bulkhead.impl.xen.pagetables import (
    L1_DISALLOW,
    PTE_A,
    PTE_D,
    PTE_MFN,
    PTE_P,
    UPPER_DISALLOW,
    XEN_L4_SLOTS,
    adjust_entry,
    entry_get,
    entry_put,
    find_l1,
    get_page_type,
    is_table,
    put_page_type,
    read_pte,
    same_mapping,
    write_pte,
)

if TYPE_CHECKING:
    from bulkhead.impl.xen.domains import Domain, VCpu
    from bulkhead.impl.xen.machine import Xen


def get_pg_owner(xen: Xen, vcpu: VCpu, domid: int) -> Domain | None:
    """The frame owner that a caller names; an unknown id and the caller's own numeric id are refused."""
    if domid == DOMID_SELF:
        return vcpu.domain
    if domid == vcpu.domain.domid:
        return None
    if domid == DOMID_IO:
        return xen.dom_io
    if domid == DOMID_XEN:
        return xen.dom_xen
    return xen.domains.get(domid)


def table_owner(xen: Xen, vcpu: VCpu, foreigndom: int) -> Domain | int:
    """The owner of the page tables that mmu_update's foreigndom word names; -ESRCH if there is none."""
    caller = vcpu.domain
    high = (foreigndom >> 16) & 0xFFFF
    if not high or high - 1 == caller.domid:
        return caller
    found = xen.domains.get(high - 1)
    return -ESRCH if found is None else found


def owners(xen: Xen, vcpu: VCpu, pt_owner: Domain, foreigndom: int) -> Domain | int:
    """The owner of the frames that the word names; -errno if there is none, or the page tables' owner has no vCPU."""
    if pt_owner is not vcpu.domain and not pt_owner.vcpus:
        return -EINVAL
    pg_owner = get_pg_owner(xen, vcpu, foreigndom & 0xFFFF)
    return -ESRCH if pg_owner is None else pg_owner


def check_owners(xen: Xen, caller: Domain, pt_owner: Domain, pg_owner: Domain) -> int:
    """The mmu_update hook: frame owner unless it is dom_io, then the page-table owner if foreign."""
    if pg_owner is not xen.dom_io:
        rc = xen.xsm.target("mmu_update", caller, pg_owner)
        if rc:
            return rc
    return xen.xsm.target("mmu_update", caller, pt_owner) if pt_owner is not caller else 0


def update_entry(
    xen: Xen,
    pt_owner: Domain,
    pg_owner: Domain,
    table: Frame,
    index: int,
    pte: int,
    cmd: int = MMU_NORMAL_PT_UPDATE,
) -> int:
    """Check and change one entry of a live table; 0 or -errno (mod_l1_entry to mod_l4_entry)."""
    level = table.ptype
    old = read_pte(table, index)
    if level > PGT_L1 and pg_owner is not pt_owner:
        return -EINVAL
    if level == PGT_L4 and index in XEN_L4_SLOTS:
        return -EINVAL
    if pte & PTE_P:
        if pte & (L1_DISALLOW if level == PGT_L1 else UPPER_DISALLOW):
            return -EINVAL
        if level == PGT_L1 and pg_owner.p2m is not None and cmd != MMU_PT_UPDATE_NO_TRANSLATE:
            target, ptype = pg_owner.p2m.lookup((pte & PTE_MFN) >> 12)
            if target is None or (ptype != FOREIGN and pg_owner.p2m.own((pte & PTE_MFN) >> 12, pg_owner) is None):
                return -EINVAL
            pte = (pte & ~PTE_MFN) | (target.mfn << 12)
    kept = old & (PTE_A | PTE_D) if cmd == MMU_PT_UPDATE_PRESERVE_AD else 0
    if pte & PTE_P and same_mapping(old, pte):
        write_pte(table, index, adjust_entry(pte, level) | kept)
        return 0
    rc = entry_get(xen, pte, pt_owner, pg_owner, level, table)
    if rc:
        return rc
    write_pte(table, index, adjust_entry(pte, level) | kept)
    entry_put(xen, old, pt_owner, level, table)
    return 0


def mmu_update_one(xen: Xen, caller: Domain, pt_owner: Domain, pg_owner: Domain, ptr: int, val: int) -> int:
    """One request of a batch; 0 or -errno."""
    cmd = ptr & 7
    if cmd == MMU_MACHPHYS_UPDATE:
        if pt_owner is not caller:
            return -EPERM
        if pg_owner.external:
            return -EINVAL
    elif cmd not in (MMU_NORMAL_PT_UPDATE, MMU_PT_UPDATE_PRESERVE_AD, MMU_PT_UPDATE_NO_TRANSLATE):
        return -ENOSYS
    elif pt_owner.external:
        return -EOPNOTSUPP
    rc = check_owners(xen, caller, pt_owner, pg_owner)
    if rc:
        return rc
    frame = xen.frames.get(ptr >> 12)
    if cmd == MMU_MACHPHYS_UPDATE:
        if frame is None or frame.owner is not pg_owner or frame.count == 0:
            return -EINVAL
        frame.m2p = val
        return 0
    if frame is None or frame.owner is not pt_owner or frame.count == 0:
        return -EINVAL
    index = (ptr & 0xFFF) >> 3
    if is_table(frame.ptype) and frame.tcount:
        return update_entry(xen, pt_owner, pg_owner, frame, index, val, cmd)
    if get_page_type(xen, frame, PGT_WRITABLE):  # a page of descriptors
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
    rc = xen.xsm.target("update_va_mapping", caller, pg_owner)
    if rc:
        return rc
    found = find_l1(xen, vcpu.cr3, addr)
    if found is None:
        return -EINVAL
    table, index = found
    if table.owner is not caller or table.ptype != 1 or not table.tcount:
        return -EINVAL
    rc = update_entry(xen, caller, pg_owner, table, index, val)
    if rc or flags & UVMF_FLUSHTYPE_MASK not in (UVMF_TLB_FLUSH, UVMF_INVLPG):
        return rc
    yield "mmu.flush"
    chosen: list[VCpu] | None = [vcpu]
    where = flags & ~UVMF_FLUSHTYPE_MASK
    if where:
        chosen = caller.vcpus if where == UVMF_ALL else named_vcpus(xen, vcpu, where)
    if chosen is None:
        return -EFAULT  # the entry stays changed
    flush_vcpus(xen, caller, chosen, addr if flags & UVMF_FLUSHTYPE_MASK == UVMF_INVLPG else None)
    return 0


def named_vcpus(xen: Xen, vcpu: VCpu, bitmap: int) -> list[VCpu] | None:
    """The caller's vCPUs that a bitmap in its memory names, 64-bit words (vcpumask_to_pcpumask); None on a fault."""
    chosen: list[VCpu] = []
    every = vcpu.domain.vcpus
    for first in range(0, len(every), 64):
        raw = read(xen, vcpu, (bitmap + first // 8) & ((1 << 64) - 1), 8)
        if raw is None:
            return None
        word = U64.unpack(raw)[0]
        chosen.extend(each for i, each in enumerate(every[first : first + 64]) if word >> i & 1)
    return chosen


def flush_vcpus(xen: Xen, domain: Domain, chosen: list[VCpu], addr: int | None) -> None:
    """Flush one page, or everything, of some vCPUs of a domain."""
    if addr is None and chosen == domain.vcpus:
        domain.flush_tlb()
        return
    for each in chosen:
        if addr is not None:
            each.tlb.invlpg(addr >> 12)
        else:
            xen.frames.stamp += 1
            each.tlb.flush(xen.frames.stamp)
