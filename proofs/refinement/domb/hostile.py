"""Hostile guests, and arbitrary requests of Dom0's processes to its daemons.

A guest writes arbitrary data to its rings (requests, garbage, absurd indices), also between two loads of a daemon;
rewrites its grants; opens, notifies and closes ports; and frees pages that others map. A process of Dom0 may make any
XenStore request, and connects and disconnects any domain. All choices come from a seed. Not here: the comparison
(store_side.py, daemons.py and compare.py).
"""

from __future__ import annotations

import contextlib
import random
from dataclasses import dataclass, field

from bulkhead.impl.guests.agent import GuestFault, GuestMemory
from bulkhead.impl.tools.store import XsError
from bulkhead.impl.xen import abi
from bulkhead.impl.xen.domains import ALIVE, Domain
from bulkhead.impl.xen.frames import Frame
from bulkhead.impl.xen.hypercall_evtchn import DOMID_PORT, TWO_DOMIDS
from bulkhead.impl.xen.vcpu_context import RSI, register
from bulkhead.model.caller import OKAY
from bulkhead.proofs.refinement.domb import neighbours
from bulkhead.proofs.refinement.domb.daemons import CONSOLE_RINGS, STORE_RINGS, Daemons, frame
from bulkhead.proofs.refinement.domb.follow import Follower
from bulkhead.proofs.refinement.domb.messages import NAMES, home
from bulkhead.proofs.refinement.domb.rig import Rig
from bulkhead.proofs.refinement.domb.taps import MASK, Place
from bulkhead.proofs.refinement.domb.world import DOMB, NOBODY, Book

KINDS = {name: kind for kind, name in NAMES.items()}
BELOW = (
    "",
    "/name",
    "/data",
    "/data",
    "/data/a",
    "/data/a/b",
    "/data/c",
    "/data/d",
    "/control",
    "/control/x",
    "/console/port",
)
BESIDE = ("/", "/local", "/local/domain", "/tool", "/tool/a", "/tool/a/b", "/vm")
RELATIVE = ("data", "data/a", "data/a/b", "control/x", "data/e", "data/f", "data/g/h/i", "data/j/k", "name")
WRONG = ("", "//", "data/", "@releaseDomain", "a b", "/local//x", "data/\xff", "x" * 2100, "../1")
MAGIC = b"xen-3.0-x86_64"
SCRATCH = 2048  # in the guest's start_info page
ERRORS = {0: OKAY, -abi.EINVAL: "EINVAL", -abi.ESRCH: "ESRCH", -abi.EPERM: "EPERM", -abi.ENOSPC: "ENOSPC"}


@dataclass
class Guest:
    """A guest that has run: the pages of its rings."""

    domain: Domain
    console: Frame
    store: Frame
    number: int = 0
    given_back: set[int] = field(default_factory=set)

    def has(self, page: Frame) -> bool:
        """Is the page still its own?"""
        return page.owner is self.domain and page.allocated


