"""Splits operations into atomic steps of parsed statements: procedures are inlined, each with its own names.

A statement stays as written, and its names' meanings are kept with it: a `Local` is an identity, not a text, and a
procedure sees only its own parameters and locals. A performed procedure begins with one `Bind` for each parameter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from bulkhead.model import syntax as s
from bulkhead.proofs.certify.tree import IDLE, CannotRead, Rules


@dataclass(eq=False)
class Local:
    """A parameter, pick, `let` or result. `segment` is the number of the step that defines it.

    An argument that contains only locals and constants has the same value at every later step: it is not saved, but
    translated again from its expression (`meaning`), with the names of its place.
    """

    name: str
    segment: int
    meaning: tuple[s.Expr, Mapping[str, Local]] | None = None


@dataclass(frozen=True)
class Bind:
    """`local` gets the value of an expression, whose names are those of the statement before it."""

    local: Local
    value: s.Expr


@dataclass(frozen=True)
class Choose:
    """A pick: `locals` are some elements that satisfy `pick.where`, which uses their names."""

    locals: tuple[Local, ...]
    pick: s.Pick
    inside: Mapping[str, Local]


@dataclass(frozen=True)
class Placed:
    """One statement, and the meaning of local names there. `code` is the error code of its failing check, "" for none.

    `undo` are the assignments then, each with its names.
    """

    statement: Bind | Choose | s.Require | s.MayFail | s.Set
    names: Mapping[str, Local]
    code: str = ""
    undo: tuple[tuple[s.Set, Mapping[str, Local]], ...] = ()


@dataclass
class Segment:
    """One atomic step. `point` is the call's point before it, `after` and `failed` the points afterwards ("": none)."""

    label: str
    first: bool
    params: list[tuple[Local, s.Binder]] = field(default_factory=list)
    when: s.Expr | None = None
    when_names: Mapping[str, Local] = field(default_factory=dict)
    body: list[Placed] = field(default_factory=list)
    point: str = ""
    after: str = ""
    failed: str = ""


@dataclass
class Cut:
    """The steps of an operation. `kept` are the saved locals by the names in claims, `arguments` those of procedures."""

    operation: s.Operation
    segments: list[Segment]
    kept: Mapping[str, Local]
    arguments: Mapping[str, Local]

    @property
    def has_call(self) -> bool:
        """Only a call of several steps can be in flight."""
        return len(self.segments) > 1


class _Frame:
    """The names of one body during translation. The performer also gets its definitions, with the prefix of the result."""

    def __init__(self, outer: _Frame | None = None, result: str | None = None, code: str = "") -> None:
        self.names: dict[str, Local] = {}
        self.arguments: dict[str, Local] = {}
        self.outer, self.result = outer, result
        self.code: str = (outer.code if outer is not None else "") or code

    def define(self, name: str, local: Local) -> None:
        """Define a local from here on, also for the performer."""
        self.names = {**self.names, name: local}
        if self.outer is not None:
            self.outer.define(name if self.result is None else f"{self.result}_{name}", local)

    def argument(self, name: str, local: Local) -> None:
        """A parameter of a procedure: outside it, only claims may read it, if the result has a name."""
        self.names = {**self.names, name: local}
        self._told(name, local)

    def _told(self, name: str, local: Local) -> None:
        if self.outer is None:
            self.arguments[name] = local
        elif self.result is not None:
            self.outer._told(f"{self.result}_{name}", local)


def cut(op: s.Operation, rules: Rules) -> Cut:
    """The steps of one operation. Raises `CannotRead`."""
    segments = [Segment(op.name, True)]
    frame = _Frame()
    for b in op.params:
        local = Local(b.name, 0)
        frame.define(b.name, local)
        segments[0].params.append((local, b))
    segments[0].when, segments[0].when_names = op.when, frame.names
    head = ""
    for boundary in _read(op, rules, frame, segments, (op.name,)):
        last = segments[-1]
        if boundary.kind == "done":
            last.after = head
            segments.append(Segment(f"{op.name}.done", False, point=head, failed=IDLE))
            head = ""
            continue
        point = f"{op.name}.{boundary.name}"
        last.after = point
        if boundary.kind == "each":
            head = point
        segments.append(Segment(point, False, point=point, failed=head or IDLE))
    if len(segments) > 1:
        segments[0].point = segments[0].failed = IDLE
        segments[-1].after = IDLE
    return Cut(op, segments, frame.names, frame.arguments)


