"""/dev/xen/evtchn: event channels for user processes.

What lives here: binding, notification, the ring of delivered ports, restriction. What does not: the channels
themselves (impl/xen/events.py). Source: Linux drivers/xen/evtchn.c.
"""

from __future__ import annotations

from bulkhead.impl.dom0.kernel import Kernel, KernelError
from bulkhead.impl.dom0.process import Vma
from bulkhead.impl.xen import abi
from bulkhead.impl.xen.hypercall_evtchn import DOMID_PORT, THREE, TWO_DOMIDS

UNRESTRICTED = 0xFFFF


class Evtchn:
    """One open file: the ports it owns; each stays masked from delivery until written back."""

    __slots__ = ("kernel", "ports", "restricted", "ring")

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.ports: dict[int, bool] = {}
        self.ring: list[int] = []
        self.restricted = UNRESTRICTED

    def _own(self, port: int) -> int:
        self.ports[port] = True
        self.kernel.evtchn_users[port] = self
        return port

    def _check(self, domid: int) -> None:
        if self.restricted not in (UNRESTRICTED, domid):
            raise KernelError(abi.EACCES)

    def bind_virq(self, virq: int) -> int:
        """A port for a virtual interrupt; EACCES when restricted."""
        if self.restricted != UNRESTRICTED:
            raise KernelError(abi.EACCES)
        rc, raw = self.kernel.evtchn_op(abi.EVTCHNOP_BIND_VIRQ, THREE.pack(virq, 0, 0))
        if rc:
            raise KernelError(-rc)
        return self._own(THREE.unpack(raw)[2])

    def bind_interdomain(self, domid: int, port: int) -> int:
        """Bind to another domain's unbound port."""
        self._check(domid)
        rc, raw = self.kernel.evtchn_op(abi.EVTCHNOP_BIND_INTERDOMAIN, DOMID_PORT.pack(domid, 0, port, 0))
        if rc:
            raise KernelError(-rc)
        return self._own(DOMID_PORT.unpack(raw)[3])

    def bind_unbound_port(self, domid: int) -> int:
        """A port waiting for another domain."""
        self._check(domid)
        rc, raw = self.kernel.evtchn_op(abi.EVTCHNOP_ALLOC_UNBOUND, TWO_DOMIDS.pack(abi.DOMID_SELF, domid, 0))
        if rc:
            raise KernelError(-rc)
        return self._own(TWO_DOMIDS.unpack(raw)[2])

    def unbind(self, port: int) -> None:
        """Close a port of this file; ENOTCONN (107) for another's."""
        if port not in self.ports:
            raise KernelError(107)
        del self.ports[port]
        self.ring = [p for p in self.ring if p != port]
        self.kernel.evtchn_users.pop(port, None)
        self.kernel.evtchn_op(abi.EVTCHNOP_CLOSE, abi.U32.pack(port))

    def notify(self, port: int) -> None:
        """Signal the other end; ENOTCONN for a port that is not this file's."""
        if port not in self.ports:
            raise KernelError(107)
        self.kernel.evtchn_op(abi.EVTCHNOP_SEND, abi.U32.pack(port))

    def restrict(self, domid: int) -> None:
        """Limit the file to one peer, once; EACCES the second time."""
        if self.restricted != UNRESTRICTED:
            raise KernelError(abi.EACCES)
        self.restricted = domid

    def upcall(self) -> None:
        """Take what Xen has made pending for this file's enabled ports."""
        table = self.kernel.domain.events.ports
        for number in sorted(self.ports):
            port = table.get(number)
            if port is not None and port.pending and self.ports[number]:
                port.pending = False
                self.ports[number] = False
                self.ring.append(number)

    def read(self) -> list[int]:
        """The ports that fired since the last read; EAGAIN if none."""
        self.upcall()
        if not self.ring:
            raise KernelError(abi.EAGAIN)
        out, self.ring = self.ring, []
        return out

    def write(self, ports: list[int]) -> None:
        """Enable ports again after handling."""
        for number in ports:
            if number in self.ports:
                self.ports[number] = True

    def mmap(self, vma: Vma, offset: int) -> None:
        """The device cannot be mapped."""
        raise KernelError(abi.ENODEV)

    def vma_open(self, vma: Vma) -> None:
        """Never mapped."""

    def vma_close(self, vma: Vma) -> None:
        """Never mapped."""

    def invalidate(self, vma: Vma, start: int, npages: int) -> None:
        """Never mapped."""

    def release(self) -> None:
        """Close every port of the file."""
        for port in list(self.ports):
            self.unbind(port)
