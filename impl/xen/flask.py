"""FLASK with Xen's example policy, as far as the hooks of this hypervisor use it.

A domain has a type, which its creator sets (ssidref). A permission that no rule grants is refused with -EACCES. Rules for
a type do not cover a domain's access to itself: that has a type of its own (`X_self`). The example policy lets nobody
transfer pages. Not here: users, roles and constraints, permissive mode, loading of policies, labels
of event channels. Sources: Xen xsm/flask/hooks.c; tools/flask/policy/modules (xen.if, dom0.te, domU.te, isolated_domU.te).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from bulkhead.impl.xen.abi import EACCES, ESRCH

if TYPE_CHECKING:
    from bulkhead.impl.xen.domains import Domain

DOM0: Final = "dom0_t"
# domain_comms and domain_self_comms: event channels, and grants to map, unmap and copy, both ways.
COMMS: Final = frozenset(
    {
        (DOM0, DOM0),
        (DOM0, "domU_t"),
        (DOM0, "isolated_domU_t"),
        ("domU_t", "domU_t"),
        ("domU_t", "domU_t_self"),
        ("isolated_domU_t", "isolated_domU_t_self"),
    }
)
# declare_domain: what a domain may do to itself. (We assume that status and reset of event channels are allowed with them.)
SELF: Final = frozenset(
    {
        "grant_setup",
        "grant_query_size",
        "memory_adjust_reservation",
        "memory_stat_reservation",
        "physmap",
        "mmu_update",
        "update_va_mapping",
        "mmuext_op",
        "evtchn_status",
        "evtchn_reset",
    }
)
# create_domain, migrate_domain_out: what Dom0 may do to a guest.
CREATOR: Final = frozenset(
    {
        "grant_setup",
        "memory_adjust_reservation",
        "memory_stat_reservation",
        "physmap",
        "map_gmfn_foreign",
        "mmu_update",
        "update_va_mapping",
        "mmuext_op",
        "domain_resource_map",
        "evtchn_status",
        "evtchn_reset",
    }
)


class FlaskPolicy:
    """The example policy, enforced. `types` are the types that an ssidref from 1 on stands for; without one it is domU_t."""

    def __init__(self, types: Sequence[str] = ("domU_t", "isolated_domU_t")) -> None:
        self.types = tuple(types)

    def type_of(self, domain: Domain) -> str:
        """The type of a domain: fixed for Dom0, from the ssidref for others."""
        if domain.domid == 0:
            return DOM0
        return self.types[domain.ssidref - 1] if 0 < domain.ssidref <= len(self.types) else "domU_t"

    def _comms(self, one: Domain, two: Domain) -> int:
        own, other = self.type_of(one), self.type_of(two)
        if one is two and own != DOM0:
            other = own + "_self"
        return 0 if (own, other) in COMMS or (other, own) in COMMS else -EACCES

    def target(self, hook: str, src: Domain, dst: Domain) -> int:
        """A domain's access to itself, or Dom0's to a guest."""
        rights = SELF if src is dst else CREATOR if self.type_of(src) == DOM0 else frozenset[str]()
        return 0 if hook in rights else -EACCES

    def dm_priv(self, hook: str, src: Domain, dst: Domain) -> int:
        """Dom0 only: this policy has no type for device models."""
        return 0 if self.type_of(src) == DOM0 and hook in CREATOR else -EACCES

    def xs_priv(self, hook: str, src: Domain, dst: Domain) -> int:
        """The xenstore domain or Dom0."""
        return 0 if src.is_xenstore or self.type_of(src) == DOM0 else -EACCES

    def priv(self, hook: str, src: Domain) -> int:
        """Dom0."""
        return 0 if self.type_of(src) == DOM0 else -EACCES

    def grant_map(self, src: Domain, dst: Domain, flags: int) -> int:
        """grant:map_read, and map_write unless read-only: the example policy grants both or neither."""
        return self._comms(src, dst)

    def grant_unmap(self, src: Domain, dst: Domain) -> int:
        """grant:unmap."""
        return self._comms(src, dst)

    def grant_transfer(self, src: Domain, dst: Domain) -> int:
        """grant:transfer."""
        return -EACCES

    def grant_copy(self, current: Domain, src: Domain, dst: Domain) -> int:
        """grant:copy from the domain of the source page to that of the destination page, whoever calls."""
        return self._comms(src, dst)

    def evtchn_unbound(self, current: Domain, dom: Domain, remote: Domain | None) -> int:
        """event:create by the caller, event:bind between the two ends."""
        if remote is None:
            return -ESRCH
        return self._comms(dom, remote) if current is dom or self.type_of(current) == DOM0 else -EACCES

    def evtchn_interdomain(self, src: Domain, dst: Domain) -> int:
        """event:bind."""
        return self._comms(src, dst)


__all__ = ["FlaskPolicy"]
