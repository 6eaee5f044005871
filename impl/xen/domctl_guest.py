"""domctls about a domain as a whole: what a toolstack notes, asks and switches on, beyond its life and its memory.

Contents: their arguments and answers on Debian's Xen, which has neither paging nor sharing nor forks of guests, nor Intel's
extensions. Not here: contents that only a processor has (saved state of translated guests, CPUID leaves). Sources: Xen
common/domctl.c, arch/x86/domctl.c, arch/x86/hvm/save.c, common/vm_event.c, common/monitor.c, arch/x86/mm/paging.c.
"""

from __future__ import annotations

from array import array
from struct import Struct
from typing import TYPE_CHECKING, Final

from bulkhead.impl.xen.abi import (
    E2BIG,
    EEXIST,
    EFAULT,
    EINVAL,
    ENOBUFS,
    ENODATA,
    ENODEV,
    ENOENT,
    ENOMEM,
    ENOSPC,
    ENOSYS,
    ENXIO,
    EOPNOTSUPP,
    EPERM,
    ESRCH,
    NR_VIRQS,
    PAGE_SHIFT,
    PER_VCPU_VIRQS,
    U32,
    U64,
)
from bulkhead.impl.xen.domains import NOT_STOPPED
from bulkhead.impl.xen.guest_access import read, write
from bulkhead.impl.xen.p2m import BROKEN, RAM_TYPES

if TYPE_CHECKING:
    from bulkhead.impl.xen.domains import Domain, VCpu
    from bulkhead.impl.xen.machine import Xen

BODY: Final = 16
SAVED: Final = Struct("<I4xQ")  # size, address
SAVED_SIZE: Final = 4568  # at most, of a guest with one vCPU
SAVE_HEADER: Final = 1  # type of the first record
RECORD: Final = Struct("<IIQQ")  # type instance size address
SAVE_CPU, SAVE_TYPES = 2, 21
VM_EVENT: Final = Struct("<II")  # command, ring
VM_EVENT_VERSION: Final = 7
ENABLE, DISABLE, RESUME, VERSION = range(4)
MONITOR_RING: Final = 2
MONITOR_RING_FRAME: Final = 28  # the parameter
MONITOR: Final = Struct("<IIII")  # command event, which register (and flags), pad
(ON, OFF, CAPABILITIES, EACH_REPETITION, CONTROL_REGISTERS) = range(5)
MONITORED: Final = 0x1F7B  # on AMD's processors
NOT_AFTER_ALL: Final = 8  # interrupts: told as possible, and refused
LAST_EVENT, REGISTER_EVENT, MSR_EVENT, REGISTERS, REGISTER_FLAGS = 31, 0, 1, 4, 24
VNUMA: Final = Struct("<IIIIQQQQ")  # nodes ranges vcpus pad, addresses of distances, nodes of vCPUs, real nodes, ranges
VNUMA_RANGE, VNUMA_FLAGS, REAL_NODES = 24, 16, 64
ONE_PAGE: Final = 4096
LAST_ALLOCATION: Final = 9  # the last command of psr_alloc
POLICY: Final = Struct("<IIQQ")  # leaves MSRs, their addresses
POLICY_ERROR: Final = Struct("<III")
MOST_LEAVES, MOST_POLICY_MSRS, LEAVES = 120, 2, 51
PAGE_MASK: Final = (1 << PAGE_SHIFT) - 1


def set_debugging(xen: Xen, vcpu: VCpu, domain: Domain, arg: int, body: bytes) -> int:
    """XEN_DOMCTL_setdebugging: getdomaininfo tells it."""
    if domain is vcpu.domain:
        return -EINVAL
    domain.toolstack.debugged = bool(body[0])
    return 0


def set_time_offset(xen: Xen, vcpu: VCpu, domain: Domain, arg: int, body: bytes) -> int:
    """XEN_DOMCTL_settimeoffset: of a clock that does not run here."""
    return 0


def resume(xen: Xen, vcpu: VCpu, domain: Domain, arg: int, body: bytes) -> int:
    """XEN_DOMCTL_resumedomain: one that has stopped goes on."""
    if domain is vcpu.domain:
        return -EINVAL
    domain.crashed = domain.toolstack.stopped_asleep = False
    domain.stop_code = NOT_STOPPED
    return 0


