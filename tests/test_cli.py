"""The command line from a user's view: exit codes, messages, files; on a small system that proves fast."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bulkhead.proofs.cli import __main__ as cli
from bulkhead.proofs.cli import output
from bulkhead.proofs.theorems.vacuity import NEVER, REACHED, Vacuity
from tests.processes import LONG, STARTED, descendants, start

GT = str(Path(__file__).parent / "benchmarks" / "gt.rules")


def on_a_terminal(*arguments: str, env: dict[str, str] | None = None) -> tuple[subprocess.Popen[bytes], int]:
    """A command whose standard error is a terminal, and the other end of that; standard output goes nowhere."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "bulkhead.proofs.cli", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        cwd=Path(__file__).parent.parent,
        env={**(env or os.environ), "COLUMNS": "160", "TERM": "xterm"},
    )
    os.close(theirs)
    STARTED.append(process.pid)
    return process, ours


def read_until(terminal: int, wanted: re.Pattern[bytes], seconds: float = LONG) -> bytes:
    """What was written to a terminal until it has what is wanted, or its last writer has gone."""
    found, until = b"", time.monotonic() + seconds
    while not wanted.search(found) and time.monotonic() < until:
        if select.select([terminal], [], [], 0.2)[0]:
            try:
                found += os.read(terminal, 65536)
            except OSError:  # the other end is closed
                break
    return found


def run(*arguments: str) -> tuple[int, str, str]:
    process = start(*arguments)
    out, err = process.communicate(timeout=LONG)
    assert "Traceback" not in out + err
    return process.returncode, out, err


def test_prove_writes_json(tmp_path: Path) -> None:
    code, out, _ = run("prove", GT, "--json", str(tmp_path / "p.json"), "--why", "cover")
    assert code == 0, out
    found = json.loads((tmp_path / "p.json").read_text())
    assert set(found) == {"format", "systems", "queries", "solver_seconds", "seconds"}
    (system,) = found["systems"]
    (theorem,) = system["theorems"]
    assert system["name"] == "gt" and system["as_expected"] is True
    assert theorem["name"] == "cover" and theorem["verdict"] == theorem["expected"] == "proved"
    assert theorem["queries"] > 0 and theorem["trace"] is None
    assert "umap_gr" in out


def test_fault_is_refuted(tmp_path: Path) -> None:
    pytest.importorskip("bulkhead.proofs.theorems.attack")
    code, out, _ = run("prove", GT, "--fault", "b1", "--out", str(tmp_path))
    assert code == 1 and "refuted" in out
    assert (tmp_path / "gt" / "cover" / "trace.jsonl").stat().st_size > 0
    assert (tmp_path / "gt" / "cover" / "trace.txt").stat().st_size > 0


def test_fault_is_not_as_expected(tmp_path: Path) -> None:
    assert run("prove", GT, "--fault", "b1", "--out", str(tmp_path))[0] == 1


BAD_USE = [
    # system, theorem, fault, file
    "prove nonesuch",
    "attack nonesuch --out OUT",
    "export nonesuch --out OUT",
    "prove FOLDER",
    "prove /dev/zero",
    "prove ''",
    "prove GT --theorem nonesuch",
    "prove GT --why nonesuch",
    "attack GT nonesuch --out OUT",
    "attack GT --out OUT",
    "prove GT --fault nonesuch",
    "attack GT --fault nonesuch --out OUT",
    "export GT --fault nonesuch --out OUT",
    "check nonesuch.rules",
    "check FOLDER",
    "check /dev/null",
    "replay nonesuch.jsonl",
    "replay FOLDER",
    "replay GT",
    # unwritable places
    "prove GT --json FOLDER",
    "prove GT --json FILE/p.json",
    "prove GT --json /proc/p.json",
    "prove GT --out FILE",
    "prove GT --out FILE/below",
    "prove GT --out /proc/below",
    "attack GT cover --out FILE",
    "attack GT cover --out /proc/below",
    "export GT --out FILE/below",
    "export GT --out /proc/below",
    # commands and options
    "nonesuch",
    "prove GT --nonesuch",
    "prove",
    "export GT",
    "attack",
    "replay",
    "prove GT --jobs 0",
    "prove GT --jobs many",
    "prove GT --jobs 1000000000",
    "diff --jobs 0",
    "refine --jobs many",
    "prove GT --limit 0",
    "prove GT --limit -1",
    "prove GT --limit nan",
    "prove GT --limit inf",
    "prove GT --json",
    "replay --nonesuch x",
]


