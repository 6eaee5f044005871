"""Shorter attacks by steps that take the place of a run of steps of an attack.

What the rest of the attack needs from a run is found by replay: its changes are taken back, one state function at a
time. A step that assigns all of that is a substitute. Whether the rest can then be taken, perhaps with other arguments
and from another initial state, is decided by Z3 in the same world. Not here: steps that can just be left out (`attack.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from bulkhead.model.executable import ExecutableModel
from bulkhead.model.ir import Claim, Lit, System
from bulkhead.model.trace import Event, Trace, replay
from bulkhead.model.world import State
from bulkhead.proofs.theorems.bmc import Search
from bulkhead.proofs.theorems.grounding import Grounding

PLANS = 40  # tried for one attack; a long one has hundreds
Fact = tuple[str, str | None]  # a state function, and the value that a step assigns; None if that is not a literal


def violation_after(
    system: System, claim: Claim, machine: ExecutableModel, state: State, events: Sequence[Event]
) -> int | None:
    """The number of events after which a claim is false, from a state on; None if one is not enabled, or it stays true."""
    state = [list(table) for table in state]
    two_state = claim.kind == "transition"
    holds = machine.compiled_claim(claim.body, two_state)  # once, because it takes longer to look up than to ask
    if not two_state and not holds(state):
        return 0
    for n, event in enumerate(events, 1):
        before = [list(table) for table in state] if two_state else state
        if not machine.fire(state, event.label, event.args):
            return None
        if not (holds(before, state, bool(machine.transitions[event.label].code)) if two_state else holds(state)):
            return n
    return None


@dataclass(frozen=True)
class Plan:
    """An attack that may be possible: for each of its steps the labels to choose from."""

    labels: tuple[frozenset[str], ...]


def plans(system: System, claim: Claim, trace: Trace) -> list[Plan]:
    """Attacks with one step in the place of a run of two or more, shortest first."""
    machine = ExecutableModel(system, trace.world)
    two_state = claim.kind == "transition"
    facts: dict[str, set[Fact]] = {}
    for step in system.steps:
        for t in step.outcomes() if two_state else step.transitions():
            facts[t.label] = {(u.func, u.value.name if isinstance(u.value, Lit) else None) for u in t.updates}
    begins_open = _open_at_first(system, trace)
    found: dict[Plan, None] = {}
    for events in _reordered(system, claim, machine, trace):
        states = replay(replace(trace, events=events), machine)
        for end in range(2, len(events) + (not two_state)):  # the last step of an attack on a step is the attack
            for begin in range(end - 1):
                needed = _needed(system, claim, machine, states[begin], states[end], events[end:])
                run = [facts[e.label] for e in events[begin:end]]
                wanted = [_last_values(run, func) for func in needed if func not in begins_open]
                fit = frozenset(label for label, made in facts.items() if made and all(_gives(made, w) for w in wanted))
                if wanted and fit:
                    before, after = ([frozenset([e.label]) for e in some] for some in (events[:begin], events[end:]))
                    found[Plan((*before, fit, *after))] = None
    return sorted(found, key=lambda plan: len(plan.labels))


def shorter_by_substitutes(
    system: System, claim: Claim, trace: Trace, limit: float, effort: int
) -> tuple[Trace | None, str]:
    """A shorter attack with one step in the place of a run of steps, from any initial state of the same world.

    `effort` bounds each query by Z3's resource limit, and at most `PLANS` are tried. None if there is none, or if it was
    not found: the text then says what was left open.
    """
    every_plan = [plan for plan in plans(system, claim, trace) if len(plan.labels) > trace.excluded]
    given_up = 0
    for plan in every_plan[:PLANS]:
        search = Search(system, claim, dict(trace.world.sizes), limit)
        every = search.transitions
        for labels in plan.labels:
            search.transitions = [t for t in every if t.label in labels]
            search.deepen()
        search.effort(effort)
        answer = search.answer(claim)
        if answer == "sat":
            return search.decode(trace.faults), ""
        given_up += answer != "unsat"
    left = given_up + max(0, len(every_plan) - PLANS)
    return (
        None,
        f"{left} of {len(every_plan)} ways to put one step in the place of several were left undecided" if left else "",
    )


def _open_at_first(system: System, trace: Trace) -> frozenset[str]:
    """State functions that initial formulas leave open somewhere: what a step gives may be there at first."""
    grounding = Grounding(system, trace.world)
    grounding.require([c.body for c in (*system.inits, *system.axioms)])
    tables = zip(system.funcs, grounding.cells, strict=True)
    return frozenset(name for name, cells in tables if any(len(cell) > 1 for cell in cells))


def _reordered(system: System, claim: Claim, machine: ExecutableModel, trace: Trace) -> Iterator[tuple[Event, ...]]:
    """The events, and the same with one of them moved to a later place where that is still the attack."""
    yield trace.events
    for k, event in enumerate(trace.events[:-2]):
        left = trace.events[:k] + trace.events[k + 1 :]
        for place in range(len(left) - 1, k, -1):  # as late as possible
            moved = (*left[:place], event, *left[place:])
            if violation_after(system, claim, machine, trace.initial, moved) == len(moved):
                yield moved
                break


def _needed(
    system: System, claim: Claim, machine: ExecutableModel, before: State, after: State, rest: Sequence[Event]
) -> list[str]:
    """The state functions without whose change the rest is no attack any more."""
    out = []
    for k, func in enumerate(system.funcs):
        if before[k] != after[k]:
            taken_back = [*after[:k], before[k], *after[k + 1 :]]
            if violation_after(system, claim, machine, taken_back, rest) is None:
                out.append(func)
    return out


def _last_values(run: Sequence[set[Fact]], func: str) -> set[Fact]:
    """What the last step of a run that assigns a state function assigns to it."""
    return next(some for made in reversed(run) if (some := {f for f in made if f[0] == func}))


def _gives(made: set[Fact], wanted: set[Fact]) -> bool:
    """May a step assign one of these values?"""
    return any(f == g and (v == w or v is None or w is None) for f, v in made for g, w in wanted)


__all__ = ["shorter_by_substitutes", "violation_after"]
