"""Refinement of GNTTABOP_copy, in parts: claiming a side, releasing both sides, and the rest of one element.

`copy_one` is run with contracts for `_claim` and `_unclaim` (a claim fails and holds nothing, or returns a frame and the
part of it that may be used); the other runs prove the contracts. Transitive grants are switched off, and we assume that
while an entry is being claimed its granter does not make it transitive, or a transitive one not.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any

from bulkhead.impl.xen import abi, grant_copy, grant_entries
from bulkhead.impl.xen.frames import PGT_WRITABLE
from bulkhead.proofs.refinement.handlers.abstraction import before
from bulkhead.proofs.refinement.handlers.memory import Content
from bulkhead.proofs.refinement.handlers.objects import NONE, base
from bulkhead.proofs.refinement.handlers.obligations import Claims, Holders, same_state
from bulkhead.proofs.refinement.handlers.path import (
    ROUNDS,
    THIS,
    Path,
    code_of,
    layouts,
    side,
    standing_in,
    status_of,
)
from bulkhead.proofs.refinement.handlers.spec_terms import Ends, Function, RuleState
from bulkhead.proofs.refinement.handlers.symbolic_xen import SymbolicXen, cells_of, ones
from bulkhead.proofs.symbolic.engine import Int, Unsupported, number
from bulkhead.proofs.symbolic.terms import FALSE, TRUE, UGE, And, If, Not, Or, Term, boolean, eq, variable
from bulkhead.proofs.symbolic.terms import number as constant

SELF = constant(abi.DOMID_SELF)
SWITCHED_OFF = "transitive grants are switched off, by Xen's command line"
AT_TOP = "a pin counter is at its top"
IN_THE_WAY = "another part of the page is in use, or the page is in use as a page table"
OUT_OF_PAGE = "the bytes do not lie within one page"
OUT_OF_PART = "the bytes do not lie within the parts granted"


def in_call(state: RuleState, caller: Term, **values: Term) -> RuleState:
    """The state with this call of the caller in flight, with these locals."""
    given: dict[str, Function] = {
        "issuer.by": lambda c: caller,
        "copy.keep": lambda c: FALSE,
        **{name.replace("__", "."): (lambda c, value=value: value) for name, value in values.items()},
    }
    return replace(state, functions={**state.functions, **given})


@dataclass(frozen=True)
class Side:
    """One side of a copy, as given in an element."""

    name: str  # its name in the rules
    short: str
    by_ref: bool
    own: bool
    domid: Int
    ptr: Int
    domain: Any

    @property
    def ref(self) -> Term:
        """The reference, if the side is given by one."""
        return number(self.ptr) & 0xFFFFFFFF

    @property
    def writes(self) -> bool:
        """Is this the destination?"""
        return self.name == "dest"

    def locals(self) -> dict[str, Term]:
        """The call's record of it."""
        p = "copy__" + self.short
        return {
            p + "_by_ref": boolean(self.by_ref),
            p + "_own": boolean(self.own),
            p + "_dom": number(self.domid),
            p + "_ref": self.ref,
            p + "_frame": number(self.ptr),
        }


def named_side(path: Path, name: str) -> Side:
    """A side of a domain that exists."""
    short = "dst" if name == "dest" else "src"
    domid, ptr = path.argument(short + "_domid", 16), path.argument(short + "_ptr", 64)
    own = path.engine.decide(eq(number(domid), SELF))
    domain = path.machine.caller if own else path.machine.domain(number(domid))
    return Side(name, short, path.engine.choose(short + " by reference"), own, domid, ptr, domain)


def transitive(machine: SymbolicXen) -> list[Term]:
    """The transitive entries among the accessed version 2 entries."""
    return [
        And(
            eq(machine.field("table.version", number(d.domid)), constant(2)),
            eq(cells_of(d).read(a.ref << 3) & abi.GTF_TYPE_MASK, constant(abi.GTF_TRANSITIVE)),
        )
        for d in machine.domains_known
        for a in d.grant_table.active.known  # type: ignore[attr-defined]
    ]


def member(machine: SymbolicXen, name: str) -> Term:
    """A member of an enumeration of the rules."""
    return next(constant(names.index(name)) for names in machine.system.enums.values() if name in names)


