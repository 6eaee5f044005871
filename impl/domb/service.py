"""DomB's service: it takes requests of Dom0's tools from the channel, reads files through the tools, and builds guests.

Contents: one connection at a time, one build at a time, and the handling of a peer that dies or sends garbage:
the connection ends, a guest whose client never got the answer is destroyed, and a new channel is offered. Files are
fetched completely into DomB's memory before a domain exists, so a half-built guest never waits for the peer. Only guests
built here can be paused or destroyed, in the incarnation that was built: each has its own handle in Xen, which is
checked before every operation. A rollback that fails is retried at every step, and no other build begins
before it is complete. Not here: building (builder.py), messages (protocol.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from struct import Struct, error
from typing import Final

from bulkhead.impl.domb import protocol as p
from bulkhead.impl.domb.builder import BuildError, Guest, Hook, Request, XcDom, build
from bulkhead.impl.libs import ctrl
from bulkhead.impl.libs.osdep import Osdep, OsError
from bulkhead.impl.libs.vchan import Offer, Vchan, server_init
from bulkhead.impl.log import Log, quiet
from bulkhead.impl.xen.abi import E2BIG, EBUSY, EINVAL, EIO, ENOSYS, ESRCH, ESTALE

MAX_OUTBOX: Final = 32
HANDLE: Final = Struct("<8sQ")  # a guest's handle in Xen, unique among the guests of this DomB
Fetch = Generator[tuple[int, bytes], p.Message, bytes]
Job = Generator[tuple[int, bytes], p.Message, Guest]


def fetch(path: str, limit: int = p.MAX_FILE) -> Fetch:
    """Read a whole file over the proxy: yields (op, body) and is sent the answers. OSError.

    The size is the first stat's; a file that ends earlier or changes meanwhile is an error.
    """
    (fd,) = _fields(p.FD, (yield p.FILE_OPEN, path.encode()))
    try:
        before = _fields(p.STAT, (yield p.FILE_STAT, p.FD.pack(fd)))
        size: int = before[0]
        if size > limit:
            raise OsError(E2BIG)
        out = bytearray()
        while len(out) < size:
            want = min(size - len(out), p.MAX_READ)
            got = _body((yield p.FILE_READ, p.READ.pack(fd, len(out), want)))
            if not got or len(got) > want:
                raise OsError(EIO)
            out += got
        if _fields(p.STAT, (yield p.FILE_STAT, p.FD.pack(fd))) != before:
            raise OsError(ESTALE)
    except OSError:
        yield p.FILE_CLOSE, p.FD.pack(fd)
        raise
    yield p.FILE_CLOSE, p.FD.pack(fd)
    return bytes(out)


def _body(answer: p.Message) -> bytes:
    if answer.status:
        raise OsError(-answer.status if -4096 < answer.status < 0 else EIO)
    return answer.body


def _fields(layout: object, answer: p.Message) -> tuple[int, ...]:
    body = _body(answer)
    try:
        return layout.unpack(body)  # type: ignore[attr-defined,no-any-return]
    except error as exc:
        raise OsError(EIO) from exc


@dataclass(slots=True)
class Built:
    """A guest built here, and whether its client got the answer: `at` is the end of that answer in the stream."""

    guest: Guest
    at: int | None = None  # the answer is not in the ring yet
    told: bool = False
    abandoned: bool = False


class BuilderService:
    """The service of one DomB. `log` receives its actions; `on_step` is called at each step of a build and may stop it."""

    def __init__(
        self,
        os: Osdep,
        client: int = 0,
        log: Log = quiet,
        on_step: Hook = lambda step, what: None,
        publish: Callable[[Offer], None] = lambda offer: None,
    ) -> None:
        self.os = os
        self.client = client
        self.log = log
        self.on_step = on_step
        self.publish = publish
        self.chan: Vchan | None = None
        self.pipe: p.Pipe | None = None
        self.offered: Offer | None = None
        self.guests: dict[int, Built] = {}
        self.outbox: deque[p.Message] = deque()
        self.job: Job | None = None
        self.job_number = 0
        self.failing: XcDom | None = None  # a failed build whose rollback is incomplete
        self.asked = (0, 0)  # op and number of the job's pending request to the file proxy
        self.next_number = 1
        self.builds = 0
        self.sent = 0
        self.wanted = False  # a channel must be offered

    # --- the channel ---
    def offer(self) -> Offer:
        """Offer a new channel to the client; on OSError it is retried at every step."""
        self.wanted = True
        self.chan, self.offered = server_init(self.os, self.client, p.LEFT_ORDER, p.RIGHT_ORDER)
        self.wanted = False
        self.pipe = p.Pipe(self.chan)
        self.sent = 0
        self.publish(self.offered)
        return self.offered

    def hang_up(self) -> None:
        """End the connection: drop the build, and the guests whose answer the client never got."""
        self.wanted = False
        if self.job is not None:
            self.job.close()
            self.job = None
        self._see_who_was_told()
        for domid, built in list(self.guests.items()):
            if not built.told and not built.abandoned:
                self.log("DomB", "Xen", f"destroy domain {domid}: its client never got the answer")
                built.abandoned = True
        self._retry()
        self.outbox.clear()
        if self.chan is not None:
            self.chan.close()
        self.chan = self.pipe = self.offered = None

    def step(self) -> bool:
        """Do all work that need not wait; true if there was any. After a lost connection, offer a new channel."""
        busy = self._retry()
        if self.wanted:
            self._offer_if_possible()
        chan, pipe = self.chan, self.pipe
        if chan is None or pipe is None:
            return busy
        chan.drain_events()
        try:
            self._flush(pipe)
            while (message := pipe.receive()) is not None:
                busy = True
                self._handle(message)
                self._flush(pipe)
        except (p.ProtocolError, OSError) as exc:
            self.log("DomB", "its client", f"hang up: {exc}")
            self._again()
            return True
        if not chan.is_open():
            self.log("DomB", "its client", "disconnect: it is gone")
            self._again()
            return True
        return busy

    def _again(self) -> None:
        self.hang_up()
        self._offer_if_possible()

    def _offer_if_possible(self) -> None:
        try:
            self.offer()
        except OSError as exc:
            self.log("DomB", "its client", f"cannot offer a channel: {exc}")

    def _retry(self) -> bool:
        """Retry unfinished rollbacks: a failed build, guests whose client never got the answer."""
        done = False
        if self.failing is not None and self.failing.undo():
            self.failing.release()
            self.failing = None
            done = True
        for domid in [domid for domid, built in self.guests.items() if built.abandoned]:
            done |= self.destroy(domid) == 0
        return done

    def _flush(self, pipe: p.Pipe) -> None:
        while self.outbox and pipe.send(self.outbox[0]):
            message = self.outbox.popleft()
            self.sent += p.HEADER.size + len(message.body)
            if message.op == p.CREATE | p.REPLY and message.status == 0:
                self.guests[p.unpack_guest(message.body).domid].at = self.sent

    def _post(self, op: int, number: int, status: int = 0, body: bytes = b"") -> None:
        if len(self.outbox) >= MAX_OUTBOX:
            raise p.ProtocolError("the client does not read its answers")
        self.outbox.append(p.Message(op, number, status, body[: p.MAX_BODY]))

    # --- requests ---
    def _handle(self, message: p.Message) -> None:
        self._see_who_was_told()
        if message.op & p.REPLY:
            if self.job is not None and (message.op & ~p.REPLY, message.number) == self.asked:
                self._advance(message)
            return  # an answer to no pending request
        if message.op == p.CREATE:
            self._create(message)
            return
        status, body = self._control(message)
        self._post(message.op | p.REPLY, message.number, status, body)

    def _see_who_was_told(self) -> None:
        """Count an answer that was taken from the ring as read; there is no better evidence."""
        if self.chan is None or not any(not built.told for built in self.guests.values()):
            return
        taken = self.sent - self.chan.unread()
        for built in self.guests.values():
            built.told |= built.at is not None and built.at <= taken and not built.abandoned

    def _create(self, message: p.Message) -> None:
        if self.job is not None or self.failing is not None:
            self._post(p.CREATE | p.REPLY, message.number, -EBUSY, b"another guest is being built")
            return
        try:
            wanted = p.unpack_create(message.body)
        except p.ProtocolError as exc:
            self._post(p.CREATE | p.REPLY, message.number, -EINVAL, str(exc).encode())
            return
        self.job = self._build(wanted)
        self.job_number = message.number
        self._advance(None)

    def _build(self, wanted: p.CreateRequest) -> Job:
        kernel = yield from fetch(wanted.kernel)
        self.log("DomB", "file proxy", f"read {wanted.kernel}: {len(kernel)} bytes")
        self.builds += 1
        request = Request(
            kernel,
            pages=wanted.pages,
            cmdline=wanted.cmdline.encode(),
            console_domid=self.client,
            xenstore_domid=self.client,
            handle=HANDLE.pack(b"DomB", self.builds),
        )
        if wanted.ramdisk:
            disk = yield from fetch(wanted.ramdisk)
            self.log("DomB", "file proxy", f"read {wanted.ramdisk}: {len(disk)} bytes")
            request = replace(request, ramdisk=disk)
        return build(self.os, request, self.on_step)

    def _advance(self, answer: p.Message | None) -> None:
        job = self.job
        assert job is not None
        try:
            op, body = next(job) if answer is None else job.send(answer)
        except StopIteration as stop:
            self.job = None
            guest: Guest = stop.value
            self.guests[guest.domid] = Built(guest)
            self._post(p.CREATE | p.REPLY, self.job_number, 0, p.pack_guest(guest))
        except BuildError as exc:
            self.job, self.failing = None, exc.left
            self._post(p.CREATE | p.REPLY, self.job_number, -exc.errno, str(exc).encode())
        except OSError as exc:
            self.job = None
            self._post(p.CREATE | p.REPLY, self.job_number, -(exc.errno or EIO), b"reading its files")
        else:
            self.asked = (op, self.next_number)
            self.next_number = (self.next_number + 1) & 0xFFFFFFFF
            self._post(*self.asked, 0, body)

    # --- requests about a guest: impl/README.md lists them, with the reasons ---
    def _control(self, message: p.Message) -> tuple[int, bytes]:
        if message.op not in (p.PAUSE, p.UNPAUSE, p.DESTROY, p.INFO):
            return -ENOSYS, b""
        if len(message.body) != p.DOMID.size:
            return -EINVAL, b""
        domid: int = p.DOMID.unpack(message.body)[0]
        built = self.guests.get(domid)
        if built is None or not built.told or built.abandoned:
            return -ESRCH, b""
        xch = ctrl.xc_interface_open(self.os)
        if xch is None:
            return -self.os.errno, b""
        try:
            return self._act(xch, message.op, domid)
        finally:
            ctrl.xc_interface_close(xch)

    def _act(self, xch: ctrl.XcInterface, op: int, domid: int) -> tuple[int, bytes]:
        info = self._same(xch, domid)
        if isinstance(info, int):
            return info, b""
        if op == p.INFO:
            return 0, p.STATE.pack(domid, info.paused | info.dying << 1, info.tot_pages, info.max_pages)
        if op == p.DESTROY:
            return self._end(xch, domid), b""
        if info.dying:
            return -EINVAL, b""
        if op == p.PAUSE:
            # Xen counts pauses; here a guest is paused or not, however many tools have requested it.
            return (0 if info.paused or ctrl.xc_domain_pause(xch, domid) == 0 else -self.os.errno), b""
        return (0 if ctrl.xc_domain_unpause(xch, domid) == 0 else -self.os.errno), b""

    def _same(self, xch: ctrl.XcInterface, domid: int) -> ctrl.DomInfo | int:
        """Xen's information about a guest built here; -errno, ESRCH if the id has been reused."""
        info = ctrl.xc_domain_getinfo(xch, domid)
        if info is None and self.os.errno != ESRCH:
            return -self.os.errno
        if info is None or info.handle != self.guests[domid].guest.handle:
            self.guests.pop(domid)
            return -ESRCH
        return info

    def _end(self, xch: ctrl.XcInterface, domid: int) -> int:
        if ctrl.xc_domain_destroy(xch, domid):
            return -self.os.errno
        self.guests.pop(domid)
        return 0

    def destroy(self, domid: int) -> int:
        """Destroy a guest of the record: 0 or -errno."""
        xch = ctrl.xc_interface_open(self.os)
        if xch is None:
            return -self.os.errno
        try:
            info = self._same(xch, domid)
            return info if isinstance(info, int) else self._end(xch, domid)
        finally:
            ctrl.xc_interface_close(xch)
