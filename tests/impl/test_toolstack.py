"""Ranges of ports and frames: the same as plain sets of numbers, and kept as few ranges as there can be."""

from __future__ import annotations

import random

from bulkhead.impl.xen.toolstack import Ranges

TOP = 24


def test_ranges_are_sets_of_numbers() -> None:
    rng = random.Random(5)
    for _ in range(200):
        ranges, numbers = Ranges(), set[int]()
        for _ in range(12):
            first = rng.randrange(TOP)
            last = rng.randrange(first, TOP)
            if rng.random() < 0.6:
                ranges.add(first, last)
                numbers |= set(range(first, last + 1))
            else:
                ranges.remove(first, last)
                numbers -= set(range(first, last + 1))
            assert {n for a, b in ranges.parts for n in range(a, b + 1)} == numbers
            assert all(a[1] + 1 < b[0] for a, b in zip(ranges.parts, ranges.parts[1:], strict=False))
            for _ in range(4):
                low = rng.randrange(TOP)
                high = rng.randrange(low, TOP)
                assert ranges.has(low, high) == (set(range(low, high + 1)) <= numbers)
