"""Warns where a quantifier alternation leaves the decidable fragment.

Edges between sorts: from each argument sort of a state function to its result sort, and from S to T where a formula says
`forall x: S. ... exists y: T` in a place where the solver has to assume it. Terms can then be built without end exactly
when an alternation lies on a cycle; queries may end in `unknown`. Functions alone are left out of the warning: they can
be on a cycle, too, but no quantifier makes new terms along it.
"""

from __future__ import annotations

from collections.abc import Iterator

from model.diagnostics import Problem
from model.ir import App, Claim, Op, Quant, System, Term, Use


def alternation_warnings(system: System) -> Iterator[Problem]:
    """One warning per assumed formula whose alternation closes a cycle among sorts."""
    graph: dict[str, set[str]] = {}
    for func in system.funcs.values():
        if func.sort in system.sorts:
            for arg in func.args:
                if arg in system.sorts:
                    graph.setdefault(arg, set()).add(func.sort)
    assumed: list[Claim] = [*system.axioms, *system.invariants.values()]
    found: list[tuple[Claim, str, str]] = []
    for claim in assumed:
        for polarity in (True, False) if claim.kind == "invariant" else (True,):
            for source, target in _alternations(claim.body, polarity, (), system):
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
            yield Problem(claim.span, f"`{claim.name}` leaves the decidable fragment: forall {source} ... exists {target} "
                          f"closes the cycle {cycle}", hint="Name the witness by a state function, or state it as a "
                          "theorem that follows from invariants without the alternation.", warning=True)


def _alternations(term: Term, positive: bool, outer: tuple[str, ...], system: System) -> Iterator[tuple[str, str]]:
    match term:
        case Quant(kind, vars_, body):
            if (kind == "forall") == positive:
                yield from _alternations(body, positive, outer + tuple(v.sort for v in vars_), system)
            else:
                for var in vars_:
                    yield from ((source, var.sort) for source in outer)
                yield from _alternations(body, positive, outer, system)
        case Op("not", (inner,)):
            yield from _alternations(inner, not positive, outer, system)
        case Op("=>", (left, right)):
            yield from _alternations(left, not positive, outer, system)
            yield from _alternations(right, positive, outer, system)
        case Op(("=" | "ite"), args):
            for arg in args:
                if arg.sort == "bool":
                    yield from _alternations(arg, positive, outer, system)
                    yield from _alternations(arg, not positive, outer, system)
        case Op(_, args):
            for arg in args:
                yield from _alternations(arg, positive, outer, system)
        case Use(name):
            yield from _alternations(system.defs[name].body, positive, outer, system)
        case App():
            return


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
