"""hvm_op (hypercall 34): parameters of translated guests, types of their pages, and what PV guests are refused.

Contents: who may read and set which parameter, and which values; parameters are kept with the domain. Not here: what the
devices and the processor's features behind the parameters do. Sources: Xen arch/x86/hvm/hvm.c (do_hvm_op, hvm_set_param).
"""

from __future__ import annotations

from collections.abc import Generator
from struct import Struct
from typing import TYPE_CHECKING, Final

from bulkhead.impl.xen.abi import (
    DOMID_SELF,
    EEXIST,
    EFAULT,
    EINVAL,
    EMU_HPET,
    EMU_PM,
    ENODEV,
    ENOENT,
    ENOSYS,
    EOPNOTSUPP,
    EPERM,
    ESRCH,
    U16,
    U64,
)
from bulkhead.impl.xen.guest_access import read, write
from bulkhead.impl.xen.p2m import GRANT_RO, GRANT_RW, RAM_RO, RAM_RW

if TYPE_CHECKING:
    from bulkhead.impl.xen.domains import Domain, VCpu
    from bulkhead.impl.xen.machine import Xen

Steps = Generator[str, None, int]
SET_PARAM, GET_PARAM, FLUSH_TLBS, PAGETABLE_DYING, GET_TIME, XENTRACE, GET_MEM_TYPE = 0, 1, 5, 9, 10, 11, 15
HVM_SIZES: Final = {SET_PARAM: 16, GET_PARAM: 16, PAGETABLE_DYING: 16, GET_TIME: 8, XENTRACE: 32, GET_MEM_TYPE: 16}
UPCALL_VECTOR, REQUEST_EVENT, ALTERNATIVE_MAP = 23, 24, 25
NOT_HVM: Final = {FLUSH_TLBS: -EINVAL, UPCALL_VECTOR: -EINVAL, REQUEST_EVENT: -EINVAL, ALTERNATIVE_MAP: -EOPNOTSUPP}
VECTOR: Final = Struct("<IB3x")  # vcpu vector
FIRST_VECTOR: Final = 16
TRACE_CLASSES, TRACE_BYTES = 0x1000, 28
PARAM: Final = Struct("<HHIQ")  # domid pad index value
MEM_TYPE: Final = Struct("<HHHHQ")  # domid type pad pad pfn
MEM_RAM_RW, MEM_RAM_RO, MEM_MMIO = 0, 1, 2
TYPE_OF: Final = {RAM_RW: MEM_RAM_RW, GRANT_RW: MEM_RAM_RW, RAM_RO: MEM_RAM_RO, GRANT_RO: MEM_RAM_RO}

PARAMETERS: Final = 39
GONE: Final = frozenset({4, 13, *range(20, 27), 30})  # numbers that no longer mean anything
IOREQ_PAGE, BUFFERED_PAGE, VIRIDIAN, TIMER_MODE, HPET, SLEEP_STATE, TASK_STATE = 5, 6, 9, 10, 11, 14, 15
ACPI_PORTS, TRIPLE_FAULT, SERVER_PAGE, SERVER_PAGES, ALTP2M, FIP_WIDTH, TASK_STATE_SIZED, MCA_CAP = (
    19,
    31,
    32,
    33,
    *range(35, 39),
)
CALLBACK, STORE_PAGE, STORE_PORT, CONSOLE_PAGE, CONSOLE_PORT, GENERATION = 0, 1, 2, 17, 18, 34
# What a guest may set itself, and read: the rest is between toolstack and Xen.
OWN_TO_SET: Final = frozenset(
    {CALLBACK, STORE_PORT, TASK_STATE, CONSOLE_PORT, ACPI_PORTS, GENERATION, FIP_WIDTH, TASK_STATE_SIZED}
)
OWN_TO_READ: Final = OWN_TO_SET | {STORE_PAGE, CONSOLE_PAGE, ALTP2M}
SET_ONCE: Final = frozenset({IOREQ_PAGE, BUFFERED_PAGE, VIRIDIAN, SERVER_PAGE, SERVER_PAGES, ALTP2M})
VIRIDIAN_BASE, VIRIDIAN_ALL = 1, 0x1FFF
LAST_TIMER_MODE, LAST_SHUTDOWN, LAST_ALTP2M, MOST_SERVER_PAGES = 3, 5, 3, 64
REBOOT: Final = 1
AWAKE, ASLEEP = 0, 3
TSS_SIZE, TSS_USUAL, TSS_MOST = 104, 128, 104 + 32 + 8192 + 1
FIP_WIDTHS: Final = (0, 4, 8)


def _kept(domain: Domain, index: int) -> int:
    """The parameter as it was set, or as a new domain has it."""
    if index not in domain.parameters:
        return REBOOT if index == TRIPLE_FAULT else int(index == HPET and bool(domain.emulation & EMU_HPET))
    return domain.parameters[index]


