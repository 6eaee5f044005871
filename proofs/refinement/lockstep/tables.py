"""Stores into pages of Xen's own that a guest has mapped: frames of a grant table, status frames.

What is written there are entries and in-use bits, the owner's or another's. Not here: what owners store into their own
tables, and what is copied there (lockstep.py).
"""

from __future__ import annotations

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.guest_access import translate
from bulkhead.proofs.refinement.lockstep.lockstep import Lockstep
from bulkhead.proofs.refinement.lockstep.testbed import Guest


def store_through(lockstep: Lockstep, guest: Guest, slot: int, ref: int, flags: int, domid: int, mfn: int) -> bool:
    """A store into a frame of some grant table that a guest has mapped at a slot: an entry of the table changes.

    False if the guest faults, or the entry is not in that frame.
    """
    found = translate(lockstep.rig.xen, guest.domain.vcpus[0], guest.slot_va(slot))
    if found is None or not found[1] or found[0].owner is None:
        return False
    frame, owner = found[0], found[0].owner
    granter = lockstep.rig.guests.get(owner.domid)
    if granter is None or ref >= owner.grant_table.nr_entries or owner.grant_table.header_at(ref)[0] is not frame.data:
        return False
    t = lockstep.way_to(guest, lockstep.spec_state.frame(frame.mfn)) if lockstep.rules_on else 0
    return lockstep.store_entry(granter, ref, flags, domid, mfn, True, (0, 0), (guest.domid, t))


def store_status(lockstep: Lockstep, guest: Guest, slot: int, number: int, bits: int) -> bool:
    """A store of in-use bits into a status frame that a guest has mapped at a slot; False if it faults."""
    found = translate(lockstep.rig.xen, guest.domain.vcpus[0], guest.slot_va(slot))
    if found is None or not found[1] or found[0].owner is None or found[0] not in found[0].owner.grant_table.status:
        return False
    frame, owner = found[0], found[0].owner
    word = number * abi.U16.size
    if word >= abi.PAGE_SIZE:
        return False
    abi.U16.pack_into(frame.bytes(), word, bits & (abi.GTF_READING | abi.GTF_WRITING))
    if lockstep.rules_on:
        lockstep.store_rule(guest, slot, lockstep.spec_state.frame(frame.mfn))
        if owner.domid in lockstep.rig.xen.domains and number in lockstep.spec_state.refs:
            lockstep.settle_forged((owner.domid, lockstep.spec_state.ref(number)))
    return True
