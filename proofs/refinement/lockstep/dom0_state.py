"""What a campaign knows of Dom0's user space: processes, open files, maps, mappings.

Each stands for elements of the rules: a process for a Space, an open file for a File, a map for a Map, a mapping for the
Translations of the process and (of a grant) of the kernel's own window.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field

from bulkhead.impl.dom0.gntdev import GrantMap
from bulkhead.impl.dom0.kernel import KernelError
from bulkhead.impl.dom0.process import OpenFile, Process
from bulkhead.impl.dom0.syscalls import Devices, Syscalls
from bulkhead.impl.xen.frames import Frame
from bulkhead.model.caller import OKAY

NOT_THERE = 99  # a descriptor that no process has


@dataclass(eq=False)
class MapRecord:
    """One gntdev map: what the driver keeps of it, and its element."""

    gmap: GrantMap
    m: int
    granter: int
    ref: int
    byte_at: int = -1  # where the byte lies that is to be cleared


@dataclass(eq=False)
class Opened:
    """An open file; descriptors of several processes may share it."""

    file: OpenFile
    x: int
    kind: str
    maps: list[MapRecord] = field(default_factory=list)


@dataclass(eq=False)
class SharedPage:
    """A page that gntalloc gave out."""

    opened: Opened
    offset: int
    ref: int
    f: int
    mfn: int


@dataclass(eq=False)
class Slot:
    """One page that a process has mapped from a device."""

    kind: str  # grant, own, foreign
    vpn: int
    writable: bool
    user: int | None = None
    kernel: int | None = None
    record: MapRecord | None = None
    maddr: int = 0


class Proc:
    """A process of Dom0, with a page for arguments and one whose bytes it copies."""

    def __init__(self, space: int, process: Process, nodes: Devices, parent: Proc | None = None) -> None:
        self.space = space
        self.process = process
        self.sys = Syscalls(f"p{space}", process, nodes)
        self.fds: dict[int, Opened] = {} if parent is None else dict(parent.fds)
        self.slots: dict[int, Slot] = {}
        self.root: bool = True if parent is None else parent.root
        if parent is None:
            self.arg, self.buffer = self.sys.anonymous(1), self.sys.anonymous(1)
        else:
            self.arg, self.buffer = parent.arg, parent.buffer

    def page(self) -> Frame:
        """The page whose bytes it copies."""
        return self.process.space.anon[self.buffer >> 12]

    def ioctl(self, fd: int, cmd: int, payload: bytes) -> tuple[str, int, bytes]:
        """An ioctl on the argument page: errno's name or okay, the result, and the bytes after it."""
        self.sys.store(self.arg, payload)
        try:
            rc = self.sys.ioctl(fd, cmd, self.arg)
        except KernelError as error:
            return errno.errorcode[error.code], 0, payload
        return OKAY, rc, self.sys.load(self.arg, len(payload))

    def mmap(self, fd: int, offset: int, writable: bool) -> tuple[str, int]:
        """mmap of one page: errno's name or okay, and the address."""
        try:
            return OKAY, self.sys.mmap(1, 3 if writable else 1, fd, offset)
        except KernelError as error:
            return errno.errorcode[error.code], 0

    def of_kind(self, kind: str) -> list[tuple[int, Opened]]:
        """Descriptors of a device."""
        return [(fd, o) for fd, o in self.fds.items() if o.kind == kind]


@dataclass
class Mapping:
    """An mmap that the kernel is about: first the process's entry is made, then the kernel's own."""

    slot: Slot
    proc: Proc
    x: int
    m: int
    made: int = 0
