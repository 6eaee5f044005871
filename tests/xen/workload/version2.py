"""Grants of version 2: sub-page and transitive entries in chains and circles, status words, switches while used.

Contents: what only tables of version 2 have, for guests of both kinds and Dom0. Not here: what both versions have
(grants.py).
"""

from __future__ import annotations

from tests.xen.workload.script import DATA, GRANT_TABLE_OP, NOBODY, REFS, Script, entries

MAP, UNMAP, COPY, SET_VERSION, STATUS_FRAMES, GET_VERSION, SWAP = 0, 1, 5, 8, 9, 10, 11
UNTOUCHED = "0x7fff"
PLAIN, TRANSITIVE, READONLY, READING, WRITING, SUB_PAGE = 1, 3, 4, 8, 16, 0x100
CHAIN = tuple(REFS)[:8]  # few references, so that entries meet


def version(s: Script) -> None:
    """A guest switches its table, usually to version 2; the status frames it then has."""
    by = s.agent()
    s.hypercall(by, GRANT_TABLE_OP, f"0:4:{s.weighted((80, 2), (20, 1))}", "v:0:4", a1=SET_VERSION, a2="arg", a3=1)
    s.hypercall(by, GRANT_TABLE_OP, "0:2:SELF,4:4:0xdead", "v:4:4", a1=GET_VERSION, a2="arg", a3=1)
    if s.chance(0.3):
        s.hypercall(
            by,
            GRANT_TABLE_OP,
            f"0:4:{s.pick((0, 1, 1, 2, 16))},4:2:SELF,6:2:{UNTOUCHED},8:8:arg+512",
            "st:6:2:s",
            a1=STATUS_FRAMES,
            a2="arg",
            a3=1,
        )


def entry(s: Script) -> None:
    """A plain, sub-page or transitive entry; the last may name any table, its own, or a circle."""
    name, ref = s.guest(), s.pick(CHAIN)
    grantee = s.weighted((62, s.agent()), (24, "d0"), (8, s.guest()), (3, NOBODY), (3, "SELF"))
    kind = s.weighted((30, PLAIN), (25, PLAIN | SUB_PAGE), (45, TRANSITIVE))
    flags = kind | s.weighted((70, 0), (22, READONLY), (4, READING | WRITING), (2, 0x20), (2, 0x40))
    more: dict[str, object] = {}
    if kind == TRANSITIVE:
        flags |= s.weighted((80, 0), (20, SUB_PAGE))
        more = {
            "tdom": s.weighted((80, s.guest()), (8, name), (8, "d0"), (2, NOBODY), (2, "SELF")),
            "tref": s.weighted((92, s.pick(CHAIN)), (4, 300), (4, 5000)),
        }
    elif kind & SUB_PAGE:
        more = {"off": s.pick((0, 1, 64, 1000, 4095, 4096)), "len": s.pick((0, 1, 8, 100, 3096, 4096, 65535))}
    s.grant(name, ref, grantee, f"{name}/{s.pick(DATA)}", flags, **more)


def _side(s: Script, by: str) -> tuple[str, str, bool]:
    if s.chance(0.75):
        return s.weighted((94, s.guest()), (4, "d0"), (2, "SELF")), str(s.pick(CHAIN)), True
    own = by if by != "d0" else s.agent()
    return "SELF" if by != "d0" else own, f"{own}/{s.pick(DATA)}", False


def copy(s: Script) -> None:
    """Copies at the edges of the part that a sub-page entry shares, through chains of entries."""
    by = s.weighted((85, s.agent()), (15, "d0"))
    writes, reads, shown = [], [], []
    many = s.weighted((75, 1), (25, 2))
    for i in range(many):
        (sdom, source, sref), (ddom, dest, dref) = _side(s, by), _side(s, by)
        if "d0" in (sdom, ddom) and by == "d0":
            continue
        soff, doff = (s.pick((0, 1, 63, 64, 65, 1000, 1099, 1100, 4095)) for _ in range(2))
        size = s.pick((0, 1, 7, 8, 36, 100, 3096))
        base = 40 * i
        writes.append(
            f"{base}:8:{source},{base + 8}:2:{sdom},{base + 10}:2:{soff},{base + 16}:8:{dest},{base + 24}:2:{ddom},"
            f"{base + 26}:2:{doff},{base + 32}:2:{size},{base + 34}:2:{int(sref) | int(dref) << 1},{base + 36}:2:{UNTOUCHED}"
        )
        reads.append(f"st{i}:{base + 36}:2:s")
        shown += [
            (dom, int(ref))
            for dom, ref, is_ref in ((sdom, source, sref), (ddom, dest, dref))
            if is_ref and dom in (*s.agents, *s.translated)
        ]
    if writes:
        s.hypercall(by, GRANT_TABLE_OP, ",".join(writes), ",".join(reads), entries(shown), a1=COPY, a2="arg", a3=len(writes))
        s.do("pcrc", pg=f"{s.agent()}/{s.pick(DATA)}")


def hold(s: Script) -> None:
    """A map of such an entry, for the host or a device; what it leaves in header and status."""
    by, granter, ref = s.weighted((85, s.agent()), (15, "d0")), s.guest(), s.pick(CHAIN)
    name, slot = s.variable("h"), s.rng.randrange(16, 32)
    flags = s.pick((1, 5)) if by == "d0" else s.pick((2, 2, 6, 3, 1, 0x12))
    place = "0" if by == "d0" else f"t.{slot}" if flags & 16 else f"w.{slot}"
    s.hypercall(
        by,
        GRANT_TABLE_OP,
        f"0:8:{place},8:4:{flags},12:4:{ref},16:2:{granter},18:2:{UNTOUCHED},20:4:0xdeadbeef",
        f"st:18:2:s,{name}:20:4:{'v' if by == 'd0' else 'V'}",
        f"{granter}:{ref}",
        a1=MAP,
        a2="arg",
        a3=1,
    )
    s.family.setdefault("maps", []).append((by, name, flags, slot, f"{granter}:{ref}"))


def let_go(s: Script) -> None:
    """The unmap of a mapping, while the entry may have changed and the table switched."""
    held = s.family.setdefault("maps", [])
    if not held:
        return hold(s)
    one = s.pick(held)
    held.remove(one)
    by, name, flags, slot, where = one
    place = "0" if by == "d0" or not flags & 2 else f"t.{slot}" if flags & 16 else f"w.{slot}"
    granter, _, ref = where.partition(":")
    s.hypercall(
        by,
        GRANT_TABLE_OP,
        f"0:8:{place},16:4:${name},20:2:{UNTOUCHED}",
        "st:20:2:s",
        where if granter in (*s.agents, *s.translated) and ref.isdigit() and int(ref) in REFS else "",
        a1=UNMAP,
        a2="arg",
        a3=1,
    )


def swap(s: Script) -> None:
    """swap_grant_ref of such entries."""
    by, one, two = s.agent(), s.pick(CHAIN), s.pick(CHAIN)
    for ref in (one, two):
        s.granted.pop((by, ref), None)
    s.hypercall(
        by,
        GRANT_TABLE_OP,
        f"0:4:{one},4:4:{two},8:2:{UNTOUCHED}",
        "st:8:2:s",
        entries([(by, one), (by, two)]),
        a1=SWAP,
        a2="arg",
        a3=1,
    )


STEPS = ((8, version), (32, entry), (26, copy), (16, hold), (14, let_go), (4, swap))
