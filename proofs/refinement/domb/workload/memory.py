"""What hostile guests do with memory: grants of others mapped and copied, own pages and those of others, pages given back.

Not here: how it is done (../guest_memory.py).
"""

from __future__ import annotations

import random
from typing import Any

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.domains import Domain
from bulkhead.model.caller import OKAY
from bulkhead.proofs.refinement.calls import Interleaving
from bulkhead.proofs.refinement.domb.guest_memory import is_table
from bulkhead.proofs.refinement.domb.guests import Guest
from bulkhead.proofs.refinement.domb.view import View
from bulkhead.proofs.refinement.domb.window import SLOTS
from bulkhead.proofs.refinement.domb.workload.chooser import Chooser
from bulkhead.proofs.refinement.domb.world import DOMB, NOBODY

REFS = (0, 1, 8, 8, 9, 10, 20, 5000)


class MemoryChoices(Chooser):
    """The memory of all guests of one machine."""

    def __init__(self, view: View, target: Interleaving, rng: random.Random) -> None:
        super().__init__(view, target, rng)
        self.handles: dict[int, list[tuple[int, int]]] = {}  # by guest: slots with the handles that they got

    def act(self, who: Guest, running: list[Guest]) -> None:
        """An arbitrary action of a guest."""
        rng, by = self.rng, f"d{who.domid}"
        x, slot = rng.random(), rng.randrange(SLOTS)
        if x < 0.3:
            self._map(who, running, slot)
        elif x < 0.42:
            known = self.handles.get(who.domid, [])
            if known and rng.random() < 0.9:
                self.call(by, "unmap_grant_ref", **dict(zip(("slot", "handle"), known.pop(), strict=True)))
            else:
                self.call(by, "unmap_grant_ref", slot=slot, handle=rng.choice((0, 1, 2, 700)))
        elif x < 0.6:
            self._copy(who, running)
        elif x < 0.74:
            mfn = 0 if rng.random() < 0.3 else self._page(rng.choice((who, who, who, rng.choice(running))))
            self.call(by, "update_va_mapping", slot=slot, mfn=mfn, writable=rng.random() < 0.6)
        elif x < 0.88:
            self.call(by, "access", slot=slot, write=rng.random() < 0.6)
        elif x < 0.94:
            self._gives_back(who, running)
        else:
            self.call(by, "populate_physmap")

    def _page(self, who: Guest) -> int:
        """A page of a guest."""
        return self.rng.choice([f.mfn for f in who.domain.pages.values() if not f.xenheap])

    def _offer(self, who: Guest, running: list[Guest]) -> tuple[int, int]:
        """A domain and a reference, usually of what is granted to the guest."""
        offers = [(g.domid, ref) for g in running for ref in (0, 1, 8, 9, 10) if _offered(g.domain, ref, who.domid)]
        offers += [
            (0, page.ref) for page in self.view.users.shared_pages if _offered(self.view.domains[0], page.ref, who.domid)
        ] * 3
        if offers and self.rng.random() < 0.75:
            return self.rng.choice(offers)
        return self.rng.choice((0, DOMB, *range(2, NOBODY), 99)), self.rng.choice(REFS)

    def _map(self, who: Guest, running: list[Guest], slot: int) -> None:
        dom, ref = self._offer(who, running)
        got = self.call(f"d{who.domid}", "map_grant_ref", slot=slot, dom=dom, ref=ref, writable=self.rng.random() < 0.6)
        if got.code == OKAY:
            self.handles.setdefault(who.domid, []).append((slot, got.given))

    def _copy(self, who: Guest, running: list[Guest]) -> None:
        sides: dict[str, Any] = {}
        for side in ("src", "dst"):
            by_ref = self.rng.random() < 0.6
            if by_ref:
                sides[f"{side}_dom"], sides[side] = self._offer(who, running)
            else:  # a page by its number, which is allowed for one's own
                whose = self.rng.choice((who, who, *running))
                sides[side] = self._table(who) if self.rng.random() < 0.1 else self._page(whose)
                sides[f"{side}_dom"] = abi.DOMID_SELF if self.rng.random() < 0.8 else whose.domid
            sides[f"{side}_ref"] = by_ref
        self.call(f"d{who.domid}", "copy", length=self.rng.choice((64, 64, 64, 3100)), **sides)

    def _table(self, who: Guest) -> int:
        """A page table of a guest: Xen writes there for it, and nobody else does."""
        return self.rng.choice([f.mfn for f in who.domain.pages.values() if is_table(f)] or [self._page(who)])

    def _gives_back(self, who: Guest, running: list[Guest]) -> None:
        """A page of a ring, one that it got from Xen, or any, also of another guest."""
        got = [f.mfn for f in who.domain.pages.values() if f.m2p >= 1 << 20 and not f.xenheap]
        rings = [f.mfn for f in (who.console, who.xenstore)]
        mfn = self.rng.choice(rings) if self.rng.random() < 0.15 else self.rng.choice(got) if got else self._page(who)
        if self.rng.random() < 0.3:
            others = [g.domain for g in running if g is not who] + [self.view.domains[d] for d in (0, DOMB)]
            mfn = self.rng.choice([f.mfn for f in self.rng.choice(others).pages.values() if not f.xenheap])
        self.call(f"d{who.domid}", "give_back", mfn=mfn)


def _offered(who: Domain, ref: int, dom: int) -> bool:
    """Does the entry permit access to a domain?"""
    flags, grantee, _ = who.grant_table.entry_v1(ref)
    return bool(flags & 3 == 1 and grantee == dom)


__all__ = ["MemoryChoices"]
