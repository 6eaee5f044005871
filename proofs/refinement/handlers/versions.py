"""Refinement of GNTTABOP_set_version.

Bounds: a table of one to eight grant frames, so one status frame, and two reserved entries (the rules have
two; the implementation, eight). Loops over all entries are run for one representative: the entry that ends the
loop, if there is one, else the arbitrary entry of the obligations.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from bulkhead.impl.xen import abi, grant_admin, grant_entries
from bulkhead.impl.xen.frames import PGT_WRITABLE
from bulkhead.proofs.refinement.handlers.abstraction import before
from bulkhead.proofs.refinement.handlers.objects import base
from bulkhead.proofs.refinement.handlers.obligations import HERE, MASK, Holders, same_state
from bulkhead.proofs.refinement.handlers.path import THIS, Path, layouts, length, standing_in
from bulkhead.proofs.refinement.handlers.spec_terms import Reading, RuleState
from bulkhead.proofs.refinement.handlers.symbolic_xen import SymbolicXen, cells_of, words_of
from bulkhead.proofs.symbolic.engine import Engine, Int, number
from bulkhead.proofs.symbolic.terms import FALSE, ULE, ULT, And, If, Implies, Not, Or, Term, boolean, eq, variable
from bulkhead.proofs.symbolic.terms import number as constant

RESERVED = 2
CODES = {0: "okay", -abi.EBUSY: "EBUSY", -abi.EAGAIN: "EAGAIN", -abi.ERANGE: "ERANGE", -abi.ENOMEM: "ENOMEM"}
WITNESS = variable("entry_that_ends_the_loop", bits=32)
STATUS = variable("status_frame", bits=40)


class Loop:
    """`range` with a symbolic bound: one representative iteration."""

    def __init__(self) -> None:
        self.early = False
        self.through = True

    def __call__(self, *bounds: Any) -> Any:
        if all(isinstance(bound, int) for bound in bounds):
            return range(*bounds)
        return self._iterations(*bounds)

    def _iterations(self, first: Any, beyond: Any) -> Iterator[Int]:
        engine = Engine.running()
        self.early, self.through = engine.choose("the loop ends early"), False
        ref = WITNESS if self.early else HERE["r"]
        inside = And(ref >= number(first), ref < number(beyond))
        if self.early:
            engine.assume(inside)
        if self.early or engine.decide(inside):
            yield Int(ref)
        self.through = True

    def check(self) -> None:
        """Exactly the iteration that was chosen to end the loop must have done so."""
        if self.early == self.through:
            Engine.running().abandon()


def owned_status_frame(path: Path) -> Any:
    """The status frame of a version 2 table: Xen's own page, shared with the caller."""
    m, engine = path.machine, path.engine
    m.xen_pages.add(STATUS)
    frame = m.new_frame(STATUS)
    engine.assume(
        And(
            base("frame.known", STATUS),
            base("frame.xenheap", STATUS),
            base("frame.allocated", STATUS),
            eq(base("frame.owner", STATUS), number(m.caller.domid)),
            base("frame.tcount", STATUS) >= 1,
            ULE(base("frame.tcount", STATUS), base("frame.count", STATUS)),
            eq(base("frame.ptype", STATUS), constant(PGT_WRITABLE)),
            base("domain.xenheap_pages", number(m.caller.domid)) >= 1,
        )
    )
    list.append(m.caller.grant_table.status, frame)  # it exists already, with its content
    return frame


def quantified(m: SymbolicXen, state: RuleState, loop: Loop) -> RuleState:
    """The elements for quantifiers over references and frames: the reserved ones, the representatives (or the one that ends
    the loop), and the status frame."""

    def referenced(at: RuleState, args: tuple[Any, ...]) -> Term:
        held = at.at("frame.held", args[0])
        return base("frame.count", args[0]) - If(held, constant(1), constant(0)) > 0

    readings: dict[str, Reading] = {"referenced": referenced, "counted": referenced, "counted_besides": referenced}
    refs = (*[constant(i) for i in range(RESERVED)], WITNESS if loop.early else HERE["r"])
    return replace(
        state,
        readings=readings,
        elements={"Ref": refs, "Frame": (STATUS, HERE["f"]), "Translation": ()},  # none of a map that Xen keeps
        functions={**state.functions, "gref_console": lambda: constant(0), "gref_xenstore": lambda: constant(1)},
    )


