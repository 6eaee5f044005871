"""Interleavings are reproducible, and safe against a granter that rewrites entries at any step."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.guest_access import write
from bulkhead.impl.xen.scheduler import Scheduler
from bulkhead.proofs.replay.rig import Rig
from tests.impl.support import check_counts, grant, machine


def _race(seed: int) -> tuple[list[tuple[str, str]], Rig]:
    rig = machine("A", "B", "C")
    grant(rig, "A", 8, "B", 3)
    schedule = Scheduler(seed)
    b, c = rig.agents["B"], rig.agents["C"]

    def granter() -> Iterator[str]:
        for flags, page in ((5, 3), (0, 4), (1, 5), (1, 3)):
            grant(rig, "A", 8, "B", page, flags)
            yield "store"

    write(
        rig.xen,
        b.vcpu,
        b.arg,
        b"".join(abi.MAP_GRANT_REF.pack(b.layout.window_va(i), 2, 8, rig.domid("A"), 0, 0, 0) for i in range(3)),
    )
    write(rig.xen, c.vcpu, c.arg, abi.MAP_GRANT_REF.pack(c.layout.window_va(0), 2, 8, rig.domid("A"), 0, 0, 0))
    schedule.add("granter", granter(), guest=True)  # type: ignore[arg-type]
    schedule.add("B", rig.xen.hypercall(b.vcpu, 20, 0, b.arg, 3))
    schedule.add("C", rig.xen.hypercall(c.vcpu, 20, 0, c.arg, 1))
    assert schedule.run()
    return schedule.history, rig


def test_same_seed_same_run() -> None:
    assert _race(5)[0] == _race(5)[0]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_counts_hold_in_every_order(seed: int) -> None:
    _, rig = _race(seed)
    check_counts(rig.xen)
    act = rig.agents["A"].domain.grant_table.active[8]
    mapped = sum(1 for r in rig.agents["B"].domain.grant_table.maptrack if r.flags)
    assert act.pin == mapped


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_death_of_the_granter_against_maps(seed: int) -> None:
    rig = machine("A", "B")
    grant(rig, "A", 8, "B", 3)
    b = rig.agents["B"]
    domain = rig.agents["A"].domain
    write(rig.xen, b.vcpu, b.arg, abi.MAP_GRANT_REF.pack(b.layout.window_va(0), 2, 8, domain.domid, 0, 0, 0))
    arg = abi.DOMCTL_HEADER.pack(abi.DOMCTL_DESTROYDOMAIN, abi.DOMCTL_INTERFACE_VERSION, domain.domid, 0, 0, 0)
    write(rig.xen, rig.kernel.vcpu, rig.kernel.arg_va, arg.ljust(abi.DOMCTL_SIZE, b"\0"))
    schedule = Scheduler(seed, lambda: check_counts(rig.xen))
    schedule.add("map", rig.xen.hypercall(b.vcpu, 20, 0, b.arg, 1))
    schedule.add("kill", rig.xen.hypercall(rig.kernel.vcpu, abi.HYPERVISOR_DOMCTL, rig.kernel.arg_va))
    assert schedule.run()
    assert (domain.domid in rig.xen.domains) == (domain.tot_pages > 0)
    rig.remove("B")
    assert set(rig.xen.domains) == {0}
