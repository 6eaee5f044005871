"""Rules as a text of mypyvy, another project's prover by induction: a third road from rules to verdicts, for tests.

It shares only the parser with Bulkhead. What a step leaves as it is follows from `modifies`, in mypyvy. A claim about steps
becomes a place `broken_...` that each step sets where the claim is false, and an invariant that it is never set. Every name
gets a prefix in lower case, so that it is no word of mypyvy's and no variable by its capital. Conditions with a code on the
state after the step do not fit: mypyvy has two states, and where they fail they speak of a third.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from bulkhead.model import syntax as s
from bulkhead.model.diagnostics import Span
from tests.oracle.mypyvy_terms import (
    AT,
    BOOL,
    CALL,
    IDLE,
    POINT,
    Env,
    Local,
    Term,
    Terms,
    Unfit,
    Unknown,
    Value,
    Variable,
    all_of,
    any_of,
    either,
    foresees,
    quantified,
    same,
    target_of,
)

NOWHERE = Span("", 0, 0, 0)
Scope = dict[str, Value | Local]
Store = tuple[str, Sequence[Term], Term]  # a symbol, a place of it, and its value there
Effect = tuple[s.Set, Env]


@dataclass(frozen=True)
class Exported:
    """The text; the label of each transition, and the claim of each invariant, by their names there and in their order."""

    text: str
    labels: dict[str, str]
    claims: dict[str, str]


@dataclass
class Step:
    """One step, as it is read: its variables, the checks that have passed, how it may fail, what it assigns."""

    label: str
    variables: list[Variable] = field(default_factory=list)
    passed: list[str] = field(default_factory=list)
    plain: list[str] = field(default_factory=list)  # failures without `undo`
    undone: list[tuple[str, str, list[Effect]]] = field(default_factory=list)  # code, when, and what is undone
    effects: list[Effect] = field(default_factory=list)
    stores: list[Store] = field(default_factory=list)
    ensured: list[tuple[s.Expr, Env]] = field(default_factory=list)  # of the state after the step
    failed: str = ""  # where the call stands after a failure; nothing in a first step


@dataclass(frozen=True)
class Outcome:
    """One outcome of a step. `changes` says of each symbol that it assigns what it is afterwards."""

    label: str
    failed: bool
    variables: tuple[Variable, ...]
    guard: tuple[str, ...]
    changes: dict[str, str]


def exported(items: Iterable[s.Item]) -> Exported:
    """The items of one system, without parameters and with faults laid, as mypyvy's text. Raises `Unfit`."""
    given = list(items)
    formulas = [i for i in given if isinstance(i, s.FormulaItem)]
    terms = Terms(given)
    outcomes = [*_outcomes(terms)]
    two_state = [f for f in formulas if f.kind == "transition"]
    claims: dict[str, str] = {}
    said: list[str] = []
    for kind in ("axiom", "init", "invariant", "theorem"):
        for f in (f for f in formulas if f.kind == kind):
            formula = terms.truth(f.body, {})
            if kind in ("axiom", "init"):
                said.append(f"{kind} {formula}")
                continue
            claims[f"i_{f.name}"] = f.name  # an invariant has to speak of what may change
            said.append(f"invariant [i_{f.name}] ({formula} & (always | !always))")
    for f in two_state:
        claims[f"i_{f.name}"] = f.name
        said += [f"init !broken_{f.name}", f"invariant [i_{f.name}] !broken_{f.name}"]
    labels = {f"t{k}": outcome.label for k, outcome in enumerate(outcomes)}
    said += [_transition(terms, name, outcome, two_state) for name, outcome in zip(labels, outcomes, strict=True)]
    declared = [*_declared(terms, {symbol for o in outcomes for symbol in o.changes})]
    declared += [f"mutable relation broken_{f.name}()" for f in two_state]
    return Exported("\n".join([*declared, *said]) + "\n", labels, claims)


def _outcomes(terms: Terms) -> Iterator[Outcome]:
    """All outcomes of all steps. A step that reads another operation's local comes after that operation."""
    pending = [op for op in terms.operations.values() if op.kind != "procedure"]
    while pending:
        later = []
        for op in pending:
            reader = _Reader(terms, op)
            try:
                reader.read()
            except Unknown:
                terms.kept.pop(op.name, None)
                later.append(op)
            else:
                yield from reader.outcomes
        if len(later) == len(pending):
            raise Unfit(f"`{later[0].name}` reads a local that no step before it has")
        pending = later
    for item in terms.states.values():
        if item.writable is not None:
            step = _write(terms, item, item.writable)
            changes = _changes(terms, step.stores, step.effects)
            yield Outcome(step.label, False, tuple(step.variables), tuple(step.passed), changes)


