"""Compares all results of Bulkhead for one system with the interpreter. `differences` yields the disagreements.

It compares successors and error codes of the executable model, both as transitions and as calls; proved claims
(by the proof, and by its certificate) with the states reached in small worlds; and attacks, step by step.
"""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

import z3

from bulkhead.model import syntax as s
from bulkhead.model.caller import OKAY, Caller
from bulkhead.model.diagnostics import RulesError
from bulkhead.model.executable import ExecutableModel
from bulkhead.model.ir import System as Checked
from bulkhead.model.library import Library, closure
from bulkhead.model.loader import build
from bulkhead.model.parser import parse_text
from bulkhead.model.trace import Event, Trace
from bulkhead.model.world import World as TableWorld
from bulkhead.model.world import size_of
from bulkhead.proofs.certify.check import CONFIRMED, DENIED, UNDECIDED, certify
from bulkhead.proofs.certify.tree import Rules, assemble
from bulkhead.proofs.report.certified import claims_of
from bulkhead.proofs.theorems.attack import find_attack
from bulkhead.proofs.theorems.cti import Cti, counterexample
from bulkhead.proofs.theorems.export import blocks_of, text_of
from bulkhead.proofs.theorems.induction import Proof, Settings, prove
from bulkhead.proofs.theorems.queries import INIT, QueryMaker
from bulkhead.proofs.theorems.scenarios import decide
from tests.oracle.faults import with_fault
from tests.oracle.instances import items_of
from tests.oracle.interpreter import Interpreter, State, Taken, World, Wrong
from tests.oracle.scenarios import all_initial, possible

STATES = 60  # maximum of states in one world
EXPORT_LIMIT = 500  # milliseconds for an exported query
STEPS = 4000  # maximum of steps in one world
START_STATES = 3000  # maximum of states tried as initial ones of a scenario
RUNS = 1500  # maximum of places on the way of a scenario


@dataclass(frozen=True)
class Budget:
    """The extent of the comparison for one system."""

    worlds: int = 2
    prove: bool = True
    certify: bool = True
    attack: bool = False
    export: bool = False
    states: int = STATES


@dataclass(frozen=True)
class Violation:
    """A claim is false after so many steps, the last of them by `label`; `told` is the whole way."""

    steps: int
    label: str
    told: str

    def __str__(self) -> str:
        return self.told


@dataclass
class Seen:
    """Counts of comparisons, so that a run that compares nothing is detected.

    `refused` are drafts that the checker refuses, some only with their fault; `unmade` are seeds without a draft.
    `uncompared` are systems that Bulkhead accepts and the interpreter cannot read; each is a difference, too.
    """

    systems: int = 0
    refused: int = 0
    unmade: int = 0
    uncompared: int = 0
    states: int = 0
    steps: int = 0
    proved: int = 0
    violated: int = 0
    certified: int = 0
    undecided: int = 0
    attacks: int = 0
    faults: int = 0
    counterexamples: int = 0
    instances: int = 0
    exported: int = 0
    exported_open: int = 0
    possible: int = 0
    impossible: int = 0


def differences(text: str, seed: int, budget: Budget, seen: Seen) -> Iterator[str]:
    """Each difference between Bulkhead and the interpreter on a rules file. Raises `RulesError` when it is refused."""
    parsed = parse_text(text, "made.rules")
    library = Library()
    library.take(parsed, text)
    (name,) = library.systems
    system = build(library, name, ())
    rng = random.Random(seed)
    made = [i for c in closure(library, library.systems[name], []) for i in c.items]
    faults = [i.name for i in made if isinstance(i, s.FaultItem)][: rng.randrange(2)]
    if faults:
        system = build(library, name, tuple(faults))
    seen.systems += 1
    seen.instances += sum(bool(u.args) for c in parsed.components for u in c.uses)
    try:
        tree = items_of(text)
    except RulesError as error:
        seen.uncompared += 1
        yield f"instances: what the checker accepts cannot be written out as text: {error}"
        return
    if sorted(map(_shape, tree)) != sorted(map(_shape, made)):
        yield "instances: the names of a component with parameters are replaced otherwise than in the text"
        return
    try:
        yield from _compared(system, assemble(library, name, faults), tree, faults, budget, seen, rng)
    except RulesError as error:
        seen.uncompared += 1
        yield f"refused: what the checker accepts is refused later: {error}"


