"""Followers of the grant operations: one per operation.

After every step of the implementation a follower receives the marker at which the call yielded, or `END` when it has
returned; it takes the rule steps for the implementation's actions since then, with the arguments of the call and the
picked values, and requires the same codes.

| marker | rule steps taken when it is reached |
|---|---|
| `set_status.*` | none yet: the step takes effect when the entry has been claimed, or refused |
| `map.pinned` | `map_grant_ref`; at the end `map_grant_ref.insert` |
| `unmap.flush` | `unmap_grant_ref` for each element; at the end `.flush` and `.complete` |
| `copy.transitive` | none: the grant behind a transitive entry is claimed next, and both are one rule step |
| `copy.claimed` | `copy`, `.element`, `.claim_source`, `.claim_dest`; at the end `.move` and `.done` |
| `copy.restart` | the same, of which one ends with ERESTART; then the element begins again |
| `transfer.stolen`, `transfer.assigned` | `transfer`, then `transfer.flush` and `.assign`; at the end `transfer.place` |
"""

from __future__ import annotations

from collections.abc import Generator

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.domains import Domain
from bulkhead.impl.xen.scheduler import HELD
from bulkhead.model.caller import OKAY
from bulkhead.proofs.refinement.lockstep.call import (
    END,
    GENERAL,
    CallInFlight,
    CopyElement,
    Follower,
    MapElement,
    UnmapElement,
)
from bulkhead.proofs.refinement.lockstep.copied_bytes import watch
from bulkhead.proofs.refinement.lockstep.flights import Flights
from bulkhead.proofs.refinement.lockstep.lockstep import Lockstep
from bulkhead.proofs.refinement.lockstep.observe import MOST_RACES, Key
from bulkhead.proofs.refinement.lockstep.rule_steps import ANY, Mismatch
from bulkhead.proofs.refinement.lockstep.testbed import Guest, PvGuest, PvhGuest

# What else only a guest with page tables of its own may ask for: of it the rules have the device part.
OF_PAGE_TABLES = abi.GNTMAP_APPLICATION_MAP | abi.GNTMAP_CONTAINS_PTE


def caller_of(lockstep: Lockstep, f: CallInFlight) -> tuple[Guest, int, int]:
    assert f.guest is not None
    return f.guest, f.domid, f.calls[0]


def follow_map(lockstep: Lockstep, f: CallInFlight, elements: list[MapElement]) -> Follower:
    """map_grant_ref, element by element."""
    guest, me, call = caller_of(lockstep, f)
    spec = lockstep.spec_state
    for i, e in enumerate(elements):
        event = yield
        key = (spec.domain(e.dom), spec.ref(e.ref))
        before = lockstep.changes(key)
        while event in HELD:
            f.moving.add(key)
            event = yield
        args = {
            "caller": me,
            "space": me,
            "dom": spec.domain(e.dom),
            "ref": spec.ref(e.ref),
            "writable": int(not e.flags & 4),
            "host": int(bool(e.flags & 2)),
            "device": e.flags & 1 or int(bool(guest.domain.external and e.flags & 2 and e.flags & OF_PAGE_TABLES)),
            "got_h": spec.free_handle(),
            "this": call,
        }
        if event != "map.pinned":
            f.moving.discard(key)
            status = lockstep.status(f, i * 32 + 18)
            _refused_map(lockstep, f, e, status, args, lockstep.changes(key) - before)
            continue
        # For a grant in use, the implementation takes the page reference only in its second step, the rules in the first.
        f.must_finish_first = bool(spec.at("status.reading", *key))
        code = spec.try_step("map_grant_ref", args)
        late = False
        f.moving.discard(key)
        if code == GENERAL and spec.at("status.reading", *key):
            f.moving.add(key)
            late = True  # the pinned frame no longer exists: the implementation notices in its second step
        elif code != OKAY:
            raise Mismatch(f"map_grant_ref: the rules say {code}, the implementation has pinned the grant")
        event = yield
        if event in HELD:
            raise Mismatch(f"a map in its second step is at {event}")
        f.moving.discard(key)
        f.must_finish_first = False
        status = lockstep.status(f, i * 32 + 18)
        if late:
            lockstep.expect(f, "map_grant_ref", GENERAL, status)
        elif status == OKAY:
            _insert(lockstep, f, e, me, call, guest, args["got_h"], lockstep.word(f, i * 32 + 20))
        else:
            lockstep.expect(
                f,
                "map_grant_ref.insert",
                spec.step("map_grant_ref.insert", {"this": call, "got_t": 0, "got_u": 0}, GENERAL, GENERAL),
                status,
            )


