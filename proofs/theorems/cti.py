"""Counterexamples to induction: one step from a state that satisfies the assumptions to a state that breaks a claim.

The two states are found in the smallest of a few finite worlds and then reduced to the places that the failure needs,
so that a person can see which condition the claim or the invariants lack. The state before need not be
reachable: this explains a failed proof, and is no attack (`attack.py` finds those).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bulkhead.model.choices import in_world
from bulkhead.model.diagnostics import UsageError, suggest
from bulkhead.model.executable import ExecutableModel
from bulkhead.model.ir import Claim, System, Transition
from bulkhead.model.logic import Formulas
from bulkhead.model.trace import Event, Trace
from bulkhead.model.world import State, World
from bulkhead.proofs.theorems.bmc import Search
from bulkhead.proofs.theorems.queries import name_of
from bulkhead.proofs.theorems.solvers import SolverError

SCOPES = (1, 2, 3, 4)  # elements per sort, tried in turn; in the shipped systems every step is possible from 3 on


@dataclass(frozen=True)
class Cti:
    """A step that breaks `claim`. `assumed` names the claims and axioms that hold before it.

    `transition` tells transitions with the same label apart: two checks with one code may undo differently.
    """

    claim: str
    assumed: tuple[str, ...]
    transition: Transition
    world: World
    before: State
    event: Event
    after: State


def counterexample(
    system: System, transition_label: str, claim_name: str, assumed_names: Iterable[str], limit: float = 10.0
) -> Cti | None:
    """A small counterexample to the induction of a claim over a step; None if the tried scopes contain none.

    `assumed_names` are names of invariants and theorems, with or without their kind in front (`invariant/owner_fn`).
    Raises `UsageError` on unknown names, `SolverError` when Z3 gives no answer.
    """
    found = _found(system, transition_label, claim_name, assumed_names, limit)
    if found is None:
        return None
    finder, search = found
    formulas = Formulas(system)
    search = finder.shrink(search)
    search.tighten({*formulas.reads(finder.claim), *formulas.reads_of(finder.transition.guard)})
    return finder.confirmed(search.decode(()))


def breaks(
    system: System, transition_label: str, claim_name: str, assumed_names: Iterable[str], limit: float = 10.0
) -> bool:
    """Does a step break a claim in a small world? This decides a query; `counterexample` explains it, which takes longer.

    A yes is confirmed on the executable model. Arguments and errors are those of `counterexample`.
    """
    found = _found(system, transition_label, claim_name, assumed_names, limit)
    if found is None:
        return False
    finder, search = found
    finder.confirmed(search.decode(()))
    return True


def _found(
    system: System, transition_label: str, claim_name: str, assumed_names: Iterable[str], limit: float
) -> tuple[_Finder, Search] | None:
    """A search in the smallest of the tried worlds that contains a counterexample."""
    claim = _claim(system, claim_name)
    assumed = [*system.axioms, *dict.fromkeys(_claim(system, n) for n in assumed_names if not n.startswith("axiom/"))]
    labelled = [t for s in system.steps for t in s.outcomes() if t.label == transition_label]
    if not labelled:
        known = [t.label for s in system.steps for t in s.outcomes()]
        raise UsageError(
            f"there is no step `{transition_label}` in system `{system.name}`. {suggest(transition_label, known)}".strip()
        )
    finders = [_Finder(system, claim, assumed, t, limit) for t in labelled]
    for size in SCOPES:
        for finder in finders:
            search = finder.search(dict.fromkeys(system.sorts, size))
            if search is not None:
                return finder, search
    return None


def machine_of(system: System, world: World, transition: Transition) -> ExecutableModel:
    """The executable model, in which the label denotes only this transition."""
    machine = ExecutableModel(system, world)
    machine.transitions[transition.label] = in_world(system, world, transition)
    return machine


def _claim(system: System, name: str) -> Claim:
    known = system.stated()
    bare = name.partition("/")[2] or name
    for claim in known.values():
        if name == claim.name or name == name_of(claim):
            return claim
    raise UsageError(f"there is no invariant or theorem `{name}` in system `{system.name}`. {suggest(bare, known)}".strip())


class _Finder:
    """The shared state of the searches for one counterexample."""

    def __init__(self, system: System, claim: Claim, assumed: list[Claim], transition: Transition, limit: float) -> None:
        self.system, self.claim, self.assumed, self.transition, self.limit = system, claim, assumed, transition, limit

    def search(self, sizes: dict[str, int]) -> Search | None:
        """A session in this scope whose model is a counterexample; None if there is none."""
        search = Search(self.system, self.claim, sizes, self.limit, self.assumed)
        search.transitions = [self.transition]
        search.deepen()
        return search if search.violated() else None

    def shrink(self, search: Search) -> Search:
        """The same in a world that is minimal: no single element can be removed."""
        named = {p.sort for p in self.transition.params}
        rest = {s: 1 if s not in named else n for s, n in search.sizes.items()}
        if rest != search.sizes:  # most sorts do not matter: first try to remove all of them at once
            search = self.search(rest) or search
        for sort in self.system.sorts:
            while search.sizes[sort] > 1:
                smaller = self.search({**search.sizes, sort: search.sizes[sort] - 1})
                if smaller is None:
                    break
                search = smaller
        return search

    def confirmed(self, trace: Trace) -> Cti:
        """The counterexample, with the executable model's state after the step. Raises if the model disagrees."""
        machine = machine_of(self.system, trace.world, self.transition)
        (event,) = trace.events
        names = tuple(c.name for c in self.assumed)
        for claim in self.assumed:
            if not machine.holds(trace.initial, claim.body):
                raise SolverError(f"the solver's state before `{event.label}` breaks {claim.name} on the executable model")
        after = [list(t) for t in trace.initial]
        fired = machine.fire(after, event.label, event.args)
        if not fired or not broken(self.claim, machine, self.transition, trace.initial, after):
            raise SolverError(f"the executable model does not confirm that `{event.label}` breaks `{self.claim.name}`")
        return Cti(self.claim.name, names, self.transition, trace.world, trace.initial, event, after)


def broken(claim: Claim, machine: ExecutableModel, transition: Transition, before: State, after: State) -> bool:
    """Is the claim false after the step, or over it?"""
    if claim.kind == "transition":
        return not machine.holds_between(before, after, claim.body, bool(transition.code))
    return not machine.holds(after, claim.body)


__all__ = ["Cti", "breaks", "broken", "counterexample", "machine_of"]
