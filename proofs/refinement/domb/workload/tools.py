"""What processes of Dom0 do: tools, honest and hostile, that ask DomB and answer for its files, and requests to the daemons.

Hostile ones send what nobody asked for, give wrong file data, write anywhere in the ring, hang up at any moment. Not here:
how a call is made (../operations.py), and what happens within one (moments.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bulkhead.impl.domb import protocol as p
from bulkhead.impl.libs.vchan import Offer
from bulkhead.model.caller import OKAY
from bulkhead.proofs.refinement.calls import Answer
from bulkhead.proofs.refinement.domb.files import PAGES, SMALL_DISKS
from bulkhead.proofs.refinement.domb.kernels import BAD, GOOD
from bulkhead.proofs.refinement.domb.machine import Process
from bulkhead.proofs.refinement.domb.messages import home
from bulkhead.proofs.refinement.domb.proxy_side import MOST_FILES
from bulkhead.proofs.refinement.domb.workload.requests import BELOW, BESIDE, KINDS, perms, request
from bulkhead.proofs.refinement.domb.workload.ring_writes import RingWrites
from bulkhead.proofs.refinement.domb.world import DOMB, NOBODY

KERNELS = tuple(f"kernel{i}" for i in range(len(GOOD)))
BROKEN = tuple(f"bad{i}" for i in range(len(BAD)))
DISKS = ("", "", *(f"disk{i}" for i in range(len(SMALL_DISKS))), "big")
STORE_PORT, CONSOLE_PORT = 1, 2  # of each guest that DomB builds
WAITS = 160  # after so many a tool gives up
AFTER_XL = ("pause", "unpause", "destroy")  # xl has started its guest
AFTER_CREATE = ("unpause", "pause", "unpause", "destroy")
MORE_THAN_IS_LEFT = 220  # pages, when there is another guest
OUTSIDE = ("../secret", "dir/../../secret", "link", "away/passwd")
NO_FILE = ("dir", "pipe", "nowhere")
TOO_LONG = ("y" * (p.PATH_MAX + 1), "dir/" + "y" * p.PATH_MAX, "dir/" * 300)
# Sizes of rings that a guest claims: some can be, some cannot.
ORDERS = ((10, 11), (11, 10), (10, 10), (11, 11), (5, 12), (12, 5), (9, 11), (21, 12), (12, 12), (12, 20), (0xFFFF, 12))
STRANGE = (
    "/etc/passwd",
    "dir/../kernel0",
    "",
    ".",
    "/",
    "dir//kernel0",
    "dir/./kernel0",
    "dir/kernel0/",
    "kernel0/x",
    "a\0b",
    "nothing",
    "x" * 255,
    "x" * 900,
    "y" * p.PATH_MAX,
    "dir/kernel0",
)


class ToolChoices(RingWrites):
    """All processes of Dom0 but the daemons. `domb` lets DomB take a step."""

    domb: Callable[[], None]
    number = 0  # of the last request
    guests = 0  # that honest tools have named

    def lives(self, who: Process) -> bool:
        """Was it not killed meanwhile?"""
        return self.view.processes.get(who.space) is who

    def act(self, who: Process) -> None:
        """One action of a process."""
        rng, x = self.rng, self.rng.random()
        if who.chan is None and x < 0.25 and not self.view.running():
            self.honest(who)
        elif who.chan is None and x < 0.5:
            self.connect(who, self.view.offer, rng.random() < 0.1)
        elif who.chan is not None and x < 0.015:
            self._flood(who)
        elif who.chan is not None and x < 0.22:
            self.ask(who)
        elif who.chan is not None and x < 0.62:
            self._serves(who)
        elif x < 0.73:
            self.honest(who)
        elif x < 0.76:
            self._map_something(who)
        elif x < 0.84:
            self.text = "a process scribbles over the ring"
            self.scribble(who)
        elif x < 0.88 and who.mapped:
            self.text = "a process unmaps a page"
            self.of(who, "unmap_grant", addr=who.mapped[-1])
        elif x < 0.905 and who.chan is not None:
            self.text = "a tool closes its channel"
            self.of(who, "disconnect")
        elif x < 0.935:
            self.kill(who)
        elif x < 0.97:
            self._is_asked(who)

    def kill(self, who: Process) -> None:
        """kill -9."""
        self.text = "kill -9 of a process"
        self.of(who, "kill")

    def gives_way(self) -> None:
        """A process that has the channel closes it, or is killed: an honest tool waits for it."""
        holders = [each for each in self.view.free() if each.chan is not None]
        if holders and self.rng.random() < 0.8:
            self.of(self.rng.choice(holders), "disconnect")
        elif holders:
            self.kill(self.rng.choice(holders))

    def connect(self, who: Process, offer: Offer | None, wrong: bool = False) -> None:
        """A tool connects, or tries to."""
        self.text = "a tool connects"
        if offer is None:
            return
        dom, ref = offer.domid, offer.ring_ref
        running = self.view.running()
        if wrong and running and self.rng.random() < 0.5:
            self._connect_to_guest(who, self.rng.choice(running).domid)
            return
        if wrong:
            dom, ref = self.rng.choice((DOMB, 0, 2, 99)), self.rng.choice((ref, 0, 9, 4000))
        self.of(who, "connect", dom=dom, ref=ref, port=offer.port)

    def _connect_to_guest(self, who: Process, domid: int) -> None:
        """A guest says that its page is the first one of a channel, and a tool believes where it is."""
        rng, (ring, ref) = self.rng, self.rng.choice((("console", 0), ("xenstore", 1)))
        left, right = rng.choice(ORDERS)
        said = (
            left.to_bytes(2, "little") + right.to_bytes(2, "little") + bytes((2, 1, 1, 0)) + bytes((0, 0, 0, 0, 1, 0, 0, 0))
        )
        self.call(f"d{domid}", "ring_poke", ring=ring, at=16, bytes=said.hex())
        self.of(who, "connect", dom=domid, ref=ref, port=rng.choice((1, 2)))

    # Requests to DomB.

    def send(self, who: Process, op: int, number: int, status: int, body: bytes) -> Answer:
        """A message."""
        self.last = p.HEADER.size + len(body)
        return self.of(who, "send", op=op, number=number, status=status, body=body.hex())

    def ask(self, who: Process) -> None:
        """A request of any kind."""
        rng = self.rng
        self.number = rng.choice((self.number + 1, rng.randrange(1 << 32), self.number)) & 0xFFFFFFFF
        x = rng.random()
        if x < 0.35:
            op, body = p.CREATE, self._request().pack()
            if rng.random() < 0.15:
                body = self._spoiled(body)
        elif x < 0.85:
            op = rng.choice((p.PAUSE, p.UNPAUSE, p.UNPAUSE, p.DESTROY, p.INFO))
            known = [*self.view.built] * 8
            body = p.DOMID.pack(rng.choice((*range(NOBODY + 1), *known, 99, 0x7FF0, 0xFFFF)))
        elif x < 0.93:
            op, body = rng.choice((0, 6, 77, 0x21, 0x7FFF)), rng.randbytes(rng.randrange(8))
        else:
            op, body = rng.choice((p.PAUSE, p.DESTROY, p.INFO)), rng.randbytes(rng.choice((0, 1, 3, 40)))
        self.text = f"request {op}, {len(body)} bytes"
        self.send(who, op, self.number, rng.choice((0, 0, -1)), body)

    def _ask_too_early(self, who: Process) -> None:
        """A request about a guest whose id the client has guessed."""
        guests = [d for d, built in self.view.built.items() if not built.told]
        op = self.rng.choice((p.UNPAUSE, p.UNPAUSE, p.DESTROY, p.INFO, p.PAUSE))
        if guests and who.chan is not None:
            self.send(who, op, 9, 0, p.DOMID.pack(guests[0]))
            self.domb()

    def _flood(self, who: Process) -> None:
        """Many requests whose answers nobody takes: they fill the ring, then DomB's queue."""
        for i in range(self.rng.choice((20, 260, 300))):
            self.send(who, 77, i, 0, b"")
        self.domb()
        self.text = "a tool floods DomB"

    def _request(self) -> p.CreateRequest:
        rng = self.rng
        kernel = rng.choice(rng.choices((KERNELS, BROKEN, STRANGE, OUTSIDE, NO_FILE), (30, 6, 2, 1, 1))[0])
        disk = rng.choice(DISKS) if rng.random() < 0.9 else rng.choice(STRANGE)
        pages = rng.choice(PAGES) if rng.random() < 0.85 else rng.choice((0, 63, 63, 63, 1, 300, 1 << 18, (1 << 32) - 1))
        return p.CreateRequest(kernel, disk, pages, rng.choice(("", "quiet", "x" * 1000, "x" * p.PATH_MAX, "a\0b")))

    def _spoiled(self, body: bytes) -> bytes:
        at = self.rng.randrange(len(body))
        texts = [b"kernel0", b"", b"quiet"]
        texts[self.rng.randrange(3)] = b"z" * (p.PATH_MAX + 1)
        long = p.CREATE_HEAD.pack(64, *map(len, texts)) + b"".join(texts)
        return self.rng.choice((body[:at], body + b"?", body[:at] + b"\xff" + body[at + 1 :], b"", long))

    # The file proxy.

    def _serves(self, who: Process) -> None:
        """A process serves DomB for a while, and sometimes asks for more, too early, or is killed."""
        rng, view = self.rng, self.view
        for _ in range(rng.choice((1, 2, 6, 14))):
            self._answers(who)
            if rng.random() < 0.12 and who.chan is not None:
                self.ask(who)
            if rng.random() < 0.9:
                self.domb()
            if who.pipe is None or not self.lives(who):
                return
            if view.somebody_waits_to_be_told and rng.random() < 0.5:
                if rng.random() < 0.4:
                    self.kill(who)
                    return
                self._ask_too_early(who)
            elif view.failing and rng.random() < 0.5:
                self.send(who, p.CREATE, 1, 0, self._request().pack())
                self.domb()
            if not self.lives(who):
                return

    def _answers(self, who: Process) -> None:
        """The file proxy answers DomB's next message, usually correctly."""
        if who.pipe is None:
            return
        self.text = "a tool takes a message"
        taken = self.of(who, "receive")
        if taken.code != OKAY or len(taken.given) != 4:
            return
        asked, number, status, length = taken.given
        op = asked | p.REPLY
        whole: list[Any] = [[0, length]]
        body: list[Any] = whole
        x, rng = self.rng.random(), self.rng
        if x < (0.90 if asked != p.FILE_READ or length > 3990 else 0.8):
            pass
        elif 0.90 <= x < 0.91:
            return  # stall
        elif 0.91 <= x < 0.92:
            status = rng.choice((-2, -13, 5, -9999))
        elif 0.92 <= x < 0.93:
            op = rng.choice((p.FILE_OPEN, p.FILE_STAT, p.FILE_READ, p.FILE_CLOSE)) | p.REPLY
        elif 0.93 <= x < 0.94:
            number = (number + rng.choice((1, -1, 7))) & 0xFFFFFFFF
        elif x < 0.94 + 0.03 * (4 if 0 < length < 3990 else 1) and asked == p.FILE_READ:
            zeros = bytes(length).hex()
            body = rng.choice(([[0, max(1, length // 2)]], [], [*whole, b"more".hex()], [zeros], [[0, 1]]))
        elif x < 0.985 and asked == p.FILE_STAT:
            lies = (p.STAT.pack(1 << 60, 0), p.STAT.pack(p.MAX_FILE + 1, 0), p.STAT.pack(1, 1), b"?", p.STAT.pack(0, 0))
            later = [[0, 8], (1 << 62).to_bytes(8, "little").hex()]  # the size that it had, and another time
            body = rng.choice(([whole[0], whole[0]], later, later, *([lie.hex()] for lie in lies)))
        else:
            self.of(who, "reply", op=op, number=number, status=status, body=body)  # answer twice
        self.text = f"the proxy answers {asked}"
        self.of(who, "reply", op=op, number=number, status=status, body=body)

    def _is_asked(self, who: Process) -> None:
        """A DomB that is hostile asks the file proxy for anything; now and then for more files than may be open before."""
        rng = self.rng
        self.text = "a file proxy is asked for anything"
        times = rng.choice((3, 6, 12))
        for _ in range(MOST_FILES + 1 if times == 12 else 0):
            self.of(who, "ask_proxy", op=p.FILE_OPEN, body=KERNELS[0].encode().hex())
        for _ in range(times):
            number = rng.choice((0, 1, 1, 2, 2, 3, 4, 5, 6, 7, 8, 8, 9))
            start = rng.choice((0, 1, 4000, 17000, rng.randrange(20000), (1 << 62) - 1, 1 << 62, (1 << 64) - 1))
            length = rng.choice((0, 1, 4000, 4000, 4001, 1 << 31))
            names = rng.choices((KERNELS, STRANGE, OUTSIDE, NO_FILE, TOO_LONG), (8, 3, 2, 2, 1))[0]
            op, body = rng.choice(
                (
                    (p.FILE_OPEN, rng.choice(names).encode()),
                    (p.FILE_OPEN, rng.choice(KERNELS).encode()),
                    (p.FILE_STAT, p.FD.pack(number)),
                    (p.FILE_READ, p.READ.pack(number, start, length)),
                    (p.FILE_CLOSE, p.FD.pack(number)),
                    (rng.choice((0, 1, 0x20, 0x22, 0x23, 0x24, 0x25, 0x8021)), rng.randbytes(rng.choice((0, 3, 5, 15, 17)))),
                )
            )
            self.of(who, "ask_proxy", op=op, body=body.hex())

    # Honest tools.

    def honest(self, who: Process) -> None:
        """A call of xl, by the implementation's own tool."""
        rng, view = self.rng, self.view
        if any(each.busy for each in view.processes.values()) or who.chan is not None or not view.up or view.offer is None:
            return
        pages = rng.choice(PAGES) if rng.random() < 0.93 else MORE_THAN_IS_LEFT
        wanted = p.CreateRequest(rng.choice(KERNELS), rng.choice(DISKS[:-1]), pages, "quiet")
        xl = rng.random() < 0.6
        if not xl and rng.random() >= 0.65:
            wanted = self._request()
        waits = WAITS if rng.random() < 0.75 else rng.choice((0, 1, 2, 4, 8, 16))
        self._use_tool(who, wanted, xl, AFTER_XL[: rng.randrange(4)] if xl else AFTER_CREATE[: rng.randrange(5)], waits)

    def build_small(self, who: Process) -> None:
        """xl has a guest built that fits, starts it, and tells the daemons."""
        if who.chan is None and self.view.up and self.view.offer is not None:
            self._use_tool(who, p.CreateRequest("kernel0", "", min(PAGES), ""), True, ())

    def _use_tool(self, who: Process, wanted: p.CreateRequest, xl: bool, then: Sequence[str], waits: int = WAITS) -> None:
        self.text = "an honest tool"
        self.guests += 1
        self.of(
            who,
            "use_tool",
            xl=xl,
            name=f"guest{self.guests}",
            kernel=wanted.kernel,
            ramdisk=wanted.ramdisk,
            pages=wanted.pages,
            cmdline=wanted.cmdline,
            then=list(then),
            patient=self.rng.random() < 0.8,
            waits=waits,
        )

    # Mapped pages.

    def _map_something(self, who: Process) -> None:
        """A process maps a page by grant: a ring page besides its channel, or a reserved or other page of a guest."""
        rng, offer = self.rng, self.view.offer
        self.text = "a process maps a grant"
        if len(who.mapped) >= 3 or sum(len(each.mapped) for each in self.view.processes.values()) >= 6:
            return
        ring = rng.random() < 0.4 and offer is not None
        domid = DOMB if ring else rng.choice(range(2, NOBODY))
        ref = rng.choice((0, 1, 0, 1, 8, 3000))
        if ring and offer is not None:
            ref = offer.ring_ref + rng.choice((0, 0, 1, 2, 3))
        self.of(who, "map_grant", dom=domid, ref=ref, prot=rng.choice((1, 3, 3)))

    def comes_first(self) -> None:
        """A guest is connected to a daemon before xl, which has asked for it, knows of it."""
        untold, free = [d for d, built in self.view.built.items() if not built.told], self.view.free()
        if not untold or not free:
            return
        if self.rng.random() < 0.5 and self.view.stored is not None:
            self.introduce(self.rng.choice(free), untold[0])
        else:
            self.of(self.rng.choice(free), "console_add", dom=untold[0], mfn=7, port=CONSOLE_PORT)

    # The daemons.

    def ask_daemons(self, who: Process) -> None:
        """An arbitrary request of a process to a daemon."""
        rng, view = self.rng, self.view
        running = [g.domid for g in view.running()]
        connected = () if view.stored is None else tuple(view.stored.connections)
        fresh = [d for d in running if view.stored is not None and d not in connected]
        d = rng.choice((*fresh * 12, *running * 3, *range(NOBODY), 99))
        x = rng.random()
        if x < 0.7 and view.stored is not None:
            self.text = "a tool asks XenStore"
            if x < 0.35:
                self.introduce(who, d, rng.choice((1, 1, 1, 2, 3, 700)))
            elif x < 0.4:
                self.release(who, d)
            elif x < 0.5:
                self.share_node(who)
            elif x < 0.506:
                self.makes_many(who)
            elif x < 0.52:  # the root node: opened to all, closed again, or given away
                words = b"/\0%c%d\0" % (rng.choice(b"bwrn"), rng.choice((0, 0, d)))
                self.ask_xenstored(who, KINDS["set_perms"], words)
            else:
                self.ask_xenstored(who, *request(rng, 0, connected, view.nodes))
        elif view.consoled is not None:
            self.text = "a tool asks the console's daemon"
            if x < 0.9:
                self.of(who, "console_add", dom=d, mfn=7, port=rng.choice((2, 2, 2, 1, 700)))
            elif x < 0.92:
                self.of(who, "console_remove", dom=d)
            else:
                text = rng.randbytes(rng.choice((1, 1500, 30000))).hex()
                to = rng.choice((*sorted(view.consoled.consoles) * 3, d))
                for _ in range(4 if len(text) > 9999 else 1):  # more than the daemon keeps
                    self.of(who, "console_type", dom=to, bytes=text)

    def share_node(self, who: Process) -> None:
        """Nodes that outlive guests, given to them and opened for them."""
        self.text = "a tool opens a node"
        connected = () if self.view.stored is None else tuple(self.view.stored.connections)
        if self.rng.random() < 0.12:  # the root, for a while
            owner = self.rng.choice((0, 0, *connected))
            self.ask_xenstored(who, KINDS["set_perms"], b"/\0%c%d\0" % (self.rng.choice(b"bwn"), owner))
            return
        path = self.rng.choice((*BESIDE[3:], f"{home(self.rng.randrange(2, NOBODY))}{BELOW[2]}")).encode()
        self.ask_xenstored(who, KINDS["write"], path + b"\0")
        self.ask_xenstored(who, KINDS["set_perms"], path + b"\0" + perms(self.rng, 0, connected))

    def makes_many(self, who: Process) -> None:
        """Children with long names: as many as can be listed in one answer, and one more; then they go again."""
        self.text = "a tool lists long names"
        made = [f"/tool/l/{letter * 1023}" for letter in "klmno"]
        for n, path in enumerate(made):
            self.ask_xenstored(who, KINDS["mkdir"], path.encode() + b"\0")
            if n > 2:
                self.ask_xenstored(who, KINDS["directory"], b"/tool/l\0")
        for path in (*made, "/tool/l"):
            self.ask_xenstored(who, KINDS["rm"], path.encode() + b"\0")

    def introduce(self, who: Process, domid: int, port: int = STORE_PORT) -> None:
        """XenStore gets to know a guest."""
        self.text = f"a tool introduces d{domid}"
        self.ask_xenstored(who, KINDS["introduce"], b"%d\0%d\0%d\0" % (domid, self.rng.randrange(99), port))

    def release(self, who: Process, domid: int) -> None:
        """XenStore forgets a guest."""
        self.ask_xenstored(who, KINDS["release"], b"%d\0" % domid)

    def end(self, who: Process, domid: int) -> None:
        """A request to destroy a guest."""
        self.send(who, p.DESTROY, 5, 0, p.DOMID.pack(domid))

    def ask_xenstored(self, who: Process, kind: int, payload: bytes) -> None:
        """A request to XenStore's daemon."""
        self.of(who, "ask_xenstored", type=kind, payload=payload.hex())


__all__ = ["ToolChoices"]
