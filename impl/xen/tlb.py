"""TLBs: one per vCPU, with translations that stay until they are flushed.

A cached translation stays valid after its page-table entry is cleared, as in hardware; so code that omits a flush
shows up as an access to a frame of another epoch. Not here: the walk that fills the cache
(pagetables.py) and the decision when to flush. Sources: Xen arch/x86/flushtlb.c.
"""

from __future__ import annotations

from bulkhead.impl.xen.frames import Frame


class Tlb:
    """Cached translations of one vCPU: virtual page number -> (frame, writable, epoch at fill)."""

    __slots__ = ("entries", "flushed_at")

    def __init__(self) -> None:
        self.entries: dict[int, tuple[Frame, bool, int]] = {}
        self.flushed_at = 0

    def fill(self, vpn: int, frame: Frame, writable: bool) -> None:
        """Cache the translation of a walk."""
        self.entries[vpn] = (frame, writable, frame.epoch)

    def flush(self, stamp: int) -> None:
        """Flush everything; `stamp` is the TLB clock now."""
        self.entries.clear()
        self.flushed_at = stamp

    def invlpg(self, vpn: int) -> None:
        """Flush one page."""
        self.entries.pop(vpn, None)

    def stale(self) -> list[int]:
        """Virtual pages whose cached frame has since been freed (a vulnerability if one is ever reachable)."""
        return [vpn for vpn, (frame, _, epoch) in self.entries.items() if frame.epoch != epoch]
