"""Hypercalls that a translated guest makes itself: its memory is its p2m, and page tables are not Xen's business.

Protects: what `tests/recorded/x-pvh.jsonl.xz` (such callers on real Xen) shows in a machine of many parts, one by one; and
what no guest can be made to do there (a translated hardware domain). Sources: Xen arch/x86/mm.c (do_mmuext_op),
arch/x86/hvm/hypercall.c (hypercalls and operations that such a guest has), arch/x86/hvm/grant_table.c
(create_grant_p2m_mapping, replace_grant_p2m_mapping), common/grant_table.c (get_paged_frame,
gnttab_release_mappings), arch/x86/mm/p2m.c, arch/x86/hvm/hvm.c (hvm_copy: a write to read-only memory is dropped).
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.domains import Domain, VCpu
from bulkhead.impl.xen.frames import Frame
from bulkhead.impl.xen.grant_admin import set_version
from bulkhead.impl.xen.grant_map import get_paged_frame, map_grant_ref
from bulkhead.impl.xen.guest_access import read, write
from bulkhead.impl.xen.hvm_context import LONG, LONG_FORM, MODE, SIZE, set_hvm_context
from bulkhead.impl.xen.lifecycle import create_domain, destroy, set_max_vcpus
from bulkhead.impl.xen.machine import Xen, run
from bulkhead.impl.xen.memory_op import populate_page
from bulkhead.impl.xen.p2m import FOREIGN, GRANT_RO, GRANT_RW, MMIO_DIRECT, RAM_RO, RAM_RW
from bulkhead.impl.xen.physmap import add_page, remove_page, set_foreign
from tests.impl.support import check_counts, unmap_grant_ref
from tests.impl.test_hvm import entry, guest

ARG = 0x1000  # in the guest's second page
HERE, THERE = 0x100, 0x101  # free guest frames


@pytest.fixture
def xen() -> Iterator[Xen]:
    made = Xen(nframes=4096, reserved=16)
    made.create_dom0()
    yield made
    check_counts(made)


def frame_at(domain: Domain, gfn: int) -> Frame:
    found = domain.p2m.lookup(gfn)[0] if domain.p2m is not None else None
    assert found is not None
    return found


def call(xen: Xen, domain: Domain, number: int, payload: bytes, *registers: int) -> tuple[int, bytes]:
    """A hypercall with its argument at ARG: the result, and the argument afterwards."""
    assert write(xen, domain.vcpus[0], ARG, payload)
    rc = xen.call(domain.vcpus[0], number, *registers)
    return rc, read(xen, domain.vcpus[0], ARG, len(payload)) or b""


def test_page_tables_are_not_its_business(xen: Xen) -> None:
    caller, other = guest(xen), guest(xen, external=False)
    number = caller.domid
    for cmd in (0, 1, 2, 3, 4):
        op = abi.MMUEXT_OP.pack(cmd, 0, 3, 0)
        assert call(xen, caller, 26, op, ARG, 1, 0, abi.DOMID_SELF)[0] == -abi.EINVAL  # its own frames have no types
        assert call(xen, caller, 26, op, ARG, 1, 0, other.domid)[0] == -abi.EPERM
    caller.is_privileged = True
    for cmd in (5, 6, 8, 13, 16, 99):
        assert call(xen, caller, 26, abi.MMUEXT_OP.pack(cmd, 0, 3, 0), ARG, 1, 0, other.domid)[0] == -abi.EOPNOTSUPP
    caller.is_privileged = False
    for command in range(4):
        assert call(xen, caller, 1, abi.MMU_UPDATE.pack(0x3000 | command, 0), ARG, 1, 0, abi.DOMID_SELF)[0] == -abi.ENOSYS
    assert xen.call(caller.vcpus[0], 14, 0x3000, 0, 0) == xen.call(caller.vcpus[0], 22, 0x3000, 0, 0, number) == -abi.ENOSYS


@pytest.mark.parametrize(
    "ptype, reads, writes",
    [
        (RAM_RW, True, True),
        (RAM_RO, True, False),
        (GRANT_RW, False, False),
        (GRANT_RO, False, False),
        (FOREIGN, True, True),
        (MMIO_DIRECT, False, False),
    ],
)
def test_which_of_its_memory_can_be_read_and_written(xen: Xen, ptype: int, reads: bool, writes: bool) -> None:
    """Arguments of its calls: not in what it maps by grants; a write to read-only memory is dropped without an error."""
    domain = guest(xen)
    vcpu, frame = domain.vcpus[0], frame_at(domain, 3)
    frame.bytes()[:4] = b"abcd"
    assert domain.p2m is not None
    domain.p2m.set(3, frame, ptype)
    assert read(xen, vcpu, 0x3000, 4) == (b"abcd" if reads else None)
    assert write(xen, vcpu, 0x3000, b"wxyz") == reads
    assert bytes(frame.bytes()[:4]) == (b"wxyz" if writes else b"abcd")
    assert read(xen, vcpu, 0x3FFE, 4) == ((bytes(frame.bytes()[4094:]) + bytes(2)) if reads else None)


@pytest.mark.parametrize(
    "ptype, granted", [(RAM_RW, True), (RAM_RO, True), (GRANT_RW, True), (GRANT_RO, True), (FOREIGN, False)]
)
def test_what_it_may_grant(xen: Xen, ptype: int, granted: bool) -> None:
    """Its own pages, also where it maps one by a grant to itself; not what it maps of others."""
    domain = guest(xen)
    frame = frame_at(domain, 3)
    assert domain.p2m is not None
    domain.p2m.set(3, frame, ptype)
    got = get_paged_frame(xen, 3, domain)
    assert (got is frame) == granted and frame.count == (2 if granted else 1)
    if got is not None:
        xen.frames.put_page(got)
    assert get_paged_frame(xen, 0x300, domain) is None
    other = guest(xen)
    domain.p2m.set(3, frame_at(other, 3), ptype)
    assert get_paged_frame(xen, 3, domain) is None


@pytest.mark.parametrize(
    "flags, status",
    [(2, 0), (6, 0), (1, -1), (3, -1), (0xA, -1), (0x12, -1), (0x22, -1), (0x10002, -1), (4, abi.GNTST_BAD_GNTREF)],
)
def test_flags_of_its_maps(xen: Xen, flags: int, status: int) -> None:
    """Host mappings only, by guest address, without any flag of a page table's entry; a refusal leaves nothing."""
    granter, mapper = guest(xen), guest(xen)
    entry(granter, 8, mapper, 3)
    frame = frame_at(granter, 3)
    got, handle, bus = run(map_grant_ref(xen, mapper.vcpus[0], HERE << 12, flags, 8, granter.domid))
    assert got == status and mapper.p2m is not None
    found = mapper.p2m.lookup(HERE)
    if status:
        assert found[0] is None and frame.count == 1 and granter.grant_table.active[8].pin == 0
        assert granter.grant_table.entry_v1(8)[0] == 1
        return
    assert found == (frame, GRANT_RO if flags & 4 else GRANT_RW) and bus == frame.mfn << 12 and frame.count == 2
    assert frame.m2p == 3  # still the owner's
    vcpu = mapper.vcpus[0]
    for bad in (THERE << 12, 0x3000):
        assert run(unmap_grant_ref(xen, vcpu, bad, 0, handle)) == abi.GNTST_GENERAL_ERROR
    assert run(unmap_grant_ref(xen, vcpu, HERE << 12, 0, handle, THERE << 12)) == abi.GNTST_GENERAL_ERROR
    assert frame.count == 2
    assert run(unmap_grant_ref(xen, vcpu, HERE << 12, 0, handle)) == 0
    assert mapper.p2m.lookup(HERE)[0] is None and frame.count == 1 and granter.grant_table.entry_v1(8)[0] == 1


