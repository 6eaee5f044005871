"""The checked form of a system of rules: typed terms, state functions, and atomic steps.

Formulas (`logic.py`), the executable model (`executable.py`) and the pictures are all made from this form.
Records are flattened (`entry.kind` is a separate function), operations are split into atomic steps, and every step is a
list of ordered checks followed by simultaneous assignments that read the state before the step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from bulkhead.model.diagnostics import Problem, Span

BOOL = "bool"
CALL = "Call"  # the sort of calls in flight
POINT = "Point"  # the point of a call in flight
AT = "at"
IDLE = "idle"
ANY = "*"  # prefix of the name of what `= *` assigns; no name of the rules
FAILED = "!*"  # suffix of the label of the outcome in which a check without `undo` fails; not a possible code


@dataclass(frozen=True, slots=True)
class Var:
    name: str
    sort: str


@dataclass(frozen=True, slots=True)
class Lit:
    """A rigid constant: an enum member, `true`, `false`, or a declared `const`; in a finite world also an element."""

    name: str
    sort: str

    @property
    def number(self) -> int | None:
        """The number of the element, where it is one of a finite world."""
        return int(self.name) if self.name[0].isdigit() else None


@dataclass(frozen=True, slots=True)
class App:
    """A state function at some arguments; `next` reads the state after the step (in `transition` claims only)."""

    func: str
    args: tuple[Term, ...]
    sort: str
    next: bool = False


@dataclass(frozen=True, slots=True)
class Op:
    """`op` is one of: not and or => = ite."""

    op: str
    args: tuple[Term, ...]
    sort: str = BOOL


@dataclass(frozen=True, slots=True)
class Quant:
    kind: str  # forall | exists
    vars: tuple[Var, ...]
    body: Term
    sort: str = BOOL


@dataclass(frozen=True, slots=True)
class Use:
    """A definition at some arguments."""

    name: str
    args: tuple[Term, ...]
    sort: str
    next: bool = False


Term = Var | Lit | App | Op | Quant | Use
TRUE = Lit("true", BOOL)
FALSE = Lit("false", BOOL)
THIS = Var("this", CALL)


def element(number: int, sort: str) -> Lit:
    """An element of a finite world by its number; no name of the rules begins with a digit."""
    return Lit(str(number), sort)


def conj(terms: list[Term]) -> Term:
    """The conjunction of terms, flattened."""
    kept = [t for t in terms if t != TRUE]
    if len(kept) == 1:
        return kept[0]
    return Op("and", tuple(kept)) if kept else TRUE


def disj(terms: list[Term]) -> Term:
    """The disjunction of terms, flattened."""
    if TRUE in terms:
        return TRUE
    kept = list(dict.fromkeys(t for t in terms if t != FALSE))
    if len(kept) == 1:
        return kept[0]
    return Op("or", tuple(kept)) if kept else FALSE


def neg(term: Term) -> Term:
    """The negation of a term."""
    if isinstance(term, Op) and term.op == "not":
        return term.args[0]
    if term == TRUE:
        return FALSE
    if term == FALSE:
        return TRUE
    return Op("not", (term,))


def conjuncts(term: Term) -> list[Term]:
    """The conjuncts of a formula, from its connectives."""
    match term:
        case Op("and", args):
            return [p for a in args for p in conjuncts(a)]
        case Op("not", (Op("=>", (left, right)),)):
            return [*conjuncts(left), *conjuncts(neg(right))]
        case Op("not", (Op("or", args),)):
            return [p for a in args for p in conjuncts(neg(a))]
        case Op("not", (Op("not", (inner,)),)):
            return conjuncts(inner)
    return [term]


def eq(left: Term, right: Term) -> Term:
    """Equality of two terms of one sort."""
    return Op("=", (left, right))


@dataclass(frozen=True, slots=True)
class Func:
    """One state function; records are flattened into one function per field."""

    name: str
    args: tuple[str, ...]
    sort: str
    ghost: bool = False
    doc: str = ""


@dataclass(frozen=True, slots=True)
class Definition:
    name: str
    params: tuple[Var, ...]
    body: Term
    sort: str
    doc: str


@dataclass(frozen=True, slots=True)
class Update:
    """`func[args] := value` for all `binders` where `cond`; everything is read before the step."""

    func: str
    args: tuple[Term, ...]
    value: Term
    binders: tuple[Var, ...] = ()
    cond: Term = TRUE
    span: Span | None = field(default=None, compare=False)  # its place in the rules; None if generated


@dataclass(frozen=True, slots=True)
class Check:
    """One ordered check. `kind` is require, pick (of `vars` with `cond`) or may (may fail for reasons not modelled).

    Without a `code` it never fails: where its condition is false, the step cannot be taken.
    """

    kind: str
    cond: Term
    code: str
    vars: tuple[Var, ...]
    undo: tuple[Update, ...]
    text: str
    span: Span

    @property
    def fails(self) -> Term:
        """The condition under which this check ends the call (for `may`: always possible)."""
        if self.kind == "pick":
            return neg(Quant("exists", self.vars, self.cond))
        return TRUE if self.kind == "may" else neg(self.cond)


@dataclass(frozen=True, slots=True)
class Transition:
    """One outcome of a step: a guard and simultaneous assignments over arbitrary parameters."""

    label: str
    step: Step
    params: tuple[Var, ...]
    guard: Term
    updates: tuple[Update, ...]
    code: str  # "" when the step succeeds, else the error code(s) it ends with
    choices: tuple[Func, ...] = ()  # functions that are arbitrary in each such step: what `= *` assigns

    @property
    def changes_nothing(self) -> bool:
        """Does it never change the state? True of a call that fails in its first step."""
        return not self.updates

    @property
    def guard_parts(self) -> tuple[Term, ...]:
        """The guard's conjuncts, as written."""
        return self.guard.args if isinstance(self.guard, Op) and self.guard.op == "and" else (self.guard,)


