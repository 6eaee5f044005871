"""Skips queries that are subsumed by ones already refuted.

Systems share components, and many checks of a step fail with the same assignments, so many queries coincide. A query
is subsumed if the same goal after the same assignments was refuted from a subset of its assumptions:
the same text, over the same declarations. Both solvers' refutations carry over; other verdicts never
do. Nothing is cached between runs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from bulkhead.model.logic import Prelude
from bulkhead.proofs.theorems.queries import Block, Query, Result

Meaning = tuple[str, frozenset[str]]  # a text, and the declarations that it depends on


class Meanings:
    """Texts of one system together with the declarations that they depend on."""

    def __init__(self, prelude: Prelude) -> None:
        self._prelude = prelude
        self._known: dict[str, Meaning] = {}

    def of(self, text: str) -> Meaning:
        if text not in self._known:
            lines = self._prelude.lines
            self._known[text] = (text, frozenset([lines[name] for name in self._prelude.behind(text)]))
        return self._known[text]


@dataclass
class Refuted:
    """The queries refuted so far in this run: for assignments and a goal, the sufficient assumptions."""

    _found: dict[tuple[Meaning, Meaning], list[tuple[frozenset[Meaning], Result]]] = field(default_factory=dict)

    def add(self, meanings: Meanings, block: Block, query: Query, result: Result) -> None:
        """Store an answer if it is a refutation."""
        if result.verdict != "unsat" or result.second not in ("", "unsat"):
            return
        assumed = block.assumed
        used = frozenset(meanings.of(assumed[n]) for n in result.core if n in assumed)
        key = (meanings.of(block.context), meanings.of(query.goal))
        self._found.setdefault(key, []).append((used, result))

    def lookup(self, meanings: Meanings, block: Block, query: Query, checked: bool) -> Result | None:
        """A stored refutation of this query from some of its assumptions; with `checked`, by both solvers."""
        key = (meanings.of(block.context), meanings.of(query.goal))
        for used, result in self._found.get(key, ()):
            if checked and result.second != "unsat":
                continue
            names = {meanings.of(text): n for n, text in block.assumed.items()}
            if used <= names.keys():
                core = (*(names[m] for m in used), *(n for n in result.core if n == "goal"))
                return replace(
                    result, label=block.label, claim=query.claim, core=core, seconds=0.0, second_seconds=0.0, again=True
                )
        return None


def split(blocks: Iterable[Block], refuted: Refuted, meanings: Meanings, checked: bool) -> tuple[list[Block], list[Result]]:
    """The blocks with the queries that remain, and the results of the subsumed ones."""
    ask: list[Block] = []
    known: list[Result] = []
    for block in blocks:
        left = []
        for query in block.queries:
            result = refuted.lookup(meanings, block, query, checked)
            if result is None:
                left.append(query)
            else:
                known.append(result)
        if left:
            ask.append(replace(block, queries=tuple(left)))
    return ask, known
