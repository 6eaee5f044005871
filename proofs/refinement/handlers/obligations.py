"""Proof obligations: after a step, the implementation's state abstracts to the rules' state, and its counters are right.

Places are arbitrary: one unconstrained domain, reference, frame and record represent all. Counters have no
counterpart in the rules; their invariant (a pin counter counts the records and calls that hold a pin, a frame's counts its
owner, entries and calls) is assumed before the step and proved after it. Definitions of the rules that quantify over
all holders (`pinned_by_others`, `counted`) are computed from these counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from bulkhead.impl.xen import abi
from bulkhead.model.ir import Use, Var
from bulkhead.proofs.refinement.handlers.abstraction import now
from bulkhead.proofs.refinement.handlers.objects import base
from bulkhead.proofs.refinement.handlers.spec_terms import RuleState
from bulkhead.proofs.refinement.handlers.symbolic_xen import SymbolicXen, cells_of, ones, words_of
from bulkhead.proofs.symbolic.engine import number
from bulkhead.proofs.symbolic.terms import FALSE, TRUE, ZERO, And, If, Implies, Not, Or, Term, boolean, eq, variable
from bulkhead.proofs.symbolic.terms import number as constant

Claims = list[tuple[str, Term]]
EntryTerm = Callable[[Term, Term], Term]  # of a domain and a reference
ENTRY = ("entry.kind", "entry.grantee", "entry.frame", "entry.readonly", "entry.part")
PLAIN = (
    "domain.phase",
    "version",
    "fits",
    *ENTRY,
    "status.reading",
    "status.writing",
    "frame.owner",
    "frame.held",
    "mapping.host",
    "mapping.device",
)
KEYS = {
    "domain": "d",
    "version": "d",
    "fits": "drv",
    "entry": "dr",
    "status": "dr",
    "active": "dr",
    "frame": "f",
    "mapping": "h",
}
# The places of all obligations: arbitrary ones.
HERE = {k: variable("any_" + k, bits=bits) for k, bits in (("d", 15), ("r", 32), ("f", 40), ("h", 40), ("v", 1))}
MASK = abi.GTF_READING | abi.GTF_WRITING


def zero_or(cond: Term, value: int) -> Term:
    """The number if the condition holds, else 0."""
    return If(cond, constant(value), ZERO)


def classes(writable: Term, host: Term, device: Term) -> Term:
    """The contribution of a record or call to the pin counters: one in each of its classes."""
    return (
        zero_or(And(host, writable), abi.PIN_HSTW)
        + zero_or(And(host, Not(writable)), abi.PIN_HSTR)
        + zero_or(And(device, writable), abi.PIN_DEVW)
        + zero_or(And(device, Not(writable)), abi.PIN_DEVR)
    )


def pins_of(state: RuleState, h: Term, d: Term, r: Term) -> Term:
    """The rules' `pins`: does the record pin that entry?"""
    return state.term(
        Use("pins", (Var("h", "Handle"), Var("d", "Domain"), Var("r", "Ref")), "bool"), {"h": h, "d": d, "r": r}
    )


