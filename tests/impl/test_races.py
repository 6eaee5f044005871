"""A granter, or a domain's death, between two steps of an operation: each second look at an entry or a domain is needed.

Protects: what Xen checks again after a lock was dropped or before a compare-and-swap. Sources: Xen common/grant_table.c
(_set_status_v1 and _set_status_v2, gnttab_prepare_for_transfer, gnttab_transfer, acquire_grant_for_copy).
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import pytest

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.continuation import ALWAYS, NEVER, Preemption
from bulkhead.impl.xen.domains import DYING, Domain
from bulkhead.impl.xen.frames import Frame
from bulkhead.impl.xen.grant_copy import copy_one
from bulkhead.impl.xen.grant_map import map_grant_ref
from bulkhead.impl.xen.grant_transfer import transfer_one
from bulkhead.impl.xen.guest_access import read, write
from bulkhead.impl.xen.machine import run
from bulkhead.proofs.replay.rig import Rig
from tests.impl.support import check_counts, machine

Steps = Generator[str, None, Any]


@pytest.fixture
def rig() -> Rig:
    return machine("A", "B", "C")


def domain(rig: Rig, name: str) -> Domain:
    return rig.agents[name].domain


def page(rig: Rig, name: str) -> Frame:
    found = rig.page(name)
    assert found is not None
    return found


def version_2(rig: Rig, name: str) -> None:
    _, out = rig.grant_op(name, abi.GNTTABOP_SET_VERSION, abi.SET_VERSION.pack(2))
    assert abi.SET_VERSION.unpack(out)[0] == 2


def write_entry(rig: Rig, name: str, ref: int, flags: int, to: str, frame: int, extra: int = 0, length: int = 0) -> None:
    """An entry as the granter writes it, in either version."""
    table = domain(rig, name).grant_table
    data, off = table.header_at(ref)
    if table.version == 1:
        abi.ENTRY_V1.pack_into(data, off, flags, rig.domid(to), frame)
    else:
        abi.ENTRY_V2.pack_into(data, off, flags, rig.domid(to), extra, length, frame)


def flags(rig: Rig, name: str, ref: int) -> tuple[int, int]:
    """The flags of an entry, and its in-use bits."""
    table = domain(rig, name).grant_table
    data, off = table.header_at(ref)
    word, at = table.status_at(ref)
    return abi.U16.unpack_from(data, off)[0], abi.U16.unpack_from(word, at)[0] & 0x18


def with_changes(steps: Steps, marker: str, change: Callable[[int], None]) -> Any:
    """Run to the end; at each such marker the change is made, with its number."""
    seen = 0
    try:
        while True:
            if next(steps) == marker:
                change(seen)
                seen += 1
    except StopIteration as stop:
        return stop.value


def maps(rig: Rig, readonly: bool = False) -> Steps:
    agent = rig.agents["B"]
    return map_grant_ref(rig.xen, agent.vcpu, agent.layout.window_va(0), 6 if readonly else 2, 8, domain(rig, "A").domid)


@pytest.mark.parametrize("changes, status", [(0, 0), (1, 0), (4, 0), (5, -1)])
def test_version_1_tries_five_times(rig: Rig, changes: int, status: int) -> None:
    """A granter that changes a harmless bit each time between look and swap wins at the fifth try."""
    write_entry(rig, "A", 8, 1, "B", page(rig, "A/3").mfn)

    def change(seen: int) -> None:
        if seen < changes:
            write_entry(rig, "A", 8, 1 | 0x200 << (seen & 1), "B", page(rig, "A/3").mfn)

    assert with_changes(maps(rig), "set_status.cmpxchg", change)[0] == status
    assert bool(flags(rig, "A", 8)[1]) == (status == 0)
    check_counts(rig.xen)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    "changed, to, readonly, status",
    [
        (1, "B", False, 0),
        (0, "B", False, -1),
        (2, "B", False, -1),
        (5, "B", False, -1),
        (5, "B", True, 0),
        (1, "C", False, -1),
        (0, "B", True, -1),
        (0x101, "B", False, -1),
    ],
)
def test_an_entry_that_changes_under_a_first_map(
    rig: Rig, version: int, changed: int, to: str, readonly: bool, status: int
) -> None:
    if version == 2:
        version_2(rig, "A")
    frame = page(rig, "A/3")
    write_entry(rig, "A", 8, 1, "B", frame.mfn)
    marker = "set_status.cmpxchg" if version == 1 else "set_status.recheck"
    got = with_changes(
        maps(rig, readonly), marker, lambda seen: None if seen else write_entry(rig, "A", 8, changed, to, frame.mfn)
    )
    assert got[0] == status and domain(rig, "A").grant_table.active[8].pin == (0x100 if readonly else 1) * (status == 0)
    assert flags(rig, "A", 8)[1] == ((8 if readonly else 0x18) if status == 0 else 0)
    check_counts(rig.xen)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("changed, status", [(1, 0), (5, -1), (0, 0), (2, 0)])
def test_an_entry_that_changes_under_a_writer_that_joins_a_reader(rig: Rig, version: int, changed: int, status: int) -> None:
    """In use, only the read-only bit is looked at; a writer that is refused leaves the reader's bit."""
    if version == 2:
        version_2(rig, "A")
    frame = page(rig, "A/3")
    write_entry(rig, "A", 8, 1, "B", frame.mfn)
    agent = rig.agents["B"]
    assert run(map_grant_ref(rig.xen, agent.vcpu, agent.layout.window_va(1), 6, 8, domain(rig, "A").domid))[0] == 0
    marker = "set_status.cmpxchg" if version == 1 else "set_status.recheck"

    def change(seen: int) -> None:
        if not seen:
            write_entry(rig, "A", 8, changed | (8 if version == 1 else 0), "B", frame.mfn)

    assert with_changes(maps(rig), marker, change)[0] == status
    assert flags(rig, "A", 8)[1] == (0x18 if status == 0 else 8)
    assert domain(rig, "A").grant_table.active[8].pin == (0x101 if status == 0 else 0x100)


