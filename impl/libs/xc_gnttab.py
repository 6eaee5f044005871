"""The five calls of 2007: xc_gnttab_open, close, map_grant_ref, map_grant_refs, munmap.

Contents: their conventions; a handle is a plain descriptor: open returns a number or -1, the map calls an
address or None (NULL), close and munmap 0 or -1; errno is the process's. Not here: later functions. Source: Xen
tools/libxc/xenctrl.h and xc_linux.c of 3.1.
"""

from __future__ import annotations

from collections.abc import Sequence

from bulkhead.impl.libs.gnttab import (
    XenGnttab,
    xengnttab_close,
    xengnttab_map_grant_ref,
    xengnttab_map_grant_refs,
    xengnttab_open,
    xengnttab_unmap,
)
from bulkhead.impl.libs.osdep import Osdep


class XcGnttab:
    """The calls of one process."""

    def __init__(self, os: Osdep) -> None:
        self.os = os

    @property
    def errno(self) -> int:
        """The error of the last failed call."""
        return self.os.errno

    def xc_gnttab_open(self) -> int:
        """A descriptor, or -1."""
        handle = xengnttab_open(self.os)
        return -1 if handle is None else handle.fd

    def xc_gnttab_close(self, xcg_handle: int) -> int:
        """0, or -1."""
        return xengnttab_close(XenGnttab(self.os, xcg_handle))

    def xc_gnttab_map_grant_ref(self, xcg_handle: int, domid: int, ref: int, prot: int) -> int | None:
        """The address of one mapped grant, or None."""
        return xengnttab_map_grant_ref(XenGnttab(self.os, xcg_handle), domid, ref, prot)

    def xc_gnttab_map_grant_refs(
        self, xcg_handle: int, count: int, domids: Sequence[int], refs: Sequence[int], prot: int
    ) -> int | None:
        """The address of `count` contiguously mapped grants, or None."""
        handle = XenGnttab(self.os, xcg_handle)
        return xengnttab_map_grant_refs(handle, list(domids)[:count], list(refs)[:count], prot)

    def xc_gnttab_munmap(self, xcg_handle: int, start: int | None, count: int) -> int:
        """Unmap a whole mapping: 0, or -1."""
        return xengnttab_unmap(XenGnttab(self.os, xcg_handle), start, count)
