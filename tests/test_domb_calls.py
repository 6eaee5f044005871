"""DomB's campaign consists only of calls: recorded, checked, and made again by either side alone and in lockstep."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from click.testing import CliRunner, Result

from bulkhead.impl.tools.xenconsoled import KEEP
from bulkhead.model.diagnostics import UsageError
from bulkhead.proofs.cli.diff import diff
from bulkhead.proofs.faults.catalogue_domb import BY_NAME
from bulkhead.proofs.faults.laying import installed
from bulkhead.proofs.refinement.calls import Call
from bulkhead.proofs.refinement.domb.exports import files
from bulkhead.proofs.refinement.domb.guest_library import LIBRARY
from bulkhead.proofs.refinement.domb.guest_memory import MEMORY
from bulkhead.proofs.refinement.domb.guests import ACTIONS
from bulkhead.proofs.refinement.domb.machine import DAEMON, FAIL, LOAD, STEP, TAKEN, Moment
from bulkhead.proofs.refinement.domb.operations import OF_DAEMONS, OF_DOMB_ITSELF, OF_NOBODY, OF_PROCESSES
from bulkhead.proofs.refinement.domb.signatures import OPERATIONS, TABLE
from bulkhead.proofs.refinement.domb.target import DombTarget
from bulkhead.proofs.refinement.domb.users import OF_USERS
from bulkhead.proofs.refinement.domb.view import View
from bulkhead.proofs.refinement.domb.workload.ending import end
from bulkhead.proofs.refinement.domb.workload.scheduler import Driver
from bulkhead.proofs.refinement.domb.world import NOBODY, Size, rules_for
from bulkhead.proofs.refinement.recording import Header, read
from tests.test_results import schema

MOVES = 500  # two machines


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A campaign, recorded in lockstep by the command."""
    path = tmp_path_factory.mktemp("domb") / "run.jsonl"
    words = ["--system", "disaggregated", "--ops", str(MOVES), "--seed", "3", "--jobs", "1", "--record", str(path)]
    result = CliRunner().invoke(diff, words, standalone_mode=False)
    assert result.return_value == 0, result.output
    return path


def play_it(path: Path, *words: str) -> Result:
    return CliRunner().invoke(diff, ["--play", str(path), *words], standalone_mode=False)


@pytest.mark.parametrize("on", ["rules", "implementation", "lockstep"])
def test_a_campaign_is_played_on_any_target(recording: Path, on: str) -> None:
    """Also calls within calls: while an honest tool waits, and between two loads of DomB."""
    result = play_it(recording, "--on", on, "--format", "json")
    told = json.loads(result.output)
    assert result.return_value == 0 and told["difference"] == "" and told["machines"] == 2 and told["calls"] > 500
    assert (told["rule_steps"] > 2000) == (on != "implementation")


def test_lines_of_a_recording_are_as_the_schema_says(recording: Path) -> None:
    lines = [json.loads(line) for line in recording.read_text().splitlines()]
    check = jsonschema.Draft202012Validator(schema("bulkhead-calls-1"))
    for line in lines[::17] + lines[:2]:
        check.validate(line)
    inner = [line for line in lines if line.get("op") == "moment"]
    assert inner and all(line["res"]["code"] == "okay" for line in inner), "calls are made in the midst of others"


def test_signatures_are_those_of_the_tables(recording: Path) -> None:
    """A file's calls are checked before they are made; every call of a campaign passes."""
    assert set(OPERATIONS) == {
        *ACTIONS,
        *MEMORY,
        *LIBRARY,
        *OF_DAEMONS,
        *OF_DOMB_ITSELF,
        *OF_NOBODY,
        *OF_PROCESSES,
        *OF_USERS,
        "machine",
    }
    events = read(recording)[1]
    assert not [TABLE.wrong(event.call) for event in events if event.call is not None and TABLE.wrong(event.call)]


def test_the_implementation_alone_needs_no_rules() -> None:
    words = ["--system", "disaggregated", "--ops", "250", "--seed", "5", "--jobs", "1", "--against", "nothing"]
    result = CliRunner().invoke(diff, words, standalone_mode=False)
    assert result.return_value == 0 and "DomB: 250 moves, 0 rule steps" in result.output
    assert "No mismatch" not in result.output


