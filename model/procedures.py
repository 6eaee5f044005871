"""Inlines procedures: each `perform` becomes the procedure's statements, with arguments for parameters.

An argument is evaluated once, at the `perform`: one that reads state becomes a local, which later steps
read from the call. Names are resolved at the procedure's declaration. Its locals get the name of its result as a prefix. The
number of procedures performed, and the size of arguments after expansion, are bounded here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from bulkhead.model import syntax as s
from bulkhead.model.diagnostics import Span, suggest
from bulkhead.model.expressions import Declarations

MAX_PERFORMED = 200  # procedures in one operation
MAX_INSIDE = 50  # nesting depth
MAX_LOCALS = 1000
MAX_SIZE = 10_000  # names in a `let` after expansion,
MAX_ARGUMENT = 1000  # names in an argument after expansion,
MAX_DEPTH = 150  # and the depth of either


OF_PERFORM = ("E0316", "E0419", "E0420", "E0421", "E0422", "E0423")  # what may be wrong with a `perform` itself


class Points:
    """The names of the program points of operations; each procedure is visited once."""

    def __init__(self, procedures: dict[str, s.Operation]) -> None:
        self._procedures = procedures
        self._within: dict[str, tuple[str, ...]] = {}

    def of(self, op: s.Operation) -> list[str]:
        """The points of one operation, in order."""
        return [f"{op.name}.{name}" for name in self._boundaries(op, (op.name,))]

    def _boundaries(self, op: s.Operation, trail: tuple[str, ...]) -> tuple[str, ...]:
        found: dict[str, None] = {}
        for st in op.body:
            if isinstance(st, s.Boundary) and st.kind != "done":
                found[st.name] = None
            elif isinstance(st, s.Perform) and st.name in self._procedures:
                if st.name not in self._within and st.name not in trail and len(trail) <= MAX_INSIDE:
                    self._within[st.name] = self._boundaries(self._procedures[st.name], (*trail, st.name))
                found.update(dict.fromkeys(self._within.get(st.name, ())))
        return tuple(found)


class Inliner:
    """Replaces every `perform` by the procedure's statements."""

    def __init__(self, procedures: dict[str, s.Operation], decls: Declarations, op: str) -> None:
        self.procedures = procedures
        self.decls = decls
        self.op = op
        self.count = 0
        self.full = False
        self.known: dict[str, tuple[str, ...]] = {}  # procedure -> names that it defines
        self.fixed: set[str] = set()  # locals of the operation, which keep their values

    def operation(self, op: s.Operation) -> list[s.Statement]:
        """The statements of the operation, with all procedures inlined."""
        self.fixed = {p.name for p in op.params} | set(self._locals(op, (op.name,)))
        return self.statements(op.body, {}, "", None, (op.name,))

    def statements(
        self, body: tuple[s.Statement, ...], names: dict[str, s.Expr], prefix: str, code: str | None, trail: tuple[str, ...]
    ) -> list[s.Statement]:
        """`names` maps parameters and locals; `prefix` is for the locals of nested procedures."""
        out: list[s.Statement] = []
        for st in body:
            renamed = _rename(st, names, code)
            if isinstance(renamed, s.Perform):
                out.extend(self._performed(renamed, prefix, trail))
            elif isinstance(renamed, s.Require | s.MayFail | s.Pick) and renamed.undo:
                out.append(replace(renamed, undo=tuple(self._undone(renamed.undo, trail))))
            else:
                out.append(renamed)
        return out

    def _undone(self, undo: Iterable[s.Set | s.Perform], trail: tuple[str, ...]) -> Iterator[s.Set]:
        """The assignments of an `undo`. They are simultaneous, so arguments are substituted for parameters."""
        for st in undo:
            if isinstance(st, s.Set):
                yield st
                continue
            proc = self._entered(st, trail)
            if proc is None:
                continue
            names: dict[str, s.Expr] = {n: s.Name(s.GLOBAL + n, st.span) for n in _free_names(proc)}
            names.update((p.name, a) for p, a in zip(proc.params, st.args, strict=True))
            if all(isinstance(done, s.Set | s.Perform) for done in proc.body):
                inside = [_rename(done, names, None) for done in proc.body]
                yield from self._undone((d for d in inside if isinstance(d, s.Set | s.Perform)), (*trail, st.name))
            else:
                self.decls.problem(
                    "E0423",
                    st.span,
                    f"`undo` cannot perform `{st.name}`, which does more than assign",
                    hint="Put the assignments into a procedure of their own.",
                )

    def _entered(self, st: s.Perform, trail: tuple[str, ...]) -> s.Operation | None:
        """The procedure, or None, with a problem, if it cannot be performed here."""
        proc = self.procedures.get(st.name)
        if proc is None:
            self.decls.problem("E0419", st.span, f"unknown procedure `{st.name}`", hint=suggest(st.name, self.procedures))
            return None
        if len(st.args) != len(proc.params):
            self.decls.problem(
                "E0316",
                st.span,
                f"`{st.name}` is given {len(st.args)} arguments",
                f"Expected {len(proc.params)}: ({', '.join(p.name for p in proc.params)}).",
            )
            return None
        if st.name in trail:
            cycle = " -> ".join((*trail[trail.index(st.name) :], st.name))
            self.decls.problem("E0420", st.span, f"`{st.name}` performs itself: {cycle}")
            return None
        if self.full:
            return None
        if any(too_heavy(weight(a, {}), MAX_ARGUMENT) for a in st.args):
            self.decls.problem(
                "E0421",
                st.span,
                f"an argument of `{st.name}` is too large, with the arguments it uses written out",
                hint="Perform fewer procedures in one another.",
            )
            self.full = True
            return None
        self.count += 1
        if self.count > MAX_PERFORMED or len(trail) > MAX_INSIDE:
            self.decls.problem(
                "E0422",
                st.span,
                f"`{self.op}` performs too much: more than {MAX_PERFORMED} procedures, or more than "
                f"{MAX_INSIDE} in one another",
            )
            self.full = True
            return None
        return proc

    def _performed(self, st: s.Perform, prefix: str, trail: tuple[str, ...]) -> list[s.Statement]:
        proc = self._entered(st, trail)
        if proc is None:
            return []
        if st.result is not None:
            prefix = st.result + "_"
        inner: dict[str, s.Expr] = {n: s.Name(s.GLOBAL + n, st.span) for n in _free_names(proc)}
        result: list[s.Statement] = []
        for p, a in zip(proc.params, st.args, strict=True):
            inner[p.name] = a
            if not self._keeps_its_value(a):
                # Readable like the procedure's locals if its result has a name, else under a name that no local can have.
                own = prefix + p.name if st.result is not None else f"{proc.name}~{self.count}.{p.name}"
                self.fixed.add(own)
                result.append(s.Let(own, a, a.span))
                inner[p.name] = s.Name(own, a.span)
        for local in self._locals(proc, (*trail, st.name)):
            inner[local] = s.Name(prefix + local, st.span)
        for done in self.statements(proc.body, inner, prefix, st.code, (*trail, st.name)):
            if not isinstance(done, s.Return):
                result.append(done)
            elif st.result is not None:
                result.append(s.Let(st.result, done.value, done.span))
        return result

    def _keeps_its_value(self, expr: s.Expr) -> bool:
        """Does an expression contain only locals, constants and members, and so keep its value in later steps?"""
        match expr:
            case s.Name(text):
                if text in self.fixed or text in ("true", "false", "this"):
                    return True
                bare = text.removeprefix(s.GLOBAL)
                return bare in self.decls.members or bare in self.decls.consts
            case s.Field(base):
                return isinstance(base, s.Name) and base.text in self.fixed
            case s.Operator(_, args):
                return all(map(self._keeps_its_value, args))
        return False

    def _locals(self, proc: s.Operation, trail: tuple[str, ...]) -> tuple[str, ...]:
        """The names that a procedure defines, with those of the procedures that it performs."""
        if proc.name in self.known:
            return self.known[proc.name]
        found: dict[str, None] = {}
        for st in proc.body:
            if isinstance(st, s.Let):
                found[st.name] = None
            elif isinstance(st, s.Pick):
                found.update((b.name, None) for b in st.binders)
            elif isinstance(st, s.Boundary):
                found.update((b.name, None) for b in st.params)
            elif isinstance(st, s.Perform):
                if st.result is not None:
                    found[st.result] = None
                inner = self.procedures.get(st.name)
                if inner is not None and st.name not in trail and len(trail) <= MAX_INSIDE and len(found) < MAX_LOCALS:
                    prefix = "" if st.result is None else st.result + "_"
                    found.update((prefix + n, None) for n in self._locals(inner, (*trail, st.name)))
        self.known[proc.name] = tuple(found)
        return self.known[proc.name]


