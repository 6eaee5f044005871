"""A guest's hypercalls by name: the bytes of each call, and its follower.

One row per hypercall. A workload names the operation and its arguments (`calls.py`); only this module packs bytes for a
guest and picks a follower. Not here: what a guest does without a hypercall (at_once.py), the choice of calls (workload/),
and their execution (lockstep.py, targets.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.hypercall_evtchn import DOMID_PORT, TWO_DOMIDS
from bulkhead.model.caller import OKAY
from bulkhead.proofs.refinement.calls import Answer, Call
from bulkhead.proofs.refinement.lockstep import follow_domains as fd
from bulkhead.proofs.refinement.lockstep import follow_grants as fg
from bulkhead.proofs.refinement.lockstep import follow_physmap as fp
from bulkhead.proofs.refinement.lockstep.call import (
    CallInFlight,
    CopyElement,
    Follower,
    MapElement,
    UnmapElement,
    status_name,
)
from bulkhead.proofs.refinement.lockstep.lockstep import Lockstep
from bulkhead.proofs.refinement.lockstep.testbed import Guest

Arguments = tuple[int, ...]
Packed = tuple[Arguments, bytes]  # the hypercall's arguments, and the bytes in the caller's argument page


@dataclass(frozen=True)
class Operation:
    """A hypercall: its number, the bytes of a call, its follower, a line of text, and its number of calls in the rules."""

    number: int
    pack: Callable[[Lockstep, Guest, int, Call], Packed]
    follow: Callable[[Lockstep, CallInFlight, Call], Follower]
    text: Callable[[Call], str]
    ncalls: Callable[[Call], int] = lambda call: 1


def start(lockstep: Lockstep, call: Call, text: str = "") -> CallInFlight:
    """Put a guest's call in flight, with its own or another line of text; it takes its first step when advanced."""
    domid, vcpu = call.caller()
    guest, operation = lockstep.rig.guests[domid], OPERATIONS[call.operation]
    args, payload = operation.pack(lockstep, guest, vcpu, call)
    in_flight = CallInFlight(
        text or told(call), domid, vcpu, guest.start(vcpu, operation.number, args, payload), guest=guest, call=call
    )
    lockstep.launch(in_flight, operation.follow(lockstep, in_flight, call), operation.ncalls(call))
    return in_flight


def answer(lockstep: Lockstep, f: CallInFlight) -> Answer:
    """The answer of a returned call: okay or errno's name; the status of each of its elements, or its result."""
    code = OKAY if f.rc >= 0 else fd.ERRNO.get(f.rc, str(f.rc))
    if f.call is None or f.call.operation not in STATUSES:
        return Answer(code, f.rc if f.rc > 0 else None)
    at, size = STATUSES[f.call.operation]
    count = len(f.call.arguments.get("elements", (0,)))
    raw = lockstep.bytes(f, 0, at + size * (count - 1) + 2)
    return Answer(code, [status_name(abi.STATUS.unpack_from(raw, at + size * n)[0]) for n in range(count)])


def told(call: Call) -> str:
    """A call as a line of text."""
    if call.operation in OPERATIONS:
        return f"{call.by}: {OPERATIONS[call.operation].text(call)}"
    return f"{call.by}: {call.operation} " + " ".join(f"{name}={value}" for name, value in call.arguments.items())


# --- grants ---


def maps(call: Call) -> list[MapElement]:
    """The elements of map_grant_ref."""
    return [MapElement(**e) for e in call.arguments["elements"]]


def unmaps(call: Call) -> list[UnmapElement]:
    """The elements of unmap_grant_ref."""
    return [UnmapElement(**e) for e in call.arguments["elements"]]


def copies(call: Call) -> list[CopyElement]:
    """The elements of copy."""
    return [CopyElement(**e) for e in call.arguments["elements"]]


def _grant(
    cmd: int,
    elements: Callable[[Call], Sequence[Any]],
    pack: Callable[[Any], bytes],
    follow: Callable[[Lockstep, CallInFlight, list[Any]], Follower],
    name: str,
    *,
    one_call: bool = True,
) -> Operation:
    """A grant operation on a list of elements."""
    return Operation(
        abi.HYPERVISOR_GRANT_TABLE_OP,
        lambda b, guest, vcpu, call: (
            (cmd, guest.arg(vcpu), len(call.arguments["elements"])),
            b"".join(pack(e) for e in elements(call)),
        ),
        lambda b, f, call: follow(b, f, list(elements(call))),
        lambda call: f"{name} {elements(call)}",
        lambda call: 1 if one_call else len(call.arguments["elements"]),
    )


