"""The follower of Dom0's side of the channel: processes that map the ring and guests' reserved pages, and their ports.

The calls of Dom0's kernel are followed one hypercall at a time, with the driver's rule steps around each (registering a
grant, mapping it, removing the index). The campaign on `monolithic` compares the drivers themselves.
"""

from __future__ import annotations

from collections.abc import Sequence

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.domains import Domain
from bulkhead.impl.xen.events import INTERDOMAIN
from bulkhead.impl.xen.frames import PGT_L1, PGT_L2, PGT_L3, PGT_L4
from bulkhead.impl.xen.hypercall_evtchn import DOMID_PORT
from bulkhead.model.caller import OKAY
from bulkhead.proofs.refinement.domb.book import Book
from bulkhead.proofs.refinement.domb.rig import Rig, WatchedService, granted
from bulkhead.proofs.refinement.domb.world import DOM0, FIRST_PROCESS, KERNEL, KERNEL_FILE
from bulkhead.proofs.refinement.lockstep.rule_steps import ANY, Mismatch


class Dom0Side:
    """Processes of Dom0, by their Space element, and the kernel's actions for them."""

    def __init__(self, rig: Rig, book: Book) -> None:
        self.rig = rig
        self.book = book
        self.service: WatchedService | None = None
        self.lives: dict[Domain, int] = {rig.xen.domains[0]: 0, rig.xen.domains[1]: 1}
        self.who = -1  # the process that makes the current system call
        self.files: dict[tuple[int, str], int] = {}
        self.handles: dict[int, int] = {}  # Dom0's handles -> Handle
        self.refused = False  # Xen has refused a map or a bind since somebody asked
        self.clock = 0  # counts what a daemon publishes in a ring, and signals
        self.signalled: dict[int, int] = {}  # ports of Dom0 -> when they were signalled last
        self.had_writer = False  # some process could write the channel that is offered now

    def rule(self, label: str, args: dict[str, int] | None = None, expect: str = OKAY, fail: str | None = None) -> str:
        """Take a rule step, which must give the implementation's answer."""
        return self.book.step(label, args or {}, expect, fail)

    # Processes.

    def spawn(self) -> int:
        """A new process, as a fork of a permanent one (in the rules, the kernel's)."""
        T, m = self.book.T, self.book.m["ProcessPhase"]
        for space in range(FIRST_PROCESS, FIRST_PROCESS + self.book.size.processes):
            if T["process.phase"][space] == m["no_process"]:
                self.rule("fork", {"p": KERNEL, "child": space})
                self.rule("close", {"p": space, "x": KERNEL_FILE})
                return space
        raise Mismatch("the world has too few processes")

    def dies(self, space: int) -> None:
        """A process is about to end: its descriptors are closed at once."""
        self.who = space
        self.rule("exit", {"p": space})

    def died(self, space: int) -> None:
        """Its address space is destroyed, and with it its files."""
        for key, x in list(self.files.items()):
            if key[0] == space:
                self.rule("release_file", {"x": x})
                del self.files[key]
        self.rule("reap", {"p": space})
        self.who = -1

    def opened(self, opened: bool, inside: bool) -> None:
        """A file proxy has opened a file, inside of what it exports or not, or has refused to."""
        book, who = self.book, self.who
        if book.T["process.phase"][who] != book.m["ProcessPhase"]["process_runs"] or book.T["at"][0]:
            return
        book.put({("ring.name", 0): int(not (opened and inside))})  # the content of the message that it read
        self.rule("proxy_open", {"p": who, "this": 0})
        self.rule("proxy_open.open", {"this": 0}, OKAY if opened else "EACCES")

    def _file(self, kind: str) -> int:
        x = self.files.get((self.who, kind))
        if x is None:
            x = self.files[self.who, kind] = self.book.free("file.open")
            self.rule(f"open_{kind}", {"p": self.who, "x_x": x})
        return x

    # Grants.

    def dom0_grant(self, cmd: int, elements: Sequence[bytes], out: Sequence[bytes]) -> None:
        """One grant operation of Dom0's kernel."""
        for before, after in zip(elements, out, strict=True):
            if cmd == abi.GNTTABOP_MAP_GRANT_REF:
                self._mapped(before, after)
            elif cmd == abi.GNTTABOP_UNMAP_GRANT_REF:
                self._unmapped(before, after)

    def _mapped(self, before: bytes, after: bytes) -> None:
        _, flags, ref, domid, *_ = abi.MAP_GRANT_REF.unpack(before)
        status, handle = abi.MAP_GRANT_REF.unpack(after)[4:6]
        self.refused |= status != 0
        kernels = not flags & abi.GNTMAP_CONTAINS_PTE
        p, x = (KERNEL, KERNEL_FILE) if kernels else (self.who, self._file("gntdev"))
        m = self.book.free_map()
        writable = int(not flags & abi.GNTMAP_READONLY)
        self.rule(
            "gntdev_map_grant_ref", {"p": p, "x": x, "dom": self.book.domain(domid), "ref": self.book.ref(ref), "m": m}
        )
        self.rule("gntdev_mmap", {"p": p, "x": x, "m": m, "writable": writable, "this": 0})
        self.rule("gntdev_unmap_grant_ref", {"p": p, "x": x, "m": m})
        h = self.book.free("mapping.host", "mapping.device", "mapping.taken")
        code = self.rule("gntdev_mmap.map", {"this": 0, "got_h": h}, ANY)
        if code == OKAY and status and writable and self._page_table(domid, ref):
            self.rule("gntdev_mmap.insert", {"this": 0, "got_t": 0, "got_u": 0}, "EINVAL", "EINVAL")
        elif (code == OKAY) != (status == 0):
            raise Mismatch(f"mapping grant {ref} of domain {domid}: the rules say {code}, Xen {status}")
        if status == 0:
            t = self.book.free_translation()
            self.rule("gntdev_mmap.insert", {"this": 0, "got_t": t, "got_u": self.book.free_translation(t)})
            self.handles[handle] = h
            T = self.book.T
            self.had_writer |= bool(writable and T["ring_page.listed"][T["translation.frame"][t]])

    def _page_table(self, domid: int, ref: int) -> bool:
        """Does Xen use the granted page as a page table, so that nobody may write it?"""
        frame = granted(self.rig, domid, ref)
        return frame is not None and frame.ptype in (PGT_L1, PGT_L2, PGT_L3, PGT_L4) and frame.tcount > 0

    def _unmapped(self, before: bytes, after: bytes) -> None:
        number = abi.UNMAP_GRANT_REF.unpack(before)[2]
        status = abi.STATUS.unpack_from(after, 20)[0]
        h = self.handles.pop(number, None)
        if h is None and status == abi.GNTST_BAD_HANDLE:
            return  # of a page that could not be mapped
        if h is None or status:
            raise Mismatch(f"Dom0 unmaps handle {number:#x}: status {status}")
        t = self.book.T["mapping.host_t"][h]
        self.rule("gntdev_munmap", {"p": self.book.T["translation.space"][t], "t": t, "this": 0})
        self.rule("gntdev_munmap.flush", {"this": 0})
        self.rule("gntdev_munmap.complete", {"this": 0})

    # Event channels.

    def tick(self) -> int:
        """A time that is later than all before it."""
        self.clock += 1
        return self.clock

    def rings(self, d: int, q: int) -> None:
        """An event of a daemon's, a tool's or DomB's comes to the other end; no rule is about it."""
        T, ports = self.book.T, self.book.size.ports
        k = d * ports + q
        if T["port.state"][k] == INTERDOMAIN:
            self.book.put({("port.pending", T["port.remote"][k] * ports + T["port.remote_port"][k]): 1})

    def dom0_port(self, cmd: int, arg: bytes, rc: int, raw: bytes) -> None:
        """One event channel operation of Dom0's kernel."""
        if cmd == abi.EVTCHNOP_SEND and rc == 0:
            self.signalled[abi.U32.unpack(arg)[0]] = self.tick()
            self.rings(DOM0, abi.U32.unpack(arg)[0] - 1)
        if cmd == abi.EVTCHNOP_BIND_INTERDOMAIN:
            domid, _, port, local = DOMID_PORT.unpack(raw)
            args = {
                "p": self.who,
                "x": self._file("evtchn"),
                "dom": self.book.domain(domid),
                "o": self.book.port(port),
            }
            self.refused |= rc != 0
            self.rule(
                "evtchn_bind",
                args | ({"q_q": local - 1} if rc == 0 else {}),
                {0: OKAY, -abi.EINVAL: "EINVAL", -abi.ESRCH: "ESRCH"}.get(rc, str(rc)),
            )
        elif cmd == abi.EVTCHNOP_CLOSE:
            self.rule("close_left_open", {"q": abi.U32.unpack(arg)[0] - 1})

    def dom0_unbound(self, port: int) -> None:
        """A file of a process gives up a port: by a call, or at its end. A notice of another process may keep it open."""
        phase = self.book.T["process.phase"][self.who] if self.who >= 0 else 0
        if phase == self.book.m["ProcessPhase"]["process_runs"]:
            self.rule("evtchn_unbind", {"p": self.who, "x": self._file("evtchn"), "q": port - 1})
        else:
            self.rule("evtchn_release", {"q": port - 1})
