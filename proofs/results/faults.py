"""The result of `bulkhead faults`: faults of the rules and of the implementation, and whether each is noticed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

from bulkhead.model.diagnostics import Span
from bulkhead.model.ir import Fault as RulesFault
from bulkhead.proofs.faults.catalogue import Fault as ImplFault
from bulkhead.proofs.faults.of_rules import Noticed
from bulkhead.proofs.refinement.campaign import Report
from bulkhead.proofs.results.vocabulary import Check, Status


class Layer(StrEnum):
    """The layer over which a fault is laid."""

    RULES = "rules"
    IMPLEMENTATION = "implementation"


@dataclass(frozen=True)
class FaultResult:
    """One fault. `noticed` is None if it was only listed; `calls` counts calls until an implementation's fault showed.

    `where` is the system of a fault of the rules, or the function of a fault of the implementation; `breaks` and `step` are
    the declared claims and step that it breaks; `how` tells how it showed, or why it did not.
    """

    layer: Layer
    name: str
    doc: str
    where: str
    breaks: tuple[str, ...] = ()
    step: str = ""
    place: Span | None = None
    noticed: bool | None = None
    calls: int | None = None
    how: str = ""
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return {
            "layer": str(self.layer),
            "name": self.name,
            "doc": self.doc,
            "where": self.where,
            "breaks": list(self.breaks),
            "step": self.step or None,
            "noticed": self.noticed,
            "calls": self.calls,
            "how": self.how,
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True)
class FaultsResult:
    """Faults that were listed, or laid and hunted."""

    faults: tuple[FaultResult, ...]
    seconds: float
    format: ClassVar[str] = "bulkhead-faults/1"

    @property
    def good(self) -> bool:
        return not any(f.noticed is False for f in self.faults)

    def to_json(self) -> dict[str, Any]:
        return {"format": self.format, "faults": [f.to_json() for f in self.faults], "seconds": round(self.seconds, 3)}

    def checks(self) -> tuple[Check, ...]:
        return tuple(
            Check(
                f"faults of the {f.layer}",
                f.name,
                Status.FAILED if f.noticed is False else Status.PASSED,
                f"{f.name} ({f.where}): {f.how or 'listed'}",
                f.doc,
                f.place,
                seconds=f.seconds,
            )
            for f in self.faults
        )


def listed_rules(system: str, fault: RulesFault) -> FaultResult:
    """A fault of the rules of a system, not laid."""
    return FaultResult(Layer.RULES, fault.name, fault.doc, system, fault.breaks, fault.step, fault.span)


def listed_impl(fault: ImplFault) -> FaultResult:
    """A fault of the implementation, not laid."""
    return FaultResult(Layer.IMPLEMENTATION, fault.name, fault.why, fault.where)


def of_rules(system: str, found: Noticed) -> FaultResult:
    """A fault of the rules that was laid."""
    f = found.fault
    how = "; ".join([*(f"{c.event.label} breaks {c.claim}" for c in found.found), *found.missed])
    return FaultResult(
        Layer.RULES, f.name, f.doc, system, f.breaks, f.step, f.span, not found.missed, None, how, found.seconds
    )


def of_impl(fault: ImplFault, report: Report) -> FaultResult:
    """A fault of the implementation that was hunted."""
    failure = report.failure
    how = f"not noticed in {report.calls} calls" if failure is None else failure.what
    return FaultResult(
        Layer.IMPLEMENTATION,
        fault.name,
        fault.why,
        fault.where,
        noticed=failure is not None,
        calls=None if failure is None else failure.calls,
        how=how,
        seconds=report.seconds,
    )
