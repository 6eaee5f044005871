"""Attack search: a shortest trace from an initial state to a violation of a theorem, in a small world.

Several searches look for attacks, each in a file of its own. `SEARCHES` lists them in the order in which they have their
turn; what one finds is searched no more by the next. A found attack is made as short and small as can be
(`shortening.py`), and counts only if the executable model replays it. Effort is counted and never timed, so that answers
depend neither on the machine nor on its load.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from bulkhead.model.executable import ExecutableModel
from bulkhead.model.ir import CALL, Claim, System
from bulkhead.model.trace import Trace
from bulkhead.proofs.theorems.bounded import PATIENCE, QUICK, Bounded
from bulkhead.proofs.theorems.cone import cone, in_whole
from bulkhead.proofs.theorems.directed_search import Path, find
from bulkhead.proofs.theorems.initial_states import NoInitialState, initial_states
from bulkhead.proofs.theorems.known_runs import known_runs
from bulkhead.proofs.theorems.least_world import grown
from bulkhead.proofs.theorems.scope import first_scope
from bulkhead.proofs.theorems.shortening import believed, shortened
from bulkhead.proofs.theorems.small_worlds import attacks_in_small_worlds, fits
from bulkhead.proofs.theorems.step_goals import Ways, goals
from bulkhead.proofs.theorems.waypoints import Doubts, by_broken_invariants, by_promised_breaks, violation_of

LIMIT = math.inf  # seconds for one query: the effort is bounded, and answers do not depend on the machine
MAX_DEPTH = 5  # depth of the search over all calls in a system whose likely world was searched breadth first
FIRST_DEPTH = 3  # depth that is cheap enough to search before the proof
FEW = 2
EFFORTS = (QUICK, 4 * QUICK, PATIENCE)  # conflicts of one question
TRIES = (  # of the directed search: the seed, whether it is broad, its number of calls, whether only likely steps are goals
    (3, False, 20_000, True),
    (2, True, 20_000, True),
    (2, False, 20_000, True),
    (1, True, 20_000, True),
    (1, False, 20_000, False),
    (4, True, 60_000, False),
    (3, False, 120_000, True),
)


@dataclass
class Hunt:
    """What is looked for, how, and what was found so far."""

    system: System
    claims: dict[str, Claim]  # those without a proof so far
    doubts: Doubts
    faults: tuple[str, ...] = ()
    limit: float = LIMIT
    one: bool = False
    given: Mapping[str, int] = field(default_factory=dict)
    bound: int | None = None  # steps of an attack
    solver_bound: int = MAX_DEPTH
    found: dict[str, Trace] = field(default_factory=dict)
    all_seen: set[str] = field(default_factory=set)  # attacks of worlds whose states were all looked at
    decided: bool = False  # there are no other worlds, and no other states

    @cached_property
    def large(self) -> bool:
        """Is the world that the formulas ask for too large to be searched breadth first?"""
        return not fits(self.system, self.given)

    @cached_property
    def bounded(self) -> Bounded:
        """The search of all calls in the first world."""
        sizes = grown(self.system, {**first_scope(self.system), **self.given}, self.given)
        return Bounded(self.system, sizes, dict(self.claims), self.limit)

    @cached_property
    def wider(self) -> list[Bounded]:
        """The same in larger worlds: with one call more in flight, and with one element more of each sort, if it may have
        more."""
        first = self.bounded.sizes
        most = {s: self.system.scope[s][1] if s in self.system.scope else n + 1 for s, n in first.items()}
        more = {s: n if s in self.given else max(n, min(n + 1, most[s])) for s, n in first.items()}
        worlds = [{**first, CALL: more[CALL]} if CALL in first else first, more]
        wider = [world for k, world in enumerate(worlds) if world not in (first, *worlds[:k])]
        return [Bounded(self.system, world, dict(self.claims), self.limit) for world in wider]

    def left(self) -> dict[str, Claim]:
        """The claims that are still searched: none if one attack suffices and is there, or all states were seen."""
        if self.decided or (self.one and self.found):
            return {}
        return {n: c for n, c in self.claims.items() if n not in self.found}

    def take(self, traces: Mapping[str, Trace]) -> None:
        """Keep attacks that are not too long; if one suffices, the shortest."""
        short = {n: t for n, t in traces.items() if self.bound is None or len(t.events) <= self.bound}
        if self.one and short:
            short = dict([min(short.items(), key=lambda item: len(item[1].events))])
        self.found.update(short)

    def excluded(self, name: str) -> int:
        """The number of steps up to which the first world has no attack on a claim."""
        return self.bounded.excluded.get(name, -1)


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
    `max_depth` bounds the search by solver, and the other searches if it is less than usual. `doubts` holds a proof that
    was made before.

    A trace's `excluded` means that the searched world has no attack of so many steps; if that is one less
    than its length, the attack is a shortest one. None means that no search finds one.
    Raises `SolverError` when the executable model does not confirm an attack.
    """
    names = list(claims)
    bound = depth if depth is not None else max_depth if max_depth < MAX_DEPTH else None
    hunt = Hunt(
        system,
        {n: system.stated()[n] for n in names},
        doubts or Doubts(system),
        faults,
        limit,
        one,
        given or {},
        bound,
        max_depth if bound is None else min(max_depth, bound),
    )
    for search, large, small in SEARCHES:
        if (large if hunt.large else small) and hunt.left():
            search(hunt)
    shown = {n: replace(t, faults=faults, claim=n) for n, t in hunt.found.items()}
    return {n: believed(system, shown[n], limit, n in hunt.all_seen) if n in shown else None for n in names}


