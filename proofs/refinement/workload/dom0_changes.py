"""Chooses mprotect and mremap calls of a Dom0 process. Areas of privcmd, which may change only as a whole, are left out."""

from __future__ import annotations

from bulkhead.proofs.refinement.dom0.state import MOST_SLOTS, Proc, Slot
from bulkhead.proofs.refinement.workload.caller import Caller, some_range

ELSEWHERE = 0x30000  # target area of moved mappings


def _range(d: Caller, proc: Proc) -> list[Slot]:
    """Contiguous pages, none of privcmd."""
    if not proc.slots:
        return []
    vpn, count = some_range(d, proc)
    slots: list[Slot] = []
    while len(slots) < count and (slot := proc.slots.get(vpn + len(slots))) is not None and slot.kind != "foreign":
        slots.append(slot)
    return slots


def mprotect(d: Caller, proc: Proc) -> str:
    """mprotect of some pages."""
    slots = _range(d, proc)
    if not slots:
        return ""
    vpn, writable = slots[0].vpn, d.rng.random() < 0.5
    d.call(proc, "mprotect", addr=vpn << 12, count=len(slots), writable=writable)
    return f"mprotect of {len(slots)} from {vpn:#x}"


def mremap(d: Caller, proc: Proc) -> str:
    """mremap of some pages of one area: it grows, shrinks, or moves to a free address."""
    slots = _range(d, proc)
    if not slots or len(proc.slots) > MOST_SLOTS:
        return ""
    vpn, vma = slots[0].vpn, proc.process.space.find(slots[0].vpn)
    assert vma is not None
    count = min(len(slots), vma.end - vpn)
    x = d.rng.random()
    new_count, to = count, ELSEWHERE
    if x < 0.15:
        new_count = count + 1
    elif x < 0.3 and count > 1:
        new_count = 1
    while any(vma.start < to + count and vma.end > to for vma in proc.process.space.vmas):
        to += 8
    code = d.call(proc, "mremap", addr=vpn << 12, count=count, new_count=new_count, to=to << 12).code
    return f"mremap of {count} from {vpn:#x} to {new_count} at {to:#x}: {code}"


MOVES = ((9, mprotect), (7, mremap))
