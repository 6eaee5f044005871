"""The machine under test: Xen, Dom0's kernel and processes, and DomB with its service, with hooks for a watcher.

The classes here are the implementation's own with one addition: they notify a watcher (`Ear`) of each hypercall, grant,
mapping, store and message of DomB after it was made, and of the grant and event hypercalls of Dom0's kernel. Not here:
decisions and rules. A watcher may also make a hypercall or an allocation of DomB fail.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from bulkhead.impl.boot import NODES
from bulkhead.impl.dom0.gntalloc import GntallocPool
from bulkhead.impl.dom0.kernel import KernelError
from bulkhead.impl.dom0.process import Process
from bulkhead.impl.dom0.syscalls import Syscalls, devices
from bulkhead.impl.domb import protocol as p
from bulkhead.impl.domb.minios import MiniOs
from bulkhead.impl.domb.minios_osdep import MiniOsOsdep
from bulkhead.impl.domb.service import BuilderService
from bulkhead.impl.libs.linux import LinuxOsdep
from bulkhead.impl.libs.vchan import Offer, Vchan
from bulkhead.impl.xen import abi
from bulkhead.impl.xen.frames import Frame
from bulkhead.impl.xen.lifecycle import create_domain, set_max_vcpus
from bulkhead.impl.xen.machine import Xen
from bulkhead.proofs.refinement.dom0.kernel import MOST_SHARED
from bulkhead.proofs.refinement.domb.spoken import heard
from bulkhead.proofs.refinement.lockstep import testbed
from bulkhead.proofs.refinement.lockstep.rule_steps import Mismatch

FOREIGN = "foreignmemory"  # a handle of that library
DOM0_PAGES, DOMB_PAGES, DOMB_WINDOWS = 400, 52, 1


class Ear(Protocol):
    """The callbacks of a watcher."""

    def fails(self, what: str) -> int:
        """The errno with which DomB's next call must fail; 0 for none."""

    def lacks(self) -> None:
        """DomB has no page left."""

    def hypercall(self, number: int, args: Sequence[int], before: bytes, rc: int) -> None:
        """DomB's libraries have made a hypercall; `before` is the struct that it named."""

    def mmu(self, slot: int, val: int, domid: int, rc: int) -> None:
        """DomB's kernel has changed an entry of its demand area."""

    def flushed(self) -> None:
        """DomB's kernel has asked Xen to flush its TLB."""

    def has_read(self, addr: int, out: bytes) -> None:
        """DomB has loaded bytes."""

    def stored(self, addr: int, payload: bytes) -> None:
        """DomB has stored bytes."""

    def released(self, frames: list[Frame]) -> None:
        """DomB has freed pages with arguments of hypercalls."""

    def shared(self, frame: Frame, ref: int) -> None:
        """DomB has granted one of its pages."""

    def ended(self, ref: int, done: bool) -> None:
        """DomB has revoked a grant, or failed to."""

    def port(self, cmd: int, arg: bytes, rc: int, raw: bytes) -> None:
        """DomB's kernel has made an event channel operation."""

    def dom0_grant(self, cmd: int, elements: Sequence[bytes], out: Sequence[bytes]) -> None:
        """Dom0's kernel has made a grant operation."""

    def dom0_port(self, cmd: int, arg: bytes, rc: int, raw: bytes) -> None:
        """Dom0's kernel has made an event channel operation."""

    def dom0_unbound(self, port: int) -> None:
        """Dom0's kernel is about to give up a file's hold of a port."""

    def offered(self, chan: Vchan) -> None:
        """DomB offers a channel."""

    def receives(self, receive: Callable[[], p.Message | None]) -> p.Message | None:
        """DomB looks for a message in its ring."""

    def sends(self, message: p.Message, send: Callable[[], bool]) -> bool:
        """DomB puts a message into its ring, if there is room."""

    def message(self, message: p.Message) -> None:
        """DomB has taken a message and is about to handle it."""

    def handled(self, message: p.Message, answer: p.Message | None) -> None:
        """DomB has handled the message; with the answer of the same number, if it answered at once."""

    def posted(self, op: int, number: int, status: int, body: bytes) -> None:
        """DomB has queued a message for its ring."""

    def sent(self, message: p.Message) -> None:
        """DomB has put a message into its ring."""

    def looked(self) -> None:
        """DomB has checked which answers were taken."""

    def hangs_up(self) -> None:
        """DomB is about to end its connection."""

    def hung_up(self) -> None:
        """DomB has ended its connection."""


