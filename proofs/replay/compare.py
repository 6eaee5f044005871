"""Comparison of a replayed operation with its recording.

Contents: the comparable fields, grant entries from the granter's table, and the table of
known differences (known.json beside this file). Not here: running the operations (ops.py).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

from bulkhead.impl.xen import abi
from bulkhead.proofs.replay.agents import NO_ANSWER
from bulkhead.proofs.replay.rig import Rig

KNOWN_FILE: Final = Path(__file__).with_name("known.json")
NO_STATUS: Final = 0xFFFF
# Result fields that the format declares irreproducible, or that describe the rig and not Xen.
NOT_COMPARED: Final = frozenset({"pages", "ready", "diag", "sid", "dflags", "shutdown", "paused", "remap"})


def load_known(path: Path = KNOWN_FILE) -> list[dict[str, Any]]:
    """The table of known differences: each row has a reason, the version of Xen, and a pattern (`explained`)."""
    rows: list[dict[str, Any]] = json.loads(path.read_text())["differences"]
    return rows


def entry(rig: Rig, key: str) -> dict[str, Any] | None:
    """A grant entry in the recording's form, or None if the table has no such entry."""
    name, text = key.split(":")
    ref = int(text)
    if name not in rig.agents and name not in rig.translated:
        return None
    table = rig.guest(name).domain.grant_table
    if ref >= table.nr_entries:
        return None
    if table.version == 1:
        flags, domid, frame = table.entry_v1(ref)
        return {"flags": flags, "domid": domid, "page": rig.name(frame)}
    flags, domid, _, _, frame = table.entry_v2(ref)
    data, off = table.status_at(ref)
    there = table.status[ref // abi.STATUS_PER_FRAME].count > 0  # Dom0 cannot map one that the guest has given up
    status = abi.U16.unpack_from(data, off)[0] if there else NO_STATUS
    return {"flags": flags, "domid": domid, "page": rig.name(frame), "status": status}


def differences(rig: Rig, recorded: dict[str, Any], result: dict[str, Any], skip: set[str]) -> list[tuple[str, Any, Any]]:
    """(field, recorded, replayed) for each comparable field that differs."""
    out: list[tuple[str, Any, Any]] = []
    res: dict[str, Any] = recorded.get("res", {})
    for field in sorted(set(res) | set(result)):
        if field in NOT_COMPARED or field in skip:
            continue
        if field == "stuck" and res.get("r") == NO_ANSWER:
            continue  # it did not return on real Xen either
        want, got = res.get(field), result.get(field)
        if want != got and not rig.same_entry(want, got):
            out.append((field, want, got))
    for key, want in recorded.get("e", {}).items():
        got = entry(rig, key)
        if got is None:
            out.append((f"e.{key}", want, None))
            continue
        name, ref = key.split(":")
        for field, value in want.items():
            if field == "page" and (name, int(ref)) in rig.stale:
                continue
            if got.get(field) != value:
                out.append((f"e.{field}", value, got.get(field)))
    return out


def _only_bits(bits: int | None, recorded: Any, replayed: Any) -> bool:
    """Do two numbers differ in these bits only? Without bits anything may differ."""
    if bits is None:
        return True
    return isinstance(recorded, int) and isinstance(replayed, int) and not (recorded ^ replayed) & ~bits


def explained(known: list[dict[str, Any]], item: dict[str, Any], diff: tuple[str, Any, Any]) -> str | None:
    """The reason for a difference in the table, else None. A missing part of a row matches anything.

    `field` is a regular expression for the whole name; `arguments` and `results` are those of the call, `patterns` are
    regular expressions for whole arguments; with `bits` the two answers are numbers that differ in these bits only.
    """
    given, answered = item.get("a", {}), item.get("res", {})
    for row in known:
        if (
            row.get("op", item["op"]) == item["op"]
            and re.fullmatch(row.get("field", ".*"), diff[0])
            and row.get("recorded", diff[1]) == diff[1]
            and row.get("replayed", diff[2]) == diff[2]
            and _only_bits(row.get("bits"), diff[1], diff[2])
            and all(given.get(name) == value for name, value in row.get("arguments", {}).items())
            and all(re.fullmatch(value, str(given.get(name, ""))) for name, value in row.get("patterns", {}).items())
            and all(answered.get(name) == value for name, value in row.get("results", {}).items())
        ):
            return str(row["reason"])
    return None
