"""mprotect and mremap of a Dom0 process's device mappings.

gntdev unmaps the grants of the pages that change; the process keeps the addresses, and a load there raises SIGBUS. Pages of
gntalloc stay mapped. Areas of privcmd may change only as a whole (privcmd.py tries parts).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bulkhead.impl.dom0.kernel import KernelError
from bulkhead.impl.dom0.process import Fault
from bulkhead.impl.xen import abi
from bulkhead.model.caller import OKAY
from bulkhead.proofs.refinement.calls import Answer
from bulkhead.proofs.refinement.dom0.kernel import Dom0
from bulkhead.proofs.refinement.dom0.processes import expect_sigbus
from bulkhead.proofs.refinement.dom0.state import Proc, Slot
from bulkhead.proofs.refinement.lockstep.rule_steps import Mismatch


def mprotect(d: Dom0, proc: Proc, a: Mapping[str, Any]) -> Answer:
    """mprotect of mapped pages: {addr, count, writable}. Without a change there is no effect."""
    addr, count, writable = a["addr"], a["count"], a["writable"]
    slots = [proc.slots[(addr >> 12) + n] for n in range(count)]
    moved = [slot for slot in slots if slot.kind == "own" and slot.writable != writable]
    changed = [slot for slot in slots if slot.kind == "grant" and slot.writable != writable]
    new = [_remapped(d, proc, slot, writable) for slot in moved]
    proc.sys.mprotect(addr, count, 3 if writable else 1)
    for slot, t in zip(moved, new, strict=True):
        if d.lockstep.rules_on and slot.user is not None:
            d.rule("gntalloc_munmap", {"p": proc.space, "t": slot.user})
            d.rule("flush_tlb", {"d": 0})
        slot.user, slot.writable = t, writable
    for slot in changed:
        slot.writable = writable
        _dies(slot)
    for slot in slots:
        check(proc, slot)
    if proc.process.space.find(slots[-1].vpn + 1) is None:  # a range that ends in a hole is changed up to the hole
        _refused(lambda: proc.sys.mprotect(addr, count + 1, 3 if writable else 1), abi.ENOMEM)
    return Answer(OKAY)


def mremap(d: Dom0, proc: Proc, a: Mapping[str, Any]) -> Answer:
    """mremap of mapped pages of one area: {addr, count, new_count, to}: they grow, which no device allows, shrink to the
    first, or move to another address."""
    addr, count, to = a["addr"], a["count"], a["to"] >> 12
    slots = [proc.slots[(addr >> 12) + n] for n in range(count)]
    if a["new_count"] > count:
        _refused(lambda: proc.sys.mremap(addr, count, a["new_count"]), abi.EFAULT)
        return Answer("EFAULT")
    if a["new_count"] < count:
        proc.sys.mremap(addr, count, a["new_count"])
        for slot in slots[a["new_count"] :]:
            proc.slots.pop(slot.vpn, None)
            if slot.kind == "grant" and (slot.user is not None or slot.kernel is not None):
                raise Mismatch("mremap left what it has cut off")
        return Answer(OKAY)
    new = [_remapped(d, proc, slot, slot.writable) if slot.kind == "own" else None for slot in slots]
    if proc.sys.mremap(addr, count, count, to << 12) != to << 12:
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
    return Answer(OKAY)


def _remapped(d: Dom0, proc: Proc, slot: Slot, writable: bool) -> int | None:
    """In the rules, one more translation of the page; the old one is removed later."""
    if not d.lockstep.rules_on or slot.user is None:
        return None
    u = d.lockstep.spec_state.free_translation()
    d.rule(
        "gntalloc_remap",
        {
            "p": proc.space,
            "t": slot.user,
            "writable": int(writable),
            "u_t": u,
            "u_nil": d.lockstep.spec_state.size.handles - 1,
        },
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
