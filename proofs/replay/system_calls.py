"""System calls of a recording: a process of Dom0 on /dev/xen/*, by the bytes of its buffers.

Contents: the `sys.*` operations on numbered files and numbered mappings. Not here: the drivers (impl/dom0)
and the bytes' places (expressions.py). A call that fails gives the errno, negated, as the recorder wrote it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from bulkhead.impl.dom0.areas import PROT_READ, PROT_WRITE, OpenFile
from bulkhead.impl.dom0.ioctl_control import EVTCHN_NOTIFY
from bulkhead.impl.dom0.process import MAP_PRIVATE, MAP_SHARED, Fault, user_read, user_write
from bulkhead.impl.dom0.syscalls import Syscalls, WouldSleep
from bulkhead.impl.xen import abi
from bulkhead.proofs.replay.expressions import Caller, mapping_vpn, number
from bulkhead.proofs.replay.rig import USER_BUFFER_VPN, Rig

Args = dict[str, Any]
Result = dict[str, Any]
BUFFER: Final = USER_BUFFER_VPN << 12
CLEARED_PAGES: Final = 16
NOT_OPEN: Final = -1
POLLED: Final = 5  # the recorder asks for POLLIN and POLLOUT


def _file(rig: Rig, a: Args) -> int:
    return rig.files.get(int(a.get("f", 0)), NOT_OPEN)


def _pointer(rig: Rig, a: Args) -> int:
    return Caller(rig, str(a.get("by", "d0"))).value(a["argp"]) if "argp" in a else BUFFER


def op_open(rig: Rig, a: Args, skip: set[str]) -> Result:
    """Open a device under a number of the recording's."""
    number_of = int(a.get("f", 0))
    rig.files.pop(number_of, None)  # the recorder forgets what it had there; the file itself stays open
    rig.files[number_of] = rig.syscalls.open(f"/dev/xen/{a['dev']}", nonblock=not a.get("wait"))
    return {"r": 0}


def op_close(rig: Rig, a: Args, skip: set[str]) -> Result:
    """Close it; EBADF."""
    fd = _file(rig, a)
    rig.files.pop(int(a.get("f", 0)), None)
    rig.syscalls.close(fd)
    return {"r": 0}


def op_dup(rig: Rig, a: Args, skip: set[str]) -> Result:
    """Another number of the recording's for the same open file; EBADF, and nothing is open under the new number."""
    to = int(a.get("to", 0))
    rig.files.pop(to, None)
    rig.files[to] = rig.syscalls.dup(_file(rig, a))
    return {"r": 0}


def op_ioctl(rig: Rig, a: Args, skip: set[str]) -> Result:
    """An ioctl on the user buffer, or on the address `argp`."""
    caller = Caller(rig, str(a.get("by", "d0")))
    if not a.get("keep"):
        for page in range(CLEARED_PAGES):
            user_write(rig.process.space, BUFFER + page * abi.PAGE_SIZE, bytes(abi.PAGE_SIZE))
    caller.write_all(str(a.get("w", "")))
    returned = rig.errno_of(lambda: rig.syscalls.ioctl(_file(rig, a), number(a["req"]), _pointer(rig, a)))
    out = caller.read_all(str(a.get("o", "")), returned, skip)
    out["r"] = 0 if a.get("nor") and returned > 0 else returned
    return out


def op_mmap(rig: Rig, a: Args, skip: set[str]) -> Result:
    """Map pages of a file at the numbered place, where nothing may be mapped yet (MAP_FIXED_NOREPLACE; EEXIST)."""
    prot = _protection(a, "rw")
    index, npages = int(a.get("m", 0)), int(a.get("n", 1))
    offset = Caller(rig, str(a.get("by", "d0"))).value(a.get("off", 0))
    flags = MAP_PRIVATE if a.get("priv") else MAP_SHARED
    vpn, fd = mapping_vpn(index), _file(rig, a)
    rig.process.file(fd)
    if any(vma.start < vpn + npages and vma.end > vpn for vma in rig.process.space.vmas):
        return {"r": -abi.EEXIST}
    rig.process.mmap(vpn, npages, prot, flags, fd, offset)
    rig.mappings[index] = npages
    return {"r": 0}


