"""The recordings of real Xen replay on the implementation without an unexplained difference."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from proofs.replay.driver import main, replay

RECORDED = sorted((Path(__file__).parent / "recorded").glob("*.jsonl.xz"))


@pytest.mark.parametrize("path", RECORDED, ids=lambda p: p.name)
def test_recording(path: Path) -> None:
    result = replay(path)
    assert result["report"] == []
    assert result["calls"] > 1900


def test_json_report(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    assert main([str(RECORDED[0]), "--json", str(out)]) == 0
    files = json.loads(out.read_text())["files"]
    assert files == [{"name": RECORDED[0].name, "calls": files[0]["calls"], "differences": 0, "explained": 0}]


HEADER = '{"format": "xen-gnt-oracle/1", "profile": "hyp", "seed": "1"}\n'


def test_a_wrong_answer_is_found(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(HEADER + '{"i":0,"op":"mkdom","a":{"n":"A"},"res":{"domid":7,"r":0}}\n')
    assert main([str(path)]) == 1


@pytest.mark.parametrize("text", [
    "", "not json\n", "[]\n", '{"format": "other"}\n', HEADER + '{"i":0,"op":"nosuch","a":{}}\n', HEADER + '{"i":0}\n',
    HEADER + '{"i":0,"op":"map","a":{"by":"Z","dom":"A","ref":1,"flags":2}}\n',
])
def test_malformed_files_give_one_message(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(text)
    assert main([str(path)]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_missing_file_and_no_file() -> None:
    assert main(["/nonexistent.jsonl.xz"]) == 2
    assert main([]) == 2
