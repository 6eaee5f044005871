"""Violations of claims about a step, as formulas over the state before it: goals for the directed search.

For a claim and an outcome of a step, the claim's reads after the step are replaced by the assigned values (weakest
precondition). The result constrains the state, the arguments of the step, and the elements for which the claim fails. Not
here: the search (`directed_search.py`); a found violation counts only after its replay.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from bulkhead.model.ir import (
    FALSE,
    TRUE,
    App,
    Claim,
    Definition,
    Op,
    Quant,
    System,
    Term,
    Transition,
    Update,
    Use,
    Var,
    conj,
    conjuncts,
    eq,
    neg,
)
from bulkhead.proofs.theorems.queries import Block, QueryMaker
from bulkhead.proofs.theorems.solvers import FAST_LIMIT, Z3Session

Env = Mapping[str, Term]


@dataclass
class _Before:
    """Translates a formula about the two states of a step to a formula over the state before it."""

    system: System
    transition: Transition
    failed: bool
    _fresh: itertools.count[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self._updates: dict[str, list[Update]] = {}
        for update in self.transition.updates:
            self._updates.setdefault(update.func, []).append(update)

    def term(self, term: Term, env: Env, later: bool = False) -> Term:
        """The term with `env` for its variables; with `later` it is read completely in the state after the step."""
        match term:
            case Var("failed") if "failed" not in env:
                return TRUE if self.failed else FALSE
            case Var(name):
                return env.get(name, term)
            case App(func, args, sort, after):
                places = tuple(self.term(a, env, later) for a in args)
                return self._after(App(func, places, sort)) if after or later else App(func, places, sort)
            case Use(name, args, sort, after):
                places = tuple(self.term(a, env, later) for a in args)
                made = self.system.defs[name]
                if (after or later) and self._changed(made):
                    return self.term(made.body, {p.name: a for p, a in zip(made.params, places, strict=True)}, True)
                return Use(name, places, sort)
            case Op(op, args, sort):
                return Op(op, tuple(self.term(a, env, later) for a in args), sort)
            case Quant(kind, vars_, body):
                bound = tuple(self._new(v) for v in vars_)
                inner = {**env, **{v.name: b for v, b in zip(vars_, bound, strict=True)}}
                return Quant(kind, bound, self.term(body, inner, later))
        return term

    def _new(self, var: Var) -> Var:
        """A variable with a fresh name, to avoid capture."""
        return Var(f"0{next(self._fresh)}_{var.name}", var.sort)

    def _changed(self, made: Definition) -> bool:
        """Does a definition read an assigned function, directly or through another definition?"""
        todo: list[Term] = [made.body]
        while todo:
            match todo.pop():
                case App(func, args):
                    if func in self._updates:
                        return True
                    todo += args
                case Use(name, args):
                    todo += [self.system.defs[name].body, *args]
                case Op(_, args):
                    todo += args
                case Quant(_, _, body):
                    todo.append(body)
        return False

    def _after(self, place: App) -> Term:
        """The value of a place after the step; its indices are terms over the state before."""
        value: Term = place
        for update in self._updates.get(place.func, ()):  # the last one is outermost and wins
            cond, new = self._assigned(update, place.args)
            value = new if cond == TRUE else value if cond == FALSE else Op("ite", (cond, new, value), place.sort)
        return value

    def _assigned(self, update: Update, args: tuple[Term, ...]) -> tuple[Term, Term]:
        """The condition under which an assignment writes a place, and the value."""
        bound = {v.name for v in update.binders}
        env: dict[str, Term] = {}
        tests: list[tuple[Term, Term]] = []
        for arg, index in zip(args, update.args, strict=True):
            if isinstance(index, Var) and index.name in bound and index.name not in env:
                env[index.name] = arg
            else:
                tests.append((arg, index))
        loose = [v for v in update.binders if v.name not in env]
        names = {v.name: self._new(v) for v in loose}
        inner: dict[str, Term] = {**env, **names}
        conds = [_equal(arg, self.term(index, inner)) for arg, index in tests]
        conds.append(self.term(update.cond, inner))
        cond: Term = FALSE if FALSE in conds else conj(conds)
        if loose and cond not in (TRUE, FALSE):
            cond = Quant("exists", tuple(names.values()), cond)
        return cond, self.term(update.value, inner)


def _equal(left: Term, right: Term) -> Term:
    """Equality, decided if both are the same, or different members of an enum."""
    if left == right:
        return TRUE
    return eq(left, right)


def violation(system: System, claim: Claim, transition: Transition) -> tuple[tuple[Var, ...], Term]:
    """The condition under which a step breaks a claim: variables, and a formula over them, the parameters and the state."""
    body = _Before(system, transition, bool(transition.code)).term(claim.body, {})
    found: list[Var] = []
    while isinstance(body, Quant) and body.kind == "forall":
        found += body.vars
        body = body.body
    return tuple(found), neg(body)


def goals(system: System, claim: Claim) -> Iterator[tuple[Transition, Transition]]:
    """The outcomes that may break a claim, each as a step and as a goal: the step, and then the claim is false.

    Outcomes that a solver quickly proves to keep the claim in every state are omitted; the queries are those of the proof.
    """
    maker = QueryMaker(system)
    session = Z3Session(FAST_LIMIT, cores=False, fast=True)
    session.tell(maker.formulas.prelude.text)

    def kept(blocks: Iterable[Block]) -> set[tuple[str, str]]:
        """The queries that are refuted."""
        return {q.key for b in blocks for q in b.queries if session.ask(b.text() + q.goal).verdict == "unsat"}

    harmless = kept(maker.unchanged([claim]))
    for outcome in maker.transitions:
        block = maker.step(outcome, (), (), [claim], harmless)
        if block is not None and not kept([block]):
            some, broken = violation(system, claim, outcome)
            guard = conj([*conjuncts(outcome.guard), *conjuncts(broken)])
            if FALSE not in conjuncts(guard):
                yield outcome, replace(outcome, params=(*outcome.params, *some), guard=guard, updates=())


__all__ = ["goals", "violation"]
