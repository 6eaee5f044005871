"""Each operation asks its hook of the policy, about the right two domains, before it does anything.

Protects: a hook that is not asked, or about the wrong domain, is not noticed with a policy that lets the caller do
everything. A refusal is an operation's answer (or the status of an element), and changes nothing. Sources: Xen
include/xsm/xsm.h and the callers of its hooks; for FLASK tools/flask/policy/modules (dom0.te, domU.te, xen.if).
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bulkhead.impl.dom0.kernel import KernelError
from bulkhead.impl.dom0.privcmd import Privcmd
from bulkhead.impl.xen import abi
from bulkhead.impl.xen.domains import Domain
from bulkhead.impl.xen.flask import CREATOR, SELF, FlaskPolicy
from bulkhead.impl.xen.guest_access import read, write
from bulkhead.impl.xen.hypercall_evtchn import DOMID_PORT, TWO_DOMIDS
from bulkhead.impl.xen.lifecycle import create_domain
from bulkhead.impl.xen.machine import Xen
from bulkhead.impl.xen.xsm import DummyPolicy
from bulkhead.proofs.replay.rig import Rig
from tests.impl.support import agent, grant, machine, map_ref, unmap

NO = -abi.EACCES  # what no operation answers by itself


class Refusing(DummyPolicy):
    """The default policy, but one hook refuses, and all questions are noted."""

    def __init__(self, hook: str) -> None:
        self.hook = hook
        self.asked: list[tuple[str, tuple[int, ...]]] = []

    def _note(self, hook: str, rc: int, *domains: Domain | None) -> int:
        self.asked.append((hook, tuple(-1 if d is None else d.domid for d in domains)))
        return NO if hook == self.hook else rc

    def target(self, hook: str, src: Domain, dst: Domain) -> int:
        return self._note(hook, super().target(hook, src, dst), src, dst)

    def dm_priv(self, hook: str, src: Domain, dst: Domain) -> int:
        return self._note(hook, super().dm_priv(hook, src, dst), src, dst)

    def xs_priv(self, hook: str, src: Domain, dst: Domain) -> int:
        return self._note(hook, super().xs_priv(hook, src, dst), src, dst)

    def priv(self, hook: str, src: Domain) -> int:
        return self._note(hook, super().priv(hook, src), src)

    def grant_map(self, src: Domain, dst: Domain, flags: int) -> int:
        return self._note("grant_map", 0, src, dst)

    def grant_unmap(self, src: Domain, dst: Domain) -> int:
        return self._note("grant_unmap", 0, src, dst)

    def grant_transfer(self, src: Domain, dst: Domain) -> int:
        return self._note("grant_transfer", 0, src, dst)

    def grant_copy(self, current: Domain, src: Domain, dst: Domain) -> int:
        return self._note("grant_copy", 0, current, src, dst)

    def evtchn_unbound(self, current: Domain, dom: Domain, remote: Domain | None) -> int:
        return self._note("evtchn_unbound", 0, current, dom, remote)

    def evtchn_interdomain(self, src: Domain, dst: Domain) -> int:
        return self._note("evtchn_interdomain", 0, src, dst)


def call(rig: Rig, by: str, number: int, payload: bytes, *registers: int) -> int:
    """A hypercall; a register of -1 is the address of its argument."""
    vcpu, at = (rig.kernel.vcpu, rig.kernel.arg_va) if by == "d0" else (agent(rig, by).vcpu, agent(rig, by).arg)
    assert write(rig.xen, vcpu, at, payload.ljust(256, b"\0"))
    return rig.xen.call(vcpu, number, *(at if each == -1 else each for each in registers))


def status(rig: Rig, by: str, cmd: int, payload: bytes, at: int) -> int:
    """The status of a grant operation."""
    _, out = rig.grant_op(by, cmd, payload)
    told: int = abi.STATUS.unpack_from(out, at)[0]
    return told


def domctl(rig: Rig, by: str, cmd: int, domid: int, body: bytes = b"") -> int:
    header = abi.DOMCTL_HEADER.pack(cmd, abi.DOMCTL_INTERFACE_VERSION, domid, 0, 0, 0)
    return call(rig, by, abi.HYPERVISOR_DOMCTL, header + body, -1)


def reservation(rig: Rig, op: int) -> int:
    at, b = rig.kernel.arg_va, rig.domid("B")
    body = abi.MEMORY_RESERVATION.pack(at + 128, 1, 0, 0, b, 0, 0).ljust(128, b"\0") + abi.U64.pack(0x500)
    return call(rig, "d0", abi.HYPERVISOR_MEMORY_OP, body, op, -1)


def exchange(rig: Rig) -> int:
    at, b = rig.kernel.arg_va, rig.domid("B")
    one = abi.MEMORY_RESERVATION.pack(at + 128, 1, 0, 0, b, 0, 0)
    body = (one + one + bytes(8)).ljust(128, b"\0") + abi.U64.pack(rig.mfn("B/9"))
    return call(rig, "d0", abi.HYPERVISOR_MEMORY_OP, body, abi.XENMEM_EXCHANGE, -1)


def memory(rig: Rig, op: int, body: bytes) -> int:
    return call(rig, "d0", abi.HYPERVISOR_MEMORY_OP, body, op, -1)


def events(rig: Rig, by: str, cmd: int, body: bytes) -> int:
    return call(rig, by, abi.HYPERVISOR_EVENT_CHANNEL_OP, body, cmd, -1)


def two(rig: Rig, name: str) -> bytes:
    return abi.U16.pack(rig.domid(name)).ljust(64, b"\0")


DENIED = abi.GNTST_PERMISSION_DENIED
# Hook, the domains it is asked about, the answer, and the call. H is a translated guest.
ASKS: dict[str, tuple[str, int, Callable[[Rig], int]]] = {
    "grant_map": ("BA", DENIED, lambda r: map_ref(r, "B", "A", 8, 0)[0]),
    "grant_copy": (
        "BAB",
        DENIED,
        lambda r: status(r, "B", 5, abi.COPY.pack(8, r.domid("A"), 0, 0, r.mfn("B/3"), 0x7FF0, 0, 0, 8, 1, 99, 0), 36),
    ),
    "grant_setup": (
        "dB",
        DENIED,
        lambda r: status(r, "d0", 2, abi.SETUP_TABLE.pack(r.domid("B"), 0, 1, 99, 0, 0, r.kernel.arg_va + 512), 8),
    ),
    "grant_query_size": ("dB", DENIED, lambda r: status(r, "d0", 6, abi.QUERY_SIZE.pack(r.domid("B"), 0, 0, 0, 99, 0), 12)),
    "memory_adjust_reservation": ("dB", 0, lambda r: reservation(r, abi.XENMEM_POPULATE_PHYSMAP)),
    "memory_exchange": ("dB", NO, exchange),
    "memory_stat_reservation": ("dB", NO, lambda r: memory(r, abi.XENMEM_CURRENT_RESERVATION, two(r, "B"))),
    "add_to_physmap": (
        "dH",
        NO,
        lambda r: memory(r, abi.XENMEM_ADD_TO_PHYSMAP, abi.ADD_TO_PHYSMAP.pack(r.domid("H"), 0, 2, 3, 0x70)),
    ),
    "remove_from_physmap": (
        "dH",
        NO,
        lambda r: memory(r, abi.XENMEM_REMOVE_FROM_PHYSMAP, abi.REMOVE_FROM_PHYSMAP.pack(r.domid("H"), 3)),
    ),
    "domain_memory_map": ("dB", NO, lambda r: memory(r, abi.XENMEM_SET_MEMORY_MAP, two(r, "B"))),
    "get_vnumainfo": ("dB", NO, lambda r: memory(r, abi.XENMEM_GET_VNUMAINFO, two(r, "B"))),
    "pod_target": ("d", NO, lambda r: memory(r, abi.XENMEM_GET_POD_TARGET, bytes(32) + two(r, "H"))),
    "claim_pages": (
        "d",
        NO,
        lambda r: memory(r, abi.XENMEM_CLAIM_PAGES, abi.MEMORY_RESERVATION.pack(0, 0, 0, 0, r.domid("B"), 0, 0)),
    ),
    "machine_memory_map": ("d", NO, lambda r: memory(r, abi.XENMEM_MACHINE_MEMORY_MAP, bytes(64))),
    "domain_resource_map": (
        "dB",
        NO,
        lambda r: memory(r, abi.XENMEM_ACQUIRE_RESOURCE, abi.ACQUIRE_RESOURCE.pack(r.domid("B"), 1, 0, 0, 0, 0, 0)),
    ),
    "mmu_update": (
        "dB",
        NO,
        lambda r: r.kernel.mmu_update(r.kernel.layout.window_maddr(0), r.mfn("B/3") << 12 | 0x65, r.domid("B")),
    ),
    "update_va_mapping": (
        "dB",
        NO,
        lambda r: r.xen.call(r.kernel.vcpu, 22, r.kernel.layout.window_va(0), 0, 0, r.domid("B")),
    ),
    "mmuext_op": ("dB", NO, lambda r: r.kernel.mmuext(abi.MMUEXT_CLEAR_PAGE, r.mfn("B/9"), 0, r.domid("B"))),
    "evtchn_unbound": ("AAB", NO, lambda r: events(r, "A", 6, TWO_DOMIDS.pack(0x7FF0, r.domid("B"), 0))),
    "evtchn_interdomain": ("BA", NO, lambda r: events(r, "B", 0, DOMID_PORT.pack(r.domid("A"), 0, waiting(r), 0))),
    "evtchn_status": ("dB", NO, lambda r: events(r, "d0", 5, two(r, "B"))),
    "evtchn_reset": ("dB", NO, lambda r: events(r, "d0", 10, two(r, "B"))),
    "domctl": ("d", NO, lambda r: domctl(r, "d0", abi.DOMCTL_PAUSEDOMAIN, r.domid("B"))),
    "getdomaininfo": ("dB", NO, lambda r: domctl(r, "d0", abi.DOMCTL_GETDOMAININFO, r.domid("B"))),
    "set_target": ("d", NO, lambda r: domctl(r, "d0", abi.DOMCTL_SET_TARGET, r.domid("B"), two(r, "H"))),
}


def waiting(rig: Rig) -> int:
    """A port of A that waits for B."""
    number = agent(rig, "A").domain.events.alloc_unbound(rig.domid("B"))
    assert number > 0
    return number


@pytest.fixture
def rig() -> Rig:
    made = machine("A", "B")
    assert made.make_translated("H") > 0
    grant(made, "A", 8, "B", 3)
    return made


def state(rig: Rig) -> list[object]:
    """Everything that an operation could have changed, except open ports that wait."""
    frames = [(f.mfn, f.owner, f.count, f.tcount, f.m2p, f.pinned) for f in rig.xen.frames.table.values() if f.count]
    domains = [(d.domid, d.tot_pages, d.pause_count, d.target, d.refs, d.e820) for d in rig.xen.domains.values()]
    return [frames, domains, bytes(agent(rig, "A").domain.grant_table.shared[0].bytes())]


@pytest.mark.parametrize("hook", ASKS)
def test_a_hook_is_asked_and_its_refusal_is_the_answer(rig: Rig, hook: str) -> None:
    who, answer, ask = ASKS[hook]
    rig.xen.xsm = policy = Refusing(hook)
    before = state(rig)
    assert ask(rig) == answer
    about = tuple(0 if name == "d" else rig.domid(name) for name in who)
    assert (hook, about) in policy.asked and state(rig) == before
    policy.hook = ""
    assert ask(rig) != answer  # it was the hook that refused


def test_what_is_mapped_and_given(rig: Rig) -> None:
    rig.xen.xsm = policy = Refusing("grant_unmap")
    granted, handle = map_ref(rig, "B", "A", 8, 0)
    assert granted == 0 and unmap(rig, "B", handle, 0) == DENIED
    policy.hook = "grant_transfer"
    assert unmap(rig, "B", handle, 0) == 0
    b = agent(rig, "B")
    assert rig.xen.call(b.vcpu, abi.HYPERVISOR_UPDATE_VA_MAPPING, b.layout.va(5), 0, 2) == 0
    frame = rig.page("B/5")
    assert status(rig, "B", 4, abi.TRANSFER.pack(rig.mfn("B/5"), rig.domid("A"), 0, 8, 99, 0, 0), 16) == DENIED
    assert ("grant_transfer", (rig.domid("B"), rig.domid("A"))) in policy.asked
    assert frame is not None and frame.owner is None  # once stolen, a page that is not taken is lost


def test_the_owner_of_tables_is_asked_about_too(rig: Rig) -> None:
    """mmu_update names two domains: whose frames, and whose tables."""
    rig.xen.xsm = policy = Refusing("")
    a, b = rig.domid("A"), rig.domid("B")
    rig.kernel.mmu_update(rig.mfn("A/9") << 12, 0, b | (a + 1) << 16)
    assert [about for hook, about in policy.asked if hook == "mmu_update"] == [(0, b), (0, a)]


def test_a_frame_of_a_third_domain(rig: Rig) -> None:
    """Dom0 names B as the owner of a frame that is A's: B, not Dom0, must be privileged over A."""
    rig.xen.xsm = policy = Refusing("")
    pte, at = rig.mfn("A/3") << 12 | 0x65, rig.kernel.layout.window_maddr(0)
    assert rig.kernel.mmu_update(at, pte, rig.domid("B")) == -abi.EBUSY
    assert ("priv_mapping", (rig.domid("B"), rig.domid("A"))) in policy.asked
    agent(rig, "B").domain.target = agent(rig, "A").domain
    assert rig.kernel.mmu_update(at, pte, rig.domid("B")) == 0
    policy.hook = "priv_mapping"
    assert rig.kernel.mmu_update(at, rig.mfn("A/4") << 12 | 0x65, rig.domid("B")) == -abi.EBUSY


