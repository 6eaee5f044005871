"""Builds a list of calls: random choices, names of guests and variables, and the forms of a call.

Contents: the common part of the families of calls. A script is written before anything runs: later calls name results
(handles, ports, indices) by variables, so that the same calls can be made anywhere, and removed one by one. Each
family has its own pool pages, window slots and references, to keep contents comparable:

| pages | slots | what for |
|---|---|---|
| 0-15 | 16-31 | grants, copies, devices: contents are compared |
| 16-27 | 0-15 | page tables: contents are frame numbers, which no two machines share |
| 28-29 | | arguments that cross from one page to the next |
| 30-47 | 32-39 | given up, exchanged, moved |
| 48-63 | 40-47 | transferred |
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Final, TypeVar

from tests.xen.protocol import Call

T = TypeVar("T")
DATA: Final = range(0, 16)
TABLES: Final = range(16, 28)
CROSSED: Final = range(28, 30)
SPARE: Final = range(30, 48)
LENT: Final = range(48, 64)
REFS: Final = range(8, 32)
VARIABLES: Final = 240  # of each kind, then the oldest is reused
NOWHERE: Final = (
    "0x7fff00000000",
    "0xffff800000000000",
    "0xffff830000000000",
    "0x800000000000",
    "0xfffffffffffff000",
    "0xffffffffffffffff",
    "0xdead000",
)
SEVERAL: Final = "C"  # the guest of several vCPUs
PVH: Final = ("P", "Q")  # the PVH guests that make calls
VCPUS: Final = 3
VCPU_OP, VCPUOP_INITIALISE, VCPUOP_UP, VGCF_IN_KERNEL = 24, 0, 1, 4
PAGE: Final = 4096
AGENT_ENTRY, STACKS = PAGE, 11  # of the agent's memory (mailbox.h): its first instruction, and the page before stacks
POOL_OF_PVH: Final = 0x40  # guest frame number of the first pool page of a PVH guest that makes calls
FULL: Final = "K"  # the translated guest that now and then has all emulated devices
NOBODY: Final = "20000"  # a domain id that no run reaches
DOMIDS: Final = (NOBODY, "XEN", "IO", "COW", "INVALID", "IDLE", "0xffff")
GRANT_TABLE_OP, MEMORY_OP, EVENT_CHANNEL_OP, MMU_UPDATE, MMUEXT_OP = 20, 12, 32, 1, 26
UPDATE_VA_MAPPING, UPDATE_VA_MAPPING_OTHERDOMAIN, DOMCTL = 14, 22, 36
DOMCTL_VERSION: Final = "0x15"


class Script:
    """The calls so far, and the names for later ones."""

    def __init__(self, seed: int, episode: int) -> None:
        self.rng = random.Random(f"xen/{seed}/{episode}")
        self.calls: list[Call] = []
        self.agents: list[str] = []
        self.translated: list[str] = []
        self.pvh: list[str] = []  # those of the translated guests that make calls
        self.turn: list[str] = self.agents  # whose calls are written now
        self.running: dict[str, int] = {}  # guests of several vCPUs, all of which make calls
        self.dead: list[int] = []  # domids of guests that were removed
        self.domids = 0
        self.note = ""
        self.family: dict[str, Any] = {}
        self.granted: dict[tuple[str, int], tuple[str, int]] = {}  # (granter, reference): grantee and flags, as last written
        self.unbound: list[tuple[str, str, str]] = []  # unbound ports: owner, remote domain, variable
        self._counts: dict[str, int] = {}

    # --- choices ---
    def pick(self, values: Sequence[T]) -> T:
        """One of them."""
        return self.rng.choice(values)

    def weighted(self, *pairs: tuple[float, T]) -> T:
        """A random value, by weight."""
        return self.rng.choices([value for _, value in pairs], [weight for weight, _ in pairs])[0]

    def chance(self, part: float) -> bool:
        """True with this probability."""
        return self.rng.random() < part

    def agent(self) -> str:
        """A guest that makes calls: a PV one, or a PVH one when it is their turn."""
        return self.pick(self.turn)

    def other(self, name: str) -> str:
        """Another guest that makes calls, if there is one."""
        rest = [each for each in (self.agents if self.turn is self.agents else [*self.agents, *self.pvh]) if each != name]
        return self.pick(rest) if rest else name

    def guest(self) -> str:
        """A guest of either kind."""
        return self.pick([*self.agents, *self.translated])

    def domid(self, by: str) -> str:
        """A domain argument, usually a sensible one."""
        dead = [str(self.pick(self.dead))] if self.dead else []
        return self.weighted((60, self.guest()), (12, "SELF"), (8, by), (8, "d0"), (10, self.pick([*DOMIDS, *dead])))

    def still(self) -> list[str]:
        """The translated guests that never run."""
        return [name for name in self.translated if name not in self.pvh]

    def numbers(self, name: str) -> tuple[int, range]:
        """Where a translated guest's frame numbers begin that pages have names for, and those that it has no page at."""
        return (POOL_OF_PVH, range(0xA8, 0xB0)) if name in self.pvh else (0, range(64, 96))

    def vcpu(self, name: str) -> str:
        """The number of one of a guest's vCPUs."""
        return str(self.rng.randrange(self.running[name])) if name in self.running else "0"

    def variable(self, kind: str) -> str:
        """A fresh name; after VARIABLES of a kind the first is reused."""
        number = self._counts.get(kind, 0)
        self._counts[kind] = number + 1
        return f"{kind}{number % VARIABLES}"

    # --- calls ---
    def do(self, op: str, show: str = "", /, **args: Any) -> None:
        """Any operation."""
        self.calls.append(Call(op, {key.rstrip("_"): value for key, value in args.items()}, show, self.note))

    def hypercall(self, by: str, number: int, w: str = "", o: str = "", show: str = "", **args: Any) -> None:
        """One hypercall with an argument block."""
        words = {"by": by, "nr": number, **({"w": w} if w else {}), **({"o": o} if o else {})}
        if by in self.running and "vcpu" not in args and self.chance(0.5):
            args["vcpu"] = self.rng.randrange(self.running[by])
        self.do("x", show, **words, **args)

    def count(self, name: str) -> None:
        """Query a guest's page count."""
        self.do("cur", n=name)

    def grant(self, name: str, ref: int, grantee: str, page: str, flags: int, **more: Any) -> None:
        """A granter rewrites its entry, and the script records it."""
        self.do("ge", f"{name}:{ref}", d=name, ref=ref, flags=flags, dom=grantee, pg=page, **more)
        self.granted[name, ref] = (grantee, flags)

    def granted_to(self, by: str) -> tuple[str, int, int] | None:
        """An entry for this domain: granter, reference, flags."""
        known = [(*key, flags) for key, (grantee, flags) in self.granted.items() if grantee == by and flags & 3 == 1]
        return self.pick(known) if known else None

    # --- guests ---
    def make(self, name: str, translated: bool = False) -> None:
        """A new guest with its pages filled."""
        kind = "pvh" if name in PVH else "hvm" if name != FULL else self.pick(("hvm", "full"))
        several = {"vcpus": VCPUS} if name == SEVERAL else {}
        self.do("mkdom", n=name, kind=kind if translated else "agent", **several)
        self.domids += 1
        (self.translated if translated else self.agents).append(name)
        if name in PVH:
            self.pvh.append(name)
        self.do("pfill", d=name)
        self.count(name)
        if several:
            self._set_up(name)

    def _set_up(self, name: str) -> None:
        """The guest's first vCPU starts the others, which run the same agent, each on a stack of its own."""
        for vcpu in range(1, VCPUS):
            at = {
                "512:4": VGCF_IN_KERNEL,
                "632:8": vcpu,
                "648:8": AGENT_ENTRY,
                "656:8": "0xe033",
                "664:8": "0x200",
                "672:8": (STACKS + vcpu + 1) * PAGE,
                "680:8": "0xe02b",
                "4968:8": "0xe02b",
                "4976:8": (STACKS + vcpu + 1) * PAGE,
                "5008:8": f"f.{name}/l4",
            }
            words = ",".join(f"{place}:{value}" for place, value in at.items())
            self.hypercall(name, VCPU_OP, words, a1=VCPUOP_INITIALISE, a2=vcpu, a3="arg", vcpu=0)
            self.hypercall(name, VCPU_OP, a1=VCPUOP_UP, a2=vcpu, vcpu=0)
        self.running[name] = VCPUS

    def renew(self, name: str) -> None:
        """Destroy a guest and create another one with its name."""
        translated = name in self.translated
        self.remove(name)
        self.make(name, translated)

    def spare(self, name: str, pages: Sequence[int], many: int = 1) -> list[int]:
        """Pages that the guest still has under these names, for a call that gives them away.

        The allocator may give such a frame to any domain; so its name is not used again. When
        too few are left, the guest is replaced.
        """
        gone: set[int] = self.family.setdefault("gone", {}).setdefault(name, set())
        left = [page for page in pages if page not in gone]
        if len(left) < many:
            self.renew(name)
            return self.spare(name, pages, many)
        chosen = self.rng.sample(left, many)
        gone |= set(chosen)
        return chosen

    def remove(self, name: str) -> None:
        """Destroy a guest."""
        self.do("rmdom", n=name)
        self.running.pop(name, None)
        for table in ("ports", "gone", "infos"):
            self.family.get(table, {}).pop(name, None)
        for key in [key for key, (grantee, _) in self.granted.items() if name in (key[0], grantee)]:
            del self.granted[key]
        self.unbound[:] = [each for each in self.unbound if name not in each[:2]]
        maps = self.family.get("maps", [])
        maps[:] = [each for each in maps if each[0] != name]
        for names in (self.agents, self.translated, self.pvh):
            if name in names:
                names.remove(name)


def entries(pairs: Sequence[tuple[str, int]]) -> str:
    """Grant entries to compare: `A:8+B:9`, each once."""
    return "+".join(sorted({f"{name}:{ref}" for name, ref in pairs}))
