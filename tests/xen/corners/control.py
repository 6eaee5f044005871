"""Corners of the control domain's own hypercalls: parameters of translated guests, sysctl, its vCPU, and refusals.

Contents: what Dom0's kernel is answered for commands whose answer depends on domains, or on nothing; and the same commands
by a guest. Not here: domctl (domains.py), the host's hardware, time, and calls that would stop the machine.
"""

from __future__ import annotations

from tests.xen.corners.forms import UNMAPPED, domctl
from tests.xen.workload.script import NOBODY, Script

HVM_OP, SYSCTL, PLATFORM_OP, PHYSDEV_OP, KEXEC_OP, DM_OP = 34, 35, 7, 33, 37, 41
HIGH = "0x800000000000"


def parameter(s: Script, dom: str, index: int | str, value: int | str | None = None, by: str = "d0") -> None:
    """HVMOP_set_param with a value, HVMOP_get_param without."""
    words = f"0:2:{dom},4:4:{index},8:8:{'0x7777' if value is None else value}"
    s.hypercall(by, HVM_OP, words, "v:8:8" if value is None else "", a1=1 if value is None else 0, a2="arg")


PLAIN = (0, 1, 2, 3, 7, 8, 12, 16, 17, 18, 27, 28, 29, 34)
PLAUSIBLE = (
    0,
    1,
    3,
    4,
    5,
    8,
    64,
    65,
    0x1FFF,
    0x2000,
    0x2001,
    "0xffffffff",
    HIGH,
    "0x6700000005",
    "0x6800000005",
    "0x200000000000005",
)


def parameters(s: Script) -> None:
    """Every parameter of a PVH and of an HVM guest: read, set to plausible and bad values, and read again."""
    for value in PLAUSIBLE:  # of new guests each, as some parameters are set once
        s.do("mkdom", n="P", kind="hvm" if value != 1 else "full")
        for index in range(39):
            if value in (0, 1, HIGH) or index not in PLAIN:
                parameter(s, "P", index)
                parameter(s, "P", index, value)
                parameter(s, "P", index)
        for index in (5, 9, 14, 19, 32, 33, 35):
            for again in (0, value, 2, 5):
                parameter(s, "P", index, again)
                parameter(s, "P", index)
        s.do("rmdom", n="P")
    s.do("mkdom", n="P", kind="hvm")
    for dom in ("P", "A", "d0", "SELF", NOBODY, "XEN"):
        for number in (0, 4, 11, 38, 39, "0xffffffff"):
            for by in ("d0", "A"):
                parameter(s, dom, number, by=by)
                parameter(s, dom, number, 1, by=by)
    for command in (0, 1, 9, 10, 11, 15):
        for place in (UNMAPPED, HIGH, "0xffff830000000000", "0"):
            s.hypercall("d0", HVM_OP, a1=command, a2=place)
    for command in range(27):
        for dom in ("P", "A", "SELF", NOBODY):
            if command not in (0, 1, 10, 25):
                s.hypercall("d0", HVM_OP, f"0:2:{dom},2:2:0,8:8:5", "x:2:2", a1=command, a2="arg")
    s.do("ge", "A:9", d="A", ref=9, flags=1, dom="P", pg="A/9")
    for dom in ("P", "A", "K", NOBODY):
        for pfn in (0, 5, 63, 64, 5000, 300, "0x10000000000"):
            for by in ("d0", "B"):
                s.hypercall(by, HVM_OP, f"0:2:{dom},8:8:{pfn}", "x:2:2", a1=15, a2="arg")
    s.do("rmdom", n="P")


OWN = (4, 6, 16, 18, 20, 21, 22, 23)


