"""Every answer of the policies without labels: separation by SILO, and permissions of each privilege level.

Protects: tests with allowed guests do not notice a hook that always allows, so both answers of each hook are tested.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from bulkhead.impl.xen.abi import EPERM, ESRCH
from bulkhead.impl.xen.domains import Domain
from bulkhead.impl.xen.lifecycle import create_domain
from bulkhead.impl.xen.machine import Xen
from bulkhead.impl.xen.xsm import DummyPolicy, SiloPolicy


@dataclass
class Who:
    """Dom0, two guests, a device model of the first guest, and a XenStore domain."""

    dom0: Domain
    a: Domain
    b: Domain
    model: Domain
    store: Domain


@pytest.fixture
def who() -> Who:
    xen = Xen(nframes=4096, reserved=16)
    made = [create_domain(xen) for _ in range(4)]
    a, b, model, store = [each for each in made if isinstance(each, Domain)]
    model.target = a
    store.is_xenstore = True
    return Who(xen.create_dom0(), a, b, model, store)


def test_silo_keeps_guests_apart_by_every_way(who: Who) -> None:
    silo = SiloPolicy()
    for hook in (lambda x, y: silo.grant_map(x, y, 0), silo.grant_transfer, silo.evtchn_interdomain):
        assert hook(who.a, who.b) == hook(who.b, who.a) == -EPERM
        assert hook(who.a, who.a) == hook(who.a, who.dom0) == hook(who.dom0, who.a) == 0


def test_silo_judges_a_copy_by_all_three(who: Who) -> None:
    """A guest's copy goes neither from nor to another guest; Dom0 may copy between guests."""
    silo = SiloPolicy()
    assert silo.grant_copy(who.a, who.b, who.a) == silo.grant_copy(who.a, who.a, who.b) == -EPERM
    assert silo.grant_copy(who.a, who.a, who.a) == silo.grant_copy(who.a, who.dom0, who.a) == 0
    assert silo.grant_copy(who.dom0, who.a, who.b) == 0


def test_silo_and_ports(who: Who) -> None:
    """A port for an unknown domain is refused; for another guest by SILO; in another's table by the privilege level."""
    silo = SiloPolicy()
    assert silo.evtchn_unbound(who.a, who.a, None) == -ESRCH
    assert silo.evtchn_unbound(who.a, who.a, who.b) == -EPERM
    assert silo.evtchn_unbound(who.a, who.a, who.dom0) == silo.evtchn_unbound(who.dom0, who.a, who.b) == 0
    assert silo.evtchn_unbound(who.a, who.dom0, who.a) == -EPERM  # not its own table
    assert DummyPolicy().evtchn_unbound(who.a, who.b, who.a) == -EPERM
    assert DummyPolicy().evtchn_unbound(who.a, who.a, None) == 0


def test_silo_lets_go_of_what_is_mapped(who: Who) -> None:
    assert SiloPolicy().grant_unmap(who.a, who.b) == 0


def test_levels_of_privilege(who: Who) -> None:
    """A domain itself passes only XSM_TARGET; a device model only for its guest; XenStore's domain only for its queries."""
    policy = DummyPolicy()

    def allowed(hook: str, src: Domain, dst: Domain) -> bool:
        answer: int = getattr(policy, hook)("hook", src, dst)
        return answer == 0

    asks = {
        "target": (True, False, True, False, False, True),
        "dm_priv": (False, False, True, False, False, True),
        "xs_priv": (False, False, True, False, True, True),
    }
    pairs = ((who.a, who.a), (who.a, who.b), (who.model, who.a), (who.model, who.b), (who.store, who.b), (who.dom0, who.b))
    for hook, answers in asks.items():
        assert tuple(allowed(hook, src, dst) for src, dst in pairs) == answers, hook
    assert [policy.priv("hook", src) for src in (who.dom0, who.a, who.model, who.store)] == [0, -EPERM, -EPERM, -EPERM]
