"""Foreign mappings by all ioctls of privcmd, old and new, in areas that stay; and mmaps of devices that do not fit.

Contents: IOCTL_PRIVCMD_MMAP, MMAPBATCH, MMAPBATCH_V2 in parts and again, MMAP_RESOURCE, RESTRICT; touches, splits, moves and
ends of such areas; gntalloc's notices and repeated mmaps. Not here: gntdev's maps (devices.py).
"""

from __future__ import annotations

from typing import Any

from tests.xen.workload.devices import ALLOC, BATCH_V2, DEALLOC, NOTIFY, RESOURCE, RESTRICT_PRIVCMD, ioc
from tests.xen.workload.script import DATA, NOBODY, Script

MMAP, BATCH = ioc("P", 2, 16), ioc("P", 3, 24)
FILES, LIMITED, ALLOCS = (20, 21), 22, 23
FIRST_AREA, MOST_AREAS = 2000, 1900  # devices.py counts from 1
LIST, ERRORS = 2048, 4096


def _state(s: Script) -> dict[str, Any]:
    """Open files, areas that exist (their pages), allocated pages of gntalloc, and the next number of an area."""
    return s.family.setdefault("areas", {"open": set(), "areas": {}, "pages": [], "next": FIRST_AREA})  # type: ignore[no-any-return]


def _open(s: Script, file: int, device: str) -> None:
    if file not in _state(s)["open"]:
        s.do("sys.open", f=file, dev=device)
        _state(s)["open"].add(file)


def _number(s: Script) -> int:
    """A new area's number; from the start again after the last, where an area may still be (EEXIST)."""
    state = _state(s)
    number = int(state["next"])
    state["next"] = FIRST_AREA + (number + 1 - FIRST_AREA) % MOST_AREAS
    return number


def _file(s: Script) -> int:
    file = s.weighted((85, s.pick(FILES)), (15, LIMITED))
    _open(s, file, "privcmd")
    if file == LIMITED and s.chance(0.3):
        _ioctl(s, file, RESTRICT_PRIVCMD, f"u0:2:{s.pick((s.agent(), s.guest(), 'd0', NOBODY))}")
    return file


def _ioctl(s: Script, file: int, request: int, w: str, o: str = "", **more: Any) -> None:
    s.do("sys.ioctl", "", f=file, req=request, w=w, **({"o": o} if o else {}), **more)


def make(s: Script) -> None:
    """An empty area, of one file."""
    file, number, pages = _file(s), _number(s), s.rng.randrange(1, 7)
    s.do("sys.mmap", f=file, m=number, n=pages, prot=s.pick(("rw", "rw", "r")), **({"priv": 1} if s.chance(0.06) else {}))
    _state(s)["areas"][number] = (file, pages)


def _area(s: Script) -> tuple[int, int, int]:
    """An area: its number, the file that fills it and its pages."""
    areas = _state(s)["areas"]
    if not areas or s.chance(0.3):
        make(s)
    number = max(areas) if s.chance(0.4) else s.pick(sorted(areas))
    file, pages = areas[number]
    if s.chance(0.06):
        file = _file(s)
    return number, file, pages


def _frames(s: Script, name: str, many: int, domain: str = "") -> list[str]:
    # Dom0 itself may map the machine's I/O memory.
    low, first = ("0x10", "0") if domain in (*s.agents, *s.still(), "") else ("0xfffffffff", "0xfffffffff")
    return [
        s.weighted(
            (82, f"{name}/{s.pick(DATA)}"),
            (5, f"{s.other(name)}/{s.pick(DATA)}"),
            (4, "0xffffffffff"),
            (3, f"{name}/l1"),
            (3, low),
            (3, first),
        )
        for _ in range(many)
    ]


