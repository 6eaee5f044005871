"""Followers of the XenStore and console daemons, which are processes of Dom0 and serve rings of hostile guests.

The classes are the implementation's own, with hooks. Each request that the XenStore daemon handles must be the
next one in that guest's ring, as the daemon has read it (taps.py), each answer must be to it, and the ring must get
exactly the answers and events, in their order. A console must store each byte taken exactly once, and put its input into the
ring. Not here: the semantics of requests (store_side.py), and the start and end of the daemons (daemons.py).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from bulkhead.impl.dom0.syscalls import Syscalls
from bulkhead.impl.libs.linux import LinuxOsdep
from bulkhead.impl.libs.osdep import OsDriver
from bulkhead.impl.tools import xenconsoled
from bulkhead.impl.tools.store import XsError
from bulkhead.impl.tools.xenstored import MAX_UNSENT, Connection
from bulkhead.impl.xen.abi import EEXIST
from bulkhead.impl.xen.frames import Frame
from bulkhead.impl.xen.pagetables import PTE_MFN
from bulkhead.proofs.refinement.domb.dom0_side import Dom0Side
from bulkhead.proofs.refinement.domb.messages import ERROR, EVENT, MOST
from bulkhead.proofs.refinement.domb.plain_daemons import Consoled, PlainOsdep, Stored
from bulkhead.proofs.refinement.domb.rig import granted
from bulkhead.proofs.refinement.domb.store_side import Event, Heard, StoreSide
from bulkhead.proofs.refinement.domb.taps import MASK, Tap
from bulkhead.proofs.refinement.lockstep.abstraction import Places
from bulkhead.proofs.refinement.lockstep.rule_steps import Mismatch

PAGE_MASK: Final = 4095
HEADER: Final = 16
WATCH: Final = 4
BAD_INDEX, BAD_PROTOCOL = b"\2\0\0\0", b"\3\0\0\0"
CONSOLE_REF, XENSTORE_REF = 0, 1  # the reserved grants
SHOWN: Final = 400  # bytes of output that are compared as people see them
# Independent layout of xs_wire.h and console.h: data, size, consumer index, producer index of both rings of a page.
STORE_RINGS: Final = ((0, 1024, 2048, 2052), (1024, 1024, 2056, 2060))
CONSOLE_RINGS: Final = ((1024, 2048, 3080, 3084), (0, 1024, 3072, 3076))
# What the console's daemon keeps of a guest's output and of its input: the newest, and the oldest, 64 KiB (impl/README.md).
KEPT: Final = 1 << 16
STORE_INDICES, STORE_ERROR = 2048, 2072  # the error says why a connection has ended (docs/misc/xenstore-ring.txt)


class DaemonOsdep(PlainOsdep):
    """The operating system of a daemon's libraries. `rings`: layout of its input and output ring in a guest's page."""

    def __init__(self, driver: OsDriver, rings: tuple[tuple[int, int, int, int], tuple[int, int, int, int]]) -> None:
        super().__init__(driver)
        self.rings = rings
        self.taps: dict[int, tuple[Tap, Tap]] = {}
        self.errors: dict[int, int] = {}  # its writes to the error word of a page
        self.moves = 0  # how often it has published an index, or handled a request
        self.reset: set[int] = set()  # pages whose indices it has cleared
        self.published: dict[int, int] = {}  # page -> when it published an index there last
        self.looked: set[int] = set()  # pages of which it has read a guest's index in this step
        self.tick: Callable[[], int] = lambda: 0

    def ends(self, page: int) -> tuple[Tap, Tap]:
        """The taps of a page, for reads and writes."""
        if page not in self.taps:
            reads, writes = self.rings
            self.taps[page] = (Tap("what a guest sends", reads, True), Tap("what a guest gets", writes, False))
        return self.taps[page]

    def _tap(self, addr: int) -> Tap | None:
        at = addr & PAGE_MASK
        return next((tap for tap in self.ends(addr - at) if tap.covers(at)), None)

    def load(self, addr: int, size: int) -> bytes:
        out = LinuxOsdep.load(self, addr, size)
        tap = self._tap(addr)
        if tap is None:
            raise Mismatch(f"a daemon reads {size} bytes at {addr & PAGE_MASK} of a guest's page, where no ring is")
        tap.loaded(addr & PAGE_MASK, out)
        if addr & PAGE_MASK == tap.peers:
            self.looked.add(addr & ~PAGE_MASK)
        self.raced()
        return out

    def store(self, addr: int, payload: bytes) -> None:
        LinuxOsdep.store(self, addr, payload)
        at = addr & PAGE_MASK
        if self.rings is STORE_RINGS and at == STORE_INDICES and payload == bytes(16):
            for each in self.ends(addr - at):  # a new connection
                each.mine = None  # it reads its own index once
            self.errors.pop(addr - at, None)
            self.reset.add(addr - at)
        elif self.rings is STORE_RINGS and at == STORE_ERROR and len(payload) == 4:
            self.errors[addr - at] = int.from_bytes(payload, "little")
        else:
            tap = self._tap(addr)
            if tap is None:
                raise Mismatch(f"a daemon writes {len(payload)} bytes at {at} of a guest's page, where no ring is")
            tap.stored(at, payload)
            if at == tap.own:
                self.published[addr - at] = self.tick()
                self.moves += 1
        self.raced()

    def stepped(self, pages: Iterable[int]) -> None:
        """The daemon has taken a step, and serves these pages: it has looked into each, whatever others wanted of it."""
        if not self.looked.issuperset(pages):
            raise Mismatch("a daemon has taken a step, and has not looked into the rings of all its guests")

    def sends(self, page: int, waiting: bytes) -> None:
        """The daemon has served this page, and so much still waits for its guest: there was no room for it."""
        if waiting and self.ends(page)[1].room > 0:
            raise Mismatch("a daemon keeps bytes back for which there is room in a guest's ring")

    def forget(self, page: int) -> None:
        """The page is not mapped any more."""
        self.taps.pop(page, None)
        self.errors.pop(page, None)
        self.reset.discard(page)
        self.published.pop(page, None)

    def frame_of(self, page: int) -> Frame:
        """What the process has mapped there."""
        driver = self.driver
        assert isinstance(driver, Syscalls)
        space = driver.process.space
        return space.kernel.xen.frames.table[(space.pte(page >> 12) & PTE_MFN) >> 12]

    def signals(self, page: int, port: int, signalled: Mapping[int, int]) -> None:
        """The daemon has served this ring, and may wait: the guest must hear of what it has published there."""
        if self.published.get(page, 0) > signalled.get(port, 0):
            raise Mismatch("a daemon has published an index in a guest's ring, and has not signalled the guest")


class WatchedStored(Stored):
    """XenStore's daemon. `asker` is the process of Dom0 that makes the current request."""

    def __init__(self, os: DaemonOsdep, side: StoreSide, follower: Dom0Side, space: int) -> None:
        self.side, self.follower = side, follower
        self.coming: dict[Connection, bytes] = {}  # bytes taken from its ring and not yet handled
        self.going: dict[Connection, bytes] = {}  # expected next bytes in its ring
        self.handled: list[bytes] = []  # answers of the served ring, in order
        self.serving: Connection | None = None
        self.taps = os
        os.tick = follower.tick
        super().__init__(os, space)

    def request(self, domid: int, kind: int, tx_id: int, payload: bytes) -> bytes:
        if self.dead:
            raise XsError("EIO")
        number = self._next(domid, kind, tx_id, payload) if domid else 0
        self.taps.moves += bool(domid)
        asker, self.follower.who = self.follower.who, self.space
        before = {c: (len(c.unsent), len(c.unsent) >= MAX_UNSENT) for c in self.connections.values()}
        error, answer = "", b""
        self.follower.refused = False
        try:
            answer = super().request(domid, kind, tx_id, payload)
        except XsError as exc:
            error = str(exc)
        finally:
            self.follower.who = asker
        events = [e for c, (length, _) in before.items() for e in self._fired(c, length)]
        self.side.refused = self.follower.refused
        if self.serving is not None and domid and before[self.serving][1]:
            raise Mismatch(f"domain {domid} takes no answer, and more of them wait for it than may")
        if any(full and len(c.unsent) > before[c][0] for c, (_, full) in before.items()):
            raise Mismatch("a guest takes nothing out of its ring, and more and more events wait for it")
        deaf = frozenset(c.domid for c, (_, full) in before.items() if full or len(c.unsent) >= MAX_UNSENT)
        self.side.heard(asker, domid, kind, tx_id, payload, Heard(error, answer, events, deaf))
        if domid and self.serving is not None:
            body = error.encode() + b"\0" if error else answer
            self.going[self.serving] += frame(ERROR if error else kind, number, tx_id, body)
            if kind == WATCH and not error and len(self.going[self.serving]) < MAX_UNSENT:  # or its guest takes nothing
                self.going[self.serving] += frame(EVENT, 0, 0, payload[: payload.rindex(b"\0") + 1])
        if error:
            raise XsError(error)
        return answer

    def _next(self, domid: int, kind: int, tx: int, payload: bytes) -> int:
        """Check that the request is this guest's next one; returns its number."""
        c = self.serving
        if c is None or c.domid != domid:
            raise Mismatch(f"a request of domain {domid} is handled while the ring of {c and c.domid} is served")
        self._take(c)
        raw = self.coming[c]
        found = (*words(raw), raw[HEADER : HEADER + length(raw)]) if len(raw) >= HEADER else None
        if found is None or (found[0], found[2], found[4]) != (kind, tx, payload) or len(raw) < HEADER + found[3]:
            raise Mismatch(f"domain {domid} did not ask for what is handled: {kind} {payload!r}, but {found}")
        self.coming[c] = raw[HEADER + found[3] :]
        return found[1]

    def _take(self, c: Connection) -> None:
        self.coming[c] = self.coming.get(c, b"") + self.taps.ends(c.mapping.addr)[0].taken()

    def _fired(self, c: Connection, start: int) -> list[Event]:
        """Events queued for a connection."""
        out: list[Event] = []
        raw = c.unsent[start:]
        if raw:
            self.going[c] = self.going.get(c, b"") + raw
        while raw:
            kind, number, tx, size = words(raw)
            if size > MOST:
                raise Mismatch(f"domain {c.domid} is sent {size} bytes in one message")
            body = raw[HEADER : HEADER + size]
            path, token, rest = body.split(b"\0")
            if (kind, number, tx, rest) != (EVENT, 0, 0, b""):
                raise Mismatch(f"domain {c.domid} is sent {kind} {body!r} although it has asked for nothing")
            out.append((c.domid, path.decode(), token.decode("latin-1")))
            raw = raw[HEADER + size :]
        return out

    def step(self) -> bool:
        self.taps.looked.clear()
        busy = super().step()
        self.taps.stepped(c.mapping.addr for c in self.connections.values() if not c.ignored)
        return busy

    def _serve(self, connection: Connection) -> bool:
        self.serving = connection
        was_ignored = connection.ignored
        self.going.setdefault(connection, b"")
        busy = super()._serve(connection)
        self.serving = None
        self._take(connection)
        if connection.ignored and not was_ignored:
            self.side.ignored(connection.domid)
            said = self.taps.errors.get(connection.mapping.addr, 0).to_bytes(4, "little")
            why = BAD_INDEX if self.taps.ends(connection.mapping.addr)[0].impossible else BAD_PROTOCOL
            if said != why:
                raise Mismatch(
                    f"the connection of domain {connection.domid} is ended, and its page says {said!r}, not {why!r}"
                )
        self.taps.signals(connection.mapping.addr, connection.port, self.follower.signalled)
        reads, writes = self.taps.ends(connection.mapping.addr)
        raw = self.coming[connection]
        bad = reads.impossible or (len(raw) >= HEADER and length(raw) > MOST)
        whole = len(raw) >= HEADER and len(raw) >= HEADER + length(raw)
        if not was_ignored and bad != connection.ignored:
            raise Mismatch(
                f"domain {connection.domid} {'has' if bad else 'has not'} broken the protocol, and is ignored or not"
            )
        sent = writes.taken()
        if sent and connection.ignored:
            raise Mismatch(f"domain {connection.domid} has broken the protocol, and gets {sent[:80]!r}")
        if whole and not bad and len(sent) + len(connection.unsent) < MAX_UNSENT:
            raise Mismatch(f"a request of domain {connection.domid} is not handled")
        if sent + connection.unsent != self.going[connection]:
            raise Mismatch(
                f"domain {connection.domid} gets {sent!r}, then {connection.unsent!r}, not {self.going[connection]!r}"
            )
        if not connection.ignored:
            self.taps.sends(connection.mapping.addr, connection.unsent)
        self.going[connection] = connection.unsent
        return busy

    def introduce(self, domid: int, mfn: int, port: int) -> None:
        super().introduce(domid, mfn, port)
        page = self.connections[domid].mapping.addr
        if page not in self.taps.reset or self.taps.errors.get(page) != 0:
            raise Mismatch(f"domain {domid} is connected, and the indices or the error in its ring's page stay as they were")
        whose_ring(self.taps, page, self.follower, domid, XENSTORE_REF)

    def release(self, domid: int) -> None:
        connection = self.connections.get(domid)
        super().release(domid)
        if connection is not None:
            self.taps.forget(connection.mapping.addr)
            self.coming.pop(connection, None)
            self.going.pop(connection, None)

    def close(self) -> None:
        there = list(self.connections)
        super().close()
        if self.connections:
            raise Mismatch(f"xenstored has stopped, and has not released {list(self.connections)}")
        for domid in there:
            self.side.released(self.space, domid)


