"""Corners of privcmd's DM_OP: device models' calls through Linux, which checks and pins their buffers.

Contents: restricted files, counts, sizes and places of buffers, arguments that end at a page. Not here: the same calls by
Dom0's kernel (control.py), and numbers of ioctls that no device has (files.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tests.xen.workload.devices import RESTRICT_PRIVCMD, ioc
from tests.xen.workload.script import Script

DM_OP: Final = ioc("P", 5, 16)
ASK: Final = "u1024:4:20,u1032:4:77"  # the number of vCPUs
HERE: Final = ("ub+1024", 48)
NOWHERE: Final = "0x5000000000"


def _call(
    s: Script, file: int, dom: str, count: int, *buffers: tuple[str, int], body: str = ASK, at: str = "ub+512"
) -> None:
    words = [f"u0:2:{dom},u2:2:{count},u8:8:{at}"]
    words += [f"u{512 + 16 * i}:8:{place},u{520 + 16 * i}:8:{size}" for i, (place, size) in enumerate(buffers)]
    s.do("sys.ioctl", f=file, req=DM_OP, w=",".join([*words, body]), o="a:u1032:4")


def _refused(s: Script) -> None:
    for dom in ("H", "A", "20000", "SELF", "d0"):
        _call(s, 20, dom, 1, HERE)
    lists: Sequence[tuple[int, tuple[tuple[str, int], ...]]] = (
        (0, ()),
        (2, (HERE,)),
        (2, (HERE, ("ub+2048", 16))),
        (3, (HERE,) * 3),
        (16, (HERE,) * 16),
        (17, (HERE,)),
        (65535, (HERE,)),
        (2, (HERE, (NOWHERE, 16))),
        (2, (HERE, ("ub+2048", 0))),
        (2, (HERE, ("ub+2048", 4097))),
    )
    for count, buffers in lists:
        _call(s, 20, "H", count, *buffers)
    for size in (0, 7, 8, 11, 12, 4096, 4097):
        _call(s, 20, "H", 1, ("ub+1024", size))
    for place in ("0", NOWHERE, "0x7fffffffe000", "0x7ffffffff000", "0x800000000000", "0xffff800000000000"):
        _call(s, 20, "H", 1, (place, 48))
        _call(s, 20, "H", 1, HERE, at=place)
        s.do("sys.ioctl", f=20, req=DM_OP, argp=place)
    _call(s, 20, "H", 0, at="0")
    _call(s, 20, "H", 1, ("ub+4092", 48), body="u4092:4:20")
    for body in ("u1024:4:20,u1028:4:1", "u1024:4:25", "u1024:4:0"):
        _call(s, 20, "H", 1, HERE, body=body)


def through_privcmd(s: Script) -> None:
    """All of them; with a page that cannot be written, by a restricted file, and the guest's end at last."""
    for file in (20, 21, 22):
        s.do("sys.open", f=file, dev="privcmd")
    _refused(s)
    s.do("ge", "A:9", d="A", ref=9, flags=1, dom="d0", pg="A/9")
    s.do("sys.open", f=23, dev="gntdev")
    for number, access in ((3950, "rw"), (3951, "r")):
        s.do("sys.ioctl", f=23, req=ioc("G", 0, 24), w="u0:4:1,u16:4:A,u20:4:9", o=f"g{number}:u8:8:V")
        s.do("sys.mmap", f=23, m=number, n=1, off=f"$g{number}", prot=access)
        _call(s, 20, "H", 1, (f"m.{number}+16", 48))
        s.do("sys.rd", m=number, pg=0, off=24)
        s.do("sys.munmap", m=number)
    s.do("sys.close", f=23)
    for file, dom in ((21, "H"), (22, "A")):
        s.do("sys.ioctl", f=file, req=RESTRICT_PRIVCMD, w=f"u0:2:{dom}")
        for asked, count in (("H", 1), ("A", 1), ("A", 0), ("H", 17), ("INVALID", 1)):
            _call(s, file, asked, count, HERE)
    _call(s, 21, "H", 1, HERE, body="u1024:4:16,u1032:4:3")
    s.hypercall("d0", 36, "0:4:5,4:4:0x15,8:2:H", "flags:20:4:f", a1="arg")
    for file in (20, 21, 22):
        s.do("sys.close", f=file)
