"""Calls of a recording on mapped areas: madvise and its like, and what reaches their pages besides loads and stores.

Contents: the operations of the recorder's `areas.c`. Not here: mmap, munmap, mprotect and mremap (system_calls.py), and the
kernel's answers (impl/dom0/memory_calls.py, reach.py, pipes.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from bulkhead.impl.dom0 import memory_calls, reach
from bulkhead.impl.dom0.areas import PROT_READ, PROT_WRITE
from bulkhead.impl.dom0.pipes import Pipe
from bulkhead.impl.dom0.process import MAP_PRIVATE, MAP_SHARED, AddressSpace, user_read, user_write
from bulkhead.impl.dom0.vma_changes import resize
from bulkhead.impl.xen import abi
from bulkhead.proofs.replay.expressions import Caller, mapping_vpn
from bulkhead.proofs.replay.rig import Rig

Args = dict[str, Any]
Result = dict[str, Any]
MOST_TOLD: Final = 64  # bytes
MS_SYNC: Final = 4


def _range(rig: Rig, a: Args) -> tuple[AddressSpace, int, int]:
    """The process's memory, and the first page and number of pages that a call names."""
    index, first = int(a.get("m", 0)), int(a.get("pg", 0))
    npages = int(a["n"]) if "n" in a else rig.mappings.get(index, 0) - first
    return rig.process.space, mapping_vpn(index) + first, npages


def op_madvise(rig: Rig, a: Args, skip: set[str]) -> Result:
    """madvise()."""
    memory_calls.madvise(*_range(rig, a), int(a.get("adv", 0)))
    return {"r": 0}


def op_mlock(rig: Rig, a: Args, skip: set[str]) -> Result:
    """mlock(), or munlock()."""
    (memory_calls.munlock if a.get("un") else memory_calls.mlock)(*_range(rig, a))
    return {"r": 0}


def op_mincore(rig: Rig, a: Args, skip: set[str]) -> Result:
    """mincore(): a byte for each page."""
    return {"in": bytes(memory_calls.mincore(*_range(rig, a))).hex(), "r": 0}


def op_msync(rig: Rig, a: Args, skip: set[str]) -> Result:
    """msync()."""
    memory_calls.msync(*_range(rig, a), int(a.get("fl", MS_SYNC)))
    return {"r": 0}


def op_uffd(rig: Rig, a: Args, skip: set[str]) -> Result:
    """A userfaultfd for missing pages of an area."""
    memory_calls.userfaultfd(*_range(rig, a))
    return {"r": 0}


def op_fixed(rig: Rig, a: Args, skip: set[str]) -> Result:
    """mmap() at a numbered place whatever is there: of a file, or of memory of the process's own."""
    space, vpn, npages = _range(rig, a)
    text = str(a.get("prot", "rw"))
    prot = (PROT_READ if "r" in text else 0) | (PROT_WRITE if "w" in text else 0)
    if "f" in a:
        offset = Caller(rig, str(a.get("by", "d0"))).value(a.get("off", 0))
        flags = MAP_PRIVATE if int(a.get("priv", 0)) else MAP_SHARED
        rig.process.mmap(vpn, npages, prot, flags, rig.files.get(int(a["f"]), -1), offset)
    else:
        space.map_anonymous(vpn, npages, prot)
        for page in range(vpn, vpn + npages):
            rig.clean(space.anon[page].mfn, 0, abi.PAGE_SIZE)
    rig.mappings.setdefault(int(a.get("m", 0)), npages)
    return {"r": 0}


def op_resize(rig: Rig, a: Args, skip: set[str]) -> Result:
    """mremap() with any flags: 1 if the mapping is elsewhere now."""
    space, vpn, npages = _range(rig, a)
    new = int(a.get("new", 1))
    at = resize(space, vpn, npages, new, int(a.get("fl", 0)), mapping_vpn(int(a.get("to", 0))))
    if "to" in a:
        rig.mappings[int(a["to"])] = new
    return {"r": int(at != vpn)}


def _tainted(rig: Rig, addr: int, size: int) -> bool:
    """Do any of these bytes come from what real runs do not reproduce?"""
    while size > 0:
        part = min(size, abi.PAGE_SIZE - (addr & 0xFFF))
        frame = rig.process.space.mapped(addr >> 12)
        if frame is not None and rig.tainted(frame.mfn, addr & 0xFFF, part):
            return True
        addr, size = addr + part, size - part
    return False


