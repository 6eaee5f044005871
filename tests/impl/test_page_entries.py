"""The spare bits of a guest's page-table entries: allowed writes, and the values read back.

Protects: bits 9-11 and 52-62 belong to the guest at every level and for every operation; forbidden bits
are refused by each of these operations. Source: Xen arch/x86/mm.c, L1_DISALLOW_MASK and base_disallow_mask.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.guest_access import write
from bulkhead.impl.xen.pagetables import PTE_AVAIL, PTE_GLOBAL, PTE_GUEST_KERNEL, PTE_NX, read_pte
from bulkhead.proofs.replay.rig import Rig
from tests.impl.support import check_counts, grant, map_ref, unmap
from tests.impl.test_foreign_tables import FLAGS, counts, mmuext, own_table

SLOT = 7
OWN = (0x200, 0x400, 0x800, PTE_AVAIL)


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    made.make("A")
    yield made
    check_counts(made.xen)


@pytest.mark.parametrize("bits", OWN)
def test_spare_bits_of_a_mapping_are_kept(rig: Rig, bits: int) -> None:
    agent = rig.agents["A"]
    at = agent.layout.window_maddr(SLOT)
    window, index = rig.xen.frames.table[at >> 12], (at & 0xFFF) >> 3
    pte = rig.mfn("A/5") << 12 | FLAGS | bits
    assert rig.mmu_update("A", at, pte, abi.DOMID_SELF) == 0
    assert read_pte(window, index) == pte | PTE_GLOBAL
    taken = counts(rig)
    assert rig.mmu_update("A", at, pte ^ PTE_AVAIL, abi.DOMID_SELF) == 0  # a change of only these bits takes no references
    assert read_pte(window, index) == (pte ^ PTE_AVAIL) | PTE_GLOBAL and counts(rig) == taken
    va = agent.layout.window_va(SLOT)
    assert rig.xen.call(agent.vcpu, abi.HYPERVISOR_UPDATE_VA_MAPPING, va, pte | PTE_NX | 1 << 55, 0) == 0
    assert read_pte(window, index) == pte | PTE_NX | 1 << 55 | PTE_GLOBAL
    assert rig.mmu_update("A", at, bits, abi.DOMID_SELF) == 0  # a non-present entry belongs to the guest completely
    assert read_pte(window, index) == bits


@pytest.mark.parametrize("level", (1, 2, 3, 4))
@pytest.mark.parametrize("bits", OWN)
def test_spare_bits_of_a_table_that_is_pinned(rig: Rig, level: int, bits: int) -> None:
    table = own_table(rig, "A", 3)
    child = rig.agents["A"].layout.pages[5] if level == 1 else own_table(rig, "A", 4)
    abi.U64.pack_into(table.bytes(), 0, child.mfn << 12 | FLAGS | bits)
    assert mmuext(rig, "A", abi.MMUEXT_PIN_L1_TABLE + level - 1, table.mfn) == 0
    assert read_pte(table, 0) == child.mfn << 12 | FLAGS | bits | (PTE_GLOBAL if level == 1 else 0)
    assert mmuext(rig, "A", abi.MMUEXT_UNPIN_TABLE, table.mfn) == 0


@pytest.mark.parametrize("bit", (0x8, 0x10, 0x80))
@pytest.mark.parametrize("level", (1, 2, 3, 4))
def test_bits_that_no_guest_may_set(rig: Rig, level: int, bit: int) -> None:
    table = own_table(rig, "A", 3)
    child = rig.agents["A"].layout.pages[5] if level == 1 else own_table(rig, "A", 4)
    abi.U64.pack_into(table.bytes(), 8 * 511, child.mfn << 12 | FLAGS | bit)
    before = counts(rig)
    assert mmuext(rig, "A", abi.MMUEXT_PIN_L1_TABLE + level - 1, table.mfn) == -abi.EINVAL
    assert counts(rig) == before and read_pte(table, 511) == child.mfn << 12 | FLAGS | bit
    agent = rig.agents["A"]
    write(rig.xen, agent.vcpu, agent.arg, bytes(16))
    assert rig.mmu_update("A", agent.layout.window_maddr(SLOT), rig.mfn("A/5") << 12 | FLAGS | bit, abi.DOMID_SELF) == -22


def test_frames_that_the_machine_does_not_have(rig: Rig) -> None:
    """From the first number beyond the last frame on, a mapping is refused as one of a device's memory; below, as a page of
    nobody's."""
    at, beyond = rig.agents["A"].layout.window_maddr(SLOT), rig.xen.frames.nframes
    answers = [rig.mmu_update("A", at, mfn << 12 | FLAGS, abi.DOMID_SELF) for mfn in (beyond - 1, beyond, beyond + 1)]
    assert answers == [-abi.EBUSY, -abi.EPERM, -abi.EPERM]


@pytest.mark.parametrize(("flags", "kept"), [(2, PTE_GUEST_KERNEL), (2 | abi.GNTMAP_APPLICATION_MAP, PTE_GLOBAL)])
def test_a_grant_is_mapped_for_the_kernel_or_for_programs(rig: Rig, flags: int, kept: int) -> None:
    """GNTMAP_application_map: Xen marks the entries of a guest's kernel, and makes those of its programs global."""
    rig.make("B")
    grant(rig, "A", 8, "B", 3)
    handle = map_ref(rig, "B", "A", 8, SLOT, flags)[1]
    at = rig.agents["B"].layout.window_maddr(SLOT)
    stored = read_pte(rig.xen.frames.table[at >> 12], (at & 0xFFF) >> 3)
    assert stored & (PTE_GUEST_KERNEL | PTE_GLOBAL) == kept
    assert unmap(rig, "B", handle, SLOT) == 0
