"""madvise, mlock, mincore, msync and userfaultfd on the mappings of a process.

Contents: which VMAs of a range such a call may have, and what happens to their entries. Drivers are told of pages that go
(gntdev then unmaps its grants); nothing brings a page of a device back, so that an access is SIGBUS from then on. Not here:
memory of the process's own, as far as it would be paged, merged or collapsed (`NotModelled`). Sources: Linux mm/madvise.c,
mlock.c, mincore.c, msync.c; fs/userfaultfd.c.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from bulkhead.impl.dom0.areas import PROT_READ, Vma
from bulkhead.impl.dom0.kernel import KernelError
from bulkhead.impl.dom0.process import AddressSpace
from bulkhead.impl.xen import abi

NORMAL, RANDOM, SEQUENTIAL, WILLNEED, DONTNEED, FREE, REMOVE, DONTFORK, DOFORK = 0, 1, 2, 3, 4, 8, 9, 10, 11
MERGEABLE, UNMERGEABLE, HUGEPAGE, NOHUGEPAGE, DONTDUMP, DODUMP, WIPEONFORK, KEEPONFORK = 12, 13, 14, 15, 16, 17, 18, 19
COLD, PAGEOUT, POPULATE_READ, POPULATE_WRITE, DONTNEED_LOCKED, COLLAPSE = 20, 21, 22, 23, 24, 25
HARDWARE: Final = (100, 101)  # MADV_HWPOISON, MADV_SOFT_OFFLINE
KNOWN: Final = frozenset({*range(5), *range(8, 26)})
MS_ASYNC, MS_INVALIDATE, MS_SYNC = 1, 2, 4
ORDERS: Final = {NORMAL: frozenset[str](), RANDOM: frozenset({"random"}), SEQUENTIAL: frozenset({"sequential"})}
HUGE: Final = {HUGEPAGE: frozenset({"huge"}), NOHUGEPAGE: frozenset({"small"})}
# What is left out of a Dom0 process's calls on its memory and files, and why no page is reached by it without a grant.
NOT_MODELLED: Final = {
    "vmsplice, io_uring and O_DIRECT of a page that a grant maps": "Linux holds the page, and so the grant, when its "
    "mapping has ended: no page is reached without a grant that is in use",
    "memory of a process's own that is paged, merged, collapsed, wiped on fork, or grows": "no device's page is in it",
    "madvise(MADV_HWPOISON, MADV_SOFT_OFFLINE)": "they take pages of Dom0's own away",
    "the service of a userfaultfd": "no device's area may have one",
    "exec": "its mappings end as at exit; files stay open as after fork",
    "advisory locks, leases, the inodes of device nodes": "they reach no memory",
    "/dev/mem": "its entries pass Xen's checks as all others of Dom0's tables do; only root opens it",
    "/dev/xen/xenbus, /proc/xen": "Dom0's own ring to XenStore: bytes of messages (impl/tools), and no page",
    "the balloon's files in /sys": "Dom0 gives up and takes pages by decrease_reservation and populate_physmap",
}


class NotModelled(NotImplementedError):
    """A call that real Linux has, and that this Dom0 does not claim to answer."""


def _ranges(space: AddressSpace, vpn: int, npages: int) -> Iterator[tuple[Vma | None, int, int]]:
    """The VMAs of a range with their part of it; None for a hole, also after the last one."""
    at, end = vpn, vpn + npages
    while at < end:
        vma = space.find(at)
        if vma is None:
            yield None, at, end
            return
        if vma.start > at:
            yield None, at, min(vma.start, end)
            at = vma.start
            continue
        last = min(end, vma.end)
        yield vma, at, last
        at = last


def madvise(space: AddressSpace, vpn: int, npages: int, advice: int) -> None:
    """madvise(): VMA by VMA until one refuses; ENOMEM at the end if there was a hole."""
    if advice in HARDWARE:
        raise NotModelled("madvise(MADV_HWPOISON, MADV_SOFT_OFFLINE) is not modelled")
    if advice not in KNOWN:
        raise KernelError(abi.EINVAL)
    if advice in (POPULATE_READ, POPULATE_WRITE):
        return _populate(space, vpn, npages, advice == POPULATE_WRITE)
    holes = False
    for vma, at, end in _ranges(space, vpn, npages):
        if vma is None:
            holes = True
        else:
            _advise(space, vma, at, end, advice)
    if holes:
        raise KernelError(abi.ENOMEM)


def _advise(space: AddressSpace, vma: Vma, at: int, end: int, advice: int) -> None:
    """One VMA's part; KernelError."""
    kind = vma.kind
    if kind is None and advice in (FREE, WIPEONFORK, COLLAPSE, REMOVE):
        raise NotModelled(f"madvise({advice}) on memory of the process's own is not modelled")
    if advice == REMOVE:
        raise KernelError(abi.ENODEV if vma.shared else abi.EACCES)
    if advice in (FREE, WIPEONFORK, COLLAPSE) or (advice == DODUMP and kind is not None):
        raise KernelError(abi.EINVAL)
    if advice == DOFORK and kind is not None and kind.io:
        raise KernelError(abi.EINVAL)
    if advice in (DONTNEED, DONTNEED_LOCKED, COLD, PAGEOUT):
        if (kind is not None and kind.raw) or (vma.locked and advice != DONTNEED_LOCKED):
            raise KernelError(abi.EINVAL)
        if advice in (DONTNEED, DONTNEED_LOCKED):
            _discard(space, vma, at, end)
        return
    hints, dontcopy = vma.hints, vma.dontcopy
    for group in (ORDERS, HUGE):
        if advice in group:
            hints = hints.difference(*group.values()) | group[advice]
    if advice in (DONTDUMP, DODUMP):
        hints = hints - {"undumped"} if advice == DODUMP else hints | {"undumped"}
    if advice in (DONTFORK, DOFORK):
        dontcopy = advice == DONTFORK
    if (hints, dontcopy) != (vma.hints, vma.dontcopy):  # only a change splits
        (part,) = space.parts(at, end)
        part.hints, part.dontcopy = hints, dontcopy


