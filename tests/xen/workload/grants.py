"""Grant table operations: entries rewritten at any time, maps and unmaps one by one and in arrays, copies, versions.

Contents: GNTTABOP_* calls of guests and Dom0's kernel. Not here: Dom0's devices (devices.py).
"""

from __future__ import annotations

from tests.xen.workload.script import DATA, GRANT_TABLE_OP, LENT, NOBODY, NOWHERE, REFS, Script, entries

MAP, UNMAP, SETUP, TRANSFER, COPY, QUERY, UNMAP_REPLACE, SET_VERSION, STATUS_FRAMES, GET_VERSION, SWAP, FLUSH = (
    0,
    1,
    2,
    4,
    5,
    6,
    7,
    8,
    9,
    10,
    11,
    12,
)
MAP_SIZE, UNMAP_SIZE, COPY_SIZE = 32, 24, 40
UNTOUCHED = "0x7fff"
KEPT = 40  # maximum of recorded maps


def _maps(s: Script) -> list[tuple[str, str, int, int, str]]:
    """Requested maps: caller, variable of the handle, flags, slot, page."""
    return s.family.setdefault("maps", [])  # type: ignore[no-any-return]


def _page(s: Script, name: str) -> str:
    return s.weighted(
        (88, f"{name}/{s.pick(DATA)}"),
        (4, f"{s.other(name)}/{s.pick(DATA)}"),
        (3, f"{name}/l1"),
        (1, f"{name}/mb"),
        (2, "0xffffffff"),
        (1, "0"),
        (1, f"{name}/l4"),
    )


def entry(s: Script) -> None:
    """A granter rewrites an entry, correctly or not."""
    name, ref = s.guest(), s.pick(REFS)
    translated = name in s.translated
    flags = s.weighted(
        (60, 1),
        (18, 5),
        (3, 0),
        (3, 2),
        (4, 3),
        (2, 0x19),
        (1, 0x11),
        (1, 9),
        (4, 0x101),
        (2, 0x21),
        (2, s.rng.randrange(1 << 16)),
    )
    more: dict[str, object] = {}
    if flags & 3 == 3:
        more = {"tdom": s.guest(), "tref": s.pick(REFS)}
    elif flags & 0x100:
        more = {"off": s.pick((0, 0, 64, 1024, 4088)), "len": s.pick((8, 128, 3072, 4096))}
    page = f"{name}/{s.pick(DATA)}" if translated else _page(s, name)
    if page.endswith("/mb"):
        flags |= 4  # the page by which the agent is called: who writes there silences it
    grantee = s.weighted((55, s.agent()), (30, "d0"), (4, name), (3, NOBODY), (2, "SELF"))
    s.grant(name, ref, grantee, page, flags, **more)


def end(s: Script) -> None:
    """The correct revocation of a grant."""
    name, ref = s.guest(), s.pick(REFS)
    s.do("gend", f"{name}:{ref}", d=name, ref=ref)


def _ref(s: Script) -> str:
    return s.weighted((92, str(s.pick(REFS))), (1, "0"), (2, "511"), (2, "512"), (1, "5000"), (2, "0xffffffff"))


def _target(s: Script, by: str) -> tuple[str, str, int]:
    """A granter, a reference and its flags: usually a grant for the caller."""
    known = s.granted_to(by) if s.chance(0.85) else None
    if known is not None:
        return known[0], str(known[1]), known[2]
    granter = s.weighted((92, s.guest()), (8, s.domid(by)))
    if granter in ("d0", "SELF") and by == "d0":
        granter = NOBODY  # Dom0's own table belongs to its kernel
    return granter, _ref(s), 0


