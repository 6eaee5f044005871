"""A workload consists only of calls: the same calls on the rules alone, the implementation alone, on both in
lockstep, and recorded to and replayed from a file."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from click.testing import CliRunner, Result

from bulkhead.impl.xen import abi, grant_map
from bulkhead.model.diagnostics import UsageError
from bulkhead.proofs.cli.diff import diff
from bulkhead.proofs.faults.catalogue import BY_NAME
from bulkhead.proofs.faults.laying import installed
from bulkhead.proofs.refinement.calls import Answer, Call, Target, guest_call, run
from bulkhead.proofs.refinement.dom0.operations import OPERATIONS as DOM0
from bulkhead.proofs.refinement.interleaved import OWN, Interleaved
from bulkhead.proofs.refinement.lockstep.at_once import AT_ONCE
from bulkhead.proofs.refinement.lockstep.lockstep import Lockstep
from bulkhead.proofs.refinement.lockstep.operations import OPERATIONS
from bulkhead.proofs.refinement.lockstep.rule_steps import Mismatch
from bulkhead.proofs.refinement.lockstep.spec_world import Size, rules_for
from bulkhead.proofs.refinement.recording import Header, Recorder, calls, read
from bulkhead.proofs.refinement.signatures import SIGNATURES, wrong
from bulkhead.proofs.refinement.targets import Implementation, RulesAlone
from bulkhead.proofs.refinement.workload.scheduler import Driver
from bulkhead.proofs.refinement.workload.script import Script
from bulkhead.proofs.replay.driver import read_recording
from tests.test_results import schema
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
    assert alone.lockstep.spec_state.steps == 0


def test_lockstep_answers_as_each_alone(by_rules: list[Answer]) -> None:
    both = Implementation(rules_for(Size()), SEED, rules_on=True)
    assert run(CALLS, both) == by_rules
    both.lockstep.check_claims()
    assert both.lockstep.spec_state.steps > COUNT


def test_another_seed_is_another_workload() -> None:
    assert list(Script(3).calls(100)) != CALLS[:100] == list(Script(SEED).calls(COUNT))[:100]


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of calls to the implementation and its answers."""
    path = tmp_path_factory.mktemp("calls") / "calls.jsonl"
    lines = [Header("", SEED).line()]
    run(CALLS, Recorder(Implementation(rules_for(Size()), SEED, rules_on=False), lines.append))
    path.write_text("".join(lines))
    return path


def replayed(recording: Path, target: Target) -> list[tuple[Call, Answer, Answer]]:
    """Recorded calls that the target answers otherwise: recorded, and now."""
    found = ((call, before, target.carry_out(call)) for call, before in calls(read(recording)[1]))
    return [(call, before, now) for call, before, now in found if before != now]


def test_recorded_calls_are_the_calls(recording: Path) -> None:
    header, events = read(recording)
    assert [call for call, _ in calls(events)] == CALLS and header == Header("", SEED, False)


@pytest.mark.parametrize("target", ["rules", "implementation", "both"])
def test_a_file_is_replayed_on_any_target(recording: Path, target: str) -> None:
    rules = rules_for(Size())
    made = RulesAlone(rules) if target == "rules" else Implementation(rules, SEED, rules_on=target == "both")
    assert replayed(recording, made) == []


