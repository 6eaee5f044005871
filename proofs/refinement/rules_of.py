"""Which rule steps each hypercall of the implementation performs: one follower per operation.

A follower is a coroutine. After every step of the implementation it is sent the marker at which the call yielded, or `END`
when it has returned; it takes the rule steps that the implementation has performed since, with the arguments of the call
and with what was picked, and insists on the same codes.

| marker | rule steps taken when it is reached |
|---|---|
| `set_status.*` | none yet: the step takes effect when the entry has been claimed, or refused |
| `map.pinned` | `map_grant_ref`; at the end `map_grant_ref.insert` |
| `unmap.flush` | `unmap_grant_ref` for each element; at the end `.flush` and `.complete` |
| `copy.claimed` | `copy`, `.element`, `.claim_source`, `.claim_dest`; at the end `.move` and `.done` |
| `transfer.stolen`, `transfer.assigned` | `transfer`, then `transfer.assign` |
| `mmu.flush` | `mmu_update_map` or `map_status_frame`, and `mmu_update_clear` of what was there |
| `memory.preempt` | one `populate_physmap` or `decrease_reservation` |
| `destroy.dying`, `.maptrack`, `.memory` | `privcmd_destroydomain`, `release_mapping`s, `relinquish_resources` |
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from impl.xen import abi
from impl.xen.pagetables import PTE_MFN, PTE_P, PTE_RW, read_pte
from impl.xen.scheduler import HELD
from model.walk import OKAY
from proofs.refinement.rig import Guest
from proofs.refinement.shadow import ANY, Mismatch
from proofs.refinement.world import NOBODY, TOOLS

if TYPE_CHECKING:
    from proofs.refinement.bench import Bench

END = "end"
Follower = Generator[None, str, None]

CODE = {name: value for name, value in vars(abi).items() if name.startswith("GNTST_")}
NAME = {value: "GNTST_" + name[6:].lower() for name, value in CODE.items()}
GENERAL = "GNTST_general_error"


def status_name(value: int) -> str:
    """The rules' code of a GNTST status."""
    return OKAY if value == 0 else NAME.get(value, str(value))


def same(code: str, status: str) -> bool:
    """Do a rule's code and a status say the same? A check that ends a call with `GNTST_okay` ends it well."""
    return code == status or {code, status} == {OKAY, "GNTST_okay"}


@dataclass
class Flight:
    """One hypercall between its start and its end."""

    text: str
    domid: int
    vcpu: int
    steps: Generator[str, None, int]
    rc: int = 0
    marker: str = ""
    guest: Guest | None = None
    calls: list[int] = field(default_factory=list)
    moving: set[tuple[int, int]] = field(default_factory=set)
    follower: Follower | None = None
    watch: tuple[int, int] | None = None  # the entry whose pin counters are noted before each step
    watched: int = 0
    hurry: bool = False  # the rules have seen this step fail before the implementation does: nobody may come in between
    seen: list[str] = field(default_factory=list)  # statuses, for the log


@dataclass(frozen=True)
class MapElement:
    slot: int
    flags: int
    ref: int
    dom: int
    addr: int


@dataclass(frozen=True)
class UnmapElement:
    slot: int
    addr: int
    bus: int
    handle: int


@dataclass(frozen=True)
class CopyElement:
    """A side is named by reference or by frame number; `dom` as in the call."""

    src_ref: bool
    src: int
    src_dom: int
    src_off: int
    dst_ref: bool
    dst: int
    dst_dom: int
    dst_off: int
    length: int


def _args(b: Bench, f: Flight) -> tuple[Guest, int, int]:
    assert f.guest is not None
    return f.guest, f.domid, f.calls[0]


