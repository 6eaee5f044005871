"""sysctl (hypercall 35): what a control domain asks and sets of the machine.

Contents: the operations, on the machine of the recordings: one processor of AMD, one node, one pool of processors with the
credit2 scheduler, no frequency control. Not here: Xen's messages and buffers of traces, and contents that only a processor
has (CPUID leaves): -ENOSYS where they are asked for. Sources: Xen common/sysctl.c, arch/x86/sysctl.c,
common/sched/cpupool.c, common/sched/credit2.c, drivers/acpi/pmstat.c.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from struct import Struct
from typing import TYPE_CHECKING, Final

from bulkhead.impl.xen.abi import (
    DOMID_FIRST_RESERVED,
    E2BIG,
    EACCES,
    EBUSY,
    EEXIST,
    EFAULT,
    EINVAL,
    ENOBUFS,
    ENODEV,
    ENOENT,
    ENOSYS,
    EOPNOTSUPP,
    EPERM,
    ESRCH,
    PAGE_SHIFT,
    U32,
    U64,
)
from bulkhead.impl.xen.control_struct import bitmap_bytes, privileged_struct
from bulkhead.impl.xen.domain_info import domain_info
from bulkhead.impl.xen.domctl_guest import MOST_LEAVES, MOST_POLICY_MSRS
from bulkhead.impl.xen.guest_access import handle_okay, read, write

if TYPE_CHECKING:
    from bulkhead.impl.xen.domains import VCpu
    from bulkhead.impl.xen.machine import Xen

Steps = Generator[str, None, int]
VERSION, SIZE, BODY = 0x15, 136, 8
CREDIT2: Final = 6
CONSOLE: Final = Struct("<BBBBIQI")
TRACES: Final = Struct("<I4xQI4xI4xQI")  # command, bitmap (address, bits), events, frame, size
GET_INFO, SET_CPU_MASK, SET_EVENTS, SET_SIZE, ENABLE, DISABLE = range(6)
PHYSICAL: Final = Struct("<IIIIIIIIIIQQQQQ")
PROCESSORS, NODES, NODES_MOST, KILOHERTZ, ABILITIES, HAP_ABILITIES = 1, 1, 64, 2_600_000, 771, 8
DOMAIN_LIST: Final = Struct("<HHIQI")
KEYS: Final = Struct("<QI")
CPU_INFO: Final = Struct("<I4xQI")
HEAP: Final = Struct("<IIiIQ")
POWER: Final = Struct("<II")  # kind processor
HOTPLUG: Final = Struct("<II")  # processor operation
BRING_UP, TAKE_DOWN = 0, 1
POWER_KINDS, IDLE_KINDS, IDLE_STATES = 0xF0, 0x20, 2
COUNT_IDLE, RESET_IDLE = 0x21, 0x23
SCHEDULER_SMT, GET_STATE, SET_STATE, TURBO = 0x21, 0x22, 0x23, (0x26, 0x27)
FREQUENCY: Final = 0x10
PAGES: Final = Struct("<IIIIQ")  # command start end, address
TAKES_OUT, QUERY, INVALID_STATUS = (1, 2), 3, b"\x01"
TOPOLOGY: Final = Struct("<I4xQ")
ONE_CORE: Final = U32.pack(0xFFFFFFFF) + bytes(8)
NUMA: Final = Struct("<I4xQQ")
LOCAL_DISTANCE: Final = 10
POOL: Final = Struct("<IIIIIIQI")  # operation pool scheduler domain processor domains, bitmap
(CREATE, DESTROY, INFO, ADD, REMOVE, MOVE, FREE) = range(1, 8)
SCHEDULER: Final = Struct("<III4xI")  # pool scheduler command rate_limit
SHORTEST_LIMIT, LONGEST_LIMIT = 100, 500_000
DEVICES: Final = Struct("<I4xQQ")
BRIDGE, NO_NODE, NO_DEVICE = bytes(4), 0xFFFFFFFF, 0xFFFFFFFE
FEATURES: Final = Struct("<IIQ")
FEATURE_WORDS, LAST_FEATURES = 19, 5
LEVELLING: Final = 414
PATCHES: Final = Struct("<II")  # operation pad
PATCH_LIST: Final = Struct("<8xIIII8xQQQQQ")  # version, index, number, pad; sizes, and five addresses
PATCHES_VERSION: Final = 1
LIST_PATCHES, LAST_PATCH_OPERATION, MOST_PATCHES = 2, 3, 1024
POLICY: Final = Struct("<IIIIQQ")  # which leaves MSRs pad, addresses
LEAVES_OF: Final = (29, 51, 53, 53, 51, 51)
# What is not here: the reason, and the operations (or that part of them).
NOT_OFFERED: Final = {
    "Xen's messages, buffers of traces, counters of other builds": "1 (empty), 2.3, 5, 15",
    "contents of a processor: its features and leaves": "26 and 29, with room for them",
    "more pools of processors; pages taken out of use; live patches": "18.1, 14.1, 14.2, 27",
}
Operation = Callable[["Xen", "VCpu", int, bytes], int]


def do_sysctl(xen: Xen, vcpu: VCpu, arg: int, a2: int, a3: int, a4: int, a5: int) -> Steps:
    """Hypercall 35."""
    yield from ()
    raw = privileged_struct(xen, vcpu, arg, SIZE, VERSION, "sysctl")
    if isinstance(raw, int):
        return raw
    operation = OPERATIONS.get(U32.unpack_from(raw)[0])
    return -ENOSYS if operation is None else operation(xen, vcpu, arg + BODY, raw[BODY:])


def _tell(xen: Xen, vcpu: VCpu, at: int, told: bytes) -> int:
    return 0 if write(xen, vcpu, at, told) else -EFAULT


def _console(xen: Xen, vcpu: VCpu, at: int, body: bytes) -> int:
    """Nothing is written there."""
    *_, buffer, count = CONSOLE.unpack_from(body)
    return -EFAULT if count and read(xen, vcpu, buffer, 1) is None else _tell(xen, vcpu, at + 16, U32.pack(0))


def _traces(xen: Xen, vcpu: VCpu, at: int, body: bytes) -> int:
    """There are no buffers."""
    command, mask_at, bits, events, _, size = TRACES.unpack_from(body)
    if command == GET_INFO:
        told = TRACES.pack(command, mask_at, bits, xen.settings.trace_mask, 0, 0)
        return _tell(xen, vcpu, at, told)
    if command == SET_CPU_MASK:
        return -EFAULT if read(xen, vcpu, mask_at, min(bitmap_bytes(bits), 1)) is None else 0
    if command == SET_EVENTS:
        xen.settings.trace_mask = events
        return 0
    if command == SET_SIZE and size:
        return -ENOSYS
    return 0 if command == DISABLE else -EINVAL


def _physical(xen: Xen, vcpu: VCpu, at: int, body: bytes) -> int:
    frames = xen.frames
    able = ABILITIES | (HAP_ABILITIES if xen.options.hap else 0)
    counts = (1, 1, PROCESSORS, 0, 1, NODES_MOST - 1, KILOHERTZ, able, 0, 0)
    told = PHYSICAL.pack(*counts, frames.nframes, frames.free_count, 0, frames.claimed, frames.nframes - 1)
    return _tell(xen, vcpu, at, told)


def _scheduler_id(xen: Xen, vcpu: VCpu, at: int, body: bytes) -> int:
    return _tell(xen, vcpu, at, U32.pack(CREDIT2))


def _domains(xen: Xen, vcpu: VCpu, at: int, body: bytes) -> int:
    """getdomaininfolist: as many as there is room for, from an id on; how many is not told after a fault."""
    first, _, most, buffer, _ = DOMAIN_LIST.unpack_from(body)
    told = 0
    for domid in sorted(each for each in xen.domains if first <= each < DOMID_FIRST_RESERVED):
        if told == most:
            break
        if xen.xsm.xs_priv("getdomaininfo", vcpu.domain, xen.domains[domid]):
            continue
        info = domain_info(xen.domains[domid], vcpu.domain)
        if not write(xen, vcpu, buffer + told * len(info), info):
            return -EFAULT
        told += 1
    return _tell(xen, vcpu, at + 16, U32.pack(told))


def _keys(xen: Xen, vcpu: VCpu, at: int, body: bytes) -> int:
    """Keys for Xen's console, which nobody reads."""
    keys, count = KEYS.unpack_from(body)
    return -EFAULT if read(xen, vcpu, keys, count) is None else 0