def op_munmap(rig: Rig, a: Args, skip: set[str]) -> Result:
    """Unmap all or some pages of a numbered mapping; ENOENT for none."""
    index = int(a.get("m", 0))
    if index not in rig.mappings:
        return {"r": -abi.ENOENT}
    whole = rig.mappings[index]
    first, npages = int(a.get("pg", 0)), int(a.get("n", whole))
    rig.process.space.unmap(mapping_vpn(index) + first, npages)
    if first == 0 and npages == whole:
        del rig.mappings[index]
    return {"r": 0}


def _protection(a: Args, otherwise: str) -> int:
    text = str(a.get("prot", otherwise))
    return (PROT_READ if "r" in text else 0) | (PROT_WRITE if "w" in text else 0)


def op_mprotect(rig: Rig, a: Args, skip: set[str]) -> Result:
    """Change what may be done with a numbered mapping; ENOENT for none."""
    index = int(a.get("m", 0))
    if index not in rig.mappings:
        return {"r": -abi.ENOENT}
    rig.syscalls.mprotect(mapping_vpn(index) << 12, rig.mappings[index], _protection(a, ""))
    return {"r": 0}


def op_mremap(rig: Rig, a: Args, skip: set[str]) -> Result:
    """Move a numbered mapping to the place of number `to`, with `n` pages from now on; ENOENT for none."""
    index, to = int(a.get("m", 0)), int(a.get("to", 0))
    if index not in rig.mappings:
        return {"r": -abi.ENOENT}
    npages = int(a.get("n", rig.mappings[index]))
    rig.syscalls.mremap(mapping_vpn(index) << 12, rig.mappings[index], npages, mapping_vpn(to) << 12)
    del rig.mappings[index]
    rig.mappings[to] = npages
    return {"r": 0}


def op_poll(rig: Rig, a: Args, skip: set[str]) -> Result:
    """The events that poll() tells without waiting: how many descriptors are ready (none or one), and for what."""
    events = _events(rig, int(a.get("f", 0)))
    return {"ev": events, "r": int(events != 0)}


def _events(rig: Rig, index: int) -> int:
    """Of one descriptor; poll() leaves a negative one out."""
    fd = rig.files.get(index, NOT_OPEN)
    return 0 if fd == NOT_OPEN else rig.syscalls.poll(fd, POLLED)


def op_polls(rig: Rig, a: Args, skip: set[str]) -> Result:
    """poll() of several descriptors, `f=1+2`: for what each is ready, and how many are."""
    events = [_events(rig, int(each)) for each in str(a.get("f", "")).split("+")]
    return {**{f"ev{i}": each for i, each in enumerate(events)}, "r": sum(each != 0 for each in events)}


def op_wait(rig: Rig, a: Args, skip: set[str]) -> Result:
    """A child reads and may sleep; its parent closes the file then, or rings a port of another. Who sleeps on is killed."""
    file = rig.process.file(_file(rig, a))
    file.get()
    try:
        return _wait(rig, a, file)
    finally:
        file.put()


def _wait(rig: Rig, a: Args, file: OpenFile) -> Result:
    out: Result = {}

    def read() -> bytes | None:
        try:
            return rig.syscalls.read(file, int(a.get("n", 4)) & 15)
        except WouldSleep:
            return None

    got = read()
    if got is None:
        out["slept"] = 1
        if "close" in a:
            out["closed"] = rig.errno_of(lambda: int(op_close(rig, a, set())["r"]))
        if "ring" in a:
            ringing = rig.files.get(int(a["ring"]), NOT_OPEN)
            user_write(rig.process.space, BUFFER, abi.U32.pack(Caller(rig, "d0").value(a["p"]) & 0xFFFFFFFF))
            out["rung"] = rig.errno_of(lambda: rig.syscalls.ioctl(ringing, EVTCHN_NOTIFY, BUFFER))
        got = read()
    if got is None:
        return {**out, "asleep": 1, "r": 0}
    ports = {f"p{i}": port for i, (port,) in enumerate(abi.U32.iter_unpack(got))}
    return {**out, **ports, "r": len(got)}


def _address(a: Args) -> int:
    return ((mapping_vpn(int(a.get("m", 0))) + int(a.get("pg", 0))) << 12) + int(a.get("off", 0))


