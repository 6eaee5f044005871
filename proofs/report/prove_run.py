"""One run of `bulkhead prove`: verdicts per theorem, and their text and JSON forms.

Verdicts are put together here from what induction, the search for attacks and the vacuity checks say; none of them is
made here.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bulkhead.model.ir import System
from bulkhead.proofs.atomic_files import drop_unfinished, writable, write_file
from bulkhead.proofs.jobs import Workers
from bulkhead.proofs.report.explain_proof import not_decided, why
from bulkhead.proofs.theorems.decide import Settings
from bulkhead.proofs.theorems.induction import Proof, prove
from bulkhead.proofs.theorems.subsumption import Refuted
from bulkhead.proofs.theorems.vacuity import Checker

if TYPE_CHECKING:
    from bulkhead.model.trace import Trace

SHOWN = 3  # counterexamples to induction for one system

@dataclass
class TheoremReport:
    """The verdict on one theorem or transition claim."""

    name: str
    verdict: str  # proved | refuted | unknown
    expected: str
    queries: int
    seconds: float
    trace: str | None = None

    @property
    def as_expected(self) -> bool:
        return self.verdict == self.expected

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "verdict": self.verdict, "expected": self.expected, "queries": self.queries,
                "seconds": round(self.seconds, 4), "trace": self.trace}


@dataclass
class SystemReport:
    """The verdicts on one system. `findings` are what makes the run fail beside verdicts."""

    name: str
    theorems: list[TheoremReport] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    queries: int = 0
    solver_seconds: float = 0.0
    seconds: float = 0.0

    @property
    def as_expected(self) -> bool:
        return not self.findings and all(t.as_expected for t in self.theorems)

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "as_expected": self.as_expected, "theorems": [t.to_json() for t in self.theorems],
                "findings": self.findings, "seconds": round(self.seconds, 4)}


def to_json(systems: list[SystemReport], seconds: float) -> str:
    """The whole run as JSON text."""
    run = {"systems": [s.to_json() for s in systems], "queries": sum(s.queries for s in systems),
           "solver_seconds": round(sum(s.solver_seconds for s in systems), 4), "seconds": round(seconds, 4)}
    return json.dumps(run, indent=2) + "\n"


Found = tuple[dict[str, "Trace | None"], float]


def search(system: System, claims: list[str], faults: tuple[str, ...], one: bool = False) -> Found:
    """A short attack on each claim (with `one`, on any), or None where none is found; and the seconds for each."""
    from bulkhead.proofs.theorems.attack import find_attacks

    begun = time.perf_counter()
    found = find_attacks(system, claims, faults, one=one)
    return found, (time.perf_counter() - begun) / max(1, len(claims))


class Case:
    """One system in a run. `start` sets off what needs no proof, `judge` brings everything together."""

    def __init__(self, system: System, settings: Settings, pool: Workers, only: list[str],
                 faults: tuple[str, ...], out: Path) -> None:
        self.system, self.settings, self.pool, self.only, self.faults = system, settings, pool, only, faults
        self.out = out / system.name
        self.vacuity = Checker(system, settings.limit)
        self._attacks: dict[str, Future[Found]] = {}
        self.report = SystemReport(system.name)
        self.details: list[str] = []

    def start(self) -> None:
        """Begin with attacks on what is expected to fall: induction is asked only about what none was found on."""
        self._attack([n for n in self.only if self.system.expects.get(n) == "refuted"])
        self.vacuity.start(self.pool)

    def _attack(self, claims: list[str]) -> None:
        """Set off the search for attacks on claims, in two parts where there is a pool."""
        for part in (claims[::2], claims[1::2]) if self.pool.jobs > 1 else (claims,):
            if not part:
                continue
            future = self.pool.submit(search, self.system, part, self.faults)
            self._attacks.update(dict.fromkeys(part, future))

    def judge(self, refuted: Refuted | None = None, why_of: str | None = None) -> SystemReport:
        """Prove or refute the claims, print what is found, and save attacks and counterexamples to induction."""
        begun = time.perf_counter()
        system, report = self.system, self.report
        fallen = {n for n, f in self._attacks.items() if f.result()[0][n] is not None}
        with progress(system.name) as tick:
            proof = prove(system, self.settings, self.pool, tick, [n for n in self.only if n not in fallen], refuted)
        self._attack([n for n in self.only if n not in proof.proved and n not in self._attacks])
        found = self.vacuity.result(proof.standing)
        report.queries = len(proof.results) + found.queries
        report.solver_seconds = proof.solver_seconds + found.seconds
        for name in self.only:
            report.theorems.append(self._verdict(proof, name))
        undecided = [t.name for t in report.theorems if t.verdict == "unknown"]
        if undecided:
            self.details.append(not_decided(proof, undecided))
        if proof.first_failing:
            self.details.append(self._counterexamples(proof))
        for r in proof.disagreements:
            report.findings.append(f"the solvers disagree on `{r.claim}` after {r.label}: z3 says {r.verdict}, "
                                   f"cvc5 says {r.second}")
        report.findings += found.errors()
        report.seconds = time.perf_counter() - begun
        table(report, sys.stdout.isatty())
        again = sum(r.again for r in proof.results)
        if again:
            print(f"  {again} of {len(proof.results)} queries were refuted already, for another step or system")
        print(f"  {found.summary()}")
        for warning in found.warnings():
            print(f"  warning: {warning}")
        for finding in report.findings:
            print(f"  error: {finding}")
        for text in self.details:
            print(f"\n{text.rstrip()}")
        if why_of is not None and why_of in self.only:
            print()
            why(proof, why_of, print)
        print(flush=True)
        return report

    def _verdict(self, proof: Proof, name: str) -> TheoremReport:
        mine = proof.of_claim(name)
        spent = sum(r.seconds + r.second_seconds for r in mine)
        verdict = TheoremReport(name, "proved", self.system.expects.get(name, "proved"), len(mine), spent)
        if name in proof.proved:
            return verdict
        with progress(f"{self.system.name}: attacks on {name}"):
            traces, seconds = self._attacks[name].result()
        trace = traces[name]
        verdict.seconds += seconds
        if trace is None:
            verdict.verdict = "unknown"
            return verdict
        from bulkhead.proofs.report.trace_text import save_trace

        self.details.append(save_trace(self.system, name, trace, self.out / name))
        verdict.verdict, verdict.trace = "refuted", str(self.out / name / "trace.jsonl")
        return verdict

    def _counterexamples(self, proof: Proof) -> str:
        """Counterexamples to induction for what failed first, with everything assumed; the rest fell with these."""
        from bulkhead.proofs.report.trace_text import save_counterexample

        fell = ", ".join(dict.fromkeys(r.claim for r in proof.first_failing))
        shown = [f"Not inductive, with all invariants assumed: {fell}"]
        found = {r.claim: r.cti for r in reversed(proof.first_failing) if r.cti is not None}
        for claim in [c for c in dict.fromkeys(r.claim for r in proof.first_failing) if c in found][:SHOWN]:
            cti = found[claim]
            assert cti is not None
            shown.append(save_counterexample(self.system, cti, self.out / "induction" / claim))
        return "\n\n".join(shown)


@contextlib.contextmanager
def progress(title: str) -> Iterator[Callable[[int], None]]:
    """Tells on the error stream how far a proof has come: a live line on a terminal, a plain line now and then else."""
    done = 0
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.status import Status

        with Status(f"{title} ...", console=Console(stderr=True)) as status:
            def live(count: int) -> None:
                nonlocal done
                done += count
                status.update(f"{title}: {done} queries decided")

            yield live
        return
    last = time.perf_counter()
    print(f"{title} ...", file=sys.stderr, flush=True)

    def plain(count: int) -> None:
        nonlocal done, last
        done += count
        if time.perf_counter() - last > 5:
            last = time.perf_counter()
            print(f"{title}: {done} queries decided", file=sys.stderr, flush=True)

    yield plain


def table(report: SystemReport, terminal: bool) -> None:
    """Print the verdicts of one system: a drawn table on a terminal, aligned plain lines elsewhere."""
    head = ("theorem", "verdict", "expected", "queries", "time")
    rows = [(t.name, t.verdict, t.expected, str(t.queries), f"{t.seconds:.2f} s") for t in report.theorems]
    if terminal:
        from rich.console import Console
        from rich.table import Table

        drawn = Table(title=report.name, title_justify="left")
        for k, text in enumerate(head):
            drawn.add_column(text, justify="right" if k > 2 else "left", no_wrap=k == 1)
        for row, theorem in zip(rows, report.theorems, strict=True):
            colour = "green" if theorem.as_expected else "red"
            drawn.add_row(row[0], f"[{colour}]{row[1]}[/{colour}]", *row[2:])
        Console().print(drawn)
        return
    widths = [max(len(r[k]) for r in (head, *rows)) for k in range(len(head))]
    print(report.name)
    for row in (head, *rows):
        cells = [c.rjust(w) if k > 2 else c.ljust(w) for k, (c, w) in enumerate(zip(row, widths, strict=True))]
        print("  " + "  ".join(cells).rstrip())


__all__ = ["Case", "SystemReport", "TheoremReport", "drop_unfinished", "progress", "search", "table", "to_json",
           "writable", "write_file"]
