"""A seeded, goal-directed search of the executable model: which transitions are reachable, and by which calls.

A random walk rarely satisfies a guard by chance (the right entry for the right peer under the right reference).
Here each transition not yet taken is a goal in turn, and the violation of a claim can be one. A goal's guard is evaluated
conjunct by conjunct; the next calls to try are those that write state which the first unsatisfied conjunct reads, or that
enable such a call. The search continues from the states that satisfy most of a goal's guard. Reached transitions are
certainly reachable: all states come from an initial state by transitions. A transition that is not reached within the
budget may still be reachable.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from bulkhead.model.caller import Caller, caller_of
from bulkhead.model.compile import code_name, compiled
from bulkhead.model.executable import ExecutableModel
from bulkhead.model.ir import App, Lit, Op, Quant, Term, Transition, Var, conj, conjuncts, eq, neg
from bulkhead.model.world import State
from bulkhead.proofs.theorems.guard_conjuncts import LOOPS, Wish, alternatives, compiled_probe, opened, reads, wish_of
from bulkhead.proofs.theorems.random_walk import initial_state

STARTS = 4  # initial states to start from
TRIALS = 25  # calls for one goal before the next goal's turn
WIDE = 4  # helpers examined for one goal before it is dropped for now
ELSEWHERE = 0.3  # probability of starting from an initial state instead of the closest state
ROUNDS, FAIR = 4, 0.9  # a search that reaches less restarts, but not more often than this
LED = 0.3  # probability of starting from where a helper has led, if reaching transitions is all that is wanted
FORGIVEN = 0.1  # probability of accepting a call that leads away from the goal


@dataclass(frozen=True)
class Reached:
    """`labels` were taken from an initial state; `calls` is the number of calls made."""

    labels: frozenset[str]
    calls: int


@dataclass(frozen=True)
class Path:
    """The predecessor of a state, and the transition taken there; an initial state has neither."""

    state: State
    before: Path | None = None
    label: str = ""
    args: tuple[int, ...] = ()

    def steps(self) -> list[tuple[str, tuple[int, ...]]]:
        """All transitions from the initial state on, with their arguments in the order of their parameters."""
        out: list[tuple[str, tuple[int, ...]]] = []
        path: Path | None = self
        while path is not None and path.before is not None:
            out.append((path.label, path.args))
            path = path.before
        return out[::-1]

    def start(self) -> State:
        """The initial state."""
        path = self
        while path.before is not None:
            path = path.before
        return path.state


@dataclass(frozen=True)
class _Goal:
    """A goal transition: `probe` gives the number of satisfied conjuncts, and arguments if all are satisfied."""

    transition: Transition
    probe: Callable[..., tuple[float, tuple[int, ...] | None]]
    effect: Callable[..., None]
    written: tuple[int, ...]  # the tables that the effect assigns
    any_helper: tuple[int, ...]
    helpers: tuple[tuple[int, ...], ...]  # for each conjunct, the transitions that write state which it reads


def reach(
    machine: ExecutableModel, seed: int, budget: int, starts: Sequence[State | Path] = (), known: Collection[str] = ()
) -> Reached:
    """Search until every transition was taken or `budget` calls were made. The same seed gives the same answer.

    A search that misses much because of bad early choices restarts with other choices and as many calls.
    `starts` are initial states, or paths from them; without them the executable model finds some itself. Transitions that
    are `known` to be reachable are no goals.
    """
    search, calls = _Search(machine, random.Random(f"{seed}, 0")), 0
    search.done.update(k for k, t in enumerate(search.transitions) if t.label in known)
    for again in range(1, ROUNDS + 1):
        search.run(budget, starts)
        calls += search.calls
        if len(search.done) >= FAIR * search.count or again == ROUNDS:
            break
        search.begin_again(random.Random(f"{seed}, {again}"))
    return Reached(frozenset(search.transitions[k].label for k in search.done).difference(known), calls)


def find(
    machine: ExecutableModel,
    wanted: Mapping[str, Term],
    seed: int,
    budget: int,
    starts: Sequence[State | Path] = (),
    steps: Mapping[str, Sequence[tuple[Transition, Transition]]] | None = None,
    broad: bool = False,
    enough: Collection[str] = (),
) -> dict[str, Path]:
    """Paths to states in which closed formulas are true; formulas not reached within the budget are missing.

    `steps` are claims about a step, each with outcomes and the conditions that they break it (`step_goals.py`); such a
    path ends with that step. The paths are not shortest ones. A `broad` search pursues every transition as much as these
    formulas. With one of those that are `enough` the search ends.
    """
    if not machine.transitions:
        return {}
    some = next(iter(machine.transitions.values())).step
    goals = []
    for name, body in wanted.items():
        names: tuple[Var, ...] = ()
        while isinstance(body, Quant) and body.kind == "exists":
            names, body = (*names, *body.vars), body.body
        goals += [_Wanted(name, Transition(name, some, names, way, (), "")) for way in alternatives(body)]
    for name, ways in (steps or {}).items():
        few = [(last, goal) for last, goal in ways if len(goal.params) <= LOOPS]
        goals += [_Wanted(name, replace(goal, guard=way), last) for last, goal in few for way in alternatives(goal.guard)]
    search = _Search(machine, random.Random(seed), goals, broad=broad, enough=enough)
    search.run(budget, starts)
    return search.found


@dataclass(frozen=True)
class _Wanted:
    """A goal that counts: its name, its condition, and the step to take then, if any."""

    name: str
    goal: Transition
    last: Transition | None = None


class _Search:
    """The goals, and the closest states found so far for each."""

    def __init__(
        self,
        machine: ExecutableModel,
        rng: random.Random,
        wanted: Sequence[_Wanted] = (),
        broad: bool = False,
        enough: Collection[str] = (),
    ) -> None:
        """`wanted` are further goals, and then the only ones that count; they are not transitions of the system.

        Unless the search is `broad`, every other turn is for a goal that counts. One of those that are `enough` ends it.
        """
        self.enough = enough
        self.narrow = bool(wanted) and not broad
        self.caller: Caller = caller_of(machine)
        known = [t for t in self.caller.transitions if len(t.params) <= LOOPS]  # of a choice for many places not even one
        self.transitions = [*known, *(w.goal for w in wanted)]
        self.wanted = {len(known) + k: w for k, w in enumerate(wanted)}
        self.count = len(self.transitions)  # goals after these are variants of transitions that must assign some value
        self.found: dict[str, Path] = {}
        self.writers: dict[str, list[int]] = {}
        for k, t in enumerate(self.transitions):
            for name in {u.func for u in t.updates}:
                self.writers.setdefault(name, []).append(k)
        self.number = list(range(self.count))  # index of each goal's transition
        self.made_to: dict[tuple[int, Wish], int] = {}
        self.effects: dict[int, Callable[..., None]] = {}  # of transitions
        self.goals: dict[int, _Goal] = {}  # made when they are first looked at: compiling them takes most of a short search
        self.readers: list[list[int]] = [[] for _ in self.caller.coder.number]  # of each table
        for k, t in enumerate(self.transitions[: self.count]):
            for name in reads(t.guard, self.caller):
                self.readers[self.caller.coder.number[name]].append(k)
        self.done: set[int] = set()
        self.begin_again(rng)

    def begin_again(self, rng: random.Random) -> None:
        """Forget all states, but not which goals were reached."""
        self.rng = rng
        self.taken = [0] * len(self.transitions)
        self.best: list[list[tuple[float, Path]]] = [[] for _ in range(self.count)]
        self.starts: list[Path] = []
        self.calls = 0
        self.after: dict[int, Path] = {}  # of transitions, the state after their last execution

    def _goal(self, k: int) -> _Goal:
        if k not in self.goals:
            self.goals[k] = self._made_goal(self.transitions[k], self.number[k])
        return self.goals[k]

    def _made_goal(self, t: Transition, number: int) -> _Goal:
        some: list[Var] = []
        parts = [p for c in conjuncts(t.guard) for p in opened(c, self.caller, some, LOOPS - len(t.params))]
        probe, order = compiled_probe(self.caller, t, parts, some)
        if number not in self.effects:
            params = ", ".join(["S", *(code_name(p.name) for p in t.params)])
            coder = self.caller.coder
            self.effects[number] = compiled("effect", params, coder.with_tables([*coder.effect(t.updates), "return"]))
        helpers = tuple(tuple(self._helpers(part)) for part in order)
        written = tuple({self.caller.coder.number[u.func] for u in t.updates})
        every = tuple(h for hs in helpers for h in hs)
        return _Goal(t, probe, self.effects[number], written, every, helpers)

    def _helpers(self, part: Term) -> list[int]:
        """The transitions that may make a conjunct true; successes count twice. Of a disjunction, one of its parts."""
        match part:
            case Op("or", parts) if any(wish_of(p) is not None for p in parts):
                return [h for p in parts for h in self._helpers(p)]
            case Op("=>", (left, right)) if wish_of(right) is not None:
                return [*self._helpers(neg(left)), *self._helpers(right)]
        wanted = wish_of(part)
        found: list[int] = []
        for name in sorted(reads(part, self.caller)):
            for k in self.writers.get(name, ()):
                helper = k if wanted is None or wanted.func != name else self._made_to(k, wanted)
                if helper is not None:
                    found += [helper] if self.transitions[k].code else [helper, helper]
        return found

    def _made_to(self, k: int, wanted: Wish) -> int | None:
        """A variant of transition `k` that assigns the wanted value; None if it never does."""
        t = self.transitions[k]
        values = [u for u in t.updates if u.func == wanted.func]
        known = next((u for u in values if isinstance(u.value, Lit) and wanted.by(u.value)), None)
        open_ones = [u for u in values if not isinstance(u.value, Lit)]
        chosen = known or (open_ones[0] if open_ones else None)
        if chosen is None:
            return None
        if chosen.binders or (known and not wanted.every):
            return k
        if (k, wanted) not in self.made_to:
            told = [] if known else [_is(chosen.value, wanted)]
            place = App(chosen.func, chosen.args, chosen.value.sort)
            news = [neg(_is(place, wanted))] if wanted.every else []
            self.made_to[k, wanted] = len(self.transitions)
            self.transitions.append(replace(t, guard=conj([*news, t.guard, *told])))
            self.number.append(k)
            self.taken.append(0)
        return self.made_to[k, wanted]

    # Searching.

    def run(self, budget: int, starts: Sequence[State | Path]) -> None:
        """Continue until all goals (or the one that counts) are reached, or the budget is spent."""
        states = list(starts)
        if not states:
            tries = [initial_state(self.caller), *(initial_state(self.caller, self.rng) for _ in range(STARTS - 1))]
            states = [s for s in tries if s is not None]
        self.starts = [s if isinstance(s, Path) else Path(s) for s in states]
        for path in self.starts:
            self._saw(path)
        while self.starts and self.calls < budget:
            goals = [k for k in range(self.count) if k not in self.done]
            counting = [k for k in goals if k in self.wanted] if self.wanted else goals
            if not counting or any(name in self.enough for name in self.found):
                return
            if self.narrow:  # every other turn is for a goal that counts
                goals = [g for n, k in enumerate(goals) for g in (k, counting[n % len(counting)])]
            for k in goals:
                if k not in self.done and self.calls < budget:
                    self._pursue(k)

    def _take(self, k: int, path: Path, args: tuple[int, ...]) -> Path:
        """The state after transition `k`; after its first execution, the new state is examined.

        A wanted goal is not a transition and does not change the state.
        """
        made, first = self._made(k, path, args)
        if first:
            self._saw(made, self._goal(k).written)
        return made

    def _made(self, k: int, path: Path, args: tuple[int, ...]) -> tuple[Path, bool]:
        """The state after transition `k`, and whether this is its first execution."""
        if k in self.wanted:
            name, last = self.wanted[k].name, self.wanted[k].last
            self.found.setdefault(name, path if last is None else self._last(last, path, args))
            self.done.update(n for n, w in self.wanted.items() if w.name == name)
            return path, False
        goal = self._goal(k)
        after = list(path.state)  # states are immutable, so tables that a step does not change are shared
        for table in goal.written:
            after[table] = after[table].copy()
        goal.effect(after, *args)
        self.taken[k] += 1
        made = Path(after, path, self.transitions[k].label, args)
        self.after[self.number[k]] = made
        self.calls += 1
        first = self.number[k] not in self.done
        self.done.add(self.number[k])
        return made, first

    def _last(self, last: Transition, path: Path, args: tuple[int, ...]) -> Path:
        """The path, extended by the step (also a failing one) that breaks a claim about steps."""
        given = args[: len(last.params)]  # the remaining arguments are the elements for which the claim fails
        after = [list(table) for table in path.state]
        if not self.caller.machine.fire(after, last.label, dict(zip([p.name for p in last.params], given, strict=True))):
            raise AssertionError(f"`{last.label}` is taken for possible where it is not")
        return Path(after, path, last.label, given)

    def _saw(self, path: Path, written: Iterable[int] | None = None) -> None:
        """Take the transitions that are first enabled in a state, and keep the state for the goals it is closest to.

        New states are examined first. If a state differs only in the `written` tables from an examined one,
        goals that read none of them are skipped: nothing has changed for them.
        """
        looks = [(path, iter(self._goals_reading(written)))]
        while looks:
            path, goals = looks[-1]
            for k in goals:
                if k in self.done:
                    continue
                depth, args = self._goal(k).probe(path.state, self.rng.random)
                if args is None:
                    self._keep(k, depth, path)
                    continue
                made, first = self._made(k, path, args)
                if first:
                    looks.append((made, iter(self._goals_reading(self._goal(k).written))))
                    break
            else:
                looks.pop()

    def _goals_reading(self, tables: Iterable[int] | None) -> Iterable[int]:
        """The goals that count whose guards read one of these tables, or all."""
        return range(self.count) if tables is None else sorted({k for t in tables for k in self.readers[t]})

    def _keep(self, k: int, depth: float, path: Path) -> None:
        kept = self.best[k]
        if kept and depth < kept[0][0]:
            return
        if kept and depth > kept[0][0]:
            kept.clear()
        if len(kept) < STARTS:
            kept.append((depth, path))
        else:
            kept[self.rng.randrange(STARTS)] = (depth, path)

    def _pursue(self, k: int) -> None:
        """A series of calls chosen for one goal."""
        path = self._begin(k)
        depth, _ = self._goal(k).probe(path.state, self.rng.random)
        written: set[int] = set()  # since the last examined state
        for _ in range(TRIALS):
            chosen = self._step_towards(k, path.state)
            self.calls += 1
            if chosen is None:
                return
            after = self._take(chosen[0], path, chosen[1])
            now, found = self._goal(k).probe(after.state, self.rng.random)
            if found is not None:
                self._take(k, after, found)
                return
            since = written.union(self._goal(chosen[0]).written)
            if now > depth:
                self._saw(after, since)
                since = set()
            if now >= depth or self.rng.random() < FORGIVEN:
                path, depth, written = after, now, since

    def _begin(self, k: int) -> Path:
        """A state to pursue a goal from: one of the closest, an initial one, or one to which a helper of it has led.

        The last is for what takes many calls of one kind after another, which the first unsatisfied conjunct does not count.
        """
        if self.rng.random() <= ELSEWHERE:
            return self.rng.choice(self.starts)
        depth, path = self.rng.choice(self.best[k])
        if not self.wanted and self.rng.random() < LED:
            helpers = [h for h in self._goal(k).helpers[int(depth)] if self.number[h] in self.after]
            if helpers:
                return self.after[self.number[self.rng.choice(helpers)]]
        return path

    def _step_towards(self, k: int, state: State) -> tuple[int, tuple[int, ...]] | None:
        """An enabled transition that may bring goal `k` closer, directly or by enabling a helper."""
        asked: set[int] = set()
        ways: list[tuple[tuple[int, ...], Iterator[int]]] = []  # helpers, with their remaining trials
        goal: int | None = k
        while True:
            if goal is not None and goal not in asked:
                asked.add(goal)
                depth, args = self._goal(goal).probe(state, self.rng.random)
                if args is not None:
                    return goal, args
                # State that nothing writes stays unchanged; then other arguments must be enabled.
                helpers = self._goal(goal).helpers[int(depth)] or self._goal(goal).any_helper
                ways.append((helpers, iter(range(min(len(helpers), WIDE)))))
            while ways and next(ways[-1][1], None) is None:
                ways.pop()
            if not ways:
                return None
            helpers = ways[-1][0]
            # With few goals, prefer rarely taken transitions; if all are goals, each has its turn anyway.
            if self.narrow:
                goal = min(self.rng.choices(helpers, k=3), key=self.taken.__getitem__)
            else:
                goal = helpers[int(self.rng.random() * len(helpers))]


def _is(term: Term, wanted: Wish) -> Term:
    """The term has the wanted value."""
    same = eq(term, wanted.value)
    return same if wanted.equal else neg(same)


__all__ = ["Path", "Reached", "find", "reach"]
