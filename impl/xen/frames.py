"""The frame table: machine frames with owner, reference counts, page types, and the heap they come from.

A frame is free, or it has an owner and a general reference count in which the allocation reference counts as
one; it returns to the heap when the count falls to zero, never while its type count is above zero. Not
here: the constraints of page types on a page's content (pagetables.py), and who may take a reference.
Sources: Xen arch/x86/mm.c (get_page, put_page, _get_page_type), common/page_alloc.c (allocation, scrubbing).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from bulkhead.impl.xen.abi import PAGE_SIZE

if TYPE_CHECKING:
    from bulkhead.impl.xen.domains import Domain

PGT_NONE: Final = 0
PGT_L1: Final = 1
PGT_L2: Final = 2
PGT_L3: Final = 3
PGT_L4: Final = 4
PGT_SEG: Final = 5
PGT_SHARED: Final = 6
PGT_WRITABLE: Final = 7


class Frame:
    """One machine frame (struct page_info).

    `count` is the general reference count including the allocation reference (`allocated`); `ptype` is the last
    type recorded, meaningful while `tcount` > 0; `epoch` counts how often the frame has been freed; `free_stamp`
    is the TLB clock at the last free. `data` is the content, None while it is all zeros. `given_up`: a Xen-heap page whose
    guest has dropped the allocation reference; the sharing keeps its type reference until Xen ends it. `linear`: for a page
    table, the number of its entries that point to tables of the same level; below zero, the number of such entries to it.
    """

    __slots__ = (
        "allocated",
        "count",
        "data",
        "dirty",
        "epoch",
        "free_stamp",
        "given_up",
        "linear",
        "m2p",
        "mfn",
        "owner",
        "pinned",
        "ptype",
        "tcount",
        "validated",
        "xenheap",
    )

    def __init__(self, mfn: int) -> None:
        self.mfn = mfn
        self.owner: Domain | None = None
        self.count = 0
        self.allocated = False
        self.ptype = PGT_NONE
        self.tcount = 0
        self.pinned = False
        self.validated = False
        self.xenheap = False
        self.epoch = 0
        self.data: bytearray | None = None
        self.dirty = False
        self.free_stamp = -1
        self.given_up = False
        self.linear = 0
        self.m2p = -1

    def bytes(self) -> bytearray:
        """The writable content, created (zero) on first use."""
        data = self.data
        if data is None:
            data = self.data = bytearray(PAGE_SIZE)
        return data


class FrameTable:
    """All frames of the machine and the heap of free ones.

    Frames below `reserved` exist but belong to Xen and are never handed out; frames from `nframes` up do not
    exist. Frame objects are created on first allocation, so a large machine costs nothing.
    """

    __slots__ = ("claimed", "free_count", "free_list", "fresh", "nframes", "reserved", "stamp", "table")

    def __init__(self, nframes: int, reserved: int) -> None:
        self.nframes = nframes
        self.reserved = reserved
        self.table: dict[int, Frame] = {}
        self.free_list: deque[Frame] = deque()
        self.fresh = reserved
        self.stamp = 0
        self.free_count = nframes - reserved
        self.claimed = 0  # free frames that domains have claimed (XENMEM_claim_pages) and not yet allocated

    def get(self, mfn: int) -> Frame | None:
        """The frame, or None if there is none or it was never in use (mfn_valid plus a possible owner)."""
        return self.table.get(mfn)

    def alloc(self, owner: Domain | None, xenheap: bool = False, limit: int | None = None) -> Frame | None:
        """Take a frame from the heap, below the frame number `limit` if one is given; None when there is none.

        A frame that still needs scrubbing is cleared first. The frame gets the allocation reference and is charged to the
        owner: as guest RAM, or with `xenheap` as a page Xen shares with that guest. The caller flushes TLBs older
        than the frame's `free_stamp`.
        """
        if self.claimed and self._spoken_for(1, None if xenheap else owner):
            return None
        frame = self._first_below(limit)
        if frame is None:
            return None
        self._hand_out(frame, owner, xenheap)
        return frame

    def alloc_extent(self, owner: Domain | None, order: int, limit: int | None = None) -> list[Frame] | None:
        """2^order frames in a row, aligned to their number, as guest RAM of the owner; None if there is no such row."""
        if order == 0:
            frame = self.alloc(owner, False, limit)
            return None if frame is None else [frame]
        count = 1 << order
        if self.free_count < count or self._spoken_for(count, owner):
            return None
        first = -(-self.fresh // count) * count
        if first + count <= (self.nframes if limit is None else min(limit, self.nframes)):
            while self.fresh < first + count:
                self._add_fresh()
        else:
            row = self._free_row(count, limit)
            if row is None:
                return None
            first = row
        frames = [self.table[mfn] for mfn in range(first, first + count)]
        chosen = {frame.mfn for frame in frames}
        self.free_list = deque(frame for frame in self.free_list if frame.mfn not in chosen)
        for frame in frames:
            self._hand_out(frame, owner, False)
        return frames

    def _spoken_for(self, count: int, owner: Domain | None) -> bool:
        """Are all free frames covered by the claims of other domains?"""
        return self.claimed + count > self.free_count and (owner is None or owner.claim < count)

    def _add_fresh(self) -> None:
        frame = Frame(self.fresh)
        self.table[self.fresh] = frame
        self.free_list.append(frame)
        self.fresh += 1

    def _first_below(self, limit: int | None) -> Frame | None:
        if self.free_list and (limit is None or self.free_list[0].mfn < limit):
            return self.free_list.popleft()
        if limit is not None:
            for index, frame in enumerate(self.free_list):
                if frame.mfn < limit:
                    del self.free_list[index]
                    return frame
        if self.fresh < (self.nframes if limit is None else min(limit, self.nframes)):
            self._add_fresh()
            return self.free_list.pop()
        return None

    def _free_row(self, count: int, limit: int | None) -> int | None:
        """The first of `count` aligned free frames that have been in use before."""
        rows: dict[int, int] = {}
        for frame in self.free_list:
            if limit is None or frame.mfn < limit:
                row = frame.mfn // count
                rows[row] = rows.get(row, 0) + 1
        return next((row * count for row in sorted(rows) if rows[row] == count), None)

    def _hand_out(self, frame: Frame, owner: Domain | None, xenheap: bool) -> None:
        self.free_count -= 1
        if frame.dirty:
            frame.data = None
            frame.dirty = False
        frame.count = 1
        frame.ptype = PGT_NONE
        frame.tcount = 0
        frame.validated = False
        frame.pinned = False
        frame.xenheap = xenheap
        frame.given_up = False
        frame.linear = 0
        frame.owner = owner
        frame.allocated = True
        if owner is not None:
            if xenheap:
                owner.account_xenheap()
                frame.data = None
            else:
                owner.account_page(frame)

    def put_page(self, frame: Frame) -> None:
        """Drop one general reference; the last one frees the frame (put_page)."""
        frame.count -= 1
        if frame.count == 0:
            self._free(frame)

    def put_alloc_ref(self, frame: Frame) -> None:
        """Drop the allocation reference if it is still there (put_page_alloc_ref, idempotent)."""
        if frame.allocated:
            frame.allocated = False
            self.put_page(frame)

    def _free(self, frame: Frame) -> None:
        if frame.given_up:
            frame.given_up = False
            frame.tcount -= 1
        if frame.tcount or frame.count < 0:
            raise AssertionError(f"frame {frame.mfn:#x} freed with type count {frame.tcount}")
        owner = frame.owner
        frame.epoch += 1
        frame.free_stamp = self.stamp
        frame.owner = None
        frame.validated = False
        if frame.xenheap:
            # Only the guest's reference ends here; Xen frees the page itself. It stays at its number in a guest's memory.
            if owner is not None:
                owner.unaccount_xenheap()
            return
        frame.m2p = -1
        # Pages of a dying (or no) owner are scrubbed; a running guest must clear its own secrets.
        frame.dirty = owner is None or owner.is_dying != 0
        self.free_list.append(frame)
        self.free_count += 1
        if owner is not None:
            owner.unaccount_page(frame)

    def free_xenheap(self, frame: Frame) -> None:
        """Return a page that Xen held for itself to the heap, once no guest has a reference to it."""
        self.put_alloc_ref(frame)
        if frame.count:
            raise AssertionError(f"xenheap frame {frame.mfn:#x} freed in use")
        frame.xenheap = False
        frame.m2p = -1
        frame.dirty = True
        self.free_list.append(frame)
        self.free_count += 1


def get_page(frame: Frame, domain: Domain) -> bool:
    """Take a reference if `domain` owns the frame and it is in use (get_page)."""
    if frame.owner is domain and frame.count > 0:
        frame.count += 1
        return True
    return False


def make_writable(frame: Frame) -> None:
    """Give a page that nobody uses yet its first PGT_writable_page type reference."""
    frame.ptype = PGT_WRITABLE
    frame.validated = True
    frame.tcount = 1
