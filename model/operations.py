"""Splits an operation into atomic steps, checks and translates them, and saves locals that later steps use.

Within one step every expression reads the state before the step and all assignments are simultaneous. A name defined in
one step and used in a later one is saved in its own state function, `operation.name[call]`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from bulkhead.model import syntax as s
from bulkhead.model.after import MAX_SIZE, TooLarge, told_before
from bulkhead.model.diagnostics import Span, suggest
from bulkhead.model.expressions import MAX_BOUND, Declarations, RecordTerm, Scope, Value
from bulkhead.model.ir import (
    ANY,
    AT,
    CALL,
    IDLE,
    THIS,
    TRUE,
    App,
    Check,
    Func,
    Step,
    Term,
    Update,
    Var,
    free_variables,
    show,
)
from bulkhead.model.procedures import Inliner, too_heavy, weight

MAX_PARAMS = 16  # arguments and picks of one step


@dataclass
class _Segment:
    """The statements between two boundaries."""

    boundary: s.Boundary | None
    body: list[s.Statement]
    point: str
    after: str
    on_error: str


class OperationScope(Scope):
    """Names of one operation: those of an earlier step are read from the call's saved locals."""

    def __init__(self, decls: Declarations, op: str, has_call: bool = True) -> None:
        super().__init__(decls)
        self.op = op
        self.has_call = has_call  # only an operation of several steps has a `this`
        self.segment = 0
        self.defined: dict[str, tuple[Value, int]] = {}
        self.saved: dict[str, tuple[Term, int]] = {}
        self.weights: dict[str, tuple[int, int]] = {}

    def define(self, name: str, value: Value, span: Span) -> None:
        self.refuse_words((s.Binder(name, "", span),))
        if name in self.defined:
            self.decls.problem(
                "E0401",
                span,
                f"`{name}` is defined twice in `{self.op}`",
                hint="Give one of them another name; what is performed twice needs `as NAME`.",
            )
        self.defined[name] = (value, self.segment)

    def resolve(self, name: str) -> Value | None:
        if name in self.variables:
            return self.variables[name]
        if name == "this":
            return THIS if self.has_call else None
        if name not in self.defined:
            return None
        value, segment = self.defined[name]
        if segment == self.segment or (not isinstance(value, RecordTerm) and value.sort == "?"):
            return value
        if isinstance(value, RecordTerm):
            return self._save_record(name, value, segment)
        return self._save(name, value, segment)

    def save(self, name: str, value: Value, segment: int) -> Value:
        """Save a local with the call, from its defining step on; returns the term by which later steps read it."""
        if isinstance(value, RecordTerm):
            return self._save_record(name, value, segment)
        return self._save(name, value, segment)

    def _save_record(self, name: str, value: RecordTerm, segment: int) -> RecordTerm:
        # No local has the name `old.live`, so it cannot collide with a local `old_live`.
        return RecordTerm(tuple((f, self._save(f"{name}.{f}", t, segment)) for f, t in value.fields))

    def _save(self, name: str, value: Term, segment: int) -> Term:
        func = f"{self.op}.{name}"
        if func not in self.decls.funcs:
            self.decls.funcs[func] = Func(func, (CALL,), value.sort, doc=f"local of a call of {self.op} in flight")
        self.saved[name] = (value, segment)
        return App(func, (THIS,), value.sort)

    def taken(self) -> set[str]:
        here = {v.name for v, segment in self.defined.values() if isinstance(v, Var) and segment == self.segment}
        return super().taken() | here | {THIS.name}

    def copy(self) -> OperationScope:
        inner = OperationScope(self.decls, self.op, self.has_call)
        inner.variables = dict(self.variables)
        inner.depth, inner.two_state, inner.in_next = self.depth, self.two_state, self.in_next
        inner.segment, inner.defined, inner.saved = self.segment, self.defined, self.saved
        return inner