def follow_map(b: Bench, f: Flight, elements: list[MapElement]) -> Follower:
    """map_grant_ref, element by element."""
    guest, me, call = _args(b, f)
    sh = b.shadow
    for i, e in enumerate(elements):
        tries = 0
        event = yield
        key = (sh.domain(e.dom), sh.ref(e.ref))
        while event in HELD:
            f.moving.add(key)
            tries += 1
            event = yield
        args = {"caller": me, "space": me, "dom": sh.domain(e.dom), "ref": sh.ref(e.ref),
                "writable": int(not e.flags & 4), "host": int(bool(e.flags & 2)), "device": e.flags & 1,
                "got_h": sh.free_handle(), "this": call}
        if event != "map.pinned":
            f.moving.discard(key)
            status = b.status(f, i * 32 + 18)
            _refused_map(b, f, e, status, args, tries)
            continue
        # While a grant is in use already, the implementation takes the page only in its second step, the rules in the first.
        f.hurry = bool(sh.at("status.reading", *key))
        code = sh.try_step("map_grant_ref", args)
        late = False
        f.moving.discard(key)
        if code == GENERAL and sh.at("status.reading", *key):
            f.moving.add(key)
            late = True  # the pinned frame is gone: the implementation notices in its second step
        elif code != OKAY:
            raise Mismatch(f"map_grant_ref: the rules say {code}, the implementation has pinned the grant")
        event = yield
        if event in HELD:
            raise Mismatch(f"a map in its second step is at {event}")
        f.moving.discard(key)
        f.hurry = False
        status = b.status(f, i * 32 + 18)
        if late:
            b.expect(f, "map_grant_ref", GENERAL, status)
        elif status == OKAY:
            _insert(b, f, e, me, call, guest, args["got_h"], b.word(f, i * 32 + 20))
        else:
            b.expect(f, "map_grant_ref.insert", sh.step("map_grant_ref.insert", {"this": call, "got_t": 0, "got_u": 0},
                                                        GENERAL, GENERAL), status)


def _refused_map(b: Bench, f: Flight, e: MapElement, status: str, args: dict[str, int], tries: int) -> None:
    if status == "GNTST_no_space":
        b.shadow.reached["map_grant_ref: GNTST_no_space"] = b.shadow.reached.get("map_grant_ref: GNTST_no_space", 0) + 1
        if b.has_handles(f):
            raise Mismatch("map_grant_ref: no_space although there are handles")
        return
    fail = None
    if status == GENERAL:
        domain = b.rig.xen.domains.get(e.dom)
        if domain is not None and e.ref < domain.grant_table.nr_entries:
            classes = _classes(e.flags)
            if domain.grant_table.active[e.ref].pin & (classes << 7) or tries >= 5:
                fail = GENERAL
    code = b.shadow.try_step("map_grant_ref", args, fail)
    if code == OKAY or code is None:
        raise Mismatch(f"map_grant_ref: the rules say {code}, the implementation {status}",
                       {"map_grant_ref: status": (code, status)})
    b.expect(f, "map_grant_ref", code, status)


def _classes(flags: int) -> int:
    readonly = flags & 4
    out = 0
    if flags & 2:
        out += abi.PIN_HSTR if readonly else abi.PIN_HSTW
    if flags & 1:
        out += abi.PIN_DEVR if readonly else abi.PIN_DEVW
    return out


def _insert(b: Bench, f: Flight, e: MapElement, me: int, call: int, guest: Guest, h: int, number: int) -> None:
    sh = b.shadow
    t = sh.free_translation()
    sh.step("map_grant_ref.insert", {"this": call, "got_t": t, "got_u": sh.free_translation(t)})
    if (me, number) in sh.handles:
        raise Mismatch(f"handle {number} of d{me} was given out although it stands for a mapping")
    sh.handles[me, number] = h
    b.owned_handles.add((me, number))
    if e.flags & 2:
        replace_slot(b, me, e.slot, t)


