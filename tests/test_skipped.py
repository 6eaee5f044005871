"""The queries that frame rule and subsumption skip are unsat: a sample, asked completely (`tests/skipped.py` asks all)."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from bulkhead.model.loader import load, shipped_systems
from bulkhead.proofs.theorems.frame_rule import Frame
from bulkhead.proofs.theorems.induction import Settings, prove
from bulkhead.proofs.theorems.queries import QueryMaker
from bulkhead.proofs.theorems.subsumption import Refuted
from tests.skipped import FRAME, STEP_CLAIM, SUBSUMED, ask, changed_steps, of_a_step, of_fault, of_system, subsumed

GT = str(Path(__file__).parent / "benchmarks" / "gt.rules")


@pytest.fixture(scope="module")
def refuted() -> Refuted:
    """The refuted queries of one of the systems; many belong to the others, too."""
    found = Refuted()
    prove(load("hypervisor"), Settings(jobs=1, cross_check=False, patient=False), refuted=found)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", shipped_systems())
def test_what_is_skipped_of_a_shipped_system_and_its_faults_is_refuted(name: str, refuted: Refuted) -> None:
    rng = random.Random(23)
    good, count = of_system(name, 200, rng, refuted)
    assert count.asked == 200 and not count.wrong
    assert count.skipped.keys() == {FRAME, STEP_CLAIM, SUBSUMED}
    for fault in rng.sample(sorted(good.system.faults), 2):
        count = of_fault(name, fault, good, 25, rng, refuted)
        assert count.asked and not count.wrong, fault


def test_a_wrong_frame_rule_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any assignment is said to be harmless to any claim."""
    monkeypatch.setattr(Frame, "keeps", lambda self, transition, claim: True)
    maker = QueryMaker(load(GT))
    count = ask(maker, [s for t in maker.transitions for s in of_a_step(maker, t)], None, random.Random(1))
    assert ("alloc", "owner_fn") not in count.wrong  # this one holds, and a solver can say so
    faulty = QueryMaker(load(GT, ["b1"]))
    count = ask(faulty, [s for t in faulty.transitions for s in of_a_step(faulty, t)], None, random.Random(1))
    assert ("map", "umap_gr") in count.wrong


def test_a_wrong_subsumption_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A query refuted from some assumptions counts as refuted from any."""
    found = Refuted()
    good = QueryMaker(load(GT))
    prove(good.system, Settings(jobs=1, cross_check=False, patient=False), refuted=found)
    faulty = QueryMaker(load(GT, ["b1"]))
    labels = {t.label for t in changed_steps(faulty, good)}
    assert labels == {"map", "map!*"}
    assert not ask(faulty, list(subsumed(faulty, found, labels)), None, random.Random(1)).wrong
    for answers in found._found.values():
        answers[:] = [(frozenset(), result) for _, result in answers]
    assert ("map", "umap_gr") in ask(faulty, list(subsumed(faulty, found, labels)), None, random.Random(1)).wrong
