"""XENMEM_acquire_resource for a translated hardware domain (PVH Dom0): frames are mapped at the gfns of its list.

Protects: no recording has such a Dom0, so these tests check the order of the list, the page reference of each entry,
and the answers if the list is unreadable or an entry fails.
"""

from __future__ import annotations

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.continuation import NEVER, Preemption
from bulkhead.impl.xen.guest_access import write
from bulkhead.impl.xen.machine import run
from bulkhead.impl.xen.p2m import FOREIGN
from tests.impl.test_batches import translated
from tests.impl.test_continuation import MEMORY, Machine


def test_frames_are_mapped_where_the_list_says() -> None:
    m = Machine(Preemption(NEVER))
    dom0 = translated(m)
    dom0.is_privileged, m.xen.hardware_domain = True, dom0
    vcpu, shared = dom0.vcpus[0], m.guests[1].grant_table.shared
    assert len(shared) == 1 and shared[0].count == 1  # a request for the second frame grows the table

    def ask(count: int, at: int, *gfns: int) -> int:
        assert write(m.xen, vcpu, 0x200, b"".join(map(abi.U64.pack, gfns)))
        assert write(m.xen, vcpu, 0x100, abi.ACQUIRE_RESOURCE.pack(1, 1, 0, count, 0, 0, at))
        return int(run(m.xen.hypercall(vcpu, MEMORY, abi.XENMEM_ACQUIRE_RESOURCE, 0x100)))

    assert ask(2, 0x200, 0x31, 0x30) == 0
    assert dom0.p2m is not None
    assert [dom0.p2m.lookup(gfn) for gfn in (0x31, 0x30)] == [(shared[0], FOREIGN), (shared[1], FOREIGN)]
    assert [frame.count for frame in shared] == [2, 2]
    assert ask(2, 0x7FFFF000, 0x31, 0x30) == -abi.EFAULT
    assert ask(2, 0x200, 0x32, 1 << 50) == -abi.EIO  # the first entry is made, the second is impossible
    assert dom0.p2m.lookup(0x32) == (shared[0], FOREIGN)
    assert ask(1, 0x200, 1 << 50) == -abi.ENOENT
