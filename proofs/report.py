"""One run of `bulkhead prove`: verdicts per theorem, what each proof leans on, and their text and JSON forms.

Verdicts are put together here from what induction, the search for attacks and the vacuity checks say; none of them is
made here. Files are written whole or not at all: under a temporary name in the same folder, then put in place.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.ir import Op, System, show
from proofs.induction import Proof, Result, Settings, prove
from proofs.queries import QueryMaker
from proofs.vacuity import Checker

if TYPE_CHECKING:
    from model.trace import Trace

_unfinished: set[str] = set()  # temporary files that stand on the disk now


def write_file(path: Path, content: str | bytes) -> None:
    """Write a file so that it is there as a whole or not at all; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    _unfinished.add(temporary)
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(content.encode() if isinstance(content, str) else content)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
    finally:
        _unfinished.discard(temporary)


def writable(folder: Path) -> None:
    """Make a folder and see that files can be written there; raises `OSError` before any work is done for nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def drop_unfinished() -> None:
    """Remove files that were being written; for a process about to end."""
    for name in list(_unfinished):
        if os.path.exists(name):
            os.unlink(name)


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
    """The verdicts on one system. `faults_found` are findings other than verdicts that make the run fail."""

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


def search(system: System, claim: str, faults: tuple[str, ...]) -> Trace | None:
    """A shortest attack on a claim, or None when the search finds none."""
    from proofs.attack import find_attack

    if claim not in system.theorems:  # a two-state claim has no state that violates it
        return None
    return find_attack(system, claim, faults)


def judge(system: System, settings: Settings, pool: ProcessPoolExecutor | None, only: list[str],
          faults: tuple[str, ...], out: Path, why_of: str | None = None) -> SystemReport:
    """Prove or refute the claims in `only`, print what is found, and save the attacks below `out`."""
    start = time.perf_counter()
    report = SystemReport(system.name)
    vacuity = Checker(system, pool, settings.limit)
    vacuity.start()
    # What is expected to fall is attacked first; induction is asked only about what no attack was found on.
    attacks: dict[str, Trace] = {}
    spent: dict[str, float] = {}
    for name in [n for n in only if system.expects.get(n) == "refuted"]:
        begun = time.perf_counter()
        trace = search(system, name, faults)
        spent[name] = time.perf_counter() - begun
        if trace is not None:
            attacks[name] = trace
    with progress(system.name) as tick:
        proof = prove(system, settings, pool, tick, [n for n in only if n not in attacks])
        found = vacuity.result(proof.standing)
    report.queries = len(proof.results) + found.queries
    report.solver_seconds = proof.solver_seconds + found.seconds
    details: list[str] = []
    for name in only:
        mine = proof.of_claim(name)
        seconds = sum(r.seconds + r.second_seconds for r in mine)
        verdict = TheoremReport(name, "proved", system.expects.get(name, "proved"), len(mine), seconds)
        if name not in proof.proved:
            begun = time.perf_counter() - spent.get(name, 0.0)
            if name in attacks:
                trace = attacks[name]
            else:
                with progress(f"{system.name}: attacks on {name}"):
                    trace = search(system, name, faults)
            verdict.verdict = "unknown" if trace is None else "refuted"
            if trace is None:
                details.append(_unknown(proof, name))
            else:
                from proofs.text import save_trace

                folder = out / system.name / name
                details.append(save_trace(system, name, trace, folder))
                verdict.trace = str(folder / "trace.jsonl")
            verdict.seconds += time.perf_counter() - begun
        report.theorems.append(verdict)
    for r in proof.disagreements:
        report.findings.append(f"the solvers disagree on `{r.claim}` after {r.label}: z3 says {r.verdict}, "
                               f"cvc5 says {r.second}")
    report.findings += found.errors()
    report.seconds = time.perf_counter() - start
    table(report, sys.stdout.isatty())
    print(f"  {found.summary()}")
    for warning in found.warnings():
        print(f"  warning: {warning}")
    for finding in report.findings:
        print(f"  error: {finding}")
    for text in details:
        print(f"\n{text.rstrip()}")
    if why_of is not None and why_of in only:
        print()
        why(proof, why_of, print)
    print(flush=True)
    return report


def _unknown(proof: Proof, name: str) -> str:
    """What stands in the way of a proof: the queries that failed."""
    lines = [f"{name} is neither proved nor refuted. Not inductive:"]
    lines += [f"  {text}" for text in non_inductive(proof, name)]
    dropped = [n for n in proof.system.invariants if n not in proof.standing]
    if dropped:
        lines.append(f"Invariants that do not hold up, and were not leaned on: {', '.join(dropped)}")
        lines += [f"  {text}" for n in dropped for text in non_inductive(proof, n)]
    return "\n".join(lines)


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


def latest(results: Iterable[Result]) -> dict[tuple[str, str], Result]:
    """The last answer to each query; a query is asked again when an invariant it leaned on was dropped."""
    return {(r.label, r.claim): r for r in results}


def claim_of(name: str) -> str:
    """The claim behind the name of an assumption, or "" when it is not an invariant or theorem."""
    kind, _, rest = name.partition("/")
    return rest if kind in ("invariant", "theorem") else ""


def non_inductive(proof: Proof, claim: str) -> list[str]:
    """The queries in which a claim failed, as lines; the earliest one per transition."""
    lines: dict[str, None] = {}
    unsure = [r for r in latest(proof.results).values() if r.verdict != "unsat" or r.second not in ("", "unsat")]
    for r in (*proof.failing, *unsure):
        if r.claim == claim:
            where = {"init": "in an initial state", "follows": "from the invariants"}.get(r.label, f"after {r.label}")
            said = f"z3: {r.verdict}" + (f", cvc5: {r.second}" if r.second else "")
            lines[f"{claim} {where} ({said})"] = None
    return list(lines)


def why(proof: Proof, claim: str, line: Callable[[str], None]) -> None:
    """Show what a proof leans on: axioms, invariants (followed into their own proofs), and checks of each step."""
    system = proof.system
    answers = latest(proof.results)
    used = _leans_on(answers, claim)
    checks = _checks(system)
    line(f"{claim}: {'proved' if claim in proof.proved else 'not proved'}")
    order = [claim, *[n for n in used if n != claim]]
    axioms = sorted({c for r in answers.values() if r.claim in order for c in r.core if c.startswith("axiom/")})
    others = [n for n in order if n != claim]
    line(f"  leans on {len(others)} invariants and {len(axioms)} axioms: " + (", ".join(others) or "none"))
    for axiom in axioms:
        line(f"  axiom {axiom.partition('/')[2]}")
    for name in order:
        mine = [r for (_, c), r in answers.items() if c == name and r.verdict == "unsat"]
        if not mine:
            continue
        line(f"\n  {'theorem' if name in system.claims() else 'invariant'} {name}")
        for r in mine:
            leaning = sorted({claim_of(c) for c in r.core if claim_of(c)} - {name})
            here = checks.get(r.label, [])
            texts = [here[int(c[6:])] for c in sorted(r.core) if c.startswith("check/") and here]
            if not leaning and not texts:
                continue
            line(f"    {r.label}" + (f"  by {', '.join(leaning)}" if leaning else ""))
            for text in texts:
                line(f"        check  {text if len(text) <= 150 else text[:147] + '...'}")


def _leans_on(answers: dict[tuple[str, str], Result], claim: str) -> list[str]:
    order = {claim: None}
    todo = [claim]
    while todo:
        name = todo.pop(0)
        for (_, c), r in answers.items():
            if c != name:
                continue
            for other in (claim_of(n) for n in r.core):
                if other and other not in order:
                    order[other] = None
                    todo.append(other)
    return list(order)


def _checks(system: System) -> dict[str, list[str]]:
    out: dict[str, list[str]] = {}
    for t in QueryMaker(system).transitions:
        guard = t.guard
        parts = guard.args if isinstance(guard, Op) and guard.op == "and" else (guard,)
        out[t.label] = [show(p) for p in parts]
    return out
