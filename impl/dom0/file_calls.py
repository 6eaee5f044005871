"""Calls that Linux has for every kind of file, on the files of Xen's devices.

Contents: positions, pread and readv, fsync and the like, splice, epoll, fcntl's flags, the ioctls that the kernel answers
before a driver is asked. Only evtchn has a stream; nothing here reaches a page. Not here: what drivers answer (syscalls.py),
advisory locks, leases, and the inode. Sources: Linux fs/read_write.c, fs/ioctl.c, fs/fcntl.c, fs/splice.c, fs/eventpoll.c.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from bulkhead.impl.dom0.areas import OpenFile
from bulkhead.impl.dom0.evtchn import POLLIN, POLLOUT, Evtchn
from bulkhead.impl.dom0.kernel import KernelError
from bulkhead.impl.dom0.syscalls import Syscalls
from bulkhead.impl.xen import abi

O_RDWR, O_APPEND, O_NONBLOCK, O_ASYNC, O_DIRECT, O_LARGEFILE = 0o2, 0o2000, 0o4000, 0o20000, 0o40000, 0o100000
FIONBIO, FIOASYNC, FIOCLEX, FIONCLEX, FIONREAD, FIOQSIZE, FIGETBSZ = 0x5421, 0x5452, 0x5451, 0x5450, 0x541B, 0x5460, 2
BLOCK: Final = 4096  # of devtmpfs
CHARACTER_DEVICE: Final = 0o020000
ESPIPE: Final = 29
WHENCES: Final = range(5)  # SEEK_SET to SEEK_HOLE
EPOLLIN, EPOLLOUT = 1, 4


def _stream(file: OpenFile) -> bool:
    return isinstance(file.device, Evtchn)


def positioned(calls: Syscalls, fd: int, offset: int) -> None:
    """pread() and pwrite(): never; EINVAL for a negative offset and a device that cannot be read, ESPIPE for a stream."""
    if offset < 0:
        raise KernelError(abi.EINVAL)
    raise KernelError(ESPIPE if _stream(calls.process.file(fd)) else abi.EINVAL)


def lseek(calls: Syscalls, fd: int, whence: int) -> None:
    """lseek(): never."""
    calls.process.file(fd)
    raise KernelError(ESPIPE if whence in WHENCES else abi.EINVAL)


def fsync(calls: Syscalls, fd: int) -> None:
    """fsync(), ftruncate(), sendfile() and splice() from or to a device: never."""
    calls.process.file(fd)
    raise KernelError(abi.EINVAL)


def fallocate(calls: Syscalls, fd: int) -> None:
    """fallocate(): of regular files only."""
    calls.process.file(fd)
    raise KernelError(abi.ENODEV)


def fstat(calls: Syscalls, fd: int) -> tuple[int, int]:
    """fstat(): the kind of file, and its size."""
    calls.process.file(fd)
    return CHARACTER_DEVICE, 0


def epoll(calls: Syscalls, fd: int) -> int:
    """A new epoll set with this file, and what is ready then; EPERM for a file that is always ready."""
    if not _stream(calls.process.file(fd)):
        raise KernelError(abi.EPERM)
    events = calls.poll(fd, POLLIN | POLLOUT)
    return (EPOLLIN if events & EPOLLIN else 0) | (EPOLLOUT if events & EPOLLOUT else 0) | events & ~(POLLIN | POLLOUT)


def getfl(calls: Syscalls, fd: int) -> int:
    """F_GETFL."""
    file = calls.process.file(fd)
    flags = (O_NONBLOCK if file.nonblock else 0) | (O_APPEND if file.appends else 0) | (O_ASYNC if file.signals else 0)
    return O_RDWR | O_LARGEFILE | flags


def setfl(calls: Syscalls, fd: int, flags: int) -> None:
    """F_SETFL: no device does direct I/O (EINVAL); only evtchn sends signals, others ignore that."""
    file = calls.process.file(fd)
    if flags & O_DIRECT:
        raise KernelError(abi.EINVAL)
    file.nonblock, file.appends = bool(flags & O_NONBLOCK), bool(flags & O_APPEND)
    file.signals = bool(flags & O_ASYNC) and _stream(file)


def ioctl(calls: Syscalls, fd: int, request: int, value: int) -> int | None:
    """An ioctl that the kernel knows for any file: the word that it writes, if it does; ENOTTY or what the driver says."""
    file = calls.process.file(fd)
    if request in (FIOCLEX, FIONCLEX):
        return None
    if request == FIONBIO:
        file.nonblock = bool(value)
        return None
    if request == FIOASYNC:
        if bool(value) != file.signals and not _stream(file):
            raise KernelError(abi.ENOTTY)
        file.signals = bool(value)
        return None
    if request == FIGETBSZ:
        return BLOCK
    if request == FIONREAD and _stream(file):
        raise KernelError(abi.ENOSYS)  # of the driver, for an unknown ioctl
    raise KernelError(abi.ENOTTY)


NEVER: Final[dict[str, Callable[[Syscalls, int], object]]] = {
    "fsync": fsync,
    "ftruncate": fsync,
    "sendfile": fsync,
    "splicein": fsync,
    "spliceout": fsync,
    "fallocate": fallocate,
}