def test_a_resource_that_may_be_named_and_not_mapped(rig: Rig) -> None:
    """MMAP_RESOURCE: Xen tells the frames, and refuses the entries. The process learns Xen's error."""
    device, space = Privcmd(rig.kernel), rig.process.space
    fd = rig.process.open(device)
    rig.process.mmap(0x300000, 1, 3, 1, fd, 0)
    rig.xen.xsm = Refusing("mmu_update")
    with pytest.raises(KernelError) as refused:
        device.mmap_resource(space, rig.domid("B"), 1, 0, 0, 0x300000 << 12, 1)
    assert refused.value.code == abi.EACCES and space.pte(0x300000) == 0
    rig.xen.xsm = DummyPolicy()
    device.mmap_resource(space, rig.domid("B"), 1, 0, 0, 0x300000 << 12, 1)
    assert read(rig.xen, rig.kernel.vcpu, rig.kernel.arg_va, 1) is not None and space.pte(0x300000)


def test_flask_gives_what_its_modules_say() -> None:
    """Dom0 has what creating and migrating guests needs; a guest what declare_domain gives it; nobody has the rest."""
    xen = Xen(nframes=4096, reserved=16)
    dom0 = xen.create_dom0()
    one, two_, isolated = (create_domain(xen, ssidref=label) for label in (1, 0, 2))
    assert isinstance(one, Domain) and isinstance(two_, Domain) and isinstance(isolated, Domain)
    policy = FlaskPolicy()
    assert [policy.type_of(d) for d in (dom0, one, two_, isolated)] == ["dom0_t", "domU_t", "domU_t", "isolated_domU_t"]
    one.is_xenstore = True
    for hook in sorted(SELF | CREATOR | {"memory_exchange", "unknown"}):
        assert policy.target(hook, one, one) == (0 if hook in SELF else -abi.EACCES)
        assert policy.target(hook, dom0, one) == policy.dm_priv(hook, dom0, one) == (0 if hook in CREATOR else -abi.EACCES)
        assert (
            policy.target(hook, one, two_)
            == policy.target(hook, one, dom0)
            == policy.dm_priv(hook, one, two_)
            == -abi.EACCES
        )
    assert [policy.xs_priv("getdomaininfo", d, two_) for d in (dom0, one, two_)] == [0, 0, -abi.EACCES]
    assert [policy.priv("domctl", d) for d in (dom0, one, two_)] == [0, -abi.EACCES, -abi.EACCES]
    pairs = ((one, two_), (one, one), (one, dom0), (dom0, one), (isolated, isolated), (isolated, dom0), (dom0, dom0))
    for src, dst in pairs:
        assert policy.grant_map(src, dst, 0) == policy.grant_unmap(src, dst) == policy.evtchn_interdomain(src, dst) == 0
        assert policy.grant_copy(isolated, src, dst) == policy.evtchn_unbound(dom0, src, dst) == 0
    for src, dst in ((one, isolated), (isolated, two_)):
        assert (
            policy.grant_map(src, dst, 0) == policy.grant_unmap(src, dst) == policy.grant_copy(dom0, src, dst) == -abi.EACCES
        )
        assert policy.evtchn_interdomain(src, dst) == policy.evtchn_unbound(src, src, dst) == -abi.EACCES
    assert policy.evtchn_unbound(one, two_, one) == -abi.EACCES and policy.evtchn_unbound(one, one, two_) == 0
    assert policy.evtchn_unbound(one, one, None) == policy.evtchn_unbound(dom0, one, None) == -abi.ESRCH
    assert policy.grant_transfer(one, one) == policy.grant_transfer(dom0, one) == -abi.EACCES
