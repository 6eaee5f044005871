"""System calls of a Dom0 process at their edges: addresses, lengths, memory that runs out; BSD's device for both drivers.

Protects: answers that no recording can hold (the recorder names areas by number, its kernel has memory enough, and it is
Linux). Sources: the manual pages of mmap, munmap, mprotect, mremap (EINVAL for addresses that are not of a page, ENOMEM);
Linux mm/mmap.c, mm/mremap.c, drivers/xen/gntalloc.c; FreeBSD sys/xen/gntdev.h, whose device has the semantics of Linux's
two: so each BSD request is compared with the Linux one.
"""

from __future__ import annotations

from functools import partial
from struct import pack, unpack

import pytest

from bulkhead.impl.dom0 import gntdev_bsd, ioctl, ioctl_control
from bulkhead.impl.dom0.evtchn import POLLIN, POLLOUT
from bulkhead.impl.dom0.gntalloc import GntallocPool
from bulkhead.impl.dom0.kernel import MAX_BATCH, KernelError
from bulkhead.impl.dom0.process import MAP_PRIVATE, Process
from bulkhead.impl.dom0.syscalls import EVTCHN, GNTALLOC, GNTDEV, MMAP_END, PRIVCMD, Syscalls, devices
from bulkhead.impl.xen import abi
from tests.impl.test_dom0_linux import PAGE, User, answer

RW, R, NONE = 3, 1, 0


@pytest.fixture
def u() -> User:
    return User()


def test_addresses_are_those_of_pages(u: User) -> None:
    at = u.sys.anonymous(2)
    u.sys.store(at, b"keep")
    for off in (1, 8, 4095):
        assert answer(partial(u.sys.munmap, at + off, 1)) == -abi.EINVAL
        assert answer(partial(u.sys.mprotect, at + off, 1, R)) == -abi.EINVAL
        assert answer(partial(u.sys.mremap, at + off, 1, 1)) == -abi.EINVAL
        assert answer(partial(u.sys.mremap, at, 1, 1, at + 0x100000 + off)) == -abi.EINVAL
    for pages in (0, -1):
        assert answer(partial(u.sys.munmap, at, pages)) == -abi.EINVAL
        assert answer(partial(u.sys.mremap, at, 1, pages)) == -abi.EINVAL
        assert answer(partial(u.sys.anonymous, pages)) == -abi.EINVAL
    for offset in (1, 0x800):
        assert answer(partial(u.sys.mmap, 1, RW, u.gnt, offset)) == -abi.EINVAL
    u.sys.store(at, b"kept")  # nothing has changed
    assert u.sys.load(at, 4) == b"kept"


def test_address_space_ends(u: User) -> None:
    most = (MMAP_END << 12) // PAGE
    assert answer(partial(u.sys.anonymous, most)) == -abi.ENOMEM
    assert answer(partial(u.sys.mmap, most, RW, u.gnt, 0)) == -abi.ENOMEM


def test_memory_that_runs_out_leaves_nothing_behind(u: User) -> None:
    kernel = u.rig.kernel
    free, areas = len(kernel.free_pages), len(u.sys.process.space.vmas)
    assert answer(partial(u.sys.anonymous, free + 1)) == -abi.ENOMEM
    assert len(kernel.free_pages) >= free - 8 and len(u.sys.process.space.vmas) == areas  # page tables stay
    kernel.free_slots, kept = [], kernel.free_slots
    index = u.map(8, 9)
    assert answer(partial(u.sys.mmap, 2, RW, u.gnt, index)) == -abi.ENOMEM
    with pytest.raises(KernelError) as none_left:
        kernel.alloc_slot()
    assert none_left.value.code == abi.ENOMEM
    kernel.free_slots = kept
    assert u.mapped() == [False] * 4
    assert u.sys.mmap(2, RW, u.gnt, index) and u.mapped() == [True, True, False, False]