def claim(path: Path, name: str) -> None:
    """`_claim` of one side."""
    m, engine = path.machine, path.engine
    s = named_side(path, name)
    d = number(s.domain.domid)
    start = in_call(before(m), number(m.caller.domid), **s.locals())
    held = (boolean(s.writes), TRUE, FALSE)
    holders = Holders(start, THIS, sides=(side(name),), held=lambda state, which: held)
    pin = base("active.pin", d, s.ref)
    top = And(boolean(s.by_ref), (pin & (abi.PIN_HSTW if s.writes else abi.PIN_HSTR) << 7) != 0)
    rounds, given_up = 0, FALSE
    with standing_in((grant_entries, "STATUS_RETRIES", ROUNDS), *layouts(grant_entries)):
        call = grant_copy._claim(m, m.vcpu, s.domid, s.domain, s.ptr, s.by_ref, not s.writes)  # type: ignore[arg-type]
        try:
            while True:
                marker = next(call)
                headers, were = m.headers(), transitive(m)
                m.guests_write()
                for was, is_now in zip(were, transitive(m), strict=True):
                    engine.assume(eq(was, is_now))
                rounds += marker == "set_status.cmpxchg"
                given_up = And(boolean(rounds >= ROUNDS), *[a != b for a, b in zip(headers, m.headers(), strict=True)])
        except StopIteration as stop:
            status, frame, first, size = stop.value
    now = holders.readings(path.entries_now(start))
    part, first_now, size_now = bounds_in_entry(m, s, d)
    write_joins = And(pin != 0, eq(pin & abi.PIN_WRITERS, constant(0))) if s.writes else FALSE
    other_part = And(
        boolean(s.by_ref),
        write_joins,
        base("active.sub_page", d, s.ref),
        Or(
            base("active.start", d, s.ref) != If(part, first_now, constant(0)),
            base("active.length", d, s.ref) != If(part, size_now, constant(4096)),
        ),
    )
    in_entry = If(eq(pin, constant(0)), now.at("entry.frame", d, s.ref), base("active.frame", d, s.ref))
    wanted = in_entry if s.by_ref else number(s.ptr)
    page_table = And(boolean(s.writes), base("frame.tcount", wanted) > 0, base("frame.ptype", wanted) != PGT_WRITABLE)
    is_transitive = And(
        boolean(s.by_ref),
        eq(now.at("version", d), member(m, "v2")),
        eq(now.at("entry.kind", d, s.ref), member(m, "transitive")),
    )
    choices = {
        AT_TOP: Or(top, given_up),
        SWITCHED_OFF: is_transitive,
        IN_THE_WAY: Or(other_part, page_table),
    }
    ends = path.take(now, f"copy.claim_{name}", {"this": THIS}, choices)
    where = f"copy.claim_{name} = {code_of(status_of(status))}"
    if frame is None:
        path.prove(where, [("the status", ends.with_code(code_of(status))), *same_state(m, now, holders)])
        return
    pinned = And(boolean(s.by_ref), pin != 0)
    bounds = And(boolean(s.by_ref), part)
    begins = If(pinned, base("active.start", d, s.ref), If(bounds, first_now, constant(0)))
    lasts = If(pinned, base("active.length", d, s.ref), If(bounds, size_now, constant(4096)))
    path.prove(
        where,
        [
            ("the status", And(ends.okay, boolean(status == 0))),
            *same_state(m, ends.state, holders),
            ("the frame", eq(number(frame.mfn), ends.state.at("hold.frame", THIS, side(name)))),
            ("where the part begins", eq(number(first), begins)),
            ("how long the part is", eq(number(size), lasts)),
        ],
    )


def bounds_in_entry(m: SymbolicXen, s: Side, d: Term) -> tuple[Term, Term, Term]:
    """Does the entry currently grant a part of a page, and which?"""
    if not s.by_ref:
        return FALSE, constant(0), constant(0)
    cells, first = cells_of(s.domain), s.ref << 3
    part = And(eq(base("table.version", d), constant(2)), (cells.read(first) & abi.GTF_SUB_PAGE) != 0)
    return part, cells.read(first + 2), cells.read(first + 3)


