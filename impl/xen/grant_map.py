"""GNTTABOP_map_grant_ref: pin a granted frame and map it into the caller.

The checks run in Xen's order and return Xen's codes. Not here: the page-table entry itself
(grant_host.py) and unmapping (grant_unmap.py). Source: Xen common/grant_table.c map_grant_ref.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from bulkhead.impl.xen.abi import (
    GNTMAP_APPLICATION_MAP,
    GNTMAP_CONTAINS_PTE,
    GNTMAP_DEVICE_MAP,
    GNTMAP_HOST_MAP,
    GNTMAP_READONLY,
    GNTST_BAD_DOMAIN,
    GNTST_BAD_GNTREF,
    GNTST_BAD_PAGE,
    GNTST_GENERAL_ERROR,
    GNTST_NO_SPACE,
    GNTST_OKAY,
    GNTST_PERMISSION_DENIED,
    PIN_DEVR,
    PIN_DEVW,
    PIN_HSTR,
    PIN_HSTW,
    PIN_WRITERS,
)
from bulkhead.impl.xen.frames import PGT_WRITABLE, Frame
from bulkhead.impl.xen.grant_host import create_mapping, host_needs_type
from bulkhead.impl.xen.maptrack import get_handle, put_handle
from bulkhead.impl.xen.pagetables import get_page_type, put_page_type

if TYPE_CHECKING:
    from bulkhead.impl.xen.domains import Domain, VCpu
    from bulkhead.impl.xen.machine import Xen

MapResult = tuple[int, int, int]


def get_paged_frame(xen: Xen, gfn: int, domain: Domain) -> Frame | None:
    """The frame behind a guest frame number, with a page reference; None is GNTST_bad_page.

    Only a page that the domain owns is accepted: where a translated one maps a page of another domain there is none for
    it, but one that it maps by a grant to itself is as good as at its number (get_paged_frame).
    """
    if domain.p2m is None:
        frame = xen.frames.table.get(gfn)
        if frame is None:
            return None
    else:
        found = domain.p2m.own(gfn, domain)
        if found is None:
            return None
        frame = found
    if frame.owner is not domain or frame.count == 0:
        return None
    frame.count += 1
    return frame


def map_grant_ref(xen: Xen, vcpu: VCpu, host_addr: int, flags: int, ref: int, dom: int) -> Generator[str, None, MapResult]:
    """Map one grant for the calling vCPU. Returns (status, handle, dev_bus_addr); the last two are valid on success."""
    mapper = vcpu.domain
    if not flags & 3:
        return GNTST_BAD_GNTREF, 0, 0
    if mapper.external and flags & (GNTMAP_DEVICE_MAP | GNTMAP_APPLICATION_MAP | GNTMAP_CONTAINS_PTE):
        return GNTST_GENERAL_ERROR, 0, 0
    granter = xen.domains.get(dom)
    if granter is None:
        return GNTST_BAD_DOMAIN, 0, 0
    if xen.xsm.grant_map(mapper, granter, flags):
        return GNTST_PERMISSION_DENIED, 0, 0
    handle = get_handle(mapper.grant_table, vcpu)
    if handle < 0:
        return GNTST_NO_SPACE, 0, 0
    table = granter.grant_table
    if ref >= table.nr_entries:
        put_handle(mapper.grant_table, vcpu, handle)
        return GNTST_BAD_GNTREF, 0, 0
    readonly = bool(flags & GNTMAP_READONLY)
    inc = 0
    if flags & GNTMAP_DEVICE_MAP:
        inc = PIN_DEVR if readonly else PIN_DEVW
    if flags & GNTMAP_HOST_MAP:
        inc += PIN_HSTR if readonly else PIN_HSTW

    act = table.active[ref]
    status = GNTST_OKAY
    taken: Frame | None = None
    pin = act.pin
    if pin and (act.domid != mapper.domid or pin & (inc << 7) or act.sub_page):
        status = GNTST_GENERAL_ERROR
    elif not pin or (not readonly and not pin & PIN_WRITERS):
        status = yield from table.set_status(ref, act, readonly, True, mapper.domid)
        if status == GNTST_OKAY and not pin:
            taken = get_paged_frame(xen, table.frame_field(ref), granter)
            if taken is None:
                status = GNTST_BAD_PAGE
                table.reduce_status(ref, act, readonly)
            else:
                act.frame = taken
                act.domid = mapper.domid
                act.start = 0
                act.length = 4096
                act.sub_page = False
                act.trans_dom = granter
                act.trans_gref = ref
    if status:
        put_handle(mapper.grant_table, vcpu, handle)
        return status, 0, 0
    act.pin += inc
    frame: Frame = act.frame  # type: ignore[assignment]  # a pinned entry has a frame
    granter.refs += 1  # keeps the domain alive, as the lookup by id does, while locks are dropped
    yield "map.pinned"

    status = _take_and_map(xen, vcpu, granter, frame, taken is not None, host_addr, flags, readonly)
    if status:
        act.pin -= inc
        table.reduce_status(ref, act, readonly)
        put_handle(mapper.grant_table, vcpu, handle)
        granter.put()
        return status, 0, 0
    record = mapper.grant_table.maptrack[handle]
    record.domid = dom
    record.granter = granter
    record.ref = ref
    record.flags = flags & 0xFFFF
    granter.put()
    return GNTST_OKAY, handle, frame.mfn << 12


def _take_and_map(
    xen: Xen, vcpu: VCpu, granter: Domain, frame: Frame, have_ref: bool, host_addr: int, flags: int, readonly: bool
) -> int:
    """Page and type references of each requested class, then the host mapping; undone on failure."""
    if not have_ref:
        if frame.owner is None or frame.count == 0:
            return GNTST_GENERAL_ERROR
        frame.count += 1
    refs = 1
    types = 0
    status = GNTST_GENERAL_ERROR
    if frame.owner is granter:
        okay = True
        if flags & GNTMAP_DEVICE_MAP and not readonly:
            okay = get_page_type(xen, frame, PGT_WRITABLE) == 0
            types += okay
        if okay and flags & GNTMAP_HOST_MAP:
            if flags & GNTMAP_DEVICE_MAP:
                frame.count += 1
                refs += 1
            if host_needs_type(readonly, vcpu.domain is granter, granter.external):
                okay = get_page_type(xen, frame, PGT_WRITABLE) == 0
                types += okay
            if okay:
                status = create_mapping(xen, vcpu, host_addr, frame, flags)
        elif okay:
            status = GNTST_OKAY
    if status:
        for _ in range(types):
            put_page_type(xen, frame)
        for _ in range(refs):
            xen.frames.put_page(frame)
    return status
