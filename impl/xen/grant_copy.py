"""GNTTABOP_copy: copy bytes between two pages, each granted or the caller's own; each element has its own status.

Contents: acquiring a grant for the duration of a copy (full page, sub-page, one transitive level), bounds, the
copy. Not here: mapping. Source: Xen common/grant_table.c gnttab_copy_one, gnttab_copy_claim_buf,
acquire_grant_for_copy, release_grant_for_copy, gnttab_copy_buf.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Final

from bulkhead.impl.xen.abi import (
    DOMID_SELF,
    GNTCOPY_DEST_GREF,
    GNTCOPY_SOURCE_GREF,
    GNTST_BAD_COPY_ARG,
    GNTST_BAD_DOMAIN,
    GNTST_BAD_GNTREF,
    GNTST_BAD_PAGE,
    GNTST_GENERAL_ERROR,
    GNTST_OKAY,
    GNTST_PERMISSION_DENIED,
    GTF_SUB_PAGE,
    GTF_TRANSITIVE,
    GTF_TYPE_MASK,
    PAGE_SIZE,
    PIN_HSTR,
    PIN_HSTW,
    PIN_WRITERS,
)
from bulkhead.impl.xen.frames import PGT_WRITABLE, Frame
from bulkhead.impl.xen.grant_map import get_paged_frame
from bulkhead.impl.xen.pagetables import get_page_type, put_page_type

if TYPE_CHECKING:
    from bulkhead.impl.xen.domains import Domain, VCpu
    from bulkhead.impl.xen.machine import Xen

ERESTART: Final = 1
# (status, frame, start, length); the frame is None unless the status is okay.
Acquired = tuple[int, Frame | None, int, int]


def acquire(
    xen: Xen, granter: Domain, ref: int, user: int, readonly: bool, transitive_ok: bool
) -> Generator[str, None, Acquired]:
    """Pin a grant for a copy by domain `user` and take a page reference; ERESTART restarts the call."""
    table = granter.grant_table
    if ref >= table.nr_entries:
        return GNTST_BAD_GNTREF, None, 0, 0
    act = table.active[ref]
    inc = PIN_HSTR if readonly else PIN_HSTW
    old_pin = act.pin
    if old_pin and (act.domid != user or old_pin & (inc << 7)):
        return GNTST_GENERAL_ERROR, None, 0, 0
    upgrade = not old_pin or (not readonly and not old_pin & PIN_WRITERS)
    if table.version == 2:
        flags = table.entry_v2(ref)[0]
        if flags & GTF_TYPE_MASK == GTF_TRANSITIVE:
            return (yield from _acquire_transitive(xen, granter, ref, user, readonly, transitive_ok, upgrade))
    frame: Frame | None
    if upgrade:
        status = yield from table.set_status(ref, act, readonly, False, user)
        if status:
            return status, None, 0, 0
        sub_page = False
        start, length = 0, PAGE_SIZE
        if table.version == 1:
            gfn = table.entry_v1(ref)[2]
        else:
            flags, _, off, size, gfn = table.entry_v2(ref)
            if flags & GTF_SUB_PAGE:
                sub_page, start, length = True, off, size
        frame = get_paged_frame(xen, gfn, granter)
        if frame is None:
            table.reduce_status(ref, act, readonly)
            return GNTST_BAD_PAGE, None, 0, 0
        if not old_pin:
            act.domid = user
            act.sub_page = sub_page
            act.start = start
            act.length = length
            act.trans_dom = granter
            act.trans_gref = ref
            act.frame = frame
        elif (
            act.frame is not frame
            or act.trans_dom is not granter
            or act.trans_gref != ref
            or (act.sub_page and (act.start != start or act.length != length))
        ):
            # A writer that joins readers must name the frame that is pinned. Bounds are compared only if
            # the existing use is itself of part of a page; a whole-page use keeps its whole-page bounds.
            xen.frames.put_page(frame)
            table.reduce_status(ref, act, readonly)
            return GNTST_GENERAL_ERROR, None, 0, 0
    else:
        frame = act.frame
        if frame is None or frame.owner is not granter or frame.count == 0 or granter.is_dying:
            table.reduce_status(ref, act, readonly)
            return GNTST_BAD_DOMAIN, None, 0, 0
        frame.count += 1
    act.pin += inc
    return GNTST_OKAY, frame, act.start, act.length


def _acquire_transitive(
    xen: Xen, granter: Domain, ref: int, user: int, readonly: bool, transitive_ok: bool, upgrade: bool
) -> Generator[str, None, Acquired]:
    table = granter.grant_table
    act = table.active[ref]
    old_pin = act.pin
    if upgrade:
        status = yield from table.set_status(ref, act, readonly, False, user)
        if status:
            return status, None, 0, 0
    _, _, trans_domid, _, low = table.entry_v2(ref)
    trans_gref = low & 0xFFFFFFFF
    inner = xen.domains.get(trans_domid)
    if not transitive_ok or trans_domid == granter.domid or inner is None:
        table.reduce_status(ref, act, readonly)
        return GNTST_GENERAL_ERROR, None, 0, 0
    # The inner table's lock is taken without the outer's, so everything is checked again afterwards.
    inner.refs += 1
    yield "copy.transitive"
    status, frame, start, length = yield from acquire(xen, inner, trans_gref, granter.domid, readonly, False)
    if status or frame is None:
        inner.put()
        table.reduce_status(ref, act, readonly)
        return status, None, 0, 0
    if (
        table.version != 2
        or act.pin != old_pin
        or (
            old_pin
            and (
                act.domid != user
                or act.frame is not frame
                or act.start != start
                or act.length != length
                or act.trans_dom is not inner
                or act.trans_gref != trans_gref
                or not act.sub_page
            )
        )
    ):
        release(xen, inner, trans_gref, readonly)
        inner.put()
        table.reduce_status(ref, act, readonly)
        xen.frames.put_page(frame)
        return ERESTART, None, 0, 0
    if not old_pin:
        act.domid = user
        act.start = start
        act.length = length
        act.trans_dom = inner
        act.trans_gref = trans_gref
        act.frame = frame
        # Always marked as a sub-page use: this blocks maps meanwhile.
        act.sub_page = True
    act.pin += PIN_HSTR if readonly else PIN_HSTW
    inner.put()
    return GNTST_OKAY, frame, start, length


def release(xen: Xen, granter: Domain, ref: int, readonly: bool) -> None:
    """Unpin after a copy, using the recorded data, never the shared entry."""
    table = granter.grant_table
    act = table.active[ref]
    act.pin -= PIN_HSTR if readonly else PIN_HSTW
    inner = act.trans_dom
    gref = act.trans_gref
    if ref < table.nr_entries:
        table.reduce_status(ref, act, readonly)
    if inner is not None and inner is not granter:
        release(xen, inner, gref, readonly)


def _claim(
    xen: Xen, vcpu: VCpu, domid: int, domain: Domain, ptr: int, by_ref: bool, readonly: bool
) -> Generator[str, None, Acquired]:
    """One side of a copy: its frame with a page (and, to write, a type) reference."""
    if by_ref:
        got = yield from acquire(xen, domain, ptr & 0xFFFFFFFF, vcpu.domain.domid, readonly, xen.options.transitive)
        status, frame, start, length = got
        if status or frame is None:
            return got
    else:
        if domid != DOMID_SELF:
            return GNTST_PERMISSION_DENIED, None, 0, 0
        frame = get_paged_frame(xen, ptr, domain)
        if frame is None:
            return GNTST_BAD_PAGE, None, 0, 0
        start, length = 0, PAGE_SIZE
    if not readonly and get_page_type(xen, frame, PGT_WRITABLE):
        xen.frames.put_page(frame)
        if by_ref:
            release(xen, domain, ptr & 0xFFFFFFFF, readonly)
        return GNTST_GENERAL_ERROR, None, 0, 0
    return GNTST_OKAY, frame, start, length


def _unclaim(xen: Xen, domain: Domain, ptr: int, by_ref: bool, frame: Frame, readonly: bool) -> None:
    if not readonly:
        put_page_type(xen, frame)
    xen.frames.put_page(frame)
    if by_ref:
        release(xen, domain, ptr & 0xFFFFFFFF, readonly)


def forward_copy(data: bytearray, dst: int, src: int, length: int) -> None:
    """Copy within one page as Xen's memcpy does: upwards by 8-byte words, then the tail by bytes.

    If the destination starts inside the source, the first bytes repeat (arch/x86/string.c memcpy).
    """
    words = length & ~7
    for i in range(0, words, 8):
        data[dst + i : dst + i + 8] = data[src + i : src + i + 8]
    for i in range(words, length):
        data[dst + i] = data[src + i]


def copy_one(
    xen: Xen,
    vcpu: VCpu,
    src: int,
    src_dom: int,
    src_off: int,
    dst: int,
    dst_dom: int,
    dst_off: int,
    length: int,
    flags: int,
) -> Generator[str, None, int]:
    """Copy `length` bytes; `src`/`dst` are a grant reference or an own frame number. GNTST status or ERESTART."""
    caller = vcpu.domain
    domains = xen.domains
    sdom = caller if src_dom == DOMID_SELF else domains.get(src_dom)
    if sdom is None:
        return GNTST_BAD_DOMAIN
    ddom = caller if dst_dom == DOMID_SELF else domains.get(dst_dom)
    if ddom is None:
        return GNTST_BAD_DOMAIN
    if xen.xsm.grant_copy(caller, sdom, ddom):
        return GNTST_PERMISSION_DENIED
    if xen.options.zero_length_copy_ok and length == 0:
        return GNTST_OKAY
    sdom.refs += 1
    ddom.refs += 1
    s_ref = bool(flags & GNTCOPY_SOURCE_GREF)
    d_ref = bool(flags & GNTCOPY_DEST_GREF)
    status, sframe, s_start, s_len = yield from _claim(xen, vcpu, src_dom, sdom, src, s_ref, True)
    if sframe is not None:
        status, dframe, d_start, d_len = yield from _claim(xen, vcpu, dst_dom, ddom, dst, d_ref, False)
        if dframe is not None:
            yield "copy.claimed"
            if src_off + length > PAGE_SIZE or dst_off + length > PAGE_SIZE:
                status = GNTST_BAD_COPY_ARG
            elif (
                src_off < s_start
                or src_off + length > s_start + s_len
                or dst_off < d_start
                or dst_off + length > d_start + d_len
            ):
                status = GNTST_GENERAL_ERROR
            else:
                if sframe is dframe and src_off < dst_off < src_off + length:
                    forward_copy(dframe.bytes(), dst_off, src_off, length)
                else:
                    data = sframe.data
                    chunk = bytes(length) if data is None else data[src_off : src_off + length]
                    dframe.bytes()[dst_off : dst_off + length] = chunk
                ddom.mark_dirty(dframe.mfn)
                if xen.trace is not None:
                    xen.trace("copy", sframe.mfn, src_off, dframe.mfn, dst_off, length)
            _unclaim(xen, ddom, dst, d_ref, dframe, False)
        _unclaim(xen, sdom, src, s_ref, sframe, True)
    sdom.put()
    ddom.put()
    return status
