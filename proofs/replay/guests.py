"""The guests of a recording, with the memory layout of their builder.

Contents: the memory of a PV agent (4 MiB mapped from linear address 0, as libxenguest maps a guest whose kernel
starts there) and that of a translated guest that never runs. Not here: their operations (ops.py,
extended.py). A PV agent's linear address is its page's number in the guest; its pool, mailbox, argument pages and
window slots share one L1 table, as in the recordings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.frames import PGT_L4, Frame
from bulkhead.impl.xen.memory_op import populate_page
from bulkhead.impl.xen.p2m import BROKEN
from bulkhead.impl.xen.pagetables import PTE_A, PTE_D, PTE_P, PTE_RW, PTE_USER, get_table, write_pte
from bulkhead.impl.xen.pv_build import TABLE_FLAGS

if TYPE_CHECKING:
    from bulkhead.impl.xen.domains import Domain
    from bulkhead.impl.xen.machine import Xen

POOL: Final = 64
SLOTS: Final = 64
ARG_PAGES: Final = 16
TOTAL: Final = 1024
# Page numbers in the guest, which are linear addresses too.
MAILBOX_PFN: Final = 0x10
ARGS_PFN: Final = 0x11
POOL_PFN: Final = 0x40
WINDOW_PFN: Final = 0x80
SHARED_INFO_PFN: Final = 0x30
TABLE_PFN: Final = 0x300
TABLES: Final = 5
PER_TABLE: Final = 512
LEAF: Final = PTE_P | PTE_USER | PTE_A | PTE_D


def _order() -> list[int]:
    """Guest page numbers in the order of `PvAgentMemory.pages`: pool, mailbox, arguments, pages behind the
    window slots, the rest, and the page tables last."""
    first = [
        *range(POOL_PFN, POOL_PFN + POOL),
        MAILBOX_PFN,
        *range(ARGS_PFN, ARGS_PFN + ARG_PAGES),
        *range(WINDOW_PFN, WINDOW_PFN + SLOTS),
    ]
    tables = range(TABLE_PFN, TABLE_PFN + TABLES)
    rest = [pfn for pfn in range(TOTAL) if pfn not in set(first) and pfn not in tables]
    return [*first, *rest, *tables]


ORDER: Final = tuple(_order())


class PvAgentMemory:
    """Pages, page tables and addresses of a PV agent. `pages` is in the order of ORDER; `windows` is its first L1 table."""

    __slots__ = ("direct_l1", "l2", "l3", "pages", "root", "windows")

    def __init__(self, by_pfn: list[Frame]) -> None:
        self.pages = [by_pfn[pfn] for pfn in ORDER]
        self.root, self.l3, self.l2, low, high = by_pfn[TABLE_PFN : TABLE_PFN + TABLES]
        self.direct_l1 = [low, high]
        self.windows = [low]

    def va(self, index: int) -> int:
        """Linear address of `pages[index]`."""
        return ORDER[index] << abi.PAGE_SHIFT

    def pool_va(self, index: int) -> int:
        """Linear address of a pool page; beyond the pool, of the following pages in the guest's memory."""
        return (POOL_PFN + index) << abi.PAGE_SHIFT

    def window_va(self, slot: int) -> int:
        """Linear address of a window slot."""
        return (WINDOW_PFN + slot) << abi.PAGE_SHIFT

    def window_maddr(self, slot: int) -> int:
        """Machine address of a window slot's L1 entry."""
        return (self.windows[0].mfn << abi.PAGE_SHIFT) | ((WINDOW_PFN + slot) & (PER_TABLE - 1)) << 3

    def pool_maddr(self, index: int) -> int:
        """Machine address of the L1 entry that maps a pool page."""
        return (self.windows[0].mfn << abi.PAGE_SHIFT) + ((POOL_PFN + index) << 3)


def build_agent(xen: Xen, domain: Domain) -> PvAgentMemory:
    """Populate a PV agent, write and pin its page tables, and give vCPU 0 its root.

    Raises MemoryError without memory and ValueError if the hypervisor refuses the tables.
    """
    by_pfn: list[Frame] = []
    for pfn in range(TOTAL):
        frame = populate_page(xen, domain, pfn)
        if frame is None:
            raise MemoryError(f"d{domain.domid}: no memory for pfn {pfn}")
        frame.data = None  # a page that a living guest gave back keeps its content
        by_pfn.append(frame)
    memory = PvAgentMemory(by_pfn)
    write_pte(memory.root, 0, (memory.l3.mfn << 12) | TABLE_FLAGS)
    write_pte(memory.l3, 0, (memory.l2.mfn << 12) | TABLE_FLAGS)
    for index, table in enumerate(memory.direct_l1):
        write_pte(memory.l2, index, (table.mfn << 12) | TABLE_FLAGS)
    readonly = range(TABLE_PFN, TABLE_PFN + TABLES)
    shared = domain.shared_info
    for pfn, frame in enumerate(by_pfn):
        if pfn == SHARED_INFO_PFN and shared is not None:
            frame = shared  # the agent maps it there when it starts
        flags = LEAF if pfn in readonly else LEAF | PTE_RW
        write_pte(memory.direct_l1[pfn // PER_TABLE], pfn % PER_TABLE, (frame.mfn << 12) | flags)
    for _ in range(2):
        if get_table(xen, memory.root, domain, PGT_L4):
            raise ValueError(f"d{domain.domid}: page tables refused")
    memory.root.pinned = True
    context = bytearray(abi.VCPU_CONTEXT_SIZE)
    abi.U64.pack_into(context, abi.CTRLREG_OFFSET + 3 * 8, memory.root.mfn << abi.PAGE_SHIFT)
    vcpu = domain.vcpus[0]
    vcpu.cr3, vcpu.context, vcpu.online = memory.root, bytes(context), True
    return memory


class TranslatedGuest:
    """A PVH guest that never runs: its pool is at guest frames 0 to 63, and Dom0 makes all calls about it."""

    __slots__ = ("domain", "name")

    def __init__(self, name: str, domain: Domain) -> None:
        self.name = name
        self.domain = domain

    def frame(self, part: str) -> Frame | None:
        """The frame at a guest frame number; None for a hole."""
        assert self.domain.p2m is not None
        frame, kind = self.domain.p2m.lookup(int(part))
        return None if kind == BROKEN else frame
