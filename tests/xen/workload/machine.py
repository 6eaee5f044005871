"""Hypercalls about processors and the machine: descriptors, debug registers, timers, vCPUs, versions, interrupts, refusals.

Contents: everything outside of grants, memory, page tables, events and domctl, by PV guests; multicalls, whose elements
are of any family. Not here: calls after which the agent cannot answer (iret, traps without handlers, block), or that depend
on time.
"""

from __future__ import annotations

from typing import Any

from tests.xen.workload.script import (
    DATA,
    NOBODY,
    NOWHERE,
    REFS,
    SPARE,
    TABLES,
    UPDATE_VA_MAPPING,
    Script,
)

HIGH = "0x800000000000"
ADDRESSES = ("0", "0x1000", HIGH, "0xffff830000000000", "0xfffffffffffff000", "0x7fffffffffff")
DESCRIPTORS = (
    "0",
    "5",
    "0x00af9b000000ffff",
    "0x00affb000000ffff",
    "0x00cff2000000ffff",
    "0x0000890000080000",
    "0x0000ec0000080000",
    "0x00008c0000080000",
    "0x00008c01e0330000",
    "0x00008c00e0330000",
    "0x0000820000000000",
    "0x00008c00f0080000",
    "0x000080ff00080000",
)


def descriptors(s: Script) -> None:
    """set_gdt and update_descriptor: of pages that are writable, read-only, tables, others', or not there."""
    by, page = s.agent(), s.pick(TABLES)
    which = s.weighted((35, "prepare"), (35, "update"), (30, "table"))
    if which == "prepare":
        value = s.weighted((40, "0"), (30, f"f.{by}/{page}+0x65"), (30, f"f.{by}/{page}+0x67"))
        s.hypercall(by, UPDATE_VA_MAPPING, a1=f"v.{page}", a2=value, a3=2)
    elif which == "update":
        owner = s.weighted((90, by), (10, s.other(by)))
        place = s.weighted(
            (80, f"f.{owner}/{page}+{8 * s.rng.randrange(512)}"), (6, f"f.{owner}/{page}+4"), (7, f"f.{by}/l1"), (7, "0")
        )
        s.hypercall(by, 10, a1=place, a2=s.pick(DESCRIPTORS))
    else:
        many = s.weighted((70, 1), (20, 2), (10, 0))
        entries = s.pick((512 * many, max(0, 512 * many - 511), 512 * many, 7168, 7169, "0x100000000"))
        owner = s.weighted((92, by), (8, s.other(by)))
        words = ",".join(
            f"{8 * i}:8:{s.weighted((92, f'{owner}/{s.pick(TABLES)}'), (8, '0xfffffffff'))}" for i in range(many)
        )
        s.hypercall(by, 2, words, a1=s.weighted((94, "arg"), (6, s.pick(NOWHERE))), a2=entries)


def registers(s: Script) -> None:
    """Debug registers written and read; segment bases, stacks, callbacks, the FPU, timers, assists."""
    by = s.agent()
    which = s.pick(("debug", "debug", "base", "stack", "callbacks", "callback", "nmi", "fpu", "timer", "assist", "traps"))
    if which == "debug":
        number = s.pick((0, 1, 2, 3, 4, 5, 6, 7, 8, 99, "0x100000000"))
        value = s.pick((*ADDRESSES, "0x400", "0xffffffff", "2", "0x20001", "0x2000", "0xe0000", "0x20100", "0x100000000"))
        s.hypercall(by, 8, a1=number, a2=value)
        s.hypercall(by, 9, a1=number)
        s.hypercall(by, 8, a1=7, a2=0)  # nothing may break in the agent
    elif which == "base":
        s.hypercall(by, 25, a1=s.pick((0, 1, 3, 4, "0xffffffff")), a2=s.pick((*ADDRESSES, "0xe02b", "3")))
    elif which == "stack":
        s.hypercall(by, 3, a1=s.pick(("0xe02b", "0", "3")), a2=s.pick(ADDRESSES))
    elif which == "callbacks":
        s.hypercall(by, 4, a1=s.pick(ADDRESSES), a2=s.pick(ADDRESSES), a3=s.pick(ADDRESSES))
    elif which == "callback":
        s.hypercall(
            by,
            30,
            f"0:2:{s.rng.randrange(10)},2:2:{s.pick((0, 1))},8:8:{s.pick(ADDRESSES)}",
            a1=s.weighted((60, 0), (30, 1), (10, s.pick((2, "0x100000000")))),
            a2=s.weighted((92, "arg"), (8, s.pick(NOWHERE))),
        )
    elif which == "nmi":
        s.hypercall(
            by, 28, f"0:8:{s.pick(ADDRESSES)}", a1=s.pick((0, 1, 2)), a2=s.weighted((92, "arg"), (8, s.pick(NOWHERE)))
        )
    elif which == "fpu":
        s.hypercall(by, 5, a1=s.pick((0, 1, 2)))
    elif which == "timer":
        s.hypercall(by, 15, a1=s.pick(("0", "0x7fffffffffffffff", "0xffffffffffffffff")))
    elif which == "assist":
        kind = s.pick((0, 1, 3, 4, 5, 6, 32, 63, 64, "0x100000000", "0xffffffff"))
        s.hypercall(by, 21, a1=s.pick((0, 1, 2, "0x100000000")), a2=kind)
    else:
        s.hypercall(
            by,
            0,
            f"0:1:{s.pick((4, 200))},2:2:0xe033,8:8:{s.pick(ADDRESSES)},24:8:{s.pick(('0', HIGH))}",
            a1=s.weighted((85, "arg"), (15, s.pick(NOWHERE))),
        )


