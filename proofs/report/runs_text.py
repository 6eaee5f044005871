"""Text of `diff`, `refine`, `replay` and `boot`, made only from results."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bulkhead.impl.boot import BootLog
from bulkhead.impl.reach import Reach
from bulkhead.impl.tools.xenconsoled import printable
from bulkhead.proofs.refinement.handlers.table import report_lines
from bulkhead.proofs.refinement.lockstep.lockstep import CLAIMS_EVERY, FULL_EVERY
from bulkhead.proofs.refinement.play import On
from bulkhead.proofs.results.boot import BootResult
from bulkhead.proofs.results.refinement import DiffResult, DiffRun, DombResult, PlayResult, RefineResult
from bulkhead.proofs.results.replay import ReplayResult

SAME = {
    On.RULES: "The rules answer each recorded step as they did.",
    On.IMPLEMENTATION: "The implementation answers each call as recorded.",
    On.LOCKSTEP: "Each call is answered as recorded, and rules and implementation are in the same state after every step.",
}
DIFFERENCES = 40  # shown for one recording
WORDS = {
    "own": "owns",
    "grant": "maps by grant",
    "foreign": "maps by foreign mapping",
    "could map": "could map by foreign mapping",
}


def diff_text(result: DiffResult) -> str:
    """A campaign: its length, mismatches and coverage."""
    rate = result.calls / result.seconds if result.seconds else 0.0
    out = [f"{result.calls} calls in {result.steps} steps, seed {result.seed}: {result.seconds:.1f} s, {rate:.0f} calls/s."]
    if result.failure is not None:
        out += [
            "MISMATCH " + result.failure.text(),
            f"To reproduce: bulkhead diff --system monolithic --seed {result.seed} --ops {result.failure.calls}",
        ]
    elif result.compared:
        out += [
            "No mismatch: the same status and the same state after every step; no leak at the end.",
            f"The whole state is compared every {FULL_EVERY} steps, the places that a step touched after each step; "
            f"invariants and theorems every {CLAIMS_EVERY} steps and at the end of each episode.",
            f"{result.rule_steps} rule steps.",
        ]
    if result.compared:
        out += result.coverage.lines()
    out += [f"WRONG: `{pair}` happened, which refinement/coverage.py calls impossible." for pair in result.contradicted]
    return "\n".join([*out, *result.beside]) + "\n"


def domb_text(result: DombResult, seed: int) -> str:
    """The same for DomB and its rules."""
    out = [f"DomB: {result.calls} moves, {result.rule_steps} rule steps, seed {seed}: {result.seconds:.1f} s."]
    if result.failure is not None:
        out += [
            "MISMATCH " + result.failure.text(),
            f"To reproduce: bulkhead diff --system disaggregated --seed {seed} --ops {result.failure.calls}",
        ]
    elif result.compared:
        out += [
            "No mismatch: DomB and its rules give the same answers and are in the same state; no leak at the end.",
            *result.lines,
        ]
    out += [f"WRONG: `{pair}` happened, which refinement/domb/coverage.py calls impossible." for pair in result.contradicted]
    return "\n".join(out) + "\n"


def run_text(run: DiffRun) -> str:
    """Both campaigns, if they ran."""
    parts = [diff_text(run.drivers)] if run.drivers is not None else []
    return "\n".join([*parts, *([domb_text(run.domb, run.seed)] if run.domb is not None else [])])


def play_text(result: PlayResult) -> str:
    """A recording that was played: how far, and the first answer that is another one."""
    p = result.played
    far = f"{p.calls} calls on {p.machines} machines, {p.rule_steps} rule steps: {p.seconds:.1f} s."
    if p.difference:
        return f"{p.file} on {p.on}: {far}\nDIFFERENCE {p.difference}\n"
    return f"{p.file} on {p.on}: {far}\n{SAME[p.on]}\n"


def refine_text(result: RefineResult) -> str:
    """Handlers, one per line, with the result of each."""
    reports = [h.report for h in result.handlers]
    end = "On each path, status and state match the rules." if result.good else "NOT PROVED."
    return (
        "\n".join(
            [
                "handlers of the implementation, along all their paths",
                *report_lines(reports),
                "",
                f"{sum(r.paths for r in reports)} paths, {result.seconds:.1f} s. {end}",
            ]
        )
        + "\n"
    )


def replay_text(result: ReplayResult) -> str:
    """Recordings, one per line, with the first differences of each; or a trace."""
    out = []
    for f in result.files:
        out.append(f"{f.name}: {f.calls} calls, {f.differences} differences, {f.explained} explained\n")
        out += [f"  {line}\n" for line in f.report[:DIFFERENCES]]
    return "".join([*out, *(t.text for t in result.traces)])


def boot_text(result: BootResult) -> str:
    """The whole run: the log of requests, guests, who can reach what, and leaked resources."""
    graph = [f"\nGraph: {result.graph}"] if result.graph else []
    note = [result.note] if result.note else []
    return "\n".join([log_text(result.log), "", *claims_text(result), *graph, *note]) + "\n"


def claims_text(result: BootResult) -> list[str]:
    """The claims that hold on the abstraction of the machine after each step, and the first violations."""
    watched = result.watched
    if watched.stopped:
        return [f"The claims could not be evaluated after every step: {watched.stopped}."]
    each = "each" if watched.every == 1 else f"every {watched.every}th"
    out = [f"{watched.claims - len(watched.falls)} claims hold after {each} of {watched.steps} steps."]
    for fall in watched.falls:
        out.append(
            f"{fall.claim} is violated after step {fall.step}{', as expected' if fall.expected else ', but IS PROVED'}"
            + (f": {fall.seen}." if fall.seen else ".")
        )
    return out


def log_text(log: BootLog) -> str:
    """A boot, without its files."""
    out = [f"Booting `{log.system}`, seed {log.seed}", "", "Requests"]
    out += [
        f"  {line}"
        for line in columns(
            (str(i + 1), step.who, f"-> {step.whom}", printable(step.what.encode()).replace("\n", " "))
            for i, step in enumerate(log.steps)
        )
    ]
    out += ["", "Guests"]
    for guest in log.guests:
        state = f"XenStore data/state: {printable(guest.state)}" if guest.state else "nothing in XenStore"
        out.append(f"  {guest.name}: domain {guest.domid}, {guest.pages} pages, {state}")
        out += [f"    | {line}" for line in printable(guest.console).splitlines()]
    out += ["", "Who can reach what, while the guests ran"]
    out += [f"  {line}" for line in columns((row.who, WORDS[row.by], frames(row), f"of {row.owner}") for row in log.reach)]
    out += [
        "",
        "After the guests were destroyed: "
        + ("every frame, handle and port is back." if not log.left_behind else "; ".join(log.left_behind)),
    ]
    return "\n".join(out)


def columns(rows: Iterable[Sequence[str]]) -> list[str]:
    """Rows as aligned lines."""
    found = [list(row) for row in rows]
    widths = [max(len(row[i]) for row in found) for i in range(len(found[0]))] if found else []
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in found]


def frames(row: Reach) -> str:
    """The number of frames, and their access."""
    count = f"{len(row.frames)} frame{'s' * (len(row.frames) != 1)}"
    if row.by in ("own", "could map"):
        return count
    return f"{count}, {row.writable} for writing"
