"""Operations for saving a running domain: page types, the dirty bitmap, vCPU state."""

from __future__ import annotations

import pytest

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.continuation import NEVER, Preemption
from bulkhead.impl.xen.machine import run
from bulkhead.impl.xen.migration import (
    LOGDIRTY_FINAL,
    PAGEFRAMEINFO3,
    PFINFO_INVALID,
    SHADOW_CLEAN,
    SHADOW_ENABLE_LOGDIRTY,
    SHADOW_OFF,
    SHADOW_OP,
    SHADOW_PEEK,
)
from tests.impl.test_continuation import Machine

BITMAP = 512


@pytest.fixture
def m() -> Machine:
    machine = Machine(Preemption(NEVER))
    for pfn, frame in enumerate(machine.layouts[1].pages):
        frame.m2p = pfn  # set by its builder with MMU_MACHPHYS_UPDATE
    return machine


def domctl(m: Machine, cmd: int, body: bytes, domid: int = 1, who: int = 0) -> int:
    raw = abi.DOMCTL_HEADER.pack(cmd, abi.DOMCTL_INTERFACE_VERSION, domid, 0, 0, 0) + body
    rc: int = run(m.call(who, abi.HYPERVISOR_DOMCTL, m.put(who, 0, raw.ljust(abi.DOMCTL_SIZE, b"\0"))))
    return rc


def shadow(m: Machine, op: int, pages: int = 64, mode: int = 0, domid: int = 1) -> tuple[int, int, int, set[int]]:
    """rc, pages, dirty count, and the pages in the bitmap."""
    at = m.put(0, BITMAP, bytes(64))
    rc = domctl(m, abi.DOMCTL_SHADOW_OP, SHADOW_OP.pack(op, mode, 0, 0, at, pages, 0, 0), domid)
    *_, there, _, count = SHADOW_OP.unpack(m.get(0, 16, SHADOW_OP.size))
    bits = m.get(0, BITMAP, 64)
    return rc, there, count, {i for i in range(512) if bits[i >> 3] >> (i & 7) & 1}


def test_pages_written_are_told_once(m: Machine) -> None:
    assert shadow(m, SHADOW_PEEK) == (0, 64, 0, set()) and shadow(m, SHADOW_OFF)[0] == -abi.EINVAL  # as recorded
    m.xen.options.shadow_paging = False
    assert shadow(m, SHADOW_ENABLE_LOGDIRTY)[0] == -abi.EOPNOTSUPP
    m.xen.options.shadow_paging = True
    assert shadow(m, SHADOW_ENABLE_LOGDIRTY)[0] == 0
    assert shadow(m, SHADOW_ENABLE_LOGDIRTY)[0] == -abi.EINVAL
    m.put(1, 100, b"x")
    assert shadow(m, SHADOW_PEEK)[::3] == (0, {0})
    assert shadow(m, SHADOW_CLEAN, mode=LOGDIRTY_FINAL)[::3] == (0, {0})
    assert shadow(m, SHADOW_CLEAN)[::3] == (0, set())
    assert shadow(m, SHADOW_OFF)[0] == 0 and shadow(m, SHADOW_OFF)[0] == -abi.EINVAL


def test_what_others_write_through_a_grant_is_logged(m: Machine) -> None:
    assert shadow(m, SHADOW_ENABLE_LOGDIRTY)[0] == 0
    m.grant(1, 8, 2, 6)
    own = m.layouts[2].pages[5].mfn
    at = m.put(2, 0, abi.COPY.pack(own, abi.DOMID_SELF, 0, 0, 8, 1, 0, 0, 32, 2, 0, 0))
    assert run(m.call(2, abi.HYPERVISOR_GRANT_TABLE_OP, 5, at, 1)) == 0
    assert shadow(m, SHADOW_CLEAN)[3] == {6}


