"""Lifecycle of domains: creation with limits, pausing, teardown in phases, zombies.

Contents: those domctls with decoded arguments. Not here: argument bytes (domctl.py) and the
final release of a zombie, which the last reference triggers (machine.py domain_destroy). Sources: Xen
common/domain.c (domain_create, domain_kill), common/grant_table.c gnttab_release_mappings, arch/x86/domain.c
domain_relinquish_resources.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING

from bulkhead.impl.xen.abi import (
    DOMID_FIRST_RESERVED,
    EEXIST,
    EINVAL,
    ENOMEM,
    EOPNOTSUPP,
    GNTMAP_DEVICE_MAP,
    GNTMAP_HOST_MAP,
    GNTMAP_READONLY,
    PIN_DEVR,
    PIN_DEVW,
    PIN_HSTR,
    PIN_HSTW,
    VIRQ_DOM_EXC,
)
from bulkhead.impl.xen.descriptors import drop_gdt
from bulkhead.impl.xen.domains import ALIVE, DEAD, DYING, Domain, VCpu
from bulkhead.impl.xen.events import EventChannels
from bulkhead.impl.xen.grant_entries import GrantTable, unshare
from bulkhead.impl.xen.grant_host import host_needs_type
from bulkhead.impl.xen.hypercall_other import drop_eoi_page
from bulkhead.impl.xen.p2m import FOREIGN
from bulkhead.impl.xen.pagetables import put_page_type, put_table
from bulkhead.impl.xen.vcpu_op import drop_info

if TYPE_CHECKING:
    from bulkhead.impl.xen.machine import Xen

RELEASE_BATCH = 64


def choose_domid(xen: Xen) -> int:
    """The next free id after the last one given out, wrapping past the highest real id; -ENOMEM if none."""
    candidate = xen.last_domid
    for _ in range(DOMID_FIRST_RESERVED):
        candidate += 1
        if candidate >= DOMID_FIRST_RESERVED:
            candidate = 1
        if candidate not in xen.domains:
            xen.last_domid = candidate
            return candidate
    return -ENOMEM


def pick_domid(xen: Xen, domid: int) -> int:
    """The id of a new domain: the requested one, or else (request of 0, or not a real domain's id) the next free one, which
    stays used even if creation fails; -EEXIST, -ENOMEM."""
    if 0 < domid < DOMID_FIRST_RESERVED:
        return -EEXIST if domid in xen.domains else domid
    return choose_domid(xen)


def create_domain(
    xen: Xen,
    domid: int = 0,
    *,
    external: bool = False,
    max_vcpus: int = 1,
    max_grant_frames: int = -1,
    max_maptrack_frames: int = -1,
    grant_version: int = 2,
    xs_domain: bool = False,
    max_evtchn_port: int = 4095,
    privileged: bool = False,
    handle: bytes = bytes(16),
    ssidref: int = 0,
    checks: Callable[[], int] | None = None,
) -> Domain | int:
    """A new paused, empty domain, or -errno. `domid` 0 or beyond the real ids lets the hypervisor choose.

    Negative grant limits mean the defaults (64 and 1024 frames), which are also the maxima; no grant frames, no vCPU or an
    unknown grant version is -EINVAL. `checks` runs the remaining checks before the domain is made: 0 or -errno.
    """
    domid = (-EEXIST if 0 in xen.domains else 0) if privileged else pick_domid(xen, domid)
    if domid < 0:
        return domid
    if max_vcpus < 1 or max_vcpus > 8192 or not 1 <= grant_version <= xen.options.max_grant_version:
        return -EINVAL
    frames = xen.options.max_grant_frames if max_grant_frames < 0 else max_grant_frames
    track = xen.options.max_maptrack_frames if max_maptrack_frames < 0 else max_maptrack_frames
    if not 0 < frames <= xen.options.max_grant_frames or track > xen.options.max_maptrack_frames:
        return -EINVAL
    rc = checks() if checks is not None else 0
    if rc:
        return rc
    domain = Domain(xen, domid, external)
    domain.is_privileged = privileged
    domain.is_xenstore = xs_domain
    domain.max_vcpus = max_vcpus
    domain.handle = handle
    domain.ssidref = ssidref
    domain.max_evtchn_port = min(max_evtchn_port, 4095)
    domain.events = EventChannels(domain)
    domain.grant_table = GrantTable(domain, frames, track, grant_version)
    domain.shared_info = xen.share_page(domain)
    if domain.shared_info is None or not domain.grant_table.grow(1):
        for frame in (domain.shared_info, *domain.grant_table.shared):
            if frame is not None:
                unshare(xen, frame)
                xen.frames.free_xenheap(frame)
        return -ENOMEM
    xen.domains[domid] = domain
    return domain


def set_max_vcpus(domain: Domain, count: int) -> int:
    """Create the virtual CPUs; their number must be that given at creation. 0 or -EINVAL."""
    if count != domain.max_vcpus or (domain.is_dying and len(domain.vcpus) < count):
        return -EINVAL
    while len(domain.vcpus) < count:
        domain.vcpus.append(VCpu(len(domain.vcpus), domain))
    return 0


def pause(domain: Domain) -> int:
    """Increment the controller's pause count."""
    domain.pause_count += 1
    return 0


def unpause(domain: Domain) -> int:
    """Decrement it; -EINVAL if it is zero. When it first reaches zero, creation is finished."""
    if domain.pause_count == 0:
        return -EINVAL
    domain.pause_count -= 1
    if domain.pause_count == 0:
        domain.creation_finished = True
    return 0


def set_target(domain: Domain, target: Domain, caller: Domain) -> int:
    """Make `domain` the device model of `target` (a translated guest), once. 0 or -errno.

    The request is checked before the caller's privilege.
    """
    if domain is target:
        return -EINVAL
    if not target.external:
        return -EOPNOTSUPP
    rc = caller.xen.xsm.priv("set_target", caller)
    if rc:
        return rc
    if domain.target is not None:
        return -EINVAL
    target.refs += 1
    domain.target = target
    return 0


def destroy(xen: Xen, domain: Domain) -> Generator[str, None, int]:
    """Tear a domain down (domain_kill). It leaves the id list when its last page and reference are gone.

    It continues a teardown that another call began, or this one before it was preempted: every phase finds its own rest.
    """
    if domain.is_dying == DEAD:
        return 0
    if domain.is_dying == ALIVE:
        if domain.p2m is not None:
            domain.p2m.closed = True
        domain.is_dying = DYING
        domain.set_claim(0)
        yield "destroy.dying"
    yield from release_mappings(xen, domain)
    domain.events.destroy()
    yield "destroy.events"
    yield from _relinquish(xen, domain)
    if domain.is_dying == DEAD:
        return 0  # another call came first
    domain.is_dying = DEAD
    xen.raise_global_virq(VIRQ_DOM_EXC)
    yield "destroy.dead"
    domain.put()
    return 0


def release_mappings(xen: Xen, mapper: Domain) -> Generator[str, None, None]:
    """Release all grants that the dying domain maps, from the highest handle down (gnttab_release_mappings).

    This drops pins and in-use bits; a PV mapper's host page references are dropped with its page tables.
    """
    done = 0
    for record in reversed(mapper.grant_table.maptrack):
        if done == RELEASE_BATCH:
            done = 0
            yield "destroy.maptrack"
        flags = record.flags
        if not flags & 3:
            continue
        done += 1
        record.flags = 0
        granter = xen.domains.get(record.domid)
        made_by, record.granter = record.granter, None
        if granter is None or granter is not made_by or record.ref >= len(granter.grant_table.active):
            continue
        table = granter.grant_table
        act = table.active[record.ref]
        frame = act.frame
        if not act.pin or frame is None:
            continue
        readonly = bool(flags & GNTMAP_READONLY)
        granter.refs += 1
        if flags & GNTMAP_DEVICE_MAP:
            act.pin -= PIN_DEVR if readonly else PIN_DEVW
            if not readonly:
                put_page_type(xen, frame)
            xen.frames.put_page(frame)
        if flags & GNTMAP_HOST_MAP:
            act.pin -= PIN_HSTR if readonly else PIN_HSTW
            if mapper.external:
                if host_needs_type(readonly, mapper is granter, granter.external):
                    put_page_type(xen, frame)
                xen.frames.put_page(frame)
        if record.ref < table.nr_entries:
            table.reduce_status(record.ref, act, readonly)
        granter.put()


def _relinquish(xen: Xen, domain: Domain) -> Generator[str, None, None]:
    """Drop all of the domain's references to memory (domain_relinquish_resources)."""
    if domain.target is not None:
        target, domain.target = domain.target, None
        target.put()
    domain.flush_tlb()
    if domain.p2m is not None:
        for gfn, (frame, ptype) in list(domain.p2m.entries.items()):
            if ptype == FOREIGN:
                domain.p2m.clear(gfn)
                xen.frames.put_page(frame)
        domain.p2m.free_tables()  # pages that others still hold have no guest frame number any more
        yield "destroy.p2m"
    for vcpu in domain.vcpus:
        for root in (vcpu.cr3, vcpu.user_cr3):
            if root is not None:
                put_table(xen, root)
        vcpu.cr3 = vcpu.user_cr3 = None
        drop_gdt(xen, vcpu)
        drop_info(xen, vcpu)
    drop_eoi_page(xen, domain)
    yield "destroy.roots"
    table = domain.grant_table
    for shared in (domain.shared_info, *table.shared, *table.status):
        if shared is not None:
            unshare(xen, shared)
    for frame in list(domain.pages.values()):
        if frame.pinned:
            frame.pinned = False
            put_table(xen, frame)
    yield "destroy.unpinned"
    for frame in list(domain.pages.values()):
        if frame.allocated:
            xen.frames.put_alloc_ref(frame)
    yield "destroy.memory"
