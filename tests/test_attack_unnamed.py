"""`attack` without a theorem finds an attack wherever one is found with the theorem named.

By hand, over all faults of a system: `python -m tests.test_attack_unnamed SYSTEM...` (a shipped system takes hours).
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bulkhead.model.ir import Claim, System
from bulkhead.model.loader import load
from bulkhead.model.trace import Trace
from bulkhead.proofs.theorems import attack
from bulkhead.proofs.theorems.attack import find_attack, find_attacks
from bulkhead.proofs.theorems.waypoints import Doubts

EXAMPLES = Path(__file__).parent / "examples"
SAMPLE = [
    ("two_phase_commit", "impatient"),
    ("sharded_store", "takes_in_twice"),
    ("chord_ring", "crashes_too_soon"),
    ("capabilities", "slot_overwritten"),
    ("protected_kvm", "donates_shared"),
    ("reliable_broadcast", "joins_anybody"),
]


def missed(name: str, fault: str) -> list[str]:
    """The claims that fall by a fault when they are named, where nothing falls when none is."""
    system = load(name, [fault])
    candidates = [n for n in system.claims() if system.expects.get(n) != "refuted"]
    if any(find_attacks(system, candidates, (fault,), one=True).values()):
        return []
    return [n for n in candidates if find_attack(system, n, (fault,)) is not None]


@pytest.mark.parametrize(("name", "fault"), SAMPLE)
def test_nothing_is_missed_where_no_claim_is_named(name: str, fault: str) -> None:
    """An attack is found without a name, on a claim that also falls by itself, and no longer than that."""
    system = load(str(EXAMPLES / f"{name}.rules"), [fault])
    found = {n: t for n, t in find_attacks(system, list(system.claims()), (fault,), one=True).items() if t is not None}
    assert found
    for claim, trace in found.items():
        named = find_attack(system, claim, (fault,))
        assert named is not None and len(trace.events) == len(named.events)


def test_the_shortest_is_shown_where_no_claim_is_named() -> None:
    """The claim that falls first in the smallest world takes 23 steps; another falls after 13 in a larger one."""
    fault = "taken_back_too_soon"
    system = load(str(EXAMPLES / "hazard_pointers.rules"), [fault])
    found = find_attacks(system, list(system.claims()), (fault,), one=True)
    assert {n: len(t.events) for n, t in found.items() if t is not None} == {"swaps_in_the_next": 13}


def test_what_is_too_much_for_all_claims_at_once_is_tried_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search that finds something only when it is asked about a single claim, and forgets those it gave up."""
    whole = attack._in_the_first_world
    asked: list[tuple[str, ...]] = []

    def weak(
        system: System, claims: dict[str, Claim], depth: int, limit: float, one: bool, sizes: dict[str, int], doubts: Doubts
    ) -> dict[str, Trace | None]:
        asked.append(tuple(claims))
        if len(claims) > 1:
            given = dict.fromkeys(claims)
            claims.clear()
            return given
        return whole(system, claims, depth, limit, one, sizes, doubts)

    monkeypatch.setattr(attack, "_in_the_first_world", weak)
    monkeypatch.setattr("bulkhead.proofs.theorems.small_worlds.WIDE", 0)  # a system too large to see all of
    system = load(str(EXAMPLES / "two_phase_commit.rules"), ["impatient"])
    found = find_attacks(system, list(system.claims()), ("impatient",), one=True)
    assert any(found.values()) and len(asked) > 1
    asked.clear()
    found = find_attacks(system, list(system.claims()), ("impatient",))
    assert {n for n, t in found.items() if t is not None} == {"all_or_nothing", "only_prepared_commit"}
    assert {claims for claims in asked if len(claims) == 1} == {
        (n,) for n, t in found.items() if t is not None
    }  # rest: proved


def test_what_is_proved_is_not_tried_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many claims with a fault only those without a proof are searched."""
    asked: list[tuple[str, ...]] = []

    def blind(
        _system: System, claims: dict[str, Claim], _depth: int, _limit: float, _one: bool, _sizes: dict[str, int], _: Doubts
    ) -> dict[str, Trace | None]:
        asked.append(tuple(claims))
        return dict.fromkeys(claims)

    monkeypatch.setattr(attack, "_in_the_first_world", blind)
    monkeypatch.setattr("bulkhead.proofs.theorems.small_worlds.WIDE", 0)
    system = load(str(EXAMPLES / "protected_kvm.rules"), ["reclaimed_alive"])
    assert not any(find_attacks(system, list(system.claims()), ("reclaimed_alive",), one=True).values())
    assert asked == [("guests_keep_pages",)]


if __name__ == "__main__":
    worst = 0
    for name in sys.argv[1:]:
        for fault in load(name).faults:
            claims = missed(name, fault)
            worst |= bool(claims)
            print(f"{name} {fault}: {'nothing missed' if not claims else 'missed ' + ', '.join(claims)}", flush=True)
    sys.exit(worst)
