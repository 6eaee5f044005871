"""Corners of PVH guests with several vCPUs: how they are set up (VCPUOP_initialise has another form there), and what each
of them does then: calls, event channels of its own, its vcpu_info.

Not here: paravirtual guests with several vCPUs (vcpus.py), and translated guests whose vCPUs Dom0 sets up.
"""

from __future__ import annotations

from typing import Final

from tests.xen.corners.forms import UNMAPPED, domctl, memory
from tests.xen.workload.events import ALLOC, BIND_VCPU, CLOSE, INTERDOMAIN, IPI, SEND, STATUS, UNMASK, VIRQ
from tests.xen.workload.script import AGENT_ENTRY, EVENT_CHANNEL_OP, GRANT_TABLE_OP, PAGE, STACKS, Script

VCPU_OP, XEN_VERSION, SCHED_OP = 24, 17, 29
INITIALISE, UP, DOWN, IS_UP, INFO = 0, 1, 2, 3, 10
WHO: Final = "S"
ROOT: Final = 0x300  # guest frame number of its highest table
BITS_64, BITS_32 = 1, 0
CONTEXT: Final = 1024  # place of the context in the argument block
INFOS: Final = 6  # pool page with a vcpu_info for each vCPU
# struct vcpu_hvm_x86_64 after mode and padding
LONG: Final = {"rsp": 40, "rdi": 64, "rip": 72, "rflags": 80, "cr0": 88, "cr3": 96, "cr4": 104, "efer": 112}
# struct vcpu_hvm_x86_32: general registers, control registers, segments
SHORT: Final = {
    **{name: (40 + 4 * i, 4) for i, name in enumerate(("eip", "eflags", "cr0", "cr3", "cr4", "pad1"))},
    "efer": (64, 8),
    **{f"{name}_limit": (92 + 4 * i, 4) for i, name in enumerate(("cs", "ds", "ss", "es", "tr"))},
    **{f"{name}_ar": (112 + 2 * i, 2) for i, name in enumerate(("cs", "ds", "ss", "es", "tr"))},
}
FLAT: Final = {"cs_limit": "0xffffffff", "ds_limit": "0xffffffff", "ss_limit": "0xffffffff", "es_limit": "0xffffffff",
    "tr_limit": "0x67", "cs_ar": "0xc9b", "ds_ar": "0xc93", "ss_ar": "0xc93", "es_ar": "0xc93", "tr_ar": "0x8b"}  # fmt: skip


def _long(vcpu: int, mode: int | str = BITS_64, pad: int | str = 0, **changed: int | str) -> str:
    """A context in long mode: the agent's entry, on a stack of its own; some of it changed."""
    usual: dict[str, int | str] = {
        "rsp": (STACKS + vcpu + 1) * PAGE,
        "rdi": vcpu,
        "rip": AGENT_ENTRY,
        "rflags": 2,
        "cr0": "0x80000033",
        "cr3": ROOT << 12,
        "cr4": "0x20",
        "efer": "0x500",
        **changed,
    }
    words = [f"{CONTEXT}:128:0", f"{CONTEXT}:4:{mode}", f"{CONTEXT + 4}:4:{pad}"]
    return ",".join([*words, *(f"{CONTEXT + LONG[name]}:8:{value}" for name, value in usual.items())])


def _short(**changed: int | str) -> str:
    """A context in protected mode without paging; some of it changed."""
    usual: dict[str, int | str] = {"eip": AGENT_ENTRY, "eflags": 2, "cr0": 1, **FLAT, **changed}
    words = [f"{CONTEXT}:128:0"]
    return ",".join([*words, *(f"{CONTEXT + SHORT[name][0]}:{SHORT[name][1]}:{value}" for name, value in usual.items())])


def _op(s: Script, cmd: int, vcpu: int | str, w: str = "", a3: str = "arg", by: int = 0) -> None:
    """One vcpu_op on a vCPU, by another one or itself."""
    s.hypercall(WHO, VCPU_OP, w, a1=cmd, a2=vcpu, a3=a3, vcpu=by)


def _initialise(s: Script, vcpu: int | str, words: str, a3: str = f"arg+{CONTEXT}") -> None:
    _op(s, INITIALISE, vcpu, words, a3)
    _op(s, IS_UP, vcpu)
    domctl(s, 5, WHO, "", "on:80:4,last:84:4")


