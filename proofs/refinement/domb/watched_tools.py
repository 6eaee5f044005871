"""Watches an honest tool: the implementation's own, with checks of what it sends, and of what it takes for its answer.

An answer is the one to its request: it has the kind and number of the message that it sent last, and only its status
decides whether it has failed. A request without an answer fails with an error that says why there is none. Its file proxy's
answers go to DomB as the proxy gave them. xl tells both daemons of a guest, by the frames and ports that DomB named, before
it starts it. Not here: what DomB's answers must say (follow.py), and the calls of tools (honest.py).
"""

from __future__ import annotations

from collections.abc import Callable

from bulkhead.impl.domb import protocol as p
from bulkhead.impl.domb.builder import Guest
from bulkhead.impl.libs.osdep import ETIMEDOUT, Osdep
from bulkhead.impl.libs.vchan import Offer, Vchan
from bulkhead.impl.log import Log
from bulkhead.impl.tools.fileproxy import FileProxy
from bulkhead.impl.tools.services import EPIPE, PATIENCE, RemoteService, ToolError
from bulkhead.impl.tools.xl import Xl
from bulkhead.impl.xen.abi import EIO
from bulkhead.proofs.refinement.domb.machine import Proxy
from bulkhead.proofs.refinement.domb.messages import home
from bulkhead.proofs.refinement.domb.plain_daemons import Consoled, Stored
from bulkhead.proofs.refinement.domb.spoken import heard
from bulkhead.proofs.refinement.lockstep.rule_steps import Mismatch


class ToolPipe(p.Pipe):
    """A tool's end of the channel."""

    def __init__(self, chan: Vchan, proxy: Proxy) -> None:
        super().__init__(chan)
        self.proxy = proxy
        self.numbers: list[int] = []  # of its requests
        self.asked = 0  # the kind of the last one
        self.body = b""
        self.questions: list[p.Message] = []  # DomB's, which are not answered yet
        self.answer: p.Message | None = None  # the last one that it took
        self.garbage = False  # what it found in the ring, or put there, was refused

    def send(self, message: p.Message) -> bool:
        try:
            done = super().send(message)
        except OSError:
            self.garbage = True
            raise
        if not done:
            return False
        if message.op & p.REPLY:
            question = self.questions.pop(0) if self.questions else None
            want = None if question is None else p.Message(question.op | p.REPLY, question.number, *self.proxy.said)
            if message != want:
                raise Mismatch(f"the file proxy says {message}, not {want}")
        elif message.number in self.numbers or (message.op, message.body) != (self.asked, self.body):
            raise Mismatch(f"a tool sends {message}; its numbers so far are {self.numbers}")
        else:
            self.numbers.append(message.number)
        return True

    def receive(self) -> p.Message | None:
        try:
            message = super().receive()
        except (p.ProtocolError, OSError):
            self.garbage = True
            raise
        if message is not None and message.op & p.REPLY:
            self.answer = message
        elif message is not None:
            self.questions.append(message)
        return message


class WatchedRemote(RemoteService):
    """A tool's build service. `before_start` is asked before a guest is started."""

    def __init__(self, os: Osdep, offer: Offer, files: FileProxy, pump: Callable[[], bool], log: Log) -> None:
        self.unmoved = 0  # how often nothing happened, one after the other
        self.pumped = pump
        super().__init__(os, offer, files, self._pumps, log)
        assert isinstance(files, Proxy)
        self.pipe = self.watched = ToolPipe(self.chan, files)
        self.before_start: Callable[[int], None] = lambda domid: None
        self.asks_again: Callable[[], bool] = lambda: False  # after it gave up

    def close(self) -> None:
        super().close()
        if self.files.files:
            raise Mismatch("a tool has left the channel, and its file proxy keeps files open")

    def _pumps(self) -> bool:
        moved = self.pumped()
        self.unmoved = 0 if moved else self.unmoved + 1
        return moved

    def _why(self, error: ToolError, op: int, was_closed: bool) -> None:
        """A request has failed without an answer: the error is the one that says why."""
        gone = was_closed or not self.chan.is_open()
        if self.watched.garbage:
            want = {EIO}
        elif self.unmoved < PATIENCE:
            want = {EPIPE} if gone else set()
        else:
            want = {ETIMEDOUT, EPIPE} if gone else {ETIMEDOUT}
        if error.errno not in want or not str(error).startswith(f"{p.NAMES[op]}: "):
            raise Mismatch(f"a tool says {error}, with the error {error.errno}, and what happened is {want or 'nothing'}")

    def call(self, op: int, body: bytes) -> bytes:
        try:
            return self._once(op, body)
        except ToolError as error:
            if error.errno != ETIMEDOUT or not self.asks_again():
                raise
        return self._once(op, body)  # over the same connection, in which the old answer may still come

    def _once(self, op: int, body: bytes) -> bytes:
        pipe = self.watched
        pipe.answer, pipe.asked, pipe.body = None, op, body
        sent, was_closed = len(pipe.numbers), self.chan.closed
        self.unmoved, pipe.garbage = 0, False
        try:
            out = super().call(op, body)
        except ToolError as error:
            answer = pipe.answer if len(pipe.numbers) > sent else None
            mine = answer is not None and (answer.op, answer.number) == (op | p.REPLY, pipe.numbers[-1])
            if answer is not None and mine and (not answer.status or error.errno != max(-answer.status, 1)):
                raise Mismatch(f"a tool is answered {answer}, and fails with {error.errno}") from error
            if not mine:
                self._why(error, op, was_closed)
            raise
        answer = pipe.answer
        if answer is None or len(pipe.numbers) != sent + 1:
            raise Mismatch(f"a tool says that its request {op} was answered")
        if (answer.op, answer.number, answer.status, answer.body) != (op | p.REPLY, pipe.numbers[-1], 0, out):
            raise Mismatch(f"a tool asks {op} with the number {pipe.numbers[-1]}, and takes {answer} for its answer")
        return out

    def unpause(self, domid: int) -> None:
        self.before_start(domid)
        super().unpause(domid)
        self.done(p.UNPAUSE, domid)

    def pause(self, domid: int) -> None:
        super().pause(domid)
        self.done(p.PAUSE, domid)

    def destroy(self, domid: int) -> None:
        super().destroy(domid)
        self.done(p.DESTROY, domid)

    def done(self, op: int, domid: int) -> None:
        """The last request was of this kind, about this guest."""
        if (self.watched.asked, self.watched.body) != (op, domid.to_bytes(2, "little")):
            raise Mismatch(f"a tool asks {self.watched.asked} {self.watched.body!r} instead of {op} for domain {domid}")


