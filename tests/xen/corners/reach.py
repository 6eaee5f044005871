"""Corners of mapped pages that a process reaches, or changes, other than by a load, a store, mmap and munmap.

Contents: madvise, mlock, mincore, msync, MAP_FIXED over a mapping, mremap in place, and memory as the kernel reaches it for
a process or its tracer: process_vm_readv, ptrace, /proc/self/mem, pipes and pages spliced into them. Not here: descriptors
(files.py), and the drivers' own calls (devices.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tests.xen.workload.devices import ALLOC, BATCH_V2, DEALLOC, GRANT_COPY, MAP_REF, UNMAP_REF
from tests.xen.workload.script import Script

GNTDEV, GNTALLOC, PRIVCMD, BUFFERS = 50, 51, 52, 53
REFERENCES: Final = (44, 45, 46)
SHOWN: Final = "A:44+A:45+A:46"
PAGES: Final = 3
DONTNEED, WILLNEED, FREE, REMOVE, DONTFORK, DOFORK = 4, 3, 8, 9, 10, 11
FIRST: Final = 3100


class Areas:
    """Numbers of areas, and how to make one of each kind."""

    def __init__(self, s: Script) -> None:
        self.s = s
        self.next = FIRST
        self.made = 0

    def _number(self) -> int:
        self.next += 1
        return self.next

    def gntdev(self, prot: str = "rw", priv: int = 0, pages: int = PAGES) -> int:
        """Grants of A."""
        m = self._number()
        for i, ref in enumerate(REFERENCES[:pages]):
            self.s.do("ge", d="A", ref=ref, flags=1, dom="d0", pg=f"A/{40 + i}")
        words = [f"u0:4:{pages}", *(f"u{16 + 8 * i}:4:A,u{20 + 8 * i}:4:{ref}" for i, ref in enumerate(REFERENCES[:pages]))]
        self.s.do("sys.ioctl", f=GNTDEV, req=MAP_REF, w=",".join(words), o="r0:u8:8:V")
        self.s.do("sys.mmap", SHOWN, f=GNTDEV, m=m, n=pages, off="$r0", prot=prot, **({"priv": 1} if priv else {}))
        return m

    def read_only(self) -> int:
        """The same, to read only."""
        return self.gntdev("r")

    def private(self) -> int:
        """The same, as a private mapping, which can be made to read only."""
        return self.gntdev("r", 1)

    def gntalloc(self, prot: str = "rw") -> int:
        """Pages of this process, granted to A."""
        m = self._number()
        self.s.do("sys.ioctl", f=GNTALLOC, req=ALLOC, w=f"u0:2:A,u2:2:1,u4:4:{PAGES}", o="r1:u8:8:V")
        self.s.do("sys.mmap", f=GNTALLOC, m=m, n=PAGES, off="$r1", prot=prot)
        return m

    def given_read_only(self) -> int:
        """The same, to read only."""
        return self.gntalloc("r")

    def batch(self, prot: str = "rw", priv: int = 0) -> int:
        """Pages of A by privcmd."""
        m = self._number()
        self.s.do("sys.mmap", f=PRIVCMD, m=m, n=PAGES, prot=prot, **({"priv": 1} if priv else {}))
        words = [f"u0:4:{PAGES},u4:2:A,u8:8:m.{m},u16:8:ub+2048,u24:8:ub+4096"]
        words += [f"u{2048 + 8 * i}:8:A/{40 + i}" for i in range(PAGES)]
        self.s.do("sys.ioctl", f=PRIVCMD, req=BATCH_V2, w=",".join(words), o="e0:u4096:4:s,e1:u4100:4:s,e2:u4104:4:s")
        return m

    def copied(self) -> int:
        """The same, as a private mapping: a store makes a copy."""
        return self.batch("rw", 1)

    def empty(self) -> int:
        """An area of privcmd that no call has filled."""
        m = self._number()
        self.s.do("sys.mmap", f=PRIVCMD, m=m, n=PAGES, prot="rw")
        return m

    def buffer(self) -> int:
        """Memory for hypercall arguments."""
        m = self._number()
        self.s.do("sys.mmap", f=BUFFERS, m=m, n=PAGES, prot="rw")
        return m

    def anonymous(self, prot: str = "rw") -> int:
        """Private memory."""
        m = self._number()
        self.s.do("sys.fixed", m=m, n=PAGES, prot=prot)
        return m

    def grants(self) -> tuple[Callable[[], int], ...]:
        """Those of gntdev."""
        return self.gntdev, self.read_only, self.private

    def own(self) -> tuple[Callable[[], int], ...]:
        """Those whose pages are Dom0's own."""
        return self.gntalloc, self.given_read_only, self.buffer

    def foreign(self) -> tuple[Callable[[], int], ...]:
        """Those of privcmd."""
        return self.batch, self.copied, self.empty

    def kinds(self) -> tuple[Callable[[], int], ...]:
        """One way for each kind of a device's areas."""
        return (*self.grants(), *self.own(), *self.foreign())

    def look(self, m: int) -> None:
        """All its pages, and a store to the last."""
        for page in range(PAGES):
            self.s.do("sys.rd", m=m, pg=page, off=8)
        self.s.do("sys.wr", m=m, pg=PAGES - 1, off=16, v=0x1122334455667788)
        self.s.do("sys.rd", SHOWN, m=m, pg=PAGES - 1, off=16)

    def end(self, m: int) -> None:
        """munmap, and what the file keeps."""
        self.s.do("sys.munmap", SHOWN, m=m)
        self.s.do("sys.ioctl", SHOWN, f=GNTDEV, req=UNMAP_REF, w="u0:8:$r0,u8:4:3")
        self.s.do("sys.ioctl", f=GNTALLOC, req=DEALLOC, w="u0:8:$r1,u8:4:3")


