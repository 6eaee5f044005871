"""A process of Dom0 on /dev/xen/gntdev, gntalloc, evtchn and privcmd: every ioctl by its bytes, mappings of several grants.

Contents: actions of Dom0's user space. Not here: guests' use of shared pages (grants.py).
"""

from __future__ import annotations

from typing import Any

from tests.xen.workload.script import DATA, EVENT_CHANNEL_OP, GRANT_TABLE_OP, NOBODY, NOWHERE, REFS, Script, entries


def ioc(kind: str, number: int, size: int) -> int:
    """An ioctl without direction, as Xen's devices have them."""
    return size << 16 | ord(kind) << 8 | number


MAP_REF, UNMAP_REF, GET_OFFSET, NOTIFY, GRANT_COPY = (
    ioc("G", 0, 24),
    ioc("G", 1, 16),
    ioc("G", 2, 24),
    ioc("G", 7, 16),
    ioc("G", 8, 16),
)
ALLOC, DEALLOC = ioc("G", 5, 24), ioc("G", 6, 16)
BIND_VIRQ, BIND_INTER, BIND_UNBOUND, UNBIND, RING, RESET, RESTRICT = (
    ioc("E", 0, 4),
    ioc("E", 1, 8),
    ioc("E", 2, 4),
    ioc("E", 3, 4),
    ioc("E", 4, 4),
    ioc("E", 5, 0),
    ioc("E", 6, 2),
)
HYPERCALL, BATCH_V2, RESTRICT_PRIVCMD, RESOURCE = ioc("P", 0, 48), ioc("P", 4, 32), ioc("P", 6, 2), ioc("P", 7, 32)
GNTDEVS, GNTALLOC, EVTCHNS, PRIVCMD = (10, 11), 12, (1, 2, 3), 14
BUFFER = 8192  # in the user buffer, for copies
MAX_MAPS = 2000  # areas.py counts from there
NOTICED = (40, 41, 42)  # references used only by byte_cleared


def _of(s: Script, what: str) -> Any:
    """State of this family: open files, maps, areas, and the next number of an area."""
    return s.family.setdefault("devices", {"open": set(), "maps": [], "areas": {}, "next": 1, "ports": [], "shared": []})[
        what
    ]


def _open(s: Script, file: int, device: str) -> None:
    if file not in _of(s, "open"):
        s.do("sys.open", f=file, dev=device)
        _of(s, "open").add(file)


def _ioctl(s: Script, file: int, request: int, w: str = "", o: str = "", show: str = "", **more: Any) -> None:
    words = {"f": file, "req": request, **({"w": w} if w else {}), **({"o": o} if o else {})}
    s.do("sys.ioctl", show, **words, **more)


def _area(s: Script) -> int | None:
    number = int(_of(s, "next"))
    if number >= MAX_MAPS:
        return None
    s.family["devices"]["next"] = number + 1
    return number


def _gntdev(s: Script) -> int:
    file = s.pick(GNTDEVS)
    _open(s, file, "gntdev")
    return file


# --- gntdev ---
def grant_map(s: Script) -> None:
    """IOCTL_GNTDEV_MAP_GRANT_REF of one to six references, most of them granted to Dom0."""
    file = _gntdev(s)
    many = s.weighted((45, 1), (50, s.rng.randrange(2, 7)), (5, 0))
    pairs = [(s.guest() if s.chance(0.95) else NOBODY, s.pick(REFS) if s.chance(0.95) else 600) for _ in range(many)]
    for name, ref in pairs:
        if name != NOBODY and ref in REFS and s.chance(0.75):
            flags = s.weighted((80, 1), (20, 5))
            s.grant(name, ref, "d0", f"{name}/{s.pick(DATA)}", flags)
    words = ",".join(
        [f"u0:4:{many}", *(f"u{16 + 8 * i}:4:{name},u{20 + 8 * i}:4:{ref}" for i, (name, ref) in enumerate(pairs))]
    )
    index = s.variable("i")
    _ioctl(s, file, MAP_REF, words, f"{index}:u8:8:V")
    maps = _of(s, "maps")
    maps.append((file, index, [(n, r) for n, r in pairs if n != NOBODY and r in REFS], many))
    del maps[:-16]


