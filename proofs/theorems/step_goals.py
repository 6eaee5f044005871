"""Violations of claims by a step, as formulas over the state before it: goals for the directed search.

For a claim and an outcome of a step, the claim's reads after the step (all reads of a claim about one state) are
replaced by the assigned values (weakest precondition, `model/after.py`). The result constrains the state, the arguments of
the step, and the elements for which the claim fails. Not here: the search (`directed_search.py`); a found violation
counts only after its replay.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from bulkhead.model.after import told_before
from bulkhead.model.choices import in_world
from bulkhead.model.ir import FALSE, TRUE, Claim, Quant, System, Term, Transition, Var, conj, conjuncts, neg
from bulkhead.model.world import World
from bulkhead.proofs.theorems.queries import Block, QueryMaker, name_of
from bulkhead.proofs.theorems.solvers import FAST_EFFORT, Z3Session

Ways = list[tuple[Transition, Transition]]  # a step, and when it breaks a claim


def violation(system: System, claim: Claim, transition: Transition) -> tuple[tuple[Var, ...], Term]:
    """The condition under which a step breaks a claim: variables, and a formula over them, the parameters and the state."""
    names = {"failed": TRUE if transition.code else FALSE}
    body = told_before(claim.body, transition.updates, system.defs, names, later=claim.kind != "transition")
    found: list[Var] = []
    while isinstance(body, Quant) and body.kind == "forall":
        found += body.vars
        body = body.body
    return tuple(found), neg(body)


def goals(system: System, world: World, claim: Claim, assumed: Iterable[str] = ()) -> Ways:
    """The outcomes that may break a claim in a world, each as a step and as a goal: after the step, the claim is false."""
    outcomes = [t for s in system.steps for t in s.outcomes()]
    return goals_of_steps(system, world, outcomes, [claim], assumed).get(claim.name, [])


def goals_of_steps(
    system: System, world: World, outcomes: Iterable[Transition], claims: Iterable[Claim], assumed: Iterable[str] = ()
) -> dict[str, Ways]:
    """How some outcomes may break some claims in a world, for each claim.

    Outcomes that a solver quickly proves to keep the claim in every state are omitted; the queries are those of the proof.
    `assumed` names invariants and theorems that hold in these states.
    """
    known = {**system.invariants, **system.theorems}
    by_name = {c.name: c for c in claims}
    about_a_step = [c for c in by_name.values() if c.kind == "transition"]
    about_a_state = [c for c in by_name.values() if c.kind != "transition"]
    assumed = tuple(name_of(known[n]) for n in assumed)
    maker = QueryMaker(system)
    session = Z3Session(cores=False, fast=True, effort=FAST_EFFORT)
    session.tell(maker.formulas.prelude.text)

    def kept(blocks: Iterable[Block]) -> set[tuple[str, str]]:
        """The queries that are refuted."""
        return {q.key for b in blocks for q in b.queries if session.ask(b.text() + q.goal).verdict == "unsat"}

    harmless = kept(maker.unchanged(about_a_step))
    ways: dict[str, Ways] = {}
    for outcome in outcomes:
        block = maker.step(outcome, about_a_state, assumed, about_a_step, harmless)
        if block is not None:
            surely = kept([block])
            for name in (q.claim for q in block.queries if q.key not in surely):
                ways.setdefault(name, []).extend(way(system, world, by_name[name], outcome))
    return {n: found for n, found in ways.items() if found}


def way(system: System, world: World, claim: Claim, outcome: Transition) -> Ways:
    """How an outcome breaks a claim in a world, as a step and as a goal; nothing if its form shows that it cannot."""
    outcome = in_world(system, world, outcome)
    some, broken = violation(system, claim, outcome)
    guard = conj([*conjuncts(outcome.guard), *conjuncts(broken)])
    if FALSE in conjuncts(guard):
        return []
    return [(outcome, replace(outcome, params=(*outcome.params, *some), guard=guard, updates=()))]


__all__ = ["Ways", "goals", "goals_of_steps", "violation", "way"]