def _open(s: Script) -> None:
    for file, device in ((GNTDEV, "gntdev"), (GNTALLOC, "gntalloc"), (PRIVCMD, "privcmd"), (BUFFERS, "hypercall")):
        s.do("sys.open", f=file, dev=device)


def _close(s: Script) -> None:
    for file in (GNTDEV, GNTALLOC, PRIVCMD, BUFFERS):
        s.do("sys.close", f=file)


def advised(s: Script) -> None:
    """madvise of a whole area and of a page of it, each value on each kind."""
    _open(s)
    areas = Areas(s)
    for make in areas.kinds():
        m = make()
        for advice in (0, 1, 2, 5, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 7, 99):
            s.do("sys.madvise", SHOWN, m=m, adv=advice)
            s.do("sys.rd", m=m, pg=1, off=8)
        areas.look(m)
        areas.end(m)
        for advice in (DONTNEED, WILLNEED, FREE, REMOVE, 24, 22, 23):
            m = make()
            s.do("sys.madvise", SHOWN, m=m, pg=1, n=1, adv=advice)
            areas.look(m)
            s.do("sys.madvise", SHOWN, m=m, pg=1, n=4, adv=advice)
            areas.look(m)
            areas.end(m)
        for advice in (DOFORK, DONTFORK) if make not in areas.grants() else (DONTFORK,):
            m = make()
            s.do("sys.madvise", SHOWN, m=m, adv=advice)
            s.do("sys.child", SHOWN, do="rd", m=m, pg=0, off=8)
            s.do("sys.child", SHOWN, do="wr", m=m, pg=1, off=8, v=77)
            areas.look(m)
            areas.end(m)
    s.do("sys.mmap", f=BUFFERS, m=FIRST + 500, n=1, prot="r", priv=1)
    s.do("sys.madvise", m=FIRST + 500, n=1, adv=4)
    s.do("sys.madvise", m=FIRST + 500, n=0, adv=4)
    _close(s)


