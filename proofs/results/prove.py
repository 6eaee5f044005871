"""The results of `bulkhead prove` and `bulkhead attack`: verdicts, attacks, counterexamples to induction.

`report/prove_run.py` assembles them from induction, the search for attacks and the vacuity checks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from bulkhead.model.ir import Claim, Scenario, System
from bulkhead.model.trace import Trace
from bulkhead.proofs.results.vocabulary import Check, Flow, Status, Verdict
from bulkhead.proofs.theorems.axioms import Model
from bulkhead.proofs.theorems.cti import Cti
from bulkhead.proofs.theorems.scenarios import IMPOSSIBLE, POSSIBLE, UNKNOWN, Decision


@dataclass(frozen=True)
class Saved:
    """A folder of files, their text, and a note if something could not be made (pictures)."""

    folder: str
    text: str


@dataclass(frozen=True)
class TheoremResult:
    """The verdict on one theorem or transition claim. `attack` refutes it; `saved` is the attack's folder."""

    claim: Claim
    verdict: Verdict
    expected: Verdict
    queries: int
    seconds: float
    attack: Trace | None = None
    saved: Saved | None = None

    @property
    def name(self) -> str:
        return self.claim.name

    @property
    def as_expected(self) -> bool:
        return self.verdict == self.expected

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "verdict": str(self.verdict),
            "expected": str(self.expected),
            "queries": self.queries,
            "seconds": round(self.seconds, 4),
            "trace": self.saved and f"{self.saved.folder}/trace.jsonl",
        }

    def check(self, system: System) -> Check:
        """The text for reports."""
        said = f"{self.name} of {system.name} is {self.verdict}, {self.expected} is expected"
        if self.as_expected:
            status = Status.PASSED if self.verdict is Verdict.PROVED else Status.FOUND
        else:
            status = Status.OPEN if self.verdict is Verdict.UNKNOWN else Status.FAILED
        return Check(
            system.name,
            self.name,
            status,
            said + ".",
            self.claim.doc,
            self.claim.span,
            () if self.attack is None else flow_of(system, self.attack),
            self.seconds,
        )


@dataclass(frozen=True)
class ScenarioResult:
    """The verdict on one scenario. `asked`: its run is to be shown."""

    scenario: Scenario
    decision: Decision
    asked: bool = False

    @property
    def name(self) -> str:
        return self.scenario.name

    @property
    def expected(self) -> str:
        return POSSIBLE if self.scenario.possible else IMPOSSIBLE

    @property
    def as_expected(self) -> bool:
        return self.decision.verdict == self.expected

    def to_json(self) -> dict[str, Any]:
        run = self.decision.trace
        steps = None
        if run is not None:
            steps = [
                {"call": e.label.partition("!")[0], "code": c} for e, c in zip(run.events, self.decision.codes, strict=True)
            ]
        return {
            "name": self.name,
            "verdict": self.decision.verdict,
            "expected": self.expected,
            "searched": self.decision.bound,
            "world": None if run is None else run.world.sizes,
            "steps": steps,
            "seconds": round(self.decision.seconds, 4),
        }

    def check(self, system: System) -> Check:
        """The entry for reports."""
        said = f"The run {self.name} of {system.name} is {self.decision.verdict}, {self.expected} is expected."
        status = Status.PASSED if self.as_expected else Status.FAILED
        if self.decision.verdict == UNKNOWN:
            status = Status.OPEN
        flow = () if self.decision.trace is None else flow_of(system, self.decision.trace)
        bound = f" Searched: {self.decision.bound}." if self.decision.bound else ""
        place = self.scenario.span
        return Check(system.name, self.name, status, said + bound, self.scenario.doc, place, flow, self.decision.seconds)


@dataclass(frozen=True)
class Counterexample:
    """A step that breaks a claim, from a state that may be unreachable; `saved` is its folder."""

    cti: Cti
    saved: Saved | None = None