def _refused_map(lockstep: Lockstep, f: CallInFlight, e: MapElement, status: str, args: dict[str, int], lost: int) -> None:
    if status == "GNTST_no_space":
        lockstep.spec_state.count("map_grant_ref", "GNTST_no_space")
        if lockstep.has_handles(f):
            raise Mismatch("map_grant_ref: no_space although there are handles")
        return
    fail = None
    if status == GENERAL:
        domain = lockstep.rig.xen.domains.get(e.dom)
        if domain is not None and e.ref < domain.grant_table.nr_entries:
            classes = pin_classes(e.flags)
            if domain.grant_table.active[e.ref].pin & (classes << 7) or lost >= MOST_RACES:
                fail = GENERAL
    code = lockstep.spec_state.try_step("map_grant_ref", args, fail)
    if code == OKAY or code is None:
        raise Mismatch(
            f"map_grant_ref: the rules say {code}, the implementation {status}", {"map_grant_ref: status": (code, status)}
        )
    lockstep.expect(f, "map_grant_ref", code, status)


def pin_classes(flags: int) -> int:
    readonly = flags & 4
    out = 0
    if flags & 2:
        out += abi.PIN_HSTR if readonly else abi.PIN_HSTW
    if flags & 1:
        out += abi.PIN_DEVR if readonly else abi.PIN_DEVW
    return out


def _insert(
    lockstep: Lockstep, f: CallInFlight, e: MapElement, me: int, call: int, guest: Guest, h: int, number: int
) -> None:
    spec = lockstep.spec_state
    t = spec.free_translation()
    if isinstance(guest, PvhGuest):
        t = spec.numbers[me, e.addr >> 12]
        if spec.T["translation.present"][t]:  # a page of its own, which stays the guest's without a number
            spec.step("remove_from_physmap", {"caller": me, "t": t})
    spec.step("map_grant_ref.insert", {"this": call, "got_t": t, "got_u": spec.free_translation(t)})
    if (me, number) in spec.handles:
        raise Mismatch(f"handle {number} of d{me} was given out although it stands for a mapping")
    spec.handles[me, number] = h
    lockstep.owned_handles.add((me, number))
    if e.flags & 2 and isinstance(guest, PvGuest):
        replace_slot(lockstep, me, e.slot, t)


def replace_slot(lockstep: Lockstep, me: int, slot: int, t: int | None) -> None:
    """A page-table entry now holds translation t (or nothing); the old one is cleared, and may stay cached."""
    spec = lockstep.spec_state
    old = spec.slots.pop((me, slot), None)
    if t is not None:
        spec.slots[me, slot] = t
    if old is not None:
        frame = spec.T["translation.frame"][old]
        spec.step("mmu_update_clear", {"caller": me, "space": me, "t": old})
        lockstep.dirty.add(me)
        lockstep.touch_frame(frame)