def subscribe(xen: Xen, vcpu: VCpu, domain: Domain, arg: int, body: bytes) -> int:
    """XEN_DOMCTL_subscribe: a port of the domain, rung when it suspends; whether there is one is seen then."""
    domain.toolstack.suspend_port = U32.unpack_from(body)[0]
    return 0


def get_saved(xen: Xen, vcpu: VCpu, domain: Domain, arg: int, body: bytes) -> int:
    """XEN_DOMCTL_gethvmcontext: the size that a buffer needs. The contents are a processor's: -ENOSYS."""
    size, at = SAVED.unpack_from(body)
    if not domain.external:
        return -EINVAL
    if not at:
        return 0 if write(xen, vcpu, arg + BODY, U32.pack(SAVED_SIZE)) else -EFAULT
    return -ENOSPC if size < SAVED_SIZE else -ENOSYS


def set_saved(xen: Xen, vcpu: VCpu, domain: Domain, arg: int, body: bytes) -> int:
    """XEN_DOMCTL_sethvmcontext: it begins with a header. States themselves are not taken: -ENOSYS."""
    size, at = SAVED.unpack_from(body)
    if not domain.external:
        return -EINVAL
    raw = read(xen, vcpu, at, size)
    if raw is None:
        return -EFAULT
    return -ENOSYS if raw[:2] == SAVE_HEADER.to_bytes(2, "little") else -ENODATA


def get_record(xen: Xen, vcpu: VCpu, domain: Domain, arg: int, body: bytes) -> int:
    """XEN_DOMCTL_gethvmcontext_partial: of a vCPU that was never set up there is no record of the processor."""
    kind, instance, _, _ = RECORD.unpack_from(body)
    if not domain.external or kind <= SAVE_HEADER or kind >= SAVE_TYPES:
        return -EINVAL
    if kind != SAVE_CPU:
        return -ENOSYS
    if instance >= len(domain.vcpus):
        return -ENOENT
    return -ENODATA if domain.vcpus[instance].context is None else -ENOSYS


def set_address_size(xen: Xen, vcpu: VCpu, domain: Domain, arg: int, body: bytes) -> int:
    """XEN_DOMCTL_set_address_size: all PV guests have 64 bits."""
    size = U32.unpack_from(body)[0]
    if domain.external or size == 32:
        return -EOPNOTSUPP
    return 0 if size == 64 else -EINVAL


def vm_event(xen: Xen, vcpu: VCpu, domain: Domain | None, arg: int, body: bytes) -> int:
    """XEN_DOMCTL_vm_event_op: of its rings Debian's Xen has that of the monitor, which no guest's builder sets up here.

    Its version is told to anybody.
    """
    command, ring = VM_EVENT.unpack_from(body)
    if command == VERSION:
        return 0 if write(xen, vcpu, arg + BODY + 8, U32.pack(VM_EVENT_VERSION)) else -EFAULT
    if domain is None:
        return -ESRCH
    rc = xen.xsm.priv("vm_event_control", vcpu.domain)
    if rc:
        return rc
    if domain is vcpu.domain or domain.is_dying or not domain.vcpus:
        return -EINVAL
    if ring != MONITOR_RING:
        return -ENOSYS
    if command == ENABLE:
        return _enable_monitor(domain)
    return {DISABLE: -EINVAL, RESUME: -ENODEV}.get(command, -ENOSYS)


def _enable_monitor(domain: Domain) -> int:
    """The ring lies at the frame that a parameter of the guest names, if it does; rings that are there are not offered."""
    if domain.p2m is None:
        return -EOPNOTSUPP
    domain.toolstack.msr_events = True  # room for them is made first, and stays
    at = domain.parameters.get(MONITOR_RING_FRAME, 0)
    if not at:
        return -EOPNOTSUPP
    domain.toolstack.listened = True  # so does room for its vCPUs, once there is a name
    frame, kind = domain.p2m.lookup(at)
    return -EINVAL if frame is None or kind not in RAM_TYPES else -ENOSYS


