"""Writes every query of a system to a separate file, for other solvers and for readers.

The texts are those of the proof itself (`queries.py`), each with the prelude, so that a file is complete.
The queries assume all invariants, as the first round of the proof does; no solver runs here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from bulkhead.model.ir import FAILED, System
from bulkhead.proofs.atomic_files import write_file
from bulkhead.proofs.theorems.queries import PLACES, Block, Query, QueryMaker, name_of


def blocks_of(system: System, maker: QueryMaker) -> Iterator[Block]:
    """All blocks of the first round: implied theorems, initial states, and one block per transition."""
    claims = {**system.invariants, **system.theorems}
    invariants = [name_of(c) for c in system.invariants.values()]
    if system.theorems:
        yield maker.follows(system.theorems.values(), invariants)
    yield maker.initial(claims.values())
    if system.step_claims:
        yield from maker.unchanged(system.step_claims.values())
    assumed = [name_of(c) for c in claims.values()]
    for transition in maker.transitions:
        block = maker.step(transition, claims.values(), assumed, system.step_claims.values())
        if block is not None:
            yield block


def text_of(system: System, maker: QueryMaker, block: Block, query: Query) -> str:
    """One query as a standalone SMT-LIB 2 text."""
    lines = [f"; System {system.name}: is `{query.claim}` false somewhere? `unsat` is wanted."]
    if block.label in PLACES:
        lines.append(f"; Asked: {PLACES[block.label]}.")
    else:
        head, _, code = block.label.partition("!")
        rule, _, step = head.partition(".")
        outcome = "a check fails" if block.label.endswith(FAILED) else code or "success"
        lines.append(f"; Rule: {rule}   Step: {step or 'the only or first one'}   Outcome: {outcome}")
    lines.append(f"; Invariant or theorem: {query.claim}")
    lines.append(f"(set-info :status unknown)\n(set-logic ALL)\n{maker.formulas.prelude.text}{block.text()}{query.goal}")
    return "\n".join(lines) + "(check-sat)\n"


def folder_of(label: str) -> str:
    """The folder name for the queries of one label: unique per label, and without characters special to a shell.

    Names of the rules contain neither `-` nor `+`, so replacements that use these are unambiguous.
    """
    return re.sub(r"[^A-Za-z0-9_.!+]+", "-", label.replace(FAILED, "!+"))


def export(system: System, out: Path) -> int:
    """Write all queries of a system below a folder; returns their number."""
    maker = QueryMaker(system)
    texts = {
        out / folder_of(block.label) / f"{query.claim}.smt2": text_of(system, maker, block, query)
        for block in blocks_of(system, maker)
        for query in block.queries
    }
    for path, text in texts.items():
        write_file(path, text)
    return len(texts)
