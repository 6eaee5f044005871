"""Chooses the next action from a seed: of guests, Dom0's processes, the toolstack; or the next call in flight to advance.

All actions are calls to a target; it reads the machine only through the view (../view.py).
"""

from __future__ import annotations

import random

from bulkhead.impl.xen.scheduler import HELD
from bulkhead.model.caller import OKAY
from bulkhead.proofs.refinement.calls import NOT_DONE, TOOLSTACK, Answer, Call, Interleaving
from bulkhead.proofs.refinement.lockstep.call import CallInFlight
from bulkhead.proofs.refinement.lockstep.testbed import FEWEST, Guest
from bulkhead.proofs.refinement.view import View
from bulkhead.proofs.refinement.workload import by_itself, dom0
from bulkhead.proofs.refinement.workload.caller import Caller
from bulkhead.proofs.refinement.workload.guests import GuestCalls
from bulkhead.proofs.refinement.workload.parts import copied_by_reserved, in_part
from bulkhead.proofs.refinement.workload.passed_on import offer_page
from bulkhead.proofs.refinement.workload.the_past import ids_of_the_dead, map_again, maps_of_the_past

MOST_FLIGHTS = 3
OFFERED, DIES_MEANWHILE = 0.5, 0.25  # of transfers, and of the takers of these
COMPARE = Call("compare", "")
FLUSH_ALL = Call("flush_all", "")
END = Call("end", "")


