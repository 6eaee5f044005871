"""Calls of a Dom0 process on /dev/xen/gntdev: maps, mmap and munmap, unmap notifications, copies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bulkhead.impl.dom0.gntdev import Gntdev
from bulkhead.impl.dom0.ioctl import (
    COPY_HEAD,
    FOREIGN,
    GNTDEV_GRANT_COPY,
    GNTDEV_MAP_GRANT_REF,
    GNTDEV_UNMAP_GRANT_REF,
    HEAD,
    PAIR,
    RANGE,
    SEGMENT,
    SET_UNMAP_NOTIFY,
)
from bulkhead.impl.dom0.kernel import KernelError
from bulkhead.impl.xen import abi
from bulkhead.impl.xen.grant_entries import GrantTable
from bulkhead.model.caller import OKAY
from bulkhead.proofs.refinement.lockstep.call import status_name
from bulkhead.proofs.refinement.lockstep.dom0_state import Mapping, MapRecord, Opened, Proc, Slot
from bulkhead.proofs.refinement.lockstep.follow_dom0 import free_map
from bulkhead.proofs.refinement.lockstep.spec_state import Mismatch

if TYPE_CHECKING:
    from bulkhead.proofs.refinement.workload.dom0 import Dom0

NOWHERE = 0x7700000  # an offset at which nothing is registered
MOST_MAPS = 4


def _gntdev(opened: Opened) -> Gntdev:
    device = opened.file.device
    assert isinstance(device, Gntdev)
    return device


def _some_map(d: Dom0) -> int:
    """A map that no file lists: what a wrong index names."""
    T = d.b.shadow.T
    return next(m for m in range(d.b.shadow.size.maps) if not T["gmap.listed"][m]) if d.b.rules_on else 0


def _offered(table: GrantTable, ref: int) -> bool:
    """Does the entry let Dom0 at a page now?"""
    flags, domid = abi.HEADER.unpack_from(*table.header_at(ref))
    return bool(domid == 0 and flags & abi.GTF_TYPE_MASK == abi.GTF_PERMIT_ACCESS)


# Calls.

def map_ref(d: Dom0, proc: Proc) -> str:
    """IOCTL_GNTDEV_MAP_GRANT_REF."""
    if sum(1 for r in d.records if r.gmap.users) >= MOST_MAPS:
        return ""
    fd, x, opened = d.fd_of(proc, "gntdev")
    rng = d.rng
    ids = [n for n in d.b.rig.xen.domains if n < 4]
    dom = ids[int(rng.random() * len(ids))]
    refs = [n for n in d.b.shadow.size.refs if n < 1000]
    ref = refs[int(rng.random() * len(refs))]
    offers = []
    for domid, guest in d.b.rig.guests.items():
        table = guest.domain.grant_table
        for number in refs:
            if number < table.nr_entries and _offered(table, number):
                offers.append((domid, number))
    if offers and rng.random() < 0.85:
        dom, ref = offers[int(rng.random() * len(offers))]
    code = register(d, proc, fd, x, opened, dom, ref)
    if code == OKAY and opened is not None and rng.random() < 0.6:  # before the granter changes its mind
        return f"gntdev map_grant_ref d{dom} ref {ref}: {code}; {mmap(d, proc)}"
    return f"gntdev map_grant_ref d{dom} ref {ref}: {code}"


def register(d: Dom0, proc: Proc, fd: int, x: int, opened: Opened | None, dom: int, ref: int) -> str:
    """map_grant_ref of one grant: okay, or errno's name."""
    code, _, raw = proc.ioctl(fd, GNTDEV_MAP_GRANT_REF, HEAD.pack(1, 0, 0) + PAIR.pack(dom, ref))
    m = free_map(d)
    d.rule("gntdev_map_grant_ref", {"p": proc.space, "x": x, "dom": d.b.shadow.domain(dom),
                                    "ref": d.b.shadow.ref(ref), "m": m}, code)
    if code == OKAY and opened is not None:
        offset = HEAD.unpack(raw[:16])[2]
        gmap = next(g for g in _gntdev(opened).maps if g.index << 12 == offset)
        record = MapRecord(gmap, m, dom, ref)
        opened.maps.append(record)
        d.records.append(record)
    return code


def _listed(d: Dom0, opened: Opened | None) -> MapRecord | None:
    """A map of the file."""
    if opened is None or opened.kind != "gntdev":
        return None
    maps = [r for r in opened.maps if r.gmap in _gntdev(opened).maps]
    fresh = [r for r in maps if not r.gmap.in_use]
    if fresh and d.rng.random() < 0.6:
        return fresh[-1]
    return maps[int(d.rng.random() * len(maps))] if maps and d.rng.random() < 0.97 else None


