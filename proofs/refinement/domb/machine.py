"""The target of DomB's campaigns: one machine with its processes, daemons and guests, which makes one call at a time.

The implementation runs in lockstep with the rules, or alone. At some moments within a call (`Moment`: DomB has loaded
something, takes a step of a build or a message, makes a call that may fail; a daemon has loaded something; an honest tool
waits) `meanwhile` may make other calls. Moments are counted, so that a recording can say when these came. Not here: which
call is made (workload/), and how each is made (target.py, operations.py, guests.py).
"""

from __future__ import annotations

import contextlib
import errno as names
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from bulkhead.impl.dom0.kernel import KernelError
from bulkhead.impl.domb import protocol as p
from bulkhead.impl.libs import gnttab as gt
from bulkhead.impl.libs.linux import LinuxOsdep
from bulkhead.impl.libs.vchan import Offer, Vchan
from bulkhead.impl.tools.fileproxy import FileProxy
from bulkhead.model.caller import OKAY
from bulkhead.proofs.refinement.domb.alone import Alone
from bulkhead.proofs.refinement.domb.book import Book
from bulkhead.proofs.refinement.domb.client_side import ClientEnd
from bulkhead.proofs.refinement.domb.compare import compare, compare_daemons
from bulkhead.proofs.refinement.domb.daemons import Daemons
from bulkhead.proofs.refinement.domb.follow import Follower
from bulkhead.proofs.refinement.domb.proxy_side import ProxySide
from bulkhead.proofs.refinement.domb.rig import Rig, WatchedService
from bulkhead.proofs.refinement.domb.store_side import StoreSide
from bulkhead.proofs.refinement.domb.users import Users
from bulkhead.proofs.refinement.domb.world import DOMB, Rules
from bulkhead.proofs.refinement.lockstep.rule_steps import Log, Mismatch

DESCRIPTORS: Final = "/proc/self/fd"
LOAD, FAIL, STEP, TAKEN = "load", "fail", "step", "taken"  # moments of DomB
DAEMON, WAIT = "daemon", "wait"
# What DomB has loaded: the beginning of the next message in its ring, or its client's index of one of the rings.
MESSAGE, INDEX_TO_DOMB, INDEX_FROM_DOMB = "message", "index to DomB", "index from DomB"
OF_DOMB: Final = (LOAD, FAIL, STEP, TAKEN)


class Crash(BaseException):
    """DomB's vCPU stops here."""


class Killed(BaseException):
    """kill -9 of the tool that makes the current call."""


class Moment(NamedTuple):
    """Within a call others may act: its number, its kind, and what happens just now."""

    number: int
    kind: str
    what: str


class Proxy(FileProxy):
    """The file proxy of a tool; every file that it really opens is checked, and every answer."""

    def __init__(self, root: Path, heard: Callable[[bool, bool], None]) -> None:
        super().__init__(root)
        self.heard = heard
        self.said = (0, b"")  # its last answer
        self.side = ProxySide(root)

    def open(self, path: bytes) -> int:
        try:
            number = super().open(path)
        except OSError:
            self.heard(False, False)
            raise
        real = Path(os.readlink(f"/proc/self/fd/{self.files[number]}"))
        if not real.is_file():
            raise Mismatch(f"the file proxy gives out {real.name}, which is no file")
        if not fcntl.fcntl(self.files[number], fcntl.F_GETFL) & os.O_NONBLOCK:
            raise Mismatch("the file proxy opens what may make it wait for ever")
        self.heard(True, real.is_relative_to(self.root.resolve()))
        return number

    def handle(self, op: int, body: bytes) -> tuple[int, bytes]:
        beside = len(os.listdir(DESCRIPTORS)) - len(self.files)
        self.said = super().handle(op, body)
        if len(os.listdir(DESCRIPTORS)) - len(self.files) != beside:
            raise Mismatch("the file proxy keeps a file or a folder open that is none of those it has given out")
        self.side.heard(op, body, self.said)
        return self.said

    def close_all(self) -> None:
        super().close_all()
        self.side.files.clear()


