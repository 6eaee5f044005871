"""One ring of bytes in shared memory: two free-running 32-bit indices and a power-of-two buffer.

Contents: a reader and a writer that do not trust the other side. Each keeps its own index in private memory and
only publishes it; the peer's index is read once per call, the difference is taken modulo 2^32 and checked before
masking. A difference above the size is invalid: the reader raises an error, the writer sees no space. Not
here: the position of a ring in a page (pages.py, impl/libs/vchan.py). Source: Xen public/io/ring-like headers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from bulkhead.impl.xen.abi import U32

MASK: Final = 0xFFFFFFFF


class Memory(Protocol):
    """One party's memory, by address."""

    def load(self, addr: int, size: int) -> bytes:
        """Read."""

    def store(self, addr: int, payload: bytes) -> None:
        """Write."""


class BadIndex(Exception):
    """The peer's index is impossible."""


@dataclass(frozen=True, slots=True)
class RingAt:
    """Addresses of a ring's buffer and indices."""

    data: int
    size: int
    cons: int
    prod: int


def _index(memory: Memory, addr: int) -> int:
    value: int = U32.unpack(memory.load(addr, 4))[0]
    return value


class Reader:
    """The consuming end."""

    __slots__ = ("cons", "memory", "ring")

    def __init__(self, memory: Memory, ring: RingAt) -> None:
        self.memory = memory
        self.ring = ring
        self.cons = _index(memory, ring.cons)

    def ready(self) -> int:
        """The number of bytes ready to take; BadIndex for more than the ring's size."""
        used = (_index(self.memory, self.ring.prod) - self.cons) & MASK
        if used > self.ring.size:
            raise BadIndex(f"{used} bytes in a ring of {self.ring.size}")
        return used

    def peek(self, count: int) -> bytes:
        """A private copy of the next bytes, which must be ready."""
        ring = self.ring
        at = self.cons & (ring.size - 1)
        first = min(count, ring.size - at)
        out = self.memory.load(ring.data + at, first)
        return out + self.memory.load(ring.data, count - first) if count > first else out

    def skip(self, count: int) -> None:
        """Publish that bytes were taken."""
        self.cons = (self.cons + count) & MASK
        self.memory.store(self.ring.cons, U32.pack(self.cons))

    def take(self, most: int) -> bytes:
        """Take up to `most` bytes; BadIndex."""
        count = min(self.ready(), most)
        if not count:
            return b""
        out = self.peek(count)
        self.skip(count)
        return out


class Writer:
    """The producing end."""

    __slots__ = ("memory", "prod", "ring")

    def __init__(self, memory: Memory, ring: RingAt) -> None:
        self.memory = memory
        self.ring = ring
        self.prod = _index(memory, ring.prod)

    def unread(self) -> int:
        """The number of bytes that the peer has not taken; more than the size is invalid."""
        return (self.prod - _index(self.memory, self.ring.cons)) & MASK

    def space(self) -> int:
        """The number of bytes that fit; 0 if the peer's index is invalid."""
        return max(self.ring.size - self.unread(), 0)

    def put(self, payload: bytes) -> int:
        """Write as much as fits; returns how much."""
        part = payload[: self.space()]
        if part:
            self._write(part)
        return len(part)

    def put_whole(self, payload: bytes) -> bool:
        """Write everything, or nothing if it does not fit. The peer's index is read once: it may change it at any moment."""
        if self.space() < len(payload):
            return False
        self._write(payload)
        return True

    def _write(self, part: bytes) -> None:
        ring = self.ring
        at = self.prod & (ring.size - 1)
        first = min(len(part), ring.size - at)
        self.memory.store(ring.data + at, part[:first])
        if len(part) > first:
            self.memory.store(ring.data, part[first:])
        # Publish the index only after the bytes.
        self.prod = (self.prod + len(part)) & MASK
        self.memory.store(ring.prod, U32.pack(self.prod))
