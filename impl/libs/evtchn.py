"""libxenevtchn: event channels for user processes.

Contents: xenevtchn_* with C's conventions. A port that fired is returned once and stays masked until
unmasked. Source: Xen tools/libs/evtchn/core.c, linux.c.
"""

from __future__ import annotations

from bulkhead.impl.libs.osdep import Handle, Osdep, minus_on_error, null_on_error


class XenEvtchn(Handle):
    """xenevtchn_handle."""

    __slots__ = ()


@null_on_error
def xenevtchn_open(os: Osdep) -> XenEvtchn:
    """Open the device."""
    return XenEvtchn(os, os.evtchn_open())


@minus_on_error
def xenevtchn_close(xce: XenEvtchn) -> int:
    """Close the handle and all its ports."""
    xce.os.close(xce.fd)
    return 0


def xenevtchn_fd(xce: XenEvtchn) -> int:
    """The descriptor to wait on."""
    return xce.fd


@minus_on_error
def xenevtchn_bind_interdomain(xce: XenEvtchn, domid: int, remote_port: int) -> int:
    """A local port bound to an unbound port of another domain, or -1."""
    return xce.os.evtchn_bind_interdomain(xce.fd, domid, remote_port)


@minus_on_error
def xenevtchn_bind_unbound_port(xce: XenEvtchn, domid: int) -> int:
    """A local port that waits for a domain, or -1."""
    return xce.os.evtchn_bind_unbound_port(xce.fd, domid)


@minus_on_error
def xenevtchn_bind_virq(xce: XenEvtchn, virq: int) -> int:
    """A local port for a virtual interrupt, or -1."""
    return xce.os.evtchn_bind_virq(xce.fd, virq)


@minus_on_error
def xenevtchn_unbind(xce: XenEvtchn, port: int) -> int:
    """Close a port of this handle."""
    xce.os.evtchn_unbind(xce.fd, port)
    return 0


@minus_on_error
def xenevtchn_notify(xce: XenEvtchn, port: int) -> int:
    """Signal the other end."""
    xce.os.evtchn_notify(xce.fd, port)
    return 0


@minus_on_error
def xenevtchn_pending(xce: XenEvtchn) -> int:
    """A pending port, or -1 (EAGAIN: none)."""
    return xce.os.evtchn_pending(xce.fd)


@minus_on_error
def xenevtchn_unmask(xce: XenEvtchn, port: int) -> int:
    """Unmask a port."""
    xce.os.evtchn_unmask(xce.fd, port)
    return 0
