"""Long seeded campaigns: guests make random and hostile calls that interleave wherever the implementation yields.

A campaign is cut into legs; each leg starts from a fresh machine whose seed follows from the campaign's, and ends with the
destruction of all domains and the check that nothing is left. The same seed gives the same run, with or without the rules.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace

from impl.xen import abi
from impl.xen.domains import MAPTRACK_TAIL
from impl.xen.pagetables import PTE_A, PTE_D, PTE_P, PTE_RW, PTE_USER
from impl.xen.scheduler import HELD
from proofs.refinement import rules_of as r
from proofs.refinement.abstraction import dump
from proofs.refinement.bench import Bench
from proofs.refinement.dom0 import Dom0
from proofs.refinement.rig import SLOTS, Guest
from proofs.refinement.rules_of import CopyElement, Flight, MapElement, UnmapElement
from proofs.refinement.shadow import Mismatch
from proofs.refinement.world import TOOLS, Rules, Size, rules_for

LEG = 1500  # calls between two machines
FULL_EVERY = 12
CLAIMS_EVERY = 1024
GRANT = abi.HYPERVISOR_GRANT_TABLE_OP


@dataclass(frozen=True)
class Failure:
    """What went apart, and how to see it again."""

    what: str
    places: tuple[str, ...]
    call: str
    seed: int
    leg: int
    calls: int
    log: tuple[str, ...]

    def text(self) -> str:
        lines = [f"after {self.calls} calls (seed {self.seed}, leg {self.leg}): {self.what}", f"  call: {self.call}"]
        return "\n".join([*lines, *self.places, *(f"  | {line}" for line in self.log)])


@dataclass
class Report:
    """What a campaign did."""

    seed: int
    calls: int = 0
    steps: int = 0
    rule_steps: int = 0
    seconds: float = 0.0
    reached: dict[str, int] = field(default_factory=dict)
    failure: Failure | None = None


class Driver:
    """Chooses who does what next, from a seed; asks the implementation only what a guest could know."""

    def __init__(self, bench: Bench, seed: int) -> None:
        self.b = bench
        self.rng = random.Random(seed)
        self.text = ""
        self.dom0 = Dom0(bench, self.rng, bench.rig.kernel)
        self.refs = [n for n in bench.shadow.size.refs if n < 1000]
        self.moves: list[tuple[float, Callable[[Guest, int], None]]] = []
        weights: list[tuple[float, Callable[[Guest, int], None]]] = [
            (20, self.store), (22, self.map), (18, self.unmap), (14, self.copy), (3, self.transfer), (9, self.mmu),
            (6, self.populate), (4, self.decrease), (1.2, self.version), (1, self.setup), (8, self.access),
            (3, self.withdraw), (2, self.flush), (1.5, self.stale)]
        total = 0.0
        for weight, move in weights:
            total += weight
            self.moves.append((total, move))

    # One move.

    def move(self) -> None:
        """Start a call, store something, or let a call in flight go on."""
        b, rng = self.b, self.rng
        flights = b.flights
        if flights:
            holder = next((f for f in flights if f.marker in HELD or f.hurry), None)
            if holder is not None:
                if not holder.hurry and rng.random() < 0.25:
                    self.hostile_store()
                b.advance(holder)
                return
            if len(flights) >= 3 or rng.random() < 0.55:
                f = flights[int(rng.random() * len(flights))]
                self.text = f"{f.text} (from {f.marker or 'its start'})"
                b.advance(f)
                return
        x = rng.random()
        if x < 0.004:
            self.bad_domctl()
            return
        if x < 0.1:
            text = self.dom0.move()
            if text:
                self.text = f"dom0: {text}"
                b.calls += 1
                b.steps += 1
                if b.rules_on:
                    b.settle()
                    b.check()
            return
        guests = list(b.rig.guests.values())
        if len(guests) < 3 and rng.random() < 0.1:
            free = [d for d in (1, 2, 3) if d not in b.rig.guests]
            domid = rng.choice(free)
            self.text = f"createdomain d{domid}"
            b.create(domid, rng.choice((1, 1, 1, 0)))
            return
        if not guests:
            self.text = "createdomain d1"
            if not b.create(1):
                self.finish_calls()
            return
        guest = guests[int(rng.random() * len(guests))]
        domain = guest.domain
        if domain.crashed or rng.random() < 0.004:
            self.life(guest)
            return
        if domain.is_dying or domain.pause_count:
            if domain.pause_count and not domain.is_dying and rng.random() < 0.5:
                self.text = f"unpause d{guest.domid}"
                b.pause(guest.domid, False)
            return
        busy = {f.vcpu for f in flights if f.domid == guest.domid and f.guest is not None}
        vcpu = 0 if 0 not in busy else 1
        if vcpu in busy:
            return
        x = rng.random() * self.moves[-1][0]
        for limit, move in self.moves:
            if x < limit:
                move(guest, vcpu)
                return

    def finish_calls(self) -> None:
        """Let all calls in flight return."""
        while self.b.flights:
            f = next((f for f in self.b.flights if f.marker in HELD or f.hurry), self.b.flights[0])
            self.text = f"{f.text} (from {f.marker})"
            self.b.advance(f)

    def bad_domctl(self) -> None:
        """A domctl on Dom0 itself, or on a domain that is not there."""
        b = self.b
        if b.flights:
            return
        name, cmd = self.rng.choice((("pausedomain", abi.DOMCTL_PAUSEDOMAIN), ("unpausedomain", abi.DOMCTL_UNPAUSEDOMAIN),
                                     ("destroydomain", abi.DOMCTL_DESTROYDOMAIN)))
        domid = self.rng.choice((0, 99))
        self.text = f"{name} d{domid}"
        b.calls += 1
        rc, _ = b.rig.kernel.domctl(cmd, domid)
        if b.rules_on:
            code = {-abi.ESRCH: "ESRCH", -abi.EINVAL: "EINVAL"}.get(rc, str(rc))
            b.shadow.step(f"privcmd_{name}", {"p": TOOLS, "x": b.privcmd, "d": b.shadow.domain(domid)}, code)

    def life(self, guest: Guest) -> None:
        """Destroy or pause a guest that has no call in flight."""
        b = self.b
        if any(f.domid == guest.domid for f in b.flights):
            return
        if not guest.domain.crashed and self.rng.random() < 0.4:
            self.text = f"pause d{guest.domid}"
            b.pause(guest.domid, True)
            return
        self.destroy(guest)

    def destroy(self, guest: Guest) -> None:
        """Start the end of a guest."""
        b = self.b
        if guest.domain.is_dying or any(f.guest is None for f in b.flights):
            return
        check_handles(guest)
        kernel, xen = b.rig.kernel, b.rig.xen
        raw = abi.DOMCTL_HEADER.pack(abi.DOMCTL_DESTROYDOMAIN, abi.DOMCTL_INTERFACE_VERSION, guest.domid, 0, 0, 0)
        write_domctl(b, raw)
        flight = Flight(f"destroydomain d{guest.domid}", guest.domid, 0,
                        xen.hypercall(kernel.vcpu, abi.HYPERVISOR_DOMCTL, kernel.arg_va))
        b.rig.guests[guest.domid] = guest
        self.text = flight.text
        b.launch(flight, r.follow_destroy(b, flight, guest.domid), 0)
        b.advance(flight)
        if not b.rules_on:
            while flight in b.flights:
                b.advance(flight)
            b.rig.guests.pop(guest.domid, None)

    def end(self) -> None:
        """Destroy everything, in a random order."""
        self.finish_calls()
        guests = list(self.b.rig.guests.values())
        self.rng.shuffle(guests)
        for guest in guests:
            self.destroy(guest)
            self.finish_calls()
        self.dom0.end()
        if self.b.rules_on:
            self.b.settle()
            self.b.compare_all()
            self.b.check_claims()
        self.b.check_end()

    # Calls of guests.

    def _fly(self, guest: Guest, vcpu: int, text: str, number: int, args: tuple[int, ...], payload: bytes,
             follower: Callable[[Flight], r.Follower], ncalls: int = 1) -> None:
        flight = Flight(f"d{guest.domid}v{vcpu}: {text}", guest.domid, vcpu,
                        guest.start(vcpu, number, args, payload), guest=guest)
        self.text = flight.text
        self.b.launch(flight, follower(flight), ncalls)
        self.b.advance(flight)

    def other(self, guest: Guest) -> int:
        """A domain id to name: mostly one that is there."""
        x = self.rng.random()
        ids = [d for d in self.b.rig.xen.domains if d < 4]
        if x < 0.93:
            return ids[int(self.rng.random() * len(ids))]
        return self.rng.choice((1, 2, 3, 99, abi.DOMID_SELF))

    def ref(self) -> int:
        """A reference: often one of a few, so that calls meet."""
        x = self.rng.random()
        if x < 0.9:
            return self.refs[2 + int(x / 0.9 * (len(self.refs) - 3))] if len(self.refs) > 3 else self.refs[-1]
        return self.rng.choice(self.b.shadow.size.refs)

    def page(self, guest: Guest) -> int:
        """A frame number: mostly a page of the guest's own."""
        x = self.rng.random()
        if guest.pool and x < 0.85:
            return guest.pool[int(self.rng.random() * len(guest.pool))]
        if x < 0.9:
            return guest.window.mfn
        first = self.b.rig.first_mfn
        mfn = first + int(self.rng.random() * self.b.shadow.size.heap)
        return guest.window.mfn if self.b.rig.special(mfn) else mfn

    def store(self, guest: Guest, vcpu: int) -> None:
        """Write a grant entry."""
        rng = self.rng
        flags = rng.choice((1, 1, 1, 1, 5, 5, 0, 2, 3 if guest.domain.grant_table.version == 1 else 0, 0x19))
        domid = self.other(guest)
        page = self.page(guest)
        if rng.random() < 0.03:
            page = 0x7FFFFFFF
        ref = self.ref()
        table = guest.domain.grant_table
        if flags == 3 and ref < 8:
            flags = 1  # it would survive a switch to version 2, where it is a transitive grant: the rules have none
        if flags == 2 and (ref < 8 or ref >= table.nr_entries or table.active[ref].pin
                           or (table.version == 1 and abi.HEADER.unpack_from(*table.header_at(ref))[0] & 0x18)):
            flags = 1  # in version 1 the bits of a use and of a transfer are the same: what they mean changes with the pin
        self.text = f"d{guest.domid}: entry {ref} := flags {flags:#x}, d{domid}, frame {page:#x}"
        self.b.store_entry(guest, ref, flags, domid, page, rng.random() < 0.9)

    def hostile_store(self) -> None:
        """A granter changes an entry that a call is just claiming."""
        b, rng = self.b, self.rng
        keys = [k for f in b.flights for k in sorted(f.moving)]
        if not keys:
            return
        d, element = keys[int(rng.random() * len(keys))]
        guest = b.rig.guests.get(d)
        if guest is None or guest.domain.is_dying or guest.domain.pause_count or guest.domain.crashed:
            return
        flags = rng.choice((0, 1, 1, 5))
        b.store_entry(guest, b.shadow.size.refs[element], flags, self.other(guest), self.page(guest), True)

    def grant_of(self, me: int) -> tuple[int, int] | None:
        """A live offer to a domain, as (granter, reference)."""
        offers = []
        for d, guest in self.b.rig.guests.items():
            table = guest.domain.grant_table
            for ref in self.refs:
                if ref < table.nr_entries:
                    flags, domid = abi.HEADER.unpack_from(*table.header_at(ref))
                    if domid == me and flags & 3 == 1:
                        offers.append((d, ref))
        return offers[int(self.rng.random() * len(offers))] if offers else None

    def _named(self, guest: Guest) -> tuple[int, int]:
        if self.rng.random() < 0.75:
            found = self.grant_of(guest.domid)
            if found is not None and not self._special(guest, *found):
                return found
        dom, ref = self.other(guest), self.ref()
        return (99, ref) if self._special(guest, dom, ref) else (dom, ref)

    def _special(self, me: Guest, dom: int, ref: int) -> bool:
        """Does the entry name a page of the hypervisor's own heap? The rules know no such grants."""
        domain = self.b.rig.xen.domains.get(me.domid if dom == abi.DOMID_SELF else dom)
        if domain is None or ref >= domain.grant_table.nr_entries or dom == 0:
            return False
        pinned = domain.grant_table.active[ref].frame
        return self.b.rig.special(domain.grant_table.frame_field(ref)) or (pinned is not None and pinned.xenheap)

    def map(self, guest: Guest, vcpu: int) -> None:
        """map_grant_ref of one or two grants."""
        rng = self.rng
        if sum(1 for r_ in guest.domain.grant_table.maptrack if r_.flags & 3) >= 7:
            return
        elements, payload = [], b""
        for _ in range(1 if rng.random() < 0.8 else 2):
            dom, ref = self._named(guest)
            flags = rng.choice((2, 2, 2, 6, 6, 6, 3, 7, 5, 1, 0 if rng.random() < 0.2 else 2))
            slot = int(rng.random() * SLOTS)
            addr = guest.slot_va(slot)
            x = rng.random()
            if x < 0.1:
                addr, flags = guest.layout.window_maddr(slot), flags | 16
            elif x < 0.13:
                addr = guest.arg(0) & ~0xFFF | 4 if x < 0.115 else 0x1000
                flags |= 16 if x < 0.115 else 0
            elements.append(MapElement(slot, flags, ref, dom, addr))
            payload += abi.MAP_GRANT_REF.pack(addr, flags, ref, dom, 0, 0, 0)
        self._fly(guest, vcpu, f"map_grant_ref {elements}", GRANT, (0, guest.arg(vcpu), len(elements)), payload,
                  lambda f: r.follow_map(self.b, f, elements))

    def unmap(self, guest: Guest, vcpu: int) -> None:
        """unmap_grant_ref of one or two handles."""
        b, rng = self.b, self.rng
        track = guest.domain.grant_table.maptrack
        mine = [(n, rec) for n, rec in enumerate(track) if rec.flags & 3]
        elements, payload, used = [], b"", set[int]()
        for _ in range(1 if rng.random() < 0.8 else 2):
            handle, slot, bus = int(rng.random() * 20), int(rng.random() * SLOTS), 0
            if mine and rng.random() < 0.93:
                handle, rec = mine[int(rng.random() * len(mine))]
                slot = self._slot_of(guest, handle, rec.flags, slot)
                granter = b.rig.xen.domains.get(rec.domid)
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
                addr = guest.layout.window_maddr(slot)
            elements.append(UnmapElement(slot, addr, bus, handle))
            payload += abi.UNMAP_GRANT_REF.pack(addr, bus, handle, 0, 0)
        if elements:
            self._fly(guest, vcpu, f"unmap_grant_ref {elements}", GRANT, (1, guest.arg(vcpu), len(elements)), payload,
                      lambda f: r.follow_unmap(b, f, elements), len(elements))

    def _slot_of(self, guest: Guest, handle: int, flags: int, other: int) -> int:
        from impl.xen.pagetables import read_pte

        record = guest.domain.grant_table.maptrack[handle]
        granter = self.b.rig.xen.domains.get(record.domid)
        if granter is None or record.ref >= len(granter.grant_table.active) or self.rng.random() < 0.08:
            return other
        frame = granter.grant_table.active[record.ref].frame
        for slot in range(SLOTS):
            pte = read_pte(guest.window, slot)
            if frame is not None and pte & PTE_P and pte >> 12 & 0xFFFFFFFFFF == frame.mfn and bool(pte & 2) == (
                    not flags & 4):
                return slot
        return other

    def copy(self, guest: Guest, vcpu: int) -> None:
        """copy of one or two elements."""
        rng = self.rng
        elements, payload = [], b""
        for _ in range(1 if rng.random() < 0.7 else 2):
            sides = []
            for _ in range(2):
                if rng.random() < 0.6:
                    dom, ref = self._named(guest)
                    sides.append((True, ref, dom))
                else:
                    page = self.page(guest)
                    dom = abi.DOMID_SELF
                    if rng.random() < 0.06:
                        dom = rng.choice((0, 1, 2, 3, 99))
                    sides.append((False, page, dom))
            length = 64 if rng.random() < 0.97 else 4000
            (s_ref, src, s_dom), (d_ref, dst, d_dom) = sides
            offs = (int(rng.random() * 63) * 8, 1024 + int(rng.random() * 60) * 8)
            e = CopyElement(s_ref, src, s_dom, offs[0], d_ref, dst, d_dom, offs[1], length)
            elements.append(e)
            payload += abi.COPY.pack(src, s_dom, offs[0], 0, dst, d_dom, offs[1], 0, length, s_ref | d_ref << 1, 0, 0)
        self._fly(guest, vcpu, f"copy {elements}", GRANT, (5, guest.arg(vcpu), len(elements)), payload,
                  lambda f: r.follow_copy(self.b, f, elements))

    def transfer(self, guest: Guest, vcpu: int) -> None:
        """transfer, often to somebody who waits for a page."""
        rng, b = self.rng, self.b
        dom, ref = self.other(guest), self.ref()
        for d, other in b.rig.guests.items():
            for number in self.refs[2:]:
                table = other.domain.grant_table
                if number < table.nr_entries and rng.random() < 0.9:
                    flags, domid = abi.HEADER.unpack_from(*table.header_at(number))
                    if flags == 2 and domid == guest.domid:
                        dom, ref = d, number
        if ref < 8 or dom == 0:
            return
        mfn = self.page(guest)
        if mfn in guest.fixed:
            mfn = 0x7FFFFFFF
        b.flushed_now(guest)
        self._fly(guest, vcpu, f"transfer {mfn:#x} to d{dom} ref {ref}", GRANT, (4, guest.arg(vcpu), 1),
                  abi.TRANSFER.pack(mfn, dom, 0, ref, 0, 0, 0), lambda f: r.follow_transfer(b, f, mfn, dom, ref))

    def mmu(self, guest: Guest, vcpu: int) -> None:
        """mmu_update or update_va_mapping of a window entry: an own page, a status frame, somebody else's, or nothing."""
        rng, b = self.rng, self.b
        slot = int(rng.random() * SLOTS)
        x = rng.random()
        foreign = abi.DOMID_SELF
        status = guest.domain.grant_table.status
        if x < 0.45:
            pte = 0
        else:
            mfn = self.page(guest)
            writable = rng.random() < 0.5
            if status and x > 0.9:
                mfn, writable = status[0].mfn, False
            elif x > 0.85:
                foreign = self.other(guest)
            pte = (mfn << 12) | PTE_P | PTE_USER | PTE_A | PTE_D | (PTE_RW if writable else 0)
        if rng.random() < 0.75 or status:
            self._fly(guest, vcpu, f"mmu_update slot {slot} := {pte:#x} of {foreign:#x}", abi.HYPERVISOR_MMU_UPDATE,
                      (guest.arg(vcpu), 1, 0, foreign), abi.MMU_UPDATE.pack(guest.layout.window_maddr(slot), pte),
                      lambda f: r.follow_mmu(b, f, slot, pte, foreign, True))
        else:
            self._va_mapping(guest, vcpu, slot, pte, rng.choice((0, 0, 2)))

    def populate(self, guest: Guest, vcpu: int) -> None:
        """populate_physmap of one or two pages."""
        count = 1 if self.rng.random() < 0.7 else 2
        base = guest.arg(vcpu)
        payload = abi.MEMORY_RESERVATION.pack(base + 64, count, 0, 0, abi.DOMID_SELF, 0, 0) + bytes(32)
        payload += b"".join(abi.U64.pack(0x1000 + i) for i in range(count))
        self._fly(guest, vcpu, f"populate_physmap {count}", abi.HYPERVISOR_MEMORY_OP,
                  (abi.XENMEM_POPULATE_PHYSMAP, base), payload, lambda f: r.follow_populate(self.b, f, count))

    def decrease(self, guest: Guest, vcpu: int) -> None:
        """decrease_reservation of one page, or of a page twice."""
        mfns = [self.page(guest) for _ in range(1 if self.rng.random() < 0.8 else 2)]
        mfns = [m for m in mfns if m not in guest.fixed]
        if not mfns:
            return
        base = guest.arg(vcpu)
        payload = abi.MEMORY_RESERVATION.pack(base + 64, len(mfns), 0, 0, abi.DOMID_SELF, 0, 0) + bytes(32)
        payload += b"".join(abi.U64.pack(m) for m in mfns)
        self._fly(guest, vcpu, f"decrease_reservation {mfns}", abi.HYPERVISOR_MEMORY_OP,
                  (abi.XENMEM_DECREASE_RESERVATION, base), payload, lambda f: r.follow_decrease(self.b, f, mfns))

    def version(self, guest: Guest, vcpu: int) -> None:
        """set_version."""
        version = self.rng.choice((1, 2, 2, 2, 3))
        self._fly(guest, vcpu, f"set_version {version}", GRANT, (8, guest.arg(vcpu), 1), abi.SET_VERSION.pack(version),
                  lambda f: r.follow_version(self.b, f, version))

    def setup(self, guest: Guest, vcpu: int) -> None:
        """setup_table: three frames, or more than there may be."""
        nr = self.rng.choice((0, 1, 3, 4))
        base = guest.arg(vcpu)
        self._fly(guest, vcpu, f"setup_table {nr}", GRANT, (2, base, 1),
                  abi.SETUP_TABLE.pack(abi.DOMID_SELF, 0, nr, 0, 0, 0, base + 128),
                  lambda f: r.follow_setup(self.b, f, nr))

    def access(self, guest: Guest, vcpu: int) -> None:
        """A load or a store."""
        slot = int(self.rng.random() * SLOTS)
        self.text = f"d{guest.domid}v{vcpu}: access slot {slot}"
        self.b.access(guest, vcpu, slot, self.rng.random() < 0.5)

    def withdraw(self, guest: Guest, vcpu: int) -> None:
        """end_access."""
        ref = self.ref()
        self.text = f"d{guest.domid}: end_access {ref}"
        self.b.end_access(guest, ref)

    def stale(self, guest: Guest, vcpu: int) -> None:
        """Give up a page that a TLB still leads to, and let somebody else have it."""
        b = self.b
        if b.flights or not guest.pool:
            return
        mfn = guest.pool[int(self.rng.random() * len(guest.pool))]
        slot = int(self.rng.random() * SLOTS)
        pte = (mfn << 12) | PTE_P | PTE_RW | PTE_USER | PTE_A | PTE_D
        for value in (pte, 0):
            self._va_mapping(guest, vcpu, slot, value, 0)
            self.finish_calls()
            b.access(guest, vcpu, slot, False)
        base = guest.arg(vcpu)
        payload = abi.MEMORY_RESERVATION.pack(base + 64, 1, 0, 0, abi.DOMID_SELF, 0, 0) + bytes(32) + abi.U64.pack(mfn)
        self._fly(guest, vcpu, f"decrease_reservation {mfn:#x}", abi.HYPERVISOR_MEMORY_OP,
                  (abi.XENMEM_DECREASE_RESERVATION, base), payload, lambda f: r.follow_decrease(b, f, [mfn]))
        self.finish_calls()
        other = self.rng.choice(list(b.rig.guests.values()))
        if not (other.domain.is_dying or other.domain.pause_count or other.domain.crashed):
            self.populate(other, 0)

    def _va_mapping(self, guest: Guest, vcpu: int, slot: int, pte: int, flags: int) -> None:
        self._fly(guest, vcpu, f"update_va_mapping slot {slot} := {pte:#x}", abi.HYPERVISOR_UPDATE_VA_MAPPING,
                  (guest.slot_va(slot), pte, flags), b"",
                  lambda f: r.follow_mmu(self.b, f, slot, pte, abi.DOMID_SELF, False))

    def flush(self, guest: Guest, vcpu: int) -> None:
        """mmuext TLB_FLUSH_ALL."""
        self._fly(guest, vcpu, "flush", abi.HYPERVISOR_MMUEXT_OP, (guest.arg(vcpu), 1, 0, abi.DOMID_SELF),
                  abi.MMUEXT_OP.pack(abi.MMUEXT_TLB_FLUSH_ALL, 0, 0, 0), lambda f: r.follow_flush(self.b, f))


