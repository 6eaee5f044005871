"""Lays faults over operations and definitions, in the syntax tree: something is dropped, replaced, moved or added.

A fault repeats what it changes; a fault that matches nothing is a problem, even if not laid.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from bulkhead.model import syntax as s
from bulkhead.model.diagnostics import suggest
from bulkhead.model.expressions import Declarations


def lay(change: s.Change, operations: dict[str, s.Operation], definitions: dict[str, s.DefineItem], d: Declarations) -> None:
    """Lay one change over an operation, procedure or definition, at the level of its text."""
    name, _, step = change.path.partition(".")
    if name in definitions and not step:
        definitions[name] = _of_definition(definitions[name], change, d)
        return
    op = operations.get(name)
    if op is None:
        hint = suggest(name, [*operations, *definitions])
        d.problem("E0501", change.span, f"the fault names no operation or definition: `{name}`", hint=hint)
        return
    here = ""
    when, hits = op.when, 0
    body: list[s.Statement] = []
    moved: list[s.Statement] = []
    if change.kind in CONDITIONS and not step and when is not None:
        hits, when = _of_condition(when, change)
    for st in op.body:
        if isinstance(st, s.Boundary):
            here = st.name
            body.append(st)
            continue
        if step and here != step:
            body.append(st)
            continue
        hit, kept = _changed(st, change)
        hits += hit
        if hit and change.kind == "move_check":
            moved.append(st)
        elif kept is not None:
            body.append(kept)
    if moved:
        places = [k for k, st in enumerate(body) if isinstance(st, s.Boundary) and st.name == change.to]
        if not places:
            d.problem("E0502", change.span, f"`{name}` has no step `{change.to}` to move the check to")
        else:
            body[places[0] + 1 : places[0] + 1] = moved
    if change.added is not None:
        hits = _add(body, step, change.added)
    if not hits:
        _finds_nothing(change, d)
    operations[name] = replace(op, when=when, body=tuple(body))


CONDITIONS = ("drop_check", "replace_check")
REPEATED = {  # the text that each kind of change must repeat exactly
    "add_assignment": "There is no such step; without a step, the first one is meant.",
    "replace_let": "It must name a value that a `let` there gives a name.",
    "drop_may_fail": "It must name the code of a `may fail` there.",
    "drop_undo": "It must name the code of a check there that has an `undo`.",
    "replace_undo": "It must repeat the place of an assignment in an `undo` there.",
    "skip_undo": "It must repeat the place of an assignment in an `undo` there.",
}
REPEATED_ELSE = (
    "It must repeat the condition or place as it stands there; what a procedure does is changed within the procedure."
)


def _finds_nothing(change: s.Change, d: Declarations) -> None:
    hint = REPEATED.get(change.kind, REPEATED_ELSE)
    d.problem("E0503", change.span, f"the fault finds nothing to change in `{change.path}`", hint=hint)


def _add(body: list[s.Statement], step: str, added: s.Set) -> int:
    """Add an assignment at the end of a step (default: the first); 1 if there is such a step."""
    here, end = "", None
    for k, st in enumerate(body):
        here = st.name if isinstance(st, s.Boundary) else here
        end = k + 1 if here == step else end
    if end is None:
        return 0
    while end and isinstance(body[end - 1], s.Return):
        end -= 1
    body.insert(end, added)
    return 1


def _of_definition(item: s.DefineItem, change: s.Change, d: Declarations) -> s.DefineItem:
    """A changed definition: one conjunct removed, or any part of it replaced."""
    hits, body = 0, item.body
    if change.kind == "drop_check":
        hits, kept = _of_condition(body, change)
        hits, body = (hits, kept) if kept is not None else (0, body)  # a definition must not be empty
    elif change.kind == "replace_check" and change.new is not None:
        hits, body = _replaced(body, change.old, change.new)
    if not hits:
        hint = "It must repeat a part of the definition as it stands there; all of it can be replaced, but not dropped."
        d.problem("E0503", change.span, f"the fault finds nothing to change in `{change.path}`", hint=hint)
    return replace(item, body=body)


def _replaced(expr: s.Expr, old: s.Expr, new: s.Expr) -> tuple[int, s.Expr]:
    """An expression with each part equal to `old` replaced by `new`; and the number of these parts."""
    if expr == old:
        return 1, new
    hits = 0

    def part(inner: s.Expr) -> s.Expr:
        nonlocal hits
        found, made = _replaced(inner, old, new)
        hits += found
        return made

    match expr:
        case s.Index():
            expr = replace(expr, base=part(expr.base), args=tuple(map(part, expr.args)))
        case s.Field():
            expr = replace(expr, base=part(expr.base))
        case s.Call() | s.Operator():
            expr = replace(expr, args=tuple(map(part, expr.args)))
        case s.Quantified():
            expr = replace(expr, body=part(expr.body))
        case s.Record():
            expr = replace(expr, fields=tuple((name, part(value)) for name, value in expr.fields))
    return hits, expr


def check_breaks(
    faults: Iterable[s.FaultItem],
    items: Iterable[tuple[s.Component, s.Item]],
    elsewhere: Iterable[s.Item],
    labels: Collection[str],
    d: Declarations,
) -> None:
    """Check that the claims and the steps (`labels`) that faults name exist.

    A fault may also name items of components that this system does not use (`elsewhere`).
    """
    others = list(elsewhere)
    claims = {
        i.name
        for i in (*(i for _, i in items), *others)
        if isinstance(i, s.FormulaItem) and i.kind in ("invariant", "theorem", "transition")
    }
    operations = {i.name for i in others if isinstance(i, s.Operation)}
    for fault in faults:
        for claim in fault.breaks:
            if claim.text not in claims:
                d.problem(
                    "E0504",
                    claim.span,
                    f"the fault cannot break `{claim.text}`: there is no such claim",
                    hint=suggest(claim.text, claims),
                )
        if fault.step is not None and fault.step.text not in labels and fault.step.text.partition(".")[0] not in operations:
            d.problem(
                "E0505",
                fault.step.span,
                f"the fault cannot break a claim in `{fault.step.text}`: there is no such step",
                hint=suggest(fault.step.text, labels),
            )


def _of_condition(where: s.Expr, change: s.Change) -> tuple[int, s.Expr | None]:
    """A condition dropped or replaced, completely or in one conjunct; and whether the change matches."""
    if where == change.old:
        return 1, change.new
    parts = _conjuncts(where)
    if change.old not in parts:
        return 0, where
    kept = [p for p in (change.new if p == change.old else p for p in parts) if p is not None]
    return 1, kept[0] if len(kept) == 1 else s.Operator("and", tuple(kept), where.span) if kept else None


def _changed(st: s.Statement, change: s.Change) -> tuple[int, s.Statement | None]:
    """A statement after a change, and whether the change matches it; None if it is removed."""
    match change.kind, st:
        case "drop_check" | "replace_check" | "move_check", s.Require() if st.cond == change.old:
            return 1, None if change.new is None else replace(st, cond=change.new)
        case "drop_check" | "replace_check", s.Pick(where=where) | s.Set(where=where) if where is not None:
            hit, kept = _of_condition(where, change)
            return hit, replace(st, where=kept) if hit else st
        case "replace_assignment", s.Set() if st.target == change.old and change.new is not None:
            return 1, replace(st, value=change.new)
        case "drop_assignment", s.Set() if st.target == change.old:
            return 1, None
        case "replace_let", s.Let() if st.name == _name(change) and change.new is not None:
            return 1, replace(st, value=change.new)
        case "drop_may_fail", s.MayFail() if st.code == _name(change):
            return 1, None
        case "drop_undo", s.Require() | s.MayFail() | s.Pick() if st.undo and st.code == _name(change):
            return 1, replace(st, undo=())
        case "replace_undo" | "skip_undo", s.Require() | s.MayFail() | s.Pick() if st.undo:
            return _of_undo(st, change)
    return 0, st


def _of_undo(st: s.Require | s.MayFail | s.Pick, change: s.Change) -> tuple[int, s.Statement]:
    """A check with assignments of its `undo` changed or removed."""
    kept: list[s.Set | s.Perform] = []
    for u in st.undo:
        if not isinstance(u, s.Set) or u.target != change.old:
            kept.append(u)
        elif change.new is not None:
            kept.append(replace(u, value=change.new))
    hit = tuple(kept) != st.undo or any(isinstance(u, s.Set) and u.target == change.old for u in st.undo)
    return int(hit), replace(st, undo=tuple(kept)) if hit else st


def _name(change: s.Change) -> str:
    """The name or error code that a change repeats."""
    return change.old.text if isinstance(change.old, s.Name) else ""


def _conjuncts(expr: s.Expr) -> list[s.Expr]:
    if isinstance(expr, s.Operator) and expr.op == "and":
        return [p for a in expr.args for p in _conjuncts(a)]
    return [expr]


__all__ = ["check_breaks", "lay"]
