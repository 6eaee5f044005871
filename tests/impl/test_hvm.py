"""Translated guests: grant and foreign entries in the p2m, and the effects of changing them."""

from __future__ import annotations

import pytest

from bulkhead.impl.xen import abi, memory_op
from bulkhead.impl.xen.domains import Domain
from bulkhead.impl.xen.grant_map import map_grant_ref
from bulkhead.impl.xen.grant_transfer import transfer_one
from bulkhead.impl.xen.lifecycle import create_domain, destroy, set_max_vcpus
from bulkhead.impl.xen.machine import Xen, run
from bulkhead.impl.xen.p2m import FOREIGN, GRANT_RO, GRANT_RW
from bulkhead.impl.xen.xsm import SiloPolicy
from tests.impl.support import unmap_grant_ref


def guest(xen: Xen, pages: int = 8, external: bool = True) -> Domain:
    made = create_domain(xen, external=external, max_grant_frames=4, max_maptrack_frames=4)
    assert isinstance(made, Domain)
    made.max_pages = 64
    assert set_max_vcpus(made, 1) == 0
    for gfn in range(pages):
        assert memory_op.populate_page(xen, made, gfn) is not None
    return made


def entry(domain: Domain, ref: int, to: Domain, gfn: int, flags: int = 1) -> None:
    data, off = domain.grant_table.header_at(ref)
    abi.ENTRY_V1.pack_into(data, off, flags, to.domid, gfn)


@pytest.fixture
def xen() -> Xen:
    made = Xen(nframes=4096, reserved=16)
    made.create_dom0()
    return made


def test_grant_map_in_the_p2m(xen: Xen) -> None:
    granter, mapper = guest(xen), guest(xen)
    entry(granter, 8, mapper, 3)
    vcpu = mapper.vcpus[0]
    assert run(map_grant_ref(xen, vcpu, 0x100000, 3, 8, granter.domid))[0] == abi.GNTST_GENERAL_ERROR
    status, handle, _ = run(map_grant_ref(xen, vcpu, 0x100ABC, 6, 8, granter.domid))
    assert status == 0 and mapper.p2m and mapper.p2m.lookup(0x100)[1] == GRANT_RO
    frame = granter.p2m.lookup(3)[0] if granter.p2m else None
    assert frame is not None and frame.tcount == 0  # translated granter: no type reference
    assert memory_op.remove_from_physmap(xen, mapper, 0x100) == -abi.ENOENT
    assert run(unmap_grant_ref(xen, vcpu, 0x101000, 0, handle)) == abi.GNTST_GENERAL_ERROR
    assert run(unmap_grant_ref(xen, vcpu, 0x100000, 0, handle)) == 0


def test_a_granted_page_cannot_be_granted_on(xen: Xen) -> None:
    granter, mapper, third = guest(xen), guest(xen), guest(xen)
    entry(granter, 8, mapper, 3)
    run(map_grant_ref(xen, mapper.vcpus[0], 0x100000, 2, 8, granter.domid))
    entry(mapper, 8, third, 0x100)
    assert run(map_grant_ref(xen, third.vcpus[0], 0x100000, 2, 8, mapper.domid))[0] == abi.GNTST_BAD_PAGE


def test_a_second_grant_at_the_same_place_is_fatal(xen: Xen) -> None:
    granter, mapper = guest(xen), guest(xen)
    entry(granter, 8, mapper, 3)
    vcpu = mapper.vcpus[0]
    assert run(map_grant_ref(xen, vcpu, 0x100000, 2, 8, granter.domid))[0] == 0
    assert mapper.p2m and mapper.p2m.lookup(0x100)[1] == GRANT_RW
    assert run(map_grant_ref(xen, vcpu, 0x100000, 2, 8, granter.domid))[0] == abi.GNTST_GENERAL_ERROR
    assert mapper.crashed


def test_ballooning_out_a_granted_page(xen: Xen) -> None:
    granter, mapper = guest(xen), guest(xen)
    entry(granter, 8, mapper, 3)
    _, handle, bus = run(map_grant_ref(xen, mapper.vcpus[0], 0x100000, 2, 8, granter.domid))
    frame = xen.frames.table[bus >> 12]
    assert memory_op.remove_page(xen, granter, 3) == 0
    assert frame.owner is granter and granter.tot_pages == 8
    assert run(unmap_grant_ref(xen, mapper.vcpus[0], 0x100000, 0, handle)) == 0
    assert frame.owner is None and granter.tot_pages == 7 and not frame.dirty


