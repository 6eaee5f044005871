"""Dom0's kernel in lockstep with the rules: its grant hypercalls are calls in flight; its own actions take rule steps.

The kernel maps each grant twice, for the process and for itself; in the rules its own address space is one more process
that maps the same grant through its own file. Other parts of a system call run at once. The target supplies the actions
of others while a hypercall of the kernel is in flight (`meanwhile`). Not here: what processes call (gntdev.py and
its neighbours).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bulkhead.impl.dom0.evtchn import Evtchn
from bulkhead.impl.dom0.gntalloc import GntallocPool
from bulkhead.impl.dom0.process import Process
from bulkhead.impl.dom0.syscalls import EVTCHN, GNTALLOC, GNTDEV, PRIVCMD, devices
from bulkhead.impl.xen import abi
from bulkhead.proofs.refinement.dom0.follow import follower
from bulkhead.proofs.refinement.dom0.state import Opened, Proc, SharedPage, UserSpace
from bulkhead.proofs.refinement.lockstep.call import CallInFlight
from bulkhead.proofs.refinement.lockstep.flights import Flights
from bulkhead.proofs.refinement.lockstep.rule_steps import Mismatch

NODES = {"gntdev": GNTDEV, "gntalloc": GNTALLOC, "evtchn": EVTCHN, "privcmd": PRIVCMD}
MOST_SHARED = 3  # the limit of gntalloc's pages: small, so that it is reached


class Dom0(UserSpace):
    """The processes, their open files, and the kernel."""

    def __init__(
        self,
        lockstep: Flights,
        meanwhile: Callable[[CallInFlight], None],
        pool: GntallocPool | None = None,
        names: tuple[str, ...] = tuple(NODES.values()),
    ) -> None:
        """The processes have the device nodes `names`; with privcmd among them the toolstack has it open."""
        super().__init__(lockstep)
        self.meanwhile = meanwhile
        self.at_start = self._kernel_has()
        self.pool = GntallocPool(self.kernel, limit=MOST_SHARED) if pool is None else pool
        self.nodes = devices(self.kernel, self.pool, names)
        if lockstep.kernel_file is None:
            self.rule("open_gntdev", {"p": lockstep.kernel_space, "x_x": self.kernel_file})
        tools = Proc(lockstep.toolstack, Process(self.kernel), self.nodes)
        self.procs[tools.space] = tools
        self.tools_file: Opened | None = None
        if PRIVCMD in names:
            fd = tools.sys.open(PRIVCMD)
            self.tools_file = tools.fds[fd] = Opened(tools.process.files[fd], lockstep.privcmd, "privcmd")
        self.know_buffer(tools)
        self.listen()

    def listen(self) -> None:
        """The kernel tells this of all that it does."""
        self.kernel.fly = self.fly
        self.kernel.poked = self.poked
        self.kernel.cleared = self.cleared
        self.kernel.event = self.event
        self.kernel.unbound = self.unbound
        self.kernel.delivered = self.delivered

    def know_buffer(self, proc: Proc) -> None:
        """Record the pages of a process's copies in the rules."""
        for page in proc.pages():
            self.lockstep.spec_state.know_dom0_frame(page.mfn)

    # Actions of the kernel for a process.

    def fly(self, cmd: int, elements: Sequence[bytes]) -> int:
        """A grant hypercall of the kernel: a call in flight, with guests running between its steps."""
        self.sync()
        kernel = self.kernel
        in_flight = CallInFlight(
            f"dom0: grant op {cmd}",
            0,
            0,
            kernel.xen.hypercall(kernel.vcpu, abi.HYPERVISOR_GRANT_TABLE_OP, cmd, kernel.arg_va, len(elements)),
            read=kernel.result,
        )
        ncalls = len(elements) if cmd == abi.GNTTABOP_UNMAP_GRANT_REF else 1
        self.lockstep.launch(in_flight, follower(self, in_flight, cmd, elements), ncalls)
        self.meanwhile(in_flight)
        return in_flight.rc

    def poked(self, window: int) -> None:
        """The kernel has cleared a byte through its own window, for an unmap notification."""
        if not self.lockstep.rules_on:
            return
        slots = [s for _, s in self.slots()] + (self.mapping.slots if self.mapping is not None else [])
        found = next(
            (s for s in slots if s.record is not None and s.record.gmap.slots[s.page : s.page + 1] == [window]), None
        )
        if found is None or found.kernel is None or found.byte() < 0:
            raise Mismatch("the kernel has cleared a byte of nobody's mapping, or of another page of it")
        self.rule("store", {"space": self.lockstep.kernel_space, "t": found.kernel})

    def cleared(self, maddr: int) -> None:
        """The kernel has cleared a page-table entry by mmu_update."""
        for proc, slot in self.slots():
            if slot.maddr == maddr and slot.kind != "grant":
                del proc.slots[slot.vpn]
                if self.lockstep.rules_on and slot.user is not None:
                    frame = self.lockstep.spec_state.T["translation.frame"][slot.user]
                    label = "gntalloc_munmap" if slot.kind == "own" else "privcmd_munmap"
                    self.rule(label, {"p": proc.space, "t": slot.user})
                    self.rule("flush_tlb", {"d": 0})
                    self.lockstep.touch_frame(frame)
                    self.lockstep.settle()
                return

    def event(self, cmd: int, port: int) -> None:
        """The kernel has closed an unreferenced port, or sent an event itself: the end of a map or page."""
        if cmd == abi.EVTCHNOP_CLOSE:
            if self.closing is not None:
                self.closing.append(port)
            else:
                self.rule("close_left_open", {"q": port - 1})
            return
        if self.own_event:
            return
        T = self.lockstep.spec_state.T
        if self.lockstep.rules_on and not any(
            T[f"{what}.event"][n] and T[f"{what}.port"][n] == port - 1 for what, n in self._ended()
        ):
            raise Mismatch(f"the kernel has rung port {port}, and nothing that asked for it has ended")
        self.sync()

    def closed(self) -> None:
        """After a call's rule step, take the steps of the ports that it closed."""
        ports, self.closing = self.closing or [], None
        for port in ports:
            self.rule("close_left_open", {"q": port - 1})

    def _ended(self) -> list[tuple[str, int]]:
        """Due notices of maps and pages, as state and element."""
        return [
            *(("notice", r.m) for r in self.records if not r.gmap.users),
            *(("page_notice", p.f) for p in self.pages if not p.granted.users),
        ]

    def unbound(self, port: int) -> None:
        """A file unbinds a port: by a call of the process, or at its last close."""
        if not self.own_event:
            self.rule("evtchn_release", {"q": port - 1})
        elif self.unbinding is not None:
            self.rule("evtchn_unbind", {**self.unbinding, "q": port - 1})

    def delivered(self, port: int) -> None:
        """The kernel has put a pending port into its file's ring."""
        self.rule("evtchn_upcall", {"q": port - 1})

    # Actions of the kernel itself.

    def sync(self) -> None:
        """Follow released files, ended maps and freed shared pages."""
        if not self.lockstep.rules_on:
            self.files = [o for o in self.files if o.file.refs]
            self.records = [r for r in self.records if r.gmap.users]
            for page in [p for p in self.pages if self._taken_back(p)]:
                self.pages.remove(page)
                self.lockstep.spec_state.forget_dom0_frame(page.mfn)
            return
        spec = self.lockstep.spec_state
        for opened in [o for o in self.files if not o.file.refs]:
            if any(spec.T["bound.used"][q] and spec.T["bound.file"][q] == opened.x for q in range(spec.size.ports)):
                continue  # still closing its ports
            self.rule("release_file", {"x": opened.x})
            self.files.remove(opened)
        for record in [r for r in self.records if not r.gmap.users]:
            if spec.T["notice.event"][record.m]:
                self.rule("gntdev_ring", {"m": record.m})
            self.records.remove(record)
        for page in [p for p in self.pages if not p.granted.users and spec.T["page_notice.event"][p.f]]:
            self.rule("gntalloc_ring", {"f": page.f})
        for page in [p for p in self.pages if self._taken_back(p)]:
            self.rule("gntalloc_free", {"f": page.f})
            self.pages.remove(page)
            spec.awaiting_free.discard(page.f)
            spec.forget_dom0_frame(page.mfn)

    def _taken_back(self, page: SharedPage) -> bool:
        return page.ref in self.kernel.free_refs

    def compare_rings(self) -> None:
        """Compare the contents of each file's ring."""
        if not self.lockstep.rules_on:
            return
        rang, n = self.lockstep.spec_state.T["rang"], self.lockstep.spec_state.size.ports
        for opened in self.files:
            device = opened.file.device
            if isinstance(device, Evtchn) and not device.overflow:
                rules = {q + 1 for q in range(n) if rang[opened.x * n + q]}
                if rules != set(device.ring):
                    raise Mismatch(f"by the rules {sorted(rules)} wait to be read, in the implementation {device.ring}")

    # The end.

    def check_end(self) -> None:
        """All processes except the toolstack's have ended: free the last pages that peers map, and check for leaks."""
        self.pool.retry_deferred()
        self.sync()
        if self.pool.deferred or self.pages or self.records or self.files:
            raise Mismatch("Dom0 keeps a shared page, a map or a file at the end")
        tools = self.procs[self.lockstep.toolstack]
        tools.process.exit()
        if tools.slots or self._kernel_has() != self.at_start:
            raise Mismatch(f"Dom0's kernel had {self.at_start} at the start and has {self._kernel_has()} at the end")

    def _kernel_has(self) -> dict[str, int]:
        """The kernel's allocated resources, which must be freed."""
        kernel = self.kernel
        return {
            "pages": len(kernel.free_pages),
            "windows": len(kernel.free_slots),
            "references": len(kernel.free_refs),
            "open ports": len(kernel.domain.events.ports),
            "users of ports": len(kernel.evtchn_users),
            "holds of ports": sum(kernel.evtchn_holds.values()),
        }
