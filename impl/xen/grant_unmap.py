"""GNTTABOP_unmap_grant_ref and unmap_and_replace: two phases around one TLB flush.

Phase one removes the mapping and the maptrack record; phase two, after the flush, drops references and pins, so
no frame can be reused while a stale translation exists. Not here: release at the mapper's teardown
(lifecycle.py). Source: Xen common/grant_table.c unmap_common, unmap_common_complete.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING

from bulkhead.impl.xen.abi import (
    GNTMAP_DEVICE_MAP,
    GNTMAP_HOST_MAP,
    GNTMAP_READONLY,
    GNTST_BAD_DEV_ADDR,
    GNTST_BAD_HANDLE,
    GNTST_GENERAL_ERROR,
    GNTST_OKAY,
    GNTST_PERMISSION_DENIED,
    PIN_DEVR,
    PIN_DEVW,
    PIN_HSTR,
    PIN_HSTW,
)
from bulkhead.impl.xen.frames import Frame
from bulkhead.impl.xen.grant_host import host_needs_type, replace_mapping
from bulkhead.impl.xen.maptrack import put_handle
from bulkhead.impl.xen.pagetables import put_page_type

if TYPE_CHECKING:
    from bulkhead.impl.xen.domains import Domain, VCpu
    from bulkhead.impl.xen.machine import Xen

# Input of phase two: granter, reference, frame, done bits.
Pending = tuple["Domain", int, Frame, int]
UNMAP_BATCH = 32


def unmap_one(
    xen: Xen, vcpu: VCpu, host_addr: int, dev_bus_addr: int, new_addr: int, handle: int
) -> tuple[int, Pending | None]:
    """Phase one for one element: (status, work for phase two or None).

    If no domain has the granter's id any more, the caller is crashed; if another domain has it, the answer is bad_handle.
    """
    mapper = vcpu.domain
    track = mapper.grant_table.maptrack
    if handle >= len(track):
        return GNTST_BAD_HANDLE, None
    record = track[handle]
    flags = record.flags
    if not flags & 3:
        return GNTST_BAD_HANDLE, None
    granter = xen.domains.get(record.domid)
    if granter is None:
        mapper.crash()
        return GNTST_GENERAL_ERROR, None
    if granter is not record.granter:
        return GNTST_BAD_HANDLE, None  # the id now names another incarnation, which did not make this grant
    if xen.xsm.grant_unmap(mapper, granter):
        return GNTST_PERMISSION_DENIED, None
    table = granter.grant_table
    ref = record.ref
    if ref >= table.nr_entries:
        return GNTST_BAD_HANDLE, None
    act = table.active[ref]
    frame = act.frame
    if frame is None or not act.pin:
        # The record outlived its grant: no pin is held for it.
        return GNTST_BAD_HANDLE, None
    done = 0
    if dev_bus_addr and flags & GNTMAP_DEVICE_MAP and dev_bus_addr != frame.mfn << 12:
        return GNTST_BAD_DEV_ADDR, None
    if host_addr and flags & GNTMAP_HOST_MAP:
        status = replace_mapping(xen, vcpu, host_addr, frame, new_addr, flags)
        if status:
            return status, None
        record.flags &= ~GNTMAP_HOST_MAP
        done = GNTMAP_HOST_MAP | (flags & GNTMAP_READONLY)
    if dev_bus_addr and flags & GNTMAP_DEVICE_MAP:
        record.flags &= ~GNTMAP_DEVICE_MAP
        done |= GNTMAP_DEVICE_MAP | (flags & GNTMAP_READONLY)
    if not record.flags & 3:
        put_handle(mapper.grant_table, vcpu, handle)
    if not flags & GNTMAP_READONLY:
        granter.mark_dirty(frame.mfn)
    if not done:
        return GNTST_OKAY, None
    granter.refs += 1  # held until phase two has run
    return GNTST_OKAY, (granter, ref, frame, done)


def unmap_complete(xen: Xen, mapper: Domain, work: Pending) -> None:
    """Phase two: drop the references and pins of the mappings that phase one removed."""
    granter, ref, frame, done = work
    table = granter.grant_table
    act = table.active[ref]
    readonly = bool(done & GNTMAP_READONLY)
    if done & GNTMAP_DEVICE_MAP:
        if not readonly:
            put_page_type(xen, frame)
        act.pin -= PIN_DEVR if readonly else PIN_DEVW
        xen.frames.put_page(frame)
    if done & GNTMAP_HOST_MAP:
        if host_needs_type(readonly, mapper is granter, granter.external):
            put_page_type(xen, frame)
        act.pin -= PIN_HSTR if readonly else PIN_HSTW
        xen.frames.put_page(frame)
    if ref < table.nr_entries:
        table.reduce_status(ref, act, readonly)
    granter.put()


def finish(xen: Xen, vcpu: VCpu, pending: Sequence[Pending]) -> Generator[str, None, None]:
    """The flush between the phases, then phase two of a partial batch."""
    yield "unmap.flush"
    vcpu.domain.flush_tlb()
    for work in pending:
        unmap_complete(xen, vcpu.domain, work)
