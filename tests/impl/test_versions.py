"""The switch between the two layouts of a grant table: preserved reserved entries, and reasons for a refusal.

Protects: entries below 8 keep every field, in both directions; other entries do not; a refusal changes nothing.
"""

from __future__ import annotations

import pytest

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.grant_admin import set_version
from bulkhead.impl.xen.grant_entries import GrantTable
from bulkhead.proofs.replay.rig import Rig
from tests.impl.support import map_ref, unmap

RESERVED = range(8)


@pytest.fixture
def rig() -> Rig:
    made = Rig()
    made.make("A")
    made.make("B")
    return made


def table(rig: Rig) -> GrantTable:
    return rig.agents["A"].domain.grant_table


def switch(rig: Rig, version: int) -> tuple[int, int]:
    return set_version(rig.agents["A"].vcpu, version)


def put(rig: Rig, ref: int, flags: int, domid: int, frame: int, sub: tuple[int, int] = (0, 0)) -> None:
    data, off = table(rig).header_at(ref)
    if table(rig).version == 1:
        abi.ENTRY_V1.pack_into(data, off, flags, domid, frame)
    else:
        abi.ENTRY_V2.pack_into(data, off, flags, domid, *sub, frame)


def test_reserved_entries_keep_every_field_both_ways(rig: Rig) -> None:
    for ref in (*RESERVED, 8):
        put(rig, ref, abi.GTF_PERMIT_ACCESS | (abi.GTF_READONLY if ref % 2 else 0), 1 + ref, 0x1000 + ref)
    before = [table(rig).entry_v1(ref) for ref in RESERVED]
    assert switch(rig, 2) == (0, 2)
    assert [table(rig).entry_v2(ref) for ref in RESERVED] == [(f, d, 0, 0, n) for f, d, n in before]
    assert table(rig).entry_v2(8) == (0, 0, 0, 0, 0)
    put(rig, 8, abi.GTF_PERMIT_ACCESS, 1, 2)
    assert switch(rig, 1) == (0, 1)
    assert [table(rig).entry_v1(ref) for ref in RESERVED] == before and table(rig).entry_v1(8) == (0, 0, 0)


def test_the_in_use_bits_of_a_reserved_entry_move_with_it(rig: Rig) -> None:
    """In-use bits: in version 2 separate from the flags, in version 1 among them."""
    put(rig, 3, abi.GTF_PERMIT_ACCESS, rig.domid("B"), rig.mfn("A/3"))
    assert switch(rig, 2) == (0, 2)
    status, handle = map_ref(rig, "B", "A", 3, 0, 6)
    assert status == 0
    assert table(rig).entry_v2(3)[0] == abi.GTF_PERMIT_ACCESS
    assert switch(rig, 1) == (0, 1)
    assert table(rig).entry_v1(3) == (abi.GTF_PERMIT_ACCESS | abi.GTF_READING, rig.domid("B"), rig.mfn("A/3"))
    assert switch(rig, 2) == (0, 2)
    data, off = table(rig).status_at(3)
    assert abi.U16.unpack_from(data, off)[0] == abi.GTF_READING
    assert unmap(rig, "B", handle, 0) == 0
    assert abi.U16.unpack_from(data, off)[0] == 0


def test_what_version_1_cannot_hold(rig: Rig) -> None:
    """A frame number above 32 bits or a transitive grant refuses it; an entry that grants nothing is cleared."""
    assert switch(rig, 2) == (0, 2)
    for flags, frame, want in (
        (abi.GTF_PERMIT_ACCESS, 1 << 32, -abi.ERANGE),
        (abi.GTF_TRANSITIVE, 5, -abi.ERANGE),
        (abi.GTF_PERMIT_ACCESS, (1 << 32) - 1, 0),
    ):
        put(rig, 7, flags, 5, frame)
        put(rig, 6, 0, 7, 77)
        before = table(rig).entry_v2(7)
        assert switch(rig, 1) == (want, 1 if want == 0 else 2)
        assert want == 0 or table(rig).entry_v2(7) == before
    assert table(rig).entry_v1(7) == (abi.GTF_PERMIT_ACCESS, 5, (1 << 32) - 1)
    assert table(rig).entry_v1(6) == (0, 0, 0)


def test_what_stops_a_switch(rig: Rig) -> None:
    """Refused: an unknown version, one not offered, an entry in use above 7. The current version: no effect."""
    assert switch(rig, 0) == switch(rig, 3) == (-abi.EINVAL, 1)
    put(rig, 8, abi.GTF_PERMIT_ACCESS, rig.domid("B"), rig.mfn("A/3"))
    status, handle = map_ref(rig, "B", "A", 8, 0)
    assert status == 0 and switch(rig, 1) == (0, 1) and switch(rig, 2) == (-abi.EBUSY, 1)
    assert unmap(rig, "B", handle, 0) == 0
    table(rig).max_version = 1
    assert switch(rig, 2) == (-abi.ENOSYS, 1) and switch(rig, 1) == (0, 1)
    table(rig).max_version = 2
    assert switch(rig, 2) == (0, 2)


def test_a_status_frame_that_was_given_up_is_busy_while_it_is_mapped(rig: Rig) -> None:
    """Its allocation reference has gone, so the mapping's is the only one (gnttab_unpopulate_status_frames)."""
    assert switch(rig, 2) == (0, 2)
    (frame,) = table(rig).status
    assert frame.allocated and frame.count == 1
    frame.count += 1  # mapped
    frame.allocated, frame.count = False, frame.count - 1  # and given up
    assert switch(rig, 1) == (-abi.EBUSY, 2)
    assert table(rig).status == [frame] and frame.count == 1


def test_a_part_in_use_has_no_place_in_version_1(rig: Rig) -> None:
    assert switch(rig, 2) == (0, 2)
    active = table(rig).active[2]
    active.pin, active.sub_page = abi.PIN_HSTR, True
    assert switch(rig, 1) == (-abi.EAGAIN, 2)
    active.pin = 0
    assert switch(rig, 1) == (0, 1)


@pytest.mark.parametrize("first", [8, 9, 16, 17])
def test_every_entry_has_a_status_word(rig: Rig, first: int) -> None:
    """One status frame has the words of eight frames of entries, whether the table grows before the switch or after it."""
    entries = table(rig)
    entries.max_frames = 32
    assert entries.grow(first) and switch(rig, 2) == (0, 2)
    for frames in (first, first + 1):
        assert frames == first or entries.grow(frames)
        assert len(entries.status) == -(-frames // 8)
        words = [entries.status_at(ref) for ref in range(entries.nr_entries)]
        assert len({(id(data), off) for data, off in words}) == entries.nr_entries == frames * abi.ENTRIES_V2
    last = entries.nr_entries - 1
    put(rig, last, abi.GTF_PERMIT_ACCESS, rig.domid("B"), rig.mfn("A/3"))
    assert map_ref(rig, "B", "A", last, 0)[0] == 0
    assert abi.U16.unpack_from(*entries.status_at(last))[0] == abi.GTF_READING | abi.GTF_WRITING
    assert map_ref(rig, "B", "A", last + 1, 1)[0] == abi.GNTST_BAD_GNTREF
