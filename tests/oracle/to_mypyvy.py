"""Rules as a text of mypyvy, another project's prover by induction: a third road from rules to verdicts, for tests.

It shares only the parser with Bulkhead. What a step leaves as it is follows from `modifies`, in mypyvy. Rules that do not
fit raise `Unfit`: operations of several steps, `undo`, and conditions with a code on the state after the step. A claim about
steps becomes a place `broken_...` that each step sets where the claim is false, and an invariant that it is never set. Every
name gets a prefix in lower case, so that it is no word of mypyvy's and no variable by its capital.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from bulkhead.model import syntax as s

BOOL = "bool"
INIT = "init"


class Unfit(Exception):
    """The rules have something that this translation does not cover; the text names it."""


@dataclass(frozen=True)
class Term:
    """A value that is no record: its sort, and its text in mypyvy."""

    sort: str
    text: str


Value = Term | dict[str, Term]
Env = Mapping[str, Value]
Changed = frozenset[str]
NOTHING: Changed = frozenset()


@dataclass(frozen=True)
class Exported:
    """The text; the label of each transition, and the claim of each invariant, by their names there and in their order."""

    text: str
    labels: dict[str, str]
    claims: dict[str, str]


@dataclass
class Step:
    """One operation, as it is read: its variables, the checks that have passed, how it may fail, what it assigns."""

    variables: list[tuple[str, str]] = field(default_factory=list)
    passed: list[str] = field(default_factory=list)
    fails: list[str] = field(default_factory=list)
    effects: list[tuple[s.Set, dict[str, Value]]] = field(default_factory=list)
    ensured: list[tuple[s.Expr, dict[str, Value]]] = field(default_factory=list)  # of the state after the step
    stores: list[tuple[str, str, list[Term], Term]] = field(default_factory=list)  # what a party writes


def exported(items: Iterable[s.Item]) -> Exported:
    """The items of one system, without parameters and with faults laid, as mypyvy's text. Raises `Unfit`."""
    return _Exporter(list(items)).whole()


