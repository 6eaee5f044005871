"""Attacks found by seeing everything: breadth first, in worlds that grow from one element of each sort.

Worlds are searched in two orders by turns: by the size of a state, so that a world of one quorum and four rounds has its
turn, and by the size of the largest sort, so that one of three of each has. What is found in a world is a shortest attack
in it; larger worlds are then asked for a shorter one. What is not found is not there, in the worlds that were searched to
their end. Systems with very large states are left to the other searches.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from bulkhead.model.choices import MOST, ways_to_choose
from bulkhead.model.ir import CALL, Claim, System
from bulkhead.model.trace import Trace
from bulkhead.model.world import World
from bulkhead.proofs.theorems.columns import Layout
from bulkhead.proofs.theorems.explore import Exploration, Limits, explore

LARGEST = 5  # elements of a sort
CALLS = 2  # in flight
WIDE = 160  # columns of a state: of larger ones too few can be seen
STEPS = 8_000_000  # taken in all; a count and not a time, so that runs agree
QUICK = 100_000  # steps for a world before others have their turn
MOST_STATES = 500_000  # of one world
FEW_STATES = 20_000  # of one world, where only the steps that can be taken are asked
PER_START = 20  # what an initial state costs before its first step, in steps
SETUP = 30_000  # what a world costs before its first step, in steps
LONGER = 4  # times as many in its next turn
LEAST_AGAIN = 1_000_000  # steps into a search for something shorter at least,
AGAIN = 0.5  # or this part of the steps taken so far, where that is more


@dataclass
class Seen:
    """What was found: attacks, and the worlds that were searched."""

    attacks: dict[str, Trace] = field(default_factory=dict)
    explored: list[Exploration] = field(default_factory=list)


def worlds(system: System, given: Mapping[str, int] | None = None) -> Iterator[dict[str, int]]:
    """The worlds in which to look, small ones first: sizes as `given`, else from one on, up to what the rules say."""
    given = given or {}
    in_flight = CALLS if any(step.after for step in system.steps) else 1
    most = {
        sort: system.scope[sort][1] if sort in system.scope else in_flight if sort == CALL else LARGEST
        for sort in system.sorts
    }
    written = {u.func for s in system.steps for t in s.transitions() for u in t.updates}

    def effort(sizes: dict[str, int]) -> float:
        layout = Layout(system, sizes)
        fixed = sum(math.prod(layout.size(a) for a in f.args) for f in system.funcs.values() if f.name not in written)
        return layout.width - 0.7 * fixed

    first = {sort: given.get(sort, 1) for sort in system.sorts}
    if Layout(system, first).width > WIDE:
        return
    queues: tuple[list[_Turn], list[_Turn]] = ([], [])
    known: set[tuple[int, ...]] = set()
    done: set[tuple[int, ...]] = set()

    def add(sizes: dict[str, int]) -> None:
        key = tuple(sizes.values())
        if key in known or ways_to_choose(system, World(sizes, {})) > MOST:
            return
        if Layout(system, sizes).width <= WIDE:
            known.add(key)
            heapq.heappush(queues[0], (effort(sizes), 0.0, key))
            heapq.heappush(queues[1], (float(max(key)), effort(sizes), key))

    add(first)
    for turn in itertools.count():
        queue = queues[turn % 2] or queues[1 - turn % 2]
        if not queue:
            return
        key = heapq.heappop(queue)[2]
        if key in done:
            continue
        done.add(key)
        sizes = dict(zip(system.sorts, key, strict=True))
        yield sizes
        for sort in system.sorts:
            if sort not in given and sizes[sort] < most[sort]:
                add({**sizes, sort: sizes[sort] + 1})


_Turn = tuple[float, float, tuple[int, ...]]  # what comes first, and the sizes of the sorts


def attacks_in_small_worlds(
    system: System,
    claims: Mapping[str, Claim],
    given: Mapping[str, int] | None = None,
    depth: int | None = None,
    one: bool = False,
    steps: int = STEPS,
) -> Seen:
    """Shortest attacks on claims in growing worlds, for about so many steps in all. With `one`, the first that falls.

    `given` fixes the size of some sorts, `depth` bounds the length of attacks.
    """
    seen, spent = Seen(), 0
    cut_off: list[dict[str, int]] = []  # worlds that were not searched to their end

    def missing() -> list[Claim]:
        return [] if one and seen.attacks else [c for n, c in claims.items() if n not in seen.attacks]

    def search(sizes: dict[str, int], asked: list[Claim], most: int | None, budget: float) -> None:
        nonlocal spent
        states = MOST_STATES if missing() else FEW_STATES
        found = explore(system, sizes, asked, Limits(depth=most, taken=budget, states=states))
        spent += found.taken + SETUP + PER_START * found.initial
        seen.explored.append(found)
        for name, trace in found.attacks.items():
            if name not in seen.attacks or len(trace.events) < len(seen.attacks[name].events):
                seen.attacks[name] = trace
        if not found.complete and most == depth and not found.attacks:
            cut_off.append(sizes)

    for sizes in worlds(system, given):
        if not missing() or spent > steps / 2:
            break
        search(sizes, missing(), depth, QUICK)
    budget = QUICK
    while cut_off and missing() and spent < steps:  # each has a longer turn, and then each again
        budget *= LONGER
        turns, cut_off = cut_off, []
        for sizes in turns:
            if missing() and spent < steps:
                search(sizes, missing(), depth, min(budget, steps - spent))
    end = spent + max(int(AGAIN * spent), LEAST_AGAIN)
    for sizes in worlds(system, given):  # is there a shorter way in another world?
        longest = max((len(t.events) for t in seen.attacks.values()), default=0)
        if longest < 2 or spent > end:
            break
        if sizes not in [e.sizes for e in seen.explored]:
            search(sizes, [claims[n] for n, t in seen.attacks.items() if len(t.events) > 1], longest - 1, end - spent)
    return seen


def fired_in_small_worlds(system: System, steps: int) -> tuple[frozenset[str], bool]:
    """The steps that are taken from some initial state of a small world, and whether there is an initial state at all."""
    labels = frozenset(t.label for s in system.steps for t in s.transitions())
    fired, begins, spent = set[str](), False, 0
    for sizes in worlds(system):
        if fired >= labels or spent > steps:
            break
        found = explore(system, sizes, (), Limits(states=FEW_STATES, taken=steps / 4))
        spent += found.taken + SETUP
        fired |= found.fired & labels
        begins = begins or found.initial > 0
    return frozenset(fired), begins


__all__ = ["Seen", "attacks_in_small_worlds", "fired_in_small_worlds", "worlds"]