def follow_unmap(lockstep: Lockstep, f: CallInFlight, elements: list[UnmapElement]) -> Follower:
    """unmap_grant_ref of up to 32 elements: all first phases, one flush, all second phases."""
    guest, me, _ = caller_of(lockstep, f)
    spec = lockstep.spec_state
    event = yield
    pending: list[int] = []
    if event == END:
        return  # no element could be read
    for i, e in enumerate(elements):
        call = f.calls[i]
        status = lockstep.status(f, i * 24 + 20)
        h = spec.handle(me, e.handle)
        host, device = int(bool(e.addr)), int(bool(e.bus))
        at_slot = spec.at_slot(me, e.slot)
        t = spec.free_translation() if at_slot is None else at_slot
        fail = status if status in (GENERAL, "GNTST_bad_dev_addr") and lockstep.names_another(me, e, h, status) else None
        gone = guest.domain.crashed and status == GENERAL
        key = (spec.T["mapping.granter"][h], spec.T["mapping.ref"][h])
        had_host = spec.T["mapping.host"][h]
        if (
            device
            and status == OKAY
            and spec.T["mapping.device"][h]
            and lockstep.names_another(me, e, h, "GNTST_bad_dev_addr")
        ):
            raise Mismatch("unmap_grant_ref: a bus address that is not the frame's was accepted")
        code = spec.try_step(
            "unmap_grant_ref",
            {"caller": me, "space": me, "h": h, "t": t, "host": host, "device": device, "this": call},
            fail,
        )
        if gone and code in ("GNTST_bad_handle", GENERAL):
            continue  # for a handle without a granter the rules return an error; Xen also crashes the caller
        lockstep.expect(f, "unmap_grant_ref", code, status)
        if code != OKAY:
            continue
        pending.append(call)
        lockstep.touched.add(key)
        if host and had_host and isinstance(guest, PvGuest):
            del spec.slots[me, e.slot]
        if not (spec.T["mapping.host"][h] or spec.T["mapping.device"][h]):
            spec.handles.pop((me, e.handle), None)
            lockstep.owned_handles.discard((me, e.handle))
    yield
    for call in pending:
        spec.step("unmap_grant_ref.flush", {"this": call})
    for call in pending:
        frame = spec.at("hold.frame", call, 1)
        spec.step("unmap_grant_ref.complete", {"this": call})
        lockstep.touch_frame(frame)


def follow_copy(
    lockstep: Flights, f: CallInFlight, elements: list[CopyElement], rule: str = "copy", begin: dict[str, int] | None = None
) -> Follower:
    """copy: each element is a separate batch, as the implementation has no state between two of them.

    `rule` is the operation that performs the copy, `begin` the arguments of its first step.
    """
    me = f.domid
    this = {"this": f.calls[0]}
    begin = begin or {"caller": me, "space": me}
    for i, e in enumerate(elements):
        source = lockstep.entry_key(e.src_dom, e.src, me) if e.src_ref else None
        dest = lockstep.entry_key(e.dst_dom, e.dst, me) if e.dst_ref else None
        again = True
        while again:
            again = yield from _copy_element(lockstep, f, i, e, rule, {**begin, **this}, (source, dest))


