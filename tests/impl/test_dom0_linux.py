"""Unexpected behaviour of Linux in Dom0's drivers, from answers of real Linux 6.1 and from its sources.

Protects against: a restricted file that can still open ports, a notice sent to the next owner of a port number, events
lost with another port, copies that miss the end of a page, mappings that survive their unmapping.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import pack, unpack

import pytest

from bulkhead.impl.dom0 import evtchn, ioctl, ioctl_control
from bulkhead.impl.dom0.areas import PROT_WRITE
from bulkhead.impl.dom0.gntalloc import GntallocPool
from bulkhead.impl.dom0.kernel import KernelError
from bulkhead.impl.dom0.process import MAP_PRIVATE, Fault, Process
from bulkhead.impl.dom0.syscalls import EVTCHN, GNTALLOC, GNTDEV, PRIVCMD, Syscalls, WouldSleep, devices
from bulkhead.impl.xen import abi
from bulkhead.proofs.replay.rig import Rig
from tests.impl.support import entry_flags, grant, machine, page

PAGE = 4096


class User:
    """A process of Dom0 beside guest A, which grants its pages 0 to 7 as references 8 to 15."""

    def __init__(self) -> None:
        self.rig: Rig = machine("A")
        for ref in range(8, 16):
            grant(self.rig, "A", ref, "d0", ref - 8)
        self.guest = self.rig.agents["A"].domain
        self.pool = GntallocPool(self.rig.kernel)
        self.sys = Syscalls(
            "user", Process(self.rig.kernel), devices(self.rig.kernel, self.pool, (GNTDEV, GNTALLOC, PRIVCMD, EVTCHN))
        )
        self.arg = self.sys.anonymous(4)
        self.ev = self.sys.open(EVTCHN)
        self.gnt = self.sys.open(GNTDEV)

    def ioctl(self, fd: int, cmd: int, payload: bytes = b"") -> int:
        """The result, or the negated errno."""
        self.sys.store(self.arg, payload)
        return answer(lambda: self.sys.ioctl(fd, cmd, self.arg))

    def word(self, fd: int, cmd: int, *words: int) -> int:
        return self.ioctl(fd, cmd, pack(f"<{len(words)}I", *words))

    def port(self) -> tuple[int, int]:
        """A port of the process, connected with a port of the guest: both numbers."""
        port = self.word(self.ev, ioctl_control.EVTCHN_BIND_UNBOUND_PORT, self.guest.domid)
        theirs = self.guest.events.bind_interdomain(self.rig.dom0, port)
        self.guest.events.take_pending()
        return port, theirs

    def map(self, *refs: int) -> int:
        pairs = b"".join(pack("<II", self.guest.domid, ref) for ref in refs)
        assert self.ioctl(self.gnt, ioctl.GNTDEV_MAP_GRANT_REF, pack("<IIQ", len(refs), 0, 0) + pairs) == 0
        return int(unpack("<Q", self.sys.load(self.arg + 8, 8))[0])

    def mapped(self) -> list[bool]:
        """The used ones of the first four grants."""
        return [bool(entry_flags(self.rig, "A", ref) & 8) for ref in range(8, 12)]


def answer(call: Callable[[], object]) -> int:
    try:
        result = call()
    except KernelError as error:
        assert error.code > 0, "a call that fails has an errno"
        return -error.code
    if not isinstance(result, int):
        return 0
    assert result >= 0, "a call that fails raises KernelError"
    return result


@pytest.fixture
def u() -> User:
    return User()


# --- event channels ---


def test_a_restricted_file_makes_no_unbound_port_not_even_for_its_target(u: User) -> None:
    fd = u.sys.open(EVTCHN)
    for domid in (0, 0x7FF0, 0xFFFF):
        assert u.ioctl(fd, ioctl_control.EVTCHN_RESTRICT_DOMID, pack("<H", domid)) == -abi.EINVAL
    assert u.word(fd, ioctl_control.EVTCHN_BIND_UNBOUND_PORT, u.guest.domid) > 0  # so it was not restricted
    assert u.ioctl(fd, ioctl_control.EVTCHN_RESTRICT_DOMID, pack("<H", u.guest.domid)) == 0
    assert u.word(fd, ioctl_control.EVTCHN_BIND_UNBOUND_PORT, u.guest.domid) == -abi.EACCES
    assert u.word(fd, ioctl_control.EVTCHN_BIND_VIRQ, 3) == -abi.EACCES
    assert u.word(fd, ioctl_control.EVTCHN_BIND_INTERDOMAIN, u.guest.domid | 0x10000, 1) == -abi.EACCES
    assert answer(lambda: u.sys.ioctl(fd, ioctl_control.EVTCHN_BIND_VIRQ, 16)) == -abi.EACCES  # before the argument is read
    assert answer(lambda: u.sys.ioctl(u.ev, ioctl_control.EVTCHN_BIND_VIRQ, 16)) == -abi.EFAULT


def test_what_evtchn_does_not_know(u: User) -> None:
    assert u.ioctl(u.ev, ioctl.GNTDEV_GRANT_COPY) == -abi.ENOSYS
    assert u.ioctl(u.gnt, ioctl_control.EVTCHN_RESET) == -abi.ENOTTY
    assert [u.word(u.ev, ioctl_control.EVTCHN_UNBIND, port) for port in (4094, 4095, 0xFFFFFFFF)] == [-107, -22, -22]
    assert u.word(u.ev, ioctl_control.EVTCHN_NOTIFY, 4095) == -107


def test_reads_give_whole_ports_and_keep_the_rest(u: User) -> None:
    ports = [u.port() for _ in range(3)]
    for _, theirs in ports:
        u.guest.events.send(theirs)
    mine = sorted(port for port, _ in ports)
    assert [u.sys.read(u.ev, size) for size in (0, 3)] == [b"", b""]
    assert answer(lambda: u.sys.read(u.ev, 4, 16)) == -abi.EFAULT
    assert u.sys.read(u.ev, 7) == pack("<I", mine[0])
    assert u.sys.read(u.ev, 64) == pack("<2I", *mine[1:])
    assert answer(lambda: u.sys.read(u.ev, 4)) == -abi.EAGAIN and u.sys.read(u.ev, 2) == b""
    assert u.sys.write(u.ev, pack("<I", mine[0]) + b"\0\0\0") == 4 and u.sys.write(u.ev, b"\0\0") == 0


def test_unbinding_a_port_loses_no_event(u: User) -> None:
    (one, their_one), (two, their_two) = u.port(), u.port()
    u.guest.events.send(their_one)
    u.guest.events.send(their_two)
    assert u.word(u.ev, ioctl_control.EVTCHN_UNBIND, one) == 0
    assert u.sys.read(u.ev, 64) == pack("<2I", one, two)  # it was already in the ring


def test_reset_empties_the_ring_and_forgets_an_overflow(u: User) -> None:
    port, theirs = u.port()
    file = u.sys.process.file(u.ev).device
    assert isinstance(file, evtchn.Evtchn)
    file.ring_size = 1
    other, their_other = u.port()
    file.ring_size = 1
    u.guest.events.send(theirs)
    u.guest.events.send(their_other)
    assert u.sys.poll(u.ev) == evtchn.POLLERR and answer(lambda: u.sys.read(u.ev, 4)) == -evtchn.EFBIG
    assert u.ioctl(u.ev, ioctl_control.EVTCHN_RESET) == 0
    assert u.sys.poll(u.ev) == evtchn.POLLOUT and answer(lambda: u.sys.read(u.ev, 4)) == -abi.EAGAIN
    u.guest.events.send(theirs)
    assert u.sys.poll(u.ev) == evtchn.POLLOUT  # it stays disabled until it is written back
    u.sys.write(u.ev, pack("<2I", port, other))
    assert u.sys.poll(u.ev) == evtchn.POLLOUT | evtchn.POLLIN and u.sys.read(u.ev, 4) == pack("<I", port)


def test_a_read_that_may_sleep(u: User) -> None:
    fd = u.sys.open(EVTCHN, nonblock=False)
    port = u.word(fd, ioctl_control.EVTCHN_BIND_UNBOUND_PORT, u.guest.domid)
    theirs = u.guest.events.bind_interdomain(u.rig.dom0, port)
    with pytest.raises(WouldSleep):
        u.sys.read(fd, 4)
    u.guest.events.send(theirs)
    assert u.sys.read(fd, 4) == pack("<I", port)


# --- unmap notices ---


def test_a_notice_holds_its_port(u: User) -> None:
    port, theirs = u.port()
    offset = u.map(8)
    assert u.ioctl(u.gnt, ioctl.SET_UNMAP_NOTIFY, pack("<QII", offset, 2, port)) == 0
    addr = u.sys.mmap(1, 3, u.gnt, offset)
    assert u.word(u.ev, ioctl_control.EVTCHN_UNBIND, port) == 0
    assert u.rig.dom0.events.get(port) is not None  # still open, so the number is not reused
    assert u.word(u.ev, ioctl_control.EVTCHN_BIND_UNBOUND_PORT, u.guest.domid) != port
    second = u.map(9)
    assert u.ioctl(u.gnt, ioctl.SET_UNMAP_NOTIFY, pack("<QII", second, 2, port)) == 0  # a port may have several references
    u.ioctl(u.gnt, ioctl.GNTDEV_UNMAP_GRANT_REF, pack("<QII", offset, 1, 0))
    u.sys.munmap(addr, 1)
    assert u.guest.events.take_pending() == [theirs] and u.rig.dom0.events.get(port) is not None
    u.ioctl(u.gnt, ioctl.GNTDEV_UNMAP_GRANT_REF, pack("<QII", second, 1, 0))
    assert u.guest.events.take_pending() == [theirs] and u.rig.dom0.events.get(port) is None
    assert u.ioctl(u.gnt, ioctl.SET_UNMAP_NOTIFY, pack("<QII", u.map(10), 2, port)) == -abi.EINVAL


def test_a_replaced_notice_lets_go_of_its_port(u: User) -> None:
    port, _ = u.port()
    offset = u.map(8)
    for _ in range(2):  # the same port again: it must not be closed in between
        assert u.ioctl(u.gnt, ioctl.SET_UNMAP_NOTIFY, pack("<QII", offset, 2, port)) == 0
    u.word(u.ev, ioctl_control.EVTCHN_UNBIND, port)
    assert u.ioctl(u.gnt, ioctl.SET_UNMAP_NOTIFY, pack("<QII", offset, 3, port)) == 0
    assert u.ioctl(u.gnt, ioctl.SET_UNMAP_NOTIFY, pack("<QII", offset, 1, 0)) == 0
    assert u.rig.dom0.events.get(port) is None and not u.rig.kernel.evtchn_holds


def test_a_refused_notice_holds_nothing(u: User) -> None:
    port, _ = u.port()
    assert u.ioctl(u.gnt, ioctl.SET_UNMAP_NOTIFY, pack("<QII", 1 << 40, 2, port)) == -abi.ENOENT
    u.word(u.ev, ioctl_control.EVTCHN_UNBIND, port)
    assert u.rig.dom0.events.get(port) is None


def test_the_byte_of_a_later_page(u: User) -> None:
    offset = u.map(8, 9)
    assert u.ioctl(u.gnt, ioctl.SET_UNMAP_NOTIFY, pack("<QII", offset + PAGE + 5, 1, 0)) == 0
    addr = u.sys.mmap(2, 3, u.gnt, offset)
    u.sys.store(addr + 5, b"\7")
    u.sys.store(addr + PAGE + 5, b"\7")
    u.sys.munmap(addr, 1)
    assert (page(u.rig, "A/0").bytes()[5], page(u.rig, "A/1").bytes()[5]) == (7, 7)
    u.sys.munmap(addr + PAGE, 1)
    assert (page(u.rig, "A/0").bytes()[5], page(u.rig, "A/1").bytes()[5]) == (7, 0)


# --- mappings that change ---


def test_grants_behind_a_hole_are_unmapped(u: User) -> None:
    addr = u.sys.mmap(4, 3, u.gnt, u.map(8, 9, 10, 11))
    u.sys.munmap(addr + PAGE, 1)
    assert u.mapped() == [True, False, True, True]
    u.sys.munmap(addr, 4)
    assert u.mapped() == [False] * 4


def test_mprotect_unmaps_the_grants_that_it_touches(u: User) -> None:
    addr = u.sys.mmap(3, 1, u.gnt, u.map(8, 9, 10))
    u.sys.mprotect(addr, 3, 1)
    assert u.mapped()[:3] == [True] * 3  # nothing changed
    u.sys.mprotect(addr + PAGE, 1, 3)
    assert u.mapped()[:3] == [True, False, True]
    for write in (False, True):
        with pytest.raises(Fault) as caught:
            u.sys.process.space.access(addr + PAGE, write)
        assert caught.value.signal == 7
    u.sys.load(addr + 2 * PAGE, 8)
    assert answer(lambda: u.sys.mprotect(addr + 3 * PAGE, 1, 1)) == -abi.ENOMEM


def test_losing_the_right_to_read_is_a_change_too(u: User) -> None:
    """Writable pages stay readable, as on the CPU; but gntdev is notified of a change, and unmaps."""
    addr = u.sys.mmap(2, 3, u.gnt, u.map(8, 9))
    u.sys.mprotect(addr, 1, PROT_WRITE)
    assert u.mapped()[:2] == [False, True]
    fd = u.sys.open(GNTALLOC)
    assert u.ioctl(fd, ioctl.GNTALLOC_ALLOC_GREF, pack("<HHIQ", u.guest.domid, 1, 1, 0) + bytes(8)) == 0
    own = u.sys.mmap(1, 3, fd, 0)
    u.sys.store(own, b"mine")
    u.sys.mprotect(own, 1, PROT_WRITE)
    assert u.sys.load(own, 4) == b"mine"


def test_a_page_without_any_right_raises_a_signal_and_keeps_its_content(u: User) -> None:
    fd = u.sys.open(GNTALLOC)
    assert u.ioctl(fd, ioctl.GNTALLOC_ALLOC_GREF, pack("<HHIQ", u.guest.domid, 1, 1, 0) + bytes(8)) == 0
    own = u.sys.mmap(1, 3, fd, 0)
    u.sys.store(own, b"mine")
    u.sys.mprotect(own, 1, 0)
    for write in (False, True):
        with pytest.raises(Fault) as caught:
            u.sys.process.space.access(own, write)
        assert (caught.value.signal, caught.value.code) == (11, 2)
    moved = u.sys.mremap(own, 1, 1, 0x30200 << 12)
    u.sys.mprotect(moved, 1, 1)
    assert u.sys.load(moved, 4) == b"mine"
    u.sys.mprotect(moved, 1, 0)
    u.sys.munmap(moved, 1)
    with pytest.raises(Fault) as caught:
        u.sys.process.space.access(moved, False)
    assert (caught.value.signal, caught.value.code) == (11, 1)


def test_poll_tells_what_is_wanted_and_errors(u: User) -> None:
    port, theirs = u.port()
    u.guest.events.send(theirs)
    assert u.sys.poll(u.ev, 1) == 1 and u.sys.poll(u.ev, 4) == 4 and u.sys.poll(u.gnt, 5) == 5
    file = u.sys.process.file(u.ev).device
    assert isinstance(file, evtchn.Evtchn) and port
    file.overflow = True
    assert u.sys.poll(u.ev, 1) == evtchn.POLLERR


def test_a_child_holds_what_it_has_mapped(u: User) -> None:
    """Pages of gntalloc that a child maps stay granted when its parent lets go of them; memory keeps its rights."""
    fd = u.sys.open(GNTALLOC)
    assert u.ioctl(fd, ioctl.GNTALLOC_ALLOC_GREF, pack("<HHIQ", u.guest.domid, 1, 2, 0) + bytes(8)) == 0
    own = u.sys.mmap(2, 3, fd, 0)
    u.sys.store(own + PAGE, b"mine")
    secret = u.sys.anonymous(1)
    u.sys.store(secret, b"kept")
    u.sys.mprotect(secret, 1, 1)
    child = u.sys.process.fork()
    assert child.space.load(secret, 4) == b"kept"
    with pytest.raises(Fault):
        child.space.store(secret, b"x")
    table = u.rig.dom0.grant_table
    granted = [ref for ref in range(table.nr_entries) if table.entry_v1(ref)[:2] == (1, u.guest.domid)]
    u.sys.exit()  # its files are the child's, too
    assert child.space.load(own + PAGE, 4) == b"mine"
    child.close(fd)
    assert len(granted) == 2 and all(table.entry_v1(ref)[0] & 1 for ref in granted)
    child.space.unmap(own >> 12, 1)
    assert all(table.entry_v1(ref)[0] & 1 for ref in granted)  # the rest of the mapping holds both
    child.exit()
    assert not any(table.entry_v1(ref)[0] & 1 for ref in granted)


def test_mremap_unmaps_grants_and_carries_own_pages_along(u: User) -> None:
    addr = u.sys.mmap(2, 3, u.gnt, u.map(8, 9))
    assert answer(lambda: u.sys.mremap(addr, 2, 3)) == -abi.EFAULT
    assert u.sys.mremap(addr, 2, 1) == addr and u.mapped()[:2] == [True, False]
    u.sys.mremap(addr, 1, 1, 0x30000 << 12)
    assert not any(u.mapped())
    fd = u.sys.open(GNTALLOC)
    assert u.ioctl(fd, ioctl.GNTALLOC_ALLOC_GREF, pack("<HHIQ", u.guest.domid, 1, 2, 0) + bytes(8)) == 0
    own = u.sys.mmap(2, 3, fd, 0)
    u.sys.store(own + PAGE, b"mine")
    u.sys.mremap(own + PAGE, 1, 1, 0x30100 << 12)
    assert u.sys.load(0x30100 << 12, 4) == b"mine"
    with pytest.raises(KernelError):
        u.sys.load(own + PAGE, 1)
    u.sys.mprotect(own, 1, 1)
    with pytest.raises(KernelError):
        u.sys.store(own, b"x")


# --- copies ---


def segment(source: bytes, dest: bytes, length: int, flags: int) -> bytes:
    return source + dest + pack("<HHhH", length, flags, 0x7FFF, 0)


def test_a_copy_across_the_end_of_a_page(u: User) -> None:
    bytes_of = bytes(page(u.rig, "A/0").bytes())
    at = u.arg + 2 * PAGE - 100
    one = segment(pack("<IHH", 8, 0, u.guest.domid), pack("<Q", at), PAGE, 1)
    assert u.ioctl(u.gnt, ioctl.GNTDEV_GRANT_COPY, pack("<IIQ", 1, 0, u.arg + 64) + bytes(48) + one) == 0
    assert u.sys.load(at, 100) + u.sys.load(at + 100, PAGE - 100) == bytes_of
    back = segment(pack("<Q", at), pack("<IHH", 9, 0, u.guest.domid), PAGE, 2)
    assert u.ioctl(u.gnt, ioctl.GNTDEV_GRANT_COPY, pack("<IIQ", 1, 0, u.arg + 64) + bytes(48) + back) == 0
    assert bytes(page(u.rig, "A/1").bytes()) == bytes_of


def test_segments_are_read_one_by_one(u: User) -> None:
    good = segment(pack("<IHH", 8, 0, u.guest.domid), pack("<Q", u.arg + 2 * PAGE), 16, 1)
    none = segment(pack("<Q", u.arg), pack("<Q", u.arg), 16, 0)
    payload = pack("<IIQ", 0xFFFFFFFF, 0, u.arg + 64) + bytes(48) + good * 17 + none
    assert u.ioctl(u.gnt, ioctl.GNTDEV_GRANT_COPY, payload) == -abi.EINVAL
    told = [unpack("<h", u.sys.load(u.arg + 64 + 24 * n + 20, 2))[0] for n in range(18)]
    assert told == [0] * 17 + [0x7FFF]
    assert u.sys.load(u.arg + 2 * PAGE, 16) == bytes(page(u.rig, "A/0").bytes()[:16])  # the first sixteen were executed
    addr = u.sys.mmap(1, 3, u.gnt, u.map(9))
    mapped = segment(pack("<IHH", 8, 0, u.guest.domid), pack("<Q", addr), 16, 1)
    # Linux takes the page of a mapped grant (recorded: x-reach.jsonl.xz); Xen refuses it, as it is not Dom0's own.
    assert u.ioctl(u.gnt, ioctl.GNTDEV_GRANT_COPY, pack("<IIQ", 1, 0, u.arg + 64) + bytes(48) + mapped) == 0
    assert unpack("<h", u.sys.load(u.arg + 64 + 20, 2))[0] == abi.GNTST_BAD_PAGE


# --- gntalloc ---


def test_none_and_a_thousand_pages() -> None:
    u = User()
    fd = u.sys.open(GNTALLOC)
    head = "<HHIQ"
    assert u.ioctl(fd, ioctl.GNTALLOC_ALLOC_GREF, pack(head, u.guest.domid, 1, 0, 7)) == 0
    assert unpack(head, u.sys.load(u.arg, 16))[3] == 0
    assert u.ioctl(fd, ioctl.GNTALLOC_ALLOC_GREF, pack(head, u.guest.domid, 1, 0xFFFFFFFF, 7)) == -abi.ENOSPC
    free = len(u.rig.kernel.free_pages)
    assert u.ioctl(fd, ioctl.GNTALLOC_ALLOC_GREF, pack(head, u.guest.domid, 1, 1000, 0)) == 0
    refs = unpack("<1000I", u.sys.load(u.arg + 16, 4000))
    assert len(set(refs)) == 1000 and min(refs) >= 8 and max(refs) >= 512  # the kernel's own table has grown
    assert u.ioctl(fd, ioctl.GNTALLOC_ALLOC_GREF, pack(head, u.guest.domid, 1, 25, 0)) == -abi.ENOSPC
    u.sys.close(fd)
    assert len(u.rig.kernel.free_pages) == free and u.pool.count == 0


def test_a_failed_allocation_spends_its_offsets(u: User) -> None:
    fd = u.sys.open(GNTALLOC)
    kept, u.rig.kernel.free_pages[:] = list(u.rig.kernel.free_pages), u.rig.kernel.free_pages[:1]
    payload = pack("<HHIQ", u.guest.domid, 1, 2, 0) + bytes(8)
    assert u.ioctl(fd, ioctl.GNTALLOC_ALLOC_GREF, payload) == -abi.ENOMEM and u.pool.count == 0
    u.rig.kernel.free_pages[:] = kept
    assert u.ioctl(fd, ioctl.GNTALLOC_ALLOC_GREF, payload) == 0
    assert unpack("<Q", u.sys.load(u.arg + 8, 8))[0] == 2 * PAGE


def test_a_shared_pages_notice_comes_before_the_peer_is_through(u: User) -> None:
    port, theirs = u.port()
    fd = u.sys.open(GNTALLOC)
    u.ioctl(fd, ioctl.GNTALLOC_ALLOC_GREF, pack("<HHIQ", u.guest.domid, 1, 1, 0) + bytes(4))
    ref = unpack("<I", u.sys.load(u.arg + 16, 4))[0]
    agent = u.rig.agents["A"]
    u.rig.grant_op("A", 0, abi.MAP_GRANT_REF.pack(agent.layout.window_va(0), 2, ref, 0, 0, 0, 0))
    notify = (fd, ioctl.SET_UNMAP_NOTIFY)
    assert u.ioctl(*notify, pack("<QII", PAGE, 4, port)) == -abi.ENOENT  # no such page is told first
    assert u.ioctl(*notify, pack("<QII", 0, 4, port)) == -abi.EINVAL
    assert u.ioctl(*notify, pack("<QII", 24, 3, port)) == 0
    u.word(u.ev, ioctl_control.EVTCHN_UNBIND, port)
    assert u.ioctl(fd, ioctl.GNTALLOC_DEALLOC_GREF, pack("<QII", 0, 1, 0)) == 0
    assert u.guest.events.take_pending() == [theirs] and u.rig.dom0.events.get(port) is None and u.pool.deferred


# --- privcmd ---


def batch(u: User, fd: int, addr: int, *pages: str) -> tuple[int, bytes]:
    """MMAPBATCH_V2 of the guest's pages, and the errors, which were all sevens."""
    frames = b"".join(pack("<Q", u.rig.mfn(page) if page else (1 << 40) - 1) for page in pages)
    head = ioctl_control.MMAPBATCH_V2.pack(len(pages), u.guest.domid, 0, addr, u.arg + 64, u.arg + 256)
    rc = u.ioctl(fd, ioctl_control.PRIVCMD_MMAPBATCH_V2, head.ljust(64, b"\0") + frames.ljust(192, b"\0") + b"\7" * 16)
    return rc, u.sys.load(u.arg + 256, 4 * len(pages))


