"""The operating-system interface of the libraries, and the error conventions of their functions.

Contents: `OsDriver`, the system calls of a process; `Osdep`, the operations that each library needs, with one
implementation per operating system (linux.py, freebsd.py, impl/domb/minios_osdep.py); and C's error
convention: a function that returns a pointer in C returns None for NULL, one that returns an int returns -1, and sets
`errno` of the process's `Osdep`. Success does not change errno. Source: Xen tools/libs (osdep functions), the xc_osdep
interface of Xen 4.1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Concatenate, Final, ParamSpec, Protocol, TypeVar

from bulkhead.impl.xen.abi import EIO, EOPNOTSUPP

PROT_READ: Final = 1
PROT_WRITE: Final = 2
NO_NOTIFY: Final = -1
ETIMEDOUT: Final = 110
P = ParamSpec("P")
T = TypeVar("T")


class OsError(OSError):
    """A failure in a library itself, not in a system call; `errno` is positive."""

    def __init__(self, errno: int) -> None:
        super().__init__(errno, f"errno {errno}")


class OsDriver(Protocol):
    """The system calls of one process; each raises OSError with the errno."""

    def open(self, path: str) -> int:
        """A descriptor."""

    def close(self, fd: int) -> None:
        """Close it."""

    def ioctl(self, fd: int, cmd: int, arg: int) -> int:
        """An ioctl with a pointer."""

    def read(self, fd: int, size: int) -> bytes:
        """read()."""

    def write(self, fd: int, payload: bytes) -> int:
        """write()."""

    def mmap(self, npages: int, prot: int, fd: int, offset: int) -> int:
        """Map pages of a device, shared; the address."""

    def anonymous(self, npages: int) -> int:
        """Private zeroed memory; the address."""

    def munmap(self, addr: int, npages: int) -> None:
        """Unmap pages."""

    def load(self, addr: int, size: int) -> bytes:
        """Read memory."""

    def store(self, addr: int, payload: bytes) -> None:
        """Write memory."""


@dataclass(frozen=True, slots=True)
class CopySegment:
    """One segment of a grant copy. A side is a local address, or (ref, offset, domid)."""

    source: int | tuple[int, int, int]
    dest: int | tuple[int, int, int]
    length: int


class Osdep:
    """One operating system's access to each device. Missing operations raise EOPNOTSUPP.

    Methods raise OSError; the library functions convert that to their convention.
    """

    errno: int = 0

    # --- memory of the process ---
    def load(self, addr: int, size: int) -> bytes:
        """Read memory."""
        raise OsError(EOPNOTSUPP)

    def store(self, addr: int, payload: bytes) -> None:
        """Write memory."""
        raise OsError(EOPNOTSUPP)

    # --- other domains' grants ---
    def gnttab_open(self) -> int:
        """A descriptor for mapping grants."""
        raise OsError(EOPNOTSUPP)

    def close(self, fd: int) -> None:
        """Close any descriptor; mappings stay."""
        raise OsError(EOPNOTSUPP)

    def gnttab_map(self, fd: int, grants: Sequence[tuple[int, int]], prot: int, offset: int, port: int) -> int:
        """Map (domid, ref) pairs contiguously; on unmapping, notify by byte `offset` and `port` unless they are -1."""
        raise OsError(EOPNOTSUPP)

    def gnttab_unmap(self, fd: int, addr: int, count: int) -> None:
        """Unmap a whole mapping."""
        raise OsError(EOPNOTSUPP)

    def gnttab_set_max_grants(self, fd: int, count: int) -> None:
        """A hint: the number of grants to be mapped."""
        raise OsError(EOPNOTSUPP)

    def gnttab_copy(self, fd: int, segments: Sequence[CopySegment]) -> list[int]:
        """Copy segments; a GNTST status for each."""
        raise OsError(EOPNOTSUPP)

    # --- own grants ---
    def gntshr_open(self) -> int:
        """A descriptor for sharing pages."""
        raise OsError(EOPNOTSUPP)

    def gntshr_share(self, fd: int, domid: int, count: int, writable: bool, offset: int, port: int) -> tuple[int, list[int]]:
        """Fresh pages shared with a domain: (address, references)."""
        raise OsError(EOPNOTSUPP)

    def gntshr_unshare(self, fd: int, addr: int, count: int) -> None:
        """Unshare pages."""
        raise OsError(EOPNOTSUPP)

    # --- foreign memory ---
    def foreign_open(self) -> int:
        """A descriptor for foreign mappings."""
        raise OsError(EOPNOTSUPP)

    def foreign_map(self, fd: int, domid: int, prot: int, gfns: Sequence[int]) -> tuple[int, list[int]]:
        """Map frames of a domain contiguously: (address, 0 or -errno for each)."""
        raise OsError(EOPNOTSUPP)

    def foreign_unmap(self, fd: int, addr: int, count: int) -> None:
        """Unmap pages of a foreign mapping."""
        raise OsError(EOPNOTSUPP)

    def foreign_restrict(self, fd: int, domid: int) -> None:
        """Restrict the handle to this domain."""
        raise OsError(EOPNOTSUPP)

    def foreign_resource(self, fd: int, domid: int, kind: int, rid: int, first: int, count: int, prot: int) -> int:
        """Map frames of a resource of a domain; the address."""
        raise OsError(EOPNOTSUPP)

    # --- event channels ---
    def evtchn_open(self) -> int:
        """A descriptor for event channels."""
        raise OsError(EOPNOTSUPP)

    def evtchn_bind_interdomain(self, fd: int, domid: int, port: int) -> int:
        """A local port bound to another domain's."""
        raise OsError(EOPNOTSUPP)

    def evtchn_bind_unbound_port(self, fd: int, domid: int) -> int:
        """A local port waiting for a domain."""
        raise OsError(EOPNOTSUPP)

    def evtchn_bind_virq(self, fd: int, virq: int) -> int:
        """A local port for a virtual interrupt."""
        raise OsError(EOPNOTSUPP)

    def evtchn_unbind(self, fd: int, port: int) -> None:
        """Close a port."""
        raise OsError(EOPNOTSUPP)

    def evtchn_notify(self, fd: int, port: int) -> None:
        """Signal the other end."""
        raise OsError(EOPNOTSUPP)

    def evtchn_pending(self, fd: int) -> int:
        """A pending port; EAGAIN without one. It stays masked until unmasked."""
        raise OsError(EOPNOTSUPP)

    def evtchn_unmask(self, fd: int, port: int) -> None:
        """Unmask a port."""
        raise OsError(EOPNOTSUPP)

    # --- hypercalls ---
    def call_open(self) -> int:
        """A descriptor for hypercalls."""
        raise OsError(EOPNOTSUPP)

    def hypercall(self, fd: int, number: int, args: Sequence[int]) -> int:
        """A hypercall; its non-negative result."""
        raise OsError(EOPNOTSUPP)

    def buffer(self, size: int) -> int:
        """Memory that a hypercall may name; the address."""
        raise OsError(EOPNOTSUPP)

    def release(self, addr: int, size: int) -> None:
        """Free such memory."""
        raise OsError(EOPNOTSUPP)


class Handle:
    """An open library handle: its operating system and descriptor."""

    __slots__ = ("fd", "os")

    def __init__(self, os: Osdep, fd: int) -> None:
        self.os = os
        self.fd = fd


H = TypeVar("H", bound="Handle | Osdep")


def _note(where: Handle | Osdep, error: OSError) -> None:
    os = where if isinstance(where, Osdep) else where.os
    os.errno = error.errno or EIO


def null_on_error(
    function: Callable[Concatenate[H, P], T],
) -> Callable[Concatenate[H, P], T | None]:
    """A function whose C form returns NULL on failure: here None, with errno set."""

    @wraps(function)
    def called(where: H, /, *args: P.args, **kwargs: P.kwargs) -> T | None:
        try:
            return function(where, *args, **kwargs)
        except OSError as error:
            _note(where, error)
            return None

    return called


def minus_on_error(
    function: Callable[Concatenate[H, P], int],
) -> Callable[Concatenate[H, P], int]:
    """A function whose C form returns -1 on failure, with errno set."""

    @wraps(function)
    def called(where: H, /, *args: P.args, **kwargs: P.kwargs) -> int:
        try:
            return function(where, *args, **kwargs)
        except OSError as error:
            _note(where, error)
            return -1

    return called