class WatchedKernel(testbed.WatchedKernel):
    """Dom0's kernel. While a user's call is made (users.py), the hooks hear of what it does, else the ear."""

    __slots__ = ("ear",)

    def __init__(self, xen: Xen, npages: int, nwindows: int) -> None:
        self.ear: Ear | None = None
        super().__init__(xen, xen.domains[0], npages=npages, nwindows=nwindows)

    def grant_op(self, cmd: int, elements: Sequence[bytes]) -> tuple[int, list[bytes]]:
        if self.fly is not None:
            return super().grant_op(cmd, elements)
        out: list[bytes] = []
        for each in elements:  # one by one, so that the effect of each is seen before the next
            rc, part = super().grant_op(cmd, [each])
            out += part
            if rc:
                return rc, out + [bytes(e) for e in elements[len(out) :]]
            if self.ear is not None:
                self.ear.dom0_grant(cmd, [each], part)
        return 0, out

    def evtchn_op(self, cmd: int, arg: bytes) -> tuple[int, bytes]:
        rc, raw = super().evtchn_op(cmd, arg)
        if self.ear is not None and self.fly is None:
            self.ear.dom0_port(cmd, arg, rc, raw)
        return rc, raw

    def unbind_port(self, port: int) -> None:
        if self.ear is not None and self.fly is None:
            self.ear.dom0_unbound(port)
        super().unbind_port(port)


class WatchedDomb(MiniOs):
    """DomB's kernel."""

    __slots__ = ("ear",)

    def __init__(self, xen: Xen, domain: object, npages: int, nwindows: int) -> None:
        self.ear: Ear | None = None
        super().__init__(xen, domain, npages, nwindows)  # type: ignore[arg-type]

    def mmu_update(self, ptr: int, val: int, foreigndom: int) -> int:
        rc = self.ear.fails("mmu_update") if self.ear is not None and val else 0
        rc = -rc if rc else super().mmu_update(ptr, val, foreigndom)
        if self.ear is not None:
            self.ear.mmu((ptr - self.layout.window_maddr(0)) >> 3, val, foreigndom, rc)
        return rc

    def mmuext(self, cmd: int, arg1: int = 0, arg2: int = 0, foreigndom: int = abi.DOMID_SELF) -> int:
        rc = super().mmuext(cmd, arg1, arg2, foreigndom)
        if self.ear is not None and rc == 0 and cmd == abi.MMUEXT_TLB_FLUSH_LOCAL:
            self.ear.flushed()
        return rc

    def alloc_pages(self, count: int) -> list[Frame]:
        try:
            return super().alloc_pages(count)
        except KernelError:
            if self.ear is not None:
                self.ear.lacks()
            raise

    def share(self, domid: int, count: int, writable: bool) -> tuple[list[Frame], list[int]]:
        failing = self.ear.fails("share") if self.ear is not None else 0
        if failing:
            raise KernelError(failing)
        return super().share(domid, count, writable)

    def grant_access(self, domid: int, frame: Frame, readonly: bool) -> int:
        failing = self.ear.fails("grant") if self.ear is not None else 0
        if failing:
            raise KernelError(abi.ENOSPC)
        ref = super().grant_access(domid, frame, readonly)
        if self.ear is not None:
            self.ear.shared(frame, ref)
        return ref

    def end_access(self, ref: int) -> bool:
        done = super().end_access(ref)
        if self.ear is not None:
            self.ear.ended(ref, done)
        return done

    def evtchn_op(self, cmd: int, arg: bytes) -> tuple[int, bytes]:
        rc, raw = super().evtchn_op(cmd, arg)
        if self.ear is not None:
            self.ear.port(cmd, arg, rc, raw)
        return rc, raw


