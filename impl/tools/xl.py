"""xl: create, pause, unpause and destroy guests, the same on every system.

Contents: the order of the calls to builder, XenStore and console, and the rollback when one of them fails.
Not here: building (services.py), the daemons. xl uses the daemons' sockets, here plain calls.
Source: Xen tools/libs/light/libxl_create.c, tools/xl.
"""

from __future__ import annotations

import contextlib

from bulkhead.impl.domb.builder import Guest
from bulkhead.impl.domb.protocol import CreateRequest
from bulkhead.impl.log import Log, quiet
from bulkhead.impl.rings import pages
from bulkhead.impl.tools.services import Service, ToolError
from bulkhead.impl.tools.store import XsError, home
from bulkhead.impl.tools.xenconsoled import Xenconsoled
from bulkhead.impl.tools.xenstored import Xenstored
from bulkhead.impl.xen.abi import EIO, ESRCH


class Xl:
    """The tool with its connections."""

    def __init__(self, service: Service, xenstored: Xenstored, xenconsoled: Xenconsoled, log: Log = quiet) -> None:
        self.service = service
        self.xenstored = xenstored
        self.xenconsoled = xenconsoled
        self.log = log
        self.guests: dict[int, Guest] = {}

    def create(self, name: str, wanted: CreateRequest) -> int:
        """Build a guest, connect it and unpause it; returns its id. On ToolError nothing is left behind."""
        self.log("xl", self.service.where, f"create {name} from {wanted.kernel}, {wanted.pages} pages")
        guest = self.service.create(wanted)
        domid = guest.domid
        self.guests[domid] = guest
        try:
            self._connect(name, guest)
            self.log("xl", self.service.where, f"unpause domain {domid}")
            self.service.unpause(domid)
        except ToolError:
            with contextlib.suppress(ToolError):
                self.destroy(domid)
            raise
        return domid

    def _connect(self, name: str, guest: Guest) -> None:
        domid = guest.domid
        self.log("xl", "xenstored", f"introduce domain {domid}, port {guest.store_port}")
        try:
            words = b"%d\0%d\0%d\0" % (domid, guest.store_mfn, guest.store_port)
            self.xenstored.request(0, pages.XS_INTRODUCE, 0, words)
            for node, value in (
                ("name", name),
                ("domid", str(domid)),
                ("console/port", str(guest.console_port)),
                ("memory/target", str(guest.pages * 4)),
            ):
                self.xenstored.request(0, pages.XS_WRITE, 0, f"{home(domid)}/{node}\0{value}".encode())
        except XsError as exc:
            raise ToolError(f"create: XenStore says {exc}", EIO) from exc
        self.log("xl", "xenconsoled", f"connect domain {domid}, port {guest.console_port}")
        try:
            self.xenconsoled.add(domid, guest.console_mfn, guest.console_port)
        except OSError as exc:
            raise ToolError("create: connecting the console", exc.errno or EIO) from exc

    def _known(self, domid: int) -> None:
        if domid not in self.guests:
            raise ToolError(f"domain {domid} was not created here", ESRCH)

    def pause(self, domid: int) -> None:
        """Pause a guest; ToolError."""
        self._known(domid)
        self.service.pause(domid)

    def unpause(self, domid: int) -> None:
        """Unpause it; ToolError."""
        self._known(domid)
        self.service.unpause(domid)

    def destroy(self, domid: int) -> bytes:
        """Destroy a guest; the daemons unmap its rings, or it would stay a zombie. Returns its last output. ToolError."""
        self._known(domid)
        self.log("xl", self.service.where, f"destroy domain {domid}")
        try:
            self.service.destroy(domid)
        finally:
            output = self.xenconsoled.remove(domid)
            with contextlib.suppress(XsError):
                self.xenstored.request(0, pages.XS_RELEASE, 0, b"%d\0" % domid)
        del self.guests[domid]
        return output
