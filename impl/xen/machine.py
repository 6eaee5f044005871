"""The machine: one `Xen` object that connects frames, domains, policy and operations.

This object holds all state; modules hold none. Not here: the operations themselves.
`Xen.hypercall` returns a generator that yields a marker wherever Xen drops a lock or flushes; `run` drains one.
Sources: Xen common/domain.c (domain_destroy, complete_domain_destroy), arch/x86/setup.c for boot.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from bulkhead.impl.xen.abi import VIRQ_DOM_EXC
from bulkhead.impl.xen.continuation import Preemption
from bulkhead.impl.xen.domains import Domain, VCpu
from bulkhead.impl.xen.frames import Frame, FrameTable, make_writable
from bulkhead.impl.xen.hypercall import dispatch
from bulkhead.impl.xen.lifecycle import create_domain, set_max_vcpus
from bulkhead.impl.xen.toolstack import MachineSettings, of_dom0
from bulkhead.impl.xen.xsm import DummyPolicy, Policy

T = TypeVar("T")
Trace = Callable[[str, int, int, int, int, int], None]


class Livelock(RuntimeError):
    """A hypercall that restarts for ever (a continuation without end)."""


@dataclass(slots=True)
class Options:
    """Boot options that change behaviour; defaults are those of Xen 4.17."""

    max_grant_frames: int = 64
    max_maptrack_frames: int = 1024
    max_grant_version: int = 2
    transitive: bool = True
    transfer: bool = True
    zero_length_copy_ok: bool = False
    hap: bool = True  # the processor has nested paging, which translated guests need
    shadow_paging: bool = True  # a build option; log-dirty mode of PV guests needs it, and Debian's Xen is built without it


class Xen:
    """The hypervisor and its hardware: `nframes` machine frames, of which it owns the lowest `reserved`."""

    __slots__ = (
        "dom_io",
        "dom_xen",
        "domains",
        "frames",
        "hardware_domain",
        "last_domid",
        "options",
        "preemption",
        "rng",
        "settings",
        "trace",
        "virq_handlers",
        "xsm",
    )

    def __init__(
        self,
        nframes: int = 1 << 20,
        reserved: int = 0x4000,
        seed: int = 0,
        policy: Policy | None = None,
        options: Options | None = None,
        preemption: Preemption | None = None,
    ) -> None:
        self.frames = FrameTable(nframes, reserved)
        self.domains: dict[int, Domain] = {}
        self.xsm: Policy = policy if policy is not None else DummyPolicy()
        self.rng = Random(seed)
        self.options = options if options is not None else Options()
        self.preemption = preemption if preemption is not None else Preemption()
        self.last_domid = 0
        self.settings = MachineSettings()
        self.dom_io = Domain(self, 0x7FF1)
        self.dom_xen = Domain(self, 0x7FF2)
        self.trace: Trace | None = None
        self.hardware_domain: Domain | None = None
        self.virq_handlers: dict[int, Domain] = {}

    # --- memory for domains ---
    def alloc_frame(self, owner: Domain | None, xenheap: bool = False, limit: int | None = None) -> Frame | None:
        """A frame from the heap (below `limit`), after a flush of stale translations to its previous use."""
        frame = self.frames.alloc(owner, xenheap, limit)
        if frame is not None and frame.free_stamp >= 0:
            self._flush_since(frame.free_stamp)
        return frame

    def alloc_extent(self, owner: Domain | None, order: int, limit: int | None = None) -> list[Frame] | None:
        """2^order contiguous frames from the heap; otherwise as `alloc_frame`."""
        frames = self.frames.alloc_extent(owner, order, limit)
        if frames is not None:
            self._flush_since(max(frame.free_stamp for frame in frames))
        return frames

    def _flush_since(self, stamp: int) -> None:
        for domain in self.domains.values():
            for vcpu in domain.vcpus:
                if vcpu.tlb.entries and vcpu.tlb.flushed_at <= stamp:
                    self.frames.stamp += 1
                    vcpu.tlb.flush(self.frames.stamp)

    def share_page(self, domain: Domain) -> Frame | None:
        """A zeroed Xen-heap page shared read-write with a guest (share_xen_page_with_guest)."""
        frame = self.alloc_frame(domain, xenheap=True)
        if frame is not None:
            frame.bytes()
            make_writable(frame)
        return frame

    # --- domains ---
    def create_dom0(self, max_vcpus: int = 1, max_pages: int = 1 << 18) -> Domain:
        """The initial, privileged domain (PV)."""
        create_domain(self, 0, max_vcpus=max_vcpus, privileged=True)
        made = self.domains.get(0)
        if made is None:
            raise MemoryError("no memory for dom0")
        made.max_pages = max_pages
        set_max_vcpus(made, max_vcpus)
        made.vcpus[0].online = True
        made.pause_count = 0
        made.creation_finished = True
        made.toolstack = of_dom0()
        self.hardware_domain = made
        return made

    def domain_destroy(self, domain: Domain) -> None:
        """After the last reference is dropped: free the id and return the grant table's frames to the heap."""
        if self.domains.get(domain.domid) is domain:
            del self.domains[domain.domid]
        domain.gone = True
        table = domain.grant_table
        for frame in (domain.shared_info, *table.shared, *table.status):
            if frame is not None:
                self.frames.free_xenheap(frame)
        domain.shared_info = None
        table.shared.clear()
        table.status.clear()
        table.active.clear()
        table.nr_entries = 0
        self.raise_global_virq(VIRQ_DOM_EXC)

    def raise_global_virq(self, virq: int) -> None:
        """Signal the domain that handles a global virtual interrupt."""
        handler = self.virq_handlers.get(virq)
        if handler is None or handler.is_dying:
            handler = self.hardware_domain
        if handler is not None and not handler.is_dying:
            handler.events.raise_virq(virq)

    # --- hypercalls ---
    def hypercall(
        self, vcpu: VCpu, number: int, a1: int = 0, a2: int = 0, a3: int = 0, a4: int = 0, a5: int = 0
    ) -> Generator[str, None, int]:
        """A hypercall by registers; arguments are addresses in guest memory where the ABI says so."""
        return dispatch(self, vcpu, number, a1, a2, a3, a4, a5)

    def call(self, vcpu: VCpu, number: int, a1: int = 0, a2: int = 0, a3: int = 0, a4: int = 0, a5: int = 0) -> int:
        """A hypercall that runs to its end at once."""
        return run(dispatch(self, vcpu, number, a1, a2, a3, a4, a5))


def run(gen: Generator[str, None, T], limit: int = 10_000_000) -> T:
    """Drain a generator and return its value; Livelock if it yields more than `limit` times."""
    step = gen.__next__
    try:
        for _ in range(limit):
            step()
    except StopIteration as stop:
        value: T = stop.value
        return value
    gen.close()
    raise Livelock(f"no end after {limit} steps")