class WatchedOsdep(MiniOsOsdep):
    """The libraries' operating system on it."""

    def __init__(self, os: WatchedDomb) -> None:
        super().__init__(os)
        self.domb = os
        self.raced: Callable[[int], None] = lambda addr: None  # actions of others after a load of this address
        self.partly = -1  # where a mapping has failed in part: the library unmaps the rest by itself, and cannot try again
        self.seen: dict[int, bytes] = {}  # bytes of DomB's last loads, by address

    def load(self, addr: int, size: int) -> bytes:
        out = self.seen[addr] = super().load(addr, size)
        if self.domb.ear is not None:
            self.domb.ear.has_read(addr, out)
        self.raced(addr)
        return out

    def _held(self, fd: int, *kinds: str) -> None:
        """DomB's libraries need no handle for this, but its builder must not use or close one that it has closed."""
        if (self.files.get(fd) not in kinds) if kinds else fd not in self.files:
            raise Mismatch(f"DomB uses the handle {fd} for {kinds or 'closing it'}, and it is {self.files.get(fd)}")

    def close(self, fd: int) -> None:
        self._held(fd)
        super().close(fd)

    def foreign_map(self, fd: int, domid: int, prot: int, gfns: Sequence[int]) -> tuple[int, list[int]]:
        self._held(fd, FOREIGN)
        addr, errors = super().foreign_map(fd, domid, prot, gfns)
        self.partly = addr if any(errors) else -1
        return addr, errors

    def hypercall(self, fd: int, number: int, args: Sequence[int]) -> int:
        self._held(fd, "call", FOREIGN)
        ear = self.domb.ear
        assert ear is not None
        failing = ear.fails(f"hypercall {number}")
        at = next((a for a in args if a >= self.domb.layout.base), 0)
        before = self.load(at, 128) if at else b""
        try:
            rc = -failing if failing else super().hypercall(fd, number, args)
        except KernelError as error:
            rc = -error.code
        ear.hypercall(number, args, before, rc)
        if rc < 0:
            raise KernelError(-rc)
        return rc

    def store(self, addr: int, payload: bytes) -> None:
        super().store(addr, payload)
        if self.domb.ear is not None:
            self.domb.ear.stored(addr, payload)

    def foreign_unmap(self, fd: int, addr: int, count: int) -> None:
        self._held(fd, FOREIGN)
        ear = self.domb.ear
        failing = ear.fails("unmap") if ear is not None and addr != self.partly else 0
        if failing:
            raise KernelError(failing)
        super().foreign_unmap(fd, addr, count)

    def buffer(self, size: int) -> int:
        ear = self.domb.ear
        failing = ear.fails("buffer") if ear is not None else 0
        if failing:
            raise KernelError(failing)
        return super().buffer(size)

    def release(self, addr: int, size: int) -> None:
        super().release(addr, size)
        if self.domb.ear is not None:
            first = (addr - self.os.layout.va(0)) >> 12
            self.domb.ear.released(self.os.layout.pages[first : first + ((size + 4095) >> 12)])


class WatchedPipe(p.Pipe):
    """DomB's end of the channel."""

    def __init__(self, chan: Vchan, ear: Ear) -> None:
        super().__init__(chan)
        self.ear = ear

    def receive(self) -> p.Message | None:
        return self.ear.receives(super().receive)

    def send(self, message: p.Message) -> bool:
        plain = super().send
        done = self.ear.sends(message, lambda: plain(message))
        if done:
            self.ear.sent(message)
        return done


