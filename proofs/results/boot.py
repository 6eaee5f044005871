"""The result of `bulkhead boot`: guests that came up, who can reach what, and whether all is back when they have gone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from bulkhead.impl.boot import BootLog
from bulkhead.impl.tools.xenconsoled import printable
from bulkhead.proofs.results.vocabulary import Check, Status


@dataclass(frozen=True)
class BootResult:
    """One boot. `graph` is where the picture of who can reach what was written; `note` says why it is none."""

    log: BootLog
    seconds: float
    graph: str = ""
    note: str = ""
    format: ClassVar[str] = "bulkhead-boot/1"

    @property
    def good(self) -> bool:
        return not self.log.left_behind

    def to_json(self) -> dict[str, Any]:
        log = self.log
        return {"format": self.format, "system": log.system, "seed": log.seed,
                "steps": [{"who": s.who, "whom": s.whom, "what": s.what} for s in log.steps],
                "guests": [{"name": g.name, "domid": g.domid, "pages": g.pages, "console": printable(g.console),
                            "state": printable(g.state)} for g in log.guests],
                "reach": [{"who": r.who, "by": r.by, "owner": r.owner, "frames": len(r.frames), "writable": r.writable}
                          for r in log.reach],
                "left_behind": list(log.left_behind), "graph": self.graph or None, "seconds": round(self.seconds, 3)}

    def checks(self) -> tuple[Check, ...]:
        group = f"boot {self.log.system}"
        guests = [Check(group, g.name, Status.PASSED, f"{g.name} is domain {g.domid} and has {g.pages} pages.",
                        "The guest is created and comes up.") for g in self.log.guests]
        back = Check(group, "all_is_back", Status.FAILED if self.log.left_behind else Status.PASSED,
                     "; ".join(self.log.left_behind) or "Every frame, handle and port is back.",
                     "When the guests have been destroyed, the system is as it was before.", seconds=self.seconds)
        return (*guests, back)