def test_a_grant_over_ram_keeps_the_page_allocated(xen: Xen) -> None:
    granter, mapper = guest(xen), guest(xen)
    entry(granter, 8, mapper, 3)
    old, before = frame_at(mapper, 5), mapper.tot_pages
    status, handle, _ = run(map_grant_ref(xen, mapper.vcpus[0], 0x5000, 2, 8, granter.domid))
    assert status == 0 and frame_at(mapper, 5) is frame_at(granter, 3)
    assert old.owner is mapper and old.m2p == -1 and mapper.tot_pages == before
    assert run(unmap_grant_ref(xen, mapper.vcpus[0], 0x5000, 0, handle)) == 0


def test_a_page_that_its_owner_maps_by_a_grant_leaves_its_number(xen: Xen) -> None:
    """One number per page: what the grant has put there is the only one, even when that failed, or after the unmap."""
    domain = guest(xen)
    assert domain.p2m is not None
    vcpu, frame = domain.vcpus[0], frame_at(domain, 3)
    entry(domain, 8, domain, 3)
    assert run(map_grant_ref(xen, vcpu, HERE << 12, 2, 8, domain.domid))[:2] == (0, 0)
    assert domain.p2m.lookup(3)[0] is None and domain.p2m.lookup(HERE) == (frame, GRANT_RW)
    assert run(unmap_grant_ref(xen, vcpu, HERE << 12, 0, 0)) == 0
    assert domain.p2m.lookup(HERE)[0] is None and frame.owner is domain and frame.count == 1
    entry(domain, 8, domain, 4)
    assert run(map_grant_ref(xen, vcpu, 1 << 48, 2, 8, domain.domid))[0] == abi.GNTST_GENERAL_ERROR
    assert domain.p2m.lookup(4)[0] is None
    entry(domain, 8, domain, 5)
    assert run(map_grant_ref(xen, vcpu, 0x5000, 2, 8, domain.domid))[0] == 0
    assert domain.p2m.lookup(5)[1] == GRANT_RW