def test_foreign_mapping_needs_privilege_and_holds_the_page(xen: Xen) -> None:
    owner, mapper = guest(xen), guest(xen)
    dom0 = xen.domains[0]
    vcpu = dom0.vcpus[0]
    assert memory_op.add_foreign(xen, vcpu, mapper, owner.domid, 2, 0x200) == -abi.EPERM
    xen.hardware_domain = mapper  # Xen 4.17 gives foreign entries to a translated Dom0 only
    assert memory_op.add_foreign(xen, vcpu, mapper, owner.domid, 2, 0x200) == -abi.EPERM
    mapper.target = owner
    owner.refs += 1
    assert memory_op.add_foreign(xen, vcpu, mapper, owner.domid, 2, 0x200) == 0
    assert mapper.p2m and mapper.p2m.lookup(0x200)[1] == FOREIGN
    run(destroy(xen, owner))
    assert owner.domid in xen.domains and owner.tot_pages == 1
    run(destroy(xen, mapper))
    assert set(xen.domains) == {0}


def test_dead_hvm_mapper_gives_pages_back(xen: Xen) -> None:
    free = xen.frames.free_count
    granter, mapper = guest(xen), guest(xen)
    entry(granter, 8, mapper, 3)
    assert run(map_grant_ref(xen, mapper.vcpus[0], 0x100000, 2, 8, granter.domid))[0] == 0
    run(destroy(xen, mapper))
    run(destroy(xen, granter))
    assert set(xen.domains) == {0} and xen.frames.free_count == free


def test_silo_refuses_guests_but_not_unmap(xen: Xen) -> None:
    granter, mapper = guest(xen), guest(xen)
    entry(granter, 8, mapper, 3)
    vcpu = mapper.vcpus[0]
    _, handle, _ = run(map_grant_ref(xen, vcpu, 0x100000, 2, 8, granter.domid))
    xen.xsm = SiloPolicy()
    assert run(map_grant_ref(xen, vcpu, 0x101000, 2, 8, granter.domid))[0] == abi.GNTST_PERMISSION_DENIED
    assert run(unmap_grant_ref(xen, vcpu, 0x100000, 0, handle)) == 0


def test_creation_limits_and_ids(xen: Xen) -> None:
    assert create_domain(xen, max_grant_frames=0) == -abi.EINVAL
    assert create_domain(xen, grant_version=3) == -abi.EINVAL
    assert create_domain(xen, max_vcpus=0) == -abi.EINVAL
    first = create_domain(xen)
    assert isinstance(first, Domain)
    assert create_domain(xen, first.domid) == -abi.EEXIST
    second = create_domain(xen)
    assert isinstance(second, Domain) and second.domid == first.domid + 1
    for made in (first, second):
        run(destroy(xen, made))
    third = create_domain(xen)
    assert isinstance(third, Domain) and third.domid == second.domid + 1  # ids increase


def test_pages_of_the_dead_are_scrubbed_and_of_the_living_not(xen: Xen) -> None:
    one = guest(xen)
    assert one.p2m is not None
    frame, other = one.p2m.lookup(0)[0], one.p2m.lookup(1)[0]
    assert frame is not None and other is not None
    frame.bytes()[0] = other.bytes()[0] = 0x55
    memory_op.remove_page(xen, one, 0)
    assert not frame.dirty
    run(destroy(xen, one))
    assert other.dirty


def test_a_page_transferred_to_a_translated_guest_comes_to_be_where_it_wants_it(xen: Xen) -> None:
    """As in real Xen: the entry keeps the guest's gfn, and the page that was there only loses its gfn."""
    giver, taker = guest(xen, external=False), guest(xen)
    assert taker.p2m is not None
    frames = [frame for frame in xen.frames.table.values() if frame.owner is giver and not frame.xenheap][:2]
    pages = taker.tot_pages
    for frame, gfn in zip(frames, (40, 3), strict=True):
        entry(taker, 8, giver, gfn, abi.GTF_ACCEPT_TRANSFER)
        assert run(transfer_one(xen, giver.vcpus[0], frame.mfn, taker.domid, 8)) == abi.GNTST_OKAY
        assert taker.p2m.lookup(gfn)[0] is frame and frame.owner is taker
        assert taker.grant_table.entry_v1(8) == (0xE, giver.domid, gfn)
    assert taker.tot_pages == pages + 2


