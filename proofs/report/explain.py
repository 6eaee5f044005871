"""Finds the places of a state that make a claim false; pictures draw them in red.

For every binding of the outer `forall` that violates the claim, the search follows the parts of the formula that
decide its value: both sides of a false implication, the first false part of a conjunction, all parts of a true one. The
places read there are the culprits. Inner quantifiers that depend on all their instances have none: a missing element
has no place.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from bulkhead.model.ir import App, Lit, Op, Quant, System, Term, Use, Var
from bulkhead.model.world import State, World, elements, index_names, size_of

Place = tuple[str, tuple[str, ...]]  # a state function at elements, by name
Env = dict[str, int]
MOST = 200_000  # maximum of bindings; a picture without red is better than none


@dataclass(frozen=True)
class Moment:
    """The state in which a claim is evaluated; for a claim about steps also the state after it, and whether it failed."""

    state: State
    after: State | None = None
    failed: bool = False


def culprits(system: System, world: World, claim: Term, moment: Moment) -> set[Place]:
    """The places that make a claim false at this moment."""
    reader = _Reader(system, world, moment)
    bound: list[tuple[str, str]] = []
    while isinstance(claim, Quant) and claim.kind == "forall":
        bound += [(v.name, v.sort) for v in claim.vars]
        claim = claim.body
    found: set[Place] = set()
    ranges = [range(size_of(system, world, sort)) for _, sort in bound]
    for values in itertools.islice(itertools.product(*ranges), MOST):
        env = dict(zip([name for name, _ in bound], values, strict=True))
        if not reader.value(claim, env):
            found |= reader.reasons(claim, env)
    return found


class _Reader:
    """Evaluates terms, and finds the places that determine a value."""

    def __init__(self, system: System, world: World, moment: Moment) -> None:
        self.system, self.world, self.moment = system, world, moment
        self.number = {name: k for k, name in enumerate(system.funcs)}
        self.members = {m: i for members in system.enums.values() for i, m in enumerate(members)}

    def value(self, term: Term, env: Env) -> int:
        match term:
            case Var("failed", "bool") if "failed" not in env:
                return int(self.moment.failed)
            case Var(name):
                return env[name]
            case Lit(name, sort):
                if name in self.world.consts:
                    return self.world.consts[name]
                return int(name == "true") if sort == "bool" else self.members[name]
            case App(func):
                state = self.moment.after if term.next and self.moment.after is not None else self.moment.state
                return state[self.number[func]][self._index(term, env)]
            case Use(name):
                return self._defined(term).value(self.system.defs[name].body, self._inside(term, env))
            case Op("not", (inner,)):
                return int(not self.value(inner, env))
            case Op("=>", (left, right)):
                return int(not self.value(left, env) or bool(self.value(right, env)))
            case Op("=", (left, right)):
                return int(self.value(left, env) == self.value(right, env))
            case Op("ite", (cond, then, other)):
                return self.value(then if self.value(cond, env) else other, env)
            case Op("and", args):
                return int(all(self.value(a, env) for a in args))
            case Op(_, args):
                return int(any(self.value(a, env) for a in args))
            case Quant("forall", _, body):
                return int(all(self.value(body, e) for e in self._bindings(term, env)))
            case Quant(_, _, body):
                return int(any(self.value(body, e) for e in self._bindings(term, env)))
        raise AssertionError(term)

    def reasons(self, term: Term, env: Env) -> set[Place]:
        """The places that determine the term's value."""
        match term:
            case Var() | Lit():
                return set()
            case App(func, args):
                place = (func, tuple(index_names(self.system, self.world, func, self._index(term, env))))
                return {place}.union(*(self.reasons(a, env) for a in args))
            case Use(name):
                inner = self._defined(term).reasons(self.system.defs[name].body, self._inside(term, env))
                return inner.union(*(self.reasons(a, env) for a in term.args))
            case Op("ite", (cond, then, other)):
                chosen = then if self.value(cond, env) else other
                return self.reasons(cond, env) | self.reasons(chosen, env)
            case Op("and" | "or" as op, args):
                decisive = [a for a in args if bool(self.value(a, env)) == (op == "or")][:1]
                return set[Place]().union(*(self.reasons(a, env) for a in decisive or args))
            case Op("=>", (left, right)):
                if not self.value(left, env):
                    return self.reasons(left, env)
                return (
                    self.reasons(right, env)
                    if self.value(right, env)
                    else self.reasons(left, env) | self.reasons(right, env)
                )
            case Op(_, args):
                return set[Place]().union(*(self.reasons(a, env) for a in args))
            case Quant(kind, _, body):
                one = next((e for e in self._bindings(term, env) if bool(self.value(body, e)) == (kind == "exists")), None)
                return self.reasons(body, one) if one is not None else set()
        raise AssertionError(term)

    def _index(self, term: App, env: Env) -> int:
        index = 0
        for arg, sort in zip(term.args, self.system.funcs[term.func].args, strict=True):
            index = index * size_of(self.system, self.world, sort) + self.value(arg, env)
        return index

    def _inside(self, term: Use, env: Env) -> Env:
        params = self.system.defs[term.name].params
        return {p.name: self.value(a, env) for p, a in zip(params, term.args, strict=True)}

    def _defined(self, term: Use) -> _Reader:
        """A definition used on the state after the step reads that state throughout."""
        if not term.next or self.moment.after is None:
            return self
        return _Reader(self.system, self.world, Moment(self.moment.after, None, self.moment.failed))

    def _bindings(self, term: Quant, env: Env) -> list[Env]:
        names = [v.name for v in term.vars]
        ranges = [range(size_of(self.system, self.world, v.sort)) for v in term.vars]
        return [{**env, **dict(zip(names, values, strict=True))} for values in itertools.product(*ranges)]


def facts_of(system: System, world: World, state: State) -> dict[str, dict[tuple[str, ...], str]]:
    """A state as names: function -> arguments -> value, without ghost state."""
    out: dict[str, dict[tuple[str, ...], str]] = {}
    for k, func in enumerate(system.funcs.values()):
        if not func.ghost:
            names = elements(system, world, func.sort)
            out[func.name] = {tuple(index_names(system, world, func.name, i)): names[v] for i, v in enumerate(state[k])}
    return out
