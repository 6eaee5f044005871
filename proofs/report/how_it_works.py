"""The picture of HOW_IT_WORKS.md: the data flow between packages, from a table of boxes and arrows.

`python -m bulkhead.proofs.report.how_it_works` (`make pictures`) writes how_it_works.dot and, if Graphviz's `dot` is
installed, how_it_works.svg into `proofs/`; both are committed. A test compares the committed files with this table, and the
table with the folders. Arrows show the flow of data, not of imports; for those, see each folder's README and
`.importlinter`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import graphviz

from bulkhead.proofs.atomic_files import write_file

FOLDER = Path(__file__).parent.parent
NAME = "how_it_works"


class Kind(StrEnum):
    """The kind of a box; the value is its colour."""

    TEXT = "#fff4d6"  # files that people write or record
    CODE = "#e4edfa"  # packages of the project
    OUTSIDE = "#eeeeee"  # external programs


@dataclass(frozen=True)
class Room:
    """A box. `folder` is its folder in the checkout, or empty for an external program."""

    name: str
    does: str
    folder: str
    kind: Kind = Kind.CODE


@dataclass(frozen=True)
class Arrow:
    """`source` passes `flows` to `target`; both are names of boxes."""

    source: str
    target: str
    flows: str


ROOMS = (
    Room("rules", "behaviour, claims,\ninvariants, faults", "spec", Kind.TEXT),
    Room("parser", "text to syntax tree", "model"),
    Room("checked form", "types, atomic steps", "model"),
    Room("executable model", "takes steps, evaluates claims", "model"),
    Room("theorems", "induction, attacks, vacuity", "proofs/theorems"),
    Room("certify", "a second encoding", "proofs/certify"),
    Room("Z3 and cvc5", "decide queries", "", Kind.OUTSIDE),
    Room("implementation", "Xen, Dom0's drivers, DomB, tools", "impl"),
    Room("workload", "seeded hostile calls", "proofs/refinement/workload"),
    Room("lockstep", "both sides, step by step", "proofs/refinement/lockstep"),
    Room("dom0", "calls of Dom0's processes", "proofs/refinement/dom0"),
    Room("exhaustive", "every state of a small machine", "proofs/refinement/exhaustive"),
    Room("domb", "DomB beside its rules", "proofs/refinement/domb"),
    Room("booted", "claims on a whole machine", "proofs/refinement/booted"),
    Room("handlers", "every path of a handler", "proofs/refinement/handlers"),
    Room("symbolic", "runs Python on terms", "proofs/symbolic"),
    Room("recordings", "what real Xen answered", "tests/recorded", Kind.TEXT),
    Room("real Xen in QEMU", "make xen", "tests/xen", Kind.OUTSIDE),
    Room("replay", "answers as recorded?", "proofs/replay"),
    Room("faults", "is each fault noticed?", "proofs/faults"),
    Room("results", "verdicts as data", "proofs/results"),
    Room("report", "text, pictures,\nJSON, JUnit, SARIF", "proofs/report"),
    Room("command line", "bulkhead prove, attack, diff, ...", "proofs/cli"),
)

ARROWS = (
    Arrow("rules", "parser", "text"),
    Arrow("parser", "checked form", "syntax tree"),
    Arrow("parser", "certify", "syntax tree"),
    Arrow("checked form", "executable model", "steps, claims"),
    Arrow("checked form", "theorems", "SMT-LIB queries"),
    Arrow("executable model", "theorems", "replays each attack"),
    Arrow("theorems", "Z3 and cvc5", "queries"),
    Arrow("theorems", "certify", "what is proved"),
    Arrow("certify", "Z3 and cvc5", "queries of its own"),
    Arrow("executable model", "lockstep", "rule steps"),
    Arrow("implementation", "lockstep", "steps, states"),
    Arrow("workload", "lockstep", "hypercalls"),
    Arrow("workload", "dom0", "system calls"),
    Arrow("dom0", "lockstep", "hypercalls of its kernel"),
    Arrow("lockstep", "exhaustive", "comparison"),
    Arrow("executable model", "domb", "rule steps"),
    Arrow("implementation", "domb", "messages, hypercalls"),
    Arrow("implementation", "booted", "a boot, step by step"),
    Arrow("executable model", "booted", "claims"),
    Arrow("booted", "results", "claims that fall"),
    Arrow("implementation", "handlers", "handlers, unchanged"),
    Arrow("checked form", "handlers", "rule steps"),
    Arrow("symbolic", "handlers", "paths"),
    Arrow("symbolic", "Z3 and cvc5", "conditions"),
    Arrow("real Xen in QEMU", "recordings", "answers"),
    Arrow("recordings", "replay", "calls, answers"),
    Arrow("implementation", "replay", "answers"),
    Arrow("faults", "lockstep", "faulty code"),
    Arrow("faults", "theorems", "faulty rules"),
    Arrow("theorems", "results", "verdicts, attacks"),
    Arrow("certify", "results", "certificate"),
    Arrow("lockstep", "results", "mismatches"),
    Arrow("domb", "results", "mismatches"),
    Arrow("handlers", "results", "paths, verdicts"),
    Arrow("replay", "results", "differences"),
    Arrow("results", "report", "data"),
    Arrow("report", "command line", "text, files"),
)


def drawing(rooms: Iterable[Room] = ROOMS, arrows: Iterable[Arrow] = ARROWS) -> graphviz.Digraph:
    """The picture as a Graphviz graph. KeyError if an arrow names an unknown box."""
    graph = graphviz.Digraph(
        NAME,
        graph_attr={"rankdir": "TB", "ranksep": "0.45", "nodesep": "0.25"},
        node_attr={"shape": "box", "style": "filled,rounded", "fontname": "Helvetica", "fontsize": "11"},
        edge_attr={"fontname": "Helvetica", "fontsize": "9", "color": "#555555"},
    )
    places = {room.name: f"r{number}" for number, room in enumerate(rooms)}
    for room in rooms:
        where = f"\n{room.folder}/" if room.folder else ""
        graph.node(places[room.name], graphviz.escape(f"{room.name}{where}\n{room.does}"), fillcolor=room.kind.value)
    for arrow in arrows:
        graph.edge(places[arrow.source], places[arrow.target], graphviz.escape(arrow.flows))
    return graph


def main() -> None:
    """Write both files beside HOW_IT_WORKS.md. Raises graphviz.ExecutableNotFound where `dot` is missing."""
    graph = drawing()
    write_file(FOLDER / f"{NAME}.dot", graph.source)
    write_file(FOLDER / f"{NAME}.svg", graph.pipe(format="svg", encoding="utf-8"))


if __name__ == "__main__":
    main()
