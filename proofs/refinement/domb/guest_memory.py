"""What guests do with memory: they map and copy by grant, change their own page tables, give pages back and get others.

Each hypercall of a guest runs to its end, and the rule steps of all its stages are taken behind it; `monolithic` interleaves
stages. A guest maps pages in a window of its own address space; its builder's mappings of its own pages are in no rule. Not
here: rings, grants and ports (guests.py), and which guest does what (workload/guests.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from bulkhead.impl.guests.agent import GuestFault, GuestMemory
from bulkhead.impl.xen import abi
from bulkhead.impl.xen.frames import PGT_L1, PGT_L2, PGT_L3, PGT_L4, Frame
from bulkhead.impl.xen.pagetables import PTE_A, PTE_P, PTE_RW, PTE_USER
from bulkhead.impl.xen.vcpu_context import RSI, register
from bulkhead.model.caller import OKAY
from bulkhead.proofs.refinement.calls import NOT_DONE, Answer
from bulkhead.proofs.refinement.domb.book import Book
from bulkhead.proofs.refinement.domb.follow import Follower
from bulkhead.proofs.refinement.domb.guests import FAULT, MAGIC, Guest, Guests
from bulkhead.proofs.refinement.domb.machine import error_name
from bulkhead.proofs.refinement.domb.rig import granted
from bulkhead.proofs.refinement.domb.window import SLOTS, address
from bulkhead.proofs.refinement.lockstep.rule_steps import ANY, Mismatch

AT: Final = 4080  # where a page is accessed: no ring and no start_info has anything there
INTO: Final = 1024  # where copied bytes go
GENERAL: Final = "GNTST_general_error"
ASIDE: Final = 1 << 20  # page numbers that a guest gives to pages it has got from Xen
NAMES: Final = {value: name for name, value in vars(abi).items() if name.startswith("GNTST_")}
THIS: Final = {"this": 0}
Arguments = Mapping[str, Any]


def status_name(status: int) -> str:
    """A grant status as the rules name it."""
    if not status:
        return OKAY
    first, _, rest = NAMES.get(status, str(status)).partition("_")
    return f"{first}_{rest.lower()}"


def is_table(frame: Frame | None) -> bool:
    """Does Xen use this page as a page table, so that nobody may write it?"""
    return frame is not None and frame.ptype in (PGT_L1, PGT_L2, PGT_L3, PGT_L4) and frame.tcount > 0


# Mapping by grant.


def map_grant_ref(g: Guests, who: Guest, a: Arguments) -> Answer:
    """GNTTABOP_map_grant_ref into a slot of the window: {slot, dom, ref, writable}; the answer has the handle."""
    flags = abi.GNTMAP_HOST_MAP | (0 if a["writable"] else abi.GNTMAP_READONLY)
    raw = abi.MAP_GRANT_REF.pack(address(who.domain, a["slot"]), flags, a["ref"], a["dom"], 0, 0, 0)
    granted = _granted(g, a["dom"], a["ref"])
    try:
        out = g.grant_op(who, abi.GNTTABOP_MAP_GRANT_REF, raw)
        g.flush_tlb(who)  # it may have mapped over something
    except GuestFault:
        return FAULT
    status, handle = abi.MAP_GRANT_REF.unpack(out)[4:6]
    if g.book is not None:
        _follow_map(g, g.book, who, a, status_name(status), handle, is_table(granted))
    return Answer(status_name(status), handle if not status else None)


def _granted(g: Guests, dom: int, ref: int) -> Frame | None:
    """The page that a grant names; while it is in use, the one that is."""
    return granted(g.rig, dom, ref)


def _follow_map(g: Guests, book: Book, who: Guest, a: Arguments, status: str, handle: int, table: bool) -> None:
    d = who.domid
    h = book.free("mapping.host", "mapping.device", "mapping.taken")
    args = {"caller": d, "space": d, "dom": book.domain(a["dom"]), "ref": book.ref(a["ref"]), "writable": int(a["writable"])}
    code = book.step("map_grant_ref", args | {"host": 1, "device": 0, "got_h": h, **THIS}, ANY)
    if code == OKAY and status == GENERAL and a["writable"] and table:
        book.step("map_grant_ref.insert", {"got_t": 0, "got_u": 0, **THIS}, GENERAL, GENERAL)
        return
    if code != status:
        raise Mismatch(f"map_grant_ref: the rules say {code}, Xen {status}", {"map_grant_ref: status": (code, status)})
    if status == OKAY and table and a["writable"]:
        raise Mismatch("a page table is mapped writable by grant")
    if status == OKAY:
        t = book.free_translation()
        book.step("map_grant_ref.insert", {"got_t": t, "got_u": book.free_translation(t), **THIS})
        g.handles[who.domain, handle] = h
        _fills(g, book, who, a["slot"], t)


def _fills(g: Guests, book: Book, who: Guest, slot: int, t: int | None) -> None:
    """A slot holds a translation now, or nothing; what it held is cleared."""
    old = g.slots.pop((who.domain, slot), None)
    if t is not None:
        g.slots[who.domain, slot] = t
    if old is not None:
        book.step("mmu_update_clear", {"caller": who.domid, "space": who.domid, "t": old})
        _flushed(g, book, who)


def _flushed(g: Guests, book: Book, who: Guest) -> None:
    """The guest's TLB holds nothing of its window that its page tables do not: each of its updates here flushes."""
    for slot in range(SLOTS):
        entry = who.domain.vcpus[0].tlb.entries.get(address(who.domain, slot) >> 12)
        t = g.slots.get((who.domain, slot))
        now = None if t is None else (book.T["translation.frame"][t], bool(book.T["translation.writable"][t]))
        if entry is not None and (book.frame(entry[0].mfn), entry[1]) != now:
            raise Mismatch(f"domain {who.domid} has flushed its TLB, and it holds what the page tables do not")
    book.step("flush_tlb", {"d": who.domid})


