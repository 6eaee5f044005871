"""The libraries below the level of effects: the system calls that they make, byte by byte, and what a failure leaves behind.

The oracle of the bytes are the public headers (Linux uapi/xen/gntdev.h, gntalloc.h, evtchn.h, privcmd.h; FreeBSD
sys/xen/gntdev.h), written out by hand in each row. A kernel that answers by script stands for the drivers, so a field that
these ignore is compared, too. Not here: what the drivers do (test_libs.py).
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable

import pytest

from bulkhead.impl.libs import evtchn, foreignmemory, gnttab
from bulkhead.impl.libs.freebsd import FreeBsdOsdep
from bulkhead.impl.libs.linux import LinuxOsdep, UnixOsdep
from bulkhead.impl.libs.osdep import CopySegment, Osdep
from bulkhead.impl.libs.xc_gnttab import XcGnttab

R, RW = 1, 3
INDEX = 0x5000  # where the device offers a mapping
FD, MEMORY, MAPPED = 3, 0x10000, 0x700000
PORT = 77
Call = Callable[[UnixOsdep], object]


class Kernel:
    """A scripted operating system: logs each system call, and fails the one that it should. Memory is what was allocated."""

    def __init__(self, fails: int = -1) -> None:
        self.fails = fails
        self.log: list[str] = []
        self.fds: set[int] = set()
        self.memory: dict[int, bytearray] = {}
        self.mapped: dict[int, int] = {}
        self.held = {"grants": 0, "pages": 0}  # by the devices
        self.ready = struct.pack("<II", PORT, PORT + 1)

    def _step(self, text: str) -> None:
        self.log.append(text)
        if len(self.log) - 1 == self.fails:
            raise OSError(errno.ENFILE, "scripted")

    def open(self, path: str) -> int:
        self._step(f"open {path}")
        fd = next(n for n in range(FD, 99) if n not in self.fds)
        self.fds.add(fd)
        return fd

    def close(self, fd: int) -> None:
        self._step(f"close {fd}")
        self.fds.remove(fd)

    def anonymous(self, npages: int) -> int:
        at = MEMORY + 0x10000 * len(self.memory)
        self.memory[at] = bytearray(b"\xee" * (npages << 12))
        return at

    def mmap(self, npages: int, prot: int, fd: int, offset: int) -> int:
        self._step(f"mmap {npages} {prot} {fd} {offset:#x}")
        at = MAPPED + 0x10000 * len(self.mapped)
        self.mapped[at] = npages
        return at

    def munmap(self, addr: int, npages: int) -> None:
        if addr in self.memory:
            assert len(self.memory.pop(addr)) == npages << 12
            return
        self.log.append(f"munmap {addr - MAPPED:#x} {npages}")  # never fails here: what would a failure leave?
        assert self.mapped.pop(addr) == npages

    def _place(self, addr: int) -> tuple[bytearray, int]:
        base = next(at for at, held in self.memory.items() if at <= addr < at + len(held))
        return self.memory[base], addr - base

    def load(self, addr: int, size: int) -> bytes:
        held, at = self._place(addr)
        return bytes(held[at : at + size])

    def store(self, addr: int, payload: bytes) -> None:
        held, at = self._place(addr)
        held[at : at + len(payload)] = payload

    def read(self, fd: int, size: int) -> bytes:
        self._step(f"read {fd} {size}")
        out, self.ready = self.ready, b""
        if not out:
            raise OSError(errno.EAGAIN, "none")
        return out

    def write(self, fd: int, payload: bytes) -> int:
        self._step(f"write {fd} {payload.hex()}")
        return len(payload)

    def ioctl(self, fd: int, cmd: int, arg: int) -> int:
        sizes = {0x184700: 24, 0x184705: 24, 0x104708: 16 + 24 * 2, 0x205004: 32 + 12 * 2}
        size = sizes.get(cmd, (cmd >> 16) & 0x1FFF)
        if cmd in (0x184700, 0x184705):  # the head says how many entries follow
            count = struct.unpack("<I", self.load(arg + (0 if cmd == 0x184700 else 4), 4))[0]
            size = 16 + (8 if cmd == 0x184700 else 4) * count
        raw = self.load(arg, size)
        self._step(f"ioctl {fd} {cmd:#x} {raw.hex()}")
        index = struct.pack("<Q", INDEX)
        if cmd == 0x184700:
            self.held["grants"] += 1
            self.store(arg + 8, index)
        elif cmd == 0x104701 or cmd == 0x80104504:
            self.held["grants"] -= 1
        elif cmd == 0x184702 or cmd == 0xC0184505:  # pages at the address
            self.store(arg + 8, index + struct.pack("<I", 2))
        elif cmd == 0x184705:
            self.held["pages"] += 1
            self.store(arg + 8, index + b"".join(struct.pack("<I", 40 + n) for n in range((size - 16) // 4)))
        elif cmd == 0x104706 or cmd == 0x80104502:
            self.held["pages"] -= 1
        elif cmd == 0x104708:
            for n, status in enumerate((0, -3)):
                self.store(arg + 16 + 24 * n + 20, struct.pack("<h", status))
        elif cmd == 0x205004:
            count, errors = struct.unpack("<I", raw[:4])[0], struct.unpack("<Q", raw[24:32])[0]
            self.store(errors, struct.pack(f"<{count}i", *[0, -16][:count]))
        elif cmd == 0xC0184503:  # BSD: an index, references through a pointer
            self.held["grants"] += 1
            self.store(arg + 8, index)
        elif cmd == 0xC0184501:
            self.held["pages"] += 1
            self.store(arg + 8, index)
            count, into = struct.unpack("<4xI8xQ", self.load(arg, 24))
            self.store(into, b"".join(struct.pack("<I", 40 + n) for n in range(count)))
        return 9 if cmd >> 8 in (0x445, 0x845, 0x3050) else 0


def _xgt(os: Osdep) -> gnttab.XenGnttab:
    return gnttab.XenGnttab(os, FD)


def _xgs(os: Osdep) -> gnttab.XenGntshr:
    return gnttab.XenGntshr(os, FD)


def _fmem(os: Osdep) -> foreignmemory.XenForeignMemory:
    return foreignmemory.XenForeignMemory(os, FD)


def _xce(os: Osdep) -> evtchn.XenEvtchn:
    return evtchn.XenEvtchn(os, FD)


def _map_notify(os: Osdep, offset: int, port: int) -> object:
    return gnttab.xengnttab_map_grant_ref_notify(_xgt(os), 2, 8, RW, offset, port)


def _with_errors(os: Osdep) -> object:
    errors: list[int] = []
    return foreignmemory.xenforeignmemory_map(_fmem(os), 5, R, [0x111, 0x222], errors), errors


SEGMENTS = (CopySegment((8, 0x10, 2), 0xABCDEF, 0x20), CopySegment(0x123456, (9, 0x30, 3), 0x40))
ONE_GRANT = "ioctl 3 0x184700 01000000000000000000000000000000" + "0200000008000000"
ONE_PAGE = "ioctl 3 0x184705 0200010001000000" + "00" * 8 + "00000000"
MAP_ONE = (ONE_GRANT, "mmap 1 3 3 0x5000")
END_ONE = "ioctl 3 0x104701 00500000000000000100000000000000"
DEALLOC_ONE = "ioctl 3 0x104706 00500000000000000100000000000000"
FOREIGN_TWO = (
    "ioctl 3 0x205004 02000000050000000000700000000000"
    + "20000100000000003000010000000000"
    + ("11010000000000002202000000000000" + "ee" * 8)
)
# A call, what it gives, and the system calls that it makes.
LINUX: dict[str, tuple[Call, object, tuple[str, ...]]] = {
    "map one": (lambda os: gnttab.xengnttab_map_grant_ref(_xgt(os), 2, 8, RW), MAPPED, MAP_ONE),
    "map one read-only": (
        lambda os: gnttab.xengnttab_map_grant_ref(_xgt(os), 2, 8, R),
        MAPPED,
        (ONE_GRANT, "mmap 1 1 3 0x5000"),
    ),
    "map of several": (
        lambda os: gnttab.xengnttab_map_grant_refs(_xgt(os), [2, 0xFFFFFFFF], [8, 9], RW),
        MAPPED,
        ("ioctl 3 0x184700 02000000000000000000000000000000" + "0200000008000000" + "ffffffff09000000", "mmap 2 3 3 0x5000"),
    ),
    "map of one domain": (
        lambda os: gnttab.xengnttab_map_domain_grant_refs(_xgt(os), 2, [8, 9], R),
        MAPPED,
        ("ioctl 3 0x184700 02000000000000000000000000000000" + "0200000008000000" + "0200000009000000", "mmap 2 1 3 0x5000"),
    ),
    "notice: byte and port": (
        lambda os: _map_notify(os, 5, 7),
        MAPPED,
        (*MAP_ONE, "ioctl 3 0x104707 05500000000000000300000007000000"),
    ),
    "notice: first byte": (
        lambda os: _map_notify(os, 0, -1),
        MAPPED,
        (*MAP_ONE, "ioctl 3 0x104707 00500000000000000100000000000000"),
    ),
    "notice: last byte": (
        lambda os: _map_notify(os, 4095, -1),
        MAPPED,
        (*MAP_ONE, "ioctl 3 0x104707 ff5f0000000000000100000000000000"),
    ),
    "notice: port": (
        lambda os: _map_notify(os, -1, 7),
        MAPPED,
        (*MAP_ONE, "ioctl 3 0x104707 00500000000000000200000007000000"),
    ),
    "notice: byte behind the page, and port": (
        lambda os: _map_notify(os, 4096, 7),
        MAPPED,
        (*MAP_ONE, "ioctl 3 0x104707 00500000000000000200000007000000"),
    ),
    "notice: byte behind the page": (lambda os: _map_notify(os, 4096, -1), MAPPED, MAP_ONE),
    "max grants": (
        lambda os: gnttab.xengnttab_set_max_grants(_xgt(os), 6),
        0,
        ("ioctl 3 0x44703 06000000",),
    ),
    "copy": (
        lambda os: gnttab.xengnttab_grant_copy(_xgt(os), SEGMENTS),
        [0, -3],
        (
            "ioctl 3 0x104708 02000000000000001000010000000000"
            + "0800000010000200"
            + "efcdab0000000000"
            + "2000010000000000"
            + "5634120000000000"
            + "0900000030000300"
            + "4000020000000000",
        ),
    ),
    "copy nothing": (lambda os: gnttab.xengnttab_grant_copy(_xgt(os), []), [], ()),
    "share": (
        lambda os: gnttab.xengntshr_share_pages(_xgs(os), 2, 2, True),
        (MAPPED, [40, 41]),
        (
            "ioctl 3 0x184705 0200010002000000" + "00" * 8 + "00" * 8,
            "mmap 2 3 3 0x5000",
            "ioctl 3 0x104706 00500000000000000200000000000000",
        ),
    ),
    "share read-only": (
        lambda os: gnttab.xengntshr_share_pages(_xgs(os), 2, 1, False),
        (MAPPED, [40]),
        ("ioctl 3 0x184705 0200000001000000" + "00" * 8 + "00000000", "mmap 1 3 3 0x5000", DEALLOC_ONE),
    ),
    "share with a notice": (
        lambda os: gnttab.xengntshr_share_page_notify(_xgs(os), 2, True, 20, 7),
        (MAPPED, [40]),
        (ONE_PAGE, "mmap 1 3 3 0x5000", "ioctl 3 0x104707 14500000000000000300000007000000", DEALLOC_ONE),
    ),
    "foreign, each page": (_with_errors, (MAPPED, [0, -16]), ("mmap 2 1 3 0x0", FOREIGN_TWO)),
    "foreign, all or none": (
        lambda os: foreignmemory.xenforeignmemory_map(_fmem(os), 5, R, [0x111, 0x222]),
        None,
        ("mmap 2 1 3 0x0", FOREIGN_TWO, "munmap 0x0 2"),
    ),
    "foreign range": (
        lambda os: foreignmemory.xc_map_foreign_range(_fmem(os), 5, 4096, RW, 0x111),
        MAPPED,
        (
            "mmap 1 3 3 0x0",
            "ioctl 3 0x205004 01000000050000000000700000000000"
            + "20000100000000002800010000000000"
            + "1101000000000000"
            + "ee" * 16,
        ),
    ),
    "resource": (
        lambda os: foreignmemory.xenforeignmemory_map_resource(_fmem(os), 5, 1, 2, 3, 4, RW),
        MAPPED,
        ("mmap 4 3 3 0x0", "ioctl 3 0x205007 0500000001000000020000000300000004000000000000000000700000000000"),
    ),
    "restrict": (lambda os: foreignmemory.xenforeignmemory_restrict(_fmem(os), 5), 0, ("ioctl 3 0x25006 0500",)),
    "bind": (lambda os: evtchn.xenevtchn_bind_interdomain(_xce(os), 2, 8), 9, ("ioctl 3 0x84501 0200000008000000",)),
    "bind unbound": (lambda os: evtchn.xenevtchn_bind_unbound_port(_xce(os), 2), 9, ("ioctl 3 0x44502 02000000",)),
    "bind virq": (lambda os: evtchn.xenevtchn_bind_virq(_xce(os), 4), 9, ("ioctl 3 0x44500 04000000",)),
    "unbind": (lambda os: evtchn.xenevtchn_unbind(_xce(os), 8), 0, ("ioctl 3 0x44503 08000000",)),
    "notify": (lambda os: evtchn.xenevtchn_notify(_xce(os), 8), 0, ("ioctl 3 0x44504 08000000",)),
    "unmask": (lambda os: evtchn.xenevtchn_unmask(_xce(os), 8), 0, ("write 3 08000000",)),
    "pending, two of one read": (
        lambda os: [evtchn.xenevtchn_pending(_xce(os)) for _ in range(3)],
        [PORT, PORT + 1, -1],
        ("read 3 4", "read 3 4"),
    ),
    "hypercall": (
        lambda os: os.hypercall(FD, 0x21, [1, 2, 3]),
        9,
        ("ioctl 3 0x305000 " + "".join(struct.pack("<Q", n).hex() for n in (0x21, 1, 2, 3, 0, 0)),),
    ),
}
BSD_MAP = "ioctl 3 0xc0184503 01000000000000000000000000000000" + "1800010000000000"
BSD_PAGE = "ioctl 3 0xc0184501 02000100010000000000000000000000" + "1800010000000000"
BSD: dict[str, tuple[Call, object, tuple[str, ...]]] = {
    "map one": (lambda os: gnttab.xengnttab_map_grant_ref(_xgt(os), 2, 8, RW), MAPPED, (BSD_MAP, "mmap 1 3 3 0x5000")),
    "notice": (
        lambda os: _map_notify(os, 5, 7),
        MAPPED,
        (BSD_MAP, "mmap 1 3 3 0x5000", "ioctl 3 0x80104500 05500000000000000300000007000000"),
    ),
    "share with a notice": (
        lambda os: gnttab.xengntshr_share_page_notify(_xgs(os), 2, True, 20, -1),
        (MAPPED, [40]),
        (
            BSD_PAGE,
            "mmap 1 3 3 0x5000",
            "ioctl 3 0x80104500 14500000000000000100000000000000",
            "ioctl 3 0x80104502 00500000000000000100000000000000",
        ),
    ),
    "share read-only": (
        lambda os: gnttab.xengntshr_share_pages(_xgs(os), 2, 2, False),
        (MAPPED, [40, 41]),
        (
            "ioctl 3 0xc0184501 02000000020000000000000000000000" + "1800010000000000",
            "mmap 2 3 3 0x5000",
            "ioctl 3 0x80104502 00500000000000000200000000000000",
        ),
    ),
    "max grants": (lambda os: gnttab.xengnttab_set_max_grants(_xgt(os), 6), 0, ()),
}
MAKERS: tuple[tuple[type[UnixOsdep], dict[str, tuple[Call, object, tuple[str, ...]]]], ...] = (
    (LinuxOsdep, LINUX),
    (FreeBsdOsdep, BSD),
)
ROWS = [(make, name) for make, rows in MAKERS for name in rows]
HOLD_NOTHING = ("max grants", "hypercall", "pending, two of one read")  # a hint, or no resource and no convention of errors
HOLDERS = [(make, name) for make, name in ROWS if name not in HOLD_NOTHING]


def tables(make: type[UnixOsdep]) -> dict[str, tuple[Call, object, tuple[str, ...]]]:
    return next(rows for each, rows in MAKERS if each is make)


def failed(result: object) -> bool:
    """As the C library says so: NULL or -1."""
    return result is None or result == -1


@pytest.mark.parametrize("make, name", ROWS, ids=[f"{make.__name__}: {name}" for make, name in ROWS])
def test_system_calls_byte_by_byte(make: type[UnixOsdep], name: str) -> None:
    call, result, log = tables(make)[name]
    kernel = Kernel()
    os = make(kernel)
    assert call(os) == result
    assert tuple(kernel.log) == log
    assert not kernel.memory, "memory for arguments was not given back"


@pytest.mark.parametrize("make, name", HOLDERS, ids=[f"{make.__name__}: {name}" for make, name in HOLDERS])
def test_whichever_system_call_fails_nothing_is_left(make: type[UnixOsdep], name: str) -> None:
    """NULL or -1, the errno of the call that failed, no mapping, no memory, and nothing held by a device."""
    call, _, log = tables(make)[name]
    for at in range(len(log)):
        if log[at].startswith("munmap") or (name == "foreign, all or none" and at == len(log) - 1):
            continue
        kernel = Kernel(at)
        os = make(kernel)
        result = call(os)
        rolled_back = log[at] != DEALLOC_ONE and not log[at].startswith(("ioctl 3 0x104706", "ioctl 3 0x80104502"))
        assert failed(result[0] if isinstance(result, tuple) and name.startswith("foreign") else result), log[at]
        assert os.errno == errno.ENFILE and not kernel.memory, log[at]
        if rolled_back:
            assert not kernel.mapped and kernel.held == {"grants": 0, "pages": 0}, log[at]


@pytest.mark.parametrize("make", [LinuxOsdep, FreeBsdOsdep])
def test_unmapping(make: type[UnixOsdep]) -> None:
    """The address is asked for, then unmapped, then given back, in the driver's order; another count than its is refused."""
    kernel = Kernel()
    os = make(kernel)
    at = gnttab.xengnttab_map_domain_grant_refs(_xgt(os), 2, [8, 9], RW)
    assert at == MAPPED
    kernel.log.clear()
    linux = make is LinuxOsdep
    asked = f"ioctl 3 {0x184702 if linux else 0xC0184505:#x} 0000700000000000{'00' * 16}"
    for count in (1, 3):
        assert gnttab.xengnttab_unmap(_xgt(os), at, count) == -1 and os.errno == errno.EINVAL and kernel.mapped
    assert kernel.log == [asked] * 2
    assert gnttab.xengnttab_unmap(_xgt(os), 0, 2) == -1 and os.errno == errno.EINVAL and len(kernel.log) == 2
    assert gnttab.xengnttab_unmap(_xgt(os), at, 2) == 0
    given = f"ioctl 3 {0x104701 if linux else 0x80104504:#x} 00500000000000000200000000000000"
    assert kernel.log[2:] == [asked, "munmap 0x0 2", given] and kernel.held["grants"] == 0
    xgs = _xgs(os)
    shared = gnttab.xengntshr_share_pages(xgs, 2, 2, True)
    assert shared is not None and gnttab.xengntshr_unshare(xgs, shared[0], 2) == 0 and kernel.log[-1] == "munmap 0x0 2"
    foreign = _fmem(os)
    kernel.mapped[MAPPED] = 3
    assert foreignmemory.xenforeignmemory_unmap(foreign, MAPPED, 3) == 0 and kernel.log[-1] == "munmap 0x0 3"
    assert not kernel.mapped and not kernel.memory


