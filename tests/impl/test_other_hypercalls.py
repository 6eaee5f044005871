"""Hypercalls beyond grants, memory, page tables, events and domctl: what they hold, and when they give it back.

Protects: references of descriptor tables, of a registered vcpu_info and of the page for ends of interrupts, until the domain
ends; multicalls, also when they are preempted or their caller is stopped; frame numbers of a dying translated guest. The
answers themselves are compared with real Xen by tests/recorded/rig-machine.jsonl.xz.
"""

from __future__ import annotations

import pytest

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.continuation import ALWAYS, NEVER, Preemption
from bulkhead.impl.xen.descriptors import checked
from bulkhead.impl.xen.domains import VCpu
from bulkhead.impl.xen.domctl_vcpus import BITMAP
from bulkhead.impl.xen.frames import PGT_SEG
from bulkhead.impl.xen.guest_access import read, write
from bulkhead.impl.xen.hypercall import TABLE, Steps
from bulkhead.impl.xen.machine import Xen
from bulkhead.proofs.replay.agents import Agent
from bulkhead.proofs.replay.ops import execute
from bulkhead.proofs.replay.rig import Rig
from tests.impl.support import agent, check_counts, machine

CODE = 0x00AF9B000000FFFF
CALL_GATE = 0x00008C0000080000


def call(rig: Rig, name: str, number: int, *registers: int) -> int:
    """A hypercall by a guest."""
    return agent(rig, name).call(number, *registers)


def put(rig: Rig, name: str, raw: bytes, offset: int = 0) -> int:
    """Write into the guest's argument block; where that is."""
    who = agent(rig, name)
    assert write(rig.xen, who.vcpu, who.arg + offset, raw)
    return who.arg + offset


def unmapped(rig: Rig, name: str, page: int) -> None:
    """The guest gives up its own writable mapping of a pool page."""
    assert call(rig, name, abi.HYPERVISOR_UPDATE_VA_MAPPING, agent(rig, name).layout.pool_va(page), 0, 2) == 0


def test_a_page_of_descriptors_cannot_be_written_until_the_table_is_dropped() -> None:
    rig = machine("A")
    where = put(rig, "A", abi.U64.pack(rig.mfn("A/20")))
    assert call(rig, "A", abi.HYPERVISOR_SET_GDT, where, 512) == -abi.EINVAL  # the guest can write to it
    unmapped(rig, "A", 20)
    assert call(rig, "A", abi.HYPERVISOR_SET_GDT, where, 512) == 0
    frame = agent(rig, "A").layout.pages[20]
    assert (frame.ptype, frame.tcount) == (PGT_SEG, 1)
    writable = (frame.mfn << 12) | 0x67
    va = agent(rig, "A").layout.pool_va(20)
    request = put(rig, "A", abi.MMU_UPDATE.pack((frame.mfn << 12) + 16, CODE))
    assert call(rig, "A", abi.HYPERVISOR_MMU_UPDATE, request, 1, 0, abi.DOMID_SELF) == -abi.EINVAL
    assert abi.U64.unpack_from(frame.bytes(), 16)[0] != CODE and frame.tcount == 1
    assert call(rig, "A", abi.HYPERVISOR_UPDATE_VA_MAPPING, va, writable, 2) == -abi.EBUSY
    assert call(rig, "A", abi.HYPERVISOR_UPDATE_DESCRIPTOR, (frame.mfn << 12) + 8, CODE) == 0
    assert abi.U64.unpack_from(frame.bytes(), 8)[0] == CODE | 3 << 45  # no privilege above the guest's
    assert call(rig, "A", abi.HYPERVISOR_SET_GDT, 0, 0) == 0
    assert call(rig, "A", abi.HYPERVISOR_UPDATE_VA_MAPPING, va, writable, 2) == 0
    check_counts(rig.xen)


def test_a_table_with_one_bad_page_leaves_the_old_one() -> None:
    rig = machine("A", "B")
    for page in (20, 21):
        unmapped(rig, "A", page)
    assert call(rig, "A", abi.HYPERVISOR_SET_GDT, put(rig, "A", abi.U64.pack(rig.mfn("A/20"))), 1) == 0
    both = abi.U64.pack(rig.mfn("A/21")) + abi.U64.pack(rig.mfn("B/3"))
    assert call(rig, "A", abi.HYPERVISOR_SET_GDT, put(rig, "A", both), 513) == -abi.EINVAL
    pages = agent(rig, "A").layout.pages
    assert (pages[20].tcount, pages[21].tcount) == (1, 0) and agent(rig, "A").vcpu.gdt == (pages[20],)
    assert call(rig, "A", abi.HYPERVISOR_SET_GDT, put(rig, "A", both), 7169) == -abi.EINVAL


@pytest.mark.parametrize(
    ("descriptor", "stored"),
    [
        (5, 5),
        (CODE, CODE | 3 << 45),
        (CALL_GATE, CALL_GATE),
        (CALL_GATE | 1 << 32, None),
        (0x0000890000080000, None),
        (0x00008C00F0080000, None),
        (0x00008C00E0330000, 0x00008C00E0330000),
    ],
)
def test_which_descriptors_a_guest_may_have(descriptor: int, stored: int | None) -> None:
    """Not present, code, call gate, gate with reserved bits, TSS, gate to Xen's code, gate to the kernel's flat code."""
    assert checked(descriptor) == stored


