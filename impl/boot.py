"""Boots a whole system, before or after disaggregation, and logs the requests between its parts.

Contents: `BootedSystem`, the assembled system (hypervisor, Dom0 with its processes, DomB if there is one, and
guests), and `boot`, one run from power-on over "who can reach what" to teardown. Before: Dom0 is the control
domain and has privcmd. After: DomB is, and Dom0 has the grant devices and no privcmd. All other code is the same. Not
here: the parts themselves.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

from bulkhead.impl.dom0.gntalloc import GntallocPool
from bulkhead.impl.dom0.kernel import Kernel
from bulkhead.impl.dom0.process import Process
from bulkhead.impl.dom0.syscalls import EVTCHN, GNTALLOC, GNTDEV, PRIVCMD, Syscalls, devices
from bulkhead.impl.domb import elf
from bulkhead.impl.domb.builder import MAX_PAGES, XENSTORE_REF, Hook
from bulkhead.impl.domb.minios import MiniOs
from bulkhead.impl.domb.minios_osdep import MiniOsOsdep
from bulkhead.impl.domb.protocol import MAX_FILE, CreateRequest
from bulkhead.impl.domb.service import BuilderService
from bulkhead.impl.guests.agent import GuestFault, TestGuest
from bulkhead.impl.guests.test_kernel import build_kernel
from bulkhead.impl.libs.linux import LinuxOsdep
from bulkhead.impl.libs.vchan import Offer
from bulkhead.impl.log import Log, quiet
from bulkhead.impl.reach import Party, Reach, table
from bulkhead.impl.rings import pages
from bulkhead.impl.rings.xenbus import Xenbus
from bulkhead.impl.tools.fileproxy import FileProxy
from bulkhead.impl.tools.services import Service, ToolError, find
from bulkhead.impl.tools.store import XsError, home
from bulkhead.impl.tools.xenconsoled import Xenconsoled
from bulkhead.impl.tools.xenstored import Xenstored
from bulkhead.impl.tools.xl import Xl
from bulkhead.impl.xen import abi
from bulkhead.impl.xen.hypercall_evtchn import TWO_DOMIDS
from bulkhead.impl.xen.lifecycle import create_domain, set_max_vcpus
from bulkhead.impl.xen.machine import Xen

NODES: Final = {"monolithic": (PRIVCMD, EVTCHN), "disaggregated": (GNTDEV, GNTALLOC, EVTCHN)}
MAX_GUESTS: Final = 32
GUEST_PAGES: Final = 1024
DOMB_PAGES: Final = 256
DOMB_WINDOWS: Final = 64  # L1 tables for foreign mappings: 128 MiB at a time
OFFER_NODES: Final = ("data/domb/ring-ref", "data/domb/event-channel")
SETTLE: Final = 64


class BootError(ValueError):
    """The system cannot be booted as requested; the text gives the reason in one line."""


@dataclass(frozen=True, slots=True)
class Step:
    """One request from one part of the system to another."""

    who: str
    whom: str
    what: str


@dataclass(frozen=True, slots=True)
class GuestReport:
    """A running guest: its console output, and the state that it wrote to XenStore (empty if none)."""

    name: str
    domid: int
    pages: int
    console: bytes
    state: bytes


@dataclass(frozen=True, slots=True)
class BootLog:
    """One run. `left_behind`: resources that differ from the start after teardown of all guests; should be empty."""

    system: str
    seed: int
    steps: tuple[Step, ...]
    guests: tuple[GuestReport, ...]
    reach: tuple[Reach, ...]
    left_behind: tuple[str, ...]


class BootedSystem:
    """A running system. `root` is the directory whose files the file proxy serves.

    `watch` is called with the machine before each logged step, when no call is in flight.
    """

    def __init__(
        self,
        system: str,
        root: Path,
        seed: int = 0,
        tell: Log = quiet,
        on_step: Hook = lambda step, what: None,
        nframes: int = 1 << 20,
        watch: Callable[[BootedSystem], None] = lambda machine: None,
    ) -> None:
        if system not in NODES:
            raise BootError(f"there is no system `{system}`; there are {' and '.join(NODES)}")
        self.system = system

        def log(who: str, whom: str, what: str) -> None:
            watch(self)
            tell(who, whom, what)

        self.log = log
        self.rng = Random(seed)
        self.xen = Xen(nframes=nframes, seed=seed)
        self.dom0 = self.xen.create_dom0()
        self.kernel = Kernel(self.xen, self.dom0, npages=2048, nwindows=8)
        self.pool = GntallocPool(self.kernel)
        self.nodes = devices(self.kernel, self.pool, NODES[system])
        self.files = FileProxy(root)
        self.guests: dict[int, TestGuest] = {}
        self.processes: list[Syscalls] = []
        self.domb: MiniOs | None = None
        self.service: BuilderService | None = None
        log("Xen", "Xen", f"start Dom0 with the devices {', '.join(sorted(NODES[system]))}")
        if system == "disaggregated":
            self.domb = self._start_domb()
        self.before = self.counts()

        def step(name: str, what: str) -> None:
            log("DomB" if self.domb is not None else "xl", "Xen", f"{name}: {what}")
            on_step(name, what)

        self.on_step: Hook = step
        self.xenstored = Xenstored(self.spawn("xenstored"), log)
        self.xenconsoled = Xenconsoled(self.spawn("xenconsoled"), log)
        if self.domb is not None:
            self.service = self._start_service(self.domb)
            self.settle()
        self.builder: Service = self.connect()
        self.xl = Xl(self.builder, self.xenstored, self.xenconsoled, log)

    # --- assembly ---
    def spawn(self, name: str) -> LinuxOsdep:
        """A process of Dom0 with the libraries."""
        calls = Syscalls(name, Process(self.kernel), self.nodes)
        self.processes.append(calls)
        return LinuxOsdep(calls)

    def _start_domb(self) -> MiniOs:
        """Xen starts DomB beside Dom0 and makes it the control domain instead of Dom0."""
        created = create_domain(self.xen)
        if isinstance(created, int):
            raise BootError(f"DomB cannot be created: errno {-created}")
        created.max_pages = DOMB_PAGES + DOMB_WINDOWS + 64
        set_max_vcpus(created, 1)
        created.is_privileged, self.dom0.is_privileged = True, False
        domb = MiniOs(self.xen, created, DOMB_PAGES, DOMB_WINDOWS)
        created.pause_count = 0
        self.log("Xen", "Xen", f"start DomB as domain {created.domid}; it is privileged, Dom0 is no longer")
        return domb

    def _start_service(self, domb: MiniOs) -> BuilderService:
        """DomB connects to XenStore by its own reserved grant and publishes its channel there."""
        ring = self.ring = domb.alloc_page()
        data, off = domb.domain.grant_table.header_at(XENSTORE_REF)
        abi.ENTRY_V1.pack_into(data, off, abi.GTF_PERMIT_ACCESS, 0, ring.mfn)
        _, raw = domb.evtchn_op(abi.EVTCHNOP_ALLOC_UNBOUND, TWO_DOMIDS.pack(abi.DOMID_SELF, 0, 0))
        port = self.ring_port = TWO_DOMIDS.unpack(raw)[2]
        self.xenstored.introduce(domb.domain.domid, ring.mfn, port)

        def notify() -> None:
            domb.evtchn_op(abi.EVTCHNOP_SEND, abi.U32.pack(port))

        self.xenbus = Xenbus(domb, domb.va_of(ring), notify)
        service = BuilderService(MiniOsOsdep(domb), 0, self.log, self.on_step, self._publish)
        service.offer()
        return service

    def _publish(self, offer: Offer) -> None:
        self.log("DomB", "xenstored", f"write where its channel is: grant {offer.ring_ref}, port {offer.port}")
        for node, value in zip(OFFER_NODES, (offer.ring_ref, offer.port), strict=True):
            self.xenbus.request(pages.XS_WRITE, f"{node}\0{value}".encode())

    def offered(self) -> Offer | None:
        """The address of DomB's channel, from XenStore."""
        if self.domb is None:
            return None
        self.settle()
        base = home(self.domb.domain.domid)
        try:
            ref, port = (self.xenstored.request(0, pages.XS_READ, 0, f"{base}/{node}\0".encode()) for node in OFFER_NODES)
        except XsError:
            return None
        return Offer(self.domb.domain.domid, int(ref), int(port)) if ref.isdigit() and port.isdigit() else None

    def connect(self) -> Service:
        """A new tool process, connected to this system's builder; ToolError."""
        return find(self.spawn("xl"), self.files, self.offered, self.pump, self.on_step, self.log)

    # --- running ---
    def pump(self) -> bool:
        """Run everybody except the tools for a step, in a random order from the seed; true if anything happened."""
        parts: list[Callable[[], bool]] = [self.xenstored.step, self.xenconsoled.step]
        parts += [guest.step for guest in self.guests.values()]
        if self.service is not None:
            parts += [self.service.step, self._domb_xenbus]
        self.rng.shuffle(parts)
        return any([part() for part in parts])

    def _domb_xenbus(self) -> bool:
        return bool(self.xenbus.take())

    def settle(self) -> None:
        """Run until nothing happens."""
        for _ in range(SETTLE):
            if not self.pump():
                return

    def create(self, name: str, wanted: CreateRequest) -> int:
        """Create a guest with xl and let it boot: its id; ToolError."""
        domid = self.xl.create(name, wanted)
        guest = TestGuest(self.xen, self.xen.domains[domid])
        self.guests[domid] = guest
        try:
            started = guest.boot()
        except GuestFault as exc:
            self.log(name, "Xen", f"page fault: {exc}")
            started = False
        if not started:
            self.log(name, "Xen", "its kernel is not the test kernel: it is loaded, but not executed here")
        self.settle()
        return domid

    def destroy(self, domid: int) -> bytes:
        """Destroy a guest with xl: its last output; ToolError."""
        output = self.xl.destroy(domid)
        self.guests.pop(domid, None)
        return output

    def report(self, name: str, domid: int) -> GuestReport:
        """The results of a guest."""
        try:
            state = self.xenstored.request(0, pages.XS_READ, 0, f"{home(domid)}/data/state\0".encode())
        except XsError:
            state = b""
        return GuestReport(name, domid, self.xen.domains[domid].tot_pages, self.xenconsoled.output(domid), state)

    # --- who can reach what ---
    def names(self) -> dict[int, str]:
        """Names of domains by id."""
        domb = self.domb.domain.domid if self.domb is not None else -1
        return {
            domid: "Dom0" if domid == 0 else "DomB" if domid == domb else f"guest {domid}"
            for domid in sorted(self.xen.domains)
        }

    def reach(self) -> list[Reach]:
        """The table for all parties: kernels, processes of Dom0, guests."""
        parties = [Party("Dom0 kernel", self.dom0, self.kernel)]
        parties += [Party(f"Dom0 process {each.name}", self.dom0, process=each) for each in self.processes]
        if self.domb is not None:
            parties.append(Party("DomB", self.domb.domain, self.domb))
        parties += [Party(f"guest {domid}", guest.domain) for domid, guest in sorted(self.guests.items())]
        return table(self.xen, parties, self.names())

    # --- the end ---
    def counts(self) -> dict[str, int]:
        """Counts of resources that must return to their start values when all guests and processes have ended."""
        out = {
            "free frames": self.xen.frames.free_count,
            "domains": len(self.xen.domains),
            "Dom0's free pages": len(self.kernel.free_pages),
            "Dom0's free addresses": len(self.kernel.free_slots),
            "Dom0's free references": len(self.kernel.free_refs),
            "Dom0's ports": len(self.dom0.events.ports),
            "Dom0's grant handles": sum(1 for r in self.dom0.grant_table.maptrack if r.flags),
        }
        if self.domb is not None:
            out |= {
                "DomB's used pages": self.domb.ram.in_use(),
                "DomB's used addresses": self.domb.demand.in_use(),
                "DomB's free references": len(self.domb.free_refs),
                "DomB's ports": len(self.domb.domain.events.ports),
                "DomB's grant handles": sum(1 for r in self.domb.domain.grant_table.maptrack if r.flags),
            }
        return out

    def shut_down(self) -> list[str]:
        """Destroy all guests and end all processes; returns the resources that differ from the start."""
        for domid in list(self.xl.guests):
            self.destroy(domid)
        self.builder.close()
        self.files.close_all()
        self.xenstored.close()
        self.xenconsoled.close()
        for process in self.processes:
            process.exit()
        self.processes.clear()
        if self.service is not None:
            self.service.hang_up()
        if self.domb is not None:
            data, off = self.domb.domain.grant_table.header_at(XENSTORE_REF)
            abi.ENTRY_V1.pack_into(data, off, 0, 0, 0)
            self.domb.free_page(self.ring)
            self.domb.unbind_evtchn(self.ring_port)
            self.domb.retry_late()
        after = self.counts()
        return [f"{what}: {after[what] - self.before[what]:+d}" for what in self.before if after[what] != self.before[what]]


