"""Corners that no other call reached: errors of pointers behind the first, and requests that guests and tools never make.

Contents: calls for lines of the implementation that neither a campaign nor a recording ran (`python -m tests.unrun_lines`).
Not here: what needs another machine (its policy, its devices, a translated Dom0); those lines are argued there.
"""

from __future__ import annotations

from typing import Final

from tests.xen.corners.devices import BATCH_V1
from tests.xen.corners.forms import UNMAPPED, domctl, mmu
from tests.xen.workload.devices import GRANT_COPY, RESOURCE
from tests.xen.workload.script import AGENT_ENTRY, GRANT_TABLE_OP, Script

XEN_VERSION, VM_ASSIST, SET_TRAPS, CALLBACK_OP, HYPFS, HVM_OP = 17, 21, 0, 30, 42, 34
SCHED_OP, SYSCTL, PHYSDEV, PHYSDEV_OLD, XENOPROF, CONSOLE, MCA, VCPU_OP = 29, 35, 33, 19, 31, 18, 48, 24
BUILD, FEATURES = 10, 6
MONITOR_RING_FRAME: Final = 28  # a parameter of translated guests
UNBUILT: Final = "36:4:0,44:4:1,48:4:1023,52:4:8,56:4:64,60:4:2"  # createdomain: one vCPU, which is not made


def _versions(s: Script) -> None:
    """What Xen tells about itself: features with an assist, the build's identifier with too little room."""
    for by in ("A", "d0"):
        for room in (0, 1, 19, 20, 64):
            s.hypercall(by, XEN_VERSION, f"0:4:{room}", "r:r:8", a1=BUILD, a2="arg", nor=1)
        s.hypercall(by, XEN_VERSION, "0:4:64", a1=BUILD, a2=UNMAPPED)
        s.hypercall(by, XEN_VERSION, "0:4:1", a1=FEATURES, a2="arg")
    for on, kind in ((0, 3), (1, 3), (1, 3), (0, 3), (0, 99), (1, 99), (2, 3)):
        s.hypercall("B", VM_ASSIST, a1=on, a2=kind)
        s.hypercall("B", XEN_VERSION, "0:4:0", "f:4:4", a1=FEATURES, a2="arg")
    for name, size, buffer, length in (
        ("0",) * 4,
        ("arg", "0", "0", "0"),
        ("0", "1", "0", "0"),
        ("0", "0", "arg", "0"),
        ("0", "0", "0", "8"),
    ):
        s.hypercall("d0", HYPFS, a1=0, a2=name, a3=size, a4=buffer, a5=length)
    for command in (1, 2, 3, 4, 9):
        s.hypercall("d0", HYPFS, a1=command, a2=UNMAPPED, a3=2)
        s.hypercall("d0", HYPFS, "0:2:0x41", a1=command, a2="arg", a3=2)
        s.hypercall("d0", HYPFS, "0:3:0x00002f", a1=command, a2="arg", a3=3)
        s.hypercall("d0", HYPFS, a1=command, a2="arg", a3=0)
        if command > 2:  # of those that read, the answer is the host's
            for room in (0, 64):
                s.hypercall("d0", HYPFS, "0:2:0x2f", a1=command, a2="arg", a3=2, a4="arg+64", a5=room)
    for command in (2, 3, 99):
        s.hypercall("d0", CONSOLE, a1=command)
    s.hypercall("d0", CONSOLE, a1=0, a2=4, a3=UNMAPPED)
    s.hypercall("d0", MCA, a1=UNMAPPED)
    for by in ("A", "d0"):
        s.hypercall(by, XENOPROF, a1=0, a2=UNMAPPED)
        s.hypercall(by, PHYSDEV_OLD, a1=UNMAPPED)


def of_guests(s: Script) -> None:
    """Requests of a guest about itself."""
    s.hypercall("A", SET_TRAPS, a1="0")
    for kind in range(9):
        for address in ("v.0", "0x800000000000"):
            s.hypercall("A", CALLBACK_OP, f"0:2:{kind},2:2:1,8:8:{address}", a1=0, a2="arg")
        s.hypercall("A", CALLBACK_OP, f"0:2:{kind}", a1=1, a2="arg")
    s.hypercall("A", CALLBACK_OP, a1=2, a2="arg")
    s.hypercall("A", SCHED_OP, "0:4:0", a1=7, a2="arg")
    for frame in ("f.A/l2+2048", "f.A/l3+2048", "f.A/l4+8", "f.A/9+8", "f.B/9+8"):
        mmu(s, "A", (frame, "0"), owner="IO")
    for number in ("A/l1", "A/9", "B/9", "0xfffffffff"):
        s.hypercall("A", PHYSDEV, f"0:8:{number}", a1=17, a2="arg")
    s.hypercall("A", PHYSDEV, "0:4:1", a1=23, a2=UNMAPPED)
    for kind in (0, 1, 2, 4, 5):
        s.hypercall("B", PHYSDEV, f"0:4:{kind}", "i:4:4", a1=23, a2="arg", rep=40)
    for address in ("0x7fffffff000", "0x7fffffff004", "f.A/9", "f.B/l1", "t.20+4"):
        s.hypercall(
            "A", GRANT_TABLE_OP, f"0:8:{address},8:4:0x12,12:4:8,16:2:B,18:2:0x7fff", "st:18:2:s", a1=0, a2="arg", a3=1
        )


