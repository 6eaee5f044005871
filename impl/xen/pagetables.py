"""PV page tables: checking of entries, promotion and demotion of tables, walks.

Contents: the rule for each L1 entry, validation of whole tables when a frame takes a page-table type, and
the hardware's walk. Not here: the hypercalls that ask for it (mmu.py) and grant entries, which Xen writes
itself (grant_host.py). Sources: Xen arch/x86/mm.c (get_page_from_l1e, put_page_from_l1e, _get_page_type,
alloc_l1_table to alloc_l4_table).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bulkhead.impl.xen.abi import EBUSY, EINVAL, EPERM, U64
from bulkhead.impl.xen.frames import PGT_L1, PGT_L2, PGT_L4, PGT_NONE, PGT_WRITABLE, Frame, get_page

if TYPE_CHECKING:
    from bulkhead.impl.xen.domains import Domain
    from bulkhead.impl.xen.machine import Xen

PTE_P: Final = 0x1
PTE_RW: Final = 0x2
PTE_USER: Final = 0x4
PTE_A: Final = 0x20
PTE_D: Final = 0x40
PTE_PSE: Final = 0x80
PTE_NX: Final = 1 << 63
PTE_AVAIL: Final = 0xE00
PTE_MFN: Final = 0x000FFFFFFFFFF000
PTE_GLOBAL: Final = 0x100
PTE_GUEST_KERNEL: Final = 1 << 52  # Xen's mark of a kernel page of a 64-bit guest, whose entries all have PTE_USER
# Flags a guest may not set: cache attributes and large pages; above L1 the global bit too. Bits 9-11 and 52-62 are its own.
L1_DISALLOW: Final = 0x98
UPPER_DISALLOW: Final = 0x198
# A change of only these flags needs no new check of the frame.
FASTPATH_FLAGS: Final = PTE_NX | (0x7FF << 52) | PTE_AVAIL | PTE_GLOBAL | PTE_D | PTE_A | PTE_USER
IO_FRAMES: Final = 0x100  # the first MiB counts as I/O memory, whatever it contains
HYPERVISOR_VIRT_START: Final = 0xFFFF800000000000
HYPERVISOR_VIRT_END: Final = 0xFFFF880000000000
XEN_L4_SLOTS: Final = range(256, 272)
ENTRIES: Final = 512


def addr_ok(addr: int) -> bool:
    """Is the linear address canonical and outside Xen's own range (__addr_ok)?"""
    return addr < 0x800000000000 or HYPERVISOR_VIRT_END <= addr < (1 << 64)


def adjust_entry(pte: int, level: int) -> int:
    """The entry that Xen stores for a guest's entry (adjust_guest_l1e to adjust_guest_l4e): all allow user mode, in which
    the kernel of a 64-bit PV guest runs; user pages are global, and kernel pages are marked."""
    if not pte & PTE_P:
        return pte
    if level == PGT_L1 and not pte & PTE_USER:
        pte |= PTE_GUEST_KERNEL
    if level == PGT_L1 and not pte & PTE_GUEST_KERNEL:
        pte |= PTE_GLOBAL
    return pte | PTE_USER


def same_mapping(old: int, new: int) -> bool:
    """Do two entries need the same references?"""
    return not (old ^ new) & (PTE_MFN | (0xFFF & ~FASTPATH_FLAGS))


def get_page_from_l1e(xen: Xen, pte: int, l1e_owner: Domain, pg_owner: Domain) -> int:
    """Take the references that an L1 entry needs; 0 or -errno (then none is held).

    `pg_owner` is the domain whose frames the entry may name. A frame of another owner needs privilege of
    pg_owner over the real owner; a writable entry needs the writable type unless the owner is translated.
    """
    if not pte & PTE_P:
        return 0
    if pte & L1_DISALLOW:
        return -EINVAL
    mfn = (pte & PTE_MFN) >> 12
    if mfn >= xen.frames.nframes or mfn < IO_FRAMES:
        if pg_owner is not xen.hardware_domain and pg_owner.toolstack.iomem.has(mfn, mfn):
            return 0  # it has no owner and no counts; Dom0's own devices are not in its tables here
        return -EINVAL if mfn == PTE_MFN >> 12 else -EPERM
    frame = xen.frames.get(mfn)
    if frame is None:
        return -EBUSY
    real = frame.owner
    if real is None or frame.count == 0:
        return -EBUSY
    if real is not pg_owner and (pg_owner is l1e_owner or xen.xsm.target("priv_mapping", pg_owner, real)):
        return -EBUSY
    needs_type = pte & PTE_RW and (l1e_owner is real or not real.external)
    if needs_type and get_page_type(xen, frame, PGT_WRITABLE):
        return -EBUSY
    frame.count += 1
    return 0


