"""The part of a system that a claim depends on: its cone of influence.

A system may consist of parts that share nothing, and a search of all of them at once visits every combination of their
states. A step belongs to the cone if it assigns state that the claim, or another step of the cone, reads or assigns. An
attack within the cone is an attack on the whole system: the rest of the first state only has to be an initial one.
Not here: searches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from bulkhead.model.ir import TRUE, App, Claim, Step, System, Term, Use, subterms
from bulkhead.model.trace import Trace
from bulkhead.model.world import World
from bulkhead.proofs.theorems.grounding import Grounding
from bulkhead.proofs.theorems.least_world import grown
from bulkhead.proofs.theorems.queries import QueryMaker
from bulkhead.proofs.theorems.solvers import FAST_EFFORT, Z3Session


def cone(system: System, claim: Claim) -> System | None:
    """The part of a system that a claim depends on; None if that is all of it, or if any step at all may break the claim."""
    if claim.kind == "transition" and not _kept_by_other_steps(system, claim):
        return None
    touched = {step: _touched(system, step) for step in system.steps}
    told = [_reads(system, c.body) for c in (*system.inits, *system.axioms)]
    funcs, size = _reads(system, claim.body), -1
    steps: list[Step] = []
    while size < len(funcs):
        size = len(funcs)
        steps = [s for s in system.steps if _written(s) & funcs]
        funcs = funcs.union(*(touched[s] for s in steps), *(some for some in told if some & funcs))
    if len(steps) == len(system.steps):
        return None

    def speaks(term: Term) -> bool:
        return _reads(system, term) <= funcs

    used = {s for n in funcs for s in (*system.funcs[n].args, system.funcs[n].sort)}
    used |= {p.sort for s in steps for t in s.outcomes() for p in t.params}
    return replace(
        system,
        funcs={n: f for n, f in system.funcs.items() if n in funcs},
        defs={n: d for n, d in system.defs.items() if speaks(d.body)},
        inits=tuple(c for c in system.inits if speaks(c.body)),
        axioms=tuple(c for c in system.axioms if speaks(c.body)),
        invariants={n: c for n, c in system.invariants.items() if speaks(c.body)},
        theorems={n: c for n, c in system.theorems.items() if speaks(c.body)},
        step_claims={claim.name: claim} if claim.kind == "transition" else {},
        steps=tuple(steps),
        scenarios={},
        scope={**system.scope, **{s: (1, 1) for s in system.sorts if s not in used}},
    )


def in_whole(system: System, part: System, trace: Trace) -> Trace | None:
    """An attack on a part of a system as one on the whole; None if the rest has no initial state beside it."""
    used = set(part.sorts) - {s for s, size in part.scope.items() if size == (1, 1)}
    sizes = grown(system, dict(trace.world.sizes), used)
    grounding = Grounding(system, World(sizes, dict(trace.world.consts)))
    grounding.require(c.body for c in (*system.inits, *system.axioms) if c not in part.inits and c not in part.axioms)
    if grounding.possible() != "sat":
        return None
    state = dict(zip(system.funcs, grounding.state(), strict=True))
    state.update(zip(part.funcs, trace.initial, strict=True))
    return replace(trace, world=grounding.placed(), initial=list(state.values()))


def _kept_by_other_steps(system: System, claim: Claim) -> bool:
    """Does a claim about a step hold for every step that changes nothing of what it reads?"""
    maker = QueryMaker(system)
    session = Z3Session(cores=False, fast=True, effort=FAST_EFFORT)
    session.tell(maker.formulas.prelude.text)
    blocks = maker.unchanged([claim])
    return all(session.ask(b.text() + q.goal).verdict == "unsat" for b in blocks for q in b.queries)


def _reads(system: System, term: Term) -> frozenset[str]:
    """The state functions that a term reads, also through definitions."""
    found: set[str] = set()
    for t in subterms(term):
        if isinstance(t, App):
            found.add(t.func)
        elif isinstance(t, Use):
            found |= _reads(system, system.defs[t.name].body)
    return frozenset(found)


def _written(step: Step) -> frozenset[str]:
    return frozenset(u.func for t in step.outcomes() for u in t.updates)


def _terms(step: Step) -> Iterator[Term]:
    for t in step.outcomes():
        yield t.guard
        for u in t.updates:
            yield from (*u.args, u.value, u.cond)


def _touched(system: System, step: Step) -> frozenset[str]:
    """The state functions that a step reads or assigns."""
    read: Iterable[frozenset[str]] = (_reads(system, term) for term in {TRUE, *_terms(step)})
    return _written(step).union(*read) & system.funcs.keys()


__all__ = ["cone", "in_whole"]
