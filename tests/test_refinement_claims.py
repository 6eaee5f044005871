"""Claims in lockstep with the implementation: splitting keeps their meaning, and a violating step is reported."""

from __future__ import annotations

import random

import pytest

from bulkhead.model import loader
from bulkhead.model.executable import ExecutableModel
from bulkhead.model.ir import BOOL, FALSE, App, Claim, Op, Quant, Term, Var, conj, eq, neg
from bulkhead.model.narrow import after, nested, parts
from bulkhead.model.world import State, World, size_of
from bulkhead.proofs.refinement.domb.world import Size, rules_for
from bulkhead.proofs.refinement.lockstep import claims
from bulkhead.proofs.refinement.lockstep.changes import causes
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


def test_a_claim_about_true_places_says_the_same(machine: ExecutableModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every table were large: a claim looks only at the places that are true."""
    monkeypatch.setattr(claims, "LARGE", 1)
    rng = random.Random(11)
    one = {n: [claims._about_one(machine, p) for p in parts(c.body)] for n, c in SYSTEM.invariants.items()}
    seen = set()
    for density in (0.01, 0.05, 0.2, 0.5) * 3:
        state = some_state(machine, rng, density)
        for name, pieces in one.items():
            assert all(p(state) for p in pieces) == machine.holds(state, SYSTEM.invariants[name].body), name
        seen |= {(type(p), p(state)) for pieces in one.values() for p in pieces}
    assert {(claims._OfTrue, True), (claims._OfTrue, False)} <= seen


def test_a_claim_about_changed_places_says_the_same(machine: ExecutableModel) -> None:
    """A claim about steps looks only at places that a step changed, with the values before from its log: in random states it
    falls exactly where the claim as written does, whatever few places change."""
    rng = random.Random(12)
    about = StepClaims(machine)
    label = "every step"
    pieces = [(name, claims._about_two(machine, p)) for name, c in about.claims.items() for p in parts(c.body)]
    about.watched = {(label, failed): claims._watched(pieces) for failed in (False, True)}
    about.compared = {label: tuple(range(len(SYSTEM.funcs)))}
    compared = {f for c in about.claims.values() for f in claims.reads(SYSTEM, c.body, True)}
    tables = [k for k, f in enumerate(SYSTEM.funcs) if f in compared]
    seen: dict[str, set[bool]] = {name: set() for name in about.claims}
    for density in (0.05, 0.2, 0.5, 0.8) * 60:
        before = some_state(machine, rng, density)
        now, log = [list(table) for table in before], []
        for _ in range(rng.randrange(60)):
            k = rng.choice(tables)
            at = rng.randrange(len(now[k]))
            log.append((k, at, now[k][at]))
            now[k][at] = rng.randrange(size_of(SYSTEM, machine.world, list(SYSTEM.funcs.values())[k].sort))
        failed = rng.random() < 0.3
        broken = about.broken(now, log, label, failed)
        for name, claim in about.claims.items():
            assert machine.holds_between(before, now, claim.body, failed) == (name not in broken), name
            seen[name].add(name in broken)
    both = [name for name, values in seen.items() if len(values) == 2]
    assert len(both) >= 18, sorted(set(seen) - set(both))


def test_nearly_every_claim_about_steps_looks_at_changed_places_only() -> None:
    """Of the others the whole world is evaluated after each step that may change what they read."""
    bodies = rules_for(Size()).step_claims.claims.items()
    assert [n for n, c in bodies if any(causes(SYSTEM, p) is None for p in parts(c.body))] == ["ports_by_own_file"]


P, Q = (App(name, (Var("f", "Frame"),), BOOL) for name in ("p", "q"))


@pytest.mark.parametrize(
    ("piece", "expected"),
    [
        (Op("=>", (conj([neg(P), after(P)]), Q)), (("p", P.args),)),
        (Op("=>", (conj([P, after(P)]), Q)), None),  # says something of steps that change nothing
        (Op("=>", (P, after(P))), (("p", P.args),)),
        (Op("=>", (conj([P, neg(Q), after(Q)]), after(P))), (("q", P.args),)),  # or p; one is enough
        (Op("=>", (conj([eq(P, Q), neg(eq(after(P), after(Q)))]), FALSE)), (("p", P.args), ("q", P.args))),
    ],
)
def test_the_places_that_must_change(piece: Term, expected: object) -> None:
    """Of claims of one line; what is supposed must contradict itself when these places stay."""
    assert causes(SYSTEM, Quant("forall", (Var("f", "Frame"),), piece)) == expected


def test_a_step_that_breaks_a_claim_is_told() -> None:
    """A privilege over a guest's pages that returns, and one step that is not checked for it."""
    rules = rules_for(Size())
    state = rules.start()
    label, right = "build_create", rules.number["right"]
    state[right][0] = 1  # of Dom0's incarnation, which has been
    assert rules.step_claims.broken(state, [(right, 0, 0)], label, False) == ["right_is_given_up"]
    assert rules.step_claims.broken(state, [(right, 0, 0)], label, True) == []


def test_what_a_failing_step_undoes_is_watched() -> None:
    """`failed_call_changes_nothing` covers the outcomes that undo something."""
    rules = rules_for(Size())
    state = rules.start()
    label = "gntdev_mmap.insert"
    state[rules.number["status.reading"]][0] = 1
    log = [(rules.number["mapping.taken"], 0, 1), (rules.number["status.reading"], 0, 0)]
    assert "uses_begin_in_force" in rules.step_claims.broken(state, log, label, True)


def test_every_claim_about_a_step_is_watched_somewhere() -> None:
    claims: StepClaims = rules_for(Size()).step_claims
    watched = {name for each in claims.watched.values() for pieces in each.places.values() for name, _, _ in pieces}
    watched |= {name for each in claims.watched.values() for name, _ in each.whole}
    assert watched == set(claims.claims) and len(watched) >= 16
