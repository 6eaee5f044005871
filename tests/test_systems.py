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


@pytest.mark.parametrize("fault", [
    "bits_cleared_too_soon", "buffer_not_cleared", "copy_upgrade", "copy_without_grantee", "foreign_for_all",
    "foreign_frame", "frame_of_peer", "free_too_early", "gntdev_any_descriptor", "handle_reused", "load_elsewhere",
    "no_active_grantee_check"])
def test_every_fault_breaks_the_proof(fault: str) -> None:
    """Each fault changes one rule; the proof that stood without it has to fail on some claim or invariant."""
    system = loader.load("disaggregated", [fault])
    proof = prove(system, FAST)
    assert proof.proved != set(system.claims()) or not set(system.invariants) <= proof.standing
