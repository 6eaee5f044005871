"""Warns where a quantifier alternation leaves the decidable fragment.

Edges between sorts: from each argument sort of a state function to its result sort, and from S to T where a formula says
`forall x: S. ... exists y: T` in a position where the solver assumes it. The solver can build infinitely many terms exactly
if an alternation lies on a cycle; queries may then end in `unknown`. Cycles of functions alone give no warning: no
quantifier makes new terms along them.
"""

from __future__ import annotations

from collections.abc import Iterator

from bulkhead.model.diagnostics import Problem
from bulkhead.model.ir import App, Claim, Op, Quant, System, Term, Use


def alternation_warnings(system: System) -> Iterator[Problem]:
    """One warning per assumed formula whose alternation closes a cycle among sorts."""
    graph: dict[str, set[str]] = {}
    for func in system.funcs.values():
        if func.sort in system.sorts:
            for arg in func.args:
                if arg in system.sorts:
                    graph.setdefault(arg, set()).add(func.sort)
    assumed: list[Claim] = [*system.axioms, *system.invariants.values()]
    alternations = _Alternations(system)
    found: list[tuple[Claim, str, str]] = []
    for claim in assumed:
        for polarity in (True, False) if claim.kind == "invariant" else (True,):
            for source, target in alternations.of(claim.body, polarity)[0]:
                if source in system.sorts and target in system.sorts:
                    found.append((claim, source, target))
    for _, source, target in found:
        graph.setdefault(source, set()).add(target)
    told: set[tuple[str, str, str]] = set()
    for claim, source, target in found:
        path = _path(graph, target, source)
        if path is not None and (claim.name, source, target) not in told:
            told.add((claim.name, source, target))
            cycle = " -> ".join((source, *path))
            yield Problem(
                "W0701",
                claim.span,
                f"`{claim.name}` leaves the decidable fragment: forall {source} ... exists {target} "
                f"closes the cycle {cycle}",
                hint="Name the witness by a state function, or state it as a "
                "theorem that follows from invariants without the alternation.",
                warning=True,
            )


class _Alternations:
    """Finds, for a formula and a polarity, its alternations `(forall sort, exists sort)` and the sorts of its witnesses."""

    def __init__(self, system: System) -> None:
        self.system = system
        self._known: dict[tuple[int, bool], tuple[dict[tuple[str, str], None], dict[str, None]]] = {}

    def of(self, term: Term, positive: bool) -> tuple[dict[tuple[str, str], None], dict[str, None]]:
        """Ordered sets: pairs of sorts, and sorts of the witnesses. Every part is visited once per polarity."""
        key = (id(term), positive)
        if key in self._known:
            return self._known[key]
        pairs: dict[tuple[str, str], None] = {}
        witnesses: dict[str, None] = {}
        for part, polarity in self._parts(term, positive):
            more_pairs, more_witnesses = self.of(part, polarity)
            pairs.update(more_pairs)
            witnesses.update(more_witnesses)
        if isinstance(term, Quant):
            if (term.kind == "forall") == positive:
                pairs.update(dict.fromkeys((v.sort, w) for v in term.vars for w in witnesses))
            else:
                witnesses.update(dict.fromkeys(v.sort for v in term.vars))
        self._known[key] = (pairs, witnesses)
        return self._known[key]

    def _parts(self, term: Term, positive: bool) -> Iterator[tuple[Term, bool]]:
        match term:
            case Quant():
                yield term.body, positive
            case Op("not", (inner,)):
                yield inner, not positive
            case Op("=>", (left, right)):
                yield left, not positive
                yield right, positive
            case Op(("and" | "or"), args):
                yield from ((arg, positive) for arg in args)
            case Use(name):
                yield self.system.defs[name].body, positive
        if isinstance(term, App | Use) or (isinstance(term, Op) and term.op in ("=", "ite")):
            for arg in term.args:
                if arg.sort == "bool" or isinstance(arg, App | Op | Use):
                    yield arg, positive
                    yield arg, not positive


def _path(graph: dict[str, set[str]], start: str, goal: str) -> list[str] | None:
    """A shortest path from start to goal, both included."""
    trails = [[start]]
    seen = {start}
    while trails:
        trail = trails.pop(0)
        if trail[-1] == goal:
            return trail
        for sort in sorted(graph.get(trail[-1], ())):
            if sort not in seen:
                seen.add(sort)
                trails.append([*trail, sort])
    return None
