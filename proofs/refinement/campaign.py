"""Long seeded campaigns: guests make random and hostile calls that interleave wherever the implementation yields.

A campaign consists of episodes; each starts from a fresh machine with a seed derived from the campaign's, and ends
with the destruction of all domains and a check for leaks. The same seed gives the same run; a run without the rules
is similar, but not the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from bulkhead.proofs.jobs import Workers
from bulkhead.proofs.refinement.calls import Call
from bulkhead.proofs.refinement.interleaved import Interleaved
from bulkhead.proofs.refinement.lockstep.abstraction import dump
from bulkhead.proofs.refinement.lockstep.lockstep import Lockstep
from bulkhead.proofs.refinement.lockstep.spec_state import Mismatch
from bulkhead.proofs.refinement.lockstep.spec_world import Rules, Size, rules_for
from bulkhead.proofs.refinement.workload.scheduler import Driver

LEG = 1500  # calls per machine
FULL_EVERY = 12
CLAIMS_EVERY = 1024


@dataclass(frozen=True)
class Failure:
    """A mismatch, and how to reproduce it."""

    what: str
    places: tuple[str, ...]
    call: str
    seed: int
    episode: int
    calls: int
    log: tuple[str, ...]

    def text(self) -> str:
        lines = [f"after {self.calls} calls (seed {self.seed}, episode {self.episode}): {self.what}", f"  call: {self.call}"]
        return "\n".join([*lines, *self.places, *(f"  | {line}" for line in self.log)])


@dataclass
class Report:
    """The result of a campaign."""

    seed: int
    calls: int = 0
    steps: int = 0
    rule_steps: int = 0
    seconds: float = 0.0
    reached: dict[str, int] = field(default_factory=dict)
    failure: Failure | None = None


def episode(
    rules: Rules,
    seed: int,
    number: int,
    calls: int,
    report: Report,
    full_every: int = FULL_EVERY,
    claims_every: int = CLAIMS_EVERY,
    rules_on: bool = True,
) -> Failure | None:
    """Run one episode and add its result to the report."""
    lockstep = Lockstep(rules, seed * 1_000_003 + number, full_every, claims_every, rules_on)
    target = Interleaved(lockstep)
    driver = Driver(target.view, target, seed * 1_000_003 + number)
    if driver.rng.random() < 0.3:
        source, dest = driver.rng.sample((0, 1, 2, 3), 2)
        target.carry_out(Call("deny", "", {"source": source, "dest": dest}))
    failure = None
    recent: list[str] = []
    last = ""
    try:
        while lockstep.calls < calls:
            driver.move()
            if driver.text != last:
                last = driver.text
                recent.append(last)
                del recent[:-12]
        driver.end()
    except Mismatch as error:
        failure = Failure(
            error.what, tuple(dump(error.places)), driver.text, seed, number, report.calls + lockstep.calls, tuple(recent)
        )
    except Exception as error:  # any exception of the implementation is a finding
        failure = Failure(
            f"{type(error).__name__}: {error}", (), driver.text, seed, number, report.calls + lockstep.calls, tuple(recent)
        )
    report.calls += lockstep.calls
    report.steps += lockstep.steps
    report.rule_steps += lockstep.spec_state.steps
    for key, n in lockstep.spec_state.reached.items():
        report.reached[key] = report.reached.get(key, 0) + n
    return failure


def run_leg(
    rules: Rules,
    seed: int,
    number: int,
    calls: int,
    full_every: int = FULL_EVERY,
    claims_every: int = CLAIMS_EVERY,
    rules_on: bool = True,
) -> Report:
    """One episode; after a mismatch it runs again, and everything is compared after each step."""
    report = Report(seed)
    try:
        failure = episode(rules, seed, number, calls, report, full_every, claims_every, rules_on)
    except Exception as error:  # the set-up of the machine failed
        failure = Failure(f"{type(error).__name__}: {error}", (), "setting up", seed, number, 0, ())
        full_every = 1
    if failure is not None and full_every != 1 and rules_on:
        failure = episode(rules, seed, number, calls, Report(seed), 1, 64) or failure
    report.failure = failure
    return report


def campaign(
    rules: Rules,
    seed: int,
    calls: int,
    full_every: int = FULL_EVERY,
    claims_every: int = CLAIMS_EVERY,
    rules_on: bool = True,
    progress: Callable[[int], None] | None = None,
    jobs: int = 1,
) -> Report:
    """Run episodes until so many calls are made or a mismatch is found; the number of jobs changes only the time."""
    start = time.perf_counter()
    report = Report(seed)
    sizes = [LEG] * (calls // LEG) + ([calls % LEG] if calls % LEG else [])
    tasks = ((rules.size, seed, n, size, full_every, claims_every, rules_on) for n, size in enumerate(sizes))
    with Workers(min(jobs, len(sizes))) as workers:
        for part in workers.map(_task, tasks):
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


def _task(task: tuple[Size, int, int, int, int, int, bool]) -> Report:
    size, seed, number, calls, full_every, claims_every, rules_on = task
    return run_leg(rules_for(size), seed, number, calls, full_every, claims_every, rules_on)
