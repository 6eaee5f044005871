"""Makes a found attack short, small and certain: what is shown is an attack without a step that it does without.

Unneeded steps are removed, a search of all calls and of the attack's own looks for a shorter one in worlds like the
attack's, the world is reduced while the attack remains, and the attack counts only if the executable model replays it. Not
here: how attacks are found (`attack.py`).
"""

from __future__ import annotations

from dataclasses import replace

from bulkhead.model.executable import ExecutableModel
from bulkhead.model.ir import Claim, System
from bulkhead.model.trace import Event, Trace, TraceError, replay, start_breaks
from bulkhead.model.world import State
from bulkhead.proofs.theorems.bounded import PATIENCE, QUICK, shorter_by_calls
from bulkhead.proofs.theorems.directed_search import Path
from bulkhead.proofs.theorems.least_world import grown
from bulkhead.proofs.theorems.scope import first_scope
from bulkhead.proofs.theorems.small_worlds import in_smaller_worlds
from bulkhead.proofs.theorems.solvers import SolverError
from bulkhead.proofs.theorems.substitutes import shorter_by_substitutes, violation_after
from bulkhead.proofs.theorems.unrolling import Unrolling

BRANCHES = 12  # steps: more have too many runs that another step may take the place of


def believed(system: System, trace: Trace, limit: float, all_seen: bool) -> Trace:
    """The attack in its smallest world, without a step that it does without, replayed.

    `all_seen` says that it is a shortest one of a world whose states were all looked at. The attack's `note` says which of
    the attempts to make it shorter did not come to an end.
    """
    claim, faults = system.stated()[trace.claim], trace.faults
    if all_seen:
        small = _emptied(system, claim, in_smaller_worlds(system, claim, trace))
    else:
        less: Trace | None = trace
        while less is not None:
            small = _small(system, claim, replace(less, faults=faults), limit)
            less, excluded, note = _shorter(system, claim, small, limit)
            small = replace(small, excluded=max(small.excluded, excluded), note=note)
            less = None if less is None else replace(less, excluded=small.excluded)
    small = replace(small, faults=faults, excluded=min(small.excluded, len(small.events) - 1))
    confirm(system, claim, small)
    return small


def _small(system: System, claim: Claim, trace: Trace, limit: float) -> Trace:
    """The attack in its smallest world, without needless steps: fewer calls may do with a smaller world."""
    while True:
        small = without_needless_steps(system, claim, in_smallest_world(system, claim, trace, limit))
        small = replace(small, excluded=trace.excluded, faults=trace.faults)
        if len(small.events) == len(trace.events):
            return small
        trace = small


def _shorter(system: System, claim: Claim, trace: Trace, limit: float) -> tuple[Trace | None, int, str]:
    """A shorter attack, if one is found; the number of steps up to which there is none in the attack's own world; and which
    of the attempts did not come to an end.

    By its own calls first, which takes little, also in a world that has more; then by all calls; and if the effort for that
    does not suffice, by one step in the place of several.
    """
    excluded, most, notes = trace.excluded, len(trace.events) - 1, list[str]()
    if most <= excluded:
        return None, excluded, ""
    own = trace.world.sizes
    wider = {s: max(n, own.get(s, 1)) for s, n in grown(system, first_scope(system)).items()}
    for sizes, conflicts, same in ((own, QUICK, True), (wider, PATIENCE, True), (own, PATIENCE, False)):
        less, none_of = shorter_by_calls(system, claim, trace, dict(sizes), limit, conflicts, same)
        if less is not None:
            return less, excluded if same else max(excluded, none_of), ""
        if none_of < most:
            notes.append(
                f"the search for a shorter one by {'the same' if same else 'all'} calls stopped at {none_of + 1} steps"
            )
        if not same:
            excluded = max(excluded, none_of)
    if most > excluded and len(trace.events) <= BRANCHES:
        less, note = shorter_by_substitutes(system, claim, trace, limit, QUICK)
        return less, excluded, "; ".join(dict.fromkeys([note, *notes] if note else notes))
    return None, excluded, "; ".join(dict.fromkeys(notes)) if most > excluded else ""


def _emptied(system: System, claim: Claim, trace: Trace) -> Trace:
    """The attack from a first state as empty as can be: places have the first value of their sort where that does."""
    machine = ExecutableModel(system, trace.world)

    def attacks(initial: State) -> bool:
        if start_breaks(machine, initial) is not None:
            return False
        again = replace(trace, initial=initial)
        try:
            return violated(system, claim, machine, again, replay(again, machine)) == len(trace.events)
        except TraceError:
            return False

    state = [list(table) for table in trace.initial]
    for k, table in enumerate(state):
        if any(table):
            state[k] = [0] * len(table)
            if not attacks(state):
                state[k] = table
                for i, value in enumerate(table):
                    if value:
                        table[i] = 0
                        if not attacks(state):
                            table[i] = value
    return replace(trace, initial=state)


