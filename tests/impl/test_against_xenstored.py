"""Compares our xenstored with the real one: the same requests of Dom0 and two guests, the same answers and watch events.

The real daemon (Xen's C xenstored from Debian) runs without Xen (tests/oracles/xenstored.py); if it is not
installed, these tests skip. Requests of guests go through rings on both sides. Permissions, notifications, quotas, unknown
and forbidden requests and malformed ones are compared. Not compared: transactions, targets, lists in parts and control,
which ours does not have; and requests where the real daemon has no fixed answer (a wrong number of words where one is
expected) or takes for a number what is none. A guest's node has 2048 bytes: ours counts its value alone, the real daemon
also its permissions and the names below it; here values are well below that, or above.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

import pytest

from bulkhead.impl.boot import BootedSystem
from bulkhead.impl.domb.protocol import CreateRequest
from bulkhead.impl.guests.test_kernel import build_kernel
from bulkhead.impl.rings import pages
from bulkhead.impl.rings.xenbus import Xenbus
from bulkhead.impl.tools.store import XsError, home
from tests.oracles.xenstored import Answer, RealXenstored, find

BINARY, WHY_NOT = find()
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)
XS = {
    name: getattr(pages, f"XS_{name}")
    for name in ("READ", "DIRECTORY", "GET_PERMS", "SET_PERMS", "WRITE", "MKDIR", "RM", "WATCH", "UNWATCH", "RESET_WATCHES")
}


FEW_NODES, FEW_WATCHES = 9, 3
RING = 1024  # bytes
ABSENT = (pages.XS_CONTROL, pages.XS_TRANSACTION_START, pages.XS_RESUME, pages.XS_SET_TARGET, pages.XS_DIRECTORY_PART)
OF_ONE_WORD = tuple(XS[name] for name in ("READ", "DIRECTORY", "GET_PERMS", "MKDIR", "RM"))
OF_A_NUMBER = (pages.XS_GET_DOMAIN_PATH, pages.XS_IS_DOMAIN_INTRODUCED)
TYPES = (*range(26), 127, 128, 255, 65536, 0xFFFFFFFF)


class Both:
    """Our daemon and the real one, with the same domains and the same tree."""

    def __init__(self, ours: Path, real: Path, options: Sequence[str] = ()) -> None:
        (ours / "kernel").write_bytes(build_kernel())
        self.machine = BootedSystem("disaggregated", ours)
        self.guests = tuple(self.machine.create(name, CreateRequest("kernel", "", 64)) for name in ("one", "two"))
        for domid in self.guests:
            self.machine.guests[domid].running = False  # the test speaks for it
        self.told: dict[int, list[bytes]] = {domid: [] for domid in self.guests}
        self.real = RealXenstored(BINARY, real, options)
        for domid in sorted(self.machine.xenstored.connections):
            self.real.introduce(domid)
        for name in self.real.must(pages.XS_DIRECTORY, b"/\0").split(b"\0")[:-1]:
            self.real.must(pages.XS_RM, b"/" + name + b"\0")
        self.copy(list(self.machine.xenstored.store.nodes))
        for domid in self.guests:
            self.events(domid)

    def copy(self, paths: list[str]) -> None:
        """Create our nodes in the real tree, too."""
        for path, node in sorted(self.machine.xenstored.store.nodes.items()):
            if path != "/" and path in paths:
                self.real.must(pages.XS_WRITE, path.encode() + b"\0" + node.value)
                perms = b"".join(b"%s%d\0" % (g.letter.encode(), g.domid) for g in node.grants)
                self.real.must(pages.XS_SET_PERMS, path.encode() + b"\0" + perms)

    def ask_ours(self, domid: int, kind: int, payload: bytes, tx_id: int = 0) -> Answer:
        """One request to our daemon; watch events stay in the ring. The guests' library sends no longer ones than that."""
        if not domid or len(payload) > RING - pages.XS_HEADER.size:
            try:
                return kind, self.machine.xenstored.request(domid, kind, tx_id, payload)
            except XsError as exc:
                return pages.XS_ERROR, str(exc).encode() + b"\0"
        number = self.machine.guests[domid].xenbus.request(kind, payload, tx_id)
        answers = {n: (got, body) for got, n, body in self._taken(domid)}
        return answers[number]

    def _taken(self, domid: int) -> list[tuple[int, int, bytes]]:
        """The answers in a guest's ring; watch events are queued separately."""
        out: list[tuple[int, int, bytes]] = []
        busy = True
        while busy:
            busy = self.machine.xenstored.step()
            for message in self.machine.guests[domid].xenbus.take():
                if message[0] == pages.XS_WATCH_EVENT:
                    self.told[domid].append(message[2])
                else:
                    out.append(message)
        return out

    def events(self, domid: int) -> tuple[list[bytes], list[bytes]]:
        """A guest's watch events since the last call: from ours, from the real one."""
        if domid in self.machine.xenstored.connections:
            assert self._taken(domid) == []
        ours, self.told[domid] = self.told[domid], []
        return sorted(set(ours)), sorted(set(self.real.told(domid)))  # the real one may drop duplicates of pending events

    def both(self, domid: int, kind: int, payload: bytes, tx_id: int = 0) -> tuple[object, object]:
        """A request to both: the answers and all watch events of ours and of the real one."""
        ours, real = self.ask_ours(domid, kind, payload, tx_id), self.real.ask(domid, kind, payload, tx_id)
        if kind == pages.XS_DIRECTORY:
            ours, real = ((a[0], b"\0".join(sorted(a[1].split(b"\0")))) for a in (ours, real))
        told = {d: self.events(d) for d in self.guests if d in self.real.rings}
        return (ours, {d: t[0] for d, t in told.items()}), (real, {d: t[1] for d, t in told.items()})

    def end(self, domid: int) -> None:
        """A guest is destroyed, for both daemons."""
        self.machine.xenstored.release(domid)
        self.real.end(domid)
        self.real.ask(0, pages.XS_RM, home(domid).encode() + b"\0")  # ours also does the work of tools

    def begin(self, domid: int) -> None:
        """Another one with its id."""
        info = self.machine.guests[domid].info
        assert info is not None
        self.machine.xenstored.introduce(domid, info.store_mfn, info.store_evtchn)
        self.real.introduce(domid)
        self.copy([home(domid), f"{home(domid)}/data", f"{home(domid)}/control"])
        guest = self.machine.guests[domid]
        guest.xenbus = Xenbus(guest.memory, guest.by_mfn(info.store_mfn), guest.xenbus.notify)


