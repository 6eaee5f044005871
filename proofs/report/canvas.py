"""Builds graphs for pictures of states: boxes, nodes and edges in three styles, with a caption and a legend.

Blue marks changes of a step, red the places that make the claim false. All text is escaped: it has no special meaning to
Graphviz. Not here: the layout of states (`pictures.py`, `hypervisor_scene.py`).
"""

from __future__ import annotations

import html
import textwrap
from dataclasses import dataclass
from typing import Any

import graphviz

Place = tuple[str, tuple[str, ...]]
CHANGED, BAD, PLAIN = "#1558d6", "#c5221f", "#5f6368"
WIDTH = 100  # maximum length of a caption line


@dataclass(frozen=True)
class Caption:
    """The caption above a picture: a title, and lines below it."""

    title: str
    lines: tuple[str, ...] = ()
    red: bool = False  # the legend explains red


class Canvas:
    """A graph under construction: nodes in boxes, edges, each plain, changed (blue) or a cause (red)."""

    def __init__(self, caption: Caption, legend: str) -> None:
        self.graph: Any = graphviz.Digraph(
            graph_attr={
                "label": _label(caption, legend),
                "labelloc": "t",
                "fontname": "Helvetica",
                "rankdir": "LR",
                "compound": "true",
                "nodesep": "0.25",
                "ranksep": "0.6",
                "pad": "0.2",
            },
            node_attr={
                "fontname": "Helvetica",
                "fontsize": "13",
                "shape": "box",
                "style": "filled",
                "fillcolor": "white",
                "margin": "0.12,0.06",
            },
            edge_attr={"fontname": "Helvetica", "fontsize": "11"},
        )
        self.nodes: dict[str, list[tuple[str, str, dict[str, str]]]] = {}
        self.boxes: dict[str, tuple[str, dict[str, str]]] = {}

    def box(self, box: str, title: str, changed: bool = False, bad: bool = False) -> None:
        """Add a titled box for nodes."""
        self.boxes[box] = (title, look(changed, bad))

    def node(self, name: str, label: str, box: str = "", changed: bool = False, bad: bool = False, **more: str) -> None:
        self.nodes.setdefault(box, []).append((_id(name), _text(label), {**look(changed, bad), **more}))

    def edge(self, a: str, b: str, label: str = "", changed: bool = False, bad: bool = False, **more: str) -> None:
        self.graph.edge(_id(a), _id(b), label=_text(label), **{**look(changed, bad), **more})

    def done(self) -> Any:
        """The finished graph."""
        for k, (box, (title, style)) in enumerate(self.boxes.items()):
            with self.graph.subgraph(name=f"cluster_{k}") as sub:
                sub.attr(
                    label=_text(title),
                    style="rounded,filled",
                    fillcolor="#f3f6fb",
                    fontsize="14",
                    margin="12",
                    **{**style, "fontcolor": "black"},
                )
                for name, label, style in self.nodes.get(box, ()):
                    sub.node(name, label, **style)
                if box not in self.nodes:
                    sub.node(
                        _id(f"nothing in {box}"),
                        "",
                        shape="none",
                        fixedsize="true",
                        width="0.1",
                        height="0.1",
                        style="invis",
                    )
        for box, nodes in self.nodes.items():
            for name, label, style in nodes if box not in self.boxes else ():
                self.graph.node(name, label, **style)
        return self.graph


def look(changed: bool, bad: bool) -> dict[str, str]:
    """Colours and width for changes and causes; a changed cause is red."""
    colour = BAD if bad else CHANGED if changed else PLAIN
    return {
        "color": colour,
        "fontcolor": colour if bad or changed else "black",
        "penwidth": "2.4" if bad or changed else "1",
    }


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
    """A node's identifier without colons, as the graphviz package reads text after a colon as a port."""
    return name.replace("\\", "/").replace(":", ".").replace('"', "'").replace("\n", " ")


def _text(label: str) -> str:
    """Escape a label: backslashes and `<...>` have no special meaning."""
    safe = _printable(label).replace("&", "&amp;").replace("\\", "\\\\").replace("\n", "\\n")
    return f" {safe} " if safe.startswith("<") and safe.endswith(">") else safe


__all__ = ["BAD", "CHANGED", "PLAIN", "Canvas", "Caption", "Place", "look"]
