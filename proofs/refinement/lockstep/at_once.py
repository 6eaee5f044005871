"""Calls that are done when they return: what a guest does without a hypercall, and what the toolstack commands.

One row per operation, as in `operations.py`: entries that a guest writes, events that it takes, ports and pins of its own,
and how it is created, paused and destroyed. Only a destroydomain goes on in steps like a hypercall. Not here: hypercalls
of guests (operations.py).
"""

from __future__ import annotations

from collections.abc import Callable

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.domains import MAPTRACK_TAIL
from bulkhead.impl.xen.guest_access import write
from bulkhead.model.caller import OKAY
from bulkhead.proofs.refinement.calls import NOT_DONE, Answer, Call
from bulkhead.proofs.refinement.lockstep import follow_domains as fd
from bulkhead.proofs.refinement.lockstep.by_itself import pinned_for_a_moment, ports_of_its_own
from bulkhead.proofs.refinement.lockstep.call import CallInFlight
from bulkhead.proofs.refinement.lockstep.lockstep import Lockstep
from bulkhead.proofs.refinement.lockstep.rule_steps import Mismatch
from bulkhead.proofs.refinement.lockstep.tables import store_status, store_through
from bulkhead.proofs.refinement.lockstep.testbed import Guest, PvGuest


def _write_entry(lockstep: Lockstep, call: Call) -> Answer:
    a = call.arguments
    done = lockstep.store_entry(
        lockstep.rig.guests[call.caller()[0]], a["ref"], a["flags"], a["domid"], a["mfn"], a["keep_bits"], tuple(a["part"])
    )
    return Answer(OKAY if done else NOT_DONE.code)


def _store_through(lockstep: Lockstep, call: Call) -> Answer:
    guest, a = lockstep.rig.guests[call.caller()[0]], call.arguments
    done = store_through(lockstep, guest, a["slot"], a["ref"], a["flags"], a["domid"], a["mfn"])
    return Answer(OKAY if done else NOT_DONE.code)


def _store_status(lockstep: Lockstep, call: Call) -> Answer:
    guest, a = lockstep.rig.guests[call.caller()[0]], call.arguments
    return Answer(OKAY if store_status(lockstep, guest, a["slot"], a["ref"], a["bits"]) else NOT_DONE.code)


def _end_access(lockstep: Lockstep, call: Call) -> Answer:
    return Answer(lockstep.end_access(lockstep.rig.guests[call.caller()[0]], call.arguments["ref"]) or NOT_DONE.code)


def _access(lockstep: Lockstep, call: Call) -> Answer:
    domid, vcpu = call.caller()
    done = lockstep.access(lockstep.rig.guests[domid], vcpu, call.arguments["slot"], call.arguments["write"])
    return Answer(OKAY if done else NOT_DONE.code)


def _take_events(lockstep: Lockstep, call: Call) -> Answer:
    me = call.caller()[0]
    for number in lockstep.rig.guests[me].domain.events.take_pending():
        if lockstep.rules_on:
            lockstep.spec_state.step("evtchn_take", {"caller": me, "q": number - 1})
    return Answer(OKAY)


def _create(lockstep: Lockstep, call: Call) -> Answer:
    a = call.arguments
    return Answer(OKAY if lockstep.create(a["domid"], a["max_maptrack"], a["greedy"], a["pvh"]) else NOT_DONE.code)


def _pause(lockstep: Lockstep, call: Call) -> Answer:
    lockstep.pause(call.arguments["domid"], call.operation == "pausedomain")
    return Answer(OKAY)


def _own_ports(lockstep: Lockstep, call: Call) -> Answer:
    domid, vcpu = call.caller()
    ports_of_its_own(lockstep, lockstep.rig.guests[domid], vcpu, call.arguments["virq"], call.arguments["on"])
    return Answer(OKAY)


def _pin(lockstep: Lockstep, call: Call) -> Answer:
    domid, vcpu = call.caller()
    guest, a = lockstep.rig.guests[domid], call.arguments
    done = isinstance(guest, PvGuest) and pinned_for_a_moment(lockstep, guest, vcpu, a["mfn"], a["level"], a["foreign"])
    return Answer(OKAY if done else NOT_DONE.code)


def check_handles(guest: Guest) -> None:
    """Check that each record is either in use or on a free list, once, and that there are not too many of them."""
    track = guest.domain.grant_table.maptrack
    if len(track) > guest.domain.grant_table.max_maptrack_frames * abi.MAPTRACK_PER_FRAME:
        raise Mismatch(f"d{guest.domid} has {len(track)} records of mappings, more than its limit")
    seen = [n for n, record in enumerate(track) if record.flags & 3]
    for vcpu in guest.domain.vcpus:
        handle = vcpu.maptrack_head
        while handle != MAPTRACK_TAIL and len(seen) <= len(track):
            seen.append(handle)
            handle = track[handle].ref
    if sorted(seen) != list(range(len(track))):
        raise Mismatch(f"d{guest.domid} has {len(track)} records, {len(seen)} of them free or in use")


def begin_destroy(lockstep: Lockstep, call: Call) -> CallInFlight:
    """Put a destroydomain of the toolstack's in flight."""
    domid, kernel = call.arguments["domid"], lockstep.rig.kernel
    check_handles(lockstep.rig.guests[domid])
    raw = abi.DOMCTL_HEADER.pack(abi.DOMCTL_DESTROYDOMAIN, abi.DOMCTL_INTERFACE_VERSION, domid, 0, 0, 0)
    write(lockstep.rig.xen, kernel.vcpu, kernel.arg_va, raw.ljust(abi.DOMCTL_SIZE, b"\0"))
    in_flight = CallInFlight(
        f"destroydomain d{domid}", domid, 0, lockstep.rig.xen.hypercall(kernel.vcpu, abi.HYPERVISOR_DOMCTL, kernel.arg_va)
    )
    lockstep.launch(in_flight, fd.follow_destroy(lockstep, in_flight, domid), 0)
    return in_flight


AT_ONCE: dict[str, Callable[[Lockstep, Call], Answer]] = {
    "write_entry": _write_entry,
    "store_in_table": _store_through,
    "store_status": _store_status,
    "end_access": _end_access,
    "access": _access,
    "evtchn_take": _take_events,
    "own_ports": _own_ports,
    "pin_for_a_moment": _pin,
    "createdomain": _create,
    "pausedomain": _pause,
    "unpausedomain": _pause,
}