def replace_slot(b: Bench, me: int, slot: int, t: int | None) -> None:
    """A page-table entry now holds translation t (or nothing); what was there is cleared, and may stay cached."""
    sh = b.shadow
    old = sh.slots.pop((me, slot), None)
    if t is not None:
        sh.slots[me, slot] = t
    if old is not None:
        frame = sh.T["translation.frame"][old]
        sh.step("mmu_update_clear", {"caller": me, "space": me, "t": old})
        b.dirty.add(me)
        b.touch_frame(frame)


def follow_unmap(b: Bench, f: Flight, elements: list[UnmapElement]) -> Follower:
    """unmap_grant_ref of up to 32 elements: all first phases, one flush, all second phases."""
    guest, me, _ = _args(b, f)
    sh = b.shadow
    event = yield
    pending: list[int] = []
    if event == END:
        return  # not one element could be read
    for i, e in enumerate(elements):
        call = f.calls[i]
        status = b.status(f, i * 24 + 20)
        h = sh.handle(me, e.handle)
        host, device = int(bool(e.addr)), int(bool(e.bus))
        at_slot = sh.slots.get((me, e.slot))
        t = sh.free_translation() if at_slot is None else at_slot
        fail = status if status in (GENERAL, "GNTST_bad_dev_addr") and b.names_another(me, e, h, status) else None
        gone = guest.domain.crashed and status == GENERAL
        key = (sh.T["mapping.granter"][h], sh.T["mapping.ref"][h])
        had_host = sh.T["mapping.host"][h]
        if device and status == OKAY and sh.T["mapping.device"][h] and b.names_another(me, e, h, "GNTST_bad_dev_addr"):
            raise Mismatch("unmap_grant_ref: a bus address that is not the frame's was accepted")
        code = sh.try_step("unmap_grant_ref", {"caller": me, "space": me, "h": h, "t": t, "host": host, "device": device,
                                               "this": call}, fail)
        if gone and code in ("GNTST_bad_handle", GENERAL):
            continue  # where the rules refuse the handle of a granter that has gone, Xen crashes the caller as well
        b.expect(f, "unmap_grant_ref", code, status)
        if code != OKAY:
            continue
        pending.append(call)
        b.touched.add(key)
        if host and had_host:
            del sh.slots[me, e.slot]
        if not (sh.T["mapping.host"][h] or sh.T["mapping.device"][h]):
            sh.handles.pop((me, e.handle), None)
            b.owned_handles.discard((me, e.handle))
    yield
    for call in pending:
        sh.step("unmap_grant_ref.flush", {"this": call})
    for call in pending:
        frame = sh.at("hold.frame", call, 1)
        sh.step("unmap_grant_ref.complete", {"this": call})
        b.touch_frame(frame)