def map_some(s: Script) -> None:
    """map_grant_ref: one, or an array of which some fail."""
    by = s.weighted((88, s.agent()), (12, "d0"))
    many = s.weighted((75, 1), (20, s.rng.randrange(2, 6)), (5, 0))
    writes, reads, shown = [], [], []
    for i in range(many):
        granter, ref, made = _target(s, by)
        flags = s.weighted(
            (45, 2),
            (20, 6),
            (7, 1),
            (4, 5),
            (8, 3),
            (4, 7),
            (4, 0x12),
            (2, 0x16),
            (2, 0xA),
            (1, 0),
            (1, 4),
            (1, s.rng.randrange(32)),
        )
        slot = s.rng.randrange(16, 32)
        if made & 4 and s.chance(0.8):
            flags |= 4
        if by == "d0":
            flags = flags & ~0x1A | 1
        place = "0" if by == "d0" else s.weighted((95, f"t.{slot}" if flags & 16 else f"w.{slot}"), (5, s.pick(NOWHERE)))
        name, base = s.variable("h"), i * MAP_SIZE
        writes.append(
            f"{base}:8:{place},{base + 8}:4:{flags},{base + 12}:4:{ref},{base + 16}:2:{granter},"
            f"{base + 18}:2:{UNTOUCHED},{base + 20}:4:0xdeadbeef,{base + 24}:8:0"
        )
        reads.append(f"st{i}:{base + 18}:2:s,{name}:{base + 20}:4:{'v' if by == 'd0' else 'V'}")
        if made or s.chance(0.15):  # the others fail, and are unmapped only now and then
            _maps(s).append((by, name, flags, slot, f"{granter}:{ref}"))
        if granter in (*s.agents, *s.translated) and ref.isdigit() and int(ref) in REFS:
            shown.append((granter, int(ref)))
    del _maps(s)[:-KEPT]
    s.hypercall(
        by,
        GRANT_TABLE_OP,
        ",".join(writes),
        ",".join(reads),
        entries(shown),
        a1=MAP,
        a2="arg",
        a3=s.weighted((96, many), (1, f"{1 << 32}+{many}"), (1, many + 1), (2, max(0, many - 1))),
    )


def unmap_some(s: Script) -> None:
    """unmap_grant_ref or unmap_and_replace of a mapping, sometimes with a wrong argument."""
    if not _maps(s):
        return map_some(s)
    many = s.weighted((80, 1), (20, min(len(_maps(s)), s.rng.randrange(2, 5))))
    by = s.pick(_maps(s))[0]
    chosen = [each for each in s.rng.sample(_maps(s), len(_maps(s))) if each[0] == by][:many]
    writes, reads = [], []
    replace = by != "d0" and s.chance(0.06)
    for i, each in enumerate(chosen):
        _, name, flags, slot, _ = each
        place = f"t.{slot}" if flags & 16 else f"w.{slot}" if flags & 2 else "0"
        place = s.weighted((90, place), (5, f"w.{s.rng.randrange(16, 32)}"), (5, "0")) if by != "d0" else "0"
        handle = s.weighted((94, f"${name}"), (2, "1000"), (2, "0xffffffff"), (2, "64"))
        base = i * UNMAP_SIZE
        second = f"w.{s.rng.randrange(16, 32)}" if replace else "0"
        writes.append(f"{base}:8:{place},{base + 8}:8:{second},{base + 16}:4:{handle},{base + 20}:2:{UNTOUCHED}")
        reads.append(f"st{i}:{base + 20}:2:s")
        if s.chance(0.8):
            _maps(s).remove(each)
    s.hypercall(
        by,
        GRANT_TABLE_OP,
        ",".join(writes),
        ",".join(reads),
        a1=UNMAP_REPLACE if replace else UNMAP,
        a2="arg",
        a3=len(chosen),
    )


def _side(s: Script, by: str) -> tuple[str, str, bool]:
    """A side of a copy: domain, reference or frame, and whether it is a reference."""
    if s.chance(0.6):
        granter, ref, _ = _target(s, by)
        return granter, ref, True
    own = by if by in s.agents else s.agent()
    return s.weighted((92, "SELF" if by != "d0" else own), (8, s.domid(by))), f"{own}/{s.pick(DATA)}", False


