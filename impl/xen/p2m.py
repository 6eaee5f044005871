"""The physical-to-machine map of HVM and PVH guests, with grant and foreign entry types.

PV guests have none: there a guest frame number is a machine frame number. Not here: reference
counts of the frames in the entries (the callers take and drop references). Sources: Xen arch/x86/mm/p2m.c,
asm/p2m.h.
"""

from __future__ import annotations

from collections.abc import Sized
from typing import Final

from bulkhead.impl.xen.frames import Frame

RAM_RW: Final = 0
INVALID: Final = 1
RAM_RO: Final = 3
MMIO_DM: Final = 4
MMIO_DIRECT: Final = 5
GRANT_RW: Final = 7
GRANT_RO: Final = 8
BROKEN: Final = 13  # memory that the control domain has declared unusable
FOREIGN: Final = 14

GFN_LIMIT: Final = 1 << 36  # of four levels of tables
GRANT_TYPES: Final = frozenset({GRANT_RW, GRANT_RO})
SPECIAL_TYPES: Final = frozenset({GRANT_RW, GRANT_RO, FOREIGN, MMIO_DIRECT})
RAM_TYPES: Final = frozenset({RAM_RW, RAM_RO})
OWN_TYPES: Final = RAM_TYPES | GRANT_TYPES


ALWAYS_USED: Final = 11  # the root, and those of the ten maps for nested guests
POOL_AT_FIRST: Final = 256
LARGE: Final = 9  # order of the extents that need no table of the lowest level


class P2m:
    """gfn -> (frame, type) of one external-paging guest.

    Its tables come from a pool of pages, and are not given back before the guest dies. `vcpus` is the domain's own list:
    each vCPU has one page of the pool, too.
    """

    __slots__ = ("closed", "entries", "large", "max_gfn", "pool", "tables", "vcpus")

    def __init__(self, vcpus: Sized) -> None:
        self.entries: dict[int, tuple[Frame, int]] = {}
        self.max_gfn = 0
        self.pool = POOL_AT_FIRST
        self.vcpus = vcpus
        self.tables: set[tuple[int, int]] = set()  # (bits of a number below it, its index)
        self.large: set[int] = set()  # extents of order LARGE that one entry of a higher table maps
        self.closed = False  # the guest dies: no table is made any more

    @property
    def used(self) -> int:
        """Pages of the pool that are in use."""
        return ALWAYS_USED + len(self.vcpus) + len(self.tables)

    def resize_pool(self, pages: int) -> bool:
        """Give the pool so many pages; False if more are in use, after all others have been given back."""
        self.pool = max(pages, self.used)
        return pages >= self.used

    def make_tables(self, gfn: int, order: int = 0) -> bool:
        """Make the tables for an entry, from the highest on; False when the pool is empty: those made before stay."""
        for bits in (27, 18) if order == LARGE else (27, 18, 9):
            if (bits, gfn >> bits) not in self.tables:
                if self.closed or self.used >= self.pool:
                    return False
                self.tables.add((bits, gfn >> bits))
        if order != LARGE:
            self.large.discard(gfn >> LARGE)  # split
        elif (LARGE, gfn >> LARGE) not in self.tables:
            self.large.add(gfn >> LARGE)
        return True

    def lookup(self, gfn: int) -> tuple[Frame | None, int]:
        """The entry, or (None, MMIO_DM) for a hole."""
        return self.entries.get(gfn, (None, MMIO_DM))

    def own(self, gfn: int, domain: object) -> Frame | None:
        """The domain's own page at a number, which it may be by a grant to itself, too; None for anything else there."""
        frame, ptype = self.lookup(gfn)
        if frame is None or frame.owner is not domain or not frame.count or ptype not in OWN_TYPES:
            return None
        return frame

    def set(self, gfn: int, frame: Frame, ptype: int) -> None:
        """Install an entry; RAM entries also set the frame's M2P."""
        self.entries[gfn] = (frame, ptype)
        if ptype in RAM_TYPES:
            frame.m2p = gfn
        self.max_gfn = max(self.max_gfn, gfn)

    def free_tables(self) -> None:
        """All tables go, and with them all entries: nothing comes to any number again."""
        self.entries.clear()
        self.tables.clear()
        self.large.clear()
        self.closed = True

    def clear(self, gfn: int) -> None:
        """Make the gfn a hole."""
        entry = self.entries.pop(gfn, None)
        if entry is not None and gfn >> LARGE in self.large:
            self.make_tables(gfn)
        if entry is not None and entry[1] in RAM_TYPES:
            entry[0].m2p = -1
