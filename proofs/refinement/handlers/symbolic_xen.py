"""A machine of the implementation with symbolic tables of any size.

Domains and frames are created at first access (from the records in `objects.py`), and assumed to satisfy
the implementation's own invariants, which campaigns check on complete states. `abstraction.py` computes
the rules' state from a machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from bulkhead.impl.xen.domains import Domain, VCpu
from bulkhead.impl.xen.frames import PGT_WRITABLE, Frame
from bulkhead.impl.xen.grant_entries import GrantTable
from bulkhead.impl.xen.machine import Xen
from bulkhead.model.ir import System
from bulkhead.proofs.refinement.handlers.memory import Cells, Moved, Pages, StatusFrames
from bulkhead.proofs.refinement.handlers.objects import FLAGS, NONE, SymActive, SymFrame, SymRecord, Table, base, start
from bulkhead.proofs.symbolic.engine import Engine, Int, number, truth
from bulkhead.proofs.symbolic.terms import BOOL, FALSE, ULE, ULT, And, If, Implies, Not, Or, Term, apply, eq, variable
from bulkhead.proofs.symbolic.terms import number as constant

RECORDS = variable("records", bits=40)  # the number of the caller's maptrack records


def small(value: Term, width: int) -> Term:
    """An arbitrary natural number of so many bits."""
    return ULT(value, constant(1 << width))


def ones(*conditions: Term) -> Term:
    """The number of conditions that hold."""
    total = constant(0)
    for condition in conditions:
        total = total + If(condition, constant(1), constant(0))
    return total


class Domains:
    """The domain list: any number of domains."""

    def __init__(self, machine: SymbolicXen) -> None:
        self.machine = machine

    def get(self, domid: Any) -> Domain | None:
        """The domain of that id, if there is one."""
        return self.machine.find_domain(number(domid))


class FrameNumbers:
    """The frame table's dictionary."""

    def __init__(self, machine: SymbolicXen) -> None:
        self.machine = machine

    def get(self, mfn: Any) -> Frame | None:
        """The frame of that number, if it was ever in use."""
        key = number(mfn)
        for frame in self.machine.frames_known:
            if Engine.running().decide(eq(key, frame.key)):
                return frame
        if not Engine.running().decide(base("frame.known", key)):
            return None
        return self.machine.new_frame(key)


class Owned:
    """A domain's page list, which supports removal; `listed` represents all pages when code iterates."""

    def __init__(self) -> None:
        self.listed: list[Frame] = []

    def __delitem__(self, mfn: object) -> None:
        pass

    def values(self) -> list[Frame]:
        """The pages that represent all."""
        return self.listed


class Policy:
    """An arbitrary security policy over pairs of domains; unmapping is always allowed."""

    @staticmethod
    def allows(src: Domain, dst: Domain) -> Term:
        """xsm_grant of the rules."""
        return apply("xsm_grant", (number(src.domid), number(dst.domid)), BOOL)

    def grant_map(self, src: Domain, dst: Domain, flags: int) -> int:
        """May src map a grant of dst?"""
        return 0 if Engine.running().decide(self.allows(src, dst)) else -1

    def grant_unmap(self, src: Domain, dst: Domain) -> int:
        """Always."""
        return 0

    def grant_copy(self, current: Domain, src: Domain, dst: Domain) -> int:
        """Each side that is not the caller's own needs permission."""
        for domain in (src, dst):
            if domain is not current and not Engine.running().decide(self.allows(current, domain)):
                return -1
        return 0


