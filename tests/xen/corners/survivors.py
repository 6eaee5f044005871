"""Corners that random faults of the implementation survived, until these calls noticed them.

Contents: a failed set-up of a vCPU, what exchange writes where, handles that one vCPU takes from another, ranges that go on,
status words of event channels, the end of the argument block. Not here: faults that no caller can see.
"""

from __future__ import annotations

from typing import Any

from tests.xen.corners.forms import SELF_ONLY, domctl, memory, unmap_page
from tests.xen.workload.script import AGENT_ENTRY, EVENT_CHANNEL_OP, GRANT_TABLE_OP, UPDATE_VA_MAPPING, Script

VCPU_OP, INITIALISE, UP = 24, 0, 1
STACK = {1: 13 * 4096, 2: 14 * 4096}  # as Script has them


def _context(vcpu: int, root: str = "f.M/l4", more: str = "") -> str:
    at = {512: 4, 632: vcpu, 648: AGENT_ENTRY, 656: "0xe033", 664: "0x200", 672: STACK[vcpu], 680: "0xe02b",
          4968: "0xe02b", 4976: STACK[vcpu], 5008: root}  # fmt: skip
    return "0:5168:0," + ",".join(f"{place}:8:{value}" for place, value in at.items()) + more


def _map(s: Script, by: str, slot: int, ref: int, granter: str, handle: str, **more: Any) -> None:
    words = f"0:8:w.{slot},8:4:2,12:4:{ref},16:2:{granter},18:2:0x7fff"
    s.hypercall(by, GRANT_TABLE_OP, words, f"st:18:2:s,{handle}:20:4:V", a1=0, a2="arg", a3=1, **more)


def _unmap(s: Script, by: str, slot: int, handle: str, **more: Any) -> None:
    words = f"0:8:w.{slot},16:4:${handle},20:2:0x7fff"
    s.hypercall(by, GRANT_TABLE_OP, words, "st:20:2:s", a1=1, a2="arg", a3=1, **more)


def _set_up_fails(s: Script) -> None:
    """A descriptor table is taken, then the root is refused: the table's page may be written again."""
    unmap_page(s, "M", 9)
    s.do("x", by="M", w="p9.0:4096:0")
    for root in ("f.M/8", "0", "f.A/l4", "f.M/l1"):
        words = _context(1, root, ",4960:8:512,4832:8:M/9")
        s.hypercall("M", VCPU_OP, words, a1=INITIALISE, a2=1, a3="arg")
        s.hypercall("M", UPDATE_VA_MAPPING, a1="v.9", a2="f.M/9+0x67", a3=2)
        unmap_page(s, "M", 9)
    s.hypercall("M", VCPU_OP, _context(1, "f.M/l4", ",4960:8:512,4832:8:M/9"), a1=INITIALISE, a2=1, a3="arg")
    s.hypercall("M", UPDATE_VA_MAPPING, a1="v.9", a2="f.M/9+0x67", a3=2)
    s.hypercall("M", VCPU_OP, _context(2), a1=INITIALISE, a2=2, a3="arg")
    for vcpu in (1, 2):
        s.hypercall("M", VCPU_OP, a1=UP, a2=vcpu)


def _handles(s: Script) -> None:
    """One frame of handles for three vCPUs: who has none takes two from another, one of them for its list's end."""
    for ref in range(8, 16):
        s.do("ge", f"A:{ref}", d="A", ref=ref, flags=1, dom="M", pg=f"A/{ref}")
    _map(s, "M", 0, 8, "A", "h0", vcpu=0)
    _map(s, "M", 1, 9, "A", "h1", vcpu=1)
    _map(s, "M", 2, 10, "A", "h2", vcpu=2)
    _map(s, "M", 3, 11, "A", "h3", vcpu=1)
    for slot, handle, vcpu in ((1, "h1", 0), (3, "h3", 2), (0, "h0", 1)):
        _unmap(s, "M", slot, handle, vcpu=vcpu)
    _map(s, "M", 1, 9, "A", "h1", vcpu=1)
    _map(s, "M", 3, 11, "A", "h3", vcpu=1)
    _map(s, "M", 0, 8, "A", "h0", vcpu=0)
    # The first vCPU uses its list up and takes free ones of one other vCPU, of the last one then, until nothing is left.
    for ref in (12, 13):
        words = f"8:4:2,12:4:{ref},16:2:A,0:8:w.20"
        s.hypercall("M", GRANT_TABLE_OP, words, "st:18:2:s,h:20:4", a1=0, a2="arg", a3=1, rep=121, vcpu=0)
    for slot, handle, vcpu in ((3, "h3", 0), (1, "h1", 0)):
        _unmap(s, "M", slot, handle, vcpu=vcpu)
    for turn in range(14):
        _map(s, "M", 21, 14, "A", f"n{turn}", vcpu=0)
    _unmap(s, "M", 2, "h2", vcpu=0)
    for turn, vcpu in enumerate((1, 0, 2, 1)):
        _map(s, "M", 22, 14, "A", f"o{turn}", vcpu=vcpu)
    _unmap(s, "M", 21, "n0", vcpu=2)
    for turn, vcpu in enumerate((2, 0, 1)):
        _map(s, "M", 23, 14, "A", f"p{turn}", vcpu=vcpu)