def transitive(rig: Rig) -> Steps:
    """B copies by a grant of A that stands for one of C."""
    version_2(rig, "A")
    write_entry(rig, "C", 9, 1, "A", page(rig, "C/4").mfn)
    write_entry(rig, "A", 8, 3, "B", 9, domain(rig, "C").domid)
    return copies_through(rig)


def copies_through(rig: Rig) -> Steps:
    """The same copy, by entries as they are."""
    agent = rig.agents["B"]
    return copy_one(
        rig.xen,
        agent.vcpu,
        8,
        domain(rig, "A").domid,
        0,
        page(rig, "B/5").mfn,
        abi.DOMID_SELF,
        0,
        64,
        abi.GNTCOPY_SOURCE_GREF,
    )


def test_a_transitive_grant_that_somebody_else_takes_meanwhile(rig: Rig) -> None:
    """The outer entry's pins have changed while its lock was dropped: the copy begins again, and holds nothing."""
    steps = transitive(rig)
    outer = domain(rig, "A").grant_table.active[8]

    def change(seen: int) -> None:
        outer.pin += 0x100
        outer.domid = domain(rig, "B").domid

    before = page(rig, "C/4").count
    assert with_changes(steps, "copy.transitive", change) == 1
    assert outer.pin == 0x100 and domain(rig, "C").grant_table.active[9].pin == 0
    assert page(rig, "C/4").count == before and flags(rig, "C", 9)[1] == 0
    outer.pin = 0
    check_counts(rig.xen)


CHANGES = {"domid": 99, "frame": None, "start": 1, "length": 1, "trans_dom": None, "trans_gref": 1, "sub_page": False}


@pytest.mark.parametrize("what", CHANGES)
def test_a_transitive_grant_in_use_that_stands_for_something_else_meanwhile(rig: Rig, what: str) -> None:
    """Its pins are what they were, and something that they stand for is not: the second copy begins again."""
    first, outer = transitive(rig), domain(rig, "A").grant_table.active[8]
    while next(first) != "copy.claimed":
        pass
    pin, inner, kept = outer.pin, domain(rig, "C").grant_table.active[9], getattr(outer, what)
    held = inner.pin
    assert pin and held
    assert with_changes(copies_through(rig), "copy.transitive", lambda seen: setattr(outer, what, CHANGES[what])) == 1
    assert (outer.pin, inner.pin) == (pin, held)
    setattr(outer, what, kept)
    assert run(first) == 0 and outer.pin == inner.pin == 0
    check_counts(rig.xen)


def test_a_transitive_grant_whose_table_gets_the_other_version(rig: Rig) -> None:
    steps = transitive(rig)
    table = domain(rig, "A").grant_table
    assert with_changes(steps, "copy.transitive", lambda seen: setattr(table, "version", 1)) == 1
    assert domain(rig, "C").grant_table.active[9].pin == table.active[8].pin == 0


def test_a_transitive_grant_copies_from_the_inner_page(rig: Rig) -> None:
    page(rig, "C/4").bytes()[:4] = b"deep"
    steps = transitive(rig)
    during: list[tuple[int, int]] = []
    inner, outer = domain(rig, "C").grant_table.active[9], domain(rig, "A").grant_table.active[8]
    assert with_changes(steps, "copy.claimed", lambda seen: during.append((inner.pin, outer.pin))) == 0
    assert during == [(0x100, 0x100)] and inner.pin == outer.pin == 0
    assert bytes(page(rig, "B/5").bytes()[:4]) == b"deep"
    assert flags(rig, "C", 9)[1] == flags(rig, "A", 8)[1] == 0


def gives(rig: Rig) -> tuple[Steps, Frame]:
    """B gives its page 5 to A, which waits at reference 8."""
    agent = rig.agents["B"]
    frame = page(rig, "B/5")
    assert rig.xen.call(agent.vcpu, abi.HYPERVISOR_UPDATE_VA_MAPPING, agent.layout.va(5), 0, 2) == 0
    write_entry(rig, "A", 8, abi.GTF_ACCEPT_TRANSFER, "B", 0)
    return transfer_one(rig.xen, agent.vcpu, frame.mfn, domain(rig, "A").domid, 8), frame


