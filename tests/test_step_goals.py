"""Claims about a step as goals: the formula over the state before says exactly when a step breaks the claim.

The executable model is the outside word: it evaluates the claim on the two states around a step that it has taken.
"""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import pytest

from bulkhead.model.caller import caller_of
from bulkhead.model.diagnostics import RulesError
from bulkhead.model.executable import ExecutableModel
from bulkhead.model.ir import Quant, System
from bulkhead.model.library import Library
from bulkhead.model.loader import build, load
from bulkhead.model.parser import parse_text
from bulkhead.model.world import World, size_of
from bulkhead.proofs.theorems.attack import MAX_DEPTH, Hunt, directed, find_attack
from bulkhead.proofs.theorems.shortening import confirm
from bulkhead.proofs.theorems.step_goals import violation
from bulkhead.proofs.theorems.waypoints import Doubts
from tests.oracle.generate import draft

EXAMPLES = Path(__file__).parent / "examples"


def _compared(system: System, seed: int, states: int, most: int) -> tuple[int, int]:
    """How many steps from random states were compared, and how many of them break a claim."""
    rng = random.Random(seed)
    sizes = {s: rng.choice((1, 2)) for s in system.sorts}
    world = World(sizes, {})
    consts = {c: rng.randrange(size_of(system, world, s)) for c, s in system.consts.items()}
    machine = ExecutableModel(system, World(sizes, consts))
    caller = caller_of(machine)
    compared = broken = 0
    for _ in range(states):
        state = [
            [rng.randrange(size_of(system, machine.world, f.sort)) for _ in table]
            for f, table in zip(system.funcs.values(), machine.empty_state(), strict=True)
        ]
        for label, t in machine.transitions.items():
            choices = list(machine.choices(label))
            for values in rng.sample(choices, min(most, len(choices))):
                args = {p.name: v for p, v in zip(t.params, values, strict=True)}
                after = [list(table) for table in state]
                if not machine.fire(after, label, args):
                    continue
                for claim in system.step_claims.values():
                    some, body = violation(system, claim, t)
                    says = bool(caller.value(state, Quant("exists", some, body) if some else body, args))
                    fails = not machine.holds_between(state, after, claim.body, bool(t.code))
                    assert says == fails, (claim.name, label, args)
                    compared += 1
                    broken += fails
    return compared, broken


def test_random_systems_break_claims_where_the_goal_says_so() -> None:
    """Every kind of assignment, definition and quantifier of the language, against the executable model."""
    compared = broken = 0
    for seed in range(320):
        with contextlib.suppress(LookupError, RulesError):
            text = draft(seed).text()
            library = Library()
            library.take(parse_text(text, "made.rules"), text)
            (name,) = library.systems
            more, bad = _compared(build(library, name, ()), seed, 3, 4)
            compared, broken = compared + more, broken + bad
    assert compared > 1000 and 50 < broken < compared


@pytest.mark.parametrize(("name", "fault"), [("two_phase_commit", "impatient"), ("two_phase_commit", "forged")])
def test_examples_break_claims_where_the_goal_says_so(name: str, fault: str) -> None:
    """The same for protocols, with faults that break their claims about steps."""
    compared, broken = _compared(load(str(EXAMPLES / f"{name}.rules"), [fault]), 1, 60, 20)
    assert compared > 200 and broken > 0


def test_a_fault_of_shipped_rules_that_shows_in_a_step_is_found_by_the_directed_search() -> None:
    """A page is handed to who never asked for it. The search that goes for goals finds it without bounded model checking."""
    system = load("hypervisor", ["transfer_unasked"])
    claim = system.claims()["pages_go_where_asked"]
    hunt = Hunt(system, {claim.name: claim}, Doubts(system))
    directed(hunt)
    trace = hunt.found[claim.name]
    confirm(system, claim, trace)
    assert trace.events[-1].label == "transfer.assign"


def test_a_claim_about_a_step_falls_deep_in_a_system_with_a_large_state(tmp_path: Path) -> None:
    """Beyond the depth of bounded model checking, in a state too large to see all of: a commit that nobody has logged."""
    text = (EXAMPLES.parent / "deep" / "logged_commit.rules").read_text(encoding="utf-8")
    places = " | ".join(f"p{k}" for k in range(200))
    text = text.replace("state up: bool", f"enum Place = {places}\nstate ballast[Place]: bool\nstate up: bool")
    text = text.replace(
        "invariant committed_is",
        "transition commits_are_logged forall m: Manager.\n"
        "    vote[m] != committed and next(vote[m]) = committed implies logged\ninvariant committed_is",
    )
    file = tmp_path / "wide.rules"
    file.write_text(text.replace("proved all_or_nothing", "proved all_or_nothing, commits_are_logged"), encoding="utf-8")
    system = load(str(file), ["tells_before_it_logs"])
    trace = find_attack(system, "commits_are_logged", ("tells_before_it_logs",))
    assert trace is not None and len(trace.events) == 9 > MAX_DEPTH
    assert trace.events[-1].label == "obey_commit"
