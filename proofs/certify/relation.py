"""Each outcome of each step as a relation between two states: a guard, and one equation with frame per state function.

The equation is `forall x. after(x) = ite(assigned at x, value, before(x))`; of several assignments the last
comes first. An outcome is a success, a failure with `undo`, or (one for all checks without `undo`) a failure that only ends
the call; first steps have that last one too, where it changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import z3

from bulkhead.model import syntax as s
from bulkhead.proofs.certify.formulas import (
    AFTER,
    BEFORE,
    WOULD,
    Key,
    Scope,
    Symbols,
    Term,
    Value,
    bind,
    parts_of,
    read_local,
)
from bulkhead.proofs.certify.steps import Bind, Choose, Cut, Local, Placed, Segment
from bulkhead.proofs.certify.tree import AT, CALL, POINT, CannotRead


@dataclass(frozen=True)
class Assignment:
    """A `set` with its context: translated again for each place `x`."""

    statement: s.Set
    scope: Scope
    chosen: dict[Key, Any] = field(default_factory=dict)  # what `*` stands for: a function of the place

    def assigned(self) -> dict[Key, s.Expr | None]:
        """The assigned value, and the part of a record that it sets (None: the whole value)."""
        name, part = _place(self.statement.target)
        fields = [b.name for b in self.scope.symbols.rules.states[name].fields]
        if part is None and "" not in fields:
            literal = dict(self.statement.value.fields) if isinstance(self.statement.value, s.Record) else {}
            return {(name, f): literal.get(f) for f in fields}
        return {(name, part or ""): None}

    def at(self, key: Key, x: list[Term]) -> tuple[Term, Term]:
        """The condition that the place `x` is assigned, and its value."""
        indices = _indices(self.statement.target)
        symbols = self.scope.symbols
        chosen: dict[str, Value] = {}
        for index, place in zip(indices, x, strict=True):  # a bound variable that is an index is the place itself
            for b in self.statement.binders:
                if isinstance(index, s.Name) and index.text == b.name and b.name not in chosen:
                    chosen[b.name] = place
        others = [b for b in self.statement.binders if b.name not in chosen]
        free = {b.name: symbols.variable(b.name, b.sort) for b in others}
        scope = self.scope.with_variables({**chosen, **free})
        hit = [scope.single(i) == place for i, place in zip(indices, x, strict=True)]
        if self.statement.where is not None:
            hit.append(scope.truth(self.statement.where))
        assigned = symbols.all_of(hit)
        assigned = symbols.exists(list(free.values()), assigned)
        # The value may contain a bound variable only if that is an index.
        part = self.assigned()[key]
        if isinstance(part or self.statement.value, s.Anything):
            return assigned, self._anything(key)(*x)
        inner = self.scope.with_variables(chosen)
        if part is not None:
            return assigned, inner.single(part)
        value = inner.value(self.statement.value)
        if isinstance(value, dict):
            value = value[key[1]]
        return assigned, value

    def _anything(self, key: Key) -> Any:
        if key not in self.chosen:
            symbols = self.scope.symbols
            kind = symbols.function(key, BEFORE).range()
            self.chosen[key] = z3.Function(symbols.fresh("any"), *symbols.domain(key), kind)
        return self.chosen[key]


@dataclass(frozen=True)
class Store:
    """One value at one place: a call's point, a saved local, a party's write."""

    key: Key
    place: tuple[Term, ...]
    value: Term

    def assigned(self) -> dict[Key, s.Expr | None]:
        return {self.key: None}

    def at(self, key: Key, x: list[Term]) -> tuple[Term, Term]:
        return z3.And([i == p for i, p in zip(self.place, x, strict=True)]), self.value


@dataclass(frozen=True)
class Outcome:
    """One outcome of one step. `label` is its readable name."""

    label: str
    failed: bool
    guard: Term
    effect: tuple[Assignment | Store, ...] = field(default=())
    success: tuple[Assignment | Store, ...] = field(default=())  # what the step does where it succeeds,
    foreseen: tuple[Key, ...] = ()  # and what the guard reads of that

    def hypothetical(self, symbols: Symbols) -> list[Term]:
        """The state after the step if it succeeded, as far as the guard speaks of it."""
        return [_equation(symbols, key, WOULD, self.success) for key in self.foreseen]

    def equation(self, symbols: Symbols, key: Key) -> Term:
        """The equation of one state function after the step, for all places."""
        return _equation(symbols, key, AFTER, self.effect)


def _equation(symbols: Symbols, key: Key, phase: int, effect: tuple[Assignment | Store, ...]) -> Term:
    x = [z3.Const(symbols.fresh("x"), sort) for sort in symbols.domain(key)]
    value = symbols.function(key, BEFORE)(*x)
    for assignment in effect:
        if key in assignment.assigned():
            assigned, new = assignment.at(key, x)
            value = z3.If(assigned, new, value)
    after = symbols.function(key, phase)(*x)
    return symbols.forall(x, after == value, [after])


def _place(target: s.Expr) -> tuple[str, str | None]:
    """The state function that a target names, and the field (None: all fields)."""
    match target:
        case s.Name(text=name) | s.Index(base=s.Name(text=name)):
            return name, None
        case s.Field(base=base, name=part):
            return _place(base)[0], part
    raise CannotRead(f"line {target.span.line}: this cannot be assigned")


def _indices(target: s.Expr) -> tuple[s.Expr, ...]:
    match target:
        case s.Index(args=args):
            return args
        case s.Field(base=base):
            return _indices(base)
    return ()


def declare_locals(cuts: Iterable[Cut], symbols: Symbols) -> None:
    """Find the sorts of the locals that are saved with calls, so that the formulas of all operations can read them.

    In rounds, until no more are found: the value of a local may read locals of any other operation.
    """
    every = list(cuts)
    known = -1
    while known < len(symbols.local_sorts):
        known = len(symbols.local_sorts)
        for cut in every:
            this = symbols.variable("this", CALL) if cut.has_call else None
            values: dict[Local, Value] = {}
            for number, segment in enumerate(cut.segments):
                _Step(cut, symbols, number, segment, this, values).declare()


def outcomes_of(cut: Cut, symbols: Symbols) -> list[Outcome]:
    """All outcomes of all steps of an operation, once `declare_locals` was called. Raises `CannotRead`."""
    this = symbols.variable("this", CALL) if cut.has_call else None
    values: dict[Local, Value] = {}
    out: list[Outcome] = []
    for number, segment in enumerate(cut.segments):
        out += _Step(cut, symbols, number, segment, this, values).outcomes()
    return out


class _Passed:
    """The conditions that hold where a check is asked. Each contains the one before as one shared term: the conditions of
    a thousand checks are a thousand terms, not half a million."""

    def __init__(self, symbols: Symbols) -> None:
        self.symbols = symbols
        self.so_far: Term = symbols.true

    def add(self, holds: Term) -> None:
        self.so_far = self.symbols.all_of([self.so_far, holds])


class _Step:
    """One step, statement by statement. `values` has the locals of all steps read so far."""

    def __init__(
        self, cut: Cut, symbols: Symbols, number: int, segment: Segment, this: Term | None, values: dict[Local, Value]
    ) -> None:
        self.cut, self.symbols, self.number, self.segment = cut, symbols, number, segment
        self.this, self.values = this, values
        self.mine: list[Local] = []

    def _define(self, local: Local, value: Value) -> None:
        self.values[local] = value
        self.mine.append(local)
        if self.this is not None:
            for part, term in parts_of(value).items():
                self.symbols.local_sorts[local, part] = term.sort()

    def _scope(self, names: Mapping[str, Local]) -> Scope:
        """Names at a statement: locals of this step directly, locals of earlier steps as saved."""
        variables: dict[str, Value] = {} if self.this is None else {"this": self.this}
        for name, local in names.items():
            if local.meaning is not None:
                variables[name] = self._scope(local.meaning[1]).value(local.meaning[0])
            elif local.segment == self.number:
                if local not in self.values:
                    raise CannotRead(f"the local `{local.name}` is not known yet")
                variables[name] = self.values[local]
            elif self.this is not None:
                variables[name] = read_local(self.symbols, local, [self.this], BEFORE)
        return Scope(self.symbols, variables)

    def declare(self) -> None:
        """Define what can be read of the step's locals already."""
        for local, b in self.segment.params:
            self._define(local, self.symbols.variable(b.name, b.sort))
        for placed in self.segment.body:
            st = placed.statement
            if isinstance(st, Choose):
                for local, b in zip(st.locals, st.pick.binders, strict=True):
                    self._define(local, self.symbols.variable(b.name, b.sort))
            elif isinstance(st, Bind):
                with suppress(CannotRead):
                    self._define(st.local, self._scope(placed.names).value(st.value))

    def outcomes(self) -> Iterator[Outcome]:
        """The failures with `undo`, the failure without, and the success.

        Conditions on the state after the step are asked last, wherever they stand.
        """
        segment, symbols = self.segment, self.symbols
        for local, b in segment.params:
            self._define(local, symbols.variable(b.name, b.sort))
        passed = _Passed(symbols)
        if self.this is not None:
            passed.add(symbols.function((AT, ""), BEFORE)(self.this) == symbols.member(POINT, segment.point))
        if segment.when is not None:
            passed.add(self._scope(segment.when_names).truth(segment.when))
        plain: list[Term] = []
        effect: list[Assignment | Store] = []
        last: list[Placed] = []
        for placed in segment.body:
            scope, st = self._scope(placed.names), placed.statement
            if isinstance(st, Bind):
                self._define(st.local, scope.value(st.value))
            elif isinstance(st, s.Set):
                effect.append(Assignment(st, scope))
            elif isinstance(st, s.Require) and _foresees(st.cond):
                last.append(placed)
            else:
                yield from self._asked(placed, *self._check(placed, scope), passed, plain)
        success: tuple[Assignment | Store, ...] = (*effect, *self._goes(segment.after), *self._keeps())
        symbols.read[WOULD].clear()
        for placed in last:
            scope = replace(self._scope(placed.names), two_state=True, later=WOULD)
            for outcome in self._asked(placed, *self._check(placed, scope), passed, plain):
                yield replace(outcome, success=success, foreseen=tuple(symbols.read[WOULD]))
        foreseen = tuple(symbols.read[WOULD])
        if plain:
            goes = self._goes("" if segment.first else segment.failed)
            yield Outcome(f"{segment.label}!*", True, symbols.any_of(plain), goes, success, foreseen)
        yield Outcome(segment.label, False, passed.so_far, success, success, foreseen)

    def _asked(self, placed: Placed, fails: Term, holds: Term, passed: _Passed, plain: list[Term]) -> Iterator[Outcome]:
        """One check: what comes of it when it fails; without a code nothing does."""
        segment, symbols = self.segment, self.symbols
        if placed.undo:
            taken_back = [Assignment(u, self._scope(names)) for u, names in placed.undo]
            effect: tuple[Assignment | Store, ...] = (*taken_back, *self._goes(segment.failed))
            yield Outcome(f"{segment.label}!{placed.code}", True, symbols.all_of([passed.so_far, fails]), effect)
        elif placed.code:
            plain.append(symbols.all_of([passed.so_far, fails]))
        passed.add(holds)

    def _check(self, placed: Placed, scope: Scope) -> tuple[Term, Term]:
        """The conditions under which a check fails, and under which the step continues."""
        st = placed.statement
        if isinstance(st, s.MayFail):
            return self.symbols.true, self.symbols.true
        if isinstance(st, s.Require):
            holds = scope.truth(st.cond)
            return z3.Not(holds), holds
        assert isinstance(st, Choose)
        for local, b in zip(st.locals, st.pick.binders, strict=True):
            self._define(local, self.symbols.variable(b.name, b.sort))
        if st.pick.where is None:
            return self.symbols.false, self.symbols.true
        inside = self._scope(st.inside)
        bound, cases = bind(self.symbols, st.pick.binders)
        some = self.symbols.any_of([inside.with_variables(c).truth(st.pick.where) for c in cases])
        return z3.Not(self.symbols.exists(bound, some)), inside.truth(st.pick.where)

    def _goes(self, point: str) -> tuple[Store, ...]:
        if self.this is None or not point:
            return ()
        return (Store((AT, ""), (self.this,), self.symbols.member(POINT, point)),)

    def _keeps(self) -> Iterator[Store]:
        """Save the locals that this step defines with the call."""
        if self.this is None:
            return
        for local in self.mine:
            value = self.values[local]
            for part, term in parts_of(value).items():
                yield Store((local, part), (self.this,), term)


