"""Finds states of a finite world by a SAT solver: formulas are grounded, with one boolean per place and value.

Units are propagated first: places that formulas fix directly (as most initial formulas do) need no grounding
and solving. Arguments, and constants without a fixed element, are free: a term then has each of its values
under some condition. Not here: the effect of steps.
"""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Iterable, Iterator
from typing import Any

from bulkhead.model import symbols
from bulkhead.model.ir import BOOL, App, Lit, Op, Quant, System, Term, Use, Var, conjuncts
from bulkhead.model.world import State, World, size_of, table_sizes
from bulkhead.proofs.theorems.solvers import UNLIMITED, Spent, bounded

EFFORT = 400_000_000  # Z3's resource limit for one query; it is deterministic
Truth = str | bool  # a condition: SMT-LIB text over booleans, or known
Values = dict[int, Truth]  # each possible value of a term, with its condition
Env = dict[str, Values]


class Grounding:
    """One state of a world, as far as formulas fix it. Constants without an element in the world are free."""

    def __init__(self, system: System, world: World, limit: float = math.inf, spent: Spent | None = None) -> None:
        """`limit` is the time for one query to the solver, in seconds, if not its effort; `spent` adds these up."""
        self._limit = limit
        self._spent = spent or Spent()
        self._solver: Any = None  # created at the first query: propagation needs no solver
        self.system, self.world = system, world
        self.members = {(sort, m): i for sort, ms in self.system.enums.items() for i, m in enumerate(ms)}
        self.number = {name: k for k, name in enumerate(self.system.funcs)}
        self._places: dict[str, tuple[Values, int]] = {}  # places of booleans
        self._untold: list[str] = []
        self.cells: list[list[Values]] = []  # per state function and place: its possible values
        for f, n in zip(system.funcs.values(), table_sizes(system, world), strict=True):
            self.cells.append([self.choice(f"{symbols.function(f.name)}@{i}", f.sort) for i in range(n)])
        self.consts: dict[str, Values] = {
            name: {world.consts[name]: True} if name in world.consts else self.choice(symbols.literal(name, sort), sort)
            for name, sort in system.consts.items()
        }

    def _eval(self, text: str) -> str:
        import z3  # slow to import, and needed only if propagation leaves places open

        if self._solver is None:
            self._solver = z3.Context()
            self._eval("(set-option :produce-unsat-cores true)(set-logic QF_FD)")
        with self._spent.counted():
            out = str(z3.Z3_eval_smtlib2_string(self._solver.ref(), text))
        if "(error" in out:
            raise AssertionError(f"z3: {out.strip()[:500]}")
        return out

    def _asked(self, question: str) -> str:
        """The answer to a question, with bounded effort."""
        out = self._eval((bounded(self._limit) if math.isfinite(self._limit) else bounded(effort=EFFORT)) + question)
        self._eval(UNLIMITED)
        return out.strip()

    def choice(self, name: str, sort: str) -> Values:
        """Any value of a sort."""
        size = size_of(self.system, self.world, sort)
        if size == 1:
            return {0: True}
        if sort == BOOL:
            made: Values = {0: f"(not {name})", 1: name}
            self._untold.append(f"(declare-const {name} Bool)")
        else:
            made = {v: f"{name}={v}" for v in range(size)}
            self._untold += [f"(declare-const {one} Bool)" for one in made.values()]
            self._untold.append(f"(assert ((_ pbeq 1{' 1' * size}) {joined(made.values())}))")
        for v, when in made.items():
            self._places[text(when)] = made, v
        return made

    # What holds.

    def require(self, bodies: Iterable[Term]) -> None:
        """Assert closed formulas, after propagating their units until nothing changes."""
        left: list[tuple[Term, Env]] = [(body, {}) for body in bodies]
        more = True
        while more:
            more, kept = False, []
            for part, env in (p for term, outer in left for p in self._conjuncts(term, outer)):
                told = self.truth(part, env)
                if told is not True and self._outright(told):
                    more = True
                elif told is not True:
                    kept.append((part, env))
            left = kept
        self._untold += [f"(assert {text(self.truth(part, env))})" for part, env in left]

    def can_be_false(self, body: Term, env: Env | None = None) -> bool:
        """May a closed formula be false in some state at all? False where only its shape and the sizes make it true."""
        return any(self.truth(part, inner) is not True for part, inner in self._conjuncts(body, env or {}))

    def _conjuncts(self, term: Term, env: Env) -> Iterator[tuple[Term, Env]]:
        for part in conjuncts(term):
            match part:
                case Quant("forall", vars_, body):
                    for inner in self._bindings(vars_, env):
                        yield from self._conjuncts(body, inner)
                case Use(name, args):
                    yield from self._conjuncts(self.system.defs[name].body, self._given(name, args, env))
                case _:
                    yield part, env

    def _outright(self, told: Truth) -> bool:
        """Propagate a unit: a place has, or does not have, a value; true if that is new."""
        denied = text(told) not in self._places
        place, value = self._places.get(text(self.no(told) if denied else told), ({}, 0))
        if value not in place:  # not a unit, or a contradiction, which the solver will find
            return False
        self._untold.append(f"(assert {text(told)})")
        if denied:
            del place[value]
            if len(place) > 1:
                return True
            (value,) = place
        place.clear()
        place[value] = True
        return True

    def possible(self, wishes: Iterable[str] = ()) -> str:
        """The solver's answer to whether a state also satisfies these wishes (names). Its model is kept."""
        self._eval("\n".join(self._untold))
        self._untold = []
        return self._asked(f"(check-sat-assuming ({' '.join(wishes)}))")

    def wish(self, parts: Iterable[Truth]) -> str:
        """Find a state that satisfies as many wishes as possible; of conflicting ones the last is dropped.

        Returns the solver's answer: `sat` if there is a state, even without the wishes. All that accepted wishes rule out
        is dropped at once, so that hundreds that exclude each other take a few questions.
        """
        left: list[str] = []
        for part in parts:
            if not isinstance(part, bool):
                left.append(f"wish!{len(left)}")
                self._untold.append(f"(declare-const {left[-1]} Bool)(assert (=> {left[-1]} {part}))")
        kept: list[str] = []  # these can be satisfied together
        many = len(left)
        while (answer := self.possible([*kept, *left[:many]])) != "sat" or many < len(left):
            if answer == "sat":
                kept, left, many = [*kept, *left[:many]], left[many:], len(left)
                continue
            core = self._eval("(get-unsat-core)").strip("() \n").split() if answer == "unsat" else []
            places = [k for k, name in enumerate(left[:many]) if name in core]
            if not places:  # no wish is the reason, or it is `unknown`: drop all that are not accepted
                return answer if answer == "unsat" else self.possible(kept)
            if places[-1] > 0:
                many = places[-1]  # up to the last of the conflict
                continue
            left = self._not_ruled_out(kept, left[1:])
            many = len(left)
        return answer

    def _not_ruled_out(self, kept: list[str], wishes: list[str]) -> list[str]:
        """Those wishes that the accepted ones do not make false, as far as the solver knows."""
        out = self._asked(f"(get-consequences ({' '.join(kept)}) ({' '.join(wishes)}))")
        denied = set(re.findall(r"\(not (wish![0-9]+)\)", out)) if out.startswith("sat") else set()
        return [name for name in wishes if name not in denied]

    def _true(self, asked: Iterable[Truth]) -> list[bool]:
        """Which of these are true in the current model."""
        out = self._eval("".join(f"(eval {text(part)} :completion true)\n" for part in asked))
        return [answer == "true" for answer in out.split()]

    def state(self) -> State:
        """The state of the current model."""
        open_cells = [cell for table in self.cells for cell in table if len(cell) > 1]
        values = iter(self._values_of(open_cells))
        return [[next(iter(cell)) if len(cell) == 1 else next(values) for cell in table] for table in self.cells]

    def placed(self) -> World:
        """The world with the elements that the constants name in the current model."""
        return World(dict(self.world.sizes), dict(zip(self.consts, self._values_of(self.consts.values()), strict=True)))

    def _values_of(self, asked: Iterable[Values]) -> list[int]:
        asked = list(asked)
        answers = iter(self._true([when for values in asked for when in values.values()]))
        found = [[v for v in values if next(answers)] for values in asked]
        return [values[0] for values in found]

    # Formulas.

    def _bindings(self, vars_: tuple[Var, ...], env: Env) -> Iterator[Env]:
        ranges = [range(size_of(self.system, self.world, v.sort)) for v in vars_]
        for choice in itertools.product(*ranges):
            yield env | {v.name: {i: True} for v, i in zip(vars_, choice, strict=True)}

    def _given(self, name: str, args: tuple[Term, ...], env: Env) -> Env:
        """The values of a definition's parameters at its use."""
        return {p.name: self.values(a, env) for p, a in zip(self.system.defs[name].params, args, strict=True)}

    def either(self, parts: list[Truth]) -> Truth:
        """Disjunction."""
        if any(p is True for p in parts):
            return True
        kept = [p for p in parts if p is not False]
        return f"(or {joined(kept)})" if len(kept) > 1 else kept[0] if kept else False

    def both(self, parts: list[Truth]) -> Truth:
        """Conjunction."""
        if any(p is False for p in parts):
            return False
        kept = [p for p in parts if p is not True]
        return f"(and {joined(kept)})" if len(kept) > 1 else kept[0] if kept else True

    def no(self, part: Truth) -> Truth:
        """Negation."""
        if isinstance(part, bool):
            return not part
        return part[5:-1] if part.startswith("(not ") else f"(not {part})"

    def values(self, term: Term, env: Env) -> Values:
        """Each possible value of the term, with its condition."""
        match term:
            case Var(name):
                return env[name]
            case Lit(name, sort) if name in self.system.consts:
                return self.consts[name]
            case Lit() if term.number is not None:
                return {term.number: True}
            case Lit(name, sort) if sort != BOOL:
                return {self.members[sort, name]: True}
            case App(func, args):
                return self._applied(func, [self.values(a, env) for a in args])
            case Use(name, args) if term.sort != BOOL:
                return self.values(self.system.defs[name].body, self._given(name, args, env))
            case Op("ite", (cond, then, other)):
                test = self.truth(cond, env)
                if isinstance(test, bool):
                    return self.values(then if test else other, env)
                a, b = self.values(then, env), self.values(other, env)
                other_way = self.no(test)
                return {
                    v: self.either([self.both([test, a.get(v, False)]), self.both([other_way, b.get(v, False)])])
                    for v in {**a, **b}
                }
        when = self.truth(term, env)
        return {int(when): True} if isinstance(when, bool) else {0: self.no(when), 1: when}

    def _applied(self, func: str, args: list[Values]) -> Values:
        sizes = [size_of(self.system, self.world, s) for s in self.system.funcs[func].args]
        table = self.cells[self.number[func]]
        found: dict[int, list[Truth]] = {}
        for choice in itertools.product(*(a.items() for a in args)):
            index = 0
            for (i, _), n in zip(choice, sizes, strict=True):
                index = index * n + i
            whens = [when for _, when in choice if when is not True]
            for v, cell in table[index].items():
                found.setdefault(v, []).append(self.both([cell, *whens]))
        if len(found) == 1:
            return dict.fromkeys(found, True)
        return {v: self.either(parts) for v, parts in found.items()}

    def truth(self, term: Term, env: Env) -> Truth:
        """The condition under which a formula is true."""
        match term:
            case Lit(name) if name not in self.system.consts:
                return name == "true"
            case Use(name, args):
                return self.truth(self.system.defs[name].body, self._given(name, args, env))
            case Op("not", (inner,)):
                return self.no(self.truth(inner, env))
            case Op("=>", (left, right)):
                cond = self.truth(left, env)
                return True if cond is False else self.either([self.no(cond), self.truth(right, env)])
            case Op("and", args):
                return self.both(list(_until(False, (self.truth(a, env) for a in args))))
            case Op("or", args):
                return self.either(list(_until(True, (self.truth(a, env) for a in args))))
            case Op("=", (left, right)):
                a, b = self.values(left, env), self.values(right, env)
                if len(a) == len(b) == 1:
                    return a.keys() == b.keys()
                return self.either([self.both([when, b[v]]) for v, when in a.items() if v in b])
            case Quant(kind, vars_, body):
                parts = (self.truth(body, inner) for inner in self._bindings(vars_, env))
                return self.both(list(_until(False, parts))) if kind == "forall" else self.either(list(_until(True, parts)))
        return self.values(term, env).get(1, False)


def _until(end: bool, parts: Iterable[Truth]) -> Iterator[Truth]:
    """The parts, up to the first that decides the result."""
    for part in parts:
        yield part
        if part is end:
            return


def text(part: Truth) -> str:
    """A truth value as SMT-LIB text."""
    return part if isinstance(part, str) else "true" if part else "false"


def joined(parts: Iterable[Truth]) -> str:
    """The texts of some truth values."""
    return " ".join([text(part) for part in parts])


def random_state(system: System, world: World, bodies: list[Term], rng: random.Random | None) -> State | None:
    """A state that satisfies closed formulas, or None. With `rng`, random values are preferred."""
    grounding = Grounding(system, world)
    grounding.require(bodies)
    if grounding.possible() != "sat":
        return None
    if rng is None:
        return grounding.state()
    answer = grounding.wish(rng.choice(list(cell.values())) for table in grounding.cells for cell in table if len(cell) > 1)
    return grounding.state() if answer == "sat" else None


__all__ = ["Grounding", "Truth", "Values", "random_state"]
