"""A workload consists only of calls: the same calls on the rules alone, the implementation alone, on both in
lockstep, and recorded to and replayed from a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bulkhead.impl.xen import abi, grant_map
from bulkhead.proofs.refinement import calls as files
from bulkhead.proofs.refinement.calls import Answer, BadCalls, Call, Recorder, guest_call, read, replay, run
from bulkhead.proofs.refinement.dom0.operations import OPERATIONS as DOM0
from bulkhead.proofs.refinement.interleaved import OWN, Interleaved
from bulkhead.proofs.refinement.lockstep.lockstep import Lockstep
from bulkhead.proofs.refinement.lockstep.operations import AT_ONCE, OPERATIONS
from bulkhead.proofs.refinement.lockstep.spec_state import Mismatch
from bulkhead.proofs.refinement.lockstep.spec_world import Size, rules_for
from bulkhead.proofs.refinement.targets import Implementation, RulesAlone
from bulkhead.proofs.refinement.workload.scheduler import Driver
from bulkhead.proofs.refinement.workload.script import Script
from bulkhead.proofs.replay.driver import read_recording
from tests.xen.again import call_of

SEED, COUNT = 2, 1500
CALLS = list(Script(SEED).calls(COUNT))


@pytest.fixture(scope="module")
def by_rules() -> list[Answer]:
    """The answers of the rules."""
    return run(CALLS, RulesAlone(rules_for(Size())))


def test_the_rules_alone_answer(by_rules: list[Answer]) -> None:
    """Enough answers of each kind that the other tests are meaningful."""
    codes = [answer.code for answer in by_rules]
    assert len(codes) >= COUNT and codes.count("okay") > 400
    for operation in {call.operation for call in CALLS} - {"swap_grant_ref"}:
        assert "okay" in {code for call, code in zip(CALLS, codes, strict=True) if call.operation == operation}, operation
    assert {
        "GNTST_general_error",
        "GNTST_bad_domain",
        "GNTST_bad_page",
        "GNTST_eagain",
        "GNTST_bad_copy_arg",
        "EBUSY",
        "ENOSPC",
        "not done",
        "unbound",
    } <= set(codes)


def test_the_implementation_alone_answers_as_the_rules(by_rules: list[Answer]) -> None:
    """The targets are independent, and each picks its own frames, handles and ports: the answers are the same."""
    alone = Implementation(rules_for(Size()), SEED, rules_on=False)
    assert run(CALLS, alone) == by_rules
    assert alone.b.spec_state.steps == 0


def test_lockstep_answers_as_each_alone(by_rules: list[Answer]) -> None:
    both = Implementation(rules_for(Size()), SEED, rules_on=True)
    assert run(CALLS, both) == by_rules
    both.b.check_claims()
    assert both.b.spec_state.steps > COUNT


def test_another_seed_is_another_workload() -> None:
    assert list(Script(3).calls(100)) != CALLS[:100] == list(Script(SEED).calls(COUNT))[:100]


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of calls to the implementation and its answers."""
    path = tmp_path_factory.mktemp("calls") / "calls.jsonl"
    recorder = Recorder(Implementation(rules_for(Size()), SEED, rules_on=False))
    run(CALLS, recorder)
    recorder.write(path, SEED)
    return path


def test_recorded_calls_are_the_calls(recording: Path) -> None:
    assert [call for call, _ in read(recording)] == CALLS
    assert json.loads(recording.read_text().splitlines()[0]) == {"format": files.FORMAT, "seed": SEED}


@pytest.mark.parametrize("target", ["rules", "implementation", "both"])
def test_a_file_is_replayed_on_any_target(recording: Path, target: str) -> None:
    rules = rules_for(Size())
    made = RulesAlone(rules) if target == "rules" else Implementation(rules, SEED, rules_on=target == "both")
    assert list(replay(read(recording), made)) == []


