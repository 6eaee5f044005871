"""Arguments in the last bytes of memory: how much of an argument Xen reads, and how much it writes.

A call whose argument reaches into a page that is not there fails, and one byte earlier it does not: so each call's answers
tell the size of its struct. Contents: the operations of a guest, with an argument of zeros. Not here: those that end the
guest when they are made with zeros; structs of more than a few words.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from tests.xen.corners.forms import unmap_page
from tests.xen.workload.script import EVENT_CHANNEL_OP, GRANT_TABLE_OP, MEMORY_OP, MMU_UPDATE, MMUEXT_OP, Script

LAST: Final = 28  # the page of the pool behind which there is none
SIZES: Final = (*range(1, 6), 7, 8, 9, 11, 12, 13, *range(15, 18), *range(19, 26), *range(31, 34), *range(39, 42), 47, 48)
LONG: Final = (63, 64, 65, 100, 1023, 1024, 1025)  # of what Xen tells about itself
SET_TRAPS, SET_GDT, MULTICALL, VCPU_OP, NMI_OP, SCHED_OP, CALLBACK_OP = 0, 2, 13, 24, 28, 29, 30
XEN_VERSION, PHYSDEV, PHYSDEV_OLD, XENOPROF, HVM_OP, DM_OP, SYSCTL, DOMCTL = 17, 33, 19, 31, 34, 41, 35, 36
POLL, REMOTE, WATCHDOG, CODE = 3, 4, 6, 7
WATCHDOG_SIZE, POLL_SIZE = 8, 24
ZEROS: Final = f"p{LAST}.3968:128:0"  # what earlier calls have written there does not matter


def _each(s: Script, by: str, number: int, commands: Iterable[int], sizes: Iterable[int] = SIZES, **more: Any) -> None:
    """Each command of a family, with so many bytes of its argument in memory."""
    for command in commands:
        for size in sizes:
            s.hypercall(by, number, ZEROS, a1=command, a2=f"v.{LAST + 1}-{size}", **more)


def ends(s: Script) -> None:
    """All families, by a guest that is new."""
    s.renew("A")
    unmap_page(s, "A", LAST + 1)
    s.do("x", by="A", w=f"p{LAST}.0:4096:0")
    _each(s, "A", GRANT_TABLE_OP, range(13), a3=1)
    _each(s, "A", EVENT_CHANNEL_OP, range(15))
    _each(s, "A", MEMORY_OP, range(28))
    _each(s, "A", CALLBACK_OP, range(2))
    _each(s, "A", NMI_OP, range(2))
    _each(s, "A", SCHED_OP, (REMOTE, CODE))
    _each(s, "A", SCHED_OP, (POLL,), range(16, POLL_SIZE))
    _each(s, "A", SCHED_OP, (WATCHDOG,), range(1, WATCHDOG_SIZE))
    _each(s, "A", PHYSDEV, range(33))
    _each(s, "A", HVM_OP, range(27))
    _each(s, "A", XENOPROF, range(2))
    _each(s, "A", XEN_VERSION, range(12), (*SIZES, *LONG))
    for size in SIZES:
        at = f"v.{LAST + 1}-{size}"
        for command in (1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13):
            s.hypercall("A", VCPU_OP, ZEROS, a1=command, a2=0, a3=at)
        for number in (PHYSDEV_OLD, SYSCTL, DOMCTL, SET_TRAPS):
            s.hypercall("A", number, ZEROS, a1=at)
        s.hypercall("A", SET_GDT, ZEROS, a1=at, a2=1)
        s.hypercall("A", MULTICALL, ZEROS, a1=at, a2=1)
        for number in (MMU_UPDATE, MMUEXT_OP):
            s.hypercall("A", number, ZEROS, a1=at, a2=1, a3=0, a4="SELF")
            s.hypercall("A", number, ZEROS, a1="arg", a2=0, a3=at, a4="SELF")
        s.hypercall("A", DM_OP, ZEROS, a1="B", a2=1, a3=at)
    s.renew("A")
