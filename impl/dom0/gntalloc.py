"""/dev/xen/gntalloc: lets user processes grant Dom0 pages to other domains.

Contents: allocation with the global page limit, mmap of the pages, notification, and the deferred list for
pages that a peer still maps. Not here: ioctl structs (ioctl.py). Source: Linux drivers/xen/gntalloc.c,
drivers/xen/grant-table.c (gnttab_end_foreign_access, deferred entries).
"""

from __future__ import annotations

from typing import Final

from bulkhead.impl.dom0.areas import AreaKind, Vma
from bulkhead.impl.dom0.gntdev import NOTIFY_CLEAR_BYTE, NOTIFY_SEND_EVENT
from bulkhead.impl.dom0.kernel import Kernel, KernelError
from bulkhead.impl.xen import abi
from bulkhead.impl.xen.frames import Frame
from bulkhead.impl.xen.pagetables import PTE_A, PTE_D, PTE_P, PTE_RW, PTE_USER

PAGE_LIMIT: Final = 1024
FLAG_WRITABLE: Final = 1


class GrantedPage:
    """One page granted by the device (struct gntalloc_gref)."""

    __slots__ = ("frame", "notify_flags", "notify_offset", "notify_port", "offset", "ref", "users")

    def __init__(self, frame: Frame, ref: int, offset: int) -> None:
        self.frame = frame
        self.ref = ref
        self.offset = offset
        self.users = 1
        self.notify_flags = 0
        self.notify_offset = 0
        self.notify_port = 0


class GntallocPool:
    """State shared by all open files: the page count for the limit, and the deferred pages."""

    __slots__ = ("count", "deferred", "kernel", "limit")

    def __init__(self, kernel: Kernel, limit: int = PAGE_LIMIT) -> None:
        self.kernel = kernel
        self.count = 0
        self.limit = limit
        self.deferred: list[GrantedPage] = []

    def free(self, page: GrantedPage) -> None:
        """Notify, revoke the grant and free the page, or defer that until the peer unmaps it."""
        if page.notify_flags & NOTIFY_CLEAR_BYTE:
            page.frame.bytes()[page.notify_offset] = 0
        if page.notify_flags & NOTIFY_SEND_EVENT:
            self.kernel.notice(page.notify_port)
        page.notify_flags = 0
        if not self._reclaim(page):
            self.deferred.append(page)

    def _reclaim(self, page: GrantedPage) -> bool:
        if not self.kernel.end_access(page.ref):
            return False
        self.kernel.free_page(page.frame)
        self.count -= 1
        return True

    def retry_deferred(self) -> int:
        """The deferred timer: free pages that peers have unmapped; returns how many are left."""
        self.deferred = [page for page in self.deferred if not self._reclaim(page)]
        return len(self.deferred)


class Gntalloc:
    """One open file of the device."""

    __slots__ = ("next_offset", "pages", "pool")

    def __init__(self, pool: GntallocPool) -> None:
        self.pool = pool
        self.pages: list[GrantedPage] = []
        self.next_offset = 0

    def alloc(self, domid: int, flags: int, count: int) -> tuple[int, list[int]]:
        """ALLOC_GREF: (byte offset for mmap, references). ENOSPC beyond the limit of the whole machine.

        A count of 0 succeeds. The offset stays used even if no page or reference is left.
        """
        self.pool.retry_deferred()
        if self.pool.count + count > self.pool.limit:
            raise KernelError(abi.ENOSPC)
        kernel = self.pool.kernel
        made: list[GrantedPage] = []
        start = self.next_offset
        self.next_offset += count << 12
        try:
            for i in range(count):
                frame = kernel.alloc_page()
                try:
                    ref = kernel.grant_access(domid, frame, not flags & FLAG_WRITABLE)
                except KernelError:
                    kernel.free_page(frame)
                    raise
                self.pool.count += 1
                made.append(GrantedPage(frame, ref, start + (i << 12)))
        except KernelError:
            for page in made:
                self.pool.free(page)
            raise
        self.pages += made
        return start, [page.ref for page in made]

    def _range(self, offset: int, count: int) -> list[GrantedPage] | None:
        for i, page in enumerate(self.pages):
            if page.offset == offset:
                found = self.pages[i : i + count]
                right = len(found) == count and all(p.offset == offset + (j << 12) for j, p in enumerate(found))
                return found if right else None
        return None

    def dealloc(self, offset: int, count: int) -> None:
        """DEALLOC_GREF: take a consecutive range off the file; mapped pages stay. EINVAL if there is no such range."""
        found = self._range(offset, count) if count else None
        if not found:
            raise KernelError(abi.EINVAL)
        for page in found:
            self.pages.remove(page)
            self._put(page)

    def set_unmap_notify(self, index: int, action: int, port: int) -> None:
        """SET_UNMAP_NOTIFY on a byte of one of the file's pages; EINVAL or ENOENT."""
        page = next((p for p in self.pages if p.offset == index & ~0xFFF), None)
        if page is None:
            raise KernelError(abi.ENOENT)
        if action & ~(NOTIFY_CLEAR_BYTE | NOTIFY_SEND_EVENT):
            raise KernelError(abi.EINVAL)
        # Take the reference to the new port before dropping the old one: they may be the same port.
        if action & NOTIFY_SEND_EVENT and not self.pool.kernel.hold_port(port):
            raise KernelError(abi.EINVAL)
        if page.notify_flags & NOTIFY_SEND_EVENT:
            self.pool.kernel.put_port(page.notify_port)
        page.notify_flags, page.notify_offset, page.notify_port = action, index & 0xFFF, port

    def _put(self, page: GrantedPage) -> None:
        page.users -= 1
        if page.users == 0:
            self.pool.free(page)

    def mmap(self, vma: Vma, offset: int) -> None:
        """Map own granted pages, read-only grants too; EINVAL unless shared, ENOENT for an unknown range."""
        if not vma.shared:
            raise KernelError(abi.EINVAL)
        found = self._range(offset & ~0xFFF, vma.end - vma.start)
        if found is None:
            raise KernelError(abi.ENOENT)
        vma.space.prepare(vma)
        flags = (PTE_P if vma.prot else 0) | PTE_USER | PTE_A | PTE_D | (PTE_RW if vma.writable else 0)
        for i, page in enumerate(found):
            page.users += 1
            vma.space.set_pte(vma.start + i, (page.frame.mfn << 12) | flags)
        vma.private = {vma.start + i: page for i, page in enumerate(found)}

    def _held(self, vma: Vma) -> list[GrantedPage]:
        pages = vma.private
        if not isinstance(pages, dict):
            return []
        return list(pages.values())

    def vma_open(self, vma: Vma) -> None:
        """A copied mapping takes references to all its pages too."""
        for page in self._held(vma):
            page.users += 1

    def vma_close(self, vma: Vma) -> None:
        """A mapping drops its page references."""
        for page in self._held(vma):
            self._put(page)
        vma.private = None

    def invalidate(self, vma: Vma, start: int, npages: int) -> None:
        """Nothing to do in Xen: these are own pages."""

    def area(self) -> AreaKind:
        """What the kernel may do with its mappings."""
        return AreaKind()

    def release(self) -> None:
        """Release of the file."""
        while self.pages:
            self._put(self.pages.pop(0))
