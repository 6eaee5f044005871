"""Guest kernel images: parses an untrusted ELF file, its loadable segments and its Xen notes.

Contents: parsing into plain values, every one checked; `ElfError` states the problem in one sentence. Not
here: placement in the guest (layout.py). pyelftools reads headers and segments; it gets a copy without
section headers, which a loader does not need. Sources: Xen xen/common/libelf (libelf-dominfo.c),
tools/libs/guest/xg_dom_elfloader.c, public/elfnote.h.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from struct import Struct, error
from typing import Final

from bulkhead.impl.xen.abi import PAGE_MASK, U32, U64
from bulkhead.impl.xen.pagetables import addr_ok

ENTRY: Final = 1
HYPERCALL_PAGE: Final = 2
VIRT_BASE: Final = 3
PADDR_OFFSET: Final = 4
XEN_VERSION: Final = 5
GUEST_OS: Final = 6
LOADER: Final = 8
FEATURES: Final = 10
INIT_P2M: Final = 15
MOD_START_PFN: Final = 16
NOTE: Final = Struct("<III")
HEADER_SIZE: Final = 64
PHDR_SIZE: Final = 56
MAX_PHDRS: Final = 64
MAX_NOTES: Final = 1 << 16
MAX_IMAGE: Final = 1 << 30
REQUIRED_KNOWN: Final = frozenset(
    {"writable_page_tables", "writable_descriptor_tables", "pae_pgdir_above_4gb", "supervisor_mode_kernel"}
)


class ElfError(ValueError):
    """The image cannot be loaded; the text gives the reason."""


@dataclass(frozen=True, slots=True)
class LoadSegment:
    """Bytes of the file for an address; up to `memsz` they are followed by zeros."""

    vaddr: int
    data: bytes
    memsz: int


@dataclass(frozen=True, slots=True)
class Image:
    """A PV kernel (xc_dom_image.parms): addresses are virtual; None is a missing note."""

    segments: tuple[LoadSegment, ...]
    virt_base: int
    virt_entry: int
    virt_kstart: int
    virt_kend: int
    virt_hypercall: int | None
    init_p2m: int | None
    mod_start_pfn: bool
    guest_os: str


def parse(raw: bytes) -> Image:
    """Read and check an image; ElfError."""
    _check_header(raw)
    (phoff,) = U64.unpack_from(raw, 32)
    try:
        loads, note_areas = _segments(raw)
    except ElfError:
        raise
    except Exception as exc:  # any exception of the library on a hostile file
        raise ElfError(f"program headers at {phoff:#x} cannot be read: {exc}") from exc
    notes: dict[int, bytes] = {}
    for area in note_areas:
        notes.update(_xen_notes(area))
    if not notes:
        raise ElfError("has no Xen notes: not a kernel for PV guests")
    return _image(raw, loads, notes)


def _check_header(raw: bytes) -> None:
    if raw[:4] != b"\x7fELF":
        raise ElfError("is not an ELF file" if raw else "is empty")
    if len(raw) < HEADER_SIZE:
        raise ElfError("is truncated: it ends inside the ELF header")
    if raw[4] != 2:
        raise ElfError("is not a 64-bit ELF file")
    if raw[5] != 1:
        raise ElfError("is not a little-endian ELF file")
    kind, machine = Struct("<HH").unpack_from(raw, 16)
    if machine != 62:
        raise ElfError(f"is not for x86-64 (machine {machine})")
    if kind not in (2, 3):
        raise ElfError(f"is not an executable (type {kind})")
    (phoff,) = U64.unpack_from(raw, 32)
    size, count = Struct("<HH").unpack_from(raw, 54)
    if size != PHDR_SIZE or not 0 < count <= MAX_PHDRS:
        raise ElfError(f"has {count} program headers of {size} bytes; 1 to {MAX_PHDRS} of {PHDR_SIZE} can be loaded")
    if phoff + size * count > len(raw):
        raise ElfError("is truncated: it ends inside the program headers")


def _segments(raw: bytes) -> tuple[list[tuple[int, bytes, int]], list[bytes]]:
    """(physical address, file bytes, memory size) of each loadable segment; the note areas."""
    from elftools.elf.elffile import ELFFile  # slow to import, and needed only for kernel images

    # e_shoff, and e_shentsize to e_shstrndx: no sections.
    view = raw[:40] + bytes(8) + raw[48:58] + bytes(6) + raw[64:]
    loads, notes = [], []
    for segment in ELFFile(BytesIO(view)).iter_segments():
        kind, offset, filesz = segment["p_type"], segment["p_offset"], segment["p_filesz"]
        if kind not in ("PT_LOAD", "PT_NOTE"):
            continue
        if offset + filesz > len(raw):
            raise ElfError(f"is truncated: a segment of {filesz} bytes at {offset:#x} passes the end")
        data = raw[offset : offset + filesz]
        if kind == "PT_NOTE":
            notes.append(data[:MAX_NOTES])
        elif segment["p_memsz"]:
            if filesz > segment["p_memsz"]:
                raise ElfError("has a segment with more bytes in the file than in memory")
            loads.append((segment["p_paddr"], data, segment["p_memsz"]))
    if not loads:
        raise ElfError("has nothing to load")
    return loads, notes


def _xen_notes(area: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    while at + NOTE.size <= len(area):
        namesz, descsz, kind = NOTE.unpack_from(area, at)
        name_at = at + NOTE.size
        desc_at = name_at + (namesz + 3 & ~3)
        at = desc_at + (descsz + 3 & ~3)
        if desc_at + descsz > len(area):
            raise ElfError("has a note that passes the end of its segment")
        if area[name_at : name_at + namesz] == b"Xen\0":
            found[kind] = area[desc_at : desc_at + descsz]
    return found


def _number(notes: dict[int, bytes], kind: int) -> int | None:
    desc = notes.get(kind)
    if desc is None:
        return None
    try:
        value: int = (U64 if len(desc) == 8 else U32).unpack(desc)[0]
    except error as exc:
        raise ElfError(f"has a Xen note {kind} of {len(desc)} bytes; a number has 4 or 8") from exc
    return value


def _text(notes: dict[int, bytes], kind: int) -> str:
    return notes.get(kind, b"").split(b"\0")[0].decode("ascii", "replace")


def _image(raw: bytes, loads: list[tuple[int, bytes, int]], notes: dict[int, bytes]) -> Image:
    if not _text(notes, XEN_VERSION).startswith("xen-3.0"):
        raise ElfError(f"is for another interface: XEN_VERSION is {_text(notes, XEN_VERSION)!r}, not 'xen-3.0'")
    if _text(notes, LOADER) != "generic":
        raise ElfError(f"wants the loader {_text(notes, LOADER)!r}; only 'generic' is known")
    for feature in _text(notes, FEATURES).split("|"):
        if feature.startswith("!") and feature[1:] not in REQUIRED_KNOWN:
            raise ElfError(f"requires the feature {feature[1:]!r}, which PV guests do not have here")
    base = _number(notes, VIRT_BASE) or 0
    offset = base - (_number(notes, PADDR_OFFSET) or 0)
    low = min(paddr for paddr, _, _ in loads) + offset
    high = max(paddr + memsz for paddr, _, memsz in loads) + offset
    if base & PAGE_MASK or low < base:
        raise ElfError(f"starts at {low:#x}, below its virtual base {base:#x} (or that is not a page's address)")
    if high - base > MAX_IMAGE or high >= 1 << 64:
        raise ElfError(f"needs {high - base} bytes of addresses; at most {MAX_IMAGE} can be loaded")
    if not addr_ok(base) or not addr_ok(high - 1):
        raise ElfError(f"lies at {low:#x} to {high:#x}, where no guest kernel may be")
    entry = _number(notes, ENTRY)
    if entry is None:
        entry = U64.unpack_from(raw, 24)[0]
    if not low <= entry < high:
        raise ElfError(f"has its entry {entry:#x} outside its segments")
    hypercall = _number(notes, HYPERCALL_PAGE)
    if hypercall is not None and (hypercall & PAGE_MASK or not low <= hypercall < high):
        raise ElfError(f"has its hypercall page {hypercall:#x} outside its segments or across pages")
    p2m = _number(notes, INIT_P2M)
    if p2m is not None and (p2m & PAGE_MASK or not addr_ok(p2m) or not addr_ok(min(p2m + MAX_IMAGE, (1 << 64) - 1))):
        raise ElfError(f"wants its frame list at {p2m:#x}, where it cannot be")
    segments = tuple(LoadSegment(paddr + offset, data, memsz) for paddr, data, memsz in loads)
    return Image(
        segments, base, entry, low, high, hypercall, p2m, bool(_number(notes, MOD_START_PFN)), _text(notes, GUEST_OS)
    )
