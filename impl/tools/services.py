"""The build services for tools: the process itself over privcmd, or DomB over the channel.

Contents: one interface with both implementations, and the choice between them: a tool tries to open the
privileged interface, and if that is absent it uses DomB. Not here: the tools that use it (xl.py).
"""

from __future__ import annotations

from collections.abc import Callable
from struct import error
from typing import Final, Protocol

from bulkhead.impl.domb import protocol as p
from bulkhead.impl.domb.builder import BuildError, Guest, Hook, Request, build
from bulkhead.impl.libs import ctrl
from bulkhead.impl.libs.osdep import ETIMEDOUT, Osdep
from bulkhead.impl.libs.vchan import Offer, client_init
from bulkhead.impl.log import Log, quiet
from bulkhead.impl.tools.fileproxy import FileProxy
from bulkhead.impl.xen.abi import EINVAL, EIO, ENOENT, ENXIO

PATIENCE: Final = 3
MAX_ROUNDS: Final = 1 << 18  # file requests and waits in one call: more than any image needs
EPIPE: Final = 32


class ToolError(Exception):
    """A tool's request failed; `errno` is the error, the text names the request."""

    def __init__(self, what: str, errno: int) -> None:
        super().__init__(f"{what} (errno {errno})")
        self.errno = errno


class Service(Protocol):
    """The interface of a build service. Every call raises ToolError when it fails."""

    where: str

    def create(self, wanted: p.CreateRequest) -> Guest:
        """Build a guest; it is sealed and paused."""

    def pause(self, domid: int) -> None:
        """Pause it."""

    def unpause(self, domid: int) -> None:
        """Let it run."""

    def destroy(self, domid: int) -> None:
        """End it."""

    def close(self) -> None:
        """Close the service."""


class LocalService:
    """The process is the builder: hypercalls and foreign mappings over privcmd."""

    where = "itself"

    def __init__(self, xch: ctrl.XcInterface, files: FileProxy, on_step: Hook) -> None:
        self.xch = xch
        self.files = files
        self.on_step = on_step

    def create(self, wanted: p.CreateRequest) -> Guest:
        """Read the files, then build."""
        try:
            wanted.pack()  # the same limits as over the channel
            kernel = self.files.read_file(wanted.kernel)
            disk = self.files.read_file(wanted.ramdisk) if wanted.ramdisk else b""
        except ValueError as exc:
            raise ToolError(str(exc), EINVAL) from exc
        except OSError as exc:
            raise ToolError("create: reading its files", exc.errno or EIO) from exc
        try:
            request = Request(kernel, disk, wanted.pages, wanted.cmdline.encode())
            return build(self.xch.os, request, self.on_step)
        except BuildError as exc:
            raise ToolError(f"create: {exc}", exc.errno) from exc

    def _check(self, what: str, result: int) -> None:
        if result < 0:
            raise ToolError(what, self.xch.os.errno)

    def pause(self, domid: int) -> None:
        """xc_domain_pause."""
        self._check("pause", ctrl.xc_domain_pause(self.xch, domid))

    def unpause(self, domid: int) -> None:
        """xc_domain_unpause."""
        self._check("unpause", ctrl.xc_domain_unpause(self.xch, domid))

    def destroy(self, domid: int) -> None:
        """xc_domain_destroy."""
        self._check("destroy", ctrl.xc_domain_destroy(self.xch, domid))

    def close(self) -> None:
        """Close the interface."""
        ctrl.xc_interface_close(self.xch)


