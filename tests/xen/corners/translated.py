"""Corners of PVH guests that make calls: what stands at their numbers while grants come, go and lead back to them.

Contents: each hypercall that such a guest has or has not; arguments in memory of all kinds; grants over pages, holes and
each other, by a guest to itself, of pages that it maps; its physical map and the frames of its grant table. Not here:
unstarted translated domains (physmap.py).
"""

from __future__ import annotations

from tests.xen.corners.forms import memory
from tests.xen.workload.script import GRANT_TABLE_OP, PVH, Script

SLOT, AT = 20, "148"  # a window slot, and its guest frame number
HOLE = "0x500"
NUMBERS = tuple(number for number in (*range(64), 127) if number not in (6, 23, 29))


def _map(s: Script, by: str, place: str, granter: str, ref: int, flags: int = 2, name: str = "h") -> None:
    words = f"0:8:{place},8:4:{flags},12:4:{ref},16:2:{granter},18:2:0x7fff"
    s.hypercall(by, GRANT_TABLE_OP, words, f"st:18:2:s,{name}:20:4:V", f"{granter}:{ref}", a1=0, a2="arg", a3=1)


def _unmap(s: Script, by: str, place: str, name: str = "h") -> None:
    s.hypercall(by, GRANT_TABLE_OP, f"0:8:{place},16:4:${name},20:2:0x7fff", "st:20:2:s", a1=1, a2="arg", a3=1)


def _copy(s: Script, by: str, source: str, dest: str, flags: int = 0, dom: str = "SELF") -> None:
    words = f"0:8:{source},8:2:{dom},10:2:8,16:8:{dest},24:2:SELF,26:2:8,32:2:16,34:2:{flags},36:2:0x7fff"
    s.hypercall(by, GRANT_TABLE_OP, words, "st:36:2:s", a1=5, a2="arg", a3=1)


def _add(s: Script, by: str, space: int, index: str, gfn: str, many: int = 0) -> None:
    memory(s, by, 7, f"0:2:SELF,2:2:{many},4:4:{space},8:8:{index},16:8:{gfn}")
    s.count(by)


def _list(s: Script, by: str, op: int, *gfns: str, order: int = 0) -> None:
    words = ",".join(f"{512 + 8 * i}:8:{gfn}" for i, gfn in enumerate(gfns))
    memory(s, by, op, f"0:8:arg+512,8:8:{len(gfns)},16:4:{order},24:2:SELF,{words}")
    s.count(by)


def _version(s: Script, by: str, version: int) -> None:
    s.hypercall(by, GRANT_TABLE_OP, f"0:4:{version}", "v:0:4", a1=8, a2="arg", a3=1)


def _hypercalls(s: Script) -> None:
    """Which there are; then their arguments: in a hole, in a page that a grant has put there, in one that is read-only."""
    for number in NUMBERS:
        s.hypercall("P", number, a1="0xdead000", a2=1 if number != 12 else 9, a3="0xdead000", a4="0xdead000", a5="0xdead000")
    for operation in range(14):
        s.hypercall("P", GRANT_TABLE_OP, a1=operation, a2="0xdead000", a3=1)
    for command in range(34):
        if command not in (2, 14):
            memory(s, "P", command, a2="0xdead000")
    for kind in (0, 4, 5, 32):
        s.hypercall("P", 21, a1=0, a2=kind)
    for pirq in (1, 1, 55, 56, "0xffffffff"):
        s.hypercall("P", 32, f"0:4:{pirq}", "p:8:4:V", a1=2, a2="arg")
        s.hypercall("P", 32, "0:2:SELF,4:4:$p,8:4:7,12:4:7,16:4:7", "st:8:4,on:12:4,u:16:4", a1=5, a2="arg")
        s.hypercall("P", 32, "0:4:$p", a1=4, a2="arg")
    s.hypercall("P", 32, "0:4:$p", a1=3, a2="arg")
    s.hypercall("P", 17, "0:4:0", "x:4:4", a1=6, a2="arg")
    for by in ("A", "P"):
        for operation, words, place in (
            (5, "", "0"),
            (24, "", "0"),
            (24, "", "arg"),
            (23, "0:4:0,4:4:15", "arg"),
            (23, "0:4:0,4:4:16", "arg"),
            (23, "0:4:1,4:4:16", "arg"),
            (23, "", "0xdead000"),
            (25, "", "0"),
        ):
            s.hypercall(by, 34, words, a1=operation, a2=place)
    for index in range(41):
        for value in ("0", "1", "0x6800000000"):
            if (index, value) != (15, "0x6800000000") and (index != 37 or value == "0x6800000000"):
                s.hypercall("P", 34, f"0:2:SELF,4:4:{index},8:8:{value}", a1=0, a2="arg")
        s.hypercall("P", 34, f"0:2:SELF,4:4:{index},8:8:77", "v:8:8", a1=1, a2="arg")
    s.do("ge", "A:8", d="A", ref=8, flags=1, dom="P", pg="A/3")
    memory(s, "P", 15, "0:2:SELF,8:8:P/5")
    _map(s, "P", f"w.{SLOT}", "A", 8)
    for place in ("v.5", f"w.{SLOT}", "v.6", f"v.4+{4096 - 8}", f"w.{SLOT - 1}+{4096 - 2}", "0x300000"):
        s.hypercall("P", 17, a1=2, a2=place)
        memory(s, "P", 3, a2=place, nor=1)
    for where in ({"pg": 5}, {"slot": SLOT}, {"pg": 6}, {"pg": 0x300 - 0x40}, {"pg": 1 << 20}):
        s.do("rd", by="P", off=8, **where)
        if "pg" not in where or where["pg"] != 0x300 - 0x40:
            s.do("wr", by="P", off=8, v=77, **where)
            s.do("rd", by="P", off=8, **where)
    s.do("prd", pg="A/3", off=8)
    _unmap(s, "P", f"w.{SLOT}")
    s.do("rd", by="P", off=8, slot=SLOT)


