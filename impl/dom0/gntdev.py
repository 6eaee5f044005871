"""/dev/xen/gntdev: lets user processes map and copy other domains' grants.

Contents: the ioctls' semantics on decoded values and the mmap path of a PV kernel, which maps each page
twice (user entry, kernel address). Not here: ioctl numbers and structs in bytes (ioctl.py). Source: Linux
drivers/xen/gntdev.c, drivers/xen/grant-table.c.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from bulkhead.impl.dom0.areas import AreaKind, Vma
from bulkhead.impl.dom0.kernel import Kernel, KernelError
from bulkhead.impl.dom0.process import AddressSpace, Fault, user_write
from bulkhead.impl.xen import abi
from bulkhead.impl.xen.frames import Frame

LIMIT: Final = 65536
INVALID_HANDLE: Final = 0xFFFFFFFF
NOTIFY_CLEAR_BYTE: Final = 1
NOTIFY_SEND_EVENT: Final = 2
COPY_BATCH: Final = 16
NOT_ANSWERED: Final = 1  # status of an element that Xen did not come to (gnttab_set_map_op): a handle in it is nobody's
GUEST_AVAIL0: Final = 1 << abi.GNTMAP_GUEST_AVAIL_SHIFT


class GrantMap:
    """A range of grants at an index of one open file (struct gntdev_grant_map)."""

    __slots__ = (
        "count",
        "flags",
        "grants",
        "handles",
        "in_use",
        "index",
        "khandles",
        "notify_addr",
        "notify_flags",
        "notify_port",
        "removed",
        "slots",
        "space",
        "start",
        "users",
    )

    def __init__(self, grants: list[tuple[int, int]]) -> None:
        self.index = 0
        self.count = len(grants)
        self.grants = grants
        self.flags = 0
        self.users = 1
        self.in_use = False
        self.removed = [False] * self.count
        self.handles = [INVALID_HANDLE] * self.count
        self.khandles = [INVALID_HANDLE] * self.count
        self.slots: list[int] = []
        self.start = 0
        self.notify_flags = 0
        self.notify_addr = 0
        self.notify_port = 0
        self.space: AddressSpace | None = None


class Segment:
    """One grant-copy segment; a side is a user address or (ref, offset, domid). `told` is the address for its status."""

    __slots__ = ("dest", "flags", "length", "source", "status", "told")

    def __init__(
        self,
        source: int | tuple[int, int, int],
        dest: int | tuple[int, int, int],
        length: int,
        flags: int,
        told: int | None = None,
    ) -> None:
        self.source = source
        self.dest = dest
        self.length = length
        self.flags = flags
        self.told = told
        self.status: int | None = None

    def tell(self, space: AddressSpace, status: int) -> None:
        """Write the status into the process's memory; KernelError(EFAULT)."""
        self.status = status
        if self.told is not None:
            user_write(space, self.told, abi.STATUS.pack(status))


