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
from bulkhead.proofs.theorems.step_goals import Ways, goals

TRIES = ((1, False), (2, True), (3, False))  # of the directed search: the seed, and whether it is broad
CALLS = 10_000  # of one search
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


__all__ = ["QUICKLY", "Doubts", "by_broken_invariants", "violation_of"]
