"""Messages about bad input: what is wrong, where, and what to do.

A `Problem` is one message with its place in a rules file; a `RulesError` carries all independent problems of one run,
and `render` draws them with the source line and a caret. Not here: finding problems, which the parser and the type
checker do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


class Span(NamedTuple):  # not a dataclass: a file has thousands, and tuples are created twice as fast
    """A place in a rules file. `line` and `column` count from 1; `width` is in characters."""

    file: str
    line: int
    column: int
    width: int = 1


NOWHERE = Span("<built in>", 0, 0)


@dataclass(frozen=True)
class Problem:
    """One message. `expected` and `hint` are whole sentences or empty; `warning` problems do not stop a run.

    `code` is the same for all messages with the same meaning; the reference (spec/README.md) lists them. A code is never
    reused for another meaning.
    """

    code: str
    span: Span
    what: str
    expected: str = ""
    hint: str = ""
    warning: bool = False


@dataclass
class RulesError(Exception):
    """The input is invalid; `problems` lists the reasons, in the order of the files."""

    problems: list[Problem]
    sources: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return render(self.problems, self.sources)


class UsageError(Exception):
    """The user's request cannot be done; the text says what to do instead. Exit code 2."""


def suggest(name: str, known: Iterable[str]) -> str:
    """A sentence with the nearest known name, or an empty string when none is near."""
    near = difflib.get_close_matches(name, sorted(set(known)), n=1, cutoff=0.6)
    return f"Did you mean `{near[0]}`?" if near else ""


def render(problems: Sequence[Problem], sources: dict[str, str]) -> str:
    """All problems as text, each with file, line, column, source line and caret."""
    # Lines as the parser counts them; split each file only once, as there may be thousands of problems.
    lines = {file: sources.get(file, "").split("\n") for file in {p.span.file for p in problems}}
    return "\n\n".join(_render_one(p, lines[p.span.file]) for p in problems)


def _render_one(problem: Problem, lines: list[str]) -> str:
    span = problem.span
    kind = "warning" if problem.warning else "error"
    place = f"{span.file}:{span.line}:{span.column}" if span.line else span.file
    parts = [f"{place}: {kind}: {problem.what} [{problem.code}]"]
    if 0 < span.line <= len(lines):
        text, caret = _window(lines[span.line - 1], span)
        parts.append(f"{span.line:5} | {text}")
        parts.append(" " * 5 + " | " + caret)
    parts.extend(f"        {line}" for line in (problem.expected, problem.hint) if line)
    return "\n".join(parts)


def _window(line: str, span: Span) -> tuple[str, str]:
    """The source line and its caret line; a very long line is cut around the caret."""
    start = max(0, span.column - 60)
    shown = "".join(c if c.isprintable() else " " for c in line[start : start + 120]).rstrip()
    width = max(1, min(span.width, len(line[: start + 120].rstrip()) - span.column + 1))
    return shown, " " * (span.column - 1 - start) + "^" * width