def _compared(
    system: Checked, items: Rules, tree: list[s.Item], faults: list[str], budget: Budget, seen: Seen, rng: random.Random
) -> Iterator[str]:
    """Each difference in what the two say of a system."""
    seen.faults += len(faults)
    for fault in faults:
        tree = with_fault(tree, fault)
        if {i.name: i for i in tree if isinstance(i, s.Operation)} != items.operations:
            yield f"certify: it lays the fault `{fault}` otherwise than the interpreter"
        if {i.name: i for i in tree if isinstance(i, s.DefineItem)} != items.defines:
            yield f"certify: it lays the fault `{fault}` over definitions otherwise than the interpreter"
    violated: dict[str, Violation] = {}
    for _ in range(budget.worlds):
        world = a_world(system, rng)
        try:
            oracle = Interpreter(tree, world)
        except Wrong as error:
            yield f"language: the interpreter refuses what the checker accepts: {error}"
            return
        yield from _explored(system, oracle, rng, budget, seen, violated)
    seen.violated += len(violated)
    for scenario in system.scenarios:
        yield from _run_differs(system, tree, scenario, a_world(system, rng).sizes, seen)
    if not budget.prove:
        return
    proof = prove(system, Settings(2.0, 1, cross_check=False, patient=False))
    seen.proved += len(proof.proved)
    for claim in sorted((proof.proved | proof.standing) & violated.keys()):
        yield f"proof: `{claim}` is proved, but violated: {violated[claim]}"
    if budget.certify:
        given = claims_of(proof)
        answer = certify(items, given, limit=1.0)
        seen.certified += answer.verdict == CONFIRMED
        seen.undecided += answer.verdict == UNDECIDED
        if answer.verdict == DENIED:
            yield f"certify: {next(str(a) for a in answer.open if a.verdict == DENIED)}"
        for claim in sorted(violated):
            if claim in given.inductive | given.implied | given.transitions and answer.verdict == CONFIRMED:
                yield f"certify: `{claim}` is confirmed, but violated: {violated[claim]}"
    if budget.export:
        yield from exported_differs(system, proof, violated, seen)
    if budget.attack:
        for claim in [c for c in system.claims() if c not in proof.proved][:1]:
            yield from _attacked(system, tree, claim, seen)
        labels = {t.label for step in system.steps for t in step.outcomes()}
        for result in [r for r in proof.failing if r.label in labels][:1]:
            cti = counterexample(system, result.label, result.claim, sorted(proof.standing), 1.0)
            if cti is not None:
                seen.counterexamples += 1
                yield from counterexample_differs(system, tree, cti)


def _shape(item: s.Item) -> str:
    """An item without its places."""
    return re.sub(r"Span\([^)]*\)|@\d+\.\d+", "", repr(item))


def a_world(system: Checked, rng: random.Random) -> World:
    """A small world."""
    sizes = {n: rng.choice((1, 2, 2)) for n in system.sorts}
    for n in sizes:
        if sum(sizes.values()) > 6:
            sizes[n] = 1
    consts = {}
    for const, sort in system.consts.items():
        k = rng.randrange(2 if sort == "bool" else len(system.enums[sort]) if sort in system.enums else sizes[sort])
        consts[const] = bool(k) if sort == "bool" else k
    return World(sizes, consts)