def _transition(terms: Terms, name: str, outcome: Outcome, two_state: list[s.FormulaItem]) -> str:
    """One outcome, with what it does to the places of the claims about steps."""
    changes = dict(outcome.changes)
    for f in two_state:
        failed = Term(BOOL, "true" if outcome.failed else "false")
        claim = terms.truth(f.body, {"failed": failed}, later=frozenset(outcome.changes))
        changes[f"broken_{f.name}"] = f"(broken_{f.name}' <-> (broken_{f.name} | !{claim}))"
    changes = changes or {"always": "(always' <-> always)"}  # `modifies` has to name something
    params = ", ".join(f"{n}: {sort}" for n, sort in outcome.variables)
    body = all_of([*outcome.guard, *changes.values()])
    return f"transition {name}({params})\n  modifies {', '.join(changes)}\n  {body}"


def _declared(terms: Terms, written: set[str]) -> Iterator[str]:
    """Sorts, constants, and a symbol for each state function; axioms may speak only of what no step changes."""
    yield from (f"sort s_{sort}" for sort in terms.sorts)
    listed = {enum: list(members.values()) for enum, members in terms.enums.items()}
    for enum, members in {**listed, BOOL: ["b_yes", "b_no"], POINT: list(terms.points.values())}.items():
        yield f"sort s_{enum}"
        yield from (f"immutable constant {m}: s_{enum}" for m in members)
        if len(members) > 1:
            yield f"axiom distinct({', '.join(members)})"
        yield f"axiom forall x: s_{enum}. {any_of(f'x = {m}' for m in members)}"
    for name, sort in terms.consts.items():
        yield f"immutable relation c_{name}()" if sort == BOOL else f"immutable constant c_{name}: {terms.sort(sort)}"
    for symbol, (indices, sort) in terms.table.items():
        kind = "mutable" if symbol in written else "immutable"
        args = ", ".join(map(terms.sort, indices))
        if sort == BOOL:
            yield f"{kind} relation {symbol}({args})"
        else:
            yield (
                f"{kind} function {symbol}({args}): {terms.sort(sort)}"
                if args
                else f"{kind} constant {symbol}: {terms.sort(sort)}"
            )
    yield "mutable relation always()"


def _write(terms: Terms, item: s.StateItem, w: s.Writable) -> Step:
    """The step of a party that may write a state."""
    step, env, place = Step(w.name or f"write_{item.name}"), Scope(), list[Term]()
    for b in item.indices:
        variable, term = terms.variable(b)
        step.variables.append(variable)
        env[b.name] = term
        place.append(term)
    for b in item.fields:
        variable, term = terms.variable(b)
        step.variables.append(variable)
        env[b.name or "value"] = term
        step.stores.append((terms.symbol(item.name, b.name), place, term))
    if w.when is not None:
        step.passed.append(terms.truth(w.when, env))
    step.effects += [(st, env) for st in w.then]
    return step


def _changes(terms: Terms, stores: Sequence[Store], effects: Sequence[Effect]) -> dict[str, str]:
    """For each symbol that is assigned, what is said of it afterwards; the last assignment is asked first."""
    out: dict[str, str] = {}
    touched = [symbol for symbol, _, _ in stores]
    for st, _ in effects:
        name, part, _ = target_of(st.target)
        if name not in terms.states:
            raise Unfit(f"`{name}` cannot be set")
        touched += [terms.symbol(name, b.name) for b in terms.states[name].fields if part in (None, b.name)]
    for symbol in dict.fromkeys(touched):
        made = [terms.variable(s.Binder("x", sort, NOWHERE)) for sort in terms.table[symbol][0]]
        place = [value for _, value in made]
        after = terms.read(symbol, place, frozenset({symbol}))
        said = same(after, terms.read(symbol, place))
        for stored, where, value in stores:
            if stored == symbol:
                said = either(all_of(same(a, b) for a, b in zip(place, where, strict=True)), same(after, value), said)
        for st, env in effects:
            name, part, _ = target_of(st.target)
            for b in terms.states[name].fields:
                if part in (None, b.name) and terms.symbol(name, b.name) == symbol:
                    said = _assigned(terms, st, env, b.name, place, after, said)
        out[symbol] = quantified("forall", [v for v, _ in made], said)
    return out


