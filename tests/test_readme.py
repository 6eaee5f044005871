"""The example of the top README: its rules are proved, and with the fault the printed attack is found."""

from __future__ import annotations

import re
from pathlib import Path

import grimp
import pytest

from bulkhead.proofs.cli.__main__ import run

README = Path(__file__).parent.parent / "README.md"


def test_the_example_does_what_is_said_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = README.read_text(encoding="utf-8")
    found = re.search(r"```rules\n(.*?)```", text, re.DOTALL)
    assert found is not None
    rules = tmp_path / "share.rules"
    rules.write_text(found[1])
    assert run(["prove", str(rules), "--out", str(tmp_path / "build")]) == 0
    assert "only_on_loan  proved   proved" in capsys.readouterr().out
    assert run(["attack", str(rules), "--fault", "take_back_in_use", "--out", str(tmp_path / "attack")]) == 0
    shown = [
        line.strip()
        for line in text.partition("bulkhead attack share.rules")[2].partition("`attack/overview.svg`")[0].splitlines()[1:]
        if line.strip() and "files:" not in line
    ]
    told = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert shown and [line for line in shown if line not in told] == []


def test_what_it_links_to_is_there() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", README.read_text(encoding="utf-8")):
        assert (README.parent / target).exists(), target


def test_what_is_trusted_is_all_that_both_encodings_share() -> None:
    """The paragraph names every file of `model/` behind `proofs/certify`, but those that only make messages."""
    paragraph = README.read_text().partition("## What is trusted")[2].partition("##")[0]
    told = set(re.findall(r"`model/(\w+)\.py`", paragraph))
    graph = grimp.build_graph("bulkhead.model", "bulkhead.proofs", cache_dir=None, exclude_type_checking_imports=True)
    rooms = [m for m in graph.modules if m.startswith("bulkhead.proofs.certify")]
    behind = {m for room in rooms for m in graph.find_upstream_modules(room)}
    shared = {m.removeprefix("bulkhead.model.") for m in behind if m.startswith("bulkhead.model.")}
    assert told == shared - {"diagnostics", "foreign", "syntax_errors"}
    other = {m for m in behind if m.startswith("bulkhead.proofs.")} - set(rooms)
    assert other == {"bulkhead.proofs.jobs"}  # which runs processes, and answers nothing
