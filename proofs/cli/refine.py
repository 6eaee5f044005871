"""`bulkhead refine`: runs the implementation's handlers symbolically along all paths and checks them against the rules.

Contents: options. Not here: the runs (refinement/handlers/), and the reports.
"""

from __future__ import annotations

import time

import click

from bulkhead.model.diagnostics import UsageError, suggest
from bulkhead.proofs.cli.output import Output, jobs_option, json_option, output_options
from bulkhead.proofs.refinement.handlers.domb.run import rules as domb_rules
from bulkhead.proofs.refinement.handlers.path import rules
from bulkhead.proofs.refinement.handlers.table import HANDLERS, QUICK, prove_handlers
from bulkhead.proofs.report.runs_text import refine_text
from bulkhead.proofs.results.refinement import HandlerResult, RefineResult, place_of


@click.command()
@click.argument("handlers", nargs=-1, metavar="[HANDLER...]")
@click.option("--all", "everything", is_flag=True, help="Also runs with the caller's own grants.")
@jobs_option
@json_option
@output_options
def refine(handlers: tuple[str, ...], everything: bool, jobs: int | None, output: Output) -> int:
    """Prove that handlers of the implementation refine the rules, for all arguments and tables of any size."""
    for name in handlers:
        if name not in HANDLERS:
            hint = f"no handler `{name}`. {suggest(name, HANDLERS)}".strip()
            raise UsageError(f"{hint}\nThere are: {'; '.join(HANDLERS)}.")
    begun = time.perf_counter()
    reports = prove_handlers(handlers or (tuple(HANDLERS) if everything else QUICK), jobs)
    seconds = time.perf_counter() - begun
    places = {step.label: step.span for step in (*domb_rules().steps, *rules().steps)}
    result = RefineResult(tuple(HandlerResult(r, place_of(HANDLERS[r.name].rules, places)) for r in reports), seconds)
    return output.give(result, lambda: refine_text(result))
