"""Ends of calls that no recording or campaign reaches: what is refused late, and what a refusal leaves behind.

Protects: errors after a part of the work was done, arguments that end at the edge of memory, limits that a guest seldom
meets. Values: Xen 4.17 (arch/x86/mm.c, common/event_channel.c, common/memory.c) and Linux 6.1 (mm/madvise.c, mm/msync.c,
mm/mremap.c, drivers/xen/evtchn.c). Not here: what recordings of real Xen have (tests/recorded).
"""

from __future__ import annotations

from collections.abc import Generator
from functools import partial
from struct import pack

import pytest

from bulkhead.impl.dom0 import ioctl, ioctl_control, reach
from bulkhead.impl.dom0.areas import Vma
from bulkhead.impl.dom0.file_calls import EPOLLIN, EPOLLOUT, epoll
from bulkhead.impl.dom0.hypercall_buffers import HypercallBuffers
from bulkhead.impl.dom0.memory_calls import (
    DONTNEED,
    MS_INVALIDATE,
    POPULATE_READ,
    NotModelled,
    madvise,
    mincore,
    mlock,
    msync,
)
from bulkhead.impl.dom0.pipes import Pipe
from bulkhead.impl.dom0.process import MAP_PRIVATE
from bulkhead.impl.dom0.syscalls import EVTCHN, PRIVCMD
from bulkhead.impl.dom0.vma_changes import DONTUNMAP, FIXED, MAYMOVE, remap, resize
from bulkhead.impl.xen import abi, hypercall, memory_op
from bulkhead.impl.xen.continuation import ALWAYS, NEVER, Preemption
from bulkhead.impl.xen.domains import VCpu
from bulkhead.impl.xen.events import IN_SHARED_INFO
from bulkhead.impl.xen.guest_access import guest_linear, read, write
from bulkhead.impl.xen.lifecycle import create_domain, set_max_vcpus
from bulkhead.impl.xen.machine import Xen, run
from tests.impl.support import machine
from tests.impl.test_continuation import Machine
from tests.impl.test_dom0_linux import PAGE, answer
from tests.impl.test_hvm import guest
from tests.impl.test_other_hypercalls import call, put, unmapped
from tests.impl.test_process_memory import RW, Process, R

BAD_DESCRIPTOR = 0x00008900FFFF0000  # a task state segment
FAR = 0x7F0000000000  # no guest's page tables lead there


@pytest.fixture
def m() -> Machine:
    return Machine(Preemption(NEVER))


@pytest.fixture
def u() -> Process:
    return Process()


# --- hypervisor ---


def test_a_page_with_a_bad_descriptor_becomes_no_table_and_is_let_go() -> None:
    rig = machine("A")
    unmapped(rig, "A", 20)
    frame = rig.agents["A"].layout.pages[20]
    abi.U64.pack_into(frame.bytes(), 8 * 511, BAD_DESCRIPTOR)
    before = (frame.count, frame.tcount)
    where = put(rig, "A", abi.U64.pack(frame.mfn))
    assert call(rig, "A", abi.HYPERVISOR_SET_GDT, where, 512) == -abi.EINVAL
    assert (frame.count, frame.tcount) == before
    abi.U64.pack_into(frame.bytes(), 8 * 511, 0)
    assert call(rig, "A", abi.HYPERVISOR_SET_GDT, where, 512) == 0
    assert (frame.count, frame.tcount) == (before[0] + 1, 1)


def test_an_event_for_a_vcpu_that_nobody_sees_stays_pending(m: Machine) -> None:
    """Of a domain without vCPUs, and of a vCPU beyond those of shared_info that has registered no place."""
    made = create_domain(m.xen, 9, max_vcpus=IN_SHARED_INFO + 2)
    assert not isinstance(made, int)
    port = made.events.alloc_unbound(0)
    theirs = m.dom0.events.bind_interdomain(made, port)
    assert m.dom0.events.send(theirs) == 0 and made.events.ports[port].pending
    made.max_pages = 80
    assert set_max_vcpus(made, IN_SHARED_INFO + 2) == 0
    ipi = made.events.bind_ipi(IN_SHARED_INFO)
    assert made.shared_info is not None
    before = bytes(made.shared_info.bytes())
    assert made.events.send(ipi) == 0 and made.events.ports[ipi].pending
    assert made.shared_info.bytes() == before
    last = made.events.bind_ipi(IN_SHARED_INFO - 1)
    assert made.events.send(last) == 0
    at = (IN_SHARED_INFO - 1) * 64
    assert made.shared_info.bytes()[at] == 1


