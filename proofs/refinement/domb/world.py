"""The finite world for the comparison of DomB: its elements, the compiled rules, and the initial rule state.

Domain 0 is Dom0, 1 is DomB, 2 to 6 are guests, the last is every other number. Frames are DomB's own pages and the heap
behind them. Not here: the rule state of a run (book.py), and the implementation (rig.py).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bulkhead.model import loader
from bulkhead.model.caller import Caller
from bulkhead.model.executable import ExecutableModel
from bulkhead.model.ir import System
from bulkhead.model.world import State, World
from bulkhead.proofs.refinement.lockstep.claims import StateClaims, StepClaims
from bulkhead.proofs.refinement.lockstep.spec_world import outcomes

SYSTEM: Final = str(Path(__file__).parent / "compared.rules")
DOM0, DOMB, FIRST_GUEST, NOBODY = 0, 1, 2, 7
KERNEL, DOMB_SPACE, FIRST_PROCESS = 0, 1, 7
KERNEL_FILE: Final = 0
NODE_QUOTA, WATCH_QUOTA = 6, 4  # of a guest, in XenStore; small, so that they are reached


@dataclass(frozen=True)
class Size:
    """The size of a world. `refs` are the reference numbers of the elements of Ref."""

    domb_pages: int = 57
    heap: int = 330
    refs: tuple[int, ...] = (0, 1, *range(8, 48), 5000)
    processes: int = 8
    translations: int = 150
    handles: int = 96
    lives: int = 14
    files: int = 22
    maps: int = 90
    ports: int = 30
    buffers: int = 120
    pieces: int = 250
    numbers: int = 8
    nodes: int = 110
    visits: int = 24
    watches: int = 20

    @property
    def frames(self) -> int:
        """DomB's frames, the heap's, and one for every other frame number."""
        return self.domb_pages + self.heap + 1


class Rules:
    """The rules of the system, compiled for one world."""

    def __init__(self, size: Size, faults: tuple[str, ...] = (), system: System | None = None) -> None:
        """`faults`: of the rules, laid over them. `system`: other rules than those of the comparison."""
        self.size = size
        self.system: System = loader.load(SYSTEM, faults) if system is None else system
        world = World(
            {
                **dict.fromkeys(self.system.sorts, 1),
                "Domain": NOBODY + 1,
                "Life": size.lives,
                "Frame": size.frames,
                "Epoch": 2 * size.frames,
                "Space": FIRST_PROCESS + size.processes,
                "Translation": size.translations,
                "Ref": len(size.refs),
                "Handle": size.handles,
                "Call": 1,
                "File": size.files,
                "Map": size.maps,
                "Port": size.ports,
                "Buffer": size.buffers,
                "Bytes": size.pieces,
                "Number": size.numbers,
                "Turn": 3,
                "FileName": 2,
                "Node": size.nodes,
                "Visit": size.visits,
                "Watch": size.watches,
            },
            {"dom0": DOM0, "domb": DOMB, "domb_space": DOMB_SPACE, "gref_console": 0, "gref_xenstore": 1, "root": 0},
        )
        self.machine = ExecutableModel(self.system, world)
        self.caller = Caller(self.machine)
        self.number = {name: k for k, name in enumerate(self.system.funcs)}
        self.members = {sort: {m: i for i, m in enumerate(ms)} for sort, ms in self.system.enums.items()}
        self._compiled: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {}
        self.state_claims = StateClaims(self.machine)
        self.step_claims = StepClaims(self.machine)
        self.outcomes = tuple(outcomes(self.system))

    def step(self, label: str) -> tuple[Callable[..., Any], tuple[str, ...]]:
        """A rule step as a function of the state, its arguments, all given values, and a code to fail with."""
        made = self._compiled.get(label)
        if made is None:
            step = self.caller.steps[label]
            names = tuple(p.name for p in step.params) + (("this",) if step.after else ())
            made = self._compiled[label] = (self.caller._compiled_call(step), names)
        return made

    def start(self, dom0_ports: dict[int, int]) -> State:
        """Dom0 and DomB run, Dom0's kernel has its grant device open; there is no guest, no process, no channel."""
        state = self.machine.empty_state()
        size = self.size

        def put(func: str, index: int, value: int) -> None:
            state[self.number[func]][index] = value

        phase, use = self.members["Phase"], self.members["Use"]
        for d in range(NOBODY + 1):
            put("domain.phase", d, phase["running"] if d <= DOMB else phase["absent"])
        put("domain.life", DOMB, 1)
        for d in (DOM0, DOMB):
            put("service", d, 1)
            put("spent", d, 1)
        put("privileged", DOMB, 1)
        put("domb_up", 0, 1)
        put("past", 0, 1)
        for pair in range((NOBODY + 1) ** 2):
            put("xsm_grant", pair, 1)
            put("xsm_event", pair, 1)
        for space in range(FIRST_PROCESS + size.processes):
            put("space_of", space, space if DOMB <= space < FIRST_PROCESS else DOM0)
        put("process.phase", KERNEL, self.members["ProcessPhase"]["process_runs"])
        for d in (DOM0, DOMB):
            for r, number in enumerate(size.refs):
                for v in (0, 1):
                    put("fits", (d * len(size.refs) + r) * 2 + v, int(number < 2048))
        for f in range(size.frames):
            put("frame.use", f, use["free"])
        for f in range(size.domb_pages):
            put("frame.use", f, use["ram"])
            put("frame.owner", f, DOMB)
            put("frame.held", f, 1)
            put("frame.secret", f, 1)
        put("exported", 0, 1)
        put("node.exists", 0, 1)
        for n in range(size.nodes):
            put("below", n * size.nodes + n, 1)
            put("below", n * size.nodes, 1)
        for e in range(size.pieces):
            put("acceptable", e, 1)
        return state


@functools.lru_cache(maxsize=2)
def rules_for(size: Size) -> Rules:
    """The rules compiled for a size, once."""
    return Rules(size)