def put_page_from_l1e(xen: Xen, pte: int, l1e_owner: Domain) -> None:
    """Drop the references of an L1 entry."""
    if not pte & PTE_P:
        return
    mfn = (pte & PTE_MFN) >> 12
    if mfn >= xen.frames.nframes or mfn < IO_FRAMES:
        return
    frame = xen.frames.table[mfn]  # a present entry holds a reference to it
    owner = frame.owner
    if pte & PTE_RW and (owner is l1e_owner or owner is None or not owner.external):
        frame.tcount -= 1
    xen.frames.put_page(frame)


def get_page_type(xen: Xen, frame: Frame, wanted: int) -> int:
    """Take a type reference; if the type count is 0, first change the type (and validate a table). 0 or -errno."""
    if frame.tcount:
        if frame.ptype != wanted or not frame.validated:
            return -EINVAL
        frame.tcount += 1
        return 0
    if frame.ptype == PGT_WRITABLE != wanted and frame.owner is not None:
        frame.owner.flush_tlb()
    frame.ptype = wanted
    frame.tcount = 1
    if PGT_L1 <= wanted <= PGT_L4:
        frame.validated = False
        rc = _validate(xen, frame, wanted)
        if rc:
            frame.tcount = 0
            frame.ptype = PGT_NONE
            return rc
    frame.validated = True
    return 0


def put_page_type(xen: Xen, frame: Frame) -> None:
    """Drop a type reference; at the last one, a page table drops the references of its entries."""
    frame.tcount -= 1
    if frame.tcount == 0 and PGT_L1 <= frame.ptype <= PGT_L4 and frame.validated:
        frame.validated = False
        _devalidate(xen, frame, frame.ptype, ENTRIES)


def get_table(xen: Xen, frame: Frame, owner: Domain, level: int) -> int:
    """Take a general and a type reference on a table of `owner`; 0, or an entry's -errno, else -EINVAL."""
    if not get_page(frame, owner):
        return -EINVAL
    rc = get_page_type(xen, frame, level)
    if rc:
        xen.frames.put_page(frame)
    return rc


def put_table(xen: Xen, frame: Frame) -> None:
    """Drop both references."""
    put_page_type(xen, frame)
    xen.frames.put_page(frame)


def entry_get(xen: Xen, pte: int, owner: Domain, pg_owner: Domain, level: int, table: Frame | None = None) -> int:
    """References of one entry of a table of `level` (1 to 4); 0 or -errno. `table` is the table it stands in."""
    if level == PGT_L1:
        return get_page_from_l1e(xen, pte, owner, pg_owner)
    if not pte & PTE_P:
        return 0
    if pte & UPPER_DISALLOW:
        return -EINVAL
    child = xen.frames.get((pte & PTE_MFN) >> 12)
    if child is None:
        return -EINVAL
    rc = get_table(xen, child, owner, level - 1)
    return 0 if rc == -EINVAL and table is not None and _get_linear(pte, owner, level, table, child) else rc


def _get_linear(pte: int, owner: Domain, level: int, table: Frame, child: Frame) -> bool:
    """A linear page table: a read-only entry that points to a table of the same level (get_l2_linear_pagetable to
    get_l4_linear_pagetable). One to itself takes no reference; one to another does, and longer chains are refused."""
    if pte & PTE_RW:
        return False
    if child is table:
        return True
    if table.owner is not owner or table.linear < 0 or child.linear > 0:
        return False
    if not child.tcount or child.ptype != level or not child.validated or not get_page(child, owner):
        return False
    child.tcount += 1
    child.linear -= 1
    table.linear += 1
    return True