def elaborate(
    op: s.Operation, procedures: dict[str, s.Operation], decls: Declarations, wanted: frozenset[str] = frozenset()
) -> list[Step]:
    """The atomic steps of one operation; problems are collected in `decls`.

    `wanted` names locals that claims use (`operation.local[call]`): they are saved even if no later step reads them.
    """
    body = Inliner(procedures, decls, op.name).operation(op)
    if op.kind == "procedure" and op.when is not None:
        decls.problem(
            "E0402",
            op.when.span,
            f"the procedure `{op.name}` has a `when`, and nobody calls a procedure",
            hint="Use `require ... else CODE` in it, or `when` in the operations that perform it.",
        )
    segments = _cut(op, body, decls)
    scope = OperationScope(decls, op.name, len(segments) > 1 or op.kind == "procedure")
    steps: list[Step] = []
    last: list[list[Check]] = []  # of each step, conditions on the state after it
    for number, segment in enumerate(segments):
        scope.segment = number
        binders = op.params if segment.boundary is None else segment.boundary.params
        params = []
        for b in binders:
            known = decls.known_sort(b)
            var = Var(b.name, b.sort if known else "?")
            scope.define(b.name, var, b.span)
            if known:
                params.append(var)
        when: Term = TRUE
        if segment.boundary is None and op.when is not None:
            when = scope.boolean(op.when) or TRUE
        checks, foreseeing, updates, result = _statements(segment.body, scope, decls)
        updates, choices = _chosen(updates)
        if result is not None and op.result is not None and result.sort not in (op.result, "?"):
            decls.problem("E0403", op.span, f"`{op.name}` returns sort {result.sort}", f"Expected sort {op.result}.")
        name = "" if segment.boundary is None else segment.boundary.name
        _refuse_many(
            [*params, *(v for c in checks for v in c.vars)],
            MAX_PARAMS,
            f"`{op.name}` has too many arguments and picks in one step",
            op.span,
            decls,
        )
        last.append(foreseeing)
        steps.append(
            Step(
                op.name,
                name,
                op.kind,
                tuple(params),
                when,
                tuple(checks),
                tuple(updates),
                result,
                op.doc,
                op.span,
                segment.point,
                segment.after,
                segment.on_error,
                choices=choices,
            )
        )
    for name, (found, number) in scope.defined.items():
        if f"{op.name}.{name}" in wanted and number + 1 < len(steps):
            scope.save(name, found, number)
    for name, (value, number) in scope.saved.items():
        keep = Update(f"{op.name}.{name}", (THIS,), value)
        steps[number] = replace(steps[number], updates=(*steps[number].updates, keep))
    return [_foreseeing(step, checks, decls) for step, checks in zip(steps, last, strict=True)]


def _chosen(updates: list[Update]) -> tuple[list[Update], tuple[Func, ...]]:
    """The assignments of one step, what each `*` stands for by a name of its own; and these as functions."""
    made: list[Update] = []
    choices: list[Func] = []
    for u in updates:
        if isinstance(u.value, App) and u.value.func == ANY:
            before = sum(c.name.startswith(f"{ANY}{u.func}.") for c in choices)
            sorts = tuple(a.sort for a in u.value.args)
            choices.append(Func(f"{ANY}{u.func}.{before + 1}", sorts, u.value.sort))
            u = replace(u, value=replace(u.value, func=choices[-1].name))
        made.append(u)
    return made, tuple(choices)


def _foreseeing(step: Step, foreseeing: list[Check], decls: Declarations) -> Step:
    """The step with its conditions on the state after it, told of the state before; they are asked when all others hold."""
    checks = list(step.checks)
    for check in foreseeing:
        if check.code and step.choices:
            decls.problem(
                "E0426",
                check.span,
                "a check of the state after the step has a code, and `= *` chooses that state",
                hint="Leave the code out: then a state is chosen that satisfies it.",
            )
            continue
        try:
            checks.append(replace(check, cond=told_before(check.cond, step.success().updates, decls.defs, most=MAX_SIZE)))
        except TooLarge:
            decls.problem(
                "E0427",
                check.span,
                "this condition on the state after the step is too large, with what the step assigns written out",
                hint="Keep the definitions it uses small, or split the step.",
            )
    return replace(step, checks=tuple(checks))