def _traded(s: Script) -> None:
    """Each new frame is written into the list at its place: all of them can be mapped afterwards."""
    unmap_page(s, "B", *range(28, 44))
    given = ",".join(f"{256 + 8 * i}:8:B/{28 + i}" for i in range(4))
    wanted = ",".join(f"{512 + 8 * i}:8:{0x50 + i}" for i in range(4))
    reads = ",".join(f"x{i}:{512 + 8 * i}:8:v" for i in range(5))
    lists = f"0:8:arg+256,8:8:4,24:2:SELF,32:8:arg+512,40:8:4,56:2:SELF,{given},{wanted}"
    memory(s, "B", 11, lists, f"done:64:8,{reads},left:544:8")
    for i in range(4):
        s.hypercall("B", UPDATE_VA_MAPPING, a1=f"v.{28 + i}", a2=f"f.$x{i}+0x67", a3=2)
    memory(s, "B", 0, f"0:8:arg+512,8:8:1,16:4:2,{SELF_ONLY}", "y:512:8:v")
    wanted = ",".join(f"{512 + 8 * i}:8:{0x60 + i}" for i in range(4))
    large = f"0:8:arg+256,8:8:1,16:4:2,24:2:SELF,32:8:arg+512,40:8:4,56:2:SELF,256:8:$y,{wanted}"
    memory(s, "B", 11, large, f"done:64:8,{reads},left:544:8")
    for i in range(4):
        s.hypercall("B", UPDATE_VA_MAPPING, a1=f"v.{32 + i}", a2=f"f.$x{i}+0x67", a3=2)
    memory(s, "B", 0, f"0:8:arg+512,8:8:2,16:4:1,{SELF_ONLY}", "z0:512:8:v,z1:520:8:v")
    large = f"0:8:arg+256,8:8:2,16:4:1,24:2:SELF,32:8:arg+512,40:8:4,56:2:SELF,256:8:$z0,264:8:$z1,{wanted}"
    memory(s, "B", 11, large, f"done:64:8,{reads},left:544:8")
    for i in range(4):
        s.hypercall("B", UPDATE_VA_MAPPING, a1=f"v.{36 + i}", a2=f"f.$x{i}+0x67", a3=2)
    s.count("B")
    for gfn in ("200", "63", "0x1000000000"):  # a hole of a translated guest, and a page of it
        memory(s, "d0", 11, f"0:8:arg+256,8:8:1,24:2:H,32:8:arg+512,40:8:1,56:2:H,256:8:{gfn},512:8:5", "done:64:8")


def _ranges(s: Script) -> None:
    """A range moves page by page, and stops where it cannot go on: what was moved by then stays."""
    for first, to, many in ((0, 100, 4), (62, 110, 4), (8, 120, 1), (10, 62, 4), (20, 130, 0), (200, 140, 2)):
        memory(s, "d0", 7, f"0:2:K,2:2:{many},4:4:3,8:8:{first},16:8:{to}")
        for gfn in (first, first + many - 1, to, to + 1, to + many - 1, to + many):
            s.hypercall("d0", 34, f"0:2:K,8:8:{gfn}", "t:2:2", a1=15, a2="arg")
        s.count("K")
    for many, done in ((4, 1), (4, 2), (4, 4), (4, 5), (2, 3)):
        memory(s, "d0", 7 + (done << 6), f"0:2:K,2:2:{many},4:4:3,8:8:30,16:8:150")
        for gfn in (30, 31, 32, 33, 34, 35, 150, 151, 152, 153, 154, 155):
            s.hypercall("d0", 34, f"0:2:K,8:8:{gfn}", "t:2:2", a1=15, a2="arg")


def _asked(s: Script) -> None:
    """Status of ports in each state: words that do not apply stay as they were, all others are written."""
    filled = "8:4:0x77,12:4:0x77,16:4:0x77,20:4:0x77"
    s.hypercall("A", EVENT_CHANNEL_OP, "0:2:SELF,2:2:B", "u:4:4:V", a1=6, a2="arg")
    s.hypercall("A", EVENT_CHANNEL_OP, "0:4:0", "i:4:4:V", a1=7, a2="arg")
    s.hypercall("A", EVENT_CHANNEL_OP, "0:4:1,4:4:0", "v:8:4:V", a1=1, a2="arg")
    for port in ("$u", "$i", "$v", "60", "0", "3", "4095"):
        told = "st:8:4,on:12:4,x:16:4,y:20:4" if port != "3" else "st:8:4,on:12:4"
        s.hypercall("A", EVENT_CHANNEL_OP, f"0:2:SELF,4:4:{port},{filled}", told, a1=5, a2="arg")
        s.hypercall("d0", EVENT_CHANNEL_OP, f"0:2:A,4:4:{port},{filled}", told, a1=5, a2="arg")
    s.hypercall("B", EVENT_CHANNEL_OP, "0:2:A,4:4:$u", "b:8:4:V", a1=0, a2="arg")
    s.hypercall("B", EVENT_CHANNEL_OP, f"0:2:SELF,4:4:$b,{filled}", "st:8:4,on:12:4,x:16:2,y:20:4", a1=5, a2="arg")