def batch(s: Script) -> None:
    """MMAPBATCH_V2 or MMAPBATCH: of all pages, of some, at a place within, twice; bad lists."""
    number, file, pages = _area(s)
    first = s.weighted((75, 0), (25, s.rng.randrange(pages + 1)))
    many = s.weighted((70, max(0, pages - first)), (25, s.rng.randrange(pages + 2)), (5, 0))
    owner = s.agent()
    domain = s.weighted((92, owner), (8, s.domid(owner)))
    address = s.weighted((92, f"m.{number}+{4096 * first}"), (4, f"m.{number}+{4096 * first + 8}"), (4, "ub"))
    frames = _frames(s, owner, many, domain)
    listed = s.weighted((95, f"ub+{LIST}"), (5, "0x10"))
    words = [f"u{LIST + 8 * i}:8:{frame}" for i, frame in enumerate(frames)]
    if s.chance(0.6):
        errors = s.weighted((95, f"ub+{ERRORS}"), (5, "0x10"))
        words += [f"u0:4:{many},u4:2:{domain},u8:8:{address},u16:8:{listed},u24:8:{errors},u{ERRORS}:8:0x7777777777777777"]
        _ioctl(s, file, BATCH_V2, ",".join(words), ",".join(f"e{i}:u{ERRORS + 4 * i}:4:s" for i in range(many)))
    else:
        words += [f"u0:4:{many},u4:2:{domain},u8:8:{address},u16:8:{listed}"]
        # The upper half of a number tells of an error; the rest is the machine's.
        _ioctl(s, file, BATCH, ",".join(words), ",".join(f"e{i}:u{LIST + 8 * i + 4}:4" for i in range(many)))
    touch(s, number, pages)


def runs(s: Script) -> None:
    """IOCTL_PRIVCMD_MMAP: runs of pages one after the other; with gaps, too long, of nothing."""
    number, file, pages = _area(s)
    owner, entries, at = s.agent(), [], 0
    domain = s.weighted((92, owner), (8, s.domid(owner)))
    for _ in range(s.weighted((60, 1), (35, 2), (5, 0))):
        many = s.weighted((80, 1), (20, s.rng.randrange(pages + 2)))
        frame = _frames(s, owner, 1, domain)[0]
        if many > 1:
            many = 1 if "/" in frame else many  # frames beside a page may be anything
        entries.append((at + s.weighted((92, 0), (8, 1)), frame, many))
        at += many
    words = [f"u0:4:{len(entries)},u4:2:{domain},u8:8:ub+{LIST}"]
    for i, (page, frame, many) in enumerate(entries):
        base = LIST + 24 * i
        words.append(f"u{base}:8:m.{number}+{4096 * page},u{base + 8}:8:{frame},u{base + 16}:8:{many}")
    _ioctl(s, file, MMAP, ",".join(words))
    touch(s, number, pages)


def resource(s: Script) -> None:
    """MMAP_RESOURCE: grant tables and their status, sizes, frames beyond the end, other kinds."""
    number, file, pages = _area(s)
    owner = s.guest()
    domain = s.weighted((90, owner), (10, s.domid(owner)))
    kind, which = s.weighted((75, 1), (15, 0), (10, 2)), s.weighted((65, 0), (30, 1), (5, 2))
    if s.chance(0.3):
        words = f"u0:2:{domain},u4:4:{kind},u8:4:{which}" + s.weighted((90, ""), (10, ",u16:8:1"))
        _ioctl(s, file, RESOURCE, words, "n:u16:4")
        return
    many, first = s.weighted((85, 1), (15, s.rng.randrange(pages + 1))), s.weighted((85, 0), (15, s.pick((1, 7, 8, 9))))
    words = f"u0:2:{domain},u4:4:{kind},u8:4:{which},u12:4:{first},u16:8:{many},u24:8:m.{number}"
    _ioctl(s, file, RESOURCE, words, "n:u16:4")


def touch(s: Script, number: int | None = None, pages: int = 0) -> None:
    """A load, and now and then a store, in an area; also where nothing is mapped."""
    if number is None:
        if not _state(s)["areas"]:
            return make(s)
        number = int(s.pick(sorted(_state(s)["areas"])))
        pages = _state(s)["areas"][number][1]
    page = s.rng.randrange(pages + (1 if s.chance(0.1) else 0))
    if s.chance(0.7):
        s.do("sys.rd", m=number, pg=page, off=4088)  # of a page table: an entry that is never set
    else:
        s.do("sys.wr", m=number, pg=page, off=8 * s.rng.randrange(1, 511), v=s.rng.randrange(1 << 48))


