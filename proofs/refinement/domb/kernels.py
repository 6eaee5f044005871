"""The kernels of DomB's campaigns: some that can be loaded, each in its own way, and some that cannot, each for one reason.

They are made by hand from one image, field by field as in elf.h and Xen's elfnote.h. Not here: what a guest's pages hold
then (files.py), and the loader (impl/domb/elf.py), which this file does not use.
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import pack
from typing import Final

from bulkhead.impl.guests.test_kernel import Source, build_kernel, code

PAGE: Final = 4096
BASE: Final = 0xFFFFFFFF80000000
FRAME_LIST: Final = 0xFFFFFE0000000000  # where one kernel wants the list of its frames
RANGE: Final = 4 << 20  # bytes of addresses that a small kernel's page tables map
LOWER_END, UPPER_START, LAST = 1 << 47, 0xFFFF880000000000, 1 << 64  # where guests may have addresses
END: Final = BASE + 6 * PAGE  # behind the last page of the image
ENTRY, HYPERCALL, VIRT_BASE, OFFSET, VERSION, LOADER, FEATURES, INIT_P2M, MOD_PFN = 1, 2, 3, 4, 5, 8, 10, 15, 16  # notes
TYPE, MACHINE, START, HEADERS, SIZES = 16, 18, 24, 32, 54  # of the ELF header
FIRST, SECOND, THIRD = 64, 120, 176  # the program headers: text, data, notes
HEADER: Final = 56  # bytes
KIND, FROM, PHYSICAL, IN_FILE, IN_MEMORY = 0, 8, 24, 32, 40  # of a program header


def with_notes(notes: Mapping[int, bytes], without: frozenset[int] = frozenset()) -> bytes:
    """The image with other notes."""
    return build_kernel(Source(notes=notes, without=without))


ONE: Final = build_kernel()


def patched(at: int, content: bytes, image: bytes = ONE) -> bytes:
    """The image with other bytes at one place."""
    return image[:at] + content + image[at + len(content) :]


def _number(value: int, size: int = 8) -> bytes:
    return value.to_bytes(size, "little")


def _many_headers(count: int) -> bytes:
    """The image with so many program headers, at its end: all but its own are of no kind."""
    own = ONE[FIRST : FIRST + 3 * HEADER]
    image = patched(HEADERS, _number(len(ONE)), patched(SIZES, pack("<HH", HEADER, count)))
    return image + own + bytes((count - 3) * HEADER)


def _others_note() -> bytes:
    """The image with one more note, which is not for Xen: its number is that of an entry, its content no entry's."""
    note = pack("<III", 4, 8, ENTRY) + b"GNU\0" + _number(BASE)
    size = len(ONE) - 4 * PAGE + len(note)
    return patched(THIRD + IN_FILE, pack("<QQ", size, size)) + note


def _long_names() -> bytes:
    """The image with two more notes: one of Linux, whose name and content fill no whole words, and one for Xen behind it."""
    image = patched(START, _number(END), with_notes({}, frozenset({ENTRY})))
    other = pack("<III", 6, 5, ENTRY) + b"Linux\0\0\0" + b"5.10\0\0\0\0"
    more = other + pack("<III", 4, 8, ENTRY) + b"Xen\0" + _number(BASE + PAGE)
    size = len(image) - 4 * PAGE + len(more)
    return patched(THIRD + IN_FILE, pack("<QQ", size, size), image) + more


def _as_long(pages: int) -> bytes:
    """The image, which ends with so many pages from its base: the last ones are clear, and not in the file."""
    return patched(SECOND + IN_MEMORY, _number((pages - 3) * PAGE))


def _moved(by: int) -> bytes:
    """The image with physical addresses that do not begin at 0, and the note that says so."""
    image = with_notes({OFFSET: _number(by)})
    for header, page in ((FIRST, 1), (SECOND, 3)):
        image = patched(header + PHYSICAL, _number(by + page * PAGE), image)
    return image


GOOD: Final[tuple[bytes, ...]] = (
    ONE,
    build_kernel(Source(data=b"another kernel\0", text=code() + b"\xcc" * 64)),
    with_notes({MOD_PFN: _number(1, 4)}),  # its ramdisk is named by page, and not mapped
    with_notes({INIT_P2M: _number(FRAME_LIST), FEATURES: b"!writable_page_tables|pae_pgdir_above_4gb\0"}),
    with_notes({INIT_P2M: _number(FRAME_LIST), MOD_PFN: _number(1)}),
    patched(START, _number(BASE + PAGE + 1), with_notes({}, frozenset({ENTRY, OFFSET}))),  # it starts where the header says
    _moved(1 << 24),
    _many_headers(64),
    patched(IN_MEMORY + THIRD, _number(0)),  # notes lie in the file alone
    _others_note(),
    # At the ends of what guests may map, to the last page.
    build_kernel(Source(virt_base=LOWER_END - RANGE)),
    build_kernel(Source(virt_base=UPPER_START)),
    build_kernel(Source(virt_base=LAST - RANGE)),
    _long_names(),
    # With what every guest has (a page of its frame list, three more, five tables, a stack) they just fit into 64 pages, or
    # need one more.
    _as_long(54),
    _as_long(55),
)

