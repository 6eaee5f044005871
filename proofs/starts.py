"""Initial states of a small world in which much is possible, for searches of the executable model to begin from.

The world has room for what the rules speak of; the states come from Z3, which is asked to let as many steps as it can be
taken at once. Nothing here decides a claim.
"""

from __future__ import annotations

import random

from model.diagnostics import Span
from model.ir import BOOL, TRUE, Claim, System
from model.machine import Machine
from model.world import State
from proofs.bounded import Search, default_scope

# Room for Dom0, DomB, two guests and one to come, each with an address space; identifiers that are not used twice.
ROOM = {"Domain": 5, "Life": 6, "Space": 4, "Frame": 5, "Epoch": 8, "Translation": 3, "Ref": 3, "Call": 2,
        "Map": 2, "Request": 2, "Buffer": 2}
STARTS = 3


class NoInitialState(Exception):
    """The solver's answer, in the small world, to whether there is an initial state."""

    def __init__(self, answer: str) -> None:
        super().__init__(answer)
        self.answer = answer


def scope(system: System) -> dict[str, int]:
    """The size of the small world in which steps have to be able to fire."""
    return {sort: ROOM.get(sort, size) for sort, size in default_scope(system).items()}


def nothing(system: System) -> Claim:
    """A claim that is true, for searches that are about states and not about a claim."""
    return Claim("theorem", "nothing", TRUE, "", Span(system.name, 1, 1), "")


def initial_states(system: System, limit: float, rng: random.Random) -> tuple[Machine, list[State]]:
    """A small world, and initial states of it in which much is possible. Raises `NoInitialState` when there is none.

    The first is one that Z3 finds; the others differ from it in what no rule ever changes, such as a policy. History
    (ghost state) is made as short as the initial formulas allow, for some rules need an identifier not used before.
    """
    search = Search(system, nothing(system), scope(system), limit)
    search.enrich()
    answer = search.check(keep=True)
    if answer != "sat":
        raise NoInitialState(answer)
    trace = search.decode(())
    machine = Machine(system, trace.world)
    written = {u.func for t in search.transitions for u in t.updates}
    bodies = [c.body for c in (*system.inits, *system.axioms)]
    states: list[State] = []
    for _ in range(STARTS):
        state = [list(table) for table in trace.initial]
        for k, func in enumerate(system.funcs.values()):
            for n, value in enumerate(state[k]):
                wanted = 0 if func.ghost else rng.randrange(2) if func.name not in written and states else value
                if func.sort == BOOL and wanted != value:
                    state[k][n] = wanted
                    if not all(machine.holds(state, body) for body in bodies):
                        state[k][n] = value
        states.append(state)
    return machine, states
