"""Explores all states of a small machine: breadth first over all actions of its guests, until there are no new states.

After each action both sides are compared completely, and in each new state all invariants and theorems are evaluated. A
hash of `guests.canonical` identifies states; one without calls in flight is saved as bytes, others are reached again
from the last such state. `python -m bulkhead.proofs.refinement.exhaustive.explore` runs the worlds of the README.
"""

from __future__ import annotations

import functools
import hashlib
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from bulkhead.proofs.jobs import Workers, run_to_end
from bulkhead.proofs.refinement.exhaustive.guests import act, actions, canonical, start
from bulkhead.proofs.refinement.exhaustive.limits import Action, Limits
from bulkhead.proofs.refinement.exhaustive.snapshot import freeze, thaw
from bulkhead.proofs.refinement.lockstep.abstraction import dump
from bulkhead.proofs.refinement.lockstep.lockstep import Lockstep
from bulkhead.proofs.refinement.lockstep.spec_state import Mismatch
from bulkhead.proofs.refinement.lockstep.spec_world import rules_for

CHUNK = 64  # states per task of a worker
Reached = tuple[bytes, tuple[Action, ...]]  # a state: one without calls in flight, and the actions since then
PLAIN = Limits(records=1, flights=1, versions=False, copies=False)
PROCESS = replace(PLAIN, records=0, processes=1)
WORLDS = (
    PLAIN,
    replace(PLAIN, versions=True),
    replace(PLAIN, flights=2),
    replace(PLAIN, records=2, again=True),
    replace(PLAIN, refs=(8, 9)),
    replace(PLAIN, pages=2),
    replace(PLAIN, records=2, flights=2),
    PROCESS,
    replace(PROCESS, processes=2),
    replace(PROCESS, refs=(8, 9)),
    Limits(records=1, again=True),
)


@dataclass
class Result:
    """The result: new states per depth, and the first mismatch if there was one."""

    limits: Limits
    states: int = 0
    actions: int = 0
    by_depth: list[int] = field(default_factory=list)
    seconds: float = 0.0
    failure: str = ""
    complete: bool = False

    def text(self) -> str:
        """A one-line summary that says whether the search was complete."""
        end = "all there are" if self.complete else "NOT all: cut short"
        return (
            f"{self.limits.text()}: {self.states} states ({end}), the farthest {len(self.by_depth) - 1} actions from "
            f"the start; {self.actions} actions compared in {self.seconds:.0f} s."
        )


@dataclass(frozen=True)
class Expanded:
    """A state's successors: their hashes, and the actions that reach them."""

    successors: tuple[tuple[bytes, Reached], ...]
    actions: int
    failure: str


def digest(lockstep: Lockstep) -> bytes:
    """Identifies a state: 16 bytes of a cryptographic hash."""
    return hashlib.blake2b(canonical(lockstep), digest_size=16).digest()


def at(reached: Reached, limits: Limits) -> Lockstep:
    """Restore the machine in a state that has been reached before."""
    blob, tail = reached
    lockstep = thaw(blob)
    lockstep.full_every = 0  # these actions have been compared before
    for action in tail:
        act(lockstep, action, limits)
    lockstep.full_every = 1
    return lockstep


def expand(reached: Reached, limits: Limits) -> Expanded:
    """Check a new state, and take every action from it."""
    found: list[tuple[bytes, Reached]] = []
    done: tuple[Action, ...] = ()
    todo: list[Action] = []
    try:
        lockstep = at(reached, limits)
        lockstep.check_claims()
        blob, tail = (freeze(lockstep), ()) if not lockstep.flights and reached[1] else reached
        todo = actions(lockstep, limits)
        for n, action in enumerate(todo):
            if n:
                lockstep = at((blob, tail), limits)
            done = (*tail, action)
            act(lockstep, action, limits)
            found.append((digest(lockstep), (blob, done)))
    except Mismatch as error:
        return Expanded((), len(todo), "\n".join([f"{error.what} after {done or reached[1]}", *dump(error.places)]))
    return Expanded(tuple(found), len(todo), "")


def expand_all(chunk: list[Reached], limits: Limits) -> list[Expanded]:
    """A worker's task; returns each successor once."""
    told: dict[bytes, None] = {}
    out = []
    for reached in chunk:
        expanded = expand(reached, limits)
        fresh = dict(expanded.successors)  # count duplicates from one state once
        out.append(
            Expanded(tuple((key, to) for key, to in fresh.items() if key not in told), expanded.actions, expanded.failure)
        )
        told |= dict.fromkeys(fresh)
    return out


def explore(limits: Limits, seconds: float | None = None, jobs: int | None = None, depth: int | None = None) -> Result:
    """Search breadth first until there are no new states, the time is up, or `depth` is reached."""
    result = Result(limits)
    begin = time.perf_counter()
    first = start(rules_for(limits.size()), limits)
    seen = {digest(first)}
    level: list[Reached] = [(freeze(first), ())]
    with Workers(jobs) as workers:
        while (
            level
            and not result.failure
            and (seconds is None or time.perf_counter() - begin < seconds)
            and (depth is None or len(result.by_depth) < depth)
        ):
            result.by_depth.append(len(level))
            chunks = [level[i : i + CHUNK] for i in range(0, len(level), CHUNK)]
            level = []
            whole = functools.partial(expand_all, limits=limits)
            work: Iterable[list[Expanded]] = map(whole, chunks) if len(chunks) == 1 else workers.map(whole, chunks)
            for expanded in (e for chunk in work for e in chunk):
                result.actions += expanded.actions
                result.failure = result.failure or expanded.failure
                for key, reached in expanded.successors:
                    if key not in seen:
                        seen.add(key)
                        level.append(reached)
    result.states = len(seen)
    result.complete = not level and not result.failure
    result.seconds = time.perf_counter() - begin
    return result


def main() -> int:
    """Explore the worlds of the README, or those with the given numbers; exit code 1 if a state is wrong or missing."""
    chosen = [WORLDS[int(n)] for n in sys.argv[1:]] or WORLDS
    good = True
    for limits in chosen:
        result = explore(limits)
        good = good and result.complete
        print(result.text() + ("\n" + result.failure if result.failure else ""), flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    run_to_end(lambda _: main())
