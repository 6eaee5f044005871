"""Sizes of the small worlds of searches: from the rules, from the caller, or from the system's formulas.

A size never decides a verdict: a larger world may contain more, and every message names the world.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bulkhead.model.diagnostics import UsageError, suggest
from bulkhead.model.ir import CALL, Quant, System, Term, subterms

LEAST, MOST = 2, 4  # elements of a sort without a size in the rules


def first_scope(system: System) -> dict[str, int]:
    """The initial world of a search: `scope` in the rules, else from the system's formulas."""
    asked = _asked_for(system)
    return {sort: system.scope[sort][0] if sort in system.scope else asked[sort] for sort in system.sorts}


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
    return {sort: min(asked[sort], MOST) for sort in system.sorts}


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


def in_words(sizes: Mapping[str, int]) -> str:
    """A readable form of a world: `Domain 2, Frame 3`."""
    return ", ".join(f"{sort} {size}" for sort, size in sizes.items())


__all__ = ["first_scope", "given_scope", "in_words", "roomy_scope"]
