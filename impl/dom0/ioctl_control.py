"""ioctl numbers and structs of privcmd and evtchn, in bytes of the process's memory.

Contents: decoding from and encoding to user memory. Not here: the semantics (privcmd.py, evtchn.py).
Source: Linux include/uapi/xen/privcmd.h, evtchn.h.
"""

from __future__ import annotations

from struct import Struct, unpack
from typing import Final

from bulkhead.impl.dom0.evtchn import Evtchn
from bulkhead.impl.dom0.kernel import KernelError
from bulkhead.impl.dom0.privcmd import DM_BUFFER, Privcmd
from bulkhead.impl.dom0.process import AddressSpace, user_read, user_write
from bulkhead.impl.xen import abi


def _ioc(kind: str, number: int, size: int) -> int:
    return (ord(kind) << 8) | number | (size << 16)


HYPERCALL: Final = Struct("<6Q")  # op, arg[5]
MMAPBATCH_V2: Final = Struct("<IHHQQQ")  # num, dom, pad, addr, arr, err
MMAPBATCH: Final = Struct("<IHHQQ")  # num, dom, pad, addr, arr
MMAP: Final = Struct("<iHHQ")  # num, dom, pad, entries
ENTRY: Final = Struct("<3Q")  # va, mfn, npages
MFN_ERROR: Final = 0xF0000000
MMAP_RESOURCE: Final = Struct("<HHIIIQQ")  # dom, pad, type, id, idx, num, addr
DM_OP: Final = Struct("<HH4xQ")  # dom, num, buffers
MOST_BUFFERS, BUFFER_BYTES = 16, 4096
USER_END: Final = 0x7FFFFFFFF000
S32: Final = Struct("<i")
TWO: Final = Struct("<II")
PRIVCMD_HYPERCALL: Final = _ioc("P", 0, HYPERCALL.size)
PRIVCMD_MMAP: Final = _ioc("P", 2, MMAP.size)
PRIVCMD_MMAPBATCH: Final = _ioc("P", 3, MMAPBATCH.size)
PRIVCMD_MMAPBATCH_V2: Final = _ioc("P", 4, MMAPBATCH_V2.size)
PRIVCMD_DM_OP: Final = _ioc("P", 5, DM_OP.size)
PRIVCMD_RESTRICT: Final = _ioc("P", 6, 2)
PRIVCMD_MMAP_RESOURCE: Final = _ioc("P", 7, MMAP_RESOURCE.size)
EVTCHN_BIND_VIRQ: Final = _ioc("E", 0, 4)
EVTCHN_BIND_INTERDOMAIN: Final = _ioc("E", 1, 8)
EVTCHN_BIND_UNBOUND_PORT: Final = _ioc("E", 2, 4)
EVTCHN_UNBIND: Final = _ioc("E", 3, 4)
EVTCHN_NOTIFY: Final = _ioc("E", 4, 4)
EVTCHN_RESET: Final = _ioc("E", 5, 0)
EVTCHN_RESTRICT_DOMID: Final = _ioc("E", 6, 2)
LIST_STEP: Final = abi.PAGE_SIZE // 8  # frame numbers of one page of a list
NUM_AT: Final = 16  # of `num` in struct privcmd_mmap_resource


def privcmd_ioctl(device: Privcmd, space: AddressSpace, cmd: int, arg: int) -> int:
    """One ioctl of privcmd: its result; KernelError with the errno, ENOTTY for an unknown command."""
    if cmd == PRIVCMD_HYPERCALL:
        op, *args = HYPERCALL.unpack(user_read(space, arg, HYPERCALL.size))
        rc = device.hypercall(op, args, space)
        if rc < 0:
            raise KernelError(-rc)
        return rc
    if cmd == PRIVCMD_MMAPBATCH_V2:
        _mmapbatch(device, space, arg)
    elif cmd == PRIVCMD_MMAPBATCH:
        _mmapbatch_v1(device, space, arg)
    elif cmd == PRIVCMD_MMAP:
        _mmap(device, space, arg)
    elif cmd == PRIVCMD_DM_OP:
        return _dm_op(device, space, arg)
    elif cmd == PRIVCMD_RESTRICT:
        device.restrict(abi.U16.unpack(user_read(space, arg, 2))[0])
    elif cmd == PRIVCMD_MMAP_RESOURCE:
        _mmap_resource(device, space, arg)
    else:
        raise KernelError(abi.ENOTTY)
    return 0


def _dm_op(device: Privcmd, space: AddressSpace, arg: int) -> int:
    """DM_OP: its buffers are checked one by one; none at all is nothing to do."""
    dom, num, at = DM_OP.unpack(user_read(space, arg, DM_OP.size))
    device.check(dom)
    if not num:
        return 0
    if num > MOST_BUFFERS:
        raise KernelError(abi.E2BIG)
    raw = user_read(space, at, num * DM_BUFFER.size)
    buffers = [(addr, size) for addr, size in DM_BUFFER.iter_unpack(raw)]
    for addr, size in buffers:
        if size > BUFFER_BYTES:
            raise KernelError(abi.E2BIG)
        if addr + size > USER_END:
            raise KernelError(abi.EFAULT)
    rc = device.dm_op(space, dom, buffers)
    if rc < 0:
        raise KernelError(-rc)
    return rc


