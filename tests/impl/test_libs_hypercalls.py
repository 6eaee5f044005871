"""libxenctrl: the hypercalls that it makes, byte by byte, and that each failure gives its buffers back.

The oracle are the public headers (domctl.h with interface version 0x15, memory.h, event_channel.h, xen.h), written out by
hand in each row; a hypervisor that answers by script stands for Xen, so a field that it ignores is compared, too. Not here:
what Xen does (test_libs.py, test_toolstack.py).
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Sequence

import pytest

from bulkhead.impl.libs import ctrl, vchan
from bulkhead.impl.libs.osdep import Osdep, OsError

FD, MEMORY = 4, 0x10000
DOMCTL, MEMORY_OP, EVTCHN_OP, MMUEXT = 36, 12, 32, 26
CONTEXT = 5168  # sizeof(vcpu_guest_context_t)


class Xen(Osdep):
    """A scripted operating system with hypercalls: logs them, answers by script, and fails the one that it should."""

    def __init__(self, fails: int = -1, answers: Sequence[int] = ()) -> None:
        self.fails = fails
        self.answers = list(answers)
        self.log: list[tuple[int, list[int | bytes]]] = []
        self.memory: dict[int, bytearray] = {}
        self.fds: set[int] = set()
        self.back = b""  # what a hypercall puts into its struct, from an offset on
        self.back_at = 0

    def call_open(self) -> int:
        self.fds.add(FD)
        return FD

    def close(self, fd: int) -> None:
        if fd not in self.fds:
            raise OsError(errno.EBADF)
        self.fds.remove(fd)

    def buffer(self, size: int) -> int:
        at = MEMORY + 0x10000 * len(self.memory)
        self.memory[at] = bytearray(b"\xee" * size)
        return at

    def release(self, addr: int, size: int) -> None:
        assert len(self.memory.pop(addr)) == size

    def load(self, addr: int, size: int) -> bytes:
        assert size <= len(self.memory[addr])
        return bytes(self.memory[addr][:size])

    def store(self, addr: int, payload: bytes) -> None:
        assert len(payload) <= len(self.memory[addr])
        self.memory[addr][: len(payload)] = payload

    def hypercall(self, fd: int, number: int, args: Sequence[int]) -> int:
        assert fd == FD
        self.log.append((number, [bytes(self.memory[a]) if a in self.memory else a for a in args]))
        if len(self.log) - 1 == self.fails:
            raise OsError(errno.ENOENT)
        struct_at = next(a for a in args if a in self.memory)
        self.memory[struct_at][self.back_at : self.back_at + len(self.back)] = self.back
        if number == MEMORY_OP:  # frames, in the list that the struct names
            (where,) = struct.unpack_from("<Q", self.memory[struct_at])
            (count,) = struct.unpack_from("<Q", self.memory[struct_at], 8)
            self.memory[where][:] = b"".join(struct.pack("<Q", 0x900 + k) for k in range(count))
        return self.answers.pop(0) if self.answers else 0


def domctl(cmd: int, domid: int, body: bytes) -> list[tuple[int, list[int | bytes]]]:
    """The struct of a domctl: command, version, domain, padding; 128 bytes of arguments."""
    return [(DOMCTL, [struct.pack("<IIH6x", cmd, 0x15, domid) + body.ljust(128, b"\0")])]


CREATE = ctrl.CreateDomain(bytes(range(16)), 0x40, 2, 511, 33, 700, 1, 9)
CREATED = struct.pack("<I", 9) + bytes(range(16)) + struct.pack("<IIIiiiIIIII", 0x40, 0, 2, 511, 33, 700, 1, 0, 0, 0, 0)
Row = tuple[Callable[[ctrl.XcInterface], object], object, list[tuple[int, list[int | bytes]]]]
CALLS: dict[str, Row] = {
    "create": (lambda x: ctrl.xc_domain_create(x, CREATE), 7, domctl(1, 0, CREATED)),
    "max_vcpus": (lambda x: ctrl.xc_domain_max_vcpus(x, 5, 3), 0, domctl(15, 5, struct.pack("<I", 3))),
    "max_mem": (lambda x: ctrl.xc_domain_setmaxmem(x, 5, 1 << 33), 0, domctl(11, 5, struct.pack("<Q", 1 << 33))),
    "pause": (lambda x: ctrl.xc_domain_pause(x, 5), 0, domctl(3, 5, b"")),
    "unpause": (lambda x: ctrl.xc_domain_unpause(x, 5), 0, domctl(4, 5, b"")),
    "destroy": (lambda x: ctrl.xc_domain_destroy(x, 5), 0, domctl(2, 5, b"")),
    "hypercall page": (lambda x: ctrl.xc_hypercall_init(x, 5, 1 << 35), 0, domctl(22, 5, struct.pack("<Q", 1 << 35))),
    "alloc_unbound": (
        lambda x: ctrl.xc_evtchn_alloc_unbound(x, 5, 6),
        8,
        [(EVTCHN_OP, [6, struct.pack("<HHI", 5, 6, 0)])],
    ),
    "mmuext": (
        lambda x: ctrl.xc_mmuext_op(x, 3, 0x123, 5),
        0,
        [(MMUEXT, [struct.pack("<IIQQ", 3, 0, 0x123, 0), 1, 0, 5])],
    ),
    "context": (
        lambda x: ctrl.xc_vcpu_setcontext(x, 5, 1, b"c" * CONTEXT),
        0,
        domctl(12, 5, struct.pack("<IIQ", 1, 0, MEMORY)),
    ),
}


def opened(xen: Xen) -> ctrl.XcInterface:
    xch = ctrl.xc_interface_open(xen)
    assert xch is not None
    return xch


@pytest.mark.parametrize("name", CALLS)
def test_hypercalls_byte_by_byte(name: str) -> None:
    call, result, log = CALLS[name]
    xen = Xen()
    if name == "create":
        xen.back, xen.back_at = struct.pack("<H", 7), 8
    elif name == "alloc_unbound":
        xen.back, xen.back_at = struct.pack("<I", 8), 4
    assert call(opened(xen)) == result
    # The context's struct names a buffer: its bytes stand in the log where the address is an argument only.
    assert xen.log == log and not xen.memory


@pytest.mark.parametrize("name", CALLS)
def test_a_refused_hypercall_is_minus_one_and_leaves_no_buffer(name: str) -> None:
    xen = Xen(0)
    assert CALLS[name][0](opened(xen)) == -1 and xen.errno == errno.ENOENT and not xen.memory


@pytest.mark.parametrize("flags, dying, shutdown, paused", [(1, 1, 0, 0), (4, 0, 1, 0), (8, 0, 0, 1), (0x32, 0, 0, 0)])
def test_information_about_a_domain(flags: int, dying: int, shutdown: int, paused: int) -> None:
    """Each flag has its bit of XEN_DOMINF_*; numbers come from their fields of xen_domctl_getdomaininfo."""
    xen = Xen()
    xen.back_at = 16
    # domain, pad, flags, tot, max, outstanding, shared, paged, shared_info, cpu time, online, max vcpu, ssid, handle
    xen.back = struct.pack("<HHI6QQIII16s", 5, 0, flags, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, b"h" * 16)
    info = ctrl.xc_domain_getinfo(opened(xen), 5)
    assert info == ctrl.DomInfo(5, bool(paused), bool(dying), bool(shutdown), 11, 12, 16, b"h" * 16)
    assert xen.log[0][1][0][:16] == struct.pack("<IIH6x", 5, 0x15, 5)  # type: ignore[index]
    # Xen answers for the next domain if there is none with this id.
    assert ctrl.xc_domain_getinfo(opened(xen), 4) is None and xen.errno == errno.ESRCH and not xen.memory


def test_memory_is_populated_in_batches() -> None:
    """Of 512, each with the guest frames of its part; a part that comes short is EBUSY."""
    xen = Xen(answers=(512, 512, 1))
    frames = ctrl.xc_domain_populate_physmap_exact(opened(xen), 5, range(100, 1125))
    assert frames == [*range(0x900, 0xB00), *range(0x900, 0xB00), 0x900] and not xen.memory
    for (number, args), count in zip(xen.log, (512, 512, 1), strict=True):
        assert (number, args[0]) == (MEMORY_OP, 6) and len(args) == 2
        assert args[1] == struct.pack("<QQIIHHI", MEMORY, count, 0, 0, 5, 0, 0)
    for answers in ((511,), (512, 0), (512, 511)):
        xen = Xen(answers=answers)
        assert ctrl.xc_domain_populate_physmap_exact(opened(xen), 5, range(1024)) is None
        assert xen.errno == errno.EBUSY and not xen.memory
    xen = Xen(1, (512,))
    assert ctrl.xc_domain_populate_physmap_exact(opened(xen), 5, range(1024)) is None
    assert xen.errno == errno.ENOENT and not xen.memory
    assert ctrl.xc_domain_populate_physmap_exact(opened(xen), 5, []) == []


def test_the_guest_frames_of_a_batch_are_in_its_list() -> None:
    xen = Xen(answers=(2,))
    seen: list[bytes] = []
    real = xen.hypercall

    def watched(fd: int, number: int, args: Sequence[int]) -> int:
        seen.append(bytes(xen.memory[MEMORY]))
        return real(fd, number, args)

    xen.hypercall = watched  # type: ignore[method-assign]
    assert ctrl.xc_domain_populate_physmap_exact(opened(xen), 5, (1 << 40, 3)) == [0x900, 0x901]
    assert seen == [struct.pack("<QQ", 1 << 40, 3)]


def test_a_context_of_another_size_is_refused() -> None:
    xen = Xen()
    for size in (0, CONTEXT - 1, CONTEXT + 1):
        assert ctrl.xc_vcpu_setcontext(opened(xen), 5, 0, bytes(size)) == -1 and xen.errno == errno.EINVAL
    assert not xen.log and not xen.memory


def test_the_interface_is_closed_once() -> None:
    xen = Xen()
    xch = opened(xen)
    assert ctrl.xc_interface_close(xch) == 0 and not xen.fds
    assert ctrl.xc_interface_close(xch) == -1 and xen.errno == errno.EBADF


class Lacking(Xen):
    """A system that lacks a device, and counts what is open."""

    def __init__(self, lacks: str) -> None:
        super().__init__()
        self.lacks = lacks
        self.open = 0

    def _opened(self, name: str) -> int:
        if name == self.lacks:
            raise OsError(errno.ENODEV)
        self.open += 1
        return FD

    def gnttab_open(self) -> int:
        return self._opened("gnttab")

    def gntshr_open(self) -> int:
        return self._opened("gntshr")

    def evtchn_open(self) -> int:
        return self._opened("evtchn")

    def close(self, fd: int) -> None:
        self.open -= 1


@pytest.mark.parametrize("lacks", ["gnttab", "gntshr", "evtchn"])
def test_a_channel_without_its_devices_says_why_and_leaves_nothing_open(lacks: str) -> None:
    system = Lacking(lacks)
    for begin in (
        lambda: vchan.server_init(system, 2, 12, 13),
        lambda: vchan.client_init(system, vchan.Offer(2, 8, 3)),
    ):
        with pytest.raises(OSError) as caught:
            begin()
        expected = {"gnttab": (errno.EOPNOTSUPP, errno.ENODEV), "gntshr": (errno.ENODEV, errno.EOPNOTSUPP)}
        assert caught.value.errno in expected.get(lacks, (errno.ENODEV,)) and system.open == 0


@pytest.mark.parametrize("ring_ref, port", [(0, 3), (-1, 3), (8, 0), (8, -1)])
def test_an_offer_that_is_none_is_refused(ring_ref: int, port: int) -> None:
    """Before anything is opened: reference 0 is the console's, and port 0 is none."""
    system = Lacking("")
    with pytest.raises(OSError) as caught:
        vchan.client_init(system, vchan.Offer(2, ring_ref, port))
    assert caught.value.errno == errno.EINVAL and system.open == 0
