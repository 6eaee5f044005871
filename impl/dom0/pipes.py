"""Pipes, as far as pages of a process are spliced into them: a page in a pipe is held until it is read.

Contents: vmsplice() and read() of a pipe that does not block. Not here: pages that belong to other domains: Linux would hold
a grant as long as the pipe holds its page, and that is not modelled (`NotModelled`). Sources: Linux fs/splice.c
(vmsplice_to_pipe), fs/pipe.c, mm/gup.c (get_user_pages_fast, which asks the entry before the VMA).
"""

from __future__ import annotations

from typing import Final

from bulkhead.impl.dom0.kernel import Kernel, KernelError
from bulkhead.impl.dom0.memory_calls import NotModelled
from bulkhead.impl.dom0.process import AddressSpace
from bulkhead.impl.dom0.reach import take
from bulkhead.impl.xen import abi
from bulkhead.impl.xen.frames import Frame

SLOTS: Final = 16  # pages in a pipe
Piece = tuple[Frame | None, int, int]  # page (None: the page of zeros), offset, bytes


class Pipe:
    """One pipe, both ends."""

    __slots__ = ("kernel", "pieces")

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.pieces: list[Piece] = []

    def vmsplice(self, space: AddressSpace, addr: int, size: int) -> int:
        """Put a range's pages into the pipe, as they are: bytes of those before the first that cannot be had.

        EFAULT if that is the first one; EAGAIN if the pipe is full.
        """
        if size and len(self.pieces) >= SLOTS:
            raise KernelError(abi.EAGAIN)
        done = 0
        while done < size and len(self.pieces) < SLOTS:
            at = addr + done
            part = min(size - done, abi.PAGE_SIZE - (at & 0xFFF))
            try:
                frame = _page(space, at >> 12)
            except KernelError:
                if done:
                    break
                raise
            if frame is not None:
                self.kernel.hold_page(frame)
            self.pieces.append((frame, at & 0xFFF, part))
            done += part
        return done

    def read(self, size: int) -> bytes:
        """What is in the pages now, as they come; EAGAIN if the pipe is empty."""
        if size and not self.pieces:
            raise KernelError(abi.EAGAIN)
        out = b""
        while size > len(out) and self.pieces:
            frame, off, there = self.pieces.pop(0)
            part = min(there, size - len(out))
            out += bytes(part) if frame is None or frame.data is None else bytes(frame.data[off : off + part])
            if part < there:
                self.pieces.insert(0, (frame, off + part, there - part))
            elif frame is not None:
                self.kernel.drop_page(frame)
        return out

    def close(self) -> None:
        """Both ends: the pages are let go."""
        for frame, _, _ in self.pieces:
            if frame is not None:
                self.kernel.drop_page(frame)
        self.pieces.clear()


def _page(space: AddressSpace, vpn: int) -> Frame | None:
    """The page that the entry names, if it is an ordinary one of Dom0's; else as the VMA allows. KernelError(EFAULT).

    None for the page of zeros, which memory of the process's own is before the first store.
    """
    vma = space.find(vpn)
    if vma is None or vma.start > vpn:
        raise KernelError(abi.EFAULT)
    kind = vma.kind
    if kind is None:
        frame = take(space, vpn, False, False)
        return None if frame.data is None else frame
    if vpn in space.anon or not kind.foreign:
        return _of_entry(space, vpn) if kind.io else take(space, vpn, False, False)
    if kind.io:
        raise KernelError(abi.EFAULT)
    raise NotModelled("vmsplice() of a page that a grant maps is not modelled")


def _of_entry(space: AddressSpace, vpn: int) -> Frame:
    """By the entry alone: of an area whose VMA the kernel would not look at."""
    frame = space.mapped(vpn)
    if frame is None:
        raise KernelError(abi.EFAULT)
    return frame
