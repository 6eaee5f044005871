"""Argument handling of the PV memory hypercalls: batches of mmu_update and mmuext_op, update_va_mapping.

Contents: reading requests from guest memory, owners of a batch, progress. Not here: the effect of one
request (mmu.py, mmuext.py). Source: Xen arch/x86/mm.c do_mmu_update, do_mmuext_op.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from bulkhead.impl.xen.abi import EFAULT, EINVAL, ESRCH, MMU_UPDATE, MMU_UPDATE_PREEMPTED, MMUEXT_OP, U32
from bulkhead.impl.xen.continuation import Preempted
from bulkhead.impl.xen.guest_access import handle_okay, read, write
from bulkhead.impl.xen.mmu import get_pg_owner, mmu_update_one, owners, table_owner, update_va_mapping
from bulkhead.impl.xen.mmuext import mmuext_op_one

if TYPE_CHECKING:
    from bulkhead.impl.xen.domains import VCpu
    from bulkhead.impl.xen.machine import Xen

Steps = Generator[str, None, int]
U64_MASK = (1 << 64) - 1


def _report(xen: Xen, vcpu: VCpu, pdone: int, done: int, rc: int) -> int:
    """Store the number of successful requests; a fault in this store is ignored."""
    if pdone:
        write(xen, vcpu, pdone, U32.pack(done & 0xFFFFFFFF))
    return rc


def _progress(xen: Xen, vcpu: VCpu, requests: int, count: int, pdone: int) -> tuple[int, int, bool]:
    """How many requests are left, how many were done before, and whether only the end of an earlier call remains.

    A count with MMU_UPDATE_PREEMPTED continues an earlier call: `pdone`, in the guest's memory, holds the number done. It
    is trusted, as only the guest uses it. A count of only that bit, with no request left, returns the foreigndom argument.
    """
    count &= 0xFFFFFFFF
    if not count & MMU_UPDATE_PREEMPTED:
        return count, 0, False
    if count == MMU_UPDATE_PREEMPTED and not requests:
        return 0, 0, True
    raw = read(xen, vcpu, pdone, 4) if pdone else None
    return count & ~MMU_UPDATE_PREEMPTED, U32.unpack(raw)[0] if raw is not None else 0, False


def _signed(value: int) -> int:
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >> 31 else value


def do_mmu_update(xen: Xen, vcpu: VCpu, ureqs: int, count: int, pdone: int, foreigndom: int, a5: int) -> Steps:
    """Hypercall 1: a batch of page-table writes; stops at the first error, `pdone` says how many succeeded."""
    caller = vcpu.domain
    count, done, made = _progress(xen, vcpu, ureqs, count, pdone)
    if made:
        return _signed(foreigndom)
    if not handle_okay(vcpu, ureqs, count, MMU_UPDATE.size):
        return -EFAULT
    pt_owner = table_owner(xen, vcpu, foreigndom & 0xFFFFFFFF)
    if isinstance(pt_owner, int):
        return pt_owner
    pg_owner = owners(xen, vcpu, pt_owner, foreigndom & 0xFFFFFFFF)
    if isinstance(pg_owner, int):
        return _report(xen, vcpu, pdone, done, pg_owner)
    rc = 0
    for i in range(count):
        if i:
            if xen.preemption.wanted():
                pt_owner.flush_tlb()
                _report(xen, vcpu, pdone, done, 0)
                raise Preempted(ureqs + i * 16 & U64_MASK, count - i | MMU_UPDATE_PREEMPTED, pdone, foreigndom)
            yield "mmu.preempt"
        raw = read(xen, vcpu, ureqs + i * 16, 16)
        if raw is None:
            rc = -EFAULT
            break
        ptr, val = MMU_UPDATE.unpack(raw)
        rc = mmu_update_one(xen, caller, pt_owner, pg_owner, ptr, val)
        if rc:
            break
        done += 1
    yield "mmu.flush"
    pt_owner.flush_tlb()
    return _report(xen, vcpu, pdone, done, rc)


def do_mmuext_op(xen: Xen, vcpu: VCpu, uops: int, count: int, pdone: int, foreigndom: int, a5: int) -> Steps:
    """Hypercall 26: a batch of extended operations on one owner's frames."""
    count, done, made = _progress(xen, vcpu, uops, count, pdone)
    if made:
        return _signed(foreigndom)
    if not handle_okay(vcpu, uops, count, MMUEXT_OP.size):
        return -EFAULT
    pg_owner = get_pg_owner(xen, vcpu, foreigndom & 0xFFFF)
    if pg_owner is None:
        return -ESRCH
    if pg_owner.external:
        return -EINVAL
    rc = xen.xsm.target("mmuext_op", vcpu.domain, pg_owner)
    if rc:
        return rc
    for i in range(count):
        if i:
            if xen.preemption.wanted():
                _report(xen, vcpu, pdone, done, 0)
                raise Preempted(uops + i * 24 & U64_MASK, count - i | MMU_UPDATE_PREEMPTED, pdone, foreigndom)
            yield "mmu.preempt"
        raw = read(xen, vcpu, uops + i * 24, 24)
        if raw is None:
            rc = -EFAULT
            break
        cmd, _, arg1, arg2 = MMUEXT_OP.unpack(raw)
        rc = yield from mmuext_op_one(xen, vcpu, pg_owner, cmd, arg1, arg2)
        if rc:
            break
        done += 1
    return _report(xen, vcpu, pdone, done, rc)


def do_update_va_mapping(xen: Xen, vcpu: VCpu, addr: int, val: int, flags: int, a4: int, a5: int) -> Steps:
    """Hypercall 14."""
    return update_va_mapping(xen, vcpu, addr, val, flags)


def do_update_va_otherdomain(xen: Xen, vcpu: VCpu, addr: int, val: int, flags: int, domid: int, a5: int) -> Steps:
    """Hypercall 22."""
    return update_va_mapping(xen, vcpu, addr, val, flags, domid & 0xFFFF)


__all__ = ["do_mmu_update", "do_mmuext_op", "do_update_va_mapping", "do_update_va_otherdomain"]
