"""A trace as people read it: a log of calls, and the files that `bulkhead attack` leaves.

The log names, per step, who calls what with which arguments, what the call does to the state, and at the end what is
violated. Pictures are drawn from the same states (`pictures.py`).
"""

from __future__ import annotations

import json
from pathlib import Path

from model.ir import System, Transition
from model.loader import load
from model.machine import Machine
from model.trace import (
    Event,
    Trace,
    TraceError,
    facts,
    header,
    load_jsonl,
    named_args,
    replay,
    to_itf,
    to_jsonl,
)
from model.world import State, changes, elements, index_names
from proofs import pictures
from proofs.attack import violated
from proofs.cti import Cti, describe
from proofs.files import write_file


def log(trace: Trace, system: System, machine: Machine) -> str:
    """The whole trace as text."""
    states = replay(trace, machine)
    claim = system.claims()[trace.claim]
    size = len(trace.events)
    out = [f"Attack on {trace.claim} of {system.name}: {size} step{'s' * (size != 1)}"
           + (f", with fault {', '.join(trace.faults)}" if trace.faults else ""), ""]
    if claim.doc:
        out += [f"  claim: {claim.doc}", ""]
    out.append("  at the start:")
    out += [f"      {where} = {value}" for where, value in facts(system, trace.world, trace.initial).items()
            if _tells(system, where)] or ["      nothing of note"]
    for n, event in enumerate(trace.events, 1):
        t = machine.transitions[event.label]
        out += ["", f"  {n}. {call_text(trace, system, machine, event)}"]
        if t.step.doc:
            out.append(f"        -- {t.step.doc}")
        for where, (old, new) in changes(system, trace.world, states[n - 1], states[n]).items():
            out.append(f"        {where}: {old} -> {new}")
    out += ["", f"  now {trace.claim} is false."]
    return "\n".join(out) + "\n"


def call_text(trace: Trace, system: System, machine: Machine, event: Event) -> str:
    """`hypercall map_grant_ref(caller=domain1, ...) = okay`, with what was picked behind it."""
    t = machine.transitions[event.label]
    args = named_args(system, trace.world, machine, event)
    own = [f"{p.name}={args[p.name]}" for p in t.step.params]
    picked = [f"{p.name}={args[p.name]}" for p in t.params if p not in t.step.params and p.name != "this"]
    where = f" [call {args['this']}]" if "this" in args else ""
    tail = f", picking {', '.join(picked)}" if picked else ""
    return f"{t.step.kind} {t.step.label}({', '.join(own)}) = {t.code or 'okay'}{tail}{where}"


def _tells(system: System, where: str) -> bool:
    """Rigid and ghost details are left out of the start of the log."""
    name = where.partition("[")[0]
    tail = where.rpartition("]")[2]
    func = system.funcs.get(name + tail) or system.funcs.get(name)
    return func is None or not func.ghost


def _picture_facts(system: System, trace: Trace, state: State) -> dict[str, dict[tuple[str, ...], str]]:
    out: dict[str, dict[tuple[str, ...], str]] = {}
    for k, func in enumerate(system.funcs.values()):
        names = elements(system, trace.world, func.sort)
        out[func.name] = {tuple(index_names(system, trace.world, func.name, i)): names[v]
                          for i, v in enumerate(state[k]) if not func.ghost}
    return out


def _culprits(table: dict[str, dict[tuple[str, ...], str]]) -> set[str]:
    """The elements on paths from one domain's address space to another domain's frame that no grant made."""
    bad: set[str] = set()
    owner, frames = table.get("frame.owner", {}), table.get("translation.frame", {})
    for t, frame in frames.items():
        present = "true" in (table["translation.present"].get(t), table["translation.cached"].get(t))
        space = table["translation.space"].get(t, "")
        if present and owner.get((frame,)) != table["space_of"].get((space,)):
            bad |= {space, frame, t[0]}
    return bad


def save_trace(system: System, name: str, trace: Trace, folder: Path) -> str:
    """Write log, JSON Lines, ITF and pictures of an attack on claim `name`; gives the log, and where the files are."""
    machine = Machine(system, trace.world)
    states = replay(trace, machine)
    text = log(trace, system, machine)
    write_file(folder / "trace.txt", text)
    write_file(folder / "trace.jsonl", to_jsonl(trace, system, machine))
    write_file(folder / "trace.itf.json", json.dumps(to_itf(trace, system, machine), indent=1) + "\n")
    tables = [_picture_facts(system, trace, s) for s in states]
    note = ""
    for n, table in enumerate(tables):
        moved = pictures.changes(tables[n - 1], table) if n else set()
        last = n == len(tables) - 1
        title = f"{n}. {_label(machine.transitions[trace.events[n - 1].label])}" if n else "0. at the start"
        graph = pictures.draw(table, title, moved, _culprits(table) if last else ())
        note = pictures.save(graph, folder / f"step-{n}")
        if last:
            steps = " -> ".join(e.label for e in trace.events)
            graph = pictures.draw(table, f"{name} is violated in {system.name}: {steps}",
                                  pictures.changes(tables[0], table), _culprits(table))
            note = pictures.save(graph, folder / "overview")
    return text + (f"\n{note}\n" if note else "") + f"\n  files: {folder}\n"


def retell(path: Path) -> str:
    """The log of a trace that was written before. Raises `TraceError` when it does not replay, or violates nothing."""
    head = header(path)
    faults = head.get("faults")
    if not isinstance(head.get("system"), str) or not isinstance(faults, list):
        raise TraceError(f"{path}:1: the header names no system, or no list of faults.")
    system = load(head["system"], [str(f) for f in faults])
    trace = load_jsonl(path, system)
    if trace.claim not in system.claims():
        raise TraceError(f"{path}:1: system `{system.name}` claims nothing named `{trace.claim}`.")
    machine = Machine(system, trace.world)
    states = replay(trace, machine)
    broken = violated(system, system.claims()[trace.claim], machine, trace, states)
    if broken is None:
        raise TraceError(f"{path}: replays, but `{trace.claim}` holds in every state of it.")
    return log(trace, system, machine)


def save_counterexample(system: System, cti: Cti, folder: Path) -> str:
    """Write a counterexample to induction as text and as pictures; gives the text, and where the files are."""
    text = "counterexample to induction (its first state need not be reachable): " + describe(cti, system)
    write_file(folder / "cti.txt", text)
    label = cti.event.label
    trace = Trace(system.name, (), cti.claim, cti.world, cti.before, (cti.event,))
    before, after = (_picture_facts(system, trace, s) for s in (cti.before, cti.after))
    pictures.save(pictures.draw(before, f"before {label}"), folder / "before")
    graph = pictures.draw(after, f"after {label}: {cti.claim} is broken", pictures.changes(before, after), _culprits(after))
    pictures.save(graph, folder / "after")
    return f"{text.rstrip()}\n  files: {folder}"


def _label(t: Transition) -> str:
    return f"{t.step.kind} {t.label}"