def _unaligned(s: Script) -> None:
    """Arguments at odd addresses, and lists of them: Xen reads them wherever they are."""
    for ref in (16, 17):
        s.do("ge", f"A:{ref}", d="A", ref=ref, flags=1, dom="B", pg=f"A/{ref - 8}")
    for at in (1, 2, 3, 5, 7, 513):
        maps = ",".join(
            f"{at + 32 * i}:8:w.{50 + i},{at + 32 * i + 8}:4:2,{at + 32 * i + 12}:4:{16 + i},{at + 32 * i + 16}:2:A,"
            f"{at + 32 * i + 18}:2:0x7fff"
            for i in range(2)
        )
        reads = ",".join(f"st{i}:{at + 32 * i + 18}:2:s,a{i}:{at + 32 * i + 20}:4:V" for i in range(2))
        s.hypercall("B", GRANT_TABLE_OP, maps, reads, "A:16+A:17", a1=0, a2=f"arg+{at}", a3=2)
        ends = ",".join(
            f"{at + 24 * i}:8:w.{50 + i},{at + 24 * i + 16}:4:$a{i},{at + 24 * i + 20}:2:0x7fff" for i in range(2)
        )
        reads = ",".join(f"st{i}:{at + 24 * i + 20}:2:s" for i in range(2))
        s.hypercall("B", GRANT_TABLE_OP, ends, reads, "A:16+A:17", a1=1, a2=f"arg+{at}", a3=2)
        copy = f"{at}:8:16,{at + 8}:2:A,{at + 16}:8:B/3,{at + 24}:2:SELF,{at + 32}:2:64,{at + 34}:2:1,{at + 36}:2:0x7fff"
        s.hypercall("B", GRANT_TABLE_OP, copy, f"st:{at + 36}:2:s", a1=5, a2=f"arg+{at}", a3=1)
        s.hypercall("B", EVENT_CHANNEL_OP, f"{at}:2:SELF,{at + 2}:2:A", f"p:{at + 4}:4:V", a1=6, a2=f"arg+{at}")
        s.hypercall("B", EVENT_CHANNEL_OP, f"{at}:4:$p", a1=3, a2=f"arg+{at}")
        memory(s, "B", 3, f"{at}:2:SELF", nor=1, a2=f"arg+{at}")
        s.hypercall("B", 1, f"{at}:8:t.40,{at + 8}:8:f.B/3+0x65", a1=f"arg+{at}", a2=1, a3=0, a4="SELF")
        s.hypercall("B", 26, f"{at}:4:9,{at + 8}:8:v.3", a1=f"arg+{at}", a2=1, a3=0, a4="SELF")
        s.hypercall("d0", 36, f"{at}:4:5,{at + 4}:4:0x15,{at + 8}:2:B", f"dom:{at + 16}:2", a1=f"arg+{at}")


def _never_written(s: Script) -> None:
    """A page that nobody has written yet, as a table of descriptors; and nodes of a guest of three vCPUs."""
    memory(s, "A", 0, f"0:8:arg+512,8:8:1,{SELF_ONLY}", "new:512:8:v")
    for entries in (512, 0, 1):
        s.hypercall("A", 2, "0:8:$new", a1="arg", a2=entries)
    nodes = "16:4:1,20:4:1,24:4:3,32:8:arg+512,40:8:arg+520,48:8:arg+540,56:8:arg+560,512:4:10,560:8:0,568:8:0x1000000"
    domctl(s, 74, "M", nodes)
    for room in ("4:4:1,8:4:3,12:4:1", "4:4:1,8:4:2,12:4:1", "4:4:4,8:4:4,12:4:4"):
        lists = "16:8:arg+1024,24:8:arg+1040,32:8:arg+1060"
        told = "n:4:4,v:8:4,r:12:4,d:1024:4,v0:1040:8,v2:1048:4,m0:1060:8,m1:1068:8"
        s.hypercall("d0", 12, f"0:2:M,{room},{lists}", told, a1=26, a2="arg")


def survivors(s: Script) -> None:
    """All of them, with a guest of three vCPUs and one frame of handles."""
    s.do("mkdom", n="M", kind="agent", vcpus=3, maptrack=1)
    s.do("pfill", d="M")
    domctl(s, 5, "M", "", "on:80:4,last:84:4")
    _never_written(s)
    _set_up_fails(s)
    _handles(s)
    _traded(s)
    _ranges(s)
    _asked(s)
    _unaligned(s)
    s.do("rmdom", n="M")
