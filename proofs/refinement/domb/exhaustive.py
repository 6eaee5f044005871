"""Explores all states of a small world of DomB: all actions of one hostile process, until there are no new states.

The process connects, sends requests, answers as the file proxy does, or wrongly, writes garbage, disconnects, is killed and
comes again, and maps the reserved page of the guest; a build may fail and DomB may die at each of its steps. After each
action both sides are compared completely, and in each new state all claims are evaluated. `canonical` identifies states by
the data that determine the implementation's further behaviour. A build that waits for files is a running function and cannot
be saved, so states are processes (forked.py). `python -m bulkhead.proofs.refinement.domb.exhaustive` runs the worlds of the
README and compares their numbers of states and actions with those that are written here.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from bulkhead.impl.dom0.kernel import KernelError
from bulkhead.impl.domb import protocol as p
from bulkhead.impl.libs import gnttab as gt
from bulkhead.impl.libs.vchan import CLI_LIVE, Vchan, client_init
from bulkhead.impl.xen import abi
from bulkhead.proofs.jobs import run_to_end
from bulkhead.proofs.refinement.domb.exports import files
from bulkhead.proofs.refinement.domb.follow import Follower
from bulkhead.proofs.refinement.domb.forked import Path_, Walk, apart, uncollected
from bulkhead.proofs.refinement.domb.machine import Crash, Machine, Process
from bulkhead.proofs.refinement.domb.world import Size, rules_for
from bulkhead.proofs.refinement.exhaustive.search import Result, run_worlds

# Two guests of 64 pages, and no XenStore. If it is too small, a step says of what there are too few.
SIZE: Final = Size(
    heap=200,
    refs=(0, 1, *range(8, 16), 5000),
    processes=4,
    translations=80,
    handles=20,
    lives=5,
    files=8,
    maps=20,
    ports=14,
    buffers=12,
    pieces=24,
    nodes=2,
    visits=1,
    watches=1,
)
GUEST: Final = 2  # the id of the first guest
REQUEST: Final = p.CreateRequest("kernel0", "", 64, "").pack()
ASKS: Final = {"unpause": p.UNPAUSE, "pause": p.PAUSE, "destroy": p.DESTROY}
STEPS: Final = 16  # no build has more steps


@dataclass(frozen=True)
class Limits:
    """The limits of a world. `steps`: a build fails or DomB dies at every n-th of its steps, or at none (0). `unread`: with
    so many answers in the ring the process asks for nothing more, else they pile up until it is full. `patient`: the process
    sends a message only when DomB has taken the one before it."""

    requests: int = 1
    asks: tuple[str, ...] = ("unpause", "destroy")
    steps: int = 1
    maps: bool = True
    lies: bool = True
    unread: int = 2
    patient: bool = False

    def text(self) -> str:
        """A readable form."""
        stops = f", builds that stop at every {self.steps}. step" if self.steps else ""
        return (
            f"{self.requests} request{'s' * (self.requests > 1)}, {', '.join(self.asks) or 'no question'}"
            f"{', a mapping' * self.maps}{', lies' * self.lies}{stops}{', one message at a time' * self.patient}"
        )


@dataclass(frozen=True)
class Counted:
    """A world and the result of its search to the end, which a change of the implementation or the rules may change."""

    limits: Limits
    states: int
    actions: int


SMALLEST: Final = Limits(asks=(), steps=0, maps=False, lies=False)
ALL: Final = Limits(unread=1, patient=True)
WORLDS: Final = (
    Counted(SMALLEST, 127, 408),
    Counted(replace(SMALLEST, lies=True), 912, 3316),
    Counted(replace(SMALLEST, asks=("unpause",)), 540, 2043),
    Counted(replace(SMALLEST, requests=2), 618, 2074),
    Counted(replace(SMALLEST, steps=1), 147, 586),
    Counted(replace(SMALLEST, maps=True), 133, 560),
    Counted(ALL, 3266, 18502),
)


class Small(Machine):
    """The machine with one process; actions are given by name, without random choices."""

    def __init__(self, root: Path, limits: Limits) -> None:
        super().__init__(rules_for(SIZE), 1, root, daemons=False)
        self.limits = limits
        self.left = limits.requests
        self.stop = ("", -1)  # the end of the build, and its step
        self.arrive()

    def arrive(self) -> None:
        """A new process; if it may map, it has its file for that open from the beginning, which nobody else can see."""
        who = self.spawn()
        if self.limits.maps:
            who.xgt = gt.xengnttab_open(who.os)

    @property
    def who(self) -> Process:
        """The process."""
        return next(iter(self.processes.values()))

    @property
    def follower(self) -> Follower:
        """The follower of DomB."""
        assert isinstance(self.ear, Follower)
        return self.ear

    def step_of_a_build(self, step: str, what: str) -> None:
        how, at = self.stop
        self.stop = (how, at - 1)
        if at == 0 and how == "die":
            raise Crash
        if at == 0 and how == "fail":
            self.follower.excuse(abi.EIO)
            raise KernelError(abi.EIO)

    def waiting(self) -> list[p.Message]:
        """Messages that DomB has not taken."""
        chan = self.service.chan
        return messages(chan) if chan is not None and self.up else []

    def questions(self) -> list[p.Message]:
        """Messages that the process has not taken."""
        return messages(self.who.chan) if self.who.chan is not None and not self.who.chan.closed else []

    def actions(self) -> list[str]:
        """The actions possible now."""
        who, out = self.who, ["kill"]
        if self.up:
            out.append("domb")
        if who.chan is None:
            out += ["connect"] * (self.offer() is not None and self.up)
        else:
            out.append("close")
            told = self.questions()
            if told and not (self.limits.patient and self.waiting()):
                out += ["answer"] if told[0].op & p.REPLY or not self.limits.lies else ["answer", "refuse", "answer another"]
            if not self.waiting():
                unread = sum(1 for m in told if m.op & p.REPLY)
                out += ["garbage"] * self.limits.lies + ["create"] * (self.left > 0)
                out += self.limits.asks if unread < self.limits.unread else ()
        if self.limits.maps:
            out.append("unmap" if who.mapped else "map")
        reading = self.follower.reading
        if (
            self.up
            and self.limits.steps
            and reading is not None
            and self.waiting()
            and self.follower.question[0] == p.FILE_CLOSE
            and not reading.doomed
        ):
            out += [f"{how} {k}" for how in ("fail", "die") for k in range(0, STEPS, self.limits.steps)]
        return out

    def happen(self, name: str) -> None:
        """Take the action and compare both sides; Mismatch."""
        who = self.who
        self.follower.who = who.space
        word, _, number = name.partition(" ")
        if word == "kill":
            self.kill(who)
            self.arrive()
        elif word in ("domb", "fail", "die"):
            self.stop = (word, int(number) if number else -1)
            if self.up:
                self.domb()
            self.stop = ("", -1)
        elif word == "connect":
            self._connect(who)
        elif word == "close" and who.chan is not None:
            who.chan.close()
            who.chan = who.pipe = None
        elif word in ("answer", "refuse"):
            self._answer(name)
        elif word == "garbage" and who.chan is not None:
            with contextlib.suppress(OSError):
                who.chan.send(b"\xff" * p.HEADER.size)
        elif word == "create":
            self.left -= 1
            self._send(who, p.Message(p.CREATE, 1, 0, REQUEST))
        elif word in ASKS:
            self._send(who, p.Message(ASKS[word], 2, 0, p.DOMID.pack(GUEST)))
        elif word == "map" and who.xgt is not None:
            addr = gt.xengnttab_map_grant_ref(who.xgt, GUEST, 0, 3)
            who.mapped += [addr] if addr is not None else []
        elif word == "unmap" and who.xgt is not None:
            gt.xengnttab_unmap(who.xgt, who.mapped.pop(), 1)
        self.compare()

    def check_claims(self) -> None:
        """Check all claims about states; Mismatch."""
        self.follower.book.check_claims()

    def digest(self) -> bytes:
        """The hash that identifies the state."""
        return hashlib.blake2b(repr(canonical(self)).encode(), digest_size=16).digest()

    def _connect(self, who: Process) -> None:
        offer = self.offer()
        assert offer is not None
        with contextlib.suppress(OSError):
            who.chan = client_init(who.os, offer)
            who.pipe = p.Pipe(who.chan)

    def _send(self, who: Process, message: p.Message) -> None:
        assert who.pipe is not None
        with contextlib.suppress(OSError):
            who.pipe.send(message)

    def _answer(self, how: str) -> None:
        pipe = self.who.pipe
        assert pipe is not None
        message = pipe.receive()
        if message is None or message.op & p.REPLY:
            return
        status, body = (-abi.ENOENT, b"") if how == "refuse" else self.who.proxy.handle(message.op, message.body)
        number = message.number + (how == "answer another")
        self._send(self.who, p.Message(message.op | p.REPLY, number, status, body))


def messages(chan: Vchan) -> list[p.Message]:
    """The unread contents of a ring; garbage counts as a separate message."""
    out: list[p.Message] = []
    assert chan.reader is not None
    with contextlib.suppress(OSError):
        raw = chan.peek(chan.ready()) or b""
        while len(raw) >= p.HEADER.size:
            magic, op, number, status, length = p.HEADER.unpack_from(raw)
            if magic != p.MAGIC:
                return [*out, p.Message(-1, 0, 0, b"")]
            out.append(p.Message(op, number, status, raw[p.HEADER.size : p.HEADER.size + length]))
            raw = raw[p.HEADER.size + length :]
    return out


def canonical(small: Small) -> tuple[object, ...]:
    """The data that determine the implementation's further behaviour; message numbers by their owner."""
    service, rig, reading, who = small.service, small.rig, small.follower.reading, small.who
    asked = service.asked[1]
    chan = service.chan
    taken = small.follower.taken() if small.up else 0
    domains = [
        (
            d,
            domain.pause_count,
            domain.is_dying,
            domain.creation_finished,
            len(domain.pages),
            sorted(domain.events.ports),
            domain.grant_table.entry_v1(0)[0] if domain.grant_table.shared else -1,
        )
        for d, domain in sorted(rig.xen.domains.items())
        if d > 1
    ]
    ports = sorted(
        (port.state, -1 if port.remote is None else port.remote.domid)
        for d in (0, 1)
        for port in rig.xen.domains[d].events.ports.values()
    )
    return (
        small.up,
        small.left,
        service.job is not None,
        service.failing is not None,
        service.wanted,
        None
        if reading is None
        else (len(reading.files), len(reading.got), bool(reading.stat), reading.doomed, reading.ended, service.asked[0]),
        [(m.op, m.number == asked, m.status, len(m.body)) for m in small.waiting()],
        [(m.op, m.number == asked, m.status, len(m.body)) for m in small.questions()],
        [(m.op, m.status) for m in service.outbox],
        [
            (d, b.told, b.abandoned, b.at is not None, b.at is not None and b.at <= taken)
            for d, b in sorted(service.guests.items())
        ],
        chan is not None and small.up and rig.os.load(chan.page + CLI_LIVE, 1),
        who.chan is not None,
        len(who.mapped),
        len(who.proxy.files),
        len(rig.domb.late),
        domains,
        ports,
        rig.xen.frames.free_count,
        rig.domb.ram.in_use(),
        small.follower.stage,
    )