def vcpus(s: Script) -> None:
    """vcpu_op of the vCPU that there is and of others: state, timers, areas, the page of its vcpu_info."""
    by = s.agent()
    command = s.pick((0, 1, 3, 3, 5, 6, 7, 8, 9, 10, 10, 10, 12, 13, 14, 99, "0x100000003"))
    number = s.weighted((85, s.vcpu(by)), (15, s.pick((1, 8191, 8192, "0xffffffff", "0x100000000"))))
    words, reads = "", ""
    if command in (5, 13):
        words = f"0:8:{s.pick(('0x7fff00000000', HIGH, '0xffff830000000000', '0xffffffffffffffff'))}"
    elif command == 6:
        words = f"0:8:{s.pick(('0', '999999', '0x7fffffffffffffff', '0x200000000000001'))}"
    elif command == 8:
        words = "0:8:0x7fffffffffffffff,8:4:1"
    elif command == 10:
        page = s.spare(by, SPARE)[0]
        owner = s.weighted((94, f"{by}/{page}"), (3, f"{s.other(by)}/{page}"), (0 if by in s.pvh else 3, f"{by}/l1"))
        offset = 64 if number in ("1", "2") and s.chance(0.7) else s.pick((0, 64, 64, 4032, 4033, 4040, 4, 66))
        words = f"0:8:{owner},8:4:{offset}"
    itself: dict[str, Any] = {"vcpu": int(number)} if by in s.running and number in ("1", "2") and s.chance(0.5) else {}
    place = s.weighted((93, "arg"), (7, s.pick(NOWHERE)))
    s.hypercall(by, 24, words, reads, a1=command, a2=number, a3=place, **itself)
    if command == 10 and number in ("1", "2") and ":4:64" in words and owner == f"{by}/{page}" and itself and place == "arg":
        _infos(s, by).setdefault(str(number), f"p{page}.64")
    s.count(by)


def _infos(s: Script, name: str) -> dict[str, str]:
    """Where the vcpu_info of a guest's vCPUs may lie, as first registered with an offset of 64."""
    return s.family.setdefault("infos", {}).setdefault(name, {})  # type: ignore[no-any-return]


def told(s: Script) -> None:
    """What Xen has told vCPUs of their events: pending upcall and selector, read and cleared; its mask is the guest's."""
    for name in s.running:
        for place in _infos(s, name).values():
            page = place.partition(".")[0]
            s.hypercall(name, 17, "", f"up:{place}:1,sel:{page}.72:8", a1=0)
            s.do("x", by=name, w=f"{place}:1:0,{page}.72:8:0")


