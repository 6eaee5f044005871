"""Memory operations: reservations, exchange, claims, the physmap of PV guests, resources; by guests and by Dom0 for them."""

from __future__ import annotations

from tests.xen.workload.script import DATA, MEMORY_OP, NOWHERE, SPARE, UPDATE_VA_MAPPING, Script

INCREASE, DECREASE, CURRENT, MAXIMUM, POPULATE, ADD, EXCHANGE, HIGHEST, REMOVE, BATCH, CLAIM, ACQUIRE = (
    0,
    1,
    3,
    4,
    6,
    7,
    11,
    14,
    15,
    23,
    24,
    28,
)
UNUSED = (5, 8, 9, 10, 12, 13, 16, 17, 18, 19, 20, 21, 22, 25, 26, 27, 29, 30, 33, 63)


def _release(s: Script, by: str, page: int) -> None:
    """Remove the guest's own mapping, so that the page can be freed."""
    s.hypercall(by, UPDATE_VA_MAPPING, a1=f"v.{page}", a2="0", a3=2)


def limit(s: Script) -> None:
    """max_mem relative to the guest's pages."""
    name = s.agent()
    s.count(name)
    s.hypercall("d0", 36, f"0:4:11,4:4:0x15,8:2:{name},16:8:k.$cur.{name}+{4 * s.pick((0, 1, 3, 16, 64))}", a1="arg")


def give_up(s: Script) -> None:
    """decrease_reservation: own pages, mapped or not, twice, and pages of others."""
    by = s.agent()
    pages = s.spare(by, SPARE, s.weighted((60, 1), (40, s.rng.randrange(2, 4))))
    pages += pages[:1] if s.chance(0.2) else []
    for page in pages:
        if s.chance(0.7):
            _release(s, by, page)
    other = f"{s.other(by)}/{s.pick(DATA)}"
    names = [
        s.weighted((90, f"{by}/{page}"), (5, other), (2, f"{by}/l1"), (2, "0xffffffffffffffff"), (1, "0")) for page in pages
    ]
    words = [f"0:8:arg+512,8:8:{len(names)},16:4:0,20:4:0,24:2:{s.weighted((92, 'SELF'), (8, s.domid(by)))}"]
    s.hypercall(
        by,
        MEMORY_OP,
        ",".join([*words, *(f"{512 + 8 * i}:8:{name}" for i, name in enumerate(names))]),
        a1=DECREASE,
        a2="arg",
    )
    s.count(by)


def take(s: Script) -> None:
    """increase_reservation and populate_physmap, with orders, flags and lists of all kinds."""
    by = s.weighted((80, s.agent()), (20, "d0"))
    dom = s.weighted((92, "SELF"), (8, s.domid(by))) if by != "d0" else s.agent()
    which = s.pick((INCREASE, POPULATE))
    many, order = s.weighted((70, 1), (20, 2), (10, 0)), s.weighted((75, 0), (10, 1), (5, 9), (5, 19), (5, "0xffffffff"))
    flags = s.weighted((85, 0), (15, s.pick((1, 31, 32, 64, 255, "0x10000", "0x20000"))))
    if dom in s.pvh and flags == "0x10000":
        flags = 0  # memory on demand, which the implementation does not have, comes when it is touched
    where = s.weighted((85, "arg+512"), (5, "0" if which == INCREASE else "arg+512"), (10, s.pick(NOWHERE)))
    s.hypercall(
        by,
        MEMORY_OP,
        f"0:8:{where},8:8:{many},16:4:{order},20:4:{flags},24:2:{dom},512:8:0x700,520:8:0x708",
        a1=which,
        a2="arg",
    )
    s.count(dom if dom in s.agents else by if by != "d0" else s.agent())


