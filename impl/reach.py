"""Who can reach what: frames by owner and kind of access, computed from the machine's state.

Contents: a walk of the page tables of kernels and processes, which classifies each foreign entry as a grant
or not by the mapper's own handles; and the frames that a party could map, found by trying. Not here: rules
about what is allowed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from struct import iter_unpack
from typing import TYPE_CHECKING, Final, Literal

from bulkhead.impl.dom0.kernel import Kernel
from bulkhead.impl.domb.minios import MiniOs
from bulkhead.impl.libs import foreignmemory as fm
from bulkhead.impl.libs.linux import LinuxOsdep
from bulkhead.impl.libs.osdep import PROT_READ
from bulkhead.impl.xen import abi
from bulkhead.impl.xen.frames import PGT_L1, Frame
from bulkhead.impl.xen.pagetables import PTE_A, PTE_MFN, PTE_P, PTE_RW, PTE_USER

if TYPE_CHECKING:
    from bulkhead.impl.dom0.syscalls import Syscalls
    from bulkhead.impl.xen.domains import Domain
    from bulkhead.impl.xen.machine import Xen

By = Literal["own", "grant", "foreign", "could map"]
CHUNK: Final = 256


@dataclass(frozen=True, slots=True)
class Reach:
    """A party reaches frames of an owner. "could map": frames that it does not map now but may map at any time."""

    who: str
    owner: str
    by: By
    frames: tuple[int, ...]
    writable: int  # how many of them are writable


@dataclass(frozen=True, slots=True)
class Party:
    """A party: a kernel with its domain, or a process of Dom0."""

    name: str
    domain: Domain
    kernel: Kernel | None = None
    process: Syscalls | None = None


def table(xen: Xen, parties: Sequence[Party], names: dict[int, str]) -> list[Reach]:
    """One row per party, owner and kind of access. `names`: domains by id."""
    private = {id(t) for party in parties if party.process for t in l1_tables(party.process)}
    rows: list[Reach] = []
    for party in parties:
        if party.process is None:
            own = tuple(sorted(party.domain.pages))
            rows.append(Reach(party.name, names[party.domain.domid], "own", own, len(own)))
            tables: Iterable[Frame] = [
                f for f in party.domain.pages.values() if f.ptype == PGT_L1 and f.tcount and id(f) not in private
            ]
        else:
            tables = l1_tables(party.process)
        rows += _mapped(xen, party, tables, names)
        rows += _could(xen, party, names)
    return rows


def l1_tables(process: Syscalls) -> list[Frame]:
    """The last level of a process's page tables."""
    return [frame for (level, _), frame in process.process.space.tables.items() if level == 1]


def granted(domain: Domain) -> set[int]:
    """The frames of a domain's live grant handles."""
    out: set[int] = set()
    for record in domain.grant_table.maptrack:
        granter = domain.xen.domains.get(record.domid)
        if record.flags & 3 and granter is not None and record.ref < len(granter.grant_table.active):
            frame = granter.grant_table.active[record.ref].frame
            if frame is not None:
                out.add(frame.mfn)
    return out


def _mapped(xen: Xen, party: Party, tables: Iterable[Frame], names: dict[int, str]) -> list[Reach]:
    by_grant = granted(party.domain)
    found: dict[tuple[str, By], dict[int, bool]] = {}
    for level1 in tables:
        for (pte,) in iter_unpack("<Q", bytes(level1.data or b"")):
            frame = xen.frames.get((pte & PTE_MFN) >> 12) if pte & PTE_P else None
            if frame is None or frame.owner is None:
                continue
            if frame.owner is party.domain:
                if party.process is None:
                    continue
                by: By = "own"
            else:
                by = "grant" if frame.mfn in by_grant else "foreign"
            owner = names.get(frame.owner.domid, f"domain {frame.owner.domid}")
            frames = found.setdefault((owner, by), {})
            frames[frame.mfn] = frames.get(frame.mfn, False) or bool(pte & PTE_RW)
    return [
        Reach(party.name, owner, by, tuple(sorted(frames)), sum(frames.values()))
        for (owner, by), frames in sorted(found.items())
    ]


def _could(xen: Xen, party: Party, names: dict[int, str]) -> list[Reach]:
    rows = []
    for domid, name in sorted(names.items()):
        domain = xen.domains.get(domid)
        if domain is None or domain is party.domain:
            continue
        wanted = sorted(domain.pages)
        if party.process is not None:
            got = by_process(party.process, domid, wanted)
        else:
            got = by_kernel(party.kernel, domid, wanted) if party.kernel is not None else []
        if got:
            rows.append(Reach(party.name, name, "could map", tuple(got), 0))
    return rows


def by_process(process: Syscalls, domid: int, mfns: Sequence[int]) -> list[int]:
    """The frames that a process can map by privcmd; each is mapped read-only and unmapped again."""
    os = LinuxOsdep(process)
    handle = fm.xenforeignmemory_open(os)
    if handle is None:
        return []
    got: list[int] = []
    for first in range(0, len(mfns), CHUNK):
        part = mfns[first : first + CHUNK]
        errors: list[int] = []
        addr = fm.xenforeignmemory_map(handle, domid, PROT_READ, part, errors)
        if addr is not None:
            got += [mfn for mfn, error in zip(part, errors, strict=True) if not error]
            fm.xenforeignmemory_unmap(handle, addr, len(part))
    fm.xenforeignmemory_close(handle)
    return got


def by_kernel(kernel: Kernel, domid: int, mfns: Sequence[int]) -> list[int]:
    """The frames that a kernel can map: tries each read-only, one at a time at one free address."""
    slot = kernel.demand.take(1) if isinstance(kernel, MiniOs) else kernel.alloc_slot()
    maddr = kernel.layout.window_maddr(slot)
    flags = PTE_P | PTE_USER | PTE_A
    got = [mfn for mfn in mfns if kernel.mmu_update(maddr, mfn << 12 | flags, domid) == 0]
    kernel.mmu_update(maddr, 0, abi.DOMID_SELF)
    if isinstance(kernel, MiniOs):
        kernel.demand.give(slot, 1)
    else:
        kernel.free_slots.append(slot)
    return got
