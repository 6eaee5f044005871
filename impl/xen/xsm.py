"""Security hooks: the default (dummy) policy and the SILO variation.

Each hook returns 0 or a negative errno. Not here: when a hook is called, and FLASK (flask.py).
Sources: Xen include/xsm/dummy.h (xsm_default_action and the hooks), xsm/silo.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from bulkhead.impl.xen.abi import EPERM

if TYPE_CHECKING:
    from bulkhead.impl.xen.domains import Domain


class Policy(Protocol):
    """The hooks of a security module; each returns 0 or -errno."""

    def target(self, hook: str, src: Domain, dst: Domain) -> int:
        """Hooks of level XSM_TARGET."""

    def dm_priv(self, hook: str, src: Domain, dst: Domain) -> int:
        """Hooks of level XSM_DM_PRIV."""

    def xs_priv(self, hook: str, src: Domain, dst: Domain) -> int:
        """Hooks of level XSM_XS_PRIV."""

    def priv(self, hook: str, src: Domain) -> int:
        """Hooks of level XSM_PRIV."""

    def grant_map(self, src: Domain, dst: Domain, flags: int) -> int:
        """May src map a grant of dst?"""

    def grant_unmap(self, src: Domain, dst: Domain) -> int:
        """May src unmap a grant of dst?"""

    def grant_transfer(self, src: Domain, dst: Domain) -> int:
        """May src give a page to dst?"""

    def grant_copy(self, current: Domain, src: Domain, dst: Domain) -> int:
        """May current copy data from src's page to dst's page?"""

    def evtchn_unbound(self, current: Domain, dom: Domain, remote: Domain | None) -> int:
        """May a port of dom be opened for remote?"""

    def evtchn_interdomain(self, src: Domain, dst: Domain) -> int:
        """May src bind to an unbound port of dst?"""


class DummyPolicy:
    """The policy without a security module: privilege levels only; grant entries decide about grants."""

    def target(self, hook: str, src: Domain, dst: Domain) -> int:
        """Self, device model of the target, or a control domain."""
        return 0 if src is dst or src.target is dst or src.is_privileged else -EPERM

    def dm_priv(self, hook: str, src: Domain, dst: Domain) -> int:
        """Device model of the target, or a control domain."""
        return 0 if src.target is dst or src.is_privileged else -EPERM

    def xs_priv(self, hook: str, src: Domain, dst: Domain) -> int:
        """The xenstore domain, the device model of the target, or a control domain."""
        return 0 if src.is_xenstore else self.dm_priv(hook, src, dst)

    def priv(self, hook: str, src: Domain) -> int:
        """A control domain."""
        return 0 if src.is_privileged else -EPERM

    def grant_map(self, src: Domain, dst: Domain, flags: int) -> int:
        """XSM_HOOK: always."""
        return 0

    def grant_unmap(self, src: Domain, dst: Domain) -> int:
        """XSM_HOOK: always."""
        return 0

    def grant_transfer(self, src: Domain, dst: Domain) -> int:
        """XSM_HOOK: always."""
        return 0

    def grant_copy(self, current: Domain, src: Domain, dst: Domain) -> int:
        """XSM_HOOK: always."""
        return 0

    def evtchn_unbound(self, current: Domain, dom: Domain, remote: Domain | None) -> int:
        """XSM_TARGET over the port's domain; the remote domain need not exist."""
        return self.target("evtchn_unbound", current, dom)

    def evtchn_interdomain(self, src: Domain, dst: Domain) -> int:
        """XSM_HOOK: always."""
        return 0


class SiloPolicy(DummyPolicy):
    """SILO: no sharing between two domains unless one is a control domain. Unmapping is always allowed."""

    @staticmethod
    def _allowed(current: Domain, one: Domain, two: Domain) -> bool:
        return current.is_privileged or one.is_privileged or two.is_privileged or one is two

    def grant_map(self, src: Domain, dst: Domain, flags: int) -> int:
        """Only between silo-compatible domains."""
        return 0 if self._allowed(src, src, dst) else -EPERM

    def grant_transfer(self, src: Domain, dst: Domain) -> int:
        """Only between silo-compatible domains."""
        return 0 if self._allowed(src, src, dst) else -EPERM

    def grant_copy(self, current: Domain, src: Domain, dst: Domain) -> int:
        """Only between silo-compatible domains."""
        return 0 if self._allowed(current, src, dst) else -EPERM

    def evtchn_unbound(self, current: Domain, dom: Domain, remote: Domain | None) -> int:
        """An unknown remote domain is refused with -ESRCH; then as for grants."""
        if remote is None:
            return -3
        if not self._allowed(current, dom, remote):
            return -EPERM
        return super().evtchn_unbound(current, dom, remote)

    def evtchn_interdomain(self, src: Domain, dst: Domain) -> int:
        """Only between silo-compatible domains."""
        return 0 if self._allowed(src, src, dst) else -EPERM
