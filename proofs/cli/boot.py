"""`bulkhead boot`: boot a system on the implementation, evaluate its claims after every step, and show who can reach what.

impl/boot.py boots; this command reads the options, turns the log into a result and a graph, and errors into one message.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
import graphviz

from bulkhead.impl import boot as machine
from bulkhead.impl.domb.builder import MAX_PAGES
from bulkhead.impl.domb.protocol import MAX_FILE
from bulkhead.model.diagnostics import UsageError, suggest
from bulkhead.proofs import atomic_files as files
from bulkhead.proofs.cli.output import Output, json_option, output_options
from bulkhead.proofs.refinement.booted.claims import Watcher
from bulkhead.proofs.report import pictures
from bulkhead.proofs.report.runs_text import boot_text, frames
from bulkhead.proofs.results.boot import BootResult

COLOURS = {"grant": "#1558d6", "foreign": "#c5221f", "could map": "#c5221f"}
PAGES_IN_MIB = 256


@click.command()
@click.argument("system", metavar="SYSTEM")
@click.option(
    "--kernel",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="An ELF image of a 64-bit PV kernel (default: the test kernel of the project).",
)
@click.option(
    "--ramdisk",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The ramdisk of each guest (default: a small one of random bytes).",
)
@click.option("--cmdline", metavar="TEXT", help="The command line of each kernel (default: name= and the guest's name).")
@click.option(
    "--memory",
    type=click.IntRange(1, MAX_PAGES // PAGES_IN_MIB),
    metavar="MIB",
    help="Memory of each guest in MiB (default: as much as its kernel needs).",
)
@click.option("--guests", type=int, default=1, show_default=True, metavar="N", help="Number of guests (1 to 32).")
@click.option("--seed", type=int, default=0, show_default=True, metavar="S", help="Seed of the scheduler.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("build"),
    show_default=True,
    metavar="DIR",
    help="Folder for the graph.",
)
@json_option
@output_options
def boot(
    system: str,
    kernel: Path | None,
    ramdisk: Path | None,
    cmdline: str | None,
    memory: int | None,
    guests: int,
    seed: int,
    out: Path,
    output: Output,
) -> int:
    """Boot SYSTEM (monolithic or disaggregated) with guests; evaluate claims after each step, and show who reaches what."""
    if system not in machine.NODES:
        hint = suggest(system, machine.NODES)
        raise UsageError(
            f"there is no system `{system}` to boot.{' ' if hint else ''}{hint} There are: {', '.join(machine.NODES)}."
        )
    image = None if kernel is None else read_file(kernel, MAX_FILE)
    disk = None if ramdisk is None else read_file(ramdisk, MAX_FILE)
    try:
        files.writable(out)
    except OSError as error:
        raise UsageError(f"{out}: cannot write there: {error.strerror or error}.") from error
    begun = time.perf_counter()
    watcher = Watcher(system, min(max(guests, 1), machine.MAX_GUESTS))
    try:
        with files.temporary_folder("bulkhead-boot") as folder:
            log = machine.boot(
                system,
                image,
                guests,
                seed,
                folder,
                ramdisk=disk,
                cmdline=cmdline,
                pages=None if memory is None else memory * PAGES_IN_MIB,
                watch=watcher,
            )
    except machine.BootError as error:
        raise UsageError(f"{kernel}: {error}." if kernel is not None else f"{error}.") from error
    path = out / f"boot-{system}"
    note = pictures.save(graph(log), path)
    picture = str(path.with_suffix(".dot" if note else ".svg"))
    result = BootResult(log, watcher.result(), time.perf_counter() - begun, picture, note)
    return output.give(result, lambda: boot_text(result))


def read_file(path: Path, limit: int) -> bytes:
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


def graph(log: machine.BootLog) -> Any:
    """Parties and the memory of each domain; grants blue, foreign mappings red, possible ones dashed."""
    drawn = graphviz.Digraph(
        graph_attr={
            "label": f"{log.system}: who can reach what",
            "labelloc": "t",
            "fontname": "Helvetica",
            "rankdir": "LR",
            "ranksep": "1.2",
        },
        node_attr={"fontname": "Helvetica", "shape": "box"},
        edge_attr={"fontname": "Helvetica", "fontsize": "11"},
    )
    owners = sorted({row.owner for row in log.reach})
    for owner in owners:
        drawn.node(f"memory {owner}", f"memory of {owner}", shape="cylinder")
    for who in dict.fromkeys(row.who for row in log.reach):
        drawn.node(who, shape="ellipse" if " process " in who else "box")
    for row in log.reach:
        style = {
            "color": COLOURS.get(row.by, "#5f6368"),
            "fontcolor": COLOURS.get(row.by, "#5f6368"),
            "style": "dashed" if row.by == "could map" else "solid",
        }
        drawn.edge(row.who, f"memory {row.owner}", label=f"{row.by}: {frames(row)}", **style)
    return drawn
