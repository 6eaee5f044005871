"""Reads toolstack.rows: plausible and bad arguments of the control interfaces, one call per line, each safe on real Xen.

Contents: the rows as written (corners), and new ones made of the values that rows of the same command have at the same
places (campaigns). Not here: the calls themselves.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROWS: Final = Path(__file__).with_name("toolstack.rows")


@dataclass(frozen=True)
class Row:
    """One call: its command, the domains that it is made for (domctl), its words, and what is read of the answer."""

    command: int
    domains: tuple[str, ...]
    words: str
    reads: str


def rows(interface: str) -> tuple[Row, ...]:
    """Each call of an interface, in the order of the file."""
    found, mine, command, reads = [], False, 0, ""
    names: tuple[str, ...] = ()
    for line in ROWS.read_text().splitlines():
        if line.startswith("#"):
            continue
        if not line.startswith(" "):
            head, _, told = line.partition(" -> ")
            which, number, *domains = head.split()
            mine, command, names, reads = which == interface, int(number), tuple(domains), "" if told == "-" else told
        elif mine:
            words = line.strip()
            found.append(Row(command, names, "" if words == "-" else words, reads))
    return tuple(found)


def values(known: tuple[Row, ...], command: int) -> dict[str, tuple[str, ...]]:
    """What rows of a command have at each place, such as `16:4`."""
    found: dict[str, list[str]] = {}
    for row in known:
        for word in row.words.split(",") if row.command == command and row.words else ():
            offset, size, value = word.split(":")[:3]
            found.setdefault(f"{offset}:{size}", []).append(value)
    return {place: tuple(dict.fromkeys(each)) for place, each in found.items()}


def mixed(rng: random.Random, row: Row, at: dict[str, tuple[str, ...]], change: float = 0.3) -> str:
    """A row's words, some of them replaced by what another row of its command has there, or left out."""
    out = []
    for word in row.words.split(",") if row.words else ():
        offset, size, value, *repeat = word.split(":")
        if rng.random() < change:
            value = rng.choice(at[f"{offset}:{size}"])
        if rng.random() >= change / 6:
            out.append(":".join((offset, size, value, *repeat)))
    return ",".join(out)
