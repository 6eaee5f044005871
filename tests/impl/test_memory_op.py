"""Memory operations beyond recordings: remaining state, contiguous frames, claims, Xen's pages given up."""

from __future__ import annotations

import pytest

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.frames import FrameTable
from bulkhead.impl.xen.guest_access import read, write
from bulkhead.impl.xen.memory_op import populate_page, remove_page
from bulkhead.proofs.replay.rig import Rig
from tests.impl.support import check_counts


@pytest.fixture
def rig() -> Rig:
    made = Rig()
    made.make("A")
    made.make("B")
    return made


def reservation(rig: Rig, name: str, op: int, numbers: list[int], order: int = 0, flags: int = 0) -> tuple[int, list[int]]:
    """A reservation by the guest for itself: (extents done, the list afterwards)."""
    agent = rig.agents[name]
    at = agent.arg + 512
    raw = abi.MEMORY_RESERVATION.pack(at, len(numbers), order, flags, abi.DOMID_SELF, 0, 0)
    assert write(rig.xen, agent.vcpu, agent.arg, raw)
    assert write(rig.xen, agent.vcpu, at, b"".join(abi.U64.pack(number) for number in numbers))
    done = rig.xen.call(agent.vcpu, abi.HYPERVISOR_MEMORY_OP, op, agent.arg)
    told = read(rig.xen, agent.vcpu, at, 8 * len(numbers)) or b""
    return done, [abi.U64.unpack_from(told, 8 * i)[0] for i in range(len(numbers))]


def claim(rig: Rig, name: str, pages: int) -> int:
    raw = abi.MEMORY_RESERVATION.pack(0, pages, 0, 0, rig.domid(name), 0, 0)
    write(rig.xen, rig.kernel.vcpu, rig.kernel.arg_va, raw)
    return rig.xen.call(rig.kernel.vcpu, abi.HYPERVISOR_MEMORY_OP, abi.XENMEM_CLAIM_PAGES, rig.kernel.arg_va)


def test_an_extent_is_a_row_of_frames_aligned_to_its_size(rig: Rig) -> None:
    domain = rig.agents["A"].domain
    done, (first,) = reservation(rig, "A", abi.XENMEM_POPULATE_PHYSMAP, [0x400], order=3)
    assert done == 1 and first % 8 == 0
    assert all(rig.xen.frames.table[mfn].owner is domain for mfn in range(first, first + 8))
    assert [rig.xen.frames.table[first + i].m2p for i in range(8)] == list(range(0x400, 0x408))
    assert reservation(rig, "A", abi.XENMEM_DECREASE_RESERVATION, [first], order=3)[0] == 1
    check_counts(rig.xen)


def test_rows_are_found_among_freed_frames_when_nothing_fresh_is_left(rig: Rig) -> None:
    frames = rig.xen.frames
    frames.nframes, frames.free_count = frames.fresh, len(frames.free_list)
    assert frames.alloc_extent(None, 4) is None
    row = [frame for frame in rig.agents["A"].layout.pages[100:200] if not frame.pinned]
    for frame in row:
        assert rig.xen.call(rig.agents["A"].vcpu, abi.HYPERVISOR_UPDATE_VA_MAPPING, frame.m2p << 12, 0, 2) == 0
    assert reservation(rig, "A", abi.XENMEM_DECREASE_RESERVATION, [frame.mfn for frame in row])[0] == len(row)
    done, (got,) = reservation(rig, "A", abi.XENMEM_INCREASE_RESERVATION, [0], order=4)
    assert done == 1 and got % 16 == 0
    assert len({frames.table[got + i].mfn for i in range(16)}) == 16
    check_counts(rig.xen)


def test_what_one_domain_has_claimed_another_cannot(rig: Rig) -> None:
    """Claims are of pages that neither are in use nor have been claimed."""
    a, b, frames = rig.agents["A"].domain, rig.agents["B"].domain, rig.xen.frames
    a.max_pages = b.max_pages = 1 << 30
    free = frames.free_count
    assert claim(rig, "A", a.tot_pages + free - 10) == 0 and frames.claimed == free - 10
    assert claim(rig, "B", b.tot_pages + 11) == -abi.ENOMEM and frames.claimed == free - 10
    assert claim(rig, "B", b.tot_pages + 10) == 0 and frames.claimed == free
    assert claim(rig, "A", 0) == 0 and (a.claim, b.claim, frames.claimed) == (0, 10, 10)


