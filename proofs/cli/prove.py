"""`bulkhead prove`: prove every theorem of some systems, or refute it."""

from __future__ import annotations

import time
from pathlib import Path

import click

from bulkhead.model import loader
from bulkhead.model.diagnostics import render
from bulkhead.proofs.cli.names import known_claim, make_folder, which_system
from bulkhead.proofs.cli.output import Output, fault_option, jobs_option, json_option, output_options
from bulkhead.proofs.jobs import Workers, count
from bulkhead.proofs.report import prove_run, prove_text
from bulkhead.proofs.results.prove import ProveResult, SystemResult
from bulkhead.proofs.theorems.decide import DEFAULT_LIMIT, Settings
from bulkhead.proofs.theorems.subsumption import Refuted


def _number(_context: click.Context, _parameter: click.Parameter, value: float) -> float:
    if value != value:  # not a number: click's range accepts it
        raise click.BadParameter("nan is not a number of seconds.")
    return value


@click.command()
@click.argument("systems", nargs=-1, metavar="SYSTEM...")
@click.option("--theorem", "theorems", multiple=True, metavar="T", help="Only this theorem or scenario (may be repeated).")
@fault_option
@click.option("--cross-check/--no-cross-check", default=True, show_default=True, help="Check every answer again with cvc5.")
@click.option("--certify", is_flag=True, help="Confirm proved claims by a second encoding of the rules.")
@click.option(
    "--vacuity/--no-vacuity",
    default=True,
    show_default=True,
    help="Check that initial states exist and that every step can be taken.",
)
@jobs_option
@click.option("--why", metavar="NAME", help="Show what the proof of a theorem depends on, or the run of a scenario.")
@click.option(
    "--limit",
    type=click.FloatRange(0, 86400, min_open=True),
    default=DEFAULT_LIMIT,
    show_default=True,
    metavar="SECONDS",
    callback=_number,
    help="Time limit of one query.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder for traces and pictures of refuted theorems (default: beside --json, else build).",
)
@json_option
@output_options
def prove(
    systems: tuple[str, ...],
    theorems: tuple[str, ...],
    faults: tuple[str, ...],
    cross_check: bool,
    certify: bool,
    vacuity: bool,
    jobs: int | None,
    why: str | None,
    limit: float,
    out: Path | None,
    output: Output,
) -> int:
    """Prove every theorem of each SYSTEM (a shipped one, or the path of a rules file), or refute it."""
    start = time.perf_counter()
    if not systems:
        raise which_system()
    loaded = [loader.load(name, faults) for name in systems]
    known = {n for s in loaded for n in (*s.claims(), *s.scenarios)}
    for name in (*theorems, *([why] if why else [])):
        known_claim(name, known)
    where = out or (output.json_file.parent if output.json_file else Path("build"))
    if out is not None or faults or any("refuted" in s.expects.values() for s in loaded):
        make_folder(where)
    settings = Settings(limit, count(jobs), cross_check)
    results: list[SystemResult] = []
    with Workers(settings.jobs) as pool:
        cases = []
        for source, system in zip(systems, loaded, strict=True):
            if system.warnings:
                click.echo(render(system.warnings, system.sources), err=True)
            only = [n for n in system.claims() if not theorems or n in theorems or n == why]
            scenarios = [n for n in system.scenarios if not theorems or n in theorems or n == why]
            if only or scenarios or not theorems:
                where_from = source if certify else None
                cases.append(prove_run.Case(system, settings, pool, only, faults, where_from, vacuity, scenarios))
        for case in cases:
            case.start()
        refuted = Refuted() if len(cases) > 1 else None
        for case in cases:
            result = case.judge(refuted, why, output.progress)
            result = prove_run.save(result, where / result.name)
            results.append(result)
            _tell(result, output)
    run = ProveResult(tuple(results), time.perf_counter() - start)
    return output.give(run, lambda: prove_text.prove_text(run), prove_text.summary(run) + "\n")


def _tell(result: SystemResult, output: Output) -> None:
    """Print each system when it is decided: the next one may take long."""
    if output.draws:
        prove_text.drawn_table(result, output.console())
        output.tell(prove_text.below_table(result) + "\n")
    else:
        output.tell(prove_text.system_text(result) + "\n")
