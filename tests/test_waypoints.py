"""Attacks by way of broken invariants, and that no answer of an attack search depends on the clock.

The paths are replayed on the executable model. Not here: whether the attacks are short (`test_needed_steps.py`).
"""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bulkhead.model.ir import System
from bulkhead.model.loader import load
from bulkhead.model.trace import start_breaks
from bulkhead.proofs.cli.__main__ import run
from bulkhead.proofs.theorems import attack, directed_search, grounding, shortening, solvers, waypoints
from bulkhead.proofs.theorems.explore import Limits
from bulkhead.proofs.theorems.initial_states import initial_states
from bulkhead.proofs.theorems.known_runs import known_runs
from bulkhead.proofs.theorems.step_goals import goals
from bulkhead.proofs.theorems.unrolling import Unrolling
from bulkhead.proofs.theorems.waypoints import Doubts, by_broken_invariants, promised

EXAMPLES = Path(__file__).parent / "examples"


def faulty(name: str, fault: str) -> System:
    return load(str(EXAMPLES / f"{name}.rules"), [fault])


@pytest.mark.parametrize(
    ("name", "fault"), [("protected_kvm", "reclaimed_alive"), ("capabilities", "slot_overwritten"), ("german", "unlisted")]
)
def test_a_path_by_a_broken_invariant_ends_where_a_claim_is_false(name: str, fault: str) -> None:
    system = faulty(name, fault)
    doubts = Doubts(system)
    assert doubts.first
    machine, states = initial_states(system, math.inf, random.Random(1))
    open_claims = {n: system.claims()[n] for n in doubts.about(system.claims())}
    found = by_broken_invariants(doubts, open_claims, machine, states)
    assert found and found.keys() <= open_claims.keys()
    for claim, path in found.items():
        state = [list(table) for table in path.start()]
        holds = True
        for label, args in path.steps():
            before = [list(table) for table in state]
            names = [p.name for p in machine.transitions[label].params]
            assert machine.fire(state, label, dict(zip(names, args, strict=True)))
            if open_claims[claim].kind == "transition":
                failed = bool(machine.transitions[label].code)
                holds = machine.holds_between(before, state, open_claims[claim].body, failed)
            else:
                holds = machine.holds(state, open_claims[claim].body)
        assert not holds


def test_a_bound_is_kept_when_steps_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a search excluded stays excluded after an attack was made shorter, and its world smaller."""
    system = faulty("protected_kvm", "reclaimed_alive")
    trace = attack.find_attack(system, "guests_keep_pages", ("reclaimed_alive",))
    assert trace is not None and trace.excluded == len(trace.events) - 1 > 0
    monkeypatch.setattr(shortening, "in_smallest_world", lambda _system, _claim, found, _limit: replace(found, excluded=-1))
    longer = replace(trace, events=(*trace.events, trace.events[0]))
    assert shortening.believed(system, longer, math.inf, False).excluded == trace.excluded


def test_only_the_faulty_step_breaks_an_invariant_first() -> None:
    """With all else assumed no other step does; without, many seem to."""
    system = faulty("protected_kvm", "reclaimed_alive")
    machine, _ = initial_states(system, math.inf, random.Random(1))
    every = [*system.invariants, *system.theorems]
    known = system.stated()
    for name in Doubts(system).first:
        assert {t.label for t, _ in goals(system, machine.world, known[name], every)} == {"host_reclaim_page"}
        assert len({t.label for t, _ in goals(system, machine.world, known[name])}) > 1


def test_what_is_proved_is_not_searched_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken invariants lead nowhere if the claim does not depend on them."""
    monkeypatch.setattr(waypoints, "find", lambda *_: pytest.fail("searched"))
    system = load(str(EXAMPLES / "protected_kvm.rules"))
    machine, states = initial_states(system, math.inf, random.Random(1))
    assert by_broken_invariants(Doubts(system), system.claims(), machine, states) == {}