@pytest.mark.parametrize("limited", [False, True])
def test_the_last_row_of_memory_is_given_too(limited: bool) -> None:
    """Also the last one below a limit."""
    frames = FrameTable(256, 0)
    limit = 64 if limited else None
    rows = [frames.alloc_extent(None, 4, limit) for _ in range(64 // 16 if limited else 256 // 16)]
    assert all(row is not None for row in rows)
    assert sorted(frame.mfn for row in rows for frame in row or ()) == list(range(64 if limited else 256))
    assert frames.alloc_extent(None, 4, limit) is None


@pytest.mark.parametrize(
    ("given", "wanted"), [((1 << 61, 0), (1 << 61, 0)), ((1 << 61, 0), (1 << 58, 3)), ((1 << 58, 3), (1 << 61, 0))]
)
def test_a_list_that_is_longer_than_memory_can_be_is_not_read(
    rig: Rig, given: tuple[int, int], wanted: tuple[int, int]
) -> None:
    """XENMEM_exchange: refused before anything is exchanged, whichever of the two lists it is."""
    agent, frame = rig.agents["A"], rig.agents["A"].layout.pages[100]
    assert rig.xen.call(agent.vcpu, abi.HYPERVISOR_UPDATE_VA_MAPPING, frame.m2p << 12, 0, 2) == 0
    sides = [abi.MEMORY_RESERVATION.pack(agent.arg + 512, *side, 0, abi.DOMID_SELF, 0, 0) for side in (given, wanted)]
    body = (b"".join(sides) + abi.U64.pack(0)).ljust(512, b"\0") + abi.U64.pack(frame.mfn)
    assert write(rig.xen, agent.vcpu, agent.arg, body)
    assert rig.xen.call(agent.vcpu, abi.HYPERVISOR_MEMORY_OP, abi.XENMEM_EXCHANGE, agent.arg) == -abi.EFAULT
    assert read(rig.xen, agent.vcpu, agent.arg, len(body)) == body and frame.owner is agent.domain


def test_what_is_claimed_is_kept_from_others(rig: Rig) -> None:
    domain, frames = rig.agents["B"].domain, rig.xen.frames
    domain.max_pages = 1 << 30
    free = frames.free_count
    assert claim(rig, "B", domain.tot_pages + free + 1) == -abi.ENOMEM
    assert claim(rig, "B", domain.tot_pages + free) == 0
    assert claim(rig, "B", domain.tot_pages + free) == -abi.EINVAL  # one at a time
    assert populate_page(rig.xen, rig.agents["A"].domain) is None and rig.xen.share_page(domain) is None
    assert populate_page(rig.xen, domain) is not None and domain.claim == free - 1 == frames.claimed
    assert populate_page(rig.xen, rig.guest("A").domain) is None  # all that is free is claimed
    assert claim(rig, "B", 0) == 0 and frames.claimed == 0
    for left in (1, 2, 3):  # what is free beyond a claim goes to others, to the last page
        assert claim(rig, "B", domain.tot_pages + frames.free_count - left) == 0
        order = left.bit_length() - 1
        assert populate_page(rig.xen, rig.guest("A").domain, order=order) is not None
        assert left == 3 or populate_page(rig.xen, rig.guest("A").domain) is None
        assert claim(rig, "B", 0) == 0
    assert populate_page(rig.xen, rig.agents["A"].domain) is not None
    assert claim(rig, "B", domain.tot_pages + 5) == 0
    first = next(frame for frame in domain.pages.values() if frame.count == 1 and not frame.tcount)
    assert remove_page(rig.xen, domain, first.mfn) == 0 and domain.claim == 6 == frames.claimed  # a page given up is claimed
    rig.remove("B")
    assert frames.claimed == 0


@pytest.mark.parametrize("mapped", [False, True])
def test_pages_of_xens_that_a_guest_gives_up(rig: Rig, mapped: bool) -> None:
    """shared_info and the grant table: the guest's reference ends once. Xen's own use and teardown are not affected."""
    agent, free = rig.agents["A"], rig.xen.frames.free_count
    domain = agent.domain
    shared = domain.shared_info
    assert shared is not None
    pages = [shared.mfn, domain.grant_table.shared[0].mfn]
    if not mapped:
        assert rig.xen.call(agent.vcpu, abi.HYPERVISOR_UPDATE_VA_MAPPING, 0x30 << 12, 0, 2) == 0
    assert reservation(rig, "A", abi.XENMEM_DECREASE_RESERVATION, pages)[0] == 2
    assert reservation(rig, "A", abi.XENMEM_DECREASE_RESERVATION, [shared.mfn])[0] == int(mapped)
    write(rig.xen, agent.vcpu, agent.arg, abi.MMUEXT_OP.pack(abi.MMUEXT_PIN_L1_TABLE, 0, shared.mfn, 0))
    assert rig.xen.call(agent.vcpu, abi.HYPERVISOR_MMUEXT_OP, agent.arg, 1, 0, abi.DOMID_SELF) == -abi.EINVAL
    write(rig.xen, agent.vcpu, agent.arg, abi.SET_VERSION.pack(2))
    assert rig.xen.call(agent.vcpu, abi.HYPERVISOR_GRANT_TABLE_OP, abi.GNTTABOP_SET_VERSION, agent.arg, 1) == 0
    before = rig.xen.frames.free_count
    assert before <= free
    rig.remove("A")
    check_counts(rig.xen)
    assert rig.xen.frames.free_count > before and domain.domid not in rig.xen.domains


def test_a_list_that_cannot_be_written_leaves_the_page_with_the_guest(rig: Rig) -> None:
    agent = rig.agents["A"]
    before = agent.domain.tot_pages
    raw = abi.MEMORY_RESERVATION.pack(0x7FFF00000000, 1, 0, 0, abi.DOMID_SELF, 0, 0)
    write(rig.xen, agent.vcpu, agent.arg, raw)
    assert rig.xen.call(agent.vcpu, abi.HYPERVISOR_MEMORY_OP, abi.XENMEM_INCREASE_RESERVATION, agent.arg) == 0
    assert agent.domain.tot_pages == before + 1