def test_an_extent_is_put_nowhere_if_it_does_not_fit(xen: Xen) -> None:
    domain, owner = guest(xen), guest(xen)
    entry(owner, 8, domain, 3)
    assert run(map_grant_ref(xen, domain.vcpus[0], HERE + 1 << 12, 2, 8, owner.domid))[0] == 0
    assert populate_page(xen, domain, HERE, order=1) is None and domain.p2m is not None
    assert domain.crashed and domain.p2m.lookup(HERE)[0] is None


def test_its_own_page_tables_translate_arguments(xen: Xen) -> None:
    """Four levels, a large page at the second, read-only entries, holes in its memory."""
    domain = guest(xen)
    vcpu = domain.vcpus[0]
    tables = [frame_at(domain, gfn) for gfn in (4, 5, 6, 7)]
    for level in range(3):
        abi.U64.pack_into(tables[level].bytes(), 0, (5 + level) << 12 | 7)
    abi.U64.pack_into(tables[2].bytes(), 8, 0x87)  # 2 MiB from guest frame 0 on
    abi.U64.pack_into(tables[2].bytes(), 16, 0x85)
    for index, pte in ((1, 3 << 12 | 7), (2, 3 << 12 | 5), (3, 0x300 << 12 | 7), (4, 3 << 12 | 6)):
        abi.U64.pack_into(tables[3].bytes(), 8 * index, pte)
    vcpu.root_gfn = 4
    frame_at(domain, 3).bytes()[:4] = b"abcd"
    for address, told in (
        (0x1000, b"abcd"),
        (0x2000, b"abcd"),
        (0x3000, None),
        (0x4000, None),
        (0x203000, b"abcd"),
        (0x403000, b"abcd"),
        (0x600000, None),
        (1 << 47, None),
    ):
        assert read(xen, vcpu, address, 4) == told
    assert [write(xen, vcpu, address, b"wxyz") for address in (0x1000, 0x2000, 0x3000, 0x203000, 0x403000)] == [
        True,
        False,
        False,
        True,
        False,
    ]
    vcpu.root_gfn = None


