"""The result of `bulkhead boot`: guests that came up, who can reach what, which claims hold, and leaked resources."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from bulkhead.impl.boot import BootLog
from bulkhead.impl.tools.xenconsoled import printable
from bulkhead.proofs.refinement.booted.claims import Watched
from bulkhead.proofs.results.vocabulary import Check, Status


@dataclass(frozen=True)
class BootResult:
    """One boot, and the system's claims on it. `graph` is the file with the picture of who can reach what; `note` says
    why there is none."""

    log: BootLog
    watched: Watched
    seconds: float
    graph: str = ""
    note: str = ""
    format: ClassVar[str] = "bulkhead-boot/1"

    @property
    def good(self) -> bool:
        return not self.log.left_behind and self.watched.good

    def to_json(self) -> dict[str, Any]:
        log = self.log
        return {
            "format": self.format,
            "system": log.system,
            "seed": log.seed,
            "steps": [{"who": s.who, "whom": s.whom, "what": s.what} for s in log.steps],
            "guests": [
                {
                    "name": g.name,
                    "domid": g.domid,
                    "pages": g.pages,
                    "console": printable(g.console),
                    "state": printable(g.state),
                }
                for g in log.guests
            ],
            "reach": [
                {"who": r.who, "by": r.by, "owner": r.owner, "frames": len(r.frames), "writable": r.writable}
                for r in log.reach
            ],
            "claims": {
                "evaluated": self.watched.claims,
                "steps": self.watched.steps,
                "every": self.watched.every,
                "stopped": self.watched.stopped or None,
                "fallen": [
                    {"claim": f.claim, "after_step": f.step, "expected": f.expected, "seen": f.seen}
                    for f in self.watched.falls
                ],
                "left_out": [{"claim": name, "why": why} for name, why in self.watched.left_out],
            },
            "left_behind": list(log.left_behind),
            "graph": self.graph or None,
            "seconds": round(self.seconds, 3),
        }

    def checks(self) -> tuple[Check, ...]:
        group = f"boot {self.log.system}"
        guests = [
            Check(
                group,
                g.name,
                Status.PASSED,
                f"{g.name} is domain {g.domid} and has {g.pages} pages.",
                "The guest is created and comes up.",
            )
            for g in self.log.guests
        ]
        back = Check(
            group,
            "all_is_back",
            Status.FAILED if self.log.left_behind else Status.PASSED,
            "; ".join(self.log.left_behind) or "Every frame, handle and port is back.",
            "When the guests have been destroyed, the system is as it was before.",
            seconds=self.seconds,
        )
        return (*guests, *self._claims(group), back)

    def _claims(self, group: str) -> tuple[Check, ...]:
        watched = self.watched
        doc = "Theorems hold on the abstraction of the machine after every step that is shown."
        falls = [
            Check(
                group,
                f.claim,
                Status.FOUND if f.expected else Status.FAILED,
                f"{f.claim} is violated after step {f.step}." + (f" Then {f.seen}." if f.seen else ""),
                doc,
            )
            for f in watched.falls
        ]
        held = f"{watched.claims - len(watched.falls)} claims hold after all {watched.steps} steps."
        rest = Check(group, "claims_hold", Status.OPEN if watched.stopped else Status.PASSED, watched.stopped or held, doc)
        return (*falls, rest)
