"""Helpers of the tests: a small machine with agent guests, and a leak check."""

from __future__ import annotations

from collections.abc import Generator

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.domains import VCpu
from bulkhead.impl.xen.frames import Frame
from bulkhead.impl.xen.grant_unmap import finish, unmap_one
from bulkhead.impl.xen.machine import Xen
from bulkhead.proofs.replay.agents import Agent
from bulkhead.proofs.replay.rig import Rig


def machine(*names: str) -> Rig:
    """A rig with the named guests built and filled."""
    rig = Rig()
    for name in names:
        assert rig.make(name) > 0
        rig.fill(name)
    return rig


def grant(rig: Rig, name: str, ref: int, to: str, page: int, flags: int = 1) -> None:
    """Write a version 1 entry as the granter does."""
    data, off = rig.agents[name].domain.grant_table.header_at(ref)
    abi.ENTRY_V1.pack_into(data, off, flags, rig.domid(to), rig.mfn(f"{name}/{page}"))


def map_ref(rig: Rig, by: str, dom: str, ref: int, slot: int, flags: int = 2) -> tuple[int, int]:
    """Map; (status, handle)."""
    addr = rig.agents[by].layout.window_va(slot) if flags & 2 else 0
    arg = abi.MAP_GRANT_REF.pack(addr, flags, ref, rig.domid(dom), 99, 0, 0)
    _, out = rig.grant_op(by, abi.GNTTABOP_MAP_GRANT_REF, arg)
    fields = abi.MAP_GRANT_REF.unpack(out)
    return fields[4], fields[5]


def unmap_grant_ref(
    xen: Xen, vcpu: VCpu, host_addr: int, dev_bus_addr: int, handle: int, new_addr: int = 0
) -> Generator[str, None, int]:
    """One whole unmap by decoded values, as a batch of one has it; the status."""
    status, work = unmap_one(xen, vcpu, host_addr, dev_bus_addr, new_addr, handle)
    yield from finish(xen, vcpu, (work,) if work is not None else ())
    return status


def unmap(rig: Rig, by: str, handle: int, slot: int | None, bus: int = 0) -> int:
    """Unmap; the status."""
    addr = 0 if slot is None else rig.agents[by].layout.window_va(slot)
    _, out = rig.grant_op(by, abi.GNTTABOP_UNMAP_GRANT_REF, abi.UNMAP_GRANT_REF.pack(addr, bus, handle, 99, 0))
    status: int = abi.STATUS.unpack_from(out, 20)[0]
    return status


def page(rig: Rig, name: str) -> Frame:
    """A page that must be there."""
    frame = rig.page(name)
    assert frame is not None, name
    return frame


def entry_flags(rig: Rig, name: str, ref: int) -> int:
    """Flags word of a version 1 entry."""
    return rig.agents[name].domain.grant_table.entry_v1(ref)[0]


def agent(rig: Rig, name: str) -> Agent:
    """The guest."""
    return rig.agents[name]


def check_counts(xen: Xen) -> None:
    """Type count never above the general count; a free frame has neither."""
    for frame in xen.frames.table.values():
        assert frame.count >= 0 and frame.tcount >= 0
        if frame.owner is None and not frame.xenheap:
            assert frame.count == 0 and frame.tcount == 0, frame.mfn
        if not frame.xenheap:
            assert frame.tcount <= frame.count, frame.mfn


def check_no_leak(rig: Rig, free_before: int) -> None:
    """After all guests are destroyed: every frame is free, and only Dom0 remains."""
    assert set(rig.xen.domains) == {0}
    check_counts(rig.xen)
    assert rig.xen.frames.free_count == free_before
    assert not any(record.flags for record in rig.dom0.grant_table.maptrack)
