"""A call whose answer cannot be stored fails with EFAULT: nobody takes an old answer for a new one.

Protects: each toolstack call that tells something (domctl, sysctl, platform_op), and each operation of a guest that does.
The property needs no table of answers: what a call changes in its argument when that can be written must make it fail when
it cannot. Source: Xen's copy_to_guest and copyback in common/domctl.c, common/sysctl.c, arch/x86/platform_hypercall.c.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from bulkhead.impl.xen import abi, platform_op, sysctl
from bulkhead.impl.xen.continuation import NEVER, Preemption
from bulkhead.impl.xen.machine import run
from tests.impl.test_continuation import Machine

PAGE = 6  # of Dom0's or the guest's, for the argument
SIZE = 256
# The first words of a body: nothing, a vCPU or a number of one, a flag, and the addresses or sizes of nothing.
WORDS = ((0,) * 8, (1,) * 8, (0, 1, 0, 0, 0, 0, 0, 0), (1, 0, 0, 0, 0, 0, 0, 0), (0, 64, 0, 0, 0, 0, 0, 0), (0,) + (7,) * 7)
BODIES = tuple(b"".join(map(abi.U32.pack, words)).ljust(SIZE - 16, b"\0") for words in WORDS)


# A call: who makes it, the hypercall, its registers with AT for the address of the argument, and the argument.
AT = -1
Call = tuple[int, int, tuple[int, ...], bytes]


def domctls() -> Iterator[Call]:
    """Every number of a domctl, about the first guest, with each body."""
    for cmd in range(1, 90):
        for body in BODIES:
            head = abi.DOMCTL_HEADER.pack(cmd, abi.DOMCTL_INTERFACE_VERSION, 1, 0, 0, 0)
            yield 0, abi.HYPERVISOR_DOMCTL, (AT,), head + body


def sysctls() -> Iterator[Call]:
    """Every number of a sysctl with each body."""
    for cmd in range(1, 32):
        for body in BODIES:
            yield 0, abi.HYPERVISOR_SYSCTL, (AT,), abi.U32.pack(cmd) + abi.U32.pack(sysctl.VERSION) + body


def platform_ops() -> Iterator[Call]:
    """Every number of a platform_op with each body."""
    for cmd in range(1, 70):
        for body in BODIES:
            yield 0, abi.HYPERVISOR_PLATFORM_OP, (AT,), abi.U32.pack(cmd) + abi.U32.pack(platform_op.VERSION) + body


def of_guests() -> Iterator[Call]:
    """Operations of a guest about itself: its events, grants, vCPUs, parameters, and which Xen it is."""
    for cmd in range(34):
        for body in (*BODIES, abi.U16.pack(abi.DOMID_SELF) + BODIES[0][2:], abi.U16.pack(abi.DOMID_SELF) + BODIES[-1][2:]):
            yield 1, abi.HYPERVISOR_EVENT_CHANNEL_OP, (cmd, AT), body
            yield 1, abi.HYPERVISOR_XEN_VERSION, (cmd, AT), body
            yield 1, abi.HYPERVISOR_VCPU_OP, (cmd, 0, AT), body
            if cmd not in (abi.GNTTABOP_GET_STATUS_FRAMES, abi.GNTTABOP_SETUP_TABLE):  # these store lists elsewhere, too
                yield 1, abi.HYPERVISOR_GRANT_TABLE_OP, (cmd, AT, 1), body


def answered(call: Call, writable: bool) -> tuple[int, bool]:
    """The result of a call with its argument in such a page, and whether the argument was changed."""
    who, number, registers, raw = call
    m = Machine(Preemption(NEVER))
    m.put(who, PAGE * abi.PAGE_SIZE, raw)
    at, frame = m.layouts[who].va(PAGE), m.layouts[who].pages[PAGE]
    if not writable:
        assert run(m.call(who, abi.HYPERVISOR_UPDATE_VA_MAPPING, at, frame.mfn << 12 | 0x25, 2)) == 0
    rc: int = run(m.call(who, number, *(at if each == AT else each for each in registers)))
    return rc, bytes(frame.bytes()[: len(raw)]) != raw


@pytest.mark.parametrize(("calls", "kinds"), [(domctls, 9), (sysctls, 10), (platform_ops, 2), (of_guests, 22)])
def test_an_answer_that_cannot_be_stored_is_a_fault(calls: Callable[[], Iterator[Call]], kinds: int) -> None:
    told = set()
    for call in calls():
        rc, changed = answered(call, True)
        if changed:
            assert answered(call, False) == (-abi.EFAULT, False), f"{call[:3]} {call[3][:24].hex()} gave {rc}"
            told.add((call[1], call[2], call[3][:4] if len(call[2]) == 1 else b""))
    assert len(told) >= kinds, f"only {len(told)} calls told something"


# Sizes of the structs of memory operations, and the answer to a fault, from public/memory.h.
MEMORY_STRUCTS = {
    abi.XENMEM_INCREASE_RESERVATION: (32, 0),
    abi.XENMEM_DECREASE_RESERVATION: (32, 0),
    abi.XENMEM_POPULATE_PHYSMAP: (32, 0),
    3: (2, -abi.EFAULT),  # current_reservation
    4: (2, -abi.EFAULT),  # maximum_reservation
    5: (24, -abi.EFAULT),  # machphys_mfn_list
    abi.XENMEM_ADD_TO_PHYSMAP: (24, -abi.EFAULT),
    9: (16, -abi.EFAULT),  # memory_map
    10: (16, -abi.EFAULT),  # machine_memory_map
    abi.XENMEM_EXCHANGE: (72, -abi.EFAULT),
    12: (24, -abi.EFAULT),  # machphys_mapping
    13: (24, -abi.EFAULT),  # set_memory_map
    14: (2, -abi.EFAULT),  # maximum_gpfn
    abi.XENMEM_REMOVE_FROM_PHYSMAP: (16, -abi.EFAULT),
    16: (40, -abi.EFAULT),  # set_pod_target
    17: (40, -abi.EFAULT),  # get_pod_target
    abi.XENMEM_ADD_TO_PHYSMAP_BATCH: (32, -abi.EFAULT),
    abi.XENMEM_CLAIM_PAGES: (32, -abi.EFAULT),
    26: (40, -abi.EFAULT),  # get_vnumainfo
    27: (24, -abi.EFAULT),  # reserved_device_memory_map
    28: (32, -abi.EFAULT),  # acquire_resource
}


def at_the_end_of_memory(cmd: int, before: int) -> int:
    """A memory operation of Dom0's, its argument so many bytes before the end of what is mapped, and all zeros."""
    m = Machine(Preemption(NEVER))
    assert run(m.call(0, abi.HYPERVISOR_UPDATE_VA_MAPPING, m.layouts[0].va(PAGE + 1), 0, 2)) == 0
    return int(run(m.call(0, abi.HYPERVISOR_MEMORY_OP, cmd, m.layouts[0].va(PAGE + 1) - before)))


@pytest.mark.parametrize("cmd", MEMORY_STRUCTS)
def test_a_struct_is_read_to_its_end_and_no_further(cmd: int) -> None:
    size, fault = MEMORY_STRUCTS[cmd]
    assert at_the_end_of_memory(cmd, size) == at_the_end_of_memory(cmd, 512)
    assert at_the_end_of_memory(cmd, size - 1) == fault
