"""The libraries' backend for the BSD grant device: one device for both directions, pointers in its structs.

Contents: the differences from Linux. Grant copy does not exist there (ENOSYS). Source: Xen
tools/libs/gnttab/freebsd.c, FreeBSD sys/xen/gntdev.h.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import unpack

from bulkhead.impl.dom0 import gntdev_bsd as dev
from bulkhead.impl.dom0.ioctl import PAIR
from bulkhead.impl.dom0.syscalls import GNTDEV
from bulkhead.impl.libs.linux import UnixOsdep
from bulkhead.impl.libs.osdep import PROT_READ, PROT_WRITE, CopySegment, OsError
from bulkhead.impl.xen.abi import EINVAL, ENOSYS


class FreeBsdOsdep(UnixOsdep):
    """gntdev of BSD."""

    def gnttab_open(self) -> int:
        """gntdev."""
        return self.driver.open(GNTDEV)

    def gntshr_open(self) -> int:
        """The same device makes grants."""
        return self.driver.open(GNTDEV)

    def gnttab_map(self, fd: int, grants: Sequence[tuple[int, int]], prot: int, offset: int, port: int) -> int:
        """MAP_GRANT_REF with a pointer to the references, mmap, SET_UNMAP_NOTIFY."""
        count = len(grants)
        if not grants or prot not in (PROT_READ, PROT_READ | PROT_WRITE):
            raise OsError(EINVAL)
        with self.scratch(dev.MAP.size + 8 * count) as at:
            refs = at + dev.MAP.size
            pairs = b"".join(PAIR.pack(domid & 0xFFFFFFFF, ref & 0xFFFFFFFF) for domid, ref in grants)
            self.driver.store(at, dev.MAP.pack(count, 0, 0, refs) + pairs)
            self.driver.ioctl(fd, dev.BSD_MAP_GRANT_REF, at)
            index: int = dev.MAP.unpack(self.driver.load(at, dev.MAP.size))[2]
        mapped = 0
        try:
            mapped = self.driver.mmap(count, prot, fd, index)
            notify = self.notify_arguments(index, count, offset, port)
            if notify is not None:
                self.struct_ioctl(fd, dev.BSD_SET_UNMAP_NOTIFY, notify)
        except OSError:
            if mapped:
                self.driver.munmap(mapped, count)
            self.struct_ioctl(fd, dev.BSD_UNMAP_GRANT_REF, dev.RANGE.pack(index, count))
            raise
        return mapped

    def gnttab_unmap(self, fd: int, addr: int, count: int) -> None:
        """The driver's count must be the caller's; then munmap, then UNMAP_GRANT_REF."""
        if not addr:
            raise OsError(EINVAL)
        raw = self.struct_ioctl(fd, dev.BSD_GET_OFFSET_FOR_VADDR, dev.OFFSET.pack(addr, 0, 0), dev.OFFSET.size)
        _, index, mapped = dev.OFFSET.unpack(raw)
        if mapped != count:
            raise OsError(EINVAL)
        self.driver.munmap(addr, count)
        self.struct_ioctl(fd, dev.BSD_UNMAP_GRANT_REF, dev.RANGE.pack(index, count))

    def gnttab_set_max_grants(self, fd: int, count: int) -> None:
        """The device takes no hint."""

    def gnttab_copy(self, fd: int, segments: Sequence[CopySegment]) -> list[int]:
        """Not supported."""
        raise OsError(ENOSYS)

    def gntshr_share(self, fd: int, domid: int, count: int, writable: bool, offset: int, port: int) -> tuple[int, list[int]]:
        """ALLOC_GREF with a pointer to a buffer for the references, mmap, notify, DEALLOC_GREF."""
        if count < 1:
            raise OsError(EINVAL)
        with self.scratch(dev.ALLOC.size + 4 * count) as at:
            into = at + dev.ALLOC.size
            self.driver.store(at, dev.ALLOC.pack(domid & 0xFFFF, int(writable), count, 0, into))
            self.driver.ioctl(fd, dev.BSD_ALLOC_GREF, at)
            index: int = dev.ALLOC.unpack(self.driver.load(at, dev.ALLOC.size))[3]
            refs = list(unpack(f"<{count}I", self.driver.load(into, 4 * count)))
        mapped = 0
        try:
            mapped = self.driver.mmap(count, PROT_READ | PROT_WRITE, fd, index)
            notify = self.notify_arguments(index, count, offset, port)
            if notify is not None:
                self.struct_ioctl(fd, dev.BSD_SET_UNMAP_NOTIFY, notify)
        except OSError:
            if mapped:
                self.driver.munmap(mapped, count)
            raise
        finally:
            self.struct_ioctl(fd, dev.BSD_DEALLOC_GREF, dev.RANGE.pack(index, count))
        return mapped, refs

    def gntshr_unshare(self, fd: int, addr: int, count: int) -> None:
        """munmap."""
        self.driver.munmap(addr, count)
