"""Event channels: ports of each domain, their states, pending bits.

Contents: the ABI's operations once decoded; the words of a vcpu_info that tell a vCPU of its events. Not here: the
upcall itself (a guest looks at its pending set), and the pending bits of shared_info. Source: Xen
common/event_channel.c, common/event_2l.c, public/event_channel.h.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

from bulkhead.impl.xen.abi import (
    DOMID_SELF,
    EEXIST,
    EINVAL,
    ENOENT,
    ENOSPC,
    EPERM,
    ESRCH,
    NR_VIRQS,
    PAGE_SIZE,
    PER_VCPU_VIRQS,
)

if TYPE_CHECKING:
    from bulkhead.impl.xen.domains import Domain, VCpu
    from bulkhead.impl.xen.machine import Xen

CLOSED: Final = 0
UNBOUND: Final = 1
INTERDOMAIN: Final = 2
PIRQ: Final = 3
VIRQ: Final = 4
IPI: Final = 5
MASKS: Final = 2560  # offset of the mask bits in shared_info, after 32 vcpu_info and the pending bits
IN_SHARED_INFO: Final = 32  # vCPUs whose vcpu_info is there until they register another place
VCPU_INFO_SIZE, SELECTOR_AT = 64, 8
SELECTOR: Final = Struct("<Q")
INTERRUPTS: Final = 56  # numbers of physical interrupts that a guest without devices has
BUCKET: Final = 64  # port records are allocated one page at a time


class Port:
    """One end of a channel."""

    __slots__ = ("came", "pending", "remote", "remote_domid", "remote_port", "state", "vcpu", "virq")

    def __init__(self) -> None:
        self.state = CLOSED
        self.remote: Domain | None = None
        self.remote_domid = 0
        self.remote_port = 0
        self.virq = 0
        self.vcpu = 0
        self.pending = False
        self.came = 0  # when it became pending: of the domain's events, the how many-th


class EventChannels:
    """The ports of one domain; port 0 is reserved. Ports below `valid`, open or not, have a record; it grows by buckets."""

    __slots__ = ("domain", "events", "ports", "valid")

    def __init__(self, domain: Domain) -> None:
        self.domain = domain
        self.ports: dict[int, Port] = {}
        self.valid = BUCKET
        self.events = 0  # so far

    def free_port(self) -> int:
        """The lowest port that is not open, with its record allocated; -EINVAL for a dying domain, or -ENOSPC."""
        if self.domain.is_dying:
            return -EINVAL
        for number in range(1, self.domain.max_evtchn_port + 1):
            if number not in self.ports:
                while number >= self.valid:
                    self.valid += BUCKET
                return number
        return -ENOSPC

    def is_valid(self, number: int) -> bool:
        """Does the port have a record (port_is_valid)? A port without one gives -EINVAL before any other check."""
        return 0 <= number < self.valid

    def get(self, number: int) -> Port | None:
        """The open port, or None."""
        return self.ports.get(number)

    def _open(self, state: int, *, remote_domid: int = 0, virq: int = 0, vcpu: int = 0) -> int:
        """The lowest free port in a state; its number or -errno."""
        number = self.free_port()
        if number > 0:
            port = self.ports[number] = Port()
            port.state, port.remote_domid, port.virq, port.vcpu = state, remote_domid, virq, vcpu
        return number

    def alloc_unbound(self, remote_domid: int) -> int:
        """A new port waiting for `remote_domid`; its number or -errno."""
        return self._open(UNBOUND, remote_domid=remote_domid)

    def bind_interdomain(self, remote: Domain, remote_port: int) -> int:
        """Bind to an unbound port that waits for this domain; the new port is pending at once. A port must be free."""
        number = self.free_port()
        other = remote.events.get(remote_port)
        if other is None or other.state != UNBOUND or other.remote_domid != self.domain.domid:
            return -EINVAL
        port = self.ports[number] = Port()
        port.state = other.state = INTERDOMAIN
        port.remote, port.remote_port = remote, remote_port
        other.remote, other.remote_port = self.domain, number
        self.raised(number)
        return number

    def bind_virq(self, virq: int, vcpu: int) -> int:
        """A port for a virtual interrupt: -EINVAL for none or a global one away from vCPU 0, -ENOENT, -EEXIST."""
        if virq >= NR_VIRQS or (virq not in PER_VCPU_VIRQS and vcpu):
            return -EINVAL
        if vcpu >= len(self.domain.vcpus):
            return -ENOENT
        if any(p.state == VIRQ and p.virq == virq and p.vcpu == vcpu for p in self.ports.values()):
            return -EEXIST
        return self._open(VIRQ, virq=virq, vcpu=vcpu)

    def bind_ipi(self, vcpu: int) -> int:
        """A port by which vCPUs of the domain signal one of them."""
        if vcpu >= len(self.domain.vcpus):
            return -ENOENT
        return self._open(IPI, vcpu=vcpu)

    def bind_pirq(self, pirq: int) -> int:
        """A port for an interrupt of a translated guest's, which nothing raises here: -EEXIST if it has one."""
        if any(p.state == PIRQ and p.virq == pirq for p in self.ports.values()):
            return -EEXIST
        return self._open(PIRQ, virq=pirq)

    def close(self, number: int) -> int:
        """Close a port; the peer of a bound pair becomes unbound, waiting for this domain again."""
        port = self.ports.get(number)
        if port is None:
            return -EINVAL
        if port.state == INTERDOMAIN and port.remote is not None:
            other = port.remote.events.get(port.remote_port)
            if other is not None:
                other.state = UNBOUND
                other.remote = None
                other.remote_domid = self.domain.domid
        del self.ports[number]
        return 0

    def send(self, number: int) -> int:
        """Signal the other end; on an unbound port this does nothing."""
        port = self.ports.get(number)
        if port is None:
            return -EINVAL
        if port.state == INTERDOMAIN and port.remote is not None:
            other = port.remote.events.get(port.remote_port)
            if other is not None:
                port.remote.events.raised(port.remote_port)
            return 0
        if port.state == IPI:
            self.raised(number)
            return 0
        return 0 if port.state == UNBOUND else -EINVAL

    def raise_virq(self, virq: int) -> None:
        """Set every port bound to the interrupt pending."""
        for number, port in self.ports.items():
            if port.state == VIRQ and port.virq == virq:
                self.raised(number)

    def raised(self, number: int) -> None:
        """An event: the port becomes pending; its vCPU is told, if it was not pending and is not masked."""
        port = self.ports[number]
        before, port.pending = port.pending, True
        if not before:
            self.events += 1
            port.came = self.events
        if not before and not self.is_masked(number):
            self._tell(number, port.vcpu)

    def unmasked(self, number: int) -> None:
        """By hypercall; an event that came meanwhile is told now. A port that is not open has a mask bit, too."""
        if not self.is_masked(number):
            return
        bits, byte = self._shared(), MASKS + number // 8
        bits[byte] &= ~(1 << number % 8)
        port = self.ports.get(number)
        if port is not None and port.pending:
            self._tell(number, port.vcpu)

    def is_masked(self, number: int) -> bool:
        """The guest sets this bit in its shared_info page by a store."""
        return bool(self._shared()[MASKS + number // 8] >> number % 8 & 1)

    def _shared(self) -> bytearray:
        return self.domain.shared_info.bytes() if self.domain.shared_info is not None else bytearray(PAGE_SIZE)

    def _tell(self, number: int, vcpu: int) -> None:
        """Set the word's bit in the selector of the vCPU; if that was not set, an upcall is pending."""
        if vcpu >= len(self.domain.vcpus):
            return  # of a domain that is not built yet
        which = self.domain.vcpus[vcpu]
        if which.info is not None:
            data, at = which.info.bytes(), which.info_offset
        elif vcpu < IN_SHARED_INFO:
            data, at = self._shared(), vcpu * VCPU_INFO_SIZE
        else:
            return  # until it registers a place, such a vCPU has none that it can see
        selector, bit = SELECTOR.unpack_from(data, at + SELECTOR_AT)[0], 1 << number // 64
        if not selector & bit:
            SELECTOR.pack_into(data, at + SELECTOR_AT, selector | bit)
            data[at] = 1

    def take_pending(self) -> list[int]:
        """Return and clear the unmasked pending ports, lowest first (as a guest's upcall handler does)."""
        found = [n for n, p in sorted(self.ports.items()) if p.pending and not self.is_masked(n)]
        for number in found:
            self.ports[number].pending = False
        return found

    def destroy(self) -> None:
        """Close everything (domain death)."""
        for number in list(self.ports):
            self.close(number)


def target_domain(xen: Xen, vcpu: VCpu, domid: int) -> Domain | None:
    """The domain that an operation names; SELF is the caller."""
    return vcpu.domain if domid == DOMID_SELF else xen.domains.get(domid)


def op_alloc_unbound(xen: Xen, vcpu: VCpu, domid: int, remote_domid: int) -> int:
    """EVTCHNOP_alloc_unbound: port number or -errno. A remote SELF means the caller, not `domid`."""
    domain = target_domain(xen, vcpu, domid)
    if domain is None:
        return -ESRCH
    number = domain.events.free_port()
    if number < 0:
        return number
    rc = xen.xsm.evtchn_unbound(vcpu.domain, domain, target_domain(xen, vcpu, remote_domid))
    if rc:
        return rc
    return domain.events.alloc_unbound(vcpu.domain.domid if remote_domid == DOMID_SELF else remote_domid)


def op_bind_interdomain(xen: Xen, vcpu: VCpu, remote_domid: int, remote_port: int) -> int:
    """EVTCHNOP_bind_interdomain: local port or -errno."""
    remote = target_domain(xen, vcpu, remote_domid)
    if remote is None:
        return -ESRCH
    number = vcpu.domain.events.free_port()
    if number < 0:
        return number
    other = remote.events.get(remote_port)
    if other is not None and other.state == UNBOUND and other.remote_domid == vcpu.domain.domid:
        rc = xen.xsm.evtchn_interdomain(vcpu.domain, remote)
        if rc:
            return rc
    return vcpu.domain.events.bind_interdomain(remote, remote_port)


def op_status(xen: Xen, vcpu: VCpu, domid: int, number: int) -> tuple[int, int, int, tuple[int, ...]]:
    """EVTCHNOP_status: (0 or -errno, state, vcpu, the words of the union that are valid in this state)."""
    domain = target_domain(xen, vcpu, domid)
    if domain is None:
        return -ESRCH, 0, 0, ()
    if not domain.events.is_valid(number):
        return -EINVAL, 0, 0, ()
    rc = xen.xsm.target("evtchn_status", vcpu.domain, domain)
    if rc:
        return rc, 0, 0, ()
    port = domain.events.get(number)
    if port is None:
        return 0, CLOSED, 0, ()
    if port.state == UNBOUND:
        return 0, UNBOUND, port.vcpu, (port.remote_domid,)
    if port.state == INTERDOMAIN and port.remote is not None:
        return 0, INTERDOMAIN, port.vcpu, (port.remote.domid, port.remote_port)
    return 0, port.state, port.vcpu, (port.virq,) if port.state in (PIRQ, VIRQ) else ()


def op_unmask(vcpu: VCpu, number: int) -> int:
    """EVTCHNOP_unmask: a pending event becomes deliverable. A port that is not open has a mask bit too."""
    if not vcpu.domain.events.is_valid(number):
        return -EINVAL
    vcpu.domain.events.unmasked(number)
    return 0


def op_bind_pirq(vcpu: VCpu, pirq: int) -> int:
    """EVTCHNOP_bind_pirq: no PV guest here has a physical interrupt of its own; a translated one is not asked for it."""
    if vcpu.domain.is_privileged or pirq >= INTERRUPTS:
        return -EINVAL
    return vcpu.domain.events.bind_pirq(pirq) if vcpu.domain.external else -EPERM


def op_bind_vcpu(vcpu: VCpu, number: int, vcpu_id: int) -> int:
    """EVTCHNOP_bind_vcpu: move notifications of a port; per-vCPU interrupts and IPIs stay (-EINVAL)."""
    if vcpu_id >= len(vcpu.domain.vcpus):
        return -ENOENT
    port = vcpu.domain.events.get(number)
    if port is None or port.state == IPI or (port.state == VIRQ and port.virq in PER_VCPU_VIRQS):
        return -EINVAL
    port.vcpu = vcpu_id
    return 0


def op_reset(xen: Xen, vcpu: VCpu, domid: int) -> int:
    """EVTCHNOP_reset: close all ports of the caller, or of a domain that its controller has paused."""
    domain = target_domain(xen, vcpu, domid)
    if domain is None:
        return -ESRCH
    rc = xen.xsm.target("evtchn_reset", vcpu.domain, domain)
    if rc:
        return rc
    if domain is not vcpu.domain and not domain.pause_count:
        return -EINVAL
    domain.events.destroy()
    return 0
