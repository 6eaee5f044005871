"""`bulkhead faults`: lists the faults of the rules and of the implementation, or checks that each is detected.

Contents: the selection of faults, and the processes. Not here: laying and detecting them (faults/), and reports.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import click

from bulkhead.model import loader
from bulkhead.model.diagnostics import UsageError, suggest
from bulkhead.proofs.cli.output import Output, jobs_option, json_option, output_options
from bulkhead.proofs.faults import catalogue, catalogue_domb
from bulkhead.proofs.faults.laying import LIMIT, hunt
from bulkhead.proofs.faults.of_rules import Correct, correct, notice
from bulkhead.proofs.jobs import Workers
from bulkhead.proofs.report.faults_text import faults_text
from bulkhead.proofs.results.faults import FaultResult, FaultsResult, Layer, listed_impl, listed_rules, of_impl, of_rules

EVERY = {**catalogue.BY_NAME, **catalogue_domb.BY_NAME}  # faults of the implementation


@click.command()
@click.argument("systems", nargs=-1, metavar="[SYSTEM]...")
@click.option("--list", "only_list", is_flag=True, help="List the faults; lay none.")
@click.option("--only", multiple=True, metavar="NAME", help="Only this fault (may be repeated).")
@click.option(
    "--of", "layer", type=click.Choice([str(x) for x in Layer]), help="Only faults of the rules, or of the implementation."
)
@click.option(
    "--ops",
    type=click.IntRange(1),
    default=LIMIT,
    show_default=True,
    metavar="N",
    help="Calls after which a fault of the implementation counts as not noticed.",
)
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, metavar="S", help="Of the campaigns.")
@jobs_option
@json_option
@output_options
def faults(
    systems: tuple[str, ...],
    only_list: bool,
    only: tuple[str, ...],
    layer: str | None,
    ops: int,
    seed: int,
    jobs: int | None,
    output: Output,
) -> int:
    """Lay each fault and check that it is noticed: of the rules of SYSTEM by the proof, of the implementation by `diff`.

    A fault of the rules must break the claims, in the step, that its declaration names. Without SYSTEM: the rules of all
    shipped systems, each fault once, and the implementation; with SYSTEM, only the rules of that system.
    """
    begun = time.perf_counter()
    chosen = list(_listed(systems, layer, only_list))
    names = {f.name for f in chosen}
    for name in only:
        if name not in names:
            raise UsageError(f"there is no fault `{name}`. {suggest(name, names)}".strip() + " See bulkhead faults --list.")
    chosen = [f for f in chosen if not only or f.name in only]
    if only_list:
        result = FaultsResult(tuple(chosen), time.perf_counter() - begun)
        return output.give(result, lambda: faults_text(result))
    with Workers(jobs) as workers:
        done = tuple(_laid(chosen, workers, seed, ops, output))
    result = FaultsResult(done, time.perf_counter() - begun)
    return output.give(result, lambda: faults_text(result))


def _listed(systems: tuple[str, ...], layer: str | None, every: bool) -> Iterator[FaultResult]:
    """The selected faults, each once. If no system is named, those that say which claims they break, or `every` one."""
    seen: set[str] = set()
    if layer != Layer.IMPLEMENTATION:
        for name in systems or loader.shipped_systems():
            for fault in loader.load(name).faults.values():
                if fault.name not in seen and (systems or every or fault.breaks):
                    seen.add(fault.name)
                    yield listed_rules(name, fault)
    if layer != Layer.RULES and not systems:
        yield from map(listed_impl, EVERY.values())


def _laid(chosen: list[FaultResult], workers: Workers, seed: int, ops: int, output: Output) -> Iterator[FaultResult]:
    """Lay and hunt the faults; results in the order of the list."""
    rules = [f for f in chosen if f.layer is Layer.RULES]
    known: dict[str, Correct] = {}
    for system in dict.fromkeys(f.where for f in rules):
        with output.progress(f"{system}, as it is") as tick:
            known[system] = correct(system, workers, tick)
    noticed = [workers.submit(notice, f.where, f.name, known[f.where]) for f in rules]
    hunted = [(f.name, workers.submit(hunt, EVERY[f.name], seed, ops)) for f in chosen if f.layer is Layer.IMPLEMENTATION]
    with output.progress("faults", "looked for") as tick:
        for f, future in zip(rules, noticed, strict=True):
            yield of_rules(f.where, future.result())
            tick(1)
        for name, report in hunted:
            yield of_impl(EVERY[name], report.result())
            tick(1)