class WatchedService(BuilderService):
    """DomB's service."""

    ear: Ear
    taken: Callable[[p.Message], None]  # what happens after DomB has taken a message, and before it acts on its copy

    def offer(self) -> Offer:
        made = super().offer()
        assert self.chan is not None
        self.pipe = WatchedPipe(self.chan, self.ear)
        self.ear.offered(self.chan)
        return made

    def hang_up(self) -> None:
        self.ear.hangs_up()
        super().hang_up()
        self.ear.hung_up()

    def _handle(self, message: p.Message) -> None:
        self.ear.message(message)
        self.taken(message)
        self.answer: p.Message | None = None
        try:
            super()._handle(message)
        except p.ProtocolError:  # no room for the answer: the effect stays
            self.ear.handled(message, self.answer)
            raise
        self.ear.handled(message, self.answer)

    def _post(self, op: int, number: int, status: int = 0, body: bytes = b"") -> None:
        if op & p.REPLY:
            self.answer = p.Message(op, number, status, body)
        self.ear.posted(op, number, status, body)
        super()._post(op, number, status, body)

    def _see_who_was_told(self) -> None:
        super()._see_who_was_told()
        self.ear.looked()


class Rig(testbed.Bench):
    """The machine."""

    kernel: WatchedKernel

    def __init__(self, seed: int, heap: int, domb_pages: int) -> None:
        probe = self._boot(Xen(nframes=0x2000, reserved=0x1000, seed=seed))
        first = probe[0].frames.fresh
        self.xen, self.kernel, self.domb = self._boot(Xen(nframes=first + heap, reserved=0x1000, seed=seed))
        self.dom0 = self.xen.domains[0]
        self.first_mfn = self.xen.frames.fresh
        self.pool = GntallocPool(self.kernel, limit=MOST_SHARED)
        self.nodes = devices(self.kernel, self.pool, NODES["disaggregated"])
        self.own_mfns = [frame.mfn for frame in self.domb.layout.pages]
        if len(self.own_mfns) != domb_pages:
            raise AssertionError(f"DomB has {len(self.own_mfns)} pages, the world {domb_pages}")
        self.os = WatchedOsdep(self.domb)
        self.heap_free = self.xen.frames.free_count

    @staticmethod
    def _boot(xen: Xen) -> tuple[Xen, WatchedKernel, WatchedDomb]:
        dom0 = xen.create_dom0()
        kernel = WatchedKernel(xen, DOM0_PAGES, 1)
        made = create_domain(xen)
        if isinstance(made, int):
            raise AssertionError(f"DomB cannot be created: {made}")
        made.max_pages = DOMB_PAGES + DOMB_WINDOWS + 64
        set_max_vcpus(made, 1)
        made.is_privileged, dom0.is_privileged = True, False
        domb = WatchedDomb(xen, made, DOMB_PAGES, DOMB_WINDOWS)
        made.pause_count = 0
        made.creation_finished = True
        return xen, kernel, domb

    def listen(self, ear: Ear) -> WatchedService:
        """Start watching; returns DomB's service, before it offers a channel."""
        self.kernel.ear = self.domb.ear = ear
        service = WatchedService(self.os, log=heard)
        service.ear = ear
        service.taken = lambda message: None
        return service

    def process(self, name: str) -> LinuxOsdep:
        """A process of Dom0 with the libraries."""
        return LinuxOsdep(Syscalls(name, Process(self.kernel), self.nodes))


def granted(rig: Rig, domid: int, ref: int) -> Frame | None:
    """The page that a grant names; while it is in use, the one that is."""
    domain = rig.xen.domains.get(domid)
    if domain is None or ref >= domain.grant_table.nr_entries:
        return None
    act = domain.grant_table.active[ref]
    return act.frame if act.pin else rig.xen.frames.get(domain.grant_table.entry_v1(ref)[2])


__all__ = ["Ear", "Rig", "WatchedService", "granted"]
