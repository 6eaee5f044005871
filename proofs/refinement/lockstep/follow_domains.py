"""Followers of the operations on memory, event channels and domains: one per operation.

| marker | rule steps taken when it is reached |
|---|---|
| `mmu.flush` | `mmu_update_map` or `map_status_frame`, and `mmu_update_clear` of what was there |
| `memory.preempt` | one `populate_physmap` or `decrease_reservation` |
| `destroy.dying`, `.maptrack` | `privcmd_destroydomain`, `release_mapping` of each record |
| `destroy.events`, `.memory` | `evtchn_destroy`, `relinquish_resources` |
"""

from __future__ import annotations

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.frames import PGT_L1
from bulkhead.impl.xen.pagetables import PTE_MFN, PTE_P, PTE_RW, adjust_entry, read_pte, same_mapping
from bulkhead.model.caller import OKAY
from bulkhead.proofs.refinement.lockstep.call import END, GENERAL, CallInFlight, Follower
from bulkhead.proofs.refinement.lockstep.follow_grants import caller_of, replace_slot
from bulkhead.proofs.refinement.lockstep.lockstep import Lockstep
from bulkhead.proofs.refinement.lockstep.rule_steps import ANY, Mismatch
from bulkhead.proofs.refinement.lockstep.spec_world import NOBODY, TOOLS
from bulkhead.proofs.refinement.lockstep.testbed import PvGuest


def follow_version(lockstep: Lockstep, f: CallInFlight, version: int) -> Follower:
    """set_version, in one step."""
    guest, me, _ = caller_of(lockstep, f)
    spec = lockstep.spec_state
    yield
    table = guest.domain.grant_table
    want = {0: "okay", -abi.EBUSY: "EBUSY", -abi.ENOMEM: "ENOMEM", -abi.EAGAIN: "EAGAIN", -abi.ERANGE: "ERANGE"}.get(
        f.rc, str(f.rc)
    )
    if version not in (1, 2):
        if f.rc != -abi.EINVAL:
            raise Mismatch(f"set_version({version}) gave {f.rc}")
        return
    if want == "ENOMEM":
        if lockstep.rig.xen.frames.free_count:
            raise Mismatch("set_version_2: ENOMEM although the heap has a frame")
        spec.count("set_version_2", "ENOMEM")
        return
    if version == 2:
        args = {"caller": me}
        if f.rc == 0 and spec.T["version"][me] == 0:
            element = spec.frame(table.status[0].mfn)
            lockstep.make_free(element)
            args |= {"f": element, "e": spec.free_epoch()}
        code = spec.step("set_version_2", args, ANY)
    else:
        use, owner = spec.T["frame.use"], spec.T["frame.owner"]
        frames = [i for i in range(spec.size.heap) if use[i] == spec.use["status_frame"] and owner[i] == me]
        code = spec.step("set_version_1", {"caller": me}, ANY)
        for i in frames:
            lockstep.touch_frame(i)
    lockstep.expect(f, "set_version", code, want)
    for r in range(spec.rules.nrefs):
        lockstep.settle_forged((me, r))


def follow_setup(lockstep: Lockstep, f: CallInFlight, nr_frames: int) -> Follower:
    """setup_table: each reference that the table has now."""
    guest, me, _ = caller_of(lockstep, f)
    spec = lockstep.spec_state
    yield
    status = lockstep.status(f, 8)
    if status != OKAY:
        lockstep.expect(
            f, "setup_table", spec.step("setup_table", {"caller": me, "ref": 0, "enough": 0}, ANY, GENERAL), status
        )
        return
    domain = guest.domain
    lockstep.share_pages(domain)
    for r, number in enumerate(spec.size.refs):
        if number < len(domain.grant_table.shared) * abi.ENTRIES_V1:
            was_there = spec.T["fits"][2 * (me * spec.rules.nrefs + r) + domain.grant_table.version - 1]
            spec.step("setup_table", {"caller": me, "ref": r, "enough": lockstep.enough(domain, number)})
            if not was_there:
                lockstep.settle_forged((me, r))  # its status word may be in a frame that somebody has written before


