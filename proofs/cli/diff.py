"""`bulkhead diff`: long seeded campaigns that run the implementation and hold it against the rules, step by step.

What lives here: options, and progress. What does not: the comparison (refinement/), and the reports.
"""

from __future__ import annotations

import sys

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bulkhead.proofs.cli.output import Output, jobs_option, json_option, output_options
from bulkhead.proofs.jobs import count
from bulkhead.proofs.refinement.campaign import CLAIMS_EVERY, FULL_EVERY, Report, campaign
from bulkhead.proofs.refinement.coverage import contradicted, coverage
from bulkhead.proofs.refinement.lockstep.spec_world import Rules, Size, rules_for
from bulkhead.proofs.report.runs_text import diff_text
from bulkhead.proofs.results.refinement import DiffResult


@click.command()
@click.option("--against", type=click.Choice(["model", "nothing"]), default="model", show_default=True,
              help="What answers are compared with; `nothing` runs the implementation alone, for its speed.")
@click.option("--ops", type=click.IntRange(1), default=100_000, show_default=True, metavar="N", help="Calls to make.")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, metavar="S", help="Same seed, same run.")
@jobs_option
@json_option
@output_options
def diff(against: str, ops: int, seed: int, jobs: int | None, output: Output) -> int:
    """Run the implementation in long seeded campaigns and compare every step with the rules."""
    rules = rules_for(Size())
    model = against == "model"
    report = _run(rules, seed, ops, count(jobs), model, output)
    places = {step.label: step.span for step in rules.system.steps}
    result = DiffResult(seed, report.calls, report.steps, report.rule_steps, report.seconds,
                        coverage(rules.outcomes, report.reached), tuple(contradicted(report.reached)), report.failure, model,
                        places)
    return output.give(result, lambda: diff_text(result))


def _run(rules: Rules, seed: int, ops: int, jobs: int, model: bool, output: Output) -> Report:
    if output.quiet or not sys.stderr.isatty():
        return campaign(rules, seed, ops, FULL_EVERY, CLAIMS_EVERY, model, None, jobs)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=output.console(stderr=True), transient=True) as bar:
        task = bar.add_task("calls", total=ops)
        return campaign(rules, seed, ops, FULL_EVERY, CLAIMS_EVERY, model, lambda n: bar.advance(task, n), jobs)
