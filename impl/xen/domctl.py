"""domctl (hypercall 36): which command a call is, for which domain, and whether its caller may make it.

Contents: the header of the struct of public/domctl.h, the privilege check, and the table of commands. Not here: their
bodies (domctl_domains.py, domctl_vcpus.py, domctl_hardware.py, domctl_guest.py). Source: Xen common/domctl.c do_domctl.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING

from bulkhead.impl.xen import abi, domctl_domains, domctl_guest, domctl_hardware, domctl_vcpus
from bulkhead.impl.xen.abi import EFAULT, EINVAL, ENOSYS, ESRCH
from bulkhead.impl.xen.control_struct import versioned_struct
from bulkhead.impl.xen.domain_info import domain_info
from bulkhead.impl.xen.guest_access import write
from bulkhead.impl.xen.migration import shadow_op

if TYPE_CHECKING:
    from bulkhead.impl.xen.domains import Domain, VCpu
    from bulkhead.impl.xen.machine import Xen

# Commands, or what is left of them after their checks, that are not here, and why. Their answer is -ENOSYS.
NOT_OFFERED = {
    "the contents of a processor or of a guest's saved state, when there is room for them": (33, 34, 55, 82, 83),
    "I/O memory in the map of a translated guest that may have it; its reset": (39, 79),
    "build options that Debian's Xen has not": (57, 65, 71, 81, 1000, 1001, 1002, 1003),
}
Command = Callable[["Xen", "VCpu", "Domain", int, bytes], int]
# Commands that need no domain if they name none.
WITHOUT_DOMAIN: dict[int, Callable[[Xen, VCpu, Domain | None, int, bytes], int]] = {
    abi.DOMCTL_TEST_ASSIGN_DEVICE: domctl_hardware.device,
    abi.DOMCTL_VM_EVENT_OP: domctl_guest.vm_event,
}
OF_A_DOMAIN: dict[int, Command] = {
    abi.DOMCTL_PAUSEDOMAIN: domctl_domains.pause,
    abi.DOMCTL_UNPAUSEDOMAIN: domctl_domains.unpause,
    abi.DOMCTL_MAX_MEM: domctl_domains.set_max_mem,
    abi.DOMCTL_MAX_VCPUS: domctl_domains.set_max_vcpus,
    abi.DOMCTL_SETVCPUCONTEXT: domctl_domains.set_vcpu_context,
    abi.DOMCTL_GETVCPUCONTEXT: domctl_domains.get_vcpu_context,
    abi.DOMCTL_GETPAGEFRAMEINFO3: domctl_domains.page_frame_info,
    abi.DOMCTL_SETDOMAINHANDLE: domctl_domains.set_handle,
    abi.DOMCTL_GET_ADDRESS_SIZE: domctl_domains.get_address_size,
    abi.DOMCTL_HYPERCALL_INIT: domctl_domains.init_hypercall_page,
    abi.DOMCTL_SHADOW_OP: shadow_op,
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
    abi.DOMCTL_PSR_ALLOC: domctl_guest.cache_allocation,
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
        abi.DOMCTL_VM_EVENT_OP,
    }
)
KNOWN = frozenset({abi.DOMCTL_CREATEDOMAIN, abi.DOMCTL_DESTROYDOMAIN, *WITHOUT_DOMAIN, *OF_A_DOMAIN})


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
        return domctl_domains.set_target(xen, vcpu, domain, body)
    rc = 0 if cmd in CHECK_THEMSELVES else xen.xsm.priv("domctl", caller)
    if rc:
        return rc
    if cmd not in KNOWN:
        return -ENOSYS
    if cmd == abi.DOMCTL_CREATEDOMAIN:
        return domctl_domains.create(xen, vcpu, arg, body, domid)
    if cmd in WITHOUT_DOMAIN:
        return WITHOUT_DOMAIN[cmd](xen, vcpu, domain, arg, body)
    assert domain is not None
    if cmd == abi.DOMCTL_DESTROYDOMAIN:
        return (yield from domctl_domains.destroy(xen, vcpu, domain, arg))
    return OF_A_DOMAIN[cmd](xen, vcpu, domain, arg, body)


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
