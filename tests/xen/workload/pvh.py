"""Calls of PVH guests: those of the other families that a translated guest may make, and changes of its physical map.

Contents: the turn of the PVH guests in other families' steps; their own populate, decrease, add_to_physmap and removal
over pages, holes, grant frames and mappings of grants. Not here: what Dom0 does to such guests (memory.py, domains.py).
"""

from __future__ import annotations

from collections.abc import Callable

from tests.xen.workload import events, grants, machine, memory
from tests.xen.workload.script import (
    DATA,
    GRANT_TABLE_OP,
    LENT,
    MEMORY_OP,
    NOWHERE,
    REFS,
    SPARE,
    Script,
    entries,
)

INCREASE, DECREASE, POPULATE, ADD, HIGHEST, REMOVE, BATCH = 0, 1, 6, 7, 14, 15, 23
UNUSED_SLOTS = range(40, 48)
BEYOND = ("0x500", "0x501", "0x3ff", "0xfee00", "0xfffffffff", "0x1000000000", "0x10000000000", "0xffffffffffffffff")


def _in_turn(step: Callable[[Script], None]) -> Callable[[Script], None]:
    def run(s: Script) -> None:
        if not s.pvh:
            return
        s.turn = s.pvh
        try:
            step(s)
        finally:
            s.turn = s.agents

    return run


def _gfn(s: Script, by: str) -> str:
    """A place in the physical map: a spare page, a page with contents, a window slot, or where there is nothing."""
    return s.weighted(
        (40, f"{by}/{s.pick((*SPARE, *LENT))}"),
        (10, f"{by}/{s.pick(DATA)}"),
        (25, str(0x80 + s.pick(UNUSED_SLOTS))),
        (10, str(0x80 + s.rng.randrange(16, 32))),
        (12, s.pick(BEYOND)),
        (3, f"{s.other(by)}/{s.pick(DATA)}"),
    )


def _dom(s: Script, by: str) -> str:
    return s.weighted((92, "SELF"), (3, by), (5, s.domid(by)))


def add(s: Script) -> None:
    """add_to_physmap: shared_info, frames of the grant table and its status, own pages, ranges."""
    by = s.pick(s.pvh)
    space = s.weighted((3, 0), (45, 1), (35, 2), (8, 3), (3, 4), (4, s.pick((5, 6, 99))))
    index = {
        0: s.pick(("0", "0", "1")),
        1: s.pick(("0", "1", "2", "7", "8", "0x80000000", "0x80000001", "0x8000ffff", "0x100000001")),
    }.get(space, _gfn(s, by))
    s.hypercall(
        by,
        MEMORY_OP,
        f"0:2:{_dom(s, by)},2:2:{s.pick((0, 1, 2))},4:4:{space},8:8:{index},16:8:{_gfn(s, by)}",
        a1=ADD,
        a2=s.weighted((95, "arg"), (5, s.pick(NOWHERE))),
    )
    s.count(by)


def remove(s: Script) -> None:
    """remove_from_physmap, of anything."""
    by = s.pick(s.pvh)
    s.hypercall(by, MEMORY_OP, f"0:2:{_dom(s, by)},8:8:{_gfn(s, by)}", a1=REMOVE, a2="arg")
    s.count(by)


def batch(s: Script) -> None:
    """add_to_physmap_batch."""
    by, many = s.pick(s.pvh), s.rng.randrange(1, 4)
    space = s.weighted((10, 0), (40, 1), (30, 2), (10, 4), (10, s.pick((3, 5, 99))))
    words = [f"0:2:{_dom(s, by)},2:2:{space},4:2:{many},6:2:{s.domid(by)},8:8:arg+512,16:8:arg+640,24:8:arg+768"]
    for i in range(many):
        index = s.pick(("0", "1", "0x80000000", "9")) if space == 1 else "0" if space == 0 else _gfn(s, by)
        words.append(f"{512 + 8 * i}:8:{index},{640 + 8 * i}:8:{_gfn(s, by)},{768 + 4 * i}:4:0x77")
    s.hypercall(by, MEMORY_OP, ",".join(words), ",".join(f"e{i}:{768 + 4 * i}:4:s" for i in range(many)), a1=BATCH, a2="arg")
    s.count(by)


def reserve(s: Script) -> None:
    """populate_physmap, increase and decrease_reservation, over whatever is there."""
    by, many = s.pick(s.pvh), s.weighted((70, 1), (30, 2))
    which = s.weighted((45, POPULATE), (45, DECREASE), (10, INCREASE))
    order = s.weighted((90, 0), (8, 1), (2, 9)) if which != DECREASE else s.weighted((95, 0), (5, 1))
    where = s.weighted((94, "arg+512"), (6, s.pick(NOWHERE)))
    words = [f"0:8:{where},8:8:{many},16:4:{order},20:4:{s.weighted((95, 0), (5, '0x10000'))},24:2:{_dom(s, by)}"]
    words += [f"{512 + 8 * i}:8:{_gfn(s, by)}" for i in range(many)]
    s.hypercall(by, MEMORY_OP, ",".join(words), a1=which, a2="arg")
    s.count(by)


