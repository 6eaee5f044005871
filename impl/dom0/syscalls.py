"""System calls of a Dom0 process: open by path, ioctl by number, mmap at a free address.

Contents: the device nodes of a system (disaggregation changes which of them exist), and the dispatch from
a descriptor to its driver's ioctls. Not here: the drivers, and the libraries on top (impl/libs). A call that
fails raises KernelError with the errno. Sources: Linux fs/ioctl.c, mm/mmap.c; device names as under /dev/xen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from struct import iter_unpack
from typing import Final

from bulkhead.impl.dom0.areas import DeviceFile, OpenFile
from bulkhead.impl.dom0.evtchn import MOST_BYTES, POLLERR, POLLIN, POLLOUT, Evtchn
from bulkhead.impl.dom0.gntalloc import Gntalloc, GntallocPool
from bulkhead.impl.dom0.gntdev import Gntdev
from bulkhead.impl.dom0.gntdev_bsd import BsdGntdev, bsd_ioctl
from bulkhead.impl.dom0.hypercall_buffers import HypercallBuffers
from bulkhead.impl.dom0.ioctl import gntalloc_ioctl, gntdev_ioctl
from bulkhead.impl.dom0.ioctl_control import evtchn_ioctl, privcmd_ioctl
from bulkhead.impl.dom0.kernel import Kernel, KernelError
from bulkhead.impl.dom0.privcmd import Privcmd
from bulkhead.impl.dom0.process import MAP_SHARED, Process, user_read, user_write
from bulkhead.impl.dom0.vma_changes import protect, remap
from bulkhead.impl.xen import abi


class WouldSleep(KernelError):
    """A blocking call would sleep: it has had no effect, and the caller repeats it when data is available."""


Devices = Mapping[str, Callable[[], DeviceFile]]
GNTDEV: Final = "/dev/xen/gntdev"
GNTALLOC: Final = "/dev/xen/gntalloc"
PRIVCMD: Final = "/dev/xen/privcmd"
EVTCHN: Final = "/dev/xen/evtchn"
HYPERCALL: Final = "/dev/xen/hypercall"
ENOTDIR: Final = 20
MMAP_BASE: Final = 0x20000
MMAP_END: Final = 0x8000000


def devices(kernel: Kernel, pool: GntallocPool, names: tuple[str, ...], bsd: bool = False) -> Devices:
    """The named device nodes. With `bsd` the gntdev node is the BSD one, which makes grants as well."""
    known: dict[str, Callable[[], DeviceFile]] = {
        GNTDEV: partial(BsdGntdev, kernel, pool) if bsd else partial(Gntdev, kernel),
        GNTALLOC: partial(Gntalloc, pool),
        PRIVCMD: partial(Privcmd, kernel),
        EVTCHN: partial(Evtchn, kernel),
        HYPERCALL: partial(HypercallBuffers, kernel),
    }
    return {name: known[name] for name in names}


class Syscalls:
    """The system calls of one process."""

    __slots__ = ("devices", "name", "process")

    def __init__(self, name: str, process: Process, nodes: Devices) -> None:
        self.name = name
        self.process = process
        self.devices = nodes

    # --- files ---
    def open(self, path: str, nonblock: bool = True) -> int:
        """A descriptor; ENOENT for an unknown device, ENOTDIR beyond a device. With `nonblock` false, read() may sleep."""
        make = self.devices.get(path)
        if make is None:
            beyond = any(path.startswith(f"{node}/") for node in self.devices)
            raise KernelError(ENOTDIR if beyond else abi.ENOENT)
        fd = self.process.open(make())
        self.process.file(fd).nonblock = nonblock
        return fd

    def close(self, fd: int) -> None:
        """Close a descriptor; EBADF."""
        self.process.close(fd)

    def dup(self, fd: int) -> int:
        """Another descriptor of the same open file; EBADF."""
        return self.process.dup(fd)

    def ioctl(self, fd: int, cmd: int, arg: int) -> int:
        """An ioctl with a pointer into the process's memory."""
        device = self.process.file(fd).device
        space = self.process.space
        if isinstance(device, Gntdev):
            return gntdev_ioctl(device, space, cmd, arg)
        if isinstance(device, Gntalloc):
            return gntalloc_ioctl(device, space, cmd, arg)
        if isinstance(device, BsdGntdev):
            return bsd_ioctl(device, space, cmd, arg)
        if isinstance(device, Privcmd):
            return privcmd_ioctl(device, space, cmd, arg)
        if isinstance(device, HypercallBuffers):
            raise KernelError(abi.ENOTTY)
        assert isinstance(device, Evtchn)
        device.kernel.upcall()
        return evtchn_ioctl(device, space, cmd, arg)

    @staticmethod
    def _evtchn(file: OpenFile) -> Evtchn:
        """The device behind a file that can be read and written; EINVAL."""
        if not isinstance(file.device, Evtchn):
            raise KernelError(abi.EINVAL)
        return file.device

    def read(self, fd: int | OpenFile, size: int, into: int | None = None) -> bytes:
        """read(): of event channels, whole ports as 32-bit numbers, up to `size` bytes; others wait for the next read.

        EAGAIN if there is none (`WouldSleep` if the descriptor may block). With `into` they are written to memory; on a
        fault there (EFAULT) they stay unread. Who sleeps in a read holds the file (`OpenFile.get`) and repeats the call with
        it: another thread may close the descriptor meanwhile.
        """
        file = fd if isinstance(fd, OpenFile) else self.process.file(fd)
        device = self._evtchn(file)
        try:
            ports = device.peek(size)
        except KernelError as error:
            if error.code == abi.EAGAIN and not file.nonblock:
                raise WouldSleep(abi.EAGAIN) from error
            raise
        raw = b"".join(abi.U32.pack(port) for port in ports)
        if into is not None:
            user_write(self.process.space, into, raw)
        del device.ring[: len(ports)]
        return raw

    def poll(self, fd: int, wanted: int = POLLIN | POLLOUT) -> int:
        """The events of poll() without waiting, of those that are wanted; a device that cannot be polled is always ready.

        An error is told whether it is wanted or not.
        """
        device = self.process.file(fd).device
        events = device.poll() if isinstance(device, Evtchn) else POLLIN | POLLOUT
        return events & (wanted | POLLERR)

    def write(self, fd: int, payload: bytes) -> int:
        """write(): of event channels, ports to enable again: whole ones, and a page of them at most."""
        device = self._evtchn(self.process.file(fd))
        size = min(len(payload) & ~3, MOST_BYTES)
        device.write([port for (port,) in iter_unpack("<I", payload[:size])])
        return size

    # --- memory ---
    def _room(self, npages: int) -> int:
        at = MMAP_BASE
        for vma in sorted(self.process.space.vmas, key=lambda each: each.start):
            if vma.start >= at + npages:
                break
            at = max(at, vma.end)
        if npages < 1 or at + npages > MMAP_END:
            raise KernelError(abi.ENOMEM if npages > 0 else abi.EINVAL)
        return at

    def mmap(self, npages: int, prot: int, fd: int, offset: int, flags: int = MAP_SHARED) -> int:
        """Map pages of a device at the first free place; the address."""
        file = self.process.file(fd)
        vpn = self._room(npages)
        self.process.space.mmap(vpn, npages, prot, flags, file, offset)
        return vpn << 12

    def anonymous(self, npages: int) -> int:
        """Private zeroed memory; the address."""
        vpn = self._room(npages)
        try:
            self.process.space.map_anonymous(vpn, npages)
        except KernelError:
            self.process.space.unmap(vpn, npages)
            raise
        return vpn << 12

    def munmap(self, addr: int, npages: int) -> None:
        """Unmap pages; EINVAL for an unaligned address."""
        if addr & 0xFFF or npages < 1:
            raise KernelError(abi.EINVAL)
        self.process.space.unmap(addr >> 12, npages)

    def mprotect(self, addr: int, npages: int, prot: int) -> None:
        """Change the protection of pages; EINVAL for an unaligned address, ENOMEM for unmapped pages."""
        if addr & 0xFFF:
            raise KernelError(abi.EINVAL)
        protect(self.process.space, addr >> 12, npages, prot)

    def mremap(self, addr: int, npages: int, new_pages: int, to: int | None = None) -> int:
        """Shrink a mapping, or move it to an address; returns its address."""
        if addr & 0xFFF or (to is not None and to & 0xFFF):
            raise KernelError(abi.EINVAL)
        return remap(self.process.space, addr >> 12, npages, new_pages, None if to is None else to >> 12) << 12

    def load(self, addr: int, size: int) -> bytes:
        """Read the process's memory; EFAULT where a load would raise a signal."""
        return user_read(self.process.space, addr, size)

    def store(self, addr: int, payload: bytes) -> None:
        """Write the process's memory; EFAULT."""
        user_write(self.process.space, addr, payload)

    def exit(self) -> None:
        """The process exits or is killed."""
        self.process.exit()
