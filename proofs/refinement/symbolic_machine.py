"""A machine of the implementation whose tables are symbolic and of any size, and how the rules' state is read off it.

Domains, frames, active entries and maptrack records are made when the code first reaches for them: the engine decides
whether the number names one that is known already or another one, whose fields are then arbitrary. So identity (`is`) is
Python's own. Grant entries and status words are 16-bit cells of guest and Xen memory, read and written through the same
layouts as bytes are. `before` and `now` give the rules' state functions of the start and of the present state.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import z3

from impl.xen import abi
from impl.xen.domains import Domain, VCpu
from impl.xen.frames import PGT_WRITABLE, Frame
from impl.xen.grant_entries import Active, GrantTable
from impl.xen.machine import Xen
from impl.xen.maptrack import Maptrack
from model.ir import System
from proofs.refinement.symbolic import WIDTH, Bool, Engine, Expr, Int, Unsupported, number, truth
from proofs.refinement.symbolic_rules import Function, RuleState, bits, hash_of

NONE = -1  # stands for "no frame", "no domain" in a field
SPARE = 4096 // 2


WORD, BOOLEAN = z3.BitVecSort(WIDTH), z3.BoolSort()
_bases: dict[tuple[Any, ...], tuple[Expr, tuple[Expr, ...]]] = {}


@functools.cache
def _function(name: str, arity: int, sort: Any) -> Any:
    return z3.Function(name, *[WORD] * arity, sort)


def base(name: str, *args: Expr, truth: bool = False) -> Expr:
    """The value of a field in the first state: an arbitrary function of what it belongs to."""
    key = (name, truth, *[a.get_id() for a in args])
    if key not in _bases:  # the arguments are kept with it: ids are theirs while they live
        _bases[key] = (_function(name, len(args), BOOLEAN if truth else WORD)(*args), args)
    return _bases[key][0]


_places: dict[tuple[int, int], bool] = {}
_kept: list[Expr] = []


def place(cell: Expr, guesses: Iterable[Expr]) -> Expr:
    """The address by a simpler term that is equal to it whatever its variables are, if one of the guesses is."""
    for guess in guesses:
        key = (cell.get_id(), guess.get_id())
        if key not in _places:
            _kept.extend((cell, guess))  # so that no other term gets their ids
            _places[key] = z3.Solver().check(cell != guess) == z3.unsat
        if _places[key]:
            return guess
    return cell


class SymFrame(Frame):
    """A frame of which nothing but its number is known; its owner is found out when somebody asks."""

    def __init__(self, machine: Machine, mfn: Expr) -> None:
        self._machine = machine
        self._owner: Domain | None = None
        self._asked = True
        super().__init__(Int(mfn))  # type: ignore[arg-type]
        self._asked = False
        self.key = mfn
        for name in ("count", "tcount", "ptype"):
            setattr(self, name, Int(base("frame." + name, mfn)))
        self.allocated = Bool(base("frame.allocated", mfn, truth=True))  # type: ignore[assignment]
        self.validated = Bool(base("frame.validated", mfn, truth=True))  # type: ignore[assignment]
        machine.assume_frame(mfn)

    @property
    def owner(self) -> Domain | None:
        """The owner; the first question decides who it is."""
        if not self._asked:
            self._asked = True
            key = base("frame.owner", self.key)
            self._owner = None if Engine.running().decide(key == NONE) else self._machine.domain(key)
        return self._owner

    @owner.setter
    def owner(self, value: Domain | None) -> None:
        self._asked = True
        self._owner = value

    def owner_now(self) -> Expr:
        """The owner as a term, without asking."""
        if not self._asked:
            return base("frame.owner", self.key)
        return bits(NONE) if self._owner is None else number(self._owner.domid)

    def bytes(self) -> Content:  # type: ignore[override]
        return Content()


class Content:
    """The bytes of a page that are only moved, never looked at."""

    def __getitem__(self, where: slice) -> bytes:
        return b""

    def __setitem__(self, where: slice, value: bytes) -> None:
        pass


class SymActive(Active):
    """An active entry; a frame is looked up when somebody asks which one it is."""

    def __init__(self, machine: Machine, domain: Domain, ref: Expr) -> None:
        self._asked = True
        self._frame: Frame | None = None
        self._machine = machine
        super().__init__()
        self._asked = False
        self.owner, self.ref = number(domain.domid), ref
        self.pin = Int(base("active.pin", self.owner, ref))  # type: ignore[assignment]
        self.domid = Int(base("active.domid", self.owner, ref))  # type: ignore[assignment]
        self.trans_dom, self.trans_gref = domain, Int(ref)  # type: ignore[assignment]
        self.length = 4096
        machine.assume_active(self.owner, ref)

    @property
    def frame(self) -> Frame | None:
        """The frame pinned, or once pinned."""
        if not self._asked:
            self._asked = True
            key = base("active.frame", self.owner, self.ref)
            self._frame = None if Engine.running().decide(key == NONE) else self._machine.frame(key)
        return self._frame

    @frame.setter
    def frame(self, value: Frame | None) -> None:
        self._asked = True
        self._frame = value

    def frame_now(self) -> Expr:
        """The frame's number as a term, without asking."""
        if not self._asked:
            return base("active.frame", self.owner, self.ref)
        return bits(NONE) if self._frame is None else number(self._frame.mfn)


