"""A workload's read-only view of its machine: the complete implementation, but not the rules' state.

Hostile workloads choose existing pages, handles, ports and offers, also those of others, which no caller could
know; and they stay within the scope of the rules (README: not in the rules). They read the implementation through this
class; all their actions are calls to a target. So a recording of these calls needs no view,
and can be replayed on any target. The view shows two facts of the comparison: if a step has failed in the rules but not yet
in the implementation, no other action may come between (`CallInFlight.must_finish_first`); and an id is not reused before it
is free in the rules, too.
"""

from __future__ import annotations

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.domains import Domain
from bulkhead.proofs.refinement.dom0.kernel import Dom0
from bulkhead.proofs.refinement.dom0.state import MapRecord, Opened, Proc, SharedPage
from bulkhead.proofs.refinement.lockstep.call import CallInFlight
from bulkhead.proofs.refinement.lockstep.flights import Flights
from bulkhead.proofs.refinement.lockstep.lockstep import Lockstep
from bulkhead.proofs.refinement.lockstep.spec_world import Size
from bulkhead.proofs.refinement.lockstep.testbed import Guest


class ProcessView:
    """What the workload of Dom0's processes sees of a machine: also that of DomB's campaign."""

    def __init__(self, lockstep: Flights, dom0: Dom0) -> None:
        self._flights = lockstep
        self.dom0 = dom0
        self.size: Size = lockstep.spec_state.size  # numbers of the world: references, ports, frames of the heap
        self.first_mfn = lockstep.rig.first_mfn
        self.domains: dict[int, Domain] = lockstep.rig.xen.domains
        self.processes: dict[int, Proc] = dom0.procs
        self.guests: dict[int, Guest] = {}  # those of `monolithic`; DomB's are others

    def granters(self) -> list[tuple[int, Domain]]:
        """Domains whose grants Dom0's processes look for."""
        return [(domid, domain) for domid, domain in self.domains.items() if 0 < domid < self.size.nobody]

    @property
    def files(self) -> list[Opened]:
        """Files of Dom0's processes that are open."""
        return self.dom0.files

    @property
    def maps(self) -> list[MapRecord]:
        """Maps of gntdev that are listed or mapped."""
        return self.dom0.records

    @property
    def shared_pages(self) -> list[SharedPage]:
        """Pages allocated by gntalloc."""
        return self.dom0.pages

    def bound_ports(self) -> list[int]:
        """Ports of Dom0 that processes have bound."""
        return list(self.dom0.kernel.evtchn_users)

    def held_ports(self) -> list[int]:
        """Ports of Dom0 with references by files or notices."""
        return list(self.dom0.kernel.evtchn_holds)

    def free_frames(self) -> int:
        """Free frames of the hypervisor."""
        return self._flights.rig.xen.frames.free_count

    def special(self, mfn: int) -> bool:
        """Is this a page of the hypervisor's own heap, or one shared with a domain?"""
        return self._flights.rig.special(mfn)

    def own_page(self, domain: Domain, number: int) -> bool:
        """Does a number name, for its domain, a page of its own that is no page of the hypervisor's heap?"""
        frame = self._flights.rig.xen.frames.get(number) if domain.p2m is None else domain.p2m.own(number, domain)
        return frame is not None and frame.owner is domain and frame.allocated and not frame.xenheap

    def names_special(self, domain: Domain, ref: int) -> bool:
        """Does a guest's entry, or the one behind a transitive one, name a page of the hypervisor's own heap?"""
        table = domain.grant_table
        if domain.domid == 0 or ref >= table.nr_entries:
            return False
        if self._names_special(domain, ref):
            return True
        if table.version == 1:
            return False
        flags, _, dom, _, low = table.entry_v2(ref)
        granter, behind = self.domains.get(dom), low & 0xFFFFFFFF
        if flags & abi.GTF_TYPE_MASK != abi.GTF_TRANSITIVE or granter is None or granter.domid == 0:
            return False
        if behind >= granter.grant_table.nr_entries:
            return False
        return self._names_special(granter, behind)

    def _names_special(self, domain: Domain, ref: int) -> bool:
        """Is what an entry names, or what is in use for it, a page of the hypervisor's own heap?"""
        pinned, number = domain.grant_table.active[ref].frame, domain.grant_table.frame_field(ref)
        if pinned is not None and pinned.xenheap:
            return True
        if domain.p2m is None:
            return self.special(number)
        found = domain.p2m.lookup(number)[0]
        return found is not None and found.xenheap


class View(ProcessView):
    """A view of one machine."""

    def __init__(self, lockstep: Lockstep, dom0: Dom0) -> None:
        super().__init__(lockstep, dom0)
        self._lockstep = lockstep
        self.guests = lockstep.rig.guests

    def granters(self) -> list[tuple[int, Domain]]:
        return [(domid, guest.domain) for domid, guest in self.guests.items()]

    @property
    def calls(self) -> int:
        """The number of calls made."""
        return self._lockstep.calls

    @property
    def flights(self) -> list[CallInFlight]:
        """Calls in flight: the marker of each, and the entries that it is changing."""
        return self._lockstep.flights

    def id_is_held(self, domid: int) -> bool:
        """Is an id not yet free by the rules, as a TLB still holds something of its last owner's?"""
        return self._lockstep.id_is_held(domid)

    def changing(self, domid: int, ref: int) -> bool:
        """Is a call changing this grant entry now?"""
        key = (domid, self._lockstep.spec_state.ref(ref))
        return key in self._lockstep.locked or any(key in f.moving for f in self._lockstep.flights)
