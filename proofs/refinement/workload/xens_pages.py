"""Chooses what guests do with Xen's own pages that they share: their grant tables, status frames and shared_info.

They map them, grant them, copy from them, give them up. Where bytes come into a grant table in another way than by its
owner's stores, they are those of entries (never anything else, as a page of the workload's other copies would be): a peer
stores entries through its mapping, and a copy moves one entry to the place of another. Not here: what else guests do
(guests.py).
"""

from __future__ import annotations

import random

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.domains import Domain
from bulkhead.impl.xen.frames import Frame
from bulkhead.impl.xen.pagetables import PTE_A, PTE_D, PTE_P, PTE_RW, PTE_USER
from bulkhead.proofs.refinement.lockstep.testbed import SLOTS, Guest, PvGuest
from bulkhead.proofs.refinement.workload.moves import Guests
from bulkhead.proofs.refinement.workload.physmap import put_xens

ENTRY_SIZE = {1: abi.ENTRY_V1.size, 2: abi.ENTRY_V2.size}
HOST, HOST_READONLY = abi.GNTMAP_HOST_MAP, abi.GNTMAP_HOST_MAP | abi.GNTMAP_READONLY


def pages_of(domain: Domain) -> list[Frame]:
    """Xen's pages that a domain has now."""
    pages = [*domain.grant_table.shared, *domain.grant_table.status, domain.shared_info]
    return [page for page in pages if page is not None and page.owner is domain]


def any_page(rng: random.Random, guest: Guest) -> int | None:
    """One of Xen's pages of a guest, as the guest names it; of a PVH guest, only those that it has at a number."""
    pages = [page for page in pages_of(guest.domain) if not guest.domain.external or page.m2p >= 0]
    if not pages:
        return None
    page = pages[int(rng.random() * len(pages))]
    return page.m2p if guest.domain.external else page.mfn


def share_xens(guests: Guests, guest: Guest, vcpu: int) -> None:
    """One of the uses of Xen's pages. Entries that name them are for readers, but of shared_info; see `lend`."""
    rng, view = guests.rng, guests.view
    if not isinstance(guest, PvGuest):
        x = rng.random()
        if x < 0.2:
            _store_bits(guests, guest)
        elif x < 0.4 and not view.flights:
            lend(guests, guest, vcpu)
        else:
            put_xens(guests, guest, vcpu)
        return
    mfn = any_page(rng, guest)
    if mfn is None:
        return
    info = guest.domain.shared_info
    x = rng.random()
    if x < 0.25:
        ref, flags = guests.ref(), 1 if info is not None and mfn == info.mfn and rng.random() < 0.7 else 5
        if not view.changing(guest.domid, ref):
            guests.write_entry(guest, ref, flags, guests.other(guest), mfn, True)
    elif x < 0.5:
        pte = (mfn << 12) | PTE_P | PTE_USER | PTE_A | PTE_D | (PTE_RW if rng.random() < 0.6 else 0)
        guests.call(guest, vcpu, "mmu_update", slot=int(rng.random() * SLOTS), pte=pte, foreign=abi.DOMID_SELF)
    elif x < 0.58:
        kept = [page.mfn for page in pages_of(guest.domain) if page.count > 1]  # others, or page tables, have it too
        guests.call(guest, vcpu, "decrease_reservation", mfns=[kept[0] if kept and rng.random() < 0.7 else mfn])
    elif x < 0.61:
        guests.call(guest, vcpu, "transfer", mfn=mfn, dom=guests.other(guest), ref=8)
    elif x < 0.75:
        _store_bits(guests, guest)
    elif view.flights:
        return
    elif x < 0.88:
        lend(guests, guest, vcpu)
    else:
        copy_entry(guests, guest, vcpu)


def _mapped(guests: Guests, guest: Guest, frames: list[Frame]) -> list[tuple[int, int]]:
    """Slots at which a guest has some of these pages mapped for writing, and the pages' numbers."""
    found = []
    for slot in range(SLOTS):
        at = guest.at_slot(slot)
        if at is not None and at[1] and any(frame.mfn == at[0] for frame in frames):
            found.append((slot, at[0]))
    return found