def _processors(xen: Xen, vcpu: VCpu, at: int, body: bytes) -> int:
    most, buffer, _ = CPU_INFO.unpack_from(body)
    told = min(most, PROCESSORS)
    if not write(xen, vcpu, buffer, bytes(8 * told)):
        return -EFAULT
    return _tell(xen, vcpu, at + 16, U32.pack(told))


def _heap(xen: Xen, vcpu: VCpu, at: int, body: bytes) -> int:
    """Free memory of the one node, between two widths of addresses."""
    least, most, node, _, _ = HEAP.unpack_from(body)
    first = 1 << max(least - PAGE_SHIFT, 0) if least else 0
    last = 1 << max(most - PAGE_SHIFT, 0) if most else xen.frames.nframes
    some = node in (-1, 0) and first < xen.frames.nframes and last > xen.frames.reserved
    return _tell(xen, vcpu, at + 16, U64.pack(xen.frames.free_count << PAGE_SHIFT if some else 0))


def _power_state(xen: Xen, vcpu: VCpu, at: int, body: bytes) -> int:
    """get_pmstat: two idle states, no frequencies."""
    kind, processor = POWER.unpack_from(body)
    if processor >= PROCESSORS:
        return -EINVAL
    if kind & POWER_KINDS != IDLE_KINDS:
        return -ENODEV
    if not COUNT_IDLE <= kind <= RESET_IDLE:
        return -ENOSYS
    return 0 if kind == RESET_IDLE else _tell(xen, vcpu, at + 8, U32.pack(IDLE_STATES))