def _grant_one(
    cmd: int,
    pack: Callable[[Call], bytes],
    follow: Callable[[Lockstep, CallInFlight, Call], Follower],
    text: Callable[[Call], str],
) -> Operation:
    """A grant operation on one element."""
    return Operation(
        abi.HYPERVISOR_GRANT_TABLE_OP, lambda b, guest, vcpu, call: ((cmd, guest.arg(vcpu), 1), pack(call)), follow, text
    )


def _pack_setup(lockstep: Lockstep, guest: Guest, vcpu: int, call: Call) -> Packed:
    base = guest.arg(vcpu)
    return (2, base, 1), abi.SETUP_TABLE.pack(abi.DOMID_SELF, 0, call.arguments["frames"], 0, 0, 0, base + 128)


def _follow_transfer(lockstep: Lockstep, f: CallInFlight, call: Call) -> Follower:
    return fg.follow_transfer(lockstep, f, call.arguments["mfn"], call.arguments["dom"], call.arguments["ref"])


# --- memory ---


def _pack_mmu(lockstep: Lockstep, guest: Guest, vcpu: int, call: Call) -> Packed:
    a = call.arguments
    return ((guest.arg(vcpu), 1, 0, a["foreign"]), abi.MMU_UPDATE.pack(guest.slot_maddr(a["slot"]), a["pte"]))


def _follow_mmu(lockstep: Lockstep, f: CallInFlight, call: Call) -> Follower:
    a = call.arguments
    return fd.follow_mmu(lockstep, f, a["slot"], a["pte"], a["foreign"], True)


def _follow_va(lockstep: Lockstep, f: CallInFlight, call: Call) -> Follower:
    return fd.follow_mmu(lockstep, f, call.arguments["slot"], call.arguments["pte"], abi.DOMID_SELF, False)


def _pack_elsewhere(lockstep: Lockstep, guest: Guest, vcpu: int, call: Call) -> Packed:
    other = lockstep.rig.guests[call.arguments["dom"]]
    return (guest.arg(vcpu), 1, 0, abi.DOMID_SELF), abi.MMU_UPDATE.pack(other.slot_maddr(0), 0)


def _reservation(base: int, extents: Sequence[int]) -> bytes:
    """struct xen_memory_reservation, and the list of extents behind it."""
    head = abi.MEMORY_RESERVATION.pack(base + EXTENTS_AT, len(extents), 0, 0, abi.DOMID_SELF, 0, 0) + bytes(32)
    return head + b"".join(abi.U64.pack(e) for e in extents)


def _pack_populate(lockstep: Lockstep, guest: Guest, vcpu: int, call: Call) -> Packed:
    base = guest.arg(vcpu)
    wanted = [0x1000 + i for i in range(call.arguments["count"])]
    return (abi.XENMEM_POPULATE_PHYSMAP, base), _reservation(base, wanted)


def _pack_decrease(lockstep: Lockstep, guest: Guest, vcpu: int, call: Call) -> Packed:
    base = guest.arg(vcpu)
    return (abi.XENMEM_DECREASE_RESERVATION, base), _reservation(base, call.arguments["mfns"])


def _text_decrease(call: Call) -> str:
    return f"decrease_reservation {call.arguments['mfns']}"


# --- a PVH guest's map ---


def _pack_gfns(lockstep: Lockstep, guest: Guest, vcpu: int, call: Call) -> Packed:
    base = guest.arg(vcpu)
    cmd = abi.XENMEM_POPULATE_PHYSMAP if call.operation == "populate_physmap_at" else abi.XENMEM_DECREASE_RESERVATION
    return (cmd, base), _reservation(base, call.arguments["gfns"])


def _pack_batch(guest: Guest, vcpu: int, space: int, foreign: int, indexes: Sequence[int], gfns: Sequence[int]) -> Packed:
    base = guest.arg(vcpu)
    at, to = fp.LISTS_AT
    head = abi.ADD_TO_PHYSMAP_BATCH.pack(
        abi.DOMID_SELF, space, len(gfns), foreign, base + at, base + to, base + fp.ERRORS_AT
    )
    one, two = (b"".join(map(abi.U64.pack, numbers)) for numbers in (indexes, gfns))
    return (abi.XENMEM_ADD_TO_PHYSMAP_BATCH, base), (head.ljust(at, b"\0") + one).ljust(to, b"\0") + two


