"""Explores all states of a small world of DomB: all actions of one hostile process, until there are no new states.

The process connects, sends requests, answers as the file proxy does, or wrongly, writes garbage, disconnects, is killed and
comes again, and maps the reserved page of the guest; a build may fail and DomB may die at each of its steps. After each
action both sides are compared completely, and in each new state all claims are evaluated. `canonical` identifies states by
the data that determine the implementation's further behaviour. A build that waits for files is a running function and cannot
be saved, so a state is a process: it forks a child for each action, and the child searches behind it.
`python -m bulkhead.proofs.refinement.domb.exhaustive` runs the worlds of the README.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import hashlib
import os
import pickle
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
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
from bulkhead.proofs.refinement.domb.machine import Crash, Machine, Process
from bulkhead.proofs.refinement.domb.world import Size, rules_for
from bulkhead.proofs.refinement.exhaustive.search import Result, run_worlds
from bulkhead.proofs.refinement.lockstep.abstraction import dump
from bulkhead.proofs.refinement.lockstep.spec_state import Mismatch

SIZE: Final = Size(heap=200, lives=8, nodes=2, visits=1, watches=1)  # two guests of 64 pages, and no XenStore
GUEST: Final = 2  # the id of the first guest
REQUEST: Final = p.CreateRequest("kernel0", "", 64, "").pack()
ASKS: Final = {"unpause": p.UNPAUSE, "pause": p.PAUSE, "destroy": p.DESTROY}
STEPS: Final = 16  # no build has more steps
UNREAD: Final = 2  # answers in the ring, at which the process asks for nothing more
NESTED: Final = 48  # processes that wait for each other; longer paths are gone again from the start
Path_ = tuple[str, ...]


@dataclass(frozen=True)
class Limits:
    """The limits of a world. `steps`: a build fails or DomB dies at every n-th of its steps, or at none (0)."""

    requests: int = 1
    asks: tuple[str, ...] = ("unpause", "destroy")
    steps: int = 1
    maps: bool = True
    lies: bool = True

    def text(self) -> str:
        """A readable form."""
        stops = f", builds that stop at every {self.steps}. step" if self.steps else ""
        return (
            f"{self.requests} request{'s' * (self.requests > 1)}, {', '.join(self.asks) or 'no question'}"
            f"{', a mapping' * self.maps}{', lies' * self.lies}{stops}"
        )


SMALLEST = Limits(asks=(), steps=0, maps=False, lies=False)
WORLDS = (
    SMALLEST,
    replace(SMALLEST, lies=True),
    replace(SMALLEST, asks=("unpause",)),
    replace(SMALLEST, requests=2),
    replace(SMALLEST, steps=1),
    replace(SMALLEST, maps=True),
    Limits(),
    Limits(requests=2),
)


class Small(Machine):
    """The machine with one process; actions are given by name, without random choices."""

    def __init__(self, root: Path, limits: Limits) -> None:
        super().__init__(rules_for(SIZE), 1, root, daemons=False)
        self.limits = limits
        self.left = limits.requests
        self.stop = ("", -1)  # the end of the build, and its step
        self.spawn()

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
            self.follower.excused = True
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
            if told:
                out += ["answer"] if told[0].op & p.REPLY or not self.limits.lies else ["answer", "refuse", "answer another"]
            if not self.waiting():
                unread = sum(1 for m in told if m.op & p.REPLY)  # else answers pile up, until the ring is full
                out += ["garbage"] * self.limits.lies + ["create"] * (self.left > 0)
                out += self.limits.asks if unread < UNREAD else ()
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
            self.spawn()
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
        elif word == "map":
            who.xgt = who.xgt or gt.xengnttab_open(who.os)
            assert who.xgt is not None
            addr = gt.xengnttab_map_grant_ref(who.xgt, GUEST, 0, 3)
            who.mapped += [addr] if addr is not None else []
        elif word == "unmap" and who.xgt is not None:
            gt.xengnttab_unmap(who.xgt, who.mapped.pop(), 1)
        self.compare()

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
        who.xgt is not None,
        len(who.proxy.files),
        len(rig.domb.late),
        domains,
        ports,
        rig.xen.frames.free_count,
        rig.domb.ram.in_use(),
        small.follower.stage,
    )


def digest(small: Small) -> bytes:
    """The hash that identifies a state."""
    return hashlib.blake2b(repr(canonical(small)).encode(), digest_size=16).digest()


@dataclass
class Behind:
    """What lies behind an action: states that nobody had seen, with the number of actions to them; paths that were too long
    to follow here; and the first mismatch."""

    states: dict[bytes, int] = field(default_factory=dict)
    actions: int = 0
    left: list[Path_] = field(default_factory=list)
    failure: str = ""

    def add(self, more: Behind) -> None:
        """What lies behind one more action."""
        self.states |= more.states
        self.actions += more.actions
        self.left += more.left
        self.failure = self.failure or more.failure


@dataclass(frozen=True)
class Walk:
    """A search depth first. The process at a state forks one child for each action, which searches behind it and ends."""

    depth: int | None  # the most actions from the start
    until: float | None  # the time at which no more actions are taken
    seen: dict[bytes, int]  # all states that this process knows, with the fewest actions to each

    def over(self) -> bool:
        """Is the time up?"""
        return self.until is not None and time.perf_counter() > self.until

    def is_new(self, state: bytes, length: int) -> bool:
        """Must the state be expanded? With a limit of depth, a state may be reached again by fewer actions."""
        known = self.seen.get(state)
        return known is None or (self.depth is not None and length < known)

    def behind(self, small: Small, path: Path_) -> Behind:
        """Every action from a state, and from each new state behind it."""
        out = Behind()
        if self.depth is not None and len(path) >= self.depth:
            return Behind(left=[path])
        try:
            small.follower.book.check_claims()
        except Mismatch as error:
            return Behind(failure=f"{error.what} after {[*path, 'nothing more']}")
        for action in small.actions():
            if self.over():
                out.left.append(path)
            if out.failure or self.over():
                break
            found = apart(functools.partial(self.take, small, path, action))
            self.seen.update(found.states)
            out.add(found)
        return out

    def take(self, small: Small, path: Path_, action: str) -> Behind:
        """Take an action, in a process that ends afterwards, and search behind it."""
        here = (*path, action)
        try:
            small.happen(action)
            state = digest(small)
        except Mismatch as error:
            return Behind(failure="\n".join([error.what, *dump(error.places)]) + f" after {[*here]}")
        except Exception as error:  # any exception of the implementation is a finding
            return Behind(failure=f"{type(error).__name__}: {error} after {[*here]}")
        out = Behind(actions=1)
        if self.is_new(state, len(here)):
            self.seen[state] = out.states[state] = len(here)
            if len(here) % NESTED:
                out.add(self.behind(small, here))
            else:
                out.left.append(here)
        return out

    def again(self, small: Small, path: Path_) -> Behind:
        """Go a path that was too long once more, from the start, and search behind it."""
        for action in path:
            small.happen(action)
        return self.behind(small, path)


def apart(work: Callable[[], Behind]) -> Behind:
    """Work in a child process: this process does not change."""
    back, there = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(back)
            with os.fdopen(there, "wb") as out:
                pickle.dump(work(), out)
        finally:
            os._exit(0)
    os.close(there)
    with os.fdopen(back, "rb") as answer:
        data = answer.read()
    os.waitpid(child, 0)
    if not data:
        return Behind(failure="a process of the search came to a bad end")
    found: Behind = pickle.loads(data)
    return found


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Without collection of cycles: a collector's writes would copy all memory into each child."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def compile_all(small: Small) -> None:
    """Compile every rule step and claim once, instead of in each child."""
    rules = small.follower.book.rules
    for label in rules.caller.steps:
        rules.step(label)
    small.follower.book.check_claims()


def explore(limits: Limits, depth: int | None = None, seconds: float | None = None) -> Result:
    """Search until there are no new states, the time is up, or only states at `depth` are left."""
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="bulkhead-domb-") as folder:
        files(Path(folder))
        small = Small(Path(folder) / "exported", limits)
        walk = Walk(depth, None if seconds is None else begin + seconds, {digest(small): 0})
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


if __name__ == "__main__":
    run_to_end(lambda _: run_worlds(WORLDS, explore))
