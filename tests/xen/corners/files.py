"""Corners of open files that several descriptors and processes share: dup, fork, readers that sleep, poll of several.

Contents: /dev/xen/evtchn, gntdev and gntalloc by descriptors of one open file. Not here: their arguments (devices.py).
"""

from __future__ import annotations

from tests.xen.workload.devices import BIND_INTER, BIND_UNBOUND, RESET, RESTRICT, RING, UNBIND, ioc
from tests.xen.workload.script import Script

ALLOC_GREF = ioc("G", 5, 24)
MAP_GREF, UNMAP_GREF = ioc("G", 0, 24), ioc("G", 1, 16)


def _channel(s: Script, one: int, other: int, name: str) -> None:
    """A channel of Dom0 with itself, by two files; the second end is pending, and read."""
    s.do("sys.ioctl", f=one, req=BIND_UNBOUND, w="u0:4:0", o=f"{name}:r:4:V")
    s.do("sys.ioctl", f=other, req=BIND_INTER, w=f"u0:4:0,u4:4:${name}", o=f"{name}b:r:4:V")
    s.do("sys.read", f=other, n=64, o="p:u0:4")
    s.do("sys.write", f=other, w=f"u0:4:${name}b", n=4)


def _ring(s: Script, file: int, port: str, **more: object) -> None:
    s.do("sys.ioctl", f=file, req=RING, w=f"u0:4:${port}", **more)


def _same_file(s: Script) -> None:
    """dup: the ports, the ring and the restriction are the file's; the last descriptor closes it."""
    for file in (30, 31, 33):
        s.do("sys.open", f=file, dev="evtchn")
    _channel(s, 30, 31, "e0")
    s.do("sys.dup", f=30, to=32)
    s.do("sys.dup", f=40, to=41)
    s.do("sys.dup", f=32, to=34)
    _ring(s, 31, "e0b")
    for files in ("30+31+32", "32+30", "33", "41+30", "30+30+30"):
        s.do("sys.polls", f=files)
    s.do("sys.read", f=32, n=4, o="p:u0:4")
    s.do("sys.read", f=30, n=4)
    _ring(s, 31, "e0b")
    s.do("sys.read", f=34, n=4)
    s.do("sys.write", f=34, w="u0:4:$e0", n=4)
    s.do("sys.read", f=30, n=3)
    s.do("sys.read", f=30, n=7, o="p:u0:4")
    s.do("sys.write", f=30, w="u0:4:$e0", n=7)
    s.do("sys.close", f=30)
    _ring(s, 31, "e0b")
    s.do("sys.polls", f="30+32+34")
    s.do("sys.close", f=32)
    s.do("sys.read", f=34, n=4, o="p:u0:4")
    s.do("sys.ioctl", f=34, req=RESTRICT, w="u0:2:5")
    s.do("sys.dup", f=34, to=30)
    s.do("sys.ioctl", f=30, req=BIND_UNBOUND, w="u0:4:0")
    s.do("sys.ioctl", f=30, req=RESET)
    s.do("sys.close", f=34)
    _ring(s, 30, "e0")
    _ring(s, 31, "e0b")
    s.do("sys.close", f=30)
    _ring(s, 31, "e0b")
    s.do("sys.ioctl", f=31, req=UNBIND, w="u0:4:$e0b")
    s.do("sys.close", f=30)
    for file in (31, 33):
        s.do("sys.close", f=file)


def _passed(s: Script) -> None:
    """Descriptors of a child: what it does on the file is done for its parent, too."""
    for file in (30, 31):
        s.do("sys.open", f=file, dev="evtchn")
    _channel(s, 30, 31, "e1")
    s.do("sys.child", do="ioctl", f=31, req=RING, w="u0:4:$e1b")
    s.do("sys.poll", f=30)
    s.do("sys.child", do="read", f=30, n=4)
    s.do("sys.read", f=30, n=4)
    s.do("sys.child", do="write", f=30, w="u0:4:$e1", n=4)
    _ring(s, 31, "e1b")
    s.do("sys.read", f=30, n=4, o="p:u0:4")
    s.do("sys.child", do="close", f=30)
    s.do("sys.write", f=30, w="u0:4:$e1", n=4)
    s.do("sys.child", do="ioctl", f=30, req=UNBIND, w="u0:4:$e1")
    s.do("sys.ioctl", f=30, req=UNBIND, w="u0:4:$e1")
    s.do("sys.child", do="ioctl", f=30, req=RESTRICT, w="u0:2:9")
    s.do("sys.ioctl", f=30, req=BIND_UNBOUND, w="u0:4:0")
    s.do("sys.child", do="read", f=30, n=4)
    s.do("sys.child", do="ioctl", f=50, req=RING, w="u0:4:1")
    for file in (30, 31):
        s.do("sys.close", f=file)


