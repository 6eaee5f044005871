"""Grant rules that implementations often violate, one test each."""

from __future__ import annotations

import pytest

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.domains import ALIVE, DYING, Domain
from bulkhead.impl.xen.events import op_alloc_unbound
from bulkhead.impl.xen.guest_access import read, translate, write
from bulkhead.impl.xen.lifecycle import create_domain, set_max_vcpus
from bulkhead.impl.xen.machine import Xen, run
from bulkhead.impl.xen.maptrack import get_handle, live, put_handle
from bulkhead.proofs.replay.rig import Rig
from tests.impl.support import check_no_leak, entry_flags, grant, machine, map_ref, page, unmap


@pytest.fixture
def rig() -> Rig:
    made = machine("A", "B", "C")
    grant(made, "A", 8, "B", 3)
    return made


def test_flags_without_a_class_come_before_the_domain(rig: Rig) -> None:
    arg = abi.MAP_GRANT_REF.pack(0, 4, 8, 999, 0, 0, 0)
    _, out = rig.grant_op("B", abi.GNTTABOP_MAP_GRANT_REF, arg)
    assert abi.MAP_GRANT_REF.unpack(out)[4] == abi.GNTST_BAD_GNTREF


def test_not_granted_is_general_error(rig: Rig) -> None:
    assert map_ref(rig, "C", "A", 8, 0)[0] == abi.GNTST_GENERAL_ERROR
    assert map_ref(rig, "B", "A", 9, 0)[0] == abi.GNTST_GENERAL_ERROR
    assert map_ref(rig, "B", "A", 600, 0)[0] == abi.GNTST_BAD_GNTREF


def test_status_bits_follow_writers_and_readers(rig: Rig) -> None:
    _, reader = map_ref(rig, "B", "A", 8, 0, 6)
    assert entry_flags(rig, "A", 8) == 1 | abi.GTF_READING
    _, writer = map_ref(rig, "B", "A", 8, 1, 2)
    assert entry_flags(rig, "A", 8) == 1 | abi.GTF_READING | abi.GTF_WRITING
    assert unmap(rig, "B", writer, 1) == 0
    assert entry_flags(rig, "A", 8) == 1 | abi.GTF_READING
    assert unmap(rig, "B", reader, 0) == 0
    assert entry_flags(rig, "A", 8) == 1


def test_pinned_entry_is_not_read_again(rig: Rig) -> None:
    map_ref(rig, "B", "A", 8, 0)
    grant(rig, "A", 8, "C", 9, 0)
    status, _ = map_ref(rig, "B", "A", 8, 1)
    assert status == 0
    frame, _ = rig.agents["B"].access(rig.agents["B"].layout.window_va(1), False)
    assert frame is page(rig, "A/3")


def test_readonly_bit_stops_only_the_first_writer(rig: Rig) -> None:
    map_ref(rig, "B", "A", 8, 0)
    grant(rig, "A", 8, "B", 3, 5)
    assert map_ref(rig, "B", "A", 8, 1)[0] == 0
    grant(rig, "A", 9, "B", 4, 5)
    assert map_ref(rig, "B", "A", 9, 2)[0] == abi.GNTST_GENERAL_ERROR


def test_pin_limit_is_128_for_each_class(rig: Rig) -> None:
    for _ in range(128):
        assert map_ref(rig, "B", "A", 8, 0, 1)[0] == 0
    assert map_ref(rig, "B", "A", 8, 0, 1)[0] == abi.GNTST_GENERAL_ERROR
    assert map_ref(rig, "B", "A", 8, 0, 5)[0] == 0
    assert map_ref(rig, "B", "A", 8, 0, 3)[0] == abi.GNTST_GENERAL_ERROR
    assert map_ref(rig, "B", "A", 8, 0, 2)[0] == 0


