"""Reading files through the proxy: refinement of `take_file_answer` and `take_file_data` by `service.fetch` and `_build`.

Each answer is an arbitrary message: any number and kind, any status and any bytes. The condition for a good answer is
defined here, for the rules' `may fail`. The loop over a file's pieces is run from an arbitrary iteration: after a first
piece the file has any length, and a second piece must preserve the assumptions after the first (loop invariant). The build
itself is a contract here: building.py.
"""

from __future__ import annotations

from typing import Any

from bulkhead.impl.domb import protocol as p
from bulkhead.impl.domb import service as s
from bulkhead.impl.domb.builder import BuildError, Guest, Request
from bulkhead.impl.xen import abi
from bulkhead.proofs.refinement.handlers.domb.guests import WAITING, Service, ServiceRun, Xen
from bulkhead.proofs.refinement.handlers.domb.requests import Left
from bulkhead.proofs.refinement.handlers.domb.run import DOM0, member
from bulkhead.proofs.refinement.handlers.domb.words import Packed, Text, any_text, decide
from bulkhead.proofs.refinement.handlers.path import standing_in
from bulkhead.proofs.symbolic.engine import Int, Unsupported, number
from bulkhead.proofs.symbolic.terms import FALSE, TRUE, ZERO, And, If, Not, Term, boolean, eq, variable
from bulkhead.proofs.symbolic.terms import number as constant

GUEST = variable("guest", bits=15)


class Pieces:
    """A file while it is read: only the number and order of its bytes matter, not their values."""

    def __init__(self, run: FilesRun) -> None:
        self.run, self.length, self.rounds = run, ZERO, 0
        run.reading = self

    def measure(self) -> Int:
        """The value of `len`."""
        return Int(self.length)

    def __iadd__(self, piece: Any) -> Pieces:
        run = self.run
        if not isinstance(piece, Text):
            raise Unsupported("a piece that came in no message")
        longer = self.length + piece.length
        run.prove(
            "a piece",
            [
                ("it is the whole body of the answer taken", piece.is_part(run.body(), ZERO, run.body().length)),
                ("there is something in it", piece.length > 0),
                ("it is no longer than was asked for", piece.length <= run.wanted),
                ("the file gets no longer than it said it is", longer <= run.size),
            ],
        )
        self.rounds += 1
        if self.rounds > 1:
            run.engine.abandon()  # as after the first piece: a nonempty part of the file is read, and at most all
        self.length = variable(run.engine.fresh("so much of the file"), bits=64)
        run.engine.assume(And(self.length > 0, self.length <= run.size))
        return self


class File:
    """A completely read file."""

    def __init__(self, pieces: Pieces, name: str) -> None:
        self.size, self.name = pieces.length, name

    def measure(self) -> Int:
        """The value of `len`."""
        return Int(self.size)


class FilesRun(ServiceRun):
    """A request has been taken; next its files are read."""

    reading: Pieces | None = None

    def begin(self) -> None:
        self.given(
            {
                "job.stage": lambda: member("Stage", "fetching"),
                "buffer.used": lambda b: FALSE,
            }
        )
        self.answer: p.Message | None = None
        self.size = self.wanted = ZERO
        self.stat: tuple[Term, ...] | None = None
        self.opened: Term | None = None  # the descriptor, while the file is open
        self.files = self.pieces = 0
        self.doomed = False
        self.built = ""
        self.requests: list[Request] = []

    def body(self) -> Text:
        """The answer's bytes."""
        assert self.answer is not None and isinstance(self.answer.body, Text)
        return self.answer.body


def _standing_in(run: FilesRun, xen: Xen) -> tuple[tuple[object, str, object], ...]:
    def whole(pieces: Any) -> Any:
        return File(pieces, f"file {run.files}") if isinstance(pieces, Pieces) else bytes(pieces)

    def build(os: object, request: Request, on_step: object) -> Guest:
        run.requests.append(request)
        if run.engine.choose("the build fails"):
            failed = BuildError("a step", abi.ENOMEM, "some reason")
            run.built = "failed"
            if run.engine.choose("it cannot be undone yet"):
                failed.left, run.built = Left(), "failing"  # type: ignore[assignment]
            raise failed
        run.built = "built"
        return Guest(Int(GUEST), 1, 2, 3, 4, 5, request.handle)  # type: ignore[arg-type]

    return (
        *xen.standing_in(),
        (s, "bytearray", lambda: Pieces(run)),
        (s, "bytes", whole),
        (s, "build", build),
    )


