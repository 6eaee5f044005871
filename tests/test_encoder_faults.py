"""Faults seeded into the encoder, one at a time: random systems notice each before the seeded run of all tests ends.

The seeds are those of `test_two_thousand_systems_mean_the_same_everywhere`; the faults are of a kind that no test of one
function looks for. The table says who has to notice: the interpreter (`model:`, `call:`, `instances:`), or the proof's
certificate and the violations found (`certify:`, `proof:`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest

from bulkhead.model import ir, operations, to_syntax
from bulkhead.model import syntax as s
from bulkhead.model.after import told_before
from bulkhead.model.diagnostics import Span
from bulkhead.model.expressions import Declarations, Scope
from bulkhead.model.ir import Claim, Transition
from bulkhead.proofs.theorems.frame_rule import Frame
from tests.oracle.compare import Budget, Seen
from tests.oracle.fuzz import first_difference
from tests.oracle.generate import draft

FIRST, SYSTEMS = 100_000, 2_000  # seeds of the run in `test_oracle_fuzz.py`
NEAR = 150  # systems that are tried from the one that showed it
Seeded = Callable[[pytest.MonkeyPatch], None]


def frame_forgets_what_is_undone(patch: pytest.MonkeyPatch) -> None:
    """The frame rule does not see the first assignment of an `undo`, so no query asks for claims about that state."""
    whole = Frame.keeps

    def keeps(self: Frame, transition: Transition, claim: Claim) -> bool:
        undone = "!" in transition.label and not transition.label.endswith(ir.FAILED)
        return whole(self, replace(transition, updates=transition.updates[1:]) if undone else transition, claim)

    patch.setattr(Frame, "keeps", keeps)


def second_where_is_negated(patch: pytest.MonkeyPatch) -> None:
    """Of a record that is assigned for all, the second field is assigned where the condition is false."""
    whole = operations._set

    def negated(st: s.Set, scope: Scope, decls: Declarations) -> list[ir.Update]:
        made = whole(st, scope, decls)
        return [
            replace(u, cond=ir.neg(u.cond)) if k == 1 and u.binders and u.cond != ir.TRUE else u for k, u in enumerate(made)
        ]

    patch.setattr(operations, "_set", negated)


def next_is_read_before(patch: pytest.MonkeyPatch) -> None:
    """`require next(A)` asks of the state before the step."""
    patch.setattr(operations, "told_before", lambda term, updates, defs, most: told_before(term, (), defs))


def only_neighbours_are_distinct(patch: pytest.MonkeyPatch) -> None:
    """`distinct(a, b, c)` says nothing of `a` and `c`. The parser writes it out for both encodings."""

    def neighbours(self: object, args: tuple[s.Expr, ...], span: Span) -> s.Operator:
        parts = tuple(s.Operator("!=", pair, span) for pair in itertools.pairwise(args))
        return parts[0] if len(parts) == 1 else s.Operator("and", parts, span)

    patch.setattr(to_syntax.ToSyntax, "_distinct", neighbours)


def picks_are_bound_twice(patch: pytest.MonkeyPatch) -> None:
    """Both variables of a `pick` of two stand for the same element."""

    def check(kind: str, cond: ir.Term, code: str, picked: tuple[ir.Var, ...], *rest: Any) -> ir.Check:
        same = [ir.eq(picked[0], v) for v in picked[1:] if v.sort == picked[0].sort]
        return ir.Check(kind, ir.conj([cond, *same]), code, picked, *rest)

    patch.setattr(operations, "Check", check)


ENCODER: dict[str, tuple[Seeded, int, tuple[str, ...]]] = {  # how it is seeded, the system that shows it, and who notices
    "frame of an undo": (frame_forgets_what_is_undone, 1489, ("proof:", "certify:")),
    "second where": (second_where_is_negated, 21, ("model:", "call:")),
    "next before": (next_is_read_before, 202, ("model:", "call:")),
    "distinct neighbours": (only_neighbours_are_distinct, 1, ("instances:",)),
    "pick bound twice": (picks_are_bound_twice, 316, ("model:", "call:")),
}


def _first(seeds: Iterable[int]) -> str:
    """The first difference in the systems of these seeds; empty if there is none."""
    said = (first_difference(draft(seed), seed, Budget(worlds=1), Seen()) for seed in seeds)
    return next((d for d in said if d is not None), "")


@pytest.mark.parametrize("name", ENCODER)
def test_random_systems_notice_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system of the seeded run that was the first to show it, and a few others in case the generator has changed."""
    seed, number, who = ENCODER[name]
    assert number <= SYSTEMS
    near = range(FIRST + number - 1, FIRST + number + NEAR)
    assert _first(near[:1]) == ""
    seed(monkeypatch)
    assert _first(near).startswith(who)
