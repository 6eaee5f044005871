"""Every query of a system as a file of its own, for other solvers, other people, and readers who want to see it all.

The texts are those the proof itself asks (`queries.py`), with the prelude put before each so that a file stands alone.
What is written assumes all invariants, as the first round of the proof does; nothing is run here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from bulkhead.model.ir import System
from bulkhead.proofs.atomic_files import write_file
from bulkhead.proofs.theorems.queries import Block, Query, QueryMaker, name_of


def blocks_of(system: System, maker: QueryMaker) -> Iterator[Block]:
    """All blocks of the first round: implied theorems, initial states, and one block per transition."""
    claims = {**system.invariants, **system.theorems}
    invariants = [name_of(c) for c in system.invariants.values()]
    if system.theorems:
        yield maker.follows(system.theorems.values(), invariants)
    yield maker.initial(claims.values())
    assumed = [name_of(c) for c in claims.values()]
    for transition in maker.transitions:
        block = maker.step(transition, claims.values(), assumed, system.transitions.values())
        if block is not None:
            yield block


def text_of(system: System, maker: QueryMaker, block: Block, query: Query) -> str:
    """One query as a standalone SMT-LIB 2 text."""
    rule, _, rest = block.label.partition(".")
    step, _, code = rest.partition("!")
    if "!" in rule:
        rule, _, code = rule.partition("!")
    place = {"init": "in every initial state", "follows": "implied by the invariants"}.get(block.label)
    lines = [f"; System {system.name}: is `{query.claim}` false somewhere? `unsat` is wanted."]
    if place:
        lines.append(f"; Asked: {place}.")
    else:
        lines.append(f"; Rule: {rule}   Step: {step or 'the only or first one'}   Outcome: {code or 'success'}")
    lines.append(f"; Invariant or theorem: {query.claim}")
    lines.append(f"(set-info :status unknown)\n(set-logic ALL)\n{maker.formulas.prelude.text}{block.text()}{query.goal}")
    return "\n".join(lines) + "(check-sat)\n"


def export(system: System, out: Path) -> int:
    """Write all queries of a system below a folder; gives their number."""
    maker = QueryMaker(system)
    count = 0
    for block in blocks_of(system, maker):
        folder = out / re.sub(r"[^A-Za-z0-9_.!-]+", "_", block.label)
        for query in block.queries:
            write_file(folder / f"{query.claim}.smt2", text_of(system, maker, block, query))
            count += 1
    return count
