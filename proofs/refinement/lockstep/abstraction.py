"""The abstraction function, as a comparison of the rules' state with the implementation's.

Only facts that the rules determine are compared; the README's table of normal forms lists the omissions with reasons.
`differences` compares everything; `entry_of` abstracts one grant entry.
"""

from __future__ import annotations

from bulkhead.impl.dom0.evtchn import Evtchn
from bulkhead.impl.xen import abi
from bulkhead.impl.xen.domains import ALIVE, DEAD, Domain
from bulkhead.impl.xen.events import INTERDOMAIN
from bulkhead.impl.xen.frames import Frame
from bulkhead.impl.xen.p2m import GRANT_RO, GRANT_TYPES
from bulkhead.proofs.refinement.lockstep.spec_state import SpecState
from bulkhead.proofs.refinement.lockstep.testbed import SLOTS, PvGuest, PvhGuest, Rig, use_by_xen

Places = dict[str, tuple[object, object]]
Entry = tuple[int, int, int, int, int]
IN_USE = abi.GTF_READING | abi.GTF_WRITING


def entry_of(spec: SpecState, domain: Domain, number: int) -> Entry:
    """kind, grantee, frame, readonly and part of a shared entry, as elements. Entries that grant nothing are `invalid`."""
    table = domain.grant_table
    if table.version == 1:
        flags, domid, mfn = table.entry_v1(number)
    else:
        flags, domid, _, _, mfn = table.entry_v2(number)
    kinds = spec.kind
    kind = kinds["invalid"]
    kind_bits = flags & abi.GTF_TYPE_MASK
    if kind_bits == abi.GTF_PERMIT_ACCESS:
        kind = kinds["permit_access"]
    elif kind_bits == abi.GTF_TRANSITIVE:
        kind = kinds["transitive"]
    elif flags == abi.GTF_ACCEPT_TRANSFER:
        kind = kinds["accept_transfer"]
    elif kind_bits == abi.GTF_ACCEPT_TRANSFER and flags & (abi.GTF_TRANSFER_COMMITTED | abi.GTF_TRANSFER_COMPLETED):
        kind = kinds["transfer_completed"]
    return (
        kind,
        spec.domain(domid),
        spec.named(domain, mfn),
        int(bool(flags & abi.GTF_READONLY)),
        int(bool(flags & abi.GTF_SUB_PAGE)),
    )


def behind_of(spec: SpecState, domain: Domain, number: int) -> tuple[int, int]:
    """Domain and reference, as elements, of the grant behind a transitive entry; in version 1, of what its bytes become
    in version 2."""
    table = domain.grant_table
    if table.version == 1:
        return spec.domain(0), spec.ref(table.entry_v1(number)[2])
    _, _, domid, _, low = table.entry_v2(number)
    return spec.domain(domid), spec.ref(low & 0xFFFFFFFF)


def in_use_bits(domain: Domain, number: int) -> int:
    """GTF_reading and GTF_writing in the granter's view."""
    data, off = domain.grant_table.status_at(number)
    return int(abi.U16.unpack_from(data, off)[0]) & IN_USE


def place_of(frame: Frame | None) -> str:
    """The use of a frame: in the heap, a domain's RAM, a page of Xen's own for a domain ("xen": one that nobody holds any
    more), or between two owners."""
    if frame is None:
        return "heap"
    if frame.xenheap:
        return "xen" if frame.owner is None else use_by_xen(frame, frame.owner)
    if frame.owner is None:
        return "transfer" if frame.count else "heap"
    return "ram"


def differences(
    rig: Rig, spec: SpecState, overwritten_bits: set[tuple[int, int]], moving: set[tuple[int, int]], quiet: bool
) -> Places:
    """All places where rules and implementation differ.

    `overwritten_bits`: entries whose in-use bits the granter has overwritten. `moving`: entries whose status a call
    is changing now. `quiet`: no call is in flight, so reference counts can be compared, too.
    """
    out: Places = {}
    for d in range(1, 4):
        _domain(rig, spec, d, out)
    for d, domain in rig.xen.domains.items():
        if d < 4 and spec.bound(domain):
            _table(spec, domain, overwritten_bits, moving, out)
    _frames(rig, spec, out)
    _records(rig, spec, out)
    for guest in rig.guests.values():
        if isinstance(guest, PvGuest):
            _translations(spec, guest, out)
        elif isinstance(guest, PvhGuest):
            _numbers(spec, guest, out)
    _ports(rig, spec, out)
    if quiet:
        _counts(rig, spec, out)
    return out


