"""DomB's service in an arbitrary state, and contracts for Xen's answers about guests.

`Records` replaces the service's table of guests: records are created at first access, and a loop over all sees one
representative. A guest's handle in Xen corresponds to its life in the rules: one per build, which `files.py` proves.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

from bulkhead.impl.domb import protocol as p
from bulkhead.impl.domb import service as s
from bulkhead.impl.domb.builder import Guest
from bulkhead.impl.libs import ctrl
from bulkhead.impl.libs.osdep import Osdep, OsError
from bulkhead.impl.xen import abi
from bulkhead.proofs.refinement.handlers.domb.run import DOM0, DOMB, DombRun, member
from bulkhead.proofs.refinement.handlers.domb.words import Layout, Text, any_text, decide, length, maximum, minimum, total
from bulkhead.proofs.symbolic.engine import Bool, Int, Unsupported, number, truth
from bulkhead.proofs.symbolic.terms import FALSE, TRUE, And, If, Not, Or, Term, boolean, eq, variable
from bulkhead.proofs.symbolic.terms import number as constant

ANYBODY = variable("any guest", bits=15)  # represents all guests in loops
LAYOUTS = {
    name: Layout(getattr(p, name)) for name in ("HEADER", "DOMID", "FD", "STAT", "READ", "GUEST", "CREATE_HEAD", "STATE")
}
ERRNOS = {abi.ESRCH: "ESRCH", abi.EINVAL: "EINVAL", abi.ENOMEM: "ENOMEM", abi.EBUSY: "EBUSY"}
WAITING = variable("answers that wait", bits=8)


def _flag(condition: Term) -> Int:
    """A boolean that the code shifts, as in C."""
    return Int(If(condition, constant(1), constant(0)))


class Records:
    """`BuilderService.guests`."""

    def __init__(self, run: DombRun) -> None:
        self.run = run
        self.before = run.state
        self.unsent = False  # may an answer still be queued for the ring?
        self.known: list[tuple[Term, s.Built | None]] = []

    def get(self, domid: Any) -> s.Built | None:
        """The record, if there is one."""
        d = number(domid)
        for key, record in self.known:
            if decide(eq(key, d)):
                return record
        found = self._made(d) if decide(self.run.state.at("built.known", d)) else None
        self.known.append((d, found))
        return found

    def _made(self, d: Term) -> s.Built:
        rules = self.run.state
        guest = Guest(Int(d), 0, 0, 0, 0, 0, Int(rules.at("built.life", d)))  # type: ignore[arg-type]
        end: Any = Int(variable("end of its answer", bits=40))
        at = end if not self.unsent or self.run.engine.choose("its answer is in the ring") else None
        told, abandoned = Bool(rules.at("built.told", d)), Bool(rules.at("built.abandoned", d))
        return s.Built(guest, at, told, abandoned)  # type: ignore[arg-type]

    def __contains__(self, domid: Any) -> bool:
        return self.get(domid) is not None

    def __getitem__(self, domid: Any) -> s.Built:
        found = self.get(domid)
        if found is None:
            raise KeyError("a guest that is not known")
        return found

    def __setitem__(self, domid: Any, record: s.Built) -> None:
        self.known.insert(0, (number(domid), record))

    def pop(self, domid: Any) -> s.Built:
        """Remove and return the record."""
        found = self[domid]
        self.known.insert(0, (number(domid), None))
        return found

    def __iter__(self) -> Iterator[Int]:
        if self.get(Int(ANYBODY)) is not None:
            yield Int(ANYBODY)

    def items(self) -> list[tuple[Int, s.Built]]:
        """The one that stands for all."""
        return [(d, self[d]) for d in self]

    def values(self) -> list[s.Built]:
        """The one that stands for all."""
        return [record for _, record in self.items()]

    def same_as_rules(self, d: Term) -> list[tuple[str, Term]]:
        """Does the record match the rules'? Records of former incarnations match anything."""
        rules, was = self.run.state, self.before
        fields = ("known", "told", "abandoned")
        values = {name: was.at(f"built.{name}", d) for name in fields}
        for key, record in reversed(self.known):
            here = eq(key, d)
            now = {"known": boolean(record is not None)}
            if record is not None:
                now |= {"told": truth(record.told), "abandoned": truth(record.abandoned)}
            values |= {name: If(here, value, values[name]) for name, value in now.items()}
        exists = Not(eq(rules.at("domain.phase", d), member("Phase", "absent")))
        stands = And(exists, eq(rules.at("built.life", d), rules.at("domain.life", d)))
        told = And(stands, values["known"])
        return [
            ("who is known", Or(Not(stands), eq(rules.at("built.known", d), values["known"]))),
            ("who was told", Or(Not(told), eq(rules.at("built.told", d), values["told"]))),
            ("who is abandoned", Or(Not(told), eq(rules.at("built.abandoned", d), values["abandoned"]))),
        ]


class Outbox(deque[p.Message]):
    """Answers that wait for room: an arbitrary number of earlier ones, and those posted now."""

    def __init__(self) -> None:
        super().__init__()
        self.cleared = False

    def measure(self) -> Int:
        """The value of `len`."""
        return Int(WAITING + len(self))

    def clear(self) -> None:
        """Remove all."""
        super().clear()
        self.cleared = True


