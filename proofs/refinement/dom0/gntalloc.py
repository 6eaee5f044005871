"""Calls of a Dom0 process on /dev/xen/gntalloc: pages of Dom0 that it grants to guests and maps itself.

Each function executes one call and takes the corresponding rule steps; the page limit, and the existing pages of a
range, are computed here. Not here: which call is made (workload/).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bulkhead.impl.dom0.gntalloc import Gntalloc
from bulkhead.impl.dom0.ioctl import ALLOC_HEAD, GNTALLOC_ALLOC_GREF, GNTALLOC_DEALLOC_GREF, RANGE, SET_UNMAP_NOTIFY
from bulkhead.impl.xen import abi
from bulkhead.model.caller import OKAY
from bulkhead.proofs.refinement.calls import NOT_DONE, Answer
from bulkhead.proofs.refinement.dom0.gntdev import port_element
from bulkhead.proofs.refinement.dom0.kernel import Dom0
from bulkhead.proofs.refinement.dom0.state import Opened, Proc, SharedPage, Slot, UserSpace
from bulkhead.proofs.refinement.lockstep.rule_steps import Mismatch


def alloc_gref(d: Dom0, proc: Proc, a: Mapping[str, Any]) -> Answer:
    """IOCTL_GNTALLOC_ALLOC_GREF: {fd, dom, count, writable}; with `starved` the kernel has no page left meanwhile."""
    fd, dom, count, writable = a["fd"], a["dom"], a["count"], a["writable"]
    x, opened = d.file(proc, fd, "gntalloc")
    d.pool.retry_deferred()  # the call itself does this too, but may reuse the freed pages at once
    d.sync()
    device = opened.file.device if opened is not None else None
    if d.pool.count != len(d.pages):
        raise Mismatch(f"gntalloc counts {d.pool.count} pages, and {len(d.pages)} are given out")
    room = d.pool.limit - d.pool.count
    before = (d.pool.count, device.next_offset if isinstance(device, Gntalloc) else 0)
    free = d.kernel.free_pages
    kept, free[:] = ([*free], []) if a["starved"] else ([], [*free])
    code, _, raw = proc.ioctl(fd, GNTALLOC_ALLOC_GREF, ALLOC_HEAD.pack(dom, int(writable), count, 0) + bytes(12))
    free[:0] = kept
    spec = d.lockstep.spec_state
    args = {"p": proc.space, "x": x, "dom": dom, "writable": int(writable)}
    if not isinstance(device, Gntalloc) or opened is None:
        d.rule("gntalloc_alloc_gref", {**args, "f": 0, "r": 0}, code)
        return Answer(code)
    want = OKAY if count <= room and not (kept and count) else "ENOSPC" if count > room else "ENOMEM"
    if code != want:
        raise Mismatch(f"gntalloc alloc of {count} pages with room for {room} answered {code}")
    spent = count << 12 if want != "ENOSPC" else 0
    if (d.pool.count - before[0], device.next_offset - before[1]) != (count if code == OKAY else 0, spent):
        raise Mismatch("gntalloc alloc: what it has given out and the limit do not go together")
    if code != OKAY:
        d.rule("gntalloc_alloc_gref", args, code, code)
        return Answer(code)
    first = ALLOC_HEAD.unpack(raw[:16])[3]
    for n in range(count):
        page = device.pages[n - count]
        f = spec.know_dom0_frame(page.frame.mfn)
        d.pages.append(SharedPage(opened, page, page.ref, f, page.frame.mfn))
        d.rule("gntalloc_alloc_gref", {**args, "f": f, "r": spec.ref(page.ref)})
        told = (first + (n << 12), abi.U32.unpack_from(raw, 16 + 4 * n)[0])
        if told != (page.offset, page.ref):
            raise Mismatch(f"gntalloc alloc told the process {told}")
    return Answer(code, first)


def _page(d: Dom0, opened: Opened | None, offset: int) -> SharedPage | None:
    """The page at an offset of the file, also a page that it no longer lists."""
    return next((p for p in d.pages if p.opened is opened and p.offset == offset & ~0xFFF), None)


def _others(d: Dom0, opened: Opened | None) -> int:
    """The element for a wrong offset: a page that is not the file's."""
    return next((p.f for p in d.pages if p.opened is not opened), d.lockstep.spec_state.size.first_dom0_frame)


