"""Chooses a Dom0 process's calls on /dev/xen/gntalloc: pages of Dom0 that it grants to guests and maps itself."""

from __future__ import annotations

from bulkhead.proofs.refinement.dom0.gntalloc import run
from bulkhead.proofs.refinement.dom0.gntdev import port_element
from bulkhead.proofs.refinement.dom0.state import MOST_SLOTS, Opened, Proc, SharedPage
from bulkhead.proofs.refinement.workload.caller import Caller, notice_port

NOWHERE = 0x6600000


def alloc(d: Caller, proc: Proc) -> str:
    """IOCTL_GNTALLOC_ALLOC_GREF of zero to three pages, also beyond the limit; sometimes when no page is left."""
    fd, _ = d.fd_of(proc, "gntalloc")
    dom = 1 + int(d.rng.random() * (d.view.size.nobody - 1))
    count = (0, 1, 1, 1, 1, 2, 2, 3, 0xFFFFFFFF)[int(d.rng.random() * 9)]
    writable = d.rng.random() < 0.7
    starved = d.rng.random() < 0.06
    code = d.call(proc, "gntalloc_alloc_gref", fd=fd, dom=dom, count=count, writable=writable, starved=starved).code
    return f"gntalloc alloc of {count} for d{dom}: {code}"


def _page(d: Caller, opened: Opened | None) -> SharedPage | None:
    """A page of the file, also one that it no longer lists; sometimes none."""
    pages = d.view.shared_pages
    if opened is not None and d.rng.random() < 0.95:
        pages = [p for p in pages if p.opened is opened]
    page = pages[int(d.rng.random() * len(pages))] if pages else None
    return page if page is not None and page.opened is opened else None


def _count(d: Caller, page: SharedPage | None) -> int:
    """The page and perhaps the next one, if there is one."""
    return 1 if page is None else len(run(d.view.dom0, page, 1 + int(d.rng.random() * 2)))


def _offset(page: SharedPage | None) -> int:
    return NOWHERE if page is None else page.offset


def share(d: Caller, proc: Proc) -> str:
    """mmap of gntalloc's pages; it fails on a gntdev descriptor."""
    fd, opened = d.fd_of(proc, "gntalloc")
    kind = proc.fds[fd].kind if fd in proc.fds else ""
    if kind in ("evtchn", "privcmd") or len(proc.slots) > MOST_SLOTS - 2:
        return ""  # evtchn cannot be mapped at all; privcmd only reserves addresses
    page = _page(d, opened)
    writable = d.rng.random() < 0.8
    count = _count(d, page)
    code = d.call(proc, "gntalloc_mmap", fd=fd, offset=_offset(page), count=count, writable=writable).code
    return f"gntalloc mmap of {count}: {code}"


def dealloc(d: Caller, proc: Proc) -> str:
    """IOCTL_GNTALLOC_DEALLOC_GREF; a file has only its own pages."""
    fd, opened = d.fd_of(proc, "gntalloc")
    page = _page(d, opened)
    count = _count(d, page)
    code = d.call(proc, "gntalloc_dealloc_gref", fd=fd, offset=_offset(page), count=count).code
    return f"gntalloc dealloc of {count}: {code}"


def notify(d: Caller, proc: Proc) -> str:
    """IOCTL_GNTALLOC_SET_UNMAP_NOTIFY."""
    fd, opened = d.fd_of(proc, "gntalloc")
    page = _page(d, opened)
    port = notice_port(d)
    if port_element(d.view.dom0, port) is None or (fd in proc.fds and proc.fds[fd].kind == "gntdev"):
        return ""  # that is another rule: dom0_gntdev.py
    action, at = 1 + int(d.rng.random() * 3), 8 * int(d.rng.random() * 500)
    index = page.offset + at if page is not None else NOWHERE
    code = d.call(proc, "gntalloc_set_unmap_notify", fd=fd, index=index, action=action, port=port).code
    return f"gntalloc set_unmap_notify {action} port {port}: {code}"


MOVES = ((10, alloc), (8, share), (6, dealloc), (9, notify))