# The searches.


def in_small_worlds(hunt: Hunt) -> None:
    """Breadth first, all states of worlds that grow."""
    seen = attacks_in_small_worlds(hunt.system, hunt.left(), hunt.given, hunt.bound, hunt.one)
    hunt.take(seen.attacks)
    hunt.all_seen.update(n for n in seen.attacks if n in hunt.found)
    hunt.decided = seen.decided


def few_steps(hunt: Hunt) -> None:
    """All calls, so few of them that it costs less than a proof."""
    most = min(hunt.solver_bound, FIRST_DEPTH if len(hunt.left()) <= FEW else FIRST_DEPTH - 1)
    hunt.take(hunt.bounded.run(most, QUICK, hunt.one, hunt.left))


def named_by_the_faults(hunt: Hunt) -> None:
    """All calls, for the claims that the faults say that they break: most of these attacks cost less than a proof."""
    named = {n for fault in hunt.faults for n in hunt.system.faults[fault].breaks}
    hunt.take(hunt.bounded.run(hunt.bound, QUICK, hunt.one, lambda: [n for n in hunt.left() if n in named]))


def unless_proved(hunt: Hunt) -> None:
    """No search: a proof tells for which claims there is no attack."""
    doubtful = hunt.doubts.about(hunt.claims)
    hunt.claims = {n: c for n, c in hunt.claims.items() if n in hunt.found or n in doubtful}


def all_calls(hunt: Hunt) -> None:
    """All calls, for as long as the effort lasts; of a large system also in worlds that have more."""
    most = hunt.bound if hunt.large else hunt.solver_bound
    for conflicts in EFFORTS:  # what is easy to decide first: an attack may be on a claim that is
        for search in (hunt.bounded, *(hunt.wider if hunt.large else ())):
            if hunt.left():
                hunt.take(search.run(most, conflicts, hunt.one, hunt.left))