@pytest.mark.parametrize("make", [LinuxOsdep, FreeBsdOsdep])
def test_arguments_are_refused_before_any_system_call(make: type[UnixOsdep]) -> None:
    kernel = Kernel()
    os = make(kernel)
    refused = (
        lambda: gnttab.xengnttab_map_grant_refs(_xgt(os), [], [], RW),
        lambda: gnttab.xengnttab_map_grant_refs(_xgt(os), [1, 2], [8], RW),
        lambda: gnttab.xengnttab_map_grant_ref(_xgt(os), 2, 8, 2),
        lambda: gnttab.xengnttab_map_grant_ref(_xgt(os), 2, 8, 0),
        lambda: gnttab.xengnttab_unmap(_xgt(os), None, 1),
        lambda: gnttab.xengntshr_share_pages(_xgs(os), 2, 0, True),
        lambda: foreignmemory.xenforeignmemory_map(_fmem(os), 5, RW, []),
        lambda: foreignmemory.xc_map_foreign_range(_fmem(os), 5, 0, RW, 1),
        lambda: foreignmemory.xc_map_foreign_range(_fmem(os), 5, -4096, RW, 1),
    )
    for each in refused:
        os.errno = 0
        assert failed(each()) and os.errno == errno.EINVAL
    assert not kernel.log and not kernel.memory