def copy(s: Script) -> None:
    """Copies, one or several, over offsets and lengths at the edges."""
    by = s.weighted((88, s.agent()), (12, "d0"))
    writes, reads, shown = [], [], []
    many = s.weighted((80, 1), (20, s.rng.randrange(2, 5)))
    for i in range(many):
        (sdom, source, sref), (ddom, dest, dref) = _side(s, by), _side(s, by)
        soff, doff = s.pick((0, 8, 1000, 4088, s.rng.randrange(4096))), s.pick((0, 8, 1000, 4088, s.rng.randrange(4096)))
        size = s.weighted((80, s.rng.randrange(4097 - max(soff, doff))), (20, s.pick((0, 1, 4096, 4097, 65535))))
        flags = (1 if sref else 0) | (2 if dref else 0) | s.weighted((96, 0), (4, 4))
        base = i * COPY_SIZE
        writes.append(
            f"{base}:8:{source},{base + 8}:2:{sdom},{base + 10}:2:{soff},"
            f"{base + 16}:8:{dest},{base + 24}:2:{ddom},"
            f"{base + 26}:2:{doff},{base + 32}:2:{size},{base + 34}:2:{flags},{base + 36}:2:{UNTOUCHED}"
        )
        reads.append(f"st{i}:{base + 36}:2:s")
        shown += [
            (dom, int(ref))
            for dom, ref, is_ref in ((sdom, source, sref), (ddom, dest, dref))
            if is_ref and dom in (*s.agents, *s.translated) and ref.isdigit() and int(ref) in REFS
        ]
    s.hypercall(by, GRANT_TABLE_OP, ",".join(writes), ",".join(reads), entries(shown), a1=COPY, a2="arg", a3=many)
    s.do("pcrc", pg=f"{s.agent()}/{s.pick(DATA)}")


def versions(s: Script) -> None:
    """set_version and get_version, also of others and with counts that are not 1."""
    by = s.agent()
    count = s.weighted((92, 1), (4, 0), (4, 2))
    place = s.weighted((94, "arg"), (6, s.pick(NOWHERE)))
    if s.chance(0.4):
        wanted = s.weighted((45, 1), (45, 2), (5, 0), (5, 3))
        s.hypercall(by, GRANT_TABLE_OP, f"0:4:{wanted}", "v:0:4", a1=SET_VERSION, a2=place, a3=count)
    else:
        s.hypercall(by, GRANT_TABLE_OP, f"0:2:{s.domid(by)},4:4:0xdead", "v:4:4", a1=GET_VERSION, a2=place, a3=count)


def sizes(s: Script) -> None:
    """query_size, setup_table and get_status_frames, with lists in all kinds of places."""
    by = s.agent()
    dom = s.weighted((60, "SELF"), (40, s.domid(by)))
    which = s.pick((QUERY, SETUP, STATUS_FRAMES))
    if which == QUERY:
        s.hypercall(by, GRANT_TABLE_OP, f"0:2:{dom},12:2:{UNTOUCHED}", "st:12:2:s,nr:4:4,max:8:4", a1=QUERY, a2="arg", a3=1)
        return
    frames = s.weighted((60, 1), (10, 0), (10, 2), (10, 9), (10, "0xffffffff"))
    where = s.weighted((70, "arg+512"), (30, s.pick(NOWHERE)))
    if which == SETUP:
        s.hypercall(
            by,
            GRANT_TABLE_OP,
            f"0:2:{dom},4:4:{frames if frames != 2 else 1},8:2:{UNTOUCHED},16:8:{where}",
            "st:8:2:s",
            a1=SETUP,
            a2="arg",
            a3=1,
        )
    else:
        s.hypercall(
            by,
            GRANT_TABLE_OP,
            f"0:4:{frames},4:2:{dom},6:2:{UNTOUCHED},8:8:{where}",
            "st:6:2:s",
            a1=STATUS_FRAMES,
            a2="arg",
            a3=1,
        )


