"""The same rules for Spin: how many states it stores, and how many a second. For the benchmark, and for a test of counts.

The small grant rules are written out here by hand, step by step, for given sizes; two-phase commit stands in
`tests/examples/promela/`. Each step is one `d_step`, searched breadth first without reduction, so that Spin stores exactly
the states between steps. Nothing is made from the rules: a fault in how they are read would show as another number.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

from tests.oracles.spin import Stored, find, searched

TWO_PHASE = Path(__file__).resolve().parent.parent / "examples" / "promela" / "two_phase_commit.pml"


def available() -> bool:
    """Are Spin and a C compiler there?"""
    return not find()


def verified(model: str, *defines: str) -> Stored:
    """All states of a Promela model. Raises where Spin finds an error or stops early."""
    stored = searched(model, *defines, optimise=True)
    if stored.steps:
        raise RuntimeError(f"spin: an assertion is violated after {stored.steps} steps")
    return stored


def two_phase_commit(managers: int) -> Stored:
    """Two-phase commit with so many managers."""
    return verified(TWO_PHASE.read_text(encoding="utf-8"), f"N={managers}")


def grants(domains: int, frames: int, refs: int, processes: int) -> Stored:
    """The small grant rules (`gt.rules`) with so many things of each kind."""
    steps = "\n".join(
        f"    :: d_step {{ {guard} -> {effect} }}" for guard, effect in _steps(domains, frames, refs, processes)
    )
    return verified(
        f"bool alive[{domains}]; bool paused[{domains}]; bool built[{domains}];\n"
        f"bool owns[{frames * domains}]; bool foreign[{frames}];\n"
        f"bool grants[{domains * refs * domains * frames}]; bool readonly[{domains * refs}];\n"
        f"bool maps[{processes * domains * refs * frames}]; bool writes[{processes * domains * refs * frames}];\n"
        f"active proctype system() {{\nend: do\n{steps}\n    od }}\n"
    )


def _steps(domains: int, frames: int, refs: int, processes: int) -> Iterator[tuple[str, str]]:
    """Every step with every choice of arguments: when it can be taken, and what it does. Domain 0 is Dom0."""
    all_d, all_f, all_r, all_p = range(domains), range(frames), range(refs), range(processes)

    def owns(f: int, d: int) -> str:
        return f"owns[{f * domains + d}]"

    def grant(d: int, r: int, e: int, f: int) -> str:
        return f"grants[{((d * refs + r) * domains + e) * frames + f}]"

    def mapped(p: int, d: int, r: int, f: int, what: str = "maps") -> str:
        return f"{what}[{((p * domains + d) * refs + r) * frames + f}]"

    def both(*parts: str) -> str:
        return " && ".join(parts) or "true"

    def clear(*places: str) -> str:
        return "; ".join(f"{p} = false" for p in places) or "skip"

    for d in all_d:
        quiet = [f"!({owns(f, d)} && foreign[{f}])" for f in all_f]
        alive = f"alive[{d}]" if d else "true"  # Dom0 is alive at the start, and nothing ends it
        yield both(f"{alive} && built[{d}]", *quiet), clear(f"paused[{d}]", f"built[{d}]")
        if d:
            yield f"!{alive}", f"{alive} = true; paused[{d}] = true; built[{d}] = true"
            yield f"{alive} && !built[{d}]", f"paused[{d}] = true"
            unmapped = [
                f"!({owns(f, d)} && {mapped(p, x, r, f)})" for f, p, x, r in itertools.product(all_f, all_p, all_d, all_r)
            ]
            gone = [alive, f"paused[{d}]", f"built[{d}]", *(owns(f, d) for f in all_f)]
            gone += [grant(d, r, e, f) for r, e, f in itertools.product(all_r, all_d, all_f)]
            yield both(alive, *quiet, *unmapped), clear(*gone)
        yield f"{alive} && !built[{d}]", f"paused[{d}] = false"
        for f in all_f:
            yield both(f"{alive} && !foreign[{f}]", *(f"!{owns(f, x)}" for x in all_d)), f"{owns(f, d)} = true"
            yield f"{owns(f, d)} && paused[{d}] && built[{d}]", f"foreign[{f}] = true"
        for r in all_r:
            free = [f"!{grant(d, r, x, g)}" for x, g in itertools.product(all_d, all_f)]
            for e, f, ro in itertools.product(all_d, all_f, ("true", "false")):
                guard = both(f"{alive} && !paused[{d}] && {owns(f, d)}", *free)
                yield guard, f"{grant(d, r, e, f)} = true; readonly[{d * refs + r}] = {ro}"
            yield (
                both(*(f"!{mapped(p, d, r, f)}" for p, f in itertools.product(all_p, all_f))),
                clear(*(grant(d, r, e, f) for e, f in itertools.product(all_d, all_f))),
            )
            for p, f in itertools.product(all_p, all_f):
                place, write = mapped(p, d, r, f), mapped(p, d, r, f, "writes")
                granted = f"{alive} && {grant(d, r, 0, f)}"
                yield granted, f"{place} = true"
                yield f"{granted} && !readonly[{d * refs + r}]", f"{place} = true; {write} = true"
                yield place, clear(place, write)
    for f in all_f:
        yield f"foreign[{f}]", clear(f"foreign[{f}]")


__all__ = ["Stored", "available", "grants", "two_phase_commit", "verified"]