def where_performed(broken: Iterable[str], operations: Iterable[s.Operation]) -> set[Span]:
    """The places of every `perform` of some procedures, or of others that perform them, and of its arguments.

    What is wrong in a procedure is found there again, as its statements are inlined.
    """
    performs = {o.name: list(_performs(o)) for o in operations}
    names = set(broken)
    while more := {n for n, some in performs.items() if n not in names and names & {st.name for st in some}}:
        names |= more
    found = [st for some in performs.values() for st in some if st.name in names]
    return {st.span for st in found} | {span for st in found for a in st.args for span in _spans(a)}


def performed_by(op: s.Operation) -> set[str]:
    """The procedures that an operation itself performs, also in an `undo`."""
    return {st.name for st in _performs(op)}


def _performs(op: s.Operation) -> Iterator[s.Perform]:
    for st in op.body:
        if isinstance(st, s.Perform):
            yield st
        elif isinstance(st, s.Require | s.MayFail | s.Pick):
            yield from (u for u in st.undo if isinstance(u, s.Perform))


def _spans(expr: s.Expr) -> Iterator[Span]:
    """The places of an expression and of its parts."""
    todo: list[object] = [expr]
    while todo:
        node = todo.pop()
        if isinstance(node, Span):
            yield node
        elif isinstance(node, tuple):
            todo.extend(node)
        elif isinstance(node, s.Node):
            todo.extend(getattr(node, name) for name in node.__match_args__)


