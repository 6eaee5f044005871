"""Corners of a translated guest's memory: ranges and batches, special pages, log-dirty mode."""

from __future__ import annotations

from tests.xen.corners.forms import UNMAPPED, domctl, memory
from tests.xen.workload.script import GRANT_TABLE_OP, NOBODY, Script


def physmap(s: Script) -> None:
    """Ranges and batches in a translated guest's memory; each list where it cannot be read; special pages moved about."""
    name = "K"
    s.count(name)

    def add(space: int, idx: str, gfn: str, count: int = 0) -> None:
        memory(s, "d0", 7, f"0:2:{name},2:2:{count},4:4:{space},8:8:{idx},16:8:{gfn}")
        s.count(name)

    def batch(
        idxs: str, gfns: str, errs: str, count: int, words: str, space: int = 2, op: str = "23", foreign: str = "0"
    ) -> None:
        memory(
            s,
            "d0",
            op,
            f"0:2:{name},2:2:{space},4:2:{count},6:2:{foreign},8:8:{idxs},16:8:{gfns},24:8:{errs},{words},768:4:0x77:4:4",
            "e0:768:4:s,e1:772:4:s,e2:776:4:s",
        )
        s.count(name)

    for i in range(4):
        s.do("pwr", pg=f"{name}/{i}", off=8, v=0x100 + i)
    add(3, "0", "70", 2)
    add(3, "2", "80", 0)
    add(3, "2", "80", 1)
    add(3, "62", "90", 3)
    add(3, "4", "4", 2)
    memory(s, "d0", "7+128", f"0:2:{name},2:2:1,4:4:3,8:8:5,16:8:85")
    memory(s, "d0", "7+64", f"0:2:{name},2:2:3,4:4:3,8:8:5,16:8:85")
    s.count(name)
    add(0, "0", "100")
    add(0, "0", "101")
    add(1, "0", "102")
    add(1, "0", "103")
    add(1, "1", "102")
    add(1, "0x80000000", "104")
    add(2, "102", "105")
    add(2, "103", "6")
    add(2, "7", "102")
    add(2, "8", "8")
    add(2, "200", "9")
    add(0, "0", "10")
    add(2, "0xffffffffffffffff", "11")
    add(2, "11", "0xffffffffffffffff")
    add(2, "11", "0xfffffffff")
    add(2, "12", "0x1000000000")
    add(5, "12", "110")
    lists = "512:8:13,520:8:14,528:8:15,640:8:120,648:8:121,656:8:122"
    batch("arg+512", "arg+640", "arg+768", 3, lists)
    batch("arg+512", "arg+640", "arg+768", 3, "512:8:16,520:8:200,528:8:17,640:8:123,648:8:124,656:8:125")
    batch(UNMAPPED, "arg+640", "arg+768", 3, lists)
    batch("arg+512", UNMAPPED, "arg+768", 3, lists)
    batch("arg+512", "arg+640", UNMAPPED, 3, "512:8:18,640:8:126")
    for bad in ("0xffff830000000000", "0x800000000000"):
        batch(bad, "arg+640", "arg+768", 3, lists)
        batch("arg+512", bad, "arg+768", 3, lists)
        batch("arg+512", "arg+640", bad, 3, lists)
        batch(bad, bad, bad, 0, lists)
    batch("arg+512", "arg+640", "arg+768", 0, lists)
    batch("arg+512", "arg+640", "arg+768", 2, "512:8:19,520:8:20,640:8:127,648:8:128", op="23+64")
    batch("arg+512", "arg+640", "arg+768", 2, lists, op="23+128")
    batch("arg+512", "arg+640", "arg+768", 2, lists, op="23+192")
    batch("arg+512", "arg+640", "arg+768", 1, lists, space=5, foreign="1")
    batch("arg+512", "arg+640", "arg+768", 1, lists, space=4, foreign="A")
    batch("arg+512", "arg+640", "arg+768", 1, lists, space=3)
    for gfn in ("70", "70", "100", "101", "104", "300", "0xffffffffffffffff"):
        memory(s, "d0", 15, f"0:2:{name},8:8:{gfn}")
        s.count(name)
    for gfn in ("10", "103", "120"):
        memory(s, "d0", 1, f"0:8:arg+512,8:8:1,24:2:{name},512:8:{gfn}")
        s.count(name)
    memory(s, "d0", 14, f"0:2:{name}", nor=1)


def log_dirty(s: Script) -> None:
    """Log-dirty mode of a translated guest, whose pages Dom0 copies to; refused for others."""

    def shadow(dom: str, op: int, pages: int = 64, at: str = "arg+512", mode: int = 0) -> None:
        domctl(
            s,
            10,
            dom,
            f"16:4:{op},20:4:{mode},32:8:{at},40:8:{pages},512:8:0x5555555555555555:2:8",
            "bits:512:8,n:40:8,dirty:52:4,after:520:8",
        )

    for dom in ("A", "d0", NOBODY):
        for op in (0, 1, 2, 11, 12, 3, 99):
            shadow(dom, op)
    for op in (0, 11, 12, 2, 2, 99):
        shadow("H", op)
    for i, page in enumerate((3, 9, 40)):
        copy = f"0:8:A/{i},8:2:SELF,16:8:{20 + i},24:2:H,32:2:64,34:2:2,36:2:0x7fff"
        s.do("ge", d="H", ref=20 + i, flags=1, dom="A", pg=f"H/{page}")
        s.hypercall("A", GRANT_TABLE_OP, copy, "st:36:2:s", a1=5, a2="arg", a3=1)
        for op in (12, 11) if i else (12, 12):
            shadow("H", op)
    for pages, at in (
        (10, "arg+512"),
        (9, "arg+512"),
        (4, "arg+512"),
        (200, "arg+512"),
        (64, UNMAPPED),
        (64, "0"),
        (0, "0"),
    ):
        shadow("H", 12, pages=pages, at=at)
    shadow("H", 11)
    shadow("H", 12, mode=2)
    shadow("H", 0)
    shadow("H", 0)