def _address(a: Args) -> int:
    return ((mapping_vpn(int(a.get("m", 0))) + int(a.get("pg", 0))) << 12) + int(a.get("off", 0))


LOADS: Final[dict[str, Callable[[AddressSpace, int, int], bytes]]] = {
    "vm": reach.process_vm_readv,
    "mem": reach.read_mem,
    "ptrace": lambda space, addr, _: reach.peek(space, addr),
    "write": user_read,
}


def op_peek(rig: Rig, a: Args, skip: set[str]) -> Result:
    """Bytes of the process's memory by one of the ways in `LOADS`."""
    addr, size = _address(a), int(a.get("n", 8)) % (MOST_TOLD + 1)
    out = LOADS[str(a["way"])](rig.process.space, addr, size)
    if _tainted(rig, addr, len(out)):
        skip.add("v")
    return {"r": len(out), **({"v": out.hex()} if out else {})}


def op_poke(rig: Rig, a: Args, skip: set[str]) -> Result:
    """A repeated word into the process's memory."""
    addr, size, space = _address(a), int(a.get("n", 8)) % (MOST_TOLD + 1), rig.process.space
    word = int(a.get("v", 0)).to_bytes(8, "little")
    payload = (word * (MOST_TOLD // 8))[:size]
    way = str(a["way"])
    if way == "ptrace":
        payload = payload[:8].ljust(8, b"\0")
    try:
        if way == "vm":
            done = reach.process_vm_writev(space, addr, payload)
        elif way == "mem":
            done = reach.write_mem(space, addr, payload)
        elif way == "ptrace":
            reach.poke(space, addr, payload)
            done = len(payload)
        else:
            user_write(space, addr, payload)
            done = len(payload)
    finally:
        _cleaned(rig, addr, len(payload))
    return {"r": done}


def _cleaned(rig: Rig, addr: int, size: int) -> None:
    """What was written is known."""
    while size > 0:
        part = min(size, abi.PAGE_SIZE - (addr & 0xFFF))
        frame = rig.process.space.mapped(addr >> 12)
        if frame is not None:
            rig.clean(frame.mfn, addr & 0xFFF, part)
        addr, size = addr + part, size - part


def op_pipe(rig: Rig, a: Args, skip: set[str]) -> Result:
    """A pipe under a number of the recording's."""
    rig.pipes[int(a.get("p", 0))] = Pipe(rig.kernel)
    return {"r": 0}


def op_vmsplice(rig: Rig, a: Args, skip: set[str]) -> Result:
    """Pages of the process into a pipe; EBADF."""
    pipe = rig.pipes.get(int(a.get("p", 0)))
    return {"r": -abi.EBADF if pipe is None else pipe.vmsplice(rig.process.space, _address(a), int(a.get("n", 8)))}


def op_drain(rig: Rig, a: Args, skip: set[str]) -> Result:
    """read() of a pipe: the first bytes, and how many; EBADF."""
    pipe = rig.pipes.get(int(a.get("p", 0)))
    if pipe is None:
        return {"r": -abi.EBADF}
    out = pipe.read(int(a.get("n", 8)))
    return {"r": len(out), **({"v": out[:MOST_TOLD].hex()} if out else {})}


def op_pclose(rig: Rig, a: Args, skip: set[str]) -> Result:
    """Both ends of a pipe; EBADF."""
    pipe = rig.pipes.pop(int(a.get("p", 0)), None)
    if pipe is None:
        return {"r": -abi.EBADF}
    pipe.close()
    return {"r": 0}


AREA_CALLS: Final[dict[str, Callable[[Rig, Args, set[str]], Result]]] = {
    "sys.madvise": op_madvise,
    "sys.mlock": op_mlock,
    "sys.mincore": op_mincore,
    "sys.msync": op_msync,
    "sys.uffd": op_uffd,
    "sys.fixed": op_fixed,
    "sys.resize": op_resize,
    "sys.peek": op_peek,
    "sys.poke": op_poke,
    "sys.pipe": op_pipe,
    "sys.vmsplice": op_vmsplice,
    "sys.drain": op_drain,
    "sys.pclose": op_pclose,
}