@pytest.mark.parametrize("when, committed", [("transfer.stolen", False), ("set_status.cmpxchg", True)])
@pytest.mark.parametrize("how", ["dies", "is full"])
def test_a_receiver_that_dies_or_is_full(rig: Rig, when: str, committed: bool, how: str) -> None:
    """Before its entry is claimed, the entry stays as it was; afterwards, committed. The page is lost either way."""
    steps, frame = gives(rig)
    taker = domain(rig, "A")
    pages = taker.tot_pages

    def change(seen: int) -> None:
        if how == "dies":
            taker.is_dying = DYING
        else:
            taker.max_pages = taker.tot_pages

    assert with_changes(steps, when, change) == abi.GNTST_GENERAL_ERROR
    assert flags(rig, "A", 8)[0] == abi.GTF_ACCEPT_TRANSFER | (abi.GTF_TRANSFER_COMMITTED if committed else 0)
    assert frame.owner is None and taker.tot_pages == pages
    taker.is_dying = 0
    check_counts(rig.xen)


@pytest.mark.parametrize("changes, status", [(0, 0), (4, -1), (1, -1)])
def test_a_receiver_that_changes_its_mind(rig: Rig, changes: int, status: int) -> None:
    steps, frame = gives(rig)

    def change(seen: int) -> None:
        if changes:
            write_entry(rig, "A", 8, abi.GTF_ACCEPT_TRANSFER if changes == 4 else 0, "C" if changes == 4 else "B", 0)

    assert with_changes(steps, "set_status.cmpxchg", change) == status
    assert (frame.owner is domain(rig, "A")) == (status == 0)


def test_a_granter_is_held_while_a_map_drops_its_locks(rig: Rig) -> None:
    write_entry(rig, "A", 8, 1, "B", page(rig, "A/3").mfn)
    granter = domain(rig, "A")
    before = granter.refs
    during: list[int] = []
    assert with_changes(maps(rig), "map.pinned", lambda seen: during.append(granter.refs))[0] == 0
    assert during == [before + 1] and granter.refs == before


@pytest.mark.parametrize("restarts", [0, 1, 3])
@pytest.mark.parametrize("kind", [NEVER, ALWAYS])
def test_a_copy_that_begins_again_stops_there_and_goes_on_there(rig: Rig, kind: str, restarts: int) -> None:
    """In the midst of a batch: Xen ends the hypercall at each restart as between elements, and repeats nothing before it."""
    transitive(rig).close()
    page(rig, "C/4").bytes()[:2] = b"in"
    target, agent = page(rig, "B/5"), rig.agents["B"]
    own, outer = page(rig, "B/3"), domain(rig, "A").grant_table.active[8]
    own.bytes()[:2] = b"my"

    def op(src: int, dom: int, at: int, flags: int) -> bytes:
        return abi.COPY.pack(src, dom, 0, 0, target.mfn, abi.DOMID_SELF, at, 0, 2, flags, 99, 0)

    ops = op(own.mfn, abi.DOMID_SELF, 0, 0) + op(8, domain(rig, "A").domid, 16, abi.GNTCOPY_SOURCE_GREF)
    ops += op(own.mfn, abi.DOMID_SELF, 32, 0)
    behind = b"\xee" * 120  # no element of this batch
    assert write(rig.xen, agent.vcpu, agent.arg, ops + behind)
    rig.xen.preemption = Preemption(kind)
    steps = rig.xen.hypercall(agent.vcpu, abi.HYPERVISOR_GRANT_TABLE_OP, abi.GNTTABOP_COPY, agent.arg, 3)
    seen: list[str] = []
    raced = 0
    try:
        while True:
            seen.append(next(steps))
            if seen[-1] == "copy.transitive":
                outer.pin = 0x100 if raced < restarts else 0
                raced += 1
            elif seen[-1] in ("copy.restart", "hypercall.continue"):
                outer.pin = 0
                target.bytes()[:2] = b"--"  # the first element is done, and stays so
    except StopIteration as stop:
        assert stop.value == 0
    stops = {NEVER: {"grant.preempt": 2, "copy.restart": restarts}, ALWAYS: {"hypercall.continue": 2 + restarts}}
    assert {name: seen.count(name) for name in stops[kind]} == stops[kind] and raced == restarts + 1
    told = bytes(read(rig.xen, agent.vcpu, agent.arg, len(ops + behind)) or b"")
    assert told[len(ops) :] == behind
    assert [abi.STATUS.unpack_from(told, 40 * i + 36)[0] for i in range(3)] == [0, 0, 0]
    stopped = kind == ALWAYS or restarts
    assert bytes(target.bytes()[:2]) == (b"--" if stopped else b"my")
    assert bytes(target.bytes()[16:18]) == b"in" and bytes(target.bytes()[32:34]) == b"my"
    check_counts(rig.xen)
