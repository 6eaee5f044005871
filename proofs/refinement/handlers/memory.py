"""The memory that a symbolic run reads and writes: grant entries and status words as 16-bit cells, pages as logs of copies.

A table's memory has any size. It is arbitrary at first; then it holds what has been written, until its guest overwrites
it. Layouts stand in for `struct.Struct`, so that the implementation's own code reads and writes the same fields.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import z3

from bulkhead.proofs.symbolic.engine import Int, Unsupported, number
from bulkhead.proofs.symbolic.terms import ZERO, And, If, Term, apply, bounds, eq
from bulkhead.proofs.symbolic.to_z3 import as_z3, bound_z3


@functools.cache
def _same(one: Term, other: Term) -> bool:
    """Are two addresses equal, whatever their variables are?"""
    within = [bound_z3(p) for p in bounds(one) | bounds(other)]
    return bool(z3.Solver().check(as_z3(one) != as_z3(other), *within) == z3.unsat)


@functools.cache
def _even_and_inside(where: Term) -> bool:
    """Is a byte offset even and within a page, whatever its variables are?"""
    inside = And(eq(where & 1, ZERO), where >= 0, where < 4096)
    return bool(z3.Solver().check(z3.Not(as_z3(inside)), *[bound_z3(p) for p in bounds(inside)]) == z3.unsat)


def place(cell: Term, guesses: Iterable[Term]) -> Term:
    """The address by a simpler term that is always equal to it, if one of the guesses is."""
    return next((guess for guess in guesses if cell is guess or _same(cell, guess)), cell)


class Cells:
    """Memory in 16-bit cells. `refs` are the entries that have been reached for: addresses are named after them."""

    def __init__(self, name: str, domain: Term) -> None:
        self.name, self.domain = name, domain
        self.generation = 0
        self.zeroed = False
        self.refs: list[Term] = []
        self.writes: list[tuple[Term, Term]] = []

    def first(self, cell: Term, generation: int | None = None) -> Term:
        """What the cell held when the present atomic step began (or that one)."""
        which = self.generation if generation is None else generation
        return apply(f"{self.name}#{which}", (self.domain, cell), bits=16)

    def read(self, cell: Term) -> Term:
        """What it holds now."""
        value = ZERO if self.zeroed else self.first(cell)
        for where, written in self.writes:
            value = written if cell is where else If(eq(cell, where), written, value)
        return value

    def write(self, cell: Term, value: Term) -> None:
        """Store the low 16 bits."""
        self.writes.append((cell, value & 0xFFFF))

    def clear(self) -> None:
        """Everything is zero."""
        self.zeroed = True
        self.writes = []

    def overwritten(self) -> None:
        """The guest writes what it likes, wherever it likes."""
        self.generation += 1
        self.zeroed = False
        self.writes = []

    def guesses(self) -> Iterator[Term]:
        """Where entries that have been reached for begin: 4 or 8 cells each, or one word."""
        for ref in self.refs:
            yield from (ref << 2, ref << 3, ref)


class Page:
    """One page of a table; its `data` is itself, to be read through the layouts below."""

    def __init__(self, cells: Cells, index: Term) -> None:
        self.cells, self.index = cells, index

    @property
    def data(self) -> Page:
        """The page's memory."""
        return self

    def cell(self, offset: object) -> Term:
        """The cell at a byte offset, which the layouts keep even."""
        where = number(offset)
        if not _even_and_inside(where):
            raise Unsupported("an offset that is odd or leaves the page")
        return place((self.index << 11) | (where >> 1), self.cells.guesses())


class Whole:
    """Every page of a table at once, for code that does the same to each: it can only be cleared."""

    def __init__(self, cells: Cells) -> None:
        self.cells = cells

    def bytes(self) -> Whole:
        """The pages' memory."""
        return self

    def __setitem__(self, where: slice, value: Sequence[int]) -> None:
        if where != slice(None) or value != bytes(4096):
            raise Unsupported("a page of the table that is written other than by clearing it")
        self.cells.clear()


class Pages:
    """The pages of a table, so many as `count` says; what is done to each is done to all."""

    def __init__(self, cells: Cells, count: Term) -> None:
        self.cells, self.count = cells, count

    def __getitem__(self, index: object) -> Page:
        return Page(self.cells, number(index))

    def __iter__(self) -> Iterator[Whole]:
        yield Whole(self.cells)

    def clear(self) -> None:
        """No pages are left."""
        self.count = ZERO

    def size(self) -> Int:
        """What `len` says where the code asks for it."""
        return Int(self.count)


class StatusFrames(list[Any]):
    """The status frames of a table of at most eight grant frames: one in version 2, none in version 1."""

    def __init__(self, cells: Cells) -> None:
        super().__init__()
        self.cells = cells

    def __getitem__(self, index: Any) -> Any:
        return Page(self.cells, number(index))

    def extend(self, frames: Any) -> None:
        """New frames of zeros."""
        super().extend(frames)
        self.cells.clear()


class Layout:
    """Stands in for a `struct.Struct`: fields of whole cells, little endian."""

    def __init__(self, *cells: int) -> None:
        self.cells = cells

    def unpack_from(self, page: Page, offset: object) -> tuple[Int, ...]:
        """The fields."""
        where = page.cell(offset)
        out, at = [], 0
        for width in self.cells:
            value = ZERO
            for i in range(width):
                value = value | (page.cells.read(where + at + i) << (16 * i))
            out.append(Int(value))
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


@dataclass(frozen=True)
class Moved:
    """Bytes of a frame that were read or written."""

    frame: Term
    start: Term
    stop: Term
    written: bool


class Content:
    """The bytes of a page that are only moved, never looked at: which are is noted."""

    def __init__(self, frame: Term, log: list[Moved]) -> None:
        self.frame, self.log = frame, log

    def _note(self, where: slice, written: bool) -> None:
        self.log.append(Moved(self.frame, number(where.start), number(where.stop), written))

    def __getitem__(self, where: slice) -> bytes:
        self._note(where, False)
        return b""

    def __setitem__(self, where: slice, value: bytes) -> None:
        self._note(where, True)
