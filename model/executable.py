"""The executable model: the checked rules as Python code over the tables of a finite world.

Every guard, claim and assignment is compiled at its first use, from the same tree as the formulas. A step reads
the state before it and assigns simultaneously; of two assignments to one place the later wins. The model makes no choices:
its callers supply arguments and picks.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

from bulkhead.model.choices import in_world
from bulkhead.model.compile import Coder, code_name, compiled
from bulkhead.model.ir import System, Term, Transition
from bulkhead.model.world import State, World, size_of, table_sizes


class ExecutableModel:
    """The rules of one system in one world."""

    def __init__(self, system: System, world: World) -> None:
        self.system = system
        self.world = world
        self._coder = Coder(system, world, fast=False)
        self._space = self._coder.definitions()
        self.transitions: dict[str, Transition] = {}
        for step in system.steps:
            for t in step.outcomes():
                self.transitions.setdefault(t.label, in_world(system, world, t))
        self._compiled: dict[str, tuple[Callable[..., bool], Callable[..., None]]] = {}
        self._claims: dict[tuple[Term, bool, tuple[str, ...]], Callable[..., bool]] = {}

    def _compile(self, label: str) -> tuple[Callable[..., bool], Callable[..., None]]:
        """The guard of a transition, and its assignments."""
        if label not in self._compiled:
            t = self.transitions[label]
            params = ", ".join(["S", *(code_name(p.name) for p in t.params)])
            guard = compiled("guard", params, [f"return {self._coder.truth(t.guard, {})}"], self._space)
            effect = compiled("effect", params, [*self._coder.effect(t.updates), "return"], self._space)
            self._compiled[label] = guard, effect
        return self._compiled[label]

    def _claim(self, term: Term, two_state: bool, given: tuple[str, ...] = ()) -> Callable[..., bool]:
        """A claim about one state, or about two and whether the step between them failed; then `given` variables."""
        key = term, two_state, given
        if key not in self._claims:
            lines = [f"return {self._coder.truth(term, {})}"]
            params = ", ".join(["S, N, v_failed" if two_state else "S", *map(code_name, given)])
            self._claims[key] = compiled("claim", params, lines, self._space)
        return self._claims[key]

    # Running.

    def empty_state(self) -> State:
        """The state in which every value is the first of its sort."""
        return [[0] * n for n in table_sizes(self.system, self.world)]

    def can_fire(self, state: State, label: str, args: dict[str, int]) -> bool:
        """Does the guard of the transition hold for these arguments?"""
        guard, _ = self._compile(label)
        return bool(guard(state, *(args[p.name] for p in self.transitions[label].params)))

    def fire(self, state: State, label: str, args: dict[str, int]) -> bool:
        """Take the transition in place; False, and no change, if its guard does not hold."""
        guard, effect = self._compile(label)
        values = [args[p.name] for p in self.transitions[label].params]
        if not guard(state, *values):
            return False
        effect(state, *values)
        return True

    def holds(self, state: State, term: Term) -> bool:
        """The truth of a closed formula in a state."""
        return bool(self._claim(term, False)(state))

    def compiled_claim(self, term: Term, two_state: bool = False, given: tuple[str, ...] = ()) -> Callable[..., bool]:
        """A formula as a function of a state, or of the states before and after a step and whether it failed; then of the
        values of its free variables, which are `given`."""
        return self._claim(term, two_state, given)

    def holds_between(self, before: State, after: State, term: Term, failed: bool) -> bool:
        """The truth of a two-state claim over one step."""
        return bool(self._claim(term, True)(before, after, failed))

    def choices(self, label: str) -> itertools.product[tuple[int, ...]]:
        """All argument tuples of a transition, in the order of its parameters."""
        return itertools.product(*(range(size_of(self.system, self.world, p.sort)) for p in self.transitions[label].params))