def held(s: Script) -> None:
    """mlock, mincore, msync, userfaultfd, mremap in place and MAP_FIXED over each kind."""
    _open(s)
    areas = Areas(s)
    for make in areas.kinds():
        m = make()
        s.do("sys.mincore", m=m)
        s.do("sys.mincore", m=m, pg=1, n=3)
        s.do("sys.mlock", SHOWN, m=m)
        s.do("sys.mlock", m=m, pg=1, n=1)
        s.do("sys.mlock", m=m, pg=2, n=2)
        for flags in (4, 1, 2, 6, 5, 0, 8):
            s.do("sys.msync", m=m, fl=flags)
        s.do("sys.msync", m=m, pg=2, n=2)
        s.do("sys.madvise", m=m, pg=0, n=1, adv=DONTNEED)
        s.do("sys.mlock", m=m, un=1)
        s.do("sys.uffd", m=m)
        areas.look(m)
        for new, flags in ((3, 0), (4, 0), (4, 1), (3, 1), (3, 5), (3, 4), (3, 2), (0, 0), (3, 8), (0, 1)):
            s.do("sys.resize", SHOWN, m=m, n=3, new=new, fl=flags)
        s.do("sys.resize", SHOWN, m=m, n=0, new=3, fl=1)
        s.do("sys.resize", SHOWN, m=m, pg=1, n=1, new=1, fl=1)
        s.do("sys.resize", SHOWN, m=m, pg=1, n=1, new=2, fl=1)
        s.do("sys.rd", m=m, pg=1, off=8)
        s.do("sys.mincore", m=m)
        s.do("sys.fixed", SHOWN, m=m, pg=1, n=1)
        areas.look(m)
        s.do("sys.mincore", m=m, pg=0, n=1)
        s.do("sys.resize", SHOWN, m=m, n=3, new=2, fl=0)
        s.do("sys.rd", SHOWN, m=m, pg=2, off=8)
        s.do("sys.rd", m=m, pg=0, off=8)
        s.do("sys.mlock", m=m, pg=0, n=3)
        areas.end(m)
        s.do("sys.munmap", m=m)
    _close(s)


def gone(s: Script) -> None:
    """Pages that were given up, or may not be touched: locked, populated, reached; hints for a part of an area split it."""
    _open(s)
    areas = Areas(s)
    for make in areas.kinds():
        for way in ("given up", "forbidden", "hinted"):
            m = make()
            if way == "given up":
                s.do("sys.madvise", SHOWN, m=m, pg=1, n=1, adv=DONTNEED)
            elif way == "forbidden":
                s.do("sys.mprotect", SHOWN, m=m, prot="-")
            else:
                for advice in (0, 2, 2, 16, DONTFORK, 15, 12):
                    s.do("sys.madvise", m=m, pg=1, n=1, adv=advice)
                s.do("sys.resize", m=m, n=3, new=3, fl=1)
                s.do("sys.resize", SHOWN, m=m, n=2, new=2, fl=3, to=m + 500)
                s.do("sys.munmap", SHOWN, m=m + 500)
            s.do("sys.mincore", m=m)
            s.do("sys.mlock", m=m)
            for advice in (22, 23, DONTNEED):
                for page in range(PAGES):
                    for how in ("vm", "mem", "ptrace", "write"):
                        s.do("sys.peek", m=m, pg=page, off=8, n=8, way=how)
                    s.do("sys.poke", m=m, pg=page, off=4088, n=16, way="vm", v=9)
                s.do("sys.madvise", SHOWN, m=m, adv=advice)
            areas.look(m)
            areas.end(m)
    _close(s)


WAYS: Final = ("vm", "mem", "ptrace", "write")


