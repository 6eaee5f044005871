"""The executable model: outcomes of steps and calls, all states of a small world, walks, and traces.

The rule set is `benchmarks/gt.rules`, whose number of states other tools have measured. A solver is used only for the
initial states of a world.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from bulkhead.model.caller import Caller, caller_of
from bulkhead.model.compile import compiled
from bulkhead.model.executable import ExecutableModel
from bulkhead.model.ir import TRUE, App, Lit, Op, Quant, System, Term, Update, Use, Var, eq
from bulkhead.model.loader import load
from bulkhead.model.trace import Event
from bulkhead.model.world import State, World, changes, size_of
from bulkhead.proofs.theorems.directed_search import reach
from bulkhead.proofs.theorems.guard_conjuncts import compiled_probe
from bulkhead.proofs.theorems.random_walk import initial_state, walk

GT = str(Path(__file__).parent / "benchmarks" / "gt.rules")
SMALL = World({"Call": 1, "Domain": 3, "Frame": 2, "Ref": 1, "Process": 1}, {"root": 0})
WIDE = World({"Call": 1, "Domain": 3, "Frame": 4, "Ref": 3, "Process": 1}, {"root": 0})
STATES = 14_856  # of gt in the small world
LIVE_STATES = 5816  # of these, distinguished by relevant state; other tools count the same


@pytest.fixture(scope="module")
def gt() -> System:
    return load(GT)


@pytest.fixture(scope="module")
def machine(gt: System) -> ExecutableModel:
    return ExecutableModel(gt, SMALL)


@pytest.fixture(scope="module")
def caller(machine: ExecutableModel) -> Caller:
    return caller_of(machine)


@pytest.fixture
def start(caller: Caller) -> State:
    state = initial_state(caller)
    assert state is not None
    return state


def copy(state: State) -> State:
    return [list(table) for table in state]


def key(state: State) -> tuple[int, ...]:
    return tuple(itertools.chain.from_iterable(state))


def live(system: System, state: State) -> tuple[int, ...]:
    """The state without `readonly` of entries that grant nothing: revocation keeps it, and no rule reads it then."""
    names = list(system.funcs)
    grants, readonly = (names.index(n) for n in ("grants", "readonly"))
    seen = copy(state)
    entries = len(seen[readonly])
    width = len(seen[grants]) // entries
    for entry in range(entries):
        if not any(seen[grants][entry * width : (entry + 1) * width]):
            seen[readonly][entry] = 0
    return key(seen)


def successors(machine: ExecutableModel, state: State) -> Iterator[tuple[Event, State]]:
    for label, t in machine.transitions.items():
        for choice in machine.choices(label):
            args = {p.name: i for p, i in zip(t.params, choice, strict=True)}
            if machine.can_fire(state, label, args):
                after = copy(state)
                assert machine.fire(after, label, args)
                yield Event(label, args), after


ATTACK = (
    Event("create", {"d": 1}),
    Event("alloc", {"f": 0, "d": 1}),
    Event("finish", {"d": 1}),
    Event("permit", {"d": 1, "r": 0, "e": 2, "f": 0, "ro": 1}),
    Event("map", {"p": 0, "d": 1, "r": 0, "f": 0}),
)


# Steps and calls.


def test_fire_changes_the_state_only_when_the_guard_holds(machine: ExecutableModel, start: State) -> None:
    before = copy(start)
    assert not machine.fire(start, "create", {"d": 0})
    assert start == before
    assert machine.fire(start, "create", {"d": 1})
    assert changes(machine.system, SMALL, before, start) == {
        "domain[domain1].alive": ("false", "true"),
        "domain[domain1].paused": ("false", "true"),
        "domain[domain1].built": ("false", "true"),
    }


def test_calls_end_with_the_code_of_the_first_check_that_fails(caller: Caller, start: State) -> None:
    before = copy(start)
    assert caller.call(start, "create", {"d": 0}).code == "EEXIST"
    assert caller.call(start, "alloc", {"f": 0, "d": 2}).code == "ESRCH"
    assert caller.call(start, "destroy", {"d": 0}).code == "EINVAL"
    assert start == before
    assert caller.call(start, "create", {"d": 1}).code == "okay"
    assert caller.call(start, "alloc", {"f": 0, "d": 1}).code == "okay"
    assert caller.call(start, "alloc", {"f": 0, "d": 0}).code == "ENOMEM"
    assert caller.call(start, "foreign_map", {"d": 1, "f": 0}).code == "okay"
    assert caller.call(start, "finish", {"d": 1}).code == "EBUSY"
    assert caller.call(start, "destroy", {"d": 1}).code == "EBUSY"


def test_an_assignment_for_all_ranges_over_every_value(caller: Caller, machine: ExecutableModel, start: State) -> None:
    for event in ATTACK[:4]:
        assert caller.call(start, event.label, event.args).code == "okay"
    assert caller.call(start, "destroy", {"d": 1}).code == "okay"
    for func in ("owns", "grants", "domain.alive"):
        table = start[list(machine.system.funcs).index(func)]
        assert sum(table) == (func == "domain.alive")


def test_updates_read_the_state_before_the_step(tmp_path: Path) -> None:
    path = tmp_path / "swap.rules"
    path.write_text("""component c "Swaps."
