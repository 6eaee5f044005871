"""Refinement of mapping and unmapping of grants, and of the release of a mapping in its mapper's teardown.

Contracts: page-table entries (`create_mapping`, `replace_mapping`) and the free lists of handles (`get_handle`,
`put_handle`) may fail or succeed; an allocated handle was free.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bulkhead.impl.xen import abi, grant_entries, grant_map, grant_unmap, lifecycle
from bulkhead.impl.xen.frames import PGT_WRITABLE
from bulkhead.model.ir import Use, Var
from bulkhead.proofs.refinement.handlers.abstraction import before
from bulkhead.proofs.refinement.handlers.objects import base
from bulkhead.proofs.refinement.handlers.obligations import Holders, classes, pins_of, same_state
from bulkhead.proofs.refinement.handlers.path import (
    ROUNDS,
    THIS,
    Path,
    code_of,
    either,
    layouts,
    length,
    rules,
    side,
    standing_in,
    status_of,
    step,
)
from bulkhead.proofs.refinement.handlers.spec_terms import RuleState
from bulkhead.proofs.refinement.handlers.symbolic_xen import RECORDS, ones
from bulkhead.proofs.symbolic.engine import Int, Unsupported, number
from bulkhead.proofs.symbolic.terms import FALSE, TRUE, UGE, ULT, And, Implies, Not, Or, Term, boolean, eq, variable
from bulkhead.proofs.symbolic.terms import number as constant


def granter(path: Path, domid: Term, own: bool) -> None:
    """The grants are the caller's own, or those of other domains: two separate proofs cover both cases."""
    same = eq(domid, number(path.machine.caller.domid))
    path.engine.assume(same if own else Not(same))


def map_grant_ref(path: Path, own: bool) -> None:
    """GNTTABOP_map_grant_ref by decoded values."""
    m, engine = path.machine, path.engine
    flags, ref, dom = path.argument("flags", 32), path.argument("ref", 32), path.argument("dom", 15)
    granter(path, number(dom), own)
    addr = path.argument("host_addr", 64)
    handle, no_space = variable("handle", bits=40), FALSE
    entry_failed = FALSE
    mapped: list[tuple[Any, Any]] = []
    rounds, given_up = 0, FALSE

    def get_handle(table: object, vcpu: object) -> object:
        nonlocal no_space
        if engine.choose("no handle left"):
            no_space = TRUE
            return -1
        engine.assume(And(ULT(handle, RECORDS), base("record.flags", handle) == 0))
        return Int(handle)

    def put_handle(table: Any, vcpu: object, given: Any) -> None:
        record = table.maptrack[given]
        record.flags, record.granter = 0, None

    def create_mapping(xen: object, vcpu: object, where: Any, frame: Any, how: Any) -> int:
        nonlocal entry_failed
        if engine.choose("no entry at the address"):
            entry_failed = TRUE
            return abi.GNTST_GENERAL_ERROR
        mapped.append((frame, how))
        return abi.GNTST_OKAY

    host, device = number(flags) & abi.GNTMAP_HOST_MAP != 0, number(flags) & abi.GNTMAP_DEVICE_MAP != 0
    writable = number(flags) & abi.GNTMAP_READONLY == 0
    t, u = variable("t"), variable("u")
    start = before(m)
    holders = Holders(start, THIS, (handle,), (t, u), lambda s, _: (writable, host, device), (side("dest"),))
    engine.assume(And(t != u, Not(start.at("translation.present", t)), Not(start.at("translation.present", u))))
    engine.assume(Not(start.at("translation.cached", t)))
    engine.assume(Not(start.at("translation.cached", u)))
    args = {
        "caller": number(m.caller.domid),
        "space": variable("space"),
        "dom": number(dom),
        "ref": number(ref),
        "writable": writable,
        "host": host,
        "device": device,
        "got_h": handle,
        "got_t": t,
        "got_u": u,
        "this": THIS,
    }
    top = base("active.pin", number(dom), number(ref)) & classes(writable, host, device) * 128 != 0
    pinned: RuleState | None = None
    gone = FALSE

    with standing_in(
        (grant_map, "get_handle", get_handle),
        (grant_map, "put_handle", put_handle),
        (grant_map, "create_mapping", create_mapping),
        (grant_entries, "STATUS_RETRIES", ROUNDS),
        *layouts(grant_entries),
    ):
        call = grant_map.map_grant_ref(m, m.vcpu, addr, flags, ref, dom)  # type: ignore[arg-type]
        try:
            while True:
                marker = next(call)
                if marker == "map.pinned":
                    # For an entry in use, the implementation takes the page reference later, the rules in this step.
                    ends = path.take(
                        holders.readings(before(m)),
                        "map_grant_ref",
                        args,
                        {"a pin counter is at its top": top, "got_h": no_space},
                    )
                    gone = ends.codes[-1][1]
                    path.prove(
                        "map_grant_ref pinned",
                        [
                            ("the rules refuse", Or(ends.okay, gone)),
                            *[(n, Or(gone, c)) for n, c in same_state(m, ends.state, holders, counts=False)],
                        ],
                    )
                    pinned = ends.state
                headers = m.headers()
                m.guests_write()
                rounds += marker == "set_status.cmpxchg"
                given_up = And(boolean(rounds >= ROUNDS), *[a != b for a, b in zip(headers, m.headers(), strict=True)])
        except StopIteration as stop:
            status, given, bus = stop.value
    status_of(status)
    if pinned is None:
        ends = path.take(
            holders.readings(before(m)),
            "map_grant_ref",
            args,
            {"a pin counter is at its top": Or(top, given_up), "got_h": no_space},
        )
        path.prove(
            f"map_grant_ref = {code_of(status)}",
            [("the status", ends.with_code(code_of(status))), *same_state(m, holders.readings(before(m)), holders)],
        )
        return
    # The second step: guests may have changed entries since.
    second = path.entries_now(pinned)
    frame = second.at("hold.frame", THIS, side("dest"))
    page_table = And(writable, base("frame.tcount", frame) > 0, base("frame.ptype", frame) != PGT_WRITABLE)
    ends = path.take(
        second,
        "map_grant_ref.insert",
        args,
        {"no page-table entry at the address, or the page is in use as a page table": Or(entry_failed, page_table)},
    )
    if status == abi.GNTST_OKAY:
        path.prove(
            "map_grant_ref = okay",
            [
                ("the status", And(ends.okay, Not(gone))),
                *same_state(m, ends.state, holders),
                ("the handle", number(given) == handle),
                ("the bus address", number(bus) == frame << 12),
                ("the entry written", host if mapped else Not(host)),
                *[
                    (
                        "the entry's frame and mode",
                        And(
                            number(f.mfn) == ends.state.at("translation.frame", t),
                            (number(how) & abi.GNTMAP_READONLY == 0) == ends.state.at("translation.writable", t),
                        ),
                    )
                    for f, how in mapped
                ],
                ("one entry", boolean(len(mapped) <= 1)),
            ],
        )
        return
    undone = ends.undone[0][1]
    path.prove(
        f"map_grant_ref.insert = {code_of(status)}",
        [
            (
                "the status",
                Or(And(gone, boolean(status == abi.GNTST_GENERAL_ERROR)), And(Not(gone), ends.with_code(code_of(status)))),
            ),
            *either(gone, same_state(m, holders.readings(before(m)), holders), same_state(m, undone, holders)),
            ("no entry is left", boolean(not mapped)),
        ],
    )


