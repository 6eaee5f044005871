"""Corners of page tables and TLBs: linear tables, other owners, commands, every flush, LDTs."""

from __future__ import annotations

from tests.xen.corners.forms import SELF_ONLY, UNMAPPED, extended, memory, mmu, unmap_page
from tests.xen.workload.script import (
    MMUEXT_OP,
    UPDATE_VA_MAPPING,
    UPDATE_VA_MAPPING_OTHERDOMAIN,
    Script,
)


def page_types(s: Script) -> None:
    """Entries that name other owners, I/O memory and tables of the same level; types of pages that are told."""
    s.hypercall("A", MMUEXT_OP, "0:4:16,8:8:A/16", a1="arg", a2=1, a3=0, a4="SELF")
    # Linear page tables: of the root in itself, and what lies behind them.
    mmu(s, "A", ("f.A/l4+2400", "f.A/l4+0x65"))
    mmu(s, "A", ("f.A/l4+2400", "f.A/l4+0x67"))
    for addr in ("0xffff960000000000", "0xffff968000000000", "0xffff96cb65b2d960"):
        s.hypercall("A", UPDATE_VA_MAPPING, a1=addr, a2="f.A/16+0x65", a3=0)
        s.hypercall("A", UPDATE_VA_MAPPING, a1=addr, a2="0", a3=0)
    mmu(s, "A", ("f.A/l4+2400", "0"))
    mmu(s, "A", ("f.A/l4+2048", "f.A/l3+0x67"), ("f.A/l4+2168", "0"))
    mmu(s, "A", ("f.A/l4+2168", "f.A/l3+0x67"))
    mmu(s, "A", ("f.A/l4+2176", "f.A/l3+0x67"), ("f.A/l4+2176", "0"))
    mmu(s, "A", ("f.A/l3+8", "f.A/l3+0x65"), ("f.A/l3+8", "0"))
    mmu(s, "A", ("f.A/l2+32", "f.A/l2+0x65"), ("f.A/l2+40", "f.A/l2+0x65"), ("f.A/l2+32", "0"), ("f.A/l2+40", "0"))
    # Owners that are named in the upper half: Dom0 changes a guest's tables.
    for high in (1, 2, 3, 4, 5, 20000):
        for low in ("A", "B", "H", "IO", "XEN", "SELF"):
            mmu(s, "d0", ("f.A/16", "0x77"), ("t.A.5", "f.A/16+0x65"), ("f.A/l2+48", "0"), owner=f"{low}+{(high + 1) << 16}")
            mmu(s, "d0", ("f.A/l2+48", "0"), owner=f"{low}+{(high + 1) << 16}")
            mmu(s, "d0", ("f.A/l1+4088", "0"), owner=f"{low}+{(high + 1) << 16}")
        mmu(s, "d0", ("f.A/16", "0"), ("t.A.5", "0"), owner="A+131072")
    for low in ("IO", "XEN", "COW"):
        for value in ("f.A/3+0x67", "f.0x100+0x67", "f.0xfee00+0x67", "f.0xa0+0x65", "f.0xfffffffff+0x67", "f.B/3+0x67"):
            mmu(s, "A", ("t.6", value), owner=low)
    for command in (1, 2, 3, 4, 7):
        mmu(s, "A", (f"f.A/17+{command}", "f.A/18+0x67"), (f"t.7+{command}", "f.A/18+0x67"))
        mmu(s, "A", (f"f.B/17+{command}", "17"), owner="B")
        if command in (1, 4, 7):  # the others write the page that the guest's events are in
            mmu(s, "A", (f"f.A/si+{command}", "17"))
        mmu(s, "A", (f"f.0xfffffff+{command}", "17"))
    # The accessed and dirty bits of an entry are kept by command 2 only.
    for command in (0, 2, 3):
        mmu(s, "A", ("t.8", "f.A/19+0x67"), (f"t.8+{command}", "f.A/19+0x7"))
        s.do("rd", by="A", pg=19, off=8)
        mmu(s, "A", (f"t.8+{command}", "f.A/20+0x1"), ("t.8", "0"))
    for value in ("0", "f.A/3", "0xfff", "f.A/3+0x65", "f.A/3+0x67"):
        s.hypercall("A", UPDATE_VA_MAPPING_OTHERDOMAIN, a1="w.9", a2=value, a3=2, a4="SELF")
        s.hypercall("A", UPDATE_VA_MAPPING_OTHERDOMAIN, a1="w.9", a2=value, a3=2, a4="IO")
        s.hypercall("d0", UPDATE_VA_MAPPING_OTHERDOMAIN, a1=UNMAPPED, a2=value, a3=2, a4="A")


def flushes(s: Script) -> None:
    """Every flush of TLBs and caches, by all names of vCPUs; LDTs; pages cleared and copied that may not be."""
    for cmd in (6, 7, 8, 9, 10, 11, 12, 18):
        for one in ("w.3", "0", "0xffff830000000000"):
            for two in ("arg+512", UNMAPPED, "0", "0xffff830000000000"):
                s.hypercall("A", MMUEXT_OP, f"0:4:{cmd},8:8:{one},16:8:{two},512:8:1", a1="arg", a2=1, a3=0, a4="SELF")
        extended(s, "A", (cmd, "w.3", "0"), owner="B")
        extended(s, "d0", (cmd, "0", "arg+512"), owner="A")
        extended(s, "A", (cmd, "w.3", "arg+512"), (99, "0", "0"))
    for flags in ("0", "1", "2", "3", "4", "5", "6", "7", "arg+513", "arg+514", f"{UNMAPPED}+1", f"{UNMAPPED}+2"):
        s.hypercall("A", UPDATE_VA_MAPPING, "512:8:1", a1="w.10", a2="f.A/21+0x67", a3=flags)
        s.do("rd", by="A", slot=10, off=8)
        s.hypercall("A", UPDATE_VA_MAPPING, "512:8:1", a1="w.10", a2="0", a3=flags)
    for where in ("0", "v.20", "v.20+1", "v.20+4096", "0x800000000000", "0xffff7fffffff0000", "0xffff880000000000"):
        for entries in ("0", "1", "8192", "8193", "0x100000001", "0xffffffff"):
            extended(s, "A", (13, where, entries))
    extended(s, "A", (13, "0", "0"))
    unmap_page(s, "A", 22, 23)
    memory(s, "A", 1, f"0:8:arg+512,8:8:1,{SELF_ONLY},512:8:A/22")
    for one, two in (
        ("A/22", "A/3"),
        ("A/3", "A/22"),
        ("A/l1", "A/3"),
        ("A/3", "A/l1"),
        ("A/7", "A/6"),
        ("B/3", "A/3"),
        ("A/3", "B/3"),
        ("0xfffffff", "A/3"),
        ("A/3", "0xfffffff"),
        ("A/4", "A/5"),
    ):
        extended(s, "A", (17, one, two))
        if one != "A/si":
            extended(s, "A", (16, one, "0"))
    s.do("pwr", pg="A/5", off=64, v=0x99)
    extended(s, "A", (17, "A/4", "A/5"), (16, "A/5", "0"), (17, "A/6", "A/5"))
    for page in (4, 5, 6):
        s.do("prd", pg=f"A/{page}", off=64)
    extended(s, "d0", (17, "A/4", "A/6"), (16, "A/5", "0"), owner="A")
    extended(s, "d0", (16, "0", "0"), owner="H")
    for count in ("0", "0x80000000", "0x80000001", "0x100000001"):
        extended(s, "A", (6, "0", "0"), count=count)