@pytest.mark.parametrize("lacks", ["pages", "references"])
def test_gntalloc_without_pages_or_references(u: User, lacks: str) -> None:
    """The pages of a request that fails half-way are all free again, and their grants are ended; the limit counts none."""
    kernel = u.rig.kernel
    fd = u.sys.open(GNTALLOC)
    if lacks == "pages":
        kernel.free_pages = kernel.free_pages[-2:]
    else:
        while kernel.expand_table():
            pass
        kernel.free_refs = kernel.free_refs[-2:]
    pages, refs = sorted(kernel.free_pages), sorted(kernel.free_refs)
    want = -abi.ENOMEM if lacks == "pages" else -abi.ENOSPC
    assert u.ioctl(fd, ioctl.GNTALLOC_ALLOC_GREF, pack("<HHIQ", u.guest.domid, 1, 3, 0)) == want
    assert (sorted(kernel.free_pages), sorted(kernel.free_refs), u.pool.count) == (pages, refs, 0)
    table = u.rig.dom0.grant_table
    assert all(table.entry_v1(ref)[0] == 0 for ref in refs)
    assert u.ioctl(fd, ioctl.GNTALLOC_ALLOC_GREF, pack("<HHIQ", u.guest.domid, 1, 2, 0)) == 0
    assert unpack("<Q", u.sys.load(u.arg + 8, 8))[0] == 3 * PAGE  # the offset of the failed request stays used


def test_mremap_in_place(u: User) -> None:
    at = u.sys.anonymous(3)
    u.sys.store(at + 2 * PAGE, b"tail")
    assert u.sys.mremap(at, 3, 3) == at and u.sys.load(at + 2 * PAGE, 4) == b"tail"
    assert answer(partial(u.sys.mremap, at, 3, 4)) == -abi.ENOMEM
    assert u.sys.mremap(at, 3, 1) == at
    assert answer(partial(u.sys.load, at + PAGE, 1)) == -abi.EFAULT
    index = u.map(8, 9)
    area = u.sys.mmap(2, RW, u.gnt, index)
    assert answer(partial(u.sys.mremap, area, 2, 3)) == -abi.EFAULT  # a device's area does not grow
    assert answer(partial(u.sys.mremap, area + 0x900000, 1, 1)) == -abi.EFAULT
    foreign = u.sys.mmap(3, RW, u.sys.open(PRIVCMD), 0)
    for part, many in ((foreign, 1), (foreign + PAGE, 1), (foreign, 3)):  # nothing is cut off, so nothing is split
        assert u.sys.mremap(part, many, many) == part
    assert answer(partial(u.sys.mremap, foreign, 3, 2)) == -abi.EINVAL


def test_mremap_to_another_place(u: User) -> None:
    at = u.sys.anonymous(3)
    for page in range(3):
        u.sys.store(at + page * PAGE, b"page%d" % page)
    to = at + 0x100000
    assert answer(partial(u.sys.mremap, at, 2, 2, at + PAGE)) == -abi.EINVAL  # over itself
    assert answer(partial(u.sys.mremap, at + 2 * PAGE, 1, 1, at + 2 * PAGE)) == -abi.EINVAL
    assert answer(partial(u.sys.mremap, at, 3, 5, to)) == -abi.ENOMEM
    assert u.sys.mremap(at, 3, 2, to) == to
    assert [u.sys.load(to + page * PAGE, 5) for page in range(2)] == [b"page0", b"page1"]
    for gone in (at, at + PAGE, at + 2 * PAGE, to + 2 * PAGE):
        assert answer(partial(u.sys.load, gone, 1)) == -abi.EFAULT
    u.sys.store(to, b"still")
    u.sys.munmap(to, 2)
    at = u.sys.anonymous(4)
    u.sys.store(at + 2 * PAGE, b"behind")
    assert u.sys.mremap(at, 2, 1, to) == to and u.sys.load(at + 2 * PAGE, 6) == b"behind"  # what lies behind is not cut off