def exchange(s: Script) -> None:
    """memory_exchange of pages with and without other references."""
    by, many = s.agent(), s.weighted((60, 1), (30, 2), (10, 3))
    pages = s.spare(by, SPARE, many)
    for page in pages:
        if s.chance(0.8):
            _release(s, by, page)
    dom = s.weighted((92, "SELF"), (8, s.domid(by)))
    inside, out = s.weighted((94, "arg+256"), (6, s.pick(NOWHERE))), s.weighted((94, "arg+512"), (6, s.pick(NOWHERE)))
    counts = s.weighted((90, (many, many)), (10, (many, many + 1)))
    words = [
        f"0:8:{inside},8:8:{counts[0]},16:4:0,20:4:0,24:2:{dom}",
        f"32:8:{out},40:8:{counts[1]},48:4:0,52:4:0,56:2:{dom},64:8:0",
    ]
    words += [f"{256 + 8 * i}:8:{by}/{page},{512 + 8 * i}:8:{0x40 + page}" for i, page in enumerate(pages)]
    s.hypercall(by, MEMORY_OP, ",".join(words), "done:64:8", a1=EXCHANGE, a2="arg")
    s.count(by)


def ask(s: Script) -> None:
    """Queries about domains; numbers that differ between machines are not compared."""
    by = s.agent()
    dom = s.domid(by)
    s.hypercall(
        by,
        MEMORY_OP,
        f"0:2:{dom}",
        a1=s.pick((CURRENT, MAXIMUM, HIGHEST)),
        a2=s.weighted((90, "arg"), (10, s.pick(NOWHERE))),
        nor=1 if dom in ("SELF", by) else 0,
    )


def physmap(s: Script) -> None:
    """add_to_physmap, batches and removal on PV guests; all kinds of spaces."""
    by = s.agent()
    dom = s.weighted((70, "SELF"), (30, s.domid(by)))
    space = s.pick((0, 1, 2, 3, 4, 5, 6, 99))
    which = s.pick((ADD, REMOVE, BATCH))
    if which == ADD:
        words, reads = f"0:2:{dom},2:2:0,4:4:{space},8:8:{s.pick((0, 1, 9, '0x80000000'))},16:8:5", ""
    elif which == REMOVE:
        words, reads = f"0:2:{dom},8:8:{s.pick((5, '0xffffffff'))}", ""
    else:
        words = f"0:2:{dom},2:2:{space},4:2:1,8:8:arg+512,16:8:arg+520,24:8:arg+528,512:8:0,520:8:5,528:4:0x77"
        reads = "e0:528:4:s"
    s.hypercall(by, MEMORY_OP, words, reads, a1=which, a2="arg")


def resource(s: Script) -> None:
    """acquire_resource: sizes and refusals, by guests and by Dom0."""
    by = s.weighted((60, s.agent()), (40, "d0"))
    dom = s.domid(by) if by != "d0" else s.guest()
    many, frame = s.pick((0, 0, 1, 2, 9, 33)), s.pick(("0", "0", "7", "8", "0xffffffff"))
    where = s.pick(("0", "arg+512")) if by != "d0" or many == 0 else "arg+512"
    s.hypercall(
        by,
        MEMORY_OP,
        f"0:2:{dom},2:2:{s.pick((0, 1, 1, 2, 3))},4:4:{s.pick((0, 0, 1, 2))},8:4:{many},16:8:{frame},24:8:{where}",
        "n:8:4",
        a1=ACQUIRE,
        a2="arg",
    )


def claim(s: Script) -> None:
    """claim_pages."""
    by = s.weighted((50, s.agent()), (50, "d0"))
    dom = s.domid(by) if by != "d0" else s.agent()
    s.hypercall(
        by, MEMORY_OP, f"0:8:0,8:8:{s.pick((0, 0, 1))},16:4:{s.pick((0, 0, 1))},20:4:0,24:2:{dom}", a1=CLAIM, a2="arg"
    )
    if by == "d0":
        s.hypercall("d0", MEMORY_OP, f"8:8:0,24:2:{dom}", a1=CLAIM, a2="arg")


def nonsense(s: Script) -> None:
    """Operations that a guest may not use, and bad pointers."""
    by = s.agent()
    if s.chance(0.5):
        s.hypercall(by, MEMORY_OP, "0:8:0x7ff0", a1=s.pick(UNUSED), a2="arg")
    else:
        s.hypercall(by, MEMORY_OP, a1=s.pick((0, 1, 3, 4, 6, 7, 11, 14, 15, 23, 28)), a2=s.pick(NOWHERE))


STEPS = (
    (8, limit),
    (22, give_up),
    (22, take),
    (14, exchange),
    (6, ask),
    (8, physmap),
    (8, resource),
    (4, claim),
    (8, nonsense),
)
