"""Hypercall dispatch: maps numbers to operations, reads arguments from guest memory and writes results back.

Contents: the outer entry and the batch loop of grant table operations. Not here: the other families'
argument handling (hypercall_mmu.py, memory_op.py, domctl.py) and all semantics. A domain that is dying, crashed or
gone gets -EINVAL; real vCPUs of such domains do not run. Source: Xen common/grant_table.c do_grant_table_op.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from struct import Struct
from typing import TYPE_CHECKING

from bulkhead.impl.xen import abi, grant_admin
from bulkhead.impl.xen.abi import EFAULT, EINVAL, ENOSYS, EOPNOTSUPP
from bulkhead.impl.xen.continuation import NEVER, Handler, Preempted, continued
from bulkhead.impl.xen.domctl import do_domctl
from bulkhead.impl.xen.grant_copy import copy_one
from bulkhead.impl.xen.grant_map import map_grant_ref
from bulkhead.impl.xen.grant_transfer import transfer_one
from bulkhead.impl.xen.grant_unmap import UNMAP_BATCH, Pending, finish, unmap_one
from bulkhead.impl.xen.guest_access import handle_okay, read, translate, window, write
from bulkhead.impl.xen.hypercall_cpu import (
    do_callback_op,
    do_get_debugreg,
    do_nmi_op,
    do_nothing,
    do_set_callbacks,
    do_set_debugreg,
    do_set_gdt,
    do_set_segment_base,
    do_set_trap_table,
    do_stack_switch,
    do_update_descriptor,
    do_vm_assist,
)
from bulkhead.impl.xen.hypercall_evtchn import do_event_channel_op, do_event_channel_op_compat
from bulkhead.impl.xen.hypercall_mmu import do_mmu_update, do_mmuext_op, do_update_va_mapping, do_update_va_otherdomain
from bulkhead.impl.xen.hypercall_other import MACHINE
from bulkhead.impl.xen.memory_op import do_memory_op
from bulkhead.impl.xen.sysctl import do_sysctl
from bulkhead.impl.xen.vcpu_op import do_sched_op, do_sched_op_compat, do_vcpu_op

if TYPE_CHECKING:
    from bulkhead.impl.xen.domains import VCpu
    from bulkhead.impl.xen.machine import Xen

Steps = Generator[str, None, int]
U64_MASK = (1 << 64) - 1


def dispatch(xen: Xen, vcpu: VCpu, number: int, a1: int, a2: int, a3: int, a4: int, a5: int) -> Steps:
    """The generator of one hypercall; an unknown number gives -ENOSYS."""
    handler = TABLE.get(number)
    if handler is None or vcpu.domain.is_dying or vcpu.domain.crashed:
        return _refuse(-ENOSYS if handler is None else -EINVAL)
    if vcpu.domain.external and number in NOT_TRANSLATED:
        return _refuse(-ENOSYS)
    if (a1 | a2 | a3 | a4 | a5) >> 64:
        mask = U64_MASK
        a1, a2, a3, a4, a5 = a1 & mask, a2 & mask, a3 & mask, a4 & mask, a5 & mask
    if xen.preemption.kind == NEVER:
        return handler(xen, vcpu, a1, a2, a3, a4, a5)
    return continued(xen, vcpu, handler, (a1, a2, a3, a4, a5))


def _refuse(code: int) -> Steps:
    yield from ()
    return code


def do_grant_table_op(xen: Xen, vcpu: VCpu, cmd: int, uop: int, count: int, a4: int, a5: int) -> Steps:
    """Hypercall 20. Elements run in order with one status each; a bad pointer stops the batch with -EFAULT."""
    cmd &= 0xFFFFFFFF
    count &= 0xFFFFFFFF
    if vcpu.domain.external and cmd not in OF_TRANSLATED:
        return -ENOSYS
    if count & 0x80000000:
        return -EINVAL
    progress = cmd & ~abi.GNTTABOP_CMD_MASK
    cmd &= abi.GNTTABOP_CMD_MASK
    if cmd != abi.GNTTABOP_CACHE_FLUSH and progress:
        return -EINVAL
    handler = GRANT_OPS.get(cmd)
    if handler is None:
        return -ENOSYS
    size = LIST_ELEMENT.get(cmd)
    if size is not None and not handle_okay(vcpu, uop, count, size):
        return -EFAULT
    if cmd == abi.GNTTABOP_CACHE_FLUSH:
        return (yield from _cache_flush(xen, vcpu, uop, count, progress))
    return (yield from handler(xen, vcpu, uop, count))


def _between(xen: Xen, cmd: int, uop: int, left: int) -> Steps:
    """Between two elements of a batch: other vCPUs may run, or the call is preempted with `left` elements from `uop` on."""
    if xen.preemption.wanted():
        raise Preempted(cmd, uop & U64_MASK, left)
    yield "grant.preempt"
    return 0


def _fetch(xen: Xen, vcpu: VCpu, addr: int, size: int) -> tuple[bytes | bytearray, int] | None:
    off = addr & 0xFFF
    if off + size <= 4096:
        found = translate(xen, vcpu, addr)
        if found is None:
            return None
        return found[0].bytes(), off
    data = read(xen, vcpu, addr, size)
    return None if data is None else (data, 0)


def _map(xen: Xen, vcpu: VCpu, uop: int, count: int) -> Steps:
    for i in range(count):
        if i:
            if vcpu.domain.crashed:
                return -EINVAL  # it never goes on
            yield from _between(xen, abi.GNTTABOP_MAP_GRANT_REF, uop + i * 32, count - i)
        addr = uop + i * 32
        buf = window(xen, vcpu, addr, 32)
        if buf is None:
            got = _fetch(xen, vcpu, addr, 32)
            if got is None:
                return -EFAULT
            host, flags, ref, dom, _, handle, bus = abi.MAP_GRANT_REF.unpack_from(*got)
        else:
            host, flags, ref, dom, _, handle, bus = abi.MAP_GRANT_REF.unpack_from(buf[0], buf[1])
        status, new_handle, new_bus = yield from map_grant_ref(xen, vcpu, host, flags, ref, dom)
        if status == 0:
            handle, bus = new_handle, new_bus
        out = abi.MAP_GRANT_REF.pack(host, flags, ref, dom, status, handle, bus)
        # The new mapping may have changed the translation of the argument's address.
        if not _store(xen, vcpu, addr, out):
            return -EFAULT
    return 0


def _store(xen: Xen, vcpu: VCpu, addr: int, out: bytes) -> bool:
    buf = window(xen, vcpu, addr, len(out))
    if buf is None:
        return write(xen, vcpu, addr, out)
    buf[0][buf[1] : buf[1] + len(out)] = out
    return True


def _unmap(xen: Xen, vcpu: VCpu, uop: int, count: int, replace: bool) -> Steps:
    done = 0
    rc = 0
    while done < count and not rc:
        pending: list[Pending] = []
        for _ in range(min(UNMAP_BATCH, count - done)):
            addr = uop + done * 24
            got = _fetch(xen, vcpu, addr, 24)
            if got is None:
                rc = -EFAULT
                break
            host, second, handle, _, _ = abi.UNMAP_GRANT_REF.unpack_from(*got)
            if replace:
                status, work = unmap_one(xen, vcpu, host, 0, second, handle)
            else:
                status, work = unmap_one(xen, vcpu, host, second, 0, handle)
            if work is not None:
                pending.append(work)
            if not _store(xen, vcpu, addr + 20, abi.STATUS.pack(status)):
                rc = -EFAULT
                break
            done += 1
        yield from finish(xen, vcpu, pending)
        if vcpu.domain.crashed and done < count and not rc:
            return -EINVAL  # it never goes on
        if done < count and not rc:
            cmd = abi.GNTTABOP_UNMAP_AND_REPLACE if replace else abi.GNTTABOP_UNMAP_GRANT_REF
            yield from _between(xen, cmd, uop + done * 24, count - done)
    return rc


def _unmap_grant_ref(xen: Xen, vcpu: VCpu, uop: int, count: int) -> Steps:
    return _unmap(xen, vcpu, uop, count, False)


def _unmap_and_replace(xen: Xen, vcpu: VCpu, uop: int, count: int) -> Steps:
    return _unmap(xen, vcpu, uop, count, True)


def _copy(xen: Xen, vcpu: VCpu, uop: int, count: int) -> Steps:
    for i in range(count):
        if i:
            yield from _between(xen, abi.GNTTABOP_COPY, uop + i * 40, count - i)
        addr = uop + i * 40
        status = 1
        while status > 0:
            got = _fetch(xen, vcpu, addr, 40)
            if got is None:
                return -EFAULT
            src, sdom, soff, _, dst, ddom, doff, _, length, flags, _, _ = abi.COPY.unpack_from(*got)
            status = yield from copy_one(xen, vcpu, src, sdom, soff, dst, ddom, doff, length, flags)
            if status > 0:  # an entry changed while its lock was dropped: the call restarts from this element
                if xen.preemption.wanted():
                    raise Preempted(abi.GNTTABOP_COPY, addr & U64_MASK, count - i)
                yield "copy.restart"
        if not _store(xen, vcpu, addr + 36, abi.STATUS.pack(status)):
            return -EFAULT
    return 0


def _transfer(xen: Xen, vcpu: VCpu, uop: int, count: int) -> Steps:
    if not xen.options.transfer:
        return -EOPNOTSUPP
    for i in range(count):
        if i:
            yield from _between(xen, abi.GNTTABOP_TRANSFER, uop + i * 24, count - i)
        got = _fetch(xen, vcpu, uop + i * 24, 24)
        if got is None:
            return -EFAULT
        mfn, dom, _, ref, _, _, _ = abi.TRANSFER.unpack_from(*got)
        status = yield from transfer_one(xen, vcpu, mfn, dom, ref)
        if not _store(xen, vcpu, uop + i * 24 + 16, abi.STATUS.pack(status)):
            return -EFAULT
    return 0


def _swap(xen: Xen, vcpu: VCpu, uop: int, count: int) -> Steps:
    for i in range(count):
        if i:
            yield from _between(xen, abi.GNTTABOP_SWAP_GRANT_REF, uop + i * 12, count - i)
        got = _fetch(xen, vcpu, uop + i * 12, 12)
        if got is None:
            return -EFAULT
        ref_a, ref_b, _, _ = abi.SWAP_GRANT_REF.unpack_from(*got)
        status = grant_admin.swap_grant_ref(vcpu, ref_a, ref_b)
        if not _store(xen, vcpu, uop + i * 12 + 8, abi.STATUS.pack(status)):
            return -EFAULT
    return 0


def _one(xen: Xen, vcpu: VCpu, uop: int, count: int, layout: Struct) -> tuple[int, ...] | int:
    """The argument of an operation that takes exactly one element; or -errno."""
    return -EINVAL if count != 1 else _whatever_count(xen, vcpu, uop, layout)


def _whatever_count(xen: Xen, vcpu: VCpu, uop: int, layout: Struct) -> tuple[int, ...] | int:
    """The argument of an operation that takes one element and ignores the count; or -EFAULT."""
    got = read(xen, vcpu, uop, layout.size)
    return -EFAULT if got is None else layout.unpack(got)


def _store_numbers(xen: Xen, vcpu: VCpu, at: int, numbers: list[int], status: int) -> int:
    """Store frame numbers; returns `status`, or an error if the address is bad."""
    for i, number in enumerate(numbers):
        if not write(xen, vcpu, (at + i * 8) & U64_MASK, abi.U64.pack(number)):
            return abi.GNTST_BAD_VIRT_ADDR
    return status


def _setup_table(xen: Xen, vcpu: VCpu, uop: int, count: int) -> Steps:
    yield from ()
    got = _one(xen, vcpu, uop, count, abi.SETUP_TABLE)
    if isinstance(got, int):
        return got
    dom, _, nr, _, _, _, frames_at = got
    if not handle_okay(vcpu, frames_at, nr, 8):
        return -EFAULT
    status, numbers = grant_admin.setup_table(xen, vcpu, dom, nr)
    status = _store_numbers(xen, vcpu, frames_at, numbers, status)
    return 0 if _store(xen, vcpu, uop + 8, abi.STATUS.pack(status)) else -EFAULT


def _query_size(xen: Xen, vcpu: VCpu, uop: int, count: int) -> Steps:
    yield from ()
    got = _one(xen, vcpu, uop, count, abi.QUERY_SIZE)
    if isinstance(got, int):
        return got
    dom, pad, nr, most, _, pad2 = got
    status, now, limit = grant_admin.query_size(xen, vcpu, dom)
    if status == 0:
        nr, most = now, limit
    return 0 if _store(xen, vcpu, uop, abi.QUERY_SIZE.pack(dom, pad, nr, most, status, pad2)) else -EFAULT


def _set_version(xen: Xen, vcpu: VCpu, uop: int, count: int) -> Steps:
    yield from ()
    got = _whatever_count(xen, vcpu, uop, abi.SET_VERSION)
    if isinstance(got, int):
        return got
    rc, version = grant_admin.set_version(vcpu, got[0])
    return rc if _store(xen, vcpu, uop, abi.SET_VERSION.pack(version)) else -EFAULT


def _get_status_frames(xen: Xen, vcpu: VCpu, uop: int, count: int) -> Steps:
    yield from ()
    got = _one(xen, vcpu, uop, count, abi.GET_STATUS_FRAMES)
    if isinstance(got, int):
        return got
    nr, dom, _, frames_at = got
    if not handle_okay(vcpu, frames_at, nr, 8):
        return -EFAULT
    status, numbers = grant_admin.get_status_frames(xen, vcpu, dom, nr)
    status = _store_numbers(xen, vcpu, frames_at, numbers, status)
    return 0 if _store(xen, vcpu, uop + 6, abi.STATUS.pack(status)) else -EFAULT


def _get_version(xen: Xen, vcpu: VCpu, uop: int, count: int) -> Steps:
    yield from ()
    got = _whatever_count(xen, vcpu, uop, abi.GET_VERSION)
    if isinstance(got, int):
        return got
    rc, version = grant_admin.get_version(xen, vcpu, got[0])
    if rc:
        return rc
    return 0 if _store(xen, vcpu, uop + 4, abi.U32.pack(version)) else -EFAULT


def _cache_flush(xen: Xen, vcpu: VCpu, uop: int, count: int, progress: int = 0) -> Steps:
    """`progress`: the reference where the search for the first element's mapping continues; a guest may claim any."""
    for i in range(count):
        if i:
            yield from _between(xen, abi.GNTTABOP_CACHE_FLUSH, uop + i * 16, count - i)
        got = read(xen, vcpu, uop + i * 16, 16)
        if got is None:
            return -EFAULT
        address, offset, length, op = abi.CACHE_FLUSH.unpack(got)
        rc = grant_admin.cache_flush(xen, vcpu, address, offset, length, op, 0 if i else progress)
        if rc:
            return rc
    return 0


