"""Host mappings of granted frames: PV page-table entries and HVM p2m entries that Xen writes itself.

Entries written here skip the check of guest entries: the grant operation has taken the references.
Not here: those references and the pin counts (grant_map.py, grant_unmap.py).
Sources: Xen arch/x86/pv/grant_table.c (create_grant_pv_mapping, replace_grant_pv_mapping,
steal_linear_address), arch/x86/hvm/grant_table.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bulkhead.impl.xen.abi import (
    GNTMAP_APPLICATION_MAP,
    GNTMAP_CONTAINS_PTE,
    GNTMAP_GUEST_AVAIL_SHIFT,
    GNTMAP_HOST_MAP,
    GNTMAP_READONLY,
    GNTST_GENERAL_ERROR,
    GNTST_OKAY,
)
from bulkhead.impl.xen.frames import PGT_L1, Frame
from bulkhead.impl.xen.p2m import GFN_LIMIT, GRANT_RO, GRANT_RW, GRANT_TYPES, RAM_RW, SPECIAL_TYPES
from bulkhead.impl.xen.pagetables import (
    PTE_A,
    PTE_D,
    PTE_MFN,
    PTE_NX,
    PTE_P,
    PTE_RW,
    PTE_USER,
    adjust_entry,
    find_l1,
    put_page_from_l1e,
    read_pte,
    write_pte,
)

if TYPE_CHECKING:
    from bulkhead.impl.xen.domains import VCpu
    from bulkhead.impl.xen.machine import Xen


def host_needs_type(readonly: bool, mapper_is_granter: bool, granter_external: bool) -> bool:
    """Does a host mapping take a writable type reference (gnttab_host_mapping_get_page_type)?"""
    return not readonly and (mapper_is_granter or not granter_external)


def _locate(xen: Xen, vcpu: VCpu, addr: int, contains_pte: bool) -> tuple[Frame, int] | None:
    """The L1 table and index that `addr` names; None unless it is a live L1 table of the mapper."""
    if contains_pte:
        if addr & 7:
            return None
        frame = xen.frames.get(addr >> 12)
        if frame is None:
            return None
        found = (frame, (addr & 0xFFF) >> 3)
    else:
        located = find_l1(xen, vcpu.cr3, addr)
        if located is None:
            return None
        found = located
        frame = found[0]
    if frame.owner is not vcpu.domain or frame.tcount == 0 or frame.ptype != PGT_L1 or not frame.validated:
        return None
    return found


def create_mapping(xen: Xen, vcpu: VCpu, addr: int, frame: Frame, flags: int) -> int:
    """Make the host mapping of a grant; GNTST_okay or GNTST_general_error."""
    if vcpu.domain.external:
        return _create_p2m(vcpu, addr, frame, flags)
    found = _locate(xen, vcpu, addr, bool(flags & GNTMAP_CONTAINS_PTE))
    if found is None:
        return GNTST_GENERAL_ERROR
    pte = (frame.mfn << 12) | PTE_P | PTE_A | PTE_D | PTE_NX
    if not flags & GNTMAP_READONLY:
        pte |= PTE_RW
    if flags & GNTMAP_APPLICATION_MAP:
        pte |= PTE_USER
    pte |= ((flags >> GNTMAP_GUEST_AVAIL_SHIFT) & 7) << 9
    old = read_pte(*found)
    write_pte(found[0], found[1], adjust_entry(pte, PGT_L1))
    if old & PTE_P:
        put_page_from_l1e(xen, old, vcpu.domain)
    return GNTST_OKAY


def replace_mapping(xen: Xen, vcpu: VCpu, addr: int, frame: Frame, new_addr: int, flags: int) -> int:
    """Remove the host mapping of a grant; if `new_addr` is not 0, steal its entry as the replacement.

    The entry must hold the frame with the recorded presence and writability. A stolen entry is lost (its
    references are dropped) if the replacement then fails.
    """
    if vcpu.domain.external:
        return _replace_p2m(vcpu, addr, frame, new_addr, flags)
    domain = vcpu.domain
    new = 0
    if new_addr:
        if flags & GNTMAP_CONTAINS_PTE:
            return GNTST_GENERAL_ERROR
        stolen = _locate(xen, vcpu, new_addr, False)
        if stolen is None:
            return GNTST_GENERAL_ERROR
        new = read_pte(*stolen)
        write_pte(stolen[0], stolen[1], 0)
    found = _locate(xen, vcpu, addr, bool(flags & GNTMAP_CONTAINS_PTE))
    if found is not None:
        old = read_pte(*found)
        want = PTE_P if flags & GNTMAP_READONLY else PTE_P | PTE_RW
        if (old & PTE_MFN) >> 12 == frame.mfn and old & (PTE_P | PTE_RW) == want:
            write_pte(found[0], found[1], new)
            return GNTST_OKAY
    if new:
        put_page_from_l1e(xen, new, domain)
    return GNTST_GENERAL_ERROR


def _create_p2m(vcpu: VCpu, addr: int, frame: Frame, flags: int) -> int:
    if flags & ~GNTMAP_READONLY != GNTMAP_HOST_MAP:
        return GNTST_GENERAL_ERROR
    p2m = vcpu.domain.p2m
    assert p2m is not None
    gfn = addr >> 12
    _, old_type = p2m.lookup(gfn)
    if old_type in SPECIAL_TYPES:
        vcpu.domain.crash()
        return GNTST_GENERAL_ERROR
    # A page of the guest's own loses its number but stays allocated: the frame, which its owner maps by a grant to itself,
    # even if that fails then, and what was at this number (guest_physmap_add_entry).
    if frame.owner is vcpu.domain and frame.m2p not in (-1, gfn) and p2m.lookup(frame.m2p) == (frame, RAM_RW):
        p2m.clear(frame.m2p)
    if gfn >= GFN_LIMIT or not p2m.make_tables(gfn):
        return GNTST_GENERAL_ERROR
    p2m.clear(gfn)
    p2m.set(gfn, frame, GRANT_RO if flags & GNTMAP_READONLY else GRANT_RW)
    return GNTST_OKAY


def _replace_p2m(vcpu: VCpu, addr: int, frame: Frame, new_addr: int, flags: int) -> int:
    p2m = vcpu.domain.p2m
    assert p2m is not None
    if new_addr or flags & GNTMAP_CONTAINS_PTE:
        return GNTST_GENERAL_ERROR
    gfn = addr >> 12
    old, old_type = p2m.lookup(gfn)
    if old is not frame or old_type not in GRANT_TYPES:
        return GNTST_GENERAL_ERROR
    p2m.clear(gfn)
    return GNTST_OKAY
