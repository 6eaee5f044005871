"""A Dom0 process's memory by other ways than loads and stores, at what no recording can hold.

Protects: a grant that stays in use after its pages were given up; a page of a guest that the kernel reads for somebody where
the process itself could not; a page that is given to another while a pipe holds it; calls that Linux has and this Dom0 does
not claim. Recordings of real Linux (x-reach.jsonl.xz) have the answers themselves.
"""

from __future__ import annotations

from functools import partial
from struct import pack, unpack

import pytest

from bulkhead.impl.dom0 import ioctl, memory_calls, reach
from bulkhead.impl.dom0.gntalloc import GntallocPool
from bulkhead.impl.dom0.memory_calls import DONTNEED, POPULATE_READ, NotModelled, madvise, mincore, mlock
from bulkhead.impl.dom0.pipes import SLOTS, Pipe
from bulkhead.impl.dom0.process import MAP_PRIVATE, AddressSpace
from bulkhead.impl.dom0.syscalls import GNTALLOC, GNTDEV, HYPERCALL, PRIVCMD, Syscalls, devices
from bulkhead.impl.dom0.vma_changes import DONTUNMAP, FIXED, MAYMOVE, resize
from bulkhead.impl.xen import abi
from bulkhead.proofs.cli.__main__ import run
from tests.impl.support import entry_flags
from tests.impl.test_dom0_linux import PAGE, User, answer
from tests.test_replay import HEADER

RW, R, NONE = 3, 1, 0
WAYS = (reach.process_vm_readv, reach.read_mem)


class Process(User):
    """The same process, whose system has the device of hypercall buffers, too."""

    def __init__(self) -> None:
        super().__init__()
        kernel = self.rig.kernel
        nodes = devices(kernel, GntallocPool(kernel), (GNTDEV, GNTALLOC, PRIVCMD, HYPERCALL))
        self.sys = Syscalls("user", self.sys.process, {**self.sys.devices, **nodes})

    @property
    def space(self) -> AddressSpace:
        return self.sys.process.space

    def grants(self, prot: int = RW, flags: int = 1) -> int:
        """Three grants, mapped; the first page."""
        return self.sys.mmap(3, prot, self.gnt, self.map(8, 9, 10), flags) >> 12

    def own(self) -> tuple[int, int, int]:
        """Two pages of gntalloc: the file, the first page, the offset."""
        fd = self.sys.open(GNTALLOC)
        assert self.ioctl(fd, ioctl.GNTALLOC_ALLOC_GREF, pack("<HHIQ", self.guest.domid, 1, 2, 0)) == 0
        offset = unpack("<Q", self.sys.load(self.arg + 8, 8))[0]
        return fd, self.sys.mmap(2, RW, fd, offset) >> 12, offset


@pytest.fixture
def u() -> Process:
    return Process()


def test_given_up_pages_of_a_grant_are_unmapped_in_xen(u: Process) -> None:
    """Nothing brings them back, and no later way reaches them; their neighbours stay."""
    at = u.grants()
    madvise(u.space, at + 1, 1, DONTNEED)
    assert u.mapped()[:3] == [True, False, True]
    assert answer(partial(u.sys.load, (at + 1) << 12, 8)) == -abi.EFAULT
    assert answer(partial(madvise, u.space, at, 3, POPULATE_READ)) == -abi.EFAULT
    assert answer(partial(mlock, u.space, at, 3)) == -abi.ENOMEM
    assert [answer(partial(way, u.space, (at + 1) << 12, 8)) for way in WAYS] == [-abi.EFAULT, -abi.EIO]
    assert mincore(u.space, at, 3) == [True, False, True]
    u.sys.munmap(at << 12, 3)
    assert u.mapped()[:3] == [False] * 3


def test_the_kernel_reads_for_others_only_what_the_process_can(u: Process) -> None:
    """A grant while it is mapped, across pages as far as they go; never an area of privcmd, never without read access."""
    at = u.grants()
    guest = u.rig.agents["A"].layout.pages
    guest[0].bytes()[4088:] = b"12345678"
    guest[1].bytes()[:8] = b"abcdefgh"
    for way in WAYS:
        assert way(u.space, (at << 12) + 4088, 16) == b"12345678abcdefgh"
    u.sys.munmap((at + 1) << 12, 1)
    for way in WAYS:
        assert way(u.space, (at << 12) + 4088, 16) == b"12345678"
    u.sys.munmap(at << 12, 1)
    assert [answer(partial(way, u.space, at << 12, 8)) for way in WAYS] == [-abi.EFAULT, -abi.EIO]
    area = u.sys.mmap(1, RW, u.sys.open(PRIVCMD), 0)
    frame = u.rig.agents["A"].layout.pages[3].mfn
    u.space.set_pte(area >> 12, (frame << 12) | 0x67, u.guest.domid)
    assert u.sys.load(area, 8) and [answer(partial(way, u.space, area, 8)) for way in WAYS] == [-abi.EFAULT, -abi.EIO]