def _assigned(terms: Terms, st: s.Set, env: Env, part: str, place: list[Term], after: Term, else_: str) -> str:
    """What one assignment says of one place."""
    index = target_of(st.target)[2]
    bound: Scope = {}
    for at, here in zip(index, place, strict=True):  # a variable that is an index is the place itself
        if isinstance(at, s.Name) and at.text in {b.name for b in st.binders} and at.text not in bound:
            bound[at.text] = here
    inner, others = {**env, **bound}, []
    for b in st.binders:
        if b.name not in bound:
            variable, inner[b.name] = terms.variable(b)
            others.append(variable)
    hit = [same(here, terms.single(at, inner)) for at, here in zip(index, place, strict=True)]
    if st.where is not None:
        hit.append(terms.truth(st.where, inner))
    value = dict(st.value.fields)[part] if isinstance(st.value, s.Record) else st.value
    if isinstance(value, s.Anything):
        said = "true"
    else:
        given = terms.value(value, inner)
        said = same(after, given[part] if isinstance(given, dict) else given)
    return either(quantified("exists", others, all_of(hit)), said, else_)


class _Reader:
    """One operation, step by step. What a step defines is kept with the call, for the steps that follow."""

    def __init__(self, terms: Terms, op: s.Operation) -> None:
        self.terms, self.op = terms, op
        self.outcomes: list[Outcome] = []
        self.this: Term | None = None
        self.head = ""
        self.base: Scope = {}
        if self._several(op):
            self.variable, self.this = terms.variable(s.Binder("this", CALL, NOWHERE))
            self.base = {"this": self.this}
        self.here = self._opened(op.name, IDLE, "")

    def _several(self, op: s.Operation) -> bool:
        performed = [self.terms.operations[st.name] for st in op.body if isinstance(st, s.Perform)]
        return any(isinstance(st, s.Boundary) for st in op.body) or any(map(self._several, performed))

    def read(self) -> None:
        """All statements; the outcomes are in `outcomes` then. Raises `Unfit`."""
        env, told = dict(self.base), self.terms.kept.setdefault(self.op.name, {})
        for b in self.op.params:
            env[b.name] = told[b.name] = self._param(b)
        if self.op.when is not None:
            self.here.passed.append(self.terms.truth(self.op.when, env))
        self._body(self.op, env, told, None)
        self._close(IDLE)

    def _opened(self, label: str, point: str, failed: str) -> Step:
        step = Step(label, failed=failed)
        if self.this is not None:
            step.variables.append(self.variable)
            step.passed.append(same(self.terms.read(AT, [self.this]), self.terms.point(point)))
        self.terms.step = step
        return step

    def _close(self, point: str) -> None:
        """The outcomes of the step that ends here; its call then stands at a point."""
        step, terms = self.here, self.terms

        def add(label: str, failed: bool, guard: list[str], stores: list[Store], effects: list[Effect]) -> None:
            changes = _changes(terms, stores, effects)
            if not failed:
                guard = guard + [terms.truth(cond, env, later=frozenset(changes)) for cond, env in step.ensured]
            self.outcomes.append(Outcome(label, failed, tuple(step.variables), tuple(guard), changes))

        left = self._goes(step.failed)
        add(step.label, False, step.passed, [*step.stores, *self._goes(point)], step.effects)
        seen: list[str] = []
        for code, when, undo in step.undone:
            seen.append(code)
            again = f"#{seen.count(code)}" if seen.count(code) > 1 else ""
            add(f"{step.label}!{code}{again}", True, [when], left, undo)
        if step.plain:
            add(f"{step.label}!*", True, [any_of(step.plain)], left, [])

    def _goes(self, point: str) -> list[Store]:
        return [] if self.this is None or not point else [(AT, [self.this], self.terms.point(point))]

    def _local(self, value: Value) -> Local:
        """A new local of this step; its call keeps it."""
        made = Local(self.here, value, self.terms.keeping(value, self.this))
        if self.this is not None:
            parts = value if isinstance(value, dict) else {"": value}
            kept = made.kept if isinstance(made.kept, dict) else {"": made.kept}
            for part, term in parts.items():
                self.here.stores.append((kept[part].text.partition("(")[0], [self.this], term))
        return made

    def _param(self, b: s.Binder) -> Local:
        variable, value = self.terms.variable(b)
        self.here.variables.append(variable)
        return self._local(value)

    def _body(self, op: s.Operation, env: Scope, told: dict[str, Local], code: str | None) -> Local | None:
        """The statements of an operation or procedure; `told` gets its locals. Returns its result."""
        terms, result = self.terms, None
        for st in op.body:
            match st:
                case s.Require() if foresees(st.cond):
                    if st.code:
                        raise Unfit("a condition with a code on the state after the step")
                    self.here.ensured.append((st.cond, dict(env)))
                case s.Require():
                    cond = terms.truth(st.cond, env)
                    self._asked(st, code, f"!{cond}", cond, env)
                case s.MayFail():
                    self._asked(st, code, "true", "true", env)
                case s.Pick():
                    made = {b.name: terms.variable(b) for b in st.binders}
                    picked = [variable for variable, _ in made.values()]
                    inner = {**env, **{name: value for name, (_, value) in made.items()}}
                    where = "true" if st.where is None else terms.truth(st.where, inner)
                    fails = "false" if st.where is None else f"!{quantified('exists', picked, where)}"
                    self._asked(st, code, fails, where, env)
                    self.here.variables += picked
                    for name, (_, value) in made.items():
                        env[name] = told[name] = self._local(value)
                case s.Let():
                    env[st.name] = told[st.name] = self._local(terms.value(st.value, env))
                case s.Set():
                    self.here.effects.append((st, dict(env)))
                case s.Return():
                    result = self._local(terms.value(st.value, env))
                case s.Perform():
                    self._perform(st, env, told, code)
                case s.Boundary():
                    self._boundary(st, env, told)
        return result

    def _asked(self, st: s.Require | s.MayFail | s.Pick, code: str | None, fails: str, holds: str, env: Env) -> None:
        """A check: what comes of it when it fails; without a code nothing does."""
        if st.undo:
            self.here.undone.append((code or st.code or "", all_of([*self.here.passed, fails]), [*self._undo(st.undo, env)]))
        elif st.code:
            self.here.plain.append(all_of([*self.here.passed, fails]))
        self.here.passed.append(holds)

    def _undo(self, undo: Iterable[s.Statement], env: Env) -> Iterator[Effect]:
        """The assignments of an `undo`, with those of procedures."""
        for st in undo:
            if isinstance(st, s.Set):
                yield st, dict(env)
            elif isinstance(st, s.Perform):
                done = self.terms.operations[st.name]
                given = {b.name: self.terms.value(a, env) for b, a in zip(done.params, st.args, strict=True)}
                yield from self._undo(done.body, {**self.base, **given})

    def _perform(self, st: s.Perform, env: Scope, told: dict[str, Local], code: str | None) -> None:
        done = self.terms.operations[st.name]
        inner, own = dict(self.base), dict[str, Local]()
        prefix = "" if st.result is None else f"{st.result}_"
        for b, a in zip(done.params, st.args, strict=True):
            if isinstance(a, s.Name) and (a.text in env or a.text not in self.terms.states):
                inner[b.name] = env[a.text] if a.text in env else self.terms.single(a, env)  # it lasts: nothing to keep
                continue
            inner[b.name] = given = self._local(self.terms.value(a, env))
            if prefix:
                told[prefix + b.name] = given
        result = self._body(done, inner, own, code or st.code)
        for name, local in own.items():
            env[prefix + name] = told[prefix + name] = local
        if st.result is not None and result is not None:
            env[st.result] = told[st.result] = result

    def _boundary(self, st: s.Boundary, env: Scope, told: dict[str, Local]) -> None:
        if st.kind == "done":
            self._close(self.head)
            self.here = self._opened(f"{self.op.name}.done", self.head, IDLE)
            self.head = ""
            return
        point = f"{self.op.name}.{st.name}"
        self._close(point)
        if st.kind == "each":
            self.head = point
        self.here = self._opened(point, point, self.head or IDLE)
        for b in st.params:
            env[b.name] = told[b.name] = self._param(b)


__all__ = ["Exported", "Unfit", "exported"]
