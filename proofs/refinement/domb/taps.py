"""An oracle for byte rings: computes from a daemon's loads and stores the bytes that it must have taken or put.

Other parties may change the page at any moment, so the bytes are those of the daemon's loads. It checks that: the daemon
uses its own index, the peer's is read once and checked before any data is read, bytes are taken and put once and in
order, never more than available or free, and an index is published after its bytes. Not here: the
meaning of the bytes (messages.py, store_side.py).
"""

from __future__ import annotations

from typing import Final

from bulkhead.proofs.refinement.lockstep.rule_steps import Mismatch

MASK: Final = 0xFFFFFFFF
Place = tuple[int, int, int, int]  # offsets in the page: data, size, consumer index, producer index


def number(raw: bytes) -> int:
    """An index in memory."""
    return int.from_bytes(raw, "little")


class Tap:
    """A daemon's end of a ring."""

    def __init__(self, what: str, place: Place, reads: bool) -> None:
        self.what = what
        self.data, self.size, cons, prod = place
        self.own, self.peers = (cons, prod) if reads else (prod, cons)
        self.reads = reads
        self.mine: int | None = None
        self.room = -1  # bytes that the daemon may move now; -1: it has not read the index, or the index was impossible
        self.impossible = False  # the last value read
        self.moving = b""
        self.moved = b""  # moved bytes since the last query

    def wrong(self, why: str) -> Mismatch:
        """The daemon violated a ring rule."""
        return Mismatch(f"{self.what}: {why}")

    def taken(self) -> bytes:
        """The bytes moved since the last query."""
        out, self.moved = self.moved, b""
        return out

    def covers(self, at: int) -> bool:
        """Is this offset one of this ring's?"""
        return self.data <= at < self.data + self.size or at in (self.own, self.peers)

    def loaded(self, at: int, out: bytes) -> None:
        """The daemon has loaded so many bytes at an offset."""
        if at == self.own:
            if self.mine is not None:
                raise self.wrong("the daemon believes its own index from the shared page")
            self.mine = number(out)
        elif at == self.peers:
            self._looked(number(out))
        elif not self.reads:
            raise self.wrong("the daemon reads what it has written")
        else:
            self._moves(at, out)

    def stored(self, at: int, payload: bytes) -> None:
        """The daemon has stored bytes."""
        if at == self.own:
            self._published(number(payload))
        elif at == self.peers or self.reads:
            raise self.wrong("the daemon writes what is the guest's to write")
        else:
            self._moves(at, payload)

    def _looked(self, seen: int) -> None:
        if self.mine is None:
            raise self.wrong("the daemon has no index of its own")
        difference = (seen - self.mine if self.reads else self.mine - seen) & MASK
        self.impossible = difference > self.size
        self.room = -1 if self.impossible else difference if self.reads else self.size - difference
        self.moving = b""

    def _moves(self, at: int, part: bytes) -> None:
        if self.mine is None or self.room < 0:
            raise self.wrong("bytes are moved although the guest's index is impossible, or was not looked at")
        if at - self.data != (self.mine + len(self.moving)) & (self.size - 1):
            raise self.wrong(f"bytes are moved at {at - self.data}, and it is not their turn")
        self.moving += part
        if len(self.moving) > self.room or at - self.data + len(part) > self.size:
            raise self.wrong("more bytes are moved than there are, or fit")

    def _published(self, index: int) -> None:
        if self.mine is None or index != (self.mine + len(self.moving)) & MASK:
            raise self.wrong("the index that the daemon publishes does not say what it has moved")
        self.mine = index
        self.moved += self.moving
        self.room -= len(self.moving)
        self.moving = b""


__all__ = ["Tap"]
