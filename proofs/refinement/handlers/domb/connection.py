"""The connection: messages copied out of the ring, answers put into it, delivery of answers, and its end.

`Pipe.receive` runs on shared memory that changes between any two loads; `BuilderService.hang_up` on an arbitrary state of
the service; `vchan.server_init` with every call failing in turn. They must refine `take_*`, `guest_told`, `hang_up`,
`destroy_abandoned`, `channel_open`, `channel_share`, `channel_close`, `channel_withdraw`.
"""

from __future__ import annotations

from typing import Any

from bulkhead.impl.domb import protocol as p
from bulkhead.impl.libs import ctrl, vchan
from bulkhead.impl.libs.osdep import OsError
from bulkhead.impl.rings.ring import BadIndex
from bulkhead.impl.xen import abi
from bulkhead.proofs.refinement.handlers.domb.guests import ANYBODY, LAYOUTS, Service, ServiceRun, Xen
from bulkhead.proofs.refinement.handlers.domb.run import DOM0, DOMB, fresh, member
from bulkhead.proofs.refinement.handlers.domb.words import Packed, Text, decide, length
from bulkhead.proofs.refinement.handlers.path import Run, standing_in
from bulkhead.proofs.symbolic.engine import Engine, Int, Unsupported, number, truth
from bulkhead.proofs.symbolic.terms import FALSE, TRUE, ZERO, And, Not, Or, Term, boolean, eq, variable
from bulkhead.proofs.symbolic.terms import number as constant

RING = 1 << p.LEFT_ORDER


class Shared:
    """The reader's end of a ring in shared memory: each load may return a different value."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.there: Term = ZERO
        self.copies: list[Text] = []
        self.taken: list[Term] = []

    def ready(self) -> Int:
        """The number of bytes ready: arbitrary, because others map the ring."""
        if Engine.running().choose("an impossible index"):
            raise BadIndex("garbage")
        self.there = variable(Engine.running().fresh("bytes that are there"), bits=20)
        self.run.engine.assume(self.there <= RING)
        return Int(self.there)

    def peek(self, count: Any) -> Text:
        """A copy of the current bytes."""
        self.run.prove("a copy", [("of no more than is there", And(number(count) >= 0, number(count) <= self.there))])
        self.copies.append(Text(Engine.running().fresh("copy"), number(count)))
        return self.copies[-1]

    def skip(self, count: Any) -> None:
        """Take so many bytes."""
        self.taken.append(number(count))


def receive(run: Run) -> None:
    """`Pipe.receive`: a message is copied, and all later reads use the copy."""
    chan = vchan.Vchan(Xen(run), True)  # type: ignore[arg-type]
    shared = chan.reader = Shared(run)  # type: ignore[assignment]
    pipe = p.Pipe(chan)
    header = LAYOUTS["HEADER"]
    with standing_in((p, "HEADER", header), (p, "len", length)):
        try:
            message = pipe.receive()
        except p.ProtocolError:
            head = shared.copies[0]
            bad = Or(Not(eq(head.field(0, 2), constant(p.MAGIC))), head.field(12, 4) > p.MAX_BODY)
            run.prove("garbage", [("the header of the copy is none", bad), ("nothing is taken", boolean(not shared.taken))])
            return
        except OSError as error:
            run.prove("an impossible index", [("ends it", boolean(error.errno == abi.EPROTO and not shared.taken))])
            return
    if message is None:
        run.prove("no message", [("nothing is taken", boolean(not shared.taken))])
        return
    head, whole = shared.copies[0], shared.copies[-1]
    size, body = head.field(12, 4), message.body
    assert isinstance(body, Text)
    run.prove(
        "a message",
        [
            ("its header was looked at", And(eq(head.field(0, 2), constant(p.MAGIC)), size <= p.MAX_BODY)),
            ("kind and number are those that were looked at", eq(number(message.op), head.field(2, 2))),
            ("its number, too", eq(number(message.number), head.field(4, 4))),
            ("its body is of one copy", body.is_part(whole, constant(16), size)),
            ("so long as the header says that was looked at", eq(body.length, size)),
            ("it was copied twice at most: head, and all", boolean(len(shared.copies) == 2)),
            ("that much is taken, and no more", boolean(len(shared.taken) == 1)),
            ("... of the ring", eq(shared.taken[0], size + 16)),
        ],
    )


class ConnectionRun(ServiceRun):
    """A connection, with an arbitrary build in progress, and an arbitrary built guest."""

    def begin(self) -> None:
        stage = "fetching" if self.engine.choose("files are being read") else "no_request"
        if stage == "no_request" and self.engine.choose("a failed build is not undone yet"):
            stage = "failing"
        self.stage = stage
        self.given(
            {
                stage: lambda: TRUE,
                "job.stage": lambda: member("Stage", stage),
                "channel.link": lambda: member("Link", "linked"),
                # No page of the guest under construction is mapped: building.py covers rollback with mappings.
                "special": lambda d, s: FALSE,
            }
        )
        self.is_member("domain.phase", ANYBODY)


class Channel:
    """The channel's end, by contract: it returns how much its client has not taken, and closes."""

    def __init__(self, run: ConnectionRun) -> None:
        self.run, self.closed = run, False

    def unread(self) -> Int:
        """The bytes that the client has not taken, by its own index."""
        return Int(variable("unread", bits=32))

    def close(self) -> None:
        """Rules: `channel_close`; the pages are withdrawn one by one (`channel_withdraw`)."""
        self.closed = True
        link = self.run.state.at("channel.link")
        self.run.prove("close", [("the connection is ending by the rules", eq(link, member("Link", "hanging_up")))])
        self.run.engine.assume(self.run.state.at("port.state", DOMB, self.run.state.at("channel.port")) != ZERO)
        self.run.follow("channel_close")


