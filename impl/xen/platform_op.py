"""platform_op (hypercall 7): what Dom0's kernel asks of the machine.

Contents: the operations that need no hardware, on the machine of the recordings: one processor of AMD, no EFI, no
frequency control. Not here: sleep, microcode, memory types of ranges, new processors and memory. Sources: Xen
arch/x86/platform_hypercall.c.
"""

from __future__ import annotations

from collections.abc import Generator
from struct import Struct
from typing import TYPE_CHECKING, Final

from bulkhead.impl.xen.abi import EEXIST, EFAULT, EINVAL, ENOSYS, EOPNOTSUPP, ESRCH, U32
from bulkhead.impl.xen.control_struct import privileged_struct
from bulkhead.impl.xen.guest_access import read, write

if TYPE_CHECKING:
    from bulkhead.impl.xen.domains import VCpu
    from bulkhead.impl.xen.machine import Xen

Steps = Generator[str, None, int]
VERSION, SIZE, BODY = 0x03000001, 144, 8
(SET_TIME_32, ADD_TYPE, DELETE_TYPE, READ_TYPE, MICROCODE, QUIRK) = (17, 31, 32, 33, 35, 39)
(CPU_VERSION, EFI, FIRMWARE, SLEEP, FREQUENCY, IDLE_TIME, POWER_INFO, CPU_INFO) = range(48, 56)
(CPU_ONLINE, CPU_OFFLINE, CPU_ADD, MEMORY_ADD, CORE_PARKING, RESOURCES, SET_TIME, SYMBOL) = (56, 57, 58, 59, 60, 61, 62, 63)
PROCESSORS: Final = 1
TYPE_REGISTERS: Final = 8
PROCESSOR: Final = Struct("<I12sIII")  # highest present, vendor, family, model, stepping
VENDOR: Final = b"AuthenticAMD"
FAMILY_MODEL_STEPPING: Final = (15, 107, 1)
CPU_STATE: Final = Struct("<IIIII")  # asked, highest present, flags, APIC's and ACPI's number
ONLINE, INVALID, WITHOUT_NUMBERS = 1, 2, 12
DISK, BOOT_SECTOR, MONITOR, EFI_FIRMWARE, KEYBOARD = range(1, 6)
RESOURCE: Final = Struct("<IIQ")
MOST_ENTRIES, ENTRY = 3, 32
# The type of power information that is taken, and ways of core parking.
NO_POWER_INFO, PARKING = 0, (1, 2)


def do_platform_op(xen: Xen, vcpu: VCpu, arg: int, a2: int, a3: int, a4: int, a5: int) -> Steps:
    """Hypercall 7."""
    yield from ()
    raw = privileged_struct(xen, vcpu, arg, SIZE, VERSION, "platform_op")
    if isinstance(raw, int):
        return raw
    command, first, second = U32.unpack_from(raw)[0], U32.unpack_from(raw, BODY)[0], U32.unpack_from(raw, BODY + 4)[0]
    if command in ALWAYS:
        return ALWAYS[command]
    if command == CPU_VERSION:
        known = first < PROCESSORS
        told = PROCESSOR.pack(0, VENDOR if known else bytes(12), *(FAMILY_MODEL_STEPPING if known else (0, 0, 0)))
        return 0 if write(xen, vcpu, arg + BODY + 4, told) else -EFAULT
    if command == CPU_INFO:
        known = first < PROCESSORS
        told = CPU_STATE.pack(first, 0, ONLINE if known else INVALID, 0, 0)
        return 0 if write(xen, vcpu, arg + BODY, told if known else told[:WITHOUT_NUMBERS]) else -EFAULT
    if command == RESOURCES:
        return _resources(xen, vcpu, *RESOURCE.unpack_from(raw, BODY))
    if command == DELETE_TYPE:
        return _delete_type(xen, second)
    return _told(command, first, second, raw)


def _delete_type(xen: Xen, register: int) -> int:
    """del_memtype: only of a register that is in use. The firmware has left one, for the hole of the devices."""
    if register not in xen.settings.type_registers:
        return -EINVAL
    xen.settings.type_registers.discard(register)
    return 0


def _told(command: int, first: int, second: int, raw: bytes) -> int:
    """Operations without an output."""
    if command == READ_TYPE:
        return -EINVAL if first >= TYPE_REGISTERS else 0
    if command == FIRMWARE:
        absent = dict.fromkeys((DISK, BOOT_SECTOR, MONITOR), -ESRCH)
        return {**absent, EFI_FIRMWARE: -ENOSYS, KEYBOARD: 0}.get(first, -EINVAL)
    if command == POWER_INFO:
        return 0 if second == NO_POWER_INFO else -EINVAL
    if command in (CPU_ONLINE, CPU_OFFLINE):
        if first >= PROCESSORS:
            return -EINVAL
        return 0 if command == CPU_ONLINE else -EOPNOTSUPP
    if command == CORE_PARKING:
        return 0 if first in PARKING else -EINVAL
    if command == SET_TIME:
        return -EINVAL if U32.unpack_from(raw, BODY + 12)[0] else 0
    return -ENOSYS


def _resources(xen: Xen, vcpu: VCpu, count: int, processor: int, entries: int) -> int:
    """resource_op: registers of a processor; none is offered."""
    if not count:
        return 0
    if count > MOST_ENTRIES or processor >= PROCESSORS:
        return -EINVAL
    return -EFAULT if read(xen, vcpu, entries, ENTRY * count) is None else -ENOSYS


ALWAYS: Final = {
    SET_TIME_32: 0,
    ADD_TYPE: -EINVAL,
    MICROCODE: -EINVAL,
    QUIRK: -EINVAL,
    EFI: -ENOSYS,
    SLEEP: -EINVAL,
    FREQUENCY: -ENOSYS,
    IDLE_TIME: -ENOSYS,
    CPU_ADD: -EEXIST,
    MEMORY_ADD: -EINVAL,
    SYMBOL: -ENOSYS,
}
