"""/dev/xen/hypercall: memory of the kernel's for the arguments of a process's hypercalls.

Contents: mmap, and the life of the pages, which ends with the last mapping of them. The device has no ioctls. Not here: the
hypercalls (privcmd.py). Source: Linux drivers/xen/privcmd-buf.c.
"""

from __future__ import annotations

from bulkhead.impl.dom0.areas import AreaKind, Vma
from bulkhead.impl.dom0.kernel import Kernel, KernelError
from bulkhead.impl.xen import abi
from bulkhead.impl.xen.frames import Frame
from bulkhead.impl.xen.pagetables import PTE_A, PTE_D, PTE_P, PTE_RW, PTE_USER


class Buffers:
    """The pages of one mmap (struct privcmd_buf_vma_private), and how many VMAs have some of them."""

    __slots__ = ("frames", "users")

    def __init__(self, frames: list[Frame]) -> None:
        self.frames = frames
        self.users = 1


class HypercallBuffers:
    """One open file of the device."""

    __slots__ = ("kernel",)

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    def mmap(self, vma: Vma, offset: int) -> None:
        """New zeroed pages, whatever the offset; EINVAL unless shared, ENOMEM with nothing left behind."""
        if not vma.shared:
            raise KernelError(abi.EINVAL)
        vma.space.prepare(vma)
        made = Buffers([])
        try:
            for _ in range(vma.start, vma.end):
                made.frames.append(self.kernel.alloc_page())
        except KernelError:
            self._free(made)
            raise
        flags = (PTE_P if vma.prot else 0) | PTE_USER | PTE_A | PTE_D | (PTE_RW if vma.writable else 0)
        for i, frame in enumerate(made.frames):
            vma.space.set_pte(vma.start + i, (frame.mfn << 12) | flags)
        vma.private = made

    def _free(self, made: Buffers) -> None:
        for frame in made.frames:
            self.kernel.free_page(frame)
        made.frames.clear()

    def vma_open(self, vma: Vma) -> None:
        """A split or copied VMA holds all pages of the mmap."""
        if isinstance(vma.private, Buffers):
            vma.private.users += 1

    def vma_close(self, vma: Vma) -> None:
        """The last VMA frees them."""
        made, vma.private = vma.private, None
        if isinstance(made, Buffers):
            made.users -= 1
            if not made.users:
                self._free(made)

    def invalidate(self, vma: Vma, start: int, npages: int) -> None:
        """Nothing to do in Xen: these are own pages."""

    def area(self) -> AreaKind:
        """The kernel takes no page of it for anybody (VM_IO)."""
        return AreaKind(io=True, undumped=False)

    def release(self) -> None:
        """No state of its own: pages belong to mappings."""
