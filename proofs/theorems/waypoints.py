"""Attacks by way of broken invariants: what a proof by induction fails on shows where every attack must pass.

The first state of an attack that is outside the invariants comes by one of the steps that do not keep them. So the
directed search first looks for these steps, with a state and arguments that break an invariant, and then continues from the
broken states to the violation of a claim. Claims that are proved have no attack. Not here: shortening; what counts as an
attack (`attack.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

from bulkhead.model.executable import ExecutableModel
from bulkhead.model.ir import Claim, Quant, System, Term, neg
from bulkhead.model.world import State
from bulkhead.proofs.theorems.decide import Settings
from bulkhead.proofs.theorems.directed_search import Path, find
from bulkhead.proofs.theorems.induction import Proof, prove
from bulkhead.proofs.theorems.queries import PLACES
from bulkhead.proofs.theorems.solvers import FAST_EFFORT
from bulkhead.proofs.theorems.step_goals import Ways, goals, goals_of_steps, way

TRIES = ((1, False), (2, True), (3, False))  # of the directed search: the seed, and whether it is broad
CALLS = 10_000  # of one search
DIRECTLY = 60_000  # of one search for what faults say that they break: to begin one takes longer than its first 10,000
QUICKLY = Settings(jobs=1, cross_check=False, patient=False, effort=FAST_EFFORT)  # and the same on every machine


class Doubts:
    """What is not proved of a system. The proof is made when it is first asked for, with bounded effort for each query."""

    def __init__(self, system: System) -> None:
        self.system = system

    @cached_property
    def proof(self) -> Proof:
        """The proof of all claims."""
        return prove(self.system, QUICKLY)

    def about(self, claims: Iterable[str]) -> list[str]:
        """The claims, and invariants, that are not proved."""
        return [n for n in claims if n not in self.proof.proved and n not in self._inductive]

    @cached_property
    def _inductive(self) -> set[str]:
        return self.proof.standing & self.system.invariants.keys()

    @cached_property
    def first(self) -> tuple[str, ...]:
        """The invariants and claims that some step breaks although all others were true before."""
        return tuple(dict.fromkeys(r.claim for r in self.proof.first_failing if r.label not in PLACES))


def violation_of(term: Term) -> Term:
    """The condition that a closed formula is false, with its outer variables bound by `exists`."""
    if isinstance(term, Quant) and term.kind == "forall":
        return Quant("exists", term.vars, violation_of(term.body))
    return neg(term)


def promised(
    system: System, faults: Iterable[str], claims: Mapping[str, Claim], machine: ExecutableModel, one: bool = False
) -> dict[str, Ways]:
    """Where faults say that they break something (`breaks CLAIM in STEP`), as goals: outcomes, and when each breaks a claim.

    These are the claims that the faults name. If none of `claims` is among them (or not all are, without `one`), it is also
    what of `claims` a solver does not quickly prove to be kept by these steps.
    """
    known = system.stated()
    ways: dict[str, Ways] = {}
    every = [*system.invariants, *system.theorems]
    laid = [system.faults[n] for n in faults]
    named = {n for fault in laid for n in fault.breaks}
    for fault in laid:
        outcomes = [t for s in system.steps for t in s.outcomes() if t.label == fault.step]
        for name in fault.breaks:
            for outcome in outcomes:
                ways.setdefault(name, []).extend(way(system, machine.world, known[name], outcome))
        others = [] if one and named & claims.keys() else [c for n, c in claims.items() if n not in named]
        for name, found in goals_of_steps(system, machine.world, outcomes, others, every).items():
            ways.setdefault(name, []).extend(found)
    if one and named & claims.keys():
        return {n: w for n, w in ways.items() if n in claims}
    return ways


def by_promised_breaks(
    system: System,
    faults: Iterable[str],
    claims: Mapping[str, Claim],
    machine: ExecutableModel,
    starts: Sequence[State | Path],
    one: bool = False,
) -> dict[str, Path]:
    """Paths to violations of claims by way of what the faults say that they break; with `one`, the search ends with one.

    It needs no proof, and so it is quick. What it does not find is left to the other searches.
    """
    ways = promised(system, faults, claims, machine, one)
    enough = claims.keys() if one else ()
    pivots: dict[str, Path] = {}
    for seed, broad in TRIES:
        still = {n: w for n, w in ways.items() if n not in pivots}
        if still and not (pivots.keys() & enough):
            pivots.update(find(machine, {}, seed, DIRECTLY, starts, still, broad, enough))
    found = {n: p for n, p in pivots.items() if n in claims}
    left = {} if (one and found) or not pivots else {n: c for n, c in claims.items() if n not in found}
    bodies = {n: violation_of(c.body) for n, c in left.items() if c.kind != "transition"}
    if bodies:
        found.update(find(machine, bodies, 1, DIRECTLY, [*pivots.values()], enough=enough))
    about_steps = [c for c in left.values() if c.kind == "transition"]
    if about_steps and not (one and found):
        after = goals_of_steps(system, machine.world, [t for s in system.steps for t in s.outcomes()], about_steps)
        found.update(find(machine, {}, 1, DIRECTLY, [*pivots.values()], after, enough=enough))
    return dict([min(found.items(), key=lambda item: len(item[1].steps()))]) if one and found else found


def by_broken_invariants(
    doubts: Doubts, claims: Mapping[str, Claim], machine: ExecutableModel, starts: Sequence[State], one: bool = False
) -> dict[str, Path]:
    """Paths to violations of claims from some initial states; with `one`, the search ends when there is one.

    The same arguments give the same answer.
    """
    system = doubts.system
    claims = {n: c for n, c in claims.items() if n in doubts.about(claims)}
    known = system.stated()
    every = [*system.invariants, *system.theorems]
    ways: dict[str, Ways] = {n: list(goals(system, machine.world, known[n], every)) for n in doubts.first}
    pivots: dict[str, Path] = {}
    for seed, broad in TRIES:
        if not pivots and claims:
            pivots = find(machine, {}, seed, CALLS, starts, ways, broad)
    found = {n: p for n, p in pivots.items() if n in claims}
    bodies = {n: violation_of(c.body) for n, c in claims.items() if c.kind != "transition"}
    about_steps = {n: c for n, c in claims.items() if c.kind == "transition"}
    after: dict[str, Ways] = {}  # in broken states any step may break a claim about steps
    for seed, broad in TRIES:
        if pivots and claims.keys() - found.keys() and not (one and found):
            left = {n: body for n, body in bodies.items() if n not in found}
            after = after or {n: list(goals(system, machine.world, c)) for n, c in about_steps.items()}
            more = {n: w for n, w in after.items() if n not in found}
            found.update(find(machine, left, seed, CALLS, [*pivots.values()], more, broad))
    return found


__all__ = ["QUICKLY", "Doubts", "by_broken_invariants", "by_promised_breaks", "promised", "violation_of"]
