"""Sizes of the small worlds of searches: from the rules, from the caller, or from the system's formulas.

A size never decides a verdict: a larger world may contain more, and every message names the world.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

from bulkhead.model.diagnostics import UsageError, suggest
from bulkhead.model.ir import BOOL, CALL, App, Op, Quant, System, Term, Use, subterms

LEAST, MOST = 2, 4  # elements of a sort without a size in the rules
HEAVY = 200_000  # combinations of the variables of one formula: a sort without a size then has fewer elements


def first_scope(system: System) -> dict[str, int]:
    """The initial world of a search: `scope` in the rules, else from the system's formulas."""
    asked = _asked_for(system)
    return {sort: system.scope[sort][0] if sort in system.scope else asked[sort] for sort in system.sorts}


def even_scopes(system: System) -> Iterator[dict[str, int]]:
    """Other worlds, for systems without initial states in the first one: as many elements of each sort."""
    for size in (3, 2, 4, 1):
        most = {sort: system.scope.get(sort, (1, 1 if sort == CALL else size)) for sort in system.sorts}
        yield {sort: max(low, min(size, high)) for sort, (low, high) in most.items()}


def roomy_scope(system: System) -> dict[str, int]:
    """The larger world, in which a search tries to enable more steps."""
    asked = _asked_for(system)
    return {sort: system.scope[sort][1] if sort in system.scope else asked[sort] for sort in system.sorts}


def _asked_for(system: System) -> dict[str, int]:
    """For each sort, enough for its constants and one more element, and for all variables of one formula."""
    asked = dict.fromkeys(system.sorts, LEAST)
    asked[CALL] = 1
    for sort in asked:
        asked[sort] = max(asked[sort], 1 + sum(s == sort for s in system.consts.values()))
    every = (*system.axioms, *system.inits, *system.theorems.values(), *system.step_claims.values())
    for claim in every:
        for term in subterms(claim.body):
            for sort, count in _bound_together(term).items():
                asked[sort] = max(asked.get(sort, 0), count)
    asked = {sort: min(asked[sort], MOST) for sort in system.sorts}
    while max(asked.values()) > LEAST and heaviest(system, asked) > HEAVY:
        asked = {sort: max(min(size, LEAST), size - 1) for sort, size in asked.items()}
    return asked


def heaviest(system: System, sizes: Mapping[str, int]) -> int:
    """The most combinations of the variables of one formula in a world, with definitions written out."""
    defined: dict[str, int] = {}

    def weight(term: Term) -> int:
        match term:
            case Quant(_, vars_, body):
                return math.prod(_size(system, sizes, v.sort) for v in vars_) * weight(body)
            case Use(name, args):
                if name not in defined:
                    defined[name] = weight(system.defs[name].body)
                return max([defined[name], *map(weight, args)])
            case App(_, args) | Op(_, args):
                return max(map(weight, args), default=1)
        return 1

    claims = (*system.axioms, *system.inits, *system.invariants.values(), *system.claims().values())
    found = [weight(claim.body) for claim in claims]
    for transition in (t for step in system.steps for t in step.transitions()):
        found.append(weight(transition.guard))
        for update in transition.updates:
            bound = math.prod(_size(system, sizes, v.sort) for v in update.binders)
            found.append(bound * max(map(weight, (update.cond, update.value, *update.args))))
    return max(found, default=1)


def _size(system: System, sizes: Mapping[str, int], sort: str) -> int:
    return 2 if sort == BOOL else len(system.enums[sort]) if sort in system.enums else sizes[sort]


def _bound_together(term: Term) -> dict[str, int]:
    """The number of variables of each sort that a quantifier and those directly nested in it bind."""
    counts: dict[str, int] = {}
    while isinstance(term, Quant):
        for v in term.vars:
            counts[v.sort] = counts.get(v.sort, 0) + 1
        term = term.body
    return counts


def given_scope(system: System, words: Iterable[str]) -> dict[str, int]:
    """Sizes from arguments such as `node=3`. Raises `UsageError` for an unknown sort or a bad size."""
    sizes: dict[str, int] = {}
    for word in words:
        for part in word.split(","):
            name, sign, number = part.strip().partition("=")
            if name not in system.sorts:
                raise UsageError(
                    f"--scope {part}: system `{system.name}` has no sort `{name}`. {suggest(name, system.sorts)}".strip()
                )
            if not sign or not number.isascii() or not number.isdigit() or not 1 <= int(number[:9]) <= 32:
                raise UsageError(f"--scope {part}: expected SORT=NUMBER, with a number from 1 to 32.")
            sizes[name] = int(number)
    return sizes


def in_words(sizes: Mapping[str, int] | Mapping[str, int | str]) -> str:
    """A readable form of a world: `Domain 2, Frame 3`."""
    return ", ".join(f"{sort} {size}" for sort, size in sizes.items())


__all__ = ["even_scopes", "first_scope", "given_scope", "heaviest", "in_words", "roomy_scope"]
