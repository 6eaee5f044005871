"""Builds a PV guest's memory and page tables before it runs.

Contents: the work of Xen for Dom0 (dom0_build.c) and of libxenguest for other guests: pages, a direct map of
them, page tables mapped read-only in themselves, a window of empty L1 entries, and the pinned root. Not
here: loading of kernels. The builder writes tables while they are still plain pages; validation happens at pinning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bulkhead.impl.xen.frames import PGT_L4, Frame
from bulkhead.impl.xen.memory_op import populate_page
from bulkhead.impl.xen.pagetables import PTE_A, PTE_D, PTE_P, PTE_RW, PTE_USER, get_table, write_pte

if TYPE_CHECKING:
    from bulkhead.impl.xen.domains import Domain
    from bulkhead.impl.xen.machine import Xen

DIRECT_MAP: Final = 0xFFFF888000000000
TABLE_FLAGS: Final = PTE_P | PTE_RW | PTE_USER | PTE_A | PTE_D
PER_TABLE: Final = 512


class PvLayout:
    """The pages of a built guest. `pages` in pfn order; `windows` are empty L1 tables."""

    __slots__ = ("base", "direct_l1", "l2", "l3", "pages", "root", "windows")

    def __init__(
        self, pages: list[Frame], root: Frame, l3: Frame, l2: Frame, direct: list[Frame], windows: list[Frame]
    ) -> None:
        self.pages = pages
        self.root = root
        self.l3 = l3
        self.l2 = l2
        self.direct_l1 = direct
        self.windows = windows
        self.base = DIRECT_MAP

    def va(self, pfn: int) -> int:
        """Linear address of a page in the direct map."""
        return self.base + (pfn << 12)

    def window_va(self, slot: int) -> int:
        """Linear address whose L1 entry is the `slot`-th of the windows."""
        return self.base + ((len(self.direct_l1) * PER_TABLE + slot) << 12)

    def window_maddr(self, slot: int) -> int:
        """Machine address of that L1 entry."""
        return (self.windows[slot // PER_TABLE].mfn << 12) | ((slot % PER_TABLE) << 3)


def build(xen: Xen, domain: Domain, npages: int, nwindows: int) -> PvLayout:
    """Populate `npages` guest pages plus page tables, and set vCPU 0's root, pinned.

    MemoryError if the domain's limit or the heap is too small.
    """
    ndirect = (npages + 3 + nwindows) // PER_TABLE + 1
    total = npages + 3 + ndirect + nwindows
    while total > ndirect * PER_TABLE:
        ndirect += 1
        total += 1
    pages: list[Frame] = []
    for pfn in range(total):
        frame = populate_page(xen, domain, pfn)
        if frame is None:
            raise MemoryError(f"d{domain.domid}: no memory for pfn {pfn}")
        frame.data = None  # a page that a living guest gave back keeps its content
        pages.append(frame)
    tables = pages[npages:]
    root, l3, l2 = tables[:3]
    direct = tables[3 : 3 + ndirect]
    windows = tables[3 + ndirect :]
    table_mfns = {frame.mfn for frame in tables}
    base = DIRECT_MAP
    write_pte(root, (base >> 39) & 511, (l3.mfn << 12) | TABLE_FLAGS)
    write_pte(l3, (base >> 30) & 511, (l2.mfn << 12) | TABLE_FLAGS)
    for i, table in enumerate(direct + windows):
        write_pte(l2, i, (table.mfn << 12) | TABLE_FLAGS)
    for pfn, frame in enumerate(pages):
        flags = PTE_P | PTE_USER | PTE_A | PTE_D | (0 if frame.mfn in table_mfns else PTE_RW)
        write_pte(direct[pfn // PER_TABLE], pfn % PER_TABLE, (frame.mfn << 12) | flags)
    for _ in range(2):
        if get_table(xen, root, domain, PGT_L4):
            raise ValueError(f"d{domain.domid}: page tables refused")
    root.pinned = True
    domain.vcpus[0].cr3 = root
    domain.vcpus[0].online = True
    return PvLayout(pages, root, l3, l2, direct, windows)
