"""What `bulkhead attack SYSTEM --fault FAULT` showed for each fault of a shipped system: one file for each system.

A line of `SYSTEM.jsonl.gz` is one fault: the lines of its trace (`bulkhead-trace/1`) without what each step changes, or
that no claim falls, or that nothing was found. What the steps change is left out because the rules say it: a replay
computes it again. Not here: the search, and what is checked of an attack.
"""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bulkhead.model.executable import ExecutableModel
from bulkhead.model.ir import System
from bulkhead.model.trace import Trace, load_jsonl, to_jsonl
from bulkhead.proofs.atomic_files import write_file

HERE = Path(__file__).parent
SYSTEMS = {  # the name of the file, and of the system or its rules
    "gt": str(HERE.parent / "benchmarks" / "gt.rules"),
    "hypervisor": "hypervisor",
    "monolithic": "monolithic",
    "disaggregated": "disaggregated",
}


@dataclass(frozen=True)
class Outcome:
    """A fault, and its attack as lines of a trace; without one either all claims are `proved`, or nothing was found.

    `broken` names the invariants that the proof with the fault lacks.
    """

    fault: str
    rows: tuple[str, ...] = ()
    proved: bool = False
    broken: tuple[str, ...] = ()

    def trace(self, system: System) -> Trace:
        """Its attack. Raises `TraceError` if the system has no such places, steps or elements."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"{self.fault}.jsonl"
            file.write_text("\n".join(self.rows) + "\n")
            return load_jsonl(file, system)


def attacked(fault: str, trace: Trace, system: System) -> Outcome:
    """The outcome with an attack."""
    rows = [json.loads(line) for line in to_jsonl(trace, system, ExecutableModel(system, trace.world)).splitlines()]
    for row in rows:
        row.pop("changes", None)
    return Outcome(fault, tuple(json.dumps(row, separators=(",", ":")) for row in rows))


def file_of(system: str) -> Path:
    """The file of a system."""
    return HERE / f"{system}.jsonl.gz"


def read(system: str) -> dict[str, Outcome]:
    """The outcomes of a system, by fault; none if there is no file yet."""
    if not file_of(system).exists():
        return {}
    found = {}
    for line in gzip.decompress(file_of(system).read_bytes()).decode().splitlines():
        row = json.loads(line)
        rows = tuple(json.dumps(r, separators=(",", ":")) for r in row["trace"])
        found[row["fault"]] = Outcome(row["fault"], rows, row["proved"], tuple(row["broken"]))
    return found


def write(system: str, outcomes: Iterable[Outcome]) -> None:
    """Write the file of a system; the same outcomes give the same bytes."""
    lines = [
        json.dumps(
            {"fault": o.fault, "proved": o.proved, "broken": list(o.broken), "trace": [json.loads(r) for r in o.rows]},
            separators=(",", ":"),
        )
        for o in outcomes
    ]
    write_file(file_of(system), gzip.compress("".join(line + "\n" for line in lines).encode(), mtime=0))


__all__ = ["HERE", "SYSTEMS", "Outcome", "attacked", "file_of", "read", "write"]
