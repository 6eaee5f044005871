"""Corners of memory operations: maps told and set, claims, exchanges that fail half-way, lists that end early."""

from __future__ import annotations

from collections.abc import Sequence

from tests.xen.corners.forms import SELF_ONLY, UNMAPPED, domctl, memory, unmap_page
from tests.xen.workload.script import NOBODY, UPDATE_VA_MAPPING, Script


def memory_maps(s: Script) -> None:
    """Operations that tell or note a map of memory, with rooms and buffers of all kinds."""
    for op in (5, 9, 10, 12, 13, 16, 17, 18, 19, 21, 25, 26, 27):
        for by in ("A", "d0"):
            memory(s, by, op, a2=UNMAPPED)
            memory(s, by, op | 1 << 6, "0:8:0x7ff0")
    for op in (0, 1, 3, 4, 6, 7, 11, 14, 15, 23, 24, 28):
        for by in ("A", "d0"):
            memory(s, by, op, a2=UNMAPPED)
    memory(s, "d0", 10, "0:4:200,8:8:arg+1024")
    for most, at in ((0, "arg+512"), (1, UNMAPPED), (1, "arg+512")):
        memory(s, "A", 5, f"0:4:{most},8:8:{at}", "n:16:4,first:512:8:v")
    entry = "512:8:0,520:8:0x100000,528:4:1,532:8:0x100000,540:8:0x200000,548:4:2"
    for by, dom in (("d0", "A"), ("d0", "H"), ("A", "SELF"), ("A", "B"), ("A", NOBODY), ("d0", NOBODY), ("d0", "B")):
        for count, at in (
            (2, "arg+512"),
            (1025, "arg+512"),
            (2, UNMAPPED),
            (1024, "arg+512") if by == "d0" else (1, "arg+512"),
        ):
            memory(s, by, 13, f"0:2:{dom},8:4:{count},16:8:{at},{entry}")
    memory(s, "d0", 13, f"0:2:A,8:4:2,16:8:arg+512,{entry}")
    memory(s, "d0", 13, f"0:2:B,8:4:1,16:8:arg+512,{entry}")
    read = ",".join(f"w{i}:{512 + 4 * i}:4" for i in range(11))
    for by in ("A", "B", "C"):
        for room, at in ((0, "arg+512"), (1, "arg+512"), (2, "arg+512"), (9, "arg+512"), (9, "0"), (9, UNMAPPED)):
            memory(s, by, 9, f"0:4:{room},8:8:{at},512:8:0x7777777777777777:6:8", f"n:0:4,{read}")
    for room, at in ((0, "arg+512"), (1, "arg+512"), (1, UNMAPPED), (100, UNMAPPED)):
        memory(s, "d0", 10, f"0:4:{room},8:8:{at}")
    memory(s, "A", 10, "0:4:100,8:8:arg+512")
    for by, dom in (("d0", "H"), ("d0", "A"), ("A", "H"), ("A", "SELF"), ("d0", NOBODY), ("A", NOBODY), ("A", "B")):
        for target in ("0", "0x100000000"):
            memory(s, by, 16, f"0:8:{target},8:8:0x77,16:8:0x77,24:8:0x77,32:2:{dom}", "cache:16:8,entries:24:8")
        memory(s, by, 17, f"8:8:0x77,16:8:0x77,24:8:0x77,32:2:{dom}", "cache:16:8,entries:24:8")
    for by, dom in (
        ("d0", "H"),
        ("d0", "A"),
        ("d0", "d0"),
        ("A", "H"),
        ("A", "SELF"),
        ("A", "A"),
        ("d0", NOBODY),
        ("A", "B"),
    ):
        memory(s, by, 21, f"0:1:0,1:1:0,2:2:{dom},4:4:1,8:8:0")
        memory(s, by, 26, f"0:2:{dom}")
        memory(s, by, 26, f"0:2:{dom},2:2:1")
    for flags, count, at in ((0, 0, "0"), (1, 0, "0"), (2, 0, "0"), (1, 4, "arg+512"), (0, 4, "0xffff830000000000")):
        memory(s, "A", 27, f"0:4:{flags},4:4:{count},8:8:{at}", "n:4:4")
    memory(s, "d0", 2, nor=1)
    memory(s, "A", 2, nor=1)
    memory(s, "A", 2 | 1 << 6)


