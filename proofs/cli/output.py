"""What all commands share on the command line: formats of results, where they go, progress, colours, and wrapping.

Each command computes a result first. Then `Output.give` renders it: as text on the terminal, as JSON, JUnit XML or SARIF
where `--format` asks for it, to a file where `--output` names one. Nothing here knows what a result is about.
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
NARROWEST = 40  # a terminal is taken to be as wide as this at least
TELLS_EVERY = 5  # seconds between two lines of progress where there is no terminal
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
json_option = click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the result as JSON, beside what --format and --output do.",
)


@dataclass(frozen=True)
class Output:
    """How results of one command are told. `file` gets the format asked for; text is then still told on the terminal."""

    format: str = "text"
    file: Path | None = None
    json_file: Path | None = None
    quiet: bool = False
    color: bool = True

    def ready(self) -> None:
        """See that the files named can be written; raises `UsageError` before any work is done for nothing."""
        if self.json_file is not None:
            needs_file(self.json_file)
        if self.file is not None:
            needs_file(self.file, "--output")

    @property
    def tells(self) -> bool:
        """Is text for people told on the standard output?"""
        return (self.format == "text" or self.file is not None) and not self.quiet

    @property
    def draws(self) -> bool:
        """Are tables drawn?"""
        return self.tells and sys.stdout.isatty()

    def console(self, stderr: bool = False) -> Console:
        """A terminal to draw on; NO_COLOR in the environment counts as `--no-color`."""
        return Console(stderr=stderr, no_color=None if self.color else True, highlight=False)

    def tell(self, text: str) -> None:
        """Tell text for people, if it is wanted; on a terminal wide lines wrap."""
        if self.tells:
            click.echo(wrapped(text, shutil.get_terminal_size().columns) if sys.stdout.isatty() else text, nl=False)

    def give(self, result: Result, text: Callable[[], str], last: str | None = None) -> int:
        """Tell or write the result; gives the exit code.

        `last` is what is left to tell of the text, where the rest has been told already. With `--quiet` a good result is
        told by the exit code alone, and of one that is not good just what is not.
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
        """Tells on the error stream how far work has come: a live line on a terminal, a plain line now and then else."""
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
                print(f"{title}: {done} queries decided", file=sys.stderr, flush=True)

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
        help="Write the result there; text is still told here.",
    )
    @click.option("--quiet", "-q", is_flag=True, help="Tell only what is not as it should be.")
    @click.option("--no-color", is_flag=True, help="No colours (as with NO_COLOR in the environment).")
    @functools.wraps(command)
    def wrapper(*args: Any, format_: str, file: Path | None, quiet: bool, no_color: bool, **options: Any) -> int:
        output = Output(format_, file, options.pop("json_file", None), quiet, not no_color)
        output.ready()
        return command(*args, output=output, **options)

    return wrapper


def render(result: Result, form: str, text: Callable[[], str]) -> str:
    """A result in a format; `text` makes the text for people."""
    if form == "json":
        return json.dumps(result.to_json(), indent=2) + "\n"
    if form == "sarif":
        return json.dumps(sarif(result), indent=2) + "\n"
    return junit(result) if form == "junit" else text()


def wrapped(text: str, width: int) -> str:
    """Text whose lines are no wider than a terminal; what is carried over is indented further than its line."""
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