def look(s: Script) -> None:
    """What a guest finds in its memory, and what Dom0 sees there; types of pages; the highest number."""
    by = s.pick(s.pvh)
    which = s.pick(("rd", "rd", "wr", "prd", "pcrc", "type", "top", "fmap"))
    where = s.weighted((60, {"pg": s.pick((*SPARE, *LENT, *DATA))}), (40, {"slot": s.rng.randrange(16, 48)}))
    off = 8 * s.rng.randrange(512)
    if which == "rd":
        s.do("rd", by=by, off=off, **where)
    elif which == "wr":
        s.do("wr", by=by, off=off, v=s.rng.randrange(1 << 48), **where)
    elif which == "type":
        s.hypercall(by, 34, f"0:2:{_dom(s, by)},8:8:{_gfn(s, by)}", "t:2:2", a1=15, a2="arg")
    elif which == "top":
        s.hypercall(by, MEMORY_OP, "0:2:SELF", a1=HIGHEST, a2="arg", nor=1)  # one of the machine's, now and then
    else:
        page = f"{by}/{s.pick((*SPARE, *DATA))}"
        s.do(which, pg=page, **{"prd": {"off": off}, "fmap": {"w": 0}}.get(which, {}))


def map_anywhere(s: Script) -> None:
    """A grant is mapped over a page, a hole or another mapping, and unmapped there, or elsewhere, or not."""
    by = s.pick(s.pvh)
    granter, ref = s.guest(), s.pick(REFS)
    flags = s.pick((2, 2, 6, 2, 6, 3, 0x12, 0xA))
    s.grant(granter, ref, by, f"{granter}/{s.pick(DATA)}", s.pick((1, 1, 5)))
    place, name = f"f.{_gfn(s, by)}+{s.weighted((90, 0), (10, 8))}", s.variable("h")
    s.hypercall(
        by,
        GRANT_TABLE_OP,
        f"0:8:{place},8:4:{flags},12:4:{ref},16:2:{granter},18:2:0x7fff,20:4:0xdeadbeef",
        f"st:18:2:s,{name}:20:4:V",
        entries([(granter, ref)]),
        a1=0,
        a2="arg",
        a3=1,
    )
    s.count(by)
    change = s.weighted((50, None), (20, reserve), (15, remove), (15, add))
    if change is not None:
        change(s)
    if s.chance(0.75):
        there = s.weighted((85, place), (10, f"f.{_gfn(s, by)}"), (5, "0"))
        s.hypercall(
            by,
            GRANT_TABLE_OP,
            f"0:8:{there},8:8:0,16:4:${name},20:2:0x7fff",
            "st:20:2:s",
            entries([(granter, ref)]),
            a1=1,
            a2="arg",
            a3=1,
        )
    s.count(by)


def anew(s: Script) -> None:
    """Another guest in its place: one that was crashed answers no more."""
    s.renew(s.pick(s.pvh))


def tables(s: Script) -> None:
    """The version of its table, with frames of it in the physical map; their numbers by setup_table."""
    by = s.pick(s.pvh)
    for index in ("0", "0x80000000"):
        if s.chance(0.5):
            s.hypercall(by, MEMORY_OP, f"0:2:SELF,4:4:1,8:8:{index},16:8:{_gfn(s, by)}", a1=ADD, a2="arg")
    s.hypercall(by, GRANT_TABLE_OP, f"0:4:{s.pick((1, 2))}", "v:0:4", a1=8, a2="arg", a3=1)
    many = s.pick((1, 1, 2))
    s.hypercall(
        by,
        GRANT_TABLE_OP,
        f"0:2:SELF,4:4:{many},8:2:0x7fff,16:8:arg+512",
        "st:8:2:s,f0:512:8:m,f1:520:8:m",
        a1=2,
        a2="arg",
        a3=1,
    )
    s.hypercall(by, GRANT_TABLE_OP, "0:4:1,4:2:SELF,6:2:0x7fff,8:8:arg+512", "st:6:2:s,f0:512:8:m", a1=9, a2="arg", a3=1)


OTHERS = (
    *((2 * weight, step) for weight, step in grants.STEPS),
    *((weight, step) for weight, step in events.STEPS),
    (10, memory.ask),
    (6, memory.resource),
    (4, memory.claim),
    (8, memory.nonsense),
    (8, memory.exchange),
    (6, memory.take),
    (12, machine.vcpus),
    (8, machine.scheduler),
    (8, machine.version),
    (8, machine.devices),
    (14, machine.refused),
    (10, machine.several),
    (4, machine.old_events),
    (8, machine.registers),
    (4, machine.descriptors),
)
STEPS = (
    *((weight, _in_turn(step)) for weight, step in OTHERS),
    *(
        (weight, _in_turn(step))
        for weight, step in (
            (24, add),
            (16, remove),
            (8, batch),
            (30, reserve),
            (30, look),
            (40, map_anywhere),
            (12, tables),
            (8, anew),
        )
    ),
)