def _hotplug(xen: Xen, vcpu: VCpu, at: int, body: bytes) -> int:
    """The one processor is there already, and cannot go."""
    processor, operation = HOTPLUG.unpack_from(body)
    if operation == BRING_UP and processor < PROCESSORS:
        return -EEXIST
    return -EINVAL if operation in (BRING_UP, TAKE_DOWN) else -EOPNOTSUPP


def _power(xen: Xen, vcpu: VCpu, at: int, body: bytes) -> int:
    """pm_op: the deepest idle state; no driver controls frequencies."""
    command, which = POWER.unpack_from(body)
    states = xen.settings.sleep_states
    if command in (GET_STATE, SET_STATE):
        if which >= len(states):
            return -EINVAL
        if command == GET_STATE:
            return _tell(xen, vcpu, at + 8, U32.pack(states[which]))
        states[which] = U32.unpack_from(body, 8)[0]
        return 0
    if which >= PROCESSORS or command & POWER_KINDS == FREQUENCY:
        return -EINVAL
    if command in TURBO:
        return -EACCES
    if command != SCHEDULER_SMT:
        return -ENOSYS
    before, xen.settings.saves_power = xen.settings.saves_power, bool(U32.unpack_from(body, 8)[0])
    return _tell(xen, vcpu, at + 8, U32.pack(before))


def _pages(xen: Xen, vcpu: VCpu, at: int, body: bytes) -> int:
    """page_offline_op: all memory is in order. Taking pages out of use is not offered."""
    command, start, end, _, status = PAGES.unpack_from(body)
    if end < start:
        return -EINVAL
    if command in TAKES_OUT:
        return -ENOSYS
    fine = command == QUERY and end < xen.frames.nframes
    if not write(xen, vcpu, status, bytes(4 * (end - start + 1)) if fine else INVALID_STATUS * 4):
        return -EFAULT
    return 0 if fine else -EINVAL


def _topology(xen: Xen, vcpu: VCpu, at: int, body: bytes) -> int:
    count, buffer = TOPOLOGY.unpack_from(body)
    if buffer and count and not write(xen, vcpu, buffer, ONE_CORE):
        return -EFAULT
    return _tell(xen, vcpu, at, U32.pack(min(count, PROCESSORS) if buffer else PROCESSORS))


def _numa(xen: Xen, vcpu: VCpu, at: int, body: bytes) -> int:
    count, memory, distances = NUMA.unpack_from(body)
    sizes = U64.pack(xen.frames.nframes << PAGE_SHIFT) + U64.pack(xen.frames.free_count << PAGE_SHIFT)
    if count and memory and not write(xen, vcpu, memory, sizes):
        return -EFAULT
    if count and distances and not write(xen, vcpu, distances, U32.pack(LOCAL_DISTANCE)):
        return -EFAULT
    return _tell(xen, vcpu, at, U32.pack(min(count, NODES) if memory or distances else NODES))


def _pool(xen: Xen, vcpu: VCpu, at: int, body: bytes) -> int:
    """cpupool_op: the one pool has the one processor; more are not offered."""
    operation, pool, _, domid, processor, _, bitmap, bits = POOL.unpack_from(body)
    size = bitmap_bytes(bits)
    if operation == CREATE or not CREATE <= operation <= FREE:
        return -ENOSYS
    if operation == FREE:
        return 0 if write(xen, vcpu, bitmap, bytes(size)) else -EFAULT
    if operation == MOVE:
        return _move(xen, vcpu, pool, domid)
    if pool:
        return -ENOENT
    if operation in (ADD, REMOVE) and processor >= PROCESSORS:
        return -EINVAL
    if operation == INFO:
        if not write(xen, vcpu, bitmap, (1).to_bytes(size, "little") if size else b""):
            return -EFAULT
        told = POOL.pack(operation, 0, CREDIT2, domid, processor, len(xen.domains), bitmap, bits)
        return _tell(xen, vcpu, at, told)
    return {DESTROY: -EBUSY, ADD: -ENODEV, REMOVE: -EINVAL}[operation]