# One field of each form, with a value that Xen refuses, or that is strange.
SEGMENTS: Final = """
    cs_ar=0 ss_ar=0 tr_ar=0 cs_ar=0xc93 ss_ar=0xc9b ss_ar=0xc91 ds_ar=0xc99 es_ar=0xc99 cs_ar=0xc1b ds_ar=0xc13
    cs_ar=0xc8b tr_ar=0x9b tr_ar=0x89 tr_ar=0x83 tr_ar=0x8f tr_ar=0x0b cs_ar=0x1c9b ds_ar=0x8c93 ss_ar=0xcf3
    efer=0x400 cs_ar=0x49b ds_ar=0xcf3 pad1=1 cr0=0 efer=0x500 cs_ar=0xc9f ss_ar=0xc97 ds_ar=0xc9b efer=0x10000
    cr3=0xfffff000 tr_limit=0 cs_limit=0xfff cs_limit=0 eip=0xffffffff
"""
REGISTERS: Final = """
    rip=0x800000000000 cr0=0x33 cr0=0x80000000 cr3=0xfffffffff000 rflags=0xffffffff efer=0x400 efer=0x200
    efer=0x100 efer=0xd01 efer=0x1500 efer=0x2500 efer=0x4500 efer=0x8500 efer=0x10500 cr4=0 cr0=0x80000001
    cr0=0x1080000033
"""


def _changes(text: str) -> list[dict[str, str]]:
    """The fields of such a text, each with its value."""
    return [dict([each.split("=")]) for each in text.split()]


def _contexts(s: Script) -> None:
    """Contexts with something wrong or strange, each for a vCPU of a guest of its own, and once more."""
    contexts = [_long(1), _short(), _short(ds_ar=0, es_ar=0), _short(cr0="0x80000001", cr3="0x300000")]
    contexts += [_long(1, pad=1), _long(1, mode=2), _long(1, mode="0xffffffff")]
    contexts += [_short(cs_ar="0xcfb", ss_ar="0xcf3"), _short(eip="0x100000", cs_ar="0x49b", cs_limit="0xffff")]
    contexts += [_long(1, **change) for change in _changes(REGISTERS)]
    contexts += [_long(1, cr4=hex(0x20 | 1 << bit)) for bit in range(24)]
    contexts += [_short(**change) for change in _changes(SEGMENTS)]
    contexts += [_short(cr4=hex(1 << bit)) for bit in (4, 5, 11, 13, 14, 16, 18, 20, 31)]
    for words in contexts:
        s.do("mkdom", n=WHO, kind="pvh", vcpus=2)
        for _ in range(2):
            _op(s, INITIALISE, 1, words, f"arg+{CONTEXT}")
        _op(s, IS_UP, 1)
        s.do("rmdom", n=WHO)


def _refused(s: Script) -> None:
    """Pointers, and vCPUs that there are not, or that are set up."""
    _op(s, UP, 3)
    for place in (UNMAPPED, "0x800000000000", "0xffff830000000000"):
        _initialise(s, 3, "", place)
    for vcpu in (0, 4, 8192):
        _initialise(s, vcpu, _long(3))


def _event(s: Script, cmd: int, w: str, o: str = "", vcpu: int = 0, by: str = WHO) -> None:
    s.hypercall(by, EVENT_CHANNEL_OP, w, o, a1=cmd, a2="arg", vcpu=vcpu)


def _told(s: Script, *vcpus: int) -> None:
    """What is in the vcpu_info of vCPUs: upcall pending, its mask, the selector; cleared then, except for the mask."""
    for vcpu in vcpus:
        at = 64 * vcpu
        s.hypercall(
            WHO, XEN_VERSION, "", f"up:p{INFOS}.{at}:1,mask:p{INFOS}.{at + 1}:1,sel:p{INFOS}.{at + 8}:8", a1=0, vcpu=0
        )
        s.do("x", by=WHO, w=f"p{INFOS}.{at}:1:0,p{INFOS}.{at + 8}:8:0")


def _registered(s: Script) -> None:
    """A vcpu_info for each vCPU, by itself or by another one, once; not of a vCPU that is up."""
    s.do("x", by=WHO, w=f"p{INFOS}.0:256:0")
    for vcpu, by in ((1, 1), (1, 1), (2, 1), (2, 2), (3, 0), (3, 0), (4, 0)):
        for words in (
            "0:8:0x7ff,8:4:64",
            f"0:8:{WHO}/{INFOS},8:4:4040",
            f"0:8:{WHO}/{INFOS},8:4:4",
            f"0:8:{WHO}/{INFOS},8:4:{64 * vcpu}",
        ):
            _op(s, INFO, vcpu, words, by=by)
    _told(s, 1, 2, 3)
    for vcpu in (1, 2, 3):
        s.do("x", by=WHO, w=f"p{INFOS}.{64 * vcpu + 1}:1:1")


