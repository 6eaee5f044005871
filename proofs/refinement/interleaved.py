"""A machine whose calls stay in flight after their first step: the implementation, in lockstep with the rules or alone.

It looks up calls in the tables of operations: guests' hypercalls, the toolstack's, and those of Dom0's processes;
a few operations are its own (`OWN`): advancing a call in flight, comparing both sides. Not here: which
call comes next (workload/, or a recording), and targets that bring each call to its end at once (targets.py).
"""

from __future__ import annotations

from collections.abc import Callable

from bulkhead.model.caller import OKAY
from bulkhead.proofs.refinement.calls import IN_FLIGHT, NOT_DONE, TOOLSTACK, Answer, Call
from bulkhead.proofs.refinement.dom0 import operations as dom0
from bulkhead.proofs.refinement.dom0.kernel import Dom0
from bulkhead.proofs.refinement.lockstep.at_once import AT_ONCE, begin_destroy
from bulkhead.proofs.refinement.lockstep.call import CallInFlight
from bulkhead.proofs.refinement.lockstep.lockstep import Lockstep
from bulkhead.proofs.refinement.lockstep.operations import OPERATIONS, answer, start
from bulkhead.proofs.refinement.lockstep.spec_world import NOBODY
from bulkhead.proofs.refinement.view import View


class Interleaved:
    """One machine. Raises Mismatch if rules and implementation differ. `meanwhile` supplies the actions while a call of
    Dom0's kernel is in flight, and completes it."""

    def __init__(self, lockstep: Lockstep) -> None:
        self.lockstep = lockstep
        self.dom0 = Dom0(lockstep, lambda own: self.meanwhile(own))
        self.view = View(lockstep, self.dom0)
        self.meanwhile: Callable[[CallInFlight], None] = self._alone

    def carry_out(self, call: Call) -> Answer:
        """Start a call; a call of one step completes at once."""
        operation = call.operation
        if call.by.startswith("d") and call.by != TOOLSTACK and call.caller()[0] not in self.lockstep.rig.guests:
            return NOT_DONE  # there is no such guest
        if operation in OPERATIONS:
            return self._advance(start(self.lockstep, call))
        own = OWN.get(operation)
        if own is not None:
            return own(self, call)
        at_once = AT_ONCE.get(operation)
        return dom0.carry_out(self.dom0, call) if at_once is None else at_once(self.lockstep, call)

    def _advance(self, f: CallInFlight) -> Answer:
        return answer(self.lockstep, f) if self.lockstep.advance(f) else IN_FLIGHT

    def _alone(self, own: CallInFlight) -> None:
        """No actions meanwhile."""
        while own in self.lockstep.flights:
            self.lockstep.advance(own)

    # Own operations.

    def advance(self, call: Call) -> Answer:
        """Advance a call in flight by a step: {call} is its number."""
        f = next((f for f in self.lockstep.flights if f.number == call.arguments["call"]), None)
        return NOT_DONE if f is None else self._advance(f)

    def destroy(self, call: Call) -> Answer:
        """The toolstack starts to destroy a domain: {domid}."""
        return self._advance(begin_destroy(self.lockstep, call))

    def flush_all(self, call: Call) -> Answer:
        """All guests flush their TLBs."""
        self.lockstep.flush_all()
        return Answer(OKAY)

    def sync(self, call: Call) -> Answer:
        """Follow the kernel's own actions, and compare the rings of its files."""
        self.dom0.sync()
        self.dom0.compare_rings()
        return Answer(OKAY)

    def compare(self, call: Call) -> Answer:
        """The end of a process's move: compare both sides."""
        self.lockstep.calls += 1
        self.lockstep.steps += 1
        if self.lockstep.rules_on:
            self.lockstep.settle()
            self.lockstep.check()
        return Answer(OKAY)

    def deny(self, call: Call) -> Answer:
        """The policy forbids sharing between two domain ids, in one direction: {source, dest}. Only at the start."""
        a, c = call.arguments["source"], call.arguments["dest"]
        self.lockstep.rig.policy.denied.add((a, c))
        self.lockstep.spec_state.deny(a * (NOBODY + 1) + c)
        return Answer(OKAY)

    def end(self, call: Call) -> Answer:
        """Leak check after all guests and processes have ended."""
        self.dom0.check_end()
        if self.lockstep.rules_on:
            self.lockstep.settle()
            self.lockstep.compare_all()
            self.lockstep.check_claims()
        self.lockstep.check_end()
        return Answer(OKAY)


OWN: dict[str, Callable[[Interleaved, Call], Answer]] = {
    "advance": Interleaved.advance,
    "destroydomain": Interleaved.destroy,
    "flush_all": Interleaved.flush_all,
    "sync": Interleaved.sync,
    "compare": Interleaved.compare,
    "deny": Interleaved.deny,
    "end": Interleaved.end,
}
