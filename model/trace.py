"""Traces: the exchange format of attack search, executable model and pictures.

A trace is an initial state and a list of events, each naming a transition and its arguments. It is written as JSON Lines
(format `bulkhead-trace/1`, see README.md in this folder) and as ITF JSON; replaying one gives its states.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bulkhead.model.choices import in_world
from bulkhead.model.diagnostics import UsageError, suggest
from bulkhead.model.ir import Claim, System
from bulkhead.model.world import State, World, changes, elements, index_names, place, size_of, table_sizes

if TYPE_CHECKING:
    from bulkhead.model.executable import ExecutableModel

FORMAT = "bulkhead-trace/1"
HEADER = 1_000_000  # maximum length of a header, in characters
MAX_PLACES = 1_000_000  # maximum number of places in a state


class TraceError(UsageError):
    """A trace that is malformed or does not replay."""


@dataclass(frozen=True)
class Event:
    """One step: the transition's label, and an element index for each of its parameters."""

    label: str
    args: dict[str, int]
    changes: dict[str, str] | None = field(default=None, compare=False)  # the changes that a file records


@dataclass(frozen=True)
class Trace:
    """An attack. `excluded` is a number of steps: the searched world has no attack of that length or shorter.

    `note` says where the search for a shorter one was cut short.
    """

    system: str
    faults: tuple[str, ...]
    claim: str
    world: World
    initial: State
    events: tuple[Event, ...]
    excluded: int = -1
    note: str = ""


def replay(trace: Trace, machine: ExecutableModel) -> list[State]:
    """All states of a trace, the initial one first. Raises `TraceError` at the first event that does not fire."""
    state = [list(t) for t in trace.initial]
    states = [[list(t) for t in state]]
    for n, event in enumerate(trace.events, 1):
        if event.label not in machine.transitions:
            hint = suggest(event.label, machine.transitions)
            raise TraceError(f"event {n}: there is no step `{event.label}` in system `{trace.system}`. {hint}".strip())
        if not machine.fire(state, event.label, event.args):
            raise TraceError(f"event {n}: `{event.label}` cannot be taken in the state before it.")
        states.append([list(t) for t in state])
        if event.changes is not None:
            made = {p: new for p, (_, new) in changes(machine.system, trace.world, states[-2], states[-1]).items()}
            if made != event.changes:
                wrong = min(p for p in made.keys() | event.changes.keys() if made.get(p) != event.changes.get(p))
                raise TraceError(
                    f"event {n}: the trace has `{wrong}` become {event.changes.get(wrong, 'nothing new')}, the "
                    f"rules {made.get(wrong, 'nothing new')}."
                )
    return states


def start_breaks(machine: ExecutableModel, state: State) -> Claim | None:
    """The first `init` or axiom that does not hold in a state; None for an initial state."""
    every = (*machine.system.inits, *machine.system.axioms)
    return next((c for c in every if not machine.holds(state, c.body)), None)


def named_args(system: System, world: World, machine: ExecutableModel, event: Event) -> dict[str, str]:
    """The arguments of an event by the names of the elements."""
    params = machine.transitions[event.label].params
    return {p.name: elements(system, world, p.sort)[event.args[p.name]] for p in params}


def facts(system: System, world: World, state: State) -> dict[str, str]:
    """All places of a state whose value is not the first of its sort."""
    out = {}
    for k, func in enumerate(system.funcs.values()):
        names = elements(system, world, func.sort)
        for i, value in enumerate(state[k]):
            if value:
                out[place(func.name, index_names(system, world, func.name, i))] = names[value]
    return out


