"""A trace as a readable log of calls, and the files that `bulkhead attack` writes.

The log shows the relevant part of the initial state, then for each step the caller, the call with its arguments, the result
and the changes, and at the end the violated claim. Pictures are drawn from the same states (`pictures.py`).
"""

from __future__ import annotations

import hashlib
import json
import re
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bulkhead.model.diagnostics import UsageError
from bulkhead.model.executable import ExecutableModel
from bulkhead.model.ir import ANY, BOOL, Claim, System
from bulkhead.model.loader import load, shipped_files, shipped_systems
from bulkhead.model.logic import Formulas
from bulkhead.model.trace import (
    Event,
    Trace,
    TraceError,
    header,
    load_jsonl,
    named_args,
    replay,
    start_breaks,
    to_itf,
    to_jsonl,
)
from bulkhead.model.world import State, World, changes, elements, index_names, place, size_of
from bulkhead.proofs.atomic_files import write_file
from bulkhead.proofs.report import canvas, pictures
from bulkhead.proofs.report.element_names import Facts, actor, domain_name
from bulkhead.proofs.report.explain import Moment, culprits, facts_of
from bulkhead.proofs.theorems.shortening import violated

HARD = "\u00a0"
RULES = "trace.rules"  # beside a trace: the rules file of its system, if it is not a shipped one
GONE = 4  # removed facts in a picture's caption


def log(trace: Trace, system: System, machine: ExecutableModel) -> str:
    """The whole trace as text."""
    states = replay(trace, machine)
    claim = system.stated()[trace.claim]
    size = len(trace.events)
    what = "A way to break the invariant" if claim.kind == "invariant" else "Attack on"
    out = [
        f"{what} {trace.claim} of {system.name}: {size} step{'s' * (size != 1)}"
        + (f", with fault {', '.join(trace.faults)}" if trace.faults else ""),
        "",
    ]
    if claim.kind == "invariant":
        out += ["  This is no attack on a theorem: an invariant supports proofs, and these steps break it.", ""]
    if claim.doc:
        out += [
            *textwrap.wrap(
                f"{'invariant' if claim.kind == 'invariant' else 'claim'}: {claim.doc}",
                110,
                initial_indent="  ",
                subsequent_indent="    ",
            ),
            "",
        ]
    out += [*_length(trace), ""]
    out.append("  initial state (relevant part):")
    start = [*constants(system, trace.world), *records(needed_at_start(trace, system, machine).items())]
    out += [f"      {line}" for line in start] or ["      (nothing relevant)"]
    for n, event in enumerate(trace.events, 1):
        doc = machine.transitions[event.label].step.doc
        out += ["", f"  {n}. {call_text(trace, system, machine, event, states[n - 1])}"]
        out += [f"        -- {_first_sentence(doc)}"] if doc else []
        changed = changes(system, trace.world, states[n - 1], states[n])
        told = {w: f"{old} -> {new}" for w, (old, new) in changed.items() if _tells(system, w)}
        out += [f"        {line}" for line in records(told.items())]
    out += ["", f"  now {trace.claim} is false."]
    return "\n".join(out) + "\n"


def _length(trace: Trace) -> list[str]:
    """Is the attack a shortest one? Where that is open, the bound that is known, and which attempts to shorten it failed."""
    steps, most = len(trace.events), trace.excluded
    if most == steps - 1:
        return ["  length: a shortest one, in the worlds that were searched"]
    out = ["  length: perhaps not a shortest one"]
    if most >= 0:
        out += [f"      none of {most} step{'s' * (most != 1)} or fewer was found, in the worlds that were searched"]
    if trace.note:
        text = f"shortening it did not come to an end: {trace.note}"
        out += textwrap.wrap(text, 110, initial_indent="      ", subsequent_indent="        ")
    return out


def call_text(trace: Trace, system: System, machine: ExecutableModel, event: Event, before: State | None = None) -> str:
    """`domU domain1: hypercall map_grant_ref(caller=domain1, ...) = okay`, followed by the picked values.

    The caller is shown if `before`, the state before the call, has domains and processes.
    """
    t = machine.transitions[event.label]
    args = named_args(system, trace.world, machine, event)
    known = facts_of(system, trace.world, before) if before is not None else {}
    own = [f"{p.name}={domain_name(known, args[p.name])}" for p in t.step.params]
    # What `= *` chose is told by what changed.
    others = [p.name for p in t.params if p not in t.step.params and p.name != "this" and not p.name.startswith(ANY)]
    picked = [f"{name.rpartition('_')[2]}={args[name]}" for name in others]
    where = f" [{args['this']}]" if "this" in args else ""
    tail = f", picking {', '.join(picked)}" if picked else ""
    who = actor(known, t.step.kind, args)
    return f"{who}{t.step.kind} {t.step.label}({', '.join(own)}) = {t.code or 'okay'}{tail}{where}"


