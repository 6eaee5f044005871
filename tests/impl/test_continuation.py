"""Preempted and restarted hypercalls: the same result, forged progress, and changes or death in between."""

from __future__ import annotations

from typing import Any

import pytest

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.continuation import ALWAYS, NEVER, SEEDED, Preemption
from bulkhead.impl.xen.domains import Domain
from bulkhead.impl.xen.guest_access import read, write
from bulkhead.impl.xen.machine import Xen, run
from bulkhead.impl.xen.pv_build import build

GRANT = abi.HYPERVISOR_GRANT_TABLE_OP
MEMORY = abi.HYPERVISOR_MEMORY_OP


class Machine:
    """Dom0 and two guests with a few pages, and arguments in the first page of each."""

    def __init__(self, preemption: Preemption) -> None:
        self.xen = Xen(nframes=0x3000, reserved=0x1000, preemption=preemption)
        self.dom0 = self.xen.create_dom0()
        self.guests = [self.dom0]
        self.layouts = [build(self.xen, self.dom0, 24, 1)]
        for domid in (1, 2):
            domain = self._create(domid)
            self.guests.append(domain)
            self.layouts.append(build(self.xen, domain, 24, 1))
            domain.pause_count, domain.creation_finished = 0, True

    def _create(self, domid: int) -> Domain:
        from bulkhead.impl.xen.lifecycle import create_domain, set_max_vcpus

        domain = create_domain(self.xen, domid, max_vcpus=1)
        assert isinstance(domain, Domain)
        domain.max_pages = 80
        set_max_vcpus(domain, 1)
        return domain

    def call(self, who: int, number: int, *registers: int) -> Any:
        return self.xen.hypercall(self.guests[who].vcpus[0], number, *registers)

    def put(self, who: int, offset: int, data: bytes) -> int:
        at = self.layouts[who].va(0) + offset
        assert write(self.xen, self.guests[who].vcpus[0], at, data)
        return at

    def get(self, who: int, offset: int, size: int) -> bytes:
        return read(self.xen, self.guests[who].vcpus[0], self.layouts[who].va(0) + offset, size) or b""

    def grant(self, granter: int, ref: int, to: int, page: int) -> None:
        data, off = self.guests[granter].grant_table.header_at(ref)
        abi.ENTRY_V1.pack_into(data, off, abi.GTF_PERMIT_ACCESS, to, self.layouts[granter].pages[page].mfn)


def maps(m: Machine, count: int = 5) -> tuple[int, bytes]:
    """Domain 2 maps `count` grants of domain 1 for devices, the fourth of which is not there."""
    for i in range(count):
        m.grant(1, 8 + i, 2, 4 + i)
    ops = b"".join(abi.MAP_GRANT_REF.pack(0, 1, 8 + i if i != 3 else 400, 1, 0, 0, 0) for i in range(count))
    at = m.put(2, 0, ops)
    rc = run(m.call(2, GRANT, 0, at, count))
    return rc, m.get(2, 0, len(ops))


def populates(m: Machine) -> tuple[int, int]:
    """Domain 1 asks for four pages."""
    at = m.put(1, 0, abi.MEMORY_RESERVATION.pack(m.layouts[1].va(0) + 64, 4, 0, 0, abi.DOMID_SELF, 0, 0))
    rc = run(m.call(1, MEMORY, abi.XENMEM_POPULATE_PHYSMAP, at))
    return rc, m.guests[1].tot_pages


def copies(m: Machine) -> tuple[int, bytes]:
    """Domain 2 copies from three grants of domain 1."""
    for i in range(3):
        m.grant(1, 8 + i, 2, 4 + i)
    own = m.layouts[2].pages[5].mfn
    ops = b"".join(abi.COPY.pack(8 + i, 1, 0, 0, own, abi.DOMID_SELF, 64 * i, 0, 32, 1, 0, 0) for i in range(3))
    at = m.put(2, 0, ops)
    return run(m.call(2, GRANT, 5, at, 3)), m.get(2, 0, len(ops))


@pytest.mark.parametrize("work", [maps, populates, copies])
@pytest.mark.parametrize("kind", [ALWAYS, SEEDED])
def test_a_preempted_call_does_the_same(work: Any, kind: str) -> None:
    plain = Machine(Preemption(NEVER))
    broken = Machine(Preemption(kind, 3))
    assert work(plain) == work(broken)
    assert plain.guests[2].tot_pages == broken.guests[2].tot_pages


def test_mmu_updates_go_on_after_preemption_and_count_what_was_done() -> None:
    m = Machine(Preemption(ALWAYS))
    layout = m.layouts[1]
    pte = layout.pages[6].mfn << 12 | 0x67
    raw = b"".join(abi.MMU_UPDATE.pack(layout.window_maddr(i), pte) for i in range(4))
    at = m.put(1, 0, raw)
    done = m.put(1, 128, bytes(4))
    assert run(m.call(1, abi.HYPERVISOR_MMU_UPDATE, at, 4, done, abi.DOMID_SELF)) == 0
    assert abi.U32.unpack(m.get(1, 128, 4))[0] == 4


def test_the_end_of_a_continued_batch_returns_what_its_last_register_holds() -> None:
    m = Machine(Preemption(NEVER))
    assert run(m.call(1, abi.HYPERVISOR_MMU_UPDATE, 0, 1 << 31, 0, 0xFFFFFFF0)) == -16


