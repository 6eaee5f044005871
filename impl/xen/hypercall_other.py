"""Hypercalls about the machine: xen_version, physdev_op, console_io; and families that guests are refused here.

Contents: the answers of Debian's Xen 4.17 to PV guests, and the interrupt numbers and the page of a guest's physdev_op.
Not here: devices themselves; Dom0's own hardware (`NOT_OFFERED`). Sources: Xen common/kernel.c, arch/x86/physdev.c,
arch/x86/hvm/hvm.c (do_hvm_op), arch/x86/hvm/dm.c, common/sysctl.c.
"""

from __future__ import annotations

from collections.abc import Generator
from struct import Struct
from typing import TYPE_CHECKING, Final

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.abi import (
    DOMID_SELF,
    EACCES,
    EBUSY,
    EFAULT,
    EINVAL,
    ENOBUFS,
    ENODEV,
    ENOSPC,
    ENOSYS,
    EOPNOTSUPP,
    EPERM,
    ESRCH,
    PAGE_SIZE,
    U16,
    U32,
    U64,
)
from bulkhead.impl.xen.continuation import Handler
from bulkhead.impl.xen.device_model import do_dm_op
from bulkhead.impl.xen.events import INTERRUPTS
from bulkhead.impl.xen.frames import PGT_WRITABLE, get_page
from bulkhead.impl.xen.guest_access import read, write
from bulkhead.impl.xen.hvm_op import do_hvm_op
from bulkhead.impl.xen.pagetables import HYPERVISOR_VIRT_START, get_page_type, put_table
from bulkhead.impl.xen.platform_op import do_platform_op

if TYPE_CHECKING:
    from bulkhead.impl.xen.domains import Domain, VCpu
    from bulkhead.impl.xen.machine import Xen

Steps = Generator[str, None, int]
VERSION: Final = 4 << 16 | 17
COMPILE_INFO: Final = Struct("64s16s32s32s")
COMPILED: Final = COMPILE_INFO.pack(
    b"x86_64-linux-gnu-gcc (Debian 12.2.0-14+deb12u1) 12.2.0",
    b"pkg-xen-devel",
    b"lists.alioth.debian.org",
    b"Wed Nov  4 16:52:28 UTC 2026",
)
CAPABILITIES: Final = b"xen-3.0-x86_64 hvm-3.0-x86_32 hvm-3.0-x86_32p hvm-3.0-x86_64 "
BUILD_ID: Final = bytes.fromhex("151b373fd64b321593bf987fd923cd10dabadac4")
FEATURES, FEATURES_OF_DOM0, FEATURES_OF_TRANSLATED = 0x220E0, 0x228F0, 0x12305
PAE_EXTENDED_CR3, PAE_PGDIR_ABOVE_4GB = 3, 1 << 4
(NUMBER, EXTRA, COMPILE, CAPABLE, CHANGES, PLATFORM, FEATURE, PAGES, HANDLE, COMMANDLINE, BUILD) = range(11)
TOLD: Final = {
    EXTRA: b".7".ljust(16, b"\0"),
    COMPILE: COMPILED,
    CAPABLE: CAPABILITIES.ljust(1024, b"\0"),
    CHANGES: bytes(64),
    PLATFORM: U64.pack(HYPERVISOR_VIRT_START),
}
DENIED: Final = b"<denied>\0"
FIRST_FREE_INTERRUPT: Final = 16
NEEDS_EOI: Final = 1
(
    UNMASK,
    IRQ_STATUS,
    SET_IOPL,
    SET_IOBITMAP,
    APIC_READ,
    APIC_WRITE,
    ALLOC_VECTOR,
    _,
    EOI,
    MAP_PIRQ,
    UNMAP_PIRQ,
    ADD_DEVICE,
    REMOVE_DEVICE,
    EOI_PAGE_1,
) = range(4, 18)
RESTORE_MSI, ADD_DEVICE_EXT, SETUP_GSI, FREE_PIRQ, ADD_DEVICE_FULL, REMOVE_DEVICE_FULL = 19, 20, 21, 23, 25, 26
RESTORE_MSI_EXT, EOI_PAGE_2, PREPARE_MSIX, RELEASE_MSIX = 27, 28, 30, 31
LINES: Final = 24
BLINDLY_REFUSED: Final = frozenset({24, 29})  # before their argument is read
OF_DOM0: Final = frozenset(
    {
        APIC_READ,
        APIC_WRITE,
        ALLOC_VECTOR,
        ADD_DEVICE,
        REMOVE_DEVICE,
        RESTORE_MSI,
        ADD_DEVICE_EXT,
        SETUP_GSI,
        ADD_DEVICE_FULL,
        REMOVE_DEVICE_FULL,
        RESTORE_MSI_EXT,
        PREPARE_MSIX,
        RELEASE_MSIX,
    }
)
OF_ITS_HARDWARE: Final = OF_DOM0 | {IRQ_STATUS, EOI, FREE_PIRQ}
PHYSDEV_SIZES: Final = {
    IRQ_STATUS: 8,
    SET_IOPL: 4,
    SET_IOBITMAP: 16,
    APIC_READ: 16,
    APIC_WRITE: 16,
    ALLOC_VECTOR: 8,
    EOI: 4,
    MAP_PIRQ: 40,
    UNMAP_PIRQ: 8,
    ADD_DEVICE: 2,
    REMOVE_DEVICE: 2,
    RESTORE_MSI: 2,
    ADD_DEVICE_EXT: 16,
    SETUP_GSI: 8,
    EOI_PAGE_1: 8,
    EOI_PAGE_2: 8,
    FREE_PIRQ: 8,
    ADD_DEVICE_FULL: 12,
    REMOVE_DEVICE_FULL: 4,
    RESTORE_MSI_EXT: 4,
    PREPARE_MSIX: 4,
    RELEASE_MSIX: 4,
}
IOPL_MOST, IO_PORTS, GSI = 3, 65536, 1
OLD_PHYSDEV_SIZE: Final = 24
PROFILE_LAST, PROFILE_INIT_SIZE = 17, 76
MCA_VERSION: Final = 0x01ECC003
HYPFS_VERSION, HYPFS_READ, HYPFS_WRITE, HYPFS_ENTRY = 1, 1, 2, 24
# Families that this machine does not have, with the reason; their answer is -ENOSYS, as for a hypervisor without them.
NOT_OFFERED: Final = {
    23: "iret: no instructions of a guest are executed to return to",
    7: "platform_op by Dom0: its memory types, symbols, sleep, microcode and new processors",
    33: "physdev_op by Dom0: interrupts and devices of the host; their arguments and domains are checked",
    37: "kexec_op by Dom0: another kernel for this host",
    42: "hypfs_op by Dom0: the host's settings",
    48: "mca by Dom0, after its version: the host's machine checks",
}