def mmap(d: Dom0, proc: Proc) -> str:
    """mmap of a map; the second one of the same map fails, and so does one of what is not there."""
    if len(proc.slots) >= 4:
        return ""
    fd, x, opened = d.fd_of(proc, "gntdev")
    if opened is not None and all(r.gmap.in_use for r in opened.maps) and d.rng.random() < 0.8:
        return map_ref(d, proc) or unmap_ref(d, proc)
    record = _listed(d, opened)
    if opened is None and proc.fds.get(fd) is not None:
        return ""  # another device's mmap is another rule
    if record is not None and _special(d, record):
        return ""
    code = map_page(d, proc, fd, x, record, d.rng.random() < 0.5)
    what = f"gntdev mmap of map {'?' if record is None else record.m}: {code}"
    if code == OKAY and d.rng.random() < 0.3:
        return f"{what}; {_notify(d, proc, fd, x, record)}"
    return what


def map_page(d: Dom0, proc: Proc, fd: int, x: int, record: MapRecord | None, writable: bool) -> str:
    """mmap of a map, or of what is none: okay, or errno's name."""
    m = record.m if record is not None else _some_map(d)
    slot = Slot("grant", 0, writable, record=record)
    mapping = d.mapping = Mapping(slot, proc, x, m)
    code, addr = proc.mmap(fd, record.gmap.index << 12 if record is not None else NOWHERE, writable)
    d.mapping = None
    if mapping.made == 0:
        d.rule("gntdev_mmap", {"p": proc.space, "x": x, "m": m, "writable": int(writable),
                               "this": d.b.shadow.free_calls[-1]}, code)
    elif d.b.rules_on and (code == OKAY) != (slot.user is not None and slot.kernel is not None):
        raise Mismatch(f"gntdev mmap answered {code}")
    if code == OKAY:
        slot.vpn = addr >> 12
        proc.slots[slot.vpn] = slot
        d.store_to(proc, slot)
    return code


def _special(d: Dom0, record: MapRecord) -> bool:
    """Does the grant name a page of the hypervisor's own heap? The rules know no such grants."""
    domain = d.b.rig.xen.domains.get(record.granter)
    if domain is None or not record.granter or record.ref >= domain.grant_table.nr_entries:
        return False
    act = domain.grant_table.active[record.ref]
    return (act.frame is not None and act.frame.xenheap) or d.b.rig.special(domain.grant_table.frame_field(record.ref))


def munmap(d: Dom0, proc: Proc) -> str:
    """munmap of one of its mappings, whatever it is of; an address that is no page's is refused."""
    if d.rng.random() < 0.04:
        try:
            proc.sys.munmap(0x1004, 1)
            code = OKAY
        except KernelError as error:
            code = "EINVAL" if error.code == abi.EINVAL else str(error.code)
        t = d.b.shadow.free_translation() if d.b.rules_on else 0
        d.rule("gntdev_munmap", {"p": proc.space, "t": t, "this": d.b.shadow.free_calls[-1]}, code)
        d.rule("gntalloc_munmap", {"p": proc.space, "t": _grant_translation(d, t)}, code)
        d.rule("privcmd_munmap", {"p": proc.space, "t": _grant_translation(d, t)}, code)
        return "munmap of no page"
    if not proc.slots:
        return ""
    vpns = list(proc.slots)
    vpn = vpns[int(d.rng.random() * len(vpns))]
    unmap_page(proc, vpn)
    return f"munmap {vpn:#x}"


def unmap_page(proc: Proc, vpn: int) -> None:
    """munmap of a page that is mapped."""
    proc.sys.munmap(vpn << 12, 1)
    slot = proc.slots.pop(vpn, None)
    if slot is not None and (slot.kind != "grant" or slot.user is not None or slot.kernel is not None):
        raise Mismatch("munmap left the mapping")


def _grant_translation(d: Dom0, otherwise: int) -> int:
    """A translation that neither of the other two rules for munmap is for."""
    if not d.b.rules_on:
        return otherwise
    T = d.b.shadow.T
    return next((t for t in range(d.b.shadow.size.translations) if T["translation.present"][t]
                 and T["translation.origin"][t] == 1), otherwise)


def unmap_ref(d: Dom0, proc: Proc) -> str:
    """IOCTL_GNTDEV_UNMAP_GRANT_REF; what is mapped stays."""
    fd, x, opened = d.fd_of(proc, "gntdev")
    return unregister(d, proc, fd, x, opened, _listed(d, opened))


def unregister(d: Dom0, proc: Proc, fd: int, x: int, opened: Opened | None, record: MapRecord | None) -> str:
    """unmap_grant_ref of a map, or of what is none."""
    args = {"p": proc.space, "x": x, "m": record.m if record is not None else _some_map(d)}
    if record is not None and opened is not None:
        d.rule("gntdev_unmap_grant_ref", args)  # first, as the map's end may ring
        opened.maps.remove(record)
    offset = record.gmap.index << 12 if record is not None else NOWHERE
    code, _, _ = proc.ioctl(fd, GNTDEV_UNMAP_GRANT_REF, RANGE.pack(offset, 1, 0))
    if record is None:
        d.rule("gntdev_unmap_grant_ref", args, code)
    elif code != OKAY:
        raise Mismatch(f"gntdev unmap_grant_ref: the rules say okay, the implementation {code}")
    return f"gntdev unmap_grant_ref {args['m']}: {code}"


