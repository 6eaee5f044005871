"""What one call stores another one tells, and no byte more is read or written than the caller says.

Protects: a vCPU's entry points, from the guest's call to the toolstack's; how many bytes of a mask or a bitmap Xen touches;
the pages that Dom0's kernel has to give. Recordings of real Xen have the single answers, but few pairs of such calls.
"""

from __future__ import annotations

import pytest

from bulkhead.impl.dom0.kernel import ARG_PAGES, Kernel, KernelError
from bulkhead.impl.xen import abi, domctl_vcpus, sysctl
from bulkhead.impl.xen.continuation import NEVER, Preemption
from bulkhead.impl.xen.hypercall_cpu import CALLBACK
from bulkhead.impl.xen.machine import Xen, run
from bulkhead.impl.xen.migration import BITS_AT_ONCE, SHADOW_ENABLE_LOGDIRTY, SHADOW_OP, SHADOW_PEEK
from tests.impl.test_continuation import Machine
from tests.impl.test_migration import domctl

ENTRY = 0xFFFF800000001000
TRACES = 2


@pytest.fixture
def m() -> Machine:
    return Machine(Preemption(NEVER))


def _unmap(m: Machine, page: int) -> None:
    """Dom0's address of a page leads nowhere."""
    assert run(m.call(0, abi.HYPERVISOR_UPDATE_VA_MAPPING, m.layouts[0].va(page), 0, 2)) == 0


@pytest.mark.parametrize("kind", [domctl_vcpus.SYSENTER, domctl_vcpus.SYSCALL32])
@pytest.mark.parametrize(("flags", "masks"), [(0, 0), (1, 1), (2, 0), (3, 1)])
def test_an_entry_point_that_a_guest_registers_is_saved_with_its_vcpu(m: Machine, kind: int, flags: int, masks: int) -> None:
    at = m.put(1, 0, CALLBACK.pack(kind, flags, ENTRY))
    assert run(m.call(1, abi.HYPERVISOR_CALLBACK_OP, 0, at)) == 0
    assert domctl(m, abi.DOMCTL_GET_EXT_VCPUCONTEXT, bytes(64)) == 0
    _, _, compat, enter, _, _, compat_masks, enter_masks, *_ = domctl_vcpus.EXTENDED.unpack(m.get(0, 16, 64))
    of_enter, of_compat = (enter, enter_masks), (compat, compat_masks)
    other = of_compat if kind == domctl_vcpus.SYSENTER else of_enter
    assert (of_enter if kind == domctl_vcpus.SYSENTER else of_compat) == (ENTRY, masks) and other == (0, 0)


@pytest.mark.parametrize(
    ("bits", "before_the_end", "result"), [(0, 0, 0), (1, 0, -abi.EFAULT), (64, 1, 0), (64, 0, -abi.EFAULT)]
)
def test_one_byte_of_a_mask_of_processors_is_read(m: Machine, bits: int, before_the_end: int, result: int) -> None:
    """There is one processor."""
    _unmap(m, 5)
    mask = m.layouts[0].va(5) - before_the_end
    body = sysctl.TRACES.pack(sysctl.SET_CPU_MASK, mask, bits, 0, 0, 0)
    raw = abi.U32.pack(TRACES) + abi.U32.pack(sysctl.VERSION) + body
    at = m.put(0, 0, raw.ljust(sysctl.SIZE, b"\0"))
    assert run(m.call(0, abi.HYPERVISOR_SYSCTL, at)) == result


def test_a_bitmap_in_several_pieces_ends_where_its_pages_do(m: Machine) -> None:
    for pfn, frame in enumerate(m.layouts[1].pages):
        frame.m2p = pfn
    m.layouts[1].pages[7].m2p = BITS_AT_ONCE + 3
    assert domctl(m, abi.DOMCTL_SHADOW_OP, SHADOW_OP.pack(SHADOW_ENABLE_LOGDIRTY, 0, 0, 0, 0, 0, 0, 0)) == 0
    for page in (2, 7):
        m.put(1, page * abi.PAGE_SIZE, b"x")
    for page in (6, 7):
        m.put(0, page * abi.PAGE_SIZE, b"\xaa" * abi.PAGE_SIZE)
    bitmap = m.layouts[0].va(6)
    body = SHADOW_OP.pack(SHADOW_PEEK, 0, 0, 0, bitmap, BITS_AT_ONCE + 16, 0, 0)
    assert domctl(m, abi.DOMCTL_SHADOW_OP, body) == 0
    assert m.get(0, 6 * abi.PAGE_SIZE, abi.PAGE_SIZE) == bytes([1 << 2]) + bytes(abi.PAGE_SIZE - 1)
    assert m.get(0, 7 * abi.PAGE_SIZE, 4) == b"\x08\x00\xaa\xaa"


def test_dom0_gives_each_of_its_pages_once_but_those_of_its_own_arguments() -> None:
    xen = Xen(nframes=0x2000, reserved=0x1000)
    kernel = Kernel(xen, xen.create_dom0(), npages=40, nwindows=1)
    mine = [frame.mfn for frame in kernel.layout.pages[:40]]
    pages = [kernel.alloc_page().mfn for _ in range(40 - ARG_PAGES)]
    assert sorted(pages) == sorted(mine[ARG_PAGES:])
    with pytest.raises(KernelError):
        kernel.alloc_page()


def test_dom0_gives_each_reference_once_and_makes_its_table_larger() -> None:
    """Linux leaves the reserved references alone, and gives the lowest first."""
    xen = Xen(nframes=0x2000, reserved=0x1000)
    kernel = Kernel(xen, xen.create_dom0(), npages=40, nwindows=1)
    first, page = kernel.domain.grant_table.nr_entries, kernel.alloc_page()
    refs = [kernel.grant_access(1, page, True) for _ in range(first + 5)]
    assert refs == [*range(8, first + 13)] and kernel.domain.grant_table.nr_entries == first + abi.ENTRIES_V1
    assert kernel.end_access(refs[3]) and kernel.grant_access(1, page, False) == refs[3]


def test_dom0_gives_each_address_for_mapping_once() -> None:
    xen = Xen(nframes=0x2000, reserved=0x1000)
    kernel = Kernel(xen, xen.create_dom0(), npages=40, nwindows=2)
    assert [kernel.alloc_slot() for _ in range(1024)] == [*range(1024)]
    with pytest.raises(KernelError):
        kernel.alloc_slot()
