"""Maps a guest's ring for a daemon of Dom0: by reserved grant if there is a grant device, else by foreign mapping.

Contents: that choice, and unmapping. The code is the same on every system; the system's devices decide.
Sources: Xen tools/console/daemon/io.c console_create_ring, tools/xenstored/domain.c map_interface.
"""

from __future__ import annotations

from bulkhead.impl.libs import foreignmemory as fm
from bulkhead.impl.libs import gnttab as gt
from bulkhead.impl.libs.osdep import PROT_READ, PROT_WRITE, Osdep, OsError
from bulkhead.impl.xen.abi import PAGE_SIZE


class RingMapping:
    """One mapped ring page. `by` is the method: grant or foreign."""

    __slots__ = ("addr", "by", "fmem", "xgt")

    def __init__(
        self, os: Osdep, xgt: gt.XenGnttab | None, fmem: fm.XenForeignMemory | None, domid: int, ref: int, mfn: int
    ) -> None:
        self.xgt = xgt
        self.fmem = fmem
        self.by = "grant"
        addr = None if xgt is None else gt.xengnttab_map_grant_ref(xgt, domid, ref, PROT_READ | PROT_WRITE)
        if addr is None and fmem is not None:
            self.by = "foreign"
            addr = fm.xc_map_foreign_range(fmem, domid, PAGE_SIZE, PROT_READ | PROT_WRITE, mfn)
        if addr is None:
            raise OsError(os.errno)
        self.addr = addr

    def unmap(self) -> None:
        """Unmap the page; the teardown of a dead guest waits for this."""
        if self.by == "grant" and self.xgt is not None:
            gt.xengnttab_unmap(self.xgt, self.addr, 1)
        elif self.fmem is not None:
            fm.xenforeignmemory_unmap(self.fmem, self.addr, 1)


class RingMapper:
    """The handles of one daemon."""

    def __init__(self, os: Osdep) -> None:
        self.os = os
        self.xgt = gt.xengnttab_open(os)
        self.fmem = fm.xenforeignmemory_open(os) if self.xgt is None else None
        if self.xgt is None and self.fmem is None:
            raise OsError(os.errno)

    def map(self, domid: int, ref: int, mfn: int) -> RingMapping:
        """Map a guest's ring; OSError."""
        return RingMapping(self.os, self.xgt, self.fmem, domid, ref, mfn)
