"""Attacks on `disaggregated` under faults of DomB's rules succeed on the implementation only with the same fault."""

from __future__ import annotations

from pathlib import Path

import pytest

from bulkhead.model import loader
from bulkhead.model.trace import Trace
from bulkhead.proofs.faults.catalogue_domb import BY_NAME
from bulkhead.proofs.faults.laying import installed
from bulkhead.proofs.refinement.domb.attacks import NOT_REPLAYED, REPLAYED, run_attack
from bulkhead.proofs.theorems.attack import find_attack

OF_DOMB = ("build", "take", "channel", "proxy", "destroy_abandoned", "hang_up", "domb_", "guest_told")


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


def test_every_fault_of_dombs_rules_is_replayed_or_says_why_not() -> None:
    faults = loader.load("disaggregated").faults
    of_domb = {name for name, fault in faults.items() if fault.step.startswith(OF_DOMB)}
    assert of_domb == {*REPLAYED, *NOT_REPLAYED} and not {*REPLAYED} & {*NOT_REPLAYED}
