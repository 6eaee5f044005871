"""What can be reached from an initial state, and how: a seeded, goal-directed search of the executable model.

A random walk seldom does by chance what a rule needs (the right entry for the right peer under the right reference).
Here each transition not yet taken is a goal in turn, and so can be the violation of a claim. A goal's guard is asked
conjunct by conjunct, and the calls tried next are those that write what the first unsatisfied conjunct reads, or that
make such a call possible. A state that satisfies more of a goal's guard is kept as the place to go on from. What is
reached is reached: the states are made by taking transitions from an initial state. What is not reached within the
budget may still be reachable.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from model.compile import compiled, free_variables, joined
from model.ir import BOOL, App, Lit, Op, Quant, Term, Transition, Use, Var, conj, eq, neg, subterms
from model.machine import Machine
from model.walk import Caller, caller_of
from model.world import State

STARTS = 4  # initial states to begin from
TRIALS = 60  # calls tried for one goal before the next goal has its turn
WIDE = 4  # helpers looked at for one goal before it is given up for now
ELSEWHERE = 0.3  # how often a goal is pursued from an initial state and not from where it came closest
ROUNDS, FAIR = 4, 0.9  # a search that reaches less is begun anew, but not more often than this
FORGIVEN = 0.1  # how often a call that takes the goal further away is kept all the same


@dataclass(frozen=True)
class Reached:
    """`labels` were taken from an initial state; `calls` is how many calls were made to find that out."""

    labels: frozenset[str]
    calls: int


@dataclass(frozen=True)
class Path:
    """How a state was reached: the state before, and the transition taken there; an initial state has neither."""

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
    """A transition and how to get there: `probe` gives how many conjuncts hold, and arguments when all do."""

    transition: Transition
    probe: Callable[..., tuple[int, tuple[int, ...] | None]]
    effect: Callable[..., None]
    written: tuple[int, ...]  # the tables that the effect assigns
    any_helper: tuple[int, ...]
    helpers: tuple[tuple[int, ...], ...]  # for each conjunct, the transitions that write what it reads


def reach(machine: Machine, seed: int, budget: int, starts: Sequence[State] = ()) -> Reached:
    """Search until every transition was taken or `budget` calls were made. The same seed gives the same answer.

    A search that goes astray early, and so leaves out much, is begun anew with other choices and as many calls.
    `starts` are initial states to begin from; without them the executable model looks for some itself.
    """
    done, calls = frozenset[int](), 0
    for again in range(ROUNDS):
        search = _Search(machine, random.Random(f"{seed}, {again}"), done=done)
        search.run(budget, starts)
        done, calls = frozenset(search.done), calls + search.calls
        if len(done) >= FAIR * search.count:
            break
    return Reached(frozenset(search.transitions[k].label for k in done), calls)


def find(machine: Machine, wanted: Mapping[str, Term], seed: int, budget: int,
         starts: Sequence[State] = ()) -> dict[str, Path]:
    """Ways to states in which closed formulas are true; those not found before the budget is spent are missing.

    They are not the shortest ways.
    """
    if not machine.transitions:
        return {}
    some = next(iter(machine.transitions.values())).step
    goals = []
    for name, body in wanted.items():
        names: tuple[Var, ...] = ()
        while isinstance(body, Quant) and body.kind == "exists":
            names, body = (*names, *body.vars), body.body
        goals.append(Transition(name, some, names, body, (), ""))
    search = _Search(machine, random.Random(seed), goals)
    search.run(budget, starts)
    return {search.transitions[k].label: path for k, path in search.found.items()}


class _Search:
    """The goals, and the states found so far that come closest to each."""

    def __init__(self, machine: Machine, rng: random.Random, wanted: Sequence[Transition] = (),
                 done: Iterable[int] = ()) -> None:
        """`wanted` are further goals, and then the only ones that count; they are no transitions of the system.

        `done` are goals reached already.
        """
        self.rng = rng
        self.caller: Caller = caller_of(machine)
        self.transitions = [*self.caller.transitions, *wanted]
        self.wanted = frozenset(range(len(self.caller.transitions), len(self.transitions)))
        self.count = len(self.transitions)  # what comes after these is a transition once more, made to assign some value
        self.found: dict[int, Path] = {}
        self.writers: dict[str, list[int]] = {}
        for k, t in enumerate(self.transitions):
            for name in {u.func for u in t.updates}:
                self.writers.setdefault(name, []).append(k)
        self.number = list(range(self.count))  # of the transition that each goal is
        self.taken = [0] * self.count
        self.made_to: dict[tuple[int, _Wish], int] = {}
        self.effects: dict[int, Callable[..., None]] = {}  # of transitions
        self.goals: list[_Goal] = []
        while len(self.goals) < len(self.transitions):  # one goal may ask for more of them
            k = len(self.goals)
            self.goals.append(self._goal(self.transitions[k], self.number[k]))
        self.best: list[list[tuple[int, Path]]] = [[] for _ in range(self.count)]
        self.starts: list[Path] = []
        self.done = set(done)
        self.calls = 0

    def _goal(self, t: Transition, number: int) -> _Goal:
        some: list[Var] = []
        parts = [p for c in _conjuncts(t.guard) for p in _opened(c, self.caller, some)]
        probe, order = compiled_probe(self.caller, t, parts, some)
        if number not in self.effects:
            params = ", ".join(["S", *(f"v_{p.name}" for p in t.params)])
            coder = self.caller.coder
            self.effects[number] = compiled("effect", params, [coder.header(), *coder.effect(t.updates)])
        helpers = tuple(tuple(self._helpers(part)) for part in order)
        written = tuple({self.caller.coder.number[u.func] for u in t.updates})
        every = tuple(h for hs in helpers for h in hs)
        return _Goal(t, probe, self.effects[number], written, every, helpers)

    def _helpers(self, part: Term) -> list[int]:
        """The transitions that may make a conjunct true; successes count twice."""
        wanted = _wanted(part)
        found: list[int] = []
        for name in sorted(_reads(part, self.caller)):
            for k in self.writers.get(name, ()):
                helper = k if wanted is None or wanted.func != name else self._made_to(k, wanted)
                if helper is not None:
                    found += [helper] if self.transitions[k].code else [helper, helper]
        return found

    def _made_to(self, k: int, wanted: _Wish) -> int | None:
        """Transition `k` where it assigns what is wanted; None if it never does."""
        t = self.transitions[k]
        values = [u for u in t.updates if u.func == wanted.func]
        if any(isinstance(u.value, Lit) and wanted.by(u.value) for u in values):
            return k
        values = [u for u in values if not isinstance(u.value, Lit)]
        if not values or values[0].binders or k in self.wanted:
            return k if values else None
        if (k, wanted) not in self.made_to:
            same = eq(values[0].value, wanted.value)
            self.made_to[k, wanted] = len(self.transitions)
            self.transitions.append(replace(t, guard=conj([t.guard, same if wanted.equal else neg(same)])))
            self.number.append(k)
            self.taken.append(0)
        return self.made_to[k, wanted]

    # Searching.

    def run(self, budget: int, starts: Sequence[State]) -> None:
        """Go on until all goals (or the one that counts) are reached, or the budget is spent."""
        states = list(starts)
        if not states:
            tries = [self.caller.initial_state(), *(self.caller.initial_state(self.rng) for _ in range(STARTS - 1))]
            states = [s for s in tries if s is not None]
        self.starts = [Path(s) for s in states]
        for path in self.starts:
            self._saw(path)
        while self.starts and self.calls < budget:
            goals = [k for k in range(self.count) if k not in self.done]
            counting = [k for k in goals if k in self.wanted] if self.wanted else goals
            if not counting:
                return
            if self.wanted:  # every other turn is for a goal that counts
                goals = [g for n, k in enumerate(goals) for g in (k, counting[n % len(counting)])]
            for k in goals:
                if k not in self.done and self.calls < budget:
                    self._pursue(k)

    def _take(self, k: int, path: Path, args: tuple[int, ...]) -> Path:
        """The state after transition `k`; a wanted goal is no transition and leaves the state as it is."""
        if k in self.wanted:
            self.found.setdefault(k, path)
            self.done.add(k)
            return path
        goal = self.goals[k]
        after = list(path.state)  # no state is changed once it is made, so what a step leaves alone is shared
        for table in goal.written:
            after[table] = after[table].copy()
        goal.effect(after, *args)
        self.taken[k] += 1
        made = Path(after, path, self.transitions[k].label, args)
        self.calls += 1
        if self.number[k] not in self.done:
            self.done.add(self.number[k])
            self._saw(made)
        return made

    def _saw(self, path: Path) -> None:
        """Take what can be taken for the first time in a state, and keep the state for the goals it serves best."""
        for k, goal in enumerate(self.goals[:self.count]):
            if k in self.done:
                continue
            depth, args = goal.probe(path.state, self.rng.random)
            if args is not None:
                self._take(k, path, args)
            else:
                self._keep(k, depth, path)

    def _keep(self, k: int, depth: int, path: Path) -> None:
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
        """A while of calls chosen for one goal."""
        path = self.rng.choice(self.best[k])[1] if self.rng.random() > ELSEWHERE else self.rng.choice(self.starts)
        depth, _ = self.goals[k].probe(path.state, self.rng.random)
        for _ in range(TRIALS):
            chosen = self._step_towards(k, path.state, set())
            self.calls += 1
            if chosen is None:
                return
            after = self._take(chosen[0], path, chosen[1])
            now, found = self.goals[k].probe(after.state, self.rng.random)
            if found is not None:
                self._take(k, after, found)
                return
            if now > depth:
                self._saw(after)
            if now >= depth or self.rng.random() < FORGIVEN:
                path, depth = after, now

    def _step_towards(self, k: int, state: State, asked: set[int]) -> tuple[int, tuple[int, ...]] | None:
        """A transition that can be taken now and that may bring goal `k` nearer, directly or as the way to a helper.

        `asked` are the goals that this has looked at already.
        """
        asked.add(k)
        depth, args = self.goals[k].probe(state, self.rng.random)
        if args is not None:
            return k, args
        # What nothing writes will stay as it is; then another choice of arguments has to be made possible.
        helpers = self.goals[k].helpers[depth] or self.goals[k].any_helper
        for _ in range(min(len(helpers), WIDE)):
            # For a few goals the seldom taken is worth more; where all are goals each has its turn anyway.
            if self.wanted:
                helper = min(self.rng.choices(helpers, k=3), key=self.taken.__getitem__)
            else:
                helper = helpers[int(self.rng.random() * len(helpers))]
            found = None if helper in asked else self._step_towards(helper, state, asked)
            if found is not None:
                return found
        return None


# Guards, conjunct by conjunct.


def _conjuncts(term: Term) -> list[Term]:
    match term:
        case Op("and", args):
            return [p for a in args for p in _conjuncts(a)]
        case Op("not", (Op("=>", (left, right)),)):
            return [*_conjuncts(left), *_conjuncts(neg(right))]
        case Op("not", (Op("or", args),)):
            return [p for a in args for p in _conjuncts(neg(a))]
        case Op("not", (Op("not", (inner,)),)):
            return _conjuncts(inner)
    return [term]


def _opened(part: Term, caller: Caller, some: list[Var]) -> list[Term]:
    """A conjunct taken apart: a definition into what it says, and what exists into what is said of it.

    That is said of a variable which is added to `some`, under a name that no rule can have.
    """
    used = part.args[0] if isinstance(part, Op) and part.op == "not" else part
    if isinstance(part, Quant) and part.kind == "exists":
        names: dict[str, Term] = {}
        for v in part.vars:
            some.append(Var(f"{len(some)}{v.name}", v.sort))
            names[v.name] = some[-1]
        inside = _conjuncts(part.body)
    elif isinstance(used, Use):
        made = caller.machine.system.defs[used.name]
        inside = _conjuncts(made.body if used is part else neg(made.body))
        if len(inside) == 1 and _wanted(inside[0]) is None and not isinstance(inside[0], Quant):
            return [part]
        names = {p.name: a for p, a in zip(made.params, used.args, strict=True)}
    else:
        return [part]
    bound = {v.name for p in inside for t in subterms(p) if isinstance(t, Quant) for v in t.vars}
    if any(bound & free_variables(a) for a in names.values()):
        return [part]
    return [o for p in inside for o in _opened(_replaced(p, names), caller, some)]


def _replaced(term: Term, names: dict[str, Term]) -> Term:
    match term:
        case Var(name):
            return names.get(name, term)
        case App(func, args):
            return App(func, tuple(_replaced(a, names) for a in args), term.sort, term.next)
        case Use(name, args):
            return Use(name, tuple(_replaced(a, names) for a in args), term.sort, term.next)
        case Op(op, args):
            return Op(op, tuple(_replaced(a, names) for a in args), term.sort)
        case Quant(kind, vars_, body):
            inner = {n: t for n, t in names.items() if n not in {v.name for v in vars_}}
            return Quant(kind, vars_, _replaced(body, inner))
    return term


def _reads(term: Term, caller: Caller) -> set[str]:
    found: set[str] = set()
    for t in subterms(term):
        if isinstance(t, App):
            found.add(t.func)
        elif isinstance(t, Use):
            found |= _reads(caller.machine.system.defs[t.name].body, caller)
    return found


@dataclass(frozen=True)
class _Wish:
    """A plain conjunct: a state function has, or has not, a value."""

    func: str
    value: Lit
    equal: bool

    def by(self, value: Lit) -> bool:
        """Does assigning the value serve it?"""
        return (value == self.value) == self.equal


def _wanted(part: Term) -> _Wish | None:
    """The state function that a plain conjunct is about, and the value that it asks of it."""
    match part:
        case App(func):
            return _Wish(func, Lit("true", BOOL), True)
        case Op("=", (App(func), Lit() as value)) | Op("=", (Lit() as value, App(func))):
            return _Wish(func, value, True)
        case Op("not", (Quant("exists", _, inner),)) | Op("not", (inner,)):
            asked = _wanted(inner)
            return asked and replace(asked, equal=not asked.equal)
    return None


def compiled_probe(caller: Caller, t: Transition, parts: list[Term], some: list[Var]) \
        -> tuple[Callable[..., tuple[int, tuple[int, ...] | None]], list[Term]]:
    """Nested loops over the parameters and `some`, each conjunct of a guard asked as soon as what it speaks of is chosen.

    Gives the compiled probe, and the conjuncts in the order in which it asks them.
    """
    coder = caller.coder
    left, order = [*t.params, *some], list[Var]()
    free = [free_variables(p) for p in parts]
    while left:
        chosen = {v.name for v in order}
        left.sort(key=lambda v: -sum(v.name in f and f <= chosen | {v.name} for f in free))
        order.append(left.pop(0))
    lines, pad, known = [coder.header(), "best = 0"], "", set[str]()
    asked: list[Term] = []
    todo = list(zip(free, parts, strict=True))
    for var in (None, *order):
        if var is not None:
            size = coder.size(var)
            lines += [f"{pad}o_{var.name} = int(rnd() * {size})",
                      f"{pad}for v_{var.name} in (*range(o_{var.name}, {size}), *range(o_{var.name})):"]
            known.add(var.name)
            pad += "    "
        for f, part in [(f, p) for f, p in todo if f <= known]:
            test = joined("and", [coder.truth(part, {})])
            if test != "True":
                lines += [f"{pad}if {test}:", f"{pad}    if best < {len(asked) + 1}: best = {len(asked) + 1}"]
                asked.append(part)
                pad += "    "
        todo = [(f, p) for f, p in todo if not f <= known]
    lines.append(f"{pad}return best, ({''.join(f'v_{p.name}, ' for p in t.params)})")
    lines.append("return best, None")
    return compiled("probe", "S, rnd", lines), [*asked, Lit("true", BOOL)]


__all__ = ["Path", "Reached", "compiled_probe", "find", "reach"]
