"""Chooses the next action from a seed: of honest and hostile tools, file proxies, daemons, guests, and DomB, which may die.

Honest tools are the implementation's own (impl/tools), while others act as they wait; hostile ones write arbitrary data
to the pages of the ring, also between two loads of DomB, send unrequested answers, wrong file data, and disconnect at any
moment. DomB's calls are sometimes made to fail. Not here: the comparison (follow.py, compare.py).
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable
from pathlib import Path

from bulkhead.impl.dom0.kernel import KernelError
from bulkhead.impl.domb import protocol as p
from bulkhead.impl.libs import gnttab as gt
from bulkhead.impl.libs.linux import LinuxOsdep
from bulkhead.impl.libs.vchan import Offer, Vchan, client_init
from bulkhead.impl.rings import pages as wire
from bulkhead.impl.tools.fileproxy import FileProxy
from bulkhead.impl.tools.services import RemoteService, ToolError
from bulkhead.impl.tools.xl import Xl
from bulkhead.impl.xen import abi
from bulkhead.impl.xen.domains import ALIVE
from bulkhead.proofs.refinement.domb.compare import compare
from bulkhead.proofs.refinement.domb.daemons import Daemons, WatchedStored
from bulkhead.proofs.refinement.domb.files import BAD, BIG_DISK, GOOD, PAGES, SMALL_DISKS
from bulkhead.proofs.refinement.domb.follow import Follower
from bulkhead.proofs.refinement.domb.hostile import Strangers
from bulkhead.proofs.refinement.domb.rig import Rig, WatchedService
from bulkhead.proofs.refinement.domb.store_side import StoreSide
from bulkhead.proofs.refinement.domb.world import DOMB, KERNEL, NOBODY, Book, Rules
from bulkhead.proofs.refinement.lockstep.spec_state import Mismatch

MOST_PROCESSES = 4
CLAIMS_EVERY = 24
NAMES = ("kernel0", "kernel1", *(f"bad{i}" for i in range(len(BAD))))
DISKS = ("", "", *(f"disk{i}" for i in range(len(SMALL_DISKS))), "big")
STRANGE = (
    "../secret",
    "/etc/passwd",
    "link",
    "dir/../kernel0",
    "away/passwd",
    "dir",
    "",
    "kernel0/x",
    "a\0b",
    "nothing",
    "x" * 900,
    "dir/kernel0",
)


class Crash(BaseException):
    """DomB's vCPU stops here."""


class Killed(BaseException):
    """kill -9 of the tool that makes the current call."""


class Proxy(FileProxy):
    """The file proxy of a tool; every file that it really opens is checked."""

    def __init__(self, root: Path, heard: Callable[[bool, bool], None]) -> None:
        super().__init__(root)
        self.heard = heard

    def open(self, path: bytes) -> int:
        try:
            number = super().open(path)
        except OSError:
            self.heard(False, False)
            raise
        real = os.readlink(f"/proc/self/fd/{self.files[number]}")
        self.heard(True, Path(real).is_relative_to(self.root.resolve()))
        return number

    def read(self, number: int, offset: int, length: int) -> bytes:
        found = super().read(number, offset, length)
        content = Path(os.readlink(f"/proc/self/fd/{self.files[number]}")).read_bytes()
        if found != content[offset : offset + length]:
            raise Mismatch(f"the file proxy gives other bytes than the file has at {offset}")
        return found


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
        self.honest = False  # a call of an honest tool is in progress
        self.number = 0