def _free_names(proc: s.Operation) -> set[str]:
    """The names in a procedure that are neither its parameters nor words of the language."""
    found: set[str] = set()
    todo: list[object] = list(proc.body)
    while todo:
        node = todo.pop()
        if isinstance(node, s.Name):
            found.add(node.text)
        elif isinstance(node, tuple):
            todo.extend(node)
        elif isinstance(node, s.Node) and not isinstance(node, s.Binder):
            todo.extend(getattr(node, name) for name in node.__match_args__)
    return found - {p.name for p in proc.params} - {"true", "false", "this"}


def _rename(st: s.Statement, names: dict[str, s.Expr], code: str | None) -> s.Statement:
    if not names and code is None:
        return st

    def e(expr: s.Expr) -> s.Expr:
        return substitute(expr, names)

    def opt(expr: s.Expr | None) -> s.Expr | None:
        return None if expr is None else substitute(expr, names)

    def local(name: str) -> str:
        new = names.get(name)
        return new.text if isinstance(new, s.Name) else name

    def sets(items: tuple[s.Set | s.Perform, ...]) -> tuple[s.Set | s.Perform, ...]:
        return tuple(one(i) if isinstance(i, s.Set) else perform(i) for i in items)

    def perform(st: s.Perform) -> s.Perform:
        result = None if st.result is None else local(st.result)
        return s.Perform(st.name, tuple(e(a) for a in st.args), result, code or st.code, st.span)

    def one(st: s.Set) -> s.Set:
        parts = (st.target, st.value) if st.where is None else (st.target, st.value, st.where)
        binders, hidden = _bound(st.binders, names, parts)
        return s.Set(
            substitute(st.target, hidden),
            substitute(st.value, hidden),
            binders,
            None if st.where is None else substitute(st.where, hidden),
            st.span,
        )

    match st:
        case s.Require():
            return s.Require(e(st.cond), code if code and st.code else st.code, sets(st.undo), st.span)
        case s.MayFail():
            return s.MayFail(code or st.code, st.why, sets(st.undo), st.span)
        case s.Pick():
            binders = tuple(s.Binder(local(b.name), b.sort, b.span) for b in st.binders)
            return s.Pick(binders, opt(st.where), code if code and st.code else st.code, sets(st.undo), st.span)
        case s.Let():
            return s.Let(local(st.name), e(st.value), st.span)
        case s.Set():
            return one(st)
        case s.Return():
            return s.Return(e(st.value), st.span)
        case s.Perform():
            return perform(st)
        case s.Boundary():
            params = tuple(s.Binder(local(b.name), b.sort, b.span) for b in st.params)
            return s.Boundary(st.kind, st.name, params, st.span)