class Driver(GuestCalls):
    """All actors of one machine."""

    def __init__(self, view: View, target: Interleaving, seed: int) -> None:
        super().__init__(view, target, random.Random(seed))
        self.aside = random.Random(f"{seed} aside")  # chooses what leaves all as it is
        target.meanwhile = self.interleave
        self.dom0 = Caller(view, target, self.rng)
        self.own: CallInFlight | None = None  # a call of Dom0's kernel, which continues after the others' turn

    # One move.

    def move(self) -> None:
        """Start a call, store something, or advance a call in flight."""
        view, rng = self.view, self.rng
        if self._go_on():
            return
        if rng.random() < 0.22:
            text = dom0.move(self.dom0)
            if text:
                self.text = f"dom0: {text}"
                self.target.carry_out(COMPARE)
            return
        guests = list(view.guests.values())
        if not guests or (len(guests) < 3 and rng.random() < 0.1):
            again = ids_of_the_dead(view)
            free = again if again and rng.random() < 0.7 else [d for d in (1, 2, 3) if d not in view.guests]
            domid = rng.choice(free)
            self.text = f"createdomain d{domid}"
            made = Call(
                "createdomain",
                TOOLSTACK,
                {
                    "domid": domid,
                    "max_maptrack": rng.choice((1, 1, 1, 0)),
                    "greedy": rng.random() < 0.25,
                    "pvh": rng.random() < 0.4,
                },
            )
            if self._create(made).code != OKAY and not guests:
                self.finish_calls()
            return
        self._guest_move(guests)

    def _create(self, made: Call) -> Answer:
        """Build a guest. If only stale TLB entries of its last owner keep an id in use, they are flushed first."""
        domid = made.arguments["domid"]
        if self.view.id_is_held(domid) and self.view.free_frames() >= FEWEST:
            self.target.carry_out(FLUSH_ALL)
            if self.view.id_is_held(domid) and domid not in self.view.domains:
                return NOT_DONE
        return self.target.carry_out(made)

    def advance(self, f: CallInFlight) -> None:
        """Let a call in flight take its next step."""
        self.target.carry_out(Call("advance", "", {"call": f.number}))

    def _others(self) -> list[CallInFlight]:
        """Calls in flight that may be advanced now."""
        return [f for f in self.view.flights if f is not self.own]

    def _go_on(self) -> bool:
        """Advance a call in flight, if one must or by chance."""
        rng = self.rng
        flights = self._others()
        if not flights:
            return False
        holder = next((f for f in flights if f.marker in HELD or f.must_finish_first), None)
        if holder is not None:
            if not holder.must_finish_first and rng.random() < 0.25:
                self.hostile_store()
            self.advance(holder)
            return True
        if len(flights) >= MOST_FLIGHTS or rng.random() < 0.55:
            f = flights[int(rng.random() * len(flights))]
            self.text = f"{f.text} (from {f.marker or 'its start'})"
            self.advance(f)
            return True
        return False

    def _guest_move(self, guests: list[Guest]) -> None:
        """An action that a guest starts, or that affects it."""
        view, rng = self.view, self.rng
        guest = guests[int(rng.random() * len(guests))]
        domain = guest.domain
        chance = rng.random()
        past = maps_of_the_past(view, domain) if chance < 0.3 else []
        if domain.crashed or chance < 0.004 or (past and chance < 0.2):
            if self.own is None:
                self.life(guest)
            return
        if domain.is_dying or domain.pause_count:
            if domain.pause_count and not domain.is_dying and rng.random() < 0.5 and self.own is None:
                self.text = f"unpause d{guest.domid}"
                self.target.carry_out(Call("unpausedomain", TOOLSTACK, {"domid": guest.domid}))
            return
        busy = {f.vcpu for f in view.flights if f.domid == guest.domid and f.guest is not None}
        vcpu = 0 if 0 not in busy else 1
        if vcpu in busy:
            return
        by_itself.now_and_then(self.aside, view, self.target, guest, vcpu)
        if past:
            self.unmap(guest, vcpu, past[0])
            return
        if chance < 0.1 and map_again(self, guest):
            return
        if busy and chance > 0.6 and in_part(self, guest) is not None:
            self.map(guest, vcpu)
            return
        if chance > 0.7 and copied_by_reserved(domain):
            self.version(guest, vcpu)
            return
        x = rng.random() * self.moves[-1][0]
        for limit, move in self.moves:
            if x < limit:
                move(guest, vcpu)
                return

    def interleave(self, own: CallInFlight) -> None:
        """Complete a call of Dom0's kernel; wherever it yields, guests run, and processes may be killed."""
        view, rng = self.view, self.rng
        outer, self.own = self.own, own
        while own in view.flights:
            if own.marker in HELD or own.must_finish_first:
                if not own.must_finish_first and rng.random() < 0.25:
                    self.hostile_store()
            else:
                if rng.random() < 0.02:
                    self.dom0.killed = self.dom0.current
                guests = list(view.guests.values())
                while guests and rng.random() < 0.5:
                    if not self._go_on():
                        self._guest_move(guests)
                    guests = list(view.guests.values())
                while any(f.marker in HELD or f.must_finish_first for f in self._others()):
                    self._go_on()
            self.advance(own)
        self.own = outer

    def finish_calls(self) -> None:
        """Complete all calls in flight, except a call of Dom0's kernel that waits for this move."""
        while flights := self._others():
            waiting = [f for f in flights if f.marker != "copy.restart"] or flights  # restarts wait for others to end
            f = next((f for f in flights if f.marker in HELD or f.must_finish_first), waiting[0])
            self.text = f"{f.text} (from {f.marker})"
            self.advance(f)

    def transfer(self, guest: Guest, vcpu: int) -> None:
        """transfer; now and then to a guest that waits for it, and sometimes begins to die while the page is nobody's, or is
        its own and not at its number yet."""
        if self.own is not None or self.aside.random() > OFFERED or not offer_page(self, guest, vcpu):
            super().transfer(guest, vcpu)
            return
        f = next((f for f in self.view.flights if f.guest is guest and f.vcpu == vcpu), None)
        if f is None or f.call is None or f.marker != "transfer.stolen" or self.aside.random() > DIES_MEANWHILE:
            return
        taker = self.view.guests[f.call.arguments["dom"]]
        if any(o.domid == taker.domid for o in self.view.flights):
            return
        moment = self.aside.choice(("transfer.stolen", "transfer.assigned"))
        while f in self.view.flights and f.marker != moment:
            self.advance(f)
        self.destroy(taker)
        if self.aside.random() < 0.5:
            self._go_on_with(taker.domid)
        while f in self.view.flights:
            self.advance(f)

    def _go_on_with(self, domid: int) -> None:
        """Let the end of a guest come to its end, as far as other calls let it."""
        while f := next((f for f in self.view.flights if f.domid == domid and f.guest is None), None):
            self.advance(f)

    # Lifecycle of guests.

    def life(self, guest: Guest) -> None:
        """Destroy or pause a guest that has no call in flight."""
        if any(f.domid == guest.domid for f in self.view.flights):
            return
        if not guest.domain.crashed and self.rng.random() < 0.4:
            self.text = f"pause d{guest.domid}"
            self.target.carry_out(Call("pausedomain", TOOLSTACK, {"domid": guest.domid}))
            return
        self.destroy(guest)

    def destroy(self, guest: Guest) -> None:
        """Start the end of a guest."""
        if guest.domain.is_dying or any(f.guest is None for f in self.view.flights):
            return
        self.text = f"destroydomain d{guest.domid}"
        self.target.carry_out(Call("destroydomain", TOOLSTACK, {"domid": guest.domid}))

    def end(self) -> None:
        """Destroy everything, in a random order, then check for leaks."""
        self.finish_calls()
        guests = list(self.view.guests.values())
        self.rng.shuffle(guests)
        for guest in guests:
            self.destroy(guest)
            self.finish_calls()
        dom0.end(self.dom0)
        self.target.carry_out(END)
