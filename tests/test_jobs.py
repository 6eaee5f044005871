"""Work in other processes: uniform behaviour, and no process is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bulkhead.proofs.jobs import WorkerDied, Workers, count, descendants
from tests.processes import LONG, STARTED, end_all, start

ROOT = Path(__file__).parent.parent
GT = str(ROOT / "tests" / "benchmarks" / "gt.rules")
TAKES_LONG = [("prove", "hypervisor", "--out", "OUT"), ("diff", "--ops", "200000"), ("refine", "--all")]


def square(n: int) -> int:
    return n * n


def sleep(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def die(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def ended(pids: set[int], within: float) -> bool:
    """Have these processes ended in time? A zombie counts as ended."""
    until = time.monotonic() + within
    while True:
        left = [
            pid
            for pid in pids
            if Path(f"/proc/{pid}/stat").exists()
            and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        ]
        if not left or time.monotonic() > until:
            return not left
        time.sleep(0.01)


def workers_of(process: subprocess.Popen[str]) -> set[int]:
    """The workers of a command, once it has some."""
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        found = descendants(process.pid)
        if len(found) > 1:
            return found
        time.sleep(0.02)
    raise AssertionError("no workers")


@pytest.mark.parametrize("jobs", [1, 2])
def test_results_come_in_order(jobs: int) -> None:
    with Workers(jobs) as workers:
        assert list(workers.map(square, range(20))) == [n * n for n in range(20)]
        assert workers.submit(square, 7).result() == 49
        failed = workers.submit(square, "x")  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            failed.result()
    assert not descendants(os.getpid())


def test_one_job_is_this_process() -> None:
    with Workers(1) as workers:
        assert workers.submit(os.getpid).result() == os.getpid()
        assert not descendants(os.getpid())


def test_as_many_as_there_are_cpus() -> None:
    assert count(None) == len(os.sched_getaffinity(0)) and count(7) == 7


def test_what_still_works_is_ended() -> None:
    begun = time.monotonic()
    with pytest.raises(ZeroDivisionError), Workers(2) as workers:
        workers.submit(sleep, 60.0)
        assert workers.submit(square, 3).result() == 9
        raise ZeroDivisionError
    assert not descendants(os.getpid()) and time.monotonic() - begun < 10


def test_a_worker_that_dies_is_told() -> None:
    with pytest.raises(WorkerDied), Workers(2) as workers:
        list(workers.map(die, range(4)))
    assert not descendants(os.getpid())


def test_workers_end_with_a_parent_that_is_killed() -> None:
    code = (
        "import sys, time; sys.path.insert(0, '.'); from bulkhead.proofs.jobs import Workers; from tests.test_jobs "
        "import sleep; w = Workers(2); w.submit(sleep, 60.0); print('ready', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    STARTED.append(process.pid)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    children = workers_of(process)
    process.kill()
    process.wait()
    process.stdout.close()
    assert len(children) == 2 and ended(children, 10)


@pytest.mark.parametrize("arguments", TAKES_LONG, ids=lambda a: a[0])
def test_a_killed_worker_ends_the_command(arguments: tuple[str, ...], tmp_path: Path) -> None:
    process = start(*(str(tmp_path) if a == "OUT" else a for a in arguments), "--jobs", "2")
    children = workers_of(process)
    os.kill(min(children), signal.SIGKILL)
    _, err = process.communicate(timeout=LONG)
    assert process.returncode == 1 and err.splitlines()[-1].startswith("bulkhead: a worker process died"), err
    assert "Traceback" not in err and ended(children, 0)


@pytest.mark.parametrize("arguments", TAKES_LONG, ids=lambda a: a[0])
@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_all_of_it(arguments: tuple[str, ...], number: signal.Signals, code: int, tmp_path: Path) -> None:
    process = start(*(str(tmp_path) if a == "OUT" else a for a in arguments), "--jobs", "2")
    children = workers_of(process)
    process.send_signal(number)
    _, err = process.communicate(timeout=LONG)
    assert process.returncode == code and "Traceback" not in err
    assert err.endswith("\nInterrupted.\n") == (code == 130)
    assert ended(children, 0)


def test_nothing_is_left_when_a_command_ends() -> None:
    """When `prove` ends, its workers have ended, too."""
    process = start("prove", GT, "--jobs", "2")
    children = workers_of(process)
    while process.poll() is None:
        children |= descendants(process.pid)
        time.sleep(0.002)
    assert ended(children, 0)
    process.communicate()


def test_what_a_failing_test_leaves_is_ended() -> None:
    process = start("diff", "--ops", "200000", "--jobs", "2")
    children = workers_of(process)
    end_all()
    assert process.wait(timeout=LONG) == -signal.SIGKILL and ended(children, LONG)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    process.stderr.close()
