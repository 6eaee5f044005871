"""The implementation under test: a small machine with Dom0 and up to three guests of two vCPUs, driven by bytes.

Each guest has a fixed part (arguments, page tables) and gets its other pages by populate_physmap. A PV guest maps pages at
the slots of one window L1 table; the slots of a PVH guest are guest frame numbers. The policy is a matrix of the pairs
that may share.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence

from bulkhead.impl.dom0.evtchn import Evtchn
from bulkhead.impl.dom0.kernel import Kernel
from bulkhead.impl.xen import abi
from bulkhead.impl.xen.abi import EPERM
from bulkhead.impl.xen.domains import Domain
from bulkhead.impl.xen.frames import PGT_L4, Frame
from bulkhead.impl.xen.grant_map import get_paged_frame
from bulkhead.impl.xen.guest_access import read, write
from bulkhead.impl.xen.machine import Xen
from bulkhead.impl.xen.memory_op import populate_page
from bulkhead.impl.xen.p2m import GRANT_RO, P2m
from bulkhead.impl.xen.pagetables import PTE_MFN, PTE_P, PTE_RW, get_table, read_pte
from bulkhead.impl.xen.pv_build import PvLayout, build
from bulkhead.impl.xen.xsm import DummyPolicy

GUEST_PAGES = 2
FIXED = GUEST_PAGES + 5
FEWEST = FIXED + 2  # free frames that it takes to build a guest
SLOTS = 5
FIRST_NUMBER = 0x100000  # the guest frame number of a PVH guest's first slot: as a reference, outside of every table
NUMBERS = (*range(GUEST_PAGES), *range(FIRST_NUMBER, FIRST_NUMBER + SLOTS))  # those at which a PVH guest has something
DOM0_PAGES = 96


class Matrix(DummyPolicy):
    """The default policy, except for pairs of domain ids that must not share grants or event channels."""

    def __init__(self) -> None:
        self.denied: set[tuple[int, int]] = set()

    def _rc(self, a: Domain, b: Domain) -> int:
        return -EPERM if (a.domid, b.domid) in self.denied else 0

    def grant_map(self, src: Domain, dst: Domain, flags: int) -> int:
        return self._rc(src, dst)

    def grant_transfer(self, src: Domain, dst: Domain) -> int:
        return self._rc(src, dst)

    def grant_copy(self, current: Domain, src: Domain, dst: Domain) -> int:
        return (current is not src and self._rc(current, src)) or (current is not dst and self._rc(current, dst))

    def evtchn_unbound(self, current: Domain, dom: Domain, remote: Domain | None) -> int:
        denied = 0 if remote is None else self._rc(dom, remote)
        return denied or super().evtchn_unbound(current, dom, remote)

    def evtchn_interdomain(self, src: Domain, dst: Domain) -> int:
        return self._rc(src, dst)


def use_by_xen(frame: Frame, owner: Domain) -> str:
    """What Xen uses its own page for that it shares with a domain."""
    return "table" if frame in owner.grant_table.shared else "status" if frame in owner.grant_table.status else "info"


class Guest(ABC):
    """A guest controlled by the campaign: it calls, stores and revokes."""

    fixed: dict[int, None]  # the frames of its fixed part, in order; its vCPUs' arguments are in the first

    def __init__(self, xen: Xen, domain: Domain) -> None:
        self.xen = xen
        self.domain = domain
        self.domid = domain.domid

    @property
    @abstractmethod
    def names(self) -> list[int]:
        """The numbers by which it names pages of its own: frame numbers, or guest frame numbers."""

    @abstractmethod
    def arg(self, vcpu: int) -> int:
        """The address of a vCPU's arguments."""

    @abstractmethod
    def slot_va(self, slot: int) -> int:
        """The address of a slot."""

    @abstractmethod
    def slot_maddr(self, slot: int) -> int:
        """The machine address of a slot's page-table entry; a PVH guest has none, and says an address of its own."""

    @abstractmethod
    def at_slot(self, slot: int) -> tuple[int, bool] | None:
        """The frame at a slot, and whether it may be written there; None if there is none."""

    @property
    def pool(self) -> list[int]:
        """Its pages besides the fixed ones."""
        return [mfn for mfn, frame in self.domain.pages.items() if frame.allocated and mfn not in self.fixed]

    @property
    def arg_mfn(self) -> int:
        """The frame of its arguments."""
        return next(iter(self.fixed))

    def start(self, vcpu: int, number: int, args: tuple[int, ...], payload: bytes = b"") -> Generator[str, None, int]:
        """A hypercall, its argument bytes written first."""
        v = self.domain.vcpus[vcpu]
        if payload and not write(self.xen, v, self.arg(vcpu), payload):
            raise AssertionError("the argument page is gone")
        return self.xen.hypercall(v, number, *args)

    def result(self, vcpu: int, offset: int, size: int) -> bytes:
        """Bytes of the argument area after the call."""
        return read(self.xen, self.domain.vcpus[vcpu], self.arg(vcpu) + offset, size) or bytes(size)