def _domain(rig: Rig, spec: SpecState, d: int, out: Places) -> None:
    domain = rig.xen.domains.get(d)
    phases = spec.phase
    phase = spec.T["domain.phase"][d]
    if domain is None:
        if phase not in (phases["absent"], phases["dead"]):
            out[f"domain[{d}].phase"] = (phase, "absent")
        elif phase == phases["dead"] and not any(
            spec.T["frame.owner"][f] == d and _in_heap(rig, spec, f)
            for f in range(spec.size.heap)
            if f in spec.awaiting_free or spec.T["frame.use"][f] in spec.xens_uses
        ):
            out[f"domain[{d}].phase"] = ("dead", "absent")
        return
    if domain.is_dying == ALIVE:
        want = phases["running"] if domain.creation_finished else phases["building"]
        if phase != want:
            out[f"domain[{d}].phase"] = (phase, want)
        paused = int(domain.pause_count > 0 or domain.crashed)
        if spec.T["domain.paused"][d] != paused and not domain.crashed:
            out[f"domain[{d}].paused"] = (spec.T["domain.paused"][d], paused)
    elif phase not in ((phases["dead"],) if domain.is_dying == DEAD else (phases["dying"], phases["dead"])):
        out[f"domain[{d}].phase"] = (phase, "dying or dead")
    if domain.external != bool(spec.T["translated"][d]):
        out[f"translated[{d}]"] = (bool(spec.T["translated"][d]), domain.external)
    if not spec.bound(domain):
        out[f"domain[{d}].life"] = (spec.T["domain.life"][d], spec.lives.get(domain))


def _ports(rig: Rig, spec: SpecState, out: Places) -> None:
    """Event channels, and the owning process of Dom0's."""
    T, n = spec.T, spec.size.ports
    for d, domain in rig.xen.domains.items():
        if d > 3 or not spec.bound(domain):
            continue
        for q in range(n):
            k = d * n + q
            port = domain.events.ports.get(q + 1)
            rules = (T["port.state"][k], T["port.remote"][k], T["port.remote_port"][k], bool(T["port.pending"][k]))
            if port is None:
                real, rules = (0, 0, 0, False), (rules[0], 0, 0, rules[3])
            elif port.state == INTERDOMAIN:
                remote = -1 if port.remote is None else port.remote.domid
                real = (port.state, remote, port.remote_port - 1, port.pending)
            else:
                real, rules = (port.state, spec.domain(port.remote_domid), 0, port.pending), (*rules[:2], 0, rules[3])
            if rules != real:
                out[f"port[{d}, {q + 1}]"] = (rules, real)
    users, holds = rig.kernel.evtchn_users, rig.kernel.evtchn_holds
    for q in range(n):
        user = users.get(q + 1)
        notices = sum(
            1
            for notice in ("notice", "page_notice")
            for event, port in zip(T[notice + ".event"], T[notice + ".port"], strict=True)
            if event and port == q
        )
        known = (
            bool(T["bound.used"][q]),
            bool(T["bound.used"][q] and T["bound.armed"][q]),
            bool(T["left_open"][q]),
            T["bound.used"][q] + notices,
        )
        does = (
            user is not None,
            isinstance(user, Evtchn) and user.ports[q + 1],
            q + 1 in holds and user is None,
            holds.get(q + 1, 0),
        )
        if known != does:
            out[f"bound[{q + 1}]"] = (known, does)


def _in_heap(rig: Rig, spec: SpecState, f: int) -> bool:
    frame = rig.xen.frames.table.get(spec.first_mfn + f)
    return frame is None or frame.count == 0


def _table(
    spec: SpecState, domain: Domain, overwritten_bits: set[tuple[int, int]], moving: set[tuple[int, int]], out: Places
) -> None:
    d = domain.domid
    table = domain.grant_table
    if d and spec.T["version"][d] != table.version - 1:
        out[f"version[{d}]"] = (spec.T["version"][d] + 1, table.version)
    for r, number in enumerate(spec.size.refs):
        inside = number < table.nr_entries
        k = d * spec.rules.nrefs + r
        fits = [number < len(table.shared) * entries for entries in (abi.ENTRIES_V1, abi.ENTRIES_V2)]
        if d and spec.T["fits"][2 * k : 2 * k + 2] != fits:
            out[f"fits[{d}, {number}]"] = (spec.T["fits"][2 * k : 2 * k + 2], fits)
        if inside:
            entry_differences(spec, domain, r, overwritten_bits, moving, out)


