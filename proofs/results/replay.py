"""The result of `bulkhead replay`: differences from recordings of real Xen, or a trace that replays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from bulkhead.model.ir import System
from bulkhead.model.trace import Trace
from bulkhead.proofs.replay.driver import Recording
from bulkhead.proofs.results.prove import flow_of
from bulkhead.proofs.results.vocabulary import Check, Flow, Status


@dataclass(frozen=True)
class TraceResult:
    """A trace of the rules that replays on the executable model and makes its claim false; `text` is its log."""

    name: str
    system: System
    trace: Trace
    text: str

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "system": self.system.name,
            "faults": list(self.trace.faults),
            "claim": self.trace.claim,
            "steps": [e.label for e in self.trace.events],
        }

    def check(self) -> Check:
        """The text for reports."""
        claim = self.system.stated()[self.trace.claim]
        return Check(
            self.system.name,
            claim.name,
            Status.FOUND,
            f"{self.name} replays, and makes {claim.name} false.",
            claim.doc,
            claim.span,
            flow_of(self.system, self.trace),
        )


@dataclass(frozen=True)
class ReplayResult:
    """Recordings, or a trace."""

    files: tuple[Recording, ...] = ()
    traces: tuple[TraceResult, ...] = ()
    format: ClassVar[str] = "bulkhead-replay/1"

    @property
    def good(self) -> bool:
        return not any(f.differences for f in self.files)

    def to_json(self) -> dict[str, Any]:
        made: dict[str, Any] = {
            "format": self.format,
            "files": [
                {"name": f.name, "calls": f.calls, "differences": f.differences, "explained": f.explained}
                for f in self.files
            ],
        }
        return {**made, "traces": [t.to_json() for t in self.traces]} if self.traces else made

    def checks(self) -> tuple[Check, ...]:
        return (*map(_check, self.files), *(t.check() for t in self.traces))


def _check(recording: Recording) -> Check:
    said = f"{recording.calls} calls, {recording.differences} differences, {recording.explained} explained."
    return Check(
        "replay",
        recording.name,
        Status.FAILED if recording.differences else Status.PASSED,
        "\n".join([said, *recording.report]),
        "The implementation answers as real Xen did.",
        flow=tuple(Flow(line) for line in recording.report),
    )
