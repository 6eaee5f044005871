"""/dev/xen/evtchn: event channels for user processes.

Contents: binding, notification, the ring of delivered ports, restriction. Not here: the channels
themselves (impl/xen/events.py), and other references to a port (kernel.py). Source: Linux drivers/xen/evtchn.c.
"""

from __future__ import annotations

from typing import Final

from bulkhead.impl.dom0.areas import Vma
from bulkhead.impl.dom0.kernel import Kernel, KernelError
from bulkhead.impl.xen import abi
from bulkhead.impl.xen.hypercall_evtchn import DOMID_PORT, THREE, TWO_DOMIDS

UNRESTRICTED: Final = 0xFFFF
ENOTCONN: Final = 107
EFBIG: Final = 27
NR_CHANNELS: Final = 4095  # port numbers from here on are refused before they are looked up
FIRST_RING: Final = 64  # initial size of the ring, in ports; it doubles when more are bound
MOST_BYTES: Final = 4096  # of one read or write
POLLIN: Final = 0x41  # EPOLLIN | EPOLLRDNORM
POLLOUT: Final = 0x104  # EPOLLOUT | EPOLLWRNORM
POLLERR: Final = 0x8


class Evtchn:
    """One open file and its ports (True while enabled: a delivered port stays disabled until it is written back).

    `ring` holds the delivered, unread port numbers. A number stays in it when its port is unbound.
    """

    __slots__ = ("kernel", "overflow", "ports", "restricted", "ring", "ring_size")

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.ports: dict[int, bool] = {}
        self.ring: list[int] = []
        self.ring_size = 0
        self.overflow = False
        self.restricted = UNRESTRICTED

    def _own(self, port: int) -> int:
        self.ports[port] = True
        if len(self.ports) > self.ring_size:
            self.ring_size = 2 * self.ring_size or FIRST_RING
        self.kernel.bind_port(port, self)
        return port

    def unrestricted(self) -> None:
        """Refuse an operation of a restricted file: EACCES, before any argument is read."""
        if self.restricted != UNRESTRICTED:
            raise KernelError(abi.EACCES)

    def bind_virq(self, virq: int) -> int:
        """A port for a virtual interrupt of vCPU 0; EACCES when restricted."""
        self.unrestricted()
        rc, raw = self.kernel.evtchn_op(abi.EVTCHNOP_BIND_VIRQ, THREE.pack(virq, 0, 0))
        if rc:
            raise KernelError(-rc)
        return self._own(THREE.unpack(raw)[2])

    def bind_interdomain(self, domid: int, port: int) -> int:
        """Bind to another domain's unbound port; EACCES for a domain that the file is not restricted to.

        All 32 bits of the given number are compared.
        """
        if self.restricted not in (UNRESTRICTED, domid):
            raise KernelError(abi.EACCES)
        rc, raw = self.kernel.evtchn_op(abi.EVTCHNOP_BIND_INTERDOMAIN, DOMID_PORT.pack(domid & 0xFFFF, 0, port, 0))
        if rc:
            raise KernelError(-rc)
        return self._own(DOMID_PORT.unpack(raw)[3])

    def bind_unbound_port(self, domid: int) -> int:
        """A port waiting for another domain; EACCES when restricted, whichever domain it is for."""
        self.unrestricted()
        rc, raw = self.kernel.evtchn_op(abi.EVTCHNOP_ALLOC_UNBOUND, TWO_DOMIDS.pack(abi.DOMID_SELF, domid & 0xFFFF, 0))
        if rc:
            raise KernelError(-rc)
        return self._own(TWO_DOMIDS.unpack(raw)[2])

    def unbind(self, port: int) -> None:
        """Unbind a port of this file; EINVAL from NR_CHANNELS on, ENOTCONN for a port of another file."""
        if port >= NR_CHANNELS:
            raise KernelError(abi.EINVAL)
        if port not in self.ports:
            raise KernelError(ENOTCONN)
        self.kernel.upcall()
        del self.ports[port]
        self.kernel.unbind_port(port)

    def notify(self, port: int) -> None:
        """Signal the other end; ENOTCONN for a port that is not this file's."""
        if port not in self.ports:
            raise KernelError(ENOTCONN)
        self.kernel.evtchn_op(abi.EVTCHNOP_SEND, abi.U32.pack(port))

    def restrict(self, domid: int) -> None:
        """Limit the file to one peer, once: EACCES the second time, EINVAL for Dom0 and for reserved numbers."""
        self.unrestricted()
        if domid == 0 or domid >= abi.DOMID_FIRST_RESERVED:
            raise KernelError(abi.EINVAL)
        self.restricted = domid

    def reset(self) -> None:
        """RESET: empty the ring and clear an overflow. Delivered ports stay disabled."""
        self.kernel.upcall()
        self.ring.clear()
        self.overflow = False

    def interrupt(self, port: int) -> bool:
        """Put a pending port into the ring and disable it; a full ring records an overflow."""
        if not self.ports[port]:
            return False
        self.ports[port] = False
        if len(self.ring) < self.ring_size:
            self.ring.append(port)
        else:
            self.overflow = True
        return True

    def peek(self, nbytes: int) -> list[int]:
        """The ports for a read of so many bytes, oldest first; EAGAIN if there is none, EFBIG after an overflow."""
        count = min(nbytes, MOST_BYTES) // 4
        if not count:
            return []
        self.kernel.upcall()
        if self.overflow:
            raise KernelError(EFBIG)
        if not self.ring:
            raise KernelError(abi.EAGAIN)
        return self.ring[:count]

    def poll(self) -> int:
        """The events of poll(): readable if a port was delivered, always writable; an error after an overflow."""
        self.kernel.upcall()
        if self.overflow:
            return POLLERR
        return POLLOUT | (POLLIN if self.ring else 0)

    def write(self, ports: list[int]) -> None:
        """Enable ports again after handling; what came before is delivered first, and disables its port."""
        self.kernel.upcall()
        for number in ports:
            if number in self.ports:
                self.ports[number] = True
        self.kernel.upcall()  # what came meanwhile is delivered at once: before a later event, and before a later write

    def mmap(self, vma: Vma, offset: int) -> None:
        """The device cannot be mapped."""
        raise KernelError(abi.ENODEV)

    def vma_open(self, vma: Vma) -> None:
        """Never mapped."""

    def vma_close(self, vma: Vma) -> None:
        """Never mapped."""

    def invalidate(self, vma: Vma, start: int, npages: int) -> None:
        """Never mapped."""

    def area(self) -> None:
        """The device cannot be mapped."""

    def release(self) -> None:
        """Unbind every port of the file."""
        for port in list(self.ports):
            del self.ports[port]
            self.kernel.unbind_port(port)
