"""The XenStore and console daemons as processes of Dom0, with a hook between any two of their loads and stores.

They are the implementation's own. Not here: what they do is checked by watched_daemons.py.
"""

from __future__ import annotations

from collections.abc import Callable

from bulkhead.impl.libs.linux import LinuxOsdep
from bulkhead.impl.libs.osdep import OsDriver, OsError
from bulkhead.impl.tools.services import EPIPE
from bulkhead.impl.tools.store import XsError
from bulkhead.impl.tools.xenconsoled import Xenconsoled
from bulkhead.impl.tools.xenstored import Xenstored
from bulkhead.proofs.refinement.domb.spoken import heard
from bulkhead.proofs.refinement.domb.world import NODE_QUOTA, WATCH_QUOTA


class PlainOsdep(LinuxOsdep):
    """The operating system of a daemon's libraries."""

    def __init__(self, driver: OsDriver) -> None:
        super().__init__(driver)
        self.raced: Callable[[], None] = lambda: None

    def load(self, addr: int, size: int) -> bytes:
        out = super().load(addr, size)
        self.raced()
        return out

    def store(self, addr: int, payload: bytes) -> None:
        super().store(addr, payload)
        self.raced()


class Stored(Xenstored):
    """XenStore's daemon, in a process of Dom0."""

    def __init__(self, os: PlainOsdep, space: int) -> None:
        self.osdep, self.space = os, space
        self.dead = False  # a tool that still uses its socket gets an error
        self.introduced: tuple[int, int, int] | None = None  # the domain, frame and port that it was told last
        super().__init__(os, heard, quota_nodes=NODE_QUOTA, quota_watches=WATCH_QUOTA)

    def request(self, domid: int, kind: int, tx_id: int, payload: bytes) -> bytes:
        if self.dead:
            raise XsError("EIO")
        return super().request(domid, kind, tx_id, payload)

    def introduce(self, domid: int, mfn: int, port: int) -> None:
        self.introduced = (domid, mfn, port)
        super().introduce(domid, mfn, port)


class Consoled(Xenconsoled):
    """The console's daemon, in a process of Dom0."""

    def __init__(self, os: PlainOsdep, space: int) -> None:
        self.osdep, self.space = os, space
        self.dead = False
        self.added: tuple[int, int, int] | None = None  # the domain, frame and port that it was told last
        self.last_words = b""  # of the guest that was disconnected last
        super().__init__(os, heard)

    def add(self, domid: int, mfn: int, port: int) -> None:
        self.added = (domid, mfn, port)
        if self.dead:
            raise OsError(EPIPE)
        super().add(domid, mfn, port)

    def remove(self, domid: int) -> bytes:
        self.last_words = b"" if self.dead else super().remove(domid)
        return self.last_words


__all__ = ["Consoled", "PlainOsdep", "Stored"]
