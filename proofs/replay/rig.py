"""The machine the recordings were made on, rebuilt on the implementation.

What lives here: Dom0 with its kernel and one user process, agent guests with 64 pool pages, a mailbox, 64 window
slots and page tables, names for pages and domains, and taint of contents that real runs do not reproduce (page
tables, mailboxes and whatever was copied from them). What does not: the operations (ops.py) and the comparison.
"""

from __future__ import annotations

import struct
from typing import Final

from bulkhead.impl.dom0.gntdev import Gntdev
from bulkhead.impl.dom0.kernel import Kernel
from bulkhead.impl.dom0.process import Process
from bulkhead.impl.xen import abi
from bulkhead.impl.xen.domains import Domain, VCpu
from bulkhead.impl.xen.flask import FlaskPolicy
from bulkhead.impl.xen.frames import Frame
from bulkhead.impl.xen.grant_copy import forward_copy
from bulkhead.impl.xen.guest_access import read, translate, write
from bulkhead.impl.xen.machine import Xen
from bulkhead.impl.xen.pv_build import PvLayout, build

POOL: Final = 64
SLOTS: Final = 64
MAILBOX: Final = POOL
ARGS: Final = POOL + 1
FIRST_PRIVATE: Final = POOL + 2
GUEST_PAGES: Final = FIRST_PRIVATE + SLOTS
SYMBOLS: Final = {"SELF": abi.DOMID_SELF, "XEN": abi.DOMID_XEN, "IO": abi.DOMID_IO, "d0": 0}
BUFFER_VPN: Final = 0x10000
MMAP_VPN: Final = 0x20000
MMAP_STRIDE: Final = 64


class Agent:
    """A PV guest that executes what the recording tells it."""

    def __init__(self, rig: Rig, name: str, domain: Domain) -> None:
        self.rig = rig
        self.name = name
        self.domain = domain
        self.vcpu: VCpu = domain.vcpus[0]
        filled = list(range(FIRST_PRIVATE, FIRST_PRIVATE + SLOTS))
        self.layout: PvLayout = build(rig.xen, domain, GUEST_PAGES, 1, filled)
        self.arg = self.layout.va(ARGS)

    def frame(self, part: str) -> Frame | None:
        """A page of the guest by the part of its name after the slash."""
        if part == "mb":
            return self.layout.pages[MAILBOX]
        if part == "l1":
            return self.layout.windows[0]
        if part == "l4":
            return self.layout.root
        number = int(part)
        return self.layout.pages[number] if 0 <= number < POOL else None

    def access(self, addr: int, is_write: bool) -> tuple[Frame | None, int]:
        """(frame, 0) or (None, page-fault error code) of an access after a local TLB invalidation."""
        self.vcpu.tlb.invlpg(addr >> 12)
        found = translate(self.rig.xen, self.vcpu, addr)
        if found is None:
            return None, 2 if is_write else 0
        if is_write and not found[1]:
            return None, 3
        return found[0], 0