def check_handles(guest: Guest) -> None:
    """Each record is in use or on a free list, once."""
    track = guest.domain.grant_table.maptrack
    seen = [n for n, record in enumerate(track) if record.flags & 3]
    for vcpu in guest.domain.vcpus:
        handle = vcpu.maptrack_head
        while handle != MAPTRACK_TAIL and len(seen) <= len(track):
            seen.append(handle)
            handle = track[handle].ref
    if sorted(seen) != list(range(len(track))):
        raise Mismatch(f"d{guest.domid} has {len(track)} records, {len(seen)} of them free or in use")


def write_domctl(b: Bench, raw: bytes) -> None:
    """Put a domctl into Dom0's argument page."""
    from impl.xen.guest_access import write

    write(b.rig.xen, b.rig.kernel.vcpu, b.rig.kernel.arg_va, raw.ljust(abi.DOMCTL_SIZE, b"\0"))


def leg(rules: Rules, seed: int, number: int, calls: int, report: Report, full_every: int = FULL_EVERY,
        claims_every: int = CLAIMS_EVERY, rules_on: bool = True) -> Failure | None:
    """One leg; what it found is added to the report."""
    bench = Bench(rules, seed * 1_000_003 + number, full_every, claims_every, rules_on)
    driver = Driver(bench, seed * 1_000_003 + number)
    denied = driver.rng.random() < 0.3
    if denied:
        a, c = driver.rng.sample((1, 2, 3), 2)
        bench.rig.policy.denied.add((a, c))
        bench.shadow.T["xsm_grant"][a * 5 + c] = 0
    failure = None
    recent: list[str] = []
    last = ""
    try:
        while bench.calls < calls:
            driver.move()
            if driver.text != last:
                last = driver.text
                recent.append(last)
                del recent[:-12]
        driver.end()
    except Mismatch as error:
        failure = Failure(error.what, tuple(dump(error.places)), driver.text, seed, number, report.calls + bench.calls,
                          tuple(recent))
    except Exception as error:  # whatever the implementation raises is a finding
        failure = Failure(f"{type(error).__name__}: {error}", (), driver.text, seed, number, report.calls + bench.calls,
                          tuple(recent))
    report.calls += bench.calls
    report.steps += bench.steps
    report.rule_steps += bench.shadow.steps
    for key, n in bench.shadow.reached.items():
        report.reached[key] = report.reached.get(key, 0) + n
    return failure