def test_an_area_is_filled_as_a_whole_and_once(u: User) -> None:
    fd = u.sys.open(PRIVCMD)
    addr = u.sys.mmap(3, 3, fd, 0)
    for at, pages in ((addr, ("A/0",)), (addr + PAGE, ("A/0", "A/1")), (addr + 8, ("A/0", "A/1", "A/2"))):
        assert batch(u, fd, at, *pages) == (-abi.EINVAL, bytes(4 * len(pages)))  # refused, but the errors are zeroed
    rc, errors = batch(u, fd, addr, "A/0", "", "A/2")
    assert rc == 0 and [value < 0 for value in unpack("<3i", errors)] == [False, True, False]
    assert batch(u, fd, addr, "A/0", "A/1", "A/2")[0] == -abi.EINVAL
    assert batch(u, fd, addr + PAGE, "A/1")[0] == 0  # a hole may be filled
    for call in (lambda: u.sys.munmap(addr, 1), lambda: u.sys.mremap(addr, 3, 1), lambda: u.sys.mprotect(addr, 1, 1)):
        assert answer(call) == -abi.EINVAL
    assert u.sys.load(addr + PAGE, 8) == bytes(page(u.rig, "A/1").bytes()[:8])
    u.sys.munmap(addr, 3)


def test_calls_of_device_models(u: User) -> None:
    """DM_OP: only of the domain that a file is restricted to; each buffer must be in memory that can be written."""
    fd, other = u.sys.open(PRIVCMD), u.sys.open(PRIVCMD)
    hvm = u.rig.make_translated("H")
    assert u.ioctl(other, ioctl_control.PRIVCMD_RESTRICT, pack("<H", u.guest.domid)) == 0

    def call(file: int, *buffers: tuple[int, int], domid: int = hvm) -> int:
        packed = b"".join(pack("<2Q", *each) for each in buffers).ljust(192, b"\0")
        head = pack("<HH4xQ", domid, len(buffers), u.arg + 64).ljust(64, b"\0")
        return u.ioctl(file, ioctl_control.PRIVCMD_DM_OP, head + packed + pack("<4I", 20, 0, 77, 0))

    at = u.arg + 256
    assert call(fd, (at, 16)) == 0 and unpack("<I", u.sys.load(at + 8, 4)) == (1,)
    assert call(fd) == call(other, domid=u.guest.domid) == 0
    assert call(other, (at, 16)) == call(other) == -abi.EPERM
    assert call(other, (at, 16), domid=u.guest.domid) == -abi.EINVAL  # a PV guest has no device model
    assert call(fd, (at, 4097)) == call(fd, *[(at, 16)] * 17) == -abi.E2BIG
    end = u.sys.anonymous(2) + PAGE
    u.sys.munmap(end, 1)
    for bad in (0x5000000000, (1 << 47) - 16, (1 << 64) - 4096, end - 15):
        assert call(fd, (at, 16), (bad, 16)) == -abi.EFAULT
    u.sys.store(end - 16, pack("<4I", 20, 0, 77, 0))
    assert call(fd, (end - 16, 16)) == 0
    assert unpack("<I", u.sys.load(at + 8, 4)) == (77,)


