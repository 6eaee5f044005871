"""The shipped systems: what they promise is proved, what they expect to fall falls, and every fault is noticed."""

from __future__ import annotations

from pathlib import Path

import pytest

from model import loader
from model.machine import Machine
from model.trace import TraceError, load_jsonl, replay, to_jsonl
from proofs.attack import find_attack
from proofs.induction import Settings, prove

FAST = Settings(limit=0.3, jobs=1, cross_check=False)
GT = Path(__file__).parent / "benchmarks" / "gt.rules"


def test_disaggregated_is_proved() -> None:
    system = loader.load("disaggregated")
    proof = prove(system, Settings(jobs=1, cross_check=False))
    assert proof.proved == set(system.claims())
    assert set(system.invariants) <= proof.standing


def test_shipped_rules_stay_in_the_decidable_fragment() -> None:
    for name in loader.shipped_systems():
        assert loader.load(name).warnings == ()


def test_monolithic_falls_in_two_steps_and_the_trace_replays(tmp_path: Path) -> None:
    system = loader.load("monolithic")
    trace = find_attack(system, "only_by_grant")
    assert trace is not None
    assert [e.label for e in trace.events] == ["open_privcmd", "privcmd_mmapbatch"]
    machine = Machine(system, trace.world)
    file = tmp_path / "trace.jsonl"
    file.write_text(to_jsonl(trace, system, machine))
    again = load_jsonl(file, system)
    assert replay(again, machine) == replay(trace, machine)


def test_there_is_no_such_attack_on_disaggregated() -> None:
    assert find_attack(loader.load("disaggregated"), "only_by_grant", max_depth=1) is None


@pytest.mark.parametrize("text, told", [("", "not a trace"), ("{", "not a line of JSON"), ("[1]\n", "JSON object"),
                                        ('{"format": "bulkhead-trace/1"}\n{}\n', "malformed trace")])
def test_malformed_traces_are_refused(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text(text)
    with pytest.raises(TraceError, match=told):
        load_jsonl(file, loader.load(str(GT)))


def test_gt_faults_have_attacks_of_known_length() -> None:
    """Five steps for the dropped grantee check, as other tools found, too; four through the builder's foreign map."""
    for fault, steps in (("b1", 5), ("b2", 4)):
        trace = find_attack(loader.load(str(GT), [fault]), "cover", (fault,))
        assert trace is not None and len(trace.events) == steps
        assert trace == find_attack(loader.load(str(GT), [fault]), "cover", (fault,)), "the search is deterministic"


def test_gt_has_as_many_states_as_other_tools_count() -> None:
    """Explored from its initial state with 3 domains, 2 frames, 1 reference and 1 process it has 5,816 states."""
    from model.world import World

    system = loader.load(str(GT))
    machine = Machine(system, World({"Call": 1, "Domain": 3, "Frame": 2, "Ref": 1, "Process": 1}, {"root": 0}))
    start = machine.empty_state()
    start[list(system.funcs).index("domain.alive")][0] = 1
    seen = {tuple(map(tuple, start))}
    todo = list(seen)
    while todo:
        state = todo.pop()
        for label in machine.transitions:
            names = [p.name for p in machine.transitions[label].params]
            for args in machine.choices(label):
                after = [list(t) for t in state]
                if machine.fire(after, label, dict(zip(names, args, strict=True))):
                    key = tuple(map(tuple, after))
                    if key not in seen:
                        seen.add(key)
                        todo.append(key)
    assert len(seen) == 5816
    assert all(machine.holds([list(t) for t in s], system.theorems["cover"].body) for s in list(seen)[:500])


@pytest.mark.parametrize("fault", sorted(loader.load("disaggregated").faults))
def test_every_fault_breaks_the_proof(fault: str) -> None:
    """Each fault changes one rule; the proof that stood without it has to fail on some claim or invariant."""
    system = loader.load("disaggregated", [fault])
    proof = prove(system, FAST)
    assert proof.proved != set(system.claims()) or not set(system.invariants) <= proof.standing
