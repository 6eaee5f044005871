"""Compares the answers of real Xen with the implementation, call by call.

Contents: the replay of a recording by `proofs/replay`, and the form of a difference. Not here: the comparison of
answers (proofs/replay/compare.py), and known differences (its known.json).
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
    """One different answer: its call, the differing part, and both answers."""

    number: int
    line: Line
    field: str
    real: Any
    ours: Any

    @property
    def kind(self) -> tuple[str, ...]:
        """The property that shrinking keeps: the operation and the differing part of its answer."""
        a = self.line["a"]
        return (self.line["op"], *(str(a.get(key, "")) for key in ("nr", "a1", "req")), self.field.partition(".")[0][:1])

    def text(self) -> str:
        """A readable form."""
        return f"{describe(self.line)}\n    {self.field}: real Xen {self.real!r}, the implementation {self.ours!r}"


def describe(line: Line) -> str:
    """A call as one line of text."""
    return " ".join([f"{line['i']}: {line['op']}", *(f"{key}={value}" for key, value in line["a"].items())])


def compare(lines: Sequence[Line]) -> Iterator[Difference]:
    """All unexplained differences, in order. After the first one the two states may have diverged."""
    known = load_known()
    rig = Rig(profile="")
    for number, line in enumerate(lines):
        skip: set[str] = set()
        try:
            result = execute(rig, line["op"], line["a"], skip)
            found = rig.drift.told_once(dict(line), result, differences(rig, dict(line), result, skip))
        except Exception as exc:  # an exception of the implementation is a finding and does not end the run
            what = " ".join(f"{type(exc).__name__} {exc}".split())[:200]
            yield Difference(number, line, "exception", line.get("res"), what)
            continue
        for field, real, ours in found:
            if explained(known, dict(line), (field, real, ours)) is None:
                yield Difference(number, line, field, real, ours)


def first(lines: Sequence[Line]) -> Difference | None:
    """The first unexplained difference."""
    return next(compare(lines), None)
