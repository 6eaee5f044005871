"""A small symbolic executor: Python code runs unchanged on numbers that are Z3 terms.

A condition on such a number asks the engine for a decision (`__bool__`). The engine takes a feasible side, and runs
the code again for each side not yet taken, replaying the decisions before it (depth first). A concrete input shows that
a side is feasible (`inputs.py`); the solver shows that it is not (`solver.py`). Numbers are bit vectors so wide that no
value of the implementation overflows them, so they behave like Python's integers. An operation that the engine cannot
execute on a symbolic number, and every `unknown` of the solver, is an error and is never ignored.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, field
from typing import Any, ClassVar

import z3

from bulkhead.proofs.symbolic.inputs import Input, negated_input
from bulkhead.proofs.symbolic.rewriting import learn, rewrite
from bulkhead.proofs.symbolic.solver import Solver, Undecided
from bulkhead.proofs.symbolic.terms import BOOL, FALSE, TRUE, And, If, Not, Or, Term, bounds, variable
from bulkhead.proofs.symbolic.terms import number as constant
from bulkhead.proofs.symbolic.to_z3 import as_z3, bound_z3

TIMEOUT = 5000  # for one solver query, in milliseconds


class Unsupported(Exception):
    """The code did something with a symbolic value that the engine cannot follow."""


def number(value: object) -> Term:
    """The term of an integer, symbolic or not."""
    if isinstance(value, Int):
        return value.expr
    if isinstance(value, Bool):
        return If(value.expr, constant(1), constant(0))
    if isinstance(value, int):
        return constant(int(value))
    raise Unsupported(f"{type(value).__name__} where a number is needed")


def truth(value: object) -> Term:
    """The term of a truth value, symbolic or not."""
    return value.expr if isinstance(value, Bool) else TRUE if value else FALSE


class Abandoned(Exception):
    """The path contradicts an assumption of a contract: no input takes it."""


class Bool:
    """A symbolic truth value; using it as a condition forks."""

    __slots__ = ("expr",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, expr: Term) -> None:
        self.expr = expr

    def __bool__(self) -> bool:
        return Engine.running().decide(self.expr)

    def __eq__(self, other: object) -> Bool:  # type: ignore[override]
        return Bool(self.expr == truth(other))

    def __or__(self, other: object) -> Bool:
        return Bool(Or(self.expr, truth(other)))


def _operator(name: str) -> Callable[[Int, object], Int]:
    def forward(self: Int, other: object) -> Int:
        return Int(getattr(self.expr, name)(number(other)))

    return forward


def _reflected(name: str) -> Callable[[Int, object], Int]:
    def backward(self: Int, other: object) -> Int:
        return Int(getattr(number(other), name)(self.expr))

    return backward


class Int:
    """A symbolic integer. It has no hash and is not an index: code that needs one must use the engine."""

    __slots__ = ("expr",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, expr: Term) -> None:
        self.expr = expr

    __add__, __radd__ = _operator("__add__"), _reflected("__add__")
    __sub__, __rsub__ = _operator("__sub__"), _reflected("__sub__")
    __and__, __rand__ = _operator("__and__"), _reflected("__and__")
    __or__, __ror__ = _operator("__or__"), _reflected("__or__")
    __lshift__, __rshift__ = _operator("__lshift__"), _operator("__rshift__")

    def __mul__(self, times: int) -> Int:
        return Int(self.expr * times)

    __rmul__ = __mul__

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
class Node:
    """A node of the tree of all paths: its assumptions, and the next condition (none at a leaf)."""

    assumed: list[Term] = field(default_factory=list)
    condition: Term | None = None
    sides: dict[bool, Node] = field(default_factory=dict)
    ended: bool = False

    def uncovered(self) -> Term:
        """The inputs that satisfy the assumptions, reach this node and are on none of the paths."""
        if self.ended:
            return FALSE
        further = TRUE
        if self.condition is not None:
            yes, no = (self.sides[s].uncovered() if s in self.sides else TRUE for s in (True, False))
            further = If(self.condition, yes, no)
        return And(*self.assumed, further)


@dataclass
class Decision:
    """One decided condition of the current path. `other` is an input on its other side, until that side has been run."""

    condition: Term
    side: bool
    node: Node  # the node of the path after it
    other: Input | None

    @property
    def literal(self) -> Term:
        return self.condition if self.side else Not(self.condition)


class Engine:
    """Runs a function along all of its paths."""

    current: ClassVar[Engine | None] = None

    def __init__(self) -> None:
        self.solver = Solver(TIMEOUT)
        self.decisions: list[Decision] = []
        self.depth = 0
        self.names: dict[str, int] = {}
        self.tree = Node()
        self.known: dict[Term, Term] = {}  # known values of terms on this path, from its decisions
        self.rewritten: dict[Term, Term] = {}
        self.facts: list[list[Term]] = [[]]  # facts of the path: initially, and from each decision on
        self.input: Input | None = None  # an input that takes this path, if one is known
        self.kept: dict[Any, Any] = {}  # values that bodies keep between paths

    @staticmethod
    def running() -> Engine:
        """The current engine; there is none outside `paths`."""
        if Engine.current is None:
            raise Unsupported("a symbolic condition outside a symbolic run")
        return Engine.current

    def decide(self, condition: Term) -> bool:
        """The side of a condition that this path takes."""
        condition = rewrite(condition, self.known, self.rewritten)
        if condition is TRUE or condition is FALSE:
            return condition is TRUE
        if self.depth < len(self.decisions):
            known = self.decisions[self.depth]
            if known.condition is not condition:
                raise Undecided(f"a repeated run took another way: {condition}")
        else:
            side = self._some_side(condition)
            other = self._other_side(condition, side)
            known = self._enter(condition, side, other)
        self.depth += 1
        self._learn(condition if known.side else Not(condition))
        return known.side

    def _learn(self, fact: Term) -> None:
        """Add a fact of this path, for rewriting."""
        learn(fact, self.known)
        self.rewritten = {}

    def _some_side(self, condition: Term) -> bool:
        """A feasible side: the one that the known input takes."""
        return bool(self._some_input().value(condition))

    def _some_input(self) -> Input:
        """Find an input that takes this path: the known one, or one from the solver."""
        if self.input is None:
            self.input = self.solver.input(TRUE, self._facts())
        if self.input is None:
            raise Undecided("the assumptions contradict each other on a path")
        return self.input

    def _other_side(self, condition: Term, side: bool) -> Input | None:
        """An input on the other side of a condition: a variation of the known one, or one from the solver."""
        other = Not(condition) if side else condition
        facts = self._facts()
        if self.solver.known(other, facts):
            return None
        return negated_input(self._some_input(), condition, facts) or self.solver.input(other, facts)

    def _facts(self) -> Set[Term]:
        """The facts of the path so far, in order."""
        return {fact: None for level in self.facts for fact in level}.keys()

    @property
    def here(self) -> Node:
        """The current node of the path."""
        return self.decisions[self.depth - 1].node if self.depth else self.tree

    def _enter(self, condition: Term, side: bool, other: Input | None) -> Decision:
        """Decide a condition, after the decisions so far."""
        parent = self.decisions[-1].node if self.decisions else self.tree
        parent.condition = condition
        parent.sides[side] = Node()
        decision = Decision(condition, side, parent.sides[side], other)
        self.decisions.append(decision)
        self.facts.append([decision.literal])
        return decision

    def choose(self, name: str) -> bool:
        """A free choice of the environment."""
        return self.decide(variable(self.fresh(name), BOOL))

    @property
    def replaying(self) -> bool:
        """Is the engine replaying decisions of the previous run? Assumptions made now are already known."""
        return self.depth < len(self.decisions)

    def fresh(self, name: str) -> str:
        """A fresh name on this path, the same in every replay of it."""
        self.names[name] = self.names.get(name, 0) + 1
        return f"{name}!{self.names[name]}"

    def assume(self, condition: Term) -> None:
        """Assume a condition from here on; counted among the assumptions of the proof."""
        if condition is TRUE:
            return
        self._learn(condition)
        if self.depth == len(self.decisions):
            if self.input is not None and not self.input.value(condition):
                self.input = negated_input(self.input, condition, self._facts())
            self.facts[-1].append(condition)
            self.here.assumed.append(condition)

    def abandon(self) -> None:
        """Declare that no input takes this path; counted among the assumptions of the proof, because it depends on them."""
        self.here.ended = True
        raise Abandoned

    def proves(self, claim: Term) -> bool:
        """Does the claim hold for all inputs that take this path?"""
        claim = rewrite(claim, self.known, self.rewritten)
        parts = claim.args if claim.op == "and" else (claim,)
        facts = self._facts()
        return all(part is TRUE or self.solver.input(Not(part), facts) is None for part in parts)

    def paths(self, body: Callable[[], None]) -> Iterator[int]:
        """Runs the body along each path; yields the path's number at its end, while queries about it are still possible."""
        count = 0
        while True:
            self.depth = 0
            self.names = {}
            self.known = {}
            self.rewritten = {}
            Engine.current = self
            ended = False
            try:
                with contextlib.suppress(Abandoned):
                    body()
                    ended = True
                if self.depth != len(self.decisions):
                    raise Undecided("a repeated run ended early")
                self._some_input()
                if ended:
                    count += 1
                    self.here.ended = True
                    yield count
            finally:
                Engine.current = None
            while self.decisions and self.decisions[-1].other is None:
                self.decisions.pop()
                self._pop()
            if not self.decisions:
                return
            last = self.decisions.pop()
            self._pop()
            self.input = last.other
            self._enter(last.condition, not last.side, None)

    def _pop(self) -> None:
        self.facts.pop()

    def covered(self) -> bool:
        """Is every input that satisfies the assumptions on one of the paths? Checked by a fresh solver."""
        solver = z3.SolverFor("QF_UFBV")
        solver.set("timeout", 20000)
        missing = self.tree.uncovered()
        solver.add(as_z3(missing), *[bound_z3(part) for part in bounds(missing)])
        answer = solver.check()
        if answer == z3.unknown:
            raise Undecided(f"unknown: {solver.reason_unknown()}")
        return bool(answer == z3.unsat)
