"""Checks that the axioms of a system have a model: a proof from contradictory axioms is worthless.

It searches for a small world in which all axioms hold: three elements of each sort, or fewer, or more of one. The sizes of
the model are reported. If none is found, the solver decides whether the axioms contradict each other in every
world, and which of them do. Axioms with only infinite models have neither answer; this is reported, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import z3

from bulkhead.model.diagnostics import Span
from bulkhead.model.ir import CALL, App, Claim, Quant, System, Use, subterms
from bulkhead.model.logic import Formulas
from bulkhead.proofs.theorems.bmc import Search
from bulkhead.proofs.theorems.initial_states import nothing
from bulkhead.proofs.theorems.scope import in_words

WISHED = 3  # elements of each sort: enough for nontrivial orders and rings
LARGEST = 6  # of one sort
FOUND, CONTRADICTORY, UNKNOWN = "found", "contradictory", "unknown"


@dataclass(frozen=True)
class Model:
    """`sizes` is the world of the model; `against` are axioms that no world satisfies together."""

    answer: str  # found | contradictory | unknown
    axioms: int
    sizes: dict[str, int]
    against: tuple[Claim, ...] = ()
    scope: str = ""  # the sizes that the rules give to searches, if no model has them

    def finding(self, vacuity: bool) -> list[str]:
        """The reasons why proofs from these axioms are worthless; without the vacuity checks no model is required."""
        if self.answer == CONTRADICTORY:
            return [f"{self.summary()}; nothing that follows from them counts"]
        return [self.summary()] if (self.answer == UNKNOWN or self.scope) and vacuity else []

    def to_json(self) -> dict[str, Any]:
        return {
            "answer": self.answer,
            "count": self.axioms,
            "sizes": self.sizes,
            "against": [_place(a.span) for a in self.against],
        }

    def summary(self) -> str:
        """A one-line summary."""
        if self.answer == FOUND and self.scope:
            has = f"the axioms ({self.axioms}) have a model with {in_words(self.sizes)}"
            return f"{has}, but none was found with the sizes that `scope` gives to searches: {self.scope}"
        if self.answer == FOUND:
            return f"the axioms ({self.axioms}) have a model: {in_words(self.sizes)}"
        if self.answer == CONTRADICTORY:
            return f"the axioms contradict each other: {', '.join(_place(a.span) for a in self.against)}"
        return (
            f"no model of the axioms ({self.axioms}) was found with up to {LARGEST} elements of a sort, and no contradiction"
        )


def _place(span: Span) -> str:
    return f"{span.file}:{span.line}"


def model_of_axioms(system: System, limit: float) -> Model | None:
    """A model of the axioms; None if the system has no axioms. `limit` is for one query."""
    if not system.axioms:
        return None
    count = len(system.axioms)
    system = _bare(system)
    spoken = _sorts_spoken_of(system)
    for sizes in (*_in_scope(system), *_worlds(system)):
        if Search(system, nothing(system), sizes, limit, list(system.axioms)).check() == "sat":
            wrong = {sort: n for sort, n in system.scope.items() if sort in spoken and not n[0] <= sizes[sort] <= n[1]}
            scope = in_words({sort: low if low == high else f"{low} to {high}" for sort, (low, high) in wrong.items()})
            return Model(FOUND, count, {sort: n for sort, n in sizes.items() if sort in spoken}, scope=scope)
    against = _contradiction(system, limit)
    return Model(CONTRADICTORY, count, {}, against) if against else Model(UNKNOWN, count, {})


def _bare(system: System) -> System:
    """The system reduced to the items that its axioms use, for a small query."""
    read: set[str] = set()
    todo = [a.body for a in system.axioms]
    while todo:
        for part in subterms(todo.pop()):
            if isinstance(part, Use) and part.name not in read:
                todo.append(system.defs[part.name].body)
            if isinstance(part, Use | App):
                read.add(part.name if isinstance(part, Use) else part.func)
    funcs = {n: f for n, f in system.funcs.items() if n in read}
    return replace(system, funcs=funcs, defs={n: d for n, d in system.defs.items() if n in read}, steps=())


def _sorts_spoken_of(system: System) -> set[str]:
    sorts = {sort for f in system.funcs.values() for sort in (*f.args, f.sort)}
    for body in (*(a.body for a in system.axioms), *(d.body for d in system.defs.values())):
        for part in subterms(body):
            sorts |= {v.sort for v in part.vars} if isinstance(part, Quant) else {part.sort}
    return sorts


def _in_scope(system: System) -> Iterator[dict[str, int]]:
    """Worlds to try first: the least and the greatest sizes in the rules, with few or many elements of other sorts."""
    for other in (WISHED, 1, 2, LARGEST):
        for end in (0, 1):
            yield {sort: system.scope[sort][end] if sort in system.scope else other for sort in system.sorts} | {CALL: 1}


def _worlds(system: System) -> Iterator[dict[str, int]]:
    """Further worlds: one or all sorts larger or smaller than `WISHED`, whatever the rules say."""
    asked = {sort: system.scope[sort][0] if sort in system.scope else WISHED for sort in system.sorts if sort != CALL}
    for size in (2, 1):
        yield {**dict.fromkeys(asked, size), CALL: 1}
    for size in (1, LARGEST):
        for sort in asked:
            yield {**asked, sort: size, CALL: 1}
    for size in (4, LARGEST):
        yield {**dict.fromkeys(asked, size), CALL: 1}


def _contradiction(system: System, limit: float) -> tuple[Claim, ...]:
    """A minimal set of contradictory axioms; none if the solver answers unknown."""
    formulas = Formulas(system)
    context = z3.Context()
    texts = [f"(assert {formulas.claim(a)})\n" for a in system.axioms]

    def refuted(kept: list[int]) -> bool:
        solver = z3.Solver(ctx=context)
        solver.set("timeout", int(limit * 1000))
        solver.from_string(formulas.prelude.text + "".join(texts[k] for k in kept))
        return bool(solver.check() == z3.unsat)

    kept = list(range(len(texts)))
    if not refuted(kept):
        return ()
    for k in list(kept):
        fewer = [n for n in kept if n != k]
        if refuted(fewer):
            kept = fewer
    return tuple(system.axioms[k] for k in kept)


__all__ = ["CONTRADICTORY", "FOUND", "UNKNOWN", "Model", "model_of_axioms"]
