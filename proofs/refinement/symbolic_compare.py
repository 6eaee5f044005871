"""Is the implementation's state after a step the rules' state after it, at every place, and do its counters count?

Places are arbitrary: one domain, reference, frame and record of which nothing is known stand for all. Counters have no
counterpart in the rules; that a pin counter counts the records and calls that hold a pin, and a frame's counts its entries,
records' parts and calls, is assumed of the state before and proved of the state after. Definitions of the rules that
speak of all holders (`pinned_by_others`, `counted`) are read off these counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import z3

from impl.xen import abi
from model.ir import Use, Var
from proofs.refinement.symbolic import WIDTH, Expr, number
from proofs.refinement.symbolic_machine import Machine, base, cells_of, small, words_of
from proofs.refinement.symbolic_rules import RuleState, bits

Claims = list[tuple[str, Expr]]
ENTRY = ("entry.kind", "entry.grantee", "entry.frame", "entry.readonly")
PLAIN = ("domain.phase", "version", "in_table", *ENTRY, "status.reading",
         "status.writing", "frame.owner", "frame.held", "mapping.host", "mapping.device")
KEYS = {"domain": "d", "version": "d", "in_table": "dr", "entry": "dr", "status": "dr", "active": "dr", "frame": "f",
        "mapping": "h"}
HERE = {k: z3.BitVec("any_" + k, WIDTH) for k in "drfh"}


def zero_or(cond: Expr, value: Any) -> Expr:
    """The value where the condition holds, else 0."""
    return z3.If(cond, bits(value) if isinstance(value, int) else value, bits(0))


def classes(writable: Expr, host: Expr, device: Expr) -> Expr:
    """What the pin counters count of a record or call: one in each class it stands for."""
    return (zero_or(host, z3.If(writable, bits(abi.PIN_HSTW), bits(abi.PIN_HSTR)))
            + zero_or(device, z3.If(writable, bits(abi.PIN_DEVW), bits(abi.PIN_DEVR))))


@dataclass
class Holders:
    """Whose holding may change on this path: some records, some translations, both sides of one call."""

    start: RuleState
    call: Expr
    records: tuple[Expr, ...] = ()
    translations: tuple[Expr, ...] = ()
    held: Callable[[RuleState, Expr], Expr] | None = None  # the classes that a side of the call pins
    sides: tuple[Expr, ...] = field(default_factory=tuple)

    def record_pins(self, state: RuleState, d: Expr, r: Expr, leave_out: Expr | None = None) -> Expr:
        """The pin counter by the records, all of them (or all but one)."""
        total = base("active.pin", d, r)
        for h in self.records:
            for sign, where in ((1, state), (-1, self.start)):
                if sign == 1 and leave_out is not None and h.eq(leave_out):
                    continue
                pins = where.term(Use("pins", (Var("h", "Handle"), Var("d", "Domain"), Var("r", "Ref")), "bool"),
                                  {"h": h, "d": d, "r": r})
                part = zero_or(pins, classes(where.at("mapping.writable", h), where.at("mapping.host", h),
                                             where.at("mapping.device", h)))
                total = total + part if sign == 1 else total - part
        return total

    def pins(self, state: RuleState, d: Expr, r: Expr) -> Expr:
        """The pin counter by records and calls."""
        total = self.record_pins(state, d, r)
        for s in self.sides:
            mine = z3.And(state.at("hold.pin", self.call, s), state.at("hold.granter", self.call, s) == d,
                          state.at("hold.ref", self.call, s) == r)
            if self.held is not None:
                total = total + zero_or(mine, self.held(state, s))
        return total

    def references(self, state: RuleState, f: Expr, typed: bool = False) -> Expr:
        """The reference count (or the count of writable types) of a frame by entries, calls and the owner's own."""
        total = base("frame.tcount" if typed else "frame.count", f)
        for sign, where in ((1, state), (-1, self.start)):
            parts = [zero_or(z3.And(where.at("translation.present", t), where.at("translation.frame", t) == f,
                                    where.at("translation.writable", t) if typed else True), 1) for t in self.translations]
            parts += [zero_or(z3.And(where.at("hold.page", self.call, s), where.at("hold.frame", self.call, s) == f,
                                     where.at("hold.writable", self.call, s) if typed else True), 1) for s in self.sides]
            for part in parts:
                total = total + part if sign == 1 else total - part
        return total

    def readings(self, state: RuleState) -> RuleState:
        """The state with the definitions that speak of all holders read off the counts."""
        def others(writers: bool) -> Callable[[RuleState, tuple[Any, ...]], Expr]:
            def read(now: RuleState, args: tuple[Any, ...]) -> Expr:
                pins = self.record_pins(now, args[0], args[1])
                return pins & abi.PIN_WRITERS != 0 if writers else pins != 0
            return read

        def other_handles(writers: bool) -> Callable[[RuleState, tuple[Any, ...]], Expr]:
            def read(now: RuleState, args: tuple[Any, ...]) -> Expr:
                pins = self.record_pins(now, args[0], args[1], leave_out=args[2])
                return pins & abi.PIN_WRITERS != 0 if writers else pins != 0
            return read

        return replace(state, readings={
            "pinned_by_others": others(False), "write_pinned_by_others": others(True),
            "pinned_by_other_handles": other_handles(False), "write_pinned_by_other_handles": other_handles(True),
            "counted": lambda now, args: self.references(now, args[0]) > zero_or(now.at("frame.held", args[0]), 1)})


