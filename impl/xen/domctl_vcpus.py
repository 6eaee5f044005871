"""domctls about the vCPUs of a domain: placement, scheduling, and state beyond vcpu_guest_context.

Contents: arguments and answers on a machine with one processor, one node and the credit2 scheduler. Not here: time, and
registers of features that this processor does not have. Sources: Xen common/domctl.c, common/sched/core.c
(vcpu_affinity_domctl), common/sched/credit2.c (csched2_dom_cntl), arch/x86/domctl.c.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

from bulkhead.impl.xen.abi import EFAULT, EINVAL, ENOSYS, EOPNOTSUPP, ESRCH, U32, U64
from bulkhead.impl.xen.control_struct import bitmap_bytes
from bulkhead.impl.xen.guest_access import read, write
from bulkhead.impl.xen.toolstack import ALL_NODES
from bulkhead.impl.xen.vcpu_context import canonical

if TYPE_CHECKING:
    from bulkhead.impl.xen.domains import Domain, VCpu
    from bulkhead.impl.xen.machine import Xen

BODY: Final = 16  # offset of a command's own struct
AFFINITY: Final = Struct("<IIQI4xQI4x")  # vcpu flags, and two bitmaps: address, number of bits
HARD, SOFT = 1, 2
PROCESSORS, NODES = 1, 64  # bits that Xen keeps
BITMAP: Final = Struct("<QI")
VCPU_FLAGS, VCPU_TIMES, VCPU_TIMES_AT = Struct("<BBB"), Struct("<QI"), 4  # online blocked running; time, processor
SCHEDULER: Final = Struct("<IIHH")  # scheduler command weight cap
CREDIT2, PUT_INFO, GET_INFO = 6, 0, 1
TRIGGER: Final = Struct("<II")
NMI, POWER, SLEEP = 0, 3, 4
EXTENDED: Final = Struct("<IIQQHHBB2xQQQQ")
EXTENDED_SIZE, UP_TO_ERRORS = 64, 32
SYSENTER, SYSCALL32 = 5, 7  # as types of callback_op
ERROR_CAPABILITIES: Final = 0x1FF
TSC: Final = Struct("<IIIIQ")  # mode kHz incarnation pad elapsed
TSC_MODES: Final = 3
KILOHERTZ: Final = 2_600_000
XSTATE: Final = Struct("<IIQQQ")  # vcpu pad mask size address
XSTATE_HEADER: Final = 16
MSRS: Final = Struct("<IIQ")
MSR_ENTRY, MOST_MSRS = 16, 7


def find(domain: Domain, number: int) -> VCpu | None:
    """A vCPU by its number."""
    return domain.vcpus[number] if number < len(domain.vcpus) else None


def _read_bits(xen: Xen, vcpu: VCpu, at: int, count: int, kept: int) -> int | None:
    """A bitmap of `count` bits, of which Xen keeps the first ones; None on a fault."""
    size = min(bitmap_bytes(count), bitmap_bytes(kept))
    raw = read(xen, vcpu, at, size)
    return None if raw is None else int.from_bytes(raw, "little") & ((1 << min(count, kept)) - 1)


def _write_bits(xen: Xen, vcpu: VCpu, at: int, count: int, value: int) -> bool:
    """Write it into the caller's bitmap, the rest as zeros."""
    size = bitmap_bytes(count)
    return write(xen, vcpu, at, (value & ((1 << 8 * size) - 1)).to_bytes(size, "little"))


def affinity(xen: Xen, vcpu: VCpu, domain: Domain, arg: int, body: bytes, change: bool) -> int:
    """setvcpuaffinity and getvcpuaffinity. A change tells what is in effect: only processors that there are."""
    number, flags, hard_at, hard_bits, soft_at, soft_bits = AFFINITY.unpack_from(body)
    if not flags or (flags & HARD and not hard_at) or (flags & SOFT and not soft_at):
        return -EINVAL
    which = find(domain, number)
    if which is None:
        return -EINVAL if number >= domain.max_vcpus else -ESRCH
    settings = which.settings
    before, rc = settings.hard_affinity, 0
    if flags & HARD:
        if change:
            wanted = _read_bits(xen, vcpu, hard_at, hard_bits, PROCESSORS)
            if wanted is None:
                return -EFAULT
            if not wanted:
                return -EINVAL
            settings.hard_affinity = wanted
        rc = 0 if _write_bits(xen, vcpu, hard_at, hard_bits, settings.hard_affinity) else -EFAULT
    if flags & SOFT:
        if change:
            wanted = _read_bits(xen, vcpu, soft_at, soft_bits, PROCESSORS)
            if wanted is None:
                settings.hard_affinity = before
                return -EFAULT
            settings.soft_affinity = wanted
        told = settings.soft_affinity & settings.hard_affinity if change else settings.soft_affinity
        rc = 0 if _write_bits(xen, vcpu, soft_at, soft_bits, told) else -EFAULT  # whatever became of the other
    return rc