class Xen(Osdep):
    """Xen and DomB's kernel, for requests about guests. Actions are recorded; any call may find no free page."""

    def __init__(self, run: DombRun) -> None:
        self.run = run
        self.errno = 0
        self.open_files = 0
        self.did: list[tuple[str, Term]] = []
        self.lacked = False  # has a call failed for lack of memory?

    def fails(self, what: str) -> bool:
        """Is there no page for the arguments of this call?"""
        if not self.run.engine.choose(what):
            return False
        self.errno, self.lacked = abi.ENOMEM, True
        return True

    def call_open(self) -> int:
        if self.fails("no way to hypercalls"):
            raise OsError(abi.ENOMEM)
        self.open_files += 1
        return self.open_files

    def close(self, fd: int) -> None:
        self.open_files -= 1

    def standing_in(self) -> tuple[tuple[object, str, object], ...]:
        """libxenctrl's functions, and replaced names in the service's module."""
        names = ("xc_domain_getinfo", "xc_domain_pause", "xc_domain_unpause", "xc_domain_destroy")
        return (
            *[(ctrl, name, getattr(self, name)) for name in names],
            *[(p, name, layout) for name, layout in LAYOUTS.items()],
            *[(module, "len", length) for module in (p, s)],
            (p, "max", maximum),
            (p, "sum", total),
            (s, "min", minimum),
            (s, "HANDLE", Layout(s.HANDLE)),
        )

    def _phase(self, d: Term, *names: str) -> Term:
        phase = self.run.state.at("domain.phase", d)
        return Or([eq(phase, member("Phase", name)) for name in names])

    def xc_domain_getinfo(self, xch: ctrl.XcInterface, domid: Any) -> ctrl.DomInfo | None:
        d, rules = number(domid), self.run.state
        if self.fails("getdomaininfo"):
            return None
        if decide(self._phase(d, "absent")):
            self.errno = abi.ESRCH
            return None
        made: Any = ctrl.DomInfo
        told: ctrl.DomInfo = made(
            domid,
            _flag(rules.at("domain.paused", d)),
            _flag(self._phase(d, "dying", "dead")),
            False,
            Int(variable("tot_pages", bits=32)),
            Int(variable("max_pages", bits=32)),
            SECRET,
            Int(rules.at("domain.life", d)),
        )
        return told

    def _act(self, what: str, domid: Any, unless: Term = FALSE) -> int:
        d = number(domid)
        if self.fails(what):
            return -1
        allowed = And(Not(self.run.state.at("service", d)), Not(eq(d, DOMB)))
        if decide(Or(Not(allowed), unless)):
            self.errno = abi.EINVAL
            return -1
        self.did.append((what, d))
        return 0

    def xc_domain_pause(self, xch: ctrl.XcInterface, domid: Any) -> int:
        # Xen counts pauses, the rules do not: a domain paused twice needs two unpauses.
        paused = self.run.state.at("domain.paused", number(domid))
        self.run.claim("pause", "a guest that is paused is not paused once more", Not(paused))
        return self._act("pause", domid)

    def xc_domain_unpause(self, xch: ctrl.XcInterface, domid: Any) -> int:
        d = number(domid)
        stopped = And(self.run.state.at("domain.paused", d), self._phase(d, "building", "running"))
        return self._act("unpause", domid, Not(stopped))

    def xc_domain_destroy(self, xch: ctrl.XcInterface, domid: Any) -> int:
        return self._act("destroy", domid)

    def as_rules_have_it(self, d: Term, before: Any) -> list[tuple[str, Term]]:
        """Do phase and pause of a domain after these calls match the rules' current state?"""
        rules = self.run.state
        phase, paused = before.at("domain.phase", d), before.at("domain.paused", d)
        for what, which in self.did:
            here = eq(which, d)
            if what == "pause":
                paused = If(here, TRUE, paused)
            elif what == "unpause":
                paused, phase = If(here, FALSE, paused), If(here, member("Phase", "running"), phase)
            elif what == "destroy":
                alive = Or(eq(phase, member("Phase", "building")), eq(phase, member("Phase", "running")))
                phase = If(And(here, alive), member("Phase", "dying"), phase)
            else:
                raise Unsupported(what)
        return [
            ("another domain ends, or starts", eq(rules.at("domain.phase", d), phase)),
            ("another domain stands still", eq(rules.at("domain.paused", d), paused)),
        ]


SECRET = Int(variable("a frame of the guest", bits=40))


class Service(s.BuilderService):
    """The service itself, with arbitrary records and answers. Its client is Dom0."""

    def __init__(self, run: DombRun, os: Osdep) -> None:
        super().__init__(os)
        self.guests = Records(run)  # type: ignore[assignment]
        self.outbox = Outbox()

    @property
    def records(self) -> Records:
        """The table."""
        return self.guests  # type: ignore[return-value]


class ServiceRun(DombRun):
    """A run of the service."""

    def __init__(self) -> None:
        super().__init__()
        self.begin()
        for d in (ANYBODY, DOM0):
            self.engine.assume(Or(Not(self.state.at("built.known", d)), self.has_no_right(d)))

    def begin(self) -> None:
        """Assumptions about the initial state; none."""
        self.given({"ring.ask": lambda: member("Ask", "nothing")})

    def has_no_right(self, d: Term) -> Term:
        """Invariant `built_is_let_go`."""
        return Not(self.state.at("right", self.state.at("built.life", d)))

    def message(self, op: Int | None = None) -> p.Message:
        """A message of arbitrary content, in DomB's copy."""
        made: Any = p.Message
        status = Int(variable("status", bits=32) - (1 << 31))
        body: Text = any_text("body", p.MAX_BODY)
        return made(op or self.argument("op", 16), self.argument("number", 32), status, body)  # type: ignore[no-any-return]


__all__ = ["ANYBODY", "ERRNOS", "LAYOUTS", "SECRET", "WAITING", "Outbox", "Records", "Service", "ServiceRun", "Xen"]
