"""The initial data of a new PV guest: start_info, the first vCPU's context, the shared info page.

Contents: pure packing and unpacking. Source: Xen public/xen.h (start_info, shared_info),
public/arch-x86/xen.h (vcpu_guest_context), tools/libs/guest/xg_dom_x86.c (start_info_x86_64, vcpu_x86_64).
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Final

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.abi import PAGE_SHIFT, PAGE_SIZE, U64
from bulkhead.impl.xen.vcpu_context import RIP, RSI, RSP

MAGIC: Final = b"xen-3.0-x86_64"
START_INFO: Final = Struct("<32sQQI4xQI4xQI4x5Q1024sQQ")
SIF_MOD_START_PFN: Final = 8
FLAT_KERNEL_CS64: Final = 0xE033
FLAT_KERNEL_SS64: Final = 0xE02B
DEBUGREG_OFFSET: Final = abi.CTRLREG_OFFSET + 8 * 8
DR6_DEFAULT: Final = 0xFFFF0FF0
DR7_DEFAULT: Final = 0x400
EFLAGS_IF: Final = 0x200
VCPU_INFO_SIZE: Final = 64
LEGACY_MAX_VCPUS: Final = 32


@dataclass(frozen=True, slots=True)
class StartInfo:
    """struct start_info; mod_start is a linear address, or a pfn when the flag says so."""

    nr_pages: int
    shared_info: int
    flags: int
    store_mfn: int
    store_evtchn: int
    console_mfn: int
    console_evtchn: int
    pt_base: int
    nr_pt_frames: int
    mfn_list: int
    mod_start: int
    mod_len: int
    cmd_line: bytes
    first_p2m_pfn: int
    nr_p2m_frames: int

    def pack(self) -> bytes:
        """A page."""
        return START_INFO.pack(
            MAGIC,
            self.nr_pages,
            self.shared_info,
            self.flags,
            self.store_mfn,
            self.store_evtchn,
            self.console_mfn,
            self.console_evtchn,
            self.pt_base,
            self.nr_pt_frames,
            self.mfn_list,
            self.mod_start,
            self.mod_len,
            self.cmd_line[:1023],
            self.first_p2m_pfn,
            self.nr_p2m_frames,
        ).ljust(PAGE_SIZE, b"\0")


def unpack(raw: bytes) -> StartInfo | None:
    """Decode start_info as a guest does; None without the magic."""
    magic, *fields = START_INFO.unpack_from(raw)
    if magic.rstrip(b"\0") != MAGIC:
        return None
    fields[12] = fields[12].split(b"\0")[0]
    return StartInfo(*fields)


def vcpu_context(entry: int, stack: int, start_info: int, root_mfn: int) -> bytes:
    """struct vcpu_guest_context at a kernel's entry."""
    out = bytearray(abi.VCPU_CONTEXT_SIZE)
    U64.pack_into(out, 512, abi.VGCF_IN_KERNEL | abi.VGCF_ONLINE)
    U64.pack_into(out, RIP, entry)
    U64.pack_into(out, RSP, stack)
    U64.pack_into(out, RSI, start_info)
    abi.U16.pack_into(out, RIP + 8, FLAT_KERNEL_CS64)
    U64.pack_into(out, RIP + 16, EFLAGS_IF)
    abi.U16.pack_into(out, RSP + 8, FLAT_KERNEL_SS64)
    # es, ds, fs and gs stay 0, which is FLAT_KERNEL_DS of a 64-bit guest.
    U64.pack_into(out, DEBUGREG_OFFSET + 6 * 8, DR6_DEFAULT)
    U64.pack_into(out, DEBUGREG_OFFSET + 7 * 8, DR7_DEFAULT)
    U64.pack_into(out, abi.CTRLREG_OFFSET - 16, FLAT_KERNEL_SS64)
    U64.pack_into(out, abi.CTRLREG_OFFSET - 8, stack)
    U64.pack_into(out, abi.CTRLREG_OFFSET + 24, root_mfn << PAGE_SHIFT)
    return bytes(out)


def shared_info_page() -> bytes:
    """All zero, except that every vCPU's upcalls are masked."""
    out = bytearray(PAGE_SIZE)
    for i in range(LEGACY_MAX_VCPUS):
        out[i * VCPU_INFO_SIZE + 1] = 1
    return bytes(out)