def _first_sentence(doc: str) -> str:
    """The first sentence of a text; an abbreviation followed by a small letter does not end it."""
    return re.split(r"(?<=[.!?;:]) +(?=[A-Z])", " ".join(doc.split()))[0].rstrip(";:")


def records(places: Iterable[tuple[str, str]]) -> list[str]:
    """Places and their values as lines, one line for all fields of a record."""
    grouped: dict[str, list[str]] = {}
    for where, said in places:
        head, bracket, field = where.partition("]")
        if bracket and field:
            grouped.setdefault(head + bracket, []).append(f"{field.lstrip('.')} {said}")
        else:
            grouped.setdefault(f"{where} {said}" if said.startswith("=") else f"{where}: {said}", [])
    out: list[str] = []
    for head, parts in grouped.items():
        line = ", ".join(part.replace(" ", HARD) for part in parts)  # wrapped between parts only
        out += textwrap.wrap(f"{head}: {line}" if parts else head, 116, subsequent_indent="    ")
    return [line.replace(HARD, " ") for line in out]


def _tells(system: System, where: str) -> bool:
    """Ghost state and the saved arguments of calls in flight are not in the log."""
    name = where.partition("[")[0] + where.rpartition("]")[2]
    func = system.funcs.get(name) or system.funcs.get(where)
    return func is not None and not func.ghost and name.partition(".")[0] not in {s.op for s in system.steps}


def constants(system: System, world: World) -> list[str]:
    """Values that element names do not show: constants of enums and `bool`, and constants that are the same element."""
    out = []
    same: dict[tuple[str, int], list[str]] = {}
    for const, value in world.consts.items():
        sort = system.consts[const]
        if system.sort_is_enum(sort):
            out.append(f"{const} = {elements(system, world, sort)[value]}")
        else:
            same.setdefault((sort, value), []).append(const)
    return out + [f"{' = '.join(names)}: the same {sort}" for (sort, _), names in same.items() if len(names) > 1]


def needed_at_start(trace: Trace, system: System, machine: ExecutableModel) -> dict[str, str]:
    """The part of the first state that the attack needs, without ghost state: place -> value.

    Flags and enum members count if the attack fails without them, other values if no other one of their sort works. State
    that no step writes, such as an order or the members of quorums, has to satisfy the axioms about it, too.
    """
    claim = system.stated()[trace.claim]
    state = [list(t) for t in trace.initial]
    reads = Formulas(system)
    about = {name: [a.body for a in system.axioms if name in reads.reads_of(a.body)] for name in system.funcs}

    def attacks(func: str) -> bool:
        if not all(machine.holds(state, axiom) for axiom in about[func]):
            return False
        again = Trace(trace.system, trace.faults, trace.claim, trace.world, state, trace.events)
        try:
            return violated(system, claim, machine, again, replay(again, machine)) is not None
        except UsageError:
            return False

    needed = {}
    for k, func in enumerate(system.funcs.values()):
        flag = func.sort == BOOL or func.sort in system.enums
        for i, value in enumerate(state[k]):
            others = [0] if flag else [v for v in range(size_of(system, trace.world, func.sort)) if v != value]
            if func.ghost or not others or (flag and not value):
                continue
            for other in others:
                state[k][i] = other
                if attacks(func.name):
                    break
            else:
                state[k][i] = value
                needed[place(func.name, index_names(system, trace.world, func.name, i))] = (
                    "= " + elements(system, trace.world, func.sort)[value]
                )
            if not flag:
                state[k][i] = value  # another value works as well; this does not decide the next place
    return needed


def save_trace(system: System, name: str, trace: Trace, folder: Path) -> str:
    """Write log, JSON Lines, ITF and pictures of an attack on claim `name`; returns the log and the files' folder."""
    machine = ExecutableModel(system, trace.world)
    states = replay(trace, machine)
    text = log(trace, system, machine)
    write_file(folder / "trace.txt", text)
    rules = own_rules(system)
    if rules is not None:
        write_file(folder / RULES, rules)
    hashed = rules and {"file": RULES, "sha256": hashlib.sha256(rules.encode()).hexdigest()}
    write_file(folder / "trace.jsonl", to_jsonl(trace, system, machine, hashed or None))
    write_file(folder / "trace.itf.json", json.dumps(to_itf(trace, system, machine), indent=1) + "\n")
    claim = system.stated()[name]
    last = len(trace.events)
    failed = bool(last and machine.transitions[trace.events[-1].label].code)
    red = culprits(system, trace.world, claim.body, moment(claim, states[max(last - 1, 0)], states[last], failed))
    tables = [facts_of(system, trace.world, s) for s in states]
    caption = canvas.Caption("At the start", (f"{name} of {system.name} holds.",) if last else (), red=not last)
    drawn = [(pictures.draw(tables[0], caption, (), () if last else red), folder / "step-0")]
    for n, event in enumerate(trace.events, 1):
        moved = pictures.changes(tables[n - 1], tables[n])
        lines = [call_text(trace, system, machine, event, states[n - 1]), *gone_lines(system, tables[n], moved)]
        lines += [f"Now {name} is false."] * (n == last)
        title = f"Step {n} of {last}: {machine.transitions[event.label].step.kind} {event.label}"
        caption = canvas.Caption(title, tuple(lines), red=n == last)
        drawn.append((pictures.draw(tables[n], caption, moved, red if n == last else ()), folder / f"step-{n}"))
    title = f"{name} is violated in {system.name}" + (f", with fault {', '.join(trace.faults)}" if trace.faults else "")
    caption = canvas.Caption(title, (*([claim.doc] if claim.doc else []), _way(trace)), red=True)
    drawn.append((pictures.draw(tables[-1], caption, pictures.changes(tables[0], tables[-1]), red), folder / "overview"))
    note = pictures.save_all(drawn)
    return text + (f"\n{note}\n" if note else "") + f"\n  files: {folder}\n"