@pytest.mark.parametrize("ptype", [GRANT_RW, GRANT_RO, FOREIGN, MMIO_DIRECT])
def test_what_a_page_may_not_replace(xen: Xen, ptype: int) -> None:
    """RAM that is put where Xen has something of its own: the guest is crashed, and the entry stays."""
    domain = guest(xen)
    assert domain.p2m is not None
    frame, other = frame_at(domain, 3), frame_at(domain, 4)
    domain.p2m.set(HERE, frame, ptype)
    assert add_page(xen, domain, HERE, other) == -abi.EINVAL
    assert domain.crashed and domain.p2m.lookup(HERE) == (frame, ptype)


def test_giving_up_what_is_not_ram(xen: Xen) -> None:
    domain, owner = guest(xen), guest(xen)
    assert domain.p2m is not None
    domain.p2m.set(HERE, frame_at(domain, 3), MMIO_DIRECT)
    assert remove_page(xen, domain, HERE) == -abi.EPERM
    assert remove_page(xen, domain, THERE) == -abi.ENOENT
    foreign = frame_at(owner, 3)
    assert set_foreign(xen, domain, THERE, foreign) == 0 and foreign.count == 2
    assert remove_page(xen, domain, THERE) == -abi.ENXIO and foreign.count == 2  # not its own
    assert set_foreign(xen, domain, HERE, foreign) == -abi.EPERM
    assert set_foreign(xen, domain, 1 << 36, foreign) == -abi.ENOENT and foreign.count == 2
    run(destroy(xen, domain))
    assert foreign.count == 1


def test_a_dead_mapper_gives_back_what_each_map_took(xen: Xen) -> None:
    """Of a PV granter, a writable map holds a type reference too; of a translated one none does, except the mapper's own."""
    pv = create_domain(xen, external=False)
    assert isinstance(pv, Domain)
    pv.max_pages = 64
    assert set_max_vcpus(pv, 1) == 0
    pages = [populate_page(xen, pv, pfn) for pfn in range(4)]
    translated, mapper = guest(xen), guest(xen)
    frames = []
    for ref, (granter, flags) in enumerate(((pv, 2), (pv, 6), (translated, 2), (mapper, 2)), 8):
        frame = pages[ref - 8] if granter is pv else frame_at(granter, 4)
        assert frame is not None
        entry(granter, ref, mapper, frame.mfn if granter is pv else 4)
        at = (HERE + ref) << 12
        assert run(map_grant_ref(xen, mapper.vcpus[0], at, flags, ref, granter.domid))[0] == 0
        frames.append(frame)
    assert [(frame.count, frame.tcount) for frame in frames] == [(2, 1), (2, 0), (2, 0), (2, 1)]
    run(destroy(xen, mapper))
    assert [(frame.count, frame.tcount) for frame in frames[:3]] == [(1, 0)] * 3 and frames[3].owner is None
    assert [pv.grant_table.entry_v1(ref)[0] for ref in (8, 9)] == [1, 1]
    assert mapper.domid not in xen.domains


def test_it_neither_transfers_nor_exchanges(xen: Xen) -> None:
    giver, taker = guest(xen), guest(xen)
    entry(taker, 8, giver, 0x40, abi.GTF_ACCEPT_TRANSFER)
    for operation in (4, 7, 9, 12):  # nor some others
        rc, out = call(xen, giver, 20, abi.TRANSFER.pack(3, taker.domid, 0, 8, 99, 0, 0), operation, ARG, 1)
        assert rc == -abi.ENOSYS and abi.TRANSFER.unpack(out)[4] == 99
    given, wanted = (abi.MEMORY_RESERVATION.pack(at, 1, 0, 0, abi.DOMID_SELF, 0, 0) for at in (0x2000, 0x2008))
    assert write(xen, giver.vcpus[0], 0x2000, abi.U64.pack(3) + abi.U64.pack(3))
    assert call(xen, giver, 12, given + wanted + bytes(8), 11, ARG)[0] == -abi.EOPNOTSUPP
    assert frame_at(giver, 3).owner is giver and taker.grant_table.entry_v1(8)[0] == abi.GTF_ACCEPT_TRANSFER