def unmap_grant_ref(g: Guests, who: Guest, a: Arguments) -> Answer:
    """GNTTABOP_unmap_grant_ref of a slot: {slot, handle}."""
    raw = abi.UNMAP_GRANT_REF.pack(address(who.domain, a["slot"]), 0, a["handle"], 0, 0)
    try:
        out = g.grant_op(who, abi.GNTTABOP_UNMAP_GRANT_REF, raw)
    except GuestFault:
        return FAULT
    status = status_name(abi.STATUS.unpack_from(out, 20)[0])
    book, d = g.book, who.domid
    if book is None:
        return Answer(status)
    h = g.handles.get((who.domain, a["handle"]))
    if h is None:
        h = book.free("mapping.host", "mapping.device", "mapping.taken")
    t = g.slots.get((who.domain, a["slot"]))
    args = {
        "caller": d,
        "space": d,
        "h": h,
        "t": book.free_translation() if t is None else t,
        "host": 1,
        "device": 0,
        **THIS,
    }
    code = book.step("unmap_grant_ref", args, ANY)
    if who.domain.crashed and code == "GNTST_bad_handle":
        return Answer(status)  # its granter is gone: Xen also crashes the caller
    if code.removeprefix("GNTST_") != status.removeprefix("GNTST_"):
        raise Mismatch(f"unmap_grant_ref: the rules say {code}, Xen {status}", {"unmap_grant_ref: status": (code, status)})
    if code == OKAY:
        book.step("unmap_grant_ref.flush", dict(THIS))
        book.step("unmap_grant_ref.complete", dict(THIS))
        g.slots.pop((who.domain, a["slot"]), None)
        del g.handles[who.domain, a["handle"]]
    return Answer(status)


# Copying by grant.


def copy(g: Guests, who: Guest, a: Arguments) -> Answer:
    """GNTTABOP_copy of one element: {src_ref, src, src_dom, dst_ref, dst, dst_dom, length}; a side is a reference, or a page
    by its number, which only DOMID_SELF may name so."""
    flags = (abi.GNTCOPY_SOURCE_GREF if a["src_ref"] else 0) | (abi.GNTCOPY_DEST_GREF if a["dst_ref"] else 0)
    raw = abi.COPY.pack(a["src"], a["src_dom"], 0, 0, a["dst"], a["dst_dom"], INTO, 0, a["length"], flags, 0, 0)
    table = is_table(_granted(g, a["dst_dom"], a["dst"]) if a["dst_ref"] else g.rig.xen.frames.get(a["dst"]))
    try:
        out = g.grant_op(who, abi.GNTTABOP_COPY, raw)
    except GuestFault:
        return FAULT
    status = status_name(abi.STATUS.unpack_from(out, 36)[0])
    if g.book is not None:
        _follow_copy(g.book, who.domid, a, status, table)
    return Answer(status)


