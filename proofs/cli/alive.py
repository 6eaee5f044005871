"""Signs of life of long campaigns: one line on a terminal while they run, and what was reached when they are interrupted.

Contents: `Calls`, which counts the calls of the parts of a command. The line has the number of calls and the rate, is drawn
by Rich, and appears only if standard error is a terminal. Not here: signals (proofs/jobs.py), and the campaigns.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bulkhead.proofs.cli.output import Output
from bulkhead.proofs.jobs import Ending


class Calls:
    """The calls that were made, by part. What is counted gave no mismatch; an interrupted command says so at its end."""

    def __init__(self, output: Output, seed: int, compared: bool) -> None:
        self.output = output
        self.seed = seed
        self.compared = compared
        self.made: dict[str, int] = {}
        context = click.get_current_context(silent=True)
        ending = context.find_object(Ending) if context is not None else None
        if ending is not None:
            ending.last_words = self.words

    def words(self) -> str:
        """What was reached so far; empty before the first part begins."""
        if not self.made:
            return ""
        parts = " and ".join(f"{count:,} {what}" for what, count in list(self.made.items()))
        return f"{parts} {'without a mismatch' if self.compared else 'were made, compared with nothing'}, seed {self.seed}."

    @contextlib.contextmanager
    def counted(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """Count a part, such as `calls of ...`; the yielded function adds calls."""
        self.made[what] = 0

        def add(count: int) -> None:
            self.made[what] += count

        if self.output.quiet or not sys.stderr.isatty():
            yield add
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        start = time.monotonic()
        with Progress(*columns, console=self.output.console(stderr=True), transient=True) as bar:
            task = bar.add_task(what, total=total, rate="")

            def draw(count: int) -> None:
                add(count)
                seconds = time.monotonic() - start
                bar.update(task, advance=count, rate=f"{self.made[what] / seconds:,.0f}/s" if seconds else "")

            yield draw