def grant_mmap(s: Script) -> None:
    """mmap of a map, whole or not, for reading or writing."""
    if not _of(s, "maps"):
        return grant_map(s)
    file, index, pairs, many = s.pick(_of(s, "maps"))
    number = _area(s)
    if number is None:
        return
    pages = s.weighted((90, max(many, 1)), (10, s.rng.randrange(1, 7)))
    offset = s.weighted((94, f"${index}"), (6, f"${index}+4096"))
    s.do(
        "sys.mmap",
        entries(pairs),
        f=file,
        m=number,
        n=pages,
        off=offset,
        prot=s.weighted((60, "rw"), (34, "r"), (4, "w"), (2, "-")),
        **({"priv": 1} if s.chance(0.04) else {}),
    )
    _of(s, "areas")[number] = (pages, pairs)


def area_touch(s: Script) -> None:
    """Loads and stores in an area, also past its end."""
    if not _of(s, "areas"):
        return grant_mmap(s)
    number = s.pick(sorted(_of(s, "areas")))
    pages, _ = _of(s, "areas")[number]
    page, off = s.rng.randrange(pages + (1 if s.chance(0.05) else 0)), 8 * s.rng.randrange(512)
    if s.chance(0.55):
        s.do("sys.rd", m=number, pg=page, off=off)
    else:
        s.do("sys.wr", m=number, pg=page, off=off, v=s.rng.randrange(1 << 48))


def area_unmap(s: Script) -> None:
    """munmap of an area, whole or in parts."""
    if not _of(s, "areas"):
        return grant_mmap(s)
    number = s.pick(sorted(_of(s, "areas")))
    pages, pairs = _of(s, "areas")[number]
    if pages > 1 and s.chance(0.3):
        first = s.rng.randrange(pages)
        s.do("sys.munmap", entries(pairs), m=number, pg=first, n=s.rng.randrange(1, pages - first + 1))
        return
    s.do("sys.munmap", entries(pairs), m=number)
    del _of(s, "areas")[number]


def area_changed(s: Script) -> None:
    """mprotect of an area; mremap to another place: all of it, its first pages, or more than it has. Then a touch."""
    if not _of(s, "areas"):
        return grant_mmap(s)
    number = s.pick(sorted(_of(s, "areas")))
    pages, pairs = _of(s, "areas")[number]
    if s.chance(0.5):
        s.do("sys.mprotect", entries(pairs), m=number, prot=s.pick(("rw", "r", "w", "-")))
    else:
        to = _area(s)
        if to is None:
            return
        many = s.weighted((70, pages), (20, s.rng.randrange(1, pages + 1)), (10, pages + 1))
        s.do("sys.mremap", entries(pairs), m=number, to=to, n=many)
        del _of(s, "areas")[number]
        number, pages = to, many
        _of(s, "areas")[number] = (pages, pairs)
    page = s.rng.randrange(pages)
    s.do("sys.rd", m=number, pg=page, off=8)
    s.do("sys.wr", m=number, pg=page, off=16, v=s.rng.randrange(1 << 48))


def grant_unmap(s: Script) -> None:
    """IOCTL_GNTDEV_UNMAP_GRANT_REF, by correct and wrong numbers; the offset of an address."""
    if not _of(s, "maps"):
        return grant_map(s)
    one = s.pick(_of(s, "maps"))
    file, index, pairs, many = one
    if s.chance(0.25):
        where = f"m.{s.pick(sorted(_of(s, 'areas')))}" if _of(s, "areas") and s.chance(0.8) else s.pick(("ub", "0", "0x10"))
        _ioctl(s, file, GET_OFFSET, f"u0:8:{where}", "off:u8:8,n:u16:4")
        return
    _ioctl(
        s,
        file,
        UNMAP_REF,
        f"u0:8:{s.weighted((92, f'${index}'), (8, f'${index}+1'))},u8:4:{s.weighted((85, many), (15, s.rng.randrange(5)))}",
        "",
        entries(pairs),
    )
    if s.chance(0.8):
        _of(s, "maps").remove(one)


def notice(s: Script) -> None:
    """SET_UNMAP_NOTIFY: an event to send, unknown actions, offsets inside and outside."""
    if not _of(s, "maps"):
        return grant_map(s)
    file, index, _, many = s.pick(_of(s, "maps"))
    offset = s.pick((0, 5, 4095, 4096, 4096 * many - 1, 4096 * many, 4096 * many + 8))
    known = _of(s, "ports")
    port = f"${s.pick(known)}" if known and s.chance(0.7) else s.pick(("0", "99", "4095", "0xffffffff"))
    _ioctl(s, file, NOTIFY, f"u0:8:${index}+{offset},u8:4:{s.pick((0, 2, 2, 2, 4))},u12:4:{port}")


