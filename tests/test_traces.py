"""Traces: read, written, replayed on the executable model, and refused if they are wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from bulkhead.model.caller import caller_of
from bulkhead.model.executable import ExecutableModel
from bulkhead.model.loader import load
from bulkhead.model.trace import Event, Trace, TraceError, load_jsonl, replay, to_itf, to_jsonl
from bulkhead.model.world import elements
from bulkhead.proofs.theorems.random_walk import initial_state
from tests.test_executable import ATTACK, GT, SMALL


@pytest.fixture(scope="module")
def faulty() -> ExecutableModel:
    return ExecutableModel(load(GT, ["b1"]), SMALL)


@pytest.fixture
def trace(faulty: ExecutableModel) -> Trace:
    first = initial_state(caller_of(faulty))
    assert first is not None
    return Trace("gt", ("b1",), "cover", SMALL, first, ATTACK)


def test_a_trace_replays_to_the_violation(trace: Trace, faulty: ExecutableModel) -> None:
    states = replay(trace, faulty)
    claim = faulty.system.theorems["cover"].body
    assert [faulty.holds(s, claim) for s in states] == [True] * 5 + [False]
    with pytest.raises(TraceError, match="event 1: `alloc` cannot be taken"):
        replay(Trace("gt", (), "cover", SMALL, trace.initial, ATTACK[1:]), faulty)
    with pytest.raises(TraceError, match=r"event 1: .*`alocate`"):
        replay(Trace("gt", (), "cover", SMALL, trace.initial, (Event("alocate", {}),)), faulty)


def test_a_trace_is_read_as_it_was_written(trace: Trace, faulty: ExecutableModel, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(to_jsonl(trace, faulty.system, faulty))
    assert load_jsonl(path, faulty.system) == trace
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows[0]["format"] == "bulkhead-trace/1"
    assert rows[1] == {"initial": {"domain[root].alive": "true"}}
    assert rows[2]["call"] == "create"
    assert rows[3]["args"] == {"f": "frame0", "d": "domain1"}
    assert rows[6]["changes"] == {"maps[process0, domain1, ref0, frame0]": "true"}


def _with(lines: list[str], number: int, text: str) -> str:
    return "\n".join([*lines[: number - 1], text, *lines[number:]]) + "\n"


@pytest.mark.parametrize(
    ("number", "text", "says"),
    [
        (1, "{", r"t.jsonl:1: "),
        (1, "[]", r"t.jsonl:1: "),
        (1, '{"format": "other/1"}', r"t.jsonl:1: "),
        (1, '{"format": "bulkhead-trace/1"}', r"t.jsonl"),
        (1, '{"format": "bulkhead-trace/1", "system": "gt", "faults": [], "claim": "", "world": 3}', r"t.jsonl"),
        (2, '{"initial": {"nothing[root]": "true"}}', r"t.jsonl:2: .*`nothing\[root\]`"),
        (2, '{"initial": {"domain[root].alive": "maybe"}}', r"t.jsonl:2: .*`maybe`"),
        (2, '{"initial": []}', r"t.jsonl"),
        (3, "\\x00", r"t.jsonl:3: "),
        (3, "[" * 100_000, r"t.jsonl:3: "),
        (3, '{"call": "creat", "args": {}}', r"t.jsonl:3: .*`creat`.*`create`"),
        (3, '{"call": ["create"], "args": {}}', r"t.jsonl"),
        (3, '{"call": "create", "args": {}}', r"t.jsonl:3: .*`d`"),
        (3, '{"call": "create", "args": {"d": "frame0"}}', r"t.jsonl:3: .*`frame0`"),
        (3, '{"call": "create", "args": 7}', r"t.jsonl"),
    ],
)
def test_malformed_traces_are_named_by_file_and_line(
    trace: Trace, faulty: ExecutableModel, tmp_path: Path, number: int, text: str, says: str
) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(_with(to_jsonl(trace, faulty.system, faulty).splitlines(), number, text))
    with pytest.raises(TraceError, match=says):
        load_jsonl(path, faulty.system)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"Domain": 3', '"Domain": Infinity', "whole numbers"),
        ('"Domain": 3', '"Domain": 64', "more than 1,000,000 places"),
        ('"system": "gt"', '"system": "other"', r"t\.jsonl:1: a trace of system `other`"),
        ('"system": "gt"', '"system": ["gt"]', r"t\.jsonl:1: a trace of system"),
        ('"faults": ["b1"]', '"faults": 1', "malformed trace"),
    ],
)
def test_headers_that_cannot_be_are_refused(
    trace: Trace, faulty: ExecutableModel, tmp_path: Path, old: str, new: str, says: str
) -> None:
    text = to_jsonl(trace, faulty.system, faulty)
    assert old in text
    path = tmp_path / "t.jsonl"
    text = text.replace(old, new)
    if "64" in new:  # each sort alone is small enough
        for sort in ("Frame", "Ref", "Process", "Call"):
            text = re.sub(rf'"{sort}": \d+', f'"{sort}": 64', text, count=1)
    path.write_text(text)
    with pytest.raises(TraceError, match=says):
        load_jsonl(path, faulty.system)


def test_files_that_are_no_text_are_refused(faulty: ExecutableModel, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    for data in (b"", b"\xff\xfe\x00\x80", b"\x7fELF\x00"):
        path.write_bytes(data)
        with pytest.raises(TraceError, match=r"t\.jsonl"):
            load_jsonl(path, faulty.system)
    with pytest.raises(TraceError, match=r"absent\.jsonl"):
        load_jsonl(tmp_path / "absent.jsonl", faulty.system)


def test_itf(trace: Trace, faulty: ExecutableModel) -> None:
    itf = to_itf(trace, faulty.system, faulty)
    assert [s["#meta"]["index"] for s in itf["states"]] == list(range(6))
    assert [s["action"] for s in itf["states"]] == ["(initial state)", *(e.label for e in ATTACK)]
    assert set(itf["vars"]) == set(itf["states"][0]) - {"#meta"}
    last = itf["states"][-1]
    assert [{"#tup": ["process0", "domain1", "ref0", "frame0"]}, True] in last["maps"]["#map"]
    assert ["root", True] in last["domain.alive"]["#map"]
    json.dumps(itf)


def test_elements_are_named_by_constants() -> None:
    gt = load(GT)
    assert elements(gt, SMALL, "Domain") == ["root", "domain1", "domain2"]
    assert elements(gt, SMALL, "bool") == ["false", "true"]
