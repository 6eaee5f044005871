"""Initial states of a small world that enable many steps, as starting points for searches of the executable model.

The world has enough elements for the variables of the rules. Z3 finds states in which as many steps as possible are enabled.
Not here: decisions about claims.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

from bulkhead.model.choices import in_world
from bulkhead.model.diagnostics import Span
from bulkhead.model.executable import ExecutableModel
from bulkhead.model.ir import BOOL, TRUE, Claim, System, eq, neg
from bulkhead.model.world import State, World
from bulkhead.proofs.theorems.grounding import Grounding, Truth
from bulkhead.proofs.theorems.least_world import grown
from bulkhead.proofs.theorems.scope import roomy_scope
from bulkhead.proofs.theorems.solvers import Spent

STARTS = 3


class NoInitialState(Exception):
    """The solver's answer to whether the small world has an initial state."""

    def __init__(self, answer: str) -> None:
        super().__init__(answer)
        self.answer = answer


def nothing(system: System) -> Claim:
    """A claim that is always true, for searches without a claim."""
    return Claim("theorem", "nothing", TRUE, "", Span(system.name, 1, 1), "")


def initial_states(
    system: System, limit: float, rng: random.Random, spent: Spent | None = None
) -> tuple[ExecutableModel, list[State]]:
    """A small world, and initial states of it that enable many steps. Raises `NoInitialState` if there is none.

    Z3 finds the first, within `limit` seconds per query; the others differ from it in state that no rule ever changes,
    such as a policy. History (ghost state) is as short as the initial formulas allow, because some rules need an
    unused identifier.
    """
    bodies = [c.body for c in (*system.inits, *system.axioms)]
    sizes = grown(system, roomy_scope(system))
    for consts in (_apart(system, sizes), {}):  # each constant names a different element; if that fails, Z3 chooses
        grounding = Grounding(system, World(sizes, consts), limit, spent)
        grounding.require(bodies)
        answer = grounding.possible()
        if answer == "sat":
            break
    else:
        raise NoInitialState(answer)
    answer = grounding.wish(_wishes(system, grounding))
    if answer != "sat":
        raise NoInitialState(answer)
    machine, first = ExecutableModel(system, grounding.placed()), grounding.state()
    written = {u.func for s in system.steps for t in s.transitions() for u in t.updates}
    states: list[State] = []
    for _ in range(STARTS):
        state = [list(table) for table in first]
        for k, func in enumerate(system.funcs.values()):
            for n, value in enumerate(state[k]):
                wanted = 0 if func.ghost else rng.randrange(2) if func.name not in written and states else value
                if func.sort == BOOL and wanted != value:
                    state[k][n] = wanted
                    if not all(machine.holds(state, body) for body in bodies):
                        state[k][n] = value
        states.append(state)
    return machine, states


def _apart(system: System, sizes: dict[str, int]) -> dict[str, int]:
    """Constants of one sort name different elements, as far as there are enough."""
    counts = dict.fromkeys(system.sorts, 0)
    consts = {}
    for name, sort in system.consts.items():
        if sort not in sizes:  # of an enum or bool: the solver chooses
            continue
        consts[name] = min(counts[sort], sizes[sort] - 1)
        counts[sort] += 1
    return consts


def _wishes(system: System, grounding: Grounding) -> Iterator[Truth]:
    """Wishes: each transition is enabled, or as much of its guard holds as possible; arguments of one sort differ."""
    transitions = [in_world(system, grounding.world, t) for s in system.steps for t in s.transitions()]
    for k, t in enumerate(transitions):
        env = {p.name: grounding.choice(f"want!{k}!{n}", p.sort) for n, p in enumerate(t.params)}
        guard = [grounding.truth(part, env) for part in t.guard_parts]
        if not t.step.point:
            yield grounding.both(guard)
        yield from guard
        for p, q in itertools.combinations(t.params, 2):
            if p.sort == q.sort and p.sort in system.sorts:
                yield grounding.truth(neg(eq(p, q)), env)
