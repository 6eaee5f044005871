"""Domains: destruction and successors, pauses, limits, queries, and operations forbidden to guests; PVH domains' memory."""

from __future__ import annotations

from tests.xen.workload.script import DATA, DOMCTL, DOMCTL_VERSION, GRANT_TABLE_OP, MEMORY_OP, NOBODY, REFS, Script

CREATE, DESTROY, PAUSE, UNPAUSE, GET_INFO, MAX_MEM, MAX_VCPUS, SET_TARGET = 1, 2, 3, 4, 5, 11, 15, 46
INFO = "dom:16:2,max:32:8,claimed:40:8,shared:48:8,paged:56:8,on:80:4,last:84:4,sid:88:4,handle:92:8,pool:108:4"


def _domctl(
    s: Script, by: str, command: int, dom: str, words: str = "", reads: str = "", version: str = DOMCTL_VERSION
) -> None:
    s.hypercall(by, DOMCTL, f"0:4:{command},4:4:{version},8:2:{dom}" + ("," + words if words else ""), reads, a1="arg")


def successor(s: Script) -> None:
    """A guest is destroyed while others map its pages or it maps theirs; another one with its name follows."""
    if s.rng.random() < 0.6 or not s.translated:
        name = s.agent()
    else:
        name = s.pick([s.still()[-1], *s.pvh])  # frame numbers below 64 are named after the first one
    s.do("show", "+".join(f"{name}:{ref}" for ref in REFS))
    translated = name in s.translated
    s.remove(name)
    for other in s.agents:
        s.do("show", "+".join(f"{other}:{ref}" for ref in REFS))
    s.make(name, translated)


def pauses(s: Script) -> None:
    """Paused twice, unpaused twice and once more."""
    name = s.guest()
    many = s.weighted((80, 1), (20, 2))
    for op in ("pause", "unpause"):
        for _ in range(many):
            s.do(op, n=name)


def ask(s: Script) -> None:
    """getdomaininfo of existing and missing domains."""
    dom = s.weighted((70, s.guest()), (30, s.pick(("SELF", NOBODY, "XEN", "0xffff"))))
    _domctl(s, "d0", GET_INFO, dom, "", INFO if dom in (*s.agents, *s.translated) else "dom:8:2")


def forbidden(s: Script) -> None:
    """A guest tries operations of the control domain; wrong versions of the interface."""
    by = s.agent()
    version = s.weighted((80, DOMCTL_VERSION), (20, "0x14"))
    _domctl(
        s, by, s.pick((CREATE, DESTROY, PAUSE, GET_INFO, MAX_MEM, MAX_VCPUS, SET_TARGET, 99)), s.domid(by), "", "", version
    )


def refused(s: Script) -> None:
    """Impossible requests of Dom0."""
    command, dom, words = s.pick(
        (
            (MAX_VCPUS, s.agent(), f"16:4:{s.pick((0, 1, 2, 33, 8193))}"),
            (MAX_MEM, NOBODY, "16:8:4096"),
            (PAUSE, NOBODY, ""),
            (PAUSE, "SELF", ""),
            (UNPAUSE, s.agent(), ""),
            (99, s.agent(), ""),
            (DESTROY, NOBODY, ""),
            (DESTROY, "SELF", ""),
            (CREATE, "0", "16:4:0,36:4:0xffffffff,44:4:1,48:4:-1,52:4:8,56:4:64,60:4:2"),
            (CREATE, "0", "36:4:0,44:4:0,48:4:1023,52:4:8,56:4:64,60:4:2"),
            (CREATE, "0", "36:4:0,44:4:1,48:4:1023,52:4:8,56:4:64,60:4:0"),
            (CREATE, "0", "36:4:0,44:4:1,48:4:1023,52:4:8,56:4:64,60:4:3"),
        )
    )
    _domctl(s, "d0", command, dom, words)


def noted(s: Script) -> None:
    """setdomainhandle, which getdomaininfo tells, and the address size."""
    name = s.guest()
    if s.chance(0.3):
        _domctl(s, "d0", 36, s.weighted((90, name), (10, NOBODY)), "", "size:16:4")
        return
    _domctl(s, "d0", 17, name, f"16:8:{s.rng.randrange(1 << 60)},24:8:{s.rng.randrange(1 << 60)}")
    _domctl(s, "d0", GET_INFO, name, "", INFO + ",more:100:8")


def unknown(s: Script) -> None:
    """Unknown hypercalls."""
    s.hypercall(s.agent(), s.pick((11, 55, 63, 99, 120)), a1=0)


def physmap(s: Script) -> None:
    """Dom0 changes a PVH domain's p2m, while guests map and copy its grants."""
    if not s.translated:
        return
    name = s.pick(s.translated)
    first, unused = s.numbers(name)
    gfn, free = first + s.rng.randrange(64), s.pick(unused)
    which = s.weighted((20, "populate"), (20, "decrease"), (20, "remove"), (15, "special"), (15, "foreign"), (10, "move"))
    if which in ("populate", "decrease"):
        s.hypercall(
            "d0",
            MEMORY_OP,
            f"0:8:arg+512,8:8:1,24:2:{name},512:8:{free if which == 'populate' else gfn}",
            a1=6 if which == "populate" else 1,
            a2="arg",
        )
    elif which == "remove":
        s.hypercall("d0", MEMORY_OP, f"0:2:{name},8:8:{s.pick((gfn, free))}", a1=15, a2="arg")
    elif which == "special":
        s.hypercall(
            "d0", MEMORY_OP, f"0:2:{name},4:4:{s.pick((0, 1))},8:8:{s.pick((0, 0, 1, 9))},16:8:{free}", a1=7, a2="arg"
        )
    elif which == "move":
        s.hypercall("d0", MEMORY_OP, f"0:2:{name},4:4:2,8:8:{gfn},16:8:{free}", a1=7, a2="arg")
    else:
        page = f"{s.agent()}/{s.pick(DATA)}"
        s.hypercall(
            "d0",
            MEMORY_OP,
            f"0:2:{name},2:2:4,4:2:1,6:2:{page[0]},8:8:arg+512,16:8:arg+520,24:8:arg+528,512:8:{page},520:8:{free}",
            "e0:528:4:s",
            a1=23,
            a2="arg",
        )
    s.count(name)


def grants_of(s: Script) -> None:
    """Dom0 copies from and to a PVH domain by its frame numbers."""
    if not s.translated:
        return
    name, own = s.pick(s.translated), s.agent()
    page = s.pick(DATA)
    gfn = s.numbers(name)[0] + s.rng.randrange(64)
    s.hypercall(
        "d0",
        GRANT_TABLE_OP,
        f"0:8:{gfn},8:2:{name},16:8:{own}/{page},24:2:{own},32:2:64,36:2:0x7fff",
        "st:36:2:s",
        a1=5,
        a2="arg",
        a3=1,
    )
    s.do("prd", pg=f"{own}/{page}", off=8)


STEPS = (
    (6, successor),
    (6, pauses),
    (12, ask),
    (14, forbidden),
    (14, refused),
    (6, noted),
    (4, unknown),
    (26, physmap),
    (10, grants_of),
)
