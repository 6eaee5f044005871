"""The results of `bulkhead diff` (`--play`, too) and `bulkhead refine`: does the implementation refine the rules?

Assembled from reports of campaigns (`refinement/campaign.py`) and of symbolic runs of handlers (`refinement/handlers/`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from bulkhead.model.diagnostics import Span
from bulkhead.proofs.refinement.campaign import Failure
from bulkhead.proofs.refinement.coverage import CANNOT_HAPPEN, Coverage
from bulkhead.proofs.refinement.handlers.table import HANDLERS, HandlerReport
from bulkhead.proofs.refinement.play import Played
from bulkhead.proofs.results.vocabulary import Check, Flow, Status

Places = Mapping[str, Span]  # places of steps in the rules, by label


@dataclass(frozen=True)
class DiffResult:
    """A campaign. `compared` is false if the implementation ran alone; `contradicted` are outcomes that were reached
    although `refinement/coverage.py` says that this is impossible."""

    seed: int
    calls: int
    steps: int
    rule_steps: int
    seconds: float
    coverage: Coverage
    contradicted: tuple[str, ...]
    failure: Failure | None
    compared: bool
    places: Places
    beside: tuple[str, ...] = ()  # the reference for each operation of the implementation, as text
    format: ClassVar[str] = "bulkhead-diff/1"

    @property
    def good(self) -> bool:
        return self.failure is None and not self.contradicted

    def to_json(self) -> dict[str, Any]:
        return {
            "format": self.format,
            "calls": self.calls,
            "mismatches": int(self.failure is not None),
            "seed": self.seed,
            "coverage": {
                "reached": self.coverage.reached,
                "total": self.coverage.total,
                "missing": list(self.coverage.missing) if self.compared else [],
            },
            "seconds": round(self.seconds, 3),
        }

    def checks(self) -> tuple[Check, ...]:
        """Checks: no mismatch, and no impossible outcome."""
        reasons = {pair: f", although it is impossible: {CANNOT_HAPPEN[pair]}" for pair in self.contradicted}
        return _checks("same_states", f"{self.calls} calls", self.seconds, self.failure, reasons, self.places)


@dataclass(frozen=True)
class DombResult:
    """A campaign of DomB and its rules. `lines` describe its coverage."""

    calls: int
    rule_steps: int
    seconds: float
    total: int  # pairs of a rule and an outcome
    missing: tuple[str, ...]
    lines: tuple[str, ...]
    contradicted: tuple[str, ...]
    failure: Failure | None
    compared: bool
    places: Places

    @property
    def good(self) -> bool:
        return self.failure is None and not self.contradicted

    def checks(self) -> tuple[Check, ...]:
        """Checks: no mismatch, and no impossible outcome."""
        reasons = dict.fromkeys(self.contradicted, ", although it is impossible")
        return _checks("same_states_domb", f"{self.calls} moves", self.seconds, self.failure, reasons, self.places)


def _checks(
    name: str, made: str, seconds: float, failure: Failure | None, impossible: Mapping[str, str], places: Places
) -> tuple[Check, ...]:
    """Checks of a campaign: one says whether the states stayed the same, then one for each impossible outcome it reached."""
    if failure is None:
        same = Check("diff", name, Status.PASSED, f"{made} without a mismatch.", seconds=seconds)
    else:
        place = places.get(failure.what.partition(":")[0].strip("`"))
        flow = tuple(Flow(line) for line in failure.log)
        same = Check("diff", name, Status.FAILED, failure.text(), place=place, flow=flow, seconds=seconds)
    reached = (
        Check(
            "diff",
            "outcome_cannot_happen",
            Status.FAILED,
            f"{pair} occurred{why}.",
            place=places.get(pair.partition(":")[0]),
        )
        for pair, why in impossible.items()
    )
    return same, *reached


@dataclass(frozen=True)
class DiffRun:
    """The parts that `bulkhead diff` ran: Xen and Dom0's drivers, DomB, or both."""

    seed: int
    drivers: DiffResult | None
    domb: DombResult | None
    format: ClassVar[str] = "bulkhead-diff/1"

    @property
    def parts(self) -> tuple[DiffResult | DombResult, ...]:
        return tuple(p for p in (self.drivers, self.domb) if p is not None)

    @property
    def good(self) -> bool:
        return all(p.good for p in self.parts)

    def to_json(self) -> dict[str, Any]:
        """The JSON form of one campaign; for two, numbers are added."""
        d, b = self.drivers, self.domb
        if d is not None and b is None:
            return d.to_json()
        missing = [*(d.coverage.missing if d is not None and d.compared else ()), *(b.missing if b is not None else ())]
        reached = (d.coverage.reached if d is not None else 0) + (b.total - len(b.missing) if b is not None else 0)
        total = (d.coverage.total if d is not None else 0) + (b.total if b is not None else 0)
        return {
            "format": self.format,
            "calls": sum(p.calls for p in self.parts),
            "mismatches": sum(p.failure is not None for p in self.parts),
            "seed": self.seed,
            "coverage": {"reached": reached, "total": total, "missing": missing},
            "seconds": round(sum(p.seconds for p in self.parts), 3),
        }

    def checks(self) -> tuple[Check, ...]:
        return tuple(c for p in self.parts for c in p.checks())


