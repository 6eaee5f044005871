"""The protocols of `examples/`: they are proved, all steps are possible, and each fault has an attack of known length.

Two largely independent results are compared: the solvers' proofs, and a plain breadth-first search of the executable
model in small worlds. `test_outside_tools.py` adds those of other tools on models written by hand.
"""

from __future__ import annotations

import functools
import re

import pytest

from bulkhead.model.executable import ExecutableModel
from bulkhead.model.ir import System
from bulkhead.model.loader import load
from bulkhead.model.trace import TraceError, load_jsonl, replay
from bulkhead.model.world import State, World
from bulkhead.proofs.theorems.attack import find_attack
from bulkhead.proofs.theorems.induction import Settings, prove
from bulkhead.proofs.theorems.shortening import confirm, violated
from tests.examples.attacks import ATTACKS, HERE, Attack
from tests.examples.breadth_first import Found, initial_states, search, state_of
from tests.examples.worlds import WORLDS

FILES = sorted(HERE.glob("*.rules"))
NAMES = [f.stem for f in FILES]


def _load(name: str, fault: str = "") -> System:
    return load(str(HERE / f"{name}.rules"), [fault] if fault else [])


def _small(system: System, world: str) -> tuple[ExecutableModel, State]:
    small = WORLDS[world]
    made = World({**dict.fromkeys(system.sorts, 1), **small.sizes}, small.consts)
    return ExecutableModel(system, made), state_of(system, made, small.facts)


@functools.cache
def _explored(world: str) -> Found:
    """All states of a small world, or a path to a violation of an invariant or a claim that should be proved."""
    system = _load(world.partition("/")[0])
    machine, first = _small(system, world)
    true = [c for n, c in {**system.claims(), **system.invariants}.items() if system.expects.get(n) != "refuted"]
    return search(machine, [first], true)


def _id(attack: Attack) -> str:
    return f"{attack.system}-{attack.fault or 'as_it_is'}-{attack.claim}"


# The rules without faults.


@pytest.mark.parametrize("name", NAMES)
def test_what_is_claimed_is_proved(name: str) -> None:
    """Exactly the expected claims are proved, by both solvers and in the decidable fragment."""
    system = _load(name)
    assert system.warnings == ()
    proof = prove(system, Settings(jobs=1))
    assert proof.proved == {claim for claim, verdict in system.expects.items() if verdict == "proved"}


@pytest.mark.parametrize("world", sorted(WORLDS))
def test_small_worlds_agree_with_the_proofs(world: str) -> None:
    """All proved claims and invariants hold in every reachable state of a small world."""
    system = _load(world.partition("/")[0])
    machine, first = _small(system, world)
    assert all(machine.holds(first, c.body) for c in (*system.inits, *system.axioms)), "the world is not one of the rules"
    found = _explored(world)
    assert found.events is None, f"{found.claim} is false after {[e.label for e in found.events or ()]}"
    assert found.complete


@pytest.mark.parametrize("name", NAMES)
def test_every_step_can_be_taken(name: str) -> None:
    """Each step of a protocol is taken in one of its worlds: no proof is vacuous."""
    system = _load(name)
    taken: set[str] = set()
    for world in WORLDS:
        if world.partition("/")[0] == name:
            taken |= _explored(world).labels
    assert taken == {t.label for s in system.steps for t in s.transitions()}


# Faults.


def test_every_fault_and_every_false_claim_has_an_attack() -> None:
    """The table of attacks is complete and has no other rows."""
    wanted = {(name, fault) for name in NAMES for fault in _load(name).faults}
    assert {(a.system, a.fault) for a in ATTACKS if a.fault} == wanted
    assert {(a.system, a.claim) for a in ATTACKS if not a.fault} == {
        (name, claim) for name in NAMES for claim, verdict in _load(name).expects.items() if verdict == "refuted"
    }
    assert sorted(a.trace.name for a in ATTACKS) == sorted(p.name for p in (HERE / "traces").iterdir())


@pytest.mark.parametrize("attack", ATTACKS, ids=_id)
def test_traces_replay(attack: Attack) -> None:
    """The stored attack begins in an initial state, and makes the claim false with its last step; not without the fault."""
    system = _load(attack.system, attack.fault)
    trace = load_jsonl(attack.trace, system)
    faults = (attack.fault,) if attack.fault else ()
    assert (trace.claim, trace.faults, len(trace.events)) == (attack.claim, faults, attack.steps)
    claim = system.claims()[attack.claim]
    confirm(system, claim, trace)
    machine = ExecutableModel(system, trace.world)
    assert violated(system, claim, machine, trace, replay(trace, machine)) == attack.steps
    if attack.fault:
        sound = _load(attack.system)
        machine = ExecutableModel(sound, trace.world)
        try:
            states = replay(load_jsonl(attack.trace, sound), machine)
        except TraceError:
            return
        assert violated(sound, sound.claims()[attack.claim], machine, trace, states) is None


@pytest.mark.parametrize("attack", ATTACKS, ids=_id)
def test_no_attack_is_shorter(attack: Attack) -> None:
    """A breadth-first search of all states finds the violation at exactly this depth."""
    system = _load(attack.system, attack.fault)
    machine, first = _small(system, attack.small)
    found = search(machine, initial_states(machine, first), [system.claims()[attack.claim]])
    assert found.events is not None and len(found.events) == attack.steps


@pytest.mark.parametrize("attack", ATTACKS, ids=_id)
def test_the_attack_search_finds_it(attack: Attack) -> None:
    """`bulkhead attack` finds an attack of the same length."""
    trace = find_attack(_load(attack.system, attack.fault), attack.claim, (attack.fault,) if attack.fault else ())
    assert trace is not None and len(trace.events) <= attack.steps  # a smaller world may have a shorter one


# The README.


def test_the_readme_counts_right() -> None:
    """Its table has a row for each file, with the correct numbers of sorts, steps, claims, invariants and faults, and the
    shortest attack of each fault."""
    rows = {}
    for line in (HERE / "README.md").read_text(encoding="utf-8").splitlines():
        cells = [c.strip() for c in line.strip("|").split("|")]
        if cells and (named := re.fullmatch(r"`(\w+)\.rules`", cells[0])):
            rows[named[1]] = cells[2:8]
    assert sorted(rows) == NAMES
    for name, cells in rows.items():
        system = _load(name)
        counts = (
            len(set(system.sorts) - {"Call"}),
            len(system.steps),
            len(system.claims()),
            len(system.invariants),
            len(system.faults),
        )
        assert cells[:5] == [str(n) for n in counts], name
        least = {fault: min(a.steps for a in ATTACKS if (a.system, a.fault) == (name, fault)) for fault in system.faults}
        assert cells[5].partition(";")[0] == ", ".join(map(str, sorted(least.values()))), name