def test_a_grant_is_mapped_only_where_page_tables_are(m: Machine) -> None:
    m.grant(1, 8, 2, 6)
    at = m.put(2, 0, abi.MAP_GRANT_REF.pack(FAR, abi.GNTMAP_HOST_MAP, 8, 1, 0, 0, 0))
    assert run(m.call(2, abi.HYPERVISOR_GRANT_TABLE_OP, abi.GNTTABOP_MAP_GRANT_REF, at, 1)) == 0
    assert abi.MAP_GRANT_REF.unpack(m.get(2, 0, abi.MAP_GRANT_REF.size))[4] == abi.GNTST_GENERAL_ERROR
    assert m.guests[1].grant_table.active[8].pin == 0 and m.guests[1].grant_table.entry_v1(8)[0] == abi.GTF_PERMIT_ACCESS


def test_a_batch_of_calls_whose_list_goes_away_ends(m: Machine) -> None:
    """The first call takes the list's page off the page table: its result cannot be stored, and no other is made."""
    layout = m.layouts[1]
    calls = [
        abi.MULTICALL_ENTRY.pack(abi.HYPERVISOR_UPDATE_VA_MAPPING, 77, layout.va(5), 0, 2, 0, 0, 0),
        abi.MULTICALL_ENTRY.pack(abi.HYPERVISOR_UPDATE_VA_MAPPING, 77, layout.va(6), 0, 2, 0, 0, 0),
    ]
    at = m.put(1, 5 * PAGE, b"".join(calls))
    assert run(m.call(1, abi.HYPERVISOR_MULTICALL, at, 2)) == -abi.EFAULT
    vcpu = m.guests[1].vcpus[0]
    assert read(m.xen, vcpu, layout.va(5), 8) is None and read(m.xen, vcpu, layout.va(6), 8) is not None
    assert abi.U64.unpack_from(layout.pages[5].bytes(), 8)[0] == 77


def test_caches_are_flushed_for_a_guest_with_devices(m: Machine) -> None:
    at = m.put(1, 0, abi.MMUEXT_OP.pack(abi.MMUEXT_FLUSH_CACHE, 0, 0, 0))
    arguments = (abi.HYPERVISOR_MMUEXT_OP, at, 1, 0, abi.DOMID_SELF)
    assert run(m.call(1, *arguments)) == -abi.EACCES
    m.guests[1].toolstack.iomem.add(0xE0000, 0xE0000)
    assert run(m.call(1, *arguments)) == 0


def test_a_page_taken_from_a_large_extent_leaves_the_others() -> None:
    """The entry of a higher table is split, for which a table of the pool is needed."""
    xen = Xen(nframes=4096, reserved=16)
    xen.create_dom0()
    domain = guest(xen)
    assert domain.p2m is not None
    domain.max_pages = 2048
    frame = memory_op.populate_page(xen, domain, 512, 9)
    assert frame is not None
    used = domain.p2m.used
    assert memory_op.remove_page(xen, domain, 515) == 0
    assert domain.p2m.lookup(515)[0] is None and domain.p2m.used == used + 1
    assert [domain.p2m.lookup(512 + i)[0] for i in (0, 2, 4, 511)] == [
        xen.frames.table[frame.mfn + i] for i in (0, 2, 4, 511)
    ]
    assert memory_op.remove_page(xen, domain, 516) == 0 and domain.p2m.used == used + 1


