"""The abstraction function of DomB's world, as a comparison of the rules' state with the machine's.

Compared are domains, frames, DomB's translations and Dom0's by count, DomB's grants and the guests' reserved entries, ports
(but not pending bits of Dom0's and DomB's ports), the current build, the record of built guests, the channel and its
pages. Contents are compared at the end of a build (follow.py); entries of a running guest are not compared.
"""

from __future__ import annotations

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.domains import ALIVE
from bulkhead.impl.xen.events import INTERDOMAIN
from bulkhead.impl.xen.pagetables import PTE_MFN, PTE_P, read_pte, walk
from bulkhead.proofs.refinement.domb.daemons import Daemons
from bulkhead.proofs.refinement.domb.follow import Follower
from bulkhead.proofs.refinement.domb.users import Users
from bulkhead.proofs.refinement.domb.window import SLOTS, address
from bulkhead.proofs.refinement.domb.world import DOM0, DOMB, DOMB_SPACE, NOBODY
from bulkhead.proofs.refinement.lockstep.abstraction import Places
from bulkhead.proofs.refinement.lockstep.rule_steps import Mismatch


def compare(f: Follower, daemons: Daemons | None = None, users: Users | None = None) -> None:
    """Everything; Mismatch with the places that differ."""
    out = differences(f)
    _service(f, out)
    if users is not None:
        users.compare(out)
    if daemons is not None:
        daemons.compare(out)
    if out:
        raise Mismatch("the states differ", out)


def compare_daemons(daemons: Daemons) -> None:
    """XenStore and the consoles alone; Mismatch."""
    out: Places = {}
    daemons.compare(out)
    if out:
        raise Mismatch("the states differ", out)


def differences(f: Follower) -> Places:
    """Differences in the state of Xen. It can be compared at any moment, also in the middle of a build."""
    out: Places = {}
    _domains(f, out)
    _frames(f, out)
    _translations(f, out)
    _windows(f, out)
    _pins(f, out)
    _grants(f, out)
    _ports(f, out)
    return out


def _put(out: Places, place: str, rules: object, real: object) -> None:
    if rules != real:
        out[place] = (rules, real)


def _domains(f: Follower, out: Places) -> None:
    T, phases = f.book.T, f.book.m["Phase"]
    names = {i: n for n, i in phases.items()}
    for d in range(NOBODY):
        domain = f.rig.xen.domains.get(d)
        phase = names[T["domain.phase"][d]]
        if domain is None:
            _put(out, f"domain[{d}].phase", phase, "absent")
            continue
        if domain.is_dying == ALIVE:
            _put(out, f"domain[{d}].phase", phase, "running" if domain.creation_finished or d == DOM0 else "building")
            if not domain.crashed:
                _put(out, f"domain[{d}].paused", bool(T["domain.paused"][d]), domain.pause_count > 0)
        elif phase not in ("dying", "dead"):
            out[f"domain[{d}].phase"] = (phase, "dying")
        _put(out, f"domain[{d}].life", T["domain.life"][d], f.lives.get(domain))
        _put(out, f"privileged[{d}]", bool(T["privileged"][d]), domain.is_privileged)
    strange = set(f.rig.xen.domains) - set(range(NOBODY))
    if strange:
        raise Mismatch(f"domains {sorted(strange)} are not in the rules' world")


def _frames(f: Follower, out: Places) -> None:
    T, use = f.book.T, f.book.m["Use"]
    table = f.rig.xen.frames.table
    for i, mfn in [*f.book.mfns.items(), *((i, mfn) for mfn, i in f.book.dom0_frames.items())]:
        frame = table.get(mfn)
        rules = (T["frame.owner"][i], bool(T["frame.held"][i])) if T["frame.use"][i] == use["ram"] else None
        real = None
        if frame is not None and not frame.xenheap and frame.owner is not None:
            real = (frame.owner.domid, frame.allocated)
        _put(out, f"frame[{i}]", rules, real)


def _translations(f: Follower, out: Places) -> None:
    T, n = f.book.T, f.book.size.translations
    window = f.rig.domb.layout.windows[0]
    real: dict[tuple[int, bool], int] = {}
    for slot in range(512):
        pte = read_pte(window, slot)
        if pte & PTE_P:
            frame = f.rig.xen.frames.get((pte & PTE_MFN) >> 12)
            if frame is not None and not frame.xenheap:
                key = (f.book.frame(frame.mfn), bool(pte & 2))
                real[key] = real.get(key, 0) + 1
    rules: dict[tuple[int, bool], int] = {}
    for t in range(n):
        if T["translation.present"][t] and T["translation.space"][t] == DOMB_SPACE:
            key = (T["translation.frame"][t], bool(T["translation.writable"][t]))
            rules[key] = rules.get(key, 0) + 1
    _put(out, "translations of DomB", rules, real)
    cached = {
        f.book.frame(frame.mfn)
        for frame, _, _ in f.rig.domb.vcpu.tlb.entries.values()
        if not frame.xenheap and frame.owner is not f.rig.domb.domain
    }
    known = {
        T["translation.frame"][t]
        for t in range(n)
        if T["translation.space"][t] == DOMB_SPACE and (T["translation.present"][t] or T["translation.cached"][t])
    }
    _put(out, "TLB of DomB", set(), cached - known)
    live = sum(1 for h in range(f.book.size.handles) if T["mapping.host"][h])
    _put(out, "handles", live, sum(1 for d in f.rig.xen.domains.values() for r in d.grant_table.maptrack if r.flags & 3))
    special = {(f.book.T["job.guest"][0], s) for s in range(2) if T["special"][f.book.T["job.guest"][0] * 2 + s]}
    _put(out, "special pages that DomB maps", len(special), sum(1 for k, _ in f.slots.values() if k not in ("page", "")))


