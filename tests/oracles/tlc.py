"""TLC, the model checker of TLA+, as an oracle: the states of a module written by hand, and the length of its violations.

`find` locates its jar (`tla2tools.jar` of the TLA+ project, named by BULKHEAD_TLC) and Java, or gives the reason why TLC
cannot be used; tests skip then. One worker, breadth first: a violation that it shows is a shortest one. Not here: the
modules, which stand in `tests/examples/tla/` and `tests/benchmarks/`, or the comparison with the rules.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

PATIENCE = 300.0  # seconds until TLC counts as hanging


class TLCError(RuntimeError):
    """TLC gave no answer; the text has the end of what it said."""


@dataclass(frozen=True)
class Searched:
    """All states of a module, or the shortest violation that was found: then `states` are those found until then."""

    states: int
    rounds: int  # until there are no new states: the depth of the graph
    seconds: float  # of the search, without the start of Java and the reading of the module
    violated: str = ""
    steps: int = 0  # of the violation


def find() -> tuple[Path, str]:
    """The jar, or an empty path and the reason."""
    named = os.environ.get("BULKHEAD_TLC", "")
    if not named:
        return Path(), "needs TLC (BULKHEAD_TLC with the path of tla2tools.jar)"
    if not Path(named).is_file():
        return Path(), f"BULKHEAD_TLC is {named}, which is no file"
    if shutil.which("java") is None:
        return Path(), "TLC needs Java (apt-get install default-jre-headless)"
    return Path(named), ""


def searched(
    jar: Path, module: Path, constants: Mapping[str, str], invariants: Iterable[str] = (), properties: Iterable[str] = ()
) -> Searched:
    """All states of a module, with one worker. `constants` have their values as TLA+ text. Raises `TLCError`."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(module, folder)
        lines = ["SPECIFICATION Spec", "CONSTANTS", *(f"    {name} = {value}" for name, value in constants.items())]
        lines += [*(f"INVARIANT {name}" for name in invariants), *(f"PROPERTY {name}" for name in properties)]
        (Path(folder) / f"{module.stem}.cfg").write_text("\n".join(lines) + "\n", encoding="ascii")
        command = ["java", "-XX:+UseParallelGC", "-cp", str(jar), "tlc2.TLC"]
        command += ["-deadlock", "-noGenerateSpecTE", "-workers", "1", module.name]  # deadlocks are no errors here
        out, seconds = _timed(command, Path(folder))
    states = re.search(r"([\d,]+) distinct states found, \d+ states left on queue\.$", out, re.MULTILINE)
    depth = re.search(r"The depth of the complete state graph search is (\d+)", out)
    violated = re.search(r"Error: (?:Invariant|Action property) (\w+) is violated", out)
    if states is None or (depth is None and violated is None):
        raise TLCError(f"TLC on {module.name}: {out[-800:]}")
    steps = max((int(n) - 1 for n in re.findall(r"^State (\d+):", out, re.MULTILINE)), default=0)
    return Searched(
        int(states[1].replace(",", "")),
        int(depth[1]) - 1 if depth else 0,  # TLC counts the initial state, too
        seconds,
        violated[1] if violated else "",
        steps if violated else 0,
    )


def _timed(command: list[str], folder: Path) -> tuple[str, float]:
    """What TLC says, and the seconds from its first initial state to its last word about the states."""
    said: list[str] = []
    begun = end = time.perf_counter()
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        watch = threading.Timer(PATIENCE, process.kill)
        watch.start()
        assert process.stdout is not None
        try:
            for line in process.stdout:
                said.append(line)
                if line.startswith("Computing initial states"):
                    begun = time.perf_counter()
                if line.startswith("Model checking completed"):
                    end = time.perf_counter()
        finally:
            watch.cancel()
    return "".join(said), max(end - begun, 0.01)


__all__ = ["Searched", "TLCError", "find", "searched"]
