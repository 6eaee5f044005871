"""Pictures of states as Graphviz graphs: a caption, what lives in the state, and two colours.

A state comes as plain facts (function -> arguments -> value, all as text), so any system can be drawn: one with frames,
owners and translations as a hypervisor (`hypervisor_scene.py`), any other as elements and true facts. Blue is what a step
changed, red what makes the claim false.
"""

from __future__ import annotations

import html
import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bulkhead.proofs.report.element_names import Facts

Place = tuple[str, tuple[str, ...]]
CHANGED, BAD, PLAIN = "#1558d6", "#c5221f", "#5f6368"
INSTALL = "Pictures stay .dot files: install Graphviz (apt-get install graphviz) to have them drawn."
WIDTH = 100  # characters of a caption line


@dataclass(frozen=True)
class Caption:
    """What stands above a picture: a title, and lines below it."""

    title: str
    lines: tuple[str, ...] = ()
    red: bool = False  # the legend says what red means


def changes(before: Facts, after: Facts) -> set[Place]:
    """The places whose value differs between two states."""
    return {(f, a) for f, table in after.items() for a, v in table.items() if before.get(f, {}).get(a) != v}


class Canvas:
    """A graph in the making: nodes in boxes, edges, each plain, changed (blue) or to blame (red)."""

    def __init__(self, caption: Caption, legend: str) -> None:
        import graphviz

        self.graph: Any = graphviz.Digraph(
            graph_attr={"label": _label(caption, legend), "labelloc": "t", "fontname": "Helvetica", "rankdir": "LR",
                        "compound": "true", "nodesep": "0.25", "ranksep": "0.6", "pad": "0.2"},
            node_attr={"fontname": "Helvetica", "fontsize": "13", "shape": "box", "style": "filled", "fillcolor": "white",
                       "margin": "0.12,0.06"},
            edge_attr={"fontname": "Helvetica", "fontsize": "11"})
        self.nodes: dict[str, list[tuple[str, str, dict[str, str]]]] = {}
        self.boxes: dict[str, tuple[str, dict[str, str]]] = {}

    def box(self, box: str, title: str, changed: bool = False, bad: bool = False) -> None:
        """A titled box; nodes may name it."""
        self.boxes[box] = (title, look(changed, bad))

    def node(self, name: str, label: str, box: str = "", changed: bool = False, bad: bool = False, **more: str) -> None:
        self.nodes.setdefault(box, []).append((_id(name), _text(label), {**look(changed, bad), **more}))

    def edge(self, a: str, b: str, label: str = "", changed: bool = False, bad: bool = False, **more: str) -> None:
        self.graph.edge(_id(a), _id(b), label=_text(label), **{**look(changed, bad), **more})

    def done(self) -> Any:
        """The graph, its boxes closed."""
        for k, (box, (title, style)) in enumerate(self.boxes.items()):
            with self.graph.subgraph(name=f"cluster_{k}") as sub:
                sub.attr(label=_text(title), style="rounded,filled", fillcolor="#f3f6fb", fontsize="14", margin="12",
                         **{**style, "fontcolor": "black"})
                for name, label, style in self.nodes.get(box, ()):
                    sub.node(name, label, **style)
                if box not in self.nodes:
                    sub.node(_id(f"nothing in {box}"), "", shape="none", fixedsize="true", width="0.1", height="0.1",
                             style="invis")
        for box, nodes in self.nodes.items():
            for name, label, style in nodes if box not in self.boxes else ():
                self.graph.node(name, label, **style)
        return self.graph


def look(changed: bool, bad: bool) -> dict[str, str]:
    """Colours and width of what is changed or to blame; what is to blame stays red when it has changed too."""
    colour = BAD if bad else CHANGED if changed else PLAIN
    return {"color": colour, "fontcolor": colour if bad or changed else "black",
            "penwidth": "2.4" if bad or changed else "1"}


def draw(facts: Facts, caption: Caption, changed: Iterable[Place] = (), bad: Iterable[Place] = ()) -> Any:
    """One state, with the places that a step changed and those to blame for a false claim."""
    from bulkhead.proofs.report import hypervisor_scene as scene

    if scene.known(facts):
        canvas = Canvas(caption, scene.LEGEND)
        scene.draw(canvas, facts, set(changed), set(bad))
    else:
        canvas = Canvas(caption, "")
        _generic(canvas, facts, set(changed), set(bad))
    return canvas.done()


def _label(caption: Caption, legend: str) -> str:
    """The caption as one of Graphviz's HTML labels."""
    rows = [f'<font point-size="18"><b>{_html(part)}</b></font>' for part in textwrap.wrap(_printable(caption.title), 80)]
    for line in caption.lines:
        rows += [f'<font point-size="13">{_html(part)}</font>' for part in textwrap.wrap(_printable(line), WIDTH)]
    key = [f'<font color="{CHANGED}"><b>blue</b></font>: changed']
    if caption.red:
        key.append(f'<font color="{BAD}"><b>red</b></font>: makes the claim false')
    if legend:
        key.append(_html(legend))
    rows.append(f'<font point-size="11" color="{PLAIN}">{";   ".join(key)}</font>')
    return "<" + "<br/>".join(rows) + "<br/> >"


def _html(text: str) -> str:
    return html.escape(text, quote=True)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() or c in "\n\xa0" else " " for c in text)


def _id(name: str) -> str:
    """A node's identifier. Graphviz's Python side takes what stands behind a colon for a port."""
    return name.replace("\\", "/").replace(":", ".").replace('"', "'").replace("\n", " ")


def _text(label: str) -> str:
    """A label as plain text: no backslash means anything, and no `<...>` is HTML."""
    safe = _printable(label).replace("&", "&amp;").replace("\\", "\\\\").replace("\n", "\\n")
    return f" {safe} " if safe.startswith("<") and safe.endswith(">") else safe


def _generic(canvas: Canvas, facts: Facts, changed: set[Place], bad: set[Place]) -> None:
    """Elements with what is true of them alone, and an edge from the first to the last for what relates several."""
    elements = {e for table in facts.values() for args in table for e in args}
    notes: dict[str, list[str]] = {}  # what is true of an element alone
    marks: dict[str, tuple[bool, bool]] = {}  # the elements to draw: changed, and to blame
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
    """Write `path`.dot and, where Graphviz is there, `path`.svg; gives a line to show when it is not."""
    return save_all([(graph, path)])


def save_all(graphs: Sequence[tuple[Any, Path]]) -> str:
    """Write several graphs. Gives a line to show when Graphviz is not there.

    One process of Graphviz draws them all: to start it takes longer than to draw.
    """
    import graphviz

    from bulkhead.proofs.atomic_files import write_file

    for graph, path in graphs:
        write_file(path.with_suffix(".dot"), graph.source)
    try:
        drawn = graphviz.pipe_string("dot", "svg", input_string="".join(g.source for g, _ in graphs), encoding="utf-8")
    except graphviz.ExecutableNotFound:
        return INSTALL
    for (_, path), text in zip(graphs, re.split(r"(?<=</svg>\n)(?=.)", drawn), strict=True):
        write_file(path.with_suffix(".svg"), text)
    return ""
