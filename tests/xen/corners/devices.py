"""Corners of Dom0's devices: the oldest ioctls of privcmd, private mappings, an overflow of evtchn's ring."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tests.xen.workload.devices import (
    BATCH_V2,
    BIND_INTER,
    BIND_UNBOUND,
    BIND_VIRQ,
    HYPERCALL,
    MAP_REF,
    RESET,
    RESOURCE,
    RESTRICT_PRIVCMD,
    UNBIND,
    UNMAP_REF,
    ioc,
)
from tests.xen.workload.script import EVENT_CHANNEL_OP, Script

MMAP_V1: Final = ioc("P", 2, 16)
BATCH_V1: Final = ioc("P", 3, 24)


def privcmd(s: Script) -> None:
    """The oldest ioctls of privcmd, private mappings and a store to them, areas filled in parts."""
    s.do("sys.open", f=20, dev="privcmd")
    area = 3000

    def batch(request: int, at: str, frames: Sequence[str], dom: str = "A", count: int = 0, argp: str = "") -> None:
        words = [f"u0:4:{count or len(frames)},u4:2:{dom},u8:8:{at},u16:8:ub+2048,u24:8:ub+4096"]
        words += [f"u{2048 + 8 * i}:8:{frame}" for i, frame in enumerate(frames)]
        reads = ",".join(f"b{i}:u{2048 + 8 * i + 4}:4:f" for i in range(len(frames)))
        s.do("sys.ioctl", f=20, req=request, w=",".join(words), o=reads, **({"argp": argp} if argp else {}))

    for request in (BATCH_V1, BATCH_V2):
        for frames in (("A/3", "A/4"), ("A/3", "0xffffffffff"), ("B/3", "A/4"), ("A/3",), ("A/3", "A/4", "A/5")):
            area += 1
            s.do("sys.mmap", f=20, m=area, n=2, prot="rw")
            batch(request, f"m.{area}", frames)
            for page in (0, 1):
                s.do("sys.rd", m=area, pg=page, off=8)
            batch(request, f"m.{area}", frames)
            batch(request, f"m.{area}+4096", frames[:1])
            s.do("sys.munmap", m=area, pg=0, n=1)
            s.do("sys.munmap", m=area)
    batch(BATCH_V1, "ub", ("A/3",))
    batch(BATCH_V1, "0x10", ("A/3",))
    batch(BATCH_V1, "m.3001", (), count=0)
    batch(BATCH_V1, "m.3001", (), argp="0x10")

    def runs(*entries: tuple[str, str, int], dom: str = "A", num: str = "") -> None:
        words = [f"u0:4:{num or len(entries)},u4:2:{dom},u8:8:ub+2048"]
        words += [
            f"u{2048 + 24 * i}:8:{va},u{2056 + 24 * i}:8:{mfn},u{2064 + 24 * i}:8:{n}"
            for i, (va, mfn, n) in enumerate(entries)
        ]
        s.do("sys.ioctl", f=20, req=MMAP_V1, w=",".join(words))

    for shape in ("one", "two", "gap", "late", "long", "bad", "other"):
        area += 1
        at = f"m.{area}"
        s.do("sys.mmap", f=20, m=area, n=2, prot="rw")
        if shape == "one":
            runs((at, "A/3", 1))
        elif shape == "two":
            runs((at, "A/3", 1), (f"{at}+4096", "A/9", 1))
        elif shape == "gap":
            runs((at, "A/3", 1), (f"{at}+8192", "A/9", 1))
        elif shape == "late":
            runs((f"{at}+4096", "A/9", 1))
        elif shape == "long":
            runs((at, "A/3", 3))
        elif shape == "bad":
            runs((at, "A/3", 1), (f"{at}+4096", "0xffffffffff", 1))
        else:
            runs((at, "A/3", 1), dom="B")
        for page in (0, 1):
            s.do("sys.rd", m=area, pg=page, off=8)
        s.do("sys.wr", m=area, pg=0, off=16, v=area)
        s.do("prd", pg="A/3", off=16)
        runs((at, "A/3", 1))
        s.do("sys.munmap", m=area)
    runs(num="0")
    runs(("0x10", "A/3", 1))
    # A store to a private mapping makes a copy.
    for prot in ("rw", "r"):
        area += 1
        s.do("sys.mmap", f=20, m=area, n=2, prot=prot, priv=1)
        batch(BATCH_V2, f"m.{area}", ("A/3", "A/4"))
        s.do("pwr", pg="A/3", off=24, v=0x31)
        s.do("sys.rd", m=area, pg=0, off=24)
        s.do("sys.wr", m=area, pg=0, off=24, v=0x32)
        s.do("sys.rd", m=area, pg=0, off=24)
        s.do("prd", pg="A/3", off=24)
        s.do("sys.rd", m=area, pg=0, off=8)
        s.do("sys.mprotect", m=area, prot="r")
        s.do("sys.wr", m=area, pg=0, off=24, v=0x33)
        s.do("sys.mprotect", m=area, prot="rw")
        s.do("sys.wr", m=area, pg=1, off=24, v=0x34)
        s.do("sys.rd", m=area, pg=1, off=24)
        s.do("prd", pg="A/4", off=24)
        s.do("sys.munmap", m=area)
    s.do("sys.close", f=20)
    # A file that is restricted to one domain, by each of its requests.
    s.do("sys.open", f=20, dev="privcmd")
    s.do("sys.ioctl", f=20, req=RESTRICT_PRIVCMD, w="u0:2:A")
    for dom in ("B", "A"):
        area += 1
        s.do("sys.mmap", f=20, m=area, n=1, prot="rw")
        runs((f"m.{area}", f"{dom}/3", 1), dom=dom)
        s.do("sys.rd", m=area, pg=0, off=8)
        for request in (BATCH_V1, BATCH_V2):
            area += 1
            s.do("sys.mmap", f=20, m=area, n=1, prot="rw")
            batch(request, f"m.{area}", (f"{dom}/3",), dom=dom)
            s.do("sys.rd", m=area, pg=0, off=8)
        s.do("sys.ioctl", f=20, req=RESOURCE, w=f"u0:2:{dom},u4:4:1", o="n:u16:8")
        s.do("sys.ioctl", f=20, req=HYPERCALL, w="u0:8:20,u8:8:6,u16:8:ub+256,u24:8:1,u256:2:A")
        s.do("sys.ioctl", f=20, req=RESTRICT_PRIVCMD, w=f"u0:2:{dom}")
    s.do("sys.close", f=20)


def private_grants(s: Script) -> None:
    """Private mappings of grants, which may only be read; areas moved and cut."""
    s.do("sys.open", f=21, dev="gntdev")
    for i, page in enumerate((3, 4, 5)):
        s.do("ge", d="B", ref=11 + i, flags=1, dom="d0", pg=f"B/{page}")
    area = 3100
    for prot, priv in (("r", 1), ("rw", 1), ("-", 0), ("w", 0), ("r", 0)):
        area += 1
        words = "u0:4:3,u16:4:B,u20:4:11,u24:4:B,u28:4:12,u32:4:B,u36:4:13"
        s.do("sys.ioctl", f=21, req=MAP_REF, w=words, o="pg1:u8:8:V")
        s.do("sys.mmap", "B:11+B:12+B:13", f=21, m=area, n=3, off="$pg1", prot=prot, **({"priv": 1} if priv else {}))
        for step in ("rd", "wr"):
            s.do(f"sys.{step}", m=area, pg=1, off=8, v=5)
        s.do("sys.mprotect", "B:11+B:12+B:13", m=area, prot="rw")
        for page in range(3):
            s.do("sys.wr", m=area, pg=page, off=8, v=6)
            s.do("sys.rd", m=area, pg=page, off=8)
            s.do("prd", pg=f"B/{3 + page}", off=8)
        s.do("sys.munmap", "B:11+B:12+B:13", m=area, pg=1, n=1)
        s.do("sys.rd", m=area, pg=1, off=8)
        s.do("sys.rd", m=area, pg=2, off=8)
        s.do("sys.mmap", "B:11+B:12+B:13", f=21, m=area + 50, n=3, off="$pg1", prot="r")
        s.do("sys.munmap", "B:11+B:12+B:13", m=area)
        s.do("sys.mmap", "B:11+B:12+B:13", f=21, m=area + 50, n=3, off="$pg1", prot="r")
        s.do("sys.munmap", "B:11+B:12+B:13", m=area + 50)
        s.do("sys.ioctl", "B:11+B:12+B:13", f=21, req=UNMAP_REF, w="u0:8:$pg1,u8:4:3")
    # Moved with fewer pages: the rest is unmapped. A part is moved, and what is beyond an area.
    s.do("sys.ioctl", f=21, req=MAP_REF, w="u0:4:3,u16:4:B,u20:4:11,u24:4:B,u28:4:12,u32:4:B,u36:4:13", o="pg2:u8:8:V")
    s.do("sys.mmap", "B:11+B:12+B:13", f=21, m=3200, n=3, off="$pg2", prot="rw")
    s.do("sys.mremap", "B:11+B:12+B:13", m=3200, to=3201, n=2)
    for m, page in ((3200, 0), (3200, 1), (3200, 2), (3201, 0), (3201, 1), (3201, 2)):
        s.do("sys.rd", m=m, pg=page, off=8)
    s.do("sys.munmap", "B:11+B:12+B:13", m=3201)
    s.do("sys.close", f=21)


def rings(s: Script) -> None:
    """The ring of evtchn overflows, as ports that were unbound stay in it; a virtual interrupt that dying domains raise."""
    s.do("sys.open", f=22, dev="evtchn")
    for i in range(68):
        s.hypercall("A", EVENT_CHANNEL_OP, "0:2:SELF,2:2:d0", "rp:4:4:V", a1=6, a2="arg")
        s.do("sys.ioctl", f=22, req=BIND_INTER, w="u0:4:A,u4:4:$rp", o="rq:r:8:v", nor=1)
        if i in (62, 63, 64):
            s.do("sys.poll", f=22)
        s.do("sys.ioctl", f=22, req=UNBIND, w="u0:4:$rq")
        s.hypercall("A", EVENT_CHANNEL_OP, "0:4:$rp", a1=3, a2="arg")
    s.do("sys.poll", f=22)
    s.do("sys.read", f=22, n=0)
    s.do("sys.read", f=22, n=4)
    s.do("sys.read", f=22, n=4096)
    s.do("sys.ioctl", f=22, req=RESET)
    s.do("sys.poll", f=22)
    s.do("sys.read", f=22, n=4)
    s.do("sys.ioctl", f=22, req=BIND_UNBOUND, w="u0:4:A", o="ru:r:8:v", nor=1)
    s.hypercall("A", EVENT_CHANNEL_OP, "0:2:d0,4:4:$ru", "rv:8:4:V", a1=0, a2="arg")
    for _ in range(2):
        s.hypercall("A", EVENT_CHANNEL_OP, "0:4:$rv", a1=4, a2="arg")
        s.do("sys.read", f=22, n=4)
        s.hypercall("A", EVENT_CHANNEL_OP, "0:4:$rv", a1=4, a2="arg")
        s.do("sys.read", f=22, n=4)
        s.do("sys.write", f=22, n=4, w="u0:4:$ru")
        s.do("sys.read", f=22, n=4)
    s.do("sys.close", f=22)
    s.hypercall("A", EVENT_CHANNEL_OP, "0:4:$rv", a1=4, a2="arg")
    s.do("sys.open", f=23, dev="evtchn")
    for virq in ("3", "3", "0", "24"):
        s.do("sys.ioctl", f=23, req=BIND_VIRQ, w=f"u0:4:{virq}", nor=1)
    for _ in range(2):
        s.do("sys.poll", f=23)
        s.renew("K")
        s.do("sys.poll", f=23)
        s.do("sys.read", f=23, n=1)
        s.do("sys.read", f=23, n=0)
    s.do("sys.close", f=23)
