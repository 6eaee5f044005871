"""The finite world of a boot: the mapping of the machine's domains, frames, files, references ... to elements.

An object gets its element when it is first seen and keeps it. Frames with the same facts in the rules
share one element: a guest has a thousand pages that only it maps, and one of them represents all for a claim. Not
here: the facts about the elements (snapshot.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from bulkhead.model import loader
from bulkhead.model.executable import ExecutableModel
from bulkhead.model.ir import System
from bulkhead.model.world import State, World, size_of

DOM0: Final = 0
DOMB: Final = 1
KERNEL: Final = 0
DOMB_SPACE: Final = 1


class TooMuch(Exception):
    """The machine has more objects of a sort than the world has elements."""


@dataclass(frozen=True)
class Size:
    """The size of a world, from the number of guests to come."""

    guests: int

    def sizes(self) -> dict[str, int]:
        """Elements per sort. Two service domains, and one element for all other numbers."""
        n = self.guests
        return {
            "Domain": n + 3,
            "Life": n + 3,
            "Frame": 16 + 4 * n,
            "Epoch": 2,
            "Space": n + 8,
            "Ref": 9,
            "Translation": 24 + 10 * n,
            "Handle": 14 + 4 * n,
            "File": 10 + 2 * n,
            "Map": 8 + 3 * n,
            "Port": 8 + 3 * n,
            "FileName": 2,
            "Call": 1,
        }


class Elements:
    """The rules of a system in a world of this size, and the names of its elements."""

    def __init__(self, name: str, size: Size) -> None:
        self.system: System = loader.load(name)
        sizes = {**dict.fromkeys(self.system.sorts, 1), **{k: n for k, n in size.sizes().items() if k in self.system.sorts}}
        consts = {"dom0": DOM0, "domb": DOMB, "domb_space": DOMB_SPACE, "gref_console": 0, "gref_xenstore": 1}
        self.world = World(sizes, {c: consts.get(c, 0) for c in self.system.consts})
        self.machine = ExecutableModel(self.system, self.world)
        self.members = {sort: {m: i for i, m in enumerate(ms)} for sort, ms in self.system.enums.items()}
        self.names: dict[str, dict[object, int]] = {sort: {} for sort in sizes}
        self._tables = {
            f.name: (k, [size_of(self.system, self.world, a) for a in f.args], f.sort)
            for k, f in enumerate(self.system.funcs.values())
        }
        for kind, things in (("Domain", (0, None)), ("Space", ("kernel", "domb")), ("Ref", (0, 1)), ("File", ("kernel",))):
            for thing in things:
                self.of(kind, thing)

    def of(self, sort: str, thing: object) -> int:
        """The element of an object; TooMuch."""
        names = self.names[sort]
        found = names.get(thing)
        if found is None:
            found = names[thing] = len(names)
            if found >= self.world.sizes[sort]:
                raise TooMuch(f"the machine has more than {self.world.sizes[sort]} elements of {sort}")
        return found

    def start(self) -> State:
        """An empty state."""
        return self.machine.empty_state()

    def put(self, state: State, func: str, index: tuple[int, ...], value: int | str) -> None:
        """Write a fact; facts about functions that the system does not have are ignored."""
        where = self._tables.get(func)
        if where is None:
            return
        k, sizes, sort = where
        at = 0
        for i, n in zip(index, sizes, strict=True):
            at = at * n + i
        state[k][at] = self.members[sort][value] if isinstance(value, str) else int(value)
