"""Translates expressions to Z3 terms over one of two states, by Z3's API: no text, so a user's name has no special meaning.

Every state function (one per field of a record) is a pair of functions, before and after a step. Symbols are unique by
a number in their name. A quantifier over an enum or `bool` is expanded over its members.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import z3

from bulkhead.model import syntax as s
from bulkhead.proofs.certify.steps import Cut, Local
from bulkhead.proofs.certify.tree import AT, BOOL, CALL, IDLE, POINT, CannotRead, Rules

Term = Any  # a z3.ExprRef; the package carries no types
Record = dict[str, Term]
Value = Term | Record
BEFORE, AFTER, WOULD = 0, 1, 2  # WOULD: after the step if it succeeded, for its own conditions on that state
Key = tuple[object, str]  # what a formula reads: a state's name or a local, and the field ("" for a plain value)


class Symbols:
    """The sorts, constants and functions of one system in one solver context. Created at first use.

    With `size`, each declared sort has so many elements, and quantifiers are expanded over them: formulas without
    quantifiers, in which a solver finds models.
    """

    def __init__(self, rules: Rules, cuts: Iterable[Cut], size: int | None = None) -> None:
        self.rules = rules
        self.cuts = {c.operation.name: c for c in cuts}
        self._numbers = itertools.count()
        stops = dict.fromkeys(g.point for c in self.cuts.values() for g in c.segments if g.point)
        points = (IDLE, *(p for p in stops if p != IDLE))
        self.members: dict[str, tuple[str, ...]] = {**rules.enums, POINT: points}
        self.context = z3.Context()
        self.true, self.false = z3.BoolVal(True, self.context), z3.BoolVal(False, self.context)
        self._sorts: dict[str, Any] = {BOOL: z3.BoolSort(self.context)}
        self._values: dict[str, dict[str, Term]] = {BOOL: {"false": self.false, "true": self.true}}
        self._elements: dict[Any, list[Term]] = {}  # of each sort of a small world
        for name in rules.sorts:
            if size is None:
                self._sorts[name] = z3.DeclareSort(self.fresh(name), self.context)
            else:
                names = [self.fresh(f"{name}{k}") for k in range(size)]
                self._sorts[name], elements = z3.EnumSort(self.fresh(name), names, self.context)
                self._elements[self._sorts[name]] = list(elements)
        for name, members in self.members.items():
            self._sorts[name], made = z3.EnumSort(self.fresh(name), [self.fresh(m) for m in members], self.context)
            self._values[name] = dict(zip(members, made, strict=True))
        self.member_of = {m: e for e, members in rules.enums.items() for m in members}
        self.consts = {c: z3.Const(self.fresh(c), self.sort(sort)) for c, sort in rules.consts.items()}
        self._functions: dict[tuple[Key, int], Any] = {}
        self.local_sorts: dict[Key, Any] = {}  # of the locals that are saved with a call
        self.kept: dict[tuple[str, str], Local] = {
            (c.operation.name, n): x for c in self.cuts.values() for n, x in (*c.arguments.items(), *c.kept.items())
        }
        self.read: dict[int, dict[Key, None]] = {AFTER: {}, WOULD: {}}  # what formulas read of the state after the step

    def all_of(self, terms: Iterable[Term]) -> Term:
        """The conjunction; true for none."""
        return z3.And([self.true, *terms])

    def any_of(self, terms: Iterable[Term]) -> Term:
        """The disjunction; false for none."""
        return z3.Or([self.false, *terms])

    def forall(self, variables: list[Term], body: Term, patterns: Iterable[Term] = ()) -> Term:
        """The body for all values of the variables."""
        if not variables:
            return body
        if self._elements:
            return self.all_of(self._instances(variables, body))
        return z3.ForAll(variables, body, patterns=list(patterns))

    def exists(self, variables: list[Term], body: Term) -> Term:
        """The body for some values of the variables."""
        if not variables:
            return body
        return self.any_of(self._instances(variables, body)) if self._elements else z3.Exists(variables, body)

    def _instances(self, variables: list[Term], body: Term) -> Iterator[Term]:
        """The body for each choice of elements, in a small world."""
        values = (self._elements.get(v.sort()) or self._listed(v.sort()) for v in variables)
        for choice in itertools.product(*values):
            yield z3.substitute(body, *zip(variables, choice, strict=True))

    def _listed(self, sort: Any) -> list[Term]:
        """All values of an enum, or of bool."""
        return next(list(self._values[name].values()) for name in self._values if self._sorts[name] == sort)

    def fresh(self, name: str) -> str:
        """A fresh name for the solver."""
        return f"{name[:40]}!{next(self._numbers)}"

    def sort(self, name: str) -> Any:
        """The solver's sort. Raises `CannotRead` if there is none of that name."""
        if name not in self._sorts:
            raise CannotRead(f"there is no sort `{name}`")
        return self._sorts[name]

    def members_of(self, sort: str) -> list[Term] | None:
        """All values of an enum or of bool; None for a sort of any size."""
        return list(self._values[sort].values()) if sort in self._values else None

    def member(self, sort: str, name: str) -> Term:
        return self._values[sort][name]

    def variable(self, name: str, sort: str) -> Term:
        """A new variable or unknown of a sort."""
        return z3.Const(self.fresh(name), self.sort(sort))

    def domain(self, key: Key) -> list[Any]:
        """The sorts of the indices."""
        name, _ = key
        if isinstance(name, Local) or name == AT:
            return [self.sort(CALL)]
        return [self.sort(b.sort) for b in self.rules.states[str(name)].indices]

    def function(self, key: Key, phase: int) -> Any:
        """The function that stands for a state before or after the step, or after it if it succeeded."""
        if phase != BEFORE:
            self.read[phase][key] = None
        if (key, phase) not in self._functions:
            name, part = key
            if isinstance(name, Local):
                value, text = self.local_sorts[key], name.name
            elif name == AT:
                value, text = self.sort(POINT), AT
            else:
                text = str(name)
                value = self.sort(next(b.sort for b in self.rules.states[text].fields if b.name == part))
            self._functions[key, phase] = z3.Function(self.fresh(text), *self.domain(key), value)
        return self._functions[key, phase]


