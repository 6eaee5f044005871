"""The record of Dom0's user space: processes, open files, maps, mappings, and the kernel's current call.

Each corresponds to elements of the rules: a process to a Space, an open file to a File, a map to a Map, a mapping to the
Translations of the process and (for a grant) of the kernel's own window. Not here: what calls do (gntdev.py
and its neighbours), and what the kernel does for them (kernel.py).
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field

from bulkhead.impl.dom0.areas import OpenFile
from bulkhead.impl.dom0.gntalloc import GrantedPage
from bulkhead.impl.dom0.gntdev import GrantMap
from bulkhead.impl.dom0.kernel import KernelError
from bulkhead.impl.dom0.process import Process
from bulkhead.impl.dom0.syscalls import Devices, Syscalls
from bulkhead.impl.xen.frames import Frame
from bulkhead.model.caller import OKAY
from bulkhead.proofs.refinement.lockstep.call import CopyElement
from bulkhead.proofs.refinement.lockstep.flights import Flights

NOT_THERE = 99  # an unused descriptor
MOST_SLOTS = 6  # pages that a process has mapped from devices
BUFFER = 2  # pages that a process copies from and to


@dataclass(eq=False)
class MapRecord:
    """One gntdev map: the driver's record, its grants and their elements. Index and notice belong to the
    first one."""

    gmap: GrantMap
    elements: list[int]
    grants: list[tuple[int, int]]
    byte_at: int = -1  # offset of the byte to clear, from the map's start

    @property
    def m(self) -> int:
        """The element of the map as a whole."""
        return self.elements[0]


@dataclass(eq=False)
class Opened:
    """An open file; descriptors of several processes may share it."""

    file: OpenFile
    x: int
    kind: str
    maps: list[MapRecord] = field(default_factory=list)


@dataclass(eq=False)
class SharedPage:
    """A page allocated by gntalloc."""

    opened: Opened
    granted: GrantedPage
    ref: int
    f: int
    mfn: int

    @property
    def offset(self) -> int:
        """Its offset in the file."""
        return self.granted.offset


@dataclass(eq=False)
class Slot:
    """One page that a process has mapped from a device."""

    kind: str  # grant, own, foreign
    vpn: int
    writable: bool
    user: int | None = None
    kernel: int | None = None
    record: MapRecord | None = None
    page: int = 0  # its index in its map
    maddr: int = 0
    area: tuple[int, int] = (0, 0)  # of a foreign mapping, which is unmapped as a whole: first page and number of pages
    dead: bool = False  # the kernel has unmapped the grant; the mapping keeps its addresses

    def byte(self) -> int:
        """Offset in the page of the byte to clear; -1 for none."""
        if self.record is None or self.record.byte_at >> 12 != self.page:
            return -1
        return self.record.byte_at & 0xFFF


class Proc:
    """A process of Dom0, with a page for arguments and pages for copies."""

    def __init__(self, space: int, process: Process, nodes: Devices, parent: Proc | None = None) -> None:
        self.space = space
        self.process = process
        self.sys = Syscalls(f"p{space}", process, nodes)
        self.fds: dict[int, Opened] = {} if parent is None else dict(parent.fds)
        self.slots: dict[int, Slot] = {}
        self.root: bool = True if parent is None else parent.root
        if parent is None:
            self.arg, self.buffer = self.sys.anonymous(1), self.sys.anonymous(BUFFER)
        else:
            self.arg, self.buffer = parent.arg, parent.buffer

    def pages(self) -> list[Frame]:
        """The pages for copies."""
        return [self.process.space.anon[(self.buffer >> 12) + i] for i in range(BUFFER)]

    def ioctl(self, fd: int, cmd: int, payload: bytes) -> tuple[str, int, bytes]:
        """An ioctl on the argument page: errno's name or okay, the result, and the bytes after the call."""
        self.sys.store(self.arg, payload)
        try:
            rc = self.sys.ioctl(fd, cmd, self.arg)
        except KernelError as error:
            return errno.errorcode[error.code], 0, payload
        return OKAY, rc, self.sys.load(self.arg, len(payload))

    def mmap(self, fd: int, offset: int, writable: bool, count: int = 1) -> tuple[str, int]:
        """mmap of pages: errno's name or okay, and the address."""
        try:
            return OKAY, self.sys.mmap(count, 3 if writable else 1, fd, offset)
        except KernelError as error:
            return errno.errorcode[error.code], 0

    def slots_at(self, addr: int) -> Slot:
        """The mapped page at an address, or the next one above it."""
        return min((s for s in self.slots.values() if s.vpn >= addr >> 12), key=lambda s: s.vpn)

    def of_kind(self, kind: str) -> list[tuple[int, Opened]]:
        """Descriptors of a device."""
        return [(fd, o) for fd, o in self.fds.items() if o.kind == kind]


@dataclass
class Mapping:
    """The kernel's current mmap: it first makes the process's entry, then its own."""

    slots: list[Slot]
    proc: Proc
    x: int
    record: MapRecord
    made: int = 0


class UserSpace:
    """The processes of one machine, their open files, and the kernel's current call for one of them."""

    def __init__(self, lockstep: Flights) -> None:
        self.lockstep = lockstep
        self.kernel = lockstep.rig.kernel
        self.files: list[Opened] = []
        self.records: list[MapRecord] = []  # maps that are listed or mapped
        self.pages: list[SharedPage] = []
        self.procs: dict[int, Proc] = {}
        self.current: Proc | None = None  # the process that makes the system call
        self.mapping: Mapping | None = None  # the kernel's current mmap
        self.copying: tuple[Proc, int] | None = None
        self.wanted: list[CopyElement] = []  # expected copies that the kernel has not requested yet
        self.copied: list[list[str]] = []  # the hypervisor's answers to the hypercalls of the last copy
        self.closing: list[int] | None = None  # ports closed by a call whose rule has not been taken yet
        self.own_event = False  # an event channel call of a process, not of the kernel itself
        self.unbinding: dict[str, int] | None = None  # the process and file of an unbind
        lockstep.spec_state.lives[lockstep.rig.dom0] = 0
        own = lockstep.kernel_file  # in the rules, the kernel maps through its own file
        self.kernel_file = self.element("file.open") if own is None else own

    def rule(self, label: str, args: dict[str, int], expect: str = OKAY, fail: str | None = None) -> str:
        """Take a rule step, which must give the implementation's answer."""
        return self.lockstep.spec_state.step(label, args, expect, fail) if self.lockstep.rules_on else OKAY

    def element(self, func: str) -> int:
        """The first element for which a fact does not hold."""
        return self.lockstep.spec_state.T[func].index(0) if self.lockstep.rules_on else 0

    def free_map(self) -> int:
        """An unused map."""
        if not self.lockstep.rules_on:
            return 0
        T = self.lockstep.spec_state.T
        taken = {m for record in self.records for m in record.elements}
        return next(
            m
            for m in range(self.lockstep.spec_state.size.maps)
            if m not in taken and not (T["gmap.listed"][m] or T["gmap.live"][m] or T["notice.event"][m])
        )

    def slots(self) -> list[tuple[Proc, Slot]]:
        """All mappings of all processes."""
        return [(proc, slot) for proc in self.procs.values() for slot in proc.slots.values()]

    def file(self, proc: Proc, fd: int, kind: str) -> tuple[int, Opened | None]:
        """The File of a descriptor, and the open file if it is of that device; for a bad descriptor, a closed File."""
        opened = proc.fds.get(fd)
        if opened is None:
            return self.element("file.open"), None
        return opened.x, opened if opened.kind == kind else None
