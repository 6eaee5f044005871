"""Bounded model checking of a system in a small world by a SAT solver: each place of the state as one boolean per value.

A step is added after the other; what cannot happen yet, because a guard is false in every state so far, is left out as
constants are propagated (`gates.py`). It answers the questions of `bmc.py`, which asks Z3, and for whole systems takes a
tenth of its time or less. An attack counts only after the executable model has replayed it. Not here: how deep to
search, and in which worlds (`attack.py`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bulkhead.model.choices import in_world
from bulkhead.model.ir import (
    BOOL,
    App,
    Claim,
    Lit,
    Op,
    Quant,
    System,
    Term,
    Transition,
    Use,
    Var,
    free_variables,
)
from bulkhead.model.trace import Event, Trace
from bulkhead.model.world import World, size_of
from bulkhead.proofs.theorems.gates import NO, YES, Gates, Model, TooManyGates, Values, truth_of
from bulkhead.proofs.theorems.grounding import Grounding

EFFORT = 300_000  # conflicts for one question if nothing else is said
A_SECOND = 5_000  # conflicts, where a question has a limit of time: about as many are made in a second
TIGHTENINGS = 2_000  # questions to empty the first state
Env = dict[str, Values]
Key = tuple[object, ...]


@dataclass(frozen=True)
class _Taken:
    """The outcomes that one step may be: the literal of each, and the values of its parameters."""

    outcomes: tuple[tuple[int, Transition, Env], ...]
    goes_on: int = YES  # another step follows: so this one is none that changes nothing


class Unrolling:
    """One solver session over one world."""

    def __init__(self, system: System, two_state: bool, sizes: dict[str, int], limit: float = math.inf) -> None:
        """With `two_state`, the last step may also be a call that fails and changes nothing. `limit` is in seconds."""
        self.system, self.sizes = system, dict(sizes)
        self.gates = Gates()
        self.conflicts = EFFORT
        self.most = int(limit * A_SECOND) if math.isfinite(limit) else EFFORT
        self.depth = 0
        world = World(self.sizes, {})
        self._size = {sort: size_of(system, world, sort) for sort in (*system.sorts, *system.enums, BOOL)}
        self._member = {(sort, m): k for sort, members in system.enums.items() for k, m in enumerate(members)}
        self._number = {name: k for k, name in enumerate(system.funcs)}
        self._free: dict[int, tuple[Term, tuple[str, ...]]] = {}  # with the term, so that its id stays its own
        self._memo: list[dict[Key, int | Values]] = [{}]
        self._taken: list[_Taken] = []
        self._model = Model()
        self._asked: list[int] = []  # the literals of the last question that has a solution,
        self._shown = 0  # and its number of steps
        self.transitions = [
            in_world(system, world, t) for s in system.steps for t in (s.outcomes() if two_state else s.transitions())
        ]
        self._too_many = ""
        bodies = [c.body for c in (*system.inits, *system.axioms)]
        grounding = Grounding(system, world)
        _named_in_order(system, grounding)
        grounding.require(bodies)
        self._consts = {name: self.gates.choice(values) for name, values in grounding.consts.items()}
        self._states = [[[self.gates.choice(cell) for cell in table] for table in grounding.cells]]
        try:
            for body in bodies:
                self.gates.require([self._truth(body, 0, {})])
        except TooManyGates as error:
            self._too_many = str(error)

    # Questions.

    def effort(self, conflicts: int) -> None:
        """Bound the effort for each question from here on."""
        self.conflicts = conflicts

    def deepen(self) -> None:
        """Add one step, by any of the current transitions."""
        try:
            self._step()
        except TooManyGates as error:
            self._too_many = str(error)
            self._states.append(self._states[-1])
            self._taken.append(_Taken(()))
            self._memo.append({})
        self.depth += 1

    def answer(self, claims: Sequence[Claim], depth: int | None = None) -> str:
        """Can one of the claims be false after exactly `depth` steps? With `sat` a solution stays available for `decode`.

        `unknown` if the effort did not suffice, or the formula is too large. Without `depth`: after all steps so far.
        """
        n = self.depth if depth is None else depth
        if self._too_many:
            return "unknown"
        try:
            holds = self.gates.both([self._claimed(c, n) for c in claims])
        except TooManyGates:
            return "unknown"
        if holds == YES:
            return "unsat"
        on = [taken.goes_on for taken in self._taken[: max(n - 1, 0)]]
        verdict = self.gates.solve([-holds, *on], min(self.conflicts, self.most))
        if verdict == "sat":
            self._model, self._asked, self._shown = self.gates.model(), [-holds, *on], n
        if verdict == "unsat":
            self.gates.require([holds, *(-literal for literal in on)])
        return verdict

    def false_ones(self, claims: Sequence[Claim]) -> list[Claim]:
        """The claims that are false in the solution that stayed available."""
        return [c for c in claims if -self._claimed(c, self._shown) in self._model]

    def tighten(self) -> None:
        """Empty the first state as far as the violation allows: places get the first value of their sort, many at once."""
        assumed = list(self._asked)
        left = TIGHTENINGS
        open_places = [[c[0] for c in table if len(c) > 1 and 0 in c] for table in self._states[0]]
        for table in open_places:
            if table and left > 0:
                left -= 1
                if self._stays([*assumed, *table]):
                    assumed += table
                    continue
                for first in table:
                    if first in self._model:
                        assumed.append(first)
                    elif left > 0:
                        left -= 1
                        if self._stays([*assumed, first]):
                            assumed.append(first)

    def _stays(self, assumed: list[int]) -> bool:
        """Is there a solution with these literals, which then is the one at hand?"""
        if self.gates.solve(assumed, self.conflicts) != "sat":
            return False
        self._model = self.gates.model()
        return True

    def decode(self, faults: tuple[str, ...], claim: str) -> Trace:
        """The solution as a trace."""
        world = World(dict(self.sizes), {name: self._chosen(values) for name, values in self._consts.items()})
        initial = [[self._chosen(cell) for cell in table] for table in self._states[0]]
        events = []
        for taken in self._taken[: self._shown]:
            t, env = next((t, env) for literal, t, env in taken.outcomes if literal in self._model)
            events.append(Event(t.label, {p.name: self._chosen(env[p.name]) for p in t.params}))
        return Trace(self.system.name, faults, claim, world, initial, tuple(events))

    def _chosen(self, values: Values) -> int:
        return next(value for value, literal in values.items() if literal in self._model)

    def _claimed(self, claim: Claim, n: int) -> int:
        """The claim after n steps; a two-state claim is about the last of them."""
        if claim.kind != "transition":
            return self._truth(claim.body, n, {})
        if not n:
            return YES
        failed = self.gates.either([literal for literal, t, _ in self._taken[n - 1].outcomes if t.code])
        return self._truth(claim.body, n - 1, {"failed": truth_of(failed)})

    # Steps.

    def _step(self) -> None:
        gates, n = self.gates, self.depth
        slots: dict[tuple[str, int], Values] = {}  # arguments, shared by all outcomes, because one is taken
        possible: list[tuple[Transition, Env, int]] = []
        for t in self.transitions:
            used: dict[str, int] = {}
            env: Env = {}
            for p in t.params:
                k = used[p.sort] = used.get(p.sort, -1) + 1
                if (p.sort, k) not in slots:
                    slots[p.sort, k] = gates.choice(range(self._size[p.sort]))
                env[p.name] = slots[p.sort, k]
            if (guard := self._truth(t.guard, n, env)) != NO:
                possible.append((t, env, guard))
        outcomes: list[tuple[int, Transition, Env]] = []
        writes: dict[tuple[int, int], list[tuple[int, Values]]] = {}
        for t, env, guard in possible:
            literal = gates.fresh()
            gates.require([-literal, guard])
            outcomes.append((literal, t, env))
            for place, ways in self._written(t, n, env).items():
                writes.setdefault(place, []).extend((gates.both([literal, cond]), values) for cond, values in ways)
        gates.exactly_one([literal for literal, _, _ in outcomes])
        after = [list(table) for table in self._states[n]]
        for (table, at), ways in writes.items():
            stays = -gates.either([cond for cond, _ in ways])
            after[table][at] = gates.mixed([*ways, (stays, after[table][at])])
        self._states.append(after)
        self._memo.append({})
        goes_on = gates.fresh()
        for literal, t, _ in outcomes:
            if t.changes_nothing:
                gates.require([-goes_on, -literal])
        self._taken.append(_Taken(tuple(outcomes), goes_on))

    def _written(self, t: Transition, n: int, env: Env) -> dict[tuple[int, int], list[tuple[int, Values]]]:
        """For each place that an outcome may assign: values, with conditions that exclude each other. The later one wins."""
        gates = self.gates
        found: dict[tuple[int, int], list[tuple[int, Values]]] = {}
        for update in t.updates:
            table = self._number[update.func]
            for inner in self._bindings(update.binders, env):
                cond = self._truth(update.cond, n, inner)
                if cond == NO:
                    continue
                value = self._values(update.value, n, inner)
                for at, when in self._places(update.func, [self._values(a, n, inner) for a in update.args]):
                    found.setdefault((table, at), []).append((gates.both([cond, *when]), value))
        out: dict[tuple[int, int], list[tuple[int, Values]]] = {}
        for place, ways in found.items():
            later: list[int] = []
            for cond, value in reversed(ways):
                alone = gates.both([cond, *(-c for c in later)])
                later.append(cond)
                if alone != NO:
                    out.setdefault(place, []).append((alone, value))
        return out

    def _places(self, func: str, args: list[Values]) -> Iterator[tuple[int, list[int]]]:
        """The places that arguments may name, each with its conditions."""
        sizes = [self._size[sort] for sort in self.system.funcs[func].args]
        for choice in itertools.product(*(a.items() for a in args)):
            at = 0
            for (value, _), size in zip(choice, sizes, strict=True):
                at = at * size + value
            yield at, [when for _, when in choice]

    # Terms in the state after n steps.

    def _bindings(self, vars_: tuple[Var, ...], env: Env) -> Iterator[Env]:
        for choice in itertools.product(*(range(self._size[v.sort]) for v in vars_)):
            yield env | {v.name: {k: YES} for v, k in zip(vars_, choice, strict=True)}

    def _values(self, term: Term, n: int, env: Env) -> Values:
        """Each possible value of a term, with its literal."""
        match term:
            case Var(name):
                return env[name]
            case Lit(name) if name in self.system.consts:
                return self._consts[name]
            case Lit() if term.number is not None:
                return {term.number: YES}
            case Lit(name, sort) if sort != BOOL:
                return {self._member[sort, name]: YES}
            case App(func, args):
                return self._applied(func, [self._values(a, n, env) for a in args], n + term.next)
            case Use() if term.sort != BOOL:
                found = self._used(term, n, env)
                assert isinstance(found, dict)
                return found
            case Op("ite", (cond, then, other)):
                test = self._truth(cond, n, env)
                if test in (YES, NO):
                    return self._values(then if test == YES else other, n, env)
                return self.gates.mixed([(test, self._values(then, n, env)), (-test, self._values(other, n, env))])
        return truth_of(self._truth(term, n, env))

    def _applied(self, func: str, args: list[Values], n: int) -> Values:
        table = self._states[n][self._number[func]]
        if all(len(a) == 1 for a in args):
            return table[next(self._places(func, args))[0]]
        key: Key = (func, True, *(tuple(a.items()) for a in args))
        known = self._memo[n].get(key)
        if known is None:
            known = self.gates.mixed([(self.gates.both(when), table[at]) for at, when in self._places(func, args)])
            self._memo[n][key] = known
        assert isinstance(known, dict)
        return known

    def _used(self, term: Use, n: int, env: Env) -> int | Values:
        """A definition at some arguments."""
        args, at = [self._values(a, n, env) for a in term.args], n + term.next
        key: Key = (term.name, False, *(tuple(a.items()) for a in args))
        known = self._memo[at].get(key)
        if known is None:
            made = self.system.defs[term.name]
            inner = {p.name: a for p, a in zip(made.params, args, strict=True)}
            known = self._truth(made.body, at, inner) if term.sort == BOOL else self._values(made.body, at, inner)
            self._memo[at][key] = known
        return known

    def _truth(self, term: Term, n: int, env: Env) -> int:
        """The literal of a formula."""
        gates = self.gates
        match term:
            case Lit(name) if name not in self.system.consts:
                return YES if name == "true" else NO
            case Use():
                found = self._used(term, n, env)
                assert isinstance(found, int)
                return found
            case Op("not", (inner,)):
                return -self._truth(inner, n, env)
            case Op("=>", (left, right)):
                cond = self._truth(left, n, env)
                return YES if cond == NO else gates.either([-cond, self._truth(right, n, env)])
            case Op("and", args):
                return gates.both(_until(NO, (self._truth(a, n, env) for a in args)))
            case Op("or", args):
                return gates.either(_until(YES, (self._truth(a, n, env) for a in args)))
            case Op("=", (left, right)):
                a, b = self._values(left, n, env), self._values(right, n, env)
                return gates.either([gates.both([when, b[value]]) for value, when in a.items() if value in b])
            case Quant():
                return self._quantified(term, n, env)
        return self._values(term, n, env).get(1, NO)

    def _quantified(self, term: Quant, n: int, env: Env) -> int:
        if id(term) not in self._free:
            self._free[id(term)] = term, tuple(sorted(free_variables(term)))
        names = self._free[id(term)][1]
        key: Key = (id(term), *(tuple(env[name].items()) for name in names))
        known = self._memo[n].get(key)
        if known is None:
            parts = (self._truth(term.body, n, inner) for inner in self._bindings(term.vars, env))
            all_of_them = term.kind == "forall"
            known = self.gates.both(_until(NO, parts)) if all_of_them else self.gates.either(_until(YES, parts))
            self._memo[n][key] = known
        assert isinstance(known, int)
        return known


def _named_in_order(system: System, grounding: Grounding) -> None:
    """The first constant of a sort names its first element, the second one of the first two, ...: elements have no order."""
    before = dict.fromkeys(system.sorts, 0)
    for name, sort in system.consts.items():
        if sort in before:
            values = grounding.consts[name]
            for value in [v for v in values if v > before[sort]]:
                del values[value]
            if len(values) == 1:
                values[next(iter(values))] = True
            before[sort] += 1


def _until(end: int, parts: Iterator[int]) -> Iterator[int]:
    """The parts, up to the first that decides the result."""
    for part in parts:
        yield part
        if part == end:
            return


__all__ = ["EFFORT", "Unrolling"]