@pytest.mark.parametrize("line", BAD_USE)
def test_bad_use(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """One message and exit code 2, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FOLDER").mkdir()
    (tmp_path / "FILE").write_text("")
    assert cli.run([GT if word == "GT" else word for word in shlex.split(line)]) == 2
    said = capfd.readouterr()
    assert said.out == ""
    messages = [m for m in said.err.splitlines() if m and not m.lower().startswith(("usage:", "try "))]
    assert len(messages) == 1 and len(messages[0]) > 20
    assert not any(word in said.err for word in ("Traceback", "Recursion", "internal error", "Errno"))
    assert {p.name for p in tmp_path.rglob("*")} <= {"FOLDER", "FILE", "OUT"}


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


def runs(pid: int) -> bool:
    """Is this process alive? A zombie counts as ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.parametrize("arguments", [("refine",), ("diff", "--jobs", "2"), ("boot", "disaggregated", "--guests", "32")])
def test_interrupt_of_all_that_takes_long(arguments: tuple[str, ...], tmp_path: Path) -> None:
    """Killed workers report no failure, and temporary files are removed."""
    process = start(*arguments, env={**os.environ, "TMPDIR": str(tmp_path)})
    time.sleep(1.2)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=LONG)
    made = r"[\d,]+ calls of Xen and its drivers without a mismatch, seed 1\.\n" if arguments[0] == "diff" else ""
    assert process.returncode == 130 and re.fullmatch(rf"\n({made})?Interrupted\.\n", err), err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_campaign_tells_how_far_it_came(number: signal.Signals, code: int, tmp_path: Path) -> None:
    """Its calls and its seed, on standard error; and neither its files nor a process are left."""
    words = ("diff", "--system", "disaggregated", "--ops", "100000", "--seed", "77", "--jobs", "2")
    made = re.compile(rb"250/100000\b.*\b\d+/s")
    process, terminal = on_a_terminal(*words, env={**os.environ, "TMPDIR": str(tmp_path)})
    shown = read_until(terminal, made)
    assert made.search(shown), shown
    children = descendants(process.pid)
    assert len(children) == 2 and list(tmp_path.iterdir())
    process.send_signal(number)
    assert process.wait(timeout=LONG) == code
    last = read_until(terminal, re.compile(rb"mismatch, seed 77\.\r\n" + (rb"Interrupted\.\r\n" if code == 130 else rb"")))
    os.close(terminal)
    assert re.search(
        rb"\n[\d,]+ moves of DomB and its tools without a mismatch, seed 77\.\r\n(Interrupted\.\r\n)?$", last
    ), last
    assert (b"Interrupted." in last) == (code == 130)
    assert list(tmp_path.iterdir()) == [] and not [pid for pid in children if runs(pid)]


def test_no_signs_of_life_for_nobody() -> None:
    """Nothing on standard error when it is no terminal, and nothing on a terminal with `-q`."""
    words = ("diff", "--system", "disaggregated", "--ops", "300", "--jobs", "1")
    process = start(*words)
    assert "No mismatch" in process.communicate(timeout=LONG)[0] and process.returncode == 0
    process = start(*words)
    assert process.communicate(timeout=LONG)[1] == ""
    quiet, terminal = on_a_terminal(*words, "-q")
    assert quiet.wait(timeout=LONG) == 0 and read_until(terminal, re.compile(rb"\d")) == b""
    os.close(terminal)


@pytest.mark.parametrize("after", [0.6, 0.9, 1.5])
def test_interrupt(after: float, tmp_path: Path) -> None:
    """Ctrl-C ends a proof at once: it leaves no partial file and no process."""
    started = time.monotonic()
    process = start("prove", "hypervisor", "--jobs", "2", "--json", str(tmp_path / "p.json"))
    time.sleep(after)
    assert process.poll() is None
    while after > 1 and not descendants(process.pid) and time.monotonic() - started < LONG:  # a busy machine
        time.sleep(0.05)
    children = descendants(process.pid)
    process.send_signal(signal.SIGINT)
    begun = time.monotonic()
    _, err = process.communicate(timeout=LONG)
    assert process.returncode == 130
    assert err.endswith("Interrupted.\n") and "Traceback" not in err
    assert list(tmp_path.iterdir()) == []
    assert children or after < 1
    while any(map(runs, children)) and time.monotonic() - begun < LONG:  # killed, but the kernel has not finished
        time.sleep(0.01)
    assert not [pid for pid in children if runs(pid)]


@pytest.mark.parametrize("arguments", [("check",), ("prove", GT, "--jobs", "1", "--no-cross-check"), ("--help",)])
def test_nobody_reads(arguments: tuple[str, ...]) -> None:
    """A closed pipe (`bulkhead check | head -0`) causes no traceback."""
    process = start(*arguments)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=LONG) in (0, 1)
    assert "Traceback" not in err and "Exception" not in err and "rror" not in err


def test_results_go_where_they_are_sent(tmp_path: Path) -> None:
    """A link is followed, a pipe is written to; an unwritable file is refused before any work."""
    target, link, pipe = tmp_path / "target", tmp_path / "link", tmp_path / "pipe"
    link.symlink_to(target)
    assert run("prove", GT, "--json", str(link))[0] == 0
    assert link.is_symlink() and json.loads(target.read_text())["queries"]
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        got = pool.submit(pipe.read_text)
        assert run("prove", GT, "--json", str(pipe))[0] == 0
        assert pipe.is_fifo() and json.loads(got.result(timeout=LONG))["queries"]
    if os.geteuid():  # root may write anything
        target.chmod(0o444)
        assert run("prove", GT, "--json", str(target))[0] == 2