def without_needless_steps(system: System, claim: Claim, trace: Trace) -> Trace:
    """The trace without unneeded runs of steps, and without the steps after the violation."""
    machine = ExecutableModel(system, trace.world)

    def cut(events: tuple[Event, ...]) -> tuple[Event, ...] | None:
        """The events up to the violation; None if one is not enabled, or nothing is violated."""
        end = violation_after(system, claim, machine, trace.initial, events)
        return None if end is None else events[:end]

    events = cut(trace.events) or trace.events
    size = len(events) - 1
    while size > 0:
        shorter_ones = (cut(events[:k] + events[k + size :]) for k in range(len(events) - size + 1))
        fewer = next((some for some in shorter_ones if some is not None), None)
        events, size = (events, size - 1) if fewer is None else (fewer, min(size, len(fewer) - 1))
    return replace(trace, events=events)


def shortened(system: System, claim: Claim, machine: ExecutableModel, path: Path) -> Trace:
    """A path of the directed search as a trace, without the steps that it does without."""
    names = {label: [p.name for p in t.params] for label, t in machine.transitions.items()}
    events = tuple(Event(label, dict(zip(names[label], args, strict=True))) for label, args in path.steps())
    return without_needless_steps(system, claim, Trace(system.name, (), claim.name, machine.world, path.start(), events))


def by_labels(system: System, claim: Claim, labels: list[str], sizes: dict[str, int], limit: float) -> Unrolling | None:
    """A solver session with an attack by just these outcomes, one after the other, in a world; None if none is found."""
    session = Unrolling(system, claim.kind == "transition", sizes, limit)
    session.effort(PATIENCE)
    every = session.transitions
    for label in labels:
        session.transitions = [t for t in every if t.label == label]
        session.deepen()
    return session if session.answer([claim]) == "sat" else None  # `unknown`: do not assume that this world suffices


def in_smallest_world(system: System, claim: Claim, trace: Trace, limit: float) -> Trace:
    """The attack, by the same calls, in a world where no sort can be smaller, from a state as empty as possible."""
    sizes = trace.world.sizes
    labels = [e.label for e in trace.events]
    machine = ExecutableModel(system, trace.world)
    sorts = {label: {p.name: p.sort for p in t.params} for label, t in machine.transitions.items()}
    named: dict[str, set[int]] = {}  # the elements of each sort that the attack and the rules name
    for const, sort in system.consts.items():
        if sort in sizes:
            named.setdefault(sort, set()).add(trace.world.consts[const])
    for event in trace.events:
        for name, element in event.args.items():
            named.setdefault(sorts[event.label][name], set()).add(element)
    found = None
    for guess in (
        dict.fromkeys(sizes, 1),
        {s: len(named.get(s, "1")) for s in sizes},
        {s: n if s in named else 1 for s, n in sizes.items()},
        dict(sizes),
    ):
        found = found or by_labels(system, claim, labels, guess, limit)
    if found is None:
        return trace
    for sort in sorted(sizes):
        while found.sizes[sort] > 1:
            smaller = by_labels(system, claim, labels, {**found.sizes, sort: found.sizes[sort] - 1}, limit)
            if smaller is None:
                break
            found = smaller
    found.tighten()
    return found.decode((), claim.name)


def confirm(system: System, claim: Claim, trace: Trace) -> None:
    """Replay a trace on the executable model: every step fires, and the claim is false only at the end."""
    machine = ExecutableModel(system, trace.world)
    states = replay(trace, machine)
    wrong = start_breaks(machine, states[0])
    if wrong is not None:
        raise SolverError(f"the solver's initial state does not satisfy {wrong.name} on the executable model")
    if violated(system, claim, machine, trace, states) is None:
        raise SolverError(f"the executable model does not confirm the attack on `{claim.name}`")


def violated(system: System, claim: Claim, machine: ExecutableModel, trace: Trace, states: list[State]) -> int | None:
    """The number of steps of a trace after which the claim is first false; None if it always holds."""
    for n, state in enumerate(states):
        if claim.kind != "transition":
            if not machine.holds(state, claim.body):
                return n
        elif n and not machine.holds_between(
            states[n - 1], state, claim.body, bool(machine.transitions[trace.events[n - 1].label].code)
        ):
            return n
    return None


__all__ = ["believed", "by_labels", "confirm", "in_smallest_world", "shortened", "violated", "without_needless_steps"]