def test_a_store_by_force_makes_a_copy(u: Process) -> None:
    """Of private memory that may only be read: the guest's page is not written."""
    at = u.grants(R, MAP_PRIVATE)
    before = bytes(u.rig.agents["A"].layout.pages[2].bytes())
    assert answer(partial(reach.process_vm_writev, u.space, (at + 2) << 12, b"x" * 8)) == -abi.EFAULT
    assert reach.write_mem(u.space, (at + 2) << 12, b"x" * 8) == 8
    assert u.sys.load((at + 2) << 12, 8) == b"x" * 8
    assert u.rig.agents["A"].layout.pages[2].bytes() == before
    assert answer(partial(u.sys.store, (at + 2) << 12, b"y")) == -abi.EFAULT  # the process itself may not
    assert reach.write_mem(u.space, ((at + 2) << 12) + 4, b"y" * 8) == 8  # again: the same copy, whose other bytes stay
    assert u.sys.load((at + 2) << 12, 12) == b"xxxx" + b"y" * 8
    assert u.rig.agents["A"].layout.pages[2].bytes() == before
    madvise(u.space, at + 1, 1, DONTNEED)  # of a page that is gone there is nothing to copy
    assert answer(partial(reach.write_mem, u.space, (at + 1) << 12, b"x")) == -abi.EIO
    shared = u.sys.mmap(1, R, u.gnt, u.map(12)) >> 12
    assert answer(partial(reach.write_mem, u.space, shared << 12, b"x")) == -abi.EIO


def test_a_page_in_a_pipe_is_nobody_elses(u: Process) -> None:
    """It is freed when the pipe has been read, not when its mapping and its grant end."""
    kernel = u.rig.kernel
    free, (fd, at, offset), pipe = len(kernel.free_pages), u.own(), Pipe(u.rig.kernel)
    tables = free - len(kernel.free_pages) - 2
    u.sys.store(at << 12, b"secret")
    assert pipe.vmsplice(u.space, (at << 12), 2 * PAGE) == 2 * PAGE
    u.sys.munmap(at << 12, 2)
    assert u.ioctl(fd, ioctl.GNTALLOC_DEALLOC_GREF, pack("<QII", offset, 2, 0)) == 0
    assert len(kernel.free_pages) == free - tables - 2
    others = [kernel.alloc_page() for _ in range(len(kernel.free_pages))]
    for page in others:
        page.bytes()[:] = b"z" * PAGE
    assert pipe.read(PAGE)[:6] == b"secret" and len(kernel.free_pages) == 1
    for page in others:
        kernel.free_page(page)
    pipe.close()
    assert len(kernel.free_pages) == free - tables and not kernel.held


def test_a_pipe_has_an_end(u: Process) -> None:
    at, pipe = u.own()[1], Pipe(u.rig.kernel)
    for _ in range(SLOTS):
        assert pipe.vmsplice(u.space, at << 12, 1) == 1
    assert answer(partial(pipe.vmsplice, u.space, at << 12, 1)) == -abi.EAGAIN
    assert pipe.vmsplice(u.space, at << 12, 0) == 0  # nothing has room in a full one
    assert pipe.read(100) == bytes(SLOTS) and answer(partial(pipe.read, 1)) == -abi.EAGAIN and pipe.read(0) == b""
    assert pipe.vmsplice(u.space, (at + 1) << 12, 2 * PAGE) == PAGE  # to the end of the mapping
    assert answer(partial(pipe.vmsplice, u.space, (at + 2) << 12, 1)) == -abi.EFAULT


