"""The expected result of a build: whether its files are acceptable, and the contents of the guest's pages.

This oracle is independent of DomB's parser. It knows the kernels of the campaigns by their
bytes, and reads their segments in the simplest way. Not here: general ELF files (impl/domb/elf.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from struct import Struct

from bulkhead.impl.domb import protocol as p
from bulkhead.impl.guests.test_kernel import Source, build_kernel, code

PAGE = 4096
SEGMENT = Struct("<IIQQQQQQ")
# struct start_info of public/xen.h, as far as a 64-bit guest reads it.
START_INFO = Struct("<32sQQI4xQI4xQI4xQQQQQ1024sQQ")
BASE = 0xFFFFFFFF80000000
GOOD: tuple[bytes, ...] = (build_kernel(), build_kernel(Source(data=b"another kernel\0", text=code() + b"\xcc" * 64)))
_ONE = GOOD[0]
BAD: tuple[bytes, ...] = (
    b"",
    b"\x7fELF",
    b"#!/bin/sh\n" * 50,
    b"\x7fELG" + _ONE[4:],
    _ONE[:4] + b"\x01" + _ONE[5:],
    _ONE[:18] + b"\x03" + _ONE[19:],
    _ONE[:5000],
    _ONE[: 64 + 8] + b"\xff" * 8 + _ONE[64 + 16 :],  # cut off; a segment beyond the file
    _ONE[: 64 + 32] + b"\xff" * 7 + _ONE[64 + 39 :],
    _ONE[: 64 + 24] + b"\xff" * 7 + _ONE[64 + 31 :],  # its size; its address
    _ONE[:54] + b"\xff\xff\xff\xff" + _ONE[58:],
    _ONE[:-64],  # program headers without end; half of the notes
    build_kernel(Source(without=frozenset({1, 3, 8}))),
    build_kernel(Source(notes={8: b"other\0"})),
    build_kernel(Source(virt_base=0xFFFF800000000000)),
    _ONE[:152] + (len(_ONE) - 3 * 4096 + 1).to_bytes(8, "little") * 2 + _ONE[168:],  # a segment that ends a byte too late
)
SMALL_DISKS: tuple[bytes, ...] = (b"", b"a ramdisk", b"r" * 4096, bytes(range(256)) * 30)
BIG_DISK: bytes = b"D" * (81 * PAGE)
PAGES = (64, 65, 80)


@dataclass
class Wanted:
    """A create request, decoded for the rules' side."""

    ok: bool
    kernel: bytes = b""
    ramdisk: bytes = b""
    pages: int = 0
    cmdline: bytes = b""


def wanted(body: bytes) -> Wanted:
    """Read a request: four numbers, then three texts whose lengths add up."""
    if len(body) < 10:
        return Wanted(False)
    pages = int.from_bytes(body[:4], "little")
    sizes = [int.from_bytes(body[i : i + 2], "little") for i in (4, 6, 8)]
    rest = body[10:]
    if max(sizes) > 1023 or sum(sizes) != len(rest):
        return Wanted(False)
    texts = [rest[: sizes[0]], rest[sizes[0] : sizes[0] + sizes[1]], rest[sizes[0] + sizes[1] :]]
    try:
        for text in texts:
            text.decode()
    except UnicodeDecodeError:
        return Wanted(False)
    return Wanted(True, texts[0], texts[1], pages, texts[2])


@dataclass(frozen=True)
class Told:
    """What start_info says of the machine: frames of the shared info page and of the two rings, their ports, the page of
    the top-level page table, and the number of page tables."""

    shared_info: int
    store: int
    store_port: int
    console: int
    console_port: int
    root: int
    tables: int