class SymRecord(Maptrack):
    """A maptrack record of the calling domain."""

    def __init__(self, machine: Machine, handle: Expr) -> None:
        self._machine = machine
        self._asked = True
        self._granter: Domain | None = None
        super().__init__(0, 0)
        self._asked = False
        self.key = handle
        for name in ("ref", "flags", "domid"):
            setattr(self, name, Int(base("record." + name, handle)))
        machine.assume_record(handle)

    @property
    def granter(self) -> Domain | None:
        """The incarnation that granted: the domain there is by that id, or one that has gone (None here)."""
        if not self._asked:
            self._asked = True
            domid, life = base("record.domid", self.key), base("record.life", self.key)
            found = self._machine.domains_by_id.get(Int(domid))
            if found is not None and Engine.running().decide(life == base("domain.life", number(found.domid))):
                self._granter = found
        return self._granter

    @granter.setter
    def granter(self, value: Domain | None) -> None:
        self._asked = True
        self._granter = value

    def life_now(self) -> Expr:
        """The incarnation as a term."""
        if not self._asked or self._granter is None:
            return base("record.life", self.key)
        return base("domain.life", number(self._granter.domid))


class Table:
    """A table of any length: elements are made when they are first reached for."""

    def __init__(self, length: Expr, make: Callable[[Expr], Any], key: Callable[[Any], Expr]) -> None:
        self.length, self.make, self.key = length, make, key
        self.known: list[Any] = []

    def __getitem__(self, index: Any) -> Any:
        where = number(index)
        engine = Engine.running()
        if engine.decide(z3.Or(where < 0, where >= self.length)):
            raise IndexError("symbolic index out of range")
        return self.find(where)

    def find(self, where: Expr) -> Any:
        """The element of that number, known or new."""
        for item in self.known:
            if Engine.running().decide(where == self.key(item)):
                return item
        item = self.make(where)
        self.known.append(item)
        return item

    def size(self) -> Int:
        """What `len` says where the code asks for it."""
        return Int(self.length)