@pytest.fixture
def daemons(tmp_path: Path) -> Iterator[Both]:
    yield from started(tmp_path)


@pytest.fixture
def strict(tmp_path: Path) -> Iterator[Both]:
    """Daemons with small quotas."""
    for made in started(tmp_path, ("-E", str(FEW_NODES), "-W", str(FEW_WATCHES))):
        made.machine.xenstored.store.quota_nodes = FEW_NODES
        made.machine.xenstored.quota_watches = FEW_WATCHES
        yield made


def started(where: Path, options: Sequence[str] = ()) -> Iterator[Both]:
    for name in ("ours", "real"):
        (where / name).mkdir()
    made = Both(where / "ours", where / "real", options)
    yield made
    made.real.close()


def payload_of(rng: Random, kind: str, guests: tuple[int, ...]) -> bytes:
    """A request's payload: short names, so that guests use the same nodes; sometimes nonsense."""
    names = [rng.choice(("data", "a", "b", "control")) for _ in range(rng.randint(1, 3))]
    start = rng.choice(("", "", f"{home(rng.choice(guests))}/", f"{home(rng.choice(guests))}/", "/", "/local/"))
    path = (
        start + "/".join(names)
        if rng.random() < 0.93
        else rng.choice((start.rstrip("/") or "/", "@releaseDomain", "a//b", "", "a/", "/local/domain"))
    ).encode()
    if kind == "WRITE":
        return path + b"\0" + rng.choice((b"", b"v", b"a\0b"))
    if kind == "SET_PERMS":
        perms = [f"{rng.choice('nrwb')}{rng.choice((0, *guests, *guests, 77, 40000))}" for _ in range(rng.randint(0, 4))]
        if rng.random() < 0.1:
            perms.append(rng.choice(("x1", "n", "n70000", "r1x")))
        return path + b"\0" + "".join(f"{each}\0" for each in perms).encode()
    if kind in ("WATCH", "UNWATCH"):
        return path + b"\0" + rng.choice((b"t", b"u")) + b"\0"
    return b"\0" if kind == "RESET_WATCHES" else path + b"\0"


