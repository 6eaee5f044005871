"""FLASK's example policy: separated domains, permissions that nobody has, and that it is checked first."""

from __future__ import annotations

import pytest

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.flask import FlaskPolicy
from bulkhead.proofs.replay.rig import Rig
from tests.impl.support import grant, map_ref, unmap


@pytest.fixture
def rig() -> Rig:
    """A and B are domU_t, C is isolated_domU_t."""
    made = Rig(profile="flask")
    for name in "ABC":
        assert made.make(name) > 0
        made.fill(name)
    return made


def copy(rig: Rig, by: str, source: tuple[str, int], dest: tuple[str, int]) -> int:
    """Copy 8 bytes between two grants; the status."""
    arg = abi.COPY.pack(source[1], rig.domid(source[0]), 0, 0, dest[1], rig.domid(dest[0]), 0, 0, 8, 3, 99, 0)
    status: int = abi.STATUS.unpack_from(rig.grant_op(by, abi.GNTTABOP_COPY, arg)[1], 36)[0]
    return status


def test_isolated_guests_share_with_dom0_and_themselves_only(rig: Rig) -> None:
    for ref, (owner, user) in enumerate([("A", "B"), ("A", "C"), ("C", "A"), ("C", "C"), ("B", "B"), ("C", "d0")], 8):
        grant(rig, owner, ref, user, 3)
    assert map_ref(rig, "B", "A", 8, 0)[0] == abi.GNTST_OKAY
    assert map_ref(rig, "C", "A", 9, 0)[0] == abi.GNTST_PERMISSION_DENIED
    assert map_ref(rig, "A", "C", 10, 1)[0] == abi.GNTST_PERMISSION_DENIED
    assert map_ref(rig, "C", "C", 11, 1)[0] == abi.GNTST_OKAY
    assert map_ref(rig, "B", "B", 12, 1)[0] == abi.GNTST_OKAY
    assert map_ref(rig, "d0", "C", 13, 0, 1)[0] == abi.GNTST_OKAY


def test_the_policy_comes_before_the_reference(rig: Rig) -> None:
    assert map_ref(rig, "C", "A", 100_000, 0)[0] == abi.GNTST_PERMISSION_DENIED
    assert map_ref(rig, "B", "A", 100_000, 0)[0] == abi.GNTST_BAD_GNTREF


def test_a_copy_is_between_the_two_who_own_the_data(rig: Rig) -> None:
    """The caller does not matter: B may not copy data from A to C, although B may share with A."""
    grant(rig, "A", 8, "B", 3)
    grant(rig, "C", 8, "B", 3)
    assert copy(rig, "B", ("A", 8), ("C", 8)) == abi.GNTST_PERMISSION_DENIED
    grant(rig, "A", 9, "C", 3)
    grant(rig, "A", 10, "C", 4)
    assert copy(rig, "C", ("A", 9), ("A", 10)) == abi.GNTST_OKAY


def test_no_rule_gives_transfers_and_none_lets_guests_map_each_other(rig: Rig) -> None:
    a, b = rig.agents["A"], rig.agents["B"]
    rig.xen.call(a.vcpu, abi.HYPERVISOR_UPDATE_VA_MAPPING, a.layout.va(5), 0, 2)
    arg = abi.TRANSFER.pack(rig.mfn("A/5"), rig.domid("B"), 0, 8, 99, 0, 0)
    assert abi.STATUS.unpack_from(rig.grant_op("A", 4, arg)[1], 16)[0] == abi.GNTST_PERMISSION_DENIED
    pte = rig.mfn("B/3") << 12 | 0x27
    assert rig.mmu_update("A", a.layout.window_maddr(0), pte, b.domain.domid) == -abi.EACCES
    assert rig.kernel.mmu_update(rig.kernel.layout.window_maddr(0), pte, b.domain.domid) == 0


def test_relabelled_guests_keep_what_they_map_and_cannot_let_go(rig: Rig) -> None:
    grant(rig, "A", 8, "B", 3)
    _, handle = map_ref(rig, "B", "A", 8, 0)
    rig.agents["B"].domain.ssidref = FlaskPolicy().types.index("isolated_domU_t") + 1
    assert unmap(rig, "B", handle, 0) == abi.GNTST_PERMISSION_DENIED
    assert rig.agents["B"].access(rig.agents["B"].layout.window_va(0), False)[0] is rig.page("A/3")
