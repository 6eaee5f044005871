"""The rule state with its bindings: which object of the implementation is which element.

Not here: steps of the rules and their log (rule_state.py), and which steps are taken (follow.py and its neighbours).
"""

from __future__ import annotations

from bulkhead.proofs.refinement.domb.rule_state import RuleState
from bulkhead.proofs.refinement.domb.world import NOBODY, Rules
from bulkhead.proofs.refinement.lockstep.rule_steps import Log, Mismatch


def above(path: str) -> str:
    """The path without its last name."""
    return path.rpartition("/")[0] or "/"


def prefixes(path: str) -> list[str]:
    """A path of XenStore and all above it, the root first."""
    out = [path]
    while out[0] != "/":
        out.insert(0, above(out[0]))
    return out


class Book(RuleState):
    """The rule state that runs beside the implementation, and the bindings of its elements."""

    def __init__(self, rules: Rules, domb_mfns: list[int], first_mfn: int, log: Log | None = None) -> None:
        super().__init__(rules, log)
        self.frames = {mfn: i for i, mfn in enumerate(domb_mfns)}
        self.frames |= {first_mfn + i: len(domb_mfns) + i for i in range(self.size.heap)}
        self.mfns = {f: mfn for mfn, f in self.frames.items()}
        self.dom0_frames: dict[int, int] = {}  # pages of Dom0's processes (users.py), as long as these have them
        self.refs = {number: i for i, number in enumerate(self.size.refs)}
        self.paths: dict[str, int] = {"/": 0}  # paths of XenStore -> Node
        self.free_nodes = list(range(self.size.nodes - 1, 0, -1))
        self.pieces = 0

    def domain(self, domid: int) -> int:
        """The element of a domain id."""
        return domid if 0 <= domid < NOBODY else NOBODY

    def frame(self, mfn: int) -> int:
        """The element of a frame number."""
        found = self.frames.get(mfn)
        return self.dom0_frames.get(mfn, self.size.nowhere) if found is None else found

    def mfn(self, element: int) -> int:
        """The frame number of an element."""
        found = self.mfns.get(element)
        return next((mfn for mfn, f in self.dom0_frames.items() if f == element), -1) if found is None else found

    def ref(self, number: int) -> int:
        """The element of a reference."""
        return self.refs.get(number, len(self.size.refs) - 1)

    def free(self, *funcs: str, other: int = -1) -> int:
        """The first element for which none of the facts holds."""
        for i, values in enumerate(zip(*(self.T[f] for f in funcs), strict=True)):
            if i != other and not any(values):
                return i
        raise Mismatch(f"the world has too few elements for {funcs[0]}")

    def free_translation(self, other: int = -1) -> int:
        """An unused translation."""
        return self.free("translation.present", "translation.cached", other=other)

    def free_map(self) -> int:
        """An unused map, of which nothing is left, nor of the others of its call (users.py)."""
        T = self.T
        there = [m for m in range(self.size.maps) if T["gmap.listed"][m] or T["gmap.live"][m] or T["notice.event"][m]]
        taken = {*there, *(T["head"][m] for m in there)}
        return next(m for m in range(self.size.maps) if m not in taken)

    # Ghosts.

    def free_epoch(self) -> int:
        """A fresh allocation; unreferenced old ones are reused."""
        if all(self.T["past"]):
            self.forget("epochs")
        return self.T["past"].index(0)

    def free_life(self) -> int:
        """A fresh life; unreferenced old ones are reused, without offers."""
        T = self.T
        if all(T["spent"]):
            for f in range(self.size.frames):
                if T["frame.use"][f] == self.m["Use"]["unscrubbed"]:
                    self.step("scrub_page", {"f": f})
            self.forget("lives")
        if all(T["spent"]):
            raise Mismatch("the world has too few lives")
        return T["spent"].index(0)

    def free_visit(self) -> int:
        """A visit that has not been; old ones nobody speaks of are used again."""
        if all(self.T["visited"]):
            self.forget("visits")
        if all(self.T["visited"]):
            raise Mismatch("the world has too few visits")
        return self.T["visited"].index(0)

    def free_turn(self) -> int:
        """A fresh turn."""
        if all(self.T["turns_past"]):
            self.forget("turns")
        return self.T["turns_past"].index(0)

    def piece(self, good: bool) -> int:
        """An element for newly read bytes; one build never needs more than half of them."""
        e = self.pieces = (self.pieces + 1) % self.size.pieces
        self.put({("acceptable", e): int(good)})
        return e

    # Paths of XenStore.

    def node(self, path: str) -> int:
        """The element of a path of XenStore; if there is none left, those that nobody speaks of are given up first."""
        needed = prefixes(path)
        for each in needed:
            if each not in self.paths:
                self._bind(each, needed)
        return self.paths[path]

    def path_of(self, node: int) -> str:
        """The path that an element stands for."""
        return next(path for path, n in self.paths.items() if n == node)

    def _bind(self, path: str, needed: list[str]) -> None:
        T, count = self.T, self.size.nodes
        if not self.free_nodes:
            watched = {n for n, on in zip(T["watch.node"], T["watch.on"], strict=True) if on}
            for old, n in list(self.paths.items()):
                if not T["node.exists"][n] and n not in watched and old not in needed:
                    self._unbind(old)
        if not self.free_nodes:
            raise Mismatch("the world has too few nodes")
        new = self.paths[path] = self.free_nodes.pop()
        values: dict[tuple[str, int], int] = {}
        for other, n in self.paths.items():
            if other == "/" or other == path or path.startswith(other + "/"):
                values["below", new * count + n] = 1
            if other == path or other.startswith(path + "/"):
                values["below", n * count + new] = 1
            values["above", new * count + n] = int(other == above(path) and other != path)
            values["above", n * count + new] = int(above(other) == path and other != path)
        self.put(values)

    def _unbind(self, path: str) -> None:
        """The element of a path where no node is: what it was below or above is forgotten, and what was told of it."""
        count = self.size.nodes
        old = self.paths.pop(path)
        self.free_nodes.append(old)
        values: dict[tuple[str, int], int] = {}
        for n in range(count):
            values["below", old * count + n] = int(n in (0, old))
            values["below", n * count + old] = int(n == old)
            values["above", old * count + n] = values["above", n * count + old] = 0
        block = NOBODY + 1
        for name in ("told", "learned", "perm.given"):
            values |= dict.fromkeys(((name, k) for k in range(old * block, (old + 1) * block)), 0)
        self.put(values)


__all__ = ["Book", "above", "prefixes"]