def let_go(path: Path, name: str) -> None:
    """`_unclaim` of one side; all other holders, also the element's other side, are counted as others."""
    m = path.machine
    s, frame = named_side(path, name), m.frame(variable("held_frame", bits=40))
    start = in_call(before(m), number(m.caller.domid))
    values: dict[str, Term] = {
        "page": TRUE,
        "pin": boolean(s.by_ref),
        "granter": number(s.domain.domid),
        "ref": s.ref,
        "frame": frame.key,
        "writable": boolean(s.writes),
    }
    held: dict[str, Function] = {
        "hold." + field: (
            lambda call, which, field=field, value=value: If(
                eq(which, side(name)),
                value,
                FALSE if field in ("page", "pin") else before(m).at("hold." + field, call, which),
            )
        )
        for field, value in values.items()
    }
    start = replace(start, functions={**start.functions, **held})
    holders = Holders(start, THIS, sides=(side(name),), held=lambda state, which: (boolean(s.writes), TRUE, FALSE))
    _assume_held(path, s, frame.key)
    with standing_in(*layouts(grant_entries)):
        grant_copy._unclaim(m, s.domain, s.ptr, s.by_ref, frame, not s.writes)  # type: ignore[arg-type]
    ends = path.take(holders.readings(start), "copy.done", {"this": THIS}, {})
    path.prove("copy.done", same_state(m, ends.state, holders))


def _assume_held(path: Path, s: Side, f: Term) -> None:
    """A side holds its references: a page reference, a writable type, and a pin of the entry that grants the page."""
    assume, d = path.engine.assume, number(s.domain.domid)
    assume(
        And(
            base("frame.owner", f) != NONE,
            UGE(base("frame.count", f), base("frame.tcount", f) + ones(base("frame.allocated", f), boolean(not s.writes))),
        )
    )
    if s.writes:
        assume(And(base("frame.tcount", f) > 0, eq(base("frame.ptype", f), constant(PGT_WRITABLE))))
    if s.by_ref:
        one = abi.PIN_HSTW if s.writes else abi.PIN_HSTR
        assume((base("active.pin", d, s.ref) & (0xFF * one)) != 0)
        assume(And(s.ref < base("table.entries", d), eq(base("active.frame", d, s.ref), f)))


@dataclass(frozen=True)
class Asked:
    """One call of `_claim` or `_unclaim`; for `_claim`, whether it succeeded."""

    domid: Any
    domain: Any
    ptr: Any
    by_ref: Any
    readonly: Any
    frame: Any


def element(path: Path) -> None:
    """`copy_one`: both domains, the policy, both claims, the bounds, the bytes, and the release of everything."""
    m, engine = path.machine, path.engine
    names: dict[str, Any] = {
        name: path.argument(name, width)
        for name, width in (
            ("src", 64),
            ("src_dom", 16),
            ("src_off", 16),
            ("dst", 64),
            ("dst_dom", 16),
            ("dst_off", 16),
            ("len", 16),
            ("flags", 16),
        )
    }
    claims: list[Asked] = []
    let: list[Asked] = []
    parts: list[tuple[Term, Term]] = []

    def claim_by_contract(
        xen: Any, vcpu: Any, domid: Any, domain: Any, ptr: Any, by_ref: Any, readonly: Any
    ) -> Generator[str, None, Any]:
        yield "claiming"
        n = len(claims)
        if engine.choose("a claim fails"):
            claims.append(Asked(domid, domain, ptr, by_ref, readonly, None))
            return -100 - n, None, 0, 0
        frame = m.frame(variable(f"frame{n}", bits=40))
        parts.append((number(path.argument(f"start{n}", 16)), number(path.argument(f"size{n}", 16))))
        claims.append(Asked(domid, domain, ptr, by_ref, readonly, frame))
        return 0, frame, Int(parts[n][0]), Int(parts[n][1])

    def unclaim_by_contract(xen: Any, domain: Any, ptr: Any, by_ref: Any, frame: Any, readonly: Any) -> None:
        let.append(Asked(None, domain, ptr, by_ref, readonly, frame))

    def forward(data: Content, dst: Any, src: Any, size: Any) -> None:
        data[slice(dst, dst + size)] = data[slice(src, src + size)]

    with standing_in(
        (grant_copy, "_claim", claim_by_contract),
        (grant_copy, "_unclaim", unclaim_by_contract),
        (grant_copy, "forward_copy", forward),
    ):
        call = grant_copy.copy_one(
            m,
            m.vcpu,
            names["src"],
            names["src_dom"],
            names["src_off"],
            names["dst"],
            names["dst_dom"],
            names["dst_off"],
            names["len"],
            names["flags"],
        )
        try:
            while True:
                next(call)
                m.guests_write()
        except StopIteration as stop:
            status = status_of(stop.value)
    value = {n: number(v) for n, v in names.items()}
    args: dict[str, Term] = {"this": THIS}
    for short in ("src", "dst"):
        by_ref = (value["flags"] & (1 if short == "src" else 2)) != 0
        domid = value[short + "_dom"]
        args |= {
            short + "_by_ref": by_ref,
            short + "_own": eq(domid, SELF),
            short + "_dom": domid,
            short + "_ref": value[short] & 0xFFFFFFFF,
            short + "_frame": value[short],
        }
    opened = path.take(in_call(before(m), number(m.caller.domid)), "copy.element", args, {})
    path.prove(f"copy = {code_of(status)}", _checked(path, opened, status, value, claims, let, parts))


