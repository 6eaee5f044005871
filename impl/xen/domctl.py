"""domctl (hypercall 36): the operations that building, pausing and destroying domains need.

Contents: the struct of public/domctl.h and the privilege check. Not here: what they do
(lifecycle.py). Source: Xen common/domctl.c do_domctl.
"""

from __future__ import annotations

from collections.abc import Generator
from functools import partial
from typing import TYPE_CHECKING

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.abi import EACCES, EFAULT, EINVAL, ENOSYS, EOPNOTSUPP, ESRCH
from bulkhead.impl.xen.continuation import Preempted
from bulkhead.impl.xen.domains import DEAD
from bulkhead.impl.xen.guest_access import read, write
from bulkhead.impl.xen.lifecycle import create_domain, destroy, pause, pick_domid, set_max_vcpus, set_target, unpause
from bulkhead.impl.xen.migration import PAGEFRAMEINFO3, get_vcpu_context, page_frame_info, shadow_op
from bulkhead.impl.xen.vcpu_context import hypercall_init, reset_vcpu, set_vcpu_context

if TYPE_CHECKING:
    from bulkhead.impl.xen.domains import Domain, VCpu
    from bulkhead.impl.xen.machine import Xen

MOST_PAGES = 0xFFFFFFFF
HVM_MAX_VCPUS = 128
MAX_VIRT_CPUS = 8192
ADDRESS_SIZE = 64  # of PV guests; there are none of 32 bits
INFO_DYING = 1
INFO_SHUTDOWN = 4
INFO_PAUSED = 8
INFO_HVM = 2
# Of Xen's other commands: why they are not here. Their answer is -ENOSYS.
NOT_OFFERED = {
    "scheduling, NUMA and CPU pools: guests have no time here": (9, 14, 16, 24, 25, 59, 60, 68, 69),
    "devices, interrupts and I/O ports of a guest": (19, 20, 21, 37, 38, 39, 40, 45, 47, 48, 50, 66, 75, 78, 84),
    "processor state beyond vcpu_guest_context, CPUID and MSRs": (42, 43, 54, 55, 62, 63, 72, 73, 82),
    "a toolstack's notes, which change nothing that others see": (18, 27, 28, 29, 58, 64),
    "introspection, forks and other features of translated guests": (74, 77, 79, 83, 85, 86),
    "memory errors and debugging": (23, 67),
}
INFO_BLOCKED = 16
INFO_RUNNING = 32
INFO_XENSTORE = 1 << 7
INFO_HAP = 1 << 8
INFO_REASON_SHIFT = 16  # why the domain has stopped
KNOWN = frozenset(
    {
        abi.DOMCTL_CREATEDOMAIN,
        abi.DOMCTL_DESTROYDOMAIN,
        abi.DOMCTL_PAUSEDOMAIN,
        abi.DOMCTL_UNPAUSEDOMAIN,
        abi.DOMCTL_MAX_MEM,
        abi.DOMCTL_MAX_VCPUS,
        abi.DOMCTL_SETVCPUCONTEXT,
        abi.DOMCTL_HYPERCALL_INIT,
        abi.DOMCTL_SHADOW_OP,
        abi.DOMCTL_GETVCPUCONTEXT,
        abi.DOMCTL_GETPAGEFRAMEINFO3,
        abi.DOMCTL_SETDOMAINHANDLE,
        abi.DOMCTL_GET_ADDRESS_SIZE,
    }
)


