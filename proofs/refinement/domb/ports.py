"""What processes of Dom0 do with ports of their own, beside their channel's: bound, rung, given up; also restricted.

Each is an ioctl of a second file of /dev/xen/evtchn, followed as one rule step. Not here: the ports of channels and daemons
(dom0_side.py), and reading what rang, which `monolithic` covers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from bulkhead.impl.dom0 import ioctl_control as control
from bulkhead.impl.libs import evtchn as ev
from bulkhead.impl.xen import abi
from bulkhead.model.caller import OKAY
from bulkhead.proofs.refinement.calls import NOT_DONE, Answer
from bulkhead.proofs.refinement.domb.follow import Follower
from bulkhead.proofs.refinement.domb.machine import Machine, Process, error_name

Arguments = Mapping[str, Any]
MOST: Final = 3  # ports of one process: the world has so many


@contextmanager
def _followed_here(m: Machine) -> Iterator[None]:
    """The hypercalls of this ioctl are followed with it, not one by one."""
    m.ear.quiet = True
    try:
        yield
    finally:
        m.ear.quiet = False


def _ioctl(m: Machine, who: Process, call: Callable[[ev.XenEvtchn], int]) -> tuple[str, int]:
    """Make an ioctl on the process's own file: the code, and the result."""
    if who.xce is None:
        who.xce = ev.xenevtchn_open(who.os)
    assert who.xce is not None
    with _followed_here(m):
        result = call(who.xce)
    return (OKAY, result) if result >= 0 else (error_name(who.os.errno), result)


def _follow(m: Machine, who: Process, rule: str, args: dict[str, int], code: str) -> None:
    if isinstance(m.ear, Follower):
        m.ear.rule(rule, {"p": who.space, "x": m.ear.own_evtchn(), **args}, code)


def bind_unbound(m: Machine, who: Process, a: Arguments) -> Answer:
    """IOCTL_EVTCHN_BIND_UNBOUND_PORT: {dom}; the answer has the port."""
    if len(who.ports) >= MOST:
        return NOT_DONE
    code, port = _ioctl(m, who, lambda xce: ev.xenevtchn_bind_unbound_port(xce, a["dom"]))
    if m.book is not None:
        picked = {"q_q": port - 1} if code == OKAY else {}
        _follow(m, who, "evtchn_bind_unbound", {"dom": m.book.domain(a["dom"]), **picked}, code)
    return _bound(who, code, port)


def bind_interdomain(m: Machine, who: Process, a: Arguments) -> Answer:
    """IOCTL_EVTCHN_BIND_INTERDOMAIN: {dom, port}; the answer has the port."""
    if len(who.ports) >= MOST:
        return NOT_DONE
    code, port = _ioctl(m, who, lambda xce: ev.xenevtchn_bind_interdomain(xce, a["dom"], a["port"]))
    if m.book is not None:
        picked = {"q_q": port - 1} if code == OKAY else {}
        _follow(m, who, "evtchn_bind", {"dom": m.book.domain(a["dom"]), "o": m.book.port(a["port"]), **picked}, code)
    return _bound(who, code, port)


def _bound(who: Process, code: str, port: int) -> Answer:
    if code != OKAY:
        return Answer(code)
    who.ports.append(port)
    return Answer(code, port)


def notify(m: Machine, who: Process, a: Arguments) -> Answer:
    """IOCTL_EVTCHN_NOTIFY: {port}."""
    code, _ = _ioctl(m, who, lambda xce: ev.xenevtchn_notify(xce, a["port"]))
    if m.book is not None:
        _follow(m, who, "evtchn_notify", {"q": m.book.port(a["port"])}, code)
    return Answer(code)


def unbind(m: Machine, who: Process, a: Arguments) -> Answer:
    """IOCTL_EVTCHN_UNBIND: {port}."""
    code, _ = _ioctl(m, who, lambda xce: ev.xenevtchn_unbind(xce, a["port"]))
    if m.book is not None:
        q = m.book.port(a["port"])
        _follow(m, who, "evtchn_unbind", {"q": q}, code)
        if code == OKAY:
            m.book.step("close_left_open", {"q": q})
    if code == OKAY:
        who.ports.remove(a["port"])
    return Answer(code)


def restrict(m: Machine, who: Process, a: Arguments) -> Answer:
    """IOCTL_EVTCHN_RESTRICT_DOMID: {dom}, for good."""

    def call(xce: ev.XenEvtchn) -> int:
        try:
            who.os.struct_ioctl(xce.fd, control.EVTCHN_RESTRICT_DOMID, abi.U16.pack(a["dom"]))
        except OSError as error:
            who.os.errno = error.errno or 0
            return -1
        return 0

    code, _ = _ioctl(m, who, call)
    if m.book is not None and isinstance(m.ear, Follower):
        args = {"p": who.space, "x": m.ear.own_evtchn(), "dom": m.book.domain(a["dom"])}
        reserved = code == "EINVAL" and a["dom"] >= abi.DOMID_FIRST_RESERVED
        m.ear.rule("evtchn_restrict", args, code, "EINVAL" if reserved else None)
    return Answer(code)


OWN_PORTS: Final[dict[str, Callable[[Machine, Process, Arguments], Answer]]] = {
    "evtchn_bind_unbound_port": bind_unbound,
    "evtchn_bind_interdomain_port": bind_interdomain,
    "evtchn_notify": notify,
    "evtchn_unbind": unbind,
    "evtchn_restrict_domid": restrict,
}


__all__ = ["OWN_PORTS"]
