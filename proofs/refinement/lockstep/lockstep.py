"""Runs implementation and rules in lockstep: starts calls, advances them step by step, and compares both sides.

`Lockstep` owns the testbed, the rule state and the calls in flight. After each step of the implementation the call's
follower takes the rule steps; then the rules' internal steps (flush, free, scrub, destroy) are taken as far as the
implementation has done them; then the places that the step touched are compared. Every `full_every` steps the complete
state is compared, and every `claims_every` steps all invariants and theorems are evaluated.
"""

from __future__ import annotations

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.domains import Domain
from bulkhead.impl.xen.frames import Frame
from bulkhead.impl.xen.guest_access import translate
from bulkhead.model.caller import OKAY
from bulkhead.proofs.refinement.lockstep.abstraction import (
    Places,
    behind_of,
    differences,
    entry_differences,
    entry_of,
    in_use_bits,
)
from bulkhead.proofs.refinement.lockstep.call import CallInFlight
from bulkhead.proofs.refinement.lockstep.flights import Flights
from bulkhead.proofs.refinement.lockstep.observe import Key
from bulkhead.proofs.refinement.lockstep.rule_steps import Log, Mismatch
from bulkhead.proofs.refinement.lockstep.spec_state import SpecState
from bulkhead.proofs.refinement.lockstep.spec_world import TOOLS, Rules
from bulkhead.proofs.refinement.lockstep.testbed import FEWEST, FIXED, NUMBERS, SLOTS, Guest, PvGuest, PvhGuest, Rig

POOL = 6
GREEDY = 40  # more than the size of the heap
FULL_EVERY, CLAIMS_EVERY = 12, 1024  # steps, in campaigns