def test_what_is_not_modelled_says_so(
    u: Process, tmp_path: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    at, own = u.grants(), u.sys.anonymous(1) >> 12
    with pytest.raises(NotModelled, match="grant"):
        Pipe(u.rig.kernel).vmsplice(u.space, at << 12, 8)
    assert u.mapped()[:3] == [True] * 3 and not u.rig.kernel.held
    for call in (
        partial(madvise, u.space, at, 1, 100),
        partial(madvise, u.space, own, 1, memory_calls.FREE),
        partial(mincore, u.space, own, 1),
        partial(resize, u.space, own, 1, 2, MAYMOVE, 0),
    ):
        with pytest.raises(NotModelled, match="not modelled"):
            call()
    path = tmp_path / "x.jsonl"  # type: ignore[operator]
    steps = (
        '{"i":0,"op":"sys.fixed","a":{"m":1,"n":1},"res":{"r":0}}\n{"i":1,"op":"sys.mincore","a":{"m":1},"res":{"r":0}}\n'
    )
    path.write_text(HEADER + steps)
    assert run(["replay", str(path)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "mincore() of memory of the process's own is not modelled" in line


def test_mremap_of_a_device_area_neither_grows_nor_stays(u: Process) -> None:
    at = u.grants()
    free = at + 0x1000
    for pages, new, flags, want in (
        (3, 4, MAYMOVE, -abi.EFAULT),
        (3, 3, MAYMOVE | DONTUNMAP, -abi.EINVAL),
        (3, 3, FIXED, -abi.EINVAL),
        (3, 3, 8, -abi.EINVAL),
        (0, 3, MAYMOVE, -abi.EFAULT),
        (3, 3, MAYMOVE, at),
        (3, 2, 0, at),
        (2, 2, MAYMOVE | FIXED, free),
    ):
        assert answer(partial(resize, u.space, at, pages, new, flags, free)) == want, (pages, new, flags)
    assert u.mapped()[:3] == [False] * 3  # moved: unmapped in Xen


def test_a_mapping_over_a_part_of_a_foreign_area_is_refused(u: Process) -> None:
    """Such an area is never split: ENOMEM, and it stays as it was."""
    fd = u.sys.open(PRIVCMD)
    area = u.sys.mmap(3, RW, fd, 0) >> 12
    for call in (partial(u.space.map_anonymous, area + 1, 1), partial(u.sys.process.mmap, area + 1, 1, RW, 1, fd, 0)):
        assert answer(call) == -abi.ENOMEM
    assert answer(partial(u.sys.process.mmap, area, 3, RW, 1, u.ev, 0)) == -abi.ENODEV  # before anything is unmapped
    vma = u.space.find(area)
    assert vma is not None and (vma.start, vma.end) == (area, area + 3)


def test_hypercall_buffers_live_as_long_as_mappings(u: Process) -> None:
    kernel, fd = u.rig.kernel, u.sys.open(HYPERCALL)
    assert answer(partial(u.sys.mmap, 1, R, fd, 0, MAP_PRIVATE)) == -abi.EINVAL
    assert answer(partial(u.sys.ioctl, fd, 0x305000, u.arg)) == -abi.ENOTTY
    at = u.sys.mmap(3, RW, fd, 0)
    free = len(kernel.free_pages)
    u.sys.store(at + PAGE, b"shared")
    child = u.sys.process.fork()
    child.space.store(at + PAGE, b"SHARED")
    u.sys.close(fd)
    u.sys.munmap(at + PAGE, 1)  # its halves hold all pages
    u.sys.munmap(at, 1)
    assert len(kernel.free_pages) < free + 3
    u.sys.munmap(at + 2 * PAGE, 1)
    assert child.space.load(at + PAGE, 6) == b"SHARED"
    child.exit()
    assert len(kernel.free_pages) == free + 3
    fd = u.sys.open(HYPERCALL)
    assert answer(partial(u.sys.mmap, free + 4, RW, fd, 0)) == -abi.ENOMEM
    assert len(kernel.free_pages) >= free - 8  # page tables stay


def test_a_child_reaches_no_grant_that_may_not_be_copied(u: Process) -> None:
    at, (_, own, _), private = u.grants(), u.own(), u.sys.anonymous(1) >> 12
    for page in (own, private):
        madvise(u.space, page, 1, memory_calls.DONTFORK)
    child = u.sys.process.fork()
    assert [answer(partial(reach.read_mem, child.space, page << 12, 8)) for page in (at, own, private)] == [-abi.EIO] * 3
    assert reach.read_mem(child.space, (own + 1) << 12, 8) == bytes(8)
    child.exit()
    assert u.mapped()[:3] == [True] * 3 and entry_flags(u.rig, "A", 11) == 1


def test_faults_are_served_for_others_only_where_there_is_memory(u: Process) -> None:
    """Not of a device's area, and neither in a hole nor above all areas."""
    own = u.arg >> 12
    above = max(vma.end for vma in u.space.vmas) + 100
    memory_calls.userfaultfd(u.space, own, 1)
    for place in (u.grants(), 1, above):
        assert answer(partial(memory_calls.userfaultfd, u.space, place, 1)) == -abi.EINVAL


def test_own_pages_that_may_not_be_touched_have_no_entry(u: Process) -> None:
    """PROT_NONE: the pages are held, and neither read nor written before mprotect."""
    fd, at, offset = u.own()
    shut = u.sys.mmap(2, NONE, fd, offset) >> 12
    assert not u.space.pte(shut) & 1 and u.space.pte(at) & 1
    assert answer(partial(u.sys.load, shut << 12, 1)) == -abi.EFAULT