@pytest.mark.parametrize("seed", range(8))
def test_the_real_daemon_answers_the_same(daemons: Both, seed: int) -> None:
    """Requests of all domains about all nodes, with reuse of ids."""
    rng = Random(seed)
    kinds = [k for k in XS for _ in range(6 if k in ("WRITE", "MKDIR", "RM", "SET_PERMS") else 3) if k != "RESET_WATCHES"]
    for k in range(500):
        gone = [d for d in daemons.guests if d not in daemons.real.rings]
        if rng.random() < 0.02:
            if gone:
                daemons.begin(gone[0])
            else:
                daemons.end(daemons.guests[1])
            for domid in daemons.real.rings.keys() & set(daemons.guests):
                events = daemons.events(domid)
                assert gone or events[0] == events[1], f"after request {k} of seed {seed}"  # else: `begin` has set up nodes
            continue
        caller = rng.choice([0, *(d for d in daemons.guests if d not in gone)])
        kind = rng.choice(kinds)
        payload = payload_of(rng, kind, daemons.guests)
        gives_root = kind == "SET_PERMS" and payload.startswith((b"@", b"/\0"))
        if gives_root or (caller == 0 and ("WATCH" in kind or payload[:1] == b"@")):
            continue  # tools of ours do not watch, special events have no permissions, the root is not given away
        ours, real = daemons.both(caller, XS[kind], payload)
        assert ours == real, f"request {k} of seed {seed}: {kind} {payload!r} of domain {caller}"


def unusual(rng: Random, kind: int, guests: tuple[int, ...]) -> bytes:
    """The payload of a request of any type, often malformed."""
    name = next((each for each, number in XS.items() if number == kind), "READ")
    payload = payload_of(rng, name, guests)
    odd = rng.random()
    if kind in OF_A_NUMBER:
        return b"%d\0" % rng.choice((0, *guests, 77, 0x7FEF))
    if kind == pages.XS_TRANSACTION_END:
        return rng.choice((b"T\0", b"F\0", b"X\0", b"T", b"", b"\0", b"T\0F\0"))
    if odd < 0.15 and kind not in OF_ONE_WORD:
        return rng.choice((payload.rstrip(b"\0"), payload + b"x", payload + b"x\0", payload + b"\0", b""))
    if odd < 0.3:
        return payload.replace(b"a", rng.choice((b"\xff", b"\xc3\xa9", b" ", b"~", b"\n", b"@", b"/", b"A-_9")))
    if odd < 0.35:
        return rng.choice((b"a" * 2048, b"a" * 2049, b"/" + b"a" * 3071, b"/" + b"a" * 3072)) + b"\0"
    return payload


@pytest.mark.parametrize("seed", range(100, 105))
def test_unusual_requests_get_the_same_answers(daemons: Both, seed: int) -> None:
    """Unknown types, those of tools, numbers of transactions that do not exist, malformed payloads."""
    rng = Random(seed)
    for k in range(400):
        caller = rng.choice((0, *daemons.guests, *daemons.guests))
        kind, tx_id = rng.choice(TYPES), rng.choice((0, 0, 1, 5, 0xFFFFFFFF))
        payload = unusual(rng, kind, daemons.guests)
        if kind == pages.XS_DIRECTORY_PART or (kind in ABSENT and (not caller or (kind == 6 and not tx_id))):
            continue
        if not caller and (
            kind in (XS["WATCH"], XS["UNWATCH"], pages.XS_INTRODUCE, pages.XS_RELEASE) or payload[:1] == b"@"
        ):
            continue  # tools of ours do not watch; the domains stay
        if kind == XS["SET_PERMS"] and payload.startswith((b"@", b"/\0")):
            continue
        ours, real = daemons.both(caller, kind, payload, tx_id)
        assert ours == real, f"request {k} of seed {seed}: {kind} {payload[:60]!r} of domain {caller}, transaction {tx_id}"


