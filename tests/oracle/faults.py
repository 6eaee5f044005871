"""Faults over parsed operations, as defined by the reference; only for the interpreter."""

from __future__ import annotations

from dataclasses import replace

from bulkhead.model import syntax as s


def with_fault(items: list[s.Item], fault: str) -> list[s.Item]:
    """The items with one fault laid over the operations."""
    (laid,) = [i for i in items if isinstance(i, s.FaultItem) and i.name == fault]
    for change in laid.changes:
        name, _, step = change.path.partition(".")
        items = [
            replace(i, body=_body(i.body, change, step)) if isinstance(i, s.Operation) and i.name == name else i
            for i in items
        ]
    return items


def _body(body: tuple[s.Statement, ...], change: s.Change, only: str) -> tuple[s.Statement, ...]:
    out: list[s.Statement] = []
    moved: list[s.Statement] = []
    step = ""
    for st in body:
        if isinstance(st, s.Boundary):
            step = st.name
            out.append(st)
        elif only and only != step:
            out.append(st)
        elif change.kind == "move_check" and isinstance(st, s.Require) and st.cond == change.old:
            moved.append(st)
        else:
            out += _statement(st, change)
    if moved:
        at = [isinstance(st, s.Boundary) and st.name == change.to for st in out].index(True)
        out[at + 1 : at + 1] = moved
    return tuple(out)


def _statement(st: s.Statement, change: s.Change) -> list[s.Statement]:
    old, new = change.old, change.new
    if isinstance(st, s.Require) and st.cond == old and change.kind in ("drop_check", "replace_check"):
        return [] if new is None else [replace(st, cond=new)]
    if isinstance(st, s.Pick) and st.where is not None and change.kind in ("drop_check", "replace_check"):
        if st.where == old:
            return [replace(st, where=new)]
        parts = _flat(st.where)
        if old in parts:
            rest = [p for p in (new if q == old else q for q in parts) if p is not None]
            where = None if not rest else rest[0] if len(rest) == 1 else s.Operator("and", tuple(rest), st.where.span)
            return [replace(st, where=where)]
    if isinstance(st, s.Set) and st.target == old:
        if change.kind == "drop_assignment":
            return []
        if change.kind == "replace_assignment" and new is not None:
            return [replace(st, value=new)]
    return [st]


def _flat(e: s.Expr) -> list[s.Expr]:
    return [p for a in e.args for p in _flat(a)] if isinstance(e, s.Operator) and e.op == "and" else [e]


__all__ = ["with_fault"]