@dataclass(frozen=True)
class SystemResult:
    """The verdicts on one system. `errors` make the run fail, besides verdicts; `again` counts subsumed queries.

    `undecided` explains why claims are neither proved nor refuted, and `why` the dependencies of one claim's proof: lines.
    """

    system: System
    theorems: tuple[TheoremResult, ...]
    errors: tuple[str, ...]
    warnings: tuple[str, ...]
    vacuity: str
    queries: int
    decided: int  # the queries of the induction
    again: int
    solver_seconds: float
    seconds: float
    not_inductive: tuple[str, ...] = ()  # claims that failed first, with everything assumed
    counterexamples: tuple[Counterexample, ...] = ()
    undecided: tuple[str, ...] = ()
    why: tuple[str, ...] = ()
    scenarios: tuple[ScenarioResult, ...] = ()
    axioms: Model | None = None  # None where the system has no axiom
    certificate: str = ""  # the answer of the second encoding, if requested

    @property
    def name(self) -> str:
        return self.system.name

    @property
    def good(self) -> bool:
        return not self.errors and all(t.as_expected for t in self.theorems) and all(r.as_expected for r in self.scenarios)

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "as_expected": self.good,
            "theorems": [t.to_json() for t in self.theorems],
            "scenarios": [s.to_json() for s in self.scenarios],
            "axioms": None if self.axioms is None else self.axioms.to_json(),
            "findings": list(self.errors),
            "seconds": round(self.seconds, 4),
        }

    def checks(self) -> tuple[Check, ...]:
        """The theorems, and the vacuity check."""
        sound = Check(
            self.name,
            "not_vacuous",
            Status.FAILED if self.errors else Status.PASSED,
            "; ".join(self.errors) or self.vacuity,
            "The proofs are not vacuous, and the solvers agree.",
        )
        return (*(t.check(self.system) for t in self.theorems), *(r.check(self.system) for r in self.scenarios), sound)


@dataclass(frozen=True)
class ProveResult:
    """A whole run over some systems."""

    systems: tuple[SystemResult, ...]
    seconds: float
    format: ClassVar[str] = "bulkhead-prove/1"

    @property
    def queries(self) -> int:
        return sum(s.queries for s in self.systems)

    @property
    def solver_seconds(self) -> float:
        return sum(s.solver_seconds for s in self.systems)

    @property
    def good(self) -> bool:
        return all(s.good for s in self.systems)

    def to_json(self) -> dict[str, Any]:
        return {
            "format": self.format,
            "systems": [s.to_json() for s in self.systems],
            "queries": self.queries,
            "solver_seconds": round(self.solver_seconds, 4),
            "seconds": round(self.seconds, 4),
        }

    def checks(self) -> tuple[Check, ...]:
        return tuple(c for s in self.systems for c in s.checks())


@dataclass(frozen=True)
class AttackResult:
    """The outcome of a search for an attack on some claims. Finding none within the bounds is no proof that none exists.

    `proved` means that with the faults laid all claims that should be proved still are; `broken` then names the invariants
    that some step does not keep with them. `way` breaks an invariant, which is no attack; it is looked for if there is none.
    """

    system: System
    faults: tuple[str, ...]
    searched: tuple[str, ...]
    attack: Trace | None
    seconds: float
    saved: Saved | None = None
    proved: bool = False
    limit: float | None = None  # seconds for one solver query, if the user set that
    broken: tuple[str, ...] = ()
    way: Trace | None = None
    format: ClassVar[str] = "bulkhead-attack/1"

    @property
    def good(self) -> bool:
        return self.attack is not None

    def to_json(self) -> dict[str, Any]:
        return {
            "format": self.format,
            "system": self.system.name,
            "faults": list(self.faults),
            "searched": list(self.searched),
            "attack": self._told(self.attack),
            "broken_invariant": self._told(self.way),
            "seconds": round(self.seconds, 4),
        }

    def _told(self, trace: Trace | None) -> dict[str, Any] | None:
        if trace is None:
            return None
        return {
            "claim": trace.claim,
            "steps": [e.label for e in trace.events],
            "excluded": trace.excluded,
            "trace": self.saved and f"{self.saved.folder}/trace.jsonl",
        }

    def checks(self) -> tuple[Check, ...]:
        known = self.system.stated()
        if self.attack is not None:
            return (self._check(self.attack, Status.FOUND),)
        said = "No attack was found within the bounds of the search."
        none = [Check(self.system.name, n, Status.OPEN, said, known[n].doc, known[n].span) for n in self.searched]
        return (*none, *([] if self.way is None else [self._check(self.way, Status.OPEN)]))

    def _check(self, trace: Trace, status: Status) -> Check:
        claim, size = self.system.stated()[trace.claim], len(trace.events)
        what = "A way to break the invariant" if claim.kind == "invariant" else "An attack on"
        said = f"{what} {claim.name} of {self.system.name} takes {size} step{'s' * (size != 1)}."
        flow = flow_of(self.system, trace)
        return Check(self.system.name, claim.name, status, said, claim.doc, claim.span, flow, self.seconds)


def flow_of(system: System, trace: Trace) -> tuple[Flow, ...]:
    """The steps of an attack, each with the place of its rule."""
    steps = {t.label: s for s in system.steps for t in s.outcomes()}
    return tuple(Flow(f"{n}. {steps[e.label].kind} {e.label}", steps[e.label].span) for n, e in enumerate(trace.events, 1))
