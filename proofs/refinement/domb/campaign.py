"""Long seeded campaigns of DomB and its rules, in episodes: each starts with a fresh machine and ends with a leak check.

The same seed gives the same run. `episodes` is what `bulkhead diff --system disaggregated` runs.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from bulkhead.proofs.jobs import Workers
from bulkhead.proofs.refinement.campaign import Failure, Report
from bulkhead.proofs.refinement.domb.driver import Driver, files
from bulkhead.proofs.refinement.domb.world import Rules, Size, rules_for
from bulkhead.proofs.refinement.lockstep.abstraction import dump
from bulkhead.proofs.refinement.lockstep.spec_state import Mismatch

LEG = 250  # moves per machine
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
        except Mismatch as error:
            report.failure = Failure(
                error.what,
                tuple(dump(error.places)),
                driver.text if driver else "",
                seed,
                number,
                driver.calls if driver else 0,
                tuple(recent),
            )
        except Exception as error:  # any exception of the implementation is a finding
            report.failure = Failure(
                f"{type(error).__name__}: {error}",
                (),
                driver.text if driver else "",
                seed,
                number,
                driver.calls if driver else 0,
                tuple(recent),
            )
        if driver is not None:
            done = calls if report.failure is None else min(driver.calls or calls, calls)
            report.calls, report.steps, report.rule_steps = done, driver.calls, driver.book.steps
            report.reached = driver.book.reached
    return report


def campaign(rules: Rules, seed: int, calls: int, progress: Callable[[int], None] | None = None, jobs: int = 1) -> Report:
    """Run episodes until so many moves are made or a mismatch is found; the number of jobs changes only the time."""
    start = time.perf_counter()
    report = Report(seed)
    sizes = [LEG] * (calls // LEG) + ([calls % LEG] if calls % LEG else [])
    tasks = [(rules.size, seed, n, size) for n, size in enumerate(sizes)]
    with Workers(jobs) as pool:
        for part in pool.map(_task, tasks):
            if part.failure is not None:
                part.failure = replace(part.failure, calls=report.calls + part.failure.calls)
            report.calls += part.calls
            report.steps += part.steps
            report.rule_steps += part.rule_steps
            for key, n in part.reached.items():
                report.reached[key] = report.reached.get(key, 0) + n
            if progress is not None:
                progress(part.calls)
            if part.failure is not None:
                report.failure = part.failure
                break
    report.seconds = time.perf_counter() - start
    return report


def _task(task: tuple[Size, int, int, int]) -> Report:
    size, seed, number, calls = task
    return episode(rules_for(size), seed, number, calls)