def sysctls(s: Script) -> None:
    """Those that tell of domains and of what every such host has, with bad versions, commands and pointers."""
    for by in ("d0", "A"):
        for command in range(32):
            s.hypercall(by, SYSCTL, f"0:4:{command},4:4:0x14", a1="arg")
            if by == "A" or command in OWN or command in (0, 13, 24, 28, 30, 31):
                s.hypercall(by, SYSCTL, f"0:4:{command},4:4:0x15", a1="arg")
        for place in (UNMAPPED, HIGH, "0xffff830000000000", "0"):
            s.hypercall(by, SYSCTL, a1=place)
    s.hypercall("d0", SYSCTL, "0:4:4,4:4:0x15", "x:8:4", a1="arg")
    lists = (
        *((0, most, "arg+512") for most in (0, 1, 20, "0xffffffff")),
        *((first, 9, "arg+512") for first in (1, 5000, "0x7ff0", "0xffff", "A", "K")),
        *((0, many, place) for many in (0, 20) for place in ("0", UNMAPPED, HIGH)),
        ("A", 1, "arg+512"),
    )
    for name, gone in (("", False), ("C", False), ("C", True)):
        if gone:
            s.remove(name)
        elif name:
            s.do("ge", "C:9", d="C", ref=9, flags=1, dom="B", pg="C/9")
            s.hypercall("B", 20, "0:8:w.20,8:4:2,12:4:9,16:2:C,18:2:0x7fff", "st:18:2:s,z0:20:4:V", a1=0, a2="arg", a3=1)
        for first, most, place in lists:
            reads = ",".join(f"d{i}:{512 + 112 * i}:2,f{i}:{516 + 112 * i}:4:f" for i in range(6))
            words = f"0:4:6,4:4:0x15,8:2:{first},12:4:{most},16:8:{place},24:4:0x77"
            s.hypercall("d0", SYSCTL, words, f"n:24:4,{reads}", a1="arg")
        for bits in (0, 1, 8, 64):
            for pool in (0, 1, "0xffffffff"):
                for operation in (0, 2, 3, 7, 8, 99):
                    words = f"0:4:18,4:4:0x15,8:4:{operation},12:4:{pool},32:8:arg+512,40:4:{bits},512:8:-1"
                    s.hypercall("d0", SYSCTL, words, "p:12:4,s:16:4,dom:20:4,n:28:4,map:512:8", a1="arg")
        for operation in (3, 7):
            s.hypercall("d0", SYSCTL, f"0:4:18,4:4:0x15,8:4:{operation},32:8:{UNMAPPED},40:4:64", a1="arg")
        for dom in ("A", "H", "d0", "SELF", NOBODY, "IDLE", "0x10000", "C"):
            for pool in (0, 1, 9):
                s.hypercall("d0", SYSCTL, f"0:4:18,4:4:0x15,8:4:6,12:4:{pool},20:4:{dom}", a1="arg")
    s.hypercall("B", 20, "0:8:w.20,16:4:$z0,20:2:0x7fff", "st:20:2:s", a1=1, a2="arg", a3=1)
    s.make("C")
    for many, at in ((0, "0"), (0, "arg+512"), (1, "arg+512"), (4, "arg+512"), (4, "0"), (1, UNMAPPED)):
        words = f"0:4:16,4:4:0x15,8:4:{many},16:8:{at}"
        s.hypercall("d0", SYSCTL, words, "n:8:4,a:512:8,b:520:8,c:528:8,d:536:8", a1="arg")


def platform(s: Script) -> None:
    """platform_op: what exists at all, by version and pointer."""
    for by in ("d0", "A"):
        for command in (0, 1, 2, 14, 30, 33, 40, 42, 44, 45, 46, 47, 48, 49, 56, 57, 58, 61, 63, 64, 65, 99):
            s.hypercall(by, PLATFORM_OP, f"0:4:{command},4:4:0x03000000", a1="arg")
            if by == "A" or command in (0, 1, 2, 14, 30, 40, 42, 46, 47, 65, 99):
                s.hypercall(by, PLATFORM_OP, f"0:4:{command},4:4:0x03000001", a1="arg")
        for place in (UNMAPPED, HIGH, "0xffff830000000000", "0"):
            s.hypercall(by, PLATFORM_OP, a1=place)


def kernels(s: Script) -> None:
    """kexec, MCA, xenpmu, hypfs, profiling and device models' calls by Dom0."""
    for by in ("d0", "A"):
        for command in range(8) if by == "A" else ():
            s.hypercall(by, KEXEC_OP, "0:4:1,4:4:0", a1=command, a2="arg")
            s.hypercall(by, KEXEC_OP, a1=command, a2=UNMAPPED)
        for command in range(8):
            for version in ("0x03000003", "0x03000000", "0"):
                if not (by == "d0" and command in (4, 5)):
                    s.hypercall(by, 0x30, f"0:4:{command},4:4:{version}", a1="arg")
        for command in range(8):
            s.hypercall(by, 40, "0:4:0,4:4:1,8:8:0", "a:0:4,b:4:4,c:8:8,d:16:8", a1=command, a2="arg")
            s.hypercall(by, 40, a1=command, a2=UNMAPPED)
        for command in range(8) if by == "A" else ():
            s.hypercall(by, 42, "512:1:47,513:1:0", a1=command, a2="arg+512", a3=2, a4="arg+1024", a5=512)
        for command in (1, 2, 3, 6, 16, 17, 18, 99):
            if by == "A" or command not in (0,):
                s.hypercall(by, 31, a1=command, a2=UNMAPPED)
        for number in (11, 27, 38, 39, 43, 47, 49, 50, 51, 55, 56, 62, 63, 99):
            if not (by == "d0" and number == 47):
                s.hypercall(by, number, a1=0, a2="arg")