def entry_differences(
    spec: SpecState,
    domain: Domain,
    r: int,
    overwritten_bits: set[tuple[int, int]],
    moving: set[tuple[int, int]],
    out: Places,
) -> None:
    """One entry: its owner's data, the in-use bits, and Xen's record of the use."""
    T, d, number = spec.T, domain.domid, spec.size.refs[r]
    k = d * spec.rules.nrefs + r
    kind, grantee, frame, readonly, part = entry_of(spec, domain, number)
    if domain.p2m is not None and domain.is_dying and not domain.p2m.entries:
        frame = _page_of(spec, d, k)  # its map goes, in the rules together with its memory
    here = f"[{d}, {number}]"
    permit = spec.kind["permit_access"]
    if T["entry.kind"][k] != kind:
        out["entry" + here + ".kind"] = (T["entry.kind"][k], kind)
    elif kind == permit and (_page_of(spec, d, k), T["entry.grantee"][k], T["entry.part"][k]) != (frame, grantee, part):
        out["entry" + here] = ((T["entry.grantee"][k], _page_of(spec, d, k), T["entry.part"][k]), (grantee, frame, part))
    elif (
        kind == permit
        and T["translated"][d]
        and T["gfn.number"][k] != spec.number(domain, domain.grant_table.frame_field(number))
    ):
        out["entry" + here + " (number)"] = (T["gfn.number"][k], domain.grant_table.frame_field(number))
    elif kind == spec.kind["transitive"] and (
        T["entry.grantee"][k],
        T["behind.dom"][k],
        T["behind.ref"][k],
    ) != (grantee, *behind_of(spec, domain, number)):
        out["behind" + here] = ((T["behind.dom"][k], T["behind.ref"][k]), behind_of(spec, domain, number))
    elif kind == spec.kind["accept_transfer"] and T["entry.grantee"][k] != grantee:
        out["entry" + here + ".grantee"] = (T["entry.grantee"][k], grantee)
    reading, writing = T["status.reading"][k], T["status.writing"][k]
    if (kind in (permit, spec.kind["transitive"]) or reading) and T["entry.readonly"][k] != readonly:
        out["entry" + here + ".readonly"] = (T["entry.readonly"][k], readonly)
    if (d, r) in moving:
        return
    act = domain.grant_table.active[number]
    if (bool(act.pin), bool(act.pin & abi.PIN_WRITERS)) != (bool(reading), bool(writing)):
        out["status" + here + " (pins)"] = ((reading, writing), hex(act.pin))
    if (d, r) not in overwritten_bits:
        bits = in_use_bits(domain, number)
        if bits != (abi.GTF_READING if reading else 0) | (abi.GTF_WRITING if writing else 0):
            out["status" + here] = ((reading, writing), hex(bits))
    if reading:
        mfn = -1 if act.frame is None else act.frame.mfn
        rules = (T["active.grantee"][k], T["active.frame"][k], T["active.part"][k])
        real = (spec.domain(act.domid), spec.frame(mfn), int(act.sub_page))
        if rules != real:
            out["active" + here] = (rules, real)
        relayed = bool(act.sub_page and act.trans_dom is not domain)
        if bool(T["active.part"][k] and T["relay.yes"][k]) != relayed:
            out["relay" + here + ".yes"] = (T["relay.yes"][k], relayed)
        elif relayed and act.trans_dom is not None:
            stands_for = (spec.domain(act.trans_dom.domid), spec.ref(act.trans_gref))
            if (T["relay.dom"][k], T["relay.ref"][k]) != stands_for:
                out["relay" + here] = ((T["relay.dom"][k], T["relay.ref"][k]), stands_for)


def _page_of(spec: SpecState, d: int, k: int) -> int:
    """The page that an entry names by the rules; of a translated domain's, that may be none."""
    return spec.size.nowhere if spec.T["translated"][d] and spec.T["gfn.nothing"][k] else spec.T["entry.frame"][k]


