"""What a workload may see of the machine that it drives: all of it, and none of the rules' state.

Hostile workloads aim: they name pages, handles, ports and offers that are there, also those of others, which no caller could
know; and they keep within what the rules have (README: not in the rules). They look at the implementation through this
class, and change nothing by it: all that happens they say as calls to a target. So a recording of these calls needs no view,
and can be made on any target. Of the comparison a workload sees one thing: where the rules have seen a step fail before the
implementation does, nobody may come in between (`CallInFlight.must_finish_first`).
"""

from __future__ import annotations

from bulkhead.impl.xen.domains import Domain
from bulkhead.proofs.refinement.dom0.kernel import Dom0
from bulkhead.proofs.refinement.dom0.state import MapRecord, Opened, Proc, SharedPage
from bulkhead.proofs.refinement.lockstep.call import CallInFlight
from bulkhead.proofs.refinement.lockstep.lockstep import Lockstep
from bulkhead.proofs.refinement.lockstep.spec_world import Size
from bulkhead.proofs.refinement.lockstep.testbed import Guest


class View:
    """One machine, to be looked at."""

    def __init__(self, lockstep: Lockstep, dom0: Dom0) -> None:
        self._lockstep = lockstep
        self.dom0 = dom0
        self.size: Size = lockstep.spec_state.size  # numbers of the world: references, ports, frames of the heap
        self.first_mfn = lockstep.rig.first_mfn
        self.domains: dict[int, Domain] = lockstep.rig.xen.domains
        self.guests: dict[int, Guest] = lockstep.rig.guests
        self.processes: dict[int, Proc] = dom0.procs

    @property
    def calls(self) -> int:
        """How many calls have been made."""
        return self._lockstep.calls

    @property
    def flights(self) -> list[CallInFlight]:
        """Calls in flight: where each yielded, and which entries it is about to change."""
        return self._lockstep.flights

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
        """Pages that gntalloc gave out."""
        return self.dom0.pages

    def bound_ports(self) -> list[int]:
        """Ports of Dom0 that processes have bound."""
        return list(self.dom0.kernel.evtchn_users)

    def held_ports(self) -> list[int]:
        """Ports of Dom0 that files or notices hold."""
        return list(self.dom0.kernel.evtchn_holds)

    def free_frames(self) -> int:
        """Frames that the hypervisor could give out."""
        return self._lockstep.rig.xen.frames.free_count

    def special(self, mfn: int) -> bool:
        """Is this a page of the hypervisor's own heap? The rules know no grants of these."""
        return self._lockstep.rig.special(mfn)

    def changing(self, domid: int, ref: int) -> bool:
        """Is a call just changing this grant entry?"""
        key = (domid, self._lockstep.spec_state.ref(ref))
        return key in self._lockstep.locked or any(key in f.moving for f in self._lockstep.flights)
