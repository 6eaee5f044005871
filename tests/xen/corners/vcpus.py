"""Corners of guests with several vCPUs: set up, up and down, their events and masks, and the domain's end in the midst.

Contents: vCPUs that a running guest sets up by vcpu_op, with the vcpu_info of each in a page of the pool, where the words
that Xen writes on delivery can be read. Not here: calls by the other vCPUs, which only wait (workload/ has such calls).
"""

from __future__ import annotations

from typing import Final

from tests.xen.corners.forms import UNMAPPED, domctl
from tests.xen.workload.events import ALLOC, BIND_VCPU, CLOSE, INTERDOMAIN, IPI, RESET, SEND, STATUS, UNMASK, VIRQ
from tests.xen.workload.script import EVENT_CHANNEL_OP, NOBODY, UPDATE_VA_MAPPING, Script

VCPU_OP: Final = 24
INITIALISE, UP, DOWN, IS_UP, INFO = 0, 1, 2, 3, 10
WAITS, INFOS = 4, 5  # pool pages: code that waits for ever, and a vcpu_info for each vCPU
# mov $29,%eax; mov $3,%edi; mov $(this page + 256),%esi; syscall; jmp to the start: SCHEDOP_poll of nothing
CODE: Final = f"p{WAITS}.0:8:0x0003bf0000001db8,p{WAITS}.8:8:0x0f00044100be0000,p{WAITS}.16:8:0xedeb05,p{WAITS}.256:24:0"
CONTEXT: Final = 4096
CALL: Final = 29


def op(s: Script, cmd: int, vcpu: int | str, w: str = "", a3: str = "arg", by: str = "M") -> None:
    """One vcpu_op."""
    s.hypercall(by, VCPU_OP, w, a1=cmd, a2=vcpu, a3=a3)


def event(s: Script, cmd: int, w: str, o: str = "", by: str = "M") -> None:
    """One event channel operation."""
    s.hypercall(by, EVENT_CHANNEL_OP, w, o, a1=cmd, a2="arg")


def context(root: str = "f.M/l4", flags: int | str = 4, rip: str = f"v.{WAITS}", user: str = "0", more: str = "") -> str:
    """A vcpu_guest_context in the argument block."""
    at = {512: flags, 648: rip, 656: "0xe033", 664: "0x200", 672: "v.8", 680: "0xe02b", 4968: "0xe02b", 4976: "v.8",
          4992: user, 5008: root}  # fmt: skip
    return f"{CONTEXT}:5168:0," + ",".join(f"{CONTEXT + place}:8:{value}" for place, value in at.items()) + more


def initialise(s: Script, vcpu: int | str, words: str, a3: str = f"arg+{CONTEXT}", by: str = "M") -> None:
    """VCPUOP_initialise, and what Dom0 sees then."""
    op(s, INITIALISE, vcpu, words, a3, by)
    op(s, IS_UP, vcpu)
    domctl(s, 5, "M", "", "on:80:4,last:84:4,flags:20:4:f")


def told(s: Script, *vcpus: int) -> None:
    """What is in the vcpu_info of vCPUs: upcall pending, its mask, the selector; cleared then, except for the mask."""
    for vcpu in vcpus:
        at = 64 * vcpu
        s.hypercall("M", 17, "", f"up:p{INFOS}.{at}:1,mask:p{INFOS}.{at + 1}:1,sel:p{INFOS}.{at + 8}:8", a1=0)
        s.do("x", by="M", w=f"p{INFOS}.{at}:1:0,p{INFOS}.{at + 8}:8:0")


