"""vcpu_op (hypercall 24) and sched_op (hypercall 29): a domain's own vCPUs, and a domain that ends or waits.

Contents: their arguments and answers; the page of a registered vcpu_info, which stays referenced and writable until the
domain ends. Not here: time: no timer fires, and areas for times are not written, which would only show when guests run.
Sources: Xen common/domain.c (common_vcpu_op, map_vcpu_info), common/sched/core.c (do_sched_op).
"""

from __future__ import annotations

from collections.abc import Generator
from struct import Struct
from typing import TYPE_CHECKING, Final

from bulkhead.impl.xen import hvm_context
from bulkhead.impl.xen.abi import (
    EBUSY,
    EEXIST,
    EFAULT,
    EINVAL,
    ENOENT,
    ENOSPC,
    ENOSYS,
    ENXIO,
    EPERM,
    ESRCH,
    PAGE_SIZE,
    U32,
    U64,
)
from bulkhead.impl.xen.domains import NOT_STOPPED, STOPPED_BY_POWEROFF, STOPPED_BY_WATCHDOG
from bulkhead.impl.xen.events import IN_SHARED_INFO, SELECTOR_AT, VCPU_INFO_SIZE
from bulkhead.impl.xen.frames import PGT_WRITABLE, get_page
from bulkhead.impl.xen.guest_access import handle_okay, read, write
from bulkhead.impl.xen.pagetables import get_page_type, put_table
from bulkhead.impl.xen.vcpu_context import set_vcpu_context

if TYPE_CHECKING:
    from bulkhead.impl.xen.domains import Domain, VCpu
    from bulkhead.impl.xen.machine import Xen

Steps = Generator[str, None, int]
(INITIALISE, UP, DOWN, IS_UP, RUNSTATE, RUNSTATE_AREA, PERIODIC, NO_PERIODIC, SINGLESHOT, NO_SINGLESHOT, INFO) = range(11)
SEND_NMI, PHYSICAL_ID, TIME_AREA = 11, 12, 13
CONTEXT_SIZE: Final = 5168
RUNSTATE_SIZE: Final = 48
SHORTEST_PERIOD, LONGEST_PERIOD = 1_000_000, (1 << 62) - 1
INFO_ARGUMENT: Final = Struct("<QII")  # mfn offset reserved
UPCALL_PENDING: Final = Struct("<B")
ARGUMENTS: Final = {PERIODIC: 8, SINGLESHOT: 16, INFO: INFO_ARGUMENT.size, RUNSTATE_AREA: 8, TIME_AREA: 8}
WATCHDOGS: Final = 2
MOST_POLLED: Final = 128
YIELD, BLOCK, SHUTDOWN, POLL, REMOTE_SHUTDOWN, SHUTDOWN_CODE, WATCHDOG, PIN_OVERRIDE = range(8)
WORDS: Final = Struct("<II")
PROCESSOR: Final = Struct("<i")
PROCESSORS: Final = 1
POLLED: Final = Struct("<QI4xQ")  # ports nr_ports timeout


