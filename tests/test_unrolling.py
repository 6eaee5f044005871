"""Bounded model checking by a SAT solver: as many steps to an attack as a breadth-first search of all states needs.

The search of all states evaluates formulas on states and shares only the checked rules with the gates, so each would
notice an error of the other; attacks are replayed on the executable model, too. Over random systems, over examples with
their faults, and by hand over more of them: `python -m tests.test_unrolling SYSTEMS SEED`. Not here: the shipped systems
(`test_stored_attacks.py`).
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from bulkhead.model.diagnostics import RulesError
from bulkhead.model.ir import Claim, System
from bulkhead.model.loader import load
from bulkhead.proofs.theorems import gates
from bulkhead.proofs.theorems.bounded import Bounded
from bulkhead.proofs.theorems.explore import Limits, explore
from bulkhead.proofs.theorems.gates import NO, YES, Gates
from bulkhead.proofs.theorems.shortening import confirm
from bulkhead.proofs.theorems.unrolling import Unrolling
from tests.oracle.generate import draft

EXAMPLES = Path(__file__).parent / "examples"
DEPTH = 4  # steps
SYSTEMS, SEED = 60, 9


def differences(system: System, sizes: dict[str, int], depth: int) -> tuple[list[str], int]:
    """What the two searches say differently of a system's claims, and how many claims fall."""
    claims = {n: c for n, c in system.claims().items()}
    search = Bounded(system, sizes, claims)
    found = search.run(depth, 50_000, False, lambda: claims)
    wrong, fallen = [], 0
    for name, claim in claims.items():
        seen = explore(system, sizes, [claim], Limits(depth=depth, taken=300_000, choices=300_000, starts=300_000))
        attack = seen.attacks.get(name)
        if attack is not None and seen.every_start:
            fallen += 1
            if name not in found or len(found[name].events) != len(attack.events):
                wrong.append(f"{name}: {len(attack.events)} steps, but {name in found and len(found[name].events)}")
        elif name in found and seen.every_start and (seen.complete or seen.depth >= depth):
            wrong.append(f"{name}: no attack, but one of {len(found[name].events)} steps")
        if name in found:
            assert found[name].excluded == len(found[name].events) - 1
            confirm(system, claim, found[name])
    return wrong, fallen


def of_random_systems(systems: int, seed: int, folder: Path) -> tuple[list[str], int, int]:
    """Differences over random systems; the systems compared, and the claims that fall."""
    wrong, compared, fallen = [], 0, 0
    for k in range(systems):
        file = folder / "made.rules"
        file.write_text(draft(seed * 100_000 + k).text())
        try:
            system = load(str(file))
            sizes = {sort: 2 if n < 3 else 1 for n, sort in enumerate(system.sorts)}
            some, fell = differences(system, sizes, DEPTH - 1)
        except (RulesError, ValueError):  # refused, or states too large for the other search
            continue
        compared, fallen = compared + 1, fallen + fell
        wrong += [f"seed {seed}, system {k}, {what}" for what in some]
    return wrong, compared, fallen


def test_random_systems(tmp_path: Path) -> None:
    wrong, compared, fallen = of_random_systems(SYSTEMS, SEED, tmp_path)
    assert wrong == []
    assert compared > SYSTEMS / 2 and fallen > SYSTEMS / 4


@pytest.mark.parametrize(
    ("name", "fault"),
    [("two_phase_commit", "impatient"), ("capabilities", "slot_overwritten"), ("lock_server", "")],
)
def test_examples(name: str, fault: str) -> None:
    """With a fault an attack of as many steps, without one none."""
    system = load(str(EXAMPLES / f"{name}.rules"), [fault] if fault else [])
    wrong, fallen = differences(system, dict.fromkeys(system.sorts, 2), DEPTH + 3)
    assert wrong == [] and bool(fallen) == bool(fault)


def test_the_first_state_becomes_empty_and_stays_an_attack() -> None:
    system = load("hypervisor", ["no_grantee_check"])
    claim = system.claims()["uses_begin_in_force"]
    sizes = {sort: least for sort, (least, _) in system.scope.items()}
    session = Unrolling(system, False, {**dict.fromkeys(system.sorts, 1), **sizes})
    while session.answer([claim]) != "sat":
        session.deepen()
    before = session.decode((), claim.name)
    session.tighten()
    after = session.decode((), claim.name)
    confirm(system, claim, after)
    assert session.false_ones([claim]) == [claim]
    assert sum(map(any, after.initial)) < sum(map(any, before.initial)) or before.initial == after.initial


