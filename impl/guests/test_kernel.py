"""A small 64-bit PV kernel as an ELF image, assembled from its parts.

Contents: the machine code with its source, the notes, and the ELF file around them. The code keeps the
start_info pointer and then spins:

    entry:  mov   %rsi, start_info(%rip)    48 89 35 rel32
    1:      pause                           f3 90
            jmp   1b                        eb fc

impl/guests/agent.py simulates the guest's further execution. Not here:
loading (impl/domb).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from struct import Struct, pack
from typing import Final

PAGE: Final = 4096
VIRT_BASE: Final = 0xFFFFFFFF80000000
EHDR: Final = Struct("<16sHHIQQQIHHHHHH")
PHDR: Final = Struct("<IIQQQQQQ")
NOTE: Final = Struct("<III")
PT_LOAD, PT_NOTE = 1, 4
# XEN_ELFNOTE_* of public/elfnote.h
ENTRY, HYPERCALL_PAGE, NOTE_VIRT_BASE, PADDR_OFFSET, XEN_VERSION, GUEST_OS = 1, 2, 3, 4, 5, 6
GUEST_VERSION, LOADER, PAE_MODE, FEATURES = 7, 8, 9, 10
TEXT_PFN: Final = 1
HYPERCALL_PFN: Final = 2
DATA_PFN: Final = 3
BSS_PAGES: Final = 2
BANNER: Final = b"bulkhead test kernel\0"
START_INFO: Final = 64  # offset of the variable in the data page


def code() -> bytes:
    """The text: `mov %rsi, start_info(%rip)`, then `pause` for ever."""
    relative = (DATA_PFN - TEXT_PFN) * PAGE + START_INFO - 7
    return b"\x48\x89\x35" + pack("<i", relative) + b"\xf3\x90\xeb\xfc"


@dataclass(frozen=True)
class Source:
    """Variations for tests: addresses, notes (number to content), text and data."""

    virt_base: int = VIRT_BASE
    notes: Mapping[int, bytes] = field(default_factory=dict)
    without: frozenset[int] = frozenset()
    text: bytes = field(default_factory=code)
    data: bytes = BANNER


def notes(source: Source) -> bytes:
    """The note segment: each note has the name Xen."""
    base = source.virt_base
    content: dict[int, bytes] = {
        ENTRY: pack("<Q", base + TEXT_PFN * PAGE),
        HYPERCALL_PAGE: pack("<Q", base + HYPERCALL_PFN * PAGE),
        NOTE_VIRT_BASE: pack("<Q", base),
        PADDR_OFFSET: pack("<Q", 0),
        XEN_VERSION: b"xen-3.0\0",
        GUEST_OS: b"bulkhead-test\0",
        GUEST_VERSION: b"1\0",
        LOADER: b"generic\0",
        PAE_MODE: b"yes\0",
        FEATURES: b"pae_pgdir_above_4gb\0",
        **source.notes,
    }
    out = b""
    for kind, desc in content.items():
        if kind not in source.without:
            out += NOTE.pack(4, len(desc), kind) + b"Xen\0" + desc + bytes(-len(desc) % 4)
    return out


def build_kernel(source: Source | None = None) -> bytes:
    """The ELF file: a text segment with the hypercall page, a data segment with BSS, and the notes."""
    source = source if source is not None else Source()
    note = notes(source)
    text_at, data_at, note_at = PAGE, 3 * PAGE, 4 * PAGE
    headers = [
        (PT_LOAD, 5, text_at, TEXT_PFN, 2 * PAGE, 2 * PAGE),
        (PT_LOAD, 6, data_at, DATA_PFN, PAGE, (1 + BSS_PAGES) * PAGE),
    ]
    out = EHDR.pack(
        b"\x7fELF\2\1\1".ljust(16, b"\0"),
        2,
        62,
        1,
        source.virt_base + TEXT_PFN * PAGE,
        EHDR.size,
        0,
        0,
        EHDR.size,
        PHDR.size,
        len(headers) + 1,
        0,
        0,
        0,
    )
    for kind, flags, at, pfn, filesz, memsz in headers:
        out += PHDR.pack(kind, flags, at, source.virt_base + pfn * PAGE, pfn * PAGE, filesz, memsz, PAGE)
    out += PHDR.pack(PT_NOTE, 4, note_at, 0, 0, len(note), len(note), 4)
    out = out.ljust(text_at, b"\0") + source.text.ljust(2 * PAGE, b"\x90")
    return out + source.data.ljust(PAGE, b"\0") + note
