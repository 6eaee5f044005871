"""Memory operations that only query or record: the M2P's location, memory maps, sharing and populate-on-demand counts.

Contents: the answers to a guest without such features. Not here: reservations and the p2m. No guest can reach
the M2P here, so nobody can map the frames that these operations report for it. Source: Xen arch/x86/mm.c
arch_memory_op, arch/x86/x86_64/mm.c subarch_memory_op, common/memory.c.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.abi import (
    DOMID_SELF,
    EFAULT,
    EINVAL,
    ENOBUFS,
    ENOSYS,
    EOPNOTSUPP,
    EPERM,
    ESRCH,
    U16,
    U32,
    U64,
)
from bulkhead.impl.xen.guest_access import handle_okay, read, write

if TYPE_CHECKING:
    from bulkhead.impl.xen.domains import Domain, VCpu
    from bulkhead.impl.xen.machine import Xen

MFN_LIST = Struct("<I4xQI4x")  # max_extents, extent_start, nr_extents
MAPPING = Struct("<QQQ")  # v_start, v_end, max_mfn
MEMORY_MAP = Struct("<I4xQ")  # nr_entries, buffer
VNUMA = Struct("<HHIIIQQQ")  # domid pad, numbers of nodes, vCPUs and ranges, addresses of distances, vCPUs, ranges
VNUMA_SIZES = Struct("<III")
VNUMA_RANGE = 24
E820 = Struct("<QQI")  # address, size, type
E820_ENTRY = E820.size
E820_RAM = 1
LOW_RAM = 0x9FC00
HIGH_RAM = 0x100000
E820_MOST = 1024
M2P_START = 0xFFFF800000000000
M2P_END = 0xFFFF804000000000
SUPERPAGE_FRAMES = 512
POD_DOMID_AT = 32
ACCESS_DOMID_AT = 2
RDM_ALL = 1


def _machphys_list(xen: Xen, vcpu: VCpu, arg: int) -> int:
    raw = read(xen, vcpu, arg, MFN_LIST.size)
    if raw is None:
        return -EFAULT
    most, at, _ = MFN_LIST.unpack(raw)
    pages = -(-xen.frames.nframes * 8 // (SUPERPAGE_FRAMES * abi.PAGE_SIZE))
    count = min(most, pages)
    for i in range(count):
        if not write(xen, vcpu, at + i * 8, U64.pack(i * SUPERPAGE_FRAMES)):
            return -EFAULT
    return 0 if write(xen, vcpu, arg + 16, U32.pack(count)) else -EFAULT


def _machphys_mapping(xen: Xen, vcpu: VCpu, arg: int) -> int:
    told = MAPPING.pack(M2P_START, M2P_END, M2P_END - M2P_START >> 3)
    return 0 if write(xen, vcpu, arg, told) else -EFAULT


def _memory_map(xen: Xen, vcpu: VCpu, arg: int) -> int:
    raw = read(xen, vcpu, arg, MEMORY_MAP.size)
    if raw is None:
        return -EFAULT
    room, buffer = MEMORY_MAP.unpack(raw)
    known = vcpu.domain.e820
    if not known:
        return -ENOSYS
    count = len(known) // E820_ENTRY
    if buffer:
        count = min(room, count)
        if not write(xen, vcpu, buffer, known[: count * E820_ENTRY]):
            return -EFAULT
    return 0 if write(xen, vcpu, arg, U32.pack(count)) else -EFAULT


def _machine_memory_map(xen: Xen, vcpu: VCpu, arg: int) -> int:
    raw = read(xen, vcpu, arg, MEMORY_MAP.size)
    if raw is None:
        return -EFAULT
    room, buffer = MEMORY_MAP.unpack(raw)
    ranges = ((0, LOW_RAM), (HIGH_RAM, xen.frames.nframes * abi.PAGE_SIZE - HIGH_RAM))
    if room < len(ranges):
        return -EINVAL
    if not write(xen, vcpu, buffer, b"".join(E820.pack(start, size, E820_RAM) for start, size in ranges)):
        return -EFAULT
    return 0 if write(xen, vcpu, arg, U32.pack(len(ranges))) else -EFAULT


def _set_memory_map(xen: Xen, vcpu: VCpu, arg: int) -> int:
    raw = read(xen, vcpu, arg, 8 + MEMORY_MAP.size)
    if raw is None:
        return -EFAULT
    count, buffer = MEMORY_MAP.unpack_from(raw, 8)
    if count > E820_MOST:
        return -EINVAL
    domain = _any(xen, vcpu, U16.unpack_from(raw)[0])
    if domain is None:
        return -ESRCH
    rc = xen.xsm.target("domain_memory_map", vcpu.domain, domain)
    if rc:
        return rc
    entries = read(xen, vcpu, buffer, count * E820_ENTRY)
    if entries is None:
        return -EFAULT
    domain.e820 = entries
    return 0


def _any(xen: Xen, vcpu: VCpu, domid: int) -> Domain | None:
    return vcpu.domain if domid == DOMID_SELF else xen.domains.get(domid)


def _pod_target(xen: Xen, vcpu: VCpu, arg: int, set_it: bool) -> int:
    """Populate on demand is not supported: a translated guest has no such pages and no target."""
    raw = read(xen, vcpu, arg, 40)
    if raw is None:
        return -EFAULT
    domain = _any(xen, vcpu, U16.unpack_from(raw, POD_DOMID_AT)[0])
    if domain is None:
        return -ESRCH
    if not domain.external:
        return -EINVAL
    rc = xen.xsm.priv("pod_target", vcpu.domain)
    if rc:
        return rc
    if set_it and U64.unpack_from(raw)[0] > domain.max_pages:
        return -EINVAL
    told = U64.pack(domain.tot_pages) + U64.pack(0) + U64.pack(0)
    return 0 if write(xen, vcpu, arg + 8, told) else -EFAULT


def _access(xen: Xen, vcpu: VCpu, arg: int) -> int:
    """Rights of pages need Intel's processors; this machine has AMD's (p2m_mem_access_sanity_check)."""
    raw = read(xen, vcpu, arg, 32)
    if raw is None:
        return -EFAULT
    domain = xen.domains.get(U16.unpack_from(raw, ACCESS_DOMID_AT)[0])
    if domain is None:
        return -ESRCH
    return -EPERM if domain is vcpu.domain and not domain.is_dying else -EINVAL


def _vnuma(xen: Xen, vcpu: VCpu, arg: int) -> int:
    raw = read(xen, vcpu, arg, VNUMA.size)
    if raw is None:
        return -EFAULT
    domid, pad = abi.HEADER.unpack_from(raw)
    if pad:
        return -EINVAL
    domain = _any(xen, vcpu, domid)
    if domain is None:
        return -ESRCH
    rc = xen.xsm.target("get_vnumainfo", vcpu.domain, domain)
    if rc or domain.toolstack.vnuma is None:
        return rc or -EOPNOTSUPP
    _, _, nodes, vcpus, ranges, distances_at, vcpus_at, ranges_at = VNUMA.unpack_from(raw)
    virtual, distances, of_vcpus, memory = domain.toolstack.vnuma
    told = (virtual, len(of_vcpus) // 4, len(memory) // VNUMA_RANGE)
    if any(room < size for room, size in zip((nodes, vcpus, ranges), told, strict=True)):
        return -ENOBUFS if write(xen, vcpu, arg + 4, VNUMA_SIZES.pack(*told)) else -EFAULT
    parts = ((ranges_at, memory), (distances_at, distances), (vcpus_at, of_vcpus), (arg + 4, VNUMA_SIZES.pack(*told)))
    return 0 if all(write(xen, vcpu, at, part) for at, part in parts) else -EFAULT


def _reserved_device_memory(xen: Xen, vcpu: VCpu, arg: int) -> int:
    """No IOMMU, so no reserved ranges."""
    raw = read(xen, vcpu, arg, 24)
    if raw is None:
        return -EFAULT
    flags, count, buffer = abi.MEMORY_RDM.unpack_from(raw)
    if not handle_okay(vcpu, buffer, count, 16):
        return -EFAULT
    if flags & ~RDM_ALL:
        return -EINVAL
    return 0 if write(xen, vcpu, arg + 4, U32.pack(0)) else -EFAULT


def told_or_noted(xen: Xen, vcpu: VCpu, op: int, start: int, arg: int) -> int:
    """One of these operations; -ENOSYS for any other. `start` is claimed progress, which none of these operations has."""
    if op == abi.XENMEM_ACCESS_OP:
        return _access(xen, vcpu, arg)
    if op == abi.XENMEM_GET_VNUMAINFO:
        return -EINVAL if start else _vnuma(xen, vcpu, arg)
    if op == abi.XENMEM_RESERVED_DEVICE_MEMORY_MAP:
        return -EINVAL if start else _reserved_device_memory(xen, vcpu, arg)
    if start:
        return -ENOSYS
    if op == abi.XENMEM_MACHPHYS_MFN_LIST:
        return _machphys_list(xen, vcpu, arg)
    if op == abi.XENMEM_MACHPHYS_MAPPING:
        return _machphys_mapping(xen, vcpu, arg)
    if op == abi.XENMEM_MACHPHYS_COMPAT_MFN_LIST:
        return -EOPNOTSUPP  # no 32-bit guests
    if op == abi.XENMEM_MEMORY_MAP:
        return _memory_map(xen, vcpu, arg)
    if op == abi.XENMEM_MACHINE_MEMORY_MAP:
        return xen.xsm.priv("machine_memory_map", vcpu.domain) or _machine_memory_map(xen, vcpu, arg)
    if op == abi.XENMEM_SET_MEMORY_MAP:
        return _set_memory_map(xen, vcpu, arg)
    if op in (abi.XENMEM_SET_POD_TARGET, abi.XENMEM_GET_POD_TARGET):
        return _pod_target(xen, vcpu, arg, op == abi.XENMEM_SET_POD_TARGET)
    if op in (abi.XENMEM_GET_SHARING_FREED_PAGES, abi.XENMEM_GET_SHARING_SHARED_PAGES):
        return 0
    return -ENOSYS