@dataclass
class Reading:
    """A build that waits for its files: the requested files, and the received data."""

    wanted: Wanted
    files: list[bytes] = field(default_factory=list)  # complete ones
    got: bytearray = field(default_factory=bytearray)
    stat: bytes = b""
    doomed: bool = False
    ended: bool = False

    def takes(self, op: int, question: bytes, answer: p.Message) -> bool:
        """Does reading continue after this answer? Records its data."""
        if op == p.FILE_CLOSE:
            if not self.doomed:
                self.files.append(bytes(self.got))
            self.got, self.stat = bytearray(), b""
            self.ended = self.doomed or len(self.files) == (2 if self.wanted.ramdisk else 1)
            return not self.doomed
        good = answer.status == 0
        if op == p.FILE_OPEN:
            self.ended = not good or len(answer.body) != 4
            return not self.ended
        if op == p.FILE_STAT:
            good = (
                good
                and len(answer.body) == 16
                and self.stat in (b"", answer.body)
                and (int.from_bytes(answer.body[:8], "little") <= p.MAX_FILE)
            )
            self.stat = answer.body
        else:
            good = good and 0 < len(answer.body) <= int.from_bytes(question[12:16], "little")
            if good:
                self.got += answer.body
        self.doomed |= not good
        return good

    def question(self, op: int, body: bytes) -> str:
        """The problem with DomB's current request to the proxy; empty if it is correct."""
        if self.doomed and op != p.FILE_CLOSE:
            return f"it goes on with {op} after an answer that ends it"
        name = self.wanted.kernel if not self.files else self.wanted.ramdisk
        if op == p.FILE_OPEN and (self.stat or body != name):
            return f"it opens {body!r}, not {name!r}"
        if op == p.FILE_READ:
            size = int.from_bytes(self.stat[:8], "little")
            at, length = int.from_bytes(body[4:12], "little"), int.from_bytes(body[12:16], "little")
            if at != len(self.got) or length != min(size - at, p.MAX_READ):
                return f"it reads {length} bytes at {at} of {size}, of which it has {len(self.got)}"
        return ""

    @property
    def kernel(self) -> bytes:
        """The kernel, once it has been received."""
        return self.files[0] if self.files else b""

    @property
    def ramdisk(self) -> bytes:
        """The ramdisk, if there is one."""
        return self.files[1] if len(self.files) > 1 else b""

    def buildable(self) -> bool | None:
        """Can a guest be built from this? None for an unknown kernel: another party has changed it on its way."""
        w = self.wanted
        if not 64 <= w.pages <= 1 << 18 or b"\0" in w.cmdline or self.kernel in BAD:
            return False
        if self.kernel not in GOOD:
            return None
        disk = -(-len(self.ramdisk) // PAGE)  # besides it, a guest needs some twenty pages
        return True if disk <= w.pages - 24 else False if disk >= w.pages - 8 else None

    def start_info(self, told: Told) -> tuple[object, ...]:
        """What start_info must say. The kernels of the campaigns have no notes that move the frame list or the ramdisk."""
        after = max(self.pages()) + 1  # the frame list lies behind all that was loaded
        disk = after - -(-len(self.ramdisk) // PAGE)
        return (
            b"xen-3.0-x86_64".ljust(32, b"\0"),
            self.wanted.pages,
            told.shared_info * PAGE,
            0,
            told.store,
            told.store_port,
            told.console,
            told.console_port,
            BASE + told.root * PAGE,
            told.tables,
            BASE + after * PAGE,
            BASE + disk * PAGE if self.ramdisk else 0,
            len(self.ramdisk),
            self.wanted.cmdline.ljust(1024, b"\0"),
            0,
            0,
        )

    def pages(self) -> dict[int, bytes]:
        """Guest pages of the kernel, by guest frame number, and after them those of the ramdisk."""
        out: dict[int, bytes] = {}
        end = 0
        for i in range(2):
            _, _, at, virt, _, filesz, memsz, _ = SEGMENT.unpack_from(self.kernel, 64 + i * SEGMENT.size)
            content = self.kernel[at : at + filesz].ljust(memsz, b"\0")
            for k in range(0, memsz, PAGE):
                out[(virt - BASE + k) // PAGE] = content[k : k + PAGE].ljust(PAGE, b"\0")
            end = max(end, (virt - BASE + memsz + PAGE - 1) // PAGE)
        for k in range(0, len(self.ramdisk), PAGE):
            out[end + k // PAGE] = self.ramdisk[k : k + PAGE].ljust(PAGE, b"\0")
        return out
