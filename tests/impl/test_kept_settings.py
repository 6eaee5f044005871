"""What one call stores another one tells, and no byte more is read or written than the caller says.

Protects: a vCPU's entry points, from the guest's call to the toolstack's; how many bytes of a mask or a bitmap Xen touches;
the pages that Dom0's kernel has to give. Recordings of real Xen have the single answers, but few pairs of such calls.
"""

from __future__ import annotations

from struct import Struct

import pytest

from bulkhead.impl.dom0 import file_calls
from bulkhead.impl.dom0.kernel import ARG_PAGES, Kernel, KernelError
from bulkhead.impl.xen import abi, domctl_hardware, domctl_vcpus, platform_op, sysctl
from bulkhead.impl.xen.continuation import NEVER, Preemption
from bulkhead.impl.xen.hypercall_cpu import CALLBACK, TRAP, TRAPS_OFFSET
from bulkhead.impl.xen.lifecycle import create_domain
from bulkhead.impl.xen.machine import Xen, run
from bulkhead.impl.xen.migration import BITS_AT_ONCE, SHADOW_ENABLE_LOGDIRTY, SHADOW_OP, SHADOW_PEEK
from tests.impl.test_continuation import Machine
from tests.impl.test_hvm import guest
from tests.impl.test_migration import domctl
from tests.impl.test_process_memory import Process

ENTRY = 0xFFFF800000001000
TRACES, PAGE_OFFLINE = 2, 14


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


# Each permission: its command, the body that gives or takes a range, and where the range is.
PERMISSIONS = [
    (abi.DOMCTL_IOPORT_PERMISSION, domctl_hardware.PORTS, 0x300, 8),
    (abi.DOMCTL_IOMEM_PERMISSION, domctl_hardware.IOMEM, 0xF0000, 8),
]


@pytest.mark.parametrize(("cmd", "body", "first", "count"), PERMISSIONS)
def test_what_dom0_has_lost_it_cannot_give(m: Machine, cmd: int, body: Struct, first: int, count: int) -> None:
    """A range is taken from Dom0 itself: to its last element, and no further."""
    assert domctl(m, cmd, body.pack(first - 2, count + 4, 1)) == 0
    assert domctl(m, cmd, body.pack(first, count, 0), 0) == 0
    for at, left in ((first - 1, True), (first, False), (first + count - 1, False), (first + count, True)):
        assert domctl(m, cmd, body.pack(at, 1, 1)) == (0 if left else -abi.EPERM)
    assert domctl(m, cmd, body.pack(first - 1, 2, 1)) == -abi.EPERM  # as a whole, or not at all


@pytest.mark.parametrize(("cmd", "body", "first", "count"), PERMISSIONS)
def test_a_guest_with_a_device_may_flush_caches(m: Machine, cmd: int, body: Struct, first: int, count: int) -> None:
    def flush() -> int:
        at = m.put(1, 0, abi.MMUEXT_OP.pack(abi.MMUEXT_FLUSH_CACHE, 0, 0, 0))
        return int(run(m.call(1, abi.HYPERVISOR_MMUEXT_OP, at, 1, 0, abi.DOMID_SELF)))

    assert flush() == -abi.EACCES
    assert domctl(m, cmd, body.pack(first, count, 1)) == 0 and flush() == 0
    assert domctl(m, cmd, body.pack(first, count - 1, 0)) == 0 and flush() == 0  # one is left
    assert domctl(m, cmd, body.pack(first + count - 1, 1, 0)) == 0 and flush() == -abi.EACCES


def test_an_interrupt_is_passed_on_while_one_has_it(m: Machine) -> None:
    give, take = (domctl_hardware.IRQ.pack(5, allow) for allow in (1, 0))
    assert domctl(m, abi.DOMCTL_IRQ_PERMISSION, give) == 0 and 5 in m.guests[1].toolstack.irqs
    assert domctl(m, abi.DOMCTL_IRQ_PERMISSION, take) == 0 and 5 not in m.guests[1].toolstack.irqs
    assert domctl(m, abi.DOMCTL_IRQ_PERMISSION, take, 0) == 0
    assert domctl(m, abi.DOMCTL_IRQ_PERMISSION, give) == -abi.EPERM


def extended(
    *, size: int = 64, points: tuple[int, ...] = (0, 0, 0, 0, 0, 0), errors: tuple[int, ...] = (1, 2, 3, 4)
) -> bytes:
    """The body of set_ext_vcpucontext for vCPU 0."""
    return domctl_vcpus.EXTENDED.pack(0, size, *points, *errors)


@pytest.mark.parametrize(
    ("size", "kept"),
    [(31, None), (32, (2, 0, 0, 0)), (39, (2, 0, 0, 0)), (40, (1, 0, 0, 0)), (55, (1, 0, 0, 0)), (56, (1, 2, 3, 0)),
     (63, (1, 2, 3, 0)), (64, (1, 2, 3, 4)), (100, (1, 2, 3, 4))],
)  # fmt: skip
def test_as_much_of_a_vcpus_state_is_kept_as_its_size_says(m: Machine, size: int, kept: tuple[int, ...] | None) -> None:
    """Of the capabilities of machine checks only those that the caller's structure has."""
    before = m.guests[1].vcpus[0].settings.errors
    rc = domctl(m, abi.DOMCTL_SET_EXT_VCPUCONTEXT, extended(size=size))
    assert rc == (-abi.EINVAL if kept is None else 0)
    assert domctl(m, abi.DOMCTL_GET_EXT_VCPUCONTEXT, bytes(64)) == 0
    told = domctl_vcpus.EXTENDED.unpack(m.get(0, 16, 64))
    assert told[1] == 64 and told[-4:] == (before if size < 40 else kept)