@dataclass(frozen=True)
class Scope:
    """The meaning of names at some place: variables, `this`, the state that is read, and `failed` in transition claims."""

    symbols: Symbols
    variables: Mapping[str, Value] = field(default_factory=dict)
    phase: int = BEFORE
    two_state: bool = False
    later: int = AFTER  # what `next` means

    def with_variables(self, more: Mapping[str, Value]) -> Scope:
        """The same, with inner variables."""
        return replace(self, variables={**self.variables, **more})

    def truth(self, expr: s.Expr) -> Term:
        """A formula as a truth value."""
        return self.single(expr)

    def single(self, expr: s.Expr) -> Term:
        """A value that is not a record. Raises `CannotRead` for a record."""
        value = self.value(expr)
        if isinstance(value, dict):
            raise CannotRead(f"a record where a single value belongs, line {expr.span.line}")
        return value

    def value(self, expr: s.Expr) -> Value:
        """The value of an expression here. Raises `CannotRead`."""
        match expr:
            case s.Name():
                return self._name(expr.text)
            case s.Index(base=s.Name(text=name)):
                return self.state(name, [self.single(a) for a in expr.args])
            case s.Index(base=s.Field(base=s.Name(text=op), name=local)):
                return self._kept(op, local, [self.single(a) for a in expr.args])
            case s.Field():
                return self._field(expr)
            case s.Call(name="next") if self.two_state:
                return replace(self, phase=self.later).value(expr.args[0])
            case s.Call():
                return self._defined(expr)
            case s.Operator():
                return self._operator(expr)
            case s.Quantified():
                return self._quantified(expr)
        raise CannotRead(f"line {expr.span.line} cannot be read")

    def state(self, name: str, args: list[Term]) -> Value:
        """A state at some indices: a record if it has fields."""
        if name == AT:
            return self.symbols.function((AT, ""), self.phase)(*args)
        if name not in self.symbols.rules.states:
            raise CannotRead(f"there is no state `{name}`")
        parts = {
            b.name: self.symbols.function((name, b.name), self.phase)(*args) for b in self.symbols.rules.states[name].fields
        }
        return parts.get("", parts)

    def _name(self, name: str) -> Value:
        symbols = self.symbols
        if name in self.variables:
            return self.variables[name]
        if name in ("true", "false"):
            return symbols.true if name == "true" else symbols.false
        if name in symbols.member_of:
            return symbols.member(symbols.member_of[name], name)
        if name in symbols.consts:
            return symbols.consts[name]
        if name == IDLE:
            return symbols.member(POINT, IDLE)
        return self.state(name, [])

    def _field(self, expr: s.Field) -> Value:
        if isinstance(expr.base, s.Name) and expr.base.text not in self.variables:
            point = f"{expr.base.text}.{expr.name}"
            if point in self.symbols.members[POINT]:
                return self.symbols.member(POINT, point)
        base = self.value(expr.base)
        if not isinstance(base, dict) or expr.name not in base:
            raise CannotRead(f"there is no field `{expr.name}`, line {expr.span.line}")
        return base[expr.name]

    def _kept(self, op: str, local: str, args: list[Term]) -> Value:
        if (op, local) not in self.symbols.kept:
            raise CannotRead(f"there is no local `{op}.{local}`")
        return read_local(self.symbols, self.symbols.kept[op, local], args, self.phase)

    def _defined(self, expr: s.Call) -> Value:
        made = self.symbols.rules.defines.get(expr.name)
        if made is None or len(made.params) != len(expr.args):
            raise CannotRead(f"there is no definition `{expr.name}`")
        given = {p.name: self.value(a) for p, a in zip(made.params, expr.args, strict=True)}
        return replace(self, variables=given, two_state=False).value(made.body)

    def _operator(self, expr: s.Operator) -> Value:
        if expr.op in ("=", "!="):
            left, right = self.value(expr.args[0]), self.value(expr.args[1])
            same = same_value(left, right)
            return same if expr.op == "=" else z3.Not(same)
        args = [self.single(a) for a in expr.args]
        match expr.op:
            case "not":
                return z3.Not(args[0])
            case "and":
                return z3.And(args)
            case "or":
                return z3.Or(args)
            case "implies":
                return z3.Implies(args[0], args[1])
            case "iff":
                return args[0] == args[1]
            case "if":
                return z3.If(args[0], args[1], args[2])
        raise CannotRead(f"unknown operator `{expr.op}`")

    def _quantified(self, expr: s.Quantified) -> Term:
        bound, cases = bind(self.symbols, expr.binders)
        bodies = [self.with_variables(c).truth(expr.body) for c in cases]
        whole = self.symbols.all_of(bodies) if expr.kind == "forall" else self.symbols.any_of(bodies)
        return self.symbols.forall(bound, whole) if expr.kind == "forall" else self.symbols.exists(bound, whole)


