"""Sizes of the small worlds in which searches look: from the rules, from the caller, or from what the system asks for.

A size never decides a verdict: what is not found in a world may be there in a larger one, and every message names the world.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bulkhead.model.diagnostics import UsageError, suggest
from bulkhead.model.ir import CALL, Quant, System, Term, subterms

LEAST, MOST = 2, 4  # elements of a sort of which the rules say nothing


def first_scope(system: System) -> dict[str, int]:
    """The world in which a search begins: `scope` in the rules, else from what the system speaks of."""
    asked = _asked_for(system)
    return {sort: system.scope[sort][0] if sort in system.scope else asked[sort] for sort in system.sorts}


def roomy_scope(system: System) -> dict[str, int]:
    """The world in which a search looks for room to act."""
    asked = _asked_for(system)
    return {sort: system.scope[sort][1] if sort in system.scope else asked[sort] for sort in system.sorts}


def _asked_for(system: System) -> dict[str, int]:
    """For each sort, room for its constants and one element more, and for all that one formula speaks of."""
    asked = dict.fromkeys(system.sorts, LEAST)
    asked[CALL] = 1
    for sort in asked:
        asked[sort] = max(asked[sort], 1 + sum(s == sort for s in system.consts.values()))
    every = (*system.axioms, *system.inits, *system.theorems.values(), *system.step_claims.values())
    for claim in every:
        for term in subterms(claim.body):
            for sort, count in _bound_together(term).items():
                asked[sort] = max(asked.get(sort, 0), count)
    return {sort: min(asked[sort], MOST) for sort in system.sorts}


def _bound_together(term: Term) -> dict[str, int]:
    """How many variables of each sort a quantifier and those right behind it bind."""
    counts: dict[str, int] = {}
    while isinstance(term, Quant):
        for v in term.vars:
            counts[v.sort] = counts.get(v.sort, 0) + 1
        term = term.body
    return counts


def given_scope(system: System, words: Iterable[str]) -> dict[str, int]:
    """Sizes from words such as `node=3`. Raises `UsageError` for what is no sort or no size."""
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


def in_words(sizes: Mapping[str, int]) -> str:
    """A world for people: `Domain 2, Frame 3`."""
    return ", ".join(f"{sort} {size}" for sort, size in sizes.items())


__all__ = ["first_scope", "given_scope", "in_words", "roomy_scope"]