def _discard(space: AddressSpace, vma: Vma, at: int, end: int) -> None:
    """The pages go, and the mapping stays (zap_page_range): private memory is zero again, a device's pages are gone."""
    if vma.file is not None:
        vma.file.device.invalidate(vma, at, end - at)
    for page in range(at, end):
        frame = space.anon.get(page)
        if vma.file is None and frame is not None:
            frame.data = None
            continue
        if space.pte(page):
            space.set_pte(page, 0)
        if frame is not None:
            space.kernel.free_page(space.anon.pop(page))


def _populate(space: AddressSpace, vpn: int, npages: int, writes: bool) -> None:
    """MADV_POPULATE_READ and _WRITE: ENOMEM at a hole, EINVAL where it may not, EFAULT where a device's page is gone."""
    for vma, at, end in _ranges(space, vpn, npages):
        if vma is None:
            raise KernelError(abi.ENOMEM)
        kind = vma.kind
        if (kind is not None and kind.io) or not (vma.writable if writes else vma.prot & PROT_READ):
            raise KernelError(abi.EINVAL)
        if any(not space.pte(page) for page in range(at, end)):
            raise KernelError(abi.EFAULT)


def mlock(space: AddressSpace, vpn: int, npages: int) -> None:
    """mlock(): a device's pages stay as they are; ENOMEM for a hole, and where a page cannot be made present."""
    _lock(space, vpn, npages, True)
    for vma, at, end in _ranges(space, vpn, npages):
        kind = None if vma is None else vma.kind
        if vma is None or (kind is not None and kind.io):
            continue
        if not vma.prot or any(not space.pte(page) for page in range(at, end)):
            raise KernelError(abi.ENOMEM)


def munlock(space: AddressSpace, vpn: int, npages: int) -> None:
    """munlock(): ENOMEM for a hole; what lies before it is unlocked."""
    _lock(space, vpn, npages, False)


def _lock(space: AddressSpace, vpn: int, npages: int, locked: bool) -> None:
    for vma, at, end in _ranges(space, vpn, npages):
        if vma is None:
            raise KernelError(abi.ENOMEM)
        if vma.file is None and vma.locked != locked:
            (part,) = space.parts(at, end)
            part.locked = locked


def mincore(space: AddressSpace, vpn: int, npages: int) -> list[bool]:
    """mincore(): which pages of a device are mapped, as far as they have a struct page; ENOMEM for a hole."""
    out: list[bool] = []
    for vma, at, end in _ranges(space, vpn, npages):
        if vma is None:
            raise KernelError(abi.ENOMEM)
        kind = vma.kind
        if kind is None:
            raise NotModelled("mincore() of memory of the process's own is not modelled: it is not paged here")
        out += [not kind.raw and bool(space.pte(page)) for page in range(at, end)]
    return out


def msync(space: AddressSpace, vpn: int, npages: int, flags: int) -> None:
    """msync(): no device can be written back (EINVAL); ENOMEM for a hole, EBUSY to invalidate locked memory."""
    if flags & ~(MS_ASYNC | MS_INVALIDATE | MS_SYNC) or (flags & MS_ASYNC and flags & MS_SYNC):
        raise KernelError(abi.EINVAL)
    holes = False
    for vma, _, _ in _ranges(space, vpn, npages):
        if vma is None:
            holes = True
            if flags == MS_ASYNC:
                break
            continue
        if flags & MS_INVALIDATE and vma.locked:
            raise KernelError(abi.EBUSY)
        if flags & MS_SYNC and vma.file is not None and vma.shared:
            raise KernelError(abi.EINVAL)
    if holes:
        raise KernelError(abi.ENOMEM)


def userfaultfd(space: AddressSpace, vpn: int, npages: int) -> None:
    """UFFDIO_REGISTER: of no device's area, and of no hole at its beginning (EINVAL). Who then serves faults is not here."""
    parts = list(_ranges(space, vpn, npages))
    if not parts or parts[0][0] is None or any(vma is not None and vma.file is not None for vma, _, _ in parts):
        raise KernelError(abi.EINVAL)
