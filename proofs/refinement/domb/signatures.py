"""Signatures of the operations of DomB's campaign, in the form of ../signatures.py, with who may be the caller of each.

A test compares the table with the tables of operations, and with the calls of a campaign.
"""

from __future__ import annotations

import re
from typing import Any, Final

from bulkhead.proofs.refinement.calls import Call
from bulkhead.proofs.refinement.domb.users import OF_USERS
from bulkhead.proofs.refinement.domb.window import SLOTS
from bulkhead.proofs.refinement.signatures import KINDS as OF_MONOLITHIC
from bulkhead.proofs.refinement.signatures import SIGNATURES, Table

NOBODY, DOMB, GUEST, PROCESS = "", "d1", r"d[2-6]", r"p\d{1,3}"
CALLERS: Final = {NOBODY: "nobody", DOMB: "d1, which is DomB", GUEST: "a guest as d2", PROCESS: "a process of Dom0 as p7"}
OPERATIONS: Final = {
    # the machine
    "machine": (NOBODY, "seed"),
    "moment": (NOBODY, "number"),
    "spawn": (NOBODY, ""),
    "start_xenconsoled": (NOBODY, ""),
    "claims": (NOBODY, ""),
    "daemons_keep_nothing": (NOBODY, ""),
    "end": (NOBODY, ""),
    # DomB
    "step": (DOMB, ""),
    "fail": (DOMB, "errno"),
    "crash": (DOMB, ""),
    "hang_up": (DOMB, ""),
    # processes of Dom0, also the daemons
    "connect": (PROCESS, "dom ref port"),
    "disconnect": (PROCESS, ""),
    "send": (PROCESS, "op number status body"),
    "send_bytes": (PROCESS, "bytes"),
    "receive": (PROCESS, ""),
    "reply": (PROCESS, "op number status body"),
    "ask_proxy": (PROCESS, "op body"),
    "use_tool": (PROCESS, "xl name kernel ramdisk pages cmdline then patient waits"),
    "builds_again": (PROCESS, "xl"),
    "map_grant": (PROCESS, "dom ref prot"),
    "unmap_grant": (PROCESS, "addr"),
    "poke": (PROCESS, "addr bytes"),
    "serve": (PROCESS, ""),
    "kill": (PROCESS, ""),
    "stop": (PROCESS, ""),
    "ask_xenstored": (PROCESS, "type payload"),
    "console_add": (PROCESS, "dom mfn port"),
    "console_remove": (PROCESS, "dom"),
    "console_type": (PROCESS, "dom bytes"),
    # processes of Dom0 that are no tools
    **{name: (PROCESS, SIGNATURES[name]) for name in OF_USERS},
    # guests
    "ring_put": (GUEST, "ring bytes"),
    "ring_drain": (GUEST, "ring"),
    "ring_poke": (GUEST, "ring at bytes"),
    "library_asks": (GUEST, "type payload"),
    "library_takes": (GUEST, ""),
    "write_entry": (GUEST, "ref flags dom mfn"),
    "evtchn_send": (GUEST, "port"),
    "evtchn_close": (GUEST, "port"),
    "evtchn_alloc_unbound": (GUEST, "dom remote"),
    "evtchn_bind_interdomain": (GUEST, "dom port"),
    "evtchn_reset": (GUEST, ""),
    "evtchn_take": (GUEST, ""),
    "map_grant_ref": (GUEST, "slot dom ref writable"),
    "unmap_grant_ref": (GUEST, "slot handle"),
    "copy": (GUEST, "src_ref src src_dom dst_ref dst dst_dom length"),
    "update_va_mapping": (GUEST, "slot mfn writable"),
    "access": (GUEST, "slot write"),
    "give_back": (GUEST, "mfn"),
    "populate_physmap": (GUEST, ""),
}
THEN: Final = ("pause", "unpause", "destroy")


def _below(bits: int, least: int = 0) -> Any:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and least <= value < 1 << bits


def _bytes(value: Any) -> bool:
    return isinstance(value, str) and len(value) < 1 << 16 and re.fullmatch(r"([0-9a-f]{2})*", value) is not None


def _body(value: Any) -> bool:
    """A message's bytes; or parts, which are bytes or a range of what the proxy says."""

    def is_part(part: Any) -> bool:
        return _bytes(part) or (isinstance(part, list) and len(part) == 2 and all(map(_below(16), part)))

    return _bytes(value) or (isinstance(value, list) and all(map(is_part, value)))


def _text(value: Any) -> bool:
    return isinstance(value, str) and value.isascii()


def _calls(value: Any) -> bool:
    return isinstance(value, list) and all(each in THEN for each in value)


TEXT, BYTES, DOMID = ("a text", _text), ("bytes in hexadecimal", _bytes), ("a number of 16 bits", _below(16))
KINDS: Final = {
    **OF_MONOLITHIC,
    "dom": DOMID,
    "src_dom": DOMID,
    "dst_dom": DOMID,
    "slot": ("a slot of a guest's window", lambda value: _below(8)(value) and value < SLOTS),
    "length": ("a number of 16 bits", _below(16)),
    "remote": DOMID,
    "op": DOMID,
    "mfn": ("a number of 40 bits", _below(40)),
    **dict.fromkeys(
        ("ref", "port", "number", "pages", "waits", "type", "handle", "src", "dst"), ("a number of 32 bits", _below(32))
    ),
    "status": ("a number of 32 bits with a sign", _below(31, -(1 << 31))),
    "errno": ("an errno", lambda value: _below(8)(value) and value > 0),
    "prot": ("1 to read, 3 to write, too", lambda value: value in (1, 3)),
    "flags": ("0 for no grant, 1 for one, 5 for one to read only", lambda value: value in (0, 1, 5)),
    "at": ("a place in a page", _below(12)),
    "ring": ("console or xenstore", lambda value: value in ("console", "xenstore")),
    **dict.fromkeys(
        ("xl", "patient", "writable", "write", "src_ref", "dst_ref"),
        ("true or false", lambda value: isinstance(value, bool)),
    ),
    "then": (f"a list of {', '.join(THEN)}", _calls),
    **dict.fromkeys(("name", "kernel", "ramdisk", "cmdline"), TEXT),
    **dict.fromkeys(("bytes", "payload"), BYTES),
    "body": ("bytes in hexadecimal, or for `reply` a list of bytes and of ranges", _body),
}


def _caller(call: Call) -> str:
    form = OPERATIONS[call.operation][0]
    return "" if re.fullmatch(form, call.by) else f"{call.operation}: the caller `by` is {CALLERS[form]}, not {call.by!r}"


TABLE: Final = Table({name: names for name, (_, names) in OPERATIONS.items()}, KINDS, _caller)


__all__ = ["OPERATIONS", "TABLE"]
