"""Chooses the next action from a seed: of DomB, tools and proxies, daemons, guests; honest and hostile.

All actions are calls to a target; the machine is read only through the view (../view.py). Not here: the end of an episode
(ending.py), and what each actor does (tools.py, guests.py, moments.py).
"""

from __future__ import annotations

import random

from bulkhead.impl.rings import pages as wire
from bulkhead.impl.xen.domains import ALIVE
from bulkhead.proofs.refinement.calls import Interleaving
from bulkhead.proofs.refinement.domb.machine import Process
from bulkhead.proofs.refinement.domb.view import View
from bulkhead.proofs.refinement.domb.workload.chooser import Chooser
from bulkhead.proofs.refinement.domb.workload.guests import GuestChoices
from bulkhead.proofs.refinement.domb.workload.moments import DOMB, Moments
from bulkhead.proofs.refinement.domb.workload.tools import ToolChoices
from bulkhead.proofs.refinement.domb.world import NOBODY

MOST_PROCESSES = 4
CLAIMS_EVERY = 24


class Driver(Chooser):
    """All actors of one machine."""

    def __init__(self, view: View, target: Interleaving, seed: int) -> None:
        super().__init__(view, target, random.Random(seed))
        self.moments = Moments(view, target, self.rng)
        self.tools = ToolChoices(view, target, self.rng)
        self.guests = GuestChoices(view, target, self.rng)
        self.tools.domb = self.domb
        self.moments.scribble = self.tools.scribble
        self.moments.race = self.guests.race
        self.moments.waits = self.waits
        target.meanwhile = self.moments
        self.calls = 0  # moves

    def move(self) -> None:
        """One action."""
        rng, view = self.rng, self.view
        self.calls += 1
        x = rng.random()
        free = view.free()
        if x < 0.22:
            self.domb()
        elif (len(view.processes) < MOST_PROCESSES and x < 0.28) or not view.processes:
            self.text = "a new process"
            self.call("", "spawn")
        elif x < 0.38:
            self._guests()
        elif x < 0.42:
            self._daemons()
        elif x < 0.47 and free:
            self._of(self.tools, self.tools.ask_daemons, rng.choice(free))
        elif free:
            self._of(self.tools, self.tools.act, rng.choice(free))
        if self.calls % CLAIMS_EVERY == 0:
            self.call("", "claims")

    def _of(self, actor: Chooser, act: object, who: Process) -> None:
        assert callable(act)
        act(who)
        self.text = actor.text

    def domb(self) -> None:
        """DomB takes a step."""
        if not self.view.up or self.view.in_domb:
            return
        self.text = "DomB takes a step"
        self._make_room()
        self.call(DOMB, "step")

    def _make_room(self) -> None:
        """Keep ids available: kill processes that map pages of zombies when there are many zombies."""
        view = self.view
        dead = [d for d, domain in view.domains.items() if domain.is_dying != ALIVE]
        if len(view.domains) < NOBODY - 1 or not dead:
            return
        for who in [each for each in view.free() if each.mapped]:
            self.tools.kill(who)
        free = view.free()
        if not free:
            return
        for domid in dead:  # xl tells the daemons that a guest is gone
            self.tools.ask_xenstored(free[0], wire.XS_RELEASE, b"%d\0" % domid)
            self.tools.of(free[0], "console_remove", dom=domid)

    def waits(self, space: int) -> None:
        """An honest tool waits: others act, and somebody may kill it."""
        rng, me = self.rng, self.view.processes[space]
        if rng.random() < 0.01:
            self.tools.kill(me)
            return
        for _ in range(rng.choice((1, 1, 2, 3))):
            if rng.random() < 0.12:
                self.move()
            else:
                self.domb()
        if self.view.somebody_waits_to_be_told and rng.random() < 0.15:
            self.tools.kill(me)

    def _guests(self) -> None:
        """Guests that run do what they like, some things one after the other, and the daemons look now and then."""
        for _ in range(self.rng.choice((2, 6, 12, 20)) if self.view.running() else 1):
            self.guests.act()
            self.text = self.guests.text
            if self.rng.random() < 0.5:
                self.calls += 1
                self._daemons()

    def _daemons(self) -> None:
        """The daemons look at their rings; now and then one of them is killed."""
        x, stored, consoled = self.rng.random(), self.view.stored, self.view.consoled
        if self.moments.mortal and x < 0.01 and stored is not None:
            self.text = "kill -9 of xenstored"
            self.call(f"p{stored.space}", "kill")
        elif x < 0.02 and consoled is not None:
            self.text = "kill -9 of xenconsoled"
            self.call(f"p{consoled.space}", "kill")
        elif consoled is None:
            self.text = "xenconsoled starts again"
            self.call("", "start_xenconsoled")
        elif x < 0.6:
            self.text = "xenstored serves its rings"
            if stored is not None:
                self.call(f"p{stored.space}", "serve")
        else:
            self.text = "xenconsoled serves its rings"
            self.call(f"p{consoled.space}", "serve")


__all__ = ["Driver"]
