"""The implementation's records with symbolic fields: frames, active entries, maptrack records, and tables of them.

They are created at first access: the engine decides whether the number names a known object
or a new one with arbitrary fields. So Python's `is` is object identity. The owner of a frame, the frame that an entry
pins and the granting domain are decided only when the code reads them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from bulkhead.impl.xen.domains import Domain
from bulkhead.impl.xen.frames import Frame
from bulkhead.impl.xen.grant_entries import Active
from bulkhead.impl.xen.maptrack import Maptrack
from bulkhead.proofs.refinement.handlers.memory import Content, Moved
from bulkhead.proofs.symbolic.engine import Bool, Engine, Int, number
from bulkhead.proofs.symbolic.terms import BOOL, WIDTH, Or, Term, apply, eq
from bulkhead.proofs.symbolic.terms import number as constant

NONE = constant(-1)  # stands for "no frame", "no domain" in a field
# Boolean fields; all others are numbers.
FLAGS = frozenset(
    {
        "frame.allocated",
        "frame.validated",
        "frame.xenheap",
        "frame.known",
        "frame.pinned",
        "active.sub_page",
        "domain.exists",
        "domain.finished",
    }
)
# Natural numbers with fewer bits, as the ABI and the machine's size bound them.
NARROW = {
    "frame.count": 40,
    "frame.tcount": 40,
    "frame.ptype": 4,
    "domain.refs": 40,
    "domain.tot_pages": 40,
    "domain.xenheap_pages": 40,
    "domain.is_dying": 2,
    "domain.life": 40,
    "table.version": 2,
    "table.frames": 21,
    "table.entries": 32,
    "table.actives": 32,
    "active.pin": 32,
    "active.domid": 15,
    "active.start": 16,
    "active.length": 16,
    "record.flags": 16,
    "record.domid": 15,
    "record.ref": 32,
    "record.life": 40,
}


def base(name: str, *args: Term) -> Term:
    """The initial value of a field: an arbitrary function of its object."""
    return apply(name, args, BOOL) if name in FLAGS else apply(name, args, bits=NARROW.get(name, WIDTH))


def start(name: str, *args: Term) -> Int | Bool:
    """The same, as a value for the implementation's code."""
    value = base(name, *args)
    return Bool(value) if name in FLAGS else Int(value)


class Finds(Protocol):
    """The domain list, as a record asks it."""

    def get(self, domid: Any) -> Domain | None:
        """The domain of that id, if there is one."""


class Surroundings(Protocol):
    """The machine, as its records know it: what may be assumed of them, and what they name."""

    @property
    def moved(self) -> list[Moved]:
        """The log of bytes that were moved."""

    @property
    def domains_by_id(self) -> Finds:
        """The domain list."""

    def assume_frame(self, mfn: Term) -> None:
        """Assume what holds of every frame."""

    def assume_active(self, domain: Term, ref: Term) -> None:
        """Assume what holds of every active entry."""

    def domain(self, domid: Term) -> Domain:
        """The domain of that id, which there is."""

    def frame(self, mfn: Term) -> SymFrame:
        """The frame of that number, which there is."""


class SymFrame(Frame):
    """A frame with a known number and arbitrary fields."""

    def __init__(self, machine: Surroundings, mfn: Term) -> None:
        self._machine = machine
        self._owner: Domain | None = None
        self._asked = True
        super().__init__(Int(mfn))  # type: ignore[arg-type]
        self._asked = False
        self.key = mfn
        for name in ("count", "tcount", "ptype", "allocated", "validated", "xenheap", "pinned"):
            setattr(self, name, start("frame." + name, mfn))
        self.data = Content(mfn, machine.moved)  # type: ignore[assignment]
        machine.assume_frame(mfn)

    @property
    def owner(self) -> Domain | None:
        """The owner; the first access decides it."""
        if not self._asked:
            self._asked = True
            key = base("frame.owner", self.key)
            self._owner = None if Engine.running().decide(eq(key, NONE)) else self._machine.domain(key)
        return self._owner

    @owner.setter
    def owner(self, value: Domain | None) -> None:
        self._asked = True
        self._owner = value

    def owner_now(self) -> Term:
        """The owner as a term, without a decision."""
        if not self._asked:
            return base("frame.owner", self.key)
        return NONE if self._owner is None else number(self._owner.domid)

    def bytes(self) -> Content:  # type: ignore[override]
        return Content(self.key, self._machine.moved)


class SymActive(Active):
    """An active entry."""

    def __init__(self, machine: Surroundings, domain: Domain, ref: Term) -> None:
        self._asked = True
        self._frame: Frame | None = None
        self._machine = machine
        super().__init__()
        self._asked = False
        self.owner, self.ref = number(domain.domid), ref
        for name in ("pin", "domid", "sub_page", "start", "length"):
            setattr(self, name, start("active." + name, self.owner, ref))
        # Transitive grants are switched off, so a use involves no other domain.
        self.trans_dom, self.trans_gref = domain, Int(ref)  # type: ignore[assignment]
        machine.assume_active(self.owner, ref)

    @property
    def frame(self) -> Frame | None:
        """The frame that is or was pinned."""
        if not self._asked:
            self._asked = True
            key = base("active.frame", self.owner, self.ref)
            self._frame = None if Engine.running().decide(eq(key, NONE)) else self._machine.frame(key)
        return self._frame

    @frame.setter
    def frame(self, value: Frame | None) -> None:
        self._asked = True
        self._frame = value

    def frame_now(self) -> Term:
        """The frame's number as a term, without a decision."""
        if not self._asked:
            return base("active.frame", self.owner, self.ref)
        return NONE if self._frame is None else number(self._frame.mfn)


class SymRecord(Maptrack):
    """A maptrack record of the calling domain."""

    def __init__(self, machine: Surroundings, handle: Term) -> None:
        self._machine = machine
        self._asked = True
        self._granter: Domain | None = None
        super().__init__(0, 0)
        self._asked = False
        self.key = handle
        for name in ("ref", "flags", "domid"):
            setattr(self, name, start("record." + name, handle))

    @property
    def granter(self) -> Domain | None:
        """The granting incarnation: the current domain with that id, or a former one (None here)."""
        if not self._asked:
            self._asked = True
            domid, life = base("record.domid", self.key), base("record.life", self.key)
            found = self._machine.domains_by_id.get(Int(domid))
            if found is not None and Engine.running().decide(eq(life, base("domain.life", number(found.domid)))):
                self._granter = found
        return self._granter

    @granter.setter
    def granter(self, value: Domain | None) -> None:
        self._asked = True
        self._granter = value

    def life_now(self) -> Term:
        """The incarnation as a term."""
        if not self._asked or self._granter is None:
            return base("record.life", self.key)
        return base("domain.life", number(self._granter.domid))


class Table:
    """A table of any length: elements are created at first access."""

    def __init__(self, length: Term, make: Callable[[Term], Any], key: Callable[[Any], Term]) -> None:
        self.length, self.make, self.key = length, make, key
        self.known: list[Any] = []

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(index.stop))]
        where = number(index)
        if Engine.running().decide(Or(where < 0, where >= self.length)):
            raise IndexError("symbolic index out of range")
        return self.find(where)

    def find(self, where: Term) -> Any:
        """The element with that number, known or new."""
        for item in self.known:
            if Engine.running().decide(eq(where, self.key(item))):
                return item
        item = self.make(where)
        self.known.append(item)
        return item

    def clear(self) -> None:
        """Remove all elements."""
        self.known.clear()

    def size(self) -> Int:
        """The value of `len`."""
        return Int(self.length)
