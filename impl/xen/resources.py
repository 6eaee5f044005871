"""XENMEM_acquire_resource: Xen's frames that belong to a domain, for that domain's controller.

Contents: sizes of resources, and the frames of grant tables. Not here: growing a grant table
(grant_admin.py). Source: Xen common/memory.c acquire_resource, common/grant_table.c gnttab_acquire_resource.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.abi import (
    EACCES,
    EFAULT,
    EINVAL,
    EIO,
    ENOENT,
    ENTRIES_V2,
    EOPNOTSUPP,
    EPERM,
    ESRCH,
    MEMOP_EXTENT_SHIFT,
    STATUS_PER_FRAME,
    U64,
)
from bulkhead.impl.xen.continuation import Preempted
from bulkhead.impl.xen.frames import Frame
from bulkhead.impl.xen.grant_admin import grant_frame
from bulkhead.impl.xen.guest_access import read, write
from bulkhead.impl.xen.physmap import set_foreign

if TYPE_CHECKING:
    from bulkhead.impl.xen.domains import Domain, VCpu
    from bulkhead.impl.xen.machine import Xen

IOREQ_SERVER = 0
GRANT_TABLE = 1
VMTRACE = 2
STATUS_FRAMES = 1
IOREQ_FRAMES = 2  # synchronous and buffered
AT_ONCE = 32
MAX_FRAMES = 0xFFFFFFFF >> MEMOP_EXTENT_SHIFT
U32_MASK = 0xFFFFFFFF


def resource_frames(domain: Domain, kind: int, number: int) -> int:
    """The maximum number of frames of a resource; 0 for none. An unknown kind gives an errno, cut to 32 bits, as in 4.17."""
    if kind == IOREQ_SERVER:
        return IOREQ_FRAMES if domain.external else 0
    if kind == GRANT_TABLE:
        most = domain.grant_table.max_frames
        if number == STATUS_FRAMES:
            return (most * ENTRIES_V2 + STATUS_PER_FRAME - 1) // STATUS_PER_FRAME
        return most if number == 0 else 0
    return 0 if kind == VMTRACE else -EOPNOTSUPP & U32_MASK


def _acquire(domain: Domain, kind: int, number: int, first: int, count: int) -> list[Frame] | int:
    """Frames of a resource, all of them or -errno; the grant table grows to the last one."""
    if kind == IOREQ_SERVER:
        return -ENOENT  # no device model has created one
    if kind != GRANT_TABLE:
        return -EOPNOTSUPP
    status = number == STATUS_FRAMES
    if status and domain.grant_table.version != 2:
        return -EINVAL
    if grant_frame(domain, first + count - 1, status) is None:
        return -EINVAL
    return (domain.grant_table.status if status else domain.grant_table.shared)[first : first + count]


def acquire_resource(xen: Xen, vcpu: VCpu, arg: int, start: int) -> Generator[str, None, int]:
    """Store frame numbers, or map frames into the translated hardware domain; without a list, the size; 0 or -errno."""
    caller = vcpu.domain
    if caller.external and caller is not xen.hardware_domain:
        return -EACCES
    raw = read(xen, vcpu, arg, abi.ACQUIRE_RESOURCE.size)
    if raw is None:
        return -EFAULT
    domid, kind, number, count, pad, first, list_at = abi.ACQUIRE_RESOURCE.unpack(raw)
    if pad or first + count > U32_MASK:
        return -EINVAL
    owner = xen.domains.get(domid)
    if owner is None:
        return -ESRCH
    if owner is caller:
        return -EPERM
    rc = xen.xsm.dm_priv("domain_resource_map", caller, owner)
    if rc:
        return rc
    most = resource_frames(owner, kind, number)
    if not most:
        return -EINVAL
    if not list_at:
        if count or start:
            return -EINVAL
        return 0 if write(xen, vcpu, arg + 8, abi.U32.pack(most)) else -EFAULT
    if start >= count or count > MAX_FRAMES:
        return -EINVAL
    done = start
    while done < count:
        if done > start:
            if xen.preemption.wanted():
                raise Preempted(abi.XENMEM_ACQUIRE_RESOURCE | done << MEMOP_EXTENT_SHIFT, arg)
            yield "memory.preempt"
        frames = _acquire(owner, kind, number, first + done, min(AT_ONCE, count - done))
        if isinstance(frames, int):
            return frames
        rc = _hand_out(xen, vcpu, list_at + done * 8, frames)
        if rc:
            return rc
        done += len(frames)
    return 0


def _hand_out(xen: Xen, vcpu: VCpu, at: int, frames: list[Frame]) -> int:
    if vcpu.domain.p2m is None:
        numbers = b"".join(U64.pack(frame.mfn) for frame in frames)
        return 0 if write(xen, vcpu, at, numbers) else -EFAULT
    raw = read(xen, vcpu, at, 8 * len(frames))
    if raw is None:
        return -EFAULT
    for i, frame in enumerate(frames):
        rc = set_foreign(xen, vcpu.domain, U64.unpack_from(raw, i * 8)[0], frame)
        if rc:
            return -EIO if i else rc
    return 0