@dataclass(frozen=True)
class Step:
    """One atomic step of an operation. `point` is the program point of a call that may take it ("" for the first step)."""

    op: str
    name: str
    kind: str
    params: tuple[Var, ...]
    when: Term
    checks: tuple[Check, ...]
    updates: tuple[Update, ...]
    result: Term | None
    doc: str
    span: Span
    point: str = ""
    after: str = ""  # the call's point after the step; "" if the operation has only one step
    on_error: str = ""  # the point of a failing call: idle, or the head of its batch
    party: bool = False  # generated from a `writable by` clause
    choices: tuple[Func, ...] = ()  # what `= *` assigns: a value for each place, chosen when the step succeeds

    @property
    def label(self) -> str:
        return f"{self.op}.{self.name}" if self.name else self.op

    @property
    def all_params(self) -> tuple[Var, ...]:
        """Arguments, then picked values, then `this` if the operation has several steps."""
        picked = tuple(v for c in self.checks for v in c.vars)
        return self.params + picked + ((THIS,) if self.after else ())

    def _at(self, point: str) -> tuple[Update, ...]:
        if not self.after or not point or (point == self.point):
            return ()
        return (Update(AT, (THIS,), Lit(point, POINT)),)

    def start(self) -> Term:
        """The enabling condition, with the call's point."""
        if not self.after:
            return self.when
        here = eq(App(AT, (THIS,), POINT), Lit(self.point or IDLE, POINT))
        return conj([here, self.when])

    def success(self) -> Transition:
        """The outcome in which every check holds."""
        guard = conj([self.start(), *(c.cond for c in self.checks if c.kind != "may")])
        return Transition(self.label, self, self.all_params, guard, self.updates + self._at(self.after), "", self.choices)

    def undone_label(self, check: Check) -> str:
        """The label of the outcome in which this check fails and undoes something; repeated codes are numbered."""
        undoing = [c for c in self.checks if c.undo and c.code == check.code]
        number = next(n for n, c in enumerate(undoing, 1) if c is check)
        return f"{self.label}!{check.code}" + (f"#{number}" if number > 1 else "")

    def failures(self) -> Iterator[Transition]:
        """The outcomes that end with an error code: one for each check with `undo`, and one for all the others.

        A call fails at exactly one check: the earlier ones have passed, with the picked values.
        """
        plain: list[Check] = []
        ways: list[Term] = []  # in which a check without `undo` fails
        passed: list[Term] = []
        base = self.params + ((THIS,) if self.after else ())
        picked: tuple[Var, ...] = ()
        needed = picked  # picked values in these conditions
        for check in self.checks:
            if check.undo:
                guard = conj([self.start(), *passed, check.fails])
                yield Transition(
                    self.undone_label(check), self, base + picked, guard, check.undo + self._at(self.on_error), check.code
                )
            elif check.code:
                plain.append(check)
                ways.append(conj([*passed, check.fails]))
                needed = picked
            if check.kind != "may":
                passed.append(check.cond)
            picked += check.vars
        if plain:
            # The call's next point is the same for all these checks, so one outcome represents them all.
            codes = "|".join(dict.fromkeys(c.code for c in plain))
            yield Transition(
                self.label + FAILED, self, base + needed, conj([self.start(), disj(ways)]), self._at(self.on_error), codes
            )

    def failing(self, code: str) -> Iterator[Transition]:
        """The outcomes in which a check with this code fails, one for each such check."""
        passed: list[Term] = []
        params = self.params + ((THIS,) if self.after else ())
        for check in self.checks:
            if check.code == code:
                label = self.undone_label(check) if check.undo else self.label + FAILED
                guard = conj([self.start(), *passed, check.fails])
                yield Transition(label, self, params, guard, check.undo + self._at(self.on_error), code)
            if check.kind != "may":
                passed.append(check.cond)
            params += check.vars

    @cached_property
    def _outcomes(self) -> tuple[Transition, ...]:  # kept: searches ask for them thousands of times
        return (self.success(), *self.failures())

    def outcomes(self) -> tuple[Transition, ...]:
        """All outcomes of the step, with calls that fail and change nothing."""
        return self._outcomes

    def transitions(self) -> tuple[Transition, ...]:
        """The outcomes that may change the state: success, and failures that undo something or move the call."""
        success, *failures = self._outcomes
        return (success, *(t for t in failures if not t.changes_nothing))