def processor(s: Script) -> None:
    """Dom0's own vCPU: vcpu_op, sched_op, assists, debug registers, bases, callbacks with bad types, timers, console."""
    for command in (3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 99):
        for number in (1, 8192, "0xffffffff"):
            s.hypercall("d0", 24, a1=command, a2=number, a3="arg")
    s.hypercall("d0", 24, a1=3, a2=0, a3="arg")
    s.hypercall("d0", 24, "0:8:1", a1=6, a2=0, a3="arg")
    s.hypercall("d0", 24, a1=10, a2=0, a3="arg")
    s.hypercall("d0", 24, a1=99, a2=0, a3="arg")
    s.hypercall("d0", 24, a1=4, a2=0, a3=UNMAPPED)
    s.hypercall("d0", 29, a1=0, a2="0")
    for words in ("0:8:arg+64,8:4:0,16:8:1", "0:8:arg+64,8:4:129,16:8:1", "0:8:arg+64,8:4:1,16:8:1,64:4:5000"):
        s.hypercall("d0", 29, words, a1=3, a2="arg")
    for number, seconds in ((0, 1000), (0, 1000), (0, 1000), (1, 1000), (2, 0), (2, 0), (3, 5), (1, 0), (1, 0)):
        s.hypercall("d0", 29, f"0:4:{number},4:4:{seconds}", a1=6, a2="arg")
    for dom in (NOBODY, "SELF", "IDLE", "XEN"):
        s.hypercall("d0", 29, f"0:4:{dom},4:4:0", a1=4, a2="arg")
    s.hypercall("d0", 29, "0:4:77", a1=7, a2="arg")
    s.hypercall("d0", 29, "0:4:0xffffffff", a1=7, a2="arg")
    s.hypercall("d0", 29, "0:4:0", a1=7, a2="arg")
    s.hypercall("d0", 29, "0:4:0xffffffff", a1=7, a2="arg")
    for number in (0, 0, 5, 0, "0xffffffff", "0xfffffffe", "0x80000000"):
        s.hypercall("d0", 29, f"0:4:{number}", a1=7, a2="arg")
    s.hypercall("d0", 29, a1=8, a2="arg")
    for number in (0, 1, 2, 3, 4, 5, 6, 7, 8):
        s.hypercall("d0", 9, a1=number)
    for number, value in ((8, 0), (0, "0xffff830000000000"), (7, "0x100000000"), (7, "0x2000"), (6, "0x100000000")):
        s.hypercall("d0", 8, a1=number, a2=value)
    for which, base in ((1, HIGH), (4, 0), (9, 0)):
        s.hypercall("d0", 25, a1=which, a2=base)
    for command, kind in ((0, 6), (0, 99), (1, 7), (2, 0), (9, 1)):
        s.hypercall("d0", 21, a1=command, a2=kind)
    for kind in (3, 6, 8, 99):
        s.hypercall("d0", 30, f"0:2:{kind},8:8:0", a1=0, a2="arg")
        s.hypercall("d0", 30, f"0:2:{kind}", a1=1, a2="arg")
    s.hypercall("d0", 30, f"0:2:0,8:8:{HIGH}", a1=0, a2="arg")
    s.hypercall("d0", 30, a1=0, a2=UNMAPPED)
    for command in (2, 3, 99):
        s.hypercall("d0", 18, a1=command, a2=0, a3="arg")
    s.hypercall("d0", 18, a1=0, a2=0, a3="arg")
    s.hypercall("d0", 18, a1=0, a2=5, a3=UNMAPPED)
    s.hypercall("d0", 18, a1=1, a2=0, a3="arg")
    s.hypercall("d0", 28, a1=2, a2="arg")
    s.hypercall("d0", 28, a1=0, a2=UNMAPPED)
    s.hypercall("d0", 28, f"0:8:{HIGH}", a1=0, a2="arg")
    for command in range(12):
        if command != 9:
            for place in (UNMAPPED, HIGH, "0"):
                s.hypercall("d0", 17, a1=command, a2=place)
    domctl(s, 5, "A", "", "flags:20:4")