class Failing:
    """The rest of a failed build, by the contract that building.py proves."""

    def __init__(self, run: ConnectionRun, service: Service) -> None:
        self.run, self.service, self.released = run, service, False

    def undo(self) -> bool:
        """The rollback may succeed now."""
        if self.run.engine.choose("it cannot be undone yet"):
            return False
        guest = self.run.state.at("job.guest")
        self.run.engine.assume(And(self.run.state.at("domain.phase", guest) != ZERO, guest != DOMB))
        self.run.engine.assume(And(Not(self.run.state.at("service", guest)), guest != ANYBODY))
        self.run.follow("build_undo")
        return True

    def release(self) -> None:
        """The handles are closed."""
        self.released = True


class Job:
    """A build that waits for its files."""

    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        """The build is dropped."""
        self.closed = True


def _service(run: ConnectionRun) -> tuple[Service, Xen, Job, Failing]:
    xen = Xen(run)
    service = Service(run, xen)
    service.records.unsent = True
    job = Job()
    failing = Failing(run, service)
    service.job = job if run.stage == "fetching" else None  # type: ignore[assignment]
    service.failing = failing if run.stage == "failing" else None  # type: ignore[assignment]
    service.chan = Channel(run)  # type: ignore[assignment]
    service.sent = run.argument("sent", 40)  # type: ignore[assignment]
    return service, xen, job, failing


def _told(run: ConnectionRun, service: Service, was: Any) -> None:
    """DomB has checked which clients got their answers: those whose answer was completely taken from the ring."""
    record = service.records.get(Int(ANYBODY))
    if record is None:
        return
    taken = number(service.sent) - variable("unread", bits=32)
    heard = FALSE if record.at is None else number(record.at) <= taken
    waiting = Not(Or(was.at("built.told", ANYBODY), was.at("built.abandoned", ANYBODY)))
    if decide(And(waiting, heard)):
        run.follow("guest_told", {"d": ANYBODY})


def told(run: ConnectionRun) -> None:
    """`_see_who_was_told`."""
    service, xen, _, _ = _service(run)
    was = run.state
    with standing_in(*xen.standing_in()):
        service._see_who_was_told()
    _told(run, service, was)
    run.prove("told", service.records.same_as_rules(ANYBODY))


def hang_up(run: ConnectionRun) -> None:
    """`hang_up`: drops the build, guests without a delivered answer, and queued answers; then the channel."""
    service, xen, job, failing = _service(run)
    was = run.state
    # Assumptions about a recorded guest, as in `requests.py`.
    same = And(was.at("built.known", ANYBODY), eq(was.at("built.life", ANYBODY), was.at("domain.life", ANYBODY)))
    stands = Not(eq(was.at("domain.phase", ANYBODY), member("Phase", "absent")))
    run.engine.assume(Or(Not(same), And(stands, Not(was.at("service", ANYBODY)), Not(eq(ANYBODY, DOMB)))))
    looked = False
    see, retry = Service._see_who_was_told, Service._retry

    def sees(self: Service) -> None:
        nonlocal looked
        see(self)
        _told(run, service, was)
        run.follow("hang_up")
        looked = True

    def retries(self: Service) -> bool:
        if not looked:
            raise Unsupported("undoing begins before it is known who was told")
        return retry(self)

    def destroys(xch: Any, domid: Any) -> int:
        d = number(domid)
        rc = xen.xc_domain_destroy(xch, domid)
        lacked = {"no page is left for the hypercall's arguments: it is tried again": boolean(rc != 0)}
        run.follow("destroy_abandoned", {"d": d}, "okay" if rc == 0 else "ENOMEM", lacked)
        return rc

    with standing_in(
        *xen.standing_in(),
        (Service, "_see_who_was_told", sees),
        (Service, "_retry", retries),
        (ctrl, "xc_domain_destroy", destroys),
    ):
        chan: Any = service.chan
        service.hang_up()
    run.prove(
        "hung up",
        [
            ("it was looked who was told", boolean(looked)),
            ("the channel is closed", boolean(chan.closed and service.chan is None and service.pipe is None)),
            ("no build waits for files", boolean(service.job is None and job.closed == (run.stage == "fetching"))),
            ("no answer is left for the next client", boolean(service.outbox.cleared and not service.outbox)),  # type: ignore[attr-defined]
            (
                "what is left of a build is known, or undone",
                eq(boolean(service.failing is not None), run.stage_is("failing")),
            ),
            ("its handles are closed", boolean(failing.released or run.stage != "failing" or service.failing is not None)),
            ("no handle is left open", boolean(xen.open_files == 0)),
            ("who is abandoned is gone, or could not be destroyed now", _tried(service, xen)),
            *service.records.same_as_rules(ANYBODY),
            *xen.as_rules_have_it(ANYBODY, was),
        ],
    )


