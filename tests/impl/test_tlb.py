"""TLBs: a flush reaches the vCPUs that are named and no others, one page or all; a reused frame is in none.

Protects: too small a flush leaves another vCPU with access to a page that is no longer the guest's. Sources: public/xen.h
(MMUEXT_TLB_FLUSH_LOCAL to INVLPG_ALL, UVMF_*): LOCAL is the calling vCPU, MULTI the vCPUs of the bitmap, ALL each vCPU of
the domain; Xen common/page_alloc.c (a frame is flushed from TLBs older than its last free).
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.domains import Domain
from bulkhead.impl.xen.frames import PGT_L1
from bulkhead.impl.xen.guest_access import translate, write
from bulkhead.impl.xen.lifecycle import create_domain, set_max_vcpus
from bulkhead.impl.xen.machine import Xen, run
from bulkhead.impl.xen.memory_op import populate_page
from bulkhead.impl.xen.pv_build import PvLayout, build
from bulkhead.impl.xen.vcpu_context import reset_vcpu

PAGES = (4, 5, 6)
LOCAL, INVLPG_LOCAL, MULTI, INVLPG_MULTI, ALL, INVLPG_ALL = (
    abi.MMUEXT_TLB_FLUSH_LOCAL,
    abi.MMUEXT_INVLPG_LOCAL,
    abi.MMUEXT_TLB_FLUSH_MULTI,
    abi.MMUEXT_INVLPG_MULTI,
    abi.MMUEXT_TLB_FLUSH_ALL,
    abi.MMUEXT_INVLPG_ALL,
)
EVERYBODY = ({4, 5, 6}, {4, 5, 6}, {4, 5, 6})


class Guest:
    """A PV guest with three vCPUs on one set of page tables, which have all touched the same three pages."""

    def __init__(self, vcpus: int = 3) -> None:
        self.xen = Xen(nframes=0x3000, reserved=0x1000)
        domain = create_domain(self.xen, max_vcpus=vcpus)
        assert isinstance(domain, Domain)
        domain.max_pages = 64
        assert set_max_vcpus(domain, vcpus) == 0
        self.domain = domain
        self.layout: PvLayout = build(self.xen, domain, 16, 1)
        for vcpu in domain.vcpus:
            vcpu.cr3 = vcpu.cr3 or self.layout.root
        self.touch()

    def touch(self) -> None:
        for vcpu in self.domain.vcpus:
            for page in PAGES:
                assert translate(self.xen, vcpu, self.layout.va(page))

    def cached(self) -> tuple[set[int], ...]:
        """The pages of PAGES that each vCPU's TLB has."""
        return tuple(
            {page for page in PAGES if self.layout.va(page) >> 12 in vcpu.tlb.entries} for vcpu in self.domain.vcpus
        )

    def extended(self, cmd: int, arg1: int = 0, arg2: int = 0) -> int:
        vcpu, at = self.domain.vcpus[0], self.layout.va(0)
        assert write(self.xen, vcpu, at, abi.MMUEXT_OP.pack(cmd, 0, arg1, arg2))
        return self.xen.call(vcpu, abi.HYPERVISOR_MMUEXT_OP, at, 1, 0, abi.DOMID_SELF)

    def bitmap(self, bits: int) -> int:
        at = self.layout.va(0) + 512
        assert write(self.xen, self.domain.vcpus[0], at, abi.U64.pack(bits))
        return at


@pytest.fixture
def guest() -> Iterator[Guest]:
    yield Guest()


@pytest.mark.parametrize(
    "cmd, bits, want",
    [
        (LOCAL, 0, (set(), {4, 5, 6}, {4, 5, 6})),
        (INVLPG_LOCAL, 0, ({4, 6}, {4, 5, 6}, {4, 5, 6})),
        (MULTI, 0b000, EVERYBODY),
        (MULTI, 0b010, ({4, 5, 6}, set(), {4, 5, 6})),
        (MULTI, 0b101, (set(), {4, 5, 6}, set())),
        (MULTI, 0xFF8, EVERYBODY),  # vCPUs that do not exist
        (MULTI, 0b111, (set(), set(), set())),
        (INVLPG_MULTI, 0b110, ({4, 5, 6}, {4, 6}, {4, 6})),
        (INVLPG_MULTI, 0b111, ({4, 6}, {4, 6}, {4, 6})),
        (ALL, 0, (set(), set(), set())),
        (INVLPG_ALL, 0, ({4, 6}, {4, 6}, {4, 6})),
    ],
)
def test_a_flush_reaches_whom_it_names(guest: Guest, cmd: int, bits: int, want: tuple[set[int], ...]) -> None:
    at = guest.bitmap(bits)
    stamps = [vcpu.tlb.flushed_at for vcpu in guest.domain.vcpus]
    assert guest.extended(cmd, guest.layout.va(5), at) == 0
    assert guest.cached() == want
    flushed = [vcpu.tlb.flushed_at > before for vcpu, before in zip(guest.domain.vcpus, stamps, strict=True)]
    assert flushed == [not pages for pages in want]  # only a complete flush makes frames freed before it harmless


