"""The guest's end of XenStore: sends requests and receives answers over the XenStore page.

Contents: numbering, whole messages, and checks of the server's data. Not here: the server
(impl/tools/xenstored.py). Source: Xen public/io/xs_wire.h, Mini-OS xenbus.c.
"""

from __future__ import annotations

from collections.abc import Callable

from bulkhead.impl.rings import pages
from bulkhead.impl.rings.pages import XS_HEADER, XS_PAYLOAD_MAX, ring_at
from bulkhead.impl.rings.ring import BadIndex, Memory, Reader, Writer

Answer = tuple[int, int, bytes]  # type, request number, payload


class Xenbus:
    """A connection. `notify` signals the server."""

    def __init__(self, memory: Memory, page: int, notify: Callable[[], None]) -> None:
        self.requests = Writer(memory, ring_at(page, pages.XENSTORE_REQ))
        self.answers = Reader(memory, ring_at(page, pages.XENSTORE_RSP))
        self.notify = notify
        self.received = b""
        self.next_number = 1

    def request(self, kind: int, payload: bytes, tx_id: int = 0) -> int:
        """Send a whole request; returns its number, or 0 if there is no room."""
        message = XS_HEADER.pack(kind, self.next_number, tx_id, len(payload)) + payload
        if not self.requests.put_whole(message):
            return 0
        self.next_number += 1
        self.notify()
        return self.next_number - 1

    def take(self) -> list[Answer]:
        """All complete answers and watch events received; none if the server's indices are impossible."""
        try:
            new = self.answers.take(1024)
        except BadIndex:
            return []
        if new:
            self.notify()
        self.received += new
        out: list[Answer] = []
        while len(self.received) >= XS_HEADER.size:
            kind, number, _, length = XS_HEADER.unpack_from(self.received)
            end = XS_HEADER.size + length
            if length > XS_PAYLOAD_MAX or len(self.received) < end:
                break
            out.append((kind, number, self.received[XS_HEADER.size : end]))
            self.received = self.received[end:]
        return out
