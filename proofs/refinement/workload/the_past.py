"""Records of mappings that have outlived their granter, and what makes them matter: another domain gets its id, and the
reference that the record names is in use there, too.

A guest that clears an entry by mmu_update keeps the record of the grant but no page, so the granter can go. By chance the
id, the reference and the record rarely meet again; here the new domain repeats the grant. Not here: what is done with such
a record (guests.py, scheduler.py).
"""

from __future__ import annotations

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.domains import Domain
from bulkhead.proofs.refinement.lockstep.testbed import Guest
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


def grant_again(guests: Guests, guest: Guest) -> tuple[int, int] | None:
    """A domain that has the id of a dead granter offers this guest the reference of that grant; (granter, reference)."""
    for record in guest.domain.grant_table.maptrack:
        other = guests.view.guests.get(record.domid)
        if not record.flags & 3 or other is None or other is guest or other.domain is record.granter:
            continue
        domain, table = other.domain, other.domain.grant_table
        running = not (domain.is_dying or domain.pause_count or domain.crashed)
        free = record.ref in guests.refs and record.ref < table.nr_entries and not table.active[record.ref].pin
        if running and free and not guests.view.changing(record.domid, record.ref):
            page = guests.page(other)
            if guests.view.own_page(domain, page):
                guests.write_entry(other, record.ref, abi.GTF_PERMIT_ACCESS, guest.domid, page, True)
                return record.domid, record.ref
    return None
