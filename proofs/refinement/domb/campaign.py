"""Long seeded campaigns of DomB and its rules, in episodes: each starts with a fresh machine and ends with a leak check.

The same seed gives the same run. `episodes` is what `bulkhead diff --system disaggregated` runs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from bulkhead.proofs.jobs import Workers
from bulkhead.proofs.refinement.campaign import Report, episode_sizes, failure_of, joined
from bulkhead.proofs.refinement.domb.driver import Driver, files
from bulkhead.proofs.refinement.domb.world import Rules, Size, rules_for

EPISODE_MOVES = 250  # moves per machine
AFTERWARDS = 25  # moves after DomB's death, which is final


def episode(rules: Rules, seed: int, number: int, calls: int) -> Report:
    """One episode."""
    report = Report(seed)
    with tempfile.TemporaryDirectory(prefix="bulkhead-domb-") as folder:
        files(Path(folder))
        recent: list[str] = []
        driver: Driver | None = None
        try:
            driver = Driver(rules, seed * 1_000_003 + number, Path(folder) / "exported")
            alone = 0
            while driver.calls < calls and alone < AFTERWARDS:
                driver.move()
                alone += not driver.up
                recent.append(driver.text)
                del recent[:-12]
            driver.end()
        except Exception as error:  # any exception of the implementation is a finding
            call, done = (driver.text, driver.calls) if driver else ("", 0)
            report.failure = failure_of(error, call, seed, number, done, recent)
        if driver is not None:
            done = calls if report.failure is None else min(driver.calls or calls, calls)
            report.calls, report.steps, report.rule_steps = done, driver.calls, driver.book.steps
            report.reached = driver.book.reached
            driver.book.close()
    return report


def campaign(rules: Rules, seed: int, calls: int, progress: Callable[[int], None] | None = None, jobs: int = 1) -> Report:
    """Run episodes until so many moves are made or a mismatch is found; the number of jobs changes only the time."""
    tasks = [(rules.size, seed, n, size) for n, size in enumerate(episode_sizes(calls, EPISODE_MOVES))]
    with Workers(jobs) as pool:
        return joined(seed, pool.map(_task, tasks), progress)


def _task(task: tuple[Size, int, int, int]) -> Report:
    size, seed, number, calls = task
    return episode(rules_for(size), seed, number, calls)
