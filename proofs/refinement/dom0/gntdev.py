"""Calls of a Dom0 process on /dev/xen/gntdev: maps, mmap and munmap, unmap notifications.

Each function executes one call, takes the corresponding rule steps, and checks behaviour that the rules do not cover: all
grants of a map are mapped or none, and a range that is not a map is refused. Not here: which call is made, and
the hypercalls that the kernel makes for it (follow.py).
"""

from __future__ import annotations

from collections.abc import Mapping as Arguments
from typing import Any

from bulkhead.impl.dom0.gntdev import Gntdev
from bulkhead.impl.dom0.ioctl import GNTDEV_MAP_GRANT_REF, GNTDEV_UNMAP_GRANT_REF, HEAD, PAIR, RANGE, SET_UNMAP_NOTIFY
from bulkhead.impl.dom0.kernel import KernelError
from bulkhead.impl.dom0.syscalls import PRIVCMD
from bulkhead.impl.xen import abi
from bulkhead.model.caller import OKAY
from bulkhead.proofs.refinement.calls import NOT_DONE, Answer
from bulkhead.proofs.refinement.dom0.kernel import Dom0
from bulkhead.proofs.refinement.dom0.state import Mapping, MapRecord, Opened, Proc, Slot, UserSpace
from bulkhead.proofs.refinement.lockstep.rule_steps import Mismatch


def device_of(opened: Opened) -> Gntdev:
    """The driver's side of an open file."""
    device = opened.file.device
    assert isinstance(device, Gntdev)
    return device


def _some_map(d: UserSpace) -> int:
    """A map that no file lists: the element for a wrong index."""
    T = d.lockstep.spec_state.T
    return next(m for m in range(d.lockstep.spec_state.size.maps) if not T["gmap.listed"][m]) if d.lockstep.rules_on else 0


def _at(opened: Opened | None, offset: int) -> MapRecord | None:
    """The map of a file that begins at an offset."""
    return None if opened is None else next((r for r in opened.maps if r.gmap.index << 12 == offset), None)


def map_grant_ref(d: Dom0, proc: Proc, a: Arguments[str, Any]) -> Answer:
    """IOCTL_GNTDEV_MAP_GRANT_REF: {fd, grants}, each a domain and a reference; returns the map's offset."""
    fd, grants = a["fd"], [(dom, ref) for dom, ref in a["grants"]]
    x, opened = d.file(proc, fd, "gntdev")
    code, _, raw = proc.ioctl(
        fd, GNTDEV_MAP_GRANT_REF, HEAD.pack(len(grants), 0, 0) + b"".join(PAIR.pack(dom, ref) for dom, ref in grants)
    )
    record = None
    offset = HEAD.unpack(raw[:16])[2] if code == OKAY else None
    if code == OKAY and opened is not None:
        _expect_own_offsets(opened, (offset or 0) >> 12, len(grants))
        record = MapRecord(next(g for g in device_of(opened).maps if g.index << 12 == offset), [], grants)
        opened.maps.append(record)
        d.records.append(record)
    for n, (dom, ref) in enumerate(grants):
        args = {
            "p": proc.space,
            "x": x,
            "dom": d.lockstep.spec_state.domain(dom),
            "ref": d.lockstep.spec_state.ref(ref),
            "m": d.free_map(),
        }
        if n and record is not None:
            d.rule("gntdev_map_next_ref", {**args, "first": record.m}, code)
        elif n:
            d.rule("gntdev_map_next_ref", {**args, "first": _some_map(d)}, code)
        else:
            d.rule("gntdev_map_grant_ref", args, code)
        if record is not None:
            record.elements.append(args["m"])
    return Answer(code, offset)


def _expect_own_offsets(opened: Opened, index: int, count: int) -> None:
    """The rules have no offsets: those of a new map are of no other map of its file."""
    for other in opened.maps:
        if index < other.gmap.index + other.gmap.count and other.gmap.index < index + count:
            raise Mismatch(f"gntdev map_grant_ref: pages {index} to {index + count - 1} of the file are another map's, too")


def mmap(d: Dom0, proc: Proc, a: Arguments[str, Any]) -> Answer:
    """mmap of gntdev: {fd, offset, count, writable}; returns the address. The second mmap of the same map fails, and so does
    one without a map."""
    fd, writable = a["fd"], a["writable"]
    x, opened = d.file(proc, fd, "gntdev")
    record = _at(opened, a["offset"])
    if record is None or len(record.grants) != a["count"]:
        code, _ = proc.mmap(fd, a["offset"], writable, a["count"])
        d.rule(
            "gntdev_mmap",
            {
                "p": proc.space,
                "x": x,
                "m": _some_map(d),
                "writable": int(writable),
                "this": d.lockstep.spec_state.free_calls[-1],
            },
            code,
        )
        return Answer(code)
    slots = [Slot("grant", 0, writable, record=record, page=n) for n in range(len(record.grants))]
    mapping = d.mapping = Mapping(slots, proc, x, record)
    code, addr = proc.mmap(fd, a["offset"], writable, len(slots))
    d.mapping = None
    if mapping.made == 0:
        for m in record.elements:
            d.rule(
                "gntdev_mmap",
                {"p": proc.space, "x": x, "m": m, "writable": int(writable), "this": d.lockstep.spec_state.free_calls[-1]},
                code,
            )
    for slot in slots if d.lockstep.rules_on and mapping.made else ():
        both = (slot.user is not None) + (slot.kernel is not None)
        if both != (2 if code == OKAY else 0):
            raise Mismatch(f"gntdev mmap answered {code}, and {both} of two translations of page {slot.page} are there")
    if code != OKAY:
        return Answer(code)
    for slot in slots:
        slot.vpn = (addr >> 12) + slot.page
        proc.slots[slot.vpn] = slot
    return Answer(code, addr)


