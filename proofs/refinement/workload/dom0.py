"""Dom0's user space in a campaign: hostile processes, their descriptors, forks and exits, and the kernel's actions for them.

The kernel maps each grant twice, for the process and for itself; in the rules its own address space is one more process
that maps the same grant through its own file. Grant hypercalls of the kernel are calls in flight like the guests', so
guests run wherever they yield; other parts of a system call run at once. A process may be killed at such a point: it then
ends when its call returns, as the kernel checks signals only there. The calls are in dom0_gntdev.py, dom0_gntalloc.py
and dom0_control.py.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from bulkhead.impl.dom0.evtchn import Evtchn
from bulkhead.impl.dom0.gntalloc import GntallocPool
from bulkhead.impl.dom0.kernel import KernelError
from bulkhead.impl.dom0.process import Process
from bulkhead.impl.dom0.syscalls import EVTCHN, GNTALLOC, GNTDEV, PRIVCMD, devices
from bulkhead.impl.xen import abi
from bulkhead.model.caller import OKAY
from bulkhead.proofs.refinement.lockstep import follow_dom0
from bulkhead.proofs.refinement.lockstep.call import CallInFlight, CopyElement
from bulkhead.proofs.refinement.lockstep.dom0_state import (
    NOT_THERE,
    Mapping,
    MapRecord,
    Opened,
    Proc,
    SharedPage,
    Slot,
)
from bulkhead.proofs.refinement.lockstep.spec_state import Mismatch
from bulkhead.proofs.refinement.lockstep.spec_world import CHILD, KERNEL, TOOLS, USER
from bulkhead.proofs.refinement.workload import dom0_changes, dom0_control, dom0_copies, dom0_gntalloc, dom0_gntdev

if TYPE_CHECKING:
    from bulkhead.proofs.refinement.lockstep.lockstep import Lockstep

NODES = {"gntdev": GNTDEV, "gntalloc": GNTALLOC, "evtchn": EVTCHN, "privcmd": PRIVCMD}
MOST_FILES = 5
Move = Callable[["Dom0", Proc], str]


class Dom0:
    """The processes and their open files."""

    def __init__(self, lockstep: Lockstep, rng: random.Random, interleave: Callable[[CallInFlight], None]) -> None:
        self.b = lockstep
        self.rng = rng
        self.kernel = lockstep.rig.kernel
        self.interleave = interleave
        self.at_start = self._kernel_has()
        self.pool = GntallocPool(self.kernel, limit=3)
        self.nodes = devices(self.kernel, self.pool, tuple(NODES.values()))
        self.files: list[Opened] = []
        self.records: list[MapRecord] = []  # maps that are listed or mapped
        self.pages: list[SharedPage] = []
        self.procs: dict[int, Proc] = {}
        self.mapping: Mapping | None = None  # the kernel's current mmap
        self.copying: tuple[Proc, int] | None = None
        self.wanted: list[CopyElement] = []  # expected copies that the kernel has not requested yet
        self.copied: list[list[str]] = []  # the hypervisor's answers to the hypercalls of the last copy
        self.closing: list[int] | None = None  # ports closed by a call whose rule has not been taken yet
        self.own_event = False  # an event channel call of a process, not of the kernel itself
        self.unbinding: dict[str, int] | None = None  # the process and file of an unbind
        self.killed: Proc | None = None
        self.current: Proc | None = None  # the process that makes the system call
        lockstep.spec_state.lives[lockstep.rig.dom0] = 0
        self.kernel_file = self.element("file.open")
        self.rule("open_gntdev", {"p": KERNEL, "x_x": self.kernel_file})
        tools = Proc(TOOLS, Process(self.kernel), self.nodes)
        self.procs[TOOLS] = tools
        fd = tools.sys.open(PRIVCMD)
        self.tools_file = tools.fds[fd] = Opened(tools.process.files[fd], lockstep.privcmd, "privcmd")
        self._know_buffer(tools)
        self.kernel.fly = self.fly
        self.kernel.poked = self.poked
        self.kernel.cleared = self.cleared
        self.kernel.event = self.event
        self.kernel.unbound = self.unbound
        self.kernel.delivered = self.delivered
        self.moves: list[tuple[float, Move]] = []
        weights: tuple[tuple[float, Move], ...] = (
            (9, Dom0.open),
            (4, Dom0.close),
            (2.5, Dom0.fork),
            (2, Dom0.exit),
            (0.5, Dom0.setuid),
            (3, Dom0.store),
            *dom0_gntdev.MOVES,
            *dom0_copies.MOVES,
            *dom0_changes.MOVES,
            *dom0_gntalloc.MOVES,
            *dom0_control.MOVES,
        )
        total = 0.0
        for weight, move in weights:
            total += weight
            self.moves.append((total, move))

    # Rules.

    def rule(self, label: str, args: dict[str, int], expect: str = OKAY, fail: str | None = None) -> str:
        """Take a rule step, which must give the implementation's answer."""
        return self.b.spec_state.step(label, args, expect, fail) if self.b.rules_on else OKAY

    def element(self, func: str) -> int:
        """The first element for which a fact does not hold."""
        return self.b.spec_state.T[func].index(0) if self.b.rules_on else 0

    def _know_buffer(self, proc: Proc) -> None:
        """Record the pages of a process's copies in the rules."""
        for page in proc.pages():
            self.b.spec_state.know_dom0_frame(page.mfn)

    # Moves.

    def move(self) -> str:
        """One system call of a process; returns its text."""
        rng = self.rng
        if USER not in self.procs:
            return self._spawn()
        names = [USER, CHILD, TOOLS] if CHILD in self.procs else [USER, USER, USER, TOOLS]
        proc = self.procs[names[int(rng.random() * len(names))]]
        self.current = proc
        if proc.space == TOOLS:
            text = dom0_control.privcmd(self, proc)
        elif not proc.fds and rng.random() < 0.8:
            text = self.open(proc)
        else:
            x = rng.random() * self.moves[-1][0]
            text = next(move for limit, move in self.moves if x < limit)(self, proc)
        self.sync()
        self._compare_rings()
        if self.killed is not None and self.killed.space in self.procs:
            text += ", killed meanwhile: " + self.exit(self.killed)
        self.killed = None
        return f"p{proc.space}: {text}" if text else ""

    def fd_of(self, proc: Proc, kind: str) -> tuple[int, int, Opened | None]:
        """Descriptor, File, and the open file of a device of that kind; sometimes of another kind."""
        x = self.rng.random()
        if x < 0.8 and kind != "privcmd" and not proc.of_kind(kind) and len(self.files) < MOST_FILES:
            self.open_device(proc, kind)
        mine = proc.of_kind(kind)
        if mine and x < 0.94:
            fd, opened = mine[int(self.rng.random() * len(mine))]
            return fd, opened.x, opened
        others = [(fd, o) for fd, o in proc.fds.items() if o.kind != kind]
        if others and x < 0.98:
            fd, opened = others[int(self.rng.random() * len(others))]
            return fd, opened.x, None
        return NOT_THERE, self.element("file.open"), None

    def open(self, proc: Proc) -> str:
        """open() of a device."""
        if len(self.files) >= MOST_FILES:
            return ""
        x = self.rng.random()
        kind = "gntdev" if x < 0.42 else "gntalloc" if x < 0.64 else "evtchn" if x < 0.92 else "privcmd"
        return self.open_device(proc, kind)

    def open_device(self, proc: Proc, kind: str) -> str:
        """open() of a device node."""
        element = self.element("file.open")
        args = {"p": proc.space, "x_x": element}
        if kind == "privcmd" and not proc.root:
            self.rule("open_privcmd", args, "EACCES")  # the node is root's own
            return "open privcmd: EACCES"
        fd = proc.sys.open(NODES[kind])
        proc.fds[fd] = Opened(proc.process.files[fd], element, kind)
        device = proc.fds[fd].file.device
        if isinstance(device, Evtchn):
            device.ring_size = 1  # it grows with the ports, and overflows only by numbers of closed ports
        self.files.append(proc.fds[fd])
        self.rule(f"open_{kind}", args)
        return f"open {kind}"

    def close(self, proc: Proc) -> str:
        """close(); other descriptors and mappings keep the file."""
        if not proc.fds or self.rng.random() < 0.1:
            try:
                proc.sys.close(NOT_THERE)
            except KernelError as error:
                code = "EBADF" if error.code == abi.EBADF else str(error.code)
            else:
                code = OKAY
            self.rule("close", {"p": proc.space, "x": self.element("file.open")}, code)
            return "close of nothing"
        fds = list(proc.fds)
        self.close_fd(proc, fds[int(self.rng.random() * len(fds))])
        return "close"

    def close_fd(self, proc: Proc, fd: int) -> None:
        """close() of a descriptor."""
        self.rule("close", {"p": proc.space, "x": proc.fds.pop(fd).x})
        proc.sys.close(fd)
        self.sync()

    def setuid(self, proc: Proc) -> str:
        """The process drops root privileges."""
        proc.root = False
        self.rule("setuid", {"p": proc.space})
        return "setuid"

    def store(self, proc: Proc) -> str:
        """Stores through all its mappings."""
        for slot in proc.slots.values():
            self.store_to(proc, slot)
        return "store"

    def store_to(self, proc: Proc, slot: Slot) -> None:
        """A store through one of them, at the byte to clear if there is one."""
        if slot.dead:
            dom0_changes.expect_sigbus(proc, slot)
        elif slot.writable:
            if slot.kind != "foreign":
                self.b.fill(proc.process.space.access(slot.vpn << 12, True))
            at = slot.byte() if slot.byte() >= 0 else 256
            proc.sys.store((slot.vpn << 12) + at, b"dom0"[: max(1, min(4, 4096 - at))])
            if slot.user is not None:
                self.rule("store", {"space": proc.space, "t": slot.user})

    # Processes.

    def _spawn(self) -> str:
        """The toolstack starts a process. It closes inherited files, and usually drops root privileges."""
        proc = self.fork_from(self.procs[TOOLS], USER)
        for fd in list(proc.fds):
            if self.rng.random() < 0.9:
                self.close_fd(proc, fd)
        model = self.rng.random() < 0.3  # like a device model: with a privcmd restricted to one guest
        if model:
            self.open_device(proc, "privcmd")
            dom0_control.restrict(self, proc)
        if model or self.rng.random() < 0.75:
            self.setuid(proc)
        return "a new process"

    def fork(self, proc: Proc) -> str:
        """fork() of the user process."""
        if CHILD in self.procs or proc.space != USER:
            return ""
        self.fork_from(proc, CHILD)
        return "fork"

    def fork_from(self, parent: Proc, space: int) -> Proc:
        """fork(): the child shares its parent's files and its mappings of own pages."""
        child = Proc(space, parent.process.fork(), self.nodes, parent)
        self.procs[space] = child
        self._know_buffer(child)
        self.rule("fork", {"p": parent.space, "child": space})
        inherited = sum(1 for vma in child.process.space.vmas if vma.file is not None)
        if inherited != len({id(parent.process.space.find(s.vpn)) for s in parent.slots.values() if s.kind == "own"}):
            raise Mismatch("fork: a child inherits its parent's own pages, and neither grants nor foreign pages")
        for slot in parent.slots.values():
            if slot.kind == "own":
                maddr = child.process.space.pte_maddr(slot.vpn)
                copy = child.slots[slot.vpn] = Slot("own", slot.vpn, slot.writable, maddr=maddr)
                if self.b.rules_on and slot.user is not None:
                    copy.user = self.b.spec_state.free_translation()
                    self.rule(
                        "gntalloc_inherit",
                        {
                            "p": parent.space,
                            "child": space,
                            "t": slot.user,
                            "u_t": copy.user,
                            "u_nil": self.b.spec_state.size.handles - 1,
                        },
                    )
        return child

    def exit(self, proc: Proc) -> str:
        """exit or kill -9: the address space is destroyed, then descriptors are closed."""
        if proc.space == TOOLS:
            return ""
        self.rule("exit", {"p": proc.space})
        self.current = proc
        proc.fds.clear()
        del self.procs[proc.space]
        self.procs[-1] = proc  # its mappings still need it
        mfns = [page.mfn for page in proc.pages()]
        proc.process.exit()
        del self.procs[-1]
        for mfn in mfns:
            self.b.spec_state.forget_dom0_frame(mfn)
        self.sync()
        for slot in proc.slots.values():
            if slot.kind != "grant" or slot.user is not None or slot.kernel is not None:
                raise Mismatch(f"a process that has gone keeps a mapping: {slot}")
        self.rule("reap", {"p": proc.space})
        return "exit"

    # Actions of the kernel.

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
        self.b.launch(in_flight, follow_dom0.follower(self, in_flight, cmd, elements), ncalls)
        self.interleave(in_flight)
        return in_flight.rc

    def slots(self) -> list[tuple[Proc, Slot]]:
        """All mappings of all processes."""
        return [(proc, slot) for proc in self.procs.values() for slot in proc.slots.values()]

    def poked(self, window: int) -> None:
        """The kernel has cleared a byte through its own window, for an unmap notification."""
        if not self.b.rules_on:
            return
        slots = [s for _, s in self.slots()] + (self.mapping.slots if self.mapping is not None else [])
        found = next(
            (s for s in slots if s.record is not None and s.record.gmap.slots[s.page : s.page + 1] == [window]), None
        )
        if found is None or found.kernel is None or found.byte() < 0:
            raise Mismatch("the kernel has cleared a byte of nobody's mapping, or of another page of it")
        self.rule("store", {"space": KERNEL, "t": found.kernel})

    def cleared(self, maddr: int) -> None:
        """The kernel has cleared a page-table entry by mmu_update."""
        for proc, slot in self.slots():
            if slot.maddr == maddr and slot.kind != "grant":
                del proc.slots[slot.vpn]
                if self.b.rules_on and slot.user is not None:
                    frame = self.b.spec_state.T["translation.frame"][slot.user]
                    label = "gntalloc_munmap" if slot.kind == "own" else "privcmd_munmap"
                    self.rule(label, {"p": proc.space, "t": slot.user})
                    self.rule("flush_tlb", {"d": 0})
                    self.b.touch_frame(frame)
                    self.b.settle()
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
        T = self.b.spec_state.T
        if self.b.rules_on and not any(
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

    def sync(self) -> None:
        """Follow released files, ended maps and freed shared pages."""
        if not self.b.rules_on:
            self.files = [o for o in self.files if o.file.refs]
            self.records = [r for r in self.records if r.gmap.users]
            for page in [p for p in self.pages if self._taken_back(p)]:
                self.pages.remove(page)
                self.b.spec_state.forget_dom0_frame(page.mfn)
            return
        sh = self.b.spec_state
        for opened in [o for o in self.files if not o.file.refs]:
            if any(sh.T["bound.used"][q] and sh.T["bound.file"][q] == opened.x for q in range(sh.size.ports)):
                continue  # still closing its ports
            self.rule("release_file", {"x": opened.x})
            self.files.remove(opened)
        for record in [r for r in self.records if not r.gmap.users]:
            if sh.T["notice.event"][record.m]:
                self.rule("gntdev_ring", {"m": record.m})
            self.records.remove(record)
        for page in [p for p in self.pages if not p.granted.users and sh.T["page_notice.event"][p.f]]:
            self.rule("gntalloc_ring", {"f": page.f})
        for page in [p for p in self.pages if self._taken_back(p)]:
            self.rule("gntalloc_free", {"f": page.f})
            self.pages.remove(page)
            sh.awaiting_free.discard(page.f)
            sh.forget_dom0_frame(page.mfn)

    def _taken_back(self, page: SharedPage) -> bool:
        return page.ref in self.kernel.free_refs

    def _compare_rings(self) -> None:
        """Compare the contents of each file's ring."""
        if not self.b.rules_on:
            return
        rang, n = self.b.spec_state.T["rang"], self.b.spec_state.size.ports
        for opened in self.files:
            device = opened.file.device
            if isinstance(device, Evtchn) and not device.overflow:
                rules = {q + 1 for q in range(n) if rang[opened.x * n + q]}
                if rules != set(device.ring):
                    raise Mismatch(f"by the rules {sorted(rules)} wait to be read, in the implementation {device.ring}")

    def end(self) -> None:
        """End all processes, and free the last pages that peers map."""
        for proc in [p for p in self.procs.values() if p.space != TOOLS]:
            self.exit(proc)
        self.pool.retry_deferred()
        self.sync()
        if self.pool.deferred or self.pages or self.records or self.files:
            raise Mismatch("Dom0 keeps a shared page, a map or a file at the end")
        self.procs[TOOLS].process.exit()
        if self.procs[TOOLS].slots or self._kernel_has() != self.at_start:
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