def scheduler(s: Script) -> None:
    """sched_op: polls that end at once, watchdogs of a thousand seconds, other domains' ends."""
    by = s.agent()
    which = s.weighted((20, 3), (30, 6), (20, 4), (10, 0), (10, 5), (10, 99))
    place = s.weighted((93, "arg"), (7, s.pick(NOWHERE)))
    if which == 3:
        ports = f"64:4:{s.pick((0, 4096, 5000, '0xffffffff', 4095))}"
        many, where = s.weighted((60, 1), (20, 0), (20, s.pick((129, "0xffffffff")))), s.pick(("arg+64", *NOWHERE))
        s.hypercall(by, 29, f"0:8:{where},8:4:{many},16:8:1,{ports}", a1=3, a2=place)
    elif which == 6:
        number, seconds = s.pick((0, 1, 2, 3, 7)), s.weighted((60, 1000), (40, 0))
        if number == 0:
            seconds = 1000
        s.hypercall(by, 29, f"0:4:{number},4:4:{seconds}", a1=6, a2=place)
    elif which == 4:
        dom = s.pick((s.other(by), NOBODY, "SELF", "d0"))
        s.hypercall(by, 29, f"0:2:{dom},4:4:{s.rng.randrange(5)}", a1=4, a2=place)
    elif which == 99:
        s.hypercall(by, s.pick((6, 29)), a1=s.pick((8, 9, 99, "0xffffffff")), a2="arg")
    else:
        s.hypercall(by, s.pick((6, 29)) if which == 0 else 29, "0:4:1", a1=which, a2=place)


def version(s: Script) -> None:
    """xen_version, by guests and Dom0."""
    by, command = s.weighted((70, s.agent()), (30, "d0")), s.rng.randrange(12)
    if command == 9 and by == "d0":
        return  # the rig's own command line
    place = s.weighted((90, "arg"), (10, s.pick(NOWHERE))) if by != "d0" else "arg"
    place = "0" if command == 7 and s.chance(0.5) else place
    reads = ",".join(f"x{i}:{8 * i}:8" for i in range(18))
    s.hypercall(by, 17, f"0:4:{s.pick((0, 0, 1, 20, 64))}", reads, a1=command, a2=place)


def devices(s: Script) -> None:
    """physdev_op of a guest without devices, in its present and old form; the page for ends of interrupts."""
    by = s.agent()
    if s.chance(0.12):
        s.hypercall(by, 19, f"0:4:{s.pick((0, 4, 5, 6, 7, 8, 10, 11, 12))},8:4:{s.pick((0, 1, 4))}", "x:12:4", a1="arg")
        return
    command = s.pick(
        (4, 5, 5, 6, 7, 8, 9, 10, 12, 12, 13, 14, 15, 16, 17, 19, 20, 21, 23, 23, 23, 24, 25, 26, 28, 29, 30, 31, 40)
    )
    words, reads = f"0:4:{s.pick((0, 1, 3, 4, 16, 50, 51, 52, 53, 54, 55, 56, 1000, '0xffffffff'))}", "x:4:4"
    if command == 7:
        words = f"8:4:{s.pick((0, 65536, 65537))}"
    elif command == 23:
        words = f"0:4:{s.weighted((70, s.rng.randrange(5)), (30, 1))}"
    elif command in (17, 28):
        page = s.spare(by, SPARE)[0]
        words = f"0:8:{s.weighted((80, f'{by}/{page}'), (10, f'{s.other(by)}/{page}'), (10, f'{by}/l1'))}"
    elif command in (13, 14):
        words = f"0:2:{s.pick(('SELF', s.other(by), NOBODY, 'd0'))}"
    s.hypercall(by, 33, words, reads, a1=command, a2=s.weighted((93, "arg"), (7, s.pick(NOWHERE))))


def refused(s: Script) -> None:
    """Families of the control domain, of device models and of translated guests; xenoprof, and what does not exist."""
    by = s.agent()
    number = s.pick((7, 11, 18, 27, 31, 34, 34, 34, 35, 37, 38, 39, 40, 41, 41, 42, 43, 48, 49, 50, 55, 62, 63))
    dom = s.pick((s.other(by), *s.translated, NOBODY, "SELF", by, "d0"))
    place = s.weighted((90, "arg"), (10, s.pick(NOWHERE)))
    if number == 34:
        s.hypercall(by, 34, f"0:2:{dom},4:4:{s.rng.randrange(20)}", a1=s.rng.randrange(27), a2=place)
    elif number == 41:
        s.hypercall(by, 41, a1=dom, a2=s.pick((0, 1, 1, 2, 3, "0xffffffff")), a3=place)
    elif number in (7, 35):
        version_of = s.pick(("0x15", "0x14", "0x03000001"))
        s.hypercall(by, number, f"0:4:{s.rng.randrange(30)},4:4:{version_of}", a1=place)
    elif number == 49:
        s.hypercall(by, 49, a1=place)
    elif number == 31:
        s.hypercall(by, 31, a1=s.pick((1, 2, 3, 6, 16, 17, 99)), a2=place)
    else:
        s.hypercall(by, number, a1=s.rng.randrange(8), a2=place if number != 18 else 1, a3="arg")


