"""Calls of a Dom0 process on /dev/xen/gntalloc: pages of Dom0 that it grants to guests and maps itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bulkhead.impl.dom0.gntalloc import Gntalloc
from bulkhead.impl.dom0.ioctl import ALLOC_HEAD, GNTALLOC_ALLOC_GREF, GNTALLOC_DEALLOC_GREF, RANGE
from bulkhead.model.caller import OKAY
from bulkhead.proofs.refinement.lockstep.dom0_state import Opened, Proc, SharedPage, Slot

if TYPE_CHECKING:
    from bulkhead.proofs.refinement.workload.dom0 import Dom0

NOWHERE = 0x6600000


def alloc(d: Dom0, proc: Proc) -> str:
    """IOCTL_GNTALLOC_ALLOC_GREF; now and then while the kernel has no page left."""
    fd, x, opened = d.fd_of(proc, "gntalloc")
    dom = (1, 2, 3)[int(d.rng.random() * 3)]
    writable = d.rng.random() < 0.7
    d.pool.retry_deferred()  # so does the call itself, but what it frees it may give out again at once
    d.sync()
    free = d.kernel.free_pages
    kept, free[:] = ([*free], []) if d.rng.random() < 0.06 else ([], [*free])
    code, _, raw = proc.ioctl(fd, GNTALLOC_ALLOC_GREF, ALLOC_HEAD.pack(dom, int(writable), 1, 0) + bytes(8))
    free[:0] = kept
    sh = d.b.shadow
    f = sh.spare_dom0_frame()
    args = {"p": proc.space, "x": x, "dom": dom, "writable": int(writable)}
    if code == OKAY and opened is not None and isinstance(opened.file.device, Gntalloc):
        page = opened.file.device.pages[-1]
        f = sh.know_dom0_frame(page.frame.mfn)
        args |= {"f": f, "r": sh.ref(page.ref)}
        d.pages.append(SharedPage(opened, ALLOC_HEAD.unpack(raw[:16])[3], page.ref, f, page.frame.mfn))
    d.rule("gntalloc_alloc_gref", args, code, None if code == OKAY else code)
    return f"gntalloc alloc for d{dom}: {code}"


def _page(d: Dom0, opened: Opened | None) -> SharedPage | None:
    """A page of the file; now and then one that it has listed no longer, or another file's."""
    pages = [p for p in d.pages if p.opened is opened] if opened is not None and d.rng.random() < 0.95 else d.pages
    return pages[int(d.rng.random() * len(pages))] if pages else None


def share(d: Dom0, proc: Proc) -> str:
    """mmap of a page that gntalloc gave out; a gntdev descriptor has nothing there."""
    if len(proc.slots) >= 4:
        return ""
    fd, x, opened = d.fd_of(proc, "gntalloc")
    kind = proc.fds[fd].kind if fd in proc.fds else ""
    if kind in ("evtchn", "privcmd"):
        return ""  # evtchn cannot be mapped at all; privcmd only reserves addresses
    page = _page(d, opened)
    mine = page is not None and opened is not None and page.opened is opened
    code, addr = proc.mmap(fd, page.offset if page is not None and mine else NOWHERE, True)
    sh = d.b.shadow
    slot = Slot("own", addr >> 12, True)
    if d.b.rules_on:
        slot.user = sh.free_translation()
    f = page.f if page is not None else sh.size.heap
    d.rule("gntalloc_mmap", {"p": proc.space, "x": x, "f": f, "t_t": slot.user or 0, "t_nil": sh.size.handles - 1}, code)
    if code == OKAY:
        slot.maddr = proc.process.space.pte_maddr(slot.vpn)
        proc.slots[slot.vpn] = slot
    return f"gntalloc mmap: {code}"


def dealloc(d: Dom0, proc: Proc) -> str:
    """IOCTL_GNTALLOC_DEALLOC_GREF; a file knows its own pages only."""
    fd, x, opened = d.fd_of(proc, "gntalloc")
    page = _page(d, opened)
    mine = page is not None and opened is not None and page.opened is opened
    offset = page.offset if page is not None and mine else NOWHERE
    code, _, _ = proc.ioctl(fd, GNTALLOC_DEALLOC_GREF, RANGE.pack(offset, 1, 0))
    f = page.f if page is not None else d.b.shadow.size.heap
    d.rule("gntalloc_dealloc_gref", {"p": proc.space, "x": x, "f": f}, code)
    return f"gntalloc dealloc: {code}"


MOVES = ((10, alloc), (8, share), (6, dealloc))