@dataclass
class Holders:
    """The holders that may change on this path: some records, some translations, both sides of one call."""

    start: RuleState
    call: Term
    records: tuple[Term, ...] = ()
    translations: tuple[Term, ...] = ()
    # The parts (writable, host, device) that a side of the call pins.
    held: Callable[[RuleState, Term], tuple[Term, Term, Term]] | None = None
    sides: tuple[Term, ...] = field(default_factory=tuple)

    def record_pins(self, state: RuleState, d: Term, r: Term, leave_out: Term | None = None) -> Term:
        """The pin counter computed from all records (or all but one)."""
        total = base("active.pin", d, r) - self._call_pins(self.start, d, r)
        for h in self.records:
            if leave_out is not h:
                total = total + self._pins_of_record(state, h, d, r)
            total = total - self._pins_of_record(self.start, h, d, r)
        return total

    @staticmethod
    def _pins_of_record(state: RuleState, h: Term, d: Term, r: Term) -> Term:
        pins = pins_of(state, h, d, r)
        return classes(
            state.at("mapping.writable", h), And(pins, state.at("mapping.host", h)), And(pins, state.at("mapping.device", h))
        )

    def _call_pins(self, state: RuleState, d: Term, r: Term) -> Term:
        total = ZERO
        for s in self.sides:
            mine = And(
                state.at("hold.pin", self.call, s),
                eq(state.at("hold.granter", self.call, s), d),
                eq(state.at("hold.ref", self.call, s), r),
            )
            if self.held is not None:
                writable, host, device = self.held(state, s)
                total = total + classes(writable, And(mine, host), And(mine, device))
        return total

    def pins(self, state: RuleState, d: Term, r: Term) -> Term:
        """The pin counter computed from records and calls."""
        return self.record_pins(state, d, r) + self._call_pins(state, d, r)

    def references(self, state: RuleState, f: Term, typed: bool = False) -> Term:
        """The reference count (or writable type count) of a frame, computed from entries, calls and its owner."""

        def parts(where: RuleState) -> Term:
            own = [] if typed else [where.at("frame.held", f)]
            paths = [
                And(
                    where.at("translation.present", t),
                    eq(where.at("translation.frame", t), f),
                    where.at("translation.writable", t) if typed else TRUE,
                )
                for t in self.translations
            ]
            calls = [
                And(
                    where.at("hold.page", self.call, s),
                    eq(where.at("hold.frame", self.call, s), f),
                    where.at("hold.writable", self.call, s) if typed else TRUE,
                )
                for s in self.sides
            ]
            return ones(*own, *paths, *calls)

        return base("frame.tcount" if typed else "frame.count", f) + (parts(state) - parts(self.start))

    def readings(self, state: RuleState) -> RuleState:
        """The state, with definitions over all holders computed from the counts."""

        def pinned(writers: bool, but_one: bool) -> Callable[[RuleState, tuple[Any, ...]], Term]:
            def read(at: RuleState, args: tuple[Any, ...]) -> Term:
                pins = self.record_pins(at, args[0], args[1], args[2] if but_one else None)
                return (pins & abi.PIN_WRITERS if writers else pins) != 0

            return read

        def counted(at: RuleState, args: tuple[Any, ...]) -> Term:
            return self.references(at, args[0]) - zero_or(at.at("frame.held", args[0]), 1) > 0

        return replace(
            state,
            readings={
                "pinned_by_others": pinned(False, False),
                "write_pinned_by_others": pinned(True, False),
                "pinned_by_other_handles": pinned(False, True),
                "write_pinned_by_other_handles": pinned(True, True),
                "counted": counted,
            },
        )


def never(d: Term, r: Term) -> Term:
    """Of no entry."""
    return FALSE


