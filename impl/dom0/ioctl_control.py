"""ioctl numbers and structs of privcmd and evtchn, in bytes of the process's memory.

What lives here: decoding from and encoding to user memory. What does not: the semantics (privcmd.py, evtchn.py).
Source: Linux include/uapi/xen/privcmd.h, evtchn.h.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from bulkhead.impl.dom0.evtchn import Evtchn
from bulkhead.impl.dom0.ioctl import user_read, user_write
from bulkhead.impl.dom0.kernel import KernelError
from bulkhead.impl.dom0.privcmd import Privcmd
from bulkhead.impl.dom0.process import AddressSpace
from bulkhead.impl.xen import abi


def _ioc(kind: str, number: int, size: int) -> int:
    return (ord(kind) << 8) | number | (size << 16)


HYPERCALL: Final = Struct("<6Q")  # op, arg[5]
MMAPBATCH_V2: Final = Struct("<IHHQQQ")  # num, dom, pad, addr, arr, err
MMAP_RESOURCE: Final = Struct("<HHIIIQQ")  # dom, pad, type, id, idx, num, addr
S32: Final = Struct("<i")
TWO: Final = Struct("<II")
PRIVCMD_HYPERCALL: Final = _ioc("P", 0, HYPERCALL.size)
PRIVCMD_MMAPBATCH_V2: Final = _ioc("P", 4, MMAPBATCH_V2.size)
PRIVCMD_RESTRICT: Final = _ioc("P", 6, 2)
PRIVCMD_MMAP_RESOURCE: Final = _ioc("P", 7, MMAP_RESOURCE.size)
EVTCHN_BIND_VIRQ: Final = _ioc("E", 0, 4)
EVTCHN_BIND_INTERDOMAIN: Final = _ioc("E", 1, 8)
EVTCHN_BIND_UNBOUND_PORT: Final = _ioc("E", 2, 4)
EVTCHN_UNBIND: Final = _ioc("E", 3, 4)
EVTCHN_NOTIFY: Final = _ioc("E", 4, 4)
EVTCHN_RESTRICT_DOMID: Final = _ioc("E", 6, 2)
BATCH_LIMIT: Final = 1 << 20


def privcmd_ioctl(device: Privcmd, space: AddressSpace, cmd: int, arg: int) -> int:
    """One ioctl of privcmd: its result; KernelError with the errno, ENOTTY for an unknown command."""
    if cmd == PRIVCMD_HYPERCALL:
        op, *args = HYPERCALL.unpack(user_read(space, arg, HYPERCALL.size))
        rc = device.hypercall(op, args, space)
        if rc < 0:
            raise KernelError(-rc)
        return rc
    if cmd == PRIVCMD_MMAPBATCH_V2:
        num, dom, _, addr, arr, err = MMAPBATCH_V2.unpack(user_read(space, arg, MMAPBATCH_V2.size))
        if not 0 < num <= BATCH_LIMIT or addr & 0xFFF:
            raise KernelError(abi.EINVAL)
        raw = user_read(space, arr, num * 8)
        gfns = [abi.U64.unpack_from(raw, i * 8)[0] for i in range(num)]
        errors = device.mmapbatch_v2(space, dom, addr >> 12, gfns)
        user_write(space, err, b"".join(S32.pack(each) for each in errors))
    elif cmd == PRIVCMD_RESTRICT:
        device.restrict(abi.U16.unpack(user_read(space, arg, 2))[0])
    elif cmd == PRIVCMD_MMAP_RESOURCE:
        dom, _, kind, rid, idx, num, addr = MMAP_RESOURCE.unpack(user_read(space, arg, MMAP_RESOURCE.size))
        if not 0 < num <= 256 or addr & 0xFFF:
            raise KernelError(abi.EINVAL)
        device.mmap_resource(space, dom, kind, rid, idx, addr >> 12, num)
    else:
        raise KernelError(abi.ENOTTY)
    return 0


def evtchn_ioctl(device: Evtchn, space: AddressSpace, cmd: int, arg: int) -> int:
    """One ioctl of evtchn: a port, or 0; KernelError with the errno, ENOTTY for an unknown command."""
    if cmd == EVTCHN_BIND_INTERDOMAIN:
        domid, port = TWO.unpack(user_read(space, arg, 8))
        return device.bind_interdomain(domid & 0xFFFF, port)
    if cmd == EVTCHN_RESTRICT_DOMID:
        device.restrict(abi.U16.unpack(user_read(space, arg, 2))[0])
        return 0
    if cmd not in (EVTCHN_BIND_VIRQ, EVTCHN_BIND_UNBOUND_PORT, EVTCHN_UNBIND, EVTCHN_NOTIFY):
        raise KernelError(abi.ENOTTY)
    number = abi.U32.unpack(user_read(space, arg, 4))[0]
    if cmd == EVTCHN_BIND_VIRQ:
        return device.bind_virq(number)
    if cmd == EVTCHN_BIND_UNBOUND_PORT:
        return device.bind_unbound_port(number & 0xFFFF)
    if cmd == EVTCHN_UNBIND:
        device.unbind(number)
    else:
        device.notify(number)
    return 0
