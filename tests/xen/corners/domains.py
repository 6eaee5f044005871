"""Corners of domains: one built by hand with limits of its own, a zombie, one that Xen has crashed."""

from __future__ import annotations

from tests.xen.corners.forms import UNMAPPED, domctl, memory, mmu, unmap_page
from tests.xen.workload.domains import INFO
from tests.xen.workload.script import EVENT_CHANNEL_OP, GRANT_TABLE_OP, Script


def domains(s: Script) -> None:
    """A domain that is built by hand: limits of its own, no vCPU, a root that is set and cleared; then a zombie."""
    words = "16:4:0,36:4:0,44:4:{vcpus},48:4:{ports},52:4:{frames},56:4:{track},60:4:{version},68:4:{pool}"

    def create(vcpus: int = 1, ports: int = 1023, frames: int = 8, track: int = 64, version: int = 2, pool: int = 0) -> None:
        domctl(
            s,
            1,
            "0",
            words.format(vcpus=vcpus, ports=ports, frames=frames, track=track, version=version, pool=pool),
            "e1:8:2:V" if pool == 0 and frames and frames < 65 and 0 < version < 3 and vcpus else "",
        )

    kinds = ((1, 1), (3, 0), (3, 1), (2, 0), (0, 1), (0, 0x80), (4, 0), (8, 0), (0x1000, 0), (3, 0x7FF), (0, 0x800))
    for flags, emulation in kinds:
        limits = "44:4:1,48:4:1023,52:4:8,56:4:64,60:4:2"
        domctl(s, 1, "0", f"16:4:0,36:4:{flags},{limits},72:4:{emulation}", "e0:8:2:V")
        if (flags, emulation) in ((3, 1), (0, 0x80)):  # these are made
            domctl(s, 2, "$e0")
    for words_of in ("40:4:1", "64:4:1", "76:4:0x100", "60:4:0x12", "44:4:129,36:4:3,72:4:1"):
        domctl(s, 1, "0", f"36:4:0,44:4:1,48:4:1023,52:4:8,56:4:64,60:4:2,{words_of}")
    create(pool=1)
    create(frames=0)
    create(version=0)
    create(version=3)
    create(vcpus=0)
    create(vcpus=8193)
    create(frames=65)
    create(track=1025)
    create(ports=66, frames=1, track=0, version=1)
    for high in range(5, 40):  # one of them is that of the domain, which has no vCPU yet
        mmu(s, "d0", ("f.A/16", "0x77"), owner=f"SELF+{(high + 1) << 16}")
    for which in (0, 1, 2):
        domctl(s, 15, "$e1", f"16:4:{which}")
        domctl(s, 5, "$e1", "", INFO.replace("dom:16:2,", "").replace("shared:48:8,", ""))
    domctl(s, 15, "$e1", "16:4:1")
    s.hypercall("d0", EVENT_CHANNEL_OP, "0:2:$e1,2:2:A", "p:4:4", a1=6, a2="arg")
    s.hypercall("d0", EVENT_CHANNEL_OP, "0:2:$e1,2:2:A", "p:4:4", a1=6, a2="arg", rep=64)
    s.hypercall("d0", EVENT_CHANNEL_OP, "0:2:$e1,2:2:A", "p:4:4", a1=6, a2="arg", rep=64)
    s.hypercall("d0", EVENT_CHANNEL_OP, "0:2:$e1,4:4:64", "st:8:4,u:16:2", a1=5, a2="arg")
    s.hypercall("d0", EVENT_CHANNEL_OP, "0:2:$e1,4:4:200", "st:8:4,u:16:2", a1=5, a2="arg")
    s.hypercall("d0", GRANT_TABLE_OP, "0:2:$e1,4:4:1,8:2:0x7fff,16:8:arg+512", "st:8:2:s", a1=2, a2="arg", a3=1)
    s.hypercall("d0", GRANT_TABLE_OP, "0:2:$e1,4:4:2,8:2:0x7fff,16:8:arg+512", "st:8:2:s", a1=2, a2="arg", a3=1)
    s.hypercall("d0", GRANT_TABLE_OP, "0:2:$e1", "nr:4:4,max:8:4,st:12:2:s", a1=6, a2="arg", a3=1)
    s.hypercall("d0", GRANT_TABLE_OP, "0:2:$e1", "v:4:4", a1=10, a2="arg", a3=1)
    domctl(s, 11, "$e1", "16:8:4096")
    for i in range(3):
        memory(s, "d0", 6, f"0:8:arg+512,8:8:1,24:2:$e1,512:8:{i}", f"r{i}:512:8:v")
    # struct vcpu_guest_context at 4096: flags at 512, rip at 648, cr1 (the root of user mode) at 4992, cr3 at 5008.
    for flags, rip, root, user, vcpu, callback in (
        (0x24, "0", "0", "0", 0, "0"),
        (0x24, "0x800000000000", "f.$r0", "0", 0, "0"),
        (0x24, "0", "f.$r0", "0", 0, "0x800000000000"),
        (0x24, "0", "f.A/3", "0", 0, "0"),
        (0x24, "0", "f.$r0", "0", 1, "0"),
        (0x20, "0", "f.$r0", "0", 0, "0"),
        (0x24, "0x1000", "f.$r0", "f.$r1", 0, "0x2000"),
        (0x24, "0", "f.$r1", "f.$r1", 0, "0"),
        (0x24, "0", "f.$r0", "0", 0, "0"),
        (0x24, "0", "f.$r0", "f.$r2", 0, "0"),
        (0x20, "0", "f.$r0", "f.$r1", 0, "0"),
        (0x4, "0", "f.$r0", "f.$r1", 0, "0"),
    ):
        words = f"16:4:{vcpu},24:8:arg+4096,4608:8:{flags},4744:8:{rip},9088:8:{user},9104:8:{root},9208:8:{callback}"
        domctl(s, 12, "$e1", words)
        domctl(s, 5, "$e1", "", "on:80:4,last:84:4,flags:20:4:f")
        domctl(s, 61, "$e1", "16:8:3,24:8:arg+512,512:8:$r0,520:8:$r1,528:8:$r2", "t0:512:8,t1:520:8,t2:528:8")
    domctl(s, 12, "$e1", f"16:4:0,24:8:{UNMAPPED}")
    domctl(s, 13, "$e1", f"16:4:0,24:8:{UNMAPPED}")
    domctl(s, 13, "$e1", "16:4:1,24:8:arg+4096")
    domctl(s, 13, "$e1", "16:4:0,24:8:arg+4096", "rip:4744:8,cb:9208:8")
    domctl(s, 13, "d0", "16:4:0,24:8:arg+4096")
    domctl(s, 12, "d0", "16:4:0,24:8:arg+4096")
    domctl(s, 12, "d0", "16:4:0,24:8:0")
    domctl(s, 61, "$e1", "16:8:3,24:8:arg+512,512:8:$r0,520:8:$r1,528:8:A/3", "t0:512:8,t1:520:8,t2:528:8")
    domctl(s, 61, "H", "16:8:3,24:8:arg+512,512:8:3,520:8:300,528:8:0", "t0:512:8,t1:520:8,t2:528:8")
    domctl(
        s, 61, "A", "16:8:4,24:8:arg+512,512:8:A/l1,520:8:A/l4,528:8:A/si,536:8:A/3", "t0:512:8,t1:520:8,t2:528:8,t3:536:8"
    )
    domctl(s, 61, "A", f"16:8:1,24:8:{UNMAPPED}")
    domctl(s, 61, "A", "16:8:0,24:8:0")
    domctl(s, 61, "A", "16:8:1025,24:8:arg+512")
    domctl(s, 22, "$e1", "16:8:$r1")
    domctl(s, 22, "$e1", "16:8:$r0")
    domctl(s, 22, "H", "16:8:5")
    domctl(s, 22, "H", "16:8:300")
    s.do("prd", pg="H/5", off=704)
    s.do("prd", pg="H/5", off=736)
    domctl(s, 12, "$e1", "16:4:0,24:8:0")
    domctl(s, 5, "$e1", "", "on:80:4,last:84:4,pages:24:8:v")
    domctl(s, 61, "$e1", "16:8:1,24:8:arg+512,512:8:$r0", "t0:512:8")
    for cmd in (4, 4, 3, 3, 4, 4, 4):
        domctl(s, cmd, "$e1")
        domctl(s, 5, "$e1", "", "flags:20:4")
    domctl(s, 2, "$e1")
    domctl(s, 5, "$e1", "", "")
    domctl(s, 2, "$e1")


