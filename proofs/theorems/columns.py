"""Evaluates formulas on many states of one finite world at once: one column of bytes for each place.

A state is a row of small numbers, one for each constant and for each place of each state function; one NumPy operation
processes thousands of states. Guards, claims and assignments come from the same checked form as
the formulas and the executable model (`ir.py`). Not here: the search (`explore.py`).
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bulkhead.model.choices import MOST, ways_to_choose
from bulkhead.model.ir import (
    BOOL,
    App,
    Lit,
    Op,
    Quant,
    System,
    Term,
    Transition,
    Update,
    Use,
    Var,
    conjuncts,
    free_variables,
)
from bulkhead.model.world import State, World, table_sizes
from bulkhead.proofs.theorems.scope import heaviest

VALUES = 256  # maximum of values of a place, which is one byte
HEAVY = 1_000_000  # maximum of combinations of the variables of one formula
GLANCES = 4096  # choices between two looks at the clock
Bytes = NDArray[np.uint8]
Value = int | NDArray[Any]  # one value for all states, or one for each
Truth = bool | NDArray[np.bool_]
Env = dict[str, Value]


class OutOfEffort(Exception):
    """A search has tried as many choices as it may, or its time is over; the text says which."""


@dataclass
class Effort:
    """What the evaluation of formulas in one world may cost: choices of variables and arguments, and time."""

    most: float = math.inf
    ends: float = math.inf  # by `time.perf_counter`
    choices: int = 0

    def spend(self) -> None:
        """One more choice. Raises `OutOfEffort`."""
        self.choices += 1
        if self.choices > self.most:
            raise OutOfEffort(f"after {self.most:,.0f} choices of variables and arguments")
        if self.choices % GLANCES == 0:
            self.look()

    def look(self) -> None:
        """Raises `OutOfEffort` if the time is over."""
        if time.perf_counter() > self.ends:
            raise OutOfEffort("in the midst of a step, as time was over")


@dataclass(frozen=True)
class Layout:
    """The column layout of a world: constants first, then the tables of the state functions, in their order."""

    system: System
    sizes: dict[str, int]
    consts: dict[str, int] = field(init=False)
    base: dict[str, int] = field(init=False)
    width: int = field(init=False)
    kinds: tuple[str, ...] = field(init=False)  # the sort of each column's values

    def __post_init__(self) -> None:
        consts = {name: k for k, name in enumerate(self.system.consts)}
        kinds = list(self.system.consts.values())
        base: dict[str, int] = {}
        for func, count in zip(self.system.funcs.values(), table_sizes(self.system, self.world()), strict=True):
            base[func.name] = len(kinds)
            kinds += [func.sort] * count
        for name, value in (("consts", consts), ("base", base), ("width", len(kinds)), ("kinds", tuple(kinds))):
            object.__setattr__(self, name, value)

    def refusal(self, widest: int) -> str | None:
        """Why states of this world are not held in columns; None if they are.

        There are too many places, values that do not fit, or too many ways in which one step can choose.
        """
        if self.width > widest:
            return f"a state of this world has {self.width:,} places, more than {widest:,}; give smaller sizes with --scope"
        large = [(n, len(members)) for n, members in self.system.enums.items() if len(members) > VALUES]
        if large:
            return f"`{large[0][0]}` has {large[0][1]:,} members; states can be searched whole with {VALUES} of them at most"
        if (heavy := heaviest(self.system, self.sizes)) > HEAVY:
            return f"a formula has {heavy:,} combinations of its variables in this world; give smaller sizes with --scope"
        ways = ways_to_choose(self.system, self.world())
        if ways > MOST:
            return f"one step can choose with `*` in {ways:,} ways, more than {MOST:,}; give smaller sizes with --scope"
        return None

    def world(self, consts: dict[str, int] | None = None) -> World:
        return World(dict(self.sizes), dict(consts or {}))

    def size(self, sort: str) -> int:
        return 2 if sort == BOOL else len(self.system.enums[sort]) if sort in self.system.enums else self.sizes[sort]

    def of_state(self, world: World, state: State) -> Bytes:
        """One state as a column vector."""
        flat = [world.consts[c] for c in self.system.consts] + [v for table in state for v in table]
        return np.array(flat, dtype=np.uint8).reshape(self.width, 1)

    def state(self, column: Bytes) -> tuple[World, State]:
        """The world (with its constants) and the state of one column vector."""
        values = [int(v) for v in column]
        consts = {name: values[k] for name, k in self.consts.items()}
        tables = []
        at = len(consts)
        for count in table_sizes(self.system, self.world()):
            tables.append(values[at : at + count])
            at += count
        return self.world(consts), tables


class Formulas:
    """The formulas of one system in one world, evaluated on batches of states."""

    def __init__(self, layout: Layout, effort: Effort | None = None) -> None:
        self.layout = layout
        self.effort = effort or Effort()
        self.system = layout.system
        self.members = {(s, m): i for s, ms in self.system.enums.items() for i, m in enumerate(ms)}
        self._free: dict[int, tuple[str, ...]] = {}

    def free(self, term: Term) -> tuple[str, ...]:
        """The free variables of a term of the system, in a fixed order."""
        known = self._free.get(id(term))
        if known is None:
            known = self._free[id(term)] = tuple(sorted(free_variables(term)))
        return known

    def choices(self, variables: tuple[Var, ...]) -> Iterator[dict[str, Value]]:
        ranges = [range(self.layout.size(v.sort)) for v in variables]
        names = [v.name for v in variables]
        for choice in itertools.product(*ranges):
            self.effort.spend()
            yield dict(zip(names, choice, strict=True))


class Batch:
    """A batch of states, with cached values; `after` holds the states after a step of each."""

    def __init__(self, formulas: Formulas, columns: Bytes, after: Bytes | None = None) -> None:
        self.f = formulas
        self.columns = columns
        self.after = after
        self.count = columns.shape[1]
        self.rows = np.arange(self.count)
        self._known: dict[tuple[int, ...], Truth] = {}
        self._later: Batch | None = None

    # Terms.

    def value(self, term: Term, env: Env) -> Value:
        """The value of a term in each state."""
        match term:
            case Var(name):
                return env[name]
            case Lit(name, sort):
                if term.number is not None:
                    return term.number
                at = self.f.layout.consts.get(name)
                if at is not None:
                    named: Bytes = self.columns[at]
                    return named
                return int(name == "true") if sort == BOOL else self.f.members[sort, name]
            case App(func, args):
                return self.read(func, [self.value(a, env) for a in args], term.next)
            case Use() if term.sort != BOOL:
                batch, body, inner = self._opened(term, env)
                return batch.value(body, inner)
            case Op("ite", (cond, then, other)):
                test = self.truth(cond, env)
                if isinstance(test, bool):
                    return self.value(then if test else other, env)
                chosen: Bytes = np.where(test, self.value(then, env), self.value(other, env)).astype(np.uint8)
                return chosen
        test = self.truth(term, env)
        return int(test) if isinstance(test, bool) else test.view(np.uint8)

    def read(self, func: str, args: list[Value], after: bool = False) -> Value:
        """The value of a state function at some arguments."""
        columns = self.after if after else self.columns
        assert columns is not None
        at = self.index(func, args)
        found: Bytes = columns[at] if isinstance(at, int) else columns[at, self.rows]
        return found

    def index(self, func: str, args: list[Value]) -> Value:
        """The column of a state function at some arguments."""
        layout = self.f.layout
        fixed, varying = 0, None
        for arg, sort in zip(args, layout.system.funcs[func].args, strict=True):
            size = layout.size(sort)
            fixed *= size
            varying = None if varying is None else varying * size
            if isinstance(arg, int):
                fixed += arg
            else:
                varying = arg.astype(np.intp) if varying is None else varying + arg
        base = layout.base[func] + fixed
        return base if varying is None else varying + base

    def _opened(self, term: Use, env: Env) -> tuple[Batch, Term, Env]:
        """The body of a definition, the states in which it is read, and its parameters' values."""
        made = self.f.system.defs[term.name]
        inner: Env = {p.name: self.value(a, env) for p, a in zip(made.params, term.args, strict=True)}
        return self.later if term.next else self, made.body, inner

    @property
    def later(self) -> Batch:
        """The states after the step, as a separate batch."""
        if self._later is None:
            assert self.after is not None
            self._later = Batch(self.f, self.after)
        return self._later

    # Formulas.

    def truth(self, term: Term, env: Env) -> Truth:
        """The states in which a formula is true; a plain `bool` if all states agree."""
        key: tuple[int, ...] | None = None
        if isinstance(term, Op | Quant | Use):
            values = [env[n] for n in self.f.free(term) if n in env]
            fixed = [v for v in values if isinstance(v, int)]
            if len(fixed) == len(values):
                key = (id(term), *fixed)  # terms of a system, and their parts in plans, live as long as the system
                known = self._known.get(key)
                if known is not None:
                    return known
        made = self._truth(term, env)
        if key is not None:
            self._known[key] = made
        return made

    def _truth(self, term: Term, env: Env) -> Truth:
        match term:
            case Use():
                batch, body, given = self._opened(term, env)
                return batch.truth(body, given)
            case Op("not", (inner,)):
                part = self.truth(inner, env)
                return not part if isinstance(part, bool) else ~part
            case Op("=>", (left, right)):
                cond = self.truth(left, env)
                if cond is False:
                    return True
                then = self.truth(right, env)
                if isinstance(cond, bool) or then is True:
                    return then
                return ~cond if then is False else ~cond | then
            case Op("and", args):
                return self._all(self.truth(a, env) for a in args)
            case Op("or", args):
                return self._any(self.truth(a, env) for a in args)
            case Op("=", (left, right)):
                a, b = self.value(left, env), self.value(right, env)
                return bool(a == b) if isinstance(a, int) and isinstance(b, int) else np.equal(a, b)
            case Quant(kind, vars_, body):
                parts = (self.truth(body, {**env, **choice}) for choice in self.f.choices(vars_))
                return self._all(parts) if kind == "forall" else self._any(parts)
        value = self.value(term, env)
        return bool(value) if isinstance(value, int) else value != 0

    def _all(self, parts: Iterator[Truth]) -> Truth:
        found: Truth = True
        for part in parts:
            if isinstance(part, bool):
                if not part:
                    return False
                continue
            found = part if isinstance(found, bool) else found & part
            if not found.any():
                return False
        return found

    def _any(self, parts: Iterator[Truth]) -> Truth:
        found: Truth = False
        for part in parts:
            if isinstance(part, bool):
                if part:
                    return True
                continue
            found = part if isinstance(found, bool) else found | part
            if found.all():
                return True
        return found

    # Steps.

    def taken(self, plan: Plan) -> Iterator[Taken]:
        """The transitions of a plan in their order, with the arguments with which each is enabled in some state."""
        found = sorted(self._taken(plan.root, {}, True), key=lambda taken: taken[0])  # stable: arguments stay in order
        for at, args, rows in found:
            yield Taken(plan.transitions[at], args, rows)

    def _taken(self, node: Node, env: Env, so_far: Truth) -> Iterator[tuple[int, tuple[int, ...], NDArray[np.intp]]]:
        while True:  # along the first branch; recursion only into the others, and for arguments
            if node.ends:
                rows = self.rows if isinstance(so_far, bool) else np.flatnonzero(so_far)
                if len(rows):
                    for at, params in node.ends:
                        yield at, tuple(int(env[name]) for name in params), rows
            for item, branch in node.branches[1:]:
                if isinstance(item, Choice):
                    yield from self._chosen(item.var, branch, env, so_far)
                elif (both := self._passed(item, env, so_far)) is not False:
                    yield from self._taken(branch, env, both)
            if not node.branches:
                return
            item, node = node.branches[0]
            if isinstance(item, Choice):
                yield from self._chosen(item.var, node, env, so_far)
                return
            so_far = self._passed(item, env, so_far)
            if so_far is False:
                return

    def _passed(self, part: Term, env: Env, so_far: Truth) -> Truth:
        """The states, of those so far, in which a part of a guard is true, too."""
        here = self.truth(part, env)
        if isinstance(here, bool):
            return so_far if here else False
        both = here if isinstance(so_far, bool) else so_far & here
        return both if both.any() else False

    def _chosen(
        self, var: Var, node: Node, env: Env, so_far: Truth
    ) -> Iterator[tuple[int, tuple[int, ...], NDArray[np.intp]]]:
        for value in range(self.f.layout.size(var.sort)):
            self.f.effort.spend()
            yield from self._taken(node, {**env, var.name: value}, so_far)

    def stepped(self, transition: Transition, args: tuple[int, ...], rows: NDArray[np.intp]) -> Bytes:
        """The states after a transition with these arguments, for some rows."""
        before = self if len(rows) == self.count else Batch(self.f, self.columns[:, rows])
        made = before.columns.copy()
        env: Env = {p.name: v for p, v in zip(transition.params, args, strict=True)}
        writes = [w for u in transition.updates for w in before._writes(u, env)]
        for at, value, cond in writes:  # all values were read before; the later one wins
            if isinstance(at, int):
                if isinstance(cond, bool):
                    made[at] = value
                else:
                    np.copyto(made[at], np.asarray(value, dtype=np.uint8), where=cond)
            else:
                where = before.rows if isinstance(cond, bool) else np.flatnonzero(cond)
                made[at[where], where] = value if isinstance(value, int) else value[where]
        return made

    def _writes(self, update: Update, env: Env) -> Iterator[tuple[Value, Value, Truth]]:
        for choice in self.f.choices(update.binders):
            inner = {**env, **choice} if choice else env
            cond = self.truth(update.cond, inner)
            if cond is not False:
                at = self.index(update.func, [self.value(a, inner) for a in update.args])
                yield at, self.value(update.value, inner), cond