def mmap_within(d: Dom0, proc: Proc, a: Arguments[str, Any]) -> Answer:
    """mmap of a part of a map: {fd, offset, count}. EINVAL, without any effect."""
    fd, offset, count = a["fd"], a["offset"], a["count"]
    code = proc.mmap(fd, offset, False, count)[0]
    if code != "EINVAL":
        raise Mismatch(f"gntdev: mmap of {count} pages from {offset >> 12}, which are not all of a map, answered {code}")
    return Answer(code)


def munmap(d: Dom0, proc: Proc, a: Arguments[str, Any]) -> Answer:
    """munmap: {addr, count}, of any mapping; an unaligned address is refused, and so is a part of an area
    of privcmd."""
    addr, count = a["addr"], a["count"]
    if addr & 0xFFF:
        return _munmap_of_no_page(d, proc, addr)
    vpn = addr >> 12
    if all(_whole(s, vpn, count) for s in proc.slots.values() if vpn <= s.vpn < vpn + count):
        proc.sys.munmap(addr, count)
        for page in range(vpn, vpn + count):
            slot = proc.slots.pop(page, None)
            if slot is not None and (slot.kind != "grant" or slot.user is not None or slot.kernel is not None):
                raise Mismatch("munmap left the mapping")
        return Answer(OKAY)
    try:
        proc.sys.munmap(addr, count)
    except KernelError as error:
        if error.code == abi.EINVAL:
            return Answer("EINVAL")
    raise Mismatch("a part of an area of privcmd was unmapped")


def _munmap_of_no_page(d: Dom0, proc: Proc, addr: int) -> Answer:
    try:
        proc.sys.munmap(addr, 1)
        code = OKAY
    except KernelError as error:
        code = "EINVAL" if error.code == abi.EINVAL else str(error.code)
    t = d.lockstep.spec_state.free_translation() if d.lockstep.rules_on else 0
    d.rule("gntdev_munmap", {"p": proc.space, "t": t, "this": d.lockstep.spec_state.free_calls[-1]}, code)
    d.rule("gntalloc_munmap", {"p": proc.space, "t": _grant_translation(d, t)}, code)
    if PRIVCMD in d.nodes:
        d.rule("privcmd_munmap", {"p": proc.space, "t": _grant_translation(d, t)}, code)
    return Answer(code)


def _whole(slot: Slot, vpn: int, count: int) -> bool:
    first, pages = slot.area
    return not pages or (vpn <= first and first + pages <= vpn + count)


def _grant_translation(d: Dom0, otherwise: int) -> int:
    """A translation that the other two rules for munmap do not cover."""
    if not d.lockstep.rules_on:
        return otherwise
    T = d.lockstep.spec_state.T
    return next(
        (
            t
            for t in range(d.lockstep.spec_state.size.translations)
            if T["translation.present"][t] and T["translation.origin"][t] == 1
        ),
        otherwise,
    )


def unmap_grant_ref(d: Dom0, proc: Proc, a: Arguments[str, Any]) -> Answer:
    """IOCTL_GNTDEV_UNMAP_GRANT_REF: {fd, offset, count}; mappings stay. First checks that too large a count is refused."""
    fd = a["fd"]
    x, opened = d.file(proc, fd, "gntdev")
    record = _at(opened, a["offset"])
    args = {"p": proc.space, "x": x, "m": record.m if record is not None else _some_map(d)}
    if record is not None and opened is not None:
        wrong, _, _ = proc.ioctl(fd, GNTDEV_UNMAP_GRANT_REF, RANGE.pack(a["offset"], len(record.grants) + 1, 0))
        if wrong != "ENOENT":
            raise Mismatch(f"gntdev unmap_grant_ref of more than the map has: {wrong}")
        d.rule("gntdev_unmap_grant_ref", args)  # first, as the end of the map may send an event
        opened.maps.remove(record)
    code, _, _ = proc.ioctl(fd, GNTDEV_UNMAP_GRANT_REF, RANGE.pack(a["offset"], a["count"], 0))
    if record is None:
        d.rule("gntdev_unmap_grant_ref", args, code)
    elif code != OKAY:
        raise Mismatch(f"gntdev unmap_grant_ref: the rules say okay, the implementation {code}")
    return Answer(code)


def set_unmap_notify(d: Dom0, proc: Proc, a: Arguments[str, Any]) -> Answer:
    """IOCTL_GNTDEV_SET_UNMAP_NOTIFY: {fd, index, action, port}."""
    fd, index, action, port = a["fd"], a["index"], a["action"], a["port"]
    x, opened = d.file(proc, fd, "gntdev")
    maps = [] if opened is None else opened.maps
    record = next((r for r in maps if r.gmap.index << 12 <= index < r.gmap.index + r.gmap.count << 12), None)
    q = port_element(d, port)
    if q is None:
        return NOT_DONE  # the rules' world has no such port
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
        record.byte_at = index - (record.gmap.index << 12) if action & 1 else -1
    return Answer(code)


def port_element(d: UserSpace, port: int) -> int | None:
    """The element of a notice's port; for a number outside the rules' world, an unused port, if there is one."""
    ports = d.lockstep.spec_state.size.ports
    if port <= ports:
        return port - 1
    return next((n - 1 for n in range(1, ports + 1) if n not in d.kernel.evtchn_holds), None)