def notify(d: Dom0, proc: Proc) -> str:
    """IOCTL_GNTDEV_SET_UNMAP_NOTIFY."""
    fd, x, opened = d.fd_of(proc, "gntdev")
    return _notify(d, proc, fd, x, _listed(d, opened))


def _notify(d: Dom0, proc: Proc, fd: int, x: int, record: MapRecord | None) -> str:
    action = 1 + int(d.rng.random() * 3)
    at = 8 * int(d.rng.random() * 500)
    ports = list(d.kernel.evtchn_users)
    port = ports[int(d.rng.random() * len(ports))] if ports and d.rng.random() < 0.9 else 77
    index = (record.gmap.index << 12) + at if record is not None else NOWHERE
    q = port - 1 if port <= d.b.shadow.size.ports else _unbound_port(d)
    if q is None or (fd in proc.fds and proc.fds[fd].kind == "gntalloc"):
        return ""  # gntalloc has notices of its own, which the rules leave out
    code, _, _ = proc.ioctl(fd, SET_UNMAP_NOTIFY, RANGE.pack(index, action, port))
    d.rule("gntdev_set_unmap_notify", {"p": proc.space, "x": x, "m": record.m if record is not None else _some_map(d),
                                       "byte": action & 1, "event": action >> 1, "q": q}, code)
    if code == OKAY and record is not None:
        record.byte_at = at if action & 1 else -1
        for slot in proc.slots.values():
            if slot.record is record:
                d.store_to(proc, slot)
    return f"gntdev set_unmap_notify {action} port {port}: {code}"


def _unbound_port(d: Dom0) -> int | None:
    used = d.kernel.evtchn_users
    return next((n - 1 for n in range(1, d.b.shadow.size.ports + 1) if n not in used), None)


def copy(d: Dom0, proc: Proc) -> str:
    """IOCTL_GNTDEV_GRANT_COPY of one or two segments between grants and its own page."""
    fd, x, _ = d.fd_of(proc, "gntdev")
    if fd not in proc.fds or proc.fds[fd].kind != "gntdev":
        code, _, _ = proc.ioctl(fd, GNTDEV_GRANT_COPY, COPY_HEAD.pack(0, 0, 0))
        d.rule("gntdev_copy", {"p": proc.space, "x": x, "this": d.b.shadow.free_calls[-1]}, code)
        return f"gntdev copy: {code}"
    segments = b""
    count = 1 if d.rng.random() < 0.6 else 2
    for _ in range(count):
        sides, flags = [], 0
        which = d.rng.random()
        for bit in (1, 2):
            offset = (bit - 1) * 1024 + 8 * int(d.rng.random() * 60)
            if (which < 0.5 and bit == 1) or (which > 0.4 and bit == 2):
                flags |= bit
                dom, ref = _grant(d)
                sides.append(FOREIGN.pack(ref, offset, dom))
            else:
                sides.append(abi.U64.pack(proc.buffer + offset))
        segments += SEGMENT.pack(sides[0], sides[1], 64, flags, 0, 0)
    proc.sys.store(proc.arg + 64, segments)
    d.copying = (proc, x)
    code, _, _ = proc.ioctl(fd, GNTDEV_GRANT_COPY, COPY_HEAD.pack(count, 0, proc.arg + 64))
    d.copying = None
    if code != OKAY:
        raise Mismatch(f"gntdev copy answered {code}")
    told = [status_name(SEGMENT.unpack(proc.sys.load(proc.arg + 64 + n * 24, 24))[4]) for n in range(count)]
    if d.b.rules_on and told != d.copied:
        raise Mismatch(f"gntdev copy told the process {told}, the hypervisor {d.copied}")
    return f"gntdev copy of {count}"


def _grant(d: Dom0) -> tuple[int, int]:
    """Domain and reference: mostly an offer to Dom0, also of a domain that is dying; or beyond a table's end."""
    x = d.rng.random()
    held = [(r.granter, r.ref) for r in d.records if r.gmap.in_use and r.granter in d.b.rig.xen.domains
            and not _special(d, r)]
    if held and x < 0.25:
        return held[int(x * 4 * len(held))]
    offers = []
    domains = [(n, domain) for n, domain in d.b.rig.xen.domains.items() if n < 4]
    for domid, domain in domains:
        table = domain.grant_table
        for ref in d.b.shadow.size.refs[2:]:
            if ref < table.nr_entries and _offered(table, ref) and not d.b.rig.special(
                    table.frame_field(ref)) and not _pins_special(d, domid, ref):
                offers.append((domid, ref))
    if offers and x < 0.9:
        return offers[int(x / 0.9 * len(offers))]
    return (99, 8) if x < 0.95 else (domains[int((x - 0.95) * 20 * len(domains))][0], d.b.shadow.size.refs[-1])


def _pins_special(d: Dom0, domid: int, ref: int) -> bool:
    frame = d.b.rig.xen.domains[domid].grant_table.active[ref].frame
    return frame is not None and frame.xenheap


MOVES = ((18, map_ref), (22, mmap), (12, munmap), (14, unmap_ref), (8, notify), (12, copy))
