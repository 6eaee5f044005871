"""mprotect and mremap: changes of existing mappings.

Contents: which parts of which VMAs change, the calls to drivers, and the effect on entries. gntdev unmaps the
grants of every page that changes, so that a load there raises SIGBUS from then on; privcmd refuses changes to a
part of a VMA. Not here: mmap and munmap (process.py). Sources: Linux mm/mprotect.c, mm/mremap.c, drivers/xen/gntdev.c
(gntdev_invalidate).
"""

from __future__ import annotations

from typing import Final

from bulkhead.impl.dom0.areas import Vma
from bulkhead.impl.dom0.kernel import KernelError
from bulkhead.impl.dom0.memory_calls import NotModelled
from bulkhead.impl.dom0.process import AddressSpace
from bulkhead.impl.xen import abi
from bulkhead.impl.xen.pagetables import PTE_P, PTE_RW

MAYMOVE, FIXED, DONTUNMAP = 1, 2, 4
FLAGS: Final = MAYMOVE | FIXED | DONTUNMAP


def protect(space: AddressSpace, vpn: int, npages: int, prot: int) -> None:
    """mprotect, VMA by VMA: ENOMEM at the first page that is not mapped, EINVAL for a part that may not be split.

    Drivers are notified that the pages change; gntdev then unmaps its grants, for any change.
    """
    end, at = vpn + npages, vpn
    while at < end:
        vma = space.find(at)
        if vma is None or vma.start > at:
            raise KernelError(abi.ENOMEM)
        last = min(end, vma.end)
        if vma.prot != prot:
            (part,) = space.parts(at, last)
            part.prot = prot
            if part.file is not None:
                part.file.device.invalidate(part, at, last - at)
            for page in range(at, last):
                _change(space, part, page)
        at = last


def _change(space: AddressSpace, vma: Vma, page: int) -> None:
    """Give an entry the access of its VMA; an entry that Xen refuses stays unchanged.

    With PROT_NONE an entry keeps its frame number, and is not present.
    """
    pte = space.pte(page)
    if pte:
        writable = vma.writable and (vma.shared or page in space.anon)
        pte = pte | PTE_RW if writable else pte & ~PTE_RW
        space.set_pte(page, pte | PTE_P if vma.prot else pte & ~PTE_P)


def resize(space: AddressSpace, vpn: int, npages: int, new_pages: int, flags: int, to: int) -> int:
    """mremap with any flags: the mapping's page. A device's area never grows, and never stays where it was moved from."""
    moves, fixed, stays = (bool(flags & each) for each in (MAYMOVE, FIXED, DONTUNMAP))
    if flags & ~FLAGS or ((fixed or stays) and not moves) or (stays and npages != new_pages) or new_pages < 1:
        raise KernelError(abi.EINVAL)
    _one_vma(space, vpn, 0)
    if fixed and not stays:
        if not npages:
            raise NotModelled("mremap of no pages to an address is not modelled")
        return remap(space, vpn, npages, new_pages, to)
    if not stays and npages >= new_pages:
        return remap(space, vpn, npages, new_pages)
    if fixed:
        if vpn + npages > to and to + new_pages > vpn:
            raise KernelError(abi.EINVAL)
        space.unmap(to, new_pages)
    vma = _one_vma(space, vpn, 0)
    if not npages and not vma.shared:
        raise KernelError(abi.EINVAL)
    if vma.file is None:
        raise NotModelled("mremap that lets memory of the process's own grow or stay is not modelled")
    if stays:
        raise KernelError(abi.EINVAL)
    raise KernelError(abi.EFAULT)


def remap(space: AddressSpace, vpn: int, npages: int, new_pages: int, to: int | None = None) -> int:
    """mremap: returns the mapping's page. With `to` it moves there (MREMAP_FIXED), replacing earlier mappings.

    EFAULT for a range that is not within one VMA, and for growth of a device mapping; EINVAL for a part of a VMA
    that may not be split. Source: Linux mm/mremap.c.
    """
    if new_pages < 1:
        raise KernelError(abi.EINVAL)
    _one_vma(space, vpn, 0)
    if to is None:
        if npages >= new_pages:
            if npages > new_pages:
                space.unmap(vpn + new_pages, npages - new_pages)
            return vpn
        vma = _one_vma(space, vpn, npages)
        if vma.file is not None:
            raise KernelError(abi.EFAULT)
        raise KernelError(abi.ENOMEM)  # growing in place is not modelled
    if vpn + npages > to and to + new_pages > vpn:
        raise KernelError(abi.EINVAL)
    space.unmap(to, new_pages)
    if npages > new_pages:
        space.unmap(vpn + new_pages, npages - new_pages)
        npages = new_pages
    vma = _one_vma(space, vpn, npages)
    if npages < new_pages:
        raise KernelError(abi.EFAULT if vma.file is not None else abi.ENOMEM)
    _move(space, vma, vpn, npages, to)
    return to


def _one_vma(space: AddressSpace, vpn: int, npages: int) -> Vma:
    """The VMA of a range; KernelError(EFAULT) if no single VMA has it."""
    vma = space.find(vpn)
    if vma is None or vma.start > vpn or vpn + npages > vma.end:
        raise KernelError(abi.EFAULT)
    return vma


def _move(space: AddressSpace, vma: Vma, vpn: int, npages: int, to: int) -> None:
    """Move entries one by one, clearing the old one first, as in move_ptes; drivers do their own unmapping."""
    if (vma.start, vma.end) != (vpn, vpn + npages) and vma.kind is not None and vma.kind.whole:
        raise KernelError(abi.EINVAL)
    new = Vma(space, to, to + npages, vma.prot, vma.shared, vma.file)
    new.private, new.dontcopy, new.hints, new.locked = vma.private, vma.dontcopy, vma.hints, vma.locked
    space.prepare(new)
    if vma.file is not None:
        vma.file.refs += 1
        vma.file.device.vma_open(new)
        vma.file.device.invalidate(vma, vpn, npages)
    for i in range(npages):
        pte = space.pte(vpn + i)
        if pte:
            space.set_pte(vpn + i, 0)
            space.set_pte(to + i, pte)
        if vpn + i in space.anon:
            space.anon[to + i] = space.anon.pop(vpn + i)
    space.vmas.append(new)
    space.unmap(vpn, npages)
