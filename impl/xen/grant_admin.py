"""Grant table management: size, frames, version, swap, cache flush, and the frames' other routes out.

Contents: the operations on the table as a whole. Not here: mapping, copying and transfer.
Source: Xen common/grant_table.c gnttab_setup_table, gnttab_query_size, gnttab_set_version,
gnttab_get_status_frames, gnttab_get_version, gnttab_swap_grant_ref, gnttab_cache_flush, gnttab_acquire_resource.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bulkhead.impl.xen.abi import (
    DOMID_SELF,
    EAGAIN,
    EBUSY,
    EILSEQ,
    EINVAL,
    ENOMEM,
    ENOSYS,
    ENTRIES_V2,
    ENTRY_V1,
    ENTRY_V2,
    EOPNOTSUPP,
    EPERM,
    ERANGE,
    ESRCH,
    GNTST_BAD_DOMAIN,
    GNTST_BAD_GNTREF,
    GNTST_EAGAIN,
    GNTST_GENERAL_ERROR,
    GNTST_OKAY,
    GNTST_PERMISSION_DENIED,
    GNTTAB_CACHE_CLEAN,
    GNTTAB_CACHE_INVAL,
    GTF_PERMIT_ACCESS,
    GTF_READING,
    GTF_TRANSITIVE,
    GTF_TYPE_MASK,
    GTF_WRITING,
    NR_RESERVED_ENTRIES,
    PAGE_SHIFT,
    PAGE_SIZE,
    U16,
)
from bulkhead.impl.xen.frames import Frame

if TYPE_CHECKING:
    from bulkhead.impl.xen.domains import Domain, VCpu
    from bulkhead.impl.xen.machine import Xen

CACHE_OPS = GNTTAB_CACHE_CLEAN | GNTTAB_CACHE_INVAL
IN_USE = GTF_READING | GTF_WRITING


def _any(xen: Xen, vcpu: VCpu, dom: int) -> Domain | None:
    return vcpu.domain if dom == DOMID_SELF else xen.domains.get(dom)


def frame_number(domain: Domain, frame: Frame) -> int:
    """The owner's frame number for the frame: MFN for PV; GFN, or all ones if unmapped, for translated guests."""
    if domain.p2m is None:
        return frame.mfn
    return frame.m2p if frame.m2p >= 0 else 0xFFFFFFFFFFFFFFFF


def setup_table(xen: Xen, vcpu: VCpu, dom: int, nr_frames: int) -> tuple[int, list[int]]:
    """Make the table at least `nr_frames` long; (status, frame numbers of the first nr_frames)."""
    domain = _any(xen, vcpu, dom)
    if domain is None:
        return GNTST_BAD_DOMAIN, []
    if xen.xsm.target("grant_setup", vcpu.domain, domain):
        return GNTST_PERMISSION_DENIED, []
    table = domain.grant_table
    if nr_frames > table.max_frames:
        return GNTST_GENERAL_ERROR, []
    if nr_frames > len(table.shared) and not table.grow(nr_frames):
        return GNTST_GENERAL_ERROR, []
    if table.version == 2 and not table.populate_status(len(table.shared)):
        return GNTST_GENERAL_ERROR, []
    return GNTST_OKAY, [frame_number(domain, frame) for frame in table.shared[:nr_frames]]


def query_size(xen: Xen, vcpu: VCpu, dom: int) -> tuple[int, int, int]:
    """(status, frames now, frames at most)."""
    domain = _any(xen, vcpu, dom)
    if domain is None:
        return GNTST_BAD_DOMAIN, 0, 0
    if xen.xsm.target("grant_query_size", vcpu.domain, domain):
        return GNTST_PERMISSION_DENIED, 0, 0
    table = domain.grant_table
    return GNTST_OKAY, len(table.shared), table.max_frames


def get_version(xen: Xen, vcpu: VCpu, dom: int) -> tuple[int, int]:
    """(0 or -errno, version)."""
    domain = _any(xen, vcpu, dom)
    if domain is None:
        return -ESRCH, 0
    rc = xen.xsm.target("grant_query_size", vcpu.domain, domain)
    if rc:
        return rc, 0
    return 0, domain.grant_table.version


def get_status_frames(xen: Xen, vcpu: VCpu, dom: int, nr_frames: int) -> tuple[int, list[int]]:
    """(status, numbers of the first `nr_frames` status frames)."""
    domain = _any(xen, vcpu, dom)
    if domain is None:
        return GNTST_BAD_DOMAIN, []
    if xen.xsm.target("grant_setup", vcpu.domain, domain):
        return GNTST_PERMISSION_DENIED, []
    table = domain.grant_table
    if nr_frames > len(table.status):
        return GNTST_GENERAL_ERROR, []
    return GNTST_OKAY, [frame_number(domain, frame) for frame in table.status[:nr_frames]]


