"""Guards against proofs that hold because nothing can happen: initial states, assumptions, and steps that never fire.

A walk from a small world shows which steps fire for real; the rest is asked of the solvers (`sat` is wanted) from any
state that satisfies the invariants. This says nothing of whether a rule means what its author wanted.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field

from model.ir import System
from proofs.queries import Block, QueryMaker, name_of
from proofs.solvers import Cvc5Session, Z3Session

REACHED = "reached"
POSSIBLE = "only possible from an invariant state"
NEVER = "cannot fire"
UNDECIDED = "undecided"


@dataclass
class Vacuity:
    """What was found. `initial` and `assumptions` are solver verdicts; `firing` maps each transition to a finding."""

    initial: str
    assumptions: str
    firing: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    queries: int = 0

    def errors(self) -> list[str]:
        """Findings that make a run fail."""
        out = []
        if self.initial == "unsat":
            out.append("no initial state exists: every theorem holds for nothing")
        if self.assumptions == "unsat":
            out.append("the axioms and invariants contradict each other: every theorem holds for nothing")
        out += [f"{label} cannot fire from any state that satisfies the invariants"
                for label, found in self.firing.items() if found == NEVER]
        return out

    def warnings(self) -> list[str]:
        """Findings worth a line."""
        out = []
        for name, verdict in (("an initial state", self.initial), ("the assumptions together", self.assumptions)):
            if verdict == "unknown":
                out.append(f"whether {name} can be satisfied is undecided within the time limit")
        for found, text in ((POSSIBLE, "not reached by the bounded search, possible from an invariant state"),
                            (UNDECIDED, "not reached by the bounded search, and undecided")):
            labels = [label for label, f in self.firing.items() if f == found]
            if labels:
                out.append(f"{text}: {', '.join(labels)}")
        return out

    def summary(self) -> str:
        """One line for people."""
        reached = sum(f == REACHED for f in self.firing.values())
        possible = sum(f == POSSIBLE for f in self.firing.values())
        never = sum(f == NEVER for f in self.firing.values())
        return (f"not vacuous: initial states {self.initial}, assumptions {self.assumptions}; of {len(self.firing)} "
                f"transitions {reached} reached, {possible} {POSSIBLE}, {never} cannot fire")


def satisfiable(prelude: str, blocks: list[Block], limit: float) -> list[tuple[str, float]]:
    """Can the assumptions of each block be met? Z3 is asked first, then cvc5 for a finite model."""
    session = Z3Session(limit, cores=False)
    session.tell(prelude)
    out = []
    for block in blocks:
        answer = session.ask(block.text())
        verdict, seconds = answer.verdict, answer.seconds
        if verdict == "unknown":
            finite = Cvc5Session(limit, finite=True)
            finite.tell(prelude)
            again = finite.ask(block.text())
            verdict, seconds = again.verdict, seconds + again.seconds
        out.append((verdict, seconds))
    return out


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
            self.walked = self.pool.submit(walk_labels, self.system, self.seed)

    def result(self, standing: Iterable[str]) -> Vacuity:
        """All findings; `standing` names the invariants that hold."""
        maker = QueryMaker(self.system)
        reached = self.walked.result() if self.walked is not None else walk_labels(self.system, self.seed)
        known = {**self.system.invariants, **self.system.theorems}
        names = [name_of(known[n]) for n in standing]
        rest = {t.label: t for t in maker.transitions if t.label not in reached}
        blocks = [maker.initial(()), maker.follows((), names), *(maker.enabled(t, names) for t in rest.values())]
        prelude = maker.formulas.prelude
        if self.pool is None:
            answers = satisfiable(prelude, blocks, self.limit)
        else:
            futures = [self.pool.submit(satisfiable, prelude, [b], self.limit) for b in blocks]
            answers = [f.result()[0] for f in futures]
        found = Vacuity(answers[0][0], answers[1][0], seconds=sum(s for _, s in answers), queries=len(answers))
        verdicts = dict(zip(rest, (v for v, _ in answers[2:]), strict=True))
        meaning = {"sat": POSSIBLE, "unsat": NEVER, "unknown": UNDECIDED}
        found.firing = {t.label: REACHED if t.label in reached else meaning[verdicts[t.label]]
                        for t in maker.transitions}
        return found


def walk_labels(system: System, seed: int) -> set[str]:
    """The transitions that a bounded walk from a small world takes."""
    try:
        from model.machine import Machine
        from model.walk import reach
        from model.world import World
    except ModuleNotFoundError:  # without the executable model, all transitions are asked of the solvers
        return set()
    return set(reach(Machine(system, World.small(system)), seed, 20000))
