"""Scripts of calls are reproducible, traces shrink to the relevant calls, and a changed answer is found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bulkhead.model.diagnostics import UsageError
from bulkhead.proofs.cli import diff as diff_cli
from bulkhead.proofs.replay.driver import read_recording
from tests.xen.campaign import main
from tests.xen.compare import Difference, first
from tests.xen.protocol import Answer, Call, parse, record, write_recording
from tests.xen.shrink import closed, named, shrink
from tests.xen.workload.mix import FAMILIES, script

A, B = Call("mkdom", {"n": "A"}), Call("mkdom", {"n": "B"})


def test_the_same_seed_gives_the_same_calls() -> None:
    assert script(5, 0, 400) == script(5, 0, 400)
    assert script(5, 0, 400) != script(6, 0, 400) != script(6, 1, 400)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_makes_calls_that_go_over_the_line(family: str) -> None:
    calls = script(3, 0, 300, [family])
    assert {call.note for call in calls} == {"start", family, "end"}
    assert all("\n" not in call.line() and len(call.line()) < 60_000 and " =" not in call.line() for call in calls)
    assert closed(calls) == calls


def test_a_guests_calls_go_with_the_guest() -> None:
    touch = Call("wr", {"by": "B", "pg": 3, "v": 1})
    grant = Call("ge", {"d": "A", "ref": 8, "dom": "B", "pg": "A/3"}, show="A:8")
    assert named(grant) == {"A", "B"} and named(Call("x", {"w": "0:8:f.A/3+0x67,8:2:SELF", "by": "d0"})) == {"A"}
    assert closed([A, touch, grant]) == [A]
    end = Call("rmdom", {"n": "B"})
    assert closed([A, B, touch, end, touch, B, touch]) == [A, B, touch, end, B, touch]


def test_a_trace_shrinks_to_the_calls_that_matter() -> None:
    noise = [Call("show", {"k": i}) for i in range(40)]
    needed = [Call("wr", {"by": "A", "pg": 1, "v": 7}), Call("wr", {"by": "B", "pg": 2, "v": 8})]
    last = Call("rd", {"by": "A", "pg": 1})
    calls = [A, *noise[:20], B, needed[0], *noise[20:], needed[1], last]
    boots: list[int] = []

    def look(candidate: Sequence[Call]) -> Difference | None:
        boots.append(len(candidate))
        if all(each in candidate for each in needed):
            line = {"i": 0, "op": "rd", "a": dict(last.args)}
            return Difference(len(candidate) - 1, line, "v", 1, 2)
        return None

    found = look(calls)
    assert found is not None
    small = shrink(calls, found, lambda candidate: 2, look, boots=200)
    assert small.calls == [A, B, *needed, last]
    few = shrink(calls, found, lambda candidate: 2, look, boots=3)
    assert few.boots == 3 and few.calls[-1] == last and set(map(Call.line, needed)) <= set(map(Call.line, few.calls))


def test_a_candidate_that_changes_our_own_answer_costs_no_boot() -> None:
    calls = [A, *[Call("show", {"k": i}) for i in range(8)], Call("rd", {"by": "A", "pg": 1})]
    found = Difference(len(calls) - 1, {"i": 9, "op": "rd", "a": {}}, "v", 1, 2)
    small = shrink(calls, found, lambda candidate: len(candidate), lambda candidate: pytest.fail("booted"), boots=100)
    assert small.calls == calls and small.boots == 0


def recorded() -> list[dict[str, Any]]:
    """A few calls with their true answers."""
    pairs: list[tuple[Call, dict[str, Any]]] = [
        (A, {"domid": 1, "r": 0}),
        (Call("pfill", {"d": "A"}), {"r": 0}),
        (Call("prd", {"pg": "A/3", "off": 8}), {"v": "0x4100030008", "r": 0}),
        (Call("x", {"by": "A", "nr": 32, "w": "0:4:9999", "a1": 4, "a2": "arg"}), {"r": -22}),
    ]
    return [record(number, call, Answer(result, {})) for number, (call, result) in enumerate(pairs)]


def test_a_changed_answer_is_a_difference_with_both_sides() -> None:
    lines = recorded()
    assert first(lines) is None
    lines[2]["res"] = {"v": "0x4100030009", "r": 0}
    found = first(lines)
    assert found is not None and (found.number, found.field) == (2, "v")
    assert "real Xen '0x4100030009', the implementation '0x4100030008'" in found.text()


@pytest.mark.parametrize(("name", "begins"), [("run.jsonl", b'{"format"'), ("run.jsonl.xz", b"\xfd7zXZ")])
def test_a_recording_is_one_that_replay_reads(tmp_path: Path, name: str, begins: bytes) -> None:
    write_recording(tmp_path / name, "xen", 4, recorded())
    header, lines = read_recording(tmp_path / name)
    assert header["seed"] == "4" and [line["op"] for line in lines] == ["mkdom", "pfill", "prd", "x"]
    assert (tmp_path / name).read_bytes().startswith(begins)


def test_answers_are_parsed_or_refused() -> None:
    assert parse('{"v":"0x1","r":0,"e":{"A:8":{"flags":1}}}', A) == Answer({"v": "0x1", "r": 0}, {"A:8": {"flags": 1}})
    for text in ("", "[]", "{}", '{"r":"x"}', '{"r":0,"e":[]}', "[" * 100_000):
        with pytest.raises(ValueError):
            parse(text, A)


def test_bad_use_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "nothing"]) == 2
    assert "no such family: nothing" in capsys.readouterr().err
    assert main(["--ops", "0"]) == 2
    assert main(["--no-such-option"]) == 2


def test_the_installed_command_without_the_source_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rig for real Xen is in the tests, which are not installed: one line says so."""
    monkeypatch.setattr(diff_cli, "RIG", Path("no", "such", "tree.py"))
    ran = CliRunner().invoke(diff_cli.diff, ["--against", "xen"], standalone_mode=False)
    assert isinstance(ran.exception, UsageError) and "use a checkout" in str(ran.exception)
    ran = CliRunner().invoke(diff_cli.diff, ["--record", "x"], standalone_mode=False)
    assert isinstance(ran.exception, UsageError) and "--system monolithic" in str(ran.exception)
