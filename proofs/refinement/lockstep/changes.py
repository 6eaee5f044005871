"""Finds, for a claim about steps, the places of which a step that breaks the claim must change one.

A claim such as `not told[n, d] and next(told[n, d]) implies ...` cannot be false for n and d unless the step changes
`told[n, d]`. So a step is checked only for the places that it changed. This is derived from the claim alone: if such places
are as before, what it supposes contradicts itself (`causes`). A claim of which this cannot be derived has no causes, and is
evaluated as a whole. Not here: the evaluation (claims.py).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from bulkhead.model.ir import FALSE, TRUE, App, Lit, Op, Quant, System, Term, Use, Var, conj, conjuncts, disj, neg
from bulkhead.model.narrow import after, premises, substituted

Place = tuple[str, tuple[Term, ...]]  # a function at variables and constants

MOST_INSTANCES = 64  # of one premise about all elements


def causes(system: System, piece: Term) -> tuple[Place, ...] | None:
    """The places of which one differs before and after each step that breaks this piece of a claim; as few as this finds,
    and None if it finds none."""
    whole = piece if isinstance(piece, Quant) and piece.kind == "forall" else Quant("forall", (), piece)
    vars_, supposed, then = premises(system, whole)
    facts = [f for each in (*supposed, neg(then)) for f in conjuncts(_expanded(system, each))]
    facts += [f for fact in facts for each in _instances(vars_, fact) for f in conjuncts(each)]
    seen = _Reading(system, None)
    if not seen.contradictory(facts):
        return None
    kept = sorted(seen.used, key=lambda place: (len({a for a in place[1] if isinstance(a, Var)}), str(place)))
    for place in list(kept):
        fewer = [other for other in kept if other != place]
        if _Reading(system, frozenset(fewer)).contradictory(facts):
            kept = fewer
    return tuple(kept)


def _expanded(system: System, term: Term) -> Term:
    """The term without definitions."""
    match term:
        case Use(name, args):
            made = system.defs[name]
            body = after(made.body) if term.next else made.body
            given = {p.name: a for p, a in zip(made.params, args, strict=True)}
            return _expanded(system, substituted(body, given))
        case App(func, args, sort, next_):
            return App(func, tuple(_expanded(system, a) for a in args), sort, next_)
        case Op(op, args, sort):
            return Op(op, tuple(_expanded(system, a) for a in args), sort)
        case Quant(kind, vars_, body):
            return Quant(kind, vars_, _expanded(system, body))
    return term


def _instances(vars_: tuple[Var, ...], fact: Term) -> Iterator[Term]:
    """What a fact about all elements says of those that the claim names."""
    match fact:
        case Op("not", (Quant("exists", inner, body),)):
            body = neg(body)
        case Quant("forall", inner, body):
            pass
        case _:
            return
    ways = itertools.product(*([v for v in vars_ if v.sort == each.sort] for each in inner))
    for way in itertools.islice(ways, MOST_INSTANCES):
        yield substituted(body, {each.name: v for each, v in zip(inner, way, strict=True)})


@dataclass
class _Reading:
    """Facts about the states before and after a step that changes none of some places: are they contradictory?

    `known` has the truth of atoms, `same` the variable or constant that an application is equal to; the facts imply both.
    """

    system: System
    kept: frozenset[Place] | None  # the places that do not change; None: no place at variables and constants does
    used: set[Place] = field(default_factory=set)
    known: dict[Term, bool] = field(default_factory=dict)
    same: dict[Term, Term] = field(default_factory=dict)

    def contradictory(self, facts: Iterable[Term]) -> bool:
        """Is there no such step? False if this is not seen."""
        left = list(facts)
        while True:
            learned, rest = False, list[Term]()
            for fact in left:
                for each in conjuncts(self.simple(fact)):
                    if each == FALSE:
                        return True
                    if each != TRUE:
                        learned |= self._learn(each)
                        rest.append(each)
            if not learned:
                return False
            left = rest

    def _learn(self, fact: Term) -> bool:
        """Keep a fact; is it news?"""
        match fact:
            case Op("=", (App() as place, (Var() | Lit()) as value)) | Op("=", ((Var() | Lit()) as value, App() as place)):
                news = self.same.setdefault(place, value) is value
            case Op("not", (inner,)):
                news = inner not in self.known
                self.known[inner] = False
            case _:
                news = fact not in self.known
                self.known[fact] = True
        return news

    def simple(self, term: Term) -> Term:
        """The term by all that is known."""
        found = self._simple(term)
        if found in self.same:
            return self.same[found]
        return (TRUE if self.known[found] else FALSE) if found in self.known else found

    def _simple(self, term: Term) -> Term:
        match term:
            case App(func, args):
                made = replace(term, args=tuple(map(self.simple, args)))
                if term.next and all(isinstance(a, Var | Lit) for a in made.args):
                    place = func, made.args
                    if self.kept is None or place in self.kept:
                        self.used.add(place)
                        return replace(made, next=False)
                return made
            case Op("not", (inner,)):
                return neg(self.simple(inner))
            case Op("=", (left, right)):
                return self._equal(self.simple(left), self.simple(right))
            case Op("=>", (left, right)):
                return disj([neg(self.simple(left)), self.simple(right)])
            case Op(("and" | "or") as op, args):
                parts = [self.simple(a) for a in args]
                ends, other = (FALSE, conj) if op == "and" else (TRUE, disj)
                return ends if ends in parts else other(parts)
            case Op("ite", (cond, then, other)):
                test = self.simple(cond)
                if test in (TRUE, FALSE):
                    return self.simple(then if test == TRUE else other)
                return replace(term, args=(test, self.simple(then), self.simple(other)))
        return term  # also a quantifier: nothing is derived from what it says of other elements

    def _equal(self, left: Term, right: Term) -> Term:
        if left == right:
            return TRUE
        if isinstance(left, Lit) and isinstance(right, Lit) and left.sort in self.system.enums:
            return FALSE
        for one, other in ((left, right), (right, left)):
            if one == TRUE:
                return other
            if one == FALSE:
                return neg(other)
        return Op("=", (left, right))


@dataclass(frozen=True)
class Changed:
    """A place that a claim is about, as a table: which of its indices are variables of the claim."""

    table: int
    sizes: tuple[int, ...]
    names: tuple[str, ...]  # of the variables; "" for a constant

    @functools.cached_property
    def given(self) -> tuple[str, ...]:
        """The variables that a place gives values to."""
        return tuple(dict.fromkeys(n for n in self.names if n))

    @functools.cached_property
    def _plain(self) -> bool:
        return len(self.given) == len(self.sizes)

    def values(self, at: int) -> tuple[int, ...] | None:
        """The values of these variables at a place of the table; None if two values are of one variable."""
        if self._plain and 0 < len(self.sizes) < 3:
            return (at,) if len(self.sizes) == 1 else divmod(at, self.sizes[1])
        found: dict[str, int] = {}
        for size, name in zip(reversed(self.sizes), reversed(self.names), strict=True):
            at, i = divmod(at, size)
            if name and found.setdefault(name, i) != i:
                return None
        return tuple(found[n] for n in self.given)


def changes(log: Iterable[tuple[int, int, int]], state: list[list[int]]) -> dict[int, dict[int, int]]:
    """What a step changed, from the log of its assignments: by table and place, the value before."""
    first: dict[tuple[int, int], int] = {}
    for table, at, value in log:
        first.setdefault((table, at), value)
    out: dict[int, dict[int, int]] = {}
    for (table, at), value in first.items():
        if state[table][at] != value:
            out.setdefault(table, {})[at] = value
    return out


def undone(state: list[list[int]], changed: Mapping[int, Mapping[int, int]], tables: Iterable[int]) -> list[list[int]]:
    """The state before the step in these tables; the others are shared."""
    out = list(state)
    for k in tables:
        if k in changed:
            out[k] = state[k][:]
            for at, value in changed[k].items():
                out[k][at] = value
    return out


__all__ = ["Changed", "Place", "causes", "changes", "undone"]