def follow_copy(b: Bench, f: Flight, elements: list[CopyElement]) -> Follower:
    """copy: each element is a batch of its own, as the implementation keeps nothing between two of them."""
    _, me, call = _args(b, f)
    sh = b.shadow
    this = {"this": call}
    for i, e in enumerate(elements):
        stage, tries = 0, 0
        source = b.entry_key(e.src_dom, e.src, me) if e.src_ref else None
        dest = b.entry_key(e.dst_dom, e.dst, me) if e.dst_ref else None
        f.watch = source
        event = yield
        before = f.watched
        f.moving.update(k for k in (source, dest) if k is not None)
        sh.step("copy", {"caller": me, "space": me, **this})
        code = sh.step("copy.element", {
            "src_by_ref": int(e.src_ref), "src_own": int(e.src_dom == abi.DOMID_SELF), "src_dom": sh.domain(e.src_dom),
            "src_ref": sh.ref(e.src) if e.src_ref else 0, "src_frame": 0 if e.src_ref else sh.frame(e.src),
            "dst_by_ref": int(e.dst_ref), "dst_own": int(e.dst_dom == abi.DOMID_SELF), "dst_dom": sh.domain(e.dst_dom),
            "dst_ref": sh.ref(e.dst) if e.dst_ref else 0, "dst_frame": 0 if e.dst_ref else sh.frame(e.dst), **this}, ANY)
        while event in HELD:
            tries += 1
            if code == OKAY and stage == 0 and (source is None or b.pin(source) != before):
                code = sh.step("copy.claim_source", this)
                stage, tries = 1, 1
            event = yield
        status = OKAY if event == "copy.claimed" else b.status(f, i * 40 + 36)
        fail = GENERAL if status == GENERAL and b.copy_may_fail(e, stage, tries, me) else None
        if code == OKAY and stage == 0:
            code = sh.step("copy.claim_source", this, ANY, fail if b.source_may_fail(e, tries, me) else None)
            stage = 1
        if code == OKAY and stage == 1:
            code = sh.step("copy.claim_dest", this, ANY, fail)
            stage = 2
        f.moving.clear()
        if event == "copy.claimed":
            b.expect(f, "copy", code, OKAY)
            event = yield
            status = b.status(f, i * 40 + 36)
            frames = (sh.at("hold.frame", call, 0), sh.at("hold.frame", call, 1))
            fail = status if status != OKAY else None
            if fail is not None and e.src_off + e.length <= 4096 and e.dst_off + e.length <= 4096:
                raise Mismatch(f"copy: the implementation says {status} of bytes within their pages")
            code = sh.step("copy.move", this, ANY, fail)
            b.expect(f, "copy.move", code, status)
            sh.step("copy.done", this)
            for frame in frames:
                b.touch_frame(frame)
        else:
            b.expect(f, "copy", code, status)
            sh.step("copy.done", this)
        b.touched.update(k for k in (source, dest) if k is not None)


def follow_transfer(b: Bench, f: Flight, mfn: int, dom: int, ref: int) -> Follower:
    """transfer of one page."""
    guest, me, call = _args(b, f)
    sh = b.shadow
    event = yield
    element = sh.frame(mfn)
    args = {"caller": me, "space": me, "f": element, "dom": sh.domain(dom), "ref": sh.ref(ref), "this": call}
    if event == END:
        b.expect(f, "transfer", sh.step("transfer", args, ANY), b.status(f, 16))
        return
    sh.step("transfer", args)
    if mfn in guest.pool:
        guest.pool.remove(mfn)
    event = yield
    while event in HELD:
        event = yield
    taker = b.rig.xen.domains.get(dom)
    epoch = sh.free_epoch()
    if event == "transfer.assigned":
        sh.step("transfer.assign", {"e": epoch, "this": call})
        key = (sh.domain(dom), sh.ref(ref))
        b.locked.add(key)
        f.moving.add(key)
        other = b.rig.guests.get(dom)
        if other is not None:
            other.pool.append(mfn)
        yield
        b.locked.discard(key)
        b.forge(key)
        b.expect(f, "transfer", OKAY, b.status(f, 16))
        return
    status = b.status(f, 16)
    full = taker is not None and taker.tot_pages >= taker.max_pages
    code = sh.step("transfer.assign", {"e": epoch, "this": call}, ANY, GENERAL if full and status == GENERAL else None)
    b.expect(f, "transfer.assign", code, status)


def follow_version(b: Bench, f: Flight, version: int) -> Follower:
    """set_version, in one step."""
    guest, me, _ = _args(b, f)
    sh = b.shadow
    yield
    table = guest.domain.grant_table
    want = {0: "okay", -abi.EBUSY: "EBUSY", -abi.ENOMEM: "ENOMEM", -abi.EAGAIN: "EAGAIN"}.get(f.rc, str(f.rc))
    if version not in (1, 2):
        if f.rc != -abi.EINVAL:
            raise Mismatch(f"set_version({version}) gave {f.rc}")
        return
    if want == "ENOMEM":
        sh.reached["set_version_2: ENOMEM"] = sh.reached.get("set_version_2: ENOMEM", 0) + 1
        return
    if version == 2:
        args = {"caller": me}
        if f.rc == 0 and sh.T["version"][me] == 0:
            element = sh.frame(table.status[0].mfn)
            b.make_free(element)
            args |= {"f": element, "e": sh.free_epoch()}
        code = sh.step("set_version_2", args, ANY)
    else:
        frames = [i for i in range(sh.size.heap) if sh.T["frame.use"][i] == sh.use["status_frame"]
                  and sh.T["frame.owner"][i] == me]
        if f.rc == 0:
            b.flushed(me)
        code = sh.step("set_version_1", {"caller": me}, ANY)
        del frames
    b.expect(f, "set_version", code, want)
    for r in range(sh.rules.nrefs):
        b.settle_forged((me, r))


