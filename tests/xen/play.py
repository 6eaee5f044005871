"""Runs a script of calls on a fresh machine, and returns the lines of a recording."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.xen.build import Images
from tests.xen.machine import Machine
from tests.xen.protocol import Call, answers, record


@dataclass
class Run:
    """The result of one machine, and its time in seconds."""

    lines: list[dict[str, Any]] = field(default_factory=list)
    boot: float = 0.0
    calls: float = 0.0
    stuck: str = ""  # the call that never returned on real Xen; there are no answers after it


def play(images: Images, calls: Sequence[Call]) -> Run:
    """Boot, make the calls, shut down. RigFailed if the machine fails."""
    run = Run()
    with Machine(images) as machine:
        run.boot = machine.boot_seconds
        started = time.monotonic()
        for number, (call, answer) in enumerate(zip(calls, answers(machine, calls), strict=True)):
            run.lines.append(record(number, call, answer))
            if answer.results.get("stuck"):
                run.stuck = call.line()
                break
        run.calls = time.monotonic() - started
    return run
