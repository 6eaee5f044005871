"""Text of scenarios: one line each, and a run step by step if requested or unexpected.

Text is made only from results. Not here: the search for runs (`theorems/scenarios.py`).
"""

from __future__ import annotations

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
    where = f"{len(run.events)} steps in a world of {in_words(run.world.sizes)}" if run is not None else decision.bound
    expected = "" if result.as_expected else f", {result.expected} is EXPECTED"
    out = [f"scenario {result.name}: {decision.verdict}{expected} ({where})"]
    if run is not None and (result.asked or not result.as_expected):
        out += [f"    {line}" for line in _run(result, system)]
    return out


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