def follow_setup(b: Bench, f: Flight, nr_frames: int) -> Follower:
    """setup_table: each reference that the table has now."""
    guest, me, _ = _args(b, f)
    sh = b.shadow
    yield
    status = b.status(f, 8)
    if status != OKAY:
        b.expect(f, "setup_table", sh.step("setup_table", {"caller": me, "ref": 0, "enough": 0}, ANY, GENERAL), status)
        return
    domain = guest.domain
    for r, number in enumerate(sh.size.refs):
        if number < domain.grant_table.nr_entries:
            sh.step("setup_table", {"caller": me, "ref": r, "enough": b.enough(domain, number)})


def follow_populate(b: Bench, f: Flight, count: int) -> Follower:
    """populate_physmap, extent by extent; it answers with the number of extents done."""
    guest, me, _ = _args(b, f)
    sh = b.shadow
    for i in range(count):
        event = yield
        if event == END and f.rc <= i:
            sh.step("populate_physmap", {"caller": me}, "ENOMEM", "ENOMEM")
            if b.can_populate(guest):
                raise Mismatch("populate_physmap stopped although the heap and the limit have room")
            return
        mfn = abi.U64.unpack(b.bytes(f, 64 + i * 8, 8))[0]
        b.make_free(sh.frame(mfn))
        sh.step("populate_physmap", {"caller": me, "f_f": sh.frame(mfn), "f_e": sh.free_epoch()})
        if mfn in guest.pool or sh.frame(mfn) == sh.size.nowhere:
            raise Mismatch(f"populate_physmap gave frame {mfn:#x} out")
        guest.pool.append(mfn)
        b.touched_frames.add(sh.frame(mfn))


def follow_decrease(b: Bench, f: Flight, mfns: list[int]) -> Follower:
    """decrease_reservation, extent by extent."""
    guest, me, _ = _args(b, f)
    sh = b.shadow
    for i, mfn in enumerate(mfns):
        event = yield
        done = event != END or f.rc > i
        code = sh.step("decrease_reservation", {"caller": me, "f": sh.frame(mfn)}, ANY)
        if (code == OKAY) != done:
            raise Mismatch(f"decrease_reservation: the rules say {code}, the implementation stopped at {f.rc}")
        if not done:
            return
        if mfn in guest.pool:
            guest.pool.remove(mfn)
        b.touch_frame(sh.frame(mfn))


ERRNO = {-abi.EPERM: "EPERM", -abi.ESRCH: "ESRCH", -abi.EBUSY: "EBUSY", -abi.EINVAL: "EINVAL"}


