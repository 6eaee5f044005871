"""Faults over parsed operations and definitions, as defined by the reference; only for the interpreter."""

from __future__ import annotations

from dataclasses import replace

from bulkhead.model import syntax as s


def with_fault(items: list[s.Item], fault: str) -> list[s.Item]:
    """The items with one fault laid over the operations and definitions."""
    (laid,) = [i for i in items if isinstance(i, s.FaultItem) and i.name == fault]
    for change in laid.changes:
        name, _, step = change.path.partition(".")
        items = [_item(i, change, step) if getattr(i, "name", None) == name else i for i in items]
    return items


def _item(item: s.Item, change: s.Change, step: str) -> s.Item:
    if isinstance(item, s.Operation):
        when = item.when
        if when is not None and not step and change.kind in ("drop_check", "replace_check"):
            when = _cond(when, change)
        return replace(item, when=when, body=_body(item.body, change, step))
    if isinstance(item, s.DefineItem) and not step:
        if change.new is not None:
            return replace(item, body=_everywhere(item.body, change.old, change.new))
        return replace(item, body=_cond(item.body, change) or item.body)
    return item


def _body(body: tuple[s.Statement, ...], change: s.Change, only: str) -> tuple[s.Statement, ...]:
    if change.kind == "add_assignment":
        return _with_assignment(body, change, only)
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


def _with_assignment(body: tuple[s.Statement, ...], change: s.Change, only: str) -> tuple[s.Statement, ...]:
    """Each step is a list of its own; the assignment comes last in one of them, before a `return`."""
    steps: list[tuple[str, list[s.Statement]]] = [("", [])]
    for st in body:
        if isinstance(st, s.Boundary):
            steps.append((st.name, []))
        steps[-1][1].append(st)
    for name, statements in steps:
        if name == only and change.added is not None:
            returns = [k for k, st in enumerate(statements) if isinstance(st, s.Return)]
            ends_with_it = returns and all(isinstance(st, s.Return) for st in statements[returns[0] :])
            statements.insert(returns[0] if ends_with_it else len(statements), change.added)
    return tuple(st for _, statements in steps for st in statements)


def _statement(st: s.Statement, change: s.Change) -> list[s.Statement]:
    old, new, kind = change.old, change.new, change.kind
    named = old.text if isinstance(old, s.Name) else None
    if kind in ("drop_check", "replace_check"):
        if isinstance(st, s.Require) and st.cond == old:
            return [] if new is None else [replace(st, cond=new)]
        if isinstance(st, s.Pick | s.Set) and st.where is not None:
            return [replace(st, where=_cond(st.where, change))]
    if isinstance(st, s.Set) and st.target == old:
        if kind == "drop_assignment":
            return []
        if kind == "replace_assignment" and new is not None:
            return [replace(st, value=new)]
    if kind == "replace_let" and isinstance(st, s.Let) and st.name == named and new is not None:
        return [replace(st, value=new)]
    if kind == "drop_may_fail" and isinstance(st, s.MayFail) and st.code == named:
        return []
    if isinstance(st, s.Require | s.Pick | s.MayFail):
        if kind == "drop_undo" and st.code == named:
            return [replace(st, undo=())]
        if kind in ("replace_undo", "skip_undo"):
            undo: list[s.Set | s.Perform] = []
            for u in st.undo:
                if isinstance(u, s.Set) and u.target == old:
                    if new is not None:
                        undo.append(replace(u, value=new))
                else:
                    undo.append(u)
            return [replace(st, undo=tuple(undo))]
    return [st]


def _cond(whole: s.Expr, change: s.Change) -> s.Expr | None:
    """A condition, all of it or some of its parts dropped or replaced."""
    if whole == change.old:
        return change.new
    parts = _flat(whole)
    if change.old not in parts:
        return whole
    rest = [p for p in (change.new if q == change.old else q for q in parts) if p is not None]
    return None if not rest else rest[0] if len(rest) == 1 else s.Operator("and", tuple(rest), whole.span)


def _everywhere(e: s.Expr, old: s.Expr, new: s.Expr) -> s.Expr:
    if e == old:
        return new
    if isinstance(e, s.Index):
        return replace(e, base=_everywhere(e.base, old, new), args=tuple(_everywhere(a, old, new) for a in e.args))
    if isinstance(e, s.Call | s.Operator):
        return replace(e, args=tuple(_everywhere(a, old, new) for a in e.args))
    if isinstance(e, s.Field):
        return replace(e, base=_everywhere(e.base, old, new))
    if isinstance(e, s.Quantified):
        return replace(e, body=_everywhere(e.body, old, new))
    if isinstance(e, s.Record):
        return replace(e, fields=tuple((n, _everywhere(v, old, new)) for n, v in e.fields))
    return e


def _flat(e: s.Expr) -> list[s.Expr]:
    return [p for a in e.args for p in _flat(a)] if isinstance(e, s.Operator) and e.op == "and" else [e]


__all__ = ["with_fault"]
