"""The actions of guests: bytes and indices of their rings, grants, event channels.

Each acts on the implementation with what the guest has, its pages and its hypercalls, and takes the rule steps beside it.
Not here: their memory (guest_memory.py), and which guest does what (workload/guests.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from bulkhead.impl.guests.agent import GuestFault, GuestMemory
from bulkhead.impl.xen import abi
from bulkhead.impl.xen.domains import ALIVE, Domain
from bulkhead.impl.xen.frames import Frame
from bulkhead.impl.xen.hypercall_evtchn import DOMID_PORT, TWO_DOMIDS
from bulkhead.impl.xen.vcpu_context import RSI, register
from bulkhead.model.caller import OKAY
from bulkhead.proofs.refinement.calls import NOT_DONE, Answer
from bulkhead.proofs.refinement.domb.alone import Alone
from bulkhead.proofs.refinement.domb.book import Book
from bulkhead.proofs.refinement.domb.follow import Follower
from bulkhead.proofs.refinement.domb.machine import error_name
from bulkhead.proofs.refinement.domb.rig import Rig
from bulkhead.proofs.refinement.domb.taps import MASK, Place
from bulkhead.proofs.refinement.domb.watched_daemons import CONSOLE_RINGS, STORE_RINGS

MAGIC = b"xen-3.0-x86_64"
SCRATCH = 2048  # in the guest's start_info page
RINGS: Final = {"console": CONSOLE_RINGS, "xenstore": STORE_RINGS}
PAGE: Final = 4096
FAULT: Final = Answer("EFAULT")  # the guest's own page tables do not let it
Arguments = Mapping[str, Any]


@dataclass
class Guest:
    """A guest that runs: the pages of its rings."""

    domain: Domain
    console: Frame
    xenstore: Frame

    @property
    def domid(self) -> int:
        """Its number."""
        return self.domain.domid

    def page(self, which: str) -> Frame:
        """The page of the console or of XenStore."""
        return self.console if which == "console" else self.xenstore

    def has(self, page: Frame) -> bool:
        """Is the page still its own?"""
        return page.owner is self.domain and page.allocated


class Guests:
    """All guests of one machine."""

    def __init__(self, rig: Rig, book: Book | None, ear: Follower | Alone) -> None:
        self.rig, self.book, self.ear = rig, book, ear
        self.known: dict[int, Guest] = {}
        self.handles: dict[tuple[Domain, int], int] = {}  # handles of guests -> Handle
        self.slots: dict[tuple[Domain, int], int] = {}  # slots of their windows (guest_memory.py) -> Translation
        self.libraries: dict[Domain, Any] = {}  # of guests that use one for XenStore (guest_library.py)
        self.fresh = 0  # pages that guests have got from Xen

    def running(self) -> list[Guest]:
        """The guests that run. Of one that has not acted yet, the reserved entries are as DomB has left them."""
        domains = self.rig.xen.domains
        for d in [d for d, guest in self.known.items() if domains.get(d) is not guest.domain]:
            del self.known[d]
        for d, domain in domains.items():
            if d >= 2 and d not in self.known and _runs(domain):
                console, store = (self.rig.xen.frames.get(domain.grant_table.entry_v1(ref)[2]) for ref in (0, 1))
                if console is not None and store is not None:
                    self.known[d] = Guest(domain, console, store)
        return [guest for _, guest in sorted(self.known.items()) if _runs(guest.domain)]

    def call(self, who: Guest, op: int, cmd: int, arg: bytes, more: bytes = b"") -> tuple[int, bytes]:
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

    def grant_op(self, who: Guest, cmd: int, arg: bytes) -> bytes:
        """A grant table operation of one element; returns it afterwards."""
        vcpu, memory = who.domain.vcpus[0], GuestMemory(self.rig.xen, who.domain)
        assert vcpu.context is not None
        at = register(vcpu.context, RSI) + SCRATCH
        memory.store(at, arg)
        rc = self.rig.xen.call(vcpu, abi.HYPERVISOR_GRANT_TABLE_OP, cmd, at, 1, 0, 0)
        if rc:
            raise GuestFault(f"grant table operation {cmd}: {rc}")
        return memory.load(at, len(arg))

    def flush_tlb(self, who: Guest) -> None:
        """MMUEXT_TLB_FLUSH_LOCAL: what a guest does when it has mapped something in another's place."""
        vcpu, memory = who.domain.vcpus[0], GuestMemory(self.rig.xen, who.domain)
        assert vcpu.context is not None
        at = register(vcpu.context, RSI) + SCRATCH
        memory.store(at, abi.MMUEXT_OP.pack(abi.MMUEXT_TLB_FLUSH_LOCAL, 0, 0, 0))
        self.rig.xen.call(vcpu, abi.HYPERVISOR_MMUEXT_OP, at, 1, 0, abi.DOMID_SELF, 0)

    def extent(self, who: Guest) -> int:
        """The extent that a memory operation has written back."""
        vcpu = who.domain.vcpus[0]
        assert vcpu.context is not None
        raw = GuestMemory(self.rig.xen, who.domain).load(register(vcpu.context, RSI) + SCRATCH + 64, 8)
        return int.from_bytes(raw, "little")