class Gntdev:
    """One open file of the device."""

    __slots__ = ("kernel", "maps")

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.maps: list[GrantMap] = []

    # --- ioctls ---
    def map_grant_ref(self, grants: Sequence[tuple[int, int]]) -> int:
        """MAP_GRANT_REF: reserve an index for (domid, ref) pairs; the byte offset to mmap. Nothing is checked."""
        if not 0 < len(grants) <= LIMIT:
            raise KernelError(abi.EINVAL)
        new = GrantMap(list(grants))
        position = len(self.maps)
        for i, other in enumerate(self.maps):
            if new.index + new.count < other.index:
                position = i
                break
            new.index = other.index + other.count
        self.maps.insert(position, new)
        return new.index << 12

    def _find(self, index: int, count: int) -> GrantMap | None:
        for each in self.maps:
            if each.index == index:
                return each if not count or each.count == count else None
        return None

    def unmap_grant_ref(self, offset: int, count: int) -> None:
        """UNMAP_GRANT_REF: remove a range (count 0 matches any); its mappings stay. ENOENT if unknown."""
        found = self._find(offset >> 12, count)
        if found is None:
            raise KernelError(abi.ENOENT)
        self.maps.remove(found)
        self._put(found)

    def get_offset(self, space: AddressSpace, addr: int) -> tuple[int, int]:
        """GET_OFFSET_FOR_VADDR: (byte offset, count) of the mapping at or above an address; EINVAL if foreign."""
        vma = space.find(addr >> 12)
        if vma is None or not isinstance(vma.private, GrantMap):
            raise KernelError(abi.EINVAL)
        return vma.private.index << 12, vma.private.count

    def set_unmap_notify(self, index: int, action: int, port: int) -> None:
        """SET_UNMAP_NOTIFY on the byte `index` of the file's space; EINVAL or ENOENT."""
        if action & ~(NOTIFY_CLEAR_BYTE | NOTIFY_SEND_EVENT):
            raise KernelError(abi.EINVAL)
        # Take the reference to the new port before dropping the old one: they may be the same port.
        if action & NOTIFY_SEND_EVENT and not self.kernel.hold_port(port):
            raise KernelError(abi.EINVAL)
        each = next((m for m in self.maps if m.index << 12 <= index < (m.index + m.count) << 12), None)
        if each is None or (action & NOTIFY_CLEAR_BYTE and each.flags & abi.GNTMAP_READONLY):
            if action & NOTIFY_SEND_EVENT:
                self.kernel.put_port(port)
            raise KernelError(abi.ENOENT if each is None else abi.EINVAL)
        if each.notify_flags & NOTIFY_SEND_EVENT:
            self.kernel.put_port(each.notify_port)
        each.notify_flags = action
        each.notify_addr = index - (each.index << 12)
        each.notify_port = port

    def grant_copy(self, space: AddressSpace, segments: Iterable[Segment]) -> None:
        """GRANT_COPY, segment by segment as they are read; sets the status of each.

        On KernelError, full batches have taken effect and queued segments are dropped.
        """
        batch: list[tuple[bytes, Segment]] = []
        for seg in segments:
            self._queue_segment(space, seg, batch)
        self._flush_copy(space, batch)

    def _queue_segment(self, space: AddressSpace, seg: Segment, batch: list[tuple[bytes, Segment]]) -> None:
        if not isinstance(seg.source, tuple) and not isinstance(seg.dest, tuple):
            raise KernelError(abi.EINVAL)
        for side in (seg.source, seg.dest):
            if isinstance(side, tuple) and side[1] + seg.length > abi.PAGE_SIZE:
                raise KernelError(abi.EINVAL)
        seg.tell(space, abi.GNTST_OKAY)
        copied = 0
        while copied < seg.length:
            if len(batch) >= COPY_BATCH:
                self._flush_copy(space, batch)
            size = seg.length - copied
            words: list[int] = []
            for side, writing in ((seg.source, False), (seg.dest, True)):
                if isinstance(side, tuple):
                    words += [side[0], side[2], side[1] + copied, 0]
                else:
                    addr = side + copied
                    off = addr & 0xFFF
                    size = min(size, abi.PAGE_SIZE - off)
                    words += [self._user_page(space, addr, writing).mfn, abi.DOMID_SELF, off, 0]
            batch.append((abi.COPY.pack(*words, size, seg.flags & 3, 0, 0), seg))
            copied += size

    @staticmethod
    def _user_page(space: AddressSpace, addr: int, writing: bool) -> Frame:
        """The page behind a user address, perhaps another domain's; EFAULT for foreign mappings, which have none."""
        vma = space.find(addr >> 12)
        kind = None if vma is None else vma.kind
        if vma is None or (kind is not None and kind.raw and addr >> 12 not in space.anon):
            raise KernelError(abi.EFAULT)
        try:
            return space.access(addr, writing)
        except Fault as exc:
            raise KernelError(abi.EFAULT) from exc

    def _flush_copy(self, space: AddressSpace, batch: list[tuple[bytes, Segment]]) -> None:
        if not batch:
            return
        _, out = self.kernel.grant_op(abi.GNTTABOP_COPY, [op for op, _ in batch])
        for raw, (_, seg) in zip(out, batch, strict=True):
            status = abi.STATUS.unpack_from(raw, 36)[0]
            if status and seg.status == abi.GNTST_OKAY:
                seg.tell(space, status)
        batch.clear()

    # --- mmap ---
    def mmap(self, vma: Vma, offset: int) -> None:
        """Map a whole range once; if any page fails, all fail with EINVAL."""
        if vma.writable and not vma.shared:
            raise KernelError(abi.EINVAL)
        found = self._find(offset >> 12, vma.end - vma.start)
        if found is None or found.in_use:
            raise KernelError(abi.EINVAL)
        # Allocate everything that may run out first, while there is nothing to undo.
        if len(self.kernel.free_slots) < found.count:
            raise KernelError(abi.ENOMEM)
        vma.space.prepare(vma)
        found.in_use = True
        found.users += 1
        vma.private = found
        vma.dontcopy = True
        found.flags = abi.GNTMAP_HOST_MAP | (0 if vma.writable else abi.GNTMAP_READONLY)
        found.start = vma.start
        found.space = vma.space
        found.slots = [self.kernel.alloc_slot() for _ in range(found.count)]
        if not self._map_pages(found):
            self._unmap_pages(found, 0, found.count)
            vma.private = None
            self._put(found)
            raise KernelError(abi.EINVAL)

    def _map_pages(self, gmap: GrantMap) -> bool:
        space = gmap.space
        assert space is not None
        user = gmap.flags | abi.GNTMAP_APPLICATION_MAP | abi.GNTMAP_CONTAINS_PTE | GUEST_AVAIL0
        okay = True
        for handles, flags in ((gmap.handles, user), (gmap.khandles, gmap.flags)):
            ops = []
            for i, (domid, ref) in enumerate(gmap.grants):
                addr = space.pte_maddr(gmap.start + i) if flags == user else self.kernel.layout.window_va(gmap.slots[i])
                ops.append(abi.MAP_GRANT_REF.pack(addr, flags, ref & 0xFFFFFFFF, domid & 0xFFFF, NOT_ANSWERED, 0, 0))
            rc, out = self.kernel.grant_op(abi.GNTTABOP_MAP_GRANT_REF, ops)
            okay = okay and rc == 0
            for i, raw in enumerate(out):
                _, _, _, _, status, handle, _ = abi.MAP_GRANT_REF.unpack(raw)
                if status == abi.GNTST_OKAY:
                    handles[i] = handle
                else:
                    okay = False
        return okay

    def _unmap_pages(self, gmap: GrantMap, offset: int, pages: int) -> None:
        """Unmap the mapped grants of a range, one call for each contiguous run, user entries before kernel entries."""
        end = offset + pages
        while offset < end:
            while offset < end and gmap.removed[offset]:
                offset += 1
            first = offset
            while offset < end and not gmap.removed[offset]:
                gmap.removed[offset] = True
                offset += 1
            if offset > first:
                self._unmap_run(gmap, first, offset)

    def _unmap_run(self, gmap: GrantMap, first: int, end: int) -> None:
        space = gmap.space
        if space is None:
            return
        page = gmap.notify_addr >> 12
        if gmap.notify_flags & NOTIFY_CLEAR_BYTE and first <= page < end:
            self.kernel.poke_slot(gmap.slots[page], gmap.notify_addr & 0xFFF, b"\0")
            gmap.notify_flags &= ~NOTIFY_CLEAR_BYTE
        ops = [
            abi.UNMAP_GRANT_REF.pack(space.pte_maddr(gmap.start + i), 0, gmap.handles[i], 0, 0) for i in range(first, end)
        ]
        self.kernel.grant_op(abi.GNTTABOP_UNMAP_GRANT_REF, ops)
        kops = [
            abi.UNMAP_GRANT_REF.pack(self.kernel.layout.window_va(gmap.slots[i]), 0, gmap.khandles[i], 0, 0)
            for i in range(first, end)
        ]
        self.kernel.grant_op(abi.GNTTABOP_UNMAP_GRANT_REF, kops)
        for i in range(first, end):
            gmap.handles[i] = gmap.khandles[i] = INVALID_HANDLE

    def _put(self, gmap: GrantMap) -> None:
        gmap.users -= 1
        if gmap.users:
            return
        self._unmap_pages(gmap, 0, gmap.count)
        self.kernel.free_slots.extend(reversed(gmap.slots))
        gmap.slots = []
        if gmap.notify_flags & NOTIFY_SEND_EVENT:
            gmap.notify_flags = 0
            self.kernel.notice(gmap.notify_port)

    # --- file and VMA life ---
    def vma_open(self, vma: Vma) -> None:
        """A split half takes a reference to the map too."""
        if isinstance(vma.private, GrantMap):
            vma.private.users += 1

    def vma_close(self, vma: Vma) -> None:
        """A VMA drops its reference to the map."""
        gmap, vma.private = vma.private, None
        if isinstance(gmap, GrantMap):
            self._put(gmap)

    def invalidate(self, vma: Vma, start: int, npages: int) -> None:
        """Unmap exactly these pages in Xen, each only once, also those that another half of the VMA has."""
        gmap = vma.private
        if isinstance(gmap, GrantMap):
            low = max(start, gmap.start)
            high = min(start + npages, gmap.start + gmap.count)
            if low < high:
                self._unmap_pages(gmap, low - gmap.start, high - low)

    def area(self) -> AreaKind:
        """What the kernel may do with its mappings."""
        return AreaKind(foreign=True)

    def release(self) -> None:
        """Release of the file: drop the list's references to its maps."""
        while self.maps:
            self._put(self.maps.pop(0))
