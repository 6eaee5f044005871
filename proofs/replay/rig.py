"""The machine the recordings were made on, rebuilt on the implementation.

Contents: Dom0 with its kernel and one user process, agent guests with 64 pool pages, a mailbox, 64 window
slots and page tables, names for pages and domains, and taint of contents that real runs do not reproduce (page
tables, mailboxes and whatever was copied from them). Not here: the operations (ops.py) and the comparison.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final

from bulkhead.impl.dom0.gntalloc import GntallocPool
from bulkhead.impl.dom0.gntdev import Gntdev
from bulkhead.impl.dom0.kernel import Kernel, KernelError
from bulkhead.impl.dom0.pipes import Pipe
from bulkhead.impl.dom0.process import Process
from bulkhead.impl.dom0.syscalls import EVTCHN, GNTALLOC, GNTDEV, HYPERCALL, PRIVCMD, Syscalls, devices
from bulkhead.impl.xen import abi
from bulkhead.impl.xen.continuation import Preemption
from bulkhead.impl.xen.domains import Domain
from bulkhead.impl.xen.events import VCPU_INFO_SIZE
from bulkhead.impl.xen.flask import FlaskPolicy
from bulkhead.impl.xen.frames import Frame
from bulkhead.impl.xen.grant_copy import forward_copy
from bulkhead.impl.xen.guest_access import read, write
from bulkhead.impl.xen.hypercall_evtchn import DOMID_PORT, THREE, TWO, TWO_DOMIDS
from bulkhead.impl.xen.machine import Options, Xen
from bulkhead.impl.xen.pagetables import PTE_MFN
from bulkhead.proofs.replay.agents import MAILBOX, Agent, PvhAgent
from bulkhead.proofs.replay.guests import POOL, POOL_PFN, TABLES, TOTAL, TranslatedGuest

GUEST_PAGES: Final = TOTAL - TABLES
SYMBOLS: Final = {
    "SELF": abi.DOMID_SELF,
    "XEN": abi.DOMID_XEN,
    "IO": abi.DOMID_IO,
    "d0": 0,
    "COW": abi.DOMID_COW,
    "INVALID": abi.DOMID_INVALID,
    "IDLE": abi.DOMID_IDLE,
}
MACHINE_FRAMES: Final = 0x7FFE0  # the recorder's machine has 2 GiB
TIME_AT: Final = 32  # in a vcpu_info
NO_FRAME: Final = (1 << 64) - 1
DOM0_PAGES: Final = 2560  # enough for the 1024 pages that gntalloc may give out, and what else is in use then
DOM0_PORTS: Final = 15  # event channels of Dom0's kernel and of the recorder, before the first guest
VIRQ_TIMER: Final = 0  # which that kernel has bound
MAX_PAGES: Final = (8192 + 1024) // 4
BUFFER_VPN: Final = 0x10000
MMAP_VPN: Final = 0x20000
MMAP_STRIDE: Final = 64
# For the system calls of extended operations: a buffer, and numbered mappings of up to 16 MiB each.
USER_BUFFER_VPN: Final = 0x2000000
USER_BUFFER_PAGES: Final = 64
MAPPING_VPN: Final = 0x1000000
MAPPING_STRIDE: Final = 0x1000


class Drift:
    """Page counts that differ are told where they begin to differ, not again at each later look."""

    __slots__ = ("by_guest", "unknown")

    def __init__(self) -> None:
        self.by_guest: dict[str, int] = {}
        self.unknown: set[str] = set()

    def forget(self) -> None:
        """Something has happened that is not comparable: what each guest has is taken as it is found next."""
        self.unknown = set(self.by_guest)

    def told_once(
        self, recorded: dict[str, Any], result: dict[str, Any], found: list[tuple[str, Any, Any]]
    ) -> list[tuple[str, Any, Any]]:
        """The differences of an operation, without one of a page count that is as far off as at the last look."""
        want = recorded.get("res", {}).get("d")
        if recorded["op"] != "cur" or not isinstance(want, int):
            return found
        name, now = str(recorded["a"]["n"]), int(result.get("d", 0)) - want
        before, self.by_guest[name] = self.by_guest.get(name, 0), now
        if name in self.unknown:
            self.unknown.discard(name)
            before = now
        return [each for each in found if each[0] != "d"] if now == before else found


class Rig:
    """Xen, Dom0 and the agents of one recording."""

    def __init__(self, seed: int = 0, profile: str = "", hap: bool = True, preemption: Preemption | None = None) -> None:
        """The machine of a recording: Debian's Xen on a processor with or without nested paging; with the profile `flask`
        it has FLASK's example policy. Without `preemption` no hypercall is preempted."""
        self.flask = FlaskPolicy() if profile == "flask" else None
        self.xen = Xen(
            nframes=MACHINE_FRAMES,
            reserved=0x8000,
            seed=seed,
            policy=self.flask,
            options=Options(hap=hap, shadow_paging=False),
            preemption=preemption,
        )
        self.dom0 = self.xen.create_dom0()
        self.kernel = Kernel(self.xen, self.dom0, npages=DOM0_PAGES, nwindows=8)
        self.kernel.evtchn_op(abi.EVTCHNOP_BIND_VIRQ, THREE.pack(VIRQ_TIMER, 0, 0))
        for _ in range(DOM0_PORTS - 1):
            self.kernel.evtchn_op(abi.EVTCHNOP_BIND_IPI, TWO.pack(0, 0))
        self.process = Process(self.kernel)
        self.process.space.map_anonymous(BUFFER_VPN, 2)
        self.process.space.map_anonymous(USER_BUFFER_VPN, USER_BUFFER_PAGES)
        nodes = devices(self.kernel, GntallocPool(self.kernel), (GNTDEV, GNTALLOC, PRIVCMD, EVTCHN, HYPERCALL))
        self.syscalls = Syscalls("recorder", self.process, nodes)
        self.files: dict[int, int] = {}
        self.mappings: dict[int, int] = {}
        self.pipes: dict[int, Pipe] = {}
        self.variables: dict[str, int] = {}
        self.drift = Drift()
        self.same_frames: dict[int, tuple[int, int]] = {}  # recorded frame number -> (ours, its epoch)
        self.gntdevs: dict[int, Gntdev] = {}
        self.agents: dict[str, Agent] = {}
        self.translated: dict[str, TranslatedGuest | PvhAgent] = {}
        self.looked_at: dict[str, Frame] = {}  # frames of translated guests' grant tables that the recorder has mapped
        self.unseen: set[str] = set()  # guests whose grant table the recorder could not map again
        self.gone: set[str] = set()  # names of guests that were removed: the recorder took them for number 0
        self.names: dict[int, str] = {}
        self.taint: dict[int, bytearray] = {}
        self.epochs: dict[int, int] = {}  # of the frames whose contents are known
        self.named_at: dict[int, int] = {}  # epochs of the agents' pages when they were named
        self.named_freed = False  # has the present operation named a page that has gone through the heap since?
        self.gd_sizes: dict[int, int] = {}
        # Entries whose frame number outlived the guest it belonged to: what that number names now depends on
        # which frames the allocator re-uses.
        self.stale: set[tuple[str, int]] = set()
        self.xen.trace = self._trace

    # --- domains ---
    def _ssidref(self, name: str, label: str | None) -> int:
        """Of a label such as `system_u:system_r:domU_t`, or of the type that a guest of that name has without one."""
        if self.flask is None:
            return 0
        wanted = (label or ("isolated_domU_t" if name == "C" else "domU_t")).rpartition(":")[2]
        if wanted not in self.flask.types:
            raise ValueError(f"type {wanted} is not in the example policy")
        return self.flask.types.index(wanted) + 1

    def _create(self, name: str, label: str | None, flags: int, emulation: int, vcpus: int = 1, maptrack: int = 64) -> int:
        """An empty domain with the recorder's limits; its domid, or -errno."""
        body = abi.CREATEDOMAIN.pack(
            self._ssidref(name, label), bytes(16), flags, 0, vcpus, 0xFFFFFFFF, 8, maptrack, 2, 0, 0, emulation, 0
        )
        rc, raw = self.kernel.domctl(abi.DOMCTL_CREATEDOMAIN, 0, body)
        if rc:
            return rc
        domid: int = abi.U16.unpack_from(raw, 8)[0]
        self.kernel.domctl(abi.DOMCTL_MAX_VCPUS, domid, abi.U32.pack(vcpus))
        self.kernel.domctl(abi.DOMCTL_MAX_MEM, domid, abi.U64.pack(MAX_PAGES * 4))
        return domid

    def make_translated(self, name: str, emulation: int = abi.EMU_LAPIC, vcpus: int = 1) -> int:
        """Build a PVH (or, by its emulated devices, HVM) guest that is never started; its domid, or -errno."""
        domid = self._create(name, None, abi.CDF_HVM | abi.CDF_HAP, emulation, vcpus)
        if domid < 0:
            return domid
        self.translated[name] = TranslatedGuest(name, self.xen.domains[domid])
        self.look_at_entries(name)
        self.gone.discard(name)
        numbers = b"".join(abi.U64.pack(gfn) for gfn in range(POOL))
        at = self.kernel.arg_va
        write(self.xen, self.kernel.vcpu, at, abi.MEMORY_RESERVATION.pack(at + 512, POOL, 0, 0, domid, 0, 0))
        write(self.xen, self.kernel.vcpu, at + 512, numbers)
        self.xen.call(self.kernel.vcpu, abi.HYPERVISOR_MEMORY_OP, abi.XENMEM_POPULATE_PHYSMAP, at)
        return domid

    def _connect(self, agent: Agent | PvhAgent) -> None:
        """The channels a builder and the recorder make: console, XenStore, and the one by which the agent is called."""
        domid = agent.domain.domid
        _, raw = self.kernel.evtchn_op(abi.EVTCHNOP_ALLOC_UNBOUND, TWO_DOMIDS.pack(abi.DOMID_SELF, domid, 0))
        for _ in range(2):
            self.kernel.evtchn_op(abi.EVTCHNOP_ALLOC_UNBOUND, TWO_DOMIDS.pack(domid, 0, 0))
        agent.dom0_port = TWO_DOMIDS.unpack(raw)[2]
        write(self.xen, agent.vcpu, agent.arg, DOMID_PORT.pack(0, 0, agent.dom0_port, 0))
        self.xen.call(agent.vcpu, abi.HYPERVISOR_EVENT_CHANNEL_OP, abi.EVTCHNOP_BIND_INTERDOMAIN, agent.arg)
        agent.domain.events.take_pending()

    def make(self, name: str, label: str | None = None, vcpus: int = 1, maptrack: int = 64) -> int:
        """Build an agent guest through Dom0's domctls; its domid, or -errno."""
        domid = self._create(name, label, 0, 0, vcpus, maptrack)
        if domid < 0:
            return domid
        agent = Agent(self.xen, name, self.xen.domains[domid])
        self.gone.discard(name)
        self.agents[name] = agent
        for i in range(POOL):
            self.names[agent.layout.pages[i].mfn] = f"{name}/{i}"
        self.names[agent.layout.pages[MAILBOX].mfn] = f"{name}/mb"
        self.names[agent.layout.windows[0].mfn] = f"{name}/l1"
        for frame in agent.layout.pages:
            self.taint.pop(frame.mfn, None)
            self.epochs[frame.mfn] = self.named_at[frame.mfn] = frame.epoch
        shared = agent.domain.shared_info
        for frame in (agent.layout.pages[MAILBOX], *agent.layout.pages[GUEST_PAGES:], *([] if shared is None else [shared])):
            self.taint[frame.mfn] = bytearray(b"\1" * 4096)
        self._connect(agent)
        self.kernel.domctl(abi.DOMCTL_UNPAUSEDOMAIN, domid)
        return domid

    def make_pvh(self, name: str, vcpus: int = 1, maptrack: int = 64) -> int:
        """Build a PVH agent; its domid, or -errno."""
        domid = self._create(name, None, abi.CDF_HVM | abi.CDF_HAP, abi.EMU_LAPIC, vcpus, maptrack)
        if domid < 0:
            return domid
        agent = PvhAgent(self.xen, name, self.xen.domains[domid])
        self.gone.discard(name)
        self.translated[name] = agent
        self.look_at_entries(name)
        for frame in agent.domain.pages.values():
            self.taint.pop(frame.mfn, None)
            self.epochs[frame.mfn] = frame.epoch
        for frame in agent.layout.unlike:
            self.taint[frame.mfn] = bytearray(b"\1" * 4096)
        self._connect(agent)
        self.kernel.domctl(abi.DOMCTL_UNPAUSEDOMAIN, domid)
        return domid

    def remove(self, name: str) -> tuple[int, int]:
        """Destroy a guest: (domid, result)."""
        self.gone.add(name)
        if name in self.translated:
            self._look_away(name)
            guest = self.translated.pop(name)
            gone = guest.domain.domid
            if isinstance(guest, PvhAgent):
                self.kernel.evtchn_op(abi.EVTCHNOP_CLOSE, abi.U32.pack(guest.dom0_port))
            return gone, self.kernel.domctl(abi.DOMCTL_DESTROYDOMAIN, gone)[0]
        domid = self.agents[name].domain.domid
        own = {frame.mfn for frame in self.agents[name].layout.pages}
        self.stale = {key for key in self.stale if key[0] != name}
        for other, agent in self.agents.items():
            table = agent.domain.grant_table
            if other != name:
                self.stale |= {(other, ref) for ref in range(table.nr_entries) if table.frame_field(ref) in own}
        self.kernel.evtchn_op(abi.EVTCHNOP_CLOSE, abi.U32.pack(self.agents[name].dom0_port))
        rc, _ = self.kernel.domctl(abi.DOMCTL_DESTROYDOMAIN, domid)
        for mfn in [m for m, n in self.names.items() if n.startswith(name + "/")]:
            del self.names[mfn]
        return domid, rc

    def look_at_entries(self, name: str) -> None:
        """The recorder maps the first frame of a guest's grant table, again after each change of its version; so a
        translated guest that gives it up can have it at a number again, or is `unseen` from then on."""
        self._look_away(name)
        frame = self.guest(name).domain.grant_table.shared[0]
        if name in self.translated and frame.count:
            frame.count += 1
            self.looked_at[name] = frame
        (self.unseen.discard if frame.count else self.unseen.add)(name)

    def _look_away(self, name: str) -> None:
        frame = self.looked_at.pop(name, None)
        if frame is not None:
            self.xen.frames.put_page(frame)

    def stale_before(self, name: str) -> dict[int, tuple[int, bool]]:
        """Before a swap of grant entries: the frame number of each, and whether it names a page of a destroyed guest."""
        if name not in self.agents or not any(owner == name for owner, _ in self.stale):
            return {}
        table = self.agents[name].domain.grant_table
        return {ref: (table.frame_field(ref), (name, ref) in self.stale) for ref in range(table.nr_entries)}

    def stale_moved(self, name: str, before: dict[int, tuple[int, bool]]) -> None:
        """After it: such a name moves with its entry."""
        if not before:
            return
        table = self.agents[name].domain.grant_table
        moved = {ref for ref, (frame, _) in before.items() if table.frame_field(ref) != frame}
        old = {before[ref][0] for ref in moved if before[ref][1]}
        for ref in moved:
            (self.stale.add if table.frame_field(ref) in old else self.stale.discard)((name, ref))

    def domid(self, symbol: object) -> int:
        """The number behind a symbolic domain."""
        text = str(symbol)
        if text in SYMBOLS:
            return SYMBOLS[text]
        if text in self.gone:
            return 0
        if text in self.agents or text in self.translated:
            return self.guest(text).domain.domid
        return int(text, 0)

    @staticmethod
    def errno_of(call: Callable[[], int]) -> int:
        """The result of a system call; an error is a negated errno."""
        try:
            return call()
        except KernelError as exc:
            return -exc.code

    def guest(self, name: str) -> Agent | PvhAgent | TranslatedGuest:
        """A guest of any kind; KeyError."""
        return self.translated[name] if name in self.translated else self.agents[name]

    def agent(self, name: str) -> Agent | PvhAgent:
        """A guest that makes calls; KeyError."""
        guest = self.guest(name)
        if isinstance(guest, TranslatedGuest):
            raise KeyError(name)
        return guest

    # --- pages ---
    def mfn(self, symbol: object) -> int:
        """The frame number behind a page name or a number."""
        text = str(symbol)
        if "/" in text:
            name, part = text.split("/")
            if name in self.translated:
                return self.translated[name].number(part)  # such a guest's frame numbers are its own
            if name in self.gone:
                return NO_FRAME
            frame = self.agents[name].frame(part)
            if frame is None:
                return 0
            if frame.epoch != self.named_at.get(frame.mfn, frame.epoch):
                self.named_freed = True
            return frame.mfn
        return 0xFFFFFFFF if text == "max" else int(text, 0)

    def page(self, symbol: object) -> Frame | None:
        """The frame behind a page name."""
        name, _, part = str(symbol).partition("/")
        if name in self.translated:
            return self.translated[name].frame(part)
        return self.xen.frames.get(self.mfn(symbol))

    def name(self, mfn: int) -> str:
        """The name of a frame as the recordings print it."""
        if mfn == 0:
            return "0"
        if mfn >= 0xFFFFFFFF:
            return "max"
        silent = [name for name, guest in self.translated.items() if isinstance(guest, TranslatedGuest)]
        if mfn < POOL and silent:
            return f"{silent[0]}/{mfn}"
        callers = [name for name, guest in self.translated.items() if isinstance(guest, PvhAgent)]
        if POOL_PFN <= mfn < POOL_PFN + POOL and callers:
            return f"{callers[-1]}/{mfn - POOL_PFN}"
        return self.names.get(mfn, "?")

    def same_entry(self, recorded: object, replayed: object) -> bool:
        """Are both page-table entries with the same bits, of frames that stand for each other?

        Frame numbers are the allocator's choice; but once a recorded number has been met, it means one frame until
        that one is freed, and no other recorded number means it.
        """
        try:
            want, got = (int(each, 0) if isinstance(each, str) else each for each in (recorded, replayed))
        except ValueError:
            return False
        if not isinstance(want, int) or not isinstance(got, int) or (want ^ got) & ~PTE_MFN:
            return False
        theirs, ours = (want & PTE_MFN) >> 12, (got & PTE_MFN) >> 12
        frame = self.xen.frames.get(ours)
        if frame is None or not theirs:
            return False
        live = {key: value for key, value in self.same_frames.items() if value == (ours, frame.epoch)}
        known = self.same_frames.get(theirs)
        if known is not None:
            other = self.xen.frames.get(known[0])
            if other is not None and other.epoch == known[1] and known[0] != ours:
                return False
        if any(key != theirs for key in live):
            return False
        self.same_frames[theirs] = (ours, frame.epoch)
        return True

    # --- taint ---
    def _look(self, mfn: int) -> None:
        """A frame that was given up and handed out again holds what the allocator's choice made it hold."""
        frame = self.xen.frames.get(mfn)
        if frame is None or (frame.epoch == self.epochs.get(mfn, 0) and not self._came_later(frame)):
            return
        self.epochs[mfn] = frame.epoch
        self.taint[mfn] = bytearray(b"\1" * 4096)

    def _came_later(self, frame: Frame) -> bool:
        """A page that a PVH agent has taken since it was built was somebody's before, on real Xen; not looked at yet."""
        owner = frame.owner
        return (
            owner is not None
            and frame.mfn not in self.epochs
            and not frame.xenheap
            and any(guest.domain is owner for guest in self.translated.values() if isinstance(guest, PvhAgent))
        )

    def _trace(self, what: str, src: int, src_off: int, dst: int, dst_off: int, length: int) -> None:
        self._look(src)
        self._look(dst)
        marks = self.taint.get(src)
        if marks is None:
            self.clean(dst, dst_off, length)
            return
        into = self.taint.setdefault(dst, bytearray(4096))
        if src == dst and src_off < dst_off < src_off + length:
            forward_copy(into, dst_off, src_off, length)
            return
        into[dst_off : dst_off + length] = marks[src_off : src_off + length]

    def times_told(self, domain: Domain) -> None:
        """Half of each registered vcpu_info is about time."""
        for vcpu in domain.vcpus:
            if vcpu.info is not None:
                self._look(vcpu.info.mfn)
                marks, at = self.taint.setdefault(vcpu.info.mfn, bytearray(4096)), vcpu.info_offset
                marks[at + TIME_AT : at + VCPU_INFO_SIZE] = b"\1" * (VCPU_INFO_SIZE - TIME_AT)

    def clean(self, mfn: int, off: int, length: int) -> None:
        """Known bytes were stored; page tables and mailboxes stay irreproducible."""
        self._look(mfn)
        marks = self.taint.get(mfn)
        if marks is not None and not self.inherent(mfn):
            marks[off : off + length] = bytes(length)

    def inherent(self, mfn: int) -> bool:
        """Is this a page whose content real runs do not reproduce by nature?"""
        for guest in self.translated.values():
            if isinstance(guest, PvhAgent) and any(frame.mfn == mfn for frame in guest.layout.unlike):
                return True
        for agent in self.agents.values():
            shared = agent.domain.shared_info
            if (
                (shared is not None and mfn == shared.mfn)
                or mfn == agent.layout.pages[MAILBOX].mfn
                or any(mfn == frame.mfn for frame in agent.layout.pages[GUEST_PAGES:])
            ):
                return True
        return False

    def tainted(self, mfn: int, off: int = 0, length: int = 4096) -> bool:
        """Does a byte range hold something irreproducible? Memory of devices and of the firmware always does."""
        if mfn not in self.xen.frames.table:
            return True
        self._look(mfn)
        marks = self.taint.get(mfn)
        return marks is not None and any(marks[off : off + length])

    # --- hypercalls ---
    def grant_op(self, by: str, cmd: int, arg: bytes) -> tuple[int, bytes]:
        """A grant table operation with one element by Dom0's kernel or an agent."""
        if by == "d0":
            rc, out = self.kernel.grant_op(cmd, [arg])
            return rc, out[0]
        agent = self.agent(by)
        write(self.xen, agent.vcpu, agent.arg, arg)
        rc = agent.call(abi.HYPERVISOR_GRANT_TABLE_OP, cmd, agent.arg, 1)
        return rc, read(self.xen, agent.vcpu, agent.arg, len(arg)) or arg

    def mmu_update(self, by: str, ptr: int, val: int, foreigndom: int) -> int:
        """One mmu_update by an agent."""
        agent = self.agents[by]
        write(self.xen, agent.vcpu, agent.arg, abi.MMU_UPDATE.pack(ptr, val))
        return agent.call(abi.HYPERVISOR_MMU_UPDATE, agent.arg, 1, 0, foreigndom)

    def fill(self, name: str) -> None:
        """Give every pool page its pattern."""
        guest = self.guest(name)
        for i in range(POOL):
            frame = guest.frame(str(i))
            if frame is None:
                continue
            base = (ord(name) << 32) | (i << 16)
            frame.bytes()[:] = struct.pack("<512Q", *(base | off for off in range(0, 4096, 8)))
            self.clean(frame.mfn, 0, 4096)