def op_rd(rig: Rig, a: Args, skip: set[str]) -> Result:
    """Load eight bytes, or the signal that this raises."""
    addr = _address(a)
    try:
        frame = rig.process.space.access(addr, False)
    except Fault as fault:
        return {"sig": fault.signal, "code": fault.code, "r": 0}
    if rig.tainted(frame.mfn, addr & 0xFFF, 8):
        skip.add("v")
    return {"v": hex(int.from_bytes(rig.process.space.load(addr, 8), "little")), "r": 0}


def op_wr(rig: Rig, a: Args, skip: set[str]) -> Result:
    """Store eight bytes, or the signal."""
    addr = _address(a)
    try:
        frame = rig.process.space.access(addr, True)
    except Fault as fault:
        return {"sig": fault.signal, "code": fault.code, "r": 0}
    rig.process.space.store(addr, int(a.get("v", 0)).to_bytes(8, "little"))
    rig.clean(frame.mfn, addr & 0xFFF, 8)
    return {"r": 0}


def op_read(rig: Rig, a: Args, skip: set[str]) -> Result:
    """read() into the user buffer, or to `argp`."""
    user_write(rig.process.space, BUFFER, bytes(abi.PAGE_SIZE))

    def call() -> int:
        return len(rig.syscalls.read(_file(rig, a), int(a.get("n", 4)), _pointer(rig, a)))

    returned = rig.errno_of(call)
    out = Caller(rig, str(a.get("by", "d0"))).read_all(str(a.get("o", "")), returned, skip)
    return {**out, "r": returned}


def op_write(rig: Rig, a: Args, skip: set[str]) -> Result:
    """write() from the user buffer, or from `argp`."""
    Caller(rig, str(a.get("by", "d0"))).write_all(str(a.get("w", "")))
    size = int(a.get("n", 4))
    payload = user_read(rig.process.space, _pointer(rig, a), size)
    return {"r": rig.syscalls.write(_file(rig, a), payload)}


def op_child(rig: Rig, a: Args, skip: set[str]) -> Result:
    """A child of fork() does one thing, and is killed: a load, a store, munmap, a call on a descriptor, or nothing."""
    out: Result = {"r": 0}
    what = a.get("do", "")
    if what in ("ioctl", "write"):
        Caller(rig, "d0").write_all(str(a.get("w", "")))
    child = rig.process.fork()
    try:
        if what == "munmap":
            child.space.unmap(_address(a) >> 12, int(a.get("n", 1)))
        elif what == "close":
            child.close(_file(rig, a))
        elif what in ("ioctl", "read", "write"):
            calls = Syscalls("child", child, rig.syscalls.devices)
            out["r"] = rig.errno_of(lambda: _by_child(rig, calls, what, a))
        elif what in ("rd", "wr"):
            addr = _address(a)
            frame = child.space.access(addr, what == "wr")
            if what == "wr":
                child.space.store(addr, int(a.get("v", 0)).to_bytes(8, "little"))
                rig.clean(frame.mfn, addr & 0xFFF, 8)
            else:
                out["v"] = hex(int.from_bytes(child.space.load(addr, 8), "little"))
                if rig.tainted(frame.mfn, addr & 0xFFF, 8):
                    skip.add("v")
    except Fault as fault:
        out = {"sig": fault.signal, "code": fault.code, "r": 0}
    finally:
        child.exit()
    return out


def _by_child(rig: Rig, calls: Syscalls, what: str, a: Args) -> int:
    """A call of a child on a descriptor that it shares with its parent; its memory is a copy that nobody reads."""
    if what == "ioctl":
        return calls.ioctl(_file(rig, a), number(a["req"]), BUFFER)
    if what == "read":
        return len(calls.read(_file(rig, a), int(a.get("n", 4)), BUFFER))
    return calls.write(_file(rig, a), user_read(rig.process.space, BUFFER, int(a.get("n", 4))))


SYSTEM_CALLS: Final[dict[str, Callable[[Rig, Args, set[str]], Result]]] = {
    "sys.open": op_open,
    "sys.close": op_close,
    "sys.ioctl": op_ioctl,
    "sys.mmap": op_mmap,
    "sys.munmap": op_munmap,
    "sys.mprotect": op_mprotect,
    "sys.mremap": op_mremap,
    "sys.poll": op_poll,
    "sys.polls": op_polls,
    "sys.wait": op_wait,
    "sys.dup": op_dup,
    "sys.rd": op_rd,
    "sys.wr": op_wr,
    "sys.child": op_child,
    "sys.read": op_read,
    "sys.write": op_write,
}
