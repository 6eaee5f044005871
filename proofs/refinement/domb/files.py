"""The expected result of a build: whether its files are acceptable, and the contents of the guest's pages.

This oracle is independent of DomB's parser. It knows the kernels of the campaigns (kernels.py) by their
bytes, and reads their segments in the simplest way. Not here: general ELF files (impl/domb/elf.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from struct import Struct

from bulkhead.impl.domb import protocol as p
from bulkhead.impl.xen.abi import E2BIG, EIO, ESTALE
from bulkhead.proofs.refinement.domb.kernels import BAD, FRAME_LIST, GOOD, PAGE

SEGMENT = Struct("<IIQQQQQQ")
# struct start_info of public/xen.h, as far as a 64-bit guest reads it.
START_INFO = Struct("<32sQQI4xQI4xQI4xQQQQQ1024sQQ")
SIF_MOD_START_PFN = 8
MAX_FILE = 128 << 20  # bytes of a kernel or a ramdisk that DomB takes
# Where words lie in vcpu_guest_context of public/arch-x86/xen.h, and what the ABI of 64-bit guests wants there at first.
RSI, RIP, RSP, KERNEL_SP, CR3 = 520 + 104, 520 + 128, 520 + 152, 4976, 4984 + 24
FIRST_WORDS = {
    512: 1 << 2 | 1 << 5,  # flags: in the kernel, online
    520 + 136: 0xE033,  # cs
    520 + 144: 1 << 9,  # rflags: interrupts
    520 + 160: 0xE02B,  # ss
    4968: 0xE02B,  # kernel_ss
    5048 + 48: 0xFFFF0FF0,  # dr6
    5048 + 56: 0x400,  # dr7
}
# shared_info of public/xen.h: the upcalls of each of 32 vCPUs are masked, and nothing has happened.
SHARED_INFO = b"".join(b"\0\1".ljust(64, b"\0") for _ in range(32)).ljust(4096, b"\0")
TABLES = 5  # page tables of a guest with a small kernel: the mapped range has 4 MiB
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
    fd: bytes = b""  # the proxy's number of the open file
    stat: bytes = b""
    stats: int = 0  # how often its size was asked for
    doomed: bool = False
    ended: bool = False
    errno: int = 0  # why reading ends before all files are there

    def takes(self, op: int, question: bytes, answer: p.Message) -> bool:
        """Does reading continue after this answer? Records its data."""
        if op == p.FILE_CLOSE:
            if not self.doomed:
                self.files.append(bytes(self.got))
            self.got, self.fd, self.stat, self.stats = bytearray(), b"", b"", 0
            self.ended = self.doomed or len(self.files) == (2 if self.wanted.ramdisk else 1)
            return not self.doomed
        self.errno = self._wrong(op, question, answer)
        if op == p.FILE_OPEN:
            self.ended = bool(self.errno)
            self.fd = b"" if self.ended else answer.body
            return not self.ended
        if op == p.FILE_STAT:
            self.stat, self.stats = answer.body, self.stats + 1
        elif not self.errno:
            self.got += answer.body
        self.doomed |= bool(self.errno)
        return not self.errno

    def _wrong(self, op: int, question: bytes, answer: p.Message) -> int:
        """The error for which this answer ends reading; 0 for none."""
        body = answer.body
        if answer.status:
            return -answer.status if -4096 < answer.status < 0 else EIO
        if op == p.FILE_OPEN:
            return 0 if len(body) == 4 else EIO
        if op != p.FILE_STAT:
            return 0 if 0 < len(body) <= int.from_bytes(question[12:16], "little") else EIO
        if len(body) != 16:
            return EIO
        if self.stat:
            return 0 if body == self.stat else ESTALE
        return 0 if int.from_bytes(body[:8], "little") <= MAX_FILE else E2BIG

    def question(self, op: int, body: bytes) -> str:
        """The problem with DomB's current request to the proxy; empty if it is correct."""
        if self.doomed and op != p.FILE_CLOSE:
            return f"it goes on with {op} after an answer that ends it"
        size = int.from_bytes(self.stat[:8], "little")
        if op != self._next(size):
            return f"it asks {op}, not {self._next(size)}, with {len(self.got)} of {size} bytes read"
        name = self.wanted.kernel if not self.files else self.wanted.ramdisk
        if op == p.FILE_OPEN:
            return "" if body == name else f"it opens {body!r}, not {name!r}"
        if body[:4] != self.fd:
            return f"it turns to file {body[:4]!r}, and {self.fd!r} is open"
        if op == p.FILE_READ:
            at, length = int.from_bytes(body[4:12], "little"), int.from_bytes(body[12:16], "little")
            if at != len(self.got) or length != min(size - at, p.MAX_READ):
                return f"it reads {length} bytes at {at} of {size}, of which it has {len(self.got)}"
        return ""

    def _next(self, size: int) -> int:
        """What must be asked now: open a file, ask for its size and time, read it to its end, ask again, close it."""
        if not self.fd:
            return p.FILE_OPEN
        if self.doomed or self.stats > 1:
            return p.FILE_CLOSE
        return p.FILE_STAT if not self.stats or len(self.got) >= size else p.FILE_READ

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
        apart = (self._disk_pages if self._by_page else 0) + (self._list_pages if self._list_apart else 0)
        return self._behind + apart <= w.pages

    @property
    def _by_page(self) -> bool:
        """Is the ramdisk named by its page, and not mapped?"""
        return self.kernel in (GOOD[2], GOOD[4])

    @property
    def _list_apart(self) -> bool:
        """Is the list of frames mapped apart from all else?"""
        return self.kernel in (GOOD[3], GOOD[4])

    @property
    def _base(self) -> int:
        """The address of the guest's first page: the kernel's text lies in its second one."""
        return int(SEGMENT.unpack_from(self.kernel, 64)[3]) - PAGE

    @property
    def _kernel_ends(self) -> int:
        headers = (SEGMENT.unpack_from(self.kernel, 64 + i * SEGMENT.size) for i in range(2))
        return max((int(virt) - self._base + int(memsz) + PAGE - 1) // PAGE for _, _, _, virt, _, _, memsz, _ in headers)

    @property
    def _disk_pages(self) -> int:
        return -(-len(self.ramdisk) // PAGE)

    @property
    def _list_pages(self) -> int:
        return -(-self.wanted.pages * 8 // PAGE)

    @property
    def start_info_at(self) -> int:
        """The page of start_info: behind what was loaded, and the list of frames where that is mapped with it."""
        at = self._kernel_ends + (0 if self._by_page else self._disk_pages)
        return at + (0 if self._list_apart else self._list_pages)

    @property
    def _behind(self) -> int:
        """The first page behind start_info, XenStore's and the console's page, the page tables and the stack."""
        return self.start_info_at + 3 + TABLES + (3 if self._list_apart else 0) + 1

    @property
    def frame_list_at(self) -> int:
        """The first page of the list of frames."""
        if not self._list_apart:
            return self.start_info_at - self._list_pages
        return self._behind + (self._disk_pages if self._by_page else 0)

    @property
    def ramdisk_at(self) -> int:
        """The first page of the ramdisk."""
        return self._behind if self._by_page else self._kernel_ends

    def addresses(self) -> list[tuple[int, int]]:
        """Where the guest's pages are mapped at first: its first 4 MiB, and the list of frames if that lies apart."""
        main = [(self._base + pfn * PAGE, pfn) for pfn in range(min(self.wanted.pages, 1024))]
        apart = range(self._list_pages if self._list_apart else 0)
        return main + [(FRAME_LIST + i * PAGE, self.frame_list_at + i) for i in apart]

    def registers(self, root: int) -> dict[int, int]:
        """The first vCPU's context, all words that are not 0: the first instruction, the end of the stack, start_info, of
        which a kernel is told in a register, the frame of the top-level page table, and what is the same for all."""
        begins = self._base + PAGE + (1 if self.kernel == GOOD[5] else 0)
        stack = self._base + self._behind * PAGE
        words = {RIP: begins, RSP: stack, KERNEL_SP: stack, RSI: self._base + self.start_info_at * PAGE, CR3: root * PAGE}
        return FIRST_WORDS | {at: word for at, word in words.items() if word}

    def start_info(self, told: Told) -> tuple[object, ...]:
        """What start_info must say."""
        apart = self._list_apart
        disk = self.ramdisk_at if self._by_page else self._base + self.ramdisk_at * PAGE
        return (
            b"xen-3.0-x86_64".ljust(32, b"\0"),
            self.wanted.pages,
            told.shared_info * PAGE,
            SIF_MOD_START_PFN if self._by_page and self.ramdisk else 0,
            told.store,
            told.store_port,
            told.console,
            told.console_port,
            self._base + told.root * PAGE,
            told.tables,
            FRAME_LIST if apart else self._base + self.frame_list_at * PAGE,
            disk if self.ramdisk else 0,
            len(self.ramdisk),
            self.wanted.cmdline.ljust(1024, b"\0"),
            self.frame_list_at if apart else 0,
            self._list_pages if apart else 0,
        )

    def pages(self) -> dict[int, bytes]:
        """Guest pages of the kernel, by guest frame number, and those of the ramdisk."""
        out: dict[int, bytes] = {}
        for i in range(2):
            _, _, at, virt, _, filesz, memsz, _ = SEGMENT.unpack_from(self.kernel, 64 + i * SEGMENT.size)
            content = self.kernel[at : at + filesz].ljust(memsz, b"\0")
            for k in range(0, memsz, PAGE):
                out[(virt - self._base + k) // PAGE] = content[k : k + PAGE].ljust(PAGE, b"\0")
        for k in range(0, len(self.ramdisk), PAGE):
            out[self.ramdisk_at + k // PAGE] = self.ramdisk[k : k + PAGE].ljust(PAGE, b"\0")
        return out
