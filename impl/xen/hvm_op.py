"""hvm_op (hypercall 34): parameters of translated guests, and the types of their memory.

Contents: the operations as Dom0 and PV guests make them; translated guests do not run here. Not here: what a device model
does with parameters. Sources: Xen arch/x86/hvm/hvm.c (do_hvm_op, hvmop_set_param, hvm_set_param), public/hvm/params.h.
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
    ENODEV,
    ENOSYS,
    EOPNOTSUPP,
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
SIZES: Final = {SET_PARAM: 16, GET_PARAM: 16, PAGETABLE_DYING: 16, GET_TIME: 8, XENTRACE: 24, GET_MEM_TYPE: 16}
NOT_HVM: Final = {FLUSH_TLBS: -EINVAL, 23: -EINVAL, 24: -EINVAL, 25: -EOPNOTSUPP}
TRACE_CLASSES, TRACE_BYTES = 0x1000, 16
PARAM: Final = Struct("<H2xIQ")  # domid index value
PARAMS: Final = 39
GONE: Final = frozenset({4, 13, *range(20, 27), 30})  # from versions before
(VIRIDIAN, TIMER_MODE, HPET, SLEEP_STATE, TSS, IO_PORTS) = (9, 10, 11, 14, 15, 19)
(TRIPLE_FAULT, SERVER_PAGES, ALTERNATE_MAPS, FIP_WIDTH, SIZED_TSS, ERROR_CAPABILITIES) = (31, 33, 35, 36, 37, 38)
ONCE: Final = frozenset({5, 6, VIRIDIAN, 32, SERVER_PAGES, ALTERNATE_MAPS, ERROR_CAPABILITIES})
AT_FIRST: Final = {TRIPLE_FAULT: 1}
EMULATES_HPET, EMULATES_POWER = 1 << 1, 1 << 2
VIRIDIAN_ALL, VIRIDIAN_BASE = 0x1FFF, 1
MOST: Final = {
    TIMER_MODE: 3,
    SLEEP_STATE: 0,
    TRIPLE_FAULT: 5,
    ALTERNATE_MAPS: 3,
    ERROR_CAPABILITIES: 0,
    IO_PORTS: 1,
    TSS: 0xFFFFFFFF,
}
TSS_SIZE, LEAST_TSS = 128, 104
FIP_WIDTHS: Final = (0, 4, 8)
SERVERS: Final = range(1, 65)
RW, RO, NO_RAM = 0, 1, 2  # as get_mem_type tells
TOLD_TYPES: Final = {RAM_RW: RW, RAM_RO: RO, GRANT_RW: RW, GRANT_RO: RO}


def do_hvm_op(xen: Xen, vcpu: VCpu, cmd: int, arg: int, a3: int, a4: int, a5: int) -> Steps:
    """Hypercall 34."""
    yield from ()
    cmd &= 0xFFFFFFFF
    if cmd in NOT_HVM:
        return NOT_HVM[cmd]
    if cmd not in SIZES:
        return -ENOSYS
    raw = read(xen, vcpu, arg, SIZES[cmd])
    if raw is None:
        return -EFAULT
    if cmd == GET_TIME:
        return 0 if write(xen, vcpu, arg, bytes(8)) else -EFAULT
    named = U16.unpack_from(raw)[0]
    if cmd == XENTRACE:
        return -EINVAL if named >= TRACE_CLASSES or U16.unpack_from(raw, 2)[0] > TRACE_BYTES else 0
    _, index, value = PARAM.unpack(raw)
    if cmd in (SET_PARAM, GET_PARAM) and index >= PARAMS:
        return -EINVAL
    target = vcpu.domain if named == DOMID_SELF else xen.domains.get(named)
    if target is None:
        return -ESRCH
    if cmd == PAGETABLE_DYING:
        return -EINVAL if target is vcpu.domain else -EOPNOTSUPP
    if cmd == GET_MEM_TYPE:
        return xen.xsm.target("hvm_param", vcpu.domain, target) or _memory_type(xen, vcpu, target, arg, value)
    if not target.external:
        return -EINVAL
    rc = xen.xsm.target("hvm_param", vcpu.domain, target)
    if rc or index in GONE:
        return rc or -EINVAL
    if cmd == GET_PARAM:
        return 0 if write(xen, vcpu, arg + 8, U64.pack(_param(target, index))) else -EFAULT
    return _set(target, index, value)


def _memory_type(xen: Xen, vcpu: VCpu, target: Domain, arg: int, gfn: int) -> int:
    if target.p2m is None:
        return -EINVAL
    told = TOLD_TYPES.get(target.p2m.lookup(gfn)[1], NO_RAM)
    return 0 if write(xen, vcpu, arg + 2, U16.pack(told)) else -EFAULT


def _param(target: Domain, index: int) -> int:
    if index == HPET and index not in target.toolstack.params:
        return int(bool(target.emulation & EMULATES_HPET))
    return target.toolstack.params.get(index, AT_FIRST.get(index, 0))


def _set(target: Domain, index: int, value: int) -> int:
    """0, or why the parameter may not have this value. Some are set once."""
    params = target.toolstack.params
    if index in ONCE and _param(target, index) not in (0, value):
        return -EEXIST
    if index == IO_PORTS and not target.emulation & EMULATES_POWER:
        return -ENODEV
    if (
        value > MOST.get(index, value)
        or (index == VIRIDIAN and (value & ~VIRIDIAN_ALL or not value & VIRIDIAN_BASE))
        or (index == FIP_WIDTH and value not in FIP_WIDTHS)
        or (index == SERVER_PAGES and value not in SERVERS)
        or (index == SIZED_TSS and value >> 32 < LEAST_TSS)
    ):
        return -EINVAL
    params[index] = value
    if index == TSS:
        params[SIZED_TSS] = TSS_SIZE << 32 | value if value else 0
    return 0
