"""gntdev of BSD kernels: one device that maps grants and makes them, with pointers in its ioctl structs.

Contents: the BSD ioctl encoding and structs, and the file-offset space that own and foreign pages
share. Not here: the semantics, which are those of gntdev.py and gntalloc.py (a BSD kernel would allow several
mmaps of one range; here it is one, as on Linux). Source: FreeBSD sys/xen/gntdev.h.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from bulkhead.impl.dom0.areas import AreaKind, Vma
from bulkhead.impl.dom0.gntalloc import Gntalloc, GntallocPool
from bulkhead.impl.dom0.gntdev import Gntdev
from bulkhead.impl.dom0.ioctl import PAIR
from bulkhead.impl.dom0.kernel import Kernel, KernelError
from bulkhead.impl.dom0.process import AddressSpace, user_read, user_write
from bulkhead.impl.xen import abi

IOC_OUT: Final = 0x40000000
IOC_IN: Final = 0x80000000
NOTIFY: Final = Struct("<QII")  # index, action, port
ALLOC: Final = Struct("<HHIQQ")  # domid, flags, count, index OUT, pointer to references OUT
RANGE: Final = Struct("<QI4x")  # index, count
MAP: Final = Struct("<IIQQ")  # count, pad, index OUT, pointer to (domid, ref) pairs
OFFSET: Final = Struct("<QQI4x")  # vaddr, offset OUT, count OUT


def _ioc(direction: int, number: int, size: int) -> int:
    return direction | (size & 0x1FFF) << 16 | ord("E") << 8 | number


BSD_SET_UNMAP_NOTIFY: Final = _ioc(IOC_IN, 0, NOTIFY.size)
BSD_ALLOC_GREF: Final = _ioc(IOC_IN | IOC_OUT, 1, ALLOC.size)
BSD_DEALLOC_GREF: Final = _ioc(IOC_IN, 2, RANGE.size)
BSD_MAP_GRANT_REF: Final = _ioc(IOC_IN | IOC_OUT, 3, MAP.size)
BSD_UNMAP_GRANT_REF: Final = _ioc(IOC_IN, 4, RANGE.size)
BSD_GET_OFFSET_FOR_VADDR: Final = _ioc(IOC_IN | IOC_OUT, 5, OFFSET.size)
# File offsets of own pages start here; those of mapped grants lie below.
OWN_PAGES: Final = 1 << 40
COUNT_LIMIT: Final = 65536


class BsdGntdev:
    """One open file of the device."""

    __slots__ = ("foreign", "own")

    def __init__(self, kernel: Kernel, pool: GntallocPool) -> None:
        self.foreign = Gntdev(kernel)
        self.own = Gntalloc(pool)

    def _side(self, vma: Vma) -> Gntdev | Gntalloc:
        return self.own if isinstance(vma.private, dict) else self.foreign

    def mmap(self, vma: Vma, offset: int) -> None:
        """Own or foreign pages, by the file offset."""
        if offset >= OWN_PAGES:
            self.own.mmap(vma, offset - OWN_PAGES)
        else:
            self.foreign.mmap(vma, offset)

    def vma_open(self, vma: Vma) -> None:
        """A VMA was split or copied."""
        self._side(vma).vma_open(vma)

    def vma_close(self, vma: Vma) -> None:
        """A VMA is removed."""
        self._side(vma).vma_close(vma)

    def invalidate(self, vma: Vma, start: int, npages: int) -> None:
        """Pages are about to be unmapped."""
        self._side(vma).invalidate(vma, start, npages)

    def area(self) -> AreaKind:
        """Of either kind of mapping."""
        return AreaKind(foreign=True)

    def release(self) -> None:
        """Release of the file."""
        self.foreign.release()
        self.own.release()


def bsd_ioctl(device: BsdGntdev, space: AddressSpace, cmd: int, arg: int) -> int:
    """One ioctl: 0; KernelError with the errno, ENOTTY for an unknown command."""
    if cmd == BSD_MAP_GRANT_REF:
        count, pad, _, refs = MAP.unpack(user_read(space, arg, MAP.size))
        if not 0 < count <= COUNT_LIMIT:
            raise KernelError(abi.EINVAL)
        raw = user_read(space, refs, count * 8)
        index = device.foreign.map_grant_ref([PAIR.unpack_from(raw, i * 8) for i in range(count)])
        user_write(space, arg, MAP.pack(count, pad, index, refs))
    elif cmd == BSD_UNMAP_GRANT_REF:
        index, count = RANGE.unpack(user_read(space, arg, RANGE.size))
        device.foreign.unmap_grant_ref(index, count)
    elif cmd == BSD_GET_OFFSET_FOR_VADDR:
        vaddr, _, _ = OFFSET.unpack(user_read(space, arg, OFFSET.size))
        offset, count = device.foreign.get_offset(space, vaddr)
        user_write(space, arg, OFFSET.pack(vaddr, offset, count))
    elif cmd == BSD_SET_UNMAP_NOTIFY:
        index, action, port = NOTIFY.unpack(user_read(space, arg, NOTIFY.size))
        if index >= OWN_PAGES:
            device.own.set_unmap_notify(index - OWN_PAGES, action, port)
        else:
            device.foreign.set_unmap_notify(index, action, port)
    elif cmd == BSD_ALLOC_GREF:
        domid, flags, count, _, into = ALLOC.unpack(user_read(space, arg, ALLOC.size))
        offset, refs = device.own.alloc(domid, flags, count)
        user_write(space, into, b"".join(abi.U32.pack(ref) for ref in refs))
        user_write(space, arg, ALLOC.pack(domid, flags, count, OWN_PAGES + offset, into))
    elif cmd == BSD_DEALLOC_GREF:
        index, count = RANGE.unpack(user_read(space, arg, RANGE.size))
        device.own.dealloc(index - OWN_PAGES, count)
    else:
        raise KernelError(abi.ENOTTY)
    return 0
