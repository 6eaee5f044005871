"""Descriptor tables of PV guests: which descriptors a guest may have, pages of descriptors, and a vCPU's GDT.

Contents: the check of a descriptor, the page type that keeps such a page from being written by the guest, the
references of a vCPU's table. Not here: LDTs, whose pages Xen maps on a fault. Sources: Xen arch/x86/pv/descriptor-tables.c
(check_descriptor, pv_set_gdt, do_update_descriptor).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from bulkhead.impl.xen.abi import EFAULT, EINVAL, U64
from bulkhead.impl.xen.frames import PGT_SEG, PGT_WRITABLE, Frame, get_page
from bulkhead.impl.xen.guest_access import read
from bulkhead.impl.xen.pagetables import get_page_type, put_page_type, put_table

if TYPE_CHECKING:
    from bulkhead.impl.xen.domains import Domain, VCpu
    from bulkhead.impl.xen.machine import Xen

ENTRIES_OF_A_PAGE: Final = 512
MOST_ENTRIES: Final = 14 * ENTRIES_OF_A_PAGE  # the rest is Xen's
PRESENT: Final = 1 << 47
DPL: Final = 3 << 45
NOT_SYSTEM: Final = 1 << 44
TYPE: Final = 0xF << 40
CALL_GATE: Final = 0xC << 40
GATE_RESERVED: Final = 0xFF << 32
LOCAL: Final = 4
FLAT_KERNEL_CS: Final = 0xE033


def checked(descriptor: int) -> int | None:
    """The descriptor as Xen stores it, with no privilege above the guest's; None if a guest may not have it."""
    if not descriptor & PRESENT:
        return descriptor
    if not descriptor & DPL:
        descriptor |= DPL
    if descriptor & NOT_SYSTEM or not descriptor & TYPE:
        return descriptor
    selector = descriptor >> 16 & 0xFFFF
    if descriptor & TYPE != CALL_GATE or descriptor & GATE_RESERVED:
        return None
    if selector >> 3 >= MOST_ENTRIES and selector != FLAT_KERNEL_CS and not selector & LOCAL:
        return None
    return descriptor & ~DPL  # its use faults, and Xen emulates it


def _take(xen: Xen, domain: Domain, number: int) -> Frame | None:
    """References on a page of descriptors of the guest; when it becomes one, each descriptor is checked and stored."""
    frame = xen.frames.get(number)
    if frame is None or not get_page(frame, domain):
        return None
    fresh = frame.tcount == 0
    if fresh and frame.data is not None:
        found = [checked(word) for (word,) in U64.iter_unpack(bytes(frame.data))]
        if domain.external or None in found:
            xen.frames.put_page(frame)
            return None
    if get_page_type(xen, frame, PGT_SEG):
        xen.frames.put_page(frame)
        return None
    if fresh and frame.data is not None:
        for i, word in enumerate(found):
            U64.pack_into(frame.data, 8 * i, word)
    return frame


def drop_gdt(xen: Xen, vcpu: VCpu) -> None:
    """The vCPU has no descriptors of its own any more."""
    for frame in vcpu.gdt:
        put_table(xen, frame)
    vcpu.gdt = ()


def set_gdt(xen: Xen, vcpu: VCpu, list_at: int, entries: int) -> int:
    """HYPERVISOR_set_gdt: a new table of whole pages; the old one stays if one of them cannot be taken. 0 or -errno."""
    if entries > MOST_ENTRIES:
        return -EINVAL
    raw = read(xen, vcpu, list_at, 8 * -(-entries // ENTRIES_OF_A_PAGE))
    return -EFAULT if raw is None else install_gdt(xen, vcpu, [number for (number,) in U64.iter_unpack(raw)])


def install_gdt(xen: Xen, vcpu: VCpu, numbers: Sequence[int]) -> int:
    """A table of these pages, or -EINVAL and the old one."""
    taken: list[Frame] = []
    for number in numbers:
        frame = _take(xen, vcpu.domain, number)
        if frame is None:
            for each in reversed(taken):
                put_table(xen, each)
            return -EINVAL
        taken.append(frame)
    drop_gdt(xen, vcpu)
    vcpu.gdt = tuple(taken)
    return 0


def update_descriptor(xen: Xen, vcpu: VCpu, address: int, descriptor: int) -> int:
    """HYPERVISOR_update_descriptor at a machine address: in a page of descriptors, or a writable one. 0 or -EINVAL."""
    word = checked(descriptor)
    if address & 7 or word is None:
        return -EINVAL
    frame = xen.frames.get(address >> 12)
    if frame is None or not get_page(frame, vcpu.domain):
        return -EINVAL
    wanted = PGT_SEG if frame.tcount and frame.ptype == PGT_SEG else PGT_WRITABLE
    refused = get_page_type(xen, frame, wanted)
    if not refused:
        U64.pack_into(frame.bytes(), address & 0xFFF, word)
        vcpu.domain.mark_dirty(frame.mfn)
        put_page_type(xen, frame)
    xen.frames.put_page(frame)
    return -EINVAL if refused else 0