class SymbolicXen(Xen):
    """The hypervisor with symbolic tables. `caller` makes the call."""

    def __init__(self, system: System) -> None:
        super().__init__()
        self.system = system
        self.options.transitive = False
        self.domains_known: list[Domain] = []
        self.frames_known: list[SymFrame] = []
        self.xen_pages: set[Term] = set()  # pages of Xen's own heap; all others are the guests'
        self.destroyed: list[Domain] = []
        self.moved: list[Moved] = []
        self.domains_by_id = Domains(self)
        self.domains = self.domains_by_id  # type: ignore[assignment]
        self.frames.table = FrameNumbers(self)  # type: ignore[assignment]
        self.xsm = Policy()  # type: ignore[assignment]
        self.pins_at_start: dict[int, Term] = {}  # of active entries, when the current step began
        self.entries_before: list[object] = []  # for reading unchanged entries as of the start of the current step
        self.caller = self.new_domain(variable("caller", bits=15))
        Engine.running().assume(base("domain.exists", number(self.caller.domid)))
        self.caller.grant_table.maptrack = Table(  # type: ignore[assignment]
            RECORDS, lambda h: SymRecord(self, h), lambda record: record.key
        )
        self.vcpu = VCpu(0, self.caller)

    # Objects created at first access.

    def new_domain(self, domid: Term) -> Domain:
        """Another domain."""
        domain = Domain(self, Int(domid))  # type: ignore[arg-type]
        for name in ("refs", "tot_pages", "xenheap_pages", "is_dying"):
            setattr(domain, name, start("domain." + name, domid))
        domain.pages = Owned()  # type: ignore[assignment]
        domain.grant_table = self._new_table(domain, domid)
        self.domains_known.append(domain)
        self._assume_domain(domid)
        return domain

    def _new_table(self, domain: Domain, domid: Term) -> GrantTable:
        table = GrantTable(domain, 64, 1024, 2)
        table.version = start("table.version", domid)  # type: ignore[assignment]
        table.nr_entries = start("table.entries", domid)  # type: ignore[assignment]
        shared, words = Cells("shared", domid), Cells("word", domid)
        table.shared = Pages(shared, base("table.frames", domid))  # type: ignore[assignment]
        table.status = StatusFrames(words)

        def reached(ref: Term) -> SymActive:
            shared.refs.append(ref)
            words.refs.append(ref)
            return SymActive(self, domain, ref)

        table.active = Table(base("table.actives", domid), reached, lambda active: active.ref)  # type: ignore[assignment]
        table.maptrack = None  # type: ignore[assignment]  # nobody looks at another domain's records
        return table

    def domain(self, domid: Term) -> Domain:
        """The domain of that id; there is one."""
        for domain in self.domains_known:
            if Engine.running().decide(eq(domid, number(domain.domid))):
                return domain
        Engine.running().assume(base("domain.exists", domid))
        return self.new_domain(domid)

    def find_domain(self, domid: Term) -> Domain | None:
        """The domain of that id, or None."""
        for domain in self.domains_known:
            if Engine.running().decide(eq(domid, number(domain.domid))):
                return domain
        if not Engine.running().decide(base("domain.exists", domid)):
            return None
        return self.new_domain(domid)

    def frame(self, mfn: Term) -> SymFrame:
        """The frame of that number; there is one."""
        for frame in self.frames_known:
            if Engine.running().decide(eq(mfn, frame.key)):
                return frame
        Engine.running().assume(base("frame.known", mfn))
        return self.new_frame(mfn)

    def new_frame(self, mfn: Term) -> SymFrame:
        """Another frame."""
        frame = SymFrame(self, mfn)
        self.frames_known.append(frame)
        return frame

    # Invariants.

    def _assume_domain(self, domid: Term) -> None:
        """Counts are natural; a listed domain has references: its own unless dead, those of its and of shared pages."""
        engine = Engine.running()
        engine.assume(small(domid, 15))
        dying, refs = base("domain.is_dying", domid), base("domain.refs", domid)
        held = ones(ULT(dying, constant(2)), base("domain.tot_pages", domid) > 0, base("domain.xenheap_pages", domid) > 0)
        engine.assume(And(ULE(dying, constant(2)), refs >= held, refs >= 1, base("table.frames", domid) >= 1))
        version = base("table.version", domid)
        engine.assume(Or(eq(version, constant(1)), eq(version, constant(2))))
        entries, frames = base("table.entries", domid), base("table.frames", domid)
        engine.assume(eq(entries, If(eq(version, constant(1)), frames << 9, frames << 8)))
        engine.assume(eq(base("table.actives", domid), frames << 9))

    def assume_frame(self, mfn: Term) -> None:
        """Counts are natural numbers, and the page is on its owner's page list."""
        engine = Engine.running()
        count, tcount = base("frame.count", mfn), base("frame.tcount", mfn)
        held, owner = base("frame.allocated", mfn), base("frame.owner", mfn)
        engine.assume(small(mfn, 40))
        engine.assume(Implies(held, count > 0))
        own = base("frame.xenheap", mfn) if mfn in self.xen_pages else FALSE
        if mfn not in self.xen_pages:
            engine.assume(Not(base("frame.xenheap", mfn)))
        # Every type reference goes with a general one that is not the owner's; a page of Xen's own has one more, for good.
        engine.assume(ULE(tcount + If(And(held, Not(own)), constant(1), constant(0)), count))
        engine.assume(Or(eq(owner, NONE), small(owner, 15)))
        engine.assume(
            Implies(owner != NONE, And(count > 0, base("domain.exists", owner), base("domain.tot_pages", owner) > 0))
        )
        # The writable type needs no validation.
        engine.assume(
            Implies(And(tcount > 0, eq(base("frame.ptype", mfn), constant(PGT_WRITABLE))), base("frame.validated", mfn))
        )

    def assume_active(self, domain: Term, ref: Term) -> None:
        """An entry in use has a frame."""
        engine = Engine.running()
        pin, frame = base("active.pin", domain, ref), base("active.frame", domain, ref)
        engine.assume(Or(eq(frame, NONE), And(small(frame, 40), base("frame.known", frame))))
        engine.assume(Implies(pin != 0, frame != NONE))

    # Actions outside of the code under test.

    def alloc_frame(self, owner: Domain | None, xenheap: bool = False, limit: int | None = None) -> Frame | None:
        """A frame from the heap for Xen to share with a domain, or none."""
        if owner is None or not xenheap or Engine.running().choose("no memory"):
            return None
        key = variable("new_frame", bits=40)
        self.xen_pages.add(key)
        frame = self.new_frame(key)
        Engine.running().assume(
            And(base("frame.known", key), eq(base("frame.count", key), constant(0)), eq(base("frame.owner", key), NONE))
        )
        frame.count, frame.allocated, frame.xenheap, frame.owner = 1, True, True, owner
        frame.tcount, frame.ptype = 0, 0
        owner.account_xenheap()
        return frame

    def domain_destroy(self, domain: Domain) -> None:
        """Only recorded: the rules' `domain_destroy` is a separate step."""
        self.destroyed.append(domain)

    def guests_write(self) -> None:
        """Between two atomic steps all guests write arbitrary data to their tables, but not to Xen's status words."""
        self.pins_at_start = {id(a): number(a.pin) for a in self.actives()}
        self.entries_before = []
        for domain in self.domains_known:
            cells_of(domain).overwritten()

    # The current state.

    def headers(self) -> list[Term]:
        """Flags and grantee of the accessed version 1 entries."""
        return [
            cells_of(d).read(a.ref << 2) | cells_of(d).read((a.ref << 2) + 1) << 16
            for d in self.domains_known
            for a in d.grant_table.active.known  # type: ignore[attr-defined]
        ]

    def actives(self) -> Iterator[SymActive]:
        """All accessed active entries."""
        for domain in self.domains_known:
            yield from domain.grant_table.active.known  # type: ignore[attr-defined]

    def field(self, name: str, *key: Term) -> Term:
        """A field at any key: the current value of an accessed object, else the initial value."""
        value = base(name, *key)
        for where, held in self._fields(name):
            first = base(name, *where)
            if held is first:
                continue
            here = And([eq(k, w) for k, w in zip(key, where, strict=True)])
            more = first if name in FLAGS else held - first
            # Counters change by plain numbers, so they cancel against their initial values.
            value = value + If(here, more, constant(0)) if more.op == "number" else If(here, held, value)
        return value

    def _fields(self, name: str) -> Iterator[tuple[tuple[Term, ...], Term]]:
        kind, attr = name.split(".")
        read: Callable[[Any], Term] = truth_of(attr) if name in FLAGS else number_of(attr)
        if kind == "active":
            for active in self.actives():
                yield (active.owner, active.ref), active.frame_now() if attr == "frame" else read(active)
        elif kind == "frame" and attr != "known":
            for frame in self.frames_known:
                yield (frame.key,), frame.owner_now() if attr == "owner" else read(frame)
        elif kind == "record":
            for record in self.caller.grant_table.maptrack.known:  # type: ignore[attr-defined]
                yield (record.key,), record.life_now() if attr == "life" else read(record)
        elif name == "domain.is_dying":
            for domain in self.domains_known:
                yield (number(domain.domid),), read(domain)
        elif name in ("table.version", "table.entries"):
            for domain in self.domains_known:
                table = domain.grant_table
                yield (number(domain.domid),), number(table.version if attr == "version" else table.nr_entries)


def truth_of(attr: str) -> Callable[[Any], Term]:
    """Reads a boolean attribute."""
    return lambda thing: truth(getattr(thing, attr))


def number_of(attr: str) -> Callable[[Any], Term]:
    """Reads a numeric attribute."""
    return lambda thing: number(getattr(thing, attr))


def cells_of(domain: Domain) -> Cells:
    """The shared memory of a domain's table."""
    cells: Cells = domain.grant_table.shared.cells  # type: ignore[attr-defined]
    return cells


def words_of(domain: Domain) -> Cells:
    """The memory of its status frames."""
    cells: Cells = domain.grant_table.status.cells  # type: ignore[attr-defined]
    return cells
