"""Requests of tools: refinement of `take_create.act`, `take_pause.act`, ... by `BuilderService._handle` on any message.

The message is DomB's own copy, with arbitrary content; the service's records, the current build and Xen's answers are
arbitrary. The valid form of a request is defined here, by lengths, for the rules' `may fail`. Files: files.py.
"""

from __future__ import annotations

from typing import Any

from bulkhead.impl.domb import protocol as p
from bulkhead.proofs.refinement.handlers.domb.guests import ANYBODY, ERRNOS, SECRET, WAITING, Service, ServiceRun, Xen
from bulkhead.proofs.refinement.handlers.domb.run import DOMB, code_of, fresh, member
from bulkhead.proofs.refinement.handlers.domb.words import Packed, Text
from bulkhead.proofs.refinement.handlers.path import standing_in
from bulkhead.proofs.symbolic.engine import Int, Unsupported, number
from bulkhead.proofs.symbolic.terms import FALSE, TRUE, And, Not, Or, Term, boolean, eq, variable
from bulkhead.proofs.symbolic.terms import number as constant

CONTROL = {p.PAUSE: "take_pause", p.UNPAUSE: "take_unpause", p.DESTROY: "take_destroy", p.INFO: "take_info"}


def _handled(run: ServiceRun, service: Service, xen: Xen, message: p.Message) -> p.Message | None:
    """Handle the message; returns the answer, or None without room for one: then the connection ends."""
    with standing_in(*xen.standing_in()):
        try:
            service._handle(message)
        except p.ProtocolError:
            run.claim("no answer", "there is room for one", WAITING >= 32)
            return None
    run.claim("an answer", "there is one", len(service.outbox) == 1)
    run.claim("an answer", "no handle is left open", xen.open_files == 0)
    return service.outbox[-1]


def _status(answer: p.Message) -> int:
    if not isinstance(answer.status, int):
        raise Unsupported("a status that is symbolic")
    return answer.status


def control(run: ServiceRun) -> None:
    """Pause, unpause, destroy, info, and invalid requests."""
    message = run.message()
    xen = Xen(run)
    service = Service(run, xen)
    op, body = number(message.op), message.body
    run.engine.assume(And(eq(op & p.REPLY, constant(0)), Not(eq(op, constant(p.CREATE)))))
    assert isinstance(body, Text)
    d, before = body.field(0, 2), run.state
    run.is_member("domain.phase", d)
    # Invariant: a recorded guest's incarnation exists until DomB destroys it, and DomB has one thread.
    same = And(before.at("built.known", d), eq(before.at("built.life", d), before.at("domain.life", d)))
    run.engine.assume(Or(Not(same), Not(eq(before.at("domain.phase", d), member("Phase", "absent")))))
    # It is not a service domain: none is under construction (`construction_is_undisturbed`), and they never change.
    run.engine.assume(Or(Not(same), And(Not(before.at("service", d)), Not(eq(d, DOMB)))))
    answer = _handled(run, service, xen, message)
    label = next((rule for known, rule in CONTROL.items() if run.engine.proves(eq(op, constant(known)))), "")
    if label and not run.engine.proves(eq(body.length, constant(2))):
        label = ""
    if not label:
        known = Or([eq(op, constant(o)) for o in CONTROL])
        run.claim("garbage", "it is none of the requests that there are", Or(Not(known), Not(eq(body.length, constant(2)))))
        run.claim("garbage", "it comes to nothing", not xen.did and (answer is None or _status(answer) < 0))
        _same(run, service, xen, before, ANYBODY)
        return
    run.given({f"{label}.guest": lambda c: d})
    code = _code(run, xen, answer, label)
    lacked = {"no page is left for the hypercall's arguments": boolean(code == "ENOMEM")}
    run.claim(label, "it fails for want of memory only where memory lacks", code != "ENOMEM" or xen.lacked)
    run.follow(f"{label}.act", {}, code, lacked)
    if label == "take_destroy" and code == "okay":
        run.follow("take_destroy.forget")
    _same(run, service, xen, before, d, ANYBODY)
    if answer is not None:
        _shows(run, message, answer, d)


def _code(run: ServiceRun, xen: Xen, answer: p.Message | None, label: str) -> str:
    """The rules' code of an answer; without room for it, of the action."""
    if answer is not None:
        return code_of(_status(answer), ERRNOS)
    if xen.did:
        return "okay"
    # No action: the reason is not visible, and only `same state` remains to be proved.
    for code in ("ESRCH", "EINVAL", "ENOMEM"):
        ends = run.engine.proves(_ends(run, label, code, code == "ENOMEM" and xen.lacked))
        if ends:
            return code
    return "okay"