def _register(rig: Rig, name: str, page: str, offset: int) -> int:
    where = put(rig, name, abi.U64.pack(rig.mfn(page)) + abi.U32.pack(offset) + bytes(4))
    return call(rig, name, abi.HYPERVISOR_VCPU_OP, 10, 0, where)


def test_pages_that_xen_writes_are_held_until_the_domain_ends() -> None:
    rig = machine("A", "B")
    assert _register(rig, "A", "A/30", 4040) == -abi.ENXIO and _register(rig, "A", "B/3", 64) == -abi.EINVAL
    assert _register(rig, "A", "A/30", 64) == 0
    assert _register(rig, "A", "A/31", 64) == -abi.EINVAL  # once only
    page = put(rig, "A", abi.U64.pack(rig.mfn("A/33")))
    assert call(rig, "A", abi.HYPERVISOR_PHYSDEV_OP, 17, page) == 0
    assert call(rig, "A", abi.HYPERVISOR_PHYSDEV_OP, 28, page) == -abi.EBUSY
    held = [agent(rig, "A").layout.pages[number] for number in (30, 33)]
    assert [(frame.count, frame.tcount) for frame in held] == [(3, 2), (3, 2)]  # allocated, mapped, and held by Xen
    domain = agent(rig, "A").domain
    execute(rig, "rmdom", {"n": "A"}, set())
    assert domain.gone and all(frame.count == 0 or frame.owner is not domain for frame in held)
    check_counts(rig.xen)


def _entry(number: int, *registers: int) -> bytes:
    return abi.MULTICALL_ENTRY.pack(number, 0x7777, *registers, *[0] * (6 - len(registers)))


def _results(rig: Rig, who: Agent, many: int) -> list[int]:
    raw = read(rig.xen, who.vcpu, who.arg, 64 * many) or b""
    return [
        value - (1 << 64) if value >> 63 else value
        for value in (abi.U64.unpack_from(raw, 64 * i + 8)[0] for i in range(many))
    ]


@pytest.mark.parametrize("kind", [NEVER, ALWAYS])
def test_a_multicall_makes_each_call_and_goes_on_after_a_failure(kind: str) -> None:
    rig = machine("A", "B")
    rig.xen.preemption = Preemption(kind)
    who = agent(rig, "A")
    put(rig, "A", abi.QUERY_SIZE.pack(abi.DOMID_SELF, 0, 0, 0, 99, 0), 1024)
    put(
        rig,
        "A",
        _entry(99)
        + _entry(abi.HYPERVISOR_GRANT_TABLE_OP, abi.GNTTABOP_QUERY_SIZE, who.arg + 1024, 1)
        + _entry(abi.HYPERVISOR_MULTICALL, who.arg, 1)
        + _entry(abi.HYPERVISOR_XEN_VERSION, 0),
    )
    assert call(rig, "A", abi.HYPERVISOR_MULTICALL, who.arg, 4) == 0
    assert _results(rig, who, 4) == [-abi.ENOSYS, 0, -abi.EINVAL, 4 << 16 | 17]
    assert abi.QUERY_SIZE.unpack(read(rig.xen, who.vcpu, who.arg + 1024, 16) or b"")[2:5] == (1, 8, 0)


def test_nothing_of_a_multicall_runs_after_its_caller_was_stopped() -> None:
    rig = machine("A", "B")
    who = agent(rig, "A")
    put(rig, "A", abi.U32.pack(2), 1024)
    put(rig, "A", _entry(abi.HYPERVISOR_SCHED_OP, 2, who.arg + 1024) + _entry(abi.HYPERVISOR_XEN_VERSION, 0))
    call(rig, "A", abi.HYPERVISOR_MULTICALL, who.arg, 2)
    assert who.domain.crashed and who.domain.stop_code == 2
    assert _results(rig, who, 2) == [0, 0x7777]  # real Xen writes the result of the call that stops its caller


def test_a_watchdog_without_time_ends_its_domain() -> None:
    rig = machine("A")

    def watchdog(number: int, seconds: int) -> int:
        where = put(rig, "A", abi.U32.pack(number) + abi.U32.pack(seconds))
        return call(rig, "A", abi.HYPERVISOR_SCHED_OP, 6, where)

    assert [watchdog(0, 9), watchdog(1, 9), watchdog(2, 9), watchdog(0, 9)] == [1, 0, -abi.EINVAL, 2]
    assert watchdog(0, 9) == 0xFFFFFFFF & -abi.ENOSPC  # as Xen says it
    assert watchdog(1, 0) == 0 and watchdog(1, 9) == -abi.EINVAL
    watchdog(0, 0)
    assert agent(rig, "A").domain.crashed and agent(rig, "A").domain.stop_code == 4


