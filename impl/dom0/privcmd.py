"""/dev/xen/privcmd: raw hypercalls and foreign mappings for privileged user processes.

What lives here: HYPERCALL, MMAPBATCH_V2, MMAP_RESOURCE and RESTRICT for a PV Dom0. What does not: the checks of
Xen behind them. Without this module loaded a process has no way to either. Source: Linux drivers/xen/privcmd.c,
arch/x86/xen/mmu_pv.c (xen_remap_pfn).
"""

from __future__ import annotations

from collections.abc import Sequence

from bulkhead.impl.dom0.kernel import Kernel, KernelError
from bulkhead.impl.dom0.process import AddressSpace, Vma
from bulkhead.impl.xen import abi
from bulkhead.impl.xen.guest_access import read, write
from bulkhead.impl.xen.pagetables import PTE_A, PTE_D, PTE_P, PTE_RW, PTE_USER

NOT_RESTRICTED = abi.DOMID_INVALID
U64_MASK = (1 << 64) - 1  # a frame number beyond what an entry holds loses its upper bits


class Privcmd:
    """One open file of the device."""

    __slots__ = ("domid", "kernel")

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.domid = NOT_RESTRICTED

    def hypercall(self, number: int, args: Sequence[int], space: AddressSpace | None = None) -> int:
        """HYPERCALL: any hypercall with the process's word for it; EPERM when restricted.

        Addresses among the arguments are those of `space`, whose page tables are in force meanwhile; without one
        they are kernel addresses.
        """
        if self.domid != NOT_RESTRICTED:
            raise KernelError(abi.EPERM)
        padded = [*args, 0, 0, 0, 0, 0][:5]
        kernel = self.kernel
        if space is None:
            return kernel.xen.call(kernel.vcpu, number, *padded)
        rc = kernel.mmuext(abi.MMUEXT_NEW_BASEPTR, space.root.mfn)
        if rc:
            raise KernelError(-rc)
        try:
            return kernel.xen.call(kernel.vcpu, number, *padded)
        finally:
            kernel.mmuext(abi.MMUEXT_NEW_BASEPTR, kernel.layout.root.mfn)

    def restrict(self, domid: int) -> None:
        """RESTRICT: from now on only this domain; a different one later is EINVAL."""
        if self.domid == NOT_RESTRICTED:
            self.domid = domid
        elif self.domid != domid:
            raise KernelError(abi.EINVAL)

    def _check(self, domid: int) -> None:
        if self.domid not in (NOT_RESTRICTED, domid):
            raise KernelError(abi.EPERM)

    def _vma(self, space: AddressSpace, vpn: int, npages: int) -> Vma:
        vma = space.find(vpn)
        if vma is None or vma.start > vpn or vma.end < vpn + npages or vma.private is not self:
            raise KernelError(abi.EINVAL)
        return vma

    def mmapbatch_v2(self, space: AddressSpace, domid: int, vpn: int, gfns: Sequence[int]) -> list[int]:
        """Fill pages of a privcmd VMA with a domain's frames; -errno (or 0) for each page."""
        self._check(domid)
        vma = self._vma(space, vpn, len(gfns))
        flags = PTE_P | PTE_USER | PTE_A | PTE_D | (PTE_RW if vma.writable else 0)
        return [space.set_pte(vpn + i, ((gfn << 12) & U64_MASK) | flags, domid) for i, gfn in enumerate(gfns)]

    def mmap_resource(
        self, space: AddressSpace, domid: int, kind: int, rid: int, first: int, vpn: int, count: int
    ) -> None:
        """Map frames of a resource, such as a guest's grant table; KernelError with Xen's errno."""
        self._check(domid)
        self._vma(space, vpn, count)
        kernel = self.kernel
        list_at = kernel.arg_va + 64
        arg = abi.ACQUIRE_RESOURCE.pack(domid, kind, rid, count, 0, first, list_at)
        write(kernel.xen, kernel.vcpu, kernel.arg_va, arg)
        rc = kernel.xen.call(kernel.vcpu, abi.HYPERVISOR_MEMORY_OP, abi.XENMEM_ACQUIRE_RESOURCE, kernel.arg_va)
        if rc < 0:
            raise KernelError(-rc)
        raw = read(kernel.xen, kernel.vcpu, list_at, count * 8) or b""
        mfns = [abi.U64.unpack_from(raw, i * 8)[0] for i in range(count)]
        errors = [rc for rc in self.mmapbatch_v2(space, domid, vpn, mfns) if rc]
        if errors:
            raise KernelError(-errors[0])

    def mmap(self, vma: Vma, offset: int) -> None:
        """Reserve addresses; an ioctl fills them. Not copied to a child."""
        if not vma.shared:
            raise KernelError(abi.EINVAL)
        vma.private = self
        vma.dontcopy = True

    def vma_open(self, vma: Vma) -> None:
        """A split keeps pointing here."""

    def vma_close(self, vma: Vma) -> None:
        """The page-table entries are gone already, and with them the references."""
        vma.private = None

    def invalidate(self, vma: Vma, start: int, npages: int) -> None:
        """Nothing beyond the page tables to undo."""

    def release(self) -> None:
        """No state of its own."""