class RemoteService:
    """DomB is the builder: requests over the channel, while this process serves its file requests.

    `pump` runs the rest of the machine for a step; true if anything happened.
    """

    where = "DomB"

    def __init__(self, os: Osdep, offer: Offer, files: FileProxy, pump: Callable[[], bool], log: Log = quiet) -> None:
        try:
            self.chan = client_init(os, offer)
        except OSError as exc:
            raise ToolError("connecting to DomB", exc.errno or EIO) from exc
        self.pipe = p.Pipe(self.chan)
        self.files = files
        self.pump = pump
        self.log = log
        self.number = 0

    def call(self, op: int, body: bytes) -> bytes:
        """Send a request, serve files until its answer is there; ToolError."""
        name = p.NAMES[op]
        if self.chan.closed:
            raise ToolError(f"{name}: DomB is gone", EPIPE)
        self.number = (self.number + 1) & 0xFFFFFFFF
        out = [p.Message(op, self.number, 0, body)]
        idle = 0
        try:
            for _ in range(MAX_ROUNDS):
                if idle >= PATIENCE:
                    break
                idle += 1
                while out and self.pipe.send(out[0]):
                    out.pop(0)
                    idle = 0
                while (message := self.pipe.receive()) is not None:
                    idle = 0
                    if message.op == op | p.REPLY and message.number == self.number:
                        if message.status:
                            text = message.body.decode("utf-8", "replace")
                            raise ToolError(f"{name}: {text or 'refused by DomB'}", max(-message.status, 1))
                        return message.body
                    if not message.op & p.REPLY:
                        out.append(self._file(message))
                        break  # answer before taking more: so the peer cannot make this list grow
                else:
                    if not self.chan.is_open():
                        raise ToolError(f"{name}: DomB is gone", EPIPE)
                    if self.pump():
                        idle = 0
                    self.chan.drain_events()
        except (p.ProtocolError, OSError) as exc:
            self.close()
            raise ToolError(f"{name}: DomB sends garbage: {exc}", EIO) from exc
        raise ToolError(f"{name}: DomB does not answer", ETIMEDOUT)

    def _file(self, message: p.Message) -> p.Message:
        status, body = self.files.handle(message.op, message.body)
        if message.op != p.FILE_READ or status:
            what = message.body.decode("utf-8", "replace") if message.op == p.FILE_OPEN else ""
            done = "" if not status else f": errno {-status}"
            self.log("DomB", "file proxy", f"{p.NAMES.get(message.op, message.op)} {what}".rstrip() + done)
        return p.Message(message.op | p.REPLY, message.number, status, body)

    def create(self, wanted: p.CreateRequest) -> Guest:
        """Ask DomB."""
        try:
            return p.unpack_guest(self.call(p.CREATE, wanted.pack()))
        except ValueError as exc:
            raise ToolError(str(exc), EINVAL) from exc
        except p.ProtocolError as exc:
            raise ToolError("create: DomB sends garbage", EIO) from exc

    def _domid(self, op: int, domid: int) -> None:
        try:
            self.call(op, p.DOMID.pack(domid))
        except error as exc:
            raise ToolError(f"{p.NAMES[op]}: {domid} is no domain id", EINVAL) from exc

    def pause(self, domid: int) -> None:
        """Ask DomB."""
        self._domid(p.PAUSE, domid)

    def unpause(self, domid: int) -> None:
        """Ask DomB."""
        self._domid(p.UNPAUSE, domid)

    def destroy(self, domid: int) -> None:
        """Ask DomB."""
        self._domid(p.DESTROY, domid)

    def close(self) -> None:
        """Close the channel."""
        self.chan.close()
        self.files.close_all()


Remote = Callable[[Osdep, Offer, FileProxy, Callable[[], bool], Log], RemoteService]


def find(
    os: Osdep,
    files: FileProxy,
    offer: Callable[[], Offer | None],
    pump: Callable[[], bool],
    on_step: Hook,
    log: Log = quiet,
    remote: Remote = RemoteService,
) -> Service:
    """The service of this system; ToolError if there is neither. `remote` connects to a DomB that offers a channel."""
    xch = ctrl.xc_interface_open(os)
    if xch is not None:
        return LocalService(xch, files, on_step)
    if os.errno not in (ENOENT, ENXIO):
        raise ToolError("opening the privileged interface", os.errno)
    log("xl", "Dom0", f"open /dev/xen/privcmd: errno {os.errno}, so it turns to DomB")
    found = offer()
    if found is None:
        raise ToolError("no DomB has offered a channel", ENOENT)
    return remote(os, found, files, pump, log)


__all__ = ["EPIPE", "LocalService", "RemoteService", "Service", "ToolError", "find"]