def _element(s: Script, by: str, at: int) -> tuple[list[str], list[str]]:
    """A call for a list: its number and registers, its struct at `at`, and what is read of it."""
    which = s.pick(("version", "size", "alloc", "map", "unmap", "table", "unknown", "again", "reservation", "unset"))
    if which == "version":
        return [str(17), "0", "0"], []
    if which == "size":
        return ["20", "6", f"arg+{at}", "1", f"@{at}:2:SELF", f"@{at + 12}:2:0x7fff"], [f"{at + 12}:2:s"]
    if which == "alloc":
        return ["32", "6", f"arg+{at}", f"@{at}:2:SELF", f"@{at + 2}:2:{s.other(by)}"], [f"{at + 4}:4:u"]
    if which == "map":
        granter, ref = s.guest(), s.pick(REFS)
        words = (f"@{at}:8:w.{s.rng.randrange(16, 32)}", f"@{at + 8}:4:2", f"@{at + 12}:4:{ref}", f"@{at + 16}:2:{granter}")
        return ["20", "0", f"arg+{at}", "1", *words, f"@{at + 18}:2:0x7fff"], [f"{at + 18}:2:s"]
    if which == "unmap":
        return [
            "20",
            "1",
            f"arg+{at}",
            "1",
            f"@{at}:8:w.{s.rng.randrange(16, 32)}",
            f"@{at + 16}:4:{s.rng.randrange(40)}",
            f"@{at + 20}:2:0x7fff",
        ], [f"{at + 20}:2:s"]
    if which == "table":
        return ["14", f"v.{s.pick(TABLES)}", f"f.{by}/{s.pick(TABLES)}+0x65", "2"], []
    if which == "again":
        return ["13", f"arg+{at}", "1"], []
    if which == "reservation":
        return ["12", s.pick(("3", "4")), f"arg+{at}", f"@{at}:2:{s.pick((NOBODY, 'XEN'))}"], []
    return [s.pick(("99", "11", "0x100000011", "63")), "0"], []


def several(s: Script) -> None:
    """multicall of some calls of several families; also empty, nested and with a bad list."""
    by, many = s.agent(), s.weighted((85, s.rng.randrange(1, 5)), (15, 0))
    words, reads = [], []
    for i in range(many):
        call, told = _element(s, by, 1024 + 128 * i)
        number, *rest = call
        words.append(f"{64 * i}:8:{number},{64 * i + 8}:8:0x7777")
        values = [each for each in rest if not each.startswith("@")]
        words += [f"{64 * i + 16 + 8 * j}:8:{value}" for j, value in enumerate(values)]
        words += [each[1:] for each in rest if each.startswith("@")]
        reads += [f"r{i}:{64 * i + 8}:8:s", *(f"o{i}:{place}" for place in told)]
    words.append(f"{64 * many}:8:17")  # of a list that is longer than it was; number 0 would clear the agent's traps
    s.hypercall(
        by,
        13,
        ",".join(words),
        ",".join(reads),
        a1=s.weighted((94, "arg"), (6, s.pick(NOWHERE))),
        a2=s.weighted((90, many), (5, f"0x100000000+{many}"), (5, many + 1)),
    )
    s.count(by)
    s.do("pcrc", pg=f"{by}/{s.pick(DATA)}")


def old_events(s: Script) -> None:
    """The event channel operation of Xen 3.0."""
    by, command = s.agent(), s.pick((0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 99))
    words = {
        0: f"8:2:{s.other(by)},12:4:1000",
        1: f"8:4:{s.pick((5, 99))},12:4:0",
        5: "8:2:SELF,12:4:1",
        6: f"8:2:SELF,10:2:{s.other(by)}",
        7: "8:4:0",
    }.get(command, f"8:4:{s.rng.randrange(4, 30)}")
    s.hypercall(by, 16, f"0:4:{command},{words}", "x:12:4,y:16:4", a1=s.weighted((94, "arg"), (6, s.pick(NOWHERE))))


STEPS = (
    (16, descriptors),
    (18, registers),
    (12, vcpus),
    (6, told),
    (10, scheduler),
    (8, version),
    (10, devices),
    (10, refused),
    (14, several),
    (4, old_events),
)
