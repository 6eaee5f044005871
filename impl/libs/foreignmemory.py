"""libxenforeignmemory: maps any page of a domain, for privileged callers, with libxc's older names for it.

Contents: xenforeignmemory_* and xc_map_foreign_*. If a system has no privcmd, open fails with ENOENT, and
without a handle there is no foreign mapping; if the domain lacks the privilege, each page fails with -EPERM.
Source: Xen tools/libs/foreignmemory/core.c, tools/libs/ctrl/xc_foreign_memory.c.
"""

from __future__ import annotations

from collections.abc import Sequence

from bulkhead.impl.libs.osdep import Handle, Osdep, OsError, minus_on_error, null_on_error
from bulkhead.impl.xen.abi import EINVAL, PAGE_MASK, PAGE_SHIFT


class XenForeignMemory(Handle):
    """xenforeignmemory_handle."""

    __slots__ = ()


@null_on_error
def xenforeignmemory_open(os: Osdep) -> XenForeignMemory:
    """Open the device; None with ENOENT if the system has no privcmd."""
    return XenForeignMemory(os, os.foreign_open())


@minus_on_error
def xenforeignmemory_close(fmem: XenForeignMemory) -> int:
    """Close the handle. Mappings stay."""
    fmem.os.close(fmem.fd)
    return 0


@null_on_error
def xenforeignmemory_map(
    fmem: XenForeignMemory, domid: int, prot: int, gfns: Sequence[int], err: list[int] | None = None
) -> int:
    """Map frames contiguously. With `err`, a list to fill, single pages may fail; without it, all or none are mapped."""
    addr, errors = fmem.os.foreign_map(fmem.fd, domid, prot, gfns)
    if err is not None:
        err[:] = errors
        return addr
    failed = next((each for each in errors if each), 0)
    if failed:
        fmem.os.foreign_unmap(fmem.fd, addr, len(gfns))
        raise OsError(-failed)
    return addr


@minus_on_error
def xenforeignmemory_unmap(fmem: XenForeignMemory, addr: int, count: int) -> int:
    """Unmap pages."""
    fmem.os.foreign_unmap(fmem.fd, addr, count)
    return 0


@minus_on_error
def xenforeignmemory_restrict(fmem: XenForeignMemory, domid: int) -> int:
    """Restrict this handle to one domain."""
    fmem.os.foreign_restrict(fmem.fd, domid)
    return 0


@null_on_error
def xenforeignmemory_map_resource(
    fmem: XenForeignMemory, domid: int, kind: int, rid: int, frame: int, count: int, prot: int
) -> int:
    """Map frames of a resource, such as a domain's grant table."""
    return fmem.os.foreign_resource(fmem.fd, domid, kind, rid, frame, count, prot)


def xc_map_foreign_range(fmem: XenForeignMemory, dom: int, size: int, prot: int, mfn: int) -> int | None:
    """Map `size` bytes (whole pages) from frame `mfn` on; None and errno."""
    if size <= 0:
        fmem.os.errno = EINVAL
        return None
    return xenforeignmemory_map(fmem, dom, prot, [mfn + i for i in range((size + PAGE_MASK) >> PAGE_SHIFT)])


def xc_map_foreign_pages(fmem: XenForeignMemory, dom: int, prot: int, arr: Sequence[int]) -> int | None:
    """Map the frames of a list, all or nothing."""
    return xenforeignmemory_map(fmem, dom, prot, arr)
