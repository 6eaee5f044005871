"""The guests of a recording, with the memory layout of their builder.

Contents: the memory of an agent (4 MiB mapped from linear address 0, as libxenguest maps a guest whose kernel
starts there), paravirtual or PVH, and that of a translated guest that never runs. Not here: their operations (ops.py,
extended.py). An agent's linear address is its page's number in the guest; its pool, mailbox, argument pages and
window slots share one L1 table, as in the recordings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.frames import PGT_L4, Frame
from bulkhead.impl.xen.memory_op import populate_page
from bulkhead.impl.xen.p2m import BROKEN
from bulkhead.impl.xen.pagetables import PTE_A, PTE_D, PTE_P, PTE_RW, PTE_USER, get_table, write_pte
from bulkhead.impl.xen.physmap import add_to_physmap
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
FIRST_L1_PFN: Final = TABLE_PFN + 3
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


def in_argument_block(offset: int) -> tuple[int, int]:
    """Which page of an agent's argument block holds an offset, and where in it; IndexError beyond the block."""
    if not 0 <= offset < ARG_PAGES << abi.PAGE_SHIFT:
        raise IndexError(f"offset {offset:#x} is not in the argument block")
    return offset >> abi.PAGE_SHIFT, offset & abi.PAGE_MASK


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


class PvhAgentMemory:
    """Pages and addresses of a PVH agent. Its linear addresses are guest-physical ones, and a window slot's is the place of
    a page in its physical map. `arguments` are the pages that the recorder has mapped; `unlike`: those whose contents
    no two runs share."""

    __slots__ = ("arguments", "unlike")

    def __init__(self, arguments: list[Frame], unlike: list[Frame]) -> None:
        self.arguments = arguments
        self.unlike = unlike

    def pool_va(self, index: int) -> int:
        """Linear address of a pool page."""
        return (POOL_PFN + index) << abi.PAGE_SHIFT

    def window_va(self, slot: int) -> int:
        """Linear and guest-physical address of a window slot."""
        return (WINDOW_PFN + slot) << abi.PAGE_SHIFT

    def window_maddr(self, slot: int) -> int:
        """Guest-physical address of a window slot's L1 entry."""
        return (FIRST_L1_PFN << abi.PAGE_SHIFT) + ((WINDOW_PFN + slot) << 3)

    def pool_maddr(self, index: int) -> int:
        """Guest-physical address of the L1 entry that maps a pool page."""
        return (FIRST_L1_PFN << abi.PAGE_SHIFT) + ((POOL_PFN + index) << 3)


def build_pvh_agent(xen: Xen, domain: Domain) -> PvhAgentMemory:
    """Populate a PVH agent, write its page tables, put shared_info into its physical map, and give vCPU 0 its root.

    Raises MemoryError without memory.
    """
    by_gfn: list[Frame] = []
    for gfn in range(TOTAL):
        frame = populate_page(xen, domain, gfn)
        if frame is None:
            raise MemoryError(f"d{domain.domid}: no memory for gfn {gfn}")
        frame.data = None
        by_gfn.append(frame)
    for level in range(3):
        write_pte(by_gfn[TABLE_PFN + level], 0, (TABLE_PFN + level + 1 << 12) | TABLE_FLAGS)
    write_pte(by_gfn[TABLE_PFN + 2], 1, (TABLE_PFN + 4 << 12) | TABLE_FLAGS)
    for gfn in range(TOTAL):
        flags = LEAF if TABLE_PFN <= gfn < TABLE_PFN + TABLES else LEAF | PTE_RW
        write_pte(by_gfn[FIRST_L1_PFN + gfn // PER_TABLE], gfn % PER_TABLE, (gfn << 12) | flags)
    vcpu = domain.vcpus[0]
    add_to_physmap(xen, vcpu, domain, abi.XENMAPSPACE_SHARED_INFO, 0, SHARED_INFO_PFN)
    vcpu.root_gfn, vcpu.context, vcpu.online = TABLE_PFN, bytes(abi.VCPU_CONTEXT_SIZE), True
    shared = [domain.shared_info] if domain.shared_info is not None else []
    unlike = [by_gfn[MAILBOX_PFN], *shared, *by_gfn[TABLE_PFN : TABLE_PFN + TABLES]]
    return PvhAgentMemory(by_gfn[ARGS_PFN : ARGS_PFN + ARG_PAGES], unlike)


class TranslatedGuest:
    """A PVH guest that never runs: its pool is at guest frames 0 to 63, and Dom0 makes all calls about it."""

    __slots__ = ("domain", "name")

    def __init__(self, name: str, domain: Domain) -> None:
        self.name = name
        self.domain = domain

    def number(self, part: str) -> int:
        """The guest frame number that a page's name stands for."""
        return int(part)

    def frame(self, part: str) -> Frame | None:
        """The frame at a guest frame number; None for a hole."""
        return frame_at(self.domain, int(part))


def frame_at(domain: Domain, gfn: int) -> Frame | None:
    """The frame at a translated guest's frame number, as Dom0 may map it; None for a hole."""
    assert domain.p2m is not None
    frame, kind = domain.p2m.lookup(gfn)
    return None if kind == BROKEN else frame