def test_a_fault_of_the_implementation_is_noticed(recording: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaying a file on an implementation with a fault names the first call with another answer; lockstep raises."""
    monkeypatch.setattr(grant_map, "GNTST_BAD_DOMAIN", abi.GNTST_GENERAL_ERROR)
    found = list(replay(read(recording), Implementation(rules_for(Size()), SEED, rules_on=False)))
    assert found and CALLS[found[0].number] == found[0].call and found[0].call.operation == "map_grant_ref"
    assert (found[0].recorded.code, found[0].answer.code) == ("GNTST_bad_domain", "GNTST_general_error")
    with pytest.raises(Mismatch, match="map_grant_ref"):
        run(CALLS, Implementation(rules_for(Size()), SEED, rules_on=True))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not a file of calls"),
        ("{}\n", ":1: the format is not"),
        ('{"format": "bulkhead-calls/1"}\n{"op": 3}\n', ":2: a line is an object with a result"),
        ('{"format": "bulkhead-calls/1"}\n{"op": "copy", "a": [], "res": {}}\n', ":2: a call needs"),
        ('{"format": "bulkhead-calls/1"}\nnonsense\n', ":2:"),
    ],
)
def test_broken_files_are_named_by_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "calls.jsonl"
    path.write_text(text)
    with pytest.raises(BadCalls, match=said):
        read(path)


class Listener(Interleaved):
    """A target that listens to what a campaign says."""

    def __init__(self, lockstep: Lockstep) -> None:
        super().__init__(lockstep)
        self.heard: list[Call] = []

    def carry_out(self, call: Call) -> Answer:
        self.heard.append(call)
        return super().carry_out(call)


def test_campaigns_say_calls_that_are_plain_data() -> None:
    """All that guests, processes and the toolstack do in a campaign goes through the target, and each call survives JSON."""
    listener = Listener(Lockstep(rules_for(Size()), 4, full_every=0))
    driver = Driver(listener.view, listener, 4)
    while listener.b.calls < 3000:
        driver.move()
    driver.end()
    rare = {"mmu_update_elsewhere", "evtchn_reset", "deny", "privcmd_restrict"}
    assert {call.operation for call in listener.heard} >= {*OPERATIONS, *AT_ONCE, *OWN, *DOM0} - rare
    for call in listener.heard:
        told = json.loads(json.dumps(call.to_json()))
        assert json.dumps(Call.from_json(told).to_json()) == json.dumps(call.to_json())


def test_calls_of_real_xen_have_the_same_shape() -> None:
    """Every call of the recordings is a Call, and nothing of it is lost; so live Xen can be one more target."""
    for path in sorted((Path(__file__).parent / "recorded").glob("*.jsonl*")):
        _, lines = read_recording(path)
        for line in lines:
            call, theirs = Call.from_json(line), call_of(line)
            assert call.to_json() == {"op": theirs.op, "a": theirs.args}


def test_a_full_table_is_looked_at_before_the_policy() -> None:
    """bind_interdomain with no port left says ENOSPC, also to one whom the policy does not let at the peer: Xen looks for a
    port first. Lockstep raises where the rules say otherwise."""
    both = Implementation(rules_for(Size()), 1, rules_on=True)
    for domid in (1, 2):
        both.carry_out(Call("createdomain", "d0", {"domid": domid, "max_maptrack": 1, "greedy": False}))
    both.carry_out(guest_call(2, 0, "evtchn_alloc_unbound", dom=abi.DOMID_SELF, remote=1, gives="port 0"))
    both.b.rig.policy.denied.add((1, 2))
    both.b.spec_state.T["xsm_event"][1 * 5 + 2] = 0
    bind = guest_call(1, 0, "evtchn_bind_interdomain", dom=2, port="port 0")
    assert both.carry_out(bind) == Answer("EPERM")
    opening = guest_call(1, 0, "evtchn_alloc_unbound", dom=abi.DOMID_SELF, remote=3)
    while both.carry_out(opening) == Answer("okay"):
        pass
    assert both.carry_out(bind) == Answer("ENOSPC")
