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
from bulkhead.proofs.certify.relation import Outcome, outcomes_of, write_of
from bulkhead.proofs.certify.steps import Cut, cut
from bulkhead.proofs.certify.tree import CannotRead, Rules
from bulkhead.proofs.jobs import Workers

CONFIRMED, DENIED, UNDECIDED = "confirmed", "denied", "undecided"
LIMIT = 10.0  # seconds for one query
FAST = {"auto_config": False, "mbqi": False, "qi.eager_threshold": 3.0}  # refutes by patterns; finds no models
MACROS = {"auto_config": False, "mbqi": False, "macro_finder": True}  # the same, with the equations expanded by Z3
MODELS = {"auto_config": True, "mbqi": True, "qi.eager_threshold": 10.0}  # Z3's defaults, whatever this process has set
FAST_LIMIT = 1.0


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


def _all_outcomes(cuts: list[Cut], symbols: Symbols) -> list[Outcome]:
    """The outcomes of all operations; an operation that reads another one's saved local comes after it."""
    outcomes: list[Outcome] = []
    pending = cuts
    while pending:
        later = []
        for c in pending:
            try:
                outcomes += outcomes_of(c, symbols)
            except CannotRead:
                later.append(c)
        if len(later) == len(pending):
            outcomes_of(later[0], symbols)
        pending = later
    return outcomes


@dataclass(frozen=True)
class Goal:
    """A claim to check in the state after a step, and the functions that it reads there."""

    name: str
    after: Term
    reads: tuple[Key, ...]


class Checker:
    """The queries of one system, as solver terms."""

    def __init__(self, rules: Rules, claims: Claims, limit: float) -> None:
        self.claims, self.limit = claims, limit
        self.helpful: dict[str, frozenset[str]] = {}  # useful assumptions for a claim, for any step
        for (_, name), others in claims.hints.items():
            self.helpful[name] = self.helpful.get(name, frozenset()) | others
        self.questions = 0
        self.open: list[Answer] = []
        cuts = [cut(op, rules) for op in rules.operations.values() if op.kind != "procedure"]
        self.symbols = symbols = Symbols(rules, cuts)
        self.outcomes = _all_outcomes(cuts, symbols)
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
        for name, claim in self.before.items():
            self._ask("init", name, [*self.axioms.values(), *self.inits], claim, {})

    def follows(self) -> None:
        """Implied theorems follow in every state."""
        for name, claim in self.implied.items():
            self._ask("follows", name, list(self.axioms.values()), claim, self.before)

    def step(self, outcome: Outcome) -> None:
        """One outcome of a step keeps the claims and satisfies the transition claims."""
        read = dict.fromkeys(key for goal in self.goals for key in goal.reads)
        equations = {key: outcome.equation(self.symbols, key) for key in read}
        failed = self.symbols.true if outcome.failed else self.symbols.false
        always = [*self.axioms.values(), self.failed == failed, outcome.guard, *outcome.hypothetical(self.symbols)]
        for goal in self.goals:
            self._ask(outcome.label, goal.name, [*always, *(equations[k] for k in goal.reads)], goal.after, self.before)

    def _ask(self, step: str, name: str, always: list[Term], goal: Term, assumed: Mapping[str, Term]) -> None:
        """Do `always` and the assumptions imply a goal? First tried with a few assumptions."""
        self.questions += 1
        few = ({name} | self.claims.hints.get((step, name), frozenset())) & assumed.keys()
        more = (few | self.helpful.get(name, frozenset())) & assumed.keys()
        everything = set(assumed)
        trials: list[tuple[Set[str], dict[str, Any], float]] = [
            (names, options, FAST_LIMIT)
            for names in (few, more)
            if len(names) < len(everything)
            for options in (FAST, MACROS, MODELS)
        ]
        trials += [(everything, options, self.limit) for options in (FAST, MACROS, MODELS)]
        verdict, why = z3.unknown, ""
        for names, options, limit in trials:
            solver = z3.SimpleSolver(ctx=self.symbols.context)
            for option, setting in options.items():
                solver.set(option, setting)
            solver.set("timeout", int(min(limit, self.limit) * 1000))
            solver.add(*always, *(assumed[n] for n in names), z3.Not(goal))
            verdict = solver.check()
            if verdict == z3.unsat:
                return
            why = solver.reason_unknown() if verdict == z3.unknown else ""
        self.open.append(Answer(DENIED if verdict == z3.sat else UNDECIDED, step, name, why))


__all__ = ["CONFIRMED", "DENIED", "UNDECIDED", "Answer", "Certificate", "Claims", "certify"]