def test_mremap_replaces_what_lies_there(u: User) -> None:
    """A grant that is mapped at the new place is unmapped first, the others of its map stay."""
    area = u.sys.mmap(2, RW, u.gnt, u.map(8, 9))
    own = u.sys.anonymous(1)
    u.sys.store(own, b"mine")
    assert u.mapped()[:2] == [True, True] and u.sys.mremap(own, 1, 1, area) == area
    assert u.sys.load(area, 4) == b"mine" and u.mapped()[:2] == [False, True]


def test_mprotect(u: User) -> None:
    at = u.sys.anonymous(3)
    u.sys.store(at + PAGE, b"data")
    u.sys.mprotect(at + PAGE, 1, R)
    assert answer(partial(u.sys.store, at + PAGE, b"x")) == -abi.EFAULT and u.sys.load(at + PAGE, 4) == b"data"
    u.sys.store(at, b"x")
    u.sys.store(at + 2 * PAGE, b"x")
    u.sys.mprotect(at, 3, NONE)
    assert answer(partial(u.sys.load, at + PAGE, 4)) == -abi.EFAULT
    u.sys.mprotect(at, 3, RW)
    assert u.sys.load(at + PAGE, 4) == b"data"
    u.sys.munmap(at + PAGE, 1)
    assert answer(partial(u.sys.mprotect, at, 3, R)) == -abi.ENOMEM  # with a hole; what is before it has changed
    assert answer(partial(u.sys.store, at, b"x")) == -abi.EFAULT
    u.sys.store(at + 2 * PAGE, b"x")


def test_a_private_page_is_copied_once_for_each_process(u: User) -> None:
    priv = u.sys.open(PRIVCMD)
    area = u.sys.mmap(1, RW, priv, 0, MAP_PRIVATE)
    u.sys.store(u.arg + 256, pack("<Q", u.rig.mfn("A/3")))
    batch = ioctl_control.MMAPBATCH_V2.pack(1, u.guest.domid, 0, area, u.arg + 256, u.arg + 512)
    u.sys.store(u.arg, batch)
    assert u.sys.ioctl(priv, ioctl_control.PRIVCMD_MMAPBATCH_V2, u.arg) == 0
    page = u.rig.page("A/3")
    assert page is not None
    page.bytes()[:8] = b"original"
    assert u.sys.load(area, 8) == b"original"
    free = len(u.rig.kernel.free_pages)
    u.sys.store(area, b"mine")
    u.sys.store(area + 4, b"ours")
    assert u.sys.load(area, 8) == b"mineours" and bytes(page.bytes()[:8]) == b"original"
    assert len(u.rig.kernel.free_pages) == free - 1
    u.sys.munmap(area, 1)
    assert len(u.rig.kernel.free_pages) == free


def test_poll_of_devices(u: User) -> None:
    assert u.sys.poll(u.gnt) == POLLIN | POLLOUT and u.sys.poll(u.ev) == POLLOUT
    assert u.sys.poll(u.ev, POLLIN) == 0
    port, theirs = u.port()
    assert u.guest.events.send(theirs) == 0
    assert u.sys.poll(u.ev) == POLLIN | POLLOUT and u.sys.poll(u.ev, POLLOUT) == POLLOUT
    assert u.sys.read(u.ev, 4) == pack("<I", port)
    assert answer(partial(u.sys.read, u.gnt, 4)) == answer(partial(u.sys.write, u.gnt, b"1234")) == -abi.EINVAL
    assert answer(partial(u.sys.poll, 99)) == answer(partial(u.sys.close, 99)) == -abi.EBADF


@pytest.mark.parametrize("before", range(6))
def test_bytes_across_the_end_of_a_page(u: User, before: int) -> None:
    """Each byte comes to its own place, from odd addresses too; no other byte changes, and a fault ends the store."""
    u.sys.store(u.arg, b"-" * 3 * PAGE)
    payload = bytes(1 + n % 251 for n in range(PAGE + 8))
    u.sys.store(u.arg + PAGE - before, payload)
    assert u.sys.load(u.arg, 3 * PAGE) == b"-" * (PAGE - before) + payload + b"-" * (2 * PAGE + before - len(payload))
    end = u.arg + 4 * PAGE
    assert answer(lambda: u.sys.store(end - before, payload[: before + 1])) == -abi.EFAULT
    assert u.sys.load(end - before, before) == payload[:before]


