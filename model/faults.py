"""Lays faults over operations: checks dropped, replaced or moved, assignments replaced or skipped, in the syntax tree.

A fault repeats the check or assignment that it changes; a fault that matches nothing is a problem, even if not laid.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from bulkhead.model import syntax as s
from bulkhead.model.diagnostics import suggest
from bulkhead.model.expressions import Declarations


def lay(change: s.Change, operations: dict[str, s.Operation], d: Declarations) -> None:
    """Lay one change over an operation's syntax tree."""
    name, _, step = change.path.partition(".")
    op = operations.get(name)
    if op is None:
        d.problem("E0501", change.span, f"the fault names no operation: `{name}`", hint=suggest(name, operations))
        return
    here = ""
    body: list[s.Statement] = []
    moved: list[s.Statement] = []
    hits = 0
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
    if not hits:
        d.problem(
            "E0503",
            change.span,
            f"the fault finds nothing to change in `{change.path}`",
            hint="It must repeat the check or assignment as it stands there; what a procedure does is changed "
            "within the procedure.",
        )
    operations[name] = replace(op, body=tuple(body))


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


def _changed(st: s.Statement, change: s.Change) -> tuple[int, s.Statement | None]:
    if change.kind in ("drop_check", "replace_check", "move_check"):
        if isinstance(st, s.Require) and st.cond == change.old:
            return 1, None if change.new is None else replace(st, cond=change.new)
        if change.kind == "move_check":
            return 0, st
        if isinstance(st, s.Pick) and st.where == change.old:
            return 1, replace(st, where=change.new)
        if isinstance(st, s.Pick) and isinstance(st.where, s.Operator) and st.where.op == "and":
            parts = _conjuncts(st.where)
            if change.old in parts:
                kept = (
                    [p for p in parts if p != change.old]
                    if change.new is None
                    else [change.new if p == change.old else p for p in parts]
                )
                where = kept[0] if len(kept) == 1 else s.Operator("and", tuple(kept), st.where.span) if kept else None
                return 1, replace(st, where=where)
    if isinstance(st, s.Set) and st.target == change.old:
        if change.kind == "drop_assignment":
            return 1, None
        if change.kind == "replace_assignment" and change.new is not None:
            return 1, replace(st, value=change.new)
    return 0, st


def _conjuncts(expr: s.Expr) -> list[s.Expr]:
    if isinstance(expr, s.Operator) and expr.op == "and":
        return [p for a in expr.args for p in _conjuncts(a)]
    return [expr]


__all__ = ["check_breaks", "lay"]
