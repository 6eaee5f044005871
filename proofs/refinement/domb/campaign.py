"""Long seeded campaigns of DomB and its rules, in episodes: each starts with a fresh machine and ends with a leak check.

The same seed gives the same run. `campaign` is what `bulkhead diff --system disaggregated` runs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bulkhead.model.caller import OKAY
from bulkhead.proofs.atomic_files import temporary_folder
from bulkhead.proofs.jobs import Workers
from bulkhead.proofs.refinement.calls import Answer, Call, Interleaving
from bulkhead.proofs.refinement.campaign import Report, episode_sizes, failure_of, joined
from bulkhead.proofs.refinement.domb.exports import exported
from bulkhead.proofs.refinement.domb.target import DombTarget
from bulkhead.proofs.refinement.domb.view import View
from bulkhead.proofs.refinement.domb.workload.ending import end
from bulkhead.proofs.refinement.domb.workload.scheduler import Driver
from bulkhead.proofs.refinement.domb.world import Rules, Size, rules_for
from bulkhead.proofs.refinement.lockstep.rule_steps import Log
from bulkhead.proofs.refinement.recording import MACHINE, Recorder

EPISODE_MOVES = 250  # moves per machine
AFTERWARDS = 25  # moves after DomB's death, which is final
COMPARE_EVERY = 4  # calls that took a rule step


def episode(
    rules: Rules,
    seed: int,
    number: int,
    calls: int,
    rules_on: bool = True,
    record: bool = False,
    compare_every: int = COMPARE_EVERY,
    where: Path | None = None,
) -> Report:
    """One episode of so many moves; its calls are in the report if a recording is made. After a mismatch it runs again, and
    both sides are compared after each call, so that the first one is told. Its files lie in a folder below `where`."""
    report = Report(seed)
    with exported(where) as root:
        try:
            _run(rules, seed, number, calls, root, rules_on, record, compare_every, report)
        except Exception as error:  # the set-up of the machine failed
            report.failure = failure_of(error, "", seed, number, 0, ())
            return report
    if report.failure is not None and rules_on and compare_every > 1:
        again = episode(rules, seed, number, calls, rules_on, record, 1, where)
        return again if again.failure is not None else report
    return report


def _run(
    rules: Rules,
    seed: int,
    number: int,
    calls: int,
    root: Path,
    rules_on: bool,
    record: bool,
    compare_every: int,
    report: Report,
) -> None:
    own_seed = seed * 1_000_003 + number
    log: Log | None = [] if record and rules_on else None
    machine = DombTarget(rules, own_seed, root, rules_on, log, compare_every)
    target: Interleaving = machine
    lines: list[str] = []
    if record:
        target = recorder = Recorder(machine, lines.append, log)
        recorder.end(recorder.begin(Call(MACHINE, "", {"seed": own_seed})), Answer(OKAY))
    driver = Driver(View(machine), target, own_seed)
    recent: list[str] = []
    alone = 0
    try:
        while driver.calls < calls and alone < AFTERWARDS:
            driver.move()
            alone += not machine.up
            recent.append(driver.text)
            del recent[:-12]
        end(driver)
    except Exception as error:  # any exception of the implementation is a finding
        report.failure = failure_of(error, driver.text, seed, number, driver.calls, recent)
    report.calls = calls if report.failure is None else min(driver.calls or calls, calls)
    report.steps = driver.calls
    report.recorded = "".join(lines)
    if machine.book is not None:
        report.rule_steps = machine.book.steps
        report.reached = machine.book.reached
        machine.book.close()


def campaign(
    rules: Rules,
    seed: int,
    calls: int,
    progress: Callable[[int], None] | None = None,
    jobs: int = 1,
    rules_on: bool = True,
    record: Callable[[str], object] | None = None,
) -> Report:
    """Run episodes until so many moves are made or a mismatch is found; the number of jobs changes only the time. `record`
    gets the lines of each episode, in order."""
    sizes = episode_sizes(calls, EPISODE_MOVES)
    # One folder for all, which goes with this process: a worker that is killed cannot remove its own.
    with temporary_folder("bulkhead-diff") as where, Workers(jobs) as pool:
        tasks = [(rules.size, seed, n, size, rules_on, record is not None, where) for n, size in enumerate(sizes)]
        return joined(seed, pool.map(_task, tasks), progress, record)


def _task(task: tuple[Size, int, int, int, bool, bool, Path]) -> Report:
    size, seed, number, calls, rules_on, record, where = task
    return episode(rules_for(size), seed, number, calls, rules_on, record, where=where)
