"""struct xen_domctl_getdomaininfo: what getdomaininfo and getdomaininfolist tell of a domain.

Contents: the flags and the struct. Not here: who may ask (domctl.py, sysctl.py). Source: Xen common/domctl.c getdomaininfo.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bulkhead.impl.xen import abi

if TYPE_CHECKING:
    from bulkhead.impl.xen.domains import Domain

INFO_DYING = 1
INFO_SHUTDOWN = 4
INFO_PAUSED = 8
INFO_HVM = 2
INFO_BLOCKED = 16
INFO_RUNNING = 32
INFO_XENSTORE = 1 << 7
INFO_HAP = 1 << 8
INFO_REASON_SHIFT = 16  # why the domain has stopped
INFO_DEBUGGED = 1 << 6


def domain_info(domain: Domain, caller: Domain) -> bytes:
    """struct xen_domctl_getdomaininfo of a domain. While the caller runs, the vCPUs of all others wait."""
    flags = (INFO_DYING if domain.is_dying else 0) | (INFO_HVM if domain.external else 0)
    flags |= INFO_PAUSED if domain.pause_count else 0
    flags |= (INFO_SHUTDOWN if domain.crashed else 0) | (INFO_DEBUGGED if domain.toolstack.debugged else 0)
    flags |= (INFO_XENSTORE if domain.is_xenstore else 0) | (INFO_HAP if domain.external and domain.xen.options.hap else 0)
    flags |= domain.stop_code << INFO_REASON_SHIFT
    if any(each.online for each in domain.vcpus) and (domain.toolstack.stopped_asleep or not domain.crashed):
        flags |= INFO_RUNNING if domain is caller else INFO_BLOCKED
    shared = domain.shared_info.mfn if domain.shared_info is not None else 0
    return abi.GETDOMAININFO.pack(
        domain.domid,
        0,
        flags,
        domain.tot_pages,
        domain.max_pages,
        domain.claim,
        0,
        0,
        shared,
        0,
        sum(each.online for each in domain.vcpus),
        len(domain.vcpus) - 1 if domain.vcpus else abi.INVALID_VCPU_ID,
        domain.ssidref,
        domain.handle,
        0,
        0,
        domain.emulation,
    )
