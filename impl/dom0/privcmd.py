"""/dev/xen/privcmd: raw hypercalls and foreign mappings for privileged user processes.

Contents: HYPERCALL, MMAPBATCH_V2, MMAP_RESOURCE, DM_OP and RESTRICT for a PV Dom0. Not here: Xen's checks
behind them. A process needs this module for both. Source: Linux drivers/xen/privcmd.c,
arch/x86/xen/mmu_pv.c (xen_remap_pfn).
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Final

from bulkhead.impl.dom0.areas import AreaKind, Vma
from bulkhead.impl.dom0.kernel import ARG_PAGES, FRAME_LIST_AT, Kernel, KernelError
from bulkhead.impl.dom0.process import AddressSpace, Fault
from bulkhead.impl.xen import abi
from bulkhead.impl.xen.abi import MMU_NORMAL_PT_UPDATE, MMU_PT_UPDATE_NO_TRANSLATE
from bulkhead.impl.xen.guest_access import read, write
from bulkhead.impl.xen.pagetables import PTE_A, PTE_D, PTE_P, PTE_RW, PTE_USER

NOT_RESTRICTED: Final = abi.DOMID_INVALID
DM_BUFFER: Final = Struct("<QQ")  # address, size
LOCKED: Final = "locked"  # a VMA that has been filled once (PRIV_VMA_LOCKED)
MOST_FRAMES: Final = (ARG_PAGES * abi.PAGE_SIZE - FRAME_LIST_AT) // 8  # the argument pages list no more
U64_MASK = (1 << 64) - 1  # a frame number beyond what an entry holds loses its upper bits


class Privcmd:
    """One open file of the device."""

    __slots__ = ("domid", "kernel")

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.domid = NOT_RESTRICTED

    def hypercall(self, number: int, args: Sequence[int], space: AddressSpace | None = None) -> int:
        """HYPERCALL: any hypercall with the process's arguments, unchecked; EPERM when restricted.

        Addresses in the arguments belong to `space`, whose page tables are active meanwhile; without one
        they are kernel addresses.
        """
        if self.domid != NOT_RESTRICTED:
            raise KernelError(abi.EPERM)
        padded = [*args, 0, 0, 0, 0, 0][:5]
        if space is None:
            return self.kernel.xen.call(self.kernel.vcpu, number, *padded)
        return self._within(space, number, *padded)

    def _within(self, space: AddressSpace, number: int, *padded: int) -> int:
        """A hypercall while the process's page tables, which have the kernel's memory too, are active."""
        kernel = self.kernel
        rc = kernel.mmuext(abi.MMUEXT_NEW_BASEPTR, space.root.mfn)
        if rc:
            raise KernelError(-rc)
        try:
            return kernel.xen.call(kernel.vcpu, number, *padded)
        finally:
            kernel.mmuext(abi.MMUEXT_NEW_BASEPTR, kernel.layout.root.mfn)

    def dm_op(self, space: AddressSpace, domid: int, buffers: Sequence[tuple[int, int]]) -> int:
        """DM_OP: a device model's call about a domain, with the process's buffers (address, size), which are pinned first.

        EFAULT for one that is not in writable memory.
        """
        for addr, size in buffers:
            pages = range(addr >> 12, (addr + size + 0xFFF) >> 12)
            if not pages:
                raise KernelError(abi.EFAULT)
            for page in pages:
                try:
                    space.access(page << 12, True)
                except Fault as fault:
                    raise KernelError(abi.EFAULT) from fault
        kernel, at = self.kernel, self.kernel.arg_va + FRAME_LIST_AT  # not where the change of page tables is called for
        write(kernel.xen, kernel.vcpu, at, b"".join(DM_BUFFER.pack(*each) for each in buffers))
        return self._within(space, abi.HYPERVISOR_DM_OP, domid, len(buffers), at, 0, 0)

    def restrict(self, domid: int) -> None:
        """RESTRICT: from now on only this domain; a different one later is EINVAL."""
        if self.domid == NOT_RESTRICTED:
            self.domid = domid
        elif self.domid != domid:
            raise KernelError(abi.EINVAL)

    def check(self, domid: int) -> None:
        """EPERM for a domain that the file is not restricted to."""
        if self.domid not in (NOT_RESTRICTED, domid):
            raise KernelError(abi.EPERM)

    def _area(self, space: AddressSpace, vpn: int) -> Vma:
        """The first VMA that ends above a page; EINVAL unless it is privcmd's (of any file)."""
        vma = space.find(vpn)
        if vma is None or vma.file is None or not isinstance(vma.file.device, Privcmd):
            raise KernelError(abi.EINVAL)
        return vma

    def _take(self, space: AddressSpace, addr: int, count: int) -> Vma:
        """The VMA that a batch fills: all of it the first time, later only pages of it that are not mapped (EINVAL)."""
        vma = self._area(space, addr >> 12)
        start, end = vma.start << 12, vma.end << 12
        if vma.private is None:
            if (addr, addr + (count << 12)) != (start, end):
                raise KernelError(abi.EINVAL)
            vma.private = LOCKED
        elif (
            addr < start
            or addr + (count << 12) > end
            or any(space.pte(page) for page in range(addr >> 12, (addr >> 12) + count))
        ):
            raise KernelError(abi.EINVAL)
        return vma

    def mmapbatch_v2(self, space: AddressSpace, domid: int, addr: int, gfns: Sequence[int]) -> list[int]:
        """Fill pages of a privcmd VMA with a domain's frames; -errno (or 0) for each page."""
        vma = self._take(space, addr, len(gfns))
        return self._fill(space, vma, domid, addr >> 12, gfns)

    def _fill(
        self, space: AddressSpace, vma: Vma, domid: int, vpn: int, gfns: Sequence[int], command: int = MMU_NORMAL_PT_UPDATE
    ) -> list[int]:
        # Of a private mapping entries are read-only: the first store makes a copy.
        writable = vma.writable and vma.shared
        # With PROT_NONE they are not present, and Xen does not look at the frame.
        flags = (PTE_P if vma.prot else 0) | PTE_USER | PTE_A | PTE_D | (PTE_RW if writable else 0)
        return [space.set_pte(vpn + i, ((gfn << 12) & U64_MASK) | flags, domid, command) for i, gfn in enumerate(gfns)]

    def mmap_runs(self, space: AddressSpace, domid: int, runs: Sequence[tuple[int, int, int]]) -> None:
        """MMAP: contiguous runs (address, first frame, pages); EINVAL for a filled area or a gap.

        The first page that Xen refuses ends the call with its errno; earlier pages stay mapped.
        """
        vma = self._area(space, runs[0][0] >> 12)
        at = vma.start << 12
        if runs[0][0] != at or vma.private is not None:
            raise KernelError(abi.EINVAL)
        vma.private = LOCKED
        for addr, mfn, npages in runs:
            if addr != at or addr + (npages << 12) > vma.end << 12:
                raise KernelError(abi.EINVAL)
            for i in range(npages):
                (error,) = self._fill(space, vma, domid, (addr >> 12) + i, [mfn + i])
                if error:
                    raise KernelError(-error)
            at += npages << 12

    def _acquire(self, packed: bytes) -> None:
        """XENMEM_acquire_resource; KernelError with Xen's errno."""
        kernel = self.kernel
        write(kernel.xen, kernel.vcpu, kernel.arg_va, packed)
        rc = kernel.xen.call(kernel.vcpu, abi.HYPERVISOR_MEMORY_OP, abi.XENMEM_ACQUIRE_RESOURCE, kernel.arg_va)
        if rc < 0:
            raise KernelError(-rc)

    def resource_size(self, domid: int, kind: int, rid: int) -> int:
        """MMAP_RESOURCE without address and number: how many frames the resource has."""
        self._acquire(abi.ACQUIRE_RESOURCE.pack(domid, kind, rid, 0, 0, 0, 0))
        raw = read(self.kernel.xen, self.kernel.vcpu, self.kernel.arg_va, abi.ACQUIRE_RESOURCE.size) or bytes(
            abi.ACQUIRE_RESOURCE.size
        )
        size: int = abi.ACQUIRE_RESOURCE.unpack(raw)[3]
        return size

    def mmap_resource(self, space: AddressSpace, domid: int, kind: int, rid: int, first: int, addr: int, count: int) -> None:
        """Map frames of a resource, such as a guest's grant table; KernelError with Xen's errno.

        It replaces mappings there. As in Linux only the address is checked, not whether the frames end
        within the VMA; the offset within a page is dropped.
        """
        vma = self._area(space, addr >> 12)
        if count > MOST_FRAMES:
            raise KernelError(abi.ENOMEM)
        vma.private = LOCKED
        kernel = self.kernel
        list_at = kernel.arg_va + FRAME_LIST_AT
        self._acquire(abi.ACQUIRE_RESOURCE.pack(domid, kind, rid, count, 0, first, list_at))
        raw = read(kernel.xen, kernel.vcpu, list_at, count * 8) or b""
        mfns = [abi.U64.unpack_from(raw, i * 8)[0] for i in range(count)]
        # These are machine frame numbers, also of a translated guest.
        errors = [rc for rc in self._fill(space, vma, domid, addr >> 12, mfns, MMU_PT_UPDATE_NO_TRANSLATE) if rc]
        if errors:
            raise KernelError(-errors[0])

    def mmap(self, vma: Vma, offset: int) -> None:
        """Reserve addresses; an ioctl fills them. Not copied to a child."""
        vma.dontcopy = True

    def vma_open(self, vma: Vma) -> None:
        """Nothing to do: a split VMA keeps this file."""

    def vma_close(self, vma: Vma) -> None:
        """Nothing to do: the page-table entries and their references are already dropped."""
        vma.private = None

    def invalidate(self, vma: Vma, start: int, npages: int) -> None:
        """Nothing beyond the page tables to undo."""

    def area(self) -> AreaKind:
        """What the kernel may do with its mappings."""
        return AreaKind(io=True, raw=True, foreign=True, whole=True)

    def release(self) -> None:
        """No state of its own."""
