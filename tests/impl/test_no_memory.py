"""Every operation that allocates, with a heap that ends at each of its allocations: its error, and nothing lost.

Protects: error paths that no recording reaches, as the recorder's machine has memory enough. After an operation that failed,
all frames, counts and entries must be as before. Sources: Xen common/grant_table.c (gnttab_grow_table,
gnttab_populate_status_frames), common/memory.c (memory_exchange), common/domain.c (domain_create), common/page_alloc.c.
"""

from __future__ import annotations

import pytest

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.domains import Domain
from bulkhead.impl.xen.frames import FrameTable
from bulkhead.impl.xen.grant_map import map_grant_ref
from bulkhead.impl.xen.guest_access import write
from bulkhead.impl.xen.lifecycle import RELEASE_BATCH, choose_domid, create_domain, destroy
from bulkhead.impl.xen.machine import run
from bulkhead.impl.xen.memory_op import populate_page
from bulkhead.proofs.replay.rig import Rig
from tests.impl.support import agent, check_counts, entry_flags, grant, machine


@pytest.fixture
def rig() -> Rig:
    return machine("A", "B")


def only(rig: Rig, frames: int) -> None:
    """From now on the heap has so many frames, never used before."""
    table = rig.xen.frames
    table.free_list.clear()
    table.nframes, table.free_count = table.fresh + frames, frames


def seen(rig: Rig) -> list[tuple[object, ...]]:
    """What belongs to whom, with all counts."""
    return [(f.mfn, f.owner, f.count, f.tcount, f.xenheap) for f in rig.xen.frames.table.values() if f.count]


def setup_table(rig: Rig, name: str, frames: int) -> int:
    at = agent(rig, name).arg
    _, out = rig.grant_op(name, abi.GNTTABOP_SETUP_TABLE, abi.SETUP_TABLE.pack(0x7FF0, 0, frames, 99, 0, 0, at + 512))
    status: int = abi.STATUS.unpack_from(out, 8)[0]
    return status


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("left", [0, 1, 2, 3])
def test_a_grant_table_that_cannot_grow(rig: Rig, version: int, left: int) -> None:
    """By three frames; version 2 has one status frame for eight of them, which is there already."""
    rc, _ = rig.grant_op("A", abi.GNTTABOP_SET_VERSION, abi.SET_VERSION.pack(version))
    table = agent(rig, "A").domain.grant_table
    had = len(table.shared)
    table.max_frames = 64
    only(rig, left)
    before, entries = seen(rig), table.nr_entries
    assert rc == 0 and setup_table(rig, "A", had + 3) == (0 if left == 3 else abi.GNTST_GENERAL_ERROR)
    if left < 3:
        assert seen(rig) == before and (len(table.shared), table.nr_entries) == (had, entries)
        assert rig.xen.frames.free_count == left
    else:
        assert len(table.shared) == had + 3 and table.nr_entries == (had + 3) * (512 if version == 1 else 256)
    check_counts(rig.xen)


@pytest.mark.parametrize("left", [0, 1])
def test_version_2_without_memory_for_status_words(rig: Rig, left: int) -> None:
    table = agent(rig, "A").domain.grant_table
    grant(rig, "A", 3, "B", 4)
    only(rig, left)
    before = seen(rig)
    rc, out = rig.grant_op("A", abi.GNTTABOP_SET_VERSION, abi.SET_VERSION.pack(2))
    assert (rc, abi.SET_VERSION.unpack(out)[0], table.version) == ((0, 2, 2) if left else (-abi.ENOMEM, 1, 1))
    if not left:
        assert seen(rig) == before and entry_flags(rig, "A", 3) == 1


@pytest.mark.parametrize("left", [0, 1, 2])
def test_a_domain_that_cannot_be_made(rig: Rig, left: int) -> None:
    """It needs a page of shared_info and one of its grant table."""
    only(rig, left)
    before, ids = seen(rig), set(rig.xen.domains)
    made = create_domain(rig.xen)
    assert isinstance(made, Domain) == (left == 2)
    if not isinstance(made, Domain):
        assert made == -abi.ENOMEM and seen(rig) == before and set(rig.xen.domains) == ids
        assert rig.xen.frames.free_count == left


def test_no_id_is_left(rig: Rig) -> None:
    """Ids go on after the last one that was given out, and begin again at 1."""
    xen = rig.xen
    xen.last_domid = abi.DOMID_FIRST_RESERVED - 2
    assert [choose_domid(xen) for _ in range(3)] == [abi.DOMID_FIRST_RESERVED - 1, 3, 4]
    some = agent(rig, "A").domain
    xen.domains |= {number: some for number in range(1, abi.DOMID_FIRST_RESERVED) if number not in xen.domains}
    assert choose_domid(xen) == -abi.ENOMEM
    del xen.domains[7]
    assert choose_domid(xen) == 7


