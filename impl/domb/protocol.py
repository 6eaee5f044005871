"""Messages between Dom0's tools and DomB: a header and a bounded body over a byte channel.

Contents: the numbers and structs of requests and of the file proxy, and the pipe that sends and receives whole
messages. A message is copied out of the ring before its header is checked; a wrong header ends the connection.
Not here: the handling of messages (service.py, impl/tools).
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct, error
from typing import Final

from bulkhead.impl.domb.builder import Guest
from bulkhead.impl.libs.vchan import Vchan

MAGIC: Final = 0x4244
HEADER: Final = Struct("<HHIiI")  # magic, op, id, status, length
MAX_BODY: Final = 4000  # fits the smaller ring together with its header
REPLY: Final = 0x8000
# Dom0 to DomB
CREATE, PAUSE, UNPAUSE, DESTROY, INFO = 1, 2, 3, 4, 5
# DomB to Dom0's file proxy
FILE_OPEN, FILE_STAT, FILE_READ, FILE_CLOSE = 0x21, 0x22, 0x23, 0x24
NAMES: Final = {
    CREATE: "create",
    PAUSE: "pause",
    UNPAUSE: "unpause",
    DESTROY: "destroy",
    INFO: "info",
    FILE_OPEN: "open",
    FILE_STAT: "stat",
    FILE_READ: "read",
    FILE_CLOSE: "close",
}
LEFT_ORDER: Final = 13  # Dom0 writes: file contents
RIGHT_ORDER: Final = 12  # DomB writes: requests for files, answers
DOMID: Final = Struct("<H")
FD: Final = Struct("<I")
STAT: Final = Struct("<QQ")  # size, mtime in ns
READ: Final = Struct("<IQI")  # fd, offset, length
MAX_READ: Final = MAX_BODY
GUEST: Final = Struct("<HHIIQQI")  # domid, pad, console_port, store_port, console_mfn, store_mfn, pages
CREATE_HEAD: Final = Struct("<IHHH")  # pages; lengths of kernel path, ramdisk path, command line
STATE: Final = Struct("<HHII")  # domid, flags (1 paused, 2 dying), tot_pages, max_pages
PATH_MAX: Final = 1023
MAX_FILE: Final = 128 << 20  # bytes of a kernel or ramdisk


class ProtocolError(Exception):
    """The peer sent an invalid message."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message. `status` is 0 or -errno, in replies."""

    op: int
    number: int
    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """The body of a create request: paths are those of the file proxy."""

    kernel: str
    ramdisk: str = ""
    pages: int = 1024
    cmdline: str = ""

    def pack(self) -> bytes:
        """The body. ValueError for texts that are too long."""
        parts = [text.encode() for text in (self.kernel, self.ramdisk, self.cmdline)]
        if any(len(part) > PATH_MAX for part in parts) or not 0 <= self.pages < 1 << 32:
            raise ValueError("a path or the command line has more than 1023 bytes, or the memory is no number of pages")
        return CREATE_HEAD.pack(self.pages, *map(len, parts)) + b"".join(parts)


def unpack_create(body: bytes) -> CreateRequest:
    """Read a body; ProtocolError."""
    try:
        pages, *sizes = CREATE_HEAD.unpack_from(body)
        rest = body[CREATE_HEAD.size :]
        if max(sizes) > PATH_MAX or sum(sizes) != len(rest):
            raise ProtocolError("lengths do not add up")
        texts = []
        for size in sizes:
            texts.append(rest[:size].decode())
            rest = rest[size:]
    except (error, UnicodeDecodeError) as exc:
        raise ProtocolError(f"no create request: {exc}") from exc
    return CreateRequest(texts[0], texts[1], pages, texts[2])


def pack_guest(guest: Guest) -> bytes:
    """The answer to a create request."""
    return GUEST.pack(guest.domid, 0, guest.console_port, guest.store_port, guest.console_mfn, guest.store_mfn, guest.pages)


def unpack_guest(body: bytes) -> Guest:
    """Read it; ProtocolError."""
    try:
        domid, _, console_port, store_port, console_mfn, store_mfn, pages = GUEST.unpack(body)
    except error as exc:
        raise ProtocolError(f"no guest: {exc}") from exc
    return Guest(domid, console_mfn, console_port, store_mfn, store_port, pages)


class Pipe:
    """Whole messages over a channel."""

    def __init__(self, chan: Vchan) -> None:
        self.chan = chan

    def send(self, message: Message) -> bool:
        """False while there is no room."""
        body = message.body[:MAX_BODY]
        return self.chan.send(HEADER.pack(MAGIC, message.op, message.number, message.status, len(body)) + body)

    def receive(self) -> Message | None:
        """The next message if it has arrived completely; ProtocolError, OSError for garbage."""
        raw = self.chan.peek(HEADER.size)
        if raw is None:
            return None
        magic, op, number, status, length = HEADER.unpack(raw)
        if magic != MAGIC or length > MAX_BODY:
            raise ProtocolError(f"header {raw.hex()}")
        # Use the header copied above: the peer may change the ring meanwhile.
        whole = self.chan.recv(HEADER.size + length)
        return None if whole is None else Message(op, number, status, whole[HEADER.size :])
