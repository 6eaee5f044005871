"""A plain breadth-first search of the executable model from given states: the reference for lengths of attacks.

It is exhaustive in one small world: it has neither symmetry reduction nor heuristics nor a solver, so its lengths and
numbers of states can be compared with the project's attack search and with Spin. It is slow, and not a feature.
Its initial states come from `initial_states`: state that no step writes stays as given, the rest varies.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from bulkhead.model.compile import Coder, compiled, indent
from bulkhead.model.executable import ExecutableModel
from bulkhead.model.ir import Claim, System, Transition
from bulkhead.model.trace import Event
from bulkhead.model.world import State, World, elements, index_names, place, size_of, table_sizes

MANY = 256  # up to so many initial states are all searched; of more, so many are drawn at random

Key = bytes


@dataclass(frozen=True)
class Found:
    """`states` distinct states were visited in `depth` rounds; `events` is a shortest path from `start` to the violation of
    `claim`. `labels` names the transitions that were taken.

    `complete` is true when every reachable state was visited (then there is no violation, or none was searched).
    """

    states: int
    depth: int
    complete: bool
    labels: frozenset[str]
    claim: str = ""
    start: Key = b""
    events: tuple[Event, ...] | None = None


def state_of(system: System, world: World, facts: dict[str, str]) -> State:
    """The state in which each named place has the named value, and every other place the first value of its sort.

    Raises `KeyError` for a place and `ValueError` for a value that the world does not have.
    """
    state = [[0] * n for n in table_sizes(system, world)]
    at = {
        place(f.name, index_names(system, world, f.name, i)): (k, i, f.sort)
        for k, f in enumerate(system.funcs.values())
        for i in range(len(state[k]))
    }
    for name, value in facts.items():
        k, i, sort = at[name]
        state[k][i] = elements(system, world, sort).index(value)
    return state


def initial_states(machine: ExecutableModel, first: State) -> list[State]:
    """`first`, and initial states that differ from it in places that steps write and neither `init` nor an axiom fixes.

    All of them, or if there are more than `MANY`, as many drawn with a fixed seed. A place counts as not fixed if it
    can have another value while all others stay.
    """
    system, world = machine.system, machine.world
    bodies = [c.body for c in (*system.inits, *system.axioms)]
    written = {u.func for s in system.steps for t in s.transitions() for u in t.updates}
    free: list[tuple[int, int, list[int]]] = []
    for k, func in enumerate(system.funcs.values()):
        for i in range(len(first[k])) if func.name in written else ():
            values = []
            for value in range(size_of(system, world, func.sort)):
                state = [list(t) for t in first]
                state[k][i] = value
                if all(machine.holds(state, b) for b in bodies):
                    values.append(value)
            if len(values) > 1:
                free.append((k, i, values))
    rng = random.Random(1)
    count = 1
    for _, _, values in free:
        count *= len(values)
    chosen: Iterator[tuple[int, ...]] = (
        itertools.product(*(values for _, _, values in free))
        if count <= MANY
        else iter([tuple(rng.choice(values) for _, _, values in free) for _ in range(MANY)])
    )
    out = [first]
    for choice in chosen:
        state = [list(t) for t in first]
        for (k, i, _), value in zip(free, choice, strict=True):
            state[k][i] = value
        if state != first and all(machine.holds(state, b) for b in bodies):
            out.append(state)
    return out


class _Successors:
    """All successors of a state, with the event that leads to each."""

    def __init__(self, machine: ExecutableModel) -> None:
        self.machine = machine
        coder = Coder(machine.system, machine.world)
        self.steps = []
        for t in (t for s in machine.system.steps for t in s.transitions()):
            params = ", ".join(["S", *(f"v_{p.name}" for p in t.params)])
            loops = [
                f"{'    ' * k}for v_{p.name} in range({size_of(machine.system, machine.world, p.sort)}):"
                for k, p in enumerate(t.params)
            ]
            values = "(" + "".join(f"v_{p.name}, " for p in t.params) + ")"
            body = indent([f"if {coder.truth(t.guard, {})}: yield {values}"], len(t.params))
            choose = compiled("choose", "S", coder.with_tables([*loops, *body]))
            effect = compiled("effect", params, coder.with_tables([*coder.effect(t.updates), "return"]))
            self.steps.append((t, choose, effect))

    def of(self, key: Key) -> Iterator[tuple[Transition, tuple[int, ...], Key]]:
        state = unpacked(self.machine, key)
        for t, choose, effect in self.steps:
            for values in choose(state):
                after = [list(table) for table in state]
                effect(after, *values)
                yield t, values, _packed(after)


def _packed(state: State) -> Key:
    return bytes(itertools.chain.from_iterable(state))


def unpacked(machine: ExecutableModel, key: Key) -> State:
    """The state of a key."""
    out, at = [], 0
    for n in table_sizes(machine.system, machine.world):
        out.append(list(key[at : at + n]))
        at += n
    return out


def search(
    machine: ExecutableModel,
    first: list[State],
    claims: Iterable[Claim] = (),
    limit: int = 1_000_000,
    depth: int | None = None,
) -> Found:
    """All states reachable from those in `first`, or until one of the claims is violated; at most `limit`.

    With `depth`, states that many steps away are checked but not expanded.
    """
    of_states = [c for c in claims if c.kind != "transition"]
    of_steps = [c for c in claims if c.kind == "transition"]
    successors = _Successors(machine)
    layer = list(dict.fromkeys(map(_packed, first)))
    seen: dict[Key, tuple[Key, Event] | None] = dict.fromkeys(layer)
    labels: set[str] = set()
    rounds = 0

    def violated(key: Key) -> str | None:
        state = unpacked(machine, key)
        return next((c.name for c in of_states if not machine.holds(state, c.body)), None)

    def broken(before: Key, after: Key, failed: bool) -> str | None:
        states = unpacked(machine, before), unpacked(machine, after)
        return next((c.name for c in of_steps if not machine.holds_between(*states, c.body, failed)), None)

    def found(name: str = "", start: Key = b"", events: tuple[Event, ...] | None = None) -> Found:
        return Found(len(seen), rounds, not layer, frozenset(labels), name, start, events)

    for start in layer:
        if name := violated(start):
            return found(name, start, ())
    while layer and (depth is None or rounds < depth):
        rounds += 1
        following = []
        for key in layer:
            for t, values, after in successors.of(key):
                labels.add(t.label)
                event = Event(t.label, {p.name: v for p, v in zip(t.params, values, strict=True)})
                if of_steps and (name := broken(key, after, bool(t.code))):
                    start, way = _way(seen, key)
                    return found(name, start, (*way, event))
                if after in seen:
                    continue
                seen[after] = (key, event)
                if name := violated(after):
                    return found(name, *_way(seen, after))
                following.append(after)
                if len(seen) >= limit:
                    return found()
        layer = following
    return found()


def _way(seen: dict[Key, tuple[Key, Event] | None], key: Key) -> tuple[Key, tuple[Event, ...]]:
    events: list[Event] = []
    while (step := seen[key]) is not None:
        key, event = step
        events.append(event)
    return key, tuple(reversed(events))