def _speaks_of_next(expr: s.Expr) -> bool:
    """Is a condition about the state after the step?"""
    match expr:
        case s.Call():
            return expr.name == "next" or any(map(_speaks_of_next, expr.args))
        case s.Operator() | s.Index():
            return any(map(_speaks_of_next, expr.args))
        case s.Quantified():
            return _speaks_of_next(expr.body)
        case s.Field():
            return _speaks_of_next(expr.base)
    return False


def _refuse_many(variables: list[Var], most: int, what: str, span: Span, decls: Declarations) -> None:
    if len(variables) > most:
        decls.problem(
            "E0404", span, f"{what}: {len(variables)}", f"Expected {most} at most.", "Searches try every combination."
        )


def _cut(op: s.Operation, body: list[s.Statement], decls: Declarations) -> list[_Segment]:
    bounds = [b for b in body if isinstance(b, s.Boundary)]
    if not bounds:
        return [_Segment(None, body, "", "", "")]
    segments = [_Segment(None, [], "", "", IDLE)]
    head = ""
    seen: set[str] = set()
    for statement in body:
        if not isinstance(statement, s.Boundary):
            segments[-1].body.append(statement)
            continue
        if statement.name in seen:
            decls.problem(
                "E0405",
                statement.span,
                f"`{op.name}` has two steps `{statement.name}`",
                hint="No two steps have one name, and there is one batch at most. A procedure with steps is performed once.",
            )
        seen.add(statement.name)
        if statement.kind == "done":
            if not head:
                decls.problem("E0406", statement.span, "`done` without an `each` before it")
            segments[-1].after = head
            segments.append(_Segment(statement, [], head, IDLE, IDLE))
            head = ""
            continue
        point = f"{op.name}.{statement.name}"
        segments[-1].after = point
        if statement.kind == "each":
            if head:
                decls.problem("E0407", statement.span, "a batch begins within a batch", hint="End the first with `done`.")
            head = point
        segments.append(_Segment(statement, [], point, "", head or IDLE))
    if head:
        decls.problem("E0408", op.span, f"the batch of `{op.name}` has no `done`", hint="End it with `done`.")
    segments[-1].after = segments[-1].after or IDLE
    return segments


def _statements(
    body: list[s.Statement], scope: OperationScope, decls: Declarations
) -> tuple[list[Check], list[Check], list[Update], Term | None]:
    """The checks of one step, those of the state after it, its assignments, and what it gives back."""
    checks: list[Check] = []
    foreseeing: list[Check] = []
    updates: list[Update] = []
    result: Term | None = None
    for st in body:
        match st:
            case s.Require():
                scope.two_state = True
                cond = scope.boolean(st.cond)
                scope.two_state = False
                if cond is not None:
                    undo = _undone(st.undo, scope, decls)
                    kept = foreseeing if _speaks_of_next(st.cond) else checks
                    kept.append(Check("require", cond, st.code or "", (), undo, show(cond), st.span))
            case s.MayFail():
                checks.append(Check("may", TRUE, st.code, (), _undone(st.undo, scope, decls), st.why, st.span))
            case s.Pick():
                undo = _undone(st.undo, scope, decls)  # the `undo` runs when nothing was picked
                picked = tuple(Var(b.name, b.sort if decls.known_sort(b) else "?") for b in st.binders)
                for var, b in zip(picked, st.binders, strict=True):
                    scope.define(var.name, var, b.span)
                cond = TRUE if st.where is None else scope.boolean(st.where)
                if cond is not None and "?" not in [v.sort for v in picked]:
                    text = f"some {', '.join(v.name for v in picked)}: {show(cond)}"
                    checks.append(Check("pick", cond, st.code or "", picked, undo, text, st.span))
            case s.Let():
                scope.weights[st.name] = weight(st.value, scope.weights)
                if too_heavy(scope.weights[st.name]):
                    scope.weights[st.name] = (1, 1)
                    decls.problem(
                        "E0410",
                        st.span,
                        f"`{st.name}` is too large, with the values it uses written out",
                        hint="Keep chains of `let` short.",
                    )
                    value = None
                else:
                    value = scope.value(st.value)
                scope.define(st.name, Var(st.name, "?") if value is None else value, st.span)
            case s.Set():
                updates.extend(_set(st, scope, decls))
            case s.Return():
                result = scope.scalar(st.value)
    return checks, foreseeing, updates, result


