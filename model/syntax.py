"""The syntax tree of a rules file, as the parser makes it: names are not resolved and nothing is checked yet.

Expressions use one small set of nodes (name, index, field, call, operator, quantifier), because only the type checker
knows the meaning of `map.flush` (a field, a point of an operation, a local). Every node has its `Span`, which
equality ignores, so that two expressions with the same text are equal.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from bulkhead.model.diagnostics import Span


class Node:
    """Base of all nodes: pickles several times faster than a plain dataclass."""

    __slots__ = ()
    __match_args__: tuple[str, ...] = ()

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), tuple([getattr(self, name) for name in self.__match_args__])


BUILT_IN = frozenset({"bool", "Call"})  # sorts that nobody declares
# Names that nobody declares.
RESERVED = BUILT_IN | {"true", "false", "this", "next", "failed", "distinct", "at", "idle", "Point"}
GLOBAL = "::"  # prefix of a name in an inlined procedure that must not resolve to a local of the performer


@dataclass(frozen=True, slots=True)
class Name(Node):
    """A name as it is written; one that begins with `GLOBAL` means a member, constant or state."""

    text: str
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Index(Node):
    base: Expr
    args: tuple[Expr, ...]
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Field(Node):
    base: Expr
    name: str
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Call(Node):
    name: str
    args: tuple[Expr, ...]
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Operator(Node):
    """`op` is one of: not and or implies iff = != if."""

    op: str
    args: tuple[Expr, ...]
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Quantified(Node):
    kind: str  # forall | exists
    binders: tuple[Binder, ...]
    body: Expr
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Record(Node):
    fields: tuple[tuple[str, Expr], ...]
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Anything(Node):
    """`*`, any value: only on the right of an assignment, for a whole place or for a field of a record."""

    span: Span = field(compare=False)


Expr = Name | Index | Field | Call | Operator | Quantified | Record | Anything


@dataclass(frozen=True, slots=True)
class Binder(Node):
    """`name: sort`, of a quantifier, a parameter, a record field or a state index (whose name may be empty)."""

    name: str
    sort: str
    span: Span = field(compare=False)


# Statements of an operation.


@dataclass(frozen=True, slots=True)
class Set(Node):
    target: Expr
    value: Expr
    binders: tuple[Binder, ...]
    where: Expr | None
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Require(Node):
    """Without a code: where it is false, the step cannot be taken."""

    cond: Expr
    code: str | None
    undo: tuple[Set | Perform, ...]
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class MayFail(Node):
    code: str
    why: str
    undo: tuple[Set | Perform, ...]
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Pick(Node):
    """Without a code: where nothing satisfies it, the step cannot be taken."""

    binders: tuple[Binder, ...]
    where: Expr | None
    code: str | None
    undo: tuple[Set | Perform, ...]
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Let(Node):
    name: str
    value: Expr
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Return(Node):
    value: Expr
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Perform(Node):
    name: str
    args: tuple[Expr, ...]
    result: str | None
    code: str | None
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Boundary(Node):
    """`step name(params)`, `each name(params)` or `done`: other calls may interleave here."""

    kind: str  # step | each | done
    name: str
    params: tuple[Binder, ...]
    span: Span = field(compare=False)


Statement = Require | MayFail | Pick | Let | Set | Return | Perform | Boundary

# Items of a component.


@dataclass(frozen=True, slots=True)
class SortItem(Node):
    name: str
    doc: str
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class EnumItem(Node):
    name: str
    members: tuple[Name, ...]
    doc: str
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class ConstItem(Node):
    name: str
    sort: str
    doc: str
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Writable(Node):
    """`writable by PARTY as NAME when COND then set ...`: a step of the party that a declaration adds."""

    party: str
    name: str
    when: Expr | None
    then: tuple[Set, ...]
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class StateItem(Node):
    name: str
    indices: tuple[Binder, ...]
    fields: tuple[Binder, ...]  # one binder with an empty name for a plain value
    ghost: bool
    writable: Writable | None
    doc: str
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class DefineItem(Node):
    name: str
    params: tuple[Binder, ...]
    sort: str  # "bool" unless declared
    body: Expr
    doc: str
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class FormulaItem(Node):
    """init, axiom, invariant, theorem or transition; init and axiom have no name of their own."""

    kind: str
    name: str
    body: Expr
    doc: str
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Operation(Node):
    kind: str  # hypercall, ioctl, syscall, request, guest, internal, procedure
    name: str
    params: tuple[Binder, ...]
    result: str | None
    when: Expr | None
    body: tuple[Statement, ...]
    doc: str
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Change(Node):
    """One named change of one operation (or, after a dot, of one of its steps)."""

    kind: str  # the name of its rule in the grammar, from drop_check on
    path: str
    old: Expr  # the repeated part: a condition, a place, or the name of a value or an error code
    new: Expr | None
    to: str
    span: Span = field(compare=False)
    added: Set | None = None


@dataclass(frozen=True, slots=True)
class FaultItem(Node):
    """`breaks` names the claims that the fault must break, `step` the step that breaks them; empty if not given."""

    name: str
    changes: tuple[Change, ...]
    breaks: tuple[Name, ...]
    step: Name | None
    doc: str
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Size(Node):
    """The number of elements of a sort in searches: `low` at first, up to `high` for steps that need more."""

    name: str
    low: int
    high: int
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class ScopeItem(Node):
    """`scope A = 3, B = 2 to 4`: the initial sizes of the worlds in searches."""

    sizes: tuple[Size, ...]
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Asserted(Node):
    """`assert A`, between two calls of a scenario."""

    cond: Expr
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class AnySteps(Node):
    """`...`: any number of steps of whatever kind."""

    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Called(Node):
    """`STEP(ARGUMENTS) fails CODE`: one step of a scenario. An argument without a name stands in its place; `_` is open."""

    step: Name
    args: tuple[tuple[str, Expr], ...]
    code: Name | None
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class ScenarioItem(Node):
    """`word` says whether the run is possible or impossible."""

    name: str
    word: Name
    elements: tuple[Binder, ...]
    parts: tuple[Asserted | AnySteps | Called, ...]
    doc: str
    span: Span = field(compare=False)


Item = (
    SortItem | EnumItem | ConstItem | StateItem | DefineItem | FormulaItem | Operation | FaultItem | ScopeItem | ScenarioItem
)


@dataclass(frozen=True, slots=True)
class Parameter(Node):
    """A parameter of a component: a sort, or a name that the component declares."""

    kind: str  # sort | name
    name: str
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Used(Node):
    """A use of a component: its name, arguments, and a prefix for its own names."""

    text: str
    args: tuple[Name, ...]
    prefix: str  # "" or the word after `as`
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Component(Node):
    """`use` is the use for which an instance of a component with parameters was made (`instances.py`); None as parsed."""

    name: str
    params: tuple[Parameter, ...]
    uses: tuple[Used, ...]
    items: tuple[Item, ...]
    doc: str
    span: Span = field(compare=False)
    use: Used | None = None


@dataclass(frozen=True, slots=True)
class System(Node):
    name: str
    uses: tuple[Used, ...]
    expects: tuple[tuple[str, Name], ...]  # (proved | refuted, theorem)
    scopes: tuple[ScopeItem, ...]
    doc: str
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class RulesFile(Node):
    path: str
    components: tuple[Component, ...]
    systems: tuple[System, ...]