def arbitrary() -> Expr:
    """The places all claims are about: any there can be."""
    return z3.And(*[small(HERE[k], width) for k, width in (("d", 15), ("r", 32), ("f", 40), ("h", 40))])


def same_state(machine: Machine, rules: RuleState, holders: Holders, counts: bool = True) -> Claims:
    """What has to hold if the implementation is in the state that the rules are in. `counts`: the page counts, too."""
    now = machine.now()
    d, r, f, h = (HERE[k] for k in "drfh")
    claims: Claims = []
    kept = rules.functions["entry.kind"] in machine.entries_before
    if kept:
        claims += entries_kept(machine)
    for name in PLAIN:
        if not (kept and name in ENTRY):
            key = [HERE[k] for k in KEYS[name.split(".")[0]]]
            same = now.at(name, *key) == rules.at(name, *key)
            claims.append((name, z3.Or(same, machine.field("frame.count", f) == 0) if name == "frame.owner" else same))
    pin = machine.field("active.pin", d, r)
    for name in ("active.grantee", "active.frame"):
        claims.append((name, z3.Implies(pin != 0, now.at(name, d, r) == rules.at(name, d, r))))
    live = z3.Or(rules.at("mapping.host", h), rules.at("mapping.device", h))
    for name in ("writable", "granter", "granter_life", "ref", "mapper"):
        claims.append(("mapping." + name, z3.Implies(live, now.at("mapping." + name, h) == rules.at("mapping." + name, h))))
    claims.append(("pin counters", pin == holders.pins(rules, d, r)))
    claims += [("in-use bits", claim) for claim in in_use_bits(machine)]
    if counts:
        count = machine.field("frame.count", f)
        claims.append(("page references", count == holders.references(rules, f)))
        claims.append(("type references", machine.field("frame.tcount", f) == holders.references(rules, f, typed=True)))
        # A page nobody refers to any more is free; by the rules `free_page` may be taken now.
        claims.append(("frame.use", z3.Or(now.at("frame.use", f) == rules.at("frame.use", f), count == 0)))
    for domain in machine.destroyed:
        claims.append(("a living domain is gone", machine.field("domain.is_dying", number(domain.domid)) == 2))
    return claims


MASK = abi.GTF_READING | abi.GTF_WRITING


def entries_kept(machine: Machine) -> Claims:
    """The handler has written nothing into shared entries but in-use bits, and these only of entries it reached for."""
    claims: Claims = []
    for domain in machine.domains_known:
        refs = [a.ref for a in machine.actives() if a.owner.eq(number(domain.domid))]
        for cell, value in cells_of(domain).writes:
            claims.append(("entry: what was written", (value ^ cells_of(domain).first(cell)) & ~MASK == 0))
            claims.append(("entry: which was written", z3.And(
                machine.field("table.version", number(domain.domid)) == 1, z3.Or([cell == r << 2 for r in refs]))))
        for cell, _ in words_of(domain).writes:
            claims.append(("status word: which was written", z3.Or([cell == r for r in refs])))
    return claims


def in_use_bits(machine: Machine) -> Iterator[Expr]:
    """The bits follow the pin counters, if they did when the present step began (a guest may overwrite its own)."""
    def of(pin: Expr) -> Expr:
        return zero_or(pin != 0, abi.GTF_READING) | zero_or(pin & abi.PIN_WRITERS != 0, abi.GTF_WRITING)

    began = dict(machine.pins_at_start)
    for domain in machine.domains_known:
        old = machine.field("table.version", number(domain.domid)) == 1
        shared, words = cells_of(domain), words_of(domain)
        for active in machine.actives():
            if active.owner.eq(number(domain.domid)):
                r, now, first = active.ref, of(number(active.pin)), base("active.pin", active.owner, active.ref)
                yield z3.Implies(z3.And(old, shared.first(r << 2) & MASK == of(began.get(id(active), first))),
                                 shared.read(r << 2) & MASK == now)
                yield z3.Implies(z3.And(z3.Not(old), words.first(r) & MASK == of(first)), words.read(r) & MASK == now)