def _follow_copy(book: Book, d: int, a: Arguments, status: str, table: bool) -> None:
    args: dict[str, int] = {}
    for side in ("src", "dst"):
        by_ref = a[f"{side}_ref"]
        args |= {
            f"{side}_by_ref": int(by_ref),
            f"{side}_own": int(a[f"{side}_dom"] == abi.DOMID_SELF),
            f"{side}_dom": book.domain(a[f"{side}_dom"]),
            f"{side}_ref": book.ref(a[side]) if by_ref else 0,
            f"{side}_frame": 0 if by_ref else book.frame(a[side]),
        }
    book.step("copy", {"caller": d, "space": d, **THIS})
    code = book.step("copy.element", args | THIS, ANY)
    if code == OKAY:
        code = book.step("copy.claim_source", dict(THIS), ANY)
    if code == OKAY:
        code = book.step("copy.claim_dest", dict(THIS), ANY, GENERAL if status == GENERAL and table else None)
    if code == OKAY:
        fits = INTO + a["length"] <= abi.PAGE_SIZE
        code = book.step("copy.move", dict(THIS), ANY, None if fits else "GNTST_bad_copy_arg")
    book.step("copy.done", dict(THIS))
    if status == OKAY and table:
        raise Mismatch("a copy has written into a page table")
    if code != status:
        raise Mismatch(f"copy: the rules say {code}, Xen {status}", {"copy: status": (code, status)})


# Its own page tables.


def update_va_mapping(g: Guests, who: Guest, a: Arguments) -> Answer:
    """HYPERVISOR_update_va_mapping of a slot of the window, which flushes it: {slot, mfn, writable}; frame 0 clears it."""
    pte = (a["mfn"] << 12) | PTE_P | PTE_USER | PTE_A | (PTE_RW if a["writable"] else 0) if a["mfn"] else 0
    frame = g.rig.xen.frames.get(a["mfn"])
    if frame is not None and frame.xenheap:
        return NOT_DONE  # in no rule of this system
    kept = _same(g, who, a["slot"], a["mfn"], a["writable"])
    vcpu = who.domain.vcpus[0]
    rc = g.rig.xen.call(vcpu, abi.HYPERVISOR_UPDATE_VA_MAPPING, address(who.domain, a["slot"]), pte, abi.UVMF_INVLPG, 0, 0)
    book, d = g.book, who.domid
    if book is not None and not pte and rc == 0:
        _fills(g, book, who, a["slot"], None)
    elif book is not None and pte and not (kept and rc == 0):
        t = book.free_translation()
        args = {"caller": d, "space": d, "d": d, "f": book.frame(a["mfn"]), "writable": int(a["writable"]), "t": t}
        fail = "EBUSY" if rc and a["writable"] and is_table(frame) else None
        code = book.step("mmu_update_map", args | {"nil": book.size.handles - 1}, ANY, fail)
        if (code == OKAY) != (rc == 0):
            raise Mismatch(f"update_va_mapping: the rules say {code}, Xen {rc}", {"mmu_update_map: status": (code, rc)})
        if rc == 0:
            _fills(g, book, who, a["slot"], t)
    return Answer(error_name(-rc))


def _same(g: Guests, who: Guest, slot: int, mfn: int, writable: bool) -> bool:
    """Does the slot map the page so already? Then Xen changes no more than flags, and the rules nothing."""
    book, t = g.book, g.slots.get((who.domain, slot))
    if book is None or t is None:
        return False
    return book.T["translation.frame"][t] == book.frame(mfn) and book.T["translation.writable"][t] == int(writable)


def access(g: Guests, who: Guest, a: Arguments) -> Answer:
    """A load, or a store of one byte, through a slot of the window: {slot, write}."""
    memory, at = GuestMemory(g.rig.xen, who.domain), address(who.domain, a["slot"]) + AT
    done = True
    try:
        if a["write"]:
            memory.store(at, b"\x5a")
        else:
            memory.load(at, 1)
    except GuestFault:
        done = False
    book = g.book
    if book is not None:
        t = g.slots.get((who.domain, a["slot"]))
        may = t is not None and (not a["write"] or bool(book.T["translation.writable"][t]))
        if done != may:
            raise Mismatch(f"an access to slot {a['slot']} of domain {who.domid} {'succeeds' if done else 'fails'}")
        if done and a["write"] and t is not None:
            book.step("store", {"space": who.domid, "t": t})
    return Answer(OKAY if done else "EFAULT")