@pytest.mark.parametrize("on", ["implementation", "lockstep"])
def test_a_faulty_implementation_does_not_play(recording: Path, on: str) -> None:
    """Where the answer differs is told: the line, the call, both answers; in lockstep the rules notice first."""
    with installed(BY_NAME["told_at_once"]):
        result = play_it(recording, "--on", on)
    assert result.return_value == 1 and f"DIFFERENCE {recording}:" in result.output
    assert on == "lockstep" or "recorded" in result.output


def test_nobody_disturbs_the_end(tmp_path: Path) -> None:
    """The last tool has all guests destroyed: a write into its ring, at any load of DomB, would leave them there."""
    files(tmp_path)
    target = DombTarget(rules_for(Size()), 1, tmp_path / "exported", rules_on=False)
    driver = Driver(View(target), target, 1)
    driver.call("", "spawn")
    acted: list[str] = []
    driver.moments.scribble = driver.moments.race = lambda: acted.append("a write")
    for number in range(5000):
        driver.moments(Moment(number, LOAD, ""))
    assert acted
    acted.clear()
    driver.moments.peace()
    for kind in (LOAD, TAKEN, DAEMON, FAIL, STEP):
        for number in range(5000):
            driver.moments(Moment(number, kind, ""))
    assert not acted and not target.crashing


ASKS = {"xl": True, "name": "one", "kernel": "kernel0", "ramdisk": "", "pages": 64, "cmdline": "", "then": []}
ASKS |= {"patient": True, "waits": 99}


def test_no_guest_comes_into_being_that_the_rules_have_no_domain_for(tmp_path: Path) -> None:
    """The rules know domains up to a number. Tools have guest after guest built and destroyed, and a process keeps a page of
    each, so that none goes; there is memory for more, but the creation of the next one fails."""
    files(tmp_path)
    target = DombTarget(rules_for(Size()), 1, tmp_path / "exported")
    driver = Driver(View(target), target, 1)
    moments, steps, tools = driver.moments, list[str](), driver.tools
    moments.trouble, moments.mortal = "", False
    moments.scribble = moments.race = lambda: None
    moments.waits = lambda space: domb_steps()

    def domb_steps() -> None:
        target.carry_out(Call("step", "d1", {}))

    def at(moment: Moment) -> None:
        assert set(target.rig.xen.domains) <= set(range(NOBODY))
        moments(moment)
        steps.append(moment.what if moment.kind == STEP else "")

    target.meanwhile = at
    keeper = target.processes[driver.call("", "spawn").given]
    for domid in range(2, NOBODY + 1):
        who = target.processes[driver.call("", "spawn").given]
        steps.clear()
        tools.of(who, "use_tool", **ASKS)
        assert steps.count("create") == 1, "DomB has begun to build"
        assert (domid in target.service.guests) == (domid < NOBODY)
        if domid < NOBODY:
            assert tools.of(keeper, "map_grant", dom=domid, ref=0, prot=1).code == "okay"
            tools.connect(who, driver.view.offer)
            tools.end(who, domid)
            domb_steps()
            assert target.rig.xen.domains[domid].is_dying
        tools.kill(who)
        domb_steps()


HEADER = Header("disaggregated", 1, True).line()
BEGIN = '{"i":0,"op":"machine","a":{"seed":1},"res":{"code":"okay"}}\n'


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ('"op":"mmu_update","a":{}', ":3: there is no operation `mmu_update`"),
        ('"op":"step","a":{"by":"p7"}', ":3: step: the caller `by` is d1, which is DomB"),
        ('"op":"ring_put","a":{"by":"d1","ring":"console","bytes":""}', ":3: ring_put: the caller `by` is a guest"),
        ('"op":"connect","a":{"by":"p9","dom":1,"ref":8}', ":3: connect has the arguments dom, port, ref"),
        ('"op":"poke","a":{"by":"p9","addr":-1,"bytes":""}', ":3: poke: `addr` is a number from 0"),
        ('"op":"poke","a":{"by":"p9","addr":1,"bytes":"0g"}', ":3: poke: `bytes` is bytes in hexadecimal"),
        ('"op":"reply","a":{"by":"p9","op":1,"number":1,"status":0,"body":[[1]]}', ":3: reply: `body` is bytes"),
        ('"op":"ring_poke","a":{"by":"d2","ring":"console","at":4096,"bytes":""}', ":3: ring_poke: `at` is a place"),
        ('"op":"write_entry","a":{"by":"d2","ref":0,"flags":2,"dom":0,"mfn":0}', ":3: write_entry: `flags` is 0"),
        ('"op":"claims","a":{"by":"d1"}', ":3: claims: the caller `by` is nobody"),
    ],
)
def test_broken_calls_are_named_by_line(tmp_path: Path, call: str, said: str) -> None:
    """One message with the place, as a bad use of the command; nothing is done."""
    path = tmp_path / "calls.jsonl"
    path.write_text(HEADER + BEGIN + '{"i":1,' + call + "}\n")
    result = play_it(path, "--on", "lockstep")
    assert isinstance(result.exception, UsageError) and said in str(result.exception) and str(path) in str(result.exception)


