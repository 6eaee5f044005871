"""The frame rule: finds claims that a step keeps by the form of its assignments, without a solver.

A step cannot falsify a claim that reads no assigned function. Nor can it if the claim reads assigned functions
only in plain atoms (`f[...] = v`, or a truth value) and each assigned value makes negative atoms false
and positive atoms true: most claims about a call in flight begin with `at[c] = here implies`, and most steps
lead to another point. The check is syntactic; a query is asked in all other cases. It is the only argument of a proof that
no solver makes, so the tests let both solvers refute all queries that it skips in the shipped systems.
"""

from __future__ import annotations

from collections.abc import Iterator

from bulkhead.model.ir import BOOL, App, Claim, Lit, Op, Quant, System, Term, Transition, Use, subterms

AFFIRMED, DENIED, EITHER = 1, -1, 0
TRUTH = Lit("true", BOOL)


class Frame:
    """The claims of one system, each analysed once."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._atoms: dict[str, list[tuple[str, Lit | None, int]]] = {}

    def keeps(self, transition: Transition, claim: Claim) -> bool:
        """Is a claim about one state true after the transition if it was true before, in every state?"""
        if claim.name not in self._atoms:
            self._atoms[claim.name] = list(self._found(claim.body, AFFIRMED))
        for func, asked, way in self._atoms[claim.name]:
            for update in transition.updates:
                if update.func == func and not self._harmless(asked, way, update.value):
                    return False
        return True

    def _harmless(self, asked: Lit | None, way: int, value: Term) -> bool:
        """Does assigning `value` keep a claim whose atom tests for `asked` with this polarity?"""
        if asked is None or not isinstance(value, Lit):
            return False
        if value == asked:
            return way == AFFIRMED
        # Two constants may name the same element, or a constant any member of an enum; members and truth values differ.
        return way == DENIED and not {asked.name, value.name} & self._system.consts.keys()

    def _found(self, term: Term, way: int) -> Iterator[tuple[str, Lit | None, int]]:
        """The state functions that a formula reads: each with the tested value and the polarity.

        A function read in any other way has None for the value.
        """
        match term:
            case App(func, args) if term.sort == BOOL:
                yield func, TRUTH, way
                for a in args:
                    yield from self._inside(a)
            case Op("=", (App(func, args), Lit() as value)) | Op("=", (Lit() as value, App(func, args))) if (
                value.sort != BOOL
            ):
                yield func, value, way
                for a in args:
                    yield from self._inside(a)
            case Op("not", (a,)):
                yield from self._found(a, -way)
            case Op("=>", (a, b)):
                yield from self._found(a, -way)
                yield from self._found(b, way)
            case Op("and" | "or", args):
                for a in args:
                    yield from self._found(a, way)
            case Quant(_, _, body):
                yield from self._found(body, way)
            case Use(name, args) if term.sort == BOOL:
                yield from self._found(self._system.defs[name].body, way)
                for a in args:
                    yield from self._inside(a)
            case _:
                yield from self._inside(term)

    def _inside(self, term: Term) -> Iterator[tuple[str, Lit | None, int]]:
        for t in subterms(term):
            if isinstance(t, App):
                yield t.func, None, EITHER
            elif isinstance(t, Use):
                yield from self._inside(self._system.defs[t.name].body)


__all__ = ["Frame"]
