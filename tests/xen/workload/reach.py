"""Mapped areas by other calls than loads and stores: advice, locks, mremap in place, MAP_FIXED, tracers, pipes, and files by
the calls that are the kernel's own.

Contents: areas of every kind of Xen's devices, in any order of calls. Not here: what drivers answer (devices.py, areas.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from tests.xen.workload.devices import ALLOC, BATCH_V2, DEALLOC, MAP_REF, UNMAP_REF
from tests.xen.workload.script import DATA, Script, entries

GNTDEV, GNTALLOC, PRIVCMD, BUFFERS = 50, 51, 52, 53
FILES: Final = {GNTDEV: "gntdev", GNTALLOC: "gntalloc", PRIVCMD: "privcmd", BUFFERS: "hypercall"}
FIRST, MOST = 3900, 190
REFS: Final = range(48, 56)
KEPT: Final = 7
KINDS: Final = ("grants", "grants", "read only", "private", "own", "own read only", "foreign", "copied", "empty", "buffer")
GRANTS: Final = ("grants", "read only", "private")
PINNED: Final = ("own", "own read only", "buffer", "foreign", "empty")  # no grants, and no pages of the process's own
DOFORK: Final = 11
ADVICE: Final = (0, 1, 2, 3, 4, 4, 4, 8, 9, 10, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 22, 23, 23, 24, 24, 25, 7, 99)
BLOCKS: Final = ("fsync", "ftruncate", "fallocate", "sendfile", "splicein", "spliceout", "statx", "epoll", "getfl", "pass")
IOCTLS: Final = (0x5421, 0x5452, 0x5451, 0x5450, 0x541B, 0x5460, 2)


@dataclass
class Area:
    """One area: its kind, pages, what ends its file's part of it, and whether private memory has replaced some of it."""

    kind: str
    pages: int
    index: str = ""
    shown: str = ""
    mixed: bool = False


@dataclass
class Reached:
    """What this family has open, mapped and piped, and the next number of an area."""

    open: set[int] = field(default_factory=set)
    areas: dict[int, Area] = field(default_factory=dict)
    pipes: set[int] = field(default_factory=set)
    next: int = 0


def _of(s: Script) -> Reached:
    return s.family.setdefault("reach", Reached())  # type: ignore[no-any-return]


def _open(s: Script, file: int) -> None:
    if file not in _of(s).open:
        s.do("sys.open", f=file, dev=FILES[file])
        _of(s).open.add(file)


def _number(s: Script) -> int:
    state = _of(s)
    while True:
        number = FIRST + state.next
        state.next = (state.next + 1) % MOST
        if number not in state.areas:
            return number


def make(s: Script) -> None:
    """A new area of any kind; with KEPT of them one ends first."""
    if len(_of(s).areas) >= KEPT:
        return ended(s)
    kind, pages, number = s.pick(KINDS), s.rng.randrange(1, 5), _number(s)
    area = Area(kind, pages)
    priv = {"priv": 1} if kind in ("private", "copied") else {}
    prot = "r" if kind in ("read only", "private", "own read only") else "rw"
    if kind in GRANTS:
        area.index, granter = s.variable("r"), s.agent()
        refs = s.rng.sample(list(REFS), pages)
        _open(s, GNTDEV)
        for ref in refs:
            s.do("ge", d=granter, ref=ref, flags=1, dom="d0", pg=f"{granter}/{s.pick(DATA)}")
        words = [f"u0:4:{pages}", *(f"u{16 + 8 * i}:4:{granter},u{20 + 8 * i}:4:{ref}" for i, ref in enumerate(refs))]
        s.do("sys.ioctl", f=GNTDEV, req=MAP_REF, w=",".join(words), o=f"{area.index}:u8:8:V")
        area.shown = entries([(granter, ref) for ref in refs])
        s.do("sys.mmap", area.shown, f=GNTDEV, m=number, n=pages, off=f"${area.index}", prot=prot, **priv)
    elif kind in ("own", "own read only"):
        area.index = s.variable("a")
        _open(s, GNTALLOC)
        s.do("sys.ioctl", f=GNTALLOC, req=ALLOC, w=f"u0:2:{s.agent()},u2:2:1,u4:4:{pages}", o=f"{area.index}:u8:8:V")
        s.do("sys.mmap", f=GNTALLOC, m=number, n=pages, off=f"${area.index}", prot=prot)
    elif kind == "buffer":
        _open(s, BUFFERS)
        s.do("sys.mmap", f=BUFFERS, m=number, n=pages, prot=prot)
    else:
        _open(s, PRIVCMD)
        s.do("sys.mmap", f=PRIVCMD, m=number, n=pages, prot=prot, **priv)
        if kind != "empty":
            owner = s.agent()
            words = [f"u0:4:{pages},u4:2:{owner},u8:8:m.{number},u16:8:ub+2048,u24:8:ub+4096"]
            words += [f"u{2048 + 8 * i}:8:{owner}/{s.pick(DATA)}" for i in range(pages)]
            s.do("sys.ioctl", f=PRIVCMD, req=BATCH_V2, w=",".join(words), o="e0:u4096:4:s")
    _of(s).areas[number] = area


