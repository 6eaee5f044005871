"""The recordings of real Xen replay on the implementation without an unexplained difference."""

from __future__ import annotations

import json
import lzma
from collections import Counter
from pathlib import Path

import pytest

from bulkhead.impl.xen.continuation import ALWAYS, Preemption
from bulkhead.proofs.cli.__main__ import run
from bulkhead.proofs.replay.driver import BadRecording, read_recording, replay

RECORDED = sorted((Path(__file__).parent / "recorded").glob("*.jsonl.xz"))
EXPLAINED = {
    "rig-7217.jsonl.xz": 1,
    "x-corners.jsonl.xz": 1,
    "x-pools.jsonl.xz": 13,
}  # differences that proofs/replay/known.json knows


@pytest.mark.parametrize("preempted", [None, ALWAYS], ids=["", "preempted"])
@pytest.mark.parametrize("path", RECORDED, ids=lambda p: p.name)
def test_recording(path: Path, preempted: str | None) -> None:
    """Also when every hypercall is preempted wherever it may be: no answer of real Xen tells where it was."""
    result = replay(path, None if preempted is None else Preemption(preempted))
    assert result.report == ()
    assert result.explained == EXPLAINED.get(path.name, 0)
    assert result.calls > (80 if path.name.startswith("x-") else 600 if path.name.startswith("rig-") else 1900)


def test_every_interface_is_recorded() -> None:
    """Some thousands of calls, of each hypercall family by guests and by Dom0, and of a translated guest."""
    seen: Counter[tuple[str, int]] = Counter()
    for path in RECORDED:
        seen.update((str(item["a"].get("by", "d0")), int(item["a"].get("nr", -1))) for item in read_recording(path)[1])
    assert all(seen["A", number] > 20 for number in (1, 12, 14, 20, 22, 26, 32, 36)), seen
    assert all(seen["d0", number] > 8 for number in (1, 12, 20, 26, 32, 36)), seen
    assert sum(seen.values()) > 25_000


def test_json_report(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    assert run(["replay", str(RECORDED[0]), "--json", str(out)]) == 0
    files = json.loads(out.read_text())["files"]
    assert files == [{"name": RECORDED[0].name, "calls": files[0]["calls"], "differences": 0, "explained": 0}]


HEADER = '{"format": "xen-gnt-oracle/1", "profile": "hyp", "seed": "1"}\n'


def test_a_wrong_answer_is_found(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(HEADER + '{"i":0,"op":"mkdom","a":{"n":"A"},"res":{"domid":7,"r":0}}\n')
    assert run(["replay", str(path)]) == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not json\n",
        "[]\n",
        '{"format": "other"}\n',
        HEADER + '{"i":0,"op":"nosuch","a":{}}\n',
        HEADER + '{"i":0}\n',
        HEADER + '{"i":0,"op":"map","a":{"by":"Z","dom":"A","ref":1,"flags":2}}\n',
    ],
)
def test_malformed_files_give_one_message(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(text)
    assert run(["replay", str(path)]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("x.jsonl.xz", b"", "end too early"),
        ("x.jsonl.xz", b"no xz at all", "not supported"),
        ("x.jsonl.xz", lzma.compress(HEADER.encode())[:-20], "end too early"),
        ("x.jsonl.xz", lzma.compress(b"\xff\xfe"), "not UTF-8"),
        ("x.jsonl", b"\x7fELF\xff", "not UTF-8"),
        ("x.jsonl", HEADER[:30].encode(), "not JSON"),
        ("x.jsonl", b"[" * 100_000, "nested too deep"),
        ("x.jsonl", HEADER.encode() + b'{"op":"map","a":{"by":' + b"1" * 5000 + b"}}", "too long a number"),
        ("x.jsonl", HEADER.encode() + b'{"i":0,"op":"mkdom","a":{"n":["A"]}}', ":2: mkdom cannot be replayed"),
        ("x.jsonl", HEADER.encode() + b'{"i":0,"op":"mkdom","a":{"n":"A"},"e":{"A":{}}}', ":2: mkdom"),
    ],
)
def test_broken_files_say_what_is_wrong(
    tmp_path: Path, name: str, data: bytes, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_bytes(data)
    assert run(["replay", str(tmp_path / name)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("bulkhead: ") and says in line and name in line


def test_recordings_that_unpack_to_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bulkhead.proofs.replay.driver.MAX_BYTES", 1000)
    (tmp_path / "x.jsonl.xz").write_bytes(lzma.compress(b" " * 1_000_000))
    with pytest.raises(BadRecording, match="more than 1,000 bytes"):
        read_recording(tmp_path / "x.jsonl.xz")


def test_a_report_that_cannot_be_written_is_told_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    for target in (tmp_path, tmp_path / "file" / "x.json", Path("/proc/x.json")):
        assert run(["replay", str(RECORDED[0]), "--json", str(target)]) == 2
        said = capsys.readouterr()
        assert said.out == "" and str(target) in said.err


def test_missing_file_and_no_file() -> None:
    assert run(["replay", "/nonexistent.jsonl.xz"]) == 2
    assert run(["replay"]) == 2