def test_more_grants_than_one_hypercall_takes(u: User) -> None:
    """The kernel makes several calls; each element is told its own status, and after an error none is."""
    kernel = u.rig.kernel
    many = 2 * MAX_BATCH + 2
    wanted = [abi.MAP_GRANT_REF.pack(0, abi.GNTMAP_HOST_MAP, 8, 999, 77, 0, 0)] * many
    rc, told = kernel.grant_op(abi.GNTTABOP_MAP_GRANT_REF, wanted)
    assert rc == 0 and [abi.MAP_GRANT_REF.unpack(each)[4] for each in told] == [abi.GNTST_BAD_DOMAIN] * many
    rc, told = kernel.grant_op(99, wanted)
    assert rc == -abi.ENOSYS and told == wanted


class Bsd(User):
    """The same process on a BSD kernel: one device makes grants and maps them."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = GntallocPool(self.rig.kernel)
        nodes = devices(self.rig.kernel, self.pool, (GNTDEV, PRIVCMD, EVTCHN), bsd=True)
        self.sys = Syscalls("bsd", Process(self.rig.kernel), nodes)
        self.arg = self.sys.anonymous(4)
        self.ev, self.gnt = self.sys.open(EVTCHN), self.sys.open(GNTDEV)

    def map(self, *refs: int) -> int:
        self.sys.store(self.arg + 512, b"".join(pack("<II", self.guest.domid, ref) for ref in refs))
        assert self.ioctl(self.gnt, gntdev_bsd.BSD_MAP_GRANT_REF, pack("<IIQQ", len(refs), 0, 0, self.arg + 512)) == 0
        count, pad, index, refs_at = unpack("<IIQQ", self.sys.load(self.arg, 24))
        assert (count, pad, refs_at) == (len(refs), 0, self.arg + 512)  # only the index is new
        return int(index)

    def unmap(self, index: int, count: int) -> int:
        return self.ioctl(self.gnt, gntdev_bsd.BSD_UNMAP_GRANT_REF, pack("<QII", index, count, 0))

    def offset(self, addr: int) -> tuple[int, int, int]:
        rc = self.ioctl(self.gnt, gntdev_bsd.BSD_GET_OFFSET_FOR_VADDR, pack("<QQII", addr, 7, 7, 0))
        return (rc, *unpack("<QI", self.sys.load(self.arg + 8, 12))) if rc == 0 else (rc, 0, 0)

    def notify(self, index: int, action: int, port: int) -> int:
        return self.ioctl(self.gnt, gntdev_bsd.BSD_SET_UNMAP_NOTIFY, pack("<QII", index, action, port))


class Linux(User):
    """The same requests of Linux's gntdev."""

    def unmap(self, index: int, count: int) -> int:
        return self.ioctl(self.gnt, ioctl.GNTDEV_UNMAP_GRANT_REF, pack("<QII", index, count, 0))

    def offset(self, addr: int) -> tuple[int, int, int]:
        rc = self.ioctl(self.gnt, ioctl.GNTDEV_GET_OFFSET_FOR_VADDR, pack("<QQII", addr, 7, 7, 0))
        return (rc, *unpack("<QI", self.sys.load(self.arg + 8, 12))) if rc == 0 else (rc, 0, 0)

    def notify(self, index: int, action: int, port: int) -> int:
        return self.ioctl(self.gnt, ioctl.SET_UNMAP_NOTIFY, pack("<QII", index, action, port))


