"""libxenctrl: the privileged calls that building, pausing and destroying domains needs.

Contents: xc_* wrappers that put arguments into hypercall buffers, with C's conventions (-1 or None, and
errno). Not here: their use by a builder (impl/domb/builder.py). Source: Xen tools/libs/ctrl/xc_domain.c,
xc_evtchn.c, xc_private.c.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from struct import unpack

from bulkhead.impl.libs.osdep import Handle, Osdep, OsError, minus_on_error, null_on_error
from bulkhead.impl.xen import abi
from bulkhead.impl.xen.abi import EBUSY, EINVAL, ESRCH, U32, U64
from bulkhead.impl.xen.hypercall_evtchn import TWO_DOMIDS

POPULATE_BATCH = 512


class XcInterface(Handle):
    """xc_interface."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class DomInfo:
    """xc_dominfo, as far as tools use it."""

    domid: int
    paused: bool
    dying: bool
    shutdown: bool
    tot_pages: int
    max_pages: int
    shared_info_frame: int
    handle: bytes


@dataclass(frozen=True, slots=True)
class CreateDomain:
    """The fields of xen_domctl_createdomain that a PV guest needs."""

    handle: bytes = bytes(16)
    flags: int = 0
    max_vcpus: int = 1
    max_evtchn_port: int = 1023
    max_grant_frames: int = 64
    max_maptrack_frames: int = 1024
    grant_opts: int = 2
    ssidref: int = 0


@null_on_error
def xc_interface_open(os: Osdep) -> XcInterface:
    """Open the hypercall interface; None with ENOENT if the system has no privcmd."""
    return XcInterface(os, os.call_open())


@minus_on_error
def xc_interface_close(xch: XcInterface) -> int:
    """Close it."""
    xch.os.close(xch.fd)
    return 0


def _with_buffer(
    xch: XcInterface, number: int, payload: bytes, before: Sequence[int], after: Sequence[int]
) -> tuple[int, bytes]:
    """A hypercall with a struct in a buffer: (result, the struct after the call)."""
    os = xch.os
    at = os.buffer(len(payload))
    try:
        os.store(at, payload)
        rc = os.hypercall(xch.fd, number, [*before, at, *after])
        return rc, os.load(at, len(payload))
    finally:
        os.release(at, len(payload))


def _domctl(xch: XcInterface, cmd: int, domid: int, body: bytes) -> bytes:
    head = abi.DOMCTL_HEADER.pack(cmd, abi.DOMCTL_INTERFACE_VERSION, domid & 0xFFFF, 0, 0, 0)
    return _with_buffer(xch, abi.HYPERVISOR_DOMCTL, (head + body).ljust(abi.DOMCTL_SIZE, b"\0"), (), ())[1]


@minus_on_error
def xc_domain_create(xch: XcInterface, config: CreateDomain) -> int:
    """A new paused, empty domain: its id, or -1 (in C the id comes back by a pointer)."""
    body = abi.CREATEDOMAIN.pack(
        config.ssidref,
        config.handle,
        config.flags,
        0,
        config.max_vcpus,
        config.max_evtchn_port,
        config.max_grant_frames,
        config.max_maptrack_frames,
        config.grant_opts,
        0,
        0,
        0,
        0,
    )
    domid: int = abi.U16.unpack_from(_domctl(xch, abi.DOMCTL_CREATEDOMAIN, 0, body), 8)[0]
    return domid


@minus_on_error
def xc_domain_max_vcpus(xch: XcInterface, domid: int, count: int) -> int:
    """Create the vCPUs."""
    _domctl(xch, abi.DOMCTL_MAX_VCPUS, domid, U32.pack(count))
    return 0


@minus_on_error
def xc_domain_setmaxmem(xch: XcInterface, domid: int, max_memkb: int) -> int:
    """Limit the domain's memory."""
    _domctl(xch, abi.DOMCTL_MAX_MEM, domid, U64.pack(max_memkb))
    return 0


@minus_on_error
def xc_domain_pause(xch: XcInterface, domid: int) -> int:
    """Pause it."""
    _domctl(xch, abi.DOMCTL_PAUSEDOMAIN, domid, b"")
    return 0


