"""Targets, which execute calls: the implementation alone, the implementation in lockstep with the rules, the rules alone.

Each completes a call before the next one, and resolves the names of earlier results to its own objects: frame
numbers and handles of the machine, or elements of the rules. A call that uses an unknown name is answered `unbound` and
not made. Not here: interleaving (`Interleaved` in lockstep/operations.py), and files (calls.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from bulkhead.impl.xen import abi
from bulkhead.model.caller import OKAY
from bulkhead.proofs.refinement.calls import NOT_DONE, UNBOUND, Answer, Call
from bulkhead.proofs.refinement.lockstep.at_once import AT_ONCE
from bulkhead.proofs.refinement.lockstep.call import CallInFlight, status_name
from bulkhead.proofs.refinement.lockstep.follow_domains import ERRNO
from bulkhead.proofs.refinement.lockstep.lockstep import POOL, Lockstep
from bulkhead.proofs.refinement.lockstep.operations import EXTENTS_AT, start
from bulkhead.proofs.refinement.lockstep.rule_steps import ANY
from bulkhead.proofs.refinement.lockstep.spec_state import SpecState
from bulkhead.proofs.refinement.lockstep.spec_world import TOOLS, Rules
from bulkhead.proofs.refinement.lockstep.testbed import FIXED

KINDS: Final = ("page ", "handle ", "port ")
STATUS_AT: Final = {"map_grant_ref": 18, "unmap_grant_ref": 20, "copy": 36, "swap_grant_ref": 8}
GIVEN_AT: Final = {
    "map_grant_ref": 20,
    "populate_physmap": EXTENTS_AT,
    "evtchn_alloc_unbound": 4,
    "evtchn_bind_interdomain": 8,
}  # offset of the call's result in the argument area


class Unbound(Exception):
    """A name that is not the result of any call."""


def named(value: Any, names: dict[str, int]) -> Any:
    """Arguments with each name replaced by its object."""
    if isinstance(value, str) and value.startswith(KINDS):
        if value not in names:
            raise Unbound(value)
        return names[value]
    if isinstance(value, dict):
        return {key: item if key == "gives" else named(item, names) for key, item in value.items()}
    return [named(item, names) for item in value] if isinstance(value, list) else value


def forget(names: dict[str, int], call: Call, arguments: dict[str, Any]) -> None:
    """Remove the name of a freed page: its number may be reused for another page."""
    if call.operation == "decrease_reservation":
        for name in [name for name, value in names.items() if name.startswith("page ") and value in arguments["mfns"]]:
            del names[name]


class Implementation:
    """The implementation, in lockstep with the rules or alone. Raises Mismatch if they differ."""

    def __init__(self, rules: Rules, seed: int, rules_on: bool) -> None:
        self.lockstep = Lockstep(rules, seed, full_every=1, rules_on=rules_on)
        self.lockstep.spec_state.lives[self.lockstep.rig.dom0] = 0
        self.names: dict[str, int] = {}

    def carry_out(self, call: Call) -> Answer:
        """Make a call and complete it."""
        try:
            arguments = named(dict(call.arguments), self.names)
        except Unbound:
            return UNBOUND
        if call.operation in AT_ONCE:
            answer = AT_ONCE[call.operation](self.lockstep, Call(call.operation, call.by, arguments))
            if self.lockstep.rules_on:
                self.lockstep.settle()
                self.lockstep.compare_all()
            return answer
        guest = self.lockstep.rig.guests[call.caller()[0]]
        for element in arguments.get("elements", ()):
            if "slot" in element:
                element.setdefault("addr", guest.slot_va(element["slot"]))
            if "handle" in element:
                element.setdefault("bus", 0)
        in_flight = start(self.lockstep, Call(call.operation, call.by, arguments))
        while in_flight in self.lockstep.flights:
            self.lockstep.advance(in_flight)
        code = self._code(in_flight, call.operation)
        if code == OKAY:
            forget(self.names, call, arguments)
        if code == OKAY and "gives" in arguments:
            at = GIVEN_AT[call.operation]
            given = (
                self.lockstep.word(in_flight, at)
                if at != EXTENTS_AT
                else abi.U64.unpack(self.lockstep.bytes(in_flight, at, 8))[0]
            )
            self.names[arguments["gives"]] = given
        return Answer(code)

    def _code(self, f: CallInFlight, operation: str) -> str:
        """The answer of the call."""
        if operation in STATUS_AT:
            return status_name(abi.STATUS.unpack(self.lockstep.bytes(f, STATUS_AT[operation], 2))[0])
        if operation in ("populate_physmap", "decrease_reservation"):
            return OKAY if f.rc == 1 else NOT_DONE.code
        return OKAY if f.rc == 0 else ERRNO.get(f.rc, str(f.rc))


class RulesAlone:
    """The rules alone, with their own picks; the only abstracted condition decided here is a guest's page limit."""

    def __init__(self, rules: Rules) -> None:
        self.sh = SpecState(rules, 0)
        self.names: dict[str, int] = {}
        self.privcmd = 0
        self.sh.step("open_privcmd", {"p": TOOLS, "x_x": self.privcmd})
        self.operations: dict[str, Callable[[Call, int, dict[str, Any]], str]] = {
            "createdomain": self._create,
            "populate_physmap": self._populate,
            "decrease_reservation": self._decrease,
            "write_entry": self._write_entry,
            "map_grant_ref": self._map,
            "unmap_grant_ref": self._unmap,
            "copy": self._copy,
            "swap_grant_ref": self._swap,
            "end_access": self._end_access,
            "access": self._access,
            "evtchn_alloc_unbound": self._alloc_unbound,
            "evtchn_bind_interdomain": self._bind,
            "evtchn_send": self._port,
            "evtchn_close": self._port,
        }

    def carry_out(self, call: Call) -> Answer:
        """Take the steps of a call, and then the rules' internal steps: flush, and free pages."""
        try:
            arguments = named(dict(call.arguments), self.names)
        except Unbound:
            return UNBOUND
        code = self.operations[call.operation](call, int(call.by[1]), arguments)
        if code == OKAY:
            forget(self.names, call, arguments)
        for d in range(4):
            self.sh.try_step("flush_tlb", {"d": d})
        for f in range(self.sh.size.heap):
            if self.sh.T["frame.use"][f] == self.sh.use["ram"] and not self.sh.T["frame.held"][f]:
                self.sh.try_step("free_page", {"f": f})
        return Answer(OKAY if code == "GNTST_okay" else code)

    def _give(self, arguments: dict[str, Any], value: int) -> None:
        if "gives" in arguments:
            self.names[arguments["gives"]] = value

    def _free_frame(self) -> int:
        """A free frame; scrubbed first if needed."""
        use = self.sh.T["frame.use"]
        f = next(f for f in range(self.sh.size.heap) if use[f] in (self.sh.use["free"], self.sh.use["unscrubbed"]))
        if use[f] == self.sh.use["unscrubbed"]:
            self.sh.step("scrub_page", {"f": f})
        return f

    def _create(self, call: Call, me: int, a: dict[str, Any]) -> str:
        spec, p = self.sh, {"p": TOOLS, "x": self.privcmd}
        code = spec.step(
            "privcmd_createdomain", {**p, "hvm": int(a["pvh"]), "d_d": a["domid"], "d_life": spec.free_life()}, ANY
        )
        if code != OKAY:
            return code
        for _ in range(FIXED):
            spec.build_page(self.privcmd, a["domid"], self._free_frame())
        spec.step("privcmd_unpausedomain", {**p, "d": a["domid"]})
        for r, number in enumerate(spec.size.refs):
            if number < abi.ENTRIES_V1:
                spec.step("setup_table", {"caller": a["domid"], "ref": r, "enough": int(number < abi.ENTRIES_V2)})
        return OKAY

    def _populate(self, call: Call, me: int, a: dict[str, Any]) -> str:
        T, ram = self.sh.T, self.sh.use["ram"]
        # Xen counts a freed page until nobody maps it any more.
        mine = [f for f in range(self.sh.size.heap) if T["frame.use"][f] == ram and T["frame.owner"][f] == me]
        if len(mine) >= FIXED + POOL:
            self.sh.step("populate_physmap", {"caller": me}, "ENOMEM", "ENOMEM")
            return NOT_DONE.code
        f = self._free_frame()
        self.sh.step("populate_physmap", {"caller": me, "f_f": f, "f_e": self.sh.free_epoch()})
        self._give(a, f)
        return OKAY

    def _decrease(self, call: Call, me: int, a: dict[str, Any]) -> str:
        done = self.sh.step("decrease_reservation", {"caller": me, "f": self.sh.frame(a["mfns"][0])}, ANY) == OKAY
        return OKAY if done else NOT_DONE.code

    def _write_entry(self, call: Call, me: int, a: dict[str, Any]) -> str:
        kind = self.sh.kind["permit_access" if a["flags"] & abi.GTF_TYPE_MASK == abi.GTF_PERMIT_ACCESS else "invalid"]
        return self.sh.step(
            "write_entry",
            {
                "owner": me,
                "ref": self.sh.ref(a["ref"]),
                "kind": kind,
                "grantee": self.sh.domain(a["domid"]),
                "frame": self.sh.frame(a["mfn"]),
                "readonly": int(bool(a["flags"] & abi.GTF_READONLY)),
                "part": 0,
            },
        )

    def _end_access(self, call: Call, me: int, a: dict[str, Any]) -> str:
        return self.sh.step("end_access", {"caller": me, "ref": self.sh.ref(a["ref"])}, ANY)

    def _swap(self, call: Call, me: int, a: dict[str, Any]) -> str:
        one, other = (self.sh.ref(ref) for ref in a["refs"])
        return self.sh.step("swap_grant_ref", {"caller": me, "a": one, "b": other}, ANY)

    def _map(self, call: Call, me: int, a: dict[str, Any]) -> str:
        spec, (e,) = self.sh, a["elements"]
        h = spec.free_handle()
        code = spec.step(
            "map_grant_ref",
            {
                "caller": me,
                "space": me,
                "dom": spec.domain(e["dom"]),
                "ref": spec.ref(e["ref"]),
                "writable": int(not e["flags"] & abi.GNTMAP_READONLY),
                "host": 1,
                "device": 0,
                "got_h": h,
                "this": 0,
            },
            ANY,
        )
        if code == OKAY:
            t = spec.free_translation()
            code = spec.step("map_grant_ref.insert", {"this": 0, "got_t": t, "got_u": spec.free_translation(t)}, ANY)
            spec.slots[me, e["slot"]] = t
            self._give(a, h)
        return code

    def _unmap(self, call: Call, me: int, a: dict[str, Any]) -> str:
        spec, (e,) = self.sh, a["elements"]
        t = spec.slots.get((me, e["slot"]))
        code = spec.step(
            "unmap_grant_ref",
            {
                "caller": me,
                "space": me,
                "h": e["handle"],
                "host": 1,
                "device": 0,
                "this": 0,
                "t": spec.free_translation() if t is None else t,
            },
            ANY,
        )
        if code == OKAY:
            spec.step("unmap_grant_ref.flush", {"this": 0})
            spec.step("unmap_grant_ref.complete", {"this": 0})
            del spec.slots[me, e["slot"]]
        return code

    def _copy(self, call: Call, me: int, a: dict[str, Any]) -> str:
        spec, (e,), this = self.sh, a["elements"], {"this": 0}
        spec.step("copy", {"caller": me, "space": me, **this})
        args: dict[str, int] = dict(this)
        for side in ("src", "dst"):
            by_ref, what = e[f"{side}_ref"], e[side]
            args |= {
                f"{side}_by_ref": int(by_ref),
                f"{side}_own": int(e[f"{side}_dom"] == abi.DOMID_SELF),
                f"{side}_dom": spec.domain(e[f"{side}_dom"]),
                f"{side}_ref": spec.ref(what) if by_ref else 0,
                f"{side}_frame": 0 if by_ref else spec.frame(what),
            }
        code = spec.step("copy.element", args, ANY)
        for step in ("copy.claim_source", "copy.claim_dest"):
            code = spec.step(step, this, ANY) if code == OKAY else code
        if code == OKAY:
            past = any(e[f"{side}_off"] + e["length"] > abi.PAGE_SIZE for side in ("src", "dst"))
            code = spec.step("copy.move", this, ANY, "GNTST_bad_copy_arg" if past else None)
        spec.step("copy.done", this)
        return code

    def _access(self, call: Call, me: int, a: dict[str, Any]) -> str:
        t = self.sh.slots.get((me, a["slot"]))
        if t is None or (a["write"] and not self.sh.T["translation.writable"][t]):
            return NOT_DONE.code
        return self.sh.step("store", {"space": me, "t": t}) if a["write"] else OKAY

    def _alloc_unbound(self, call: Call, me: int, a: dict[str, Any]) -> str:
        return self._new_port(call, a, {"caller": me, "d": me, "remote": self.sh.domain(a["remote"])}, me)

    def _bind(self, call: Call, me: int, a: dict[str, Any]) -> str:
        return self._new_port(call, a, {"caller": me, "e": self.sh.domain(a["dom"]), "o": a["port"] - 1}, me)

    def _new_port(self, call: Call, a: dict[str, Any], args: dict[str, int], me: int) -> str:
        state, n = self.sh.T["port.state"], self.sh.size.ports
        q = next((q for q in range(n) if not state[me * n + q]), None)
        code = self.sh.step(call.operation, args if q is None else {**args, "q_q": q}, ANY)
        if code == OKAY and q is not None:
            self._give(a, q + 1)
        return code

    def _port(self, call: Call, me: int, a: dict[str, Any]) -> str:
        return self.sh.step(call.operation, {"caller": me, "q": a["port"] - 1}, ANY)
