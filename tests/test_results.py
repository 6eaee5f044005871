"""Results as data: one result in every format, each checked against its schema, and text made only from results."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest

from bulkhead.model import loader
from bulkhead.model.diagnostics import Span
from bulkhead.proofs.cli.__main__ import COMMANDS, run
from bulkhead.proofs.cli.output import NARROWEST, wrapped
from bulkhead.proofs.faults.catalogue import BY_NAME
from bulkhead.proofs.faults.laying import installed
from bulkhead.proofs.jobs import Workers
from bulkhead.proofs.refinement.campaign import Failure
from bulkhead.proofs.refinement.coverage import Coverage
from bulkhead.proofs.report.junit import junit
from bulkhead.proofs.report.prove_run import Case
from bulkhead.proofs.report.prove_text import prove_text
from bulkhead.proofs.report.runs_text import diff_text
from bulkhead.proofs.report.sarif import sarif
from bulkhead.proofs.results.prove import ProveResult
from bulkhead.proofs.results.refinement import DiffResult
from bulkhead.proofs.results.vocabulary import Status, Verdict
from bulkhead.proofs.theorems.decide import Settings
from tests.processes import STARTED

ROOT = Path(__file__).parent.parent
GT = str(ROOT / "tests" / "benchmarks" / "gt.rules")
RECORDING = str(ROOT / "tests" / "recorded" / "v2-1.jsonl.xz")
SCHEMAS = resources.files("bulkhead.proofs.results") / "schemas"
# A command, its exit code, and its number of failed checks.
RUNS: dict[str, tuple[list[str], int, int]] = {
    "prove": (["prove", GT, "--jobs", "1", "--out", "OUT"], 0, 0),
    "prove refuted": (["prove", GT, "--fault", "b1", "--jobs", "1", "--out", "OUT"], 1, 1),
    "attack": (["attack", GT, "--fault", "b2", "--out", "OUT"], 0, 0),
    "no attack": (["attack", GT, "cover", "--out", "OUT"], 1, 1),
    "refine": (["refine", "set_version", "put_domain", "--jobs", "1"], 0, 0),
    "diff": (["diff", "--ops", "300"], 0, 0),
    "replay": (["replay", RECORDING], 0, 0),
    "faults": (["faults", "--only", "unmap_keeps_host", "--only", "no_scrub"], 0, 0),
    "faults listed": (["faults", "--list", "hypervisor"], 0, 0),
    "fault unnoticed": (["faults", "--only", "part_mapped", "--of", "implementation", "--ops", "20"], 1, 1),
    "boot": (["boot", "disaggregated", "--out", "OUT"], 0, 0),
    "explore": (["explore", "tests/examples/two_phase_commit.rules"], 0, 0),
}


def schema(name: str) -> Any:
    return json.loads((SCHEMAS / f"{name}.json").read_text())


def validate(document: Any, name: str) -> None:
    jsonschema.validate(document, schema(name), format_checker=jsonschema.FormatChecker())


def official(document: Any) -> None:
    """Also against the schema of OASIS, if the environment names a copy of it."""
    if os.environ.get("SARIF_SCHEMA"):
        jsonschema.validate(document, json.loads(Path(os.environ["SARIF_SCHEMA"]).read_text()))


@pytest.mark.parametrize("name", RUNS)
def test_one_result_in_every_format(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line, code, bad = RUNS[name]
    line = [str(tmp_path / "out") if word == "OUT" else word for word in line]
    assert run([*line, "--format", "json", "--json", str(tmp_path / "j.json")]) == code
    told = json.loads(capsys.readouterr().out)
    validate(told, f"bulkhead-{line[0]}-1")
    assert told["format"] == f"bulkhead-{line[0]}/1"
    assert set(json.loads((tmp_path / "j.json").read_text())) == set(told)

    assert run([*line, "--format", "junit", "--output", str(tmp_path / "j.xml"), "-q"]) == code
    quiet = capsys.readouterr()
    assert len(quiet.out.splitlines()) == bad and quiet.err == ""
    root = ElementTree.parse(tmp_path / "j.xml").getroot()
    suites = root.findall("testsuite")
    assert root.tag == "testsuites" and suites
    for suite in suites:
        assert int(suite.attrib["tests"]) == len(suite.findall("testcase")) > 0
    assert sum(int(s.attrib[k]) for s in suites for k in ("failures", "errors")) == bad
    assert len(root.findall(".//failure") + root.findall(".//error")) == bad

    assert run([*line, "--format", "sarif", "--output", str(tmp_path / "s.sarif")]) == code
    assert len(capsys.readouterr().out.splitlines()) >= 1, "text is still told"
    log = json.loads((tmp_path / "s.sarif").read_text())
    validate(log, "sarif-2.1.0-part")
    official(log)
    (made,) = log["runs"]
    assert made["invocations"][0]["exitCode"] == code
    assert sum(r["level"] == "error" or r["kind"] == "open" for r in made["results"]) == bad
    for r in made["results"]:
        assert made["tool"]["driver"]["rules"][r["ruleIndex"]]["id"] == r["ruleId"]


def test_an_attack_is_a_flow_through_the_rules(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert run(["attack", GT, "--fault", "b1", "--out", str(tmp_path), "--format", "sarif"]) == 0
    (made,) = json.loads(capsys.readouterr().out)["runs"]
    (found,) = made["results"]
    text = Path(GT).read_text().splitlines()
    here = found["locations"][0]["physicalLocation"]
    assert here["artifactLocation"] == {"uri": "tests/benchmarks/gt.rules", "uriBaseId": "ROOT"}
    assert text[here["region"]["startLine"] - 1].startswith("theorem cover") and found["level"] == "note"
    steps = [s["location"] for s in found["codeFlows"][0]["threadFlows"][0]["locations"]]
    taken = [s["message"]["text"].split()[-1] for s in steps]  # some of them may change places
    assert sorted(taken) == ["alloc", "create", "finish", "map", "permit"] and (taken[0], taken[-1]) == ("create", "map")
    for s in steps:
        line = text[s["physicalLocation"]["region"]["startLine"] - 1]
        assert s["message"]["text"].split()[-1] in line


WITH_SCHEMA = ("prove", "attack", "refine", "diff", "play", "replay", "faults", "boot", "explore")


def test_schemas_are_schemas() -> None:
    names = [p.name for p in SCHEMAS.iterdir()]
    made = [f"bulkhead-{c}-1.json" for c in WITH_SCHEMA]
    assert sorted(names) == sorted([*made, "bulkhead-calls-1.json", "sarif-2.1.0-part.json"])
    for name in names:
        jsonschema.Draft202012Validator.check_schema(schema(name.removesuffix(".json")))


def test_a_schema_refuses_what_does_not_belong() -> None:
    good = {"format": "bulkhead-refine/1", "handlers": [], "seconds": 0.5}
    validate(good, "bulkhead-refine-1")
    for bad in ({**good, "format": "bulkhead-refine/2"}, {**good, "more": 1}, {"format": good["format"], "handlers": []}):
        with pytest.raises(jsonschema.ValidationError):
            validate(bad, "bulkhead-refine-1")


def test_results_are_computed_without_printing(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library user gets data: no output, and no files."""
    monkeypatch.chdir(tmp_path)
    system = loader.load(GT, ["b1"])
    with Workers(1) as pool:
        case = Case(system, Settings(jobs=1), pool, list(system.claims()), ("b1",))
        case.start()
        result = case.judge(why_of="cover")
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "") and list(tmp_path.iterdir()) == []
    (theorem,) = result.theorems
    assert theorem.verdict is Verdict.REFUTED and theorem.attack is not None and not result.good
    assert theorem.check(system).status is Status.FAILED
    assert result.counterexamples and result.counterexamples[0].cti.claim in result.not_inductive
    text = prove_text(ProveResult((result,), 1.0))
    assert "Attack on cover of gt: 5 steps" in text and "counterexample" not in text.split("NOT as")[1]
    with pytest.raises(AttributeError):
        result.queries = 0  # type: ignore[misc]