def test_unmap_with_no_address_does_nothing(rig: Rig) -> None:
    _, handle = map_ref(rig, "B", "A", 8, 0)
    assert unmap(rig, "B", handle, None) == 0
    assert live(rig.agents["B"].domain.grant_table) == 1
    assert unmap(rig, "B", handle, 0) == 0
    assert unmap(rig, "B", handle, 0) == abi.GNTST_BAD_HANDLE


def test_parts_can_be_unmapped_in_two_calls(rig: Rig) -> None:
    _, handle = map_ref(rig, "B", "A", 8, 0, 3)
    bus = rig.mfn("A/3") << 12
    assert unmap(rig, "B", handle, None, bus + 4096) == abi.GNTST_BAD_DEV_ADDR
    assert unmap(rig, "B", handle, None, bus) == 0
    assert unmap(rig, "B", handle, 0) == 0
    assert page(rig, "A/3").tcount == 1 + 0  # only the granter's own mapping


def test_handles_are_fifo_and_one_stays_back(rig: Rig) -> None:
    rig.agents["B"].domain.grant_table.max_maptrack_frames = 1
    for i in range(8, 11):
        grant(rig, "A", i, "B", i)
    handles: list[int] = []
    while True:
        status, handle = map_ref(rig, "B", "A", 8 + len(handles) // 100, 0, 5)
        if status:
            break
        handles.append(handle)
    assert handles == list(range(255)) and status == abi.GNTST_NO_SPACE
    assert unmap(rig, "B", 17, None, rig.mfn("A/8") << 12) == 0
    assert map_ref(rig, "B", "A", 10, 0, 5) == (0, 255)


def test_failed_map_rotates_its_handle(rig: Rig) -> None:
    map_ref(rig, "B", "A", 9, 0)
    assert map_ref(rig, "B", "A", 8, 0) == (0, 1)


def test_mapping_over_a_mapping_leaks_the_old_handle(rig: Rig) -> None:
    grant(rig, "A", 9, "B", 4)
    _, first = map_ref(rig, "B", "A", 8, 0)
    _, second = map_ref(rig, "B", "A", 9, 0)
    assert unmap(rig, "B", first, 0) == abi.GNTST_GENERAL_ERROR
    assert unmap(rig, "B", second, 0) == 0
    assert entry_flags(rig, "A", 8) & abi.GTF_READING


def test_page_table_pages_map_read_only(rig: Rig) -> None:
    data, off = rig.agents["A"].domain.grant_table.header_at(9)
    abi.ENTRY_V1.pack_into(data, off, 1, rig.domid("B"), rig.mfn("A/l1"))
    assert map_ref(rig, "B", "A", 9, 0, 2)[0] == abi.GNTST_GENERAL_ERROR
    assert map_ref(rig, "B", "A", 9, 0, 6)[0] == 0


def test_guest_cannot_copy_a_grant_entry(rig: Rig) -> None:
    map_ref(rig, "B", "A", 8, 0)
    layout = rig.agents["B"].layout
    assert rig.mmu_update("B", layout.window_maddr(1), (rig.mfn("A/3") << 12) | 0x67, abi.DOMID_SELF) == -abi.EBUSY


def test_copy_rules(rig: Rig) -> None:
    b2 = rig.mfn("B/2")

    def copy(s: int, sd: int, so: int, t: int, dd: int, do: int, size: int, flags: int) -> int:
        arg = abi.COPY.pack(s, sd, so, 0, t, dd, do, 0, size, flags, 9, 0)
        _, out = rig.grant_op("B", abi.GNTTABOP_COPY, arg)
        status: int = abi.STATUS.unpack_from(out, 36)[0]
        return status

    a, me, self_id = rig.domid("A"), rig.domid("B"), abi.DOMID_SELF
    assert copy(8, a, 0, b2, self_id, 0, 4096, 1) == 0
    assert page(rig, "B/2").data == page(rig, "A/3").data
    assert copy(8, a, 1, b2, self_id, 0, 4096, 1) == abi.GNTST_BAD_COPY_ARG
    assert copy(8, a, 0, b2, me, 0, 16, 1) == abi.GNTST_PERMISSION_DENIED
    assert copy(8, 99, 0, b2, me, 0, 16, 1) == abi.GNTST_BAD_DOMAIN
    assert copy(8, a, 0, rig.mfn("A/2"), self_id, 0, 16, 1) == abi.GNTST_BAD_PAGE
    assert copy(8, a, 0, rig.mfn("B/l1"), self_id, 0, 16, 1) == abi.GNTST_GENERAL_ERROR
    assert entry_flags(rig, "A", 8) == 1


def test_batch_continues_after_a_failed_element(rig: Rig) -> None:
    agent = rig.agents["B"]
    ops = b"".join(
        abi.MAP_GRANT_REF.pack(agent.layout.window_va(i), 2, ref, rig.domid("A"), 9, 0, 0)
        for i, ref in enumerate((9, 8, 700, 8))
    )
    write(rig.xen, agent.vcpu, agent.arg, ops)
    assert rig.xen.call(agent.vcpu, 20, 0, agent.arg, 4) == 0
    raw = read(rig.xen, agent.vcpu, agent.arg, 128) or b""
    assert [abi.MAP_GRANT_REF.unpack_from(raw, i * 32)[4] for i in range(4)] == [-1, 0, -3, 0]


def test_wrapper_errors(rig: Rig) -> None:
    agent = rig.agents["B"]
    call = rig.xen.call
    assert call(agent.vcpu, 20, 0, agent.arg, 0x80000000) == -abi.EINVAL
    assert call(agent.vcpu, 20, 0x1000, agent.arg, 1) == -abi.EINVAL
    assert call(agent.vcpu, 20, 99, agent.arg, 1) == -abi.ENOSYS
    assert call(agent.vcpu, 20, 3, agent.arg, 1) == -abi.ENOSYS
    assert call(agent.vcpu, 20, 0, 0x1000000, 1) == -abi.EFAULT
    assert call(agent.vcpu, 20, 0, 0x1000, 0) == 0
    assert call(agent.vcpu, 99) == -abi.ENOSYS


def test_version_switch(rig: Rig) -> None:
    grant(rig, "A", 7, "B", 7)
    assert rig.grant_op("A", 8, abi.U32.pack(3))[0] == -abi.EINVAL
    _, handle = map_ref(rig, "B", "A", 8, 0)
    assert rig.grant_op("A", 8, abi.U32.pack(2))[0] == -abi.EBUSY
    unmap(rig, "B", handle, 0)
    map_ref(rig, "B", "A", 7, 0)
    assert rig.grant_op("A", 8, abi.U32.pack(2)) == (0, abi.U32.pack(2))
    table = rig.agents["A"].domain.grant_table
    assert table.nr_entries == 256 and table.entry_v2(8)[0] == 0
    assert table.entry_v2(7)[0] == 1
    data, off = table.status_at(7)
    assert abi.U16.unpack_from(data, off)[0] == abi.GTF_READING | abi.GTF_WRITING
    assert rig.grant_op("A", 8, abi.U32.pack(1))[0] == 0
    assert entry_flags(rig, "A", 7) == 1 | 0x18


def test_transfer_and_the_lost_page(rig: Rig) -> None:
    a, b = rig.agents["A"], rig.agents["B"]
    grant(rig, "B", 8, "A", 0, abi.GTF_ACCEPT_TRANSFER)
    mfn = rig.mfn("A/5")
    arg = abi.TRANSFER.pack(mfn, rig.domid("B"), 0, 8, 9, 0, 0)
    assert abi.STATUS.unpack_from(rig.grant_op("A", 4, arg)[1], 16)[0] == abi.GNTST_BAD_PAGE
    rig.xen.call(a.vcpu, abi.HYPERVISOR_UPDATE_VA_MAPPING, a.layout.va(5), 0, 2)
    assert abi.STATUS.unpack_from(rig.grant_op("A", 4, arg)[1], 16)[0] == 0
    assert entry_flags(rig, "B", 8) == 0xE and rig.xen.frames.table[mfn].owner is b.domain
    rig.xen.call(a.vcpu, abi.HYPERVISOR_UPDATE_VA_MAPPING, a.layout.va(6), 0, 2)
    pages = a.domain.tot_pages
    lost = abi.TRANSFER.pack(rig.mfn("A/6"), rig.domid("B"), 0, 9, 9, 0, 0)
    assert abi.STATUS.unpack_from(rig.grant_op("A", 4, lost)[1], 16)[0] == abi.GNTST_GENERAL_ERROR
    assert a.domain.tot_pages == pages - 1


def test_a_page_is_transferred_out_of_reach_of_whoever_mapped_it_last(rig: Rig) -> None:
    """Clearing an entry made by a grant drops the page reference, but the TLB still maps the page until a flush."""
    a, b = rig.agents["A"], rig.agents["B"]
    map_ref(rig, "B", "A", 8, 0)
    mfn, slot = rig.mfn("A/3"), b.layout.window_va(0)
    assert translate(rig.xen, b.vcpu, slot)
    assert rig.xen.call(b.vcpu, abi.HYPERVISOR_UPDATE_VA_MAPPING, slot, 0, 0) == 0
    rig.xen.call(a.vcpu, abi.HYPERVISOR_UPDATE_VA_MAPPING, a.layout.va(3), 0, 2)
    reached = translate(rig.xen, b.vcpu, slot)
    assert reached is not None and reached[0].mfn == mfn
    grant(rig, "C", 8, "A", 0, abi.GTF_ACCEPT_TRANSFER)
    arg = abi.TRANSFER.pack(mfn, rig.domid("C"), 0, 8, 9, 0, 0)
    assert abi.STATUS.unpack_from(rig.grant_op("A", 4, arg)[1], 16)[0] == abi.GNTST_OKAY
    assert rig.xen.frames.table[mfn].owner is rig.agents["C"].domain
    assert translate(rig.xen, b.vcpu, slot) is None


def test_no_port_is_opened_for_one_who_dies(rig: Rig) -> None:
    domain = rig.agents["A"].domain
    assert op_alloc_unbound(rig.xen, rig.agents["A"].vcpu, abi.DOMID_SELF, 0) > 0
    domain.is_dying = DYING
    try:
        assert op_alloc_unbound(rig.xen, rig.dom0.vcpus[0], domain.domid, 0) == -abi.EINVAL
    finally:
        domain.is_dying = ALIVE


def test_granter_death_leaves_a_zombie_until_the_last_unmap(rig: Rig) -> None:
    _, handle = map_ref(rig, "B", "A", 8, 0)
    content = bytes(page(rig, "A/3").data or b"")
    frame = page(rig, "A/3")
    domid, _ = rig.remove("A")
    zombie = rig.xen.domains[domid]
    assert zombie.is_dying and zombie.tot_pages == 1
    assert bytes(frame.data or b"") == content
    assert map_ref(rig, "B", str(domid), 8, 1)[0] == 0
    unmap(rig, "B", handle, 0)
    assert domid in rig.xen.domains
    unmap(rig, "B", handle + 1, 1)
    assert domid not in rig.xen.domains and frame.owner is None


def test_mapper_death_releases_the_entry(rig: Rig) -> None:
    map_ref(rig, "B", "A", 8, 0, 3)
    rig.remove("B")
    assert entry_flags(rig, "A", 8) == 1
    assert page(rig, "A/3").tcount == 1


def test_unmap_after_the_granter_has_gone_crashes_the_caller(rig: Rig) -> None:
    _, handle = map_ref(rig, "B", "A", 8, 0)
    layout = rig.agents["B"].layout
    assert rig.mmu_update("B", layout.window_maddr(0), 0, abi.DOMID_SELF) == 0
    rig.remove("A")
    unmap(rig, "B", handle, 0)
    assert rig.agents["B"].domain.crashed


def test_frame_is_held_across_the_flush(rig: Rig) -> None:
    b = rig.agents["B"]
    _, handle = map_ref(rig, "B", "A", 8, 0)
    frame = page(rig, "A/3")
    b.access(b.layout.window_va(0), False)
    epoch = frame.epoch
    rig.remove("A")
    write(rig.xen, b.vcpu, b.arg, abi.UNMAP_GRANT_REF.pack(b.layout.window_va(0), 0, handle, 0, 0))
    gen = rig.xen.hypercall(b.vcpu, 20, 1, b.arg, 1)
    assert next(gen) == "unmap.flush"
    assert frame.epoch == epoch and frame.count > 0  # the stale translation still points at a live frame
    run(gen)
    assert frame.epoch == epoch + 1 and not b.vcpu.tlb.stale()


def test_nothing_leaks() -> None:
    rig = machine()
    free = rig.xen.frames.free_count
    for name in "ABC":
        rig.make(name)
    grant(rig, "A", 8, "B", 3)
    grant(rig, "A", 9, "C", 4)
    map_ref(rig, "B", "A", 8, 0, 3)
    map_ref(rig, "C", "A", 9, 0)
    for name in "ABC":
        rig.remove(name)
    check_no_leak(rig, free)


def test_handles_are_stolen_from_other_vcpus() -> None:
    xen = Xen(nframes=4096, reserved=16)
    xen.create_dom0()
    made = create_domain(xen, max_vcpus=2, max_maptrack_frames=1)
    assert isinstance(made, Domain)
    set_max_vcpus(made, 2)
    table = made.grant_table
    first = get_handle(table, made.vcpus[0])
    # The second vCPU has no list: one handle becomes its sentinel, another is allocated.
    stolen = get_handle(table, made.vcpus[1])
    assert (first, stolen) == (0, 2) and table.maptrack[stolen].vcpu == 1
    put_handle(table, made.vcpus[0], stolen)
    assert made.vcpus[1].maptrack_tail == stolen
    taken = [get_handle(table, made.vcpus[1]) for _ in range(260)]
    got = [handle for handle in taken if handle >= 0]
    assert len(got) == len(set(got)) == 256 - 1 - 2  # one in use, a sentinel on each list


def test_overlapping_copy_runs_upwards(rig: Rig) -> None:
    copied = page(rig, "B/2")
    assert page is not None
    copied.bytes()[:24] = bytes(range(24))
    arg = abi.COPY.pack(copied.mfn, abi.DOMID_SELF, 0, 0, copied.mfn, abi.DOMID_SELF, 8, 0, 24, 0, 9, 0)
    rig.grant_op("B", abi.GNTTABOP_COPY, arg)
    assert bytes(copied.bytes()[:32]) == bytes(range(8)) * 4


def test_a_caller_that_is_crashed_in_a_batch_gets_no_further() -> None:
    """The batch of 32 that crashes it is finished, as Xen does; the next one does not begin."""
    rig = machine("A", "B", "C")
    for name in "AC":
        grant(rig, name, 8, "B", 3)
    handles = [map_ref(rig, "B", name, 8, 0, 1)[1] for name in "A" + "C" * 40]
    b, c = rig.agents["B"], rig.agents["C"].domain
    copied = page(rig, "C/3")
    assert page is not None
    gone = rig.agents["A"].domain
    act = gone.grant_table.active[8]
    assert act.pin and act.frame is not None
    del rig.xen.domains[gone.domid]  # what an implicit unmap leaves behind: a record of a domain that is no more
    ops = b"".join(abi.UNMAP_GRANT_REF.pack(0, copied.mfn << 12, handle, 99, 0) for handle in handles)
    assert write(rig.xen, b.vcpu, b.arg, ops)
    assert rig.xen.call(b.vcpu, abi.HYPERVISOR_GRANT_TABLE_OP, abi.GNTTABOP_UNMAP_GRANT_REF, b.arg, 41) == -abi.EINVAL
    assert b.domain.crashed
    assert c.grant_table.active[8].pin >> 16 == 40 - 31
    rig.xen.domains[gone.domid] = gone