def do_xen_version(xen: Xen, vcpu: VCpu, cmd: int, arg: int, a3: int, a4: int, a5: int) -> Steps:
    """Hypercall 17."""
    yield from ()
    cmd &= 0xFFFFFFFF
    privileged = vcpu.domain.is_privileged
    if cmd == NUMBER:
        return VERSION
    if cmd == PAGES:
        return -EINVAL if arg else PAGE_SIZE
    if cmd == FEATURE:
        raw = read(xen, vcpu, arg, 8)
        if raw is None:
            return -EFAULT
        if U32.unpack_from(raw)[0]:
            return -EINVAL
        told_features = FEATURES_OF_DOM0 if privileged else FEATURES_OF_TRANSLATED if vcpu.domain.external else FEATURES
        if PAE_EXTENDED_CR3 in vcpu.domain.assists:
            told_features |= PAE_PGDIR_ABOVE_4GB
        return 0 if write(xen, vcpu, arg + 4, U32.pack(told_features)) else -EFAULT
    if cmd == BUILD:
        return _build_id(xen, vcpu, arg) if privileged else -EPERM
    told = TOLD.get(cmd)
    if cmd == HANDLE:
        told = vcpu.domain.handle
    elif cmd == COMMANDLINE:
        told = bytes(1024) if privileged else DENIED
    if told is None:
        return -ENOSYS
    return 0 if write(xen, vcpu, arg, told) else -EFAULT


def _build_id(xen: Xen, vcpu: VCpu, arg: int) -> int:
    if not arg:
        return len(BUILD_ID)
    raw = read(xen, vcpu, arg, 4)
    if raw is None:
        return -EFAULT
    room = U32.unpack(raw)[0]
    if room < len(BUILD_ID):
        return -ENOBUFS if room else -EINVAL
    return len(BUILD_ID) if write(xen, vcpu, arg + 4, BUILD_ID) else -EFAULT


