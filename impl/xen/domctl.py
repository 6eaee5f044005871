"""domctl (hypercall 36): the operations that building, pausing and destroying domains need.

What lives here: the struct of public/domctl.h and the privilege check. What does not: what they do
(lifecycle.py). Source: Xen common/domctl.c do_domctl.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.abi import EACCES, EFAULT, EINVAL, ENOSYS, ESRCH
from bulkhead.impl.xen.continuation import Preempted
from bulkhead.impl.xen.domains import DEAD
from bulkhead.impl.xen.guest_access import read, write
from bulkhead.impl.xen.lifecycle import create_domain, destroy, pause, set_max_vcpus, set_target, unpause
from bulkhead.impl.xen.migration import PAGEFRAMEINFO3, get_vcpu_context, page_frame_info, shadow_op
from bulkhead.impl.xen.vcpu_context import hypercall_init, set_vcpu_context

if TYPE_CHECKING:
    from bulkhead.impl.xen.domains import Domain, VCpu
    from bulkhead.impl.xen.machine import Xen

INFO_DYING = 1
INFO_SHUTDOWN = 4
INFO_PAUSED = 8
INFO_HVM = 2
KNOWN = frozenset({
    abi.DOMCTL_CREATEDOMAIN, abi.DOMCTL_DESTROYDOMAIN, abi.DOMCTL_PAUSEDOMAIN, abi.DOMCTL_UNPAUSEDOMAIN,
    abi.DOMCTL_GETDOMAININFO, abi.DOMCTL_MAX_MEM, abi.DOMCTL_MAX_VCPUS, abi.DOMCTL_SET_TARGET,
    abi.DOMCTL_SETVCPUCONTEXT, abi.DOMCTL_HYPERCALL_INIT, abi.DOMCTL_SHADOW_OP, abi.DOMCTL_GETVCPUCONTEXT,
    abi.DOMCTL_GETPAGEFRAMEINFO3,
})


def do_domctl(xen: Xen, vcpu: VCpu, arg: int, a2: int, a3: int, a4: int, a5: int) -> Generator[str, None, int]:
    """One control operation. A wrong interface version is -EACCES before anything else is looked at."""
    raw = read(xen, vcpu, arg, abi.DOMCTL_SIZE)
    if raw is None:
        return -EFAULT
    cmd, version, domid, *_ = abi.DOMCTL_HEADER.unpack_from(raw)
    if version != abi.DOMCTL_INTERFACE_VERSION:
        return -EACCES
    body = raw[16:]
    caller = vcpu.domain
    domain: Domain | None = None
    if cmd != abi.DOMCTL_CREATEDOMAIN:
        domain = caller if domid == abi.DOMID_SELF else xen.domains.get(domid)
        if domain is None and cmd != abi.DOMCTL_GETDOMAININFO:
            return -ESRCH
    if cmd == abi.DOMCTL_GETDOMAININFO:
        rc = xen.xsm.xs_priv("getdomaininfo", caller)
    else:
        rc = xen.xsm.priv("domctl", caller)
    if rc:
        return rc
    if cmd not in KNOWN:
        return -ENOSYS
    if cmd == abi.DOMCTL_CREATEDOMAIN:
        made = _create(xen, body, domid)
        if isinstance(made, int):
            return made
        return 0 if write(xen, vcpu, arg + 8, abi.U16.pack(made.domid)) else -EFAULT
    if domain is None:
        return -ESRCH
    if cmd == abi.DOMCTL_DESTROYDOMAIN:
        return -EINVAL if domain is caller else (yield from _destroy(xen, domain, arg))
    if cmd == abi.DOMCTL_PAUSEDOMAIN:
        return -EINVAL if domain is caller else pause(domain)
    if cmd == abi.DOMCTL_UNPAUSEDOMAIN:
        return unpause(domain)
    if cmd == abi.DOMCTL_MAX_MEM:
        domain.max_pages = abi.U64.unpack_from(body)[0] >> 2
        return 0
    if cmd == abi.DOMCTL_MAX_VCPUS:
        return set_max_vcpus(domain, abi.U32.unpack_from(body)[0])
    if cmd == abi.DOMCTL_SETVCPUCONTEXT:
        number, _, at = abi.SETVCPUCONTEXT.unpack_from(body)
        context = read(xen, vcpu, at, abi.VCPU_CONTEXT_SIZE)
        return -EFAULT if context is None else set_vcpu_context(xen, vcpu, domain, number, context)
    if cmd == abi.DOMCTL_GETVCPUCONTEXT:
        number, _, at = abi.SETVCPUCONTEXT.unpack_from(body)
        return get_vcpu_context(xen, vcpu, domain, number, at)
    if cmd == abi.DOMCTL_GETPAGEFRAMEINFO3:
        return page_frame_info(xen, vcpu, domain, *PAGEFRAMEINFO3.unpack_from(body))
    if cmd == abi.DOMCTL_SHADOW_OP:
        return shadow_op(xen, vcpu, domain, arg, body)
    if cmd == abi.DOMCTL_HYPERCALL_INIT:
        return hypercall_init(xen, domain, abi.U64.unpack_from(body)[0])
    if cmd == abi.DOMCTL_SET_TARGET:
        target = xen.domains.get(abi.U16.unpack_from(body)[0])
        return -ESRCH if target is None else set_target(domain, target)
    return 0 if write(xen, vcpu, arg + 16, info(domain)) else -EFAULT


def _destroy(xen: Xen, domain: Domain, arg: int) -> Generator[str, None, int]:
    """Teardown stops between its phases where it is preempted; the call made again goes on from the domain's state."""
    steps = destroy(xen, domain)
    while True:
        try:
            marker = next(steps)
        except StopIteration as stop:
            return int(stop.value)
        again = marker in domain.torn and marker != "destroy.maptrack"  # gone through before the call was made again
        domain.torn.add(marker)
        if not again and domain.is_dying != DEAD and xen.preemption.wanted():
            steps.close()
            raise Preempted(arg)
        yield marker


def _create(xen: Xen, body: bytes, domid: int) -> Domain | int:
    (ssidref, handle, flags, iommu_opts, max_vcpus, max_port, grants, track, grant_opts, vmtrace, _pool, _emu,
     misc) = abi.CREATEDOMAIN.unpack_from(body)
    if flags & ~abi.CDF_KNOWN or iommu_opts or vmtrace or misc or (flags & abi.CDF_HAP and not flags & 1):
        return -EINVAL
    if grant_opts & ~0xF:
        return -EINVAL
    return create_domain(
        xen, domid, external=bool(flags & abi.CDF_HVM), max_vcpus=max_vcpus, max_grant_frames=grants,
        max_maptrack_frames=track, grant_version=grant_opts & 0xF, xs_domain=bool(flags & abi.CDF_XS_DOMAIN),
        max_evtchn_port=max_port, handle=handle, ssidref=ssidref,
    )


def info(domain: Domain) -> bytes:
    """struct xen_domctl_getdomaininfo of a domain, its leading fields."""
    flags = (INFO_DYING if domain.is_dying else 0) | (INFO_HVM if domain.external else 0)
    flags |= INFO_PAUSED if domain.pause_count and not domain.is_dying else 0
    flags |= INFO_SHUTDOWN if domain.crashed else 0
    shared = domain.shared_info.mfn if domain.shared_info is not None else 0
    return abi.GETDOMAININFO.pack(
        domain.domid, 0, flags, domain.tot_pages, domain.max_pages, domain.claim, 0, 0, shared, 0,
        len(domain.vcpus), max(len(domain.vcpus) - 1, 0), domain.ssidref, 0, domain.handle, 0,
    )
