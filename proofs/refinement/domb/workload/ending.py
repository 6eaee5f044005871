"""The end of an episode: everybody leaves, what DomB built is destroyed, guests are disconnected; nothing may be left.

Not here: what is checked then (../operations.py).
"""

from __future__ import annotations

from bulkhead.impl.domb import protocol as p
from bulkhead.impl.rings import pages as wire
from bulkhead.model.caller import OKAY
from bulkhead.proofs.refinement.domb.machine import Process
from bulkhead.proofs.refinement.domb.workload.moments import DOMB
from bulkhead.proofs.refinement.domb.workload.scheduler import Driver

TRIES = 12  # DomB may still have to end a connection before


def end(d: Driver) -> None:
    """The calls with which an episode ends."""
    view = d.view
    d.text = "the end"
    d.moments.peace()
    d.users.end()
    for who in list(view.processes.values()):
        d.tools.kill(who)
    if view.up:
        _last_tool(d)
    _disconnect(d)
    if view.up:
        d.call(DOMB, "hang_up")
        d.domb()  # it offers nothing
    d.call("", "end")


def _tool(d: Driver) -> Process:
    """One more process."""
    return d.view.processes[d.call("", "spawn").given]


def _last_tool(d: Driver) -> None:
    """One more tool connects and has all guests of DomB destroyed."""
    view = d.view
    for _ in range(4):
        d.domb()
    who = _tool(d)
    for _ in range(TRIES):
        if who.chan is None or not who.chan.is_open():
            if who.chan is not None:
                d.tools.of(who, "disconnect")
            d.tools.connect(who, view.offer)
        for domid in sorted(view.built) if who.chan is not None else ():
            if d.tools.send(who, p.DESTROY, domid, 0, p.DOMID.pack(domid)).code != OKAY:
                # Whoever was there before left indices that no message fits: DomB offers a new ring when it is left.
                d.tools.of(who, "disconnect")
                break
        d.domb()
        if not view.built:
            break
    d.tools.kill(who)
    d.domb()


def _disconnect(d: Driver) -> None:
    """A tool disconnects all guests, and removes what tools have made; the daemons know nothing then, and are killed."""
    view = d.view
    who = _tool(d)
    if view.consoled is None:
        d.call("", "start_xenconsoled")
    if view.consoled is not None:
        for domid in list(view.consoled.consoles):
            d.tools.of(who, "console_remove", dom=domid)
    if view.stored is not None and d.rng.random() < 0.4:
        d.call(f"p{view.stored.space}", "stop")
    if view.stored is not None:
        for domid in list(view.stored.connections):
            d.tools.ask_xenstored(who, wire.XS_RELEASE, b"%d\0" % domid)
    if view.up:
        d.tools.of(who, "builds_again", xl=view.stored is not None and view.consoled is not None)
    if view.stored is not None:
        d.tools.ask_xenstored(who, wire.XS_SET_PERMS, b"/\0n0\0")
        nodes = view.stored.store.nodes
        for path in sorted(nodes, key=len, reverse=True):
            if path not in ("/", "/local", "/local/domain") and path in nodes:
                d.tools.ask_xenstored(who, wire.XS_RM, path.encode() + b"\0")
        d.tools.ask_xenstored(who, wire.XS_MKDIR, b"/local/domain\0")
    d.tools.kill(who)
    d.call("", "daemons_keep_nothing")
    for daemon in (view.stored, view.consoled):
        if daemon is not None:
            d.call(f"p{daemon.space}", d.rng.choice(("kill", "stop")))


__all__ = ["end"]
