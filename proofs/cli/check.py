"""`bulkhead check`: parse and type check rules, and look for a model of their axioms; proves nothing."""

from __future__ import annotations

from pathlib import Path

import click

from bulkhead.model import loader
from bulkhead.model.diagnostics import UsageError, render
from bulkhead.proofs.theorems.axioms import FOUND, model_of_axioms

LIMIT = 10.0  # seconds for one question about axioms


@click.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
def check(files: tuple[Path, ...]) -> int:
    """Parse and type check rules FILES (default: the shipped ones), and check that axioms have models. Proves nothing.

    Each fault is laid by itself, and its text is checked, too.
    """
    for path in files:
        if not path.exists():
            raise UsageError(f"{path}: no such file.")
    systems = loader.checked(files)
    warnings = list(dict.fromkeys(w for system in systems for w in system.warnings))
    sources = {w.span.file: _source(w.span.file) for w in warnings}
    if warnings:
        click.echo(render(warnings, sources))
    models = {system.name: model_of_axioms(system, LIMIT) for system in systems}
    for name, model in models.items():
        if model is not None:
            click.echo(f"{name}: {model.summary()}.")
    count = len(files) or len(loader.shipped_files())
    click.echo(f"{count} file{'s' * (count != 1)}: no errors, {len(warnings)} warning{'s' * (len(warnings) != 1)}.")
    return 1 if any(model is not None and (model.answer != FOUND or model.scope) for model in models.values()) else 0


def _source(name: str) -> str:
    return Path(name).read_text(errors="replace") if Path(name).is_file() else ""