def interrupts(s: Script) -> None:
    """physdev_op by Dom0, as far as it names no interrupt or device of the host."""
    for command in (0, 1, 2, 3, 4, 11, 18, 22, 32, 40, 99):
        s.hypercall("d0", PHYSDEV_OP, "0:4:1000", a1=command, a2="arg")
    for value in (4, 99):
        s.hypercall("d0", PHYSDEV_OP, f"0:4:{value}", a1=6, a2="arg")
    for many in (0, 65536, 65537):
        s.hypercall("d0", PHYSDEV_OP, f"8:4:{many}", a1=7, a2="arg")
    for dom in (NOBODY, "XEN", "IDLE"):
        for kind in (0, 1, 2, 3, 4, 9):
            s.hypercall("d0", PHYSDEV_OP, f"0:2:{dom},4:4:{kind},8:4:5", a1=13, a2="arg")
        s.hypercall("d0", PHYSDEV_OP, f"0:2:{dom},4:4:5", a1=14, a2="arg")
    for command in (5, 6, 7, 8, 10, 12, 13, 14, 15, 16, 17, 19, 20, 21, 23, 25, 26, 28, 30, 31):
        for place in (UNMAPPED, HIGH, "0xffff830000000000"):
            s.hypercall("d0", PHYSDEV_OP, a1=command, a2=place)
    for frame in ("0xfffffffff", "A/5", "A/si"):
        s.hypercall("d0", PHYSDEV_OP, f"0:8:{frame}", a1=17, a2="arg")
        s.hypercall("d0", PHYSDEV_OP, f"0:8:{frame}", a1=28, a2="arg")
    for command in range(33):
        if command in (0, 3, 4, 6, 13, 14, 32):
            s.hypercall("d0", 19, f"0:4:{command},8:4:1000", "x:12:4", a1="arg")
        s.hypercall("A", 19, f"0:4:{command},8:4:1000", "x:12:4", a1="arg")
    s.hypercall("d0", 19, "0:4:99", a1="arg")


def models(s: Script) -> None:
    """dm_op by Dom0 of a PVH and an HVM domain: its buffers, sizes and padding, and what needs no device model."""
    s.do("mkdom", n="P", kind="hvm")
    s.do("mkdom", n="F", kind="full")
    for dom in ("P", "F", "A", "d0", "SELF", NOBODY, "0x10000", "XEN"):
        for count in (0, 1, 2, 3, "0xffffffff", "0x100000001"):
            s.hypercall("d0", DM_OP, "0:8:arg+512,8:8:48,512:4:99", a1=dom, a2=count, a3="arg")
        for command in (*range(24), "0xffffffff"):
            for size in (0, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 23, 24, 31):
                words = f"0:8:arg+512,8:8:{size},512:4:{command},516:4:1"
                if dom == "P" or size in (8, 12):
                    s.hypercall("d0", DM_OP, words, "a:520:4", a1=dom, a2=1, a3="arg")
        for size in (8, 11, 12, 48):
            s.hypercall("d0", DM_OP, f"0:8:arg+512,8:8:{size},512:4:20,520:4:77", "a:520:4", a1=dom, a2=1, a3="arg")
            s.hypercall("A", DM_OP, f"0:8:arg+512,8:8:{size},512:4:20,520:4:77", "a:520:4", a1=dom, a2=1, a3="arg")
    for place in (UNMAPPED, HIGH, "0xffff830000000000", "0"):
        s.hypercall("d0", DM_OP, f"0:8:{place},8:8:48", a1="P", a2=1, a3="arg")
        s.hypercall("d0", DM_OP, a1="P", a2=1, a3=place)
        s.hypercall("d0", DM_OP, a1="P", a2=0, a3=place)
    for name, reason in (("P", 0), ("P", 3), ("F", 3), ("F", 0), ("F", 300)):
        s.hypercall("d0", DM_OP, f"0:8:arg+512,8:8:12,512:4:16,520:4:{reason}", a1=name, a2=1, a3="arg")
        domctl(s, 5, name, "", "flags:20:4")
    for name in ("P", "F"):
        s.do("rmdom", n=name)
