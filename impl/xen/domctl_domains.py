"""domctl: the commands by which a toolstack makes, sets up, pauses and ends a domain.

Contents: their structs of public/domctl.h, and the checks of a new domain's flags. Not here: dispatch and the
privilege check (domctl.py) and what the commands do to a domain (lifecycle.py, vcpu_context.py, migration.py).
Source: Xen common/domctl.c do_domctl, common/domain.c sanitise_domain_config.
"""

from __future__ import annotations

from collections.abc import Generator
from functools import partial
from typing import TYPE_CHECKING

from bulkhead.impl.xen import abi, lifecycle, migration, vcpu_context
from bulkhead.impl.xen.abi import EFAULT, EINVAL, EOPNOTSUPP, ESRCH
from bulkhead.impl.xen.continuation import Preempted
from bulkhead.impl.xen.domains import DEAD
from bulkhead.impl.xen.guest_access import read, write

if TYPE_CHECKING:
    from bulkhead.impl.xen.domains import Domain, VCpu
    from bulkhead.impl.xen.machine import Xen

MOST_PAGES = 0xFFFFFFFF
HVM_MAX_VCPUS = 128
MAX_VIRT_CPUS = 8192
ADDRESS_SIZE = 64  # of PV guests; there are none of 32 bits


def create(xen: Xen, vcpu: VCpu, arg: int, body: bytes, domid: int) -> int:
    """XEN_DOMCTL_createdomain: 0, with the new id in the struct, or -errno."""
    made = _create(xen, body, domid)
    if isinstance(made, int):
        return made
    return 0 if write(xen, vcpu, arg + 8, abi.U16.pack(made.domid)) else -EFAULT


def destroy(xen: Xen, vcpu: VCpu, domain: Domain, arg: int) -> Generator[str, None, int]:
    """XEN_DOMCTL_destroydomain: no domain ends itself.

    Teardown may be preempted between its phases; the restarted call continues from the domain's state.
    """
    if domain is vcpu.domain:
        return -EINVAL
    steps = lifecycle.destroy(xen, domain)
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


def set_target(xen: Xen, vcpu: VCpu, domain: Domain, body: bytes) -> int:
    """XEN_DOMCTL_set_target: which domain a device model serves."""
    target = xen.domains.get(abi.U16.unpack_from(body)[0])
    return -ESRCH if target is None else lifecycle.set_target(domain, target, vcpu.domain)


def pause(xen: Xen, vcpu: VCpu, domain: Domain, arg: int, body: bytes) -> int:
    """XEN_DOMCTL_pausedomain: no domain pauses itself."""
    return -EINVAL if domain is vcpu.domain else lifecycle.pause(domain)


def unpause(xen: Xen, vcpu: VCpu, domain: Domain, arg: int, body: bytes) -> int:
    """XEN_DOMCTL_unpausedomain."""
    return lifecycle.unpause(domain)


def set_max_mem(xen: Xen, vcpu: VCpu, domain: Domain, arg: int, body: bytes) -> int:
    """XEN_DOMCTL_max_mem: the limit in KiB of the domain's pages."""
    domain.max_pages = min(abi.U64.unpack_from(body)[0] >> 2, MOST_PAGES)
    return 0


def set_max_vcpus(xen: Xen, vcpu: VCpu, domain: Domain, arg: int, body: bytes) -> int:
    """XEN_DOMCTL_max_vcpus."""
    return lifecycle.set_max_vcpus(domain, abi.U32.unpack_from(body)[0])


def set_vcpu_context(xen: Xen, vcpu: VCpu, domain: Domain, arg: int, body: bytes) -> int:
    """XEN_DOMCTL_setvcpucontext; without a context the vCPU is reset."""
    number, _, at = abi.SETVCPUCONTEXT.unpack_from(body)
    if domain is vcpu.domain or number >= len(domain.vcpus):
        return -EINVAL
    if not at:
        return vcpu_context.reset_vcpu(xen, domain.vcpus[number])
    context = read(xen, vcpu, at, abi.VCPU_CONTEXT_SIZE)
    return -EFAULT if context is None else vcpu_context.set_vcpu_context(xen, domain, number, context)


def get_vcpu_context(xen: Xen, vcpu: VCpu, domain: Domain, arg: int, body: bytes) -> int:
    """XEN_DOMCTL_getvcpucontext."""
    number, _, at = abi.SETVCPUCONTEXT.unpack_from(body)
    return migration.get_vcpu_context(xen, vcpu, domain, number, at)


def page_frame_info(xen: Xen, vcpu: VCpu, domain: Domain, arg: int, body: bytes) -> int:
    """XEN_DOMCTL_getpageframeinfo3."""
    return migration.page_frame_info(xen, vcpu, domain, *migration.PAGEFRAMEINFO3.unpack_from(body))


def set_handle(xen: Xen, vcpu: VCpu, domain: Domain, arg: int, body: bytes) -> int:
    """XEN_DOMCTL_setdomainhandle: 16 bytes that only toolstacks read."""
    domain.handle = bytes(body[:16])
    return 0


def get_address_size(xen: Xen, vcpu: VCpu, domain: Domain, arg: int, body: bytes) -> int:
    """XEN_DOMCTL_get_address_size, of PV guests."""
    if domain.external:
        return -EOPNOTSUPP
    return 0 if write(xen, vcpu, arg + 16, abi.U32.pack(ADDRESS_SIZE)) else -EFAULT


def init_hypercall_page(xen: Xen, vcpu: VCpu, domain: Domain, arg: int, body: bytes) -> int:
    """XEN_DOMCTL_hypercall_init."""
    return vcpu_context.hypercall_init(xen, domain, abi.U64.unpack_from(body)[0])


def _create(xen: Xen, body: bytes, domid: int) -> Domain | int:
    (ssidref, handle, flags, iommu_opts, max_vcpus, max_port, grants, track, grant_opts, vmtrace, pool, emulation, misc) = (
        abi.CREATEDOMAIN.unpack_from(body)
    )
    domid = lifecycle.pick_domid(xen, domid)
    if domid < 0:
        return domid
    rc = _refused(xen, flags, iommu_opts, max_vcpus, grant_opts, vmtrace or misc & ~abi.MISC_FLAGS)
    if rc:
        return rc
    made = lifecycle.create_domain(
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
