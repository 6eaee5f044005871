"""Chooses the next action from a seed: of DomB, tools and proxies, daemons, guests; honest and hostile.

All actions are calls to a target; the machine is read only through the view (../view.py). Not here: the end of an episode
(ending.py), and what each actor does (tools.py, guests.py, moments.py).
"""

from __future__ import annotations

import random

from bulkhead.impl.rings import pages as wire
from bulkhead.impl.xen.domains import ALIVE
from bulkhead.proofs.refinement.calls import Interleaving
from bulkhead.proofs.refinement.domb.guests import Guest
from bulkhead.proofs.refinement.domb.machine import Process
from bulkhead.proofs.refinement.domb.view import View
from bulkhead.proofs.refinement.domb.workload.chooser import Chooser
from bulkhead.proofs.refinement.domb.workload.guests import GuestChoices
from bulkhead.proofs.refinement.domb.workload.moments import DOMB, Moments
from bulkhead.proofs.refinement.domb.workload.sessions import Sessions
from bulkhead.proofs.refinement.domb.workload.store_talks import StoreTalks
from bulkhead.proofs.refinement.domb.workload.tools import ToolChoices
from bulkhead.proofs.refinement.domb.workload.users import UserChoices
from bulkhead.proofs.refinement.domb.world import DOMB as DOMB_ID
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
        self.users = UserChoices(view, target, self.rng)
        self.tools.domb = self.domb
        self.sessions = Sessions(view, target, self.rng, self.tools)
        self.talks = StoreTalks(view, target, self.rng, self.guests, self.tools)
        self.moments.scribble = self.scribble
        self.moments.rewrite = self.tools.rewrite
        self.moments.race = self.guests.race
        self.moments.waits = self.waits
        target.meanwhile = self.moments
        self.calls = 0  # moves
        self.neighbours = self.rng.random() < 0.4  # in four of ten episodes, guests live side by side
        self.quiet = self.neighbours and self.rng.random() < 0.75
        if self.quiet:  # DomB's calls do not fail, and most guests keep their grants and ports
            self.moments.trouble, self.moments.mortal = "", False
            self.guests.settled = True

    def scribble(self) -> None:
        """A tool or another process writes to what it has mapped."""
        if self.rng.random() < 0.7:
            self.tools.scribble()
        else:
            self.users.race()

    def move(self) -> None:
        """One action."""
        rng, view = self.rng, self.view
        self.calls += 1
        x = rng.random()
        free = view.free()
        if self.neighbours and free and rng.random() < 0.6:
            self._live_together(free)
        elif x < 0.22:
            self.domb()
        elif (len(view.processes) < MOST_PROCESSES and x < 0.28) or not view.processes:
            self.text = "a new process"
            self.call("", "spawn")
        elif x < 0.38:
            self._guests()
        elif 0.38 <= x < 0.46:
            self.users.act()
            self.text = self.users.text
        elif x < 0.5:
            self._daemons()
        elif x < 0.55 and free:
            self._of(self.tools, self.tools.ask_daemons, rng.choice(free))
        elif free and rng.random() < 0.16 and not any(each.busy for each in view.processes.values()):
            self._of(self.tools, self.sessions.act, rng.choice(free))
        elif free:
            self._of(self.tools, self.tools.act, rng.choice(free))
        if self.calls % CLAIMS_EVERY == 0:
            self.call("", "claims")

    def _live_together(self, free: list[Process]) -> None:
        """Guests that XenStore knows meet; now and then one of them ends, and another one gets its id."""
        rng, stored, who = self.rng, self.view.stored, self.rng.choice(free)
        running = self.view.running()
        heard = [g for g in running if stored is not None and g.domid in stored.connections]
        fresh = [g for g in running if g not in heard]
        others = [d for d in self.view.built if all(g.domid != d for g in heard)]
        x = rng.random()
        calm = [g for g in heard if stored is not None and self.guests.is_calm(stored.connections[g.domid])]
        if len(calm) >= 2 and x < 0.5:
            self._of(self.talks, lambda tool: self.talks.act(tool, calm), who)
        elif stored is not None and len(heard) > len(calm) < 2 and x < 0.5:
            self._connects_anew(who, heard)
        elif len(heard) >= 2 and x < 0.75:
            self.guests.meet(heard)
            self.text = self.guests.text
        elif 0.75 <= x < 0.85:
            self._of(self.tools, self.tools.share_node, who)
        elif len(heard) == 2 and x < 0.9:
            self._one_more(who, free)
        elif len(heard) >= 2:
            self._end_one(who, free, rng.choice(heard).domid)
        elif fresh and rng.random() < 0.5:
            self._connect(who, free, rng.choice(fresh))
        elif len(others) > 1:
            self._end_one(who, free, rng.choice(others))
        else:
            self._one_more(who, free)

    def _connect(self, who: Process, free: list[Process], guest: Guest) -> None:
        """XenStore gets to know a guest; one that it cannot map any more is ended."""
        self.tools.introduce(who, guest.domid)
        self.text = self.tools.text
        if self.view.stored is not None and guest.domid not in self.view.stored.connections:
            self._end_one(who, free, guest.domid)

    def _connects_anew(self, who: Process, heard: list[Guest]) -> None:
        """Guests whose requests XenStore does not take any more are released and introduced again."""
        for each in heard:
            self.tools.release(who, each.domid)
            self.tools.introduce(who, each.domid)
        self.text = "a tool connects guests anew"

    def _one_more(self, who: Process, free: list[Process]) -> None:
        """xl has a guest built and tells the daemons."""
        if self.view.consoled is None:
            self.call("", "start_xenconsoled")
        self._clear_the_way(free)
        self._of(self.tools, self.tools.build_small, who)

    def _clear_the_way(self, free: list[Process]) -> None:
        """Nobody holds the channel."""
        for each in [each for each in free if each.chan is not None]:
            self.tools.of(each, "disconnect")
        self.domb()

    def _end_one(self, who: Process, free: list[Process], domid: int) -> None:
        """A tool has a guest destroyed, before or after XenStore forgets it."""
        if self.rng.random() < 0.5:
            self.tools.release(who, domid)
        self._clear_the_way(free)
        self.tools.connect(who, self.view.offer)
        self.tools.end(who, domid)
        self.domb()
        self.tools.release(who, domid)
        self.text = f"a tool ends d{domid}"

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
        for who in [each for each in view.free() if each.mapped or (each.chan is not None and each.peer != DOMB_ID)]:
            self.tools.kill(who)
        self.users.end_mappers()
        free = view.free()
        if not free:
            return
        for domid in dead:  # xl tells the daemons that a guest is gone
            self.tools.ask_xenstored(free[0], wire.XS_RELEASE, b"%d\0" % domid)
            self.tools.of(free[0], "console_remove", dom=domid)

    def waits(self, space: int) -> None:
        """An honest tool waits: others act, and somebody may kill it."""
        rng, me = self.rng, self.view.processes[space]
        if self.view.somebody_waits_to_be_told and rng.random() < 0.08:
            self.tools.comes_first()
        if self.quiet and rng.random() < 0.9:
            self.domb()
            return
        if rng.random() < 0.01:
            self.tools.kill(me)
            return
        if rng.random() < 0.01:
            self.tools.spoils()
        if me.waiting and rng.random() < 0.3:
            self.tools.gives_way()
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
            how = self.rng.choice(("kill", "stop"))
            self.text = f"{how} of xenstored"
            self.call(f"p{stored.space}", how)
        elif x < 0.02 and consoled is not None:
            how = self.rng.choice(("kill", "stop"))
            self.text = f"{how} of xenconsoled"
            self.call(f"p{consoled.space}", how)
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