def vcpus(s: Script) -> None:
    """A guest of four vCPUs, which sets up the second and the third; then it is paused, reset and destroyed in the midst."""
    s.do("mkdom", n="M", kind="agent", vcpus=4)
    s.do("pfill", d="M")
    domctl(s, 5, "M", "", "on:80:4,last:84:4")
    s.do("x", by="M", w=CODE)
    for cmd in (IS_UP, UP, 4, 5, 6, 7, 8, 9, INFO, 11, 12, 13, 99):
        for vcpu in (1, 3, 4):
            op(
                s,
                cmd,
                vcpu,
                "0:8:0x7fff00000000" if cmd in (5, 13) else "0:8:2000000,8:4:0" if cmd in (6, 8) else "0:8:0,8:4:1",
            )
    for words in (f"0:8:M/{INFOS},8:4:4040", f"0:8:A/{INFOS},8:4:64", "0:8:M/l1,8:4:64", "0:8:0xfffffffff,8:4:64"):
        op(s, INFO, 1, words)
    for vcpu in (1, 2):
        s.do("x", by="M", w=f"p{INFOS}.{64 * vcpu}:64:0x33")
        op(s, INFO, vcpu, f"0:8:M/{INFOS},8:4:{64 * vcpu}")
        op(s, INFO, vcpu, f"0:8:M/{INFOS},8:4:{64 * vcpu}")
        told(s, vcpu)
        s.do("x", by="M", w=f"p{INFOS}.{64 * vcpu + 1}:1:1")
    _events(s)
    _set_up(s)
    _events(s)
    _bound(s)
    _masked(s)
    _ended(s)


def _events(s: Script) -> None:
    """IPIs and VIRQs for each vCPU, and ports that are moved to another one."""
    for vcpu in (0, 1, 2, 3, 4, 8192, "0xffffffff"):
        event(s, IPI, f"0:4:{vcpu}", f"i{vcpu}:4:4:V")
        for virq in (0, 1, 2, 3, 7, 13, 15, 24):
            event(s, VIRQ, f"0:4:{virq},4:4:{vcpu}", f"v{virq}_{vcpu}:8:4:V")
    told(s, 1, 2)
    for vcpu in (1, 2, 3):
        for _ in range(2):
            event(s, SEND, f"0:4:$i{vcpu}")
            told(s, 1, 2)
        s.do("pend", by="M", p=f"$i{vcpu}")
        event(s, STATUS, f"0:2:SELF,4:4:$i{vcpu}", "st:8:4,on:12:4,u:16:4")
        for to in (0, 2, 4):
            event(s, BIND_VCPU, f"0:4:$i{vcpu},4:4:{to}")
        event(s, UNMASK, f"0:4:$i{vcpu}")
        told(s, 1, 2)
        event(s, SEND, f"0:4:$v1_{vcpu}")
        event(s, BIND_VCPU, f"0:4:$v1_{vcpu},4:4:0")
        event(s, STATUS, f"0:2:SELF,4:4:$v1_{vcpu}", "st:8:4,on:12:4,u:16:4")
    event(s, BIND_VCPU, "0:4:$v2_0,4:4:2")
    event(s, STATUS, "0:2:SELF,4:4:$v2_0", "st:8:4,on:12:4,u:16:4")
    for vcpu in (0, 1, 2, 3):
        event(s, CLOSE, f"0:4:$i{vcpu}")
        for virq in (0, 1, 2, 3, 7, 13, 15):
            if virq in (0, 1, 7, 13) or vcpu == 0:
                event(s, CLOSE, f"0:4:$v{virq}_{vcpu}")