def _copy_element(
    lockstep: Flights,
    f: CallInFlight,
    i: int,
    e: CopyElement,
    rule: str,
    begin: dict[str, int],
    keys: tuple[Key | None, Key | None],
) -> Generator[None, str, bool]:
    """One element; True if the call begins it again, as a transitive entry is in use for another grant or page.

    From the check of a transitive entry until it and the grant behind it are pinned, no other call may come between, and
    the entry stays as it is; the grant behind may be rewritten by its owner.
    """
    source, dest = keys
    me, this = f.domid, {"this": f.calls[0]}
    spec = lockstep.spec_state
    stage = 0
    f.watch = source
    event = yield
    before = f.watched
    behind: list[Key] = []  # the grants behind transitive entries
    begun = {key: lockstep.changes(key) for key in keys if key is not None}  # changes of the entries of the side in turn
    f.moving.update(k for k in keys if k is not None)
    spec.step(rule, begin)
    code = spec.step(
        f"{rule}.element",
        {
            "src_by_ref": int(e.src_ref),
            "src_own": int(e.src_dom == abi.DOMID_SELF),
            "src_dom": spec.domain(e.src_dom),
            "src_ref": spec.ref(e.src) if e.src_ref else 0,
            "src_frame": 0 if e.src_ref else spec.named(lockstep.rig.xen.domains[me], e.src),
            "dst_by_ref": int(e.dst_ref),
            "dst_own": int(e.dst_dom == abi.DOMID_SELF),
            "dst_dom": spec.domain(e.dst_dom),
            "dst_ref": spec.ref(e.dst) if e.dst_ref else 0,
            "dst_frame": 0 if e.dst_ref else spec.named(lockstep.rig.xen.domains[me], e.dst),
            **this,
        },
        ANY,
    )
    while event in HELD or event == "copy.transitive":
        if code == OKAY and stage == 0 and (source is None or lockstep.pin(source) != before):
            code = spec.step(f"{rule}.claim_source", this)
            lockstep.locked -= {source}
            stage, begun = 1, {dest: lockstep.changes(dest)} if dest is not None else {}
        f.must_finish_first = event == "copy.transitive"
        named, found = keys[stage], lockstep.grant_behind(keys[stage])
        if event == "copy.transitive" and named is not None:
            lockstep.locked.add(named)
            if found is not None:
                behind.append(found)
                f.moving.add(found)
                begun[found] = lockstep.changes(found)
        event = yield
    f.must_finish_first = False
    lockstep.locked -= set(keys)
    status = OKAY if event == "copy.claimed" else "ERESTART" if event == "copy.restart" else lockstep.status(f, i * 40 + 36)
    refused = GENERAL if status == GENERAL else None
    lost = max((lockstep.changes(key) - count for key, count in begun.items()), default=0)
    if code == OKAY and stage == 0:
        fail = refused if lockstep.source_may_fail(e, lost, me) else None
        code = spec.step(f"{rule}.claim_source", this, ANY, fail)
        stage = 1
    if code == OKAY and stage == 1:
        fail = refused if lockstep.copy_may_fail(e, lost, me) else None
        code = spec.step(f"{rule}.claim_dest", this, ANY, fail)
    f.moving.clear()
    lockstep.expect(f, rule, code, status)
    frames: tuple[int, ...] = ()
    if event == "copy.claimed":
        if dest is not None and lockstep.joined_another_part(dest):
            raise Mismatch(f"{rule}: a writer joins readers of another part of the page")
        parts = (lockstep.part(source), lockstep.part(dest))
        frames = (spec.at("hold.frame", f.calls[0], 0), spec.at("hold.frame", f.calls[0], 1))
        pages = [spec.mfn(frame) for frame in frames]
        status_at = None if f.guest is None else (f.guest.arg_mfn, f.vcpu * 2048 + i * 40 + 36)
        watched, f.moves = watch(lockstep.rig.xen.frames, pages[0], pages[1], e, status_at)
        event = yield
        f.moves = None
        status = lockstep.status(f, i * 40 + 36)
        want = _bounds(e, parts)
        code = spec.step(f"{rule}.move", this, ANY, want if want != OKAY else None)
        lockstep.expect(f, f"{rule}.move", code, status)
        watched.compare(status == OKAY)
        if status == OKAY:
            lockstep.copied_to(pages[1], f.calls[0])
    spec.step(f"{rule}.done", this)
    for frame in frames:
        lockstep.touch_frame(frame)
    lockstep.touched.update(k for k in (*keys, *behind) if k is not None)
    return event == "copy.restart"


def _bounds(e: CopyElement, parts: tuple[tuple[int, int], tuple[int, int]]) -> str:
    """The bytes of a copy: they cross a page's end, exceed the granted parts, or are copied."""
    ranges = ((e.src_off, e.src_off + e.length), (e.dst_off, e.dst_off + e.length))
    if any(last > abi.PAGE_SIZE for _, last in ranges):
        return "GNTST_bad_copy_arg"
    inside = all(begin <= first and last <= end for (first, last), (begin, end) in zip(ranges, parts, strict=True))
    return OKAY if inside else GENERAL