def test_an_extent_for_which_there_are_no_tables_is_not_put_anywhere() -> None:
    xen = Xen(nframes=4096, reserved=16)
    xen.create_dom0()
    domain = guest(xen)
    assert domain.p2m is not None
    domain.max_pages = 2048
    domain.p2m.resize_pool(0)
    far = 1 << 30
    assert memory_op.populate_page(xen, domain, far, 9) is None and domain.p2m.lookup(far)[0] is None
    assert domain.tot_pages == 8 + 512  # they stay the domain's


# --- Dom0 ---


def test_a_process_gets_no_port_where_none_is_left(u: Process) -> None:
    events = u.rig.dom0.events
    u.rig.dom0.max_evtchn_port = max(events.ports, default=0)
    while u.word(u.ev, ioctl_control.EVTCHN_BIND_UNBOUND_PORT, u.guest.domid) > 0:
        pass
    assert u.word(u.ev, ioctl_control.EVTCHN_BIND_UNBOUND_PORT, u.guest.domid) == -abi.ENOSPC


def test_the_event_channels_device_is_not_mapped(u: Process) -> None:
    assert answer(partial(u.sys.mmap, 1, RW, u.sys.open(EVTCHN), 0)) == -abi.ENODEV


def test_what_ends_in_a_hole_is_told_at_the_end(u: Process) -> None:
    at = u.grants()
    last = max(vma.end for vma in u.space.vmas)
    assert answer(partial(madvise, u.space, last - 1, 3, DONTNEED)) == -abi.ENOMEM
    assert answer(partial(msync, u.space, last - 1, 3, 0)) == -abi.ENOMEM
    assert answer(partial(msync, u.space, at, 3, 0)) == 0


def test_memory_that_is_locked_is_not_invalidated(u: Process) -> None:
    at = u.sys.anonymous(2) >> 12
    assert answer(partial(msync, u.space, at, 2, MS_INVALIDATE)) == 0
    mlock(u.space, at, 2)
    assert answer(partial(msync, u.space, at, 2, MS_INVALIDATE)) == -abi.EBUSY


def test_a_copy_that_is_given_up_is_freed(u: Process) -> None:
    """A debugger's store gave the process a page of its own in a private mapping of a grant."""
    at, kernel = u.grants(R, MAP_PRIVATE), u.rig.kernel
    assert reach.write_mem(u.space, (at + 2) << 12, b"x" * 8) == 8
    assert reach.write_mem(u.space, ((at + 2) << 12) + 8, b"y" * 8) == 8  # into the same copy
    assert u.sys.load((at + 2) << 12, 16) == b"x" * 8 + b"y" * 8
    free = len(kernel.free_pages)
    madvise(u.space, at + 2, 1, DONTNEED)
    assert len(kernel.free_pages) == free + 1
    assert answer(partial(u.sys.load, (at + 2) << 12, 8)) == -abi.EFAULT
    assert answer(partial(reach.write_mem, u.space, (at + 2) << 12, b"z")) == -abi.EIO


def test_memory_of_the_processs_own_is_private(u: Process) -> None:
    """A debugger stores where the process itself may not; of no pages nothing is made a second time."""
    at = u.sys.anonymous(1)
    u.sys.mprotect(at, 1, R)
    assert answer(partial(u.sys.store, at, b"x")) == -abi.EFAULT
    assert reach.write_mem(u.space, at, b"x") == 1 and u.sys.load(at, 1) == b"x"
    assert answer(partial(reach.process_vm_writev, u.space, at, b"y")) == -abi.EFAULT
    assert answer(partial(resize, u.space, at >> 12, 0, 1, MAYMOVE, 0)) == -abi.EINVAL


def test_an_area_is_not_moved_onto_itself_and_goes_where_another_was(u: Process) -> None:
    at, other = u.grants(), u.own()[1]
    flags = MAYMOVE | FIXED | DONTUNMAP
    assert answer(partial(resize, u.space, at, 3, 3, flags, at + 1)) == -abi.EINVAL
    assert answer(partial(resize, u.space, at, 3, 3, flags, other)) == -abi.EINVAL  # a device's area never stays behind
    assert all(not vma.start <= other < vma.end for vma in u.space.vmas)  # what was there went before


