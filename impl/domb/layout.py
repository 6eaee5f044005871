"""Memory layout of a new PV guest: segments in the order of libxc, and the page tables over them.

Contents: pure functions from an image and sizes to page numbers and page-table bytes. Not here: any
memory of a guest (builder.py). Page-table pages are mapped read-only, or pinning would fail by type
conflict. Sources: Xen tools/libs/guest/xg_dom_core.c xc_dom_build_image, xg_dom_x86.c (alloc_pgtables_x86_64,
alloc_magic_pages_pv, setup_pgtables_x86_64).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bulkhead.impl.domb.elf import ElfError, Image
from bulkhead.impl.xen.abi import PAGE_MASK, PAGE_SHIFT, U64
from bulkhead.impl.xen.pagetables import PTE_A, PTE_D, PTE_P, PTE_RW, PTE_USER, XEN_L4_SLOTS

TABLE_FLAGS: Final = PTE_P | PTE_RW | PTE_USER | PTE_A | PTE_D
PAGE_FLAGS: Final = PTE_P | PTE_USER | PTE_A | PTE_D
ALIGN_PAGES: Final = 1024  # the mapped area ends at a multiple of 4 MiB
SHIFTS: Final = {1: 21, 2: 30, 3: 39, 4: 48}  # a table of a level covers 1 << shift bytes
Table = tuple[int, int]  # level, and the addresses it covers divided by their number


@dataclass(frozen=True, slots=True)
class Segment:
    """Guest pages [first, first + npages) with one purpose."""

    name: str
    first: int
    npages: int


@dataclass(frozen=True, slots=True)
class Range:
    """Linear addresses from `virt` on that map pages from `first` on."""

    virt: int
    first: int
    npages: int


@dataclass(frozen=True)
class Layout:
    """A guest's layout: its segments by name, the mapped ranges, and the page of each table."""

    virt_base: int
    nr_pages: int
    segments: Mapping[str, Segment]
    ranges: tuple[Range, ...]
    tables: Mapping[Table, int]

    def virt(self, pfn: int) -> int:
        """Linear address of a page in the main range."""
        return self.virt_base + (pfn << PAGE_SHIFT)

    @property
    def root(self) -> int:
        """The page of the top-level table."""
        return self.tables[(4, 0)]


def pages(size: int) -> int:
    """The number of pages for so many bytes."""
    return (size + PAGE_MASK) >> PAGE_SHIFT


def plan(image: Image, ramdisk_size: int, nr_pages: int) -> Layout:
    """Plan a guest of `nr_pages`; ElfError if it does not fit."""
    segments: dict[str, Segment] = {}
    at = (image.virt_kstart - image.virt_base) >> PAGE_SHIFT

    def place(name: str, count: int) -> None:
        nonlocal at
        segments[name] = Segment(name, at, count)
        at += count

    p2m_pages = pages(nr_pages * 8)
    place("kernel", pages(image.virt_kend - image.virt_base) - at)
    if ramdisk_size and not image.mod_start_pfn:
        place("ramdisk", pages(ramdisk_size))
    if image.init_p2m is None:
        place("p2m", p2m_pages)
    for name in ("start_info", "xenstore", "console"):
        place(name, 1)
    # After the tables come the stack and, unmapped, segments that a note excludes from the main range.
    tables_at = at
    outside = (p2m_pages if image.init_p2m is not None else 0) + (pages(ramdisk_size) if image.mod_start_pfn else 0)
    count = 0
    while True:
        end = tables_at + count + 1
        mapped = -(-end // ALIGN_PAGES) * ALIGN_PAGES
        if end + outside > nr_pages:
            raise ElfError(f"needs {(end + outside) * 4} KiB of guest memory; there are {nr_pages * 4} KiB")
        ranges = [Range(image.virt_base, 0, mapped)]
        if image.init_p2m is not None:
            ranges.append(Range(image.init_p2m, end + (pages(ramdisk_size) if image.mod_start_pfn else 0), p2m_pages))
        needed = _tables(ranges)
        if len(needed) == count:
            break
        count = len(needed)
    place("pagetables", count)
    place("bootstack", 1)
    if ramdisk_size and image.mod_start_pfn:
        place("ramdisk", pages(ramdisk_size))
    if image.init_p2m is not None:
        place("p2m", p2m_pages)
    tables = {table: tables_at + i for i, table in enumerate(needed)}
    return Layout(image.virt_base, nr_pages, segments, tuple(ranges), tables)


def _tables(ranges: Sequence[Range]) -> list[Table]:
    """The tables that the ranges need, top level first."""
    found: set[Table] = {(4, 0)}
    for each in ranges:
        last = each.virt + (each.npages << PAGE_SHIFT) - 1
        if last >= 1 << 64:
            raise ElfError(f"would be mapped past the last address, from {each.virt:#x} on")
        low, high = (addr >> 39 & 511 for addr in (each.virt, last))
        if low > high or (low <= XEN_L4_SLOTS[-1] and high >= XEN_L4_SLOTS[0]):
            raise ElfError(f"would be mapped over the hypervisor, from {each.virt:#x} on")
        for level in (1, 2, 3):
            shift = SHIFTS[level]
            found |= {(level, n) for n in range(each.virt >> shift, (last >> shift) + 1)}
    return sorted(found, key=lambda table: (-table[0], table[1]))


def table_pages(layout: Layout, mfns: Sequence[int]) -> dict[int, bytes]:
    """Content of every page-table page, by pfn."""
    out = {pfn: bytearray(1 << PAGE_SHIFT) for pfn in layout.tables.values()}
    for (level, number), pfn in layout.tables.items():
        if level < 4:
            parent = (level + 1, number >> 9) if level < 3 else (4, 0)
            U64.pack_into(out[layout.tables[parent]], (number & 511) << 3, (mfns[pfn] << PAGE_SHIFT) | TABLE_FLAGS)
    readonly = set(layout.tables.values())
    for each in layout.ranges:
        for i in range(min(each.npages, layout.nr_pages - each.first)):
            vpn = (each.virt >> PAGE_SHIFT) + i
            pfn = each.first + i
            pte = (mfns[pfn] << PAGE_SHIFT) | PAGE_FLAGS | (0 if pfn in readonly else PTE_RW)
            U64.pack_into(out[layout.tables[(1, vpn >> 9)]], (vpn & 511) << 3, pte)
    return {pfn: bytes(content) for pfn, content in out.items()}