def _bound(
    binders: tuple[s.Binder, ...], names: dict[str, s.Expr], bodies: tuple[s.Expr, ...]
) -> tuple[tuple[s.Binder, ...], dict[str, s.Expr]]:
    """Binders, and the substitution under them; binders that would capture a name of an argument are renamed."""
    hidden = {k: v for k, v in names.items() if k not in {b.name for b in binders}}
    used = {n for e in bodies for n in _names_in(e)}
    arguments = {n for k, v in hidden.items() if k in used for n in _names_in(v)}
    if not any(b.name in arguments for b in binders):
        return binders, hidden
    taken = arguments | used | {b.name for b in binders}
    made = []
    for b in binders:
        if b.name in arguments:
            fresh = b.name + "_"
            while fresh in taken:
                fresh += "_"
            taken.add(fresh)
            hidden[b.name] = s.Name(fresh, b.span)
            made.append(s.Binder(fresh, b.sort, b.span))
        else:
            made.append(b)
    return tuple(made), hidden


def substitute(expr: s.Expr, names: dict[str, s.Expr]) -> s.Expr:
    """The expression with free names replaced; names bound by a quantifier stay."""
    if not names:
        return expr
    match expr:
        case s.Name():
            return names.get(expr.text, expr)
        case s.Index():
            # An indexed name is always state (or a saved local), never a variable.
            base = expr.base if isinstance(expr.base, s.Name | s.Field) else substitute(expr.base, names)
            return s.Index(base, tuple(substitute(a, names) for a in expr.args), expr.span)
        case s.Field():
            return s.Field(substitute(expr.base, names), expr.name, expr.span)
        case s.Call():
            return s.Call(expr.name, tuple(substitute(a, names) for a in expr.args), expr.span)
        case s.Operator():
            return s.Operator(expr.op, tuple(substitute(a, names) for a in expr.args), expr.span)
        case s.Quantified():
            binders, hidden = _bound(expr.binders, names, (expr.body,))
            return s.Quantified(expr.kind, binders, substitute(expr.body, hidden), expr.span)
        case s.Record():
            return s.Record(tuple((n, substitute(v, names)) for n, v in expr.fields), expr.span)
        case s.Anything():
            return expr


def weight(expr: s.Expr, known: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
    """Size and depth of an expression, with the named values in `known` expanded."""
    match expr:
        case s.Name():
            return known.get(expr.text, (1, 1))
        case s.Anything():
            return 1, 1
        case s.Index() | s.Call() | s.Operator():
            parts = [weight(a, known) for a in expr.args]
        case s.Field():
            parts = [weight(expr.base, known)]
        case s.Quantified():
            parts = [weight(expr.body, known)]
        case s.Record():
            parts = [weight(v, known) for _, v in expr.fields]
    return 1 + sum(size for size, _ in parts), 1 + max((depth for _, depth in parts), default=0)


def too_heavy(weight: tuple[int, int], limit: int = MAX_SIZE) -> bool:
    return weight[0] > limit or weight[1] > MAX_DEPTH


def _names_in(expr: s.Expr) -> set[str]:
    match expr:
        case s.Name():
            return {expr.text}
        case s.Index() | s.Call() | s.Operator():
            return {n for a in expr.args for n in _names_in(a)}
        case s.Field():
            return _names_in(expr.base)
        case s.Quantified():
            return _names_in(expr.body)
        case s.Record():
            return {n for _, v in expr.fields for n in _names_in(v)}
        case s.Anything():
            return set()


__all__ = [
    "MAX_INSIDE",
    "OF_PERFORM",
    "Inliner",
    "Points",
    "performed_by",
    "substitute",
    "too_heavy",
    "weight",
    "where_performed",
]
