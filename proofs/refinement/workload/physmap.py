"""Chooses what PVH guests do with their map: pages come to guest frame numbers, move, are given up, leave the map.

Xen's own pages come only where no entry of the guest's grants for writing, and while no call is in flight: what this
workload copies elsewhere are no entries. A guest's fixed pages stay where they are. Not here: what all guests do
(guests.py).
"""

from __future__ import annotations

import random

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.maptrack import Maptrack
from bulkhead.proofs.refinement.lockstep.testbed import FIRST_NUMBER, SLOTS, Guest, PvhGuest
from bulkhead.proofs.refinement.workload.moves import Guests

NO_NUMBER = 0x200000  # a guest frame number at which no guest has anything
NOBODY = 99  # no domain's number
MOST_MOVED = 3  # pages by one call


def slot_number(rng: random.Random) -> int:
    """The guest frame number of a slot."""
    return FIRST_NUMBER + int(rng.random() * SLOTS)


def number_to_fill(rng: random.Random, guest: PvhGuest) -> int:
    """The number of a slot; now and then one where a grant is: for that Xen crashes the guest."""
    grants = numbers_of_grants(guest)
    return grants[int(rng.random() * len(grants))] if grants and rng.random() < 0.7 else slot_number(rng)


def numbers_of_grants(guest: PvhGuest) -> list[int]:
    """The slots' numbers at which there are grants."""
    return [gfn for gfn in range(FIRST_NUMBER, FIRST_NUMBER + SLOTS) if granted(guest, gfn)]


def populate_at(guests: Guests, guest: PvhGuest, vcpu: int, count: int) -> None:
    """populate_physmap, seldom where a grant is: for that Xen crashes the guest."""
    gfns = [slot_number(guests.rng) for _ in range(count)]
    if guests.rng.random() < 0.9 and any(granted(guest, gfn) for gfn in gfns):
        return
    guests.call(guest, vcpu, "populate_physmap_at", gfns=gfns)


def decrease_at(guests: Guests, guest: PvhGuest, vcpu: int) -> None:
    """decrease_reservation of one or two pages; of a number without a page, or with another's."""
    gfns = [_number(guests.rng) for _ in range(1 if guests.rng.random() < 0.8 else 2)]
    if not any(_xens(guest, gfn) for gfn in gfns):
        guests.call(guest, vcpu, "decrease_reservation_at", gfns=gfns)


def change_map(guests: Guests, guest: Guest, vcpu: int) -> None:
    """A page is moved, or leaves the map; or a page of another domain is asked for, which the guest does not get."""
    assert isinstance(guest, PvhGuest)
    rng = guests.rng
    x = rng.random()
    was, gfn = _number(rng), slot_number(rng)
    if x < 0.3:
        guests.call(guest, vcpu, "remove_from_physmap", gfn=was)
    elif x < 0.55:
        _move_several(guests, guest, vcpu)
    elif x < 0.88:
        if _others_xens(guest, gfn):
            return
        if not _xens(guest, was) or _may_have_xens(guests, guest, gfn):
            guests.call(guest, vcpu, "move_in_physmap", was=was, gfn=gfn)
    else:
        dom = guests.other(guest) if rng.random() < 0.7 else NOBODY
        guests.call(guest, vcpu, "add_to_physmap_foreign", dom=dom, number=was, gfn=gfn)


def _move_several(guests: Guests, guest: PvhGuest, vcpu: int) -> None:
    """Own pages move, in a row or from anywhere, also onto each other; others may call meanwhile."""
    rng = guests.rng
    if any(_xens(guest, gfn) for gfn in range(FIRST_NUMBER, FIRST_NUMBER + SLOTS)):
        return
    count = 1 + int(rng.random() * MOST_MOVED)
    if rng.random() < 0.5:
        gfn = FIRST_NUMBER + int(rng.random() * (SLOTS + 1 - count))
        guests.call(guest, vcpu, "move_range_in_physmap", was=_number(rng), gfn=gfn, count=count)
        return
    indexes, gfns = [_number(rng) for _ in range(count)], [slot_number(rng) for _ in range(count)]
    guests.call(guest, vcpu, "add_to_physmap_batch", space=abi.XENMAPSPACE_GMFN, indexes=indexes, gfns=gfns)


