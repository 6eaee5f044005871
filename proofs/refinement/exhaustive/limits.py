"""The size of the small world of an exhaustive search, and the data form of its actions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from bulkhead.proofs.refinement.lockstep.spec_world import SMALL, Size

GRANTER, MAPPER = 1, 2
Action = tuple[Any, ...]  # a name and small numbers


@dataclass(frozen=True)
class Limits:
    """The limits of a world. `pages`: the granter's own, besides those that it cannot give up. `records`: the mapper's
    mappings, with records that an overwritten page-table entry has left behind. `flights`: calls in flight."""

    pages: int = 1
    refs: tuple[int, ...] = (8,)
    records: int = 2
    flights: int = 2
    versions: bool = True
    copies: bool = True
    again: bool = False  # a destroyed granter is followed by another one with the same id
    processes: int = 0  # of Dom0, with one gntdev file
    maps: int = 1  # grants that they have registered

    def text(self) -> str:
        """A readable form."""
        return (
            f"2 guests, {self.pages} page{'s' * (self.pages > 1)} to grant, {len(self.refs)} "
            f"reference{'s' * (len(self.refs) > 1)}, up to {self.records} mappings and {self.flights} calls in flight"
            + (", both table versions" if self.versions else "")
            + (", copies" if self.copies else "")
            + (", the granter's id used again" if self.again else "")
            + (
                f", {self.processes} process{'es' * (self.processes > 1)} of Dom0 with up to {self.maps} grant"
                f"{'s' * (self.maps > 1)} registered"
                if self.processes
                else ""
            )
        )

    def grantees(self) -> tuple[int, ...]:
        """The possible grantees of the granter's pages."""
        return ((MAPPER,) if self.records else ()) + ((0,) if self.processes else ())

    def size(self) -> Size:
        """The size of the rules' world."""
        size = replace(SMALL, refs=(*SMALL.refs[:2], *self.refs, SMALL.refs[-1]))
        return replace(size, dom0_frames=4, translations=16, handles=10, files=4, maps=6) if self.processes else size
