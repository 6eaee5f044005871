"""Initial state of a PV vCPU and the hypercall page, as a domain builder sets them.

Contents: the checks of arch_set_info_guest for 64-bit PV guests, and the stubs of the hypercall page. Not
here: running the guest's instructions. Sources: Xen arch/x86/domain.c arch_set_info_guest,
arch/x86/pv/hypercall.c (hypercall page), public/arch-x86/xen.h.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.abi import EINVAL, EOPNOTSUPP, EPERM, U64
from bulkhead.impl.xen.descriptors import ENTRIES_OF_A_PAGE, MOST_ENTRIES, drop_gdt, install_gdt
from bulkhead.impl.xen.frames import PGT_L4, PGT_WRITABLE
from bulkhead.impl.xen.p2m import RAM_TYPES
from bulkhead.impl.xen.pagetables import PTE_MFN, addr_ok, get_page_type, get_table, put_page_type, put_table

if TYPE_CHECKING:
    from bulkhead.impl.xen.domains import Domain, VCpu
    from bulkhead.impl.xen.machine import Xen

STUB: Final = 32
IRET: Final = 23
FLAGS: Final = 512
LDT, GDT_FRAMES, GDT_ENTRIES = 4816, 4832, 4960
MOST_LOCAL: Final = 8192
RIP: Final = abi.USER_REGS_OFFSET + 128
RSP: Final = abi.USER_REGS_OFFSET + 152
RSI: Final = abi.USER_REGS_OFFSET + 104
MOV_EAX: Final = Struct("<BI")


def canonical(addr: int) -> bool:
    """Are bits 47 to 63 of the address equal (is_canonical_address)?"""
    return addr >> 47 in (0, 0x1FFFF)


def register(context: bytes, offset: int) -> int:
    """A 64-bit register of a context by its offset."""
    value: int = U64.unpack_from(context, offset)[0]
    return value


def set_vcpu_context(xen: Xen, domain: Domain, number: int, context: bytes) -> int:
    """XEN_DOMCTL_setvcpucontext of a PV guest: 0 or -errno. Each page-table root takes a reference of each kind."""
    vcpu = domain.vcpus[number]
    if domain.external:  # Xen takes debug registers only, and does not call this a set-up
        vcpu.online = bool(U64.unpack_from(context, FLAGS)[0] & abi.VGCF_ONLINE)
        return 0
    entry_points = [register(context, abi.CALLBACKS_OFFSET + 8 * i) for i in range(3)]
    if not all(map(canonical, (register(context, RIP), *entry_points))):
        return -EINVAL
    ldt, entries = register(context, LDT), register(context, LDT + 8)
    if ldt & abi.PAGE_MASK or entries > MOST_LOCAL or not addr_ok(ldt):
        return -EINVAL
    flags, kernel, user = U64.unpack_from(context, FLAGS)[0], _root(context, 3), _root(context, 1)
    if vcpu.context is not None:
        # After the first set-up, this call cannot change the vCPU's roots.
        if (vcpu.cr3, vcpu.user_cr3) != (xen.frames.get(kernel), xen.frames.get(user) if user else None):
            return -EOPNOTSUPP
    else:
        rc = _set_descriptors(xen, vcpu, context)
        if rc:
            return rc
        rc = _set_roots(xen, vcpu, kernel, user, bool(flags & abi.VGCF_IN_KERNEL))
        if rc:
            drop_gdt(xen, vcpu)
            return rc
    vcpu.context = bytes(context)
    vcpu.online = bool(flags & abi.VGCF_ONLINE)
    return 0


def _set_descriptors(xen: Xen, vcpu: VCpu, context: bytes) -> int:
    """The descriptor table that the context names; a context without one is fine."""
    entries = register(context, GDT_ENTRIES)
    if entries > MOST_ENTRIES:
        return -EINVAL
    pages = -(-entries // ENTRIES_OF_A_PAGE)
    return install_gdt(xen, vcpu, [register(context, GDT_FRAMES + 8 * i) for i in range(pages)]) if pages else 0


def _root(context: bytes, number: int) -> int:
    """The frame number in a control register: 3 for the kernel's root, 1 for that of user mode, 0 for none."""
    return (register(context, abi.CTRLREG_OFFSET + number * 8) & PTE_MFN) >> 12


def _set_roots(xen: Xen, vcpu: VCpu, kernel: int, user: int, in_kernel: bool) -> int:
    """Take both roots, or none; a vCPU that starts in user mode needs a root for it."""
    if not user and not in_kernel:
        return -EINVAL
    root, other = xen.frames.get(kernel), xen.frames.get(user) if user else None
    if root is None or get_table(xen, root, vcpu.domain, PGT_L4):
        return -EINVAL
    if user and (other is None or get_table(xen, other, vcpu.domain, PGT_L4)):
        put_table(xen, root)
        return -EINVAL
    vcpu.cr3, vcpu.user_cr3 = root, other
    return 0


def reset_vcpu(xen: Xen, vcpu: VCpu) -> int:
    """XEN_DOMCTL_setvcpucontext without a context: reset the vCPU to its state before set-up, offline (vcpu_reset)."""
    for root in (vcpu.cr3, vcpu.user_cr3):
        if root is not None:
            put_table(xen, root)
    vcpu.cr3 = vcpu.user_cr3 = None
    drop_gdt(xen, vcpu)
    xen.frames.stamp += 1
    vcpu.tlb.flush(xen.frames.stamp)
    vcpu.context = None
    vcpu.online = False
    return 0


def hypercall_init(xen: Xen, domain: Domain, mfn: int) -> int:
    """XEN_DOMCTL_hypercall_init: write the hypercall stubs into a page of a guest; 0 or -errno.

    A translated guest's stubs are those of AMD's processors; it has no iret.
    """
    frame = xen.frames.get(mfn)
    if domain.p2m is not None:
        found, ptype = domain.p2m.lookup(mfn)
        frame = found if ptype in RAM_TYPES else None
    if frame is None or frame.owner is not domain or frame.count == 0:
        return -EINVAL
    if get_page_type(xen, frame, PGT_WRITABLE):
        return -EPERM
    for i in range(abi.PAGE_SIZE // STUB):
        stub = (_translated_stub if domain.external else _pv_stub)(i)
        frame.bytes()[i * STUB : (i + 1) * STUB] = stub.ljust(STUB, b"\xcc")
    put_page_type(xen, frame)
    return 0


def _pv_stub(number: int) -> bytes:
    call = MOV_EAX.pack(0xB8, number) + b"\x0f\x05"  # mov $number,%eax; syscall
    if number == IRET:
        return b"\x51\x41\x53\x50" + call  # push %rcx; push %r11; push %rax: Xen pops these from the stack
    return b"\x51\x41\x53" + call + b"\x41\x5b\x59\xc3"  # push %rcx; push %r11 ... pop %r11; pop %rcx; ret


def _translated_stub(number: int) -> bytes:
    if number == IRET:
        return b"\x0f\x0b"  # ud2
    return MOV_EAX.pack(0xB8, number) + b"\x0f\x01\xd9\xc3"  # mov $number,%eax; vmmcall; ret