def _set_up(s: Script) -> None:
    """VCPUOP_initialise with bad and good contexts, up, down."""
    for place in (UNMAPPED, "0", "0x800000000000", "0xffff830000000000"):
        initialise(s, 1, "", place)
    for words in (
        context(root="0"),
        context(root="f.A/l4"),
        context(root="f.M/9"),
        context(root="f.M/l1"),
        context(root="0xfffffffff000"),
        context(rip="0x800000000000"),
        context(more=f",{CONTEXT + 5112}:8:0x800000000000"),
        context(more=f",{CONTEXT + 4824}:8:8193"),
        context(more=f",{CONTEXT + 4816}:8:8,{CONTEXT + 4824}:8:1"),
        context(more=f",{CONTEXT + 4816}:8:0xffff830000000000,{CONTEXT + 4824}:8:1"),
        context(more=f",{CONTEXT + 4960}:8:7169"),
        context(more=f",{CONTEXT + 4960}:8:512,{CONTEXT + 4832}:8:M/9"),
        context(more=f",{CONTEXT + 4960}:8:512,{CONTEXT + 4832}:8:0xfffffffff"),
        context(more=f",{CONTEXT + 4960}:8:512,{CONTEXT + 4832}:8:M/l1"),
    ):
        initialise(s, 1, words)
    op(s, UP, 1)
    for vcpu in (0, 4, 8192):
        initialise(s, vcpu, context())
    initialise(s, 1, context())
    initialise(s, 1, context())
    op(s, UP, 1)
    initialise(s, 1, context(root="0"))
    op(s, INFO, 1, f"0:8:M/{INFOS},8:4:256")
    initialise(s, 2, context(flags=0x24, user="f.M/l4"))
    for cmd in (IS_UP, UP, IS_UP, DOWN, IS_UP, DOWN, UP, UP, IS_UP, 7, 9, 11):
        for vcpu in (1, 2, 3):
            op(s, cmd, vcpu, a3="0")
    domctl(s, 5, "M", "", "on:80:4,last:84:4,flags:20:4:f")


def _bound(s: Script) -> None:
    """Channels to another guest, beyond the first word of bits, with their notifications on several vCPUs."""
    event(s, ALLOC, "0:2:SELF,2:2:B", "x0:4:4:V")
    s.hypercall("M", EVENT_CHANNEL_OP, "0:2:SELF,2:2:B", "n:4:4", a1=ALLOC, a2="arg", rep=70)
    event(s, ALLOC, "0:2:SELF,2:2:B", "x1:4:4:V")
    for name, vcpu in (("x0", 1), ("x1", 2)):
        event(s, BIND_VCPU, f"0:4:${name},4:4:{vcpu}")
        event(s, INTERDOMAIN, f"0:2:M,4:4:${name}", f"b{name}:8:4:V", by="B")
        told(s, 1, 2)
        for _ in range(2):
            event(s, SEND, f"0:4:$b{name}", by="B")
            told(s, 1, 2)
        event(s, STATUS, f"0:2:SELF,4:4:${name}", "st:8:4,on:12:4,u:16:2,v:20:4")
        event(s, UNMASK, f"0:4:${name}")
        told(s, 1, 2)
        event(s, BIND_VCPU, f"0:4:${name},4:4:{3 - vcpu}")
        event(s, UNMASK, f"0:4:${name}")
        told(s, 1, 2)
        s.do("pend", by="M", p=f"${name}")


def _masked(s: Script) -> None:
    """The guest masks ports by its own stores into shared_info, which are sent then, and unmasked."""
    s.hypercall("M", UPDATE_VA_MAPPING, a1="w.40", a2="f.M/si+0x67", a3=2)
    for name, vcpu in (("y0", 1), ("y1", 2)):
        event(s, IPI, f"0:4:{vcpu}", f"{name}:4:4:V")
    for word in (0, 1, 2):
        s.do("wr", by="M", slot=40, off=2560 + 8 * word, v=(1 << 64) - 1)
    for name in ("y0", "y1", "y0"):
        s.do("pend", by="M", p=f"${name}")
        event(s, SEND, f"0:4:${name}")
        told(s, 1, 2)
        s.do("pend", by="M", p=f"${name}")
    event(s, UNMASK, "0:4:$y0")
    told(s, 1, 2)
    event(s, SEND, "0:4:$y0")
    told(s, 1, 2)
    for name in ("x0", "bx0"):
        event(s, UNMASK, f"0:4:${name}")
        told(s, 1, 2)
    event(s, CLOSE, "0:4:$y1")
    event(s, IPI, "0:4:1", "y2:4:4:V")
    s.do("pend", by="M", p="$y2")
    event(s, SEND, "0:4:$y2")
    told(s, 1, 2)
    s.do("pend", by="M", p="$y2")
    event(s, UNMASK, "0:4:$y2")
    told(s, 1, 2)
    for word in (0, 1, 2):
        s.do("wr", by="M", slot=40, off=2560 + 8 * word, v=0)
    event(s, SEND, "0:4:$y0")
    told(s, 1, 2)