def to_jsonl(trace: Trace, system: System, machine: ExecutableModel, rules: Mapping[str, str] | None = None) -> str:
    """The trace as JSON Lines. `rules` are the name and hash of the rules file, for the header."""
    states = replay(trace, machine)
    lines: list[dict[str, Any]] = [
        {
            "format": FORMAT,
            "system": trace.system,
            "faults": list(trace.faults),
            "claim": trace.claim,
            "excluded": trace.excluded,
            "world": {"sizes": trace.world.sizes, "consts": trace.world.consts},
            **({"note": trace.note} if trace.note else {}),
            **({"rules": dict(rules)} if rules else {}),
        },
        {"initial": facts(system, trace.world, trace.initial)},
    ]
    for n, event in enumerate(trace.events, 1):
        changed = changes(system, trace.world, states[n - 1], states[n])
        made = machine.transitions[event.label]
        lines.append(
            {
                "i": n,
                "kind": made.step.kind,
                "call": event.label,
                "result": made.code or "okay",
                "args": named_args(system, trace.world, machine, event),
                "changes": {p: new for p, (_, new) in changed.items()},
            }
        )
    return "".join(json.dumps(line) + "\n" for line in lines)


def header(path: Path) -> dict[str, Any]:
    """The first line of a trace. Raises `TraceError` when there is none."""
    try:
        if path.exists() and not path.is_file():
            raise TraceError(f"{path}: is not a regular file.")
        with open(path, encoding="utf-8") as file:
            head = json.loads(file.readline(HEADER))
    except ValueError:
        raise TraceError(f"{path}:1: not a trace; expected a header with format {FORMAT!r}.") from None
    except (OSError, RecursionError) as error:
        raise TraceError(f"{path}: cannot read this trace: {getattr(error, 'strerror', None) or error}.") from None
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        raise TraceError(f"{path}:1: not a trace; expected a header with format {FORMAT!r}.")
    return head


def is_trace(path: Path) -> bool:
    """Does the file begin with a trace header?"""
    try:
        header(path)
    except TraceError:
        return False
    return True


def load_jsonl(path: Path, system: System) -> Trace:
    """Read a trace of a system. Raises `TraceError` naming file and line when it is malformed."""
    head, initial, *rows = _objects(path)
    try:
        if head.get("system") != system.name:
            raise TraceError(f"{path}:1: a trace of system `{head.get('system')}`, not of `{system.name}`.")
        world = _world(head["world"], system, f"{path}:1")
        return Trace(
            str(head["system"]),
            tuple(map(str, head["faults"])),
            str(head["claim"]),
            world,
            _initial(initial["initial"], system, world, f"{path}:2"),
            _events(rows, system, world, path),
            int(head.get("excluded", -1)),
            str(head.get("note", "")),
        )
    except KeyError as error:
        raise TraceError(f"{path}: malformed trace: `{error.args[0]}` is missing.") from None
    except (TypeError, ValueError, AttributeError, OverflowError):
        raise TraceError(f"{path}: malformed trace: a value of the wrong kind (the format: model/README.md).") from None