def _foresees(expr: s.Expr) -> bool:
    """Does a condition speak of the state after the step?"""
    match expr:
        case s.Call(name="next"):
            return True
        case s.Call(args=args) | s.Operator(args=args) | s.Index(args=args):
            return any(map(_foresees, args))
        case s.Quantified(body=inner) | s.Field(base=inner):
            return _foresees(inner)
    return False


def write_of(item: s.StateItem, symbols: Symbols) -> Outcome:
    """The step of a party that may write a state: any value, in any of its own places."""
    assert item.writable is not None
    w = item.writable
    index = [symbols.variable(b.name or "index", b.sort) for b in item.indices]
    values = {b.name: symbols.variable(b.name or "value", b.sort) for b in item.fields}
    names = {b.name: v for b, v in zip(item.indices, index, strict=True) if b.name}
    scope = Scope(symbols, {**names, **{part or "value": v for part, v in values.items()}})
    guard = symbols.true if w.when is None else scope.truth(w.when)
    own = tuple(Store((item.name, part), tuple(index), v) for part, v in values.items())
    return Outcome(w.name or f"write_{item.name}", False, guard, (*own, *(Assignment(t, scope) for t in w.then)))


__all__ = ["Assignment", "Outcome", "Store", "declare_locals", "outcomes_of", "write_of"]
