"""The follower of DomB's channel: its pages and port, who wrote what DomB takes from it, what is sent and taken, hanging up.

Not here: the meaning of messages (follow.py), and builds (follow_build.py).
"""

from __future__ import annotations

from collections.abc import Callable

from bulkhead.impl.domb import protocol as p
from bulkhead.impl.libs.vchan import LEFT, RIGHT, SRV_LIVE, Vchan
from bulkhead.impl.xen import abi
from bulkhead.impl.xen.frames import Frame
from bulkhead.impl.xen.hypercall_evtchn import TWO_DOMIDS
from bulkhead.model.caller import OKAY
from bulkhead.proofs.refinement.domb.book import Book
from bulkhead.proofs.refinement.domb.follow_build import BuildSide
from bulkhead.proofs.refinement.domb.inbox import Inbox
from bulkhead.proofs.refinement.domb.rig import Rig
from bulkhead.proofs.refinement.domb.world import DOM0, DOMB
from bulkhead.proofs.refinement.lockstep.rule_steps import Mismatch

# What the first page says at first: no byte is in a ring, their sizes, a client has yet to come, the server is there, and
# wants to be woken whenever something was written.
FIRST_PAGE = bytes(16) + bytes((13, 0, 12, 0)) + bytes((2, 1, 1, 0))


