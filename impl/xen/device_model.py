"""dm_op (hypercall 41): what a device model asks of a translated guest.

Contents: the buffers, their checks, and the operations that need no device model: the number of vCPUs, and the guest's end.
Not here: the other operations (ioreq servers, interrupts, dirty video memory; NOT_OFFERED): no device model runs on this
machine. Source: Xen arch/x86/hvm/dm.c (dm_op), common/dm.c.
"""

from __future__ import annotations

from collections.abc import Generator
from struct import Struct
from typing import TYPE_CHECKING, Final

from bulkhead.impl.xen.abi import E2BIG, EFAULT, EINVAL, ENODATA, EOPNOTSUPP, EPERM, ESRCH, U32
from bulkhead.impl.xen.guest_access import read, write

if TYPE_CHECKING:
    from bulkhead.impl.xen.domains import VCpu
    from bulkhead.impl.xen.machine import Xen

Steps = Generator[str, None, int]
BUFFERS: Final = 2
BUFFER: Final = Struct("<QQ")  # address, size
OPERATION: Final = Struct("<II")  # operation, padding; its struct follows
REMOTE_SHUTDOWN, NR_VCPUS = 16, 20
# Sizes of the operations' structs; there is no operation 0, and 19 is not of this processor.
SIZES: Final = (0, 6, 24, 24, 24, 4, 4, 16, 6, 2, 2, 8, 16, 24, 16, 16, 4, 24, 24, 0, 4)
NOT_OFFERED: Final = "ioreq servers, interrupts, video memory and caches of emulated devices: no device model runs"


def do_dm_op(xen: Xen, vcpu: VCpu, domid: int, count: int, buffers: int, a4: int, a5: int) -> Steps:
    """Hypercall 41."""
    yield from ()
    count &= 0xFFFFFFFF
    if count > BUFFERS:
        return -E2BIG
    listed = read(xen, vcpu, buffers, BUFFER.size * count)
    if listed is None:
        return -EFAULT
    if not count:
        return -ENODATA
    domain = xen.domains.get(domid & 0xFFFF)
    if domain is None:
        return -ESRCH
    if domain is vcpu.domain:
        return -EPERM
    if not domain.external:
        return -EINVAL
    rc = xen.xsm.dm_priv("dm_op", vcpu.domain, domain)
    if rc:
        return rc
    at, size = BUFFER.unpack_from(listed)
    head = read(xen, vcpu, at, OPERATION.size) if size >= OPERATION.size else None
    if head is None:
        return -EFAULT
    operation, padding = OPERATION.unpack(head)
    if operation >= len(SIZES):
        return -EOPNOTSUPP
    if size < OPERATION.size + SIZES[operation]:
        return -EFAULT
    body = read(xen, vcpu, at + OPERATION.size, SIZES[operation])
    if body is None:
        return -EFAULT
    if padding:
        return -EINVAL
    if operation == REMOTE_SHUTDOWN:
        domain.stop(U32.unpack(body)[0])
        return 0
    if operation == NR_VCPUS:
        return 0 if write(xen, vcpu, at + OPERATION.size, U32.pack(domain.max_vcpus)) else -EFAULT
    return -EOPNOTSUPP