def record_of(path: Path, handle: Term, own: bool) -> tuple[RuleState, Holders, Term, Term]:
    """An arbitrary record of the caller, with the invariants of a live one whose granter exists."""
    m, engine, start = path.machine, path.engine, before(path.machine)
    d, r = base("record.domid", handle), base("record.ref", handle)
    granter(path, d, own)
    host_t, device_t = start.at("mapping.host_t", handle), start.at("mapping.device_t", handle)
    writable = start.at("mapping.writable", handle)
    host, device = start.at("mapping.host", handle), start.at("mapping.device", handle)
    named = variable("t")  # the entry at the address, if there is one
    holders = Holders(start, THIS, (handle,), (named, device_t), None, (side("dest"),))
    start = holders.readings(start)
    holders = replace(holders, start=start)
    pins = pins_of(start, handle, d, r)
    pin, frame = base("active.pin", d, r), base("active.frame", d, r)
    parts = ones(host, device)
    engine.assume(Implies(UGE(handle, RECORDS), base("record.flags", handle) == 0))
    counted = [
        Implies(And(part, writable if mode else Not(writable)), pin & (0xFF * one) != 0)
        for part, mode, one in (
            (host, True, abi.PIN_HSTW),
            (host, False, abi.PIN_HSTR),
            (device, True, abi.PIN_DEVW),
            (device, False, abi.PIN_DEVR),
        )
    ]
    engine.assume(
        Implies(
            pins,
            And(
                *counted,
                r < base("table.entries", d),
                base("frame.owner", frame) == d,
                UGE(base("frame.count", frame), parts),
                # References of read-only parts have no type reference.
                Implies(
                    Not(writable),
                    UGE(
                        base("frame.count", frame),
                        base("frame.tcount", frame) + parts + ones(base("frame.allocated", frame)),
                    ),
                ),
                Implies(writable, And(UGE(base("frame.tcount", frame), parts), base("frame.ptype", frame) == PGT_WRITABLE)),
            ),
        )
    )
    # A mapped device part holds its page, so its granter exists, at least as a zombie.
    engine.assume(Implies(device, pins))
    engine.assume(And(host_t != device_t, named != device_t))
    engine.assume(
        Implies(
            And(pins, device),
            And(start.at("translation.frame", device_t) == frame, start.at("translation.writable", device_t) == writable),
        )
    )
    engine.assume(
        Implies(
            And(pins, device),
            And(
                start.at("translation.present", device_t),
                start.at("translation.handle", device_t) == handle,
                start.at("translation.path", device_t) == constant(rules().enums["Path"].index("dma")),
                start.at("space_of", start.at("translation.space", device_t)) == number(m.caller.domid),
            ),
        )
    )
    return start, holders, writable, frame


