"""The (rule, outcome) pairs that a campaign reached, and those that are impossible, with the reason.

A pair may be impossible on the implementation: the rules' world is finite where the machine is not, a check can
never fail because a rule is performed for one caller only, or a proved claim says that it does not fail.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

SELF = "the caller names itself: it exists, it runs, and it may"
TABLE = "Dom0's own table: Dom0 exists, runs, and may"
PV = "Dom0 is a PV guest, and names its pages by their frames"
NO_LIMIT = "the implementation sets no limit; the rules' world has one"
ROOM = "the rules' world has no translation left; page tables have"
KNOWN = "a bound port is open (theorem ports_go_with_files)"
OWN = "evtchn knows its own calls"
ONE_COPY = (
    "Dom0's kernel makes one copy at a time, so no other uses the entry for Dom0; nothing mapped becomes transitive here"
)
CHECKED = "gntdev checks it before it asks Xen, or never asks for it"

CANNOT_HAPPEN: dict[str, str] = {
    "populate_physmap: EPERM": SELF,
    "populate_physmap: ESRCH": SELF,
    "populate_physmap: EINVAL": SELF,
    "populate_physmap_at: EPERM": SELF,
    "populate_physmap_at: ESRCH": SELF,
    "populate_physmap_at: EINVAL": SELF,
    "privcmd_populate_physmap_at: ESRCH": "the domain is there: it is translated",
    "mmu_update_map: EINVAL": "only privilege maps what is another's, and no guest has it",
    "mmu_update_map: ENOMEM": ROOM,
    "map_status_frame.insert: ENOMEM": ROOM,
    "fork: EAGAIN": NO_LIMIT,
    "open_gntdev: EMFILE": NO_LIMIT,
    "open_gntalloc: EMFILE": NO_LIMIT,
    "open_privcmd: EMFILE": NO_LIMIT,
    "open_evtchn: EMFILE": NO_LIMIT,
    "gntdev_map_grant_ref: ENOMEM": NO_LIMIT,
    "gntdev_munmap: EIO": "a granter stays while a page of it is mapped, and the kernel unmaps only what it has mapped",
    "gntdev_copy.claim_source: GNTST_permission_denied": CHECKED,
    "gntdev_copy.claim_dest: GNTST_permission_denied": CHECKED,
    "gntdev_copy.move: GNTST_bad_copy_arg": CHECKED,
    "gntdev_copy.claim_source: ERESTART": ONE_COPY,
    "gntdev_copy.claim_dest: ERESTART": ONE_COPY,
    "gntalloc_inherit: EINVAL": PV,
    "gntalloc_inherit: ESRCH": TABLE,
    "gntalloc_inherit: EPERM": TABLE,
    "gntalloc_inherit: EBUSY": "what the parent maps is there",
    "gntalloc_inherit: ENOMEM": ROOM,
    "evtchn_bind_unbound: ESRCH": TABLE,
    "evtchn_bind_unbound: EINVAL": TABLE,
    "evtchn_notify: EINVAL": KNOWN,
    "close_left_open: EINVAL": KNOWN,
    "gntdev_map_next_ref: EINVAL": "the kernel makes one map of all the grants of a call at once",
    "gntdev_map_next_ref: ENOMEM": NO_LIMIT,
    "gntalloc_remap: EFAULT": "the kernel changes only entries that are there",
    "gntalloc_remap: EINVAL": PV,
    "gntalloc_remap: ESRCH": TABLE,
    "gntalloc_remap: EPERM": TABLE,
    "gntalloc_remap: EBUSY": "what the process maps is there",
    "gntalloc_remap: ENOMEM": ROOM,
    "evtchn_restrict: ENOSYS": OWN,
    "evtchn_bind: ENOSYS": OWN,
    "evtchn_bind_unbound: ENOSYS": OWN,
    "evtchn_notify: ENOSYS": OWN,
    "evtchn_unbind: ENOSYS": OWN,
    "evtchn_empty: ENOSYS": OWN,
}


@dataclass(frozen=True)
class Coverage:
    """Coverage of all pairs; `missing` holds the pairs not reached, explained or open."""

    total: int
    missing: tuple[str, ...]

    @property
    def reached(self) -> int:
        """The number of reached pairs."""
        return self.total - len(self.missing)

    @property
    def open(self) -> tuple[str, ...]:
        """Never reached, without an explanation."""
        return tuple(pair for pair in self.missing if pair not in CANNOT_HAPPEN)

    @property
    def explained(self) -> tuple[str, ...]:
        """Never reached, because impossible."""
        return tuple(pair for pair in self.missing if pair in CANNOT_HAPPEN)

    def lines(self) -> list[str]:
        """A readable summary: open pairs, then impossible ones by reason."""
        out = [
            f"{self.reached} of {self.total} (rule, outcome) pairs reached, {len(self.explained)} cannot happen, "
            f"{len(self.open)} never reached{':' if self.open else '.'}",
            *(f"  {pair}" for pair in self.open),
        ]
        if self.explained:
            out.append("Cannot happen on the implementation:")
        reasons: dict[str, list[str]] = {}
        for pair in self.explained:
            reasons.setdefault(CANNOT_HAPPEN[pair], []).append(pair)
        for reason, pairs in reasons.items():
            out.append(f"  because {reason}:")
            out += [f"    {pair}" for pair in pairs]
        return out


def coverage(outcomes: Iterable[str], reached: Iterable[str]) -> Coverage:
    """Compare all pairs with the reached ones."""
    every = tuple(outcomes)
    known = set(reached)
    return Coverage(len(every), tuple(pair for pair in every if pair not in known))


def contradicted(reached: Iterable[str]) -> list[str]:
    """Pairs that were reached although the table says that they are impossible: then the table is wrong."""
    return sorted(set(reached) & CANNOT_HAPPEN.keys())