class Lockstep(Flights):
    """One machine in lockstep with its rules."""

    def __init__(
        self,
        rules: Rules,
        seed: int,
        full_every: int = 1,
        claims_every: int = 0,
        rules_on: bool = True,
        log: Log | None = None,
    ) -> None:
        rig = Rig(seed, rules.size.heap, rules.size.ports)
        super().__init__(rig, SpecState(rules, rig.first_mfn, log), rules_on)
        self.rig: Rig = rig
        self.full_every = full_every
        self.claims_every = claims_every
        self.overwritten_bits: set[Key] = set()  # entries whose in-use bits the granter has overwritten
        self.page_tables_freed: set[int] = set()  # domains whose page tables are released before the rules' step
        self.owned_handles: set[tuple[int, int]] = set()
        self.free_frames = self.rig.xen.frames.free_count
        if rules_on:
            self.spec_state.step("open_privcmd", {"p": TOOLS, "x_x": self.privcmd})

    def make_free(self, element: int) -> None:
        """The implementation has taken the frame from the heap: in the rules it must be free, or become free now."""
        spec = self.spec_state
        if element in spec.awaiting_free or spec.T["frame.use"][element] in spec.xens_uses:
            for d in list(self.dirty):
                self.flushed(d)
            self._free(element)
            self._destroyed()
        if spec.T["frame.use"][element] == spec.use["unscrubbed"]:
            spec.step("scrub_page", {"f": element})
        if spec.T["frame.use"][element] != spec.use["free"]:
            raise Mismatch(f"frame {element} was given out although by the rules it is not free")

    def flushed(self, d: int) -> None:
        """Take the rules' flush of a domain if none of its TLBs has a stale translation any more."""
        spec, T = self.spec_state, self.spec_state.T
        stale = {
            T["translation.frame"][t]
            for t in range(spec.size.translations)
            if T["translation.cached"][t] and not T["translation.present"][t] and T["translation.space"][t] == d
        }
        guest = self.rig.guests.get(d)
        if isinstance(guest, PvGuest):
            for vcpu in guest.domain.vcpus:
                for vpn, (frame, writable, _) in vcpu.tlb.entries.items():
                    f, slot = spec.frame(frame.mfn), vpn - guest.first_vpn
                    t = spec.slots.get((d, slot))
                    if (
                        0 <= slot < SLOTS
                        and f in stale
                        and (t is None or T["translation.frame"][t] != f or T["translation.writable"][t] != writable)
                    ):
                        return
        if stale:
            spec.step("flush_tlb", {"d": d})
        self.dirty.discard(d)

    def _free(self, element: int) -> None:
        spec = self.spec_state
        if not self.on_its_way(element):
            spec.awaiting_free.discard(element)
            return
        if spec.try_step("free_page", {"f": element}) == OKAY:
            spec.awaiting_free.discard(element)

    def settle(self) -> None:
        """Take the rules' internal steps as far as the implementation has done them."""
        spec = self.spec_state
        for d in list(self.dirty):
            self.flushed(d)
        for element in list(spec.awaiting_free):
            frame = self.rig.xen.frames.table[spec.first_mfn + element]
            if frame.count == 0 or frame.owner is None or (frame.allocated and not spec.T["frame.held"][element]):
                self._free(element)
        self._destroyed()

    def _destroyed(self) -> None:
        """Take the rules' last step of each domain that is gone, as far as nothing holds a page of it any more."""
        spec = self.spec_state
        for d in list(self.dying):
            if d not in self.rig.xen.domains or not spec.bound(self.rig.xen.domains[d]):
                code = spec.try_step("domain_destroy", {"d": d})
                if code == OKAY:
                    self.dying.discard(d)
                    self.overwritten_bits = {k for k in self.overwritten_bits if k[0] != d}

    def share_pages(self, domain: Domain) -> None:
        """Xen has taken pages of its heap to share with a domain: in the rules, too."""
        spec = self.spec_state
        for frame in (*domain.grant_table.shared, domain.shared_info):
            element = spec.size.nowhere if frame is None else spec.frame(frame.mfn)
            if frame is None or frame.owner is not domain or element >= spec.size.heap:
                continue
            if spec.T["frame.use"][element] in spec.xens_uses and spec.T["frame.owner"][element] == domain.domid:
                continue
            self.make_free(element)
            table = int(frame is not domain.shared_info)
            spec.step("share_page", {"d": domain.domid, "f": element, "e": spec.free_epoch(), "table": table})

    # Stores.

    def forge(self, key: Key) -> None:
        """The granter has overwritten the in-use bits of an entry: exclude them from the comparison."""
        self.overwritten_bits.add(key)
        self.settle_forged(key)

    def settle_forged(self, key: Key) -> None:
        """Compare the bits again once they agree."""
        domain = self.rig.xen.domains.get(key[0])
        spec = self.spec_state
        number = spec.size.refs[key[1]]
        if domain is None or number >= domain.grant_table.nr_entries:
            return
        k = key[0] * spec.rules.nrefs + key[1]
        want = (8 if spec.T["status.reading"][k] else 0) | (16 if spec.T["status.writing"][k] else 0)
        if in_use_bits(domain, number) == want:
            self.overwritten_bits.discard(key)
        else:
            self.overwritten_bits.add(key)

    def store_entry(
        self,
        guest: Guest,
        ref: int,
        flags: int,
        domid: int,
        mfn: int,
        keep_bits: bool,
        part: tuple[int, int] = (0, 0),
        through: tuple[int, int] | None = None,
    ) -> bool:
        """The granter writes an entry by an instruction; version 1 in-use bits are kept or overwritten.
        `through`: another domain does, which has the table mapped for writing: its address space, and the translation.

        `part` is for version 2 the start and length of a part of the page; of a transitive entry, the domain whose grant is
        behind it, and 0 (`mfn` is that grant's reference).
        """
        table = guest.domain.grant_table
        spec = self.spec_state
        key = (guest.domid, spec.ref(ref))
        if ref >= table.nr_entries or key in self.locked:
            return False
        data, off = table.header_at(ref)
        was, will = abi.HEADER.unpack_from(data, off)[0] & abi.GTF_TYPE_MASK, flags & abi.GTF_TYPE_MASK
        if (
            table.version == 2
            and (was == abi.GTF_TRANSITIVE) != (will == abi.GTF_TRANSITIVE)
            and any(key in f.moving for f in self.flights)
        ):
            return False  # Xen would take one layout's number for the other's (README: not in the rules)
        header = bytes(data[off : off + abi.HEADER.size])
        if table.version == 1:
            bits = in_use_bits(guest.domain, ref) if keep_bits else flags & 0x18
            abi.ENTRY_V1.pack_into(data, off, (flags & ~0x18 | bits) & 0xFFFF, domid, mfn)
        else:
            abi.ENTRY_V2.pack_into(data, off, flags & ~0x18, domid, *part, mfn)
        self.changed[key] += header != data[off : off + abi.HEADER.size]
        if self.rules_on:
            if through is not None:
                self.entry_written(key, "store_in_table", {"space": through[0], "t": through[1]})
            else:
                self._entry_stored(guest, key, will == abi.GTF_TRANSITIVE)
            if not keep_bits and table.version == 1:
                self.settle_forged(key)
        return True

    def _entry_stored(self, guest: Guest, key: Key, transitive: bool) -> None:
        """The rule steps of the owner's store to its own entry."""
        spec, ref = self.spec_state, self.spec_state.size.refs[key[1]]
        if guest.domain.external:
            self.entry_written(key, "write_entry_by_number", {"owner": key[0]})
            return
        kind, grantee, frame, readonly, part = entry_of(spec, guest.domain, ref)
        said = {"kind": kind, "grantee": grantee, "frame": frame, "readonly": readonly, "part": part}
        spec.step("write_entry", {"owner": key[0], "ref": key[1], **said})
        if transitive:
            dom, behind = behind_of(spec, guest.domain, ref)
            spec.step("write_behind", {"owner": key[0], "way": key[1], "dom": dom, "ref": behind})

    def entry_written(self, key: Key, rule: str, by: dict[str, int]) -> None:
        """The rule step of a store into a table by somebody who has a frame of it: the entry as it is now."""
        spec, domain, ref = self.spec_state, self.rig.xen.domains[key[0]], self.spec_state.size.refs[key[1]]
        kind, grantee, frame, readonly, part = entry_of(spec, domain, ref)
        dom, way = behind_of(spec, domain, ref)
        said = {"kind": kind, "grantee": grantee, "f": frame, "readonly": readonly, "part": part, "dom": dom, "way": way}
        number = spec.number(domain, domain.grant_table.frame_field(ref))
        spec.step(rule, {**by, "ref": key[1], **said, "n": number})

    def copied_to(self, mfn: int, call: int) -> None:
        """A copy has moved bytes into a page: if that is a frame of a grant table, its entries are different now."""
        frame = self.rig.xen.frames.get(mfn)
        owner = None if frame is None else frame.owner
        if frame is None or owner is None or frame not in owner.grant_table.shared:
            return
        for r, number in enumerate(self.spec_state.size.refs):
            if number < owner.grant_table.nr_entries and owner.grant_table.header_at(number)[0] is frame.data:
                key = (owner.domid, r)
                out: Places = {}
                self.settle_forged(key)
                entry_differences(self.spec_state, owner, r, {key}, set(), out)
                if any(place.startswith(("entry", "behind")) for place in out):
                    self.changed[key] += 1
                    self.entry_written(key, "copy_in_table", {"c": call})

    def end_access(self, guest: Guest, ref: int) -> str:
        """The granter's protocol for revocation (version 1); EBUSY while the entry is in use, "" if it does not apply."""
        table = guest.domain.grant_table
        key = (guest.domid, self.spec_state.ref(ref))
        if table.version != 1 or ref >= table.nr_entries or key in self.overwritten_bits or key in self.locked:
            return ""
        data, off = table.header_at(ref)
        in_use = bool(in_use_bits(guest.domain, ref))
        if not in_use:
            abi.U16.pack_into(data, off, 0)
        code = "EBUSY" if in_use else OKAY
        if self.rules_on:
            self.spec_state.step("end_access", {"caller": guest.domid, "ref": key[1]}, code)
        return code

    def access(self, guest: Guest, vcpu: int, slot: int, write: bool) -> bool:
        """A load or store through a window slot; it fills the TLB. False if the guest faults."""
        found = translate(self.rig.xen, guest.domain.vcpus[vcpu], guest.slot_va(slot))
        if found is None:
            return False
        frame, writable = found
        if write and writable:
            if not frame.xenheap:
                self.fill(frame)
            if self.rules_on:
                self.store_rule(guest, slot, self.spec_state.frame(frame.mfn))
        return writable or not write

    def fill(self, frame: Frame) -> None:
        """In pages with a guest's arguments only one word changes."""
        if any(frame.mfn in guest.fixed for guest in self.rig.guests.values()):
            abi.U64.pack_into(frame.bytes(), 8, self.steps)
        else:
            super().fill(frame)

    def store_rule(self, guest: Guest, slot: int, element: int) -> None:
        self.spec_state.step("store", {"space": guest.domid, "t": self.way_to(guest, element)})

    def way_to(self, guest: Guest, element: int) -> int:
        """A translation by which a guest writes to a frame; Mismatch if the rules have none."""
        T, spec = self.spec_state.T, self.spec_state
        candidates = [
            t
            for t in range(spec.size.translations)
            if T["translation.frame"][t] == element
            and T["translation.writable"][t]
            and T["translation.space"][t] == guest.domid
            and (T["translation.present"][t] or T["translation.cached"][t])
        ]
        if not candidates:
            raise Mismatch(f"d{guest.domid} writes to frame {element}, to which the rules know no way")
        return candidates[0]

    # Domains.

    def create(self, domid: int, max_maptrack: int = 1, greedy: bool = False, pvh: bool = False) -> bool:
        """Build a guest; False when there is no memory for it."""
        xen, spec, kernel = self.rig.xen, self.spec_state, self.rig.kernel
        if xen.frames.free_count < FEWEST:
            return False
        if self.id_is_held(domid):
            self.flush_all()
        flags, emulation = (abi.CDF_HVM | abi.CDF_HAP, abi.EMU_LAPIC) if pvh else (0, 0)
        body = abi.CREATEDOMAIN.pack(0, bytes(16), flags, 0, 2, spec.size.ports, 3, max_maptrack, 2, 0, 0, emulation, 0)
        if self.id_is_held(domid):
            if domid in xen.domains and (rc := kernel.domctl(abi.DOMCTL_CREATEDOMAIN, domid, body)[0]) != -abi.EEXIST:
                raise Mismatch(f"createdomain({domid}) gave {rc}, but a domain that is dying has the id")
            return False
        self.calls += 1
        rc, _ = kernel.domctl(abi.DOMCTL_CREATEDOMAIN, domid, body)
        if self.rules_on:
            for d in list(self.dirty):
                self.flushed(d)
            self.settle()
        if rc:
            if self.rules_on and rc == -abi.EEXIST and spec.T["domain.phase"][domid] == spec.phase["absent"]:
                raise Mismatch(f"createdomain({domid}) gave EEXIST, but by the rules the id is free")
            return False
        domain = xen.domains[domid]
        if self.rules_on:
            life = spec.free_life()
            spec.step("privcmd_createdomain", {"p": TOOLS, "x": self.privcmd, "hvm": int(pvh), "d_d": domid, "d_life": life})
            spec.lives = {k: v for k, v in spec.lives.items() if v != life}
            spec.lives[domain] = life
            self.share_pages(domain)
        kernel.domctl(abi.DOMCTL_MAX_MEM, domid, abi.U64.pack((FIXED + (GREEDY if greedy else POOL)) * 4))
        kernel.domctl(abi.DOMCTL_MAX_VCPUS, domid, abi.U32.pack(2))
        guest = PvhGuest(xen, domain) if pvh else PvGuest(xen, domain)
        self.rig.guests[domid] = guest
        if self.rules_on:
            if pvh:
                spec.reserve_numbers(domid, NUMBERS)
            for gfn, mfn in enumerate(guest.fixed):
                self._built(domid, spec.frame(mfn), spec.numbers[domid, gfn] if pvh else None)
        rc, _ = kernel.domctl(abi.DOMCTL_UNPAUSEDOMAIN, domid)
        if self.rules_on:
            spec.step("privcmd_unpausedomain", {"p": TOOLS, "x": self.privcmd, "d": domid}, OKAY if rc == 0 else "EINVAL")
            for r, number in enumerate(spec.size.refs):
                if number < domain.grant_table.nr_entries:
                    spec.step("setup_table", {"caller": domid, "ref": r, "enough": self.enough(domain, number)})
        return True

    def id_is_held(self, domid: int) -> bool:
        """In the rules an id is free when no TLB has translations of its last owner; Xen gives it out before."""
        spec = self.spec_state
        return self.rules_on and spec.T["domain.phase"][domid] != spec.phase["absent"] and domid not in self.rig.xen.domains

    def flush_all(self) -> None:
        """All guests flush their TLBs."""
        for guest in self.rig.guests.values():
            guest.domain.flush_tlb()
        if self.rules_on:
            self.settle()

    def _built(self, domid: int, element: int, number: int | None) -> None:
        """The builder populates a page, writes it through a foreign mapping and unmaps that."""
        self.make_free(element)
        self.spec_state.build_page(self.privcmd, domid, element, number)

    def pause(self, domid: int, pause: bool) -> None:
        """Pause or unpause a guest without calls in flight."""
        domain = self.rig.xen.domains[domid]
        cmd = abi.DOMCTL_PAUSEDOMAIN if pause else abi.DOMCTL_UNPAUSEDOMAIN
        if pause == bool(domain.pause_count) and pause:
            return
        self.calls += 1
        rc, _ = self.rig.kernel.domctl(cmd, domid)
        if self.rules_on:
            label = "privcmd_pausedomain" if pause else "privcmd_unpausedomain"
            self.spec_state.step(label, {"p": TOOLS, "x": self.privcmd, "d": domid}, OKAY if rc == 0 else "EINVAL")

    def crashed(self, domid: int) -> None:
        """Xen has crashed a guest: in the rules it is paused permanently."""
        if self.rules_on and not self.spec_state.T["domain.paused"][domid]:
            self.spec_state.step("privcmd_pausedomain", {"p": TOOLS, "x": self.privcmd, "d": domid})

    # Steps of calls (flights.py).

    def _stepped(self, f: CallInFlight) -> None:
        if f.marker == "destroy.memory":
            self.rig.guests.pop(f.domid, None)

    def _ended(self, f: CallInFlight) -> None:
        if (
            f.guest is not None
            and f.guest.domain.crashed
            and not f.guest.domain.is_dying
            and not any(o.domid == f.domid for o in self.flights)
        ):
            self.crashed(f.domid)

    # Comparison.

    def check(self) -> None:
        """Compare the places of the last step, and at intervals everything."""
        if self.full_every and self.steps % self.full_every == 0:
            self.compare_all()
        else:
            self._light()
        self.touched.clear()
        self.touched_frames.clear()
        if self.claims_every and self.steps % self.claims_every == 0:
            self.check_claims()

    def _light(self) -> None:
        out: Places = {}
        moving = self._moving()
        domains = self.rig.xen.domains
        for d, r in self.touched:
            domain = domains.get(d)
            if (
                domain is not None
                and self.spec_state.size.refs[r] < domain.grant_table.nr_entries
                and self.spec_state.bound(domain)
            ):
                entry_differences(self.spec_state, domain, r, self.overwritten_bits, moving, out)
        if out:
            raise Mismatch("the states differ", out)

    def _moving(self) -> set[Key]:
        moving: set[Key] = set()
        for f in self.flights:
            moving |= f.moving
        return moving

    def compare_all(self) -> None:
        """Compare the complete state."""
        quiet = not self.flights and not self.page_tables_freed
        without_tables = {d: self.rig.guests.pop(d) for d in self.page_tables_freed if d in self.rig.guests}
        out = differences(self.rig, self.spec_state, self.overwritten_bits, self._moving(), quiet)
        self.rig.guests.update(without_tables)
        if out:
            raise Mismatch("the states differ", out)

    def check_claims(self) -> None:
        """Check all invariants, and all theorems that hold in this system."""
        self.spec_state.check_claims()

    def check_end(self) -> None:
        """Leak check after all domains are destroyed: every frame is free, every counter zero, every handle free."""
        xen = self.rig.xen
        if set(xen.domains) != {0}:
            raise Mismatch(f"domains {sorted(set(xen.domains) - {0})} are still there at the end")
        if xen.frames.free_count != self.free_frames:
            raise Mismatch(f"{self.free_frames - xen.frames.free_count} frames are missing at the end")
        for f in range(self.spec_state.size.heap):
            frame = xen.frames.get(self.rig.first_mfn + f)
            if frame is not None and (frame.count or frame.tcount or frame.owner is not None):
                raise Mismatch(f"frame {f} keeps counts at the end: {frame.count}, {frame.tcount}")
        if any(record.flags for record in self.rig.dom0.grant_table.maptrack):
            raise Mismatch("Dom0 keeps a handle at the end")
        if any(act.pin for act in self.rig.dom0.grant_table.active):
            raise Mismatch("Dom0 keeps a pin at the end")
