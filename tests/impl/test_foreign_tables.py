"""Frames of other guests as page tables, at every level and by every operation; dead callers; unusual arguments.

Protects: a guest with another guest's page table under its own root could read and write that guest's memory, so
the owner of a table is checked whenever a reference to it is taken. A refusal changes no count.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.frames import Frame
from bulkhead.impl.xen.guest_access import read, write
from bulkhead.impl.xen.pagetables import read_pte
from bulkhead.proofs.replay.rig import Rig
from tests.impl.support import check_counts

FLAGS = 0x67
LEVELS = (1, 2, 3, 4)


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    made.make("A")
    made.make("B")
    yield made
    check_counts(made.xen)


def counts(rig: Rig) -> list[tuple[int, int, int, bool]]:
    return [(f.mfn, f.count, f.tcount, f.pinned) for f in rig.xen.frames.table.values()]


def own_table(rig: Rig, name: str, index: int) -> Frame:
    """An unmapped, empty pool page, usable as a table of any level."""
    agent = rig.agents[name]
    assert rig.xen.call(agent.vcpu, abi.HYPERVISOR_UPDATE_VA_MAPPING, agent.layout.va(index), 0, abi.UVMF_INVLPG) == 0
    frame = agent.layout.pages[index]
    frame.bytes()[:] = bytes(4096)
    return frame


def mmuext(rig: Rig, name: str, cmd: int, mfn: int, owner: int = abi.DOMID_SELF) -> int:
    agent = rig.agents[name]
    write(rig.xen, agent.vcpu, agent.arg, abi.MMUEXT_OP.pack(cmd, 0, mfn, 0))
    return rig.xen.call(agent.vcpu, abi.HYPERVISOR_MMUEXT_OP, agent.arg, 1, 0, owner)


def foreign_tables(rig: Rig) -> dict[int, Frame]:
    """B's tables in use, by level."""
    layout = rig.agents["B"].layout
    return {1: layout.windows[0], 2: layout.l2, 3: layout.l3, 4: layout.root}


@pytest.mark.parametrize("level", LEVELS)
def test_pinning_another_guests_table_or_page(rig: Rig, level: int) -> None:
    before = counts(rig)
    for frame in (foreign_tables(rig)[level], own_table(rig, "B", 9)):
        before = counts(rig)
        for owner in (abi.DOMID_SELF, rig.domid("B")):
            rc = mmuext(rig, "A", abi.MMUEXT_PIN_L1_TABLE + level - 1, frame.mfn, owner)
            assert rc == (-abi.EINVAL if owner == abi.DOMID_SELF else -abi.EPERM)
    assert counts(rig) == before


@pytest.mark.parametrize("level", (2, 3, 4))
def test_a_foreign_table_in_an_entry_of_a_table_in_use(rig: Rig, level: int) -> None:
    mine = {2: rig.agents["A"].layout.l2, 3: rig.agents["A"].layout.l3, 4: rig.agents["A"].layout.root}[level]
    child = foreign_tables(rig)[level - 1]
    before = counts(rig)
    for flags in (FLAGS, FLAGS & ~2):
        assert rig.mmu_update("A", mine.mfn << 12 | 8 * 7, child.mfn << 12 | flags, abi.DOMID_SELF) == -abi.EINVAL
        assert rig.mmu_update("A", mine.mfn << 12 | 8 * 7, child.mfn << 12 | flags, rig.domid("B")) == -abi.EPERM
    assert read_pte(mine, 7) == 0 and counts(rig) == before


@pytest.mark.parametrize("level", LEVELS)
def test_pinning_a_table_that_names_foreign_frames(rig: Rig, level: int) -> None:
    """A pin checks the whole table: one foreign entry, at the end, drops all references taken before it."""
    table = own_table(rig, "A", 3)
    if level == 1:
        good, bad = rig.agents["A"].layout.pages[5], rig.agents["B"].layout.pages[5]
    else:
        good, bad = own_table(rig, "A", 4), foreign_tables(rig)[level - 1]
    table.bytes()[0:16] = struct.pack("<QQ", good.mfn << 12 | FLAGS, bad.mfn << 12 | FLAGS)
    before = counts(rig)
    want = -abi.EBUSY if level == 1 else -abi.EINVAL
    assert mmuext(rig, "A", abi.MMUEXT_PIN_L1_TABLE + level - 1, table.mfn) == want
    assert counts(rig) == before
    table.bytes()[8:16] = bytes(8)
    assert mmuext(rig, "A", abi.MMUEXT_PIN_L1_TABLE + level - 1, table.mfn) == 0
    assert mmuext(rig, "A", abi.MMUEXT_UNPIN_TABLE, table.mfn) == 0
    assert counts(rig) == before


def test_a_foreign_root_and_a_foreign_unpin(rig: Rig) -> None:
    root = rig.agents["B"].layout.root
    before = counts(rig)
    for cmd in (abi.MMUEXT_NEW_BASEPTR, abi.MMUEXT_NEW_USER_BASEPTR, abi.MMUEXT_UNPIN_TABLE):
        assert mmuext(rig, "A", cmd, root.mfn) == -abi.EINVAL
    for cmd in (abi.MMUEXT_CLEAR_PAGE, abi.MMUEXT_COPY_PAGE):
        assert mmuext(rig, "A", cmd, rig.mfn("B/3")) == -abi.EINVAL
    assert counts(rig) == before