def test_a_dying_translated_guest_has_no_frame_numbers() -> None:
    """Only what is in use of its grants can still be mapped: another number names no page any more."""
    rig = machine("A")
    assert rig.make_translated("H") > 0
    domain = rig.guest("H").domain
    for ref, page in ((8, 0), (9, 0)):
        execute(rig, "ge", {"d": "H", "ref": ref, "flags": 1, "dom": "A", "pg": f"H/{page}"}, set())

    def mapped(ref: int, slot: int) -> int:
        raw = abi.MAP_GRANT_REF.pack(agent(rig, "A").layout.window_va(slot), 2, ref, domain.domid, 99, 0, 0)
        where = put(rig, "A", raw)
        assert call(rig, "A", abi.HYPERVISOR_GRANT_TABLE_OP, abi.GNTTABOP_MAP_GRANT_REF, where, 1) == 0
        return int(abi.MAP_GRANT_REF.unpack(read(rig.xen, agent(rig, "A").vcpu, where, 32) or b"")[4])

    assert mapped(8, 16) == 0
    execute(rig, "rmdom", {"n": "H"}, set())
    assert domain.is_dying and not domain.gone
    assert mapped(8, 17) == 0
    assert mapped(9, 18) == abi.GNTST_BAD_PAGE  # the same page, by an entry that nobody uses


NOT_OFFERED = {
    "buffers of traces": "2,8:4:3,48:4:4",
    "a page out": "14,8:4:1",
    "a page back": "14,8:4:2",
    "a pool": "18,8:4:1",
}


@pytest.mark.parametrize("words", NOT_OFFERED.values(), ids=NOT_OFFERED)
def test_what_is_not_offered_says_so(words: str) -> None:
    """-ENOSYS, where real Xen would do it: so nobody takes the answer for a refusal."""
    command, _, rest = words.partition(",")
    given = {"by": "d0", "nr": abi.HYPERVISOR_SYSCTL, "w": f"0:4:{command},4:4:0x15,{rest}", "a1": "arg"}
    assert execute(machine("A"), "x", given, set())["r"] == -abi.ENOSYS


@pytest.mark.parametrize("place", range(5))
@pytest.mark.parametrize("beyond", [1 << 64, -(1 << 64)])
def test_a_register_has_64_bits(monkeypatch: pytest.MonkeyPatch, place: int, beyond: int) -> None:
    seen: list[tuple[int, ...]] = []

    def noted(xen: Xen, vcpu: VCpu, *registers: int) -> Steps:
        yield from ()
        seen.append(registers)
        return 0

    monkeypatch.setitem(TABLE, 63, noted)
    wanted = (0x11, (1 << 64) - 1, 0, 1 << 63, 0x55)
    given = [value + beyond if n == place else value for n, value in enumerate(wanted)]
    assert call(machine("A"), "A", 63, *given) == 0
    assert seen == [wanted]


def test_a_domain_without_vcpus_has_all_nodes() -> None:
    """XEN_DOMCTL_getnodeaffinity: with vCPUs, the one node of the host's processor."""
    rig = machine("A")
    kernel = rig.kernel
    where = kernel.arg_va + 1024

    def nodes(domid: int) -> int:
        assert kernel.domctl(abi.DOMCTL_GETNODEAFFINITY, domid, BITMAP.pack(where, 64))[0] == 0
        return int(abi.U64.unpack(read(rig.xen, kernel.vcpu, where, 8) or b"")[0])

    body = abi.CREATEDOMAIN.pack(0, bytes(16), 0, 0, 2, 10, 3, 1, 2, 0, 0, 0, 0)
    assert kernel.domctl(abi.DOMCTL_CREATEDOMAIN, 9, body)[0] == 0
    assert nodes(9) == (1 << 64) - 1
    assert kernel.domctl(abi.DOMCTL_MAX_VCPUS, 9, abi.U32.pack(1))[0] == -abi.EINVAL  # two, as it was created with
    assert kernel.domctl(abi.DOMCTL_MAX_VCPUS, 9, abi.U32.pack(2))[0] == 0
    assert nodes(9) == 1


def test_free_memory_between_two_widths_of_addresses() -> None:
    """XEN_SYSCTL_availheap: frames from `reserved` on are the heap's, and none lies at or beyond `nframes`."""
    rig = machine("A")
    frames = rig.xen.frames
    reserved, end = frames.reserved.bit_length() + 11, frames.nframes.bit_length() + 12
    assert 1 << reserved - 12 == frames.reserved

    def free(least: int, most: int) -> int:
        given = {
            "by": "d0",
            "nr": abi.HYPERVISOR_SYSCTL,
            "w": f"0:4:9,4:4:0x15,8:4:{least},12:4:{most},16:4:-1",
            "a1": "arg",
        }
        told: int = execute(rig, "x", given | {"o": "b:24:8"}, set())["b"]
        return told

    every = frames.free_count << 12
    assert free(0, 0) == free(0, reserved + 1) == free(end - 1, 0) == every > 0
    assert free(0, reserved) == free(end, 0) == free(end, end + 1) == 0
