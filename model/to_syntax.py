"""The syntax tree from what Lark recognises: one method for each rule of the grammar `spec/language.lark`.

Lark calls them while it parses. Not here: reading files and refusing what is too large or too deep (parser.py), messages
about syntax errors (syntax_errors.py), checks of names and types (loader.py).
"""

from __future__ import annotations

import itertools
from typing import Any

from lark import Token, Transformer, v_args

from bulkhead.model import syntax as s
from bulkhead.model.diagnostics import Problem, RulesError, Span

MAX_PARTS = 1000
MAX_DISTINCT = 16


class ToSyntax(Transformer[Token, Any]):
    """Builds the syntax tree while Lark parses; one method per rule of the grammar. `file` is set before each parse."""

    file = ""

    def at(self, token: Token) -> Span:
        return Span(self.file, token.line or 0, token.column or 0, len(token))

    def doc(self, token: Token | None) -> str:
        return "" if token is None else " ".join(token[1:-1].split())

    def start(self, children: list[Any]) -> s.RulesFile:
        return s.RulesFile(
            self.file,
            tuple(c for c in children if isinstance(c, s.Component)),
            tuple(c for c in children if isinstance(c, s.System)),
        )

    def component(self, c: list[Any]) -> s.Component:
        rest = c[3:]
        uses: tuple[s.Used, ...] = ()
        if rest and isinstance(rest[0], tuple):
            uses, rest = rest[0], rest[1:]
        return s.Component(c[0].text, c[1] or (), uses, tuple(rest), self.doc(c[2]), c[0].span)

    def formals(self, c: list[s.Parameter]) -> tuple[s.Parameter, ...]:
        return tuple(c)

    def sort_formal(self, c: list[Token]) -> s.Parameter:
        return s.Parameter("sort", str(c[0]), self.at(c[0]))

    def name_formal(self, c: list[Token]) -> s.Parameter:
        return s.Parameter("name", str(c[0]), self.at(c[0]))

    def uses(self, c: list[Any]) -> tuple[s.Used, ...]:
        return tuple(c)

    def use_plain(self, c: list[s.Name]) -> s.Used:
        return s.Used(c[0].text, (), "", c[0].span)

    def use_with(self, c: list[Any]) -> s.Used:
        args = tuple(s.Name(str(t), self.at(t)) for t in c[1:-1])
        return s.Used(c[0].text, args, "" if c[-1] is None else str(c[-1]), c[0].span)

    def path(self, c: list[Token]) -> s.Name:
        text = ".".join(c)
        return s.Name(text, Span(self.file, c[0].line or 0, c[0].column or 0, len(text)))

    def _split(self, c: list[Any]) -> tuple[str, list[Any]]:
        """Documentation in front of an item, and the rest."""
        if c and isinstance(c[0], Token) and c[0].type == "STRING":
            return self.doc(c[0]), c[1:]
        return "", c

    def sort_item(self, c: list[Any]) -> s.SortItem:
        return s.SortItem(str(c[0]), self.doc(c[1]), self.at(c[0]))

    def enum_item(self, c: list[Any]) -> s.EnumItem:
        doc, c = self._split(c)
        return s.EnumItem(str(c[0]), tuple(s.Name(str(m), self.at(m)) for m in c[1:]), doc, self.at(c[0]))

    def const_item(self, c: list[Any]) -> s.ConstItem:
        doc, c = self._split(c)
        return s.ConstItem(str(c[0]), str(c[1]), doc, self.at(c[0]))

    def state_item(self, c: list[Any]) -> s.StateItem:
        doc, c = self._split(c)
        ghost = c[0] is not None and isinstance(c[0], Token) and c[0].type == "GHOST"
        c = [x for x in c if not (isinstance(x, Token) and x.type == "GHOST")]
        c = c[1:] if c[0] is None else c
        writable = c[3] if len(c) > 3 else None
        return s.StateItem(str(c[0]), c[1], c[2], ghost, writable, doc, self.at(c[0]))

    def indices(self, c: list[Any]) -> tuple[s.Binder, ...]:
        return tuple(c)

    def index(self, c: list[Any]) -> s.Binder:
        name, sort = (c[0], c[1]) if len(c) == 2 else (None, c[0])
        return s.Binder("" if name is None else str(name), str(sort), self.at(sort))

    def plain_type(self, c: list[Token]) -> tuple[s.Binder, ...]:
        return (s.Binder("", str(c[0]), self.at(c[0])),)

    def group(self, c: list[Token]) -> tuple[s.Binder, ...]:
        return tuple(s.Binder(str(name), str(c[-1]), self.at(name)) for name in c[:-1])

    def params(self, c: list[Any]) -> tuple[s.Binder, ...]:
        return tuple(binder for group in c if group is not None for binder in group)

    binders = params
    record_type = params

    def writable(self, c: list[Any]) -> s.Writable:
        name = str(c[1]) if c[1] is not None else ""
        return s.Writable(str(c[0]), name, c[2], tuple(x for x in c[3:] if x is not None), self.at(c[0]))

    def define_item(self, c: list[Any]) -> s.DefineItem:
        doc, c = self._split(c)
        sort = "bool" if c[2] is None else str(c[2])
        return s.DefineItem(str(c[0]), c[1], sort, c[3], doc, self.at(c[0]))

    def _unnamed(self, kind: str, c: list[Any]) -> s.FormulaItem:
        doc, c = self._split(c)
        place = c[0].span  # two may stand on one line
        return s.FormulaItem(kind, f"{kind}@{place.line}.{place.column}", c[0], doc, place)

    def _named(self, kind: str, c: list[Any]) -> s.FormulaItem:
        doc, c = self._split(c)
        return s.FormulaItem(kind, str(c[0]), c[1], doc, self.at(c[0]))

    def init_item(self, c: list[Any]) -> s.FormulaItem:
        return self._unnamed("init", c)

    def axiom_item(self, c: list[Any]) -> s.FormulaItem:
        return self._unnamed("axiom", c)

    def invariant_item(self, c: list[Any]) -> s.FormulaItem:
        return self._named("invariant", c)

    def theorem_item(self, c: list[Any]) -> s.FormulaItem:
        return self._named("theorem", c)

    def transition_item(self, c: list[Any]) -> s.FormulaItem:
        return self._named("transition", c)

    def operation(self, c: list[Any]) -> s.Operation:
        doc, c = self._split(c)
        return s.Operation(
            str(c[0]), str(c[1]), c[2], None if c[3] is None else str(c[3]), c[4], tuple(c[5:]), doc, self.at(c[1])
        )

    def require_stmt(self, c: list[Any]) -> s.Require:
        return s.Require(c[0], None if c[1] is None else str(c[1]), c[2] or (), c[0].span)

    def may_stmt(self, c: list[Any]) -> s.MayFail:
        return s.MayFail(str(c[0]), self.doc(c[1]), c[2] or (), self.at(c[0]))

    def pick_stmt(self, c: list[Any]) -> s.Pick:
        return s.Pick(c[0], c[1], None if c[2] is None else str(c[2]), c[3] or (), c[0][0].span)

    def let_stmt(self, c: list[Any]) -> s.Let:
        return s.Let(str(c[0]), c[1], self.at(c[0]))

    def set_stmt(self, c: list[Any]) -> s.Set:
        return s.Set(c[1], c[2], c[3] or (), c[4], c[1].span)

    def anything(self, c: list[Token]) -> s.Anything:
        return s.Anything(self.at(c[0]))

    def record(self, c: list[Any]) -> s.Record:
        return s.Record(tuple(c), c[0][1].span)

    def record_field(self, c: list[Any]) -> tuple[str, s.Expr]:
        return str(c[0]), c[1]

    def return_stmt(self, c: list[Any]) -> s.Return:
        return s.Return(c[0], c[0].span)

    def perform_stmt(self, c: list[Any]) -> s.Perform:
        return s.Perform(
            str(c[0]), c[1], None if c[2] is None else str(c[2]), None if c[3] is None else str(c[3]), self.at(c[0])
        )

    def step_stmt(self, c: list[Any]) -> s.Boundary:
        return s.Boundary("step", str(c[0]), c[1] or (), self.at(c[0]))

    def each_stmt(self, c: list[Any]) -> s.Boundary:
        return s.Boundary("each", str(c[0]), c[1] or (), self.at(c[0]))

    def done_stmt(self, c: list[Token]) -> s.Boundary:
        return s.Boundary("done", "done", (), self.at(c[0]))

    def undo(self, c: list[Any]) -> tuple[s.Set | s.Perform, ...]:
        return tuple(c)

    def undone_by(self, c: list[Any]) -> s.Perform:
        return s.Perform(str(c[0]), c[1], None, None, self.at(c[0]))

    def fault_item(self, c: list[Any]) -> s.FaultItem:
        doc, c = self._split(c)
        claims, step = c[1] or ((), None)
        return s.FaultItem(str(c[0]), tuple(c[2:]), claims, step, doc, self.at(c[0]))

    def breaks(self, c: list[Any]) -> tuple[tuple[s.Name, ...], s.Name]:
        return tuple(s.Name(str(t), self.at(t)) for t in c[:-2]), c[-1]

    def drop_check(self, c: list[Any]) -> s.Change:
        return s.Change("drop_check", c[0].text, c[1], None, "", c[0].span)

    def replace_check(self, c: list[Any]) -> s.Change:
        return s.Change("replace_check", c[0].text, c[1], c[2], "", c[0].span)

    def move_check(self, c: list[Any]) -> s.Change:
        return s.Change("move_check", c[0].text, c[1], None, str(c[2]), c[0].span)

    def replace_assignment(self, c: list[Any]) -> s.Change:
        return s.Change("replace_assignment", c[0].text, c[1], c[2], "", c[0].span)

    def drop_assignment(self, c: list[Any]) -> s.Change:
        return s.Change("drop_assignment", c[0].text, c[1], None, "", c[0].span)

    def add_assignment(self, c: list[Any]) -> s.Change:
        return s.Change("add_assignment", c[0].text, c[1].target, None, "", c[0].span, c[1])

    def replace_let(self, c: list[Any]) -> s.Change:
        return s.Change("replace_let", c[0].text, s.Name(str(c[1]), self.at(c[1])), c[2], "", c[0].span)

    def drop_may_fail(self, c: list[Any]) -> s.Change:
        return s.Change("drop_may_fail", c[0].text, s.Name(str(c[1]), self.at(c[1])), None, "", c[0].span)

    def drop_undo(self, c: list[Any]) -> s.Change:
        return s.Change("drop_undo", c[0].text, s.Name(str(c[1]), self.at(c[1])), None, "", c[0].span)

    def replace_undo(self, c: list[Any]) -> s.Change:
        return s.Change("replace_undo", c[0].text, c[1], c[2], "", c[0].span)

    def skip_undo(self, c: list[Any]) -> s.Change:
        return s.Change("skip_undo", c[0].text, c[1], None, "", c[0].span)

    def scenario_item(self, c: list[Any]) -> s.ScenarioItem:
        doc, c = self._split(c)
        word = s.Name(str(c[1]), self.at(c[1]))
        return s.ScenarioItem(str(c[0]), word, c[2] or (), tuple(c[3:]), doc, self.at(c[0]))

    def assert_part(self, c: list[s.Expr]) -> s.Asserted:
        return s.Asserted(c[0], c[0].span)

    def any_part(self, c: list[Token]) -> s.AnySteps:
        return s.AnySteps(self.at(c[0]))

    def call_part(self, c: list[Any]) -> s.Called:
        given = tuple(a if isinstance(a, tuple) else ("", a) for a in c[1:-1] if a is not None)
        return s.Called(c[0], given, None if c[-1] is None else s.Name(str(c[-1]), self.at(c[-1])), c[0].span)

    def named_argument(self, c: list[Any]) -> tuple[str, s.Expr]:
        return str(c[0]), c[1]

    def system(self, c: list[Any]) -> s.System:
        expects = tuple((verdict, name) for group in c[3:] if isinstance(group, list) for verdict, name in group)
        scopes = tuple(item for item in c[3:] if isinstance(item, s.ScopeItem))
        return s.System(str(c[0]), c[2], expects, scopes, self.doc(c[1]), self.at(c[0]))

    def scope_item(self, c: list[s.Size]) -> s.ScopeItem:
        return s.ScopeItem(tuple(c), c[0].span)

    def size(self, c: list[Any]) -> s.Size:
        low = int(c[1][:6])  # more digits than any accepted size
        return s.Size(str(c[0]), low, low if c[2] is None else int(c[2][:6]), self.at(c[0]))

    def expect(self, c: list[Token]) -> list[tuple[str, s.Name]]:
        return [(str(c[0]), s.Name(str(t), self.at(t))) for t in c[1:]]

    # Expressions.

    def quantified(self, c: list[Any]) -> s.Quantified:
        return s.Quantified(str(c[0]), c[1], c[2], self.at(c[0]))

    def binary(self, c: list[Any]) -> s.Operator:
        op, left = str(c[1]), c[0]
        if op not in ("and", "or") or not isinstance(left, s.Operator) or left.op != op:
            return s.Operator(op, (left, c[2]), left.span)
        if len(left.args) >= MAX_PARTS:  # one flat node for a chain, so that long ones are not deep
            problem = Problem(
                "E0110",
                self.at(c[1]),
                f"more than {MAX_PARTS} parts are joined by `{op}`",
                hint="Name some of them with `define`.",
            )
            raise RulesError([problem])
        return s.Operator(op, (*left.args, c[2]), left.span)

    def negate(self, c: list[Any]) -> s.Operator:
        return s.Operator("not", (c[1],), self.at(c[0]))

    def member(self, c: list[Any]) -> s.Expr:
        left = c[0]
        tests = tuple(s.Operator("=", (left, s.Name(str(t), self.at(t))), left.span) for t in c[2:])
        return tests[0] if len(tests) == 1 else s.Operator("or", tests, left.span)

    def subscript(self, c: list[Any]) -> s.Index:
        return s.Index(c[0], tuple(c[1:]), c[0].span)

    def field_of(self, c: list[Any]) -> s.Field:
        return s.Field(c[0], str(c[1]), self.at(c[1]))

    def name(self, c: list[Token]) -> s.Name:
        return s.Name(str(c[0]), self.at(c[0]))

    def call(self, c: list[Any]) -> s.Expr:
        if c[0] == "distinct":
            return self._distinct(c[1], self.at(c[0]))
        return s.Call(str(c[0]), c[1], self.at(c[0]))

    def _distinct(self, args: tuple[s.Expr, ...], span: Span) -> s.Operator:
        """No two are equal, written out."""
        if not 2 <= len(args) <= MAX_DISTINCT:
            problem = Problem(
                "E0111",
                span,
                f"`distinct` is given {len(args)} values",
                f"Expected two to {MAX_DISTINCT}, with commas between.",
            )
            raise RulesError([problem])
        parts = tuple(s.Operator("!=", pair, span) for pair in itertools.combinations(args, 2))
        return parts[0] if len(parts) == 1 else s.Operator("and", parts, span)

    @v_args(inline=True)
    def parens(self, inner: s.Expr) -> s.Expr:
        return inner

    def conditional(self, c: list[Any]) -> s.Operator:
        return s.Operator("if", (c[1], c[2], c[3]), self.at(c[0]))

    def arguments(self, c: list[Any]) -> tuple[s.Expr, ...]:
        return tuple(x for x in c if x is not None)