def do_hvm_op(xen: Xen, vcpu: VCpu, cmd: int, arg: int, a3: int, a4: int, a5: int) -> Steps:
    """Hypercall 34."""
    yield from ()
    cmd &= 0xFFFFFFFF
    if not arg and (cmd == REQUEST_EVENT or (cmd == FLUSH_TLBS and vcpu.domain.external)):
        return 0
    if cmd == UPCALL_VECTOR and vcpu.domain.external:
        return _upcall_vector(xen, vcpu, arg)
    if cmd in NOT_HVM:
        return NOT_HVM[cmd]
    if cmd not in HVM_SIZES:
        return -ENOSYS
    raw = read(xen, vcpu, arg, HVM_SIZES[cmd])
    if raw is None:
        return -EFAULT
    if cmd == GET_TIME:
        return 0 if write(xen, vcpu, arg, bytes(8)) else -EFAULT
    named: int = U16.unpack_from(raw)[0]
    if cmd == XENTRACE:
        return -EINVAL if named >= TRACE_CLASSES or U16.unpack_from(raw, 2)[0] > TRACE_BYTES else 0
    if cmd in (SET_PARAM, GET_PARAM) and PARAM.unpack(raw)[2] >= PARAMETERS:
        return -EINVAL
    target = vcpu.domain if named == DOMID_SELF else xen.domains.get(named)
    if target is None:
        return -ESRCH
    if cmd == PAGETABLE_DYING:
        return -EINVAL if target is vcpu.domain else -EOPNOTSUPP
    if cmd == GET_MEM_TYPE:
        return xen.xsm.target("hvm_param", vcpu.domain, target) or _mem_type(xen, vcpu, target, arg, raw)
    if not target.external:
        return -EINVAL
    rc = xen.xsm.target("hvm_param", vcpu.domain, target)
    if rc:
        return rc
    _, _, index, value = PARAM.unpack(raw)
    if index in GONE:
        return -EINVAL
    if target is vcpu.domain and index not in (OWN_TO_SET if cmd == SET_PARAM else OWN_TO_READ):
        return -EPERM
    if cmd == GET_PARAM:
        return 0 if write(xen, vcpu, arg + 8, U64.pack(_told(target, index))) else -EFAULT
    if target is vcpu.domain and index in (TASK_STATE, TASK_STATE_SIZED) and not _fine(index, value):
        target.crash()
        return -EINVAL
    return _set(target, index, value)


def _upcall_vector(xen: Xen, vcpu: VCpu, arg: int) -> int:
    """HVMOP_set_evtchn_upcall_vector: by which interrupt a vCPU is told of its events; no interrupts are delivered here."""
    raw = read(xen, vcpu, arg, VECTOR.size)
    if raw is None:
        return -EFAULT
    number, vector = VECTOR.unpack(raw)
    if vector < FIRST_VECTOR:
        return -EINVAL
    return 0 if number < len(vcpu.domain.vcpus) else -ENOENT


def _mem_type(xen: Xen, vcpu: VCpu, target: Domain, arg: int, raw: bytes | bytearray) -> int:
    """HVMOP_get_mem_type; a hole is where a device model would be asked."""
    if target.p2m is None:
        return -EINVAL
    kind = TYPE_OF.get(target.p2m.lookup(MEM_TYPE.unpack(raw)[4])[1], MEM_MMIO)
    return 0 if write(xen, vcpu, arg + 2, U16.pack(kind)) else -EFAULT


def _told(domain: Domain, index: int) -> int:
    """The parameter, of which the state segment has two names: with its size, and cut to its address."""
    if index == TASK_STATE:
        return _kept(domain, TASK_STATE_SIZED) & 0xFFFFFFFF
    return _kept(domain, index)


def _set(domain: Domain, index: int, value: int) -> int:
    """HVMOP_set_param by a domain that is privileged for this one."""
    old = _kept(domain, index)
    if index in SET_ONCE and old and old != value:
        return -EEXIST
    if not _fine(index, value):
        return -EINVAL
    if index == ACPI_PORTS:
        if not domain.emulation & EMU_PM:
            return -ENODEV
        return 0 if value == old else -EINVAL if value > 1 else _keep(domain, index, value)
    if index == TASK_STATE:
        return _keep(domain, TASK_STATE_SIZED, value | TSS_USUAL << 32 if value else 0)
    if index == TASK_STATE_SIZED and value >> 32 > TSS_MOST:
        value = value & 0xFFFFFFFF | TSS_MOST << 32
    return _keep(domain, index, value)


def _keep(domain: Domain, index: int, value: int) -> int:
    domain.parameters[index] = value
    return 0


def _fine(index: int, value: int) -> bool:
    """Is this a value of the parameter? Most take any."""
    if index == VIRIDIAN:
        return bool(value & VIRIDIAN_BASE) and not value & ~VIRIDIAN_ALL
    if index == SERVER_PAGES:
        return 0 < value <= MOST_SERVER_PAGES
    if index == TASK_STATE_SIZED:
        return value >> 32 >= TSS_SIZE
    if index == SLEEP_STATE:
        return value in (AWAKE, ASLEEP)
    if index == MCA_CAP:
        return value == 0  # the processor has no such capability
    if index == FIP_WIDTH:
        return value in FIP_WIDTHS
    most = {TIMER_MODE: LAST_TIMER_MODE, TASK_STATE: 0xFFFFFFFF, TRIPLE_FAULT: LAST_SHUTDOWN, ALTP2M: LAST_ALTP2M}
    return value <= most.get(index, value)
