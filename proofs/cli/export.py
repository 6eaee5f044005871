"""`bulkhead export`: each query of a system as a standalone SMT-LIB 2 file."""

from __future__ import annotations

from pathlib import Path

import click

from bulkhead.model import loader
from bulkhead.proofs.cli.names import make_folder
from bulkhead.proofs.cli.output import fault_option
from bulkhead.proofs.theorems.export import export as write


@click.command()
@click.argument("system")
@fault_option
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Folder for the files.")
def export(system: str, faults: tuple[str, ...], out: Path) -> int:
    """Write each query of SYSTEM as a standalone SMT-LIB 2 file."""
    loaded = loader.load(system, faults)
    make_folder(out)
    click.echo(f"{write(loaded, out)} queries of {loaded.name} written to {out}.")
    return 0
