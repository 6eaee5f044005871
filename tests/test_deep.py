"""Deep faults: attacks of up to 31 steps on the systems of `deep/`, as short as a plain search finds them.

Also the choice of worlds: it skips worlds in which a claim cannot be false, and no others.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from bulkhead.model.executable import ExecutableModel
from bulkhead.model.ir import System
from bulkhead.model.loader import load
from bulkhead.model.world import World
from bulkhead.proofs.report.trace_text import log, read_back
from bulkhead.proofs.theorems.attack import find_attack, find_attacks
from bulkhead.proofs.theorems.bounded import Bounded
from bulkhead.proofs.theorems.cone import cone
from bulkhead.proofs.theorems.explore import Limits, explore
from bulkhead.proofs.theorems.induction import Settings, prove
from bulkhead.proofs.theorems.least_world import grown
from bulkhead.proofs.theorems.scope import first_scope
from bulkhead.proofs.theorems.small_worlds import Worlds, attacks_in_small_worlds, can_fall
from tests.examples.breadth_first import initial_states, search, state_of

HERE = Path(__file__).parent / "deep"

DEEP = [
    ("hanoi", "", "never_done", 31, {}),
    ("numbered_messages", "late_taken", "right_items", 20, {"Item": 1}),
    ("logged_commit", "tells_before_it_logs", "all_or_nothing", 13, {"Manager": 2}),
    ("token_ring", "clock_goes_on", "one_sends", 8, {}),
    ("alternating_bit", "", "in_order", 8, {"Item": 2}),
    ("sequence_lock", "two_writers", "not_torn", 10, {"Writer": 2, "Value": 2, "Number": 3}),
    ("ticket_lock", "given_out_twice", "one_inside", 7, {"Thread": 5}),
    ("dekker", "flag_stays_down", "one_inside", 9, {}),
]
FIRST = {  # places of an initial state that are not empty
    "sequence_lock": {"spent[number0]": "true"},
    "alternating_bit": {"next_of[item0]": "item1"},
    "token_ring": {"has[a]": "true"},
    "logged_commit": {"up": "true"},
}


def _load(name: str, fault: str) -> System:
    return load(str(HERE / f"{name}.rules"), [fault] if fault else [])


@pytest.mark.parametrize(("name", "fault", "claim", "steps", "sizes"), DEEP, ids=[d[0] for d in DEEP])
def test_it_is_found_and_is_as_short_as_can_be(name: str, fault: str, claim: str, steps: int, sizes: dict[str, int]) -> None:
    """The attack has as many steps as a search without symmetry, solver or choice of worlds needs in that world."""
    system = _load(name, fault)
    trace = find_attack(system, claim, (fault,) if fault else ())
    assert trace is not None and len(trace.events) == steps and trace.excluded == steps - 1
    machine = ExecutableModel(system, World({**dict.fromkeys(system.sorts, 1), **sizes}, {}))
    first = state_of(system, machine.world, FIRST.get(name, {}))
    found = search(machine, initial_states(machine, first), [system.claims()[claim]])
    assert found.events is not None and len(found.events) == steps


@pytest.mark.parametrize("name", [d[0] for d in DEEP if d[1]])
def test_without_the_fault_it_is_proved(name: str) -> None:
    """The rules are right as they stand, so the attack comes of the fault."""
    system = _load(name, "")
    assert prove(system, Settings(jobs=1)).proved == set(system.claims())


def test_the_only_world_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a sort that could be larger, a search to the end leaves nothing to the other searches."""
    monkeypatch.setattr(Bounded, "run", lambda *_: pytest.fail("searched again"))
    assert find_attack(_load("dekker", ""), "one_inside") is None


def test_parts_that_share_nothing_hide_no_attack() -> None:
    """Each attack has the length that it has where its protocol stands alone."""
    system = _load("side_by_side", "")
    lengths = {"one_owner": 9, "not_both": 7, "one_writes": 6, "one_place": 5}
    found = find_attacks(system, lengths)
    assert {n: t and len(t.events) for n, t in found.items()} == lengths
    for name in lengths:
        part = cone(system, system.claims()[name])
        assert part is not None and len(part.steps) < len(system.steps) / 2
        trace = find_attack(part, name)
        assert trace is not None and len(trace.events) == lengths[name] == trace.excluded + 1


def test_initial_states_may_need_many_elements(tmp_path: Path) -> None:
    """Five elements of one sort among six sorts: found at once, and no element too many."""
    file = tmp_path / "many.rules"
    sorts = "".join(f'sort S{k} "a sort"\nstate s{k}[S{k}]: bool\n' for k in range(5))
    file.write_text(f"""component many "A sort that begins with five."
{sorts}sort T "what there are five of"
enum Place = one | two | three | four | five
state at_first[Place]: T
state done: bool
init not done
init distinct(at_first[one], at_first[two], at_first[three], at_first[four], at_first[five])
internal finish()
    set done = true
theorem never_done not done
system many "A system for one test."
    uses many
    expect refuted never_done
""")
    system = load(str(file))
    assert grown(system, dict.fromkeys(system.sorts, 1)) == {**dict.fromkeys(system.sorts, 1), "T": 5}
    trace = find_attack(system, "never_done")
    assert trace is not None and len(trace.events) == 1 and trace.world.sizes["T"] == 5


