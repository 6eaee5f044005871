"""A failing machine is reported within its time limit: one message, the console's tail, the seed; nothing is left.

These tests use a small fake QEMU, so that `make test` needs none.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from bulkhead.proofs.refinement.calls import Answer, Target, guest_call, run
from bulkhead.proofs.refinement.calls import Call as Said
from bulkhead.proofs.refinement.recording import Recorder
from tests.xen import campaign
from tests.xen.build import Images
from tests.xen.machine import Machine
from tests.xen.problems import RigFailed, Unavailable
from tests.xen.protocol import Call, answers
from tests.xen.target import NOT_AVAILABLE, RealXen, as_answered, as_said

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 8.0  # seconds for a case, on a busy machine; the limits in the cases are shorter
CALLS = [Call("dominfo", {"id": 1}), Call("dominfo", {"id": 2})]


@pytest.fixture()
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for all temporary files of the test, to detect remaining ones."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def fake(tmp_path: Path, behaviour: str) -> Images:
    """Images whose QEMU behaves in a certain way."""
    program = tmp_path / "qemu"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).with_name("fake_qemu.py")} "{behaviour}" "$@"\n')
    program.chmod(0o755)
    return Images(program, "", (), tmp_path / "xen", tmp_path / "vmlinux", tmp_path / "initramfs")


def alive(pid: int) -> bool:
    """Is this process alive and not a zombie?"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def failure(images: Images, calls: list[Call] = CALLS, boot: float = 5.0) -> tuple[RigFailed, int]:
    """The failure of a machine, and its process."""
    pids = []
    with pytest.raises(RigFailed) as caught, Machine(images, boot_seconds=boot, answer_seconds=1.0) as running:
        pids.append(running.pid)
        list(answers(running, calls))
    return caught.value, pids[0] if pids else 0


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        ("garbage", "garbage on the line: not an answer"),
        ("no result", "garbage on the line: an answer without a result"),
        ("unknown", "the executor does not know `dominfo`"),
        ("killed", "ended with signal 9"),
        ("panics", "Xen has stopped"),
        ("hangs up", "the line to the machine is closed"),
        ("answers once", "no answer within 1 s"),
    ],
)
def test_a_call_that_fails_is_named_with_the_consoles_tail(
    tmp_path: Path, alone: Path, behaviour: str, message: str
) -> None:
    started = time.monotonic()
    error, pid = failure(fake(tmp_path, behaviour))
    text = error.text(seed=77)
    assert time.monotonic() - started < LIMIT
    assert message in text and "the seed: 77" in text and "the call: dominfo id=" in text
    assert "FATAL TRAP" in text if behaviour == "panics" else "(XEN) the last line" in text
    assert pid and not alive(pid)
    assert not list(alone.iterdir())


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        ("ends", "QEMU ended with status 1"),
        ("hangs", "no answer within 1 s"),
        ("babbles", "and no end of line"),
    ],
)
def test_a_boot_that_fails(tmp_path: Path, alone: Path, behaviour: str, message: str) -> None:
    started = time.monotonic()
    error, _ = failure(fake(tmp_path, behaviour), boot=1.0 if behaviour == "hangs" else 5.0)
    assert time.monotonic() - started < LIMIT
    assert message in error.text()
    assert not list(alone.iterdir())


def test_a_machine_that_takes_no_calls(tmp_path: Path, alone: Path) -> None:
    started = time.monotonic()
    many = [Call("x", {"by": "A", "w": "0" * 8000})] * 200
    error, pid = failure(fake(tmp_path, "takes nothing"), many)
    assert time.monotonic() - started < LIMIT
    assert "no answer within 1 s" in error.what or "takes no more calls" in error.what
    assert not alive(pid) and not list(alone.iterdir())


def test_a_missing_qemu(tmp_path: Path, alone: Path) -> None:
    images = Images(tmp_path / "nothing", "", (), tmp_path, tmp_path, tmp_path)
    error, _ = failure(images)
    assert "QEMU cannot be started" in error.text() and "nothing" in error.text()
    assert not list(alone.iterdir())


def test_a_campaign_tells_the_seed(
    tmp_path: Path, alone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(campaign, "images", lambda: fake(tmp_path, "killed"))
    assert campaign.main(["--seed", "4711", "--ops", "50"]) == 2
    told = capsys.readouterr().err
    assert "ended with signal 9" in told and "the seed: 4711" in told and "(XEN) the last line" in told
    assert not list(alone.iterdir())


def test_a_rig_that_cannot_be_had_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def nothing() -> Images:
        raise Unavailable("`apt-get` is not here")

    monkeypatch.setattr(campaign, "images", nothing)
    assert campaign.main(["--ops", "50"]) == 2
    assert capsys.readouterr().err == "bulkhead diff: real Xen cannot be run here: `apt-get` is not here.\n"


def test_qemu_ends_with_us_however_we_end(tmp_path: Path) -> None:
    """Killed without a chance to clean up, the rig still leaves no emulator running."""
    fake(tmp_path, "answers once")
    program = (
        "import time; from pathlib import Path\n"
        "from tests.xen.build import Images; from tests.xen.machine import Machine\n"
        f"p = Path({str(tmp_path)!r}); m = Machine(Images(p / 'qemu', '', (), p, p, p))\n"
        "print(m.pid, flush=True); time.sleep(600)"
    )
    ours = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert ours.stdout is not None
    pid = int(ours.stdout.readline())
    assert alive(pid)
    ours.send_signal(signal.SIGKILL)
    ours.wait()
    ours.stdout.close()
    end = time.monotonic() + LIMIT
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert not alive(pid)


def test_real_xen_is_a_target_like_the_others(tmp_path: Path, alone: Path) -> None:
    """The line's calls and answers by the protocol that all targets have: so what real Xen is asked can be recorded, too."""
    lines: list[str] = []
    with Machine(fake(tmp_path, "answers once"), boot_seconds=5.0, answer_seconds=1.0) as running:
        target: Target = Recorder(RealXen(running), lines.append)
        assert run([Said("dominfo", "", {"id": 1})], target) == [Answer("okay")]
        assert target.carry_out(guest_call(1, 0, "copy", elements=[{"src": 1}])) == NOT_AVAILABLE
    assert lines[0] == '{"i":0,"op":"dominfo","a":{"id":1},"res":{"code":"okay"}}\n' and len(lines) == 2


def test_a_call_that_the_executor_does_not_know_is_not_available(tmp_path: Path, alone: Path) -> None:
    with Machine(fake(tmp_path, "unknown"), boot_seconds=5.0, answer_seconds=1.0) as running:
        assert RealXen(running).carry_out(Said("advance", "", {"call": 3})) == NOT_AVAILABLE


def test_garbage_is_no_answer(tmp_path: Path, alone: Path) -> None:
    with (
        pytest.raises(RigFailed, match="garbage on the line"),
        Machine(fake(tmp_path, "no result"), boot_seconds=5.0, answer_seconds=1.0) as running,
    ):
        RealXen(running).carry_out(Said("dominfo", "", {"id": 1}))


def test_answers_of_real_xen_have_names() -> None:
    """As recordings have them: a negative result is an errno's; what else came back is given."""
    assert as_answered({"r": -22}) == Answer("EINVAL")
    assert as_answered({"r": 3, "w": "1"}) == Answer("okay", {"w": "1", "r": 3})
    assert as_answered({"r": -9999, "crashed": 1}) == Answer("crashed")
    said = as_said(Said("ga", "A", {"ref": 8}))
    assert said is not None and said.line() == "ga by=A ref=8"
    assert as_said(Said("ga", "A", {"ref": "8 9"})) is None