class Tables:
    """States of the interpreter as states of the executable model."""

    def __init__(self, system: Checked, oracle: Interpreter) -> None:
        self.system, self.oracle = system, oracle
        self.world = TableWorld(dict(oracle.world.sizes), {c: int(v) for c, v in oracle.world.consts.items()})
        kept = {
            f"{op}.{n}": slot
            for table in (oracle.kept, oracle.arguments)
            for op, names in table.items()
            for n, slot in names.items()
        }
        for (op, procedure, param), slots in oracle.unnamed.items():
            stored = [slot for slot in slots if any(place[0] is slot for place in oracle.places)]
            start = f"{op}.{procedure}~"
            rests = [n[len(start) :].split(".") for n in system.funcs if n.startswith(start)]
            numbers = sorted({int(number) for number, name, *_ in rests if name == param})
            if len(numbers) == len(stored):
                kept.update({f"{start}{n}.{param}": slot for n, slot in zip(numbers, stored, strict=True)})
        self.columns: list[list[tuple[object, ...] | None]] = []
        self.points = {p: k for k, p in enumerate(system.enums["Point"])}
        for func in system.funcs.values():
            head, _, part = func.name.partition(".")
            owner: object = head
            column: list[tuple[object, ...] | None] = []
            if head not in oracle.states and head != "at":
                owner, part = kept.get(func.name), ""
                if owner is None:  # a field of a saved record
                    path, _, part = func.name.rpartition(".")
                    owner = kept.get(path)
            for index in self._indices(func.args):
                place = (owner, part, *index)
                column.append(place if place in oracle.places else None)
            self.columns.append(column)

    def _indices(self, sorts: tuple[str, ...]) -> Iterator[tuple[object, ...]]:
        if not sorts:
            yield ()
            return
        for rest in self._indices(sorts[:-1]):
            for v in self._values(sorts[-1]):
                yield (*rest, v)

    def _values(self, sort: str) -> list[object]:
        return [False, True] if sort == "bool" else list(range(size_of(self.system, self.world, sort)))

    def table(self, state: State) -> list[list[int]]:
        """The state as tables; 0 for values that the interpreter does not save."""
        return [[0 if p is None else self._number(state[p]) for p in column] for column in self.columns]

    def _number(self, value: object) -> int:
        return self.points[value] if isinstance(value, str) else int(value)  # type: ignore[call-overload]

    def same(self, table: list[list[int]], state: State) -> bool:
        """Are both equal at all places that both define?"""
        return all(
            p is None or v == self._number(state[p])
            for column, values in zip(self.columns, table, strict=True)
            for p, v in zip(column, values, strict=True)
        )

    def state(self, table: list[list[int]]) -> State:
        """Tables as a state of the interpreter; undefined places have the first value of their sort."""
        out: State = {}
        names = list(self.points)
        for column, values in zip(self.columns, table, strict=True):
            for p, v in zip(column, values, strict=True):
                if p is not None:
                    sort = self.oracle.places[p]
                    out[p] = bool(v) if sort == "bool" else names[v] if sort == "Point" else v
        for p, sort in self.oracle.places.items():
            if p not in out:
                out[p] = self.oracle.values(sort)[0]
        return {p: out[p] for p in self.oracle.places}


def _explored(
    system: Checked, oracle: Interpreter, rng: random.Random, budget: Budget, seen: Seen, violated: dict[str, Violation]
) -> Iterator[str]:
    """Reachable states, breadth first, each compared with the executable model; records violated claims."""
    first = [x for x in (oracle.find_initial(rng) for _ in range(3)) if x is not None]
    tables = Tables(system, oracle)
    machine = ExecutableModel(system, tables.world)
    caller = Caller(machine)
    one_state = [n for n, (kind, _, _) in oracle.claims.items() if kind != "transition"]
    two_state = [n for n, (kind, _, _) in oracle.claims.items() if kind == "transition"]
    ways: dict[tuple[object, ...], tuple[str, ...]] = {}
    queue: list[State] = []

    def reach(state: State, way: tuple[str, ...], labels: tuple[str, ...] = ()) -> None:
        key = tuple(state.values())
        if key in ways:
            return
        ways[key] = way
        queue.append(state)
        for name in one_state:
            if name not in violated and not oracle.holds(name, state):
                told = f"{len(way)} steps in {oracle.world}: {'; '.join(way)}"
                violated[name] = Violation(len(way), labels[-1] if labels else INIT, told)

    for state in first:
        if not all(machine.holds(tables.table(state), c.body) for c in (*system.inits, *system.axioms)):
            yield f"model: a state of {oracle.world} is initial for the interpreter alone"
        reach(state, ())
    steps = k = 0
    while k < len(queue) and k < budget.states and steps < STEPS:
        state = queue[k]
        k += 1
        way = ways[tuple(state.values())]
        taken = list(oracle.successors(state))
        steps += len(taken)
        for t in taken:
            shown = (*way, f"{t.label}{dict((*t.args, *t.picks))}{'' if t.code is None else ' = ' + t.code}")
            for name in two_state:
                if name not in violated and not oracle.holds_of(name, state, t):
                    told = f"{len(shown)} steps in {oracle.world}: {'; '.join(shown)}"
                    violated[name] = Violation(len(shown), t.label, told)
            reach(t.after, shown, (t.label,))
        seen.states += 1
        seen.steps += len(taken)
        if k <= 12:
            table = tables.table(state)
            for name in one_state:
                claim = system.invariants.get(name) or system.theorems[name]
                if machine.holds(table, claim.body) != oracle.holds(name, state):
                    yield f"model: `{name}` is {not oracle.holds(name, state)} for the executable model alone, after {way}"
                    return
            yield from _calls(caller, tables, table, state, taken, way)
            yield from _transitions(machine, tables, table, state, taken, way)