def _read(
    op: s.Operation, rules: Rules, frame: _Frame, segments: list[Segment], trail: tuple[str, ...]
) -> Iterator[s.Boundary]:
    """Add the statements of a body to the last segment; yields each boundary, so that the caller opens the next segment."""
    for st in op.body:
        number = len(segments) - 1
        own = getattr(st, "code", None) or ""
        code = own and (frame.code or own)
        match st:
            case s.Boundary():
                yield st
                opened = segments[-1]
                for b in st.params:
                    local = Local(b.name, len(segments) - 1)
                    frame.define(b.name, local)
                    opened.params.append((local, b))
            case s.Let():
                local = Local(st.name, number)
                segments[-1].body.append(Placed(Bind(local, st.value), frame.names))
                frame.define(st.name, local)
            case s.Pick():
                locals_, before = tuple(Local(b.name, number) for b in st.binders), frame.names
                for local in locals_:
                    frame.define(local.name, local)
                undo = tuple(_taken_back(st.undo, before, rules, number, trail))
                segments[-1].body.append(Placed(Choose(locals_, st, frame.names), before, code, undo))
            case s.Return():
                if frame.outer is not None and frame.result is not None:  # otherwise nobody reads its result
                    local = Local(frame.result, number)
                    segments[-1].body.append(Placed(Bind(local, st.value), frame.names))
                    frame.outer.define(frame.result, local)
            case s.Perform():
                yield from _perform(st, rules, frame, segments, trail)
            case s.Require() | s.MayFail():
                undo = tuple(_taken_back(st.undo, frame.names, rules, number, trail))
                segments[-1].body.append(Placed(st, frame.names, code, undo))
            case s.Set():
                segments[-1].body.append(Placed(st, frame.names, code))


def _taken_back(
    undo: Iterable[s.Statement], names: Mapping[str, Local], rules: Rules, number: int, trail: tuple[str, ...]
) -> Iterator[tuple[s.Set, Mapping[str, Local]]]:
    """The assignments of an `undo`; those of a procedure use its parameters as names for the arguments."""
    for st in undo:
        if isinstance(st, s.Set):
            yield st, names
            continue
        performed = rules.operations.get(st.name) if isinstance(st, s.Perform) else None
        if (
            not isinstance(st, s.Perform)
            or performed is None
            or performed.kind != "procedure"
            or st.name in trail
            or len(performed.params) != len(st.args)
        ):
            raise CannotRead("an `undo` cannot be read")
        inner = {b.name: Local(b.name, number, (value, names)) for b, value in zip(performed.params, st.args, strict=True)}
        yield from _taken_back(performed.body, inner, rules, number, (*trail, st.name))


def _perform(
    st: s.Perform, rules: Rules, frame: _Frame, segments: list[Segment], trail: tuple[str, ...]
) -> Iterator[s.Boundary]:
    performed = rules.operations.get(st.name)
    if performed is None or performed.kind != "procedure" or st.name in trail or len(performed.params) != len(st.args):
        raise CannotRead(f"`perform {st.name}` cannot be read")
    inner = _Frame(frame, st.result, st.code or "")
    for b, value in zip(performed.params, st.args, strict=True):
        if _lasts(value, frame.names, rules):
            inner.argument(b.name, Local(b.name, len(segments) - 1, (value, frame.names)))
            continue
        local = Local(b.name, len(segments) - 1)
        segments[-1].body.append(Placed(Bind(local, value), frame.names))
        inner.argument(b.name, local)
    yield from _read(performed, rules, inner, segments, (*trail, st.name))


def _lasts(expr: s.Expr, names: Mapping[str, Local], rules: Rules) -> bool:
    """Does an expression contain only locals, constants and members?"""
    match expr:
        case s.Name(text=text):
            members = {m for ms in rules.enums.values() for m in ms}
            return text in names or text in ("true", "false", "this") or text in rules.consts or text in members
        case s.Field(base=s.Name(text=text)):
            return text in names
        case s.Operator(args=args):
            return all(_lasts(a, names, rules) for a in args)
    return False


__all__ = ["Bind", "Choose", "Cut", "Local", "Placed", "Segment", "cut"]
