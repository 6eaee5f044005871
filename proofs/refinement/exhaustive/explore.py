"""Explores all states of a small machine: breadth first over all actions of its guests, until there are no new states.

After each action both sides are compared completely, and in each new state all invariants and theorems are evaluated. A
hash of `guests.canonical` identifies states; one without calls in flight is saved as bytes, others are reached again
from the last such state. `python -m bulkhead.proofs.refinement.exhaustive.explore` runs the worlds of the README.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import replace

from bulkhead.proofs.jobs import run_to_end
from bulkhead.proofs.refinement.exhaustive.guests import act, actions, canonical, start
from bulkhead.proofs.refinement.exhaustive.limits import Action, Limits
from bulkhead.proofs.refinement.exhaustive.search import Expanded, Result, run_worlds, search
from bulkhead.proofs.refinement.exhaustive.snapshot import freeze, thaw
from bulkhead.proofs.refinement.lockstep.dump import dump
from bulkhead.proofs.refinement.lockstep.lockstep import Lockstep
from bulkhead.proofs.refinement.lockstep.rule_steps import Mismatch
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


def expand(reached: Reached, limits: Limits) -> Expanded[Reached]:
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


def expand_all(chunk: list[Reached], limits: Limits) -> list[Expanded[Reached]]:
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
    first = start(rules_for(limits.size()), limits)
    whole = functools.partial(expand_all, limits=limits)
    reached: Reached = (freeze(first), ())
    return search(limits.text(), digest(first), reached, whole, CHUNK, jobs, seconds, depth)


if __name__ == "__main__":
    run_to_end(lambda _: run_worlds(WORLDS, explore))
