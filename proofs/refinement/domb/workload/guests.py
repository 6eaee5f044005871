"""What hostile guests do: requests and garbage in their rings, grants, event channels.

Not here: their memory (memory.py), how an action is made (../guests.py), and the requests (requests.py, neighbours.py).
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from bulkhead.impl.tools.xenstored import Connection
from bulkhead.impl.xen import abi
from bulkhead.impl.xen.events import UNBOUND
from bulkhead.proofs.refinement.calls import Answer, Interleaving
from bulkhead.proofs.refinement.domb.guests import RINGS, Guest, index
from bulkhead.proofs.refinement.domb.messages import home
from bulkhead.proofs.refinement.domb.taps import MASK
from bulkhead.proofs.refinement.domb.view import View
from bulkhead.proofs.refinement.domb.watched_daemons import frame
from bulkhead.proofs.refinement.domb.workload.chooser import Chooser
from bulkhead.proofs.refinement.domb.workload.memory import MemoryChoices
from bulkhead.proofs.refinement.domb.workload.neighbours import between_neighbours
from bulkhead.proofs.refinement.domb.workload.requests import KINDS, request
from bulkhead.proofs.refinement.domb.world import DOMB, NOBODY

EVENTS = ("send", "take", "close", "alloc_unbound", "bind_interdomain", "reset")


class GuestChoices(Chooser):
    """All guests of one machine."""

    def __init__(self, view: View, target: Interleaving, rng: random.Random) -> None:
        super().__init__(view, target, rng)
        self.number = 0  # of the last request to XenStore
        self.settled = False  # most of the time they leave their grants, ports and memory as they are
        self.memory = MemoryChoices(view, target, rng)

    def act(self) -> None:
        """An arbitrary action of a running guest."""
        running = self.view.running()
        if not running:
            return
        stored = self.view.stored
        heard = [g for g in running if stored is not None and g.domid in stored.connections]
        if heard and self.rng.random() < 0.08:
            self.meet(heard)
            return
        if self.rng.random() < 0.015:
            calm = [g for g in heard if stored is not None and self.is_calm(stored.connections[g.domid])]
            seen = [g for g in running if self.view.consoled is not None and g.domid in self.view.consoled.consoles]
            much = (
                (self._hoards, heard),
                (self._prints_on, seen),
                (self._writes_much, calm),
                (self._writes_much, calm),
                (self._watches_long, calm),
            )
            for act, able in self.rng.sample((*much, *much[2:]), 6):
                if able:
                    act(self.rng.choice(able))
                    return
        who = self.rng.choice(heard if heard and self.rng.random() < 0.7 else running)
        x = self.rng.random() * (0.56 if self.settled and self.rng.random() < 0.95 else 1)
        if x < 0.42:
            self._asks_store(who)
        elif x < 0.47:
            self._takes_answers(who)
        elif x < 0.53:
            self._prints(who)
        elif x < 0.56:
            self._garbage(who)
        elif x < 0.68:
            self._grants(who)
        elif x < 0.88:
            self.memory.act(who, running)
        else:
            self._events(who)

    @staticmethod
    def is_calm(connection: Connection) -> bool:
        """Is the connection served, and nothing under way in it?"""
        return not (connection.ignored or connection.received or connection.unsent)

    def of(self, who: Guest, operation: str, /, **arguments: object) -> Answer:
        """A call of a guest."""
        return self.call(f"d{who.domid}", operation, **arguments)

    def race(self) -> None:
        """Some guest writes to its rings between two loads of a daemon."""
        running = self.view.running()
        if running:
            who = self.rng.choice(running)
            self.rng.choice((self._garbage, self._prints, self._takes_answers))(who)

    def _asks_store(self, who: Guest) -> None:
        rng, stored = self.rng, self.view.stored
        self.text = f"d{who.domid} asks XenStore"
        if not who.has(who.xenstore):
            return
        connected = () if stored is None else tuple(stored.connections)
        if rng.random() < 0.2:
            self._uses_library(who, connected)
            return
        for _ in range(rng.choice((1, 2, 4, 8))):
            self.number = (self.number + 1) & MASK
            kind, payload = request(rng, who.domid, connected, self.view.nodes)
            tx = 0 if rng.random() < 0.97 else rng.randrange(9)
            self.of(who, "ring_put", ring="xenstore", bytes=frame(kind, self.number, tx, payload).hex())
        if rng.random() < 0.8:
            self.of(who, "ring_drain", ring="xenstore")

    def _uses_library(self, who: Guest, connected: Sequence[int]) -> None:
        """Requests by the guest's library, sometimes more than fit into the ring; it may take the answers later."""
        many = self.rng.choice((1, 2, 4, 40))
        for _ in range(many):
            kind, payload = request(self.rng, who.domid, connected, self.view.nodes)
            asked = self.of(who, "library_asks", type=kind, payload=payload[:1100].hex())
            if not asked.given:
                break
        if self.view.stored is not None and self.rng.random() < 0.7:
            self.call(f"p{self.view.stored.space}", "serve")
        for _ in range(self.rng.choice((0, 1, 1, 2))):
            self.of(who, "library_takes")

    def meet(self, heard: Sequence[Guest]) -> None:
        """Guests turn to each other's nodes, and each request is served at once."""
        ids = [g.domid for g in heard]
        for _ in range(self.rng.choice((4, 10, 20))):
            stored, who = self.view.stored, self.rng.choice(heard)
            if stored is None or not who.has(who.xenstore):
                return
            self.text = f"d{who.domid} turns to the nodes of others"
            self.asks_now(who, *between_neighbours(self.rng, who.domid, ids, stored.store.nodes))

    def asks_now(self, who: Guest, kind: int, payload: bytes) -> None:
        """A request that is served at once; one that is longer than the ring goes in pieces."""
        stored, whole = self.view.stored, frame(kind, (self.number + 1) & MASK, 0, payload)
        if stored is None or not who.has(who.xenstore):
            return
        if len(whole) > RINGS["xenstore"][0][1]:
            self._long_request(who, kind, payload)
            return
        self.number = (self.number + 1) & MASK
        self.of(who, "ring_drain", ring="xenstore")
        self.of(who, "ring_put", ring="xenstore", bytes=whole.hex())
        self.call(f"p{stored.space}", "serve")

    def _takes_answers(self, who: Guest) -> None:
        self.text = f"d{who.domid} empties its rings"
        for page in RINGS:
            self.of(who, "ring_drain", ring=page)

    def _hoards(self, who: Guest) -> None:
        """It asks again and again for what is long, and takes no answer: one that waits for all of them has no end."""
        self.text = f"d{who.domid} asks, and takes no answer"
        named = f"{home(who.domid)}/name"
        first = ((KINDS["watch"], b"data\0h\0"), (KINDS["write"], b"data\0" + bytes(900)))
        for kind, payload in (*first, *[(KINDS["read"], b"data\0")] * 110):
            stored = self.view.stored
            if stored is None or not who.has(who.xenstore):
                return
            if len(self.view.value(named)) > 900 and kind == KINDS["read"]:
                payload = named.encode() + b"\0"
            self.number = (self.number + 1) & MASK
            self.of(who, "ring_put", ring="xenstore", bytes=frame(kind, self.number, 0, payload).hex())
            self.call(f"p{stored.space}", "serve")
        for tool in self.view.free()[:2]:  # events come, too
            words = f"{home(who.domid)}/data\0".encode()
            self.call(f"p{tool.space}", "ask_xenstored", type=KINDS["write"], payload=words.hex())

    def _writes_much(self, who: Guest) -> None:
        """A value at the limit of a node's size, or beyond: the request is longer than the ring, and goes in pieces."""
        self.text = f"d{who.domid} writes a long value"
        size = self.rng.choice((2047, 2048, 2049, 2500, 4091, 4092))
        path = self.rng.choice((b"data", b"data/l/m", b"data/n"))
        self._long_request(who, KINDS["write"], path + b"\0" + bytes(size))

    def _watches_long(self, who: Guest) -> None:
        """A watch whose token is long, and nodes whose names make its events as long as a message, or longer."""
        self.text = f"d{who.domid} sets a watch with a long token"
        self._long_request(who, KINDS["reset_watches"], b"")
        self._long_request(who, KINDS["watch"], b"data\0" + b"t" * 4000 + b"\0")
        for size in self.rng.sample((88, 89, 90, 200), 2):
            for kind in ("mkdir", "rm"):
                self._long_request(who, KINDS[kind], b"data/" + b"n" * size + b"\0")
        self._long_request(who, KINDS["reset_watches"], b"")

    def _long_request(self, who: Guest, kind: int, payload: bytes) -> None:
        """A request that goes piece by piece; the guest takes what comes meanwhile."""
        self.number = (self.number + 1) & MASK
        raw = frame(kind, self.number, 0, payload)
        self.of(who, "ring_drain", ring="xenstore")
        while raw and self.view.stored is not None and who.has(who.xenstore):
            self.of(who, "ring_put", ring="xenstore", bytes=raw[:800].hex())
            raw = raw[800:]
            for _ in range(6 if not raw else 1):
                if self.view.stored is not None:
                    self.call(f"p{self.view.stored.space}", "serve")
                self.of(who, "ring_drain", ring="xenstore")

    def _prints_on(self, who: Guest) -> None:
        """More than the console's daemon keeps."""
        self.text = f"d{who.domid} prints without an end"
        for _ in range(40):
            consoled = self.view.consoled
            if consoled is None:
                return
            self.of(who, "ring_put", ring="console", bytes=self.rng.randbytes(2048).hex())
            self.call(f"p{consoled.space}", "serve")

    def _prints(self, who: Guest) -> None:
        self.text = f"d{who.domid} prints"
        text = self.rng.randbytes(self.rng.choice((1, 7, 60, 1500, 3000)))
        self.of(who, "ring_put", ring="console", bytes=text.hex())

    def _garbage(self, who: Guest) -> None:
        """Absurd indices, and bytes that are not a request."""
        rng = self.rng
        self.text = f"d{who.domid} writes garbage into its rings"
        page = "xenstore" if rng.random() < 0.2 else "console"
        if not who.has(who.page(page)):
            return
        data, ring = who.page(page).bytes(), rng.choice(RINGS[page])
        x = rng.random()
        if x < 0.5:
            at = rng.choice(ring[2:])
            value = rng.choice((0, MASK, 1 << 31, rng.randrange(1 << 32), index(data, at) + rng.choice((1, -1, 1024))))
            self.of(who, "ring_poke", ring=page, at=at, bytes=(value & MASK).to_bytes(4, "little").hex())
        elif x < 0.7:
            garbage = rng.choice((rng.randbytes(30), frame(2, 1, 0, bytes(4000)), (5000).to_bytes(4, "little") * 4))
            self.of(who, "ring_put", ring=page, bytes=garbage.hex())
        else:
            at = ring[0] + rng.randrange(ring[1] - 8)
            self.of(who, "ring_poke", ring=page, at=at, bytes=rng.randbytes(8).hex())

    def _grants(self, who: Guest) -> None:
        rng = self.rng
        self.text = f"d{who.domid} writes its grant table"
        ref = rng.choice((0, 1, 8, 8, 9, 10))
        page = rng.choice([f for f in who.domain.pages.values() if not f.xenheap])
        other = rng.choice(self.view.running()).domid
        flags, grantee = rng.choice(((1, 0), (1, 0), (5, 0), (0, 0), (1, DOMB), (1, other), (1, other), (5, other)))
        self.of(who, "write_entry", ref=ref, flags=flags, dom=grantee, mfn=page.mfn)

    def _events(self, who: Guest) -> None:
        """Its own ports: notified, looked at, closed, opened for others, bound to those of others; seldom all are closed."""
        rng = self.rng
        self.text = f"d{who.domid} makes an event channel operation"
        port, other = rng.choice((1, 1, 2, 2, 3, 4, 0, 900)), rng.choice((0, 0, DOMB, *range(2, NOBODY), 99))
        op = rng.choices(EVENTS, (40, 14, 12, 20, 20, 1))[0]
        if op == "alloc_unbound":
            where = abi.DOMID_SELF if rng.random() < 0.85 else rng.choice((*self.view.domains, 99))
            if len(who.domain.events.ports) <= 6 or where != abi.DOMID_SELF:
                self.of(who, "evtchn_alloc_unbound", dom=where, remote=other)
        elif op == "bind_interdomain":
            waiting = self._waiting(who)
            if waiting and rng.random() < 0.7:
                other, port = rng.choice(waiting)
            if len(who.domain.events.ports) <= 8:
                self.of(who, "evtchn_bind_interdomain", dom=other, port=port)
        elif op in ("take", "reset"):
            self.of(who, f"evtchn_{op}")
        else:
            self.of(who, f"evtchn_{op}", port=port)

    def _waiting(self, who: Guest) -> list[tuple[int, int]]:
        """Domains and ports that wait for a guest."""
        return [
            (d, n)
            for d, domain in self.view.domains.items()
            if d < NOBODY
            for n, port in domain.events.ports.items()
            if port.state == UNBOUND and port.remote_domid == who.domid
        ]


__all__ = ["GuestChoices"]