def entry_put(xen: Xen, pte: int, owner: Domain, level: int, table: Frame | None = None) -> None:
    """Drop the references of one entry."""
    if level == PGT_L1:
        put_page_from_l1e(xen, pte, owner)
    elif pte & PTE_P:
        child = xen.frames.get((pte & PTE_MFN) >> 12)
        if child is None or child is table:
            return
        if child.ptype == level and table is not None:
            child.linear += 1
            table.linear -= 1
        put_table(xen, child)


def _validate(xen: Xen, frame: Frame, level: int) -> int:
    owner = frame.owner
    data = frame.data
    if data is None:
        return 0
    assert owner is not None
    for i, (pte,) in enumerate(U64.iter_unpack(bytes(data))):
        if pte & PTE_P and not (level == PGT_L4 and i in XEN_L4_SLOTS):
            rc = entry_get(xen, pte, owner, owner, level, frame)
            if rc:
                _devalidate(xen, frame, level, i)
                return rc
            write_pte(frame, i, adjust_entry(pte, level))
    return 0


def _devalidate(xen: Xen, frame: Frame, level: int, upto: int) -> None:
    owner = frame.owner
    data = frame.data
    if owner is None or data is None:
        return
    for i, (pte,) in enumerate(U64.iter_unpack(bytes(data))):
        if i >= upto:
            break
        if pte & PTE_P and not (level == PGT_L4 and i in XEN_L4_SLOTS):
            entry_put(xen, pte, owner, level, frame)


def read_pte(frame: Frame, index: int) -> int:
    """One entry of a table."""
    if frame.data is None:
        return 0
    value: int = U64.unpack_from(frame.data, index << 3)[0]
    return value


def write_pte(frame: Frame, index: int, pte: int) -> None:
    """Store one entry of a table."""
    U64.pack_into(frame.bytes(), index << 3, pte)


def _descend(xen: Xen, root: Frame | None, addr: int) -> tuple[Frame, int, bool] | None:
    """The L1 table and index that translate a linear address, and whether the upper levels let it be written."""
    if root is None or not addr_ok(addr):
        return None
    table, writable = root, True
    for shift in (39, 30, 21):
        pte = read_pte(table, (addr >> shift) & 511)
        if pte & (PTE_P | PTE_PSE) != PTE_P:
            return None
        child = xen.frames.get((pte & PTE_MFN) >> 12)
        if child is None:
            return None
        table = child
        writable = writable and bool(pte & PTE_RW)
    return table, (addr >> 12) & 511, writable


def find_l1(xen: Xen, root: Frame | None, addr: int) -> tuple[Frame, int] | None:
    """The L1 table and index that translate a linear address, if the upper levels are present."""
    found = _descend(xen, root, addr)
    return None if found is None else found[:2]


def walk(xen: Xen, root: Frame | None, addr: int) -> tuple[Frame, bool] | None:
    """The hardware's walk: (frame, writable), or None on a not-present fault. Writable only if all levels are."""
    found = _descend(xen, root, addr)
    if found is None:
        return None
    pte = read_pte(found[0], found[1])
    if not pte & PTE_P:
        return None
    frame = xen.frames.get((pte & PTE_MFN) >> 12)
    if frame is None:
        return None
    return frame, found[2] and bool(pte & PTE_RW)


def is_table(ptype: int) -> bool:
    """Is this one of the page-table types?"""
    return PGT_L1 <= ptype <= PGT_L4


__all__ = [
    "PGT_L1",
    "PGT_L2",
    "PGT_L4",
    "PTE_A",
    "PTE_AVAIL",
    "PTE_D",
    "PTE_MFN",
    "PTE_NX",
    "PTE_P",
    "PTE_RW",
    "PTE_USER",
    "addr_ok",
    "adjust_entry",
    "entry_get",
    "entry_put",
    "find_l1",
    "get_page_from_l1e",
    "get_page_type",
    "get_table",
    "is_table",
    "put_page_from_l1e",
    "put_page_type",
    "put_table",
    "read_pte",
    "same_mapping",
    "walk",
    "write_pte",
]
