"""A guest that uses the library for XenStore (impl/rings/xenbus.py), as DomB does when it publishes its channel.

What the library puts into the ring and takes out of it is checked against the bytes of the page. Not here: guests that write
their rings themselves (guests.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from bulkhead.impl.rings.xenbus import Xenbus
from bulkhead.model.caller import OKAY
from bulkhead.proofs.refinement.calls import NOT_DONE, Answer
from bulkhead.proofs.refinement.domb.guests import Guest, Guests, index
from bulkhead.proofs.refinement.domb.taps import MASK
from bulkhead.proofs.refinement.domb.watched_daemons import HEADER, STORE_RINGS, frame, words
from bulkhead.proofs.refinement.lockstep.rule_steps import Mismatch

REQUESTS, ANSWERS = STORE_RINGS
LONGEST: Final = 4096
Arguments = Mapping[str, Any]


class Page:
    """The page of the ring, as memory that begins at 0."""

    def __init__(self, who: Guest) -> None:
        self.who = who

    def load(self, addr: int, size: int) -> bytes:
        """Read."""
        return bytes(self.who.xenstore.bytes()[addr : addr + size])

    def store(self, addr: int, payload: bytes) -> None:
        """Write."""
        self.who.xenstore.bytes()[addr : addr + len(payload)] = payload


@dataclass
class Library:
    """A guest's library, and what it must know."""

    bus: Xenbus
    rung: list[bool]  # one for each time that it has signalled
    number: int = 1  # of its next request
    part: bytes = b""  # of an answer that has not come completely
    indices: tuple[int, ...] = field(default=())  # of both rings, when it looked last


def _indices(data: bytearray) -> tuple[int, ...]:
    """What only the guest moves: where it has written, and what it has taken."""
    return index(data, REQUESTS[3]), index(data, ANSWERS[2])


def _content(data: bytearray, ring: tuple[int, int, int, int], start: int, size: int) -> bytes:
    """Bytes of a ring from an index on."""
    return bytes(data[ring[0] + ((start + i) & (ring[1] - 1))] for i in range(size))


def _library(g: Guests, who: Guest) -> Library:
    """The guest's library; a new one, if somebody else has moved its indices."""
    data = who.xenstore.bytes()
    found = g.libraries.get(who.domain)
    if found is None or found.indices != _indices(data):
        rung: list[bool] = []
        bus = Xenbus(Page(who), 0, lambda: rung.append(True))
        found = g.libraries[who.domain] = Library(bus, rung, indices=_indices(data))
    found.rung.clear()
    return found


def library_asks(g: Guests, who: Guest, a: Arguments) -> Answer:
    """A request by the library: {type, payload}. The answer has its number; 0 if there is no room."""
    if not who.has(who.xenstore):
        return NOT_DONE
    library, data, payload = _library(g, who), who.xenstore.bytes(), bytes.fromhex(a["payload"])
    raw = frame(a["type"], library.number, 0, payload)
    start, used = index(data, REQUESTS[3]), (index(data, REQUESTS[3]) - index(data, REQUESTS[2])) & MASK
    fits = used + len(raw) <= REQUESTS[1]
    number = library.bus.request(a["type"], payload)
    end = (start + (len(raw) if fits else 0)) & MASK
    if number != (library.number if fits else 0) or index(data, REQUESTS[3]) != end or len(library.rung) != fits:
        raise Mismatch(f"the library of domain {who.domid} sends request {number}, with room for it or not: {fits}")
    if fits and _content(data, REQUESTS, start, len(raw)) != raw:
        raise Mismatch(f"the library of domain {who.domid} sends other bytes than its request {number}")
    library.number += fits
    library.indices = _indices(data)
    return Answer(OKAY, number)


def library_takes(g: Guests, who: Guest, a: Arguments) -> Answer:
    """The library takes answers and events; the answer has the kind and number of each."""
    if not who.has(who.xenstore):
        return NOT_DONE
    library, data = _library(g, who), who.xenstore.bytes()
    start, ready = index(data, ANSWERS[2]), (index(data, ANSWERS[3]) - index(data, ANSWERS[2])) & MASK
    new = _content(data, ANSWERS, start, ready) if ready <= ANSWERS[1] else b""
    raw, want = library.part + new, []
    while len(raw) >= HEADER and ready <= ANSWERS[1]:
        kind, number, _, size = words(raw)
        if size > LONGEST or len(raw) < HEADER + size:
            break
        want.append((kind, number, raw[HEADER : HEADER + size]))
        raw = raw[HEADER + size :]
    found = library.bus.take()
    if found != want or index(data, ANSWERS[2]) != (start + len(new)) & MASK or len(library.rung) != bool(new):
        raise Mismatch(f"the library of domain {who.domid} takes {found}, and in its ring is {want}")
    library.part, library.indices = raw, _indices(data)
    return Answer(OKAY, [[kind, number] for kind, number, _ in found])


LIBRARY: Final[dict[str, Callable[[Guests, Guest, Arguments], Answer]]] = {
    "library_asks": library_asks,
    "library_takes": library_takes,
}

__all__ = ["LIBRARY", "Library"]
