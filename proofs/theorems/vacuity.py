"""Detects vacuous proofs: no initial states, contradictory assumptions, or steps that never fire.

All checks use a small finite world, where a `sat` is a real state: is there an initial state, is there a state
that satisfies all invariants, which transitions does a seeded search of the executable
model take from an initial state (`directed_search.py`), and can the others fire from a state that satisfies the invariants.
Not here: proofs of theorems.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

from bulkhead.model.ir import System
from bulkhead.proofs.jobs import Workers
from bulkhead.proofs.theorems.bmc import Search
from bulkhead.proofs.theorems.directed_search import reach
from bulkhead.proofs.theorems.initial_states import NoInitialState, initial_states, nothing
from bulkhead.proofs.theorems.known_runs import longest_run
from bulkhead.proofs.theorems.scope import roomy_scope
from bulkhead.proofs.theorems.small_worlds import fired_in_small_worlds
from bulkhead.proofs.theorems.solvers import Spent

REACHED = "reached"
POSSIBLE = "possible from a state that satisfies the invariants"
NEVER = "cannot fire"
UNDECIDED = "undecided: the solver does not say whether it can fire"
BUDGET = 27_000  # calls of the executable model
NEAR = 9_000  # the same, from the states of a run that a scenario shows
STEPS = 300_000  # taken in small worlds that are searched to their end
LARGER = 2  # additional elements of each sort, one by one, before a step counts as one that cannot fire
SEED = 4  # any seed works; with this one the search reaches most steps of the shipped systems


@dataclass
class Vacuity:
    """The result. `firing` says for each transition whether it was reached, is possible, or cannot fire."""

    initial: str
    assumptions: str
    firing: dict[str, str] = field(default_factory=dict)
    queries: int = 0
    seconds: float = 0.0  # in the solver, in whichever process
    asked: bool = True

    def note_reached(self, labels: Iterable[str]) -> None:
        """Note transitions that were taken in runs from an initial state, whoever found them."""
        self.firing.update({label: REACHED for label in labels if label in self.firing})

    def errors(self) -> list[str]:
        """Findings that make every verdict worthless."""
        out = []
        if self.initial != "sat":
            out.append(f"initial states in a small world: {self.initial}")
        if self.assumptions != "sat":
            out.append(f"states that satisfy all invariants, in a small world: {self.assumptions}")
        out += [
            f"{label} cannot fire from any state of the small world that satisfies the invariants"
            for label, found in self.firing.items()
            if found == NEVER
        ]
        out += [f"{label}: {found}" for label, found in self.firing.items() if found == UNDECIDED]
        return out

    def warnings(self) -> list[str]:
        """Transitions that the bounded search did not reach."""
        labels = [label for label, found in self.firing.items() if found == POSSIBLE]
        return [f"not reached by the bounded search, only {POSSIBLE}: {', '.join(labels)}"] if labels else []

    def _verdict(self) -> str:
        if "unsat" in (self.initial, self.assumptions):
            return "vacuous"
        if NEVER in self.firing.values():
            return "vacuous in part"
        return "perhaps vacuous" if self.errors() else "not vacuous"

    def summary(self) -> str:
        """A one-line summary."""
        if not self.asked:
            return "vacuity was NOT checked (--no-vacuity)"
        count = {f: sum(g == f for g in self.firing.values()) for f in (REACHED, POSSIBLE, NEVER)}
        return (
            f"{self._verdict()}: initial states {self.initial}, assumptions {self.assumptions}; of {len(self.firing)} "
            f"transitions {count[REACHED]} reached from an initial state, {count[POSSIBLE]} more possible, "
            f"{count[NEVER]} cannot fire"
        )


def possible_labels(
    system: System, standing: tuple[str, ...], labels: frozenset[str], limit: float, spent: Spent | None = None
) -> tuple[str, dict[str, str]]:
    """Are there states that satisfy the invariants, and which of `labels` can fire in one? Checked in a small world, and in
    larger ones before the answer is no.
    """
    assumptions, found = "unsat", dict.fromkeys(labels, "unsat")
    for more in range(LARGER + 1):
        sizes = {sort: size + more for sort, size in roomy_scope(system).items()}
        left = frozenset(n for n, answer in found.items() if answer == "unsat")
        if assumptions != "unsat" and not left:
            break
        answer, answers = _possible_in(system, sizes, standing, left, limit, spent)
        assumptions = answer if assumptions == "unsat" else assumptions
        found.update(answers)
    return assumptions, found


def _possible_in(
    system: System,
    sizes: dict[str, int],
    standing: tuple[str, ...],
    labels: frozenset[str],
    limit: float,
    spent: Spent | None,
) -> tuple[str, dict[str, str]]:
    """The same in one world."""
    known = {**system.invariants, **system.theorems}
    search = Search(system, nothing(system), sizes, limit, [*system.axioms, *(known[n] for n in standing)], spent)
    assumptions = search.check()
    found: dict[str, str] = {}
    if labels:
        search.transitions = [t for t in search.transitions if t.label in labels]
        search.deepen()
    for k, t in enumerate(search.transitions if labels else ()):
        answer = search.check(f"(assert (= op!0 {k}))")
        found[t.label] = "sat" if found.get(t.label) == "sat" else answer
    return assumptions, found


@dataclass(frozen=True)
class _Searched:
    """The executable model's findings: labels that were taken, and claims that hold in its first initial state.

    `assumptions` and `possible` are the results of `possible_labels` for the rest, with all invariants assumed.
    """

    labels: frozenset[str]
    holding: frozenset[str]
    assumptions: str = ""
    possible: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0  # in the solver


def searched(system: System, seed: int, limit: float) -> _Searched:
    """A seeded search of the executable model from initial states. Raises `NoInitialState`."""
    spent = Spent()
    found = _searched(system, seed, limit, spent)
    return replace(found, seconds=spent.seconds)


def _searched(system: System, seed: int, limit: float, spent: Spent) -> _Searched:
    known = {**system.invariants, **system.theorems}
    every = frozenset(t.label for s in system.steps for t in s.transitions())
    labels, begins = fired_in_small_worlds(system, STEPS)
    if labels == every:  # proved claims hold in every initial state, and there is one
        return _Searched(labels, frozenset(known))
    try:
        machine, states = initial_states(system, limit, random.Random(seed), spent)
    except NoInitialState:
        if not begins:
            raise
        left = every - labels
        return _Searched(labels, frozenset(known), *possible_labels(system, tuple(system.invariants), left, limit, spent))
    holding = frozenset(n for n, c in known.items() if machine.holds(states[0], c.body))
    labels |= reach(machine, seed, BUDGET, states).labels
    if labels < every:  # the rules' own way into deep states, and what is near it
        labels |= _near_the_longest_run(system, seed, limit, labels)
    left = every - labels
    if not left:
        return _Searched(labels, holding)
    return _Searched(labels, holding, *possible_labels(system, tuple(system.invariants), left, limit, spent))


def _near_the_longest_run(system: System, seed: int, limit: float, known: frozenset[str]) -> frozenset[str]:
    """Transitions of a long run that a scenario shows and that has one of them, and others that a search from it reaches."""
    run = longest_run(system, limit, known)
    if run is None:
        return frozenset()
    taken = frozenset(path.label for path in run.paths[1:])
    return taken | reach(run.machine, seed, NEAR, run.paths, known | taken).labels


class Checker:
    """Runs in parallel with the proof: `start` starts a search in another process, `result` does the rest."""

    def __init__(self, system: System, limit: float, seed: int = SEED) -> None:
        self.system = system
        self.limit = limit
        self.seed = seed
        self._searched: Future[_Searched] | None = None

    def start(self, pool: Workers | None) -> None:
        """Start the search for reachable transitions."""
        if pool is not None and pool.jobs > 1:
            self._searched = pool.submit(searched, self.system, self.seed, self.limit)

    def result(self, standing: Iterable[str]) -> Vacuity:
        """All findings; `standing` names the invariants that hold.

        Reached transitions need no query: their states satisfy all claims that hold in every reachable state.
        """
        spent = Spent()
        names = tuple(n for n in standing if n in self.system.invariants or n in self.system.theorems)
        labels = frozenset(t.label for s in self.system.steps for t in s.transitions())
        try:
            done = self._searched.result() if self._searched is not None else searched(self.system, self.seed, self.limit)
            initial = "sat"
        except NoInitialState as error:
            done, initial = _Searched(frozenset(), frozenset()), error.answer
        left = labels - done.labels
        if not left and set(names) <= done.holding:  # an initial state satisfies them
            found = Vacuity(initial, "sat", queries=1)
            possible: dict[str, str] = {}
        elif done.assumptions and set(self.system.invariants) <= set(names):
            assumptions, possible = done.assumptions, done.possible
            found = Vacuity(initial, assumptions, queries=len(possible) + 2)
        else:
            assumptions, possible = possible_labels(self.system, names, left, self.limit, spent)
            found = Vacuity(initial, assumptions, queries=len(possible) + 2)
        words = {"sat": POSSIBLE, "unsat": NEVER}
        found.firing = {
            t.label: REACHED if t.label in done.labels else words.get(possible[t.label], UNDECIDED)
            for s in self.system.steps
            for t in s.transitions()
        }
        found.seconds = done.seconds + spent.seconds
        return found
