"""Symbolic bytes and structs: copies of shared memory, and messages that DomB packs.

A `Text` is one copy of bytes that others write; reads of the same place of the same copy are
equal, reads of another copy may differ. A `Packed` is a struct with symbolic fields. `Layout` replaces a
`struct.Struct`, so that the implementation's own code packs and unpacks. Not here: the meaning of the bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from struct import Struct
from struct import error as StructError
from typing import Any, Final, NoReturn

from bulkhead.proofs.symbolic.engine import Bool, Engine, Int, Unsupported, number
from bulkhead.proofs.symbolic.terms import BOOL, FALSE, ZERO, And, If, Term, apply, eq, variable
from bulkhead.proofs.symbolic.terms import number as constant

WIDTHS: Final = {"B": 1, "H": 2, "I": 4, "i": 4, "Q": 8}


def decide(condition: Term) -> bool:
    """The side of a condition that this path takes."""
    return Engine.running().decide(condition)


class Text:
    """Bytes (or, decoded, a string) of arbitrary content and length, from one copy of memory that others may write."""

    __slots__ = ("copy", "length", "start")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, copy: str, length: Term, start: Term = ZERO) -> None:
        self.copy, self.length, self.start = copy, length, start

    def measure(self) -> Int:
        """The value of `len`."""
        return Int(self.length)

    def __bool__(self) -> bool:
        return decide(self.length != 0)

    def __getitem__(self, where: slice) -> Text:
        if not isinstance(where, slice) or where.step is not None:
            raise Unsupported("a part of a message other than a slice")
        first = number(where.start or 0)
        last = self.length if where.stop is None else number(where.stop)
        # Like Python's clamping of slices, for nonnegative bounds.
        first, last = (If(at > self.length, self.length, at) for at in (first, last))
        return Text(self.copy, If(last < first, ZERO, last - first), self.start + first)

    def decode(self) -> Text:
        """Decode the string; may fail."""
        if Engine.running().choose("no text"):
            raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
        return self

    def encode(self) -> Text:
        """Encode the string."""
        return self

    def hex(self) -> str:
        """For error messages."""
        return f"<{self.copy}>"

    def has(self, part: bytes) -> Term:
        """Does it contain this?"""
        return apply(f"{part.hex()} is in {self.copy}", (self.start, self.length), BOOL)

    def __contains__(self, part: bytes) -> bool:
        return decide(self.has(part))

    def __format__(self, form: str) -> str:
        return f"<{self.copy}>"

    def __eq__(self, other: object) -> NoReturn:
        raise Unsupported("bytes that are compared")

    def field(self, offset: int, width: int) -> Term:
        """A little-endian field at an offset."""
        return apply(f"bytes of {self.copy}, {width} at a time", (self.start + offset,), bits=8 * width)

    def is_part(self, whole: Text, start: Term, length: Term) -> Term:
        """Is this equal to that part of another text?"""
        if self.copy != whole.copy:
            return FALSE
        return And(eq(self.start, whole.start + start), eq(self.length, length))


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """A struct packed from these values."""

    layout: Layout
    values: tuple[Any, ...]

    def measure(self) -> int:
        """The value of `len`."""
        return self.layout.size

    def __getitem__(self, where: slice) -> Packed:
        if where.start or where.step or where.stop is None or where.stop < self.layout.size:
            raise Unsupported("a part of a struct")
        return self


class Layout:
    """Replaces a little-endian `struct.Struct`."""

    def __init__(self, real: Struct) -> None:
        self.real, self.size = real, real.size
        if not real.format.startswith("<"):
            raise Unsupported(f"a layout {real.format}")
        self.fields: list[tuple[int, int, bool]] = []
        offset = 0
        for code in real.format[1:]:
            if code not in WIDTHS:
                self.fields = []  # packed only
                break
            self.fields.append((offset, WIDTHS[code], code.islower()))
            offset += WIDTHS[code]

    def unpack(self, source: Any) -> tuple[Any, ...]:
        """The fields of exactly so many bytes."""
        if isinstance(source, Packed):
            if source.layout is not self:
                raise Unsupported("a struct read as another")
            return source.values
        if isinstance(source, bytes):
            return self.real.unpack(source)
        if not decide(eq(source.length, constant(self.size))):
            raise StructError(f"unpack requires a buffer of {self.size} bytes")
        return tuple(self._fields(source))

    def unpack_from(self, source: Any, offset: int = 0) -> tuple[Any, ...]:
        """The fields at an offset."""
        if isinstance(source, bytes):
            return self.real.unpack_from(source, offset)
        if not decide(source.length >= self.size + offset):
            raise StructError(f"unpack_from requires a buffer of at least {self.size + offset} bytes")
        return tuple(self._fields(source, offset))

    def _fields(self, source: Text, shift: int = 0) -> Iterator[Int]:
        if not self.fields:
            raise Unsupported(f"bytes read by {self.real.format}")
        for offset, width, signed in self.fields:
            value = source.field(offset + shift, width)
            half = 1 << (8 * width - 1)
            yield Int(If(value < half, value, value - 2 * half) if signed else value)

    def pack(self, *values: Any) -> Any:
        """The struct; numbers out of range are an error, as in Python."""
        if all(isinstance(value, int | bytes) for value in values):
            return self.real.pack(*values)
        if not self.fields:
            return Packed(self, values)
        for value, (_, width, signed) in zip(values, self.fields, strict=True):
            if isinstance(value, int) and not isinstance(value, bool):
                self._within(constant(value), width, signed)
            elif isinstance(value, Int | Bool):
                self._within(number(value), width, signed)
        return Packed(self, values)

    @staticmethod
    def _within(value: Term, width: int, signed: bool) -> None:
        low, high = (-(1 << (8 * width - 1)), 1 << (8 * width - 1)) if signed else (0, 1 << (8 * width))
        if not decide(And(value >= low, value < high)):
            raise StructError("a number out of range")


class Opaque:
    """An opaque value from Xen, such as a frame number: code may pass it on, but not inspect it."""

    __slots__ = ("element", "shifted")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, element: Term, shifted: int = 0) -> None:
        self.element, self.shifted = element, shifted

    def __lshift__(self, by: int) -> Opaque:
        return Opaque(self.element, self.shifted + by)

    def __add__(self, more: int) -> Opaque:
        if more:
            raise Unsupported("the frame behind a frame that Xen named")
        return self

    def _looked_at(self, *others: object) -> NoReturn:
        raise Unsupported("a frame number that is looked at")

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __bool__ = __index__ = _looked_at

    def __format__(self, form: str) -> str:
        return "a frame"


class Tagged(bytes):
    """Bytes of packed numbers, with the numbers themselves."""

    parts: tuple[tuple[int, Any], ...] = ()  # width and value

    def __add__(self, other: Any) -> Any:
        made = Tagged(bytes(self) + bytes(other))
        made.parts = self.parts + (other.parts if isinstance(other, Tagged) else ())
        return made


class Number:
    """Replaces the `Struct` of one number whose bytes are written, and not read again."""

    def __init__(self, width: int) -> None:
        self.width = width

    def pack(self, value: Any) -> Tagged:
        """The nonzero bytes; a number out of range is Python's error."""
        if isinstance(value, int | Int):
            Layout._within(number(value), self.width, False)
        made = Tagged(b"#" * self.width)
        made.parts = ((self.width, value),)
        return made


# --- builtins on symbolic values ---


def length(thing: Any) -> Any:
    """`len`."""
    return thing.measure() if hasattr(thing, "measure") else len(thing)


def minimum(one: Any, other: Any) -> Any:
    """`min` of two."""
    if isinstance(one, int) and isinstance(other, int):
        return min(one, other)
    a, b = number(one), number(other)
    return Int(If(a < b, a, b))


def maximum(values: Iterable[Any]) -> Any:
    """`max` of some."""
    out, *rest = [number(value) for value in values]
    for value in rest:
        out = If(out < value, value, out)
    return Int(out)


def total(values: Iterable[Any]) -> Any:
    """`sum`."""
    out = ZERO
    for value in values:
        out = out + number(value)
    return Int(out)


def any_text(name: str, most: int) -> Text:
    """A fresh copy of bytes that others write, of any length up to a maximum."""
    copy = Engine.running().fresh(name)
    size = variable(f"size of {copy}", bits=32)
    Engine.running().assume(size <= most)
    return Text(copy, size)
