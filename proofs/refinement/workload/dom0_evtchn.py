"""Chooses a Dom0 process's calls on /dev/xen/evtchn: binding, sending and unbinding, and reads of its ring."""

from __future__ import annotations

from bulkhead.impl.dom0.evtchn import Evtchn
from bulkhead.impl.xen import abi
from bulkhead.proofs.refinement.dom0.state import Opened, Proc
from bulkhead.proofs.refinement.workload.caller import Caller


def _port(d: Caller) -> int:
    """A port of Dom0, usually one that a process has bound."""
    ports = d.view.bound_ports()
    if ports and d.rng.random() < 0.93:
        return ports[int(d.rng.random() * len(ports))]
    return 1 + int(d.rng.random() * d.view.size.ports)


def peer(d: Caller) -> int:
    """A domain to connect to."""
    number = 1 + int(d.rng.random() * (d.view.size.nobody - 0.9))
    return number if number < d.view.size.nobody else 99


def bind(d: Caller, proc: Proc) -> str:
    """IOCTL_EVTCHN_BIND_INTERDOMAIN, usually to a port that waits for Dom0."""
    fd, opened = d.fd_of(proc, "evtchn")
    waiting = [
        (domid, n)
        for domid, guest in d.view.domains.items()
        if domid < d.view.size.nobody
        for n, port in guest.events.ports.items()
        if port.state == 1 and port.remote_domid == 0
    ]
    dom, port = peer(d), 1 + int(d.rng.random() * d.view.size.ports)
    if waiting and d.rng.random() < 0.85:
        dom, port = waiting[int(d.rng.random() * len(waiting))]
    code = d.call(proc, "evtchn_bind_interdomain_port", fd=fd, dom=dom, port=port).code
    _tighten(d, proc, fd, opened)
    return f"evtchn bind to d{dom} port {port}: {code}"


def bind_unbound(d: Caller, proc: Proc) -> str:
    """IOCTL_EVTCHN_BIND_UNBOUND_PORT."""
    fd, opened = d.fd_of(proc, "evtchn")
    dom = peer(d)
    code = d.call(proc, "evtchn_bind_unbound_port", fd=fd, dom=dom).code
    _tighten(d, proc, fd, opened)
    return f"evtchn bind_unbound for d{dom}: {code}"


def _tighten(d: Caller, proc: Proc, fd: int, opened: Opened | None) -> None:
    """Sometimes the ring is too small, as if many ports had been closed."""
    if opened is not None and d.rng.random() < 0.2:
        d.call(proc, "evtchn_tighten_ring", fd=fd)


def unbind(d: Caller, proc: Proc) -> str:
    """IOCTL_EVTCHN_UNBIND."""
    fd, _ = d.fd_of(proc, "evtchn")
    port = _port(d)
    return f"evtchn unbind {port}: {d.call(proc, 'evtchn_unbind', fd=fd, port=port).code}"


def ring(d: Caller, proc: Proc) -> str:
    """IOCTL_EVTCHN_NOTIFY."""
    fd, _ = d.fd_of(proc, "evtchn")
    port = _port(d)
    return f"evtchn notify {port}: {d.call(proc, 'evtchn_notify', fd=fd, port=port).code}"


def restrict_events(d: Caller, proc: Proc) -> str:
    """IOCTL_EVTCHN_RESTRICT_DOMID, sometimes to Dom0 or to a reserved number."""
    fd, _ = d.fd_of(proc, "evtchn")
    dom = peer(d)
    if d.rng.random() < 0.6:
        dom = (0, abi.DOMID_FIRST_RESERVED, 0xFFFF)[int(d.rng.random() * 3)]
    return f"evtchn restrict to d{dom}: {d.call(proc, 'evtchn_restrict_domid', fd=fd, dom=dom).code}"


def read_events(d: Caller, proc: Proc) -> str:
    """poll() and read() of some or all pending ports; then, usually, write() to enable them again."""
    fd, opened = d.fd_of(proc, "evtchn")
    device = opened.file.device if opened is not None else None
    if isinstance(device, Evtchn) and len(device.ring) == 1 and d.rng.random() < 0.6:
        return ring(d, proc)  # until there are more to read
    size = (4096, 4096, 4, 7, 8, 3)[int(d.rng.random() * 6)]
    if isinstance(device, Evtchn) and len(device.ring) > 1 and d.rng.random() < 0.6:
        size = 7 if d.rng.random() < 0.5 else 4  # some are left
    may_sleep = d.rng.random() < 0.3
    d.call(proc, "poll", fd=fd)
    read = d.call(proc, "read", fd=fd, size=size, may_sleep=may_sleep)
    overflow = isinstance(device, Evtchn) and device.overflow
    for port in read.given if d.rng.random() < 0.5 else ():
        _write_back(d, proc, fd, port)
    if opened is None or d.rng.random() < 0.2:
        _write_back(d, proc, fd, _port(d))
    if overflow and d.rng.random() < 0.5:
        return reset(d, proc)
    return f"evtchn read of {size}: {read.given}, {read.code}"


def _write_back(d: Caller, proc: Proc, fd: int, port: int) -> None:
    d.call(proc, "write", fd=fd, port=port, odd=int(d.rng.random() * 4))


def reset(d: Caller, proc: Proc) -> str:
    """IOCTL_EVTCHN_RESET."""
    fd, _ = d.fd_of(proc, "evtchn")
    return f"evtchn reset: {d.call(proc, 'evtchn_reset_ring', fd=fd).code}"


MOVES = ((8, bind), (6, bind_unbound), (7, ring), (5, unbind), (3, restrict_events), (6, read_events))