def reached(s: Script) -> None:
    """Loads and stores of the kernel, for the process and for another: within a page, across two, past the end."""
    _open(s)
    areas = Areas(s)
    for make in (*areas.kinds(), areas.anonymous):
        m = make()
        for way in WAYS if make != areas.private else ("vm", "write"):
            back = "read" if way == "write" else way
            for page, off, size in ((0, 16, 8), (0, 4092, 8), (2, 4092, 8), (3, 0, 8), (1, 100, 40), (1, 0, 0)):
                s.do("sys.peek", m=m, pg=page, off=off, n=size, way=way)
                s.do("sys.poke", m=m, pg=page, off=off, n=size, way=back, v=0x0102030405060708 + off)
                s.do("sys.peek", m=m, pg=page, off=off, n=size, way=way)
        areas.look(m)
        s.do("sys.munmap", SHOWN, m=m, pg=1, n=1)
        s.do("sys.peek", m=m, pg=0, off=4092, n=8, way="mem")
        s.do("sys.peek", m=m, pg=0, off=4092, n=8, way="vm")
        s.do("sys.peek", m=m, pg=0, off=4092, n=8, way="write")
        s.do("sys.poke", m=m, pg=0, off=4092, n=8, way="read", v=5)
        s.do("sys.rd", m=m, pg=0, off=4088)
        areas.end(m)
        s.do("sys.munmap", m=m)
    _close(s)


def spliced(s: Script) -> None:
    """Pages in a pipe: they are held, and tell what is in them when they are read, after the mapping has ended."""
    _open(s)
    areas = Areas(s)
    for make in (*areas.own(), *areas.foreign(), areas.anonymous):
        m = make()
        s.do("sys.pipe", p=1)
        s.do("sys.wr", m=m, pg=0, off=0, v=0x11)
        s.do("sys.wr", m=m, pg=0, off=4088, v=0x12)
        s.do("sys.vmsplice", SHOWN, p=1, m=m, pg=0, off=0, n=8)
        s.do("sys.drain", SHOWN, p=1, n=8)
        s.do("sys.vmsplice", SHOWN, p=1, m=m, pg=0, off=4088, n=4112)
        s.do("sys.wr", m=m, pg=1, off=0, v=0x22)
        s.do("sys.drain", SHOWN, p=1, n=24)
        areas.end(m)
        s.do("sys.drain", SHOWN, p=1, n=64)
        s.do("sys.drain", SHOWN, p=1, n=8192)
        s.do("sys.ioctl", SHOWN, f=GNTDEV, req=UNMAP_REF, w="u0:8:$r0,u8:4:3")
        s.do("sys.drain", SHOWN, p=1, n=8)
        s.do("sys.pclose", SHOWN, p=1)
    _close(s)


def copied(s: Script) -> None:
    """GRANT_COPY from and to mapped areas: the kernel takes the page of a grant, too, and Xen refuses it."""
    _open(s)
    areas = Areas(s)
    s.do("ge", "B:20", d="B", ref=20, flags=1, dom="d0", pg="B/9")
    there = "u1032:4:20,u1036:2:64,u1038:2:B,u1040:2:8,u1042:2:2,u1044:2:0x7fff"
    for make in (*areas.kinds(), areas.anonymous):
        m = make()
        sides = [f"u1024:4:20,u1028:2:8,u1030:2:B,u1032:8:m.{m}+16,u1040:2:8,u1042:2:1,u1044:2:0x7fff"]
        sides += [f"u1024:8:m.{m}+{off},{there}" for off in (16, 4092, 3 * 4096)]
        for turn in range(2):
            for side in sides:
                s.do("sys.ioctl", f=GNTDEV, req=GRANT_COPY, w=f"u0:4:1,u8:8:ub+1024,{side}", o="st:u1044:2:s")
                s.do("prd", pg="B/9", off=64)
            if not turn:
                s.do("sys.madvise", SHOWN, m=m, pg=0, n=1, adv=DONTNEED)
        areas.look(m)
        areas.end(m)
    _close(s)
