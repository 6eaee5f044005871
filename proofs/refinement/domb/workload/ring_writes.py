"""What processes of Dom0 write into a ring that they map: whole messages, headers and indices, at any moment.

Also what DomB has just loaded, so that whoever loads it again finds something else. Not here: tools' messages (tools.py).
"""

from __future__ import annotations

from typing import Any

from bulkhead.impl.domb import protocol as p
from bulkhead.model.caller import OKAY
from bulkhead.proofs.refinement.calls import Answer
from bulkhead.proofs.refinement.domb.machine import INDEX_FROM_DOMB, MESSAGE, Process
from bulkhead.proofs.refinement.domb.workload.chooser import Chooser

# Other bytes in a header, and where: its kind, its number, its length.
HEADERS = (
    (2, b"\3"),
    (2, b"\5"),
    (2, b"\x23"),
    (4, b"?"),
    (12, b"\0"),
    (12, b"\1"),
    (12, b"\x11"),
    (13, b"\1"),
    (14, b"\1"),
)
# Room for so many bytes is left for what DomB sends; so much further than it was is an index.
ROOM = (0, 0, 1, 16, 20, 40, 4000)
FURTHER = (-1, -16, -17, 1, 16, 8192, 1 << 31)
# Indices that are impossible, and that an end has gone: of the first page of the ring, and where.
ENDINGS = (*((at, b"\xff\xff\xff\x7f") for at in (4, 8, 12)), (20, b"\0"), (21, b"\0"))


class RingWrites(Chooser):
    """Writes of processes that map a page of a ring."""

    last = 0  # bytes of the last message

    def of(self, who: Process, operation: str, /, **arguments: Any) -> Answer:
        """A call of a process."""
        return self.call(f"p{who.space}", operation, **arguments)

    def scribble(self, who: Process | None = None) -> None:
        """A process writes to the pages that it maps: indices, live bytes, headers, anything."""
        rng, processes = self.rng, list(self.view.processes.values())
        who = who if who is not None else rng.choice(processes) if processes else None
        if who is None:
            return
        pages = list(who.mapped)
        if who.chan is not None and not who.chan.closed:
            pages += [addr + 4096 * rng.randrange(count) for addr, count in who.chan.areas] + [who.chan.page] * 2
        if not pages:
            return
        if rng.random() < 0.5 and self._changes(who):
            return
        at = rng.choice((0, 4, 8, 12, 16, 20, 21, 24, rng.randrange(4080), rng.randrange(4080)))
        message = p.HEADER.pack(p.MAGIC, rng.randrange(7), 1, 0, 2) + b"\2\0"
        payload = rng.choice((b"\0", b"\xff\xff\xff\x7f", rng.randbytes(4), b"\1\0\0\0", message))
        self.of(who, "poke", addr=rng.choice(pages) + at, bytes=payload.hex())

    def rewrite(self, what: str) -> None:
        """A client changes what DomB has just loaded: the header of the message that it is about to take, or an index. DomB
        has seen it, and may look again."""
        for who in self.view.processes.values():
            chan = who.chan
            if chan is None or chan.closed or chan.writer is None or chan.reader is None:
                continue
            if what == MESSAGE:
                ring, start = chan.writer.ring, self.view.next_message(chan)
                at, payload = self.rng.choice(HEADERS)
                where = ring.data + ((start - ring.data + at) & (ring.size - 1)) if start >= 0 else 0
            elif what == INDEX_FROM_DOMB:  # as if it had taken less, so that only so many bytes have room
                where, index = chan.reader.ring.cons, chan.reader.cons
                payload = ((index - chan.reader.ring.size + self.rng.choice(ROOM)) & 0xFFFFFFFF).to_bytes(4, "little")
            else:
                where, index = chan.writer.ring.prod, chan.writer.prod
                payload = ((index + self.rng.choice(FURTHER)) & 0xFFFFFFFF).to_bytes(4, "little")
            if where:
                self.of(who, "poke", addr=where, bytes=payload.hex())
                return

    def spoils(self) -> None:
        """A process maps the first page of a ring that another one uses, and writes what ends the connection."""
        rng, offer, free = self.rng, self.view.offer, self.view.free()
        if offer is None or not free or sum(len(each.mapped) for each in self.view.processes.values()) >= 6:
            return
        who = rng.choice(free)
        mapped = self.of(who, "map_grant", dom=offer.domid, ref=offer.ring_ref, prot=3)
        if mapped.code != OKAY:
            return
        at, payload = rng.choice(ENDINGS)
        self.of(who, "poke", addr=mapped.given + at, bytes=payload.hex())
        self.of(who, "unmap_grant", addr=mapped.given)

    def _changes(self, who: Process) -> bool:
        """It changes the last message that it sent, which DomB may be about to take, or to read again."""
        chan = who.chan
        if chan is None or chan.closed or chan.writer is None or not self.last:
            return False
        at, payload = self.rng.choice(((0, b"?"), (2, b"\5"), (2, b"\3"), (4, b"??"), (12, b"\1"), (13, b"\1"), (16, b"\3")))
        ring = chan.writer.ring
        where = ring.data + ((chan.writer.prod - self.last + at) & (ring.size - 1))
        self.of(who, "poke", addr=where, bytes=payload.hex())
        return True


__all__ = ["RingWrites"]