def set_affinity(xen: Xen, vcpu: VCpu, domain: Domain, arg: int, body: bytes) -> int:
    """XEN_DOMCTL_setvcpuaffinity."""
    return affinity(xen, vcpu, domain, arg, body, True)


def get_affinity(xen: Xen, vcpu: VCpu, domain: Domain, arg: int, body: bytes) -> int:
    """XEN_DOMCTL_getvcpuaffinity."""
    return affinity(xen, vcpu, domain, arg, body, False)


def set_nodes(xen: Xen, vcpu: VCpu, domain: Domain, arg: int, body: bytes) -> int:
    """XEN_DOMCTL_setnodeaffinity: the one node must be among them; all nodes mean those of the vCPUs."""
    at, bits = BITMAP.unpack_from(body)
    wanted = _read_bits(xen, vcpu, at, bits, NODES)
    if wanted is None:
        return -EFAULT
    if not wanted & 1:
        return -EINVAL
    domain.toolstack.nodes = None if wanted == ALL_NODES else wanted
    return 0


def get_nodes(xen: Xen, vcpu: VCpu, domain: Domain, arg: int, body: bytes) -> int:
    """XEN_DOMCTL_getnodeaffinity."""
    nodes = domain.toolstack.nodes
    told = nodes if nodes is not None else 1 if domain.vcpus else ALL_NODES
    at, bits = BITMAP.unpack_from(body)
    return 0 if _write_bits(xen, vcpu, at, bits, told) else -EFAULT


def vcpu_info(xen: Xen, vcpu: VCpu, domain: Domain, arg: int, body: bytes) -> int:
    """XEN_DOMCTL_getvcpuinfo: while the caller runs, all others wait. No time passes here."""
    number = U32.unpack_from(body)[0]
    which = find(domain, number)
    if which is None:
        return -EINVAL if number >= domain.max_vcpus else -ESRCH
    waits = which.online and domain is not vcpu.domain and domain.creation_finished and not domain.crashed
    at, flags = arg + BODY + 4, VCPU_FLAGS.pack(which.online, waits, which is vcpu)
    fine = write(xen, vcpu, at, flags) and write(xen, vcpu, at + VCPU_TIMES_AT, VCPU_TIMES.pack(0, 0))
    return 0 if fine else -EFAULT


def scheduler(xen: Xen, vcpu: VCpu, domain: Domain, arg: int, body: bytes) -> int:
    """XEN_DOMCTL_scheduler_op of credit2. A weight of 0 leaves it as it is; it is set even if the cap is refused."""
    which, command, weight, cap = SCHEDULER.unpack_from(body)
    if which != CREDIT2 or command not in (PUT_INFO, GET_INFO):
        return -EINVAL
    settings = domain.toolstack
    if command == GET_INFO:
        told = SCHEDULER.pack(which, command, settings.weight, settings.cap)
        return 0 if write(xen, vcpu, arg + BODY, told) else -EFAULT
    if weight:
        settings.weight = weight
    if cap > 100 * len(domain.vcpus):
        return -EINVAL
    settings.cap = cap
    return 0


def trigger(xen: Xen, vcpu: VCpu, domain: Domain, arg: int, body: bytes) -> int:
    """XEN_DOMCTL_sendtrigger: an NMI, or a button of a translated guest; no guest's instructions run here to notice."""
    kind, number = TRIGGER.unpack_from(body)
    if find(domain, number) is None:
        return -ESRCH
    if kind == NMI:
        return 0
    if kind not in (POWER, SLEEP):
        return -ENOSYS
    return 0 if domain.external else -EINVAL


def get_extended(xen: Xen, vcpu: VCpu, domain: Domain, arg: int, body: bytes) -> int:
    """XEN_DOMCTL_get_ext_vcpucontext."""
    number = U32.unpack_from(body)[0]
    which = find(domain, number)
    if which is None or domain is vcpu.domain:
        return -ESRCH
    settings = which.settings
    compat, enter = settings.entry_points.get(SYSCALL32, (0, 0)), settings.entry_points.get(SYSENTER, (0, 0))
    points = (compat[0], enter[0], *settings.selectors, compat[1], enter[1])
    told = EXTENDED.pack(number, EXTENDED_SIZE, *points, *settings.errors)
    return 0 if write(xen, vcpu, arg + BODY, told) else -EFAULT


