"""Attacks on DomB and XenStore under faults of their rules work on the implementation with the same fault, on no other.

Two are found by search and replayed on a booted machine; the others are staged in lockstep with the faulty rules. Of the
faults that are left out, two let nobody attack: that is proved.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from bulkhead.model import loader
from bulkhead.model.trace import Trace
from bulkhead.proofs.faults.catalogue import Fault
from bulkhead.proofs.faults.catalogue_domb import BY_NAME
from bulkhead.proofs.faults.laying import installed
from bulkhead.proofs.refinement.domb import attacks, staged, store_attacks
from bulkhead.proofs.refinement.domb.attacks import NOT_REPLAYED, REPLAYED, run_attack
from bulkhead.proofs.refinement.domb.exports import files
from bulkhead.proofs.refinement.domb.world import Rules, Size
from bulkhead.proofs.refinement.lockstep.rule_steps import Mismatch
from bulkhead.proofs.theorems.attack import find_attack
from bulkhead.proofs.theorems.decide import Settings
from bulkhead.proofs.theorems.induction import prove

OF_DOMB = ("build", "take", "channel", "proxy", "destroy_abandoned", "hang_up", "domb_", "guest_told", "xs_")
STAGED = {**attacks.STAGED, **store_attacks.STAGED}
BEYOND = str(Path(attacks.__file__).parent / "beyond.rules")
CORRECT = Rules(Size())


@pytest.mark.parametrize("fault", REPLAYED)
def test_an_attack_on_faulty_rules_works_on_a_faulty_implementation_and_on_no_other(fault: str, tmp_path: Path) -> None:
    claim, same = REPLAYED[fault]
    system = loader.load("disaggregated", (fault,))
    trace: Trace | None = find_attack(system, claim, (fault,))
    assert trace is not None
    for name in ("with", "without"):
        (tmp_path / name).mkdir()
    with installed(BY_NAME[same]):
        assert run_attack(trace, system, tmp_path / "with").succeeded
    assert not run_attack(trace, system, tmp_path / "without").succeeded


def _faulty(fault: str) -> contextlib.ExitStack:
    """The implementation with the faults of a staging."""
    stack = contextlib.ExitStack()
    for i, (where, old, new) in enumerate(STAGED[fault].faults):
        stack.enter_context(installed(Fault(f"{fault} {i}", where, old, new, "")))
    return stack


@pytest.mark.parametrize("fault", STAGED)
def test_an_attack_staged_in_lockstep_breaks_the_claim_with_the_fault_and_not_without(fault: str, tmp_path: Path) -> None:
    files(tmp_path)
    staging, root = STAGED[fault], tmp_path / "exported"
    step = loader.load("disaggregated", (fault,)).faults[fault].step
    with _faulty(fault):
        attack = staged.run(Rules(Size(), (fault,)), staging.claim, staging.scenario, root)
        assert attack.fell and [place for place in attack.differences if not place.startswith(staging.ahead)] == []
        assert attack.steps[-1].startswith(("build_load", step))  # the faulty step itself, or where its bytes are used
        with pytest.raises(Mismatch):  # no step of the correct rules stands for it
            staged.run(CORRECT, staging.claim, staging.scenario, root)
    honest = staged.run(CORRECT, staging.claim, staging.scenario, root)
    assert not honest.fell and honest.differences == {} and len(honest.steps) > 80


@pytest.mark.parametrize("fault", [name for name, why in NOT_REPLAYED.items() if why is attacks.PROVED])
def test_a_fault_that_lets_nobody_attack(fault: str) -> None:
    """With the fault, the claim that it breaks is still proved, from invariants that the shipped rules do not need."""
    system = loader.load(BEYOND, (fault,))
    (claim,) = system.faults[fault].breaks
    assert claim in prove(system, Settings(jobs=1, cross_check=False), only=(claim,)).proved


def test_every_fault_of_dombs_and_xenstores_rules_is_replayed_or_says_why_not() -> None:
    faults = loader.load("disaggregated").faults
    of_domb = {name for name, fault in faults.items() if fault.step.startswith(OF_DOMB)}
    tables = ({*REPLAYED}, {*STAGED}, {*NOT_REPLAYED})
    assert of_domb == set().union(*tables) and len(of_domb) == sum(map(len, tables))
