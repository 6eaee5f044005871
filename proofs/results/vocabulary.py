"""The words that all results share: verdicts, and checks as every format of reports knows them.

A result is what one command found, as plain frozen data: nothing here prints, writes or decides. Each command has its own
kind of result, in a file of its own beside this one; all of them can say whether the run is good (exit code 0), give
themselves as JSON of a named format, and list their `Check`s, from which JUnit XML and SARIF are made (`report/`).
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
    """The status of a check. `FOUND`: the run found what it was asked to find, a refutation that is expected, an attack."""

    PASSED = "passed"
    FOUND = "found"
    FAILED = "failed"
    OPEN = "open"  # neither shown nor refuted, which is not success

    @property
    def good(self) -> bool:
        """Does the run stay good?"""
        return self in (Status.PASSED, Status.FOUND)


@dataclass(frozen=True)
class Flow:
    """One step on the way to what a check tells: where its rule stands, if it has one, and what is done."""

    text: str
    place: Span | None = None


@dataclass(frozen=True)
class Check:
    """One thing that was checked. `rule` names it the same in every run, `group` is what it was checked of.

    `place` is where it is claimed in a rules file; `seconds` is the time that it took.
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
        """Is everything as it should be? Then the exit code is 0."""

    def to_json(self) -> dict[str, Any]:
        """The result as JSON; the schema of its format says what it holds."""

    def checks(self) -> tuple[Check, ...]:
        """Every single check."""