def by_the_faults(hunt: Hunt) -> None:
    """The directed search, by way of what the faults say that they break; then from the states of known runs."""
    if not any(hunt.system.faults[fault].breaks for fault in hunt.faults):
        return
    steps = [hunt.system.faults[fault].step for fault in hunt.faults]
    try:
        machine, states = initial_states(hunt.system, hunt.limit, random.Random(1))
    except NoInitialState:
        return
    paths = by_promised_breaks(hunt.system, hunt.faults, hunt.left(), machine, states, hunt.one)
    _take_paths(hunt, {n: (machine, path) for n, path in paths.items()})
    for run in known_runs(hunt.system, hunt.limit, steps):
        if hunt.left():
            more = by_promised_breaks(hunt.system, hunt.faults, hunt.left(), run.machine, run.paths, hunt.one)
            _take_paths(hunt, {n: (run.machine, path) for n, path in more.items()})


def directed(hunt: Hunt) -> None:
    """The directed search of the executable model, at first by way of broken invariants."""
    system, claims = hunt.system, hunt.left()
    try:
        machine, states = initial_states(system, hunt.limit, random.Random(1))
    except NoInitialState:
        return
    paths = by_broken_invariants(hunt.doubts, claims, machine, states, hunt.one)
    every = [*system.invariants, *system.theorems]
    states_wanted = {n: violation_of(c.body) for n, c in claims.items() if c.kind != "transition"}
    steps_wanted: dict[str, Ways] = {}
    likely: dict[str, Ways] = {}  # those that break a claim in a state in which all else holds: often a few of many
    for name, claim in claims.items():
        if claim.kind == "transition" and name not in paths and not (hunt.one and paths):
            steps_wanted[name] = list(goals(system, machine.world, claim))
            likely[name] = list(goals(system, machine.world, claim, every)) or steps_wanted[name]
    for seed, broad, calls, direct in TRIES if len(claims) <= FEW else TRIES[:2]:
        if any(n not in paths for n in claims) and not (hunt.one and paths):
            bodies = {n: body for n, body in states_wanted.items() if n not in paths}
            ways = {n: found for n, found in (likely if direct else steps_wanted).items() if n not in paths}
            paths.update(find(machine, bodies, seed, calls, states, ways, broad))
    if hunt.one and paths:
        paths = dict([min(paths.items(), key=lambda item: len(item[1].steps()))])
    _take_paths(hunt, {n: (machine, path) for n, path in paths.items()})


def one_by_one(hunt: Hunt) -> None:
    """Each claim alone, also in the part of the system that it depends on: together they had less effort each."""
    alone = len(hunt.claims) == 1
    for name, claim in hunt.left().items():
        if hunt.one and hunt.found:
            return
        part = cone(hunt.system, claim)
        trace = None
        if part is not None:
            inside = find_attacks(part, [name], (), MAX_DEPTH, hunt.limit, given=hunt.given, depth=hunt.bound)[name]
            trace = None if inside is None else in_whole(hunt.system, part, inside)
        if trace is not None:
            hunt.take({name: trace})
        elif not alone:
            single = replace(hunt, claims={name: claim}, found={})
            directed(single)
            hunt.take(single.found)


SEARCHES: tuple[tuple[Callable[[Hunt], None], bool, bool], ...] = (
    # the search, and whether it has its turn in a large system, and in a small one
    (in_small_worlds, False, True),
    (few_steps, True, True),
    (named_by_the_faults, True, False),
    (unless_proved, True, True),
    (all_calls, True, False),
    (by_the_faults, True, False),
    (directed, True, True),
    (all_calls, False, True),
    (in_small_worlds, True, False),
    (one_by_one, True, True),
)


def _take_paths(hunt: Hunt, paths: Mapping[str, tuple[ExecutableModel, Path]]) -> None:
    """Keep attacks that the directed search found, shortened."""
    made = {}
    for name, (machine, path) in paths.items():
        trace = shortened(hunt.system, hunt.claims[name], machine, path)
        made[name] = replace(trace, excluded=min(hunt.excluded(name), len(trace.events) - 1))
    hunt.take(made)


__all__ = ["LIMIT", "MAX_DEPTH", "SEARCHES", "Hunt", "find_attack", "find_attacks"]
