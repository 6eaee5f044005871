"""Choices by `= *`, outside of proofs: places and their picks, traces that record them, limits, all searches.

`traps/` and the random systems of `oracle/` test the verdicts on such rules.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bulkhead.model.caller import OKAY, caller_of
from bulkhead.model.choices import MOST, ways_to_choose
from bulkhead.model.executable import ExecutableModel
from bulkhead.model.ir import System
from bulkhead.model.loader import load
from bulkhead.model.trace import TraceError, load_jsonl, replay, to_jsonl
from bulkhead.model.world import World
from bulkhead.proofs.cli.__main__ import run
from bulkhead.proofs.theorems.attack import Hunt, directed, find_attack
from bulkhead.proofs.theorems.bmc import Search
from bulkhead.proofs.theorems.export import export
from bulkhead.proofs.theorems.shortening import confirm
from bulkhead.proofs.theorems.unrolling import Unrolling
from bulkhead.proofs.theorems.waypoints import Doubts

RULES = """component c "c"
sort Node "n"
enum Side = left | right | ahead
state sent[Node, Side]: Node
state ready: bool
init not ready
init forall n: Node, s: Side. sent[n, s] = n
internal send(n: Node)
    set sent[n, s] = * for all s: Side
    require next(exists m: Node. m != n and sent[n, left] = m and sent[n, right] = m)
internal get_ready()
    pick n, m: Node where n != m and sent[n, left] = m and sent[m, left] = n
    require sent[n, right] != sent[m, right]
    set ready = true
invariant not_to_itself forall n: Node. sent[n, left] = n or sent[n, left] = sent[n, right]
theorem never_ready not ready
system y "y" uses c expect refuted never_ready
"""
PLACES = {"*sent[left]", "*sent[right]", "*sent[ahead]"}


@pytest.fixture
def system(tmp_path: Path) -> System:
    path = tmp_path / "choices.rules"
    path.write_text(RULES)
    return load(str(path))


def test_a_trace_records_what_was_chosen_and_replays_only_so(system: System, tmp_path: Path) -> None:
    trace = find_attack(system, "never_ready")
    assert trace is not None and [e.label for e in trace.events] == ["send", "send", "get_ready"]
    machine = ExecutableModel(system, trace.world)
    lines = to_jsonl(trace, system, machine).splitlines()
    chosen = {k: v for k, v in json.loads(lines[2])["args"].items() if k.startswith("*")}
    assert set(chosen) == PLACES and chosen["*sent[left]"] == chosen["*sent[right]"]
    path = tmp_path / "trace.jsonl"
    path.write_text("\n".join(lines))
    assert replay(load_jsonl(path, system), machine) == replay(trace, machine)
    event = json.loads(lines[2])
    event["args"]["*sent[left]"] = event["args"]["n"]  # forbidden by the check of the state after the step
    path.write_text("\n".join([*lines[:2], json.dumps(event), *lines[3:]]))
    with pytest.raises(TraceError):
        replay(load_jsonl(path, system), machine)
    del event["args"]["*sent[left]"]
    path.write_text("\n".join([*lines[:2], json.dumps(event), *lines[3:]]))
    with pytest.raises(TraceError, match=r"needs the argument `\*sent\[left\]`"):
        load_jsonl(path, system)


def test_the_caller_tries_all_that_may_be_chosen(system: System) -> None:
    """A check without a code after a pick or a choice never makes the call fail: other values are tried."""
    machine = ExecutableModel(system, World({"Call": 1, "Node": 3}, {}))
    caller = caller_of(machine)
    state = machine.empty_state()
    assert caller.call(state, "get_ready", {}).code is None
    first = caller.call(state, "send", {"n": 0})
    assert first.code == OKAY and set(first.picks) == PLACES
    assert caller.call(state, "send", {"n": 1, "*sent[left]": 1}).code is None
    assert caller.call(state, "send", {"n": 1, "*sent[left]": 0}).code == OKAY
    assert caller.call(state, "get_ready", {}).code == OKAY


def test_every_search_finds_it(system: System) -> None:
    claim = system.theorems["never_ready"]
    search = Search(system, claim, {"Call": 1, "Node": 2}, 10.0)
    for _ in range(3):
        assert not search.violated()
        search.deepen()
    assert search.violated()
    confirm(system, claim, search.decode(()))
    unrolled = Unrolling(system, False, {"Call": 1, "Node": 2})
    for _ in range(3):
        assert unrolled.answer([claim]) == "unsat"
        unrolled.deepen()
    assert unrolled.answer([claim]) == "sat"
    confirm(system, claim, unrolled.decode((), claim.name))
    hunt = Hunt(system, {"never_ready": claim}, Doubts(system))
    directed(hunt)
    confirm(system, claim, hunt.found["never_ready"])


def test_too_many_ways_to_choose_are_refused_with_a_message(
    system: System, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ways_to_choose(system, World({"Call": 1, "Node": 16}, {})) == MOST
    assert run(["explore", str(tmp_path / "choices.rules"), "--scope", "Node=17"]) == 2
    assert "in 4,913 ways, more than 4,096" in capsys.readouterr().err


def test_exported_queries_declare_what_is_chosen(system: System, tmp_path: Path) -> None:
    assert export(system, tmp_path / "queries") > 0
    texts = [p.read_text() for p in (tmp_path / "queries").rglob("*.smt2")]
    assert any("(declare-fun $*sent.1 ($Side) $Node)" in text for text in texts)
