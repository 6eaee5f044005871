"""Guards against proofs that hold because nothing can happen: initial states, assumptions, and steps that never fire.

All questions are asked in a small finite world, where a `sat` is a real state: is there an initial state, is there one
that satisfies all invariants, can each transition fire from such a state. A seeded walk of the executable model from an
initial state then says which transitions were really taken. Nothing here proves a theorem.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field

from model.ir import TRUE, Claim, System
from model.machine import Machine
from model.world import size_of
from proofs.attack import Search, default_scope
from proofs.solvers import SolverError

REACHED = "reached"
POSSIBLE = "possible from a state that satisfies the invariants"
NEVER = "cannot fire"
# Room for Dom0, DomB, a guest and one to come, each with an address space.
ROOM = {"Domain": 4, "Life": 4, "Space": 4, "Frame": 3, "Epoch": 3, "Translation": 3}
WALK_TRIES = 60_000
RESTART = 400


@dataclass
class Vacuity:
    """What was found. `firing` says of each transition whether it was reached, is possible, or cannot fire."""

    initial: str
    assumptions: str
    firing: dict[str, str] = field(default_factory=dict)
    queries: int = 0
    seconds: float = 0.0

    def errors(self) -> list[str]:
        """Findings that make every verdict worthless."""
        out = []
        if self.initial != "sat":
            out.append(f"initial states in a small world: {self.initial}")
        if self.assumptions != "sat":
            out.append(f"states that satisfy all invariants, in a small world: {self.assumptions}")
        out += [f"{label} cannot fire from any state of the small world that satisfies the invariants"
                for label, found in self.firing.items() if found == NEVER]
        return out

    def warnings(self) -> list[str]:
        """Transitions that the bounded walk did not reach."""
        labels = [label for label, found in self.firing.items() if found == POSSIBLE]
        return [f"not reached by the bounded walk, only {POSSIBLE}: {', '.join(labels)}"] if labels else []

    def summary(self) -> str:
        """One line for people."""
        count = {f: sum(g == f for g in self.firing.values()) for f in (REACHED, POSSIBLE, NEVER)}
        return (f"not vacuous: initial states {self.initial}, assumptions {self.assumptions}; of {len(self.firing)} "
                f"transitions {count[REACHED]} reached from an initial state, {count[POSSIBLE]} more possible, "
                f"{count[NEVER]} cannot fire")


def scope(system: System) -> dict[str, int]:
    """The size of the small world in which steps have to be able to fire."""
    return {sort: ROOM.get(sort, size) for sort, size in default_scope(system).items()}


def possible_labels(system: System, standing: tuple[str, ...], limit: float) -> tuple[str, str, dict[str, str]]:
    """Answers in a small world: initial states, states that satisfy the invariants, what can fire."""
    nothing = Claim("theorem", "nothing", TRUE, "", system.theorems[next(iter(system.theorems))].span
                    if system.theorems else next(iter(system.invariants.values())).span, "")
    initial = Search(system, nothing, scope(system), limit).check()
    known = {**system.invariants, **system.theorems}
    search = Search(system, nothing, scope(system), limit, [*system.axioms, *(known[n] for n in standing)])
    assumptions = search.check()
    search.deepen()
    found: dict[str, str] = {}
    for k, t in enumerate(search.transitions):
        answer = search.check(f"(assert (= op!0 {k}))")
        found[t.label] = "sat" if found.get(t.label) == "sat" else answer
    return initial, assumptions, found


def walked_labels(system: System, seed: int, limit: float) -> set[str]:
    """The transitions that a seeded walk of the executable model takes from an initial state."""
    some = next(iter(system.claims().values()), None)
    if some is None:
        return set()
    start = Search(system, some, scope(system), limit)
    start.enrich()
    if start.check(keep=True) != "sat":
        raise SolverError("no initial state to walk from")
    trace = start.decode(())
    machine = Machine(system, trace.world)
    rng = random.Random(seed)
    labels = list(machine.transitions)
    sizes = {la: [(p.name, size_of(system, trace.world, p.sort)) for p in t.params]
             for la, t in machine.transitions.items()}
    fired: dict[str, int] = dict.fromkeys(labels, 0)
    fresh = [[list(t) for t in trace.initial]]  # states after which something new became possible
    state = [list(t) for t in trace.initial]
    for n in range(WALK_TRIES):
        if n % RESTART == 0:
            state = [list(t) for t in rng.choice(fresh)]
        label = rng.choice(labels)
        if fired[label] > 3 and rng.random() < 0.5:
            label = min(rng.sample(labels, 4), key=lambda la: fired[la])
        args = {name: int(rng.random() * size) for name, size in sizes[label]}
        if machine.fire(state, label, args):
            fired[label] += 1
            if fired[label] <= 2:
                fresh.append([list(t) for t in state])
    return {label for label, count in fired.items() if count}


class Checker:
    """Runs beside the proof: what can be started at once is, `result` asks for the rest."""

    def __init__(self, system: System, pool: ProcessPoolExecutor | None, limit: float, seed: int = 1) -> None:
        self.system = system
        self.pool = pool
        self.limit = limit
        self.seed = seed
        self.walked: Future[set[str]] | None = None

    def start(self) -> None:
        """Set off the walk in one of the pool's processes."""
        if self.pool is not None:
            self.walked = self.pool.submit(walked_labels, self.system, self.seed, self.limit)

    def result(self, standing: Iterable[str]) -> Vacuity:
        """All findings; `standing` names the invariants that hold."""
        names = tuple(n for n in standing if n in self.system.invariants or n in self.system.theorems)
        initial, assumptions, possible = possible_labels(self.system, names, self.limit)
        reached = self.walked.result() if self.walked is not None else \
            walked_labels(self.system, self.seed, self.limit)
        found = Vacuity(initial, assumptions, queries=len(possible) + 2)
        found.firing = {label: REACHED if label in reached else (POSSIBLE if answer == "sat" else NEVER)
                        for label, answer in possible.items()}
        return found