@pytest.mark.parametrize("seed", range(200, 204))
def test_quotas_are_reached_at_the_same_request(strict: Both, seed: int) -> None:
    """Nodes of their owner, however they were made or given away, and watches."""
    rng = Random(seed)
    one, two = strict.guests
    refused = set()
    for k in range(400):
        caller = rng.choice((0, one, one, one, two))
        kind = rng.choice(("WRITE", "WRITE", "MKDIR", "RM", "WATCH", "WATCH", "UNWATCH", "SET_PERMS"))
        names = "/".join(rng.choice("abcd") for _ in range(rng.randint(1, 3)))
        path = f"{home(rng.choice((one, one, two)))}/data/{names}".encode() + b"\0"
        if kind in ("WATCH", "UNWATCH"):
            caller, path = caller or one, path + rng.choice((b"t\0", b"u\0"))
        elif kind == "SET_PERMS":
            path += b"n%d\0" % rng.choice((one, two)) + b"".join(b"b%d\0" % one for _ in range(rng.choice((0, 1, 4, 5))))
        elif kind == "WRITE":
            path += bytes(rng.choice((0, 1, 1800, 2049 if caller else 1800)))
        ours, real = strict.both(caller, XS[kind], path)
        assert ours == real, f"request {k} of seed {seed}: {kind} {path[:60]!r} of domain {caller}"
        refused.add(real[0])  # type: ignore[index]
    assert {(16, b"ENOSPC\0"), (16, b"E2BIG\0")} <= refused


def test_answers_are_compared_in_earnest(daemons: Both) -> None:
    """A permission that only our daemon has is noticed."""
    one, two = daemons.guests
    path = f"{home(one)}/data".encode() + b"\0"
    assert daemons.both(two, pages.XS_MKDIR, path)[0] == daemons.both(two, pages.XS_MKDIR, path)[1]
    daemons.machine.xenstored.store.set_perms(0, f"{home(one)}/data", (("b", one),))
    ours, real = daemons.both(two, pages.XS_MKDIR, path)
    assert ours != real


def test_events_longer_than_a_message_are_dropped(daemons: Both) -> None:
    """By the real daemon, too; requests of guests go to ours without a ring, which is shorter than this watch."""
    one, _ = daemons.guests
    token = b"t" * 4000
    watch = b"data\0" + token + b"\0"
    daemons.machine.xenstored.request(one, pages.XS_WATCH, 0, watch)
    assert daemons.real.ask(one, pages.XS_WATCH, watch) == (pages.XS_WATCH, b"OK\0")
    daemons.real.ask(one, pages.XS_READ, b"name\0")
    daemons.events(one)
    for size, events in ((89, 1), (90, 0), (1000, 0)):
        daemons.ask_ours(0, pages.XS_WRITE, path := f"{home(one)}/data/{'n' * size}".encode() + b"\0")
        daemons.real.must(pages.XS_WRITE, path)
        daemons.real.ask(one, pages.XS_READ, b"name\0")  # the answer comes behind the events
        ours, real = daemons.events(one)
        assert ours == real and len(ours) == events


def test_what_goes_is_told_from_below(daemons: Both) -> None:
    """Of a tree that is removed, the lowest nodes are told first, by watches of themselves; then the top, by all above."""
    one, _ = daemons.guests
    for name in ("a", "a/b", "a/b/c", "a/d", "ab"):
        daemons.both(one, XS["MKDIR"], f"data/{name}\0".encode())
    for name, token in (
        ("data", "0"),
        ("data/a", "1"),
        ("data/a/b", "2"),
        ("data/a/b/c", "3"),
        ("data/a/d", "4"),
        ("data/ab", "5"),
    ):
        daemons.both(one, XS["WATCH"], f"{name}\0{token}\0".encode())
    daemons.ask_ours(one, XS["RM"], b"data/a\0")
    daemons.real.ask(one, XS["RM"], b"data/a\0")
    daemons.real.ask(one, XS["READ"], b"name\0")
    daemons._taken(one)
    ours, real = list(daemons.told[one]), list(daemons.real.told(one))
    assert [set(ours), len(ours)] == [set(real), len(real)] and len(ours) == 5
    for told in (ours, real):
        assert told.index(b"data/a/b/c\0003\0") < told.index(b"data/a/b\0002\0") < told.index(b"data/a\0001\0")
        assert told.index(b"data/a/d\0004\0") < told.index(b"data/a\0001\0")
