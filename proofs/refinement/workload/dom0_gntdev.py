"""Calls of a Dom0 process on /dev/xen/gntdev: maps, mmap and munmap, unmap notifications."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bulkhead.impl.dom0.gntdev import Gntdev
from bulkhead.impl.dom0.ioctl import GNTDEV_MAP_GRANT_REF, GNTDEV_UNMAP_GRANT_REF, HEAD, PAIR, RANGE, SET_UNMAP_NOTIFY
from bulkhead.impl.dom0.kernel import KernelError
from bulkhead.impl.xen import abi
from bulkhead.impl.xen.grant_entries import GrantTable
from bulkhead.model.caller import OKAY
from bulkhead.proofs.refinement.lockstep.dom0_state import BUFFER, MOST_SLOTS, Mapping, MapRecord, Opened, Proc, Slot
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
    """A map that no file lists: the element for a wrong index."""
    T = d.b.spec_state.T
    return next(m for m in range(d.b.spec_state.size.maps) if not T["gmap.listed"][m]) if d.b.rules_on else 0


def offered(table: GrantTable, ref: int) -> bool:
    """Does the entry grant Dom0 access to a page now?"""
    flags, domid = abi.HEADER.unpack_from(*table.header_at(ref))
    return bool(domid == 0 and flags & abi.GTF_TYPE_MASK == abi.GTF_PERMIT_ACCESS)


# Calls.


def map_ref(d: Dom0, proc: Proc) -> str:
    """IOCTL_GNTDEV_MAP_GRANT_REF of one to three grants."""
    if sum(1 for r in d.records if r.gmap.users) >= MOST_MAPS:
        return ""
    fd, x, opened = d.fd_of(proc, "gntdev")
    rng = d.rng
    ids = [n for n in d.b.rig.xen.domains if n < 4]
    refs = [n for n in d.b.spec_state.size.refs if n < 1000]
    offers = []
    for domid, guest in d.b.rig.guests.items():
        table = guest.domain.grant_table
        for number in refs:
            if number < table.nr_entries and offered(table, number):
                offers.append((domid, number))
    grants = []
    count = (1, 2, 2, 3)[int(rng.random() * 4)]
    for _ in range(count):
        grant = (ids[int(rng.random() * len(ids))], refs[int(rng.random() * len(refs))])
        if offers and rng.random() < (0.85 if count == 1 else 0.95):
            grant = offers[int(rng.random() * len(offers))]
        grants.append(grant)
    code = register(d, proc, fd, x, opened, *grants)
    text = ", ".join(f"d{dom} ref {ref}" for dom, ref in grants)
    if code == OKAY and opened is not None and rng.random() < 0.6:  # before the granter revokes it
        return f"gntdev map_grant_ref {text}: {code}; {mmap(d, proc)}"
    return f"gntdev map_grant_ref {text}: {code}"


def register(d: Dom0, proc: Proc, fd: int, x: int, opened: Opened | None, *grants: tuple[int, int]) -> str:
    """map_grant_ref of some grants: okay, or errno's name."""
    code, _, raw = proc.ioctl(
        fd, GNTDEV_MAP_GRANT_REF, HEAD.pack(len(grants), 0, 0) + b"".join(PAIR.pack(dom, ref) for dom, ref in grants)
    )
    record = None
    if code == OKAY and opened is not None:
        offset = HEAD.unpack(raw[:16])[2]
        record = MapRecord(next(g for g in _gntdev(opened).maps if g.index << 12 == offset), [], list(grants))
        opened.maps.append(record)
        d.records.append(record)
    for n, (dom, ref) in enumerate(grants):
        args = {"p": proc.space, "x": x, "dom": d.b.spec_state.domain(dom), "ref": d.b.spec_state.ref(ref), "m": free_map(d)}
        if n and record is not None:
            d.rule("gntdev_map_next_ref", {**args, "first": record.m}, code)
        elif n:
            d.rule("gntdev_map_next_ref", {**args, "first": _some_map(d)}, code)
        else:
            d.rule("gntdev_map_grant_ref", args, code)
        if record is not None:
            record.elements.append(args["m"])
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
    """mmap of a map; the second mmap of the same map fails, and so does one without a map."""
    fd, x, opened = d.fd_of(proc, "gntdev")
    if opened is not None and all(r.gmap.in_use for r in opened.maps) and d.rng.random() < 0.8:
        return map_ref(d, proc) or unmap_ref(d, proc)
    record = _listed(d, opened)
    if opened is None and proc.fds.get(fd) is not None:
        return ""  # another device's mmap is another rule
    if record is not None and (special(d, record) or len(proc.slots) + len(record.grants) > MOST_SLOTS):
        return ""
    if record is not None and d.rng.random() < 0.1:
        _beside(proc, fd, record)
    code = map_page(d, proc, fd, x, record, d.rng.random() < 0.5)
    what = f"gntdev mmap of map {'?' if record is None else record.m}: {code}"
    if code == OKAY and d.rng.random() < 0.6:
        return f"{what}; {_notify(d, proc, fd, x, record)}"
    return what