@pytest.mark.parametrize("which", range(6))
def test_a_translated_guest_has_no_entry_points(which: int) -> None:
    """Any of them is refused, but the privilege level of a selector."""
    xen = Xen(nframes=4096, reserved=16)
    xen.create_dom0()
    domain = guest(xen)
    points = tuple(8 if i == which else 0 for i in range(6))
    wrong, fine = extended(points=points), extended(points=(0, 0, 3, 3, 0, 0))
    for body, rc in ((wrong, -abi.EINVAL), (fine, 0)):
        assert domctl_vcpus.set_extended(xen, xen.domains[0].vcpus[0], domain, 0, body) == rc


@pytest.mark.parametrize("value", [0, 1, 7])
def test_what_fcntl_tells_of_signals_is_what_ioctl_said(value: int) -> None:
    u = Process()
    assert file_calls.ioctl(u.sys, u.ev, file_calls.FIOASYNC, value) is None
    assert bool(file_calls.getfl(u.sys, u.ev) & file_calls.O_ASYNC) == bool(value)
    assert file_calls.ioctl(u.sys, u.ev, file_calls.FIONBIO, value) is None
    assert bool(file_calls.getfl(u.sys, u.ev) & file_calls.O_NONBLOCK) == bool(value)


def test_a_trap_table_is_kept_row_by_row_and_cleared_as_a_whole(m: Machine) -> None:
    """As getvcpucontext tells it; nothing beside the table changes."""
    vcpu, size = m.guests[1].vcpus[0], abi.VCPU_CONTEXT_SIZE
    vcpu.context = b"\xee" * size
    rows = [TRAP.pack(vector, 3, 0xE033, 0, ENTRY + vector) for vector in (14, 3)]
    at = m.put(1, 0, b"".join(rows) + bytes(TRAP.size))
    assert run(m.call(1, abi.HYPERVISOR_SET_TRAP_TABLE, at)) == 0
    want = bytearray(b"\xee" * size)
    for vector, row in zip((14, 3), rows, strict=True):
        want[TRAPS_OFFSET + TRAP.size * vector : TRAPS_OFFSET + TRAP.size * (vector + 1)] = row
    assert vcpu.context == want
    assert run(m.call(1, abi.HYPERVISOR_SET_TRAP_TABLE, 0)) == 0
    want[TRAPS_OFFSET : TRAPS_OFFSET + TRAP.size * 256] = bytes(TRAP.size * 256)
    assert vcpu.context == want


@pytest.mark.parametrize(
    ("count", "processor", "rc"),
    [(0, 9, 0), (3, 0, -abi.EFAULT), (4, 0, -abi.EINVAL), (3, 1, -abi.EINVAL), (1, 0, -abi.EFAULT)],
)
def test_how_many_registers_may_be_asked_for(m: Machine, count: int, processor: int, rc: int) -> None:
    """Of a list that is nowhere: a number that is refused is refused before the list is read."""
    assert platform_op._resources(m.xen, m.dom0.vcpus[0], count, processor, 0x10) == rc


@pytest.mark.parametrize(("leaves", "msrs", "fits"), [(29, 2, True), (28, 2, False), (29, 1, False), (100, 0, False)])
def test_room_for_a_policy_is_room_for_both_its_lists(m: Machine, leaves: int, msrs: int, fits: bool) -> None:
    at = m.put(0, 512, bytes(64))
    body = sysctl.POLICY.pack(0, leaves, msrs, 0, at, at)
    raw = abi.U32.pack(29) + abi.U32.pack(sysctl.VERSION) + body
    rc = run(m.call(0, abi.HYPERVISOR_SYSCTL, m.put(0, 0, raw.ljust(sysctl.SIZE, b"\0"))))
    assert (rc == -abi.ENOBUFS) == (not fits)


@pytest.mark.parametrize(("bits", "told"), [(0, b""), (3, b"\xff"), (8, b"\xff"), (9, b"\xff\xff"), (64, b"\xff" * 8)])
def test_a_bitmap_of_nodes_is_as_long_as_its_caller_says(m: Machine, bits: int, told: bytes) -> None:
    """A domain without vCPUs has all nodes, of which as many bytes are told as the bitmap has."""
    assert not isinstance(create_domain(m.xen, 9, max_vcpus=1), int)
    at = m.put(0, 1024, b"\xaa" * 16)
    assert domctl(m, abi.DOMCTL_GETNODEAFFINITY, domctl_vcpus.BITMAP.pack(at, bits), 9) == 0
    assert m.get(0, 1024, 16) == told.ljust(16, b"\xaa")


@pytest.mark.parametrize(("beyond", "rc"), [(0, 0), (1, -abi.EINVAL)])
def test_the_last_page_of_memory_is_in_order(m: Machine, beyond: int, rc: int) -> None:
    """XEN_SYSCTL_page_offline_op asks about pages; the one behind the last is none."""
    last = m.xen.frames.nframes - 1 + beyond
    status = m.put(0, 2048, b"?" * 8)
    body = sysctl.PAGES.pack(sysctl.QUERY, last - 1, last, 0, status)
    raw = abi.U32.pack(PAGE_OFFLINE) + abi.U32.pack(sysctl.VERSION) + body
    assert run(m.call(0, abi.HYPERVISOR_SYSCTL, m.put(0, 0, raw.ljust(sysctl.SIZE, b"\0")))) == rc
    assert (m.get(0, 2048, 8) == bytes(8)) == (not rc)
