"""libxenvchan: a two-way stream between two domains, over granted pages and one event channel.

Contents: set-up on either side, sending whole messages, detecting that the peer closed. Each side keeps its own
indices in private memory; the orders and grants that a server writes are copied, then checked, then used. Not here:
the messages (impl/domb/protocol.py). Layout and roles: left is written by the client, right by the server. Sources:
Xen tools/libs/vchan/init.c, io.c, public/io/libxenvchan.h.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct, unpack
from typing import Final

from bulkhead.impl.libs import evtchn as ev
from bulkhead.impl.libs import gnttab as gt
from bulkhead.impl.libs.osdep import PROT_READ, PROT_WRITE, Osdep, OsError
from bulkhead.impl.rings.ring import BadIndex, Reader, RingAt, Writer
from bulkhead.impl.xen.abi import EINVAL, EPROTO, PAGE_SHIFT

LEFT: Final = (0, 4)  # cons, prod
RIGHT: Final = (8, 12)
ORDERS: Final = 16
CLI_LIVE: Final = 20
SRV_LIVE: Final = 21
GRANTS: Final = 24
ORDER_PAIR: Final = Struct("<HH")
IN_PAGE: Final = {10: 1024, 11: 2048}
MAX_ORDER: Final = 20
GONE, LIVE, NOT_YET = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Offer:
    """The server's address, for clients: its domain, grant and port."""

    domid: int
    ring_ref: int
    port: int


class Vchan:
    """One end of a channel. Closing it releases its pages and port."""

    def __init__(self, os: Osdep, server: bool) -> None:
        self.os = os
        self.server = server
        self.xgt: gt.XenGnttab | None = None
        self.xgs: gt.XenGntshr | None = None
        self.xce: ev.XenEvtchn | None = None
        self.page = 0
        self.port = -1
        self.areas: list[tuple[int, int]] = []
        self.reader: Reader | None = None
        self.writer: Writer | None = None
        self.closed = False

    # --- data ---
    def ready(self) -> int:
        """The number of bytes ready to read; OSError(EPROTO) if the peer's index is invalid."""
        assert self.reader is not None
        try:
            return self.reader.ready()
        except BadIndex as exc:
            raise OsError(EPROTO) from exc

    def peek(self, count: int) -> bytes | None:
        """A private copy of the next bytes, which stay in the ring; None while there are fewer."""
        assert self.reader is not None
        return self.reader.peek(count) if self.ready() >= count else None

    def recv(self, count: int) -> bytes | None:
        """Take exactly so many bytes; None while there are fewer."""
        out = self.peek(count)
        if out is not None and self.reader is not None:
            self.reader.skip(count)
            self.notify()
        return out

    def send(self, payload: bytes) -> bool:
        """Send a whole message or nothing (False: no room now). OSError(EINVAL) if it can never fit."""
        assert self.writer is not None
        if len(payload) > self.writer.ring.size:
            raise OsError(EINVAL)
        if not self.writer.put_whole(payload):
            return False
        self.notify()
        return True

    def unread(self) -> int:
        """The number of sent bytes that the peer has not taken."""
        assert self.writer is not None
        return self.writer.unread()

    def notify(self) -> None:
        """Wake the peer. (The notify bits of the page only save events; here every change sends one.)"""
        if self.xce is not None and self.port > 0:
            ev.xenevtchn_notify(self.xce, self.port)

    def drain_events(self) -> bool:
        """Clear pending events; an event is only a hint to check the indices."""
        fired = False
        while self.xce is not None and (port := ev.xenevtchn_pending(self.xce)) > 0:
            ev.xenevtchn_unmask(self.xce, port)
            fired = True
        return fired

    def is_open(self) -> bool:
        """Is the peer connected? A client that has yet to come counts as connected; data left in the ring stays readable."""
        if self.closed:
            return False
        where = CLI_LIVE if self.server else SRV_LIVE
        return self.os.load(self.page + where, 1) != b"\0"

    def close(self) -> None:
        """Notify the peer and release everything."""
        if self.closed:
            return
        self.closed = True
        if self.page:
            self.os.store(self.page + (SRV_LIVE if self.server else CLI_LIVE), b"\0")
            self.notify()
        for addr, count in reversed(self.areas):
            if self.xgs is not None:
                gt.xengntshr_unshare(self.xgs, addr, count)
            elif self.xgt is not None:
                gt.xengnttab_unmap(self.xgt, addr, count)
        self.areas.clear()
        if self.xce is not None:
            ev.xenevtchn_close(self.xce)
        if self.xgt is not None:
            gt.xengnttab_close(self.xgt)
        if self.xgs is not None:
            gt.xengntshr_close(self.xgs)

    # --- set-up ---
    def need(self, result: int | None) -> int:
        """A library result, or OSError with its errno."""
        if result is None or result == -1:
            raise OsError(self.os.errno or EINVAL)
        return result

    def connect_rings(self, left: tuple[int, int], right: tuple[int, int]) -> None:
        """Rings from (address, order) of their buffers."""
        rings = [
            RingAt(addr, 1 << order, self.page + index[0], self.page + index[1])
            for (addr, order), index in ((left, LEFT), (right, RIGHT))
        ]
        mine, other = (rings[1], rings[0]) if self.server else (rings[0], rings[1])
        self.writer, self.reader = Writer(self.os, mine), Reader(self.os, other)


