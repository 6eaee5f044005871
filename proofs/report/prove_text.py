"""Text of `prove` and `attack`: tables of verdicts, attacks, counterexamples, and dependencies of proofs.

Text is made only from results. A terminal gets drawn tables; otherwise they are aligned plain lines,
one per theorem, for other programs to parse.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from bulkhead.model.executable import ExecutableModel
from bulkhead.model.ir import System
from bulkhead.proofs.report.explain_cti import describe
from bulkhead.proofs.report.scenario_text import scenario_lines
from bulkhead.proofs.report.trace_text import log
from bulkhead.proofs.results.prove import AttackResult, ProveResult, SystemResult
from bulkhead.proofs.results.vocabulary import Verdict
from bulkhead.proofs.theorems.scope import first_scope, in_words

HEAD = ("theorem", "verdict", "expected", "queries", "time")


def system_text(result: SystemResult) -> str:
    """The verdicts on one system, with explanations; ends with an empty line."""
    return "\n".join([*_table(result), *_said(result), ""])


def drawn_table(result: SystemResult, console: Console) -> None:
    """Draw the verdicts of one system on a terminal."""
    table = Table(title=result.name, title_justify="left")
    for k, text in enumerate(HEAD):
        table.add_column(text, justify="right" if k > 2 else "left", no_wrap=k == 1)
    for row, theorem in zip(_rows(result), result.theorems, strict=True):
        colour = "green" if theorem.as_expected else "red"
        table.add_row(row[0], f"[{colour}]{row[1]}[/{colour}]", *row[2:])
    console.print(table)


def below_table(result: SystemResult) -> str:
    """The text below the table of a system; ends with an empty line."""
    return "\n".join([*_said(result), ""])


def summary(result: ProveResult) -> str:
    """The last lines of a run."""
    return f"{result.queries} queries, {result.solver_seconds:.1f} s in solvers, {result.seconds:.1f} s in all.\n" + (
        "All verdicts are as expected." if result.good else "NOT as expected."
    )


def prove_text(result: ProveResult) -> str:
    """A whole run."""
    return "\n".join([*(system_text(s) for s in result.systems), summary(result)]) + "\n"


def attack_text(result: AttackResult) -> str:
    """The attack, or the message that none was found."""
    shown = result.attack or result.way
    said = ""
    if result.proved:
        said = f"All that {result.system.name} is expected to prove is proved, with {', '.join(result.faults)} too.\n"
        if result.broken:
            said += f"Invariants that are not proved with it, and that no claim needs: {', '.join(result.broken)}.\n"
    elif result.attack is None:
        said = f"{_not_found(result.searched, result.system)} --scope SORT=N.\n"
    if result.way is not None:
        said += "But an invariant can be broken:\n\n"
    if result.saved is not None:
        said += result.saved.text
    elif shown is not None:
        said += log(shown, result.system, ExecutableModel(result.system, shown.world))
    if result.proved:
        return said
    if result.limit is not None:
        said += f"Queries of more than {result.limit:g} s were given up: without --limit another run may find more.\n"
    return said


def _not_found(claims: Sequence[str], system: System) -> str:
    """Where no attack on some claims was found; goes on with how to search elsewhere."""
    return (
        f"No attack found on {', '.join(claims)} of {system.name} within the bounds of the search.\n"
        f"Worlds up to about {in_words(first_scope(system))} were searched; larger ones:"
    )


def _rows(result: SystemResult) -> list[tuple[str, ...]]:
    return [(t.name, t.verdict, t.expected, str(t.queries), f"{t.seconds:.2f} s") for t in result.theorems]


def _table(result: SystemResult) -> list[str]:
    rows = [HEAD, *_rows(result)]
    widths = [max(len(r[k]) for r in rows) for k in range(len(HEAD))]
    cells = [[c.rjust(w) if k > 2 else c.ljust(w) for k, (c, w) in enumerate(zip(row, widths, strict=True))] for row in rows]
    return [result.name, *("  " + "  ".join(row).rstrip() for row in cells)]


def _said(result: SystemResult) -> list[str]:
    out = []
    if result.again:
        out.append(f"  {result.again} of {result.decided} queries follow from answers for another step or system")
    out.append(f"  {result.vacuity}")
    out += [f"  {line}" for s in result.scenarios for line in scenario_lines(s, result.system)]
    if result.axioms is not None:
        out.append(f"  {result.axioms.summary()}")
    if result.certificate:
        out.append(f"  {result.certificate}")
    out += [f"  warning: {text}" for text in result.warnings] + [f"  error: {text}" for text in result.errors]
    for text in _details(result):
        out += ["", text.rstrip()]
    if result.why:
        out += ["", *result.why]
    return out


def _details(result: SystemResult) -> list[str]:
    """Attacks, then reasons for open claims, then claims that are not inductive."""
    out = []
    for t in result.theorems:
        if t.attack is not None:
            out.append(
                t.saved.text
                if t.saved is not None
                else log(t.attack, result.system, ExecutableModel(result.system, t.attack.world))
            )
    if result.undecided:
        out.append("\n".join(result.undecided))
    unknown = [t.name for t in result.theorems if t.verdict is Verdict.UNKNOWN]
    if unknown:
        out.append(f"{_not_found(unknown, result.system)} bulkhead attack, with --scope SORT=N.")
    if result.not_inductive:
        shown = [c.saved.text if c.saved is not None else describe(c.cti, result.system) for c in result.counterexamples]
        out.append("\n\n".join([f"Not inductive, with all invariants assumed: {', '.join(result.not_inductive)}", *shown]))
    return out