def _one(s: Script) -> tuple[int, Area]:
    """An area, made now if there is none."""
    if not _of(s).areas:
        make(s)
    number = s.pick(sorted(_of(s).areas))
    return number, _of(s).areas[number]


def _part(s: Script, area: Area) -> dict[str, int]:
    """A part of an area, or all of it; now and then beyond its end."""
    if s.chance(0.35):
        return {}
    first = s.rng.randrange(area.pages)
    return {"pg": first, "n": s.weighted((80, s.rng.randrange(1, area.pages - first + 1)), (15, area.pages + 1), (5, 0))}


def advised(s: Script) -> None:
    """madvise; a child sees what may be copied."""
    number, area = _one(s)
    if area.kind in PINNED and s.chance(0.05):
        s.do("sys.madvise", m=number, **_part(s, area), adv=DOFORK)
    advice = s.pick(ADVICE)
    if area.mixed and advice in (8, 9, 18, 25):  # of memory of its own
        return
    s.do("sys.madvise", area.shown, m=number, **_part(s, area), adv=advice)
    if s.chance(0.15):
        page = s.rng.randrange(area.pages)
        s.do("sys.child", do=s.pick(("rd", "wr")), m=number, pg=page, off=24, v=s.rng.randrange(1 << 40))


def held(s: Script) -> None:
    """mlock, munlock, mincore, msync, userfaultfd."""
    number, area = _one(s)
    which, part = s.pick(("mlock", "munlock", "mincore", "msync", "uffd")), _part(s, area)
    if which == "mlock":
        s.do("sys.mlock", area.shown, m=number, **part)
    elif which == "munlock":
        s.do("sys.mlock", m=number, **part, un=1)
    elif which == "msync":
        s.do("sys.msync", m=number, **part, fl=s.pick((0, 1, 2, 4, 5, 6, 8)))
    elif which == "mincore" and not area.mixed:
        s.do("sys.mincore", m=number, **part)
    elif which == "uffd" and not area.mixed and part.get("n", 1):
        s.do("sys.uffd", m=number, **part)


def changed(s: Script) -> None:
    """mremap with all flags, mprotect, MAP_FIXED over a part."""
    number, area = _one(s)
    which = s.weighted((45, "resize"), (25, "fixed"), (15, "protect"), (15, "munmap"))
    if which == "resize":
        pages = s.weighted((80, area.pages), (15, s.rng.randrange(area.pages + 1)), (5, area.pages + 1))
        new = s.weighted((50, pages), (25, area.pages + 1), (20, s.rng.randrange(area.pages + 1)), (5, 0))
        flags = s.pick((0, 0, 1, 1, 2, 4, 5, 8))
        if not area.mixed:
            s.do("sys.resize", area.shown, m=number, n=pages, new=new, fl=flags)
    elif which == "fixed":
        first = s.rng.randrange(area.pages)
        s.do("sys.fixed", area.shown, m=number, pg=first, n=s.rng.randrange(1, area.pages - first + 1))
        area.mixed = True
    elif which == "protect":
        s.do("sys.mprotect", area.shown, m=number, prot=s.pick(("r", "rw", "-")))
    else:
        first = s.rng.randrange(area.pages)
        s.do("sys.munmap", area.shown, m=number, pg=first, n=1)