def check_orders(left: int, right: int) -> None:
    """Check that both orders are 10 to 20 and the rings do not overlap in the page; OSError(EINVAL)."""
    for order in (left, right):
        if not 10 <= order <= MAX_ORDER:
            raise OsError(EINVAL)
    if left == right and left < PAGE_SHIFT:
        raise OsError(EINVAL)


def server_init(os: Osdep, domid: int, left_order: int, right_order: int) -> tuple[Vchan, Offer]:
    """Share pages with a domain and wait for it; on OSError nothing is left allocated."""
    check_orders(left_order, right_order)
    chan = Vchan(os, True)
    try:
        chan.xgs, chan.xce = gt.xengntshr_open(os), ev.xenevtchn_open(os)
        if chan.xgs is None or chan.xce is None:
            raise OsError(os.errno)
        chan.port = chan.need(ev.xenevtchn_bind_unbound_port(chan.xce, domid))
        shared = gt.xengntshr_share_pages(chan.xgs, domid, 1, True)
        if shared is None:
            raise OsError(os.errno)
        page, refs = shared
        chan.areas.append((page, 1))
        places = []
        listed: list[int] = []
        for order in (left_order, right_order):
            if order < PAGE_SHIFT:
                places.append((page + IN_PAGE[order], order))
                continue
            count = 1 << (order - PAGE_SHIFT)
            area = gt.xengntshr_share_pages(chan.xgs, domid, count, True)
            if area is None:
                raise OsError(os.errno)
            chan.areas.append((area[0], count))
            places.append((area[0], order))
            listed += area[1]
        os.store(page + ORDERS, ORDER_PAIR.pack(left_order, right_order) + bytes((NOT_YET, LIVE, 1, 0)))
        os.store(page + GRANTS, b"".join(ref.to_bytes(4, "little") for ref in listed))
        chan.page = page
        chan.connect_rings(places[0], places[1])
    except OSError:
        chan.close()
        raise
    return chan, Offer(-1, refs[0], chan.port)


def client_init(os: Osdep, offer: Offer) -> Vchan:
    """Connect to a server; on OSError nothing is left mapped. The server's domain comes from the caller, not the page."""
    if offer.ring_ref <= 0 or offer.port <= 0:
        raise OsError(EINVAL)
    chan = Vchan(os, False)
    try:
        chan.xgt, chan.xce = gt.xengnttab_open(os), ev.xenevtchn_open(os)
        if chan.xgt is None or chan.xce is None:
            raise OsError(os.errno)
        chan.port = chan.need(ev.xenevtchn_bind_interdomain(chan.xce, offer.domid, offer.port))
        page = chan.need(
            gt.xengnttab_map_grant_ref_notify(
                chan.xgt, offer.domid, offer.ring_ref, PROT_READ | PROT_WRITE, CLI_LIVE, chan.port
            )
        )
        chan.areas.append((page, 1))
        raw = os.load(page, 1 << PAGE_SHIFT)  # check and use only this copy
        left, right = ORDER_PAIR.unpack_from(raw, ORDERS)
        check_orders(left, right)
        places = []
        at = GRANTS
        for order, prot in ((left, PROT_READ | PROT_WRITE), (right, PROT_READ)):
            if order < PAGE_SHIFT:
                places.append((page + IN_PAGE[order], order))
                continue
            count = 1 << (order - PAGE_SHIFT)
            if at + 4 * count > 1024:
                raise OsError(EINVAL)
            refs = unpack(f"<{count}I", raw[at : at + 4 * count])
            at += 4 * count
            area = chan.need(gt.xengnttab_map_domain_grant_refs(chan.xgt, offer.domid, refs, prot))
            chan.areas.append((area, count))
            places.append((area, order))
        chan.page = page
        chan.connect_rings(places[0], places[1])
        os.store(page + CLI_LIVE, bytes((LIVE,)))
        chan.notify()
    except OSError:
        chan.close()
        raise
    return chan
