"""A Mini-OS-like kernel: one address space, no processes, one vCPU, event handlers, grants in both directions.

Contents: contiguous physical pages, the demand-map area for foreign and granted frames, the grant free list,
gntmap, and events. It uses the same PV primitives as Dom0's kernel. Not here: its service (service.py).
Sources: Mini-OS mm.c, gnttab.c, gntmap.c, events.c.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from bulkhead.impl.dom0.kernel import FIRST_FREE_REF, Kernel, KernelError
from bulkhead.impl.xen import abi
from bulkhead.impl.xen.abi import EBUSY, EFAULT, EINVAL, ENOMEM
from bulkhead.impl.xen.frames import Frame
from bulkhead.impl.xen.guest_access import read, write
from bulkhead.impl.xen.pagetables import PTE_A, PTE_D, PTE_P, PTE_RW, PTE_USER

if TYPE_CHECKING:
    from bulkhead.impl.xen.domains import Domain
    from bulkhead.impl.xen.machine import Xen

NR_GRANT_FRAMES: Final = 4
DEFAULT_MAX_GRANTS: Final = 128
U64_MASK: Final = (1 << 64) - 1
Mapped = tuple[int, list[int]]


class Area:
    """A contiguous area of pages with a first-fit allocator."""

    __slots__ = ("used",)

    def __init__(self, size: int) -> None:
        self.used = bytearray(size)

    def take(self, count: int) -> int:
        """Allocate `count` contiguous pages; returns the first; ENOMEM."""
        at = self.used.find(bytes(count)) if count > 0 else -1
        if at < 0:
            raise KernelError(ENOMEM)
        self.used[at : at + count] = b"\1" * count
        return at

    def give(self, at: int, count: int) -> None:
        """Free them."""
        self.used[at : at + count] = bytes(count)

    def in_use(self) -> int:
        """The number of allocated pages."""
        return self.used.count(1)


class MiniOs(Kernel):
    """The kernel of a small service domain."""

    __slots__ = ("demand", "handlers", "late", "ram")

    def __init__(self, xen: Xen, domain: Domain, npages: int = 256, nwindows: int = 16) -> None:
        super().__init__(xen, domain, npages, nwindows)
        self.ram = Area(npages)
        self.ram.take(npages - len(self.free_pages))  # the page for hypercall arguments
        self.free_pages = []
        self.demand = Area(len(self.free_slots))
        self.free_slots = []
        self.handlers: dict[int, Callable[[int], None]] = {}
        self.late: list[tuple[int, Frame]] = []
        self._setup_grants()

    def _setup_grants(self) -> None:
        self.store(
            self.arg_va,
            abi.SETUP_TABLE.pack(abi.DOMID_SELF, 0, NR_GRANT_FRAMES, 0, 0, 0, self.arg_va + 64),
        )
        rc = self.xen.call(self.vcpu, abi.HYPERVISOR_GRANT_TABLE_OP, abi.GNTTABOP_SETUP_TABLE, self.arg_va, 1)
        if rc or abi.SETUP_TABLE.unpack(self.load(self.arg_va, abi.SETUP_TABLE.size))[3]:
            raise KernelError(ENOMEM)
        entries = NR_GRANT_FRAMES * abi.ENTRIES_V1
        self.free_refs = list(range(entries - 1, FIRST_FREE_REF - 1, -1))

    def expand_table(self) -> bool:
        """Set up all grant frames at start, as Mini-OS does."""
        return False

    # --- memory ---
    def alloc_pages(self, count: int) -> list[Frame]:
        """Contiguous zeroed pages."""
        first = self.ram.take(count)
        frames = self.layout.pages[first : first + count]
        for frame in frames:
            frame.data = None
        return frames

    def alloc_page(self) -> Frame:
        """One zeroed page."""
        return self.alloc_pages(1)[0]

    def free_page(self, frame: Frame) -> None:
        """Free a page."""
        self.ram.give(self.pfn_of[frame.mfn], 1)

    def load(self, addr: int, size: int) -> bytes:
        """Read the one address space; EFAULT."""
        out = read(self.xen, self.vcpu, addr, size)
        if out is None:
            raise KernelError(EFAULT)
        return out

    def store(self, addr: int, payload: bytes) -> None:
        """Write it; EFAULT."""
        if not write(self.xen, self.vcpu, addr, payload):
            raise KernelError(EFAULT)

    # --- demand map ---
    def slot_of(self, addr: int) -> int:
        """The page of the demand area at an address; EINVAL outside it."""
        slot, rest = divmod(addr - self.layout.window_va(0), abi.PAGE_SIZE)
        if rest or not 0 <= slot < len(self.demand.used):
            raise KernelError(EINVAL)
        return slot

    def map_frames_ex(self, mfns: Sequence[int], domid: int, writable: bool) -> Mapped:
        """Map frames of a domain contiguously: (address, 0 or -errno for each)."""
        first = self.demand.take(len(mfns))
        flags = PTE_P | PTE_USER | PTE_A | PTE_D | (PTE_RW if writable else 0)
        errors = [
            self.mmu_update(self.layout.window_maddr(first + i), ((mfn << 12) & U64_MASK) | flags, domid)
            for i, mfn in enumerate(mfns)
        ]
        return self.layout.window_va(first), errors

    def unmap_frames(self, addr: int, count: int) -> None:
        """Unmap contiguous foreign pages and flush the TLB: their owner may reuse them. EINVAL for any other range."""
        first = self.slot_of(addr)
        if count < 1 or 0 in self.demand.used[first : first + count] or first + count > len(self.demand.used):
            raise KernelError(EINVAL)
        for i in range(first, first + count):
            self.mmu_update(self.layout.window_maddr(i), 0, abi.DOMID_SELF)
        self.mmuext(abi.MMUEXT_TLB_FLUSH_LOCAL)
        self.demand.give(first, count)

    # --- granting ---
    def share(self, domid: int, count: int, writable: bool) -> tuple[list[Frame], list[int]]:
        """Fresh pages, each granted to a domain; all or nothing."""
        self.retry_late()
        frames = self.alloc_pages(count)
        refs: list[int] = []
        try:
            for frame in frames:
                refs.append(self.grant_access(domid, frame, not writable))
        except KernelError:
            # A peer may have mapped what was granted already: it guesses references, and does not wait to be told.
            for frame, ref in zip(frames, refs, strict=False):
                self.unshare(frame, ref)
            for frame in frames[len(refs) :]:
                self.free_page(frame)
            raise
        return frames, refs

    def unshare(self, frame: Frame, ref: int) -> None:
        """Revoke a grant and free its page; both are deferred while a peer maps it."""
        if self.end_access(ref):
            self.free_page(frame)
        else:
            self.late.append((ref, frame))

    def retry_late(self) -> int:
        """Free pages that peers have unmapped; returns how many are left."""
        waiting, self.late = self.late, []
        for ref, frame in waiting:
            self.unshare(frame, ref)
        return len(self.late)

    # --- events ---
    def bind_evtchn(self, port: int, handler: Callable[[int], None]) -> None:
        """Call a handler whenever a port fires."""
        self.handlers[port] = handler

    def unbind_evtchn(self, port: int) -> None:
        """Close a port."""
        self.handlers.pop(port, None)
        self.evtchn_op(abi.EVTCHNOP_CLOSE, abi.U32.pack(port))

    def force_evtchn_callback(self) -> bool:
        """Run the handlers of all pending ports; true if there were any."""
        fired = self.domain.events.take_pending()
        for port in fired:
            handler = self.handlers.get(port)
            if handler is not None:
                handler(port)
        return bool(fired)


class GntMap:
    """struct gntmap: granted pages mapped one hypercall each."""

    __slots__ = ("entries", "limit", "os")

    def __init__(self, os: MiniOs) -> None:
        self.os = os
        self.entries: dict[int, int] = {}
        self.limit = 0

    def set_max_grants(self, count: int) -> None:
        """Set the table's size; EBUSY the second time."""
        if self.limit:
            raise KernelError(EBUSY)
        self.limit = count

    def map_grant_refs(self, grants: Sequence[tuple[int, int]], writable: bool) -> int:
        """Map grants contiguously; a failure unmaps all of them. ENOMEM if the table is full, EINVAL for a bad grant."""
        if not self.limit:
            self.limit = DEFAULT_MAX_GRANTS
        if len(self.entries) + len(grants) > self.limit:
            raise KernelError(ENOMEM)
        first = self.os.demand.take(len(grants))
        flags = abi.GNTMAP_HOST_MAP | (0 if writable else abi.GNTMAP_READONLY)
        for i, (domid, ref) in enumerate(grants):
            addr = self.os.layout.window_va(first + i)
            op = abi.MAP_GRANT_REF.pack(addr, flags, ref & 0xFFFFFFFF, domid & 0xFFFF, 0, 0, 0)
            rc, out = self.os.grant_op(abi.GNTTABOP_MAP_GRANT_REF, [op])
            fields = abi.MAP_GRANT_REF.unpack(out[0])
            if rc or fields[4] != abi.GNTST_OKAY:
                if i:
                    self.munmap(self.os.layout.window_va(first), i)
                self.os.demand.give(first + i, len(grants) - i)
                raise KernelError(EINVAL)
            self.entries[addr] = fields[5]
        return self.os.layout.window_va(first)

    def munmap(self, start: int, count: int) -> None:
        """Unmap pages one by one; an unknown one stops with EINVAL, earlier ones stay unmapped."""
        for i in range(count):
            addr = start + i * abi.PAGE_SIZE
            handle = self.entries.get(addr)
            if handle is None:
                raise KernelError(EINVAL)
            op = abi.UNMAP_GRANT_REF.pack(addr, 0, handle, 0, 0)
            _, out = self.os.grant_op(abi.GNTTABOP_UNMAP_GRANT_REF, [op])
            if abi.STATUS.unpack_from(out[0], 20)[0] != abi.GNTST_OKAY:
                raise KernelError(EINVAL)
            del self.entries[addr]
            self.os.demand.give(self.os.slot_of(addr), 1)

    def fini(self) -> None:
        """Unmap everything."""
        for addr in list(self.entries):
            self.munmap(addr, 1)