def _replaced(s: Script) -> None:
    """unmap_and_replace with entries that are not there, and of a mapping that is addressed by its entry."""
    s.do("ge", "B:9", d="B", ref=9, flags=1, dom="A", pg="B/9")
    for flags, old in ((2, "w.20"), (0x12, "t.20")):
        words = f"0:8:{old},8:4:{flags},12:4:9,16:2:B,18:2:0x7fff"
        s.hypercall("A", GRANT_TABLE_OP, words, "st:18:2:s,h:20:4:V", a1=0, a2="arg", a3=1)
        for new in ("0x7000000000", "0xdead000", "0x800000000000", "w.21"):
            s.hypercall("A", GRANT_TABLE_OP, f"0:8:{old},8:8:{new},16:4:$h", "st:20:2:s", "B:9", a1=7, a2="arg", a3=1)
        s.hypercall("A", GRANT_TABLE_OP, f"0:8:{old},16:4:$h,20:2:0x7fff", "st:20:2:s", "B:9", a1=1, a2="arg", a3=1)


def _of_the_toolstack(s: Script) -> None:
    """domctl and sysctl whose second pointer is bad, and what is told of a domain that has no vCPUs yet."""
    domctl(s, 1, "0", UNBUILT, "new:8:2:V")
    for dom in ("A", "$new"):
        domctl(s, 69, dom, "16:8:arg+512,24:4:64,512:8:0x5555", "n:512:8")
        domctl(s, 9, dom, f"20:4:3,24:8:arg+512,32:4:64,512:8:1,40:8:{UNMAPPED},48:4:64", "h:512:8")
        domctl(s, 25, dom, f"20:4:3,24:8:arg+512,32:4:64,40:8:{UNMAPPED},48:4:64", "h:512:8")
    domctl(s, 2, "$new")
    for at in range(4):
        places = [UNMAPPED if n == at else f"arg+{512 + 256 * n}" for n in range(4)]
        words = ",".join(f"{32 + 8 * n}:8:{place}" for n, place in enumerate(places))
        domctl(s, 74, "A", f"16:4:1,20:4:1,24:4:1,{words},512:4:10")
    sysctl = (
        ("1", f"16:8:{UNMAPPED},24:4:8"),  # readconsole
        ("17", f"8:4:1,16:8:{UNMAPPED}"),  # numainfo
        ("17", f"8:4:1,24:8:{UNMAPPED}"),
        ("16", f"8:4:1,16:8:{UNMAPPED}"),  # cputopoinfo
        ("6", f"8:2:0,12:4:9,16:8:{UNMAPPED}"),  # getdomaininfolist
        ("18", "8:4:4,24:4:99"),  # cpupool_op: add a processor that is not there
        ("18", "8:4:5,24:4:99"),
        ("18", f"8:4:3,32:8:{UNMAPPED},40:4:8"),
        ("18", f"8:4:7,32:8:{UNMAPPED},40:4:8"),
        ("29", f"8:4:0,12:4:99,16:4:99,24:8:{UNMAPPED},32:8:arg+1024"),  # get_cpu_policy
        ("29", f"8:4:0,12:4:1,16:4:1,24:8:{UNMAPPED},32:8:arg+1024"),
    )
    for command, words in sysctl:
        s.hypercall("d0", SYSCTL, f"0:4:{command},4:4:0x15,{words}", a1="arg")


def _listeners(s: Script) -> None:
    """The ring of the monitor, of guests that have none, or name a hole for it; and events before there is room for them."""
    for dom in ("H", "K"):
        for event in range(12):
            domctl(s, 77, dom, f"16:4:0,20:4:{event},24:4:0x10")
            domctl(s, 77, dom, f"16:4:1,20:4:{event},24:4:0x10")
        domctl(s, 56, dom, "16:4:0,20:4:2")
        s.hypercall("d0", HVM_OP, f"0:2:{dom},4:4:{MONITOR_RING_FRAME},8:8:0x7000", a1=0, a2="arg")
        domctl(s, 56, dom, "16:4:0,20:4:2")
        domctl(s, 77, dom, "16:4:0,20:4:2,24:4:0x10")
        domctl(s, 77, dom, "16:4:4,20:4:0")


def _ends(s: Script) -> None:
    """How a guest ends by itself: each way, and what is told of it afterwards."""
    ways = (
        (SCHED_OP, "0:4:1", {"a1": 2, "a2": "arg"}),
        (SCHED_OP, "0:4:0,4:4:0", {"a1": 6, "a2": "arg"}),  # a watchdog of no time
        (6, "", {"a1": 2, "a2": 3}),  # the older sched_op
        (VCPU_OP, "", {"a1": 2, "a2": 0}),  # its only vCPU goes down
    )
    s.do("sys.open", f=30, dev="evtchn", wait=1)
    for number, words, registers in ways:
        s.do("mkdom", n="L", kind="agent")
        s.hypercall("L", number, words, **registers)
        s.do("sys.wait", f=30, n=4)  # in vain: a watchdog's timer may run a little later
        s.hypercall("L", number, words, **registers)
        domctl(s, 5, "L", "", "fl:20:4")
        s.do("rmdom", n="L")
    s.do("sys.close", f=30)


