"""Commands that tests run as processes of their own, and the end of those that a failing test has left.

`conftest.py` ends them after each test. Not here: what a test wants to see of a command.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
LONG: Final = 600.0  # seconds after which a test gives up; how fast an answer comes depends on what else the machine does
STARTED: Final[list[int]] = []  # processes of the test that runs


def start(*arguments: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """`bulkhead` with these arguments; what it writes is read by the test."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bulkhead.proofs.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=env,
    )
    STARTED.append(process.pid)
    return process


def descendants(pid: int) -> set[int]:
    """All processes that one has started, and that these have; read from /proc, not by the code under test."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(entry.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry.parent.name))
    found: set[int] = set()
    todo = [pid]
    while todo:
        more = children.get(todo.pop(), [])
        found.update(more)
        todo += more
    return found


def end_all() -> None:
    """End what is left of the processes of a test, with all that they have started."""
    for pid in [*(child for each in STARTED for child in descendants(each)), *STARTED]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    STARTED.clear()