@dataclass(frozen=True)
class Taken:
    """A transition with arguments, and the rows of the states in which it is enabled."""

    transition: Transition
    args: tuple[int, ...]
    rows: NDArray[np.intp]


@dataclass(frozen=True)
class Choice:
    """An argument to be chosen (a boolean one may also be a part of a guard)."""

    var: Var


@dataclass
class Node:
    """A point in the evaluation of guards: which are true here, and which part is evaluated or argument chosen next."""

    ends: list[tuple[int, tuple[str, ...]]] = field(default_factory=list)  # transitions, and their parameters
    branches: list[tuple[Term | Choice, Node]] = field(default_factory=list)

    def branch(self, item: Term | Choice) -> Node:
        """The point after `item`."""
        for known, node in self.branches:
            if known is item:
                return node
        self.branches.append((item, Node()))
        return self.branches[-1][1]


@dataclass(frozen=True)
class Plan:
    """How the guards of a step's outcomes are evaluated together: checks passed by several are evaluated once."""

    transitions: tuple[Transition, ...]
    root: Node


def plan_of(transitions: Iterable[Transition]) -> Plan:
    """Plan: evaluate each part of a guard as soon as its variables are chosen; arguments that complete most parts first."""
    found = Plan(tuple(transitions), Node())
    same: dict[Term | Choice, Term | Choice] = {}  # equal parts of different guards are one object in the plan
    for at, transition in enumerate(found.transitions):
        node = found.root
        for item in _order(transition):
            node = node.branch(same.setdefault(item, item))
        node.ends.append((at, tuple(p.name for p in transition.params)))
    return found


def _order(transition: Transition) -> Iterator[Term | Choice]:
    """The parts of a guard and the arguments, in the order in which they are evaluated and chosen."""
    parts = [(free_variables(p), p) for p in conjuncts(transition.guard)]
    left, known = list(transition.params), set[str]()
    yield from (p for f, p in parts if not f)
    while left:
        left.sort(key=lambda v: -sum(v.name in f and f <= known | {v.name} for f, _ in parts))
        var = left.pop(0)
        yield Choice(var)
        new = known | {var.name}
        yield from (p for f, p in parts if f <= new and not f <= known)
        known = new


__all__ = ["Batch", "Bytes", "Effort", "Env", "Formulas", "Layout", "OutOfEffort", "Plan", "Taken", "plan_of"]