class ChannelSide(BuildSide):
    """The channel that DomB offers, and its connection."""

    def __init__(self, rig: Rig, book: Book) -> None:
        super().__init__(rig, book)
        self.stream = 0  # bytes that DomB has sent over this channel
        self.answers: dict[int, int] = {}  # guest -> end of its answer in that stream
        self.to_send: list[p.Message] = []  # messages that DomB has decided to send over this connection
        self.leaving = False
        self.inbox: Inbox | None = None  # of the channel that is offered
        self.served: Inbox | None = None  # of the one that was open when DomB's service began its step
        self.stepping = False  # DomB's service takes a step
        self.unsignalled = False  # DomB has changed the ring's page, and has not signalled its client since
        self.said_goodbye = False  # its last store to it says that DomB has gone
        self.asked_index = False  # DomB has loaded how much its client has taken, since it must ask

    def in_the_ring(self, ask: str, guest: int, number: int = 0, piece: int = 0) -> None:
        """The process that wrote the message that DomB took: one that maps a page of the ring writable."""
        T = self.book.T
        for t in range(self.book.size.translations):
            p_ = T["translation.space"][t]
            if (
                T["translation.present"][t]
                and T["translation.writable"][t]
                and T["space_of"][p_] == DOM0
                and T["ring_page.listed"][T["translation.frame"][t]]
            ):
                code = self.book.try_step(
                    "write_ring",
                    {
                        "p": p_,
                        "t": t,
                        "ask": self.book.m["Ask"][ask],
                        "guest": guest,
                        "number": number,
                        "name": 0,
                        "bytes": piece,
                    },
                )
                if code == OKAY:
                    return
        if self.had_writer:  # it has ended since then
            words = {"ask": self.book.m["Ask"][ask], "guest": guest, "number": number, "bytes": piece}
            self.book.put({(f"ring.{name}", 0): value for name, value in words.items()})
            return
        raise Mismatch(f"DomB takes a message ({ask}), and no process can write its ring")

    # The channel.

    def port(self, cmd: int, arg: bytes, rc: int, raw: bytes) -> None:
        if cmd == abi.EVTCHNOP_ALLOC_UNBOUND and rc == 0:
            self.rule("channel_open", {"q_q": TWO_DOMIDS.unpack(raw)[2] - 1})
            self.stream = 0
            self.answers.clear()
            self.to_send.clear()
            self.had_writer = False
        elif cmd == abi.EVTCHNOP_SEND:
            self.unsignalled &= rc != 0 or abi.U32.unpack(arg)[0] - 1 != self.book.T["channel.port"][0]
            self.rings(DOMB, abi.U32.unpack(arg)[0] - 1)
        elif cmd == abi.EVTCHNOP_CLOSE:
            number = abi.U32.unpack(arg)[0]
            if number - 1 == self.book.T["channel.port"][0]:
                self.has_signalled()
                self._hangs_up()
                self.rule("channel_close")
            else:
                raise Mismatch(f"DomB closes port {number}, which is not its channel's")

    def has_read(self, addr: int, out: bytes) -> None:
        if self.inbox is not None:
            self.inbox.loaded(addr, out)
        chan = None if self.service is None else self.service.chan
        self.asked_index |= chan is not None and addr == chan.page + RIGHT[0]

    def stored(self, addr: int, payload: bytes) -> None:
        super().stored(addr, payload)
        if self.inbox is not None:
            self.inbox.stored(addr, payload)
        chan = None if self.service is None else self.service.chan
        if chan is not None and addr - chan.page in (LEFT[0], RIGHT[1], SRV_LIVE):
            self.unsignalled = True
            self.said_goodbye = addr == chan.page + SRV_LIVE and payload == b"\0"

    def has_signalled(self) -> None:
        """DomB waits now: if it has changed the ring, its client must not sleep on."""
        if self.unsignalled:
            raise Mismatch("DomB has changed its ring, and has not signalled its client")

    def offered(self, chan: Vchan) -> None:
        self.inbox, self.said_goodbye = Inbox(chan), False
        self._keeps_what_is_mapped()
        pages = self.rig.domb.layout.pages
        refs: list[int] = []
        for addr, count in chan.areas:
            first = addr - self.rig.domb.layout.va(0) >> 12
            frames = [self.book.frame(frame.mfn) for frame in pages[first : first + count]]
            refs += [self.book.size.refs[self.book.T["ring_page.ref"][f]] for f in frames]
        said, offer = self.rig.domb.load(chan.page, 4096), None if self.service is None else self.service.offered
        if said != FIRST_PAGE + b"".join(abi.U32.pack(ref) for ref in refs[1:]).ljust(4096 - len(FIRST_PAGE), b"\0"):
            raise Mismatch(f"the first page of the channel says {said.rstrip(bytes(1)).hex()}; its grants are {refs}")
        if offer is not None and (offer.ring_ref, offer.port) != (refs[0], self.book.T["channel.port"][0] + 1):
            raise Mismatch(f"DomB offers {offer}, and grant {refs[0]} is the first page's")

    def _keeps_what_is_mapped(self) -> None:
        """DomB has had need of pages: of those of earlier channels it keeps what a process still maps, and nothing else."""
        T, nrefs = self.book.T, len(self.book.size.refs)
        for f in range(self.book.size.domb_pages):
            kept = T["ring_page.granted"][f] and not T["ring_page.listed"][f]
            if kept and not T["status.reading"][DOMB * nrefs + T["ring_page.ref"][f]]:
                raise Mismatch(f"DomB keeps page {f} of an earlier channel, which nobody maps any more")

    def receives(self, receive: Callable[[], p.Message | None]) -> p.Message | None:
        return receive() if self.inbox is None else self.inbox.receive(receive)

    def sends(self, message: p.Message, send: Callable[[], bool]) -> bool:
        return send() if self.inbox is None else self.inbox.send(message, send)

    def begins(self) -> None:
        """DomB's service is about to take a step."""
        self.worked, self.stepping, self.served = False, True, self.inbox
        if self.inbox is not None:
            self.inbox.begins(self._index())

    def _index(self) -> int:
        """The client's index of what DomB sends, as it is now."""
        assert self.inbox is not None
        return int.from_bytes(self.rig.domb.load(self.inbox.page + RIGHT[0], 4), "little")

    def shared(self, frame: Frame, ref: int) -> None:
        if frame.data is not None and any(frame.data):
            raise Mismatch(f"DomB shares page {frame.mfn:#x} with what it held before")
        self.rule("channel_share", {"f": self.book.frame(frame.mfn), "r": self.book.ref(ref)})

    def ended(self, ref: int, done: bool) -> None:
        T, r = self.book.T, self.book.ref(ref)
        pages = range(self.book.size.domb_pages)
        f = next((f for f in pages if T["ring_page.granted"][f] and T["ring_page.ref"][f] == r), -1)
        if f < 0:
            raise Mismatch(f"DomB takes grant {ref} back, which is none of its channel's")
        if T["ring_page.listed"][f]:
            self._hangs_up()  # it could not offer the complete channel
        self.rule("channel_withdraw", {"f": f}, OKAY if done else "EBUSY")

    def _hangs_up(self) -> None:
        if self.book.T["channel.link"][0] == self.book.m["Link"]["linked"]:
            self.rule("hang_up")
            if self.stage != "failing":
                self.buffers = []
            self.reading = None

    def hangs_up(self) -> None:
        if self.stepping and self.inbox is not None and not self.inbox.ends(len(self.to_send)):
            raise Mismatch("DomB hangs up without a reason")
        self._now()
        self.asked_index = False
        self.leaving = True  # after DomB has checked which clients got their answers

    def hung_up(self) -> None:
        if self.inbox is not None and not self.said_goodbye:
            raise Mismatch("DomB has hung up, and by its first page it is still there")
        self.inbox = None
        if self.leaving:
            raise Mismatch("DomB has hung up, and has not looked who was told")
        if self.book.T["channel.link"][0] != self.book.m["Link"]["no_channel"]:
            raise Mismatch("DomB has hung up, and its port is open")
        self.settle()

    def sent(self, message: p.Message) -> None:
        if not self.to_send or self.to_send.pop(0) != message:
            raise Mismatch(f"DomB sends a message ({message.op}) that it has not decided on in this connection, or not now")
        self.stream += p.HEADER.size + len(message.body)
        if message.op == p.CREATE | p.REPLY and message.status == 0:
            self.answers[int.from_bytes(message.body[:2], "little")] = self.stream

    def taken(self) -> int:
        """How much of DomB's data the client has taken, by the shared page."""
        service = self.service
        if service is None or service.chan is None:
            return 0
        cons = int.from_bytes(self.rig.os.seen.get(service.chan.page + 8, b""), "little")
        return self.stream - (self.stream - cons & 0xFFFFFFFF)

    def has_asked(self) -> None:
        """DomB acts on a request, or ends its connection: before that it must have looked who was told of a guest."""
        waits = any(self.built("known", d) and not self.built("told", d) for d in map(self.book.domain, self.answers))
        if waits and not self.asked_index:
            raise Mismatch("DomB has not looked whether its client has taken the answer that names a guest")

    def looked(self) -> None:
        if self.leaving:
            self.has_asked()
        taken = self.taken()
        for domid, at in list(self.answers.items()):
            d = self.book.domain(domid)
            if at <= taken and self.built("known", d) and not self.built("told", d) and not self.built("abandoned", d):
                self.rule("guest_told", {"d": d})
                del self.answers[domid]
        if self.leaving:
            self.leaving = False
            self.worked |= self.book.T["channel.link"][0] == self.book.m["Link"]["linked"]
            self._hangs_up()


__all__ = ["ChannelSide"]