def claims(s: Script) -> None:
    """Claims: one at a time, used up by allocations, cancelled, beyond the limit and beyond what is free."""
    domctl(s, 11, "A", "16:8:k.$cur.A+400")

    def claim(pages: str, by: str = "d0", dom: str = "A", words: str = "16:4:0,20:4:0") -> None:
        memory(s, by, 24, f"0:8:0,8:8:{pages},{words},24:2:{dom}")
        domctl(s, 5, "A", "", "claimed:40:8,dom:16:2")

    def take(count: int) -> None:
        memory(s, "A", 0, f"0:8:arg+512,8:8:{count},{SELF_ONLY}")
        s.count("A")
        domctl(s, 5, "A", "", "claimed:40:8")

    s.count("A")
    claim("$cur.A")
    claim("$cur.A+1")
    claim("$cur.A+1")
    take(1)
    take(1)
    s.count("A")
    claim("$cur.A+3")
    claim("$cur.A+3")
    take(2)
    claim("0")
    take(1)
    claim("$cur.A+5")
    memory(s, "A", 0, f"0:8:arg+512,8:8:1,16:4:2,{SELF_ONLY}")
    domctl(s, 5, "A", "", "claimed:40:8")
    claim("0")
    claim("0x7fffffff")
    domctl(s, 11, "A", "16:8:0x40000000000")
    claim("0x7fffffff")
    claim("0x7fffffff", by="A")
    claim("$cur.A+3", words="16:4:1,20:4:0")
    claim("$cur.A+3", words="16:4:0,20:4:1")
    claim("$cur.A+3", dom="SELF")
    claim("$cur.A+9")
    for page in (50, 51):  # given up: the claim grows
        s.hypercall("A", 14, a1=f"v.{page}", a2="0", a3=2)
        memory(s, "A", 1, f"0:8:arg+512,8:8:1,{SELF_ONLY},512:8:A/{page}")
        domctl(s, 5, "A", "", "claimed:40:8,tot:24:8")
    take(1)
    s.remove("A")
    s.make("A")
    domctl(s, 5, "A", "", "claimed:40:8")


def exchanges(s: Script) -> None:
    """Exchanges between orders, of other domains, and failures at each point, after which the pages must still be there."""
    s.count("A")

    def trade(
        given: Sequence[str], wanted: int, orders: tuple[int, int] = (0, 0), by: str = "A", dom: str = "SELF", **at: str
    ) -> None:
        words = [
            f"0:8:{at.get('inside', 'arg+256')},8:8:{len(given)},16:4:{orders[0]},20:4:{at.get('iflags', '0')},24:2:{dom}",
            f"32:8:{at.get('out', 'arg+512')},40:8:{wanted},48:4:{orders[1]},52:4:{at.get('flags', '0')},56:2:{dom}",
            f"64:8:{at.get('done', '0')}",
        ]
        words += [f"{256 + 8 * i}:8:{page}" for i, page in enumerate(given) if page]
        words += [f"{512 + 8 * i}:8:{0x50 + i}" for i in range(wanted)]
        words += [at["more"]] if "more" in at else []
        memory(s, by, 11, ",".join(words), "done:64:8")
        s.count("A")

    unmap_page(s, "A", *range(28, 44))
    s.do("pwr", pg="A/29", off=8, v=0x1234)
    for flags in ("13", "20", "12", "1", "0x20100"):  # no memory below, or no such node for a guest
        trade(("A/28", "A/29"), 2, flags=flags)
    s.do("prd", pg="A/29", off=8)
    trade(("A/37", "B/3"), 2)
    trade(("A/38", "A/3"), 2)
    trade(("A/39", "0xfffffff"), 2)
    trade(("A/40", "A/si"), 2)
    trade(("A/30",), 1, done="1")
    trade(("A/30",), 1, done="2")
    trade(("A/30", "A/31"), 2, done="1")
    trade(("A/30",), 1, flags="0x20000")
    trade(("A/32",), 1, flags="0x40000")
    trade(("A/33",), 1, iflags="0x20100")
    trade(("A/34",), 1, (0, 10))
    trade(("A/34",), 1, (10, 0))
    trade(("A/34",), 1, (0, 0), by="B", dom="A")
    trade(("A/34",), 1, (0, 0), by="d0", dom="A")
    trade(("A/35",), 1, (0, 0), by="d0", dom="B")
    trade(("0",), 1, (0, 0), by="d0", dom="H")
    trade(("A/36",), 1, (0, 0), dom=NOBODY)
    for at in ("0x7ffffffffff0", "0x7fffffffffe8", "0x7fffffffffe0"):  # where the rest of a list begins is looked at first
        for done in ("1", "2"):
            trade(("A/36", "A/36", "A/36", "A/36"), 4, dom=NOBODY, done=done, inside=at)
            trade(("A/36", "A/36", "A/36", "A/36"), 4, dom=NOBODY, done=done, out=at)
            trade(("A/36", "A/36", "A/36", "A/36"), 2, (0, 1), dom=NOBODY, done=done, out=at)
            trade(("A/36", "A/36"), 4, (1, 0), dom=NOBODY, done=done, out=at)
    # Lists that end at a page that is not mapped, or not writable.
    unmap_page(s, "A", 45, 47)
    trade(("", ""), 2, inside="v.44+4088", more="p44.4088:8:A/36")
    trade(("A/41", "A/42"), 2, out="v.46+4088", more="p46.4088:8:0x51")
    s.renew("A")
    unmap_page(s, "A", *range(28, 44))
    s.hypercall("A", UPDATE_VA_MAPPING, a1="v.46", a2="f.A/46+0x65", a3=2)
    trade(("A/38", "A/39"), 2, out="v.46+2048")
    trade(("A/28", "A/28"), 2)
    trade(("A/28",), 1, (0, 0), by="d0", dom="A", inside=UNMAPPED)
    memory(s, "A", 0, f"0:8:arg+512,8:8:1,16:4:1,{SELF_ONLY}", "x0:512:8:v")
    s.count("A")
    trade(("$x0",), 2, (1, 0))
    memory(s, "A", 0, f"0:8:arg+512,8:8:1,16:4:2,{SELF_ONLY}", "x1:512:8:v")
    s.count("A")
    trade(("$x1", "$x1+1", "$x1+2", "$x1+3"), 2, (0, 1))
    memory(s, "A", 0, f"0:8:arg+512,8:8:1,16:4:2,{SELF_ONLY}", "x2:512:8:v")
    trade(("$x2", "$x2+1", "$x2+2"), 1, (0, 1), more="520:8:A/3")
    s.renew("A")