class Strangers:
    """All guests, and the requests of Dom0's processes to the daemons."""

    def __init__(self, rng: random.Random, rig: Rig, book: Book, follower: Follower, daemons: Daemons) -> None:
        self.rng, self.rig, self.book, self.follower, self.daemons = rng, rig, book, follower, daemons
        self.known: dict[int, Guest] = {}
        self.text = ""

    # Guests.

    def started(self, domid: int) -> None:
        """DomB has unpaused a guest."""
        domain = self.rig.xen.domains[domid]
        old = self.known.get(domid)
        if old is None or old.domain is not domain:
            frames = self.rig.xen.frames
            console, store = (frames.get(domain.grant_table.entry_v1(ref)[2]) for ref in (0, 1))
            if console is not None and store is not None:
                self.known[domid] = Guest(domain, console, store)

    def running(self) -> list[Guest]:
        """The running guests."""
        domains = self.rig.xen.domains
        for d in [d for d, guest in self.known.items() if domains.get(d) is not guest.domain]:
            del self.known[d]
        return [
            g
            for _, g in sorted(self.known.items())
            if g.domain.is_dying == ALIVE and g.domain.creation_finished and g.domain.pause_count == 0
        ]

    def guest(self) -> None:
        """An arbitrary action of a running guest."""
        running = self.running()
        if not running:
            return
        stored = self.daemons.stored
        heard = [g for g in running if stored is not None and g.domain.domid in stored.connections]
        if heard and self.rng.random() < 0.15:
            self._meet(heard)
            return
        who = self.rng.choice(heard if heard and self.rng.random() < 0.7 else running)
        x = self.rng.random()
        if x < 0.5:
            self._asks_store(who)
        elif x < 0.56:
            self._takes_answers(who)
        elif x < 0.64:
            self._prints(who)
        elif x < 0.67:
            self._garbage(who)
        elif x < 0.84:
            self._grants(who)
        elif x < 0.993:
            self._events(who)
        else:
            self._gives_back(who)

    def race(self) -> None:
        """Some guest writes to its rings between two loads of a daemon."""
        if self.rng.random() < 0.006:
            running = self.running()
            if running:
                who = self.rng.choice(running)
                self.rng.choice((self._garbage, self._prints, self._takes_answers))(who)

    def _asks_store(self, who: Guest) -> None:
        rng, d = self.rng, who.domain.domid
        self.text = f"d{d} asks XenStore"
        if not who.has(who.store):
            return
        for _ in range(rng.choice((1, 2, 3, 5))):
            who.number = (who.number + 1) & MASK
            kind, payload = self._request(d)
            tx = 0 if rng.random() < 0.97 else rng.randrange(9)
            put(who.store.bytes(), STORE_RINGS[0], frame(kind, who.number, tx, payload))
        if rng.random() < 0.8:
            drain(who.store.bytes(), STORE_RINGS[1])

    def _meet(self, heard: list[Guest]) -> None:
        """Guests turn to each other's nodes, one request after the other."""
        ids = [g.domain.domid for g in heard]
        for _ in range(self.rng.choice((4, 10, 20))):
            stored, who = self.daemons.stored, self.rng.choice(heard)
            if stored is None or not who.has(who.store):
                return
            self.text = f"d{who.domain.domid} turns to the nodes of others"
            who.number = (who.number + 1) & MASK
            kind, payload = neighbours.request(self.rng, who.domain.domid, ids, stored.store.nodes)
            drain(who.store.bytes(), STORE_RINGS[1])
            put(who.store.bytes(), STORE_RINGS[0], frame(kind, who.number, 0, payload))
            self.daemons.serve_store()

    def _path(self, d: int) -> str:
        rng, x = self.rng, self.rng.random()
        if x < 0.45:
            return rng.choice(RELATIVE)
        if x < 0.6:
            return home(d) + rng.choice(BELOW)
        if x < 0.8:
            return home(rng.randrange(2, NOBODY)) + rng.choice(BELOW)
        return rng.choice(BESIDE) if x < 0.95 else rng.choice(WRONG)

    def _request(self, d: int) -> tuple[int, bytes]:
        """A request of any kind, by a guest or (0) a tool."""
        rng = self.rng
        path = self._path(d if d else rng.randrange(2, NOBODY)).encode("latin-1")
        if not d and rng.random() < 0.6 and path[:1] != b"/":
            path = home(rng.randrange(2, NOBODY)).encode() + b"/" + path
        op = rng.choice(
            ("write", "write", "read", "read", "mkdir", "rm", "directory", "get_perms", "set_perms", "watch", "watch")
        )
        if rng.random() < 0.12:
            op = rng.choice(
                ("unwatch", "unwatch", "reset_watches", "get_domain_path", "is_introduced", "introduce", "release")
            )
        if op == "rm" and rng.random() < 0.1:
            path = b"/"
        if op == "write":
            return KINDS[op], path + b"\0" + rng.choice((b"", b"1", b"a\0b", rng.randbytes(20), bytes(900 if d else 2500)))
        if op == "set_perms":
            return KINDS[op], path + b"\0" + self._perms(d)
        if op in ("watch", "unwatch"):
            if rng.random() < 0.1:
                path = rng.choice((b"@releaseDomain", b"@introduceDomain"))
            return KINDS[op], path + b"\0" + rng.choice((b"t", b"t", b"u", b"")) + b"\0"
        if op == "reset_watches":
            return KINDS[op], b""
        if op in ("get_domain_path", "is_introduced", "release", "introduce"):
            who = str(rng.choice((*range(NOBODY), 99, 40000))).encode()
            return KINDS[op], b"\0".join([who] if op != "introduce" else [who, b"7", b"1"]) + b"\0"
        if rng.random() < 0.03:
            return rng.choice((0, 6, 7, 16, 18, 77, KINDS[op])), path + rng.choice((b"", b"\0x\0", b"\0"))
        return KINDS[op], path + b"\0"

    def _perms(self, d: int) -> bytes:
        rng = self.rng
        owner = d if d and rng.random() < 0.9 else rng.choice((0, *range(2, NOBODY)))
        more = rng.choice((0, 0, 1, 1, 2, 6))
        stored = self.daemons.stored
        there = [] if stored is None else [*stored.connections] * 4
        if not d and there and rng.random() < 0.6:
            owner = rng.choice(there)
        ids = [owner, *(rng.choice((*there, *range(NOBODY), 50)) for _ in range(more))]
        text = b"".join(b"%c%d\0" % (rng.choice(b"rwbnr"), who) for who in ids)
        return text if rng.random() < 0.96 else rng.choice((b"", b"x1\0", b"r\0", b"r99999999999\0", text[:-1]))

    def _takes_answers(self, who: Guest) -> None:
        self.text = f"d{who.domain.domid} empties its rings"
        if who.has(who.store):
            drain(who.store.bytes(), STORE_RINGS[1])
        if who.has(who.console):
            drain(who.console.bytes(), CONSOLE_RINGS[1])

    def _prints(self, who: Guest) -> None:
        self.text = f"d{who.domain.domid} prints"
        if who.has(who.console):
            put(who.console.bytes(), CONSOLE_RINGS[0], self.rng.randbytes(self.rng.choice((1, 7, 60, 1500, 3000))))

    def _garbage(self, who: Guest) -> None:
        """Absurd indices, and bytes that are not a request."""
        rng = self.rng
        self.text = f"d{who.domain.domid} writes garbage into its rings"
        page, rings = (who.store, STORE_RINGS) if rng.random() < 0.2 else (who.console, CONSOLE_RINGS)
        if not who.has(page):
            return
        data, ring = page.bytes(), rng.choice(rings)
        x = rng.random()
        if x < 0.5:
            at = rng.choice(ring[2:])
            value = rng.choice((0, MASK, 1 << 31, rng.randrange(1 << 32), _index(data, at) + rng.choice((1, -1, 1024))))
            data[at : at + 4] = (value & MASK).to_bytes(4, "little")
        elif x < 0.7:
            put(
                data,
                rings[0],
                rng.choice((rng.randbytes(30), frame(2, 1, 0, bytes(4000)), (5000).to_bytes(4, "little") * 4)),
            )
        else:
            at = rng.randrange(ring[1] - 8)
            data[ring[0] + at : ring[0] + at + 8] = rng.randbytes(8)

    def _grants(self, who: Guest) -> None:
        rng, domain, book = self.rng, who.domain, self.book
        d = domain.domid
        self.text = f"d{d} writes its grant table"
        ref = rng.choice((0, 1, 8, 8, 8, 8))
        data, off = domain.grant_table.header_at(ref)
        in_use = abi.U16.unpack_from(data, off)[0] & 24
        page = rng.choice([f for f in domain.pages.values() if not f.xenheap])
        flags, grantee = rng.choice(((1, 0), (1, 0), (5, 0), (0, 0), (1, DOMB), (1, 3)))
        abi.ENTRY_V1.pack_into(data, off, flags | in_use, grantee, page.mfn)
        args = {"owner": d, "ref": book.ref(ref), "kind": book.m["Kind"]["permit_access" if flags & 1 else "invalid"]}
        args |= {"grantee": book.domain(grantee), "frame": book.frame(page.mfn), "readonly": int(flags == 5), "part": 0}
        book.step("write_entry", args)

    def _call(self, who: Guest, op: int, cmd: int, arg: bytes, more: bytes = b"") -> tuple[int, bytes]:
        """A hypercall with arguments in the guest's start_info page; returns its result and the struct afterwards."""
        vcpu = who.domain.vcpus[0]
        memory = GuestMemory(self.rig.xen, who.domain)
        assert vcpu.context is not None
        at = register(vcpu.context, RSI) + SCRATCH
        memory.store(at, arg)
        memory.store(at + 64, more)
        if more:
            memory.store(at, (at + 64).to_bytes(8, "little"))
        rc = self.rig.xen.call(vcpu, op, cmd, at, 0, 0, 0)
        return rc, memory.load(at, len(arg))

    def _events(self, who: Guest) -> None:
        """Its own ports: notified, closed, opened for others, bound to those of others."""
        rng, book, d = self.rng, self.book, who.domain.domid
        self.text = f"d{d} makes an event channel operation"
        port, other = rng.choice((1, 1, 2, 2, 3, 4, 0, 900)), rng.choice((0, 0, DOMB, *range(2, NOBODY), 99))
        op = rng.choice(("send", "send", "send", "send", "close", "alloc_unbound", "bind_interdomain"))
        if op == "alloc_unbound" and len(who.domain.events.ports) > 6:
            return
        number_, raw = {
            "send": (abi.EVTCHNOP_SEND, abi.U32.pack(port)),
            "close": (abi.EVTCHNOP_CLOSE, abi.U32.pack(port)),
            "alloc_unbound": (abi.EVTCHNOP_ALLOC_UNBOUND, TWO_DOMIDS.pack(abi.DOMID_SELF, other, 0)),
            "bind_interdomain": (abi.EVTCHNOP_BIND_INTERDOMAIN, DOMID_PORT.pack(other, 0, port, 0)),
        }[op]
        with contextlib.suppress(GuestFault):
            rc, out = self._call(who, abi.HYPERVISOR_EVENT_CHANNEL_OP, number_, raw)
            want = ERRORS.get(rc, str(rc))
            args = {"caller": d}
            if op in ("send", "close"):
                args["q"] = book.port(port)
            elif op == "alloc_unbound":
                args |= {"d": d, "remote": book.domain(other)} | ({"q_q": TWO_DOMIDS.unpack(out)[2] - 1} if rc == 0 else {})
            else:
                args |= {"e": book.domain(other), "o": book.port(port)}
                args |= {"q_q": DOMID_PORT.unpack(out)[3] - 1} if rc == 0 else {}
            book.step(f"evtchn_{op}", args, want)

    def _gives_back(self, who: Guest) -> None:
        """A page that others may map: it stays allocated until they unmap it."""
        d = who.domain.domid
        self.text = f"d{d} gives a page back"
        page = self.rng.choice((who.console, who.store))
        if not who.has(page) or len(self.follower.given_up) > 6:
            return
        with contextlib.suppress(GuestFault):
            if not self._unmaps_its_own(who, page):
                return
            arg = abi.MEMORY_RESERVATION.pack(0, 1, 0, 0, abi.DOMID_SELF, 0, 0)
            extent = abi.U64.pack(page.mfn)
            rc, _ = self._call(who, abi.HYPERVISOR_MEMORY_OP, abi.XENMEM_DECREASE_RESERVATION, arg, extent)
            f = self.book.frame(page.mfn)
            if rc == 1:
                self.book.step("decrease_reservation", {"caller": d, "f": f})
                self.follower.given_up.add(f)
                self.follower.settle()

    def _unmaps_its_own(self, who: Guest, page: Frame) -> bool:
        """The guest clears the entry of its page tables that the builder made for the page."""
        vcpu = who.domain.vcpus[0]
        assert vcpu.context is not None
        start = register(vcpu.context, RSI)
        info = next((f for f in who.domain.pages.values() if f.data is not None and f.data[:14] == MAGIC), None)
        if info is None:
            return False
        addr = start + (page.m2p - info.m2p) * abi.PAGE_SIZE
        rc: int = self.rig.xen.call(vcpu, abi.HYPERVISOR_UPDATE_VA_MAPPING, addr, 0, abi.UVMF_INVLPG, 0, 0)
        return rc == 0

    # Processes of Dom0.

    def asks_daemons(self, space: int) -> None:
        """An arbitrary request of a process of Dom0 to a daemon."""
        rng, daemons = self.rng, self.daemons
        self.follower.who = space
        stored = daemons.stored
        fresh = [g.domain.domid for g in self.running() if stored is not None and g.domain.domid not in stored.connections]
        d = rng.choice((*fresh * 12, *[*self.known] * 3, *range(NOBODY), 99))
        x = rng.random()
        if x < 0.7 and daemons.stored is not None:
            self.text = "a tool asks XenStore"
            kind, payload = self._request(0)
            if x < 0.35:
                kind, payload = (
                    KINDS["introduce"],
                    b"%d\0%d\0%d\0" % (d, rng.randrange(99), rng.choice((2, 2, 2, 1, 3, 700))),
                )
            elif x < 0.4:
                kind, payload = KINDS["release"], b"%d\0" % d
            elif x < 0.5:  # nodes that outlive guests, given to them and opened for them
                path = rng.choice((*BESIDE[3:], f"{home(rng.randrange(2, NOBODY))}/data"))
                with contextlib.suppress(XsError):
                    daemons.stored.request(0, KINDS["write"], 0, path.encode() + b"\0")
                kind, payload = KINDS["set_perms"], path.encode() + b"\0" + self._perms(0)
            elif x < 0.52:  # the root node: opened to all, closed again, or given away
                kind, payload = KINDS["set_perms"], b"/\0%c%d\0" % (rng.choice(b"bwrn"), rng.choice((0, 0, d)))
            with contextlib.suppress(XsError):
                daemons.stored.request(0, kind, 0, payload)
        elif daemons.consoled is not None:
            self.text = "a tool asks the console's daemon"
            with contextlib.suppress(OSError):
                if x < 0.9:
                    daemons.consoled.add(d, 7, rng.choice((1, 1, 1, 2, 700)))
                elif x < 0.93:
                    daemons.consoled.remove(d)
                else:
                    daemons.consoled.type(d, rng.randbytes(rng.choice((1, 30, 1500))))


def _index(data: bytearray, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "little")


def put(data: bytearray, ring: Place, payload: bytes) -> None:
    """Put as many bytes as fit into a ring, like the guest's libraries."""
    start, size, cons, prod = ring
    at = _index(data, prod)
    for byte in payload[: max(size - ((at - _index(data, cons)) & MASK), 0)]:
        data[start + (at & (size - 1))] = byte
        at = (at + 1) & MASK
    data[prod : prod + 4] = at.to_bytes(4, "little")


def drain(data: bytearray, ring: Place) -> None:
    """Take all bytes of a ring."""
    _, _, cons, prod = ring
    data[cons : cons + 4] = data[prod : prod + 4]


__all__ = ["Strangers"]
