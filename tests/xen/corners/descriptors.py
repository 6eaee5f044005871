"""Corners of descriptors: the calls that the kernel has for every kind of file, on each of Xen's devices.

Not here: reads, writes and polls that a driver answers (files.py, devices.py).
"""

from __future__ import annotations

from tests.xen.workload.devices import BIND_INTER, BIND_UNBOUND, RING
from tests.xen.workload.script import Script

FILES = {54: "evtchn", 55: "gntdev", 56: "gntalloc", 57: "privcmd", 58: "hypercall"}
FIONBIO, FIOASYNC, FIOCLEX, FIONCLEX, FIONREAD, FIOQSIZE, FIGETBSZ = 0x5421, 0x5452, 0x5451, 0x5450, 0x541B, 0x5460, 2
NONBLOCK, APPEND, DIRECT, ASYNC = 0o4000, 0o2000, 0o40000, 0o20000


def descriptors(s: Script) -> None:
    """Each call on each device, and on a number that is not open."""
    for file, device in FILES.items():
        s.do("sys.open", f=file, dev=device)
    s.do("sys.ioctl", f=54, req=BIND_UNBOUND, w="u0:4:0", o="d0:r:4:V")
    s.do("sys.ioctl", f=54, req=BIND_INTER, w="u0:4:0,u4:4:$d0", o="d1:r:4:V")
    for file in (*FILES, 59):
        s.do("sys.read", f=file, n=0)
        s.do("sys.write", f=file, n=0)
        s.do("sys.read", f=file, n=4)
        s.do("sys.write", f=file, n=4)
        for size in (0, 4, 8):
            for what in ("pread", "pwrite", "readv", "writev"):
                s.do("sys.file", f=file, do=what, n=size)
        s.do("sys.file", f=file, do="pread", n=4, off=-1)
        s.do("sys.file", f=file, do="pwrite", n=4, off=4096)
        for whence in (0, 1, 2, 7):
            s.do("sys.file", f=file, do="lseek", off=8, whence=whence)
        for what in ("fsync", "ftruncate", "fallocate", "statx", "sendfile", "splicein", "spliceout", "epoll"):
            s.do("sys.file", f=file, do=what, n=8)
        s.do("sys.file", f=file, do="getfl")
        for flags in (0, NONBLOCK, APPEND, DIRECT, ASYNC, NONBLOCK):
            s.do("sys.file", f=file, do="setfl", fl=flags)
            s.do("sys.file", f=file, do="getfl")
        for request in (FIONBIO, FIOASYNC, FIOCLEX, FIONCLEX, FIONREAD, FIOQSIZE, FIGETBSZ):
            for value in (1, 0):
                s.do("sys.file", f=file, do="ioctl", req=request, v=value)
        s.do("sys.file", f=file, do="getfl")
        s.do("sys.file", f=file, do="ioctl", req=FIONBIO, v=1)
        s.do("sys.file", f=file, do="getfl")
    s.do("sys.file", f=54, do="epoll")
    s.do("sys.ioctl", f=54, req=RING, w="u0:4:$d0")
    s.do("sys.file", f=54, do="epoll")
    s.do("sys.file", f=54, do="pass")
    s.do("sys.file", f=54, do="epoll")
    s.do("sys.read", f=54, n=64, o="p:u0:4,q:u4:4")
    s.do("sys.file", f=59, do="pass")
    s.do("sys.file", f=55, do="pass")
    for file in FILES:
        s.do("sys.close", f=file)
    for device in ("nothing", "gntdev/x"):
        s.do("sys.open", f=54, dev=device)
        s.do("sys.close", f=54)