def _beside(proc: Proc, fd: int, record: MapRecord) -> None:
    """Check that mmap accepts only a whole map, from its first page to its last; a failure has no effect."""
    first, count = record.gmap.index, len(record.grants)
    for index, number in ((first, count + 1), (first + 1, count - 1), (first, count - 1), (first + 1, count)):
        others = [r for opened in proc.fds.values() for r in opened.maps if (r.gmap.index, r.gmap.count) == (index, number)]
        if number and not others and proc.mmap(fd, index << 12, False, number)[0] != "EINVAL":
            raise Mismatch(f"gntdev: {number} pages from {index} of a map with {count} pages from {first} were mapped")


def map_page(d: Dom0, proc: Proc, fd: int, x: int, record: MapRecord | None, writable: bool) -> str:
    """mmap of a map or of a wrong offset: okay, or errno's name."""
    if record is None:
        code, _ = proc.mmap(fd, NOWHERE, writable)
        d.rule(
            "gntdev_mmap",
            {"p": proc.space, "x": x, "m": _some_map(d), "writable": int(writable), "this": d.b.spec_state.free_calls[-1]},
            code,
        )
        return code
    slots = [Slot("grant", 0, writable, record=record, page=n) for n in range(len(record.grants))]
    mapping = d.mapping = Mapping(slots, proc, x, record)
    code, addr = proc.mmap(fd, record.gmap.index << 12, writable, len(slots))
    d.mapping = None
    if mapping.made == 0:
        for m in record.elements:
            d.rule(
                "gntdev_mmap",
                {"p": proc.space, "x": x, "m": m, "writable": int(writable), "this": d.b.spec_state.free_calls[-1]},
                code,
            )
    for slot in slots if d.b.rules_on and mapping.made else ():
        both = (slot.user is not None) + (slot.kernel is not None)
        if both != (2 if code == OKAY else 0):
            raise Mismatch(f"gntdev mmap answered {code}, and {both} of two translations of page {slot.page} are there")
    if code == OKAY:
        for slot in slots:
            slot.vpn = (addr >> 12) + slot.page
            proc.slots[slot.vpn] = slot
            d.store_to(proc, slot)
    return code


def special(d: Dom0, record: MapRecord) -> bool:
    """Does a grant name a page of the hypervisor's own heap? The rules have no such grants."""
    for granter, ref in record.grants:
        domain = d.b.rig.xen.domains.get(granter)
        if domain is None or not granter or ref >= domain.grant_table.nr_entries:
            continue
        act = domain.grant_table.active[ref]
        if (act.frame is not None and act.frame.xenheap) or d.b.rig.special(domain.grant_table.frame_field(ref)):
            return True
    return False


def munmap(d: Dom0, proc: Proc) -> str:
    """munmap of one of its mappings of any kind; an unaligned address is refused."""
    if d.rng.random() < 0.04:
        try:
            proc.sys.munmap(0x1004, 1)
            code = OKAY
        except KernelError as error:
            code = "EINVAL" if error.code == abi.EINVAL else str(error.code)
        t = d.b.spec_state.free_translation() if d.b.rules_on else 0
        d.rule("gntdev_munmap", {"p": proc.space, "t": t, "this": d.b.spec_state.free_calls[-1]}, code)
        d.rule("gntalloc_munmap", {"p": proc.space, "t": _grant_translation(d, t)}, code)
        d.rule("privcmd_munmap", {"p": proc.space, "t": _grant_translation(d, t)}, code)
        return "munmap of no page"
    if not proc.slots:
        return ""
    vpn, count = some_range(d, proc)
    middle = next(
        (
            s
            for s in proc.slots.values()
            if s.page == 1
            and not s.dead
            and all(s.vpn + n in proc.slots and proc.slots[s.vpn + n].record is s.record for n in (-1, 1))
        ),
        None,
    )
    if middle is not None and middle.record is not None and d.rng.random() < 0.4:  # a hole, and then all around it
        unmap_page(proc, middle.vpn)
        vpn, count = middle.vpn - 1, 3
    slots = [s for s in proc.slots.values() if vpn <= s.vpn < vpn + count]
    if all(_whole(s, vpn, count) for s in slots):
        unmap_page(proc, vpn, count)
        return f"munmap of {count} from {vpn:#x}"
    try:
        proc.sys.munmap(vpn << 12, count)
    except KernelError as error:
        if error.code == abi.EINVAL:
            return "munmap of a part of privcmd's: EINVAL"
    raise Mismatch("a part of an area of privcmd was unmapped")


