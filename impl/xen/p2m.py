"""The physical-to-machine map of HVM and PVH guests, with grant and foreign entry types.

PV guests have none: there a guest frame number is a machine frame number. Not here: reference
counts of the frames in the entries (the callers take and drop references). Sources: Xen arch/x86/mm/p2m.c,
asm/p2m.h.
"""

from __future__ import annotations

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


class P2m:
    """gfn -> (frame, type) of one external-paging guest."""

    __slots__ = ("entries", "max_gfn")

    def __init__(self) -> None:
        self.entries: dict[int, tuple[Frame, int]] = {}
        self.max_gfn = 0

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

    def clear(self, gfn: int) -> None:
        """Make the gfn a hole."""
        entry = self.entries.pop(gfn, None)
        if entry is not None and entry[1] in RAM_TYPES:
            entry[0].m2p = -1
