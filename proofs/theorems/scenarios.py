"""Decides by bounded searches whether the runs of scenarios are possible, by a separate system for each scenario.

That system has a position that points to the next part of the scenario: a call is enabled only at its position and with
its arguments, a condition advances the position only if it holds, and at `...` every step of the rules is
enabled. Elements are constants. The run is possible if the position can reach the end, which is an attack on the claim that
it never does. So the searches are those for attacks: all states of small worlds, and bounded model checking. A found run
is replayed on the original rules. "Impossible" holds only for the searched worlds, up to a bound; it proves nothing
about larger ones.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from bulkhead.model.choices import in_world
from bulkhead.model.diagnostics import Span
from bulkhead.model.executable import ExecutableModel
from bulkhead.model.ir import (
    App,
    Check,
    Claim,
    Func,
    Lit,
    Part,
    Scenario,
    Step,
    System,
    Term,
    Transition,
    Update,
    conj,
    eq,
    neg,
)
from bulkhead.model.scenarios import MARK
from bulkhead.model.trace import Event, Trace, start_breaks
from bulkhead.model.world import World
from bulkhead.proofs.theorems.bmc import Search
from bulkhead.proofs.theorems.explore import Exploration
from bulkhead.proofs.theorems.scope import first_scope, in_words
from bulkhead.proofs.theorems.small_worlds import attacks_in_small_worlds
from bulkhead.proofs.theorems.solvers import SolverError

POSSIBLE, IMPOSSIBLE, UNKNOWN = "possible", "impossible", "unknown"
PLACE = MARK + "at"  # the added state, sort and claim; not possible as names in rules
PLACES = MARK + "Part"
END = MARK + "end"
LARGER = {
    True: 3,
    False: 1,
}  # additional elements of each sort, one by one, if an expected run is not found
BETWEEN = {
    True: 12,
    False: 3,
}  # maximum of steps for `...` in bounded model checking: more, if an expected run is not found
STEPS = 400_000  # steps taken in small worlds
PATIENCE = 20_000_000  # Z3's resource limit for one query, some seconds


@dataclass(frozen=True)
class Decision:
    """`trace` is the run on the original rules; `elements` maps the names of the scenario to elements of its world.

    `bound` is the searched range without a run: `worlds`, with `between` other steps for `...` (None: any number).
    """

    verdict: str  # possible | impossible | unknown
    bound: str
    seconds: float
    trace: Trace | None = None
    elements: tuple[tuple[str, int], ...] = ()
    worlds: tuple[Mapping[str, int], ...] = ()
    between: int | None = None
    codes: tuple[str, ...] = ()  # for each event of the trace its error code, or ""


def decide(system: System, name: str, limit: float, given: Mapping[str, int] | None = None) -> Decision:
    """Decide one scenario; `given` fixes the size of some sorts.

    Raises `SolverError` when the executable model does not confirm a found run.
    """
    begun = time.perf_counter()
    scenario = system.scenarios[name]
    staged, meaning = staged_system(system, scenario)
    claim = staged.theorems[END]
    named = Counter(e.sort for e in scenario.elements)
    sizes = {sort: max(n, named[sort]) for sort, n in first_scope(staged).items()} | dict(given or {})
    loops = any(part.kind == "any" for part in scenario.parts)
    worlds = [sizes, {sort: max(1, named[sort]) for sort in sizes} | dict(given or {})]
    worlds += [
        {sort: n + more for sort, n in sizes.items()} | dict(given or {}) for more in range(1, LARGER[scenario.possible] + 1)
    ]
    answer = None if loops else _in_worlds(staged, scenario, worlds, limit)  # a fixed length: the search is complete
    if answer is None:
        found = attacks_in_small_worlds(staged, {END: claim}, given, steps=STEPS)
        if END in found.attacks:
            answer = found.attacks[END]
        else:
            answer = _searched(found.explored, sizes)
    if answer is None and loops:
        answer = _in_worlds(staged, scenario, worlds, limit)
    seconds = time.perf_counter() - begun
    if isinstance(answer, Trace):
        return _decoded(system, scenario, answer, meaning, seconds)
    if answer is None:
        return Decision(UNKNOWN, "no search came to an end", seconds)
    return Decision(IMPOSSIBLE, answer.text, seconds, worlds=answer.worlds, between=answer.between)


@dataclass(frozen=True)
class Bound:
    """Worlds without a run, with at most `between` other steps for `...`; None: any number."""

    worlds: tuple[Mapping[str, int], ...]
    between: int | None

    @property
    def text(self) -> str:
        """A readable form of the bound."""
        shown = "; ".join(in_words(sizes) for sizes in self.worlds[:3]) + ("; ..." if len(self.worlds) > 3 else "")
        many = f"{len(self.worlds)} worlds" if len(self.worlds) > 1 else "a world"
        return f"all runs in {many} of {shown}" + (
            "" if self.between is None else f", with {self.between} other steps at most"
        )


@dataclass(frozen=True)
class Origin:
    """The meaning of a step of the staged system: a part of the scenario, and the outcome of a step taken there."""

    part: int
    outcome: Transition | None  # None for steps that change only the position


def staged_system(system: System, scenario: Scenario) -> tuple[System, dict[str, Origin]]:
    """The system that has only runs of the scenario, and the meaning of each of its steps."""
    count = len(scenario.parts)
    places = tuple(f"{MARK}{k}" for k in range(count + 1))
    here = App(PLACE, (), PLACES)

    def at(k: int) -> Term:
        return eq(here, Lit(places[k], PLACES))

    def on(k: int) -> Update:
        return Update(PLACE, (), Lit(places[k + 1], PLACES))

    meaning: dict[str, Origin] = {}
    steps: list[Step] = []

    def add(label: str, origin: Origin, guard: list[Term], moves: tuple[Update, ...], span: Span) -> None:
        steps.append(_step(label, origin.outcome, guard, moves, span))
        meaning[label] = origin

    for k, part in enumerate(scenario.parts):
        if part.kind == "call":
            for n, t in enumerate(part.outcomes):
                add(f"{k}-{n}-{t.label}", Origin(k, t), [at(k), *_given(part, t)], (on(k),), part.span)
        elif part.kind == "assert":
            add(f"{k}-assert", Origin(k, None), [at(k), part.condition], (on(k),), part.span)
        else:
            add(f"{k}-on", Origin(k, None), [at(k)], (on(k),), part.span)
            for step in system.steps:
                for t in step.transitions():
                    add(f"{k}-any-{t.label}", Origin(k, t), [at(k)], (), part.span)
    begin = Claim("init", f"{MARK}begin", at(0), "", scenario.span, "")
    end = Claim("theorem", END, neg(at(count)), "", scenario.span, "")
    staged = replace(
        system,
        consts={**system.consts, **{e.name: e.sort for e in scenario.elements}},
        enums={**system.enums, PLACES: places},
        funcs={**system.funcs, PLACE: Func(PLACE, (), PLACES)},
        inits=(*system.inits, begin),
        invariants={},
        theorems={END: end},
        step_claims={},
        steps=tuple(steps),
        expects={},
        faults={},
        scenarios={},
    )
    return staged, meaning


def _step(label: str, outcome: Transition | None, guard: list[Term], moves: tuple[Update, ...], span: Span) -> Step:
    """A step with one outcome: the given one, with an additional guard and additional assignments."""
    if outcome is None:
        return Step(label, "", "internal", (), conj(guard), (), moves, None, "", span)
    checks = tuple(Check("require", part, "", (), (), "", span) for part in outcome.guard_parts)
    updates = (*outcome.updates, *moves)
    kind, chosen = outcome.step.kind, outcome.choices
    return Step(label, "", kind, outcome.params, conj(guard), checks, updates, None, "", span, choices=chosen)


def _given(part: Part, outcome: Transition) -> list[Term]:
    """The arguments are those of the call."""
    params = {p.name: p for p in outcome.params}
    return [eq(params[name], value) for name, value in part.args]


def _searched(explored: list[Exploration], wanted: Mapping[str, int]) -> Bound | None:
    """The largest completely searched worlds, if one of them has the sizes in the rules."""
    complete = [e.sizes for e in explored if e.complete]
    if not any(all(sizes[sort] >= n for sort, n in wanted.items()) for sizes in complete):
        return None
    largest = [
        sizes
        for sizes in complete
        if not any(other is not sizes and all(other[sort] >= n for sort, n in sizes.items()) for other in complete)
    ]
    return Bound(tuple(largest), None)


def _in_worlds(staged: System, scenario: Scenario, worlds: list[dict[str, int]], limit: float) -> Trace | Bound | None:
    """A run in one of some worlds, or the bound up to which none of them has a run."""
    found: list[Bound] = []
    for sizes in worlds:
        if sizes in [w for bound in found for w in bound.worlds]:
            continue
        answer = _bounded(staged, scenario, sizes, limit)
        if not isinstance(answer, Bound):
            return answer if isinstance(answer, Trace) or not found else _all(found)
        found.append(answer)
    return _all(found)


def _all(found: list[Bound]) -> Bound:
    between = [bound.between for bound in found if bound.between is not None]
    return Bound(tuple(w for bound in found for w in bound.worlds), min(between, default=None))


def _bounded(staged: System, scenario: Scenario, sizes: dict[str, int], limit: float) -> Trace | Bound | None:
    """A run in one world by unrolling, or the bound up to which there is none; None if the solver answers unknown."""
    claim = staged.theorems[END]
    search = Search(staged, claim, sizes, limit)
    search.effort(PATIENCE)
    by_place: dict[int, list[Transition]] = {}
    for t in search.transitions:
        by_place.setdefault(int(t.label.partition("-")[0]), []).append(t)
    loops = {k for k, part in enumerate(scenario.parts) if part.kind == "any"}
    count = len(scenario.parts)
    places = {0}
    most = BETWEEN[scenario.possible]
    for between in range(count + (most if loops else 0)):
        search.transitions = [t for k in sorted(places) for t in by_place.get(k, [])]
        search.deepen()
        places = {k + 1 for k in places if k < count} | (places & loops)
        if count in places:
            answer = search.answer(claim)
            if answer == "sat":
                return search.decode(())
            if answer != "unsat" and between - count <= BETWEEN[False]:
                return None
            if answer != "unsat":  # this far, and no further
                return Bound((sizes,), between - count)
    return Bound((sizes,), most if loops else None)


def _decoded(system: System, scenario: Scenario, trace: Trace, meaning: dict[str, Origin], seconds: float) -> Decision:
    """The run, replayed on the original rules."""
    world = World(dict(trace.world.sizes), {c: trace.world.consts[c] for c in system.consts})
    initial = [table for func, table in zip([*system.funcs, PLACE], trace.initial, strict=True) if func != PLACE]
    named = tuple((e.name.removeprefix(MARK), trace.world.consts[e.name]) for e in scenario.elements)
    events, codes = [], []
    for event in trace.events:
        origin = meaning[event.label]
        if origin.outcome is not None:
            events.append(event_of(system, world, origin.outcome, event.args))
            codes.append(origin.outcome.code)
    run = Trace(system.name, (), scenario.name, world, initial, tuple(events))
    confirm(system, scenario, trace, run, [meaning[e.label] for e in trace.events])
    return Decision(POSSIBLE, "", seconds, run, named, codes=tuple(codes))


def event_of(system: System, world: World, outcome: Transition, args: dict[str, int]) -> Event:
    """The event of the rules for an outcome; other arguments are the first of their sort."""
    whole = next(t for step in system.steps for t in step.outcomes() if t.label == outcome.label)
    return Event(whole.label, {p.name: args.get(p.name, 0) for p in in_world(system, world, whole).params})


def confirm(system: System, scenario: Scenario, trace: Trace, run: Trace, origins: list[Origin]) -> None:
    """Take the run on the executable model: check each call against its part, and each condition at its position."""
    named = {e.name: e.sort for e in scenario.elements}
    asked = tuple(
        _step(f"{MARK}{k}-{n}", t, _given(part, t), (), part.span)
        for k, part in enumerate(scenario.parts)
        for n, t in enumerate(part.outcomes)
    )
    rules = replace(system, consts={**system.consts, **named}, steps=(*system.steps, *asked))
    machine = ExecutableModel(
        rules, World(run.world.sizes, {**run.world.consts, **{n: trace.world.consts[n] for n in named}})
    )
    state = [list(t) for t in run.initial]
    good = start_breaks(machine, state) is None
    events = iter(run.events)
    for origin, taken in zip(origins, trace.events, strict=True):
        part = scenario.parts[origin.part]
        if origin.outcome is None:
            good = good and (part.kind == "any" or machine.holds(state, part.condition))
            continue
        if part.kind == "call":
            label = f"{MARK}{origin.part}-{part.outcomes.index(origin.outcome)}"
            good = good and machine.can_fire(state, label, taken.args)
        event = next(events)
        good = good and machine.fire(state, event.label, event.args)
    if not good:
        raise SolverError(f"the executable model does not confirm the run that was found for scenario `{scenario.name}`")


__all__ = ["IMPOSSIBLE", "POSSIBLE", "UNKNOWN", "Decision", "decide"]