def _store_bits(guests: Guests, guest: Guest) -> None:
    """Store in-use bits into a status frame that is mapped for writing, the guest's own or another's."""
    frames = [f for g in guests.view.guests.values() for f in g.domain.grant_table.status]
    for slot, _ in _mapped(guests, guest, frames):
        guests.call(guest, 0, "store_status", slot=slot, ref=guests.ref(), bits=guests.rng.choice((0, 8, 16, 24)))


def lend(guests: Guests, peer: Guest, vcpu: int) -> None:
    """A guest lends a frame of its table or a status frame to another, which maps it for writing and stores there.

    No other call is in flight, and no call follows that copies to where this entry stands: what it would copy is no entry.
    """
    rng, view = guests.rng, guests.view
    lenders = [g for g in view.guests.values() if g is not peer and not (g.domain.is_dying or g.domain.crashed)]
    lenders = [g for g in lenders if not g.domain.pause_count and isinstance(g, PvGuest)]
    if not lenders:
        return
    owner = lenders[int(rng.random() * len(lenders))]
    table = owner.domain.grant_table
    frames = [f for f in (*table.shared[:1], *table.status) if f.owner is owner.domain]
    lent = _mapped(guests, peer, frames)
    ref, slot = guests.ref(), int(rng.random() * SLOTS)
    if not lent and frames and ref < table.nr_entries and not table.active[ref].pin:
        frame = frames[int(rng.random() * len(frames))]
        guests.write_entry(owner, ref, 1, peer.domid, frame.mfn, True)
        if sum(1 for record in peer.domain.grant_table.maptrack if record.flags & 3) < 7:
            element = {"slot": slot, "flags": HOST, "ref": ref, "dom": owner.domid, "addr": peer.slot_va(slot)}
            guests.call(peer, vcpu, "map_grant_ref", elements=[element])
            guests.finish_calls()
        guests.write_entry(owner, ref, rng.choice((0, 5)), peer.domid, frame.mfn, True)
        lent = _mapped(guests, peer, frames)
    for slot, mfn in lent:
        if any(frame.mfn == mfn for frame in table.status):
            guests.call(peer, 0, "store_status", slot=slot, ref=guests.ref(), bits=rng.choice((0, 8, 16, 24)))
            continue
        at = guests.ref()
        if at < table.nr_entries and table.header_at(at)[0] is table.shared[0].data and at >= abi.NR_RESERVED_ENTRIES:
            page = guests.page(owner)
            guests.call(
                peer, 0, "store_in_table", slot=slot, ref=at, flags=rng.choice((0, 1, 5)), domid=guests.other(peer), mfn=page
            )


def copy_entry(guests: Guests, guest: Guest, vcpu: int) -> None:
    """A guest copies one entry of its table to the place of another, by their frames' numbers; with no other call in flight.

    Not those of transfers: of these Xen reads in the bits of a use whether they are completed.
    """
    table = guest.domain.grant_table
    places = [ref for ref in guests.refs if ref < table.nr_entries]
    there = {frame.data is not None and id(frame.data): frame for frame in table.shared if frame.owner is guest.domain}
    places = [ref for ref in places if id(table.header_at(ref)[0]) in there]
    kinds = {ref: abi.HEADER.unpack_from(*table.header_at(ref))[0] & abi.GTF_TYPE_MASK for ref in places}
    places = [ref for ref in places if kinds[ref] in (abi.GTF_INVALID, abi.GTF_PERMIT_ACCESS)]
    if not places:
        return
    source, dest = (places[int(guests.rng.random() * len(places))] for _ in range(2))
    (data, src_off), (onto, dst_off) = table.header_at(source), table.header_at(dest)
    element = {
        "src_ref": False,
        "src": there[id(data)].mfn,
        "src_dom": abi.DOMID_SELF,
        "src_off": src_off,
        "dst_ref": False,
        "dst": there[id(onto)].mfn,
        "dst_dom": abi.DOMID_SELF,
        "dst_off": dst_off,
        "length": ENTRY_SIZE[table.version],
    }
    guests.call(guest, vcpu, "copy", elements=[element])
    guests.finish_calls()