def files(run: FilesRun) -> None:
    """From the first file request of a build to its answer."""
    xen = Xen(run)
    service = Service(run, xen)
    # Without room for a request or an answer, the connection ends: connection.py.
    run.engine.assume(WAITING < 20)
    kernel, ramdisk, cmdline = (any_text(name, p.PATH_MAX) for name in ("kernel", "ramdisk", "command line"))
    pages, service.builds = run.argument("pages", 32), run.argument("builds", 48)  # type: ignore[assignment]
    before = number(service.builds)
    made: Any = p.CreateRequest
    wanted = made(kernel, ramdisk, pages, cmdline)
    service.job_number = run.argument("number of the request", 32)  # type: ignore[assignment]
    service.next_number = run.argument("next number", 32)  # type: ignore[assignment]
    with standing_in(*_standing_in(run, xen)):
        service.job = service._build(wanted)
        service._advance(None)
        _asks(run, service, (kernel, ramdisk))
        while service.job is not None:
            if not _answered(run, service, (kernel, ramdisk)):
                return  # it was ignored: no change
    _ends(run, service)
    for request in run.requests:
        disk: Any = request.ramdisk
        there = disk.name == "file 2" if isinstance(disk, File) else not disk
        handle: Any = request.handle
        run.prove(
            "what is built",
            [
                ("all files were read to their ends", boolean(not run.doomed and run.opened is None)),
                ("the kernel is the file read first", boolean(getattr(request.kernel, "name", "") == "file 1")),
                ("the ramdisk is the other one, where one was asked for", boolean(there)),
                ("... and only there", If(ramdisk.length > 0, boolean(bool(disk)), boolean(not disk))),
                ("memory as asked for", eq(number(request.pages), number(pages))),
                ("the command line of the copy", request.cmdline.is_part(cmdline, ZERO, cmdline.length)),
                ("the console is Dom0's", eq(number(request.console_domid), DOM0)),
                ("XenStore is Dom0's", eq(number(request.xenstore_domid), DOM0)),
                ("a name in Xen that no other build has had", number(handle.values[1]) > before),
                ("... and that is kept so", number(service.builds) >= number(handle.values[1])),
            ],
        )


def _last(service: Service) -> p.Message:
    return service.outbox[-1]


def _asks(run: FilesRun, service: Service, names: tuple[Text, Text]) -> None:
    """The sent file request is correct, and only its answer is accepted."""
    asked: Any = _last(service)
    op, body = asked.op, asked.body
    claims = [
        (
            "what is waited for is its answer",
            And(boolean(service.asked[0] == op), eq(number(service.asked[1]), number(asked.number))),
        ),
        ("its status is none", boolean(asked.status == 0)),
    ]
    if op == p.FILE_OPEN:
        name = names[run.files]
        claims += [
            ("no file is open", boolean(run.opened is None)),
            ("it is the file that the request names", body.is_part(name, ZERO, name.length)),
        ]
        run.files += 1
        run.stat = None
    elif isinstance(body, Packed) and run.opened is not None:
        values = [number(v) for v in body.values]
        claims.append(("it is the file that was opened", eq(values[0], run.opened)))
        if op == p.FILE_READ and run.reading is not None:
            left = run.size - run.reading.length
            claims += [
                ("it goes on where the last piece ended", eq(values[1], run.reading.length)),
                (
                    "no more than is missing, or fits a message",
                    eq(values[2], If(left < p.MAX_READ, left, constant(p.MAX_READ))),
                ),
                ("something is missing", left > 0),
            ]
            run.wanted = values[2]
    else:
        claims.append(("a question about no file", FALSE))
    if run.doomed:
        claims.append(("after an answer that ends it, it is closed", boolean(op == p.FILE_CLOSE)))
    run.prove("a question", claims)


