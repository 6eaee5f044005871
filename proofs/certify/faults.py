"""Lays faults over parsed operations and definitions, apart from `model/faults.py`: a change matches parts and alters them.

It follows the chapter on faults of `spec/README.md`. A change that matches nothing has been refused before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from bulkhead.model import syntax as s


def lay_faults(
    fault: s.FaultItem, operations: dict[str, s.Operation], defines: dict[str, s.DefineItem]
) -> tuple[dict[str, s.Operation], dict[str, s.DefineItem]]:
    """The operations and definitions with all changes of one fault, in their order."""
    for change in fault.changes:
        name = change.path.split(".")[0]
        if name in defines and name == change.path:
            body = _definition(defines[name].body, change)
            defines = {**defines, name: replace(defines[name], body=body)}
        elif name in operations:
            old = operations[name]
            when = old.when
            if when is not None and name == change.path and change.kind in ("drop_check", "replace_check"):
                when = _condition(when, change)
            body_of = tuple(_changed(old.body, change))
            operations = {**operations, name: replace(old, when=when, body=body_of)}
    return operations, defines


def _definition(body: s.Expr, change: s.Change) -> s.Expr:
    """The body of a definition after a change."""
    if change.kind == "drop_check":
        return _condition(body, change) or body
    return body if change.new is None else _rewritten(body, change.old, change.new)


def _rewritten(expr: s.Expr, old: s.Expr, new: s.Expr) -> s.Expr:
    """Replace `old` by `new`, as a whole or as a part."""

    def inside(part: s.Expr) -> s.Expr:
        return _rewritten(part, old, new)

    if expr == old:
        return new
    match expr:
        case s.Index(base, args, span):
            return s.Index(inside(base), tuple(inside(a) for a in args), span)
        case s.Field(base, name, span):
            return s.Field(inside(base), name, span)
        case s.Call(name, args, span):
            return s.Call(name, tuple(inside(a) for a in args), span)
        case s.Operator(op, args, span):
            return s.Operator(op, tuple(inside(a) for a in args), span)
        case s.Quantified(kind, binders, body, span):
            return s.Quantified(kind, binders, inside(body), span)
        case s.Record(fields, span):
            return s.Record(tuple((f, inside(value)) for f, value in fields), span)
    return expr


def _changed(body: tuple[s.Statement, ...], change: s.Change) -> Iterator[s.Statement]:
    """The statements of a body after a change."""
    step = change.path.partition(".")[2]
    if change.added is not None:
        yield from _with_one_more(body, step, change.added)
        return
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
        elif change.kind in ("replace_assignment", "drop_assignment"):
            yield from _assignment(st, change)
        else:
            yield from _other(st, change)


def _with_one_more(body: tuple[s.Statement, ...], step: str, added: s.Set) -> Iterator[s.Statement]:
    """The statements with an assignment after all others of a step, but before its `return`."""
    of_step = [k for k, (here, _) in enumerate(_with_step(body)) if here == step]
    last = max((k for k in of_step if not isinstance(body[k], s.Return)), default=-1)
    if last < 0 and of_step:  # it only returns something
        yield added
    for k, st in enumerate(body):
        yield st
        if k == last:
            yield added


def _other(st: s.Statement, change: s.Change) -> Iterator[s.Statement]:
    """A statement after a change of a `let`, a `may fail` or an `undo`."""
    match change.kind, change.old, st:
        case "replace_let", s.Name(name), s.Let(called) if called == name and change.new is not None:
            yield replace(st, value=change.new)
        case "drop_may_fail", s.Name(code), s.MayFail(own) if own == code:
            pass
        case "drop_undo", s.Name(code), s.Require() | s.MayFail() | s.Pick() if st.code == code:
            yield replace(st, undo=())
        case "replace_undo" | "skip_undo", place, s.Require() | s.MayFail() | s.Pick():
            undone = tuple(
                replace(u, value=change.new) if isinstance(u, s.Set) and u.target == place and change.new is not None else u
                for u in st.undo
                if change.kind == "replace_undo" or not (isinstance(u, s.Set) and u.target == place)
            )
            yield replace(st, undo=undone)
        case _:
            yield st


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
        case s.Pick(where=where) | s.Set(where=where) if where is not None:
            yield replace(st, where=_condition(where, change))
        case _:
            yield st


def _condition(where: s.Expr, change: s.Change) -> s.Expr | None:
    """A condition after a change of it, or of a part of it; None where nothing is left."""
    if where == change.old:
        return change.new
    kept: list[s.Expr] = []
    for part in _parts(where):
        if part != change.old:
            kept.append(part)
        elif change.new is not None:
            kept.append(change.new)
    if kept == list(_parts(where)):
        return where
    if len(kept) < 2:
        return kept[0] if kept else None
    return s.Operator("and", tuple(kept), where.span)


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
