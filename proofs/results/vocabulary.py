"""The types that all results share: verdicts, and checks, which all report formats use.

A result is the outcome of one command as frozen data. Not here: printing, writing and deciding. Each command has its own
result class, in its own file; all of them tell whether the run is good (exit code 0), convert
to JSON of a named format, and list their `Check`s, from which JUnit XML and SARIF are made (`report/`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from bulkhead.model.diagnostics import Span


class Verdict(StrEnum):
    """The verdict on a claim."""

    PROVED = "proved"
    REFUTED = "refuted"
    UNKNOWN = "unknown"


class Status(StrEnum):
    """The status of a check. `FOUND`: the run found the requested or expected item, such as a refutation or an attack."""

    PASSED = "passed"
    FOUND = "found"
    FAILED = "failed"
    OPEN = "open"  # neither shown nor refuted, which is not success

    @property
    def good(self) -> bool:
        """Is this status a success?"""
        return self in (Status.PASSED, Status.FOUND)


@dataclass(frozen=True)
class Flow:
    """One step of a check's trace: the place of its rule, if there is one, and a description."""

    text: str
    place: Span | None = None


@dataclass(frozen=True)
class Check:
    """One check. `rule` is a stable name, the same in every run; `group` is the subject of the check.

    `place` is its claim's place in a rules file; `seconds` is the time that it took.
    """

    group: str
    rule: str
    status: Status
    message: str
    doc: str = ""
    place: Span | None = None
    flow: tuple[Flow, ...] = ()
    seconds: float = 0.0


class Result(Protocol):
    """The result of one command."""

    @property
    def format(self) -> str:
        """The name and version of the JSON form, such as `bulkhead-prove/1`."""

    @property
    def good(self) -> bool:
        """Is everything as expected? Then the exit code is 0."""

    def to_json(self) -> dict[str, Any]:
        """The result as JSON; the schema of its format describes it."""

    def checks(self) -> tuple[Check, ...]:
        """All checks."""