def _mapped(s: Script, granter: str, ref: int, flags: int) -> None:
    """All that can be done with a number where a grant is."""
    s.do("ge", f"{granter}:{ref}", d=granter, ref=ref, flags=1 | flags & 4, dom="P", pg=f"{granter}/{ref}")
    s.count("P")
    _map(s, "P", f"w.{SLOT}", granter, ref, flags)
    s.count("P")
    s.do("rd", by="P", off=8, slot=SLOT)
    s.do("wr", by="P", off=8, v=78, slot=SLOT)
    s.do("prd", pg=f"{granter}/{ref}", off=8)
    _copy(s, "P", "P/1", AT)
    _copy(s, "P", AT, "P/2")
    s.do("pcrc", pg="P/2")
    for user, own in (("B", 40), ("Q", 41)):
        s.do("ge", d="P", ref=own, flags=1, dom=user, pg=AT)
        _map(s, user, "w.21", "P", own, name="u")
        _copy(s, user, str(own), f"{user}/1", 1, "P")
        _unmap(s, user, "w.21", "u")
    s.hypercall("P", 34, f"0:2:SELF,8:8:{AT}", "t:2:2", a1=15, a2="arg")
    _add(s, "P", 2, AT, "0x70")
    s.do("prd", pg="P/48", off=8)
    memory(s, "P", 15, f"0:2:SELF,8:8:{AT}")
    s.do("rd", by="P", off=8, slot=SLOT)
    _unmap(s, "P", f"w.{SLOT + 1}")
    _unmap(s, "P", f"w.{SLOT}+8" if flags & 4 else f"w.{SLOT}")
    _unmap(s, "P", f"w.{SLOT}")
    s.do("rd", by="P", off=8, slot=SLOT)
    s.count("P")


def _to_itself(s: Script) -> None:
    """A page that its owner maps leaves its number: given up there, it is gone; mapped where it was; mapped nowhere."""
    s.do("ge", d="P", ref=12, flags=1, dom="P", pg="P/12")
    _map(s, "P", f"w.{SLOT}", "P", 12)
    _list(s, "P", 1, AT)
    _unmap(s, "P", f"w.{SLOT}")
    s.do("ge", d="P", ref=13, flags=1, dom="P", pg="P/13")
    _map(s, "P", "v.13", "P", 13)
    _unmap(s, "P", "v.13")
    s.do("rd", by="P", off=8, pg=13)
    s.do("ge", d="P", ref=14, flags=1, dom="P", pg="P/14")
    for place in ("f.0x1000000000", "0xffff800000000000"):
        _map(s, "P", place, "P", 14)
        s.do("pcrc", pg="P/14")
    s.count("P")


def _frames(s: Script) -> None:
    """Frames of the grant table at numbers: over pages, given up, moved, with each version; setup_table tells numbers."""
    _add(s, "P", 1, "0", "P/30")
    s.hypercall("P", GRANT_TABLE_OP, "0:2:SELF,4:4:2,16:8:arg+512", "st:8:2:s,f0:512:8:m,f1:520:8:m", a1=2, a2="arg", a3=1)
    _add(s, "P", 1, "0", "P/31")
    _add(s, "P", 1, "0x80000000", "P/32")
    _add(s, "P", 1, "8", "P/32")
    s.do("pcrc", pg="P/31")
    memory(s, "P", 15, "0:2:SELF,8:8:P/31")
    _add(s, "P", 1, "0", "P/33")
    _list(s, "P", 6, "P/33", "P/34")
    _add(s, "P", 2, "P/35", "P/33")
    _version(s, "P", 2)
    _add(s, "P", 1, "0x80000000", "P/36")
    _add(s, "P", 1, "0x80000000", "P/37")
    _add(s, "P", 1, "0x80000001", "P/38")
    _version(s, "P", 1)
    s.do("rd", by="P", off=8, pg=37)
    _version(s, "P", 2)
    _add(s, "P", 1, "0x80000000", "P/39")
    _list(s, "P", 1, "P/39")
    _add(s, "P", 1, "0x80000000", "P/39")
    s.do("show", "P:9")
    _version(s, "P", 1)
    _add(s, "P", 1, "1", "P/40")
    _list(s, "P", 1, "P/40")
    _add(s, "P", 1, "1", "P/40")
    _add(s, "P", 0, "0", "P/41")
    s.do("pend", by="P", p=1)
    _add(s, "P", 0, "0", "48")
    s.do("pend", by="P", p=1)
    for gfn in (HOLE, "0xfffffffff", "0x1000000000", "0xffffffffffffffff"):
        for space, index in ((1, "2"), (2, "P/42"), (0, "0")):
            _add(s, "P", space, index, gfn)
    _add(s, "P", 0, "0", "48")
    s.do("pend", by="P", p=1)


