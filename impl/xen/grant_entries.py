"""Grant table state: shared entries as bytes, status words, active entries with packed pin counters.

Contents: reads and compare-and-swaps of the guest-writable bytes of version 1 and 2 tables, the status
rules, growth of the table. Not here: the operations (grant_map.py and its neighbours).
Sources: public/grant_table.h; Xen common/grant_table.c (_set_status_v1, _set_status_v2, reduce_status_for_pin,
gnttab_grow_table, gnttab_populate_status_frames).
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Final

from bulkhead.impl.xen.abi import (
    ENTRIES_V1,
    ENTRIES_V2,
    ENTRY_V1,
    ENTRY_V2,
    GNTST_GENERAL_ERROR,
    GNTST_OKAY,
    GTF_PERMIT_ACCESS,
    GTF_READING,
    GTF_READONLY,
    GTF_SUB_PAGE,
    GTF_TRANSITIVE,
    GTF_TYPE_MASK,
    GTF_WRITING,
    HEADER,
    PIN_WRITERS,
    STATUS_PER_FRAME,
    U16,
)
from bulkhead.impl.xen.frames import Frame, make_writable
from bulkhead.impl.xen.maptrack import Maptrack

if TYPE_CHECKING:
    from bulkhead.impl.xen.domains import Domain
    from bulkhead.impl.xen.machine import Xen

STATUS_RETRIES: Final = 5


def unshare(xen: Xen, frame: Frame) -> None:
    """Drop the guest's own reference to a Xen-heap page shared with it; references of others stay."""
    if frame.allocated:
        frame.tcount -= 1
        xen.frames.put_alloc_ref(frame)
    elif frame.given_up:
        frame.given_up = False
        frame.tcount -= 1


class Active:
    """Xen's private record of a grant in use (struct active_grant_entry)."""

    __slots__ = ("domid", "frame", "length", "pin", "start", "sub_page", "trans_dom", "trans_gref")

    def __init__(self) -> None:
        self.pin = 0
        self.domid = 0
        self.frame: Frame | None = None
        self.start = 0
        self.length = 0
        self.sub_page = False
        self.trans_dom: Domain | None = None
        self.trans_gref = 0


