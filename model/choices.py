"""Translates `= *` in a finite world to one pick for each place, so that searches and traces have only picks.

In the checked form such a value is a function that is arbitrary in each step (`Step.choices`); solvers get this form. In a
finite world the function is given by its values at each place: parameters of the step, like picked values.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import replace

from bulkhead.model.ir import (
    TRUE,
    App,
    Check,
    Func,
    Op,
    Quant,
    Step,
    System,
    Term,
    Transition,
    Update,
    Use,
    Var,
    element,
    eq,
    subterms,
)
from bulkhead.model.world import World, place, size_of

PICKED = "any values"  # the text of the check that picks them
MOST = 4096  # maximum of combinations in one step, if all are tried

Chosen = Mapping[str, dict[tuple[int, ...], Var]]  # for each choice: the parameter at each place


def in_world(system: System, world: World, transition: Transition) -> Transition:
    """The transition in a finite world, with its choices as parameters."""
    return step_in_world(system, world, transition.step).success() if transition.choices else transition


def step_in_world(system: System, world: World, step: Step) -> Step:
    """The step in a finite world: its choices are picked after all checks that may fail."""
    if not step.choices:
        return step
    chosen = {c.name: _places(system, world, c) for c in step.choices}
    names = set(chosen)
    before = tuple(c for c in step.checks if not _speaks_of(c.cond, names))
    after = tuple(replace(c, cond=_told(c.cond, chosen)) for c in step.checks if _speaks_of(c.cond, names))
    every = tuple(v for places in chosen.values() for v in places.values())
    pick = Check("pick", TRUE, "", every, (), PICKED, step.span)
    updates = tuple(u for one in step.updates for u in _written(system, world, one, chosen))
    return replace(step, checks=(*before, pick, *after), updates=updates, choices=())


def ways_to_choose(system: System, world: World) -> int:
    """The maximum of combinations of choices of one step in a world."""
    return max((_ways(system, world, step) for step in system.steps), default=1)


def _ways(system: System, world: World, step: Step) -> int:
    return math.prod(
        size_of(system, world, c.sort) ** math.prod(size_of(system, world, a) for a in c.args) for c in step.choices
    )


def _places(system: System, world: World, choice: Func) -> dict[tuple[int, ...], Var]:
    func, _, number = choice.name.rpartition(".")
    again = "" if number == "1" else f"#{number}"
    made = {}
    for at in itertools.product(*(range(size_of(system, world, a)) for a in choice.args)):
        names = [
            system.enums[a][k] if a in system.enums else f"{a.lower()}{k}" for a, k in zip(choice.args, at, strict=True)
        ]
        made[at] = Var(place(func, names) + again, choice.sort)
    return made


def _speaks_of(term: Term, names: set[str]) -> bool:
    return any(isinstance(t, App) and t.func in names for t in subterms(term))


def _told(term: Term, chosen: Chosen, names: Mapping[str, Term] | None = None) -> Term:
    """The term with the parameters substituted; `names` gives variables a value."""
    known = names or {}
    match term:
        case Var(name):
            return known.get(name, term)
        case App(func, args):
            given = tuple([_told(a, chosen, known) for a in args])
            return _at(chosen[func], given) if func in chosen else App(func, given, term.sort, term.next)
        case Use(name, args):
            return Use(name, tuple([_told(a, chosen, known) for a in args]), term.sort, term.next)
        case Op(op, args):
            return Op(op, tuple([_told(a, chosen, known) for a in args]), term.sort)
        case Quant(kind, vars_, body):
            inner = {n: t for n, t in known.items() if n not in {v.name for v in vars_}}
            return Quant(kind, vars_, _told(body, chosen, inner))
    return term


def _at(places: dict[tuple[int, ...], Var], args: tuple[Term, ...]) -> Term:
    """The parameter at a place that depends on the state."""
    *others, (_, value) = places.items()
    made: Term = value
    for at, var in reversed(others):
        tests = tuple(eq(a, element(k, a.sort)) for a, k in zip(args, at, strict=True))
        made = Op("ite", (tests[0] if len(tests) == 1 else Op("and", tests), var, made), var.sort)
    return made


def _written(system: System, world: World, update: Update, chosen: Chosen) -> list[Update]:
    """An assignment of a choice, place by place; variables that are not an index of it stay."""
    if not isinstance(update.value, App) or update.value.func not in chosen:
        return [update]
    own = [a for a in update.value.args if isinstance(a, Var)]
    made = []
    for at, var in chosen[update.value.func].items():
        names: dict[str, Term] = {v.name: element(k, v.sort) for v, k in zip(own, at, strict=True)}
        args = tuple(_told(a, chosen, names) for a in update.args)
        rest = tuple(v for v in update.binders if v.name not in names)
        made.append(replace(update, args=args, value=var, binders=rest, cond=_told(update.cond, chosen, names)))
    return made


__all__ = ["MOST", "in_world", "step_in_world", "ways_to_choose"]
