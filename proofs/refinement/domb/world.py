"""The finite world for the comparison of DomB: its elements, the initial rule state, and the mapping of objects to elements.

Domain 0 is Dom0, 1 is DomB, 2 to 6 are guests, the last is every other number. Frames are DomB's own pages and the heap
behind them. Ghost elements (lives, epochs, turns) are reused when nothing refers to them any more. Not
here: the implementation (rig.py) and the steps (follow.py).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
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
NODE_QUOTA, WATCH_QUOTA = 6, 4  # of a guest, in XenStore; small, so that they are reached


def above(path: str) -> str:
    """The path without its last name."""
    return path.rpartition("/")[0] or "/"


def prefixes(path: str) -> list[str]:
    """A path of XenStore and all above it, the root first."""
    out = [path]
    while out[0] != "/":
        out.insert(0, above(out[0]))
    return out


@dataclass(frozen=True)
class Size:
    """The size of a world. `refs` are the reference numbers of the elements of Ref."""

    domb_pages: int = 57
    heap: int = 330
    refs: tuple[int, ...] = (0, 1, *range(8, 48), 5000)
    processes: int = 8
    translations: int = 130
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

    def __init__(self, size: Size, faults: tuple[str, ...] = ()) -> None:
        """`faults`: of the rules, laid over them."""
        self.size = size
        self.system: System = loader.load(SYSTEM, faults)
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
        self.paths: dict[str, int] = {"/": 0}  # paths of XenStore -> Node
        self.free_nodes = list(range(self.size.nodes - 1, 0, -1))
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

    def port(self, number: int) -> int:
        """The element of a port number; of one that cannot be, some port that is closed in every domain."""
        if 0 < number <= self.size.ports:
            return number - 1
        state = self.T["port.state"]
        for q in range(self.size.ports):
            if not any(state[d * self.size.ports + q] for d in range(NOBODY + 1)):
                return q
        raise Mismatch("the world has too few ports")

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

    def node(self, path: str) -> int:
        """The element of a path of XenStore; if there is none left, those that nobody speaks of are given up first."""
        needed = prefixes(path)
        for each in needed:
            if each not in self.paths:
                self._bind(each, needed)
        return self.paths[path]

    def path_of(self, node: int) -> str:
        """The path that an element stands for."""
        return next(path for path, n in self.paths.items() if n == node)

    def _bind(self, path: str, needed: list[str]) -> None:
        T, count = self.T, self.size.nodes
        if not self.free_nodes:
            watched = {n for n, on in zip(T["watch.node"], T["watch.on"], strict=True) if on}
            for old, n in list(self.paths.items()):
                if not T["node.exists"][n] and n not in watched and old not in needed:
                    self._unbind(old)
        if not self.free_nodes:
            raise Mismatch("the world has too few nodes")
        new = self.paths[path] = self.free_nodes.pop()
        for other, n in self.paths.items():
            T["below"][new * count + n] |= int(other == "/" or other == path or path.startswith(other + "/"))
            T["below"][n * count + new] |= int(other == path or other.startswith(path + "/"))
            T["above"][new * count + n] = int(other == above(path) and other != path)
            T["above"][n * count + new] = int(above(other) == path and other != path)

    def _unbind(self, path: str) -> None:
        """The element of a path where no node is: what it was below or above is forgotten, and what was told of it."""
        T, count = self.T, self.size.nodes
        old = self.paths.pop(path)
        self.free_nodes.append(old)
        for n in range(count):
            T["below"][old * count + n] = int(n in (0, old))
            T["below"][n * count + old] = int(n == old)
            T["above"][old * count + n] = T["above"][n * count + old] = 0
        block = NOBODY + 1
        for name in ("told", "learned", "perm.given"):
            T[name][old * block : (old + 1) * block] = [0] * block

    def free_visit(self) -> int:
        """A visit that has not been; old ones nobody speaks of are used again, and nothing was opened for them."""
        T, size = self.T, self.size
        if all(T["visited"]):
            there = [n for n in range(size.nodes) if T["node.exists"][n]]
            keep = {T["store_ring.visit"][d] for d in range(NOBODY) if T["store_ring.introduced"][d]}
            keep |= {T["node.visit"][n] for n in there if T["node.owner"][n] != DOM0}
            for k, given in enumerate(T["perm.given"]):
                if given and T["node.exists"][k // (NOBODY + 1)]:
                    keep.add(T["perm.visit"][k])
                elif given:
                    T["perm.given"][k] = 0
            for v in set(range(size.visits)) - keep:
                T["visited"][v] = 0
                for name in ("opened_for", "opened_for_writing", "was_read_by", "was_written_by"):
                    for n in range(size.nodes):
                        T[name][n * size.visits + v] = 0
        if all(T["visited"]):
            raise Mismatch("the world has too few visits")
        return T["visited"].index(0)

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
                self.breaks(label, code, broken)
        return code

    def breaks(self, label: str, code: str, claims: Sequence[str]) -> None:
        """A step has broken claims."""
        raise Mismatch(f"the step `{label}`, which ends with {code}, breaks {', '.join(claims)}")

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

    def close(self) -> None:
        """Give the tables back, which are large; what is left of an episode waits for the collector of cycles."""
        self.state.clear()
        self.T.clear()

    def check_claims(self) -> None:
        """Check all invariants and theorems."""
        broken = self.rules.state_claims.broken(self.state)
        if broken:
            raise Mismatch(f"{', '.join(broken)}: does not hold")
