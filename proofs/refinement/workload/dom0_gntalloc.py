"""Calls of a Dom0 process on /dev/xen/gntalloc: pages of Dom0 that it grants to guests and maps itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bulkhead.impl.dom0.gntalloc import Gntalloc
from bulkhead.impl.dom0.ioctl import ALLOC_HEAD, GNTALLOC_ALLOC_GREF, GNTALLOC_DEALLOC_GREF, RANGE, SET_UNMAP_NOTIFY
from bulkhead.impl.xen import abi
from bulkhead.model.caller import OKAY
from bulkhead.proofs.refinement.lockstep.dom0_state import MOST_SLOTS, Opened, Proc, SharedPage, Slot
from bulkhead.proofs.refinement.lockstep.spec_state import Mismatch
from bulkhead.proofs.refinement.workload.dom0_gntdev import notice_port

if TYPE_CHECKING:
    from bulkhead.proofs.refinement.workload.dom0 import Dom0

NOWHERE = 0x6600000


def alloc(d: Dom0, proc: Proc) -> str:
    """IOCTL_GNTALLOC_ALLOC_GREF of zero to three pages, also beyond the limit; sometimes when no page is left."""
    fd, x, opened = d.fd_of(proc, "gntalloc")
    dom = (1, 2, 3)[int(d.rng.random() * 3)]
    count = (0, 1, 1, 1, 1, 2, 2, 3, 0xFFFFFFFF)[int(d.rng.random() * 9)]
    writable = d.rng.random() < 0.7
    d.pool.retry_deferred()  # the call itself does this too, but may reuse the freed pages at once
    d.sync()
    device = opened.file.device if opened is not None else None
    if d.pool.count != len(d.pages):
        raise Mismatch(f"gntalloc counts {d.pool.count} pages, and {len(d.pages)} are given out")
    room = d.pool.limit - d.pool.count
    before = (d.pool.count, device.next_offset if isinstance(device, Gntalloc) else 0)
    free = d.kernel.free_pages
    kept, free[:] = ([*free], []) if d.rng.random() < 0.06 else ([], [*free])
    code, _, raw = proc.ioctl(fd, GNTALLOC_ALLOC_GREF, ALLOC_HEAD.pack(dom, int(writable), count, 0) + bytes(12))
    free[:0] = kept
    sh = d.b.spec_state
    args = {"p": proc.space, "x": x, "dom": dom, "writable": int(writable)}
    if not isinstance(device, Gntalloc) or opened is None:
        d.rule("gntalloc_alloc_gref", {**args, "f": 0, "r": 0}, code)
        return f"gntalloc alloc: {code}"
    want = OKAY if count <= room and not (kept and count) else "ENOSPC" if count > room else "ENOMEM"
    if code != want:
        raise Mismatch(f"gntalloc alloc of {count} pages with room for {room} answered {code}")
    spent = count << 12 if want != "ENOSPC" else 0
    if (d.pool.count - before[0], device.next_offset - before[1]) != (count if code == OKAY else 0, spent):
        raise Mismatch("gntalloc alloc: what it has given out and the limit do not go together")
    if code != OKAY:
        d.rule("gntalloc_alloc_gref", args, code, code)
        return f"gntalloc alloc of {count} for d{dom}: {code}"
    for n in range(count):
        page = device.pages[n - count]
        f = sh.know_dom0_frame(page.frame.mfn)
        d.pages.append(SharedPage(opened, page, page.ref, f, page.frame.mfn))
        d.rule("gntalloc_alloc_gref", {**args, "f": f, "r": sh.ref(page.ref)})
        told = (ALLOC_HEAD.unpack(raw[:16])[3] + (n << 12), abi.U32.unpack_from(raw, 16 + 4 * n)[0])
        if told != (page.offset, page.ref):
            raise Mismatch(f"gntalloc alloc told the process {told}")
    return f"gntalloc alloc of {count} for d{dom}: {code}"


def _page(d: Dom0, opened: Opened | None) -> SharedPage | None:
    """A page of the file; sometimes a page that it no longer lists, or of another file."""
    pages = [p for p in d.pages if p.opened is opened] if opened is not None and d.rng.random() < 0.95 else d.pages
    return pages[int(d.rng.random() * len(pages))] if pages else None


def share(d: Dom0, proc: Proc) -> str:
    """mmap of gntalloc's pages; it fails on a gntdev descriptor and beyond the last page."""
    fd, x, opened = d.fd_of(proc, "gntalloc")
    kind = proc.fds[fd].kind if fd in proc.fds else ""
    if kind in ("evtchn", "privcmd") or len(proc.slots) > MOST_SLOTS - 2:
        return ""  # evtchn cannot be mapped at all; privcmd only reserves addresses
    page = _page(d, opened)
    mine = page is not None and opened is not None and page.opened is opened
    writable = d.rng.random() < 0.8
    pages = _run(d, page, 1 + int(d.rng.random() * 2)) if page is not None and mine else []
    if page is not None and mine and _listed(page):
        _past_the_end(proc, fd, opened)
    code, addr = proc.mmap(fd, page.offset if page is not None and mine else NOWHERE, writable, len(pages) or 1)
    sh = d.b.spec_state
    for n, f in enumerate([p.f for p in pages] or [page.f if page is not None else sh.size.heap]):
        t = sh.free_translation() if d.b.rules_on else 0
        d.rule(
            "gntalloc_mmap",
            {"p": proc.space, "x": x, "f": f, "writable": int(writable), "t_t": t, "t_nil": sh.size.handles - 1},
            code,
        )
        if code == OKAY:
            vpn = (addr >> 12) + n
            proc.slots[vpn] = Slot("own", vpn, writable, t, maddr=proc.process.space.pte_maddr(vpn))
    return f"gntalloc mmap of {len(pages)}: {code}"