def unmap_grant_ref(path: Path, own: bool) -> None:
    """GNTTABOP_unmap_grant_ref: phase one, the flush, phase two."""
    m, engine = path.machine, path.engine
    handle, addr, bus = path.argument("handle", 32), path.argument("host_addr", 64), path.argument("bus_addr", 64)
    h = number(handle)
    start, holders, writable, frame = record_of(path, h, own)
    host, device = number(addr) != 0, number(bus) != 0
    args = {
        "caller": number(m.caller.domid),
        "space": variable("space"),
        "h": h,
        "t": variable("t"),
        "host": host,
        "device": device,
        "this": THIS,
    }
    taken = (writable, And(host, start.at("mapping.host", h)), And(device, start.at("mapping.device", h)))
    holders.held = lambda state, s: taken
    refused = FALSE

    def put_handle(table: Any, vcpu: object, given: Any) -> None:
        record = table.maptrack[given]
        record.flags, record.granter = 0, None

    def replace_mapping(xen: object, vcpu: object, where: Any, page: Any, new: object, how: Any) -> int:
        nonlocal refused
        if engine.choose("another entry at the address"):
            refused = TRUE
            return abi.GNTST_GENERAL_ERROR
        path.prove(
            "unmap_grant_ref",
            [("the entry looked for", And(number(page.mfn) == frame, (number(how) & abi.GNTMAP_READONLY == 0) == writable))],
        )
        engine.assume(
            And(
                [
                    start.term(c.cond, args)
                    for c in step("unmap_grant_ref").checks
                    if c.kind == "require" and c.code == "GNTST_general_error"
                ]
            )
        )
        return abi.GNTST_OKAY

    with standing_in(
        (grant_unmap, "put_handle", put_handle),
        (grant_unmap, "replace_mapping", replace_mapping),
        (grant_unmap, "len", length),
        *layouts(grant_entries),
    ):
        status, work = grant_unmap.unmap_one(m, m.vcpu, addr, bus, 0, handle)  # type: ignore[arg-type]
        ends = path.take(
            start,
            "unmap_grant_ref",
            args,
            {
                "the bus address is not the frame's": And(device, start.at("mapping.device", h), number(bus) != frame << 12),
                "the address names no page-table entry": refused,
            },
        )
        # If the granter no longer exists, Xen crashes the caller; in the rules the handle is bad.
        code = "GNTST_bad_handle" if m.caller.crashed else code_of(status_of(status))
        if work is None:
            path.prove(f"unmap_grant_ref = {code}", [("the status", ends.with_code(code)), *same_state(m, start, holders)])
            return
        granter, ref, page, done = work
        path.prove(
            "unmap_grant_ref = okay",
            [
                ("the status", And(ends.okay, boolean(status == 0))),
                *same_state(m, ends.state, holders, counts=False),
                (
                    "what is left to do",
                    And(
                        number(granter.domid) == ends.state.at("hold.granter", THIS, side("dest")),
                        number(ref) == ends.state.at("hold.ref", THIS, side("dest")),
                        number(page.mfn) == ends.state.at("hold.frame", THIS, side("dest")),
                        classes(
                            number(done) & abi.GNTMAP_READONLY == 0,
                            number(done) & abi.GNTMAP_HOST_MAP != 0,
                            number(done) & abi.GNTMAP_DEVICE_MAP != 0,
                        )
                        == classes(*taken),
                    ),
                ),
            ],
        )
        for _ in grant_unmap.finish(m, m.vcpu, (work,)):
            m.guests_write()
    second = path.entries_now(ends.state)
    for part in ("unmap_grant_ref.flush", "unmap_grant_ref.complete"):
        second = path.take(second, part, args, {}).state
    path.prove("unmap_grant_ref.complete", same_state(m, second, holders))


def release_mapping(path: Path, own: bool) -> None:
    """gnttab_release_mappings of one record of a dying domain."""
    m = path.machine
    h = variable("handle", bits=40)
    path.engine.assume(And(ULT(h, RECORDS), base("domain.is_dying", number(m.caller.domid)) == 1))
    start, holders, _, _ = record_of(path, h, own)
    table: Any = m.caller.grant_table.maptrack
    with standing_in(
        (lifecycle, "reversed", lambda track: [track.find(h)]), (lifecycle, "len", length), *layouts(grant_entries)
    ):
        for _ in lifecycle.release_mappings(m, m.caller):
            raise Unsupported("one record is no batch")
    ends = path.take(start, "release_mapping", {"h": h}, {})
    live = start.term(Use("live", (Var("h", "Handle"),), "bool"), {"h": h})
    path.prove("release_mapping", either(live, same_state(m, ends.state, holders), same_state(m, start, holders)))
    path.prove("release_mapping", [("records looked at", boolean(len(table.known) == 1))])
