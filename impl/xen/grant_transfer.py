"""GNTTABOP_transfer: give one page permanently to another domain.

Once the page is stolen from the giver, every failure loses it. Not here: exchange of memory with
the heap (memory_op.py). Source: Xen common/grant_table.c gnttab_transfer, gnttab_prepare_for_transfer; steal_page
of arch/x86/mm.c.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from bulkhead.impl.xen.abi import (
    EINVAL,
    EOPNOTSUPP,
    GNTST_BAD_DOMAIN,
    GNTST_BAD_PAGE,
    GNTST_GENERAL_ERROR,
    GNTST_OKAY,
    GNTST_PERMISSION_DENIED,
    GTF_ACCEPT_TRANSFER,
    GTF_TRANSFER_COMMITTED,
    GTF_TRANSFER_COMPLETED,
    HEADER,
    U16,
    U32,
    U64,
)
from bulkhead.impl.xen.frames import PGT_NONE, Frame
from bulkhead.impl.xen.physmap import add_page

if TYPE_CHECKING:
    from bulkhead.impl.xen.domains import Domain, VCpu
    from bulkhead.impl.xen.machine import Xen


def steal_page(domain: Domain, frame: Frame) -> int:
    """Take an ordinary page from its owner if nobody else has a reference; 0, -EINVAL or -EOPNOTSUPP.

    On success the page has no owner, one reference (the caller's), and no longer counts for the old owner.
    """
    if domain.external:
        return -EOPNOTSUPP
    if frame.owner is not domain or frame.xenheap or not frame.allocated:
        return -EINVAL
    if frame.count != 1 or frame.tcount:
        return -EINVAL
    frame.allocated = False
    frame.owner = None
    frame.ptype = PGT_NONE
    frame.m2p = -1
    domain.unaccount_page(frame)
    return 0


def assign_page(domain: Domain, frame: Frame) -> None:
    """Make an ownerless page with one reference an ordinary page of `domain` (assign_pages)."""
    frame.owner = domain
    frame.allocated = True
    domain.account_page(frame)


def transfer_one(xen: Xen, vcpu: VCpu, gfn: int, dom: int, ref: int) -> Generator[str, None, int]:
    """Transfer the caller's page `gfn` to domain `dom`, which accepts it at `ref`; GNTST status.

    The TLBs of all domains are flushed after the page is stolen and before another domain owns it, so that no translation to
    the page outlives the giver's ownership.
    """
    giver = vcpu.domain
    frame = None
    if giver.p2m is None:
        frame = xen.frames.get(gfn)
    else:
        frame = giver.p2m.lookup(gfn)[0]
    if frame is None or frame.owner is None:
        return GNTST_BAD_PAGE
    giver.refs += 1
    rc = steal_page(giver, frame)
    if rc:
        giver.put()
        return GNTST_BAD_PAGE if rc == -EINVAL else GNTST_GENERAL_ERROR
    yield "transfer.stolen"
    for domain in xen.domains.values():
        domain.flush_tlb()
    status = yield from _give(xen, giver, frame, dom, ref)
    giver.put()
    return status


def _give(xen: Xen, giver: Domain, frame: Frame, dom: int, ref: int) -> Generator[str, None, int]:
    taker = xen.domains.get(dom)
    if taker is None:
        xen.frames.put_page(frame)
        return GNTST_BAD_DOMAIN
    if xen.xsm.grant_transfer(giver, taker):
        xen.frames.put_page(frame)
        return GNTST_PERMISSION_DENIED
    if taker.is_dying or taker.tot_pages >= taker.max_pages:
        xen.frames.put_page(frame)
        return GNTST_GENERAL_ERROR
    taker.refs += 1
    okay = yield from _commit(taker, giver.domid, ref)
    # Locks were dropped: the receiver may be dying or at its limit now.
    if not okay or taker.is_dying or taker.tot_pages >= taker.max_pages:
        xen.frames.put_page(frame)
        taker.put()
        return GNTST_GENERAL_ERROR
    assign_page(taker, frame)
    yield "transfer.assigned"
    table = taker.grant_table
    status = GNTST_GENERAL_ERROR
    if ref < table.nr_entries:
        rc = 0
        data, off = table.header_at(ref)
        field, at = (U32, off + 4) if table.version == 1 else (U64, off + 8)
        if taker.p2m is None:
            field.pack_into(data, at, frame.mfn)
        else:  # a translated guest has named the gfn for the page; its entry shows that gfn afterwards
            rc = add_page(xen, taker, field.unpack_from(data, at)[0], frame)
        flags = U16.unpack_from(data, off)[0]
        U16.pack_into(data, off, flags | GTF_TRANSFER_COMPLETED)
        status = GNTST_GENERAL_ERROR if rc else GNTST_OKAY  # the page is the taker's, at no number of its map
    taker.put()
    return status


def _commit(taker: Domain, giver: int, ref: int) -> Generator[str, None, bool]:
    """Claim the receiver's entry, which must be exactly accept_transfer for the giver: compare-and-swap, five tries."""
    table = taker.grant_table
    if ref >= table.nr_entries:
        return False
    data, off = table.header_at(ref)
    for _ in range(5):
        flags, domid = HEADER.unpack_from(data, off)
        if flags != GTF_ACCEPT_TRANSFER or domid != giver:
            return False
        yield "set_status.cmpxchg"
        if HEADER.unpack_from(data, off) == (flags, domid):
            U16.pack_into(data, off, flags | GTF_TRANSFER_COMMITTED)
            return True
    return False