def _mmapbatch(device: Privcmd, space: AddressSpace, arg: int) -> None:
    """MMAPBATCH_V2: read the list and zero the errors before the address is checked."""
    num, dom, _, addr, arr, err = MMAPBATCH_V2.unpack(user_read(space, arg, MMAPBATCH_V2.size))
    device.check(dom)
    gfns = _frames(space, num, arr)
    user_write(space, err, bytes(S32.size * num))
    errors = device.mmapbatch_v2(space, dom, addr, gfns)
    if any(errors):
        user_write(space, err, b"".join(S32.pack(each) for each in errors))


def _frames(space: AddressSpace, num: int, arr: int) -> list[int]:
    """The frame numbers of a batch; EINVAL for none."""
    if not num:
        raise KernelError(abi.EINVAL)
    gfns: list[int] = []
    for first in range(0, num, LIST_STEP):  # page by page: too large a count faults early
        count = min(LIST_STEP, num - first)
        gfns += unpack(f"<{count}Q", user_read(space, arr + first * 8, count * 8))
    return gfns


def _mmapbatch_v1(device: Privcmd, space: AddressSpace, arg: int) -> None:
    """MMAPBATCH: the frame number of a page that fails is marked in the list."""
    num, dom, _, addr, arr = MMAPBATCH.unpack(user_read(space, arg, MMAPBATCH.size))
    device.check(dom)
    gfns = _frames(space, num, arr)
    for i, error in enumerate(device.mmapbatch_v2(space, dom, addr, gfns)):
        if error:
            user_write(space, arr + 8 * i, abi.U64.pack(gfns[i] | MFN_ERROR))


def _mmap(device: Privcmd, space: AddressSpace, arg: int) -> None:
    """MMAP, the oldest foreign mapping: runs of frames, the first at the start of an unfilled area."""
    num, dom, _, entries = MMAP.unpack(user_read(space, arg, MMAP.size))
    device.check(dom)
    runs = [ENTRY.unpack(user_read(space, entries + i * ENTRY.size, ENTRY.size)) for i in range(max(num, 0))]
    if runs:
        device.mmap_runs(space, dom, runs)


def _mmap_resource(device: Privcmd, space: AddressSpace, arg: int) -> None:
    """MMAP_RESOURCE: address and number are both given, or neither to query the size."""
    dom, _, kind, rid, idx, num, addr = MMAP_RESOURCE.unpack(user_read(space, arg, MMAP_RESOURCE.size))
    device.check(dom)
    if bool(addr) != bool(num):
        raise KernelError(abi.EINVAL)
    if addr:
        device.mmap_resource(space, dom, kind, rid, idx, addr, num)
    else:
        user_write(space, arg + NUM_AT, abi.U64.pack(device.resource_size(dom, kind, rid)))


def evtchn_ioctl(device: Evtchn, space: AddressSpace, cmd: int, arg: int) -> int:
    """One ioctl of evtchn: a port, or 0; KernelError with the errno, ENOSYS for an unknown command."""
    if cmd == EVTCHN_RESET:
        device.reset()
        return 0
    if cmd == EVTCHN_BIND_INTERDOMAIN:
        return device.bind_interdomain(*TWO.unpack(user_read(space, arg, 8)))
    if cmd == EVTCHN_RESTRICT_DOMID:
        device.restrict(abi.U16.unpack(_unrestricted_read(device, space, arg, 2))[0])
        return 0
    if cmd not in (EVTCHN_BIND_VIRQ, EVTCHN_BIND_UNBOUND_PORT, EVTCHN_UNBIND, EVTCHN_NOTIFY):
        raise KernelError(abi.ENOSYS)
    if cmd == EVTCHN_BIND_VIRQ:
        return device.bind_virq(abi.U32.unpack(_unrestricted_read(device, space, arg, 4))[0])
    if cmd == EVTCHN_BIND_UNBOUND_PORT:
        return device.bind_unbound_port(abi.U32.unpack(_unrestricted_read(device, space, arg, 4))[0])
    number = abi.U32.unpack(user_read(space, arg, 4))[0]
    if cmd == EVTCHN_UNBIND:
        device.unbind(number)
    else:
        device.notify(number)
    return 0


def _unrestricted_read(device: Evtchn, space: AddressSpace, arg: int, size: int) -> bytes:
    """The argument of a call that a restricted file may not make: EACCES comes before EFAULT."""
    try:
        return user_read(space, arg, size)
    except KernelError:
        device.unrestricted()
        raise
