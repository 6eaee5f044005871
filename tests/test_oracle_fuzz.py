"""Random systems: all semantics in Bulkhead are compared with the interpreter of `tests/oracle/`, from fixed seeds.

`python -m tests.oracle.fuzz --systems N --seed S` compares any number of systems. The last tests seed faults in the engine,
which the comparison must notice.
"""

from __future__ import annotations

import contextlib

import pytest

from bulkhead.model import ir
from bulkhead.model.diagnostics import RulesError
from bulkhead.model.executable import ExecutableModel
from bulkhead.proofs.theorems import induction
from tests.oracle.compare import Budget, Seen, differences
from tests.oracle.fuzz import first_difference, fuzz, shrunk
from tests.oracle.generate import draft

PART = 250  # of 2,000


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
def test_two_thousand_systems_mean_the_same_everywhere(part: int) -> None:
    """No difference, and no comparison is missing."""
    seen, found = fuzz(PART, 100_000 + part * PART, jobs=1)
    assert not found, "\n".join(map(str, found))
    assert seen.systems > PART * 0.8 and seen.steps > PART * 20 and seen.states > PART * 4
    assert seen.proved > 20 and seen.violated > 20 and seen.certified > PART // 2
    assert seen.attacks > 2 and seen.faults > 5 and seen.counterexamples > 2


def test_some_systems_mean_the_same_everywhere() -> None:
    """The same for few."""
    seen, found = fuzz(40, 7, jobs=1)
    assert not found, "\n".join(map(str, found))
    assert seen.systems > 30 and seen.steps > 400 and seen.certified > 20


def _found(limit: int = 120) -> list[str]:
    differences = (first_difference(draft(seed), seed, Budget(worlds=1), Seen()) for seed in range(limit))
    return [d for d in differences if d is not None]


def test_an_engine_without_failing_steps_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The outcome of a call that fails in its first step is omitted."""
    whole = ir.Step.outcomes
    monkeypatch.setattr(ir.Step, "outcomes", lambda self: tuple(t for t in whole(self) if not t.changes_nothing))
    assert any(d.startswith("model:") for d in _found())


def test_an_engine_whose_failures_forget_what_passed_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A later check fails although an earlier one has already failed."""
    monkeypatch.setattr(ir.Check, "fails", property(lambda self: ir.TRUE))
    assert any(d.startswith("model:") for d in _found())


def test_a_model_in_which_the_first_assignment_wins_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two assignments to one place the later is dropped."""
    whole = ir.Step.success

    def first_wins(self: ir.Step) -> ir.Transition:
        t = whole(self)
        return ir.Transition(t.label, t.step, t.params, t.guard, t.updates[::-1], t.code)

    monkeypatch.setattr(ir.Step, "success", first_wins)
    found = _found()
    assert any(d.startswith(("model:", "call:")) for d in found)


def test_a_proof_that_believes_everything_is_denied(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the first encoding accepts every query as refuted, the second denies, or a violation is found."""
    monkeypatch.setattr(induction, "_counts", lambda result, settings: True)
    found: list[str] = []
    for seed in range(40):
        with contextlib.suppress(RulesError):  # refused before anything is proved
            found += differences(draft(seed).text(), seed, Budget(worlds=1), Seen())
    assert any(d.startswith("proof:") for d in found) and any(d.startswith("certify:") for d in found)
    assert not any("confirmed" in d for d in found)


def test_what_differs_is_made_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A difference that any operation shows is shrunk to one operation."""
    monkeypatch.setattr(ExecutableModel, "fire", lambda self, state, label, args: False)
    seed = next(s for s in range(50) if first_difference(draft(s), s, Budget(prove=False, worlds=1), Seen()))
    small, what = shrunk(draft(seed), seed, Budget(prove=False, worlds=1), "model:")
    assert what.startswith("model:") and len(small.parts) <= 3