def memory_for(kernel: bytes) -> int:
    """The number of pages for a guest with this kernel; BootError if the kernel cannot be loaded."""
    try:
        image = elf.parse(kernel)
    except elf.ElfError as exc:
        raise BootError(f"the kernel {exc}") from exc
    span = (image.virt_kend - image.virt_base) >> 12
    if span <= GUEST_PAGES // 4:
        return GUEST_PAGES
    return min(span * 5 // 4 + 2 * GUEST_PAGES, MAX_PAGES)


def boot(
    system: str,
    kernel: bytes | None,
    guests: int,
    seed: int,
    folder: Path | None = None,
    *,
    ramdisk: bytes | None = None,
    pages: int | None = None,
    cmdline: str | None = None,
    watch: Callable[[BootedSystem], None] = lambda machine: None,
) -> BootLog:
    """Boot a system, create guests, compute who can reach what, and destroy them; BootError on failure.

    Dom0's files are written to `folder`, or to a temporary one. Each guest gets `pages` of memory
    (default: as its kernel needs), the ramdisk (default: a small one) and the command line (default: `name=` and its name).
    `watch` is called with the machine before each step and once at the end.
    """
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="bulkhead-boot-") as made:
            return boot(system, kernel, guests, seed, Path(made), ramdisk=ramdisk, pages=pages, cmdline=cmdline, watch=watch)
    if system not in NODES:
        raise BootError(f"there is no system `{system}`; there are {' and '.join(NODES)}")
    if not 1 <= guests <= MAX_GUESTS:
        raise BootError(f"{guests} guests cannot be booted; 1 to {MAX_GUESTS} can")
    image = build_kernel() if kernel is None else kernel
    if len(image) > MAX_FILE:
        raise BootError(f"the kernel has {len(image)} bytes; at most {MAX_FILE} can be loaded")
    memory = memory_for(image) if pages is None else pages
    steps: list[Step] = []

    def log(who: str, whom: str, what: str) -> None:
        steps.append(Step(who, whom, what))

    (folder / "kernel").write_bytes(image)
    (folder / "ramdisk").write_bytes(Random(seed).randbytes(6000) if ramdisk is None else ramdisk)
    try:
        machine = BootedSystem(system, folder, seed, log, watch=watch)
        created = []
        for i in range(guests):
            name = f"guest{i + 1}"
            words = f"name={name}" if cmdline is None else cmdline
            created.append((name, machine.create(name, CreateRequest("kernel", "ramdisk", memory, words))))
        reports = tuple(machine.report(name, domid) for name, domid in created)
        reach = tuple(machine.reach())
        left = tuple(machine.shut_down())
        watch(machine)
    except (ToolError, OSError) as exc:
        raise BootError(f"the system does not come up: {exc}") from exc
    return BootLog(system, seed, tuple(steps), reports, reach, left)
