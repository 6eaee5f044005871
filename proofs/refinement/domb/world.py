"""The finite world for the comparison of DomB: its elements, the initial rule state, and the mapping of objects to elements.

Domain 0 is Dom0, 1 is DomB, 2 to 6 are guests, the last is every other number. Frames are DomB's own pages and the heap
behind them. Ghost elements (lives, epochs, turns) are reused when nothing refers to them any more. Not
here: the implementation (rig.py) and the steps (follow.py).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bulkhead.model import loader
from bulkhead.model.caller import OKAY, Caller
from bulkhead.model.executable import ExecutableModel
from bulkhead.model.ir import System
from bulkhead.model.world import State, World
from bulkhead.proofs.refinement.lockstep.claims import StateClaims, StepClaims
from bulkhead.proofs.refinement.lockstep.spec_state import ANY, Mismatch
from bulkhead.proofs.refinement.lockstep.spec_world import outcomes

SYSTEM: Final = str(Path(__file__).parent / "compared.rules")
DOM0, DOMB, FIRST_GUEST, NOBODY = 0, 1, 2, 7
KERNEL, DOMB_SPACE, FIRST_PROCESS = 0, 1, 7
KERNEL_FILE: Final = 0


@dataclass(frozen=True)
class Size:
    """The size of a world. `refs` are the reference numbers of the elements of Ref."""

    domb_pages: int = 57
    heap: int = 330
    refs: tuple[int, ...] = (0, 1, *range(8, 48), 5000)
    processes: int = 5
    translations: int = 110
    handles: int = 96
    lives: int = 10
    files: int = 12
    maps: int = 90
    ports: int = 24
    buffers: int = 120
    pieces: int = 250
    numbers: int = 8

    @property
    def frames(self) -> int:
        """DomB's frames, the heap's, and one for every other frame number."""
        return self.domb_pages + self.heap + 1


class Rules:
    """The rules of the system, compiled for one world."""

    def __init__(self, size: Size) -> None:
        self.size = size
        self.system: System = loader.load(SYSTEM)
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
            },
            {"dom0": DOM0, "domb": DOMB, "domb_space": DOMB_SPACE, "gref_console": 0, "gref_xenstore": 1},
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
        for e in range(size.pieces):
            put("acceptable", e, 1)
        return state


@functools.lru_cache(maxsize=2)
def rules_for(size: Size) -> Rules:
    """The rules compiled for a size, once."""
    return Rules(size)


class Book:
    """The rule state that runs beside the implementation, and the bindings of its elements."""

    def __init__(self, rules: Rules, domb_mfns: list[int], first_mfn: int) -> None:
        self.rules = rules
        self.size = rules.size
        self.state = rules.start({})
        self.T: dict[str, list[int]] = {name: self.state[k] for name, k in rules.number.items()}
        self.m = rules.members
        self.frames = {mfn: i for i, mfn in enumerate(domb_mfns)}
        self.frames |= {first_mfn + i: len(domb_mfns) + i for i in range(self.size.heap)}
        self.mfns = {f: mfn for mfn, f in self.frames.items()}
        self.refs = {number: i for i, number in enumerate(self.size.refs)}
        self.reached: dict[str, int] = {}
        self.steps = 0
        self.pieces = 0
        self.step("open_gntdev", {"p": KERNEL, "x_x": KERNEL_FILE})

    # Elements.

    def domain(self, domid: int) -> int:
        """The element of a domain id."""
        return domid if 0 <= domid < NOBODY else NOBODY

    def frame(self, mfn: int) -> int:
        """The element of a frame number."""
        return self.frames.get(mfn, self.size.frames - 1)

    def ref(self, number: int) -> int:
        """The element of a reference."""
        return self.refs.get(number, len(self.size.refs) - 1)

    def free(self, *funcs: str, other: int = -1) -> int:
        """The first element for which none of the facts holds."""
        for i, values in enumerate(zip(*(self.T[f] for f in funcs), strict=True)):
            if i != other and not any(values):
                return i
        raise Mismatch(f"the world has too few elements for {funcs[0]}")

    def free_translation(self, other: int = -1) -> int:
        """An unused translation."""
        return self.free("translation.present", "translation.cached", other=other)

    def free_epoch(self) -> int:
        """A fresh allocation; unreferenced old ones are reused."""
        T = self.T
        if all(T["past"]):
            keep = {T["frame.epoch"][f] for f in range(self.size.frames) if T["frame.use"][f] == self.m["Use"]["ram"]}
            keep |= {
                T["translation.epoch"][t]
                for t in range(self.size.translations)
                if T["translation.present"][t] or T["translation.cached"][t]
            }
            for e in range(len(T["past"])):
                T["past"][e] = int(e in keep)
        return T["past"].index(0)

    def free_life(self) -> int:
        """A fresh life; unreferenced old ones are reused, without offers."""
        T = self.T
        if all(T["spent"]):
            for f in range(self.size.frames):
                if T["frame.use"][f] == self.m["Use"]["unscrubbed"]:
                    self.step("scrub_page", {"f": f})
            absent = self.m["Phase"]["absent"]
            keep = {T["domain.life"][d] for d in range(NOBODY) if T["domain.phase"][d] != absent}
            keep |= {T["built.life"][d] for d in range(NOBODY) if T["built.known"][d]}
            keep |= {
                T["mapping.granter_life"][h]
                for h in range(self.size.handles)
                if T["mapping.host"][h] or T["mapping.device"][h]
            }
            keep |= {T["frame.secret"][f] for f in range(self.size.frames) if T["frame.content"][f] == 1}
            for f in range(self.size.frames):
                if T["placed.life"][f] not in keep:
                    T["placed.what"][f] = 0
            for life in range(len(T["spent"])):
                if life not in keep:
                    T["spent"][life] = 0
                    for name in ("offered", "offered_rw", "invited"):
                        block = len(T[name]) // self.size.lives
                        T[name][life * block : (life + 1) * block] = [0] * block
                    for f in range(self.size.frames):
                        T["remains"][f * self.size.lives + life] = 0
        return T["spent"].index(0)

    def free_turn(self) -> int:
        """A fresh turn; there is one build at a time."""
        T = self.T
        if all(T["turns_past"]):
            for turn in range(len(T["turns_past"])):
                T["turns_past"][turn] = int(turn == T["turn"][0])
        return T["turns_past"].index(0)

    def piece(self, good: bool) -> int:
        """An element for newly read bytes; one build never needs more than half of them."""
        e = self.pieces = (self.pieces + 1) % self.size.pieces
        self.T["acceptable"][e] = int(good)
        return e

    # Steps.

    def try_step(self, label: str, args: dict[str, int], fail: str | None = None) -> str | None:
        """Take a rule step and check all claims about steps; its code, or None if it is not enabled."""
        made, names = self.rules.step(label)
        before = self.rules.step_claims.before(self.state, label)
        code: str | None = made(self.state, *[args[n] for n in names], args, None, fail)[0]
        self.steps += 1
        if code is not None:
            self.count(label, code)
            broken = self.rules.step_claims.broken(before, self.state, label, code != OKAY)
            if broken:
                raise Mismatch(f"the step `{label}`, which ends with {code}, breaks {', '.join(broken)}")
        return code

    def count(self, label: str, code: str) -> None:
        """Count a reached outcome."""
        key = f"{label}: {code}"
        self.reached[key] = self.reached.get(key, 0) + 1

    def step(self, label: str, args: dict[str, int], expect: str = OKAY, fail: str | None = None) -> str:
        """Take a rule step that must end with this code; Mismatch."""
        code = self.try_step(label, args, fail)
        if code is None:
            raise Mismatch(f"the rule `{label}` cannot be taken where the implementation took it (args {args})")
        if expect not in (ANY, code):
            raise Mismatch(
                f"`{label}`: the rules say {code}, the implementation {expect} (args {args})",
                {f"{label}: status": (code, expect)},
            )
        return code

    def check_claims(self) -> None:
        """Check all invariants and theorems."""
        broken = self.rules.state_claims.broken(self.state)
        if broken:
            raise Mismatch(f"{', '.join(broken)}: does not hold")