def follow_populate(lockstep: Lockstep, f: CallInFlight, count: int) -> Follower:
    """populate_physmap, extent by extent; it returns the number of extents done."""
    guest, me, _ = caller_of(lockstep, f)
    spec = lockstep.spec_state
    for i in range(count):
        event = yield
        if event == END and f.rc <= i:
            spec.step("populate_physmap", {"caller": me}, "ENOMEM", "ENOMEM")
            if lockstep.can_populate(guest):
                raise Mismatch("populate_physmap stopped although the heap and the limit have room")
            return
        mfn = abi.U64.unpack(lockstep.bytes(f, 64 + i * 8, 8))[0]
        lockstep.make_free(spec.frame(mfn))
        spec.step("populate_physmap", {"caller": me, "f_f": spec.frame(mfn), "f_e": spec.free_epoch()})
        if spec.frame(mfn) == spec.size.nowhere:
            raise Mismatch(f"populate_physmap gave frame {mfn:#x} out")
        lockstep.touched_frames.add(spec.frame(mfn))


def follow_decrease(lockstep: Lockstep, f: CallInFlight, mfns: list[int]) -> Follower:
    """decrease_reservation, extent by extent."""
    _, me, _ = caller_of(lockstep, f)
    spec = lockstep.spec_state
    for i, mfn in enumerate(mfns):
        event = yield
        done = event != END or f.rc > i
        code = spec.step("decrease_reservation", {"caller": me, "f": spec.frame(mfn)}, ANY)
        if (code == OKAY) != done:
            raise Mismatch(f"decrease_reservation: the rules say {code}, the implementation stopped at {f.rc}")
        if not done:
            return
        lockstep.touch_frame(spec.frame(mfn))


ERRNO = {-abi.EPERM: "EPERM", -abi.ESRCH: "ESRCH", -abi.EBUSY: "EBUSY", -abi.EINVAL: "EINVAL", -abi.ENOSPC: "ENOSPC"}


def follow_mmu(lockstep: Lockstep, f: CallInFlight, slot: int, pte: int, foreign: int, flushed: bool) -> Follower:
    """mmu_update or update_va_mapping of one window entry."""
    guest, me, call = caller_of(lockstep, f)
    assert isinstance(guest, PvGuest)
    spec = lockstep.spec_state
    mfn = (pte & PTE_MFN) >> 12
    frame = lockstep.rig.xen.frames.get(mfn)
    status = lockstep.rig.use_of(mfn) == "status" and not pte & PTE_RW
    status = status and frame is not None and (frame.allocated or frame.owner is not guest.domain)
    obtainable = lockstep.rig.obtainable(guest.domain, mfn)
    old = read_pte(guest.window, slot)
    event = yield
    own = foreign == abi.DOMID_SELF
    stored = adjust_entry(pte, PGT_L1)
    if own and pte & PTE_P and same_mapping(old, pte):
        # The entry's mapping, direct or by a grant, stays: no step in the rules.
        while event != END:
            event = yield
        if f.rc:
            raise Mismatch(f"mmu_update answered {f.rc} of an update that changes neither frame nor writability")
        return
    assumed: int | None = None
    if event != END:
        done = read_pte(guest.window, slot) == stored and (old != stored or (obtainable and own) or not pte & PTE_P)
        assumed = 0 if done else 1
    good = f.rc == 0 if assumed is None else assumed == 0
    if not pte & PTE_P:
        if good:
            replace_slot(lockstep, me, slot, None)
    elif status and own:
        code = spec.step("map_status_frame", {"caller": me, "space": me, "f": spec.frame(mfn), "this": call}, ANY)
        if (code == OKAY) != good:
            raise Mismatch(f"map_status_frame: the rules say {code}, the implementation {f.rc}")
        if good:
            t = spec.free_translation()
            spec.step("map_status_frame.insert", {"t": t, "this": call})
            replace_slot(lockstep, me, slot, t)
    else:
        d = me if own else NOBODY if foreign == me else spec.domain(foreign)
        t = spec.free_translation()
        fail = "EBUSY" if not good and pte & PTE_RW and lockstep.is_table(mfn) else None
        code = spec.step(
            "mmu_update_map",
            {
                "caller": me,
                "space": me,
                "d": d,
                "f": spec.frame(mfn),
                "writable": int(bool(pte & PTE_RW)),
                "t": t,
                "nil": spec.size.handles - 1,
            },
            ANY,
            fail,
        )
        if (code == OKAY) != good:
            raise Mismatch(f"mmu_update_map: the rules say {code}, the implementation {'did it' if good else f.rc}")
        if good:
            replace_slot(lockstep, me, slot, t)
        elif assumed is None:
            lockstep.expect(f, "mmu_update_map", code, ERRNO.get(f.rc, str(f.rc)))
        else:
            yield
            lockstep.expect(f, "mmu_update_map", code, ERRNO.get(f.rc, str(f.rc)))
            return
    if assumed is not None:
        yield
        if (f.rc == 0) != good:
            raise Mismatch(f"mmu_update answered {f.rc} of an update that it {'made' if good else 'did not make'}")