def test_a_mismatch_is_a_failure_in_every_format() -> None:
    with installed(BY_NAME["reading_cleared_early"]):
        assert run(["diff", "--ops", "1500", "--seed", "1", "-q"]) == 1


def test_a_mismatch_stands_where_its_rule_does() -> None:
    failure = Failure("map_grant_ref: the rules say okay", ("a: 1",), "map\x00 \x1b[1m", 7, 0, 12, ("one", "two"))
    result = DiffResult(
        7,
        12,
        30,
        3,
        0.5,
        Coverage(3, ("x",)),
        ("mmu_update_map: ENOMEM",),
        failure,
        True,
        {"map_grant_ref": Span("xen.rules", 5, 1, 9)},
    )
    assert not result.good and "MISMATCH after 12 calls" in diff_text(result)
    log = sarif(result)
    validate(log, "sarif-2.1.0-part")
    official(log)
    first, second = log["runs"][0]["results"]
    assert first["locations"][0]["physicalLocation"]["region"]["startLine"] == 5
    assert len(first["codeFlows"][0]["threadFlows"][0]["locations"]) == 2
    assert "impossible" in second["message"]["text"] and "physicalLocation" not in second["locations"][0]
    root = ElementTree.fromstring(junit(result))  # characters that XML cannot contain are replaced
    assert len(root.findall(".//failure")) == 2


# Output channels.


