"""mprotect and mremap of a Dom0 process's device mappings.

gntdev unmaps the grants of the pages that change; the process keeps the addresses, and a load there raises SIGBUS. Pages of
gntalloc stay mapped. Areas of privcmd may change only as a whole; here they never change.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from bulkhead.impl.dom0.kernel import KernelError
from bulkhead.impl.dom0.process import SIGBUS, SIGSEGV, Fault
from bulkhead.impl.xen import abi
from bulkhead.model.caller import OKAY
from bulkhead.proofs.refinement.lockstep.dom0_state import MOST_SLOTS, Proc, Slot
from bulkhead.proofs.refinement.lockstep.spec_state import Mismatch
from bulkhead.proofs.refinement.workload.dom0_gntdev import some_range

if TYPE_CHECKING:
    from bulkhead.proofs.refinement.workload.dom0 import Dom0

ELSEWHERE = 0x30000  # target area of moved mappings


def _range(d: Dom0, proc: Proc) -> list[Slot]:
    """Contiguous pages, none of privcmd."""
    if not proc.slots:
        return []
    vpn, count = some_range(d, proc)
    slots: list[Slot] = []
    while len(slots) < count and (slot := proc.slots.get(vpn + len(slots))) is not None and slot.kind != "foreign":
        slots.append(slot)
    return slots


def mprotect(d: Dom0, proc: Proc) -> str:
    """mprotect of some pages. Without a change there is no effect."""
    slots = _range(d, proc)
    if not slots:
        return ""
    writable = d.rng.random() < 0.5
    moved = [slot for slot in slots if slot.kind == "own" and slot.writable != writable]
    changed = [slot for slot in slots if slot.kind == "grant" and slot.writable != writable]
    new = [_remapped(d, proc, slot, writable) for slot in moved]
    proc.sys.mprotect(slots[0].vpn << 12, len(slots), 3 if writable else 1)
    for slot, t in zip(moved, new, strict=True):
        if d.b.rules_on and slot.user is not None:
            d.rule("gntalloc_munmap", {"p": proc.space, "t": slot.user})
            d.rule("flush_tlb", {"d": 0})
        slot.user, slot.writable = t, writable
    for slot in changed:
        slot.writable = writable
        _dies(slot)
    for slot in slots:
        check(proc, slot)
    if proc.process.space.find(slots[-1].vpn + 1) is None:  # a range that ends in a hole is changed up to the hole
        _refused(lambda: proc.sys.mprotect(slots[0].vpn << 12, len(slots) + 1, 3 if writable else 1), abi.ENOMEM)
    return f"mprotect of {len(slots)} from {slots[0].vpn:#x}"


def mremap(d: Dom0, proc: Proc) -> str:
    """mremap: pages move; or a mapping grows, which no device allows, shrinks, or stays."""
    slots = _range(d, proc)
    if not slots or len(proc.slots) > MOST_SLOTS:
        return ""
    vpn, count = slots[0].vpn, len(slots)
    vma = proc.process.space.find(vpn)
    assert vma is not None
    count = min(count, vma.end - vpn)
    slots = slots[:count]
    x = d.rng.random()
    if x < 0.15:
        _refused(lambda: proc.sys.mremap(vpn << 12, count, count + 1), abi.EFAULT)
        return "mremap that grows: EFAULT"
    if x < 0.3 and count > 1:
        proc.sys.mremap(vpn << 12, count, 1)
        for slot in slots[1:]:
            proc.slots.pop(slot.vpn, None)
            if slot.kind == "grant" and (slot.user is not None or slot.kernel is not None):
                raise Mismatch("mremap left what it has cut off")
        return f"mremap of {count} to one"
    to = ELSEWHERE
    while any(vma.start < to + count and vma.end > to for vma in proc.process.space.vmas):
        to += 8
    new = [_remapped(d, proc, slot, slot.writable) if slot.kind == "own" else None for slot in slots]
    if proc.sys.mremap(vpn << 12, count, count, to << 12) != to << 12:
        raise Mismatch("mremap went elsewhere")
    for n, (slot, t) in enumerate(zip(slots, new, strict=True)):
        proc.slots.pop(slot.vpn, None)
        slot.vpn = to + n
        proc.slots[slot.vpn] = slot
        slot.maddr = proc.process.space.pte_maddr(slot.vpn)
        if slot.kind == "own":
            slot.user = t
        else:
            _dies(slot)
        check(proc, slot)
    return f"mremap of {count} from {vpn:#x} to {to:#x}"


def _remapped(d: Dom0, proc: Proc, slot: Slot, writable: bool) -> int | None:
    """In the rules, one more translation of the page; the old one is removed later."""
    if not d.b.rules_on or slot.user is None:
        return None
    u = d.b.spec_state.free_translation()
    d.rule(
        "gntalloc_remap",
        {"p": proc.space, "t": slot.user, "writable": int(writable), "u_t": u, "u_nil": d.b.spec_state.size.handles - 1},
    )
    return u


def _dies(slot: Slot) -> None:
    slot.dead = True
    if slot.user is not None or slot.kernel is not None:
        raise Mismatch("gntdev keeps a grant mapped whose page was changed")


def check(proc: Proc, slot: Slot) -> None:
    """Check accesses to a page: loads succeed, stores if it is writable; SIGBUS if its grant was unmapped."""
    if slot.dead:
        expect_sigbus(proc, slot)
        return
    proc.sys.load(slot.vpn << 12, 8)
    try:
        proc.process.space.access(slot.vpn << 12, True)
        code = OKAY
    except Fault:
        code = "a fault"
    if (code == OKAY) != slot.writable:
        raise Mismatch(f"a page that is {'' if slot.writable else 'not '}writable: a store gives {code}")


def _refused(call: Callable[[], object], code: int) -> None:
    try:
        call()
    except KernelError as error:
        if error.code == code:
            return
        raise Mismatch(f"errno {error.code} where {code} was expected") from error
    raise Mismatch(f"okay where errno {code} was expected")


def expect_sigbus(proc: Proc, slot: Slot) -> None:
    """A page whose grant the kernel has unmapped raises SIGBUS, for loads and stores."""
    for write in (False, True):
        try:
            proc.process.space.access(slot.vpn << 12, write)
        except Fault as fault:
            if fault.signal == (SIGSEGV if write and not slot.writable else SIGBUS):
                continue
        raise Mismatch("a page whose grant has been unmapped does not raise SIGBUS")


MOVES = ((9, mprotect), (7, mremap))