sort Thing "a thing"
enum Colour = red | green | blue
state left: Thing
state right: Thing
state colour[Thing]: Colour
internal swap()
    set left = right
    set right = left
    set colour[left] = colour[right]
    set colour[right] = colour[left]
internal shift()
    set colour[x] = colour[left] for all x: Thing
    set colour[left] = colour[right]
internal choose()
    pick x: Thing where colour[x] = green else ENOENT
    set left = x
internal hope()
    may fail EIO "the disk"
    set left = right
system c "Swaps."
    uses c
""")
    system = load(str(path))
    world = World({"Call": 1, "Thing": 3}, {})
    machine = ExecutableModel(system, world)
    caller = Caller(machine)
    names = list(system.funcs)
    state = machine.empty_state()
    state[names.index("right")] = [1]
    state[names.index("colour")] = [0, 1, 2]
    for run in (lambda s, la: machine.fire(s, la, {}), lambda s, la: caller.call(s, la, {})):
        swapped, shifted = copy(state), copy(state)
        run(swapped, "swap")
        assert [swapped[names.index(n)] for n in ("left", "right", "colour")] == [[1], [0], [1, 0, 2]]
        run(shifted, "shift")
        assert shifted[names.index("colour")] == [1, 0, 0]  # the later assignment wins
    outcome = caller.call(copy(state), "choose", {})
    assert (outcome.code, outcome.picks) == ("okay", {"x": 1})
    assert caller.call(copy(state), "choose", {}, random.Random(1)).picks == {"x": 1}
    assert caller.call(copy(state), "choose", {"x": 0}).code == "ENOENT"
    assert caller.call(machine.empty_state(), "choose", {}).code == "ENOENT"
    assert caller.call(copy(state), "hope", {}).code == "okay"
    assert caller.call(copy(state), "hope", {}, force_fail="EIO").code == "EIO"


@dataclass
class Interpreter:
    """A second, simple interpreter of terms: it compiles, expands and inlines nothing."""

    system: System
    world: World

    def value(self, term: Term, state: State, after: State, env: dict[str, int]) -> int:
        system = self.system
        if isinstance(term, Var):
            return env[term.name]
        if isinstance(term, Lit):
            if term.sort == "bool":
                return int(term.name == "true")
            return system.enums[term.sort].index(term.name) if term.sort in system.enums else self.world.consts[term.name]
        if isinstance(term, Quant):
            ranges = [range(size_of(system, self.world, v.sort)) for v in term.vars]
            names = [v.name for v in term.vars]
            found = [
                self.value(term.body, state, after, {**env, **dict(zip(names, chosen, strict=True))})
                for chosen in itertools.product(*ranges)
            ]
            return int(all(found) if term.kind == "forall" else any(found))
        args = [self.value(a, state, after, env) for a in term.args]
        if isinstance(term, App):
            index = 0
            for arg, sort in zip(args, system.funcs[term.func].args, strict=True):
                index = index * size_of(system, self.world, sort) + arg
            return (after if term.next else state)[list(system.funcs).index(term.func)][index]
        if isinstance(term, Use):
            made = system.defs[term.name]
            read = after if term.next else state
            return self.value(made.body, read, read, dict(zip([p.name for p in made.params], args, strict=True)))
        match term.op, args:
            case "ite", [test, then, other]:
                return then if test else other
            case "=", [left, right]:
                return int(left == right)
            case "=>", [left, right]:
                return int(not left or right)
            case "not", [inner]:
                return int(not inner)
            case "and", _:
                return int(all(args))
            case "or", _:
                return int(any(args))
        raise AssertionError(term)

    def after(self, state: State, updates: Sequence[Update], env: dict[str, int]) -> State:
        """The state after some assignments."""
        made = copy(state)
        for u in updates:
            for chosen in itertools.product(*(range(size_of(self.system, self.world, v.sort)) for v in u.binders)):
                inner = {**env, **dict(zip([v.name for v in u.binders], chosen, strict=True))}
                if self.value(u.cond, state, state, inner):
                    index = 0
                    for arg, sort in zip(u.args, self.system.funcs[u.func].args, strict=True):
                        index = index * size_of(self.system, self.world, sort) + self.value(arg, state, state, inner)
                    made[list(self.system.funcs).index(u.func)][index] = self.value(u.value, state, state, inner)
        return made


def test_both_manners_of_code_mean_what_an_interpreter_of_terms_says(gt: System) -> None:
    machine = ExecutableModel(gt, WIDE)
    caller = caller_of(machine)
    meaning = Interpreter(gt, WIDE)
    rng = random.Random(7)
    state = initial_state(caller)
    assert state is not None
    for _ in range(3000):
        step = rng.choice(gt.steps)
        args = {p.name: rng.randrange(size_of(gt, WIDE, p.sort)) for p in step.params}
        fired, called, told = copy(state), copy(state), state
        done = machine.fire(fired, step.label, args)
        assert done == (caller.call(called, step.label, args).code == "okay")
        assert done == meaning.value(step.success().guard, state, state, args)
        if done:
            told = meaning.after(state, step.success().updates, args)
        assert fired == called == told
        if rng.random() < 0.01:
            for claim in (*gt.invariants.values(), *gt.theorems.values()):
                assert (
                    machine.holds(called, claim.body)
                    == bool(caller.value(called, claim.body))
                    == bool(meaning.value(claim.body, called, called, {}))
                )
        state = called


def test_both_manners_of_code_mean_the_same_for_a_large_system() -> None:
    """The whole language, with two-state claims, in states that may be unreachable."""
    system = load("disaggregated")
    world = World({**dict.fromkeys(system.sorts, 2), "Domain": 3}, {n: k % 2 for k, n in enumerate(system.consts)})
    machine, free, meaning = ExecutableModel(system, world), ExecutableModel(system, world), Interpreter(system, world)
    for label, t in list(free.transitions.items()):
        free.transitions[label] = replace(t, guard=TRUE)  # so that every assignment is made
    caller = caller_of(machine)
    rng = random.Random(3)
    sizes = [size_of(system, world, f.sort) for f in system.funcs.values()]

    def anything() -> State:
        return [[rng.randrange(size) for _ in table] for table, size in zip(machine.empty_state(), sizes, strict=True)]

    for _ in range(3):
        before, after = anything(), anything()
        for claim in (*system.axioms, *system.inits, *system.invariants.values(), *system.theorems.values()):
            assert (
                machine.holds(before, claim.body)
                == bool(caller.value(before, claim.body))
                == bool(meaning.value(claim.body, before, before, {}))
            )
        for claim in system.step_claims.values():
            for failed in (False, True):
                assert machine.holds_between(before, after, claim.body, failed) == bool(
                    meaning.value(claim.body, before, after, {"failed": int(failed)})
                )
        for label, t in machine.transitions.items():
            args = {p.name: rng.randrange(size_of(system, world, p.sort)) for p in t.params}
            assert machine.can_fire(before, label, args) == bool(meaning.value(t.guard, before, before, args))
            slow, fast = copy(before), copy(before)
            assert free.fire(slow, label, args)
            params = ", ".join(["S", *(f"v_{name}" for name in args)])
            lines = caller.coder.with_tables([*caller.coder.effect(t.updates), "return"])
            compiled("effect", params, lines)(fast, *args.values())
            assert slow == fast == meaning.after(before, t.updates, args)
            logged, log = copy(before), list[tuple[int, int, int]]()
            lines = caller.coder.with_tables([*caller.coder.effect(t.updates, logged=True), "return"])
            compiled("effect", f"{params}, log", lines)(logged, *args.values(), log)
            assert logged == fast, "a step that logs its assignments makes the same"
            for table, place, value in reversed(log):
                logged[table][place] = value
            assert logged == before, f"and the log of {label} has all that it changed, as it was"


def test_terms_have_values(caller: Caller, start: State) -> None:
    d, root = Var("d", "Domain"), Lit("root", "Domain")
    alive: Term = App("domain.alive", (d,), "bool")
    assert caller.value(start, root) == 0
    assert [caller.value(start, alive, {"d": i}) for i in range(3)] == [1, 0, 0]
    assert caller.value(start, Quant("forall", (d,), eq(alive, eq(d, root)))) == 1
    assert caller.value(start, Op("ite", (alive, d, root), "Domain"), {"d": 2}) == 0


def test_two_state_terms(machine: ExecutableModel, start: State) -> None:
    after = copy(start)
    machine.fire(after, "create", {"d": 2})
    d = Var("d", "Domain")
    now, then = App("domain.alive", (d,), "bool"), App("domain.alive", (d,), "bool", True)
    assert machine.holds_between(start, after, Quant("forall", (d,), Op("=>", (now, then))), False)
    assert not machine.holds_between(start, after, Quant("forall", (d,), Op("=>", (then, now))), False)
    assert machine.holds_between(start, after, Var("failed", "bool"), True)


# All states.


def test_all_states_of_the_small_world_satisfy_every_claim(gt: System, machine: ExecutableModel, start: State) -> None:
    claims = [*gt.invariants.values(), *gt.theorems.values()]
    seen, todo = {key(start)}, [start]
    alive = set()
    while todo:
        state = todo.pop()
        alive.add(live(gt, state))
        assert all(machine.holds(state, c.body) for c in claims)
        for _, after in successors(machine, state):
            if key(after) not in seen:
                seen.add(key(after))
                todo.append(after)
    assert (len(seen), len(alive)) == (STATES, LIVE_STATES)


def test_the_fault_is_found_at_depth_five() -> None:
    machine = ExecutableModel(load(GT, ["b1"]), SMALL)
    claim = machine.system.theorems["cover"].body
    first = initial_state(caller_of(machine))
    assert first is not None
    seen, layer, depth = {key(first)}, [first], 0
    while all(machine.holds(s, claim) for s in layer):
        deeper = {key(after): after for s in layer for _, after in successors(machine, s)}
        layer = [after for k, after in deeper.items() if k not in seen]
        seen |= deeper.keys()
        depth += 1
        assert layer
    assert depth == 5


# Initial states and walks.


def test_initial_states_satisfy_the_formulas(gt: System, caller: Caller) -> None:
    for rng in (None, random.Random(1), random.Random(2)):
        state = initial_state(caller, rng)
        assert state is not None
        assert all(caller.value(state, c.body) for c in (*gt.inits, *gt.axioms))


def test_an_initial_state_may_not_exist(tmp_path: Path) -> None:
    path = tmp_path / "none.rules"
    path.write_text("""component c "Nothing."
