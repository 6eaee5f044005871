"""Calls and targets: a workload makes calls as plain data, and a target executes calls and answers.

A `Call` names an operation, its caller and its arguments; it contains neither bytes nor rules. Targets execute calls: the
implementation in lockstep with the rules and with calls in flight (interleaved.py), the rules alone, the implementation
alone, both in lockstep (targets.py), real Xen (tests/xen). Arguments are numbers, or names of results of earlier calls
(`page 3`), which a target resolves to its own objects; so every target can execute the same calls. Files: recording.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

# A step of the rules: label, arguments and picks, code, and a failure that the rules leave open.
Step = tuple[str, dict[str, int], str | None, str | None]


@dataclass(frozen=True)
class Call:
    """One operation: its name, who calls (`d1v0` is vCPU 0 of domain 1, `p3` the process of space 3), and its arguments,
    all of them JSON."""

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
        if not isinstance(operation, str) or not isinstance(arguments, dict):
            raise ValueError("a call needs a name `op` and arguments `a`")
        by = arguments.get("by", "")
        if not isinstance(by, str):
            raise ValueError(f"a call's caller `by` is a name, not {by!r}")
        return Call(operation, by, {key: value for key, value in arguments.items() if key != "by"})

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


TOOLSTACK: Final = "d0"
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


def run(workload: Iterable[Call], target: Target, told: Callable[[Call, Answer], None] | None = None) -> list[Answer]:
    """All calls of a workload on a target, in order."""
    answers = []
    for call in workload:
        answers.append(target.carry_out(call))
        if told is not None:
            told(call, answers[-1])
    return answers
