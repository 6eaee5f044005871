"""What Xen tells of the machine follows its size: a recording has one machine, and answers for another size are its own.

Protects: each answer that names an amount of memory, at sizes around a power of two and around the end of a superpage of the
table of names (M2P: 8 bytes for each frame, in superpages of 2 MB); the last frame there is, and the first one that is not.
Sources: Xen include/public/memory.h (XENMEM_machphys_mfn_list, XENMEM_maximum_ram_page, XENMEM_machine_memory_map),
include/public/sysctl.h (physinfo, numainfo, availheap), arch/x86/x86_64/mm.c (subarch_memory_op).
"""

from __future__ import annotations

from itertools import pairwise
from struct import Struct

import pytest

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.continuation import NEVER, Preemption
from bulkhead.impl.xen.machine import run
from bulkhead.impl.xen.reservation_flags import flags_of
from tests.impl.test_continuation import Machine

SIZES = (0x3000, (1 << 18) - 1, 1 << 18, (1 << 18) + 1, 3 << 18, (3 << 18) + 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1)
SUPERPAGE, NAME = 2 << 20, 8
U32, U64 = Struct("<I"), Struct("<Q")
UNTOUCHED = 0xAAAAAAAAAAAAAAAA
PHYSINFO, AVAILHEAP, OFFLINE, NUMAINFO = 3, 9, 14, 17
SYSCTL_VERSION, SYSCTL_SIZE = 0x15, 136
MACHINE_MEMORY_MAP, MACHPHYS_MFN_LIST, MAXIMUM_RAM_PAGE = 10, 5, 2


@pytest.fixture(params=SIZES)
def m(request: pytest.FixtureRequest) -> Machine:
    """A machine of so many frames, of which the guests have the first ones."""
    made = Machine(Preemption(NEVER))
    frames = made.xen.frames
    frames.free_count += request.param - frames.nframes
    frames.nframes = request.param
    return made


def sysctl(m: Machine, command: int, body: bytes) -> tuple[int, bytes]:
    """The result, and the body afterwards."""
    at = m.put(0, 0, (U32.pack(command) + U32.pack(SYSCTL_VERSION) + body).ljust(SYSCTL_SIZE, b"\0"))
    return run(m.call(0, abi.HYPERVISOR_SYSCTL, at)), m.get(0, 8, SYSCTL_SIZE - 8)


def test_the_table_of_names_has_as_many_superpages_as_hold_names(m: Machine) -> None:
    holding = {frame * NAME // SUPERPAGE for frame in (*range(0, m.xen.frames.nframes, 4096), m.xen.frames.nframes - 1)}
    for room in (0, 1, len(holding) - 1, len(holding), len(holding) + 1, 100):
        places = m.put(0, 1024, U64.pack(UNTOUCHED) * 104)
        at = m.put(0, 0, U32.pack(room) + bytes(4) + U64.pack(places) + bytes(8))
        assert run(m.call(0, abi.HYPERVISOR_MEMORY_OP, MACHPHYS_MFN_LIST, at)) == 0
        told = [U64.unpack_from(m.get(0, 1024 + 8 * i, 8))[0] for i in range(104)]
        count = U32.unpack(m.get(0, 16, 4))[0]
        assert count == min(room, len(holding))
        assert UNTOUCHED not in told[:count] and set(told[count:]) == {UNTOUCHED}
        assert sorted(set(told[:count])) == told[:count] and not any(each % 512 for each in told[:count])


def test_the_last_page_is_one_less_than_there_are(m: Machine) -> None:
    """The memory operation tells how many there are, and sysctl which is the last."""
    frames = m.xen.frames
    assert run(m.call(0, abi.HYPERVISOR_MEMORY_OP, MAXIMUM_RAM_PAGE, 0)) == frames.nframes
    result, told = sysctl(m, PHYSINFO, b"")
    assert (result, *Struct("<40xQQQQQ").unpack_from(told)) == (
        0, frames.nframes, frames.free_count, 0, 0, frames.nframes - 1,
    )  # fmt: skip
    for frame, result in ((frames.nframes - 1, 0), (frames.nframes, -abi.EINVAL)):
        status = m.put(0, 1024, bytes(4))
        body = Struct("<IIIIQ").pack(3, frame, frame, 0, status)
        assert sysctl(m, OFFLINE, body)[0] == result


def test_the_map_of_the_machine_ends_where_its_memory_does(m: Machine) -> None:
    at = m.put(0, 0, U32.pack(64) + bytes(4) + U64.pack(m.layouts[0].va(0) + 1024))
    assert run(m.call(0, abi.HYPERVISOR_MEMORY_OP, MACHINE_MEMORY_MAP, at)) == 0
    count = U32.unpack(m.get(0, 0, 4))[0]
    ranges = [Struct("<QQI").unpack(m.get(0, 1024 + 20 * i, 20)) for i in range(count)]
    assert all(start + size <= after for (start, size, _), (after, _, _) in pairwise(ranges))
    assert ranges[-1][0] + ranges[-1][1] == m.xen.frames.nframes * abi.PAGE_SIZE and {kind for *_, kind in ranges} == {1}


def test_the_node_has_all_memory(m: Machine) -> None:
    frames = m.xen.frames
    places = m.put(0, 1024, bytes(16))
    result, told = sysctl(m, NUMAINFO, U32.pack(1) + bytes(4) + U64.pack(places) + bytes(8))
    assert (result, U32.unpack_from(told)[0]) == (0, 1)
    assert m.get(0, 1024, 16) == U64.pack(frames.nframes * abi.PAGE_SIZE) + U64.pack(frames.free_count * abi.PAGE_SIZE)
    result, told = sysctl(m, AVAILHEAP, Struct("<IIiIQ").pack(0, 0, -1, 0, 0))
    assert (result, U64.unpack_from(told, 16)[0]) == (0, frames.free_count * abi.PAGE_SIZE)


def test_a_width_of_addresses_that_covers_all_memory_is_no_limit(m: Machine) -> None:
    """The width is of byte addresses; memory below one page there is not."""
    size = m.xen.frames.nframes * abi.PAGE_SIZE
    for bits in range(256):
        asked = flags_of(m.xen, m.dom0, bits)
        if bits and (1 << bits) <= abi.PAGE_SIZE:
            assert asked is None, bits
        elif not bits or (1 << bits) >= size:
            assert asked is not None and asked.limit is None, bits
        else:
            assert asked is not None and asked.limit is not None and asked.limit * abi.PAGE_SIZE == 1 << bits, bits


def test_an_entry_may_name_the_last_frame_and_none_behind_it(m: Machine) -> None:
    """Refused as another's page (nobody has taken it), and as no memory at all."""
    frames, layout = m.xen.frames, m.layouts[1]
    for frame, errors in ((frames.nframes - 1, (-abi.EBUSY,)), (frames.nframes, (-abi.EPERM,))):
        told = run(m.call(1, abi.HYPERVISOR_UPDATE_VA_MAPPING, layout.va(5), frame << abi.PAGE_SHIFT | 0x67, 0))
        assert told in errors, frame
