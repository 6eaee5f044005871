"""Arguments that cross a page: onto a page that is there, read-only or missing; of every hypercall with one in memory.

Contents: the same calls as in other families, at the last bytes of a pool page. Not here: whole pointers that are
bad (the other families).
"""

from __future__ import annotations

from tests.xen.workload.script import (
    CROSSED,
    DATA,
    EVENT_CHANNEL_OP,
    GRANT_TABLE_OP,
    MEMORY_OP,
    MMU_UPDATE,
    MMUEXT_OP,
    REFS,
    UPDATE_VA_MAPPING,
    Script,
    entries,
)

FIRST = CROSSED[0]
UNTOUCHED = "0x7fff"
Struct = tuple[int, int, int, list[tuple[int, int, object]], tuple[int, int, str] | None]  # and what is read of it
CLEARED = f"p{FIRST}.3840:256:0,p{FIRST + 1}.0:256:0,"  # what earlier calls left there may be frame numbers
SLOTS = range(16, 32)


def _words(base: int, *fields: tuple[int, int, object]) -> str:
    """Fields (offset, size, value) of a struct that begins `base` bytes into the first page; each may cross over."""
    out = []
    for offset, size, value in fields:
        at = base + offset
        if at < 4096 < at + size:  # in two parts: a place lies in one page
            for i in range(size):
                part = f"p{FIRST + (at + i) // 4096}.{(at + i) % 4096}"
                number = int(str(value), 0) if str(value).lstrip("-")[:1].isdigit() else None
                if number is None:
                    return ""  # a symbol cannot be divided
                out.append(f"{part}:1:{number >> 8 * i & 255}")
        else:
            out.append(f"p{FIRST + at // 4096}.{at % 4096}:{size}:{value}")
    return ",".join(out)


def _read(base: int, name: str, offset: int, size: int, kind: str = "u") -> str:
    at = base + offset
    return f"{name}:p{FIRST + at // 4096}.{at % 4096}:{size}:{kind}" if at // 4096 == (at + size - 1) // 4096 else ""


def _second(s: Script, by: str) -> None:
    """The second page: there, read-only, missing, or another one."""
    value = s.weighted(
        (35, f"f.{by}/{FIRST + 1}+0x67"), (30, f"f.{by}/{FIRST + 1}+0x65"), (30, "0"), (5, f"f.{by}/{s.pick(DATA)}+0x65")
    )
    s.hypercall(by, UPDATE_VA_MAPPING, a1=f"v.{FIRST + 1}", a2=value, a3=2)


def _call(s: Script, by: str, number: int, words: str, reads: str, show: str = "", **registers: object) -> None:
    if words:
        s.hypercall(by, number, CLEARED + words, reads, show, **registers)


def grants(s: Script) -> None:
    """A list of maps, unmaps, copies or swaps whose element N crosses."""
    by = s.agent()
    operation, size = s.pick(((0, 32), (1, 24), (5, 40), (11, 12), (0, 32), (5, 40)))
    many = s.rng.randrange(1, 4)
    start = 4096 - s.rng.choice([size * i for i in range(many)] + list(range(4, size * many, 4)))
    words: list[str] = []
    reads: list[str] = []
    shown: list[tuple[str, int]] = []
    for i in range(many):
        base, slot, granter, ref = start + i * size, s.pick(SLOTS), s.guest(), s.pick(REFS)
        if operation == 0:
            page = f"{granter}/{s.pick(DATA)}"
            s.grant(granter, ref, by, page, 1)
            fields: list[tuple[int, int, object]] = [
                (0, 8, f"w.{slot}"),
                (8, 4, s.pick((2, 6, 1))),
                (12, 4, ref),
                (16, 2, granter),
                (18, 2, UNTOUCHED),
                (20, 4, "0xdeadbeef"),
            ]
            status, shown = 18, [*shown, (granter, ref)]
        elif operation == 1:
            fields = [(0, 8, f"w.{slot}"), (8, 8, 0), (16, 4, s.pick((1000, 3, 4, 5, 6, 7))), (20, 2, UNTOUCHED)]
            status = 20
        elif operation == 5:
            fields = [
                (0, 8, f"{by}/{s.pick(DATA)}"),
                (8, 2, "SELF"),
                (10, 2, 8),
                (16, 8, f"{by}/{s.pick(DATA)}"),
                (24, 2, "SELF"),
                (26, 2, 16),
                (32, 2, 64),
                (34, 2, 0),
                (36, 2, UNTOUCHED),
            ]
            status = 36
        else:
            fields = [(0, 4, s.pick(REFS)), (4, 4, s.pick(REFS)), (8, 2, UNTOUCHED)]
            for _, _, value in fields[:2]:
                s.granted.pop((by, int(str(value))), None)
            status = 8
        one = _words(base, *fields)
        if not one:
            return
        words.append(one)
        reads.append(_read(base, f"st{i}", status, 2, "s"))
    _second(s, by)
    _call(
        s,
        by,
        GRANT_TABLE_OP,
        ",".join(words),
        ",".join(filter(None, reads)),
        entries(shown),
        a1=operation,
        a2=f"v.{FIRST + start // 4096}+{start % 4096}",
        a3=many,
    )
    s.do("pcrc", pg=f"{by}/{s.pick(DATA)}")
    s.do("rd", by=by, slot=s.pick(SLOTS), off=8)


