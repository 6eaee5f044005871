"""Attacks and counterexamples to induction on the small grant-table system, checked against the executable model."""

from __future__ import annotations

import functools
import itertools
import math
from pathlib import Path

import pytest

from bulkhead.model.diagnostics import UsageError
from bulkhead.model.executable import ExecutableModel
from bulkhead.model.ir import System
from bulkhead.model.loader import load
from bulkhead.model.trace import Trace, replay
from bulkhead.model.world import State, World
from bulkhead.proofs.report.explain_cti import describe
from bulkhead.proofs.theorems.attack import find_attack
from bulkhead.proofs.theorems.bmc import Search
from bulkhead.proofs.theorems.cti import counterexample
from bulkhead.proofs.theorems.scope import first_scope
from bulkhead.proofs.theorems.solvers import Z3Session

GT = str(Path(__file__).parent / "benchmarks" / "gt.rules")
PLAIN = load(GT)
FAULTY = {fault: load(GT, [fault]) for fault in ("b1", "b2")}


@pytest.mark.parametrize("limit", [0.001, math.inf])
def test_a_bounded_query_is_given_up_and_binds_no_other(limit: float) -> None:
    """Z3 keeps its bounds for the whole process; one that is set for good stops the next text in the middle."""
    system = FAULTY["b1"]
    search = Search(system, system.theorems["cover"], first_scope(system), limit)
    search.effort(1)
    for _ in range(3):
        search.deepen()
        assert search.answer(system.theorems["cover"]) in ("unknown", "unsat")
    session = Z3Session()
    session.tell("(declare-sort T 0)(declare-fun p (T) Bool)")
    asked = "(assert (forall ((x T)) (p x)))(assert (exists ((x T)) (not (p x))))"
    assert session.ask(asked).verdict == "unsat"
    assert find_attack(system, "cover", ("b1",)) is not None


@functools.cache
def attack(fault: str) -> Trace:
    trace = find_attack(FAULTY[fault], "cover", (fault,))
    assert trace is not None
    return trace


def depth_by_walking(system: System, world: World, initial: State) -> int:
    """The length of a shortest attack on `cover` from `initial`, by visiting every state, without a solver."""
    machine = ExecutableModel(system, world)
    body = system.theorems["cover"].body
    calls = [
        (label, dict(zip([p.name for p in t.params], values, strict=True)))
        for label, t in machine.transitions.items()
        for values in machine.choices(label)
    ]
    seen = {str(initial)}
    layer = [initial]
    for depth in itertools.count():
        if any(not machine.holds(s, body) for s in layer):
            return depth
        found = []
        for state in layer:
            for label, args in calls:
                after = [list(t) for t in state]
                if machine.fire(after, label, args) and str(after) not in seen:
                    seen.add(str(after))
                    found.append(after)
        layer = found
        assert layer, "no attack in this world"
    raise AssertionError


@pytest.mark.parametrize(
    ("fault", "labels"),
    [
        ("b1", ["create", "finish", "alloc", "permit", "map"]),
        ("b2", ["create", "alloc", "foreign_map", "map"]),
    ],
)
def test_shortest_attack(fault: str, labels: list[str]) -> None:
    system, trace = FAULTY[fault], attack(fault)
    assert [e.label for e in trace.events] == labels
    assert trace.faults == (fault,) and trace.claim == "cover"
    machine = ExecutableModel(system, trace.world)
    states = replay(trace, machine)
    body = system.theorems["cover"].body
    assert [machine.holds(s, body) for s in states] == [True] * len(labels) + [False]
    assert all(machine.holds(states[0], c.body) for c in system.inits)


@pytest.mark.parametrize("fault", ["b1", "b2"])
def test_nothing_shorter(fault: str) -> None:
    trace = attack(fault)
    assert depth_by_walking(FAULTY[fault], trace.world, trace.initial) == len(trace.events)


def test_the_world_is_small() -> None:
    sizes = attack("b1").world.sizes
    assert sizes["Domain"] == 2 and sizes["Frame"] == sizes["Ref"] == sizes["Process"] == 1


def test_no_attack_without_fault() -> None:
    assert find_attack(PLAIN, "cover", max_depth=4) is None


def test_two_runs_agree() -> None:
    assert attack("b2") == find_attack(FAULTY["b2"], "cover", ("b2",))


def test_counterexample_of_the_dropped_check() -> None:
    system = FAULTY["b1"]
    found = counterexample(system, "map", "umap_gr", [*system.invariants])
    assert found is not None and found.event.label == "map"
    machine = ExecutableModel(system, found.world)
    before, after = found.before, [list(t) for t in found.before]
    assert all(machine.holds(before, c.body) for c in system.invariants.values())
    assert machine.fire(after, "map", found.event.args) and after == found.after
    assert not machine.holds(after, system.invariants["umap_gr"].body)
    # Someone other than Dom0 is granted a frame, so it is owned, so its owner is alive: nothing else is needed.
    names = list(system.funcs)
    assert {names[k]: sum(t) for k, t in enumerate(before) if any(t)} == {"domain.alive": 1, "owns": 1, "grants": 1}
    assert sum(found.world.sizes.values()) == len(system.sorts) + 1
    text = describe(found, system)
    assert "map(" in text and "umap_gr" in text
    assert sum("->" in line for line in text.splitlines()) == 1
    assert found == counterexample(system, "map", "umap_gr", [f"invariant/{n}" for n in system.invariants])


def test_no_counterexample_when_inductive() -> None:
    assert counterexample(PLAIN, "map", "umap_gr", [*PLAIN.invariants]) is None


def test_counterexample_behind_a_shared_label(tmp_path: Path) -> None:
    rules = """component twin "Two checks of one step that undo differently under one code."
sort Domain "a domain"
state bad[Domain]: bool
state p[Domain]: bool
state q[Domain]: bool
init forall d: Domain. not bad[d]
internal act(d: Domain)
    require p[d] else EINVAL
        undo set bad[d] = false end
    require q[d] else EINVAL
        undo set bad[d] = true end
    set p[d] = true
"Nothing is ever bad."
theorem never_bad forall d: Domain. not bad[d]
system twin "As a system of its own."
    uses twin
    expect refuted never_bad
"""
    (tmp_path / "twin.rules").write_text(rules)
    system = load(str(tmp_path / "twin.rules"))
    label = list(ExecutableModel(system, World({"Domain": 1, "Call": 1}, {})).transitions)[-1]
    found = counterexample(system, label, "never_bad", ["never_bad"])
    assert found is not None and "bad[domain0]: false -> true" in describe(found, system)


@pytest.mark.parametrize(
    ("label", "claim", "assumed"),
    [
        ("nonesuch", "umap_gr", []),
        ("map", "nonesuch", []),
        ("map", "umap_gr", ["nonesuch"]),
    ],
)
def test_unknown_names(label: str, claim: str, assumed: list[str]) -> None:
    with pytest.raises(UsageError, match="nonesuch"):
        counterexample(PLAIN, label, claim, assumed)