@pytest.mark.parametrize(
    "calls",
    [
        ['"op":"moment","a":{"number":3}'],
        ['"op":"fail","a":{"by":"d1","errno":12}', '"op":"crash","a":{"by":"d1"}'],
        ['"op":"receive","a":{"by":"p9"}', '"op":"unmap_grant","a":{"by":"p9","addr":5}'],
        ['"op":"spawn","a":{}', '"op":"unmap_grant","a":{"by":"p9","addr":4096}', '"op":"disconnect","a":{"by":"p9"}'],
        ['"op":"ring_put","a":{"by":"d6","ring":"console","bytes":"00"}'],
        ['"op":"poke","a":{"by":"p7","addr":4096,"bytes":"00"}'],
    ],
)
def test_calls_of_nobody_there_are_not_done(tmp_path: Path, calls: list[str]) -> None:
    """A file may name whom there is none of, or a moment that is not now: the answer says so."""
    path = tmp_path / "calls.jsonl"
    lines = [f'{{"i":{i},{call},"res":{{"code":"not done"}}}}\n' for i, call in enumerate(calls, 1)]
    if "spawn" in calls[0]:
        lines[0] = lines[0].replace('{"code":"not done"}', '{"code":"okay","given":9}')
    path.write_text(HEADER + BEGIN + "".join(lines))
    result = play_it(path, "--on", "lockstep")
    assert result.return_value == 0, result.output


def test_an_episode_ends_although_the_ring_was_left_without_room(tmp_path: Path) -> None:
    """A process wrote an index into the ring that DomB offers and went: the last tool's message does not fit, it connects
    anew, and the guest that was built is destroyed."""
    files(tmp_path)
    machine = DombTarget(rules_for(Size()), 1, tmp_path / "exported")
    driver = Driver(View(machine), machine, 1)
    driver.domb()
    spawned = machine.carry_out(Call("spawn", "", {})).given
    driver.tools.build_small(machine.processes[spawned])
    driver.domb()
    offer = driver.view.offer
    assert driver.view.built and offer is not None
    spoiler = f"p{spawned}"
    page = machine.carry_out(Call("map_grant", spoiler, {"dom": offer.domid, "ref": offer.ring_ref, "prot": 3})).given
    assert (
        machine.carry_out(Call("poke", spoiler, {"addr": page, "bytes": (1 << 20).to_bytes(4, "little").hex()})).code
        == "okay"
    )
    machine.carry_out(Call("kill", spoiler, {}))
    end(driver)
    assert machine.book is not None
    machine.book.close()


def test_input_that_is_cut_is_cut_after_what_went_out(tmp_path: Path) -> None:
    """xenconsoled keeps 64 KiB of a guest's input. A ring is served between two inputs, and nothing is compared between."""
    files(tmp_path)
    machine = DombTarget(rules_for(Size()), 1, tmp_path / "exported", compare_every=1000)
    driver = Driver(View(machine), machine, 1)
    driver.domb()
    driver.tools.build_small(machine.processes[machine.carry_out(Call("spawn", "", {})).given])
    driver.domb()
    daemon = driver.view.consoled
    assert daemon is not None
    (domid,) = daemon.consoles
    for text in (b"a" * KEEP, b"b" * KEEP):
        daemon.type(domid, text)
        daemon.step()
    machine.compare(now=True)
    end(driver)
    assert machine.book is not None
    machine.book.close()
