"""Maptrack: the mapper's records of grant mappings, and the per-vCPU free lists of handles.

A handle is the record's index. Each list is FIFO and keeps one sentinel that is never handed out; an empty list
makes a new frame of records if the limit allows, else handles are stolen from other vCPUs. Not
here: the use of a record. Sources: Xen common/grant_table.c (_get_maptrack_handle, get_maptrack_handle,
steal_maptrack_handle, put_maptrack_handle).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bulkhead.impl.xen.abi import MAPTRACK_PER_FRAME
from bulkhead.impl.xen.domains import MAPTRACK_TAIL

if TYPE_CHECKING:
    from bulkhead.impl.xen.domains import Domain, VCpu
    from bulkhead.impl.xen.grant_entries import GrantTable


class Maptrack:
    """One record. `flags` 0 means free; `ref` then links to the next free handle.

    `granter` is the incarnation that granted: after an implicit unmap the record may outlive it, and its id may then
    name another domain, of which this record holds no pins.
    """

    __slots__ = ("domid", "flags", "granter", "ref", "vcpu")

    def __init__(self, ref: int, vcpu: int) -> None:
        self.ref = ref
        self.flags = 0
        self.domid = 0
        self.granter: Domain | None = None
        self.vcpu = vcpu


def _pop(table: GrantTable, vcpu: VCpu) -> int:
    """A handle from one vCPU's list, or -1 if only the sentinel (or nothing) is left."""
    head = vcpu.maptrack_head
    if head == MAPTRACK_TAIL:
        return -1
    following = table.maptrack[head].ref
    if following == MAPTRACK_TAIL:
        return -1
    vcpu.maptrack_head = following
    return head


def _steal(table: GrantTable, vcpu: VCpu) -> int:
    """A handle from any vCPU's list, starting at a random one; -1 if all are exhausted."""
    vcpus = vcpu.domain.vcpus
    first = vcpu.domain.xen.rng.randrange(len(vcpus))
    for i in range(len(vcpus)):
        handle = _pop(table, vcpus[(first + i) % len(vcpus)])
        if handle >= 0:
            table.maptrack[handle].vcpu = vcpu.vcpu_id
            return handle
    return -1


def get_handle(table: GrantTable, vcpu: VCpu) -> int:
    """A free handle for a mapping made by `vcpu`, or -1 (GNTST_no_space)."""
    track = table.maptrack
    head = vcpu.maptrack_head
    if head != MAPTRACK_TAIL:
        following = track[head].ref
        if following != MAPTRACK_TAIL:
            vcpu.maptrack_head = following
            return head
    if len(track) >= table.max_maptrack_frames * MAPTRACK_PER_FRAME:
        if vcpu.maptrack_tail == MAPTRACK_TAIL:
            # An uninitialised list first steals a handle to be its sentinel.
            handle = _steal(table, vcpu)
            if handle < 0:
                return -1
            track[handle].ref = MAPTRACK_TAIL
            vcpu.maptrack_tail = handle
            vcpu.maptrack_head = handle
        return _steal(table, vcpu)
    handle = len(track)
    for i in range(handle, handle + MAPTRACK_PER_FRAME):
        track.append(Maptrack(i + 1, vcpu.vcpu_id))
    if vcpu.maptrack_tail == MAPTRACK_TAIL:
        vcpu.maptrack_tail = handle + MAPTRACK_PER_FRAME - 1
    # The first new record is used now, the others go to the head of the list.
    track[-1].ref = vcpu.maptrack_head
    vcpu.maptrack_head = handle + 1
    return handle


def put_handle(table: GrantTable, vcpu: VCpu, handle: int) -> None:
    """Give a handle back to the tail of the list of the vCPU recorded in it."""
    record = table.maptrack[handle]
    record.ref = MAPTRACK_TAIL
    record.flags = 0
    record.granter = None
    owner = vcpu.domain.vcpus[record.vcpu]
    tail = owner.maptrack_tail
    owner.maptrack_tail = handle
    table.maptrack[tail].ref = handle


def live(table: GrantTable) -> int:
    """How many records stand for a mapping."""
    return sum(1 for record in table.maptrack if record.flags)
