"""`bulkhead explore`: all reachable states of a small world of SYSTEM, breadth first."""

from __future__ import annotations

from pathlib import Path

import click

from bulkhead.model import loader
from bulkhead.model.diagnostics import UsageError
from bulkhead.proofs.cli.names import known_claim
from bulkhead.proofs.cli.output import Output, fault_option, json_option, output_options, scope_option
from bulkhead.proofs.report.explore_text import explore_text, save_graph
from bulkhead.proofs.results.explore import ExploreResult
from bulkhead.proofs.theorems.explore import STATES, Limits, explore_graph
from bulkhead.proofs.theorems.explore import explore as search
from bulkhead.proofs.theorems.least_world import grown
from bulkhead.proofs.theorems.scope import even_scopes, first_scope, given_scope

DRAWN = 200  # maximum of states in a picture


@click.command()
@click.argument("system")
@click.option(
    "--theorem",
    "theorems",
    multiple=True,
    metavar="T",
    help="Only this claim or invariant (may be repeated; default: all claims).",
)
@fault_option
@scope_option
@click.option("--depth", type=click.IntRange(0), metavar="N", help="Maximum depth, in steps.")
@click.option(
    "--limit",
    type=click.FloatRange(0, 86400, min_open=True),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="Time limit.",
)
@click.option(
    "--states", type=click.IntRange(1), default=STATES, show_default=True, metavar="N", help="Maximum number of states."
)
@click.option("--renamed", is_flag=True, help="No symmetry reduction: also keep states that differ only by a renaming.")
@click.option("--graph", type=click.Path(path_type=Path), metavar="FILE", help=f"Draw the states (of {DRAWN} at most).")
@json_option
@output_options
def explore(
    system: str,
    theorems: tuple[str, ...],
    faults: tuple[str, ...],
    scope: tuple[str, ...],
    depth: int | None,
    limit: float,
    states: int,
    renamed: bool,
    graph: Path | None,
    output: Output,
) -> int:
    """Explore all reachable states of a small world of SYSTEM: how many, how deep, and which claims hold in all of them.

    The results hold only for a world of this size; `bulkhead prove` decides claims for any size.
    """
    loaded = loader.load(system, faults)
    for name in theorems:
        known_claim(name, loaded.claims(), loaded.invariants)
    claims = [c for n, c in (loaded.stated() if theorems else loaded.claims()).items() if not theorems or n in theorems]
    given = given_scope(loaded, scope)
    sizes = {**first_scope(loaded), **given}
    limits = Limits(depth=depth, states=states, seconds=limit, whole=True, renamed=renamed)
    try:
        found = search(loaded, sizes, claims, limits)
        for other in (grown(loaded, sizes, given), *even_scopes(loaded)) if not found.states else ():
            if found.states or not found.complete or all(sort in given for sort in loaded.sorts):
                break
            if (again := search(loaded, {**other, **given}, claims, limits)).states:  # else the first world is reported
                found, sizes = again, {**other, **given}
        note = ""
        if graph is not None:
            drawn = explore_graph(loaded, sizes, DRAWN)
            if drawn is None:
                raise UsageError(f"--graph: there are more than {DRAWN} states; give smaller sizes with --scope.")
            note = save_graph(loaded, drawn, graph)
    except ValueError as error:
        raise UsageError(f"{error}.") from None
    picture = "" if graph is None else str(graph.with_suffix(".dot" if note else ".svg"))
    result = ExploreResult(loaded, faults, tuple(c.name for c in claims), found, picture, note)
    return output.give(result, lambda: explore_text(result))
