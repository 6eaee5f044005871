"""Random bytes to every hypercall: an error code, never an exception, and nothing leaks."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.guest_access import write
from bulkhead.impl.xen.hypercall import TABLE
from bulkhead.impl.xen.machine import Livelock, run
from bulkhead.proofs.replay.rig import Rig
from tests.impl.support import check_counts, check_no_leak, machine

SUBCALLS = {
    abi.HYPERVISOR_GRANT_TABLE_OP: range(14),
    abi.HYPERVISOR_MEMORY_OP: range(30),
    abi.HYPERVISOR_EVENT_CHANNEL_OP: range(15),
}


MAPPING_CALLS = {abi.HYPERVISOR_UPDATE_VA_MAPPING, abi.HYPERVISOR_UPDATE_VA_MAPPING_OTHERDOMAIN}


def snapshot(rig: Rig) -> list[object]:
    """The state that a refused call must not change: frames with counts and types, domains, handles, entries."""
    xen = rig.xen
    frames = [(f.mfn, f.count, f.ptype if f.tcount else 0, f.tcount, f.allocated) for f in xen.frames.table.values()]
    domains = [
        (
            d.domid,
            d.tot_pages,
            d.max_pages,
            d.is_dying,
            d.pause_count,
            d.grant_table.nr_entries,
            bytes(d.grant_table.shared[0].data or b""),
            sorted(d.events.ports),
            [r.flags for r in d.grant_table.maptrack],
        )
        for d in xen.domains.values()
    ]
    return [xen.frames.free_count, frames, domains]


@pytest.mark.parametrize("number", sorted(TABLE))
def test_random_bytes(number: int) -> None:
    """Random registers and argument bytes by guests and Dom0's kernel; a refused call changes nothing."""
    rng = random.Random(number)
    rig = machine("A", "B")
    callers = [
        (rig.agents["A"].vcpu, rig.agents["A"].arg),
        (rig.agents["B"].vcpu, rig.agents["B"].arg),
        (rig.kernel.vcpu, rig.kernel.arg_va),
    ]
    pools = [0, 1, 2, 5, 0x7FF0, 0x7FF2, (1 << 32) - 1, (1 << 64) - 1]
    for i in range(900):
        vcpu, arg = callers[i % 3]
        write(rig.xen, vcpu, arg, rng.randbytes(256))
        args = [rng.choice([*pools, arg, rng.getrandbits(64), rng.getrandbits(12)]) for _ in range(5)]
        if number in SUBCALLS:
            args[0] = rng.choice(list(SUBCALLS[number]))
            args[1] = arg
            args[2] = rng.choice([0, 1])
        elif number == abi.HYPERVISOR_DOMCTL:
            args[0] = arg
            header = abi.DOMCTL_HEADER.pack(
                rng.choice([1, 2, 3, 4, 5, 11, 15, 46, 99]),
                abi.DOMCTL_INTERFACE_VERSION,
                rng.choice([0, 9, 0x7FF0]),
                0,
                0,
                0,
            )
            write(rig.xen, vcpu, arg, header)
        elif number in (abi.HYPERVISOR_MMU_UPDATE, abi.HYPERVISOR_MMUEXT_OP):
            args[0], args[1], args[2], args[3] = arg, rng.choice([0, 1]), 0, rng.choice(pools)
        before = snapshot(rig) if i % 9 < 3 else None
        result = run(rig.xen.hypercall(vcpu, number, *args), 100_000)
        assert isinstance(result, int)
        flushed_nobody = number in MAPPING_CALLS and result == -abi.EFAULT  # the vCPUs to flush are read after the change
        if before is not None and result < 0 and not flushed_nobody:
            assert snapshot(rig) == before, (number, args, result)
    check_counts(rig.xen)


def structured(rng: random.Random, rig: Rig, me: str) -> tuple[int, bytes]:
    """A grant operation with plausible fields, to pass the first checks."""
    agents = rig.agents
    dom = rng.choice([agents[n].domain.domid for n in agents] + [0, 99, 0x7FF0])
    ref = rng.choice([0, 7, 8, 9, 10, 11, 300, 600])
    layout = agents[me].layout
    slot = rng.randrange(8)
    host = rng.choice([layout.window_va(slot), layout.window_maddr(slot), 0, rng.getrandbits(64)])
    page = rng.choice(layout.pages).mfn
    op = rng.choice([0, 0, 0, 1, 1, 5, 5, 7, 11, 8, 4, 2, 6, 9, 10])
    if op == 0:
        return op, abi.MAP_GRANT_REF.pack(host, rng.getrandbits(5), ref, dom, 0, 0, 0)
    if op in (1, 7):
        return op, abi.UNMAP_GRANT_REF.pack(host, rng.choice([0, page << 12, layout.window_va(1)]), rng.randrange(20), 0, 0)
    if op == 5:
        return op, abi.COPY.pack(
            rng.choice([ref, page]),
            dom,
            rng.randrange(64),
            0,
            rng.choice([ref, page]),
            rng.choice([dom, 0x7FF0]),
            rng.randrange(64),
            0,
            rng.randrange(4200),
            rng.randrange(4),
            0,
            0,
        )
    if op == 11:
        return op, abi.SWAP_GRANT_REF.pack(ref, rng.choice([8, 9, 10]), 0, 0)
    if op == 8:
        return op, abi.SET_VERSION.pack(rng.choice([1, 2, 3]))
    if op == 4:
        return op, abi.TRANSFER.pack(page, dom, 0, ref, 0, 0, 0)
    return op, rng.randbytes(8) + bytes(16)


def garbage(rng: random.Random, rig: Rig, name: str) -> None:
    """The granter writes arbitrary data to its own table."""
    agent = rig.agents[name]
    table = agent.domain.grant_table
    ref = rng.choice([8, 9, 10, 11])
    data, off = table.header_at(ref)
    domid = rng.choice(list(rig.xen.domains))
    flags = rng.choice([0, 1, 1, 1, 5, 2, 3, 0x101, rng.getrandbits(16)])
    frame = rng.choice([agent.layout.pages[rng.randrange(8)].mfn, agent.layout.root.mfn, rng.getrandbits(20)])
    if table.version == 1:
        abi.ENTRY_V1.pack_into(data, off, flags, domid, frame)
    else:
        abi.ENTRY_V2.pack_into(data, off, flags, domid, rng.choice([0, 1, 2]), rng.randrange(4096), frame)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32))
def test_random_structured_then_leak_free(seed: int) -> None:
    """Hostile sequences of grant calls and page-table garbage; afterwards everything can be destroyed."""
    rng = random.Random(seed)
    rig = machine()
    free = rig.xen.frames.free_count
    for name in "ABC":
        rig.make(name)
    for _ in range(250):
        name = rng.choice("ABC")
        if rng.random() < 0.25:
            garbage(rng, rig, name)
        elif rng.random() < 0.08:
            layout = rig.agents[name].layout
            rig.mmu_update(
                name,
                layout.window_maddr(rng.randrange(8)),
                (rng.choice(layout.pages).mfn << 12) | rng.choice([0, 0x65, 0x67]),
                0x7FF0,
            )
        elif rng.random() < 0.02:
            rig.remove(name)
            rig.make(name)
        else:
            op, arg = structured(rng, rig, name)
            agent = rig.agents[name]
            write(rig.xen, agent.vcpu, agent.arg, arg)
            try:
                run(rig.xen.hypercall(agent.vcpu, 20, op, agent.arg, 1), 5000)
            except Livelock:
                pass
        check_counts(rig.xen)
    for name in "ABC":
        rig.remove(name)
    check_no_leak(rig, free)