def byte_cleared(s: Script) -> None:
    """A byte to clear when a new map of fresh grants is unmapped; completely or page by page."""
    file, name, index, number = _gntdev(s), s.agent(), s.variable("i"), _area(s)
    many, page = s.rng.randrange(1, 4), s.pick(DATA[:12])
    if number is None:
        return
    for i in range(many):
        s.do("ge", d=name, ref=NOTICED[i], flags=1, dom="d0", pg=f"{name}/{page + i}")
    words = [f"u0:4:{many}", *(f"u{16 + 8 * i}:4:{name},u{20 + 8 * i}:4:{NOTICED[i]}" for i in range(many))]
    _ioctl(s, file, MAP_REF, ",".join(words), f"{index}:u8:8:V")
    offset = s.rng.randrange(4096 * many)
    port = f"${s.pick(_of(s, 'ports'))}" if _of(s, "ports") else "0"
    _ioctl(s, file, NOTIFY, f"u0:8:${index}+{offset},u8:4:{s.weighted((80, 1), (20, 3))},u12:4:{port}")
    s.do(
        "sys.mmap", entries([(name, NOTICED[i]) for i in range(many)]), f=file, m=number, n=many, off=f"${index}", prot="rw"
    )
    s.do("sys.wr", m=number, pg=offset >> 12, off=offset & 0xFF8, v=(1 << 64) - 1)
    for i in range(many) if s.chance(0.5) else ():
        s.do("sys.munmap", m=number, pg=i, n=1)
        s.do("prd", pg=f"{name}/{page + (offset >> 12)}", off=offset & 0xFF8)
    s.do("sys.munmap", m=number)
    s.do("prd", pg=f"{name}/{page + (offset >> 12)}", off=offset & 0xFF8)
    _ioctl(s, file, UNMAP_REF, f"u0:8:${index},u8:4:{many}", "", entries([(name, NOTICED[i]) for i in range(many)]))


def grant_copy(s: Script) -> None:
    """GRANT_COPY of one to five segments: across pages, between references and the buffer, some failing."""
    file = _gntdev(s)
    many = s.weighted((50, 1), (45, s.rng.randrange(2, 6)), (5, 0))
    words, reads = [f"u0:4:{many},u8:8:{s.weighted((97, 'ub+1024'), (3, '0x10'))}"], []
    for i in range(many):
        flags = s.weighted((45, 1), (40, 2), (12, 3), (3, 0))
        base = 1024 + 24 * i
        sides: list[tuple[str, ...]] = []
        for bit in (1, 2):
            if flags & bit:
                name, ref = (s.guest() if s.chance(0.95) else NOBODY), (s.pick(REFS) if s.chance(0.95) else 600)
                sides.append((f"4:{ref}", f"2:{s.pick((0, 8, 1000, 4088))}", f"2:{name}"))
            else:
                sides.append((f"8:ub+{BUFFER + 512 * i + s.rng.randrange(4096)}",) if s.chance(0.96) else ("8:0x10",))
        for at, side in zip((base, base + 8), sides, strict=True):
            places = (at, at + 4, at + 6)
            words += [f"u{place}:{value}" for place, value in zip(places, side, strict=False)]
        size = s.pick((0, 1, 16, 64, 1000, 4096, 4097))
        words.append(f"u{base + 16}:2:{size},u{base + 18}:2:{flags},u{base + 20}:2:0x7fff")
        reads.append(f"s{i}:u{base + 20}:2:s")
    words += [f"u{BUFFER + 1024 * i}:8:{s.rng.randrange(1 << 48)}" for i in range(3)]
    reads += [f"w{i}:u{BUFFER + 512 * i}:8" for i in range(4)]
    _ioctl(s, file, GRANT_COPY, ",".join(words), ",".join(reads))
    s.do("pcrc", pg=f"{s.agent()}/{s.pick(DATA)}")


def child(s: Script) -> None:
    """A child touches, unmaps or closes what it got of the process, and is killed; then the process touches it."""
    if not _of(s, "areas"):
        return grant_mmap(s)
    number = s.pick(sorted(_of(s, "areas")))
    pages, pairs = _of(s, "areas")[number]
    what, page = s.pick(("rd", "wr", "munmap", "close", "none")), s.rng.randrange(pages)
    where = {"m": number, "pg": page, "off": 24, "v": s.rng.randrange(1 << 40)} if what in ("rd", "wr") else {}
    if what == "munmap":
        where = {"m": number, "n": s.weighted((70, pages), (30, 1))}
    elif what == "close":
        where = {"f": s.pick((*GNTDEVS, GNTALLOC, *EVTCHNS, PRIVCMD))}
    s.do("sys.child", entries(pairs), do=what, **where)
    s.do("sys.rd", m=number, pg=page, off=24)


