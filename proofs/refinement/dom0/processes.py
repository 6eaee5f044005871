"""Calls of a Dom0 process that belong to no device: open and close, setuid, fork and exit, and stores through mappings.

Not here: ioctl, mmap and munmap of devices (gntdev.py and its neighbours), mprotect and mremap (changes.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bulkhead.impl.dom0.evtchn import Evtchn
from bulkhead.impl.dom0.kernel import KernelError
from bulkhead.impl.dom0.process import SIGBUS, SIGSEGV, Fault
from bulkhead.impl.xen import abi
from bulkhead.model.caller import OKAY
from bulkhead.proofs.refinement.calls import NOT_DONE, Answer
from bulkhead.proofs.refinement.dom0.kernel import NODES, Dom0
from bulkhead.proofs.refinement.dom0.state import Opened, Proc, Slot
from bulkhead.proofs.refinement.lockstep.rule_steps import Mismatch


def open_device(d: Dom0, proc: Proc, a: Mapping[str, Any]) -> Answer:
    """open() of a device node: {kind}; returns the descriptor."""
    kind = a["kind"]
    if NODES[kind] not in d.nodes:
        return _opens_nothing(proc, kind)
    element = d.element("file.open")
    args = {"p": proc.space, "x_x": element}
    if kind == "privcmd" and not proc.root:
        d.rule("open_privcmd", args, "EACCES")  # the node is root's own
        return Answer("EACCES")
    fd = proc.sys.open(NODES[kind])
    opened = proc.fds[fd] = Opened(proc.process.files[fd], element, kind)
    device = opened.file.device
    if isinstance(device, Evtchn):
        device.ring_size = 1  # it grows with the ports, and overflows only by numbers of closed ports
    d.files.append(opened)
    d.rule(f"open_{kind}", args)
    return Answer(OKAY, fd)


def _opens_nothing(proc: Proc, kind: str) -> Answer:
    """A device that this system does not have: ENOENT, for root, too."""
    try:
        proc.sys.open(NODES[kind])
    except KernelError as error:
        if error.code == abi.ENOENT:
            return Answer("ENOENT")
        raise Mismatch(f"open of {kind}, which this system does not have: errno {error.code}") from error
    raise Mismatch(f"a process has opened {kind}, which this system does not have")


def close(d: Dom0, proc: Proc, a: Mapping[str, Any]) -> Answer:
    """close(): {fd}; other descriptors and mappings keep the file."""
    fd = a["fd"]
    if fd not in proc.fds:
        try:
            proc.sys.close(fd)
        except KernelError as error:
            code = "EBADF" if error.code == abi.EBADF else str(error.code)
        else:
            code = OKAY
        d.rule("close", {"p": proc.space, "x": d.element("file.open")}, code)
        return Answer(code)
    d.rule("close", {"p": proc.space, "x": proc.fds.pop(fd).x})
    proc.sys.close(fd)
    d.sync()
    return Answer(OKAY)


def setuid(d: Dom0, proc: Proc, a: Mapping[str, Any]) -> Answer:
    """The process drops root privileges."""
    proc.root = False
    d.rule("setuid", {"p": proc.space})
    return Answer(OKAY)


def store(d: Dom0, proc: Proc, a: Mapping[str, Any]) -> Answer:
    """A store to a device mapping: {page}, its number; at the byte of an unmap notification, if there is one."""
    slot = proc.slots.get(a["page"])
    if slot is None:
        return NOT_DONE
    if slot.dead:
        expect_sigbus(proc, slot)
        return Answer("SIGBUS")
    if not slot.writable:
        return NOT_DONE
    if slot.kind != "foreign":
        d.lockstep.fill(proc.process.space.access(slot.vpn << 12, True))
    at = slot.byte() if slot.byte() >= 0 else 256
    proc.sys.store((slot.vpn << 12) + at, b"dom0"[: max(1, min(4, 4096 - at))])
    if slot.user is not None:
        d.rule("store", {"space": proc.space, "t": slot.user})
    return Answer(OKAY)


def expect_sigbus(proc: Proc, slot: Slot) -> None:
    """A page whose grant the kernel has unmapped raises SIGBUS, for loads and stores."""
    for write in (False, True):
        try:
            proc.process.space.access(slot.vpn << 12, write)
        except Fault as fault:
            if fault.signal == (SIGSEGV if write and not slot.writable else SIGBUS):
                continue
        raise Mismatch("a page whose grant has been unmapped does not raise SIGBUS")


def fork(d: Dom0, parent: Proc, a: Mapping[str, Any]) -> Answer:
    """fork(): {child} is its space; it shares its parent's files and its mappings of own pages."""
    space = a["child"]
    child = Proc(space, parent.process.fork(), d.nodes, parent)
    d.procs[space] = child
    d.know_buffer(child)
    d.rule("fork", {"p": parent.space, "child": space})
    inherited = sum(1 for vma in child.process.space.vmas if vma.file is not None)
    if inherited != len({id(parent.process.space.find(s.vpn)) for s in parent.slots.values() if s.kind == "own"}):
        raise Mismatch("fork: a child inherits its parent's own pages, and neither grants nor foreign pages")
    for slot in parent.slots.values():
        if slot.kind == "own":
            maddr = child.process.space.pte_maddr(slot.vpn)
            copy = child.slots[slot.vpn] = Slot("own", slot.vpn, slot.writable, maddr=maddr)
            if d.lockstep.rules_on and slot.user is not None:
                copy.user = d.lockstep.spec_state.free_translation()
                d.rule(
                    "gntalloc_inherit",
                    {
                        "p": parent.space,
                        "child": space,
                        "t": slot.user,
                        "u_t": copy.user,
                        "u_nil": d.lockstep.spec_state.size.handles - 1,
                    },
                )
    return Answer(OKAY)


def leave(d: Dom0, proc: Proc, a: Mapping[str, Any]) -> Answer:
    """exit or kill -9: the address space is destroyed, then descriptors are closed. The toolstack stays."""
    if proc.space == d.lockstep.toolstack:
        return NOT_DONE
    d.rule("exit", {"p": proc.space})
    proc.fds.clear()
    del d.procs[proc.space]
    d.procs[-1] = proc  # its mappings still need it
    mfns = [page.mfn for page in proc.pages()]
    proc.process.exit()
    del d.procs[-1]
    for mfn in mfns:
        d.lockstep.spec_state.forget_dom0_frame(mfn)
    d.sync()
    for slot in proc.slots.values():
        if slot.kind != "grant" or slot.user is not None or slot.kernel is not None:
            raise Mismatch(f"a process that has gone keeps a mapping: {slot}")
    d.rule("reap", {"p": proc.space})
    return Answer(OKAY)
