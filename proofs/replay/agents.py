"""The guests that execute what a recording tells them: paravirtual and PVH agents.

Contents: their hypercalls, loads and stores, and what the names of their pages stand for. Not here: their memory
(guests.py), and who else is there (rig.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.events import VCPU_INFO_SIZE
from bulkhead.impl.xen.frames import Frame
from bulkhead.impl.xen.guest_access import guest_linear, translate
from bulkhead.impl.xen.p2m import GRANT_RW, RAM_RW
from bulkhead.impl.xen.vcpu_context import RIP
from bulkhead.proofs.replay.guests import (
    ARGS_PFN,
    FIRST_L1_PFN,
    MAILBOX_PFN,
    POOL,
    POOL_PFN,
    SHARED_INFO_PFN,
    TABLE_PFN,
    PvAgentMemory,
    PvhAgentMemory,
    build_agent,
    build_pvh_agent,
    frame_at,
    in_argument_block,
)

if TYPE_CHECKING:
    from bulkhead.impl.xen.domains import Domain, VCpu
    from bulkhead.impl.xen.machine import Xen

MAILBOX: Final = POOL
ARGS: Final = POOL + 1
NUMBERS: Final = {
    "mb": MAILBOX_PFN,
    "si": SHARED_INFO_PFN,
    "l4": TABLE_PFN,
    "l3": TABLE_PFN + 1,
    "l2": TABLE_PFN + 2,
    "l1": FIRST_L1_PFN,
}
NOTHING_THERE: Final = -1
U32_MASK: Final = 0xFFFFFFFF
UP: Final = 1  # VCPUOP_up
AGENT_ENTRY: Final = 0x1000  # its first instruction
AT_64: Final = 72  # of rip in a context of long mode
UPCALL_MASK_AT: Final = 1  # in a vcpu_info
NO_ANSWER: Final = -9999  # what the recorder writes for an agent that did not come back from a hypercall


class Caller:
    """A guest that executes what the recording tells it."""

    def __init__(self, xen: Xen, name: str, domain: Domain) -> None:
        self.xen = xen
        self.name = name
        self.domain = domain
        self.vcpu: VCpu = domain.vcpus[0]  # of which nothing else is asked than calls and what they do
        self.acting = 0
        self.arg = ARGS_PFN << abi.PAGE_SHIFT
        self.given_up = False
        self.dom0_port = 0  # by which Dom0 calls the agent

    def call(self, number: int, *registers: int, vcpu: int = 0) -> int:
        """A hypercall by one of its vCPUs; NO_ANSWER from one that the hypervisor has crashed, in this call or before."""
        if self.silent():
            return NO_ANSWER
        caller = self.domain.vcpus[vcpu]
        if vcpu != self.acting:  # there is one processor: which vCPU it runs is switched, and so are all translations
            caller.tlb.entries.clear()
            self.acting = vcpu
        rc = self.xen.call(caller, number, *registers)
        if number == abi.HYPERVISOR_VCPU_OP and registers[0] & U32_MASK == UP and not rc:
            self._begins(self.domain.vcpus[registers[1] & U32_MASK])
        return NO_ANSWER if self.silent() else rc

    def _begins(self, other: VCpu) -> None:
        """A vCPU that runs the agent, too: it masks its events first, as there is no handler to be called."""
        context, shared = other.context, self.domain.shared_info
        at = AT_64 if self.domain.external else RIP
        if context is not None and shared is not None and abi.U64.unpack_from(context, at)[0] == AGENT_ENTRY:
            shared.bytes()[other.vcpu_id * VCPU_INFO_SIZE + UPCALL_MASK_AT] = 1

    def silent(self) -> bool:
        """Does it answer no more? Once it was asked after it had stopped, it is not asked again, even if it is resumed."""
        self.given_up = self.given_up or self.domain.crashed
        return self.given_up


class Agent(Caller):
    """A paravirtual one."""

    def __init__(self, xen: Xen, name: str, domain: Domain) -> None:
        super().__init__(xen, name, domain)
        self.layout: PvAgentMemory = build_agent(xen, domain)

    def argument_page(self, offset: int) -> tuple[Frame, int]:
        """The page of the argument block that holds an offset, and where in it; IndexError beyond the block."""
        number, at = in_argument_block(offset)
        return self.layout.pages[ARGS + number], at

    def frame(self, part: str) -> Frame | None:
        """A page of the guest by the part of its name after the slash."""
        if part == "mb":
            return self.layout.pages[MAILBOX]
        if part == "l1":
            return self.layout.windows[0]
        if part == "l4":
            return self.layout.root
        if part in ("l2", "l3"):
            return self.layout.l2 if part == "l2" else self.layout.l3
        if part == "si":
            return self.domain.shared_info
        number = int(part)
        return self.layout.pages[number] if 0 <= number < POOL else None

    def access(self, addr: int, is_write: bool) -> tuple[Frame | None, int]:
        """(frame, 0) or (None, page-fault error code) of an access after a local TLB invalidation."""
        self.vcpu.tlb.invlpg(addr >> 12)
        found = translate(self.xen, self.vcpu, addr)
        if found is None:
            return None, 2 if is_write else 0
        if is_write and not found[1]:
            return None, 3
        return found[0], 0


class PvhAgent(Caller):
    """A PVH one: the numbers of its pages are its own, and change their meaning with its physical map."""

    def __init__(self, xen: Xen, name: str, domain: Domain) -> None:
        super().__init__(xen, name, domain)
        self.layout: PvhAgentMemory = build_pvh_agent(xen, domain)

    def argument_page(self, offset: int) -> tuple[Frame, int]:
        """The page of the argument block that holds an offset, as the recorder has mapped it; or IndexError."""
        number, at = in_argument_block(offset)
        return self.layout.arguments[number], at

    def number(self, part: str) -> int:
        """The guest frame number that a page's name stands for."""
        return NUMBERS[part] if part in NUMBERS else POOL_PFN + int(part) % POOL

    def frame(self, part: str) -> Frame | None:
        """The page at the guest frame number that a name stands for; None for a hole."""
        return frame_at(self.domain, self.number(part))

    def access(self, addr: int, is_write: bool) -> tuple[Frame | None, int]:
        """(frame, 0), (None, page-fault error code), or (None, NOTHING_THERE): then a load gives ones, a store is lost."""
        p2m = self.domain.p2m
        assert p2m is not None
        located = guest_linear(self.vcpu, addr)
        if located is None:
            return None, 2 if is_write else 0
        if is_write and not located[1]:
            return None, 3
        frame, kind = p2m.lookup(located[0])
        if frame is None or (is_write and kind not in (RAM_RW, GRANT_RW)):
            return None, NOTHING_THERE
        return frame, 0
