"""domctls that give a domain hardware: interrupts, I/O memory, ports, devices.

Contents: who may have what; a call is checked for sense before its caller is for privilege. There is no IOMMU. Not
here: the permissions themselves (toolstack.py), devices, and I/O memory in the map of a translated guest. Sources: Xen
common/domctl.c, arch/x86/domctl.c.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

from bulkhead.impl.xen.abi import EINVAL, ENOSYS, EOPNOTSUPP, EPERM

if TYPE_CHECKING:
    from bulkhead.impl.xen.domains import Domain, VCpu
    from bulkhead.impl.xen.machine import Xen

IRQ: Final = Struct("<IB")
IOMEM: Final = Struct("<QQB")
PORTS: Final = Struct("<IIB")
MEMORY: Final = Struct("<QQQI")  # first_gfn first_mfn nr add
PORT_MAPPING: Final = Struct("<IIII")  # first_gport first_mport nr add
MOST_IRQS: Final = 208
ALL_PORTS: Final = 65536
FRAME_BITS: Final = 28  # of a frame number, as addresses have 40 bits
U64_MASK: Final = (1 << 64) - 1


def irq_permission(xen: Xen, vcpu: VCpu, domain: Domain, arg: int, body: bytes) -> int:
    """XEN_DOMCTL_irq_permission: a caller passes on what it has itself; so do the next two."""
    number, allow = IRQ.unpack_from(body)
    if number >= MOST_IRQS:
        return -EINVAL
    if number not in vcpu.domain.toolstack.irqs:
        return -EPERM
    rc = xen.xsm.priv("irq_permission", vcpu.domain)
    if rc:
        return rc
    (domain.toolstack.irqs.add if allow else domain.toolstack.irqs.discard)(number)
    return 0


def iomem_permission(xen: Xen, vcpu: VCpu, domain: Domain, arg: int, body: bytes) -> int:
    """XEN_DOMCTL_iomem_permission."""
    first, count, allow = IOMEM.unpack_from(body)
    last = first + count - 1 & U64_MASK
    if last < first:
        return -EINVAL
    if not vcpu.domain.toolstack.iomem.has(first, last):
        return -EPERM
    rc = xen.xsm.priv("iomem_permission", vcpu.domain)
    if rc:
        return rc
    (domain.toolstack.iomem.add if allow else domain.toolstack.iomem.remove)(first, last)
    return 0


def ioport_permission(xen: Xen, vcpu: VCpu, domain: Domain, arg: int, body: bytes) -> int:
    """XEN_DOMCTL_ioport_permission."""
    first, count, allow = PORTS.unpack_from(body)
    if not count or first + count > ALL_PORTS:
        return -EINVAL
    if not vcpu.domain.toolstack.ports.has(first, first + count - 1):
        return -EPERM
    rc = xen.xsm.priv("ioport_permission", vcpu.domain)
    if rc:
        return rc
    (domain.toolstack.ports.add if allow else domain.toolstack.ports.remove)(first, first + count - 1)
    return 0


def memory_mapping(xen: Xen, vcpu: VCpu, domain: Domain, arg: int, body: bytes) -> int:
    """XEN_DOMCTL_memory_mapping: a PV guest maps by itself. A translated one's map has no I/O memory here: -ENOSYS."""
    gfn, mfn, count, _ = MEMORY.unpack_from(body)
    last = mfn + count - 1 & U64_MASK
    if last < mfn or (mfn | last) >> FRAME_BITS or gfn + count - 1 & U64_MASK < gfn:
        return -EINVAL
    rc = xen.xsm.priv("iomem_mapping", vcpu.domain)
    if rc or not domain.external:
        return rc
    permitted = all(each.toolstack.iomem.has(mfn, last) for each in (vcpu.domain, domain))
    return -ENOSYS if permitted else -EPERM


def ioport_mapping(xen: Xen, vcpu: VCpu, domain: Domain, arg: int, body: bytes) -> int:
    """XEN_DOMCTL_ioport_mapping; no guest's instructions run here to use it."""
    guest, machine, count, _ = PORT_MAPPING.unpack_from(body)
    if not domain.external:
        return -EOPNOTSUPP
    if not count or guest + count > ALL_PORTS or machine + count > ALL_PORTS:
        return -EINVAL
    if not vcpu.domain.toolstack.ports.has(machine, machine + count - 1):
        return -EPERM
    return xen.xsm.priv("ioport_mapping", vcpu.domain)


def device(xen: Xen, vcpu: VCpu, domain: Domain | None, arg: int, body: bytes) -> int:
    """assign_device, test_assign_device, deassign_device, get_device_group: they need an IOMMU."""
    return -EOPNOTSUPP


def passed_irq(xen: Xen, vcpu: VCpu, domain: Domain, arg: int, body: bytes) -> int:
    """bind_pt_irq, unbind_pt_irq: no translated guest has an interrupt of the machine."""
    return -EPERM if domain.external else -EINVAL
