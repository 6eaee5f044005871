"""Warns where a fault changes a definition that a claim reads: with the fault, the claim says something else.

A weaker claim may stay true where the one that was meant falls, so that a fault looks harmless.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from bulkhead.model import syntax as s
from bulkhead.model.diagnostics import Problem
from bulkhead.model.ir import Definition, System, Term, Use, subterms


def reworded_claims(system: System, faults: Iterable[s.FaultItem]) -> Iterator[Problem]:
    """One warning for each fault and each definition of claims that it changes, at the fault."""
    heads = {f.name: dict.fromkeys(c.path.partition(".")[0] for c in f.changes) for f in faults}
    changed = {n for names in heads.values() for n in names if n in system.defs}
    if not changed:
        return
    read = {name: _definitions_in(claim.body, system.defs) for name, claim in system.stated().items()}
    for fault, names in heads.items():
        for name in names:
            claims = [c for c, known in read.items() if name in known]
            if claims:
                said = ", ".join(f"`{c}`" for c in claims)
                yield Problem(
                    "W0702",
                    system.faults[fault].span,
                    f"fault `{fault}` changes `{name}`, and with it what is claimed by {said}",
                    hint="Give the checks a definition of their own, so that a claim says the same with the fault.",
                    warning=True,
                )


def _definitions_in(term: Term, defs: dict[str, Definition]) -> set[str]:
    """All definitions that a formula reads, also by way of others."""
    found: set[str] = set()
    todo = [term]
    while todo:
        names = {t.name for t in subterms(todo.pop()) if isinstance(t, Use)} - found
        found |= names
        todo += [defs[n].body for n in names]
    return found


__all__ = ["reworded_claims"]
