"""Symbolic memory: grant entries and status words as 16-bit cells, pages as logs of copies.

A table's memory has any size. Its initial content is arbitrary; then it has the written values, until its guest overwrites
them. Layouts replace `struct.Struct`, so that the implementation's own code reads and writes the same fields.
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
    """Are two addresses equal for all values of their variables?"""
    within = [bound_z3(p) for p in bounds(one) | bounds(other)]
    return bool(z3.Solver().check(as_z3(one) != as_z3(other), *within) == z3.unsat)


@functools.cache
def _even_and_inside(where: Term) -> bool:
    """Is a byte offset even and within a page for all values of its variables?"""
    inside = And(eq(where & 1, ZERO), where >= 0, where < 4096)
    return bool(z3.Solver().check(z3.Not(as_z3(inside)), *[bound_z3(p) for p in bounds(inside)]) == z3.unsat)


def place(cell: Term, guesses: Iterable[Term]) -> Term:
    """A simpler, always equal term for the address, if one of the guesses is equal."""
    return next((guess for guess in guesses if cell is guess or _same(cell, guess)), cell)


class Cells:
    """Memory in 16-bit cells. `refs` are the accessed entries: addresses are expressed by them."""

    def __init__(self, name: str, domain: Term) -> None:
        self.name, self.domain = name, domain
        self.generation = 0
        self.zeroed = False
        self.refs: list[Term] = []
        self.writes: list[tuple[Term, Term]] = []

    def first(self, cell: Term, generation: int | None = None) -> Term:
        """The cell's value when the current (or the given) atomic step began."""
        which = self.generation if generation is None else generation
        return apply(f"{self.name}#{which}", (self.domain, cell), bits=16)

    def read(self, cell: Term) -> Term:
        """The current value."""
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
        """The guest writes arbitrary values to arbitrary places."""
        self.generation += 1
        self.zeroed = False
        self.writes = []

    def guesses(self) -> Iterator[Term]:
        """The start addresses of accessed entries: 4 or 8 cells each, or one word."""
        for ref in self.refs:
            yield from (ref << 2, ref << 3, ref)


class Page:
    """One page of a table; its `data` is the page itself, read through the layouts below."""

    def __init__(self, cells: Cells, index: Term) -> None:
        self.cells, self.index = cells, index

    @property
    def data(self) -> Page:
        """The page's memory."""
        return self

    def cell(self, offset: object) -> Term:
        """The cell at a byte offset; layouts use only even ones."""
        where = number(offset)
        if not _even_and_inside(where):
            raise Unsupported("an offset that is odd or leaves the page")
        return place((self.index << 11) | (where >> 1), self.cells.guesses())


class Whole:
    """All pages of a table at once, for code that does the same to each: the only operation is clearing."""

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
    """The pages of a table, `count` of them; an operation on each is done on all."""

    def __init__(self, cells: Cells, count: Term) -> None:
        self.cells, self.count = cells, count

    def __getitem__(self, index: object) -> Page:
        return Page(self.cells, number(index))

    def __iter__(self) -> Iterator[Whole]:
        yield Whole(self.cells)

    def clear(self) -> None:
        """Remove all pages."""
        self.count = ZERO

    def size(self) -> Int:
        """The value of `len`."""
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
    """Replaces a `struct.Struct`: fields of whole cells, little endian."""

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
    """The bytes of a page that are only moved, never read: a log of the moves."""

    def __init__(self, frame: Term, log: list[Moved]) -> None:
        self.frame, self.log = frame, log

    def _note(self, where: slice, written: bool) -> None:
        self.log.append(Moved(self.frame, number(where.start), number(where.stop), written))

    def __getitem__(self, where: slice) -> bytes:
        self._note(where, False)
        return b""

    def __setitem__(self, where: slice, value: bytes) -> None:
        self._note(where, True)