def _answered(run: FilesRun, service: Service, names: tuple[Text, Text]) -> bool:
    """An arbitrary answer arrives; returns whether it was accepted."""
    question = service.outbox[-1]
    op = run.argument(run.engine.fresh("op"), 16)
    arrived, named = run.argument(run.engine.fresh("number"), 32), number(question.number)
    run.engine.assume((number(op) & p.REPLY) != 0)
    made: Any = p.Message
    status = Int(variable(run.engine.fresh("status"), bits=32) - (1 << 31))
    run.answer = message = made(op, arrived, status, any_text("answer", p.MAX_BODY))
    mine = And(eq(number(op), constant(question.op | p.REPLY)), eq(number(arrived), named))
    count, asked = len(service.outbox), service.asked
    service._handle(message)
    label = "take_file_data" if question.op == p.FILE_READ else "take_file_answer"
    # The identity of a message: for DomB the kind of a request and its number, in the rules one element.
    waited, next_ = run.state.at("job.asked"), variable(run.engine.fresh("next"))
    name = If(mine, waited, waited + 1)
    run.given({f"{label}.number": lambda c: name}, name)
    args = {"next": next_, "b": constant(run.pieces)}
    run.pieces += label == "take_file_data"
    if len(service.outbox) == count:
        run.claim("an answer passed over", "it is not the one waited for", Not(mine))
        run.claim("an answer passed over", "another one is waited for as before", service.asked is asked)
        run.follow(f"{label}.act", args, code="ESRCH")
        return False
    run.claim("an answer", "it is the one waited for", mine)
    good = _is_good(run, message, question)
    went_on = decide(good)
    if question.op == p.FILE_CLOSE:
        went_on = not run.doomed
    if not run.doomed or question.op == p.FILE_CLOSE:
        code = "okay" if went_on else "EIO"
        run.engine.assume(Not(eq(next_, name)))
        run.follow(f"{label}.act", args, code)
    run.doomed |= not went_on
    if question.op == p.FILE_OPEN:
        run.opened = message.body.field(0, 4) if went_on else None
        run.reading = None
    elif question.op == p.FILE_CLOSE:
        run.opened = None
    if service.job is None:
        return True
    run.claim(
        "an answer",
        "with one that is no good, nothing but closing comes",
        not run.doomed or _last(service).op == p.FILE_CLOSE,
    )
    run.claim("an answer", "the next question has a number of its own", Not(eq(number(_last(service).number), named)))
    _asks(run, service, names)
    return True


def _is_good(run: FilesRun, message: Any, question: Any) -> Term:
    """Does reading continue after this answer? For each kind of request, from the semantics of the proxy's messages."""
    body, fine = message.body, eq(number(message.status), ZERO)
    if question.op == p.FILE_OPEN:
        return And(fine, eq(body.length, constant(4)))
    if question.op == p.FILE_STAT:
        told = (body.field(0, 8), body.field(8, 8))
        good = And(fine, eq(body.length, constant(16)))
        if run.stat is None:
            run.stat, run.size = told, told[0]
            return And(good, told[0] <= p.MAX_FILE)
        return And(good, *map(eq, told, run.stat))
    if question.op == p.FILE_READ:
        return And(fine, body.length > 0, body.length <= run.wanted)
    return TRUE


def _ends(run: FilesRun, service: Service) -> None:
    """The request is answered, and no read data is kept."""
    answer: Any = _last(service)
    run.prove(
        "the answer",
        [
            (
                "it is the request's",
                And(boolean(answer.op == p.CREATE | p.REPLY), eq(number(answer.number), number(service.job_number))),
            ),
            ("no file is left open at the proxy", boolean(run.opened is None)),
        ],
    )
    left = service.failing is not None
    run.claim("the answer", "what is still to be undone is known", left == (run.built == "failing"))
    record = next((r for key, r in service.records.known if key is GUEST), None)
    if run.built == "built":
        run.claim("the answer", "it says that the guest is there", answer.status == 0 and isinstance(answer.body, Packed))
        values = answer.body.values
        run.claim("the answer", "it names the guest, its ports and its pages", eq(number(values[0]), GUEST))
        run.claim("the answer", "each at its place", tuple(values[2:]) == (2, 4, 1, 3, 5))
        untold = record is not None and not record.told and record.at is None and not record.abandoned
        run.claim("the answer", "the guest is known, and nobody was told of it", untold)
        return
    run.claim("the answer", "it says that there is no guest", decide(number(answer.status) < 0))
    run.claim("the answer", "no guest is known", record is None)
    if not run.built:
        run.claim("the answer", "there is a reason", run.doomed)
        run.follow("build_give_up")


__all__ = ["FilesRun", "files"]