def _ends(run: ServiceRun, label: str, code: str, lacked: bool) -> Term:
    return run.would_end(f"{label}.act", code, {"no page is left for the hypercall's arguments": TRUE if lacked else FALSE})


def _same(run: ServiceRun, service: Service, xen: Xen, before: Any, *places: Term) -> None:
    """Records and guests match the rules, for the requested guest and for any other one."""
    for d in places:
        run.prove("guests", [*xen.as_rules_have_it(d, before), *service.records.same_as_rules(d)])


def _shows(run: ServiceRun, message: p.Message, answer: p.Message, d: Term) -> None:
    """The answer belongs to this request, and shows only allowed data: whether the guest is paused or dying, its size."""
    run.prove(
        "an answer",
        [
            ("to this request", And(eq(number(answer.op), number(message.op) | p.REPLY))),
            ("with its number", eq(number(answer.number), number(message.number))),
        ],
    )
    if not isinstance(answer.body, Packed):
        run.claim("an answer", "it shows nothing", not answer.body)
        return
    values = [number(v) for v in answer.body.values]
    run.claim("an answer", "it names the guest", eq(values[0], d))
    sizes = (variable("tot_pages", bits=32), variable("max_pages", bits=32))
    run.claim("an answer", "it shows sizes, and nothing else", And(values[1] < 4, *map(eq, values[2:], sizes)))
    run.claim("an answer", "it shows no frame", all(v is not number(SECRET) for v in values))


class CreateRun(ServiceRun):
    """A request for a guest arrives, in any stage."""

    def begin(self) -> None:
        stage = "fetching" if self.engine.choose("files are being read") else "no_request"
        if stage == "no_request" and self.engine.choose("a failed build is not undone yet"):
            stage = "failing"
        self.stage = stage
        self.given({stage: lambda: TRUE, "job.stage": lambda: member("Stage", stage)})


class Left:
    """A failed build whose rollback is incomplete."""

    def undo(self) -> bool:
        """The rollback fails now."""
        return False


def create(run: CreateRun) -> None:
    """A request for a guest: copied, checked in the copy, and started if no other build is in progress."""
    message = run.message(Int(constant(p.CREATE)))
    xen = Xen(run)
    service = Service(run, xen)
    busy: Any = object()
    service.job = busy if run.stage == "fetching" else None
    service.failing = Left() if run.stage == "failing" else None  # type: ignore[assignment]
    service.next_number = run.argument("next number", 32)  # type: ignore[assignment]
    service.job_number = before = run.argument("number of the last request", 32)  # type: ignore[assignment]
    first = number(service.next_number)
    answer = _handled(run, service, xen, message)
    body = message.body
    assert isinstance(body, Text)
    sizes = [body.field(at, 2) for at in (4, 6, 8)]
    whole = And(body.length >= 10, eq(sizes[0] + sizes[1] + sizes[2] + 10, body.length), *[n <= p.PATH_MAX for n in sizes])
    if answer is None:
        return  # the connection ends: connection.py
    now, begun = fresh(run, "turn", 40), service.job is not None and service.job is not busy
    run.engine.assume(Not(run.state.at("turns_past", now)))
    if begun:
        run.follow("take_create.act", {"asked": first, "now": now})
        run.prove(
            "a request that is begun",
            [
                ("nothing else is under way", boolean(run.stage == "no_request")),
                ("its lengths add up", whole),
                ("its number is kept for the answer", eq(number(service.job_number), number(message.number))),
                ("the answer waited for is this question's", eq(number(service.asked[1]), number(answer.number))),
                ("... and of its kind", boolean(service.asked[0] == answer.op == p.FILE_OPEN)),
                ("the next question has another number", Not(eq(number(service.next_number), first))),
                ("its number is its own", eq(number(answer.number), first)),
                ("the file is the one that the copy names", answer.body.is_part(body, constant(10), sizes[0])),
            ],
        )
        return
    code = code_of(_status(answer), ERRNOS)
    texts = run.engine.names.get("no text", 0)
    run.follow("take_create.act", {"asked": first, "now": now}, code)
    run.prove(
        "a request that is refused",
        [
            ("the answer is this request's", eq(number(answer.number), number(message.number))),
            ("... and of its kind", boolean(answer.op == p.CREATE | p.REPLY)),
            ("there is a reason", Or(boolean(code == "EBUSY"), Not(whole), boolean(texts > 0))),
            ("nothing is begun", boolean(service.job is (busy if run.stage == "fetching" else None))),
            ("the build under way keeps its number", eq(number(service.job_number), number(before))),
        ],
    )


__all__ = ["CreateRun", "Left", "control", "create"]
