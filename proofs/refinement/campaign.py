"""Long seeded campaigns: guests make random and hostile calls that interleave wherever the implementation yields.

A campaign consists of episodes; each starts from a fresh machine with a seed derived from the campaign's, and ends
with the destruction of all domains and a check for leaks. The same seed gives the same run; a run without the rules
is similar, but not the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from bulkhead.model.caller import OKAY
from bulkhead.proofs.jobs import Workers
from bulkhead.proofs.refinement.calls import Answer, Call, Interleaving
from bulkhead.proofs.refinement.interleaved import Interleaved
from bulkhead.proofs.refinement.lockstep.dump import dump
from bulkhead.proofs.refinement.lockstep.lockstep import CLAIMS_EVERY, FULL_EVERY, Lockstep
from bulkhead.proofs.refinement.lockstep.rule_steps import Log, Mismatch
from bulkhead.proofs.refinement.lockstep.spec_world import Rules, Size, rules_for
from bulkhead.proofs.refinement.recording import MACHINE, Recorder
from bulkhead.proofs.refinement.workload.scheduler import Driver

EPISODE_CALLS = 1500  # calls per machine


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
    recorded: str = ""  # the lines of a recording, if one is made


def episode(
    rules: Rules,
    seed: int,
    number: int,
    calls: int,
    report: Report,
    full_every: int = FULL_EVERY,
    claims_every: int = CLAIMS_EVERY,
    rules_on: bool = True,
    record: bool = False,
) -> Failure | None:
    """Run one episode; adds its result to the report, and its calls if a recording is made."""
    own_seed = seed * 1_000_003 + number
    log: Log | None = [] if record and rules_on else None
    lockstep = Lockstep(rules, own_seed, full_every, claims_every, rules_on, log)
    machine = Interleaved(lockstep)
    target: Interleaving = machine
    lines: list[str] = []
    if record:
        target = recorder = Recorder(machine, lines.append, log)
        recorder.end(recorder.begin(Call(MACHINE, "", {"seed": own_seed})), Answer(OKAY))
    driver = Driver(machine.view, target, own_seed)
    if driver.rng.random() < 0.45:
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
    except Exception as error:  # any exception of the implementation is a finding
        failure = failure_of(error, driver.text, seed, number, report.calls + lockstep.calls, recent)
    report.calls += lockstep.calls
    report.steps += lockstep.steps
    report.rule_steps += lockstep.spec_state.steps
    report.recorded += "".join(lines)
    for key, n in lockstep.spec_state.reached.items():
        report.reached[key] = report.reached.get(key, 0) + n
    return failure


def failure_of(error: Exception, call: str, seed: int, episode: int, calls: int, log: Sequence[str]) -> Failure:
    """A mismatch, or another exception of an episode, as a failure."""
    if isinstance(error, Mismatch):
        return Failure(error.what, tuple(dump(error.places)), call, seed, episode, calls, tuple(log))
    return Failure(f"{type(error).__name__}: {error}", (), call, seed, episode, calls, tuple(log))


def run_episode(
    rules: Rules,
    seed: int,
    number: int,
    calls: int,
    full_every: int = FULL_EVERY,
    claims_every: int = CLAIMS_EVERY,
    rules_on: bool = True,
    record: bool = False,
) -> Report:
    """One episode; after a mismatch it runs again, and everything is compared after each step."""
    report = Report(seed)
    try:
        failure = episode(rules, seed, number, calls, report, full_every, claims_every, rules_on, record)
    except Exception as error:  # the set-up of the machine failed
        failure = failure_of(error, "setting up", seed, number, 0, ())
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
    record: Callable[[str], object] | None = None,
) -> Report:
    """Run episodes until so many calls are made or a mismatch is found; the number of jobs changes only the time. `record`
    gets the lines of each episode, in order."""
    sizes = episode_sizes(calls, EPISODE_CALLS)
    recorded = record is not None
    tasks = ((rules.size, seed, n, size, full_every, claims_every, rules_on, recorded) for n, size in enumerate(sizes))
    with Workers(min(jobs, len(sizes))) as workers:
        return joined(seed, workers.map(_task, tasks), progress, record)


def episode_sizes(calls: int, size: int) -> list[int]:
    """The number of calls of each episode."""
    return [size] * (calls // size) + ([calls % size] if calls % size else [])


def joined(
    seed: int,
    parts: Iterable[Report],
    progress: Callable[[int], None] | None = None,
    record: Callable[[str], object] | None = None,
) -> Report:
    """Combine episodes to one campaign, which ends with the first failing one; `progress` gets the calls of the others."""
    start = time.perf_counter()
    report = Report(seed)
    for part in parts:
        if part.failure is not None:
            report.failure = replace(part.failure, calls=report.calls + part.failure.calls)
        report.calls += part.calls
        report.steps += part.steps
        report.rule_steps += part.rule_steps
        for key, n in part.reached.items():
            report.reached[key] = report.reached.get(key, 0) + n
        if record is not None:
            record(part.recorded)
        if report.failure is not None:
            break
        if progress is not None:
            progress(part.calls)
    report.seconds = time.perf_counter() - start
    return report


def _task(task: tuple[Size, int, int, int, int, int, bool, bool]) -> Report:
    size, seed, number, calls, full_every, claims_every, rules_on, record = task
    return run_episode(rules_for(size), seed, number, calls, full_every, claims_every, rules_on, record)
