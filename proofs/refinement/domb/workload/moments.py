"""What happens within a call: others write between two loads of DomB or of a daemon, DomB's calls fail, it dies.

Each episode has one kind of failure, so that all else succeeds. Also, no guest is made that the rules' world has no domain
for: then its creation fails, as it would for want of memory. Not here: whole calls (scheduler.py).
"""

from __future__ import annotations

import random
from collections.abc import Callable

from bulkhead.impl.domb import protocol as p
from bulkhead.impl.xen import abi
from bulkhead.proofs.refinement.calls import Interleaving
from bulkhead.proofs.refinement.domb.machine import (
    DAEMON,
    FAIL,
    INDEX_FROM_DOMB,
    INDEX_TO_DOMB,
    LOAD,
    MESSAGE,
    STEP,
    TAKEN,
    WAIT,
    Moment,
)
from bulkhead.proofs.refinement.domb.view import View
from bulkhead.proofs.refinement.domb.workload.chooser import Chooser

DOMB = "d1"
# How often DomB dies between a message and its handling, in episodes in which it dies: with few such messages, more often.
CRASHES = {str(p.PAUSE): 0.05, str(p.UNPAUSE): 0.05, str(p.DESTROY): 0.05, str(p.INFO): 0.2}
# How often a client changes what DomB has just loaded, before it loads it again. An index that it takes back is put right by
# its next message, one that it moves forth ends the connection.
AGAIN = {MESSAGE: 0.04, INDEX_FROM_DOMB: 0.006, INDEX_TO_DOMB: 0.002}
CREATES = "create"  # the step of a build in which a guest comes into being: no other call makes one


class Moments(Chooser):
    """Decides at each moment of a call. `scribble` and `race` are writes of a process and of a guest, `rewrite` one to
    what DomB has just loaded of its channel, `waits` what is done while an honest tool waits."""

    def __init__(self, view: View, target: Interleaving, rng: random.Random) -> None:
        super().__init__(view, target, rng)
        # In most episodes DomB's calls fail: while it builds, answers requests, or offers its channel.
        self.trouble = rng.choice(("", "", "build", "build", "build", "control", "offer"))
        self.mortal = rng.random() < 0.25  # in a quarter DomB dies at some point
        self.over = False
        self.hurt = False  # a call failed since DomB last had no build
        self.scribble: Callable[[], None] = lambda: None
        self.rewrite: Callable[[str], None] = lambda what: None
        self.race: Callable[[], None] = lambda: None
        self.waits: Callable[[int], None] = lambda space: None

    def peace(self) -> None:
        """From now on nothing fails, nobody dies, and nobody writes in between: who still calls is honest."""
        self.trouble, self.mortal, self.over = "", False, True

    def __call__(self, moment: Moment) -> None:
        kind = moment.kind
        if kind == STEP and moment.what == CREATES and self.view.full:
            self._at(moment, lambda: self._fail(abi.ENOMEM))
            return
        if self.over:
            if kind == WAIT:
                self._at(moment, self._answer)
            return
        if kind == LOAD:
            if moment.what in AGAIN and self.rng.random() < AGAIN[moment.what]:
                self._at(moment, lambda: self.rewrite(moment.what))
            elif self.rng.random() < 0.003:
                self._at(moment, self.scribble)
        elif kind == DAEMON:
            if self.rng.random() < 0.006:
                self._at(moment, self.race)
        elif kind == FAIL:
            self._may_fail(moment)
        elif kind == STEP:
            if self.mortal and self.rng.random() < 0.01:
                self._at(moment, self._crash)
            elif self.trouble == "build" and self.rng.random() < 0.01:
                self.hurt = True
                self._at(moment, lambda: self._fail(abi.EIO))
        elif kind == TAKEN:
            if self.rng.random() < 0.003:
                self._at(moment, self.scribble)
            if self.mortal and self.rng.random() < CRASHES.get(moment.what, 0.02):
                self._at(moment, self._crash)
        elif kind == WAIT:
            self._at(moment, lambda: self.waits(int(moment.what)))

    def _at(self, moment: Moment, act: Callable[[], None]) -> None:
        """Calls within a call begin with its moment."""
        self.call("", "moment", number=moment.number)
        act()

    def _answer(self) -> None:
        self.call(DOMB, "step")

    def _crash(self) -> None:
        self.call(DOMB, "crash")

    def _fail(self, errno: int) -> None:
        self.call(DOMB, "fail", errno=errno)

    def _may_fail(self, moment: Moment) -> None:
        if self.mortal and self.rng.random() < 0.002:
            self._at(moment, self._crash)
        elif self.trouble and self.rng.random() < self._rate(moment.what):
            self.hurt = True
            self._at(moment, lambda: self._fail(abi.ENOMEM))

    def _rate(self, what: str) -> float:
        """The failure rate of such a call now."""
        if self.view.failing:
            return 0.5
        if what == "unmap" and self.hurt and self.view.building:
            return 0.6  # a rollback that cannot unmap a page must not go on
        if self.view.building:
            return 0.25 if self.hurt else 0.012 if self.trouble == "build" else 0.0
        self.hurt = False
        if self.trouble == "control" and any(built.abandoned for built in self.view.built.values()):
            return 0.5  # so that it must be tried again
        if what in ("share", "grant"):
            return 0.1 if self.trouble == "offer" else 0.0
        return 0.25 if self.trouble == "control" else 0.0


__all__ = ["Moments"]