def words(raw: bytes) -> tuple[int, int, int, int]:
    """The four words of a message's header."""
    return tuple(int.from_bytes(raw[i : i + 4], "little") for i in range(0, HEADER, 4))  # type: ignore[return-value]


def length(raw: bytes) -> int:
    """The length of a message's body."""
    return words(raw)[3]


def frame(kind: int, number: int, tx: int, body: bytes) -> bytes:
    """A message."""
    return b"".join(n.to_bytes(4, "little") for n in (kind, number, tx, len(body))) + body


def whose_ring(taps: DaemonOsdep, page: int, follower: Dom0Side, domid: int, ref: int) -> None:
    """A daemon has mapped the page of its ring: the one that the reserved grant names."""
    if taps.frame_of(page) is not granted(follower.rig, domid, ref):
        raise Mismatch(f"a daemon has mapped another page of domain {domid} than the one that grant {ref} names")


def shown(raw: bytes) -> str:
    """Guest output for a terminal: by Unicode's categories no control or format character, no separator but space, no
    character that is not assigned; a newline and a tab may stay (Xen's advisories on consoles name escape sequences)."""
    text = raw.decode("utf-8", "replace")
    return "".join(c if c in "\n\t " or unicodedata.category(c)[0] not in "CZ" else "\ufffd" for c in text)