def test_resources_are_for_the_hardware_domain(xen: Xen) -> None:
    caller, owner = guest(xen), guest(xen)
    caller.is_privileged = True
    ask = abi.ACQUIRE_RESOURCE.pack(owner.domid, 1, 0, 1, 0, 0, 0x2000)
    assert call(xen, caller, 12, ask, 28, ARG)[0] == -abi.EACCES
    xen.hardware_domain = caller
    assert write(xen, caller.vcpus[0], 0x2000, abi.U64.pack(HERE))
    assert call(xen, caller, 12, ask, 28, ARG)[0] == 0
    assert caller.p2m is not None and caller.p2m.lookup(HERE) == (owner.grant_table.shared[0], FOREIGN)


def test_foreign_pages_of_a_pvh_dom0(xen: Xen) -> None:
    """XENMAPSPACE_gmfn_foreign (p2m_add_foreign): not its own, not Xen's, not what the owner maps of others."""
    dom0, pv, translated = guest(xen), guest(xen, external=False), guest(xen)
    dom0.is_privileged, xen.hardware_domain = True, dom0
    mine = next(f for f in xen.frames.table.values() if f.owner is pv and not f.xenheap)
    entry(pv, 8, translated, mine.mfn)
    assert run(map_grant_ref(xen, translated.vcpus[0], HERE << 12, 2, 8, pv.domid))[0] == 0

    def add(foreign: int, idx: int, gfn: int) -> int:
        vcpu = dom0.vcpus[0]
        lists = abi.U64.pack(idx) + abi.U64.pack(gfn) + b"\x77" * 4
        assert write(xen, vcpu, 0x2000, lists)
        ask = abi.ADD_TO_PHYSMAP_BATCH.pack(abi.DOMID_SELF, 4, 1, foreign, 0x2000, 0x2008, 0x2010)
        assert call(xen, dom0, 12, ask, 23, ARG)[0] == 0
        told: int = abi.U32.unpack(read(xen, vcpu, 0x2010, 4) or b"")[0]
        return told - (1 << 32) if told >> 31 else told

    for foreign, result in ((1, -abi.EOPNOTSUPP), (0, 0)):  # frames of devices are nobody's
        ask = abi.ADD_TO_PHYSMAP_BATCH.pack(abi.DOMID_SELF, abi.XENMAPSPACE_DEV_MMIO, 1, foreign, 0x2000, 0x2008, 0x2010)
        assert call(xen, dom0, 12, ask, 23, ARG)[0] == result
    for foreign, idx in ((abi.DOMID_SELF, 3), (dom0.domid, 3)):
        assert add(foreign, idx, 0x200) == -abi.EPERM
    assert add(20000, 3, 0x200) == -abi.ESRCH
    for foreign, idx in ((translated.domid, 0x300), (translated.domid, HERE), (pv.domid, frame_at(dom0, 3).mfn)):
        assert add(foreign, idx, 0x200) == -abi.EINVAL
    for foreign, idx, frame in ((translated.domid, 3, frame_at(translated, 3)), (pv.domid, mine.mfn, mine)):
        before = frame.count
        assert add(foreign, idx, 0x201) == 0 and frame.count == before + 1 and frame_at(dom0, 0x201) is frame
        assert call(xen, dom0, 12, abi.REMOVE_FROM_PHYSMAP.pack(abi.DOMID_SELF, 0x201), 15, ARG)[0] == 0
        assert frame.count == before
    assert add(translated.domid, 3, 1 << 36) == -abi.ENOENT
    dom0.is_privileged = False
    assert add(translated.domid, 3, 0x202) == -abi.EPERM


