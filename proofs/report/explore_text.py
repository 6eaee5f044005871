"""Text of `bulkhead explore`, and a picture of the states of a small world."""

from __future__ import annotations

from pathlib import Path

import graphviz

from bulkhead.model.executable import ExecutableModel
from bulkhead.model.ir import App, System, Term, Use, subterms
from bulkhead.model.trace import facts
from bulkhead.model.world import World
from bulkhead.proofs.report import pictures
from bulkhead.proofs.results.explore import ExploreResult
from bulkhead.proofs.theorems.explore import Graph
from bulkhead.proofs.theorems.scope import in_words

SHOWN = 12  # facts of a state in a picture
FREE = 8  # names of state that no `init` speaks of


def explore_text(result: ExploreResult) -> str:
    """The number of states, the claims that are false in some, and the steps that never fire."""
    f = result.found
    rate = f.states / f.seconds if f.seconds else 0.0
    out = [
        f"{result.system.name} with {in_words(f.sizes)}",
        f"  {f.states:,} states, {f.initial:,} of them initial; {f.taken:,} steps; depth {f.depth}; {f.seconds:.1f} s, "
        f"{rate:,.0f} states/s",
    ]
    out.append(
        "  All reachable states of this world were visited."
        if f.complete
        else f"  NOT all states were visited: the search stopped {f.stopped}."
    )
    if f.complete and not f.states:
        out.append(
            "  NO initial state: axioms and `init` exclude this world, and nothing was checked. Other sizes: --scope SORT=N."
        )
    if f.renamings > 1:
        out.append(f"  Symmetry reduction: one of each class of renamed states was kept ({f.renamings} renamings).")
    if f.hidden:
        out.append(f"  States were identified by a hash: the probability of a missed state is below {f.hidden:.1e}.")
    if f.initial > 1 and (free := free_at_first(result.system)):
        more = f", and {len(free) - FREE} more" if len(free) > FREE else ""
        out.append(f"  No `init` speaks of {', '.join(free[:FREE])}{more}: at first they hold any values.")
    for name in result.claims:
        trace = f.attacks.get(name)
        if trace is None:
            out.append(f"  {name}: {'holds in all of them' if f.states else 'NOT checked'}")
        else:
            way = ", ".join(e.label for e in trace.events) or "at the start"
            out.append(f"  {name}: FALSE after {len(trace.events)} steps, and not before: {way}")
    if f.never:
        out.append(f"  never taken in this world: {', '.join(f.never)}")
    if f.to_final is not None:
        way = ", ".join(e.label for e in f.to_final.events) or "at the start"
        out.append(
            f"  no step leads on from {f.final:,} of the states (an end, or a deadlock); a shortest way to one: {way}"
        )
    if result.graph:
        out.append(f"  graph: {result.graph}")
    if result.note:
        out.append(f"  {result.note}")
    return "\n".join(out) + "\n"


def free_at_first(system: System) -> list[str]:
    """State that steps write and no `init` or axiom speaks of: a common reason for many initial states."""
    written = {u.func for s in system.steps for t in s.transitions() for u in t.updates}
    todo: list[Term] = [c.body for c in (*system.inits, *system.axioms)]
    spoken, defined = set[str](), set[str]()
    while todo:
        for term in subterms(todo.pop()):
            match term:
                case App(func, _):
                    spoken.add(func)
                case Use(name, _) if name not in defined:
                    defined.add(name)
                    todo.append(system.defs[name].body)
    return [name for name in system.funcs if name in written - spoken]


def save_graph(system: System, graph: Graph, path: Path) -> str:
    """Draw the states and steps of a world; returns a note if Graphviz is missing."""
    drawn = graphviz.Digraph(
        graph_attr={"rankdir": "LR"},
        node_attr={"shape": "box", "fontname": "Helvetica", "fontsize": "10", "style": "rounded"},
        edge_attr={"fontname": "Helvetica", "fontsize": "9"},
    )
    for number, (world, state) in enumerate(graph.states):
        drawn.node(str(number), _label(system, world, state), **({"penwidth": "2.5"} if number < graph.initial else {}))
    for a, b, label in graph.edges:
        drawn.edge(str(a), str(b), label=label)
    return pictures.save(drawn, path)


def _label(system: System, world: World, state: list[list[int]]) -> str:
    machine = ExecutableModel(system, world)
    told = [
        f"{place} = {value}" if value != "true" else place for place, value in facts(system, machine.world, state).items()
    ]
    more = [f"and {len(told) - SHOWN} more"] if len(told) > SHOWN else []
    return str(graphviz.escape("\n".join([*told[:SHOWN], *more]) or "nothing relevant"))


__all__ = ["explore_text", "save_graph"]