def singles(s: Script) -> None:
    """Structs that are read and written back: sizes, versions, event channels, reservations, exchanges."""
    by = s.agent()
    structs: tuple[Struct, ...] = (
        (GRANT_TABLE_OP, 6, 16, [(0, 2, "SELF"), (12, 2, UNTOUCHED)], (12, 2, "s")),
        (GRANT_TABLE_OP, 10, 8, [(0, 2, "SELF"), (4, 4, "0xdead")], (4, 4, "u")),
        (GRANT_TABLE_OP, 8, 4, [(0, 4, s.pick((0, 3)))], (0, 4, "u")),  # the executor does not look for versions here
        (EVENT_CHANNEL_OP, 6, 8, [(0, 2, "SELF"), (2, 2, "d0"), (4, 4, "0xabcd")], (4, 4, "u")),
        (EVENT_CHANNEL_OP, 7, 8, [(0, 4, 0), (4, 4, "0xabcd")], (4, 4, "u")),
        (EVENT_CHANNEL_OP, 1, 12, [(0, 4, 5), (4, 4, 0), (8, 4, "0xabcd")], (8, 4, "u")),
        (EVENT_CHANNEL_OP, 5, 24, [(0, 2, "SELF"), (4, 4, 1), (8, 4, 77)], (8, 4, "u")),
        (EVENT_CHANNEL_OP, 3, 4, [(0, 4, s.rng.randrange(4, 20))], None),
        (MEMORY_OP, 1, 32, [(0, 8, "arg+512"), (8, 8, 0), (16, 4, 0), (20, 4, 0), (24, 2, "SELF")], None),
        (MEMORY_OP, 6, 32, [(0, 8, "arg+512"), (8, 8, 1), (16, 4, 0), (20, 4, 0), (24, 2, "SELF")], None),
        (MEMORY_OP, 7, 24, [(0, 2, "SELF"), (4, 4, 1), (8, 8, 0), (16, 8, 5)], None),
        (MEMORY_OP, 14, 2, [(0, 2, s.pick(("XEN", "20000")))], None),
        (MEMORY_OP, 28, 32, [(0, 2, "SELF"), (2, 2, 1), (4, 4, 0), (8, 4, 0)], (8, 4, "u")),
    )
    number, operation, size, fields, told = s.pick(structs)
    start = 4096 - s.rng.randrange(0, size + 1)
    reads = _read(start, "out", told[0], told[1], told[2]) if told is not None else ""
    words = _words(start, *fields)
    _second(s, by)
    _call(s, by, number, words, reads, a1=operation, a2=f"v.{FIRST + start // 4096}+{start % 4096}", a3=1)
    s.count(by)


def tables(s: Script) -> None:
    """Batches of mmu_update and mmuext_op that cross, with the number of what was done in either page."""
    by, many = s.agent(), s.rng.randrange(1, 4)
    which = s.pick((MMU_UPDATE, MMUEXT_OP))
    size = 16 if which == MMU_UPDATE else 24
    start = 4096 - 8 * s.rng.randrange(size * many // 8 + 1)
    words = []
    for i in range(many):
        base = start + i * size
        if which == MMU_UPDATE:
            fields: tuple[tuple[int, int, object], ...] = (
                (0, 8, f"t.{s.rng.randrange(8)}"),
                (8, 8, f"f.{by}/{s.pick(DATA)}+0x65"),
            )
        else:
            fields = ((0, 4, 7), (8, 8, f"w.{s.rng.randrange(8)}"), (16, 8, 0))
        words.append(_words(base, *fields))
    _second(s, by)
    # The number may cross too, but not over requests, which have frame numbers; nor where a preempted call would read it.
    done = s.pick((f"v.{FIRST + 1}+4092", f"v.{FIRST}+16", f"v.{FIRST}+4094" if which == MMUEXT_OP and many == 1 else "0"))
    s.hypercall(
        by,
        which,
        CLEARED + ",".join([*words, f"p{FIRST}.16:4:0x5555"]),
        f"done:p{FIRST}.16:4,low:p{FIRST}.4094:2" if "4094" in done else f"done:p{FIRST}.16:4",
        a1=f"v.{FIRST + start // 4096}+{start % 4096}",
        a2=many,
        a3=done,
        a4="SELF",
    )


def lists(s: Script) -> None:
    """Lists of frames for decrease, increase, exchange, setup_table and acquire_resource in the last bytes."""
    by, many = s.agent(), s.rng.randrange(1, 4)
    start = 4096 - 8 * s.rng.randrange(many + 1) - s.weighted((80, 0), (20, 4))
    where = f"v.{FIRST + start // 4096}+{start % 4096}"
    which = s.pick(("increase", "decrease", "setup", "status"))
    _second(s, by)
    if which == "setup":
        s.hypercall(
            by, GRANT_TABLE_OP, f"0:2:SELF,4:4:{many},8:2:{UNTOUCHED},16:8:{where}", "st:8:2:s", a1=2, a2="arg", a3=1
        )
    elif which == "status":
        s.hypercall(by, GRANT_TABLE_OP, f"0:4:{many},4:2:SELF,6:2:{UNTOUCHED},8:8:{where}", "st:6:2:s", a1=9, a2="arg", a3=1)
    else:
        s.hypercall(
            by,
            MEMORY_OP,
            f"0:8:{where},8:8:{many},16:4:0,20:4:0,24:2:SELF,p{FIRST}.4072:8:0xfffffffff:3:8",
            a1=0 if which == "increase" else 1,
            a2="arg",
        )
        s.count(by)


STEPS = ((30, grants), (34, singles), (20, tables), (16, lists))