def _undone(undo: tuple[s.Set | s.Perform, ...], scope: Scope, decls: Declarations) -> tuple[Update, ...]:
    """The updates of a failing check's `undo`, which must not contain a choice."""
    for st in undo:
        if isinstance(st, s.Set):
            values = [v for _, v in st.value.fields] if isinstance(st.value, s.Record) else [st.value]
            for value in values:
                if isinstance(value, s.Anything):
                    decls.problem("E0425", value.span, "`undo` cannot choose", "Expected a value: what was there before.")
                    return ()
    return _sets(undo, scope, decls)


def _sets(sets: tuple[s.Set | s.Perform, ...], scope: Scope, decls: Declarations) -> tuple[Update, ...]:
    """The statements of an `undo`; procedures are already expanded, except those with a reported problem."""
    return tuple(u for st in sets if isinstance(st, s.Set) for u in _set(st, scope, decls))


def _set(st: s.Set, scope: Scope, decls: Declarations) -> list[Update]:
    """The updates of one `set`, one per field of a record."""
    inner, binders = scope.child(st.binders) if st.binders else (scope, ())
    if inner.depth > MAX_BOUND:
        decls.problem("E0411", st.span, f"more than {MAX_BOUND} variables in one `for all`")
        return []
    cond = TRUE if st.where is None else inner.boolean(st.where)
    target = inner.value(st.target)
    if target is None or cond is None:
        return []
    made = []
    for place, value in _assigned(st, target, inner, decls):
        if not isinstance(place, App) or place.func == AT or place.func.partition(".")[0] not in decls.states:
            if not (isinstance(place, App) and place.func in decls.reserved):
                decls.problem("E0415", st.span, "only declared state can be set")
            return []
        if value is None:
            continue
        given = _of_the_place(st, place, value, binders, decls)
        if given is None:
            return []
        made.append(Update(place.func, place.args, given, binders, cond, st.span))
    return made


def _assigned(st: s.Set, target: Term | RecordTerm, scope: Scope, decls: Declarations) -> list[tuple[Term, Term | None]]:
    """The places of one `set` with their values: the target, or the fields of a record. No value where one has a problem."""
    if not isinstance(target, RecordTerm):
        if isinstance(st.value, s.Record):
            decls.problem("E0414", st.value.span, "a record is set where a single value belongs")
            return []
        return [(target, _value(st.value, target, scope))]
    fields = dict(target.fields)
    if isinstance(st.value, s.Record):
        _check_fields(st, st.value, tuple(fields), decls)
        given = dict(st.value.fields)
        return [(t, _value(given[n], t, scope)) for n, t in fields.items() if n in given]
    if isinstance(st.value, s.Anything):
        return [(t, _value(st.value, t, scope)) for t in fields.values()]
    value = scope.value(st.value)
    if isinstance(value, RecordTerm) and value.sorts() == target.sorts():
        terms = dict(value.fields)
        return [(t, terms[n]) for n, t in fields.items()]
    if value is not None:
        wanted = ", ".join(f"{n}: {sort}" for n, sort in target.sorts().items())
        decls.problem("E0413", st.value.span, "this is not a record of the same fields", f"Expected {wanted}.")
    return []


def _check_fields(st: s.Set, record: s.Record, fields: tuple[str, ...], decls: Declarations) -> None:
    """Report fields that are written twice, unknown, or missing."""
    given = dict(record.fields)
    decls.distinct(tuple(s.Binder(n, "", v.span) for n, v in record.fields))
    for name, expr in given.items():
        if name not in fields:
            expected = f"Expected {', '.join(fields)}."
            decls.problem("E0311", expr.span, f"unknown field `{name}`", expected, suggest(name, fields))
    missing = [n for n in fields if n not in given]
    if missing:
        decls.problem(
            "E0412",
            st.span,
            f"fields not set: {', '.join(missing)}",
            "Expected all fields of the record.",
            "To change some fields only, set each by name.",
        )


