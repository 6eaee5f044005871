"""`bulkhead diff`: long seeded campaigns that run the implementation and hold it against the rules, step by step.

What lives here: options, progress, and the report as text and JSON. What does not: the comparison (refinement/).
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from model.diagnostics import UsageError
from proofs.files import needs_file, write_file

if TYPE_CHECKING:  # what compares is imported when it is needed
    from proofs.refinement.campaign import Report

GOOD, FAILED = 0, 1
MODEL_OPS, XEN_OPS = 100_000, 4_000
RIG = Path("tests", "xen", "campaign.py")


@click.command()
@click.option("--against", type=click.Choice(["model", "xen", "nothing"]), default="model", show_default=True,
              help="What answers are compared with: the rules, real Xen under QEMU (needs the source tree), or `nothing`, "
                   "which runs the implementation alone, for its speed.")
@click.option("--ops", type=click.IntRange(1), metavar="N", help="Calls to make: 100,000, or 4,000 on real Xen.")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, metavar="S", help="Same seed, same run.")
@click.option("--jobs", type=click.IntRange(1, 256), default=1, show_default=True, metavar="N", help="Processes.")
@click.option("--record", type=click.Path(path_type=Path), metavar="FILE",
              help="With real Xen: write the run as a recording for `bulkhead replay`.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), metavar="FILE", help="Write the result.")
def diff(against: str, ops: int | None, seed: int, jobs: int, record: Path | None, json_file: Path | None) -> int:
    """Run the implementation in long seeded campaigns and compare every step with the rules, or with real Xen."""
    if against == "xen":
        return _on_xen(ops or XEN_OPS, seed, record)
    if record is not None:
        raise UsageError("--record goes with --against xen: only answers of real Xen are worth keeping")
    ops = ops or MODEL_OPS
    from proofs.refinement.coverage import contradicted, coverage
    from proofs.refinement.world import Size, rules_for

    if json_file is not None:
        needs_file(json_file)
    rules = rules_for(Size())
    model = against == "model"
    report = _run(seed, ops, jobs, model)
    found = coverage(rules.outcomes, report.reached)
    if json_file is not None:
        write_file(json_file, json.dumps({
            "calls": report.calls, "mismatches": int(report.failure is not None), "seed": seed,
            "coverage": {"reached": found.reached, "total": found.total, "missing": list(found.missing) if model else []},
            "seconds": round(report.seconds, 3),
        }, indent=2) + "\n")
    wrong = contradicted(report.reached)
    _show(report, found.lines() if model else [], wrong)
    return GOOD if report.failure is None and not wrong else FAILED


def _on_xen(ops: int, seed: int, record: Path | None) -> int:
    """Real Xen is driven from the source tree's tests, in a process of its own; without that tree there is none."""
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
        running.wait()  # it got the same signal, and turns its machine off
        raise


def _run(seed: int, ops: int, jobs: int, model: bool) -> Report:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from proofs.refinement.campaign import CLAIMS_EVERY, FULL_EVERY, campaign
    from proofs.refinement.world import Size, rules_for

    rules = rules_for(Size())
    if not sys.stderr.isatty():
        return campaign(rules, seed, ops, FULL_EVERY, CLAIMS_EVERY, model, None, jobs)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("calls", total=ops)
        return campaign(rules, seed, ops, FULL_EVERY, CLAIMS_EVERY, model, lambda n: bar.advance(task, n), jobs)


def _show(report: Report, covered: list[str], wrong: list[str]) -> None:
    from proofs.refinement.campaign import CLAIMS_EVERY, FULL_EVERY

    rate = report.calls / report.seconds if report.seconds else 0.0
    click.echo(f"{report.calls} calls in {report.steps} steps, seed {report.seed}: {report.seconds:.1f} s, "
               f"{rate:.0f} calls/s.")
    if report.failure is not None:
        click.echo("MISMATCH " + report.failure.text())
        click.echo(f"Again: bulkhead diff --seed {report.seed} --ops {report.failure.calls}")
    elif covered:
        click.echo("No mismatch: the same status and the same state after every step; nothing is left at the end.")
        click.echo(f"The whole state is compared every {FULL_EVERY} steps, what a step touched after each; invariants and "
                   f"theorems every {CLAIMS_EVERY} steps and at the end of each leg.")
        click.echo(f"{report.rule_steps} rule steps.")
    for line in covered:
        click.echo(line)
    for pair in wrong:
        click.echo(f"WRONG: `{pair}` happened, although refinement/coverage.py says that it cannot.")
