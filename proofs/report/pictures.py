"""Draws states as Graphviz graphs: a caption, the facts of the state, and two colours.

A state is given as plain facts (function -> arguments -> value, all as texts), so any system can be drawn: one with frames,
owners and translations as a hypervisor (`hypervisor_scene.py`), any other as elements and true facts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import graphviz

from bulkhead.proofs.atomic_files import write_file
from bulkhead.proofs.report import hypervisor_scene as scene
from bulkhead.proofs.report.canvas import Canvas, Caption, Place
from bulkhead.proofs.report.element_names import Facts

INSTALL = "Pictures stay .dot files: install Graphviz (apt-get install graphviz) to have them drawn."


def changes(before: Facts, after: Facts) -> set[Place]:
    """The places whose value differs between two states."""
    return {(f, a) for f, table in after.items() for a, v in table.items() if before.get(f, {}).get(a) != v}


def draw(facts: Facts, caption: Caption, changed: Iterable[Place] = (), bad: Iterable[Place] = ()) -> Any:
    """One state, with the places that a step changed and those that make a claim false."""
    if scene.known(facts):
        canvas = Canvas(caption, scene.LEGEND)
        scene.draw(canvas, facts, set(changed), set(bad))
    else:
        canvas = Canvas(caption, "")
        _generic(canvas, facts, set(changed), set(bad))
    return canvas.done()


def _generic(canvas: Canvas, facts: Facts, changed: set[Place], bad: set[Place]) -> None:
    """Elements with their own facts, and for a relation an edge from the first to the last element."""
    elements = {e for table in facts.values() for args in table for e in args}
    notes: dict[str, list[str]] = {}  # facts about a single element
    marks: dict[str, tuple[bool, bool]] = {}  # the elements to draw: changed ones and causes
    edges: list[tuple[str, str, str, bool, bool]] = []
    functions: list[tuple[str, str, str, bool, bool]] = []

    def mark(element: str, is_changed: bool, is_bad: bool) -> None:
        before = marks.get(element, (False, False))
        marks[element] = (before[0] or is_changed, before[1] or is_bad)

    for name, table in facts.items():
        for args, value in table.items():
            is_changed, is_bad = (name, args) in changed, (name, args) in bad
            inside = ", ".join(args[1:-1] if value == "true" else args[1:])
            label = f"{name} [{inside}]" if inside else name
            if value in elements and args:
                functions.append((args[0], value, label, is_changed, is_bad))
            elif value == "true" and len(args) > 1:
                edges.append((args[0], args[-1], label, is_changed, is_bad))
                mark(args[0], False, is_bad)
                mark(args[-1], False, is_bad)
            elif value == "true" or is_changed or is_bad:
                first = args[0] if args else "the system"
                said = {"true": label, "false": f"not {label}"}.get(value, f"{label} = {value}")
                notes.setdefault(first, []).append(said)
                mark(first, is_changed, is_bad)
    for a, b, _, is_changed, is_bad in functions:
        if is_changed or is_bad:
            mark(a, is_changed, is_bad)
            mark(b, False, is_bad)
    edges += [e for e in functions if e[0] in marks and e[1] in marks]
    for element, (is_changed, is_bad) in sorted(marks.items()):
        canvas.node(element, "\n".join([element, *notes.get(element, [])]), "", is_changed, is_bad)
    for edge in edges:
        canvas.edge(*edge)


def save(graph: Any, path: Path) -> str:
    """Write `path`.dot and, if Graphviz is installed, `path`.svg; else returns a note."""
    return save_all([(graph, path)])


def save_all(graphs: Sequence[tuple[Any, Path]]) -> str:
    """Write several graphs. Returns a note if Graphviz is missing.

    One process of Graphviz draws them all, because starting it takes longer than drawing.
    """
    for graph, path in graphs:
        write_file(path.with_suffix(".dot"), graph.source)
    try:
        drawn = graphviz.pipe_string("dot", "svg", input_string="".join(g.source for g, _ in graphs), encoding="utf-8")
    except graphviz.ExecutableNotFound:
        return INSTALL
    for (_, path), text in zip(graphs, re.split(r"(?<=</svg>\n)(?=.)", drawn), strict=True):
        write_file(path.with_suffix(".svg"), text)
    return ""
