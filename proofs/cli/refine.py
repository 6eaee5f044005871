"""`bulkhead refine`: the implementation's own handlers, run symbolically along all their paths and held against the rules.

What lives here: options, the report as text and JSON. What does not: the runs (refinement/symbolic/).
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from bulkhead.model.diagnostics import UsageError, suggest
from bulkhead.proofs.atomic_files import needs_file, write_file

GOOD, FAILED = 0, 1


@click.command()
@click.argument("handlers", nargs=-1, metavar="[HANDLER...]")
@click.option("--all", "everything", is_flag=True, help="Also the runs that take grants of the caller's own.")
@click.option("--jobs", type=click.IntRange(1, 256), metavar="N", help="Processes (one for each core).")
@click.option("--json", "json_file", type=click.Path(path_type=Path), metavar="FILE", help="Write the result.")
def refine(handlers: tuple[str, ...], everything: bool, jobs: int | None, json_file: Path | None) -> int:
    """Prove that handlers of the implementation do as the rules say, for all arguments and tables of any size."""
    from bulkhead.proofs.refinement.handlers.table import HANDLERS, QUICK, prove_handlers, report_lines

    for name in handlers:
        if name not in HANDLERS:
            hint = f"no handler `{name}`. {suggest(name, HANDLERS)}".strip()
            raise UsageError(f"{hint}\nThere are: {'; '.join(HANDLERS)}.")
    if json_file is not None:
        needs_file(json_file)
    begun = time.perf_counter()
    reports = prove_handlers(handlers or (tuple(HANDLERS) if everything else QUICK), jobs)
    seconds = time.perf_counter() - begun
    if json_file is not None:
        write_file(json_file, json.dumps({"handlers": [
            {"name": r.name, "runs": HANDLERS[r.name].runs, "rules": HANDLERS[r.name].rules, "paths": r.paths,
             "proved": r.proved, "findings": list(r.findings), "seconds": round(r.seconds, 3)} for r in reports],
            "seconds": round(seconds, 3)}, indent=2) + "\n")
    click.echo("handlers of the implementation, along all their paths")
    for line in report_lines(reports):
        click.echo(line)
    proved = all(r.proved for r in reports)
    click.echo(f"\n{sum(r.paths for r in reports)} paths, {seconds:.1f} s. "
               + ("On each, status and state are the rules'." if proved else "NOT PROVED."))
    return GOOD if proved else FAILED
