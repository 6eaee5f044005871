"""Domains and virtual CPUs: their records, counters and lifecycle states.

Contents: struct domain and struct vcpu as far as memory sharing needs them, page accounting and the
domain's own reference count. Not here: how domains are created and torn down (lifecycle.py).
Sources: Xen common/domain.c, include/xen/sched.h.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bulkhead.impl.xen.abi import VIRQ_DOM_EXC
from bulkhead.impl.xen.frames import Frame
from bulkhead.impl.xen.p2m import P2m
from bulkhead.impl.xen.tlb import Tlb
from bulkhead.impl.xen.toolstack import Toolstack, VCpuSettings

if TYPE_CHECKING:
    from bulkhead.impl.xen.events import EventChannels
    from bulkhead.impl.xen.grant_entries import GrantTable
    from bulkhead.impl.xen.machine import Xen

ALIVE: Final = 0
DYING: Final = 1
DEAD: Final = 2
MAPTRACK_TAIL: Final = 0xFFFFFFFF
STOPPED_BY_POWEROFF, STOPPED_TO_SUSPEND, STOPPED_BY_CRASH, STOPPED_BY_WATCHDOG = 0, 2, 3, 4
NOT_STOPPED: Final = 0xFFFF


class VCpu:
    """A virtual CPU: page-table roots, its TLB and the ends of its maptrack free list. It is not online until it is set up.

    `context` is the vcpu_guest_context its builder set, None before.
    """

    __slots__ = (
        "context",
        "cr3",
        "domain",
        "gdt",
        "info",
        "info_offset",
        "maptrack_head",
        "maptrack_tail",
        "online",
        "pinned",
        "root_gfn",
        "settings",
        "tlb",
        "user_cr3",
        "vcpu_id",
    )

    def __init__(self, vcpu_id: int, domain: Domain) -> None:
        self.vcpu_id = vcpu_id
        self.domain = domain
        self.cr3: Frame | None = None
        self.user_cr3: Frame | None = None
        self.root_gfn: int | None = None  # of a translated guest's own page tables, when it uses them
        self.context: bytes | None = None
        self.tlb = Tlb()
        self.gdt: tuple[Frame, ...] = ()  # pages of its descriptor table, each with a type reference
        self.info: Frame | None = None  # the page with its registered vcpu_info, referenced and writable
        self.info_offset = 0
        self.maptrack_head = MAPTRACK_TAIL
        self.maptrack_tail = MAPTRACK_TAIL
        self.online = False
        self.settings = VCpuSettings()
        self.pinned = False  # to a processor, until it says otherwise (SCHEDOP_pin_override)


class Domain:
    """One domain. `external` is true for HVM/PVH guests (translated, externally paged)."""

    __slots__ = (
        "assists",
        "claim",
        "crashed",
        "creation_finished",
        "dirty_log",
        "domid",
        "e820",
        "emulation",
        "eoi_page",
        "events",
        "external",
        "gone",
        "grant_table",
        "handle",
        "is_dying",
        "is_privileged",
        "is_xenstore",
        "max_evtchn_port",
        "max_pages",
        "max_vcpus",
        "p2m",
        "pages",
        "parameters",
        "pause_count",
        "pirqs",
        "refs",
        "shared_info",
        "ssidref",
        "stop_code",
        "target",
        "teardown_done",
        "toolstack",
        "tot_pages",
        "vcpus",
        "watchdogs",
        "xen",
        "xenheap_pages",
    )

    def __init__(self, xen: Xen, domid: int, external: bool = False) -> None:
        self.xen = xen
        self.domid = domid
        self.external = external
        self.is_privileged = False
        self.is_xenstore = False
        self.is_dying = ALIVE
        self.pause_count = 1
        self.creation_finished = False
        self.crashed = False  # it has stopped, for any reason
        self.stop_code = NOT_STOPPED
        self.teardown_done: set[str] = set()  # completed phases of its teardown
        self.max_pages = 0
        self.tot_pages = 0
        self.pages: dict[int, Frame] = {}
        self.xenheap_pages = 0
        self.vcpus: list[VCpu] = []
        self.max_vcpus = 1
        self.grant_table: GrantTable = None  # type: ignore[assignment]  # set by grant_table_init at creation
        self.p2m: P2m | None = P2m(self.vcpus) if external else None
        self.target: Domain | None = None
        self.refs = 1
        self.events: EventChannels = None  # type: ignore[assignment]  # set by evtchn_init at creation
        self.handle = bytes(16)
        self.ssidref = 0
        self.max_evtchn_port = 4095
        self.shared_info: Frame | None = None
        self.claim = 0
        self.gone = False
        self.dirty_log: set[int] | None = None
        self.emulation = 0  # emulation flags it was created with
        self.eoi_page: Frame | None = None  # the page in which Xen tells whose interrupts need an end
        self.pirqs: set[int] = set()  # interrupt numbers that it was given
        self.assists: set[int] = set()  # what it asked Xen to emulate for it (vm_assist)
        self.watchdogs: set[int] = set()  # its running watchdogs, by number
        self.parameters: dict[int, int] = {}  # of a translated guest, as somebody set them (hvm_op)
        self.e820 = b""  # the memory map that its builder set
        self.toolstack = Toolstack()

    def __repr__(self) -> str:
        return f"<d{self.domid}>"

    def account_page(self, frame: Frame) -> None:
        """Put a fresh page on the domain's list; any page at all holds one reference on the domain."""
        self.pages[frame.mfn] = frame
        self.tot_pages += 1
        if self.claim:
            self.set_claim(self.claim - 1)
        if self.tot_pages == 1:
            self.refs += 1

    def set_claim(self, pages: int) -> None:
        """Set how many free frames the domain claims from now on (XENMEM_claim_pages)."""
        self.xen.frames.claimed += pages - self.claim
        self.claim = pages

    def unaccount_page(self, frame: Frame) -> None:
        """Take a freed page off the list; the last one drops the pages' reference on the domain.

        Where there is a claim, it grows by the page (domain_adjust_tot_pages).
        """
        del self.pages[frame.mfn]
        self.tot_pages -= 1
        if self.claim:
            self.set_claim(self.claim + 1)
        if self.tot_pages == 0:
            self.put()

    def account_xenheap(self) -> None:
        """Record a Xen-heap page shared with this guest."""
        self.xenheap_pages += 1
        if self.xenheap_pages == 1:
            self.refs += 1

    def unaccount_xenheap(self) -> None:
        """Record that a shared Xen-heap page of this guest has no references left."""
        self.xenheap_pages -= 1
        if self.xenheap_pages == 0:
            self.put()

    def put(self) -> None:
        """Drop a reference on the domain; the last one destroys it (put_domain)."""
        self.refs -= 1
        if self.refs == 0:
            self.xen.domain_destroy(self)

    def flush_tlb(self) -> None:
        """Flush the TLBs of every vCPU of the domain (gnttab_flush_tlb, flush_tlb_mask(dirty cpumask))."""
        table = self.xen.frames
        table.stamp += 1
        for vcpu in self.vcpus:
            entries = vcpu.tlb.entries
            if entries:
                entries.clear()
            vcpu.tlb.flushed_at = table.stamp

    def mark_dirty(self, mfn: int) -> None:
        """Log-dirty: record a written frame of the domain (paging_mark_dirty)."""
        if self.dirty_log is not None:
            self.dirty_log.add(mfn)

    def crash(self) -> None:
        """domain_crash: the domain stops running; it remains until it is destroyed."""
        self.stop(STOPPED_BY_CRASH)

    def stop(self, reason: int) -> None:
        """domain_shutdown; a reason that was given before stays. Who waits for a suspension is told of it; otherwise the
        control domain is told once."""
        if self.stop_code == NOT_STOPPED:
            self.stop_code = reason & 0xFF
        if self.crashed:
            return
        self.crashed = True
        if self.stop_code == STOPPED_TO_SUSPEND and self.toolstack.suspend_port:
            self.events.send(self.toolstack.suspend_port)
        else:
            self.xen.raise_global_virq(VIRQ_DOM_EXC)
