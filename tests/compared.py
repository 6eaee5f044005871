"""`python -m tests.compared`: counts the operations of recordings of real Xen, into proofs/refinement/recorded.json.

It counts the operations that a recorded call makes on the implementation, not those of the rig that builds guests. Every
operation in recordings has a result, which is compared.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

from bulkhead.impl.xen import abi, hypercall
from bulkhead.impl.xen.continuation import Handler
from bulkhead.impl.xen.domains import VCpu
from bulkhead.impl.xen.guest_access import read
from bulkhead.impl.xen.machine import Xen
from bulkhead.proofs.refinement.compared import (
    DOMCTL,
    HYPERCALLS,
    MMU,
    MMUEXT,
    RECORDED,
    SYSTEM_CALL,
    VA,
    VA_OTHER,
    Key,
    ioctls,
    names,
    others,
)
from bulkhead.proofs.replay import driver
from bulkhead.proofs.replay.ops import execute
from tests.lines_run import RECORDED as FILES

BUILDS = ("mkdom", "rmdom", "pfill", "fmap", "wr", "rd")  # the rig's own hypercalls are not recorded calls
GNTDEV_OPS = {
    "gd.map": "map_grant_ref",
    "gd.unmap": "unmap_grant_ref",
    "gd.copy": "grant_copy",
    "gd.getoff": "get_offset_for_vaddr",
}
CALLS = {
    "gd.open": "open",
    "gd.close": "close",
    "gd.mmap": "mmap",
    "gd.munmap": "munmap",
    "gd.rd": "load",
    "gd.wr": "store",
    "sys.open": "open",
    "sys.close": "close",
    "sys.mmap": "mmap",
    "sys.munmap": "munmap",
    "sys.read": "read",
    "sys.write": "write",
    "sys.rd": "load",
    "sys.wr": "store",
    "sys.poll": "poll",
    "sys.polls": "poll",
    "sys.wait": "read",
    "sys.dup": "dup",
    "sys.mprotect": "mprotect",
    "sys.mremap": "mremap",
    "sys.resize": "mremap",
    "sys.madvise": "madvise",
    "sys.mincore": "mincore",
    "sys.msync": "msync",
    "sys.uffd": "userfaultfd",
    "sys.vmsplice": "vmsplice",
    "sys.drain": "read of a pipe",
}
WAYS = {
    ("sys.peek", "vm"): "process_vm_readv",
    ("sys.poke", "vm"): "process_vm_writev",
    ("sys.peek", "mem"): "read of /proc/self/mem",
    ("sys.poke", "mem"): "write of /proc/self/mem",
    ("sys.peek", "ptrace"): "ptrace (peek)",
    ("sys.poke", "ptrace"): "ptrace (poke)",
    ("sys.peek", "write"): "load",
    ("sys.poke", "read"): "store",
}
FILE = {
    "pread": "pread, pwrite",
    "pwrite": "pread, pwrite",
    "readv": "read",
    "writev": "write",
    "lseek": "lseek",
    "fallocate": "fallocate",
    "statx": "fstat",
    "epoll": "epoll",
    "getfl": "fcntl (F_GETFL)",
    "setfl": "fcntl (F_SETFL)",
    "ioctl": "ioctl of the kernel",
    **dict.fromkeys(("fsync", "ftruncate", "sendfile", "splicein", "spliceout"), "fsync, ftruncate, splice, sendfile"),
}
MOST = 64  # maximum of counted elements of a batch


def _commands(xen: Xen, vcpu: VCpu, family: str, a1: int, a2: int) -> Iterator[int]:
    """The numbers of the operations that one hypercall makes."""
    if family in (VA, VA_OTHER) or family not in HYPERCALLS.values():
        yield 0
    elif family == DOMCTL:
        raw = read(xen, vcpu, a1, 4)
        if raw is not None:
            yield abi.U32.unpack(raw)[0]
    elif family in (MMU, MMUEXT):
        size, mask = (16, 7) if family == MMU else (24, 0xFFFFFFFF)
        for n in range(min(a2 & 0x7FFFFFFF, MOST)):
            raw = read(xen, vcpu, a1 + n * size, 4)
            if raw is not None:
                yield abi.U32.unpack(raw)[0] & mask
    else:
        yield a1 & (abi.MEMOP_CMD_MASK if family == "memory_op" else 0xFFFFFFFF)


def _further(op: str, a: dict[str, Any]) -> str | None:
    """The system call of an operation that has several."""
    if op == "sys.file":
        return FILE.get(str(a["do"]))
    if op == "sys.mlock":
        return "munlock" if a.get("un") else "mlock"
    if op == "sys.fixed":
        return "mmap" if "f" in a else "anonymous"
    return WAYS.get((op, str(a.get("way"))))


class Counting:
    """Counts operations while recordings are replayed."""

    def __init__(self) -> None:
        self.found: Counter[Key] = Counter()
        self.on = False
        self.devices: dict[int, str] = {}  # of the files of a recording
        self.names = names()
        self.ioctls = ioctls()

    def _counted(self, number: int, handler: Handler) -> Handler:
        family = HYPERCALLS.get(number) or others()[number]

        def call(xen: Xen, vcpu: VCpu, a1: int, a2: int, a3: int, a4: int, a5: int) -> Any:
            if self.on:
                for command in _commands(xen, vcpu, family, a1, a2):
                    name = self.names[family].get(command)
                    if name is not None:
                        self.found[family, name] += 1
            return handler(xen, vcpu, a1, a2, a3, a4, a5)

        return call

    def execute(self, rig: Any, op: str, a: dict[str, Any], skip: set[str]) -> dict[str, Any]:
        """As `ops.execute`, and counts."""
        self.on = op not in BUILDS and not op.startswith(("gd.", "sys."))
        if op == "sys.open":
            self.devices[int(a["f"])] = str(a["dev"])
        if op == "sys.ioctl":
            device = self.devices.get(int(a["f"]), "")
            name = self.ioctls.get(device, {}).get(int(a["req"]))
            if name is not None:
                self.found[device, name] += 1
        elif op in GNTDEV_OPS:
            self.found["gntdev", GNTDEV_OPS[op]] += 1
        elif op == "sys.child":
            self.found[SYSTEM_CALL, "fork"] += 1
            self.found[SYSTEM_CALL, "exit"] += 1
        elif name := _further(op, a):
            self.found[SYSTEM_CALL, name] += 1
        elif op in CALLS:
            self.found[SYSTEM_CALL, CALLS[op]] += 1
        try:
            return _execute(rig, op, a, skip)
        finally:
            self.on = False

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Count for a while."""
        counted = {number: self._counted(number, handler) for number, handler in hypercall.TABLE.items()}
        with patch.dict(hypercall.TABLE, counted), patch.object(driver, "execute", self.execute):
            yield


_execute = execute


def count() -> dict[str, dict[str, int]]:
    """Operations by family and name, with how often recordings make them."""
    counting = Counting()
    with counting.installed():
        for path in FILES:
            driver.replay(path)
    found: dict[str, dict[str, int]] = {}
    for (family, name), number in sorted(counting.found.items()):
        found.setdefault(family, {})[name] = number
    return found


if __name__ == "__main__":
    RECORDED.write_text(json.dumps(count(), indent=1) + "\n")
