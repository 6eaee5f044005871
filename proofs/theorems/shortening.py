"""Makes a found attack short, small and certain: what is shown is an attack without a step that it does without.

The world is reduced while the attack remains, unneeded steps are removed, one step takes the place of several where it
does their work (`substitutes.py`), and the attack counts only if the executable model replays it. Not here: how attacks
are found (`attack.py`).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace

from bulkhead.model.executable import ExecutableModel
from bulkhead.model.ir import Claim, System
from bulkhead.model.trace import Event, Trace, TraceError, replay, start_breaks
from bulkhead.model.world import State, World, size_of
from bulkhead.proofs.theorems.bmc import EFFORT, Search
from bulkhead.proofs.theorems.directed_search import Path
from bulkhead.proofs.theorems.explore import shorter
from bulkhead.proofs.theorems.least_world import grown
from bulkhead.proofs.theorems.scope import first_scope
from bulkhead.proofs.theorems.small_worlds import in_smaller_worlds
from bulkhead.proofs.theorems.solvers import SolverError
from bulkhead.proofs.theorems.substitutes import shorter_by_substitutes, violation_after

PATIENCE = 20_000_000  # Z3's resource limit for one query, some seconds; it is deterministic
SHORTENING = PATIENCE // 2  # the same for each query that shortens a long attack
LONG = 12  # steps: a longer attack is made small by replay, and has no substitutes, because a solver takes too long
AGAIN = 1_000_000  # steps, and choices, of one search for a shorter attack by the same calls; most need much less


def believed(system: System, trace: Trace, limit: float, all_seen: bool) -> Trace:
    """The attack in its smallest world, without a step that it does without, replayed.

    `all_seen` says that it is a shortest one of a world whose states were all looked at. The attack's `note` says which of
    the attempts to make it shorter did not come to an end.
    """
    claim, faults = system.stated()[trace.claim], trace.faults
    notes = [trace.note]
    if all_seen:
        small = _emptied(system, claim, in_smaller_worlds(system, claim, trace))
    else:
        while True:
            if len(trace.events) > LONG:
                trace = _emptied(system, claim, _without_idle_elements(system, claim, trace))
                small = without_needless_steps(system, claim, trace)
            else:
                small = without_needless_steps(system, claim, in_smallest_world(system, claim, trace, limit))
            if len(small.events) == len(trace.events):
                break
            trace = replace(small, excluded=trace.excluded)  # fewer calls may do with a smaller world
        if len(small.events) - 1 > trace.excluded:
            less = None
            if len(small.events) > LONG:
                notes.append(f"of attacks by other calls none was tried, as it has more than {LONG} steps")
            elif len(small.events) - 1 > trace.excluded + 1:
                less, note = shorter_by_substitutes(system, claim, small, limit, SHORTENING)
                notes.append(note)
            if less is None:
                less, stopped = shorter(system, small, claim, AGAIN if len(small.events) <= LONG else AGAIN // 10)
                notes.append(stopped and f"the search for a shorter one by the same calls stopped {stopped}")
            if less is not None:
                return believed(system, replace(less, faults=faults, excluded=trace.excluded), limit, False)
    small = replace(small, note="; ".join(dict.fromkeys(note for note in notes if note)))
    small = replace(small, faults=faults, excluded=min(trace.excluded, len(small.events) - 1))
    confirm(system, claim, small)
    return small


def _without_idle_elements(system: System, claim: Claim, trace: Trace) -> Trace:
    """The attack in a world without the elements that it does without: others keep their places, and nothing else changes.

    It is found by replay, where a solver would have to find the whole attack anew.
    """
    machine = ExecutableModel(system, trace.world)
    sorts = {e.label: {p.name: p.sort for p in machine.transitions[e.label].params} for e in trace.events}
    for sort in trace.world.sizes:
        for element in reversed(range(trace.world.sizes[sort])):
            less = _without(system, trace, sorts, sort, element)
            if less is not None:
                machine = ExecutableModel(system, less.world)
                same = all(e.args.keys() == {p.name for p in machine.transitions[e.label].params} for e in less.events)
                starts = same and start_breaks(machine, less.initial) is None
                if starts and violation_after(system, claim, machine, less.initial, less.events) == len(less.events):
                    trace = less
    return trace


def _without(system: System, trace: Trace, sorts: Mapping[str, Mapping[str, str]], sort: str, element: int) -> Trace | None:
    """The trace with an element taken out of its world; None if a constant or a step is about it, or if it is the last."""
    world = trace.world
    constants = [c for c, s in system.consts.items() if s == sort]
    told = {world.consts[c] for c in constants}
    told |= {v for e in trace.events for n, v in e.args.items() if sorts[e.label][n] == sort}
    if element in told or world.sizes[sort] == 1:
        return None

    def moved(value: int, of: str) -> int:
        return 0 if of == sort and value == element else value - (of == sort and value > element)

    smaller = World(
        {**world.sizes, sort: world.sizes[sort] - 1}, {c: moved(v, system.consts[c]) for c, v in world.consts.items()}
    )
    state = []
    for func, table in zip(system.funcs.values(), trace.initial, strict=True):
        places = itertools.product(*(range(size_of(system, world, a)) for a in func.args))
        kept = [
            moved(value, func.sort)
            for place, value in zip(places, table, strict=True)
            if not any(a == sort and at == element for a, at in zip(func.args, place, strict=True))
        ]
        state.append(kept)
    events = tuple(Event(e.label, {n: moved(v, sorts[e.label][n]) for n, v in e.args.items()}) for e in trace.events)
    return replace(trace, world=smaller, initial=state, events=events)


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


def shortened(system: System, claim: Claim, machine: ExecutableModel, path: Path, limit: float, excluded: int) -> Trace:
    names = {label: [p.name for p in t.params] for label, t in machine.transitions.items()}
    events = tuple(Event(label, dict(zip(names[label], args, strict=True))) for label, args in path.steps())
    trace = without_needless_steps(system, claim, Trace(system.name, (), claim.name, machine.world, path.start(), events))
    return _by_the_same_calls(system, claim, trace, limit, excluded)


def _by_the_same_calls(system: System, claim: Claim, trace: Trace, limit: float, excluded: int) -> Trace:
    """A shorter attack by the calls of a trace, from any initial state of the default world, with over `excluded` steps.

    The trace itself if there is none; its `note` says where the solver gave up.
    """
    search = Search(system, claim, grown(system, first_scope(system)), limit)
    used = {e.label for e in trace.events}
    search.transitions = [t for t in search.transitions if t.label in used]
    search.effort(SHORTENING)
    try:
        while search.depth <= excluded or not search.violated():
            if search.depth >= len(trace.events) - 1:
                return trace
            search.deepen()
        return search.decode(())
    except SolverError:  # too hard: keep the attack found so far
        where = f"at {search.depth} steps, from other initial states"
        return replace(trace, note=f"the solver gave up the search for a shorter one by the same calls {where}")


def in_smallest_world(system: System, claim: Claim, trace: Trace, limit: float) -> Trace:
    """The attack, by the same calls, in a world where no sort can be smaller, from a state as empty as possible."""
    sizes = trace.world.sizes
    labels = [e.label for e in trace.events]

    def attempt(smaller: dict[str, int]) -> Search | None:
        again = Search(system, claim, smaller, limit)
        every = again.transitions
        for label in labels:
            again.transitions = [t for t in every if t.label == label]
            again.deepen()
        again.effort(PATIENCE)
        return again if again.answer(claim) == "sat" else None  # `unknown`: do not assume that a smaller world suffices

    machine = ExecutableModel(system, trace.world)
    sorts = {label: {p.name: p.sort for p in t.params} for label, t in machine.transitions.items()}
    named: dict[str, set[int]] = {}  # the elements of each sort that the attack and the rules name
    for const, sort in system.consts.items():
        named.setdefault(sort, set()).add(trace.world.consts[const])
    for event in trace.events:
        for name, element in event.args.items():
            named.setdefault(sorts[event.label][name], set()).add(element)
    found = None
    for guess in (
        dict.fromkeys(sizes, 1),
        {s: len(named.get(s, "1")) for s in sizes},
        {s: n if s in named else 1 for s, n in sizes.items()},
        sizes,
    ):
        found = found or attempt(guess)
    if found is None:
        return trace
    for sort in sorted(sizes):
        while found.sizes[sort] > 1 and (smaller := attempt({**found.sizes, sort: found.sizes[sort] - 1})) is not None:
            found = smaller
    found.effort(EFFORT)  # all queries from here on are close to the model found
    found.tighten()
    return found.decode(())


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


__all__ = ["LONG", "PATIENCE", "believed", "confirm", "in_smallest_world", "shortened", "violated", "without_needless_steps"]