def _runs(domain: Domain) -> bool:
    return domain.is_dying == ALIVE and domain.creation_finished and domain.pause_count == 0 and not domain.crashed


# Rings.


def ring_put(g: Guests, who: Guest, a: Arguments) -> Answer:
    """Put as many bytes as fit into the output ring, like the guest's libraries: {ring, bytes}."""
    page = who.page(a["ring"])
    if not who.has(page):
        return NOT_DONE
    put(page.bytes(), RINGS[a["ring"]][0], bytes.fromhex(a["bytes"]))
    return Answer(OKAY)


def ring_drain(g: Guests, who: Guest, a: Arguments) -> Answer:
    """Take all bytes of the input ring: {ring}."""
    page = who.page(a["ring"])
    if not who.has(page):
        return NOT_DONE
    drain(page.bytes(), RINGS[a["ring"]][1])
    return Answer(OKAY)


def ring_poke(g: Guests, who: Guest, a: Arguments) -> Answer:
    """Write bytes anywhere in the page of a ring: {ring, at, bytes}."""
    page, raw = who.page(a["ring"]), bytes.fromhex(a["bytes"])
    if not who.has(page) or a["at"] + len(raw) > PAGE:
        return NOT_DONE
    page.bytes()[a["at"] : a["at"] + len(raw)] = raw
    return Answer(OKAY)


def index(data: bytearray, at: int) -> int:
    """An index of a ring."""
    return int.from_bytes(data[at : at + 4], "little")


def put(data: bytearray, ring: Place, payload: bytes) -> None:
    """Put as many bytes as fit into a ring."""
    start, size, cons, prod = ring
    at = index(data, prod)
    for byte in payload[: max(size - ((at - index(data, cons)) & MASK), 0)]:
        data[start + (at & (size - 1))] = byte
        at = (at + 1) & MASK
    data[prod : prod + 4] = at.to_bytes(4, "little")


def drain(data: bytearray, ring: Place) -> None:
    """Take all bytes of a ring."""
    _, _, cons, prod = ring
    data[cons : cons + 4] = data[prod : prod + 4]


# Grants and event channels.


def write_entry(g: Guests, who: Guest, a: Arguments) -> Answer:
    """Write an entry of the grant table, but for the bits that say that it is in use: {ref, flags, dom, mfn}."""
    data, off = who.domain.grant_table.header_at(a["ref"])
    in_use = abi.U16.unpack_from(data, off)[0] & 24
    abi.ENTRY_V1.pack_into(data, off, a["flags"] | in_use, a["dom"], a["mfn"])
    book = g.book
    if book is not None:
        kind = book.m["Kind"]["permit_access" if a["flags"] & 1 else "invalid"]
        args = {"owner": who.domid, "ref": book.ref(a["ref"]), "kind": kind, "grantee": book.domain(a["dom"])}
        book.step("write_entry", args | {"frame": book.frame(a["mfn"]), "readonly": int(a["flags"] == 5), "part": 0})
    return Answer(OKAY)


