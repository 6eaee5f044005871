"""`bulkhead diff`: long seeded campaigns that run the implementation and hold it against the rules, step by step.

What lives here: options, progress, and the report as text and JSON. What does not: the comparison (refinement/).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from proofs.files import needs_file, write_file

if TYPE_CHECKING:  # what compares is imported when it is needed
    from proofs.refinement.campaign import Report

GOOD, FAILED = 0, 1
SHARE = 20  # of so many calls of a comparison of both systems one is a move of DomB's world, which has more to compare


@click.command()
@click.option("--system", type=click.Choice(["both", "monolithic", "disaggregated"]), default="both", show_default=True,
              help="Xen and Dom0's drivers, or DomB with its tools and file proxy; both share the calls.")
@click.option("--against", type=click.Choice(["model", "nothing"]), default="model", show_default=True,
              help="What answers are compared with; `nothing` runs the implementation alone, for its speed.")
@click.option("--ops", type=click.IntRange(1), default=100_000, show_default=True, metavar="N", help="Calls to make.")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, metavar="S", help="Same seed, same run.")
@click.option("--jobs", type=click.IntRange(1, 256), default=1, show_default=True, metavar="N", help="Processes.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), metavar="FILE", help="Write the result.")
def diff(system: str, against: str, ops: int, seed: int, jobs: int, json_file: Path | None) -> int:
    """Run the implementation in long seeded campaigns and compare every step with the rules."""
    if json_file is not None:
        needs_file(json_file)
    if against == "nothing":
        system = "monolithic"  # DomB's followers are what drives its world
    found: list[tuple[int, dict[str, Any]]] = []
    if system != "disaggregated":
        found.append(_monolithic(seed, ops - (ops // SHARE if system == "both" else 0), jobs, against == "model"))
    if system != "monolithic" and not any(code for code, _ in found):
        found.append(_disaggregated(seed, max(ops // SHARE, 1) if system == "both" else ops, jobs))
    if json_file is not None:
        write_file(json_file, json.dumps(_together([each for _, each in found]), indent=2) + "\n")
    return max(code for code, _ in found)


def _together(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """The results of the systems that were compared, as one."""
    covered = [each["coverage"] for each in parts]
    return {
        "calls": sum(each["calls"] for each in parts), "mismatches": sum(each["mismatches"] for each in parts),
        "seed": parts[0]["seed"],
        "coverage": {"reached": sum(c["reached"] for c in covered), "total": sum(c["total"] for c in covered),
                     "missing": [pair for c in covered for pair in c["missing"]]},
        "seconds": round(sum(each["seconds"] for each in parts), 3),
    }


def _disaggregated(seed: int, moves: int, jobs: int) -> tuple[int, dict[str, Any]]:
    """DomB beside its rules."""
    from proofs.refinement.domb.campaign import campaign
    from proofs.refinement.domb.coverage import contradicted, lines, missing, pairs
    from proofs.refinement.domb.world import Size, rules_for

    rules = rules_for(Size())
    report = campaign(rules, seed, moves, None, jobs)
    left = missing(rules, report.reached)
    total = len(pairs(rules))
    summary = {"calls": report.calls, "mismatches": int(report.failure is not None), "seed": seed,
               "coverage": {"reached": total - len(left), "total": total, "missing": list(left)},
               "seconds": report.seconds}
    click.echo(f"disaggregated: {report.calls} moves, {report.rule_steps} rule steps, seed {seed}: {report.seconds:.1f} s.")
    if report.failure is not None:
        click.echo("MISMATCH " + report.failure.text())
        click.echo(f"Again: bulkhead diff --system disaggregated --seed {seed} --ops {report.failure.calls}")
    else:
        click.echo("No mismatch: DomB answers as its rules do and is in their state; nothing is left at the end.")
        for line in lines(rules, report.reached):
            click.echo(line)
    wrong = contradicted(report.reached)
    for pair in wrong:
        click.echo(f"WRONG: `{pair}` happened, although refinement/domb/coverage.py says that it cannot.")
    return GOOD if report.failure is None and not wrong else FAILED, summary


def _monolithic(seed: int, ops: int, jobs: int, model: bool) -> tuple[int, dict[str, Any]]:
    """Xen and Dom0's drivers beside their rules."""
    from proofs.refinement.coverage import contradicted, coverage
    from proofs.refinement.world import Size, rules_for

    rules = rules_for(Size())
    report = _run(seed, ops, jobs, model)
    found = coverage(rules.outcomes, report.reached)
    summary = {"calls": report.calls, "mismatches": int(report.failure is not None), "seed": seed,
               "coverage": {"reached": found.reached, "total": found.total, "missing": list(found.missing) if model else []},
               "seconds": report.seconds}
    wrong = contradicted(report.reached)
    _show(report, found.lines() if model else [], wrong)
    return GOOD if report.failure is None and not wrong else FAILED, summary


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
        click.echo(f"Again: bulkhead diff --seed {report.seed} --ops {report.failure.calls} --system monolithic")
    elif covered:
        click.echo("No mismatch: the same status and the same state after every step; nothing is left at the end.")
        click.echo(f"The whole state is compared every {FULL_EVERY} steps, what a step touched after each; invariants and "
                   f"theorems every {CLAIMS_EVERY} steps and at the end of each leg.")
        click.echo(f"{report.rule_steps} rule steps.")
    for line in covered:
        click.echo(line)
    for pair in wrong:
        click.echo(f"WRONG: `{pair}` happened, although refinement/coverage.py says that it cannot.")
