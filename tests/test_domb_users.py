"""Processes of Dom0 that are no tools, in DomB's campaign: what they do is compared call by call, and privcmd stays gone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bulkhead.impl.boot import NODES
from bulkhead.impl.dom0.syscalls import PRIVCMD
from bulkhead.proofs.faults.catalogue import BY_NAME
from bulkhead.proofs.faults.laying import installed
from bulkhead.proofs.refinement.calls import NOT_DONE, Answer, Call
from bulkhead.proofs.refinement.domb.campaign import campaign
from bulkhead.proofs.refinement.domb.exports import files
from bulkhead.proofs.refinement.domb.target import DombTarget
from bulkhead.proofs.refinement.domb.world import Size, rules_for
from bulkhead.proofs.refinement.lockstep.rule_steps import Mismatch

FIRST = Size().first_process


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[DombTarget]:
    """A machine in lockstep with its rules."""
    files(tmp_path)
    made = DombTarget(rules_for(Size()), 1, tmp_path / "exported")
    yield made
    assert made.book is not None
    made.book.close()


def call(machine: DombTarget, space: int, operation: str, /, **arguments: object) -> Answer:
    return machine.carry_out(Call(operation, f"p{space}", arguments))


def test_campaigns_reach_gntalloc_notices_and_ports() -> None:
    """Each of them within a few short campaigns: none of these is so rare that it depends on a seed."""
    wanted = {
        "gntalloc_alloc_gref: okay",
        "gntalloc_mmap: okay",
        "gntalloc_free: okay",
        "gntalloc_set_unmap_notify: okay",
        "gntdev_set_unmap_notify: okay",
        "gntdev_ring: okay",
        "gntdev_copy.done: okay",
        "evtchn_upcall: okay",
    }
    for seed in range(1, 7):
        report = campaign(rules_for(Size()), seed, 400)
        assert report.failure is None, report.failure.text()
        wanted -= {pair for pair in wanted if report.reached.get(pair)}
        if not wanted:
            return
    raise AssertionError(f"not reached: {', '.join(sorted(wanted))}")


def test_nobody_opens_privcmd(machine: DombTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even root; if the node were there, the campaign would say so."""
    assert call(machine, FIRST, "open", kind="privcmd").code == "ENOENT"
    nodes = machine.rig.nodes
    assert PRIVCMD not in nodes and PRIVCMD not in NODES["disaggregated"]
    proc = machine.users.of(FIRST)
    assert proc is not None
    monkeypatch.setattr(proc.sys, "devices", {**nodes, PRIVCMD: nodes["/dev/xen/evtchn"]})
    with pytest.raises(Mismatch, match="privcmd, which this system does not have"):
        call(machine, FIRST, "open", kind="privcmd")


def test_a_child_has_its_parents_pages_and_they_end_with_the_last(machine: DombTarget) -> None:
    """A page of gntalloc: dealloc while it is mapped, a child maps it still, and it is free when that has been killed."""
    free = machine.counts()
    call(machine, FIRST, "fork", child=FIRST + 1)
    fd = call(machine, FIRST + 1, "open", kind="gntalloc").given
    at = call(machine, FIRST + 1, "gntalloc_alloc_gref", fd=fd, dom=2, count=1, writable=True, starved=False).given
    assert call(machine, FIRST + 1, "gntalloc_mmap", fd=fd, offset=at, count=1, writable=True).code == "okay"
    call(machine, FIRST + 1, "fork", child=FIRST + 2)
    assert call(machine, FIRST + 1, "gntalloc_dealloc_gref", fd=fd, offset=at, count=1).code == "okay"
    call(machine, FIRST + 1, "exit")
    assert len(machine.users.dom0.pages) == 1, "its child maps the page"
    call(machine, FIRST + 2, "exit")
    assert not machine.users.dom0.pages
    machine.users.end()
    assert machine.counts() == free


def test_a_notice_keeps_a_port_of_another_file_open(machine: DombTarget) -> None:
    """The file that has bound it is closed; the number is not given out again before the notice has come."""
    call(machine, FIRST, "fork", child=FIRST + 1)
    events = call(machine, FIRST, "open", kind="evtchn").given
    port = call(machine, FIRST, "evtchn_bind_unbound_port", fd=events, dom=1).given
    fd = call(machine, FIRST + 1, "open", kind="gntalloc").given
    at = call(machine, FIRST + 1, "gntalloc_alloc_gref", fd=fd, dom=2, count=1, writable=True, starved=False).given
    assert call(machine, FIRST + 1, "gntalloc_set_unmap_notify", fd=fd, index=at, action=2, port=port).code == "okay"
    call(machine, FIRST, "close", fd=events)
    assert machine.rig.kernel.evtchn_holds[port] == 1
    call(machine, FIRST + 1, "exit")
    assert port not in machine.rig.kernel.evtchn_holds


@pytest.mark.parametrize(
    ("operation", "arguments"),
    [("fork", {"child": 9}), ("fork", {"child": FIRST}), ("exit", {}), ("privcmd_domctl", {}), ("kill", {})],
)
def test_calls_that_a_file_may_ask_for_and_nobody_makes(
    machine: DombTarget, operation: str, arguments: dict[str, object]
) -> None:
    """The first process never ends, children have spaces of their own, and nothing of privcmd is called."""
    assert call(machine, FIRST, operation, **arguments) == NOT_DONE


def test_a_fault_in_memory_operations_is_noticed() -> None:
    """One of five seeds suffices: which one meets the fault first depends on the workload."""
    rules = rules_for(Size())
    with installed(BY_NAME["copy_frame_of_peer"]):
        assert any(campaign(rules, seed, 1000).failure is not None for seed in (4, 5, 3, 2, 1))
