"""Corners of the control interfaces: each domctl, sysctl, platform_op and hvm_op, with plausible and with bad arguments.

The rows are in workload/toolstack.rows: words of calls, and what is read of their answers. Left out are answers that another
machine or moment gives differently: times, free memory, a processor's own contents; and calls that stop the machine or Dom0.
"""

from __future__ import annotations

from typing import Final

from tests.xen.corners.forms import UNMAPPED, domctl
from tests.xen.workload.rows import rows
from tests.xen.workload.script import NOBODY, Script
from tests.xen.workload.toolstack import AFTERWARDS, MADE

HVM_VALUES: Final[tuple[int | str, ...]] = (0, 60, 1, 3, 64, "0x6800001000")
READ: Final = "b0:16:8,b1:24:8,b2:32:8"
# Commands with an answer that times or a processor make, and those after which Dom0 or the machine is not as before.
NOT_SWEPT: Final = frozenset({1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15, 17, 22, 36, 46, 56, 59, 60, 61, 75, 78, 82})
OF_DOM0_TOO: Final = frozenset({9, 16, 18, 19, 20, 21, 25, 27, 28, 37, 42, 43, 45, 64, 68, 69, 72, 77, 83, 85, 86})


def sweep(s: Script) -> None:
    """Each command with a body of zeros, for a domain of each kind and for none; and by a guest, and of a wrong version."""
    for cmd in [*(each for each in range(6, 90) if each not in NOT_SWEPT), 1000, 1002, 1003, 1004]:
        for dom in ("A", "H", "20000", "SELF", *(("d0",) if cmd in OF_DOM0_TOO else ())):
            domctl(s, cmd, dom, "", READ)
        domctl(s, cmd, "B", by="A")
    for cmd in (9, 77, 99):
        s.hypercall("d0", 36, f"0:4:{cmd},4:4:0x14,8:2:A", a1="arg")
        domctl(s, cmd, "20000", by="A")


def of_domains(s: Script) -> None:
    """Settings of domains and their vCPUs; `$two` is one with two vCPUs that never runs."""
    domctl(s, 1, "0", MADE, "two:8:2:V")
    domctl(s, 15, "$two", "16:4:2")
    for row in rows("domctl"):
        cmd = row.command
        for name in row.domains:
            domctl(s, cmd, name, row.words, row.reads)
            if cmd in AFTERWARDS:
                domctl(s, AFTERWARDS[cmd][0], name, *AFTERWARDS[cmd][1:])
            if cmd == 74:
                for place in ("4:4:4,8:4:4,12:4:4,16:8:arg+512,24:8:arg+528,32:8:arg+544", "4:4:1"):
                    told = "n:4:4,v:8:4,r0:12:4,d:512:4,n0:528:4,m0:544:8,m1:552:8"
                    s.hypercall("d0", 12, f"0:2:{name},{place}", told, a1=26, a2="arg")
    domctl(s, 5, "A", "", "flags:20:4")
    domctl(s, 2, "$two")


def io_memory(s: Script) -> None:
    """A PV guest maps I/O memory when it may, and keeps the mapping when it may no more."""
    for frame in (0xA0, 0xFEC00):
        s.hypercall("A", 14, a1="v.20", a2=f"{frame * 4096}+0x67", a3=2)
    domctl(s, 20, "A", "16:8:0xa0,24:8:0x30,32:1:1")
    for frame in (0xA0, 0xCF, 0xD0):
        for flags in ("0x67", "0x65"):
            s.hypercall("A", 14, a1="v.20", a2=f"{frame * 4096}+{flags}", a3=2)
    domctl(s, 20, "A", "16:8:0xb0,24:8:2,32:1:0")
    for frame in (0xAF, 0xB0, 0xB1, 0xB2):
        s.hypercall("A", 14, a1="v.20", a2=f"{frame * 4096}+0x67", a3=2)
    domctl(s, 20, "A", "16:8:0xa0,24:8:0x30,32:1:0")
    s.hypercall("A", 14, a1="v.20", a2="f.A/20+0x67", a3=2)
    s.count("A")


