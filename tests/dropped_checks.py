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
from bulkhead.model.caller import Caller
from bulkhead.model.diagnostics import RulesError
from bulkhead.model.executable import ExecutableModel
from bulkhead.model.ir import Claim, System
from bulkhead.model.library import Library, closure, load_library
from bulkhead.model.loader import build
from bulkhead.model.world import State
from bulkhead.proofs.jobs import Workers
from bulkhead.proofs.refinement.domb import world as domb_world
from bulkhead.proofs.refinement.domb.exports import exported
from bulkhead.proofs.refinement.domb.rule_state import RuleState
from bulkhead.proofs.refinement.domb.target import DombTarget
from bulkhead.proofs.refinement.domb.view import View
from bulkhead.proofs.refinement.domb.workload.ending import end
from bulkhead.proofs.refinement.domb.workload.scheduler import Driver
from bulkhead.proofs.refinement.domb.world import SYSTEM, Size
from bulkhead.proofs.refinement.lockstep.rule_steps import Log
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
    """The system with that check dropped, without faults and scenarios: they may name what does not exist any more."""
    return build(_library_without(check, (s.FaultItem, s.ScenarioItem)), system, ())


def scenarios_need(system: str, check: Check) -> bool:
    """Does a scenario name a failure that only this check gives?"""
    try:
        build(_library_without(check, (s.FaultItem,)), system, ())
    except RulesError:
        return True
    return False


def _library_without(check: Check, left_out: tuple[type[s.Item], ...]) -> Library:
    library = load_library([COMPARED])
    for name, component in library.components.items():
        kept = [item for item in component.items if not isinstance(item, left_out)]
        if name == check.component:
            kept = [_changed(item, check) if isinstance(item, s.Operation) else item for item in kept]
        library.components[name] = replace(component, items=tuple(kept))
    return library


def _changed(operation: s.Operation, check: Check) -> s.Operation:
    if operation.name != check.operation:
        return operation
    body = list(operation.body)
    statement = body[check.place]
    if isinstance(statement, s.Pick) and statement.where is not None:
        kept = [p for k, p in enumerate(_parts(statement.where)) if k != check.part]
        where = None if not kept else kept[0] if len(kept) == 1 else s.Operator("and", tuple(kept), statement.where.span)
        body[check.place] = replace(statement, where=where)
    else:
        del body[check.place]
    return replace(operation, body=tuple(body))


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


class Variant:
    """The rules without one check, beside the correct ones: does a step of the campaign end differently?"""

    def __init__(self, rules: domb_world.Rules, check: Check) -> None:
        self.found = ""
        system = without("compared_domb", check)
        before = {step.label: step for step in rules.system.steps}
        caller = Caller(ExecutableModel(system, rules.machine.world))
        if [*system.funcs] != [*rules.system.funcs]:
            raise ValueError(f"{check}: the states of these rules are not alike")
        changed = {t.label for t in system.steps if t.outcomes() != before[t.label].outcomes()}
        self.calls = {label: caller.compiled_call(label)[0] for label in changed}
        number = {name: k for k, name in enumerate(system.funcs)}
        self.written = {
            t.label: [number[u.func] for outcome in t.outcomes() for u in outcome.updates]
            for t in system.steps
            if t.label in changed
        }

    def look(self, state: State, label: str, given: list[object], code: str | None, fail: str | None, taken: int) -> None:
        """A step of the campaign, before it is taken."""
        if self.found or label not in self.calls:
            return
        mine = [*state]
        for k in self.written[label]:
            mine[k] = [*mine[k]]
        now = self.calls[label](mine, *given, None, fail, [])[0]
        if now != code:
            self.found = f"`{label}` ends with {now}, not {code}, after {taken} steps"


def differences(logs: list[Log], wanted: list[Check]) -> list[str]:
    """For each check, the first logged step that ends differently without it."""
    rules = domb_world.rules_for(Size())
    variants = [Variant(rules, check) for check in wanted]
    taken = 0
    for log in logs:
        state = RuleState(rules)
        for label, args, code, fail in log:
            taken += 1
            if label.startswith("("):
                state.again(label, args, fail)
                continue
            made, names = rules.step(label)
            for variant in variants:
                variant.look(state.state, label, [args[n] for n in names] + [args], code, fail, taken)
            made(state.state, *[args[n] for n in names], args, None, fail, [])
        state.close()
    return [variant.found for variant in variants]


def main(arguments: list[str]) -> int:
    """Print one line for each check, and the number of checks that nothing needs."""
    parser = argparse.ArgumentParser(prog="python -m tests.dropped_checks", description=__doc__)
    parser.add_argument("system", help="a shipped system, or `compared_domb`")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only checks of these operations or components")
    parser.add_argument("--own", action="store_true", help="take the system as proved, and ask only the check's own steps")
    parser.add_argument("--moves", type=int, default=0, metavar="N", help="compare with a campaign of DomB, too")
    given = parser.parse_args(arguments)
    correct = build(load_library([COMPARED]), given.system, ())
    wanted = [*checks(given.system, frozenset(given.names))]
    differing = differences(played(given.moves), wanted) if given.moves else [""] * len(wanted)
    refuted = Refuted()
    idle = 0
    with Workers(SETTINGS.jobs) as pool:
        whole = None if given.own or given.moves else prove(correct, SETTINGS, pool, refuted=refuted)
        for check, difference in zip(wanted, differing, strict=True):
            needed = [difference] if difference else []
            needed += ["a scenario"] if scenarios_need(given.system, check) else []
            try:
                if whole is not None:
                    needed += claims_refuted(whole, without(given.system, check), pool, refuted)
                elif given.own:
                    needed += needed_by_own_steps(correct, without(given.system, check), pool)
            except SolverError as exc:
                needed.append(f"not decided: {exc}")
            idle += not needed
            print(f"{check.component} {check.operation} {check.text}: {', '.join(needed) or '-'}", flush=True)
    print(f"{idle} of {len(wanted)} checks are needed by nothing that was asked")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
