"""Open files that several descriptors, processes and threads share: dup, fork, sleeping readers, close in the midst.

Contents: /dev/xen/evtchn with channels of Dom0 to itself, in any order of calls. Not here: its ioctls' arguments, and the
other devices (devices.py, areas.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.xen.workload.devices import BIND_INTER, BIND_UNBOUND, RESET, RESTRICT, RING, UNBIND
from tests.xen.workload.script import Script

FILES = range(40, 48)
NOT_OPEN = 48
KEPT = 6


@dataclass
class Opened:
    """What this family has open: the descriptors, which of them may sleep, and the ends of channels (file, port)."""

    files: dict[int, bool] = field(default_factory=dict)
    ends: list[tuple[int, str]] = field(default_factory=list)


def _of(s: Script) -> Opened:
    return s.family.setdefault("files", Opened())  # type: ignore[no-any-return]


def _file(s: Script) -> int:
    """An open descriptor, usually."""
    known = sorted(_of(s).files)
    return s.pick(known) if known and s.chance(0.95) else NOT_OPEN


def _free(s: Script) -> int | None:
    left = [file for file in FILES if file not in _of(s).files]
    return s.pick(left) if left else None


def _ioctl(s: Script, file: int, request: int, **more: Any) -> None:
    s.do("sys.ioctl", f=file, req=request, **more)


def opened(s: Script) -> None:
    """A new file, some of which may sleep."""
    file = _free(s)
    if file is None:
        return closed(s)
    sleeps = s.chance(0.4)
    s.do("sys.open", f=file, dev="evtchn", **({"wait": 1} if sleeps else {}))
    _of(s).files[file] = sleeps


def doubled(s: Script) -> None:
    """dup() of a descriptor."""
    file, to = _file(s), _free(s)
    if to is None:
        return closed(s)
    s.do("sys.dup", f=file, to=to)
    if file in _of(s).files:
        _of(s).files[to] = _of(s).files[file]
        _of(s).ends += [(to, port) for owner, port in _of(s).ends if owner == file]


def closed(s: Script) -> None:
    """One descriptor of a file."""
    file = _file(s)
    s.do("sys.close", f=file)
    _forget(s, file)


def _forget(s: Script, file: int) -> None:
    _of(s).files.pop(file, None)
    _of(s).ends[:] = [end for end in _of(s).ends if end[0] != file]


def channel(s: Script) -> None:
    """A channel between two files, or of one with itself. Both ends are pending at first; one is read and enabled."""
    one, other = _file(s), _file(s)
    if NOT_OPEN in (one, other):
        return opened(s)
    first, second = s.variable("q"), s.variable("q")
    _ioctl(s, one, BIND_UNBOUND, w="u0:4:0", o=f"{first}:r:4:V")
    _ioctl(s, other, BIND_INTER, w=f"u0:4:0,u4:4:${first}", o=f"{second}:r:4:V")
    s.do("sys.write", f=other, w=f"u0:4:${second}", n=4)
    _of(s).ends += [(one, first), (other, second)]
    del _of(s).ends[: -2 * KEPT]


def _end(s: Script) -> tuple[int, str]:
    """A descriptor and a port: of the same file, or not."""
    if not _of(s).ends:
        channel(s)
    if not _of(s).ends:
        return NOT_OPEN, "1"
    file, port = s.pick(_of(s).ends)
    return (file if s.chance(0.9) else _file(s)), f"${port}"


def used(s: Script) -> None:
    """Rung, read, enabled again, polled, unbound, emptied, restricted: by this process or a child of it."""
    file, port = _end(s)
    which = s.weighted((30, "ring"), (20, "read"), (20, "write"), (16, "poll"), (6, "unbind"), (4, "reset"), (4, "restrict"))
    size = s.weighted((70, 4), (30, s.pick((0, 3, 7, 8, 12))))
    child = {"do": "ioctl"} if s.chance(0.25) else {}
    call = "sys.child" if child else "sys.ioctl"
    if which == "ring":
        s.do(call, f=file, req=RING, w=f"u0:4:{port}", **child)
    elif which == "unbind":
        s.do(call, f=file, req=UNBIND, w=f"u0:4:{port}", **child)
    elif which == "reset":
        s.do(call, f=file, req=RESET, **child)
    elif which == "restrict":
        s.do(call, f=file, req=RESTRICT, w=f"u0:2:{s.pick((0, 5, 5, '0x7ff0'))}", **child)
    elif which == "poll":
        s.do("sys.polls", f="+".join(str(_file(s)) for _ in range(s.rng.randrange(1, 5))))
    elif which == "read":
        if _of(s).files.get(file):  # with nothing to read it would sleep
            return waited(s)
        if child:
            s.do("sys.child", do="read", f=file, n=size)
        else:
            s.do("sys.read", f=file, n=size, o="p:u0:4" if size >= 4 else "")
    elif child:
        s.do("sys.child", do="write", f=file, w=f"u0:4:{port}", n=size)
    else:
        s.do("sys.write", f=file, w=f"u0:4:{port}", n=size)


def waited(s: Script) -> None:
    """A reader that may sleep, until a port is rung; now and then another thread closes its descriptor in the midst."""
    file = _file(s)
    ringer, port = _end(s)
    more: dict[str, Any] = {"ring": ringer, "p": port} if s.chance(0.8) else {}
    if s.chance(0.3):
        more["close"] = 1
    s.do("sys.wait", f=file, n=s.pick((4, 4, 3, 8, 12)), **more)
    if "close" in more:
        s.do("sys.close", f=file)  # if the reader had no reason to sleep
        _forget(s, file)


STEPS = ((12, opened), (8, doubled), (8, closed), (14, channel), (46, used), (12, waited))
