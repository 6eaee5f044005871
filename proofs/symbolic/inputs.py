"""Inputs: values for all free symbols in the terms of a path, and the evaluation of terms under them.

The engine keeps an input of the current path. Most conditions can be negated by changing one value of it, which is much
faster than a solver's answer. An input shows only that a side is feasible; only a solver shows that it is not.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import z3

from bulkhead.proofs.symbolic.terms import BOOL, MODULUS, WIDTH, Not, Term, signed

Place = tuple[str, tuple[int, ...]]  # an uninterpreted function at some arguments
TRIED = 24  # values to try for one place, to negate a condition
MENDED = 4  # changes that violate a fact and are then repaired by a second change


class Found:
    """The values in a solver's model, read function by function on demand."""

    def __init__(self, model: z3.ModelRef) -> None:
        self._model = model
        self._declared = {d.name(): d for d in model.decls()}
        self._tables: dict[str, tuple[dict[tuple[int, ...], int], int | None]] = {}  # by arguments; of all others

    def value(self, place: Place, term: Term) -> int:
        """The model's value for a place; `term` is an application at that place.

        The solver knows the width of a place from its first use; values of unused places are arbitrary.
        """
        name, args = place
        if name not in self._tables:
            self._tables[name] = self._table(name)
        values, other = self._tables[name]
        value = values.get(args, other)
        if value is None:  # the model's default is not a plain value
            value = values[args] = self._asked(place, term)
        return value if term.sort == BOOL else value % (1 << term.args[2])

    def _table(self, name: str) -> tuple[dict[tuple[int, ...], int], int | None]:
        if name not in self._declared:
            return {}, 0
        told = self._model[self._declared[name]]
        if not isinstance(told, z3.FuncInterp):
            return {(): _bits(told)}, 0
        *entries, other = told.as_list()
        plain = z3.is_bv_value(other) or z3.is_true(other) or z3.is_false(other)
        return {tuple([_bits(v) for v in args]): _bits(value) for *args, value in entries}, _bits(other) if plain else None

    def _asked(self, place: Place, term: Term) -> int:
        args = [
            z3.BoolVal(bool(v)) if a.sort == BOOL else z3.BitVecVal(v, WIDTH)
            for v, a in zip(place[1], term.args[3:], strict=True)
        ]
        return _bits(self._model.eval(self._declared[place[0]](*args), model_completion=True))


def _bits(value: Any) -> int:
    """A value of a model."""
    return int(z3.is_true(value)) if z3.is_bool(value) else int(value.as_long())


class Input:
    """A solver's model, or another input with the value of one place changed."""

    __slots__ = ("_changed", "_found", "_known", "_place", "_value")

    def __init__(self, found: Found) -> None:
        self._found = found
        self._changed: Input | None = None  # the base of this input
        self._place: Place = "", ()
        self._value = 0
        self._known: dict[Term, int] = {}

    def but(self, place: Place, value: int) -> Input:
        """The input with another value at a place."""
        made = Input(self._found)
        made._changed, made._place, made._value = self, place, value
        return made

    def place(self, term: Term) -> Place:
        """The place of an application."""
        return term.args[0], tuple([self.value(a) for a in term.args[3:]])

    def value(self, term: Term) -> int:
        """The bits of a term as a natural number; for a boolean, 0 or 1."""
        known = self._known.get(term)
        if known is None:
            if self._changed is not None and self._place[0] not in functions(term):
                known = self._changed.value(term)
            elif term.op == "apply":
                known = self._at(self.place(term), term)
            else:
                known = MEANING[term.op](self.value, *term.args)
            self._known[term] = known
        return known

    def _at(self, place: Place, term: Term) -> int:
        here: Input | None = self
        while here is not None:
            if here._place == place:
                return here._value
            here = here._changed
        return self._found.value(place, term)


Value = Callable[[Term], int]


def _sum(value: Value, constant: int, parts: tuple[tuple[Term, int], ...]) -> int:
    return (constant + sum(value(t) * n for t, n in parts)) % MODULUS


