"""Rewrites terms by known facts: facts of a path simplify its later terms, and decide many queries without a solver."""

from __future__ import annotations

import functools
from collections.abc import Callable

from bulkhead.proofs.symbolic.terms import (
    BITS,
    FALSE,
    TRUE,
    And,
    If,
    Not,
    Or,
    Term,
    add,
    apply,
    bitand,
    bitwise,
    eq,
    less,
    number,
    shift,
)

REBUILT: dict[str, Callable[..., Term]] = {
    "not": Not,
    "and": And,
    "or": Or,
    "ite": If,
    "eq": lambda a, b: eq(a, b),
    "band": bitand,
    "bor": functools.partial(bitwise, "bor"),
    "bxor": functools.partial(bitwise, "bxor"),
    "shl": functools.partial(shift, "shl"),
    "ashr": functools.partial(shift, "ashr"),
    "slt": functools.partial(less, "slt"),
    "ult": functools.partial(less, "ult"),
}


def rewrite(term: Term, known: dict[Term, Term], seen: dict[Term, Term]) -> Term:
    """The term with known values substituted for its parts; `seen` caches results while `known` does not change."""
    found = seen.get(term)
    if found is not None:
        return found
    made = term
    if term.op in REBUILT:
        made = REBUILT[term.op](*[rewrite(a, known, seen) for a in term.args])
    elif term.op == "sum":
        made = number(term.args[0])
        for part, times in term.args[1]:
            made = add(made, rewrite(part, known, seen) * times)
    elif term.op == "apply" and len(term.args) > 3:
        made = apply(term.args[0], tuple([rewrite(a, known, seen) for a in term.args[3:]]), *term.args[1:3])
    while made in known:
        made = known[made]
    seen[term] = made
    return made


def learn(fact: Term, known: dict[Term, Term]) -> None:
    """Add a fact for rewriting: equal terms become one from here on."""
    for part in fact.args if fact.op == "and" else (fact,):
        if part.op == "or":
            continue
        known[part] = TRUE
        known[Not(part)] = FALSE
        if part.op == "eq" and part.args[0].sort == BITS:
            one, other = sorted(part.args, key=lambda term: (term.op != "number", term.serial))
            if other.op == "apply":
                known[other] = one
