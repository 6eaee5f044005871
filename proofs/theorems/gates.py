"""Formulas over booleans as gates, and a SAT solver that decides them.

A literal is a number: `-x` is the negation of `x`, and `YES` and `NO` are the two constants. Equal gates are made once, and
constants are propagated while gates are made, so that what follows from an initial state never reaches the solver. Effort
is counted in conflicts and never timed, so that answers do not depend on the machine. Not here: what the booleans mean
(`unrolling.py`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pysat.solvers import Cadical195

YES, NO = 1, -1
MOST = 1_000_000  # gates: with more, a world is too large
PAIRS = 6  # of fewer literals each pair is excluded, of more a chain of helpers says that one is true at most

Values = dict[int, int]  # each possible value of something, with its literal: exactly one of these is true


class TooManyGates(Exception):
    """A formula takes more than `MOST` gates."""


class Gates:
    """Gates and clauses of one solver."""

    def __init__(self) -> None:
        self._solver = Cadical195(bootstrap_with=[[YES]])
        self._known: dict[tuple[int, ...], int] = {}
        self.count = 1  # booleans so far

    def fresh(self) -> int:
        """A new boolean. Raises `TooManyGates`."""
        if self.count >= MOST:
            raise TooManyGates(f"more than {MOST:,} gates")
        self.count += 1
        return self.count

    def require(self, clause: Sequence[int]) -> None:
        """One of these literals is true."""
        self._solver.add_clause(clause)

    def both(self, parts: Iterable[int]) -> int:
        """Conjunction."""
        kept: set[int] = set()
        for part in parts:
            if part == NO or -part in kept:
                return NO
            if part != YES:
                kept.add(part)
        if len(kept) < 2:
            return next(iter(kept), YES)
        key = tuple(sorted(kept))
        gate = self._known.get(key)
        if gate is None:
            gate = self._known[key] = self.fresh()
            for part in key:
                self.require([-gate, part])
            self.require([gate, *(-part for part in key)])
        return gate

    def either(self, parts: Iterable[int]) -> int:
        """Disjunction."""
        return -self.both([-part for part in parts])

    def choice(self, values: Iterable[int]) -> Values:
        """One of these values, any of them."""
        every = list(values)
        if len(every) == 1:
            return {every[0]: YES}
        if len(every) == 2:
            one = self.fresh()
            return {every[0]: -one, every[1]: one}
        made = {value: self.fresh() for value in every}
        self.exactly_one(list(made.values()))
        return made

    def exactly_one(self, literals: Sequence[int]) -> None:
        """One of these literals is true, and no other; none if there are none, which is impossible."""
        self.require(literals or [NO])
        if len(literals) <= PAIRS:
            for a, b in itertools.combinations(literals, 2):
                self.require([-a, -b])
            return
        before = literals[0]  # one of those so far is true
        for literal in literals[1:]:
            self.require([-before, -literal])
            now = self.fresh()
            self.require([-before, now])
            self.require([-literal, now])
            before = now

    def mixed(self, ways: Iterable[tuple[int, Values]]) -> Values:
        """The values under conditions of which exactly one is true."""
        found: dict[int, list[tuple[int, int]]] = {}
        for cond, values in ways:
            if cond != NO:
                for value, literal in values.items():
                    found.setdefault(value, []).append((cond, literal))
        if len(found) == 2:  # the second is the negation of the first
            first, second = found
            when = self.either([self.both(pair) for pair in found[second]])
            return {first: YES} if when == NO else {second: YES} if when == YES else {first: -when, second: when}
        if len(found) == 1:
            return dict.fromkeys(found, YES)
        made = {value: self.either([self.both(pair) for pair in pairs]) for value, pairs in found.items()}
        sure = next((value for value, literal in made.items() if literal == YES), None)
        return {sure: YES} if sure is not None else {value: literal for value, literal in made.items() if literal != NO}

    def solve(self, assumed: Sequence[int], conflicts: int) -> str:
        """Can all clauses be true, and these literals: `sat`, `unsat`, or `unknown` after so many conflicts."""
        self._solver.conf_budget(conflicts)
        answer = self._solver.solve_limited(assumptions=list(assumed))
        return "unknown" if answer is None else "sat" if answer else "unsat"

    def spent(self) -> int:
        """The conflicts of all questions so far."""
        return int(self._solver.accum_stats()["conflicts"])

    def model(self) -> Model:
        """The last solution."""
        return Model(frozenset(one for one in self._solver.get_model() if one > 0))


@dataclass(frozen=True)
class Model:
    """A solution: the booleans that are true. One that no clause is about is false."""

    true: frozenset[int] = frozenset([YES])

    def __contains__(self, literal: int) -> bool:
        """Is a literal true?"""
        return literal in self.true if literal > 0 else -literal not in self.true


def truth_of(literal: int) -> Values:
    """A literal as a value: 0 or 1."""
    return {1: YES} if literal == YES else {0: YES} if literal == NO else {0: -literal, 1: literal}


__all__ = ["NO", "YES", "Gates", "Model", "TooManyGates", "Values", "truth_of"]
