"""Evaluates a system's claims on every snapshot of a booting machine, and records the first violation of each.

impl/boot.py calls `Watcher` before each logged step and once at the end. Not here: the abstraction
of the machine (snapshot.py), and texts, except that of a violation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from bulkhead.impl.boot import BootedSystem
from bulkhead.model.ir import Claim, System
from bulkhead.model.narrow import parts
from bulkhead.model.world import State
from bulkhead.proofs.refinement.booted.elements import Elements, Size, TooMuch
from bulkhead.proofs.refinement.booted.snapshot import Snapshots

STEP = "it is about a step, not about a state"
IN_FLIGHT = "it is about calls in flight, and none is between two steps that are shown"
BYTES = "whose bytes are in a page or a buffer cannot be read off the machine"
WHO = "who commanded what is not kept by the machine"
POLICY = "a boot has the policy that allows all"
STORE = "XenStore's nodes are not read off"
LEFT_OUT: Final[Mapping[str, str]] = {
    "batch_elements_checked": IN_FLIGHT,
    "copies_by_policy": IN_FLIGHT,
    "dom0_copies_by_policy": IN_FLIGHT,
    "copies_by_title": IN_FLIGHT,
    "clean_handover": BYTES,
    "rings_show_no_guest": BYTES,
    "checked_bytes_stay": BYTES,
    "checked_before_created": BYTES,
    "loaded_was_checked": BYTES,
    "loaded_was_read_for_the_guest": BYTES,
    "domctls_by_privilege": WHO,
    "mappings_by_policy": POLICY,
    "events_by_policy": POLICY,
    "events_by_invitation": "for whom a port was opened is not kept once it is bound",
    "right_ends_with_the_build": "the builder's right is a ghost: a snapshot gives it by this very rule",
}

MANY: Final = 8  # maximum of guests; with more, evaluating all claims after each step takes minutes


def left_out(system: System) -> dict[str, str]:
    """Theorems that cannot be evaluated on a snapshot, with the reason."""
    out = dict.fromkeys(system.step_claims, STEP)
    out |= {name: STORE for name in system.theorems if name.startswith("xenstore_") and name not in out}
    return out | {name: why for name, why in LEFT_OUT.items() if name in system.theorems and name not in out}


def evaluated(system: System) -> dict[str, Claim]:
    """The theorems that are evaluated."""
    without = left_out(system)
    return {name: claim for name, claim in system.theorems.items() if name not in without}


@dataclass(frozen=True)
class Fall:
    """A violated claim, the first logged step after which it is false (0: before all), and the facts then."""

    claim: str
    step: int
    expected: bool
    seen: str = ""


@dataclass(frozen=True)
class Watched:
    """The result for a boot: the numbers of claims and steps, and the violated claims."""

    claims: int
    steps: int
    falls: tuple[Fall, ...]
    left_out: tuple[tuple[str, str], ...] = ()
    stopped: str = ""  # the reason if not all steps could be evaluated
    every: int = 1  # claims are evaluated after every step, or with many guests after every so many

    @property
    def good(self) -> bool:
        """Was every step evaluated, with no violation of a proved claim?"""
        return not self.stopped and all(fall.expected for fall in self.falls)


class Watcher:
    """Evaluates the claims each time it is called. `guests` is the number of guests to come."""

    def __init__(self, system: str, guests: int) -> None:
        self.elements = Elements(system, Size(guests))
        self.snapshots = Snapshots(self.elements)
        self.claims = evaluated(self.elements.system)
        self.standing = {name: tuple(parts(claim.body)) for name, claim in self.claims.items()}
        self.stopped = ""
        self.falls: list[Fall] = []
        self.every = max(1, (guests // MANY) ** 2)
        self.calls = 0
        self.last: State | None = None

    def __call__(self, machine: BootedSystem) -> None:
        """Evaluate the claims between two steps."""
        if self.stopped:
            return
        try:
            state = self.snapshots.take(machine)
        except TooMuch as error:
            self.stopped = str(error)
            return
        if state != self.last and not self.calls % self.every:
            self.last = state
            for name, claim in list(self.standing.items()):
                if not all(self.elements.machine.holds(state, part) for part in claim):
                    del self.standing[name]
                    expected = self.elements.system.expects.get(name) == "refuted"
                    self.falls.append(Fall(name, self.calls, expected, next(iter(self.snapshots.strangers), "")))
        self.calls += 1

    def result(self) -> Watched:
        """The result so far."""
        return Watched(
            len(self.claims),
            self.calls - 1,
            tuple(self.falls),
            tuple(left_out(self.elements.system).items()),
            self.stopped,
            self.every,
        )


__all__ = ["Fall", "Watched", "Watcher", "evaluated", "left_out"]
