"""Text of scenarios: one line each, and a run step by step if requested or unexpected.

Text is made only from results. Not here: the search for runs (`theorems/scenarios.py`).
"""

from __future__ import annotations

from collections.abc import Mapping

from bulkhead.model.executable import ExecutableModel
from bulkhead.model.ir import System
from bulkhead.model.trace import named_args, replay
from bulkhead.model.world import changes
from bulkhead.proofs.report.trace_text import records
from bulkhead.proofs.results.prove import ScenarioResult
from bulkhead.proofs.theorems.scope import in_words


def scenario_lines(result: ScenarioResult, system: System) -> list[str]:
    """The text of one scenario."""
    decision, run = result.decision, result.decision.trace
    where = f"{len(run.events)} steps, {_of(run.world.sizes, result)}" if run is not None else _searched(result)
    expected = "" if result.as_expected else f", {result.expected} is EXPECTED"
    out = [f"scenario {result.name}: {decision.verdict}{expected} ({where})"]
    if run is not None and (result.asked or not result.as_expected):
        out += [f"    {line}" for line in _run(result, system)]
    return out


def _of(sizes: Mapping[str, int], result: ScenarioResult) -> str:
    """The sizes of the sorts that a scenario is about; all where it names none."""
    parts = result.scenario.parts
    named = {e.sort for e in result.scenario.elements} | {p.sort for part in parts for t in part.outcomes for p in t.params}
    return in_words({sort: n for sort, n in sizes.items() if sort in named} or sizes)


def _searched(result: ScenarioResult) -> str:
    """Where there is no run, in short; the result has all of it."""
    worlds, between = result.decision.worlds, result.decision.between
    if not worlds:
        return result.decision.bound
    largest = max(worlds, key=lambda sizes: sum(sizes.values()))
    up_to = f"{len(worlds)} worlds, up to " if len(worlds) > 1 else "a world of "
    return f"all runs in {up_to}{_of(largest, result)}" + ("" if between is None else f"; {between} steps at most for `...`")


def _run(result: ScenarioResult, system: System) -> list[str]:
    decision, run = result.decision, result.decision.trace
    assert run is not None
    machine = ExecutableModel(system, run.world)
    states = replay(run, machine)
    sorts = {e.name[1:]: e.sort for e in result.scenario.elements}
    out = [f"{name} is {sorts[name].lower()}{k}" for name, k in decision.elements if sorts[name] in run.world.sizes]
    for n, (event, code) in enumerate(zip(run.events, decision.codes, strict=True), 1):
        t = machine.transitions[event.label]
        args = named_args(system, run.world, machine, event)
        inside = ", ".join(f"{name}={value}" for name, value in args.items())
        out.append(f"{n}. {t.step.kind} {t.step.label}({inside}) = {code or 'okay'}")
        told = {w: f"{old} -> {new}" for w, (old, new) in changes(system, run.world, states[n - 1], states[n]).items()}
        out += [f"      {line}" for line in records(told.items())]
    return out


__all__ = ["scenario_lines"]
