"""Pictures: their objects, blue and red marks, and the output without Graphviz's `dot`."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from pathlib import Path

import pytest

from bulkhead.model import loader
from bulkhead.model.executable import ExecutableModel
from bulkhead.model.world import World
from bulkhead.proofs.report import pictures
from bulkhead.proofs.report.canvas import BAD, CHANGED, Caption
from bulkhead.proofs.report.element_names import Facts
from bulkhead.proofs.report.explain import Moment, culprits
from bulkhead.proofs.report.pictures import draw, save
from bulkhead.proofs.report.trace_text import log, needed_at_start, save_trace
from bulkhead.proofs.theorems.attack import find_attack

GT = "tests/benchmarks/gt.rules"
PRIVCMD: Facts = {
    "domain.phase": {("dom0",): "running", ("domain1",): "running", ("domain2",): "absent"},
    "service": {("dom0",): "true", ("domain1",): "false", ("domain2",): "false"},
    "space_of": {("space0",): "dom0"},
    "process.phase": {("space0",): "process_runs"},
    "process.root": {("space0",): "true"},
    "frame.owner": {("frame0",): "domain1", ("frame1",): "domain1"},
    "frame.use": {("frame0",): "ram", ("frame1",): "free"},
    "file.open": {("file0",): "true", ("file1",): "false"},
    "file.device": {("file0",): "privcmd", ("file1",): "gntdev"},
    "fd": {("space0", "file0"): "true", ("space0", "file1"): "false"},
    "through": {("translation0",): "file0", ("translation1",): "file0"},
    "translation.present": {("translation0",): "true", ("translation1",): "false"},
    "translation.cached": {("translation0",): "true", ("translation1",): "false"},
    "translation.space": {("translation0",): "space0", ("translation1",): "space0"},
    "translation.frame": {("translation0",): "frame0", ("translation1",): "frame0"},
    "translation.writable": {("translation0",): "false", ("translation1",): "false"},
    "translation.origin": {("translation0",): "foreign", ("translation1",): "own"},
}


def lines_with(text: str, *words: str) -> list[str]:
    return [line for line in text.splitlines() if all(w in line for w in words)]


def test_the_way_from_process_to_frame_is_red() -> None:
    source = draw(PRIVCMD, Caption("t", red=True), (), {("translation.present", ("translation0",))}).source
    way = ("space space0", "file file0", "mapping translation0", "frame frame0")
    for a, b in itertools.pairwise(way):
        (edge,) = lines_with(source, f'"{a}" -> "{b}"')
        assert BAD in edge
    assert BAD in lines_with(source, 'label="process space0')[0]
    assert "domU domain1" in source and "/dev/xen/privcmd" in source and "ro, foreign" in source


def test_only_live_things_are_drawn() -> None:
    source = draw(PRIVCMD, Caption("t")).source
    for gone in ("frame1", "file1", "translation1", "domain2"):
        assert gone not in source
    assert BAD not in source


def test_what_a_step_changed_is_blue_and_what_is_only_cached_is_dashed() -> None:
    after: Facts = {**PRIVCMD, "translation.present": {("translation0",): "false", ("translation1",): "false"}}
    source = draw(after, Caption("t"), pictures.changes(PRIVCMD, after)).source
    (mapping,) = [line for line in lines_with(source, '"mapping translation0" [') if "->" not in line]
    assert CHANGED in mapping and "dashed" in mapping
    assert CHANGED not in lines_with(source, 'label="frame0')[0]


def test_a_descriptor_to_blame_is_not_every_descriptor() -> None:
    both: Facts = {
        **PRIVCMD,
        "space_of": {("space0",): "dom0", ("space1",): "dom0"},
        "process.phase": {("space0",): "process_runs", ("space1",): "process_runs"},
        "fd": {("space0", "file0"): "true", ("space1", "file0"): "true"},
    }
    source = draw(both, Caption("t"), (), {("translation.space", ("translation0",))}).source
    assert BAD in lines_with(source, "->", "space space0", "file file0")[0]
    assert BAD not in lines_with(source, "->", "space space1", "file file0")[0]


@pytest.mark.skipif(shutil.which("dot") is None, reason="needs Graphviz")
def test_odd_characters_are_escaped() -> None:
    odd = 'a"b\\N<c>&:d|{e}'
    facts: Facts = {"next_to": {(odd, "x"): "true"}, "on": {(odd,): "true", ("<b>",): "true"}}
    graph = draw(facts, Caption(f"title {odd}", (f"line {odd}\n", "\x00")))
    drawn = subprocess.run(["dot", "-Tsvg"], input=graph.source.encode(), capture_output=True, timeout=30)
    assert not drawn.stderr
    text = drawn.stdout.decode().replace("&#160;", " ")
    assert "a&quot;b\\N&lt;c&gt;&amp;:d|{e}" in text and "&lt;b&gt;" in text


def test_without_graphviz_the_text_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    note = save(draw(PRIVCMD, Caption("t")), tmp_path / "picture")
    assert "install Graphviz" in note and "\n" not in note
    assert (tmp_path / "picture.dot").read_text().startswith("digraph")
    assert not (tmp_path / "picture.svg").exists()


def test_an_attack_is_drawn_with_the_claim_s_own_facts_in_red(tmp_path: Path) -> None:
    system = loader.load(GT, ("b1",))
    trace = find_attack(system, "cover", ("b1",))
    assert trace is not None
    said = save_trace(system, "cover", trace, tmp_path)
    overview = (tmp_path / "overview.dot").read_text()
    assert BAD in lines_with(overview, "->", 'label="maps [')[0]
    assert BAD not in lines_with(overview, "->", 'label="grants [')[0]
    assert "Every page a process reaches" in overview
    assert f"Step 5 of {len(trace.events)}: internal map" in (tmp_path / "step-5.dot").read_text()
    assert not lines_with((tmp_path / "step-4.dot").read_text(), BAD)
    assert said.startswith("Attack on cover of gt: 5 steps, with fault b1")
    machine = ExecutableModel(system, trace.world)
    assert "domain[root]" not in log(trace, system, machine)  # the attack does not need Dom0's own domain
    assert needed_at_start(trace, system, machine) == {}


def test_blame_follows_what_decides(tmp_path: Path) -> None:
    rules = tmp_path / "lamps.rules"
    rules.write_text(
        'component lamps "Lamps."\nsort Lamp "a lamp"\nstate on[Lamp]: bool\nstate broken[Lamp]: bool\n'
        "define shines(x: Lamp) = on[x] and not broken[x]\n"
        "init forall x: Lamp. not on[x]\ninternal light(x: Lamp)\n    set on[x] = true\n"
        "theorem dark forall x: Lamp, y: Lamp. shines(x) implies broken[y] and on[y]\n"
        'system lamps "All." uses lamps\n    expect refuted dark\n'
    )
    system = loader.load(str(rules))
    world = World({"Lamp": 2, "Call": 1}, {})
    state = ExecutableModel(system, world).empty_state()
    number = list(system.funcs).index("on")
    state[number][1] = 1
    claim = system.theorems["dark"].body
    assert culprits(system, world, claim, Moment(state)) == {
        ("on", ("lamp1",)),
        ("broken", ("lamp0",)),
        ("broken", ("lamp1",)),
    }
    state[number][1] = 0
    assert culprits(system, world, claim, Moment(state)) == set()