def put_xens(guests: Guests, guest: Guest, vcpu: int) -> None:
    """One of Xen's pages for the guest comes to a number, or is granted to be read."""
    assert isinstance(guest, PvhGuest)
    rng, table = guests.rng, guest.domain.grant_table
    if rng.random() < 0.3:
        shown = [g for g in range(FIRST_NUMBER, FIRST_NUMBER + SLOTS) if _xens(guest, g) and not _status(guest, g)]
        ref = guests.ref()
        if shown and not guests.view.changing(guest.domid, ref):
            guests.write_entry(guest, ref, 5, guests.other(guest), shown[int(rng.random() * len(shown))], True)
        return
    gfn = slot_number(rng)
    if not _may_have_xens(guests, guest, gfn) or _others_xens(guest, gfn):
        return
    if table.status and rng.random() < 0.25 and not any(act.pin for act in table.active[abi.NR_RESERVED_ENTRIES :]):
        _give_status_up(guests, guest, vcpu, gfn)
        return
    if rng.random() < 0.15:
        _put_several(guests, guest, vcpu)
        return
    x = rng.random()
    if x < 0.35:
        space, index = abi.XENMAPSPACE_SHARED_INFO, int(x < 0.03)
    else:
        space, index = abi.XENMAPSPACE_GRANT_TABLE, int(rng.random() * len(table.shared)) if x < 0.8 else table.max_frames
        if x > 0.85:
            index = abi.XENMAPIDX_GRANT_TABLE_STATUS | int(rng.random() * len(table.status))
    guests.call(guest, vcpu, "add_to_physmap", space=space, index=index, gfn=gfn)


def _put_several(guests: Guests, guest: PvhGuest, vcpu: int) -> None:
    """Frames of the grant table come to several numbers by one call, which nothing interrupts."""
    rng, table = guests.rng, guest.domain.grant_table
    gfns = [slot_number(rng) for _ in range(1 + int(rng.random() * MOST_MOVED))]
    if any(not _may_have_xens(guests, guest, gfn) or _others_xens(guest, gfn) for gfn in gfns):
        return
    indexes = [int(rng.random() * len(table.shared)) if rng.random() < 0.8 else table.max_frames for _ in gfns]
    guests.call(guest, vcpu, "add_to_physmap_batch", space=abi.XENMAPSPACE_GRANT_TABLE, indexes=indexes, gfns=gfns)
    guests.finish_calls()


def _give_status_up(guests: Guests, guest: PvhGuest, vcpu: int, gfn: int) -> None:
    """A guest whose version may change puts a status frame at a number, goes back to version 1, and accesses the number."""
    index = abi.XENMAPIDX_GRANT_TABLE_STATUS | int(guests.rng.random() * len(guest.domain.grant_table.status))
    guests.call(guest, vcpu, "add_to_physmap", space=abi.XENMAPSPACE_GRANT_TABLE, index=index, gfn=gfn)
    guests.finish_calls()
    guests.call(guest, vcpu, "set_version", version=1)
    guests.finish_calls()
    guests.call(guest, vcpu, "access", slot=gfn - FIRST_NUMBER, write=guests.rng.random() < 0.5)


def as_recorded(guest: PvhGuest, slot: int, record: Maptrack | None) -> bool:
    """A slot does not have the page of a record in another way than the record says."""
    at = guest.at_slot(slot)
    if at is None or record is None or record.granter is None or record.ref >= len(record.granter.grant_table.active):
        return True
    frame = record.granter.grant_table.active[record.ref].frame
    return frame is None or at[0] != frame.mfn or at[1] == (not record.flags & abi.GNTMAP_READONLY)


def outlived(record: Maptrack) -> bool:
    """Does a record stand for a page of a PVH guest that has another owner by now?"""
    granter = record.granter
    if granter is None or not granter.external or record.ref >= len(granter.grant_table.active):
        return False
    frame = granter.grant_table.active[record.ref].frame
    return frame is not None and frame.owner is not granter


def _number(rng: random.Random) -> int:
    return slot_number(rng) if rng.random() < 0.97 else NO_NUMBER


def granted(guest: PvhGuest, gfn: int) -> bool:
    """Is another domain's page at a number?"""
    found = guest.p2m.lookup(gfn)[0]
    return found is not None and found.owner is not guest.domain


def _xens(guest: PvhGuest, gfn: int) -> bool:
    found = guest.p2m.lookup(gfn)[0]
    return found is not None and found.xenheap


def _others_xens(guest: PvhGuest, gfn: int) -> bool:
    """A page of Xen's for another domain, by a grant: Xen takes that off the map, and keeps the grant in use."""
    return _xens(guest, gfn) and granted(guest, gfn)


def _status(guest: PvhGuest, gfn: int) -> bool:
    return guest.p2m.lookup(gfn)[0] in guest.domain.grant_table.status


def _may_have_xens(guests: Guests, guest: PvhGuest, gfn: int) -> bool:
    """May a page of Xen's come to a number: no call is in flight, and no entry grants the number for writing?"""
    table = guest.domain.grant_table
    return not guests.view.flights and not any(
        ref < table.nr_entries
        and table.frame_field(ref) == gfn
        and not abi.HEADER.unpack_from(*table.header_at(ref))[0] & abi.GTF_READONLY
        for ref in guests.refs
    )
