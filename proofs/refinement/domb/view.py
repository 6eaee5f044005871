"""A workload's read-only view of DomB's machine: the implementation, but not the rules' state.

Hostile tools and guests know what they cannot know: which guests wait to be told, who has what page, which index a ring has.
All that they do is a call to the target (target.py); so a recording of these calls needs no view.
"""

from __future__ import annotations

from collections.abc import Mapping

from bulkhead.impl.domb.service import Built
from bulkhead.impl.libs.vchan import Offer, Vchan
from bulkhead.impl.xen.domains import ALIVE, Domain
from bulkhead.proofs.refinement.domb.guests import Guest
from bulkhead.proofs.refinement.domb.machine import Process
from bulkhead.proofs.refinement.domb.plain_daemons import Consoled, Stored
from bulkhead.proofs.refinement.domb.target import DombTarget
from bulkhead.proofs.refinement.domb.world import NOBODY
from bulkhead.proofs.refinement.view import ProcessView


class View:
    """A view of one machine."""

    def __init__(self, target: DombTarget) -> None:
        self._target = target
        self.processes: Mapping[int, Process] = target.processes
        self.domains: Mapping[int, Domain] = target.rig.xen.domains

        self.users = ProcessView(target.users.beside, target.users.dom0)
        self.free_spaces = target.users.spaces

    @property
    def up(self) -> bool:
        """Does DomB live?"""
        return self._target.up

    @property
    def in_domb(self) -> bool:
        """Is DomB in the midst of a step?"""
        return self._target.in_domb

    def next_message(self, of: Vchan) -> int:
        """Where the next message that DomB takes lies for a client with this end of the channel; -1 without a channel."""
        return self._target.next_message(of)

    @property
    def offer(self) -> Offer | None:
        """The address of DomB's channel."""
        return self._target.offer()

    @property
    def built(self) -> Mapping[int, Built]:
        """DomB's record of guests."""
        return self._target.service.guests

    @property
    def failing(self) -> bool:
        """Does DomB still have to undo a build that failed?"""
        return self._target.service.failing is not None

    @property
    def building(self) -> bool:
        """Is there a guest under construction?"""
        return any(
            d not in self.built and domain.is_dying == ALIVE and not domain.creation_finished
            for d, domain in self.domains.items()
            if d >= 2
        )

    @property
    def full(self) -> bool:
        """Has every domain of the rules' world an incarnation now? Also one that is dying, while others map its pages."""
        return len(self.domains) >= NOBODY

    @property
    def somebody_waits_to_be_told(self) -> bool:
        """Is there a guest whose client did not get the answer yet?"""
        return any(not built.told for built in self.built.values())

    @property
    def stored(self) -> Stored | None:
        """XenStore's daemon, while it lives."""
        return None if self._target.daemons is None else self._target.daemons.stored

    @property
    def nodes(self) -> list[str]:
        """The nodes that XenStore has."""
        return [] if self.stored is None else list(self.stored.store.nodes)

    def value(self, path: str) -> bytes:
        """The value of a node of XenStore; nothing, where there is none."""
        node = None if self.stored is None else self.stored.store.nodes.get(path)
        return b"" if node is None else node.value

    @property
    def consoled(self) -> Consoled | None:
        """The console's daemon, while it lives."""
        return None if self._target.daemons is None else self._target.daemons.consoled

    def running(self) -> list[Guest]:
        """The guests that run, with the pages of their rings."""
        return self._target.guests.running()

    def free(self) -> list[Process]:
        """Processes that are not in the midst of a call."""
        return [who for who in self.processes.values() if not who.busy]


__all__ = ["View"]
