"""Refuses rules whose combinations are too many to try, whatever the size of a world: variables and enum members.

Searches of small worlds, and every encoding, try each combination of the members of an enum, and of the variables that
are in sight together. Here definitions count as if they were written out, so that none hides variables. Not here: the
number of elements of a sort, which a search chooses (`proofs/theorems/scope.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from bulkhead.model.diagnostics import Span
from bulkhead.model.expressions import MAX_BOUND, MAX_COMBINATIONS, Declarations, values_of
from bulkhead.model.ir import App, Claim, Op, Quant, Step, Term, Update, Use, Var

Most = tuple[int, int]  # the most variables in sight together, and the most combinations of members that they have


class Limits:
    """The limits of one system; definitions are measured once."""

    def __init__(self, d: Declarations) -> None:
        self.d = d
        self._defined: dict[str, Most] = {}

    def combinations(self, variables: Iterable[Var]) -> int:
        return math.prod(values_of(v.sort, self.d) for v in variables)

    def most(self, term: Term) -> Most:
        """The most variables, and combinations of members, in sight together within a term."""
        match term:
            case Quant(_, vars_, body):
                count, combinations = self.most(body)
                return count + len(vars_), combinations * self.combinations(vars_)
            case Use(name, args):
                if name not in self._defined:
                    self._defined[name] = self.most(self.d.defs[name].body) if name in self.d.defs else (0, 1)
                return self._largest([self._defined[name], *map(self.most, args)])
            case App(_, args) | Op(_, args):
                return self._largest(map(self.most, args))
        return 0, 1

    def _largest(self, found: Iterable[Most]) -> Most:
        count, combinations = 0, 1
        for n, c in found:
            count, combinations = max(count, n), max(combinations, c)
        return count, combinations

    def refuse(self, term: Term, span: Span, bound: tuple[Var, ...] = ()) -> None:
        """Report a term with too many combinations, where `bound` are in sight, too."""
        count, combinations = self.most(term)
        count, combinations = count + len(bound), combinations * self.combinations(bound)
        if count > MAX_BOUND:
            what = f"more than {MAX_BOUND} quantified variables are in sight here, with the definitions written out"
            self.d.problem("E0304", span, what, hint="Searches try every combination; split the formula.")
        elif combinations > MAX_COMBINATIONS:
            what = f"the variables here have {combinations:,} combinations of enum members"
            hint = "Searches try every combination; split the formula, or use a sort."
            self.d.problem("E0304", span, what, f"Expected {MAX_COMBINATIONS:,} at most.", hint)

    def refuse_update(self, update: Update, span: Span) -> None:
        for term in (*update.args, update.value, update.cond):
            self.refuse(term, span, update.binders)


def refuse_large(claims: Iterable[Claim], steps: Iterable[Step], d: Declarations) -> None:
    """Report formulas and assignments with more combinations than anybody can try."""
    limits = Limits(d)
    for claim in claims:
        limits.refuse(claim.body, claim.span)
    for step in steps:
        limits.refuse(step.when, step.span)
        for check in step.checks:
            limits.refuse(check.cond, check.span, check.vars)
            for update in check.undo:
                limits.refuse_update(update, check.span)
        for update in step.updates:
            limits.refuse_update(update, step.span)


__all__ = ["refuse_large"]
