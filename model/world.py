"""A finite world: how many elements each sort has, and which of them the constants name.

States of a world are flat tables, one per state function, in the order of `system.funcs`; every value is a small
integer (index of an element or of an enum member, 0 or 1 for truth values). Not here: the effect of steps.
"""

from __future__ import annotations

from dataclasses import dataclass

from bulkhead.model.ir import BOOL, System

State = list[list[int]]  # a large table may be a bytearray, which has the same operations


@dataclass(frozen=True)
class World:
    """`sizes` gives the number of elements per declared sort, `consts` the element that each constant names."""

    sizes: dict[str, int]
    consts: dict[str, int]


def size_of(system: System, world: World, sort: str) -> int:
    """The number of values that a sort has in this world."""
    if sort == BOOL:
        return 2
    return len(system.enums[sort]) if sort in system.enums else world.sizes[sort]


def elements(system: System, world: World, sort: str) -> list[str]:
    """The names of a sort's values: enum members, the constants that name an element, or `frame0`, `frame1`, ..."""
    if sort == BOOL:
        return ["false", "true"]
    if sort in system.enums:
        return list(system.enums[sort])
    names = [f"{sort.lower()}{k}" for k in range(world.sizes[sort])]
    for const, sort_ in system.consts.items():
        if sort_ == sort and const in world.consts:
            names[world.consts[const]] = const
    return names


def table_sizes(system: System, world: World) -> list[int]:
    """The number of entries of each state table."""
    out = []
    for func in system.funcs.values():
        n = 1
        for arg in func.args:
            n *= size_of(system, world, arg)
        out.append(n)
    return out


def index_names(system: System, world: World, func: str, index: int) -> list[str]:
    """The names of the arguments at a flat index of a table."""
    names: list[str] = []
    for arg in reversed(system.funcs[func].args):
        n = size_of(system, world, arg)
        names.append(elements(system, world, arg)[index % n])
        index //= n
    return names[::-1]


def place(func: str, args: list[str]) -> str:
    """A place of the state in the notation of the language: `entry[dom0, ref1].kind`."""
    head, dot, tail = func.partition(".")
    return f"{head}[{', '.join(args)}]{dot}{tail}" if args else func


def changes(system: System, world: World, before: State, after: State) -> dict[str, tuple[str, str]]:
    """The differences between two states: place -> (old value, new value), with ghost state."""
    out = {}
    for k, func in enumerate(system.funcs.values()):
        names = elements(system, world, func.sort)
        for i, (a, b) in enumerate(zip(before[k], after[k], strict=True)):
            if a != b:
                out[place(func.name, index_names(system, world, func.name, i))] = (names[a], names[b])
    return out