def _tried(service: Service, xen: Xen) -> Term:
    record = service.records.get(Int(ANYBODY))
    return TRUE if record is None else Or(Not(truth(record.abandoned)), boolean(xen.lacked))


class Ring:
    """A channel that may have room for a message or not."""

    def __init__(self, run: ConnectionRun) -> None:
        self.run = run
        self.sent: list[Any] = []

    def send(self, message: Any) -> bool:
        """Send a whole message or nothing."""
        if self.run.engine.choose("there is no room"):
            return False
        self.sent.append(message)
        return True


def flush(run: ConnectionRun) -> None:
    """`_flush`: for an answer that names a guest, its end position is recorded once it is in the ring."""
    service, xen, _, _ = _service(run)
    guest = LAYOUTS["GUEST"]
    body = Packed(guest, (Int(ANYBODY), 0, 1, 2, 3, 4, 5))
    status = Int(variable("status", bits=16) - (1 << 15))
    made: Any = p.Message
    message = made(run.argument("op", 16), run.argument("number", 32), status, body)
    run.engine.assume(run.state.at("built.known", ANYBODY))
    service.outbox.append(message)
    before = number(service.sent)
    record = service.records[Int(ANYBODY)]
    began, ring = record.at, Ring(run)
    with standing_in(*xen.standing_in()):
        service._flush(ring)  # type: ignore[arg-type]
    names_guest = And(eq(number(message.op), constant(p.CREATE | p.REPLY)), eq(number(status), ZERO))
    if not ring.sent:
        run.claim("no room", "the answer waits", len(service.outbox) == 1 and record.at is began)
        run.claim("no room", "nothing counts as sent", eq(number(service.sent), before))
        return
    end = before + 16 + guest.size
    run.prove(
        "sent",
        [
            ("once, and gone", boolean(len(ring.sent) == 1 and not service.outbox)),
            ("the stream is so much longer", eq(number(service.sent), end)),
            ("its end is kept for the guest it names", _is(record.at, began, names_guest, end)),
            *service.records.same_as_rules(ANYBODY),
        ],
    )


def _is(at: Any, began: Any, changed: Term, end: Term) -> Term:
    if at is began:
        return Not(changed)
    return And(changed, eq(number(at), end))


class OfferRun(ServiceRun):
    """No channel is open: DomB offers one."""

    def begin(self) -> None:
        self.given(
            {
                "channel.link": lambda: member("Link", "no_channel"),
                "ring_page.granted": lambda f: FALSE,
                "ring_page.listed": lambda f: FALSE,
                "frame.use": lambda f: member("Use", "ram"),
                "frame.owner": lambda f: DOMB,
                "frame.held": lambda f: TRUE,
                "entry.kind": lambda d, r: member("Kind", "invalid"),
                "status.reading": lambda d, r: FALSE,
                "status.writing": lambda d, r: FALSE,
            }
        )
        self.engine.assume(And(Not(eq(self.state.at("domain.phase", DOMB), ZERO)), self.state.at("xsm_event", DOMB, DOM0)))
        running = eq(self.state.at("domain.phase", DOMB), member("Phase", "running"))
        self.engine.assume(running)