def do_domctl(xen: Xen, vcpu: VCpu, arg: int, a2: int, a3: int, a4: int, a5: int) -> Generator[str, None, int]:
    """One control operation. A wrong interface version gives -EACCES before any other check."""
    raw = read(xen, vcpu, arg, abi.DOMCTL_SIZE)
    if raw is None:
        return -EFAULT
    cmd, version, domid, *_ = abi.DOMCTL_HEADER.unpack_from(raw)
    if version != abi.DOMCTL_INTERFACE_VERSION:
        return -EACCES
    body = raw[16:]
    caller = vcpu.domain
    domain = None if cmd == abi.DOMCTL_CREATEDOMAIN else xen.domains.get(domid)
    if cmd == abi.DOMCTL_GETDOMAININFO:
        return _getdomaininfo(xen, vcpu, domid, arg)
    if cmd != abi.DOMCTL_CREATEDOMAIN and domain is None:
        return -ESRCH
    if cmd == abi.DOMCTL_SET_TARGET and domain is not None:
        target = xen.domains.get(abi.U16.unpack_from(body)[0])
        return -ESRCH if target is None else set_target(domain, target, caller)
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
    assert domain is not None
    if cmd == abi.DOMCTL_DESTROYDOMAIN:
        return -EINVAL if domain is caller else (yield from _destroy(xen, domain, arg))
    if cmd == abi.DOMCTL_PAUSEDOMAIN:
        return -EINVAL if domain is caller else pause(domain)
    if cmd == abi.DOMCTL_UNPAUSEDOMAIN:
        return unpause(domain)
    if cmd == abi.DOMCTL_MAX_MEM:
        domain.max_pages = min(abi.U64.unpack_from(body)[0] >> 2, MOST_PAGES)
        return 0
    if cmd == abi.DOMCTL_MAX_VCPUS:
        return set_max_vcpus(domain, abi.U32.unpack_from(body)[0])
    if cmd == abi.DOMCTL_SETVCPUCONTEXT:
        number, _, at = abi.SETVCPUCONTEXT.unpack_from(body)
        if domain is caller or number >= len(domain.vcpus):
            return -EINVAL
        if not at:
            return reset_vcpu(xen, domain.vcpus[number])
        context = read(xen, vcpu, at, abi.VCPU_CONTEXT_SIZE)
        return -EFAULT if context is None else set_vcpu_context(xen, domain, number, context)
    if cmd == abi.DOMCTL_GETVCPUCONTEXT:
        number, _, at = abi.SETVCPUCONTEXT.unpack_from(body)
        return get_vcpu_context(xen, vcpu, domain, number, at)
    if cmd == abi.DOMCTL_GETPAGEFRAMEINFO3:
        return page_frame_info(xen, vcpu, domain, *PAGEFRAMEINFO3.unpack_from(body))
    if cmd == abi.DOMCTL_SETDOMAINHANDLE:
        domain.handle = bytes(body[:16])
        return 0
    if cmd == abi.DOMCTL_GET_ADDRESS_SIZE:
        if domain.external:
            return -EOPNOTSUPP
        return 0 if write(xen, vcpu, arg + 16, abi.U32.pack(ADDRESS_SIZE)) else -EFAULT
    if cmd == abi.DOMCTL_SHADOW_OP:
        return shadow_op(xen, vcpu, domain, arg, body)
    return hypercall_init(xen, domain, abi.U64.unpack_from(body)[0])


def _getdomaininfo(xen: Xen, vcpu: VCpu, domid: int, arg: int) -> int:
    """For this domain, or else for the domain with the next higher id."""
    if domid not in xen.domains:
        if domid >= abi.DOMID_FIRST_RESERVED:
            return -EINVAL
        domid = min((each for each in xen.domains if each >= domid), default=-1)
        if domid < 0:
            return -ESRCH
    rc = xen.xsm.xs_priv("getdomaininfo", vcpu.domain, xen.domains[domid])
    if rc:
        return rc
    told = write(xen, vcpu, arg + 8, abi.U16.pack(domid)) and write(
        xen, vcpu, arg + 16, info(xen.domains[domid], vcpu.domain)
    )
    return 0 if told else -EFAULT


