"""Weakest preconditions: translates a formula about both states of a step to one over the state before, by substitution.

`require next(A)` is a condition on the state after its own step; it is translated when the rules are read, so later stages
do not know it. The search for attacks on claims about steps translates these claims in the same way. Queries, the
executable model and the columns evaluate claims about steps directly, in two states.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping

from bulkhead.model.ir import FALSE, TRUE, App, Definition, Op, Quant, Term, Update, Use, Var, conj, eq

MAX_SIZE = 10_000  # parts of one condition, after expansion

Env = Mapping[str, Term]


class TooLarge(Exception):
    """The formula has too many parts after the substitution."""


def told_before(
    term: Term,
    updates: Iterable[Update],
    defs: Mapping[str, Definition],
    names: Env | None = None,
    most: int | None = None,
    later: bool = False,
) -> Term:
    """The term with its reads after the step replaced by the assigned values; with `later`, all its reads are after it.

    `names` gives variables a value. Raises `TooLarge` if there are more than `most` parts.
    """
    return _Before(updates, defs, most).term(term, names or {}, later)


class _Before:
    """Translates terms for one step."""

    def __init__(self, updates: Iterable[Update], defs: Mapping[str, Definition], most: int | None) -> None:
        self._defs, self._most = defs, most
        self._fresh, self._size = itertools.count(), itertools.count(1)
        self._updates: dict[str, list[Update]] = {}
        for update in updates:
            self._updates.setdefault(update.func, []).append(update)

    def term(self, term: Term, env: Env, later: bool = False) -> Term:
        """The term with `env` for its variables; with `later` it is read completely in the state after the step."""
        if self._most is not None and next(self._size) > self._most:
            raise TooLarge
        match term:
            case Var(name):
                return env.get(name, term)
            case App(func, args, sort, after):
                places = tuple([self.term(a, env, later) for a in args])
                return self._after(App(func, places, sort)) if after or later else App(func, places, sort)
            case Use(name, args, sort, after):
                places = tuple([self.term(a, env, later) for a in args])
                made = self._defs[name]
                if (after or later) and self._changed(made):
                    return self.term(made.body, {p.name: a for p, a in zip(made.params, places, strict=True)}, True)
                return Use(name, places, sort)
            case Op(op, args, sort):
                return Op(op, tuple([self.term(a, env, later) for a in args]), sort)
            case Quant(kind, vars_, body):
                bound = tuple(self._new(v) for v in vars_)
                inner = {**env, **{v.name: b for v, b in zip(vars_, bound, strict=True)}}
                return Quant(kind, bound, self.term(body, inner, later))
        return term

    def _new(self, var: Var) -> Var:
        """A variable with a fresh name, to avoid capture."""
        return Var(f"0{next(self._fresh)}_{var.name}", var.sort)

    def _changed(self, made: Definition) -> bool:
        """Does a definition read an assigned function, directly or through another definition?"""
        todo: list[Term] = [made.body]
        while todo:
            match todo.pop():
                case App(func, args):
                    if func in self._updates:
                        return True
                    todo += args
                case Use(name, args):
                    todo += [self._defs[name].body, *args]
                case Op(_, args):
                    todo += args
                case Quant(_, _, body):
                    todo.append(body)
        return False

    def _after(self, place: App) -> Term:
        """The value of a place after the step; its indices are terms over the state before."""
        value: Term = place
        for update in self._updates.get(place.func, ()):  # the last one is outermost and wins
            cond, new = self._assigned(update, place.args)
            value = new if cond == TRUE else value if cond == FALSE else Op("ite", (cond, new, value), place.sort)
        return value

    def _assigned(self, update: Update, args: tuple[Term, ...]) -> tuple[Term, Term]:
        """The condition under which an assignment writes a place, and the value."""
        bound = {v.name for v in update.binders}
        env: dict[str, Term] = {}
        tests: list[tuple[Term, Term]] = []
        for arg, index in zip(args, update.args, strict=True):
            if isinstance(index, Var) and index.name in bound and index.name not in env:
                env[index.name] = arg
            else:
                tests.append((arg, index))
        loose = [v for v in update.binders if v.name not in env]
        names = {v.name: self._new(v) for v in loose}
        inner: dict[str, Term] = {**env, **names}
        conds = [TRUE if arg == told else eq(arg, told) for arg, told in ((a, self.term(i, inner)) for a, i in tests)]
        conds.append(self.term(update.cond, inner))
        cond: Term = FALSE if FALSE in conds else conj(conds)
        if loose and cond not in (TRUE, FALSE):
            cond = Quant("exists", tuple(names.values()), cond)
        return cond, self.term(update.value, inner)


__all__ = ["MAX_SIZE", "TooLarge", "told_before"]
