"""The same rules for TLC: how many states it finds, and how many a second. For the benchmark, and for a test of counts.

The small grant rules are `Grants.tla`, written by hand beside `gt.rules`; two-phase commit stands in `tests/examples/tla/`.
One worker, and no states taken for the same that differ only by a renaming.
"""

from __future__ import annotations

from pathlib import Path

from tests.oracles.tlc import Searched, find, searched

GRANTS = Path(__file__).with_name("Grants.tla")
TWO_PHASE = Path(__file__).resolve().parent.parent / "examples" / "tla" / "TwoPhaseCommit.tla"


def available() -> bool:
    """Are Java and TLC's jar there?"""
    return not find()[1]


def two_phase_commit(managers: int) -> Searched:
    """Two-phase commit with so many managers."""
    return searched(find()[0], TWO_PHASE, {"Manager": _set("m", managers), "Fault": '"none"'}, ["all_or_nothing"])


def grants(domains: int, frames: int, refs: int, processes: int, fault: str = "none") -> Searched:
    """The small grant rules with so many things of each kind. Domain 0 is Dom0."""
    constants = {
        "Domain": _set("d", domains),
        "Frame": _set("f", frames),
        "Ref": _set("r", refs),
        "Process": _set("p", processes),
        "Root": "d0",
        "Fault": f'"{fault}"',
    }
    return searched(find()[0], GRANTS, constants, ["cover"])


def _set(letter: str, size: int) -> str:
    return "{" + ", ".join(f"{letter}{k}" for k in range(size)) + "}"


__all__ = ["available", "grants", "two_phase_commit"]