def test_nobody_to_tell() -> None:
    shell = f"exec {sys.executable} -m bulkhead.proofs.cli check {GT} >&-"
    folder = Path(__file__).parent.parent
    process = subprocess.run(shell, shell=True, stderr=subprocess.PIPE, text=True, cwd=folder, timeout=LONG)
    assert (process.returncode, process.stderr) == (0, "")


def test_full_disk() -> None:
    with open("/dev/full", "w") as full:
        process = subprocess.run(
            [sys.executable, "-m", "bulkhead.proofs.cli", "check", GT],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent.parent,
            timeout=LONG,
        )
    assert process.returncode == 2 and process.stderr == "bulkhead: No space left on device.\n"


def test_a_trace_is_told_again_and_one_that_does_not_replay_is_refused(tmp_path: Path) -> None:
    assert run("attack", "monolithic", "--out", str(tmp_path / "a"))[0] == 0
    file = tmp_path / "a" / "trace.jsonl"
    code, out, _ = run("replay", str(file))
    assert code == 0 and "now only_by_grant is false" in out
    lines = file.read_text().splitlines(keepends=True)
    for changed, says in (
        (lines[:2] + lines[3:], ":3: `i` is 2; of `privcmd_mmapbatch` as event 1 it is 1"),
        ([*lines[:2], lines[3].replace('"i": 2', '"i": 1')], "event 1: `privcmd_mmapbatch` cannot be taken"),
        ([*lines[:2], lines[2].replace('"okay"', '"EPERM"'), lines[3]], '`result` is "EPERM"'),
        ([*lines[:3], lines[3].replace('"foreign"', '"own"')], "become own, the rules foreign"),
        (lines[:1], "ends after its header"),
    ):
        file.write_text("".join(changed))
        code, out, err = run("replay", str(file))
        assert (code, out) == (2, "") and says in err, err
    file.write_text("".join(lines[:3]))
    code, out, err = run("replay", str(file))
    assert (code, out) == (2, "") and "holds in every state" in err


def test_a_trace_of_rules_of_ones_own_is_replayed_by_their_file(tmp_path: Path) -> None:
    assert run("attack", GT, "--fault", "b1", "--out", str(tmp_path))[0] == 0
    file = str(tmp_path / "trace.jsonl")
    for words in ((), ("--system", GT)):
        code, out, _ = run("replay", file, *words)
        assert code == 0 and out == (tmp_path / "trace.txt").read_text()
    trace = tmp_path / "trace.jsonl"  # like a trace from before rules were written beside traces
    head, _, rest = trace.read_text().partition("\n")
    trace.write_text(head.partition(', "rules"')[0] + "}\n" + rest)
    wrong: tuple[tuple[tuple[str, ...], str], ...] = (
        ((file,), "`gt`, which is not a shipped one; say where its rules are: --system"),
        ((file, "--system", "nonesuch"), "no system `nonesuch`"),
        ((file, "--system", "monolithic"), "a trace of system `gt`, not of `monolithic`"),
        ((file, "--system", str(tmp_path / "absent.rules")), "absent.rules"),
        ((GT, "--system", GT), "not a trace"),
        ((file, file, "--system", GT), "by itself"),
        ((), "needs a FILE"),
    )
    for given, says in wrong:
        code, out, err = run("replay", *given)
        assert (code, out) == (2, "") and says in err and err.count("\n") == 1
    assert run("attack", "monolithic", "--out", str(tmp_path))[0] == 0
    code, out, err = run("replay", file, "--system", GT)
    assert (code, out) == (2, "") and "a trace of system `monolithic`, not of `gt`" in err
    assert run("replay", file, "--system", "monolithic")[0] == 0


def test_vacuity_is_named_first() -> None:
    """A rule that never fires, an unsatisfiable claim, an unsatisfiable initial formula: none counts as `not vacuous`."""
    never = {"a": REACHED, "b": NEVER}
    for found, word in (
        (Vacuity("sat", "sat", {"a": REACHED}), "not vacuous"),
        (Vacuity("sat", "sat", never), "vacuous in part"),
        (Vacuity("unsat", "unsat", {}), "vacuous"),
        (Vacuity("sat", "unsat", never), "vacuous"),
        (Vacuity("sat", "unknown", {"a": REACHED}), "perhaps vacuous"),
    ):
        assert found.summary().partition(":")[0] == word and bool(found.errors()) == (word != "not vacuous")


def test_progress_without_a_terminal_counts_what_it_counts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`faults` looks for faults, and decides no queries."""
    monkeypatch.setattr(output, "TELLS_EVERY", -1)
    with output.Output().progress("faults", "looked for") as tick:
        tick(3)
    assert capsys.readouterr().err == "faults ...\nfaults: 3 looked for\n"
