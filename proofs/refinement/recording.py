"""Recordings of runs: files of JSON lines, written while a target executes the calls, and read back.

The first line names the format and the run's parameters. A line `{"i", "op", "a", "steps", "res"}` is a call: the rule
steps taken for it, `[label, arguments, code]` each, and the answer. A call with nested calls takes several lines with the
same `i`: the first has `op`, the last has `res`. The schema is results/schemas/bulkhead-calls-1.json. Not here: replay
(play.py).
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bulkhead.model.diagnostics import UsageError
from bulkhead.proofs.refinement.calls import Answer, Call, Step, Target

FORMAT: Final = "bulkhead-calls/1"
MACHINE: Final = "machine"  # the call that an episode begins with: a fresh machine, {seed}


class BadCalls(UsageError):
    """A file without valid calls; the message is one line with place and reason."""


@dataclass(frozen=True)
class Header:
    """The parameters of a run."""

    system: str = ""  # "" for calls outside of a campaign
    seed: int = 0
    steps: bool = False  # ran in lockstep with the rules, and recorded their steps

    def line(self) -> str:
        """The first line of the file."""
        return json.dumps({"format": FORMAT, "system": self.system, "seed": self.seed, "steps": self.steps}) + "\n"


@dataclass(frozen=True)
class Event:
    """One line: a call begins (`call`), the rules take steps, a call ends (`answer`); often all at once."""

    line: int
    number: int
    call: Call | None
    steps: tuple[Step, ...]
    answer: Answer | None


@dataclass
class Recorder:
    """A target that records the calls to another target and its answers; `log` receives the rules' steps."""

    target: Target
    write: Callable[[str], object]
    log: list[Step] | None = None
    count: int = 0
    open: list[int] = field(default_factory=list)  # calls in progress, the innermost last
    unwritten: dict[str, Any] | None = None  # the innermost call, while none of its lines is written

    @property
    def meanwhile(self) -> Any:
        """The supplier of nested calls."""
        return self.target.meanwhile  # type: ignore[attr-defined]

    @meanwhile.setter
    def meanwhile(self, value: Any) -> None:
        self.target.meanwhile = value  # type: ignore[attr-defined]

    def carry_out(self, call: Call) -> Answer:
        """Make a call on the other target."""
        self._flush()
        number = self.begin(call)
        try:
            answer = self.target.carry_out(call)
        except BaseException:
            self._flush()
            raise
        return self.end(number, answer)

    def begin(self, call: Call) -> int:
        """A call begins."""
        self.open.append(self.count)
        self.unwritten = {"i": self.count, **call.to_json()}
        self.count += 1
        return self.open[-1]

    def end(self, number: int, answer: Answer) -> Answer:
        """A call has come to its end."""
        line = self.unwritten or {"i": number}
        self.unwritten = None
        self.open.pop()
        self._write({**line, **self._steps(), "res": answer.to_json()})
        return answer

    def _flush(self) -> None:
        """Write the innermost call's data so far, if there is any."""
        if self.unwritten is not None or (self.open and self.log):
            self._write({**(self.unwritten or {"i": self.open[-1]}), **self._steps()})
            self.unwritten = None

    def _steps(self) -> dict[str, Any]:
        if not self.log:
            return {}
        steps = [[label, args, code, *([] if fail is None else [fail])] for label, args, code, fail in self.log]
        self.log.clear()
        return {"steps": steps}

    def _write(self, line: dict[str, Any]) -> None:
        self.write(json.dumps(line, separators=(",", ":")) + "\n")


def packed(path: Path, text: str) -> bytes:
    """The content of a file; compressed if its name ends in `.xz`."""
    return lzma.compress(text.encode()) if path.suffix == ".xz" else text.encode()


def read(path: Path) -> tuple[Header, Iterator[Event]]:
    """The header and the lines of a file. BadCalls has the problem, also while lines are read."""
    lines = _lines(path)
    number, text = next(lines, (1, ""))
    told = _object(path, number, text)
    if told.get("format") != FORMAT:
        raise BadCalls(f"{path}:1: the format is {told.get('format')!r}, and not {FORMAT!r}: no file of calls")
    system, seed, steps = told.get("system", ""), told.get("seed", 0), told.get("steps", False)
    if not (isinstance(system, str) and isinstance(seed, int) and isinstance(steps, bool)):
        raise BadCalls(f"{path}:1: the header needs a name `system`, a number `seed`, and `steps`, which is true or false")
    return Header(system, seed, steps), (_event(path, n, _object(path, n, line)) for n, line in lines)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with lzma.open(path) if path.suffix == ".xz" else path.open("rb") as stream:
            for number, raw in enumerate(stream, 1):
                yield number, raw.decode()
    except (OSError, EOFError, UnicodeDecodeError, lzma.LZMAError) as exc:
        raise BadCalls(f"{path}: cannot be read ({getattr(exc, 'strerror', None) or exc})") from exc


def _object(path: Path, number: int, text: str) -> dict[str, Any]:
    try:
        told = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise BadCalls(f"{path}:{number}: not JSON: {exc}") from exc
    if not isinstance(told, dict):
        raise BadCalls(f"{path}:{number}: a line is an object, with `op` and `a` for a call")
    return told


def _event(path: Path, number: int, line: dict[str, Any]) -> Event:
    try:
        i, result = line.get("i"), line.get("res")
        if not isinstance(i, int):
            raise ValueError("a line needs the number `i` of its call")
        if result is not None and not (isinstance(result, dict) and isinstance(result.get("code"), str)):
            raise ValueError("a result `res` has a `code`")
        answer = None if result is None else Answer(result["code"], result.get("given"))
        steps = line.get("steps", [])
        if not isinstance(steps, list):
            raise ValueError("`steps` is a list")
        return Event(number, i, Call.from_json(line) if "op" in line else None, tuple(map(_step, steps)), answer)
    except ValueError as exc:
        raise BadCalls(f"{path}:{number}: {exc}") from exc


def _step(step: Any) -> Step:
    match step:
        case [str() as label, dict() as args, (str() | None) as code, *rest] if len(rest) < 2 and all(
            isinstance(value, int) for value in args.values()
        ):
            return label, args, code, rest[0] if rest else None
    raise ValueError("a step is a label, arguments that are numbers, and a code")


def calls(events: Iterable[Event]) -> Iterator[tuple[Call, Answer]]:
    """Sequential calls, with their answers."""
    for event in events:
        if event.call is None or event.answer is None:
            raise BadCalls(f"line {event.line}: calls were made in the midst of others, and cannot be made one by one")
        yield event.call, event.answer
