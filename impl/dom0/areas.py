"""The parts of a process that its drivers see: areas of memory (VMAs), open files, and what a driver is called for.

Contents: also what the kernel may do with a device's mappings (`AreaKind`: flags that a driver sets once). Not here: address
spaces (process.py), and what a process changes (vma_changes.py, memory_calls.py). Source: Linux mm_types.h, mm.h.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from bulkhead.impl.dom0.process import AddressSpace

PROT_READ: Final = 1
PROT_WRITE: Final = 2


@dataclass(frozen=True)
class AreaKind:
    """`io`: the kernel takes no page of it for anybody (VM_IO). `raw`: its entries have no struct page (VM_PFNMAP).
    `undumped`: core dumps leave it out from the start (VM_DONTDUMP). `foreign`: its pages are other domains' and have no
    struct page of Dom0's, so that no driver can pin them (get_user_pages). `whole`: no part of a VMA may be unmapped, moved
    or changed."""

    io: bool = False
    raw: bool = False
    undumped: bool = True
    foreign: bool = False
    whole: bool = False


class DeviceFile(Protocol):
    """An open file of a driver."""

    def mmap(self, vma: Vma, offset: int) -> None:
        """Fill a new VMA; KernelError refuses it."""

    def vma_open(self, vma: Vma) -> None:
        """A VMA was split or copied."""

    def vma_close(self, vma: Vma) -> None:
        """A VMA is removed."""

    def invalidate(self, vma: Vma, start: int, npages: int) -> None:
        """Pages [start, start+npages) of the address space are about to be unmapped, or changed; `vma` has some of them."""

    def area(self) -> AreaKind | None:
        """What the kernel may do with its mappings; None for a device that cannot be mapped."""

    def release(self) -> None:
        """The last reference to the file was dropped."""


class OpenFile:
    """A reference-counted open file; descriptors and VMAs hold references."""

    __slots__ = ("appends", "device", "nonblock", "refs", "signals")

    def __init__(self, device: DeviceFile) -> None:
        self.device = device
        self.nonblock = True
        self.appends = self.signals = False  # O_APPEND and O_ASYNC, which fcntl() sets
        self.refs = 1

    def get(self) -> None:
        """Take a reference: of a descriptor, or of a call that is in the kernel."""
        self.refs += 1

    def put(self) -> None:
        """Drop a reference; the last one releases the device file."""
        self.refs -= 1
        if self.refs == 0:
            self.device.release()


class Vma:
    """A virtual memory area: pages [start, end) by page number; `prot` is 0, or PROT_READ and PROT_WRITE."""

    __slots__ = ("dontcopy", "end", "file", "hints", "locked", "private", "prot", "shared", "space", "start")

    def __init__(self, space: AddressSpace, start: int, end: int, prot: int, shared: bool, file: OpenFile | None) -> None:
        self.space = space
        self.start = start
        self.end = end
        self.prot = prot
        self.shared = shared
        self.file = file
        self.private: object = None
        self.dontcopy = False
        self.locked = False
        kind = self.kind
        self.hints = frozenset({"undumped"} if kind is not None and kind.undumped else ())  # of madvise()

    @property
    def kind(self) -> AreaKind | None:
        """What its device's driver allows; None for memory of the process's own."""
        return None if self.file is None else self.file.device.area()

    @property
    def writable(self) -> bool:
        """May the process store here?"""
        return bool(self.prot & PROT_WRITE)