class WatchedXl(Xl):
    """xl with its connections."""

    def __init__(self, service: WatchedRemote, xenstored: Stored, xenconsoled: Consoled) -> None:
        super().__init__(service, xenstored, xenconsoled, heard)
        self.service: WatchedRemote = service
        self.stored, self.consoled = xenstored, xenconsoled
        self.connected: list[int] = []
        self.trying: int | None = None  # the guest that is being connected
        service.before_start = self._starts

    def create(self, name: str, wanted: p.CreateRequest) -> int:
        self.trying = None
        try:
            domid = super().create(name, wanted)
        except ToolError:
            if self.trying is not None:
                self._forgotten(self.trying)
            raise
        if domid != self.trying:
            raise Mismatch(f"xl has created domain {self.trying}, and says {domid}")
        self.service.done(p.UNPAUSE, domid)
        return domid

    def destroy(self, domid: int) -> bytes:
        known = domid in self.guests
        self.consoled.last_words = b""
        try:
            output = super().destroy(domid)
        finally:
            if known:
                self._forgotten(domid)
        if domid in self.guests:
            raise Mismatch(f"xl has ended domain {domid}, and still knows it")
        if output != self.consoled.last_words:
            raise Mismatch(f"xl has ended domain {domid}, and gives {output[-80:]!r} for its last words")
        return output

    def _forgotten(self, domid: int) -> None:
        """xl has ended a guest, or could not create it: whatever DomB has answered, the daemons do not hold its pages."""
        for name, daemon, holds in (
            ("xenstored", self.stored, self.stored.connections),
            ("xenconsoled", self.consoled, self.consoled.consoles),
        ):
            if domid in holds and not daemon.dead:
                raise Mismatch(f"xl is done with domain {domid}, and {name} keeps it connected")

    def _starts(self, domid: int) -> None:
        if domid not in self.connected:
            raise Mismatch(f"xl starts domain {domid} before the daemons know of it")

    def _connect(self, name: str, guest: Guest) -> None:
        self.trying = domid = guest.domid
        self.stored.introduced = self.consoled.added = None
        try:
            super()._connect(name, guest)
        except ToolError:
            self._named(guest, True)
            raise
        self._named(guest, False)
        self._written(name, guest)
        self.connected.append(domid)

    def _written(self, name: str, guest: Guest) -> None:
        """XenStore says of the guest what DomB and the user have said; its memory is in KiB."""
        told = (
            ("name", name),
            ("domid", guest.domid),
            ("console/port", guest.console_port),
            ("memory/target", guest.pages << 2),
        )
        for node, want in told:
            found = self.stored.store.nodes.get(f"{home(guest.domid)}/{node}")
            if found is None or found.value != str(want).encode():
                raise Mismatch(f"xl writes {node} of domain {guest.domid} as {found and found.value!r}, and it is {want}")

    def _named(self, guest: Guest, failed: bool) -> None:
        """The daemons were told of the guest as DomB named it."""
        for told, want in (
            (self.stored.introduced, (guest.domid, guest.store_mfn, guest.store_port)),
            (self.consoled.added, (guest.domid, guest.console_mfn, guest.console_port)),
        ):
            if told != want and not (failed and told is None):
                raise Mismatch(f"xl tells a daemon of {told}, not of {want}")


__all__ = ["WatchedRemote", "WatchedXl"]