def swap(s: Script) -> None:
    """swap_grant_ref."""
    by, one, two = s.agent(), _ref(s), _ref(s)
    shown = [(by, int(ref)) for ref in (one, two) if ref.isdigit() and int(ref) in REFS]
    for key in shown:
        s.granted.pop(key, None)
    s.hypercall(
        by, GRANT_TABLE_OP, f"0:4:{one},4:4:{two},8:2:{UNTOUCHED}", "st:8:2:s", entries(shown), a1=SWAP, a2="arg", a3=1
    )


def transfer(s: Script) -> None:
    """transfer of a page, mapped or not, to a guest that accepts it or not."""
    by = s.agent()
    page, to, ref = s.spare(by, LENT)[0], s.domid(by), s.pick(REFS)
    if s.chance(0.7):
        s.hypercall(by, 14, a1=f"v.{page}", a2="0", a3=2)
    waits = to in (*s.agents, *s.translated) and s.chance(0.7)
    if waits:
        s.granted.pop((to, ref), None)
        s.do("ge", d=to, ref=ref, flags=2, dom=by, pg=str(s.pick((40, 70, 100))) if to in s.translated else "0")
    s.hypercall(
        by, GRANT_TABLE_OP, f"0:8:{by}/{page},8:2:{to},12:4:{ref},16:2:{UNTOUCHED}", "st:16:2:s", a1=TRANSFER, a2="arg", a3=1
    )
    if waits:  # the entry now names a frame that may be reused under any name
        s.do("show", f"{to}:{ref}")
        s.do("ge", d=to, ref=ref, flags=0, dom="d0", pg="0")
    for name in (by, to):
        if name in (*s.agents, *s.translated):
            s.count(name)


def flush(s: Script) -> None:
    """cache_flush of frames and references."""
    by = s.agent()
    operation = s.weighted((40, 1), (25, 2), (15, 3), (10, 0), (5, 4), (5, "0x80000001"))
    what = s.weighted((60, f"f.{by}/{s.pick(DATA)}"), (20, f"f.{s.other(by)}/{s.pick(DATA)}"), (20, _ref(s)))
    offset, size = s.pick((0, 64, 4095, 4096, 5000)), s.pick((0, 1, 64, 4096, 4097))
    s.hypercall(
        by,
        GRANT_TABLE_OP,
        f"0:8:{what},8:2:{offset},10:2:{size},12:4:{operation}",
        a1=FLUSH,
        a2="arg",
        a3=s.weighted((90, 1), (10, 0)),
    )


def nonsense(s: Script) -> None:
    """Unknown operations, bad pointers, too large counts."""
    by = s.agent()
    operation = s.pick([*range(13), 3, 13, 99, "0xffffffff"])
    if operation == 2:
        operation = 6
    s.hypercall(by, GRANT_TABLE_OP, a1=operation, a2=s.pick(NOWHERE), a3=s.pick((0, 1, 2)))


def touch(s: Script) -> None:
    """A guest reads or writes through one of its mappings, or a page of its own."""
    by = s.agent()
    where = {"slot": s.rng.randrange(16, 32)} if s.chance(0.75) else {"pg": s.pick(DATA)}
    off = 8 * s.rng.randrange(512)
    if s.chance(0.5):
        s.do("rd", by=by, off=off, **where)
    else:
        s.do("wr", by=by, off=off, v=s.rng.randrange(1 << 48), **where)


def page(s: Script) -> None:
    """Dom0 reads a page of a guest."""
    pg = f"{s.agent()}/{s.pick(DATA)}"
    which, off = s.weighted((40, "pcrc"), (30, "prd"), (15, "pwr"), (15, "fmap")), 8 * s.rng.randrange(512)
    more = {"pcrc": {}, "prd": {"off": off}, "pwr": {"off": off, "v": s.rng.randrange(1 << 48)}, "fmap": {"w": off >> 3 & 1}}
    s.do(which, pg=pg, **more[which])


STEPS = (
    (14, entry),
    (4, end),
    (22, map_some),
    (20, unmap_some),
    (10, copy),
    (4, versions),
    (3, sizes),
    (3, swap),
    (3, transfer),
    (3, flush),
    (2, nonsense),
    (12, touch),
    (5, page),
)