def zombies(s: Script) -> None:
    """What a domain that has died, but whose page is still mapped, answers to everybody."""
    s.do("ge", "C:9", d="C", ref=9, flags=1, dom="B", pg="C/9")
    s.hypercall(
        "B", GRANT_TABLE_OP, "0:8:w.20,8:4:2,12:4:9,16:2:C,18:2:0x7fff", "st:18:2:s,z0:20:4:V", "C:9", a1=0, a2="arg", a3=1
    )
    s.hypercall("C", EVENT_CHANNEL_OP, "0:2:SELF,2:2:B", "z1:4:4:V", a1=6, a2="arg")
    s.hypercall("B", EVENT_CHANNEL_OP, "0:2:C,4:4:$z1", "z2:8:4:V", a1=0, a2="arg")
    s.do("ge", "C:10", d="C", ref=10, flags=5, dom="B", pg="C/si")
    s.hypercall(
        "B", GRANT_TABLE_OP, "0:8:w.21,8:4:6,12:4:10,16:2:C,18:2:0x7fff", "st:18:2:s,z3:20:4:V", "C:10", a1=0, a2="arg", a3=1
    )
    domctl(s, 5, "C", "", "zc:8:2:V,flags:20:4:f")
    s.remove("C")
    s.hypercall("d0", EVENT_CHANNEL_OP, "0:2:$zc", a1=10, a2="arg")
    domctl(s, 3, "$zc")
    s.hypercall("d0", EVENT_CHANNEL_OP, "0:2:$zc", a1=10, a2="arg")
    domctl(s, 4, "$zc")
    s.hypercall("d0", EVENT_CHANNEL_OP, "0:2:$zc,4:4:$z1", "st:8:4", a1=5, a2="arg")
    s.hypercall("d0", EVENT_CHANNEL_OP, "0:2:$zc,2:2:B", a1=6, a2="arg")
    s.hypercall("B", EVENT_CHANNEL_OP, "0:2:$zc,4:4:$z1", a1=0, a2="arg")
    for cmd in (2, 3, 4, 11, 15):
        domctl(s, cmd, "$zc", "16:8:0x1000")
    for op in (0, 2, 11):
        domctl(s, 10, "$zc", f"16:4:{op},32:8:arg+512,40:8:8")
    domctl(s, 5, "$zc", "", "flags:20:4,tot:24:8")
    for op in (3, 4):
        memory(s, "d0", op, "0:2:$zc", nor=0)
    memory(s, "d0", 6, "0:8:arg+512,8:8:1,24:2:$zc,512:8:7")
    memory(s, "d0", 24, "8:8:0x100,24:2:$zc")
    memory(s, "d0", 21, "2:2:$zc")
    unmap_page(s, "B", 50)
    s.hypercall("B", GRANT_TABLE_OP, "0:8:B/50,8:2:$zc,12:4:11,16:2:0x7fff", "st:16:2:s", a1=4, a2="arg", a3=1)
    s.count("B")
    s.hypercall("B", GRANT_TABLE_OP, "0:8:w.22,8:4:2,12:4:9,16:2:$zc,18:2:0x7fff", "st:18:2:s", a1=0, a2="arg", a3=1)
    s.hypercall(
        "B", GRANT_TABLE_OP, "0:8:9,8:2:$zc,16:8:B/4,24:2:SELF,32:2:64,34:2:1,36:2:0x7fff", "st:36:2:s", a1=5, a2="arg", a3=1
    )
    s.do("rd", by="B", slot=20, off=8)
    s.do("wr", by="B", slot=20, off=8, v=7)
    s.hypercall("B", EVENT_CHANNEL_OP, "0:2:SELF,4:4:$z2,8:4:77,12:4:77,16:4:77,20:4:77", "st:8:4,u:16:2", a1=5, a2="arg")
    s.hypercall("B", EVENT_CHANNEL_OP, "0:4:$z2", a1=4, a2="arg")
    s.hypercall("B", GRANT_TABLE_OP, "0:8:w.20,16:4:$z0,20:2:0x7fff", "st:20:2:s", a1=1, a2="arg", a3=1)
    domctl(s, 5, "$zc", "", "dom:8:2,flags:20:4,tot:24:8")
    s.hypercall("B", GRANT_TABLE_OP, "0:8:w.21,16:4:$z3,20:2:0x7fff", "st:20:2:s", a1=1, a2="arg", a3=1)
    domctl(s, 2, "$zc")
    s.do("rd", by="B", slot=20, off=8)
    s.make("C")
    # A domain that Xen has crashed is told as one that has stopped.
    s.do("ge", "B:12", d="B", ref=12, flags=1, dom="C", pg="B/9")
    s.hypercall(
        "C", GRANT_TABLE_OP, "0:8:w.20,8:4:2,12:4:12,16:2:B,18:2:0x7fff", "st:18:2:s,z4:20:4:V", "B:12", a1=0, a2="arg", a3=1
    )
    mmu(s, "C", ("t.20", "0"))
    s.remove("B")
    s.hypercall("C", GRANT_TABLE_OP, "0:8:w.20,16:4:$z4,20:2:0x7fff", "st:20:2:s", a1=1, a2="arg", a3=1)
    domctl(s, 5, "C", "", "stopped:22:2,flags:20:4:f")
    s.make("B")
    s.renew("C")
    domctl(s, 5, "H", "", "flags:20:4")
