"""Attack search: a shortest trace from an initial state to a violation of a theorem, in a small world.

If states are small, a breadth-first search in growing worlds visits all of them (`small_worlds.py`). Otherwise bounded
model checking increases the depth one by one, so its first attack is a shortest one; for longer attacks a directed
search of the executable model finds some attack, which is then shortened as far as its own calls
allow. The trace records the depth up to which attacks were excluded. Then the world is reduced while the attack
remains, unneeded steps are removed, and the attack counts only if the executable model replays it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping
from dataclasses import replace

from bulkhead.model.executable import ExecutableModel
from bulkhead.model.ir import Claim, System, conj
from bulkhead.model.trace import Event, Trace, TraceError, replay, start_breaks
from bulkhead.model.world import State
from bulkhead.proofs.theorems.bmc import EFFORT, Search
from bulkhead.proofs.theorems.cone import cone, in_whole
from bulkhead.proofs.theorems.directed_search import Path, find
from bulkhead.proofs.theorems.explore import shorter
from bulkhead.proofs.theorems.initial_states import NoInitialState, initial_states
from bulkhead.proofs.theorems.least_world import grown
from bulkhead.proofs.theorems.scope import first_scope
from bulkhead.proofs.theorems.small_worlds import STEPS, attacks_in_small_worlds, fits, in_smaller_worlds
from bulkhead.proofs.theorems.solvers import SolverError
from bulkhead.proofs.theorems.step_goals import Ways, goals
from bulkhead.proofs.theorems.substitutes import shorter_by_substitutes, violation_after
from bulkhead.proofs.theorems.waypoints import Doubts, by_broken_invariants, violation_of

LIMIT = math.inf  # seconds for one query: the effort is bounded, and answers do not depend on the machine
MAX_DEPTH = 5  # depth of the search over all calls if the directed search finds nothing
FIRST_DEPTH = 3  # depth that is cheap enough to search before the directed search
FEW = 2
GLIMPSE = STEPS // 40  # steps in small worlds of a system whose likely world is too large for that
PATIENCE = 20_000_000  # Z3's resource limit for one query beyond that, some seconds; it is deterministic
SHORTENING = PATIENCE // 2  # the same for each query that shortens a long attack
TRIES = (  # of the directed search: the seed, whether it is broad, its number of calls, whether only likely steps are goals
    (3, False, 20_000, True),
    (2, True, 20_000, True),
    (2, False, 20_000, True),
    (1, True, 20_000, True),
    (1, False, 20_000, False),
    (4, True, 60_000, False),
    (3, False, 120_000, True),
)
AGAIN = 1_000_000  # steps, and choices, of one search for a shorter attack by the same calls; most need much less


def find_attack(
    system: System,
    claim_name: str,
    faults: tuple[str, ...] = (),
    max_depth: int = MAX_DEPTH,
    limit: float = LIMIT,
    given: Mapping[str, int] | None = None,
) -> Trace | None:
    """A short attack on one claim; see `find_attacks`."""
    return find_attacks(system, [claim_name], faults, max_depth, limit, given=given)[claim_name]


def find_attacks(
    system: System,
    claims: Iterable[str],
    faults: tuple[str, ...] = (),
    max_depth: int = MAX_DEPTH,
    limit: float = LIMIT,
    one: bool = False,
    given: Mapping[str, int] | None = None,
    depth: int | None = None,
    doubts: Doubts | None = None,
) -> dict[str, Trace | None]:
    """A short attack on each claim, replayed on the executable model; None if none is found.

    An invariant may be named like a claim; what breaks it is no attack on a claim, and reports say so. With `one`, the
    search ends with the first violated claim. `given` fixes the size of some sorts, `depth` bounds the steps of an attack.
    `max_depth` bounds the search by solver, and the other searches if it is less than usual.

    Small worlds come first, unless the world that the formulas ask for is a large one. All calls are searched to
    `FIRST_DEPTH` (one step less for more than `FEW` claims at once), then the directed search runs, at first by way of
    broken invariants, then up to `FEW` claims are searched deeper for as long as Z3 answers. Claims that have no proof
    either are then searched one by one, also in the part of the system that they depend on (`cone.py`). `doubts` holds a
    proof that was made before.

    A trace's `excluded` means that the searched world has no attack of so many steps; if that is one less
    than its length, the attack is a shortest one. None means none up to `max_depth` steps, and none found by the other
    searches. Raises `SolverError` when the executable model does not confirm an attack.
    """
    open_claims = {n: system.stated()[n] for n in claims}
    found: dict[str, Trace | None] = dict.fromkeys(open_claims)
    bound = depth if depth is not None else max_depth if max_depth < MAX_DEPTH else None
    doubts = doubts or Doubts(system)
    large = not fits(system, given)
    seen = attacks_in_small_worlds(system, open_claims, given, bound, one, GLIMPSE if large else STEPS)
    found.update(seen.attacks)
    if not seen.decided and not (one and seen.attacks):
        left = {n: c for n, c in open_claims.items() if n not in seen.attacks}
        sizes = grown(system, {**first_scope(system), **(given or {})}, given or {})
        deepest = max_depth if bound is None else min(max_depth, bound)
        more = _in_the_first_world(system, dict(left), deepest, limit, one, sizes, doubts)
        again = [] if one and any(more.values()) else doubts.about(n for n, t in more.items() if t is None)
        if large and again:
            wider = attacks_in_small_worlds(system, {n: left[n] for n in again}, given, bound, one)
            seen.attacks.update(wider.attacks)
            more.update(wider.attacks)
            again = [] if one and wider.attacks else [n for n in again if n not in wider.attacks]
        for name in again:
            if one and any(more.values()):
                break
            more[name] = _in_its_cone(system, name, max_depth, limit, given, depth)
            if more[name] is None and len(left) > 1:  # together they had less effort each
                more.update(_in_the_first_world(system, {name: left[name]}, deepest, limit, one, sizes, doubts))
        found.update({n: t for n, t in more.items() if t is None or bound is None or len(t.events) <= bound})
    return {
        n: None if t is None else _believed(system, replace(t, faults=faults), limit, n in seen.attacks)
        for n, t in found.items()
    }


def _in_the_first_world(
    system: System,
    open_claims: dict[str, Claim],
    max_depth: int,
    limit: float,
    one: bool,
    sizes: dict[str, int],
    doubts: Doubts,
) -> dict[str, Trace | None]:
    """Attacks found by a solver, or by the directed search of the executable model.

    Claims about states and about steps have a solver session each: the second kind also needs the steps that change nothing.
    """
    if not open_claims:
        return {}
    found: dict[str, Trace | None] = dict.fromkeys(open_claims)
    longer: dict[str, Trace] = {}
    first = min(max_depth, FIRST_DEPTH if len(open_claims) <= FEW else FIRST_DEPTH - 1)
    searches: dict[bool, Search] = {}
    for claim in open_claims.values():
        if (kind := claim.kind == "transition") not in searches:
            searches[kind] = Search(system, claim, sizes, limit)
    depth = 0
    while True:
        every = list(open_claims.values())
        for name, claim in [] if one and len(every) > FEW and _hold_together(searches, every) else list(open_claims.items()):
            search = searches[claim.kind == "transition"]
            answer = search.answer(claim)
            if answer == "unknown":
                del open_claims[name]
                if name in longer:
                    found[name] = replace(longer[name], excluded=depth - 1)
            if answer == "sat":
                found[name] = replace(search.decode(()), claim=name, excluded=depth - 1)
                search.forget()
                open_claims = {n: c for n, c in open_claims.items() if n != name and not one}
                if one:
                    break
        if depth == first and first < max_depth and open_claims:
            open_claims = {n: open_claims[n] for n in doubts.about(open_claims)}
            if first < min(max_depth, FIRST_DEPTH) and one and open_claims:  # together they are cheap
                first += 1
                depth = _deepened(searches, open_claims, depth)
                continue
            longer = directed_attacks(system, open_claims, limit, one, depth, doubts)
            for search in searches.values():
                search.effort(PATIENCE)
            open_claims = {n: c for n, c in open_claims.items() if not one or n in longer or not longer}
        for name, trace in longer.items():
            if name in open_claims and depth >= min(first, len(trace.events) - 1):
                found[name] = replace(trace, excluded=depth)
                del open_claims[name]
        if not open_claims or depth >= (max_depth if len(open_claims) <= FEW else first):
            return found
        depth = _deepened(searches, open_claims, depth)


def _deepened(searches: Mapping[bool, Search], claims: Mapping[str, Claim], depth: int) -> int:
    """Add one step where there is still a claim of its kind; the new number of steps."""
    for kind in {c.kind == "transition" for c in claims.values()}:
        searches[kind].deepen()
    return depth + 1


def _hold_together(searches: Mapping[bool, Search], claims: list[Claim]) -> bool:
    """Is none of the claims false after the current number of steps? One question for those of each kind."""
    for kind, search in searches.items():
        some = [c for c in claims if (c.kind == "transition") == kind]
        if not some:
            continue
        answer = search.answer(replace(some[0], body=conj([c.body for c in some])))
        if answer == "sat":
            search.forget()
        if answer != "unsat":
            return False
    return True


def _in_its_cone(
    system: System, name: str, max_depth: int, limit: float, given: Mapping[str, int] | None, depth: int | None
) -> Trace | None:
    """An attack in the part of the system that a claim depends on, if that is not all of it."""
    part = cone(system, system.stated()[name])
    if part is None:
        return None
    trace = find_attacks(part, [name], (), max_depth, limit, given=given, depth=depth)[name]
    return None if trace is None else in_whole(system, part, trace)


def _believed(system: System, trace: Trace, limit: float, all_seen: bool) -> Trace:
    """The attack in its smallest world, without a step that it does without, replayed.

    `all_seen` says that it is a shortest one of a world whose states were all looked at.
    """
    claim = system.stated()[trace.claim]
    if all_seen:
        small = _emptied(system, claim, in_smaller_worlds(system, claim, trace))
    else:
        while True:
            small = without_needless_steps(system, claim, _in_smallest_world(system, claim, trace, limit))
            if len(small.events) == len(trace.events):
                break
            trace = replace(small, excluded=trace.excluded)  # fewer calls may do with a smaller world
        if len(small.events) - 1 > trace.excluded + 1:
            less, stopped = shorter_by_substitutes(system, claim, small, limit, SHORTENING), ""
            if less is None:
                less, stopped = shorter(system, small, claim, AGAIN)
            if less is not None:
                return _believed(system, replace(less, faults=trace.faults, excluded=trace.excluded), limit, False)
            if stopped:
                small = replace(small, note=f"the search for a shorter one by the same calls stopped {stopped}")
    small = replace(small, faults=trace.faults, excluded=min(trace.excluded, len(small.events) - 1))
    confirm(system, claim, small)
    return small


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


# Longer attacks.


def directed_attacks(
    system: System,
    claims: Mapping[str, Claim],
    limit: float,
    one: bool = False,
    excluded: int = -1,
    doubts: Doubts | None = None,
) -> dict[str, Trace]:
    """Attacks found by the directed search of the executable model, shortened; with `one`, the shortest of them.

    The default world has none of `excluded` steps or fewer. `doubts` tells what is proved, and which invariants fall.
    """
    if not claims:
        return {}
    states_wanted = {n: violation_of(c.body) for n, c in claims.items() if c.kind != "transition"}
    try:
        machine, states = initial_states(system, limit, random.Random(1))
    except NoInitialState:
        return {}
    paths = by_broken_invariants(doubts or Doubts(system), claims, machine, states, one)
    every = [*system.invariants, *system.theorems]
    steps_wanted: dict[str, Ways] = {}
    likely: dict[str, Ways] = {}  # those that break a claim in a state in which all else holds: often a few of many
    for name, claim in claims.items():
        if claim.kind == "transition" and name not in paths and not (one and paths):
            steps_wanted[name] = list(goals(system, machine.world, claim))
            likely[name] = list(goals(system, machine.world, claim, every)) or steps_wanted[name]
    for seed, broad, calls, direct in TRIES if len(claims) <= FEW else TRIES[:2]:
        if any(n not in paths for n in claims) and not (one and paths):
            bodies = {n: body for n, body in states_wanted.items() if n not in paths}
            ways = {n: found for n, found in (likely if direct else steps_wanted).items() if n not in paths}
            paths.update(find(machine, bodies, seed, calls, states, ways, broad))
    if one and paths:
        paths = dict([min(paths.items(), key=lambda item: len(item[1].steps()))])
    return {n: _shortened(system, claims[n], machine, path, limit, excluded) for n, path in paths.items()}


def _shortened(system: System, claim: Claim, machine: ExecutableModel, path: Path, limit: float, excluded: int) -> Trace:
    names = {label: [p.name for p in t.params] for label, t in machine.transitions.items()}
    events = tuple(Event(label, dict(zip(names[label], args, strict=True))) for label, args in path.steps())
    trace = without_needless_steps(system, claim, Trace(system.name, (), claim.name, machine.world, path.start(), events))
    return _by_the_same_calls(system, claim, trace, limit, excluded) or trace


def _by_the_same_calls(system: System, claim: Claim, trace: Trace, limit: float, excluded: int) -> Trace | None:
    """A shorter attack by the calls of a trace, from any initial state of the default world, with over `excluded` steps."""
    search = Search(system, claim, grown(system, first_scope(system)), limit)
    used = {e.label for e in trace.events}
    search.transitions = [t for t in search.transitions if t.label in used]
    search.effort(SHORTENING)
    try:
        while search.depth <= excluded or not search.violated():
            if search.depth >= len(trace.events) - 1:
                return None
            search.deepen()
        return search.decode(())
    except SolverError:  # too hard: keep the attack found so far
        return None


def _in_smallest_world(system: System, claim: Claim, trace: Trace, limit: float) -> Trace:
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


__all__ = [
    "LIMIT",
    "MAX_DEPTH",
    "confirm",
    "directed_attacks",
    "find_attack",
    "find_attacks",
    "violated",
    "without_needless_steps",
]