def follow_flush(lockstep: Lockstep, f: CallInFlight) -> Follower:
    """A TLB flush that the guest requests; the rules' flush is taken when no TLB has stale translations."""
    event = yield
    while event != END:
        event = yield
    lockstep.dirty.add(f.domid)


def follow_event(
    lockstep: Lockstep, f: CallInFlight, label: str, args: dict[str, int], port_at: int | None = None
) -> Follower:
    """An event channel operation, in one step; `port_at` is the offset of a new port's number."""
    spec = lockstep.spec_state
    yield
    want = OKAY if f.rc == 0 else ERRNO.get(f.rc, str(f.rc))
    if want == OKAY and port_at is not None:
        args = args | {"q_q": spec.port(lockstep.word(f, port_at))}
    spec.step(label, args, want)


def follow_clear_elsewhere(lockstep: Lockstep, f: CallInFlight) -> Follower:
    """mmu_update that clears an entry of another domain's page table: refused."""
    while (yield) != END:
        pass
    want = OKAY if f.rc == 0 else ERRNO.get(f.rc, str(f.rc))
    lockstep.spec_state.step(
        "mmu_update_clear", {"caller": f.domid, "space": f.domid, "t": lockstep.spec_state.free_translation()}, want
    )


def follow_destroy(lockstep: Lockstep, f: CallInFlight, domid: int) -> Follower:
    """domctl destroydomain, phase by phase."""
    spec = lockstep.spec_state
    event = yield
    spec.step("privcmd_destroydomain", {"p": TOOLS, "x": lockstep.privcmd, "d": domid}, OKAY if event != END else ANY)
    if event == END:
        return
    domain = lockstep.rig.xen.domains[domid]
    relinquished = False
    while event != END:
        event = yield
        track = domain.grant_table.maptrack
        for key in [k for k in sorted(spec.handles, reverse=True) if k[0] == domid]:
            if not relinquished and not track[key[1]].flags & 3:
                h = spec.handles.pop(key)
                lockstep.owned_handles.discard(key)
                granter = (spec.T["mapping.granter"][h], spec.T["mapping.ref"][h])
                t = spec.T["mapping.host_t"][h]
                spec.step("release_mapping", {"h": h})
                lockstep.touched.add(granter)
                if domain.external:
                    lockstep.touch_frame(spec.T["translation.frame"][t])
        if event == "destroy.events":
            spec.step("evtchn_destroy", {"d": domid})
        if event in ("destroy.p2m", "destroy.roots", "destroy.unpinned") and not relinquished:
            lockstep.page_tables_freed.add(domid)
            f.must_finish_first = True  # the rules release page tables and memory in one step
        if event == "destroy.memory" or (event == END and not relinquished):
            relinquished = True
            f.must_finish_first = False
            lockstep.page_tables_freed.discard(domid)
            frames = [
                i
                for i in range(spec.size.heap)
                if spec.T["frame.owner"][i] == domid and spec.T["frame.use"][i] == spec.use["ram"]
            ]
            mapped = {
                spec.T["translation.frame"][t]
                for t in range(spec.size.translations)
                if (spec.T["translation.present"][t] or spec.T["translation.cached"][t])
                and spec.T["translation.space"][t] == domid
            }
            spec.step("relinquish_resources", {"d": domid})
            for key in [k for k in spec.slots if k[0] == domid]:
                del spec.slots[key]
            for i in (*frames, *mapped):
                lockstep.touch_frame(i)
            lockstep.dying.add(domid)
