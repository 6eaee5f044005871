"""domctl (hypercall 36): the operations that building, pausing and destroying domains need.

Contents: the struct of public/domctl.h and the privilege check. Not here: what they do
(lifecycle.py). Source: Xen common/domctl.c do_domctl.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from typing import TYPE_CHECKING

from bulkhead.impl.xen import abi, domctl_guest, domctl_hardware, domctl_vcpus
from bulkhead.impl.xen.abi import EFAULT, EINVAL, ENOSYS, EOPNOTSUPP, ESRCH
from bulkhead.impl.xen.continuation import Preempted
from bulkhead.impl.xen.control_struct import versioned_struct
from bulkhead.impl.xen.domain_info import domain_info
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
# Commands, or what is left of them after their checks, that are not here, and why. Their answer is -ENOSYS.
NOT_OFFERED = {
    "the contents of a processor or of a guest's saved state, when there is room for them": (33, 34, 55, 82, 83),
    "I/O memory in the map of a translated guest that may have it; its reset": (39, 79),
    "build options that Debian's Xen has not": (57, 65, 71, 81, 1000, 1001, 1002, 1003),
}
# Commands that need no domain if they name none.
WITHOUT_DOMAIN = frozenset({abi.DOMCTL_TEST_ASSIGN_DEVICE, abi.DOMCTL_VM_EVENT_OP})
Command = Callable[["Xen", "VCpu", "Domain", int, bytes], int]
OTHERS: dict[int, Command] = {
    abi.DOMCTL_SETVCPUAFFINITY: domctl_vcpus.set_affinity,
    abi.DOMCTL_GETVCPUINFO: domctl_vcpus.vcpu_info,
    abi.DOMCTL_SCHEDULER_OP: domctl_vcpus.scheduler,
    abi.DOMCTL_SETDEBUGGING: domctl_guest.set_debugging,
    abi.DOMCTL_IRQ_PERMISSION: domctl_hardware.irq_permission,
    abi.DOMCTL_IOMEM_PERMISSION: domctl_hardware.iomem_permission,
    abi.DOMCTL_IOPORT_PERMISSION: domctl_hardware.ioport_permission,
    abi.DOMCTL_SOFT_RESET_CONT: domctl_guest.soft_reset,  # of a domain that no reset has begun for
    abi.DOMCTL_SETTIMEOFFSET: domctl_guest.set_time_offset,
    abi.DOMCTL_GETVCPUAFFINITY: domctl_vcpus.get_affinity,
    abi.DOMCTL_RESUMEDOMAIN: domctl_guest.resume,
    abi.DOMCTL_SENDTRIGGER: domctl_vcpus.trigger,
    abi.DOMCTL_SUBSCRIBE: domctl_guest.subscribe,
    abi.DOMCTL_GETHVMCONTEXT: domctl_guest.get_saved,
    abi.DOMCTL_SETHVMCONTEXT: domctl_guest.set_saved,
    abi.DOMCTL_SET_ADDRESS_SIZE: domctl_guest.set_address_size,
    abi.DOMCTL_ASSIGN_DEVICE: domctl_hardware.device,
    abi.DOMCTL_BIND_PT_IRQ: domctl_hardware.passed_irq,
    abi.DOMCTL_MEMORY_MAPPING: domctl_hardware.memory_mapping,
    abi.DOMCTL_IOPORT_MAPPING: domctl_hardware.ioport_mapping,
    abi.DOMCTL_SET_EXT_VCPUCONTEXT: domctl_vcpus.set_extended,
    abi.DOMCTL_GET_EXT_VCPUCONTEXT: domctl_vcpus.get_extended,
    abi.DOMCTL_DEASSIGN_DEVICE: domctl_hardware.device,
    abi.DOMCTL_UNBIND_PT_IRQ: domctl_hardware.passed_irq,
    abi.DOMCTL_GET_DEVICE_GROUP: domctl_hardware.device,
    abi.DOMCTL_DEBUG_OP: domctl_vcpus.debug,
    abi.DOMCTL_GETHVMCONTEXT_PARTIAL: domctl_guest.get_record,
    abi.DOMCTL_GETTSCINFO: domctl_vcpus.get_clock,
    abi.DOMCTL_SETTSCINFO: domctl_vcpus.set_clock,
    abi.DOMCTL_SETVCPUEXTSTATE: domctl_vcpus.set_xstate,
    abi.DOMCTL_GETVCPUEXTSTATE: domctl_vcpus.get_xstate,
    abi.DOMCTL_SET_ACCESS_REQUIRED: domctl_guest.set_access_required,
    abi.DOMCTL_SET_VIRQ_HANDLER: domctl_guest.set_virq_handler,
    abi.DOMCTL_SET_BROKEN_PAGE_P2M: domctl_guest.set_broken_page,
    abi.DOMCTL_SETNODEAFFINITY: domctl_vcpus.set_nodes,
    abi.DOMCTL_GETNODEAFFINITY: domctl_vcpus.get_nodes,
    abi.DOMCTL_GET_VCPU_MSRS: domctl_vcpus.get_msrs,
    abi.DOMCTL_SET_VCPU_MSRS: domctl_vcpus.set_msrs,
    abi.DOMCTL_SETVNUMAINFO: domctl_guest.set_vnuma,
    abi.DOMCTL_PSR_CMT_OP: domctl_guest.cache_monitor,
    abi.DOMCTL_MONITOR_OP: domctl_guest.monitor,
    abi.DOMCTL_PSR_ALLOC: domctl_guest.cache_monitor,
    abi.DOMCTL_SOFT_RESET: domctl_guest.soft_reset,
    abi.DOMCTL_GET_CPU_POLICY: domctl_guest.get_cpu_policy,
    abi.DOMCTL_SET_CPU_POLICY: domctl_guest.set_cpu_policy,
    abi.DOMCTL_VMTRACE_OP: domctl_guest.trace,
    abi.DOMCTL_GET_PAGING_MEMPOOL_SIZE: domctl_guest.get_pool,
    abi.DOMCTL_SET_PAGING_MEMPOOL_SIZE: domctl_guest.set_pool,
}
CHECK_THEMSELVES = frozenset(
    {
        abi.DOMCTL_IRQ_PERMISSION,
        abi.DOMCTL_IOMEM_PERMISSION,
        abi.DOMCTL_IOPORT_PERMISSION,
        abi.DOMCTL_BIND_PT_IRQ,
        abi.DOMCTL_UNBIND_PT_IRQ,
        abi.DOMCTL_MEMORY_MAPPING,
        abi.DOMCTL_IOPORT_MAPPING,
        abi.DOMCTL_GET_DEVICE_GROUP,
    }
)
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
    | set(OTHERS)
    | WITHOUT_DOMAIN
)


def do_domctl(xen: Xen, vcpu: VCpu, arg: int, a2: int, a3: int, a4: int, a5: int) -> Generator[str, None, int]:
    """One control operation. A wrong interface version gives -EACCES before any other check."""
    raw = versioned_struct(xen, vcpu, arg, abi.DOMCTL_SIZE, abi.DOMCTL_INTERFACE_VERSION)
    if isinstance(raw, int):
        return raw
    cmd, _, domid, *_ = abi.DOMCTL_HEADER.unpack_from(raw)
    body = raw[16:]
    caller = vcpu.domain
    domain = None if cmd == abi.DOMCTL_CREATEDOMAIN else xen.domains.get(domid)
    if cmd == abi.DOMCTL_GETDOMAININFO:
        return _getdomaininfo(xen, vcpu, domid, arg)
    if domain is None and not (cmd == abi.DOMCTL_CREATEDOMAIN or (cmd in WITHOUT_DOMAIN and domid == abi.DOMID_INVALID)):
        return -ESRCH
    if cmd == abi.DOMCTL_SET_TARGET and domain is not None:
        target = xen.domains.get(abi.U16.unpack_from(body)[0])
        return -ESRCH if target is None else set_target(domain, target, caller)
    rc = 0 if cmd in CHECK_THEMSELVES else xen.xsm.priv("domctl", caller)
    if rc:
        return rc
    if cmd not in KNOWN:
        return -ENOSYS
    if cmd == abi.DOMCTL_CREATEDOMAIN:
        made = _create(xen, body, domid)
        if isinstance(made, int):
            return made
        return 0 if write(xen, vcpu, arg + 8, abi.U16.pack(made.domid)) else -EFAULT
    if cmd == abi.DOMCTL_TEST_ASSIGN_DEVICE:
        return domctl_hardware.device(xen, vcpu, domain, arg, body)
    if cmd == abi.DOMCTL_VM_EVENT_OP:
        return domctl_guest.vm_event(xen, vcpu, domain, arg, body)
    assert domain is not None
    if cmd in OTHERS:
        return OTHERS[cmd](xen, vcpu, domain, arg, body)
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
        xen, vcpu, arg + 16, domain_info(xen.domains[domid], vcpu.domain)
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