class GrantTable:
    """One domain's grant table: the entries it grants, and the maptrack of its own mappings."""

    __slots__ = (
        "active",
        "domain",
        "maptrack",
        "max_frames",
        "max_maptrack_frames",
        "max_version",
        "nr_entries",
        "shared",
        "status",
        "version",
    )

    def __init__(self, domain: Domain, max_frames: int, max_maptrack_frames: int, max_version: int) -> None:
        self.domain = domain
        self.version = 1
        self.max_version = max_version
        self.max_frames = max_frames
        self.max_maptrack_frames = max_maptrack_frames
        self.shared: list[Frame] = []
        self.status: list[Frame] = []
        self.active: list[Active] = []
        self.nr_entries = 0
        self.maptrack: list[Maptrack] = []

    # --- size ---
    def _recount(self) -> None:
        self.nr_entries = len(self.shared) * (ENTRIES_V1 if self.version == 1 else ENTRIES_V2)

    def _take_frame(self) -> Frame | None:
        frame = self.domain.xen.alloc_frame(self.domain, xenheap=True)
        if frame is not None:
            frame.bytes()
            make_writable(frame)
        return frame

    def _give_back(self, frames: list[Frame]) -> None:
        for frame in frames:
            unshare(self.domain.xen, frame)
            self.domain.xen.frames.free_xenheap(frame)

    def populate_status(self, nr_grant_frames: int) -> bool:
        """Allocate status frames for that many version 2 grant frames; False, and no change, without memory."""
        taken: list[Frame] = []
        while (len(self.status) + len(taken)) * STATUS_PER_FRAME < nr_grant_frames * ENTRIES_V2:
            frame = self._take_frame()
            if frame is None:
                self._give_back(taken)
                return False
            taken.append(frame)
        self.status.extend(taken)
        return True

    def unpopulate_status(self) -> bool:
        """Free the status frames; False if one still has references.

        A translated domain has them at guest frame numbers no more, and is crashed if others hold one: these numbers do not
        come back (gnttab_unpopulate_status_frames).
        """
        p2m = self.domain.p2m
        if p2m is not None:
            for frame in self.status:
                if frame.m2p >= 0:
                    p2m.clear(frame.m2p)
            self.domain.flush_tlb()
        if any(frame.count > (1 if frame.allocated else 0) or frame.tcount > 1 for frame in self.status):
            if p2m is not None:
                self.domain.crash()
            return False
        self._give_back(self.status)
        self.status.clear()
        return True

    def grow(self, nr_frames: int) -> bool:
        """Grow to `nr_frames` grant frames (never above the limit); False, and no change, without memory."""
        if nr_frames > self.max_frames:
            return False
        taken: list[Frame] = []
        while len(self.shared) + len(taken) < nr_frames:
            frame = self._take_frame()
            if frame is None:
                self._give_back(taken)
                return False
            taken.append(frame)
        if self.version == 2 and not self.populate_status(nr_frames):
            self._give_back(taken)
            return False
        self.shared.extend(taken)
        self.active.extend(Active() for _ in range(ENTRIES_V1 * len(taken)))
        self._recount()
        return True

    def set_version(self, version: int) -> None:
        """Change the layout; the caller has checked and cleared the table."""
        self.version = version
        self._recount()

    # --- shared bytes ---
    def header_at(self, ref: int) -> tuple[bytearray, int]:
        """Buffer and offset of an entry's header."""
        if self.version == 1:
            return self.shared[ref >> 9].data, (ref & 511) << 3  # type: ignore[return-value]
        return self.shared[ref >> 8].data, (ref & 255) << 4  # type: ignore[return-value]

    def status_at(self, ref: int) -> tuple[bytearray, int]:
        """Buffer and offset of the 16-bit word that holds the in-use bits of an entry."""
        if self.version == 1:
            return self.shared[ref >> 9].data, (ref & 511) << 3  # type: ignore[return-value]
        return self.status[ref >> 11].data, (ref & 2047) << 1  # type: ignore[return-value]

    def entry_v1(self, ref: int) -> tuple[int, int, int]:
        """flags, domid, frame."""
        return ENTRY_V1.unpack_from(self.shared[ref >> 9].data, (ref & 511) << 3)  # type: ignore

    def entry_v2(self, ref: int) -> tuple[int, int, int, int, int]:
        """flags, domid, page_off (or trans_domid), length, frame (low half is gref when transitive)."""
        return ENTRY_V2.unpack_from(self.shared[ref >> 8].data, (ref & 255) << 4)  # type: ignore

    def frame_field(self, ref: int) -> int:
        """The frame number that the entry names now (full page layout)."""
        if self.version == 1:
            return self.entry_v1(ref)[2]
        return self.entry_v2(ref)[4]

    # --- status rules ---
    def set_status(self, ref: int, act: Active, readonly: bool, mapflag: bool, domid: int) -> Generator[str, None, int]:
        """Mark an entry in use if it grants that use (_set_status). Returns a GNTST status.

        While the entry is pinned, its type and domid are not checked; only a write request is still checked
        against GTF_readonly. The guest may change the bytes at each yield.
        """
        if self.version == 1:
            return (yield from self._set_status_v1(ref, act, readonly, mapflag, domid))
        return (yield from self._set_status_v2(ref, act, readonly, mapflag, domid))

    def _set_status_v1(self, ref: int, act: Active, readonly: bool, mapflag: bool, domid: int) -> Generator[str, None, int]:
        mask = GTF_TYPE_MASK | GTF_SUB_PAGE if mapflag else GTF_TYPE_MASK
        data: bytearray = self.shared[ref >> 9].data  # type: ignore[assignment]
        off = (ref & 511) << 3
        flags, dom = HEADER.unpack_from(data, off)
        for _ in range(STATUS_RETRIES):
            if not act.pin and (flags & mask != GTF_PERMIT_ACCESS or dom != domid):
                return GNTST_GENERAL_ERROR
            new = flags | GTF_READING
            if not readonly:
                if flags & GTF_READONLY:
                    return GNTST_GENERAL_ERROR
                new |= GTF_WRITING
            yield "set_status.cmpxchg"
            seen, seen_dom = HEADER.unpack_from(data, off)
            if seen == flags and seen_dom == dom:
                U16.pack_into(data, off, new)
                return GNTST_OKAY
            flags, dom = seen, seen_dom
        return GNTST_GENERAL_ERROR

    def _set_status_v2(self, ref: int, act: Active, readonly: bool, mapflag: bool, domid: int) -> Generator[str, None, int]:
        mask = GTF_TYPE_MASK | GTF_SUB_PAGE if mapflag else GTF_TYPE_MASK
        data: bytearray = self.shared[ref >> 8].data  # type: ignore[assignment]
        off = (ref & 255) << 4
        status: bytearray = self.status[ref >> 11].data  # type: ignore[assignment]
        soff = (ref & 2047) << 1
        flags, dom = HEADER.unpack_from(data, off)

        def refused() -> bool:
            kind = flags & mask
            return (kind != GTF_PERMIT_ACCESS and (mapflag or kind != GTF_TRANSITIVE)) or dom != domid

        if not act.pin and refused():
            return GNTST_GENERAL_ERROR
        if not readonly and flags & GTF_READONLY:
            return GNTST_GENERAL_ERROR
        word = U16.unpack_from(status, soff)[0]
        U16.pack_into(status, soff, word | (GTF_READING if readonly else GTF_READING | GTF_WRITING))
        yield "set_status.recheck"
        flags, dom = HEADER.unpack_from(data, off)
        if not act.pin:
            if refused() or (not readonly and flags & GTF_READONLY):
                self._clear_word(status, soff, GTF_READING | GTF_WRITING)
                return GNTST_GENERAL_ERROR
        elif flags & GTF_READONLY and not readonly:
            self._clear_word(status, soff, GTF_WRITING)
            return GNTST_GENERAL_ERROR
        return GNTST_OKAY

    @staticmethod
    def _clear_word(data: bytearray, off: int, bits: int) -> None:
        word = U16.unpack_from(data, off)[0]
        U16.pack_into(data, off, word & ~bits)

    def reduce_status(self, ref: int, act: Active, readonly: bool) -> None:
        """Clear in-use bits that have no pin left (reduce_status_for_pin)."""
        clear = 0 if act.pin else GTF_READING
        if not readonly and not act.pin & PIN_WRITERS:
            clear |= GTF_WRITING
        if clear:
            data, off = self.status_at(ref)
            word = U16.unpack_from(data, off)[0]
            U16.pack_into(data, off, word & ~clear)