class Rig:
    """Xen, Dom0 and the agents of one recording."""

    def __init__(self, seed: int = 0, profile: str = "") -> None:
        """The machine of a recording; with the profile `flask` it has FLASK's example policy."""
        self.flask = FlaskPolicy() if profile == "flask" else None
        self.xen = Xen(nframes=1 << 20, reserved=0x8000, seed=seed, policy=self.flask)
        self.dom0 = self.xen.create_dom0()
        self.kernel = Kernel(self.xen, self.dom0, npages=1024, nwindows=8)
        self.process = Process(self.kernel)
        self.process.space.map_anonymous(BUFFER_VPN, 2)
        self.gntdevs: dict[int, Gntdev] = {}
        self.agents: dict[str, Agent] = {}
        self.names: dict[int, str] = {}
        self.taint: dict[int, bytearray] = {}
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

    def make(self, name: str, label: str | None = None) -> int:
        """Build an agent guest through Dom0's domctls; its domid, or -errno."""
        body = abi.CREATEDOMAIN.pack(self._ssidref(name, label), bytes(16), 0, 0, 1, 1023, 8, 64, 2, 0, 0, 0, 0)
        rc, raw = self.kernel.domctl(abi.DOMCTL_CREATEDOMAIN, 0, body)
        if rc:
            return rc
        domid: int = abi.U16.unpack_from(raw, 8)[0]
        self.kernel.domctl(abi.DOMCTL_MAX_MEM, domid, abi.U64.pack(4096 * 4))
        self.kernel.domctl(abi.DOMCTL_MAX_VCPUS, domid, abi.U32.pack(1))
        agent = Agent(self, name, self.xen.domains[domid])
        self.agents[name] = agent
        for i in range(POOL):
            self.names[agent.layout.pages[i].mfn] = f"{name}/{i}"
        self.names[agent.layout.pages[MAILBOX].mfn] = f"{name}/mb"
        self.names[agent.layout.windows[0].mfn] = f"{name}/l1"
        for frame in agent.layout.pages:
            self.taint.pop(frame.mfn, None)
        for frame in (agent.layout.pages[MAILBOX], *agent.layout.pages[GUEST_PAGES:]):
            self.taint[frame.mfn] = bytearray(b"\1" * 4096)
        self.kernel.domctl(abi.DOMCTL_UNPAUSEDOMAIN, domid)
        return domid

    def remove(self, name: str) -> tuple[int, int]:
        """Destroy an agent: (domid, result)."""
        domid = self.agents[name].domain.domid
        own = {frame.mfn for frame in self.agents[name].layout.pages}
        self.stale = {key for key in self.stale if key[0] != name}
        for other, agent in self.agents.items():
            table = agent.domain.grant_table
            if other != name:
                self.stale |= {(other, ref) for ref in range(table.nr_entries) if table.frame_field(ref) in own}
        rc, _ = self.kernel.domctl(abi.DOMCTL_DESTROYDOMAIN, domid)
        for mfn in [m for m, n in self.names.items() if n.startswith(name + "/")]:
            del self.names[mfn]
        return domid, rc

    def domid(self, symbol: object) -> int:
        """The number behind a symbolic domain."""
        text = str(symbol)
        if text in SYMBOLS:
            return SYMBOLS[text]
        if text in self.agents:
            return self.agents[text].domain.domid
        return int(text, 0)

    # --- pages ---
    def mfn(self, symbol: object) -> int:
        """The frame number behind a page name or a number."""
        text = str(symbol)
        if "/" in text:
            name, part = text.split("/")
            frame = self.agents[name].frame(part)
            return 0 if frame is None else frame.mfn
        return 0xFFFFFFFF if text == "max" else int(text, 0)

    def page(self, symbol: object) -> Frame | None:
        """The frame behind a page name."""
        return self.xen.frames.get(self.mfn(symbol))

    def name(self, mfn: int) -> str:
        """The name of a frame as the recordings print it."""
        if mfn == 0:
            return "0"
        if mfn >= 0xFFFFFFFF:
            return "max"
        return self.names.get(mfn, "?")

    # --- taint ---
    def _trace(self, what: str, src: int, src_off: int, dst: int, dst_off: int, length: int) -> None:
        marks = self.taint.get(src)
        if marks is None:
            self.clean(dst, dst_off, length)
            return
        into = self.taint.setdefault(dst, bytearray(4096))
        if src == dst and src_off < dst_off < src_off + length:
            forward_copy(into, dst_off, src_off, length)
            return
        into[dst_off:dst_off + length] = marks[src_off:src_off + length]

    def clean(self, mfn: int, off: int, length: int) -> None:
        """Known bytes were stored; page tables and mailboxes stay irreproducible."""
        marks = self.taint.get(mfn)
        if marks is not None and not self.inherent(mfn):
            marks[off:off + length] = bytes(length)

    def inherent(self, mfn: int) -> bool:
        """Is this a page whose content real runs do not reproduce by nature?"""
        for agent in self.agents.values():
            if mfn == agent.layout.pages[MAILBOX].mfn or any(
                    mfn == frame.mfn for frame in agent.layout.pages[GUEST_PAGES:]):
                return True
        return False

    def tainted(self, mfn: int, off: int = 0, length: int = 4096) -> bool:
        """Does a byte range hold something irreproducible?"""
        marks = self.taint.get(mfn)
        return marks is not None and any(marks[off:off + length])

    # --- hypercalls ---
    def grant_op(self, by: str, cmd: int, arg: bytes) -> tuple[int, bytes]:
        """A grant table operation with one element by Dom0's kernel or an agent."""
        if by == "d0":
            rc, out = self.kernel.grant_op(cmd, [arg])
            return rc, out[0]
        agent = self.agents[by]
        write(self.xen, agent.vcpu, agent.arg, arg)
        rc = self.xen.call(agent.vcpu, abi.HYPERVISOR_GRANT_TABLE_OP, cmd, agent.arg, 1)
        return rc, read(self.xen, agent.vcpu, agent.arg, len(arg)) or arg

    def mmu_update(self, by: str, ptr: int, val: int, foreigndom: int) -> int:
        """One mmu_update by an agent."""
        agent = self.agents[by]
        write(self.xen, agent.vcpu, agent.arg, abi.MMU_UPDATE.pack(ptr, val))
        return self.xen.call(agent.vcpu, abi.HYPERVISOR_MMU_UPDATE, agent.arg, 1, 0, foreigndom)

    def fill(self, name: str) -> None:
        """Give every pool page its pattern."""
        agent = self.agents[name]
        for i in range(POOL):
            frame = agent.layout.pages[i]
            base = (ord(name) << 32) | (i << 16)
            frame.bytes()[:] = struct.pack("<512Q", *(base | off for off in range(0, 4096, 8)))
            self.clean(frame.mfn, 0, 4096)
