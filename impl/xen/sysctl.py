"""sysctl (hypercall 35): what the control domain asks about the machine, its CPU pool and its domains.

Contents: lists of domains, the one pool, the scheduler, the host's topology. Not here: what would need hardware, time or a
console (`NOT_OFFERED`). The host has one processor and one node. Sources: Xen common/sysctl.c, arch/x86/sysctl.c,
common/sched/cpupool.c.
"""

from __future__ import annotations

from collections.abc import Generator
from struct import Struct
from typing import TYPE_CHECKING, Final

from bulkhead.impl.xen.abi import (
    DOMID_FIRST_RESERVED,
    EACCES,
    EBUSY,
    EFAULT,
    EINVAL,
    ENODEV,
    ENOENT,
    ENOSYS,
    EOPNOTSUPP,
    EPERM,
    ESRCH,
    U32,
    U64,
)
from bulkhead.impl.xen.domctl import info
from bulkhead.impl.xen.guest_access import read, write

if TYPE_CHECKING:
    from bulkhead.impl.xen.domains import VCpu
    from bulkhead.impl.xen.machine import Xen

Steps = Generator[str, None, int]
VERSION: Final = 0x15
SIZE, BODY = 136, 8
SCHED_ID, DOMAIN_LIST, TOPOLOGY, POOL = 4, 6, 16, 18
LIST: Final = Struct("<HHIQI")  # first pad most buffer number
CREDIT2: Final = 6
POOL_OP: Final = Struct("<IIIIIIQI")  # command pool scheduler domid cpu domains, bitmap: address, bits
DESTROY, TELL, MOVE_DOMAIN, FREE_CPUS = 2, 3, 6, 7
NO_PROCESSOR_FEATURE: Final = {20: -EOPNOTSUPP, 21: -ENODEV, 22: -EINVAL, 23: -ENODEV}
CPU_TOPOLOGY: Final = Struct("<III")  # core socket node
NOT_OFFERED: Final = {
    "the host's memory, processors, power and their features": "3, 8, 9, 10, 11, 12, 14, 17, 25, 26, 29",
    "the console, traces, keys and counters of a real machine": "1, 2, 5, 7, 15",
    "scheduling and live patches": "19, 27",
}


def do_sysctl(xen: Xen, vcpu: VCpu, arg: int, a2: int, a3: int, a4: int, a5: int) -> Steps:
    """Hypercall 35."""
    yield from ()
    raw = read(xen, vcpu, arg, SIZE)
    if raw is None:
        return -EFAULT
    command, version = U32.unpack_from(raw)[0], U32.unpack_from(raw, 4)[0]
    if version != VERSION:
        return -EACCES
    rc = xen.xsm.priv("sysctl", vcpu.domain)
    if rc:
        return rc
    if command in NO_PROCESSOR_FEATURE:
        return NO_PROCESSOR_FEATURE[command]
    if command == SCHED_ID:
        return 0 if write(xen, vcpu, arg + BODY, U32.pack(CREDIT2)) else -EFAULT
    if command == DOMAIN_LIST:
        return _list(xen, vcpu, arg, *LIST.unpack_from(raw, BODY))
    if command == TOPOLOGY:
        return _topology(xen, vcpu, arg, U32.unpack_from(raw, BODY)[0], U64.unpack_from(raw, BODY + 8)[0])
    if command == POOL:
        return _pool(xen, vcpu, arg, *POOL_OP.unpack_from(raw, BODY))
    return -ENOSYS


def _list(xen: Xen, vcpu: VCpu, arg: int, first: int, pad: int, most: int, buffer: int, number: int) -> int:
    """getdomaininfolist: the domains from the first id on, dying ones too; none is told if one cannot be."""
    told = 0
    for domid in sorted(each for each in xen.domains if first <= each < DOMID_FIRST_RESERVED):
        if told == most:
            break
        domain = xen.domains[domid]
        if xen.xsm.xs_priv("getdomaininfo", vcpu.domain, domain):
            continue
        record = info(domain, vcpu.domain)
        if not write(xen, vcpu, buffer + told * len(record), record):
            return -EFAULT
        told += 1
    return 0 if write(xen, vcpu, arg + BODY + 16, U32.pack(told)) else -EFAULT


def _topology(xen: Xen, vcpu: VCpu, arg: int, room: int, at: int) -> int:
    """cputopoinfo of the one processor; without a buffer only how many there are."""
    if at and room and not write(xen, vcpu, at, CPU_TOPOLOGY.pack(0xFFFFFFFF, 0, 0)):
        return -EFAULT
    return 0 if write(xen, vcpu, arg + BODY, U32.pack(min(room, 1) if at else 1)) else -EFAULT


def _pool(
    xen: Xen,
    vcpu: VCpu,
    arg: int,
    command: int,
    pool: int,
    scheduler: int,
    dom: int,
    cpu: int,
    many: int,
    at: int,
    bits: int,
) -> int:
    """cpupool_op on a machine with one pool, which has all domains."""
    if command == DESTROY:
        return -ENOENT if pool else -EBUSY
    if command == MOVE_DOMAIN:
        target = xen.domains.get(dom & 0xFFFF)
        if target is None:
            return -ESRCH
        return -EPERM if target is vcpu.domain else -ENOENT if pool else 0
    if command == FREE_CPUS:
        return _bitmap(xen, vcpu, at, bits, 0)
    if command != TELL:
        return -ENOSYS
    if pool:
        return -ENOENT
    told = POOL_OP.pack(command, 0, CREDIT2, dom, cpu, len(xen.domains), at, bits)
    return _bitmap(xen, vcpu, at, bits, 1) or (0 if write(xen, vcpu, arg + BODY, told) else -EFAULT)


def _bitmap(xen: Xen, vcpu: VCpu, at: int, bits: int, value: int) -> int:
    """As many bytes as the caller has room for."""
    size = (bits + 7) // 8
    return 0 if write(xen, vcpu, at, value.to_bytes(max(size, 1), "little")[:size]) else -EFAULT