def _shl(value: Value, a: Term, by: Term) -> int:
    n = value(by)
    return value(a) << n & MODULUS - 1 if n < WIDTH else 0


def _ashr(value: Value, a: Term, by: Term) -> int:
    return (signed(value(a)) >> min(value(by), WIDTH)) % MODULUS


MEANING: dict[str, Callable[..., int]] = {
    "number": lambda value, n: n,
    "true": lambda value: 1,
    "false": lambda value: 0,
    "not": lambda value, a: 1 - value(a),
    "and": lambda value, *args: int(all(value(a) for a in args)),
    "or": lambda value, *args: int(any(value(a) for a in args)),
    "ite": lambda value, c, a, b: value(a) if value(c) else value(b),
    "eq": lambda value, a, b: int(value(a) == value(b)),
    "sum": _sum,
    "band": lambda value, a, b: value(a) & value(b),
    "bor": lambda value, a, b: value(a) | value(b),
    "bxor": lambda value, a, b: value(a) ^ value(b),
    "shl": _shl,
    "ashr": _ashr,
    "slt": lambda value, a, b: int(signed(value(a)) < signed(value(b))),
    "ult": lambda value, a, b: int(value(a) < value(b)),
}


def _inside(term: Term) -> Iterable[Any]:
    match term.op:
        case "number":
            return ()
        case "apply":
            return term.args[3:]
        case "sum":
            return [part for part, _ in term.args[1]]
    return term.args


@functools.cache
def functions(term: Term) -> frozenset[str]:
    """The names of the uninterpreted functions in a term."""
    own = [term.args[0]] if term.op == "apply" else []
    return frozenset(own).union(*map(functions, _inside(term)))


@functools.cache
def _parts(term: Term) -> tuple[tuple[Term, ...], tuple[Term, ...]]:
    """The applications in a term, outer ones first, each with the values compared with it."""
    applied: dict[Term, None] = {term: None} if term.op == "apply" else {}
    compared: dict[Term, None] = dict.fromkeys(term.args) if term.op in ("eq", "slt", "ult") else {}
    if term.op == "band":  # a mask
        compared[term.args[1]] = None
    for arg in _inside(term):
        more_applied, more_compared = _parts(arg)
        applied |= dict.fromkeys(more_applied)
        compared |= dict.fromkeys(more_compared)
    return tuple(applied), tuple([t for t in compared if t.sort != BOOL])


def _values(old: int, compared: Iterable[int]) -> Iterator[int]:
    """Values to try for a place: values that it is compared with, and changes of its bits."""
    for n in compared:
        yield from (n, old ^ n, old | n, old & ~n, n - 1, n + 1)
    yield from (0, 1, old + 1, old - 1)


def _changed(given: Input, condition: Term) -> Iterator[tuple[str, Input]]:
    """Inputs that differ from the given one in one place and are on the other side of a condition; with that place."""
    side = given.value(condition)
    applied, compared = _parts(condition)
    values = [given.value(t) for t in compared]
    for term in applied:
        place, old = given.place(term), given.value(term)
        near: Iterable[int] = [1 - old] if term.sort == BOOL else dict.fromkeys(v % MODULUS for v in _values(old, values))
        for value in itertools.islice(near, TRIED):
            if value != old and (term.sort == BOOL or not value >> term.args[2]):
                other = given.but(place, value)
                if other.value(condition) != side:
                    yield place[0], other


def negated_input(given: Input, condition: Term, facts: Collection[Term], mend: bool = True) -> Input | None:
    """An input close to the given one that satisfies all facts but is on the other side of a condition; None if not found.

    With `mend`, a change that violates one of the facts gets a second change to repair it.
    """
    mended = 0
    for name, other in _changed(given, condition):
        broken = [fact for fact in facts if name in functions(fact) and not other.value(fact)]
        if not broken:
            return other
        if mend and len(broken) == 1 and mended < MENDED:
            mended += 1
            wanted = condition if other.value(condition) else Not(condition)
            found = negated_input(other, broken[0], [*(fact for fact in facts if fact is not broken[0]), wanted], False)
            if found is not None:
                return found
    return None


__all__ = ["Found", "Input", "negated_input"]
