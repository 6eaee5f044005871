"""The common part of moves of Dom0's processes: the seed, the view, the target, and the choice of a descriptor.

Not here: the moves (dom0.py, dom0_gntdev.py and its neighbours).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.grant_entries import GrantTable
from bulkhead.proofs.refinement.calls import Answer, Target
from bulkhead.proofs.refinement.dom0.operations import process_call
from bulkhead.proofs.refinement.dom0.state import BUFFER, NOT_THERE, MapRecord, Opened, Proc
from bulkhead.proofs.refinement.view import ProcessView

MOST_FILES = 5


class Caller:
    """Makes calls of processes."""

    def __init__(self, view: ProcessView, target: Target, rng: random.Random) -> None:
        self.view = view
        self.target = target
        self.rng = rng
        self.current: Proc | None = None  # the process that moves
        self.killed: Proc | None = None  # processes killed during the move

    def call(self, proc: Proc, operation: str, /, **arguments: Any) -> Answer:
        """Make a call by a process."""
        return self.target.carry_out(process_call(proc.space, operation, **arguments))

    def may_open(self) -> bool:
        """Does the rules' world have an element for one more open file?"""
        return len(self.view.files) < MOST_FILES

    def fd_of(self, proc: Proc, kind: str) -> tuple[int, Opened | None]:
        """A descriptor, and the open file of a device of that kind; sometimes of another kind."""
        x = self.rng.random()
        if x < 0.8 and kind != "privcmd" and not proc.of_kind(kind) and self.may_open():
            self.call(proc, "open", kind=kind)
        mine = proc.of_kind(kind)
        if mine and x < 0.94:
            return mine[int(self.rng.random() * len(mine))]
        others = [fd for fd, o in proc.fds.items() if o.kind != kind]
        if others and x < 0.97:
            return others[int(self.rng.random() * len(others))], None
        return NOT_THERE, None


Move = Callable[[Caller, Proc], str]  # the move as a line of text; "" if no call was made


def offered(table: GrantTable, ref: int, whole: bool = False, to_write: bool = False) -> bool:
    """Does the entry grant Dom0 access to a page now? `whole`: to all of it; `to_write`: not only for reading."""
    flags, domid = abi.HEADER.unpack_from(*table.header_at(ref))
    if (whole and flags & abi.GTF_SUB_PAGE) or (to_write and flags & abi.GTF_READONLY):
        return False
    return bool(domid == 0 and flags & abi.GTF_TYPE_MASK == abi.GTF_PERMIT_ACCESS)


def passed_on(table: GrantTable, ref: int) -> bool:
    """Does the entry let Dom0 copy through it to another domain's page?"""
    flags, domid = abi.HEADER.unpack_from(*table.header_at(ref))
    return bool(table.version == 2 and domid == 0 and flags & abi.GTF_TYPE_MASK == abi.GTF_TRANSITIVE)


def special(d: Caller, record: MapRecord) -> bool:
    """Does a grant name a page of the hypervisor's own heap? No process stores there: it would not store entries."""
    for granter, ref in record.grants:
        domain = d.view.domains.get(granter)
        if domain is not None and d.view.names_special(domain, ref):
            return True
    return False


def some_range(d: Caller, proc: Proc) -> tuple[int, int]:
    """Pages around a mapped one: one or some, and usually all of an area that must be unmapped as a whole."""
    vpns = list(proc.slots)
    vpn = vpns[int(d.rng.random() * len(vpns))]
    first, count = proc.slots[vpn].area
    if count and d.rng.random() < 0.9:
        return first, count
    more = int(d.rng.random() * 3)
    before = int(d.rng.random() * (more + 1)) if d.rng.random() < 0.5 else 0
    return max(vpn - before, (proc.buffer >> 12) + BUFFER), 1 + more  # its own memory lies below


def notice_port(d: Caller) -> int:
    """A port for a notice: usually one that is bound, or held by another notice."""
    ports = d.view.held_ports()
    return ports[int(d.rng.random() * len(ports))] if ports and d.rng.random() < 0.9 else 77
