"""A plain breadth-first search of the executable model from one given state: the yardstick for lengths of attacks.

It is exhaustive in one small world: it has neither symmetry nor heuristics nor a solver, so that what it says of a length or
of a number of states can be held against the attack search of the project and against Spin. It is slow, and not a feature.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from model.compile import Coder, compiled, indent
from model.ir import Claim, System, Transition
from model.machine import Machine
from model.trace import Event
from model.world import State, World, elements, index_names, place, size_of, table_sizes

Key = bytes


@dataclass(frozen=True)
class Found:
    """`states` distinct states were seen in `depth` rounds; `events` is a shortest way to the violation, if one was seen.

    `complete` is true when every reachable state was seen (and then there is no violation, or it was not asked for).
    """

    states: int
    depth: int
    complete: bool
    events: tuple[Event, ...] | None = None


def state_of(system: System, world: World, facts: dict[str, str]) -> State:
    """The state in which each named place has the named value, and every other place the first value of its sort.

    Raises `KeyError` for a place and `ValueError` for a value that the world does not have.
    """
    state = [[0] * n for n in table_sizes(system, world)]
    at = {place(f.name, index_names(system, world, f.name, i)): (k, i, f.sort)
          for k, f in enumerate(system.funcs.values()) for i in range(len(state[k]))}
    for name, value in facts.items():
        k, i, sort = at[name]
        state[k][i] = elements(system, world, sort).index(value)
    return state


class _Successors:
    """All successors of a state, with the event that leads to each."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        coder = Coder(machine.system, machine.world)
        self.steps = []
        for t in (t for s in machine.system.steps for t in s.transitions()):
            params = ", ".join(["S", *(f"v_{p.name}" for p in t.params)])
            loops = [f"{'    ' * k}for v_{p.name} in range({size_of(machine.system, machine.world, p.sort)}):"
                     for k, p in enumerate(t.params)]
            values = "(" + "".join(f"v_{p.name}, " for p in t.params) + ")"
            body = indent([f"if {coder.truth(t.guard, {})}: yield {values}"], len(t.params))
            choose = compiled("choose", "S", [coder.header(), *loops, *body])
            effect = compiled("effect", params, [coder.header(), *coder.effect(t.updates), "return"])
            self.steps.append((t, choose, effect))

    def of(self, key: Key) -> Iterator[tuple[Transition, tuple[int, ...], Key]]:
        state = _unpacked(self.machine, key)
        for t, choose, effect in self.steps:
            for values in choose(state):
                after = [list(table) for table in state]
                effect(after, *values)
                yield t, values, _packed(after)


def _packed(state: State) -> Key:
    return bytes(itertools.chain.from_iterable(state))


def _unpacked(machine: Machine, key: Key) -> State:
    out, at = [], 0
    for n in table_sizes(machine.system, machine.world):
        out.append(list(key[at: at + n]))
        at += n
    return out


def search(machine: Machine, first: State, claim: Claim | None = None, limit: int = 1_000_000,
           depth: int | None = None) -> Found:
    """All states reachable from `first`, or as many as it takes to see `claim` violated; `limit` states at most.

    With `depth`, states that many steps away are looked at and not followed further.
    """
    two_state = claim is not None and claim.kind == "transition"

    def bad(key: Key) -> bool:
        return claim is not None and not two_state and not machine.holds(_unpacked(machine, key), claim.body)

    successors = _Successors(machine)
    start = _packed(first)
    seen: dict[Key, tuple[Key, Event] | None] = {start: None}
    if bad(start):
        return Found(1, 0, False, ())
    layer, rounds = [start], 0
    while layer and (depth is None or rounds < depth):
        rounds += 1
        following = []
        for key in layer:
            for t, values, after in successors.of(key):
                event = Event(t.label, {p.name: v for p, v in zip(t.params, values, strict=True)})
                if two_state and claim is not None and not machine.holds_between(
                        _unpacked(machine, key), _unpacked(machine, after), claim.body, bool(t.code)):
                    return Found(len(seen), rounds, False, (*_way(seen, key), event))
                if after in seen:
                    continue
                seen[after] = (key, event)
                if bad(after):
                    return Found(len(seen), rounds, False, _way(seen, after))
                following.append(after)
                if len(seen) >= limit:
                    return Found(len(seen), rounds, False)
        layer = following
    return Found(len(seen), rounds, not layer)


def _way(seen: dict[Key, tuple[Key, Event] | None], key: Key) -> tuple[Event, ...]:
    events: list[Event] = []
    while (step := seen[key]) is not None:
        key, event = step
        events.append(event)
    return tuple(reversed(events))
