"""One run of `bulkhead prove`: schedules the searches and proofs, and assembles the result.

Verdicts come from induction, the search for attacks and the vacuity checks; none is made here. Results
are data (`results/prove.py`): `Case.judge` prints and writes nothing, `save` writes the files of a result, and
`prove_text.py` renders the text.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

from bulkhead.model.ir import System
from bulkhead.model.trace import Trace
from bulkhead.proofs.jobs import Workers
from bulkhead.proofs.report.certified import certified, findings
from bulkhead.proofs.report.explain_cti import save_counterexample
from bulkhead.proofs.report.explain_proof import not_decided, why
from bulkhead.proofs.report.trace_text import save_trace
from bulkhead.proofs.results.prove import AttackResult, Counterexample, Saved, ScenarioResult, SystemResult, TheoremResult
from bulkhead.proofs.results.vocabulary import Verdict
from bulkhead.proofs.theorems.attack import LIMIT, find_attacks
from bulkhead.proofs.theorems.axioms import model_of_axioms
from bulkhead.proofs.theorems.cti import counterexample
from bulkhead.proofs.theorems.decide import Settings
from bulkhead.proofs.theorems.induction import Proof, prove
from bulkhead.proofs.theorems.queries import PLACES
from bulkhead.proofs.theorems.scenarios import Decision, decide
from bulkhead.proofs.theorems.solvers import SolverError
from bulkhead.proofs.theorems.subsumption import Refuted
from bulkhead.proofs.theorems.vacuity import Checker, Vacuity
from bulkhead.proofs.theorems.waypoints import Doubts

SHOWN = 3  # counterexamples to induction for one system
Found = tuple[dict[str, Trace | None], float]
Progress = Callable[[str], contextlib.AbstractContextManager[Callable[[int], None]]]  # a title, and a counter of queries


def silent(_title: str) -> contextlib.AbstractContextManager[Callable[[int], None]]:
    """No progress output."""
    return contextlib.nullcontext(lambda _count: None)


def search(
    system: System,
    claims: list[str],
    faults: tuple[str, ...],
    one: bool = False,
    limit: float = LIMIT,
    depth: int | None = None,
    given: Mapping[str, int] | None = None,
    doubts: Doubts | None = None,
) -> Found:
    """A short attack on each claim (with `one`, on any), or None if none is found; and the seconds for each.

    `depth` bounds the steps of an attack, `given` fixes the size of some sorts, `limit` is the time for one solver query.
    `doubts` holds a proof that was made before.
    """
    begun = time.perf_counter()
    found = find_attacks(system, claims, faults, limit=limit, one=one, given=given, depth=depth, doubts=doubts)
    return found, (time.perf_counter() - begun) / max(1, len(claims))


class Case:
    """One system in a run. `start` starts the work that needs no proof, `judge` assembles everything."""

    def __init__(
        self,
        system: System,
        settings: Settings,
        pool: Workers,
        only: list[str],
        faults: tuple[str, ...],
        source: str | None = None,
        vacuity: bool = True,
        scenarios: Sequence[str] = (),
    ) -> None:
        """`source` is the file to read again to certify the proof; None for no certificate. Without `vacuity` the
        vacuity checks are skipped.
        """
        self.source = source
        self.system, self.settings, self.pool, self.only, self.faults = system, settings, pool, only, faults
        self.scenarios = scenarios
        self.vacuity = Checker(system, settings.limit) if vacuity else None
        self._attacks: dict[str, Future[Found]] = {}
        self._scenarios: dict[str, Future[Decision]] = {}

    def start(self) -> None:
        """Start attacks on claims that are expected to be refuted: induction covers only claims without an attack."""
        self._attack([n for n in self.only if self.system.expects.get(n) == "refuted"])
        if self.vacuity is not None:
            self.vacuity.start(self.pool)
        for name in self.scenarios:
            self._scenarios[name] = self.pool.submit(decide, self.system, name, self.settings.limit)

    def _attack(self, claims: list[str]) -> None:
        """Start the search for attacks on claims, in two parts if there are other processes."""
        for part in (claims[::2], claims[1::2]) if self.pool.jobs > 1 else (claims,):
            if part:
                future = self.pool.submit(search, self.system, part, self.faults)
                self._attacks.update(dict.fromkeys(part, future))

    def judge(self, refuted: Refuted | None = None, why_of: str | None = None, progress: Progress = silent) -> SystemResult:
        """Prove or refute the claims. `refuted` holds the queries refuted for other systems of the run."""
        begun = time.perf_counter()
        system = self.system
        attacked = {n for n, f in self._attacks.items() if f.result()[0][n] is not None}
        with progress(system.name) as tick:
            proof = prove(system, self.settings, self.pool, tick, [n for n in self.only if n not in attacked], refuted)
        self._attack([n for n in self.only if n not in proof.proved and n not in self._attacks])
        found = Vacuity("sat", "sat", asked=False) if self.vacuity is None else self.vacuity.result(proof.standing)
        decisions = {n: f.result() for n, f in self._scenarios.items()}
        for decision in decisions.values():
            found.note_reached(e.label for e in (() if decision.trace is None else decision.trace.events))
        axioms = model_of_axioms(system, self.settings.limit)
        theorems = tuple(self._verdict(proof, name, progress) for name in self.only)
        open_ = [t.name for t in theorems if t.verdict is Verdict.UNKNOWN]
        lines: list[str] = []
        if why_of is not None and why_of in self.only:
            why(proof, why_of, lines.append)
        certificate = None if self.source is None else certified(proof, self.source, self.faults, self.settings, self.pool)
        denied = () if certificate is None else findings(certificate)
        disagreements = [
            f"the solvers disagree on `{r.claim}` after {r.label}: z3 says {r.verdict}, cvc5 says {r.second}"
            for r in proof.disagreements
        ]
        return SystemResult(
            system,
            theorems,
            (
                *disagreements,
                *(() if axioms is None else axioms.finding(self.vacuity is not None)),
                *found.errors(),
                *denied,
            ),
            tuple(found.warnings()),
            found.summary(),
            queries=len(proof.results) + found.queries,
            decided=len(proof.results),
            again=sum(r.again for r in proof.results),
            solver_seconds=proof.solver_seconds + found.seconds,
            seconds=time.perf_counter() - begun,
            not_inductive=tuple(dict.fromkeys(r.claim for r in proof.first_failing)),
            counterexamples=self._counterexamples(proof),
            certificate="" if certificate is None else certificate.summary(),
            undecided=tuple(not_decided(proof, open_).split("\n")) if open_ else (),
            why=tuple(lines),
            axioms=axioms,
            scenarios=tuple(ScenarioResult(system.scenarios[n], decisions[n], n == why_of) for n in self.scenarios),
        )

    def _verdict(self, proof: Proof, name: str, progress: Progress) -> TheoremResult:
        mine = proof.of_claim(name)
        spent = sum(r.seconds + r.second_seconds for r in mine)
        claim, expected = self.system.claims()[name], Verdict(self.system.expects.get(name, "proved"))
        if name in proof.proved:
            return TheoremResult(claim, Verdict.PROVED, expected, len(mine), spent)
        with progress(f"{self.system.name}: attacks on {name}"):
            traces, seconds = self._attacks[name].result()
        attack = traces[name]
        verdict = Verdict.UNKNOWN if attack is None else Verdict.REFUTED
        return TheoremResult(claim, verdict, expected, len(mine), spent + seconds, attack)

    def _counterexamples(self, proof: Proof) -> tuple[Counterexample, ...]:
        """Counterexamples to induction for the claims that failed first, with everything assumed."""
        steps = {r.claim: r.label for r in reversed(proof.first_failing) if r.verdict == "sat" and r.label not in PLACES}
        chosen = [c for c in dict.fromkeys(r.claim for r in proof.first_failing) if c in steps][:SHOWN]
        futures = [
            self.pool.submit(counterexample, self.system, steps[c], c, proof.candidates, self.settings.limit) for c in chosen
        ]
        found = []
        for future in futures:
            with contextlib.suppress(SolverError):  # it was found before: only its reduction took too long
                found.append(future.result())
        return tuple(Counterexample(cti) for cti in found if cti is not None)


def save(result: SystemResult, out: Path) -> SystemResult:
    """Write the attacks and counterexamples of a system to `out`; returns the result with their folders."""
    system = result.system
    theorems = []
    for t in result.theorems:
        if t.attack is not None:
            folder = out / t.name
            t = replace(t, saved=Saved(str(folder), save_trace(system, t.name, t.attack, folder)))
        theorems.append(t)
    shown = []
    for c in result.counterexamples:
        folder = out / "induction" / c.cti.claim
        shown.append(replace(c, saved=Saved(str(folder), save_counterexample(system, c.cti, folder))))
    return replace(result, theorems=tuple(theorems), counterexamples=tuple(shown))


def save_attack(result: AttackResult, out: Path) -> AttackResult:
    """Write log, states and pictures of an attack to `out`; returns the result with their folder."""
    shown = result.attack or result.way
    if shown is None:
        return result
    text = save_trace(result.system, shown.claim, shown, out)
    return replace(result, saved=Saved(str(out), text))


__all__ = ["Case", "Progress", "save", "save_attack", "search", "silent"]