@pytest.mark.parametrize("make", [LinuxOsdep, FreeBsdOsdep])
def test_handles_are_opened_and_closed(make: type[UnixOsdep]) -> None:
    kernel = Kernel()
    os = make(kernel)
    sharing = "gntdev" if make is FreeBsdOsdep else "gntalloc"
    xgt = gnttab.xengnttab_open(os)
    assert gnttab.xengntshr_open(os) and foreignmemory.xenforeignmemory_open(os) and os.call_open() == 6
    xce = evtchn.xenevtchn_open(os)
    assert xce is not None and evtchn.xenevtchn_fd(xce) == 7 == xce.fd
    assert kernel.log == [f"open /dev/xen/{name}" for name in ("gntdev", sharing, "privcmd", "privcmd", "evtchn")]
    assert xgt is not None and gnttab.xengnttab_fd(xgt) == 3
    assert evtchn.xenevtchn_pending(xce) == PORT and evtchn.xenevtchn_close(xce) == 0
    kernel.ready = struct.pack("<I", 5)
    again = evtchn.xenevtchn_open(os)
    assert again is not None and again.fd == 7
    assert evtchn.xenevtchn_pending(again) == 5, "a port of the handle before it"
    for fd in (3, 4, 5, 6, 7):
        os.close(fd)
    assert not kernel.fds
    for at in range(5):
        kernel = Kernel(0)
        os = make(kernel)
        openers: tuple[Callable[[UnixOsdep], object], ...] = (
            gnttab.xengnttab_open,
            gnttab.xengntshr_open,
            foreignmemory.xenforeignmemory_open,
            evtchn.xenevtchn_open,
            lambda each: XcGnttab(each).xc_gnttab_open(),
        )
        assert failed(openers[at](os)) and os.errno == errno.ENFILE


def test_the_five_calls_take_as_many_as_they_are_told() -> None:
    """xc_gnttab_map_grant_refs has a count beside its arrays, which may be longer."""
    kernel = Kernel()
    xc = XcGnttab(LinuxOsdep(kernel))
    assert xc.xc_gnttab_map_grant_refs(FD, 1, [2, 3], [8, 9], RW) == MAPPED
    assert kernel.log == list(MAP_ONE)


def test_a_system_that_lacks_a_device_says_so() -> None:
    """EOPNOTSUPP from every operation that an operating system does not have; none does anything."""
    os = Osdep()
    operations = [name for name in vars(Osdep) if not name.startswith("_") and callable(getattr(os, name))]
    assert len(operations) >= 25
    for name in operations:
        with pytest.raises(OSError) as caught:
            getattr(os, name)(*(0 for _ in range(getattr(Osdep, name).__code__.co_argcount - 1)))
        assert caught.value.errno == errno.EOPNOTSUPP, name