@pytest.mark.parametrize(
    "op, start, want",
    [
        (abi.XENMEM_POPULATE_PHYSMAP, 7, 7),
        (abi.XENMEM_DECREASE_RESERVATION, 99, 99),
        (abi.XENMEM_MAXIMUM_RAM_PAGE, 1, -abi.EINVAL),
        (abi.XENMEM_EXCHANGE, 1, -abi.EINVAL),
        (abi.XENMEM_CURRENT_RESERVATION, 5, -abi.EINVAL),
        (abi.XENMEM_CLAIM_PAGES, 1, -abi.EINVAL),
    ],
)
def test_forged_progress_is_refused_or_does_nothing(op: int, start: int, want: int) -> None:
    m = Machine(Preemption(NEVER))
    before = m.guests[1].tot_pages
    at = m.put(1, 0, abi.MEMORY_RESERVATION.pack(m.layouts[1].va(0) + 64, 4, 0, 0, abi.DOMID_SELF, 0, 0) + bytes(64))
    assert run(m.call(1, MEMORY, op | start << 6, at)) == want
    assert m.guests[1].tot_pages == before


def test_a_guest_that_changes_its_arguments_in_between_gets_what_it_asked_for_last() -> None:
    m = Machine(Preemption(ALWAYS))
    for i in range(3):
        m.grant(1, 8 + i, 2, 4 + i)
    ops = b"".join(abi.MAP_GRANT_REF.pack(0, 1, 8 + i, 1, 0, 0, 0) for i in range(3))
    at = m.put(2, 0, ops)
    call = m.call(2, GRANT, 0, at, 3)
    while next(call) != "hypercall.continue":
        pass
    m.put(2, 32, abi.MAP_GRANT_REF.pack(0, 1, 300, 1, 0, 0, 0))
    assert run(call) == 0
    statuses = [abi.MAP_GRANT_REF.unpack(m.get(2, 32 * i, 32))[4] for i in range(3)]
    assert statuses == [0, abi.GNTST_GENERAL_ERROR, 0]


def test_a_vcpu_that_dies_between_two_parts_never_comes_back_and_keeps_nothing() -> None:
    m = Machine(Preemption(ALWAYS))
    m.grant(1, 8, 2, 4)
    m.grant(1, 9, 2, 5)
    ops = b"".join(abi.MAP_GRANT_REF.pack(0, 1, 8 + i, 1, 0, 0, 0) for i in range(2))
    call = m.call(2, GRANT, 0, m.put(2, 0, ops), 2)
    while next(call) != "hypercall.continue":
        pass
    assert destroy(m, 2) == 0
    assert run(call) == -abi.EINVAL
    assert m.guests[1].grant_table.active[8].pin == 0 and m.guests[1].grant_table.active[9].pin == 0
    assert 2 not in m.xen.domains


def test_a_paused_vcpu_stays_in_the_middle_until_it_runs_again() -> None:
    m = Machine(Preemption(ALWAYS))
    m.grant(1, 8, 2, 4)
    m.grant(1, 9, 2, 5)
    ops = b"".join(abi.MAP_GRANT_REF.pack(0, 1, 8 + i, 1, 0, 0, 0) for i in range(2))
    call = m.call(2, GRANT, 0, m.put(2, 0, ops), 2)
    while next(call) != "hypercall.continue":
        pass
    m.guests[2].pause_count = 1
    assert [next(call) for _ in range(3)] == ["vcpu.paused"] * 3
    m.guests[2].pause_count = 0
    assert run(call) == 0 and m.guests[1].grant_table.active[9].pin


def destroy(m: Machine, domid: int) -> int:
    raw = abi.DOMCTL_HEADER.pack(abi.DOMCTL_DESTROYDOMAIN, abi.DOMCTL_INTERFACE_VERSION, domid, 0, 0, 0)
    at = m.put(0, 0, raw.ljust(abi.DOMCTL_SIZE, b"\0"))
    rc: int = run(m.call(0, abi.HYPERVISOR_DOMCTL, at))
    return rc


@pytest.mark.parametrize("kind", [NEVER, ALWAYS, SEEDED])
def test_teardown_ends_however_often_it_is_preempted(kind: str) -> None:
    m = Machine(Preemption(kind, 5))
    assert maps(m)[0] == 0
    free = m.xen.frames.free_count
    owned = sum(f.owner is m.guests[2] for f in m.xen.frames.table.values())
    assert destroy(m, 2) == 0
    assert 2 not in m.xen.domains and m.xen.frames.free_count == free + owned
    assert all(not act.pin for act in m.guests[1].grant_table.active)


def test_two_that_tear_down_the_same_domain_do_not_trip_over_each_other() -> None:
    m = Machine(Preemption(NEVER))
    raw = abi.DOMCTL_HEADER.pack(abi.DOMCTL_DESTROYDOMAIN, abi.DOMCTL_INTERFACE_VERSION, 2, 0, 0, 0)
    at = m.put(0, 0, raw.ljust(abi.DOMCTL_SIZE, b"\0"))
    one, other = (m.call(0, abi.HYPERVISOR_DOMCTL, at) for _ in range(2))
    for _ in range(3):
        next(one)
    assert run(other) == 0 and run(one) == 0
    assert 2 not in m.xen.domains


def test_unknown_kinds_of_preemption_are_refused() -> None:
    with pytest.raises(ValueError, match="never, always and seeded"):
        Preemption("sometimes")
