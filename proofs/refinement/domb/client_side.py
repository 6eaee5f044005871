"""An oracle for a client's end of a channel: what it maps when it has connected, and what the other end sees when it leaves.

A client maps the pages of the rings, and that of DomB's answers only for reading. However it leaves, by itself or by
kill -9, its byte in the first page says so, and the server's port rings: the libraries have the kernel do that. A
connection that fails leaves nothing. Not here: the bytes in the rings (inbox.py), and the server's end.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

from bulkhead.impl.dom0.gntdev import Gntdev
from bulkhead.impl.dom0.syscalls import Syscalls
from bulkhead.impl.libs.linux import LinuxOsdep
from bulkhead.impl.libs.vchan import Vchan
from bulkhead.impl.xen.events import Port
from bulkhead.impl.xen.frames import Frame
from bulkhead.proofs.refinement.lockstep.rule_steps import Mismatch

CLIENT_LIVES: Final = 20  # of libxenvchan.h: a byte in the first page
SIZES: Final = tuple(1 << order for order in range(10, 21))  # of a ring
WRITABLE: Final = 2  # of a page-table entry
SHIFT: Final = 12


def registered(osdep: LinuxOsdep) -> int:
    """How many mappings the grant device keeps for a process, mapped or not."""
    assert isinstance(osdep.driver, Syscalls)
    devices = {file.device for file in osdep.driver.process.files.values() if isinstance(file.device, Gntdev)}
    return sum(len(device.maps) for device in devices)


class ClientEnd:
    """The end of a client that has just connected."""

    def __init__(self, osdep: LinuxOsdep, chan: Vchan) -> None:
        assert isinstance(osdep.driver, Syscalls) and chan.writer is not None and chan.reader is not None
        self.chan = chan
        space = osdep.driver.process.space
        kernel = space.kernel
        rings = sorted((each.ring.data, each.ring.data + each.ring.size) for each in (chan.writer, chan.reader))
        if rings[0][1] > rings[1][0] or any(end - start not in SIZES for start, end in rings):
            raise Mismatch(f"a client uses rings {rings}, which cannot be")
        page = space.mapped(chan.page >> SHIFT)
        if page is None or not page.bytes()[CLIENT_LIVES]:
            raise Mismatch("a client has connected, and does not say that it lives")
        self.page: Frame = page
        mine, theirs = chan.writer.ring.data >> SHIFT, chan.reader.ring.data >> SHIFT
        if not space.pte(mine) & space.pte(chan.page >> SHIFT) & WRITABLE:
            raise Mismatch("a client cannot write what it must")
        if theirs != chan.page >> SHIFT and space.pte(theirs) & WRITABLE:
            raise Mismatch("a client maps the ring that it only reads for writing")
        self.ports = kernel.domain.events.ports

    def _server(self) -> Port | None:
        """The port at the other end, if it is still there."""
        port = self.ports.get(self.chan.port)
        return None if port is None or port.remote is None else port.remote.events.ports.get(port.remote_port)

    @contextlib.contextmanager
    def leaves(self) -> Iterator[None]:
        """The client leaves now, or is killed."""
        server, was_open = self._server(), not self.chan.closed
        yield
        if was_open and self.page.bytes()[CLIENT_LIVES]:
            raise Mismatch("a client has left its channel, and by its first page it lives")
        if was_open and server is not None and not server.pending:
            raise Mismatch("a client has left its channel, and the other end's port does not ring")


__all__ = ["ClientEnd", "registered"]