def follow_mmu(b: Bench, f: Flight, slot: int, pte: int, foreign: int, flushed: bool) -> Follower:
    """mmu_update or update_va_mapping of one window entry."""
    guest, me, call = _args(b, f)
    sh = b.shadow
    mfn = (pte & PTE_MFN) >> 12
    status = b.is_status(guest, mfn)
    obtainable = b.rig.obtainable(guest.domain, mfn)
    old = read_pte(guest.window, slot)
    event = yield
    assumed: int | None = None
    if event != END:
        done = read_pte(guest.window, slot) == pte and (
            old != pte or (obtainable and foreign == abi.DOMID_SELF) or not pte & PTE_P)
        assumed = 0 if done else 1
    good = f.rc == 0 if assumed is None else assumed == 0
    own = foreign == abi.DOMID_SELF
    if not pte & PTE_P:
        if good:
            replace_slot(b, me, slot, None)
    elif status and own:
        code = sh.step("map_status_frame", {"caller": me, "space": me, "f": sh.frame(mfn), "this": call}, ANY)
        if (code == OKAY) != good:
            raise Mismatch(f"map_status_frame: the rules say {code}, the implementation {f.rc}")
        if good:
            t = sh.free_translation()
            sh.step("map_status_frame.insert", {"t": t, "this": call})
            replace_slot(b, me, slot, t)
    else:
        d = me if own else NOBODY if foreign == me else sh.domain(foreign)
        t = sh.free_translation()
        fail = "EBUSY" if not good and pte & PTE_RW and b.is_table(mfn) else None
        code = sh.step("mmu_update_map", {"caller": me, "space": me, "d": d, "f": sh.frame(mfn),
                                          "writable": int(bool(pte & PTE_RW)), "t": t,
                                          "nil": sh.size.handles - 1}, ANY, fail)
        if (code == OKAY) != good:
            raise Mismatch(f"mmu_update_map: the rules say {code}, the implementation {'did it' if good else f.rc}")
        if good:
            replace_slot(b, me, slot, t)
        elif assumed is None:
            b.expect(f, "mmu_update_map", code, ERRNO.get(f.rc, str(f.rc)))
        else:
            yield
            b.expect(f, "mmu_update_map", code, ERRNO.get(f.rc, str(f.rc)))
            return
    if assumed is not None:
        yield
        if (f.rc == 0) != good:
            raise Mismatch(f"mmu_update answered {f.rc} of an update that it {'made' if good else 'did not make'}")


def follow_flush(b: Bench, f: Flight) -> Follower:
    """A TLB flush of the guest's own asking; the rules' flush is seen when no TLB holds anything stale."""
    event = yield
    while event != END:
        event = yield
    b.dirty.add(f.domid)


def follow_destroy(b: Bench, f: Flight, domid: int) -> Follower:
    """domctl destroydomain, phase by phase."""
    sh = b.shadow
    event = yield
    sh.step("privcmd_destroydomain", {"p": TOOLS, "x": b.privcmd, "d": domid},
            OKAY if event != END else ANY)
    if event == END:
        return
    domain = b.rig.xen.domains[domid]
    guest = b.rig.guests[domid]
    relinquished = False
    while event != END:
        event = yield
        track = domain.grant_table.maptrack
        for key in [k for k in sorted(sh.handles, reverse=True) if k[0] == domid]:
            if not relinquished and not track[key[1]].flags & 3:
                h = sh.handles.pop(key)
                b.owned_handles.discard(key)
                granter = (sh.T["mapping.granter"][h], sh.T["mapping.ref"][h])
                sh.step("release_mapping", {"h": h})
                b.touched.add(granter)
        if event in ("destroy.roots", "destroy.unpinned") and not relinquished:
            b.torn.add(domid)
            f.hurry = True  # the rules give up page tables and memory in one step
        if event == "destroy.memory" or (event == END and not relinquished):
            relinquished = True
            f.hurry = False
            b.torn.discard(domid)
            frames = [i for i in range(sh.size.heap) if sh.T["frame.owner"][i] == domid
                      and sh.T["frame.use"][i] in (sh.use["ram"], sh.use["status_frame"])]
            mapped = {sh.T["translation.frame"][t] for t in range(sh.size.translations)
                      if (sh.T["translation.present"][t] or sh.T["translation.cached"][t])
                      and sh.T["translation.space"][t] == domid}
            sh.step("relinquish_resources", {"d": domid})
            for key in [k for k in sh.slots if k[0] == domid]:
                del sh.slots[key]
            for i in (*frames, *mapped):
                b.touch_frame(i)
            b.rig.guests.pop(domid, None)
            b.dying.add(domid)
    del guest


def elements_of(calls: list[int]) -> Iterator[int]:
    """Call elements in order."""
    yield from calls