def do_vcpu_op(xen: Xen, vcpu: VCpu, cmd: int, number: int, arg: int, a4: int, a5: int) -> Steps:
    """Hypercall 24."""
    yield from ()
    cmd &= 0xFFFFFFFF
    number &= 0xFFFFFFFF
    if number >= len(vcpu.domain.vcpus):
        return -ENOENT
    which = vcpu.domain.vcpus[number]
    if cmd == INITIALISE:
        context = read(xen, vcpu, arg, CONTEXT_SIZE if vcpu.domain.p2m is None else hvm_context.SIZE)
        if context is None:
            return -EFAULT
        if vcpu.domain.p2m is not None:
            return hvm_context.set_hvm_context(which, bytes(context))
        return -EEXIST if which.context is not None else set_vcpu_context(xen, vcpu.domain, number, bytes(context))
    if cmd == UP:
        if which.context is None:
            return -EINVAL
        which.online = True
        return 0
    if cmd == DOWN:
        if any(each.online for each in vcpu.domain.vcpus if each is not which):
            which.online = False
        else:
            vcpu.domain.stop(STOPPED_BY_POWEROFF)  # nobody would be left to go on
        return 0
    if cmd == IS_UP:
        return int(which.online)
    if cmd == RUNSTATE:
        return 0 if write(xen, vcpu, arg, bytes(RUNSTATE_SIZE)) else -EFAULT
    if cmd in (NO_PERIODIC, NO_SINGLESHOT):
        return 0 if cmd == NO_PERIODIC or which is vcpu else -EINVAL
    if cmd == SEND_NMI:
        return -EINVAL if arg else 0
    if cmd == PHYSICAL_ID:
        return -EINVAL  # only for a vCPU that is pinned, of the hardware domain
    if cmd not in ARGUMENTS:
        return -ENOSYS
    if cmd == SINGLESHOT and which is not vcpu:
        return -EINVAL
    raw = read(xen, vcpu, arg, ARGUMENTS[cmd])
    return -EFAULT if raw is None else _with_argument(xen, vcpu, which, cmd, raw)


def _with_argument(xen: Xen, vcpu: VCpu, which: VCpu, cmd: int, raw: bytes) -> int:
    if cmd == PERIODIC:
        return 0 if SHORTEST_PERIOD <= U64.unpack(raw)[0] <= LONGEST_PERIOD else -EINVAL
    if cmd in (RUNSTATE_AREA, TIME_AREA):
        return 0 if handle_okay(vcpu, U64.unpack(raw)[0], 1, RUNSTATE_SIZE) else -EFAULT
    if cmd == INFO:
        mfn, offset, _ = INFO_ARGUMENT.unpack(raw)
        return _register_info(xen, vcpu, which, mfn, offset)
    return 0


def _register_info(xen: Xen, vcpu: VCpu, which: VCpu, mfn: int, offset: int) -> int:
    """VCPUOP_register_vcpu_info, once: the present contents move there, with everything pending to be looked at."""
    domain = which.domain
    if offset > PAGE_SIZE - VCPU_INFO_SIZE or offset & 7:
        return -ENXIO
    if which.info is not None or (which is not vcpu and which.online):
        return -EINVAL
    frame = xen.frames.get(mfn) if domain.p2m is None else domain.p2m.own(mfn, domain)
    if frame is None or not get_page(frame, domain):
        return -EINVAL
    if get_page_type(xen, frame, PGT_WRITABLE):
        xen.frames.put_page(frame)
        return -EINVAL
    old = b""
    if domain.shared_info is not None and which.vcpu_id < IN_SHARED_INFO:
        at = which.vcpu_id * VCPU_INFO_SIZE
        old = bytes(domain.shared_info.bytes()[at : at + VCPU_INFO_SIZE])
    data = frame.bytes()
    data[offset : offset + len(old)] = old
    UPCALL_PENDING.pack_into(data, offset, 1)
    U64.pack_into(data, offset + SELECTOR_AT, (1 << 64) - 1)
    which.info, which.info_offset = frame, offset
    return 0


def drop_info(xen: Xen, vcpu: VCpu) -> None:
    """The registered page is given back when the domain ends."""
    frame, vcpu.info = vcpu.info, None
    if frame is not None:
        put_table(xen, frame)


