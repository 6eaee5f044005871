"""Makes the calls of DomB's campaigns on a machine, and has both sides compared after each, or after every few.

Not here: how each call is made (operations.py, guests.py), and the machine (machine.py).
"""

from __future__ import annotations

from pathlib import Path

from bulkhead.proofs.refinement.calls import NOT_DONE, Answer, Call
from bulkhead.proofs.refinement.domb.guest_library import LIBRARY
from bulkhead.proofs.refinement.domb.guest_memory import MEMORY
from bulkhead.proofs.refinement.domb.guests import ACTIONS, Guests
from bulkhead.proofs.refinement.domb.machine import Machine
from bulkhead.proofs.refinement.domb.operations import OF_DAEMONS, OF_DOMB_ITSELF, OF_NOBODY, OF_PROCESSES
from bulkhead.proofs.refinement.domb.world import DOMB, Rules
from bulkhead.proofs.refinement.lockstep.rule_steps import Log


class DombTarget(Machine):
    """The machine as a target of calls. A call's caller is `p7`, the process of Dom0 with space 7 (also a daemon); `d1`,
    which is DomB; `d3`, a guest; or nobody."""

    def __init__(
        self,
        rules: Rules,
        seed: int,
        root: Path,
        rules_on: bool = True,
        log: Log | None = None,
        compare_every: int = 1,
    ) -> None:
        super().__init__(rules, seed, root, rules_on, log, compare_every=compare_every)
        self.guests = Guests(self.rig, self.book, self.ear)

    def carry_out(self, call: Call) -> Answer:
        """Make a call; both sides may be compared if none is in progress."""
        outer, inner = self.ear.who, call.operation not in ("use_tool", "builds_again")
        self.inside += inner
        answer = self._made(call)
        self.inside -= inner
        self.ear.who = outer
        if not self.inside and call.operation != "moment":
            self.compare()
        return answer

    def _made(self, call: Call) -> Answer:
        operation, by = call.operation, call.by
        if not by:
            return OF_NOBODY[operation](self, call.arguments)
        number = int(by[1:])
        if by[0] == "d":
            if number == DOMB:
                return OF_DOMB_ITSELF[operation](self, call.arguments)
            who = next((guest for guest in self.guests.running() if guest.domid == number), None)
            made = MEMORY.get(operation)
            if who is None or (made is not None and self.inside > 1):
                return NOT_DONE  # by the rules, a hypercall of a guest's memory is not in the midst of a step of DomB
            return (made or LIBRARY.get(operation) or ACTIONS[operation])(self.guests, who, call.arguments)
        if self.daemons is not None and self.daemons.of(number) is not None:
            serves = OF_DAEMONS.get(operation)
            return NOT_DONE if serves is None or self.inside > 1 else serves(self, self.daemons, number)
        if self.users.of(number) is not None:
            return NOT_DONE if self.inside > 1 and operation != "store" else self.users.carry_out(call)
        process = self.processes.get(number)
        if process is None or (process.busy and operation not in ("kill", "poke")) or operation not in OF_PROCESSES:
            return NOT_DONE
        self.ear.who = number
        return OF_PROCESSES[operation](self, process, call.arguments)


__all__ = ["DombTarget"]