# --- gntalloc ---
def alloc(s: Script) -> None:
    """ALLOC_GREF: pages of the process, granted to a guest; mmaps of them."""
    _open(s, GNTALLOC, "gntalloc")
    many = s.weighted((70, 1), (20, 3), (5, 0), (5, 1025))
    index, ref = s.variable("a"), s.variable("g")
    grantee = s.weighted((92, s.agent()), (8, NOBODY))
    _ioctl(
        s,
        GNTALLOC,
        ALLOC,
        f"u0:2:{grantee},u2:2:{s.pick((0, 1, 1, 1))},u4:4:{many},u8:8:0xdead",
        f"{index}:u8:8:V,{ref}:u16:4:v",
    )
    shared = _of(s, "shared")
    shared.append((index, ref, many))
    del shared[:-8]
    number = _area(s)
    if number is not None and many in (1, 3):
        s.do("sys.mmap", f=GNTALLOC, m=number, n=many, off=f"${index}", prot="rw")
        _of(s, "areas")[number] = (many, [])


def alloc_use(s: Script) -> None:
    """A guest maps the shared pages of Dom0's process; or the process revokes them."""
    if not _of(s, "shared"):
        return alloc(s)
    one = s.pick(_of(s, "shared"))
    index, ref, many = one
    if s.chance(0.5):
        by, slot, handle = s.agent(), s.rng.randrange(16, 32), s.variable("h")
        flags = s.pick((2, 2, 6))
        s.hypercall(
            by,
            GRANT_TABLE_OP,
            f"0:8:w.{slot},8:4:{flags},12:4:${ref},16:2:d0,18:2:0x7fff,20:4:0xdeadbeef",
            f"st:18:2:s,{handle}:20:4:V",
            a1=0,
            a2="arg",
            a3=1,
        )
        s.family.setdefault("maps", []).append((by, handle, 2, slot, ""))
        s.do(s.pick(("rd", "wr")), by=by, slot=slot, off=16, v=s.rng.randrange(1 << 40))
    else:
        _ioctl(s, GNTALLOC, DEALLOC, f"u0:8:${index},u8:4:{s.weighted((90, many), (10, 2))}")
        _of(s, "shared").remove(one)


# --- evtchn ---
def port(s: Script) -> None:
    """Ports of a process: allocated, bound, closed, notified; restricted files."""
    file = s.pick(EVTCHNS)
    _open(s, file, "evtchn")
    if file == EVTCHNS[2] and s.chance(0.3):
        _ioctl(s, file, RESTRICT, f"u0:2:{s.pick((s.agent(), s.agent(), '0', 'SELF', NOBODY))}")
        return
    known = _of(s, "ports")
    which = s.weighted((30, BIND_UNBOUND), (15, BIND_INTER), (20, RING), (15, UNBIND), (5, BIND_VIRQ), (5, RESET), (10, 0))
    number = f"${s.pick(known)}" if known and s.chance(0.8) else s.pick(("0", "1", "4095", "4096", "0xffffffff"))
    if which == BIND_UNBOUND:
        name = s.variable("e")
        _ioctl(
            s,
            file,
            BIND_UNBOUND,
            f"u0:4:{s.weighted((90, s.agent()), (10, s.pick((NOBODY, 'XEN', 'SELF'))))}",
            f"{name}:r:8:v",
            nor=1,
        )
        known.append(name)
        del known[:-8]
    elif which == BIND_INTER:
        by, guest_port, name = s.agent(), s.variable("p"), s.variable("e")
        s.hypercall(by, EVENT_CHANNEL_OP, "0:2:SELF,2:2:d0,4:4:0xabcd", f"{guest_port}:4:4:V", a1=6, a2="arg")
        s.family.setdefault("ports", {}).setdefault(by, []).append(guest_port)
        _ioctl(
            s, file, BIND_INTER, f"u0:4:{by},u4:4:{s.weighted((90, f'${guest_port}'), (10, '1000'))}", f"{name}:r:8:v", nor=1
        )
        known.append(name)
        del known[:-8]
        s.do("sys.read", f=file, n=4)
        _ioctl(s, file, RING, f"u0:4:${name}")
        s.do("pend", by=by, p=f"${guest_port}")
    elif which == BIND_VIRQ:
        _ioctl(s, file, BIND_VIRQ, f"u0:4:{s.pick((24, 99, '0xffffffff'))}")
    elif which == RESET:
        _ioctl(s, file, RESET)
    elif which == 0:
        request = s.pick((ioc("E", 7, 4), ioc("E", 0, 8), ioc("G", 0, 24), 0x5401))
        _ioctl(s, file, request)
    else:
        _ioctl(s, file, which, f"u0:4:{number}")