class _Exporter:
    def __init__(self, items: list[s.Item]) -> None:
        self.numbers = itertools.count(1)
        self.enums = {i.name: [m.text for m in i.members] for i in items if isinstance(i, s.EnumItem)}
        self.enum_of = {m: enum for enum, members in self.enums.items() for m in members}
        self.sorts = [i.name for i in items if isinstance(i, s.SortItem)]
        self.consts = {i.name: i.sort for i in items if isinstance(i, s.ConstItem)}
        self.states = {i.name: i for i in items if isinstance(i, s.StateItem)}
        self.defines = {i.name: i for i in items if isinstance(i, s.DefineItem)}
        self.operations = {i.name: i for i in items if isinstance(i, s.Operation)}
        self.formulas = [i for i in items if isinstance(i, s.FormulaItem)]
        self.two_state = [f for f in self.formulas if f.kind == "transition"]
        self.written = set(self._written())

    def whole(self) -> Exported:
        """All declarations, the formulas, the transitions."""
        lines = [*self._declared()]
        claims: dict[str, str] = {}
        for kind in ("axiom", "init", "invariant", "theorem"):
            for f in (f for f in self.formulas if f.kind == kind):
                named = "" if kind in ("axiom", "init") else f" [i_{f.name}]"
                formula = self.truth(f.body, {})
                if named:
                    claims[f"i_{f.name}"] = f.name
                    formula = f"({formula} & (always | !always))"  # an invariant has to speak of what may change
                lines.append(f"{'invariant' if named else kind}{named} {formula}")
        for f in self.two_state:
            claims[f"i_{f.name}"] = f.name
            lines += [f"init !broken_{f.name}", f"invariant [i_{f.name}] !broken_{f.name}"]
        labels: dict[str, str] = {}
        for label, step in self._steps():
            name = f"t_{label}"
            labels[name] = label
            changes = self._changes(step)
            ensured = [self.truth(cond, env, later=frozenset(changes)) for cond, env in step.ensured]
            lines.append(self._transition(name, step, "false", [*step.passed, *ensured], changes))
            if step.fails:
                labels[f"fails_{label}"] = f"{label}!*"
                lines.append(self._transition(f"fails_{label}", step, "true", [_any(step.fails)], {}))
        return Exported("\n".join(lines) + "\n", labels, claims)

    # Declarations.

    def _written(self) -> Iterator[tuple[str, str]]:
        sets = [st for op in self.operations.values() for st in op.body if isinstance(st, s.Set)]
        for item in self.states.values():
            if item.writable is not None:
                yield from ((item.name, b.name) for b in item.fields)
                sets += item.writable.then
        for st in sets:
            name, part, _ = _target(st.target)
            if name in self.states:
                yield from ((name, b.name) for b in self.states[name].fields if part in (None, b.name))

    def _declared(self) -> Iterator[str]:
        for sort in self.sorts:
            yield f"sort s_{sort}"
        listed = {enum: [f"m_{m}" for m in members] for enum, members in self.enums.items()}
        for enum, members in {**listed, BOOL: ["b_yes", "b_no"]}.items():
            yield f"sort s_{enum}"
            yield from (f"immutable constant {m}: s_{enum}" for m in members)
            if len(members) > 1:
                yield f"axiom distinct({', '.join(members)})"
            yield f"axiom forall x: s_{enum}. {_any(f'x = {m}' for m in members)}"
        for name, sort in self.consts.items():
            yield f"immutable relation c_{name}()" if sort == BOOL else f"immutable constant c_{name}: {self.sort(sort)}"
        for item in self.states.values():
            for b in item.fields:
                mutable = "mutable" if (item.name, b.name) in self.written else "immutable"
                name, args = self.symbol(item.name, b.name), ", ".join(self.sort(i.sort) for i in item.indices)
                if b.sort == BOOL:
                    yield f"{mutable} relation {name}({args})"
                elif args:
                    yield f"{mutable} function {name}({args}): {self.sort(b.sort)}"
                else:
                    yield f"{mutable} constant {name}: {self.sort(b.sort)}"
        yield "mutable relation always()"
        yield from (f"mutable relation broken_{f.name}()" for f in self.two_state)

    def sort(self, name: str) -> str:
        if name not in self.sorts and name not in self.enums and name != BOOL:
            raise Unfit(f"the sort `{name}`")
        return f"s_{name}"

    def symbol(self, state: str, part: str) -> str:
        """The name of a state, or of a field of it; the number keeps `a` with the field `b` apart from `a_b`."""
        number = list(self.states).index(state)
        return f"f{number}_{state}_{part}" if part else f"f{number}_{state}"

    def variable(self, b: s.Binder) -> tuple[tuple[str, str], Term]:
        """A new variable: its name and sort there, and its value. Truth values are elements of a sort of their own."""
        name = f"v{next(self.numbers)}_{b.name}"
        text = f"({name} = b_yes)" if b.sort == BOOL else name
        return (name, self.sort(b.sort)), Term(b.sort, text)

    # Steps.

    def _steps(self) -> Iterator[tuple[str, Step]]:
        for op in self.operations.values():
            if op.kind != "procedure":
                step, env = Step(), dict[str, Value]()
                for b in op.params:
                    variable, env[b.name] = self.variable(b)
                    step.variables.append(variable)
                if op.when is not None:
                    step.passed.append(self.truth(op.when, env))
                self._body(op, env, step, None)
                yield op.name, step
        for item in self.states.values():
            if item.writable is not None:
                yield item.writable.name or f"write_{item.name}", self._write(item, item.writable)

    def _write(self, item: s.StateItem, w: s.Writable) -> Step:
        step, env, place = Step(), dict[str, Value](), list[Term]()
        for b in item.indices:
            variable, value = self.variable(b)
            step.variables.append(variable)
            place.append(value)
            env[b.name] = value
        for b in item.fields:
            variable, value = self.variable(b)
            step.variables.append(variable)
            env[b.name or "value"] = value
            step.stores.append((item.name, b.name, place, value))
        if w.when is not None:
            step.passed.append(self.truth(w.when, env))
        step.effects += [(st, env) for st in w.then]
        return step

    def _body(self, op: s.Operation, env: dict[str, Value], step: Step, code: str | None) -> Value | None:
        """The statements of an operation or procedure; `env` gets its locals. Returns what it returns."""
        result: Value | None = None
        for st in op.body:
            if isinstance(st, s.Require | s.MayFail | s.Pick) and st.undo:
                raise Unfit("`undo`")
            match st:
                case s.Require():
                    if st.code and _foresees(st.cond):
                        raise Unfit("a condition with a code on the state after the step")
                    if _foresees(st.cond):
                        step.ensured.append((st.cond, dict(env)))
                        continue
                    cond = self.truth(st.cond, env)
                    if st.code:
                        step.fails.append(_all([*step.passed, f"!{cond}"]))
                    step.passed.append(cond)
                case s.MayFail():
                    step.fails.append(_all(step.passed))
                case s.Pick():
                    inner, picked = dict(env), []
                    for b in st.binders:
                        variable, inner[b.name] = self.variable(b)
                        picked.append(variable)
                    where = "true" if st.where is None else self.truth(st.where, inner)
                    if st.code:
                        step.fails.append(_all([*step.passed, f"!{_quantified('exists', picked, where)}"]))
                    step.variables += picked
                    step.passed.append(where)
                    env.update(inner)
                case s.Let():
                    env[st.name] = self.value(st.value, env)
                case s.Set():
                    step.effects.append((st, dict(env)))
                case s.Return():
                    result = self.value(st.value, env)
                case s.Perform():
                    done = self.operations[st.name]
                    given = {b.name: self.value(a, env) for b, a in zip(done.params, st.args, strict=True)}
                    inner = dict(given)
                    back = self._body(done, inner, step, code or st.code)
                    prefix = "" if st.result is None else f"{st.result}_"
                    env.update({prefix + name: value for name, value in inner.items() if name not in given})
                    if st.result is not None and back is not None:
                        env[st.result] = back
                case _:
                    raise Unfit("an operation of several steps")
        return result

    def _changes(self, step: Step) -> dict[str, str]:
        """For each symbol that the step assigns, what is said of it afterwards; the last assignment is asked first."""
        out: dict[str, str] = {}
        touched = [(name, part) for name, part, _, _ in step.stores]
        for st, _ in step.effects:
            name, part, _ = _target(st.target)
            if name not in self.states:
                raise Unfit(f"`{name}` cannot be set")
            touched += [(name, b.name) for b in self.states[name].fields if part in (None, b.name)]
        for name, part in dict.fromkeys(touched):
            item = self.states[name]
            made = [self.variable(b) for b in item.indices]
            place = [value for _, value in made]
            (sort,) = [b.sort for b in item.fields if b.name == part]
            after = self._read(name, part, sort, place, frozenset({self.symbol(name, part)}))
            said = _same(after, self._read(name, part, sort, place, NOTHING))
            for owner, stored, where, value in step.stores:
                if (owner, stored) == (name, part):
                    said = _either(_all(_same(a, b) for a, b in zip(place, where, strict=True)), _same(after, value), said)
            for st, env in step.effects:
                if _target(st.target)[0] == name and _target(st.target)[1] in (None, part):
                    said = self._assigned(st, env, part, place, after, said)
            out[self.symbol(name, part)] = _quantified("forall", [v for v, _ in made], said)
        return out

    def _assigned(self, st: s.Set, env: dict[str, Value], part: str, place: list[Term], after: Term, else_: str) -> str:
        """What one assignment says of one place."""
        index = _target(st.target)[2]
        inner, bound = dict(env), dict[str, Value]()
        for at, here in zip(index, place, strict=True):  # a variable that is an index is the place itself
            if isinstance(at, s.Name) and at.text in {b.name for b in st.binders} and at.text not in bound:
                bound[at.text] = here
        inner.update(bound)
        others = []
        for b in st.binders:
            if b.name not in bound:
                variable, inner[b.name] = self.variable(b)
                others.append(variable)
        hit = [_same(here, self.single(at, inner)) for at, here in zip(index, place, strict=True)]
        if st.where is not None:
            hit.append(self.truth(st.where, inner))
        value = st.value
        if isinstance(value, s.Record):
            value = dict(value.fields)[part]
        if isinstance(value, s.Anything):
            said = "true"
        else:
            given = self.value(value, inner)
            said = _same(after, given[part] if isinstance(given, dict) else given)
        return _either(_quantified("exists", others, _all(hit)), said, else_)

    def _transition(self, name: str, step: Step, failed: str, guard: Sequence[str], changes: dict[str, str]) -> str:
        """One outcome of a step, with what it does to the places of the claims about steps."""
        all_changes = dict(changes)
        for f in self.two_state:
            claim = self.truth(f.body, {"failed": Term(BOOL, failed)}, later=frozenset(changes))
            all_changes[f"broken_{f.name}"] = f"(broken_{f.name}' <-> (broken_{f.name} | !{claim}))"
        params = ", ".join(f"{n}: {sort}" for n, sort in step.variables)
        all_changes = all_changes or {"always": "(always' <-> always)"}  # `modifies` has to name something
        return f"transition {name}({params})\n  modifies {', '.join(all_changes)}\n  {_all([*guard, *all_changes.values()])}"

    # Expressions.

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
                return Term(BOOL, _quantified(kind, variables, self.truth(body, inside, read, later)))
        raise Unfit(f"{type(e).__name__} in line {e.span.line}")

    def _name(self, name: str, env: Env, read: Changed) -> Value:
        if name in env:
            return env[name]
        if name in ("true", "false"):
            return Term(BOOL, name)
        if name in self.enum_of:
            return Term(self.enum_of[name], f"m_{name}")
        if name in self.consts:
            return Term(self.consts[name], f"c_{name}")
        if name in self.states:
            return self._state(name, [], read)
        raise Unfit(f"the name `{name}`")

    def _state(self, name: str, args: list[Term], read: Changed) -> Value:
        parts = {b.name: self._read(name, b.name, b.sort, args, read) for b in self.states[name].fields}
        return parts.get("", parts)

    def _read(self, name: str, part: str, sort: str, args: list[Term], read: Changed) -> Term:
        prime = "'" if self.symbol(name, part) in read else ""  # what the step does not change has no prime
        given = [f"(if {a.text} then b_yes else b_no)" if a.sort == BOOL else a.text for a in args]
        return Term(sort, self.symbol(name, part) + prime + (f"({', '.join(given)})" if given else ""))

    def _operator(self, op: str, args: list[Value]) -> Value:
        if op in ("=", "!="):
            same = _same(args[0], args[1])
            return Term(BOOL, same if op == "=" else f"!{same}")
        if op == "if" and isinstance(args[1], dict) and isinstance(args[2], dict):
            return {
                f: Term(v.sort, f"(if {_text(args[0])} then {v.text} else {args[2][f].text})") for f, v in args[1].items()
            }
        texts = [_text(a) for a in args]
        match op:
            case "not":
                return Term(BOOL, f"!{texts[0]}" if texts[0].startswith("(") else f"!({texts[0]})")
            case "and":
                return Term(BOOL, _all(texts))
            case "or":
                return Term(BOOL, _any(texts))
            case "implies":
                return Term(BOOL, f"({texts[0]} -> {texts[1]})")
            case "iff":
                return Term(BOOL, f"({texts[0]} <-> {texts[1]})")
            case "if":
                assert isinstance(args[1], Term)
                return replace(args[1], text=f"(if {texts[0]} then {texts[1]} else {texts[2]})")
        raise Unfit(f"the operator `{op}`")