def _checked(
    path: Path,
    opened: Ends,
    status: int,
    value: dict[str, Term],
    claims: list[Asked],
    let: list[Asked],
    parts: list[tuple[Term, Term]],
) -> Claims:
    """The obligations for one element, given its claims and releases."""
    m = path.machine
    out: Claims = [
        ("no entry is written", boolean(not any(cells_of(d).writes for d in m.domains_known))),
        (
            "no domain is held at the end",
            And([eq(number(d.refs), base("domain.refs", number(d.domid))) for d in m.domains_known]),
        ),
    ]
    if not claims:
        return [*out, ("the status", opened.with_code(code_of(status))), ("no bytes are moved", boolean(not m.moved))]
    out.append(("the element is looked at", opened.okay))
    for asked, short in zip(claims, ("src", "dst"), strict=False):
        writes = short == "dst"
        own = eq(value[short + "_dom"], SELF)
        out.append(
            (
                f"what is claimed for {short}",
                And(
                    eq(number(asked.domid), value[short + "_dom"]),
                    eq(number(asked.ptr), value[short]),
                    eq(number(asked.domain.domid), If(own, number(m.caller.domid), value[short + "_dom"])),
                    eq(boolean(bool(asked.by_ref)), (value["flags"] & (2 if writes else 1)) != 0),
                    boolean(asked.readonly is not writes),
                ),
            )
        )
    held = [asked for asked in claims if asked.frame is not None]
    out.append(
        (
            "what was claimed is let go, the last first",
            boolean(
                [(a.domain, a.ptr, a.by_ref, a.readonly, a.frame) for a in reversed(held)]
                == [(a.domain, a.ptr, a.by_ref, a.readonly, a.frame) for a in let]
            ),
        )
    )
    if len(held) < 2:
        failed = len(claims) - 1
        return [
            *out,
            ("the status of the claim", boolean(status == -100 - failed and len(claims) == len(held) + 1)),
            ("no bytes are moved", boolean(not m.moved)),
        ]
    ranges = [(value[s + "_off"], value[s + "_off"] + value["len"]) for s in ("src", "dst")]
    too_far = Or([last > 4096 for _, last in ranges])
    outside = Or(
        [Or(first < begin, last > begin + size) for (first, last), (begin, size) in zip(ranges, parts, strict=True)]
    )
    ends = path.take(opened.state, "copy.move", {"this": THIS}, {OUT_OF_PAGE: too_far, OUT_OF_PART: outside})
    out.append(("the status", ends.okay if status == 0 else ends.with_code(code_of(status))))
    if status:
        return [*out, ("no bytes are moved", boolean(not m.moved))]
    wanted = [(False, held[0], ranges[0]), (True, held[1], ranges[1])]
    if len(m.moved) != 2:
        raise Unsupported("bytes that are moved piece by piece")
    return [
        *out,
        *[
            (
                "the bytes moved",
                And(
                    boolean(moved.written is written),
                    eq(moved.frame, number(asked.frame.mfn)),
                    eq(moved.start, first),
                    eq(moved.stop, last),
                    last <= 4096,
                    first >= 0,
                ),
            )
            for moved, (written, asked, (first, last)) in zip(m.moved, wanted, strict=True)
        ],
        ("bytes within their parts", Not(outside)),
    ]
