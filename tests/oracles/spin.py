"""Spin, the model checker of Promela, as an oracle: the states of a model written by hand, and the length of its violations.

`find` says why Spin cannot be used; tests skip then. Breadth first and without reduction, so that Spin stores exactly the
states between `d_step`s, and a violation that it shows is a shortest one. Not here: the models, which stand in
`tests/examples/promela/` and `tests/benchmarks/`, or the comparison with the rules.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

PATIENCE = 300.0  # seconds until one of the commands counts as hanging


class SpinError(RuntimeError):
    """Spin gave no answer; the text has the end of what it said."""


@dataclass(frozen=True)
class Stored:
    """All states of a model, or the shortest violation of an assertion: then `states` are those found until then."""

    states: int
    seconds: float  # of the verifier, without its compilation
    steps: int = 0  # to the violation; 0: there is none


def find() -> str:
    """Nothing, or the reason why Spin cannot be used."""
    missing = [program for program in ("spin", "gcc") if shutil.which(program) is None]
    return "needs Spin and gcc (apt-get install spin gcc)" if missing else ""


def searched(model: str, *defines: str, optimise: bool = False) -> Stored:
    """All states of a Promela model. `optimise` takes longer to compile. Raises `SpinError`."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "model.pml").write_text(model, encoding="ascii")
        # -o2: what is written and never read is state, too
        _run(folder, "spin", "-o2", *(f"-D{d}" for d in defines), "-a", "model.pml")
        _run(folder, "gcc", "-O2" if optimise else "-O0", "-w", "-DBFS", "-DNOREDUCE", "-o", "pan", "pan.c")
        out = _run(folder, "./pan", "-m100000")
    stored = re.search(r"(\d+) states, stored", out)
    seconds = re.search(r"elapsed time ([\d.]+) seconds", out)
    violated = re.search(r"assertion violated .*\(at depth (\d+)\)", out)
    whole = "errors: 0" in out and "Search not completed" not in out
    if stored is None or seconds is None or not (violated or whole):
        raise SpinError(f"spin: {out[-800:]}")
    steps = int(violated[1]) + 1 if violated else 0  # Spin counts the steps before the one that violates
    return Stored(int(stored[1]), max(float(seconds[1]), 0.01), steps)


def _run(folder: str, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE, check=False)
    if done.returncode:
        raise SpinError(f"{command[0]}: {(done.stdout + done.stderr)[-800:]}")
    return done.stdout


__all__ = ["SpinError", "Stored", "find", "searched"]
