"""Chooses a Dom0 process's calls on /dev/xen/gntdev: maps, mmap and munmap, unmap notifications."""

from __future__ import annotations

from bulkhead.impl.dom0.kernel import FIRST_FREE_REF
from bulkhead.impl.xen import abi
from bulkhead.model.caller import OKAY
from bulkhead.proofs.refinement.calls import guest_call
from bulkhead.proofs.refinement.dom0.gntdev import device_of, port_element
from bulkhead.proofs.refinement.dom0.state import MOST_SLOTS, MapRecord, Opened, Proc
from bulkhead.proofs.refinement.workload.caller import Caller, notice_port, offered, some_range, special

NOWHERE = 0x7700000  # an offset at which nothing is registered
NO_PAGE = 0x1004  # an unaligned address
MOST_MAPS = 4


def map_ref(d: Caller, proc: Proc) -> str:
    """IOCTL_GNTDEV_MAP_GRANT_REF of one to three grants."""
    if sum(1 for r in d.view.maps if r.gmap.users) >= MOST_MAPS:
        return ""
    fd, opened = d.fd_of(proc, "gntdev")
    rng = d.rng
    ids = [n for n in d.view.domains if n < d.view.size.nobody]
    refs = [n for n in d.view.size.refs if n < 1000]
    count = (1, 2, 2, 3)[int(rng.random() * 4)]
    offers = _offers(d, refs)
    while len(offers) < count and rng.random() < 0.8 and _offer(d, [(n, ref) for n in ids for ref in refs]):
        offers = _offers(d, refs)
    grants = []
    for _ in range(count):
        grant = (ids[int(rng.random() * len(ids))], refs[int(rng.random() * len(refs))])
        if offers and rng.random() < (0.85 if count == 1 else 0.95):
            grant = offers[int(rng.random() * len(offers))]
        grants.append(grant)
    code = d.call(proc, "gntdev_map_grant_ref", fd=fd, grants=grants).code
    text = f"gntdev map_grant_ref {', '.join(f'd{dom} ref {ref}' for dom, ref in grants)}: {code}"
    if code == OKAY and opened is not None and rng.random() < 0.6:  # before the granter revokes it
        return f"{text}; {mmap(d, proc)}"
    return text


def _offers(d: Caller, refs: list[int]) -> list[tuple[int, int]]:
    """Grants of whole pages that their owners offer to Dom0 now, as (granter, reference)."""
    return [
        (domid, number)
        for domid, domain in d.view.granters()
        for number in refs
        if number < domain.grant_table.nr_entries and offered(domain.grant_table, number, whole=True)
    ]


def _is_offered(d: Caller, domid: int, ref: int, to_write: bool = False) -> bool:
    """Is one grant offered to Dom0 now?"""
    table = next((domain.grant_table for n, domain in d.view.granters() if n == domid), None)
    return table is not None and ref < table.nr_entries and offered(table, ref, whole=True, to_write=to_write)


def _offer(d: Caller, grants: list[tuple[int, int]]) -> bool:
    """A guest offers Dom0 a page of its own by one of these unused references, as a frontend does before its backend maps:
    of entries at random few are for Dom0, and maps of several grants would never succeed."""
    found = []
    for domid, ref in grants:
        guest = d.view.guests.get(domid)
        if guest is None or guest.domain.is_dying or guest.domain.pause_count or guest.domain.crashed:
            continue
        domain, table = guest.domain, guest.domain.grant_table
        if FIRST_FREE_REF <= ref < table.nr_entries and not table.active[ref].pin:
            names = guest.names if domain.external else guest.pool
            found += [(domid, ref, n) for n in names if d.view.own_page(domain, n)]
    if not found:
        return False
    domid, ref, mfn = found[int(d.rng.random() * len(found))]
    flags = abi.GTF_PERMIT_ACCESS | (abi.GTF_READONLY if d.rng.random() < 0.2 else 0)
    entry = {"ref": ref, "flags": flags, "domid": 0, "mfn": mfn, "keep_bits": True, "part": (0, 0)}
    return d.target.carry_out(guest_call(domid, 0, "write_entry", **entry)).code == OKAY


def _listed(d: Caller, opened: Opened | None) -> MapRecord | None:
    """A map of the file."""
    if opened is None or opened.kind != "gntdev":
        return None
    maps = [r for r in opened.maps if r.gmap in device_of(opened).maps]
    fresh = [r for r in maps if not r.gmap.in_use]
    if fresh and d.rng.random() < 0.6:
        return fresh[-1]
    return maps[int(d.rng.random() * len(maps))] if maps and d.rng.random() < 0.97 else None


def _offset(record: MapRecord | None) -> int:
    return NOWHERE if record is None else record.gmap.index << 12


