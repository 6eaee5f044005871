"""Expressions of the rules as formulas of mypyvy: names, states before and after a step, and what a call keeps.

A step that follows another one reads the locals of that from places of the call. Not here: steps, their outcomes and the
declarations (`to_mypyvy.py`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from bulkhead.model import syntax as s

BOOL, CALL, POINT, AT, IDLE = "bool", "Call", "Point", "at", "idle"


class Unfit(Exception):
    """The rules have something that this translation does not cover; the text names it."""


class Unknown(Unfit):
    """A local that no step so far has."""


@dataclass(frozen=True)
class Term:
    """A value that is no record: its sort, and its text in mypyvy."""

    sort: str
    text: str


Value = Term | dict[str, Term]
Changed = frozenset[str]
NOTHING: Changed = frozenset()
Variable = tuple[str, str]  # its name and sort there


@dataclass(frozen=True, eq=False)
class Local:
    """A parameter, `let`, `pick` or result of a step: its value there, and for later steps the place of its call."""

    step: object
    value: Value
    kept: Value


Env = Mapping[str, Value | Local]


class Terms:
    """The names of one system, and expressions over them. `step` is the step that is being read."""

    def __init__(self, items: Sequence[s.Item]) -> None:
        self.numbers = itertools.count(1)
        self.enums = {i.name: {m.text: f"m_{m.text}" for m in i.members} for i in items if isinstance(i, s.EnumItem)}
        self.enum_of = {m: enum for enum, members in self.enums.items() for m in members}
        self.sorts = [CALL, *(i.name for i in items if isinstance(i, s.SortItem))]
        self.consts = {i.name: i.sort for i in items if isinstance(i, s.ConstItem)}
        self.states = {i.name: i for i in items if isinstance(i, s.StateItem)}
        self.defines = {i.name: i for i in items if isinstance(i, s.DefineItem)}
        self.operations = {i.name: i for i in items if isinstance(i, s.Operation)}
        self.points = {IDLE: "p_idle"}
        self.kept: dict[str, dict[str, Local]] = {}  # by operation, as claims name them
        self.table: dict[str, tuple[tuple[str, ...], str]] = {
            AT: ((CALL,), POINT)
        }  # symbols: sorts of indices, and of the value
        for item in self.states.values():
            for b in item.fields:
                self.table[self.symbol(item.name, b.name)] = tuple(x.sort for x in item.indices), b.sort
        self.step: object = None

    def symbol(self, state: str, part: str) -> str:
        """The name of a state, or of a field of it; the number keeps `a` with the field `b` apart from `a_b`."""
        number = list(self.states).index(state)
        return f"f{number}_{state}_{part}" if part else f"f{number}_{state}"

    def sort(self, name: str) -> str:
        if name not in self.sorts and name not in self.enums and name not in (BOOL, POINT):
            raise Unfit(f"the sort `{name}`")
        return f"s_{name}"

    def variable(self, b: s.Binder) -> tuple[Variable, Term]:
        """A new variable, and its value. Truth values are elements of a sort of their own."""
        name = f"v{next(self.numbers)}_{b.name}"
        text = f"({name} = b_yes)" if b.sort == BOOL else name
        return (name, self.sort(b.sort)), Term(b.sort, text)

    def keeping(self, value: Value, this: Term | None) -> Value:
        """The places where a call keeps a value, new ones."""
        if this is None:
            return value
        number = next(self.numbers)
        made: dict[str, Term] = {}
        for part, term in value.items() if isinstance(value, dict) else [("", value)]:
            symbol = f"k{number}_{part}"
            self.table[symbol] = (CALL,), term.sort
            made[part] = self.read(symbol, [this])
        return made if isinstance(value, dict) else made[""]

    def point(self, name: str) -> Term:
        """A point of an operation; new ones are noted."""
        return Term(POINT, self.points.setdefault(name, f"p{len(self.points)}"))

    def truth(self, e: s.Expr, env: Env, read: Changed = NOTHING, later: Changed = NOTHING) -> str:
        return self.single(e, env, read, later).text

    def single(self, e: s.Expr, env: Env, read: Changed = NOTHING, later: Changed = NOTHING) -> Term:
        value = self.value(e, env, read, later)
        if isinstance(value, dict):
            raise Unfit("a record where one value belongs")
        return value

    def value(self, e: s.Expr, env: Env, read: Changed = NOTHING, later: Changed = NOTHING) -> Value:
        """An expression; `read` are the symbols that are read after the step, `later` those that `next` reads there."""
        match e:
            case s.Name(text=text):
                return self._name(text, env, read)
            case s.Index(base=s.Name(text=name), args=args) if name in self.states:
                return self._state(name, [self.single(a, env, read, later) for a in args], read)
            case s.Index(base=s.Name(text=name), args=(arg,)) if name == AT:
                return self.read(AT, [self.single(arg, env, read, later)], read)
            case s.Index(base=s.Field(base=s.Name(text=op), name=local), args=(arg,)):
                return self._kept(op, local, self.single(arg, env, read, later), read)
            case s.Field(base=s.Name(text=op), name=step) if op not in env and op in self.operations:
                return self.point(f"{op}.{step}")
            case s.Field(base=base, name=part):
                value = self.value(base, env, read, later)
                if not isinstance(value, dict):
                    raise Unfit(f"`.{part}` of what is no record")
                return value[part]
            case s.Call(name="next", args=(arg,)):
                return self.value(arg, env, later, later)
            case s.Call(name=name, args=args) if name in self.defines:
                made = self.defines[name]
                given = {b.name: self.value(a, env, read, later) for b, a in zip(made.params, args, strict=True)}
                return self.value(made.body, given, read, later)
            case s.Operator(op=op, args=args):
                return self._operator(op, [self.value(a, env, read, later) for a in args])
            case s.Quantified(kind=kind, binders=binders, body=body):
                made_of = {b.name: self.variable(b) for b in binders}
                inside = {**env, **{name: value for name, (_, value) in made_of.items()}}
                variables = [variable for variable, _ in made_of.values()]
                return Term(BOOL, quantified(kind, variables, self.truth(body, inside, read, later)))
        raise Unfit(f"{type(e).__name__} in line {e.span.line}")

    def _name(self, name: str, env: Env, read: Changed) -> Value:
        if name in env:
            meant = env[name]
            if isinstance(meant, Local):
                return meant.value if meant.step is self.step else meant.kept
            return meant
        if name in ("true", "false"):
            return Term(BOOL, name)
        if name in self.enum_of:
            return Term(self.enum_of[name], self.enums[self.enum_of[name]][name])
        if name == IDLE:
            return self.point(IDLE)
        if name in self.consts:
            return Term(self.consts[name], f"c_{name}")
        if name in self.states:
            return self._state(name, [], read)
        raise Unfit(f"the name `{name}`")

    def _state(self, name: str, args: list[Term], read: Changed) -> Value:
        parts = {b.name: self.read(self.symbol(name, b.name), args, read) for b in self.states[name].fields}
        return parts.get("", parts)

    def read(self, symbol: str, args: Sequence[Term], read: Changed = NOTHING) -> Term:
        """A symbol at a place, before the step or after it."""
        prime = "'" if symbol in read else ""  # what the step does not change has no prime
        given = [f"(if {a.text} then b_yes else b_no)" if a.sort == BOOL else a.text for a in args]
        return Term(self.table[symbol][1], symbol + prime + (f"({', '.join(given)})" if given else ""))

    def _kept(self, op: str, local: str, call: Term, read: Changed) -> Value:
        if local not in self.kept.get(op, {}):
            raise Unknown(f"the local `{op}.{local}`")
        value = self.kept[op][local].kept
        if isinstance(value, Term):
            return self.read(value.text.partition("(")[0], [call], read)
        return {part: self.read(term.text.partition("(")[0], [call], read) for part, term in value.items()}

    def _operator(self, op: str, args: list[Value]) -> Value:
        if op in ("=", "!="):
            equal = same(args[0], args[1])
            return Term(BOOL, equal if op == "=" else f"!{equal}")
        if op == "if" and isinstance(args[1], dict) and isinstance(args[2], dict):
            return {
                f: Term(v.sort, f"(if {_text(args[0])} then {v.text} else {args[2][f].text})") for f, v in args[1].items()
            }
        texts = [_text(a) for a in args]
        match op:
            case "not":
                return Term(BOOL, f"!{texts[0]}" if texts[0].startswith("(") else f"!({texts[0]})")
            case "and":
                return Term(BOOL, all_of(texts))
            case "or":
                return Term(BOOL, any_of(texts))
            case "implies":
                return Term(BOOL, f"({texts[0]} -> {texts[1]})")
            case "iff":
                return Term(BOOL, f"({texts[0]} <-> {texts[1]})")
            case "if":
                assert isinstance(args[1], Term)
                return replace(args[1], text=f"(if {texts[0]} then {texts[1]} else {texts[2]})")
        raise Unfit(f"the operator `{op}`")


def target_of(target: s.Expr) -> tuple[str, str | None, tuple[s.Expr, ...]]:
    """The state that an assignment names, its field (None: all of it), and the indices."""
    match target:
        case s.Name(text=name):
            return name, None, ()
        case s.Index(base=s.Name(text=name), args=args):
            return name, None, args
        case s.Field(base=base, name=part):
            name, _, args = target_of(base)
            return name, part, args
    raise Unfit("only state can be set")


def foresees(e: s.Expr) -> bool:
    match e:
        case s.Call(name="next"):
            return True
        case s.Call(args=args) | s.Operator(args=args) | s.Index(args=args):
            return any(map(foresees, args))
        case s.Quantified(body=inner) | s.Field(base=inner):
            return foresees(inner)
    return False


def _text(value: Value) -> str:
    if isinstance(value, dict):
        raise Unfit("a record where a truth value belongs")
    return value.text


def same(a: Value, b: Value) -> str:
    """Equality, of records field by field."""
    if isinstance(a, dict) and isinstance(b, dict):
        return all_of(same(a[f], b[f]) for f in a)
    if isinstance(a, dict) or isinstance(b, dict):
        raise Unfit("a record beside what is none")
    return f"({a.text} <-> {b.text})" if a.sort == BOOL else f"({a.text} = {b.text})"


def all_of(parts: Iterable[str]) -> str:
    return f"({' & '.join(parts) or 'true'})"


def any_of(parts: Iterable[str]) -> str:
    return f"({' | '.join(parts) or 'false'})"


def either(cond: str, then: str, else_: str) -> str:
    return f"(if {cond} then {then} else {else_})"


def quantified(kind: str, variables: Sequence[tuple[str, str]], body: str) -> str:
    if not variables:
        return body if body.startswith("(") else f"({body})"
    return f"({kind} {', '.join(f'{n}: {sort}' for n, sort in variables)}. {body})"


__all__ = [
    "AT",
    "BOOL",
    "CALL",
    "IDLE",
    "NOTHING",
    "POINT",
    "Changed",
    "Env",
    "Local",
    "Term",
    "Terms",
    "Unfit",
    "Unknown",
    "Value",
    "Variable",
    "all_of",
    "any_of",
    "either",
    "foresees",
    "quantified",
    "same",
    "target_of",
]