def on_terminal(columns: int, *arguments: str, **env: str) -> str:
    """A command's output on a terminal of this width."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "bulkhead.proofs.cli", *arguments],
        stdout=follower,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        env={**os.environ, "COLUMNS": str(columns), "TERM": "xterm-256color", **env},
    )
    STARTED.append(process.pid)
    os.close(follower)
    told = b""
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:
            break
        if not part:
            break
        told += part
    os.close(leader)
    assert process.wait(timeout=60) == 0
    return told.decode().replace("\r\n", "\n")


def test_a_terminal_gets_lines_that_fit_and_colours_unless_unwanted(tmp_path: Path) -> None:
    line = ("prove", GT, "--jobs", "1", "--out", str(tmp_path))
    told = on_terminal(60, *line)
    assert "\x1b[" in told
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", told)
    assert max(map(len, plain.splitlines())) <= 60 and "13 transitions" in plain.replace("\n      ", " ")
    for unwanted in (on_terminal(60, *line, "--no-color"), on_terminal(60, *line, NO_COLOR="1")):
        assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", unwanted) and "proved" in unwanted


def test_wrapping() -> None:
    assert wrapped("short\n\nlines", 80) == "short\n\nlines"
    text = "  one two three " + "word " * 30
    lines = wrapped(text, 50).split("\n")
    assert all(len(line) <= 50 for line in lines) and lines[0].startswith("  one") and lines[1].startswith("      word")
    assert " ".join(" ".join(lines).split()) == " ".join(text.split())
    assert max(map(len, wrapped("x" * 500, 1).split("\n"))) == NARROWEST


def test_no_command_asks_for_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 0
    told = capsys.readouterr().out
    assert all(re.search(rf"^  {name} ", told, re.MULTILINE) for name in COMMANDS)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    told = capsys.readouterr().out
    assert re.fullmatch(r"bulkhead \d+\.\d+\.\d+\S*\n", told)
    assert f'version = "{told.split()[1]}"' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("command", ["prove", "attack"])
def test_which_system(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command]) == 2
    said = capsys.readouterr().err
    assert "which system?" in said and "disaggregated, hypervisor, monolithic" in said


def test_an_attack_has_a_place_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without --out an attack is written to the same folder as by `prove`; `replay` needs only this folder."""
    rules = tmp_path / "mine.rules"
    rules.write_text(Path(GT).read_text())
    monkeypatch.chdir(tmp_path)
    assert run(["attack", "mine.rules", "--fault", "b1"]) == 0
    told = capsys.readouterr().out
    folder = tmp_path / "build" / "gt" / "cover"
    rules.unlink()
    folder.rename(tmp_path / "elsewhere")
    trace = tmp_path / "elsewhere" / "trace.jsonl"
    assert run(["replay", str(trace)]) == 0
    assert capsys.readouterr().out.strip() == told.partition("  files:")[0].strip()
    beside = tmp_path / "elsewhere" / "trace.rules"
    beside.write_text(beside.read_text() + "\n")
    assert run(["replay", str(trace)]) == 2
    assert "not the rules that the trace was made with" in capsys.readouterr().err
    assert run(["replay", str(trace), "--system", str(beside)]) == 0
    beside.unlink()
    assert run(["replay", str(trace)]) == 2
    assert "are not there; say where they are: --system" in capsys.readouterr().err
    for told_rules in ('{"file": "../trace.rules", "sha256": "0"}', '"trace.rules"', '{"file": "trace.rules"}'):
        lines = trace.read_text().splitlines()
        head = re.sub(r'"rules": (\{.*?\}|".*?")\}$', f'"rules": {told_rules}}}', lines[0])
        trace.write_text("\n".join([head, *lines[1:]]))
        assert run(["replay", str(trace)]) == 2
        assert "`rules` must name the file" in capsys.readouterr().err


def test_a_guest_is_booted_as_it_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(b"x" * 5000)
    line = [
        "boot",
        "disaggregated",
        "--out",
        str(tmp_path),
        "--memory",
        "8",
        "--ramdisk",
        str(disk),
        "--cmdline",
        "quiet a=b",
    ]
    assert run([*line, "--format", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["guests"][0]["pages"] == 8 * 256 and "quiet a=b" in told["guests"][0]["console"]
    assert any("ramdisk" in s["what"] and "2 pages" in s["what"] for s in told["steps"])
    for more, says in (
        (["--memory", "0"], "--memory"),
        (["--memory", "5000"], "--memory"),
        (["--ramdisk", str(tmp_path / "none")], "no such file"),
        (["--cmdline", "x" * 2000], "does not come up"),
    ):
        assert run([*line, *more]) == 2
        assert says in capsys.readouterr().err


HIDDEN = """component few "Two at most are said to be used."
sort Slot "a slot"
scope Slot = 2
state used[Slot]: bool
init forall s: Slot. not used[s]
internal use(s: Slot) set used[s] = true
theorem two_at_most forall a, b, c: Slot. used[a] and used[b] and used[c] implies a = b or b = c or a = c
system few "Few." uses few expect proved two_at_most
"""


def test_an_unknown_claim_names_the_worlds_that_were_searched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The rules' own bound hides the attack, and `--scope` shows it."""
    rules, out = tmp_path / "few.rules", str(tmp_path / "out")
    rules.write_text(HIDDEN)
    assert run(["prove", str(rules), "--no-vacuity", "--out", out]) == 1
    shown = capsys.readouterr().out
    assert "two_at_most  unknown" in shown
    assert "Slot 2 were searched; larger ones: bulkhead attack, with --scope SORT=N." in shown
    assert run(["attack", str(rules), "two_at_most", "--scope", "Slot=3", "--out", out]) == 0
    assert "Attack on two_at_most of few: 3 steps" in capsys.readouterr().out
