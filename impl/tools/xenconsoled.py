"""A small xenconsoled: stores the output of guests and sends them input.

Contents: one ring per guest. Indices are read once; a guest with impossible indices is skipped this time
and stays connected. Output is kept up to a limit; the oldest part is dropped. Guest output is untrusted
(`printable` makes it safe to show). Not here: the rings (impl/rings). Source: Xen tools/console/daemon/io.c.
"""

from __future__ import annotations

from typing import Final

from bulkhead.impl.domb.builder import CONSOLE_REF
from bulkhead.impl.libs import evtchn as ev
from bulkhead.impl.libs.osdep import Osdep, OsError
from bulkhead.impl.log import Log, quiet
from bulkhead.impl.rings import pages
from bulkhead.impl.rings.pages import ring_at
from bulkhead.impl.rings.ring import BadIndex, Reader, Writer
from bulkhead.impl.tools.mapping import RingMapper, RingMapping
from bulkhead.impl.xen.abi import EEXIST, ENOENT

KEEP: Final = 1 << 16


def printable(raw: bytes) -> str:
    """Guest output without control characters for a terminal."""
    text = raw.decode("utf-8", "replace")
    return "".join(c if c == "\n" or c == "\t" or c.isprintable() else "�" for c in text)


class Console:
    """One guest's console."""

    def __init__(self, os: Osdep, mapping: RingMapping, port: int) -> None:
        self.mapping = mapping
        self.port = port
        self.output = b""
        self.waiting = b""
        self.reader = Reader(os, ring_at(mapping.addr, pages.CONSOLE_OUT))
        self.writer = Writer(os, ring_at(mapping.addr, pages.CONSOLE_IN))


class Xenconsoled:
    """The daemon."""

    def __init__(self, os: Osdep, log: Log = quiet) -> None:
        self.os = os
        self.log = log
        self.mapper = RingMapper(os)
        xce = ev.xenevtchn_open(os)
        if xce is None:
            raise OsError(os.errno)
        self.xce = xce
        self.consoles: dict[int, Console] = {}

    def add(self, domid: int, mfn: int, port: int) -> None:
        """Connect a guest's console; on OSError nothing is left mapped."""
        if domid in self.consoles:
            raise OsError(EEXIST)
        mapping = self.mapper.map(domid, CONSOLE_REF, mfn)
        local = ev.xenevtchn_bind_interdomain(self.xce, domid, port)
        if local < 0:
            error = self.os.errno
            mapping.unmap()
            raise OsError(error)
        self.consoles[domid] = Console(self.os, mapping, local)
        self.log("xenconsoled", "Xen", f"map the console ring of domain {domid} by {mapping.by}")

    def remove(self, domid: int) -> bytes:
        """Disconnect a dead guest: read its last output, then unmap the ring; returns all stored output."""
        console = self.consoles.pop(domid, None)
        if console is None:
            return b""
        self._drain(console)
        ev.xenevtchn_unbind(self.xce, console.port)
        console.mapping.unmap()
        return console.output

    def type(self, domid: int, text: bytes) -> None:
        """Send input; OSError(ENOENT)."""
        console = self.consoles.get(domid)
        if console is None:
            raise OsError(ENOENT)
        console.waiting = (console.waiting + text)[:KEEP]

    def output(self, domid: int) -> bytes:
        """The stored output of a guest."""
        console = self.consoles.get(domid)
        return b"" if console is None else console.output

    def step(self) -> bool:
        """Serve every console once; true if there was anything to do."""
        while (port := ev.xenevtchn_pending(self.xce)) > 0:
            ev.xenevtchn_unmask(self.xce, port)
        busy = False
        for console in self.consoles.values():
            done = self._drain(console)
            sent = console.writer.put(console.waiting) if console.waiting else 0
            console.waiting = console.waiting[sent:]
            if done or sent:
                ev.xenevtchn_notify(self.xce, console.port)
                busy = True
        return busy

    @staticmethod
    def _drain(console: Console) -> bool:
        try:
            new = console.reader.take(2048)
        except BadIndex:
            return False
        console.output = (console.output + new)[-KEEP:]
        return bool(new)

    def close(self) -> None:
        """Stop the daemon."""
        for domid in list(self.consoles):
            self.remove(domid)
        ev.xenevtchn_close(self.xce)