@dataclass(frozen=True)
class PlayResult:
    """A recording of calls that was played again."""

    played: Played
    format: ClassVar[str] = "bulkhead-play/1"

    @property
    def good(self) -> bool:
        return not self.played.difference

    def to_json(self) -> dict[str, Any]:
        p = self.played
        return {
            "format": self.format,
            "name": p.file,
            "on": str(p.on),
            "machines": p.machines,
            "calls": p.calls,
            "rule_steps": p.rule_steps,
            "difference": p.difference,
            "seconds": round(p.seconds, 3),
        }

    def checks(self) -> tuple[Check, ...]:
        """One: that all answers are as recorded."""
        p = self.played
        if p.difference:
            return (Check("play", "same_answers", Status.FAILED, p.difference, seconds=p.seconds),)
        said = f"{p.calls} calls of {p.file} on {p.on}: answers as recorded."
        return (Check("play", "same_answers", Status.PASSED, said, seconds=p.seconds),)


@dataclass(frozen=True)
class HandlerResult:
    """The verdict on one handler of the implementation, run along all its paths."""

    report: HandlerReport
    place: Span | None

    def to_json(self) -> dict[str, Any]:
        handler, r = HANDLERS[self.report.name], self.report
        return {
            "name": r.name,
            "runs": handler.runs,
            "rules": handler.rules,
            "paths": r.paths,
            "proved": r.proved,
            "findings": list(r.findings),
            "seconds": round(r.seconds, 3),
        }

    def check(self) -> Check:
        """The text for reports."""
        handler, r = HANDLERS[self.report.name], self.report
        doc = f"{handler.runs} does as the rules of {handler.rules} say."
        said = f"{r.paths} paths: on each, status and state match the rules." if r.proved else "\n".join(r.findings)
        return Check(
            "refine", r.name, Status.PASSED if r.proved else Status.FAILED, said, doc, self.place, seconds=r.seconds
        )


@dataclass(frozen=True)
class RefineResult:
    """A run over some handlers."""

    handlers: tuple[HandlerResult, ...]
    seconds: float
    format: ClassVar[str] = "bulkhead-refine/1"

    @property
    def good(self) -> bool:
        return all(h.report.proved for h in self.handlers)

    def to_json(self) -> dict[str, Any]:
        return {"format": self.format, "handlers": [h.to_json() for h in self.handlers], "seconds": round(self.seconds, 3)}

    def checks(self) -> tuple[Check, ...]:
        return tuple(h.check() for h in self.handlers)


def place_of(rules: str, places: Places) -> Span | None:
    """The place of a handler's rules: of the first step that it names, as in `map_grant_ref, .insert`."""
    return places.get(rules.partition(",")[0].strip())