def _delivered(s: Script) -> None:
    """IPIs, VIRQs and channels of each vCPU, sent by each."""
    for vcpu in (0, 1, 2, 3):
        _event(s, IPI, f"0:4:{vcpu}", f"i{vcpu}:4:4:V", vcpu=vcpu % 3)
        for virq in (0, 1, 7, 13, 3):
            _event(s, VIRQ, f"0:4:{virq},4:4:{vcpu}", f"v{virq}_{vcpu}:8:4:V", vcpu=(vcpu + 1) % 3)
    _told(s, 1, 2, 3)
    for sender in (0, 1, 2):
        for vcpu in (1, 2, 3):
            _event(s, SEND, f"0:4:$i{vcpu}", vcpu=sender)
            _told(s, 1, 2, 3)
            s.do("pend", by=WHO, p=f"$i{vcpu}")
            _event(s, BIND_VCPU, f"0:4:$i{vcpu},4:4:{sender}", vcpu=sender)
            _event(s, UNMASK, f"0:4:$i{vcpu}", vcpu=sender)
    _event(s, ALLOC, "0:2:SELF,2:2:B", "x0:4:4:V", vcpu=2)
    for vcpu in (2, 1, 3):
        _event(s, BIND_VCPU, f"0:4:$x0,4:4:{vcpu}", vcpu=1)
        if vcpu == 2:
            _event(s, INTERDOMAIN, f"0:2:{WHO},4:4:$x0", "b0:8:4:V", by="B")
        _told(s, 1, 2, 3)
        _event(s, SEND, "0:4:$b0", by="B")
        _told(s, 1, 2, 3)
        _event(s, STATUS, "0:2:SELF,4:4:$x0", "st:8:4,on:12:4,u:16:2,v:20:4", vcpu=vcpu % 3)
        s.do("pend", by=WHO, p="$x0")
    for vcpu in (0, 1, 2, 3):
        _event(s, CLOSE, f"0:4:$i{vcpu}", vcpu=1)


def _used(s: Script) -> None:
    """Grants, memory and the map by the other vCPUs; one changes what the other one sees."""
    for vcpu in (1, 2):
        s.grant("A", 4, WHO, "A/4", 1)
        words = "0:8:w.20,8:4:2,12:4:4,16:2:A,18:2:0x7fff"
        s.hypercall(WHO, GRANT_TABLE_OP, words, "st:18:2:s,h:20:4:V", "A:4", a1=0, a2="arg", a3=1, vcpu=vcpu)
        s.do("rd", by=WHO, slot=20, off=8)
        s.hypercall(
            WHO, GRANT_TABLE_OP, "0:8:w.20,16:4:$h,20:2:0x7fff", "st:20:2:s", "A:4", a1=1, a2="arg", a3=1, vcpu=3 - vcpu
        )
        memory(s, WHO, 6, "0:8:arg+512,8:8:1,16:4:0,24:2:SELF,512:8:0x700", vcpu=vcpu)
        memory(s, WHO, 15, "0:2:SELF,8:8:0x700", vcpu=3 - vcpu)
        s.hypercall(WHO, 34, f"0:2:SELF,4:4:{9 + vcpu},8:8:{vcpu}", a1=0, a2="arg", vcpu=vcpu)
        s.hypercall(WHO, 34, "0:2:SELF,4:4:10", "p:8:8", a1=1, a2="arg", vcpu=vcpu)
    for cmd in (IS_UP, DOWN, IS_UP, DOWN, UP, IS_UP):
        for vcpu in (3, 2):
            _op(s, cmd, vcpu, a3="0", by=1)
    for cmd, vcpu in ((8, 1), (8, 2), (9, 1), (9, 2)):
        _op(s, cmd, vcpu, "0:8:0,8:4:1", by=1)


def initialised(s: Script) -> None:
    """All of them."""
    _contexts(s)
    s.do("mkdom", n=WHO, kind="pvh", vcpus=4)
    s.do("pfill", d=WHO)
    _refused(s)
    for vcpu in (1, 2, 3):
        _initialise(s, vcpu, _long(vcpu))
        _initialise(s, vcpu, _long(vcpu))
    for vcpu in (1, 2):
        _op(s, UP, vcpu)
        _op(s, UP, vcpu)
        s.hypercall(WHO, XEN_VERSION, "", "r:r:8", a1=0, vcpu=vcpu)
    _registered(s)
    _delivered(s)
    _used(s)
    s.do("rmdom", n=WHO)