def port_bytes(s: Script) -> None:
    """Reads and writes of all lengths, and polls."""
    file = s.pick(EVTCHNS)
    _open(s, file, "evtchn")
    size = s.pick((0, 1, 3, 4, 4, 7, 8, 64))
    if s.chance(0.3):
        s.do("sys.poll", f=s.weighted((80, file), (20, s.pick((*GNTDEVS, GNTALLOC, PRIVCMD)))))
    elif s.chance(0.6):
        s.do("sys.read", f=file, n=size)
    else:
        known = _of(s, "ports")
        s.do("sys.write", f=file, n=size, w=f"u0:4:${s.pick(known)}" if known else "u0:4:4095")


# --- privcmd ---
def foreign(s: Script) -> None:
    """MMAPBATCH_V2 of a guest's pages, with some invalid frames; hypercalls through the device."""
    _open(s, PRIVCMD, "privcmd")
    if s.chance(0.3):
        name = s.guest()
        call = s.pick(
            (
                (20, 6, "ub+256", 1, f"u256:2:{name}", "st:u268:2:s,nr:u260:4"),
                (20, 99, "0", 0, "", ""),
                (99, 0, "0", 0, "", ""),
                (32, 5, "ub+256", 0, f"u256:2:{name},u260:4:1", "st:u264:4"),
                (20, 6, "0x10", 1, "", ""),
            )
        )
        number, one, two, three, first, reads = call
        extra = f",{first}" if first else ""
        _ioctl(s, PRIVCMD, HYPERCALL, f"u0:8:{number},u8:8:{one},u16:8:{two},u24:8:{three}" + extra, reads)
        return
    name, number_of = s.agent(), _area(s)
    if number_of is None:
        return
    many = s.rng.randrange(1, 5)
    s.do("sys.mmap", f=PRIVCMD, m=number_of, n=many, prot=s.pick(("rw", "r")))
    frames = [
        s.weighted((85, f"{name}/{s.pick(DATA)}"), (8, f"{s.other(name)}/{s.pick(DATA)}"), (7, "0xffffffffff"))
        for _ in range(many)
    ]
    count, owner = s.weighted((92, many), (8, many + 1)), s.weighted((94, name), (6, s.domid(name)))
    words = [f"u0:4:{count},u4:2:{owner},u8:8:m.{number_of},u16:8:ub+2048,u24:8:ub+4096,u4096:8:0x7777777777777777"]
    words += [f"u{2048 + 8 * i}:8:{frame}" for i, frame in enumerate(frames)]
    for _ in range(s.weighted((90, 1), (10, 2))):
        _ioctl(s, PRIVCMD, BATCH_V2, ",".join(words), ",".join(f"e{i}:u{4096 + 4 * i}:4:s" for i in range(many)))
    s.do("sys.rd", m=number_of, pg=s.rng.randrange(many), off=8)
    s.do("sys.munmap", m=number_of)


def nonsense(s: Script) -> None:
    """Bad pointers, unknown requests."""
    file, requests = s.pick(
        (
            (10, (MAP_REF, UNMAP_REF, GET_OFFSET, NOTIFY, GRANT_COPY, ioc("G", 3, 4), ioc("G", 9, 24), 0x5401)),
            (12, (ALLOC, DEALLOC, NOTIFY, ioc("G", 0, 24))),
            (14, (HYPERCALL, BATCH_V2, ioc("P", 9, 8))),
        )
    )
    _open(s, file, {10: "gntdev", 12: "gntalloc", 14: "privcmd"}[file])
    _ioctl(s, file, s.pick(requests), argp=s.pick(("0x10", "0", NOWHERE[0])))


def close(s: Script) -> None:
    """The last close of a file, with all of its state."""
    file = s.pick((*GNTDEVS, GNTALLOC, *EVTCHNS, PRIVCMD))
    if file in _of(s, "open"):
        s.do("sys.close", f=file)
        _of(s, "open").discard(file)
        _of(s, "maps")[:] = [each for each in _of(s, "maps") if each[0] != file]
        if file == GNTALLOC:
            _of(s, "shared").clear()


STEPS = (
    (16, grant_map),
    (16, grant_mmap),
    (16, area_touch),
    (12, area_unmap),
    (8, area_changed),
    (9, grant_unmap),
    (4, child),
    (4, notice),
    (3, byte_cleared),
    (9, grant_copy),
    (5, alloc),
    (6, alloc_use),
    (14, port),
    (6, port_bytes),
    (7, foreign),
    (3, nonsense),
    (2, close),
)