def _objects(path: Path) -> list[dict[str, Any]]:
    """The lines of a trace: its header, the initial state, and the events."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TraceError(f"{path}: cannot read this trace: {error}") from None
    rows: list[dict[str, Any]] = []
    for n, line in enumerate(text.splitlines(), 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise TraceError(f"{path}:{n}: not a line of JSON.") from None
        if not isinstance(row, dict):
            raise TraceError(f"{path}:{n}: expected a JSON object.")
        rows.append(row)
    if not rows or rows[0].get("format") != FORMAT:
        raise TraceError(f"{path}:1: not a trace; expected a header with format {FORMAT!r}.")
    if len(rows) < 2:
        raise TraceError(f"{path}: ends after its header; the initial state should follow.")
    return rows


def _world(given: dict[str, Any], system: System, where: str) -> World:
    """The world of a header, if it is one of the system and not too large."""
    if any(type(v) is not int for part in ("sizes", "consts") for v in given[part].values()):
        raise TraceError(f"{where}: sizes and constants of the world must be whole numbers.")
    world = World(dict(given["sizes"]), dict(given["consts"]))
    if set(world.sizes) != set(system.sorts) or set(world.consts) != set(system.consts):
        raise TraceError(f"{where}: the world is not one of system `{system.name}`.")
    if any(not 1 <= n <= 64 for n in world.sizes.values()) or any(
        not 0 <= v < size_of(system, world, system.consts[c]) for c, v in world.consts.items()
    ):
        raise TraceError(f"{where}: the sizes of the world must lie between 1 and 64, constants inside them.")
    if sum(table_sizes(system, world)) > MAX_PLACES:
        raise TraceError(f"{where}: the world has more than {MAX_PLACES:,} places; make it smaller.")
    return world


def _initial(given: dict[str, Any], system: System, world: World, where: str) -> State:
    """The state in which the given places have the given values, and all others the first of their sorts."""
    state = [[0] * n for n in table_sizes(system, world)]
    names = {
        place(f.name, index_names(system, world, f.name, i)): (k, i, f.sort)
        for k, f in enumerate(system.funcs.values())
        for i in range(len(state[k]))
    }
    for name, value in given.items():
        if name not in names:
            raise TraceError(f"{where}: there is no place `{name}` in this world.")
        k, i, sort = names[name]
        state[k][i] = _element(system, world, sort, value, where)
    return state


def _events(rows: list[dict[str, Any]], system: System, world: World, path: Path) -> tuple[Event, ...]:
    """The events of a trace, whose lines follow the first two of its file."""
    steps = {t.label: in_world(system, world, t) for s in system.steps for t in s.outcomes()}
    events = []
    for n, row in enumerate(rows, 1):
        where = f"{path}:{n + 2}"
        if row.get("call") not in steps:
            hint = suggest(str(row.get("call")), steps)
            raise TraceError(f"{where}: there is no step `{row.get('call')}`. {hint}".strip())
        made = steps[row["call"]]
        given = row.get("args", {})
        args = {}
        for p in made.params:
            if p.name not in given:
                raise TraceError(f"{where}: `{row['call']}` needs the argument `{p.name}`.")
            args[p.name] = _element(system, world, p.sort, given[p.name], where)
        for name, is_so in (("i", n), ("kind", made.step.kind), ("result", made.code or "okay")):
            if row.get(name, is_so) != is_so:
                due = f"of `{row['call']}` as event {n} it is {json.dumps(is_so)}"
                raise TraceError(f"{where}: `{name}` is {json.dumps(row[name])}; {due}.")
        changed = row.get("changes")
        if changed is not None and not isinstance(changed, dict):
            raise TraceError(f"{where}: `changes` must be an object.")
        events.append(Event(row["call"], args, changed))
    return tuple(events)


def _element(system: System, world: World, sort: str, value: object, where: str) -> int:
    names = elements(system, world, sort)
    if value not in names:
        raise TraceError(f"{where}: `{value}` is not one of {', '.join(names)}.")
    return names.index(str(value))


def to_itf(trace: Trace, system: System, machine: ExecutableModel) -> dict[str, Any]:
    """The trace in the Informal Trace Format (Apalache's ADR-015)."""
    world = trace.world
    labels = ["(initial state)", *(e.label for e in trace.events)]
    out = []
    for n, state in enumerate(replay(trace, machine)):
        row: dict[str, Any] = {"#meta": {"index": n}, "action": labels[n]}
        for k, func in enumerate(system.funcs.values()):
            names = elements(system, world, func.sort)

            def value(v: int, sort: str = func.sort, names: list[str] = names) -> str | bool:
                return bool(v) if sort == "bool" else names[v]

            if not func.args:
                row[func.name] = value(state[k][0])
                continue
            pairs = []
            for i, v in enumerate(state[k]):
                key = index_names(system, world, func.name, i)
                pairs.append([key[0] if len(key) == 1 else {"#tup": key}, value(v)])
            row[func.name] = {"#map": pairs}
        out.append(row)
    return {
        "#meta": {"format": "ITF", "description": f"{trace.system}: violation of {trace.claim}"},
        "vars": ["action", *system.funcs],
        "states": out,
    }
