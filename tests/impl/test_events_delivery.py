"""Delivery of events: IPIs, virtual interrupts per vCPU and global, masks, and ports moved to other vCPUs.

Protects: an answer of 0 is not enough; here the event's bits are read.
"""

from __future__ import annotations

import pytest

from bulkhead.impl.xen.abi import EEXIST, EINVAL, ENOENT, VIRQ_DOM_EXC
from bulkhead.impl.xen.domains import Domain
from bulkhead.impl.xen.events import MASKS, SELECTOR_AT, op_bind_vcpu, op_status, op_unmask
from bulkhead.impl.xen.lifecycle import create_domain, destroy, set_max_vcpus
from bulkhead.impl.xen.machine import Xen

TIMER, CONSOLE = 0, 2  # VIRQ_TIMER is of one vCPU, VIRQ_CONSOLE of the domain


@pytest.fixture
def guest() -> Domain:
    xen = Xen(nframes=4096, reserved=16)
    xen.create_dom0()
    made = create_domain(xen, max_vcpus=2)
    assert isinstance(made, Domain) and set_max_vcpus(made, 2) == 0
    return made


def test_an_ipi_reaches_its_own_port_only(guest: Domain) -> None:
    first, second = guest.events.bind_ipi(0), guest.events.bind_ipi(1)
    assert 0 < first < second and guest.events.take_pending() == []
    assert guest.events.send(second) == 0
    assert guest.events.take_pending() == [second] and guest.events.take_pending() == []
    assert guest.events.bind_ipi(2) == -ENOENT


def test_a_virtual_interrupt_reaches_those_bound_to_it(guest: Domain) -> None:
    timers = [guest.events.bind_virq(TIMER, vcpu) for vcpu in (0, 1)]
    console = guest.events.bind_virq(CONSOLE, 0)
    assert guest.events.bind_virq(TIMER, 1) == -EEXIST and guest.events.bind_virq(CONSOLE, 1) == -EINVAL
    assert guest.events.bind_virq(TIMER, 2) == -ENOENT
    guest.events.raise_virq(CONSOLE)
    assert guest.events.take_pending() == [console]
    guest.events.raise_virq(TIMER)
    assert guest.events.take_pending() == timers
    assert guest.events.send(console) == -EINVAL  # nobody can send on a virtual interrupt


def test_dom0_is_told_of_each_part_of_a_domains_end(guest: Domain) -> None:
    """VIRQ_DOM_EXC: when it stops, when it is dead, and when it is gone; not between, and not to who did not ask."""
    xen = guest.xen
    dom0 = xen.domains[0].events
    port, other = dom0.bind_virq(VIRQ_DOM_EXC, 0), dom0.bind_virq(CONSOLE, 0)
    guest.stop(1)
    assert dom0.take_pending() == [port] and other not in dom0.take_pending()
    told = [(marker, dom0.take_pending()) for marker in destroy(xen, guest)]
    assert [marker for marker, ports in told if ports] == ["destroy.dead"] and len(told) > 2
    assert dom0.take_pending() == [port] and guest.domid not in xen.domains


def test_a_masked_event_waits(guest: Domain) -> None:
    port = guest.events.bind_ipi(0)
    shared = guest.shared_info.bytes() if guest.shared_info is not None else bytearray()
    shared[MASKS + port // 8] |= 1 << port % 8  # as the guest's kernel does
    guest.events.send(port)
    assert guest.events.take_pending() == [] and not shared[0] and not any(shared[SELECTOR_AT:16])
    assert op_unmask(guest.vcpus[0], port) == 0
    assert (shared[0], shared[SELECTOR_AT]) == (1, 1)
    assert guest.events.take_pending() == [port]


def test_ports_and_the_vcpus_they_are_of(guest: Domain) -> None:
    xen, vcpu = guest.xen, guest.vcpus[0]
    ipi, timer, console = guest.events.bind_ipi(1), guest.events.bind_virq(TIMER, 1), guest.events.bind_virq(CONSOLE, 0)

    def of(port: int) -> int:
        return op_status(xen, vcpu, guest.domid, port)[2]

    assert [of(port) for port in (ipi, timer, console)] == [1, 1, 0]
    assert op_bind_vcpu(vcpu, console, 1) == 0 and of(console) == 1
    assert op_bind_vcpu(vcpu, console, 2) == -ENOENT and of(console) == 1
    for port in (ipi, timer, 99):
        assert op_bind_vcpu(vcpu, port, 0) == -EINVAL
    assert [of(port) for port in (ipi, timer)] == [1, 1]


def test_closing_one_port_leaves_the_events_of_others(guest: Domain) -> None:
    one, two = guest.events.bind_ipi(0), guest.events.bind_ipi(0)
    guest.events.send(one)
    guest.events.send(two)
    assert guest.events.close(one) == 0
    assert guest.events.take_pending() == [two] and guest.events.send(one) == -EINVAL