def test_a_refused_table_takes_no_reference_of_a_frame_given_up(rig: Rig) -> None:
    """A page that was given up and has no owner is not a table of its former owner either."""
    table = own_table(rig, "A", 3)
    agent = rig.agents["A"]
    write(rig.xen, agent.vcpu, agent.arg, abi.MEMORY_RESERVATION.pack(agent.arg + 64, 1, 0, 0, abi.DOMID_SELF, 0, 0))
    write(rig.xen, agent.vcpu, agent.arg + 64, abi.U64.pack(table.mfn))
    assert rig.xen.call(agent.vcpu, abi.HYPERVISOR_MEMORY_OP, abi.XENMEM_DECREASE_RESERVATION, agent.arg) == 1
    for level in LEVELS:
        assert mmuext(rig, "A", abi.MMUEXT_PIN_L1_TABLE + level - 1, table.mfn) == -abi.EINVAL


def test_a_crashed_domain_that_goes_on_calling_changes_nothing(rig: Rig) -> None:
    agent = rig.agents["A"]
    own_table(rig, "A", 3)
    agent.domain.crash()
    before, ports = counts(rig), sorted(agent.domain.events.ports)
    for number in (1, 12, 14, 20, 22, 26, 32, 36):
        for cmd in range(8):
            assert rig.xen.call(agent.vcpu, number, cmd, agent.arg, 1, abi.DOMID_SELF) == -abi.EINVAL
    assert counts(rig) == before and sorted(agent.domain.events.ports) == ports


def test_results_that_straddle_a_page(rig: Rig) -> None:
    """An argument across two pages is read and written completely; if the second is unwritable, the first write stays."""
    a, b = rig.agents["A"], rig.agents["B"]
    data, off = b.domain.grant_table.header_at(8)
    abi.ENTRY_V1.pack_into(data, off, abi.GTF_PERMIT_ACCESS, a.domain.domid, rig.mfn("B/3"))
    at = a.layout.va(20) + 4096 - 20  # status is in the first page, handle and bus address in the second
    arg = abi.MAP_GRANT_REF.pack(a.layout.window_va(0), 2, 8, b.domain.domid, 99, 99, 99)
    assert write(rig.xen, a.vcpu, at, arg)
    assert rig.xen.call(a.vcpu, abi.HYPERVISOR_GRANT_TABLE_OP, abi.GNTTABOP_MAP_GRANT_REF, at, 1) == 0
    got = read(rig.xen, a.vcpu, at, 32)
    assert got is not None
    assert abi.MAP_GRANT_REF.unpack(got)[4:] == (0, 0, rig.mfn("B/3") << 12)
    readonly = rig.mfn("A/21") << 12 | 0x65
    assert rig.xen.call(a.vcpu, abi.HYPERVISOR_UPDATE_VA_MAPPING, a.layout.va(21), readonly, abi.UVMF_INVLPG) == 0
    rig.page("A/21").bytes()[:12] = arg[20:]  # type: ignore[union-attr]
    rig.page("A/20").bytes()[4096 - 20 :] = arg[:20]  # type: ignore[union-attr]
    rc = rig.xen.call(a.vcpu, abi.HYPERVISOR_GRANT_TABLE_OP, abi.GNTTABOP_MAP_GRANT_REF, at, 1)
    assert rc == -abi.EFAULT
    first = read(rig.xen, a.vcpu, at, 20)
    assert first is not None and first[18:20] == bytes(2)  # the status got through


@pytest.mark.parametrize(("number", "first"), [(20, abi.GNTTABOP_SWAP_GRANT_REF), (1, None), (26, None)])
def test_counts_with_upper_bits_set(rig: Rig, number: int, first: int | None) -> None:
    """Counts have 32 bits: higher bits are ignored, and bit 31 has a special meaning."""
    agent = rig.agents["A"]
    payload = {
        20: abi.SWAP_GRANT_REF.pack(100, 101, 99, 0),
        1: abi.MMU_UPDATE.pack(agent.layout.window_maddr(0), 0),
        26: abi.MMUEXT_OP.pack(abi.MMUEXT_TLB_FLUSH_LOCAL, 0, 0, 0),
    }[number]
    write(rig.xen, agent.vcpu, agent.arg, payload)
    count = 1 | 0xABCD << 32
    registers = (first, agent.arg, count) if first is not None else (agent.arg, count, agent.arg + 512, abi.DOMID_SELF)
    assert rig.xen.call(agent.vcpu, number, *registers) == 0
    if first is None:
        assert abi.U32.unpack(read(rig.xen, agent.vcpu, agent.arg + 512, 4) or b"")[0] == 1
    else:
        assert rig.xen.call(agent.vcpu, number, first, agent.arg, 1 << 31) == -abi.EINVAL


def test_a_frame_that_nobody_owns_is_nobodys(rig: Rig) -> None:
    """Dom0 names A as the owner of a frame that A has given up, and that is in the heap."""
    frame = own_table(rig, "A", 3)
    rig.xen.frames.put_alloc_ref(frame)
    assert frame.owner is None
    for flags in (0x65, FLAGS):
        at = rig.kernel.layout.window_maddr(0)
        assert rig.kernel.mmu_update(at, frame.mfn << 12 | flags, rig.domid("A")) == -abi.EBUSY
    assert frame.count == frame.tcount == 0