def resumed(s: Script) -> None:
    """A domain that Dom0 stops and resumes; one that suspends rings its port."""
    s.hypercall("d0", 32, "0:2:SELF,2:2:B", "p0:4:4:V", a1=6, a2="arg")
    s.hypercall("B", 32, "0:2:d0,4:4:$p0", "p1:8:4:V", a1=0, a2="arg")
    for reason in (2, 0, 3, 2):
        domctl(s, 29, "B", "16:4:$p1")
        s.hypercall("d0", 29, f"0:2:B,4:4:{reason}", a1=4, a2="arg")
        domctl(s, 5, "B", "", "flags:20:4")
        domctl(s, 27, "B")
        domctl(s, 5, "B", "", "flags:20:4")
        s.count("B")
        s.hypercall("B", 32, "0:2:SELF,4:4:$p1", "st:8:4", a1=5, a2="arg")
    s.hypercall("d0", 29, "0:2:B,4:4:5", a1=4, a2="arg")
    domctl(s, 79, "B")
    domctl(s, 27, "B")
    s.hypercall("d0", 32, "0:2:B,4:4:1", "st:8:4", a1=5, a2="arg")
    s.renew("B")


def _machine(s: Script, interface: str, number: int, version: str, other: str, known: int) -> None:
    """The rows of an interface without domains; another version, an unmapped struct, and a guest's attempt."""
    for row in rows(interface):
        words = f"0:4:{row.command},4:4:{version}" + ("," + row.words if row.words else "")
        s.hypercall("d0", number, words, row.reads, a1="arg")
    for by in ("A", "d0"):
        s.hypercall(by, number, f"0:4:{known},4:4:{other}", a1="arg")
        s.hypercall(by, number, a1=UNMAPPED)
    s.hypercall("A", number, f"0:4:{known},4:4:{version}", a1="arg")


def of_the_machine(s: Script) -> None:
    """sysctl, and a guest's attempts."""
    _machine(s, "sysctl", 35, "0x15", "0x14", 4)


def firmware(s: Script) -> None:
    """platform_op, and a guest's attempts."""
    _machine(s, "platform", 7, "0x03000001", "0x03000000", 48)


def values(s: Script) -> None:
    """hvm_op: parameters of both kinds of translated guests, first values and refused ones; types of memory."""
    for name in ("H", "K"):
        for index in range(41):
            s.hypercall("d0", 34, f"0:2:{name},4:4:{index}", "v:8:8", a1=1, a2="arg")
    for value in HVM_VALUES:
        for index in range(40):
            if (index, value) != (14, 3):  # a guest that has no processor state cannot sleep
                s.hypercall("d0", 34, f"0:2:H,4:4:{index},8:8:{value}", a1=0, a2="arg")
                s.hypercall("d0", 34, f"0:2:H,4:4:{index}", "v:8:8", a1=1, a2="arg")
    for index in (9, 11, 15, 19, 31, 33, 35, 37):
        s.hypercall("d0", 34, f"0:2:K,4:4:{index},8:8:1", a1=0, a2="arg")
        s.hypercall("d0", 34, f"0:2:K,4:4:{index}", "v:8:8", a1=1, a2="arg")
    for cmd in (0, 1, 2, 5, 9, 10, 11, 15, 23, 24, 25, 26):
        for dom in ("H", "A", "20000", "SELF"):
            s.hypercall("d0", 34, f"0:2:{dom},4:4:3,8:8:3", "", a1=cmd, a2="arg")
        s.hypercall("d0", 34, a1=cmd, a2=UNMAPPED)
        s.hypercall("A", 34, "0:2:H,4:4:5", a1=cmd, a2="arg")
    for gfn in (0, 63, 64, "0x10000000000"):
        s.hypercall("d0", 34, f"0:2:H,8:8:{gfn}", "t:2:2", a1=15, a2="arg")


def watchers(s: Script) -> None:
    """vm_event_op by a guest and by Dom0, of all kinds of domains: its version is told to anybody."""
    for by in ("A", "d0"):
        for dom in ("B", "A", "H", "SELF", NOBODY, "INVALID", "IO", "XEN"):
            for command in (0, 1, 2, 3):
                domctl(s, 56, dom, f"16:4:{command},20:4:0", "v:24:4", by=by)
