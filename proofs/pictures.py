"""Pictures of states as Graphviz graphs: who owns which frame, who reaches it, and what a step changed.

A state comes as plain facts (function -> arguments -> value, all as text), so any system can be drawn: functions are
known by name, and a system without them is drawn as elements and true facts. Only live things are shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

Facts = Mapping[str, Mapping[tuple[str, ...], str]]
Place = tuple[str, tuple[str, ...]]
CHANGED, BAD, PLAIN = "#1558d6", "#c5221f", "#5f6368"
INSTALL = "Pictures stay .dot files: install Graphviz (apt-get install graphviz) to have them drawn."


def changes(before: Facts, after: Facts) -> set[Place]:
    """The places whose value differs between two states."""
    return {(f, a) for f, table in after.items() for a, v in table.items() if before.get(f, {}).get(a) != v}


def known(facts: Facts) -> bool:
    """Are there frames with owners and translations to them?"""
    return "frame.owner" in facts and "translation.frame" in facts and "space_of" in facts


def draw(facts: Facts, title: str, changed: Iterable[Place] = (), bad: Iterable[str] = ()) -> Any:
    """One state. `changed` places are drawn bold and blue, the elements in `bad` and edges between them red."""
    import graphviz

    graph = graphviz.Digraph(graph_attr={"label": title, "labelloc": "t", "fontname": "Helvetica", "fontsize": "16",
                                         "rankdir": "LR", "compound": "true", "nodesep": "0.3", "ranksep": "0.9"},
                             node_attr={"fontname": "Helvetica", "fontsize": "12", "shape": "box"},
                             edge_attr={"fontname": "Helvetica", "fontsize": "11"})
    moved, red = set(changed), set(bad)
    if known(facts):
        _memory(graph, facts, moved, red)
    else:
        _generic(graph, facts, moved, red)
    with graph.subgraph(name="cluster_legend") as box:
        box.attr(label="legend", style="dashed", color=PLAIN, fontsize="11")
        box.node("legend", f'<<font color="{CHANGED}"><b>changed by this step</b></font><br/>'
                           f'<font color="{BAD}"><b>violates the theorem</b></font><br/>dashed: gone, still cached>',
                 shape="plaintext", fontsize="11")
    return graph


def _style(changed: bool, bad: bool) -> dict[str, str]:
    colour = BAD if bad else CHANGED if changed else PLAIN
    return {"color": colour, "fontcolor": colour if bad or changed else "black",
            "penwidth": "2.6" if bad or changed else "1"}


def _memory(graph: Any, facts: Facts, changed: set[Place], bad: set[str]) -> None:
    def value(name: str, *args: str) -> str:
        return facts.get(name, {}).get(args, "")

    def touched(head: str, *args: str) -> bool:
        return any(f.partition(".")[0] == head and a == args for f, a in changed)

    live = [t for (t,) in facts["translation.frame"]
            if "true" in (value("translation.present", t), value("translation.cached", t))]
    reached = {value("translation.frame", t) for t in live}
    frames = [f for (f,) in facts["frame.owner"] if value("frame.use", f) not in ("free", "") or f in reached]
    entries = [(d, r) for d, r in facts.get("entry.kind", {}) if value("entry.kind", d, r) != "invalid"]
    spaces = {value("translation.space", t) for t in live}
    inside: dict[str, list[tuple[str, str, dict[str, str]]]] = {}
    for d, phase in ((a[0], v) for a, v in facts.get("domain.phase", {}).items()):
        if phase not in ("absent", "dead", "none"):
            inside.setdefault(d, [])
    for f in frames:
        label = f"frame {f}\n{value('frame.use', f)} {value('frame.content', f)}".rstrip()
        inside.setdefault(value("frame.owner", f), []).append((f, label, _style(touched("frame", f), f in bad)))
    for s in sorted(spaces):
        shape = {"shape": "ellipse", **_style(touched("space_of", s), s in bad)}
        inside.setdefault(value("space_of", s), []).append((s, f"space {s}", shape))
    for d, r in entries:
        how = "ro" if value("entry.readonly", d, r) == "true" else "rw"
        style = {"shape": "note", **_style(touched("entry", d, r), f"{d}.{r}" in bad)}
        inside.setdefault(d, []).append((f"{d}.{r}", f"grant {r} ({how})\nto {value('entry.grantee', d, r)}", style))
    for d, nodes in sorted(inside.items()):
        with graph.subgraph(name=f"cluster_{d}") as box:
            box.attr(label=f"domain {d} {value('domain.phase', d)}".rstrip(), style="rounded,filled",
                     fillcolor="#f6f8fb", **_style(touched("domain", d), False))
            if not nodes:
                box.node(f"empty {d}", "", shape="point", style="invis")
            for name, label, style in nodes:
                box.node(name, label, style="filled", fillcolor="white", **style)
    for d, r in entries:
        graph.edge(f"{d}.{r}", value("entry.frame", d, r), label="grants", style="dotted")
    for t in live:
        space, frame = value("translation.space", t), value("translation.frame", t)
        how = "rw" if value("translation.writable", t) == "true" else "ro"
        style = _style(touched("translation", t), t in bad or {space, frame} <= bad)
        cached = {} if value("translation.present", t) == "true" else {"style": "dashed"}
        graph.edge(space, frame, label=f"{t} {how} {value('translation.origin', t)}".rstrip(), **style, **cached)


def _generic(graph: Any, facts: Facts, changed: set[Place], bad: set[str]) -> None:
    for name, table in facts.items():
        for args, value in table.items():
            style = _style((name, args) in changed, bool(args) and set(args) <= bad)
            if value == "false" or not args:
                continue
            label = name if value == "true" else f"{name} = {value}"
            if len(args) == 1 and value == "true":
                graph.node(args[0], **_style(False, args[0] in bad))
                graph.edge(args[0], args[0], label=label, **style)
            elif value == "true":
                middle = f" [{', '.join(args[1:-1])}]" if len(args) > 2 else ""
                graph.edge(args[0], args[-1], label=label + middle, **style)


def save(graph: Any, path: Path) -> str:
    """Write `path`.dot and, where Graphviz is there, `path`.svg; gives a line to show when it is not."""
    import graphviz

    from proofs.files import write_file

    write_file(path.with_suffix(".dot"), graph.source)
    try:
        write_file(path.with_suffix(".svg"), graph.pipe(format="svg"))
    except graphviz.ExecutableNotFound:
        return INSTALL
    return ""