@dataclass(frozen=True, slots=True)
class Claim:
    """An invariant, theorem or transition claim."""

    kind: str
    name: str
    body: Term
    doc: str
    span: Span
    component: str


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a scenario: a call, a condition, or any steps. A call is one of `outcomes`, with these arguments."""

    kind: str  # call | assert | any
    text: str
    span: Span
    condition: Term = TRUE
    outcomes: tuple[Transition, ...] = ()
    args: tuple[tuple[str, Term], ...] = ()


@dataclass(frozen=True, slots=True)
class Scenario:
    """A run that should be possible, or not. Its elements are literals that no rules can name: `-d` for the element `d`."""

    name: str
    possible: bool
    elements: tuple[Lit, ...]
    parts: tuple[Part, ...]
    doc: str
    span: Span


@dataclass(frozen=True, slots=True)
class Fault:
    """A change of the rules, declared in them. It must break the claims `breaks` in `step` ("" if none is named)."""

    name: str
    doc: str
    breaks: tuple[str, ...]
    step: str
    span: Span


@dataclass(frozen=True)
class System:
    """A whole system of rules, checked."""

    name: str
    doc: str
    sorts: dict[str, str]  # name -> documentation
    enums: dict[str, tuple[str, ...]]
    consts: dict[str, str]  # name -> sort
    funcs: dict[str, Func]
    defs: dict[str, Definition]
    inits: tuple[Claim, ...]
    axioms: tuple[Claim, ...]
    invariants: dict[str, Claim]
    theorems: dict[str, Claim]
    step_claims: dict[str, Claim]
    steps: tuple[Step, ...]
    expects: dict[str, str]  # theorem -> proved | refuted
    faults: dict[str, Fault]
    scenarios: dict[str, Scenario] = field(default_factory=dict)
    scope: dict[str, tuple[int, int]] = field(default_factory=dict)  # sort -> elements in searches: at first, at most
    warnings: tuple[Problem, ...] = ()
    files: tuple[str, ...] = ()
    home: str = ""  # the file that declares the system
    sources: dict[str, str] = field(default_factory=dict)

    def sort_is_enum(self, sort: str) -> bool:
        return sort == BOOL or sort in self.enums

    def claims(self) -> dict[str, Claim]:
        """Theorems and transition claims: the guarantees of a system."""
        return {**self.theorems, **self.step_claims}

    def stated(self) -> dict[str, Claim]:
        """The guarantees, and the invariants that support their proofs."""
        return {**self.invariants, **self.claims()}


def subterms(term: Term) -> Iterator[Term]:
    """The term and all its parts, outermost first."""
    yield term
    if isinstance(term, App | Op | Use):
        for arg in term.args:
            yield from subterms(arg)
    elif isinstance(term, Quant):
        yield from subterms(term.body)


def free_variables(term: Term) -> set[str]:
    """The names of a term's free variables."""
    match term:
        case Var(name):
            return {name}
        case App(_, args) | Op(_, args) | Use(_, args):
            return {n for a in args for n in free_variables(a)}
        case Quant(_, vars_, body):
            return free_variables(body) - {v.name for v in vars_}
    return set()


def show(term: Term) -> str:
    """The term in the notation of the language."""
    match term:
        case Var(name) | Lit(name):
            return name
        case App(func, args):
            head, dot, tail = func.partition(".")
            inside = f"[{', '.join(map(show, args))}]" if args else ""
            text = f"{head}{inside}{dot}{tail}"
            return f"next({text})" if term.next else text
        case Use(name, args):
            return f"{name}({', '.join(map(show, args))})"
        case Quant(kind, vars_, body):
            return f"({kind} {', '.join(f'{v.name}: {v.sort}' for v in vars_)}. {show(body)})"
        case Op("not", (inner,)):
            if isinstance(inner, Op) and inner.op == "=":
                return f"{show(inner.args[0])} != {show(inner.args[1])}"
            return f"not {show(inner)}"
        case Op("ite", (a, b, c)):
            return f"(if {show(a)} then {show(b)} else {show(c)})"
        case Op("=", (a, b)):
            return f"{show(a)} = {show(b)}"
        case Op(op, args):
            return "(" + f" {'implies' if op == '=>' else op} ".join(map(show, args)) + ")"
    raise AssertionError(term)