class Driver:
    """All actors of one machine."""

    def __init__(self, rules: Rules, seed: int, root: Path, daemons: bool = True) -> None:
        self.rng = random.Random(seed)
        self.root = root
        self.rig = Rig(seed, rules.size.heap, rules.size.domb_pages)
        self.book = Book(rules, self.rig.own_mfns, self.rig.first_mfn)
        self.follower = Follower(self.rig, self.book)
        self.service: WatchedService = self.rig.listen(self.follower)
        self.follower.service = self.service
        self.service.on_step = self._step_of_a_build
        self.follower.fault = self._fault
        self.rig.os.raced = self._race
        self.follower.between = self._between
        self.processes: list[Process] = []
        self.before = self._counts()
        self.daemons: Daemons | None = None
        self.strangers: Strangers | None = None
        if daemons:
            side = StoreSide(self.book)
            self.daemons = Daemons(self.rig, self.follower, side)
            self.strangers = Strangers(self.rng, self.rig, self.book, self.follower, self.daemons)
            self.follower.started = self.strangers.started
            self.daemons.race(self.strangers.race)
        self.up = True
        self.calls = 0
        self.text = ""
        self.in_domb = False
        self.ending = False
        self.compared = 0  # rule steps at the last full comparison
        # In three of five episodes DomB's calls fail: while it builds, answers requests, or offers its channel.
        self.trouble = self.rng.choice(("", "", "build", "control", "offer"))
        self.mortal = self.rng.random() < 0.25  # in a quarter DomB dies at some point
        self.service.offer()

    # Failures inside DomB.

    def _fault(self, what: str) -> int:
        if self.mortal and self.in_domb and self.rng.random() < 0.002:
            raise Crash
        errno = abi.ENOMEM if self.trouble and self.in_domb and self.rng.random() < self._rate(what) else 0
        if errno and what in ("share", "grant"):
            self.book.count("channel_share", "ENOMEM" if what == "share" else "ENOSPC")
        return errno

    def _rate(self, what: str) -> float:
        """The failure rate of such a call now; each episode has one kind of failure, so that all else succeeds."""
        stage = self.follower.stage
        if stage == "failing":
            return 0.5
        if stage not in ("no_request", "fetching"):
            return 0.25 if self.follower.excused else 0.006 if self.trouble == "build" else 0.0
        if self.trouble == "control" and any(built.abandoned for built in self.service.guests.values()):
            return 0.5  # so that it must be tried again
        if what in ("share", "grant"):
            return 0.1 if self.trouble == "offer" else 0.0
        return 0.25 if self.trouble == "control" else 0.0

    def _step_of_a_build(self, step: str, what: str) -> None:
        if self.mortal and self.rng.random() < 0.01:
            raise Crash
        if self.trouble == "build" and self.rng.random() < 0.01:
            self.follower.excused = True
            raise KernelError(abi.EIO)

    def _between(self, label: str) -> None:
        """DomB has copied a message and acts on its copy: what lies in the ring may change, and DomB may die."""
        self._race()
        if self.mortal and self.rng.random() < (0.1 if label == "take_info" else 0.02):
            raise Crash

    def _race(self) -> None:
        """Another party writes between two loads of DomB."""
        if self.in_domb and self.rng.random() < 0.003:
            self._scribble()

    # Moves.

    def move(self) -> None:
        """One action."""
        rng = self.rng
        self.calls += 1
        x = rng.random()
        free = [each for each in self.processes if not each.honest]
        if x < 0.22:
            self.domb()
        elif (len(self.processes) < MOST_PROCESSES and x < 0.28) or not self.processes:
            self.spawn()
        elif self.strangers is not None and self.daemons is not None and x < 0.38:
            self.guests(self.strangers, self.daemons)
        elif self.daemons is not None and x < 0.42:
            self.serve_guests(self.daemons)
        elif self.strangers is not None and x < 0.47 and free:
            self.strangers.asks_daemons(rng.choice(free).space)
            self.text = self.strangers.text
        elif free:
            self.act(rng.choice(free), rng.random())
        self.follower.settle()
        self._compare()
        if self.calls % CLAIMS_EVERY == 0:
            self.book.check_claims()

    def guests(self, strangers: Strangers, daemons: Daemons) -> None:
        """Guests that run do what they like, some things one after the other, and the daemons look now and then."""
        for _ in range(self.rng.choice((2, 6, 12, 20)) if strangers.running() else 1):
            strangers.guest()
            self.text = strangers.text
            self._compare()
            if self.rng.random() < 0.5:
                self.calls += 1
                self.serve_guests(daemons)
                self._compare()

    def serve_guests(self, daemons: Daemons) -> None:
        """The daemons look at their rings; now and then one of them is killed."""
        x = self.rng.random()
        if self.mortal and x < 0.01 and daemons.stored is not None:
            self.text = "kill -9 of xenstored"
            daemons.kill(daemons.stored)
        elif x < 0.02 and daemons.consoled is not None:
            self.text = "kill -9 of xenconsoled"
            daemons.kill(daemons.consoled)
        elif daemons.consoled is None:
            self.text = "xenconsoled starts again"
            daemons.start_console()
        elif x < 0.6:
            self.text = "xenstored serves its rings"
            daemons.serve_store()
        else:
            self.text = "xenconsoled serves its rings"
            daemons.serve_consoles()

    def act(self, who: Process, x: float) -> None:
        """One action of a process."""
        self.follower.who = who.space
        if who.chan is None and x < 0.25 and self.strangers is not None and not self.strangers.running():
            self.honest(who)
        elif who.chan is None and x < 0.5:
            self.connect(who, self.offer())
        elif who.chan is not None and x < 0.015:
            self.flood(who)
        elif who.chan is not None and x < 0.22:
            self.ask(who)
        elif who.chan is not None and x < 0.62:
            for _ in range(self.rng.choice((1, 2, 6, 14))):
                self.serve(who)
                if self.rng.random() < 0.12 and who.chan is not None:
                    self.ask(who)
                if self.rng.random() < 0.9:
                    self.domb()
                    self.follower.who = who.space
                if who.pipe is None or who not in self.processes:
                    break
                if self._somebody_waits_to_be_told() and self.rng.random() < 0.5:
                    if self.rng.random() < 0.4:
                        self.kill(who)
                        break
                    self._ask_too_early(who)
                elif self.follower.stage == "failing" and who.chan is not None and self.rng.random() < 0.5:
                    self._send(who, p.Message(p.CREATE, 1, 0, self._request().pack()))
                    self.domb()
                    self.follower.who = who.space
                if who not in self.processes:
                    break
        elif x < 0.73:
            self.honest(who)
        elif x < 0.78:
            self.map_something(who)
        elif x < 0.84:
            self.text = "a process scribbles over the ring"
            self._scribble(who)
        elif x < 0.88 and who.mapped and who.xgt is not None:
            self.text = "a process unmaps a page"
            gt.xengnttab_unmap(who.xgt, who.mapped.pop(), 1)
        elif x < 0.905 and who.chan is not None:
            self.text = "a tool closes its channel"
            who.chan.close()
            who.chan = who.pipe = None
        elif x < 0.935:
            self.kill(who)

    def domb(self) -> None:
        """DomB takes a step."""
        if not self.up:
            return
        self.text = "DomB takes a step"
        self.rig.xen.last_domid = DOMB  # ids are reused as soon as they are free
        self.make_room()
        self.in_domb = True
        try:
            self.service.step()
        except Crash:
            self.crash()
        finally:
            self.in_domb = False
        if self.up:
            self.follower.settle()
            self._compare()

    def _compare(self) -> None:
        """Everything, if a rule step was taken since it was compared last."""
        self.follower.settle()
        if self.book.steps != self.compared:
            self.compared = self.book.steps
            compare(self.follower, self.daemons)

    def crash(self) -> None:
        """DomB dies and is not restarted."""
        self.text = "DomB crashes"
        self.up = False
        self.follower.service = None
        self.rig.domb.domain.crashed = True
        self.book.step("domb_crashes", {})
        for label, at in self.book.m["Point"].items():
            if self.book.T["at"][0] == at and label.startswith("take_") and label.endswith(".act"):
                self.book.step(label, {"this": 0}, "EINTR")  # a message that DomB had taken is lost

    def make_room(self) -> None:
        """Keep ids available: kill processes that map pages of zombies when there are many zombies."""
        dead = [d for d in self.rig.xen.domains.values() if d.is_dying != ALIVE]
        if len(self.rig.xen.domains) >= NOBODY - 1 and dead:
            for who in [each for each in self.processes if each.mapped and not each.honest]:
                self.kill(who)
            for domain in dead if self.daemons is not None else ():
                self._let_go(domain.domid)

    def _let_go(self, domid: int) -> None:
        """xl tells the daemons that a guest is gone."""
        daemons, self.follower.who = self.daemons, KERNEL
        if daemons is not None and daemons.stored is not None:
            daemons.stored.request(0, wire.XS_RELEASE, 0, b"%d\0" % domid)
        if daemons is not None and daemons.consoled is not None:
            daemons.consoled.remove(domid)
        self.follower.settle()

    # Processes.

    def spawn(self) -> None:
        """A new process."""
        self.text = "a new process"
        space = self.follower.spawn()
        self.follower.who = space
        heard = self._opened
        self.processes.append(Process(space, self.rig.process(f"p{space}"), Proxy(self.root, heard)))

    def _opened(self, opened: bool, inside: bool) -> None:
        """A proxy has opened a file or refused to: check that against the rules."""
        who = self.follower.who
        if self.book.T["process.phase"][who] != 1 or self.book.T["at"][0]:
            return
        self.book.T["ring.name"][0] = int(not (opened and inside))  # the content of the message that it read
        self.book.step("proxy_open", {"p": who, "this": 0})
        self.book.step("proxy_open.open", {"this": 0}, "okay" if opened else "EACCES")

    def kill(self, who: Process) -> None:
        """kill -9."""
        self.text = "kill -9 of a process"
        self.follower.dies(who.space)
        who.proxy.close_all()
        who.os.driver.exit()  # type: ignore[attr-defined]
        self.follower.died(who.space)
        self.processes.remove(who)

    def offer(self) -> Offer | None:
        """The address of DomB's channel, as in XenStore."""
        found = self.service.offered
        return None if found is None else Offer(DOMB, found.ring_ref, found.port)

    def connect(self, who: Process, offer: Offer | None) -> None:
        """A tool connects, or tries to."""
        self.text = "a tool connects"
        if offer is None:
            return
        if not self.ending and self.rng.random() < 0.1:
            offer = Offer(self.rng.choice((DOMB, 0, 2, 99)), self.rng.choice((offer.ring_ref, 0, 9, 4000)), offer.port)
        with contextlib.suppress(OSError):
            who.chan = client_init(who.os, offer)
            who.pipe = p.Pipe(who.chan)

    def ask(self, who: Process) -> None:
        """A request of any kind."""
        rng = self.rng
        assert who.pipe is not None
        who.number = rng.choice((who.number + 1, rng.randrange(1 << 32), who.number))
        x = rng.random()
        if x < 0.35:
            op, body = p.CREATE, self._request().pack()
            if rng.random() < 0.15:
                body = self._spoiled(body)
        elif x < 0.85:
            op = rng.choice((p.PAUSE, p.UNPAUSE, p.UNPAUSE, p.DESTROY, p.INFO))
            known = [*self.service.guests] * 8
            body = p.DOMID.pack(rng.choice((*range(NOBODY + 1), *known, 99, 0x7FF0, 0xFFFF)))
        elif x < 0.93:
            op, body = rng.choice((0, 6, 77, 0x21, 0x7FFF)), rng.randbytes(rng.randrange(8))
        else:
            op, body = rng.choice((p.PAUSE, p.DESTROY, p.INFO)), rng.randbytes(rng.choice((0, 1, 3, 40)))
        self.text = f"request {op}, {len(body)} bytes"
        self._send(who, p.Message(op, who.number & 0xFFFFFFFF, rng.choice((0, 0, -1)), body))

    def _ask_too_early(self, who: Process) -> None:
        """A request about a guest whose id the client has guessed."""
        guests = [d for d, built in self.service.guests.items() if not built.told]
        op = self.rng.choice((p.UNPAUSE, p.UNPAUSE, p.DESTROY, p.INFO, p.PAUSE))
        if guests and who.chan is not None:
            self._send(who, p.Message(op, 9, 0, p.DOMID.pack(guests[0])))
            self.domb()
            self.follower.who = who.space

    def flood(self, who: Process) -> None:
        """Many requests whose answers nobody takes: they fill the ring, then DomB's queue."""
        self.text = "a tool floods DomB"
        for i in range(self.rng.choice((20, 260, 300))):
            self._send(who, p.Message(77, i, 0, b""))
        self.domb()
        self.follower.who = who.space

    def _send(self, who: Process, message: p.Message) -> None:
        assert who.pipe is not None
        with contextlib.suppress(OSError):
            who.pipe.send(message)

    def _request(self) -> p.CreateRequest:
        rng = self.rng
        kernel = rng.choice(NAMES[:2]) if rng.random() < 0.8 else rng.choice((*NAMES, *STRANGE))
        disk = rng.choice(DISKS) if rng.random() < 0.9 else rng.choice(STRANGE)
        pages = rng.choice(PAGES) if rng.random() < 0.85 else rng.choice((0, 63, 63, 63, 1, 300, 1 << 18, (1 << 32) - 1))
        return p.CreateRequest(kernel, disk, pages, rng.choice(("", "quiet", "x" * 1000, "a\0b")))

    def _spoiled(self, body: bytes) -> bytes:
        at = self.rng.randrange(len(body))
        return self.rng.choice((body[:at], body + b"?", body[:at] + b"\xff" + body[at + 1 :], b""))

    def serve(self, who: Process) -> None:
        """The file proxy answers DomB's next message, usually correctly."""
        assert who.pipe is not None
        self.text = "a tool takes a message"
        try:
            message = who.pipe.receive()
        except (p.ProtocolError, OSError):
            return
        if message is None or message.op & p.REPLY:
            return
        status, body = who.proxy.handle(message.op, message.body)
        op, number = message.op | p.REPLY, message.number
        x, rng = self.rng.random(), self.rng
        if x < (0.90 if message.op != p.FILE_READ or len(body) > 3990 else 0.8):
            pass
        elif 0.90 <= x < 0.91:
            return  # stall
        elif 0.91 <= x < 0.92:
            status = rng.choice((-2, -13, 5, -9999))
        elif 0.92 <= x < 0.93:
            op = rng.choice((p.FILE_OPEN, p.FILE_STAT, p.FILE_READ, p.FILE_CLOSE)) | p.REPLY
        elif 0.93 <= x < 0.94:
            number = (number + rng.choice((1, -1, 7))) & 0xFFFFFFFF
        elif x < 0.94 + 0.03 * (4 if 0 < len(body) < 3990 else 1) and message.op == p.FILE_READ:
            body = rng.choice((body[: max(1, len(body) // 2)], b"", body + b"more", bytes(len(body)), body[:1]))
        elif x < 0.985 and message.op == p.FILE_STAT:
            body = rng.choice((p.STAT.pack(1 << 60, 0), p.STAT.pack(1, 1), b"?", body + body, p.STAT.pack(0, 0)))
        else:
            self._send(who, p.Message(op, number, status, body))  # answer twice
        self.text = f"the proxy answers {message.op}"
        self._send(who, p.Message(op, number, status, body))

    def honest(self, who: Process) -> None:
        """A call of xl, by the implementation's own tool; while it waits, others act."""
        if any(each.honest for each in self.processes) or who.chan is not None or not self.up:
            return
        offer = self.offer()
        if offer is None:
            return
        self.text = "an honest tool"
        who.honest = True
        tool: RemoteService | None = None
        left = [160]

        def pump() -> bool:
            left[0] -= 1
            if self.rng.random() < 0.01:
                raise Killed
            for _ in range(self.rng.choice((1, 1, 2, 3))):
                if self.rng.random() < 0.12:
                    self.move()
                else:
                    self.domb()
            self.follower.who = who.space
            if self._somebody_waits_to_be_told() and self.rng.random() < 0.15:
                raise Killed
            return self.up and left[0] > 0

        killed = False
        try:
            tool = RemoteService(who.os, offer, who.proxy, pump)
            self._honest_calls(tool)
        except ToolError:
            pass
        except Killed:
            killed = True
        who.honest = False
        self.follower.who = who.space
        if killed:
            self.kill(who)
            return
        if tool is not None:
            tool.close()

    def _xl(self, tool: RemoteService, wanted: p.CreateRequest, daemons: Daemons) -> None:
        """xl create, which also tells the daemons; then what one does with a guest."""
        if daemons.stored is None or daemons.consoled is None:
            return
        xl = Xl(tool, daemons.stored, daemons.consoled)
        domid = xl.create(f"guest{self.calls}", wanted)
        for call in (xl.pause, xl.unpause, xl.destroy)[: self.rng.randrange(4)]:
            call(domid)

    def _somebody_waits_to_be_told(self) -> bool:
        return any(not built.told for built in self.service.guests.values())

    def _honest_calls(self, tool: RemoteService) -> None:
        rng = self.rng
        wanted = p.CreateRequest(rng.choice(NAMES[:2]), rng.choice(DISKS[:-1]), rng.choice(PAGES), "quiet")
        if rng.random() < 0.6 and self.daemons is not None:
            self._xl(tool, wanted, self.daemons)
            return
        guest = tool.create(wanted if rng.random() < 0.65 else self._request())
        told = self.book.T["built.known"][guest.domid] if guest.domid < NOBODY else 0
        if self.up and not told and not any(b.abandoned for b in self.service.guests.values()) and len(self.processes) == 1:
            raise Mismatch(f"xl was told of domain {guest.domid}, which nobody has built")
        for call in (tool.unpause, tool.pause, tool.unpause, tool.destroy)[: rng.randrange(5)]:
            call(guest.domid)

    # Hostile writes.

    def map_something(self, who: Process) -> None:
        """A process maps a page by grant: a ring page besides its channel, or a reserved or other page of a guest."""
        rng = self.rng
        self.text = "a process maps a grant"
        if len(who.mapped) >= 3 or sum(len(each.mapped) for each in self.processes) >= 6:
            return
        if who.xgt is None:
            who.xgt = gt.xengnttab_open(who.os)
        offer = self.offer()
        ring = rng.random() < 0.4 and offer is not None
        domid = DOMB if ring else rng.choice(range(2, NOBODY))
        ref = (
            offer.ring_ref + rng.choice((0, 0, 1, 2, 3)) if ring and offer is not None else rng.choice((0, 1, 0, 1, 8, 3000))
        )
        assert who.xgt is not None
        addr = gt.xengnttab_map_grant_ref(who.xgt, domid, ref, rng.choice((1, 3, 3)))
        if addr is not None:
            who.mapped.append(addr)

    def _scribble(self, who: Process | None = None) -> None:
        """A process writes to the pages that it maps: indices, live bytes, headers, anything."""
        rng = self.rng
        who = who if who is not None else rng.choice(self.processes) if self.processes else None
        if who is None:
            return
        pages = list(who.mapped)
        if who.chan is not None and not who.chan.closed:
            pages += [addr + 4096 * rng.randrange(count) for addr, count in who.chan.areas] + [who.chan.page] * 2
        if not pages:
            return
        at = rng.choice((0, 4, 8, 12, 16, 20, 21, 24, rng.randrange(4080), rng.randrange(4080)))
        payload = rng.choice(
            (
                b"\0",
                b"\xff\xff\xff\x7f",
                rng.randbytes(4),
                b"\1\0\0\0",
                p.HEADER.pack(p.MAGIC, rng.randrange(7), 1, 0, 2) + b"\2\0",
            )
        )
        with contextlib.suppress(OSError):
            who.os.store(rng.choice(pages) + at, payload)

    # The end.

    def _counts(self) -> dict[str, int]:
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
            "Dom0's handles": sum(1 for r in kernel.domain.grant_table.maptrack if r.flags & 3),
            "DomB's open handles": len(self.rig.os.files),
        }

    def end(self) -> None:
        """Everybody leaves; what DomB built is destroyed, guests are disconnected; nothing may be left."""
        self.trouble, self.mortal = "", False
        for who in list(self.processes):
            self.kill(who)
        self.ending = True
        if self.up:
            self._last_tool()
            self.service.hang_up()
        if self.daemons is not None:
            self._disconnect(self.daemons)
        if self.up:
            self.rig.domb.retry_late()
        self.follower.settle()
        compare(self.follower, self.daemons)
        self.book.check_claims()
        after = self._counts()
        left = {k: after[k] - v for k, v in self.before.items() if after[k] != v}
        if left and self.up:
            raise Mismatch(f"at the end there is more or less than before: {left}")

    def _disconnect(self, daemons: Daemons) -> None:
        """A tool disconnects all guests, and removes what tools have made; the daemons know nothing then."""
        self.spawn()
        who = self.processes[-1]
        self.follower.who = who.space
        if daemons.consoled is None:
            daemons.start_console()
            self.follower.who = who.space
        if daemons.consoled is not None:
            for domid in list(daemons.consoled.consoles):
                daemons.consoled.remove(domid)
        if daemons.stored is not None:
            self._empty(daemons.stored)
        self.kill(who)
        kept, there = ("Dom0's handles", "Dom0's ports"), self._counts()
        if any(there[what] != self.before[what] for what in kept):
            raise Mismatch(f"daemons that serve nobody keep {[f'{what}: {there[what]}' for what in kept]}")
        for daemon in (daemons.stored, daemons.consoled):
            if daemon is not None:
                daemons.kill(daemon)

    def _empty(self, stored: WatchedStored) -> None:
        for domid in list(stored.connections):
            stored.request(0, wire.XS_RELEASE, 0, b"%d\0" % domid)
        self.follower.settle()
        compare(self.follower, self.daemons)  # before a tool removes what should have gone by itself
        stored.request(0, wire.XS_SET_PERMS, 0, b"/\0n0\0")
        for path in sorted(stored.store.nodes, key=len, reverse=True):
            if path not in ("/", "/local", "/local/domain") and path in stored.store.nodes:
                stored.request(0, wire.XS_RM, 0, path.encode() + b"\0")
        stored.request(0, wire.XS_MKDIR, 0, b"/local/domain\0")
        kept = {name: n for name, n in (("nodes", len(stored.store.nodes)), ("incarnations", len(stored.store.lives)))}
        kept |= {f"nodes of domain {d}": n for d, n in stored.store.owned.items() if d and n}
        kept |= {"connections": len(stored.connections), "rings": len(stored.osdep.taps)}
        if kept != {"nodes": 3, "incarnations": 1, "connections": 0, "rings": 0}:
            raise Mismatch(f"at the end XenStore keeps {kept}")

    def _last_tool(self) -> None:
        """One more tool connects and has all guests of DomB destroyed."""
        for _ in range(4):
            self.domb()
        self.spawn()
        who = self.processes[-1]
        for _ in range(12):  # DomB may still have to end the connection before
            self.follower.who = who.space
            if who.chan is None or not who.chan.is_open():
                if who.chan is not None:
                    who.chan.close()
                who.chan = who.pipe = None
                self.connect(who, self.offer())
            for domid in sorted(self.service.guests) if who.chan is not None else ():
                self._send(who, p.Message(p.DESTROY, domid, 0, p.DOMID.pack(domid)))
            self.domb()
            if not self.service.guests:
                break
        self.kill(who)
        self.domb()


def files(root: Path) -> None:
    """The files that the proxies export, and files outside of that directory."""
    inside = root / "exported"
    (inside / "dir").mkdir(parents=True)
    (root / "secret").write_bytes(GOOD[0])
    (inside / "link").symlink_to(root / "secret")
    (inside / "away").symlink_to("/etc")
    (inside / "dir" / "kernel0").write_bytes(GOOD[0])
    for i, content in enumerate(GOOD):
        (inside / f"kernel{i}").write_bytes(content)
    for i, content in enumerate(BAD):
        (inside / f"bad{i}").write_bytes(content)
    for i, content in enumerate(SMALL_DISKS):
        (inside / f"disk{i}").write_bytes(content)
    (inside / "big").write_bytes(BIG_DISK)