def test_an_earlier_step_can_be_asked_about_later() -> None:
    """What was too hard for one effort is asked again with more, after steps were added for other claims."""
    system = load(str(EXAMPLES / "two_phase_commit.rules"), ["impatient"])
    claims, sizes = system.claims(), dict.fromkeys(system.sorts, 2)
    search = Bounded(system, sizes, claims)
    first = search.run(7, 50_000, False, lambda: ["only_prepared_commit"])
    later = search.run(7, 50_000, False, lambda: ["all_or_nothing"])
    alone = Bounded(system, sizes, claims).run(7, 50_000, False, lambda: ["all_or_nothing"])
    assert first and {n: len(t.events) for n, t in later.items()} == {n: len(t.events) for n, t in alone.items()} != {}


def test_effort_ends_a_search_and_is_no_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many gates, or no conflicts allowed: `unknown`, and nothing counts as excluded."""
    system = load("hypervisor", ["swap_in_use"])
    claim = system.claims()["no_write_without_title"]
    sizes = {**dict.fromkeys(system.sorts, 1), **{sort: least for sort, (least, _) in system.scope.items()}}
    search = Bounded(system, sizes, {claim.name: claim})
    assert search.run(None, 1, True, lambda: [claim.name]) == {} and search.hard[claim.name]
    assert search.excluded[claim.name] < 3
    monkeypatch.setattr(gates, "MOST", 3_000)
    small = Bounded(system, sizes, {claim.name: claim})
    assert small.run(None, 50_000, True, lambda: [claim.name]) == {} and small.hard[claim.name]


def test_a_length_that_is_too_hard_does_not_end_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """That no attack of one step exists may take too long to say; one of three is found, and its bound is 0. After three
    such lengths a claim is given up."""
    system = load(str(EXAMPLES / "two_phase_commit.rules"), ["impatient"])
    sizes, name = dict.fromkeys(system.sorts, 2), "all_or_nothing"
    whole = Bounded(system, sizes, system.claims()).run(None, 50_000, True, lambda: [name])[name]
    steps = len(whole.events)
    assert whole.excluded == steps - 1 >= 2
    answer, hard = Unrolling.answer, {1}

    def answers(session: Unrolling, claims: Sequence[Claim], depth: int | None = None) -> str:
        return "unknown" if depth in hard else answer(session, claims, depth)

    monkeypatch.setattr(Unrolling, "answer", answers)
    search = Bounded(system, sizes, system.claims())
    found = search.run(None, 50_000, True, lambda: [name])[name]
    assert (len(found.events), found.excluded, search.hard[name]) == (steps, 0, [1])
    hard |= {0, 2}
    search = Bounded(system, sizes, system.claims())
    assert search.run(None, 50_000, True, lambda: [name]) == {} and name not in search.excluded


def test_gates() -> None:
    """Constants are propagated, equal gates are one, and of some literals exactly one is true."""
    made = Gates()
    a, b = made.fresh(), made.fresh()
    assert made.both([a, YES]) == a and made.both([a, NO]) == NO and made.both([a, -a]) == NO and made.both([]) == YES
    assert made.both([a, b]) == made.both([b, a]) == -made.either([-a, -b])
    many = [made.fresh() for _ in range(10)]
    made.exactly_one(many)
    assert made.solve([], 1000) == "sat" and sum(one in made.model() for one in many) == 1
    assert made.solve([many[2], many[7]], 1000) == "unsat" and made.solve([-one for one in many], 1000) == "unsat"
    cond = made.fresh()
    mixed = made.mixed([(cond, {0: YES}), (-cond, {3: YES})])
    assert mixed == {0: cond, 3: -cond}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as where:
        wrong, compared, fallen = of_random_systems(int(sys.argv[1]), int(sys.argv[2]), Path(where))
    print(*wrong, f"{compared} systems compared, {fallen} claims fall, {len(wrong)} differences", sep="\n")
    sys.exit(bool(wrong))