class WatchedConsoled(Consoled):
    """The console's daemon."""

    def __init__(self, os: DaemonOsdep, follower: Dom0Side, space: int) -> None:
        self.follower = follower
        self.taps = os
        self.kept: dict[int, bytes] = {}  # each guest's output
        self.typed: dict[int, bytes] = {}  # input not yet delivered
        os.tick = follower.tick
        super().__init__(os, space)

    def add(self, domid: int, mfn: int, port: int) -> None:
        asker, self.follower.who = self.follower.who, self.space
        again = domid in self.consoles and not self.dead
        try:
            super().add(domid, mfn, port)
            if again:
                raise Mismatch(f"the console of domain {domid} is connected twice")
            self.kept[domid], self.typed[domid] = b"", b""
            whose_ring(self.taps, self.consoles[domid].mapping.addr, self.follower, domid, CONSOLE_REF)
        except OSError as error:
            if again != (error.errno == EEXIST):
                raise Mismatch(f"connecting the console of domain {domid} fails with {error.errno}") from error
            raise
        finally:
            self.follower.who = asker

    def remove(self, domid: int) -> bytes:
        if self.dead:
            return b""
        console = self.consoles.get(domid)
        left = 0 if console is None else self._left(console.mapping.addr)
        asker, self.follower.who = self.follower.who, self.space
        try:
            output = super().remove(domid)
        finally:
            self.follower.who = asker
        if console is not None:
            if len(self.taps.ends(console.mapping.addr)[0].moved) < left:
                raise Mismatch(f"{left} bytes that domain {domid} has printed last are not read")
            self._came(domid, console.mapping.addr)
            if output != self.kept.pop(domid):
                raise Mismatch(f"the last words of domain {domid} are {output[-80:]!r}")
            if xenconsoled.printable(output[-SHOWN:]) != shown(output[-SHOWN:]):
                raise Mismatch(f"the last words of domain {domid} are not shown as they may be: {output[-SHOWN:]!r}")
            self.taps.forget(console.mapping.addr)
            del self.typed[domid]
        return output

    def type(self, domid: int, text: bytes) -> None:
        if domid in self.consoles:
            self._went(domid, self.consoles[domid].mapping.addr)  # what is cut depends on what has gone out before
        super().type(domid, text)
        self.typed[domid] = (self.typed[domid] + text)[:KEPT]

    def step(self) -> bool:
        asker, self.follower.who = self.follower.who, self.space
        self.taps.looked.clear()
        try:
            busy = super().step()
        finally:
            self.follower.who = asker
        self.taps.stepped(console.mapping.addr for console in self.consoles.values())
        for console in self.consoles.values():
            self.taps.sends(console.mapping.addr, console.waiting)
            self.taps.signals(console.mapping.addr, console.port, self.follower.signalled)
        return busy

    def _left(self, page: int) -> int:
        """The number of bytes in a ring; 0 if its indices are impossible. The daemon is not involved."""
        tap = self.taps.ends(page)[0]
        index = int.from_bytes(LinuxOsdep.load(self.taps, page + tap.peers, 4), "little")
        waiting = (index - (tap.mine or 0)) & MASK
        return 0 if waiting > tap.size else waiting + len(tap.moved)

    def _came(self, domid: int, page: int) -> None:
        self.kept[domid] = (self.kept[domid] + self.taps.ends(page)[0].taken())[-KEPT:]

    def _went(self, domid: int, page: int) -> None:
        sent = self.taps.ends(page)[1].taken()
        if not self.typed[domid].startswith(sent):
            raise Mismatch(f"domain {domid} gets {sent[:80]!r}, and not what was typed: {self.typed[domid][:80]!r}")
        self.typed[domid] = self.typed[domid][len(sent) :]

    def compare(self, out: Places) -> None:
        """Compare guests' output and pending input; returns the differences."""
        for domid, console in self.consoles.items():
            self._came(domid, console.mapping.addr)
            self._went(domid, console.mapping.addr)
            if self.kept[domid] != console.output or self.output(domid) != console.output:
                out[f"console[{domid}].output"] = (self.kept[domid][-200:], console.output[-200:])
            if self.typed[domid] != console.waiting:
                out[f"console[{domid}].waiting"] = (self.typed[domid], console.waiting)


__all__ = ["CONSOLE_RINGS", "STORE_RINGS", "XENSTORE_REF", "DaemonOsdep", "WatchedConsoled", "WatchedStored", "frame"]
