"""Shortest attacks by bounded model checking: all calls, one step more at a time, for as long as the effort lasts.

How far it gets depends on the system and the claim, so its effort is bounded, by conflicts of the solver and by the size
of what is asked, and not its depth. Not here: the encoding (`unrolling.py`); other searches (`attack.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

from bulkhead.model.ir import Claim, System
from bulkhead.model.trace import Trace
from bulkhead.proofs.theorems.unrolling import Unrolling

QUICK = 4_000  # conflicts of one question, under a second
PATIENCE = 60_000  # conflicts, ten seconds or so
TOGETHER = 5  # times as many conflicts for all questions of one run, beside one for each claim
LARGEST = 400_000  # gates: of one session, before its last step
MISSES = 3  # lengths of attacks for which the effort does not suffice, one after the other: then a claim is given up


@dataclass
class Bounded:
    """A search of all calls for attacks on some claims, which can be continued with more effort."""

    system: System
    sizes: dict[str, int]
    claims: Mapping[str, Claim]
    limit: float = math.inf
    labels: Collection[str] | None = None  # of the outcomes to take; default: all
    excluded: dict[str, int] = field(default_factory=dict)  # for each claim, the steps up to which it has no attack

    def __post_init__(self) -> None:
        two_state = any(c.kind == "transition" for c in self.claims.values())
        self.unrolled = Unrolling(self.system, two_state, self.sizes, self.limit)
        if self.labels is not None:
            self.unrolled.transitions = [t for t in self.unrolled.transitions if t.label in self.labels]
        self.hard: dict[str, list[int]] = {}  # for each claim, the lengths of attacks for which the effort did not suffice

    def run(self, most: int | None, conflicts: int, one: bool, asked: Callable[[], Collection[str]]) -> dict[str, Trace]:
        """Attacks of at most so many steps on the claims `asked` for; with `one`, the search ends with the first.

        `conflicts` bounds each question; all questions together, and the size of the session, are bounded, too.
        """
        end = self.unrolled.gates.spent() + (TOGETHER + len(asked())) * conflicts
        self.unrolled.effort(conflicts)
        self.hard.clear()
        found: dict[str, Trace] = {}
        while True:
            depth = self.unrolled.depth
            wanted = [n for n in asked() if n not in found and len(self.hard.get(n, ())) < MISSES]
            for name in wanted:
                if self.unrolled.gates.spent() > end:
                    return found
                trace = self._attack(name)
                if trace is not None:
                    found[name] = trace
                    if one:
                        return found
            if all(n in found or len(self.hard.get(n, ())) >= MISSES for n in wanted) or (
                most is not None and depth >= most
            ):
                return found
            if self.unrolled.gates.count > LARGEST:
                return found
            self.unrolled.deepen()

    def _attack(self, name: str) -> Trace | None:
        """An attack on a claim by the steps so far; None if there is none, or if that takes more effort.

        It is a shortest one, unless a length took more effort: that there is none is often harder to say than to find a
        longer one.
        """
        hard = self.hard.setdefault(name, [])
        for depth in range(self.excluded.get(name, -1) + 1, self.unrolled.depth + 1):
            if depth in hard:
                continue
            answer = self.unrolled.answer([self.claims[name]], depth)
            if answer == "sat":
                return replace(self.unrolled.decode((), name), excluded=self.excluded.get(name, -1))
            if answer != "unsat":
                hard.append(depth)
                if len(hard) >= MISSES:
                    return None
            elif not hard:
                self.excluded[name] = depth
        return None


def shorter_by_calls(
    system: System, claim: Claim, trace: Trace, sizes: dict[str, int], limit: float, conflicts: int, same: bool
) -> tuple[Trace | None, int]:
    """A shorter attack in a world from any initial state, by all calls or, if `same`, by those of a trace; and the number of
    steps up to which there is none of that kind."""
    labels = {e.label for e in trace.events} if same else None
    search = Bounded(system, sizes, {claim.name: claim}, limit, labels)
    found = search.run(len(trace.events) - 1, conflicts, True, lambda: (claim.name,))
    return found.get(claim.name), search.excluded.get(claim.name, -1)


__all__ = ["LARGEST", "PATIENCE", "QUICK", "Bounded", "shorter_by_calls"]
