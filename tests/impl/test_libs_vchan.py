"""A channel of libxenvchan in plain memory: its layout by the public header, rings inside the page, ends, and failures.

The oracle of the layout is public/io/libxenvchan.h, written out by hand. Both ends share one memory that stands for granted
pages. Not here: grants and ports as Xen makes them (test_channel.py, test_minios.py).
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Sequence

import pytest

from bulkhead.impl.libs.osdep import Osdep, OsError
from bulkhead.impl.libs.vchan import Offer, Vchan, client_init, server_init

PAGE = 4096
FIRST_REF = 8


class Side(Osdep):
    """One domain's devices over a shared memory of pages by reference; fails the operation that it should."""

    def __init__(self, pages: dict[int, bytearray], fails: int = -1) -> None:
        self.pages = pages
        self.fails = fails
        self.steps = 0
        self.at: dict[int, int] = {}  # mapped pages: address, reference
        self.asked: list[tuple[str, object]] = []
        self.granted: set[int] = set()
        self.open = 0
        self.rung: list[int] = []
        self.pending: list[int] = []

    def _step(self) -> None:
        self.steps += 1
        if self.steps - 1 == self.fails:
            raise OsError(errno.ENFILE)

    def _opened(self) -> int:
        self._step()
        self.open += 1
        return 3

    gntshr_open = gnttab_open = evtchn_open = _opened

    def close(self, fd: int) -> None:
        self.open -= 1

    def _map(self, refs: Sequence[int]) -> int:
        self._step()
        first = 0x10000 * (len(self.at) + 1)
        for k, ref in enumerate(refs):
            self.at[first + k * PAGE] = ref
        return first

    def gntshr_share(self, fd: int, domid: int, count: int, writable: bool, offset: int, port: int) -> tuple[int, list[int]]:
        self.asked.append(("share", (domid, count, writable, offset, port)))
        refs = list(range(FIRST_REF + len(self.pages), FIRST_REF + len(self.pages) + count))
        addr = self._map(refs)
        self.pages.update({ref: bytearray(PAGE) for ref in refs})
        self.granted |= {*refs}
        return addr, refs

    def gnttab_map(self, fd: int, grants: Sequence[tuple[int, int]], prot: int, offset: int, port: int) -> int:
        self.asked.append(("map", (list(grants), prot, offset, port)))
        return self._map([ref for _, ref in grants])

    def gntshr_unshare(self, fd: int, addr: int, count: int) -> None:
        for k in range(count):
            self.granted.remove(self.at.pop(addr + k * PAGE))  # who maps the page keeps it

    def gnttab_unmap(self, fd: int, addr: int, count: int) -> None:
        for k in range(count):
            del self.at[addr + k * PAGE]

    def evtchn_bind_unbound_port(self, fd: int, domid: int) -> int:
        self._step()
        self.asked.append(("unbound", domid))
        return 5

    def evtchn_bind_interdomain(self, fd: int, domid: int, port: int) -> int:
        self._step()
        self.asked.append(("bind", (domid, port)))
        return 6

    def evtchn_notify(self, fd: int, port: int) -> None:
        self.rung.append(port)

    def evtchn_pending(self, fd: int) -> int:
        if not self.pending:
            raise OsError(errno.EAGAIN)
        return self.pending.pop(0)

    def evtchn_unmask(self, fd: int, port: int) -> None:
        self.asked.append(("unmask", port))

    def load(self, addr: int, size: int) -> bytes:
        whole = self.pages[self.at[addr & -PAGE]]
        assert (addr & PAGE - 1) + size <= PAGE or size > PAGE - (addr & PAGE - 1)
        out = bytes(whole[addr & PAGE - 1 :][:size])
        return out if len(out) == size else out + self.load((addr & -PAGE) + PAGE, size - len(out))

    def store(self, addr: int, payload: bytes) -> None:
        room = PAGE - (addr & PAGE - 1)
        whole = self.pages[self.at[addr & -PAGE]]
        part = payload[:room]
        whole[addr & PAGE - 1 : (addr & PAGE - 1) + len(part)] = part
        if payload[room:]:
            self.store((addr & -PAGE) + PAGE, payload[room:])


def pair(left: int, right: int) -> tuple[Side, Vchan, Side, Vchan, bytearray]:
    """Both ends, and the shared page."""
    pages: dict[int, bytearray] = {}
    ours, theirs = Side(pages), Side(pages)
    server, offer = server_init(ours, 2, left, right)
    assert offer == Offer(-1, FIRST_REF, 5)
    client = client_init(theirs, Offer(7, offer.ring_ref, offer.port))
    return ours, server, theirs, client, pages[FIRST_REF]