def compile_all(small: Small) -> None:
    """Compile every rule step and claim once, instead of in each child."""
    rules = small.follower.book.rules
    for label in rules.caller.steps:
        rules.step(label)
    small.check_claims()


def explore(limits: Limits, depth: int | None = None, seconds: float | None = None) -> Result:
    """Search until there are no new states, the time is up, or only states at `depth` are left."""
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="bulkhead-domb-") as folder:
        files(Path(folder))
        small = Small(Path(folder) / "exported", limits)
        walk = Walk(depth, None if seconds is None else begin + seconds, {small.digest(): 0})
        result = Result(limits.text())
        waiting: list[Path_] = [()]
        cut: list[Path_] = []
        compile_all(small)
        with uncollected():
            while waiting and not result.failure:
                path = waiting.pop()
                if walk.over() or (depth is not None and len(path) >= depth):
                    cut.append(path)
                    continue
                found = apart(functools.partial(walk.again, small, path))
                walk.seen.update(found.states)
                waiting += found.left
                result.actions += found.actions
                result.failure = found.failure
    result.states = len(walk.seen)
    result.complete = not (result.failure or waiting or cut)
    result.seconds = time.perf_counter() - begin
    return result


def count(world: Counted) -> Result:
    """Search a world to its end; a failure if there are other numbers of states and actions than are written here."""
    result = explore(world.limits)
    found = result.states, result.actions
    if result.complete and found != (world.states, world.actions):
        result.failure = f"{found} states and actions, not {(world.states, world.actions)} as in WORLDS and the README"
        result.complete = False
    return result


if __name__ == "__main__":
    run_to_end(lambda _: run_worlds(WORLDS, count))
