"""Chooses a guest's next action: stores to its table, hypercalls with random and hostile arguments, loads and stores.

Each move takes the guest and one of its vCPUs, and makes a `Call`; the target packs its bytes and
picks its follower (lockstep/operations.py). Hostile arguments name existing objects, found through the view (../view.py).
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.pagetables import PTE_A, PTE_D, PTE_P, PTE_RW, PTE_USER
from bulkhead.proofs.refinement.calls import Target, guest_call
from bulkhead.proofs.refinement.lockstep.call import CallInFlight
from bulkhead.proofs.refinement.lockstep.lockstep import POOL
from bulkhead.proofs.refinement.lockstep.operations import told
from bulkhead.proofs.refinement.lockstep.testbed import FIXED, SLOTS, Guest, PvGuest, PvhGuest
from bulkhead.proofs.refinement.view import View
from bulkhead.proofs.refinement.workload.parts import copied_by_reserved, copy_parts, in_part
from bulkhead.proofs.refinement.workload.passed_on import copy_through
from bulkhead.proofs.refinement.workload.physmap import (
    NO_NUMBER,
    as_recorded,
    change_map,
    decrease_at,
    outlived,
    populate_at,
    slot_number,
)
from bulkhead.proofs.refinement.workload.xens_pages import any_page, share_xens

GuestMove = Callable[[Guest, int], None]
NO_FRAME = 0x7FFFFFFF


class GuestCalls(ABC):
    """The moves of guests, chosen from a seed."""

    def __init__(self, view: View, target: Target, rng: random.Random) -> None:
        self.view = view
        self.target = target
        self.rng = rng
        self.text = ""
        self.refs = [n for n in view.size.refs if n < 1000]
        self.moves: list[tuple[float, GuestMove]] = []
        weights: list[tuple[float, GuestMove]] = [
            (20, self.store),
            (22, self.map),
            (18, self.unmap),
            (14, self.copy),
            (4, lambda guest, vcpu: copy_through(self, guest, vcpu)),
            (1.5, lambda guest, vcpu: copy_parts(self, guest, vcpu)),
            (8, lambda guest, vcpu: share_xens(self, guest, vcpu)),
            (3, self.transfer),
            (9, lambda guest, vcpu: change_map(self, guest, vcpu) if isinstance(guest, PvhGuest) else self.mmu(guest, vcpu)),
            (6, self.populate),
            (4, self.decrease),
            (1.2, self.version),
            (1, self.setup),
            (8, self.access),
            (3, self.withdraw),
            (2, self.swap),
            (2, self.flush),
            (1.5, self.stale),
            (7, self.events),
        ]
        total = 0.0
        for weight, move in weights:
            total += weight
            self.moves.append((total, move))

    @abstractmethod
    def finish_calls(self) -> None:
        """Complete all calls in flight; the scheduler overrides this."""

    @abstractmethod
    def advance(self, f: CallInFlight) -> None:
        """Let a call in flight take its next step; the scheduler overrides this."""

    def call(self, guest: Guest, vcpu: int, operation: str, **arguments: Any) -> None:
        """Make a call by a guest."""
        made = guest_call(guest.domid, vcpu, operation, **arguments)
        self.text = told(made)
        self.target.carry_out(made)

    def write_entry(
        self, guest: Guest, ref: int, flags: int, domid: int, mfn: int, keep_bits: bool, part: tuple[int, int] = (0, 0)
    ) -> None:
        """Write a grant entry in addition to the current move's text."""
        self.target.carry_out(
            guest_call(
                guest.domid, 0, "write_entry", ref=ref, flags=flags, domid=domid, mfn=mfn, keep_bits=keep_bits, part=part
            )
        )

    def other(self, guest: Guest) -> int:
        """A domain id, usually of an existing domain."""
        x = self.rng.random()
        ids = [d for d in self.view.domains if d < 4]
        if x < 0.93:
            return ids[int(self.rng.random() * len(ids))]
        return self.rng.choice((1, 2, 3, 99, abi.DOMID_SELF))

    def ref(self) -> int:
        """A reference, often one of a few, so that calls conflict."""
        x = self.rng.random()
        if x < 0.9:
            return self.refs[2 + int(x / 0.9 * (len(self.refs) - 3))] if len(self.refs) > 3 else self.refs[-1]
        return self.rng.choice(self.view.size.refs)

    def page(self, guest: Guest) -> int:
        """A frame number, usually of the guest's own page; of a PVH guest, a guest frame number."""
        x = self.rng.random()
        if isinstance(guest, PvhGuest):
            names = guest.names
            return names[int(self.rng.random() * len(names))] if x < 0.97 else NO_NUMBER
        assert isinstance(guest, PvGuest)
        if guest.pool and x < 0.85:
            return guest.pool[int(self.rng.random() * len(guest.pool))]
        if x < 0.9:
            return guest.window.mfn
        first = self.view.first_mfn
        mfn = first + int(self.rng.random() * self.view.size.heap)
        return guest.window.mfn if self.view.special(mfn) else mfn

    def store(self, guest: Guest, vcpu: int) -> None:
        """Write a grant entry."""
        rng = self.rng
        flags = rng.choice((1, 1, 1, 1, 5, 5, 0, 2, 3, 3, 7, 0x19, 0x101, 0x101, 0x105))
        domid = self.other(guest)
        page = self.page(guest)
        if rng.random() < 0.03:
            page = NO_FRAME
        ref = self.ref()
        table = guest.domain.grant_table
        if table.version == 2 and rng.random() < 0.08:
            flags, ref = rng.choice((0x101, 0x105)), int(rng.random() * 2)  # a part of a page, by a reserved entry
        if flags == 2 and (
            ref < 8
            or ref >= table.nr_entries
            or table.active[ref].pin
            or (table.version == 1 and abi.HEADER.unpack_from(*table.header_at(ref))[0] & 0x18)
        ):
            flags = 1  # in version 1 the bits of a use and of a transfer are the same: their meaning depends on the pin
        if flags == 2 and isinstance(guest, PvhGuest):
            page = slot_number(rng)
        if flags & 3 == abi.GTF_TRANSITIVE and table.version == 2:
            found = self.grant_of(guest.domid) if rng.random() < 0.85 else None
            self.pass_on(guest, ref, flags, domid, *(found or (self.other(guest), self.ref())))
            return
        self.text = f"d{guest.domid}: entry {ref} := flags {flags:#x}, d{domid}, frame {page:#x}"
        part = (int(rng.random() * 3) * 512, rng.choice((0, 512, 2048, 4096))) if flags & abi.GTF_SUB_PAGE else (0, 0)
        self.write_entry(guest, ref, flags, domid, page, rng.random() < 0.9, part)

    def pass_on(self, guest: Guest, ref: int, flags: int, domid: int, dom: int, behind: int) -> None:
        """Write a transitive entry; not over one that is mapped, for which a copy would wait until it is unmapped."""
        table = guest.domain.grant_table
        if ref < table.nr_entries and (act := table.active[ref]).pin and (not act.sub_page or act.trans_dom is guest.domain):
            flags = abi.GTF_INVALID
        self.text = f"d{guest.domid}: entry {ref} := flags {flags:#x}, d{domid}, behind it d{dom} ref {behind}"
        self.write_entry(guest, ref, flags, domid, behind, True, (dom, 0))

    def hostile_store(self) -> None:
        """A granter changes an entry that a call is claiming now."""
        view, rng = self.view, self.rng
        keys = [k for f in view.flights for k in sorted(f.moving)]
        if not keys:
            return
        d, element = keys[int(rng.random() * len(keys))]
        guest = view.guests.get(d)
        if guest is None or guest.domain.is_dying or guest.domain.pause_count or guest.domain.crashed:
            return
        flags = rng.choice((0, 1, 1, 5))
        table, ref = guest.domain.grant_table, view.size.refs[element]
        if table.version == 2 and ref < table.nr_entries and table.entry_v2(ref)[0] & 3 == abi.GTF_TRANSITIVE:
            _, _, dom, _, behind = table.entry_v2(ref)
            self.write_entry(guest, ref, flags | 3, self.other(guest), behind & 0xFFFFFFFF, True, (dom, 0))
            return
        self.write_entry(guest, ref, flags, self.other(guest), self.page(guest), True)

    def grant_of(self, me: int, kinds: tuple[int, ...] = (abi.GTF_PERMIT_ACCESS,)) -> tuple[int, int] | None:
        """A live offer to a domain, as (granter, reference)."""
        offers = []
        for d, domain in self.view.domains.items():
            table = domain.grant_table
            for ref in self.refs if d < 4 else ():
                if ref < table.nr_entries:
                    flags, domid = abi.HEADER.unpack_from(*table.header_at(ref))
                    if domid == me and flags & 3 in kinds:
                        offers.append((d, ref))
        return offers[int(self.rng.random() * len(offers))] if offers else None

    def _named(self, guest: Guest) -> tuple[int, int]:
        copied = in_part(self, guest) if self.rng.random() < 0.5 else None
        if copied is not None:
            return copied
        if self.rng.random() < 0.75:
            found = self.grant_of(guest.domid, (abi.GTF_PERMIT_ACCESS, abi.GTF_TRANSITIVE))
            if found is not None:
                return found
        return self.other(guest), self.ref()

    def _special(self, me: Guest, dom: int, ref: int) -> bool:
        """Does the entry name a page of the hypervisor's own heap? What this workload copies elsewhere are no entries."""
        domain = self.view.domains.get(me.domid if dom == abi.DOMID_SELF else dom)
        return domain is not None and self.view.names_special(domain, ref)

    def map(self, guest: Guest, vcpu: int) -> None:
        """map_grant_ref of one or two grants."""
        rng = self.rng
        if sum(1 for r_ in guest.domain.grant_table.maptrack if r_.flags & 3) >= 7:
            return
        elements = []
        for _ in range(1 if rng.random() < 0.8 else 2):
            dom, ref = self._named(guest)
            if isinstance(guest, PvhGuest) and dom == guest.domid:
                dom = 99  # a PVH guest maps no grants of its own here
            flags = rng.choice((2, 2, 2, 6, 6, 6, 3, 7, 5, 1, 0 if rng.random() < 0.2 else 2))
            slot = int(rng.random() * SLOTS)
            addr = guest.slot_va(slot)
            x = rng.random()
            if x < 0.1:
                addr, flags = guest.slot_maddr(slot), flags | 16
            elif x < 0.13 and isinstance(guest, PvGuest):
                addr = guest.arg(0) & ~0xFFF | 4 if x < 0.115 else 0x1000
                flags |= 16 if x < 0.115 else 0
            elements.append({"slot": slot, "flags": flags, "ref": ref, "dom": dom, "addr": addr})
        self.call(guest, vcpu, "map_grant_ref", elements=elements)

    def unmap(self, guest: Guest, vcpu: int, chosen: int | None = None) -> None:
        """unmap_grant_ref of one or two handles, or of a chosen one."""
        view, rng = self.view, self.rng
        track = guest.domain.grant_table.maptrack
        mine = [n for n, rec in enumerate(track) if rec.flags & 3]
        elements: list[dict[str, int]] = []
        used = set[int]()
        for _ in range(1 if rng.random() < 0.8 else 2):
            handle, slot, bus = int(rng.random() * 20), int(rng.random() * SLOTS), 0
            if mine and rng.random() < 0.93:
                handle = mine[int(rng.random() * len(mine))] if chosen is None or elements else chosen
                rec = track[handle]
                slot = self._slot_of(guest, handle, rec.flags, slot)
                granter = view.domains.get(rec.domid)
                frame = None
                if granter is not None and rec.ref < granter.grant_table.nr_entries:
                    frame = granter.grant_table.active[rec.ref].frame
                if rec.flags & 1 and rng.random() < 0.7:
                    bus = (frame.mfn << 12) if frame is not None and rng.random() < 0.95 else 0x5000
            if handle in used:
                continue
            used.add(handle)
            addr = guest.slot_va(slot) if rng.random() < 0.9 else 0
            rec2 = track[handle] if handle < len(track) else None
            if rec2 is not None and rec2.flags & 16 and addr:
                addr = guest.slot_maddr(slot)
            if isinstance(guest, PvhGuest) and not as_recorded(guest, slot, rec2):
                addr = 0
            if rec2 is not None and outlived(rec2):
                addr = 0
            elements.append({"slot": slot, "addr": addr, "bus": bus, "handle": handle})
        if elements:
            self.call(guest, vcpu, "unmap_grant_ref", elements=elements)

    def _slot_of(self, guest: Guest, handle: int, flags: int, other: int) -> int:
        record = guest.domain.grant_table.maptrack[handle]
        granter = self.view.domains.get(record.domid)
        if granter is None or record.ref >= len(granter.grant_table.active) or self.rng.random() < 0.08:
            return other
        frame = granter.grant_table.active[record.ref].frame
        for slot in range(SLOTS):
            if frame is not None and guest.at_slot(slot) == (frame.mfn, not flags & 4):
                return slot
        return other

    def copy(self, guest: Guest, vcpu: int) -> None:
        """copy of one or two elements."""
        rng = self.rng
        elements = []
        for _ in range(1 if rng.random() < 0.7 else 2):
            sides = []
            for n in range(2):
                if rng.random() < 0.6:
                    dom, ref = self._named(guest)
                    sides.append((True, ref, 99 if n and self._special(guest, dom, ref) else dom))
                else:
                    own = any_page(rng, guest) if n == 0 and rng.random() < 0.1 else None
                    page = self.page(guest) if own is None else own
                    dom = abi.DOMID_SELF
                    if rng.random() < 0.06:
                        dom = rng.choice((0, 1, 2, 3, 99))
                    sides.append((False, page, dom))
            length = 64 if rng.random() < 0.97 else 4000
            (s_ref, src, s_dom), (d_ref, dst, d_dom) = sides
            offs = (int(rng.random() * 63) * 8, 1024 + int(rng.random() * 60) * 8)
            elements.append(
                {
                    "src_ref": s_ref,
                    "src": src,
                    "src_dom": s_dom,
                    "src_off": offs[0],
                    "dst_ref": d_ref,
                    "dst": dst,
                    "dst_dom": d_dom,
                    "dst_off": offs[1],
                    "length": length,
                }
            )
        self.call(guest, vcpu, "copy", elements=elements)

    def transfer(self, guest: Guest, vcpu: int) -> None:
        """transfer, often to a domain that accepts a page."""
        rng, view = self.rng, self.view
        dom, ref = self.other(guest), self.ref()
        for d, other in view.guests.items():
            for number in self.refs[2:]:
                table = other.domain.grant_table
                if number < table.nr_entries and rng.random() < 0.9:
                    flags, domid = abi.HEADER.unpack_from(*table.header_at(number))
                    if flags == 2 and (domid == guest.domid or rng.random() < 0.1):  # seldom one that waits for another's
                        dom, ref = d, number
        if ref < 8 or dom == 0 or guest.domain.external:
            return
        mfn = self.page(guest)
        if mfn in guest.fixed:
            mfn = NO_FRAME
        self.call(guest, vcpu, "transfer", mfn=mfn, dom=dom, ref=ref)

    def mmu(self, guest: Guest, vcpu: int) -> None:
        """mmu_update or update_va_mapping of a window entry: an own page, a status frame, another's page, or nothing."""
        rng, view = self.rng, self.view
        if not isinstance(guest, PvGuest):
            return
        slot = int(rng.random() * SLOTS)
        x = rng.random()
        if x < 0.02:
            self._clear_elsewhere(guest, vcpu)
            return
        foreign = abi.DOMID_SELF
        status = guest.domain.grant_table.status
        if x < 0.45:
            pte = 0
        else:
            mfn = self.page(guest)
            writable = rng.random() < 0.5
            if status and x > 0.9:
                whose = [g for g in view.guests.values() if g.domain.grant_table.status]
                mfn, writable = whose[int(rng.random() * len(whose))].domain.grant_table.status[0].mfn, False
            elif x > 0.85:
                foreign = self.other(guest)
            pte = (mfn << 12) | PTE_P | PTE_USER | PTE_A | PTE_D | (PTE_RW if writable else 0)
        if rng.random() < 0.75 or status:
            self.call(guest, vcpu, "mmu_update", slot=slot, pte=pte, foreign=foreign)
        else:
            self.call(guest, vcpu, "update_va_mapping", slot=slot, pte=pte, flags=rng.choice((0, 0, 2)))

    def _clear_elsewhere(self, guest: Guest, vcpu: int) -> None:
        """mmu_update of another domain's page table."""
        view = self.view
        others = [g for g in view.guests.values() if g is not guest and isinstance(g, PvGuest)]
        if others:
            other = others[int(self.rng.random() * len(others))]
            self.call(guest, vcpu, "mmu_update_elsewhere", dom=other.domid)

    def populate(self, guest: Guest, vcpu: int) -> None:
        """populate_physmap of one or two pages; some guests may take all free pages."""
        count = 1 if self.rng.random() < 0.7 else 2
        if isinstance(guest, PvhGuest):
            populate_at(self, guest, vcpu, count)
            return
        if guest.domain.max_pages > FIXED + POOL:
            count = 1 + int(self.rng.random() * 10)
        self.call(guest, vcpu, "populate_physmap", count=count)

    def decrease(self, guest: Guest, vcpu: int) -> None:
        """decrease_reservation of one page, or of a page twice."""
        if isinstance(guest, PvhGuest):
            decrease_at(self, guest, vcpu)
            return
        mfns = [self.page(guest) for _ in range(1 if self.rng.random() < 0.8 else 2)]
        mfns = [m for m in mfns if m not in guest.fixed]
        if not mfns:
            return
        self.call(guest, vcpu, "decrease_reservation", mfns=mfns)

    def version(self, guest: Guest, vcpu: int) -> None:
        """set_version."""
        version = self.rng.choice((1, 2, 2, 2, 3))
        status = guest.domain.grant_table.status
        if (
            any(frame.count > 1 or (guest.domain.external and frame.m2p >= 0) for frame in status)
            and self.rng.random() < 0.7
        ):
            version = 1  # while status frames are mapped, or have guest frame numbers
        if copied_by_reserved(guest.domain):
            version = 1
        self.call(guest, vcpu, "set_version", version=version)
        self._withdraw_tables(guest)

    def _withdraw_tables(self, guest: Guest) -> None:
        """Stop offering for writing pages that a grown table has taken: no copy of this workload may write there."""
        table = guest.domain.grant_table
        for ref in self.refs:
            if ref < table.nr_entries and self.view.special(table.frame_field(ref)):
                self.write_entry(guest, ref, 0, 0, 0, True)

    def swap(self, guest: Guest, vcpu: int) -> None:
        """swap_grant_ref, unless a call is changing one of the entries now."""
        refs = (self.ref(), self.ref())
        if any(self.view.changing(guest.domid, ref) for ref in refs):
            return
        if self.view.flights and any(self.view.names_special(guest.domain, ref) for ref in refs):
            return  # a copy that has been begun may not find a table where another page was
        self.call(guest, vcpu, "swap_grant_ref", refs=refs)

    def setup(self, guest: Guest, vcpu: int) -> None:
        """setup_table: three frames, or more than the limit."""
        self.call(guest, vcpu, "setup_table", frames=self.rng.choice((0, 1, 3, 4)))
        self._withdraw_tables(guest)

    def access(self, guest: Guest, vcpu: int) -> None:
        """A load or a store."""
        slot = int(self.rng.random() * SLOTS)
        self.call(guest, vcpu, "access", slot=slot, write=self.rng.random() < 0.5)

    def withdraw(self, guest: Guest, vcpu: int) -> None:
        """end_access."""
        self.call(guest, vcpu, "end_access", ref=self.ref())

    def stale(self, guest: Guest, vcpu: int) -> None:
        """Give up a page that a TLB still maps, and let another domain allocate it."""
        view = self.view
        if view.flights or not guest.pool or not isinstance(guest, PvGuest):
            return
        mfn = guest.pool[int(self.rng.random() * len(guest.pool))]
        slot = int(self.rng.random() * SLOTS)
        pte = (mfn << 12) | PTE_P | PTE_RW | PTE_USER | PTE_A | PTE_D
        for value in (pte, 0):
            self.call(guest, vcpu, "update_va_mapping", slot=slot, pte=value, flags=0)
            self.finish_calls()
            self.call(guest, vcpu, "access", slot=slot, write=False)
        self.call(guest, vcpu, "decrease_reservation", mfns=[mfn])
        self.finish_calls()
        other = self.rng.choice(list(view.guests.values()))
        if not (other.domain.is_dying or other.domain.pause_count or other.domain.crashed):
            self.populate(other, 0)

    def events(self, guest: Guest, vcpu: int) -> None:
        """Event channels: open, bind, send, close, query status; rarely, reset all own ports."""
        rng, view, me = self.rng, self.view, guest.domid
        nports = view.size.ports
        ports = guest.domain.events.ports
        port = 1 + int(rng.random() * nports)
        if ports and rng.random() < 0.8:
            port = list(ports)[int(rng.random() * len(ports))]
        x = rng.random()
        if x < 0.28:
            dom = abi.DOMID_SELF if rng.random() < 0.85 else (me, 0, 1, 2, 3, 99)[int(rng.random() * 6)]
            dying = [d for d, domain in view.domains.items() if domain.is_dying]
            dom = dying[0] if dying and rng.random() < 0.3 else dom
            self.call(
                guest, vcpu, "evtchn_alloc_unbound", dom=dom, remote=(0, 1, 2, 3, 99, abi.DOMID_SELF)[int(rng.random() * 6)]
            )
        elif x < 0.6:
            waiting = [
                (d, n)
                for d, other in view.domains.items()
                if d < 4
                for n, p in other.events.ports.items()
                if p.state == 1 and p.remote_domid == me
            ]
            dom, remote_port = self.other(guest), 1 + int(rng.random() * nports)
            if waiting and rng.random() < 0.8:
                dom, remote_port = waiting[int(rng.random() * len(waiting))]
            self.call(guest, vcpu, "evtchn_bind_interdomain", dom=dom, port=remote_port)
        elif x < 0.8:
            self.call(guest, vcpu, "evtchn_send", port=port)
        elif x < 0.9:
            self.call(guest, vcpu, "evtchn_close", port=port)
        elif x < 0.92:
            self.call(guest, vcpu, "evtchn_reset")
        else:
            self.call(guest, vcpu, "evtchn_take")

    def flush(self, guest: Guest, vcpu: int) -> None:
        """mmuext TLB_FLUSH_ALL."""
        if isinstance(guest, PvGuest):
            self.call(guest, vcpu, "tlb_flush")
