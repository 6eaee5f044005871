"""Corners of grants: guest-available bits, lists in two pages, cache flushes, reserved entries, parts of pages."""

from __future__ import annotations

from tests.xen.corners.forms import mmu, unmap_page
from tests.xen.workload.script import GRANT_TABLE_OP, MEMORY_OP, UPDATE_VA_MAPPING, Script


def grants(s: Script) -> None:
    """Guest-available bits of mappings, lists with a bad second element, reserved entries and versions, foreign entries."""
    for ref, page in ((8, 3), (9, 4), (10, 5)):
        s.do("ge", f"B:{ref}", d="B", ref=ref, flags=1, dom="A", pg=f"B/{page}")
    for slot, flags in enumerate(
        ("0x10002", "0x20002", "0x40002", "0x70002", "0x50006", "0x3000a", "0x80002", "0x700002"), 16
    ):
        s.hypercall(
            "A",
            GRANT_TABLE_OP,
            f"0:8:w.{slot},8:4:{flags},12:4:8,16:2:B,18:2:0x7fff,20:4:0xdeadbeef",
            f"st:18:2:s,k{slot}:20:4:V",
            "B:8",
            a1=0,
            a2="arg",
            a3=1,
        )
        s.do("wr", by="A", slot=slot, off=8, v=slot)
        s.do("prd", pg="B/3", off=8)
        # The guest-available bits are those of the entry: only the same entry is replaced by an equal one for free.
        mmu(s, "A", (f"t.{slot}", f"f.B/3+{hex(0x67 | (int(flags, 0) >> 16 & 7) << 9)}"))
        s.hypercall(
            "A",
            GRANT_TABLE_OP,
            f"0:8:w.{slot},16:4:$k{slot},20:2:0x7fff",
            "st:20:2:s",
            "B:8",
            a1=1,
            a2="arg",
            a3=1,
        )
    own, other = "f.A/3", "f.B/3"
    for first, second in ((own, own), (own, other), (other, own), (own, "f.0xfffffff"), (own, "8")):
        for op, size in ((1, 64), (2, 64), (3, 4096), (1, 4097), (0, 0), (4, 64)):
            s.hypercall(
                "A",
                GRANT_TABLE_OP,
                f"0:8:{own},8:2:0,10:2:64,12:4:1,16:8:{first},24:2:0,26:2:64,28:4:1,32:8:{second},40:2:0,42:2:{size},44:4:{op}",
                a1=12,
                a2="arg",
                a3=3,
            )
    for progress in ("0x100c", "0x200c", "0x800c", "0xfffff00c"):
        for length, op in ((0, 1), (64, 1), (64, 0)):
            s.hypercall("A", GRANT_TABLE_OP, f"0:8:{own},10:2:{length},12:4:{op}", a1=progress, a2="arg", a3=1)
    # A list in two pages, of which the second is not mapped, or not writable.
    unmap_page(s, "A", 45)
    for which, size in ((0, 32), (1, 24), (5, 40), (7, 24), (8, 4), (11, 12), (12, 16), (4, 24)):
        for back in (size, size - 2 if size > 4 else 2, 2 * size):
            at = 4096 - back
            s.hypercall(
                "A",
                GRANT_TABLE_OP,
                f"p44.{at}:1:0x7f:{min(back, 64)}:1",
                f"l:p44.{4096 - min(back, 8)}:{min(back, 8)}",
                a1=which,
                a2=f"v.44+{at}",
                a3=3,
            )
    s.hypercall("A", UPDATE_VA_MAPPING, a1="v.46", a2="f.A/46+0x65", a3=2)
    for which, size in (
        (0, 32),
        (1, 24),
        (2, 24),
        (5, 40),
        (6, 16),
        (7, 24),
        (8, 4),
        (9, 16),
        (10, 8),
        (11, 12),
        (12, 16),
        (4, 24),
    ):
        for where in (f"v.46+{2 * size}", f"v.45+{4096 - size}", f"v.45+{4096 - 2}"):
            s.hypercall("A", GRANT_TABLE_OP, a1=which, a2=where, a3=1)
            s.hypercall("A", GRANT_TABLE_OP, a1=which, a2=where, a3=2)
    # The last addresses before and the first in what is not a guest's: an empty list may begin there, or not.
    for where in ("0x7fffffffffff", "0x800000000000", "0xffff7fffffffffff", "0xffff87ffffffffff", "0xffff880000000000"):
        for command in (0, 1, 4, 5, 7, 11, 12):
            s.hypercall("A", GRANT_TABLE_OP, a1=command, a2=where, a3=0)
        for number in (1, 26):
            s.hypercall("A", number, a1=where, a2=0, a3=0, a4="SELF")
        s.hypercall("A", UPDATE_VA_MAPPING, a1=where, a2=0, a3=0)
    # A counter of maps at its top, and a copy; a mapping that is replaced by another one, whose slot is empty then.
    s.do("ge", "B:14", d="B", ref=14, flags=5, dom="A", pg="B/6")
    ask = "0:8:w.24,8:4:6,12:4:14,16:2:B,18:2:0x7fff"
    taken = "0:8:14,8:2:B,16:8:A/3,24:2:SELF,32:2:64,34:2:1,36:2:0x7fff"
    for times in (127, 1, 1):
        s.hypercall("A", GRANT_TABLE_OP, ask, "st:18:2:s", "B:14", a1=0, a2="arg", a3=1, rep=times)
        s.hypercall("A", GRANT_TABLE_OP, taken, "st:36:2:s", "B:14", a1=5, a2="arg", a3=1)
    s.renew("A")
    s.do("ge", "B:15", d="B", ref=15, flags=1, dom="A", pg="B/7")
    s.hypercall(
        "A", GRANT_TABLE_OP, "0:8:w.26,8:4:2,12:4:15,16:2:B,18:2:0x7fff", "st:18:2:s,rh:20:4:V", a1=0, a2="arg", a3=1
    )
    s.hypercall("A", UPDATE_VA_MAPPING, a1="w.27", a2="f.A/9+0x67", a3=2)
    s.hypercall("A", GRANT_TABLE_OP, "0:8:w.26,8:8:w.27,16:4:$rh,20:2:0x7fff", "st:20:2:s", "B:15", a1=7, a2="arg", a3=1)
    for slot in (26, 27):
        s.do("rd", by="A", slot=slot, off=8)
        s.do("wr", by="A", slot=slot, off=8, v=slot)
        mmu(s, "A", (f"t.{slot}", "0"))
    s.do("prd", pg="A/9", off=8)
    # A transitive grant that leads to another one.
    for name in ("B", "C"):
        s.hypercall(name, GRANT_TABLE_OP, "0:4:2", "v:0:4", a1=8, a2="arg", a3=1)
    s.do("ge", "A:20", d="A", ref=20, flags=1, dom="C", pg="A/8")
    s.do("ge", "C:20", d="C", ref=20, flags=3, dom="B", pg="0", tdom="A", tref=20)
    s.do("ge", "C:21", d="C", ref=21, flags=1, dom="B", pg="C/8")
    for inner in (20, 21, 22, 5000):
        s.do("ge", "B:20", d="B", ref=20, flags=3, dom="A", pg="0", tdom="C", tref=inner)
        for size in (64, 4096):
            s.hypercall(
                "A",
                GRANT_TABLE_OP,
                f"0:8:20,8:2:B,16:8:A/10,24:2:SELF,32:2:{size},34:2:1,36:2:0x7fff",
                "st:36:2:s",
                "B:20+C:20+C:21",
                a1=5,
                a2="arg",
                a3=1,
            )
    s.do("prd", pg="A/10", off=8)
    s.hypercall("B", GRANT_TABLE_OP, "0:4:1", "v:0:4", a1=8, a2="arg", a3=1)
    # Frames of a table, and of its status words, for Dom0.
    for version in (1, 2, 1):
        s.hypercall("C", GRANT_TABLE_OP, f"0:4:{version}", "v:0:4", a1=8, a2="arg", a3=1)
        for kind in (0, 1, 2):
            for begin, count in ((0, 1), (0, 2), (1, 1), (2, 1), (7, 1), (8, 1), (0, 33), (0, 0)):
                s.hypercall(
                    "d0",
                    MEMORY_OP,
                    f"0:2:C,2:2:1,4:4:{kind},8:4:{count},16:8:{begin},24:8:arg+512,512:8:0x77",
                    "n:8:4,m0:512:8:v",
                    a1=28,
                    a2="arg",
                )
                s.hypercall("C", GRANT_TABLE_OP, "0:2:SELF", "nr:4:4,max:8:4,st:12:2:s", a1=6, a2="arg", a3=1)
                s.hypercall("C", GRANT_TABLE_OP, "0:4:1,4:2:SELF,6:2:0x77,8:8:arg+512", "st:6:2:s", a1=9, a2="arg", a3=1)
    for beyond in (511, 512, 1024, 4096):
        unmap_page(s, "B", 51)
        s.hypercall("B", GRANT_TABLE_OP, f"0:8:B/51,8:2:A,12:4:{beyond},16:2:0x7fff", "st:16:2:s", a1=4, a2="arg", a3=1)
        s.count("B")
        s.renew("B")
    # Versions: what reserved entries may be, and entries in use.
    for kind, pg, more in ((1, "C/3", {}), (2, "0", {}), (3, "C/3", {"tdom": "A", "tref": 8}), (5, "0x123456789ab", {})):
        s.do("ge", "C:1", d="C", ref=1, flags=0, dom="d0", pg="0")
        for version in (2, 1):
            s.hypercall("C", GRANT_TABLE_OP, f"0:4:{version}", "v:0:4", a1=8, a2="arg", a3=1)
            if version == 2:
                s.do("ge", "C:1", d="C", ref=1, flags=kind, dom="A", pg=pg, **more)
        s.do("show", "C:1")
        s.do("ge", "C:1", d="C", ref=1, flags=0, dom="d0", pg="0")
        s.hypercall("C", GRANT_TABLE_OP, "0:4:1", "v:0:4", a1=8, a2="arg", a3=1)
    s.hypercall("C", GRANT_TABLE_OP, "0:4:2", "v:0:4", a1=8, a2="arg", a3=1)
    s.do("ge", "C:8", d="C", ref=8, flags=0x101, dom="A", pg="C/3", off=64, len=128)
    for start, length in ((64, 128), (63, 10), (64, 129), (191, 1), (192, 1), (64, 0)):
        s.hypercall(
            "A",
            GRANT_TABLE_OP,
            f"0:8:8,8:2:C,10:2:{start},16:8:A/3,24:2:SELF,32:2:{length},34:2:1,36:2:0x7fff",
            "st:36:2:s",
            "C:8",
            a1=5,
            a2="arg",
            a3=1,
        )