def some_range(d: Dom0, proc: Proc) -> tuple[int, int]:
    """Pages around a mapped one: one or some, and usually all of an area that must be unmapped as a whole."""
    vpns = list(proc.slots)
    vpn = vpns[int(d.rng.random() * len(vpns))]
    first, count = proc.slots[vpn].area
    if count and d.rng.random() < 0.9:
        return first, count
    more = int(d.rng.random() * 3)
    before = int(d.rng.random() * (more + 1)) if d.rng.random() < 0.5 else 0
    return max(vpn - before, (proc.buffer >> 12) + BUFFER), 1 + more  # its own memory lies below


def _whole(slot: Slot, vpn: int, count: int) -> bool:
    first, pages = slot.area
    return not pages or (vpn <= first and first + pages <= vpn + count)


def unmap_page(proc: Proc, vpn: int, count: int = 1) -> None:
    """munmap of pages that are mapped."""
    proc.sys.munmap(vpn << 12, count)
    for page in range(vpn, vpn + count):
        slot = proc.slots.pop(page, None)
        if slot is not None and (slot.kind != "grant" or slot.user is not None or slot.kernel is not None):
            raise Mismatch("munmap left the mapping")


def _grant_translation(d: Dom0, otherwise: int) -> int:
    """A translation that the other two rules for munmap do not cover."""
    if not d.b.rules_on:
        return otherwise
    T = d.b.spec_state.T
    return next(
        (
            t
            for t in range(d.b.spec_state.size.translations)
            if T["translation.present"][t] and T["translation.origin"][t] == 1
        ),
        otherwise,
    )


def unmap_ref(d: Dom0, proc: Proc) -> str:
    """IOCTL_GNTDEV_UNMAP_GRANT_REF; mappings stay."""
    fd, x, opened = d.fd_of(proc, "gntdev")
    return unregister(d, proc, fd, x, opened, _listed(d, opened))


def unregister(d: Dom0, proc: Proc, fd: int, x: int, opened: Opened | None, record: MapRecord | None) -> str:
    """unmap_grant_ref of a map or of a wrong index."""
    args = {"p": proc.space, "x": x, "m": record.m if record is not None else _some_map(d)}
    count = 1
    if record is not None and opened is not None:
        count = len(record.grants) if d.rng.random() < 0.8 else 0
        wrong, _, _ = proc.ioctl(fd, GNTDEV_UNMAP_GRANT_REF, RANGE.pack(record.gmap.index << 12, len(record.grants) + 1, 0))
        if wrong != "ENOENT":
            raise Mismatch(f"gntdev unmap_grant_ref of more than the map has: {wrong}")
        d.rule("gntdev_unmap_grant_ref", args)  # first, as the end of the map may send an event
        opened.maps.remove(record)
    offset = record.gmap.index << 12 if record is not None else NOWHERE
    code, _, _ = proc.ioctl(fd, GNTDEV_UNMAP_GRANT_REF, RANGE.pack(offset, count, 0))
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
    if record is not None and d.rng.random() < 0.8:
        at += abi.PAGE_SIZE * int(d.rng.random() * len(record.grants))
    index = (record.gmap.index << 12) + at if record is not None else NOWHERE
    port, q = notice_port(d)
    if q is None or (fd in proc.fds and proc.fds[fd].kind == "gntalloc"):
        return ""  # that is another rule: dom0_gntalloc.py
    d.closing = []
    code, _, _ = proc.ioctl(fd, SET_UNMAP_NOTIFY, RANGE.pack(index, action, port))
    d.rule(
        "gntdev_set_unmap_notify",
        {
            "p": proc.space,
            "x": x,
            "m": record.m if record is not None else _some_map(d),
            "byte": action & 1,
            "event": action >> 1,
            "q": q,
        },
        code,
    )
    d.closed()
    if code == OKAY and record is not None:
        record.byte_at = at if action & 1 else -1
        for slot in proc.slots.values():
            if slot.record is record:
                d.store_to(proc, slot)
    return f"gntdev set_unmap_notify {action} port {port}: {code}"


def notice_port(d: Dom0) -> tuple[int, int | None]:
    """A port for a notice and its element: usually one that is bound, or held by another notice."""
    ports = list(d.kernel.evtchn_holds)
    port = ports[int(d.rng.random() * len(ports))] if ports and d.rng.random() < 0.9 else 77
    return port, port - 1 if port <= d.b.spec_state.size.ports else _unbound_port(d)


def _unbound_port(d: Dom0) -> int | None:
    used = d.kernel.evtchn_holds
    return next((n - 1 for n in range(1, d.b.spec_state.size.ports + 1) if n not in used), None)


MOVES = ((18, map_ref), (22, mmap), (12, munmap), (14, unmap_ref), (8, notify))