def monitor(xen: Xen, vcpu: VCpu, domain: Domain, arg: int, body: bytes) -> int:
    """XEN_DOMCTL_monitor_op: events of a translated guest, each switched on or off once; nobody listens to them."""
    command, event, index, pad = MONITOR.unpack_from(body)
    if domain is vcpu.domain:
        return -EPERM
    able = MONITORED if domain.external else 0
    if command == CAPABILITIES:
        return 0 if write(xen, vcpu, arg + BODY + 4, U32.pack(able)) else -EFAULT
    if command in (ON, OFF):
        if event > LAST_EVENT:
            return -EINVAL
        return _switch(domain, command, event, index, pad) if able >> event & 1 and event != NOT_AFTER_ALL else -EOPNOTSUPP
    if command == EACH_REPETITION:
        return 0 if domain.toolstack.listened else -EINVAL
    return 0 if command == CONTROL_REGISTERS else -EOPNOTSUPP


def _switch(domain: Domain, command: int, event: int, index: int, pad: int) -> int:
    if event == REGISTER_EVENT and (pad or index >> REGISTER_FLAGS):
        return -EINVAL
    index = index & 0xFF if event == REGISTER_EVENT else index if event == MSR_EVENT else 0
    if event == REGISTER_EVENT and index >= REGISTERS:
        return -EINVAL
    if event == MSR_EVENT and command == ON and not domain.toolstack.msr_events:
        return -ENXIO
    which = (event, index)
    if (which in domain.toolstack.monitored) == (command == ON):
        return -EEXIST
    (domain.toolstack.monitored.add if command == ON else domain.toolstack.monitored.discard)(which)
    return 0


def set_access_required(xen: Xen, vcpu: VCpu, domain: Domain, arg: int, body: bytes) -> int:
    """XEN_DOMCTL_set_access_required: for listeners, of which there is none."""
    return -EPERM if domain is vcpu.domain else 0


def set_virq_handler(xen: Xen, vcpu: VCpu, domain: Domain, arg: int, body: bytes) -> int:
    """XEN_DOMCTL_set_virq_handler: who is told of a global virtual interrupt from now on."""
    virq = U32.unpack_from(body)[0]
    if virq >= NR_VIRQS or virq in PER_VCPU_VIRQS or domain.is_dying:
        return -EINVAL
    xen.virq_handlers[virq] = domain
    return 0


def set_broken_page(xen: Xen, vcpu: VCpu, domain: Domain, arg: int, body: bytes) -> int:
    """XEN_DOMCTL_set_broken_page_p2m: memory of a translated guest that it cannot use any more."""
    gfn = U64.unpack_from(body)[0]
    if domain.p2m is None:
        return -EINVAL
    frame, kind = domain.p2m.lookup(gfn)
    if frame is None or kind not in RAM_TYPES:
        return -EINVAL
    domain.p2m.set(gfn, frame, BROKEN)
    return 0


def set_vnuma(xen: Xen, vcpu: VCpu, domain: Domain, arg: int, body: bytes) -> int:
    """XEN_DOMCTL_setvnumainfo: the nodes that the guest believes in, which XENMEM_get_vnumainfo tells."""
    nodes, ranges, vcpus, pad, *places = VNUMA.unpack_from(body)
    if not nodes or vcpus != domain.max_vcpus or pad:
        return -EINVAL
    if nodes * nodes * 4 > ONE_PAGE or ranges * VNUMA_RANGE > ONE_PAGE:
        return -EINVAL
    distances = read(xen, vcpu, places[0], 4 * nodes * nodes)
    memory = read(xen, vcpu, places[3], VNUMA_RANGE * ranges)
    of_vcpus = read(xen, vcpu, places[1], 4 * vcpus)
    if distances is None or memory is None or of_vcpus is None:
        return -EFAULT
    if any(node >= nodes for node in array("I", of_vcpus)):
        return -E2BIG
    rc = _real_nodes(xen, vcpu, places[2], nodes)
    if rc:
        return rc
    if any(memory[at : at + 4] != bytes(4) for at in range(VNUMA_FLAGS, len(memory), VNUMA_RANGE)):
        return -EINVAL
    domain.toolstack.vnuma = (nodes, distances, of_vcpus, memory)
    return 0


