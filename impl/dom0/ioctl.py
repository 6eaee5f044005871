"""ioctl numbers and structs of gntdev and gntalloc, in bytes of the process's memory.

Contents: decoding from and encoding to user memory. Not here: the semantics (gntdev.py, gntalloc.py).
Source: Linux include/uapi/xen/gntdev.h, gntalloc.h.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from bulkhead.impl.dom0.gntalloc import Gntalloc
from bulkhead.impl.dom0.gntdev import Gntdev, Segment
from bulkhead.impl.dom0.kernel import KernelError
from bulkhead.impl.dom0.process import AddressSpace, user_read, user_write
from bulkhead.impl.xen import abi


def _ioc(number: int, size: int) -> int:
    return (ord("G") << 8) | number | (size << 16)


GNTDEV_MAP_GRANT_REF: Final = _ioc(0, 24)
GNTDEV_UNMAP_GRANT_REF: Final = _ioc(1, 16)
GNTDEV_GET_OFFSET_FOR_VADDR: Final = _ioc(2, 24)
GNTDEV_SET_MAX_GRANTS: Final = _ioc(3, 4)
SET_UNMAP_NOTIFY: Final = _ioc(7, 16)
GNTDEV_GRANT_COPY: Final = _ioc(8, 16)
GNTALLOC_ALLOC_GREF: Final = _ioc(5, 24)
GNTALLOC_DEALLOC_GREF: Final = _ioc(6, 16)
RANGE: Final = Struct("<QII")
HEAD: Final = Struct("<IIQ")
ALLOC_HEAD: Final = Struct("<HHIQ")
PAIR: Final = Struct("<II")
COPY_HEAD: Final = Struct("<IIQ")
FOREIGN: Final = Struct("<IHH")
SEGMENT: Final = Struct("<8s8sHHhH")
STATUS_AT: Final = 20


def gntdev_ioctl(device: Gntdev, space: AddressSpace, cmd: int, arg: int) -> int:
    """One ioctl of gntdev: 0; KernelError with the errno, ENOTTY for an unknown command."""
    if cmd == GNTDEV_MAP_GRANT_REF:
        count = HEAD.unpack(user_read(space, arg, 16))[0]
        if not 0 < count <= 65536:
            raise KernelError(abi.EINVAL)
        raw = user_read(space, arg + 16, count * 8)
        offset = device.map_grant_ref([PAIR.unpack_from(raw, i * 8) for i in range(count)])
        user_write(space, arg + 8, abi.U64.pack(offset))
    elif cmd == GNTDEV_UNMAP_GRANT_REF:
        index, count, _ = RANGE.unpack(user_read(space, arg, 16))
        device.unmap_grant_ref(index, count)
    elif cmd == GNTDEV_GET_OFFSET_FOR_VADDR:
        index, count = device.get_offset(space, abi.U64.unpack(user_read(space, arg, 8))[0])
        user_write(space, arg + 8, RANGE.pack(index, count, 0)[:12])
    elif cmd == SET_UNMAP_NOTIFY:
        index, action, port = RANGE.unpack(user_read(space, arg, 16))
        device.set_unmap_notify(index, action, port)
    elif cmd == GNTDEV_GRANT_COPY:
        _copy(device, space, arg)
    else:
        raise KernelError(abi.ENOTTY)
    return 0


def _copy(device: Gntdev, space: AddressSpace, arg: int) -> None:
    count, _, at = COPY_HEAD.unpack(user_read(space, arg, 16))
    device.grant_copy(space, (_segment(space, at + i * SEGMENT.size) for i in range(count)))


def _segment(space: AddressSpace, at: int) -> Segment:
    """Read a segment from user memory; KernelError(EFAULT)."""
    source, dest, length, flags, _, _ = SEGMENT.unpack(user_read(space, at, SEGMENT.size))
    sides: list[int | tuple[int, int, int]] = []
    for raw, bit in ((source, abi.GNTCOPY_SOURCE_GREF), (dest, abi.GNTCOPY_DEST_GREF)):
        sides.append(FOREIGN.unpack(raw) if flags & bit else abi.U64.unpack(raw)[0])
    return Segment(sides[0], sides[1], length, flags, at + STATUS_AT)


def gntalloc_ioctl(device: Gntalloc, space: AddressSpace, cmd: int, arg: int) -> int:
    """One ioctl of gntalloc: 0; KernelError with the errno, ENOTTY for an unknown command."""
    if cmd == GNTALLOC_ALLOC_GREF:
        domid, flags, count, _ = ALLOC_HEAD.unpack(user_read(space, arg, 16))
        index, refs = device.alloc(domid, flags, count)
        user_write(space, arg + 8, abi.U64.pack(index) + b"".join(abi.U32.pack(ref) for ref in refs))
    elif cmd == GNTALLOC_DEALLOC_GREF:
        index, count, _ = RANGE.unpack(user_read(space, arg, 16))
        device.dealloc(index, count)
    elif cmd == SET_UNMAP_NOTIFY:
        index, action, port = RANGE.unpack(user_read(space, arg, 16))
        device.set_unmap_notify(index, action, port)
    else:
        raise KernelError(abi.ENOTTY)
    return 0