@pytest.mark.parametrize(
    "flags, want",
    [
        (0, EVERYBODY),
        (abi.UVMF_ALL, EVERYBODY),  # whom, but no flush
        (abi.UVMF_TLB_FLUSH, (set(), {4, 5, 6}, {4, 5, 6})),
        (abi.UVMF_INVLPG, ({4, 6}, {4, 5, 6}, {4, 5, 6})),
        (abi.UVMF_TLB_FLUSH | abi.UVMF_ALL, (set(), set(), set())),
        (abi.UVMF_INVLPG | abi.UVMF_ALL, ({4, 6}, {4, 6}, {4, 6})),
        (3, EVERYBODY),
    ],
)
def test_update_va_mapping_flushes_as_asked(guest: Guest, flags: int, want: tuple[set[int], ...]) -> None:
    at = guest.layout.va(5)
    assert guest.xen.call(guest.domain.vcpus[0], abi.HYPERVISOR_UPDATE_VA_MAPPING, at, 0, flags) == 0
    assert guest.cached() == want


@pytest.mark.parametrize("flush, want", [(abi.UVMF_TLB_FLUSH, set[int]()), (abi.UVMF_INVLPG, {4, 6})])
def test_update_va_mapping_with_a_bitmap(guest: Guest, flush: int, want: set[int]) -> None:
    at = guest.bitmap(0b110)
    assert guest.xen.call(guest.domain.vcpus[0], abi.HYPERVISOR_UPDATE_VA_MAPPING, guest.layout.va(5), 0, flush | at) == 0
    assert guest.cached() == ({4, 5, 6}, want, want)


def test_a_new_root_flushes_its_vcpu_only(guest: Guest) -> None:
    assert guest.extended(abi.MMUEXT_NEW_BASEPTR, guest.layout.root.mfn) == 0
    assert guest.cached() == EVERYBODY  # the same root again
    before = guest.xen.frames.stamp
    assert guest.extended(abi.MMUEXT_NEW_USER_BASEPTR, guest.layout.root.mfn) == 0
    assert guest.cached() == (set(), {4, 5, 6}, {4, 5, 6}) and guest.domain.vcpus[0].tlb.flushed_at > before


def test_the_reset_of_a_vcpu_flushes_it_only(guest: Guest) -> None:
    """Frames that were freed before are then in no TLB of its: the flush is later than all of them."""
    before = guest.xen.frames.stamp
    assert reset_vcpu(guest.xen, guest.domain.vcpus[0]) == 0
    assert guest.cached() == (set(), {4, 5, 6}, {4, 5, 6}) and guest.domain.vcpus[0].tlb.flushed_at > before


def test_more_vcpus_than_a_word_of_the_bitmap() -> None:
    many = Guest(70)
    at = many.layout.va(0) + 512
    assert write(many.xen, many.domain.vcpus[0], at, abi.U64.pack(1) + abi.U64.pack(1 << 3))
    assert many.extended(MULTI, 0, at) == 0
    assert [n for n, pages in enumerate(many.cached()) if not pages] == [0, 67]


def test_a_frame_that_is_given_out_again_is_in_no_tlb() -> None:
    """Even if nothing was ever flushed before it was freed: the clock stands at its start then."""
    guest = Guest(1)
    vcpu, page = guest.domain.vcpus[0], guest.layout.pages[5]
    at = guest.layout.va(5)
    assert guest.xen.call(vcpu, abi.HYPERVISOR_UPDATE_VA_MAPPING, at, 0, 0) == 0
    vcpu.tlb.flushed_at = guest.xen.frames.stamp = 0
    assert at >> 12 in vcpu.tlb.entries
    guest.xen.frames.put_alloc_ref(page)
    assert page.owner is None and page.free_stamp == 0
    while (got := populate_page(guest.xen, guest.domain)) is not page:
        assert got is not None
    assert at >> 12 not in vcpu.tlb.entries


def test_no_flush_for_a_frame_that_was_never_used() -> None:
    guest = Guest(1)
    before = guest.cached()
    assert populate_page(guest.xen, guest.domain) is not None and guest.cached() == before


def test_a_page_that_becomes_a_table_is_writable_for_nobody() -> None:
    """No vCPU has it writable in its TLB from then on, even in the middle of a batch (XSA-401)."""
    guest = Guest()
    page, at = guest.layout.pages[5], guest.layout.va(5)
    vcpu = guest.domain.vcpus[0]
    assert guest.xen.call(vcpu, abi.HYPERVISOR_UPDATE_VA_MAPPING, at, 0, 0) == 0  # no flush is asked for
    assert guest.cached() == EVERYBODY
    slot = guest.layout.l2.mfn << 12 | 8 * 300
    argument = guest.layout.va(0)
    batch = abi.MMU_UPDATE.pack(slot, page.mfn << 12 | 0x67) + abi.MMU_UPDATE.pack(slot + 8, 0)
    assert write(guest.xen, vcpu, argument, batch)
    steps = guest.xen.hypercall(vcpu, abi.HYPERVISOR_MMU_UPDATE, argument, 2, 0, abi.DOMID_SELF)
    assert next(steps) == "mmu.preempt" and page.ptype == PGT_L1 and page.tcount == 1
    assert guest.cached() == (set(), set(), set())
    assert run(steps) == 0


def test_what_an_update_removes_is_in_no_tlb(guest: Guest) -> None:
    """mmu_update flushes the domain whose tables it changed, at its end."""
    argument, page = guest.layout.va(0), guest.layout.va(5)
    at = guest.layout.direct_l1[0].mfn << 12 | (page >> 12 & 511) << 3
    assert write(guest.xen, guest.domain.vcpus[0], argument, abi.MMU_UPDATE.pack(at, 0))
    assert guest.xen.call(guest.domain.vcpus[0], abi.HYPERVISOR_MMU_UPDATE, argument, 1, 0, abi.DOMID_SELF) == 0
    assert guest.cached() == (set(), set(), set())