def parts_of(value: Value) -> Record:
    """A value field by field; a plain one has the empty name."""
    return value if isinstance(value, dict) else {"": value}


def same_value(left: Value, right: Value) -> Term:
    """Equality, of records field by field."""
    if isinstance(left, dict) and isinstance(right, dict) and left.keys() == right.keys():
        return z3.And([left[f] == right[f] for f in left])
    if isinstance(left, dict) or isinstance(right, dict):
        raise CannotRead("records of different fields are compared")
    return left == right


def bind(symbols: Symbols, binders: Iterable[s.Binder]) -> tuple[list[Term], Iterator[dict[str, Term]]]:
    """Variables for binders of sorts of any size, and every choice of members for the others."""
    given = list(binders)
    free = {b.name: symbols.variable(b.name, b.sort) for b in given if symbols.members_of(b.sort) is None}
    listed = [(b.name, symbols.members_of(b.sort) or []) for b in given if b.name not in free]
    names = [n for n, _ in listed]
    choices = itertools.product(*(members for _, members in listed))
    return list(free.values()), ({**free, **dict(zip(names, choice, strict=True))} for choice in choices)


def read_local(symbols: Symbols, local: Local, args: list[Term], phase: int) -> Value:
    """A local that is saved with a call."""
    parts = [part for owner, part in symbols.local_sorts if owner is local]
    if not parts or len(args) != 1:
        raise CannotRead(f"the local `{local.name}` is not kept")
    made = {part: symbols.function((local, part), phase)(*args) for part in parts}
    return made.get("", made)


__all__ = [
    "AFTER",
    "BEFORE",
    "WOULD",
    "Key",
    "Record",
    "Scope",
    "Symbols",
    "Term",
    "Value",
    "bind",
    "parts_of",
    "read_local",
    "same_value",
]