class PvGuest(Guest):
    """A PV guest: its slots are entries of a page table."""

    def __init__(self, xen: Xen, domain: Domain) -> None:
        super().__init__(xen, domain)
        self.layout: PvLayout = build(xen, domain, GUEST_PAGES, 1)
        second = domain.vcpus[1]
        if get_table(xen, self.layout.root, domain, PGT_L4):
            raise AssertionError("the root was refused for the second vCPU")
        second.cr3 = self.layout.root
        self.fixed = {frame.mfn: None for frame in self.layout.pages}
        self.window: Frame = self.layout.windows[0]
        self.first_vpn = self.layout.window_va(0) >> 12

    @property
    def names(self) -> list[int]:
        return [*self.pool, *self.fixed]

    def arg(self, vcpu: int) -> int:
        return self.layout.va(0) + vcpu * 2048

    def slot_va(self, slot: int) -> int:
        return self.layout.window_va(slot)

    def slot_maddr(self, slot: int) -> int:
        return self.layout.window_maddr(slot)

    def at_slot(self, slot: int) -> tuple[int, bool] | None:
        pte = read_pte(self.window, slot)
        return ((pte & PTE_MFN) >> 12, bool(pte & PTE_RW)) if pte & PTE_P else None


class PvhGuest(Guest):
    """A PVH guest: its slots are guest frame numbers, and so are the places of its fixed pages."""

    def __init__(self, xen: Xen, domain: Domain) -> None:
        super().__init__(xen, domain)
        self.fixed = {}
        for gfn in range(GUEST_PAGES):
            frame = populate_page(xen, domain, gfn)
            if frame is None:
                raise MemoryError(f"d{domain.domid}: no memory for guest frame {gfn}")
            frame.data = None  # a page that a living guest gave back keeps its content
            self.fixed[frame.mfn] = None

    @property
    def p2m(self) -> P2m:
        """Its map."""
        assert self.domain.p2m is not None
        return self.domain.p2m

    @property
    def names(self) -> list[int]:
        return [gfn for gfn in NUMBERS if not ((found := self.p2m.lookup(gfn)[0]) is not None and found.xenheap)]

    def arg(self, vcpu: int) -> int:
        return vcpu * 2048

    def slot_va(self, slot: int) -> int:
        return (FIRST_NUMBER + slot) << 12

    def slot_maddr(self, slot: int) -> int:
        return self.slot_va(slot)

    def at_slot(self, slot: int) -> tuple[int, bool] | None:
        frame, ptype = self.p2m.lookup(FIRST_NUMBER + slot)
        return None if frame is None else (frame.mfn, ptype != GRANT_RO)


