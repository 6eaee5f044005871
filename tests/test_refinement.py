"""Refinement: campaigns, small worlds, shrinking of sequences, and detection of faults."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from bulkhead.proofs.cli.diff import diff
from bulkhead.proofs.faults.catalogue import BY_NAME, FAULTS
from bulkhead.proofs.faults.laying import hunt, installed
from bulkhead.proofs.refinement.campaign import campaign
from bulkhead.proofs.refinement.exhaustive.explore import explore
from bulkhead.proofs.refinement.exhaustive.limits import Limits
from bulkhead.proofs.refinement.interleaved import Interleaved
from bulkhead.proofs.refinement.lockstep.lockstep import Lockstep
from bulkhead.proofs.refinement.lockstep.spec_world import Size, rules_for
from bulkhead.proofs.refinement.lockstep.testbed import Guest
from bulkhead.proofs.refinement.workload.scheduler import Driver

QUICK = (
    "map_upgrade_unchecked",
    "unmap_pin_before_flush",
    "status_v1_no_cmpxchg",
    "copy_upgrade_stale",
    "transfer_referenced",
    "heap_without_flush",
    "reading_cleared_early",
)


def test_campaign_without_mismatch() -> None:
    report = campaign(rules_for(Size()), 11, 4500)
    assert report.failure is None, report.failure and report.failure.text()
    assert report.calls >= 4500 and len(report.reached) > 70


def test_same_seed_same_run() -> None:
    one, two = (campaign(rules_for(Size()), 5, 600) for _ in range(2))
    assert (one.calls, one.steps, one.rule_steps, one.reached) == (two.calls, two.steps, two.rule_steps, two.reached)


SMALLEST = Limits(records=1, flights=1, versions=False, copies=False)
PROCESSES = Limits(records=0, flights=1, versions=False, copies=False, processes=2)


def test_a_small_world_is_explored_to_its_end() -> None:
    result = explore(SMALLEST)
    assert not result.failure, result.failure
    assert result.complete and result.states > 5000


def test_a_search_that_is_cut_short_says_so() -> None:
    result = explore(SMALLEST, seconds=0.2, jobs=1)
    assert not result.complete and "NOT all" in result.text()


def test_processes_of_dom0_in_a_small_world() -> None:
    """All shortest paths to a mapped grant, a fork and an exit; the whole world is too large for a test."""
    result = explore(PROCESSES, depth=7)
    assert not result.failure, result.failure
    assert not result.complete and result.states > 500


def test_exhaustive_search_finds_a_fault_of_gntdev() -> None:
    with installed(BY_NAME["mmap_twice"]):
        result = explore(PROCESSES, depth=7)
    assert "mmap" in result.failure


def test_exhaustive_search_finds_a_fault() -> None:
    with installed(BY_NAME["unmap_keeps_host"]):
        result = explore(SMALLEST)
    assert not result.complete and result.failure


@pytest.mark.parametrize("name", QUICK)
def test_fault_is_noticed(name: str) -> None:
    report = hunt(BY_NAME[name], seed=1, limit=6000)
    assert report.failure is not None
    assert report.failure.call and report.failure.what


def test_all_faults_apply() -> None:
    assert len(FAULTS) >= 30
    for fault in FAULTS:
        with installed(fault):
            pass


def test_diff_writes_its_result(tmp_path: Path) -> None:
    out = tmp_path / "diff.json"
    result = CliRunner().invoke(diff, ["--ops", "1200", "--seed", "3", "--json", str(out)], standalone_mode=False)
    assert result.return_value == 0, result.output
    found = json.loads(out.read_text())
    assert set(found) == {"format", "calls", "mismatches", "seed", "coverage", "seconds"}
    assert found["mismatches"] == 0 and found["seed"] == 3 and found["calls"] >= 1200
    assert found["coverage"]["total"] == found["coverage"]["reached"] + len(found["coverage"]["missing"])


def test_diff_with_a_fault_fails_and_names_the_call() -> None:
    with installed(BY_NAME["reading_cleared_early"]):
        result = CliRunner().invoke(diff, ["--ops", "3000", "--seed", "1"], standalone_mode=False)
    assert result.return_value == 1
    assert "MISMATCH" in result.output and "To reproduce: bulkhead diff --system monolithic --seed 1" in result.output


class Machine(RuleBasedStateMachine):
    """Random moves of two guests; a failing sequence shrinks to few moves."""

    def __init__(self) -> None:
        super().__init__()
        self.lockstep = Lockstep(rules_for(Size()), 1, full_every=1)
        target = Interleaved(self.lockstep)
        self.driver = Driver(target.view, target, 1)
        self.lockstep.create(1)
        self.lockstep.create(2)

    def _move(self, name: str, seed: int, domid: int) -> None:
        self.driver.rng.seed(seed)
        guest: Guest | None = self.lockstep.rig.guests.get(domid)
        if guest is None or guest.domain.is_dying or guest.domain.pause_count or guest.domain.crashed:
            return
        busy = {f.vcpu for f in self.lockstep.flights if f.domid == domid and f.guest is not None}
        held = any(f.must_finish_first or f.marker.startswith("set_status") for f in self.lockstep.flights)
        if len(busy) > 1 or held or len(self.lockstep.flights) > 2:
            return
        getattr(self.driver, name)(guest, 0 if 0 not in busy else 1)

    @rule(
        name=st.sampled_from(
            ["store", "map", "unmap", "copy", "mmu", "populate", "decrease", "access", "transfer", "version", "withdraw"]
        ),
        seed=st.integers(0, 999),
        domid=st.sampled_from([1, 2]),
    )
    def call(self, name: str, seed: int, domid: int) -> None:
        self._move(name, seed, domid)

    @rule(seed=st.integers(0, 99))
    def go_on(self, seed: int) -> None:
        flights = self.lockstep.flights
        if flights:
            first = next((f for f in flights if f.must_finish_first or f.marker.startswith("set_status")), None)
            self.lockstep.advance(first or flights[seed % len(flights)])

    @rule()
    def hostile_store(self) -> None:
        if any(f.marker.startswith("set_status") for f in self.lockstep.flights):
            self.driver.hostile_store()

    @rule(domid=st.sampled_from([1, 2]))
    def destroy(self, domid: int) -> None:
        guest = self.lockstep.rig.guests.get(domid)
        if guest is not None and not any(
            f.domid == domid or f.must_finish_first or f.marker.startswith("set_status") for f in self.lockstep.flights
        ):
            self.driver.destroy(guest)

    @rule(domid=st.sampled_from([1, 2, 3]))
    def create(self, domid: int) -> None:
        if not self.lockstep.flights and domid not in self.lockstep.rig.guests:
            self.lockstep.create(domid)

    def teardown(self) -> None:
        self.driver.end()


TestMachine = Machine.TestCase
TestMachine.settings = settings(
    max_examples=25, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
