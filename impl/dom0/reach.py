"""Memory of a process as the kernel reaches it for others: process_vm_readv, /proc/PID/mem, ptrace.

Contents: which pages the kernel takes (get_user_pages), and how much of a range each call transfers. They reach no more than
the process itself: a page that its tables map now. A driver's VM_IO area is left out, whatever is there; private memory
that may only be read can be written by force, in a copy. Not here: calls whose buffers lie in such memory (process.py:
user_read, user_write), and pages that are held (pipes.py). Sources: Linux mm/gup.c,
mm/memory.c (__access_remote_vm), mm/process_vm_access.c, fs/proc/base.c, kernel/ptrace.c.
"""

from __future__ import annotations

from typing import Final

from bulkhead.impl.dom0.areas import PROT_READ
from bulkhead.impl.dom0.kernel import KernelError
from bulkhead.impl.dom0.process import AddressSpace, Fault
from bulkhead.impl.xen import abi
from bulkhead.impl.xen.frames import Frame
from bulkhead.impl.xen.pagetables import PTE_MFN

WORD: Final = 8


def take(space: AddressSpace, vpn: int, writes: bool, force: bool) -> Frame:
    """The page behind an address, for the kernel to read or write now; KernelError(EFAULT)."""
    vma = space.find(vpn)
    if vma is None or vma.start > vpn:
        raise KernelError(abi.EFAULT)
    kind = vma.kind
    if kind is not None and kind.io:
        raise KernelError(abi.EFAULT)
    if writes:
        if not vma.writable and (not force or vma.shared):
            raise KernelError(abi.EFAULT)
    elif not vma.prot & PROT_READ and not force:
        raise KernelError(abi.EFAULT)
    if writes and not vma.writable:
        return _copy(space, vpn)
    if not writes and not vma.prot:  # entries that are not present keep their frame
        frame = space.kernel.xen.frames.get((space.pte(vpn) & PTE_MFN) >> 12) if space.pte(vpn) else None
        if frame is None:
            raise KernelError(abi.EFAULT)
        return frame
    try:
        return space.access(vpn << 12, writes)
    except Fault as fault:
        raise KernelError(abi.EFAULT) from fault


def _copy(space: AddressSpace, vpn: int) -> Frame:
    """A private page that may not be written, for a debugger's store: the process has its own copy from then on."""
    if vpn in space.anon:
        return space.anon[vpn]
    if not space.pte(vpn):
        raise KernelError(abi.EFAULT)
    return space.own_copy(vpn)


def _pieces(addr: int, size: int) -> list[tuple[int, int]]:
    """(address, bytes) page by page."""
    out = []
    while size:
        part = min(size, abi.PAGE_SIZE - (addr & 0xFFF))
        out.append((addr, part))
        addr, size = addr + part, size - part
    return out


def load(space: AddressSpace, addr: int, size: int, force: bool = True) -> bytes:
    """As much of a range as can be read, from its beginning."""
    out = b""
    for at, part in _pieces(addr, size):
        try:
            data = take(space, at >> 12, False, force).data
        except KernelError:
            break
        off = at & 0xFFF
        out += bytes(part) if data is None else bytes(data[off : off + part])
    return out


def store(space: AddressSpace, addr: int, payload: bytes, force: bool = True) -> int:
    """Write as much of it as can be written, from its beginning; how many bytes."""
    done = 0
    for at, part in _pieces(addr, len(payload)):
        try:
            frame = take(space, at >> 12, True, force)
        except KernelError:
            break
        off = at & 0xFFF
        frame.bytes()[off : off + part] = payload[done : done + part]
        done += part
    return done


def process_vm_readv(space: AddressSpace, addr: int, size: int) -> bytes:
    """Of another process: what can be read of one range; EFAULT for nothing."""
    out = load(space, addr, size, force=False)
    if size and not out:
        raise KernelError(abi.EFAULT)
    return out


def process_vm_writev(space: AddressSpace, addr: int, payload: bytes) -> int:
    """To another process: how much of one range was written; EFAULT for nothing."""
    done = store(space, addr, payload, force=False)
    if payload and not done:
        raise KernelError(abi.EFAULT)
    return done


def read_mem(space: AddressSpace, addr: int, size: int) -> bytes:
    """pread() of /proc/PID/mem; EIO for nothing."""
    out = load(space, addr, size)
    if size and not out:
        raise KernelError(abi.EIO)
    return out


def write_mem(space: AddressSpace, addr: int, payload: bytes) -> int:
    """pwrite() of /proc/PID/mem; EIO for nothing."""
    done = store(space, addr, payload)
    if payload and not done:
        raise KernelError(abi.EIO)
    return done


def peek(space: AddressSpace, addr: int) -> bytes:
    """PTRACE_PEEKDATA: a whole word; EIO."""
    out = load(space, addr, WORD)
    if len(out) < WORD:
        raise KernelError(abi.EIO)
    return out


def poke(space: AddressSpace, addr: int, word: bytes) -> None:
    """PTRACE_POKEDATA: EIO if a part of the word could not be written; what could be is."""
    if store(space, addr, word) < WORD:
        raise KernelError(abi.EIO)