class WatchedKernel(Kernel):
    """Dom0's kernel with a watcher, which executes its grant hypercalls stepwise and is notified of its other actions."""

    __slots__ = ("cleared", "delivered", "event", "fly", "poked", "unbound")

    def __init__(self, *args: object, **options: int) -> None:
        self.fly: Callable[[int, Sequence[bytes]], int] | None = None
        self.poked: Callable[[int], None] | None = None
        self.cleared: Callable[[int], None] | None = None
        self.event: Callable[[int, int], None] | None = None
        self.delivered: Callable[[int], None] | None = None
        self.unbound: Callable[[int], None] | None = None
        super().__init__(*args, **options)  # type: ignore[arg-type]

    def grant_op(self, cmd: int, elements: Sequence[bytes]) -> tuple[int, list[bytes]]:
        if self.fly is None:
            return super().grant_op(cmd, elements)
        write(self.xen, self.vcpu, self.arg_va, b"".join(elements))
        rc = self.fly(cmd, elements)
        size = len(elements[0])
        raw = self.result(0, size * len(elements))
        return rc, [raw[i : i + size] for i in range(0, len(raw), size)]

    def mmu_update(self, ptr: int, val: int, foreigndom: int) -> int:
        rc = super().mmu_update(ptr, val, foreigndom)
        if val == 0 and rc == 0 and self.cleared is not None:
            self.cleared(ptr)
        return rc

    def evtchn_op(self, cmd: int, arg: bytes) -> tuple[int, bytes]:
        done = super().evtchn_op(cmd, arg)
        if cmd in (abi.EVTCHNOP_CLOSE, abi.EVTCHNOP_SEND) and self.event is not None:
            self.event(cmd, abi.U32.unpack(arg)[0])
        return done

    def unbind_port(self, port: int) -> None:
        if self.unbound is not None:
            self.unbound(port)
        super().unbind_port(port)

    def upcall(self) -> None:
        users = {n: self.evtchn_users[n] for n in self.due()}
        due = [n for n, user in users.items() if isinstance(user, Evtchn) and user.ports[n]]
        super().upcall()
        if self.delivered is not None:
            for number in due:
                self.delivered(number)

    def result(self, offset: int, size: int) -> bytes:
        """Bytes of the argument page."""
        return read(self.xen, self.vcpu, self.arg_va + offset, size) or bytes(size)

    def poke_slot(self, slot: int, offset: int, payload: bytes) -> bool:
        done = super().poke_slot(slot, offset, payload)
        if done and self.poked is not None:
            self.poked(slot)
        return done


class Bench:
    """Xen and Dom0's kernel: what followers ask of a machine."""

    xen: Xen
    dom0: Domain
    kernel: WatchedKernel
    first_mfn: int  # of the heap that guests get their pages from

    def special(self, mfn: int) -> bool:
        """Is this a page of the hypervisor's own heap (grant tables, status frames, shared_info)?"""
        frame = self.xen.frames.get(mfn)
        return frame is not None and frame.xenheap


class Rig(Bench):
    """Xen, Dom0's kernel and the guests."""

    def __init__(self, seed: int, heap: int, ports: int) -> None:
        probe = Xen(nframes=0x2000, reserved=0x1000, seed=seed)
        probe.create_dom0()
        Kernel(probe, probe.domains[0], npages=DOM0_PAGES, nwindows=1)
        self.first_mfn = probe.frames.fresh
        self.policy = Matrix()
        self.xen = Xen(nframes=self.first_mfn + heap, reserved=0x1000, seed=seed, policy=self.policy)
        self.dom0 = self.xen.create_dom0()
        self.dom0.max_evtchn_port = ports
        self.kernel = WatchedKernel(self.xen, self.dom0, npages=DOM0_PAGES, nwindows=1)
        self.guests: dict[int, Guest] = {}

    def obtainable(self, domain: Domain, mfn: int) -> bool:
        """Does this number name a page of the domain for the hypervisor, to be granted or mapped?"""
        frame = get_paged_frame(self.xen, mfn, domain)
        if frame is not None:
            frame.count -= 1
        return frame is not None

    def use_of(self, mfn: int) -> str:
        """What a page of Xen's own, shared with a domain, is for: "table", "status", "info"; "" for any other page."""
        frame = self.xen.frames.get(mfn)
        return "" if frame is None or not frame.xenheap or frame.owner is None else use_by_xen(frame, frame.owner)


__all__ = ["FIXED", "NUMBERS", "SLOTS", "Bench", "Guest", "Matrix", "PvGuest", "PvhGuest", "Rig", "WatchedKernel", "abi"]