def _ended(s: Script) -> None:
    """Paused, its vCPUs read and set again by Dom0, and destroyed while they wait."""
    domctl(s, 3, "M")
    reads = "flags:4608:8,rip:4744:8,cs:4752:2,ss:4776:2,cr3:9104:8:v"
    for vcpu in (0, 1, 2, 3, 4):
        domctl(s, 13, "M", f"16:4:{vcpu},24:8:arg+4096", reads if vcpu == 3 else "")
        domctl(s, 12, "M", f"16:4:{vcpu},24:8:{UNMAPPED}")
    # struct vcpu_guest_context at 4096, of a vCPU that is set up, and of one that is not
    for vcpu, root in ((1, "f.M/l4"), (1, "f.M/9"), (3, "f.M/9"), (3, "f.M/l4")):
        words = f"16:4:{vcpu},24:8:arg+4096,4608:8:0x4,4744:8:v.4,9104:8:{root}"
        domctl(s, 12, "M", words)
        domctl(s, 5, "M", "", "on:80:4,last:84:4,flags:20:4:f")
    domctl(s, 12, "M", "16:4:2,24:8:0")
    domctl(s, 5, "M", "", "on:80:4,last:84:4,flags:20:4:f")
    domctl(s, 15, "M", "16:4:4")
    domctl(s, 15, "M", "16:4:5")
    s.hypercall("d0", EVENT_CHANNEL_OP, "0:2:M", a1=RESET, a2="arg")
    s.hypercall("d0", EVENT_CHANNEL_OP, "0:2:M,4:4:5", "st:8:4", a1=STATUS, a2="arg")
    s.do("ge", "M:9", d="M", ref=9, flags=1, dom="B", pg="M/9")
    s.hypercall("B", 20, "0:8:w.20,8:4:2,12:4:9,16:2:M,18:2:0x7fff", "st:18:2:s,mh:20:4:V", "M:9", a1=0, a2="arg", a3=1)
    domctl(s, 5, "M", "", "zm:8:2:V")
    s.do("rmdom", n="M")
    domctl(s, 5, "$zm", "", "dom:8:2,flags:20:4:f,on:80:4")
    domctl(s, 12, "$zm", "16:4:1,24:8:0")
    domctl(s, 15, "$zm", "16:4:4")
    s.hypercall("B", 20, "0:8:w.20,16:4:$mh,20:2:0x7fff", "st:20:2:s", a1=1, a2="arg", a3=1)
    domctl(s, 2, "$zm")
    event(s, SEND, "0:4:$bx0", by="B")
    event(s, STATUS, "0:2:SELF,4:4:$bx0", "st:8:4,on:12:4,u:16:2", by="B")
    s.do("mkdom", n="M", kind="hvm", vcpus=3)
    domctl(s, 5, "M", "", "on:80:4,last:84:4,flags:20:4:f")
    s.hypercall("d0", 41, "0:8:arg+512,8:8:48,512:4:20,520:4:77", "a:520:4", a1="M", a2=1, a3="arg")
    for vcpu in (0, 1, 3):
        domctl(s, 12, "M", f"16:4:{vcpu},24:8:arg+4096")
        domctl(s, 5, "M", "", "on:80:4,last:84:4,flags:20:4:f")
        domctl(s, 13, "M", f"16:4:{vcpu},24:8:arg+4096")
        domctl(s, 12, "M", f"16:4:{vcpu},24:8:arg+4096,4608:8:0x20")
        domctl(s, 5, "M", "", "on:80:4,last:84:4,flags:20:4:f")
        domctl(s, 12, "M", f"16:4:{vcpu},24:8:0")
        domctl(s, 5, "M", "", "on:80:4,last:84:4,flags:20:4:f")
    domctl(s, 15, "M", f"16:4:{NOBODY}")
    s.do("rmdom", n="M")
