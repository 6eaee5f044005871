"""Calls and answers over a machine's connection.

A call is one line, `op key=value ...`, an answer one JSON object; both are those of recordings in the format
`xen-gnt-oracle/1` with the extended operations, so that calls and answers can be recorded as they are. Contents: the
two forms and the pipelining. Not here: the transport (machine.py), and which calls are made.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bulkhead.proofs.atomic_files import write_file
from bulkhead.proofs.refinement.recording import packed
from tests.xen.machine import Machine
from tests.xen.problems import RigFailed

FORMAT: Final = "xen-gnt-oracle/1"
XEN: Final = "4.17.7+13-g2445b30a44-0+deb12u1"
LINUX: Final = "6.1.0-56-amd64 (6.1.192-2)"
WHY: Final = ("crashed", "stuck")  # the reason for a missing answer; the recording has -9999 or -110 then
WINDOW: Final = 64  # pipelined calls at a time; each is answered before the next one starts


@dataclass(frozen=True)
class Call:
    """One operation: its name, its arguments, the grant entries to read after it, and its purpose."""

    op: str
    args: Mapping[str, Any] = field(default_factory=dict)
    show: str = ""
    note: str = ""

    def line(self) -> str:
        """The executor's form. Words have no spaces."""
        words = [self.op, *(f"{key}={value}" for key, value in self.args.items())]
        return " ".join([*words, f"show={self.show}"] if self.show else words)


@dataclass(frozen=True)
class Answer:
    """An answer: results by name, and grant entries."""

    results: Mapping[str, Any]
    entries: Mapping[str, Any]


class UnknownCall(ValueError):
    """The executor has no such operation."""


def parse(line: str, call: Call) -> Answer:
    """Parse one answer; ValueError with the problem."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as exc:
        raise ValueError(f"not an answer: {line[:120]!r}") from exc
    if not isinstance(value, dict) or not isinstance(value.get("r"), int):
        raise ValueError(f"an answer without a result: {line[:120]!r}")
    if value.get("unknown"):
        raise UnknownCall(f"the executor does not know `{call.op}`")
    entries = value.pop("e", {})
    if not isinstance(entries, dict):
        raise ValueError(f"entries that are none: {line[:120]!r}")
    return Answer(value, entries)


def answers(machine: Machine, calls: Sequence[Call], window: int = WINDOW) -> Iterator[Answer]:
    """Each call's answer, in order. RigFailed names the call that was never answered."""
    sent = 0
    for done, call in enumerate(calls):
        if sent == done or sent - done < window // 2:
            upto = min(len(calls), done + window)
            machine.send([item.line() for item in calls[sent:upto]], call.line())
            sent = upto
        line = machine.receive(None, call.line())
        try:
            yield parse(line, call)
        except ValueError as exc:
            raise RigFailed(f"garbage on the line: {exc}", machine.console(), call.line()) from exc


def record(number: int, call: Call, answer: Answer) -> dict[str, Any]:
    """One line of a recording."""
    results = {key: value for key, value in answer.results.items() if key not in WHY}
    out: dict[str, Any] = {"i": number, "c": call.note, "op": call.op, "a": dict(call.args), "res": results}
    if call.show:
        out["e"] = dict(answer.entries)
    return out


def write_recording(path: Path, profile: str, seed: int, lines: Sequence[Mapping[str, Any]]) -> None:
    """A recording for `bulkhead replay`; compressed if the file's name ends in `.xz`."""
    header = {"format": FORMAT, "profile": profile, "seed": str(seed), "xen": XEN, "linux": LINUX}
    write_file(path, packed(path, "".join(json.dumps(line) + "\n" for line in (header, *lines))))