def _two_roots(s: Script) -> None:
    """A vCPU's root for user mode is refused after the kernel's was taken: once for each guest, which then ends."""
    for user in ("f.M/l1", "f.M/9", "f.A/l4", "0xfffffffff000"):
        s.do("mkdom", n="M", kind="agent", vcpus=2)
        at = {512: 4, 632: 1, 648: AGENT_ENTRY, 656: "0xe033", 664: "0x200", 672: 13 * 4096, 680: "0xe02b",
              4968: "0xe02b", 4976: 13 * 4096, 4992: user, 5008: "f.M/l4"}  # fmt: skip
        words = "0:5168:0," + ",".join(f"{place}:8:{value}" for place, value in at.items())
        s.hypercall("M", VCPU_OP, words, a1=0, a2=1, a3="arg")
        s.hypercall("M", VCPU_OP, a1=1, a2=1)
        s.do("rmdom", n="M")


def _frames_of_others(s: Script) -> None:
    """Too many frames of a resource, and an area that was filled by the other call."""
    s.do("sys.open", f=40, dev="privcmd")
    s.do("sys.mmap", f=40, m=2600, n=2, prot="rw")
    for many in ("0x100000", "0x80001", "0x1000000000000000", "0"):
        s.do("sys.ioctl", f=40, req=RESOURCE, w=f"u0:2:A,u4:4:1,u16:8:{many},u24:8:m.2600")
    s.do("sys.ioctl", f=40, req=RESOURCE, w="u0:2:A,u4:4:1,u16:8:1,u24:8:m.2600")
    s.do("sys.mremap", m=2600, to=2610, n=1)
    s.do("sys.munmap", m=2600)
    s.do("sys.munmap", m=2610)
    some = (("A/5", "0xfffffffff", "A/6", "B/5"), ("0xffffffffe", "A/5", "0", "A/6"), ("9", "8", "A/5", "0x80000005"))
    for turn, frames in enumerate(some):
        area, listed = 2620 + 10 * turn, ",".join(f"u{256 + 8 * i}:8:{frame}" for i, frame in enumerate(frames))
        s.do("sys.mmap", f=40, m=area, n=4, prot="rw")
        marks = ",".join(f"g{i}:u{259 + 8 * i}:1,t{i}:u{260 + 8 * i}:4" for i in range(4))  # above the frames' own numbers
        s.do("sys.ioctl", f=40, req=BATCH_V1, w=f"u0:4:4,u4:2:A,u8:8:m.{area},u16:8:ub+256,{listed}", o=marks)
        for page in range(4):
            s.do("sys.rd", m=area, pg=page, off=8)
    s.do("sys.close", f=40)


def _copied_areas(s: Script) -> None:
    """GRANT_COPY from and to foreign areas: only of a private one, and only when the process has a copy of its page."""
    s.do("sys.open", f=40, dev="privcmd")
    s.do("sys.open", f=41, dev="gntdev")
    s.do("ge", "A:14", d="A", ref=14, flags=1, dom="d0", pg="A/7")
    for area, private in ((2660, 1), (2670, 0)):
        s.do("sys.mmap", f=40, m=area, n=2, prot="rw", **({"priv": 1} if private else {}))
        s.do("sys.ioctl", f=40, req=BATCH_V1, w=f"u0:4:2,u4:2:A,u8:8:m.{area},u16:8:ub+256,u256:8:A/5,u264:8:A/6")
        for turn in range(3):
            if turn == 1:
                s.do("sys.wr", m=area, pg=1, off=8, v=0x5151 + area)
            for page in range(2):
                side = f"u1024:8:m.{area}+{4096 * page + 8},u1032:4:14,u1036:2:{64 + 8 * page},u1038:2:A,u1042:2:2"
                if turn == 2:
                    side = f"u1024:4:14,u1028:2:{64 + 8 * page},u1030:2:A,u1032:8:m.{area}+{4096 * page + 16},u1042:2:1"
                words = f"u0:4:1,u8:8:ub+1024,{side},u1040:2:8,u1044:2:0x7fff"
                s.do("sys.ioctl", f=41, req=GRANT_COPY, w=words, o="st:u1044:2:s")
                s.do("prd", pg="A/7", off=64 + 8 * page)
                s.do("sys.rd", m=area, pg=page, off=16)
        s.do("sys.munmap", m=area)
    s.do("sys.close", f=41)
    s.do("sys.close", f=40)


def left(s: Script) -> None:
    """All of them."""
    _versions(s)
    of_guests(s)
    _replaced(s)
    _of_the_toolstack(s)
    _listeners(s)
    _frames_of_others(s)
    _copied_areas(s)
    _two_roots(s)
    _ends(s)