def _windows(f: Follower, out: Places) -> None:
    """The translations of guests: what their page tables have in their windows."""
    T = f.book.T
    rules: dict[int, list[tuple[int, bool]]] = {}
    for t, there in enumerate(T["translation.present"]):
        if there and DOMB_SPACE < T["translation.space"][t] < NOBODY:
            entry = (T["translation.frame"][t], bool(T["translation.writable"][t]))
            rules.setdefault(T["translation.space"][t], []).append(entry)
    for d, domain in f.rig.xen.domains.items():
        if d <= DOMB or domain.is_dying != ALIVE or not domain.creation_finished or domain.vcpus[0].context is None:
            continue
        found = [walk(f.rig.xen, domain.vcpus[0].cr3, address(domain, slot)) for slot in range(SLOTS)]
        real = sorted((f.book.frame(each[0].mfn), each[1]) for each in found if each is not None)
        _put(out, f"translations of domain {d}", sorted(rules.get(d, [])), real)


def _pins(f: Follower, out: Places) -> None:
    """Which grants of Dom0 and of running guests are in use."""
    T, nrefs = f.book.T, len(f.book.size.refs)
    for d, domain in f.rig.xen.domains.items():
        if d == DOMB or domain.is_dying != ALIVE or (d and not domain.creation_finished):
            continue
        active = domain.grant_table.active
        rules = [n for r, n in enumerate(f.book.size.refs) if T["status.reading"][d * nrefs + r]]
        real = [n for n in f.book.size.refs if n < len(active) and active[n].pin]
        _put(out, f"grants of domain {d} in use", rules, real)


def _grants(f: Follower, out: Places) -> None:
    T, nrefs = f.book.T, len(f.book.size.refs)
    permit = f.book.m["Kind"]["permit_access"]
    for d, refs in [(d, range(nrefs - 1)) for d in (DOM0, DOMB)] + [(d, range(2)) for d in range(2, NOBODY)]:
        domain = f.rig.xen.domains.get(d)
        if domain is not None and d > DOMB:
            reach = [bool(there) for there in T["fits"][2 * d * nrefs : 2 * (d + 1) * nrefs : 2]]
            _put(out, f"table of domain {d}", reach, [n < domain.grant_table.nr_entries for n in f.book.size.refs])
        if domain is None or (d > DOMB and (domain.creation_finished or domain.is_dying != ALIVE)):
            continue
        if d == f.guest and f.stage in ("loaded", "failing"):
            continue  # the two entries are written one after the other
        for r in refs:
            k = d * nrefs + r
            flags, grantee, mfn = domain.grant_table.entry_v1(f.book.size.refs[r])
            real = (grantee, f.book.frame(mfn), bool(flags & abi.GTF_READONLY), flags & 24) if flags & 3 else None
            rules = (
                T["entry.grantee"][k],
                T["entry.frame"][k],
                bool(T["entry.readonly"][k]),
                (8 if T["status.reading"][k] else 0) | (16 if T["status.writing"][k] else 0),
            )
            _put(out, f"entry[{d}, {f.book.size.refs[r]}]", rules if T["entry.kind"][k] == permit else None, real)


def _ports(f: Follower, out: Places) -> None:
    T, n = f.book.T, f.book.size.ports
    for d, domain in f.rig.xen.domains.items():
        for q in range(n):
            k = d * n + q
            port = domain.events.ports.get(q + 1)
            rules: tuple[int, ...] = (T["port.state"][k], T["port.remote"][k])
            if d > DOMB:
                _put(out, f"port[{d}, {q + 1}].pending", bool(T["port.pending"][k]), port is not None and port.pending)
            if port is None:
                _put(out, f"port[{d}, {q + 1}]", rules[0], 0)
            elif port.state == INTERDOMAIN and port.remote is not None:
                _put(out, f"port[{d}, {q + 1}]", rules, (port.state, port.remote.domid))
            else:
                _put(out, f"port[{d}, {q + 1}]", rules, (port.state, f.book.domain(port.remote_domid)))


def _service(f: Follower, out: Places) -> None:
    service, T = f.service, f.book.T
    if service is None:
        return
    stage = f.stage
    real = "fetching" if service.job is not None else "failing" if service.failing is not None else "no_request"
    if stage in ("created", "populated", "loaded", "seeded", "sealed"):
        real = stage  # during a build
    _put(out, "job.stage", stage, real)
    for d in range(2, NOBODY):
        built = service.guests.get(d)
        rules = (f.built("told", d), f.built("abandoned", d)) if f.built("known", d) else None
        _put(out, f"built[{d}]", rules, None if built is None else (built.told, built.abandoned))
    used = sum(1 for b in range(f.book.size.buffers) if T["buffer.used"][b])
    _put(out, "buffers in use", used > 0, used > 0 and stage not in ("no_request", "failing"))
    _put(out, "channel", T["channel.link"][0] != 0, service.chan is not None)
    if service.chan is not None:
        _put(out, "channel.port", T["channel.port"][0] + 1, service.chan.port)
        listed = {i for i in range(f.book.size.domb_pages) if T["ring_page.listed"][i]}
        pages = {f.book.frame(frame.mfn) for rows in f.rig.os.shared.values() for frame, _ in rows}
        _put(out, "pages of the channel", listed, pages)
    granted = sum(1 for i in range(f.book.size.domb_pages) if T["ring_page.granted"][i] and not T["ring_page.listed"][i])
    _put(out, "pages that are still granted", granted, len(f.rig.domb.late))


__all__ = ["compare", "differences"]