def evtchn_send(g: Guests, who: Guest, a: Arguments) -> Answer:
    """EVTCHNOP_send: {port}."""
    return _event(g, who, "evtchn_send", abi.EVTCHNOP_SEND, abi.U32.pack(a["port"]), {"q": a["port"]})


def evtchn_close(g: Guests, who: Guest, a: Arguments) -> Answer:
    """EVTCHNOP_close: {port}."""
    return _event(g, who, "evtchn_close", abi.EVTCHNOP_CLOSE, abi.U32.pack(a["port"]), {"q": a["port"]})


def evtchn_alloc_unbound(g: Guests, who: Guest, a: Arguments) -> Answer:
    """EVTCHNOP_alloc_unbound for itself, or (which is refused) for another domain: {dom, remote}."""
    raw = TWO_DOMIDS.pack(a["dom"], a["remote"], 0)
    d = who.domid if a["dom"] == abi.DOMID_SELF else a["dom"]
    return _event(g, who, "evtchn_alloc_unbound", abi.EVTCHNOP_ALLOC_UNBOUND, raw, {"d": d, "remote": a["remote"]})


def evtchn_bind_interdomain(g: Guests, who: Guest, a: Arguments) -> Answer:
    """EVTCHNOP_bind_interdomain: {dom, port}."""
    raw = DOMID_PORT.pack(a["dom"], 0, a["port"], 0)
    return _event(g, who, "evtchn_bind_interdomain", abi.EVTCHNOP_BIND_INTERDOMAIN, raw, {"e": a["dom"], "o": a["port"]})


def evtchn_reset(g: Guests, who: Guest, a: Arguments) -> Answer:
    """EVTCHNOP_reset of its own ports."""
    return _event(g, who, "evtchn_reset", abi.EVTCHNOP_RESET, abi.U16.pack(abi.DOMID_SELF), {})


def evtchn_take(g: Guests, who: Guest, a: Arguments) -> Answer:
    """It looks which of its ports are pending; the answer has them."""
    found = who.domain.events.take_pending()
    for port in found if g.book is not None else ():
        assert g.book is not None
        g.book.step("evtchn_take", {"caller": who.domid, "q": g.book.port(port)})
    return Answer(OKAY, found)


def _event(g: Guests, who: Guest, rule: str, cmd: int, raw: bytes, args: dict[str, int]) -> Answer:
    try:
        rc, out = g.call(who, abi.HYPERVISOR_EVENT_CHANNEL_OP, cmd, raw)
    except GuestFault:
        return FAULT
    port = {abi.EVTCHNOP_ALLOC_UNBOUND: TWO_DOMIDS, abi.EVTCHNOP_BIND_INTERDOMAIN: DOMID_PORT}.get(cmd)
    given = port.unpack(out)[-1] if port is not None and rc == 0 else None
    book = g.book
    if book is not None:
        names = {"q": book.port, "o": book.port, "d": book.domain, "remote": book.domain, "e": book.domain}
        picked = {} if given is None else {"q_q": given - 1}
        elements = {name: names[name](value) if name in names else value for name, value in args.items()}
        book.step(rule, {"caller": who.domid, **elements, **picked}, error_name(-rc))
    return Answer(error_name(-rc), given)


ACTIONS: Final[dict[str, Callable[[Guests, Guest, Arguments], Answer]]] = {
    "ring_put": ring_put,
    "ring_drain": ring_drain,
    "ring_poke": ring_poke,
    "write_entry": write_entry,
    "evtchn_send": evtchn_send,
    "evtchn_close": evtchn_close,
    "evtchn_alloc_unbound": evtchn_alloc_unbound,
    "evtchn_bind_interdomain": evtchn_bind_interdomain,
    "evtchn_reset": evtchn_reset,
    "evtchn_take": evtchn_take,
}


__all__ = ["ACTIONS", "FAULT", "MAGIC", "RINGS", "Guest", "Guests", "drain", "index", "put"]
