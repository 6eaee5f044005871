"""A copy inside one page moves exactly its bytes; an address that is off by a bit is refused, and nothing is moved.

Protects: Xen's memcpy of a copy whose source and destination overlap, for all lengths and distances, by a model that asks
for each byte where it came from (a page of other bytes shows what is written behind the end); the alignment of the
addresses of Dom0's system calls, bit by bit. Sources: Xen arch/x86/string.c (memcpy: words of 8 bytes upwards, then
bytes), common/grant_table.c (gnttab_copy); Linux mm/mmap.c, mm/mprotect.c, mm/mremap.c.
"""

from __future__ import annotations

from functools import cache, partial

import pytest

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.grant_copy import forward_copy
from tests.impl.support import machine
from tests.impl.test_dom0_linux import answer
from tests.impl.test_process_memory import Process

WORD, PAGE = 8, abi.PAGE_SIZE
AT = 64  # of the source in the pages here
LENGTHS = (*range(34), 63, 64, 65)
DISTANCES = range(-24, 25)
BEFORE = bytes((7 * i + 3) % 251 for i in range(192))


def after(distance: int, length: int) -> bytes:
    """The page after a copy of so many bytes to a place so far behind the source."""
    dst = AT + distance

    def unit(place: int) -> int | None:
        """The step of the copy that writes a byte: a word or, in the tail, a byte; None for one that is left alone."""
        moved = place - dst
        if not 0 <= moved < length:
            return None
        return moved // WORD if moved < length // WORD * WORD else length // WORD + moved % WORD

    @cache
    def byte(place: int, step: int) -> int:
        """A byte of the page before a step."""
        mine = unit(place)
        return BEFORE[place] if mine is None or mine >= step else byte(place - distance, mine)

    return bytes(byte(place, length + 1) for place in range(len(BEFORE)))


@pytest.mark.parametrize("distance", DISTANCES)
def test_a_copy_within_a_page_goes_upwards_by_words(distance: int) -> None:
    for length in LENGTHS:
        page = bytearray(BEFORE)
        forward_copy(page, AT + distance, AT, length)
        assert bytes(page) == after(distance, length), length


@pytest.mark.parametrize("distance", [-9, -1, 0, 1, 7, 8, 9])
def test_a_guests_copy_within_its_page(distance: int) -> None:
    rig = machine("B")
    frame = rig.page("B/2")
    assert frame is not None
    for length in LENGTHS:
        frame.bytes()[: len(BEFORE)] = BEFORE
        arg = abi.COPY.pack(frame.mfn, abi.DOMID_SELF, AT, 0, frame.mfn, abi.DOMID_SELF, AT + distance, 0, length, 0, 9, 0)
        _, out = rig.grant_op("B", abi.GNTTABOP_COPY, arg)
        assert abi.STATUS.unpack_from(out, 36)[0] == 0
        assert bytes(frame.bytes()[: len(BEFORE)]) == after(distance, length), length


@pytest.mark.parametrize("bit", range(12))
def test_an_address_inside_a_page_is_no_page(bit: int) -> None:
    u = Process()
    at = u.grants() << 12
    off = 1 << bit
    calls = (
        partial(u.sys.munmap, at + off, 1),
        partial(u.sys.mprotect, at + off, 1, 1),
        partial(u.sys.mremap, at + off, 3, 3, at + 64 * PAGE),
        partial(u.sys.mremap, at, 3, 3, at + 64 * PAGE + off),
        partial(u.sys.mremap, at + off, 3, 2),
    )
    for call in calls:
        before = [(vma.start, vma.end, vma.prot) for vma in u.space.vmas]
        assert answer(call) == -abi.EINVAL
        assert [(vma.start, vma.end, vma.prot) for vma in u.space.vmas] == before and all(u.mapped()[:3])
