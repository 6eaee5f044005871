"""Shrinks a differing trace by new boots.

Contents: the calls that may be removed together (a guest's calls with the guest), and the search: smaller and smaller parts
are removed while the last call's answers still differ in the same way. A candidate is first tried on the implementation,
without a boot: if its answer has changed, the difference has disappeared. Not here: the form of a
difference.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from tests.xen.compare import Difference
from tests.xen.protocol import Call

GUEST: Final = re.compile(r"(?<![A-Za-z0-9_$])([A-Z])(?![A-Za-z0-9_])")


def named(call: Call) -> set[str]:
    """The guests that a call names."""
    texts = [str(value) for key, value in call.args.items() if key != "o"] + [call.show]  # `o` has kinds of its own
    return {name for text in texts for name in GUEST.findall(text)}


def closed(calls: Sequence[Call]) -> list[Call]:
    """The possible calls: those that name only existing guests."""
    alive: set[str] = set()
    out = []
    for call in calls:
        names = named(call)
        if call.op == "mkdom":
            if names & alive:
                continue
            alive |= names
        elif not names <= alive:
            continue
        if call.op == "rmdom":
            alive -= names
        out.append(call)
    return out


@dataclass
class Shrunk:
    """The result: the remaining calls, their difference, and the number of boots."""

    calls: list[Call]
    difference: Difference
    boots: int = 0


def shrink(
    calls: Sequence[Call],
    found: Difference,
    ours: Callable[[Sequence[Call]], object],
    differs: Callable[[Sequence[Call]], Difference | None],
    boots: int,
) -> Shrunk:
    """Remove all unneeded calls of `calls`, whose last one has the difference `found`.

    `ours` gives the implementation's answer to the last call of a candidate, `differs` boots and compares. At most
    `boots` boots; the remaining trace always still differs.
    """
    best = Shrunk(list(calls), found)
    last = calls[-1]
    answer = ours(best.calls)
    part = max(1, (len(best.calls) - 1) // 2)
    while True:
        changed = False
        start = 0
        while start < len(best.calls) - 1:
            candidate = closed([*best.calls[:start], *best.calls[min(start + part, len(best.calls) - 1) :]])
            if candidate and candidate[-1] is last and len(candidate) < len(best.calls) and ours(candidate) == answer:
                if best.boots >= boots:
                    return best
                best.boots += 1
                difference = differs(candidate)
                if difference is not None and difference.kind == found.kind and difference.number == len(candidate) - 1:
                    best.calls, best.difference, changed = candidate, difference, True
                    continue
            start += part
        if part == 1 and not changed:
            return best
        part = max(1, part // 2) if not changed or part > 1 else 1