def mmap(d: Caller, proc: Proc) -> str:
    """mmap of a map; the second mmap of the same map fails, and so does one without a map."""
    fd, opened = d.fd_of(proc, "gntdev")
    if opened is not None and all(r.gmap.in_use for r in opened.maps) and d.rng.random() < 0.8:
        return map_ref(d, proc) or unmap_ref(d, proc)
    record = _listed(d, opened)
    if opened is None and proc.fds.get(fd) is not None:
        return ""  # another device's mmap is another rule
    if record is not None and (special(d, record) or len(proc.slots) + len(record.grants) > MOST_SLOTS):
        return ""
    if record is not None and d.rng.random() < 0.1:
        _within(d, proc, fd, record)
    if record is not None and not record.gmap.in_use and d.rng.random() < 0.7:
        withdrawn = [grant for grant in record.grants if not _is_offered(d, *grant)]
        while withdrawn and _offer(d, withdrawn[:1]):
            withdrawn = withdrawn[1:]
    readonly = record is not None and not all(_is_offered(d, *grant, to_write=True) for grant in record.grants)
    writable = d.rng.random() < (0.15 if readonly else 0.65)
    count = 1 if record is None else len(record.grants)
    made = d.call(proc, "gntdev_mmap", fd=fd, offset=_offset(record), count=count, writable=writable)
    what = f"gntdev mmap of map {'?' if record is None else record.m}: {made.code}"
    if made.code != OKAY:
        return what
    for n in range(count):
        d.call(proc, "store", page=(made.given >> 12) + n)
    return f"{what}; {_notify(d, proc, fd, record)}" if d.rng.random() < 0.6 else what


def _within(d: Caller, proc: Proc, fd: int, record: MapRecord) -> None:
    """Ranges that are not a whole map."""
    first, count = record.gmap.index, len(record.grants)
    for index, number in ((first, count + 1), (first + 1, count - 1), (first, count - 1), (first + 1, count)):
        others = [r for opened in proc.fds.values() for r in opened.maps if (r.gmap.index, r.gmap.count) == (index, number)]
        if number and not others:
            d.call(proc, "gntdev_mmap_within", fd=fd, offset=index << 12, count=number)


def munmap(d: Caller, proc: Proc) -> str:
    """munmap of one of its mappings of any kind; an unaligned address is refused."""
    if d.rng.random() < 0.04:
        d.call(proc, "munmap", addr=NO_PAGE, count=1)
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
        d.call(proc, "munmap", addr=middle.vpn << 12, count=1)
        vpn, count = middle.vpn - 1, 3
    code = d.call(proc, "munmap", addr=vpn << 12, count=count).code
    return f"munmap of {count} from {vpn:#x}: {code}"


def unmap_ref(d: Caller, proc: Proc) -> str:
    """IOCTL_GNTDEV_UNMAP_GRANT_REF; mappings stay. A count of 0 is not checked."""
    fd, opened = d.fd_of(proc, "gntdev")
    record = _listed(d, opened)
    count = 1
    if record is not None:
        count = len(record.grants) if d.rng.random() < 0.8 else 0
    code = d.call(proc, "gntdev_unmap_grant_ref", fd=fd, offset=_offset(record), count=count).code
    return f"gntdev unmap_grant_ref {_offset(record):#x}: {code}"


def notify(d: Caller, proc: Proc) -> str:
    """IOCTL_GNTDEV_SET_UNMAP_NOTIFY."""
    fd, opened = d.fd_of(proc, "gntdev")
    return _notify(d, proc, fd, _listed(d, opened))


def _notify(d: Caller, proc: Proc, fd: int, record: MapRecord | None) -> str:
    action = 1 + int(d.rng.random() * 3)
    if not d.view.held_ports() and d.rng.random() < 0.8:
        action = 1  # there is no event channel for a notice
    at = 8 * int(d.rng.random() * 500)
    if record is not None and d.rng.random() < 0.8:
        at += abi.PAGE_SIZE * int(d.rng.random() * len(record.grants))
    index = _offset(record) + at if record is not None else NOWHERE
    port = notice_port(d)
    if port_element(d.view.dom0, port) is None or (fd in proc.fds and proc.fds[fd].kind == "gntalloc"):
        return ""  # that is another rule: dom0_gntalloc.py
    code = d.call(proc, "gntdev_set_unmap_notify", fd=fd, index=index, action=action, port=port).code
    if code == OKAY and record is not None:
        for slot in list(proc.slots.values()):
            if slot.record is record:
                d.call(proc, "store", page=slot.vpn)
    return f"gntdev set_unmap_notify {action} port {port}: {code}"


MOVES = ((18, map_ref), (22, mmap), (12, munmap), (14, unmap_ref), (8, notify))
