"""`bulkhead boot`: boot a system on the implementation, and show who asked whom for what and who can reach what.

The booting is impl/boot.py's; here its log becomes text and a graph, and its errors one message.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bulkhead.model.diagnostics import UsageError, suggest

if TYPE_CHECKING:
    from bulkhead.impl.boot import BootLog
    from bulkhead.impl.reach import Reach

COLOURS = {"grant": "#1558d6", "foreign": "#c5221f", "could map": "#c5221f"}
WORDS = {"own": "owns", "grant": "maps by grant", "foreign": "maps by foreign mapping",
         "could map": "could map by foreign mapping"}


@click.command()
@click.argument("system", metavar="SYSTEM")
@click.option("--kernel", type=click.Path(path_type=Path), metavar="FILE",
              help="An ELF image of a 64-bit PV kernel (default: the test kernel of the project).")
@click.option("--guests", type=int, default=1, show_default=True, metavar="N", help="How many guests to create (1 to 32).")
@click.option("--seed", type=int, default=0, show_default=True, metavar="S", help="Decides who runs when.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("build"), show_default=True, metavar="DIR",
              help="Where the graph goes.")
def boot(system: str, kernel: Path | None, guests: int, seed: int, out: Path) -> int:
    """Boot SYSTEM (monolithic or disaggregated) with guests, and show who can reach what."""
    from bulkhead.impl import boot as machine
    from bulkhead.impl.domb.protocol import MAX_FILE
    from bulkhead.proofs import atomic_files as files
    from bulkhead.proofs.report import pictures

    if system not in machine.NODES:
        hint = suggest(system, machine.NODES)
        raise UsageError(f"there is no system `{system}` to boot.{' ' if hint else ''}{hint} "
                         f"There are: {', '.join(machine.NODES)}.")
    image = None if kernel is None else read_kernel(kernel, MAX_FILE)
    try:
        files.writable(out)
    except OSError as error:
        raise UsageError(f"{out}: cannot write there: {error.strerror or error}.") from error
    try:
        with files.temporary_folder("bulkhead-boot") as folder:
            log = machine.boot(system, image, guests, seed, folder)
    except machine.BootError as error:
        raise UsageError(f"{kernel}: {error}." if kernel is not None else f"{error}.") from error
    click.echo(text(log))
    path = out / f"boot-{system}"
    hint = pictures.save(graph(log), path)
    click.echo(f"\nGraph: {path.with_suffix('.dot' if hint else '.svg')}" + (f"\n{hint}" if hint else ""))
    return 1 if log.left_behind else 0


def read_kernel(path: Path, limit: int) -> bytes:
    """The file's bytes; UsageError."""
    if not path.exists():
        raise UsageError(f"{path}: no such file.")
    if not path.is_file():
        raise UsageError(f"{path}: is not a regular file.")
    try:
        with path.open("rb") as file:
            raw = file.read(limit + 1)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}.") from error
    if len(raw) > limit:
        raise UsageError(f"{path}: is larger than {limit >> 20} MiB.")
    return raw


def columns(rows: Iterable[Sequence[str]]) -> list[str]:
    """Rows as aligned lines."""
    found = [list(row) for row in rows]
    widths = [max(len(row[i]) for row in found) for i in range(len(found[0]))] if found else []
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in found]


def frames(row: Reach) -> str:
    """How many frames, and for what."""
    count = f"{len(row.frames)} frame{'s' * (len(row.frames) != 1)}"
    if row.by in ("own", "could map"):
        return count
    return f"{count}, {row.writable} for writing"


def text(log: BootLog) -> str:
    """The whole run."""
    from bulkhead.impl.tools.xenconsoled import printable

    out = [f"Booting `{log.system}`, seed {log.seed}", "", "Who asked whom for what"]
    out += [f"  {line}" for line in columns(
        (str(i + 1), step.who, f"-> {step.whom}", printable(step.what.encode()).replace("\n", " "))
        for i, step in enumerate(log.steps))]
    out += ["", "Guests"]
    for guest in log.guests:
        state = f"XenStore data/state: {printable(guest.state)}" if guest.state else "nothing in XenStore"
        out.append(f"  {guest.name}: domain {guest.domid}, {guest.pages} pages, {state}")
        out += [f"    | {line}" for line in printable(guest.console).splitlines()]
    out += ["", "Who can reach what, while the guests ran"]
    out += [f"  {line}" for line in columns((row.who, WORDS[row.by], frames(row), f"of {row.owner}")
                                            for row in log.reach)]
    out += ["", "After the guests were destroyed: " + (
        "every frame, handle and port is back." if not log.left_behind else "; ".join(log.left_behind))]
    return "\n".join(out)


def graph(log: BootLog) -> Any:
    """Parties and the memory of each domain; grants blue, foreign mappings red, possible ones dashed."""
    import graphviz

    drawn = graphviz.Digraph(
        graph_attr={"label": f"{log.system}: who can reach what", "labelloc": "t", "fontname": "Helvetica",
                    "rankdir": "LR", "ranksep": "1.2"},
        node_attr={"fontname": "Helvetica", "shape": "box"}, edge_attr={"fontname": "Helvetica", "fontsize": "11"})
    owners = sorted({row.owner for row in log.reach})
    for owner in owners:
        drawn.node(f"memory {owner}", f"memory of {owner}", shape="cylinder")
    for who in dict.fromkeys(row.who for row in log.reach):
        drawn.node(who, shape="ellipse" if " process " in who else "box")
    for row in log.reach:
        style = {"color": COLOURS.get(row.by, "#5f6368"), "fontcolor": COLOURS.get(row.by, "#5f6368"),
                 "style": "dashed" if row.by == "could map" else "solid"}
        drawn.edge(row.who, f"memory {row.owner}", label=f"{row.by}: {frames(row)}", **style)
    return drawn