def _frames(rig: Rig, spec: SpecState, out: Places) -> None:
    T, use, table = spec.T, spec.use, rig.xen.frames.table
    free, unscrubbed, ram, leaving, transfer = (use[n] for n in ("free", "unscrubbed", "ram", "leaving", "in_transfer"))
    names = {ram: "ram", **spec.xens_uses}
    rule_use, held, owner = T["frame.use"], T["frame.held"], T["frame.owner"]
    first = spec.first_mfn
    for f in range(spec.size.heap):
        frame = table.get(first + f)
        u = rule_use[f]
        if frame is None:
            if u != free:
                out[f"frame[{f}].use"] = (u, "never used")
            continue
        place = place_of(frame)
        if u in (free, unscrubbed):
            if place != "heap" or (u == unscrubbed and not frame.dirty):
                out[f"frame[{f}].use"] = ("free" if u == free else "unscrubbed", place)
        elif u == transfer:
            if place != "transfer":
                out[f"frame[{f}].use"] = ("in_transfer", place)
        elif u == leaving:
            if place != "heap":
                out[f"frame[{f}].use"] = ("leaving", place)
        elif place == names[u]:
            domid = frame.owner.domid if frame.owner is not None else -1
            given_back = u in spec.xens_uses and T["domain.phase"][owner[f]] == spec.phase["dying"]  # a step before RAM
            if owner[f] != domid or (held[f] != frame.allocated and not given_back):
                out[f"frame[{f}]"] = ((owner[f], bool(held[f])), (domid, frame.allocated))
        elif u in spec.xens_uses and place == "xen":
            if held[f] and T["domain.phase"][owner[f]] != spec.phase["dying"]:  # its teardown may have freed them already
                out[f"frame[{f}].held"] = (True, place)
        elif u in spec.xens_uses and place == "heap" and owner[f] not in rig.xen.domains and not held[f]:
            continue  # of a domain whose last step the rules take when no TLB has anything of it
        elif f not in spec.awaiting_free or held[f]:
            out[f"frame[{f}].use"] = (names[u], place)
    for f in range(spec.size.heap):
        if rule_use[f] == ram and T["frame.content"][f] == 0:
            data = table[first + f].data
            if data is not None and any(data):
                out[f"frame[{f}].content"] = ("zeros", "something else")


def _records(rig: Rig, spec: SpecState, out: Places) -> None:
    T = spec.T
    seen = 0
    for d, domain in rig.xen.domains.items():
        for number, record in enumerate(domain.grant_table.maptrack):
            if not record.flags & 3:
                continue
            seen += 1
            h = spec.handles.get((d, number))
            if h is None:
                out[f"mapping of d{d} handle {number}"] = ("none", record.flags)
                continue
            rules = (
                T["mapping.host"][h],
                T["mapping.device"][h],
                T["mapping.mapper"][h],
                T["mapping.granter"][h],
                T["mapping.ref"][h],
                T["mapping.writable"][h],
            )
            real = (
                int(bool(record.flags & 2)),
                record.flags & 1,
                d,
                spec.domain(record.domid),
                spec.ref(record.ref),
                int(not record.flags & 4),
            )
            if rules != real:
                out[f"mapping[{h}]"] = (rules, real)
    live = sum(1 for a, b in zip(T["mapping.host"], T["mapping.device"], strict=True) if a or b)
    if live != seen:
        out["number of live mappings"] = (live, seen)


def _numbers(spec: SpecState, guest: PvhGuest, out: Places) -> None:
    """The map of a PVH guest: what is at each guest frame number.

    Grants of a dying guest go with their records in the rules, and in the implementation with the whole map.
    """
    T = spec.T
    known = {gfn: t for (d, gfn), t in spec.numbers.items() if d == guest.domid}
    entries = {gfn: e for gfn, e in guest.p2m.entries.items() if not (guest.domain.is_dying and e[1] in GRANT_TYPES)}
    for gfn in entries.keys() - known.keys():
        out[f"map of d{guest.domid}, {gfn:#x}"] = ("no such number", "a page")
    for gfn, t in known.items():
        entry = entries.get(gfn)
        rules = (T["translation.frame"][t], T["translation.writable"][t], T["translation.origin"][t])
        rules_there = bool(T["translation.present"][t] and T["translation.space"][t] == guest.domid)
        real = None
        if entry is not None:
            origin = spec.rules.members["Origin"]["grant" if entry[1] in GRANT_TYPES else "own"]
            real = (spec.frame(entry[0].mfn), int(entry[1] != GRANT_RO), origin)
        if guest.domain.is_dying and real is None and rules[2] == spec.rules.members["Origin"]["grant"]:
            continue
        if (rules if rules_there else None) != real:
            out[f"map of d{guest.domid}, {gfn:#x}"] = (rules if rules_there else None, real)
    extra = [
        t
        for t in range(spec.size.translations)
        if T["translation.present"][t] and T["translation.space"][t] == guest.domid and t not in spec.reserved
    ]
    if extra:
        out[f"translations of d{guest.domid} at no number"] = (extra, [])


