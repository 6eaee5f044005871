"""Type checking of expressions: from the syntax tree to typed terms.

A `Scope` holds the declarations and the variables in scope. Problems are collected, not raised, so that one run reports
all independent ones; a wrong expression gives `None`, and expressions that contain it report nothing more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bulkhead.model import foreign
from bulkhead.model import syntax as s
from bulkhead.model.diagnostics import Problem, Span, suggest
from bulkhead.model.ir import (
    BOOL,
    CALL,
    FALSE,
    POINT,
    TRUE,
    App,
    Definition,
    Func,
    Lit,
    Op,
    Quant,
    Term,
    Use,
    Var,
    conj,
    eq,
    neg,
)


@dataclass(frozen=True, slots=True)
class RecordTerm:
    """A whole record, field by field; only equality, field access and assignment accept it."""

    fields: tuple[tuple[str, Term], ...]

    def sorts(self) -> dict[str, str]:
        """The sort of each field. Records with the same are alike, whatever the order of their fields."""
        return {name: term.sort for name, term in self.fields}


Value = Term | RecordTerm


@dataclass
class Declarations:
    """The declarations of one system, by name."""

    sorts: dict[str, str] = field(default_factory=dict)
    enums: dict[str, tuple[str, ...]] = field(default_factory=dict)
    members: dict[str, str] = field(default_factory=dict)  # enum member -> enum
    consts: dict[str, str] = field(default_factory=dict)
    funcs: dict[str, Func] = field(default_factory=dict)
    states: dict[str, tuple[str, ...]] = field(default_factory=dict)  # state -> field names; ("",) for a plain value
    defs: dict[str, Definition] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    later: set[str] = field(default_factory=set)  # definitions declared later
    broken: set[str] = field(default_factory=set)  # definitions with an error that is already reported,
    broken_claims: set[str] = field(default_factory=set)  # claims,
    reserved: set[str] = field(default_factory=set)  # and names that are words of the language
    asked: set[str] = field(default_factory=set)  # `op.local` that was read and not known yet
    depth: dict[str, int] = field(default_factory=dict)  # depth of a definition with the ones it uses expanded
    size: dict[str, int] = field(default_factory=dict)  # and how large

    def problem(self, code: str, span: Span, what: str, expected: str = "", hint: str = "") -> None:
        self.problems.append(Problem(code, span, what, expected, hint))

    def known_sort(self, binder: s.Binder) -> bool:
        """Is the binder's sort declared? Reports it when not."""
        if binder.sort == BOOL or binder.sort in self.sorts or binder.sort in self.enums:
            return True
        names = [*self.sorts, *self.enums, BOOL]
        if instead := foreign.of_sort(binder.sort):
            self.problem("E0212", binder.span, f"unknown sort `{binder.sort}`", "", instead)
            return False
        self.problem(
            "E0203",
            binder.span,
            f"unknown sort `{binder.sort}`",
            "Expected a declared sort, an enum or bool.",
            suggest(binder.sort, names),
        )
        return False

    def distinct(self, binders: tuple[s.Binder, ...]) -> None:
        """Report duplicate names in one list of parameters, fields or quantified variables."""
        seen: set[str] = set()
        for b in binders:
            if b.name and b.name in seen:
                self.problem("E0202", b.span, f"`{b.name}` is declared twice", hint="Give one of them another name.")
            seen.add(b.name)


MAX_BOUND = 12  # quantified variables in scope at once
MAX_COMBINATIONS = 20_000  # of enum members: of the variables in scope at once, or of the indices of a state
WORDS = frozenset({"true", "false", "this"})  # not the name of any variable


def values_of(sort: str, d: Declarations) -> int:
    """The number of values of an enum or `bool`; 1 for a sort of any size."""
    return 2 if sort == BOOL else len(d.enums.get(sort, " "))


