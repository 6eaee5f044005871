"""`bulkhead attack`: a short attack on a claim, as log, states and pictures, with the files that `replay` needs."""

from __future__ import annotations

import time
from pathlib import Path

import click

from bulkhead.model import loader
from bulkhead.model.diagnostics import UsageError, render
from bulkhead.model.trace import Trace
from bulkhead.proofs.cli.names import known_claim, make_folder, which_system
from bulkhead.proofs.cli.output import Output, fault_option, json_option, output_options, scope_option
from bulkhead.proofs.report.prove_run import save_attack, search
from bulkhead.proofs.report.prove_text import attack_text
from bulkhead.proofs.results.prove import AttackResult
from bulkhead.proofs.theorems.attack import LIMIT
from bulkhead.proofs.theorems.scope import given_scope
from bulkhead.proofs.theorems.small_worlds import fits
from bulkhead.proofs.theorems.waypoints import Doubts


@click.command()
@click.argument("system", required=False)
@click.argument("theorem", required=False)
@fault_option
@scope_option
@click.option("--depth", type=click.IntRange(0), metavar="N", help="No attacks of more steps.")
@click.option(
    "--limit",
    type=click.FloatRange(0, 86400, min_open=True),
    metavar="SECONDS",
    help="Time limit of one solver query (default: none; its effort is limited, and the same run finds the same).",
)
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", help="Folder for the files (default: build/SYSTEM/THEOREM)."
)
@json_option
@output_options
def attack(
    system: str | None,
    theorem: str | None,
    faults: tuple[str, ...],
    scope: tuple[str, ...],
    depth: int | None,
    limit: float | None,
    out: Path | None,
    output: Output,
) -> int:
    """Find a shortest attack on a THEOREM of SYSTEM: print it, and write log, states and pictures to DIR.

    Without THEOREM: the first one that is expected to be refuted, or, with a fault, the first one expected to be proved
    that has an attack. If a fault makes none fall, a short way to break an invariant is shown, if there is one. THEOREM may
    also be an invariant.
    """
    begun = time.perf_counter()
    if system is None:
        raise which_system()
    loaded = loader.load(system, faults)
    if theorem is not None:
        known_claim(theorem, loaded.claims(), loaded.invariants)
    places = {loaded.faults[n].span for n in faults}
    if about_faults := [w for w in loaded.warnings if w.span in places]:
        click.echo(render(about_faults, loaded.sources), err=True)
    doubts = Doubts(loaded)
    names = [theorem] if theorem is not None else _candidates(doubts, faults)
    given = given_scope(loaded, scope)

    def shortest(claims: list[str]) -> Trace | None:
        if not claims:
            return None
        make_folder(out or Path("build") / loaded.name)
        one = theorem is None
        traces, _ = search(loaded, claims, faults, one, limit or LIMIT, depth, given, doubts)
        return min((t for t in traces.values() if t is not None), key=lambda t: len(t.events), default=None)

    found, way = shortest(names), None
    if found is None and faults and theorem is None:
        names = doubts.about(names)
        way = shortest([n for n in doubts.first if n in loaded.invariants])
    spent = time.perf_counter() - begun
    broken = () if names else tuple(n for n in doubts.first if n in loaded.invariants)
    result = AttackResult(loaded, faults, tuple(names), found, spent, proved=not names, limit=limit, broken=broken, way=way)
    if (shown := found or way) is not None:
        result = save_attack(result, out or Path("build") / loaded.name / shown.claim)
    return output.give(result, lambda: attack_text(result))


def _candidates(doubts: Doubts, faults: tuple[str, ...]) -> list[str]:
    """The claims to attack if none is named; none if all are proved in spite of the faults.

    Of a large system that is found out only if a search by way of what the faults say that they break finds nothing.
    """
    system = doubts.system
    if faults and len(system.claims()) == 1:
        return list(system.claims())
    if faults:
        # A claim that is refuted without the fault says nothing about the fault.
        likely = [n for n in system.claims() if system.expects.get(n) != "refuted"]
        return doubts.about(likely) if fits(system) else likely
    names = [n for n, v in system.expects.items() if v == "refuted"][:1]
    if not names:
        raise UsageError(
            f"no theorem of `{system.name}` is expected to be refuted; name one, or give a --fault. "
            f"Theorems: {', '.join(system.claims())}. Faults: {', '.join(system.faults) or 'none'}."
        )
    return names
