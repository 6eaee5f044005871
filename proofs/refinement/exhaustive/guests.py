"""A small machine for exhaustive search: the actions of its two guests, and the identity of its states.

One guest grants, the other maps and copies. Every step of a call that yields is a separate action, so all interleavings
of the calls in flight are explored. `limits.py` has the bounds that make the search finite. `canonical` names
frames and handles by where they occur, because the machine's behaviour does not depend on their numbers.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.domains import Domain
from bulkhead.impl.xen.frames import Frame
from bulkhead.impl.xen.pagetables import PTE_A, PTE_D, PTE_MFN, PTE_P, PTE_RW, PTE_USER, read_pte
from bulkhead.impl.xen.scheduler import HELD
from bulkhead.proofs.refinement.calls import Call, guest_call
from bulkhead.proofs.refinement.exhaustive import dom0 as small_dom0
from bulkhead.proofs.refinement.exhaustive.dom0 import WorldOfProcesses
from bulkhead.proofs.refinement.exhaustive.limits import GRANTER, MAPPER, Action, Limits
from bulkhead.proofs.refinement.lockstep.at_once import begin_destroy
from bulkhead.proofs.refinement.lockstep.lockstep import Lockstep
from bulkhead.proofs.refinement.lockstep.operations import start as start_call
from bulkhead.proofs.refinement.lockstep.rule_steps import Mismatch
from bulkhead.proofs.refinement.lockstep.spec_world import Rules
from bulkhead.proofs.refinement.lockstep.testbed import SLOTS, Guest, PvGuest


def start(rules: Rules, limits: Limits) -> Lockstep:
    """Two guests; the granter has its pages, the mapper none of its own."""
    lockstep = WorldOfProcesses(rules, 1, full_every=1) if limits.processes else Lockstep(rules, 1, full_every=1)
    if isinstance(lockstep, WorldOfProcesses):
        small_dom0.add_dom0(lockstep)
    _create(lockstep, limits)
    lockstep.create(MAPPER)
    return lockstep


def _create(lockstep: Lockstep, limits: Limits) -> None:
    if not lockstep.create(GRANTER):
        raise Mismatch("there is no room for the granter")
    for _ in range(limits.pages):
        _populate(lockstep, lockstep.rig.guests[GRANTER])
        while lockstep.flights:
            lockstep.advance(lockstep.flights[0])


# --- enabled actions ---


def actions(lockstep: Lockstep, limits: Limits) -> list[Action]:
    """The enabled actions."""
    holder = next((i for i, f in enumerate(lockstep.flights) if f.marker in HELD or f.must_finish_first), None)
    granter, mapper = lockstep.rig.guests.get(GRANTER), lockstep.rig.guests.get(MAPPER)
    stores: list[Action] = []
    if granter is not None and not granter.domain.is_dying:
        stores = [
            ("entry", ref, flags, n, to)
            for ref in limits.refs
            for flags in (1, 5)
            for n in range(len(granter.pool))
            for to in limits.grantees()
        ]
        stores += [("entry", ref, 0, 0, limits.grantees()[0]) for ref in limits.refs]
    if holder is not None:
        return [("step", holder), *([] if lockstep.flights[holder].must_finish_first else stores)]
    out: list[Action] = [("step", i) for i in range(len(lockstep.flights))]
    if len(lockstep.flights) >= limits.flights:
        return out + stores
    if granter is not None and not granter.domain.is_dying and _idle(lockstep, GRANTER):
        out += stores
        out += [("decrease", n) for n in range(len(granter.pool))]
        out += [("self_map", n) for n in range(len(granter.pool))]
        if granter.at_slot(0) is not None:
            out.append(("clear", GRANTER, 0))
        if len(granter.pool) < limits.pages and lockstep.can_populate(granter):
            out.append(("populate",))
        if not lockstep.flights:
            out.append(("destroy",))
            if limits.versions:
                out.append(("version", 3 - granter.domain.grant_table.version))
    if limits.again and GRANTER not in lockstep.rig.xen.domains and not lockstep.flights:
        out.append(("create",))
    if mapper is not None and not mapper.domain.crashed and _idle(lockstep, MAPPER):
        out += _of_mapper(mapper, limits)
    if isinstance(lockstep, WorldOfProcesses) and not lockstep.flights:
        out += small_dom0.actions(lockstep, limits)
    return out


def _of_mapper(mapper: Guest, limits: Limits) -> Iterator[Action]:
    live = _live(mapper)
    if len(live) < limits.records:
        yield from (("map", ref, flags) for ref in limits.refs for flags in (2, 6))
    if limits.copies:
        yield from (("copy", ref) for ref in limits.refs)
    for slot in range(2):
        if mapper.at_slot(slot) is not None:
            yield from (("clear", MAPPER, slot), ("load", slot))
    yield from (("unmap", rank) for rank in range(len(live)))


def _live(mapper: Guest) -> list[tuple[int, int]]:
    """Handles of mappings, and the slots at which they were mapped."""
    track = mapper.domain.grant_table.maptrack
    return [(n, 0 if record.flags & 4 else 1) for n, record in enumerate(track) if record.flags & 3]


def _idle(lockstep: Lockstep, domid: int) -> bool:
    return not any(f.domid == domid for f in lockstep.flights)


# --- taking an action ---


def act(lockstep: Lockstep, action: Action, limits: Limits) -> None:
    """Take an action, and compare both sides."""
    name, *numbers = action
    guests = lockstep.rig.guests
    if isinstance(lockstep, WorldOfProcesses) and name == "process":
        small_dom0.act(lockstep, action)
    elif name == "step":
        lockstep.advance(lockstep.flights[numbers[0]])
    elif name == "entry":
        ref, flags, n, to = numbers
        granter = guests[GRANTER]
        lockstep.steps += 1
        lockstep.store_entry(granter, ref, flags, to, sorted(granter.pool)[n] if granter.pool else 0, True)
        lockstep.compare_all()
    elif name == "decrease":
        granter = guests[GRANTER]
        mfn = sorted(granter.pool)[numbers[0]]
        _call(lockstep, granter, "decrease", "decrease_reservation", mfns=[mfn])
    elif name == "create":
        _create(lockstep, limits)
    elif name == "populate":
        _populate(lockstep, guests[GRANTER])
    elif name == "version":
        _call(lockstep, guests[GRANTER], f"set_version {numbers[0]}", "set_version", version=numbers[0])
    elif name == "destroy":
        lockstep.advance(begin_destroy(lockstep, Call("destroydomain", "d0", {"domid": GRANTER})))
    elif name == "self_map":
        pte = sorted(guests[GRANTER].pool)[numbers[0]] << 12 | PTE_P | PTE_RW | PTE_USER | PTE_A | PTE_D
        _update(lockstep, guests[GRANTER], 0, pte)
    elif name == "clear":
        _update(lockstep, guests[numbers[0]], numbers[1], 0)
    else:
        _mapper_acts(lockstep, guests[MAPPER], name, numbers)


def _mapper_acts(lockstep: Lockstep, mapper: Guest, name: str, numbers: list[int]) -> None:
    if name == "map":
        ref, flags = numbers
        slot = 0 if flags == 6 else 1
        element = {"slot": slot, "flags": flags, "ref": ref, "dom": GRANTER, "addr": mapper.slot_va(slot)}
        _call(lockstep, mapper, f"map {ref} {flags}", "map_grant_ref", elements=[element])
    elif name == "unmap":
        handle, slot = _live(mapper)[numbers[0]]
        unmapping = {"slot": slot, "addr": mapper.slot_va(slot), "bus": 0, "handle": handle}
        _call(lockstep, mapper, f"unmap of {numbers[0]}", "unmap_grant_ref", elements=[unmapping])
    elif name == "copy":
        ref = numbers[0]
        side = {
            "src_ref": True,
            "src": ref,
            "src_dom": GRANTER,
            "src_off": 0,
            "dst_ref": True,
            "dst": ref,
            "dst_dom": GRANTER,
            "dst_off": 64,
            "length": 32,
        }
        _call(lockstep, mapper, f"copy {ref}", "copy", elements=[side])
    elif name == "load":
        lockstep.steps += 1
        lockstep.access(mapper, 0, numbers[0], bool(numbers[0]))
        lockstep.compare_all()


def _call(lockstep: Lockstep, guest: Guest, text: str, operation: str, **arguments: Any) -> None:
    """Start a call on the guest's first free vCPU and take its first step. `text` is part of the state's identity."""
    busy = {f.vcpu for f in lockstep.flights if f.domid == guest.domid and f.guest is not None}
    vcpu = next(v for v in (0, 1) if v not in busy)
    in_flight = start_call(lockstep, guest_call(guest.domid, vcpu, operation, **arguments), f"d{guest.domid}v{vcpu}: {text}")
    lockstep.advance(in_flight)


def _populate(lockstep: Lockstep, guest: Guest) -> None:
    _call(lockstep, guest, "populate", "populate_physmap", count=1)


def _update(lockstep: Lockstep, guest: Guest, slot: int, pte: int) -> None:
    _call(lockstep, guest, f"mmu_update {slot} {bool(pte)}", "mmu_update", slot=slot, pte=pte, foreign=abi.DOMID_SELF)


# --- identity of states ---


class _Names:
    """Canonical names of frames: a guest's fixed pages and Xen's pages by their place, others by first occurrence."""

    def __init__(self, lockstep: Lockstep) -> None:
        self.given: dict[int, object] = {}
        self.order: list[Frame] = []
        self.table = lockstep.rig.xen.frames.table
        for d, domain in sorted(lockstep.rig.xen.domains.items()):
            grants = domain.grant_table
            for kind, frames in (("t", grants.shared), ("s", grants.status), ("i", [domain.shared_info])):
                self.given |= {f.mfn: (kind, d, n) for n, f in enumerate(frames) if f is not None}
        for d, guest in sorted(lockstep.rig.guests.items()):
            self.given |= {mfn: ("g", d, n) for n, mfn in enumerate(guest.fixed)}

    def of(self, mfn: int) -> object:
        """The name of a frame number."""
        if mfn not in self.given:
            frame = self.table.get(mfn)
            if frame is None:
                return ("no frame", mfn)
            self.given[mfn] = len(self.order)
            self.order.append(frame)
        return self.given[mfn]


def canonical(lockstep: Lockstep) -> bytes:
    """The data that determine the machine's further behaviour, with canonical names for frames and handles.

    Omitted, because nothing depends on them: contents of pages, the number of frees of a frame, the numbers of free handles,
    and the rules' ghost state.
    """
    names = _Names(lockstep)
    xen = lockstep.rig.xen
    parts: list[object] = [_of_domain(lockstep, d, domain, names) for d, domain in sorted(xen.domains.items()) if d]
    parts += [_of_guest(guest, names) for _, guest in sorted(lockstep.rig.guests.items())]
    parts += [(f.text, f.marker, tuple(f.seen), f.must_finish_first, _locals(f.steps, names)) for f in lockstep.flights]
    parts.append(sorted(lockstep.overwritten_bits))
    if isinstance(lockstep, WorldOfProcesses):
        parts += small_dom0.canonical(lockstep, names.of)
    free = [frame.mfn for frame in xen.frames.free_list]
    parts.append([(n, names.given[mfn]) for n, mfn in enumerate(free) if mfn in names.given])
    for d, guest in sorted(lockstep.rig.guests.items()):
        # A TLB is flushed when a frame freed since its last flush is allocated again.
        parts += [
            sum(xen.frames.table[mfn].free_stamp < vcpu.tlb.flushed_at for mfn in free)
            for vcpu in guest.domain.vcpus
            if vcpu.tlb.entries
        ]
    for frame in names.order:
        owner = -1 if frame.owner is None else frame.owner.domid
        parts.append(
            (
                owner,
                frame.count,
                frame.tcount,
                frame.ptype if frame.tcount else 0,
                frame.allocated,
                frame.dirty,
                frame.xenheap,
            )
        )
    known = set(names.given)
    parts.append(
        sorted(
            (frame.owner.domid if frame.owner is not None else -1, frame.count, frame.tcount)
            for mfn, frame in xen.frames.table.items()
            if mfn not in known and mfn >= lockstep.rig.first_mfn
        )
    )
    return repr(parts).encode()


def _of_domain(lockstep: Lockstep, d: int, domain: Domain, names: _Names) -> object:
    table = domain.grant_table
    entries = []
    for ref in lockstep.spec_state.size.refs:
        if ref >= table.nr_entries:
            continue
        flags, domid, *rest = table.entry_v1(ref) if table.version == 1 else table.entry_v2(ref)
        act = table.active[ref]
        used = (act.pin, act.domid, names.of(act.frame.mfn), act.sub_page) if act.pin and act.frame is not None else ()
        bits = abi.U16.unpack_from(*table.status_at(ref))[0]
        entries.append((flags, domid, rest[:-1], names.of(rest[-1]) if flags & 3 else 0, bits, used))
    records = small_dom0.records(lockstep, table)
    return (
        d,
        domain.is_dying,
        domain.pause_count,
        domain.crashed,
        domain.tot_pages,
        domain.xenheap_pages,
        domain.refs,
        table.version,
        entries,
        records,
    )


def _of_guest(guest: Guest, names: _Names) -> object:
    assert isinstance(guest, PvGuest)
    slots = []
    if guest.domain.vcpus[0].cr3 is not None:
        for slot in range(SLOTS):
            pte = read_pte(guest.window, slot)
            slots.append((pte & ~PTE_MFN, names.of((pte & PTE_MFN) >> 12)) if pte & PTE_P else 0)
    tlbs = [
        sorted(
            (vpn - guest.first_vpn, str(names.of(frame.mfn)), writable)
            for vpn, (frame, writable, _) in vcpu.tlb.entries.items()
            if 0 <= vpn - guest.first_vpn < SLOTS
        )
        for vcpu in guest.domain.vcpus
    ]
    return guest.domid, slots, tlbs, sorted(str(names.of(mfn)) for mfn in guest.pool)


NUMBERED = frozenset({"handle", "new_handle", "mfn", "given"})  # locals that contain numbers of handles or frames


def _locals(steps: Generator[str, None, int], names: _Names) -> list[object]:
    """The saved state of a call in flight: the variables of its functions that are plain values or frames."""
    out: list[object] = []
    running: Any = steps
    while running is not None and getattr(running, "gi_frame", None) is not None:
        for name, value in sorted(running.gi_frame.f_locals.items()):
            if isinstance(value, Frame):
                out.append((name, names.of(value.mfn)))
            elif isinstance(value, bool | int) and name not in NUMBERED:
                out.append((name, value))
        running = running.gi_yieldfrom
    return out