def follow_swap(lockstep: Lockstep, f: CallInFlight, refs: tuple[int, int]) -> Follower:
    """swap_grant_ref of two own entries."""
    _, me, _ = caller_of(lockstep, f)
    spec = lockstep.spec_state
    yield
    keys = [(me, spec.ref(ref)) for ref in refs]
    lockstep.expect(
        f,
        "swap_grant_ref",
        spec.step("swap_grant_ref", {"caller": me, "a": keys[0][1], "b": keys[1][1]}, ANY),
        lockstep.status(f, 8),
    )
    for key in keys:
        lockstep.settle_forged(key)


def follow_transfer(lockstep: Lockstep, f: CallInFlight, mfn: int, dom: int, ref: int) -> Follower:
    """transfer of one page."""
    guest, me, call = caller_of(lockstep, f)
    spec = lockstep.spec_state
    event = yield
    element = spec.of_number(guest.domain, mfn)
    args = {"caller": me, "space": me, "f": element, "dom": spec.domain(dom), "ref": spec.ref(ref), "this": call}
    if event == END:
        lockstep.expect(f, "transfer", spec.step("transfer", args, ANY), lockstep.status(f, 16))
        return
    spec.step("transfer", args)
    event = yield
    spec.step("transfer.flush", {"this": call})
    while event in HELD:
        event = yield
    taker = lockstep.rig.xen.domains.get(dom)
    epoch = spec.free_epoch()
    if event == "transfer.assigned":
        spec.step("transfer.assign", {"e": epoch, "this": call})
        key = (spec.domain(dom), spec.ref(ref))
        lockstep.locked.add(key)
        f.moving.add(key)
        assert taker is not None
        if _completed(taker, ref):
            raise Mismatch("transfer: the entry is completed before the page is there")
        yield
        lockstep.locked.discard(key)
        lockstep.forge(key)
        _place(lockstep, f, taker, key)
        return
    status = lockstep.status(f, 16)
    full = taker is not None and taker.tot_pages >= taker.max_pages
    code = spec.step("transfer.assign", {"e": epoch, "this": call}, ANY, GENERAL if full and status == GENERAL else None)
    lockstep.expect(f, "transfer.assign", code, status)


def _place(lockstep: Lockstep, f: CallInFlight, taker: Domain, key: Key) -> None:
    """The page has come to the number that the taker's entry names, or to none. What a dying taker has at its numbers is not
    compared, nor are there new tables for its map."""
    spec, status = lockstep.spec_state, lockstep.status(f, 16)
    number = spec.at("gfn.number", *key)
    there, was = spec.T["translation.present"][number], spec.T["translation.frame"][number]
    fail = GENERAL if status == GENERAL and taker.external and taker.is_dying else None
    args = {"home": key[0], "nil": spec.size.handles - 1, "this": f.calls[0]}
    lockstep.expect(f, "transfer.place", spec.step("transfer.place", args, ANY, fail), status)
    if status == OKAY and not taker.is_dying and not _completed(taker, spec.size.refs[key[1]]):
        raise Mismatch("transfer: done, but the entry is not completed")
    if taker.external and status == OKAY and there:
        lockstep.touch_frame(was)
    if taker.crashed and not taker.is_dying and not any(o.domid == key[0] for o in lockstep.flights):
        lockstep.crashed(key[0])


def _completed(taker: Domain, ref: int) -> bool:
    """Does an entry say that its page has come? The owner may write that bit, too, but not during a transfer."""
    return bool(abi.HEADER.unpack_from(*taker.grant_table.header_at(ref))[0] & abi.GTF_TRANSFER_COMPLETED)
