"""The abstraction function from a symbolic machine to the rules' state, as a table of state functions."""

from __future__ import annotations

from collections.abc import Callable

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.domains import DEAD, DYING, Domain
from bulkhead.proofs.refinement.handlers.memory import Cells
from bulkhead.proofs.refinement.handlers.objects import NONE, base
from bulkhead.proofs.refinement.handlers.spec_terms import Function, RuleState, hash_of
from bulkhead.proofs.refinement.handlers.symbolic_xen import SymbolicXen, cells_of
from bulkhead.proofs.symbolic.engine import number
from bulkhead.proofs.symbolic.terms import BOOL, FALSE, And, If, Not, Or, Term, apply, eq
from bulkhead.proofs.symbolic.terms import number as constant

Field = Callable[..., Term]


def before(machine: SymbolicXen) -> RuleState:
    """The initial state, with entries as they were when the current atomic step began."""
    began = {id(d): cells_of(d).generation for d in machine.domains_known}
    state = _state(machine, base, lambda domain, cell: cells_of(domain).first(cell, began.get(id(domain), 0)))
    machine.entries_before.append(state.functions["entry.kind"])
    return state


def now(machine: SymbolicXen) -> RuleState:
    """The current state."""
    return _state(machine, machine.field, lambda domain, cell: cells_of(domain).read(cell))


def _entry(machine: SymbolicXen, value: Field, cell: Callable[[Domain, Term], Term], field: str) -> Function:
    """A field of grant entries, in both layouts."""
    members = {m: constant(i) for i, m in enumerate(machine.system.enums["Kind"])}

    def at(d: Term, where: Term) -> Term:
        found = Cells("shared", d).first(where)
        for domain in machine.domains_known:
            held = cell(domain, where)
            if d is number(domain.domid):
                return held
            found = If(eq(d, number(domain.domid)), held, found)
        return found

    def read(d: Term, r: Term) -> Term:
        old = eq(value("table.version", d), constant(1))
        if field == "frame":
            return If(old, _wide(at, d, (r << 2) + 2, 2), _wide(at, d, (r << 3) + 4, 4))
        word = 1 if field == "grantee" else 0
        read = If(old, at(d, (r << 2) + word), at(d, (r << 3) + word))
        kind = read & abi.GTF_TYPE_MASK
        match field:
            case "grantee":
                return read
            case "readonly":
                return (read & abi.GTF_READONLY) != 0
            case "part":
                return (read & abi.GTF_SUB_PAGE) != 0
        return If(
            eq(kind, constant(abi.GTF_PERMIT_ACCESS)),
            members["permit_access"],
            If(eq(kind, constant(abi.GTF_TRANSITIVE)), members["transitive"], members["invalid"]),
        )

    return read


def _wide(at: Callable[[Term, Term], Term], d: Term, first: Term, cells: int) -> Term:
    value = at(d, first)
    for i in range(1, cells):
        value = value | at(d, first + i) << (16 * i)
    return value


def _state(machine: SymbolicXen, value: Field, cell: Callable[[Domain, Term], Term]) -> RuleState:
    """The table that connects the implementation's state with the rules' state functions."""
    enum = {m: constant(i) for members in machine.system.enums.values() for i, m in enumerate(members)}

    def phase(d: Term) -> Term:
        dying = value("domain.is_dying", d)
        return If(
            Not(base("domain.exists", d)),
            enum["absent"],
            If(
                eq(dying, constant(DEAD)),
                enum["dead"],
                If(
                    eq(dying, constant(DYING)),
                    enum["dying"],
                    If(base("domain.finished", d), enum["running"], enum["building"]),
                ),
            ),
        )

    def use(f: Term) -> Term:
        gone = Or(Not(base("frame.known", f)), eq(value("frame.count", f), constant(0)))
        return If(
            gone,
            enum["free"],
            If(
                value("frame.xenheap", f),
                enum["status_frame"],
                If(eq(value("frame.owner", f), NONE), enum["in_transfer"], enum["ram"]),
            ),
        )

    def fits(d: Term, r: Term, version: Term) -> Term:
        frames, present = base("table.frames", d), If(eq(value("table.version", d), constant(1)), enum["v1"], enum["v2"])
        other = If(eq(version, enum["v1"]), frames << 9, frames << 8)
        return And(r >= 0, r < If(eq(version, present), value("table.entries", d), other))

    functions: dict[str, Function] = {
        "domain.phase": phase,
        "domain.life": lambda d: base("domain.life", d),
        "version": lambda d: If(eq(value("table.version", d), constant(1)), enum["v1"], enum["v2"]),
        "fits": fits,
        "xsm_grant": lambda a, b: apply("xsm_grant", (a, b), BOOL),
        **{f"entry.{name}": _entry(machine, value, cell, name) for name in ("kind", "grantee", "readonly", "frame", "part")},
        "status.reading": lambda d, r: value("active.pin", d, r) != 0,
        "status.writing": lambda d, r: (value("active.pin", d, r) & abi.PIN_WRITERS) != 0,
        "active.grantee": lambda d, r: value("active.domid", d, r),
        "active.frame": lambda d, r: value("active.frame", d, r),
        "active.part": lambda d, r: value("active.sub_page", d, r),
        "frame.use": use,
        "frame.owner": lambda f: value("frame.owner", f),
        "frame.held": lambda f: value("frame.allocated", f),
        "mapping.taken": lambda h: FALSE,
        "mapping.host": lambda h: (value("record.flags", h) & abi.GNTMAP_HOST_MAP) != 0,
        "mapping.device": lambda h: (value("record.flags", h) & abi.GNTMAP_DEVICE_MAP) != 0,
        "mapping.writable": lambda h: eq(value("record.flags", h) & abi.GNTMAP_READONLY, constant(0)),
        "mapping.mapper": lambda h: number(machine.caller.domid),
        "mapping.granter": lambda h: value("record.domid", h),
        "mapping.granter_life": lambda h: value("record.life", h),
        "mapping.ref": lambda h: value("record.ref", h),
        "at": lambda c: constant(hash_of("idle")),
        **{f"hold.{name}": (lambda c, s: FALSE) for name in ("page", "pin", "awaiting_flush")},
        # Transitive grants are switched off: no use is one, and nobody asks what is behind an entry.
        "middle.pin": lambda c, s: FALSE,
        # Domains are paravirtual: their entries have no guest frame numbers.
        "translated": lambda d: FALSE,
        "relay.yes": lambda d, r: FALSE,
        "behind.dom": lambda d, r: d,
        "behind.ref": lambda d, r: r,
    }
    return RuleState(machine.system, functions)
