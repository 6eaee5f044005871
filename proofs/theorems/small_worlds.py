"""Finds attacks by exhaustive breadth-first search, in worlds that grow from one element of each sort.

Worlds are searched in three alternating orders: by the size of a state, for worlds such as one quorum and four rounds,
by the size of the largest sort, for worlds such as three elements of each, and by the number of elements in all, for
worlds such as two quorums and three rounds. A world in which a claim holds in every state by its shape alone (all values
are equal, say) is not searched for an attack on it. An attack found in a world is a shortest one there; larger worlds are
then searched for a shorter one. Worlds that were searched to their end without an attack have none. Systems with very
large states are left to the other searches.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from bulkhead.model.ir import BOOL, CALL, Claim, System
from bulkhead.model.trace import Trace
from bulkhead.model.world import World
from bulkhead.proofs.theorems.columns import Layout
from bulkhead.proofs.theorems.explore import Exploration, Limits, explore
from bulkhead.proofs.theorems.grounding import Grounding
from bulkhead.proofs.theorems.least_world import grown
from bulkhead.proofs.theorems.scope import first_scope

LARGEST = 7  # elements of a sort
CALLS = 2  # in flight
WIDE = 160  # columns of a state: with larger states, too few can be visited
STEPS = 12_000_000  # taken in all; a count and not a time, so that runs are deterministic
CHOICES = 1  # of variables and arguments, for each step that may be taken
FIRST_TURNS = 0.25  # this part of these steps is for the first turns of worlds alone,
NEW_WORLDS = 1 / 3  # and then at least this part of all steps, so that small worlds that come late have a turn, too
NEW_ALONE = 0.5  # or at most this part, if all that were searched were searched to their end
STARTS = 1 / 20  # initial states to begin with, for each step that may be taken
QUICK = 100_000  # steps for a world before others have their turn
MOST_STATES = 500_000  # of one world
FEW_STATES = 20_000  # of one world, if only the reachable steps are wanted
PER_START = 20  # cost of an initial state before its first step, in steps
SETUP = 30_000  # cost of a world before its first step, in steps
GLANCE = 1_500  # cost of checking whether a claim can be false in a world, in steps
LONGER = 4  # factor for its next turn
LEAST_AGAIN = 1_000_000  # minimum of steps for a search for a shorter attack,
AGAIN = 0.5  # or this part of the steps so far, if that is more


@dataclass
class Seen:
    """The result: attacks, and the worlds that were searched; `decided` if there are no others, and no other states."""

    attacks: dict[str, Trace] = field(default_factory=dict)
    explored: list[Exploration] = field(default_factory=list)
    decided: bool = False


class Worlds:
    """The worlds to search, small ones first: sizes as `given`, else from one up to the limit in the rules.

    Worlds that grow in a sort whose growth has made no difference so far come later: `note` records the results.
    """

    def __init__(self, system: System, given: Mapping[str, int] | None = None) -> None:
        self.system, self.given = system, given or {}
        in_flight = CALLS if any(step.after for step in system.steps) else 1
        self.most = {
            sort: system.scope[sort][1] if sort in system.scope else in_flight if sort == CALL else LARGEST
            for sort in system.sorts
        }
        self.written = {u.func for s in system.steps for t in s.transitions() for u in t.updates}
        self.seen: dict[_Key, tuple[int, ...]] = {}  # the number of new states at each depth, if the search was complete
        self.queues: tuple[list[_Turn], ...] = ([], [], [])
        self.known: set[_Key] = set()

    def note(self, found: Exploration) -> None:
        """The search state of a world."""
        if found.complete:
            self.seen[tuple(found.sizes.values())] = found.levels

    def __iter__(self) -> Iterator[dict[str, int]]:
        first = {sort: self.given.get(sort, 1) for sort in self.system.sorts}
        if Layout(self.system, first).refusal(WIDE) is None:
            first = grown(self.system, first, self.given)
        self._add(first, 0)
        done, passed = set[_Key](), set[_Key]()
        likely = {**first_scope(self.system), **self.given}  # what the formulas ask for: a turn before it would come
        if first != likely and Layout(self.system, likely).refusal(WIDE) is None:
            yield first
            yield likely
            done |= {tuple(first.values()), tuple(likely.values())}
        for turn in itertools.count():
            if not any(self.queues):
                return
            queue = next(q for q in (*self.queues[turn % 3 :], *self.queues) if q)
            *_, late, key = heapq.heappop(queue)
            if key in passed:
                continue
            passed.add(key)
            sizes = dict(zip(self.system.sorts, key, strict=True))
            if key not in done:
                yield sizes
            self._add_larger(sizes, late)

    def _add_larger(self, sizes: dict[str, int], late: int) -> None:
        for sort in self.system.sorts:
            if sort not in self.given and sizes[sort] < self.most[sort]:
                self._add({**sizes, sort: sizes[sort] + 1}, late + self._idle(sizes, sort))

    def _add(self, sizes: dict[str, int], late: int) -> None:
        key = tuple(sizes.values())
        layout = Layout(self.system, sizes)
        if key in self.known or layout.refusal(WIDE) is not None:
            return
        self.known.add(key)
        funcs = [f for f in self.system.funcs.values() if f.name not in self.written]
        effort = layout.width - 0.7 * sum(math.prod(layout.size(a) for a in f.args) for f in funcs)
        for queue, first in zip(self.queues, (effort, max(key), sum(key)), strict=True):
            heapq.heappush(queue, ((1 + late) * first, effort, late, key))

    def _idle(self, sizes: dict[str, int], sort: str) -> bool:
        """Has the last element of a sort not changed the number of reachable states?"""
        here = self.seen.get(tuple(sizes.values()))
        return here is not None and here == self.seen.get(tuple({**sizes, sort: sizes[sort] - 1}.values()))


def fits(system: System, given: Mapping[str, int] | None = None) -> bool:
    """Is the world that the formulas ask for small enough to be searched breadth first?"""
    return Layout(system, {**first_scope(system), **(given or {})}).refusal(WIDE) is None


def can_fall(system: System, sizes: Mapping[str, int], claim: Claim) -> bool:
    """May a claim be false in a world of these sizes? Not if its form makes it true in every state."""
    grounding = Grounding(system, World(dict(sizes), {}))
    return grounding.can_be_false(claim.body, {"failed": grounding.choice("failed", BOOL)})


def cost(found: Exploration) -> int:
    """The cost of a world so far, in steps."""
    return max(found.taken, found.choices // CHOICES) + found.tried + SETUP + PER_START * found.initial


_Key = tuple[int, ...]  # the sizes of the sorts
_Turn = tuple[float, float, int, _Key]  # the order's key, the effort, how often growth made no difference, and the world


def attacks_in_small_worlds(
    system: System,
    claims: Mapping[str, Claim],
    given: Mapping[str, int] | None = None,
    depth: int | None = None,
    one: bool = False,
    steps: int = STEPS,
) -> Seen:
    """Shortest attacks on claims in growing worlds, for about so many steps in all. With `one`, the attack that is shortest.

    `given` fixes the size of some sorts, `depth` bounds the length of attacks.
    """
    seen, spent, growing = Seen(), 0, Worlds(system, given)
    turns: list[tuple[float, int, int, float, dict[str, int]]] = []  # of worlds that were not searched to their end
    ties = itertools.count()  # of equal turns the first comes first

    def missing() -> list[Claim]:
        return [] if one and seen.attacks else [c for n, c in claims.items() if n not in seen.attacks]

    def useful(sizes: dict[str, int], asked: list[Claim]) -> list[Claim]:
        """The claims that may be false in a world."""
        nonlocal spent
        spent += GLANCE * len(asked)
        return [c for c in asked if can_fall(system, sizes, c)]

    def search(sizes: dict[str, int], asked: list[Claim], most: int | None, budget: float) -> float:
        """Search one world; the budget of its next turn if it was cut short and an attack is still missing, else 0."""
        nonlocal spent
        states = MOST_STATES if missing() else FEW_STATES
        limits = Limits(most, states, taken=budget, choices=CHOICES * budget, starts=STARTS * budget)
        found = explore(system, sizes, asked, limits)
        spent += cost(found)
        seen.explored.append(found)
        growing.note(found)
        for name, trace in found.attacks.items():
            if name not in seen.attacks or len(trace.events) < len(seen.attacks[name].events):
                seen.attacks[name] = trace
        cut = found.taken > budget or found.choices > CHOICES * budget
        if len(found.attacks) == len(asked) or (found.every_start and not cut):
            return 0
        return budget * LONGER if cut else max(budget * LONGER, found.all_starts / STARTS)  # before that it sees no more

    worlds, fresh = iter(growing), 0
    while missing() and spent < steps:
        share = max(steps * FIRST_TURNS, spent * NEW_WORLDS) if turns else steps * NEW_ALONE
        if fresh <= share and (sizes := next(worlds, None)) is not None:
            before = spent
            if (asked := useful(sizes, missing())) and (longer := search(sizes, asked, depth, QUICK)):
                heapq.heappush(turns, (longer * len(turns), len(turns), next(ties), longer, sizes))
            fresh += spent - before
        elif turns:  # longer and longer turns, early worlds first
            _, place, _, budget, sizes = heapq.heappop(turns)
            if budget / LONGER >= steps - spent:  # it would see no more than before
                continue
            if (asked := useful(sizes, missing())) and (longer := search(sizes, asked, depth, min(budget, steps - spent))):
                heapq.heappush(turns, (longer * (1 + place), place, next(ties), longer, sizes))
        else:
            break
    end = spent + max(int(AGAIN * spent), LEAST_AGAIN)
    growing = Worlds(system, given)
    for sizes in growing:  # is there a shorter attack in another world?
        lengths = [len(t.events) for t in seen.attacks.values()]
        longest = (min if one else max)(lengths, default=0)
        if longest < 2 or spent > end:
            break
        known = [c for n, c in claims.items() if one or (n in seen.attacks and len(seen.attacks[n].events) > 1)]
        if sizes not in [e.sizes for e in seen.explored] and (asked := useful(sizes, known)):
            search(sizes, asked, longest - 1, max(end - spent, 0))
    if set(system.sorts) == {CALL} and not any(step.after for step in system.steps):
        seen.decided = any(found.complete and not found.hidden for found in seen.explored)
    if one and seen.attacks:
        best = min(seen.attacks, key=lambda n: len(seen.attacks[n].events))
        seen.attacks = {best: seen.attacks[best]}
    return seen


def in_smaller_worlds(system: System, claim: Claim, trace: Trace) -> Trace:
    """The attack, or an equally short one by the same calls, in a world where no sort can be smaller."""
    labels = frozenset(e.label for e in trace.events)
    limits = Limits(depth=len(trace.events), taken=QUICK, choices=CHOICES * QUICK)
    again = True
    while again:
        again = False
        for sort, size in trace.world.sizes.items():
            if size > 1:
                smaller = {**trace.world.sizes, sort: size - 1}
                found = explore(system, smaller, [claim], limits, labels).attacks.get(claim.name)
                if found is not None:
                    trace, again = replace(found, excluded=len(found.events) - 1), True
                    break
    return trace


def fired_in_small_worlds(system: System, steps: int) -> tuple[frozenset[str], bool]:
    """The steps reachable in a small world, and whether there is an initial state.

    What is not reached in about so many steps may need one element more than the formulas ask for: a third variable, say,
    that borrows from one that borrows. Such worlds are then tried, for about as many steps again.
    """
    labels = frozenset(t.label for s in system.steps for t in s.transitions())
    fired, begins, spent = set[str](), False, 0

    def search(sizes: dict[str, int]) -> None:
        nonlocal begins, spent
        found = explore(system, sizes, (), Limits(states=FEW_STATES, taken=steps / 4, choices=CHOICES * steps / 4))
        growing.note(found)
        spent += cost(found)
        fired.update(found.fired & labels)
        begins = begins or found.initial > 0

    growing = Worlds(system)
    for sizes in growing:
        if fired >= labels or spent > steps:
            break
        search(sizes)
    likely, spent = first_scope(system), 0
    more = {sort: size + 1 for sort, size in likely.items() if size < growing.most[sort]}
    fewest = dict.fromkeys(likely, 1)
    larger = [{**others, sort: size} for others in (fewest, likely) for sort, size in more.items()]
    for sizes in sorted(larger, key=lambda some: Layout(system, some).width):
        if fired >= labels or spent > steps:
            break
        if Layout(system, sizes).refusal(WIDE) is None:
            search(sizes)
    return frozenset(fired), begins


__all__ = ["STEPS", "Seen", "Worlds", "attacks_in_small_worlds", "fired_in_small_worlds", "fits", "in_smaller_worlds"]
