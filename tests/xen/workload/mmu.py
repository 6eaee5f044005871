"""Page tables of PV guests: entries of all levels with all bits, types and pins, foreign frames as tables, other domains."""

from __future__ import annotations

from tests.xen.workload.script import (
    DATA,
    MMU_UPDATE,
    MMUEXT_OP,
    NOWHERE,
    TABLES,
    UPDATE_VA_MAPPING,
    UPDATE_VA_MAPPING_OTHERDOMAIN,
    Script,
)

PIN_L1, PIN_L2, PIN_L3, PIN_L4, UNPIN = 0, 1, 2, 3, 4
FLUSH_LOCAL, INVLPG_LOCAL, FLUSH_MULTI, FLUSH_ALL, INVLPG_ALL, FLUSH_CACHE, SET_LDT = 6, 7, 8, 10, 11, 12, 13
CLEAR, COPY_PAGE = 16, 17
FLAGS = ("0x67", "0x67", "0x65", "0x65", "0x63", "0x61", "0x7", "0x1", "0x167", "0x267", "0xe67", "0x27")


def _owner(s: Script, by: str) -> str:
    return by if s.chance(0.88) else s.other(by)


def _flags(s: Script) -> str:
    return s.weighted((92, s.pick(FLAGS)), (8, f"0x67+{1 << s.pick([*range(7, 12), *range(52, 64)])}"))


def _foreign(s: Script, by: str) -> str:
    return s.weighted((80, "SELF"), (20, s.domid(by)))


def _value(s: Script, by: str) -> str:
    page = f"{_owner(s, by)}/{s.pick(TABLES)}"
    return s.weighted(
        (76, f"f.{page}+{_flags(s)}"),
        (10, "0"),
        (4, f"f.{by}/l1+{_flags(s)}"),
        (3, f"f.{by}/mb+0x65"),
        (3, f"f.{s.agent()}/{s.pick(DATA)}+{_flags(s)}"),
        (2, f"f.{s.pick(('0x100', '0xfee00', '0xfffffffff'))}+0x67"),
        (2, f"f.{by}/l4+0x65"),
    )


def update(s: Script) -> None:
    """mmu_update of window entries and of entries in tables under construction, one or several."""
    by = s.agent()
    many = s.weighted((70, 1), (25, s.rng.randrange(2, 5)), (5, 0))
    words = []
    for i in range(many):
        command = s.weighted((90, 0), (3, 1), (4, 2), (3, s.rng.randrange(3, 8)))
        target = s.weighted(
            (60, f"t.{s.rng.randrange(16)}"), (40, f"f.{_owner(s, by)}/{s.pick(TABLES)}+{8 * s.rng.randrange(4)}")
        )
        if command == 1:  # machine to physical: of frames that nobody else looks at
            target, value = f"f.{by}/{s.pick(TABLES)}", str(s.pick(TABLES))
        else:
            value = _value(s, by)
        words.append(f"{16 * i}:8:{target}+{command},{16 * i + 8}:8:{value}")
    place = s.weighted((96, "arg"), (4, s.pick(NOWHERE)))
    done = s.weighted((90, "arg+2048"), (5, "0"), (5, s.pick(NOWHERE)))
    s.hypercall(
        by, MMU_UPDATE, ",".join([*words, "2048:4:0x5555"]), "done:2048:4", a1=place, a2=many, a3=done, a4=_foreign(s, by)
    )


def update_one(s: Script) -> None:
    """update_va_mapping of a pool page's own address: cleared, set read-only, set to another page."""
    by = s.agent()
    page = s.pick(TABLES)
    value = s.weighted((40, "0"), (25, f"f.{by}/{page}+0x67"), (20, f"f.{by}/{page}+0x65"), (15, _value(s, by)))
    flags = s.weighted((90, "2"), (10, s.pick(("0", "1", "3", "4", "0x1000"))))
    if s.chance(0.1):
        s.hypercall(by, UPDATE_VA_MAPPING_OTHERDOMAIN, a1=f"v.{page}", a2=value, a3=flags, a4=s.domid(by))
    else:
        s.hypercall(by, UPDATE_VA_MAPPING, a1=s.weighted((94, f"v.{page}"), (6, s.pick(NOWHERE))), a2=value, a3=flags)


def _operations(s: Script, by: str) -> tuple[int, str, str]:
    command = s.weighted(
        (34, s.rng.randrange(3)),
        (2, PIN_L4),
        (22, UNPIN),
        (6, CLEAR),
        (4, COPY_PAGE),
        (4, FLUSH_LOCAL),
        (4, INVLPG_LOCAL),
        (2, FLUSH_MULTI),
        (2, FLUSH_ALL),
        (2, INVLPG_ALL),
        (2, FLUSH_CACHE),
        (4, SET_LDT),
        (2, 99),
        (2, 14),
    )
    if command == SET_LDT:
        where = s.weighted((60, "0"), (20, "v.20"), (10, "v.20+1"), (10, s.pick(NOWHERE)))
        return command, where, s.pick(("0", "0", "1", "8192", "8193"))
    if command in (INVLPG_LOCAL, INVLPG_ALL):
        return command, f"w.{s.rng.randrange(16)}", "0"
    return command, f"{_owner(s, by)}/{s.pick(TABLES)}", f"{by}/{s.pick(TABLES)}" if command == COPY_PAGE else "0"


def extended(s: Script) -> None:
    """mmuext_op: pins of all levels, unpins, cleared and copied pages, flushes, LDTs."""
    by = s.agent()
    many = s.weighted((75, 1), (25, s.rng.randrange(2, 4)))
    words = []
    for i in range(many):
        command, one, two = _operations(s, by)
        words.append(f"{24 * i}:4:{command},{24 * i + 8}:8:{one},{24 * i + 16}:8:{two}")
    s.hypercall(
        by,
        MMUEXT_OP,
        ",".join([*words, "2048:4:0x5555"]),
        "done:2048:4",
        a1=s.weighted((97, "arg"), (3, s.pick(NOWHERE))),
        a2=many,
        a3=s.weighted((90, "arg+2048"), (10, "0")),
        a4=_foreign(s, by),
    )


def prepare(s: Script) -> None:
    """Prepare a page as a table: clear it, remove its own mapping or make it read-only."""
    by, page = s.agent(), s.pick(TABLES)
    s.hypercall(by, MMUEXT_OP, f"0:4:{CLEAR},8:8:{by}/{page}", a1="arg", a2=1, a3=0, a4="SELF")
    s.hypercall(by, UPDATE_VA_MAPPING, a1=f"v.{page}", a2=s.pick(("0", f"f.{by}/{page}+0x65")), a3=2)


def touch(s: Script) -> None:
    """A guest accesses a window page whose table entry is never written."""
    by, slot = s.agent(), s.rng.randrange(16)
    if s.chance(0.6):
        s.do("rd", by=by, slot=slot, off=4088)
    else:
        s.do("wr", by=by, slot=slot, off=4088, v=0)


STEPS = ((34, update), (20, update_one), (26, extended), (12, prepare), (8, touch))
