"""The result of `bulkhead explore`: the number and depth of a small world's states, and the claims true in all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from bulkhead.model.ir import System
from bulkhead.proofs.results.prove import flow_of
from bulkhead.proofs.results.vocabulary import Check, Status
from bulkhead.proofs.theorems.explore import Exploration


@dataclass(frozen=True)
class ExploreResult:
    """One search of a small world. It says nothing about larger worlds or about states that were not visited."""

    system: System
    faults: tuple[str, ...]
    claims: tuple[str, ...]
    found: Exploration
    graph: str = ""  # the file of a picture of the states
    note: str = ""
    format: ClassVar[str] = "bulkhead-explore/1"

    @property
    def good(self) -> bool:
        """Was the search complete, with an initial state, and no violation of a claim that is expected to be proved?"""
        return (
            not self.stopped_early
            and self.found.states > 0
            and all(self.system.expects.get(n) == "refuted" for n in self.found.attacks)
        )

    @property
    def stopped_early(self) -> bool:
        return bool(self.found.stopped) and not self.found.complete

    def to_json(self) -> dict[str, Any]:
        f = self.found
        return {
            "format": self.format,
            "system": self.system.name,
            "faults": list(self.faults),
            "world": f.sizes,
            "states": f.states,
            "initial": f.initial,
            "steps": f.taken,
            "depth": f.depth,
            "levels": list(f.levels),
            "complete": f.complete,
            "stopped": f.stopped,
            "never": list(f.never),
            "final": f.final,
            "to_final": None if f.to_final is None else [e.label for e in f.to_final.events],
            "renamings": f.renamings,
            "hidden": f.hidden,
            "broken": {n: [e.label for e in t.events] for n, t in f.attacks.items()},
            "claims": list(self.claims),
            "graph": self.graph or None,
            "seconds": round(f.seconds, 4),
        }

    def checks(self) -> tuple[Check, ...]:
        known = self.system.stated()
        out = []
        for name in self.claims:
            claim, trace = known[name], self.found.attacks.get(name)
            if trace is None:
                status = Status.PASSED if self.found.complete and self.found.states else Status.OPEN
                said = f"{name} holds in all {self.found.states} visited states."
            else:
                status = Status.FOUND if self.system.expects.get(name) == "refuted" else Status.FAILED
                said = f"{name} is false after {len(trace.events)} steps."
            out.append(
                Check(
                    self.system.name,
                    name,
                    status,
                    said,
                    claim.doc,
                    claim.span,
                    () if trace is None else flow_of(self.system, trace),
                    self.found.seconds,
                )
            )
        return tuple(out)


__all__ = ["ExploreResult"]