@pytest.mark.parametrize(
    ("flags", "logged"), [(abi.GNTMAP_HOST_MAP, {6}), (abi.GNTMAP_HOST_MAP | abi.GNTMAP_READONLY, set())]
)
def test_a_page_that_was_mapped_to_be_written_is_logged_when_the_map_ends(m: Machine, flags: int, logged: set[int]) -> None:
    """Xen does not see the stores."""
    m.grant(1, 8, 2, 6)
    window = m.layouts[2].window_va(0)
    at = m.put(2, 0, abi.MAP_GRANT_REF.pack(window, flags, 8, 1, 0, 0, 0))
    assert run(m.call(2, abi.HYPERVISOR_GRANT_TABLE_OP, abi.GNTTABOP_MAP_GRANT_REF, at, 1)) == 0
    status, handle = abi.MAP_GRANT_REF.unpack(m.get(2, 0, abi.MAP_GRANT_REF.size))[4:6]
    assert status == 0 and shadow(m, SHADOW_ENABLE_LOGDIRTY)[0] == 0 and shadow(m, SHADOW_PEEK)[3] == set()
    at = m.put(2, 0, abi.UNMAP_GRANT_REF.pack(window, 0, handle, 0, 0))
    assert run(m.call(2, abi.HYPERVISOR_GRANT_TABLE_OP, abi.GNTTABOP_UNMAP_GRANT_REF, at, 1)) == 0
    assert shadow(m, SHADOW_CLEAN)[3] == logged


def test_a_small_buffer_is_not_overrun(m: Machine) -> None:
    assert shadow(m, SHADOW_ENABLE_LOGDIRTY)[0] == 0
    for page in (0, 3, 9):
        m.put(1, page * 4096, b"x")
    assert shadow(m, SHADOW_PEEK, pages=4)[1:] == (4, 3, {0, 3})


def test_page_types(m: Machine) -> None:
    layout = m.layouts[1]
    numbers = [layout.pages[5].mfn, layout.root.mfn, layout.windows[0].mfn, m.layouts[2].pages[0].mfn, 0x7FFFFFFF]
    at = m.put(0, BITMAP, b"".join(map(abi.U64.pack, numbers)))
    assert domctl(m, abi.DOMCTL_GETPAGEFRAMEINFO3, PAGEFRAMEINFO3.pack(len(numbers), at)) == 0
    types = [abi.U64.unpack(m.get(0, BITMAP + 8 * i, 8))[0] for i in range(len(numbers))]
    assert [t >> 28 & 7 for t in types[:3]] == [0, 4, 1]
    assert types[3:] == [PFINFO_INVALID, PFINFO_INVALID]


@pytest.mark.parametrize(
    "cmd, body, want",
    [
        (abi.DOMCTL_GETPAGEFRAMEINFO3, PAGEFRAMEINFO3.pack(1025, 0), -abi.E2BIG),
        (abi.DOMCTL_GETPAGEFRAMEINFO3, PAGEFRAMEINFO3.pack(1, 0x10), -abi.EFAULT),
        (abi.DOMCTL_SHADOW_OP, SHADOW_OP.pack(99, 0, 0, 0, 0, 0, 0, 0), -abi.EINVAL),
        (abi.DOMCTL_SHADOW_OP, SHADOW_OP.pack(SHADOW_PEEK, 8, 0, 0, 0, 0, 0, 0), -abi.EINVAL),
        (abi.DOMCTL_GETVCPUCONTEXT, abi.SETVCPUCONTEXT.pack(7, 0, 0), -abi.EINVAL),
        (abi.DOMCTL_GETVCPUCONTEXT, abi.SETVCPUCONTEXT.pack(0, 0, 0), -abi.ENODATA),
    ],
)
def test_refusals(m: Machine, cmd: int, body: bytes, want: int) -> None:
    assert domctl(m, cmd, body) == want


def test_a_guest_may_ask_none_of_it(m: Machine) -> None:
    assert domctl(m, abi.DOMCTL_SHADOW_OP, SHADOW_OP.pack(0, 0, 0, 0, 0, 0, 0, 0), 2, who=1) == -abi.EPERM


@pytest.mark.parametrize("pages", [8, 16, 64])
def test_a_bitmap_has_no_more_bytes_than_its_pages_need(m: Machine, pages: int) -> None:
    at = m.put(0, BITMAP, b"\xff" * 16)
    assert domctl(m, abi.DOMCTL_SHADOW_OP, SHADOW_OP.pack(SHADOW_PEEK, 0, 0, 0, at, pages, 0, 0)) == 0
    assert m.get(0, BITMAP, 16) == bytes(pages // 8).ljust(16, b"\xff")


def test_nobody_resets_his_own_vcpu(m: Machine) -> None:
    root = m.dom0.vcpus[0].cr3
    assert domctl(m, abi.DOMCTL_SETVCPUCONTEXT, abi.SETVCPUCONTEXT.pack(0, 0, 0), 0) == -abi.EINVAL
    assert root is not None and m.dom0.vcpus[0].cr3 is root
