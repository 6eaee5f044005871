"""The part of Dom0's kernel that the drivers share: hypercalls, page allocation, kernel windows, grant references.

Contents: a PV kernel on Dom0's vCPU with a direct map and a window of L1 entries for foreign and granted
pages. Not here: processes (process.py) and the drivers. Sources: Linux drivers/xen/grant-table.c,
arch/x86/xen/mmu_pv.c.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.frames import Frame
from bulkhead.impl.xen.guest_access import read, write
from bulkhead.impl.xen.pagetables import PTE_A, PTE_D, PTE_P, PTE_RW, PTE_USER
from bulkhead.impl.xen.pv_build import PvLayout, build

if TYPE_CHECKING:
    from bulkhead.impl.xen.domains import Domain
    from bulkhead.impl.xen.machine import Xen

ARG_PAGES: Final = 8
FRAME_LIST_AT: Final = 64  # offset of frame lists in the argument pages, behind a call's struct
MOST_HOLDS: Final = 0x7FFF  # Linux's maximum reference count of one event channel (SHRT_MAX)
MAX_BATCH: Final = 128
FIRST_FREE_REF: Final = 8


class KernelError(OSError):
    """A negative result of a system call; `errno` is positive."""

    def __init__(self, errno: int) -> None:
        super().__init__(errno, f"errno {errno}")
        self.code = errno


class PortUser(Protocol):
    """A driver that has bound event channels and receives their events."""

    def interrupt(self, port: int) -> bool:
        """The port is pending; False while its user has disabled it."""


class Kernel:
    """Dom0's kernel. Pages are its direct-mapped RAM; slots are kernel addresses without RAM behind them."""

    __slots__ = (
        "arg_va",
        "device_memory",
        "domain",
        "evtchn_holds",
        "evtchn_users",
        "free_pages",
        "free_refs",
        "free_slots",
        "held",
        "layout",
        "pfn_of",
        "vcpu",
        "xen",
    )

    def __init__(self, xen: Xen, domain: Domain, npages: int = 512, nwindows: int = 4) -> None:
        self.xen = xen
        self.domain = domain
        self.vcpu = domain.vcpus[0]
        self.layout: PvLayout = build(xen, domain, npages, nwindows)
        self.pfn_of = {frame.mfn: pfn for pfn, frame in enumerate(self.layout.pages)}
        self.arg_va = self.layout.va(0)
        self.free_pages = list(range(npages - 1, ARG_PAGES - 1, -1))
        self.device_memory: dict[int, Frame] = {}
        self.held: dict[int, tuple[int, bool]] = {}  # pages that something besides mappings holds; freed meanwhile?
        self.free_slots = list(range(nwindows * 512 - 1, -1, -1))
        # Linux keeps unused references on a last-in-first-out list; the reserved ones are never on it.
        self.free_refs = list(range(domain.grant_table.nr_entries - 1, FIRST_FREE_REF - 1, -1))
        self.evtchn_users: dict[int, PortUser] = {}
        self.evtchn_holds: dict[int, int] = {}  # of its user and of unmap notices

    # --- memory ---
    def alloc_page(self) -> Frame:
        """A zeroed page of Dom0's RAM; KernelError(ENOMEM) without one."""
        if not self.free_pages:
            raise KernelError(abi.ENOMEM)
        frame = self.layout.pages[self.free_pages.pop()]
        frame.data = None
        return frame

    def free_page(self, frame: Frame) -> None:
        """Free a page; one that is held goes with the last hold."""
        if frame.mfn in self.held:
            self.held[frame.mfn] = self.held[frame.mfn][0], True
        else:
            self.free_pages.append(self.pfn_of[frame.mfn])

    def frame_at(self, mfn: int) -> Frame:
        """What an entry that Xen has accepted names: a frame, or device memory, of which only what was stored is known."""
        frame = self.xen.frames.get(mfn)
        return self.device_memory.setdefault(mfn, Frame(mfn)) if frame is None else frame

    def hold_page(self, frame: Frame) -> None:
        """A pipe holds a page."""
        holds, freed = self.held.get(frame.mfn, (0, False))
        self.held[frame.mfn] = holds + 1, freed

    def drop_page(self, frame: Frame) -> None:
        """It lets go; the last one frees what was freed meanwhile."""
        holds, freed = self.held.pop(frame.mfn)
        if holds > 1:
            self.held[frame.mfn] = holds - 1, freed
        elif freed:
            self.free_page(frame)

    def va_of(self, frame: Frame) -> int:
        """Kernel address of a RAM page."""
        return self.layout.va(self.pfn_of[frame.mfn])

    def set_direct(self, frame: Frame, writable: bool) -> int:
        """Change the direct map's access to a page; needed before it becomes a page table."""
        pte = (frame.mfn << 12) | PTE_P | PTE_USER | PTE_A | PTE_D | (PTE_RW if writable else 0)
        return self.xen.call(self.vcpu, abi.HYPERVISOR_UPDATE_VA_MAPPING, self.va_of(frame), pte, 2)

    def alloc_slot(self) -> int:
        """A kernel address slot without RAM; KernelError(ENOMEM) if none is left."""
        if not self.free_slots:
            raise KernelError(abi.ENOMEM)
        return self.free_slots.pop()

    def poke_slot(self, slot: int, offset: int, payload: bytes) -> bool:
        """Store through a kernel slot address; False on a fault."""
        return write(self.xen, self.vcpu, self.layout.window_va(slot) + offset, payload)

    # --- hypercalls ---
    def grant_op(self, cmd: int, elements: Sequence[bytes]) -> tuple[int, list[bytes]]:
        """A grant table operation on an array: (hypercall result, the elements after the call)."""
        out: list[bytes] = []
        for first in range(0, len(elements), MAX_BATCH):
            part = elements[first : first + MAX_BATCH]
            size = len(part[0])
            write(self.xen, self.vcpu, self.arg_va, b"".join(part))
            rc = self.xen.call(self.vcpu, abi.HYPERVISOR_GRANT_TABLE_OP, cmd, self.arg_va, len(part))
            raw = read(self.xen, self.vcpu, self.arg_va, size * len(part)) or b""
            out.extend(raw[i : i + size] for i in range(0, len(raw), size))
            if rc:
                return rc, out + [bytes(e) for e in elements[len(out) :]]
        return 0, out

    def mmu_update(self, ptr: int, val: int, foreigndom: int) -> int:
        """One mmu_update request; 0 or -errno."""
        write(self.xen, self.vcpu, self.arg_va, abi.MMU_UPDATE.pack(ptr, val))
        return self.xen.call(self.vcpu, abi.HYPERVISOR_MMU_UPDATE, self.arg_va, 1, 0, foreigndom)

    def mmuext(self, cmd: int, arg1: int = 0, arg2: int = 0, foreigndom: int = abi.DOMID_SELF) -> int:
        """One mmuext_op; 0 or -errno."""
        write(self.xen, self.vcpu, self.arg_va, abi.MMUEXT_OP.pack(cmd, 0, arg1, arg2))
        return self.xen.call(self.vcpu, abi.HYPERVISOR_MMUEXT_OP, self.arg_va, 1, 0, foreigndom)

    def domctl(self, cmd: int, domid: int = 0, body: bytes = b"") -> tuple[int, bytes]:
        """A domctl: (result, struct after the call, with header)."""
        raw = abi.DOMCTL_HEADER.pack(cmd, abi.DOMCTL_INTERFACE_VERSION, domid, 0, 0, 0) + body
        write(self.xen, self.vcpu, self.arg_va, raw.ljust(abi.DOMCTL_SIZE, b"\0"))
        rc = self.xen.call(self.vcpu, abi.HYPERVISOR_DOMCTL, self.arg_va)
        return rc, read(self.xen, self.vcpu, self.arg_va, abi.DOMCTL_SIZE) or b""

    def evtchn_op(self, cmd: int, arg: bytes) -> tuple[int, bytes]:
        """An event channel operation: (result, struct after the call)."""
        write(self.xen, self.vcpu, self.arg_va, arg)
        rc = self.xen.call(self.vcpu, abi.HYPERVISOR_EVENT_CHANNEL_OP, cmd, self.arg_va)
        return rc, read(self.xen, self.vcpu, self.arg_va, len(arg)) or b""

    # --- event channels of user processes ---
    def bind_port(self, port: int, user: PortUser) -> None:
        """A file has bound a port: its first reference."""
        self.evtchn_users[port] = user
        self.evtchn_holds[port] = 1

    def unbind_port(self, port: int) -> None:
        """Drop the file's reference; the port closes unless an unmap notice holds it (unbind_from_irqhandler)."""
        del self.evtchn_users[port]
        self.put_port(port)

    def hold_port(self, port: int) -> bool:
        """Take a reference to a port that a process or another notice holds (evtchn_get); False for any other."""
        holds = self.evtchn_holds.get(port, 0)
        if not 0 < holds < MOST_HOLDS:
            return False
        self.evtchn_holds[port] = holds + 1
        return True

    def put_port(self, port: int) -> None:
        """Drop a reference; the last one closes the port (evtchn_put), so a notice's number is never reused."""
        self.evtchn_holds[port] -= 1
        if not self.evtchn_holds[port]:
            del self.evtchn_holds[port]
            self.evtchn_op(abi.EVTCHNOP_CLOSE, abi.U32.pack(port))

    def notice(self, port: int) -> None:
        """An unmap notice fires: send its event and drop its reference to the port."""
        self.evtchn_op(abi.EVTCHNOP_SEND, abi.U32.pack(port))
        self.put_port(port)

    def due(self) -> list[int]:
        """The pending ports of user processes, in the order in which their events came."""
        ports = self.domain.events.ports
        found = [number for number in self.evtchn_users if number in ports and ports[number].pending]
        return sorted(found, key=lambda number: ports[number].came)

    def upcall(self) -> None:
        """Deliver every pending port to its user. On hardware this happens at once; here, before a call on such a device."""
        for number in self.due():
            if self.evtchn_users[number].interrupt(number):
                self.domain.events.ports[number].pending = False

    # --- granting own pages ---
    def expand_table(self) -> bool:
        """Add one frame of grant entries (gnttab_expand); False at the limit."""
        size = self.domain.grant_table.nr_entries
        frames = len(self.domain.grant_table.shared) + 1
        write(
            self.xen,
            self.vcpu,
            self.arg_va,
            abi.SETUP_TABLE.pack(abi.DOMID_SELF, 0, frames, 0, 0, 0, self.arg_va + FRAME_LIST_AT),
        )
        self.xen.call(self.vcpu, abi.HYPERVISOR_GRANT_TABLE_OP, abi.GNTTABOP_SETUP_TABLE, self.arg_va, 1)
        self.free_refs[:0] = range(self.domain.grant_table.nr_entries - 1, size - 1, -1)
        return self.domain.grant_table.nr_entries > size

    def grant_access(self, domid: int, frame: Frame, readonly: bool) -> int:
        """Grant a page (gnttab_grant_foreign_access): the reference; KernelError(ENOSPC) when all are used.

        The table grows up to Xen's limit.
        """
        if not self.free_refs and not self.expand_table():
            raise KernelError(abi.ENOSPC)
        ref = self.free_refs.pop()
        data, off = self.domain.grant_table.header_at(ref)
        abi.U16.pack_into(data, off + 2, domid & 0xFFFF)
        abi.U32.pack_into(data, off + 4, frame.mfn)
        abi.U16.pack_into(data, off, abi.GTF_PERMIT_ACCESS | (abi.GTF_READONLY if readonly else 0))
        return ref

    def end_access(self, ref: int) -> bool:
        """Revoke an unused grant (gnttab_try_end_foreign_access); False while in use."""
        data, off = self.domain.grant_table.header_at(ref)
        flags = abi.U16.unpack_from(data, off)[0]
        if flags & (abi.GTF_READING | abi.GTF_WRITING):
            return False
        abi.U16.pack_into(data, off, 0)
        self.free_refs.append(ref)
        return True