@pytest.mark.parametrize("left, right", [(10, 11), (11, 10), (10, 12), (12, 11), (12, 12), (13, 14)])
def test_the_layout_is_that_of_the_header(left: int, right: int) -> None:
    """Orders, live bytes, grants behind them; rings of 1 and 2 KiB inside the page, at 1024 and 2048."""
    ours, server, theirs, client, page = pair(left, right)
    counts = [1 << (order - 12) if order >= 12 else 0 for order in (left, right)]
    refs = list(range(FIRST_REF + 1, FIRST_REF + 1 + sum(counts)))
    assert struct.unpack_from("<HHBBBB", page, 16) == (left, right, 1, 1, 1, 0)
    assert list(struct.unpack_from(f"<{len(refs)}I", page, 24)) == refs and page[24 + 4 * len(refs) : 1024] == bytes(
        1000 - 4 * len(refs)
    )
    assert client.send(b"from the client") and server.send(b"from the server")
    assert struct.unpack_from("<4I", page) == (0, 15, 0, 15)
    for order, text, first in ((left, b"from the client", 0), (right, b"from the server", counts[0])):
        held = page[{10: 1024, 11: 2048}[order] :] if order < 12 else ours.pages[refs[first]]
        assert held[:15] == text
    assert server.recv(15) == b"from the client" and client.recv(15) == b"from the server"
    assert struct.unpack_from("<4I", page) == (15, 15, 15, 15)
    # Each change rings the other end: one message, one taken, and the client's coming.
    assert ours.rung == [5, 5] and theirs.rung == [6, 6, 6]
    # The whole page, then each ring: the client writes the left one only.
    maps = [given for what, given in theirs.asked if what == "map"]
    expected = [([(7, FIRST_REF)], 3, 20, 6)]
    expected += [([(7, r) for r in refs[: counts[0]]], 3, -1, -1)] if counts[0] else []
    expected += [([(7, r) for r in refs[counts[0] :]], 1, -1, -1)] if counts[1] else []
    assert maps == expected and ("bind", (7, 5)) in theirs.asked
    shares = [given for what, given in ours.asked if what == "share"]
    assert shares == [(2, 1, True, -1, -1), *((2, n, True, -1, -1) for n in counts if n)] and ("unbound", 2) in ours.asked


def test_messages_are_sent_whole() -> None:
    _, server, _, client, _ = pair(10, 11)
    assert client.send(bytes(1000)) and not client.send(bytes(25)) and client.send(bytes(24)) and client.unread() == 1024
    for chan, most in ((client, 1024), (server, 2048)):
        with pytest.raises(OSError) as caught:
            chan.send(bytes(most + 1))
        assert caught.value.errno == errno.EINVAL
    assert server.send(bytes(2048)) and not server.send(b"x")
    assert server.recv(1025) is None and server.peek(1024) == bytes(1024) == server.recv(1024) and server.ready() == 0


def test_an_impossible_index_is_an_error_of_the_protocol() -> None:
    _, server, _, client, page = pair(12, 12)
    for chan, prod in ((server, 4), (client, 12)):
        struct.pack_into("<I", page, prod, 4097)
        with pytest.raises(OSError) as caught:
            chan.ready()
        assert caught.value.errno == errno.EPROTO


@pytest.mark.parametrize("left, right", [(10, 11), (12, 13)])
def test_ends(left: int, right: int) -> None:
    """Each end sees that the other has closed, once closes are harmless, and everything is given back."""
    ours, server, theirs, client, page = pair(left, right)
    assert server.is_open() and client.is_open()
    client.send(b"last words")
    client.close()
    client.close()
    assert not client.is_open() and not server.is_open() and page[20:22] == b"\0\1"
    assert server.recv(10) == b"last words"
    assert not theirs.at and theirs.open == 0
    server.close()
    server.close()
    assert page[20:22] == b"\0\0" and not ours.at and not ours.granted and ours.open == 0
    _, server, _, client, page = pair(left, right)
    server.close()
    assert not client.is_open() and page[20:22] == b"\1\0"


def test_a_server_waits_for_its_client() -> None:
    """The client's live byte is 2 until one has come: the channel counts as open."""
    pages: dict[int, bytearray] = {}
    server, _ = server_init(Side(pages), 2, 12, 12)
    assert server.is_open() and pages[FIRST_REF][20:22] == b"\2\1"


def test_events_are_hints() -> None:
    ours, server, _, _, _ = pair(12, 12)
    assert not server.drain_events()
    ours.pending = [5, 5]
    assert server.drain_events() and ours.asked[-2:] == [("unmask", 5)] * 2 and not server.drain_events()


@pytest.mark.parametrize("left, right", [(9, 12), (12, 21), (21, 12), (12, 9), (10, 10), (11, 11)])
def test_orders_that_cannot_be_are_refused(left: int, right: int) -> None:
    """Below 10 or above 20, or two rings at the same place of the page; a client checks what the server wrote."""
    side = Side({})
    with pytest.raises(OSError) as caught:
        server_init(side, 2, left, right)
    assert caught.value.errno == errno.EINVAL and side.steps == 0
    ours, _, _, client, page = pair(12, 12)
    client.close()
    struct.pack_into("<HH", page, 16, left, right)
    theirs = Side(ours.pages)
    with pytest.raises(OSError) as caught:
        client_init(theirs, Offer(7, FIRST_REF, 5))
    assert caught.value.errno == errno.EINVAL and not theirs.at and theirs.open == 0


def test_more_grants_than_the_list_holds_are_refused() -> None:
    """It ends where the rings inside the page begin: 250 references."""
    ours, _, _, client, page = pair(12, 12)
    client.close()
    struct.pack_into("<HH", page, 16, 20, 12)  # 256 + 1
    theirs = Side(ours.pages)
    with pytest.raises(OSError) as caught:
        client_init(theirs, Offer(7, FIRST_REF, 5))
    assert caught.value.errno == errno.EINVAL and not theirs.at


@pytest.mark.parametrize("server", [True, False])
def test_whatever_fails_nothing_is_left(server: bool) -> None:
    """Neither pages nor handles, and the errno of what failed."""
    done = 0
    for fails in range(20):
        pages: dict[int, bytearray] = {}
        _, offer = server_init(Side(pages), 2, 12, 13)
        side = Side(pages, fails)
        try:
            if server:
                server_init(side, 2, 12, 13)
            else:
                client_init(side, offer)
        except OSError as error:
            assert error.errno == errno.ENFILE and not side.at and side.open == 0 and not side.granted
            done += 1
        else:
            break
    assert done == 6