def _translations(spec: SpecState, guest: PvGuest, out: Places) -> None:
    """Page-table entries, and cached translations, which the rules must have as translations that may be cached."""
    T = spec.T
    space = guest.domid
    if guest.domain.vcpus[0].cr3 is None:
        return
    for slot in range(SLOTS):
        at = guest.at_slot(slot)
        t = spec.slots.get((space, slot))
        rules = None if t is None else (T["translation.present"][t], T["translation.frame"][t], T["translation.writable"][t])
        real = None if at is None else (1, spec.frame(at[0]), int(at[1]))
        if rules != real:
            out[f"translation of d{space} slot {slot}"] = (rules, real)
    bound = sum(1 for (s, _), t in spec.slots.items() if s == space)
    rules_count = sum(
        1
        for t in range(spec.size.translations)
        if T["translation.present"][t] and T["translation.space"][t] == space and T["translation.path"][t] == 0
    )
    if bound != rules_count:
        out[f"number of translations of d{space}"] = (rules_count, bound)
    tlb_differences(spec, guest, out)


def tlb_differences(spec: SpecState, guest: PvGuest, out: Places) -> None:
    """Every cached translation exists in the rules."""
    T, space = spec.T, guest.domid
    for vcpu in guest.domain.vcpus:
        for vpn, (frame, writable, _) in vcpu.tlb.entries.items():
            if not 0 <= vpn - guest.first_vpn < SLOTS:
                continue
            f = spec.frame(frame.mfn)
            if not any(
                T["translation.frame"][t] == f
                and T["translation.space"][t] == space
                and (T["translation.writable"][t] or not writable)
                and T["translation.path"][t] == 0
                and (T["translation.cached"][t] or T["translation.present"][t])
                for t in range(spec.size.translations)
            ):
                out[f"TLB of d{space}, slot {vpn - guest.first_vpn}"] = ("flushed", f"frame {f}")


def _counts(rig: Rig, spec: SpecState, out: Places) -> None:
    """Reference, type and pin counts follow from the rules' translations and records."""
    T = spec.T
    refs: dict[int, int] = {}
    types: dict[int, int] = {}
    own, translated = spec.rules.members["Origin"]["own"], T["translated"]
    for t in range(spec.size.translations):
        if T["translation.present"][t]:
            f, d = T["translation.frame"][t], T["space_of"][T["translation.space"][t]]
            if translated[d] and T["translation.origin"][t] == own:
                continue  # a page at a guest frame number is not referenced by that
            refs[f] = refs.get(f, 0) + 1
            owner, by_cpu = T["frame.owner"][f], T["translation.path"][t] == 0
            if T["translation.writable"][t] and not (translated[owner] and owner != d and by_cpu):
                types[f] = types.get(f, 0) + 1  # others map a translated domain's page without a writable type
    fixed = {mfn for guest in rig.guests.values() for mfn in guest.fixed}
    for f in range(spec.size.heap):
        mfn = spec.first_mfn + f
        xens = T["frame.use"][f] in spec.xens_uses
        if (T["frame.use"][f] != spec.use["ram"] and not xens) or mfn in fixed or f in spec.awaiting_free:
            continue
        frame = rig.xen.frames.table[mfn]
        count = T["frame.held"][f] + refs.get(f, 0)
        shared = xens and count and T["domain.phase"][T["frame.owner"][f]] != spec.phase["dead"]  # a writable page, by Xen
        want = (count, types.get(f, 0) + int(shared))
        if xens and not count and frame.owner is None:
            continue  # of a zombie, or given up: Xen's alone, or in the heap
        if (frame.count, frame.tcount) != want:
            out[f"references and types of frame[{f}]"] = (want, (frame.count, frame.tcount))
    pins: dict[tuple[int, int], int] = {}
    for h in range(spec.size.handles):
        key = (T["mapping.granter"][h], T["mapping.ref"][h])
        if T["mapping.granter_life"][h] == T["domain.life"][key[0]]:
            if T["mapping.host"][h]:
                pins[key] = pins.get(key, 0) + (abi.PIN_HSTW if T["mapping.writable"][h] else abi.PIN_HSTR)
            if T["mapping.device"][h]:
                pins[key] = pins.get(key, 0) + (abi.PIN_DEVW if T["mapping.writable"][h] else abi.PIN_DEVR)
    for d, domain in rig.xen.domains.items():
        if d >= 4:
            continue
        for r, number in enumerate(spec.size.refs):
            if number < domain.grant_table.nr_entries:
                pin = domain.grant_table.active[number].pin
                if pin != pins.get((d, r), 0):
                    out[f"pin counters of [{d}, {number}]"] = (hex(pins.get((d, r), 0)), hex(pin))