def maps_and_parts(u: Linux | Bsd) -> list[object]:
    """Maps of three, parts unmapped, a byte cleared and an event sent, offsets told, files closed: all that is seen."""
    seen: list[object] = []
    index = u.map(8, 9, 10)
    seen += [index, u.offset(u.arg), u.offset(0x10)]
    area = u.sys.mmap(3, RW, u.gnt, index)
    seen += [u.mapped(), u.offset(area), u.offset(area + PAGE)]
    port, theirs = u.port()
    seen += [
        u.notify(index + PAGE + 5, 3, port),
        u.notify(index + 3 * PAGE, 3, port),
        u.notify(index, 8, 0),
        u.notify(index, 2, 4000),
    ]
    u.sys.store(area + PAGE, b"\xff" * 8)
    u.sys.munmap(area, 1)
    seen.append(u.mapped())
    page = u.rig.page("A/1")
    assert page is not None
    seen.append(bytes(page.bytes()[:8]))
    u.sys.mprotect(area + 2 * PAGE, 1, R)
    seen += [u.mapped(), answer(partial(u.sys.load, area + 2 * PAGE, 1))]
    seen += [u.unmap(index, 2), u.unmap(index + PAGE, 0), u.unmap(index, 3), u.mapped()]
    u.sys.munmap(area + PAGE, 2)
    seen += [u.mapped(), bytes(page.bytes()[:8]), u.guest.events.take_pending() == [theirs]]
    again = u.map(11)
    area = u.sys.mmap(1, R, u.gnt, again)
    u.sys.close(u.gnt)
    seen.append(u.mapped())
    u.sys.munmap(area, 1)
    return [*seen, u.mapped()]


def test_bsd_maps_as_linux_does() -> None:
    assert maps_and_parts(Bsd()) == maps_and_parts(Linux())


def test_bsd_gives_pages_as_linux_does() -> None:
    bsd, linux = Bsd(), Linux()
    fd = linux.sys.open(GNTALLOC)
    refs: list[tuple[int, ...]] = []
    for u in (bsd, linux):
        domid = u.guest.domid
        if isinstance(u, Bsd):
            ask = pack("<HHIQQ", domid, 1, 2, 0, u.arg + 512)
            assert u.ioctl(u.gnt, gntdev_bsd.BSD_ALLOC_GREF, ask) == 0
            index = gntdev_bsd.OWN_PAGES
            told = unpack("<HHIQQ", u.sys.load(u.arg, 24))
            assert told == (domid, 1, 2, index, u.arg + 512)  # only the index is new
            refs.append(unpack("<II", u.sys.load(u.arg + 512, 8)))
            area = u.sys.mmap(2, RW, u.gnt, index)
        else:
            assert u.ioctl(fd, ioctl.GNTALLOC_ALLOC_GREF, pack("<HHIQ", domid, 1, 2, 0)) == 0
            refs.append(unpack("<II", u.sys.load(u.arg + 16, 8)))
            index, area = 0, u.sys.mmap(2, RW, fd, 0)
        u.sys.store(area + PAGE, b"shared")
        port, theirs = u.port()
        device = u.gnt if isinstance(u, Bsd) else fd
        notice = gntdev_bsd.BSD_SET_UNMAP_NOTIFY if isinstance(u, Bsd) else ioctl.SET_UNMAP_NOTIFY
        free = gntdev_bsd.BSD_DEALLOC_GREF if isinstance(u, Bsd) else ioctl.GNTALLOC_DEALLOC_GREF
        assert u.ioctl(device, notice, pack("<QII", index, 2, port)) == 0
        assert u.ioctl(device, notice, pack("<QII", index, 0, 0)) == 0
        assert u.ioctl(device, notice, pack("<QII", index + PAGE, 3, port)) == 0
        assert u.ioctl(device, notice, pack("<QII", index + 2 * PAGE, 3, port)) == -abi.ENOENT
        assert u.ioctl(device, free, pack("<QII", index, 3, 0)) == -abi.EINVAL
        u.sys.munmap(area, 1)
        assert u.ioctl(device, free, pack("<QII", index, 2, 0)) == 0
        table = u.rig.dom0.grant_table
        assert [table.entry_v1(ref)[0] & 3 for ref in refs[-1]] == [1, 1]  # what is left of the area holds both
        assert u.sys.load(area + PAGE, 6) == b"shared" and not u.guest.events.take_pending()
        u.sys.munmap(area + PAGE, 1)
        assert u.guest.events.take_pending() == [theirs] and not any(table.entry_v1(ref)[0] for ref in refs[-1])
    assert len(set(refs[0])) == len(set(refs[1])) == 2