class Pages(Xen):
    """Mini-OS, for a channel: it shares its own pages, all or nothing, and opens a port."""

    def __init__(self, run: OfferRun) -> None:
        super().__init__(run)
        self.files: set[int] = set()
        self.shared: dict[int, tuple[int, list[int]]] = {}  # address -> pages, and the grants
        self.next = 0
        self.port: Term | None = None

    def _new(self, what: str) -> int:
        if self.fails(what):
            raise OsError(abi.ENOMEM)
        self.next += 1
        self.files.add(self.next)
        return self.next

    def gntshr_open(self) -> int:
        return self._new("no way to share")

    def evtchn_open(self) -> int:
        return self._new("no set of ports")

    def close(self, fd: int) -> None:
        self.files.remove(fd)
        if self.port is not None and fd == self.events:
            self._ends()
            self.run.follow("channel_close")
            self.port = None

    events = 0

    def evtchn_bind_unbound_port(self, fd: int, domid: Any) -> Any:
        self.events = fd
        if self.fails("no port"):
            raise OsError(abi.ENOSPC)
        self.run.prove("alloc_unbound", [("it waits for Dom0", eq(number(domid), DOM0))])
        self.port = fresh(self.run, "port", 32)
        self.run.engine.assume(self.port > 0)
        self.run.assume_picks("channel_open", {"q_q": self.port}, ("q_q",))
        self.run.follow("channel_open", {"q_q": self.port})
        return Int(self.port)

    def evtchn_notify(self, fd: int, port: Any) -> None:
        """An event is a hint."""

    def gntshr_share(self, fd: int, domid: Any, count: int, writable: bool, offset: int, port: int) -> tuple[int, list[int]]:
        if self.fails("no pages to share"):
            raise OsError(abi.ENOMEM)
        self.run.prove("share", [("with Dom0", eq(number(domid), DOM0)), ("to write", boolean(writable))])
        self.next += 1
        first = self.next * 16
        refs = [8 + first + i for i in range(count)]
        for ref in refs:
            self.run.follow("channel_share", {"f": constant(ref), "r": constant(ref)})
        self.shared[self.next << 16] = (count, refs)
        return self.next << 16, refs

    def gntshr_unshare(self, fd: int, addr: int, count: int) -> None:
        self.run.claim("unshare", "all that was shared there", self.shared[addr][0] == count and fd in self.files)
        self._ends()
        for ref in self.shared.pop(addr)[1]:
            # A process that has already mapped it keeps it: the withdrawal is retried (minios.py).
            self.run.follow("channel_withdraw", {"f": constant(ref)})

    def _ends(self) -> None:
        if self.run.engine.proves(eq(self.run.state.at("channel.link"), member("Link", "linked"))):
            self.run.follow("hang_up")

    def store(self, addr: int, payload: bytes) -> None:
        area = next((a for a in self.shared if a <= addr < a + (self.shared[a][0] << 12)), None)
        self.run.claim("store", "into a page of the channel", area is not None)

    def load(self, addr: int, size: int) -> bytes:
        return bytes(size)


def offer(run: OfferRun) -> None:
    """`server_init`, called by `BuilderService.offer`."""
    os = Pages(run)
    run.engine.assume(Or(eq(run.state.at("job.stage"), member("Stage", "no_request")), run.stage_is("failing")))
    service = Service(run, os)
    told: list[vchan.Offer] = []
    service.publish = told.append
    try:
        service.offer()
    except OSError:
        run.prove(
            "no channel",
            [
                ("something failed", boolean(os.lacked)),
                ("no page stays granted", boolean(not os.shared)),
                ("no port stays open", boolean(os.port is None)),
                ("no handle stays open", boolean(not os.files)),
                ("nobody hears of it", boolean(not told)),
                ("it is tried again", boolean(service.wanted)),
                ("the rules have none either", eq(run.state.at("channel.link"), member("Link", "no_channel"))),
            ],
        )
        return
    chan: Any = service.chan
    pages = sum(count for count, _ in os.shared.values())
    run.prove(
        "a channel",
        [
            ("nothing failed", boolean(not os.lacked)),
            ("it is open by the rules", eq(run.state.at("channel.link"), member("Link", "linked"))),
            ("at the port that was opened", eq(run.state.at("channel.port"), number(chan.port))),
            ("its pages are those that were shared", boolean(sum(count for _, count in chan.areas) == pages)),
            ("what is told names its first page and its port", boolean(told == [service.offered])),
            ("the reference", boolean(told[0].ring_ref in os.shared[chan.areas[0][0]][1])),
            ("the port", eq(number(told[0].port), run.state.at("channel.port"))),
            ("it is not wanted any more", boolean(not service.wanted)),
        ],
    )
    chan.close()
    run.prove(
        "closed",
        [
            ("no page stays granted", boolean(not os.shared)),
            ("no port stays open", boolean(os.port is None)),
            ("no handle stays open", boolean(not os.files)),
            ("the rules have no channel", eq(run.state.at("channel.link"), member("Link", "no_channel"))),
        ],
    )


__all__ = ["ConnectionRun", "OfferRun", "flush", "hang_up", "offer", "receive", "told"]