def _destroy(xen: Xen, domain: Domain, arg: int) -> Generator[str, None, int]:
    """Teardown may be preempted between its phases; the restarted call continues from the domain's state."""
    steps = destroy(xen, domain)
    while True:
        try:
            marker = next(steps)
        except StopIteration as stop:
            return int(stop.value)
        again = marker in domain.teardown_done and marker != "destroy.maptrack"  # completed before the restart
        domain.teardown_done.add(marker)
        if not again and domain.is_dying != DEAD and xen.preemption.wanted():
            steps.close()
            raise Preempted(arg)
        yield marker


def _create(xen: Xen, body: bytes, domid: int) -> Domain | int:
    (ssidref, handle, flags, iommu_opts, max_vcpus, max_port, grants, track, grant_opts, vmtrace, pool, emulation, misc) = (
        abi.CREATEDOMAIN.unpack_from(body)
    )
    domid = pick_domid(xen, domid)
    if domid < 0:
        return domid
    rc = _refused(xen, flags, iommu_opts, max_vcpus, grant_opts, vmtrace or misc & ~abi.MISC_FLAGS)
    if rc:
        return rc
    made = create_domain(
        xen,
        domid,
        external=bool(flags & abi.CDF_HVM),
        max_vcpus=max_vcpus,
        max_grant_frames=grants,
        max_maptrack_frames=track,
        grant_version=grant_opts & 0xF,
        xs_domain=bool(flags & abi.CDF_XS_DOMAIN),
        max_evtchn_port=max_port,
        handle=handle,
        ssidref=ssidref,
        checks=partial(_late_checks, xen, flags, emulation, pool),
    )
    if not isinstance(made, int):
        made.emulation = emulation
    return made


def _refused(xen: Xen, flags: int, iommu_opts: int, max_vcpus: int, grant_opts: int, traced: int) -> int:
    """Refuse unknown flags and flags that this machine does not support (sanitise_domain_config)."""
    hvm = bool(flags & abi.CDF_HVM)
    not_here = abi.CDF_S3_INTEGRITY | abi.CDF_IOMMU | abi.CDF_NESTED_VIRT | abi.CDF_VPMU
    if flags & ~abi.CDF_KNOWN or flags & not_here or iommu_opts or grant_opts & ~0xF or traced:
        return -EINVAL
    if flags & abi.CDF_HAP and not (hvm and xen.options.hap):
        return -EINVAL
    return -EINVAL if not 1 <= max_vcpus <= (HVM_MAX_VCPUS if hvm else MAX_VIRT_CPUS) else 0


def _late_checks(xen: Xen, flags: int, emulation: int, pool: int) -> int:
    """Checks during the creation of a domain: paging mode, emulated devices, CPU pool."""
    hvm = bool(flags & abi.CDF_HVM)
    if emulation & ~abi.EMU_ALL:
        return -EINVAL
    if hvm and emulation not in (abi.EMU_LAPIC, abi.EMU_ALL & ~abi.EMU_VPCI):  # PVH, or HVM with all devices
        return -EOPNOTSUPP
    if not hvm and emulation not in (0, abi.EMU_PIT):
        return -EOPNOTSUPP
    if hvm and not flags & abi.CDF_HAP and not xen.options.shadow_paging:
        return -EOPNOTSUPP
    return -ESRCH if pool else 0


def info(domain: Domain, caller: Domain) -> bytes:
    """struct xen_domctl_getdomaininfo of a domain. While the caller runs, the vCPUs of all others wait."""
    flags = (INFO_DYING if domain.is_dying else 0) | (INFO_HVM if domain.external else 0)
    flags |= INFO_PAUSED if domain.pause_count else 0
    flags |= INFO_SHUTDOWN if domain.crashed else 0
    flags |= (INFO_XENSTORE if domain.is_xenstore else 0) | (INFO_HAP if domain.external and domain.xen.options.hap else 0)
    flags |= domain.stop_code << INFO_REASON_SHIFT
    if any(each.online for each in domain.vcpus) and not domain.crashed:  # who stopped was running
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
