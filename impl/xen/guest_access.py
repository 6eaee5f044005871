"""Guest memory as the hypervisor and the guest's own instructions see it.

Contents: translation of addresses through a vCPU's TLB and page tables (PV) or p2m (HVM), and copying of
hypercall arguments. Not here: the meaning of the bytes. A translated guest's addresses go through its own page tables,
which it may change at will, once a root is known of its vCPU; before that they are guest-physical. Sources: Xen
arch/x86/usercopy.c, common copy_from_guest/copy_to_guest, arch/x86/hvm/hvm.c (hvm_translate_get_page).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bulkhead.impl.xen.frames import Frame
from bulkhead.impl.xen.p2m import FOREIGN, RAM_RO, RAM_RW, RAM_TYPES
from bulkhead.impl.xen.pagetables import PTE_MFN, PTE_P, PTE_PSE, PTE_RW, addr_ok, read_pte, walk

if TYPE_CHECKING:
    from bulkhead.impl.xen.domains import VCpu
    from bulkhead.impl.xen.machine import Xen

U64_MASK = (1 << 64) - 1
READABLE = frozenset({RAM_RW, RAM_RO, FOREIGN})  # arguments may not lie in pages of grants
WRITABLE = frozenset({RAM_RW, FOREIGN})


def translate(xen: Xen, vcpu: VCpu, addr: int) -> tuple[Frame, bool] | None:
    """The frame behind an address and whether it is writable; None is a fault.

    A PV translation comes from the TLB if present there, stale or not, else from the tables; it is then cached.
    """
    p2m = vcpu.domain.p2m
    if p2m is not None:
        located = guest_linear(vcpu, addr)
        if located is None:
            return None
        frame, ptype = p2m.lookup(located[0])
        if frame is None or ptype not in READABLE:
            return None
        return frame, located[1] and ptype in WRITABLE
    cached = vcpu.tlb.entries.get(addr >> 12)
    if cached is not None:
        return cached[0], cached[1]
    if not addr_ok(addr):
        return None
    found = walk(xen, vcpu.cr3, addr)
    if found is None:
        return None
    vcpu.tlb.fill(addr >> 12, found[0], found[1])
    return found


def guest_linear(vcpu: VCpu, addr: int) -> tuple[int, bool] | None:
    """The guest frame number behind a translated guest's address, and whether its own tables let it be written."""
    p2m = vcpu.domain.p2m
    assert p2m is not None
    gfn = vcpu.root_gfn
    if gfn is None:
        return addr >> 12, True
    if not addr_ok(addr):
        return None
    writable = True
    for shift in (39, 30, 21, 12):
        table, kind = p2m.lookup(gfn)
        if table is None or kind not in RAM_TYPES:
            return None
        pte = read_pte(table, (addr >> shift) & 511)
        if not pte & PTE_P:
            return None
        gfn = (pte & PTE_MFN) >> 12
        writable = writable and bool(pte & PTE_RW)
        if shift in (30, 21) and pte & PTE_PSE:
            within = (1 << (shift - 12)) - 1
            return gfn & ~within | (addr >> 12) & within, writable
    return gfn, writable


def handle_okay(vcpu: VCpu, addr: int, count: int, size: int) -> bool:
    """May a list of `count` elements start at `addr` (guest_handle_okay)?

    It may not start in the hypervisor's or the non-canonical range, even if it is empty; the rest of its range is
    checked when it is read. A translated guest's addresses are never the hypervisor's.
    """
    return vcpu.domain.external or (addr_ok(addr) and count < U64_MASK // size)


def window(xen: Xen, vcpu: VCpu, addr: int, size: int) -> tuple[bytearray, int] | None:
    """Buffer and offset for `size` bytes of one writable page; None if they cross a page boundary or fault."""
    off = addr & 0xFFF
    if off + size > 4096:
        return None
    entry = vcpu.tlb.entries.get(addr >> 12)
    if entry is not None and entry[1]:
        data = entry[0].data
        if data is not None:
            return data, off
    found = translate(xen, vcpu, addr)
    if found is None or not found[1]:
        return None
    return found[0].bytes(), off


def read(xen: Xen, vcpu: VCpu, addr: int, size: int) -> bytes | None:
    """Bytes of guest memory; None on a fault anywhere in the range."""
    out = bytearray()
    while size:
        found = translate(xen, vcpu, addr)
        if found is None:
            return None
        off = addr & 0xFFF
        take = min(size, 4096 - off)
        data = found[0].data
        out += bytes(take) if data is None else data[off : off + take]
        addr += take
        size -= take
    return bytes(out)


def write(xen: Xen, vcpu: VCpu, addr: int, payload: bytes) -> bool:
    """Store bytes; False on a fault (pages before the faulting one have been written).

    A translated guest's write to a read-only p2m entry is dropped without a fault.
    """
    pos = 0
    while pos < len(payload):
        found = translate(xen, vcpu, addr)
        if found is None or not (found[1] or _dropped(vcpu, addr)):
            return False
        off = addr & 0xFFF
        take = min(len(payload) - pos, 4096 - off)
        if found[1]:
            frame = found[0]
            frame.bytes()[off : off + take] = payload[pos : pos + take]
            if frame.owner is not None:
                frame.owner.mark_dirty(frame.mfn)
        addr += take
        pos += take
    return True


def _dropped(vcpu: VCpu, addr: int) -> bool:
    """Is a store there, which changes nothing, no fault? In a translated guest, where its own tables let it be made."""
    located = guest_linear(vcpu, addr) if vcpu.domain.external else None
    return located is not None and located[1]
