"""Finds checks that no claim needs: drops each `require` and each part of a `pick ... where` in turn.

This finds gaps in the claims: `python -m tests.dropped_checks SYSTEM [OPERATION...]` proves each check's
steps again without the check and lists the claims that are no longer proved (if its own steps break some, only those;
others may depend on them). A check that no claim needs is either irrelevant for safety (it protects callers from their own
errors, or keeps the system working) or shows a gap in the claims. This is not a test. A claim counts as refuted when its
proof fails, as in `prove`; `attack` decides whether there is an attack.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

from bulkhead.model import syntax as s
from bulkhead.model.ir import System
from bulkhead.model.library import closure, load_library
from bulkhead.model.loader import build
from bulkhead.proofs.theorems.decide import make_pool, run_blocks
from bulkhead.proofs.theorems.induction import Proof, Settings, prove
from bulkhead.proofs.theorems.queries import QueryMaker, name_of
from bulkhead.proofs.theorems.solvers import SolverError
from bulkhead.proofs.theorems.subsumption import Refuted

SETTINGS = Settings(jobs=2, cross_check=False, patient=False, limit=5.0)


@dataclass(frozen=True, slots=True)
class Check:
    """One check: of the operation or procedure of a component, by its place in the body, and which part of its condition."""

    component: str
    operation: str
    place: int
    part: int
    text: str


def _parts(condition: s.Expr) -> list[s.Expr]:
    if isinstance(condition, s.Operator) and condition.op == "and":
        return [p for a in condition.args for p in _parts(a)]
    return [condition]


def checks(system: str, operations: frozenset[str]) -> Iterator[Check]:
    """All checks of a system, or of some of its operations."""
    library = load_library()
    for component in closure(library, library.systems[system], []):
        for item in component.items:
            if not isinstance(item, s.Operation) or (operations and item.name not in operations):
                continue
            for place, statement in enumerate(item.body):
                if isinstance(statement, s.Require):
                    yield Check(component.name, item.name, place, 0, f"{statement.span.line}: require")
                elif isinstance(statement, s.Pick) and statement.where is not None:
                    for part, _ in enumerate(_parts(statement.where)):
                        yield Check(component.name, item.name, place, part, f"{statement.span.line}: where, part {part + 1}")


def without(system: str, check: Check) -> System:
    """The system with that check dropped."""
    library = load_library()
    component = library.components[check.component]
    items: list[s.Item] = []
    for item in component.items:
        if isinstance(item, s.FaultItem):
            continue  # faults repeat checks, and this one does not exist any more
        if isinstance(item, s.Operation) and item.name == check.operation:
            body = list(item.body)
            statement = body[check.place]
            if isinstance(statement, s.Pick) and statement.where is not None:
                kept = [p for k, p in enumerate(_parts(statement.where)) if k != check.part]
                where = (
                    None if not kept else kept[0] if len(kept) == 1 else s.Operator("and", tuple(kept), statement.where.span)
                )
                body[check.place] = replace(statement, where=where)
            else:
                del body[check.place]
            items.append(replace(item, body=tuple(body)))
        else:
            items.append(item)
    for name, other in library.components.items():
        library.components[name] = replace(other, items=tuple(i for i in other.items if not isinstance(i, s.FaultItem)))
    library.components[check.component] = replace(component, items=tuple(items))
    return build(library, system, ())


def claims_refuted(whole: Proof, system: System, pool: ProcessPoolExecutor | None, refuted: Refuted) -> list[str]:
    """Claims not proved without a check: those that its own steps break, else those that depend on lost invariants."""
    maker = QueryMaker(system)
    before = {t.label: (t.params, t.guard, t.updates) for s in whole.system.steps for t in s.transitions()}
    known = {**system.invariants, **system.theorems}
    asked = [known[n] for n in whole.candidates]
    names = {name_of(c) for c in asked}
    blocks = [
        maker.step(t, asked, names, system.step_claims.values())
        for t in maker.transitions
        if before.get(t.label) != (t.params, t.guard, t.updates)
    ]
    results = run_blocks(maker.formulas.prelude, [b for b in blocks if b is not None], SETTINGS, pool)
    broken = {r.claim for r in results if r.verdict != "unsat"}
    if broken & set(system.claims()) or not broken:
        return sorted(broken & set(system.claims()))
    return sorted(whole.proved - prove(system, SETTINGS, pool, refuted=refuted).proved)


def main(arguments: list[str]) -> int:
    """Print one line for each check, and the number of checks that no claim needs."""
    if not arguments:
        print("usage: python -m tests.dropped_checks SYSTEM [OPERATION...]")
        return 2
    name = arguments[0]
    refuted = Refuted()
    with make_pool(SETTINGS.jobs) as pool:  # type: ignore[union-attr]
        whole = prove(build(load_library(), name, ()), SETTINGS, pool, refuted=refuted)
        idle = total = 0
        for check in checks(name, frozenset(arguments[1:])):
            try:
                lost = claims_refuted(whole, without(name, check), pool, refuted)
            except SolverError as exc:
                lost = [f"not decided: {exc}"]
            total += 1
            idle += not lost
            print(f"{check.component} {check.operation} {check.text}: {', '.join(lost) or '-'}", flush=True)
    print(f"{idle} of {total} checks are needed by no claim")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