def _pack_space(space: int, index: int, gfn: int, guest: Guest, vcpu: int, count: int = 0) -> Packed:
    return (abi.XENMEM_ADD_TO_PHYSMAP, guest.arg(vcpu)), abi.ADD_TO_PHYSMAP.pack(abi.DOMID_SELF, count, space, index, gfn)


def _xens_page(f: CallInFlight, space: int, number: int) -> int:
    """The page of Xen's that an index names now, or -1."""
    assert f.guest is not None
    domain = f.guest.domain
    if space == abi.XENMAPSPACE_SHARED_INFO:
        pages = [domain.shared_info]
    else:
        status = number & abi.XENMAPIDX_GRANT_TABLE_STATUS
        pages = list(domain.grant_table.status if status else domain.grant_table.shared)
    index = number & ~abi.XENMAPIDX_GRANT_TABLE_STATUS
    page = pages[index] if index < len(pages) else None
    return -1 if page is None else page.mfn


def _follow_put(lockstep: Lockstep, f: CallInFlight, call: Call) -> Follower:
    a = call.arguments
    return fp.follow_put(lockstep, f, a["gfn"], _xens_page(f, a["space"], a["index"]))


def _follow_batch(lockstep: Lockstep, f: CallInFlight, call: Call) -> Follower:
    a = call.arguments
    own = a["space"] == abi.XENMAPSPACE_GMFN
    pages = None if own else [_xens_page(f, a["space"], index) for index in a["indexes"]]
    return fp.follow_batch(lockstep, f, pages, list(a["indexes"]), list(a["gfns"]))


# --- event channels ---


def _event(
    cmd: int,
    pack: Callable[[Call], bytes],
    rule: str,
    args: Callable[[Lockstep, int, Call], dict[str, int]],
    text: Callable[[Call], str],
    port_at: int | None = None,
) -> Operation:
    """An event channel operation: one rule step, with arguments that are elements."""
    return Operation(
        abi.HYPERVISOR_EVENT_CHANNEL_OP,
        lambda b, guest, vcpu, call: ((cmd, guest.arg(vcpu)), pack(call)),
        lambda b, f, call: fd.follow_event(b, f, rule, {"caller": f.domid, **args(b, f.domid, call)}, port_at),
        text,
    )


def _named(lockstep: Lockstep, me: int, dom: int) -> int:
    """The element of a domain that a call names."""
    return me if dom == abi.DOMID_SELF else lockstep.spec_state.domain(dom)


def _port(lockstep: Lockstep, me: int, call: Call) -> dict[str, int]:
    return {"q": call.arguments["port"] - 1}


STATUSES = {
    "map_grant_ref": (18, abi.MAP_GRANT_REF.size),
    "unmap_grant_ref": (20, abi.UNMAP_GRANT_REF.size),
    "copy": (36, abi.COPY.size),
    "transfer": (16, abi.TRANSFER.size),
    "swap_grant_ref": (8, abi.SWAP_GRANT_REF.size),
}  # offset of the first element's status, and the size of an element
EXTENTS_AT = 64  # offset of a reservation's extents in the argument area

