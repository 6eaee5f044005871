"""libxengnttab: maps grants of other domains, and shares the caller's own pages.

Contents: xengnttab_* and xengntshr_* with their conventions (None or -1, and errno of the handle's `os`).
Addresses are numbers; memory is read and written through `os.load` and `os.store`. Not here: any operating
system. Source: Xen tools/libs/gnttab/gnttab_core.c, gntshr_core.c, include/xengnttab.h.
"""

from __future__ import annotations

from collections.abc import Sequence

from bulkhead.impl.libs.osdep import NO_NOTIFY, CopySegment, Handle, Osdep, OsError, minus_on_error, null_on_error
from bulkhead.impl.xen.abi import EINVAL


class XenGnttab(Handle):
    """xengnttab_handle."""

    __slots__ = ()


class XenGntshr(Handle):
    """xengntshr_handle."""

    __slots__ = ()


@null_on_error
def xengnttab_open(os: Osdep) -> XenGnttab:
    """Open the device; None when there is none (ENOENT)."""
    return XenGnttab(os, os.gnttab_open())


@minus_on_error
def xengnttab_close(xgt: XenGnttab) -> int:
    """Close the handle. Mappings stay."""
    xgt.os.close(xgt.fd)
    return 0


def xengnttab_fd(xgt: XenGnttab) -> int:
    """The descriptor behind the handle."""
    return xgt.fd


@minus_on_error
def xengnttab_set_max_grants(xgt: XenGnttab, count: int) -> int:
    """A hint; 0 if the system ignores it."""
    xgt.os.gnttab_set_max_grants(xgt.fd, count)
    return 0


@null_on_error
def xengnttab_map_grant_ref(xgt: XenGnttab, domid: int, ref: int, prot: int) -> int:
    """Map one grant; its address."""
    return xgt.os.gnttab_map(xgt.fd, [(domid, ref)], prot, NO_NOTIFY, NO_NOTIFY)


@null_on_error
def xengnttab_map_grant_refs(xgt: XenGnttab, domids: Sequence[int], refs: Sequence[int], prot: int) -> int:
    """Map grants of several domains contiguously; the address of the first."""
    if len(domids) != len(refs):
        raise OsError(EINVAL)
    return xgt.os.gnttab_map(xgt.fd, list(zip(domids, refs, strict=True)), prot, NO_NOTIFY, NO_NOTIFY)


@null_on_error
def xengnttab_map_domain_grant_refs(xgt: XenGnttab, domid: int, refs: Sequence[int], prot: int) -> int:
    """Map grants of one domain contiguously."""
    return xgt.os.gnttab_map(xgt.fd, [(domid, ref) for ref in refs], prot, NO_NOTIFY, NO_NOTIFY)


@null_on_error
def xengnttab_map_grant_ref_notify(
    xgt: XenGnttab, domid: int, ref: int, prot: int, notify_offset: int, notify_port: int
) -> int:
    """Map one grant; when it is unmapped, or its process dies, clear a byte and send an event (-1: neither)."""
    return xgt.os.gnttab_map(xgt.fd, [(domid, ref)], prot, notify_offset, notify_port)


@minus_on_error
def xengnttab_unmap(xgt: XenGnttab, start: int | None, count: int) -> int:
    """Unmap a whole mapping; EINVAL for another count."""
    if start is None:
        raise OsError(EINVAL)
    xgt.os.gnttab_unmap(xgt.fd, start, count)
    return 0


@null_on_error
def xengnttab_grant_copy(xgt: XenGnttab, segments: Sequence[CopySegment]) -> list[int]:
    """Copy segments: a GNTST status for each (in C: 0, and the statuses in the segments). None is C's -1."""
    return xgt.os.gnttab_copy(xgt.fd, segments)


@null_on_error
def xengntshr_open(os: Osdep) -> XenGntshr:
    """Open the device for sharing."""
    return XenGntshr(os, os.gntshr_open())


@minus_on_error
def xengntshr_close(xgs: XenGntshr) -> int:
    """Close the handle. Shared pages stay while mapped."""
    xgs.os.close(xgs.fd)
    return 0


@null_on_error
def xengntshr_share_pages(xgs: XenGntshr, domid: int, count: int, writable: bool) -> tuple[int, list[int]]:
    """Fresh zeroed pages shared with a domain: (address, references)."""
    return xgs.os.gntshr_share(xgs.fd, domid, count, writable, NO_NOTIFY, NO_NOTIFY)


@null_on_error
def xengntshr_share_page_notify(
    xgs: XenGntshr, domid: int, writable: bool, notify_offset: int, notify_port: int
) -> tuple[int, list[int]]:
    """One page; when it is unmapped, clear a byte and send an event."""
    return xgs.os.gntshr_share(xgs.fd, domid, 1, writable, notify_offset, notify_port)


@minus_on_error
def xengntshr_unshare(xgs: XenGntshr, start: int, count: int) -> int:
    """Unshare pages; while a peer maps them they stay allocated, but this process cannot reach them."""
    xgs.os.gntshr_unshare(xgs.fd, start, count)
    return 0