def _listed(page: SharedPage) -> bool:
    device = page.opened.file.device
    return isinstance(device, Gntalloc) and page.granted in device.pages


def _run(d: Dom0, page: SharedPage, most: int) -> list[SharedPage]:
    """A page and the listed pages that follow it in the file."""
    at = {p.offset: p for p in d.pages if p.opened is page.opened and _listed(p)}
    out = [page]
    while len(out) < most and page.offset in at and (following := at.get(out[-1].offset + 4096)) is not None:
        out.append(following)
    return out


def _past_the_end(proc: Proc, fd: int, opened: Opened | None) -> None:
    """Check that a range that extends beyond the file's pages is not mapped at all."""
    device = opened.file.device if opened is not None else None
    if isinstance(device, Gntalloc) and device.pages:
        last = device.pages[-1]
        if proc.mmap(fd, last.offset, True, 2)[0] != "ENOENT":
            raise Mismatch("gntalloc: pages behind the last one were mapped")


def dealloc(d: Dom0, proc: Proc) -> str:
    """IOCTL_GNTALLOC_DEALLOC_GREF; a file has only its own pages."""
    fd, x, opened = d.fd_of(proc, "gntalloc")
    page = _page(d, opened)
    mine = page is not None and opened is not None and page.opened is opened
    offset = page.offset if page is not None and mine else NOWHERE
    pages = _run(d, page, 1 + int(d.rng.random() * 2)) if page is not None and mine else []
    args = [{"p": proc.space, "x": x, "f": p.f} for p in pages]
    listed = bool(pages) and _listed(pages[0])
    for each in args if listed else []:
        d.rule("gntalloc_dealloc_gref", each)  # first, as the end of a page may send an event
    code, _, _ = proc.ioctl(fd, GNTALLOC_DEALLOC_GREF, RANGE.pack(offset, len(pages) or 1, 0))
    if listed:
        if code != OKAY:
            raise Mismatch(f"gntalloc dealloc: the rules say okay, the implementation {code}")
    else:
        f = page.f if page is not None else d.b.spec_state.size.heap
        d.rule("gntalloc_dealloc_gref", {"p": proc.space, "x": x, "f": f}, code)
    return f"gntalloc dealloc of {len(pages)}: {code}"


def notify(d: Dom0, proc: Proc) -> str:
    """IOCTL_GNTALLOC_SET_UNMAP_NOTIFY."""
    fd, x, opened = d.fd_of(proc, "gntalloc")
    page = _page(d, opened)
    mine = page is not None and opened is not None and page.opened is opened
    port, q = notice_port(d)
    if q is None or (fd in proc.fds and proc.fds[fd].kind == "gntdev"):
        return ""  # that is another rule: dom0_gntdev.py
    action, at = 1 + int(d.rng.random() * 3), 8 * int(d.rng.random() * 500)
    f = page.f if page is not None else d.b.spec_state.size.heap
    offset = page.offset + at if page is not None and mine else NOWHERE
    d.closing = []
    code, _, _ = proc.ioctl(fd, SET_UNMAP_NOTIFY, RANGE.pack(offset, action, port))
    d.rule(
        "gntalloc_set_unmap_notify",
        {"p": proc.space, "x": x, "f": f, "byte": action & 1, "event": action >> 1, "q": q},
        code,
    )
    d.closed()
    return f"gntalloc set_unmap_notify {action} port {port}: {code}"


MOVES = ((10, alloc), (8, share), (6, dealloc), (9, notify))
