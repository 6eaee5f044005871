"""Preemption of batches: operations on a translated guest's memory, on page tables and on pages' owners.

Protects: wherever such a call is preempted, it continues with the next element; its answer and its effects
are the same as without preemption.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.continuation import ALWAYS, NEVER, SEEDED, Preemption
from bulkhead.impl.xen.domains import Domain
from bulkhead.impl.xen.lifecycle import create_domain, set_max_vcpus
from bulkhead.impl.xen.machine import run
from bulkhead.impl.xen.memory_op import populate_page
from tests.impl.test_continuation import GRANT, MEMORY, Machine


def translated(m: Machine) -> Domain:
    """A translated guest with eight pages."""
    made = create_domain(m.xen, 3, external=True, max_grant_frames=64)
    assert isinstance(made, Domain)
    made.max_pages = 64
    assert set_max_vcpus(made, 1) == 0
    for gfn in range(8):
        assert populate_page(m.xen, made, gfn) is not None
    return made


def places(domain: Domain) -> list[int]:
    """The current places of the pages from 0 to 7, found by marks written before the call."""
    assert domain.p2m is not None
    found = []
    for gfn in range(0x40):
        frame = domain.p2m.lookup(gfn)[0]
        found.append(-1 if frame is None or frame.data is None else frame.data[0])
    return found


def marked(domain: Domain) -> None:
    for gfn in range(8):
        frame = domain.p2m.lookup(gfn)[0] if domain.p2m is not None else None
        assert frame is not None
        frame.bytes()[0] = gfn + 1


def moves_a_range(m: Machine) -> Any:
    """Dom0 moves four pages of the guest, of which the fourth is not there."""
    guest = translated(m)
    marked(guest)
    at = m.put(0, 0, abi.ADD_TO_PHYSMAP.pack(3, 4, abi.XENMAPSPACE_GMFN_RANGE, 5, 0x20))
    return run(m.call(0, MEMORY, abi.XENMEM_ADD_TO_PHYSMAP, at)), places(guest)


def moves_a_batch(m: Machine) -> Any:
    """Dom0 moves three pages named one by one, of which the second is not there."""
    guest = translated(m)
    marked(guest)
    idxs = m.put(0, 256, b"".join(map(abi.U64.pack, (1, 0x33, 2))))
    gfns = m.put(0, 512, b"".join(map(abi.U64.pack, (0x21, 0x22, 0x23))))
    errs = m.put(0, 768, b"\xff" * 12)
    at = m.put(0, 0, abi.ADD_TO_PHYSMAP_BATCH.pack(3, abi.XENMAPSPACE_GMFN, 3, 0, idxs, gfns, errs))
    return run(m.call(0, MEMORY, abi.XENMEM_ADD_TO_PHYSMAP_BATCH, at)), m.get(0, 768, 12), places(guest)


def hands_out_frames(m: Machine) -> Any:
    """Dom0 asks for 60 frames of the guest's grant table, which come 32 at a time."""
    guest = translated(m)
    at = m.put(0, 0, abi.ACQUIRE_RESOURCE.pack(3, 1, 0, 60, 0, 2, m.layouts[0].va(0) + 512))
    rc = run(m.call(0, MEMORY, abi.XENMEM_ACQUIRE_RESOURCE, at))
    told = m.get(0, 512, 480)
    shared = [frame.mfn for frame in guest.grant_table.shared]
    return rc, len(shared), [abi.U64.unpack_from(told, 8 * i)[0] for i in range(60)] == shared[2:62]


def gives_pages_away(m: Machine) -> Any:
    """Domain 1 transfers three pages to domain 2, which waits for two of them."""
    ops = b""
    mine = m.layouts[1].pages
    for i in range(3):
        va = m.layouts[1].va(4 + i)
        assert run(m.call(1, abi.HYPERVISOR_UPDATE_VA_MAPPING, va, 0, abi.UVMF_INVLPG)) == 0
        data, off = m.guests[2].grant_table.header_at(8 + i)
        abi.ENTRY_V1.pack_into(data, off, 0 if i == 1 else abi.GTF_ACCEPT_TRANSFER, 1, 0x77)
        ops += abi.TRANSFER.pack(mine[4 + i].mfn, 2, 0, 8 + i, 99, 0, 0)
    at = m.put(1, 0, ops)
    rc = run(m.call(1, GRANT, abi.GNTTABOP_TRANSFER, at, 3))
    told = m.get(1, 0, 72)
    owners = [frame.owner.domid if frame.owner is not None else -1 for frame in mine[4:7]]
    return rc, [abi.TRANSFER.unpack_from(told, 24 * i)[4] for i in range(3)], owners


