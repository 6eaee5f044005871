"""Hypercalls about the calling vCPU's processor: traps, stacks, callbacks, debug registers, segments, descriptors.

Contents: what a PV guest may set, and the state that getvcpucontext tells. Not here: vcpu_op (vcpu_op.py), descriptors
themselves (descriptors.py); and the effects on the guest's instructions, which are not executed. A translated guest has
none of these. Sources: Xen arch/x86/pv/callback.c, arch/x86/pv/misc-hypercalls.c, arch/x86/traps.c, common/kernel.c.
"""

from __future__ import annotations

from collections.abc import Generator
from struct import Struct
from typing import TYPE_CHECKING, Final

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.abi import CALLBACKS_OFFSET, CTRLREG_OFFSET, EFAULT, EINVAL, ENODEV, ENOSYS, EPERM, U64
from bulkhead.impl.xen.descriptors import set_gdt, update_descriptor
from bulkhead.impl.xen.guest_access import read
from bulkhead.impl.xen.pagetables import addr_ok
from bulkhead.impl.xen.vcpu_context import canonical, register

if TYPE_CHECKING:
    from bulkhead.impl.xen.domains import VCpu
    from bulkhead.impl.xen.machine import Xen

Steps = Generator[str, None, int]
TRAP: Final = Struct("<BBHIQ")  # vector flags cs pad address, of struct trap_info
TRAPS_OFFSET: Final = 720
VECTORS: Final = 256
KERNEL_SS_OFFSET: Final = CTRLREG_OFFSET - 16
DEBUG_OFFSET: Final = CTRLREG_OFFSET + 64
STATUS, CONTROL = 6, 7  # the debug registers with flags; 4 and 5 are other names for them
STATUS_ONES, STATUS_ZEROS = 0xFFFF0FF0, 0x1000
CONTROL_ONES, CONTROL_ZEROS = 0x400, 0xD800
CONTROL_ACTIVE, CONTROL_DETECT = 0xFF, 0x2000
BREAK_ON_IO: Final = 2
CALLBACK: Final = Struct("<HH4xQ")  # type flags address
EVENT, FAILSAFE, SYSCALL, NMI, SYSENTER, SYSCALL32 = 0, 1, 2, 4, 5, 7
CALLBACKS: Final = frozenset({EVENT, FAILSAFE, SYSCALL, NMI, SYSENTER, SYSCALL32})
NMI_SIZE: Final = 16  # the address, and padding
MASKS_EVENTS: Final = 1
IN_CONTEXT: Final = {EVENT: 0, FAILSAFE: 1, SYSCALL: 2}
ASSISTS: Final = frozenset({*range(6), 32})
ASSISTS_OF_TRANSLATED: Final = frozenset({5})  # the flag in areas of run states
SEGMENT_BASES, SEGMENT_SELECTOR = (0, 1, 2), 3


def keep(vcpu: VCpu, offset: int, payload: bytes) -> None:
    """Write into the context that getvcpucontext tells."""
    if vcpu.context is not None:
        vcpu.context = vcpu.context[:offset] + payload + vcpu.context[offset + len(payload) :]


def do_set_trap_table(xen: Xen, vcpu: VCpu, table: int, a2: int, a3: int, a4: int, a5: int) -> Steps:
    """Hypercall 0: rows up to the first without an address; no table clears all. Earlier rows stay if a later one is bad."""
    yield from ()
    if not table:
        keep(vcpu, TRAPS_OFFSET, bytes(TRAP.size * VECTORS))
        return 0
    while True:
        raw = read(xen, vcpu, table, TRAP.size)
        if raw is None:
            return -EFAULT
        vector, _, _, _, address = TRAP.unpack(raw)
        if not address:
            return 0
        if not canonical(address):
            return -EINVAL
        keep(vcpu, TRAPS_OFFSET + TRAP.size * vector, raw)
        table += TRAP.size


def do_set_gdt(xen: Xen, vcpu: VCpu, frames_at: int, entries: int, a3: int, a4: int, a5: int) -> Steps:
    """Hypercall 2."""
    yield from ()
    return set_gdt(xen, vcpu, frames_at, entries & 0xFFFFFFFF)


def do_stack_switch(xen: Xen, vcpu: VCpu, selector: int, pointer: int, a3: int, a4: int, a5: int) -> Steps:
    """Hypercall 3: the stack on which the guest's kernel is entered."""
    yield from ()
    keep(vcpu, KERNEL_SS_OFFSET, U64.pack(selector) + U64.pack(pointer))
    return 0


def do_set_callbacks(xen: Xen, vcpu: VCpu, event: int, failsafe: int, syscall: int, a4: int, a5: int) -> Steps:
    """Hypercall 4: three entry points; addresses that cannot be are left out."""
    yield from ()
    for i, address in enumerate((event, failsafe, syscall)):
        if canonical(address):
            keep(vcpu, CALLBACKS_OFFSET + 8 * i, U64.pack(address))
    return 0


