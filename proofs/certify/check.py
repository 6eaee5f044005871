"""Checks by a solver that every step keeps every proved claim: only `unsat` counts.

The choice of assumed claims affects only the speed: any proved claims may be assumed, because the certificate needs
all of them to be confirmed. So the claims in the cores of the first encoding's proofs are tried first
(`Claims.hints`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Any

import z3

from bulkhead.model import syntax as s
from bulkhead.proofs.certify.formulas import AFTER, BEFORE, Key, Scope, Symbols, Term
from bulkhead.proofs.certify.relation import Outcome, declare_locals, outcomes_of, write_of
from bulkhead.proofs.certify.steps import cut
from bulkhead.proofs.certify.tree import CannotRead, Rules
from bulkhead.proofs.jobs import Workers

CONFIRMED, DENIED, UNDECIDED = "confirmed", "denied", "undecided"
LIMIT = 10.0  # seconds for one query
FAST = {"auto_config": False, "mbqi": False, "qi.eager_threshold": 3.0}  # refutes by patterns; finds no models
MACROS = {"auto_config": False, "mbqi": False, "macro_finder": True}  # the same, with the equations expanded by Z3
MODELS = {"auto_config": True, "mbqi": True, "qi.eager_threshold": 10.0}  # Z3's defaults, whatever this process has set
FAST_LIMIT = 1.0
SMALL = (2, 3)  # elements of each sort, in worlds where a counterexample is looked for
INIT, FOLLOWS = "init", "follows"  # labels of queries without a step


@dataclass(frozen=True)
class Claims:
    """The claims to certify, by name. `hints` names claims that are useful as assumptions."""

    inductive: frozenset[str]  # invariants and theorems that every step should keep
    implied: frozenset[str] = frozenset()  # theorems that should follow from those in every state
    transitions: frozenset[str] = frozenset()  # transition claims that should hold for every step
    hints: Mapping[tuple[str, str], frozenset[str]] = field(default_factory=dict)  # by step and claim


@dataclass(frozen=True)
class Answer:
    """An unconfirmed query: a claim, and the outcome of a step (or `init`, `follows`)."""

    verdict: str  # denied | undecided
    step: str
    claim: str
    why: str = ""

    def __str__(self) -> str:
        if self.verdict == DENIED:
            return f"certify denies `{self.claim}`: it does not hold after `{self.step}`"
        return f"certify cannot decide `{self.claim}` after `{self.step}`{': ' + self.why if self.why else ''}"


@dataclass(frozen=True)
class Certificate:
    """The answers for one system. `confirmed` needs an `unsat` for every claim and outcome."""

    system: str
    questions: int
    outcomes: int
    seconds: float
    open: tuple[Answer, ...] = ()

    @property
    def verdict(self) -> str:
        """`confirmed`, or the worst answer."""
        if any(a.verdict == DENIED for a in self.open):
            return DENIED
        return UNDECIDED if self.open else CONFIRMED

    def of_claim(self, claim: str) -> str:
        """The verdict on one claim."""
        mine = {a.verdict for a in self.open if a.claim in (claim, "")}
        return DENIED if DENIED in mine else UNDECIDED if mine else CONFIRMED

    def summary(self) -> str:
        """A one-line summary."""
        return (
            f"certified: {self.verdict}; {self.questions} questions about {self.outcomes} outcomes of steps, "
            f"{self.seconds:.1f} s"
        )


def certify(rules: Rules, claims: Claims, pool: Workers | None = None, limit: float = LIMIT, jobs: int = 2) -> Certificate:
    """Confirm or deny that initial states satisfy the claims, every step keeps them, and transition claims hold."""
    begun = time.perf_counter()
    parts = 4 * jobs if pool is not None else 1
    tasks = [(rules, claims, k, parts, limit) for k in range(parts)]
    found = list(pool.map(_part, tasks)) if pool is not None else [_part(t) for t in tasks]
    return Certificate(
        rules.name,
        sum(n for n, _, _ in found),
        sum(n for _, n, _ in found),
        time.perf_counter() - begun,
        tuple(dict.fromkeys(a for _, _, answers in found for a in answers)),
    )


def decide(rules: Rules, claims: Claims, step: str, claim: str, limit: float = LIMIT) -> str:
    """The verdict on one claim after one outcome of a step (or in `init`, or as what `follows`)."""
    checker = Checker(rules, claims, limit)
    checker.ask(step, claim)
    return checker.open[0].verdict if checker.open else CONFIRMED


def _part(task: tuple[Rules, Claims, int, int, float]) -> tuple[int, int, list[Answer]]:
    """One part of the work: every n-th outcome. Returns the numbers of queries and outcomes, and the open ones."""
    rules, claims, first, step, limit = task
    try:
        checker = Checker(rules, claims, limit)
        if first == 0:
            checker.initial()
            checker.follows()
        mine = checker.outcomes[first::step]
        for outcome in mine:
            checker.step(outcome)
    except CannotRead as error:
        return 0, 0, [Answer(UNDECIDED, "", "", str(error))]
    return checker.questions, len(mine), checker.open


@dataclass(frozen=True)
class Question:
    """Do `always` and the assumptions (by name) imply a goal?"""

    always: tuple[Term, ...]
    goal: Term
    assumed: Mapping[str, Term]


@dataclass(frozen=True)
class Goal:
    """A claim to check in the state after a step, and the functions that it reads there."""

    name: str
    after: Term
    reads: tuple[Key, ...]


class Checker:
    """The queries of one system, as solver terms."""

    def __init__(self, rules: Rules, claims: Claims, limit: float, size: int | None = None) -> None:
        """`size` makes it a small world, in which each declared sort has so many elements."""
        self.rules, self.claims, self.limit = rules, claims, limit
        self._small: dict[int, Checker] = {}
        self.helpful: dict[str, frozenset[str]] = {}  # useful assumptions for a claim, for any step
        for (_, name), others in claims.hints.items():
            self.helpful[name] = self.helpful.get(name, frozenset()) | others
        self.questions = 0
        self.open: list[Answer] = []
        cuts = [cut(op, rules) for op in rules.operations.values() if op.kind != "procedure"]
        self.symbols = symbols = Symbols(rules, cuts, size)
        declare_locals(cuts, symbols)
        self.outcomes = [o for c in cuts for o in outcomes_of(c, symbols)]
        self.outcomes += [write_of(i, symbols) for i in rules.states.values() if i.writable is not None]
        self.now = Scope(symbols)
        self.failed = z3.Bool(symbols.fresh("failed"), symbols.context)
        axioms, named = rules.of_kind("axiom"), rules.of_kind("invariant", "theorem")
        two_state = rules.of_kind("transition")
        missing = ((claims.inductive | claims.implied) - named.keys()) | (claims.transitions - two_state.keys())
        if missing:
            raise CannotRead(f"there is no claim `{min(missing)}`")
        self.axioms = {n: self.now.truth(f.body) for n, f in axioms.items()}
        self.inits = [self.now.truth(f.body) for f in rules.of_kind("init").values()]
        self.before = {n: self.now.truth(f.body) for n, f in named.items() if n in claims.inductive}
        self.implied = {n: self.now.truth(f.body) for n, f in named.items() if n in claims.implied}
        later = Scope(symbols, phase=AFTER)
        both = Scope(symbols, {"failed": self.failed}, BEFORE, True)
        self.goals = [
            self._goal(n, f, later) for n, f in {**axioms, **named}.items() if n in claims.inductive or n in axioms
        ]
        self.goals += [self._goal(n, f, both) for n, f in two_state.items() if n in claims.transitions]

    def _goal(self, name: str, item: s.FormulaItem, scope: Scope) -> Goal:
        self.symbols.read[AFTER].clear()
        return Goal(name, scope.truth(item.body), tuple(self.symbols.read[AFTER]))

    def initial(self) -> None:
        """Initial states satisfy the claims."""
        for name in self.before:
            self._ask(INIT, name, self._initial(name))

    def follows(self) -> None:
        """Implied theorems follow in every state."""
        for name in self.implied:
            self._ask(FOLLOWS, name, self._follows(name))

    def step(self, outcome: Outcome) -> None:
        """One outcome of a step keeps the claims and satisfies the transition claims."""
        equations: dict[Key, Term] = {}
        for goal in self.goals:
            self._ask(outcome.label, goal.name, self._after(outcome, goal, equations))

    def _initial(self, name: str) -> Question:
        return Question((*self.axioms.values(), *self.inits), self.before[name], {})

    def _follows(self, name: str) -> Question:
        return Question(tuple(self.axioms.values()), self.implied[name], self.before)

    def _after(self, outcome: Outcome, goal: Goal, equations: dict[Key, Term]) -> Question:
        """A claim after an outcome. `equations` collects those of the outcome, for its other claims."""
        for key in goal.reads:
            if key not in equations:
                equations[key] = outcome.equation(self.symbols, key)
        failed = self.symbols.true if outcome.failed else self.symbols.false
        step = (self.failed == failed, outcome.guard, *outcome.hypothetical(self.symbols))
        always = (*self.axioms.values(), *step, *(equations[k] for k in goal.reads))
        return Question(always, goal.after, self.before)

    def _named(self, step: str, name: str) -> Question:
        """The question about a step (or `init`, `follows`) and a claim."""
        if step == INIT:
            return self._initial(name)
        if step == FOLLOWS:
            return self._follows(name)
        outcomes = [o for o in self.outcomes if o.label == step]
        goals = [g for g in self.goals if g.name == name]
        if not outcomes or not goals:
            raise CannotRead(f"there is no step `{step}` or no claim `{name}`")
        return self._after(outcomes[0], goals[0], {})

    def ask(self, step: str, name: str) -> None:
        """Ask about one claim after one outcome of a step. Raises `CannotRead` if there is no such step or claim."""
        self._ask(step, name, self._named(step, name))

    def _ask(self, step: str, name: str, question: Question) -> None:
        """Do the premises imply a goal? First tried with a few assumptions; if it stays open, in small worlds."""
        self.questions += 1
        every = frozenset(question.assumed)
        few = every & {name, *self.claims.hints.get((step, name), ())}
        more = every & (few | self.helpful.get(name, frozenset()))
        for names in dict.fromkeys((few, more, every)):
            answer, why = self._decided(question, names, min(FAST_LIMIT, self.limit))
            if answer == z3.unsat:
                return
        if answer == z3.unknown and self._fails_in_a_small_world(step, name):
            answer = z3.sat
        elif answer == z3.unknown and self.limit > FAST_LIMIT:
            answer, why = self._decided(question, every, self.limit)
        if answer != z3.unsat:
            self.open.append(Answer(DENIED if answer == z3.sat else UNDECIDED, step, name, why if answer != z3.sat else ""))

    def _decided(self, question: Question, names: Set[str], limit: float) -> tuple[Any, str]:
        """Z3's answer from some of the assumptions, with one setting after the other."""
        why = ""
        for options in (FAST, MACROS, MODELS):
            solver = z3.SimpleSolver(ctx=self.symbols.context)
            for option, setting in options.items():
                solver.set(option, setting)
            answer = self._checked(solver, question, names, limit)
            if answer != z3.unknown:
                return answer, ""
            why = solver.reason_unknown()
        return z3.unknown, why

    def _checked(self, solver: Any, question: Question, names: Set[str], limit: float) -> Any:
        solver.set("timeout", int(limit * 1000))
        solver.add(*question.always, *(t for n, t in question.assumed.items() if n in names), z3.Not(question.goal))
        return solver.check()

    def _fails_in_a_small_world(self, step: str, name: str) -> bool:
        """Is there a counterexample in which each sort has few elements? There, nothing is quantified."""
        for size in SMALL:
            if size not in self._small:
                self._small[size] = Checker(self.rules, self.claims, self.limit, size)
            small = self._small[size]
            question = small._named(step, name)
            solver = z3.Solver(ctx=small.symbols.context)
            if self._checked(solver, question, question.assumed.keys(), self.limit) == z3.sat:
                return True
        return False


__all__ = ["CONFIRMED", "DENIED", "UNDECIDED", "Answer", "Certificate", "Claims", "certify", "decide"]