def _asleep(s: Script) -> None:
    """Files that may sleep: a reader that waits until somebody rings, for another port than was asked, or in vain."""
    s.do("sys.open", f=30, dev="evtchn", wait=1)
    s.do("sys.open", f=31, dev="evtchn")
    s.do("sys.wait", f=30, n=0)
    s.do("sys.wait", f=30, n=4)
    _channel(s, 30, 31, "e2")
    _channel(s, 30, 31, "e3")
    s.do("sys.wait", f=31, n=4, ring=31, p="$e2b")
    for size in (4, 3, 8, 12):
        for name in ("e2", "e3", "e3"):
            s.do("sys.wait", f=30, n=size, ring=31, p=f"${name}b")
        s.do("sys.wait", f=30, n=size, ring=30, p="$e2")
        s.do("sys.write", f=30, w="u0:4:$e2,u4:4:$e3", n=8)
    for name in ("e2", "e3"):
        _ring(s, 31, f"{name}b")
    s.do("sys.wait", f=30, n=4, ring=31, p="$e2b")
    s.do("sys.wait", f=30, n=12, ring=31, p="$e2b")
    s.do("sys.wait", f=30, n=4, ring=31, p="5000")
    s.do("sys.wait", f=30, n=4, ring=50, p="$e2b")
    s.do("sys.dup", f=30, to=32)
    s.do("sys.write", f=32, w="u0:4:$e2,u4:4:$e3", n=8)
    s.do("sys.wait", f=32, n=4, ring=31, p="$e2b")
    s.do("sys.ioctl", f=31, req=UNBIND, w="u0:4:$e3b")
    s.do("sys.wait", f=30, n=4, ring=30, p="$e3")
    s.do("sys.wait", f=50, n=4)
    for file in (30, 31, 32):
        s.do("sys.close", f=file)


def _devices(s: Script) -> None:
    """gntdev and gntalloc: what one descriptor has prepared, another one of the same file maps; other files do not."""
    s.do("ge", "A:11", d="A", ref=11, flags=1, dom="d0", pg="A/11")
    s.do("sys.open", f=30, dev="gntdev")
    s.do("sys.dup", f=30, to=31)
    s.do("sys.open", f=32, dev="gntdev")
    s.do("sys.ioctl", "A:11", f=30, req=MAP_GREF, w="u0:4:1,u16:4:A,u20:4:11", o="g0:u8:8:V")
    s.do("sys.mmap", f=32, m=3900, n=1, off="$g0")
    s.do("sys.mmap", "A:11", f=31, m=3901, n=1, off="$g0")
    s.do("sys.rd", m=3901, pg=0, off=8)
    s.do("sys.close", f=30)
    s.do("sys.ioctl", f=32, req=UNMAP_GREF, w="u0:8:$g0,u8:4:1")
    s.do("sys.child", do="ioctl", f=31, req=UNMAP_GREF, w="u0:8:$g0,u8:4:1")
    s.do("sys.ioctl", "A:11", f=31, req=UNMAP_GREF, w="u0:8:$g0,u8:4:1")
    s.do("sys.close", f=31)
    s.do("sys.rd", m=3901, pg=0, off=8)
    s.do("sys.munmap", "A:11", m=3901)
    s.do("sys.polls", f="30+32")
    s.do("sys.read", f=32, n=4)
    s.do("sys.close", f=32)
    s.do("sys.open", f=30, dev="gntalloc")
    s.do("sys.dup", f=30, to=31)
    s.do("sys.ioctl", f=30, req=ALLOC_GREF, w="u0:2:A,u2:2:1,u4:4:1", o="o0:u8:8:V")
    s.do("sys.child", do="ioctl", f=31, req=ioc("G", 6, 16), w="u0:8:$o0,u8:4:1")
    s.do("sys.mmap", f=31, m=3902, n=1, off="$o0")
    s.do("sys.close", f=30)
    s.do("sys.ioctl", f=31, req=ALLOC_GREF, w="u0:2:A,u2:2:1,u4:4:1", o="o1:u8:8:V")
    s.do("sys.mmap", f=31, m=3903, n=1, off="$o1")
    s.do("sys.wr", m=3903, pg=0, off=0, v=7)
    s.do("sys.child", do="rd", m=3903, pg=0, off=0)
    s.do("sys.close", f=31)
    s.do("sys.rd", m=3903, pg=0, off=0)
    for number in (3902, 3903):
        s.do("sys.munmap", m=number)


def shared(s: Script) -> None:
    """All of them."""
    _same_file(s)
    _passed(s)
    _asleep(s)
    _devices(s)
