"""Records of mappings that have outlived their granter, and what makes them matter: another domain gets its id, and the
reference that the record names is in use there, too.

A guest that clears an entry by mmu_update keeps the record of the grant but no page, so the granter can go. By chance the
id, the reference and the record rarely meet again; here the new domain repeats the grant. Not here: what is done with such
a record (guests.py, scheduler.py).
"""

from __future__ import annotations

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.domains import Domain
from bulkhead.proofs.refinement.lockstep.testbed import SLOTS, Guest, PvGuest
from bulkhead.proofs.refinement.view import View
from bulkhead.proofs.refinement.workload.moves import Guests


def maps_of_the_past(view: View, domain: Domain) -> list[int]:
    """Handles of grants by destroyed domains, if another domain now has that id and uses that reference."""
    found = []
    for handle, record in enumerate(domain.grant_table.maptrack):
        if record.flags & 3:
            now = view.domains.get(record.domid)
            table = None if now is None or now is record.granter else now.grant_table
            if table is not None and record.ref < len(table.active) and table.active[record.ref].pin:
                found.append(handle)
    return found


def ids_of_the_dead(view: View) -> list[int]:
    """Ids that no domain has, and that records of mappings name."""
    tables = [guest.domain.grant_table for guest in view.guests.values()]
    named = {record.domid for table in tables for record in table.maptrack if record.flags & 3}
    return [domid for domid in sorted(named) if domid and domid not in view.domains]


def map_again(guests: Guests, guest: Guest) -> bool:
    """Somebody else maps what the guest's record of a dead granter names, of the domain that has its id now: if the guest
    itself did, its death would end that use, too. False if there is no such domain."""
    rng, view = guests.rng, guests.view
    busy = {f.domid for f in view.flights if f.guest is not None}
    others = [g for g in view.guests.values() if g is not guest and isinstance(g, PvGuest) and _running(g)]
    others = [g for g in others if g.domid not in busy]
    found = _granter_again(guests, guest) if others else None
    if found is None:
        return False
    granter, ref, page = found
    taker, slot = others[int(rng.random() * len(others))], int(rng.random() * SLOTS)
    guests.write_entry(granter, ref, abi.GTF_PERMIT_ACCESS, taker.domid, page, True)
    element = {"slot": slot, "flags": abi.GNTMAP_HOST_MAP, "ref": ref, "dom": granter.domid, "addr": taker.slot_va(slot)}
    guests.call(taker, 0, "map_grant_ref", elements=[element])
    return True


def _running(guest: Guest) -> bool:
    domain = guest.domain
    return not (domain.is_dying or domain.pause_count or domain.crashed)


def _granter_again(guests: Guests, guest: Guest) -> tuple[Guest, int, int] | None:
    """A domain with the id of a dead granter, of which the guest has a record; the unused reference; a page of its own."""
    for record in guest.domain.grant_table.maptrack:
        other = guests.view.guests.get(record.domid)
        if not record.flags & 3 or other is None or other is guest or other.domain is record.granter or not _running(other):
            continue
        table, page = other.domain.grant_table, guests.page(other)
        free = record.ref in guests.refs and record.ref < table.nr_entries and not table.active[record.ref].pin
        if free and not guests.view.changing(record.domid, record.ref) and guests.view.own_page(other.domain, page):
            return other, record.ref, page
    return None
