"""Refinement of a domain's teardown: from its first phase to the zombie, and the destruction of the zombie.

Contracts: the release of the domain's mappings (`mappings.release_mapping` proves it record by record), its event
channels, and page tables, whose entries the rules drop in the same step. Loops over the domain's pages are run for one
representative page: the arbitrary page of the obligations, if the domain owns it.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from bulkhead.impl.xen import grant_entries, lifecycle
from bulkhead.impl.xen.domains import ALIVE, DEAD
from bulkhead.impl.xen.machine import Xen
from bulkhead.proofs.refinement.handlers.abstraction import before
from bulkhead.proofs.refinement.handlers.memory import Whole
from bulkhead.proofs.refinement.handlers.objects import base
from bulkhead.proofs.refinement.handlers.obligations import HERE, Claims, Holders, same_state
from bulkhead.proofs.refinement.handlers.path import THIS, Path, standing_in
from bulkhead.proofs.refinement.handlers.symbolic_xen import ones
from bulkhead.proofs.refinement.handlers.versions import owned_status_frame
from bulkhead.proofs.symbolic.engine import Unsupported, number
from bulkhead.proofs.symbolic.terms import And, Not, Or, boolean, eq
from bulkhead.proofs.symbolic.terms import number as constant


def destroy(path: Path) -> None:
    """domain_kill of any domain: `privcmd_destroydomain`, then (all mappings released) `relinquish_resources`."""
    m, engine = path.machine, path.engine
    domain, d, f = m.caller, number(m.caller.domid), HERE["f"]
    m.xen_pages.add(f)
    m.assume_frame(f)
    engine.assume(Not(base("frame.pinned", f)))
    if engine.decide(eq(base("table.version", d), constant(2))):
        owned_status_frame(path)
    engine.assume(
        Or(
            Not(base("frame.xenheap", f)),
            base("frame.owner", f) != d,
            eq(f, m.frames_known[0].key) if m.frames_known else boolean(False),
        )
    )
    if engine.decide(And(eq(base("frame.owner", f), d), base("frame.count", f) > 0, Not(base("frame.xenheap", f)))):
        domain.pages.listed.append(m.frame(f))  # type: ignore[attr-defined]
    domain.events = SimpleNamespace(destroy=lambda: None)  # type: ignore[assignment]
    m.raise_global_virq = lambda virq: None  # type: ignore[method-assign]
    start = before(m)
    holders = Holders(start, THIS)
    whole: list[object] = []

    def release_by_contract(xen: object, mapper: object) -> Iterator[str]:
        yield "destroy.maptrack"

    def unshare(xen: Any, frame: Any) -> None:
        whole.append(frame) if isinstance(frame, Whole) else grant_entries.unshare(xen, frame)

    def put_table(xen: object, frame: object) -> None:
        raise Unsupported("a page table")

    alive, dead = (eq(base("domain.is_dying", d), constant(phase)) for phase in (ALIVE, DEAD))
    args = {"p": constant(0), "x": constant(0), "d": d}
    killed = path.take(start, "privcmd_destroydomain", args, {}).state
    with standing_in(
        (lifecycle, "release_mappings", release_by_contract),
        (lifecycle, "unshare", unshare),
        (lifecycle, "put_table", put_table),
    ):
        call = lifecycle.destroy(m, domain)
        try:
            while True:
                if next(call) == "destroy.dying":
                    path.prove("destroydomain", [("it was alive", alive), *same_state(m, killed, holders)])
                m.guests_write()
        except StopIteration as stop:
            status = stop.value
    if engine.decide(dead):
        path.prove("destroydomain of a zombie", [("the status", boolean(status == 0)), *same_state(m, killed, holders)])
        return
    gone = path.take(path.entries_now(killed), "relinquish_resources", {"d": d}, {}).state
    path.prove(
        "relinquish_resources",
        [
            ("the status", boolean(status == 0)),
            ("all frames of the table", boolean(len(whole) == 1)),
            *same_state(m, gone, holders),
        ],
    )


def last_reference(path: Path) -> None:
    """put_domain: dropping a zombie's last reference, and no other, destroys it; then `domain_destroy` is enabled."""
    m, engine = path.machine, path.engine
    domain, d, f = m.caller, number(m.caller.domid), HERE["f"]
    # The caller holds a reference besides those of the domain's pages.
    engine.assume(eq(base("domain.is_dying", d), constant(DEAD)))
    engine.assume(base("domain.refs", d) >= ones(base("domain.tot_pages", d) > 0, base("domain.xenheap_pages", d) > 0) + 1)
    m.assume_frame(f)
    freed: list[object] = []
    start = before(m)
    domain.put()
    if not m.destroyed:
        path.prove("put_domain", same_state(m, start, Holders(start, THIS)))
        return
    owned = And(eq(base("frame.owner", f), d), base("frame.count", f) > 0)
    claims: Claims = [
        ("no page is left", Not(owned)),
        ("nothing else is changed", And([claim for _, claim in same_state(m, start, Holders(start, THIS))])),
    ]
    path.prove("domain_destroy", claims)
    table = domain.grant_table
    xen: Any = SimpleNamespace(
        domains=SimpleNamespace(get=lambda domid: None),
        raise_global_virq=lambda virq: None,
        frames=SimpleNamespace(free_xenheap=freed.append),
    )
    Xen.domain_destroy(xen, domain)
    path.prove(
        "domain_destroy",
        [
            ("frames of the table", boolean(len(freed) == 1 + len(table.status))),
            ("no entry is left", boolean(table.nr_entries == 0 and not table.active.known and not list(table.status))),  # type: ignore[attr-defined]
            ("it is gone", boolean(domain.gone)),
        ],
    )