@pytest.mark.parametrize(("name", "fault"), [("protected_kvm", "reclaimed_alive"), ("german", "unlisted")])
def test_without_a_limit_no_answer_depends_on_the_clock(
    name: str, fault: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Solver sessions are bounded by effort, and searches by counts; small worlds are left out to reach all of them."""
    asked: list[str] = []
    whole, searched = solvers.Z3Session.__init__, Unrolling.__init__

    def session(self: solvers.Z3Session, *args: Any, **named: Any) -> None:
        asked.append("session")
        assert named.get("effort", 0) > 0
        whole(self, *args, **named)

    def search(self: Unrolling, system: Any, two_state: bool, sizes: Any, limit: float = math.inf) -> None:
        asked.append("search")
        assert limit == math.inf
        searched(self, system, two_state, sizes, limit)

    grounded = grounding.Grounding.__init__

    def ground(self: grounding.Grounding, system: Any, world: Any, limit: float = math.inf, *args: Any) -> None:
        asked.append("grounding")
        assert limit == math.inf
        grounded(self, system, world, limit, *args)

    monkeypatch.setattr(solvers.Z3Session, "__init__", session)
    monkeypatch.setattr(Unrolling, "__init__", search)
    monkeypatch.setattr(grounding.Grounding, "__init__", ground)
    monkeypatch.setattr("bulkhead.proofs.theorems.small_worlds.WIDE", 0)
    assert Limits().seconds == math.inf and not hasattr(directed_search, "time")
    out = str(tmp_path / "out")
    assert run(["attack", str(EXAMPLES / f"{name}.rules"), "--fault", fault, "--out", out, "--quiet"]) in (0, 1)
    assert {"session", "search", "grounding"} <= set(asked)


def test_an_attack_of_few_steps_needs_no_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large system is not proved where an attack takes few steps."""
    monkeypatch.setattr(Doubts, "proof", property(lambda _: pytest.fail("proved")))
    system = load("hypervisor", ["foreign_frame"])
    found = attack.find_attacks(system, list(system.claims()), ("foreign_frame",), one=True)
    assert [[e.label for e in t.events] for t in found.values() if t is not None] == [["mmu_update_map"]]


def test_only_the_step_that_a_fault_names_is_a_goal() -> None:
    """Named claims without a question to a solver, others only where a solver does not refute it at once."""
    system = load("hypervisor", ["foreign_frame"])
    machine, _ = initial_states(system, math.inf, random.Random(1))
    ways = promised(system, ["foreign_frame"], system.claims(), machine)
    assert {t.label for some in ways.values() for t, _ in some} == {"mmu_update_map"}
    assert "own_is_own" in ways and 1 < len(ways) < len(system.claims())


def test_every_state_of_a_scenario_is_a_start() -> None:
    """Each path of a run is one of the rules, from an initial state, and one step longer than the one before."""
    system = load("hypervisor")
    run = next(known_runs(system, math.inf, ["copy.done"]))
    assert [len(path.steps()) for path in run.paths] == list(range(len(run.paths)))
    assert "copy.done" in [label for label, _ in run.paths[-1].steps()]
    assert start_breaks(run.machine, run.paths[0].state) is None
    state = [list(table) for table in run.paths[0].state]
    for path, (label, args) in zip(run.paths[1:], run.paths[-1].steps(), strict=True):
        names = [p.name for p in run.machine.transitions[label].params]
        assert run.machine.fire(state, label, dict(zip(names, args, strict=True))) and state == path.state


ASIDE = """component lamps "A lamp, and a note about it that no claim needs."
state lit: bool
state noted: bool
init not lit and not noted
internal light()
    set lit = true
    set noted = true
theorem dark_or_lit lit or not lit
invariant notes_are_true noted implies lit
fault noted_too_early breaks notes_are_true in light
    within light skip lit
system lamps "A system for one test."
    uses lamps
    expect proved dark_or_lit
"""


def test_a_fault_that_breaks_an_invariant_only_is_said_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No attack, because there is none; and no silence about what the fault does."""
    file = tmp_path / "lamps.rules"
    file.write_text(ASIDE)
    assert run(["attack", str(file), "--fault", "noted_too_early", "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().out
    assert "is proved, with noted_too_early too" in said
    assert "not proved with it, and that no claim needs: notes_are_true" in said
