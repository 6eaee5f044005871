"""Signatures of a campaign's operations: a call from a file is checked against them before it is made.

One line per operation, each argument by its name; `KINDS` gives its type. A test compares the table with the tables of
operations, and with the calls of a campaign. Those of DomB's campaign are in domb/signatures.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from bulkhead.model.diagnostics import suggest
from bulkhead.proofs.refinement.calls import Call

SIGNATURES: Final = {
    # the machine, and operations without a caller
    "machine": "seed",
    "deny": "source dest",
    "advance": "call",
    "flush_all": "",
    "sync": "",
    "compare": "",
    "end": "",
    # the toolstack
    "createdomain": "domid max_maptrack greedy pvh",
    "pausedomain": "domid",
    "unpausedomain": "domid",
    "destroydomain": "domid",
    # guests
    "map_grant_ref": "elements",
    "unmap_grant_ref": "elements",
    "copy": "elements",
    "transfer": "mfn dom ref",
    "set_version": "version",
    "swap_grant_ref": "refs",
    "setup_table": "frames",
    "mmu_update": "slot pte foreign",
    "mmu_update_elsewhere": "dom",
    "update_va_mapping": "slot pte flags",
    "tlb_flush": "",
    "populate_physmap": "count",
    "decrease_reservation": "mfns",
    "populate_physmap_at": "gfns",
    "decrease_reservation_at": "gfns",
    "remove_from_physmap": "gfn",
    "move_in_physmap": "was gfn",
    "add_to_physmap": "space index gfn",
    "move_range_in_physmap": "was gfn count",
    "add_to_physmap_batch": "space indexes gfns",
    "add_to_physmap_foreign": "dom number gfn",
    "evtchn_alloc_unbound": "dom remote",
    "evtchn_bind_interdomain": "dom port",
    "evtchn_send": "port",
    "evtchn_close": "port",
    "evtchn_reset": "",
    "evtchn_take": "",
    "own_ports": "virq on",
    "pin_for_a_moment": "mfn level foreign",
    "write_entry": "ref flags domid mfn keep_bits part",
    "store_in_table": "slot ref flags domid mfn",
    "store_status": "slot ref bits",
    "end_access": "ref",
    "access": "slot write",
    # Dom0's processes
    "open": "kind",
    "close": "fd",
    "setuid": "",
    "fork": "child",
    "exit": "",
    "store": "page",
    "munmap": "addr count",
    "mprotect": "addr count writable",
    "mremap": "addr count new_count to",
    "gntdev_map_grant_ref": "fd grants",
    "gntdev_mmap": "fd offset count writable",
    "gntdev_mmap_within": "fd offset count",
    "gntdev_unmap_grant_ref": "fd offset count",
    "gntdev_set_unmap_notify": "fd index action port",
    "gntdev_grant_copy": "fd segments",
    "gntalloc_alloc_gref": "fd dom count writable starved",
    "gntalloc_mmap": "fd offset count writable",
    "gntalloc_dealloc_gref": "fd offset count",
    "gntalloc_set_unmap_notify": "fd index action port",
    "evtchn_bind_interdomain_port": "fd dom port",
    "evtchn_bind_unbound_port": "fd dom",
    "evtchn_tighten_ring": "fd",
    "evtchn_unbind": "fd port",
    "evtchn_notify": "fd port",
    "evtchn_restrict_domid": "fd dom",
    "evtchn_reset_ring": "fd",
    "poll": "fd",
    "read": "fd size may_sleep",
    "write": "fd port odd",
    "privcmd_restrict": "fd dom",
    "privcmd_mmap": "fd count writable",
    "privcmd_mmapbatch": "fd addr dom gfns",
    "privcmd_change_part": "addr",
    "privcmd_domctl": "fd command domid",
    "privcmd_alloc_unbound": "fd dom remote",
    "privcmd_populate_physmap": "fd dom gfn",
}
ELEMENTS: Final = {
    "map_grant_ref": {"slot", "flags", "ref", "dom", "addr"},
    "unmap_grant_ref": {"slot", "addr", "bus", "handle"},
    "copy": {"src_ref", "src", "src_dom", "src_off", "dst_ref", "dst", "dst_dom", "dst_off", "length"},
}


def _number(value: Any) -> bool:
    return isinstance(value, int) and 0 <= value < 1 << 64


def _numbers(count: int | None) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list | tuple) and count in (None, len(value)) and all(map(_number, value))


def _elements(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(e, dict) and all(map(_number, e.values())) for e in value)


def _pairs(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(map(_numbers(2), value))


def _segments(value: Any) -> bool:
    def is_side(side: Any) -> bool:
        return _number(side) or _numbers(3)(side)

    return isinstance(value, list | tuple) and all(
        isinstance(s, list | tuple) and len(s) == 3 and is_side(s[0]) and is_side(s[1]) and _number(s[2]) for s in value
    )


KINDS: Final[dict[str, tuple[str, Callable[[Any], bool]]]] = {
    **{
        name: ("true or false", lambda value: isinstance(value, bool))
        for name in ("greedy", "pvh", "keep_bits", "write", "writable", "starved", "may_sleep")
    },
    "kind": ("a device", lambda value: value in ("gntdev", "gntalloc", "evtchn", "privcmd")),
    "command": ("a domctl", lambda value: value in ("createdomain", "pausedomain", "unpausedomain", "destroydomain")),
    "elements": ("a list of elements", _elements),
    "grants": ("a list of pairs of a domain and a reference", _pairs),
    "segments": ("a list of two sides and a length each", _segments),
    "refs": ("two references", _numbers(2)),
    "part": ("where a part of a page begins, and its length", _numbers(2)),
    "mfns": ("a list of frame numbers", _numbers(None)),
    "gfns": ("a list of frame numbers", _numbers(None)),
    "indexes": ("a list of numbers of pages", _numbers(None)),
}
NUMBER: Final = ("a number from 0, of 64 bits", _number)
Kinds = Mapping[str, tuple[str, Callable[[Any], bool]]]


@dataclass(frozen=True)
class Table:
    """The signatures of one campaign's operations, the types of arguments that are no numbers, the form of callers, and the
    fields of elements."""

    signatures: Mapping[str, str]
    kinds: Kinds
    caller: Callable[[Call], str]  # the problem with a call's caller, "" if there is none
    elements: Mapping[str, set[str]] = field(default_factory=dict)

    def wrong(self, call: Call) -> str:
        """The problem with a call's operation, caller or arguments; "" if there is none."""
        names = self.signatures.get(call.operation)
        if names is None:
            return f"there is no operation `{call.operation}`. {suggest(call.operation, self.signatures)}".strip()
        problem = self.caller(call)
        if problem:
            return problem
        wanted, given = set(names.split()), call.arguments
        if wanted != set(given):
            return f"{call.operation} has the arguments {', '.join(sorted(wanted)) or 'none'}, not {', '.join(given)}"
        for name, value in call.arguments.items():
            what, fits = self.kinds.get(name, NUMBER)
            if not fits(value):
                return f"{call.operation}: `{name}` is {what}, not {value!r}"
        for element in call.arguments.get("elements", ()):
            if set(element) != self.elements[call.operation]:
                return f"{call.operation}: an element has {', '.join(sorted(self.elements[call.operation]))}"
        return ""


def _caller(call: Call) -> str:
    if re.fullmatch(r"(|d0|d[1-3]v[01]|p\d{1,3})", call.by):
        return ""
    return f"the caller `by` is a vCPU as d1v0, a process as p3, or d0 for the toolstack, not {call.by!r}"


MONOLITHIC: Final = Table(SIGNATURES, KINDS, _caller, ELEMENTS)


def wrong(call: Call) -> str:
    """The problem with a call of a campaign on `monolithic`; "" if there is none."""
    return MONOLITHIC.wrong(call)