def do_callback_op(xen: Xen, vcpu: VCpu, cmd: int, arg: int, a3: int, a4: int, a5: int) -> Steps:
    """Hypercall 30: one entry point; of those only the one for NMIs can be taken back."""
    yield from ()
    cmd &= 0xFFFFFFFF
    if cmd not in (0, 1):
        return -ENOSYS
    raw = read(xen, vcpu, arg, CALLBACK.size if cmd == 0 else 4)
    if raw is None:
        return -EFAULT
    kind = abi.U16.unpack_from(raw)[0]
    if cmd == 1:
        return -ENOSYS if kind not in CALLBACKS else 0 if kind == NMI else -EINVAL
    _, flags, address = CALLBACK.unpack(raw)
    if not canonical(address):
        return -EINVAL
    if kind not in CALLBACKS:
        return -ENOSYS
    if kind in IN_CONTEXT:
        keep(vcpu, CALLBACKS_OFFSET + 8 * IN_CONTEXT[kind], U64.pack(address))
    elif kind != NMI:
        vcpu.settings.entry_points[kind] = (address, flags & MASKS_EVENTS)
    return 0


def do_nmi_op(xen: Xen, vcpu: VCpu, cmd: int, arg: int, a3: int, a4: int, a5: int) -> Steps:
    """Hypercall 28: the older form for NMIs."""
    yield from ()
    cmd &= 0xFFFFFFFF
    if cmd == 1:
        return 0
    if cmd:
        return -ENOSYS
    raw = read(xen, vcpu, arg, NMI_SIZE)
    if raw is None:
        return -EFAULT
    return 0 if canonical(U64.unpack_from(raw)[0]) else -EINVAL


def do_nothing(xen: Xen, vcpu: VCpu, a1: int, a2: int, a3: int, a4: int, a5: int) -> Steps:
    """fpu_taskswitch and set_timer_op: no guest runs here, and every argument is fine."""
    yield from ()
    return 0


def _debug(vcpu: VCpu, number: int) -> int:
    value = 0 if vcpu.context is None else register(vcpu.context, DEBUG_OFFSET + 8 * number)
    return value | {STATUS: STATUS_ONES, CONTROL: CONTROL_ONES}.get(number, 0)


def _alias(number: int) -> int:
    number &= 0xFFFFFFFF
    return number + 2 if number in (4, 5) else number


def do_get_debugreg(xen: Xen, vcpu: VCpu, number: int, a2: int, a3: int, a4: int, a5: int) -> Steps:
    """Hypercall 9."""
    yield from ()
    number = _alias(number)
    return _debug(vcpu, number) if number <= CONTROL else -ENODEV


def do_set_debugreg(xen: Xen, vcpu: VCpu, number: int, value: int, a3: int, a4: int, a5: int) -> Steps:
    """Hypercall 8: no breakpoint on Xen's addresses or on I/O ports; reserved flags are as on hardware."""
    yield from ()
    number = _alias(number)
    if number > CONTROL:
        return -ENODEV
    if number < STATUS:
        if not addr_ok(value):
            return -EPERM
    elif value >> 32:
        return -EINVAL
    elif number == STATUS:
        value = value & ~STATUS_ZEROS | STATUS_ONES
    else:
        value = value & ~CONTROL_ZEROS | CONTROL_ONES
        on_io = any(value >> shift & 3 == BREAK_ON_IO for shift in range(16, 32, 4))
        if value & CONTROL_DETECT or (value & CONTROL_ACTIVE and on_io):
            return -EPERM
    keep(vcpu, DEBUG_OFFSET + 8 * number, U64.pack(value))
    return 0


def do_update_descriptor(xen: Xen, vcpu: VCpu, address: int, descriptor: int, a3: int, a4: int, a5: int) -> Steps:
    """Hypercall 10."""
    yield from ()
    return update_descriptor(xen, vcpu, address, descriptor)


def do_set_segment_base(xen: Xen, vcpu: VCpu, which: int, base: int, a3: int, a4: int, a5: int) -> Steps:
    """Hypercall 25."""
    yield from ()
    which &= 0xFFFFFFFF
    if which == SEGMENT_SELECTOR:
        return 0  # a selector that cannot be loaded becomes a null selector
    return 0 if which in SEGMENT_BASES and canonical(base) else -EINVAL


def do_vm_assist(xen: Xen, vcpu: VCpu, cmd: int, kind: int, a3: int, a4: int, a5: int) -> Steps:
    """Hypercall 21: assists change how a guest's instructions are emulated, and none runs here."""
    yield from ()
    if kind & 0xFFFFFFFF not in (ASSISTS_OF_TRANSLATED if vcpu.domain.external else ASSISTS):
        return -EINVAL
    cmd, kind = cmd & 0xFFFFFFFF, kind & 0xFFFFFFFF
    if cmd == 0:
        vcpu.domain.assists.add(kind)
    elif cmd == 1:
        vcpu.domain.assists.discard(kind)
    return 0 if cmd in (0, 1) else -ENOSYS