sort Thing "a thing"
state on[Thing]: bool
init forall x: Thing. on[x]
init forall x: Thing. not on[x]
system c "Nothing."
    uses c
""")
    assert initial_state(Caller(ExecutableModel(load(str(path)), World({"Call": 1, "Thing": 2}, {})))) is None


def test_a_walk_is_determined_by_its_seed(gt: System) -> None:
    machine = ExecutableModel(gt, WIDE)
    first = walk(machine, 1, 20_000)
    assert first == walk(machine, 1, 20_000)
    assert first.taken + first.refused == 20_000
    assert first.taken == sum(first.fired.values())


def test_every_label_is_reached(gt: System) -> None:
    machine = ExecutableModel(gt, WIDE)
    for seed in (1, 2, 3):  # over one machine, whose compiled parts are shared by the searches
        assert reach(machine, seed, 20_000).labels == {t.label for s in gt.steps for t in s.transitions()}


def test_arguments_are_found_exactly_when_some_satisfy_the_guard(
    machine: ExecutableModel, caller: Caller, start: State
) -> None:
    rng = random.Random(5)
    for event in ATTACK:
        for t in caller.transitions:
            some = any(
                machine.can_fire(start, t.label, {p.name: i for p, i in zip(t.params, choice, strict=True)})
                for choice in machine.choices(t.label)
            )
            probe, _ = compiled_probe(caller, t, [t.guard], [])
            _, found = probe(start, rng.random)
            assert (found is not None) == some
            assert found is None or machine.can_fire(
                start, t.label, {p.name: v for p, v in zip(t.params, found, strict=True)}
            )
        caller.call(start, event.label, event.args)


def test_a_pick_called_as_a_variable_of_an_assignment_before_it(tmp_path: Path) -> None:
    """Each `for all` has its own variables: a later pick of the same name keeps its value."""
    path = tmp_path / "same_name.rules"
    path.write_text(
        'component c "c"\nsort T "t"\nstate p[T]: bool\nstate q[T]: bool\n'
        "internal op()\n    set p[w] = true for all w: T\n    pick w: T else E\n    set q[w] = true\n"
        'system y "y" uses c'
    )
    for size in (2, 200):  # expanded, and as a loop
        machine = ExecutableModel(load(str(path)), World({"Call": 1, "T": size}, {}))
        state = machine.empty_state()
        assert machine.fire(state, "op", {"w": 0})
        number = list(machine.system.funcs).index("q")
        assert state[number] == [1] + [0] * (size - 1)