def do_console_io(xen: Xen, vcpu: VCpu, cmd: int, count: int, buffer: int, a4: int, a5: int) -> Steps:
    """Hypercall 18: Xen's own console, only for the control domain; nobody types there."""
    yield from ()
    if not vcpu.domain.is_privileged:
        return -EPERM
    cmd &= 0xFFFFFFFF
    if cmd == 0:
        return 0 if read(xen, vcpu, buffer, count & 0xFFFFFFFF) is not None else -EFAULT
    return 0 if cmd == 1 else -ENOSYS


def do_physdev_op(xen: Xen, vcpu: VCpu, cmd: int, arg: int, a3: int, a4: int, a5: int) -> Steps:
    """Hypercall 33, of a guest without devices; and of Dom0, whose hardware is not simulated, what needs none."""
    yield from ()
    cmd &= 0xFFFFFFFF
    domain = vcpu.domain
    hardware = domain is xen.hardware_domain
    if hardware and cmd in (*BLINDLY_REFUSED, RESTORE_MSI_EXT):
        return -ENOSYS
    if cmd == UNMASK:
        return 0
    if cmd in BLINDLY_REFUSED:
        return -EPERM
    if cmd not in PHYSDEV_SIZES:
        return -ENOSYS
    raw = read(xen, vcpu, arg, PHYSDEV_SIZES[cmd])
    if raw is None:
        return -EFAULT
    first = int.from_bytes(raw[: U32.size], "little")
    if hardware and cmd in OF_ITS_HARDWARE:
        return -ENOSYS
    if cmd in OF_DOM0:
        # The host's bridge is the only device that has a place on this machine.
        if cmd == SETUP_GSI and first >= LINES:
            return -EINVAL
        return -ENODEV if (cmd == RESTORE_MSI and first & 0xFFFF) or (cmd == RESTORE_MSI_EXT and first) else -EPERM
    if cmd == IRQ_STATUS:
        if first >= INTERRUPTS:
            return -EINVAL
        return 0 if write(xen, vcpu, arg + 4, U32.pack(NEEDS_EOI)) else -EFAULT
    if cmd == EOI:
        return 0 if first in domain.pirqs else -EINVAL
    if cmd == SET_IOPL:
        return -EINVAL if first > IOPL_MOST else 0
    if cmd == SET_IOBITMAP:
        return -EINVAL if U32.unpack_from(raw, 8)[0] > IO_PORTS else 0
    if cmd == FREE_PIRQ:
        return _free_pirq(xen, vcpu, first, arg)
    if cmd in (EOI_PAGE_1, EOI_PAGE_2):
        return _eoi_page(xen, domain, U64.unpack(raw)[0])
    named = _any(xen, domain, U16.unpack_from(raw)[0])
    return -ESRCH if named is None else -ENOSYS if hardware else -EPERM


def do_physdev_op_compat(xen: Xen, vcpu: VCpu, arg: int, a2: int, a3: int, a4: int, a5: int) -> Steps:
    """Hypercall 19, of Xen 3.0: the command stands before its struct in memory."""
    raw = read(xen, vcpu, arg, OLD_PHYSDEV_SIZE)
    if raw is None:
        return -EFAULT
    cmd: int = U32.unpack_from(raw)[0]
    return (yield from do_physdev_op(xen, vcpu, cmd, (arg + 8) & 0xFFFFFFFFFFFFFFFF, 0, 0, 0))


def do_xenoprof_op(xen: Xen, vcpu: VCpu, cmd: int, arg: int, a3: int, a4: int, a5: int) -> Steps:
    """Hypercall 31: nobody profiles, so that a guest may only ask whether it could."""
    yield from ()
    cmd &= 0xFFFFFFFF
    if cmd > PROFILE_LAST:
        return -EINVAL
    if cmd:
        return -EPERM
    return -EFAULT if read(xen, vcpu, arg, PROFILE_INIT_SIZE) is None else 0


def _free_pirq(xen: Xen, vcpu: VCpu, kind: int, arg: int) -> int:
    """An interrupt number for the guest: the highest of those for messages; for a line one of its own first, the lowest."""
    lines = range(FIRST_FREE_INTERRUPT, LINES if kind == GSI else FIRST_FREE_INTERRUPT)
    numbers = (*lines, *range(INTERRUPTS - 1, LINES - 1, -1))
    chosen = next((each for each in numbers if each not in vcpu.domain.pirqs), None)
    if chosen is None:
        return -ENOSPC
    vcpu.domain.pirqs.add(chosen)
    return 0 if write(xen, vcpu, arg + 4, U32.pack(chosen)) else -EFAULT