def test_a_fault_of_the_implementation_is_noticed(recording: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaying a file on an implementation with a fault names the first call with another answer; lockstep raises."""
    monkeypatch.setattr(grant_map, "GNTST_BAD_DOMAIN", abi.GNTST_GENERAL_ERROR)
    call, before, now = replayed(recording, Implementation(rules_for(Size()), SEED, rules_on=False))[0]
    assert call.operation == "map_grant_ref" and (before.code, now.code) == ("GNTST_bad_domain", "GNTST_general_error")
    with pytest.raises(Mismatch, match="map_grant_ref"):
        run(CALLS, Implementation(rules_for(Size()), SEED, rules_on=True))


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A campaign with calls in flight, recorded in lockstep by the command; two episodes, one of them with a policy."""
    path = tmp_path_factory.mktemp("played") / "run.jsonl"
    words = ["--system", "monolithic", "--ops", "1900", "--seed", "9", "--jobs", "1", "--record", str(path)]
    result = CliRunner().invoke(diff, words, standalone_mode=False)
    assert result.return_value == 0, result.output
    return path


def play_it(path: Path, *words: str) -> Result:
    return CliRunner().invoke(diff, ["--play", str(path), *words], standalone_mode=False)


@pytest.mark.parametrize("on", ["rules", "implementation", "lockstep"])
def test_a_campaign_is_played_on_any_target(played: Path, on: str) -> None:
    """The same file, made once in lockstep: every answer is as recorded, each side alone."""
    result = play_it(played, "--on", on, "--format", "json")
    told = json.loads(result.output)
    assert result.return_value == 0 and told["difference"] == "" and told["machines"] == 2 and told["calls"] > 3000
    assert (told["rule_steps"] > 3000) == (on != "implementation")
    jsonschema.validate(told, schema("bulkhead-play-1"))


def test_lines_of_a_recording_are_as_the_schema_says(played: Path) -> None:
    lines = [json.loads(line) for line in played.read_text().splitlines()]
    check = jsonschema.Draft202012Validator(schema("bulkhead-calls-1"))
    for line in lines[::7] + lines[:2]:
        check.validate(line)
    parts = [line for line in lines if "op" in line and "res" not in line]
    assert parts, "calls of Dom0's kernel stay in flight while others are made"


def test_signatures_are_those_of_the_tables(played: Path) -> None:
    """A file's calls are checked before they are made: every operation has its arguments, and no other has any."""
    assert set(SIGNATURES) == {*OPERATIONS, *AT_ONCE, *OWN, *DOM0, "machine"}
    events = read(played)[1]
    assert not [wrong(event.call) for event in events if event.call is not None and wrong(event.call)]


@pytest.mark.parametrize("on", ["implementation", "lockstep"])
def test_a_faulty_implementation_does_not_play(played: Path, on: str) -> None:
    """Where the answer differs is told: the line, the call, both answers."""
    with installed(BY_NAME["map_needs_host"]):  # a map that any campaign makes soon
        result = play_it(played, "--on", on)
    assert result.return_value == 1 and f"DIFFERENCE {played}:" in result.output
    told = {"implementation": (": recorded ", ", now "), "lockstep": ("map_grant_ref elements=", "the rules say ")}
    assert all(words in result.output for words in told[on])


def test_rules_that_answer_otherwise_do_not_play(played: Path, tmp_path: Path) -> None:
    """Of a step that was recorded with another code the place is told, and what the rules say."""
    path = tmp_path / "run.jsonl"
    before, after = (f'"{code}"]],"res":{{"code":"in flight"}}' for code in ("okay", "EPERM"))
    path.write_text(played.read_text().replace(before, after, 1))
    result = play_it(path, "--on", "rules")
    assert result.return_value == 1 and "recorded EPERM, now okay" in result.output and f"{path}:" in result.output


HEADER = Header("monolithic", 1, True).line()
BEGIN = '{"i":0,"op":"machine","a":{"seed":1},"res":{"code":"okay"}}\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ":1: not JSON"),
        ("{}\n", ":1: the format is None"),
        ('{"format":"bulkhead-calls/1","seed":"x"}\n', ":1: the header needs"),
        ('{"format":"bulkhead-calls/1"}\n', "calls of no campaign"),
        (HEADER + '{"op": 3}\n', ":2: a line needs the number"),
        (HEADER + '{"i":0,"op":"end","a":[]}\n', ":2: a call needs"),
        (HEADER + '{"i":0,"op":"end","a":{"by":3}}\n', ":2: a call's caller"),
        (HEADER + BEGIN + '{"i":0,"op":"end","a":{"by":"root"}}\n', ":3: the caller `by`"),
        (HEADER + '{"i":0,"op":"end","a":{},"res":3}\n', ":2: a result"),
        (HEADER + '{"i":0,"op":"end","a":{},"steps":[3]}\n', ":2: a step is"),
        (HEADER + "nonsense\n", ":2: not JSON"),
        (HEADER + '{"i":0,"op":"end","a":{}}\n', ":2: the first call has to be `machine`"),
        (HEADER + BEGIN + '{"i":1,"op":"sent","a":{}}\n', ":3: there is no operation `sent`"),
        (HEADER + BEGIN + '{"i":1,"op":"close","a":{"by":"p3"}}\n', ":3: close has the arguments fd"),
        (HEADER + BEGIN + '{"i":1,"op":"close","a":{"by":"p3","fd":"x"}}\n', ":3: close: `fd` is a number"),
        (HEADER + BEGIN + '{"i":1,"res":{"code":"okay"}}\n', ":3: the end of a call that has not begun"),
    ],
)
def test_broken_files_are_named_by_line(tmp_path: Path, text: str, said: str) -> None:
    """One message with the place, as a bad use of the command."""
    path = tmp_path / "calls.jsonl"
    path.write_text(text)
    result = play_it(path, "--on", "lockstep")
    assert isinstance(result.exception, UsageError) and said in str(result.exception)
    assert str(path) in str(result.exception)


@pytest.mark.parametrize(
    "words",
    [
        ["--play", "x.jsonl", "--ops", "5"],
        ["--play", "x.jsonl", "--record", "y.jsonl"],
        ["--play", "x.jsonl", "--against", "nothing"],
        ["--on", "rules"],
        ["--record", "x.jsonl"],
        ["--play", "."],
    ],
)
def test_options_that_do_not_go_together_are_refused(words: list[str]) -> None:
    """Nothing is ignored silently, and nothing is run."""
    result = CliRunner().invoke(diff, words, standalone_mode=False)
    assert isinstance(result.exception, UsageError) and result.output == ""


def test_a_recording_without_rules_is_not_for_rules(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    path.write_text(Header("monolithic", 1, False).line() + BEGIN)
    assert "recorded without the rules" in str(play_it(path, "--on", "rules").exception)


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
    listener = Listener(Lockstep(rules_for(Size()), 6, full_every=0))
    driver = Driver(listener.view, listener, 6)
    while listener.lockstep.calls < 4000:
        driver.move()
    driver.end()
    rare = {"mmu_update_elsewhere", "evtchn_reset", "deny", "privcmd_restrict", "flush_all"}
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
        both.carry_out(Call("createdomain", "d0", {"domid": domid, "max_maptrack": 1, "greedy": False, "pvh": False}))
    both.carry_out(guest_call(2, 0, "evtchn_alloc_unbound", dom=abi.DOMID_SELF, remote=1, gives="port 0"))
    both.lockstep.rig.policy.denied.add((1, 2))
    both.lockstep.spec_state.T["xsm_event"][1 * 5 + 2] = 0
    bind = guest_call(1, 0, "evtchn_bind_interdomain", dom=2, port="port 0")
    assert both.carry_out(bind) == Answer("EPERM")
    opening = guest_call(1, 0, "evtchn_alloc_unbound", dom=abi.DOMID_SELF, remote=3)
    while both.carry_out(opening) == Answer("okay"):
        pass
    assert both.carry_out(bind) == Answer("ENOSPC")