def test_what_is_moved_in_the_p2m(xen: Xen) -> None:
    """Only a guest's own pages move; one of Xen's that stood at the new place is not given up."""
    owner, domain = guest(xen), guest(xen)
    entry(owner, 8, domain, 3)
    assert run(map_grant_ref(xen, domain.vcpus[0], HERE << 12, 2, 8, owner.domid))[0] == 0

    def move(space: int, idx: int, gfn: int) -> int:
        ask = abi.ADD_TO_PHYSMAP.pack(abi.DOMID_SELF, 0, space, idx, gfn)
        return call(xen, domain, 12, ask, abi.XENMEM_ADD_TO_PHYSMAP, ARG)[0]

    assert move(abi.XENMAPSPACE_GMFN, HERE, 0x40) == -abi.EINVAL
    shared = domain.grant_table.shared[0]
    assert move(abi.XENMAPSPACE_GRANT_TABLE, 0, 0x41) == 0 and frame_at(domain, 0x41) is shared
    ram = frame_at(domain, 5)
    assert move(abi.XENMAPSPACE_GMFN, 5, 0x41) == 0 and frame_at(domain, 0x41) is ram
    assert shared.allocated and not shared.given_up and shared.m2p == -1 and shared.count == 1
    assert move(abi.XENMAPSPACE_GRANT_TABLE, 0, 0x42) == 0 and frame_at(domain, 0x42) is shared
    first = frame_at(domain, 0)
    assert move(abi.XENMAPSPACE_GMFN, 0, 0x43) == 0 and domain.p2m is not None
    assert frame_at(domain, 0x43) is first and domain.p2m.lookup(0)[0] is None  # frame 0 is a place like any other


def test_status_frames_leave_the_map_before_they_are_freed(xen: Xen) -> None:
    """set_version to 1: the guest does not reach them any more; if others hold one, it is crashed, and keeps its version.

    Source: Xen common/grant_table.c gnttab_unpopulate_status_frames.
    """
    for held in (False, True):
        domain = guest(xen)
        table, vcpu = domain.grant_table, domain.vcpus[0]
        assert set_version(vcpu, 2) == (0, 2)
        frame = table.status[0]
        put = abi.ADD_TO_PHYSMAP.pack(abi.DOMID_SELF, 0, abi.XENMAPSPACE_GRANT_TABLE, abi.XENMAPIDX_GRANT_TABLE_STATUS, HERE)
        assert call(xen, domain, 12, put, abi.XENMEM_ADD_TO_PHYSMAP, ARG)[0] == 0
        assert frame_at(domain, HERE) is frame
        frame.count += held
        assert set_version(vcpu, 1) == ((-abi.EBUSY, 2) if held else (0, 1))
        assert domain.p2m is not None and domain.p2m.lookup(HERE)[0] is None
        assert domain.crashed == held and (frame in table.status) == held
        frame.count -= held


def test_a_vcpu_is_set_up_in_the_form_of_translated_guests(xen: Xen) -> None:
    """Once; and nothing is kept of a context that is refused. Recordings have each check (x-initialised.jsonl.xz)."""
    domain = guest(xen)
    domain.vcpus.append(VCpu(1, domain))
    which, good = domain.vcpus[1], bytearray(SIZE)
    MODE.pack_into(good, 0, LONG, 0)
    LONG_FORM.pack_into(good, MODE.size, *[0] * 8, 0x1000, 2, 0x80000033, 0x300 << 12, 0x20, 0x500)
    for at, value in ((4, 1), (0, 2), (88, 0), (104, 0), (112, 0x100000000)):
        bad = bytearray(good)
        bad[at : at + 8 if at > 4 else at + 4] = value.to_bytes(8 if at > 4 else 4, "little")
        assert set_hvm_context(which, bytes(bad)) == -abi.EINVAL
        assert which.context is None and which.root_gfn is None
    assert set_hvm_context(which, bytes(good)) == 0 and which.root_gfn == 0x300
    assert set_hvm_context(which, bytes(good)) == -abi.EEXIST