def test_buffers_for_which_there_is_no_memory_leave_nothing(u: Process) -> None:
    """Their page tables are made first: then nothing can fail once the pages are there."""
    kernel, start = u.rig.kernel, 1 << 30
    kept = [kernel.alloc_page() for _ in range(len(kernel.free_pages) - 4)]
    vma = Vma(u.space, start, start + 2, RW, True, None)
    assert answer(partial(HypercallBuffers(kernel).mmap, vma, 0)) == -abi.ENOMEM
    assert len(kernel.free_pages) == 1 and vma.private is None  # three page tables stay
    for page in kept:
        kernel.free_page(page)


def test_a_part_of_the_processs_own_memory_moves_and_the_rest_stays(u: Process) -> None:
    first = u.sys.anonymous(4)
    at, to = first >> 12, max(vma.end for vma in u.space.vmas) + 7
    for page in range(4):
        u.sys.store(first + page * PAGE, b"page%d" % page)
    assert remap(u.space, at + 1, 2, 2, to) == to
    there = (first, to << 12, (to + 1) << 12, first + 3 * PAGE)
    assert [u.sys.load(addr, 5) for addr in there] == [b"page0", b"page1", b"page2", b"page3"]
    for page in (1, 2):
        assert answer(partial(u.sys.load, first + page * PAGE, 5)) == -abi.EFAULT
    free = len(u.rig.kernel.free_pages)
    u.sys.munmap(to << 12, 2)  # the pages went with it, and go with it
    assert len(u.rig.kernel.free_pages) == free + 2
    assert remap(u.space, at + 3, 1, 1, to) == to
    with pytest.raises(NotModelled):
        resize(u.space, to, 0, 2, MAYMOVE | FIXED, at + 1)


def test_what_epoll_says_of_event_channels(u: Process) -> None:
    """They can be read when an event has come, and always written."""
    port, theirs = u.port()
    assert epoll(u.sys, u.ev) == EPOLLOUT
    u.guest.events.send(theirs)
    assert epoll(u.sys, u.ev) == EPOLLIN | EPOLLOUT
    assert u.sys.read(u.ev, 4) == port.to_bytes(4, "little") and epoll(u.sys, u.ev) == EPOLLOUT
    assert answer(partial(epoll, u.sys, u.gnt)) == -abi.EPERM


def test_tables_of_a_level_that_name_each_other_are_no_chain(m: Machine) -> None:
    """One that names others is named by none, and the other way round; both may change when the links are gone."""
    pages = m.layouts[1].pages
    for page in (5, 6):
        assert run(m.call(1, abi.HYPERVISOR_UPDATE_VA_MAPPING, m.layouts[1].va(page), 0, 2)) == 0
        at = m.put(1, 0, abi.MMUEXT_OP.pack(abi.MMUEXT_PIN_L1_TABLE + 1, 0, pages[page].mfn, 0))
        assert run(m.call(1, abi.HYPERVISOR_MMUEXT_OP, at, 1, 0, abi.DOMID_SELF)) == 0

    def link(table: int, slot: int, to: int | None, flags: int = 0x25) -> int:
        pte = 0 if to is None else pages[to].mfn << 12 | flags
        at = m.put(1, 0, abi.MMU_UPDATE.pack(pages[table].mfn << 12 | slot << 3, pte))
        return int(run(m.call(1, abi.HYPERVISOR_MMU_UPDATE, at, 1, 0, abi.DOMID_SELF)))

    for one, other in ((5, 6), (6, 5), (5, 6)):
        assert link(one, 1, other, 0x27) == -abi.EINVAL  # it could be written
        assert link(one, 1, other) == link(one, 2, other) == 0
        assert link(other, 1, one) == -abi.EINVAL
        assert link(one, 1, None) == 0 and link(other, 1, one) == -abi.EINVAL  # one link is left
        assert link(one, 2, None) == 0
    assert link(5, 3, 5) == 0 and link(5, 3, None) == 0  # itself
    assert [(pages[page].count, pages[page].tcount) for page in (5, 6)] == [(2, 1), (2, 1)]


