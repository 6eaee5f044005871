"""The families of calls in a run, and its start and end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from tests.xen.protocol import Call
from tests.xen.workload import (
    areas,
    crossing,
    devices,
    domains,
    events,
    files,
    grants,
    limits,
    machine,
    memory,
    mmu,
    pvh,
    reach,
    toolstack,
    version2,
)
from tests.xen.workload.script import PVH, REFS, Script

Steps = Sequence[tuple[int, Callable[[Script], None]]]
FAMILIES: Final[dict[str, Steps]] = {
    "grants": grants.STEPS,
    "events": events.STEPS,
    "mmu": mmu.STEPS,
    "memory": memory.STEPS,
    "domains": domains.STEPS,
    "devices": devices.STEPS,
    "version2": version2.STEPS,
    "crossing": crossing.STEPS,
    "machine": machine.STEPS,
    "areas": areas.STEPS,
    "limits": limits.STEPS,
    "toolstack": toolstack.STEPS,
    "files": files.STEPS,
    "pvh": pvh.STEPS,
    "reach": reach.STEPS,
}
WEIGHTS: Final = {
    "grants": 34,
    "events": 12,
    "mmu": 16,
    "memory": 10,
    "domains": 4,
    "devices": 24,
    "version2": 10,
    "crossing": 6,
    "machine": 10,
    "areas": 10,
    "limits": 3,
    "toolstack": 8,
    "files": 3,
    "pvh": 30,
    "reach": 14,
}
AGENTS: Final = ("A", "B", "C")
TRANSLATED: Final = ("H", "K", *PVH)


def script(seed: int, episode: int, ops: int, families: Sequence[str] = tuple(FAMILIES)) -> list[Call]:
    """About `ops` calls; the same for the same seed, episode and families."""
    s = Script(seed, episode)
    s.note = "start"
    for name in AGENTS:
        s.make(name)
    for name in TRANSLATED:
        s.make(name, translated=True)
    weights = [WEIGHTS[name] for name in families]
    while len(s.calls) < ops:
        name = s.rng.choices(families, weights)[0]
        s.note = name
        steps = FAMILIES[name]
        s.rng.choices([step for _, step in steps], [weight for weight, _ in steps])[0](s)
    s.note = "end"
    for name in (*AGENTS, *TRANSLATED):
        s.remove(name)
        for other in (*s.agents, *s.translated):
            s.do("show", "+".join(f"{other}:{ref}" for ref in REFS))
    return s.calls