def run_leg(rules: Rules, seed: int, number: int, calls: int, full_every: int = FULL_EVERY,
            claims_every: int = CLAIMS_EVERY, rules_on: bool = True) -> Report:
    """One leg; when something went apart it is run again, looking at everything after each step."""
    report = Report(seed)
    try:
        failure = leg(rules, seed, number, calls, report, full_every, claims_every, rules_on)
    except Exception as error:  # the machine could not even be set up
        failure = Failure(f"{type(error).__name__}: {error}", (), "setting up", seed, number, 0, ())
        full_every = 1
    if failure is not None and full_every != 1 and rules_on:
        failure = leg(rules, seed, number, calls, Report(seed), 1, 64) or failure
    report.failure = failure
    return report


def campaign(rules: Rules, seed: int, calls: int, full_every: int = FULL_EVERY, claims_every: int = CLAIMS_EVERY,
             rules_on: bool = True, progress: Callable[[int], None] | None = None, jobs: int = 1) -> Report:
    """Legs until so many calls are made or something went apart; the number of jobs changes nothing but the time."""
    start = time.perf_counter()
    report = Report(seed)
    sizes = [LEG] * (calls // LEG) + ([calls % LEG] if calls % LEG else [])
    tasks = ((rules.size, seed, n, size, full_every, claims_every, rules_on) for n, size in enumerate(sizes))
    pool = ProcessPoolExecutor(jobs) if jobs > 1 else None
    try:
        for part in pool.map(_task, tasks) if pool is not None else map(_task, tasks):
            if part.failure is not None:
                part.failure = replace(part.failure, calls=report.calls + part.failure.calls)
            report.calls += part.calls
            report.steps += part.steps
            report.rule_steps += part.rule_steps
            for key, n in part.reached.items():
                report.reached[key] = report.reached.get(key, 0) + n
            if progress is not None:
                progress(part.calls)
            if part.failure is not None:
                report.failure = part.failure
                break
    finally:
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)
    report.seconds = time.perf_counter() - start
    return report


def _task(task: tuple[Size, int, int, int, int, int, bool]) -> Report:
    size, seed, number, calls, full_every, claims_every, rules_on = task
    return run_leg(rules_for(size), seed, number, calls, full_every, claims_every, rules_on)