def test_the_older_foreign_mappings(u: User) -> None:
    fd = u.sys.open(PRIVCMD)
    addr = u.sys.mmap(2, 3, fd, 0)
    head = ioctl_control.MMAPBATCH.pack(2, u.guest.domid, 0, addr, u.arg + 64).ljust(64, b"\0")
    gfns = (u.rig.mfn("A/0"), (1 << 40) - 1)
    assert u.ioctl(fd, ioctl_control.PRIVCMD_MMAPBATCH, head + pack("<2Q", *gfns)) == 0
    assert unpack("<2Q", u.sys.load(u.arg + 64, 16)) == (gfns[0], gfns[1] | 0xF0000000)
    assert u.sys.load(addr, 8) == bytes(page(u.rig, "A/0").bytes()[:8])

    def mmap(at: int, *runs: tuple[int, int, int]) -> int:
        packed = b"".join(ioctl_control.ENTRY.pack(*run) for run in runs)
        return u.ioctl(
            fd,
            ioctl_control.PRIVCMD_MMAP,
            ioctl_control.MMAP.pack(len(runs), u.guest.domid, 0, u.arg + 64).ljust(64, b"\0") + packed,
        )

    assert mmap(addr, (addr, gfns[0], 1)) == -abi.EINVAL  # filled already
    assert mmap(0) == 0
    area = u.sys.mmap(3, 3, fd, 0)
    assert mmap(area, (area + PAGE, gfns[0], 1)) == -abi.EINVAL
    assert mmap(area, (area, gfns[0], 1), (area + PAGE, u.rig.mfn("A/1"), 1), (area + 2 * PAGE, gfns[1], 1)) < 0
    assert u.sys.load(area + PAGE, 8) == bytes(page(u.rig, "A/1").bytes()[:8])  # what came before the failure stays


