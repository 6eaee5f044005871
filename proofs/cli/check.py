"""`bulkhead check`: parse and type check rules; proves nothing."""

from __future__ import annotations

from pathlib import Path

import click

from bulkhead.model import loader
from bulkhead.model.diagnostics import UsageError, render


@click.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
def check(files: tuple[Path, ...]) -> int:
    """Parse and type check rules FILES (default: the shipped ones). Proves nothing."""
    for path in files:
        if not path.exists():
            raise UsageError(f"{path}: no such file.")
    warnings = loader.check(files)
    sources = {w.span.file: _source(w.span.file) for w in warnings}
    if warnings:
        click.echo(render(warnings, sources))
    count = len(files) or len(loader.shipped_files())
    click.echo(f"{count} file{'s' * (count != 1)}: no errors, {len(warnings)} warning{'s' * (len(warnings) != 1)}.")
    return 0


def _source(name: str) -> str:
    return Path(name).read_text(errors="replace") if Path(name).is_file() else ""