@pytest.mark.parametrize("left", [0, 1, 2])
def test_an_exchange_that_gets_only_a_part(rig: Rig, left: int) -> None:
    """One extent of two pages for two of one page; what came is freed again, and the guest keeps its pages."""
    a = agent(rig, "A")
    raw = abi.MEMORY_RESERVATION.pack(a.arg + 512, 1, 1, 0, abi.DOMID_SELF, 0, 0)
    assert write(rig.xen, a.vcpu, a.arg, raw)
    assert rig.xen.call(a.vcpu, abi.HYPERVISOR_MEMORY_OP, abi.XENMEM_INCREASE_RESERVATION, a.arg) == 1
    first = rig.xen.frames.fresh - 2
    only(rig, left)
    before = seen(rig)
    given = abi.MEMORY_RESERVATION.pack(a.arg + 256, 1, 1, 0, abi.DOMID_SELF, 0, 0)
    wanted = abi.MEMORY_RESERVATION.pack(a.arg + 512, 2, 0, 0, abi.DOMID_SELF, 0, 0)
    assert write(rig.xen, a.vcpu, a.arg, given + wanted + bytes(8))
    assert write(rig.xen, a.vcpu, a.arg + 256, abi.U64.pack(first))
    rc = rig.xen.call(a.vcpu, abi.HYPERVISOR_MEMORY_OP, abi.XENMEM_EXCHANGE, a.arg)
    assert rc == (0 if left == 2 else -abi.ENOMEM)
    if left < 2:
        assert seen(rig) == before
    assert rig.xen.frames.free_count == left
    check_counts(rig.xen)


def test_frames_below_a_limit() -> None:
    """A frame above the limit stays in the heap; the first one below it is taken, wherever it is in the list."""
    table = FrameTable(64, 16)
    frames = [table.alloc(None) for _ in range(8)]
    assert [f.mfn for f in frames if f is not None] == list(range(16, 24))
    for frame in (frames[7], frames[2], frames[5]):
        assert frame is not None
        table.put_alloc_ref(frame)
    assert table.alloc(None, limit=18) is None
    got = table.alloc(None, limit=20)
    assert got is frames[2] and [f.mfn for f in table.free_list] == [23, 21]
    assert table.alloc(None, limit=20) is None and table.free_count == 64 - 16 - 6
    assert table.alloc(None, limit=22) is frames[5]
    fresh = table.alloc(None, limit=30)
    assert fresh is frames[7]
    assert (table.alloc(None, limit=25) or frames[0]).mfn == 24 and table.alloc(None, limit=25) is None  # type: ignore[union-attr]


def test_rows_of_frames_that_were_in_use() -> None:
    """Only a complete and aligned row will do, below the limit; the others stay in the heap."""
    table = FrameTable(32, 16)
    frames = [table.alloc(None) for _ in range(16)]
    assert table.alloc(None) is None and table.alloc_extent(None, 1) is None
    for mfn in (17, 18, 19, 22, 26, 27, 25, 24):
        frame = frames[mfn - 16]
        assert frame is not None
        table.put_alloc_ref(frame)
    assert table.alloc_extent(None, 3) is None
    assert table.alloc_extent(None, 2, limit=24) is None and table.free_count == 8
    row = table.alloc_extent(None, 2)
    assert row is not None and [f.mfn for f in row] == [24, 25, 26, 27] and table.free_count == 4
    pair = table.alloc_extent(None, 1)
    assert pair is not None and [f.mfn for f in pair] == [18, 19]
    assert table.alloc_extent(None, 1) is None and sorted(f.mfn for f in table.free_list) == [17, 22]


def test_more_mappings_than_are_released_at_once(rig: Rig) -> None:
    """The death of a mapper with many handles is done in pieces, and each piece is done."""
    a, b = agent(rig, "A"), agent(rig, "B")
    grant(rig, "A", 8, "B", 3)
    grant(rig, "A", 9, "B", 4)
    for i in range(RELEASE_BATCH + 6):
        assert run(map_grant_ref(rig.xen, b.vcpu, 0, 1 if i % 3 else 5, 8 + (i & 1), a.domain.domid))[0] == 0
    steps, markers = destroy(rig.xen, b.domain), []
    frames = [rig.page(f"A/{page}") for page in (3, 4)]
    for marker in steps:
        markers.append(marker)
        if marker == "destroy.maptrack":
            live = sum(1 for record in b.domain.grant_table.maptrack if record.flags)
            assert live == 6
    assert markers.count("destroy.maptrack") == 1
    assert [a.domain.grant_table.active[ref].pin for ref in (8, 9)] == [0, 0]
    assert [entry_flags(rig, "A", ref) for ref in (8, 9)] == [1, 1]
    assert [frame.count for frame in frames if frame is not None] == [2, 2]  # allocated, and mapped by its owner
    check_counts(rig.xen)


def test_populate_stops_at_the_domains_limit(rig: Rig) -> None:
    domain = agent(rig, "A").domain
    domain.max_pages = domain.tot_pages + 3
    assert populate_page(rig.xen, domain, order=2) is None and domain.max_pages == domain.tot_pages + 3
    assert populate_page(rig.xen, domain, order=1) is not None
    assert populate_page(rig.xen, domain) is not None and populate_page(rig.xen, domain) is None
