"""The libraries' backend for the devices of Linux, in the bytes of its ioctls.

Contents: building the structs, the order of the calls, and the rollback when one fails. Not here: the
drivers (impl/dom0). Sources: Xen tools/libs/gnttab/linux.c, tools/libs/foreignmemory/linux.c,
tools/libs/evtchn/linux.c, tools/libs/call/linux.c.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from struct import Struct, unpack
from typing import Final

from bulkhead.impl.dom0 import ioctl as dev
from bulkhead.impl.dom0 import ioctl_control as control
from bulkhead.impl.dom0.syscalls import EVTCHN, GNTALLOC, GNTDEV, PRIVCMD
from bulkhead.impl.libs.osdep import NO_NOTIFY, PROT_READ, PROT_WRITE, CopySegment, Osdep, OsDriver, OsError
from bulkhead.impl.xen import abi
from bulkhead.impl.xen.abi import EINVAL, U32, U64

CLEAR_BYTE: Final = 1
SEND_EVENT: Final = 2
NOTIFY: Final = Struct("<QII")


def pages(size: int) -> int:
    """The number of pages for so many bytes."""
    return (size + abi.PAGE_MASK) >> abi.PAGE_SHIFT


class UnixOsdep(Osdep):
    """Common to all Unix-like systems: descriptors, memory, privcmd and evtchn."""

    def __init__(self, driver: OsDriver) -> None:
        self.driver = driver
        self.errno = 0
        self.fired: dict[int, list[int]] = {}

    def load(self, addr: int, size: int) -> bytes:
        """Read memory."""
        return self.driver.load(addr, size)

    def store(self, addr: int, payload: bytes) -> None:
        """Write memory."""
        self.driver.store(addr, payload)

    def close(self, fd: int) -> None:
        """Close a descriptor."""
        self.fired.pop(fd, None)
        self.driver.close(fd)

    @contextlib.contextmanager
    def scratch(self, size: int) -> Iterator[int]:
        """Memory for the arguments of one call."""
        at = self.buffer(size)
        try:
            yield at
        finally:
            self.release(at, size)

    def struct_ioctl(self, fd: int, cmd: int, payload: bytes, back: int = 0) -> bytes:
        """An ioctl on a struct; returns its first `back` bytes after the call."""
        with self.scratch(len(payload)) as at:
            self.driver.store(at, payload)
            self.driver.ioctl(fd, cmd, at)
            return self.driver.load(at, back) if back else b""

    def notify_arguments(self, index: int, count: int, offset: int, port: int) -> bytes | None:
        """struct unmap_notify, or None without a notification. An offset outside the mapping means no byte."""
        inside = 0 <= offset < count * abi.PAGE_SIZE
        action = (CLEAR_BYTE if inside else 0) | (SEND_EVENT if port != NO_NOTIFY else 0)
        if not action:
            return None
        byte = index + (offset if inside else 0)
        return NOTIFY.pack(byte, action, port & 0xFFFFFFFF if port != NO_NOTIFY else 0)

    # --- foreign memory ---
    def foreign_open(self) -> int:
        """privcmd."""
        return self.driver.open(PRIVCMD)

    def foreign_map(self, fd: int, domid: int, prot: int, gfns: Sequence[int]) -> tuple[int, list[int]]:
        """Reserve addresses, then fill them by MMAPBATCH_V2."""
        if not gfns:
            raise OsError(EINVAL)
        count = len(gfns)
        at = self.driver.mmap(count, prot, fd, 0)
        try:
            with self.scratch(32 + count * 12) as arg:
                frames, errors = arg + 32, arg + 32 + count * 8
                self.driver.store(arg, control.MMAPBATCH_V2.pack(count, domid & 0xFFFF, 0, at, frames, errors))
                self.driver.store(frames, b"".join(U64.pack(gfn & (1 << 64) - 1) for gfn in gfns))
                self.driver.ioctl(fd, control.PRIVCMD_MMAPBATCH_V2, arg)
                return at, list(unpack(f"<{count}i", self.driver.load(errors, count * 4)))
        except OSError:
            self.driver.munmap(at, count)
            raise

    def foreign_unmap(self, fd: int, addr: int, count: int) -> None:
        """munmap."""
        self.driver.munmap(addr, count)

    def foreign_restrict(self, fd: int, domid: int) -> None:
        """RESTRICT."""
        self.struct_ioctl(fd, control.PRIVCMD_RESTRICT, abi.U16.pack(domid & 0xFFFF))

    def foreign_resource(self, fd: int, domid: int, kind: int, rid: int, first: int, count: int, prot: int) -> int:
        """Reserve addresses, then fill them by MMAP_RESOURCE."""
        at = self.driver.mmap(count, prot, fd, 0)
        try:
            packed = control.MMAP_RESOURCE.pack(domid & 0xFFFF, 0, kind, rid, first, count, at)
            self.struct_ioctl(fd, control.PRIVCMD_MMAP_RESOURCE, packed)
        except OSError:
            self.driver.munmap(at, count)
            raise
        return at

    # --- event channels ---
    def evtchn_open(self) -> int:
        """evtchn."""
        return self.driver.open(EVTCHN)

    def _evtchn(self, fd: int, cmd: int, payload: bytes) -> int:
        with self.scratch(len(payload)) as at:
            self.driver.store(at, payload)
            return self.driver.ioctl(fd, cmd, at)

    def evtchn_bind_interdomain(self, fd: int, domid: int, port: int) -> int:
        """BIND_INTERDOMAIN."""
        return self._evtchn(fd, control.EVTCHN_BIND_INTERDOMAIN, control.TWO.pack(domid & 0xFFFFFFFF, port & 0xFFFFFFFF))

    def evtchn_bind_unbound_port(self, fd: int, domid: int) -> int:
        """BIND_UNBOUND_PORT."""
        return self._evtchn(fd, control.EVTCHN_BIND_UNBOUND_PORT, U32.pack(domid & 0xFFFFFFFF))

    def evtchn_bind_virq(self, fd: int, virq: int) -> int:
        """BIND_VIRQ."""
        return self._evtchn(fd, control.EVTCHN_BIND_VIRQ, U32.pack(virq & 0xFFFFFFFF))

    def evtchn_unbind(self, fd: int, port: int) -> None:
        """UNBIND."""
        self._evtchn(fd, control.EVTCHN_UNBIND, U32.pack(port & 0xFFFFFFFF))

    def evtchn_notify(self, fd: int, port: int) -> None:
        """NOTIFY."""
        self._evtchn(fd, control.EVTCHN_NOTIFY, U32.pack(port & 0xFFFFFFFF))

    def evtchn_pending(self, fd: int) -> int:
        """read() of one port; other ports that were read wait for the next call."""
        ready = self.fired.setdefault(fd, [])
        if not ready:
            raw = self.driver.read(fd, 4)
            ready.extend(unpack(f"<{len(raw) // 4}I", raw))
        return ready.pop(0)

    def evtchn_unmask(self, fd: int, port: int) -> None:
        """write() of the port."""
        self.driver.write(fd, U32.pack(port & 0xFFFFFFFF))

    # --- hypercalls ---
    def call_open(self) -> int:
        """privcmd."""
        return self.driver.open(PRIVCMD)

    def hypercall(self, fd: int, number: int, args: Sequence[int]) -> int:
        """PRIVCMD_HYPERCALL."""
        padded = [*args, 0, 0, 0, 0, 0][:5]
        with self.scratch(control.HYPERCALL.size) as at:
            self.driver.store(at, control.HYPERCALL.pack(number, *padded))
            return self.driver.ioctl(fd, control.PRIVCMD_HYPERCALL, at)

    def buffer(self, size: int) -> int:
        """Anonymous memory."""
        return self.driver.anonymous(pages(size))

    def release(self, addr: int, size: int) -> None:
        """Unmap it."""
        self.driver.munmap(addr, pages(size))


class LinuxOsdep(UnixOsdep):
    """gntdev and gntalloc, with the references inside the structs."""

    def gnttab_open(self) -> int:
        """gntdev."""
        return self.driver.open(GNTDEV)

    def gnttab_map(self, fd: int, grants: Sequence[tuple[int, int]], prot: int, offset: int, port: int) -> int:
        """MAP_GRANT_REF, mmap, SET_UNMAP_NOTIFY; a failure undoes the earlier steps."""
        if not grants or prot not in (PROT_READ, PROT_READ | PROT_WRITE):
            raise OsError(EINVAL)
        pairs = b"".join(dev.PAIR.pack(domid & 0xFFFFFFFF, ref & 0xFFFFFFFF) for domid, ref in grants)
        raw = self.struct_ioctl(fd, dev.GNTDEV_MAP_GRANT_REF, dev.HEAD.pack(len(grants), 0, 0) + pairs, 16)
        index: int = dev.HEAD.unpack(raw)[2]
        at = 0
        try:
            at = self.driver.mmap(len(grants), prot, fd, index)
            notify = self.notify_arguments(index, len(grants), offset, port)
            if notify is not None:
                self.struct_ioctl(fd, dev.SET_UNMAP_NOTIFY, notify)
        except OSError:
            if at:
                self.driver.munmap(at, len(grants))
            self.struct_ioctl(fd, dev.GNTDEV_UNMAP_GRANT_REF, dev.RANGE.pack(index, len(grants), 0))
            raise
        return at

    def gnttab_unmap(self, fd: int, addr: int, count: int) -> None:
        """The driver's count must be the caller's; then munmap, then UNMAP_GRANT_REF."""
        if not addr:
            raise OsError(EINVAL)
        raw = self.struct_ioctl(fd, dev.GNTDEV_GET_OFFSET_FOR_VADDR, U64.pack(addr) + bytes(16), 24)
        index, mapped = U64.unpack_from(raw, 8)[0], U32.unpack_from(raw, 16)[0]
        if mapped != count:
            raise OsError(EINVAL)
        self.driver.munmap(addr, count)
        self.struct_ioctl(fd, dev.GNTDEV_UNMAP_GRANT_REF, dev.RANGE.pack(index, count, 0))

    def gnttab_set_max_grants(self, fd: int, count: int) -> None:
        """SET_MAX_GRANTS; current kernels do not have it, and that counts as success."""
        with contextlib.suppress(OSError):
            self.struct_ioctl(fd, dev.GNTDEV_SET_MAX_GRANTS, U32.pack(count))

    def gnttab_copy(self, fd: int, segments: Sequence[CopySegment]) -> list[int]:
        """GRANT_COPY; the segments follow the header."""
        if not segments:
            return []
        size = 16 + 24 * len(segments)
        with self.scratch(size) as at:
            out = dev.COPY_HEAD.pack(len(segments), 0, at + 16)
            for each in segments:
                flags = 0
                sides = []
                for side, bit in ((each.source, abi.GNTCOPY_SOURCE_GREF), (each.dest, abi.GNTCOPY_DEST_GREF)):
                    if isinstance(side, tuple):
                        flags |= bit
                        ref, offset, domid = side
                        sides.append(dev.FOREIGN.pack(ref & 0xFFFFFFFF, offset & 0xFFFF, domid & 0xFFFF))
                    else:
                        sides.append(U64.pack(side))
                out += dev.SEGMENT.pack(sides[0], sides[1], each.length & 0xFFFF, flags, 0, 0)
            self.driver.store(at, out)
            self.driver.ioctl(fd, dev.GNTDEV_GRANT_COPY, at)
            raw = self.driver.load(at, size)
        return [abi.STATUS.unpack_from(raw, 16 + 24 * i + 20)[0] for i in range(len(segments))]

    def gntshr_open(self) -> int:
        """gntalloc."""
        return self.driver.open(GNTALLOC)

    def gntshr_share(self, fd: int, domid: int, count: int, writable: bool, offset: int, port: int) -> tuple[int, list[int]]:
        """ALLOC_GREF, mmap, SET_UNMAP_NOTIFY, and DEALLOC_GREF at once: the mapping alone keeps the pages."""
        if count < 1:
            raise OsError(EINVAL)
        head = dev.ALLOC_HEAD.pack(domid & 0xFFFF, int(writable), count, 0)
        raw = self.struct_ioctl(fd, dev.GNTALLOC_ALLOC_GREF, head + bytes(4 * count), 16 + 4 * count)
        index: int = dev.ALLOC_HEAD.unpack_from(raw)[3]
        refs = list(unpack(f"<{count}I", raw[16:]))
        at = 0
        try:
            at = self.driver.mmap(count, PROT_READ | PROT_WRITE, fd, index)
            notify = self.notify_arguments(index, count, offset, port)
            if notify is not None:
                self.struct_ioctl(fd, dev.SET_UNMAP_NOTIFY, notify)
        except OSError:
            if at:
                self.driver.munmap(at, count)
            raise
        finally:
            self.struct_ioctl(fd, dev.GNTALLOC_DEALLOC_GREF, dev.RANGE.pack(index, count, 0))
        return at, refs

    def gntshr_unshare(self, fd: int, addr: int, count: int) -> None:
        """munmap."""
        self.driver.munmap(addr, count)
