"""Both daemons of Dom0 while they live: they start, serve their rings, and are killed.

With a follower of XenStore (store_side.py) they are watched (watched_daemons.py), else plain (plain_daemons.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from bulkhead.impl.dom0.evtchn import Evtchn
from bulkhead.impl.dom0.process import Process
from bulkhead.impl.dom0.syscalls import Syscalls
from bulkhead.impl.tools.xenconsoled import Console
from bulkhead.impl.tools.xenstored import Connection
from bulkhead.proofs.refinement.domb.alone import Alone
from bulkhead.proofs.refinement.domb.dom0_side import Dom0Side
from bulkhead.proofs.refinement.domb.plain_daemons import Consoled, PlainOsdep, Stored
from bulkhead.proofs.refinement.domb.rig import Rig
from bulkhead.proofs.refinement.domb.store_compare import compare
from bulkhead.proofs.refinement.domb.store_side import StoreSide
from bulkhead.proofs.refinement.domb.watched_daemons import (
    CONSOLE_RINGS,
    STORE_RINGS,
    DaemonOsdep,
    WatchedConsoled,
    WatchedStored,
)
from bulkhead.proofs.refinement.lockstep.abstraction import Places
from bulkhead.proofs.refinement.lockstep.rule_steps import Mismatch


class Daemons:
    """Both daemons, while they live."""

    def __init__(self, rig: Rig, ear: Dom0Side | Alone, side: StoreSide | None) -> None:
        self.rig, self.ear, self.side = rig, ear, side
        self.stored: Stored | None = None
        self.consoled: Consoled | None = None
        self.raced: Callable[[], None] = lambda: None  # actions of others between two loads of a daemon
        space = ear.spawn()
        ear.who = space
        driver = self._driver("xenstored")
        if side is not None and isinstance(ear, Dom0Side):
            self.stored = WatchedStored(DaemonOsdep(driver, STORE_RINGS), side, ear, space)
            side.begins(self.stored, space)
        else:
            self.stored = Stored(PlainOsdep(driver), space)
        self.stored.osdep.raced = self._raced
        self.start_console()
        ear.who = -1

    def _driver(self, name: str) -> Syscalls:
        return Syscalls(name, Process(self.rig.kernel), self.rig.nodes)

    def _raced(self) -> None:
        self.raced()

    def start_console(self) -> None:
        """The console's daemon may die and restart; then it has no guests."""
        space = self.ear.spawn()
        self.ear.who = space
        driver = self._driver("xenconsoled")
        if isinstance(self.ear, Dom0Side):
            self.consoled = WatchedConsoled(DaemonOsdep(driver, CONSOLE_RINGS), self.ear, space)
        else:
            self.consoled = Consoled(PlainOsdep(driver), space)
        self.consoled.osdep.raced = self._raced

    def of(self, space: int) -> Stored | Consoled | None:
        """The daemon that is this process."""
        return next((d for d in (self.stored, self.consoled) if d is not None and d.space == space), None)

    def serve(self, daemon: Stored | Consoled) -> bool:
        """A daemon serves all its rings; true if there was anything to do."""
        self.ear.who = daemon.space
        osdep, before = daemon.osdep, _moves(daemon)
        busy = daemon.step()
        if isinstance(osdep, DaemonOsdep) and busy != (osdep.moves != before):
            raise Mismatch(f"a daemon says that there was {'something' if busy else 'nothing'} to do, which is not so")
        masked = masked_ports(daemon)
        if masked:
            raise Mismatch(f"a daemon has served its rings, and will never hear of its ports {masked} again")
        return busy

    def kill(self, daemon: Stored | Consoled) -> None:
        """kill -9 of a daemon: its mappings and ports are released."""
        daemon.dead = True
        self.ear.dies(daemon.space)
        daemon.osdep.driver.exit()  # type: ignore[attr-defined]
        self.ear.died(daemon.space)
        if daemon is self.stored:
            self.stored = None
        else:
            self.consoled = None

    def compare(self, out: Places) -> None:
        """Compare both daemons' state; returns the differences."""
        if self.stored is not None and self.side is not None:
            compare(self.side, self.stored, out)
            self._holds(self.stored, self.stored.connections.values(), out)
        if isinstance(self.consoled, WatchedConsoled):
            self.consoled.compare(out)
            self._holds(self.consoled, self.consoled.consoles.values(), out)

    def _holds(self, daemon: Stored | Consoled, serves: Iterable[Connection | Console], out: Places) -> None:
        """A daemon has a page and a port of each guest that it serves, and of nobody else."""
        T, ports = self.ear.book.T, {each.port for each in serves}  # type: ignore[union-attr]
        mapped = sum(
            1 for on, s in zip(T["translation.present"], T["translation.space"], strict=True) if on and s == daemon.space
        )
        if (len(ports), ports) != (mapped, set(event_ports(daemon))):
            out[f"p{daemon.space}"] = (
                f"{mapped} pages, ports {sorted(event_ports(daemon))}",
                f"serves ports {sorted(ports)}",
            )


def _moves(daemon: Stored | Consoled) -> int:
    return daemon.osdep.moves if isinstance(daemon.osdep, DaemonOsdep) else 0


def event_ports(daemon: Stored | Consoled) -> Mapping[int, bool]:
    """The ports that the daemon has bound, and whether each is enabled."""
    driver = daemon.osdep.driver
    assert isinstance(driver, Syscalls)
    device = driver.process.file(daemon.xce.fd).device
    assert isinstance(device, Evtchn)
    return device.ports


def masked_ports(daemon: Stored | Consoled) -> list[int]:
    """Ports whose event the daemon has read, and which it has not enabled again."""
    return [port for port, enabled in event_ports(daemon).items() if not enabled]


__all__ = ["Daemons"]
