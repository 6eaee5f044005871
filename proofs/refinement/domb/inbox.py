"""An oracle for DomB's end of its channel: which messages it must have taken from the ring, and what it must have put there.

From DomB's own loads and stores (taps.py): a message that it handles is the next one in the ring, with the header as it was
loaded first; what is no header, or too long, ends the connection, and so does an impossible index; a message that is there
completely is taken; what DomB sends is what it put into the ring, and it is put there when there is room. Not here: what
messages mean (follow.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from bulkhead.impl.domb.protocol import Message
from bulkhead.impl.libs.vchan import Vchan
from bulkhead.proofs.refinement.domb.taps import Tap
from bulkhead.proofs.refinement.lockstep.rule_steps import Mismatch

# Independent layout of libxenvchan.h and of a message: magic, kind, number, status, length.
TO_DOMB, FROM_DOMB = (0, 4), (8, 12)  # consumer's and producer's index in the first page
CLIENT_LIVES: Final = 20
SIZES: Final = (8192, 4096)
HEADER: Final = 16
MAGIC: Final = b"\x44\x42"
MOST: Final = 4000  # bytes of a body
WAITING: Final = 32  # answers that DomB keeps for a client that takes none


class Inbox:
    """Both rings of a channel that DomB has just offered."""

    def __init__(self, chan: Vchan) -> None:
        self.page = chan.page
        self.to_domb, self.from_domb = (
            Tap(what, (chan.areas[n][0], size, chan.page + cons, chan.page + prod), reads)
            for n, what, size, (cons, prod), reads in (
                (1, "what DomB takes", SIZES[0], TO_DOMB, True),
                (2, "what DomB sends", SIZES[1], FROM_DOMB, False),
            )
        )
        self.to_domb.mine = self.from_domb.mine = 0  # its pages are clear
        self.header = b""  # as DomB has loaded it, before it looked at the index again
        self.looked = False  # DomB has looked whether its client lives, since it began its step
        self.left = False  # and it does not
        self.index = 0  # of its client, when DomB's step began

    def loaded(self, addr: int, out: bytes) -> None:
        """DomB has loaded bytes from somewhere."""
        if addr == self.page + CLIENT_LIVES:
            self.looked, self.left = True, out == b"\0"
        for tap in (self.to_domb, self.from_domb):
            if tap.covers(addr):
                if tap is self.to_domb and addr == tap.peers and tap.moving:
                    self.header = self.header or tap.moving  # what it loads again may be something else by now
                tap.loaded(addr, out)

    def stored(self, addr: int, payload: bytes) -> None:
        """DomB has stored bytes somewhere."""
        for tap in (self.to_domb, self.from_domb):
            if tap.covers(addr):
                tap.stored(addr, payload)

    def receive(self, receive: Callable[[], Message | None]) -> Message | None:
        """Have DomB look for a message, and check what it takes."""
        self.header = b""
        try:
            message = receive()
        except Exception as error:
            if not self.bad and not self.to_domb.impossible:
                raise Mismatch(f"DomB refuses what is no garbage: {error}") from error
            raise
        taken = self.to_domb.taken()
        if self.bad or self.to_domb.impossible:
            raise Mismatch(f"DomB goes on with garbage: header {self.seen.hex()}")
        if message is None:
            if taken or (len(self.seen) >= HEADER and self.to_domb.room >= HEADER + self._length):
                raise Mismatch("DomB leaves a message that is there, or takes a part of one")
            return None
        said = (message.op, message.number, message.status & 0xFFFFFFFF)
        if said != (self._word(2, 2), self._word(4, 4), self._word(8, 4)) or taken[HEADER:] != message.body:
            raise Mismatch(f"DomB takes {message}, and in the ring was {self.seen.hex()}")
        if len(taken) != HEADER + self._length:
            raise Mismatch(f"DomB takes {len(taken)} bytes for a message of {self._length}")
        return message

    def send(self, message: Message, send: Callable[[], bool]) -> bool:
        """Have DomB send a message, and check what it puts into the ring."""
        done = send()
        body, put = message.body, self.from_domb.taken()
        words = (
            message.op.to_bytes(2, "little"),
            message.number.to_bytes(4, "little"),
            message.status & 0xFFFFFFFF,
            len(body),
        )
        raw = b"".join((MAGIC, *(w if isinstance(w, bytes) else w.to_bytes(4, "little") for w in words), body))
        if put != (raw if done else b""):
            raise Mismatch(f"DomB puts {put!r} into its ring, and it sends {message}")
        if not done and self.from_domb.room >= len(raw):
            raise Mismatch(f"DomB does not send {message}, and there is room for it")
        return done

    @property
    def seen(self) -> bytes:
        """The header of the message that DomB looked at last, as far as it was there."""
        return self.header or self.to_domb.moving

    def _word(self, at: int, size: int) -> int:
        return int.from_bytes(self.seen[at : at + size], "little")

    @property
    def _length(self) -> int:
        return self._word(12, 4)

    @property
    def bad(self) -> bool:
        """Is that no header of a message?"""
        return bool(self.seen) and (self.seen[:2] != MAGIC or self._length > MOST)

    def ends(self, waiting: int) -> str:
        """Why the connection must end, with so many answers that wait for room in the ring; empty if it need not."""
        if self.bad or self.to_domb.impossible:
            return "garbage is in its ring"
        if waiting > WAITING:
            return f"{waiting} answers wait"
        return "its client has gone" if self.left else ""

    def begins(self, index: int) -> None:
        """DomB takes a step; its client's index of what it sends is this."""
        self.looked, self.index = False, index

    def _room(self, index: int) -> int:
        """Bytes that fit into the ring that DomB writes, with this index of its client."""
        return max(SIZES[1] - ((self.from_domb.mine or 0) - index & 0xFFFFFFFF), 0)

    def stays(self, waiting: int, first: int, index: int) -> None:
        """DomB has taken a step, and the connection is still there; `first` bytes long is the first message that waits."""
        if first and self._room(index) >= first and self._room(self.index) >= first:
            raise Mismatch(f"DomB keeps a message of {first} bytes back, and there is room for it")
        if self.ends(waiting):
            raise Mismatch(f"DomB goes on although {self.ends(waiting)}")
        if not self.looked:
            raise Mismatch("DomB has not looked whether its client lives")


__all__ = ["Inbox"]