def end(s: Script) -> None:
    """munmap of an area, whole or in part; mprotect, mremap; the file's close, which leaves its areas."""
    state = _state(s)
    if s.chance(0.2):
        file = s.pick((*FILES, LIMITED))
        if file in state["open"]:
            s.do("sys.close", f=file)
            state["open"].discard(file)
        return
    if not state["areas"]:
        return make(s)
    number = s.pick(sorted(state["areas"]))
    file, pages = state["areas"][number]
    which = s.weighted((55, "all"), (15, "part"), (15, "protect"), (15, "move"))
    if which == "protect":
        # No access is given that the area had not: Xen may refuse it, and the process would not get past its next load.
        prot = s.pick(("r", "-"))
        s.do("sys.mprotect", m=number, prot=prot)
        if prot == "-":
            s.do("sys.rd", m=number, pg=0, off=8)
            del state["areas"][number]
            return
    elif which == "part":
        s.do("sys.munmap", m=number, pg=s.rng.randrange(pages), n=1)
        if pages == 1:
            del state["areas"][number]
    elif which == "move":
        to = _number(s)
        s.do("sys.mremap", m=number, to=to, n=s.weighted((80, pages), (20, max(1, pages - 1))))
    else:
        s.do("sys.munmap", m=number)
        del state["areas"][number]
        return
    touch(s, number if number in state["areas"] else None, pages)


def ill(s: Script) -> None:
    """mmaps of devices at odd offsets, of no pages, of what was never allocated, of devices without mmap."""
    file, device = s.pick(((24, "gntdev"), (ALLOCS, "gntalloc"), (25, "evtchn"), (FILES[0], "privcmd")))
    _open(s, file, device)
    number = _number(s)
    offset = s.pick(("0", "1", "4095", "4096", "0x1000000", "0x7ffffffffffff000", "8192"))
    pages = s.pick((0, 1, 1)) if device == "gntalloc" else s.pick((0, 1, 1, 2, 5))
    s.do("sys.mmap", f=file, m=number, n=pages, off=offset, prot=s.pick(("rw", "r", "w", "-")))
    s.do("sys.rd", m=number, pg=0, off=8)
    s.do("sys.munmap", m=number)


def allocated(s: Script) -> None:
    """Pages of gntalloc: mapped twice and in parts, their notices, given back while mapped and used afterwards."""
    state = _state(s)
    _open(s, ALLOCS, "gntalloc")
    which = s.pick(("new", "map", "map", "notice", "notice", "back", "close"))
    if which == "close":
        if s.chance(0.4):
            s.do("sys.close", f=ALLOCS)
            state["open"].discard(ALLOCS)
            state["pages"].clear()
        return
    if which == "new" or not state["pages"]:
        many, index = s.rng.randrange(1, 4), s.variable("b")
        _ioctl(s, ALLOCS, ALLOC, f"u0:2:{s.agent()},u2:2:{s.pick((0, 1, 1, 2, 0xFFFF))},u4:4:{many}", f"{index}:u8:8:V")
        state["pages"].append((index, many))
        del state["pages"][:-6]
        return
    index, many = s.pick(state["pages"])
    if which == "map":
        number, offset = _number(s), s.weighted((75, 0), (25, s.rng.randrange(many)))
        pages = s.rng.randrange(1, many - offset + 1)
        kind = {"priv": 1} if s.chance(0.08) else {}
        s.do("sys.mmap", f=ALLOCS, m=number, n=pages, off=f"${index}+{4096 * offset}", prot=s.pick(("rw", "r")), **kind)
        s.do("sys.wr", m=number, pg=0, off=16, v=s.rng.randrange(1 << 48))
        s.do("sys.rd", m=number, pg=pages - 1, off=16)
        _state(s)["areas"][number] = (FILES[0], pages)
    elif which == "notice":
        offset = s.rng.randrange(4096 * many + 8)
        known = s.family.get("devices", {}).get("ports", [])
        port = f"${s.pick(known)}" if known and s.chance(0.6) else s.pick(("0", "4095", "0xffffffff"))
        _ioctl(s, ALLOCS, NOTIFY, f"u0:8:${index}+{offset},u8:4:{s.pick((0, 1, 1, 2, 3, 4))},u12:4:{port}")
    else:
        part = s.weighted((60, 0), (40, s.rng.randrange(many)))
        count = s.weighted((60, many - part), (40, s.rng.randrange(many + 2)))
        _ioctl(s, ALLOCS, DEALLOC, f"u0:8:${index}+{4096 * part},u8:4:{count}")


STEPS = ((8, make), (28, batch), (10, runs), (14, resource), (14, touch), (14, end), (6, ill), (12, allocated))
