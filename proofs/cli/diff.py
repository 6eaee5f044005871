"""`bulkhead diff`: long seeded campaigns that run the implementation and compare every step with the rules.

Contents: options, and which campaigns run. Not here: the comparison (refinement/), signs of life (alive.py), and the
reports.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click

from bulkhead.model.diagnostics import UsageError
from bulkhead.proofs.atomic_files import needs_file, write_file
from bulkhead.proofs.cli.alive import Calls
from bulkhead.proofs.cli.output import Output, jobs_option, json_option, output_options
from bulkhead.proofs.jobs import count
from bulkhead.proofs.refinement import compared
from bulkhead.proofs.refinement.campaign import campaign
from bulkhead.proofs.refinement.coverage import contradicted, coverage
from bulkhead.proofs.refinement.domb import campaign as domb_campaign
from bulkhead.proofs.refinement.domb import coverage as domb_coverage
from bulkhead.proofs.refinement.domb import play as domb_play
from bulkhead.proofs.refinement.domb import world as domb_world
from bulkhead.proofs.refinement.lockstep.lockstep import CLAIMS_EVERY, FULL_EVERY
from bulkhead.proofs.refinement.lockstep.spec_world import Size, rules_for
from bulkhead.proofs.refinement.play import On, play, playable
from bulkhead.proofs.refinement.recording import Header, packed
from bulkhead.proofs.report.runs_text import play_text, run_text
from bulkhead.proofs.results.refinement import DiffResult, DiffRun, DombResult, PlayResult

MODEL_OPS, XEN_OPS = 100_000, 4_000
SHARE = 20  # when both systems are compared, one of so many calls is a step of DomB's world, which has more to compare
RIG = Path("tests", "xen", "campaign.py")


@click.command()
@click.option(
    "--system",
    type=click.Choice(["both", "monolithic", "disaggregated"]),
    default="both",
    show_default=True,
    help="Xen and Dom0's drivers, or DomB with its tools and file proxy; both share the calls.",
)
@click.option(
    "--against",
    type=click.Choice(["model", "xen", "nothing"]),
    default="model",
    show_default=True,
    help="The reference for answers: the rules, real Xen under QEMU (needs the source tree), or `nothing`, "
    "which runs the implementation alone, to measure its speed.",
)
@click.option("--ops", type=click.IntRange(1), metavar="N", help="Calls to make: 100,000, or 4,000 on real Xen.")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, metavar="S", help="Same seed, same run.")
@click.option(
    "--record",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the calls with their answers (compressed if it ends in .xz): for `--play`, or for `bulkhead replay` with "
    "--against xen.",
)
@click.option(
    "--play",
    "played",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Instead of a campaign, make the calls of a file that `--record` has written again, and compare the answers.",
)
@click.option(
    "--on",
    type=click.Choice([on.value for on in On]),
    help="With --play: on the rules alone, the implementation alone, or both in lockstep (the default).",
)
@jobs_option
@json_option
@output_options
def diff(
    system: str,
    against: str,
    ops: int | None,
    seed: int,
    record: Path | None,
    played: Path | None,
    on: str | None,
    jobs: int | None,
    output: Output,
) -> int:
    """Run the implementation in long seeded campaigns and compare every step with the rules, or with real Xen."""
    if played is not None:
        if ops is not None or record is not None or against != "model" or system == "disaggregated":
            raise UsageError(
                "--play makes the calls of its file: of the other options only --on and those of output go with it."
            )
        return _play(played, On(on or On.LOCKSTEP), output)
    if on is not None:
        raise UsageError("--on goes with --play FILE: it says who makes the calls of the file.")
    if against == "xen":
        return _on_xen(ops or XEN_OPS, seed, record)
    if record is not None and system == "both":
        raise UsageError("--record writes the calls of one system: add --system monolithic, or --system disaggregated.")
    if against == "nothing" and system == "both":
        system = "monolithic"
    ops = ops or MODEL_OPS
    moves = {"both": max(ops // SHARE, 1), "monolithic": 0, "disaggregated": ops}[system]
    model = against == "model"
    made = Calls(output, seed, model)
    first = _xen_and_drivers(seed, ops - moves, count(jobs), model, made, record) if moves < ops else None
    second = None
    if moves and (first is None or first.good):
        second = _domb(seed, moves, count(jobs), model, made, record)
    result = DiffRun(seed, first, second)
    return output.give(result, lambda: run_text(result))


def _play(file: Path, on: On, output: Output) -> int:
    systems = {
        "monolithic": playable(lambda: rules_for(Size())),
        "disaggregated": domb_play.playable(lambda: domb_world.rules_for(domb_world.Size())),
    }
    result = PlayResult(play(file, on, systems))
    return output.give(result, lambda: play_text(result))


def _xen_and_drivers(seed: int, ops: int, jobs: int, model: bool, made: Calls, record: Path | None) -> DiffResult:
    rules = rules_for(Size())
    lines = [Header("monolithic", seed, model).line()]
    if record is not None:
        needs_file(record, "--record")
    keep = lines.append if record is not None else None
    with made.counted("calls of Xen and its drivers", ops) as add:
        report = campaign(rules, seed, ops, FULL_EVERY, CLAIMS_EVERY, model, add, jobs, keep)
    if record is not None:
        write_file(record, packed(record, "".join(lines)))
    places = {step.label: step.span for step in rules.system.steps}
    return DiffResult(
        seed,
        report.calls,
        report.steps,
        report.rule_steps,
        report.seconds,
        coverage(rules.outcomes, report.reached),
        tuple(contradicted(report.reached)),
        report.failure,
        model,
        places,
        tuple(compared.lines()) if model else (),
    )


def _domb(seed: int, moves: int, jobs: int, model: bool, made: Calls, record: Path | None) -> DombResult:
    rules = domb_world.rules_for(domb_world.Size())
    lines = [Header("disaggregated", seed, model).line()]
    if record is not None:
        needs_file(record, "--record")
    keep = lines.append if record is not None else None
    with made.counted("moves of DomB and its tools", moves) as add:
        report = domb_campaign.campaign(rules, seed, moves, add, jobs, model, keep)
    if record is not None:
        write_file(record, packed(record, "".join(lines)))
    return DombResult(
        report.calls,
        report.rule_steps,
        report.seconds,
        len(domb_coverage.pairs(rules)),
        domb_coverage.missing(rules, report.reached) if model else (),
        tuple(domb_coverage.lines(rules, report.reached)) if model else (),
        tuple(domb_coverage.contradicted(report.reached)),
        report.failure,
        model,
        {step.label: step.span for step in rules.system.steps},
    )


def _on_xen(ops: int, seed: int, record: Path | None) -> int:
    """Run the source tree's rig for real Xen in a separate process; only available in a checkout."""
    home = next((folder for folder in Path(__file__).resolve().parents if (folder / RIG).is_file()), None)
    if home is None:
        raise UsageError(f"real Xen is run by {RIG} of the source tree, and this installation has none: use a checkout")
    words = [sys.executable, "-m", "tests.xen.campaign", "--ops", str(ops), "--seed", str(seed)]
    if record is not None:
        words += ["--record", str(record.resolve())]
    running = subprocess.Popen(words, cwd=home)
    try:
        return running.wait()
    except KeyboardInterrupt:
        running.wait()  # it gets the same signal, and shuts its machine down
        raise
