"""Lays faults over parsed operations, independently of `model/faults.py`: a change matches statements and alters them.

It follows the chapter on faults of `spec/README.md`. A change that matches nothing has been refused before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from bulkhead.model import syntax as s


def lay_faults(fault: s.FaultItem, operations: dict[str, s.Operation]) -> dict[str, s.Operation]:
    """The operations with all changes of one fault, in their order."""
    for change in fault.changes:
        name = change.path.split(".")[0]
        if name in operations:
            old = operations[name]
            operations = {**operations, name: replace(old, body=tuple(_changed(old.body, change)))}
    return operations


def _changed(body: tuple[s.Statement, ...], change: s.Change) -> Iterator[s.Statement]:
    """The statements of a body after a change of checks or assignments."""
    step = change.path.partition(".")[2]
    places = list(_with_step(body))
    moved = [
        st
        for here, st in places
        if change.kind == "move_check" and step in ("", here) and isinstance(st, s.Require) and st.cond == change.old
    ]
    arrived = False
    for here, st in places:
        if isinstance(st, s.Boundary):
            yield st
            if st.name == change.to and not arrived:
                arrived = True
                yield from moved
        elif step not in ("", here):
            yield st
        elif change.kind == "move_check":
            if not (isinstance(st, s.Require) and st.cond == change.old):
                yield st
        elif change.kind in ("drop_check", "replace_check"):
            yield from _check(st, change)
        else:
            yield from _assignment(st, change)


def _with_step(body: tuple[s.Statement, ...]) -> Iterator[tuple[str, s.Statement]]:
    here = ""
    for st in body:
        here = st.name if isinstance(st, s.Boundary) else here
        yield here, st


def _check(st: s.Statement, change: s.Change) -> Iterator[s.Statement]:
    match st:
        case s.Require() if st.cond == change.old:
            if change.new is not None:
                yield replace(st, cond=change.new)
        case s.Pick(where=where) if where is not None:
            if where == change.old:
                yield replace(st, where=change.new)
                return
            kept: list[s.Expr] = []
            for part in _parts(where):
                if part != change.old:
                    kept.append(part)
                elif change.new is not None:
                    kept.append(change.new)
            if kept == list(_parts(where)):
                yield st
            elif len(kept) < 2:
                yield replace(st, where=kept[0] if kept else None)
            else:
                yield replace(st, where=s.Operator("and", tuple(kept), where.span))
        case _:
            yield st


def _parts(expr: s.Expr) -> Iterator[s.Expr]:
    """The operands of `and`."""
    if isinstance(expr, s.Operator) and expr.op == "and":
        for part in expr.args:
            yield from _parts(part)
    else:
        yield expr


def _assignment(st: s.Statement, change: s.Change) -> Iterator[s.Statement]:
    if not isinstance(st, s.Set) or st.target != change.old:
        yield st
    elif change.kind == "replace_assignment" and change.new is not None:
        yield replace(st, value=change.new)


__all__ = ["lay_faults"]
