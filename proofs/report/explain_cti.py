"""Explains a counterexample to induction by text and pictures: the step, and the relevant facts of the state before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bulkhead.model.executable import ExecutableModel
from bulkhead.model.ir import System
from bulkhead.model.trace import Trace, facts
from bulkhead.model.world import changes, elements, index_names, place, size_of
from bulkhead.proofs.atomic_files import write_file
from bulkhead.proofs.report import canvas, pictures
from bulkhead.proofs.report.explain import culprits, facts_of
from bulkhead.proofs.report.trace_text import call_text, gone_lines, moment, records
from bulkhead.proofs.theorems.cti import Cti, broken, machine_of


def _decisive(cti: Cti, system: System, machine: ExecutableModel) -> Iterator[tuple[str, str]]:
    """Places whose value is the first element of a declared sort and cannot be another one.

    Unlike `false`, the first element is not an empty value, so omitting these places would hide facts.
    """
    known = {c.name: c for c in (*system.axioms, *system.invariants.values(), *system.claims().values())}
    claims = [known[n].body for n in cti.assumed]
    wrong = known[cti.claim]
    state = [list(t) for t in cti.before]
    for k, func in enumerate(system.funcs.values()):
        if system.sort_is_enum(func.sort):
            continue
        for i, value in enumerate(cti.before[k]):
            others = [v for v in range(size_of(system, cti.world, func.sort)) if v != value]
            if value or not others:
                continue
            free = False
            for other in others:
                state[k][i] = other
                after = [list(t) for t in state]
                free = free or (
                    machine.fire(after, cti.event.label, cti.event.args)
                    and broken(wrong, machine, cti.transition, state, after)
                    and all(machine.holds(state, c) for c in claims)
                )
            state[k][i] = value
            if not free:
                yield (
                    place(func.name, index_names(system, cti.world, func.name, i)),
                    elements(system, cti.world, func.sort)[value],
                )


def describe(cti: Cti, system: System) -> str:
    """The step with its arguments, and the relevant facts: `=` for unchanged places, `->` for changes."""
    machine = machine_of(system, cti.world, cti.transition)
    trace = Trace(system.name, (), cti.claim, cti.world, cti.before, (cti.event,))
    changed = changes(system, cti.world, cti.before, cti.after)
    kept = {**facts(system, cti.world, cti.before), **dict(_decisive(cti, system, machine))}
    out = [f"{cti.claim} is not kept by", f"  {call_text(trace, system, machine, cti.event, cti.before)}"]
    out += [f"      {line}" for line in records((w, f"= {v}") for w, v in kept.items() if w not in changed)]
    out += [f"      {line}" for line in records((w, f"{old} -> {new}") for w, (old, new) in changed.items())]
    return "\n".join(out) + "\n"


def save_counterexample(system: System, cti: Cti, folder: Path) -> str:
    """Write a counterexample to induction as text and as pictures; returns the text and the files' folder."""
    text = "counterexample to induction (its first state need not be reachable): " + describe(cti, system)
    write_file(folder / "cti.txt", text)
    label = cti.event.label
    trace = Trace(system.name, (), cti.claim, cti.world, cti.before, (cti.event,))
    machine = ExecutableModel(system, cti.world)
    machine.transitions[label] = cti.transition
    claim = system.stated()[cti.claim]
    red = culprits(system, cti.world, claim.body, moment(claim, cti.before, cti.after, bool(cti.transition.code)))
    before, after = (facts_of(system, cti.world, s) for s in (cti.before, cti.after))
    moved = pictures.changes(before, after)
    lines = [call_text(trace, system, machine, cti.event, cti.before)]
    caption = canvas.Caption(f"Before {label}: {cti.claim} holds", (f"next: {lines[0]}",))
    drawn = [(pictures.draw(before, caption), folder / "before")]
    lines = [*lines, *gone_lines(system, after, moved), *([claim.doc] if claim.doc else [])]
    caption = canvas.Caption(f"After {label}: {cti.claim} is broken", tuple(lines), red=True)
    drawn.append((pictures.draw(after, caption, moved, red), folder / "after"))
    note = pictures.save_all(drawn)
    return "\n".join([text.rstrip(), *([note] if note else []), f"  files: {folder}"])


__all__ = ["describe", "save_counterexample"]