def set_extended(xen: Xen, vcpu: VCpu, domain: Domain, arg: int, body: bytes) -> int:
    """XEN_DOMCTL_set_ext_vcpucontext: entry points of PV guests, and capabilities of machine checks if the size has them."""
    number, size, compat, enter, compat_cs, enter_cs, compat_masks, enter_masks, *errors = EXTENDED.unpack_from(body)
    which = find(domain, number)
    if which is None or domain is vcpu.domain:
        return -ESRCH
    if size < UP_TO_ERRORS:
        return -EINVAL
    if domain.external:
        if compat or enter or (compat_cs | enter_cs) & ~3 or compat_masks or enter_masks:
            return -EINVAL
    elif not (canonical(compat) and canonical(enter)):
        return -EINVAL
    else:
        which.settings.entry_points[SYSCALL32] = (compat, int(bool(compat_masks)))
        which.settings.entry_points[SYSENTER] = (enter, int(bool(enter_masks)))
        which.settings.selectors = (compat_cs | 3, enter_cs | 3)
    if size >= UP_TO_ERRORS + 8:
        if errors[0] & ~ERROR_CAPABILITIES:
            return -EINVAL
        kept = errors if size >= EXTENDED_SIZE else [*errors[:3], 0] if size >= EXTENDED_SIZE - 8 else [errors[0], 0, 0, 0]
        which.settings.errors = (kept[0], kept[1], kept[2], kept[3])
    return 0


def debug(xen: Xen, vcpu: VCpu, domain: Domain, arg: int, body: bytes) -> int:
    """XEN_DOMCTL_debug_op: single steps need Intel's processors."""
    command, number = TRIGGER.unpack_from(body)
    if find(domain, number) is None or not domain.external:
        return -EINVAL
    return -EOPNOTSUPP if command <= 1 else -ENOSYS


def get_clock(xen: Xen, vcpu: VCpu, domain: Domain, arg: int, body: bytes) -> int:
    """XEN_DOMCTL_gettscinfo; no time passes here."""
    if domain is vcpu.domain:
        return -EINVAL
    mode, times = domain.toolstack.clock
    return 0 if write(xen, vcpu, arg + BODY, TSC.pack(mode, KILOHERTZ, times, 0, 0)) else -EFAULT


def set_clock(xen: Xen, vcpu: VCpu, domain: Domain, arg: int, body: bytes) -> int:
    """XEN_DOMCTL_settscinfo."""
    mode, _, times, _, _ = TSC.unpack_from(body)
    if domain is vcpu.domain or mode >= TSC_MODES:
        return -EINVAL
    domain.toolstack.clock = (mode, times + 1 & 0xFFFFFFFF)
    return 0


def get_xstate(xen: Xen, vcpu: VCpu, domain: Domain, arg: int, body: bytes) -> int:
    """XEN_DOMCTL_getvcpuextstate: this processor has no extended states, so that a header of zeros is all."""
    number, _, mask, size, at = XSTATE.unpack_from(body)
    which = find(domain, number)
    if which is None:
        return -ESRCH
    if which is vcpu:
        return -EINVAL
    if (not size and not mask) or not at:
        return 0 if write(xen, vcpu, arg + BODY + 8, U64.pack(0) + U64.pack(XSTATE_HEADER)) else -EFAULT
    if size != XSTATE_HEADER or mask:
        return -EINVAL
    return 0 if write(xen, vcpu, at, bytes(XSTATE_HEADER)) else -EFAULT


def set_xstate(xen: Xen, vcpu: VCpu, domain: Domain, arg: int, body: bytes) -> int:
    """XEN_DOMCTL_setvcpuextstate: only that header, without any state."""
    number, _, _, size, at = XSTATE.unpack_from(body)
    which = find(domain, number)
    if which is None:
        return -ESRCH
    if which is vcpu or size != XSTATE_HEADER:
        return -EINVAL
    raw = read(xen, vcpu, at, XSTATE_HEADER)
    if raw is None:
        return -EFAULT
    return -EINVAL if any(raw) else 0


def _msrs(vcpu: VCpu, domain: Domain, number: int) -> int:
    """What both say of the domain and the vCPU: only a PV guest's, and not the caller's own."""
    if find(domain, number) is None:
        return -ESRCH
    return -EINVAL if domain is vcpu.domain or domain.external else 0


def get_msrs(xen: Xen, vcpu: VCpu, domain: Domain, arg: int, body: bytes) -> int:
    """XEN_DOMCTL_get_vcpu_msrs: how many there may be; none is in use, as the processor has none of those features."""
    number, _, at = MSRS.unpack_from(body)
    rc = _msrs(vcpu, domain, number)
    if rc:
        return rc
    return 0 if write(xen, vcpu, arg + BODY + 4, U32.pack(0 if at else MOST_MSRS)) else -EFAULT


def set_msrs(xen: Xen, vcpu: VCpu, domain: Domain, arg: int, body: bytes) -> int:
    """XEN_DOMCTL_set_vcpu_msrs: it tells the first that it refuses."""
    number, count, at = MSRS.unpack_from(body)
    rc = _msrs(vcpu, domain, number) or (-EINVAL if count > MOST_MSRS else 0)
    if rc or not count:
        return rc
    rc = -EFAULT if read(xen, vcpu, at, MSR_ENTRY) is None else -EINVAL
    return rc if write(xen, vcpu, arg + BODY + 4, U32.pack(0)) else -EFAULT