def own_rules(system: System) -> str | None:
    """The text of a system's rules file, if it is not a shipped one."""
    return None if system.home in {str(p) for p in shipped_files()} else system.sources.get(system.home)


def read_back(path: Path, system_name: str | None = None) -> tuple[System, Trace, str]:
    """A trace from a file, its system, and its log.

    The system is a shipped one, or `system_name` (a name or path), or else the rules that `attack` has written beside the
    trace; their hash must match the trace. Raises `TraceError` if it does not replay, or violates
    no claim.
    """
    head = header(path)
    faults = head.get("faults")
    if not isinstance(head.get("system"), str) or not isinstance(faults, list):
        raise TraceError(f"{path}:1: the header names no system, or no list of faults.")
    where = _rules_of(path, head) if system_name is None else system_name
    if where != head["system"] and load(where, []).name != head["system"]:
        raise TraceError(f"{path}:1: a trace of system `{head['system']}`, not of `{load(where, []).name}`.")
    system = load(where, [str(f) for f in faults])
    trace = load_jsonl(path, system)
    if trace.claim not in system.stated():
        raise TraceError(f"{path}:1: system `{system.name}` claims nothing named `{trace.claim}`.")
    machine = ExecutableModel(system, trace.world)
    wrong = start_breaks(machine, trace.initial)
    if wrong is not None:
        raise TraceError(
            f"{path}:2: the first state is no initial state: the {wrong.kind} at {wrong.span.file}:"
            f"{wrong.span.line} does not hold in it."
        )
    try:
        states = replay(trace, machine)
    except TraceError as error:
        raise TraceError(f"{path}: {error}") from None
    broken = violated(system, system.stated()[trace.claim], machine, trace, states)
    if broken is None:
        raise TraceError(f"{path}: replays, but `{trace.claim}` holds in every state of it.")
    return system, trace, log(trace, system, machine)


def _rules_of(path: Path, head: dict[str, Any]) -> str:
    """The source of a trace's system: the rules beside it if its header names them, else a shipped system."""
    told = head.get("rules")
    if told is None:
        if head["system"] in shipped_systems():
            return str(head["system"])
        raise TraceError(
            f"{path}:1: a trace of system `{head['system']}`, which is not a shipped one; "
            "say where its rules are: --system FILE.rules."
        )
    if not isinstance(told, dict) or told.get("file") != RULES or not isinstance(told.get("sha256"), str):
        raise TraceError(f"{path}:1: `rules` must name the file `{RULES}` beside the trace, and its sha256.")
    beside = path.with_name(RULES)
    if not beside.is_file():
        raise TraceError(f"{beside}: the rules of this trace are not there; say where they are: --system FILE.rules.")
    if hashlib.sha256(beside.read_bytes()).hexdigest() != told["sha256"]:
        raise TraceError(
            f"{beside}: are not the rules that the trace was made with (another sha256); "
            "to replay it on them all the same: --system FILE.rules."
        )
    return str(beside)


def moment(claim: Claim, before: State, after: State, failed: bool) -> Moment:
    return Moment(before, after, failed) if claim.kind == "transition" else Moment(after)


def gone_lines(system: System, after: Facts, moved: set[canvas.Place]) -> list[str]:
    """A line on the facts that a step removed, which the picture of the state after it cannot show."""
    gone = [w for w in (place(f, list(a)) for f, a in sorted(moved) if after[f][a] == "false") if _tells(system, w)]
    more = f" and {len(gone) - GONE} more" if len(gone) > GONE else ""
    return [f"no longer: {', '.join(gone[:GONE])}{more}"] if gone else []


def _way(trace: Trace) -> str:
    """The calls of an attack in order."""
    return (
        "By " + ", ".join(f"{n}.{HARD}{e.label}" for n, e in enumerate(trace.events, 1)) + "."
        if trace.events
        else "In an initial state."
    )