def test_a_world_in_which_a_claim_cannot_be_false_is_left_out() -> None:
    """With one thread no two are inside; with two they may be."""
    system = _load("ticket_lock", "")
    claim = system.claims()["one_inside"]
    assert not can_fall(system, {"Call": 1, "Thread": 1}, claim)
    assert can_fall(system, {"Call": 1, "Thread": 2}, claim)


def test_a_claim_about_a_step_can_fall_where_it_reads_two_states() -> None:
    """A read after the step is not confused with a read before it."""
    system = load(str(HERE.parent / "examples" / "two_phase_commit.rules"))
    assert can_fall(system, {"Call": 1, "Manager": 1}, system.claims()["decided_for_good"])


def test_a_world_cut_short_is_searched_on_for_the_claims_that_still_stand(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One claim falls early in the only world there is; the other needs a longer turn, and has it."""
    monkeypatch.setattr("bulkhead.proofs.theorems.small_worlds.QUICK", 40)
    text = (HERE / "hanoi.rules").read_text(encoding="utf-8")
    text = text.replace("theorem never_done", "theorem stays on[smallest] = left\ntheorem never_done")
    (tmp_path / "two.rules").write_text(text.replace("refuted never_done", "refuted never_done, stays"), encoding="utf-8")
    system = load(str(tmp_path / "two.rules"))
    found = attacks_in_small_worlds(system, system.claims()).attacks
    assert {name: len(trace.events) for name, trace in found.items()} == {"stays": 1, "never_done": 31}


def test_worlds_whose_turns_are_equally_far_take_them_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several worlds are cut short at once, with the same budget: the queue has a first one all the same."""
    monkeypatch.setattr("bulkhead.proofs.theorems.small_worlds.QUICK", 40)
    system = load(str(HERE / "logged_commit.rules"))
    seen = attacks_in_small_worlds(system, system.claims(), steps=600_000)
    assert not seen.attacks and len(seen.explored) > len({tuple(e.sizes.values()) for e in seen.explored}) > 1


def test_places_that_no_init_fixes_do_not_use_up_the_search(tmp_path: Path) -> None:
    """Where they make too many initial states, those where such places are empty come first, and are not called all."""
    file = tmp_path / "free.rules"
    file.write_text("""component free "Most of the state is whatever it is at first."
sort T "what there are some of"
enum Stage = one | two | three | four | five
state noise[T, T, T]: bool
state stage: Stage
init stage = one
internal go(t: T)
    require stage = one
    require noise[t, t, t]
    set stage = two
internal make(t: T)
    set noise[t, t, t] = true
theorem early stage = one
system free "A system for one test."
    uses free
    expect refuted early
""")
    system = load(str(file))
    claims, sizes = list(system.claims().values()), {"Call": 1, "T": 3}
    some = explore(system, sizes, claims, Limits(starts=1000))
    assert some.initial == 1 and some.all_starts == 2**27 and not some.every_start and not some.complete
    assert len(some.attacks["early"].events) == 2
    every = explore(system, {"Call": 1, "T": 2}, claims, Limits(starts=1000))
    assert every.every_start and len(every.attacks["early"].events) == 1


def test_every_world_comes_once_and_grows_from_one_before() -> None:
    """The frontier gives no world twice, and none before all its smaller ones have had a chance to be its parent."""
    system = load(str(HERE.parent / "examples" / "sharded_store.rules"))
    seen: set[tuple[int, ...]] = set()
    for sizes, _ in zip(Worlds(system), range(60), strict=False):
        key = tuple(sizes.values())
        assert key not in seen
        likely = sizes == first_scope(system)  # has an early turn of its own
        assert (
            not seen
            or likely
            or any(sum(key) - sum(k) == 1 and all(a >= b for a, b in zip(key, k, strict=True)) for k in seen)
        )
        seen.add(key)


def test_a_log_tells_the_order_and_the_quorums_that_an_attack_leans_on() -> None:
    """State that nothing writes is part of the attack where the axioms and the attack leave no other choice."""
    path = HERE.parent / "examples" / "traces" / "paxos.learns_from_one.agreement.jsonl"
    _, _, told = read_back(path, str(HERE.parent / "examples" / "paxos.rules"))
    start = told.partition("1. request")[0]
    assert "member[" in start and "at_most[none, round1] = true" in start and "promise" not in start


def test_a_log_tells_which_constants_are_the_same_and_what_the_others_are(tmp_path: Path) -> None:
    """The attack works only because two names mean one party, and because of what a constant of `bool` is."""
    file = tmp_path / "same.rules"
    file.write_text(
        'component c "c"\n sort Party "p"\n enum Mode = strict | loose\n const host: Party\n const guest: Party\n'
        " const mode: Mode\n state open[Party]: bool\n init forall p: Party. not open[p]\n"
        " internal let_in() require mode = loose else EPERM set open[host] = true\n"
        " theorem shut not open[guest]\n"
        'system y "y" uses c expect refuted shut\n',
        encoding="utf-8",
    )
    system = load(str(file))
    trace = find_attack(system, "shut")
    assert trace is not None
    told = log(trace, system, ExecutableModel(system, trace.world))
    assert "host = guest: the same Party" in told and "mode = loose" in told