@pytest.mark.parametrize("gfn", [3, 0x200])
def test_a_page_transferred_to_a_number_that_is_taken(xen: Xen, gfn: int) -> None:
    """As in real Xen: where a grant is, the taker crashes; without a page for a table, nothing comes to be there.

    The status is an error in both cases, and yet the taker has the page, at no number.
    """
    giver, taker = guest(xen, external=False), guest(xen)
    assert taker.p2m is not None
    entry(giver, 9, taker, next(frame.mfn for frame in giver.pages.values()))
    if gfn == 3:
        assert run(map_grant_ref(xen, taker.vcpus[0], gfn << 12, 2, 9, giver.domid))[0] == abi.GNTST_OKAY
    taker.p2m.resize_pool(0)
    frame = next(frame for frame in giver.pages.values() if frame.count == 1)
    pages = taker.tot_pages
    entry(taker, 8, giver, gfn, abi.GTF_ACCEPT_TRANSFER)
    assert run(transfer_one(xen, giver.vcpus[0], frame.mfn, taker.domid, 8)) == abi.GNTST_GENERAL_ERROR
    assert frame.owner is taker and taker.tot_pages == pages + 1
    assert frame.m2p == -1 and taker.p2m.lookup(gfn)[0] is not frame
    assert taker.crashed == (gfn == 3) and taker.grant_table.entry_v1(8) == (0xE, giver.domid, gfn)


@pytest.mark.parametrize(("gfn", "ended", "status"), [(3, False, 0), (0x200, False, -1), (3, True, -1)])
def test_a_page_transferred_to_a_guest_that_dies_meanwhile(xen: Xen, gfn: int, ended: bool, status: int) -> None:
    """The map of a dying guest gets no new tables; when they have gone, nothing comes to any number."""
    giver, taker = guest(xen, external=False), guest(xen)
    assert taker.p2m is not None
    frame = next(frame for frame in giver.pages.values() if frame.count == 1)
    entry(taker, 8, giver, gfn, abi.GTF_ACCEPT_TRANSFER)
    transfer, end = transfer_one(xen, giver.vcpus[0], frame.mfn, taker.domid, 8), destroy(xen, taker)
    while next(transfer) != "transfer.assigned":
        pass
    assert frame.owner is taker
    while next(end) != ("destroy.memory" if ended else "destroy.dying"):
        pass
    assert run(transfer) == status
    assert (taker.p2m.lookup(gfn)[0] is frame) == (status == abi.GNTST_OKAY)
    run(end)
    assert frame.owner is None and not taker.p2m.entries and taker.domid not in xen.domains


def test_the_pool_for_tables(xen: Xen) -> None:
    """One page for each table, which is never given back, and for each vCPU; without one nothing comes to a new number."""
    taker = guest(xen, 0)
    p2m = taker.p2m
    assert p2m is not None
    empty = p2m.used
    assert memory_op.populate_page(xen, taker, 5) is not None and p2m.used == empty + 3
    assert memory_op.populate_page(xen, taker, 6) is not None and p2m.used == empty + 3
    assert not p2m.resize_pool(0) and p2m.pool == p2m.used
    assert memory_op.populate_page(xen, taker, 7) is not None  # there is a table for it
    pages = taker.tot_pages
    assert memory_op.populate_page(xen, taker, 0x200) is None and taker.tot_pages == pages + 1  # the page stays, as in Xen
    assert p2m.resize_pool(p2m.used + 1) and memory_op.populate_page(xen, taker, 0x40000) is None  # it needs two
    assert p2m.used == empty + 4
    assert memory_op.remove_page(xen, taker, 5) == 0 and p2m.used == empty + 4
    assert p2m.resize_pool(p2m.used + 1) and memory_op.populate_page(xen, taker, 0x40000) is not None
    taker.max_pages = 2048
    p2m.resize_pool(256)
    used = p2m.used
    assert memory_op.populate_page(xen, taker, 0x400, 9) is not None and p2m.used == used  # one entry of a higher table
    p2m.resize_pool(0)
    assert memory_op.populate_page(xen, taker, 0x403) is None  # it would be split
    p2m.resize_pool(256)
    assert memory_op.populate_page(xen, taker, 0x403) is not None and p2m.used == used + 1
