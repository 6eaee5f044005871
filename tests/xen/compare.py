"""What real Xen answered, held against the implementation, call by call.

Contents: the walk over a recording with `proofs/replay` beside it, and what a difference is. Not here: how
answers are compared (proofs/replay/compare.py), and which differences are known (its known.json).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bulkhead.proofs.replay.compare import differences, explained, load_known
from bulkhead.proofs.replay.ops import execute
from bulkhead.proofs.replay.rig import Rig

Line = Mapping[str, Any]


@dataclass(frozen=True)
class Difference:
    """One answer that is not the same: of which call, which part of it, and both answers."""

    number: int
    line: Line
    field: str
    real: Any
    ours: Any

    @property
    def kind(self) -> tuple[str, ...]:
        """What has to stay the same while a trace is made shorter: the operation and the part of its answer."""
        a = self.line["a"]
        return (self.line["op"], *(str(a.get(key, "")) for key in ("nr", "a1", "req")), self.field.partition(".")[0][:1])

    def text(self) -> str:
        """For people."""
        return f"{describe(self.line)}\n    {self.field}: real Xen {self.real!r}, the implementation {self.ours!r}"


def describe(line: Line) -> str:
    """A call as one line of text."""
    return " ".join([f"{line['i']}: {line['op']}", *(f"{key}={value}" for key, value in line["a"].items())])


def compare(lines: Sequence[Line]) -> Iterator[Difference]:
    """All unexplained differences, in order. After the first one the two sides may have gone different ways."""
    known = load_known()
    rig = Rig(profile="")
    for number, line in enumerate(lines):
        skip: set[str] = set()
        try:
            result = execute(rig, line["op"], line["a"], skip)
            found = rig.drift.told_once(dict(line), result, differences(rig, dict(line), result, skip))
        except Exception as exc:  # whatever the implementation's Python does is a finding, not the end of the run
            what = " ".join(f"{type(exc).__name__} {exc}".split())[:200]
            yield Difference(number, line, "exception", line.get("res"), what)
            continue
        for field, real, ours in found:
            if explained(known, dict(line), (field, real, ours)) is None:
                yield Difference(number, line, field, real, ours)


def first(lines: Sequence[Line]) -> Difference | None:
    """The first unexplained difference."""
    return next(compare(lines), None)
