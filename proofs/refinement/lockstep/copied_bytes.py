"""Checks, byte by byte, that a copy moved its bytes and changed no others.

A follower of copies calls `watch` before the step that moves the bytes, and `compare` after it. The contents of the two
pages are recorded directly before the step, because others may write to them until then.
"""

from __future__ import annotations

from collections.abc import Callable

from bulkhead.impl.xen.frames import FrameTable
from bulkhead.proofs.refinement.lockstep.call import CopyElement
from bulkhead.proofs.refinement.lockstep.rule_steps import Mismatch

WORD = 8


class Watched:
    """The pages of one copy, directly before its bytes are moved."""

    def __init__(
        self, frames: FrameTable, source: int, dest: int, e: CopyElement, status_at: tuple[int, int] | None
    ) -> None:
        self.frames = frames
        self.source, self.dest, self.e = source, dest, e
        self.status_at = status_at  # the page and offset of the status
        self.before: tuple[bytes, bytes] | None = None

    def _page(self, mfn: int) -> bytes:
        frame = self.frames.get(mfn)
        return bytes(4096) if frame is None or frame.data is None else bytes(frame.data)

    def note(self) -> None:
        """Record both pages."""
        self.before = self._page(self.source), self._page(self.dest)

    def compare(self, moved: bool) -> None:
        """Check that the destination range has the source's bytes, and all other bytes are unchanged.

        Copying goes upwards, word by word, which matters if both ranges lie in one page.
        """
        if self.before is None:
            return
        source, dest = bytearray(self.before[0]), bytearray(self.before[1])
        if self.source == self.dest:
            source = dest
        done = 0
        while moved and done < self.e.length:
            size = WORD if self.e.length - done >= WORD else 1
            at = self.e.src_off + done
            dest[self.e.dst_off + done : self.e.dst_off + done + size] = source[at : at + size]
            done += size
        now = self._page(self.dest)
        wrong = [at for at, (a, b) in enumerate(zip(dest, now, strict=True)) if a != b] if dest != now else []
        if self.status_at is not None and self.status_at[0] == self.dest:
            wrong = [at for at in wrong if at not in range(self.status_at[1], self.status_at[1] + 2)]
        if wrong:
            raise Mismatch(
                f"a copy of {self.e.length} bytes from {self.e.src_off} to {self.e.dst_off} left other bytes "
                f"at {wrong[:4]}{' ...' if len(wrong) > 4 else ''}"
            )


def watch(
    frames: FrameTable, source: int, dest: int, e: CopyElement, status_at: tuple[int, int] | None
) -> tuple[Watched, Callable[[], None]]:
    """The record for the later comparison, and the function to call directly before the step."""
    watched = Watched(frames, source, dest, e, status_at)
    return watched, watched.note
