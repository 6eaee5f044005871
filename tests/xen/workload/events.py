"""Event channels between guests: all commands of EVENT_CHANNEL_OP, with ports of all states and pointers of all kinds."""

from __future__ import annotations

from tests.xen.workload.script import EVENT_CHANNEL_OP, NOBODY, NOWHERE, Script

INTERDOMAIN, VIRQ, CLOSE, SEND, STATUS, ALLOC, IPI, BIND_VCPU, UNMASK, RESET = 0, 1, 3, 4, 5, 6, 7, 8, 9, 10
TIMER = 0
FIXED = ("0", "1", "2", "60", "127", "1000", "4095", "4096", "0xffffffff")  # 3 is the agent's own
KEPT = 24


def ports(s: Script, name: str) -> list[str]:
    """Variables that hold ports of a guest."""
    return s.family.setdefault("ports", {}).setdefault(name, [])  # type: ignore[no-any-return]


def _port(s: Script, name: str) -> str:
    known = ports(s, name)
    return f"${s.pick(known)}" if known and s.chance(0.85) else s.pick(FIXED)


def _new(s: Script, by: str, command: int, words: str, at: int) -> str:
    name = s.variable("p")
    s.hypercall(by, EVENT_CHANNEL_OP, f"{words},{at}:4:0xabcd", f"{name}:{at}:4:V", a1=command, a2="arg")
    ports(s, by).append(name)
    del ports(s, by)[:-KEPT]
    return name


def alloc(s: Script) -> None:
    """alloc_unbound, for the caller or for others."""
    by = s.agent()
    dom = s.weighted((85, "SELF"), (15, s.domid(by)))
    remote = s.weighted((60, s.other(by)), (15, "SELF"), (10, by), (15, s.domid(by)))
    name = _new(s, by, ALLOC, f"0:2:{dom},2:2:{remote}", 4)
    remote = by if remote == "SELF" else remote
    if dom in ("SELF", by) and remote in s.agents:
        s.unbound.append((by, remote, name))
        del s.unbound[:-KEPT]


def bind(s: Script) -> None:
    """bind_interdomain, usually to a port that waits for the caller."""
    if s.unbound and s.chance(0.75):
        one = s.pick(s.unbound)
        other, by, name = one
        s.unbound.remove(one)
        _new(s, by, INTERDOMAIN, f"0:2:{other},4:4:${name}", 8)
        s.do("pend", by=by, p=f"${ports(s, by)[-1]}")
        return
    by = s.agent()
    other = s.weighted((70, s.other(by)), (15, by), (15, s.domid(by)))
    _new(s, by, INTERDOMAIN, f"0:2:{other},4:4:{_port(s, other) if other in s.agents else s.pick(FIXED)}", 8)


def virq(s: Script) -> None:
    """bind_virq and bind_ipi."""
    by = s.agent()
    vcpu = s.weighted((85, s.vcpu(by)), (5, "1"), (5, "8192"), (5, "0xffffffff"))
    if s.chance(0.3):
        _new(s, by, IPI, f"0:4:{vcpu}", 4)
    else:
        number = s.pick([*range(0, 24), 24, 99, "0xffffffff"])
        if number == TIMER:
            vcpu = "8192"  # if bound, it fires by time, which differs between machines
        _new(s, by, VIRQ, f"0:4:{number},4:4:{vcpu}", 8)


def use(s: Script) -> None:
    """send, close, unmask, bind_vcpu and status of a port, and its bits afterwards."""
    by = s.agent()
    port = _port(s, by)
    command = s.weighted((35, SEND), (18, CLOSE), (10, UNMASK), (10, BIND_VCPU), (27, STATUS))
    if command == STATUS:
        dom = s.weighted((75, "SELF"), (25, s.domid(by)))
        s.hypercall(
            by,
            EVENT_CHANNEL_OP,
            f"0:2:{dom},4:4:{port},8:4:77,12:4:77,16:4:77,20:4:77",
            "st:8:4,vcpu:12:4,u0:16:2" if dom in ("d0", "0") else "st:8:4,vcpu:12:4,u0:16:4,u1:20:4",
            a1=STATUS,
            a2="arg",
        )
    elif command == BIND_VCPU:
        s.hypercall(
            by, EVENT_CHANNEL_OP, f"0:4:{port},4:4:{s.pick((s.vcpu(by), '0', '1', '0xffffffff'))}", a1=BIND_VCPU, a2="arg"
        )
    else:
        s.hypercall(by, EVENT_CHANNEL_OP, f"0:4:{port}", a1=command, a2="arg")
    if port.startswith("$"):
        s.do("pend", by=by, p=port)


def nonsense(s: Script) -> None:
    """Unknown commands, bad pointers, resets of others."""
    by = s.agent()
    if s.chance(0.3):
        s.hypercall(by, EVENT_CHANNEL_OP, f"0:2:{s.pick((NOBODY, 'XEN', s.other(by)))}", a1=RESET, a2="arg")
    elif s.chance(0.5):
        s.hypercall(by, EVENT_CHANNEL_OP, a1=s.pick((0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 13)), a2=s.pick(NOWHERE))
    else:
        s.hypercall(
            by, EVENT_CHANNEL_OP, "0:4:1", a1=s.pick((2, 12, 13, 15, 16, 100, "0xffffffff", "0x100000006")), a2="arg"
        )


STEPS = ((22, alloc), (20, bind), (12, virq), (40, use), (6, nonsense))