def same_state(
    machine: SymbolicXen, rules: RuleState, holders: Holders, counts: bool = True, bits_lost: EntryTerm = never
) -> Claims:
    """The obligations for equal states of implementation and rules.

    `counts`: the page counts, too. `bits_lost`: entries that their owner took the in-use bits of, by its own doing.
    """
    present = now(machine)
    d, r, f, h = (HERE[k] for k in "drfh")
    claims: Claims = []
    kind = constant(machine.system.enums["Kind"].index("permit_access"))
    permits = eq(rules.at("entry.kind", d, r), kind)
    kept = rules.functions["entry.kind"] in machine.entries_before
    if kept:
        claims += entries_kept(machine)
    for name in PLAIN:
        if kept and name in ENTRY:
            continue
        key = [HERE[k] for k in KEYS[name.split(".")[0]]]
        same = eq(present.at(name, *key), rules.at(name, *key))
        if name == "frame.owner":
            same = Or(same, eq(machine.field("frame.count", f), ZERO))
        elif name == "entry.readonly":  # compared while the entry grants, or is in use
            same = Implies(Or(permits, present.at("status.reading", d, r)), same)
        elif name in ENTRY and name != "entry.kind":
            same = Implies(permits, same)
        claims.append((name, same))
    pin = machine.field("active.pin", d, r)
    for name in ("active.grantee", "active.frame", "active.part"):
        claims.append((name, Implies(pin != 0, eq(present.at(name, d, r), rules.at(name, d, r)))))
    live = Or(rules.at("mapping.host", h), rules.at("mapping.device", h))
    for name in ("writable", "granter", "granter_life", "ref", "mapper"):
        name = "mapping." + name
        claims.append((name, Implies(live, eq(present.at(name, h), rules.at(name, h)))))
    claims.append(("pin counters", eq(pin, holders.pins(rules, d, r))))
    claims += [("in-use bits", claim) for claim in in_use_bits(machine, bits_lost)]
    if counts:
        count = machine.field("frame.count", f)
        claims.append(("page references", eq(count, holders.references(rules, f))))
        # Xen's own pages never change their type.
        claims.append(
            (
                "type references",
                Or(
                    machine.field("frame.xenheap", f),
                    base("frame.xenheap", f),
                    eq(machine.field("frame.tcount", f), holders.references(rules, f, typed=True)),
                ),
            )
        )
        # A page without references is free; in the rules `free_page` is enabled now.
        claims.append(("frame.use", Or(eq(present.at("frame.use", f), rules.at("frame.use", f)), eq(count, ZERO))))
    for domain in machine.destroyed:
        claims.append(("a living domain is gone", eq(machine.field("domain.is_dying", number(domain.domid)), constant(2))))
    return claims


def entries_kept(machine: SymbolicXen) -> Claims:
    """The handler has written only in-use bits to shared entries, and only to accessed entries."""
    claims: Claims = []
    for domain in machine.domains_known:
        refs = [a.ref for a in machine.actives() if a.owner is number(domain.domid)]
        cells = cells_of(domain)
        claims.append(("entries are kept", boolean(not cells.zeroed and not words_of(domain).zeroed)))
        for cell, value in cells.writes:
            claims.append(("entry: what was written", eq((value ^ cells.first(cell)) & ~MASK, ZERO)))
            one = eq(machine.field("table.version", number(domain.domid)), constant(1))
            claims.append(("entry: which was written", And(one, Or([eq(cell, r << 2) for r in refs]))))
        for cell, _ in words_of(domain).writes:
            claims.append(("status word: which was written", Or([eq(cell, r) for r in refs])))
    return claims


def bits_of_pin(pin: Term) -> Term:
    """GTF_reading and GTF_writing, computed from the pin counters."""
    return zero_or(pin != 0, abi.GTF_READING) + zero_or((pin & abi.PIN_WRITERS) != 0, abi.GTF_WRITING)


def in_use_bits(machine: SymbolicXen, lost: EntryTerm = never) -> Iterator[Term]:
    """The bits match the pin counters if they did at the start of the step (a guest may overwrite its own)."""
    for domain in machine.domains_known:
        d = number(domain.domid)
        was = eq(base("table.version", d), constant(1))
        present = eq(machine.field("table.version", d), constant(1))
        shared, words = cells_of(domain), words_of(domain)
        for active in machine.actives():
            if active.owner is d:
                r, first = active.ref, base("active.pin", d, active.ref)
                began = machine.pins_at_start.get(id(active), first)
                right = If(
                    was, eq(shared.first(r << 2) & MASK, bits_of_pin(began)), eq(words.first(r) & MASK, bits_of_pin(first))
                )
                bits = If(present, shared.read(r << 2), words.read(r)) & MASK
                yield Implies(And(right, Not(lost(d, r))), eq(bits, bits_of_pin(number(active.pin))))
