"""The finite world of the comparison: the number of elements of each sort, and the initial rule state of a campaign.

Domain ids 0 to 3 are elements; the last element represents every other number, which never names a domain. The last
frame represents every frame number that is not a page a guest can own; it is never scrubbed, so it is never allocated.
Unreferenced ghost elements (lives, epochs) are reused: the rules cannot distinguish them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from bulkhead.model import loader
from bulkhead.model.caller import Caller
from bulkhead.model.executable import ExecutableModel
from bulkhead.model.ir import System
from bulkhead.model.world import State, World
from bulkhead.proofs.refinement.lockstep.claims import StateClaims, StepClaims, with_bytes

SYSTEM = str(Path(__file__).parent / "compared.rules")
NOBODY = 4
# Address spaces of Dom0: the toolstack, a user process, a child of it, and the kernel's own windows.
TOOLS, USER, CHILD, KERNEL = 0, 4, 5, 6


@dataclass(frozen=True)
class Size:
    """The size of a campaign's world. `refs` are the reference numbers of the elements of Ref."""

    guests: int = 3
    heap: int = 60  # frames that guests, their tables and the hypervisor share
    dom0_frames: int = 14
    refs: tuple[int, ...] = (
        0,
        1,
        8,
        9,
        10,
        512,
        1536,
    )  # the last two: the first ones behind a table of one frame, and of three
    calls: int = 10
    translations: int = 84
    handles: int = 44
    lives: int = 10
    files: int = 10
    maps: int = 24
    ports: int = 5

    @property
    def frames(self) -> int:
        return self.heap + self.dom0_frames + 1

    @property
    def nowhere(self) -> int:
        return self.frames - 1

    @property
    def first_dom0_frame(self) -> int:
        """The first element for pages of Dom0."""
        return self.heap

    @property
    def nobody(self) -> int:
        """The element of every number that is no domain's."""
        return NOBODY


SMALL = Size(
    guests=2, heap=20, dom0_frames=1, refs=(0, 1, 8, 5000), calls=2, translations=10, handles=6, lives=6, files=3, maps=2
)


class Rules:
    """The rules of the system, compiled for one world."""

    def __init__(self, size: Size) -> None:
        self._compile(
            size,
            loader.load(SYSTEM),
            {
                "Domain": NOBODY + 1,
                "Life": size.lives,
                "Frame": size.frames,
                "Epoch": 2 * size.frames,
                "Space": KERNEL + 1,
                "Translation": size.translations,
                "Ref": len(size.refs),
                "Handle": size.handles,
                "Call": size.calls,
                "File": size.files,
                "Map": size.maps,
                "Port": size.ports,
            },
            {"dom0": 0, "gref_console": 0, "gref_xenstore": 1},
        )

    def _compile(self, size: Size, system: System, elements: dict[str, int], constants: dict[str, int]) -> None:
        """Compile a system for a world with so many elements of each sort, else one, and these constants."""
        self.size, self.system = size, system
        world = World({**dict.fromkeys(system.sorts, 1), **elements}, constants)
        self.machine = ExecutableModel(self.system, world)
        self.caller = Caller(self.machine)
        self.number = {name: k for k, name in enumerate(self.system.funcs)}
        self.members = {sort: {m: i for i, m in enumerate(ms)} for sort, ms in self.system.enums.items()}
        self.nrefs = len(size.refs)
        self._compiled: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {}
        self.state_claims = StateClaims(self.machine)
        self.step_claims = StepClaims(self.machine)
        self.outcomes = tuple(outcomes(self.system))

    def __reduce__(self) -> tuple[Callable[..., Rules], tuple[object, ...]]:
        """Rules are compiled once in each process and never copied."""
        return rules_for, (self.size,)

    def step(self, label: str) -> tuple[Callable[..., Any], tuple[str, ...]]:
        """A rule step as a function of the state, its arguments, all given values, random numbers (none), a code to fail
        with, and a log of what it assigns; with the names of its arguments."""
        made = self._compiled.get(label)
        if made is None:
            made = self._compiled[label] = self.caller.compiled_call(label)
        return made

    @functools.cached_property
    def _first(self) -> State:
        return with_bytes(self.initial())

    def start(self) -> State:
        """A fresh initial state."""
        return cast(State, [table[:] for table in self._first])

    def initial(self) -> State:
        """Dom0 alone, with a toolstack process and its kernel; the heap is empty of guests."""
        state = self.machine.empty_state()
        size = self.size

        def put(func: str, index: int, value: int) -> None:
            state[self.number[func]][index] = value

        use = self.members["Use"]
        phase = self.members["Phase"]
        put("domain.phase", 0, phase["running"])
        put("service", 0, 1)
        put("privileged", 0, 1)
        put("spent", 0, 1)
        put("past", 0, 1)
        for d in range(1, NOBODY + 1):
            put("domain.phase", d, phase["absent"])
        for a in range(NOBODY + 1):
            for b in range(NOBODY + 1):
                put("xsm_grant", a * (NOBODY + 1) + b, 1)
                put("xsm_event", a * (NOBODY + 1) + b, 1)
        for space in range(KERNEL + 1):
            put("space_of", space, space if 0 < space < USER else 0)
        for space in (TOOLS, KERNEL):
            put("process.phase", space, self.members["ProcessPhase"]["process_runs"])
        put("process.root", TOOLS, 1)
        for r, number in enumerate(size.refs):
            put("fits", 2 * r, int(number < 512))
            put("fits", 2 * r + 1, int(number < 256))
        for f in range(size.frames):
            put("frame.use", f, use["free"])
        for f in range(size.heap, size.heap + size.dom0_frames):
            put("frame.use", f, use["ram"])
            put("frame.held", f, 1)
        return state


@functools.lru_cache(maxsize=2)
def rules_for(size: Size) -> Rules:
    """The rules compiled for a size, once."""
    return Rules(size)


def outcomes(system: System) -> list[str]:
    """All (rule, outcome) pairs, as `step: code`."""
    out: dict[str, None] = {}
    for step in system.steps:
        out[f"{step.label}: okay"] = None
        for check in step.checks:
            if check.code:
                out[f"{step.label}: {check.code}"] = None
    return list(out)
