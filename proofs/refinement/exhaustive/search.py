"""Breadth-first search with worker processes: one generic loop for all small worlds.

A world supplies its first state and a function that expands states: it takes every action from each and returns hashes of
the successors, with the paths to them. Contents: the loop, and its result. Not here: machines, comparison, and identity of
states (explore.py, ../domb/exhaustive.py).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from bulkhead.proofs.jobs import Workers

Reached = TypeVar("Reached")  # the path to a state
World = TypeVar("World")


@dataclass(frozen=True)
class Expanded(Generic[Reached]):
    """A state's successors, each with its path, and the number of compared actions."""

    successors: tuple[tuple[bytes, Reached], ...]
    actions: int
    failure: str = ""


@dataclass
class Result:
    """The result of a search: new states at each depth if it went breadth first, and the first mismatch if there was one."""

    world: str
    states: int = 0
    actions: int = 0
    by_depth: list[int] = field(default_factory=list)
    seconds: float = 0.0
    failure: str = ""
    complete: bool = False

    def text(self) -> str:
        """A one-line summary that says whether the search was complete."""
        end = "all there are" if self.complete else "NOT all: cut short"
        far = f", the farthest {len(self.by_depth) - 1} actions from the start" if self.by_depth else ""
        return f"{self.world}: {self.states} states ({end}){far}; {self.actions} actions compared in {self.seconds:.0f} s."


def search(
    world: str,
    first: bytes,
    start: Reached,
    expand: Callable[[list[Reached]], list[Expanded[Reached]]],
    chunk: int,
    jobs: int | None = None,
    seconds: float | None = None,
    depth: int | None = None,
) -> Result:
    """Search breadth first until there are no new states, the time is up, or `depth` is reached. `expand` gets up to `chunk`
    states at a time, in a worker if there are more."""
    result = Result(world)
    begin = time.perf_counter()
    seen = {first}
    level = [start]
    with Workers(jobs) as workers:
        while (
            level
            and not result.failure
            and (seconds is None or time.perf_counter() - begin < seconds)
            and (depth is None or len(result.by_depth) < depth)
        ):
            result.by_depth.append(len(level))
            chunks = [level[i : i + chunk] for i in range(0, len(level), chunk)]
            level = []
            done: Iterable[list[Expanded[Reached]]]
            done = map(expand, chunks) if len(chunks) == 1 else workers.map(expand, chunks)
            for expanded in (each for part in done for each in part):
                result.actions += expanded.actions
                result.failure = result.failure or expanded.failure
                for state, reached in expanded.successors:
                    if state not in seen:
                        seen.add(state)
                        level.append(reached)
    result.states = len(seen)
    result.complete = not level and not result.failure
    result.seconds = time.perf_counter() - begin
    return result


def run_worlds(worlds: Sequence[World], explore: Callable[[World], Result]) -> int:
    """Explore these worlds, or those numbered in the program's arguments; 1 if a state is wrong or missing."""
    good = True
    for world in [worlds[int(n)] for n in sys.argv[1:]] or worlds:
        result = explore(world)
        good = good and result.complete
        print(result.text() + ("\n" + result.failure if result.failure else ""), flush=True)
    return 0 if good else 1