@pytest.mark.parametrize(("domid", "flags", "entry"), [(3, 0, 5), (3, 1, 1), (0, 1, 1)])
def test_for_whom_and_how_a_page_of_bsd_is_granted(domid: int, flags: int, entry: int) -> None:
    u = Bsd()
    assert u.ioctl(u.gnt, gntdev_bsd.BSD_ALLOC_GREF, pack("<HHIQQ", domid, flags, 2, 0, u.arg + 512)) == 0
    for ref in unpack("<II", u.sys.load(u.arg + 512, 8)):
        assert u.rig.dom0.grant_table.entry_v1(ref)[:2] == (entry, domid)


@pytest.mark.parametrize("count", [0, 65537])
def test_bsd_refuses_no_grants_and_too_many(count: int) -> None:
    u = Bsd()
    assert u.ioctl(u.gnt, gntdev_bsd.BSD_MAP_GRANT_REF, pack("<IIQQ", count, 0, 0, u.arg + 512)) == -abi.EINVAL
    assert u.ioctl(u.gnt, ioctl.GNTDEV_MAP_GRANT_REF) == -abi.ENOTTY


def test_a_forked_process_of_bsd_holds_its_own_pages() -> None:
    u = Bsd()
    assert u.ioctl(u.gnt, gntdev_bsd.BSD_ALLOC_GREF, pack("<HHIQQ", u.guest.domid, 1, 1, 0, u.arg + 512)) == 0
    ref = unpack("<I", u.sys.load(u.arg + 512, 4))[0]
    area = u.sys.mmap(1, RW, u.gnt, gntdev_bsd.OWN_PAGES)
    child = u.sys.process.fork()
    u.sys.munmap(area, 1)
    assert u.ioctl(u.gnt, gntdev_bsd.BSD_DEALLOC_GREF, pack("<QII", gntdev_bsd.OWN_PAGES, 1, 0)) == 0
    assert u.rig.dom0.grant_table.entry_v1(ref)[0] & 3 == 1
    child.exit()
    assert u.rig.dom0.grant_table.entry_v1(ref)[0] == 0


def test_an_address_space_that_ends_leaves_no_table(u: User) -> None:
    """Pages far apart need tables of every level; after the exit each is a plain page of the kernel again."""
    kernel = u.rig.kernel
    process = Process(kernel)
    for vpn in (0x10, 0x1FF, 0x200, 0x40000, 0x7FFFFFF, 0x8000000, 0x7FFFFFFF0):
        process.space.map_anonymous(vpn, 1)
    tables = [process.space.root, *process.space.tables.values()]
    assert len(tables) > 10 and all(table.pinned for table in tables)
    process.exit()
    assert [(t.count, t.tcount, t.ptype, t.pinned) for t in tables] == [(2, 1, 7, False)] * len(tables)


def test_bsd_tells_only_the_index_of_new_pages() -> None:
    u = Bsd()
    for writable, at in ((1, 0), (0, abi.PAGE_SIZE)):
        asked = (u.guest.domid, writable, 1, 0, u.arg + 512)
        assert u.ioctl(u.gnt, gntdev_bsd.BSD_ALLOC_GREF, pack("<HHIQQ", *asked)) == 0
        told = unpack("<HHIQQ", u.sys.load(u.arg, 24))
        assert told == (*asked[:3], gntdev_bsd.OWN_PAGES + at, asked[4])
