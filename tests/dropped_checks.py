"""Finds checks that nothing needs: drops each `require` and each part of a `pick ... where` in turn.

This finds gaps in the claims: `python -m tests.dropped_checks SYSTEM [NAME...]` proves each check's
steps again without the check and lists the claims that are no longer proved (if its own steps break some, only those;
others may depend on them). A check that no claim needs is either irrelevant for safety (it protects callers from their own
errors, or keeps the system working) or shows a gap in the claims. NAME is an operation, or a component. This is not a test.
A claim counts as refuted when its proof fails, as in `prove`; `attack` decides whether there is an attack.

With `--own`, the system is taken as proved, and a check is needed if its own steps break any invariant or claim without it:
much quicker. With `--moves N`, a campaign of DomB of N moves is made, and the rules without the check take its rule steps
again: if one of them ends differently, comparison with the implementation needs the check. `--moves` alone asks no solver.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from bulkhead.model import syntax as s
from bulkhead.model.ir import Claim, System
from bulkhead.model.library import closure, load_library
from bulkhead.model.loader import build
from bulkhead.proofs.jobs import Workers
from bulkhead.proofs.refinement.domb import world as domb_world
from bulkhead.proofs.refinement.domb.exports import exported
from bulkhead.proofs.refinement.domb.rule_state import RuleState
from bulkhead.proofs.refinement.domb.target import DombTarget
from bulkhead.proofs.refinement.domb.view import View
from bulkhead.proofs.refinement.domb.workload.ending import end
from bulkhead.proofs.refinement.domb.workload.scheduler import Driver
from bulkhead.proofs.refinement.domb.world import SYSTEM, Size
from bulkhead.proofs.refinement.lockstep.spec_state import Log
from bulkhead.proofs.theorems.decide import Settings, run_blocks
from bulkhead.proofs.theorems.induction import Proof, prove
from bulkhead.proofs.theorems.queries import Block, QueryMaker, name_of
from bulkhead.proofs.theorems.solvers import SolverError
from bulkhead.proofs.theorems.subsumption import Refuted

COMPARED = Path(SYSTEM)
SEED, EPISODE_MOVES = 1, 250
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


def checks(system: str, names: frozenset[str]) -> Iterator[Check]:
    """All checks of a system, or of some of its operations and components."""
    library = load_library([COMPARED])
    for component in closure(library, library.systems[system], []):
        for item in component.items:
            if not isinstance(item, s.Operation) or (names and not names & {component.name, item.name}):
                continue
            for place, statement in enumerate(item.body):
                if isinstance(statement, s.Require):
                    yield Check(component.name, item.name, place, 0, f"{statement.span.line}: require")
                elif isinstance(statement, s.Pick) and statement.where is not None:
                    for part, _ in enumerate(_parts(statement.where)):
                        yield Check(component.name, item.name, place, part, f"{statement.span.line}: where, part {part + 1}")


def without(system: str, check: Check) -> System:
    """The system with that check dropped."""
    library = load_library([COMPARED])
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


def changed_blocks(maker: QueryMaker, correct: System, asked: list[Claim]) -> Iterator[Block]:
    """The queries of the steps that differ from the correct system's."""
    before = {t.label: (t.params, t.guard, t.updates) for s in correct.steps for t in s.outcomes()}
    names = {name_of(c) for c in asked}
    for t in maker.transitions:
        if before.get(t.label) != (t.params, t.guard, t.updates):
            block = maker.step(t, asked, names, maker.system.step_claims.values())
            if block is not None:
                yield block


def broken_by_own_steps(correct: System, system: System, asked: list[Claim], pool: Workers) -> set[str]:
    """Claims, and invariants among `asked`, that the steps of the dropped check do not keep."""
    maker = QueryMaker(system)
    results = run_blocks(maker.formulas.prelude, [*changed_blocks(maker, correct, asked)], SETTINGS, pool)
    return {r.claim for r in results if r.verdict != "unsat"}


def claims_refuted(whole: Proof, system: System, pool: Workers, refuted: Refuted) -> list[str]:
    """Claims not proved without a check: those that its own steps break, else those that depend on lost invariants."""
    known = {**system.invariants, **system.theorems}
    broken = broken_by_own_steps(whole.system, system, [known[n] for n in whole.candidates], pool)
    if broken & set(system.claims()) or not broken:
        return sorted(broken & set(system.claims()))
    return sorted(whole.proved - prove(system, SETTINGS, pool, refuted=refuted).proved)


def needed_by_own_steps(correct: System, system: System, pool: Workers) -> list[str]:
    """Claims and invariants that the check's own steps break without it, when all of the correct system is proved."""
    proved = [claim for name, claim in system.theorems.items() if system.expects.get(name) == "proved"]
    broken = broken_by_own_steps(correct, system, [*system.invariants.values(), *proved], pool)
    return sorted(name for name in broken if system.expects.get(name, "proved") == "proved")


def played(moves: int) -> list[Log]:
    """The rule steps of a campaign of DomB, by episode."""
    rules = domb_world.rules_for(Size())
    logs: list[Log] = []
    for number in range(-(-moves // EPISODE_MOVES)):
        log: Log = []
        with exported() as root:
            machine = DombTarget(rules, SEED * 1_000_003 + number, root, True, log)
            driver = Driver(View(machine), machine, SEED * 1_000_003 + number)
            while driver.calls < EPISODE_MOVES and machine.up:
                driver.move()
            end(driver)
        logs.append(log)
    return logs


def first_difference(logs: list[Log], system: System) -> str:
    """The first logged step that ends differently by these rules."""
    rules = domb_world.Rules(Size(), system=system)
    taken = 0
    for log in logs:
        state = RuleState(rules)
        for label, args, code, fail in log:
            taken += 1
            if label.startswith("("):
                state.again(label, args, fail)
                continue
            made, names = rules.step(label)
            now = made(state.state, *[args[n] for n in names], args, None, fail)[0]
            if now != code:
                return f"`{label}` ends with {now}, not {code}, after {taken} steps"
        state.close()
    return ""


def main(arguments: list[str]) -> int:
    """Print one line for each check, and the number of checks that nothing needs."""
    parser = argparse.ArgumentParser(prog="python -m tests.dropped_checks", description=__doc__)
    parser.add_argument("system", help="a shipped system, or `compared_domb`")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only checks of these operations or components")
    parser.add_argument("--own", action="store_true", help="take the system as proved, and ask only the check's own steps")
    parser.add_argument("--moves", type=int, default=0, metavar="N", help="compare with a campaign of DomB, too")
    given = parser.parse_args(arguments)
    correct = build(load_library([COMPARED]), given.system, ())
    refuted = Refuted()
    logs = played(given.moves) if given.moves else []
    with Workers(SETTINGS.jobs) as pool:
        solved = given.own or not given.moves
        whole = None if given.own or given.moves else prove(correct, SETTINGS, pool, refuted=refuted)
        idle = total = 0
        for check in checks(given.system, frozenset(given.names)):
            system, lost = without(given.system, check), []
            if given.moves:
                difference = first_difference(logs, without("compared_domb", check))
                lost = [difference] if difference else []
            try:
                if solved and whole is not None:
                    lost += claims_refuted(whole, system, pool, refuted)
                elif solved:
                    lost += needed_by_own_steps(correct, system, pool)
            except SolverError as exc:
                lost = [*lost, f"not decided: {exc}"]
            total += 1
            idle += not lost
            print(f"{check.component} {check.operation} {check.text}: {', '.join(lost) or '-'}", flush=True)
    print(f"{idle} of {total} checks are needed by nothing that was asked")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
