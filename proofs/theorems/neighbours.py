"""Groups assumptions that are connected by shared state functions (transitively).

A query about one component of a system rarely needs claims about components that share no state with it. So these
assumptions are used only if a query is open without them; a system of a hundred parts then costs a hundred times one part.
This is only a heuristic for the order: a query that is open with the neighbours is asked again with all assumptions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

MOST = 0.5  # part of the assumptions: starting with more than this saves nothing


class Neighbours:
    """The assumptions of one system, in groups that share no state function or definition."""

    def __init__(self, reads: Mapping[str, frozenset[str]]) -> None:
        """`reads` gives for each assumption the state functions and definitions that it reads."""
        self._parent: dict[str, str] = {}
        for names in reads.values():
            roots = [self._root(n) for n in names]
            for root in roots[1:]:
                self._parent[self._root(root)] = self._root(roots[0])
        self._apart = frozenset(a for a, names in reads.items() if not names)  # about sorts and constants: near to all
        groups: dict[str, set[str]] = {}
        for assumption, names in reads.items():
            for name in names:
                groups.setdefault(self._root(name), set()).add(assumption)
        self._groups = groups
        self._count = len(reads)
        self._known: dict[frozenset[str], frozenset[str] | None] = {}

    def _root(self, name: str) -> str:
        while (above := self._parent.get(name, name)) != name:
            self._parent[name] = self._parent.get(above, above)
            name = above
        return name

    def of(self, functions: Iterable[str]) -> frozenset[str] | None:
        """The assumptions connected to these functions; None if these are most of all."""
        roots = frozenset(self._root(f) for f in functions)
        if roots not in self._known:
            near = self._apart.union(*(self._groups.get(r, ()) for r in roots))
            self._known[roots] = near if len(near) < MOST * self._count else None
        return self._known[roots]


__all__ = ["Neighbours"]
