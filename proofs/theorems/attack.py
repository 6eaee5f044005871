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

from bulkhead.model.ir import Claim, System, conj
from bulkhead.model.trace import Trace
from bulkhead.proofs.theorems.bmc import Search
from bulkhead.proofs.theorems.cone import cone, in_whole
from bulkhead.proofs.theorems.directed_search import find
from bulkhead.proofs.theorems.initial_states import NoInitialState, initial_states
from bulkhead.proofs.theorems.known_runs import known_runs
from bulkhead.proofs.theorems.least_world import grown
from bulkhead.proofs.theorems.scope import first_scope
from bulkhead.proofs.theorems.shortening import LONG, PATIENCE, believed, shortened
from bulkhead.proofs.theorems.small_worlds import STEPS, Seen, attacks_in_small_worlds, fits
from bulkhead.proofs.theorems.step_goals import Ways, goals
from bulkhead.proofs.theorems.waypoints import Doubts, by_broken_invariants, by_promised_breaks, violation_of

LIMIT = math.inf  # seconds for one query: the effort is bounded, and answers do not depend on the machine
MAX_DEPTH = 5  # depth of the search over all calls if the directed search finds nothing
FIRST_DEPTH = 3  # depth that is cheap enough to search before the directed search
FEW = 2
GLIMPSE = STEPS // 40  # steps in small worlds of a system whose likely world is too large for that
TRIES = (  # of the directed search: the seed, whether it is broad, its number of calls, whether only likely steps are goals
    (3, False, 20_000, True),
    (2, True, 20_000, True),
    (2, False, 20_000, True),
    (1, True, 20_000, True),
    (1, False, 20_000, False),
    (4, True, 60_000, False),
    (3, False, 120_000, True),
)


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

    Small worlds come first, unless the world that the formulas ask for is a large one. Then what the `faults` say that
    they break comes first (`waypoints.py`), and what is proved in spite of them is searched no more; where that gives
    only attacks of over `LONG` steps, the other searches may find a shorter one. All calls are searched to `FIRST_DEPTH`
    (one step less for more than `FEW` claims at once), then the directed search runs, at first by way of broken
    invariants, then up to `FEW` claims are searched deeper for as long as Z3 answers. Claims that have no proof either
    are then searched one by one, also in the part of the system that they depend on (`cone.py`). `doubts` holds a proof
    that was made before.

    A trace's `excluded` means that the searched world has no attack of so many steps; if that is one less
    than its length, the attack is a shortest one. None means none up to `max_depth` steps, and none found by the other
    searches. Raises `SolverError` when the executable model does not confirm an attack.
    """
    open_claims = {n: system.stated()[n] for n in claims}
    found: dict[str, Trace | None] = dict.fromkeys(open_claims)
    long: dict[str, Trace] = {}  # attacks that are shown only if no shorter one is found
    bound = depth if depth is not None else max_depth if max_depth < MAX_DEPTH else None
    doubts = doubts or Doubts(system)
    large = not fits(system, given)
    deepest = max_depth if bound is None else min(max_depth, bound)
    if large and faults:
        sizes = grown(system, {**first_scope(system), **(given or {})}, given or {})
        found.update(_by_the_faults(system, open_claims, faults, deepest, limit, one, sizes, bound))
        long = {n: t for n, t in found.items() if t is not None and len(t.events) > LONG}
        short = any(t is not None and n not in long for n, t in found.items())
        if one and (short or long):
            open_claims = {} if short else {n: open_claims[n] for n in long}
        else:
            open_claims = {n: c for n, c in open_claims.items() if found[n] is None or n in long}
            open_claims = {n: open_claims[n] for n in doubts.about(open_claims)} if open_claims else {}
    seen = (
        Seen(decided=True)
        if not open_claims
        else attacks_in_small_worlds(system, open_claims, given, bound, one, GLIMPSE if large else STEPS)
    )
    found.update(seen.attacks)
    if not seen.decided and not (one and seen.attacks):
        left = {n: c for n, c in open_claims.items() if n not in seen.attacks}
        sizes = grown(system, {**first_scope(system), **(given or {})}, given or {})
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
    for name, trace in long.items():
        other = found[name]
        if other is None or len(other.events) >= len(trace.events):
            found[name] = trace
    return {
        n: None if t is None else believed(system, replace(t, faults=faults), limit, n in seen.attacks)
        for n, t in found.items()
    }


def _by_the_faults(
    system: System,
    claims: Mapping[str, Claim],
    faults: tuple[str, ...],
    max_depth: int,
    limit: float,
    one: bool,
    sizes: dict[str, int],
    bound: int | None,
) -> dict[str, Trace]:
    """Attacks by way of what the faults say that they break; of the few steps that are searched in whole, the shortest."""
    found: dict[str, Trace] = {}
    excluded: dict[str, int] = {}
    few = min(FIRST_DEPTH, max_depth)
    for name in dict.fromkeys(n for fault in faults for n in system.faults[fault].breaks if n in claims):
        if not (one and found):
            least, excluded[name] = _of_few_steps(system, claims[name], sizes, limit, few)
            found.update({} if least is None else {name: least})
    left = {n: c for n, c in claims.items() if n not in found and not (one and found)}
    if not left:
        return found
    try:
        machine, states = initial_states(system, limit, random.Random(1))
    except NoInitialState:
        return found
    paths = {n: (machine, p) for n, p in by_promised_breaks(system, faults, left, machine, states, one).items()}
    steps = [system.faults[fault].step for fault in faults]
    for run in known_runs(system, limit, steps) if any(system.faults[fault].breaks for fault in faults) else ():
        rest = {n: c for n, c in left.items() if n not in paths and not (one and paths)}
        if rest:
            more = by_promised_breaks(system, faults, rest, run.machine, run.paths, one)
            paths.update((n, (run.machine, p)) for n, p in more.items())
    for name, (where, path) in paths.items():
        trace = shortened(system, claims[name], where, path, limit, excluded.get(name, -1))
        if name not in excluded:
            less, excluded[name] = _of_few_steps(system, claims[name], sizes, limit, min(few, len(trace.events) - 1))
            trace = less or trace
        trace = replace(trace, excluded=excluded[name])
        if bound is None or len(trace.events) <= bound:
            found[name] = trace
    return found


def _of_few_steps(system: System, claim: Claim, sizes: dict[str, int], limit: float, most: int) -> tuple[Trace | None, int]:
    """A shortest attack of at most so many steps, if there is one, and the number of steps up to which there is none."""
    search = Search(system, claim, sizes, limit)
    search.effort(PATIENCE // 5)  # beyond that the directed search is quicker
    while True:
        answer = search.answer(claim)
        if answer == "sat":
            return replace(search.decode(()), claim=claim.name, excluded=search.depth - 1), search.depth - 1
        if answer != "unsat" or search.depth >= most:
            return None, search.depth - (answer != "unsat")
        search.deepen()


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
    return {n: shortened(system, claims[n], machine, path, limit, excluded) for n, path in paths.items()}


__all__ = ["LIMIT", "MAX_DEPTH", "directed_attacks", "find_attack", "find_attacks"]
