"""One solver for all paths of a handler: can a condition hold together with the facts of a path?

Every condition is asserted in Z3 once, under a name, and each query assumes names: the same conditions occur on many
paths. Usually a few facts decide a query, so its unsat core is cached, and excludes the condition on every path
with these facts. `unknown` is an error and never an answer.
"""

from __future__ import annotations

from collections.abc import Set

import z3

from bulkhead.proofs.symbolic.inputs import Found, Input
from bulkhead.proofs.symbolic.terms import TRUE, Term, bounds
from bulkhead.proofs.symbolic.to_z3 import as_z3, bound_z3

TOLD = 400  # conditions, after which a slow solver is replaced by a new one


class Undecided(Exception):
    """The solver said `unknown`, or an assumption contradicted a path."""


class Solver:
    """Conditions, their known unsat cores, and Z3."""

    def __init__(self, timeout: int) -> None:
        """`timeout` is for one query, in milliseconds."""
        self._timeout = timeout
        self._cores: dict[Term, list[Set[Term]]] = {}
        self.queries = 0
        self._begin()

    def _begin(self) -> None:
        self._z3 = z3.SolverFor("QF_UFBV")
        self._z3.set("timeout", self._timeout)
        self._names: dict[Term, z3.BoolRef] = {}
        self._terms: dict[str, Term] = {}
        self._bounded: set[Term] = set()

    def _name(self, condition: Term) -> z3.BoolRef:
        """The name of a condition in Z3."""
        if condition not in self._names:
            name = z3.Bool(f"condition!{len(self._names)}")
            self._names[condition], self._terms[str(name)] = name, condition
            for part in bounds(condition) - self._bounded:
                self._bounded.add(part)
                self._z3.add(bound_z3(part))
            self._z3.add(z3.Implies(name, as_z3(condition)))
        return self._names[condition]

    def known(self, condition: Term, facts: Set[Term]) -> bool:
        """Is the condition known to be excluded by some of the facts?"""
        return any(core <= facts for core in self._cores.get(condition, ()))

    def input(self, condition: Term, facts: Set[Term]) -> Input | None:
        """A model of the condition and all facts, or None if there is none. Raises `Undecided`."""
        if self.known(condition, facts):
            return None
        self.queries += 1
        if len(self._names) > TOLD:
            self._begin()
        answer = self._z3.check(*[self._name(c) for c in (condition, *facts) if c is not TRUE])
        if answer == z3.unknown:
            raise Undecided(f"unknown: {self._z3.reason_unknown()}")
        if answer == z3.unsat:
            core = {self._terms[str(name)] for name in self._z3.unsat_core()} - {condition}
            self._cores.setdefault(condition, []).append(core)
            return None
        return Input(Found(self._z3.model()))


__all__ = ["Solver", "Undecided"]