class Process:
    """A process of Dom0: its libraries, its end of a channel if it has one, and what else it has mapped."""

    def __init__(self, space: int, osdep: LinuxOsdep, proxy: Proxy) -> None:
        self.space = space
        self.os = osdep
        self.proxy = proxy
        self.chan: Vchan | None = None
        self.pipe: p.Pipe | None = None
        self.xgt: gt.XenGnttab | None = None
        self.mapped: list[int] = []  # addresses of pages mapped beside the channel
        self.busy = False  # a call of an honest tool is in progress
        self.killed = False  # and it was killed meanwhile
        self.waiting = False  # it waits for the channel, which another one has
        self.peer = DOMB  # the domain at its other end, if it has a channel
        self.end: ClientEnd | None = None  # of the channel
        self.question: tuple[int, bytes] | None = None  # what its file proxy says to the last message, and did not send yet

    def leaves(self) -> contextlib.AbstractContextManager[None]:
        """It leaves its channel, if it has one, or is killed."""
        return contextlib.nullcontext() if self.end is None else self.end.leaves()


class Machine:
    """All actors of one machine. Raises Mismatch where rules and implementation differ."""

    def __init__(
        self,
        rules: Rules,
        seed: int,
        root: Path,
        rules_on: bool = True,
        log: Log | None = None,
        daemons: bool = True,
        compare_every: int = 1,
    ) -> None:
        self.size, self.root = rules.size, root
        self.rig = Rig(seed, rules.size.heap, rules.size.domb_pages)
        self.book = Book(rules, self.rig.own_mfns, self.rig.first_mfn, log) if rules_on else None
        self.ear: Follower | Alone = Alone() if self.book is None else Follower(self.rig, self.book)
        self.ear.fault = self._fault
        self.service: WatchedService = self.rig.listen(self.ear)
        if isinstance(self.ear, Follower):
            self.ear.service = self.service
        self.service.on_step = self.step_of_a_build
        self.service.taken = lambda message: self.moment(TAKEN, str(message.op))
        self.rig.os.raced = self._loaded
        self.processes: dict[int, Process] = {}
        self.users = Users(rules, self.rig, self.book, self.ear)
        self.before = self.counts()
        self.daemons: Daemons | None = None
        if daemons:
            self.daemons = Daemons(self.rig, self.ear, None if self.book is None else StoreSide(self.book))
            self.daemons.raced = lambda: self.moment(DAEMON)
        self.meanwhile: Callable[[Any], None] = lambda moment: None
        self.up = True
        self.in_domb = False
        self.crashing = False
        self.errno = 0  # what DomB's current call must fail with
        self.moments = 0
        self.now: Moment | None = None
        self.inside = 0  # calls in progress in the midst of which the sides are not compared
        self.compare_every = compare_every
        self.seen = 0  # rule steps, when a call ended last
        self.passed = 0  # calls with rule steps since the sides were compared
        self.besides = -1  # rule steps that were not XenStore's, when all was compared last
        self.service.offer()

    # Comparison.

    def compare(self, now: bool = False) -> None:
        """After every few calls that took a rule step, and `now`: everything, if one was taken since the last time. If all
        since then were XenStore's, which change nothing else, only the daemons are compared."""
        self.ear.settle()
        if self.book is None or not isinstance(self.ear, Follower):
            return
        steps = self.book.steps
        self.passed += steps != self.seen
        self.seen = steps
        if self.passed and (now or self.passed >= self.compare_every):
            self.passed = 0
            side = None if self.daemons is None else self.daemons.side
            besides = steps - (0 if side is None else side.steps)
            if self.daemons is None or now or besides != self.besides or self.compare_every == 1:
                self.besides = besides
                compare(self.ear, self.daemons, self.users)
            else:
                compare_daemons(self.daemons)

    def counts(self) -> dict[str, int]:
        """How much there is of what may leak."""
        domb, kernel = self.rig.domb, self.rig.kernel
        return {
            "free frames": self.rig.xen.frames.free_count,
            "domains": len(self.rig.xen.domains),
            "Dom0's free pages": len(kernel.free_pages),
            "Dom0's free addresses": len(kernel.free_slots),
            "Dom0's ports": len(kernel.domain.events.ports),
            "DomB's used pages": domb.ram.in_use(),
            "DomB's used addresses": domb.demand.in_use(),
            "DomB's free references": len(domb.free_refs),
            "DomB's ports": len(domb.domain.events.ports),
            "Dom0's free references": len(kernel.free_refs),
            "Dom0's held ports": len(kernel.evtchn_holds),
            "Dom0's handles": sum(1 for r in kernel.domain.grant_table.maptrack if r.flags & 3),
            "DomB's open handles": len(self.rig.os.files),
        }

    # Moments.

    def moment(self, kind: str, what: str = "") -> None:
        """Others may act now; Crash if DomB dies of it."""
        self.moments += 1
        inner = kind != WAIT
        outer, self.now = self.now, Moment(self.moments, kind, what)
        self.inside += inner
        try:
            self.meanwhile(self.now)
        finally:
            self.inside -= inner
            self.now = outer
        if self.crashing and kind in OF_DOMB:
            self.crashing = False
            raise Crash

    def _loaded(self, addr: int) -> None:
        if self.in_domb:
            self.moment(LOAD, self._what_is_at(addr))

    def _what_is_at(self, addr: int) -> str:
        """What of its channel DomB has loaded from an address."""
        chan = self.service.chan
        if chan is None or chan.reader is None or chan.writer is None:
            return ""
        if addr == chan.writer.ring.cons:
            return INDEX_FROM_DOMB
        if addr == chan.reader.ring.prod:
            return INDEX_TO_DOMB
        return MESSAGE if addr == self.next_message(None) else ""

    def next_message(self, of: Vchan | None) -> int:
        """The address of the next message that DomB takes: DomB's own, or that of a client with this end of the channel."""
        chan = self.service.chan
        reader = None if chan is None else chan.reader
        if reader is None:
            return -1
        ring = reader.ring if of is None or of.writer is None else of.writer.ring
        return ring.data + (reader.cons & (ring.size - 1))

    def _fault(self, what: str) -> int:
        """The errno with which DomB's next call must fail."""
        if not self.in_domb:
            return 0
        self.errno = 0
        self.moment(FAIL, what)
        return self.errno

    def step_of_a_build(self, step: str, what: str) -> None:
        """DomB takes a step of a build, which may fail."""
        if isinstance(self.ear, Follower):
            self.ear.begins_a_step(step)
        self.errno = 0
        self.moment(STEP, step)
        if self.errno:
            self.ear.excuse(self.errno)
            raise KernelError(self.errno)

    # DomB.

    def domb(self) -> None:
        """DomB does all that it need not wait for."""
        self.rig.xen.last_domid = DOMB  # ids are reused as soon as they are free
        self.in_domb = True
        if isinstance(self.ear, Follower):
            self.ear.begins()
        try:
            busy = self.service.step()
        except Crash:
            self.crash()
        else:
            if isinstance(self.ear, Follower):
                self.ear.stepped(busy)
        finally:
            self.in_domb = False

    def crash(self) -> None:
        """DomB dies and is not restarted."""
        self.up = False
        self.rig.domb.domain.crashed = True
        if not isinstance(self.ear, Follower):
            return
        book, self.ear.service = self.ear.book, None
        book.step("domb_crashes", {})
        for label, at in book.m["Point"].items():
            if book.T["at"][0] == at and label.startswith("take_") and label.endswith(".act"):
                book.step(label, {"this": 0}, "EINTR")  # a message that DomB had taken is lost

    # Processes.

    def spawn(self) -> Process:
        """A new process."""
        space = self.ear.spawn()
        self.ear.who = space
        made = Process(space, self.rig.process(f"p{space}"), Proxy(self.root, self.ear.opened))
        self.processes[space] = made
        return made

    def kill(self, who: Process) -> None:
        """kill -9."""
        self.ear.dies(who.space)
        who.proxy.close_all()
        with who.leaves():
            who.os.driver.exit()  # type: ignore[attr-defined]
        self.ear.died(who.space)
        del self.processes[who.space]

    def offer(self) -> Offer | None:
        """The address of DomB's channel, as in XenStore."""
        found = self.service.offered
        return None if found is None else Offer(DOMB, found.ring_ref, found.port)


def error_name(errno: int | None) -> str:
    """The code of an answer: the errno's name."""
    return names.errorcode.get(errno, str(errno)) if errno else OKAY


__all__ = ["Crash", "Killed", "Machine", "Moment", "Process", "error_name"]