class Scope:
    """Variables in scope, over some declarations. `lookup_local` lets an operation resolve its own names first."""

    def __init__(
        self, decls: Declarations, variables: Mapping[str, Value] | None = None, *, two_state: bool = False
    ) -> None:
        self.decls = decls
        self.variables: dict[str, Value] = dict(variables or {})
        self.two_state = two_state
        self.in_next = False
        self.depth = 0  # variables bound by enclosing quantifiers

    def resolve(self, name: str) -> Value | None:
        """The value of a local name, or None."""
        return self.variables.get(name)

    def child(self, binders: tuple[s.Binder, ...]) -> tuple[Scope, tuple[Var, ...]]:
        """A scope with further variables."""
        inner = self.copy()
        inner.depth += len(binders)
        made = []
        self.decls.distinct(binders)
        taken = self.taken()
        self.refuse_words(binders)
        for b in binders:
            name = b.name
            while name in taken:  # a value in scope may contain a variable of that name: do not capture it
                name += "_"
            taken.add(name)
            if self.decls.known_sort(b):
                var = Var(name, b.sort)
                inner.variables[b.name] = var
                made.append(var)
            else:
                inner.variables[b.name] = Var(name, "?")
        return inner, tuple(made)

    def refuse_words(self, binders: tuple[s.Binder, ...]) -> None:
        """Report variables with the name of a word of the language."""
        for b in binders:
            if b.name in WORDS:
                self.decls.problem("E0201", b.span, f"`{b.name}` is a word of the language", hint="Choose another name.")

    def taken(self) -> set[str]:
        """The names of all variables that values in scope may contain."""
        return {v.name for v in self.variables.values() if isinstance(v, Var)}

    def copy(self) -> Scope:
        inner = Scope(self.decls, self.variables, two_state=self.two_state)
        inner.in_next, inner.depth = self.in_next, self.depth
        return inner

    # Checking.

    def boolean(self, expr: s.Expr) -> Term | None:
        """Check the expression as a truth value."""
        return self.of_sort(expr, BOOL)

    def of_sort(self, expr: s.Expr, sort: str) -> Term | None:
        """Check the expression against the given sort."""
        value = self.value(expr)
        if value is None:
            return None
        if isinstance(value, RecordTerm):
            self.decls.problem(
                "E0303",
                expr.span,
                "a whole record cannot stand here",
                f"Expected a value of sort {sort}.",
                "Name one of its fields: " + ", ".join(f".{n}" for n, _ in value.fields) + ".",
            )
            return None
        if "?" in (value.sort, sort):
            return None
        if value.sort != sort:
            self.decls.problem("E0302", expr.span, f"this is of sort {value.sort}", f"Expected sort {sort}.")
            return None
        return value

    def scalar(self, expr: s.Expr) -> Term | None:
        """Check the expression as a single value of any sort."""
        value = self.value(expr)
        if isinstance(value, RecordTerm):
            self.decls.problem(
                "E0303",
                expr.span,
                "a whole record cannot stand here",
                "Expected a single value.",
                "Name one of its fields: " + ", ".join(f".{n}" for n, _ in value.fields) + ".",
            )
            return None
        return value

    def value(self, expr: s.Expr) -> Value | None:
        """The typed form of an expression, or None after reporting a problem."""
        match expr:
            case s.Name():
                return self._name(expr)
            case s.Index():
                return self._index(expr)
            case s.Field():
                return self._field(expr)
            case s.Call():
                return self._call(expr)
            case s.Operator():
                return self._operator(expr)
            case s.Quantified():
                inner, made = self.child(expr.binders)
                if inner.depth > MAX_BOUND:
                    self.decls.problem(
                        "E0304",
                        expr.span,
                        f"more than {MAX_BOUND} quantified variables are in sight here",
                        hint="Searches try every combination; split the formula.",
                    )
                    return None
                body = inner.boolean(expr.body)
                if body is None or len(made) != len(expr.binders):
                    return None
                return Quant(expr.kind, made, body)
            case s.Record():
                self.decls.problem("E0305", expr.span, "a record can stand only on the right of `set`")
                return None
            case s.Anything():
                raise AssertionError("`*` is no expression")  # the grammar has it behind `=` of an assignment only

    def _name(self, expr: s.Name) -> Value | None:
        d = self.decls
        name = expr.text.removeprefix(s.GLOBAL)
        local = self.resolve(expr.text)
        if local is not None:
            return local
        if name in d.reserved:
            return None
        if name in ("true", "false"):
            return TRUE if name == "true" else FALSE
        if name in d.members:
            return Lit(name, d.members[name])
        if name in d.consts:
            return Lit(name, d.consts[name])
        if name in d.states:
            return self._state(expr.span, name, ())
        if instead := foreign.of_name(name):
            d.problem("E0318", expr.span, f"unknown name `{name}`", "", instead)
            return None
        known = [*self.variables, *d.members, *d.consts, *d.states]
        hint = suggest(name, known)
        if name in d.defs:
            hint = f"`{name}` is a definition: write `{name}(...)`."
        if name == "this":
            hint = "It is a call in flight, which only operations of several steps have."
        d.problem("E0301", expr.span, f"unknown name `{name}`", hint=hint)
        return None

    def _dotted(self, expr: s.Expr) -> str | None:
        """`op.step` or `op.local` as one name, if the left side is not a value in scope."""
        if isinstance(expr, s.Field) and isinstance(expr.base, s.Name) and self.resolve(expr.base.text) is None:
            return f"{expr.base.text.removeprefix(s.GLOBAL)}.{expr.name}"
        return None

    def _index(self, expr: s.Index) -> Value | None:
        d = self.decls
        base = expr.base
        dotted = None  # `op.local`: a field of a local cannot be indexed, so no local can be meant
        if isinstance(base, s.Field) and isinstance(base.base, s.Name):
            dotted = f"{base.base.text.removeprefix(s.GLOBAL)}.{base.name}"
        if dotted is not None and dotted.partition(".")[0] not in d.states:
            fields = [n for n in d.funcs if n.startswith(dotted + ".")]  # of a local that is a record
            if dotted not in d.funcs and not fields:
                d.asked.add(dotted)
                kept = [n for n in d.funcs if "." in n and n.partition(".")[0] not in d.states]
                d.problem(
                    "E0306",
                    base.span,
                    f"unknown local `{dotted}`",
                    "Expected OPERATION.LOCAL of a local that a later step or a claim reads.",
                    suggest(dotted, kept),
                )
                return None
            if len(expr.args) != 1:
                d.problem("E0309", expr.span, f"`{dotted}` is given {len(expr.args)} indices", f"Expected 1: [{CALL}].")
                return None
            call = self.of_sort(expr.args[0], CALL)
            if call is None:
                return None
            if fields:
                return RecordTerm(
                    tuple((n.removeprefix(dotted + "."), App(n, (call,), d.funcs[n].sort, self.in_next)) for n in fields)
                )
            return App(dotted, (call,), d.funcs[dotted].sort, self.in_next)
        if isinstance(base, s.Name) and base.text in d.states:
            return self._state(expr.span, base.text, expr.args)
        if isinstance(base, s.Name):
            d.problem("E0307", base.span, f"unknown state `{base.text}`", hint=suggest(base.text, d.states))
        else:
            d.problem("E0308", expr.span, "only state can be indexed", "Expected the name of a state before `[`.")
        return None

    def _state(self, span: Span, name: str, args: tuple[s.Expr, ...], wanted: str = "") -> Value | None:
        """The state at some arguments; of a record, just the `wanted` field where it has one of that name."""
        d = self.decls
        fields = d.states[name]
        first = d.funcs[name if fields == ("",) else f"{name}.{fields[0]}"]
        if len(args) != len(first.args):
            d.problem(
                "E0309",
                span,
                f"`{name}` is given {len(args)} of its indices",
                f"Expected {len(first.args)}: [{', '.join(first.args)}].",
            )
            return None
        terms = [self.of_sort(a, sort) for a, sort in zip(args, first.args, strict=True)]
        index = tuple([t for t in terms if t is not None])
        if len(index) < len(terms):
            return None
        if fields == ("",):
            return App(name, index, first.sort, self.in_next)
        if wanted in fields:
            return App(f"{name}.{wanted}", index, d.funcs[f"{name}.{wanted}"].sort, self.in_next)
        return RecordTerm(tuple([(f, App(f"{name}.{f}", index, d.funcs[f"{name}.{f}"].sort, self.in_next)) for f in fields]))

    def _field(self, expr: s.Field) -> Value | None:
        d = self.decls
        over = expr.base
        if isinstance(over, s.Index) and isinstance(over.base, s.Name) and expr.name in d.states.get(over.base.text, ()):
            return self._state(over.span, over.base.text, over.args, expr.name)  # not all fields, to take one of them
        dotted = self._dotted(expr)
        if dotted is not None and dotted in d.enums.get(POINT, ()):
            return Lit(dotted, POINT)
        if (
            dotted is not None
            and isinstance(expr.base, s.Name)
            and not any(dotted.partition(".")[0] in names for names in (d.states, d.consts, d.members))
        ):
            known = [*d.states, *d.enums.get(POINT, ()), *self.variables]
            d.problem(
                "E0301",
                expr.base.span,
                f"unknown name `{dotted}`",
                "Expected a state, a record in sight, or OPERATION.STEP.",
                suggest(dotted, known) or suggest(expr.base.text, known),
            )
            return None
        base = self.value(expr.base)
        if base is None:
            return None
        if not isinstance(base, RecordTerm):
            if base.sort == "?":
                return None
            d.problem("E0310", expr.span, f"`{expr.name}` is asked of a value of sort {base.sort}, which has no fields")
            return None
        for name, term in base.fields:
            if name == expr.name:
                return term
        names = [n for n, _ in base.fields]
        d.problem(
            "E0311",
            expr.span,
            f"unknown field `{expr.name}`",
            f"Expected one of {', '.join(names)}.",
            suggest(expr.name, names),
        )
        return None

    def _call(self, expr: s.Call) -> Value | None:
        d = self.decls
        if expr.name == "next" and self.two_state:
            if len(expr.args) != 1:
                d.problem("E0312", expr.span, "`next` takes one expression")
                return None
            inner = self.copy()
            inner.in_next = True
            return inner.value(expr.args[0])
        if expr.name not in d.defs:
            if expr.name == "next":
                d.problem("E0313", expr.span, "`next` can stand only in a `transition` and in a `require`")
            elif expr.name in d.later:
                d.problem(
                    "E0314",
                    expr.span,
                    f"`{expr.name}` is used before its definition",
                    hint="Move the definition up; none can use itself.",
                )
            elif instead := foreign.of_name(expr.name):
                d.problem("E0318", expr.span, f"unknown name `{expr.name}`", "", instead)
            elif expr.name not in d.broken:
                state = f"`{expr.name}` is a state: write `{expr.name}[...]`." if expr.name in d.states else ""
                hint = state or suggest(expr.name, d.defs)
                d.problem("E0315", expr.span, f"unknown definition `{expr.name}`", hint=hint)
            return None
        made = d.defs[expr.name]
        if len(expr.args) != len(made.params):
            d.problem(
                "E0316",
                expr.span,
                f"`{expr.name}` is given {len(expr.args)} arguments",
                f"Expected {len(made.params)}: ({', '.join(f'{p.name}: {p.sort}' for p in made.params)}).",
            )
            return None
        terms = [self.of_sort(a, p.sort) for a, p in zip(expr.args, made.params, strict=True)]
        good = tuple([t for t in terms if t is not None])
        return Use(expr.name, good, made.sort, self.in_next) if len(good) == len(terms) else None

    def _operator(self, expr: s.Operator) -> Value | None:
        if expr.op in ("=", "!="):
            return self._equality(expr)
        if expr.op == "if":
            return self._conditional(expr)
        terms = [self.boolean(a) for a in expr.args]
        good = [t for t in terms if t is not None]
        if len(good) < len(terms):
            return None
        match expr.op:
            case "not":
                return neg(good[0])
            case "implies":
                return Op("=>", tuple(good))
            case "iff":
                return eq(good[0], good[1])
            case op:
                flat: list[Term] = []
                for t in good:
                    flat.extend(t.args if isinstance(t, Op) and t.op == op else (t,))
                return Op(op, tuple(flat))

    def _conditional(self, expr: s.Operator) -> Value | None:
        cond, then = self.boolean(expr.args[0]), self.scalar(expr.args[1])
        if then is None:
            return None
        other = self.of_sort(expr.args[2], then.sort)
        if cond is None or other is None:
            return None
        return Op("ite", (cond, then, other), then.sort)

    def _equality(self, expr: s.Operator) -> Value | None:
        left, right = self.value(expr.args[0]), self.value(expr.args[1])
        if left is None or right is None:
            return None
        if isinstance(left, RecordTerm) or isinstance(right, RecordTerm):
            if not (isinstance(left, RecordTerm) and isinstance(right, RecordTerm)) or left.sorts() != right.sorts():
                self.decls.problem("E0317", expr.span, "a record can be compared only with a record of the same fields")
                return None
            others = dict(right.fields)
            same = conj([eq(term, others[name]) for name, term in left.fields])
            return same if expr.op == "=" else neg(same)
        if "?" in (left.sort, right.sort):
            return None
        if left.sort != right.sort:
            self.decls.problem(
                "E0302",
                expr.args[1].span,
                f"this is of sort {right.sort}, compared with sort {left.sort}",
                f"Expected sort {left.sort}.",
            )
            return None
        return eq(left, right) if expr.op == "=" else neg(eq(left, right))
