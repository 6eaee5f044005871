"""Explores all states of a small world of DomB: all actions of one hostile process, until there are no new states.

The process connects, sends requests, answers as the file proxy does, or wrongly, writes garbage, disconnects, is killed and
comes again, and maps the reserved page of the guest; a build may fail and DomB may die at each of its steps. After each
action both sides are compared completely, and in each new state all claims are evaluated. `canonical` identifies states by
the data that determine the implementation's further behaviour. A build that waits for files is a running function and cannot
be saved, so such a state is reached again from the start, and each action from it is taken in a child process.
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
from bulkhead.proofs.refinement.domb.machine import Crash, Machine, Process
from bulkhead.proofs.refinement.domb.world import Size, rules_for
from bulkhead.proofs.refinement.exhaustive.search import Expanded, Result, run_worlds, search
from bulkhead.proofs.refinement.lockstep.abstraction import dump
from bulkhead.proofs.refinement.lockstep.spec_state import Mismatch

GUEST: Final = 2  # the id of the first guest
REQUEST: Final = p.CreateRequest("kernel0", "", 64, "").pack()
ASKS: Final = {"unpause": p.UNPAUSE, "pause": p.PAUSE, "destroy": p.DESTROY}
STEPS: Final = 16  # no build has more steps
CHUNK: Final = 4  # states per task of a worker
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
        super().__init__(rules_for(Size()), 1, root, daemons=False)
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
                out += ["garbage"] * self.limits.lies + [*self.limits.asks] + ["create"] * (self.left > 0)
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


@dataclass(frozen=True)
class Found:
    """The result of one action: the new state, and a mismatch if there was one."""

    action: str
    state: bytes
    failure: str = ""


def digest(small: Small) -> bytes:
    """The hash that identifies a state."""
    return hashlib.blake2b(repr(canonical(small)).encode(), digest_size=16).digest()


def take(small: Small, action: str) -> Found:
    """Take an action, in a process that ends afterwards."""
    try:
        small.happen(action)
        state = digest(small)
    except Mismatch as error:
        return Found(action, b"", "\n".join([error.what, *dump(error.places)]))
    except Exception as error:  # any exception of the implementation is a finding
        return Found(action, b"", f"{type(error).__name__}: {error}")
    return Found(action, state)


def apart(small: Small, action: str) -> Found:
    """Take an action in a child process: this process does not change."""
    back, there = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(back)
            with os.fdopen(there, "wb") as out:
                pickle.dump(take(small, action), out)
        finally:
            os._exit(0)
    os.close(there)
    with os.fdopen(back, "rb") as answer:
        data = answer.read()
    os.waitpid(child, 0)
    if not data:
        return Found(action, b"", "the process that took it came to a bad end")
    found: Found = pickle.loads(data)
    return found


def expand(paths: list[Path_], limits: Limits, root: str) -> list[Expanded[Path_]]:
    """Every action from every state that these paths lead to."""
    out = []
    for path in paths:
        gc.collect()  # machines contain reference cycles: without collection they accumulate, and forks become slow
        small = Small(Path(root), limits)
        for action in path:
            small.happen(action)
        try:
            small.follower.book.check_claims()
        except Mismatch as error:
            out.append(Expanded[Path_]((), 1, f"{error.what} after {[*path, 'nothing more']}"))
            continue
        found = [apart(small, action) for action in small.actions()]
        failures = [f"{each.failure} after {[*path, each.action]}" for each in found if each.failure]
        fresh = tuple((each.state, (*path, each.action)) for each in found if not each.failure)
        out.append(Expanded(fresh, len(found), next(iter(failures), "")))
    return out


def explore(limits: Limits, depth: int | None = None, jobs: int | None = None, seconds: float | None = None) -> Result:
    """Search breadth first until there are no new states, the time is up, or `depth` is reached."""
    with tempfile.TemporaryDirectory(prefix="bulkhead-domb-") as folder:
        files(Path(folder))
        root = str(Path(folder) / "exported")
        work = functools.partial(expand, limits=limits, root=root)
        start: Path_ = ()
        return search(limits.text(), digest(Small(Path(root), limits)), start, work, CHUNK, jobs, seconds, depth)


if __name__ == "__main__":
    run_to_end(lambda _: run_worlds(WORLDS, explore))
