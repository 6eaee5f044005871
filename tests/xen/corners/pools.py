"""Corners of the pool of pages for a translated guest's tables: how many its map takes, and what fails when none is left.

Not here: the calls' bad arguments (toolstack.py).
"""

from __future__ import annotations

from tests.xen.corners.forms import memory
from tests.xen.workload.script import GRANT_TABLE_OP, Script

GET, SET = 85, 86
FAR = ("0x200", "0x7fff", "0x40000", "0x8000000", "0x40000000")


def _pool(s: Script, name: str, pages: int | None = None) -> None:
    """Set it to so many pages, and ask for it."""
    if pages is not None:
        s.do("x", by="d0", nr=36, w=f"0:4:{SET},4:4:0x15,8:2:{name},16:8:{4096 * pages}", a1="arg")
    s.do("x", by="d0", nr=36, w=f"0:4:{GET},4:4:0x15,8:2:{name}", o="size:16:8", a1="arg")


def _populate(s: Script, name: str, gfn: str, order: int = 0) -> None:
    memory(s, "d0", 6, f"0:8:arg+512,8:8:1,16:4:{order},24:2:{name},512:8:{gfn}")
    s.count(name)


def pools(s: Script) -> None:
    """All of them."""
    for vcpus in (1, 2, 3):
        s.do("mkdom", n="S", kind="hvm", vcpus=vcpus)
        _pool(s, "S")
        _pool(s, "S", 0)
        s.do("rmdom", n="S")
    s.do("mkdom", n="S", kind="hvm")
    _pool(s, "S", 0)
    for gfn in FAR:
        _populate(s, "S", gfn)
        _pool(s, "S")
    for pages in (16, 17, 18, 19, 20):
        _pool(s, "S", pages)
        for gfn in FAR[:4]:
            _populate(s, "S", gfn)
        _pool(s, "S", 0)
    memory(s, "d0", 3, "0:8:arg+512,8:8:1,16:4:0,24:2:S,512:8:0x200")  # given up: the table stays
    _pool(s, "S", 0)
    _pool(s, "S", 256)
    _populate(s, "S", "0x400", 9)
    _pool(s, "S", 0)
    _populate(s, "S", "0x405")
    _pool(s, "S", 0)
    _pool(s, "S", 64)
    _populate(s, "S", "0x405")
    _pool(s, "S", 0)
    s.do("rmdom", n="S")
    s.do("mkdom", n="S", kind="pvh")
    _pool(s, "S", 0)
    for space, index in ((0, "0"), (1, "0"), (2, "S/5")):
        memory(s, "S", 7, f"0:2:SELF,2:2:0,4:4:{space},8:8:{index},16:8:0x900")
        s.count("S")
    s.grant("A", 4, "S", "A/4", 1)
    words = "0:8:f.0x900,8:4:2,12:4:4,16:2:A,18:2:0x7fff"
    for _ in range(2):
        s.hypercall("S", GRANT_TABLE_OP, words, "st:18:2:s,h:20:4:V", "A:4", a1=0, a2="arg", a3=1)
        s.hypercall("S", GRANT_TABLE_OP, "0:8:f.0x900,16:4:$h,20:2:0x7fff", "st:20:2:s", "A:4", a1=1, a2="arg", a3=1)
        _pool(s, "S")
        _pool(s, "S", 20)
    memory(s, "S", 6, "0:8:arg+512,8:8:1,16:4:0,24:2:SELF,512:8:0x900")
    s.count("S")
    memory(s, "S", 15, "0:2:SELF,8:8:0xb00")
    s.do("ge", "S:12", d="S", ref=12, flags=2, dom="B", pg="0x40000000")
    _pool(s, "S", 0)
    s.hypercall("B", 14, a1="v.60", a2="0", a3=2)
    s.hypercall("B", GRANT_TABLE_OP, "0:8:B/60,8:2:S,12:4:12,16:2:0x7fff", "st:16:2:s", "S:12", a1=4, a2="arg", a3=1)
    s.count("S")
    _pool(s, "S", 0)
    s.do("rmdom", n="S")
