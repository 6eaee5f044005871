"""Simulates the execution of the test kernel, through the guest's own page tables.

Contents: reading start_info, a greeting on the console, one write to XenStore and its answer, echo of console
input. All accesses use the vCPU's translations and hypercalls, so a wrongly built guest fails here.
Kernels with other code than the test kernel's are not run. Not here: building the guest.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Final

from bulkhead.impl.domb import start_info as si
from bulkhead.impl.guests import test_kernel
from bulkhead.impl.rings import pages
from bulkhead.impl.rings.pages import ring_at
from bulkhead.impl.rings.ring import BadIndex, Reader, Writer
from bulkhead.impl.rings.xenbus import Answer, Xenbus
from bulkhead.impl.xen import abi
from bulkhead.impl.xen.abi import PAGE_SHIFT, PAGE_SIZE
from bulkhead.impl.xen.guest_access import read, write
from bulkhead.impl.xen.vcpu_context import RIP, RSI, register

if TYPE_CHECKING:
    from bulkhead.impl.xen.domains import Domain
    from bulkhead.impl.xen.machine import Xen

STATE_NODE: Final = b"data/state"


class GuestFault(Exception):
    """The guest accessed an address that its page tables do not map."""


class GuestMemory:
    """The guest's linear addresses."""

    def __init__(self, xen: Xen, domain: Domain) -> None:
        self.xen = xen
        self.vcpu = domain.vcpus[0]

    def load(self, addr: int, size: int) -> bytes:
        """Read."""
        out = read(self.xen, self.vcpu, addr, size)
        if out is None:
            raise GuestFault(f"read of {addr:#x}")
        return out

    def store(self, addr: int, payload: bytes) -> None:
        """Write."""
        if not write(self.xen, self.vcpu, addr, payload):
            raise GuestFault(f"write of {addr:#x}")


class TestGuest:
    """One running guest."""

    __test__ = False  # not a test class for pytest

    def __init__(self, xen: Xen, domain: Domain) -> None:
        self.xen = xen
        self.domain = domain
        self.memory = GuestMemory(xen, domain)
        self.info: si.StartInfo | None = None
        self.running = False
        self.base = 0
        self.replies: list[Answer] = []
        self.pending_output = b""

    def boot(self) -> bool:
        """Run the first instructions; False if this is not the test kernel (or no vCPU was set up)."""
        vcpu = self.domain.vcpus[0] if self.domain.vcpus else None
        if vcpu is None or vcpu.context is None or self.domain.pause_count or self.domain.is_dying:
            return False
        entry, start = register(vcpu.context, RIP), register(vcpu.context, RSI)
        if self.memory.load(entry, len(test_kernel.code())) != test_kernel.code():
            return False
        self.base = entry - test_kernel.TEXT_PFN * PAGE_SIZE
        self.memory.store(self.data(0) + test_kernel.START_INFO, abi.U64.pack(start))
        self.info = si.unpack(self.memory.load(start, PAGE_SIZE))
        if self.info is None:
            raise GuestFault("start_info has no magic")
        console = self.by_mfn(self.info.console_mfn)
        store = self.by_mfn(self.info.store_mfn)
        self.output = Writer(self.memory, ring_at(console, pages.CONSOLE_OUT))
        self.input = Reader(self.memory, ring_at(console, pages.CONSOLE_IN))
        port = self.info.store_evtchn
        self.xenbus = Xenbus(self.memory, store, lambda: self.notify(port))
        self.running = True
        self._greet(self.info)
        self.xenbus.request(pages.XS_WRITE, STATE_NODE + b"\0running")
        return True

    def data(self, page: int) -> int:
        """Address of a page of the data segment and the BSS behind it."""
        return self.base + (test_kernel.DATA_PFN + page) * PAGE_SIZE

    def by_mfn(self, mfn: int) -> int:
        """The linear address of an own frame, from Xen's machine-to-physical table."""
        frame = self.xen.frames.get(mfn)
        if frame is None or frame.owner is not self.domain:
            raise GuestFault(f"frame {mfn:#x} is not mine")
        return self.base + (frame.m2p << PAGE_SHIFT)

    def _greet(self, info: si.StartInfo) -> None:
        banner = self.memory.load(self.data(0), len(test_kernel.BANNER)).rstrip(b"\0")
        bss = b"".join(self.memory.load(self.data(1 + i), PAGE_SIZE) for i in range(test_kernel.BSS_PAGES))
        disk = self.memory.load(info.mod_start, info.mod_len) if info.mod_len else b""
        digest = sha256(disk).hexdigest()[:16] if disk else "none"
        self.say(
            b"%s: %d pages, bss %s, ramdisk %s, command line '%s'\n"
            % (banner, info.nr_pages, b"zero" if not any(bss) else b"DIRTY", digest.encode(), info.cmd_line)
        )

    # --- console ---
    def say(self, text: bytes) -> None:
        """Print; text that does not fit waits."""
        self.pending_output += text
        self._flush()

    def _flush(self) -> bool:
        done = self.output.put(self.pending_output)
        self.pending_output = self.pending_output[done:]
        if done and self.info is not None:
            self.notify(self.info.console_evtchn)
        return bool(done)

    # --- events ---
    def notify(self, port: int) -> None:
        """EVTCHNOP_send with the port in a page of the BSS."""
        arg = self.data(1)
        self.memory.store(arg, abi.U32.pack(port))
        self.xen.call(self.memory.vcpu, abi.HYPERVISOR_EVENT_CHANNEL_OP, abi.EVTCHNOP_SEND, arg)
        self.memory.store(arg, bytes(4))

    # --- running on ---
    def step(self) -> bool:
        """Handle new input; true if there was any."""
        if not self.running or self.domain.pause_count or self.domain.is_dying:
            return False
        self.domain.events.take_pending()
        try:
            typed = self.input.take(1024)
        except BadIndex:
            typed = b""
        if typed:
            self.say(b"echo: " + typed)
        before = self.xenbus.answers.cons
        answers = self.xenbus.take()
        self.replies += answers
        for kind, number, payload in answers:
            if number == 1:
                self.say(b"xenstore: %s %s\n" % (STATE_NODE, b"OK" if kind == pages.XS_WRITE else payload))
        return self._flush() or bool(typed) or self.xenbus.answers.cons != before  # also by a part of an answer
