"""Common command-line output: formats of results, files, progress, colours, and wrapping.

Each command computes a result first. Then `Output.give` renders it: as text on the terminal, or as JSON, JUnit XML or SARIF
with `--format`, to a file with `--output`. Not here: the content of results.
"""

from __future__ import annotations

import contextlib
import functools
import json
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec

import click
from rich.console import Console
from rich.status import Status

from bulkhead.proofs.atomic_files import needs_file, write_file
from bulkhead.proofs.report.junit import junit
from bulkhead.proofs.report.sarif import sarif
from bulkhead.proofs.results.vocabulary import Result

FORMATS = ("text", "json", "junit", "sarif")
NARROWEST = 40  # assumed minimum width of a terminal
TELLS_EVERY = 5  # seconds between two lines of progress without a terminal
P = ParamSpec("P")

jobs_option = click.option(
    "--jobs",
    type=click.IntRange(1, 256),
    default=None,
    metavar="N",
    help="Processes (default: one per CPU). Results do not depend on it.",
)
fault_option = click.option(
    "--fault", "faults", multiple=True, metavar="NAME", help="Lay a fault of the rules over the system (may be repeated)."
)
scope_option = click.option(
    "--scope", multiple=True, metavar="SORT=N", help="Elements of a sort, as node=3 (may be repeated)."
)
json_option = click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Also write the result as JSON.",
)


@dataclass(frozen=True)
class Output:
    """Output options of one command. `file` gets the chosen format; the terminal then still gets text."""

    format: str = "text"
    file: Path | None = None
    json_file: Path | None = None
    quiet: bool = False
    color: bool = True

    def ready(self) -> None:
        """Check that the named files can be written; raises `UsageError` before any work is done."""
        if self.json_file is not None:
            needs_file(self.json_file)
        if self.file is not None:
            needs_file(self.file, "--output")

    @property
    def tells(self) -> bool:
        """Does standard output get text for people?"""
        return (self.format == "text" or self.file is not None) and not self.quiet

    @property
    def draws(self) -> bool:
        """Are tables drawn?"""
        return self.tells and sys.stdout.isatty()

    def console(self, stderr: bool = False) -> Console:
        """The terminal; NO_COLOR in the environment counts as `--no-color`."""
        return Console(stderr=stderr, no_color=None if self.color else True, highlight=False)

    def tell(self, text: str) -> None:
        """Print text for people, if it is wanted; on a terminal wide lines wrap."""
        if self.tells:
            click.echo(wrapped(text, shutil.get_terminal_size().columns) if sys.stdout.isatty() else text, nl=False)

    def give(self, result: Result, text: Callable[[], str], last: str | None = None) -> int:
        """Print or write the result; returns the exit code.

        `last` is the rest of the text, if the first part is already printed. With `--quiet` a good result prints
        nothing, and any other result prints only its failures.
        """
        made = render(result, self.format, text)
        if self.json_file is not None:
            write_file(self.json_file, render(result, "json", text))
        if self.file is not None:
            write_file(self.file, made)
        elif self.format != "text":
            click.echo(made, nl=False)
        self.tell(text() if last is None else last)
        if self.quiet and (self.format == "text" or self.file is not None):
            for check in result.checks():
                if not check.status.good:
                    place = f"{check.place.file}:{check.place.line}: " if check.place and check.place.line else ""
                    click.echo(f"{place}{check.status}: {check.group}: {check.message}")
        return 0 if result.good else 1

    @contextlib.contextmanager
    def progress(self, title: str, unit: str = "queries decided") -> Iterator[Callable[[int], None]]:
        """Progress on the error stream: a live line on a terminal, otherwise a plain line now and then."""
        done = 0
        if self.quiet:
            yield lambda _count: None
            return
        if sys.stderr.isatty():
            with Status(f"{title} ...", console=self.console(stderr=True)) as status:

                def live(count: int) -> None:
                    nonlocal done
                    done += count
                    status.update(f"{title}: {done} {unit}")

                yield live
            return
        last = time.perf_counter()
        print(f"{title} ...", file=sys.stderr, flush=True)

        def plain(count: int) -> None:
            nonlocal done, last
            done += count
            if time.perf_counter() - last > TELLS_EVERY:
                last = time.perf_counter()
                print(f"{title}: {done} {unit}", file=sys.stderr, flush=True)

        yield plain


def output_options(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command the options of `Output`, and the `Output` itself as its argument `output`."""

    @click.option(
        "--format", "format_", type=click.Choice(FORMATS), default="text", show_default=True, help="Form of the result."
    )
    @click.option(
        "--output",
        "file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Write the result to this file; text is still printed.",
    )
    @click.option("--quiet", "-q", is_flag=True, help="Print only failures.")
    @click.option("--no-color", is_flag=True, help="No colours (as with NO_COLOR in the environment).")
    @functools.wraps(command)
    def wrapper(*args: Any, format_: str, file: Path | None, quiet: bool, no_color: bool, **options: Any) -> int:
        output = Output(format_, file, options.pop("json_file", None), quiet, not no_color)
        output.ready()
        return command(*args, output=output, **options)

    return wrapper


def render(result: Result, form: str, text: Callable[[], str]) -> str:
    """A result in a format; `text` renders the text for people."""
    if form == "json":
        return json.dumps(result.to_json(), indent=2) + "\n"
    if form == "sarif":
        return json.dumps(sarif(result), indent=2) + "\n"
    return junit(result) if form == "junit" else text()


def wrapped(text: str, width: int) -> str:
    """Wrap text to the terminal's width; continuation lines are indented further than their line."""
    width = max(NARROWEST, width)
    out = []
    for line in text.split("\n"):
        if len(line) <= width:
            out.append(line)
            continue
        indent = line[: len(line) - len(line.lstrip())]
        out += textwrap.wrap(
            line, width, subsequent_indent=indent[: width // 2] + "    ", drop_whitespace=True, break_on_hyphens=False
        ) or [""]
    return "\n".join(out)