def test_a_private_foreign_mapping_is_copied_when_written(u: User) -> None:
    fd = u.sys.open(PRIVCMD)
    addr = u.sys.mmap(1, 3, fd, 0, MAP_PRIVATE)
    free = len(u.rig.kernel.free_pages)
    assert batch(u, fd, addr, "A/0")[0] == 0
    before = bytes(page(u.rig, "A/0").bytes())
    u.sys.store(addr + 8, b"private")
    assert bytes(page(u.rig, "A/0").bytes()) == before
    assert u.sys.load(addr, 24) == before[:8] + b"private" + before[15:24]
    u.sys.munmap(addr, 1)
    assert len(u.rig.kernel.free_pages) == free
    assert answer(lambda: u.sys.mmap(1, 3, u.gnt, u.map(8), MAP_PRIVATE)) == -abi.EINVAL  # a grant is not


def test_the_size_of_a_resource(u: User) -> None:
    fd = u.sys.open(PRIVCMD)
    resource = ioctl_control.MMAP_RESOURCE
    query = resource.pack(u.guest.domid, 0, 1, 0, 0, 0, 0)
    assert u.ioctl(fd, ioctl_control.PRIVCMD_MMAP_RESOURCE, query) == 0
    assert resource.unpack(u.sys.load(u.arg, resource.size))[5] == u.guest.grant_table.max_frames
    for count, at in ((1, 0), (0, u.sys.mmap(1, 3, fd, 0))):
        packed = resource.pack(u.guest.domid, 0, 1, 0, 0, count, at)
        assert u.ioctl(fd, ioctl_control.PRIVCMD_MMAP_RESOURCE, packed) == -abi.EINVAL
