"""Initial states of a given world, and seeded random walks from them.

A walk shows possible behaviour, and the speed of the executable model. It proves nothing: states that it misses may be
reachable.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from bulkhead.model.caller import Caller, caller_of
from bulkhead.model.diagnostics import UsageError
from bulkhead.model.executable import ExecutableModel
from bulkhead.model.world import State, table_sizes
from bulkhead.proofs.theorems.grounding import random_state

EPISODE = 2000  # steps of a walk between two restarts


@dataclass(frozen=True)
class WalkStats:
    """`taken` calls changed the state by a transition, `refused` calls ended otherwise; `fired` counts transitions."""

    taken: int
    refused: int
    fired: dict[str, int]


def initial_state(caller: Caller, rng: random.Random | None = None) -> State | None:
    """A state that satisfies all init formulas and axioms, or None if there is none; deterministic.

    Without `rng`, the state of all zeros is preferred. Otherwise the formulas are grounded over the world and solved.
    """
    machine = caller.machine
    bodies = [c.body for c in (*machine.system.inits, *machine.system.axioms)]
    zeros = [[0] * n for n in table_sizes(machine.system, machine.world)]
    if rng is None and all(caller.value(zeros, b) for b in bodies):
        return zeros
    return random_state(machine.system, machine.world, bodies, rng)


def walk(machine: ExecutableModel, seed: int, steps: int, episode: int = EPISODE) -> WalkStats:
    """A seeded walk: each step is a random call with random arguments, executed to its outcome.

    After every `episode` steps it restarts from an initial state, so that it does not stay in a dead end.
    """
    caller = caller_of(machine)
    first = initial_state(caller)
    if first is None:
        raise UsageError(f"system `{machine.system.name}` has no initial state in a world this small.")
    rnd = random.Random(seed).random
    fired: dict[str, int] = {}
    for done in range(0, steps, episode):
        for label, n in caller.run([list(t) for t in first], min(episode, steps - done), rnd).items():
            fired[label] = fired.get(label, 0) + n
    taken = sum(fired.values())
    return WalkStats(taken, steps - taken, fired)


__all__ = ["WalkStats", "initial_state", "walk"]