def _real_nodes(xen: Xen, vcpu: VCpu, at: int, nodes: int) -> int:
    """The real node of each virtual one, read and checked one by one."""
    for i in range(nodes):
        raw = read(xen, vcpu, at + 4 * i, 4)
        if raw is None:
            return -EFAULT
        if U32.unpack(raw)[0] >= REAL_NODES:
            return -E2BIG
    return 0


def cache_monitor(xen: Xen, vcpu: VCpu, domain: Domain, arg: int, body: bytes) -> int:
    """XEN_DOMCTL_psr_cmt_op: it needs Intel's processors."""
    return -ENODEV


def cache_allocation(xen: Xen, vcpu: VCpu, domain: Domain, arg: int, body: bytes) -> int:
    """XEN_DOMCTL_psr_alloc: so do all its commands."""
    return -ENODEV if U32.unpack_from(body)[0] <= LAST_ALLOCATION else -EOPNOTSUPP


def soft_reset(xen: Xen, vcpu: VCpu, domain: Domain, arg: int, body: bytes) -> int:
    """XEN_DOMCTL_soft_reset: only of a translated guest that has stopped, and that is not offered."""
    return -ENOSYS if domain.external and domain.crashed else -EINVAL


def get_cpu_policy(xen: Xen, vcpu: VCpu, domain: Domain, arg: int, body: bytes) -> int:
    """XEN_DOMCTL_get_cpu_policy: how many leaves there may be. Their contents are a processor's: -ENOSYS."""
    leaves, msrs, leaves_at, msrs_at = POLICY.unpack_from(body)
    if not leaves_at and not msrs_at:
        return 0 if write(xen, vcpu, arg + BODY, U32.pack(MOST_LEAVES) + U32.pack(MOST_POLICY_MSRS)) else -EFAULT
    if leaves and read(xen, vcpu, leaves_at, 4) is None:
        return -EFAULT
    return -ENOBUFS if leaves < LEAVES or msrs < MOST_POLICY_MSRS else -ENOSYS


def set_cpu_policy(xen: Xen, vcpu: VCpu, domain: Domain, arg: int, body: bytes) -> int:
    """XEN_DOMCTL_set_cpu_policy: before a domain runs. No leaf can be checked here: -ENOSYS for any."""
    if domain is vcpu.domain:
        return -EINVAL
    if domain.creation_finished:
        return -EEXIST
    leaves, msrs, _, _ = POLICY.unpack_from(body)
    if leaves <= MOST_LEAVES and msrs <= MOST_POLICY_MSRS:
        return -ENOSYS if leaves or msrs else 0
    nowhere = POLICY_ERROR.pack(0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
    return -E2BIG if write(xen, vcpu, arg + BODY + POLICY.size, nowhere) else -EFAULT


def trace(xen: Xen, vcpu: VCpu, domain: Domain, arg: int, body: bytes) -> int:
    """XEN_DOMCTL_vmtrace_op: no domain can be made with a buffer for it."""
    return -EINVAL


def get_pool(xen: Xen, vcpu: VCpu, domain: Domain, arg: int, body: bytes) -> int:
    """XEN_DOMCTL_get_paging_mempool_size, in bytes."""
    if domain.p2m is None:
        return -EOPNOTSUPP
    return 0 if write(xen, vcpu, arg + BODY, U64.pack(domain.p2m.pool << PAGE_SHIFT)) else -EFAULT


def set_pool(xen: Xen, vcpu: VCpu, domain: Domain, arg: int, body: bytes) -> int:
    """XEN_DOMCTL_set_paging_mempool_size: bytes in whole pages."""
    size = U64.unpack_from(body)[0]
    if domain.p2m is None:
        return -EOPNOTSUPP
    if size & PAGE_MASK or size >> PAGE_SHIFT >> 32:
        return -EINVAL
    return 0 if domain.p2m.resize_pool(size >> PAGE_SHIFT) else -ENOMEM
