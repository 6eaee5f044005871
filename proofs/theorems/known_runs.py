"""Runs of scenarios as starts of a search: the rules' own ways into deep states.

A scenario that is `possible` is a run that somebody wrote down because it matters: a page granted, mapped and taken back, a
whole build. A search from initial states seldom gets there by itself, but it may go on from every state of such a run.
Not here: how a run is found (`scenarios.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from bulkhead.model.executable import ExecutableModel
from bulkhead.model.ir import Scenario, System
from bulkhead.model.trace import replay
from bulkhead.proofs.theorems.directed_search import Path
from bulkhead.proofs.theorems.scenarios import decide
from bulkhead.proofs.theorems.solvers import SolverError


@dataclass(frozen=True)
class KnownRun:
    """The states of a run in its world, as paths from its initial state; the first one has no step."""

    machine: ExecutableModel
    paths: tuple[Path, ...]


def known_runs(system: System, limit: float, by_way_of: Iterable[str] = ()) -> Iterator[KnownRun]:
    """The runs of the scenarios that are found, first those that take one of these steps."""
    wanted = frozenset(by_way_of)
    possible = [s for s in system.scenarios.values() if s.possible]
    for scenario in sorted(possible, key=lambda s: not any(o.label in wanted for p in s.parts for o in p.outcomes)):
        run = _run_of(system, scenario, limit)
        if run is not None:
            yield run


def longest_run(system: System, limit: float, beyond: Collection[str]) -> KnownRun | None:
    """The run of the scenario with most parts, of those that take a step which is not among `beyond`.

    None if there is none, or if it is not found.
    """
    possible = [s for s in system.scenarios.values() if s.possible and not _steps(s) <= set(beyond)]
    return _run_of(system, max(possible, key=lambda s: len(s.parts)), limit) if possible else None


def _steps(scenario: Scenario) -> set[str]:
    """The labels of the outcomes that a scenario names and that change something."""
    return {o.label for part in scenario.parts for o in part.outcomes if not o.changes_nothing}


def _run_of(system: System, scenario: Scenario, limit: float) -> KnownRun | None:
    try:
        trace = decide(system, scenario.name, limit).trace
    except SolverError:
        return None  # a run that the executable model does not confirm is no start
    if trace is None:
        return None
    machine = ExecutableModel(system, trace.world)
    states = replay(trace, machine)
    paths = [Path(states[0])]
    for event, before, after in zip(trace.events, states[:-1], states[1:], strict=True):
        if before != after:  # a call that fails and changes nothing is no step on the way
            args = tuple(event.args[p.name] for p in machine.transitions[event.label].params)
            paths.append(Path(after, paths[-1], event.label, args))
    return KnownRun(machine, tuple(paths))


__all__ = ["KnownRun", "known_runs", "longest_run"]