OPERATIONS: dict[str, Operation] = {
    "map_grant_ref": _grant(
        0, maps, lambda e: abi.MAP_GRANT_REF.pack(e.addr, e.flags, e.ref, e.dom, 0, 0, 0), fg.follow_map, "map_grant_ref"
    ),
    "unmap_grant_ref": _grant(
        1,
        unmaps,
        lambda e: abi.UNMAP_GRANT_REF.pack(e.addr, e.bus, e.handle, 0, 0),
        fg.follow_unmap,
        "unmap_grant_ref",
        one_call=False,
    ),
    "copy": _grant(
        5,
        copies,
        lambda e: abi.COPY.pack(
            e.src, e.src_dom, e.src_off, 0, e.dst, e.dst_dom, e.dst_off, 0, e.length, e.src_ref | e.dst_ref << 1, 0, 0
        ),
        fg.follow_copy,
        "copy",
    ),
    "transfer": _grant_one(
        4,
        lambda c: abi.TRANSFER.pack(c.arguments["mfn"], c.arguments["dom"], 0, c.arguments["ref"], 0, 0, 0),
        _follow_transfer,
        lambda c: f"transfer {c.arguments['mfn']:#x} to d{c.arguments['dom']} ref {c.arguments['ref']}",
    ),
    "set_version": _grant_one(
        8,
        lambda c: abi.SET_VERSION.pack(c.arguments["version"]),
        lambda b, f, c: fd.follow_version(b, f, c.arguments["version"]),
        lambda c: f"set_version {c.arguments['version']}",
    ),
    "swap_grant_ref": _grant_one(
        11,
        lambda c: abi.SWAP_GRANT_REF.pack(*c.arguments["refs"], 0, 0),
        lambda b, f, c: fg.follow_swap(b, f, tuple(c.arguments["refs"])),
        lambda c: f"swap_grant_ref {tuple(c.arguments['refs'])}",
    ),
    "setup_table": Operation(
        abi.HYPERVISOR_GRANT_TABLE_OP,
        _pack_setup,
        lambda b, f, c: fd.follow_setup(b, f, c.arguments["frames"]),
        lambda c: f"setup_table {c.arguments['frames']}",
    ),
    "mmu_update": Operation(
        abi.HYPERVISOR_MMU_UPDATE,
        _pack_mmu,
        _follow_mmu,
        lambda c: f"mmu_update slot {c.arguments['slot']} := {c.arguments['pte']:#x} of {c.arguments['foreign']:#x}",
    ),
    "mmu_update_elsewhere": Operation(
        abi.HYPERVISOR_MMU_UPDATE,
        _pack_elsewhere,
        lambda b, f, c: fd.follow_clear_elsewhere(b, f),
        lambda c: f"mmu_update of an entry of d{c.arguments['dom']}",
    ),
    "update_va_mapping": Operation(
        abi.HYPERVISOR_UPDATE_VA_MAPPING,
        lambda b, guest, vcpu, c: ((guest.slot_va(c.arguments["slot"]), c.arguments["pte"], c.arguments["flags"]), b""),
        _follow_va,
        lambda c: f"update_va_mapping slot {c.arguments['slot']} := {c.arguments['pte']:#x}",
    ),
    "tlb_flush": Operation(
        abi.HYPERVISOR_MMUEXT_OP,
        lambda b, guest, vcpu, c: (
            (guest.arg(vcpu), 1, 0, abi.DOMID_SELF),
            abi.MMUEXT_OP.pack(abi.MMUEXT_TLB_FLUSH_ALL, 0, 0, 0),
        ),
        lambda b, f, c: fd.follow_flush(b, f),
        lambda c: "flush",
    ),
    "populate_physmap": Operation(
        abi.HYPERVISOR_MEMORY_OP,
        _pack_populate,
        lambda b, f, c: fd.follow_populate(b, f, c.arguments["count"]),
        lambda c: f"populate_physmap {c.arguments['count']}",
    ),
    "decrease_reservation": Operation(
        abi.HYPERVISOR_MEMORY_OP,
        _pack_decrease,
        lambda b, f, c: fd.follow_decrease(b, f, list(c.arguments["mfns"])),
        _text_decrease,
    ),
    "populate_physmap_at": Operation(
        abi.HYPERVISOR_MEMORY_OP,
        _pack_gfns,
        lambda b, f, c: fp.follow_populate_at(b, f, list(c.arguments["gfns"])),
        lambda c: f"populate_physmap at {c.arguments['gfns']}",
    ),
    "decrease_reservation_at": Operation(
        abi.HYPERVISOR_MEMORY_OP,
        _pack_gfns,
        lambda b, f, c: fp.follow_decrease_at(b, f, list(c.arguments["gfns"])),
        lambda c: f"decrease_reservation at {c.arguments['gfns']}",
    ),
    "remove_from_physmap": Operation(
        abi.HYPERVISOR_MEMORY_OP,
        lambda b, guest, vcpu, c: (
            (abi.XENMEM_REMOVE_FROM_PHYSMAP, guest.arg(vcpu)),
            abi.REMOVE_FROM_PHYSMAP.pack(abi.DOMID_SELF, c.arguments["gfn"]),
        ),
        lambda b, f, c: fp.follow_remove(b, f, c.arguments["gfn"]),
        lambda c: f"remove_from_physmap {c.arguments['gfn']:#x}",
    ),
    "move_in_physmap": Operation(
        abi.HYPERVISOR_MEMORY_OP,
        lambda b, guest, vcpu, c: _pack_space(abi.XENMAPSPACE_GMFN, c.arguments["was"], c.arguments["gfn"], guest, vcpu),
        lambda b, f, c: fp.follow_move(b, f, c.arguments["was"], c.arguments["gfn"]),
        lambda c: f"add_to_physmap {c.arguments['gfn']:#x}: the page at {c.arguments['was']:#x}",
    ),
    "add_to_physmap": Operation(
        abi.HYPERVISOR_MEMORY_OP,
        lambda b, guest, vcpu, c: _pack_space(c.arguments["space"], c.arguments["index"], c.arguments["gfn"], guest, vcpu),
        _follow_put,
        lambda c: f"add_to_physmap {c.arguments['gfn']:#x}: page {c.arguments['index']:#x} of {c.arguments['space']}",
    ),
    "move_range_in_physmap": Operation(
        abi.HYPERVISOR_MEMORY_OP,
        lambda b, guest, vcpu, c: _pack_space(
            abi.XENMAPSPACE_GMFN_RANGE, c.arguments["was"], c.arguments["gfn"], guest, vcpu, c.arguments["count"]
        ),
        lambda b, f, c: fp.follow_range(b, f, c.arguments["was"], c.arguments["gfn"], c.arguments["count"]),
        lambda c: f"add_to_physmap {c.arguments['gfn']:#x}: {c.arguments['count']} pages from {c.arguments['was']:#x} on",
    ),
    "add_to_physmap_batch": Operation(
        abi.HYPERVISOR_MEMORY_OP,
        lambda b, guest, vcpu, c: _pack_batch(
            guest, vcpu, c.arguments["space"], 0, c.arguments["indexes"], c.arguments["gfns"]
        ),
        _follow_batch,
        lambda c: f"add_to_physmap_batch {c.arguments['gfns']}: {c.arguments['indexes']} of {c.arguments['space']}",
    ),
    "add_to_physmap_foreign": Operation(
        abi.HYPERVISOR_MEMORY_OP,
        lambda b, guest, vcpu, c: _pack_batch(
            guest, vcpu, abi.XENMAPSPACE_GMFN_FOREIGN, c.arguments["dom"], [c.arguments["number"]], [c.arguments["gfn"]]
        ),
        lambda b, f, c: fp.follow_foreign(b, f),
        lambda c: f"add_to_physmap_batch {c.arguments['gfn']:#x}: d{c.arguments['dom']}'s {c.arguments['number']:#x}",
    ),
    "evtchn_alloc_unbound": _event(
        abi.EVTCHNOP_ALLOC_UNBOUND,
        lambda c: TWO_DOMIDS.pack(c.arguments["dom"], c.arguments["remote"], 0),
        "evtchn_alloc_unbound",
        lambda b, me, c: {"d": _named(b, me, c.arguments["dom"]), "remote": _named(b, me, c.arguments["remote"])},
        lambda c: f"alloc_unbound in {c.arguments['dom']:#x} for d{c.arguments['remote']}",
        4,
    ),
    "evtchn_bind_interdomain": _event(
        abi.EVTCHNOP_BIND_INTERDOMAIN,
        lambda c: DOMID_PORT.pack(c.arguments["dom"], 0, c.arguments["port"], 0),
        "evtchn_bind_interdomain",
        lambda b, me, c: {"e": _named(b, me, c.arguments["dom"]), "o": c.arguments["port"] - 1},
        lambda c: f"bind_interdomain to d{c.arguments['dom']} port {c.arguments['port']}",
        8,
    ),
    "evtchn_send": _event(
        abi.EVTCHNOP_SEND,
        lambda c: abi.U32.pack(c.arguments["port"]),
        "evtchn_send",
        _port,
        lambda c: f"send {c.arguments['port']}",
    ),
    "evtchn_close": _event(
        abi.EVTCHNOP_CLOSE,
        lambda c: abi.U32.pack(c.arguments["port"]),
        "evtchn_close",
        _port,
        lambda c: f"close {c.arguments['port']}",
    ),
    "evtchn_reset": _event(
        abi.EVTCHNOP_RESET,
        lambda c: abi.U16.pack(abi.DOMID_SELF),
        "evtchn_reset",
        lambda b, me, c: {},
        lambda c: "reset of its ports",
    ),
}