# Pages given back and got.


def give_back(g: Guests, who: Guest, a: Arguments) -> Answer:
    """XENMEM_decrease_reservation of a page, its own or not: {mfn}; the guest unmaps it first where its builder has mapped
    it. Others may map it: it stays allocated until they unmap it."""
    page = g.rig.xen.frames.get(a["mfn"])
    if page is None or not _may_go(g, who, page):
        return NOT_DONE
    arg = abi.MEMORY_RESERVATION.pack(0, 1, 0, 0, abi.DOMID_SELF, 0, 0)
    try:
        if page.owner is who.domain and page.m2p < ASIDE and not _unmaps_its_own(g, who, page):
            return NOT_DONE
        rc, _ = g.call(who, abi.HYPERVISOR_MEMORY_OP, abi.XENMEM_DECREASE_RESERVATION, arg, abi.U64.pack(page.mfn))
    except GuestFault:
        return FAULT
    book = g.book
    if book is not None and isinstance(g.ear, Follower):
        f = book.frame(a["mfn"])
        code = book.step("decrease_reservation", {"caller": who.domid, "f": f}, ANY)
        if (code == OKAY) != (rc == 1):
            raise Mismatch(f"decrease_reservation: the rules say {code}, Xen {rc}")
        if code == OKAY:
            g.ear.given_up.add(f)
            g.ear.settle()
    return Answer(OKAY, rc)


def _may_go(g: Guests, who: Guest, page: Frame) -> bool:
    """Not its page tables, and not the page with arguments of its hypercalls."""
    return not page.xenheap and not is_table(page) and page is not _info(who)


def _info(who: Guest) -> Frame | None:
    return next((f for f in who.domain.pages.values() if f.data is not None and f.data[:14] == MAGIC), None)


def _unmaps_its_own(g: Guests, who: Guest, page: Frame) -> bool:
    """The guest clears the entry of its page tables that the builder made for the page."""
    vcpu, info = who.domain.vcpus[0], _info(who)
    assert vcpu.context is not None
    if info is None:
        return False
    addr = register(vcpu.context, RSI) + (page.m2p - info.m2p) * abi.PAGE_SIZE
    rc: int = g.rig.xen.call(vcpu, abi.HYPERVISOR_UPDATE_VA_MAPPING, addr, 0, abi.UVMF_INVLPG, 0, 0)
    return rc == 0


def populate_physmap(g: Guests, who: Guest, a: Arguments) -> Answer:
    """XENMEM_populate_physmap of one page for itself."""
    g.fresh += 1
    arg = abi.MEMORY_RESERVATION.pack(0, 1, 0, 0, abi.DOMID_SELF, 0, 0)
    try:
        rc, _ = g.call(who, abi.HYPERVISOR_MEMORY_OP, abi.XENMEM_POPULATE_PHYSMAP, arg, abi.U64.pack(ASIDE + g.fresh))
        mfn = g.extent(who) if rc == 1 else None
    except GuestFault:
        return FAULT
    if g.book is not None and isinstance(g.ear, Follower):
        if mfn is None:
            g.book.step("populate_physmap", {"caller": who.domid}, "ENOMEM", "ENOMEM")
            if who.domain.tot_pages < who.domain.max_pages and g.rig.xen.frames.free_count:
                raise Mismatch("populate_physmap fails although there is room")
        else:
            f = g.book.frame(mfn)
            g.ear.make_free(f)
            g.book.step("populate_physmap", {"caller": who.domid, "f_f": f, "f_e": g.book.free_epoch()})
    return Answer(OKAY if mfn is not None else "ENOMEM")


MEMORY: Final[dict[str, Callable[[Guests, Guest, Arguments], Answer]]] = {
    "map_grant_ref": map_grant_ref,
    "unmap_grant_ref": unmap_grant_ref,
    "copy": copy,
    "update_va_mapping": update_va_mapping,
    "access": access,
    "give_back": give_back,
    "populate_physmap": populate_physmap,
}


__all__ = ["MEMORY"]