def set_version(path: Path) -> None:
    """Any requested version, from either version."""
    m, engine = path.machine, path.engine
    d = number(m.caller.domid)
    wanted = path.argument("version", 32)
    engine.assume(ULE(base("table.frames", d), constant(8)))
    engine.assume(ULT(HERE["r"], base("table.actives", d)))  # a reference that there can be
    for any_ref in (WITNESS, HERE["r"]):
        engine.assume(Implies(any_ref >= base("table.entries", d), eq(base("active.pin", d, any_ref), constant(0))))
    if engine.decide(eq(base("table.version", d), constant(2))):
        owned_status_frame(path)
        # A guest may write its status frames. Other bits than those of use come to version 1 as if it had written the entry.
        words = words_of(m.caller)
        engine.assume(And([eq(words.first(constant(ref)) & ~MASK, constant(0)) for ref in range(RESERVED)]))
    # No other page of Xen is a status frame of the caller; devices and TLBs have been flushed.
    known = eq(HERE["f"], STATUS) if len(m.caller.grant_table.status) else FALSE
    engine.assume(Implies(base("frame.xenheap", HERE["f"]), Or(known, base("frame.owner", HERE["f"]) != d)))
    loop = Loop()
    start = quantified(m, before(m), loop)
    epoch = variable("epoch")
    engine.assume(Not(start.at("past", epoch)))
    holders = Holders(start, THIS)
    for ref in range(RESERVED):
        m.caller.grant_table.active[ref]  # their in-use bits must be copied
    with standing_in(
        (grant_admin, "NR_RESERVED_ENTRIES", RESERVED),
        (grant_admin, "range", loop),
        (grant_admin, "len", length),
        (grant_entries, "len", length),
        *layouts(grant_admin),
        *layouts(grant_entries),
    ):
        status, version = grant_admin.set_version(m.vcpu, wanted)  # type: ignore[arg-type]
    loop.check()
    path.prove("set_version", [("the version told", eq(number(version), number(m.caller.grant_table.version)))])
    was = quantified(m, before(m), loop)
    if status == -abi.EINVAL:
        path.prove(
            "set_version = EINVAL",
            [
                ("the version asked for", Not(Or(eq(number(wanted), constant(1)), eq(number(wanted), constant(2))))),
                *same_state(m, was, holders),
            ],
        )
        return
    to_two = eq(number(wanted), constant(2))
    too_wide = Or(
        [
            And(
                eq(was.at("entry.kind", d, constant(r)), constant(m.system.enums["Kind"].index("permit_access"))),
                (was.at("entry.frame", d, constant(r)) >> 32) != 0,
            )
            for r in range(RESERVED)
        ]
    )
    args = {"caller": d, "f": variable("new_frame", bits=40), "e": epoch}
    two = path.take(was, "set_version_2", args, {"f": boolean(status == -abi.ENOMEM), "e": FALSE})
    one = path.take(
        was, "set_version_1", args, {"a reserved grant names a frame whose number version 1 cannot hold": too_wide}
    )
    for ends, asked, name in ((two, to_two, "set_version_2"), (one, Not(to_two), "set_version_1")):
        if not engine.decide(asked):
            continue
        # A request for the current version changes nothing, and succeeds.
        already = ends.with_code("GNTST_okay")
        code = CODES[status]
        okay = Or(ends.okay, already) if status == 0 else ends.with_code(code)
        after = ends.state if status == 0 and not engine.decide(already) else was
        state = same_state(m, after, replace(holders, start=was), bits_lost=partial(_bits_of_owner, m, was))
        path.prove(f"{name} = {code}", [("the status", okay), *state])


def _bits_of_owner(m: SymbolicXen, was: RuleState, d: Term, r: Term) -> Term:
    """Version 1 has the in-use bits in the entry: what the owner wrote there in version 2 counts.

    A reserved entry that is no grant any more comes without, in use or not; a grant whose flags had them comes with them.
    """
    grant = eq(was.at("entry.kind", d, r), constant(m.system.enums["Kind"].index("permit_access")))
    written = (cells_of(m.caller).first(r << 3) & MASK) != 0
    one_now = eq(m.field("table.version", d), constant(1))
    return And(eq(base("table.version", d), constant(2)), one_now, Or(Not(grant), written))