def do_sched_op(xen: Xen, vcpu: VCpu, cmd: int, arg: int, a3: int, a4: int, a5: int) -> Steps:
    """Hypercall 29. Who would wait for an event goes on at once: the caller's time is not simulated."""
    yield from ()
    cmd &= 0xFFFFFFFF
    if cmd in (YIELD, BLOCK):
        return 0
    if cmd == PIN_OVERRIDE:
        if vcpu.domain is not xen.hardware_domain:
            return -EPERM
        chosen = read(xen, vcpu, arg, 4)
        return -EFAULT if chosen is None else _pin(vcpu, *PROCESSOR.unpack(chosen))
    if cmd == POLL:
        return _poll(xen, vcpu, arg)
    if cmd not in (SHUTDOWN, REMOTE_SHUTDOWN, SHUTDOWN_CODE, WATCHDOG):
        return -ENOSYS
    raw = read(xen, vcpu, arg, 4 if cmd in (SHUTDOWN, SHUTDOWN_CODE) else 8)
    if raw is None:
        return -EFAULT
    reason: int = U32.unpack_from(raw)[0]
    if cmd == SHUTDOWN:
        vcpu.domain.stop(reason)
    elif cmd == SHUTDOWN_CODE:
        if vcpu.domain.stop_code == NOT_STOPPED:
            vcpu.domain.stop_code = reason & 0xFF
    elif cmd == REMOTE_SHUTDOWN:
        return _remote_shutdown(xen, vcpu.domain, *WORDS.unpack(raw))
    elif cmd == WATCHDOG:
        return _watchdog(vcpu.domain, *WORDS.unpack(raw))
    return 0


def do_sched_op_compat(xen: Xen, vcpu: VCpu, cmd: int, reason: int, a3: int, a4: int, a5: int) -> Steps:
    """Hypercall 6, of Xen 3.0: yield, block, and a shutdown by a number instead of a struct."""
    yield from ()
    cmd &= 0xFFFFFFFF
    if cmd == SHUTDOWN:
        vcpu.domain.stop(reason)
    return 0 if cmd in (YIELD, BLOCK, SHUTDOWN) else -ENOSYS


def _pin(vcpu: VCpu, processor: int) -> int:
    """Stay on a processor for now, or (a negative number) no longer; there is one processor."""
    if processor < 0:
        was, vcpu.pinned = vcpu.pinned, False
        return 0 if was else -EINVAL
    if processor >= PROCESSORS:
        return -EINVAL
    if vcpu.pinned:
        return -EBUSY
    vcpu.pinned = True
    return 0


def _remote_shutdown(xen: Xen, caller: Domain, domid: int, reason: int) -> int:
    target = xen.domains.get(domid & 0xFFFF)
    if target is None:
        return -ESRCH
    rc = xen.xsm.dm_priv("schedop_shutdown", caller, target)
    if not rc:
        target.toolstack.stopped_asleep = target is not caller and (target.toolstack.stopped_asleep or not target.crashed)
        target.stop(reason)
    return rc


def _watchdog(domain: Domain, number: int, seconds: int) -> int:
    """Start a watchdog (its number), restart or stop a running one (0). One of no seconds ends the domain at once."""
    if number > WATCHDOGS:
        return -EINVAL
    if number == 0:
        free = next((each for each in range(1, WATCHDOGS + 1) if each not in domain.watchdogs), None)
        if free is None:
            return -ENOSPC & 0xFFFFFFFF  # Xen keeps this error in 32 bits
        domain.watchdogs.add(free)
        if seconds == 0:
            domain.stop(STOPPED_BY_WATCHDOG)
        return free
    if number not in domain.watchdogs:
        return -EINVAL
    if seconds == 0:
        domain.watchdogs.discard(number)
    return 0


def _poll(xen: Xen, vcpu: VCpu, arg: int) -> int:
    raw = read(xen, vcpu, arg, POLLED.size)
    if raw is None:
        return -EFAULT
    ports_at, count, _ = POLLED.unpack(raw)
    if count > MOST_POLLED:
        return -EINVAL
    if not handle_okay(vcpu, ports_at, count, 4):
        return -EFAULT
    for i in range(count):
        port = read(xen, vcpu, ports_at + 4 * i, 4)
        if port is None:
            return -EFAULT
        number = U32.unpack(port)[0]
        if not number or not vcpu.domain.events.is_valid(number):
            return -EINVAL
    return 0