def _target(target: s.Expr) -> tuple[str, str | None, tuple[s.Expr, ...]]:
    """The state that an assignment names, its field (None: all of it), and the indices."""
    match target:
        case s.Name(text=name):
            return name, None, ()
        case s.Index(base=s.Name(text=name), args=args):
            return name, None, args
        case s.Field(base=base, name=part):
            name, _, args = _target(base)
            return name, part, args
    raise Unfit("only state can be set")


def _foresees(e: s.Expr) -> bool:
    match e:
        case s.Call(name="next"):
            return True
        case s.Call(args=args) | s.Operator(args=args) | s.Index(args=args):
            return any(map(_foresees, args))
        case s.Quantified(body=inner) | s.Field(base=inner):
            return _foresees(inner)
    return False


def _text(value: Value) -> str:
    if isinstance(value, dict):
        raise Unfit("a record where a truth value belongs")
    return value.text


def _same(a: Value, b: Value) -> str:
    """Equality, of records field by field."""
    if isinstance(a, dict) and isinstance(b, dict):
        return _all(_same(a[f], b[f]) for f in a)
    if isinstance(a, dict) or isinstance(b, dict):
        raise Unfit("a record beside what is none")
    return f"({a.text} <-> {b.text})" if a.sort == BOOL else f"({a.text} = {b.text})"


def _all(parts: Iterable[str]) -> str:
    return f"({' & '.join(parts) or 'true'})"


def _any(parts: Iterable[str]) -> str:
    return f"({' | '.join(parts) or 'false'})"


def _either(cond: str, then: str, else_: str) -> str:
    return f"(if {cond} then {then} else {else_})"


def _quantified(kind: str, variables: Sequence[tuple[str, str]], body: str) -> str:
    if not variables:
        return body if body.startswith("(") else f"({body})"
    return f"({kind} {', '.join(f'{n}: {sort}' for n, sort in variables)}. {body})"


__all__ = ["INIT", "Exported", "Unfit", "exported"]
