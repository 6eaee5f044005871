"""Observations of the two sides for followers: the bytes of a call, its status, and reasons for Xen to refuse.

Where the rules are an abstraction (counters at their maximum, types of pages, parts of pages, lost races), an error of the
implementation matches their `may fail` only if its state shows the reason.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.domains import Domain
from bulkhead.proofs.refinement.lockstep.call import CallInFlight, CopyElement, UnmapElement, same, status_name
from bulkhead.proofs.refinement.lockstep.rule_steps import Mismatch
from bulkhead.proofs.refinement.lockstep.spec_state import SpecState
from bulkhead.proofs.refinement.lockstep.testbed import Bench, Guest

Key = tuple[int, int]
MOST_RACES: Final = 5  # for an entry of version 1, against the granter; then the use is refused (Xen's _set_status_v1)


class Asked:
    """Observations of one machine and its rules."""

    def __init__(self, rig: Bench, spec_state: SpecState) -> None:
        self.rig = rig
        self.spec_state = spec_state
        self.changed: Counter[Key] = Counter()  # number of changes of an entry's header by its granter

    def bytes(self, f: CallInFlight, offset: int, size: int) -> bytes:
        """The current bytes of a call's arguments."""
        if f.read is not None:
            return f.read(offset, size)
        assert f.guest is not None
        return f.guest.result(f.vcpu, offset, size)

    def word(self, f: CallInFlight, offset: int) -> int:
        """A 32-bit word of them."""
        return int(abi.U32.unpack(self.bytes(f, offset, 4))[0])

    def status(self, f: CallInFlight, offset: int) -> str:
        """A status field."""
        status = status_name(abi.STATUS.unpack(self.bytes(f, offset, 2))[0])
        f.seen.append(status)
        return status

    def expect(self, f: CallInFlight, label: str, code: str | None, status: str) -> None:
        """Check that rule code and status are equal."""
        if code is None or not same(code, status):
            raise Mismatch(
                f"{label}: the rules say {code}, the implementation {status}", {f"{label}: status": (code, status)}
            )

    def has_handles(self, f: CallInFlight) -> bool:
        """Does the caller have a free maptrack record?"""
        assert f.guest is not None
        table = f.guest.domain.grant_table
        used = sum(1 for r in table.maptrack if r.flags & 3)
        return used + 8 < table.max_maptrack_frames * abi.MAPTRACK_PER_FRAME

    def names_another(self, me: int, e: UnmapElement, h: int, status: str) -> bool:
        """May an unmap be refused because an address belongs to another entry or frame?"""
        T, spec = self.spec_state.T, self.spec_state
        if status == "GNTST_bad_dev_addr":
            element = T["active.frame"][T["mapping.granter"][h] * spec.rules.nrefs + T["mapping.ref"][h]]
            return e.bus != spec.mfn(element) << 12
        t = spec.at_slot(me, e.slot)
        if t is None:
            return True
        key = T["mapping.granter"][h] * spec.rules.nrefs + T["mapping.ref"][h]
        entry = (T["translation.frame"][t], T["translation.writable"][t])
        return entry != (T["active.frame"][key], T["mapping.writable"][h])

    def entry_key(self, dom: int, ref: int, me: int) -> Key:
        """Domain and reference as elements."""
        spec = self.spec_state
        return (me if dom == abi.DOMID_SELF else spec.domain(dom)), spec.ref(ref)

    def pin(self, key: Key | None) -> int:
        """The pin counters of an entry."""
        if key is None:
            return 0
        domain = self.rig.xen.domains.get(key[0])
        number = self.spec_state.size.refs[key[1]]
        if domain is None or number >= domain.grant_table.nr_entries:
            return 0
        return domain.grant_table.active[number].pin

    def enough(self, domain: Domain, ref: int) -> int:
        """Is the reference also within the table in version 2?"""
        return int(ref < len(domain.grant_table.shared) * abi.ENTRIES_V2)

    def changes(self, key: Key | None) -> int:
        """The number of changes of an entry's header by its granter so far."""
        return 0 if key is None else self.changed[key]

    def grant_behind(self, key: Key | None) -> Key | None:
        """The grant behind a transitive entry of version 2, if there is such a domain."""
        if key is None:
            return None
        domain = self.rig.xen.domains.get(key[0])
        number = self.spec_state.size.refs[key[1]]
        if domain is None or number >= domain.grant_table.nr_entries or domain.grant_table.version == 1:
            return None
        flags, _, domid, _, low = domain.grant_table.entry_v2(number)
        if flags & abi.GTF_TYPE_MASK != abi.GTF_TRANSITIVE or domid not in self.rig.xen.domains:
            return None
        return self.spec_state.domain(domid), self.spec_state.ref(low & 0xFFFFFFFF)

    def copy_may_fail(self, e: CopyElement, lost: int, me: int) -> bool:
        """Can the destination be refused for reasons that the rules do not have: counters, types, `lost` races?"""
        if e.dst_ref:
            named = self.entry_key(e.dst_dom, e.dst, me)
            behind = self.grant_behind(named)
            if self.pin(named) & abi.PIN_HSTW << 7 or self.pin(behind) & abi.PIN_HSTW << 7 or lost >= MOST_RACES:
                return True
            key = behind or named
            if self._names_another_part(key):
                return True
            T, k = self.spec_state.T, key[0] * self.spec_state.rules.nrefs + key[1]
            f = T["active.frame"][k] if T["status.reading"][k] else T["entry.frame"][k]
            return self.is_table(self.spec_state.mfn(f))
        return self.is_table(e.dst)

    def _names_another_part(self, key: Key) -> bool:
        """Is a part of the page in use, while the entry now grants another part? (A call that has failed to claim the
        destination has already released its source; in the rules it still holds it.)"""
        domain = self.rig.xen.domains.get(key[0])
        number = self.spec_state.size.refs[key[1]]
        if domain is None or number >= domain.grant_table.nr_entries:
            return False
        act = domain.grant_table.active[number]
        if (
            not (act.pin or self.spec_state.at("status.reading", *key))
            or not act.sub_page
            or domain.grant_table.version == 1
        ):
            return False
        flags, _, off, length, _ = domain.grant_table.entry_v2(number)
        return (act.start, act.length) != ((off, length) if flags & abi.GTF_SUB_PAGE else (0, abi.PAGE_SIZE))

    def joined_another_part(self, key: Key) -> bool:
        """Has the first writer of an entry in use joined readers of another part of the page than the entry grants now? (At
        the moment when it has claimed the page: nothing has run since the check.)"""
        act = self.rig.xen.domains[key[0]].grant_table.active[self.spec_state.size.refs[key[1]]]
        others = act.pin - abi.PIN_HSTW
        first = others > 0 and not others & abi.PIN_WRITERS
        return first and self.grant_behind(key) is None and self._names_another_part(key)

    def part(self, key: Key | None) -> tuple[int, int]:
        """The start and end of the part in use of an entry; the whole page for a frame given by number."""
        if key is None:
            return 0, abi.PAGE_SIZE
        act = self.rig.xen.domains[key[0]].grant_table.active[self.spec_state.size.refs[key[1]]]
        return act.start, act.start + act.length

    def source_may_fail(self, e: CopyElement, lost: int, me: int) -> bool:
        """The same for the source."""
        key = self.entry_key(e.src_dom, e.src, me)
        return e.src_ref and bool(
            self.pin(key) & abi.PIN_HSTR << 7 or self.pin(self.grant_behind(key)) & abi.PIN_HSTR << 7 or lost >= MOST_RACES
        )

    def is_table(self, mfn: int) -> bool:
        """Is the frame in use as a page table?"""
        frame = self.rig.xen.frames.get(mfn)
        return frame is not None and frame.tcount > 0 and 1 <= frame.ptype <= 4

    def can_populate(self, guest: Guest) -> bool:
        """Is the guest below its page limit?"""
        return self.rig.xen.frames.free_count > 0 and guest.domain.tot_pages < guest.domain.max_pages