def reservations(s: Script) -> None:
    """Lists that end early, orders, and Dom0's requests for guests of both kinds."""
    s.count("B")
    unmap_page(s, "B", 28, 29, 30, 31, 45)
    for page in (30, 31):  # still mapped by Dom0 a moment ago, and by nobody now
        s.do("prd", pg=f"B/{page}", off=8)

    def reserve(by: str, op: int | str, count: int | str, order: int, dom: str, words: str, at: str = "arg+512") -> None:
        memory(s, by, op, f"0:8:{at},8:8:{count},16:4:{order},24:2:{dom},{words}")
        s.count(dom if dom == "H" else "B")

    reserve("B", 1, 2, 0, "SELF", "p44.4088:8:B/28", "v.44+4088")
    reserve("B", 1, 3, 0, "SELF", "512:8:B/29,520:8:B/3,528:8:B/30")
    reserve("B", 1, 2, 0, "SELF", "512:8:B/30,520:8:A/3")
    reserve("B", 1, 2, 0, "SELF", "512:8:0xfffffff,520:8:B/31")
    reserve("B", "1+64", 2, 0, "SELF", "512:8:A/3,520:8:B/31")
    reserve("B", "1+128", 2, 0, "SELF", "512:8:A/3,520:8:B/31")
    reserve("B", 0, "0x4000000", 0, "SELF", "512:8:0")
    reserve("B", 6, 2, 0, "SELF", "p44.4088:8:0x51", "v.44+4088")
    reserve("B", 0, 2, 0, "SELF", "512:8:0", "0")
    reserve("B", 6, 1, 3, "SELF", "512:8:0x400")
    for op, count, order, word in (
        (6, 2, 0, "512:8:80,520:8:81"),
        (6, 1, 1, "512:8:84"),
        (6, 1, 0, "512:8:0x1000000000"),
        (6, 1, 0, "512:8:0xfffffffff"),
        (1, 2, 0, "512:8:80,520:8:200"),
        (1, 1, 1, "512:8:84"),
        (1, 1, 0, "512:8:0x7fffffffffff"),
        (0, 1, 0, "512:8:80"),
    ):
        reserve("d0", op, count, order, "H", word)
    domctl(s, 11, "H", "16:8:k.$cur.H")
    reserve("d0", 6, 1, 0, "H", "512:8:90")
    reserve("d0", 6, 1, 2, "H", "512:8:92")
    domctl(s, 11, "H", "16:8:k.$cur.H+4")
    reserve("d0", 6, 2, 0, "H", "512:8:90,520:8:91")
    domctl(s, 11, "H", "16:8:0x100000")
    reserve("d0", 6, 1, 0, NOBODY, "512:8:90")
    memory(s, "d0", 6, "0:8:arg+512,8:8:1,20:4:0x10000,24:2:B,512:8:95")
    s.count("B")
