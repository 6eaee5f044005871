"""A seeded workload of guests that reads no state: so the same calls can be made on any target.

A call's result (a page, a handle, a port) gets a name, and later calls use the name. Two guests grant, map, copy, swap,
revoke, free pages and signal each other. Not here: hostile arguments and interleaving, for which a
campaign reads the machine (guests.py, scheduler.py); and the execution of calls (../targets.py). The heap's next
frame is unspecified: so a guest overwrites all entries that may name a page before it frees the page.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from bulkhead.impl.xen import abi
from bulkhead.proofs.refinement.calls import Call, guest_call
from bulkhead.proofs.refinement.lockstep.testbed import SLOTS

REFS = (8, 9, 10)
GUESTS = (1, 2)


class Script:
    """The named results so far: pages, handles with their slots, and ports of each guest."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(f"script/{seed}")
        self.given = 0
        self.pages: dict[int, list[str]] = {d: [] for d in GUESTS}
        self.handles: dict[int, list[tuple[str, int]]] = {d: [] for d in GUESTS}
        self.ports: dict[int, list[str]] = {d: [] for d in GUESTS}
        self.granted: dict[tuple[int, int], set[str | int]] = {(d, ref): set() for d in GUESTS for ref in REFS}
        self.moves = (
            (5, self.populate),
            (20, self.write_entry),
            (20, self.map),
            (14, self.unmap),
            (14, self.copy),
            (3, self.swap),
            (4, self.withdraw),
            (3, self.decrease),
            (10, self.access),
            (12, self.events),
        )

    def name(self, kind: str) -> str:
        """An unused name."""
        self.given += 1
        return f"{kind} {self.given}"

    def calls(self, count: int) -> Iterator[Call]:
        """So many calls; the first ones create the guests."""
        for domid in GUESTS:
            yield Call("createdomain", "d0", {"domid": domid, "max_maptrack": 1, "greedy": False, "pvh": False})
        made = len(GUESTS)
        weights = [weight for weight, _ in self.moves]
        while made < count:
            move = self.rng.choices(self.moves, weights)[0][1]
            for call in move(self.rng.choice(GUESTS)):
                made += 1
                yield call

    def dom(self, me: int) -> int:
        """A domain, usually the other guest."""
        return self.rng.choice((3 - me, 3 - me, 3 - me, me, 0, 3, 99))

    def page(self, me: int) -> str | int:
        """A page of the guest, or a frame that does not exist."""
        return self.rng.choice(self.pages[me]) if self.pages[me] and self.rng.random() < 0.95 else 0x7FFFFFFF

    def populate(self, me: int) -> Iterator[Call]:
        """One more page."""
        name = self.name("page")
        self.pages[me].append(name)
        yield guest_call(me, 0, "populate_physmap", count=1, gives=name)

    def decrease(self, me: int) -> Iterator[Call]:
        """Free a page."""
        if self.pages[me]:
            page = self.pages[me].pop(self.rng.randrange(len(self.pages[me])))
            for ref in REFS:
                if page in self.granted[me, ref]:
                    yield self.entry(me, ref, 0, 0, 0)
            yield guest_call(me, 0, "decrease_reservation", mfns=[page])

    def entry(self, me: int, ref: int, flags: int, domid: int, page: str | int) -> Call:
        """Write a grant entry."""
        self.granted[me, ref] = {page}
        return guest_call(me, 0, "write_entry", ref=ref, flags=flags, domid=domid, mfn=page, keep_bits=True, part=[0, 0])

    def write_entry(self, me: int) -> Iterator[Call]:
        """Grant a page, or nothing."""
        page = self.page(me)
        yield self.entry(me, self.rng.choice(REFS), self.rng.choice((1, 1, 1, 5, 0)), self.dom(me), page)

    def map(self, me: int) -> Iterator[Call]:
        """Map a grant at a free slot."""
        rng, used = self.rng, [slot for _, slot in self.handles[me]]
        free = [slot for slot in range(SLOTS) if slot not in used]
        if not free:
            return
        name, slot = self.name("handle"), rng.choice(free)
        self.handles[me].append((name, slot))
        yield guest_call(
            me,
            0,
            "map_grant_ref",
            gives=name,
            elements=[{"slot": slot, "flags": rng.choice((2, 6, 6)), "ref": rng.choice(REFS), "dom": self.dom(me)}],
        )

    def unmap(self, me: int) -> Iterator[Call]:
        """Unmap the result of a map, if there is one."""
        if not self.handles[me]:
            return
        name, slot = self.handles[me].pop(self.rng.randrange(len(self.handles[me])))
        yield guest_call(me, 0, "unmap_grant_ref", elements=[{"slot": slot, "handle": name}])

    def copy(self, me: int) -> Iterator[Call]:
        """Copy between own and granted pages; sometimes past the end of a page."""
        sides: dict[str, Any] = {}
        for side, off in (("src", 0), ("dst", 2048)):
            by_ref = self.rng.random() < 0.6
            sides |= {
                f"{side}_ref": by_ref,
                side: self.rng.choice(REFS) if by_ref else self.page(me),
                f"{side}_dom": self.dom(me) if by_ref else abi.DOMID_SELF,
                f"{side}_off": off,
            }
        yield guest_call(me, 0, "copy", elements=[{**sides, "length": self.rng.choice((64, 64, 64, 4000))}])

    def swap(self, me: int) -> Iterator[Call]:
        """Swap two entries."""
        one, other = self.rng.choice(REFS), self.rng.choice(REFS)
        either = self.granted[me, one] | self.granted[me, other]  # refused while one is in use
        self.granted[me, one], self.granted[me, other] = set(either), set(either)
        yield guest_call(me, 0, "swap_grant_ref", refs=[one, other])

    def withdraw(self, me: int) -> Iterator[Call]:
        """Revoke a grant, as Linux does."""
        yield guest_call(me, 0, "end_access", ref=self.rng.choice(REFS))

    def access(self, me: int) -> Iterator[Call]:
        """A load or store through a slot."""
        yield guest_call(me, 0, "access", slot=self.rng.randrange(SLOTS), write=self.rng.random() < 0.5)

    def events(self, me: int) -> Iterator[Call]:
        """Offer a port, bind to one, send, or close."""
        rng, x, mine, theirs = self.rng, self.rng.random(), self.ports[me], self.ports[3 - me]
        if x < 0.3 or not mine:
            mine.append(self.name("port"))
            yield guest_call(me, 0, "evtchn_alloc_unbound", dom=abi.DOMID_SELF, remote=self.dom(me), gives=mine[-1])
        elif x < 0.5 and theirs:
            mine.append(self.name("port"))
            yield guest_call(me, 0, "evtchn_bind_interdomain", dom=3 - me, port=rng.choice(theirs), gives=mine[-1])
        elif x < 0.8:
            yield guest_call(me, 0, "evtchn_send", port=rng.choice(mine))
        else:
            yield guest_call(me, 0, "evtchn_close", port=mine.pop(rng.randrange(len(mine))))
