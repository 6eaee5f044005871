"""Proves that handlers of the implementation refine the rules, on symbolic arguments and tables, along every path.

`prove_handlers` runs functions of impl/xen along all their paths. On each path the status must be the code of the first
failing check of the rules, and the state must be the one after the rules' step (`obligations.py`); the
conditions of the paths must cover all inputs. Guests rewrite their grant tables at every point where a handler can be
interrupted. The handlers' files list their contracts.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from bulkhead.proofs.jobs import Workers, count
from bulkhead.proofs.refinement.handlers import copies, mappings, versions
from bulkhead.proofs.refinement.handlers import teardown as ends
from bulkhead.proofs.refinement.handlers.domb.table import DOMB
from bulkhead.proofs.refinement.handlers.path import Handler
from bulkhead.proofs.symbolic.engine import Engine


@dataclass(frozen=True)
class HandlerReport:
    """The result for one handler."""

    name: str
    paths: int
    outcomes: Mapping[str, bool]  # of the rules' steps: did some input have it?
    proved: bool
    findings: tuple[str, ...]
    seconds: float


def _own(name: str) -> str:
    return name + ", own grants"


NO_END = {
    "not maps(got_": "there are any number of page-table entries: which of them are free is the guest's own doing",
    "translated[caller] implies not device": "domains are paravirtual",
}
EXISTS = {"GNTST_bad_domain (exists_domain(": "the caller is there"}
NO_RELAYS = {
    "kind = transitive) implies": "transitive grants are switched off",
    "kind = transitive and ": "transitive grants are switched off",
}
ONLY_READ = {
    " and false and ": "a source is not written",
    "another part of the page is in use, or the page is in use as a page table": "a source is not written",
}
MAPPINGS = {
    "map_grant_ref": Handler(
        partial(mappings.map_grant_ref, own=False), "grant_map.map_grant_ref", "map_grant_ref, .insert", never=NO_END
    ),
    "unmap_grant_ref": Handler(
        partial(mappings.unmap_grant_ref, own=False), "grant_unmap.unmap_one, .finish", "unmap_grant_ref, .flush, .complete"
    ),
    "release_mapping": Handler(
        partial(mappings.release_mapping, own=False), "lifecycle.release_mappings", "release_mapping"
    ),
}
OWN_GRANTS = {
    "map_grant_ref": replace(
        MAPPINGS["map_grant_ref"], body=partial(mappings.map_grant_ref, own=True), thorough=True, never={**NO_END, **EXISTS}
    ),
    "unmap_grant_ref": replace(MAPPINGS["unmap_grant_ref"], body=partial(mappings.unmap_grant_ref, own=True), thorough=True),
    "release_mapping": replace(MAPPINGS["release_mapping"], body=partial(mappings.release_mapping, own=True), thorough=True),
}
HANDLERS: Mapping[str, Handler] = {
    **MAPPINGS,
    "copy: source": Handler(
        partial(copies.claim, name="source"), "grant_copy._claim", "copy.claim_source", never={**ONLY_READ, **NO_RELAYS}
    ),
    "copy: destination": Handler(
        partial(copies.claim, name="dest"), "grant_copy._claim", "copy.claim_dest", never=NO_RELAYS
    ),
    "copy: element": Handler(copies.element, "grant_copy.copy_one", "copy.element, .move"),
    "copy: source let go": Handler(partial(copies.let_go, name="source"), "grant_copy._unclaim", "copy.done"),
    "copy: destination let go": Handler(partial(copies.let_go, name="dest"), "grant_copy._unclaim", "copy.done"),
    "set_version": Handler(
        versions.set_version,
        "grant_admin.set_version",
        "set_version_1, set_version_2",
        never={"ENOMEM (some e: not past[e])": "epochs are ghosts, and never run out"},
    ),
    "destroydomain": Handler(
        ends.destroy,
        "lifecycle.destroy",
        "privcmd_destroydomain, relinquish_resources",
        never={"ESRCH": "the function is given a domain; its caller looks it up"},
    ),
    "put_domain": Handler(ends.last_reference, "Domain.put, Xen.domain_destroy", "domain_destroy"),
    **{_own(name): handler for name, handler in OWN_GRANTS.items()},
    **DOMB,
}
QUICK = tuple(name for name, handler in HANDLERS.items() if not handler.thorough)


def prove_handler(name: str, stop_early: bool = False) -> HandlerReport:
    """Run one handler along all its paths (or until a finding)."""
    engine = Engine()
    started = time.perf_counter()
    findings: list[str] = []
    paths, covered = 0, False
    outcomes: dict[str, bool] = {}

    def run() -> None:
        path = HANDLERS[name].start()
        try:
            HANDLERS[name].body(path)
        finally:
            findings.extend(path.findings)
        path.reach(outcomes)

    try:
        for paths in engine.paths(run):
            if findings and stop_early:
                break
        else:
            covered = engine.covered()
        if not findings and not covered:
            findings.append("the paths do not cover all inputs")
        if covered:
            findings += unreached(outcomes, HANDLERS[name].never)
    except Exception as error:  # any exception on a path is a finding
        findings.append(f"path {paths + 1}: {type(error).__name__}: {error}")
    return HandlerReport(name, paths, outcomes, not findings, tuple(dict.fromkeys(findings)), time.perf_counter() - started)


def unreached(outcomes: Mapping[str, bool], never: Mapping[str, str]) -> Iterator[str]:
    """Outcomes that no input has, without a reason; and reasons without such an outcome.

    A proof that assumes too much shows here.
    """
    missing = [outcome for outcome, reached in outcomes.items() if not reached]
    for outcome in missing:
        if not any(words in outcome for words in never):
            yield f"no input has the outcome {outcome}: the proof assumes too much, or a reason is missing"
    for words in never:
        if not any(words in outcome for outcome in missing):
            yield f"inputs have all outcomes with `{words}`, which are said to be impossible"


def prove_handlers(names: Sequence[str] = QUICK, jobs: int | None = None) -> list[HandlerReport]:
    """Prove the named handlers in parallel, in so many processes (default: one per core)."""
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
