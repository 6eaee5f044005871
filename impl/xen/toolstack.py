"""What a toolstack has set for a domain and its vCPUs by domctl, beyond its memory: placement, permissions, processors.

Contents: the records, ranges of I/O ports and of I/O frames, and what Debian's Xen gives Dom0 on the machine of the
recordings. Not here: the domctls that change them (domctl_vcpus.py, domctl_hardware.py, domctl_guest.py). Sources: Xen
include/xen/sched.h, common/rangeset.c, arch/x86/dom0_build.c (dom0_setup_permissions).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

ALL_NODES: Final = (1 << 64) - 1
USUAL_WEIGHT: Final = 256
BANKS_OF_ERRORS: Final = 2  # that a guest's machine check capabilities tell


class Ranges:
    """A set of numbers, kept as sorted ranges that do not touch."""

    __slots__ = ("parts",)

    def __init__(self, *parts: tuple[int, int]) -> None:
        self.parts: tuple[tuple[int, int], ...] = parts

    def add(self, first: int, last: int) -> None:
        """Add first to last, both included."""
        apart = [part for part in self.parts if part[1] < first - 1 or part[0] > last + 1]
        touching = [part for part in self.parts if part not in apart]
        whole = (min([first, *(a for a, _ in touching)]), max([last, *(b for _, b in touching)]))
        self.parts = tuple(sorted([*apart, whole]))

    def remove(self, first: int, last: int) -> None:
        """Take first to last out."""
        kept: list[tuple[int, int]] = []
        for a, b in self.parts:
            kept += [(low, high) for low, high in ((a, min(b, first - 1)), (max(a, last + 1), b)) if low <= high]
        self.parts = tuple(kept)

    def has(self, first: int, last: int) -> bool:
        """Are all of first to last in it?"""
        return any(a <= first and last <= b for a, b in self.parts)


# What Dom0 has of the machine. Ports without interrupt controllers, timers, Xen's serial line, the power timer and the data
# port of PCI's configuration; frames without the local APIC's and messages' range, and what AMD's processors keep for links.
DOM0_IRQS: Final = range(1, 16)
DOM0_PORTS: Final = Ranges(
    (0, 0x1F), (0x22, 0x3F), (0x44, 0x60), (0x62, 0x9F), (0xA2, 0x3F7), (0x400, 0x607), (0x60C, 0xCFB), (0xD00, 0xFFFF)
)
DOM0_FRAMES: Final = Ranges((0, 0xFEDFF), (0xFEF00, 0xFCFFFFF))


@dataclass(slots=True)
class VCpuSettings:
    """Of one vCPU: where it may run, and the parts of its state that vcpu_guest_context does not have."""

    hard_affinity: int = 1  # a bit for each processor: this machine has one
    soft_affinity: int = 1
    entry_points: dict[int, tuple[int, int]] = field(default_factory=dict)  # SYSENTER, SYSCALL32: address, masks events
    selectors: tuple[int, int] = (0, 0)  # of SYSCALL32 and SYSENTER
    errors: tuple[int, int, int, int] = (BANKS_OF_ERRORS, 0, 0, 0)  # capabilities and controls of machine checks


@dataclass(slots=True)
class Toolstack:
    """Of one domain."""

    weight: int = USUAL_WEIGHT
    cap: int = 0
    nodes: int | None = None  # a mask; None: those of its vCPUs
    debugged: bool = False
    suspend_port: int = 0
    stopped_asleep: bool = False  # did another domain stop it, while its vCPUs waited?
    clock: tuple[int, int] = (0, 1)  # mode of the time stamp counter, and how often it was set
    irqs: set[int] = field(default_factory=set)
    iomem: Ranges = field(default_factory=Ranges)
    ports: Ranges = field(default_factory=Ranges)
    msr_events: bool = False  # is there room for events of registers?
    listened: bool = False  # was a ring for a listener ever named?
    monitored: set[tuple[int, int]] = field(default_factory=set)  # events that are told, and of which register
    vnuma: tuple[int, bytes, bytes, bytes] | None = None  # virtual nodes: how many, distances, those of vCPUs, memory ranges

    def has_devices(self) -> bool:
        """Does the domain have I/O memory or ports? Only then may it flush the processors' caches."""
        return bool(self.iomem.parts or self.ports.parts)


def of_dom0() -> Toolstack:
    """The permissions that Xen gives Dom0 when it builds it, and that can be taken away."""
    return Toolstack(irqs=set(DOM0_IRQS), iomem=Ranges(*DOM0_FRAMES.parts), ports=Ranges(*DOM0_PORTS.parts))


@dataclass(slots=True)
class MachineSettings:
    """Of the machine."""

    rate_limit: int = 1000  # of the scheduler, in microseconds
    trace_mask: int = 0x0FFFF000
    saves_power: bool = False  # the scheduler, by filling one core first
    type_registers: set[int] = field(default_factory=lambda: {0})  # those for types of memory that are in use
    sleep_states: list[int] = field(default_factory=lambda: [1, 0xFFFFFFFF])  # deepest state and sub-state of the processor