def touched(s: Script) -> None:
    """A load or store by the process, or by one of the other ways, within a page or across two."""
    number, area = _one(s)
    page, off = s.rng.randrange(area.pages + (1 if s.chance(0.05) else 0)), s.pick((0, 8, 100, 2048, 4088, 4090, 4092))
    size, value = s.pick((8, 8, 4, 16, 40, 0)), s.rng.randrange(1 << 62)
    way = s.pick(("own", "vm", "mem", "ptrace", "write"))
    if way == "own":
        s.do(s.pick(("sys.rd", "sys.wr")), m=number, pg=page, off=8 * s.rng.randrange(512), v=value)
    elif s.chance(0.5):
        s.do("sys.peek", m=number, pg=page, off=off, n=size, way=way)
    elif area.kind not in ("private", "read only") or way in ("vm", "write"):
        s.do("sys.poke", area.shown, m=number, pg=page, off=off, n=size, way="read" if way == "write" else way, v=value)
        s.do("sys.rd", m=number, pg=page, off=off & ~7)


def piped(s: Script) -> None:
    """Pages in a pipe, of any area without grants; what is in them is read now or later."""
    state, pipe = _of(s), s.rng.randrange(4)
    if pipe not in state.pipes:
        s.do("sys.pipe", p=pipe)
        state.pipes.add(pipe)
    which = s.weighted((50, "vmsplice"), (40, "drain"), (10, "pclose"))
    if which == "drain":
        s.do("sys.drain", p=pipe, n=s.pick((8, 8, 64, 4096, 8192)))
    elif which == "pclose":
        s.do("sys.pclose", p=pipe)
        state.pipes.discard(pipe)
    else:
        number, area = _one(s)
        if area.kind in PINNED and not area.mixed:
            page, off = s.rng.randrange(area.pages), s.pick((0, 8, 4088))
            s.do("sys.vmsplice", p=pipe, m=number, pg=page, off=off, n=s.pick((8, 16, 4096, 5000)))


def described(s: Script) -> None:
    """Calls for any kind of file."""
    file = s.pick((*FILES, 49))
    if file in FILES:
        _open(s, file)
    what = s.pick((*BLOCKS, "pread", "pwrite", "lseek", "setfl", "ioctl", "readv", "writev"))
    more: dict[str, Any] = {}
    if what in ("pread", "pwrite"):
        more = {"n": s.pick((0, 4)), "off": s.pick((0, 8, -1))}
    elif what == "lseek":
        more = {"off": s.pick((0, 8)), "whence": s.rng.randrange(7)}
    elif what == "setfl":
        more = {"fl": s.pick((0, 0o4000, 0o2000, 0o40000, 0o20000, 0o26000))}
    elif what == "ioctl":
        more = {"req": s.pick(IOCTLS), "v": s.rng.randrange(2)}
    s.do("sys.file", f=file, do=what, **more)


def ended(s: Script) -> None:
    """munmap of an area, and what its file keeps."""
    number, area = _one(s)
    s.do("sys.munmap", area.shown, m=number)
    if area.kind in GRANTS:
        s.do("sys.ioctl", area.shown, f=GNTDEV, req=UNMAP_REF, w=f"u0:8:${area.index},u8:4:{area.pages}")
    elif area.kind in ("own", "own read only"):
        s.do("sys.ioctl", f=GNTALLOC, req=DEALLOC, w=f"u0:8:${area.index},u8:4:{area.pages}")
    del _of(s).areas[number]


STEPS = (
    (16, make),
    (24, advised),
    (14, held),
    (16, changed),
    (30, touched),
    (10, piped),
    (8, described),
    (6, ended),
)