def _of_the_place(st: s.Set, place: App, value: Term, binders: tuple[Var, ...], decls: Declarations) -> Term | None:
    """The value of a place in a `for all`; none, with a problem, if it is not clear which element's value the place gets."""
    indices = {a.name for a in place.args if isinstance(a, Var)}
    hidden = {v.name for v in binders} - indices
    if isinstance(value, App) and value.func == ANY:
        inside = sorted(hidden & {n for a in place.args for n in free_variables(a)})
        if inside:
            decls.problem(
                "E0424",
                st.span,
                f"`{inside[0]}` is part of an index, and is not an index of the place by itself",
                hint="Each place gets a value of its own: write `for all` over its indices, `where` for the rest.",
            )
            return None
        value = replace(value, args=tuple(v for v in binders if v.name in indices))
    loose = sorted(hidden & free_variables(value))
    if loose:
        decls.problem(
            "E0416",
            st.span,
            f"`{loose[0]}` is in the value, and is not an index of the place by itself",
            hint="Of several elements it would not be clear whose value is set.",
        )
        return None
    return value


def _value(expr: s.Expr, place: Term, scope: Scope) -> Term | None:
    """The value assigned to a place. `*` becomes a function without a name, which `_chosen` names later."""
    return App(ANY, (), place.sort) if isinstance(expr, s.Anything) else scope.of_sort(expr, place.sort)


def generated_write(item: s.StateItem, decls: Declarations) -> Step | None:
    """The step in which the party of a `writable by` clause stores any value in its part of the state."""
    w = item.writable
    if w is None:
        return None
    names = [b.name for b in item.indices]
    if w.party not in names:
        decls.problem("E0417", w.span, f"`{w.party}` is not an index of `{item.name}`", hint=suggest(w.party, names))
        return None
    both = sorted({b.name for b in item.fields if b.name} & {*names})
    if both:
        decls.problem(
            "E0418",
            w.span,
            f"`{item.name}` has an index and a field named `{both[0]}`",
            hint="Both are arguments of the write; rename one.",
        )
        return None
    index = tuple(Var(b.name or f"i{k}", b.sort) for k, b in enumerate(item.indices))
    fields = tuple(Var(b.name or "value", b.sort) for b in item.fields)
    scope = Scope(decls, {v.name: v for v in (*index, *fields)})
    when = TRUE if w.when is None else scope.boolean(w.when)
    updates = [
        Update(item.name if b.name == "" else f"{item.name}.{b.name}", index, v, span=w.span)
        for b, v in zip(item.fields, fields, strict=True)
    ]
    updates.extend(_sets(w.then, scope, decls))
    updates, choices = _chosen(updates)
    return Step(
        w.name or f"write_{item.name}",
        "",
        "guest",
        index + fields,
        when or TRUE,
        (),
        tuple(updates),
        None,
        item.doc,
        w.span,
        party=True,
        choices=choices,
    )


def locals_spoken_of(expr: s.Expr) -> set[str]:
    """Every `operation.local` that an expression indexes."""
    found: set[str] = set()
    todo: list[s.Expr] = [expr]
    while todo:
        e = todo.pop()
        match e:
            case s.Index():
                if isinstance(e.base, s.Field) and isinstance(e.base.base, s.Name):
                    found.add(f"{e.base.base.text}.{e.base.name}")
                todo.extend(e.args)
            case s.Field():
                todo.append(e.base)
            case s.Call() | s.Operator():
                todo.extend(e.args)
            case s.Quantified():
                todo.append(e.body)
            case s.Record():
                todo.extend(v for _, v in e.fields)
            case s.Name() | s.Anything():
                pass
    return found


__all__ = ["elaborate", "generated_write", "locals_spoken_of"]