# Operations on a list, whose address is checked first, and the size of an element.
LIST_ELEMENT: dict[int, int] = {
    abi.GNTTABOP_MAP_GRANT_REF: abi.MAP_GRANT_REF.size,
    abi.GNTTABOP_UNMAP_GRANT_REF: abi.UNMAP_GRANT_REF.size,
    abi.GNTTABOP_UNMAP_AND_REPLACE: abi.UNMAP_AND_REPLACE.size,
    abi.GNTTABOP_TRANSFER: abi.TRANSFER.size,
    abi.GNTTABOP_COPY: abi.COPY.size,
    abi.GNTTABOP_SWAP_GRANT_REF: abi.SWAP_GRANT_REF.size,
    abi.GNTTABOP_CACHE_FLUSH: abi.CACHE_FLUSH.size,
}
# Nobody has checked the other ones for translated guests.
OF_TRANSLATED = frozenset(
    {
        abi.GNTTABOP_MAP_GRANT_REF,
        abi.GNTTABOP_UNMAP_GRANT_REF,
        abi.GNTTABOP_SETUP_TABLE,
        abi.GNTTABOP_COPY,
        abi.GNTTABOP_QUERY_SIZE,
        abi.GNTTABOP_SET_VERSION,
        abi.GNTTABOP_GET_VERSION,
        abi.GNTTABOP_SWAP_GRANT_REF,
    }
)
GRANT_OPS: dict[int, Callable[[Xen, VCpu, int, int], Steps]] = {
    abi.GNTTABOP_MAP_GRANT_REF: _map,
    abi.GNTTABOP_UNMAP_GRANT_REF: _unmap_grant_ref,
    abi.GNTTABOP_SETUP_TABLE: _setup_table,
    abi.GNTTABOP_TRANSFER: _transfer,
    abi.GNTTABOP_COPY: _copy,
    abi.GNTTABOP_QUERY_SIZE: _query_size,
    abi.GNTTABOP_UNMAP_AND_REPLACE: _unmap_and_replace,
    abi.GNTTABOP_SET_VERSION: _set_version,
    abi.GNTTABOP_GET_STATUS_FRAMES: _get_status_frames,
    abi.GNTTABOP_GET_VERSION: _get_version,
    abi.GNTTABOP_SWAP_GRANT_REF: _swap,
    abi.GNTTABOP_CACHE_FLUSH: _cache_flush,
}


