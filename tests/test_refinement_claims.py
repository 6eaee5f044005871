"""Claims in lockstep with the implementation: splitting keeps their meaning, and a violating step is reported."""

from __future__ import annotations

import random

import pytest

from bulkhead.model import loader
from bulkhead.model.executable import ExecutableModel
from bulkhead.model.ir import Claim
from bulkhead.model.narrow import nested, parts
from bulkhead.model.world import State, World, size_of
from bulkhead.proofs.refinement.domb.world import Size, rules_for
from bulkhead.proofs.refinement.lockstep import claims
from bulkhead.proofs.refinement.lockstep.claims import StepClaims

SYSTEM = loader.load("disaggregated")


@pytest.fixture(scope="module")
def machine() -> ExecutableModel:
    """Two elements of each sort: formulas are evaluated in random states, reachable or not."""
    consts = {"dom0": 0, "domb": 1, "domb_space": 1, "gref_console": 0, "gref_xenstore": 1, "root": 0}
    return ExecutableModel(SYSTEM, World(dict.fromkeys(SYSTEM.sorts, 2), consts))


def some_state(machine: ExecutableModel, rng: random.Random, density: float) -> State:
    """Any values, false and the first element more often or less."""
    state = machine.empty_state()
    for table, func in zip(state, SYSTEM.funcs.values(), strict=True):
        size = size_of(SYSTEM, machine.world, func.sort)
        table[:] = [rng.randrange(size) if rng.random() < density else 0 for _ in table]
    return state


def holds(machine: ExecutableModel, claim: Claim, before: State, after: State, failed: bool) -> tuple[bool, bool]:
    """A claim as written, and split."""
    pieces = [nested(SYSTEM, part) for part in parts(claim.body)]
    if claim.kind == "transition":
        between = machine.holds_between
        return between(before, after, claim.body, failed), all(between(before, after, p, failed) for p in pieces)
    return machine.holds(before, claim.body), all(machine.holds(before, p) for p in pieces)


def test_a_claim_taken_apart_says_the_same(machine: ExecutableModel) -> None:
    """Errors that this must notice: a quantifier loses a variable, a name is captured, an implication is reversed."""
    rng = random.Random(7)
    seen: dict[str, set[bool]] = {}
    for density in (0.05, 0.2, 0.5, 0.9) * 3:
        before, after = some_state(machine, rng, density), some_state(machine, rng, density)
        mixed = [list(rng.choice((b, a))) for b, a in zip(before, after, strict=True)]
        for name, claim in {**SYSTEM.invariants, **SYSTEM.theorems, **SYSTEM.step_claims}.items():
            written, apart = holds(machine, claim, before, mixed, rng.random() < 0.3)
            assert written == apart, name
            seen.setdefault(name, set()).add(written)
    both = [name for name, values in seen.items() if len(values) == 2]
    assert len(both) > 80, "too few claims were seen both true and false for this to mean anything"


def test_a_claim_about_true_or_new_places_says_the_same(machine: ExecutableModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every table were large: a claim looks only at the places that are true, or that a step makes true."""
    monkeypatch.setattr(claims, "LARGE", 1)
    rng = random.Random(11)
    one = {n: [claims._about_one(machine, p) for p in parts(c.body)] for n, c in SYSTEM.invariants.items()}
    two = {n: [claims._about_two(machine, p) for p in parts(c.body)] for n, c in SYSTEM.step_claims.items()}
    seen = set()
    for density in (0.01, 0.05, 0.2, 0.5) * 3:
        before = some_state(machine, rng, density)
        after = [list(table) for table in before]
        for table in after:
            table[0] ^= rng.random() < 0.1 and max(table) < 2  # a step changes few places
        for name, pieces in one.items():
            assert all(p(before) for p in pieces) == machine.holds(before, SYSTEM.invariants[name].body), name
        for name, pieces in two.items():
            written = machine.holds_between(before, after, SYSTEM.step_claims[name].body, False)
            assert all(p(before, after, False) for p in pieces) == written, name
            seen |= {(type(p), p(before, after, False)) for p in pieces}
        seen |= {(type(p), p(before)) for pieces in one.values() for p in pieces}
    for kind in (claims._OfTrue, claims._OfNew):
        assert {(kind, True), (kind, False)} <= seen


def test_a_step_that_breaks_a_claim_is_told() -> None:
    """A privilege over a guest's pages that returns, and one step that is not checked for it."""
    rules = rules_for(Size())
    state = rules.start()
    label, right = "build_create", rules.number["right"]
    before = rules.step_claims.before(state, label)
    state[right][0] = 1  # of Dom0's incarnation, which has been
    assert rules.step_claims.broken(before, state, label, False) == ["right_is_given_up"]
    assert rules.step_claims.broken(before, state, label, True) == []


def test_what_a_failing_step_undoes_is_watched() -> None:
    """`failed_call_changes_nothing` covers the outcomes that undo something."""
    rules = rules_for(Size())
    state = rules.start()
    label = "gntdev_mmap.insert"
    before = rules.step_claims.before(state, label)
    before[rules.number["mapping.taken"]][0] = 1
    state[rules.number["status.reading"]][0] = 1
    assert "uses_begin_in_force" in rules.step_claims.broken(before, state, label, True)


def test_every_claim_about_a_step_is_watched_somewhere() -> None:
    claims: StepClaims = rules_for(Size()).step_claims
    watched = {name for each in claims.watched.values() for name, _ in each.succeeded + each.failed}
    assert watched == set(claims.claims) and len(watched) >= 16