class Cells:
    """Memory in 16-bit cells: arbitrary at first, then what has been written."""

    def __init__(self, name: str, domain: Expr) -> None:
        self.name, self.domain = name, domain
        self.generation = 0
        self.table: Table | None = None
        self.writes: list[tuple[Expr, Expr]] = []

    def first(self, cell: Expr, generation: int | None = None) -> Expr:
        """What the cell held when the present atomic step began (or that one)."""
        name = f"{self.name}#{self.generation if generation is None else generation}"
        key = (name, self.domain.get_id(), cell.get_id())
        if key not in _bases:
            value = z3.ZeroExt(WIDTH - 16, _function(name, 2, z3.BitVecSort(16))(self.domain, cell))
            _bases[key] = (value, (self.domain, cell))
        return _bases[key][0]

    def guesses(self) -> Iterator[Expr]:
        """Where entries that have been reached for begin: 4 or 8 cells each, or one word."""
        for active in self.table.known if self.table is not None else ():
            yield from (active.ref << 2, active.ref << 3, active.ref)

    def read(self, cell: Expr) -> Expr:
        """What it holds now."""
        value = self.first(cell)
        for where, written in self.writes:
            value = written if cell.eq(where) else z3.If(cell == where, written, value)
        return value

    def write(self, cell: Expr, value: Expr) -> None:
        """Store the low 16 bits."""
        self.writes.append((cell, value & 0xFFFF))

    def overwritten(self) -> None:
        """The guest writes what it likes, wherever it likes."""
        self.generation += 1
        self.writes = []


class Page:
    """One page of a table; its `data` is itself, to be read through the layouts below."""

    def __init__(self, cells: Cells, index: Expr) -> None:
        self.cells, self.index = cells, index

    @property
    def data(self) -> Page:
        """The page's memory."""
        return self

    def cell(self, offset: object) -> Expr:
        """The cell at a byte offset, which the layouts keep even."""
        where = number(offset)
        if not Engine.running().proves(z3.And(where & 1 == 0, where >= 0, where < 4096)):
            raise Unsupported("an offset that is odd or leaves the page")
        return place((self.index << 11) | (where >> 1), self.cells.guesses())


class Pages:
    """The pages of a table, any number of them."""

    def __init__(self, cells: Cells) -> None:
        self.cells = cells

    def __getitem__(self, index: object) -> Page:
        return Page(self.cells, number(index))


class Layout:
    """Stands in for a `struct.Struct`: fields of whole cells, little endian."""

    def __init__(self, *cells: int) -> None:
        self.cells = cells

    def unpack_from(self, page: Page, offset: object) -> tuple[Int, ...]:
        """The fields."""
        where = page.cell(offset)
        out, at = [], 0
        for width in self.cells:
            value = bits(0)
            for i in range(width):
                value = value | (page.cells.read(where + at + i) << (16 * i))
            out.append(Int(z3.simplify(value)))
            at += width
        return tuple(out)

    def pack_into(self, page: Page, offset: object, *values: object) -> None:
        """Write the fields."""
        where = page.cell(offset)
        at = 0
        for width, value in zip(self.cells, values, strict=True):
            for i in range(width):
                page.cells.write(where + at + i, number(value) >> (16 * i))
            at += width


LAYOUTS = {"HEADER": Layout(1, 1), "U16": Layout(1), "ENTRY_V1": Layout(1, 1, 2), "ENTRY_V2": Layout(1, 1, 1, 1, 4)}


class Domains:
    """The domain list: any number of domains."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def get(self, domid: Any) -> Domain | None:
        """The domain of that id, if there is one."""
        return self.machine.find_domain(number(domid))


class FrameNumbers:
    """The frame table's dictionary."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def get(self, mfn: Any) -> Frame | None:
        """The frame of that number, if it was ever in use."""
        key = number(mfn)
        for frame in self.machine.frames_known:
            if Engine.running().decide(key == frame.key):
                return frame
        if not Engine.running().decide(base("frame.known", key, truth=True)):
            return None
        return self.machine.new_frame(key)


class Owned:
    """A domain's list of its pages, of which pages are taken off."""

    def __delitem__(self, mfn: object) -> None:
        pass


