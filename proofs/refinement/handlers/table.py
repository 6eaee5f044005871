"""The implementation's own handlers on symbolic arguments and tables: each path ends as the rules say.

`prove_handlers` runs functions of impl/xen along all their paths. On each path the status must be the code of the first
check of the rules that fails, and the state the one after the rules' step (`obligations.py` says what is compared); the
conditions of the paths must cover all inputs. Guests rewrite their grant tables at every point where a handler can be
interrupted. The files of the handlers say what stands in for what.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from bulkhead.proofs.jobs import Workers, count
from bulkhead.proofs.refinement.handlers import copies, mappings, versions
from bulkhead.proofs.refinement.handlers import teardown as ends
from bulkhead.proofs.refinement.handlers.domb.table import DOMB
from bulkhead.proofs.refinement.handlers.path import Handler
from bulkhead.proofs.symbolic.engine import Engine


@dataclass(frozen=True)
class HandlerReport:
    """What came of one handler."""

    name: str
    paths: int
    proved: bool
    findings: tuple[str, ...]
    seconds: float
    outcomes: frozenset[str] = frozenset()  # of rules, by `rule: code`, where a handler notes them


def _own(name: str) -> str:
    return name + ", own grants"


MAPPINGS = {
    "map_grant_ref": (mappings.map_grant_ref, "grant_map.map_grant_ref", "map_grant_ref, .insert"),
    "unmap_grant_ref": (mappings.unmap_grant_ref, "grant_unmap.unmap_one, .finish", "unmap_grant_ref, .flush, .complete"),
    "release_mapping": (mappings.release_mapping, "lifecycle.release_mappings", "release_mapping"),
}
HANDLERS: Mapping[str, Handler] = {
    **{name: Handler(partial(body, own=False), runs, held) for name, (body, runs, held) in MAPPINGS.items()},
    "copy: source": Handler(partial(copies.claim, name="source"), "grant_copy._claim", "copy.claim_source"),
    "copy: destination": Handler(partial(copies.claim, name="dest"), "grant_copy._claim", "copy.claim_dest"),
    "copy: element": Handler(copies.element, "grant_copy.copy_one", "copy.element, .move"),
    "copy: source let go": Handler(partial(copies.let_go, name="source"), "grant_copy._unclaim", "copy.done"),
    "copy: destination let go": Handler(partial(copies.let_go, name="dest"), "grant_copy._unclaim", "copy.done"),
    "set_version": Handler(versions.set_version, "grant_admin.set_version", "set_version_1, set_version_2"),
    "destroydomain": Handler(ends.destroy, "lifecycle.destroy", "privcmd_destroydomain, relinquish_resources"),
    "put_domain": Handler(ends.last_reference, "Domain.put, Xen.domain_destroy", "domain_destroy"),
    **{_own(name): Handler(partial(body, own=True), runs, held, True) for name, (body, runs, held) in MAPPINGS.items()},
    **DOMB,
}
QUICK = tuple(name for name, handler in HANDLERS.items() if not handler.thorough)


def prove_handler(name: str, stop_early: bool = False) -> HandlerReport:
    """One handler along all its paths (or until something is found)."""
    engine = Engine()
    started = time.perf_counter()
    findings: list[str] = []
    outcomes: set[str] = set()
    paths, covered = 0, False

    def run() -> None:
        path = HANDLERS[name].start()
        try:
            HANDLERS[name].body(path)
        finally:
            findings.extend(path.findings)
            outcomes.update(path.outcomes)

    try:
        for paths in engine.paths(run):
            if findings and stop_early:
                break
        else:
            covered = engine.covered()
        if not findings and not covered:
            findings.append("the paths do not cover all inputs")
    except Exception as error:  # whatever stops a path is a finding: nothing is passed over
        findings.append(f"path {paths + 1}: {type(error).__name__}: {error}")
    seconds = time.perf_counter() - started
    return HandlerReport(name, paths, not findings, tuple(dict.fromkeys(findings)), seconds, frozenset(outcomes))


def prove_handlers(names: Sequence[str] = QUICK, jobs: int | None = None) -> list[HandlerReport]:
    """The handlers named, side by side in so many processes (one for each core)."""
    with Workers(min(count(jobs), len(names))) as workers:
        return list(workers.map(prove_handler, names))


def report_lines(reports: Iterable[HandlerReport]) -> list[str]:
    """The reports as plain text."""
    lines = []
    for r in reports:
        handler = HANDLERS[r.name]
        lines.append(
            f"  {r.name:<28} {'proved' if r.proved else 'NOT PROVED':<10} {r.paths:>4} paths  {r.seconds:5.2f} s   "
            f"{handler.runs} as {handler.rules}"
        )
        lines += [f"      {finding}" for finding in r.findings]
    return lines