@pytest.mark.parametrize("preemption", [NEVER, ALWAYS])
def test_a_copy_that_starts_anew_is_done_once_and_so_is_its_neighbour(
    preemption: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry has changed while its lock was dropped: the call goes on from that element, in the same call or the next."""
    m, asked, real = Machine(Preemption(preemption)), list[int](), hypercall.copy_one

    def first_anew(xen: Xen, vcpu: VCpu, src: int, *rest: int) -> Generator[str, None, int]:
        asked.append(src)
        if asked == [8]:
            return 1
        return (yield from real(xen, vcpu, src, *rest))

    monkeypatch.setattr(hypercall, "copy_one", first_anew)
    for ref in (8, 9):
        m.grant(1, ref, 2, ref)
        m.layouts[1].pages[ref].bytes()[:4] = b"\x07\x07\x07" + bytes([ref])
    own = m.layouts[2].pages[5].mfn
    ops = [abi.COPY.pack(ref, 1, 0, 0, own, abi.DOMID_SELF, 8 * ref, 0, 4, 1, -9, 0) for ref in (8, 9)]
    at = m.put(2, 0, b"".join(ops))
    assert run(m.call(2, abi.HYPERVISOR_GRANT_TABLE_OP, abi.GNTTABOP_COPY, at, 2)) == 0
    assert asked == [8, 8, 9]
    assert [abi.STATUS.unpack_from(m.get(2, 40 * i + 36, 2))[0] for i in range(2)] == [0, 0]
    assert m.layouts[2].pages[5].bytes()[64:76] == b"\x07\x07\x07\x08" + bytes(4) + b"\x07\x07\x07\x09"


def test_a_translated_guests_own_tables_translate_no_address_that_cannot_be() -> None:
    xen = Xen(nframes=4096, reserved=16)
    xen.create_dom0()
    vcpu = guest(xen).vcpus[0]
    vcpu.root_gfn = 3
    assert guest_linear(vcpu, 1 << 47) is None and guest_linear(vcpu, 1 << 63) is None
    vcpu.root_gfn = None
    assert guest_linear(vcpu, 1 << 47) == (1 << 35, True)


def test_a_list_of_pages_ends_at_a_number_that_none_has() -> None:
    xen = Xen(nframes=4096, reserved=16)
    xen.create_dom0()
    domain = guest(xen)
    assert domain.p2m is not None
    vcpu, at = domain.vcpus[0], 0x1000
    moved = [domain.p2m.lookup(gfn)[0] for gfn in (3, 4, 5)]
    head = abi.ADD_TO_PHYSMAP_BATCH.pack(abi.DOMID_SELF, abi.XENMAPSPACE_GMFN, 3, 0, at + 64, at + 128, at + 192)
    lists = [b"".join(map(abi.U64.pack, each)) for each in ((3, 4, 5), (0x200, (1 << 64) - 1, 0x202))]
    assert write(xen, vcpu, at, head.ljust(64, b"\0") + lists[0].ljust(64, b"\0") + lists[1].ljust(64, b"\0") + b"\xee" * 12)
    assert xen.call(vcpu, abi.HYPERVISOR_MEMORY_OP, abi.XENMEM_ADD_TO_PHYSMAP_BATCH, at) == -abi.EINVAL
    assert [domain.p2m.lookup(gfn)[0] for gfn in (0x200, 4, 5, 0x202)] == [*moved, None]
    assert read(xen, vcpu, at + 192, 12) == bytes(4) + b"\xee" * 8


def test_an_operation_of_a_device_model_that_ends_in_a_hole() -> None:
    """Its head can be read, and its struct cannot."""
    u = Process()
    translated = u.rig.make_translated("H")
    kernel = u.rig.kernel
    end = kernel.layout.va(21)
    assert kernel.xen.call(kernel.vcpu, abi.HYPERVISOR_UPDATE_VA_MAPPING, end, 0, 2) == 0
    for before, rc in ((8, -abi.EFAULT), (12, 0)):
        assert write(kernel.xen, kernel.vcpu, end - before, pack("<II", 20, 0) + (b"\xee" * 4 if before == 12 else b""))
        assert write(kernel.xen, kernel.vcpu, kernel.arg_va, pack("<QQ", end - before, 16))
        assert kernel.xen.call(kernel.vcpu, abi.HYPERVISOR_DM_OP, translated, 1, kernel.arg_va) == rc


@pytest.mark.parametrize("cmd", [ioctl_control.PRIVCMD_MMAPBATCH, ioctl_control.PRIVCMD_MMAPBATCH_V2])
def test_nothing_is_mapped_where_there_is_no_area(u: Process, cmd: int) -> None:
    """Above all areas, between two, and in one that is not of privcmd."""
    fd = u.sys.open(PRIVCMD)
    area = u.sys.mmap(1, RW, fd, 0)
    above = (max(vma.end for vma in u.space.vmas) + 1) << 12
    hole = next(v.end for v in u.space.vmas if all(not w.start <= v.end < w.end for w in u.space.vmas)) << 12
    where = {above: -abi.EINVAL, hole: -abi.EINVAL, u.arg: -abi.EINVAL, area: 0}
    for at, rc in where.items():
        if cmd == ioctl_control.PRIVCMD_MMAPBATCH:
            head = ioctl_control.MMAPBATCH.pack(1, u.guest.domid, 0, at, u.arg + 64)
        else:
            head = ioctl_control.MMAPBATCH_V2.pack(1, u.guest.domid, 0, at, u.arg + 64, u.arg + 128)
        assert u.ioctl(fd, cmd, head.ljust(64, b"\0") + pack("<Q", u.rig.mfn("A/0"))) == rc, hex(at)


def test_each_call_about_memory_says_that_there_is_none(u: Process) -> None:
    """Above all mappings, where no VMA ends: each call has the errno of Linux."""
    vpn = max(vma.end for vma in u.space.vmas) + 5
    addr, fd, pipe = vpn << 12, u.sys.open(PRIVCMD), Pipe(u.rig.kernel)
    run_of_one = ioctl_control.ENTRY.pack(addr, u.rig.mfn("A/0"), 1)
    mmap = ioctl_control.MMAP.pack(1, u.guest.domid, 0, u.arg + 64).ljust(64, b"\0") + run_of_one
    calls = {
        "mprotect": (partial(u.sys.mprotect, addr, 1, R), -abi.ENOMEM),
        "munmap": (partial(u.sys.munmap, addr, 1), 0),
        "mremap": (partial(u.sys.mremap, addr, 1, 1), -abi.EFAULT),
        "resize": (partial(resize, u.space, vpn, 1, 2, MAYMOVE, 0), -abi.EFAULT),
        "madvise": (partial(madvise, u.space, vpn, 1, DONTNEED), -abi.ENOMEM),
        "populate": (partial(madvise, u.space, vpn, 1, POPULATE_READ), -abi.ENOMEM),
        "mlock": (partial(mlock, u.space, vpn, 1), -abi.ENOMEM),
        "mincore": (partial(mincore, u.space, vpn, 1), -abi.ENOMEM),
        "msync": (partial(msync, u.space, vpn, 1, 0), -abi.ENOMEM),
        "process_vm_readv": (partial(reach.process_vm_readv, u.space, addr, 8), -abi.EFAULT),
        "process_vm_writev": (partial(reach.process_vm_writev, u.space, addr, b"x"), -abi.EFAULT),
        "mem": (partial(reach.read_mem, u.space, addr, 8), -abi.EIO),
        "vmsplice": (partial(pipe.vmsplice, u.space, addr, 8), -abi.EFAULT),
        "load": (partial(u.sys.load, addr, 8), -abi.EFAULT),
    }
    assert {name: answer(call) for name, (call, _) in calls.items()} == {name: rc for name, (_, rc) in calls.items()}
    assert u.ioctl(u.gnt, ioctl.GNTDEV_GET_OFFSET_FOR_VADDR, pack("<QQII", addr, 0, 0, 0)) == -abi.EINVAL
    assert u.ioctl(fd, ioctl_control.PRIVCMD_MMAP, mmap) == -abi.EINVAL
