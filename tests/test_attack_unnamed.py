"""`attack` without a theorem finds an attack wherever one is found with the theorem named.

By hand, over all faults of a system: `python -m tests.test_attack_unnamed SYSTEM...` (a shipped system takes hours).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from bulkhead.model.loader import load
from bulkhead.proofs.cli.__main__ import run
from bulkhead.proofs.theorems import attack
from bulkhead.proofs.theorems.attack import Hunt, find_attack, find_attacks
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


def test_what_is_proved_is_not_searched_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many claims with a fault, after the first steps only those without a proof are searched, and then one by one."""
    asked: list[tuple[str, ...]] = []

    def blind(hunt: Hunt) -> None:
        asked.append(tuple(hunt.left()))

    kept = [row for row in attack.SEARCHES if row[0] is not attack.named_by_the_faults]
    searches = tuple((search if search is attack.unless_proved else blind, *when) for search, *when in kept)
    monkeypatch.setattr(attack, "SEARCHES", searches)
    monkeypatch.setattr("bulkhead.proofs.theorems.small_worlds.WIDE", 0)  # a system too large to see all of
    system = load(str(EXAMPLES / "protected_kvm.rules"), ["reclaimed_alive"])
    assert not any(find_attacks(system, list(system.claims()), ("reclaimed_alive",), one=True).values())
    assert set(asked[0]) == set(system.claims()) and set(asked[1:]) == {("guests_keep_pages",)}


def test_each_search_finds_something_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any search that is there finds the attack if it is the only one, so none hides that another is broken."""
    system = load(str(EXAMPLES / "two_phase_commit.rules"), ["impatient"])
    claims = {n: system.claims()[n] for n in ("all_or_nothing", "only_prepared_commit")}
    not_alone = (attack.unless_proved, attack.by_the_faults, attack.named_by_the_faults)  # these need a word of the fault
    for search in {search for search, *_ in attack.SEARCHES} - set(not_alone):
        hunt = Hunt(system, dict(claims), Doubts(system), ("impatient",))
        search(hunt)
        assert hunt.found or search is attack.few_steps, search.__name__


KEYS = """component keys "Doors are opened with keys."
sort Door "a door"
state key[Door]: bool
state open[Door]: bool
ghost state opened[Door]: bool
init forall d: Door. not key[d] and not open[d] and not opened[d]
internal take(d: Door) set key[d] = true
internal unlock(d: Door)
    require key[d]
    set open[d] = true
    set opened[d] = true
internal lose(d: Door)
    require not open[d]
    set key[d] = false
"Whose door is open has its key."
invariant open_has_key forall d: Door. open[d] implies key[d]
theorem open_was_opened forall d: Door. open[d] implies opened[d]
{more}
fault lost breaks open_has_key in lose
    within lose drop not open[d]
fault lost_for_good breaks open_was_opened in unlock
    within unlock skip opened[d]
system keys "Keys." uses keys expect proved open_was_opened{also}
"""
ONE = KEYS.format(more="", also="")
TWO = KEYS.format(
    more="transition opened_for_good forall d: Door. opened[d] implies next(opened[d])", also=", opened_for_good"
)


@pytest.mark.parametrize("text", [ONE, TWO])
def test_if_no_claim_falls_a_broken_invariant_is_shown(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The way to it is labelled, the exit code is that of no attack, and the trace replays; claims that fall come first."""
    rules, out = tmp_path / "keys.rules", tmp_path / "out"
    rules.write_text(text)
    report = tmp_path / "report.json"
    assert run(["attack", str(rules), "--fault", "lost", "--out", str(out), "--json", str(report)]) == 1
    shown = capsys.readouterr().out
    assert "All that keys is expected to prove is proved" in shown and "that no claim needs: open_has_key" in shown
    assert "A way to break the invariant open_has_key of keys: 3 steps, with fault lost" in shown
    assert "This is no attack on a theorem" in shown and "Attack on" not in shown
    told = json.loads(report.read_text())
    assert told["attack"] is None and told["broken_invariant"]["steps"] == ["take", "unlock", "lose"]
    assert run(["replay", str(out / "trace.jsonl")]) == 0
    assert "now open_has_key is false" in capsys.readouterr().out
    assert run(["attack", str(rules), "open_has_key", "--fault", "lost", "--out", str(out)]) == 0
    assert "A way to break the invariant open_has_key" in capsys.readouterr().out
    assert run(["attack", str(rules), "--fault", "lost_for_good", "--out", str(out)]) == 0
    assert "Attack on open_was_opened of keys: 2 steps" in capsys.readouterr().out
    assert run(["attack", str(rules), "open_has_key", "--out", str(out)]) == 1  # without the fault it is kept
    capsys.readouterr()
    assert run(["explore", str(rules), "--theorem", "open_has_key", "--fault", "lost"]) == 1
    assert "open_has_key: FALSE after 3 steps" in capsys.readouterr().out


CALM = """component calm "A level, and a call that fails at the second."
enum Level = low | middle | high
state level: Level
state bad: bool
state worse: bool
init level = low and not bad and not worse
internal up() set level = if level = low then middle else high
internal ask() require level != middle else EAGAIN
internal top() require level = high set bad = true
internal spoil() require bad set worse = true
theorem never_worse not worse
transition calm not failed and not next(bad)
system calm "Calm." uses calm expect refuted never_worse, calm
"""


def test_a_failing_call_is_seen_beside_a_claim_about_states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim about steps falls by a call that fails and changes nothing: in two steps, whatever is searched with it."""
    monkeypatch.setattr("bulkhead.proofs.theorems.small_worlds.WIDE", 0)  # a system too large to see all of
    path = tmp_path / "calm.rules"
    path.write_text(CALM)
    found = find_attacks(load(str(path)), ["never_worse", "calm"])
    lengths = {n: (len(t.events), t.excluded) for n, t in found.items() if t is not None}
    assert lengths == {"never_worse": (4, 3), "calm": (2, 1)}


if __name__ == "__main__":
    worst = 0
    for name in sys.argv[1:]:
        for fault in load(name).faults:
            claims = missed(name, fault)
            worst |= bool(claims)
            print(f"{name} {fault}: {'nothing missed' if not claims else 'missed ' + ', '.join(claims)}", flush=True)
    sys.exit(worst)