def _move(xen: Xen, vcpu: VCpu, pool: int, domid: int) -> int:
    domain = xen.domains.get(domid & 0xFFFF)
    if domain is None:
        return -ESRCH
    if domain is vcpu.domain:
        return -EPERM
    return -ENOENT if pool else 0


def _scheduler(xen: Xen, vcpu: VCpu, at: int, body: bytes) -> int:
    pool, which, command, limit = SCHEDULER.unpack_from(body)
    if command > 1:
        return -EINVAL
    if pool:
        return -ESRCH
    if which != CREDIT2:
        return -EINVAL
    if command == 1:
        return _tell(xen, vcpu, at + 16, U32.pack(xen.settings.rate_limit))
    if limit and not SHORTEST_LIMIT <= limit <= LONGEST_LIMIT:
        return -EINVAL
    xen.settings.rate_limit = limit
    return 0


def _coverage(xen: Xen, vcpu: VCpu, at: int, body: bytes) -> int:
    return -EOPNOTSUPP


def _cache_monitor(xen: Xen, vcpu: VCpu, at: int, body: bytes) -> int:
    return -ENODEV


def _cache_allocation(xen: Xen, vcpu: VCpu, at: int, body: bytes) -> int:
    return -ENODEV if U32.unpack_from(body)[0] <= 2 else -EOPNOTSUPP


def _device_nodes(xen: Xen, vcpu: VCpu, at: int, body: bytes) -> int:
    """pcitopoinfo: the host's bridge is the only device, and of no node."""
    count, devices, nodes = DEVICES.unpack_from(body)
    if not devices or not nodes:
        return -EINVAL
    for i in range(count):
        raw = read(xen, vcpu, devices + 4 * i, 4)
        if raw is None or not write(xen, vcpu, nodes + 4 * i, U32.pack(NO_NODE if raw == BRIDGE else NO_DEVICE)):
            return -EFAULT
    return 0


def _levelling(xen: Xen, vcpu: VCpu, at: int, body: bytes) -> int:
    return _tell(xen, vcpu, at, U32.pack(LEVELLING))


def _features(xen: Xen, vcpu: VCpu, at: int, body: bytes) -> int:
    which, words, buffer = FEATURES.unpack_from(body)
    if not buffer:
        return _tell(xen, vcpu, at + 4, U32.pack(FEATURE_WORDS))
    if which > LAST_FEATURES:
        return -EINVAL
    if words and read(xen, vcpu, buffer, 4) is None:
        return -EFAULT
    return -ENOBUFS if words < FEATURE_WORDS else -ENOSYS


def _patches(xen: Xen, vcpu: VCpu, at: int, body: bytes) -> int:
    """livepatch_op: there is no patch, so that the list is empty whatever room there is."""
    operation, pad = PATCHES.unpack_from(body)
    if pad:
        return -EINVAL
    if operation > LAST_PATCH_OPERATION:
        return -EOPNOTSUPP
    if operation != LIST_PATCHES:
        return -EINVAL
    _, _, count, pad, status, _, lengths, _, other_lengths = PATCH_LIST.unpack_from(body)
    if count > MOST_PATCHES:
        return -E2BIG
    if pad or (count and not all(handle_okay(vcpu, each, count, 4) for each in (status, lengths, other_lengths))):
        return -EINVAL
    told = U32.pack(PATCHES_VERSION), U32.pack(0) + bytes(4) + bytes(8)  # version; number, pad, sizes
    return _tell(xen, vcpu, at + 8, told[0]) or _tell(xen, vcpu, at + 16, told[1])


def _policy(xen: Xen, vcpu: VCpu, at: int, body: bytes) -> int:
    which, leaves, msrs, _, leaves_at, msrs_at = POLICY.unpack_from(body)
    if which >= len(LEAVES_OF):
        return -EINVAL
    if not leaves_at and not msrs_at:
        return _tell(xen, vcpu, at + 4, U32.pack(MOST_LEAVES) + U32.pack(MOST_POLICY_MSRS))
    if leaves and read(xen, vcpu, leaves_at, 4) is None:
        return -EFAULT
    return -ENOBUFS if leaves < LEAVES_OF[which] or msrs < MOST_POLICY_MSRS else -ENOSYS


OPERATIONS: Final[dict[int, Operation]] = {
    1: _console,
    2: _traces,
    3: _physical,
    4: _scheduler_id,
    6: _domains,
    7: _keys,
    8: _processors,
    9: _heap,
    10: _power_state,
    11: _hotplug,
    12: _power,
    14: _pages,
    16: _topology,
    17: _numa,
    18: _pool,
    19: _scheduler,
    20: _coverage,
    21: _cache_monitor,
    22: _device_nodes,
    23: _cache_allocation,
    25: _levelling,
    26: _features,
    27: _patches,
    29: _policy,
}