def _calls(
    caller: Caller, tables: Tables, table: list[list[int]], state: State, taken: list[Taken], way: tuple[str, ...]
) -> Iterator[str]:
    """Every step as a call with its error code; the caller is not told to fail where a call may."""
    bodies = {segment.label: segment.body for segment in tables.oracle.segments}
    by_call: dict[tuple[str, tuple[tuple[str, object], ...]], list[Taken]] = {}
    for t in taken:
        if t.code is None or bodies[t.label][t.by][0] != "may":
            by_call.setdefault((t.label, t.args), []).append(t)
    for (label, args), outcomes in by_call.items():
        given = {n: int(v) for n, v in args}  # type: ignore[call-overload]
        after = [list(column) for column in table]
        out = caller.call(after, label, dict(given))
        expected = [t for t in outcomes if (t.code or OKAY) == out.code]
        if not any(tables.same(after, t.after) for t in expected):
            codes = sorted({t.code or OKAY for t in outcomes})
            yield (
                f"call: {label}{given} answers {out.code} on the executable model, one of {codes} for the interpreter"
                f"{' but with another state' if expected else ''}, after {way}"
            )
            return


def _transitions(
    machine: ExecutableModel, tables: Tables, table: list[list[int]], state: State, taken: list[Taken], way: tuple[str, ...]
) -> Iterator[str]:
    """Compare every enabled transition with the interpreter's steps."""
    found: list[tuple[str, list[list[int]]]] = []
    total = 0
    for label, made in machine.transitions.items():
        for values in machine.choices(label):
            total += 1
            if total > 3000:
                return
            after = [list(column) for column in table]
            if machine.fire(after, label, {p.name: v for p, v in zip(made.params, values, strict=True)}):
                found.append((label, after))
    for label, after in found:
        base = label.partition("!")[0]
        failed = "!" in label
        if not any(t.label == base and (t.code is not None) == failed and tables.same(after, t.after) for t in taken):
            yield f"model: {label} leads the executable model where the interpreter does not go, after {way}"
            return
    for t in taken:
        if not any(
            label.partition("!")[0] == t.label and ("!" in label) == (t.code is not None) and tables.same(after, t.after)
            for label, after in found
        ):
            yield f"model: {t.label}{dict(t.args)} = {t.code} leads only the interpreter somewhere, after {way}"
            return


def _run_differs(system: Checked, tree: list[s.Item], name: str, sizes: dict[str, int], seen: Seen) -> Iterator[str]:
    """Is a scenario possible in one world for both, and does the interpreter go the way that was found?"""
    found = decide(system, name, 2.0, sizes)
    if found.trace is not None:
        seen.possible += 1
        consts = {c: bool(v) if system.consts[c] == "bool" else v for c, v in found.trace.world.consts.items()}
        oracle = Interpreter(tree, World({"Call": 1, **found.trace.world.sizes}, consts))
        start = Tables(system, oracle).state(found.trace.initial)
        sorts = {e.name[1:]: e.sort for e in system.scenarios[name].elements}
        elements = {n: bool(v) if sorts[n] == "bool" else v for n, v in found.elements}
        if not oracle.initial(start):
            yield f"scenario: the run of `{name}` begins in a state that is not initial"
        if possible(oracle, name, [start], len(found.trace.events), RUNS, elements) is False:
            yield f"scenario: `{name}` is possible, and the interpreter does not find it: {found.trace}"
        return
    for world in found.worlds:
        kinds = system.consts.values()
        values = [range(2 if k == "bool" else len(system.enums.get(k, ())) or world[k]) for k in kinds]
        for choice in itertools.product(*values) if math.prod(map(len, values)) <= 16 else ():
            consts = {c: bool(v) if k == "bool" else v for (c, k), v in zip(system.consts.items(), choice, strict=True)}
            oracle = Interpreter(tree, World({"Call": 1, **world}, consts))
            starts = all_initial(oracle, START_STATES)
            answer = None if starts is None else possible(oracle, name, starts, found.between, RUNS)
            seen.impossible += answer is False
            if answer:
                yield f"scenario: `{name}` is impossible ({found.bound}), and the interpreter finds a run with {consts}"


def _attacked(system: Checked, tree: list[s.Item], claim: str, seen: Seen) -> Iterator[str]:
    """An attack, step by step."""
    trace = find_attack(system, claim, max_depth=3, limit=1.0)
    if trace is None:
        return
    seen.attacks += 1
    yield from attack_differs(system, tree, trace)


