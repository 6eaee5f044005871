"""Interpreter of the rules language as defined in `spec/README.md`, over a finite world: initial states, successors, claims.

It shares only the parser with Bulkhead, is small and slow, and only for tests. A state is a dict from places, such as
`("mapping", "live", 0)`, to values: booleans, numbers of elements or enum members, and points as texts.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from bulkhead.model import syntax as s

State = dict[tuple[Any, ...], Any]
Env = dict[int, Any]
Code = Callable[[Env, State, State], Any]  # variables, the state that is read, the state after the step
Sort = str | tuple[tuple[str, str], ...]  # of a record: fields and their sorts
Names = Mapping[str, "Slot | Meaning"]
Place = tuple[Any, ...]


@dataclass(frozen=True)
class Anything:
    """`*`: any of these values."""

    values: tuple[Any, ...]


class Wrong(Exception):
    """The rules are not well-formed by the reference; the text gives the reason."""


class NotRead(Wrong):
    """A local of an operation that was not read yet."""


@dataclass(frozen=True)
class World:
    """The sizes of the sorts (with `Call`), and the values of the constants."""

    sizes: dict[str, int]
    consts: dict[str, Any] = field(default_factory=dict)


@dataclass(eq=False)
class Slot:
    """One variable. `kept` is the operation and step that define it, for a local."""

    number: int
    sort: Sort
    name: str = ""
    segment: int = -1  # -1: a bound variable, or a name of the step itself


@dataclass(frozen=True)
class Meaning:
    """An argument of only locals and constants: it is not saved, because it has the same value at every later step."""

    value: s.Expr
    names: Names


@dataclass
class Segment:
    """One atomic step. A statement is (kind, code of it ...)."""

    label: str
    op: str
    number: int
    kind: str
    params: list[tuple[str, Slot]]
    when: Code | None = None
    body: list[tuple[Any, ...]] = field(default_factory=list)
    point: str = ""
    after: str = ""
    failed: str = ""
    defined: list[Slot] = field(default_factory=list)
    picks: list[tuple[str, Slot]] = field(default_factory=list)


@dataclass(frozen=True)
class Run:
    """A scenario: its elements, and its parts, each with the code of its condition or arguments (None: left open)."""

    elements: dict[str, Slot]
    parts: list[tuple[s.Node, list[Code | None]]]


@dataclass(frozen=True)
class Taken:
    """One taken step. `code` is None on success; `by` is the check that failed."""

    label: str
    args: tuple[tuple[str, Any], ...]
    code: str | None
    after: State
    by: int = -1
    picks: tuple[tuple[str, Any], ...] = ()
    undone: bool = False


class Interpreter:
    """One system in one world."""

    def __init__(self, items: Iterable[s.Item], world: World) -> None:
        self.items = list(items)
        self.world = world
        self._slots = itertools.count()
        self.enums = {i.name: [m.text for m in i.members] for i in self.items if isinstance(i, s.EnumItem)}
        self.members = {m: (e, k) for e, ms in self.enums.items() for k, m in enumerate(ms)}
        self.consts = {i.name: i.sort for i in self.items if isinstance(i, s.ConstItem)}
        self.states = {i.name: i for i in self.items if isinstance(i, s.StateItem)}
        self.operations = {i.name: i for i in self.items if isinstance(i, s.Operation)}
        self.defines = {i.name: i for i in self.items if isinstance(i, s.DefineItem)}
        self._defined: dict[str, tuple[list[Slot], Code, Sort]] = {}
        self.kept: dict[str, dict[str, Slot]] = {}
        self.locals: dict[str, list[Slot]] = {}  # of each operation, in the order in which they are read
        self.arguments: dict[str, dict[str, Slot]] = {}  # of procedures, as claims name them
        # of procedures without a named result, in the order in which they are performed: by operation, procedure, parameter
        self.unnamed: dict[tuple[str, str, str], list[Slot]] = {}
        self.used_later: set[Slot] = set()
        self.segments: list[Segment] = []
        self._cut_all([o for o in self.operations.values() if o.kind != "procedure"])
        for item in self.states.values():
            if item.writable is not None:
                self.segments.append(self._write(item))
        self.claims: dict[str, tuple[str, Code, Slot]] = {}
        self.starts: list[Code] = []
        self.axioms: list[Code] = []
        for f in (i for i in self.items if isinstance(i, s.FormulaItem)):
            failed = Slot(next(self._slots), "bool", "failed")
            two = f.kind == "transition"
            code, _ = self.compile(f.body, {"failed": failed} if two else {}, two_state=two)
            if f.kind == "init":
                self.starts.append(code)
            elif f.kind == "axiom":
                self.axioms.append(code)
            else:
                self.claims[f.name] = (f.kind, code, failed)
        self.runs: dict[str, Run] = {i.name: self._run_of(i) for i in self.items if isinstance(i, s.ScenarioItem)}
        self.places = dict(self._places())

    def _cut_all(self, operations: list[s.Operation]) -> None:
        """Read the operations; one that reads a local of another one, wherever that stands, is read again after it.

        Two may read each other's: what was read of each before it could go no further is enough for the other.
        """
        cut: dict[str, list[Segment]] = {}
        while len(cut) < len(operations):
            before = len(cut) + sum(map(len, self.locals.values()))
            for op in operations:
                if op.name in cut:
                    continue
                used, unnamed = set(self.used_later), {k: list(v) for k, v in self.unnamed.items()}
                defined = dict(self._defined)
                try:
                    cut[op.name] = _Cutter(self, op).cut()
                except NotRead:
                    self.used_later, self.unnamed, self._defined = used, unnamed, defined
            if len(cut) + sum(map(len, self.locals.values())) == before:
                raise Wrong("locals that are told by each other, or a local that is not there")
        self.segments += [segment for op in operations for segment in cut[op.name]]

    def _run_of(self, item: s.ScenarioItem) -> Run:
        elements = {b.name: self.slot(b.sort, b.name) for b in item.elements}
        parts: list[tuple[s.Node, list[Code | None]]] = []
        for part in item.parts:
            given = [part.cond] if isinstance(part, s.Asserted) else []
            given += [e for _, e in part.args] if isinstance(part, s.Called) else []
            is_open = [isinstance(e, s.Name) and e.text == "_" for e in given]
            parts.append((part, [None if o else self.compile(e, elements)[0] for e, o in zip(given, is_open, strict=True)]))
        return Run(elements, parts)

    # Worlds and states.

    def values(self, sort: str) -> list[Any]:
        """All values of a sort."""
        if sort == "bool":
            return [False, True]
        if sort == "Point":
            return ["idle", *dict.fromkeys(g.point for g in self.segments if g.point not in ("", "idle"))]
        return list(range(len(self.enums[sort]) if sort in self.enums else self.world.sizes[sort]))

    def _places(self) -> Iterator[tuple[tuple[Any, ...], str]]:
        """All places, with the sort of their value."""
        for item in self.states.values():
            for b in item.fields:
                for index in itertools.product(*(self.values(i.sort) for i in item.indices)):
                    yield (item.name, b.name, *index), b.sort
        if any(g.point for g in self.segments):
            for call in self.values("Call"):
                yield ("at", "", call), "Point"
        for slot in sorted(self.used_later, key=lambda x: x.number):
            fields = slot.sort if isinstance(slot.sort, tuple) else (("", slot.sort),)
            for call in self.values("Call"):
                for part, sort in fields:
                    yield (slot, part, call), sort

    def initial(self, state: State) -> bool:
        """Does the state satisfy every init and axiom?"""
        return all(c({}, state, state) for c in (*self.starts, *self.axioms))

    def find_initial(self, rng: random.Random, tries: int = 6, flips: int = 120) -> State | None:
        """Some initial state, by random search, or None if none was found (which proves nothing)."""
        formulas = [*self.starts, *self.axioms]
        places = list(self.places.items())
        for _ in range(tries):
            state = {p: rng.choice(self.values(sort)) for p, sort in places}
            bad = sum(not c({}, state, state) for c in formulas)
            for _ in range(flips):
                if not bad:
                    return state
                place, sort = rng.choice(places)
                old = state[place]
                state[place] = rng.choice(self.values(sort))
                now = sum(not c({}, state, state) for c in formulas)
                if now <= bad or rng.random() < 0.05:
                    bad = now
                else:
                    state[place] = old
            if not bad:
                return state
        return None

    def holds(self, claim: str, state: State) -> bool:
        """An invariant or theorem in a state."""
        _, code, _ = self.claims[claim]
        return bool(code({}, state, state))

    def holds_of(self, claim: str, before: State, taken: Taken) -> bool:
        """A transition claim over one step."""
        _, code, failed = self.claims[claim]
        return bool(code({failed.number: taken.code is not None}, before, taken.after))

    # Steps.

    def successors(self, state: State) -> Iterator[Taken]:
        """Every outcome of every step from a state, failing first steps too."""
        for segment in self.segments:
            yield from self.outcomes(segment, state)

    def outcomes(self, segment: Segment, state: State) -> Iterator[Taken]:
        """Every outcome of one step, for all arguments."""
        for values in itertools.product(*(self.values(str(slot.sort)) for _, slot in segment.params)):
            env = {slot.number: v for (_, slot), v in zip(segment.params, values, strict=True)}
            args = tuple((name, v) for (name, _), v in zip(segment.params, values, strict=True))
            call = dict(args).get("this")
            if segment.point and state["at", "", call] != segment.point:
                continue
            if segment.when is not None and not segment.when(env, state, state):
                continue
            yield from self._run(segment, 0, env, args, state, [])

    def _run(
        self,
        segment: Segment,
        k: int,
        env: Env,
        args: tuple[tuple[str, Any], ...],
        state: State,
        writes: list[tuple[tuple[Any, ...], Any]],
    ) -> Iterator[Taken]:
        """Execute the statements from the k-th on; a pick takes every possible value."""
        call = dict(args).get("this")
        picks = tuple((name, env.get(slot.number)) for name, slot in segment.picks if slot.number in env)
        while k < len(segment.body):
            st = segment.body[k]
            k += 1
            if st[0] == "let":
                env[st[1].number] = st[2](env, state, state)
            elif st[0] == "set":
                writes = [*writes, *st[1](env, state, state)]
            elif st[0] == "may":
                yield self._failed(segment, k - 1, st[1], st[2], env, args, picks, state)
            elif st[0] == "require":
                if not st[3](env, state, state):
                    if st[1] is not None:
                        yield self._failed(segment, k - 1, st[1], st[2], env, args, picks, state)
                    return
            elif st[0] == "pick":
                _, code, undo, slots, where = st
                fitting = []
                for values in itertools.product(*(self.values(str(slot.sort)) for slot in slots)):
                    picked = {slot.number: v for slot, v in zip(slots, values, strict=True)}
                    if where is None or where({**env, **picked}, state, state):
                        fitting.append(picked)
                if not fitting and code is not None:
                    yield self._failed(segment, k - 1, code, undo, env, args, picks, state)
                for picked in fitting:
                    yield from self._run(segment, k, {**env, **picked}, args, state, writes)
                return
        for after in self._after(segment, env, call, state, writes):
            for number, st in enumerate(segment.body):  # conditions on the state after the step
                if st[0] == "ensure" and not st[3](env, state, after):
                    if st[1] is not None:
                        yield self._failed(segment, number, st[1], st[2], env, args, picks, state)
                    break
            else:
                yield Taken(segment.label, args, None, after, picks=picks)

    def _after(
        self, segment: Segment, env: Env, call: Any, state: State, writes: list[tuple[Place, Any]]
    ) -> Iterator[State]:
        """The states after a step that succeeds: one for each choice of what `*` stands for."""
        last = dict(writes)  # of two on one place the later one
        free = [(place, value.values) for place, value in last.items() if isinstance(value, Anything)]
        for values in itertools.product(*(v for _, v in free)):
            chosen = {**last, **{place: v for (place, _), v in zip(free, values, strict=True)}}
            yield self._finished(segment, env, call, {**state, **chosen})

    def _finished(self, segment: Segment, env: Env, call: Any, after: State) -> State:
        """Where the call then stands, and the locals that it keeps."""
        if segment.after:
            after["at", "", call] = segment.after
        for slot in segment.defined:
            if slot in self.used_later:
                value = env[slot.number]
                for part, v in value.items() if isinstance(value, dict) else [("", value)]:
                    after[slot, part, call] = v
        return after

    def _failed(
        self,
        segment: Segment,
        by: int,
        code: str,
        undo: list[Any],
        env: Env,
        args: tuple[tuple[str, Any], ...],
        picks: tuple[tuple[str, Any], ...],
        state: State,
    ) -> Taken:
        after = dict(state)
        for u in undo:
            after.update(u(env, state, state))
        if segment.failed:
            after["at", "", dict(args)["this"]] = segment.failed
        return Taken(segment.label, args, code, after, by, picks, bool(undo))

    def _write(self, item: s.StateItem) -> Segment:
        """The step of a party that may write a state."""
        w = item.writable
        assert w is not None
        index = [(b.name or f"i{k}", Slot(next(self._slots), b.sort, b.name)) for k, b in enumerate(item.indices)]
        fields = [(b.name or "value", Slot(next(self._slots), b.sort, b.name)) for b in item.fields]
        names = {**{n: x for (n, x), b in zip(index, item.indices, strict=True) if b.name}, **dict(fields)}
        made = Segment(w.name or f"write_{item.name}", "", 0, "party", [*index, *fields])
        if w.when is not None:
            made.when = self.compile(w.when, names)[0]

        def own(env: Env, now: State, then: State) -> list[tuple[tuple[Any, ...], Any]]:
            place = tuple(env[x.number] for _, x in index)
            return [((item.name, b.name, *place), env[x.number]) for b, (_, x) in zip(item.fields, fields, strict=True)]

        made.body = [("set", own), *(("set", self.assignment(t, names)) for t in w.then)]
        return made

    # Expressions.

    def slot(self, sort: Sort, name: str = "", segment: int = -1) -> Slot:
        """A new variable."""
        return Slot(next(self._slots), sort, name, segment)

    def compile(self, e: s.Expr, names: Names, here: int = -1, two_state: bool = False) -> tuple[Code, Sort]:
        """An expression as code. `names` are the variables in scope, `here` is its step."""

        def sub(x: s.Expr, more: Names | None = None) -> tuple[Code, Sort]:
            return self.compile(x, names if more is None else more, here, two_state)

        match e:
            case s.Name(text=text):
                if text in names:
                    meant = names[text]
                    if isinstance(meant, Meaning):
                        return self.compile(meant.value, meant.names, here)
                    return self._variable(meant, names, here)
                if text in ("true", "false"):
                    truth = text == "true"
                    return (lambda env, now, then: truth), "bool"
                if text == "idle":
                    return (lambda env, now, then: "idle"), "Point"
                if text in self.members:
                    enum, k = self.members[text]
                    return (lambda env, now, then: k), enum
                if text in self.consts:
                    value = self.world.consts[text]
                    return (lambda env, now, then: value), self.consts[text]
                return self._read(text, [])
            case s.Index(base=s.Name(text=text), args=args):
                return self._read(text, [sub(a)[0] for a in args])
            case s.Index(base=s.Field(base=s.Name(text=op), name=local), args=(arg,)):
                slot = self.kept.get(op, {}).get(local) or self.arguments.get(op, {}).get(local)
                if slot is None:
                    raise NotRead(f"no local {op}.{local}")
                self.used_later.add(slot)
                return self._kept(slot, sub(arg)[0])
            case s.Field(base=base, name=part):
                if isinstance(base, s.Name) and base.text not in names and base.text in self.operations:
                    return (lambda env, now, then: f"{base.text}.{part}"), "Point"
                record, sort = sub(base)
                if not isinstance(sort, tuple) or part not in dict(sort):
                    raise Wrong(f"no field {part}")
                return (lambda env, now, then: record(env, now, then)[part]), dict(sort)[part]
            case s.Call(name="next", args=(arg,)) if two_state:
                inner, sort = sub(arg)
                return (lambda env, now, then: inner(env, then, then)), sort
            case s.Call(name=name, args=args):
                slots, body, sort = self._define(name)
                codes = [sub(a)[0] for a in args]
                numbers = [x.number for x in slots]

                def called(env: Env, now: State, then: State) -> Any:
                    values = [c(env, now, then) for c in codes]
                    return body(dict(zip(numbers, values, strict=True)), now, now)

                return called, sort
            case s.Operator(op=op, args=args):
                return self._operator(op, [sub(a) for a in args])
            case s.Quantified(kind=kind, binders=binders, body=body):
                slots = [self.slot(b.sort, b.name) for b in binders]
                inner, _ = sub(body, {**names, **{x.name: x for x in slots}})
                domains = [(x.number, self.values(str(x.sort))) for x in slots]
                return _quantified(kind == "forall", domains, inner), "bool"
        raise Wrong(f"{type(e).__name__} cannot stand here")

    def _variable(self, slot: Slot, names: Names, here: int) -> tuple[Code, Sort]:
        if slot.segment in (-1, here):
            number = slot.number
            return (lambda env, now, then: env[number]), slot.sort
        self.used_later.add(slot)
        this = names["this"]
        assert isinstance(this, Slot)
        return self._kept(slot, lambda env, now, then: env[this.number])

    def _kept(self, slot: Slot, call: Code) -> tuple[Code, Sort]:
        if isinstance(slot.sort, tuple):
            parts = [p for p, _ in slot.sort]
            return (lambda env, now, then: {p: now[slot, p, call(env, now, then)] for p in parts}), slot.sort
        return (lambda env, now, then: now[slot, "", call(env, now, then)]), slot.sort

    def _read(self, name: str, args: list[Code]) -> tuple[Code, Sort]:
        if name == "at":
            return (lambda env, now, then: now["at", "", args[0](env, now, then)]), "Point"
        if name not in self.states:
            raise Wrong(f"no name {name}")
        item = self.states[name]
        if len(args) != len(item.indices):
            raise Wrong(f"indices of {name}")
        parts = [b.name for b in item.fields]
        if parts == [""]:
            return (lambda env, now, then: now[(name, "", *[a(env, now, then) for a in args])]), item.fields[0].sort

        def record(env: Env, now: State, then: State) -> Any:
            index = [a(env, now, then) for a in args]
            return {p: now[(name, p, *index)] for p in parts}

        return record, tuple((b.name, b.sort) for b in item.fields)

    def _define(self, name: str) -> tuple[list[Slot], Code, Sort]:
        if name not in self._defined:
            item = self.defines[name]
            slots = [self.slot(p.sort, p.name) for p in item.params]
            body, _ = self.compile(item.body, {x.name: x for x in slots})
            self._defined[name] = slots, body, item.sort
        return self._defined[name]

    def _operator(self, op: str, args: list[tuple[Code, Sort]]) -> tuple[Code, Sort]:
        codes = [c for c, _ in args]
        if op == "not":
            return (lambda env, now, then: not codes[0](env, now, then)), "bool"
        if op == "and":
            return (lambda env, now, then: all(c(env, now, then) for c in codes)), "bool"
        if op == "or":
            return (lambda env, now, then: any(c(env, now, then) for c in codes)), "bool"
        a, b = codes[0], codes[1]
        if op == "implies":
            return (lambda env, now, then: not a(env, now, then) or b(env, now, then)), "bool"
        if op in ("iff", "="):
            return (lambda env, now, then: a(env, now, then) == b(env, now, then)), "bool"
        if op == "!=":
            return (lambda env, now, then: a(env, now, then) != b(env, now, then)), "bool"
        c = codes[2]
        return (lambda env, now, then: b(env, now, then) if a(env, now, then) else c(env, now, then)), args[1][1]

    def assignment(self, st: s.Set, names: Names, here: int = -1) -> Code:
        """A `set` as code that returns the places and their new values."""
        slots = [self.slot(b.sort, b.name) for b in st.binders]
        inner = {**names, **{x.name: x for x in slots}}
        target, part = (st.target.base, st.target.name) if isinstance(st.target, s.Field) else (st.target, None)
        if isinstance(target, s.Index) and isinstance(target.base, s.Name):
            name, index = target.base.text, [self.compile(a, inner, here)[0] for a in target.args]
        elif isinstance(target, s.Name):
            name, index = target.text, []
        else:
            raise Wrong("only state can be set")
        if name not in self.states or len(index) != len(self.states[name].indices):
            raise Wrong(f"{name} cannot be set")
        where = None if st.where is None else self.compile(st.where, inner, here)[0]
        parts = [b.name for b in self.states[name].fields] if part is None else [part]
        sorts = {b.name: b.sort for b in self.states[name].fields}

        def value_of(e: s.Expr, field_: str) -> Code:
            if isinstance(e, s.Anything):
                every = Anything(tuple(self.values(sorts[field_])))
                return lambda env, now, then: every
            return self.compile(e, inner, here)[0]

        if isinstance(st.value, s.Record):
            codes = {n: value_of(v, n) for n, v in st.value.fields}
        elif isinstance(st.value, s.Anything):
            codes = {p: value_of(st.value, p) for p in parts}
        elif part is None and parts != [""]:
            whole = self.compile(st.value, inner, here)[0]
            codes = {p: _field_of(whole, p) for p in parts}
        else:
            codes = {parts[0]: self.compile(st.value, inner, here)[0]}
        domains = [self.values(str(x.sort)) for x in slots]

        def writes(env: Env, now: State, then: State) -> list[tuple[tuple[Any, ...], Any]]:
            out = []
            for values in itertools.product(*domains):
                here_env = {**env, **{x.number: v for x, v in zip(slots, values, strict=True)}}
                if where is None or where(here_env, now, then):
                    place = [c(here_env, now, then) for c in index]
                    out += [((name, p, *place), codes[p](here_env, now, then)) for p in parts]
            return out

        return writes


def _speaks_of_next(e: s.Expr) -> bool:
    """Is it about the state after the step?"""
    if isinstance(e, s.Call) and e.name == "next":
        return True
    if isinstance(e, s.Call | s.Operator | s.Index):
        return any(_speaks_of_next(a) for a in e.args)
    if isinstance(e, s.Quantified):
        return _speaks_of_next(e.body)
    return isinstance(e, s.Field) and _speaks_of_next(e.base)


def _field_of(record: Code, part: str) -> Code:
    return lambda env, now, then: record(env, now, then)[part]


def _quantified(every: bool, domains: list[tuple[int, list[Any]]], body: Code) -> Code:
    numbers = [n for n, _ in domains]

    def run(env: Env, now: State, then: State) -> bool:
        inner = dict(env)
        for values in itertools.product(*(v for _, v in domains)):
            inner.update(zip(numbers, values, strict=True))
            if bool(body(inner, now, then)) != every:
                return not every
        return every

    return run


class _Cutter:
    """Splits one operation into steps, with procedures inlined; every `perform` has its own names."""

    def __init__(self, it: Interpreter, op: s.Operation) -> None:
        self.it, self.op = it, op
        self.this = it.slot("Call", "this")
        self.several = self._several(op, set())
        self.base: dict[str, Slot] = {"this": self.this} if self.several else {}
        self.out: list[Segment] = []
        self.head = ""
        self.known = iter(tuple(it.locals.setdefault(op.name, [])))  # from an attempt that went less far

    def _several(self, op: s.Operation, seen: set[str]) -> bool:
        return any(
            isinstance(st, s.Boundary)
            or (
                isinstance(st, s.Perform)
                and st.name not in seen
                and self._several(self.it.operations[st.name], seen | {st.name})
            )
            for st in op.body
        )

    def cut(self) -> list[Segment]:
        op = self.op
        self._open(op.name, "idle" if self.several else "", "idle" if self.several else "")
        names: dict[str, Slot | Meaning] = dict(self.base)
        exported: dict[str, Slot] = {}
        self.it.kept[op.name] = exported  # it may read locals of its own, of other calls
        for b in op.params:
            names[b.name] = exported[b.name] = self._param(b)
        if op.when is not None:
            self.out[0].when = self.it.compile(op.when, names, 0)[0]
        self._body(op, names, exported, "")
        if self.several:
            self.out[-1].after = "idle"
        return self.out

    @property
    def here(self) -> int:
        return len(self.out) - 1

    def _open(self, label: str, point: str, failed: str) -> None:
        self.out.append(Segment(label, self.op.name, len(self.out), self.op.kind, [], point=point, failed=failed))
        if self.several:
            self.out[-1].params.append(("this", self.this))

    def _param(self, b: s.Binder) -> Slot:
        slot = self._local(b.name, b.sort)
        self.out[-1].params.append((b.name, slot))
        return slot

    def _local(self, name: str, sort: Sort) -> Slot:
        slot = next(self.known, None)
        if slot is None:
            slot = self.it.slot(sort, name, self.here)
            self.it.locals[self.op.name].append(slot)
        self.out[-1].defined.append(slot)
        return slot

    def _body(self, op: s.Operation, names: dict[str, Slot | Meaning], exported: dict[str, Slot], code: str) -> Slot | None:
        """Read the statements of a body; `exported` gets its locals. Returns its result."""
        it = self.it
        result: Slot | None = None
        for st in op.body:
            add = self.out[-1].body.append
            match st:
                case s.Require():
                    undo = self._undone(st.undo, names)
                    kind = "ensure" if _speaks_of_next(st.cond) else "require"
                    cond = it.compile(st.cond, names, self.here, True)[0]
                    add((kind, st.code and (code or st.code), undo, cond))
                case s.MayFail():
                    add(("may", code or st.code, self._undone(st.undo, names)))
                case s.Pick():
                    undo = self._undone(st.undo, names)
                    slots = [self._local(b.name, b.sort) for b in st.binders]
                    names.update({slot.name: slot for slot in slots})
                    exported.update({slot.name: slot for slot in slots})
                    where = None if st.where is None else it.compile(st.where, names, self.here)[0]
                    self.out[-1].picks += [(slot.name, slot) for slot in slots]
                    add(("pick", st.code and (code or st.code), undo, slots, where))
                case s.Let():
                    value, sort = it.compile(st.value, names, self.here)
                    slot = self._local(st.name, sort)
                    names[st.name] = exported[st.name] = slot
                    add(("let", slot, value))
                case s.Set():
                    add(("set", it.assignment(st, names, self.here)))
                case s.Return():
                    value, sort = it.compile(st.value, names, self.here)
                    slot = self._local("", sort)
                    add(("let", slot, value))
                    result = slot
                case s.Perform():
                    self._perform(st, names, exported, code)
                case s.Boundary():
                    self._boundary(st, names, exported)
        return result

    def _undone(self, undo: Iterable[s.Statement], names: Names) -> list[Code]:
        """The assignments of an `undo`, with procedures inlined."""
        out: list[Code] = []
        for st in undo:
            if isinstance(st, s.Set):
                out.append(self.it.assignment(st, names, self.here))
                continue
            done = self.it.operations.get(st.name) if isinstance(st, s.Perform) else None
            if not isinstance(st, s.Perform) or done is None or done.kind != "procedure":
                raise Wrong("an undo assigns, or performs procedures that do")
            meant = {b.name: Meaning(arg, names) for b, arg in zip(done.params, st.args, strict=True)}
            out += self._undone(done.body, {**self.base, **meant})
        return out

    def _perform(self, st: s.Perform, names: dict[str, Slot | Meaning], exported: dict[str, Slot], code: str) -> None:
        done = self.it.operations.get(st.name)
        if done is None or done.kind != "procedure":
            raise Wrong(f"no procedure {st.name}")
        inner: dict[str, Slot | Meaning] = dict(self.base)
        for b, arg in zip(done.params, st.args, strict=True):
            if self._lasts(arg, names):
                inner[b.name] = Meaning(arg, dict(names))
                continue
            value, sort = self.it.compile(arg, names, self.here)
            slot = self._local(b.name, sort)
            self.out[-1].body.append(("let", slot, value))
            inner[b.name] = slot
            if st.result is not None:
                self.it.arguments.setdefault(self.op.name, {})[f"{st.result}_{b.name}"] = slot
            else:
                self.it.unnamed.setdefault((self.op.name, st.name, b.name), []).append(slot)
        told: dict[str, Slot] = {}
        first, params, picks = self.here, len(self.out[-1].params), len(self.out[-1].picks)
        result = self._body(done, inner, told, code or st.code or "")
        prefix = "" if st.result is None else st.result + "_"
        for k, segment in enumerate(self.out[first:]):  # a call names them as claims do
            for named, old in ((segment.params, 0 if k else params), (segment.picks, 0 if k else picks)):
                named[old:] = [(n if slot is self.this else prefix + n, slot) for n, slot in named[old:]]
        for name, slot in told.items():
            names[prefix + name] = exported[prefix + name] = slot
        if st.result is not None and result is not None:
            names[st.result] = exported[st.result] = result

    def _lasts(self, e: s.Expr, names: Names) -> bool:
        if isinstance(e, s.Name):
            return e.text in names or e.text in ("true", "false", *self.it.consts, *self.it.members)
        if isinstance(e, s.Field):
            return isinstance(e.base, s.Name) and e.base.text in names
        return isinstance(e, s.Operator) and all(self._lasts(a, names) for a in e.args)

    def _boundary(self, st: s.Boundary, names: dict[str, Slot | Meaning], exported: dict[str, Slot]) -> None:
        last = self.out[-1]
        if st.kind == "done":
            last.after = self.head
            self._open(f"{self.op.name}.done", self.head, "idle")
            self.head = ""
            return
        last.after = point = f"{self.op.name}.{st.name}"
        if st.kind == "each":
            self.head = point
        self._open(point, point, self.head or "idle")
        for b in st.params:
            names[b.name] = exported[b.name] = self._param(b)


__all__ = ["Interpreter", "Segment", "State", "Taken", "World", "Wrong"]