class Policy:
    """Any security policy that grants by pairs of domains; unmapping always works."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    @staticmethod
    def allows(src: Domain, dst: Domain) -> Expr:
        """xsm_grant of the rules."""
        return z3.Function("xsm_grant", z3.BitVecSort(WIDTH), z3.BitVecSort(WIDTH), z3.BoolSort())(
            number(src.domid), number(dst.domid))

    def grant_map(self, src: Domain, dst: Domain, flags: int) -> int:
        """May src map a grant of dst?"""
        return 0 if Engine.running().decide(self.allows(src, dst)) else -1

    def grant_unmap(self, src: Domain, dst: Domain) -> int:
        """Always."""
        return 0

    def grant_copy(self, current: Domain, src: Domain, dst: Domain) -> int:
        """Each side that is not the caller's own must be allowed."""
        for domain in (src, dst):
            if domain is not current and not Engine.running().decide(self.allows(current, domain)):
                return -1
        return 0


class Machine(Xen):
    """The hypervisor with symbolic tables. `caller` makes the call."""

    def __init__(self, system: System) -> None:
        super().__init__()
        self.system = system
        self.domains_known: list[Domain] = []
        self.frames_known: list[SymFrame] = []
        self.destroyed: list[Domain] = []
        self.domains_by_id = Domains(self)
        self.domains = self.domains_by_id  # type: ignore[assignment]
        self.frames.table = FrameNumbers(self)  # type: ignore[assignment]
        self.xsm = Policy()  # type: ignore[assignment]
        self.pins_at_start: dict[int, Expr] = {}  # of active entries, when the present step began
        self.entries_before: list[Function] = []
        self.caller = self.new_domain(z3.BitVec("caller", WIDTH))
        engine = Engine.running()
        engine.assume(base("domain.exists", number(self.caller.domid), truth=True))
        self.caller.grant_table.maptrack = Table(  # type: ignore[assignment]
            z3.BitVec("records", WIDTH), lambda h: SymRecord(self, h), lambda record: record.key)
        engine.assume(small(z3.BitVec("records", WIDTH), 40))
        self.vcpu = VCpu(0, self.caller)

    # Making what is reached for.

    def new_domain(self, domid: Expr) -> Domain:
        """Another domain."""
        domain = Domain(self, Int(domid))  # type: ignore[arg-type]
        engine = Engine.running()
        engine.assume(small(domid, 15))
        for name in ("refs", "tot_pages", "is_dying"):
            setattr(domain, name, Int(base("domain." + name, domid)))
            engine.assume(small(base("domain." + name, domid), 40))
        dying = base("domain.is_dying", domid)
        engine.assume(z3.ULE(dying, 2))
        # Who is not dead holds itself; all its pages together hold it once.
        engine.assume(base("domain.refs", domid) >= z3.If(dying < 2, bits(1), bits(0))
                      + z3.If(base("domain.tot_pages", domid) > 0, bits(1), bits(0)))
        domain.pages = Owned()  # type: ignore[assignment]
        table = GrantTable(domain, 64, 1024, 2)
        table.version = Int(base("table.version", domid))  # type: ignore[assignment]
        table.nr_entries = Int(base("table.entries", domid))  # type: ignore[assignment]
        engine.assume(z3.Or(base("table.version", domid) == 1, base("table.version", domid) == 2))
        engine.assume(small(base("table.entries", domid), 32))
        engine.assume(small(base("table.actives", domid), 33))
        engine.assume(base("table.actives", domid) >= base("table.entries", domid))
        table.shared = Pages(Cells("shared", domid))  # type: ignore[assignment]
        table.status = Pages(Cells("word", domid))  # type: ignore[assignment]
        table.active = Table(base("table.actives", domid), lambda r: SymActive(self, domain, r),  # type: ignore[assignment]
                             lambda active: active.ref)
        table.shared.cells.table = table.status.cells.table = table.active  # type: ignore[attr-defined]
        table.maptrack = None  # type: ignore[assignment]  # nobody looks at another domain's records
        domain.grant_table = table
        self.domains_known.append(domain)
        return domain

    def domain(self, domid: Expr) -> Domain:
        """The domain of that id; there is one."""
        for domain in self.domains_known:
            if Engine.running().decide(domid == number(domain.domid)):
                return domain
        Engine.running().assume(base("domain.exists", domid, truth=True))
        return self.new_domain(domid)

    def find_domain(self, domid: Expr) -> Domain | None:
        """The domain of that id, or None."""
        for domain in self.domains_known:
            if Engine.running().decide(domid == number(domain.domid)):
                return domain
        if not Engine.running().decide(base("domain.exists", domid, truth=True)):
            return None
        return self.new_domain(domid)

    def frame(self, mfn: Expr) -> SymFrame:
        """The frame of that number; there is one."""
        for frame in self.frames_known:
            if Engine.running().decide(mfn == frame.key):
                return frame
        Engine.running().assume(base("frame.known", mfn, truth=True))
        return self.new_frame(mfn)

    def new_frame(self, mfn: Expr) -> SymFrame:
        """Another frame."""
        frame = SymFrame(self, mfn)
        self.frames_known.append(frame)
        return frame

    # What is always so (the implementation's own invariants, checked over whole states by campaigns).

    def assume_frame(self, mfn: Expr) -> None:
        """Counts are counts, and the owner has a page list that the page is on."""
        engine = Engine.running()
        if engine.replaying:
            return
        engine.assume(small(mfn, 40))
        count, tcount = base("frame.count", mfn), base("frame.tcount", mfn)
        held = base("frame.allocated", mfn, truth=True)
        engine.assume(z3.And(small(count, 40), small(tcount, 40), small(base("frame.ptype", mfn), 4)))
        engine.assume(z3.Implies(held, count > 0))
        # Every type reference goes with a general one that is not the owner's.
        engine.assume(z3.ULE(tcount + z3.If(held, bits(1), bits(0)), count))
        owner = base("frame.owner", mfn)
        engine.assume(z3.Or(owner == NONE, small(owner, 15)))
        engine.assume(z3.Implies(owner != NONE, z3.And(
            count > 0, base("domain.exists", owner, truth=True), base("domain.tot_pages", owner) > 0)))
        # The writable type needs no validation.
        engine.assume(z3.Implies(z3.And(tcount > 0, base("frame.ptype", mfn) == PGT_WRITABLE),
                                 base("frame.validated", mfn, truth=True)))

    def assume_active(self, domain: Expr, ref: Expr) -> None:
        """Four counters of eight bits; an entry in use has a frame."""
        engine = Engine.running()
        if engine.replaying:
            return
        pin, frame = base("active.pin", domain, ref), base("active.frame", domain, ref)
        engine.assume(small(pin, 32))
        engine.assume(small(base("active.domid", domain, ref), 15))
        engine.assume(z3.Or(frame == NONE, z3.And(small(frame, 40), base("frame.known", frame, truth=True))))
        engine.assume(z3.Implies(pin != 0, frame != NONE))

    def assume_record(self, handle: Expr) -> None:
        """Field widths."""
        engine = Engine.running()
        if engine.replaying:
            return
        engine.assume(z3.And(small(base("record.flags", handle), 16), small(base("record.domid", handle), 15),
                             small(base("record.ref", handle), 32), small(base("record.life", handle), 40)))

    def domain_destroy(self, domain: Domain) -> None:
        """Noted only: the rules' `domain_destroy` is a step of its own."""
        self.destroyed.append(domain)

    def guests_write(self) -> None:
        """Between two atomic steps all guests write what they like into their tables; Xen's status words are not theirs."""
        self.pins_at_start = {id(a): number(a.pin) for a in self.actives()}
        self.entries_before = []
        for domain in self.domains_known:
            cells_of(domain).overwritten()

    def headers(self) -> list[Expr]:
        """Flags and grantee of the version 1 entries reached for."""
        return [z3.Concat(*[z3.Extract(15, 0, cells_of(d).read((a.ref << 2) + i)) for i in (0, 1)])
                for d in self.domains_known for a in d.grant_table.active.known]  # type: ignore[attr-defined]

    def actives(self) -> Iterator[SymActive]:
        """All active entries reached for."""
        for domain in self.domains_known:
            yield from domain.grant_table.active.known  # type: ignore[attr-defined]

    # Reading the rules' state off it.

    def before(self) -> RuleState:
        """The state at the start, with entries as they were when the present atomic step began."""
        began = {id(d): cells_of(d).generation for d in self.domains_known}
        state = self._state(
            lambda name, *key: base(name, *key), lambda name, key: base(name, key, truth=True),
            lambda domid, cell: self._cells(domid, cell, lambda d, c: cells_of(d).first(c, began.get(id(d), 0))))
        self.entries_before.append(state.functions["entry.kind"])
        return state

    def now(self) -> RuleState:
        """The present state."""
        return self._state(self.field, self._flag,
                           lambda domid, cell: self._cells(domid, cell, lambda d, c: cells_of(d).read(c)))

    def _cells(self, domid: Expr, cell: Expr, read: Callable[[Domain, Expr], Expr]) -> Expr:
        value = Cells("shared", domid).first(cell)
        for domain in self.domains_known:
            held = read(domain, cell)
            if domid.eq(number(domain.domid)):
                return held
            value = z3.If(domid == number(domain.domid), held, value)
        return value

    def field(self, name: str, *key: Expr) -> Expr:
        """A field at any key: that of the object reached for, if it is one, else what it was."""
        value = base(name, *key)
        for where, held in self._changed(name):
            value = z3.If(z3.And([k == w for k, w in zip(key, where, strict=True)]), held, value)
        return value

    def _changed(self, name: str) -> Iterator[tuple[tuple[Expr, ...], Expr]]:
        """The objects of which a field is not what it was."""
        for where, held in self._fields(name):
            if not held.eq(base(name, *where)):
                yield where, held

    def _fields(self, name: str) -> Iterator[tuple[tuple[Expr, ...], Expr]]:
        kind, attr = name.split(".")
        if kind == "active":
            for active in self.actives():
                yield (active.owner, active.ref), active.frame_now() if attr == "frame" else number(getattr(active, attr))
        elif kind == "frame":
            for frame in self.frames_known:
                yield (frame.key,), frame.owner_now() if attr == "owner" else number(getattr(frame, attr))
        elif kind == "record":
            for record in self.caller.grant_table.maptrack.known:  # type: ignore[attr-defined]
                yield (record.key,), record.life_now() if attr == "life" else number(getattr(record, attr))
        elif kind == "domain" and attr == "is_dying":
            for domain in self.domains_known:
                yield (number(domain.domid),), number(domain.is_dying)
        elif kind == "table" and attr in ("version", "entries"):
            for domain in self.domains_known:
                table = domain.grant_table
                yield (number(domain.domid),), number(table.version if attr == "version" else table.nr_entries)

    def _flag(self, name: str, key: Expr) -> Expr:
        value = base(name, key, truth=True)
        if name == "frame.allocated":
            for frame in self.frames_known:
                if not truth(frame.allocated).eq(base(name, frame.key, truth=True)):
                    value = z3.If(key == frame.key, truth(frame.allocated), value)
        return value

    def _state(self, value: Callable[..., Expr], flag: Callable[[str, Expr], Expr],
               cell: Callable[[Expr, Expr], Expr]) -> RuleState:
        """The table that connects the implementation's state with the rules' state functions."""
        enum = {m: bits(i) for members in self.system.enums.values() for i, m in enumerate(members)}

        def entry(field: str) -> Function:
            def read(d: Expr, r: Expr) -> Expr:
                old = value("table.version", d) == 1
                word = [z3.If(old, cell(d, (r << 2) + i), cell(d, (r << 3) + i)) for i in range(2)]
                if field == "kind":
                    permit = word[0] & (abi.GTF_TYPE_MASK | abi.GTF_SUB_PAGE) == abi.GTF_PERMIT_ACCESS
                    return z3.If(permit, enum["permit_access"], enum["invalid"])
                if field == "grantee":
                    return word[1]
                if field == "readonly":
                    return word[0] & abi.GTF_READONLY != 0
                one = cell(d, (r << 2) + 2) | cell(d, (r << 2) + 3) << 16
                two = bits(0)
                for i in range(4):
                    two = two | cell(d, (r << 3) + 4 + i) << (16 * i)
                return z3.If(old, one, two)
            return read

        def phase(d: Expr) -> Expr:
            exists, dying = base("domain.exists", d, truth=True), value("domain.is_dying", d)
            return z3.If(z3.Not(exists), enum["absent"], z3.If(dying == 2, enum["dead"], z3.If(
                dying == 1, enum["dying"],
                z3.If(base("domain.finished", d, truth=True), enum["running"], enum["building"]))))

        def use(f: Expr) -> Expr:
            gone = z3.Or(z3.Not(base("frame.known", f, truth=True)), value("frame.count", f) == 0)
            return z3.If(gone, enum["free"], z3.If(value("frame.owner", f) == NONE, enum["in_transfer"], enum["ram"]))

        functions: dict[str, Function] = {
            "domain.phase": phase,
            "domain.life": lambda d: base("domain.life", d),
            "version": lambda d: z3.If(value("table.version", d) == 1, enum["v1"], enum["v2"]),
            "in_table": lambda d, r: z3.And(r >= 0, r < value("table.entries", d)),
            "xsm_grant": lambda a, b: _function("xsm_grant", 2, BOOLEAN)(a, b),
            **{f"entry.{name}": entry(name) for name in ("kind", "grantee", "readonly", "frame")},
            "status.reading": lambda d, r: value("active.pin", d, r) != 0,
            "status.writing": lambda d, r: value("active.pin", d, r) & abi.PIN_WRITERS != 0,
            "active.grantee": lambda d, r: value("active.domid", d, r),
            "active.frame": lambda d, r: value("active.frame", d, r),
            "frame.use": use,
            "frame.owner": lambda f: value("frame.owner", f),
            "frame.held": lambda f: flag("frame.allocated", f),
            "mapping.taken": lambda h: z3.BoolVal(False),
            "mapping.host": lambda h: value("record.flags", h) & abi.GNTMAP_HOST_MAP != 0,
            "mapping.device": lambda h: value("record.flags", h) & abi.GNTMAP_DEVICE_MAP != 0,
            "mapping.writable": lambda h: value("record.flags", h) & abi.GNTMAP_READONLY == 0,
            "mapping.mapper": lambda h: number(self.caller.domid),
            "mapping.granter": lambda h: value("record.domid", h),
            "mapping.granter_life": lambda h: value("record.life", h),
            "mapping.ref": lambda h: value("record.ref", h),
            "at": lambda c: bits(hash_of("idle")),
            **{f"hold.{name}": (lambda c, s: z3.BoolVal(False)) for name in ("page", "pin", "awaiting_flush")},
        }
        return RuleState(self.system, functions)


def small(value: Expr, width: int) -> Expr:
    """A natural number of so many bits."""
    return z3.ULT(value, bits(1 << width))


def cells_of(domain: Domain) -> Cells:
    """The shared memory of a domain's table."""
    cells: Cells = domain.grant_table.shared.cells  # type: ignore[attr-defined]
    return cells


def words_of(domain: Domain) -> Cells:
    """The memory of its status frames."""
    cells: Cells = domain.grant_table.status.cells  # type: ignore[attr-defined]
    return cells