def set_version(vcpu: VCpu, version: int) -> tuple[int, int]:
    """Change the caller's table layout; (0 or -errno, version in force)."""
    table = vcpu.domain.grant_table
    if version not in (1, 2):
        return -EINVAL, table.version
    if version == 2 and table.max_version == 1:
        return -ENOSYS, table.version
    if version == table.version:
        return 0, version
    for ref in range(NR_RESERVED_ENTRIES, table.nr_entries):
        if table.active[ref].pin:
            return -EBUSY, table.version
    reserved: list[tuple[int, int, int]] = []
    if version == 2:
        if not table.populate_status(len(table.shared)):
            return -ENOMEM, 1
        reserved = [table.entry_v1(ref) for ref in range(NR_RESERVED_ENTRIES)]
    else:
        if any(act.pin and act.sub_page for act in table.active[:NR_RESERVED_ENTRIES]):
            return -EAGAIN, 2
        for ref in range(NR_RESERVED_ENTRIES):
            flags, domid, _, _, frame = table.entry_v2(ref)
            kind = flags & GTF_TYPE_MASK
            if (kind == GTF_PERMIT_ACCESS and frame >> 32) or kind == GTF_TRANSITIVE:
                return -ERANGE, 2
            if kind == GTF_PERMIT_ACCESS:
                data, off = table.status_at(ref)
                reserved.append((flags | U16.unpack_from(data, off)[0], domid, frame))
            else:
                reserved.append((0, 0, 0))
        if not table.unpopulate_status():
            return -EBUSY, 2
    for shared in table.shared:
        shared.bytes()[:] = bytes(PAGE_SIZE)
    table.set_version(version)
    for ref, (flags, domid, frame) in enumerate(reserved):
        data, off = table.header_at(ref)
        if version == 2:
            ENTRY_V2.pack_into(data, off, flags & ~IN_USE, domid, 0, 0, frame)
            word, woff = table.status_at(ref)
            U16.pack_into(word, woff, flags & IN_USE)
        else:
            ENTRY_V1.pack_into(data, off, flags & 0xFFFF, domid, frame)
    return 0, version


def swap_grant_ref(vcpu: VCpu, ref_a: int, ref_b: int) -> int:
    """Exchange the contents of two unused entries of the caller's table; GNTST status."""
    table = vcpu.domain.grant_table
    if ref_a >= table.nr_entries or ref_b >= table.nr_entries:
        return GNTST_BAD_GNTREF
    if ref_a == ref_b:
        return GNTST_OKAY
    if table.active[ref_a].pin or table.active[ref_b].pin:
        return GNTST_EAGAIN
    size = 8 if table.version == 1 else 16
    pairs = [(table.header_at(ref_a), table.header_at(ref_b), size)]
    if table.version == 2:
        pairs.append((table.status_at(ref_a), table.status_at(ref_b), 2))
    for (one, i), (two, j), count in pairs:
        keep = bytes(one[i : i + count])
        one[i : i + count] = two[j : j + count]
        two[j : j + count] = keep
    return GNTST_OKAY


def cache_flush(xen: Xen, vcpu: VCpu, address: int, offset: int, length: int, op: int, first_ref: int) -> int:
    """GNTTABOP_cache_flush of one range on x86, where only cleaning exists; 0 or -errno.

    The page must be the caller's, or granted to it by an entry in use of its owner; the search begins at `first_ref`.
    Naming it by a reference is not implemented.
    """
    if offset >= PAGE_SIZE or length > PAGE_SIZE or offset + length > PAGE_SIZE or op & ~CACHE_OPS:
        return -EINVAL
    if length == 0 or op == 0:
        return -EILSEQ if first_ref else 0
    mfn = address >> PAGE_SHIFT
    if mfn >= xen.frames.nframes:
        return -EINVAL
    frame = xen.frames.get(mfn)
    owner = frame.owner if frame is not None and frame.count else None
    if owner is None or owner.grant_table is None:
        return -EPERM
    if owner is not vcpu.domain and not any(
        act.pin and act.domid == vcpu.domain.domid and act.frame is frame
        for act in owner.grant_table.active[first_ref : owner.grant_table.nr_entries]
    ):
        return -EINVAL
    return -EOPNOTSUPP if op == GNTTAB_CACHE_INVAL else 0


def grant_frame(domain: Domain, index: int, status: bool) -> Frame | None:
    """A frame of the table for mapping, growing the table up to its limit (gnttab_get_*_frame_mfn)."""
    table = domain.grant_table
    if status:
        if table.version != 2:
            return None
        per = PAGE_SIZE // 2 // ENTRIES_V2
        if index >= len(table.status) and not table.grow((index + 1) * per):
            return None
        return table.status[index] if index < len(table.status) else None
    if index >= len(table.shared) and not table.grow(index + 1):
        return None
    return table.shared[index]
