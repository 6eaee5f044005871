"""The finite world for the comparison of DomB: its elements, the compiled rules, and the initial rule state.

Domain 0 is Dom0, 1 is DomB, 2 to 6 are guests, the last is every other number. Frames are DomB's own pages and the heap
behind them. Not here: the rule state of a run (book.py), and the implementation (rig.py).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bulkhead.impl.xen import abi
from bulkhead.model import loader
from bulkhead.model.ir import System
from bulkhead.model.world import State
from bulkhead.proofs.refinement.lockstep import spec_world

SYSTEM: Final = str(Path(__file__).parent / "compared.rules")
DOM0, DOMB, FIRST_GUEST, NOBODY = 0, 1, 2, 7
KERNEL, DOMB_SPACE, FIRST_PROCESS = 0, 1, 7
KERNEL_FILE: Final = 0
NODE_QUOTA, WATCH_QUOTA = 6, 4  # of a guest, in XenStore; small, so that they are reached


@dataclass(frozen=True)
class Size(spec_world.Size):
    """The size of a world. `refs` are the reference numbers of the elements of Ref. Each of the `users` is a process of Dom0
    that is no tool and no daemon (users.py); one more is the first process, which they come from."""

    guests: int = NOBODY - FIRST_GUEST
    domb_pages: int = 57
    heap: int = 330
    dom0_frames: int = 20
    refs: tuple[int, ...] = (0, 1, *range(8, 48), 5000)
    calls: int = 9
    processes: int = 8
    users: int = 3
    translations: int = 190
    handles: int = 120
    lives: int = 14
    files: int = 28
    maps: int = 114
    ports: int = 36
    buffers: int = 120
    pieces: int = 250
    numbers: int = 8
    nodes: int = 110
    visits: int = 24
    watches: int = 20

    @property
    def frames(self) -> int:
        """DomB's frames, the heap's, some of Dom0's, and one for every other frame number."""
        return self.domb_pages + self.heap + self.dom0_frames + 1

    @property
    def first_dom0_frame(self) -> int:
        return self.domb_pages + self.heap

    @property
    def nobody(self) -> int:
        return NOBODY

    @property
    def spaces(self) -> int:
        """Elements of Space: kernels, guests, tools and daemons, the first process and the users."""
        return FIRST_PROCESS + self.processes + 1 + self.users

    @property
    def first_process(self) -> int:
        """The process that never ends, from which the users come."""
        return FIRST_PROCESS + self.processes


class Rules(spec_world.Rules):
    """The rules of the system, compiled for one world."""

    size: Size

    def __init__(self, size: Size, faults: tuple[str, ...] = (), system: System | None = None) -> None:
        """`faults`: of the rules, laid over them. `system`: other rules than those of the comparison."""
        self.made_of = size, faults, system
        self._compile(
            size,
            loader.load(SYSTEM, faults) if system is None else system,
            {
                "Domain": NOBODY + 1,
                "Life": size.lives,
                "Frame": size.frames,
                "Epoch": 2 * size.frames,
                "Space": size.spaces,
                "Translation": size.translations,
                "Ref": len(size.refs),
                "Handle": size.handles,
                "Call": size.calls,
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

    def __reduce__(self) -> tuple[type[Rules], tuple[object, ...]]:
        return Rules, self.made_of

    def initial(self) -> State:
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
        for space in range(size.spaces):
            put("space_of", space, space if DOMB <= space < FIRST_PROCESS else DOM0)
        for space in (KERNEL, size.first_process):
            put("process.phase", space, self.members["ProcessPhase"]["process_runs"])
        put("process.root", size.first_process, 1)
        for d in (DOM0, DOMB):
            for r, number in enumerate(size.refs):
                for v in (0, 1):
                    put("fits", (d * len(size.refs) + r) * 2 + v, int(number < 2048))
        for r, number in enumerate(size.refs):
            put("first_frame", 2 * r, int(number < abi.ENTRIES_V1))
            put("first_frame", 2 * r + 1, int(number < abi.ENTRIES_V2))
        for f in range(size.frames):
            put("frame.use", f, use["free"])
        for f in range(size.domb_pages):
            put("frame.use", f, use["ram"])
            put("frame.owner", f, DOMB)
            put("frame.held", f, 1)
            put("frame.secret", f, 1)
        for f in range(size.first_dom0_frame, size.first_dom0_frame + size.dom0_frames):
            put("frame.use", f, use["ram"])
            put("frame.held", f, 1)
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