def extended_operations(m: Machine) -> Any:
    """Domain 1 clears two pages and then asks for what is not known; how many were done is written."""
    ops = b""
    for i in range(2):
        m.layouts[1].pages[4 + i].bytes()[:8] = b"\xff" * 8
        assert run(m.call(1, abi.HYPERVISOR_UPDATE_VA_MAPPING, m.layouts[1].va(4 + i), 0, abi.UVMF_INVLPG)) == 0
        ops += abi.MMUEXT_OP.pack(abi.MMUEXT_CLEAR_PAGE, 0, m.layouts[1].pages[4 + i].mfn, 0)
    ops += abi.MMUEXT_OP.pack(77, 0, 0, 0)
    done = m.put(1, 512, b"\xff" * 4)
    rc = run(m.call(1, abi.HYPERVISOR_MMUEXT_OP, m.put(1, 0, ops), 3, done, abi.DOMID_SELF))
    return rc, m.get(1, 512, 4), [bytes(m.layouts[1].pages[4 + i].bytes()[:8]) for i in range(2)]


WANTED: dict[Callable[[Machine], tuple[Any, ...]], Callable[..., bool]] = {
    moves_a_range: lambda rc, at: rc < 0 and at[0x20:0x24] == [6, 7, 8, -1] and at[5:8] == [-1, -1, -1],
    moves_a_batch: lambda rc, errs, at: (
        rc == 0
        and errs[:4] == errs[8:] == bytes(4)
        and at[0x21] == 2
        and errs[4:8] not in (bytes(4), b"\xff" * 4)
        and at[0x22] == -1
        and at[0x23] == 3
    ),
    hands_out_frames: lambda rc, frames, same: rc == 0 and frames == 62 and same,
    gives_pages_away: lambda rc, told, owners: rc == 0 and told[0] == told[2] == 0 != told[1] and owners == [2, -1, 2],
    extended_operations: lambda rc, done, pages: rc < 0 and done == abi.U32.pack(2) and pages == [bytes(8)] * 2,
}


@pytest.mark.parametrize("work", WANTED)
@pytest.mark.parametrize("kind", [NEVER, ALWAYS, SEEDED])
def test_a_batch_does_the_same_however_often_it_is_cut_short(work: Any, kind: str) -> None:
    told = work(Machine(Preemption(kind, 3)))
    assert WANTED[work](*told), told


class Counting(Machine):
    """A machine that counts how often its calls are cut short."""

    def __init__(self, preemption: Preemption) -> None:
        self.cuts = 0
        super().__init__(preemption)

    def call(self, who: int, number: int, *registers: int) -> Any:
        return self._counted(super().call(who, number, *registers))

    def _counted(self, steps: Any) -> Any:
        while True:
            try:
                marker = next(steps)
            except StopIteration as end:
                return end.value
            self.cuts += marker == "hypercall.continue"
            yield marker


# Before each element but the first; frames of a table are handed out 32 at a time.
CUTS = {moves_a_range: 3, moves_a_batch: 2, hands_out_frames: 1, gives_pages_away: 2, extended_operations: 2}


@pytest.mark.parametrize("work", WANTED)
def test_a_batch_is_cut_short_wherever_it_may_be(work: Any) -> None:
    """No answer tells this; a hypervisor that never lets go would be a hypervisor that one guest can stop."""
    for kind, cuts in ((ALWAYS, CUTS[work]), (NEVER, 0)):
        m = Counting(Preemption(kind, 3))
        work(m)
        assert m.cuts == cuts