def _reserved(s: Script) -> None:
    """Pages that come over others, extents, pages given up twice; then what crashes the guest: a page over a grant."""
    for gfn in ("P/44", HOLE, "0x1000000000"):
        _list(s, "P", 6, gfn)
        _list(s, "P", 1, gfn, gfn)
    _list(s, "P", 0, "0")
    _list(s, "P", 6, "P/45", order=1)
    _add(s, "P", 3, "P/45", "P/50", 2)
    memory(s, "P", 11, "0:8:arg+256,8:8:1,24:2:SELF,32:8:arg+264,40:8:1,56:2:SELF,256:8:P/51,264:8:5", "done:64:8")
    s.do("ge", d="A", ref=9, flags=1, dom="P", pg="A/9")
    s.do("ge", d="A", ref=9, flags=1, dom="Q", pg="A/9")
    _map(s, "Q", f"w.{SLOT}", "A", 9, name="q")
    _list(s, "Q", 6, "147", order=1)
    s.do("rd", by="Q", off=8, slot=SLOT)
    s.do("rmdom", "A:9", n="Q")
    s.do("mkdom", n="Q", kind="pvh")
    s.do("ge", d="A", ref=9, flags=1, dom="Q", pg="A/9")
    _map(s, "Q", f"w.{SLOT}", "A", 9, name="q")
    words = "0:8:w.20,8:4:2,12:4:9,16:2:A,18:2:0x7fff,32:8:w.22,40:4:2,44:4:9,48:2:A,50:2:0x7fff"
    s.hypercall("Q", GRANT_TABLE_OP, words, "st0:18:2:s,st1:50:2:s", "A:9", a1=0, a2="arg", a3=2)
    s.do("rmdom", "A:9", n="Q")
    for index, value in ((15, "0x100000000"), (37, "0x6700000000")):  # absurd segments crash who sets them
        s.do("mkdom", n="Q", kind="pvh")
        s.hypercall("Q", 34, f"0:2:SELF,4:4:{index},8:8:{value}", a1=0, a2="arg")
        s.do("rmdom", n="Q")
    s.do("mkdom", n="Q", kind="pvh")


def given(s: Script) -> None:
    """Transfers to a PVH guest, at a number of its own page, of nothing, a page of Xen's, a grant; beyond all numbers."""
    for version in (1, 2):
        for at in ("P/3", HOLE, "0x600", AT, "0x1000000000", "0xffffffff"):
            s.make("P", translated=True)
            _version(s, "P", version)
            _add(s, "P", 0, "0", "0x600")
            s.grant("A", 4, "P", "A/4", 1)
            _map(s, "P", f"w.{SLOT}", "A", 4)
            s.do("ge", "P:12", d="P", ref=12, flags=2, dom="B", pg=at)
            page = s.spare("B", range(17, 60))[0]
            s.hypercall("B", 14, a1=f"v.{page}", a2="0", a3=2)
            s.hypercall(
                "B", GRANT_TABLE_OP, f"0:8:B/{page},8:2:P,12:4:12,16:2:0x7fff", "st:16:2:s", "P:12", a1=4, a2="arg", a3=1
            )
            for name in ("P", "B"):
                s.count(name)
            s.do("x", "P:12", by="d0", nr=36, w="0:4:5,4:4:0x15,8:2:P", o="flags:20:4", a1="arg")
            s.do("rd", by="P", pg=3, off=8)
            s.remove("P")


def translated(s: Script) -> None:
    """All of them."""
    for name in PVH:
        s.make(name, translated=True)
    _hypercalls(s)
    for granter, ref, flags in (("A", 4, 2), ("A", 5, 6), ("P", 6, 2), ("P", 7, 6), ("Q", 8, 2), ("H", 9, 2)):
        _mapped(s, granter, ref, flags)
    _to_itself(s)
    _frames(s)
    _reserved(s)
    for name in PVH:
        s.remove(name)