def mmap(d: Dom0, proc: Proc, a: Mapping[str, Any]) -> Answer:
    """mmap of gntalloc: {fd, offset, count, writable}; returns the address. There is no mapping beyond the last page."""
    fd, offset, count, writable = a["fd"], a["offset"], a["count"], a["writable"]
    x, opened = d.file(proc, fd, "gntalloc")
    page = _page(d, opened, offset)
    pages = [] if page is None else run(d, page, count)
    if page is not None and listed(page):
        _past_the_end(proc, fd, opened)
    code, addr = proc.mmap(fd, offset, writable, count)
    spec = d.lockstep.spec_state
    for n, f in enumerate([p.f for p in pages] or [_others(d, opened)]):
        t = spec.free_translation() if d.lockstep.rules_on else 0
        d.rule(
            "gntalloc_mmap",
            {"p": proc.space, "x": x, "f": f, "writable": int(writable), "t_t": t, "t_nil": spec.size.handles - 1},
            code,
        )
        if code == OKAY:
            vpn = (addr >> 12) + n
            proc.slots[vpn] = Slot("own", vpn, writable, t, maddr=proc.process.space.pte_maddr(vpn))
    return Answer(code, addr if code == OKAY else None)


def listed(page: SharedPage) -> bool:
    """Does its file still list the page?"""
    device = page.opened.file.device
    return isinstance(device, Gntalloc) and page.granted in device.pages


def run(d: UserSpace, page: SharedPage, most: int) -> list[SharedPage]:
    """A page and the listed pages that follow it in the file."""
    at = {p.offset: p for p in d.pages if p.opened is page.opened and listed(p)}
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


def dealloc_gref(d: Dom0, proc: Proc, a: Mapping[str, Any]) -> Answer:
    """IOCTL_GNTALLOC_DEALLOC_GREF: {fd, offset, count}; a file has only its own pages."""
    fd, offset, count = a["fd"], a["offset"], a["count"]
    x, opened = d.file(proc, fd, "gntalloc")
    page = _page(d, opened, offset)
    pages = [] if page is None else run(d, page, count)
    args = [{"p": proc.space, "x": x, "f": p.f} for p in pages]
    known = bool(pages) and listed(pages[0])
    for each in args if known else []:
        d.rule("gntalloc_dealloc_gref", each)  # first, as the end of a page may send an event
    f = page.f if page is not None else _others(d, opened)
    code, _, _ = proc.ioctl(fd, GNTALLOC_DEALLOC_GREF, RANGE.pack(offset, count, 0))
    if not known:
        d.rule("gntalloc_dealloc_gref", {"p": proc.space, "x": x, "f": f}, code)
    elif code != OKAY:
        raise Mismatch(f"gntalloc dealloc: the rules say okay, the implementation {code}")
    return Answer(code)


def set_unmap_notify(d: Dom0, proc: Proc, a: Mapping[str, Any]) -> Answer:
    """IOCTL_GNTALLOC_SET_UNMAP_NOTIFY: {fd, index, action, port}."""
    fd, index, action, port = a["fd"], a["index"], a["action"], a["port"]
    x, opened = d.file(proc, fd, "gntalloc")
    page = _page(d, opened, index)
    q = port_element(d, port)
    if q is None:
        return NOT_DONE  # the rules' world has no such port
    f = page.f if page is not None else _others(d, opened)
    d.closing = []
    code, _, _ = proc.ioctl(fd, SET_UNMAP_NOTIFY, RANGE.pack(index, action, port))
    d.rule(
        "gntalloc_set_unmap_notify",
        {"p": proc.space, "x": x, "f": f, "byte": action & 1, "event": action >> 1, "q": q},
        code,
    )
    d.closed()
    return Answer(code)
