"""`sys.file` of a recording: calls that Linux has for every kind of file, by the numbered files of the recording.

Not here: reads, writes, polls and ioctls that drivers answer (system_calls.py), and the kernel's answers
(impl/dom0/file_calls.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from bulkhead.impl.dom0 import file_calls
from bulkhead.impl.dom0.process import user_read, user_write
from bulkhead.impl.xen import abi
from bulkhead.proofs.replay.expressions import number
from bulkhead.proofs.replay.rig import USER_BUFFER_VPN, Rig

Args = dict[str, Any]
Result = dict[str, Any]
BUFFER: Final = USER_BUFFER_VPN << 12
NOT_OPEN: Final = -1


def op_file(rig: Rig, a: Args, skip: set[str]) -> Result:
    """One call, by its name `do`; ValueError for one that is not known."""
    calls, fd, what = rig.syscalls, rig.files.get(int(a.get("f", 0)), NOT_OPEN), str(a["do"])
    size, offset = int(a.get("n", 4)), int(a.get("off", 0))
    user_write(rig.process.space, BUFFER, bytes(abi.PAGE_SIZE))
    if what == "ioctl":
        given = int(a.get("v", 0))
        told: list[int | None] = [None]
        result = rig.errno_of(lambda: _into(told, file_calls.ioctl(calls, fd, number(a["req"]), given)))
        return {"v": given if told[0] is None else told[0], "r": result}
    if what in ("pread", "pwrite"):
        file_calls.positioned(calls, fd, offset)
    elif what == "readv":
        return {"r": len(calls.read(fd, size, BUFFER))}
    elif what == "writev":
        return {"r": calls.write(fd, user_read(rig.process.space, BUFFER, size))}
    elif what == "lseek":
        file_calls.lseek(calls, fd, int(a.get("whence", 0)))
    elif what == "statx":
        mode, length = file_calls.fstat(calls, fd)
        return {"mode": mode, "size": length, "r": 0}
    elif what == "epoll":
        events = file_calls.epoll(calls, fd)
        return {"r": int(events != 0), **({"ev": events} if events else {})}
    elif what == "getfl":
        return {"r": file_calls.getfl(calls, fd)}
    elif what == "setfl":
        file_calls.setfl(calls, fd, int(a.get("fl", 0)))
    elif what == "pass":
        rig.process.file(fd)  # the same open file, under another number of the kernel's
    elif what in file_calls.NEVER:
        file_calls.NEVER[what](calls, fd)
    else:
        raise ValueError(f"unknown call of a file {what!r}")
    return {"r": 0}


def _into(told: list[int | None], value: int | None) -> int:
    told[0] = value
    return 0


FILE_CALLS: Final[dict[str, Callable[[Rig, Args, set[str]], Result]]] = {"sys.file": op_file}
