"""What a formula says of the state after a step, told of the state before it: the assignments of the step are put in.

`require next(A)` is a condition on the state after the step in which it stands. Here it becomes a formula without `next`,
so that nothing behind the checked form knows of it. Claims about steps are not made so: each engine reads them as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bulkhead.model.ir import TRUE, App, Definition, Op, Quant, Term, Update, Use, Var, conj, eq, free_variables
from bulkhead.model.narrow import after

MAX_SIZE = 10_000  # parts of one condition, written out


class TooLarge(Exception):
    """The condition has too many parts when the assignments are put in."""


def told_before(term: Term, updates: Iterable[Update], defs: Mapping[str, Definition]) -> Term:
    """The term with what it reads after the step replaced by what the assignments make of the state before.

    Raises `TooLarge`.
    """
    return _After(tuple(updates), defs).told(term, {})


class _After:
    def __init__(self, updates: tuple[Update, ...], defs: Mapping[str, Definition]) -> None:
        self.updates, self.defs = updates, defs
        self.taken = {n for u in updates for t in (*u.args, u.value, u.cond) for n in free_variables(t)}
        self.taken |= {v.name for u in updates for v in u.binders}
        self.size = 0

    def told(self, term: Term, names: Mapping[str, Term]) -> Term:
        """The term, with values for some variables; a bound variable that would capture one is renamed."""
        self.size += 1
        if self.size > MAX_SIZE:
            raise TooLarge
        match term:
            case Var(name):
                return names.get(name, term)
            case App(func, args):
                given = tuple([self.told(a, names) for a in args])
                return self._read(func, given, term.sort) if term.next else App(func, given, term.sort)
            case Use(name, args):
                given = tuple([self.told(a, names) for a in args])
                if not term.next:
                    return Use(name, given, term.sort)
                made = self.defs[name]
                return self.told(after(made.body), {p.name: a for p, a in zip(made.params, given, strict=True)})
            case Op(op, args):
                return Op(op, tuple([self.told(a, names) for a in args]), term.sort)
            case Quant(kind, vars_, body):
                bound = tuple(self._fresh(v, names) for v in vars_)
                inner = {**names, **{v.name: b for v, b in zip(vars_, bound, strict=True)}}
                return Quant(kind, bound, self.told(body, inner))
        return term

    def _fresh(self, var: Var, names: Mapping[str, Term]) -> Var:
        """The variable under a name that neither the assignments nor the values at hand speak of."""
        taken = self.taken | {n for t in names.values() for n in free_variables(t)}
        name = var.name
        while name in taken:
            name += "_"
        return Var(name, var.sort)

    def _read(self, func: str, args: tuple[Term, ...], sort: str) -> Term:
        """A state function after the step, at arguments that are read before it."""
        value: Term = App(func, args, sort)
        for update in self.updates:  # the last one stands outermost and wins
            if update.func != func:
                continue
            bound = {v.name for v in update.binders}
            env: dict[str, Term] = {}
            tests: list[tuple[Term, Term]] = []
            for arg, at in zip(args, update.args, strict=True):
                if isinstance(at, Var) and at.name in bound and at.name not in env:
                    env[at.name] = arg
                else:
                    tests.append((arg, at))
            free = {n for a in args for n in free_variables(a)}
            loose: list[Var] = []
            for v in update.binders:
                if v.name not in env:  # the place speaks of variables around it: do not capture them
                    name = v.name
                    while name in free or (name != v.name and name in self.taken):
                        name += "_"
                    free.add(name)
                    loose.append(Var(name, v.sort))
                    env[v.name] = loose[-1]
            conds = [eq(arg, told) for arg, told in ((a, self.told(at, env)) for a, at in tests) if arg != told]
            cond = conj([*conds, self.told(update.cond, env)])
            if loose:
                cond = Quant("exists", tuple(loose), cond)
            new = self.told(update.value, env)
            value = new if cond == TRUE else Op("ite", (cond, new, value), sort)
        return value


__all__ = ["TooLarge", "told_before"]
