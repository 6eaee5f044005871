"""Claims on machines that boot: they hold after every step if proved, fall where refuted, and see faults."""

from __future__ import annotations

import contextlib

import pytest

from bulkhead.impl.boot import BootError, boot
from bulkhead.model import loader
from bulkhead.model.ir import BOOL, App, Op, Quant, Var
from bulkhead.model.narrow import parts
from bulkhead.proofs.faults.catalogue_domb import BY_NAME
from bulkhead.proofs.faults.laying import installed
from bulkhead.proofs.refinement.booted.claims import LEFT_OUT, Watched, Watcher, evaluated, left_out


def watched(system: str, guests: int = 1) -> Watched:
    watcher = Watcher(system, guests)
    with contextlib.suppress(BootError):  # a fault may keep the system from coming up
        boot(system, None, guests, 0, watch=watcher)
    return watcher.result()


@pytest.mark.parametrize("guests", [1, 3])
def test_all_claims_hold_after_every_step_once_dom0_is_disaggregated(guests: int) -> None:
    found = watched("disaggregated", guests)
    log = boot("disaggregated", None, guests, 0)
    assert found.good and found.falls == () and found.claims >= 28 and found.steps == len(log.steps)


def test_before_the_headline_falls_while_the_guest_is_built() -> None:
    found = watched("monolithic")
    falls = {f.claim: f for f in found.falls}
    assert set(falls) == {"only_by_grant", "only_by_grant_to_write", "sealed_from_builder"}
    assert found.good and all(f.expected for f in found.falls)
    step = boot("monolithic", None, 1, 0).steps[falls["only_by_grant"].step - 1]
    assert step.who == "xl" and step.what.startswith("magic pages")
    assert "process xl of Dom0 maps a page of domain 1 by foreign mapping" in falls["only_by_grant"].seen


@pytest.mark.parametrize(
    ("fault", "claim"),
    [
        ("wrong_page_seeded", "seeded_pages_hold_nothing_loaded"),
        ("wrong_grantee", "seeded_for_dom0"),
        ("domb_port_for_another", "ports_wait_for_dom0"),
        ("started_before_handed_over", "only_told_guests_run"),
    ],
)
def test_a_fault_of_domb_is_seen_in_a_boot(fault: str, claim: str) -> None:
    with installed(BY_NAME[fault]):
        found = watched("disaggregated")
    assert claim in {f.claim for f in found.falls} and not found.good


@pytest.mark.parametrize("system", ["monolithic", "disaggregated"])
def test_every_theorem_is_evaluated_or_left_out_with_a_reason(system: str) -> None:
    rules = loader.load(system)
    assert set(evaluated(rules)) | set(left_out(rules)) == set(rules.theorems) | set(rules.step_claims)
    assert not set(evaluated(rules)) & set(left_out(rules))


def test_every_reason_names_a_theorem() -> None:
    known = {name for system in ("monolithic", "disaggregated") for name in loader.load(system).theorems}
    assert set(LEFT_OUT) <= known


def test_more_than_the_world_has_is_said() -> None:
    watcher = Watcher("disaggregated", 1)
    boot("disaggregated", None, 6, 0, watch=watcher)
    found = watcher.result()
    assert "more than" in found.stopped and not found.good


def test_parts_say_the_same_with_fewer_variables() -> None:
    d, h = Var("d", "Domain"), Var("h", "Handle")
    a, b, c = App("a", (d,), BOOL), App("b", (h,), BOOL), App("c", (d,), BOOL)
    found = list(parts(Quant("forall", (d, h), Op("=>", (a, Op("and", (b, c)))))))
    assert found == [Quant("forall", (d, h), Op("=>", (a, b))), Quant("forall", (d,), Op("=>", (a, c)))]