WANTS_ANOTHER_LOADER: Final = with_notes({LOADER: b"other\0"})
BAD: Final[tuple[bytes, ...]] = (
    # No image for this machine.
    b"",
    b"\x7fELF",
    ONE[:63],
    b"#!/bin/sh\n" * 50,
    patched(0, b"\x7fELG"),
    patched(4, b"\x01"),
    patched(5, b"\x02"),
    patched(TYPE, _number(1, 2)),
    patched(TYPE, _number(4, 2)),
    patched(MACHINE, _number(3, 2)),
    # Headers: none, too many, of another size, and beyond the end.
    patched(SIZES, b"\xff\xff\xff\xff"),
    patched(SIZES, pack("<HH", 56, 0)),
    _many_headers(65),
    patched(SIZES, pack("<HH", 57, 3)),
    patched(HEADERS, b"\xff" * 8),
    patched(HEADERS, _number(len(ONE) + 1 - 3 * 56)),
    # Segments: cut off, beyond the end by much or by a byte, with more bytes than memory, without memory, none, too large.
    ONE[:5000],
    ONE[:-64],
    patched(FIRST + FROM, b"\xff" * 8),
    patched(FIRST + IN_FILE, b"\xff" * 7),
    patched(FIRST + PHYSICAL, b"\xff" * 7),
    patched(FIRST + IN_FILE, pack("<QQ", len(ONE) - PAGE + 1, len(ONE) - PAGE + 1)),
    patched(SECOND + IN_FILE, pack("<QQ", PAGE, PAGE - 1)),
    patched(FIRST + IN_MEMORY, bytes(8), patched(SECOND + IN_MEMORY, bytes(8))),
    patched(FIRST + KIND, bytes(4), patched(SECOND + KIND, bytes(4))),
    patched(SECOND + IN_MEMORY, _number(1 << 30)),
    # Notes: none, cut off by one byte, numbers that are none, and what a guest needs that is not here.
    patched(THIRD + KIND, bytes(4)),
    with_notes({}, frozenset({ENTRY, VIRT_BASE, LOADER})),
    with_notes({}, frozenset({VERSION})),
    patched(THIRD + IN_FILE, _number(len(ONE) - 4 * PAGE - 1)),
    with_notes({ENTRY: _number(BASE + PAGE) + bytes(1)}),
    with_notes({HYPERCALL: b""}),
    with_notes({VERSION: b"xen-2.0\0"}),
    WANTS_ANOTHER_LOADER,
    with_notes({FEATURES: b"!auto_translated_physmap\0"}),
    # Addresses: no page's, below the base, over the hypervisor, in no half of the address space, outside of the image.
    build_kernel(Source(virt_base=0xFFFF800000000000)),
    build_kernel(Source(virt_base=1 << 48)),
    # The kernel itself lies where it may, but not all that would be mapped with it.
    build_kernel(Source(virt_base=LOWER_END - RANGE + PAGE)),
    build_kernel(Source(virt_base=LAST - RANGE + PAGE)),
    build_kernel(Source(virt_base=LAST - 7 * PAGE)),
    build_kernel(Source(virt_base=UPPER_START - PAGE)),
    with_notes({INIT_P2M: _number(LOWER_END - (1 << 30))}),
    with_notes({VIRT_BASE: _number(BASE - 16)}),
    with_notes({VIRT_BASE: _number(BASE + 2 * PAGE), OFFSET: _number(2 * PAGE)}),
    with_notes({ENTRY: _number(BASE)}),
    with_notes({ENTRY: _number(END)}),
    patched(START, _number(END), with_notes({}, frozenset({ENTRY}))),
    with_notes({HYPERCALL: _number(BASE)}),
    with_notes({HYPERCALL: _number(END)}),
    with_notes({HYPERCALL: _number(BASE + 2 * PAGE + 8)}),
    with_notes({INIT_P2M: _number(FRAME_LIST + 8)}),
    with_notes({INIT_P2M: _number(1 << 48)}),
    with_notes({INIT_P2M: _number(0xFFFF800000000000)}),
    with_notes({INIT_P2M: _number(0x7FFFFFFFF000)}),
)

__all__ = ["BAD", "BASE", "FRAME_LIST", "GOOD", "PAGE", "WANTS_ANOTHER_LOADER"]
