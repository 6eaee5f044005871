"""The command line as a user meets it: exit codes, messages, files; on a small system of rules that proves fast."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

GT = str(Path(__file__).parent / "benchmarks" / "gt.rules")


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "proofs.cli", *arguments], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent)


def run(*arguments: str) -> tuple[int, str, str]:
    process = start(*arguments)
    out, err = process.communicate(timeout=120)
    assert "Traceback" not in out + err
    return process.returncode, out, err


def test_prove_writes_json(tmp_path: Path) -> None:
    code, out, _ = run("prove", GT, "--json", str(tmp_path / "p.json"), "--why", "cover")
    assert code == 0, out
    found = json.loads((tmp_path / "p.json").read_text())
    assert set(found) == {"systems", "queries", "solver_seconds", "seconds"}
    (system,) = found["systems"]
    (theorem,) = system["theorems"]
    assert system["name"] == "gt" and system["as_expected"] is True
    assert theorem["name"] == "cover" and theorem["verdict"] == theorem["expected"] == "proved"
    assert theorem["queries"] > 0 and theorem["trace"] is None
    assert "umap_gr" in out


def test_fault_is_refuted(tmp_path: Path) -> None:
    pytest.importorskip("proofs.attack")
    code, out, _ = run("prove", GT, "--fault", "b1", "--out", str(tmp_path))
    assert code == 1 and "refuted" in out
    assert (tmp_path / "gt" / "cover" / "trace.jsonl").stat().st_size > 0
    assert (tmp_path / "gt" / "cover" / "trace.txt").stat().st_size > 0


def test_fault_is_not_as_expected(tmp_path: Path) -> None:
    assert run("prove", GT, "--fault", "b1", "--out", str(tmp_path))[0] == 1


@pytest.mark.parametrize("arguments", [
    ("prove", "nonesuch"), ("prove", GT, "--theorem", "nonesuch"), ("prove", GT, "--fault", "nonesuch"),
    ("check", "nonesuch.rules"), ("prove", GT, "--jobs", "0"), ("nonesuch",),
    ("export", GT, "--out", f"{GT}/below"), ("prove", GT, "--json", f"{GT}/p.json"),
])
def test_bad_use(arguments: tuple[str, ...]) -> None:
    code, _, err = run(*arguments)
    assert code == 2 and err.strip()


def test_check(tmp_path: Path) -> None:
    assert run("check", GT)[0] == 0
    bad = tmp_path / "bad.rules"
    bad.write_text('component bad "x"\nstate a[Nothing]: bool\n')
    code, _, err = run("check", str(bad))
    assert code == 2 and "bad.rules:2" in err


def test_export(tmp_path: Path) -> None:
    assert run("export", GT, "--out", str(tmp_path))[0] == 0
    text = next(tmp_path.rglob("umap_gr.smt2")).read_text()
    assert "(set-logic ALL)" in text and text.rstrip().endswith("(check-sat)")


def test_interrupt(tmp_path: Path) -> None:
    process = start("prove", "hypervisor", "--json", str(tmp_path / "p.json"))
    time.sleep(1.5)
    process.send_signal(signal.SIGINT)
    begun = time.monotonic()
    process.communicate(timeout=20)
    assert process.returncode == 130 and time.monotonic() - begun < 2
    assert list(tmp_path.iterdir()) == []