def _eoi_page(xen: Xen, domain: Domain, number: int) -> int:
    """The page in which Xen tells which interrupts need an end, once; it stays referenced and writable."""
    frame = xen.frames.get(number)
    if frame is None or not get_page(frame, domain):
        return -EINVAL
    if get_page_type(xen, frame, PGT_WRITABLE):
        xen.frames.put_page(frame)
        return -EINVAL
    if domain.eoi_page is not None:
        put_table(xen, frame)
        return -EBUSY
    domain.eoi_page = frame
    return 0


def drop_eoi_page(xen: Xen, domain: Domain) -> None:
    """It is given back when the domain ends."""
    frame, domain.eoi_page = domain.eoi_page, None
    if frame is not None:
        put_table(xen, frame)


def _any(xen: Xen, caller: Domain, domid: int) -> Domain | None:
    return caller if domid == DOMID_SELF else xen.domains.get(domid)


def _refused(code: int) -> Handler:
    """A family that a guest is refused whatever it asks for, and that is not offered to the control domain."""

    def handler(xen: Xen, vcpu: VCpu, a1: int, a2: int, a3: int, a4: int, a5: int) -> Steps:
        yield from ()
        return -ENOSYS if vcpu.domain.is_privileged else code

    return handler


def _nowhere(code: int) -> Handler:
    """A family that nobody is offered on this processor."""

    def handler(xen: Xen, vcpu: VCpu, a1: int, a2: int, a3: int, a4: int, a5: int) -> Steps:
        yield from ()
        return code

    return handler


def do_mca(xen: Xen, vcpu: VCpu, arg: int, a2: int, a3: int, a4: int, a5: int) -> Steps:
    """Hypercall 48: machine checks, of which this machine has none. The version stands after the command."""
    yield from ()
    if not vcpu.domain.is_privileged:
        return -EPERM
    raw = read(xen, vcpu, arg, 8)
    if raw is None:
        return -EFAULT
    return -EACCES if U32.unpack_from(raw, 4)[0] != MCA_VERSION else -ENOSYS


def do_hypfs_op(xen: Xen, vcpu: VCpu, cmd: int, name: int, size: int, buffer: int, length: int) -> Steps:
    """Hypercall 42: the version of the interface. Parameters themselves are not offered."""
    yield from ()
    if not vcpu.domain.is_privileged:
        return -EPERM
    cmd &= 0xFFFFFFFF
    if cmd == 0:
        return -EINVAL if name or size or buffer or length else HYPFS_VERSION
    raw = read(xen, vcpu, name, size & 0xFFFFFFFF) if size else b""
    if raw is None:
        return -EFAULT
    if raw[:1] != b"/" or raw[-1:] != b"\0" or raw.count(0) != 1:
        return -EINVAL
    if cmd not in (HYPFS_READ, HYPFS_WRITE):
        return -EOPNOTSUPP
    return -ENOSYS if length >= HYPFS_ENTRY else -EINVAL


def do_paging_domctl_cont(xen: Xen, vcpu: VCpu, arg: int, a2: int, a3: int, a4: int, a5: int) -> Steps:
    """Hypercall 49: continues a shadow_op, which is never interrupted here."""
    yield from ()
    return -EFAULT if read(xen, vcpu, arg, abi.DOMCTL_SIZE) is None else -EOPNOTSUPP


MACHINE: Final[dict[int, Handler]] = {
    abi.HYPERVISOR_PLATFORM_OP: do_platform_op,
    abi.HYPERVISOR_XEN_VERSION: do_xen_version,
    abi.HYPERVISOR_CONSOLE_IO: do_console_io,
    abi.HYPERVISOR_PHYSDEV_OP_COMPAT: do_physdev_op_compat,
    abi.HYPERVISOR_XENOPROF_OP: do_xenoprof_op,
    abi.HYPERVISOR_PHYSDEV_OP: do_physdev_op,
    abi.HYPERVISOR_HVM_OP: do_hvm_op,
    abi.HYPERVISOR_KEXEC_OP: _refused(-EPERM),
    abi.HYPERVISOR_XENPMU_OP: _nowhere(-EOPNOTSUPP),
    abi.HYPERVISOR_DM_OP: do_dm_op,
    abi.HYPERVISOR_HYPFS_OP: do_hypfs_op,
    abi.HYPERVISOR_MCA: do_mca,
    abi.HYPERVISOR_PAGING_DOMCTL_CONT: do_paging_domctl_cont,
}
