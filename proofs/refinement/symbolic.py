"""A small symbolic executor: Python code runs unchanged on numbers that are Z3 terms.

A condition on such a number asks the engine for a decision (`__bool__`). The engine takes a side that is feasible, and runs
the code again for each side not yet taken, with the decisions before it replayed (depth first). Numbers are bit vectors
so wide that no value of the implementation overflows them, so they behave as Python's. What the engine cannot carry out
on a symbolic number, and every `unknown` of the solver, is an error and never passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import z3

WIDTH = 72
Expr = Any  # Z3 terms; the solver's package is not typed


class Unsupported(Exception):
    """The code did something with a symbolic value that the engine cannot follow."""


class Undecided(Exception):
    """The solver said `unknown`, or an assumption contradicted a path."""


def number(value: object) -> Expr:
    """The bit vector of an integer, symbolic or not."""
    if isinstance(value, Int):
        return value.expr
    if isinstance(value, Bool):
        return z3.If(value.expr, z3.BitVecVal(1, WIDTH), z3.BitVecVal(0, WIDTH))
    if isinstance(value, int):
        return z3.BitVecVal(int(value), WIDTH)
    raise Unsupported(f"{type(value).__name__} where a number is needed")


def truth(value: object) -> Expr:
    """The Boolean term of a truth value, symbolic or not."""
    return value.expr if isinstance(value, Bool) else z3.BoolVal(bool(value))


class Bool:
    """A symbolic truth value; using it as a condition forks."""

    __slots__ = ("expr",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, expr: Expr) -> None:
        self.expr = expr

    def __bool__(self) -> bool:
        return Engine.running().decide(self.expr)

    def __eq__(self, other: object) -> Bool:  # type: ignore[override]
        return Bool(self.expr == truth(other))


def _operator(name: str) -> Callable[[Int, object], Int]:
    def forward(self: Int, other: object) -> Int:
        return Int(getattr(self.expr, name)(number(other)))
    return forward


def _reflected(name: str) -> Callable[[Int, object], Int]:
    def backward(self: Int, other: object) -> Int:
        return Int(getattr(number(other), name)(self.expr))
    return backward


class Int:
    """A symbolic integer. It has no hash and is no index: places that need one must go through the engine."""

    __slots__ = ("expr",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, expr: Expr) -> None:
        self.expr = expr

    __add__, __radd__ = _operator("__add__"), _reflected("__add__")
    __sub__, __rsub__ = _operator("__sub__"), _reflected("__sub__")
    __and__, __rand__ = _operator("__and__"), _reflected("__and__")
    __or__, __ror__ = _operator("__or__"), _reflected("__or__")
    __lshift__, __rshift__ = _operator("__lshift__"), _operator("__rshift__")

    def __invert__(self) -> Int:
        return Int(~self.expr)

    def __neg__(self) -> Int:
        return Int(-self.expr)

    def __bool__(self) -> bool:
        return Engine.running().decide(self.expr != 0)

    def __format__(self, form: str) -> str:
        return str(self.expr)

    def __index__(self) -> int:
        raise Unsupported("a symbolic number used as an index")

    def __eq__(self, other: object) -> Bool:  # type: ignore[override]
        return Bool(self.expr == number(other))

    def __ne__(self, other: object) -> Bool:  # type: ignore[override]
        return Bool(self.expr != number(other))

    def __lt__(self, other: object) -> Bool:
        return Bool(self.expr < number(other))

    def __le__(self, other: object) -> Bool:
        return Bool(self.expr <= number(other))

    def __gt__(self, other: object) -> Bool:
        return Bool(self.expr > number(other))

    def __ge__(self, other: object) -> Bool:
        return Bool(self.expr >= number(other))


@dataclass
class Decision:
    """One condition decided on the current path; `open` while its other side is feasible and not yet run."""

    condition: Expr
    side: bool
    open: bool

    @property
    def literal(self) -> Expr:
        return self.condition if self.side else z3.Not(self.condition)


class Engine:
    """Runs a function along all its paths. The solver's stack has one level for each decision of the current path."""

    current: ClassVar[Engine | None] = None

    def __init__(self) -> None:
        self.solver = z3.SolverFor("QF_UFBV")
        self.solver.set("timeout", 5000)
        self.decisions: list[Decision] = []
        self.depth = 0
        self.names: dict[str, int] = {}
        self.queries = 0
        self.ends: list[Expr] = []
        self.assumed: dict[tuple[bool, ...], list[tuple[Expr, Expr]]] = {}

    @staticmethod
    def running() -> Engine:
        """The engine that runs the code; there is none outside `paths`."""
        if Engine.current is None:
            raise Unsupported("a symbolic condition outside a symbolic run")
        return Engine.current

    def possible(self, *conditions: Expr) -> bool:
        """May all conditions hold at this point of the path?"""
        self.queries += 1
        answer = self.solver.check(*conditions)
        if answer == z3.unknown:
            raise Undecided(f"unknown: {self.solver.reason_unknown()}")
        return bool(answer == z3.sat)

    def decide(self, condition: Expr) -> bool:
        """Which side of a condition this path takes."""
        condition = z3.simplify(condition)
        if z3.is_true(condition) or z3.is_false(condition):
            return bool(z3.is_true(condition))
        if self.depth < len(self.decisions):
            known = self.decisions[self.depth]
            if not known.condition.eq(condition):
                raise Undecided(f"a repeated run took another way: {condition}")
        else:
            yes = self.possible(condition)
            no = not yes or self.possible(z3.Not(condition))
            known = Decision(condition, yes, yes and no)
            self._enter(known)
        self.depth += 1
        return known.side

    def _enter(self, decision: Decision) -> None:
        self.decisions.append(decision)
        self.solver.push()
        self.solver.add(decision.literal)

    def choose(self, name: str) -> bool:
        """A free choice of the environment."""
        return self.decide(z3.Bool(self.fresh(name)))

    @property
    def replaying(self) -> bool:
        """Are decisions of the run before being repeated? What is assumed now is known already."""
        return self.depth < len(self.decisions)

    def fresh(self, name: str) -> str:
        """A name not used before on this path, the same in every repetition of it."""
        self.names[name] = self.names.get(name, 0) + 1
        return f"{name}!{self.names[name]}"

    def assume(self, condition: Expr) -> None:
        """Holds from here on; counted among the assumptions of the proof."""
        if self.depth == len(self.decisions):
            self.solver.add(condition)
            taken = self.decisions[:self.depth]
            self.assumed.setdefault(tuple(d.side for d in taken), []).append(
                (z3.And([d.literal for d in taken]), condition))

    def proves(self, claim: Expr) -> bool:
        """Does the claim hold on all inputs that take this path?"""
        return not self.possible(z3.Not(claim))

    def paths(self, body: Callable[[], None]) -> Iterator[int]:
        """Runs the body along each path; the number of the path is yielded at its end, while it can still be asked about."""
        count = 0
        while True:
            self.depth = 0
            self.names = {}
            Engine.current = self
            try:
                body()
                if self.depth != len(self.decisions):
                    raise Undecided("a repeated run ended early")
                if not self.possible():
                    raise Undecided("the assumptions contradict each other on a path")
                count += 1
                self.ends.append(z3.And([d.literal for d in self.decisions]))
                yield count
            finally:
                Engine.current = None
            while self.decisions and not self.decisions[-1].open:
                self.decisions.pop()
                self.solver.pop()
            if not self.decisions:
                return
            last = self.decisions.pop()
            self.solver.pop()
            self._enter(Decision(last.condition, not last.side, False))

    def covered(self) -> bool:
        """Is every input that meets the assumptions on one of the paths? Asked of a solver that knows nothing else."""
        solver = z3.Solver()
        solver.set("timeout", 20000)
        for items in self.assumed.values():
            for before, condition in items:
                solver.add(z3.Implies(before, condition))
        for end in self.ends:
            solver.add(z3.Not(end))
        self.queries += 1
        answer = solver.check()
        if answer == z3.unknown:
            raise Undecided(f"unknown: {solver.reason_unknown()}")
        return bool(answer == z3.unsat)
