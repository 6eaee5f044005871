"""Runs of scenarios as starts of a search: the rules' own ways into deep states.

A scenario that is `possible` is a run that somebody wrote down because it matters: a page granted, mapped and taken back, a
whole build. A search from initial states seldom gets there by itself, but it may go on from every state of such a run.
Not here: how a run is found (`scenarios.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from bulkhead.model.executable import ExecutableModel
from bulkhead.model.ir import System
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
        try:
            trace = decide(system, scenario.name, limit).trace
        except SolverError:
            continue  # a run that the executable model does not confirm is no start
        if trace is None:
            continue
        machine = ExecutableModel(system, trace.world)
        states = replay(trace, machine)
        paths = [Path(states[0])]
        for event, before, after in zip(trace.events, states[:-1], states[1:], strict=True):
            if before != after:  # a call that fails and changes nothing is no step on the way
                args = tuple(event.args[p.name] for p in machine.transitions[event.label].params)
                paths.append(Path(after, paths[-1], event.label, args))
        yield KnownRun(machine, tuple(paths))


__all__ = ["KnownRun", "known_runs"]
