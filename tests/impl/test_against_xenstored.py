"""Compares our xenstored with the real one: the same requests of Dom0 and two guests, the same answers and watch events.

The real daemon (Xen's C xenstored from Debian) runs without Xen (tests/oracles/xenstored.py); if it is not
installed, these tests skip. Requests of guests go through rings on both sides. Permissions and notifications are
compared; transactions and control, which ours does not have, are not used, and quotas are not reached.
"""

from __future__ import annotations

from collections.abc import Iterator
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


class Both:
    """Our daemon and the real one, with the same domains and the same tree."""

    def __init__(self, ours: Path, real: Path) -> None:
        (ours / "kernel").write_bytes(build_kernel())
        self.machine = BootedSystem("disaggregated", ours)
        self.guests = tuple(self.machine.create(name, CreateRequest("kernel", "", 64)) for name in ("one", "two"))
        for domid in self.guests:
            self.machine.guests[domid].running = False  # the test speaks for it
        self.told: dict[int, list[bytes]] = {domid: [] for domid in self.guests}
        self.real = RealXenstored(BINARY, real)
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

    def ask_ours(self, domid: int, kind: int, payload: bytes) -> Answer:
        """One request to our daemon; watch events stay in the ring."""
        if not domid:
            try:
                return kind, self.machine.xenstored.request(0, kind, 0, payload)
            except XsError as exc:
                return pages.XS_ERROR, str(exc).encode() + b"\0"
        number = self.machine.guests[domid].xenbus.request(kind, payload)
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

    def both(self, domid: int, kind: int, payload: bytes) -> tuple[object, object]:
        """A request to both: the answers and all watch events of ours and of the real one."""
        ours, real = self.ask_ours(domid, kind, payload), self.real.ask(domid, kind, payload)
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
    for name in ("ours", "real"):
        (tmp_path / name).mkdir()
    made = Both(tmp_path / "ours", tmp_path / "real")
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