@minus_on_error
def xc_domain_unpause(xch: XcInterface, domid: int) -> int:
    """Unpause it."""
    _domctl(xch, abi.DOMCTL_UNPAUSEDOMAIN, domid, b"")
    return 0


@minus_on_error
def xc_domain_destroy(xch: XcInterface, domid: int) -> int:
    """Destroy it. Pages that others map stay allocated until they unmap them."""
    _domctl(xch, abi.DOMCTL_DESTROYDOMAIN, domid, b"")
    return 0


@null_on_error
def xc_domain_getinfo(xch: XcInterface, domid: int) -> DomInfo:
    """Xen's information about a domain; None with ESRCH if no domain has that id."""
    raw = _domctl(xch, abi.DOMCTL_GETDOMAININFO, domid, b"")
    found, _, flags, tot, most, _, _, _, shared, _, _, _, _, handle, *_ = abi.GETDOMAININFO.unpack_from(raw, 16)
    if found != domid:
        raise OsError(ESRCH)
    return DomInfo(found, bool(flags & 8), bool(flags & 1), bool(flags & 4), tot, most, shared, handle)


@minus_on_error
def xc_vcpu_setcontext(xch: XcInterface, domid: int, vcpu: int, context: bytes) -> int:
    """Set the initial state of a vCPU."""
    os = xch.os
    if len(context) != abi.VCPU_CONTEXT_SIZE:
        raise OsError(EINVAL)
    at = os.buffer(len(context))
    try:
        os.store(at, context)
        _domctl(xch, abi.DOMCTL_SETVCPUCONTEXT, domid, abi.SETVCPUCONTEXT.pack(vcpu, 0, at))
    finally:
        os.release(at, len(context))
    return 0


@minus_on_error
def xc_hypercall_init(xch: XcInterface, domid: int, mfn: int) -> int:
    """Have Xen write the hypercall stubs into a page."""
    _domctl(xch, abi.DOMCTL_HYPERCALL_INIT, domid, U64.pack(mfn))
    return 0


@null_on_error
def xc_domain_populate_physmap_exact(xch: XcInterface, domid: int, pfns: Sequence[int]) -> list[int]:
    """Give a PV domain pages at all these guest frames: the machine frames. Fewer than requested is EBUSY, as in libxc."""
    os = xch.os
    mfns: list[int] = []
    for first in range(0, len(pfns), POPULATE_BATCH):
        part = pfns[first : first + POPULATE_BATCH]
        at = os.buffer(len(part) * 8)
        try:
            os.store(at, b"".join(U64.pack(pfn) for pfn in part))
            packed = abi.MEMORY_RESERVATION.pack(at, len(part), 0, 0, domid & 0xFFFF, 0, 0)
            done, _ = _with_buffer(xch, abi.HYPERVISOR_MEMORY_OP, packed, (abi.XENMEM_POPULATE_PHYSMAP,), ())
            if done != len(part):
                raise OsError(EBUSY)
            mfns += unpack(f"<{len(part)}Q", os.load(at, len(part) * 8))
        finally:
            os.release(at, len(part) * 8)
    return mfns


@minus_on_error
def xc_evtchn_alloc_unbound(xch: XcInterface, dom: int, remote_dom: int) -> int:
    """A port of `dom` waiting for `remote_dom`, or -1."""
    packed = TWO_DOMIDS.pack(dom & 0xFFFF, remote_dom & 0xFFFF, 0)
    _, raw = _with_buffer(xch, abi.HYPERVISOR_EVENT_CHANNEL_OP, packed, (abi.EVTCHNOP_ALLOC_UNBOUND,), ())
    port: int = TWO_DOMIDS.unpack(raw)[2]
    return port


@minus_on_error
def xc_mmuext_op(xch: XcInterface, cmd: int, mfn: int, dom: int) -> int:
    """One extended MMU operation on a domain's frame, such as pinning a page table."""
    _with_buffer(xch, abi.HYPERVISOR_MMUEXT_OP, abi.MMUEXT_OP.pack(cmd, 0, mfn, 0), (), (1, 0, dom))
    return 0