def attack_differs(system: Checked, tree: list[s.Item], trace: Trace) -> Iterator[str]:
    """Can the interpreter take the steps of an attack, and is the claim violated at its end?"""
    sorts = system.consts
    consts = {c: bool(v) if sorts[c] == "bool" else v for c, v in trace.world.consts.items()}
    for const, sort in sorts.items():
        if const not in consts:
            yield f"attack: the world of the attack on `{trace.claim}` does not say what `{const}` of sort {sort} is"
            return
    oracle = Interpreter(tree, World({"Call": 1, **trace.world.sizes}, consts))
    tables = Tables(system, oracle)
    state = tables.state(trace.initial)
    if not oracle.initial(state):
        yield f"attack: the attack on `{trace.claim}` begins in a state that is not initial"
        return
    machine = ExecutableModel(system, trace.world)
    table = [list(t) for t in trace.initial]
    last: Taken | None = None
    before = state
    for n, event in enumerate(trace.events, 1):
        machine.fire(table, event.label, event.args)
        fitting = _fitting(tables, state, event, table)
        if not fitting:
            yield f"attack: step {n} of it on `{trace.claim}`, {event.label}{event.args}, is none of the interpreter's"
            return
        last, before, state = fitting[0], state, fitting[0].after
    kind = oracle.claims[trace.claim][0]
    if kind != "transition":
        good = oracle.holds(trace.claim, state)
    else:
        good = last is None or oracle.holds_of(trace.claim, before, last)
    if good:
        yield f"attack: after the attack on `{trace.claim}` it still holds"


def exported_differs(system: Checked, proof: Proof, violated: dict[str, Violation], seen: Seen) -> Iterator[str]:
    """Every exported query, asked of a solver as the text that it is.

    What the proof refutes, from whatever part of the assumptions, is not `sat` here. A claim that falls before any other
    falls by a step after which a query asks for that claim, and is not `unsat`.
    """
    context = z3.Context()
    maker = QueryMaker(system)
    verdicts: dict[tuple[str, str], str] = {}
    for block in blocks_of(system, maker):
        for query in block.queries:
            text = f"(reset)(set-option :timeout {EXPORT_LIMIT})\n{text_of(system, maker, block, query)}"
            out = str(z3.Z3_eval_smtlib2_string(context.ref(), text)).split()
            if len(out) != 1 or out[0] not in ("sat", "unsat", "unknown"):
                yield f"export: the query {query.key} is answered by {' '.join(out)[:200]}"
                return
            verdicts[query.key] = out[0]
    seen.exported += len(verdicts)
    seen.exported_open += sum(v != "unsat" for v in verdicts.values())
    for result in proof.results:
        if result.verdict == "unsat" and verdicts.get(result.key) == "sat":
            yield f"export: {result.key} is sat as a text, and refuted by the proof"
    if violated:
        claim, found = min(violated.items(), key=lambda item: item[1].steps)
        asked = [v for (label, c), v in verdicts.items() if c == claim and label.partition("!")[0] == found.label]
        if all(v == "unsat" for v in asked):
            none = f"all {len(asked)} queries of it are unsat" if asked else "no query asks for it"
            yield f"export: `{claim}` is violated, but {none} after {found.label}: {found}"


def _fitting(tables: Tables, state: State, event: Event, after: list[list[int]]) -> list[Taken]:
    """The steps of the interpreter that match an event."""
    label, _, code = event.label.partition("!")
    return [
        t
        for t in tables.oracle.successors(state)
        if t.label == label
        and all(int(v) == event.args.get(n, int(v)) for n, v in t.args)
        and (t.code is not None) == bool(code)
        and tables.same(after, t.after)
    ]


def counterexample_differs(system: Checked, tree: list[s.Item], cti: Cti) -> Iterator[str]:
    """Is a counterexample to induction a step of the interpreter, from a state with the claims to one without this one?"""
    sorts = system.consts
    consts = {c: bool(v) if sorts[c] == "bool" else v for c, v in cti.world.consts.items()}
    oracle = Interpreter(tree, World({"Call": 1, **cti.world.sizes}, consts))
    tables = Tables(system, oracle)
    before = tables.state(cti.before)
    fitting = _fitting(tables, before, cti.event, cti.after)
    if not fitting:
        yield f"counterexample: {cti.event} on `{cti.claim}` is no step of the interpreter"
        return
    for name in cti.assumed:
        bare = name.partition("/")[2] or name
        if bare in oracle.claims and not oracle.holds(bare, before):
            yield f"counterexample: `{bare}` is assumed before {cti.event}, and does not hold there"
    two = oracle.claims[cti.claim][0] == "transition"
    if all(oracle.holds_of(cti.claim, before, t) if two else oracle.holds(cti.claim, t.after) for t in fitting):
        yield f"counterexample: `{cti.claim}` still holds after {cti.event}"


__all__ = ["Budget", "RulesError", "Seen", "a_world", "attack_differs", "differences"]
