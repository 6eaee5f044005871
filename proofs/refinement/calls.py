"""Calls and targets: a workload makes calls as plain data, and a target executes calls and answers.

A `Call` names an operation, its caller and its arguments; it contains neither bytes nor rules. Targets (targets.py) are the
rules alone, the implementation alone, and both in lockstep. `Recorder` records the calls to another target, and `replay`
makes the calls of a file on any target. Arguments are numbers, or names of results of earlier calls (`page 3`), which a
target resolves to its own objects; so every target can execute the same calls. A line of a file has the form of a line in
recordings of real Xen, `{"i": 0, "op": ..., "a": {"by": ..., ...}, "res": ...}`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from bulkhead.proofs.atomic_files import write_file

FORMAT: Final = "bulkhead-calls/1"


class BadCalls(Exception):
    """A file without valid calls; the message is one line with place and reason."""


@dataclass(frozen=True)
class Call:
    """One operation: its name, who calls (`d1v0` is vCPU 0 of domain 1; may be ""), and its arguments, all of them JSON."""

    operation: str
    by: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As a recording's line has it."""
        return {"op": self.operation, "a": {**({"by": self.by} if self.by else {}), **self.arguments}}

    @staticmethod
    def from_json(line: Mapping[str, Any]) -> Call:
        """A line's call; ValueError with the problem."""
        operation, arguments = line.get("op"), line.get("a")
        if not isinstance(operation, str) or not isinstance(arguments, dict) or not isinstance(arguments.get("by", ""), str):
            raise ValueError("a call needs a name `op` and arguments `a`, and its caller `by`, if any, is a name")
        return Call(operation, arguments.get("by", ""), {key: value for key, value in arguments.items() if key != "by"})

    def caller(self) -> tuple[int, int]:
        """Domain and vCPU of a guest's call."""
        domid, _, vcpu = self.by.removeprefix("d").partition("v")
        return int(domid), int(vcpu)


def guest_call(domid: int, vcpu: int, operation: str, /, **arguments: Any) -> Call:
    """A call by a guest."""
    return Call(operation, f"d{domid}v{vcpu}", arguments)


@dataclass(frozen=True)
class Answer:
    """The result of a call, in names that all targets share: `okay`, `GNTST_...` or an errno's name; and its values as
    JSON (a descriptor, an address, ports, a status for each element)."""

    code: str
    given: Any = None

    def to_json(self) -> dict[str, Any]:
        """As a recording's line has it."""
        return {"code": self.code, **({} if self.given is None else {"given": self.given})}


NOT_DONE: Final = Answer("not done")  # the caller could predict that the call would have no effect
IN_FLIGHT: Final = Answer("in flight")  # the call has yielded; `advance` continues it
UNBOUND: Final = Answer("unbound")  # an argument is an unknown name


class Target(Protocol):
    """Executes calls, one after the other."""

    def carry_out(self, call: Call) -> Answer:
        """Make a call. Raises if rules and implementation differ."""
        ...


class Interleaving(Target, Protocol):
    """A target that leaves calls in flight after their first step. Calls of Dom0's kernel occur during a
    process's call: then the target runs the actions of others (`meanwhile`), and continues when that call has returned."""

    meanwhile: Callable[[Any], None]


@dataclass
class Recorder:
    """A target that records the calls to another target and its answers."""

    target: Target
    lines: list[dict[str, Any]] = field(default_factory=list)

    def carry_out(self, call: Call) -> Answer:
        """Make a call on the other target."""
        answer = self.target.carry_out(call)
        self.lines.append({"i": len(self.lines), **call.to_json(), "res": {"code": answer.code}})
        return answer

    def write(self, path: Path, seed: int) -> None:
        """Write the file of all calls so far; OSError if that fails."""
        header = {"format": FORMAT, "seed": seed}
        write_file(path, "".join(json.dumps(line) + "\n" for line in (header, *self.lines)))


def read(path: Path) -> list[tuple[Call, Answer]]:
    """The calls of a file, with their answers. BadCalls has the problem."""
    try:
        header, *lines = path.read_text(encoding="utf-8").splitlines()
        told = json.loads(header)
    except (OSError, ValueError) as exc:
        raise BadCalls(f"{path}: not a file of calls ({exc})") from exc
    if not isinstance(told, dict) or told.get("format") != FORMAT:
        raise BadCalls(f"{path}:1: the format is not {FORMAT}")
    out = []
    for number, text in enumerate(lines, 2):
        try:
            line = json.loads(text)
            if not isinstance(line, dict) or not isinstance(line.get("res"), dict):
                raise ValueError("a line is an object with a result `res`")
            out.append((Call.from_json(line), Answer(str(line["res"].get("code")))))
        except ValueError as exc:
            raise BadCalls(f"{path}:{number}: {exc}") from exc
    return out


@dataclass(frozen=True)
class Difference:
    """A call that two targets answer differently."""

    number: int
    call: Call
    recorded: Answer
    answer: Answer


def replay(recorded: Iterable[tuple[Call, Answer]], target: Target) -> Iterator[Difference]:
    """Make recorded calls on a target; yields each answer that differs."""
    for number, (call, before) in enumerate(recorded):
        now = target.carry_out(call)
        if now != before:
            yield Difference(number, call, before, now)


def run(workload: Iterable[Call], target: Target, told: Callable[[Call, Answer], None] | None = None) -> list[Answer]:
    """All calls of a workload on a target, in order."""
    answers = []
    for call in workload:
        answers.append(target.carry_out(call))
        if told is not None:
            told(call, answers[-1])
    return answers
