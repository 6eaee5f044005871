"""What processes of Dom0 that are no tools do: gntdev, gntalloc and event channels, forks, kills, and tries of privcmd.

The choice of their calls is that of the campaign on `monolithic` (../../workload), without privcmd: a process only tries to
open it. Not here: how the calls are made (../users.py).
"""

from __future__ import annotations

import random
from typing import Final

from bulkhead.proofs.refinement.calls import Interleaving
from bulkhead.proofs.refinement.dom0.state import Proc
from bulkhead.proofs.refinement.domb.view import View
from bulkhead.proofs.refinement.domb.workload.chooser import Chooser
from bulkhead.proofs.refinement.workload import (
    dom0,
    dom0_changes,
    dom0_copies,
    dom0_evtchn,
    dom0_gntalloc,
    dom0_gntdev,
)
from bulkhead.proofs.refinement.workload.caller import Caller, Move

WEIGHTS: Final[tuple[tuple[float, Move], ...]] = (
    (9, dom0.a_file),
    (4, dom0.close),
    (0.5, dom0.setuid),
    (3, dom0.store),
    *dom0_gntdev.MOVES,
    *dom0_copies.MOVES,
    *dom0_changes.MOVES,
    *dom0_gntalloc.MOVES,
    *dom0_evtchn.MOVES,
    (1.5, dom0_evtchn.reset),
)


class UserChoices(Chooser):
    """All of them on one machine."""

    def __init__(self, view: View, target: Interleaving, rng: random.Random) -> None:
        super().__init__(view, target, rng)
        self.caller = Caller(view.users, target, rng)
        self.first = view.free_spaces[0] - 1  # the process that never ends

    def act(self) -> None:
        """Some moves of one of them."""
        rng, users = self.rng, [p for p in self.view.users.processes.values() if p.space != self.first]
        if not users or (len(users) < 2 and rng.random() < 0.3):
            self._begins()
            return
        for _ in range(rng.choice((2, 5, 10, 16))):
            self._act_of(rng.choice(users))
            users = [p for p in users if p.space in self.view.users.processes]
            if not users:
                return

    def _act_of(self, who: Proc) -> None:
        x = self.rng.random()
        if x < 0.015:
            self._forks(who)
        elif x < 0.03:
            self.kill(who)
        else:
            self.text = f"p{who.space}: {self._moves(who)}"

    def race(self) -> None:
        """One of them writes to what it has mapped."""
        users = [p for p in self.view.users.processes.values() if p.slots]
        if users:
            who = self.rng.choice(users)
            self.caller.call(who, "store", page=self.rng.choice(list(who.slots)))

    def kill(self, who: Proc) -> None:
        """kill -9."""
        self.text = f"kill -9 of p{who.space}"
        dom0.leave(self.caller, who)

    def end_mappers(self) -> None:
        """Those that map what others granted are killed: they keep dead guests."""
        for who in [p for p in self.view.users.processes.values() if any(s.kind == "grant" for s in p.slots.values())]:
            self.kill(who)

    def end(self) -> None:
        """All are killed."""
        for who in [p for p in self.view.users.processes.values() if p.space != self.first]:
            self.kill(who)

    def _moves(self, who: Proc) -> str:
        self.caller.current = who
        if not who.fds and self.rng.random() < 0.8:
            return dom0.a_file(self.caller, who)
        move = self.rng.choices([m for _, m in WEIGHTS], [weight for weight, _ in WEIGHTS])[0]
        return move(self.caller, who)

    def _space(self) -> int | None:
        return next((s for s in self.view.free_spaces if s not in self.view.users.processes), None)

    def _begins(self) -> None:
        """A new process, which usually drops root privileges."""
        self.text = "a new process of Dom0"
        child = self._space()
        if child is None:
            return
        self.caller.call(self.view.users.processes[self.first], "fork", child=child)
        if self.rng.random() < 0.7:
            dom0.setuid(self.caller, self.view.users.processes[child])

    def _forks(self, who: Proc) -> None:
        """A fork: the child has its files, and maps its own pages."""
        child = self._space()
        if child is not None:
            self.text = f"p{who.space} forks"
            self.caller.call(who, "fork", child=child)


__all__ = ["UserChoices"]
