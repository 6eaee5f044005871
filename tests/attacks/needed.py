"""Which steps an attack does without: runs of steps that can be left out while the rest is still an attack.

The rest is fired on the executable model, from the attack's own first state. Not here: attacks that have the same end by
other steps.
"""

from __future__ import annotations

from bulkhead.model.executable import ExecutableModel
from bulkhead.model.ir import Claim, System
from bulkhead.model.trace import Event, Trace


def attacks(claim: Claim, machine: ExecutableModel, trace: Trace, events: tuple[Event, ...]) -> bool:
    """Can the events be fired from the first state of a trace, and is the claim false at some time?"""
    state = [list(table) for table in trace.initial]
    broken = claim.kind != "transition" and not machine.holds(state, claim.body)
    for event in events:
        before = [list(table) for table in state]
        if not machine.fire(state, event.label, event.args):
            return False
        if claim.kind == "transition":
            broken |= not machine.holds_between(before, state, claim.body, bool(machine.transitions[event.label].code))
        else:
            broken |= not machine.holds(state, claim.body)
    return broken


def needless(system: System, trace: Trace) -> list[tuple[int, int]]:
    """The runs of steps without which the rest is still an attack: the numbers of their first and last steps."""
    machine, claim, events = ExecutableModel(system, trace.world), system.claims()[trace.claim], trace.events
    assert attacks(claim, machine, trace, events)
    runs = [(begin, end) for begin in range(len(events)) for end in range(begin + 1, len(events) + 1)]
    return [(b + 1, e) for b, e in runs if attacks(claim, machine, trace, events[:b] + events[e:])]


__all__ = ["attacks", "needless"]