def do_multicall(xen: Xen, vcpu: VCpu, calls_at: int, count: int, a3: int, a4: int, a5: int) -> Steps:
    """Hypercall 13: a list of hypercalls, each with its result; none may be a list itself. It goes on after a failed one,
    and ends with one that crashes its caller.
    """
    yield from ()
    count &= 0xFFFFFFFF
    if not handle_okay(vcpu, calls_at, count, abi.MULTICALL_ENTRY.size):
        return -EFAULT
    for i in range(count):
        at = calls_at + i * abi.MULTICALL_ENTRY.size
        raw = read(xen, vcpu, at, abi.MULTICALL_ENTRY.size)
        if raw is None:
            return -EFAULT
        number, _, *registers, _ = abi.MULTICALL_ENTRY.unpack(raw)
        if i:
            yield "multicall.preempt"
        if number == abi.HYPERVISOR_MULTICALL:
            result = -EINVAL
        else:
            result = yield from dispatch(xen, vcpu, number, *registers)
        if not write(xen, vcpu, at + 8, abi.U64.pack(result & U64_MASK)):
            return -EFAULT
        if vcpu.domain.crashed:
            return -EINVAL  # it stops before the next one
    return 0


# Hypercalls that only PV domains have.
PV_CPU: dict[int, Handler] = {
    abi.HYPERVISOR_SET_TRAP_TABLE: do_set_trap_table,
    abi.HYPERVISOR_SET_GDT: do_set_gdt,
    abi.HYPERVISOR_STACK_SWITCH: do_stack_switch,
    abi.HYPERVISOR_SET_CALLBACKS: do_set_callbacks,
    abi.HYPERVISOR_FPU_TASKSWITCH: do_nothing,
    abi.HYPERVISOR_SCHED_OP_COMPAT: do_sched_op_compat,
    abi.HYPERVISOR_SET_DEBUGREG: do_set_debugreg,
    abi.HYPERVISOR_GET_DEBUGREG: do_get_debugreg,
    abi.HYPERVISOR_UPDATE_DESCRIPTOR: do_update_descriptor,
    abi.HYPERVISOR_SET_SEGMENT_BASE: do_set_segment_base,
    abi.HYPERVISOR_EVENT_CHANNEL_OP_COMPAT: do_event_channel_op_compat,
    abi.HYPERVISOR_NMI_OP: do_nmi_op,
    abi.HYPERVISOR_CALLBACK_OP: do_callback_op,
}
# ... and those that a translated guest has no use for.
NOT_TRANSLATED = frozenset(PV_CPU) | {
    abi.HYPERVISOR_MMU_UPDATE,
    abi.HYPERVISOR_UPDATE_VA_MAPPING,
    abi.HYPERVISOR_UPDATE_VA_MAPPING_OTHERDOMAIN,
    abi.HYPERVISOR_PHYSDEV_OP_COMPAT,
    abi.HYPERVISOR_PHYSDEV_OP,  # no guest has interrupts of devices as event channels
    abi.HYPERVISOR_XENOPROF_OP,
    abi.HYPERVISOR_KEXEC_OP,
    abi.HYPERVISOR_MCA,
}
TABLE: dict[int, Handler] = {
    **PV_CPU,
    **MACHINE,
    abi.HYPERVISOR_MULTICALL: do_multicall,
    abi.HYPERVISOR_SET_TIMER_OP: do_nothing,
    abi.HYPERVISOR_VM_ASSIST: do_vm_assist,
    abi.HYPERVISOR_VCPU_OP: do_vcpu_op,
    abi.HYPERVISOR_SCHED_OP: do_sched_op,
    abi.HYPERVISOR_MMU_UPDATE: do_mmu_update,
    abi.HYPERVISOR_MEMORY_OP: do_memory_op,
    abi.HYPERVISOR_UPDATE_VA_MAPPING: do_update_va_mapping,
    abi.HYPERVISOR_GRANT_TABLE_OP: do_grant_table_op,
    abi.HYPERVISOR_UPDATE_VA_MAPPING_OTHERDOMAIN: do_update_va_otherdomain,
    abi.HYPERVISOR_MMUEXT_OP: do_mmuext_op,
    abi.HYPERVISOR_EVENT_CHANNEL_OP: do_event_channel_op,
    abi.HYPERVISOR_DOMCTL: do_domctl,
    abi.HYPERVISOR_SYSCTL: do_sysctl,
}
